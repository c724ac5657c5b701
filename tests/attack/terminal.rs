//! Names that would write to somebody's terminal.

use std::process::Output;

use crate::host::{GOOD, Host, Tree, Via, allow, kpull};

/// What a run wrote, which has nothing in it that a terminal would do something with.
fn shown(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).unwrap() + std::str::from_utf8(&output.stderr).unwrap();
    let raw = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t') || *c == '\u{202e}');
    assert_eq!(raw, None, "{text:?}");
    text
}

#[test]
fn a_name_in_a_signed_manifest_cannot_write_to_the_terminal() {
    let host = Host::with_good(Via::Dir);
    for (name, value) in [("site", r#""\u001b[2J\u009b31m\u202eevil""#), ("format", r#""\u001b]0;x\u0007""#)] {
        let mut tree = Tree::good(GOOD + 1);
        tree.set(name, value);
        host.publish(&tree);
        let output = host.apply_as_text();
        assert_eq!(output.status.code(), Some(4));
        shown(&output);
    }
    let mut tree = Tree::good(GOOD + 1);
    tree.also_list("roles/\u{1b}[2J\u{9b}31m\u{202e}");
    host.publish(&tree);
    assert!(shown(&host.apply_as_text()).contains(r"roles/\u{1b}[2J\u{9b}31m\u{202e}"));
}

#[test]
fn raw_control_characters_in_a_signed_manifest_are_not_quoted_raw() {
    let host = Host::with_good(Via::Dir);
    let mut tree = Tree::good(GOOD + 1);
    tree.manifest("site = \"\u{1b}[2Jx\u{202e}\" # \u{9b}2J\n");
    host.publish(&tree);
    let output = host.apply_as_text();
    assert_eq!(output.status.code(), Some(4));
    assert!(shown(&output).contains("?[2Jx"), "the line is shown all the same");
}

#[test]
fn names_in_a_good_release_cannot_write_to_the_terminal() {
    let host = Host::new(Via::Dir, &allow(1, ""), 1);
    let mut tree = Tree::good(GOOD);
    tree.put(
        "roles/base/role.toml",
        "summary = \"x\"\n[[file]]\npath = \"/etc/\\u009b2J\\u202e\"\ncontent = \"\\u001b[2J\\n\"\n",
    );
    tree.list(GOOD);
    host.publish(&tree);
    let plan = kpull().args(["plan", "--root"]).arg(host.root()).output().unwrap();
    assert_eq!(plan.status.code(), Some(2));
    assert!(shown(&plan).contains(r"\u{1b}[2J"));
    let output = kpull().args(["apply", "--diff", "--root"]).arg(host.root()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(shown(&output).contains(r"/etc/\u{9b}2J\u{202e}"));
    shown(&kpull().args(["status", "--root"]).arg(host.root()).output().unwrap());
}
