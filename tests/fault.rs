//! A run that is killed before each write that it makes, one after the other: nothing is corrupt, nothing is lost, and the next run
//! needs no hand.
//!
//! `KPULL_SWEEP` says how many files the site has, 6 when it is not set; every kind that leaves something in a tree is there besides.

mod limits;
mod machine;
mod power;
mod times;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use kpull::trust::Listed;

use crate::support::git::git;
use crate::support::sample;
use crate::support::site::{Site, Snapshot, Tree};

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
vars.text = "{text}"
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
acl = ["group:ops:{rights}"]
[[swap]]
file = "/srv/swap"
size = "{size}M"
[[template]]
path = "/etc/template"
template = "text"
[[setting]]
path = "/etc/default/app"
key = "LEVEL"
value = "{text}"
[[setting]]
path = "/etc/app.ini"
key = "log.level"
value = "{text}"
[[setting]]
path = "/etc/app.yaml"
key = "log.level"
value = "{text}"
[[setting]]
path = "/etc/app.toml"
key = "log.level"
value = "{text}"
[[setting]]
path = "/etc/made.toml"
key = "{text}"
value = 1
create = true
[[group]]
name = "team"
members = ["{text}"]
[[group]]
name = "former-{text}"
state = "absent"
[[user]]
name = "former-{text}"
state = "absent"
[[system]]
hostname = "{text}"
timezone = "Etc/{text}"
locale = "{text}.UTF-8"
keymap = "{text}"
[[mount]]
where = "/srv/mounted"
what = "tmpfs"
type = "tmpfs"
options = ["size={size}M"]
[[nftables]]
name = "site"
content = "chain {text} {{}}"
[[module]]
name = "m_{text}"
[[package]]
name = "nodejs"
manager = "dnf"
module = "nodejs:{size}"
[[repository]]
name = "lab"
format = "apt"
urls = ["https://{text}.example.org/"]
suites = ["stable"]
priority = 990
key_text = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n{text}\n"
[[repository]]
name = "more"
format = "dnf"
urls = ["https://{text}.example.org/"]
key_text = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n{text}\n"
[[repository]]
name = "suse"
format = "zypper"
urls = ["https://{text}.example.org/"]
key_text = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n{text}\n"
[[line]]
path = "/etc/{parts}"
regex = "^a="
line = "a={text}"
[[permissions]]
path = "/etc/{parts}"
mode = "0600"
[[file]]
path = "/etc/{whole}"
content = "a={text}\nwhole\n"
"#,
        // one file changes from parts to a whole, and another one the other way
        parts = if text == "new" { "parted" } else { "united" },
        whole = if text == "new" { "united" } else { "parted" },
        size = if text == "new" { 2 } else { 1 },
        is_new = text == "new",
        port = if text == "new" { 443 } else { 80 },
        mode = if text == "new" { "u=rwX,go=" } else { "u=rwX,go=rX" },
        rights = if text == "new" { "r" } else { "rX" },
    )
}

/// A site with two releases, and a tree that has the first and had something before; both roles, to be signed when it is time.
struct World {
    site: Site,
    tree: Tree,
    /// The role of the second release.
    new: String,
    files: usize,
    _sources: tempfile::TempDir,
}

