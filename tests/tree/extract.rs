//! Archives that are extracted: everything below one of their directories, and nothing that leads out of the host's directory.

use std::fs;
use std::io::{Cursor, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::EntryType;
use zip::write::SimpleFileOptions;

use crate::support::site::{Site, Tree, kpull};
use crate::tree::artifacts::{bytes, published, site};

/// What is put into an archive: a name, whatever it is; what it is, with its mode or where it leads; and its content.
type Part<'a> = (&'a str, Is<'a>, &'a [u8]);

#[derive(Clone, Copy)]
enum Is<'a> {
    File(u32),
    Dir,
    Link(&'a str),
    Hard(&'a str),
    Odd(EntryType),
}

fn tar(parts: &[Part<'_>]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, is, content) in parts {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        let (kind, mode, target) = match is {
            Is::File(mode) => (EntryType::Regular, *mode, ""),
            Is::Dir => (EntryType::Directory, 0o700, ""),
            Is::Link(target) => (EntryType::Symlink, 0o777, *target),
            Is::Hard(target) => (EntryType::Link, 0o644, *target),
            Is::Odd(kind) => (*kind, 0o644, ""),
        };
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

fn gz(tar: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

fn xz(tar: &[u8]) -> Vec<u8> {
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0)).unwrap();
    writer.write_all(tar).unwrap();
    writer.finish().unwrap()
}

fn zst(tar: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(tar, ruzstd::encoding::CompressionLevel::Fastest)
}

/// A zip, which has no hard links, devices or names that lead out in these tests.
fn zip(parts: &[Part<'_>]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, is, content) in parts {
        let options = SimpleFileOptions::default();
        match is {
            Is::File(mode) => {
                writer.start_file(*name, options.unix_permissions(*mode)).unwrap();
                writer.write_all(content).unwrap();
            }
            Is::Dir => writer.add_directory(*name, options).unwrap(),
            Is::Link(target) => writer.add_symlink(*name, *target, options).unwrap(),
            Is::Hard(_) | Is::Odd(_) => unreachable!(),
        }
    }
    writer.finish().unwrap().into_inner()
}

/// A site that installs from this archive.
fn extracts(archive: &[u8], install: &str) -> (tempfile::TempDir, Site) {
    let (publisher, url) = published("app.tar.gz", archive);
    (publisher, site(&[url], archive, install))
}

/// Everything below a directory, with modes and contents, without what is above it.
fn below(tree: &Tree, dir: &str) -> Vec<(String, String, String)> {
    let all = tree.snapshot().into_iter();
    let all = all.filter_map(|(name, (mode, content))| {
        let name = name.strip_prefix(dir).filter(|name| !name.is_empty())?;
        Some((name.to_owned(), mode, String::from_utf8(content).unwrap()))
    });
    all.collect()
}

const APP: &str = "\"app-1.0/\" = \"/opt/app\"";

const FIRST: [Part<'_>; 9] = [
    ("./app-1.0/", Is::Dir, b""),
    ("./app-1.0/bin/run", Is::File(0o6755), b"run 1"),
    ("./app-1.0/bin/go", Is::Link("run"), b""),
    ("./app-1.0/bin/hard", Is::Hard("./app-1.0/bin/run"), b""),
    ("./app-1.0/lib/up", Is::Link("../bin/go"), b""),
    ("./app-1.0/share/readme", Is::File(0o600), b"read 1"),
    ("./app-1.0/share/old", Is::File(0o666), b"old"),
    ("./app-1.0/empty/", Is::Dir, b""),
    ("./NOTES", Is::Link("/etc/shadow"), b""),
];

#[test]
fn everything_below_a_directory_of_an_archive_is_extracted_updated_and_undone() {
    let (publisher, site) = extracts(&gz(&tar(&FIRST)), APP);
    let tree = site.sign().enroll();
    fs::create_dir_all(tree.at("var/lib")).unwrap();
    // files of others, one of them at the path of a file of the archive
    tree.write("opt/app/mine", "mine").write("opt/app/share/readme", "theirs");
    fs::set_permissions(tree.at("opt/app/share"), fs::Permissions::from_mode(0o750)).unwrap();
    let before = tree.snapshot();
    let planned = |tree: &Tree| tree.kpull("plan --json").exits(2).events("planned")[1]["summary"].clone();
    assert_eq!(planned(&tree), "extract app-1.0/ into /opt/app", "the number is unknown yet");
    assert_eq!(tree.kpull("apply --json").exits(0).events("changed")[1]["summary"], "extract 6 files, replace readme");
    let file = |path: &str, mode: &str, content: &str| (path.to_owned(), mode.to_owned(), content.to_owned());
    let first = [
        file("/bin", "40755", ""),
        file("/bin/go", "120777", "run"),
        file("/bin/hard", "100755", "run 1"),
        file("/bin/run", "100755", "run 1"),
        file("/empty", "40755", ""),
        file("/lib", "40755", ""),
        file("/lib/up", "120777", "../bin/go"),
        file("/mine", "100644", "mine"),
        file("/share", "40750", ""),
        file("/share/old", "100644", "old"),
        file("/share/readme", "100644", "read 1"),
    ];
    assert_eq!(below(&tree, "opt/app"), first.map(|(path, mode, content)| (path, mode, content)));
    assert_ne!(inode(&tree, "opt/app/bin/run"), inode(&tree, "opt/app/bin/hard"));
    let wanted = tree.snapshot();
    let times = tree.times();
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);
    assert_eq!((tree.times(), tree.leftovers()), (times, Vec::new()));

    drop(publisher);
    tree.write("opt/app/share/readme", "edited");
    fs::remove_file(tree.at("opt/app/bin/hard")).unwrap();
    fs::remove_file(tree.at("opt/app/bin/go")).unwrap();
    symlink("/etc", tree.at("opt/app/bin/go")).unwrap();
    fs::remove_dir(tree.at("opt/app/empty")).unwrap();
    fs::set_permissions(tree.at("opt/app/share/old"), fs::Permissions::from_mode(0o600)).unwrap();
    let old = inode(&tree, "opt/app/share/old");
    assert_eq!(planned_only(&tree), "extract 2 files, replace go, readme, old: mode 0600 → 0644");
    let apply = tree.kpull("apply --json").exits(0);
    assert_eq!(apply.changed(), ["artifact:tool"]);
    assert_eq!(apply.events("saved")[0]["path"], "/opt/app/share/readme");
    assert_eq!((tree.snapshot(), inode(&tree, "opt/app/share/old")), (wanted, old));

    let second = [
        ("app-1.0/bin/run", Is::File(0o755), b"run 2".as_slice()),
        ("app-1.0/share/readme", Is::File(0o644), b"read 1"),
        ("app-1.0/share/new", Is::File(0o644), b"new"),
    ];
    let (_publisher, next) = extracts(&gz(&tar(&second)), APP);
    site.file("artifacts.toml", fs::read(next.path().join("artifacts.toml")).unwrap()).sign();
    let apply = tree.kpull("apply --json").exits(0);
    assert_eq!(apply.events("changed")[0]["summary"], "extract 1 file, replace run");
    let second = [
        file("/bin", "40755", ""),
        file("/bin/run", "100755", "run 2"),
        file("/mine", "100644", "mine"),
        file("/share", "40750", ""),
        file("/share/new", "100644", "new"),
        file("/share/readme", "100644", "read 1"),
    ];
    assert_eq!(below(&tree, "opt/app"), second);
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);

    site.role("base", "").sign();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.snapshot(), before);
}

