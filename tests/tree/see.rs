//! What an operator sees: changes by role, widths and colours, what differs between generations, what an error is called.

use crate::support::site::{Output, Site, Tree, command, kpull};
use crate::tree::apply::base;

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
fn diff_shows_additions_removals_and_changes_and_no_secret() {
    let (_site, tree) = two();
    let output = tree.kpull("diff").exits(0).stdout;
    let (head, rest) = output.split_once('\n').unwrap();
    assert!(head.starts_with("generation 1 (release 1, ") && head.contains(") → generation 2 (release 2, "), "{head}");
    for wanted in [
        "file:/etc/app.conf  content, mode\n",
        "      -port = 80\n      +port = 443\n",
        "      +mode = \"0600\"\n",
        "file:/etc/key  content\n      (the content is not shown: it is sensitive)\n",
        "  + firewall:public port 443/tcp ",
        "  - firewall:public port 80/tcp ",
        "unit:web.service  add\n",
        "      +ExecStart=/bin/true\n",
        "symlink:/etc/link  remove\n",
    ] {
        assert!(rest.contains(wanted), "{wanted:?} is not in\n{rest}");
    }
    assert!(!output.contains("hunter"), "{output}");
    assert!(!tree.kpull("diff --no-diff").exits(0).stdout.contains("port = "));
}

#[test]
fn diff_as_json_has_an_object_for_each_difference_in_both_directions() {
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
fn diff_of_generations_of_one_release_shows_what_was_corrected_in_between() {
    let (_site, tree) = two();
    tree.write("etc/app.conf", "edited\n");
    tree.kpull("apply").exits(0);
    let output = tree.kpull("diff").exits(0).stdout;
    assert!(output.contains("~ file:/etc/app.conf  content  (generation 3)\n"), "{output}");
}

#[test]
fn diff_of_a_missing_generation_or_release_is_an_error() {
    let (_site, tree) = two();
    let error = tree.kpull("diff 7 --json").exits(1).error();
    assert_eq!(error["error"], "there is no generation 7");
    std::fs::remove_dir_all(tree.at("var/lib/kpull/releases")).unwrap();
    let error = tree.kpull("diff --json").exits(1).error();
    assert_eq!(error["error"], "the release of generation 1 is no longer stored");
}

/// Runs `kpull WORDS` on the tree with these variables, and without what the machine says of colours.
fn with(tree: &Tree, words: &str, variables: &[(&str, &str)]) -> Output {
    let mut arguments: Vec<&str> = words.split(' ').collect();
    arguments.extend(["--root", tree.path().to_str().unwrap()]);
    let mut command = command(&arguments);
    command.env_remove("NO_COLOR").env_remove("CLICOLOR").env_remove("COLUMNS").envs(variables.iter().copied());
    Output::of(command.output().unwrap())
}

const LONG: &str = "1\\n2\\n3\\n4\\n5\\n6\\n7\\n8\\n9\\n10\\n11\\n12\\n13\\n14\\n15\\n16\\n17\\n18\\n19\\n20\\n";

/// A host that has two roles to be made from, neither of which comes before the other as a whole.
fn fresh() -> (Site, Tree) {
    let site = base("[[directory]]\npath = '/srv/b'\n[[file]]\npath = '/srv/b/f'\ncontent = 'x'\n");
    site.role(
        "other",
        &format!("[[directory]]\npath = '/srv/o'\n[[file]]\npath = '/srv/o/long'\ncontent = \"{}\"\n", LONG),
    );
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\", \"other\"]\n");
    let tree = site.sign().enroll();
    (site, tree)
}

#[test]
fn plan_shows_changes_by_role_and_what_to_do_next() {
    let (_site, tree) = fresh();
    let output = with(&tree, "plan --no-diff", &[]).exits(2).stdout;
    let lines: Vec<&str> = output.lines().filter(|line| !line.starts_with('↓')).collect();
    assert_eq!(
        lines[..6],
        [
            "base",
            "  + directory:/srv/b  create",
            "  + file:/srv/b/f  create",
            "other",
            "  + directory:/srv/o  create",
            "  + file:/srv/o/long  create"
        ]
    );
    assert!(lines[6].starts_with("h1: 4 to change of 4 resources (release 1, "), "{output}");
    let root = tree.path().display();
    assert_eq!(lines[7], format!("next: `kpull apply --root {root}` makes these changes"));
    let applied = with(&tree, "apply", &[]).exits(0).stdout;
    let next =
        format!("next: `kpull verify --root {root}` runs every probe; `kpull rollback --root {root}` rolls back\n");
    assert!(applied.ends_with(&next), "{applied}");
}

