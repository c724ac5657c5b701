//! Where releases come from. Nothing that a source hands out is believed: `trust` decides.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::Result;
use crate::net;

/// The bytes of one state of a site, as a source has them.
pub trait Tree {
    /// One file. `None` when the tree has no such file; an error when it has more than `max` bytes, which are then
    /// not read. `path` is relative, with `/` between names and no `.` or `..` among them.
    fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>>;

    /// The path of every file in the tree, sorted; `None` where the source can't tell (HTTP).
    fn list(&self) -> Result<Option<Vec<String>>>;
}

/// What a source answers when asked for news.
pub enum Poll {
    /// Nothing has changed since the state that the mark stands for.
    Unchanged,
    /// Another state, and the mark to ask with next time.
    News(Box<dyn Tree>, String),
}

/// A place that hands out releases.
pub trait Source {
    /// What to call it in a message: its kind and address, without credentials.
    fn name(&self) -> String;

    /// Asks for the present state. `mark` is what an earlier poll of the same source gave with its news. When nothing
    /// has changed this costs one round trip.
    fn poll(&mut self, mark: Option<&str>) -> Result<Poll>;
}

/// `[[source]]` in `kpull.toml`; exactly one of `git`, `http` and `dir` is set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address of a git repository: `https://`, `http://`, `ssh://`, `user@host:path`, `file://` or an absolute path.
    pub git: Option<String>,
    /// The branch to follow. Without `branch`, `tag` and `commit`: the remote's HEAD.
    pub branch: Option<String>,
    /// The tag to follow, instead of a branch.
    pub tag: Option<String>,
    /// The one commit to use (40 hex digits), instead of a branch.
    pub commit: Option<String>,
    /// Address of a directory on a web server; `release.toml` is fetched from just below it.
    pub http: Option<String>,
    /// A directory on this host.
    pub dir: Option<PathBuf>,
    /// How to connect, for `git` over HTTP and for `http`.
    #[serde(flatten)]
    pub net: net::Options,
}

/// Opens the source that `config` describes; `cache` is a directory of its own that may be deleted at any time.
pub fn open(config: &Config, cache: &Path) -> Result<Box<dyn Source>> {
    let _ = (config, cache);
    todo!()
}
