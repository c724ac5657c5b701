//! Mirrors of artifacts that send something other than requested: whatever they send, the next one is tried.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kpull::net::server::{Answer, Received, Server};
use kpull::trust::Listed;

use crate::support::site::{Site, Tree};
use crate::tree::artifacts::{WHOLE, bytes, leave, ranges, site, stored, web};

/// How many bytes the artifact has.
const SIZE: usize = 10_000;

/// A host whose artifact is at these addresses, and its site.
fn enrolled(urls: &[String], content: &[u8], artifacts: &str) -> (Site, Tree) {
    let site = site(urls, content, "tool = \"/usr/bin/tool\"");
    let tree = site.sign().enroll();
    let config = tree.read("etc/kpull/kpull.toml");
    tree.write("etc/kpull/kpull.toml", format!("{config}\n[artifacts]\nretries = 0\n{artifacts}\n"));
    (site, tree)
}

/// An evil mirror first, then a good one: one run gets the tool, and leaves nothing else behind. What the good one was asked for.
fn gets_it_all_the_same(
    there: Option<&[u8]>,
    evil: impl Fn(&[u8], &Received) -> Answer + Send + Sync + 'static,
) -> Vec<(Option<String>, Option<String>)> {
    let content = bytes(SIZE);
    let (first, second) = (content.clone(), content.clone());
    let evil = Server::plain(move |request| evil(&first, request)).unwrap();
    let good = Server::plain(move |request| web(&second, request)).unwrap();
    let (_site, tree) = enrolled(&[evil.url("tool"), good.url("tool")], &content, "");
    if let Some(there) = there {
        leave(&tree, &content, there, &evil.url("tool"), "now");
    }
    tree.kpull("apply").exits(0);
    assert_eq!(fs::read(tree.at("usr/bin/tool")).unwrap(), content);
    let mut names = stored(&tree);
    names.sort();
    let digest = Listed::of(&content).sha256;
    assert_eq!(names, [digest.clone(), format!("{digest}.members.json")]);
    assert!(!evil.seen().is_empty());
    ranges(&good)
}

#[test]
fn garbage_from_one_mirror_blocks_no_other_mirror() {
    let breaks_off = |_: &[u8], _: &Received| {
        Answer { announced: false, ..Answer::new(200, vec![7; 6000]) }.with("Content-Length", SIZE.to_string())
    };
    // the good one continues it, and then begins again
    let rest = (Some("bytes=6000-".to_owned()), None);
    assert_eq!(gets_it_all_the_same(None, breaks_off), [rest, WHOLE]);
    let too_much = |_: &[u8], _: &Received| Answer { announced: false, ..Answer::new(200, vec![7; SIZE + 1]) };
    assert_eq!(gets_it_all_the_same(None, too_much), [WHOLE]);
}

#[test]
fn an_unrequested_range_is_refused() {
    let part = |range: &'static str| {
        move |content: &[u8], _: &Received| Answer::new(206, &content[5000..]).with("Content-Range", range)
    };
    for range in ["bytes 5000-9999/10000", "bytes 0-4999/10000", "bytes 0-9999/*", "bytes */10000", "none"] {
        assert_eq!(gets_it_all_the_same(None, part(range)), [WHOLE], "{range}");
    }
}

#[test]
fn a_range_other_than_the_requested_one_is_refused() {
    let half = &bytes(SIZE)[..5000];
    for range in [
        "bytes 4000-9999/10000",
        "bytes 5000-9998/10000",
        "bytes 5000-9999/20000",
        "bytes 18446744073709551615-0/1",
        "x",
    ] {
        let answer = move |_: &[u8], request: &Received| match request.header("range") {
            Some(_) => Answer::new(206, vec![7; 5000]).with("Content-Range", range),
            None => Answer::new(404, ""),
        };
        // the partial file is good, and the next mirror has the rest
        let rest = (Some("bytes=5000-".to_owned()), None);
        assert_eq!(gets_it_all_the_same(Some(half), answer), [rest], "{range}");
    }
    // the right range in words, and other bytes in fact
    let lies = |_: &[u8], request: &Received| match request.header("range") {
        Some(_) => Answer::new(206, vec![7; 5000]).with("Content-Range", "bytes 5000-9999/10000"),
        None => Answer::new(200, vec![7; SIZE]),
    };
    assert_eq!(gets_it_all_the_same(Some(half), lies), [WHOLE]);
}

#[test]
fn a_full_body_in_answer_to_a_range_is_not_appended() {
    let half = &bytes(SIZE)[..5000];
    let evil = |_: &[u8], _: &Received| Answer::new(200, vec![7; SIZE]);
    assert_eq!(gets_it_all_the_same(Some(half), evil), [WHOLE]);
}

