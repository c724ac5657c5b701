//! What goes wrong around a run: another run, a sudden end, a full or read-only disk, no permission.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::disk::{changing, on_own_file_system};
use crate::support::site::{Output, Site, command};
use crate::tree::artifacts;

const FREE_SPACE: &str = "free some space or inodes there (`df -h` and `df -i` show which), then run again; nothing was \
                          changed at this path";

/// A web server that hands out half of a file and then nothing more, until it is dropped; what it has accepted.
struct Halting {
    listener: TcpListener,
    content: Vec<u8>,
}

impl Halting {
    fn new(content: Vec<u8>) -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap(), content }
    }

    fn url(&self) -> String {
        format!("http://{}/tool", self.listener.local_addr().unwrap())
    }

    /// Answers the next request with half of what it announces; the connection stays open.
    fn answer_half(&self) -> TcpStream {
        let (mut stream, _) = self.listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(stream.read(&mut byte).unwrap(), 1);
            request.push(byte[0]);
        }
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", self.content.len());
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&self.content[..self.content.len() / 2]).unwrap();
        stream
    }
}

#[test]
fn a_second_concurrent_run_is_busy_and_the_next_run_finishes_a_killed_one() {
    let content = artifacts::bytes(400_000);
    let halting = Halting::new(content.clone());
    let publisher = tempfile::tempdir().unwrap();
    let mirror = publisher.path().join("tool");
    let urls = [halting.url(), format!("file://{}", mirror.display())];
    let site = artifacts::site(&urls, &content, "tool = \"/usr/bin/tool\"");
    let tree = site.sign().enroll();
    let root = tree.path().to_str().unwrap();
    let mut first = command(&["apply", "--root", root]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let connection = halting.answer_half();

    for name in ["apply --json", "plan --json"] {
        let error = tree.kpull(name).exits(75).error();
        assert_eq!(error["error"], "another kpull is running on this host");
        assert_eq!(
            (&error["help"], &error["exit"]),
            (&format!("wait until it ends; `kpull status --root {root}` shows its result").into(), &75.into())
        );
    }
    tree.kpull("status").exits(0);

    first.kill().unwrap();
    first.wait().unwrap();
    drop((connection, halting));
    assert!(!tree.at("usr").exists() && !tree.at("etc/tool.version").exists());
    fs::write(&mirror, &content).unwrap();
    tree.write("etc/kpull/kpull.toml", format!("{}\n[artifacts]\nretries = 0\n", tree.read("etc/kpull/kpull.toml")));
    tree.kpull("apply").exits(0);
    assert_eq!(fs::read(tree.at("usr/bin/tool")).unwrap(), content);
    assert_eq!(tree.leftovers(), [""; 0]);
    let parts = fs::read_dir(tree.at("var/lib/kpull/artifacts")).unwrap();
    assert!(parts.map(|entry| entry.unwrap().file_name()).all(|name| !name.to_string_lossy().ends_with(".part")));
}

#[test]
fn the_next_run_finishes_one_that_is_killed_at_any_moment_and_nothing_remains() {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n");
    let role = |text: &str| {
        format!(
            "vars.names = {:?}\n[[file]]\nfor_each = \"names\"\npath = \"/srv/{{{{ item }}}}\"\ncontent = \"{text}\"\n",
            (0..60).collect::<Vec<_>>()
        )
    };
    site.role("base", &role("first"));
    let tree = site.sign().enroll();
    let root = tree.path().to_str().unwrap();
    for (round, delay) in [8, 16, 24, 32, 48].into_iter().enumerate() {
        site.role("base", &role(&format!("text of round {round}"))).sign();
        let mut run = command(&["apply", "--root", root]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        run.kill().unwrap();
        run.wait().unwrap();
        // whole or not there at all, also right after the end
        for (name, (mode, content)) in tree.snapshot() {
            let text = String::from_utf8(content).unwrap();
            let is_whole = text == "first" || (text.starts_with("text of round ") && text.len() == 15);
            assert!(!mode.starts_with("100") || name.contains("kpull-new") || is_whole, "{name}: {text:?}");
        }
        tree.kpull("apply").exits(0);
        assert_eq!(tree.leftovers(), [""; 0]);
        assert_eq!(tree.read("srv/59"), format!("text of round {round}"));
        tree.kpull("plan").exits(0);
    }
}

#[test]
fn a_full_disk_is_reported_and_the_old_file_stays_intact() {
    let (_site, tree) = changing(&"n".repeat(1 << 20), "");
    let mount = "mount -t tmpfs -o size=1200k tmpfs \"$srv\"";
    let fill = "head -c 512k /dev/zero > \"$srv/fill\"";
    let (output, after) = on_own_file_system(&tree, mount, fill, "rm \"$srv/fill\"");
    let error = output.exits(1).error();
    assert_eq!(error["error"], "can't write /srv/old: No space left on device");
    assert_eq!(error["help"], FREE_SPACE);
    assert_eq!((&error["file"], &error["line"]), (&"roles/base/role.toml".into(), &5.into()));
    assert_eq!(after, "fill\nold\nold\n", "the old file, and nothing beside it");
    // earlier changes stay
    assert_eq!(tree.read("etc/motd"), "x\n");
}

#[test]
fn a_disk_without_inodes_is_reported_and_the_old_file_stays_intact() {
    let (_site, tree) = changing("new\n", "");
    // the directory itself, `old` and `fill`
    let mount = "mount -t tmpfs -o nr_inodes=3 tmpfs \"$srv\"";
    let (output, after) = on_own_file_system(&tree, mount, ": > \"$srv/fill\"", "rm \"$srv/fill\"");
    let error = output.exits(1).error();
    assert_eq!(error["error"], "can't write /srv/old: No space left on device");
    assert_eq!(error["help"], FREE_SPACE);
    assert_eq!((&error["file"], &error["line"]), (&"roles/base/role.toml".into(), &5.into()));
    assert_eq!(after, "fill\nold\nold\n");
}

#[test]
fn a_read_only_disk_is_reported_and_nothing_is_changed_on_it() {
    let (_site, tree) = changing("new\n", "");
    let mount = "mount -t tmpfs -o size=64k tmpfs \"$srv\"";
    let remount = |how: &str| format!("mount -o remount,bind,{how} \"$srv\"");
    let (output, after) = on_own_file_system(&tree, mount, &remount("ro"), &remount("rw"));
    let error = output.exits(1).error();
    assert_eq!(error["error"], "/srv/old can't be written: /srv is read-only on this host");
    assert!(error["help"].as_str().unwrap().contains("does this too when a disk fails"), "{error}");
    assert_eq!(after, "old\nold\n");
}

/// The program, started by a user who is not root.
fn as_nobody(program: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env("NO_COLOR", "1").stdin(Stdio::null()).current_dir("/");
    if nix::unistd::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    Output::of(command.output().unwrap())
}

/// A copy of the program where everybody can start it. It is no second name: that would change the times of the program, by which runs
/// of other tests see that it is another one.
fn for_everybody() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    open_to_all(dir.path());
    let program = dir.path().join("kpull");
    fs::copy(env!("CARGO_BIN_EXE_kpull"), &program).unwrap();
    (dir, program)
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn without_permission_for_the_state_directory_the_message_says_what_to_do() {
    let (_dir, program) = for_everybody();
    let (site, tree) = changing("new\n", "");
    open_to_all(site.path());
    fs::set_permissions(tree.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let error = as_nobody(&program, &["apply", "--json", "--root", tree.path().to_str().unwrap()]).exits(1).error();
    let state = tree.at("var/lib/kpull");
    let why = format!("can't create the directory {}: Permission denied", tree.at("var").display());
    let says = format!("can't create the state directory {}: {why}", state.display());
    assert_eq!(error["error"], says);
    assert_eq!(error["help"], "run as root, or use `--root DIR` for a tree of your own");
    open_to_all(tree.path());
    assert!(!tree.at("var").exists());
}

#[test]
fn the_state_directory_of_root_is_closed_to_others_and_the_message_says_so() {
    let (_dir, program) = for_everybody();
    let (site, tree) = changing("new\n", "");
    open_to_all(site.path());
    open_to_all(tree.path());
    tree.kpull("apply").exits(0);
    if !nix::unistd::geteuid().is_root() {
        fs::set_permissions(tree.at("var/lib/kpull"), fs::Permissions::from_mode(0o000)).unwrap();
    }
    for command in ["apply", "plan", "status"] {
        let output = as_nobody(&program, &[command, "--json", "--root", tree.path().to_str().unwrap()]).exits(1);
        let error = output.error();
        let says = format!("can't access the state directory {}: ", tree.at("var/lib/kpull").display());
        assert!(error["error"].as_str().unwrap().starts_with(&says), "{error}");
        assert_eq!(error["help"], "run as root, or use `--root DIR` for a tree of your own");
    }
    fs::set_permissions(tree.at("var/lib/kpull"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_user_who_is_not_root_can_apply_to_a_tree_of_their_own() {
    let (_dir, program) = for_everybody();
    let (site, tree) = changing("new\n", "");
    open_to_all(site.path());
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(tree.path(), Some(65534), Some(65534)).unwrap();
        for path in ["etc", "etc/kpull"] {
            std::os::unix::fs::chown(tree.at(path), Some(65534), Some(65534)).unwrap();
        }
    }
    for changed in [&["file:/etc/motd", "file:/srv/old"][..], &[]] {
        let output = as_nobody(&program, &["apply", "--json", "--root", tree.path().to_str().unwrap()]).exits(0);
        assert_eq!(output.changed(), changed);
    }
    assert_eq!(tree.read("srv/old"), "new\n");
}