/// A repository with a commit for each release, an archive of each, which the site pins, and what the roles have of them.
fn sources(site: &Site) -> (tempfile::TempDir, [String; 2]) {
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["init", "-q"]);
    let mut pins = String::new();
    let entries = ["old", "new"].map(|text| {
        fs::create_dir_all(dir.path().join(text)).unwrap();
        fs::write(dir.path().join(text).join("f"), text).unwrap();
        fs::write(dir.path().join("same"), text).unwrap();
        git(dir.path(), &["add", "-A"]);
        git(dir.path(), &["commit", "-q", "-m", text]);
        let commit = git(dir.path(), &["rev-parse", "HEAD"]);
        let url = dir.path().display();
        // where the next commit doesn't have it
        let archive = dir.path().join(format!(".git/{text}.tar.gz"));
        git(dir.path(), &["archive", "--prefix=tool/", "--output", archive.to_str().unwrap(), "HEAD"]);
        let Listed { sha256, size } = Listed::of(&fs::read(&archive).unwrap());
        let pin = format!("{{ url = \"file://{}\", sha256 = \"{sha256}\", size = {size} }}", archive.display());
        let _ = writeln!(pins, "[{text}]\nversion = \"1\"\namd64 = {pin}");
        format!(
            "[[checkout]]\npath = \"/srv/app\"\nurl = \"{url}\"\ncommit = \"{commit}\"\nexclusive = true\n\
             [[artifact]]\nname = \"{text}\"\ninstall = {{ \"tool/\" = \"/opt/tool\" }}\nexclusive = true\n"
        )
    });
    site.file("artifacts.toml", pins);
    (dir, entries)
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
    site.file("roles/base/templates/text", "{{ text }}\n");
    let tree = site.sign().enroll();
    tree.write("etc/hosts", "127.0.0.1 localhost\n10.0.0.2 before\n10.0.0.3 theirs\n");
    tree.write("etc/daemon.json", "{\"log\": {\"level\": \"before\"}}");
    tree.write("srv/theirs/a", "theirs").write("srv/theirs/sub/b", "theirs");
    for (path, text) in [
        ("etc/default/app", "# ours\nLEVEL=before\n"),
        ("etc/app.ini", "[log]\n; ours\nlevel = before\n"),
        ("etc/app.yaml", "log: # ours\n  level: before\n"),
        ("etc/app.toml", "[log]\nlevel = 'before' # ours\n"),
        (
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\nformer-old:x:800:800::/home/former-old:/bin/sh\nformer-new:x:801:801::/home/former-new:/bin/sh\n",
        ),
        ("etc/group", "root:x:0:\nformer-old:x:800:\nformer-new:x:801:\n"),
        ("etc/hostname", "before\n"),
        ("etc/fstab", "# ours\ntmpfs /srv/mounted tmpfs noatime 0 0\nnone /srv/other tmpfs noauto\n"),
        ("etc/parted", "a=before\nb\n"),
        ("etc/united", "a=before\nb\n"),
        ("etc/timezone", "Etc/before\n"),
        ("etc/locale.conf", "LC_TIME=C\nLANG=before\n"),
        ("etc/vconsole.conf", "FONT=ours\n"),
        ("usr/share/zoneinfo/Etc/before", ""),
        ("usr/share/zoneinfo/Etc/old", ""),
        ("usr/share/zoneinfo/Etc/new", ""),
    ] {
        tree.write(path, text);
    }
    symlink("../usr/share/zoneinfo/Etc/before", tree.at("etc/localtime")).unwrap();
    (site, tree)
}

impl World {
    fn new() -> Self {
        let files = std::env::var("KPULL_SWEEP").map_or(6, |number| number.parse().unwrap());
        let (site, tree) = enrolled("");
        let (sources, [old, new]) = sources(&site);
        site.role("base", &(role("old", files) + &old)).sign();
        tree.write("srv/1", "somebody's\n").write("srv/tree/theirs", "theirs");
        for dir in ["srv/app", "opt/tool"] {
            tree.write(&format!("{dir}/theirs"), "theirs").write(&format!("{dir}/same"), "theirs");
        }
        tree.write("etc/absent.new", "here\n").write("etc/absent.old", "here\n");
        symlink("before", tree.at("etc/link")).unwrap();
        tree.kpull("apply").exits(0);
        let new = role("new", files) + &new;
        site.role("base", &new).sign();
        Self { site, tree, new, files, _sources: sources }
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
        assert_eq!(differences(&tree.snapshot(), &wanted), [""; 0], "{when}");
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
        assert_eq!(differences(&tree.snapshot(), &wanted), [""; 0], "{when}");
    });
    assert!(writes > 3 * world.files, "the writes were found: {writes}");
}

