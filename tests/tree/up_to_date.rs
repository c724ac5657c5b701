//! The short way through a run with nothing to do, and that nothing slips through it.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::support::site::{Output, Site, Tree};
use crate::tree::apply::base;
use crate::tree::artifacts;

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
fn up_to_date() -> (Site, Tree) {
    let site = base(ROLE);
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    settle(&tree);
    assert!(is_up_to_date(&tree));
    (site, tree)
}

/// Lets the times of everything become old, and runs once more.
fn settle(tree: &Tree) {
    std::thread::sleep(Duration::from_millis(2100));
    assert!(!is_up_to_date(tree));
}

/// Runs with nothing to do, and returns whether the up-to-date check sufficed.
fn is_up_to_date(tree: &Tree) -> bool {
    let apply = tree.kpull("apply --json").exits(0);
    assert_eq!(apply.changed(), [""; 0]);
    apply.events("done")[0]["up_to_date"].as_bool().unwrap()
}

#[test]
fn a_file_that_was_written_a_moment_ago_is_checked_again() {
    let site = base(ROLE);
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    assert!(!is_up_to_date(&tree) && !is_up_to_date(&tree));
}

#[test]
fn a_missing_path_is_checked_again_if_its_directory_changed_a_moment_ago() {
    let (_site, tree) = up_to_date();
    fs::remove_file(tree.at("var/lib/kpull/seal.json")).unwrap();
    fs::write(tree.at("srv/other"), "").unwrap();
    fs::remove_file(tree.at("srv/other")).unwrap();
    assert!(!is_up_to_date(&tree) && !is_up_to_date(&tree));
    settle(&tree);
    assert!(is_up_to_date(&tree));
}

#[test]
fn a_path_directly_below_the_root_is_in_the_up_to_date_check_too() {
    let site = base("[[absent]]\npath = \"/nowhere/at/all\"\n");
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    settle(&tree);
    assert!(is_up_to_date(&tree));
    tree.write("nowhere/at/all", "");
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), ["absent:/nowhere/at/all"]);
}

#[test]
fn every_kind_of_drift_is_seen_and_corrected() {
    let (_site, tree) = up_to_date();
    let drifts: [(&str, &str, &dyn Fn()); 8] = [
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
        ("home", "user:app", &|| fs::remove_dir(tree.at("home/app")).unwrap()),
        ("account", "user:app", &|| fs::write(tree.at("etc/passwd"), "").unwrap()),
    ];
    for (what, id, drift) in drifts {
        drift();
        let changed = tree.kpull("apply --json").exits(0).changed();
        assert!(changed.contains(&id.to_owned()), "{what}: {changed:?}");
        std::thread::sleep(Duration::from_millis(2100));
        is_up_to_date(&tree);
        assert!(is_up_to_date(&tree), "{what}");
    }
    // what others put into a directory is none of ours
    tree.write("srv/data/others", "x");
    assert!(is_up_to_date(&tree));
}

#[test]
fn an_edit_with_the_old_size_and_the_old_time_is_seen() {
    let (_site, tree) = up_to_date();
    let file = File::options().write(true).open(tree.at("srv/data/a")).unwrap();
    let times: SystemTime = file.metadata().unwrap().modified().unwrap();
    std::io::Write::write_all(&mut &file, b"b\n").unwrap();
    file.set_modified(times).unwrap();
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), ["file:/srv/data/a"]);
    assert_eq!(tree.read("srv/data/a"), "a\n");
}

#[test]
fn a_change_of_what_a_run_checks_causes_a_full_check() {
    let (site, tree) = up_to_date();
    tree.write("etc/kpull/kpull.toml", format!("{}\n# more\n", tree.read("etc/kpull/kpull.toml")));
    assert!(!is_up_to_date(&tree));
    settle(&tree);
    assert!(is_up_to_date(&tree));
    tree.write("etc/kpull/allowed_signers", tree.read("etc/kpull/allowed_signers"));
    assert!(!is_up_to_date(&tree));
    site.role("base", &ROLE.replace("a\\n", "A\\n")).sign();
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), ["file:/srv/data/a"]);
    settle(&tree);
    assert!(is_up_to_date(&tree));
    fs::write(tree.at("var/lib/kpull/seal.json"), "{").unwrap();
    assert!(!is_up_to_date(&tree), "a damaged seal is none");
    tree.kpull("hold file:/srv/data/a --reason r").exits(0);
    assert!(!is_up_to_date(&tree) && !is_up_to_date(&tree), "during a pause there is no up-to-date check");
}

