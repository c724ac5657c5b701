//! Pinned upstream files: only pinned files are installed, whole, from any address that has them.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use flate2::Compression;
use flate2::write::GzEncoder;
use kpull::net::server::{Answer, Received, Server};
use kpull::trust::Listed;

use crate::support::site::{Site, Tree, kpull};

/// Some bytes that don't compress and of which no two pieces are alike.
pub fn bytes(count: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// A tar.gz with these members; their names are written as they are, good or not.
pub fn tar_gz(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

/// A site whose role installs what `install` says of the artifact `tool`, which is pinned as `content` at `urls`.
pub fn site(urls: &[String], content: &[u8], install: &str) -> Site {
    let site = Site::new("test");
    let Listed { sha256, size } = Listed::of(content);
    let pin = format!("{{ urls = {urls:?}, sha256 = \"{sha256}\", size = {size} }}");
    site.file("artifacts.toml", format!("[tool]\nversion = \"1.0\"\namd64 = {pin}\narm64 = {pin}\n"));
    site.role(
        "base",
        &format!(
            "[[file]]\npath = \"/etc/tool.version\"\ncontent = \"{{{{ artifacts.tool.version }}}}\\n\"\n\
             [[artifact]]\nname = \"tool\"\ninstall = {{ {install} }}\n"
        ),
    );
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n");
    site
}

/// A directory with the file that the publisher hands out, and its address.
pub fn published(name: &str, content: &[u8]) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, content).unwrap();
    let url = url_of(&path);
    (dir, url)
}

pub fn url_of(path: &Path) -> String {
    format!("file://{}", path.display())
}

#[test]
fn members_of_an_archive_are_corrected_from_the_store_without_the_publisher() {
    let archive =
        tar_gz(&[("tool-1.0/bin/tool", b"tool 1.0"), ("tool-1.0/README", b"read"), ("tool-1.0/bin/ctl", b"ctl 1.0")]);
    let (publisher, url) = published("tool.tar.gz", &archive);
    let site =
        site(&[url], &archive, "\"tool-1.0/bin/tool\" = \"/usr/bin/tool\", \"tool-1.0/bin/ctl\" = \"/usr/bin/ctl\"");
    let tree = site.sign().enroll();
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), ["file:/etc/tool.version", "artifact:tool"]);
    assert_eq!((tree.read("usr/bin/tool").as_str(), tree.read("usr/bin/ctl").as_str()), ("tool 1.0", "ctl 1.0"));
    assert_eq!((tree.mode("usr/bin/tool"), tree.read("etc/tool.version").as_str()), (0o755, "1.0\n"));
    let wanted = tree.snapshot();
    let before = tree.times();
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);
    assert_eq!(tree.times(), before);

    drop(publisher);
    tree.write("usr/bin/tool", "tool 6.6");
    let plan = tree.kpull("plan --json").exits(2);
    assert_eq!(plan.events("planned")[0]["summary"], "replace tool");
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), ["artifact:tool"]);
    fs::remove_file(tree.at("usr/bin/ctl")).unwrap();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.snapshot(), wanted);
}

#[test]
fn a_plain_binary_is_installed_under_its_new_name() {
    let content = bytes(70_000);
    let (_publisher, url) = published("tool-linux", &content);
    let site = site(&[url], &content, "tool = \"/usr/bin/tool\"");
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    assert_eq!(fs::read(tree.at("usr/bin/tool")).unwrap(), content);
    site.role("base", "").sign();
    let apply = tree.kpull("apply").exits(0);
    assert!(!tree.at("usr/bin/tool").exists());
    assert!(!apply.stdout.contains("edited by hand"), "{}", apply.stdout);
}

