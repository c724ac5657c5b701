//! Pending actions that a run which died or failed has left, and how the next run handles them.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::{SignedDuration, Timestamp};
use kpull::net::server::{Answer, Received, Server};
use kpull::trust::Listed;
use serde_json::{Value, json};

use crate::support::site::{Site, Tree};
use crate::tree::apply::base;

const FILE: &str = "[[file]]\npath = \"/etc/a\"\ncontent = \"RELEASE\\n\"\n";
const DEAD: &str = "[[file]]\npath = \"/dead/end/file\"\ncontent = \"RELEASE\"\n";

fn release(site: &Site, number: &str, more: &str) {
    site.role("base", &format!("{FILE}{more}").replace("RELEASE", number)).sign();
}

/// A host that has taken its first release.
fn host(more: &str) -> (Site, Tree) {
    let site = base("");
    release(&site, "1", more);
    let tree = site.enroll();
    tree.kpull("apply").exits(0);
    (site, tree)
}

fn state(tree: &Tree, name: &str) -> Value {
    serde_json::from_str(&tree.read(&format!("var/lib/kpull/{name}.json"))).unwrap()
}

/// No action is pending if there is no such file.
fn nothing_is_pending(tree: &Tree) -> bool {
    !tree.at("var/lib/kpull/owed.json").exists()
}

fn set_pending(tree: &Tree, what: &Value) {
    tree.write("var/lib/kpull/owed.json", what.to_string());
}

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

/// From here on, no source answers this host, and it does not wait for one.
fn cut_off(tree: &Tree) {
    let source = tree.at("nowhere");
    tree.configure(&format!("[[source]]\ndir = {source:?}\n[rollback]\ncontact_within = \"1h\"\n"));
}

/// Nothing can be written to a path of `DEAD` although it looks well: it leads into a directory of the kernel.
fn dead_end(tree: &Tree) {
    let _ = fs::remove_dir_all(tree.at("dead"));
    symlink("/proc/self", tree.at("dead")).unwrap();
    tree.write("proc/self", "no directory");
}

#[test]
fn a_pending_action_of_a_resource_that_no_role_defines_any_more_is_dropped() {
    let (_site, tree) = host("");
    set_pending(&tree, &json!({ "kicks": { "unit:gone.service": "restart" }, "unit_files": true, "probes": true }));
    tree.kpull("apply").exits(0);
    assert!(nothing_is_pending(&tree));
}

#[test]
fn a_host_that_reaches_no_source_in_time_rolls_back_the_release_that_cut_it_off() {
    let (site, tree) = host("");
    release(&site, "2", "");
    tree.kpull("apply").exits(0);
    cut_off(&tree);
    set_pending(&tree, &json!({ "contact": "2000-01-01T00:00:00Z" }));
    let error = tree.kpull("apply --json").exits(3).error();
    let message = error["error"].as_str().unwrap();
    assert!(
        message.starts_with("release 2 failed on this host, which rolled back to release 1: no source"),
        "{message}"
    );
    assert_eq!(tree.read("etc/a"), "1\n");
    assert!(nothing_is_pending(&tree));
    assert_eq!(state(&tree, "generations/00000002")["good"], false);
    assert_eq!(state(&tree, "generations/00000003")["good"], true);
}

#[test]
fn a_release_that_a_run_died_in_is_rolled_back_but_not_one_that_was_only_seen() {
    for was_begun in [true, false] {
        let (site, tree) = host("");
        release(&site, "2", "");
        tree.kpull("apply").exits(0);
        tree.write("etc/d/theirs", "x");
        release(&site, "3", "[[file]]\npath = \"/etc/d\"\ncontent = \"x\"\n");
        tree.kpull("apply").fails(3, "failed on this host, which rolled back to release ");
        fs::remove_file(tree.at("var/lib/kpull/hold.json")).unwrap();
        cut_off(&tree);
        let mut pending = json!({ "contact": "2000-01-01T00:00:00Z" });
        if was_begun {
            pending["release"] = Listed::of(&fs::read(site.path().join("release.toml")).unwrap()).sha256.into();
        }
        set_pending(&tree, &pending);
        tree.write("etc/a", "3\n");
        let error = tree.kpull("apply --json").exits(3).error();
        let message = error["error"].as_str().unwrap();
        assert_eq!(message.contains("which rolled back to release 2"), was_begun, "{message}");
        assert_eq!(message.starts_with("no source can be reached since this host's network"), !was_begun, "{message}");
        assert_eq!(tree.read("etc/a"), if was_begun { "2\n" } else { "3\n" });
        // the last generation is to blame if no later release was begun
        assert_eq!(state(&tree, "generations/00000002")["good"], was_begun);
    }
}