#[test]
fn an_answer_that_a_mirror_compressed_unrequested_is_not_the_file() {
    let zipped = |content: &[u8], request: &Received| {
        assert_eq!(request.header("accept-encoding").unwrap_or("identity"), "identity");
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(content).unwrap();
        Answer::new(200, packer.finish().unwrap()).with("Content-Encoding", "gzip")
    };
    assert_eq!(gets_it_all_the_same(None, zipped), [WHOLE]);
}

#[test]
fn a_redirect_in_the_middle_of_a_file_mixes_no_files_of_two_mirrors() {
    let other = Server::plain(|request| web(&[7; SIZE], request)).unwrap();
    let to = other.url("tool");
    let half = &bytes(SIZE)[..5000];
    let evil = move |_: &[u8], _: &Received| Answer::new(302, "").with("Location", to.clone());
    assert_eq!(gets_it_all_the_same(Some(half), evil), [WHOLE]);
    assert!(other.seen().len() >= 2, "the rest, and then all of it");
}

#[test]
fn wrong_bytes_of_the_right_length_block_no_other_mirror() {
    let nothing = |_: &[u8], _: &Received| Answer::new(404, "");
    assert_eq!(gets_it_all_the_same(Some(&[0; SIZE]), nothing), [WHOLE]);
    assert_eq!(gets_it_all_the_same(Some(&[0; 2 * SIZE]), nothing), [WHOLE]);
}

/// A server that announces the artifact and sends it by drops, until the client hangs up; how often it was asked.
fn dripping(content: Vec<u8>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/tool", listener.local_addr().unwrap());
    let asked = Arc::<AtomicUsize>::default();
    let counted = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", content.len());
            // six kilobytes a second
            for piece in content.chunks(300) {
                if stream.write_all(piece).is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    });
    (url, asked)
}

#[test]
fn a_dripping_mirror_is_abandoned_and_the_next_one_continues_and_becomes_the_first() {
    let content = bytes(500_000);
    let (slow, asked) = dripping(content.clone());
    let served = content.clone();
    let good = Server::plain(move |request| web(&served, request)).unwrap();
    let (_site, tree) = enrolled(&[slow, good.url("tool")], &content, "timeout = 1");
    tree.kpull("apply").exits(0);
    assert_eq!(fs::read(tree.at("usr/bin/tool")).unwrap(), content);
    let [(Some(range), None)] = &ranges(&good)[..] else { panic!("{:?}", ranges(&good)) };
    assert!(range.starts_with("bytes=") && range != "bytes=0-", "{range}");
    let times = asked.load(Ordering::SeqCst);
    // the store has lost it: it is fetched again, and not from there
    fs::remove_file(tree.at("usr/bin/tool")).unwrap();
    fs::remove_dir_all(tree.at("var/lib/kpull/artifacts")).unwrap();
    tree.kpull("apply").exits(0);
    assert_eq!(fs::read(tree.at("usr/bin/tool")).unwrap(), content);
    assert_eq!((asked.load(Ordering::SeqCst), ranges(&good).len()), (times, 2));
}

#[test]
fn a_mirror_that_lacks_one_file_is_still_the_first_for_the_next_file() {
    let content = bytes(SIZE);
    let answers = Mutex::new(vec![Answer::new(404, "")]);
    let served = content.clone();
    let first =
        Server::plain(move |request| answers.lock().unwrap().pop().unwrap_or_else(|| web(&served, request))).unwrap();
    let served = content.clone();
    let second = Server::plain(move |request| web(&served, request)).unwrap();
    let (_site, tree) = enrolled(&[first.url("tool"), second.url("tool")], &content, "");
    tree.kpull("apply").exits(0);
    fs::remove_file(tree.at("usr/bin/tool")).unwrap();
    fs::remove_dir_all(tree.at("var/lib/kpull/artifacts")).unwrap();
    tree.kpull("apply").exits(0);
    assert_eq!((first.seen().len(), second.seen().len()), (2, 1));
}

#[test]
fn an_endless_body_without_a_pinned_size_is_refused_before_it_is_read() {
    let huge = 5_u64 << 30;
    let server = Server::plain(move |_| {
        Answer { announced: false, ..Answer::new(200, vec![7; 4096]) }.with("Content-Length", huge.to_string())
    })
    .unwrap();
    let content = bytes(SIZE);
    let site = site(&[server.url("tool")], &content, "tool = \"/usr/bin/tool\"");
    let pins = fs::read_to_string(site.path().join("artifacts.toml")).unwrap();
    site.file("artifacts.toml", pins.replace("size = 10000", "size = \"unknown\""));
    let tree = site.sign().enroll();
    let error = tree.kpull("apply --json").exits(1).error();
    let url = server.url("tool");
    let says = format!(
        "the artifact tool can't be downloaded: {url} has {huge} bytes; the limit for a file of unknown size is 1073741824"
    );
    assert_eq!(error["error"], says);
    assert_eq!(stored(&tree), [""; 0]);
}