#[test]
fn a_file_other_than_the_pinned_one_is_refused_and_nothing_changes() {
    let (_publisher, url) = published("tool", b"evil");
    let site = site(std::slice::from_ref(&url), b"good", "tool = \"/usr/bin/tool\"");
    let tree = site.sign().enroll();
    let before = tree.snapshot();
    let error = tree.kpull("apply --json").exits(1).error();
    let (evil, good) = (Listed::of(b"evil").sha256, Listed::of(b"good").sha256);
    assert_eq!(
        error["error"],
        format!(
            "the artifact tool can't be downloaded: {url} is not the pinned file: its SHA-256 is {evil}, but artifacts.toml has {good}"
        )
    );
    assert!(error["help"].as_str().unwrap().starts_with("nothing was changed; add a mirror to `urls`"));
    assert_eq!((&error["file"], &error["line"]), (&"roles/base/role.toml".into(), &5.into()));
    let mut after = tree.snapshot();
    after.retain(|name, _| !["var", "var/lib"].contains(&name.as_str()));
    assert_eq!(after, before);
    assert_eq!(stored(&tree), [""; 0]);
}

/// The names in the store for artifacts.
pub fn stored(tree: &Tree) -> Vec<String> {
    let dir = fs::read_dir(tree.at("var/lib/kpull/artifacts"));
    dir.into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn more_bytes_than_pinned_are_refused() {
    let (_publisher, url) = published("tool", &bytes(5000));
    let site = site(std::slice::from_ref(&url), &bytes(4000), "tool = \"/usr/bin/tool\"");
    let tree = site.sign().enroll();
    let error = tree.kpull("apply --json").exits(1).error();
    let says = format!("the artifact tool can't be downloaded: {url} has 5000 bytes, but the pin has 4000");
    assert_eq!(error["error"], says);
    assert!(!tree.at("usr").exists());
}

#[test]
fn the_next_mirror_is_used_if_the_first_has_no_file_or_another_one() {
    let (publisher, url) = published("tool", b"good");
    let (_other, evil) = published("tool", b"evil");
    let missing = url_of(&publisher.path().join("none"));
    let site = site(&[missing, evil, url], b"good", "tool = \"/usr/bin/tool\"");
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("usr/bin/tool"), "good");
}

#[test]
fn if_no_mirror_has_a_file_the_error_names_all_mirrors() {
    let dir = tempfile::tempdir().unwrap();
    let urls: Vec<String> = ["one", "two"].iter().map(|name| url_of(&dir.path().join(name))).collect();
    let site = site(&urls, b"good", "tool = \"/usr/bin/tool\"");
    let tree = site.sign().enroll();
    let error = tree.kpull("apply --json").exits(1).error();
    let text = error["error"].as_str().unwrap();
    for name in ["one", "two"] {
        assert!(text.contains(&format!("{}/{name}: No such file or directory", dir.path().display())), "{text}");
    }
}

/// Hands out `content` the way a good web server does; cuts the first answer in its middle.
pub fn cutting(content: Vec<u8>) -> Server {
    let is_first = Mutex::new(true);
    Server::plain(move |request: &Received| {
        let from =
            request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let mut answer = match from {
            None => Answer::new(200, &content[..]),
            Some(from) => Answer::new(206, &content[from..])
                .with("Content-Range", format!("bytes {from}-{}/{}", content.len() - 1, content.len())),
        };
        if std::mem::take(&mut *is_first.lock().unwrap()) {
            answer.announced = false;
            answer = answer.with("Content-Length", content.len().to_string());
            answer.body.truncate(content.len() / 2);
        }
        answer
    })
    .unwrap()
}

#[test]
fn an_interrupted_download_continues_where_it_ended() {
    let content = bytes(600_000);
    let server = cutting(content.clone());
    let site = site(&[server.url("tool")], &content, "tool = \"/usr/bin/tool\"");
    let tree = site.sign().enroll();
    tree.write("etc/kpull/kpull.toml", format!("{}\n[artifacts]\nretries = 0\n", tree.read("etc/kpull/kpull.toml")));
    let error = tree.kpull("apply --json").exits(1).error();
    assert!(error["error"].as_str().unwrap().starts_with("the artifact tool can't be downloaded: "), "{error}");
    assert!(!tree.at("usr").exists() && !tree.at("etc/tool.version").exists());
    tree.kpull("apply").exits(0);
    assert_eq!(fs::read(tree.at("usr/bin/tool")).unwrap(), content);
    let ranges: Vec<Option<String>> =
        server.seen().iter().map(|seen| seen.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [None, Some("bytes=300000-".to_owned())]);
}

