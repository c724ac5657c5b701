//! A large artifact over several connections: from real web servers that give each of them little.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::Duration;

use crate::apply::base;
use crate::artifacts::{bytes, site};
use crate::nginx::{Nginx, alone};
use crate::site::{Output, Site, Tree, command};

/// What is large enough for more than one connection.
static LARGE: LazyLock<Vec<u8>> = LazyLock::new(|| bytes(24 << 20));

/// Little for each connection.
const SLOW: &str = "limit_rate 600k;";

/// An nginx that hands `content` out as `/tool`, with these words about it.
fn serving(content: &[u8], words: &str) -> Nginx {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("www")).unwrap();
    fs::write(dir.path().join("www/tool"), content).unwrap();
    Nginx::run(dir, |dir: &Path, port| {
        let at = dir.display();
        let http = format!(
            "  log_format ranges '$status $body_bytes_sent $connection $sent_http_content_range';\n\
             \x20 access_log {at}/access.log ranges;\n\
             \x20 limit_conn_zone $server_port zone=port:1m;\n\
             \x20 server {{\n    listen 127.0.0.1:{port};\n    root {at}/www;\n    {words}\n  }}\n"
        );
        alone(dir, &http)
    })
}

fn url(nginx: &Nginx) -> String {
    format!("http://127.0.0.1:{}/tool", nginx.port())
}

/// An answer that an nginx has given.
#[derive(Clone, Debug)]
struct Given {
    status: u16,
    sent: u64,
    connection: u64,
    range: Option<Range<u64>>,
}

/// All answers so far.
fn given(nginx: &Nginx) -> Vec<Given> {
    let text = fs::read_to_string(nginx.file("access.log")).unwrap();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let given = whole.lines().map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse::<u64>().unwrap();
        let range = words.get(4).map(|range| {
            let (from, last) = range.split_once('/').unwrap().0.split_once('-').unwrap();
            number(from)..number(last) + 1
        });
        Given { status: words[0].parse().unwrap(), sent: number(words[1]), connection: number(words[2]), range }
    });
    given.collect()
}

