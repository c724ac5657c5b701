//! Releases from a git repository: one request detects a new state, and only the newest state is fetched.

mod gauge;
mod remote;
#[cfg(test)]
mod testing;
mod tree;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use gix_hash::{Kind, ObjectId};
use gix_pack::Bundle;
use gix_pack::bundle::write::Options as WriteOptions;
use gix_url::Scheme;

use self::remote::{Fetch, Link, Remote, Session};
use self::tree::{GitTree, Objects};
use super::{Config, Poll, Reach, Source};
use crate::document::repository;
use crate::error::{Context, Error, Result, chain, code, error};
use crate::net::{self, Client};

/// Bytes of one answer at most.
const RECEIVED_MAX: u64 = 256 << 20;
/// Pack files in the cache at most, before it is emptied; each fetch adds two.
const PACK_FILES_MAX: usize = 40;

/// The start of the full name of a branch.
const BRANCHES: &str = "refs/heads/";
/// The start of the full name of a tag.
const TAGS: &str = "refs/tags/";

/// The full names of refs with their peeled targets.
type Refs = Vec<(String, ObjectId)>;

/// A repository, and the state of it to follow.
pub(super) struct Git {
    name: String,
    /// Including the state that is followed.
    full_name: String,
    /// The full name of the branch or tag to follow, or `HEAD`.
    reference: String,
    /// The one commit to use instead.
    commit: Option<ObjectId>,
    location: Location,
    cache: PathBuf,
}

/// The location of a repository.
enum Location {
    /// On this host: it is read in place, without a copy.
    Local(PathBuf),
    Remote(Box<Remote>),
}

/// Refuses an invalid address or commit.
pub(super) fn check(address: &str, commit: Option<&str>) -> Result<()> {
    repository::address(address)?;
    commit.map_or(Ok(()), |commit| repository::commit(commit).map(drop))
}

/// The name of the source at `address`, including the state that is followed.
pub(super) fn name(address: &str, config: &Config) -> String {
    let state = match config {
        Config { branch: Some(name), .. } => format!(" (branch {name})"),
        Config { tag: Some(name), .. } => format!(" (tag {name})"),
        Config { commit: Some(hex), .. } => format!(" (commit {})", hex.to_ascii_lowercase()),
        _ => String::new(),
    };
    format!("git {address}{state}")
}

/// How the repository at `address` is reached.
pub(super) fn reach(address: &str) -> Result<Reach> {
    Ok(match repository::address(address)?.scheme {
        Scheme::File => Reach::Local,
        Scheme::Ssh => Reach::Ssh,
        _ => Reach::Http,
    })
}

impl Git {
    /// The repository at `address`, which [`Config::check`] has accepted.
    pub(super) fn new(address: &str, config: &Config, net: &net::LoadedOptions, cache: &Path) -> Result<Self> {
        let url = repository::address(address)?;
        let reference = match config {
            Config { branch: Some(name), .. } => format!("{BRANCHES}{name}"),
            Config { tag: Some(name), .. } => format!("{TAGS}{name}"),
            _ => "HEAD".to_owned(),
        };
        let commit = config.commit.as_deref().map(repository::commit).transpose()?;
        let (name, full_name) = (format!("git {address}"), name(address, config));
        let remote = |link| Location::Remote(Box::new(Remote { name: name.clone(), max: RECEIVED_MAX, link }));
        let location = match url.scheme {
            Scheme::File => Location::Local(OsStr::from_bytes(&url.path).into()),
            Scheme::Ssh => {
                let options = config.net();
                let seconds = options.patience().as_secs();
                // never ask questions, and detect a lost connection
                let command = format!(
                    "ssh -o BatchMode=yes -o ConnectTimeout={seconds} -o ServerAliveInterval={seconds} \
                     -o ServerAliveCountMax=1"
                );
                remote(Link::Ssh { url, command, retries: options.tries_again() })
            }
            _ => remote(Link::Http { home: net::parse(address.trim_end_matches('/'))?, client: Client::with(net)? }),
        };
        Ok(Self { name, full_name, reference, commit, location, cache: cache.to_path_buf() })
    }

