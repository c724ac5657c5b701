//! What an operator supplies hosts with: releases that are published, artifacts that are pinned, mirrored and checked, and a
//! kpull that replaces itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, mpsc};

use kpull::document::layout;
use kpull::net::server::{Answer, Received, Server};
use kpull::trust::Listed;

use crate::support::site::{Output, Site, Tree, command, kpull};
use crate::tree::artifacts::{self, cutting, published, tar_gz, url_of};

/// A signed site with one file on its host.
pub fn site(content: &str) -> Site {
    let site = Site::new("test");
    site.role("base", &format!("[[file]]\npath = \"/etc/motd\"\ncontent = \"{content}\\n\"\n"));
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n");
    site.sign();
    site
}

/// A tree that takes its releases from `url`.
fn enrolled(url: &str) -> Tree {
    let tree = Tree::new();
    tree.configure(&format!("[[source]]\nhttp = \"{url}\"\nretries = 0\n"));
    tree
}

/// Publishes a site.
pub fn publish(site: &Site, target: &str, more: &[&str]) -> Output {
    kpull(&[&["publish", target, "--site", site.path().to_str().unwrap()], more].concat())
}

type Kept = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// A server that accepts PUT, returns `ETag`s and honors conditions; `put` sees every PUT before it takes effect.
fn bucket(put: impl Fn(&Received) + Send + Sync + 'static) -> (Server, Kept) {
    let kept = Kept::default();
    let files = kept.clone();
    let server = Server::plain(move |request: &Received| {
        if request.method == "PUT" {
            put(request);
        }
        let etag = |content: &[u8]| format!("\"{}\"", Listed::of(content).sha256);
        let present = files.lock().unwrap().get(&request.path).cloned();
        let tag = present.as_deref().map(etag);
        match request.method.as_str() {
            "PUT" => {
                if request.header("if-match").is_some_and(|wanted| tag.as_deref() != Some(wanted)) {
                    return Answer::new(412, "");
                }
                files.lock().unwrap().insert(request.path.clone(), request.body.clone());
                Answer::new(201, "")
            }
            method => match (present, tag) {
                (Some(_), Some(tag)) if request.header("if-none-match") == Some(&tag) => Answer::new(304, ""),
                (Some(content), Some(tag)) if method == "HEAD" => {
                    let mut answer = Answer::new(200, "").with("ETag", tag);
                    answer.announced = false;
                    answer.with("Content-Length", content.len().to_string())
                }
                (Some(content), Some(tag)) => Answer::new(200, content).with("ETag", tag),
                _ => Answer::new(404, ""),
            },
        }
    })
    .unwrap();
    (server, kept)
}

#[test]
fn a_published_release_is_applied_and_the_next_transfers_only_what_is_new() {
    let site = site("one");
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().to_str().unwrap();
    let text = publish(&site, target, &[]).exits(0).stdout;
    assert!(text.starts_with("published release 1 of test: 5 blobs ("), "{text}");
    let (server, kept) = bucket(|_| {});
    publish(&site, &server.url("sites/a"), &[]).exits(0);
    let on_disk = |path: &str| fs::read(dir.path().join(path)).unwrap();
    for (path, content) in kept.lock().unwrap().iter() {
        assert_eq!(*content, on_disk(path.strip_prefix("/sites/a/").unwrap()), "{path}");
    }
    let tree = enrolled(&server.url("sites/a"));
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/motd"), "one\n");
    let before = server.seen().len();
    tree.kpull("apply").exits(0);
    assert_eq!(server.seen().len(), before + 1, "no news is one request");

    site.role("base", "[[file]]\npath = \"/etc/motd\"\ncontent = \"two\\n\"\n").sign();
    let before = server.seen().len();
    let value = publish(&site, &server.url("sites/a"), &["--json"]).exits(0).json().remove(0);
    assert_eq!((&value["serial"], &value["sent"], &value["known"]), (&2.into(), &3.into(), &2.into()));
    let seen = server.seen();
    let puts: Vec<&Received> = seen[before..].iter().filter(|seen| seen.method == "PUT").collect();
    let last: Vec<&str> = puts.iter().rev().take(2).map(|seen| seen.path.as_str()).collect();
    assert_eq!((puts.len(), last), (5, vec!["/sites/a/current.toml", "/sites/a/releases/2.toml"]));
    assert!(puts[4].header("if-match").is_some());
    let text = publish(&site, &server.url("sites/a"), &[]).exits(0).stdout;
    assert_eq!(text, "nothing to do: release 2 of test is published\n");
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/motd"), "two\n");
}

