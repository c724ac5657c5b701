//! Rollback and undo: orphans are pruned, their prior state returns, and so does a whole release.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::symlink;

use crate::support::site::{Site, Tree};
use crate::tree::apply::base;

const MANY: &str = r#"
[[directory]]
path = "/srv/made"
[[file]]
path = "/srv/made/inside"
content = "kpull's\n"
[[file]]
path = "/etc/was.conf"
content = "kpull's\n"
mode = "0600"
[[symlink]]
path = "/etc/link"
target = "was.conf"
[[block]]
path = "/etc/hosts"
name = "cluster"
content = "10.0.0.1 h1"
[[absent]]
path = "/etc/old.conf"
[[sysctl]]
name = "net.ipv4.ip_forward"
value = 1
[[unit]]
name = "web.service"
enable = true
content = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
[unit.dropins]
"10-more.conf" = "[Service]\nNice=5\n"
[[firewall]]
zone = "public"
ports = ["443/tcp", "22/tcp"]
"#;

/// A tree with something of its own, and a site that takes most of it over.
fn own() -> (Site, Tree) {
    let site = base(MANY);
    let tree = site.sign().enroll();
    tree.write("etc/was.conf", "somebody's\n")
        .write("etc/old.conf", "old\n")
        .write("etc/hosts", "127.0.0.1 localhost\n");
    symlink("nowhere", tree.at("etc/link")).unwrap();
    tree.write(
        "etc/firewalld/zones/public.xml",
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<zone>\n  <port port=\"22\" protocol=\"tcp\"/>\n</zone>\n",
    );
    (site, tree)
}

#[test]
fn orphans_return_to_their_prior_state() {
    let (site, tree) = own();
    let before = tree.snapshot();
    tree.kpull("apply").exits(0);
    assert!(tree.at("etc/systemd/system/multi-user.target.wants/web.service").symlink_metadata().is_ok());
    assert_eq!(tree.read("etc/was.conf"), "kpull's\n");

    site.role("base", "").sign();
    let plan = tree.kpull("plan --json").exits(2);
    assert!(plan.changed().contains(&"unit:web.service".to_owned()), "{:?}", plan.changed());
    let planned = plan.events("planned");
    assert!(planned.iter().all(|event| event["role"] == "(orphan)"), "{planned:?}");
    let mut changed = tree.kpull("apply --json").exits(0).changed();
    let mut wanted = plan.changed();
    changed.sort();
    wanted.sort();
    assert_eq!(changed, wanted);

    let mut after = tree.snapshot();
    // which kpull's own state is in
    after.retain(|path, _| before.contains_key(path) || !["var", "var/lib"].contains(&path.as_str()));
    assert_eq!(after, before);
    tree.kpull("plan").exits(0);
}

#[test]
fn an_orphaned_directory_with_files_of_others_stays() {
    let (site, tree) = own();
    tree.kpull("apply").exits(0);
    tree.write("srv/made/mine", "x");
    site.role("base", "").sign();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("srv/made/mine"), "x");
    assert!(!tree.at("srv/made/inside").exists());
}

#[test]
fn an_edit_by_hand_is_saved_before_it_is_overwritten_or_removed() {
    let (site, tree) = own();
    tree.kpull("apply").exits(0);
    tree.write("etc/was.conf", "edited\n");
    let apply = tree.kpull("apply").exits(0);
    assert!(apply.stdout.contains("/etc/was.conf was edited by hand: saved"), "{}", apply.stdout);
    tree.write("srv/made/inside", "edited too\n");
    site.role("base", "").sign();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/was.conf"), "somebody's\n");

    let saved = tree.kpull("history --edits --json").exits(0);
    let edits: Vec<serde_json::Value> = saved.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let texts: Vec<_> = edits.iter().map(|edit| fs::read_to_string(edit["saved"].as_str().unwrap()).unwrap()).collect();
    assert_eq!(texts, ["edited\n", "edited too\n"]);
    assert_eq!(edits[1]["path"], "/srv/made/inside");
}

#[test]
fn prior_state_is_restored_even_if_a_release_found_nothing_to_change() {
    let site = base("[[file]]\npath = \"/etc/a\"\ncontent = \"a\\n\"\n");
    let tree = site.sign().enroll();
    tree.write("etc/a", "a\n");
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);
    tree.write("etc/a", "edited\n");
    tree.kpull("apply").exits(0);
    site.role("base", "").sign();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/a"), "a\n");
}