fn inode(tree: &Tree, path: &str) -> u64 {
    fs::metadata(tree.at(path)).unwrap().ino()
}

/// The summary of the only change that is planned.
fn planned_only(tree: &Tree) -> String {
    let planned = tree.kpull("plan --json").exits(2).events("planned");
    assert_eq!(planned.len(), 1, "{planned:?}");
    planned[0]["summary"].as_str().unwrap().to_owned()
}

#[test]
fn archives_of_every_format_are_extracted_with_the_same_result() {
    let large = bytes(3 << 20);
    let parts = [
        ("app/", Is::Dir, b"".as_slice()),
        ("app/run", Is::File(0o755), b"run"),
        ("app/large", Is::File(0o644), &large),
        ("app/sub/to", Is::Link("../run"), b""),
    ];
    let tar = self::tar(&[parts.as_slice(), &[("app/again", Is::Hard("app/large"), b"")]].concat());
    for (name, archive) in [
        ("x.tar.gz", gz(&tar)),
        ("x.tar.xz", xz(&tar)),
        ("x.tar.zst", zst(&tar)),
        ("x.tar", tar.clone()),
        ("x.zip", zip(&parts)),
    ] {
        let (_publisher, url) = published(name, &archive);
        let site =
            site(&[url], &archive, "\"/\" = \"/srv/all\", \"app/\" = \"/srv/app\", \"app/run\" = \"/usr/bin/run\"");
        let tree = site.sign().enroll();
        tree.kpull("apply").exits(0);
        for dir in ["srv/all/app", "srv/app"] {
            let at = |path: &str| tree.at(&format!("{dir}/{path}"));
            assert_eq!(fs::read_link(at("sub/to")).unwrap().to_str(), Some("../run"), "{name}");
            assert_eq!((fs::read(at("run")).unwrap(), tree.mode(&format!("{dir}/run"))), (b"run".to_vec(), 0o755));
            assert_eq!((fs::read(at("large")).unwrap(), tree.mode(&format!("{dir}/large"))), (large.clone(), 0o644));
            assert_eq!(at("again").exists(), name != "x.zip");
        }
        assert_eq!(tree.read("usr/bin/run"), "run");
        assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0], "{name}");
    }
}