    /// The commit to follow, among the `refs` of the repository.
    fn choose(&self, refs: &[(String, ObjectId)]) -> Result<ObjectId> {
        let named = refs.iter().find(|(name, _)| *name == self.reference).map(|(_, id)| *id);
        if let Some(id) = self.commit.or(named) {
            return Ok(id);
        }
        if refs.is_empty() {
            return Err(error!(GIT, "{} is empty", self.name).help("push a release to it"));
        }
        let is_tag = self.reference.starts_with(TAGS);
        let (kind, prefix) = if is_tag { ("tag", TAGS) } else { ("branch", BRANCHES) };
        let short = self.reference.strip_prefix(prefix).unwrap_or(&self.reference);
        let known = || refs.iter().filter_map(|(name, _)| name.strip_prefix(prefix));
        let error = error!(GIT, "{} has no {kind} `{short}`", self.name);
        let some: Vec<&str> = known().take(10).collect();
        let all = if some.is_empty() { format!("it has no {kind}") } else { format!("it has {}", some.join(", ")) };
        Err(error.help_nearest(short, known(), all))
    }

    /// Polls a repository on this host.
    fn poll_local(&self, path: &Path, cursor: Option<&str>) -> Result<Poll> {
        let (objects, refs) = tree::open(path, &self.name)?;
        let id = self.choose(&refs)?;
        if cursor == Some(id.to_string().as_str()) {
            return Ok(Poll::Unchanged);
        }
        let tree = GitTree::new(objects, id, &self.name, None).map_err(|why| match self.commit {
            Some(_) => self.no_commit(id),
            None => error!(GIT, "{} can't be read", self.name).because(why).help("`git fsck` shows what is missing"),
        })?;
        Ok(Poll::News(Box::new(tree), id.to_string()))
    }

    fn no_commit(&self, id: ObjectId) -> Error {
        error!(GIT, "{} has no commit {id}", self.name)
            .help("push it, or correct `commit`; a commit must be reachable from a branch or a tag")
    }

    /// Requests the refs of a server, and fetches the commit to follow.
    fn poll_remote(&self, remote: &Remote, cursor: Option<&str>) -> Result<Poll> {
        if let Some(id) = self.commit
            && let Some(tree) = self.cached(id)
        {
            return Ok(Poll::News(Box::new(tree), id.to_string()));
        }
        let mut session = remote.connect()?;
        let id = self.choose(&session.refs)?;
        if cursor == Some(id.to_string().as_str()) {
            return Ok(Poll::Unchanged);
        }
        if let Some(tree) = self.cached(id) {
            return Ok(Poll::News(Box::new(tree), id.to_string()));
        }
        if self.pack_files() >= PACK_FILES_MAX {
            self.forget()?;
        }
        let have = cursor.and_then(|cursor| ObjectId::from_hex(cursor.as_bytes()).ok());
        let was_empty = !self.cache.join("objects").exists();
        let first = if session.gives(id) {
            let have = have.filter(|have| self.cached(*have).is_some());
            self.fetch(&mut session, &[id], have, true).and_then(|()| self.fetched(id))
        } else {
            Err(Fetch::Unusable("the server doesn't support fetching a single commit".into()))
        };
        let tree = match first {
            Ok(tree) => tree,
            Err(Fetch::Failed(error)) => return Err(error),
            Err(Fetch::Unusable(why)) => {
                // the cache may be broken: retry without it, and for a single commit with everything that may have it
                let is_commit = self.commit.is_some();
                if was_empty && !is_commit {
                    return Err(self.unusable(&why));
                }
                log::debug!("{}: {why}; fetching again", self.name);
                self.forget()?;
                drop(session);
                let mut session = remote.connect()?;
                let wants = if is_commit { session.tips() } else { vec![id] };
                self.fetch(&mut session, &wants, None, !is_commit)
                    .map_err(|failure| failure.or(|why| self.unusable(why)))?;
                self.fetched(id).map_err(|failure| {
                    failure.or(|why| if is_commit { self.no_commit(id) } else { self.unusable(why) })
                })?
            }
        };
        Ok(Poll::News(Box::new(tree), id.to_string()))
    }

