//! Kernels from 3.10 on: what they lack is done without.

use std::fs;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, open, openat2};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;

use crate::kernel::{Version, like};
use crate::site::{Output, Site, Tree, command};

/// What a tree is made of at first: each way of writing, links on the way, and a directory to be removed with all that is in it.
const OLD: &str = r#"
vars.names = [1, 2, 3, 4, 5, 6]
[[file]]
for_each = "names"
path = "/srv/data/{{ item }}"
content = "{{ item }}\n"
[[file]]
path = "/link/through"
content = "by a link\n"
[[directory]]
path = "/srv/empty"
mode = "0750"
[[symlink]]
path = "/etc/link"
target = "hosts"
[[block]]
path = "/etc/hosts"
name = "cluster"
content = "10.0.0.1 h1"
[[user]]
name = "app"
[[unit]]
name = "web.service"
enable = true
content = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
"#;

/// What it is to become.
const NEW: &str = r#"
[[file]]
path = "/srv/data/1"
content = "new\n"
[[absent]]
path = "/srv/old"
recursive = true
"#;

/// The kernel lacks what it is said to lack, or the other tests show nothing.
#[test]
fn the_older_kernel_lacks_what_is_younger() {
    let answers = |version| {
        like(version, || {
            let nameless = open("/tmp", OFlag::O_TMPFILE | OFlag::O_RDWR, Mode::S_IRWXU).err();
            let memory = memfd_create(c"x", MFdFlags::empty()).err();
            let way = openat2(nix::fcntl::AT_FDCWD, "/", OpenHow::new().flags(OFlag::O_PATH)).err();
            (nameless, memory, way)
        })
    };
    assert_eq!(answers((3, 10)), (Some(Errno::EISDIR), Some(Errno::ENOSYS), Some(Errno::ENOSYS)));
    assert_eq!(answers((4, 18)), (None, None, Some(Errno::ENOSYS)));
    assert_eq!(answers((5, 14)), (None, None, None));
}

#[test]
fn on_linux_3_10_trees_are_made_changed_and_taken_back() {
    all_works_on((3, 10));
}

#[test]
fn on_linux_4_18_trees_are_made_changed_and_taken_back() {
    all_works_on((4, 18));
}

#[test]
fn on_linux_5_4_trees_are_made_changed_and_taken_back() {
    all_works_on((5, 4));
}

#[test]
fn on_linux_5_14_trees_are_made_changed_and_taken_back() {
    all_works_on((5, 14));
}

fn all_works_on(version: Version) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("demo");
    let demo = like(version, || Output::of(command(&["demo", "--dir", dir.to_str().unwrap()]).output().unwrap()));
    assert!(demo.exits(0).stdout.contains("nothing"), "the demo ends with nothing to do");
    let (old, new) = (a_tree_that_changes(version), a_tree_that_changes((99, 0)));
    assert_eq!(old, new, "every kernel makes the same of it");
}

/// Makes a tree, changes it and goes back; what it was after each step.
fn a_tree_that_changes(version: Version) -> Vec<crate::site::Snapshot> {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n").role("base", OLD);
    let tree = site.sign().enroll();
    let run = |arguments: &str| like(version, || tree.kpull(arguments));
    prepare(&tree);
    let mut states = Vec::new();
    run("apply").exits(0);
    states.push(tree.snapshot());
    run("plan").exits(0);

    tree.write("srv/data/3", "drift\n");
    run("plan").exits(2);
    assert_eq!(run("apply --json").exits(0).changed(), ["file:/srv/data/3"]);

    site.role("base", NEW).sign();
    run("apply").exits(0);
    assert!(!tree.at("srv/old").exists() && !tree.at("srv/data/2").exists());
    states.push(tree.snapshot());

    run("rollback").exits(0);
    states.push(tree.snapshot());
    states
}

fn prepare(tree: &Tree) {
    tree.write("etc/hosts", "127.0.0.1 localhost\n").write("real/x", "x\n");
    tree.write("srv/old/deep/er/file", "x\n").write("srv/old/file", "x\n");
    std::os::unix::fs::symlink("/real", tree.at("link")).unwrap();
    std::os::unix::fs::symlink("../../real", tree.at("srv/old/out")).unwrap();
    fs::create_dir(tree.at("srv/old/empty")).unwrap();
}