#[test]
fn a_site_with_unsigned_changes_is_not_published() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    let target = target.to_str().unwrap();
    let site = site("one");
    let problem = |site: &Site| {
        let error = publish(site, target, &["--json"]).exits(1).error();
        assert!(error["help"].as_str().unwrap().contains("`kpull sign --site /"), "{error}");
        error["error"].as_str().unwrap().to_owned()
    };
    site.file("roles/base/files/new", "x");
    assert_eq!(problem(&site), "roles/base/files/new is in the site, but not in the release");
    fs::remove_file(site.path().join("roles/base/files/new")).unwrap();
    site.host("h1", "address = \"10.0.0.2\"\n");
    assert_eq!(problem(&site), "host_vars/h1.toml was changed after signing");
    fs::remove_file(site.path().join("host_vars/h1.toml")).unwrap();
    assert_eq!(problem(&site), "host_vars/h1.toml is in the release, but no longer in the site");
    let signatures = fs::read(site.path().join("release.toml.sig")).unwrap();
    site.sign().file("release.toml.sig", signatures);
    assert_eq!(problem(&site), "no signature in release.toml.sig is over this release.toml");
    fs::remove_file(site.path().join("release.toml.sig")).unwrap();
    let says = format!("the site in {} is not signed: there is no release.toml.sig", site.path().display());
    assert_eq!(problem(&site), says);
    assert!(!Path::new(target).exists());
}

#[test]
fn a_publish_that_dies_before_the_pointer_leaves_the_old_release_intact() {
    let site = site("one");
    let (reached, pointer) = mpsc::channel();
    let (go, missing) = mpsc::channel::<()>();
    let (reached, missing) = (Mutex::new(reached), Mutex::new(missing));
    let halts = Arc::new(Mutex::new(false));
    let halting = halts.clone();
    let (server, kept) = bucket(move |request| {
        if request.path == "/current.toml" && *halting.lock().unwrap() {
            reached.lock().unwrap().send(()).unwrap();
            missing.lock().unwrap().recv().unwrap();
            panic!("the client is gone before its pointer counts");
        }
    });
    publish(&site, &server.url(""), &[]).exits(0);
    let old = kept.lock().unwrap()["/current.toml"].clone();
    let tree = enrolled(&server.url(""));
    tree.kpull("apply").exits(0);

    site.role("base", "[[file]]\npath = \"/etc/motd\"\ncontent = \"two\\n\"\n").sign();
    *halts.lock().unwrap() = true;
    let arguments = ["publish", &server.url(""), "--site", site.path().to_str().unwrap()];
    let mut child = command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    pointer.recv().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    go.send(()).unwrap();
    assert_eq!(kept.lock().unwrap()["/current.toml"], old);
    tree.kpull("apply").exits(0);
    let fresh = enrolled(&server.url(""));
    fresh.kpull("apply").exits(0);
    assert_eq!((tree.read("etc/motd").as_str(), fresh.read("etc/motd").as_str()), ("one\n", "one\n"));

    *halts.lock().unwrap() = false;
    let value = publish(&site, &server.url(""), &["--json"]).exits(0).json().remove(0);
    assert_eq!((&value["sent"], &value["known"]), (&0.into(), &5.into()), "the blobs were there");
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/motd"), "two\n");
}

#[test]
fn two_concurrent_publishes_do_not_overwrite_each_other() {
    let site = site("one");
    let raced = Mutex::new(false);
    let shared: Arc<Mutex<Option<Kept>>> = Arc::default();
    let other = shared.clone();
    let (server, kept) = bucket(move |request| {
        if request.path == "/current.toml" && request.header("if-match").is_some() && !*raced.lock().unwrap() {
            *raced.lock().unwrap() = true;
            if let Some(kept) = &*other.lock().unwrap() {
                kept.lock().unwrap().entry("/current.toml".into()).and_modify(|text| text.extend(b"# another\n"));
            }
        }
    });
    *shared.lock().unwrap() = Some(kept);
    publish(&site, &server.url(""), &[]).exits(0);
    site.sign();
    let error = publish(&site, &server.url(""), &["--json"]).exits(1).error();
    assert_eq!(error["error"], format!("someone else has just published to {}", server.url("")));
    publish(&site, &server.url(""), &[]).exits(0);
}

