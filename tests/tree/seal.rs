//! The short way through a run with nothing to do, and that nothing slips through it.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use crate::apply::base;
use crate::site::{Site, Tree};

const ROLE: &str = r#"
[[directory]]
path = "/srv/data"
[[file]]
path = "/srv/data/a"
content = "a\n"
[[symlink]]
path = "/srv/link"
target = "data"
[[absent]]
path = "/srv/nothing"
[[user]]
name = "app"
"#;

/// A tree whose last run found nothing to do, long enough after everything was written.
fn sealed() -> (Site, Tree) {
    let site = base(ROLE);
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    settle(&tree);
    assert!(is_short(&tree));
    (site, tree)
}

/// Lets the times of everything become old, and runs once more.
fn settle(tree: &Tree) {
    std::thread::sleep(Duration::from_millis(2100));
    assert!(!is_short(tree));
}

/// Runs with nothing to do, and whether nothing was looked into.
fn is_short(tree: &Tree) -> bool {
    let apply = tree.kpull("apply --json").exits(0);
    assert_eq!(apply.changed(), [""; 0]);
    apply.events("done")[0]["sealed"].as_bool().unwrap()
}

#[test]
fn what_was_written_a_moment_ago_is_looked_at_again() {
    let site = base(ROLE);
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    assert!(!is_short(&tree) && !is_short(&tree));
}

#[test]
fn what_is_not_there_is_looked_at_again_while_its_directory_was_changed_a_moment_ago() {
    let (_site, tree) = sealed();
    fs::remove_file(tree.at("var/lib/kpull/seal.json")).unwrap();
    fs::write(tree.at("srv/other"), "").unwrap();
    fs::remove_file(tree.at("srv/other")).unwrap();
    assert!(!is_short(&tree) && !is_short(&tree));
    settle(&tree);
    assert!(is_short(&tree));
}

#[test]
fn every_kind_of_drift_is_seen_and_mended() {
    let (_site, tree) = sealed();
    let drifts: [(&str, &str, &dyn Fn()); 7] = [
        ("content", "file:/srv/data/a", &|| fs::write(tree.at("srv/data/a"), "b\n").unwrap()),
        ("mode", "file:/srv/data/a", &|| {
            fs::set_permissions(tree.at("srv/data/a"), fs::Permissions::from_mode(0o666)).unwrap();
        }),
        ("gone", "file:/srv/data/a", &|| fs::remove_file(tree.at("srv/data/a")).unwrap()),
        ("mode of a directory", "directory:/srv/data", &|| {
            fs::set_permissions(tree.at("srv/data"), fs::Permissions::from_mode(0o700)).unwrap();
        }),
        ("link", "symlink:/srv/link", &|| {
            fs::remove_file(tree.at("srv/link")).unwrap();
            std::os::unix::fs::symlink("elsewhere", tree.at("srv/link")).unwrap();
        }),
        ("there again", "absent:/srv/nothing", &|| fs::write(tree.at("srv/nothing"), "").unwrap()),
        ("account", "user:app", &|| fs::write(tree.at("etc/passwd"), "").unwrap()),
    ];
    for (what, id, drift) in drifts {
        drift();
        let changed = tree.kpull("apply --json").exits(0).changed();
        assert!(changed.contains(&id.to_owned()), "{what}: {changed:?}");
        std::thread::sleep(Duration::from_millis(2100));
        is_short(&tree);
        assert!(is_short(&tree), "{what}");
    }
    // what others put into a directory is none of ours
    tree.write("srv/data/others", "x");
    assert!(is_short(&tree));
}

#[test]
fn an_edit_with_the_old_size_and_the_old_time_is_seen() {
    let (_site, tree) = sealed();
    let file = File::options().write(true).open(tree.at("srv/data/a")).unwrap();
    let times: SystemTime = file.metadata().unwrap().modified().unwrap();
    std::io::Write::write_all(&mut &file, b"b\n").unwrap();
    file.set_modified(times).unwrap();
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), ["file:/srv/data/a"]);
    assert_eq!(tree.read("srv/data/a"), "a\n");
}