#[test]
fn host_and_check_refuse_an_archive_that_writes_elsewhere_and_nothing_changes() {
    let good: Part<'_> = ("app-1.0/run", Is::File(0o755), b"run");
    let evil = |name, is| vec![good, (name, is, b"".as_slice())];
    for (parts, says) in [
        (evil("app-1.0/../../etc/x", Is::File(0o644)), "has a name that leaves the archive (`..`)"),
        (evil("/etc/cron.d/x", Is::File(0o644)), "has an absolute name"),
        (evil("app-1.0/x", Is::Link("/etc/passwd")), "is a symbolic link to `/etc/passwd`, which can point out"),
        (evil("app-1.0/a/x", Is::Link("../../..")), "is a symbolic link to `../../..`, which can point out"),
        (evil("app-1.0/x", Is::Link("..")), "is a symbolic link to `..`, which can point out"),
        // where `a/b` is a link to the top, this leaves it
        (evil("app-1.0/x", Is::Link("a/b/../..")), "is a symbolic link to `a/b/../..`, which can point out"),
        (evil("app-1.0/x", Is::Link("")), "is a symbolic link to ``, which can point out"),
        (evil("app-1.0/x", Is::Hard("etc/passwd")), "is a hard link to `etc/passwd`, which is not an earlier file"),
        (
            evil("app-1.0/x", Is::Hard("app-1.0/later")),
            "is a hard link to `app-1.0/later`, which is not an earlier file",
        ),
        (evil("app-1.0/run", Is::File(0o644)), "occurs twice"),
        (evil("app-1.0/./run", Is::Link("x")), "occurs twice"),
        (evil("app-1.0/run/below", Is::File(0o644)), "`run/below` is below `run`, which is not a directory"),
        (evil("app-1.0/x", Is::Odd(EntryType::Char)), "is a device"),
        (evil("app-1.0/x", Is::Odd(EntryType::Fifo)), "is a fifo"),
        (evil("app-1.0/x\ny", Is::File(0o644)), "has an invalid name"),
        (
            vec![good, ("app-1.0/d", Is::Link("."), b""), ("app-1.0/d/x", Is::File(0o644), b"")],
            "`d/x` is below `d`, which is not a directory",
        ),
        (vec![("other/x", Is::File(0o644), b"")], "contains nothing below `app-1.0/`"),
    ] {
        let (_publisher, site) = extracts(&gz(&tar(&parts)), APP);
        let tree = site.sign().enroll();
        let before = tree.snapshot();
        let error = tree.kpull("apply --json").exits(1).error();
        assert!(error["error"].as_str().unwrap().contains(says), "{error} does not say {says}");
        assert_eq!(error["line"], 5, "{error}");
        let mut after = tree.snapshot();
        after.retain(|name, _| !["var", "var/lib"].contains(&name.as_str()));
        assert_eq!(after, before, "{says}");
        let check = ["check", "--artifacts", "--download", "--json", "--site", site.path().to_str().unwrap()];
        let errors = kpull(&check).exits(1).events("error");
        assert!(errors[0]["error"].as_str().unwrap().contains(says), "{errors:?} does not say {says}");
    }
}

