//! What the roles make of each host, as reviewed snapshots: a change of a role shows here what it changes on hosts.
//!
//! A host has its files, the objects that it gives to the cluster, and its certificates; of one that is shown whole there are
//! all its paths (`tree`) and its resources in their order (`graph`) too. Secrets are placeholders; certificates and keys are
//! only named.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use kpull::resolve::certificate_requests;

use crate::roles::made::{Content, Made, facts};

/// Snapshots by name.
type Shots = BTreeMap<String, String>;

/// What they depend on is the day, and the machine.
const ACCOUNTS: [&str; 4] = ["etc/group", "etc/gshadow", "etc/passwd", "etc/shadow"];

#[test]
fn the_first_master_matches_its_reviewed_snapshots() {
    compare("master1", &whole(Made::shipped(), "master1"));
}

#[test]
fn a_worker_matches_its_reviewed_snapshots() {
    compare("node1", &whole(Made::shipped(), "node1"));
}

#[test]
fn the_other_masters_differ_from_the_first_as_reviewed() {
    let first = contents(Made::shipped(), "master1");
    for host in ["master2", "master3"] {
        compare(host, &different(&first, contents(Made::shipped(), host)));
    }
}

#[test]
fn a_master_with_nginx_in_place_of_haproxy_differs_as_reviewed() {
    Made::with_nginx().kpull("check").exits(0);
    let first = contents(Made::shipped(), "master1");
    compare("nginx", &different(&first, contents(Made::with_nginx(), "master1")));
}

#[test]
fn a_plain_host_with_the_role_hardening_matches_its_reviewed_snapshots() {
    let made = Made::new(Some("one-master"), |site| {
        let host = "address = \"10.20.0.30\"\nroles = [\"hardening\"]\n";
        fs::write(site.join("host_vars/plain.toml"), host).unwrap();
    });
    let mut shots = whole(&made, "plain");
    // each is one line in a file of its own
    let is_setting = |name: &String| name.starts_with("etc/sysctl.d/");
    let settings = shots.iter().filter(|(name, _)| is_setting(name)).map(|(_, text)| text.as_str()).collect();
    shots.retain(|name, text| !is_setting(name) && !text.is_empty());
    shots.insert("sysctl".into(), settings);
    compare("hardening", &shots);
}

/// Everything about a host.
fn whole(made: &Made, host: &str) -> Shots {
    let mut shots = contents(made, host);
    let mut list = String::new();
    for (path, entry) in &made.tree(host, "amd64").entries {
        let line = match &entry.what {
            Content::Directory => format!("{:04o} {path}/", entry.mode),
            Content::Link(to) => format!("     {path} -> {to}"),
            Content::File(text) => format!("{:04o} {path} {}", entry.mode, only(text).unwrap_or_default()),
        };
        writeln!(list, "{}", line.trim_end()).unwrap();
    }
    shots.insert("tree".into(), list);
    shots.insert("graph".into(), made.kpull(&format!("graph {host}")).exits(0).stdout);
    shots
}

/// What is in its files, objects and certificates.
fn contents(made: &Made, host: &str) -> Shots {
    let tree = made.tree(host, "amd64");
    let texts = tree.files().filter(|(path, text)| !ACCOUNTS.contains(path) && only(text).is_none());
    let mut shots: Shots = texts.map(|(path, text)| (path.to_owned(), text.to_owned())).collect();
    let mut list = String::new();
    for (request, _) in certificate_requests(&made.site, host, &facts(&made.site, host, "amd64")).unwrap() {
        writeln!(list, "{}\n  authority {}", request.name, request.authority).unwrap();
        let organization = request.organization.map(|name| format!("O={name}, ")).unwrap_or_default();
        writeln!(list, "  subject {organization}CN={}", request.common_name).unwrap();
        for usage in request.usage {
            writeln!(list, "  usage {usage}").unwrap();
        }
        for name in request.dns.iter().cloned().chain(request.ip.iter().map(ToString::to_string)) {
            writeln!(list, "  for {name}").unwrap();
        }
    }
    shots.insert("certificates".into(), list);
    let roles = &made.site.hosts[host].roles;
    for (role, name) in
        [("kubelet-bootstrap", "token.yaml"), ("kubelet-bootstrap", "approval.yaml"), ("dns", "dns.yaml")]
    {
        if roles.iter().any(|has| has == role) {
            shots.insert(format!("kube_object/{role}/{name}"), made.template(host, role, name));
        }
    }
    shots
}

/// What a file is that has nothing in it but a certificate, a public key or a secret.
fn only(text: &str) -> Option<String> {
    let text = text.trim();
    if text.starts_with("-----BEGIN ") {
        return text.split("-----").nth(1).map(|label| label.replace("BEGIN ", "").to_lowercase());
    }
    (text.starts_with("<secret ") && text.find('>') == Some(text.len() - 1)).then(|| text.to_owned())
}

/// Those that another host has not, or not so.
fn different(first: &Shots, shots: Shots) -> Shots {
    shots.into_iter().filter(|(name, text)| first.get(name) != Some(text)).collect()
}

/// Compares snapshots with those in `snapshots/DIR`, and reports all differences.
#[track_caller]
fn compare(dir: &str, shots: &Shots) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(format!("snapshots/{dir}"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let differs = |(name, text): (&String, &String)| {
        let compared = AssertUnwindSafe(|| settings.bind(|| insta::assert_snapshot!(name.as_str(), text)));
        catch_unwind(compared).is_err().then(|| name.clone())
    };
    let differ: Vec<String> = shots.iter().filter_map(differs).collect();
    assert!(differ.is_empty(), "of {dir}, these are not as they were reviewed: {differ:?}\n{ADVICE}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/roles/snapshots").join(dir);
    for file in fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let is_made =
            name.strip_suffix(".snap").is_some_and(|name| shots.keys().any(|made| made.replace('/', "__") == name));
        if !is_made && std::env::var_os("KPULL_BLESS").is_some() {
            fs::remove_file(&file).unwrap();
        } else {
            assert!(is_made, "{dir} has no {name} any more\n{ADVICE}");
        }
    }
}

/// What to do when a role makes something else than was reviewed.
pub const ADVICE: &str = "if that is what was meant, `KPULL_BLESS=1 tests/run roles` takes it over; then look at `git diff tests/roles docs`";
