//! Sources of releases. Everything from a source is untrusted until `trust` has verified it.

mod below;
mod dir;
#[expect(
    clippy::disallowed_methods,
    reason = "below the state directory, which is nobody's but ours, or in the process without rights"
)]
mod git;
mod http;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::document::Tree;
use crate::error::{Error, Result, code, error, refused};
use crate::net;

/// The result of polling a source.
pub enum Poll {
    /// Nothing has changed since the state of the cursor.
    Unchanged,
    /// A new state, and the cursor for the next poll.
    News(Box<dyn Tree>, String),
}

/// A source of releases.
pub trait Source {
    /// Its name in messages: its kind and address, without credentials.
    fn name(&self) -> String;

    /// Polls the current state. `cursor` is what an earlier poll of the same source returned with its state. If nothing has changed, this
    /// costs one round trip.
    fn poll(&mut self, cursor: Option<&str>) -> Result<Poll>;
}

/// The current state of a source, for a first poll.
pub fn state(source: &mut dyn Source) -> Result<Box<dyn Tree>> {
    match source.poll(None)? {
        Poll::News(tree, _) => Ok(tree),
        Poll::Unchanged => Err(error!(SOURCE, "{} reports nothing new", source.name())),
    }
}

/// `[[source]]` in `kpull.toml`; exactly one of `git`, `http` and `dir` is set. The options for connections are in the same table, see
/// [`net::Options`].
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
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
    /// The site's directory in the repository. Default: the top level.
    pub path: Option<String>,
    /// The address of a directory on a web server that directly contains `release.toml`.
    pub http: Option<String>,
    /// A directory on this host.
    pub dir: Option<PathBuf>,
    /// See [`net::Options::ca`].
    pub ca: Option<PathBuf>,
    /// See [`net::Options::client_cert`].
    pub client_cert: Option<PathBuf>,
    /// See [`net::Options::client_key`].
    pub client_key: Option<PathBuf>,
    /// See [`net::Options::bearer`].
    pub bearer: Option<PathBuf>,
    /// See [`net::Options::basic`].
    pub basic: Option<PathBuf>,
    /// See [`net::Options::timeout`].
    pub timeout: Option<u64>,
    /// See [`net::Options::retries`].
    pub retries: Option<u32>,
}

impl Config {
    /// The options for connections, for `git` over HTTP and for `http`.
    pub fn net(&self) -> net::Options {
        let Self { ca, client_cert, client_key, bearer, basic, timeout, retries, .. } = self.clone();
        net::Options { ca, client_cert, client_key, bearer, basic, timeout, retries }
    }

    /// All paths, so that relative ones can be resolved.
    pub fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [&mut self.dir, &mut self.ca, &mut self.client_cert, &mut self.client_key, &mut self.bearer, &mut self.basic]
            .into_iter()
            .flatten()
    }

    /// Refuses invalid settings: not exactly one kind of source, two states of a repository, half of a client certificate, credentials
    /// in an address.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: &str, help: &str| Err(Error::new(code::SOURCE, what).help(help));
        let address = self.address()?;
        let states =
            set(&[("branch", self.branch.is_some()), ("tag", self.tag.is_some()), ("commit", self.commit.is_some())]);
        if let Some(state) = states.first().filter(|_| self.git.is_none()) {
            let what = format!("a source sets `{state}` without `git`");
            return refuse(&what, "only a git repository has branches, tags and commits: remove it");
        }
        if states.len() > 1 {
            return refuse(&format!("a git source sets {} together", states.join(" and ")), "keep one");
        }
        if let Some(path) = &self.path {
            if self.git.is_none() {
                let help = "add it to the address: `http` and `dir` name the site's directory themselves";
                return refuse("a source sets `path` without `git`", help);
            }
            if segments(path).is_err() {
                let help = "write it like `clusters/blue`: relative, with `/` between names, and not at its end";
                return refuse(&format!("`{path}` is not a directory inside a repository"), help);
            }
        }
        match address {
            Address::Git(url) => git::check(url, self.commit.as_deref())?,
            Address::Http(url) => drop(net::parse(url)?),
            Address::Dir(_) => {}
        }
        self.net().check()
    }

    /// The one address that is set.
    fn address(&self) -> Result<Address<'_>> {
        let Self { git, http, dir, .. } = self;
        match (git, http, dir) {
            (Some(url), None, None) => Ok(Address::Git(url)),
            (None, Some(url), None) => Ok(Address::Http(url)),
            (None, None, Some(path)) => Ok(Address::Dir(path)),
            (None, None, None) => Err(error!(SOURCE, "a source sets none of `git`, `http` and `dir`")
                .help("set one address for the source, such as git = \"https://HOST/site.git\"")),
            _ => {
                let kinds = set(&[("git", git.is_some()), ("http", http.is_some()), ("dir", dir.is_some())]);
                Err(error!(SOURCE, "a source sets {} together", kinds.join(" and "))
                    .help("write one [[source]] table for each address"))
            }
        }
    }
}

