//! `kpull test`: examples of roles.

use crate::support::site::{Output, Site, kpull};

const ROLE: &str = "required = [\"domain\"]\n[vars]\nport = 80\n[[template]]\npath = \"/etc/web.conf\"\ntemplate = \"web.conf\"\n[[package]]\nname = \"policycoreutils\"\nwhen = \"facts.os.family == 'rhel'\"\n[[command]]\nrun = [\"true\"]\ncreates = \"/x\"\nenv = { A = \"1\", B = \"p{{ port }}\" }\n";

/// A site without hosts, whose role `web` has this example.
fn site(example: &str) -> Site {
    let site = Site::new("test");
    site.role("web", ROLE).file(
        "roles/web/templates/web.conf",
        "listen {{ port }}\nname {{ domain }}\nall {{ hosts | map(attribute='name') | join(',') }}\n",
    );
    site.file("roles/web/tests/one.toml", format!("summary = \"x\"\n{example}"));
    site
}

fn test(site: &Site, more: &[&str]) -> Output {
    kpull(&[&["test", "--site", site.path().to_str().unwrap()], more].concat())
}

#[test]
fn the_shipped_roles_match_their_examples() {
    let output = kpull(&["test", "--site", env!("CARGO_MANIFEST_DIR")]).exits(0);
    for path in ["roles/haproxy/tests/two-servers.toml", "roles/firewall/tests/centos-7.toml"] {
        assert!(output.stdout.contains(&format!("✓ {path}")), "{output:?}");
    }
    let output = kpull(&["test", "firewall", "--site", env!("CARGO_MANIFEST_DIR")]).exits(0);
    assert!(!output.stdout.contains("haproxy"), "{output:?}");
}

#[test]
fn the_translated_roles_resolve_on_other_systems_too() {
    let site = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/translated/site");
    kpull(&["check", "--site", site]).exits(0);
    let output = kpull(&["test", "--site", site]).exits(0);
    for path in ["roles/security/tests/rhel-7.toml", "roles/ssh-hardening/tests/rhel-9.toml"] {
        assert!(output.stdout.contains(&format!("✓ {path}")), "{output:?}");
    }
}

#[test]
fn an_example_sets_variables_facts_and_other_hosts() {
    let site = site(
        "host = \"b\"\n[vars.web]\ndomain = \"example.org\"\nport = 8080\n[facts.os]\nfamily = \"rhel\"\n[hosts.a]\naddress = \"10.0.0.1\"\n[hosts.b]\naddress = \"10.0.0.2\"\nroles = [\"web\"]\n\
         [[expect.template]]\npath = \"/etc/web.conf\"\ncontains = [\"listen 8080\\n\", \"all a,b\"]\n[[expect.package]]\n[[expect.command]]\nenv = { B = \"p8080\" }\n",
    );
    let output = test(&site, &[]).exits(0);
    assert_eq!(output.stdout, "✓ roles/web/tests/one.toml                 3 as expected\n");
}

#[test]
fn an_example_of_another_system_assumes_none_of_the_default_facts() {
    for (os, expected) in [
        ("id = \"centos\"\nversion = \"7\"\n", "centos rhel 7."),
        ("family = \"suse\"\n", "suse suse ."),
        ("id = \"ubuntu\"\nfamily = \"mine\"\n", "ubuntu mine ."),
        ("version = \"11\"\n", "debian debian 11."),
    ] {
        let site = Site::new("test");
        let content = "{{ facts.os.id }} {{ facts.os.family }} {{ facts.os.version }}.";
        site.role("web", &format!("[[file]]\npath = \"/os\"\ncontent = \"{content}\"\n"));
        let example = format!("summary = \"x\"\n[facts.os]\n{os}[[expect.file]]\ncontent = \"{expected}\"\n");
        site.file("roles/web/tests/one.toml", example);
        test(&site, &[]).exits(0);
    }
}

#[test]
fn an_unmet_expectation_is_reported_with_its_place_and_the_nearest_match() {
    let at = |example: &str| {
        let error = test(&site(&format!("[vars.web]\ndomain = \"d\"\n{example}")), &["--json"]).exits(1).error();
        let reported = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        (format!("{}:{}", reported("file"), error["line"]), reported("error"), reported("help"))
    };
    let file = |line: usize| format!("roles/web/tests/one.toml:{line}");
    let nearest =
        "no template has the expected fields: the nearest is template:/etc/web.conf (roles/web/role.toml:5:1)";
    let (place, error, help) =
        at("[[expect.template]]\npath = \"/etc/web.conf\"\ncontains = [\"name d\", \"listen 81\"]\n");
    assert_eq!((place, error.as_str()), (file(6), nearest));
    assert_eq!(help, "contains:\n- listen 81\n+ listen 80");
    let (place, error, help) = at("[[expect.template]]\npath = \"/etc/web.cfg\"\nmode = \"0600\"\n");
    assert_eq!((place, error.as_str()), (file(5), nearest));
    assert_eq!(help, "path:\n- \"/etc/web.cfg\"\n+ \"/etc/web.conf\"\nmode:\n- \"0600\"\n+ (left out)");
    let (place, error, _) = at("[[expect.unit]]\nname = \"web.service\"\n");
    assert_eq!((place, error.as_str()), (file(4), "the host has no unit at all"));
    let (place, error, _) = at("[[without.template]]\npath = \"/etc/web.conf\"\n");
    assert_eq!((place, error.as_str()), (file(4), "a template matches that must not exist: template:/etc/web.conf"));
    let (place, error, help) = at("[[expect.unti]]\nname = \"a\"\n");
    assert_eq!((place, error.as_str(), help.as_str()), (file(4), "unknown key `unti`", "did you mean `unit`?"));
    let (place, error, _) = at("[facts]\nmemroy = 1\n[[expect.template]]\n");
    assert_eq!((place, error.as_str()), (file(5), "unknown key `memroy`"));
}

#[test]
fn an_example_that_can_not_be_resolved_or_expects_nothing_is_an_error() {
    let reported = test(&site("[[expect.template]]\n"), &["--json"]).exits(1).error();
    assert_eq!(reported["error"], "h1 must set `web.domain`");
    let reported = test(&site("[vars.web]\ndomian = \"d\"\n[[expect.template]]\n"), &["--json"]).exits(1).error();
    assert_eq!(
        (&reported["error"], &reported["file"]),
        (&"unknown key `domian`".into(), &"roles/web/tests/one.toml".into())
    );
    let reported = test(&site(""), &["--json"]).exits(1).error();
    assert_eq!(reported["error"], "roles/web/tests/one.toml has no expectations");
    let reported = test(&site("[[expect.template]]\n"), &["wep", "--json"]).exits(1).error();
    assert_eq!(
        (&reported["error"], &reported["help"]),
        (&"there is no role `wep`".into(), &"did you mean `web`?".into())
    );
}
