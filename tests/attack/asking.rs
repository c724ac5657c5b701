//! Servers that kpull asks besides its sources, and what they do to it: lock servers and those that take a host's status.

use std::fs;
use std::sync::{Arc, Mutex};

use kpull::net::server::{Answer, Received, Server};
use ssh_key::LineEnding;

use crate::attack::host::{GOOD, Host, Tree, Via, allow, key};
use crate::support::child;

/// The requests that a server received, and `/proc/PID/status` of the process that sent them.
type Asked = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// A release whose site has hosts ask this server before they take it.
fn locked(serial: u64, url: &str) -> Tree {
    let mut tree = Tree::good(serial);
    tree.put("site.toml", format!("name = \"lab\"\n[rollout]\nfleetlock = {{ url = {url:?} }}\n"));
    tree.list(serial);
    tree
}

/// A host with the good release that asks a server like this before it takes the next; what `apply` says then.
fn refused_with(answer: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> String {
    let server = Server::plain(answer).unwrap();
    let host = Host::with_good(Via::Dir);
    host.publish(&locked(GOOD + 1, &server.url("")));
    let before = fs::read_to_string(host.root().join("etc/motd")).unwrap();
    let output = host.apply_as_text();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "it waits, and that is no failure: {text}");
    assert_eq!(fs::read_to_string(host.root().join("etc/motd")).unwrap(), before);
    let raw = text.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(raw, None, "{text:?}");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn an_unprivileged_process_asks_a_lock_server_and_sends_a_hosts_status() {
    let seen: Asked = Arc::default();
    let host = Host::with_good(Via::Dir);
    let (kept, root) = (seen.clone(), host.root().display().to_string());
    let server = Server::plain(move |request| {
        kept.lock().unwrap().push((format!("{} {}", request.method, request.path), child::status(&root)));
        Answer::new(if request.method == "PUT" { 201 } else { 200 }, "")
    })
    .unwrap();
    host.publish(&locked(GOOD + 1, &server.url("")));
    let ssh = host.root().join("etc/ssh");
    fs::create_dir_all(&ssh).unwrap();
    fs::write(ssh.join("ssh_host_ed25519_key"), key(1).to_openssh(LineEnding::LF).unwrap()).unwrap();
    let status = format!("dir = {:?}\n[status]\nhttp = {:?}\n", host.address(), server.url("status"));
    host.configure(&allow(1, ""), 1, &status);
    host.expect_good(GOOD + 1);
    let seen = seen.lock().unwrap();
    let asked: Vec<&str> = seen.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(asked, ["POST /v1/pre-reboot", "POST /v1/steady-state", "PUT /status/a.status"]);
    for (what, status) in seen.iter() {
        child::expect_none_of_roots_rights(what, status.as_deref().expect("a process of its own asks"));
    }
}

#[test]
fn an_unprivileged_process_reads_other_hosts_records_from_a_web_server() {
    let seen: Asked = Arc::default();
    let host = Host::with_good(Via::Dir);
    let (kept, root) = (seen.clone(), host.root().display().to_string());
    let server = Server::plain(move |request| {
        kept.lock().unwrap().push((format!("{} {}", request.method, request.path), child::status(&root)));
        Answer::new(200, "no record at all")
    })
    .unwrap();
    let mut tree = Tree::good(GOOD + 1);
    tree.put("site.toml", "name = \"lab\"\n[[rollout.wave]]\nhosts = [\"b\", \"c\"]\n");
    for other in ["b", "c"] {
        tree.put(&format!("host_vars/{other}.toml"), "address = \"10.0.0.2\"\nroles = [\"base\"]\n");
    }
    tree.list(GOOD + 1);
    host.publish(&tree);
    let status = format!("dir = {:?}\n[status]\nhttp = {:?}\n", host.address(), server.url("status"));
    host.configure(&allow(1, ""), 1, &status);
    let output = host.apply_as_text();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("waits"), "{text}");
    let seen = seen.lock().unwrap();
    let asked: Vec<&str> = seen.iter().map(|(what, _)| what.as_str()).filter(|what| what.starts_with("GET")).collect();
    assert_eq!(asked, ["GET /status/c.status"], "the nearest before it, and that one has no record");
    for (what, status) in seen.iter() {
        child::expect_none_of_roots_rights(what, status.as_deref().expect("a process of its own asks"));
    }
}

#[test]
fn an_answer_of_a_lock_server_writes_nothing_to_a_terminal() {
    let message = refused_with(|_| Answer::new(409, "{\"kind\": \"\\u001b[2J\\u009b\", \"value\": \"a\\nb\\u202e\"}"));
    assert!(message.contains(r"\u{1b}[2J") && message.contains(r"\u{202e}"), "{message}");
}

#[test]
fn kpull_stops_reading_an_endless_answer_of_a_lock_server() {
    let message = refused_with(|_| Answer::new(500, vec![b'['; 8 << 20]));
    assert!(message.contains("the lock server refuses: 500 Internal Server Error"), "{message}");
}

#[test]
fn kpull_follows_no_redirect_of_a_lock_server() {
    let hit = Arc::new(Mutex::new(0));
    let count = hit.clone();
    let other = Server::plain(move |_| {
        *count.lock().unwrap() += 1;
        Answer::new(200, "")
    })
    .unwrap();
    for to in [other.url("v1/pre-reboot"), "file:///etc/shadow".to_owned(), "gopher://127.0.0.1:1/x".to_owned()] {
        let message = refused_with(move |_| Answer::new(307, "").with("Location", to.clone()));
        assert!(message.contains("the lock server refuses: 307 Temporary Redirect"), "{message}");
    }
    assert_eq!(*hit.lock().unwrap(), 0);
}

#[test]
fn a_refusal_of_a_lock_server_that_contains_a_yes_changes_nothing() {
    // a header or a body that looks like a yes in an answer that is none
    let message = refused_with(|_| Answer::new(302, "HTTP/1.1 200 OK\r\n\r\n").with("Status", "200 OK"));
    assert!(message.contains("302 Found"), "{message}");
}