/// Hands `content` out as nginx does: parts too, if it still is what the client has begun with.
pub fn web(content: &[u8], request: &Received) -> Answer {
    let from = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let from = from.filter(|_| request.header("if-range").is_none_or(|state| state == "\"now\""));
    let answer = match from {
        None => Answer::new(200, content),
        Some(from) if from >= content.len() => {
            Answer::new(416, "").with("Content-Range", format!("bytes */{}", content.len()))
        }
        Some(from) => Answer::new(206, &content[from..])
            .with("Content-Range", format!("bytes {from}-{}/{}", content.len() - 1, content.len())),
    };
    answer.with("ETag", "\"now\"")
}

/// Leaves `there` behind of a download of `content`, which `url` has begun when it was called `state`.
pub fn leave(tree: &Tree, content: &[u8], there: &[u8], url: &str, state: &str) {
    let name = format!("var/lib/kpull/artifacts/{}", Listed::of(content).sha256);
    tree.write(&format!("{name}.part"), there);
    tree.write(&format!("{name}.from"), format!("{{\"url\":\"{url}\",\"state\":\"\\\"{state}\\\"\"}}"));
}

/// The `Range` and `If-Range` of every request.
pub fn ranges(server: &Server) -> Vec<(Option<String>, Option<String>)> {
    let header = |seen: &Received, name: &str| seen.header(name).map(str::to_owned);
    server.seen().iter().map(|seen| (header(seen, "range"), header(seen, "if-range"))).collect()
}

/// The requests of a run to a server that answers like `answer`, with that left behind; the run must install the tool, and
/// leave nothing but the artifact. `sized` is whether the pin has the file's size.
fn continues(
    sized: bool,
    there: &[u8],
    state: &str,
    answer: impl Fn(&[u8], &Received) -> Answer + Send + Sync + 'static,
) -> Vec<(Option<String>, Option<String>)> {
    let content = bytes(10_000);
    let served = content.clone();
    let server = Server::plain(move |request| answer(&served, request)).unwrap();
    let site = site(&[server.url("tool")], &content, "tool = \"/usr/bin/tool\"");
    if !sized {
        let pins = fs::read_to_string(site.path().join("artifacts.toml")).unwrap();
        site.file("artifacts.toml", pins.replace("size = 10000", "size = \"unknown\""));
    }
    let tree = site.sign().enroll();
    leave(&tree, &content, there, &server.url("tool"), state);
    tree.kpull("apply").exits(0);
    assert_eq!(fs::read(tree.at("usr/bin/tool")).unwrap(), content);
    let mut names = stored(&tree);
    names.sort();
    let digest = Listed::of(&content).sha256;
    assert_eq!(names, [digest.clone(), format!("{digest}.members.json")]);
    ranges(&server)
}

/// A request for all of it.
pub const WHOLE: (Option<String>, Option<String>) = (None, None);

/// A request for the rest of a download.
fn rest(from: usize, state: &str) -> (Option<String>, Option<String>) {
    (Some(format!("bytes={from}-")), Some(format!("\"{state}\"")))
}

#[test]
fn a_download_continues_only_while_the_server_has_the_same_file() {
    let half = &bytes(10_000)[..5000];
    assert_eq!(continues(true, half, "now", web), [rest(5000, "now")]);
    assert_eq!(continues(true, half, "then", web), [rest(5000, "then")], "which is answered with all of it");
    // a server without If-Range sends the rest of another file
    let knows_none = |content: &[u8], request: &Received| {
        let headers = request.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("if-range"));
        web(content, &Received { headers: headers.cloned().collect(), ..request.clone() })
    };
    assert_eq!(continues(true, &[0; 5000], "then", knows_none), [rest(5000, "then"), WHOLE]);
}

