//! What the program generates about itself: completions and manual pages.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::support::site::{Output, kpull};

/// The commands that `kpull --help` lists.
fn commands() -> BTreeSet<String> {
    let help = kpull(&["--help"]).exits(0).stdout;
    let (list, _) = help.split_once("Options:\n").unwrap();
    let names: BTreeSet<_> = list
        .lines()
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' '))?.split(' ').next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect();
    assert!(names.contains("apply") && names.contains("man"), "{names:?}");
    names
}

#[test]
fn help_lists_every_command_in_its_group() {
    let help = kpull(&["--help"]).exits(0).stdout;
    let list = help.split("Options:").next().unwrap();
    assert!(kpull(&["help"]).exits(0).stdout.starts_with(list));
    let groups: Vec<_> = help.lines().filter_map(|line| line.strip_suffix(':')).collect();
    assert_eq!(groups, ["On a host", "For a site", "Keys and certificates", "For everybody", "Options"]);
    let completions = kpull(&["completions", "fish"]).exits(0).stdout;
    let completed = completions.lines().filter(|line| line.contains("__fish_kpull_needs_command"));
    let completed = completed.filter_map(|line| line.split_once(" -f -a \"")?.1.split('"').next());
    let (listed, completed) =
        (commands(), completed.map(str::to_owned).filter(|name| name != "help").collect::<BTreeSet<_>>());
    assert_eq!(listed, completed);
}

#[test]
fn bash_completes_commands_and_flags() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("kpull.bash");
    fs::write(&script, kpull(&["completions", "bash"]).exits(0).stdout).unwrap();
    for (words, expected) in [("hist", "history"), ("apply --ret", "--retry"), ("secret rek", "rekey")] {
        let count = words.split(' ').count();
        let word = words.split(' ').next_back().unwrap();
        let ask = format!(
            "source \"$0\" && COMP_WORDS=(kpull {words}) COMP_CWORD={count} && _kpull kpull {word} x && echo \"${{COMPREPLY[*]}}\""
        );
        let bash = Command::new("bash").args(["--norc", "-uc", &ask]).arg(&script).output().unwrap();
        assert_eq!(Output::of(bash).exits(0).stdout.trim_end(), expected, "{words}");
    }
}

#[test]
fn every_shell_gets_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = kpull(&["completions", shell]).exits(0).stdout;
        for command in commands() {
            assert!(script.contains(&command), "{shell}: {command}");
        }
    }
    assert!(kpull(&["completions", "csh"]).exits(1).stderr.contains("possible values: bash, elvish, fish"));
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let man = dir.path().join("share/man1");
    kpull(&["man", man.to_str().unwrap()]).exits(0);
    let pages: BTreeSet<_> =
        fs::read_dir(&man).unwrap().map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
    for command in commands() {
        assert!(pages.contains(&format!("kpull-{command}.1")), "{command}: {pages:?}");
    }
    assert!(pages.contains("kpull-secret-rekey.1"), "{pages:?}");
    let page = |name: &str| fs::read_to_string(man.join(name)).unwrap();
    assert!(page("kpull-apply.1").contains(r"\-\-retry"));
    assert_eq!(kpull(&["man"]).exits(0).stdout, page("kpull.1"));
    assert!(page("kpull.1").contains("75 another run is in progress"));
}

#[test]
fn manual_pages_are_written_nowhere_if_their_directory_is_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    let error = kpull(&["man", file.to_str().unwrap()]).exits(1).stderr;
    assert!(error.contains(&format!("can't write manual pages into {}", file.display())), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}