#[test]
fn a_path_that_another_kind_takes_over_is_not_restored_in_between() {
    let site = base("[[file]]\npath = \"/etc/x\"\ncontent = \"one\\n\"\n");
    let tree = site.sign().enroll();
    tree.write("etc/x", "somebody's\n");
    tree.kpull("apply").exits(0);
    site.role("base", "[[template]]\npath = \"/etc/x\"\ntemplate = \"x\"\n")
        .file("roles/base/templates/x", "two\n")
        .sign();
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), ["template:/etc/x"]);
    site.role("base", "").sign();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/x"), "somebody's\n");
}

#[test]
fn a_disowned_resource_stays_when_its_role_is_removed() {
    let (site, tree) = own();
    tree.kpull("apply").exits(0);
    tree.kpull("disown file:/etc/was.conf").exits(0);
    let error = tree.kpull("disown file:/etc/was.con --json").exits(1).error();
    assert_eq!(error["help"], "did you mean `file:/etc/was.conf`?");
    site.role("base", "").sign();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/was.conf"), "kpull's\n");
    assert!(!tree.at("srv/made/inside").exists());
    tree.kpull("disown file:/etc/was.conf").fails(1, "this host has no resource `file:/etc/was.conf`");
}

#[test]
fn orphaned_files_are_pruned_after_new_files_and_before_the_first_unit() {
    let role = |name: &str, more: &str| {
        format!(
            "[[file]]\npath = \"/etc/{name}\"\ncontent = \"x\"\n[[unit]]\nname = \"web.service\"\ncontent = \"[Service]\\nExecStart=/bin/true\\n[Install]\\nWantedBy=multi-user.target\\n\"\n{more}"
        )
    };
    let site = base(&role("old", ""));
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    site.role("base", &role("new", "enable = true\n")).sign();
    let changed = tree.kpull("apply --json").exits(0).changed();
    assert_eq!(changed, ["file:/etc/new", "absent:/etc/old", "unit:web.service"]);
    // without a unit as well; one that goes is disabled while its file is there
    site.role("base", "[[file]]\npath = \"/etc/newer\"\ncontent = \"x\"\n").sign();
    let changed = tree.kpull("apply --json").exits(0).changed();
    assert_eq!(
        changed,
        [
            "unit:web.service",
            "file:/etc/newer",
            "absent:/etc/systemd/system/web.service",
            "absent:/etc/systemd/system",
            "absent:/etc/systemd",
            "absent:/etc/new"
        ]
    );
}

#[test]
fn a_held_resource_is_left_alone_until_its_hold_ends() {
    let (site, tree) = own();
    tree.kpull("apply").exits(0);
    assert!(tree.kpull("hold file:/etc/was.conf --for 8x --reason r").stderr.contains("write it like 90m, 8h or 3d"));
    tree.kpull("hold file:/etc/was.conf --for 2h --reason hotfix").exits(0);
    tree.write("etc/was.conf", "hotfix\n");
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);
    assert_eq!(tree.read("etc/was.conf"), "hotfix\n");
    let status = tree.kpull("status").exits(0).stdout;
    assert!(status.contains("paused      file:/etc/was.conf until") && status.contains("hotfix"), "{status}");
    site.role("base", &MANY.replace("kpull's\\n\"\nmode", "newer\\n\"\nmode")).sign();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/was.conf"), "hotfix\n");
    tree.kpull("unhold file:/etc/was.conf").exits(0);
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/was.conf"), "newer\n");
    assert!(tree.kpull("unhold file:/etc/was.conf").stderr.contains("is not held"));
}

