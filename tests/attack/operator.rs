//! What operators' commands write in a directory that a web server, or another user, owns.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use kpull::document::layout;
use kpull::net::server::{Answer, Server};
use kpull::trust::Listed;

use crate::attack::local::{self, SECRET, link_of_nobody, make_directory_of_nobody, need_root, write_closed};
use crate::support::site::{Output, Site};

const ARTIFACT: &[u8] = b"a program\n";

/// A signed site with an artifact, a directory of another user to publish it in, and a directory of root.
struct World {
    site: Site,
    dir: tempfile::TempDir,
    server: Server,
}

impl World {
    fn new() -> Self {
        need_root();
        let (site, dir) = (Site::new("test"), tempfile::tempdir().unwrap());
        let server = Server::plain(|_| Answer::new(200, ARTIFACT)).unwrap();
        let (url, Listed { sha256, size, .. }) = (server.url("tool"), Listed::of(ARTIFACT));
        site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n")
            .role("base", "[[file]]\npath = \"/etc/a\"\ncontent = \"x\"\n")
            .file(
                "artifacts.toml",
                format!(
                    "[tool]\nversion = \"1\"\namd64 = {{ urls = [{url:?}], sha256 = {sha256:?}, size = {size} }}\n"
                ),
            );
        site.sign();
        let world = Self { site, dir, server };
        world.restore();
        world
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// An empty directory of another user, and the path of root unchanged and old.
    fn restore(&self) {
        make_directory_of_nobody(&self.at("www"));
        let _ = fs::remove_dir_all(self.at("etc"));
        fs::create_dir(self.at("etc")).unwrap();
        let shadow = self.at("etc/shadow");
        write_closed(&shadow, SECRET);
        fs::File::open(&shadow).unwrap().set_modified(SystemTime::now() - Duration::from_secs(86400)).unwrap();
    }

    fn run(&self, command: &str) -> Output {
        let (www, site) = (self.at("www"), self.site.path());
        local::kpull(&[command, www.to_str().unwrap(), "--json", "--site", site.to_str().unwrap()])
    }

    fn is_untouched(&self, attack: &str) {
        local::is_untouched(&self.at("etc/shadow"), attack);
        assert_eq!(fs::read_dir(self.at("etc")).unwrap().count(), 1, "{attack}");
    }
}

#[test]
fn a_link_in_a_directory_of_published_releases_is_not_followed() {
    let world = World::new();
    for name in ["blobs", "releases"] {
        world.restore();
        link_of_nobody(&world.at("etc"), &world.at("www").join(name));
        let error = world.run("publish").exits(1).error();
        world.is_untouched(name);
        assert!(error["error"].as_str().unwrap().contains("goes through a link that belongs to user 65534"), "{error}");
    }
    // what stands there and is not a file is neither waited for nor read to an end that never comes
    let blobs = || fs::read_dir(world.at("www/blobs")).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    for round in 0..3 {
        world.restore();
        world.run("publish").exits(0);
        for path in blobs() {
            fs::remove_file(&path).unwrap();
            match round {
                0 => mkfifo(&path, Mode::S_IRWXU).unwrap(),
                1 => link_of_nobody(Path::new("/dev/zero"), &path),
                _ => link_of_nobody(&world.at("etc/shadow"), &path),
            }
        }
        world.run("publish").exits(0);
        world.is_untouched("blobs");
        assert!(blobs().iter().all(|path| path.symlink_metadata().unwrap().is_file()));
    }
    // files that are no release are not removed, however old
    world.restore();
    world.run("publish").exits(0);
    let theirs = world.at("www/blobs/index.html");
    fs::write(&theirs, "x").unwrap();
    fs::File::open(&theirs).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    world.run("publish").exits(0);
    assert!(theirs.exists());
}

#[test]
fn links_in_a_mirrors_directory_are_neither_written_to_nor_opened_for_others() {
    let world = World::new();
    let file = world.at("www").join(layout::artifact(&Listed::of(ARTIFACT).sha256));
    let secret = world.at("etc/shadow");
    type Attack<'a> = &'a dyn Fn(&Path);
    let attacks: [(&str, Attack<'_>); 3] = [
        ("link", &|path| link_of_nobody(&secret, path)),
        ("second name", &|path| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::hard_link(&secret, path).unwrap();
        }),
        ("pipe", &|path| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            mkfifo(path, Mode::S_IRWXU).unwrap();
        }),
    ];
    for (attack, mount) in attacks {
        for path in [file.with_extension("part"), file.with_extension("from"), file.clone(), world.at("www/index.json")]
        {
            world.restore();
            mount(&path);
            world.run("mirror").exits(0);
            world.is_untouched(attack);
            assert_eq!(fs::read(&file).unwrap(), ARTIFACT, "{attack} {}", path.display());
            assert_eq!(fs::symlink_metadata(&file).unwrap().permissions().mode() & 0o7777, 0o644, "{attack}");
        }
    }
    world.restore();
    link_of_nobody(&world.at("etc"), &world.at("www/sha256"));
    let error = world.run("mirror").exits(1).error();
    world.is_untouched("directory");
    assert!(error["error"].as_str().unwrap().contains("goes through a link that belongs to user 65534"), "{error}");
    assert!(!world.server.seen().is_empty());
}