#[test]
fn a_run_waits_only_until_a_source_answers() {
    let (site, tree) = host("");
    let dir = site.path().to_owned();
    let server = Server::plain({
        let asked = AtomicBool::new(false);
        move |request: &Received| match fs::read(dir.join(request.path.trim_start_matches('/'))) {
            Ok(content) if asked.swap(true, Ordering::SeqCst) => Answer::new(200, content),
            Ok(_) => Answer::new(503, ""),
            Err(_) => Answer::new(404, ""),
        }
    })
    .unwrap();
    let url = server.url("");
    tree.configure(&format!("[[source]]\nhttp = {url:?}\nretries = 0\n[rollback]\ncontact_within = \"1h\"\n"));
    set_pending(&tree, &json!({ "contact": (Timestamp::now() + SignedDuration::from_hours(1)).to_string() }));
    tree.kpull("apply").exits(0);
    assert!(nothing_is_pending(&tree));
    assert_eq!(state(&tree, "generations/00000001")["good"], true);
}

#[test]
fn a_run_waits_for_a_source_as_long_as_configured_whatever_the_clock_says() {
    let (_site, tree) = host("");
    cut_off(&tree);
    let config = tree.read("etc/kpull/kpull.toml").replace("\"1h\"", "\"0s\"");
    tree.write("etc/kpull/kpull.toml", config);
    set_pending(&tree, &json!({ "contact": (Timestamp::now() + SignedDuration::from_hours(9000)).to_string() }));
    let error = tree.kpull("apply --json").exits(3).error();
    assert!(error["error"].as_str().unwrap().starts_with("no source can be reached"), "{error}");
}

#[test]
fn a_failed_release_is_retried_as_often_as_configured_after_growing_pauses() {
    let (site, tree) = host("");
    let config = format!("{}\n[rollback]\ntries = 3\n", tree.read("etc/kpull/kpull.toml"));
    tree.write("etc/kpull/kpull.toml", config);
    dead_end(&tree);
    release(&site, "2", DEAD);
    for tries in 1..=3 {
        tree.kpull("apply").fails(3, "failed on this host, which rolled back to release ");
        let mut hold = state(&tree, "hold");
        assert_eq!(hold["tries"], tries);
        if tries == 3 {
            assert_eq!(hold["again"], Value::Null);
            break;
        }
        let pause = time(&hold["again"]).duration_since(time(&hold["since"]));
        assert_eq!(pause.as_mins(), tries, "minutes");
        hold["again"] = hold["since"].clone();
        tree.write("var/lib/kpull/hold.json", hold.to_string());
    }
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);
    // another release is tried as often
    release(&site, "3", DEAD);
    tree.kpull("apply").fails(3, "failed on this host, which rolled back to release ");
    assert_eq!(state(&tree, "hold")["tries"], 1);
}

#[test]
fn a_failure_that_the_earlier_release_has_too_does_not_count_as_a_try() {
    let (site, tree) = host(DEAD);
    let config = format!("{}\n[rollback]\ntries = 1\n", tree.read("etc/kpull/kpull.toml"));
    tree.write("etc/kpull/kpull.toml", config);
    dead_end(&tree);
    let own_fault = DEAD.replace("/dead/end/file", "/dead/end/other");
    assert_ne!(own_fault, DEAD);
    release(&site, "2", &format!("{DEAD}{own_fault}"));
    let error = tree.kpull("apply --json").exits(3).error();
    assert!(error["error"].as_str().unwrap().contains("which is unhealthy too"), "{error}");
    let hold = state(&tree, "hold");
    assert_eq!(hold["tries"], 0);
    assert!(time(&hold["again"]) > time(&hold["since"]), "{hold}");
}

#[test]
fn a_release_that_fails_before_its_first_change_is_rolled_back() {
    let (site, tree) = host("");
    dead_end(&tree);
    site.role("base", &format!("{DEAD}{}", FILE.replace("RELEASE", "1"))).sign();
    let error = tree.kpull("apply --json").exits(3).error();
    assert!(error["error"].as_str().unwrap().contains("which rolled back to release 1"), "{error}");
    assert_eq!(state(&tree, "hold")["not"], 2);
}

#[test]
fn a_rollback_undoes_what_a_release_made_before_it_failed() {
    let (site, tree) = host("");
    dead_end(&tree);
    let new = "[[file]]\npath = \"/etc/new\"\ncontent = \"new\"\n";
    release(&site, "2", &format!("{new}{DEAD}"));
    let output = tree.kpull("apply --json").exits(3);
    assert!(output.stdout.contains("file:/etc/new"), "{}", output.stdout);
    assert!(!tree.at("etc/new").exists());
    assert_eq!(tree.read("etc/a"), "1\n");
}
