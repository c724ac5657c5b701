//! Files that differ from the signed ones, and endless ones.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use kpull::document::Tree as _;
use kpull::document::layout::{MANIFEST, POINTER, SIGNATURES};
use kpull::trust::{AllowedSigners, KeySet, Manifest, Policy};

use crate::attack::host::{Attack, Ended, Entry, GOOD, Host, SITE, Tree, Via, allow};

const MORE: &str = "roles/base/files/more";
const CHANGED: &str = "the file was changed after signing; sign again if that was you";
const TOO_MANY: &str = "kpull does not read the rest: check whether it was changed after signing";
/// What the sockets of both sides can buffer in addition to what was read.
const IN_SOCKETS: u64 = 16 << 20;

#[test]
fn a_file_with_another_content_is_refused() {
    let error = "roles/base/files/more is not the file that was signed: its SHA-256 differs";
    Attack { error, help: CHANGED, ..Attack::default() }.mount(|tree| {
        tree.put(MORE, tree.text(MORE).replace("more", "MORE"));
    });
}

#[test]
fn a_file_that_is_cut_short_is_refused() {
    let error = "roles/base/files/more has 18 bytes, and the release says 19";
    Attack { error, help: "the file was changed or truncated after signing", ..Attack::default() }.mount(|tree| {
        let text = tree.text(MORE);
        tree.put(MORE, &text[..text.len() - 1]);
    });
}

#[test]
fn a_file_with_one_byte_more_than_announced_is_refused() {
    for (via, error) in [
        (Via::Dir, "/source: roles/base/files/more has more than 19 bytes"),
        (Via::Git, "git /source: roles/base/files/more has more than 19 bytes"),
        (Via::Http, "/source/roles/base/files/more has more than 19 bytes"),
    ] {
        Attack { error, help: TOO_MANY, via: &[via], ..Attack::default() }.mount(|tree| {
            tree.put(MORE, tree.text(MORE) + "!");
        });
    }
}

#[test]
fn a_file_whose_listed_size_is_wrong_is_refused() {
    let error = "roles/base/files/more has 19 bytes, and the release says 20";
    Attack { error, help: "the file was changed or truncated after signing", ..Attack::default() }
        .mount(|tree| tree.edit("size = 19 }", "size = 20 }"));
}

#[test]
fn a_listed_file_that_is_missing_is_refused() {
    let error = "roles/base/files/more is listed in the release, and the source does not have it";
    Attack { error, help: "publish every file of the site; check that the push was complete", ..Attack::default() }
        .mount(|tree| drop(tree.0.remove(MORE)));
}

#[test]
fn a_file_that_is_not_listed_is_refused_where_it_can_be_seen() {
    let error = "roles/base/files/extra is in the source, and the release does not list it";
    let via = &[Via::Dir, Via::Git];
    Attack { error, help: "sign again after adding a file", via, ..Attack::default() }
        .mount(|tree| tree.put("roles/base/files/extra", "x"));
}

#[test]
fn a_file_that_is_not_listed_is_never_asked_for_over_http() {
    let host = Host::with_good(Via::Http);
    let mut tree = Tree::good(GOOD + 1);
    tree.put("roles/base/files/extra", "x");
    tree.put("host_vars/b.toml", "not TOML");
    host.publish(&tree);
    host.expect_good(GOOD + 1);
}

#[test]
fn a_manifest_of_one_release_with_a_file_of_another_is_refused() {
    let error = "roles/base/files/more is not the file that was signed: its SHA-256 differs";
    Attack { error, help: CHANGED, ..Attack::default() }.mount(|tree| tree.put(MORE, Tree::good(GOOD).text(MORE)));
}

#[test]
fn a_symlink_out_of_the_source_is_not_followed() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(outside.path(), Tree::good(GOOD + 1).text(MORE)).unwrap();
    for (via, error, help) in [
        (
            Via::Dir,
            "/source/roles/base/files/more is not a regular file inside the directory",
            "symlinks, directories and special files can't be part of a site: replace it with the file itself",
        ),
        (
            Via::Git,
            "git /source: roles/base/files/more is not a file",
            "kpull does not read symlinks, submodules and directories: commit the file itself",
        ),
    ] {
        Attack { error, help, via: &[via], ..Attack::default() }
            .mount(|tree| drop(tree.0.insert(MORE.into(), Entry::Link(outside.path().into()))));
    }
}

#[test]
fn a_directory_that_is_a_symlink_out_of_the_source_is_not_entered() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("more"), Tree::good(GOOD + 1).text(MORE)).unwrap();
    let error = "roles/base/files is in the source, and the release does not list it";
    let via = &[Via::Dir, Via::Git];
    Attack { error, help: "sign again after adding a file", via, ..Attack::default() }.mount(|tree| {
        tree.0.remove(MORE);
        tree.0.insert("roles/base/files".into(), Entry::Link(outside.path().into()));
    });
}