#[test]
fn a_download_begun_at_another_address_continues_or_restarts_if_the_file_differs() {
    let content = bytes(10_000);
    let rest = || (Some("bytes=5000-".to_owned()), None);
    for (there, asks) in [(&content[..5000], vec![rest()]), (&[0; 5000], vec![rest(), WHOLE])] {
        let served = content.clone();
        let server = Server::plain(move |request| web(&served, request)).unwrap();
        let site = site(&[server.url("tool")], &content, "tool = \"/usr/bin/tool\"");
        let tree = site.sign().enroll();
        leave(&tree, &content, there, "http://mirror.example/tool", "then");
        tree.kpull("apply").exits(0);
        assert_eq!(fs::read(tree.at("usr/bin/tool")).unwrap(), content);
        assert_eq!(ranges(&server), asks);
    }
}

#[test]
fn a_complete_download_is_not_requested_even_if_its_size_was_unknown() {
    let content = bytes(10_000);
    assert_eq!(continues(true, &content, "now", web), []);
    assert_eq!(continues(false, &content, "now", web), []);
}

#[test]
fn a_partial_download_that_is_too_long_is_discarded_if_the_server_has_no_such_range() {
    let more = [bytes(10_000), vec![7; 100]].concat();
    assert_eq!(continues(false, &more, "now", web), [rest(10_100, "now"), WHOLE]);
    assert_eq!(continues(true, &more, "now", web), [WHOLE], "the pin says that it is too much");
    // other bytes, as long as the file is
    assert_eq!(continues(false, &[0; 10_000], "now", web), [rest(10_000, "now"), WHOLE]);
    assert_eq!(continues(true, &[0; 10_000], "now", web), [WHOLE]);
}

#[test]
fn a_range_that_begins_at_the_first_byte_is_the_entire_file() {
    let from_zero = |content: &[u8], _: &Received| {
        Answer::new(206, content).with("Content-Range", format!("bytes 0-{0}/{1}", content.len() - 1, content.len()))
    };
    let half = &bytes(10_000)[..5000];
    for sized in [true, false] {
        assert_eq!(continues(sized, half, "now", from_zero), [rest(5000, "now"), WHOLE]);
    }
    let another = |content: &[u8], request: &Received| match request.header("range") {
        Some(_) => Answer::new(206, &content[100..]).with("Content-Range", "bytes 100-9999/10000"),
        None => Answer::new(200, content),
    };
    assert_eq!(continues(true, half, "now", another), [rest(5000, "now"), WHOLE]);
}

#[test]
fn a_server_that_sends_more_or_less_than_the_file_has_blocks_no_later_run() {
    let content = bytes(10_000);
    for sent in [[content.clone(), vec![7; 100]].concat(), content[..4000].to_vec(), Vec::new()] {
        for announced in [true, false] {
            let answers = Mutex::new(vec![sent.clone()]);
            let good = content.clone();
            let server = Server::plain(move |request| match answers.lock().unwrap().pop() {
                Some(bad) => Answer { announced, ..Answer::new(200, bad) },
                None => web(&good, request),
            })
            .unwrap();
            let site = site(&[server.url("tool")], &content, "tool = \"/usr/bin/tool\"");
            let tree = site.sign().enroll();
            let error = tree.kpull("apply --json").exits(1).error();
            assert!(error["error"].as_str().unwrap().starts_with("the artifact tool can't be downloaded: "), "{error}");
            tree.kpull("apply").exits(0);
            assert_eq!(fs::read(tree.at("usr/bin/tool")).unwrap(), content);
        }
    }
}

#[test]
fn a_store_that_lost_bytes_is_detected_and_filled_again() {
    let (_publisher, url) = published("tool", b"good");
    let site = site(&[url], b"good", "tool = \"/usr/bin/tool\"");
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    fs::write(tree.at("var/lib/kpull/artifacts").join(Listed::of(b"good").sha256), "goo!").unwrap();
    fs::remove_file(tree.at("usr/bin/tool")).unwrap();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("usr/bin/tool"), "good");
}