#[test]
fn another_version_of_kpull_causes_a_full_check() {
    let (_site, tree) = up_to_date();
    let program = tree.at("kpull");
    fs::copy(env!("CARGO_BIN_EXE_kpull"), &program).unwrap();
    let apply = Command::new(program).args(["apply", "--json", "--root"]).arg(tree.path()).output().unwrap();
    assert_eq!(Output::of(apply).exits(0).events("done")[0]["up_to_date"], false);
}

#[test]
fn a_host_with_a_pause_or_a_stay_on_has_no_up_to_date_check() {
    let (site, tree) = up_to_date();
    tree.kpull("hold file:/srv/data/a --reason r").exits(0);
    settle(&tree);
    assert!(!is_up_to_date(&tree), "the time of what is held may be over");
    tree.kpull("unhold file:/srv/data/a").exits(0);
    site.role("base", &ROLE.replace("a\\n", "A\\n")).sign();
    tree.kpull("apply").exits(0);
    tree.kpull("rollback").exits(0);
    settle(&tree);
    assert!(!is_up_to_date(&tree), "it may be time for the newest release");
}

#[test]
fn a_full_check_can_be_requested_once_or_for_each_run() {
    let (_site, tree) = up_to_date();
    let full = tree.kpull("apply --full --json").exits(0);
    assert_eq!(full.events("done")[0]["up_to_date"], false);
    assert!(is_up_to_date(&tree));
    tree.write("etc/kpull/kpull.toml", format!("verify_every = \"0s\"\n{}", tree.read("etc/kpull/kpull.toml")));
    settle(&tree);
    assert!(!is_up_to_date(&tree));
}

/// Changes what stands in a file of the state directory.
fn edit(tree: &Tree, name: &str, change: impl FnOnce(&mut Value)) {
    let path = tree.at("var/lib/kpull").join(name);
    let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Makes the up-to-date record and its digests two hours old.
fn age(tree: &Tree) {
    let made = Timestamp::now() - SignedDuration::from_hours(2);
    for name in ["seal.json", "contents.json"] {
        edit(tree, name, |record| record["made"] = json!(made));
    }
}

/// Runs with nothing to do, and returns whether the run trusted the record: the record counts one resource more than there is.
fn is_trusted(tree: &Tree, how: &str) -> bool {
    let mut count = 0;
    edit(tree, "seal.json", |record| {
        count = record["resources"].as_u64().unwrap();
        record["resources"] = json!(count + 1);
    });
    let apply = tree.kpull(&format!("apply --json{how}")).exits(0);
    assert_eq!(apply.changed(), [""; 0]);
    edit(tree, "seal.json", |record| record["resources"] = json!(count));
    apply.events("done")[0]["resources"] == count + 1
}

/// What a disk does that loses bytes: another content, and the record has the current result of `stat`, as if no one had
/// changed the file.
fn lose(tree: &Tree, path: &str, content: &[u8]) {
    use std::os::unix::fs::MetadataExt;

    fs::write(tree.at(path), content).unwrap();
    let meta = tree.at(path).metadata().unwrap();
    let forget = |seen: &mut Value| {
        seen["mtime"] = json!([meta.mtime(), meta.mtime_nsec()]);
        seen["ctime"] = json!([meta.ctime(), meta.ctime_nsec()]);
        assert_eq!(seen["size"], meta.size());
    };
    edit(tree, "seal.json", |record| {
        match record["inputs"].as_object_mut().unwrap().iter_mut().find(|(input, _)| input.ends_with(path)) {
            Some((_, seen)) => forget(seen),
            None => {
                let mut inputs = record["traces"].as_array_mut().unwrap().iter_mut();
                forget(&mut inputs.find(|one| one[0]["path"] == format!("/{path}")).unwrap()[1]);
            }
        }
    });
}

#[test]
fn an_up_to_date_record_of_another_host_or_time_or_expired_release_does_not_count() {
    let (_site, tree) = up_to_date();
    let (soon, just_now) =
        (Timestamp::now() + SignedDuration::from_hours(1), Timestamp::now() - SignedDuration::from_secs(1));
    for (field, value) in [
        ("program", json!("0.0.0")),
        ("host", json!("h2")),
        ("facts", json!("0")),
        ("made", json!(soon)),
        ("created", json!(soon)),
        ("expires", json!(just_now)),
        ("inputs", json!({})),
        ("traces", json!([[{ "path": "/srv/data" }, null]])),
    ] {
        edit(&tree, "seal.json", |record| record[field] = value);
        assert!(!is_up_to_date(&tree), "{field}");
        assert!(is_up_to_date(&tree), "{field}");
    }
}

#[test]
fn another_system_in_a_tree_causes_a_full_check() {
    let site = base("[[file]]\npath = \"/etc/a\"\ncontent = \"{{ facts.os.version }}\\n\"\n");
    let tree = site.sign().enroll();
    tree.write("etc/os-release", "ID=debian\nVERSION_ID=12\n");
    tree.kpull("apply").exits(0);
    settle(&tree);
    assert!(is_up_to_date(&tree));
    tree.write("etc/os-release", "ID=debian\nVERSION_ID=13\n");
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), ["file:/etc/a"]);
    assert_eq!(tree.read("etc/a"), "13\n");
}