/// What `pin` says and does with a site that has no pins yet.
fn pin(site: &Site, arguments: &[&str]) -> Output {
    kpull(&[&["pin", "--json", "--site", site.path().to_str().unwrap()], arguments].concat())
}

#[test]
fn a_pinned_file_is_installed_and_its_members_are_listed() {
    let archive = tar_gz(&[("tool-1.0/tool", b"tool"), ("tool-1.0/README", b"read")]);
    let (_publisher, amd64) = published("tool-v1.0-linux-amd64.tar.gz", &archive);
    let (_other, arm64) = published("tool-v1.0-linux-arm64.tar.gz", &archive);
    let site = site("one");
    let output = pin(&site, &[&amd64, &arm64]).exits(0);
    let pinned = output.events("pinned");
    assert_eq!(pinned.len(), 2);
    let Listed { sha256, size } = Listed::of(&archive);
    assert_eq!((&pinned[0]["sha256"], &pinned[0]["size"]), (&sha256.clone().into(), &size.into()));
    assert_eq!((&pinned[0]["artifact_version"], &pinned[1]["arch"]), (&"1.0".into(), &"arm64".into()));
    assert_eq!(pinned[0]["members"], serde_json::json!(["tool-1.0/tool", "tool-1.0/README"]));
    assert_eq!(pinned[0]["published"], serde_json::Value::Null);
    site.role("base", "[[artifact]]\nname = \"tool\"\ninstall = { \"tool-1.0/tool\" = \"/usr/bin/tool\" }\n");
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("usr/bin/tool"), "tool");

    let before = fs::read(site.path().join("artifacts.toml")).unwrap();
    assert_eq!(pin(&site, &[&amd64]).exits(0).events("pinned")[0]["done"], "nothing");
    assert_eq!(fs::read(site.path().join("artifacts.toml")).unwrap(), before);
}

#[test]
fn a_file_without_a_published_checksum_is_refused_and_nothing_is_written() {
    let (good, evil) = (Listed::of(b"good").sha256, Listed::of(b"evil").sha256);
    let shared: &[(&str, String)] = &[
        ("SHA256SUMS", format!("{good}  other\n{good} *tool-1.0-amd64\n")),
        ("SHA256SUMS.txt", format!("SHA256 (tool-1.0-amd64) = {good}\n")),
        ("sha256sums.txt", format!("{good}  ./bin/tool-1.0-amd64\n")),
        ("tool-1.0-amd64.sha256", format!("{good}\n")),
    ];
    for (name, text) in shared {
        let (name, text) = (format!("/v/{name}"), text.clone());
        let content = Arc::new(Mutex::new("evil"));
        let served = content.clone();
        let server = Server::plain(move |request: &Received| match request.path.as_str() {
            "/v/tool-1.0-amd64" => Answer::new(200, *served.lock().unwrap()),
            path if path == name => Answer::new(200, text.clone()),
            _ => Answer::new(404, ""),
        })
        .unwrap();
        let site = site("one");
        site.file("artifacts.toml", "# nothing yet\n");
        let error = pin(&site, &[&server.url("v/tool-1.0-amd64")]).exits(4).error();
        let says = error["error"].as_str().unwrap();
        let start = format!("tool-1.0-amd64 is not the file that was published: its SHA-256 is {evil}, and http://");
        assert!(says.starts_with(&start) && says.ends_with(&format!(" says {good}")), "{says}");
        assert_eq!(fs::read_to_string(site.path().join("artifacts.toml")).unwrap(), "# nothing yet\n");
        *content.lock().unwrap() = "good";
        let pinned = pin(&site, &[&server.url("v/tool-1.0-amd64")]).exits(0).events("pinned").remove(0);
        assert!(pinned["published"].as_str().unwrap().starts_with(&server.url("v/")), "{pinned}");
        assert!(fs::read_to_string(site.path().join("artifacts.toml")).unwrap().starts_with("# nothing yet\n"));
    }
}

