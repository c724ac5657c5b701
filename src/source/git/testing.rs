//! A repository to test with.

use std::fs;
use std::path::PathBuf;

use super::Git;
use crate::document::Tree;
use crate::error::Error;
use crate::net::testing::{Server, git, git_backend};
use crate::source::{Config, Poll, Source};

/// A repository with one commit on `main`, and a clone-like place for the cache beside it.
pub(super) struct Fixture {
    pub dir: tempfile::TempDir,
}

impl Fixture {
    pub fn new() -> Self {
        let fixture = Self { dir: tempfile::tempdir().unwrap() };
        git(fixture.dir.path(), &["init", "-q", "-b", "main", "site"]);
        fixture.commit("release.toml", "first");
        fixture
    }

    pub fn site(&self) -> PathBuf {
        self.dir.path().join("site")
    }

    pub fn cache(&self) -> PathBuf {
        self.dir.path().join("cache/nested")
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        git(&self.site(), arguments)
    }

    pub fn commit(&self, path: &str, text: &str) -> String {
        let path = self.site().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "a change"]);
        self.git(&["rev-parse", "HEAD"])
    }

    pub fn serve(&self) -> Server {
        Server::plain(git_backend(self.dir.path().to_path_buf()))
    }

    pub fn source(&self, toml: &str) -> Git {
        let config: Config = toml::from_str(toml).unwrap();
        config.check().unwrap();
        Git::new(config.git.as_ref().unwrap(), &config, &config.net().load().unwrap(), &self.cache()).unwrap()
    }

    pub fn over(&self, server: &Server, more: &str) -> Git {
        self.source(&format!("git = '{}'\nretries = 1\n{more}", server.url("site")))
    }
}

pub(super) fn news(source: &mut Git, cursor: Option<&str>) -> (Box<dyn Tree>, String) {
    match source.poll(cursor).unwrap() {
        Poll::News(tree, cursor) => (tree, cursor),
        Poll::Unchanged => panic!("no news"),
    }
}

pub(super) fn release(tree: &dyn Tree) -> String {
    String::from_utf8(tree.read("release.toml", 100).unwrap().unwrap()).unwrap()
}

pub(super) fn problem(source: &mut Git) -> Error {
    source.poll(None).err().unwrap()
}