#[test]
fn an_owner_or_a_group_with_another_number_causes_a_full_check() {
    let site = base("[[file]]\npath = \"/etc/a\"\ncontent = \"a\\n\"\nowner = \"app\"\ngroup = \"team\"\n");
    let tree = site.sign().enroll();
    let files = [
        ("etc/passwd", "app:x:NUMBER:4711::/:/bin/sh\n", nix::unistd::geteuid().as_raw()),
        ("etc/group", "team:x:NUMBER:\n", nix::unistd::getegid().as_raw()),
    ];
    let write = |(file, line, _): (&str, &str, u32), number: u32| {
        tree.write(file, line.replace("NUMBER", &number.to_string()));
    };
    for one in files {
        write(one, one.2);
    }
    for one in files {
        tree.kpull("apply").exits(0);
        settle(&tree);
        assert!(is_up_to_date(&tree));
        write(one, 4711);
        let apply = tree.kpull("apply --json");
        assert!(apply.stdout.contains("owner → app:team") || apply.stderr.contains("owner"), "{}", apply.stdout);
        write(one, one.2);
    }
}

#[test]
fn a_host_that_can_no_longer_be_up_to_date_has_no_up_to_date_record() {
    let (_site, tree) = up_to_date();
    let mode = fs::Permissions::from_mode(0o644);
    fs::set_permissions(tree.at("srv/data/a"), mode).unwrap();
    assert!(!is_up_to_date(&tree));
    assert!(!tree.at("var/lib/kpull/seal.json").exists());
}

#[test]
fn a_full_check_reads_contents_that_stat_does_not_show() {
    let (_site, tree) = up_to_date();
    assert!(is_trusted(&tree, " --full"), "all of it is unchanged");
    lose(&tree, "srv/data/a", b"b\n");
    assert!(is_up_to_date(&tree), "stat shows nothing of it");
    assert_eq!(tree.kpull("apply --full --json").exits(0).changed(), ["file:/srv/data/a"]);
    assert_eq!(tree.read("srv/data/a"), "a\n");
}

#[test]
fn a_full_check_reads_the_files_that_decide_what_it_checks() {
    let (_site, tree) = up_to_date();
    let kept = fs::read(tree.at("var/lib/kpull/release.tar")).unwrap();
    lose(&tree, "var/lib/kpull/release.tar", &vec![0; kept.len()]);
    assert!(is_up_to_date(&tree));
    tree.kpull("apply --full").exits(0);
    assert_eq!(fs::read(tree.at("var/lib/kpull/release.tar")).unwrap(), kept);
}