#[test]
fn named_checksums_must_exist_and_contain_the_file() {
    let (publisher, url) = published("tool-1.0-amd64", b"good");
    let sums = publisher.path().join("sums");
    let site = site("one");
    let named = ["--sums", sums.to_str().unwrap(), &url];
    let error = pin(&site, &named).exits(1).error();
    assert_eq!(error["error"], format!("there is no {}", sums.display()));
    fs::write(&sums, format!("{}  other\n{}  more\n", Listed::of(b"x").sha256, Listed::of(b"y").sha256)).unwrap();
    let error = pin(&site, &named).exits(1).error();
    assert_eq!(error["error"], format!("{} has no SHA-256 of tool-1.0-amd64", sums.display()));
    fs::write(&sums, format!("{}  tool-1.0-amd64\n", Listed::of(b"x").sha256)).unwrap();
    pin(&site, &named).fails(4, "is not the file that was published");
    assert!(!site.path().join("artifacts.toml").exists());
    fs::write(&sums, Listed::of(b"good").sha256).unwrap();
    pin(&site, &named).exits(0);
}

#[test]
fn a_release_that_changed_upstream_is_pinned_only_on_request() {
    let (publisher, url) = published("tool-1.0-amd64", b"good");
    let site = site("one");
    pin(&site, &[&url]).exits(0);
    let before = fs::read(site.path().join("artifacts.toml")).unwrap();
    fs::write(publisher.path().join("tool-1.0-amd64"), "other").unwrap();
    let error = pin(&site, &[&url]).exits(1).error();
    assert!(
        error["error"].as_str().unwrap().starts_with("tool 1.0 (amd64) is pinned with another digest: "),
        "{error}"
    );
    assert_eq!(fs::read(site.path().join("artifacts.toml")).unwrap(), before);
    let pinned = pin(&site, &["--replace", &url]).exits(0).events("pinned").remove(0);
    assert_eq!((&pinned["done"], &pinned["old"]), (&"replaced".into(), &Listed::of(b"good").sha256.into()));
}

#[test]
fn check_refuses_a_pin_without_a_size_and_reports_one_of_an_unknown_size() {
    let (_publisher, url) = published("tool-1.0-amd64", b"good");
    let site = artifacts::site(std::slice::from_ref(&url), b"good", "tool = \"/usr/bin/tool\"");
    let check = || kpull(&["check", "--json", "--site", site.path().to_str().unwrap()]);
    let pins = fs::read_to_string(site.path().join("artifacts.toml")).unwrap();
    let edit = |size: &str| {
        site.file("artifacts.toml", pins.replace(", size = 4", size));
    };
    let warnings = |output: &Output| output.events("warning").len();
    assert_eq!(warnings(&check().exits(0)), 0);

    edit("");
    let errors = check().exits(1).events("error");
    assert_eq!((errors.len(), &errors[0]["error"]), (2, &"the pin of tool (amd64) has no size".into()));
    assert_eq!((&errors[0]["file"], &errors[0]["line"]), (&"artifacts.toml".into(), &3.into()));
    assert!(errors[0]["help"].as_str().unwrap().starts_with(&format!("`kpull pin {url} --site /")), "{errors:?}");
    site.sign().enroll().kpull("apply").exits(0);

    edit(", size = \"unknown\"");
    let result = check().exits(0);
    let says = format!(
        "artifacts.toml lacks the size of 2 files, first tool (amd64): `kpull pin URL --site {}` adds it",
        site.path().display()
    );
    assert_eq!((warnings(&result), &result.events("warning")[0]["warning"]), (1, &says.into()));
    site.sign().enroll().kpull("apply").exits(0);

    for wrong in [", size = \"4\"", ", size = -4", ", size = 4.0"] {
        edit(wrong);
        let error = check().exits(1).error();
        assert!(error["error"].as_str().unwrap().contains("a number of bytes, or \"unknown\""), "{error}");
    }
}