#[test]
fn a_release_with_every_kind_is_undone_if_it_fails_at_its_end() {
    let world = World::new();
    // a path that can't be written to although it looks well
    symlink("/proc/self", world.tree.at("dead")).unwrap();
    world.tree.write("proc/self", "no directory");
    // a removed user does not return, and homes stay
    let is_left = |path: &String| !is_account(path) && !path.starts_with("home");
    let state = || world.tree.snapshot().into_iter().filter(|(path, _)| is_left(path)).collect::<Snapshot>();
    let before = state();
    let fails = "[[file]]\npath = \"/dead/end/file\"\ncontent = \"x\"\nafter = [\"unit:*\"]\n";
    world.site.role("base", &format!("{}{fails}", world.new)).sign();
    let run = world.tree.kpull("apply --json").exits(3);
    let changed = run.events("changed");
    assert!(changed.iter().any(|event| event["id"] == "unit:web.service"), "it fails at the end: {changed:?}");
    assert_eq!(differences(&state(), &before), [""; 0]);
}

/// The paths at which two trees differ, with what is there.
fn differences(one: &Snapshot, other: &Snapshot) -> Vec<String> {
    let shown = |tree: &Snapshot, path: &String| {
        tree.get(path).map(|(mode, content)| format!("{mode} {}", String::from_utf8_lossy(content)))
    };
    let paths: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let paths = paths.into_iter().filter(|path| one.get(*path) != other.get(*path));
    paths.map(|path| format!("{path}: {:?}, {:?}", shown(one, path), shown(other, path))).collect()
}

/// A file with accounts: of these, a release decides about single lines.
fn is_account(path: &str) -> bool {
    ["passwd", "group", "shadow"].iter().any(|name| path.ends_with(name))
}

#[test]
fn each_path_that_a_release_changes_is_corrected_if_it_becomes_as_it_was() {
    let world = World::new();
    let (old, new) = (world.tree.snapshot(), copy(&world.tree));
    new.kpull("apply").exits(0);
    let wanted = new.snapshot();
    let mut paths = 0;
    for (path, now) in wanted.iter().filter(|(path, _)| !is_account(path)) {
        let before = old.get(path);
        // a port, a value and a line of others beside those of the release are no drift, and neither is a former path that is none of it
        if before == Some(now)
            || ["etc/firewalld/zones/public.xml", "etc/made.toml", "etc/parted", "etc/absent.old"].contains(&&**path)
        {
            continue;
        }
        let at = new.at(path);
        match before {
            None if at.is_dir() && !at.is_symlink() => fs::remove_dir_all(&at).unwrap(),
            None => fs::remove_file(&at).unwrap(),
            Some((_, target)) if at.is_symlink() => {
                fs::remove_file(&at).unwrap();
                symlink(std::str::from_utf8(target).unwrap(), &at).unwrap();
            }
            Some((mode, content)) => {
                if at.is_file() {
                    fs::write(&at, content).unwrap();
                }
                let bits = u32::from_str_radix(mode, 8).unwrap() & 0o7777;
                fs::set_permissions(&at, fs::Permissions::from_mode(bits)).unwrap();
            }
        }
        let planned = new.kpull("plan --json").exits(2).changed();
        assert_ne!(planned, [""; 0], "{path}");
        assert_eq!(new.kpull("apply --json").exits(0).changed(), planned, "{path}");
        assert_eq!(differences(&new.snapshot(), &wanted), [""; 0], "{path}");
        paths += 1;
    }
    assert!(paths > 50, "{paths}");
}

/// Kinds that change nothing in a tree, or that need what other tests prepare.
const ELSEWHERE: [&str; 11] = [
    "certificate",
    "command",
    "etcd_key",
    "etcd_member",
    "filesystem",
    "kube_object",
    "probe",
    "secret",
    "selinux",
    "slot",
    "validate",
];

#[test]
fn a_killed_run_has_every_kind_that_leaves_something_in_a_tree() {
    let (_dir, [old, _]) = sources(&Site::new("test"));
    let role = role("old", 1) + &old;
    let missing = kpull::kind::KINDS.iter().map(|kind| kind.name).filter(|kind| !role.contains(&format!("[[{kind}]]")));
    assert_eq!(missing.collect::<Vec<_>>(), ELSEWHERE);
}

#[test]
fn every_fault_of_the_page_has_a_test() {
    assert!(crate::support::named::rows("development/faults.md") > 20);
}
