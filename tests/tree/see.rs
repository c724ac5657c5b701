//! What an operator sees: what differs between generations.

use crate::apply::base;
use crate::site::{Site, Tree};

const OLD: &str = r#"
[[file]]
path = "/etc/app.conf"
content = "port = 80\n"
[[file]]
path = "/etc/key"
content = "hunter1\n"
sensitive = true
[[firewall]]
zone = "public"
ports = ["80/tcp"]
[[symlink]]
path = "/etc/link"
target = "app.conf"
"#;

const NEW: &str = r#"
[[file]]
path = "/etc/app.conf"
content = "port = 443\n"
mode = "0600"
[[file]]
path = "/etc/key"
content = "hunter2\n"
sensitive = true
[[firewall]]
zone = "public"
ports = ["443/tcp"]
[[unit]]
name = "web.service"
enable = true
content = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
"#;

/// A host with two generations of two releases.
fn two() -> (Site, Tree) {
    let site = base(OLD);
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    site.role("base", NEW).sign();
    tree.kpull("apply").exits(0);
    (site, tree)
}

#[test]
fn diff_tells_what_came_what_went_and_what_is_another_and_shows_no_secret() {
    let (_site, tree) = two();
    let told = tree.kpull("diff").exits(0).stdout;
    let (head, rest) = told.split_once('\n').unwrap();
    assert!(head.starts_with("generation 1 (release 1, ") && head.contains(") → generation 2 (release 2, "), "{head}");
    for wanted in [
        "file:/etc/app.conf  content, mode\n",
        "    -port = 80\n    +port = 443\n",
        "    +mode = \"0600\"\n",
        "file:/etc/key  content\n    (the content is not shown: it is sensitive)\n",
        "+ base         firewall:public port 443/tcp ",
        "- base         firewall:public port 80/tcp ",
        "unit:web.service  add\n",
        "    +ExecStart=/bin/true\n",
        "symlink:/etc/link  remove\n",
    ] {
        assert!(rest.contains(wanted), "{wanted:?} is not in\n{rest}");
    }
    assert!(!told.contains("hunter"), "{told}");
    assert!(!tree.kpull("diff --no-diff").exits(0).stdout.contains("port = "));
}

#[test]
fn diff_as_json_has_an_object_for_each_difference_and_goes_both_ways() {
    let (_site, tree) = two();
    let forth = tree.kpull("diff 1 2 --json").exits(0);
    let what = |name: &str| -> Vec<(String, String)> {
        let output = tree.kpull(name).exits(0);
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        output.events("differs").iter().map(|one| (text(&one["id"]), text(&one["what"]))).collect()
    };
    let done = &forth.events("done")[0];
    assert_eq!((&done["from"]["release"], &done["to"]["release"]), (&1.into(), &2.into()));
    assert_eq!(done["differences"], forth.events("differs").len());
    assert!(what("diff 1 --json").contains(&("symlink:/etc/link".to_owned(), "removed".to_owned())));
    assert!(what("diff 2 1 --json").contains(&("symlink:/etc/link".to_owned(), "added".to_owned())));
    assert_eq!(what("diff 2 --json"), []);
}

#[test]
fn diff_of_generations_of_one_release_tells_what_was_mended_between_them() {
    let (_site, tree) = two();
    tree.write("etc/app.conf", "edited\n");
    tree.kpull("apply").exits(0);
    let told = tree.kpull("diff").exits(0).stdout;
    assert!(told.contains("~ file:/etc/app.conf  content  (generation 3)\n"), "{told}");
}

#[test]
fn diff_of_what_is_not_there_says_what_is() {
    let (_site, tree) = two();
    let error = tree.kpull("diff 7 --json").exits(1).error();
    assert_eq!(error["error"], "there is no generation 7");
    std::fs::remove_dir_all(tree.at("var/lib/kpull/releases")).unwrap();
    let error = tree.kpull("diff --json").exits(1).error();
    assert_eq!(error["error"], "the release of generation 1 is not kept any more");
}
