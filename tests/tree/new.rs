//! What `kpull new` makes: sites, roles and hosts that pass `kpull check` at once.

use std::fs;
use std::path::Path;
use std::process::Command;

use kpull::net::server::Server;
use ssh_key::private::{Ed25519Keypair, PrivateKey};

use crate::support::site::{Output, Site, kpull};
use crate::support::web::web;

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
        assert!(reported["error"].as_str().unwrap().ends_with(" already exists"), "{reported}");
    }
    assert_eq!(fs::read(site.path().join("site.toml")).unwrap(), before);
    let dir = tempfile::tempdir().unwrap();
    let there = dir.path().join("lab");
    fs::create_dir(&there).unwrap();
    fs::write(there.join("site.toml"), "name = \"mine\"\n").unwrap();
    kpull(&["new", "site", there.to_str().unwrap()]).fails(1, " already exists");
    assert_eq!(fs::read_to_string(there.join("site.toml")).unwrap(), "name = \"mine\"\n");
    assert!(!site.path().join("roles/web/templates").exists(), "half a role was written");
}

#[test]
fn a_host_that_can_not_be_resolved_is_not_written() {
    let site = Site::new("test");
    site.role("web", "required = [\"domain\"]\n");
    let reported = at(&site, &["new", "host", "h1", "10.0.0.1", "--role", "web", "--json"]).exits(1).error();
    assert_eq!(reported["error"], "h1 must set `web.domain`");
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

/// The JSON output of `kpull new` has these errors.
fn refused(arguments: &[&str]) -> String {
    let error = kpull(&[arguments, &["--json"][..]].concat()).exits(1).error();
    format!("{}; {}", error["error"].as_str().unwrap(), error["help"].as_str().unwrap())
}

const MASTERS: &str = "m1=10.0.0.1,m2=10.0.0.2,m3=10.0.0.3";

#[test]
fn the_example_of_two_hosts_passes_check_test_and_fmt() {
    let dir = tempfile::tempdir().unwrap();
    let site = dir.path().join("shop");
    let path = site.to_str().unwrap();
    let made = kpull(&["new", "site", path, "--example", "web"]).exits(0);
    assert!(made.stdout.contains("\n  kpull secret set db-password --generate 16\n"), "{}", made.stdout);
    assert!(fs::read_to_string(site.join("site.toml")).unwrap().contains("\nname = \"shop\"\n"));
    let missing = kpull(&["check", "--site", path, "--json"]).exits(1).events("error");
    let help = format!("write it with `kpull secret set db-password --site {path}`");
    assert!(missing.len() == 2 && missing.iter().all(|error| error["help"] == help), "{missing:?}");
    let key = |seed| {
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]));
        format!("{:?}", key.public_key().to_openssh().unwrap())
    };
    for (file, line) in [
        ("site.toml", format!("\n[secrets]\nrecipients = [{}]\n", key(1))),
        ("host_vars/db1.toml", format!("recipient = {}\n", key(2))),
        ("host_vars/web1.toml", format!("recipient = {}\n", key(3))),
    ] {
        let text = fs::read_to_string(site.join(file)).unwrap();
        fs::write(site.join(file), text + &line).unwrap();
    }
    let set = kpull(&["secret", "set", "db-password", "--generate", "16", "--site", path]).exits(0);
    assert_eq!(set.stdout, "db-password: encrypted to db1, web1 and the operators\n");
    let checked = kpull(&["check", "--site", path]).exits(0);
    assert_eq!(
        (checked.stdout.as_str(), checked.stderr.as_str()),
        ("✓ db1              14 resources of 2 roles\n✓ web1             20 resources of 2 roles\n", "")
    );
    kpull(&["test", "--site", path]).exits(0);
    kpull(&["fmt", "--check", "--site", path]).exits(0);
    assert!(refused(&["new", "site", path, "--example", "web"]).contains(" already exists; "));
}