#[test]
fn pinning_the_same_file_again_adds_its_size() {
    let (_publisher, url) = published("tool-1.0-amd64", b"good");
    let site = site("one");
    pin(&site, &[&url]).exits(0);
    let path = site.path().join("artifacts.toml");
    let whole = fs::read_to_string(&path).unwrap();
    for lacks in [whole.replace("size = 4\n", ""), whole.replace("size = 4", "size = \"unknown\"")] {
        assert_ne!(lacks, whole);
        fs::write(&path, lacks).unwrap();
        assert_eq!(pin(&site, &[&url]).exits(0).events("pinned")[0]["done"], "size");
        assert_eq!(fs::read_to_string(&path).unwrap(), whole);
    }
}

#[test]
fn a_pin_has_the_format_of_its_address_or_of_the_option() {
    let archive = tar_gz(&[("tool", b"good")]);
    let site = site("one");
    let (_publisher, url) = published("tool-1.0-amd64", &archive);
    let error = pin(&site, &[&url]).exits(1).error();
    assert_eq!(error["error"], format!("{url}: is compressed with gzip, which its name does not indicate"));
    let (_other, named) = published("tool-1.0-amd64.tar.bz2", &archive);
    let error = pin(&site, &[&named]).exits(1).error();
    assert_eq!(error["error"], format!("{named} is compressed with bzip2, which can't be unpacked"));
    let (_page, page) = published("page-1.0-amd64.tar.gz", b"<html>Log in</html>");
    let error = pin(&site, &[&page]).exits(1).error();
    assert!(error["error"].as_str().unwrap().contains("is a web page (HTML)"), "{error}");
    assert!(!site.path().join("artifacts.toml").exists());

    let pinned = pin(&site, &["--format", "tar.gz", &url]).exits(0).events("pinned").remove(0);
    assert_eq!(pinned["members"], serde_json::json!(["tool"]));
    assert!(fs::read_to_string(site.path().join("artifacts.toml")).unwrap().contains("format = \"tar.gz\"\n"));
    site.role("base", "[[artifact]]\nname = \"tool\"\ninstall = { tool = \"/usr/bin/tool\" }\n");
    let pins = fs::read_to_string(site.path().join("artifacts.toml")).unwrap();
    site.file(
        "artifacts.toml",
        format!("{pins}{}", pins.replace("[tool]", "").replace("version = \"1.0\"", "").replace("amd64", "arm64")),
    );
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("usr/bin/tool"), "good");
}

/// Mirrors a site.
pub fn mirror(site: &Site, dir: &Path, more: &[&str]) -> Output {
    kpull(&[&["mirror", "--json", dir.to_str().unwrap(), "--site", site.path().to_str().unwrap()], more].concat())
}

#[test]
fn an_interrupted_mirroring_continues_where_it_ended() {
    let content = artifacts::bytes(600_000);
    let server = cutting(content.clone());
    let site = artifacts::site(&[server.url("tool")], &content, "tool = \"/usr/bin/tool\"");
    let dir = tempfile::tempdir().unwrap();
    mirror(&site, dir.path(), &["--arch", "amd64"]).fails(1, "the artifact tool can't be downloaded");
    let file = dir.path().join(layout::artifact(&Listed::of(&content).sha256));
    assert!(!file.exists());
    mirror(&site, dir.path(), &["--arch", "amd64"]).exits(0);
    assert_eq!(fs::read(file).unwrap(), content);
    let ranges: Vec<Option<String>> =
        server.seen().iter().map(|seen| seen.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [None, Some("bytes=300000-".to_owned())]);
}