/// Waits until the answers are as `are` wants them: nginx writes its log when the client may have gone on already.
fn until(nginxes: &[&Nginx], are: impl Fn(&[Given]) -> bool) -> Vec<Given> {
    for _ in 0..3000 {
        let all: Vec<Given> = nginxes.iter().flat_map(|nginx| given(nginx)).collect();
        if are(&all) {
            return all;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not what is wanted: {:?}", nginxes.iter().map(|nginx| given(nginx)).collect::<Vec<_>>());
}

/// Bytes of a part.
const PART: u64 = 512 << 10;

/// Whether this is an answer up to the file's end, as the first connection wants it.
fn leads(given: &Given) -> bool {
    given.status < 300 && given.range.as_ref().is_none_or(|range| range.end - range.start > PART)
}

/// Whether one connection has read from byte `from` on, and parts cover the file from where it ended, each byte once; but for one part at
/// most, since a connection that holds the others up on a busy machine is given up.
fn cover(given: &[Given], from: u64) -> bool {
    let leads: Vec<&Given> = given.iter().filter(|given| leads(given)).collect();
    let [lead] = leads[..] else { return false };
    let mut parts: Vec<Range<u64>> =
        given.iter().filter_map(|given| given.range.clone()).filter(|range| range.end - range.start <= PART).collect();
    parts.sort_by_key(|range| range.start);
    let begins = parts.first().is_some_and(|first| first.start > from && first.start <= from + lead.sent);
    let ends = parts.last().is_some_and(|last| last.end == LARGE.len() as u64);
    let asked: u64 = parts.iter().map(|part| part.end - part.start).sum();
    let once = parts.first().is_some_and(|first| asked <= LARGE.len() as u64 - first.start + PART);
    begins && ends && once && parts.windows(2).all(|pair| pair[1].start <= pair[0].end)
}

/// How many connections parts have come over.
fn connections(given: &[Given]) -> usize {
    given.iter().filter(|given| !leads(given)).map(|given| given.connection).collect::<BTreeSet<_>>().len()
}

fn enrolled(urls: &[String], artifacts: &str) -> (Site, Tree) {
    let site = site(urls, &LARGE, "tool = \"/usr/bin/tool\"");
    let tree = site.sign().enroll();
    tree.write("etc/kpull/kpull.toml", format!("{}\n[artifacts]\n{artifacts}\n", tree.read("etc/kpull/kpull.toml")));
    (site, tree)
}

fn has_tool(tree: &Tree) -> bool {
    fs::read(tree.at("usr/bin/tool")).is_ok_and(|content| content == *LARGE)
}

#[test]
fn a_server_that_gives_each_connection_little_is_asked_over_several_and_for_each_byte_once() {
    let nginx = serving(&LARGE, SLOW);
    let (_site, tree) = enrolled(&[url(&nginx)], "");
    tree.kpull("apply").exits(0);
    assert!(has_tool(&tree));
    let given = until(&[&nginx], |given| cover(given, 0));
    assert!((2..=4).contains(&connections(&given)), "{given:?}");
}

#[test]
fn a_host_has_from_one_to_eight_connections() {
    for (connections, is_good) in [(0, false), (1, true), (8, true), (9, false)] {
        let site = base("");
        let tree = site.sign().enroll();
        let config = tree.read("etc/kpull/kpull.toml");
        tree.write("etc/kpull/kpull.toml", format!("{config}\n[artifacts]\nconnections = {connections}\n"));
        let apply = tree.kpull("apply");
        if is_good {
            apply.exits(0);
            continue;
        }
        let told = apply.exits(1).stderr;
        let line = config.lines().count() + 3;
        assert!(told.contains("`connections` has to be from 1 to 8"), "{told}");
        assert!(told.contains(&format!("kpull.toml:{line}:")), "{told}");
    }
}

#[test]
fn one_connection_is_all_when_the_host_says_so_or_the_server_hands_out_no_parts() {
    for (words, connections) in [("limit_rate 10m;", 1), ("limit_rate 10m; max_ranges 0;", 4)] {
        let nginx = serving(&LARGE, words);
        let (_site, tree) = enrolled(&[url(&nginx)], &format!("connections = {connections}"));
        tree.kpull("apply").exits(0);
        assert!(has_tool(&tree));
        let given = until(&[&nginx], |given| !given.is_empty());
        assert_eq!(given.iter().map(|given| given.status).collect::<Vec<_>>(), [200], "{words}");
    }
}

#[test]
fn a_server_that_refuses_a_second_connection_is_not_asked_for_a_third() {
    let nginx = serving(&LARGE, "limit_rate 3m; limit_conn port 1;");
    let (_site, tree) = enrolled(&[url(&nginx)], "");
    tree.kpull("apply").exits(0);
    assert!(has_tool(&tree));
    let given = until(&[&nginx], |given| given.len() > 1);
    assert_eq!(given.iter().map(|given| given.status).collect::<Vec<_>>(), [503, 200]);
}

#[test]
fn mirrors_share_the_work_and_one_that_has_another_file_under_the_name_is_passed() {
    let (one, two, other) = (serving(&LARGE, SLOW), serving(&LARGE, SLOW), serving(&LARGE[1..], SLOW));
    let (_site, tree) = enrolled(&[url(&one), url(&other), url(&two)], "");
    tree.kpull("apply").exits(0);
    assert!(has_tool(&tree));
    until(&[&one, &two], |given| cover(given, 0));
    for nginx in [&one, &two] {
        assert!(given(nginx).iter().any(|given| given.status == 206), "{:?}", given(nginx));
    }
    assert!(given(&other).len() <= 1, "{:?}", given(&other));
}

#[test]
fn a_file_that_changes_between_two_parts_is_refused_and_nothing_of_it_kept() {
    let nginx = serving(&LARGE, SLOW);
    let (_site, tree) = enrolled(&[url(&nginx)], "retries = 0");
    let arguments = ["apply", "--json", "--root", tree.path().to_str().unwrap()];
    let run = command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // the connection that came first has come to the parts
    until(&[&nginx], |given| given.iter().any(leads));
    let new = nginx.file("new");
    fs::write(&new, &LARGE[1..]).unwrap();
    fs::rename(new, nginx.file("www/tool")).unwrap();
    let error = Output::of(run.wait_with_output().unwrap()).exits(1).error();
    let (has, had) = (LARGE.len() - 1, LARGE.len());
    assert_eq!(
        error["error"],
        format!(
            "the artifact tool can't be had: GET {}: the file has changed while it was downloaded: it had {had} bytes, and \
             has {has}",
            url(&nginx)
        )
    );
    assert_eq!(fs::read_dir(tree.at("var/lib/kpull/artifacts")).unwrap().count(), 0);
    assert!(!tree.at("usr").exists());
}

#[test]
fn a_run_that_is_killed_among_parts_is_gone_on_with_where_it_ended() {
    let nginx = serving(&LARGE, SLOW);
    let (_site, tree) = enrolled(&[url(&nginx)], "");
    let mut run = command(&["apply", "--root", tree.path().to_str().unwrap()]).spawn().unwrap();
    until(&[&nginx], |given| given.iter().any(leads));
    run.kill().unwrap();
    run.wait().unwrap();
    let part = fs::read_dir(tree.at("var/lib/kpull/artifacts")).unwrap().next().unwrap().unwrap();
    let from = part.metadata().unwrap().len();
    assert!(from > PART && LARGE.len() as u64 > from + (8 << 20), "{from}");
    tree.kpull("apply").exits(0);
    assert!(has_tool(&tree));
    until(&[&nginx], |given| {
        // the answers to the first run may be written down late
        let goes_on = given.iter().find(|given| given.range == Some(from..LARGE.len() as u64));
        let first = goes_on.map_or(u64::MAX, |given| given.connection);
        let again: Vec<Given> = given.iter().filter(|given| given.connection >= first).cloned().collect();
        cover(&again, from)
    });
}