#[test]
fn a_manifest_that_is_a_symlink_is_refused() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    for (via, error, help) in [
        (
            Via::Dir,
            "/source/release.toml is not a regular file inside the directory",
            "symlinks, directories and special files can't be part of a site: replace it with the file itself",
        ),
        (
            Via::Git,
            "git /source: release.toml is not a file",
            "kpull does not read symlinks, submodules and directories: commit the file itself",
        ),
    ] {
        Attack { error, help, via: &[via], ..Attack::default() }
            .mount(|tree| drop(tree.0.insert(MANIFEST.into(), Entry::Link(outside.path().into()))));
    }
}

#[test]
fn a_manifest_of_more_than_8_mib_is_refused() {
    for (via, error) in [
        (Via::Dir, "/source: release.toml has more than 8388608 bytes"),
        (Via::Git, "git /source: release.toml has more than 8388608 bytes"),
        (Via::Http, "/source/release.toml has more than 8388608 bytes"),
    ] {
        Attack { error, help: TOO_MANY, via: &[via], ..Attack::default() }.mount(|tree| {
            let text = tree.text(MANIFEST);
            tree.manifest(text + &"#".repeat(8 << 20));
        });
    }
}

#[test]
fn signatures_of_more_than_64_kib_are_refused() {
    for (via, error) in [
        (Via::Dir, "/source: release.toml.sig has more than 65536 bytes"),
        (Via::Git, "git /source: release.toml.sig has more than 65536 bytes"),
        (Via::Http, "/source/release.toml.sig has more than 65536 bytes"),
    ] {
        Attack { error, help: TOO_MANY, via: &[via], ..Attack::default() }.mount(|tree| {
            let text = tree.text(SIGNATURES);
            tree.put(SIGNATURES, text.repeat(5000));
        });
    }
}

/// A web server that has all of a release but one path, where it sends `piece` again and again, with a pause between,
/// until the client hangs up. The second value counts the bytes that it has sent so.
fn endless(tree: Tree, path: &'static str, piece: Vec<u8>, pause: Duration) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http = \"http://{}/\"\nretries = 0\n", listener.local_addr().unwrap());
    let sent = Arc::<AtomicU64>::default();
    let counted = sent.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            let request = String::from_utf8(request).unwrap();
            let asked = request.split(' ').nth(1).unwrap().trim_start_matches('/').to_owned();
            if asked != path && !tree.0.contains_key(&asked) {
                assert!(asked == POINTER || asked.starts_with("keys/"), "no request for {asked} is expected");
                stream.write_all(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
                continue;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").unwrap();
            match tree.0.get(&asked) {
                _ if asked == path => {
                    while stream.write_all(&piece).is_ok() {
                        counted.fetch_add(piece.len() as u64, Ordering::SeqCst);
                        std::thread::sleep(pause);
                    }
                }
                Some(Entry::File(content)) => stream.write_all(content).unwrap(),
                _ => panic!("{asked} is not a file"),
            }
        }
    });
    (address, sent)
}

/// A good host after a run against [`endless`], unharmed.
fn against_endless(path: &'static str, piece: Vec<u8>, pause: Duration, options: &str) -> (Ended, u64) {
    let host = Host::with_good(Via::Http);
    let before = host.snapshot();
    let config = host.root().join("etc/kpull/kpull.toml");
    let old = std::fs::read(&config).unwrap();
    let (address, sent) = endless(Tree::good(GOOD + 1), path, piece, pause);
    host.configure(&allow(1, ""), 1, &(address + options));
    let ended = host.apply();
    std::fs::write(&config, old).unwrap();
    std::fs::write(host.root().join("etc/kpull/allowed_signers"), allow(1, "") + &allow(2, "")).unwrap();
    let forget = |mut snapshot: std::collections::BTreeMap<PathBuf, String>| {
        snapshot.retain(|path, _| !path.ends_with("kpull.toml") && !path.ends_with("allowed_signers"));
        snapshot
    };
    assert_eq!(forget(before), forget(host.snapshot()));
    host.publish(&Tree::good(GOOD + 2));
    host.expect_good(GOOD + 2);
    (ended, sent.load(Ordering::SeqCst))
}

#[test]
fn kpull_stops_reading_endless_files() {
    for (path, most) in [(POINTER, 4 << 10), (MANIFEST, 8 << 20), (SIGNATURES, 64 << 10), (MORE, 19)] {
        let (ended, sent) = against_endless(path, vec![b'\n'; 1 << 16], Duration::ZERO, "");
        assert!(ended.error.ends_with(&format!("/{path} has more than {most} bytes")), "{}", ended.error);
        assert_eq!(ended.help, format!("{TOO_MANY}; the host stays converged on release {GOOD}"));
        assert_eq!(ended.code, 4);
        assert!(sent < most + IN_SOCKETS, "{sent} bytes of {path}");
    }
}