#[test]
fn members_that_lead_elsewhere_outside_the_extracted_directory_do_not_matter() {
    let parts = [
        ("app-1.0/run", Is::File(0o755), b"run".as_slice()),
        ("dev/x", Is::Odd(EntryType::Char), b""),
        ("etc", Is::Link("/etc"), b""),
        ("app-1.0-other/x", Is::Link("/"), b""),
    ];
    let (_publisher, site) = extracts(&gz(&tar(&parts)), APP);
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    assert_eq!(below(&tree, "opt/app"), [("/run".to_owned(), "100755".to_owned(), "run".to_owned())]);
    // the listing suffices to check everything
    let stored = tree.at("var/lib/kpull/artifacts");
    let archive = fs::read_dir(&stored).unwrap().map(|entry| entry.unwrap().path());
    let archive = archive.into_iter().find(|path| path.extension().is_none()).unwrap();
    fs::remove_file(&archive).unwrap();
    assert_eq!(tree.kpull("apply --full --json").exits(0).changed(), [""; 0]);
    assert!(!archive.exists());
}

#[test]
fn another_resource_can_be_beside_an_extracted_file_but_not_at_its_path() {
    let archive = gz(&tar(&[
        ("app-1.0/etc/x", Is::File(0o644), b"theirs"),
        ("app-1.0/lib", Is::Link("etc"), b""),
        ("app-1.0/var/", Is::Dir, b""),
    ]));
    let with = |more: &str| {
        let (publisher, site) = extracts(&archive, APP);
        let role = fs::read_to_string(site.path().join("roles/base/role.toml")).unwrap();
        let (_, role) = role.split_once('\n').unwrap();
        site.role("base", &format!("{more}\n{role}"));
        (publisher, site)
    };
    for more in [
        "[[file]]\npath = '/opt/app/etc/y'\ncontent = 'y'",
        "[[file]]\npath = '/opt/app/var/y'\ncontent = 'y'",
        "[[directory]]\npath = '/opt/app/etc'\nmode = '0750'",
        "[[symlink]]\npath = '/opt/app/y'\ntarget = 'etc'",
    ] {
        let (_publisher, site) = with(more);
        let tree = site.sign().enroll();
        tree.kpull("apply").exits(0);
        assert_eq!(tree.read("opt/app/etc/x"), "theirs");
        assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0], "{more}");
    }
    for (more, path, id) in [
        ("[[file]]\npath = '/opt/app/etc/x'\ncontent = 'y'", "/opt/app/etc/x", "file:/opt/app/etc/x"),
        ("[[block]]\npath = '/opt/app/etc/x'\nname = 'n'\ncontent = 'y'", "/opt/app/etc/x", "block:/opt/app/etc/x#n"),
        ("[[symlink]]\npath = '/opt/app/etc'\ntarget = '/etc'", "/opt/app/etc", "symlink:/opt/app/etc"),
        ("[[file]]\npath = '/opt/app/lib/y'\ncontent = 'y'", "/opt/app/lib/y", "file:/opt/app/lib/y"),
        ("[[absent]]\npath = '/opt/app/var'\n", "/opt/app/var", "absent:/opt/app/var"),
    ] {
        let (_publisher, site) = with(more);
        let tree = site.sign().enroll();
        let error = tree.kpull("apply --json").exits(1).error();
        let says = error["error"].as_str().unwrap();
        assert!(says.starts_with(&format!("two resources manage `{path}`: it is in tool, and {id}")), "{says}");
        assert_eq!(error["code"], "site.clash");
        assert!(!tree.at("opt").exists());
    }
    // by another name of the directory, which only the host has
    let (_publisher, site) = with("[[file]]\npath = '/srv/app/etc/x'\ncontent = 'y'");
    let tree = site.sign().enroll();
    fs::create_dir_all(tree.at("srv/app")).unwrap();
    fs::create_dir_all(tree.at("opt")).unwrap();
    symlink("/srv/app", tree.at("opt/app")).unwrap();
    let error = tree.kpull("apply --json").exits(1).error();
    assert!(error["error"].as_str().unwrap().starts_with("two resources manage `/srv/app/etc/x`: "), "{error}");
    assert_eq!(below(&tree, "srv/app/"), []);
    let (_publisher, site) = with("[[directory]]\npath = '/opt/app'");
    let error = kpull(&["check", "--json", "--site", site.path().to_str().unwrap()]).exits(1).error();
    assert_eq!(error["error"], "`/opt/app` occurs twice in the role base");
}

