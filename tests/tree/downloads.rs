//! A large artifact from a real web server: one request for it, and a run continues what a killed run has left.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use crate::support::site::{Site, Tree, command};
use crate::tree::apply::base;
use crate::tree::artifacts::{bytes, site};
use crate::tree::nginx::{Nginx, alone};

static LARGE: LazyLock<Vec<u8>> = LazyLock::new(|| bytes(24 << 20));

/// An nginx that hands the artifact out as `/tool`, with these words about it.
fn serving(words: &str) -> Nginx {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("www")).unwrap();
    fs::write(dir.path().join("www/tool"), &*LARGE).unwrap();
    Nginx::run(dir, |dir: &Path, port| {
        let at = dir.display();
        let http = format!(
            "  log_format requests '$status $http_range';\n\
             \x20 access_log {at}/access.log requests;\n\
             \x20 server {{\n    listen 127.0.0.1:{port};\n    root {at}/www;\n    {words}\n  }}\n"
        );
        alone(dir, &http)
    })
}

/// Status and `Range` of what an nginx has answered, as soon as it has answered something like `last`: it writes its log when the client
/// may have continued already.
fn answered(nginx: &Nginx, last: &str) -> Vec<String> {
    for _ in 0..3000 {
        let text = fs::read_to_string(nginx.file("access.log")).unwrap();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if lines.iter().any(|line| line == last) {
            return lines;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{last}: {:?}", fs::read_to_string(nginx.file("access.log")));
}

fn enrolled(nginx: &Nginx) -> (Site, Tree) {
    let site = site(&[format!("http://127.0.0.1:{}/tool", nginx.port())], &LARGE, "tool = \"/usr/bin/tool\"");
    let tree = site.sign().enroll();
    (site, tree)
}

fn has_tool(tree: &Tree) -> bool {
    fs::read(tree.at("usr/bin/tool")).is_ok_and(|content| content == *LARGE)
}

#[test]
fn a_file_takes_one_request_however_slow_its_server_is() {
    for words in ["", "limit_rate 6m;", "max_ranges 0;"] {
        let nginx = serving(words);
        let (_site, tree) = enrolled(&nginx);
        tree.kpull("apply").exits(0);
        assert!(has_tool(&tree));
        assert_eq!(answered(&nginx, "200 -"), ["200 -"], "{words}");
    }
}

#[test]
fn a_download_of_a_killed_run_continues_where_it_ended() {
    let nginx = serving("limit_rate 2m;");
    let (_site, tree) = enrolled(&nginx);
    let mut run = command(&["apply", "--root", tree.path().to_str().unwrap()]).spawn().unwrap();
    let part = || {
        let found = fs::read_dir(tree.at("var/lib/kpull/artifacts")).ok()?;
        found.map(|entry| entry.unwrap().path()).find(|path| path.extension().is_some_and(|end| end == "part"))
    };
    let size = || part().and_then(|path| path.metadata().ok()).map_or(0, |meta| meta.len());
    while size() < 1 << 20 {
        assert_eq!(run.try_wait().unwrap(), None);
        std::thread::sleep(Duration::from_millis(10));
    }
    run.kill().unwrap();
    run.wait().unwrap();
    let from = size();
    assert!(from < LARGE.len() as u64, "{from}");
    tree.kpull("apply").exits(0);
    assert!(has_tool(&tree));
    answered(&nginx, &format!("206 bytes={from}-"));
}

#[test]
fn options_that_downloads_do_not_have_are_refused_with_a_reason_and_an_alternative() {
    for (name, help) in [
        ("connections", "a download uses one connection; list more `mirrors`"),
        ("bearer", "would be sent to every server that artifacts.toml names"),
        ("basic", "use a client certificate"),
    ] {
        let site = base("");
        let tree = site.sign().enroll();
        let config = tree.read("etc/kpull/kpull.toml");
        tree.write("etc/kpull/kpull.toml", format!("{config}\n[artifacts]\n{name} = \"4\"\n"));
        let error = tree.kpull("apply --json").exits(1).error();
        assert_eq!(error["error"], format!("unknown key `{name}`"));
        assert_eq!(error["line"], config.lines().count() + 3, "{error}");
        assert!(error["help"].as_str().unwrap().contains(help), "{error}");
    }
}
