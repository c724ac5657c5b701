//! Sources that hold news back, or send them by drops.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kpull::document::layout::{MANIFEST, POINTER};
use kpull::net::server::{Answer, Server};
use kpull::trust::KeySet;

use crate::attack::host::{Entry, GOOD, Host, Tree, Via, allow};
use crate::attack::keys::{release, without_key_1};

/// A web server with a release that can be replaced.
struct Mirror {
    tree: Arc<Mutex<Tree>>,
    server: Server,
}

impl Mirror {
    /// One that hands out what it has.
    fn honest(tree: Tree) -> Self {
        Self::answering(tree, |answer, _| answer)
    }

    /// One that answers "unchanged" to every host that has polled before.
    fn frozen(tree: Tree) -> Self {
        Self::answering(tree, |answer, known| if known { Answer::new(304, "") } else { answer.with("ETag", "\"x\"") })
    }

    fn answering(tree: Tree, answer: impl Fn(Answer, bool) -> Answer + Send + Sync + 'static) -> Self {
        let tree = Arc::new(Mutex::new(tree));
        let has = tree.clone();
        let server =
            Server::plain(move |request| match has.lock().unwrap().0.get(request.path.trim_start_matches('/')) {
                Some(Entry::File(content)) => {
                    answer(Answer::new(200, content.clone()), request.header("if-none-match").is_some())
                }
                _ => Answer::new(404, ""),
            });
        Self { tree, server: server.unwrap() }
    }

    fn publish(&self, tree: Tree) {
        *self.tree.lock().unwrap() = tree;
    }

    fn address(&self) -> String {
        self.server.url("")
    }
}

/// A host without a release that follows these addresses, and asks all of them so often.
fn follows(addresses: &[String], every: &str) -> Host {
    let host = Host::new(Via::Dir, "", 1);
    let tables: Vec<String> =
        addresses.iter().map(|address| format!("http = {address:?}\nretries = 0\ntimeout = 1\n")).collect();
    host.configure(&(allow(1, "") + &allow(2, "")), 1, &tables.join("[[source]]\n"));
    let config = host.root().join("etc/kpull/kpull.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(config, format!("ask_all_every = {every:?}\n{text}")).unwrap();
    host
}

#[test]
fn a_first_source_that_always_answers_unchanged_hides_no_release_of_the_next() {
    let (first, second) = (Mirror::frozen(Tree::good(GOOD)), Mirror::honest(Tree::good(GOOD)));
    let host = follows(&[first.address(), second.address()], "0s");
    host.expect_good(GOOD);
    host.expect_good(GOOD);
    second.publish(Tree::good(GOOD + 1));
    host.expect_good(GOOD + 1);
    // and it stays, although the first has the old one still
    host.expect_good(GOOD + 1);
}

#[test]
fn all_sources_are_polled_at_intervals_and_only_the_first_in_between() {
    let (first, second) = (Mirror::frozen(Tree::good(GOOD)), Mirror::honest(Tree::good(GOOD)));
    let host = follows(&[first.address(), second.address()], "1h");
    host.expect_good(GOOD);
    let asked = second.server.seen().len();
    second.publish(Tree::good(GOOD + 1));
    host.expect_good(GOOD);
    host.expect_good(GOOD);
    assert_eq!(second.server.seen().len(), asked, "the first one alone is asked");
    let long_ago = Timestamp::now() - SignedDuration::from_mins(61);
    fs::write(host.state().join("addresses.json"), format!("{{\"all_asked\":\"{long_ago}\"}}")).unwrap();
    host.expect_good(GOOD + 1);
    let asked = second.server.seen().len();
    host.expect_good(GOOD + 1);
    assert_eq!(second.server.seen().len(), asked);
}

#[test]
fn once_the_release_has_expired_no_unchanged_answer_ends_the_search() {
    for seconds in [5, 20, 90] {
        let expires = Timestamp::from_second(Timestamp::now().as_second() + seconds).unwrap();
        let mut tree = Tree::good(GOOD);
        tree.set("expires", &format!("{expires:.0}"));
        let (first, second) = (Mirror::frozen(tree.clone()), Mirror::honest(tree));
        let host = follows(&[first.address(), second.address()], "8h");
        // on a busy machine it may have been too late already
        if host.apply().code != 0 {
            continue;
        }
        while Timestamp::now() <= expires {
            std::thread::sleep(Duration::from_millis(50));
        }
        second.publish(Tree::good(GOOD + 1));
        host.expect_good(GOOD + 1);
        return;
    }
    panic!("this machine is too slow");
}

#[test]
fn the_newest_valid_release_wins_whichever_source_has_it() {
    for [one, two] in [[GOOD + 1, GOOD + 2], [GOOD + 2, GOOD + 1]] {
        let (first, second) = (Mirror::honest(Tree::good(one)), Mirror::honest(Tree::good(two)));
        let host = follows(&[first.address(), second.address()], "0s");
        host.expect_good(GOOD + 2);
        host.expect_good(GOOD + 2);
    }
}

#[test]
fn a_source_after_the_first_can_forge_no_newer_release() {
    let (first, second) = (Mirror::honest(Tree::good(GOOD)), Mirror::honest(Tree::good(GOOD)));
    let host = follows(&[first.address(), second.address()], "0s");
    host.expect_good(GOOD);
    let mut forged = Tree::good(GOOD + 9);
    forged.sign(&[3]);
    second.publish(forged);
    host.expect_good(GOOD);
    // nor does it keep the first one's next release away
    first.publish(Tree::good(GOOD + 1));
    host.expect_good(GOOD + 1);
}

#[test]
fn a_release_by_a_key_that_the_next_source_removes_is_refused_in_the_same_run() {
    let set = without_key_1();
    let rotated = |serial| release(serial, &[(&set, &[1, 2])], &[2]);
    let (first, second) = (Mirror::honest(Tree::good(GOOD)), Mirror::honest(Tree::good(GOOD)));
    let host = follows(&[first.address(), second.address()], "0s");
    host.expect_good(GOOD);
    // the first has a newer release, by the key that was stolen; the second has the set that takes the key away
    first.publish(Tree::good(GOOD + 5));
    second.publish(rotated(GOOD + 6));
    host.expect_good(GOOD + 6);
    let set = KeySet::path(1);
    assert!(host.state().join(set).exists());
    host.expect_good(GOOD + 6);
}

/// A web server that answers a request for its release with `beginning`, and then `piece` after `piece` with a pause before
/// each, until the client hangs up. The second value counts all requests.
fn endless(beginning: &'static str, piece: Vec<u8>, pause: Duration) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    let asked = Arc::<AtomicUsize>::default();
    let counted = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let count = stream.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..count]).into_owned();
            counted.fetch_add(1, Ordering::SeqCst);
            if request.contains(POINTER) {
                let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                continue;
            }
            assert!(request.contains(MANIFEST), "{request}");
            let _ = stream.write_all(beginning.as_bytes());
            while !piece.is_empty() && stream.write_all(&piece).is_ok() {
                std::thread::sleep(pause);
            }
        }
    });
    (address, asked)
}