#[test]
fn a_mirror_is_tried_first_and_skipped_with_a_note_if_it_lacks_a_file() {
    let (publisher, url) = published("tool", b"good");
    let site = artifacts::site(&[url], b"good", "tool = \"/usr/bin/tool\"");
    let mirrored = tempfile::tempdir().unwrap();
    mirror(&site, mirrored.path(), &[]).exits(0);
    let empty = tempfile::tempdir().unwrap();
    let (full, empty) = (url_of(mirrored.path()), url_of(empty.path()));
    site.sign();
    let configured = |mirrors: &[&str], only: bool| {
        let tree = site.enroll();
        let config = tree.read("etc/kpull/kpull.toml");
        tree.write(
            "etc/kpull/kpull.toml",
            format!("{config}\n[artifacts]\nmirrors = {mirrors:?}\nonly_mirrors = {only}\n"),
        );
        tree
    };
    let apply = configured(&[&empty], false).kpull("apply --json").exits(0);
    let passed = apply.events("mirror_passed");
    assert_eq!((passed.len(), &passed[0]["mirror"]), (1, &empty.clone().into()));
    configured(&[&empty], true).kpull("apply").fails(1, "the artifact tool can't be downloaded");

    drop(publisher);
    let tree = configured(&[&empty, &full], true);
    assert_eq!(tree.kpull("apply --json").exits(0).events("mirror_passed").len(), 1);
    assert_eq!(tree.read("usr/bin/tool"), "good");
    fs::write(mirrored.path().join(layout::artifact(&Listed::of(b"good").sha256)), "evil").unwrap();
    let error = configured(&[&full], true).kpull("apply --json").exits(1).error();
    assert!(error["error"].as_str().unwrap().contains("is not the pinned file"), "{error}");
    let error = configured(&[], true).kpull("apply --json").exits(1).error();
    assert_eq!(error["error"], "`only_mirrors` is set without `mirrors`");
}

#[test]
fn check_reports_every_address_and_fails_if_none_of_a_pin_works() {
    let archive = tar_gz(&[("tool-1.0/tool", b"good")]);
    let (publisher, url) = published("tool.tar.gz", &archive);
    let dead = url_of(&publisher.path().join("none.tar.gz"));
    let site = artifacts::site(&[dead.clone(), url], &archive, "\"tool-1.0/tool\" = \"/usr/bin/tool\"");
    let check = |more: &[&str]| {
        kpull(&[&["check", "--artifacts", "--json", "--site", site.path().to_str().unwrap()], more].concat())
    };
    let asked = check(&[]).exits(0).events("artifact");
    let expected: Vec<(&str, bool)> =
        asked.iter().map(|asked| (asked["place"].as_str().unwrap(), asked["ok"].as_bool().unwrap())).collect();
    let places = ["artifacts.toml:3:19", "artifacts.toml:3:"];
    assert_eq!((expected[0], expected[1].1, expected.len()), ((places[0], false), true, 4));
    assert!(expected[1].0.starts_with(places[1]), "{expected:?}");
    check(&["--download"]).exits(0);

    site.role("base", "[[artifact]]\nname = \"tool\"\ninstall = { \"tool-1.1/tool\" = \"/usr/bin/tool\" }\n");
    check(&[]).exits(0);
    let output = check(&["--download"]).exits(1);
    let errors = output.events("error");
    assert!(errors[0]["error"].as_str().unwrap().contains("`tool-1.1/tool`"), "{output:?}");
    let dir = tempfile::tempdir().unwrap();
    mirror(&site, dir.path(), &[]).exits(0);
    check(&["--mirror", dir.path().to_str().unwrap()]).fails(1, "`tool-1.1/tool`");

    fs::write(publisher.path().join("tool.tar.gz"), "another size").unwrap();
    let errors = check(&[]).exits(1).events("error");
    assert_eq!(errors.len(), 2);
    assert_eq!(errors[0]["error"], "tool (amd64) is not available from any of its addresses");
    assert_eq!((&errors[0]["file"], &errors[0]["line"]), (&"artifacts.toml".into(), &3.into()));
}

#[test]
fn an_address_gets_a_head_request_or_if_the_server_refuses_it_a_get_request() {
    for takes_head in [true, false] {
        let server = Server::plain(move |request: &Received| match request.method.as_str() {
            "HEAD" if !takes_head => Answer::new(405, ""),
            "HEAD" => {
                let mut answer = Answer::new(200, "").with("Content-Length", "4");
                answer.announced = false;
                answer
            }
            _ => Answer::new(200, "good"),
        })
        .unwrap();
        let site = artifacts::site(&[server.url("tool")], b"good", "tool = \"/usr/bin/tool\"");
        let arguments = ["check", "--artifacts", "--json", "--site", site.path().to_str().unwrap()];
        let asked = kpull(&arguments).exits(0).events("artifact");
        assert_eq!((&asked[0]["ok"], &asked[0]["size"]), (&true.into(), &4.into()));
        assert_eq!(server.seen().len(), if takes_head { 2 } else { 4 });
    }
}