#[test]
fn a_held_orphan_is_pruned_when_its_hold_ends() {
    let (site, tree) = own();
    tree.kpull("apply").exits(0);
    tree.kpull("hold file:/etc/was.conf --for 2h --reason hotfix").exits(0);
    tree.write("etc/was.conf", "hotfix\n");
    tree.kpull("plan").exits(0);
    site.role("base", "").sign();
    let planned = tree.kpull("plan --json").exits(2).changed();
    assert!(planned.contains(&"absent:/srv/made/inside".to_owned()), "{planned:?}");
    assert!(!planned.contains(&"file:/etc/was.conf".to_owned()), "{planned:?}");
    tree.kpull("apply").exits(0);
    assert!(!tree.at("srv/made/inside").exists());
    let remembered = || tree.at("var/lib/kpull/before.json").metadata().unwrap().ino();
    let first = remembered();
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);
    assert_eq!(remembered(), first, "nothing is written again while it waits");
    assert_eq!(tree.read("etc/was.conf"), "hotfix\n");
    tree.kpull("unhold file:/etc/was.conf").exits(0);
    assert_eq!(tree.kpull("plan --json").exits(2).changed(), ["file:/etc/was.conf"]);
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/was.conf"), "somebody's\n");
    tree.kpull("plan").exits(0);
    tree.write("etc/was.conf", "mine\n");
    site.role("base", "[[file]]\npath = \"/etc/newer\"\ncontent = \"x\"\n").sign();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/was.conf"), "mine\n", "it is given back once");
}

#[test]
fn a_rollback_applies_all_of_the_older_release_and_lasts_until_a_newer_one_comes() {
    let (site, tree) = own();
    tree.kpull("apply").exits(0);
    let first = tree.snapshot();
    let more = "[[file]]\npath = \"/etc/new\"\ncontent = \"new\\n\"\n";
    site.role("base", &format!("{}{more}", MANY.replace("443/tcp", "8443/tcp"))).sign();
    tree.kpull("apply").exits(0);
    let second = tree.snapshot();
    assert_ne!(first, second);

    let back = tree.kpull("rollback --reason because").exits(0);
    assert!(back.stdout.starts_with("rolling back to generation 1, release 1;"), "{}", back.stdout);
    assert_eq!(tree.snapshot(), first);
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0], "it stays there");
    let status = tree.kpull("status").exits(0).stdout;
    assert!(status.contains("stays on    release 1, and not 2") && status.contains("because"), "{status}");
    let history = tree.kpull("history").exits(0).stdout;
    assert_eq!(history.lines().filter(|line| line.contains("signed by tester")).count(), 3, "{history}");

    tree.kpull("apply --retry").exits(0);
    assert_eq!(tree.snapshot(), second);
    tree.kpull("rollback 1").exits(0);
    site.role("base", &format!("{MANY}{more}")).sign();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/new"), "new\n", "a newer release is followed");
    assert!(!tree.kpull("status").exits(0).stdout.contains("stays"));
    let error = tree.kpull("rollback 77 --json").exits(1).error();
    assert_eq!(error["error"], "there is no generation 77");
}

#[test]
fn a_release_that_can_not_be_applied_whole_is_rolled_back_and_tried_at_most_twice() {
    let good = "[[file]]\npath = \"/etc/a\"\ncontent = \"good\\n\"\n";
    let site = base(good);
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    // a path that can't be written to although it looks well: a directory of the kernel
    let bad = format!("{}[[file]]\npath = \"/dead/end/file\"\ncontent = \"x\"\n", good.replace("good", "bad"));
    site.role("base", &bad).sign();
    symlink("/proc/self", tree.at("dead")).unwrap();
    fs::create_dir_all(tree.at("proc")).unwrap();
    tree.write("proc/self", "no directory");
    let error = tree.kpull("apply --json").exits(3).error();
    assert!(
        error["error"].as_str().unwrap().starts_with("release 2 failed on this host, which rolled back to release 1"),
        "{error}"
    );
    assert_eq!(tree.read("etc/a"), "good\n");
    // not again at once
    let next = tree.kpull("apply --json").exits(0);
    assert_eq!(next.changed(), [""; 0]);
    assert!(tree.kpull("status").exits(0).stdout.contains("stays on    release 1, and not 2; tried again after"));
    // by hand, the last try
    tree.kpull("apply --retry").fails(3, "failed on this host, which rolled back to release ");
    assert_eq!(tree.read("etc/a"), "good\n");
    // and a newer release that is well
    site.role("base", &good.replace("good", "better")).sign();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/a"), "better\n");
}