#[test]
fn a_long_new_text_is_cut_unless_all_of_it_is_requested() {
    let (_site, tree) = fresh();
    let output = with(&tree, "plan", &[]).exits(2).stdout;
    assert!(
        output.contains("      +12\n      … 8 lines more (-v shows them)\n") && !output.contains("+13\n"),
        "{output}"
    );
    let output = with(&tree, "plan -v", &[]).exits(2).stdout;
    assert!(output.contains("      +20\n") && !output.contains("lines more"), "{output}");
    assert!(output.contains("file:/srv/o/long  create  (roles/other/role.toml:4:1)\n"), "{output}");
}

#[test]
fn quiet_shows_only_what_needs_attention() {
    let (_site, tree) = fresh();
    assert_eq!(with(&tree, "plan -q", &[]).exits(2).stdout, "");
    assert_eq!(with(&tree, "apply -q", &[]).exits(0).stdout, "");
    tree.write("srv/b/f", "edited");
    let output = with(&tree, "apply -q", &[]).exits(0).stdout;
    let root = tree.path().display();
    assert_eq!(output, format!("! /srv/b/f was edited by hand: saved, see `kpull history --edits --root {root}`\n"));
}

#[test]
fn colors_are_for_terminals_unless_an_option_says_otherwise() {
    let (_site, tree) = fresh();
    let is_coloured = |variables: &[(&str, &str)]| with(&tree, "plan", variables).exits(2).stdout.contains('\u{1b}');
    assert!(!is_coloured(&[]), "a pipe");
    assert!(is_coloured(&[("CLICOLOR_FORCE", "1")]));
    assert!(!is_coloured(&[("CLICOLOR_FORCE", "0")]));
    assert!(!is_coloured(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
    let error = with(&tree, "diff 9", &[("CLICOLOR_FORCE", "1")]).exits(1).stderr;
    assert!(error.contains('\u{1b}'), "{error}");
}

#[test]
fn a_line_that_is_too_wide_becomes_two_lines() {
    let (_site, tree) = fresh();
    let output = with(&tree, "plan --no-diff", &[("COLUMNS", "27")]).exits(2).stdout;
    assert!(output.contains("\n  + directory:/srv/o\n      create\n"), "{output}");
    assert!(output.contains("\n  + file:/srv/b/f  create\n"), "{output}");
}

#[test]
fn an_error_is_not_wrapped_outside_a_terminal() {
    let (_site, tree) = two();
    tree.write("etc/kpull/kpull.toml", "nope = 1\n");
    let lines = |width: &[(&str, &str)]| {
        let output = with(&tree, "apply", width).exits(1).stderr;
        output.lines().filter(|line| line.contains("× ") || line.starts_with("  help: ")).map(str::len).max().unwrap()
    };
    assert!(lines(&[]) > 120, "{}", lines(&[]));
    assert!(lines(&[("COLUMNS", "60")]) <= 64);
}

#[test]
fn an_error_has_a_code_that_help_explains_in_text_and_in_json() {
    let (site, tree) = two();
    let output = tree.kpull("diff 7").exits(1).stderr;
    assert!(output.starts_with("error[host.generation]\n  × there is no generation 7\n"), "{output}");
    assert_eq!(tree.kpull("diff 7 --json").exits(1).error()["code"], "host.generation");
    let explained = kpull(&["help", "host.generation"]).exits(0).stdout;
    assert!(explained.starts_with("host.generation: ") && explained.contains("\n  what to do  "), "{explained}");

    site.file("roles/base/templates/x.conf", "{{ prot }}");
    site.role("base", "[[template]]\npath = '/etc/x'\ntemplate = 'x.conf'\n").sign();
    assert_eq!(tree.kpull("apply --json").exits(1).error()["code"], "site.variable");
    let status = tree.kpull("status --json").exits(0).json().remove(0);
    assert_eq!(status["last_error"]["code"], "site.variable");
    let template = site.path().join("roles/base/templates/x.conf");
    std::fs::write(template, "tampered").unwrap();
    assert_eq!(tree.kpull("apply --json").exits(4).error()["code"], "trust.tampered");
}

#[test]
fn help_explains_commands_and_every_code_and_suggests_the_nearest_name() {
    assert!(kpull(&["help", "pki", "issue"]).exits(0).stdout.contains("Usage: kpull pki issue"));
    let codes = kpull(&["help", "codes"]).exits(0).stdout;
    for line in codes.lines() {
        let code = line.split(' ').next().unwrap();
        assert!(kpull(&["help", code]).exits(0).stdout.starts_with(&format!("{code}: ")), "{code}");
    }
    assert!(codes.lines().count() > 40, "{codes}");
    let error = kpull(&["help", "trust.expird"]).exits(1).stderr;
    assert!(error.contains("did you mean `kpull help trust.expired`?"), "{error}");
}

#[test]
fn a_plan_marks_what_it_adds_changes_and_removes() {
    let site = base(OLD);
    let tree = site.sign().enroll();
    let marks = || -> Vec<String> {
        let shown = tree.kpull("plan --no-diff").exits(2).stdout;
        let marked = |line: &str| line.strip_prefix("  ").filter(|line| line.get(1..2) == Some(" ")).map(str::to_owned);
        shown.lines().filter_map(marked).map(|line| line.split("  ").next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(
        marks(),
        ["+ file:/etc/app.conf", "+ file:/etc/key", "+ symlink:/etc/link", "+ firewall:public port 80/tcp 7995ce"]
    );
    tree.kpull("apply").exits(0);
    site.role("base", NEW).sign();
    let new = marks();
    for wanted in [
        "~ file:/etc/app.conf",
        "~ file:/etc/key",
        "+ firewall:public port 443/tcp 5b2d73",
        "- firewall:public port 80/tcp",
        "+ unit-file:/etc/systemd/system/web.service",
        "~ unit:web.service",
        "- absent:/etc/link",
    ] {
        assert!(new.iter().any(|mark| mark == wanted), "{wanted}: {new:?}");
    }
    let what = |id: &str| {
        let planned = tree.kpull("plan --json").exits(2).events("planned");
        planned.into_iter().find(|event| event["id"] == id).unwrap()["what"].clone()
    };
    assert_eq!(
        [what("absent:/etc/link"), what("file:/etc/key"), what("firewall:public port 80/tcp")],
        ["removed", "changed", "removed"]
    );
}

/// The commands in backticks behind the first `start`, as their words.
fn proposed(text: &str, start: &str) -> Vec<Vec<String>> {
    let (_, rest) = text.split_once(start).unwrap_or_else(|| panic!("no {start} in {text}"));
    let commands = rest.split('`').skip(1).step_by(2).filter_map(|command| command.strip_prefix("kpull "));
    commands.map(|command| command.split(' ').map(str::to_owned).collect()).collect()
}

#[test]
fn a_suggested_command_can_be_pasted() {
    let site = base(OLD);
    let tree = site.sign().enroll();
    let run = |words: &[String]| kpull(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let dir = site.path().to_str().unwrap();
    let preview = tree.kpull(&format!("plan --host h1 --site {dir}")).exits(2).stdout;
    let next = proposed(&preview, "\nnext: ");
    assert_eq!(next[0], ["sign", "--site", dir]);
    assert_eq!(next[1], ["publish", "--site", dir]);

    let planned = tree.kpull("plan --host h1").exits(2).stdout;
    let apply = proposed(&planned, "\nnext: ").remove(0);
    assert_eq!(apply, ["apply", "--root", tree.path().to_str().unwrap(), "--host", "h1"]);
    let applied = run(&apply).exits(0).stdout;
    let next = proposed(&applied, "\nnext: ");
    assert_eq!(next[0], ["verify", "--root", tree.path().to_str().unwrap(), "--host", "h1"]);
    run(&next[0]).exits(0);

    // what helps after an error as well
    let lost = tree.kpull("rollback 7").exits(1);
    let history = proposed(&lost.stderr, "help: ").remove(0);
    assert!(run(&history).exits(0).stdout.contains("release 1"));
}
