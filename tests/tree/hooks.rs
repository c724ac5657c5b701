//! Notifications about a host: to programs and web servers, once, without secrets, and without an effect on the run.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use kpull::net::server::{Answer, Received, Server};
use serde_json::Value;

use crate::support::site::{Site, Tree};

/// A host with one file, `/etc/a`, and these hooks. `LOG` in them is a file beside it.
fn host(hooks: &str) -> (Site, Tree) {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n");
    site.role("base", "[[file]]\npath = \"/etc/a\"\ncontent = \"x\\n\"\n");
    let tree = site.sign().enroll();
    configure(&site, &tree, hooks);
    (site, tree)
}

fn configure(site: &Site, tree: &Tree, hooks: &str) {
    let hooks = hooks.replace("LOG", tree.at("log").to_str().unwrap());
    tree.configure(&format!("[[source]]\ndir = {:?}\n{hooks}", site.path()));
}

/// The notifications since the last call, one object a line.
fn notices(tree: &Tree) -> Vec<Value> {
    let text = fs::read_to_string(tree.at("log")).unwrap_or_default();
    let _ = fs::remove_file(tree.at("log"));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn events(tree: &Tree) -> Vec<String> {
    notices(tree).iter().map(|notices| notices["event"].as_str().unwrap().to_owned()).collect()
}

/// Appends its input to a file, one line for each.
const APPEND: &str = "command = [\"sh\", \"-c\", \"cat >> LOG; echo >> LOG\"]\n";

#[test]
fn a_hook_program_gets_changes_each_new_failure_once_and_the_recovery() {
    let (site, tree) = host(&format!("[[hook]]\non = [\"failure\", \"change\", \"recovery\"]\n{APPEND}"));
    tree.kpull("apply").exits(0);
    let first = notices(&tree).remove(0);
    assert_eq!((&first["event"], &first["host"], &first["site"]), (&"change".into(), &"h1".into(), &"test".into()));
    assert_eq!(
        (&first["changed"][0], &first["changes"], &first["release"]),
        (&"file:/etc/a".into(), &1.into(), &1.into())
    );
    assert_eq!((&first["version"], &first["exit"], &first["error"]), (&2.into(), &0.into(), &Value::Null));
    tree.kpull("apply").exits(0);
    assert!(notices(&tree).is_empty());
    let signature = fs::read(site.path().join("release.toml.sig")).unwrap();
    fs::remove_file(site.path().join("release.toml.sig")).unwrap();
    let code = tree.kpull("apply").code;
    let failure = notices(&tree).remove(0);
    assert_eq!((&failure["event"], &failure["exit"]), (&"failure".into(), &code.into()));
    assert!(failure["error"].as_str().unwrap().contains("release.toml.sig"), "{failure}");
    tree.kpull("apply");
    assert!(notices(&tree).is_empty(), "the same again is no news");
    site.file("release.toml.sig", "x");
    tree.kpull("apply");
    assert_eq!(events(&tree), ["failure"]);
    site.file("release.toml.sig", signature);
    tree.kpull("apply").exits(0);
    assert_eq!(events(&tree), ["recovery"]);
    tree.kpull("apply").exits(0);
    assert!(notices(&tree).is_empty());
}

#[test]
fn a_rollback_is_reported_with_the_failed_release_and_ends_with_a_good_one() {
    let hooks = format!("[[hook]]\non = [\"back\", \"recovery\"]\n{APPEND}");
    let (site, tree) = host(&hooks);
    tree.kpull("apply").exits(0);
    // a path that can't be written to although it looks well: a directory of the kernel
    let good = "[[file]]\npath = \"/etc/a\"\ncontent = \"y\\n\"\n";
    site.role("base", &format!("{good}[[file]]\npath = \"/dead/end/file\"\ncontent = \"x\"\n")).sign();
    symlink("/proc/self", tree.at("dead")).unwrap();
    tree.write("proc/self", "no directory")
        .kpull("apply")
        .fails(3, "failed on this host, which rolled back to release ");
    let back = notices(&tree).remove(0);
    assert_eq!((&back["event"], &back["back"]["from"], &back["back"]["to"]), (&"back".into(), &2.into(), &1.into()));
    // well, and not over it
    tree.kpull("apply").exits(0);
    assert!(notices(&tree).is_empty());
    site.role("base", good).sign();
    tree.kpull("apply").exits(0);
    assert_eq!(events(&tree), ["recovery"]);
}

#[test]
fn a_hook_server_is_tried_again_and_gets_what_it_refused_at_the_next_run() {
    let status = Arc::new(AtomicU16::new(204));
    let answers = status.clone();
    let server = Server::plain(move |_: &Received| Answer::new(answers.load(Ordering::SeqCst), "")).unwrap();
    let url = server.url("services/very-secret-path");
    let (site, tree) = host(&format!("[[hook]]\non = [\"failure\"]\npost = \"{url}\"\nretries = 1\n"));
    tree.kpull("apply").exits(0);
    assert!(server.seen().is_empty());
    fs::remove_file(site.path().join("release.toml.sig")).unwrap();
    // the server fails: one try more, a warning without the path, and the run ends as it would without a hook
    status.store(500, Ordering::SeqCst);
    let output = tree.kpull("apply --json");
    assert_eq!((server.seen().len(), output.code), (2, 4));
    let notices = &output.events("not_reported")[0];
    assert!(notices["error"].as_str().unwrap().contains("the server answered 500"), "{notices}");
    assert!(!output.stdout.contains("very-secret-path"), "{}", output.stdout);
    status.store(204, Ordering::SeqCst);
    assert!(tree.kpull("apply --json").events("not_reported").is_empty());
    let seen = server.seen();
    let last = &seen[2];
    let body: Value = serde_json::from_slice(&last.body).unwrap();
    assert_eq!(
        (last.method.as_str(), last.header("content-type"), &body["event"]),
        ("POST", Some("application/json"), &"failure".into())
    );
    tree.kpull("apply");
    assert_eq!(server.seen().len(), 3);
}

#[test]
fn a_hook_that_fails_or_hangs_stops_nothing() {
    let (_site, tree) = host(
        "[[hook]]\non = [\"change\"]\ncommand = [\"sh\", \"-c\", \"echo no luck >&2; exit 7\"]\n\
         [[hook]]\non = [\"change\"]\ncommand = [\"sleep\", \"1000\"]\ntimeout = 1\n\
         [[hook]]\non = [\"change\"]\ncommand = [\"/nowhere/at-all\"]\n",
    );
    let output = tree.kpull("apply --json").exits(0);
    let notices: Vec<String> =
        output.events("not_reported").iter().map(|notices| notices["error"].as_str().unwrap().to_owned()).collect();
    assert_eq!(
        notices,
        [
            "the hook sh failed: exit status: 7\nno luck",
            "the hook sleep failed: it took longer than 1s and was terminated, without any output",
            "can't run /nowhere/at-all: there is no such program",
        ]
    );
    assert_eq!(tree.read("etc/a"), "x\n");
}

#[test]
fn an_invalid_hook_is_a_configuration_error() {
    for (hook, error) in [
        ("on = []\ncommand = [\"true\"]\n", "a hook has no events"),
        ("on = [\"change\"]\n", "a hook needs either `command` or `post`"),
        ("on = [\"change\"]\ncommand = []\n", "`command` is empty"),
        ("on = [\"change\"]\npost = \"http://example.org/x\"\n", "http://example.org would be sent unencrypted"),
    ] {
        let (_site, tree) = host(&format!("[[hook]]\n{hook}"));
        let found = tree.kpull("apply --json").exits(1).error();
        assert_eq!(found["error"], error);
        assert!(found["line"].is_u64(), "{found}");
    }
}
