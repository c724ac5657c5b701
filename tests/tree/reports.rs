//! What other configuration tools were reported for, as their users met it; `docs/src/development/reports.md` says which.

use std::process::Stdio;

use crate::support::site::{Site, Tree, command};
use crate::tree::apply::base;

/// One release after the other on one tree: each is applied completely, and each rollback restores the earlier tree.
#[track_caller]
fn there_and_back(tree: &Tree, site: &Site, roles: &[&str]) {
    let apply = |role: &str| {
        site.role("base", role).sign();
        tree.kpull("apply").exits(0);
        tree.kpull("plan").exits(0);
    };
    let mut trees = vec![tree.snapshot()];
    for role in roles {
        apply(role);
        trees.push(tree.snapshot());
    }
    for (role, before) in roles.iter().rev().skip(1).chain([&""]).zip(trees.iter().rev().skip(1)) {
        apply(role);
        assert_eq!(&tree.snapshot(), before, "back to:\n{role}\nof {roles:?}");
    }
}

const FILE: &str = "[[file]]\npath = \"/etc/app\"\ncontent = \"one\\n\"\n";
const BELOW: &str = "[[file]]\npath = \"/etc/app/main.conf\"\ncontent = \"two\\n\"\n";
const DEEP: &str = "[[file]]\npath = \"/etc/app/conf.d/a.conf\"\ncontent = \"deep\\n\"\n";
const DIRECTORY: &str = "[[directory]]\npath = \"/etc/app\"\nmode = \"0750\"\n";
const LINK: &str = "[[symlink]]\npath = \"/etc/app\"\ntarget = \"app-2\"\n";
const LINKED: &str = "[[file]]\npath = \"/etc/app-2/main.conf\"\ncontent = \"three\\n\"\n";
const ABSENT: &str = "[[absent]]\npath = \"/etc/app\"\n";

#[test]
fn a_path_of_the_last_release_changes_its_type_and_back() {
    let with_directory = format!("{DIRECTORY}{BELOW}{DEEP}");
    let linked = format!("{LINK}{LINKED}");
    for roles in [
        [FILE, BELOW],
        [FILE, &with_directory],
        [BELOW, FILE],
        [&with_directory, &linked],
        [&linked, DEEP],
        [&linked, &with_directory],
        [&with_directory, ABSENT],
    ] {
        let site = base("");
        let tree = site.sign().enroll();
        tree.write("etc/hosts", "localhost\n").write("var/lib/theirs", "");
        there_and_back(&tree, &site, &roles);
    }
}

#[test]
fn files_of_others_keep_a_directory_and_nothing_is_lost() {
    let site = base(BELOW);
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    tree.write("etc/app/theirs", "theirs\n");
    let before = tree.snapshot();
    site.role("base", FILE).sign();
    let output = tree.kpull("apply").exits(3).stderr;
    assert!(output.contains("/etc/app is a directory"), "{output}");
    assert_eq!(tree.snapshot(), before);
}

#[test]
fn files_below_a_link_that_the_same_run_changes_are_written_to_its_new_target() {
    let role = |number: u8| {
        format!(
            "[[symlink]]\npath = \"/opt/current\"\ntarget = \"app-{number}\"\n\
            [[directory]]\npath = \"/opt/app-{number}\"\n\
            [[file]]\npath = \"/opt/current/main.conf\"\ncontent = \"{number}\\n\"\nafter = [\"directory:/opt/app-{number}\"]\n"
        )
    };
    let site = base(&role(1));
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    site.role("base", &format!("[[directory]]\npath = \"/opt/app-1\"\n{}", role(2))).sign();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("opt/app-2/main.conf"), "2\n");
    assert_eq!(tree.read("opt/app-1/main.conf"), "1\n");
}

#[test]
fn a_file_in_place_of_a_directory_stays_unchanged() {
    let site = base(BELOW);
    let tree = site.sign().enroll();
    tree.write("etc/app", "theirs\n").write("var/lib/theirs", "");
    let before = tree.snapshot();
    let output = tree.kpull("apply").exits(1).stderr;
    assert!(output.contains("/etc/app"), "{output}");
    assert_eq!(tree.snapshot(), before);
}

#[test]
fn a_file_without_a_final_newline_has_none_after_its_block_is_removed() {
    let block = "[[block]]\npath = \"/etc/hosts\"\nname = \"n\"\ncontent = \"10.0.0.1 h1\"\n";
    let site = base("");
    let tree = site.sign().enroll();
    tree.write("etc/hosts", "127.0.0.1 localhost").write("var/lib/theirs", "");
    there_and_back(&tree, &site, &[block]);
    site.role("base", block).sign();
    tree.kpull("apply").exits(0);
    let whole = tree.read("etc/hosts");
    assert!(whole.starts_with("127.0.0.1 localhost\n# BEGIN"), "{whole}");
    tree.write("etc/hosts", format!("{whole}10.0.0.9 theirs\n"));
    site.role("base", "").sign();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/hosts"), "127.0.0.1 localhost\n10.0.0.9 theirs\n");
}

#[test]
fn a_file_that_got_windows_line_ends_keeps_one_block() {
    let site = base("[[block]]\npath = \"/etc/app.ini\"\nname = \"n\"\ncontent = \"a = 1\"\ncomment = \";\"\n");
    let tree = site.sign().enroll();
    tree.write("etc/app.ini", "[app]\n");
    tree.kpull("apply").exits(0);
    tree.write("etc/app.ini", tree.read("etc/app.ini").replace('\n', "\r\n"));
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/app.ini"), "[app]\r\n; BEGIN kpull n\na = 1\n; END kpull n\n");
    tree.kpull("plan").exits(0);
}

#[test]
fn a_run_whose_output_is_no_longer_read_finishes() {
    let many: String = (0..300).map(|at| format!("[[file]]\npath = \"/srv/{at}\"\ncontent = \"x\"\n")).collect();
    let site = base(&many);
    let tree = site.sign().enroll();
    let mut run = command(&["apply", "--root", tree.path().to_str().unwrap()]);
    let mut run = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop((run.stdout.take(), run.stderr.take()));
    assert_eq!(run.wait().unwrap().code(), Some(0));
    assert_eq!(tree.read("srv/299"), "x");
    tree.kpull("plan").exits(0);
}
