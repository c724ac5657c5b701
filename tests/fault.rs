//! A run that is killed before each write that it makes, one after the other: nothing is corrupt, nothing is lost, and the next run
//! needs no hand.
//!
//! `KPULL_SWEEP` says how many files the site has, 6 when it is not set; every kind that leaves something in a tree is there besides.

mod limits;
mod machine;
mod power;
mod times;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::git::git;
use crate::support::sample;
use crate::support::site::{Site, Tree};

/// Whatever changes something on a disk.
const WRITES: &[&str] = &[
    "write",
    "pwrite64",
    "writev",
    "fsync",
    "fdatasync",
    "syncfs",
    "ftruncate",
    "fallocate",
    "copy_file_range",
    "rename",
    "renameat",
    "renameat2",
    "mkdir",
    "mkdirat",
    "unlink",
    "unlinkat",
    "rmdir",
    "symlink",
    "symlinkat",
    "link",
    "linkat",
    "fchmod",
    "fchmodat",
    "fchown",
    "fchownat",
    "chmod",
    "chown",
    "setxattr",
    "lsetxattr",
    "fsetxattr",
    "removexattr",
    "fremovexattr",
];

fn role(text: &str, files: usize) -> String {
    let names: Vec<usize> = (0..files).collect();
    format!(
        r#"vars.names = {names:?}
[[file]]
for_each = "names"
path = "/srv/{{{{ item }}}}"
content = "{text} {{{{ item }}}}\n"
[[directory]]
path = "/srv/{text}"
mode = "0750"
[[symlink]]
path = "/etc/link"
target = "{text}"
[[block]]
path = "/etc/hosts"
name = "cluster"
content = "10.0.0.1 {text}"
[[line]]
path = "/etc/hosts"
regex = "^10.0.0.2 "
line = "10.0.0.2 {text}"
[[line]]
path = "/etc/hosts"
regex = "theirs"
state = "absent"
[[setting]]
path = "/etc/daemon.json"
key = "log.level"
value = "{text}"
[[absent]]
path = "/etc/absent.{text}"
[[sysctl]]
name = "net.ipv4.ip_forward"
value = "{text}"
[[group]]
name = "ops"
[[user]]
name = "{text}"
groups = ["ops"]
expires = 2037-01-31
linger = true
authorized_keys = ["ssh-ed25519 AAAA {text}"]
sudo = "ALL=(ALL) ALL"
on_removal = "remove"
[[unit]]
name = "web.service"
enable = {is_new}
content = "[Unit]\nDescription={text}\n[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
[[unit]]
name = "data.volume"
content = "[Volume]\nLabel=text={text}\n"
[[firewall]]
zone = "public"
ports = ["{port}/tcp"]
[[tree]]
path = "/srv/tree"
source = "{text}"
exclusive = true
[[permissions]]
path = "/srv/theirs"
recursive = true
mode = "{mode}"
[[swap]]
file = "/srv/swap"
size = "{size}M"
"#,
        size = if text == "new" { 2 } else { 1 },
        is_new = text == "new",
        port = if text == "new" { 443 } else { 80 },
        mode = if text == "new" { "u=rwX,go=" } else { "go-w" },
    )
}

/// A site with two releases, and a tree that has the first and had something before; both roles, to be signed when it is time.
struct World {
    site: Site,
    tree: Tree,
    files: usize,
    _repository: tempfile::TempDir,
}

/// A repository with a commit for each release, and what the roles have of them.
fn repository() -> (tempfile::TempDir, [String; 2]) {
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["init", "-q"]);
    let checkouts = ["old", "new"].map(|text| {
        fs::create_dir_all(dir.path().join(text)).unwrap();
        fs::write(dir.path().join(text).join("f"), text).unwrap();
        fs::write(dir.path().join("same"), text).unwrap();
        git(dir.path(), &["add", "-A"]);
        git(dir.path(), &["commit", "-q", "-m", text]);
        let commit = git(dir.path(), &["rev-parse", "HEAD"]);
        let url = dir.path().display();
        format!("[[checkout]]\npath = \"/srv/app\"\nurl = \"{url}\"\ncommit = \"{commit}\"\nexclusive = true\n")
    });
    (dir, checkouts)
}