    fn unusable(&self, why: &str) -> Error {
        error!(GIT, "{}: fetching failed", self.name)
            .because(why)
            .help("try `git clone --depth 1` with the same address, and check the free space on this host")
    }

    /// Fetches the commits in `wants` into the cache.
    fn fetch(
        &self,
        session: &mut Session<'_>,
        wants: &[ObjectId],
        have: Option<ObjectId>,
        newest: bool,
    ) -> Result<(), Fetch> {
        let objects = self.objects()?;
        session.fetch(wants, have, newest, |pack, gauge| {
            let written = Bundle::write_to_directory(
                pack,
                Some(&self.cache.join("objects/pack")),
                &mut gauge.clone(),
                gauge.ended(),
                Some(objects),
                Kind::Sha1,
                WriteOptions {
                    // one object can't be larger than a whole answer
                    alloc_limit_bytes: usize::try_from(RECEIVED_MAX).ok(),
                    ..WriteOptions::default()
                },
            )
            .map_err(|why| first_words(&why))?;
            // it only prevents a garbage collection, which never runs
            if let Some(keep) = written.keep_path {
                let _ = fs::remove_file(keep);
            }
            Ok(())
        })
    }

    /// The tree of a fetched commit. This opens the cache again, so that it sees the last pack.
    fn fetched(&self, id: ObjectId) -> Result<GitTree, Fetch> {
        GitTree::new(self.objects()?, id, &self.name, Some(self.cache.clone())).map_err(Fetch::Unusable)
    }

    /// The fetched objects; a missing directory is created.
    fn objects(&self) -> Result<Objects, Fetch> {
        fs::create_dir_all(self.cache.join("objects/pack"))
            .context(code::GIT, || format!("making {}", self.cache.display()))
            .map_err(|error| Fetch::Failed(error.help("check the free space and the permissions there")))?;
        tree::objects(self.cache.join("objects")).map_err(Fetch::Unusable)
    }

    /// The tree of a commit, if the cache has all of it.
    fn cached(&self, id: ObjectId) -> Option<GitTree> {
        if !self.cache.join("objects").exists() {
            return None;
        }
        self.fetched(id).ok()
    }

    fn pack_files(&self) -> usize {
        fs::read_dir(self.cache.join("objects/pack")).map_or(0, Iterator::count)
    }

    fn forget(&self) -> Result<()> {
        empty(&self.cache).map_err(|why| {
            error!(GIT, "{} can't be emptied", self.cache.display())
                .because(why)
                .help("remove it by hand: it is only a cache")
        })
    }
}

fn other_format(name: &str) -> Error {
    error!(GIT, "{name} has SHA-256 object names")
        .because("kpull reads repositories with the object format sha1 only")
        .help("push the site to one of `git init --object-format=sha1`; the signed release.toml still verifies all files by SHA-256. Or publish it with `kpull publish`")
}