/// The address of a source, by its kind.
enum Address<'a> {
    Git(&'a str),
    Http(&'a str),
    Dir(&'a Path),
}

/// The names that are set.
fn set(names: &[(&'static str, bool)]) -> Vec<&'static str> {
    names.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| *name).collect()
}

/// The name of a source: its kind and address, without credentials.
pub fn name(config: &Config) -> Result<String> {
    let name = match config.address()? {
        Address::Git(url) => git::name(url, config),
        Address::Http(url) => http::name(&net::parse(url)?),
        Address::Dir(path) => dir::name(path),
    };
    Ok(match &config.path {
        Some(path) => below::name(&name, path),
        None => name,
    })
}

/// How a source is reached, which decides which process does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Everything is on this host.
    Local,
    /// By kpull's own client: git over HTTP(S), and HTTP(S).
    Http,
    /// By the system's ssh client.
    Ssh,
}

impl Config {
    /// How this source is reached.
    pub fn reach(&self) -> Result<Reach> {
        match self.address()? {
            Address::Git(url) => git::reach(url),
            Address::Http(_) => Ok(Reach::Http),
            Address::Dir(_) => Ok(Reach::Local),
        }
    }
}

/// Opens a source; `cache` is a directory of its own that may be emptied at any time.
/// Nothing is connected to yet.
pub fn open(config: &Config, cache: &Path) -> Result<Box<dyn Source>> {
    open_with(config, &config.net().load()?, cache)
}

/// [`open`] with the files for connections read already.
pub fn open_with(config: &Config, net: &net::LoadedOptions, cache: &Path) -> Result<Box<dyn Source>> {
    config.check()?;
    let source: Box<dyn Source> = match config.address()? {
        Address::Git(url) => Box::new(git::Git::new(url, config, net, cache)?),
        Address::Http(url) => Box::new(http::Http::new(url, net)?),
        Address::Dir(path) => Box::new(dir::Dir::new(path)),
    };
    Ok(match &config.path {
        Some(path) => Box::new(below::Below::new(source, path)),
        None => source,
    })
}

/// The names in `path`. An error if it isn't relative or has `.` or `..` in it, so that no path can leave the tree.
fn segments(path: &str) -> Result<Vec<&str>> {
    let names: Vec<&str> = path.split('/').collect();
    if names.iter().any(|name| matches!(*name, "" | "." | "..") || name.contains(['\0', '\\'])) {
        return Err(refused!(SOURCE, "`{path}` is not a path inside a site")
            .help("paths in a release are relative, with `/` between names, and without `.` and `..`"));
    }
    Ok(names)
}

/// The error for a file that is larger than announced or allowed: the release is refused.
pub(crate) fn too_big(source: &str, path: &str, max: u64) -> Error {
    refused!(SOURCE, "{source}: {path} has more than {max} bytes")
        .help("kpull does not read the rest: check whether it was changed after signing")
}

/// A digest of a state, which changes only if the bytes of one of `files` do, or if one appears or disappears.
fn digest(files: &[Option<&[u8]>]) -> String {
    let mut all = Sha256::new();
    for file in files {
        all.update([u8::from(file.is_some())]);
        all.update(Sha256::digest(file.unwrap_or_default()));
    }
    hex::encode(all.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    fn config(toml: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(toml)
    }

    fn problem(toml: &str) -> String {
        config(toml).unwrap().check().unwrap_err().to_string()
    }

    #[test]
    fn a_source_is_one_flat_table() {
        let text = "git = 'https://h/s.git'\nbranch = 'main'\nca = '/ca.pem'\ntimeout = 5\nretries = 0";
        let config = config(text).unwrap();
        config.check().unwrap();
        assert_eq!(config.net().ca, Some("/ca.pem".into()));
        assert_eq!((config.net().timeout, config.net().retries), (Some(5), Some(0)));
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = config("http = 'https://h/'\nbrnch = 'main'").unwrap_err();
        assert!(error.to_string().contains("unknown field `brnch`"), "{error}");
    }

    #[test]
    fn a_source_has_exactly_one_address() {
        assert_eq!(problem(""), "a source sets none of `git`, `http` and `dir`");
        assert_eq!(problem("git = '/a'\ndir = '/b'"), "a source sets git and dir together");
    }

    #[test]
    fn a_source_follows_one_state_of_a_repository() {
        assert_eq!(problem("git = '/a'\nbranch = 'a'\ntag = 'b'"), "a git source sets branch and tag together");
        assert_eq!(problem("dir = '/a'\nbranch = 'a'"), "a source sets `branch` without `git`");
        assert_eq!(problem("git = '/a'\ncommit = 'abc'"), "`abc` is not a commit");
    }

    #[test]
    fn a_directory_of_a_repository_is_a_path_inside_it() {
        config("git = '/a'\npath = 'clusters/blue'").unwrap().check().unwrap();
        assert_eq!(problem("dir = '/a'\npath = 'blue'"), "a source sets `path` without `git`");
        for path in ["/blue", "../blue", "blue/", "blue//green", ""] {
            let what = format!("`{path}` is not a directory inside a repository");
            assert_eq!(problem(&format!("git = '/a'\npath = '{path}'")), what);
        }
    }

    #[test]
    fn half_of_a_client_certificate_is_refused() {
        assert_eq!(problem("http = 'https://h/'\nclient_cert = '/c'"), "`client_cert` is set without `client_key`");
        assert_eq!(problem("http = 'https://h/'\nclient_key = '/c'"), "`client_key` is set without `client_cert`");
    }

    #[test]
    fn credentials_in_an_address_are_refused_and_not_repeated() {
        for kind in ["http", "git"] {
            for url in ["https://me:hunter2@h/s", "https://hunter2@h/s", "https://h/s?token=hunter2"] {
                let error = config(&format!("{kind} = '{url}'")).unwrap().check().unwrap_err();
                assert!(!format!("{error} {:?}", error.advice()).contains("hunter2"), "{error}");
            }
        }
    }

    #[test]
    fn an_unknown_scheme_is_refused() {
        assert!(problem("git = 'git://h/s'").starts_with("`git://h/s` is not"), "{}", problem("git = 'git://h/s'"));
        assert!(problem("http = 'ftp://h/s'").starts_with("`ftp://h/s` is not"));
        assert!(problem("git = 'here/there'").starts_with("`here/there` is not"));
    }

    #[test]
    fn a_path_that_leaves_the_tree_is_refused() {
        for path in ["../a", "a/../b", "/a", "a//b", "", ".", "a/.", "a\\b", "a\0b"] {
            let error = segments(path).unwrap_err();
            assert_eq!((error.code().name, error.exit_code()), (code::SOURCE.name, Exit::Refused), "{path:?}");
            assert!(error.to_string().ends_with("is not a path inside a site"), "{path:?}: {error}");
        }
        assert_eq!(segments("a/..b/c d").unwrap(), ["a", "..b", "c d"]);
    }

    #[test]
    fn a_missing_file_and_an_empty_one_are_different_states() {
        assert_ne!(digest(&[Some(b"a"), None]), digest(&[Some(b"a"), Some(b"")]));
        assert_ne!(digest(&[Some(b"ab"), Some(b"c")]), digest(&[Some(b"a"), Some(b"bc")]));
    }
}