#[test]
fn a_new_cluster_has_these_hosts_and_lacks_only_its_keys_and_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let site = dir.path().join("prod");
    let path = site.to_str().unwrap();
    let arguments = ["new", "cluster", path, "--masters", MASTERS, "--workers", "n1=10.0.0.4,n2=10.0.0.5"];
    let made = kpull(&[&arguments, &["--vip", "10.0.0.10/28"][..]].concat()).exits(0);
    assert!(made.stdout.contains("\n  kpull secret set keepalived --generate 8\n"), "{}", made.stdout);
    let text = fs::read_to_string(site.join("site.toml")).unwrap();
    let parsed: toml::Table = text.parse().unwrap();
    assert_eq!((parsed["name"].as_str(), parsed["vars"]["vip"].as_str()), (Some("prod"), Some("10.0.0.10")));
    assert_eq!(parsed["vars"]["vip_prefix"].as_integer(), Some(28));
    for pair in ["kubernetes", "service-account"] {
        assert_eq!(parsed["pki"][pair]["key_hosts"].to_string(), "[\"m1\", \"m2\", \"m3\"]");
    }
    assert!(text.contains("# the port of the load balancers\n"), "the comments are there: {text}");
    let host = fs::read_to_string(site.join("host_vars/m2.toml")).unwrap();
    assert_eq!(host, "address = \"10.0.0.2\"\ngroups = [\"masters\"]\n\n[vars.etcd]\nname = \"etcd2\"\n");
    let mut hosts: Vec<_> = fs::read_dir(site.join("host_vars")).unwrap().map(|one| one.unwrap().file_name()).collect();
    hosts.sort();
    assert_eq!(hosts, ["m1.toml", "m2.toml", "m3.toml", "n1.toml", "n2.toml"]);
    kpull(&["fmt", "--check", "--site", path]).exits(0);
    let missing = kpull(&["check", "--site", path, "--json"]).exits(1).events("error");
    let others: Vec<_> = missing.iter().filter(|error| !error["help"].to_string().contains("kpull ")).collect();
    assert!(!missing.is_empty() && others.is_empty(), "{others:?}");
}

#[test]
fn a_cluster_of_one_master_has_its_address_and_no_load_balancer() {
    let dir = tempfile::tempdir().unwrap();
    let site = dir.path().join("solo");
    let made = kpull(&["new", "cluster", site.to_str().unwrap(), "--masters", "solo=10.20.0.10"]).exits(0);
    assert!(!made.stdout.contains("keepalived --generate"), "{}", made.stdout);
    let parsed: toml::Table = fs::read_to_string(site.join("site.toml")).unwrap().parse().unwrap();
    assert_eq!(parsed["vars"]["vip"].as_str(), Some("10.20.0.10"));
    assert_eq!(parsed["vars"]["api_port"], parsed["vars"]["apiserver_port"]);
    let roles = parsed["groups"]["masters"]["roles"].to_string();
    assert!(roles.contains("etcd") && !roles.contains("haproxy") && !roles.contains("keepalived"), "{roles}");
    assert_eq!(parsed["pki"]["kubernetes"]["key_hosts"].to_string(), "[\"solo\"]");
}

#[test]
fn a_cluster_that_can_not_work_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let site = dir.path().join("k8s");
    let new = |arguments: &[&str]| {
        let message = refused(&[&["new", "cluster", site.to_str().unwrap(), "--masters"], arguments].concat());
        assert!(!site.exists(), "{arguments:?}");
        message
    };
    let cases: [(&[&str], &str); 6] = [
        (
            &["m1=10.0.0.1,m2=10.0.0.2", "--vip", "10.0.0.9"],
            "2 masters tolerate no more failures than 1; name one, three or five",
        ),
        (&[MASTERS], "3 masters need a virtual address; add `--vip ADDRESS/PREFIX`"),
        (&[MASTERS, "--vip", "10.0.0.2"], "the virtual address 10.0.0.2 is the address of the host m2; "),
        (
            &[MASTERS, "--vip", "10.0.0.9", "--workers", "m4=10.0.0.3"],
            "m4=10.0.0.3 has the name or the address of the host m3; ",
        ),
        (&[MASTERS, "--vip", "10.9.0.9"], "`vip` 10.9.0.9 is outside the network of m1, 10.0.0.1/24; "),
        (&["m1=172.30.0.7"], "the host m1 has an address in `pod_network`, 172.30.0.7; "),
    ];
    for (arguments, says) in cases {
        let message = new(arguments);
        assert!(message.starts_with(says), "{message}");
    }
    for (bad, says) in [
        ("m1", "write it as NAME=ADDRESS, like master1=10.0.0.1"),
        ("m 1=10.0.0.1", "a host can't be called `m 1`"),
        ("m1=10.0.0", "`10.0.0` is not an IP address"),
    ] {
        let output = kpull(&["new", "cluster", site.to_str().unwrap(), "--masters", bad]).exits(1);
        assert!(output.stderr.contains(says), "{}", output.stderr);
    }
}