/// Empties a cache. The directory itself stays: a sandboxed process can't create it again.
fn empty(cache: &Path) -> io::Result<()> {
    match fs::remove_dir_all(cache.join("objects")) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

impl Source for Git {
    fn name(&self) -> String {
        self.full_name.clone()
    }

    fn poll(&mut self, cursor: Option<&str>) -> Result<Poll> {
        // a commit never changes, so there is nothing to poll
        if self.commit.is_some_and(|id| cursor == Some(id.to_string().as_str())) {
            return Ok(Poll::Unchanged);
        }
        match &self.location {
            Location::Local(path) => self.poll_local(path, cursor),
            Location::Remote(remote) => self.poll_remote(remote, cursor),
        }
    }
}

/// The first line of the root cause of an error of gix.
fn first_words(why: &(dyn std::error::Error + 'static)) -> String {
    let root = chain(why).last().map(ToString::to_string).unwrap_or_default();
    root.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use gix_object::Exists;

    use super::testing::{Fixture, news, problem, release};
    use super::*;
    use crate::net::testing::{Answer as Reply, Server, git};

    #[test]
    fn an_unchanged_poll_is_one_request() {
        let fixture = Fixture::new();
        let server = fixture.serve();
        let mut source = fixture.over(&server, "");
        let (tree, cursor) = news(&mut source, None);
        assert_eq!(release(&*tree), "first");
        let before = server.seen().len();
        assert!(matches!(source.poll(Some(&cursor)).unwrap(), Poll::Unchanged));
        let seen = server.seen();
        assert_eq!(seen.len(), before + 1);
        assert_eq!((seen[before].method.as_str(), seen[before].path.as_str()), ("GET", "/site/info/refs"));
    }

    #[test]
    fn a_push_is_news_and_costs_two_requests() {
        let fixture = Fixture::new();
        let server = fixture.serve();
        let mut source = fixture.over(&server, "branch = 'main'");
        let (_, cursor) = news(&mut source, None);
        let id = fixture.commit("roles/etcd/role.toml", "role");
        let before = server.seen().len();
        let (tree, cursor) = news(&mut source, Some(&cursor));
        assert_eq!(cursor, id);
        assert_eq!(server.seen().len(), before + 2);
        assert_eq!(tree.list().unwrap().unwrap(), ["release.toml", "roles/etcd/role.toml"]);
        assert_eq!(tree.read("roles/etcd/role.toml", 4).unwrap().as_deref(), Some(&b"role"[..]));
        assert_eq!(release(&*tree), "first");
    }

    #[test]
    fn only_what_is_new_is_sent_and_only_the_newest_commit() {
        let fixture = Fixture::new();
        let noise: String = (0..20_000_u32).map(|n| format!("{}", n.wrapping_mul(2_654_435_761))).collect();
        fixture.commit("big", &noise);
        let server = fixture.serve();
        let mut source = fixture.over(&server, "");
        let (_, cursor) = news(&mut source, None);
        let size = || -> u64 {
            let packs = fs::read_dir(fixture.cache().join("objects/pack")).unwrap();
            packs
                .map(|entry| entry.unwrap())
                .filter(|e| e.path().extension() == Some("pack".as_ref()))
                .map(|entry| entry.metadata().unwrap().len())
                .sum()
        };
        let first = size();
        fixture.commit("release.toml", "second");
        let (tree, _) = news(&mut source, Some(&cursor));
        assert_eq!(release(&*tree), "second");
        assert!(size() < first + 2000, "{} after {first}", size());
        let objects = tree::objects(fixture.cache().join("objects")).unwrap();
        let oldest = fixture.git(&["rev-list", "--max-parents=0", "HEAD"]);
        assert!(!objects.exists(&ObjectId::from_hex(oldest.as_bytes()).unwrap()));
    }

    #[test]
    fn contents_that_come_back_are_fetched_again() {
        let fixture = Fixture::new();
        fixture.commit("release.toml", "second");
        let server = fixture.serve();
        let mut source = fixture.over(&server, "");
        let (_, cursor) = news(&mut source, None);
        // The server's history has this blob, but the cache never had it.
        fixture.commit("release.toml", "first");
        let (tree, _) = news(&mut source, Some(&cursor));
        assert_eq!(release(&*tree), "first");
    }

    #[test]
    fn a_rewritten_history_is_followed() {
        let fixture = Fixture::new();
        fixture.commit("release.toml", "second");
        let server = fixture.serve();
        let mut source = fixture.over(&server, "");
        let (_, cursor) = news(&mut source, None);
        fixture.git(&["reset", "-q", "--hard", "HEAD^"]);
        fixture.git(&["commit", "-q", "--amend", "-m", "rewritten"]);
        let (tree, after) = news(&mut source, Some(&cursor));
        assert_eq!((release(&*tree).as_str(), after), ("first", fixture.git(&["rev-parse", "HEAD"])));
    }

    #[test]
    fn a_branch_and_tags_of_both_sorts_lead_to_their_commits() {
        let fixture = Fixture::new();
        let first = fixture.git(&["rev-parse", "HEAD"]);
        fixture.git(&["tag", "light"]);
        fixture.git(&["tag", "-a", "-m", "a tag", "annotated"]);
        fixture.git(&["branch", "staging/one"]);
        let second = fixture.commit("release.toml", "second");
        let server = fixture.serve();
        let path = fixture.site().display().to_string();
        for (what, expected) in [
            ("tag = 'light'", &first),
            ("tag = 'annotated'", &first),
            ("branch = 'staging/one'", &first),
            ("branch = 'main'", &second),
            ("", &second),
        ] {
            assert_eq!(news(&mut fixture.over(&server, what), None).1, *expected, "{what} over HTTP");
            assert_eq!(news(&mut fixture.source(&format!("git = '{path}'\n{what}")), None).1, *expected, "{what}");
        }
    }

    #[test]
    fn a_commit_is_fetched_by_its_id_where_the_server_allows_that() {
        let fixture = Fixture::new();
        let first = fixture.git(&["rev-parse", "HEAD"]);
        fixture.commit("release.toml", "second");
        fixture.git(&["config", "uploadpack.allowReachableSHA1InWant", "true"]);
        let server = fixture.serve();
        let mut source = fixture.over(&server, &format!("commit = '{first}'"));
        let (tree, cursor) = news(&mut source, None);
        assert_eq!((release(&*tree).as_str(), cursor.as_str()), ("first", first.as_str()));
        assert_eq!(server.seen().len(), 2);
        assert!(matches!(source.poll(Some(&cursor)).unwrap(), Poll::Unchanged));
        assert_eq!(release(&*news(&mut source, None).0), "first");
        assert_eq!(server.seen().len(), 2, "a commit that already exists needs no request");
    }

    #[test]
    fn a_commit_is_found_on_a_branch_where_the_server_allows_nothing_else() {
        let fixture = Fixture::new();
        let first = fixture.git(&["rev-parse", "HEAD"]);
        fixture.commit("release.toml", "second");
        let server = fixture.serve();
        let mut source = fixture.over(&server, &format!("commit = '{first}'"));
        assert_eq!(release(&*news(&mut source, None).0), "first");
        let none = "1234567890123456789012345678901234567890";
        let error = problem(&mut fixture.over(&server, &format!("commit = '{none}'")));
        assert!(error.to_string().ends_with(&format!("has no commit {none}")), "{error}");
        let path = fixture.site().display().to_string();
        let error = problem(&mut fixture.source(&format!("git = '{path}'\ncommit = '{none}'")));
        assert!(error.to_string().ends_with(&format!("has no commit {none}")), "{error}");
    }

    #[test]
    fn a_repository_with_objects_of_sha256_is_called_that() {
        let dir = tempfile::tempdir().unwrap();
        git(dir.path(), &["init", "-q", "--object-format=sha256", "-b", "main", "site"]);
        let fixture = Fixture { dir };
        let id = fixture.commit("release.toml", "first");
        let (server, path) = (fixture.serve(), fixture.site().display().to_string());
        for error in [
            problem(&mut fixture.source(&format!("git = '{path}'"))),
            problem(&mut fixture.over(&server, "")),
            problem(&mut fixture.over(&server, "branch = 'main'")),
        ] {
            let message = error.to_string();
            assert!(
                message
                    .ends_with("has SHA-256 object names: kpull reads repositories with the object format sha1 only"),
                "{message}"
            );
            assert!(error.advice().unwrap_or_default().contains("`git init --object-format=sha1`"), "{message}");
        }
        let config: Config = toml::from_str(&format!("git = '{path}'\ncommit = '{id}'")).unwrap();
        assert!(config.check().unwrap_err().to_string().contains("with SHA-256 object names"));
    }

    #[test]
    fn a_missing_branch_is_named_with_the_nearest_one() {
        let fixture = Fixture::new();
        let server = fixture.serve();
        let error = problem(&mut fixture.over(&server, "branch = 'mian'"));
        assert!(error.to_string().ends_with("has no branch `mian`"), "{error}");
        assert_eq!(error.advice(), Some("did you mean `main`?"));
        let error = problem(&mut fixture.over(&server, "branch = 'production'"));
        assert_eq!(error.advice(), Some("it has main"));
        let error = problem(&mut fixture.over(&server, "tag = 'v1'"));
        assert_eq!(error.advice(), Some("it has no tag"));
    }

    #[test]
    fn an_empty_repository_and_something_else_than_a_repository_say_so() {
        let fixture = Fixture::new();
        git(fixture.dir.path(), &["init", "-q", "empty"]);
        let server = fixture.serve();
        let error = problem(&mut fixture.source(&format!("git = '{}'", server.url("empty"))));
        assert!(error.to_string().ends_with("is empty"), "{error}");
        let commit = fixture.git(&["rev-parse", "HEAD"]);
        let error = problem(&mut fixture.source(&format!("git = '{}'\ncommit = '{commit}'", server.url("empty"))));
        assert!(error.to_string().ends_with(&format!("has no commit {commit}")), "{error}");
        let error = problem(&mut fixture.source(&format!("git = '{}'", server.url("none"))));
        assert!(error.to_string().starts_with("there is no git repository at http://"), "{error}");
        let page = Server::plain(|_| Reply::new(200, "<html>").with("Content-Type", "text/html"));
        let error = problem(&mut fixture.source(&format!("git = '{}'", page.url("site"))));
        assert!(error.to_string().ends_with("is not a git repository: the answer is text/html"), "{error}");
        let error = problem(&mut fixture.source("git = '/dev'"));
        assert!(error.to_string().starts_with("git /dev is not a git repository"), "{error}");
    }

    #[test]
    fn a_broken_cache_is_made_anew() {
        let fixture = Fixture::new();
        let server = fixture.serve();
        let (_, cursor) = news(&mut fixture.over(&server, ""), None);
        fixture.commit("other", "more");
        for entry in fs::read_dir(fixture.cache().join("objects/pack")).unwrap() {
            let path = entry.unwrap().path();
            fs::remove_file(&path).unwrap();
            fs::write(&path, "rubbish").unwrap();
        }
        let (tree, cursor) = news(&mut fixture.over(&server, ""), Some(&cursor));
        assert_eq!(release(&*tree), "first");
        fixture.commit("other", "even more");
        fs::write(fixture.cache().join("config"), "[[[").unwrap();
        fs::write(fixture.cache().join("HEAD"), "").unwrap();
        let (tree, _) = news(&mut fixture.over(&server, ""), Some(&cursor));
        assert_eq!(release(&*tree), "first");
    }

    #[test]
    fn the_cache_stays_small_over_many_fetches() {
        let fixture = Fixture::new();
        let server = fixture.serve();
        let mut source = fixture.over(&server, "");
        let (_, mut cursor) = news(&mut source, None);
        for n in 0..PACK_FILES_MAX / 2 + 2 {
            fixture.commit("release.toml", &n.to_string());
            let (tree, now) = news(&mut source, Some(&cursor));
            assert_eq!(release(&*tree), n.to_string());
            cursor = now;
        }
        assert!(source.pack_files() < PACK_FILES_MAX, "{}", source.pack_files());
    }
}