/// A site whose only role is this text with the files of [`role`], and a tree with the files that such a role changes and does not
/// create.
fn enrolled(text: &str) -> (Site, Tree) {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n").role("base", text);
    for name in ["old", "new"] {
        site.file(&format!("roles/base/files/{name}/{name}/f"), name)
            .file(&format!("roles/base/files/{name}/same"), name);
    }
    let tree = site.sign().enroll();
    tree.write("etc/hosts", "127.0.0.1 localhost\n10.0.0.2 before\n10.0.0.3 theirs\n");
    tree.write("etc/daemon.json", "{\"log\": {\"level\": \"before\"}}");
    tree.write("srv/theirs/a", "theirs").write("srv/theirs/sub/b", "theirs");
    (site, tree)
}

impl World {
    fn new() -> Self {
        let files = std::env::var("KPULL_SWEEP").map_or(6, |number| number.parse().unwrap());
        let (repository, [old, new]) = repository();
        let (site, tree) = enrolled(&(role("old", files) + &old));
        tree.write("srv/1", "somebody's\n").write("srv/tree/theirs", "theirs");
        tree.write("srv/app/theirs", "theirs").write("srv/app/same", "theirs");
        tree.write("etc/absent.new", "here\n").write("etc/absent.old", "here\n");
        symlink("before", tree.at("etc/link")).unwrap();
        tree.kpull("apply").exits(0);
        site.role("base", &(role("new", files) + &new)).sign();
        Self { site, tree, files, _repository: repository }
    }

    /// What is wrong with files that are neither old nor new.
    fn torn(&self, tree: &Tree) -> Vec<String> {
        let whole = |name: &str| {
            let content = fs::read_to_string(tree.at(&format!("srv/{name}"))).unwrap_or_default();
            content == format!("old {name}\n") || content == format!("new {name}\n")
        };
        (0..self.files).map(|number| number.to_string()).filter(|name| !whole(name)).collect()
    }
}

/// A tree like another, in a directory of its own.
fn copy(tree: &Tree) -> Tree {
    let copy = Tree::new();
    let from = format!("{}/.", tree.path().display());
    assert!(Command::new("cp").args(["-a", &from]).arg(copy.path()).status().unwrap().success());
    copy
}

/// Copies `from` again and again, runs `kpull apply` on the copy, kills it before its first write, its second, and so on, or before
/// a sample of them, and passes what is left to `check`. Returns about how many writes there were.
fn sweep(from: &Tree, check: &dyn Fn(&Tree, &str)) -> usize {
    let mut writes = 0;
    for call in WRITES {
        for number in sample::of(1..) {
            let tree = copy(from);
            if !killed(tree.path(), call, number) {
                break;
            }
            check(&tree, &format!("before {call} {number}"));
            writes += 1;
        }
    }
    eprintln!("killed before {writes} writes, one in {}", sample::one_in());
    writes * sample::one_in()
}

/// Runs `kpull apply` on a tree and kills it before it makes this system call for the `number`th time. Whether it did so often.
fn killed(tree: &Path, call: &str, number: usize) -> bool {
    let status = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "-e", &format!("trace={call}")])
        .args(["-e", &format!("inject={call}:signal=KILL:when={number}")])
        .arg(env!("CARGO_BIN_EXE_kpull"))
        .args(["apply", "--json", "--root"])
        .arg(tree)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("strace is there");
    !status.success()
}

#[test]
fn a_run_that_is_killed_before_any_of_its_writes_is_finished_by_the_next() {
    let world = World::new();
    let whole = copy(&world.tree);
    whole.kpull("apply").exits(0);
    let wanted = whole.snapshot();
    let writes = sweep(&world.tree, &|tree, when| {
        assert_eq!(world.torn(tree), [""; 0], "{when}");
        tree.kpull("apply").exits(0);
        assert_eq!(tree.snapshot(), wanted, "{when}");
        assert_eq!(tree.leftovers(), [""; 0], "{when}");
        assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0], "{when}");
    });
    assert!(writes > 5 * world.files, "the writes were found: {writes}");
}

#[test]
fn prior_state_is_not_lost_by_a_run_that_is_killed_before_any_of_its_writes() {
    let world = World::new();
    let new = copy(&world.tree);
    new.kpull("apply").exits(0);
    world.site.role("base", "").sign();
    let origin = copy(&new);
    origin.kpull("apply").exits(0);
    let wanted = origin.snapshot();
    assert_eq!(origin.read("srv/1"), "somebody's\n");
    // from the second release to none at all
    let writes = sweep(&new, &|tree, when| {
        tree.kpull("apply").exits(0);
        assert_eq!(tree.snapshot(), wanted, "{when}");
    });
    assert!(writes > 3 * world.files, "the writes were found: {writes}");
}

#[test]
fn every_fault_of_the_page_has_a_test() {
    assert!(crate::support::named::rows("development/faults.md") > 20);
}