/// A web server that sends its release by drops: six kilobytes a second, which is enough to be waited for, and never all of it.
fn dripping() -> (String, Arc<AtomicUsize>) {
    endless("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", vec![b'\n'; 300], Duration::from_millis(50))
}

#[test]
fn no_first_line_of_an_answer_keeps_the_next_source_from_being_polled() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let endings: [(&str, &str); 9] = [
        ("", ""),
        ("HTTP/1.1 200 ", "O"),
        ("HTTP/1.1 200 OK\r\n", "X-More: 1\r\n"),
        ("", "HTTP/1.1 100 Continue\r\n\r\n"),
        (chunked, "1;more"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", "x"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n", "x"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\nContent-Length: 20\r\n\r\n", "x"),
        ("HTTP/1.1 304 Not Modified\r\n\r\n", ""),
    ];
    for (beginning, piece) in endings {
        let piece = piece.repeat(if piece.is_empty() { 0 } else { 1000 }).into_bytes();
        let ((evil, asked), good) = (endless(beginning, piece, Duration::ZERO), Mirror::honest(Tree::good(GOOD)));
        let host = follows(&[evil, good.address()], "0s");
        host.expect_good(GOOD);
        assert!(asked.load(Ordering::SeqCst) > 0, "{beginning:?}");
    }
}

#[test]
fn kpull_gives_up_on_a_dripping_source_and_the_next_run_polls_it_last() {
    let ((slow, asked), good) = (dripping(), Mirror::honest(Tree::good(GOOD)));
    let host = follows(&[slow.clone(), good.address()], "1h");
    let output = host.apply_as_text();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("the answer is too slow: fewer than 32768 bytes per second"), "{text}");
    host.expect_files(GOOD);
    let times = asked.load(Ordering::SeqCst);
    assert!(times > 0);
    good.publish(Tree::good(GOOD + 1));
    host.expect_good(GOOD + 1);
    host.expect_good(GOOD + 1);
    assert_eq!(asked.load(Ordering::SeqCst), times, "the runs begin with the other one");
    // the record is small, and contains no more than that
    let known = fs::read_to_string(host.state().join("addresses.json")).unwrap();
    assert!(known.contains(&slow) && !known.contains(&good.address()) && known.len() < 300, "{known}");
}

#[test]
fn damage_to_the_record_of_sources_prevents_no_poll() {
    let (first, second) = (Mirror::honest(Tree::good(GOOD)), Mirror::honest(Tree::good(GOOD)));
    let host = follows(&[first.address(), second.address()], "1h");
    for (number, text) in
        ["{", "[]", "{\"failed\":{\"x\":1}}", "{\"all_asked\":\"9999-12-30T00:00:00Z\"}"].iter().enumerate()
    {
        let serial = GOOD + number as u64;
        fs::create_dir_all(host.state()).unwrap();
        fs::write(host.state().join("addresses.json"), text).unwrap();
        second.publish(Tree::good(serial));
        host.expect_good(serial);
    }
}
