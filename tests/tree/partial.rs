//! Partial runs: `--only` limits a run to some roles and resources, and the host does not count as converged for it.

use crate::support::site::{Site, Tree, kpull};

const WEB: &str = r#"
[[directory]]
path = "/etc/web"
[[file]]
path = "/etc/web/a"
content = "a\n"
[[file]]
path = "/etc/web/b"
content = "b\n"
[[unit]]
name = "web.service"
content = "[Service]\nExecStart=/bin/true\n"
restart_when = ["file:/etc/web/a"]
"#;

const OTHER: &str = "[[file]]\npath = \"/etc/other\"\ncontent = \"other\\n\"\n";

fn site() -> (Site, Tree) {
    let site = Site::new("test");
    site.role("web", WEB).role("other", OTHER);
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"web\", \"other\"]\n");
    let tree = site.sign().enroll();
    (site, tree)
}

#[test]
fn a_partial_run_changes_what_it_names_and_what_that_needs_and_nothing_else() {
    let (_site, tree) = site();
    let plan = tree.kpull("plan --json --only file:*/a").exits(2);
    assert_eq!(plan.changed(), ["directory:/etc/web", "file:/etc/web/a"]);
    let output = tree.kpull("apply --json --only file:*/a").exits(0);
    assert_eq!(output.changed(), ["directory:/etc/web", "file:/etc/web/a"]);
    assert_eq!(output.events("done")[0]["only"], serde_json::json!(["file:*/a"]));
    assert!(!tree.at("etc/web/b").exists() && !tree.at("etc/other").exists());
    let text = tree.kpull("apply --only other").exits(0).stdout;
    assert!(text.contains("only other: the next run without `--only` applies the rest"), "{text}");
    assert_eq!(tree.read("etc/other"), "other\n");
    // the unit needs the file that it watches
    assert_eq!(
        tree.kpull("apply --json --only unit:*").exits(0).changed(),
        ["unit-file:/etc/systemd/system/web.service"]
    );
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), ["file:/etc/web/b"]);
}

#[test]
fn a_partial_run_does_not_count_as_converged() {
    let (site, tree) = site();
    tree.kpull("apply --only other").exits(0);
    let status = || tree.kpull("status --json").exits(0).json().remove(0);
    let now = status();
    assert!(now["generation"].is_null() && now["last_run"]["good"].is_null(), "{now}");
    assert_eq!(now["last_run"]["only"], serde_json::json!(["other"]));
    assert!(now["pending"]["release"].is_string(), "{now}");
    let shown = tree.kpull("status").exits(0).stdout;
    assert!(shown.contains(", partial (other): 1 changed"), "{shown}");
    let line = tree.kpull("status --motd").exits(0).stdout;
    assert!(line.contains("only a part applied"), "{line}");
    tree.kpull("apply").exits(0);
    assert_eq!(status()["generation"]["serial"], 1);
    // a newer release, and a part of it: the host stays on the older one until all of it is applied
    site.role("other", &OTHER.replace("other\\n", "new\\n")).role("web", &WEB.replace("b\\n", "c\\n")).sign();
    let good = status()["last_run"]["good"].clone();
    tree.kpull("apply --only other").exits(0);
    assert_eq!((tree.read("etc/other"), tree.read("etc/web/b")), ("new\n".to_owned(), "b\n".to_owned()));
    let now = status();
    assert_eq!((&now["generation"]["serial"], &now["last_run"]["good"]), (&1.into(), &good));
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), ["file:/etc/web/b"]);
    assert_eq!(status()["generation"]["serial"], 2);
}

#[test]
fn a_partial_run_restores_nothing_and_the_next_whole_run_does() {
    let (site, tree) = site();
    tree.kpull("apply").exits(0);
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"web\"]\n").sign();
    assert_eq!(tree.kpull("plan --json --only web").exits(0).changed(), [""; 0]);
    tree.kpull("apply --only web").exits(0);
    assert!(tree.at("etc/other").exists());
    tree.kpull("apply").exits(0);
    assert!(!tree.at("etc/other").exists());
}

#[test]
fn a_partial_run_of_something_unknown_is_an_error_with_the_nearest_name() {
    let (site, tree) = site();
    let error = tree.kpull("apply --json --only othr").exits(1).error();
    assert_eq!(error["error"], "`--only` names `othr`, but this host has no such role with resources");
    assert_eq!(error["help"], "did you mean `other`?");
    assert!(!tree.at("etc").join("other").exists());
    let dir = site.path().to_str().unwrap();
    let root = tree.path().to_str().unwrap();
    let preview = kpull(&["plan", "--json", "--root", root, "--host", "h1", "--site", dir, "--only", "other"]).exits(2);
    assert_eq!(preview.changed(), ["file:/etc/other"]);
}

#[test]
fn every_host_is_in_the_group_all_and_in_the_groups_of_its_groups() {
    let site = Site::new("test");
    site.file("site.toml", "name = \"test\"\n[vars]\nzone = \"none\"\n[groups.all]\nroles = [\"list\"]\nvars.zone = \"all\"\n[groups.eu]\nvars.zone = \"eu\"\n[groups.web]\ngroups = [\"eu\"]\n");
    site.role("list", "[[file]]\npath = \"/etc/list\"\ncontent = \"{{ zone }} {{ hosts | in_group('all') | length }} {{ hosts | in_group('eu') | map(attribute='name') | join(',') }}\\n\"\n");
    site.host("h1", "address = \"10.0.0.1\"\ngroups = [\"web\"]\n").host("h2", "address = \"10.0.0.2\"\n");
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/list"), "eu 2 h1\n");
    let explained = kpull(&["explain", "h2", "zone", "--site", site.path().to_str().unwrap()]).exits(0).stdout;
    assert!(explained.starts_with("zone = \"all\"\n  group all            site.toml:6:13\n"), "{explained}");
}