#[test]
fn a_member_that_leads_out_of_the_archive_is_written_only_where_a_role_says() {
    let archive = tar_gz(&[("tool", b"good"), ("../../etc/cron.d/evil", b"evil")]);
    let (publisher, url) = published("tool.tar.gz", &archive);
    for (member, content) in [("tool", "good"), ("../../etc/cron.d/evil", "evil")] {
        let site = self::site(std::slice::from_ref(&url), &archive, &format!("\"{member}\" = \"/usr/bin/tool\""));
        let tree = site.sign().enroll();
        tree.kpull("apply").exits(0);
        assert_eq!(tree.read("usr/bin/tool"), content);
        assert!(!tree.at("etc/cron.d").exists());
    }
    assert_eq!(fs::read_dir(publisher.path()).unwrap().count(), 1);
}

#[test]
fn a_member_that_is_not_in_the_archive_is_reported_with_the_nearest_name() {
    let archive = tar_gz(&[("tool-1.0/tool", b"good")]);
    let (_publisher, url) = published("tool.tar.gz", &archive);
    let site = site(&[url], &archive, "\"tool-1.1/tool\" = \"/usr/bin/tool\"");
    let tree = site.sign().enroll();
    let error = tree.kpull("apply --json").exits(1).error();
    assert!(error["error"].as_str().unwrap().contains("`tool-1.1/tool`"), "{error}");
    assert!(error["help"].as_str().unwrap().contains("`tool-1.0/tool`"), "{error}");
    assert!(!tree.at("usr").exists());
}

#[test]
fn a_new_version_replaces_the_old_one_atomically() {
    let (old_publisher, old) = published("tool", b"tool 1");
    let first = site(&[old], b"tool 1", "tool = \"/usr/bin/tool\"");
    let tree = first.sign().enroll();
    tree.kpull("apply").exits(0);
    let (_publisher, new) = published("tool", b"tool 2");
    let next = site(&[new], b"tool 2", "tool = \"/usr/bin/tool\"");
    first.file("artifacts.toml", fs::read(next.path().join("artifacts.toml")).unwrap()).sign();
    drop(old_publisher);
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), ["artifact:tool"]);
    assert_eq!(tree.read("usr/bin/tool"), "tool 2");
    assert_eq!(tree.leftovers(), [""; 0]);
}

/// The inode of a file.
fn inode(tree: &Tree, path: &str) -> u64 {
    fs::metadata(tree.at(path)).unwrap().ino()
}

#[test]
fn only_the_member_that_differs_is_replaced_and_a_mode_is_set_in_place() {
    let archive = tar_gz(&[("a", b"content of a"), ("b", b"content of b")]);
    let (_publisher, url) = published("tool.tar.gz", &archive);
    let site = site(&[url], &archive, "a = \"/usr/bin/a\", b = \"/usr/bin/b\"");
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    let (a, b) = (inode(&tree, "usr/bin/a"), inode(&tree, "usr/bin/b"));
    tree.write("usr/bin/a", "spoiled");
    fs::set_permissions(tree.at("usr/bin/b"), fs::Permissions::from_mode(0o700)).unwrap();
    let kept = fs::File::open(tree.at("usr/bin/a")).unwrap();
    tree.kpull("apply").exits(0);
    drop(kept);
    assert_eq!((tree.read("usr/bin/a").as_str(), tree.read("usr/bin/b").as_str()), ("content of a", "content of b"));
    assert_ne!(inode(&tree, "usr/bin/a"), a);
    assert_eq!((inode(&tree, "usr/bin/b"), tree.mode("usr/bin/b")), (b, 0o755));
}