#[test]
fn what_decides_what_a_run_looks_at_breaks_the_seal() {
    let (site, tree) = sealed();
    tree.write("etc/kpull/kpull.toml", format!("{}\n# more\n", tree.read("etc/kpull/kpull.toml")));
    assert!(!is_short(&tree));
    settle(&tree);
    assert!(is_short(&tree));
    site.role("base", &ROLE.replace("a\\n", "A\\n")).sign();
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), ["file:/srv/data/a"]);
    settle(&tree);
    assert!(is_short(&tree));
    fs::write(tree.at("var/lib/kpull/seal.json"), "{").unwrap();
    assert!(!is_short(&tree), "a damaged seal is none");
    tree.kpull("hold file:/srv/data/a --reason r").exits(0);
    assert!(!is_short(&tree) && !is_short(&tree), "while something is held nothing is sealed");
}

#[test]
fn a_host_with_something_held_or_back_on_an_earlier_release_has_no_seal() {
    let (site, tree) = sealed();
    tree.kpull("hold file:/srv/data/a --reason r").exits(0);
    settle(&tree);
    assert!(!is_short(&tree), "the time of what is held may be over");
    tree.kpull("unhold file:/srv/data/a").exits(0);
    site.role("base", &ROLE.replace("a\\n", "A\\n")).sign();
    tree.kpull("apply").exits(0);
    tree.kpull("rollback").exits(0);
    settle(&tree);
    assert!(!is_short(&tree), "it may be time for the newest release");
}

#[test]
fn a_whole_look_can_be_asked_for_once_or_each_time() {
    let (_site, tree) = sealed();
    let full = tree.kpull("apply --full --json").exits(0);
    assert_eq!(full.events("done")[0]["sealed"], false);
    assert!(is_short(&tree));
    tree.write("etc/kpull/kpull.toml", format!("verify_every = \"0s\"\n{}", tree.read("etc/kpull/kpull.toml")));
    settle(&tree);
    assert!(!is_short(&tree));
}

/// Has the seal say of a file what `stat` says of it now, as a disk that loses bytes would: nobody has touched it.
fn deceive(tree: &Tree, path: &str) {
    use std::os::unix::fs::MetadataExt;

    let state = tree.at("var/lib/kpull/seal.json");
    let mut seal: serde_json::Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    let meta = tree.at(path).metadata().unwrap();
    let trace = seal["traces"].as_array_mut().unwrap().iter_mut().find(|one| one[0]["path"] == format!("/{path}"));
    let seen = &mut trace.unwrap()[1];
    seen["mtime"] = serde_json::json!([meta.mtime(), meta.mtime_nsec()]);
    seen["ctime"] = serde_json::json!([meta.ctime(), meta.ctime_nsec()]);
    fs::write(state, seal.to_string()).unwrap();
}

#[test]
fn a_whole_look_reads_what_stat_does_not_tell() {
    let (_site, tree) = sealed();
    tree.write("srv/data/a", "b\n");
    deceive(&tree, "srv/data/a");
    assert!(is_short(&tree), "stat tells nothing of it");
    assert_eq!(tree.kpull("apply --full --json").exits(0).changed(), ["file:/srv/data/a"]);
    assert_eq!(tree.read("srv/data/a"), "a\n");
}

#[test]
fn a_whole_look_at_the_end_of_a_seal_s_time_makes_it_good_again() {
    let (_site, tree) = sealed();
    let old = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(2);
    for name in ["seal", "contents"] {
        let state = tree.at(&format!("var/lib/kpull/{name}.json"));
        let mut seal: serde_json::Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
        seal["made"] = old.to_string().into();
        fs::write(&state, seal.to_string()).unwrap();
    }
    assert!(!is_short(&tree));
    assert!(is_short(&tree));
}

#[test]
fn what_has_a_secret_in_it_has_no_digest_anywhere() {
    let site = base("[[file]]\npath = \"/etc/token\"\ncontent = \"hunter2\"\nsensitive = true\n");
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    settle(&tree);
    assert!(is_short(&tree));
    assert!(!tree.at("var/lib/kpull/contents.json").exists());
    // and is looked into all the same
    tree.write("etc/token", "hunter3");
    deceive(&tree, "etc/token");
    assert_eq!(tree.kpull("apply --full --json").exits(0).changed(), ["file:/etc/token"]);
}
