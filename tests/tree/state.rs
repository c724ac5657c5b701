//! kpull continues from the state directories of earlier builds: `tests/fixtures/state/N.tar` is a tree that the build which
//! began format N has made, with the site that it took its releases from.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use jiff::{SignedDuration, Timestamp};
use kpull::document::Files;
use kpull::document::layout::{MANIFEST, SIGNATURES};
use kpull::trust::{Manifest, NAMESPACE};
use serde_json::Value;
use ssh_key::{HashAlg, LineEnding};

use crate::support::site::{Tree, key};

/// The directory of the fixtures.
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/state");
/// Where the site is in a fixture.
const SITE: &str = "srv/site";
const STATE: &str = "var/lib/kpull";

/// The role of the first release. The prior state of `/etc/was.conf` is recorded, and so is the owner of each path.
const FIRST: &str = r#"
[[directory]]
path = "/srv/made"
[[file]]
path = "/srv/made/inside"
content = "kpull's\n"
[[file]]
path = "/etc/was.conf"
content = "first\n"
mode = "0600"
[[symlink]]
path = "/etc/link"
target = "was.conf"
[[block]]
path = "/etc/hosts"
name = "cluster"
content = "10.0.0.1 h1"
[[absent]]
path = "/etc/old.conf"
[[sysctl]]
name = "net.ipv4.ip_forward"
value = 1
[[unit]]
name = "web.service"
enable = true
content = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
"#;

/// Signs the site of a tree, with this role, long ago and for a long time: the clock of the test's machine does not matter.
fn release(tree: &Tree, role: &str, serial: u64) {
    tree.write(&format!("{SITE}/roles/base/role.toml"), format!("summary = \"For a test\"\n{role}"));
    let dir = tree.at(SITE);
    let files = Files::in_directory(&dir).unwrap();
    let created = Timestamp::from_second(1_577_836_800 + i64::try_from(serial).unwrap()).unwrap();
    let manifest =
        Manifest::of(&files, "test", serial, created, created + SignedDuration::from_hours(24 * 36500)).to_toml();
    let signature = key().sign(NAMESPACE, HashAlg::Sha512, manifest.as_bytes()).unwrap();
    tree.write(&format!("{SITE}/{MANIFEST}"), manifest);
    tree.write(&format!("{SITE}/{SIGNATURES}"), signature.to_pem(LineEnding::LF).unwrap());
}

/// Has the tree take its releases from the site in it, wherever that is now.
fn configure(tree: &Tree) {
    tree.configure(&format!("[[source]]\ndir = {:?}\n", tree.at(SITE)));
}

/// A tree in which this build has applied two releases, put right a local edit, and looked once more.
fn made() -> Tree {
    let tree = Tree::new();
    tree.write(&format!("{SITE}/site.toml"), "name = \"test\"\n");
    tree.write(&format!("{SITE}/host_vars/h1.toml"), "address = \"10.0.0.1\"\nroles = [\"base\"]\n");
    tree.write("etc/was.conf", "somebody's\n")
        .write("etc/old.conf", "old\n")
        .write("etc/hosts", "127.0.0.1 localhost\n");
    configure(&tree);
    release(&tree, FIRST, 1);
    tree.kpull("apply").exits(0);
    release(&tree, &FIRST.replace("first", "second"), 2);
    tree.kpull("apply").exits(0);
    tree.write("srv/made/inside", "edited\n");
    tree.kpull("apply").exits(0);
    tree.kpull("apply").exits(0);
    tree
}

/// The formats that are kept, in order.
fn formats() -> Vec<(u32, PathBuf)> {
    let paths = std::fs::read_dir(FIXTURES).unwrap().map(|entry| entry.unwrap().path());
    let mut formats: Vec<_> =
        paths.map(|path| (path.file_stem().unwrap().to_str().unwrap().parse().unwrap(), path)).collect();
    formats.sort();
    formats
}

/// The tree of a format, unpacked.
fn unpacked(fixture: &Path) -> Tree {
    let tree = Tree::new();
    let status = Command::new("tar").arg("-xf").arg(fixture).arg("-C").arg(tree.path()).arg("--no-same-owner").status();
    assert!(status.unwrap().success(), "unpack {}", fixture.display());
    configure(&tree);
    tree
}

