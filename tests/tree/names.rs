//! One directory with two names: a path belongs to one resource, whichever name a role uses.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::site::{Site, Tree, kpull};
use crate::tree::apply::base;

const RULE: &str = "ACTION==\\\"add\\\"\\n";

fn file(path: &str, content: &str) -> String {
    format!("[[file]]\npath = '{path}'\ncontent = \"{content}\"\n")
}

/// A tree in which `/lib` and `/data` are links, and something stands at `/srv/data/old`.
fn enrolled(site: &Site) -> Tree {
    let tree = site.sign().enroll();
    for dir in ["usr/lib", "var/lib"] {
        fs::create_dir_all(tree.at(dir)).unwrap();
    }
    symlink("usr/lib", tree.at("lib")).unwrap();
    symlink("srv/data", tree.at("data")).unwrap();
    tree.write("srv/data/old", "theirs\n");
    tree
}

#[test]
fn a_release_that_renames_a_path_keeps_the_file_and_its_prior_state() {
    let block = |path: &str| format!("[[block]]\npath = '{path}'\nname = 'n'\ncontent = 'ours'\n");
    let roles = |lib: &str, data: &str| {
        [
            file(&format!("{lib}/udev/rules.d/x.rules"), RULE),
            file(&format!("{data}/old"), "ours\\n"),
            file(&format!("{data}/new/deep/x"), "x\\n"),
            block(&format!("{data}/conf")),
        ]
        .concat()
    };
    let site = base(&roles("/lib", "/data"));
    let tree = enrolled(&site);
    let first = tree.snapshot();
    tree.kpull("apply").exits(0);
    let made = tree.snapshot();
    // to the other names and back
    for (lib, data) in [("/usr/lib", "/srv/data"), ("/lib", "/data"), ("/usr/lib", "/srv/data")] {
        site.role("base", &roles(lib, data)).sign();
        assert!(tree.kpull("plan --json").exits(0).changed().is_empty(), "{lib}");
        tree.kpull("apply").exits(0);
        assert_eq!(tree.snapshot(), made, "{lib}");
        tree.kpull("plan").exits(0);
    }
    tree.write("srv/data/old", "edited\n");
    assert!(tree.kpull("apply").exits(0).stdout.contains("/srv/data/old was edited by hand: saved"));
    site.role("base", "").sign();
    tree.kpull("apply").exits(0);
    let last = tree.snapshot();
    assert_eq!(last["srv/data/old"], first["srv/data/old"]);
    assert_eq!(last.keys().collect::<Vec<_>>(), first.keys().collect::<Vec<_>>());
}

#[test]
fn check_refuses_one_path_of_two_resources_by_a_usual_link_or_the_catalogs_link() {
    let link = "[[symlink]]\npath = '/opt/current'\ntarget = 'v1'\n";
    for (one, other) in [
        (file("/var/run/a", ""), file("/run/a", "")),
        (file("/lib/udev/rules.d/a", ""), "[[absent]]\npath = '/usr/lib/udev/rules.d/a'\n".to_owned()),
        (file("/opt/current/etc/a", ""), format!("{link}{}", file("/opt/v1/etc/a", ""))),
        (file("/sbin/a", ""), "[[block]]\npath = '/usr/sbin/a'\nname = 'n'\ncontent = ''\n".to_owned()),
    ] {
        let site = base(&format!("{one}{other}"));
        let error = kpull(&["check", "--json", "--site", site.path().to_str().unwrap()]).exits(1).error();
        let text = error["error"].as_str().unwrap();
        assert!(
            text.contains("occurs twice in the role base") && text.contains("are the same path on hosts"),
            "{error}"
        );
        assert_eq!(error["line"], if other.starts_with("[[symlink]]") { 8 } else { 5 }, "{error}");
    }
    // a file, and a path below it by another name
    let site = base(&[file("/run/a", ""), file("/var/run/a/b", "")].concat());
    let error = kpull(&["check", "--json", "--site", site.path().to_str().unwrap()]).exits(1).error();
    assert!(error["error"].as_str().unwrap().contains("`/run/a` is a file"), "{error}");
}

#[test]
fn a_directory_precedes_its_content_that_uses_another_name_of_it() {
    let site = base(&format!(
        "{}[[directory]]\npath = '/run/a'\nmode = '0700'\nafter = ['file:/z']\n{}",
        file("/var/run/a/b", ""),
        file("/z", "")
    ));
    let tree = enrolled(&site);
    fs::create_dir_all(tree.at("run")).unwrap();
    symlink("../run", tree.at("var/run")).unwrap();
    let changed = tree.kpull("apply --json").exits(0).changed();
    assert_eq!(changed, ["file:/z", "directory:/run/a", "file:/var/run/a/b"]);
}

#[test]
fn two_names_of_a_path_by_a_hosts_own_link_fail_both_and_neither_is_written() {
    let site = base(&[file("/data/a", "1\\n"), file("/etc/x", "1\\n")].concat());
    let tree = enrolled(&site);
    tree.kpull("apply").exits(0);
    let both = [file("/data/a", "1\\n"), file("/etc/x", "2\\n"), file("/srv/data/a", "2\\n")].concat();
    site.role("base", &both).sign();
    for command in ["plan --json", "apply --json"] {
        let output = tree.kpull(command);
        assert_eq!(output.code, if command.starts_with("plan") { 1 } else { 3 }, "{output:?}");
        let error = output.events("error").remove(0);
        let text = error["error"].as_str().unwrap();
        let (what, why) = ("file:/data/a and file:/srv/data/a manage the same path of this host", "connects the two");
        assert!(text.contains(what) && text.contains(why), "{error}");
        assert!(error["help"].as_str().unwrap().contains("`namei /data/a /srv/data/a`"), "{error}");
    }
    assert_eq!((tree.read("srv/data/a"), tree.read("etc/x")), ("1\n".to_owned(), "1\n".to_owned()));
    // a host without the link has two places
    fs::remove_file(tree.at("data")).unwrap();
    tree.kpull("apply --retry").exits(0);
    assert_eq!((tree.read("srv/data/a"), tree.read("data/a")), ("2\n".to_owned(), "1\n".to_owned()));
}
