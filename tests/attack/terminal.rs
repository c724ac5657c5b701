//! Names that would write to somebody's terminal.

use std::process::Output;

use crate::host::{GOOD, Host, Tree, Via, allow, kpull};

/// What turns the order of characters, breaks a line, or is not seen.
const HIDDEN: &[char] =
    &['\u{61c}', '\u{200b}', '\u{202e}', '\u{2028}', '\u{2060}', '\u{2067}', '\u{feff}', '\u{ad}', '\u{e0041}'];

/// What a run wrote, which has nothing in it that a terminal would do something with.
fn shown(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).unwrap() + std::str::from_utf8(&output.stderr).unwrap();
    let raw = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t') || HIDDEN.contains(c));
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

#[test]
fn names_that_look_alike_or_are_read_the_other_way_round_are_told_apart() {
    let name: String = HIDDEN.iter().collect();
    let host = Host::new(Via::Dir, &allow(1, ""), 1);
    let mut tree = Tree::good(GOOD);
    let path = serde_json::Value::from(format!("/etc/a{name}b"));
    tree.put("roles/base/role.toml", format!("summary = \"x\"\n[[file]]\npath = {path}\ncontent = \"x\\n\"\n"));
    tree.list(GOOD);
    host.publish(&tree);
    let seen: String = HIDDEN.iter().map(|c| c.escape_unicode().to_string()).collect();
    for arguments in [&["plan"][..], &["apply"], &["history"]] {
        shown(&kpull().args(arguments).arg("--root").arg(host.root()).output().unwrap());
    }
    std::fs::remove_file(host.root().join(format!("etc/a{name}b"))).unwrap();
    let output = kpull().args(["plan", "--root"]).arg(host.root()).output().unwrap();
    assert!(shown(&output).contains(&format!("/etc/a{seen}b")), "{output:?}");
}

#[test]
fn json_has_every_name_as_it_is_and_no_character_that_a_terminal_acts_on() {
    let name = "\u{9b}2J\u{7f}\u{202e}\u{e0041}\u{9d}0;x\u{9c}";
    let host = Host::new(Via::Dir, &allow(1, ""), 1);
    let mut tree = Tree::good(GOOD);
    let path: String = format!("/etc/a{name}").chars().map(|c| format!("\\U{:08x}", c as u32)).collect();
    tree.put("roles/base/role.toml", format!("summary = \"x\"\n[[file]]\npath = \"{path}\"\ncontent = \"x\\n\"\n"));
    tree.list(GOOD);
    host.publish(&tree);
    for arguments in [&["plan", "--json"][..], &["apply", "--json"], &["status", "--json"], &["history", "--json"]] {
        let output = kpull().args(arguments).arg("--root").arg(host.root()).output().unwrap();
        let text = shown(&output);
        let events: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        if arguments[0] == "plan" {
            assert!(events.iter().any(|event| event["id"] == format!("file:/etc/a{name}")), "{text}");
        }
    }
}

#[test]
fn a_local_user_writes_no_line_into_what_a_run_says() {
    let host = Host::new(Via::Dir, &allow(1, ""), 1);
    let mut tree = Tree::good(GOOD);
    tree.put("roles/base/role.toml", "summary = \"x\"\n[[symlink]]\npath = \"/home/u/link\"\ntarget = \"there\"\n");
    tree.list(GOOD);
    host.publish(&tree);
    assert_eq!(host.apply().code, 0);
    let link = host.root().join("home/u/link");
    let forged = "x\n✓ base         file:/etc/shadow  content\u{1b}[2J\u{202e}";
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(forged, &link).unwrap();
    for arguments in
        [&["plan"][..], &["plan", "--json"], &["apply", "-v"], &["history", "2"], &["history", "2", "--json"]]
    {
        let output = kpull().args(arguments).arg("--root").arg(host.root()).output().unwrap();
        let text = shown(&output);
        assert!(text.contains(r"\n✓ base"), "{arguments:?}: {text}");
        assert!(!text.lines().any(|line| line.starts_with("✓ base         file:/etc/shadow")), "{arguments:?}: {text}");
    }
    assert_eq!(std::fs::read_link(link).unwrap().to_str(), Some("there"));
}
