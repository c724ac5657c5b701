//! What `kpull new` makes: sites, roles and hosts that pass `kpull check` at once.

use std::fs;

use crate::support::site::{Output, Site, kpull};

/// `kpull COMMAND --site DIR`.
fn at(site: &Site, command: &[&str]) -> Output {
    kpull(&[command, &["--site", site.path().to_str().unwrap()][..]].concat())
}

#[test]
fn a_new_site_passes_check_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let site = dir.path().join("prod");
    let path = site.to_str().unwrap();
    kpull(&["new", "site", path]).exits(0);
    kpull(&["check", "--site", path]).exits(0);
    kpull(&["new", "role", "web", "--site", path]).exits(0);
    let role = fs::read_to_string(site.join("roles/web/role.toml")).unwrap();
    assert!(role.starts_with("summary = \"What web is for, in a sentence\"\n"), "{role}");
    kpull(&["check", "--site", path]).exits(0);
    kpull(&["test", "--site", path]).exits(0);
    kpull(&["fmt", "--check", "--site", path]).exits(0);
    kpull(&["new", "host", "h1", "10.0.0.1", "--role", "web", "--set", "web.greeting=moin", "--site", path]).exits(0);
    let checked = kpull(&["check", "--site", path]).exits(0);
    assert_eq!(checked.stdout, "✓ h1               1 resource of 1 role\n");
    let host = fs::read_to_string(site.join("host_vars/h1.toml")).unwrap();
    assert_eq!(host, "address = \"10.0.0.1\"\nroles = [\"web\"]\n\n[vars.web]\ngreeting = \"moin\"\n");
}

#[test]
fn new_overwrites_no_existing_file() {
    let site = Site::new("test");
    site.role("web", "").host("h1", "address = \"10.0.0.1\"\n");
    let before = fs::read(site.path().join("site.toml")).unwrap();
    for command in [&["new", "role", "web"][..], &["new", "host", "h1", "10.0.0.2"][..]] {
        let reported = at(&site, &[command, &["--json"][..]].concat()).exits(1).error();
        assert!(reported["error"].as_str().unwrap().ends_with(" is there already"), "{reported}");
    }
    kpull(&["new", "site", site.path().to_str().unwrap()]).exits(1);
    assert_eq!(fs::read(site.path().join("site.toml")).unwrap(), before);
    assert!(!site.path().join("roles/web/templates").exists(), "half a role was written");
}

#[test]
fn a_host_that_can_not_be_resolved_is_not_written() {
    let site = Site::new("test");
    site.role("web", "required = [\"domain\"]\n");
    let reported = at(&site, &["new", "host", "h1", "10.0.0.1", "--role", "web", "--json"]).exits(1).error();
    assert_eq!(reported["error"], "h1 has to set `web.domain`");
    assert!(!site.path().join("host_vars/h1.toml").exists());
    at(&site, &["new", "host", "h1", "10.0.0.1", "--role", "web", "--set", "web.domain=example.org"]).exits(0);
    at(&site, &["check"]).exits(0);
    for (bad, says) in [("../h2", "a host can't be called `../h2`"), ("", "a host can't be called ``")] {
        let reported = at(&site, &["new", "host", bad, "10.0.0.1", "--json"]).exits(1).error();
        assert_eq!(reported["error"], says);
    }
    let reported = at(&site, &["new", "host", "h2", "10.0.0.1", "--role", "wep", "--json"]).exits(1).error();
    assert_eq!(
        (&reported["error"], &reported["help"]),
        (&"there is no role `wep`".into(), &"did you mean `web`?".into())
    );
}

#[test]
fn a_host_can_be_added_before_its_certificates_and_secrets() {
    let site = Site::new("test");
    site.file("site.toml", "name = \"test\"\n[pki.web]\n").role(
        "web",
        "[[certificate]]\nname = \"web\"\ncert = \"/etc/web.pem\"\nkey = \"/etc/web.key\"\n\n\
         [[secret]]\nname = \"token\"\npath = \"/etc/token\"\n",
    );
    at(&site, &["new", "host", "h1", "10.0.0.1", "--role", "web"]).exits(0);
    let output = at(&site, &["check", "--json"]).exits(1).events("error");
    let helps: Vec<_> = output.iter().map(|error| &error["help"]).collect();
    let dir = site.path().display();
    assert_eq!(
        helps,
        [
            &format!("run `kpull pki init --site {dir}`"),
            &format!("write it with `kpull secret set token --site {dir}`")
        ]
    );
}