#[test]
fn kpull_gives_up_on_a_server_that_sends_a_byte_now_and_then() {
    let (ended, sent) = against_endless(MANIFEST, vec![b'\n'], Duration::from_millis(20), "timeout = 3\n");
    assert!(ended.error.ends_with("the answer is too slow: fewer than 1024 bytes per second"), "{}", ended.error);
    assert_eq!(ended.code, 1, "a slow line is no attack by itself");
    assert!(sent < 1024);
}

#[test]
fn an_answer_that_breaks_off_is_no_short_file() {
    let host = Host::with_good(Via::Http);
    let before = host.snapshot();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http = \"http://{}/\"\nretries = 0\n", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nformat = 1\n");
        }
    });
    host.configure(&(allow(1, "") + &allow(2, "")), 1, &address);
    let ended = host.apply();
    assert!(ended.error.contains("the answer was interrupted"), "{}", ended.error);
    assert_eq!(ended.code, 1);
    let mut after = host.snapshot();
    for name in ["kpull.toml", "allowed_signers"] {
        let path = host.root().join("etc/kpull").join(name);
        after.insert(path.clone(), before[&path].clone());
    }
    assert_eq!(before, after);
}

#[test]
fn a_redirect_to_a_scheme_other_than_http_is_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join(MANIFEST), Tree::good(GOOD + 1).text(MANIFEST)).unwrap();
    for to in [format!("file://{}/{MANIFEST}", outside.path().display()), "ftp://127.0.0.1/release.toml".into()] {
        let host = Host::new(Via::Dir, &allow(1, ""), 1);
        let scheme = to.split(':').next().unwrap().to_owned();
        let server =
            kpull::net::server::Server::plain(move |_| kpull::net::server::Answer::new(302, "").with("Location", &*to))
                .unwrap();
        host.configure(&allow(1, ""), 1, &format!("http = {:?}\nretries = 0\n", server.url("")));
        let ended = host.apply();
        assert!(ended.error.ends_with(&format!("the server redirects to a {scheme} address")), "{}", ended.error);
        assert_eq!((ended.code, server.seen().len()), (1, 1));
    }
}

/// A release in memory, as a source has it.
impl kpull::document::Tree for Tree {
    fn read(&self, path: &str, _max: u64) -> kpull::Result<Option<Vec<u8>>> {
        Ok(self.0.get(path).and_then(|entry| match entry {
            Entry::File(content) => Some(content.clone()),
            Entry::Link(_) => None,
        }))
    }

    fn list(&self) -> kpull::Result<Option<Vec<String>>> {
        Ok(Some(self.0.keys().cloned().collect()))
    }
}

#[test]
fn no_flipped_bit_in_any_file_passes() {
    let signers = AllowedSigners::parse("allowed_signers", &allow(1, "")).unwrap();
    let policy = Policy { site: SITE.into(), keys: KeySet::start(SITE, signers, 1, 1) };
    let mut good = Tree::good(GOOD);
    // bytes after the last armor line belong to no signature
    good.put(SIGNATURES, good.text(SIGNATURES).trim_end());
    let take = |tree: &Tree| policy.announce(tree, Timestamp::now())?.fetch(tree, None, "a");
    take(&good).unwrap();
    for path in [MANIFEST, SIGNATURES, MORE, "site.toml", "roles/base/role.toml"] {
        let content = good.read(path, u64::MAX).unwrap().unwrap();
        for position in 0..content.len() {
            let mut bad = good.clone();
            let mut changed = content.clone();
            changed[position] ^= 1 << (position % 8);
            bad.put(path, changed);
            let error = take(&bad).err().unwrap_or_else(|| panic!("byte {position} of {path} was changed"));
            assert_eq!(error.exit_code(), kpull::Exit::Refused, "byte {position} of {path}: {error}");
        }
    }
}

#[test]
fn no_manifest_causes_a_panic_or_lists_a_path_outside_the_tree() {
    let text = Tree::good(GOOD).text(MANIFEST);
    for position in 0..text.len() {
        for insert in ["\"", "'", "\\", "\n", "..", "/", "[", "{", "=", "\u{1b}", "9", "\0"] {
            let mut changed = text.clone().into_bytes();
            changed.splice(position..=position, insert.bytes());
            match Manifest::parse(&changed) {
                Ok(manifest) => {
                    let mut names = manifest.files.keys().flat_map(|path| path.split('/'));
                    assert!(names.all(|name| !matches!(name, "" | "." | "..")), "{manifest:?}");
                }
                Err(error) => assert_eq!(error.exit_code(), kpull::Exit::Refused, "{error}"),
            }
        }
    }
}