#[test]
fn nothing_is_extracted_through_a_link_or_over_a_directory_of_the_host() {
    let (_publisher, site) = extracts(&gz(&tar(&FIRST)), APP);
    for (path, is_link, says) in [
        ("opt/app/bin", true, "/opt/app/bin exists and is not what kpull extracts there: a directory there"),
        (
            "opt/app/share/old",
            false,
            "/opt/app/share/old exists and is not what kpull extracts there: a file or link there",
        ),
        ("opt/app/empty", true, "/opt/app/empty exists and is not what kpull extracts there: a directory there"),
    ] {
        let tree = site.sign().enroll();
        tree.write("srv/keep", "keep").write("opt/app/mine", "mine");
        fs::create_dir_all(tree.at(path).parent().unwrap()).unwrap();
        match is_link {
            true => symlink("/srv", tree.at(path)).unwrap(),
            false => fs::create_dir(tree.at(path)).unwrap(),
        }
        let before = below(&tree, "srv");
        let error = tree.kpull("apply --json").exits(1).error();
        assert_eq!(error["error"], says);
        assert_eq!(below(&tree, "srv"), before);
        assert!(!tree.at("opt/app/lib").exists() && !tree.at("etc/tool.version").exists());
    }
    // the directory itself may be wherever the host has it
    let tree = site.sign().enroll();
    fs::create_dir_all(tree.at("srv/app")).unwrap();
    fs::create_dir_all(tree.at("opt")).unwrap();
    symlink("/srv/app", tree.at("opt/app")).unwrap();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("srv/app/bin/run"), "run 1");
}

#[test]
fn other_files_get_the_mode_of_programs_without_the_permission_to_execute() {
    let (_publisher, site) = extracts(&gz(&tar(&FIRST)), &format!("{APP} }}\nmode = \"4750\"\n#"));
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    assert_eq!((tree.mode("opt/app/bin/run"), tree.mode("opt/app/share/readme")), (0o4750, 0o640));
    // what others could write to may be open for that still
    fs::set_permissions(tree.at("opt/app/bin/run"), fs::Permissions::from_mode(0o777)).unwrap();
    let mut open = fs::File::options().write(true).open(tree.at("opt/app/bin/run")).unwrap();
    tree.kpull("apply").exits(0);
    open.write_all(b"evil").unwrap();
    assert_eq!((tree.read("opt/app/bin/run").as_str(), tree.mode("opt/app/bin/run")), ("run 1", 0o4750));
}

#[test]
fn many_files_are_extracted_and_a_lost_listing_is_made_again() {
    let names: Vec<String> = (0..2000).map(|n| format!("app-1.0/{}/{n}", n % 300)).collect();
    let parts: Vec<Part<'_>> = names.iter().map(|name| (name.as_str(), Is::File(0o644), name.as_bytes())).collect();
    let (_publisher, site) = extracts(&gz(&tar(&parts)), APP);
    let tree = site.sign().enroll();
    let apply = tree.kpull("apply --json").exits(0);
    assert_eq!(apply.events("changed")[1]["summary"], "extract 2000 files");
    for name in &names {
        assert_eq!(&tree.read(&name.replace("app-1.0", "opt/app")), name);
    }
    let listing = fs::read_dir(tree.at("var/lib/kpull/artifacts")).unwrap().map(|entry| entry.unwrap().path());
    let listing = listing.into_iter().find(|path| path.to_str().unwrap().ends_with(".trees.json")).unwrap();
    fs::remove_file(&listing).unwrap();
    tree.write("opt/app/7/7", "edited");
    assert_eq!(tree.kpull("apply --json --full").exits(0).changed(), ["artifact:tool"]);
    assert_eq!(tree.read("opt/app/7/7"), "app-1.0/7/7");
    assert!(listing.exists());
}

#[test]
fn a_rollback_restores_the_files_of_the_earlier_release() {
    let first = gz(&tar(&FIRST));
    let (_publisher, site) = extracts(&first, APP);
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    let wanted = tree.snapshot();
    let (_next, other) = extracts(&gz(&tar(&[("app-1.0/bin/new", Is::File(0o755), b"new")])), APP);
    site.file("artifacts.toml", fs::read(other.path().join("artifacts.toml")).unwrap()).sign();
    tree.kpull("apply").exits(0);
    assert!(tree.at("opt/app/bin/new").exists() && !tree.at("opt/app/share").exists());
    tree.kpull("rollback").exits(0);
    assert_eq!(tree.snapshot(), wanted);
}
