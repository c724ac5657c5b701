//! Who else may write what root goes by: the configuration, the keys that it names, the program of a hook, the directories above.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};
use std::path::Path;
use std::process::Command;

use crate::support::site::{Output, Site, Tree, command, kpull};

const NOBODY: u32 = 65534;

/// A site and a tree of root's that belongs to it.
fn world() -> (Site, Tree) {
    assert!(nix::unistd::geteuid().is_root(), "these attacks are on root");
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n")
        .role("base", "[[file]]\npath = \"/etc/a\"\ncontent = \"x\"\n")
        .sign();
    let tree = site.enroll();
    (site, tree)
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Changes a tree so that another user can write to it; kpull refuses it, and the command in the message corrects it.
fn is_refused_and_corrected(what: &str, tree: &Tree, why: &str) {
    let output = tree.kpull("apply --json").exits(1);
    let error = output.error();
    let text = error["error"].as_str().unwrap();
    assert_eq!(error["code"], "host.config", "{what}: {error}");
    assert!(text.contains(" is not safe for root: ") && text.ends_with(why), "{what}: {error}");
    assert!(!tree.at("etc/a").exists(), "{what}");
    let command = error["help"].as_str().unwrap().split('`').nth(1).unwrap().to_owned();
    let corrected = Command::new("sh").args(["-c", &command]).status().unwrap();
    assert!(corrected.success(), "{what}: {command}");
    tree.kpull("apply").exits(0);
    fs::remove_file(tree.at("etc/a")).unwrap();
}

#[test]
fn root_follows_no_configuration_that_another_user_can_write() {
    let (_site, tree) = world();
    let of_nobody = "it belongs to user 65534";
    for path in ["etc/kpull/kpull.toml", "etc/kpull/allowed_signers", "etc/kpull", "etc", "etc/kpull/trust.toml"] {
        let at = tree.at(path);
        let (own, is_dir) = (fs::metadata(&at).unwrap().permissions().mode(), at.is_dir());
        chown(&at, Some(NOBODY), None).unwrap();
        is_refused_and_corrected(path, &tree, of_nobody);
        mode(&at, own | 0o020);
        is_refused_and_corrected(
            path,
            &tree,
            &format!("its group can write to it (its mode is {:04o})", own & 0o7777 | 0o020),
        );
        mode(&at, own | 0o002);
        is_refused_and_corrected(
            path,
            &tree,
            &format!("every user can write to it (its mode is {:04o})", own & 0o7777 | 0o002),
        );
        if is_dir {
            // as /tmp is: no other user can replace a file of root there
            mode(&at, own & 0o777 | 0o1777);
            tree.kpull("apply").exits(0);
            fs::remove_file(tree.at("etc/a")).unwrap();
            mode(&at, own & 0o777);
        }
    }
}

#[test]
fn root_follows_no_link_that_another_user_made_or_owns_the_target_of() {
    let (_site, tree) = world();
    let (path, theirs) = (tree.at("etc/kpull/kpull.toml"), tempfile::tempdir().unwrap());
    let real = theirs.path().join("kpull.toml");
    fs::rename(&path, &real).unwrap();
    fs::copy(tree.at("etc/kpull/allowed_signers"), theirs.path().join("allowed_signers")).unwrap();
    symlink(&real, &path).unwrap();
    tree.kpull("apply").exits(0);
    fs::remove_file(tree.at("etc/a")).unwrap();
    chown(theirs.path(), Some(NOBODY), None).unwrap();
    is_refused_and_corrected("the directory that the link points to", &tree, "it belongs to user 65534");
    lchown(&path, Some(NOBODY), None).unwrap();
    is_refused_and_corrected("a link of another user", &tree, "it belongs to user 65534");
    // a circle is the kernel's to refuse
    fs::remove_file(&path).unwrap();
    symlink("kpull.toml", &path).unwrap();
    let error = tree.kpull("apply --json").exits(1).error();
    assert!(error["error"].as_str().unwrap().starts_with("can't read the configuration "), "{error}");
}

#[test]
fn root_starts_no_hook_that_another_user_can_write() {
    let (site, tree) = world();
    tree.write("hook", "#!/bin/sh\n");
    let hook = tree.at("hook");
    mode(&hook, 0o777);
    let source = site.path().display();
    tree.configure(&format!("[[source]]\ndir = \"{source}\"\n[[hook]]\non = [\"change\"]\ncommand = [{hook:?}]\n"));
    is_refused_and_corrected("a hook", &tree, "every user can write to it (its mode is 0777)");
}

#[test]
fn a_tree_whose_configuration_root_does_not_own_is_applied_as_before() {
    // a tree of another user that root names, an image for instance
    let (site, tree) = world();
    for path in ["", "etc", "etc/kpull", "etc/kpull/kpull.toml", "etc/kpull/allowed_signers"] {
        chown(tree.path().join(path), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    mode(&tree.at("etc/kpull/kpull.toml"), 0o664);
    tree.kpull("apply").exits(0);
    // the same configuration for another tree, or for the machine, is theirs and not root's
    let other = Tree::new();
    let config = tree.at("etc/kpull/kpull.toml").display().to_string();
    let output = kpull(&["plan", "--json", "--config", &config, "--root", other.path().to_str().unwrap()]);
    assert!(output.exits(1).error()["error"].as_str().unwrap().ends_with("it belongs to user 65534"));
    // a user who is not root can use any configuration
    use std::os::unix::process::CommandExt as _;
    let (own, program) = (Tree::new(), tempfile::tempdir().unwrap());
    own.configure(&format!("[[source]]\ndir = {:?}\n", site.path()));
    for path in ["", "etc", "etc/kpull", "etc/kpull/kpull.toml", "etc/kpull/allowed_signers"] {
        chown(own.path().join(path), Some(1234), Some(1234)).unwrap();
        mode(&own.path().join(path), 0o777);
    }
    for dir in [site.path(), program.path()] {
        mode(dir, 0o755);
    }
    let copy = program.path().join("kpull");
    fs::copy(env!("CARGO_BIN_EXE_kpull"), &copy).unwrap();
    let mut apply = Command::new(&copy);
    apply.args(["apply", "--root"]).arg(own.path()).uid(1234).gid(1234);
    Output::of(apply.output().unwrap()).exits(0);
    assert_eq!(own.read("etc/a"), "x");
}

#[test]
fn root_of_a_container_accepts_files_of_an_unmapped_owner() {
    let (_site, tree) = world();
    chown(tree.at("etc/kpull/kpull.toml"), Some(1234), Some(1234)).unwrap();
    assert_eq!(tree.kpull("apply").code, 1);
    // where only root is a user, it is the machine around that says whose it is
    let inside = command(&["apply", "--root", tree.path().to_str().unwrap()]);
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user"]).arg(inside.get_program()).args(inside.get_args());
    mode(&tree.at("etc/kpull/kpull.toml"), 0o644);
    Output::of(unshare.output().unwrap()).exits(0);
    assert_eq!(tree.read("etc/a"), "x");
}

#[test]
fn a_world_readable_secret_of_the_configuration_is_reported_in_each_run() {
    let (site, tree) = world();
    tree.write("etc/token", "secret-token");
    let (token, source) = (tree.at("etc/token"), site.path().display());
    let hook = "[[hook]]\non = [\"recovery\"]\npost = \"https://hooks.example/T0/secret\"\nbearer = \"../token\"\n";
    tree.configure(&format!("[[source]]\ndir = \"{source}\"\n{hook}"));
    mode(tree.path(), 0o755);
    let reported = |command: &str| -> Vec<String> {
        let events = tree.kpull(command).events("exposed");
        events.iter().map(|event| event["error"].as_str().unwrap().to_owned()).collect()
    };
    let config = tree.at("etc/kpull/kpull.toml");
    let of =
        |path: &Path, what: &str| format!("every user of this host can read {}, which contains {what}", path.display());
    let both = [of(&tree.at("etc/kpull/../token"), "a secret"), of(&config, "the address of a hook")];
    assert_eq!(reported("plan --json"), both);
    assert_eq!(reported("apply --json"), both);
    assert_eq!(reported("apply --json"), both, "also when there is nothing to do");
    let text = tree.kpull("apply").exits(0);
    assert!(!text.stdout.contains("T0/secret") && text.stdout.contains("`chmod o-rwx "), "{text:?}");
    mode(&token, 0o640);
    assert_eq!(reported("plan --json"), both[1..]);
    mode(&tree.at("etc/kpull"), 0o700);
    assert_eq!(reported("plan --json"), [""; 0], "no other user reaches the file");
}
