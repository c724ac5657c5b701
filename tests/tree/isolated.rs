//! One resource that fails: what depends on it is left out, everything else is applied, and the release is blamed only for its
//! own faults.

use std::fs;

use crate::support::site::{Output, Site, Tree};
use crate::tree::apply::base;
use crate::tree::artifacts;

/// A user's file, what depends on it, and more that comes before and after.
const ROLE: &str = r#"
[[file]]
path = "/etc/first"
content = "1\n"
[[file]]
path = "/home/bob/.profile"
content = "kpull's\n"
[[file]]
path = "/home/bob/.profile.d"
content = "x\n"
after = ["file:/home/bob/.profile"]
[[file]]
path = "/srv/last"
content = "1\n"
"#;

/// A tree that was made from [`ROLE`].
fn made() -> (Site, Tree) {
    let site = base(ROLE);
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    (site, tree)
}

/// Has a directory with something in it in place of the user's file.
fn replace_by_a_directory(tree: &Tree) {
    fs::remove_file(tree.at("home/bob/.profile")).unwrap();
    tree.write("home/bob/.profile/mine", "mine\n");
}

/// The generation that the host has, and whether it is good.
fn generation(tree: &Tree) -> (u64, bool) {
    let all = tree.kpull("history --json").exits(0).json();
    let last = all.last().unwrap();
    (last["serial"].as_u64().unwrap(), last["good"].as_bool().unwrap())
}

#[track_caller]
fn names_the_profile(output: &Output) {
    let error = output.error();
    let text = error["error"].as_str().unwrap();
    assert!(text.contains("/home/bob/.profile"), "{error}");
    let help = error["help"].as_str().unwrap();
    assert!(help.contains("skipped because it depends on this: file:/home/bob/.profile.d"), "{error}");
}

#[test]
fn an_unusable_path_stops_only_the_resources_that_depend_on_it() {
    let (_site, tree) = made();
    replace_by_a_directory(&tree);
    for path in ["etc/first", "home/bob/.profile.d", "srv/last"] {
        tree.write(path, "drift\n");
    }
    let planned = tree.kpull("plan --json").exits(1);
    assert_eq!(planned.changed(), ["file:/etc/first", "file:/srv/last"]);
    names_the_profile(&planned);
    let applied = tree.kpull("apply --json").exits(1);
    assert_eq!(applied.changed(), ["file:/etc/first", "file:/srv/last"]);
    names_the_profile(&applied);
    assert_eq!((tree.read("srv/last").as_str(), tree.read("home/bob/.profile.d").as_str()), ("1\n", "drift\n"));
    assert_eq!(tree.read("home/bob/.profile/mine"), "mine\n");
    assert_eq!(generation(&tree), (1, true));
    // nothing more can be done, and it is still named
    names_the_profile(&tree.kpull("apply --json").exits(1));

    fs::remove_dir_all(tree.at("home/bob/.profile")).unwrap();
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), ["file:/home/bob/.profile", "file:/home/bob/.profile.d"]);
}

#[test]
fn an_earlier_failure_fails_no_release_and_the_release_that_drops_it_is_applied() {
    let (site, tree) = made();
    replace_by_a_directory(&tree);
    site.role("base", &ROLE.replace("1\\n", "2\\n").replace("kpull's", "new")).sign();
    names_the_profile(&tree.kpull("apply --json").exits(1));
    assert_eq!((tree.read("etc/first"), tree.read("srv/last")), ("2\n".to_owned(), "2\n".to_owned()));
    assert_eq!(generation(&tree), (2, true));
    assert!(!tree.kpull("status").exits(0).stdout.contains("not 2"), "nothing is held back");

    site.role("base", "[[file]]\npath = \"/srv/last\"\ncontent = \"3\\n\"\n").sign();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("srv/last"), "3\n");
    assert_eq!(tree.read("home/bob/.profile/mine"), "mine\n", "files of others stay");
    assert!(!tree.at("home/bob/.profile.d").exists());
    tree.kpull("plan").exits(0);
}