/// The commands in a section of a page, each a prompt and a line; lines that end with `\` are joined.
fn commands(page: &str, from: &str, to: &str) -> Vec<(char, String)> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src/usage").join(page)).unwrap();
    let section = page.split_once(from).unwrap().1.split_once(to).unwrap().0.replace("\\\n", "");
    let lines = section.lines().filter_map(|line| line.split_once(' '));
    lines
        .filter(|(prompt, _)| ["$", "#"].contains(prompt))
        .map(|(prompt, line)| (prompt.chars().next().unwrap(), line.to_owned()))
        .collect()
}

#[test]
fn the_page_of_the_cluster_leads_from_nothing_to_enrolled_hosts() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for made in ["bin", ".ssh"] {
        fs::create_dir(at(made)).unwrap();
    }
    let hosts = ["master1", "master2", "master3", "node1"];
    for host in hosts {
        fs::create_dir_all(at(&format!("{host}/etc/ssh"))).unwrap();
        let mut keygen = Command::new("ssh-keygen");
        let key = at(&format!("{host}/etc/ssh/ssh_host_ed25519_key"));
        assert!(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", &key]).status().unwrap().success());
    }
    // in place of ssh: `ssh root@HOST cat FILE` prints the file of the host's directory
    let ssh = format!("#!/bin/sh\n[ $# = 3 ] && [ \"$2\" = cat ] && cat \"{}/${{1#root@}}$3\"\n", dir.path().display());
    fs::write(at("bin/ssh"), ssh).unwrap();
    fs::set_permissions(at("bin/ssh"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let bin = Path::new(env!("CARGO_BIN_EXE_kpull")).parent().unwrap().display().to_string();
    let path = format!("{}:{bin}:{}", at("bin"), std::env::var("PATH").unwrap());

    let server = Server::plain(web(at("www").into())).unwrap();
    let (site, mut fingerprint, mut enrolled) = (at("k8s"), String::new(), 0);
    let section = commands("cluster.md", "\n## From nothing\n", "\n## ");
    assert!(section.len() > 15, "{section:?}");
    let run = |line: &str| {
        let here = if Path::new(&site).exists() { &site } else { dir.path().to_str().unwrap() };
        let mut bash = Command::new("bash");
        let bash = bash.args(["-c", line]).current_dir(here).env("PATH", &path).env("HOME", dir.path());
        Output::of(bash.output().unwrap())
    };
    for (prompt, line) in section {
        let line = line.replace("/srv/www", &at("www")).replace("https://releases.example.org/", &server.url(""));
        if line == "cd k8s" {
            continue;
        }
        if prompt == '$' {
            let output = run(&line);
            assert_eq!(output.code, 0, "{line}\n{}{}", output.stdout, output.stderr);
            if line.starts_with("ssh-keygen -l") {
                fingerprint = output.stdout.split(' ').nth(1).unwrap().to_owned();
            }
            continue;
        }
        let Some((_, shown)) = line.split_once("SHA256:").filter(|_| line.starts_with("kpull enroll ")) else {
            continue;
        };
        for host in hosts {
            let enroll = line.replace("master1", host).replace(&format!("SHA256:{shown}"), &fingerprint);
            run(&format!("{enroll} --root {}", at(host))).exits(0);
            let plan = run(&format!("kpull plan --root {}", at(host))).exits(2);
            assert!(plan.stdout.contains("resources (release 1,"), "{}", plan.stdout);
            enrolled += 1;
        }
    }
    assert_eq!(enrolled, 4);
    // "Change an authority"
    let changed = run("i='--identity ../.ssh/release'; set -e
        kpull pki rotate kubernetes $i; kpull check
        kpull pki rotate kubernetes --switch $i; kpull pki issue $i; kpull secret rekey --yes $i; kpull check
        kpull pki rotate kubernetes --finish $i; kpull check");
    assert!(changed.exits(0).stdout.contains("run `kpull pki issue` and `kpull secret rekey`, and when every host"));
}