#[test]
fn a_full_check_compares_with_the_digests_of_its_own_record() {
    let (_site, tree) = up_to_date();
    edit(&tree, "contents.json", |contents| contents["made"] = json!(Timestamp::UNIX_EPOCH));
    assert!(!is_trusted(&tree, " --full"));
    assert!(is_trusted(&tree, " --full"));
    fs::remove_file(tree.at("var/lib/kpull/contents.json")).unwrap();
    assert!(!is_trusted(&tree, " --full"));
}

#[test]
fn a_full_check_when_the_up_to_date_record_expires_renews_it() {
    let (_site, tree) = up_to_date();
    age(&tree);
    assert!(is_trusted(&tree, ""));
    assert!(is_up_to_date(&tree));
    assert!(is_trusted(&tree, " --full"));
    age(&tree);
    assert!(!is_up_to_date(&tree), "it was a full check");
    age(&tree);
    lose(&tree, "srv/data/a", b"b\n");
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), ["file:/srv/data/a"]);
}

#[test]
fn a_large_file_is_read_on_request_and_not_once_an_hour() {
    let mut content = vec![b'a'; (8 << 20) + 1];
    let site = base("[[file]]\npath = \"/srv/large\"\nsource = \"large\"\n");
    let tree = site.file("roles/base/files/large", &content).sign().enroll();
    tree.kpull("apply").exits(0);
    settle(&tree);
    assert!(is_up_to_date(&tree) && is_trusted(&tree, " --full"));
    content[5] = b'b';
    lose(&tree, "srv/large", &content);
    age(&tree);
    assert!(is_trusted(&tree, "") && is_up_to_date(&tree));
    assert_eq!(tree.kpull("apply --full --json").exits(0).changed(), ["file:/srv/large"]);
}

#[test]
fn an_installed_file_that_the_disk_corrupted_is_installed_again() {
    for (size, how) in [(100, ""), (100, " --full"), ((8 << 20) + 1, " --full")] {
        let mut content = artifacts::bytes(size);
        let (_publisher, url) = artifacts::published("tool", &content);
        let site = artifacts::site(&[url], &content, "tool = \"/usr/bin/tool\"");
        let tree = site.sign().enroll();
        tree.kpull("apply").exits(0);
        // whose digest is known from now on
        std::thread::sleep(Duration::from_millis(3100));
        settle(&tree);
        assert!(is_up_to_date(&tree));
        content[5] ^= 1;
        lose(&tree, "usr/bin/tool", &content);
        edit(&tree, "stamps.json", |stamps| {
            use std::os::unix::fs::MetadataExt;

            let meta = tree.at("usr/bin/tool").metadata().unwrap();
            let stamp = stamps.as_object_mut().unwrap().values_mut().next().unwrap();
            stamp[0]["mtime"] = json!([meta.mtime(), meta.mtime_nsec()]);
            stamp[0]["ctime"] = json!([meta.ctime(), meta.ctime_nsec()]);
        });
        age(&tree);
        assert_eq!(tree.kpull(&format!("apply --json{how}")).exits(0).changed(), ["artifact:tool"], "{size}");
    }
}

#[test]
fn no_digest_of_a_content_with_a_secret_is_stored() {
    let plain = "[[file]]\npath = \"/etc/token\"\ncontent = \"hunter2\"\n";
    let more = "[[file]]\npath = \"/etc/more\"\ncontent = \"hunter2\"\nsensitive = true\n";
    let site = base(plain);
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    settle(&tree);
    assert!(tree.at("var/lib/kpull/contents.json").exists());
    // not from a time before it was one either
    site.role("base", &format!("{plain}sensitive = true\n{more}")).sign();
    tree.kpull("apply").exits(0);
    settle(&tree);
    assert!(is_up_to_date(&tree));
    assert!(!tree.at("var/lib/kpull/contents.json").exists());
    // and is checked nevertheless
    lose(&tree, "etc/token", b"hunter3");
    assert_eq!(tree.kpull("apply --full --json").exits(0).changed(), ["file:/etc/token"]);
}
