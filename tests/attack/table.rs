//! The attacks that need something of their own, and the table of all of them in the documentation.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::attack::host::{GOOD, Host, Tree, Via, allow};

#[test]
fn a_rewritten_git_history_brings_no_old_release_back() {
    let host = Host::with_good(Via::Git);
    host.publish(&Tree::good(GOOD + 1));
    host.expect_good(GOOD + 1);
    let before = host.snapshot();
    host.rewrite_history(&Tree::good(GOOD));
    let ended = host.apply();
    assert_eq!(ended.error, format!("the release has serial {GOOD}, but {} was seen here before", GOOD + 1));
    assert_eq!((ended.code, before), (4, host.snapshot()));
    // a history that starts again with a newer release is accepted
    host.rewrite_history(&Tree::good(GOOD + 2));
    host.expect_good(GOOD + 2);
}

#[test]
fn names_that_differ_in_case_or_composition_are_different_files() {
    let names = ["x", "X", "\u{e9}", "e\u{301}", "\u{17f}", "s"];
    // what a web server makes of an encoded name is its own business
    for via in [Via::Dir, Via::Git] {
        let host = Host::new(via, &allow(1, ""), 1);
        let mut tree = Tree::good(GOOD);
        let mut role = tree.text("roles/base/role.toml");
        for (number, name) in names.iter().enumerate() {
            tree.put(&format!("roles/base/files/{name}"), format!("{number}\n"));
            role += &format!("[[file]]\npath = \"/etc/n/{name}\"\nsource = \"{name}\"\n");
        }
        tree.put("roles/base/role.toml", role);
        tree.list(GOOD);
        host.publish(&tree);
        host.expect_good(GOOD);
        for (number, name) in names.iter().enumerate() {
            let content = fs::read_to_string(host.root().join("etc/n").join(name)).unwrap();
            assert_eq!(content, format!("{number}\n"), "{name:?} by {via:?}");
        }
    }
}

/// A program that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_server_that_offers_only_old_tls_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (key, cert) = (dir.path().join("key"), dir.path().join("cert"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    // old TLS is off by default, so that it takes some words to get it
    for (versions, is_good) in [(&["-tls1_2"][..], true), (&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"][..], false)] {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Command::new("openssl")
            .args(["s_server", "-quiet", "-WWW", "-accept", &port.to_string()])
            .args(versions)
            .arg("-key")
            .arg(&key)
            .arg("-cert")
            .arg(&cert)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let _running = Running(server);
        let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(std::time::Instant::now() < until, "the server does not listen");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let host = Host::new(Via::Http, &allow(1, ""), 1);
        let address = format!("http = \"https://localhost:{port}/\"\nca = {cert:?}\nretries = 0\n");
        host.configure(&allow(1, ""), 1, &address);
        let ended = host.apply();
        // by TLS 1.2 it comes as far as the certificate, which no authority has made
        assert_eq!((ended.error.contains("certificate"), ended.code), (is_good, 1), "{}", ended.error);
        assert!(ended.error.contains("TLS"), "{}", ended.error);
    }
}

#[test]
fn a_directory_that_its_owner_swaps_for_a_link_never_leads_outside() {
    const NOBODY: u32 = 65534;
    assert!(nix::unistd::geteuid().is_root(), "this attack is one on root");
    let host = Host::new(Via::Dir, &allow(1, ""), 1);
    let mut tree = Tree::good(GOOD);
    let role = tree.text("roles/base/role.toml") + "[[file]]\npath = \"/home/u/x/y/conf\"\ncontent = \"ours\\n\"\n";
    tree.put("roles/base/role.toml", role);
    tree.list(GOOD);
    host.publish(&tree);
    let root = host.root();
    let (home, victim) = (root.join("home/u"), root.join("etc/victim"));
    fs::create_dir_all(home.join("x/y")).unwrap();
    fs::create_dir_all(victim.join("y")).unwrap();
    for path in [home.clone(), home.join("x"), home.join("x/y")] {
        chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let mut swaps = 0u32;
            let (x, aside, link) = (home.join("x"), home.join("aside"), home.join("link"));
            while !is_over.load(Ordering::SeqCst) {
                let target = if swaps.is_multiple_of(2) { PathBuf::from("/etc/victim") } else { victim.clone() };
                // a link of root's own would be followed, so it is given away before it stands there
                let _ = fs::remove_file(&link);
                symlink(target, &link).unwrap();
                std::os::unix::fs::lchown(&link, Some(NOBODY), Some(NOBODY)).unwrap();
                // kpull may have made the directory meanwhile: then there is one more to put aside
                let swapped = fs::rename(&x, &aside).and_then(|()| fs::rename(&link, &x));
                std::thread::sleep(std::time::Duration::from_micros(200));
                let back = fs::remove_file(&x).and_then(|()| fs::rename(&aside, &x));
                std::thread::sleep(std::time::Duration::from_micros(200));
                if swapped.and(back).is_err() {
                    let _ = fs::remove_file(&x);
                    let _ = fs::remove_dir_all(&aside);
                    let _ = fs::create_dir_all(x.join("y"));
                }
                swaps += 1;
            }
            swaps
        });
        let (mut failures, mut escaped) = (0, false);
        for _ in 0..40 {
            let _ = fs::remove_file(home.join("x/y/conf"));
            failures += u32::from(host.apply().code != 0);
            escaped |= victim.join("y/conf").exists() || victim.join("conf").exists();
        }
        is_over.store(true, Ordering::SeqCst);
        let swaps = swapper.join().unwrap();
        assert!(!escaped, "something was written behind the link");
        assert!(swaps > 40 && failures < 40, "{swaps} swaps, {failures} failures: that was no race");
    });
}

/// The sections of the page: each attacker, and the threats that remain.
const SECTIONS: [&str; 7] = [
    "A web, git or mirror server, and the network",
    "A host of the fleet",
    "A local user of a host",
    "A signer below the threshold",
    "An author of roles",
    "A reader of logs and terminals",
    "Not defended",
];

/// Who can do something that nothing is against.
const STILL: [&str; 9] = [
    "Signers with as many keys as the threshold",
    "Root on a host",
    "A local user of a host",
    "The process that answers a probe",
    "The author of host_vars",
    "A writer of the place that `[status]` names",
    "The author of a role",
    "A reader of logs",
    "A clock that stays behind",
];

#[test]
fn every_attacker_has_threats_with_tests_and_open_threats_say_who_can_do_them() {
    assert!(crate::support::named::rows("development/threats.md") > 20);
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/src/development/threats.md");
    let page = fs::read_to_string(page).unwrap();
    let sections: Vec<(&str, &str)> =
        page.split("\n## ").skip(1).map(|section| section.split_once('\n').expect("a section's text")).collect();
    let headings: Vec<&str> = sections.iter().map(|(heading, _)| *heading).collect();
    assert_eq!(headings, SECTIONS);
    let mut threats = std::collections::BTreeSet::new();
    for (heading, text) in sections {
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
        if heading == "Not defended" {
            assert_eq!(rows, [""; 0]);
            let items: Vec<&str> = text.split("\n- ").skip(1).collect();
            assert!(items.iter().all(|item| item.starts_with("**")), "{items:#?}");
            for who in STILL {
                assert!(items.iter().any(|item| item.starts_with(&format!("**{who}**"))), "nothing of: {who}");
            }
            continue;
        }
        assert!(!rows.is_empty(), "no threat: {heading}");
        for row in rows {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            assert!(cells.len() == 3 && cells.iter().all(|cell| !cell.is_empty()), "{row}");
            assert!(threats.insert(cells[0]), "twice: {row}");
        }
    }
}