#[test]
fn a_binary_that_others_could_write_to_is_replaced_and_not_only_given_a_mode() {
    let (_publisher, url) = published("tool", b"good");
    let site = site(&[url], b"good", "tool = \"/usr/bin/tool\"");
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    fs::set_permissions(tree.at("usr/bin/tool"), fs::Permissions::from_mode(0o777)).unwrap();
    let mut open = fs::File::options().write(true).open(tree.at("usr/bin/tool")).unwrap();
    tree.kpull("apply").exits(0);
    open.write_all(b"evil").unwrap();
    assert_eq!((tree.read("usr/bin/tool").as_str(), tree.mode("usr/bin/tool")), ("good", 0o755));
}

#[test]
fn all_members_are_installed_even_if_more_than_are_unpacked_at_once() {
    let names: Vec<String> = (0..600).map(|n| format!("m{n}")).collect();
    let members: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), name.as_bytes())).collect();
    let archive = tar_gz(&members);
    let (_publisher, url) = published("tool.tar.gz", &archive);
    let install: Vec<String> = names.iter().map(|name| format!("{name} = \"/opt/{name}\"")).collect();
    let site = site(&[url], &archive, &install.join(", "));
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    for name in &names {
        assert_eq!(&tree.read(&format!("opt/{name}")), name);
    }
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);
}

#[test]
fn an_archive_with_a_wrong_digest_leaves_nothing_and_the_next_address_is_tried() {
    let archive = tar_gz(&[("tool", b"good")]);
    let (_publisher, good) = published("tool.tar.gz", &archive);
    let cut = archive[..archive.len() / 2].to_vec();
    for other in [tar_gz(&[("tool", b"evil")]), tar_gz(&[("../tool", b"evil")]), cut, b"<html>".to_vec()] {
        let (_other, url) = published("tool.tar.gz", &other);
        let site = site(&[url.clone(), good.clone()], &archive, "tool = \"/usr/bin/tool\"");
        let tree = site.sign().enroll();
        tree.kpull("apply").exits(0);
        assert_eq!(tree.read("usr/bin/tool"), "good");

        let site = self::site(&[url], &archive, "tool = \"/usr/bin/tool\"");
        let tree = site.sign().enroll();
        let error = tree.kpull("apply --json").exits(1).error();
        assert!(error["error"].as_str().unwrap().starts_with("the artifact tool can't be downloaded: "), "{error}");
        assert!(!tree.at("usr").exists());
        assert_eq!((stored(&tree), tree.leftovers()), (Vec::new(), Vec::new()));
    }
}

#[test]
fn a_complete_download_is_not_requested_again() {
    let archive = tar_gz(&[("tool", &bytes(70_000))]);
    let site = site(&["file:///nowhere/tool.tar.gz".to_owned()], &archive, "tool = \"/usr/bin/tool\"");
    let tree = site.sign().enroll();
    let part = tree.at("var/lib/kpull/artifacts").join(format!("{}.part", Listed::of(&archive).sha256));
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    fs::write(part, &archive).unwrap();
    tree.kpull("apply").exits(0);
    assert_eq!(fs::read(tree.at("usr/bin/tool")).unwrap(), bytes(70_000));
}

#[test]
fn a_zip_is_installed_once_it_is_whole() {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer.start_file("bin/tool", zip::write::SimpleFileOptions::default()).unwrap();
    writer.write_all(b"good").unwrap();
    let archive = writer.finish().unwrap().into_inner();
    let (_publisher, url) = published("tool.zip", &archive);
    let site = site(&[url], &archive, "\"bin/tool\" = \"/usr/bin/tool\"");
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("usr/bin/tool"), "good");
}