/// A name without what differs between two runs: digests, numbers, keys that are paths or ids of resources.
fn shape_of_name(name: &str) -> String {
    if name.contains(['/', ':']) {
        return "*".to_owned();
    }
    let is_digest = |part: &str| part.len() >= 16 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts = name.split('.').map(|part| {
        if is_digest(part) {
            "#"
        } else if is_number(part) {
            "0"
        } else {
            part
        }
    });
    parts.collect::<Vec<_>>().join(".")
}

/// Adds what fields a JSON value has.
fn fields(at: &str, value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            let at = format!("{at} {}", shape_of_name(key));
            found.insert(at.clone());
            fields(&at, value, found);
        }),
        Value::Array(items) => items.iter().for_each(|item| fields(&format!("{at} []"), item, found)),
        _ => {}
    }
}

/// What files a state directory has, and what fields are in those that are JSON.
fn shape(dir: &Path, below: &str, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{below}/{}", shape_of_name(entry.file_name().to_str().unwrap()));
        if entry.file_type().unwrap().is_dir() {
            shape(&entry.path(), &name, found);
            continue;
        }
        found.insert(name.clone());
        if let Ok(value) = serde_json::from_slice(&std::fs::read(entry.path()).unwrap()) {
            fields(&name, &value, found);
        }
    }
}

fn shape_of(tree: &Tree) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    shape(&tree.at(STATE), "", &mut found);
    found
}

/// Fails if the state has gained or lost a file or a field since the last format: that is a new format, of which a fixture must
/// be kept. `KPULL_BLESS=1` makes it.
#[test]
fn this_build_writes_the_last_of_the_stored_formats() {
    let (tree, formats) = (made(), formats());
    let last = formats.last().map(|(_, path)| shape_of(&unpacked(path))).unwrap_or_default();
    let now = shape_of(&tree);
    let differ: Vec<_> = now.symmetric_difference(&last).collect();
    if !differ.is_empty() && std::env::var_os("KPULL_BLESS").is_some() {
        let next = formats.last().map_or(1, |(format, _)| format + 1);
        let mut tar = Command::new("tar");
        tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "-C"]).arg(tree.path());
        assert!(tar.arg("-cf").arg(format!("{FIXTURES}/{next}.tar")).arg(".").status().unwrap().success());
        return;
    }
    assert!(differ.is_empty(), "state has another format now; keep it with KPULL_BLESS=1: {differ:#?}");
}

#[test]
fn this_build_continues_from_the_state_of_every_format() {
    assert!(!formats().is_empty());
    for (format, path) in formats() {
        let tree = unpacked(&path);
        let status = tree.kpull("status").exits(0).stdout;
        assert!(status.contains("release     2, signed by tester"), "format {format}: {status}");
        let history = tree.kpull("history").exits(0).stdout;
        assert!(history.contains("release 1") && history.contains("release 2"), "format {format}: {history}");

        // nothing to do, and nothing is done; then drift
        let before = tree.snapshot();
        assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0], "format {format}");
        let differs = |path: &&String| !path.contains("kpull") && before.get(*path) != tree.snapshot().get(*path);
        assert_eq!(before.keys().filter(differs).collect::<Vec<_>>(), [""; 0], "format {format}");
        tree.write("srv/made/inside", "edited again\n");
        tree.kpull("apply").exits(0);
        assert_eq!(tree.read("srv/made/inside"), "kpull's\n", "format {format}");

        // a rollback to what that build has applied, and on
        tree.kpull("rollback").exits(0);
        assert_eq!(tree.read("etc/was.conf"), "first\n", "format {format}");
        release(&tree, &FIRST.replace("first", "third"), 3);
        tree.kpull("apply").exits(0);
        assert_eq!(tree.read("etc/was.conf"), "third\n", "format {format}");
        // a serial that it has seen is not taken again
        release(&tree, FIRST, 1);
        tree.kpull("apply").fails(4, "the release has serial 1, but 3 was seen here before");

        // and what stood there before comes back
        release(&tree, "", 4);
        tree.kpull("apply").exits(0);
        assert_eq!(tree.read("etc/was.conf"), "somebody's\n", "format {format}");
        assert_eq!(tree.read("etc/old.conf"), "old\n", "format {format}");
        assert_eq!(tree.read("etc/hosts"), "127.0.0.1 localhost\n", "format {format}");
        for missing in ["etc/link", "srv/made", "etc/systemd/system/web.service"] {
            let looked = std::fs::symlink_metadata(tree.at(missing)).map_err(|error| error.kind());
            assert_eq!(looked.err(), Some(std::io::ErrorKind::NotFound), "format {format}: {missing}");
        }
        tree.kpull("plan").exits(0);
    }
}