#[test]
fn a_failed_release_is_tried_once_more_automatically_when_its_retry_is_due() {
    let good = "[[file]]\npath = \"/etc/a\"\ncontent = \"good\\n\"\n";
    let site = base(good);
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    let bad = good.replace("good", "bad");
    site.role("base", &format!("{bad}[[file]]\npath = \"/dead/end/file\"\ncontent = \"x\"\n")).sign();
    symlink("/proc/self", tree.at("dead")).unwrap();
    tree.write("proc/self", "no directory");
    tree.kpull("apply").fails(3, "failed on this host, which rolled back to release ");
    let hold = || -> serde_json::Value { serde_json::from_str(&tree.read("var/lib/kpull/hold.json")).unwrap() };
    let mut over = hold();
    assert_eq!(over["tries"], 1);
    over["again"] = over["since"].clone();
    tree.write("var/lib/kpull/hold.json", over.to_string());
    tree.kpull("apply").fails(3, "failed on this host, which rolled back to release ");
    assert_eq!((&hold()["tries"], &hold()["again"]), (&2.into(), &serde_json::Value::Null), "and never again");
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);
}

#[test]
fn a_host_that_stays_on_an_earlier_release_still_reports_its_source() {
    let (site, tree) = own();
    tree.kpull("apply").exits(0);
    site.role("base", &MANY.replace("443/tcp", "8443/tcp")).sign();
    tree.kpull("apply").exits(0);
    tree.kpull("rollback --reason because").exits(0);
    fs::remove_file(site.path().join("release.toml.sig")).unwrap();
    let error = tree.kpull("apply --json").exits(4).error();
    assert_eq!(error["error"], "the release is not signed: there is no release.toml.sig");
}

#[test]
fn a_host_with_a_pending_contact_continues_if_a_source_answers_or_rolls_back() {
    let (site, tree) = own();
    tree.kpull("apply").exits(0);
    let first = tree.snapshot();
    site.role("base", &MANY.replace("443/tcp", "8443/tcp")).sign();
    tree.kpull("apply").exits(0);
    // as a run leaves it that was killed after it had changed the firewall
    let set_pending = || tree.write("var/lib/kpull/owed.json", "{\"contact\": \"2020-01-01T00:00:00Z\"}");
    set_pending();
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);
    set_pending();
    fs::rename(site.path(), site.path().with_extension("away")).unwrap();
    let error = tree.kpull("apply --json").exits(3).error();
    let why = error["error"].as_str().unwrap();
    assert!(why.contains("no source can be reached since this host's network, firewall or SSH was changed"), "{why}");
    assert_eq!(tree.snapshot(), first);
    fs::rename(site.path().with_extension("away"), site.path()).unwrap();
}

#[test]
fn a_first_release_that_fails_stays_and_the_next_run_continues_it() {
    let site =
        base("[[file]]\npath = \"/etc/a\"\ncontent = \"a\\n\"\n[[file]]\npath = \"/dead/end/file\"\ncontent = \"x\"\n");
    let tree = site.sign().enroll();
    symlink("/proc/self", tree.at("dead")).unwrap();
    tree.write("proc/self", "no directory");
    tree.kpull("apply").fails(1, "/dead/end");
    assert_eq!(tree.read("etc/a"), "a\n");
    fs::remove_file(tree.at("proc/self")).unwrap();
    fs::create_dir(tree.at("proc/self")).unwrap();
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), ["file:/dead/end/file"]);
}

#[test]
fn old_generations_are_removed_and_the_state_directory_does_not_grow() {
    let role = |number: u32| format!("[[file]]\npath = \"/etc/a\"\ncontent = \"{number}\\n\"\n");
    let site = base(&role(0));
    let tree = site.sign().enroll();
    tree.write("etc/kpull/kpull.toml", format!("{}\n[keep]\ngenerations = 3\n", tree.read("etc/kpull/kpull.toml")));
    for number in 0..8 {
        site.role("base", &role(number)).sign();
        tree.kpull("apply").exits(0);
    }
    for (dir, count) in [("generations", 3), ("releases", 3)] {
        assert_eq!(fs::read_dir(tree.at(&format!("var/lib/kpull/{dir}"))).unwrap().count(), count, "{dir}");
    }
    tree.kpull("rollback").exits(0);
    assert_eq!(tree.read("etc/a"), "6\n");
}
