//! A run that gets too little of what a machine has: processes, open files, memory.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use kpull::net::server::{Answer, Server};
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};

use crate::fault::{World, copy};
use crate::support::disk::changing;
use crate::support::site::{Output, Site, Tree};

const FILES: &str = "kpull can't open as many files as it needs: raise `ulimit -n`, or LimitNOFILE= of its unit";
const PROCESSES: &str = "there may be no more processes, of this host (kernel.pid_max), this user (`ulimit -u`) or kpull's unit \
                         (TasksMax=): end some, or raise the limit; the next run continues from here";

/// `kpull apply` on a tree with a limit that prlimit sets.
fn limited(tree: &Tree, limit: &str) -> Command {
    let mut command = Command::new("prlimit");
    command.args([limit, "--core=0", env!("CARGO_BIN_EXE_kpull"), "apply", "--json", "--root"]).arg(tree.path());
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

#[test]
fn too_few_open_files_are_reported_and_the_next_run_finishes_the_work() {
    let world = World::new();
    let whole = copy(&world.tree);
    whole.kpull("apply").exits(0);
    let wanted = whole.snapshot();
    let mut failed = 0;
    for files in 4.. {
        let tree = copy(&world.tree);
        let output = Output::of(limited(&tree, &format!("--nofile={files}")).output().unwrap());
        assert_eq!(world.torn(&tree), [""; 0], "{files}");
        if output.code == 0 {
            assert_eq!(tree.snapshot(), wanted);
            break;
        }
        // a resource that needs one file more than the others fails alone, or several of them do; a release that failed is rolled back
        let errors = output.events("error");
        assert!(!errors.is_empty(), "{}", output.stdout);
        for error in &errors {
            let is_expected = |help: &str| error["help"].as_str().unwrap().starts_with(help);
            assert!([FILES, "the release may not be the cause"].into_iter().any(is_expected), "{error}");
            let what = error["error"].as_str().unwrap();
            assert!(what.contains("o file descriptors") || what.contains("oo many open files"), "{error}");
        }
        tree.kpull("apply --retry").exits(0);
        assert_eq!(tree.snapshot(), wanted, "{files}");
        assert_eq!(tree.leftovers(), [""; 0], "{files}");
        failed += 1;
    }
    assert!((3..80).contains(&failed), "{failed}");
}

#[test]
fn a_release_can_have_more_directories_than_a_process_can_have_open_files() {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n");
    let names: Vec<usize> = (0..400).collect();
    site.role(
        "base",
        &format!("vars.names = {names:?}\n[[directory]]\nfor_each = \"names\"\npath = \"/srv/{{{{ item }}}}/d\"\n"),
    );
    let tree = site.sign().enroll();
    Output::of(limited(&tree, "--nofile=350").output().unwrap()).exits(0);
    assert_eq!(fs::read_dir(tree.at("srv")).unwrap().count(), names.len());
    tree.kpull("plan").exits(0);
}

#[test]
fn a_service_s_open_files_suffice_to_make_a_deep_path_and_remove_a_deep_tree() {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n");
    let deep = "/d".repeat(1500);
    site.role(
        "base",
        &format!("[[file]]\npath = \"{deep}/f\"\ncontent = \"x\"\n[[absent]]\npath = \"/srv/old\"\nrecursive = true\n"),
    );
    let tree = site.sign().enroll();
    fs::create_dir_all(tree.at("srv/old")).unwrap();
    // deeper than any path may be
    let directory = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let mut at = open(&tree.at("srv/old"), directory, Mode::empty()).unwrap();
    for _ in 0..3000 {
        for name in ["d", "e"] {
            mkdirat(&at, name, Mode::S_IRWXU).unwrap();
        }
        at = openat(&at, "d", directory, Mode::empty()).unwrap();
    }
    Output::of(limited(&tree, "--nofile=1024").output().unwrap()).exits(0);
    assert!(!tree.at("srv/old").exists());
    assert_eq!(tree.read(&format!("{}/f", &deep[1..])), "x");
    tree.kpull("plan").exits(0);
}

#[test]
fn a_run_that_gets_no_memory_ends_at_once_and_the_next_finishes_the_work() {
    let (_site, tree) = changing(&"n".repeat(8 << 20), "");
    tree.write("srv/old", "old\n");
    let (mut ended, mut is_enough) = (0, false);
    for mebibytes in (4..).step_by(4).take_while(|mebibytes| *mebibytes < 400) {
        let tree = copy(&tree);
        let output = limited(&tree, &format!("--as={}", mebibytes << 20)).output().unwrap();
        let content = tree.read("srv/old");
        is_enough = output.status.success();
        assert!(content == "old\n" && !is_enough || content.len() == 8 << 20, "{mebibytes}");
        tree.kpull("apply").exits(0);
        assert_eq!((tree.read("srv/old").len(), tree.leftovers()), (8 << 20, vec![]), "{mebibytes}");
        tree.kpull("plan").exits(0);
        if is_enough {
            break;
        }
        ended += 1;
    }
    assert!(is_enough && ended > 3, "{ended}");
}

/// A user that no other process runs as: how many processes there are is counted by user. The limit does not hold for root.
const USER: &str = "64321";

fn give(path: &Path) {
    hand(path, USER);
}

fn hand(path: &Path, owner: &str) {
    assert!(Command::new("chown").args(["-R", owner]).arg(path).status().unwrap().success());
}

/// A process that runs as [`USER`], which may have no other.
const ALONE: &str = "setpriv --reuid=64321 --regid=64321 --clear-groups prlimit --nproc=1";

#[test]
fn without_processes_no_source_is_polled_and_the_message_says_so() {
    let (site, tree) = changing("new\n", "");
    let top = site.path().to_owned();
    let server = Server::plain(move |seen| match fs::read(top.join(seen.path.trim_start_matches('/'))) {
        Ok(content) => Answer::new(200, content),
        Err(_) => Answer::new(404, ""),
    })
    .unwrap();
    tree.configure(&format!("[[source]]\nhttp = \"{}\"\nretries = 0\n", server.url("")));
    give(tree.path());
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("kpull");
    fs::copy(env!("CARGO_BIN_EXE_kpull"), &program).unwrap();
    give(dir.path());
    let mut alone = Command::new("sh");
    alone.args(["-c", &format!("exec {ALONE} \"$0\" apply --json --root \"$1\"")]).arg(&program).arg(tree.path());
    let error = Output::of(alone.current_dir("/").stdin(Stdio::null()).output().unwrap()).exits(1).error();
    let what = format!("can't start the process that fetches from http {}: ", server.url(""));
    assert!(error["error"].as_str().unwrap().starts_with(&what), "{error}");
    assert_eq!(error["help"], PROCESSES);
    assert!(!tree.at("srv").exists());
    // a state directory of another user is none of root's
    hand(tree.path(), "0:0");
    tree.kpull("apply").exits(0);
    tree.kpull("plan").exits(0);
    assert_eq!(tree.read("srv/old"), "new\n");
}

/// On a live `/`, in a root of its own: in a tree no command runs.
#[test]
fn without_processes_no_command_runs_and_the_message_says_so() {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n");
    site.role("base", "[[command]]\nname = \"make\"\nrun = [\"/bin/mkdir\", \"/srv/made\"]\ncreates = \"/srv/made\"\n");
    let tree = site.sign().enroll();
    tree.configure("[[source]]\ndir = \"/site\"\n");
    let copied = Command::new("cp").arg("-a").arg(site.path()).arg(tree.at("site")).status().unwrap();
    assert!(copied.success());
    fs::create_dir_all(tree.at("srv")).unwrap();
    fs::copy("/etc/os-release", tree.at("etc/os-release")).unwrap();
    tree.write("etc/passwd", "root:x:0:0::/root:/bin/sh\n").write("etc/group", "root:x:0:\n");
    give(tree.path());
    let script = format!(
        "cd \"$1\"; mkdir usr proc dev; mount --bind /usr usr; mount --bind /proc proc; mount --bind /dev dev\n\
         for name in bin lib lib64 sbin; do ln -s usr/$name $name; done\n\
         cp \"$2\" kpull; chown {USER} . var 2>/dev/null || :\n\
         code=0; chroot . /usr/bin/{ALONE} /kpull apply --json || code=$?\n\
         chown -R 0:0 etc site var; chown 0:0 . # root goes by nothing of anybody else\n\
         {{ chroot . /kpull apply && chroot . /kpull plan && echo converged; }} > next 2>&1 || :\nexit $code"
    );
    let mut unshare = Command::new("unshare");
    unshare.args(["-m", "sh", "-euc", &script, "sh"]).arg(tree.path()).arg(env!("CARGO_BIN_EXE_kpull"));
    let output = Output::of(unshare.stdin(Stdio::null()).output().unwrap());
    assert!(tree.at("next").exists(), "there is no root to run in: {}", output.stderr);
    let error = output.exits(1).error();
    assert!(error["error"].as_str().unwrap().starts_with("can't run /bin/mkdir: "), "{error}");
    assert_eq!(error["help"], PROCESSES);
    assert_eq!((&error["file"], &error["line"]), (&"roles/base/role.toml".into(), &2.into()));
    let next = tree.read("next");
    assert!(next.ends_with("converged\n"), "{next}");
    assert!(tree.at("srv/made").is_dir());
}
