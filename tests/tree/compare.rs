//! `kpull compare`: what a change of a site means on each host, for a reviewer.

use std::process::Command;

use crate::support::site::{Output, Site, kpull};

fn site() -> Site {
    let site = Site::new("test");
    site.role(
        "web",
        "[vars]\nport = 80\n[[template]]\npath = \"/etc/web.conf\"\ntemplate = \"web.conf\"\n[[package]]\nname = \"policycoreutils\"\nwhen = \"facts.os.family == 'rhel'\"\n",
    );
    site.file("roles/web/templates/web.conf", "name {{ host.name }}\nlisten {{ port }}\n");
    for (host, address) in [("h1", 1), ("h2", 2), ("h3", 3)] {
        let port = if host == "h3" { "[vars.web]\nport = 8080\n" } else { "" };
        site.host(host, &format!("address = \"10.0.0.{address}\"\nroles = [\"web\"]\n{port}"));
    }
    git(&site, &["init", "-q", "-b", "main"]);
    git(&site, &["add", "."]);
    commit(&site, "one");
    site
}

fn git(site: &Site, arguments: &[&str]) {
    assert!(Command::new("git").arg("-C").arg(site.path()).args(arguments).status().unwrap().success());
}

fn commit(site: &Site, subject: &str) {
    git(site, &["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qam", subject]);
}

fn compare(site: &Site, arguments: &[&str]) -> Output {
    kpull(&[&["compare", "--site", site.path().to_str().unwrap()], arguments].concat())
}

#[test]
fn hosts_with_the_same_change_are_grouped_and_the_others_counted() {
    let site = site();
    assert_eq!(compare(&site, &["main"]).exits(0).stdout, "**0** of 3 hosts change.\n");
    let role = std::fs::read_to_string(site.path().join("roles/web/role.toml")).unwrap();
    site.file("roles/web/role.toml", role.replace("port = 80", "port = 81"));
    let output = compare(&site, &["main"]).exits(0).stdout;
    assert!(output.starts_with("**2** of 3 hosts change.\n"), "{output}");
    assert!(
        output.contains("<b>h1</b>: 1 resource</summary>\n\n~ `template:/etc/web.conf` (web)\n\n```diff\n"),
        "{output}"
    );
    assert!(output.contains("\n-listen 80\n+listen 81\n```\n"), "{output}");
    site.file("roles/web/templates/web.conf", "listen {{ port }}\n");
    commit(&site, "two");
    site.file("roles/web/role.toml", role.clone() + "[[directory]]\npath = \"/srv\"\n");
    let output = compare(&site, &["HEAD"]).exits(0).stdout;
    assert!(output.starts_with("**3** of 3 hosts change.\n"), "{output}");
    assert!(output.contains("<b>h1, h2</b>: 2 resources</summary>\n\n+ `directory:/srv` (web)\n"), "{output}");
    assert!(output.contains("<b>h3</b>: 1 resource</summary>\n\n+ `directory:/srv` (web)\n"), "{output}");
}

#[test]
fn what_another_role_adds_to_a_resource_is_compared_too() {
    let site = site();
    let unit = "[[unit]]\nname = \"web.service\"\n";
    site.role(
        "web",
        &format!("vars.port = 80\n{unit}enable = true\n[[file]]\npath = \"/a\"\ncontent = \"\"\nnotify = [\"restart:web.service\"]\n"),
    );
    site.role("tls", &format!("[[file]]\npath = \"/b\"\ncontent = \"\"\n{unit}restart_when = [\"file:/b\"]\n"));
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"web\", \"tls\"]\n");
    git(&site, &["add", "."]);
    commit(&site, "two");
    let toml = |name: &str| format!("roles/{name}/role.toml");
    let read = |name: &str| std::fs::read_to_string(site.path().join(toml(name))).unwrap();
    let web = read("web");
    site.file(&toml("web"), web.replace("enable = true", "enable = false").replace("restart:", "reload:"));
    site.file(&toml("tls"), read("tls").replace("restart_when", "reload_when"));
    let output = compare(&site, &["main"]).exits(0).stdout;
    for line in
        ["-enable = true", "+enable = false", "-restart unit:web.service", "-restart_when = ", "+reload_when = "]
    {
        assert!(output.contains(&format!("\n{line}")), "{line}: {output}");
    }
}

#[test]
fn a_comparison_has_added_and_removed_hosts_and_uses_recorded_facts() {
    let site = site();
    site.host("h4", "address = \"10.0.0.4\"\nroles = [\"web\"]\n");
    std::fs::remove_file(site.path().join("host_vars/h1.toml")).unwrap();
    let facts = kpull(&["facts"]).exits(0).stdout;
    let facts: toml::Table = facts.parse().unwrap();
    let mut centos = facts.clone();
    centos["os"]["family"] = "rhel".into();
    site.file("facts/h2.toml", centos.to_string());
    let output = compare(&site, &["main"]).exits(0).stdout;
    assert!(output.starts_with("**3** of 4 hosts change.\n"), "{output}");
    assert!(output.contains("<b>h1</b>: 0 resources</summary>\n\nThe host was removed"), "{output}");
    assert!(
        output.contains("<b>h4</b>: 1 resource</summary>\n\nA new host.\n\n+ `template:/etc/web.conf`"),
        "{output}"
    );
    assert!(output.contains("<b>h2</b>: 1 resource</summary>\n\n+ `package:policycoreutils` (web)"), "{output}");
    assert_eq!(compare(&site, &["main", "main"]).exits(0).stdout, "**0** of 3 hosts change.\n");
}

#[test]
fn a_missing_or_unresolvable_state_is_an_error() {
    let site = site();
    let reported = compare(&site, &["nope", "--json"]).exits(1).error();
    assert!(reported["error"].as_str().unwrap().starts_with("can't get the revision `nope`: "), "{reported}");
    site.file("roles/web/templates/web.conf", "{{ prot }}\n");
    let reported = compare(&site, &["main", "--json"]).exits(1).json();
    assert_eq!(reported[0]["error"], "`prot` is not defined");
    // what was broken before can be corrected
    commit(&site, "two");
    site.file("roles/web/templates/web.conf", "{{ port }}\n");
    let reported = compare(&site, &["HEAD"]).exits(0).stdout;
    assert!(reported.contains("Before, it could not be resolved (`` `prot` is not defined ``)."), "{reported}");
}