/// A site whose role installs a kpull that is pinned as this, and tests it on `tree`.
fn updating(tree: &Tree, content: &[u8]) -> (tempfile::TempDir, Site) {
    let (publisher, url) = published("kpull", content);
    let site = artifacts::site(&[url], content, "kpull = \"/usr/bin/kpull\"");
    let old = fs::read_to_string(site.path().join("roles/base/role.toml")).unwrap();
    let test = format!("self_test = [\"self-test\", \"--root\", \"{}\"]\n", tree.path().display());
    site.file("roles/base/role.toml", old + &test).sign();
    (publisher, site)
}

#[test]
fn a_new_kpull_is_installed_only_if_it_reads_this_hosts_configuration_and_release() {
    let ours = fs::read(env!("CARGO_BIN_EXE_kpull")).unwrap();
    let says = |path: &str, why: &str| format!("the new {path} does not pass its self-test: {why}");
    let script = b"#!/bin/sh\nhead -c 4 \"$0\"\necho \"no such $1\" >&2\nexit 1\n";
    for (content, why) in [
        (&ours[..], None),
        (&script[..], Some("exit status: 1\nno such self-test")),
        (&ours[..ours.len() / 20], Some("")),
    ] {
        let tree = Tree::new();
        let (_publisher, site) = updating(&tree, content);
        tree.configure(&format!("[[source]]\ndir = \"{}\"\n", site.path().display()));
        tree.write("usr/bin/kpull", "the old one");
        let apply = tree.kpull("apply --json");
        let Some(why) = why else {
            apply.exits(0);
            assert_eq!(fs::read(tree.at("usr/bin/kpull")).unwrap(), content);
            continue;
        };
        let error = apply.exits(1).error();
        assert!(error["error"].as_str().unwrap().starts_with(&says("/usr/bin/kpull", why)), "{error}");
        assert_eq!(error["file"], "roles/base/role.toml");
        assert_eq!(tree.read("usr/bin/kpull"), "the old one");
        assert_eq!(tree.leftovers(), [""; 0]);
    }
}

#[test]
fn a_self_test_reads_and_changes_nothing() {
    let site = site("one");
    let tree = site.enroll();
    let before = tree.snapshot();
    let text = tree.kpull("self-test").exits(0).stdout;
    assert_eq!(text, "ok: the configuration can be read; there is no release yet\n");
    assert_eq!(tree.snapshot(), before);
    assert!(!tree.at("var/lib/kpull").exists());

    tree.kpull("apply").exits(0);
    assert_eq!(tree.kpull("self-test").exits(0).stdout, "ok: release 1, 1 resources\n");
    tree.write("var/lib/kpull/release.tar", "damaged");
    tree.kpull("self-test").fails(4, "the source has no release.toml");
    let config = tree.read("etc/kpull/kpull.toml");
    tree.write("etc/kpull/kpull.toml", format!("future = 1\n{config}"));
    let error = tree.kpull("self-test --json").exits(1).error();
    assert_eq!(error["error"], "unknown key `future`");
}

#[test]
fn of_several_installed_files_the_self_tested_one_comes_first() {
    let archive = tar_gz(&[("b", b"#!/bin/sh\nexit 0\n"), ("a", b"#!/bin/sh\nexit 3\n")]);
    let (_publisher, url) = published("tool.tar.gz", &archive);
    let site = artifacts::site(&[url], &archive, "a = \"/usr/bin/a\", b = \"/usr/bin/b\"");
    let old = fs::read_to_string(site.path().join("roles/base/role.toml")).unwrap();
    site.file("roles/base/role.toml", old + "self_test = [\"check\"]\n");
    let tree = site.sign().enroll();
    let error = tree.kpull("apply --json").exits(1).error();
    let says = "the new /usr/bin/a does not pass its self-test: exit status: 3, without any output";
    assert_eq!(error["error"], says);
    assert!(!tree.at("usr/bin/a").exists() && !tree.at("usr/bin/b").exists());
}
