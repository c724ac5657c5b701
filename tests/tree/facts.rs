//! Custom facts of a host, which roles read.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use crate::support::site::{Site, Tree, kpull};
use crate::tree::apply::base;

const ROLE: &str = r#"
[facts.rack]
type = { type = "text", min = 1 }
description = "the rack that the host is in"
default = "none"

[[file]]
path = "/etc/rack"
content = "{{ facts.custom.rack }}\n"
"#;

const RACK: &str = "etc/kpull/facts.d/rack.json";

fn applied() -> (Site, Tree) {
    let site = base(ROLE);
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    (site, tree)
}

#[test]
fn a_custom_fact_replaces_the_default_of_the_role_and_a_change_of_it_is_noticed() {
    let (_site, tree) = applied();
    assert_eq!(tree.read("etc/rack"), "none\n");
    tree.write(RACK, "\"r1\"");
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), ["file:/etc/rack"]);
    assert_eq!(tree.read("etc/rack"), "r1\n");
    std::thread::sleep(Duration::from_millis(2100));
    tree.kpull("apply").exits(0);
    let done = &tree.kpull("apply --json").exits(0).events("done")[0];
    assert_eq!(done["up_to_date"], true, "the record covers the custom facts");
    tree.write(RACK, "\"r2\"");
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), ["file:/etc/rack"]);
    fs::remove_file(tree.at(RACK)).unwrap();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/rack"), "none\n");
}

#[test]
fn a_custom_fact_that_others_can_write_is_refused_and_its_last_value_counts() {
    let (_site, tree) = applied();
    tree.write(RACK, "\"r1\"");
    tree.kpull("apply").exits(0);
    tree.write(RACK, "\"evil\"");
    fs::set_permissions(tree.at(RACK), fs::Permissions::from_mode(0o666)).unwrap();
    let output = tree.kpull("apply --json").exits(0);
    let refused = &output.events("fact_failed")[0];
    assert_eq!(refused["name"], "rack");
    let error = refused["error"].as_str().unwrap();
    assert!(error.ends_with("every user can write to it (its mode is 0666)"), "{error}");
    assert!(refused["help"].as_str().unwrap().contains("chmod go-w"), "{refused}");
    assert_eq!(tree.read("etc/rack"), "r1\n");
    fs::set_permissions(tree.at(RACK), fs::Permissions::from_mode(0o644)).unwrap();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/rack"), "evil\n");
}

#[test]
fn a_role_installs_a_custom_fact_and_sees_it_in_the_next_run() {
    let file = "[[file]]\npath = \"/etc/kpull/facts.d/rack.json\"\ncontent = \"\\\"r9\\\"\"\n";
    let site = base(&format!("{ROLE}{file}"));
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/rack"), "none\n");
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), ["file:/etc/rack"]);
    assert_eq!(tree.read("etc/rack"), "r9\n");
}

#[test]
fn a_custom_fact_of_another_type_than_the_role_declares_is_an_error() {
    let (site, tree) = applied();
    tree.write(RACK, "7");
    let error = tree.kpull("apply --json").exits(1).error();
    assert_eq!(error["error"], "`facts.custom.rack` of h1 is not a text");
    assert_eq!((&error["file"], &error["line"]), (&"roles/base/role.toml".into(), &3.into()));
    let check = |role: &str| {
        site.role("base", role);
        kpull(&["check", "--json", "--site", site.path().to_str().unwrap()])
    };
    let error = check(&ROLE.replace("default = \"none\"", "default = 5")).exits(1).error();
    assert_eq!(error["error"], "the default of the custom fact `rack` is not a text");
    assert_eq!((&error["line"], &error["column"]), (&6.into(), &11.into()));
    let error = check(&ROLE.replace("default = \"none\"\n", "")).exits(1).error();
    assert_eq!(error["error"], "`facts.custom.rack` is not defined");
}