/// The tar archive of a directory with `tool-1.0/bin/tool`, as the system's own tar makes it with these options.
fn packed(options: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("tool-1.0/bin")).unwrap();
    fs::write(dir.path().join("tool-1.0/bin/tool"), "good").unwrap();
    let output = Command::new("tar").arg("-C").arg(dir.path()).args(options).args(["-c", "tool-1.0"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

const INSTALL: &str = "\"tool-1.0/bin/tool\" = \"/usr/bin/tool\"";

#[test]
fn an_archive_that_xz_compressed_is_unpacked() {
    for options in [["-I", "xz -0"], ["-I", "xz -9e --x86 --lzma2 --check=sha256"], ["-I", "xz -T2 --block-size=4096"]]
    {
        let archive = packed(&options);
        let (_publisher, url) = published("tool-1.0.tar.xz", &archive);
        let site = site(&[url], &archive, INSTALL);
        let tree = site.sign().enroll();
        tree.kpull("apply").exits(0);
        assert_eq!(tree.read("usr/bin/tool"), "good", "{options:?}");
    }
}

#[test]
fn an_archive_whose_address_does_not_show_it_is_not_installed_as_the_program() {
    let bzip2 = b"BZh91AY&SY and so on".to_vec();
    let page = b"<!doctype html><html><title>Log in</title>".to_vec();
    for (content, what) in [
        (packed(&["-z"]), "compressed with gzip"),
        (packed(&["-J"]), "compressed with xz"),
        (bzip2, "compressed with bzip2"),
        (page, "a web page (HTML)"),
    ] {
        let (_publisher, url) = published("download", &content);
        let site = site(&[url], &content, "tool = \"/usr/bin/tool\"");
        let tree = site.sign().enroll();
        let says = format!("tool: is {what}, which its name does not indicate");
        let error = tree.kpull("apply --json").exits(1).error();
        assert_eq!(error["error"], says);
        assert!(!tree.at("usr").exists() && !tree.at("etc/tool.version").exists());
        let check = ["check", "--artifacts", "--download", "--json", "--site", site.path().to_str().unwrap()];
        let errors = kpull(&check).exits(1).events("error");
        assert_eq!((&errors[0]["error"], &errors[0]["line"]), (&says.into(), &3.into()));
    }
}

#[test]
fn a_pin_names_the_format_of_a_file_whose_address_does_not() {
    let archive = packed(&["-J"]);
    let (_publisher, url) = published("download", &archive);
    for (format, install, path) in [("tar.xz", INSTALL, "usr/bin/tool"), ("file", "tool = \"/srv/tool\"", "srv/tool")] {
        let site = site(std::slice::from_ref(&url), &archive, install);
        let pins = fs::read_to_string(site.path().join("artifacts.toml")).unwrap();
        site.file("artifacts.toml", pins.replace(", size", &format!(", format = \"{format}\", size")));
        let tree = site.sign().enroll();
        tree.kpull("apply").exits(0);
        let wanted = if format == "file" { archive.clone() } else { b"good".to_vec() };
        assert_eq!(fs::read(tree.at(path)).unwrap(), wanted, "{format}");
    }
}

#[test]
fn check_refuses_an_archive_whose_name_shows_an_unsupported_format() {
    for (name, what) in [
        ("tool.tar.bz2", "compressed with bzip2"),
        ("tool.7z", "a 7-Zip archive"),
        ("x.TAR.LZ", "compressed with lzip"),
    ] {
        let site = site(&[format!("https://example.org/{name}")], b"any", INSTALL);
        let check = |site: &Site| kpull(&["check", "--json", "--site", site.path().to_str().unwrap()]);
        let error = check(&site).exits(1).error();
        assert_eq!(error["error"], format!("tool (amd64) is {what}, which can't be unpacked"));
        assert_eq!((&error["file"], &error["line"]), (&"artifacts.toml".into(), &3.into()));
        assert!(error["help"].as_str().unwrap().starts_with("kpull reads tar, zip, gzip, xz and Zstandard"), "{error}");
        let pins = fs::read_to_string(site.path().join("artifacts.toml")).unwrap();
        site.file("artifacts.toml", pins.replace(", size", ", format = \"file\", size"));
        check(&site).exits(0);
    }
}

#[test]
fn check_refuses_several_members_of_a_file_that_is_no_archive() {
    let site = site(&["https://example.org/tool".to_owned()], b"any", "a = \"/a\", b = \"/b\"");
    let error = kpull(&["check", "--json", "--site", site.path().to_str().unwrap()]).exits(1).error();
    assert!(
        error["error"].as_str().unwrap().contains("according to its name, the artifact is a single file"),
        "{error}"
    );
}