#[test]
fn a_fifo_and_a_deleted_owner_are_faults_of_the_host_too() {
    let site = base(&format!("{ROLE}[[file]]\npath = \"/srv/his\"\ncontent = \"h\\n\"\nowner = \"bob\"\n"));
    let tree = site.sign().enroll();
    let accounts = "root:x:0:0::/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n";
    tree.write("etc/passwd", accounts).write("etc/group", "root:x:0:\nbob:x:1000:\n");
    tree.kpull("apply").exits(0);
    fs::remove_file(tree.at("home/bob/.profile")).unwrap();
    nix::unistd::mkfifo(&tree.at("home/bob/.profile"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    tree.write("etc/passwd", "root:x:0:0::/root:/bin/sh\n").write("srv/last", "drift\n");
    let errors = tree.kpull("apply --json").exits(1).events("error");
    let texts: Vec<&str> = errors.iter().map(|error| error["error"].as_str().unwrap()).collect();
    assert!(texts.iter().any(|text| text.contains("bob")), "{texts:?}");
    assert_eq!(tree.read("srv/last"), "1\n");

    // neither is a later release to blame
    site.file("README", "news").sign();
    tree.kpull("apply").fails(1, "bob");
    assert_eq!(generation(&tree), (2, true));
}

#[test]
fn a_release_that_causes_the_fault_is_rolled_back_to_the_last_good_one() {
    for fault in [
        "[[file]]\npath = \"/srv/full\"\ncontent = \"x\\n\"\n",
        "[[file]]\npath = \"/etc/new\"\ncontent = \"x\\n\"\nowner = \"nobody-here\"\n",
        "[[symlink]]\npath = \"/srv/full\"\ntarget = \"x\"\n",
    ] {
        let (site, tree) = made();
        tree.write("srv/full/mine", "mine\n").write("etc/first", "drift\n");
        site.role("base", &format!("{}{fault}", ROLE.replace("1\\n", "2\\n"))).sign();
        let applied = tree.kpull("apply").exits(3);
        assert!(applied.stderr.contains("rolled back to release 1"), "{}", applied.stderr);
        assert_eq!((tree.read("etc/first"), tree.read("srv/last")), ("1\n".to_owned(), "1\n".to_owned()));
        // the newer release is named as long as the host stays on the earlier one
        for command in ["plan", "apply"] {
            let output = tree.kpull(command).exits(0);
            assert!(output.stdout.contains("this host stays on release 1 until"), "{}", output.stdout);
            let retry = format!("`kpull apply --retry --root {}` applies it anyway", tree.path().display());
            assert!(output.stdout.contains(&retry), "{}", output.stdout);
        }
    }
}

#[test]
fn an_orphan_that_can_not_be_restored_is_a_warning_until_disowned() {
    let site =
        base("[[file]]\npath = \"/etc/a\"\ncontent = \"a\\n\"\n[[file]]\npath = \"/etc/b\"\ncontent = \"b\\n\"\n");
    let tree = site.sign().enroll();
    tree.write("etc/a", "theirs\n");
    tree.kpull("apply").exits(0);
    // the copy of what stood there is lost
    for entry in fs::read_dir(tree.at("var/lib/kpull/saved")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    site.role("base", "[[file]]\npath = \"/etc/c\"\ncontent = \"c\\n\"\n").sign();
    for run in ["plan", "apply", "apply"] {
        let output = tree.kpull(run);
        assert!(output.code == if run == "plan" { 2 } else { 0 }, "{output:?}");
        assert!(output.stdout.contains("file:/etc/a: can't be restored"), "{}", output.stdout);
        let disown = format!("`kpull disown file:/etc/a --root {}`", tree.path().display());
        assert!(output.stdout.contains(&disown), "{}", output.stdout);
    }
    assert_eq!((tree.read("etc/a").as_str(), tree.read("etc/c").as_str()), ("a\n", "c\n"));
    assert!(!tree.at("etc/b").exists());
    assert_eq!(generation(&tree), (2, true));
    tree.kpull("disown file:/etc/a").exits(0);
    let quiet = tree.kpull("apply").exits(0);
    assert!(!quiet.stdout.contains("restored"), "{}", quiet.stdout);
    assert!(!tree.at("var/lib/kpull/owed.json").exists());
}

#[test]
fn without_an_artifact_a_first_run_applies_accounts_and_firewall_and_nothing_partly() {
    let site = artifacts::site(&["http://127.0.0.1:1/tool".to_owned()], b"tool", "\".\" = \"/usr/bin/tool\"");
    let role = fs::read_to_string(site.path().join("roles/base/role.toml")).unwrap();
    let basic = "[[user]]\nname = \"ops\"\n[[firewall]]\nzone = \"public\"\nports = [\"443/tcp\"]\n\
        [[file]]\npath = \"/etc/apt/sources.list.d/x.list\"\ncontent = \"\"\n";
    site.file("roles/base/role.toml", format!("{role}{basic}")).sign();
    let tree = site.enroll();
    let first = tree.kpull("apply --json").exits(1);
    let error = first.error();
    assert!(error["error"].as_str().unwrap().contains("tool"), "{error}");
    let mut changed = first.changed();
    changed.sort();
    assert!(changed.contains(&"user:ops".to_owned()), "{changed:?}");
    assert!(changed.contains(&"file:/etc/apt/sources.list.d/x.list".to_owned()), "packages need it: {changed:?}");
    assert!(tree.read("etc/firewalld/zones/public.xml").contains("443"));
    assert!(!tree.at("etc/tool.version").exists() && !tree.at("usr/bin/tool").exists());
    assert!(tree.kpull("history --json").exits(0).stdout.is_empty(), "no generation of what is not whole");
    // the next run stays at that, and names it again
    assert!(tree.kpull("apply --json").exits(1).changed().is_empty());

    // with a good release before, nothing of the next one is applied half
    site.file("roles/base/role.toml", format!("summary = \"x\"\n{basic}")).sign();
    tree.kpull("apply").exits(0);
    let more = basic.replace("443", "444");
    site.file("roles/base/role.toml", format!("{role}{more}")).sign();
    assert!(tree.kpull("apply --json").exits(1).events("done").is_empty());
    assert!(!tree.read("etc/firewalld/zones/public.xml").contains("444"));
}
