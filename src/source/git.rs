//! Releases from a git repository: one request tells whether there is news, and only the newest state is fetched.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Cursor, Read, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

use gix::bstr::ByteSlice;
use gix::odb::pack::Bundle;
use gix::odb::pack::bundle::write::Options as WriteOptions;
use gix::progress::Discard;
use gix::protocol::fetch::negotiate::{Action, Round, one_round};
use gix::protocol::fetch::{Arguments, Negotiate, Response, Shallow, Tags};
use gix::protocol::handshake::Ref;
use gix::protocol::{Handshake, fetch};
use gix::{ObjectId, Repository, ThreadSafeRepository, Url};
use gix_transport::client::Capabilities;
use gix_transport::client::blocking_io::http::{self, GetResponse, PostBodyDataKind, PostResponse};
use gix_transport::client::blocking_io::{Transport, connect, ssh};
use gix_transport::{Protocol, Service};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::gauge::{Gauge, RATIO};
use super::{Config, Poll, Reach, Source, segments, too_big};
use crate::document::Tree;
use crate::error::{Context, Error, Result, chain, code, nearest};
use crate::net::{self, Again, Client, Failure, Kind, Reply, Request};

/// The most that is received in one answer, in bytes.
const RECEIVED_MAX: u64 = 256 << 20;
/// The most files a tree may have: a few kilobytes of git can claim billions.
const FILES_MAX: usize = 100_000;
/// How many files of packs the cache may have before it is made anew; each fetch adds two.
const PACK_FILES_MAX: usize = 40;
/// What the address of a smart server ends with when it is asked for refs.
const REFS: &str = "info/refs?service=git-upload-pack";

/// A repository, and what of it is followed.
pub(super) struct Git {
    name: String,
    /// With what is followed.
    full_name: String,
    want: Want,
    remote: Remote,
    cache: PathBuf,
    received_max: u64,
}

/// Which state of the repository is followed.
enum Want {
    Head,
    Branch(String),
    Tag(String),
    Commit(ObjectId),
}

/// How the repository is reached.
enum Remote {
    /// In place, without a copy.
    Local(PathBuf),
    Http {
        home: reqwest::Url,
        client: Client,
    },
    /// Through the system's ssh client, started with `command`.
    Ssh {
        url: Url,
        command: String,
        retries: u32,
    },
}

/// A failure that nothing underneath can carry through gix; the first one counts.
type Trouble = Rc<RefCell<Option<Error>>>;

/// Finds an address that no source can be opened for, and a commit that isn't one.
pub(super) fn check(address: &str, commit: Option<&str>) -> Result<()> {
    parse(address)?;
    commit.map_or(Ok(()), |commit| commit_id(commit).map(drop))
}

fn commit_id(hex: &str) -> Result<ObjectId> {
    ObjectId::from_hex(hex.as_bytes()).map_err(|_| {
        let error = Error::new(code::GIT, format!("`{hex}` is not a commit"));
        if hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return error
                .because("it is one of a repository with objects named by SHA-256, which kpull does not read")
                .help("push the site to a repository of `git init --object-format=sha1`");
        }
        error.help("write the whole id, 40 hex digits: `git rev-parse HEAD`")
    })
}

/// Reads an address. Nothing of one with a password in it is repeated.
fn parse(address: &str) -> Result<Url> {
    if address.starts_with("http://") || address.starts_with("https://") {
        net::parse(address)?;
    }
    let bare = || address.rsplit_once('@').map_or(address, |(_, host)| host);
    let wrong = || {
        Error::new(code::GIT, format!("`{}` is not the address of a git repository", bare()))
            .help("https://, http://, ssh://, user@host:path, file:// and absolute paths work")
    };
    let url = gix::url::parse(address).map_err(|_| wrong())?;
    if url.password().is_some() {
        return Err(Error::new(code::GIT, format!("`{}` has a password in it", bare())).help("use a key with ssh"));
    }
    match url.scheme {
        gix::url::Scheme::Http | gix::url::Scheme::Https => Ok(url),
        gix::url::Scheme::Ssh if url.host().is_some() => Ok(url),
        gix::url::Scheme::File if url.host().is_none() && url.path.starts_with(b"/") => Ok(url),
        _ => Err(wrong()),
    }
}

/// What to call the repository at `address`, and what of it is followed.
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
    Ok(match parse(address)?.scheme {
        gix::url::Scheme::File => Reach::Local,
        gix::url::Scheme::Ssh => Reach::Ssh,
        _ => Reach::Http,
    })
}

impl Git {
    /// The repository at `address`, which `config` has checked.
    pub(super) fn new(address: &str, config: &Config, net: &net::Loaded, cache: &Path) -> Result<Self> {
        let url = parse(address)?;
        let want = match config {
            Config { branch: Some(name), .. } => Want::Branch(name.clone()),
            Config { tag: Some(name), .. } => Want::Tag(name.clone()),
            Config { commit: Some(hex), .. } => Want::Commit(commit_id(hex)?),
            _ => Want::Head,
        };
        let options = config.net();
        let (name, full_name) = (format!("git {address}"), name(address, config));
        let remote = match url.scheme {
            gix::url::Scheme::File => Remote::Local(
                url.path.to_path().context(code::GIT, || format!("reading the path in {name}"))?.to_path_buf(),
            ),
            gix::url::Scheme::Ssh => {
                let seconds = options.patience().as_secs();
                // Nobody is there to answer a question, and a peer that went away is noticed.
                let command = format!(
                    "ssh -o BatchMode=yes -o ConnectTimeout={seconds} -o ServerAliveInterval={seconds} \
                     -o ServerAliveCountMax=1"
                );
                Remote::Ssh { url, command, retries: options.tries_again() }
            }
            _ => Remote::Http { home: net::parse(address.trim_end_matches('/'))?, client: Client::with(net)? },
        };
        Ok(Self { name, full_name, want, remote, cache: cache.to_path_buf(), received_max: RECEIVED_MAX })
    }

    /// The commit that is followed, among the `refs` of the repository.
    fn choose(&self, refs: &[(String, ObjectId)]) -> Result<ObjectId> {
        let (full, short, prefix) = match &self.want {
            Want::Commit(id) => return Ok(*id),
            Want::Head => ("HEAD".to_owned(), "HEAD", "refs/heads/"),
            Want::Branch(name) => (format!("refs/heads/{name}"), name.as_str(), "refs/heads/"),
            Want::Tag(name) => (format!("refs/tags/{name}"), name.as_str(), "refs/tags/"),
        };
        if let Some((_, id)) = refs.iter().find(|(name, _)| *name == full) {
            return Ok(*id);
        }
        if refs.is_empty() {
            return Err(Error::new(code::GIT, format!("{} is empty", self.name)).help("push a release to it"));
        }
        let kind = if prefix == "refs/tags/" { "tag" } else { "branch" };
        let known = || refs.iter().filter_map(|(name, _)| name.strip_prefix(prefix));
        let error = Error::new(code::GIT, format!("{} has no {kind} `{short}`", self.name));
        Err(match nearest(short, known()) {
            Some(name) => error.help(format!("did you mean `{name}`?")),
            None => {
                let some: Vec<&str> = known().take(10).collect();
                error.help(if some.is_empty() {
                    format!("it has no {kind} at all")
                } else {
                    format!("it has {}", some.join(", "))
                })
            }
        })
    }

    /// A repository on this host is read where it is.
    fn poll_local(&self, path: &Path, mark: Option<&str>) -> Result<Poll> {
        let not_one = |why: &gix::Error| {
            if first_words(why).contains("Object format") {
                return self.other_format();
            }
            Error::new(code::GIT, format!("{} is not a git repository", self.name))
                .because(first_words(why))
                .help("correct `git`; a plain directory is a source too: dir = \"PATH\"")
        };
        let repo = gix::open_opts(path, gix::open::Options::isolated()).map_err(|why| not_one(&why))?;
        let mut refs = Vec::new();
        if let Ok(id) = repo.head_id() {
            refs.push(("HEAD".to_owned(), id.detach()));
        }
        let platform = repo.references().map_err(|why| not_one(&why))?;
        for reference in platform.all().map_err(|why| not_one(&why))?.flatten() {
            let name = reference.name().as_bstr().to_string();
            // One that leads nowhere is as good as none.
            if let Ok(id) = reference.into_fully_peeled_id() {
                refs.push((name, id.detach()));
            }
        }
        let id = self.choose(&refs)?;
        if mark == Some(id.to_string().as_str()) {
            return Ok(Poll::Unchanged);
        }
        let tree = GitTree::new(repo, id, self, None).map_err(|why| match self.want {
            Want::Commit(_) => self.no_commit(id),
            _ => Error::new(code::GIT, format!("{} can't be read", self.name))
                .because(first_words(&why))
                .help("`git fsck` tells what is missing"),
        })?;
        Ok(Poll::News(Box::new(tree), id.to_string()))
    }

    fn other_format(&self) -> Error {
        Error::new(code::GIT, format!("{} has objects named by SHA-256", self.name))
            .because("kpull reads repositories with the object format sha1 only")
            .help("push the site to one of `git init --object-format=sha1`; files are checked by SHA-256 all the same, against the signed release.toml. Or publish it with `kpull publish`")
    }

    fn no_commit(&self, id: ObjectId) -> Error {
        Error::new(code::GIT, format!("{} has no commit {id}", self.name))
            .help("push it, or correct `commit`; a commit must be reachable from a branch or a tag")
    }

    /// Asks a server for its refs and fetches what is followed.
    fn poll_remote(&self, mark: Option<&str>) -> Result<Poll> {
        if let Want::Commit(id) = self.want
            && let Some(tree) = self.cached(id)
        {
            return Ok(Poll::News(Box::new(tree), id.to_string()));
        }
        let mut session = self.connect()?;
        let id = self.choose(&session.refs)?;
        if mark == Some(id.to_string().as_str()) {
            return Ok(Poll::Unchanged);
        }
        if let Some(tree) = self.cached(id) {
            return Ok(Poll::News(Box::new(tree), id.to_string()));
        }
        if self.pack_files() >= PACK_FILES_MAX {
            self.forget()?;
        }
        let have = mark.and_then(|mark| ObjectId::from_hex(mark.as_bytes()).ok());
        let was_empty = !self.cache.join("objects").exists();
        let first = if session.gives(id) {
            let have = have.filter(|have| self.cached(*have).is_some());
            self.fetch(&mut session, &[id], have, newest()).and_then(|()| self.fetched(id))
        } else {
            Err(Fetch::Unusable("the server doesn't hand out single commits".into()))
        };
        let tree = match first {
            Ok(tree) => tree,
            Err(Fetch::Failed(error)) => return Err(error),
            Err(Fetch::Unusable(why)) => {
                // The cache may be what is wrong: without it, and for a single commit with everything that may have it.
                let commit = matches!(self.want, Want::Commit(_));
                if was_empty && !commit {
                    return Err(self.unusable(&why));
                }
                log::debug!("{}: {why}; fetching anew", self.name);
                self.forget()?;
                drop(session);
                let mut session = self.connect()?;
                let (wants, depth) = if commit { (session.tips(), Shallow::NoChange) } else { (vec![id], newest()) };
                self.fetch(&mut session, &wants, None, depth)
                    .map_err(|failure| failure.told_by(|why| self.unusable(why)))?;
                self.fetched(id).map_err(|failure| {
                    failure.told_by(|why| if commit { self.no_commit(id) } else { self.unusable(why) })
                })?
            }
        };
        Ok(Poll::News(Box::new(tree), id.to_string()))
    }

    fn unusable(&self, why: &str) -> Error {
        Error::new(code::GIT, format!("{}: fetching failed", self.name))
            .because(why)
            .help("try `git clone --depth 1` with the same address, and check the space on this host")
    }

    /// Shakes hands; the refs come with that.
    fn connect(&self) -> Result<Session> {
        match &self.remote {
            // Tries again by itself.
            Remote::Http { .. } => self.try_connect().map_err(|failure| failure.error),
            Remote::Ssh { retries, .. } => net::retry(*retries, None, || self.try_connect()),
            Remote::Local(path) => Err(Error::new(code::GIT, format!("{} is not remote", path.display()))),
        }
    }

    fn try_connect(&self) -> Result<Session, Failure> {
        let trouble = Trouble::default();
        let mut transport: Box<dyn Transport> = match &self.remote {
            Remote::Http { home, client } => {
                let smart = Smart {
                    client: client.clone(),
                    home: home.clone(),
                    moved: None,
                    max: self.received_max,
                    trouble: trouble.clone(),
                };
                let url = gix::url::parse(home.as_str())
                    .map_err(|why| Failure::hopeless(Error::new(code::GIT, "an address can't be read").because(why)))?;
                // The first version tells the refs without being asked again.
                Box::new(http::Transport::new_http(smart, url, Protocol::V1, false))
            }
            Remote::Ssh { url, command, .. } => {
                let ssh = ssh::connect::Options {
                    command: Some(with_marked_words(command).into()),
                    disallow_shell: false,
                    kind: Some(ssh::ProgramKind::Ssh),
                };
                let options = connect::Options { version: Protocol::V1, ssh, trace: false };
                connect::connect(url.clone(), options).map_err(|why| Failure::hopeless(self.ssh_failed(&why)))?
            }
            Remote::Local(path) => {
                return Err(Failure::hopeless(Error::new(code::GIT, format!("{} is not remote", path.display()))));
            }
        };
        // Only asked for when ssh was refused; HTTP has its own.
        let mut refused = false;
        let no_credentials = |_| {
            refused = true;
            Err(gix::error::ErrorExt::raise(gix::error::message("permission denied")))
        };
        let handshake =
            gix::protocol::handshake(&mut transport, Service::UploadPack, no_credentials, Vec::new(), &mut Discard);
        let mut handshake = match (handshake, trouble.take()) {
            (_, Some(error)) => return Err(Failure::hopeless(error)),
            (Ok(handshake), None) => handshake,
            (Err(why), None) if matches!(self.remote, Remote::Ssh { .. }) => {
                let again = if refused { Again::Never } else { Again::Later(None) };
                return Err(Failure { error: self.ssh_failed(&why), again });
            }
            (Err(why), None) if first_words(&why).contains("64 hexadecimal") => {
                return Err(Failure::hopeless(self.other_format()));
            }
            (Err(why), None) => return Err(Failure::hopeless(self.not_a_repository(&first_words(&why)))),
        };
        handshake.capabilities = without_relative_depth(handshake.capabilities);
        let refs = handshake.refs.take().unwrap_or_default();
        let refs = refs.iter().filter_map(peeled).collect();
        Ok(Session { transport, handshake, refs, trouble })
    }

    fn not_a_repository(&self, why: &str) -> Error {
        Error::new(code::GIT, format!("{} is not a git repository", self.name))
            .because(why)
            .help("check the address; the server must speak git's smart HTTP protocol")
    }

    fn ssh_failed(&self, why: &gix::Error) -> Error {
        Error::new(code::GIT, format!("{} can't be reached over ssh", self.name)).because(first_words(why)).help(
            "try `ssh -o BatchMode=yes HOST` as the user that runs kpull: its key must be allowed there, and the \
             host's key known here",
        )
    }

    /// Fetches what is in `wants` and nothing else into the cache.
    fn fetch(
        &self,
        session: &mut Session,
        wants: &[ObjectId],
        have: Option<ObjectId>,
        depth: Shallow,
    ) -> Result<(), Fetch> {
        let repo = self.open_cache()?;
        let mut negotiation = Negotiation { wants, have };
        let packs = repo.objects.store_ref().path().join("pack");
        let trouble = session.trouble.clone();
        let gauge = Gauge::new();
        let write = |reader: &mut dyn BufRead, _: &mut dyn gix::DynNestedProgress, _: &AtomicBool| {
            let inner = Gauged { inner: reader, gauge: gauge.clone() };
            let limited = Limited { inner, left: self.received_max, max: self.received_max, trouble };
            let written = Bundle::write_to_directory(
                &mut BufReader::new(limited),
                Some(&packs),
                &mut gauge.clone(),
                gauge.ended(),
                Some(repo.objects.clone()),
                repo.object_hash(),
                WriteOptions {
                    // One object can't be more than a whole answer, however well it was packed.
                    alloc_limit_bytes: usize::try_from(self.received_max).ok(),
                    ..WriteOptions::default()
                },
            )?;
            // It would keep a garbage collection away that never comes.
            if let Some(keep) = written.keep_path {
                let _ = fs::remove_file(keep);
            }
            Ok(true)
        };
        let shallow_file = repo.shallow_file().map_err(|why| Fetch::Unusable(first_words(&why)))?;
        let fetched = fetch(
            &mut negotiation,
            write,
            Discard,
            &AtomicBool::new(false),
            fetch::Context {
                handshake: &mut session.handshake,
                transport: &mut session.transport,
                user_agent: ("agent", Some(concat!("kpull/", env!("CARGO_PKG_VERSION")).into())),
                trace_packetlines: false,
            },
            fetch::Options { shallow_file, shallow: &depth, tags: Tags::None, reject_shallow_remote: false },
        );
        if gauge.is_over() {
            return Err(Fetch::Failed(
                Error::refused(
                    code::GIT,
                    format!("{} sends a pack that unpacks to more than {RATIO} times its size", self.name),
                )
                .help("a small pack that unpacks to very much is a known attack; keep such files out of the site"),
            ));
        }
        if let Some(error) = session.trouble.take() {
            return Err(Fetch::Failed(error));
        }
        fetched.map(drop).map_err(|why| Fetch::Unusable(first_words(&why)))
    }

    /// The tree of a commit that was fetched. The cache is opened anew, so that the last pack is seen.
    fn fetched(&self, id: ObjectId) -> Result<GitTree, Fetch> {
        GitTree::new(self.open_cache()?, id, self, Some(self.cache.clone()))
            .map_err(|why| Fetch::Unusable(first_words(&why)))
    }

    /// The repository that fetched objects are kept in; made when it is missing.
    fn open_cache(&self) -> Result<Repository, Fetch> {
        let unusable = |why: gix::Error| Fetch::Unusable(first_words(&why));
        if self.cache.join("objects").exists() {
            return gix::open_opts(&self.cache, gix::open::Options::isolated().open_path_as_is(true)).map_err(unusable);
        }
        fs::create_dir_all(&self.cache)
            .context(code::GIT, || format!("making {}", self.cache.display()))
            .map_err(|error| Fetch::Failed(error.help("check the space and the rights there")))?;
        ThreadSafeRepository::init_opts(
            &self.cache,
            gix::create::Kind::Bare,
            gix::create::Options::default(),
            gix::open::Options::isolated(),
        )
        .map(|repo| repo.to_thread_local())
        .map_err(unusable)
    }

    /// The tree of a commit, if all of it is in the cache.
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
            Error::new(code::GIT, format!("{} can't be emptied", self.cache.display()))
                .because(why)
                .help("remove it by hand: it is only a cache")
        })
    }
}

/// Removes what is in a cache. The directory itself stays: a process in a sandbox can't make it anew.
fn empty(cache: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(cache) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

impl Source for Git {
    fn name(&self) -> String {
        self.full_name.clone()
    }

    fn poll(&mut self, mark: Option<&str>) -> Result<Poll> {
        // A commit never changes, so there is nothing to ask.
        if let Want::Commit(id) = self.want
            && mark == Some(id.to_string().as_str())
        {
            return Ok(Poll::Unchanged);
        }
        match &self.remote {
            Remote::Local(path) => self.poll_local(path, mark),
            Remote::Http { .. } | Remote::Ssh { .. } => self.poll_remote(mark),
        }
    }
}

/// Why a fetch came to nothing.
enum Fetch {
    /// A failure that fetching anew wouldn't change.
    Failed(Error),
    /// What came, or what was there before, is of no use.
    Unusable(String),
}

impl Fetch {
    fn told_by(self, unusable: impl FnOnce(&str) -> Error) -> Error {
        match self {
            Self::Failed(error) => error,
            Self::Unusable(why) => unusable(&why),
        }
    }
}

/// A connection whose server has told its refs.
struct Session {
    transport: Box<dyn Transport>,
    handshake: Handshake,
    /// Full names, and what they lead to past annotated tags.
    refs: Vec<(String, ObjectId)>,
    trouble: Trouble,
}

impl Session {
    /// Whether the server sends this commit when asked for it by id.
    fn gives(&self, id: ObjectId) -> bool {
        let able = |name| self.handshake.capabilities.contains(name);
        self.refs.iter().any(|(_, known)| *known == id)
            || able("allow-reachable-sha1-in-want")
            || able("allow-tip-sha1-in-want")
    }

    /// Every branch and tag, each commit once.
    fn tips(&self) -> Vec<ObjectId> {
        let named = |name: &str| name.starts_with("refs/heads/") || name.starts_with("refs/tags/");
        let tips: BTreeSet<ObjectId> = self.refs.iter().filter(|(name, _)| named(name)).map(|(_, id)| *id).collect();
        tips.into_iter().collect()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Good manners towards a server that is still there; one over HTTP isn't.
        let _ = gix::protocol::indicate_end_of_interaction(&mut self.transport, false);
    }
}

fn peeled(reference: &Ref) -> Option<(String, ObjectId)> {
    match reference {
        Ref::Peeled { full_ref_name, object, .. }
        | Ref::Direct { full_ref_name, object }
        | Ref::Symbolic { full_ref_name, object, .. } => Some((full_ref_name.to_string(), *object)),
        Ref::Unborn { .. } => None,
    }
}

/// What a server is able to, but for `deepen-relative`. gix asks for all that it knows, and servers take that one, in
/// the first version of the protocol, as a wish: they count the depth from what we have and send all of the history.
fn without_relative_depth(capabilities: Capabilities) -> Capabilities {
    let mut line = b"\0".to_vec();
    for capability in capabilities.iter().filter(|capability| capability.name() != "deepen-relative") {
        line.extend_from_slice(capability.name());
        if let Some(value) = capability.value() {
            line.push(b'=');
            line.extend_from_slice(value);
        }
        line.push(b' ');
    }
    Capabilities::from_bytes(line.trim_ascii_end()).map_or(capabilities, |(capabilities, _)| capabilities)
}

/// Only the commit itself, without what came before it.
fn newest() -> Shallow {
    Shallow::DepthAtRemote(NonZeroU32::MIN)
}

/// Tells the server in one round what to send, and what we have already.
struct Negotiation<'a> {
    wants: &'a [ObjectId],
    have: Option<ObjectId>,
}

impl Negotiate for Negotiation<'_> {
    fn mark_complete_and_common_ref(&mut self) -> gix::Result<Action> {
        Ok(Action::MustNegotiate { remote_ref_target_known: Vec::new() })
    }

    fn add_wants(&mut self, arguments: &mut Arguments, _known: &[bool]) -> bool {
        for id in self.wants {
            arguments.want(id);
        }
        !self.wants.is_empty()
    }

    fn one_round(
        &mut self,
        _state: &mut one_round::State,
        arguments: &mut Arguments,
        _previous: Option<&Response>,
    ) -> gix::Result<(Round, bool)> {
        if let Some(id) = self.have {
            arguments.have(id);
        }
        let haves = usize::from(self.have.is_some());
        let round = Round {
            haves_sent: haves,
            in_vain: 0,
            haves_to_send: haves,
            previous_response_had_at_least_one_in_common: false,
        };
        Ok((round, true))
    }
}

/// The files of one commit.
struct GitTree {
    repo: Repository,
    root: ObjectId,
    name: String,
    /// What to remove when an object in it turns out to be broken, so that the next run makes it anew.
    cache: Option<PathBuf>,
}

impl GitTree {
    /// The tree of the commit `id`; an error when part of it is missing.
    fn new(repo: Repository, id: ObjectId, git: &Git, cache: Option<PathBuf>) -> gix::Result<Self> {
        let root = repo.find_commit(id)?.tree_id()?.detach();
        let tree = Self { repo, root, name: git.name.clone(), cache };
        tree.walk(|_, entry| {
            if entry.mode().is_commit() || tree.repo.has_object(entry.oid()) {
                return Ok(());
            }
            Err(gix::error::ErrorExt::raise(gix::error::message!("object {} is missing", entry.oid())))
        })?;
        Ok(tree)
    }

    /// Shows every entry that isn't a tree, with the path of its parent, which ends in `/` or is empty.
    fn walk(
        &self,
        mut visit: impl FnMut(&[u8], gix::object::tree::EntryRef<'_, '_>) -> gix::Result<()>,
    ) -> gix::Result<()> {
        let mut left = FILES_MAX;
        let mut below = vec![(Vec::new(), self.root)];
        while let Some((prefix, id)) = below.pop() {
            for entry in self.repo.find_tree(id)?.iter() {
                let entry = entry?;
                left = left.checked_sub(1).ok_or_else(|| {
                    gix::error::ErrorExt::raise(gix::error::message!("more than {FILES_MAX} files and directories"))
                })?;
                if entry.mode().is_tree() {
                    below.push(([&prefix[..], entry.filename(), b"/"].concat(), entry.object_id()));
                } else {
                    visit(&prefix, entry)?;
                }
            }
        }
        Ok(())
    }

    fn broken(&self, why: &gix::Error) -> Error {
        let error = Error::new(code::GIT, format!("{}: an object can't be read", self.name)).because(first_words(why));
        match &self.cache {
            Some(cache) => {
                let _ = empty(cache);
                error.help("the local copy was broken and is removed: run kpull again to fetch it anew")
            }
            None => error.help("`git fsck` in the repository tells more"),
        }
    }
}

impl Tree for GitTree {
    fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let names = segments(path)?;
        let broken = |why: gix::Error| self.broken(&why);
        let mut id = self.root;
        let mut names = names.into_iter().peekable();
        while let Some(name) = names.next() {
            let tree = self.repo.find_tree(id).map_err(broken)?;
            let Some(entry) = tree.find_entry(name) else { return Ok(None) };
            id = entry.object_id();
            if entry.mode().is_commit() {
                return Err(Error::refused(code::GIT, format!("{}: {path} is in a submodule", self.name))
                    .because("that is another repository, of which this one has a link only")
                    .help("commit the files themselves: `git rm --cached` it, remove its .git and `git add` it; or take roles of other sites with `kpull vendor`"));
            }
            if names.peek().is_some() && !entry.mode().is_tree() {
                return Ok(None);
            }
            if names.peek().is_none() && !entry.mode().is_blob() {
                return Err(Error::refused(code::GIT, format!("{}: {path} is not a file", self.name))
                    .help("symlinks, submodules and directories are not read: commit the file itself"));
            }
        }
        // The header tells the size before anything is unpacked.
        let size = self.repo.find_header(id).map_err(broken)?.size();
        if size > max {
            return Err(too_big(&self.name, path, max));
        }
        let mut blob = self.repo.find_blob(id).map_err(broken)?;
        Ok(Some(blob.take_data()))
    }

    fn list(&self) -> Result<Option<Vec<String>>> {
        let mut found = Vec::new();
        self.walk(|prefix, entry| {
            // a submodule is no file, and whoever reads one is told
            if !entry.mode().is_commit() {
                found.push([prefix, entry.filename()].concat());
            }
            Ok(())
        })
        .map_err(|why| self.broken(&why))?;
        let mut paths = Vec::with_capacity(found.len());
        for path in found {
            paths.push(String::from_utf8(path).map_err(|why| {
                let name = String::from_utf8_lossy(why.as_bytes()).into_owned();
                Error::refused(code::GIT, format!("{}: the name of {name} is not UTF-8", self.name))
                    .help("rename or remove it")
            })?);
        }
        paths.sort();
        Ok(Some(paths))
    }
}

/// A command line for a shell that starts the ssh client, and marks what that says, and the server through it: a mark at the start of each
/// line, and nothing that a terminal acts on. The client's other arguments are the shell's.
fn with_marked_words(command: &str) -> String {
    format!("{{ {command} \"$@\" 2>&1 >&3 3>&- | LC_ALL=C sed -e 's/[^ -~]/?/g' -e 's/^/  | /' >&2; }} 3>&1")
}

/// What an error of gix comes from, in a line.
fn first_words(why: &gix::Error) -> String {
    let root = chain(why).last().map(ToString::to_string).unwrap_or_default();
    root.lines().next().unwrap_or_default().to_owned()
}

/// Carries git over our own HTTP client, so that everything about connections is the same for every source.
struct Smart {
    client: Client,
    home: reqwest::Url,
    /// Where a redirect has led.
    moved: Option<String>,
    max: u64,
    trouble: Trouble,
}

/// The content type of an answer, as the header line that gix looks for; a POST is sent when it is read.
struct Head {
    unsent: Option<Unsent>,
    text: Cursor<Vec<u8>>,
}

/// A POST whose body is still being written.
struct Unsent {
    smart: Smart,
    url: String,
    headers: HeaderMap,
    upload: Rc<RefCell<Vec<u8>>>,
    answer: Rc<RefCell<Option<Answer>>>,
}

type Answer = BufReader<Limited<Reply>>;

/// The body of an answer, once there is one.
struct Body {
    arrived: Option<Answer>,
    awaited: Rc<RefCell<Option<Answer>>>,
}

/// Collects the body of a POST.
struct Upload(Rc<RefCell<Vec<u8>>>);

impl Smart {
    /// Sends a request and takes only the answer of a git server to it.
    fn ask(&self, url: &str, headers: HeaderMap, body: Option<Vec<u8>>, answer: &str) -> Result<Reply> {
        let url =
            reqwest::Url::parse(url).context(code::GIT, || "reading the address that a git server gave".into())?;
        let method = if body.is_some() { reqwest::Method::POST } else { reqwest::Method::GET };
        let reply = self.client.send(&Request { url: &url, home: &self.home, headers, method, body })?;
        let shown = net::shown(&self.home);
        let help = "check the address; the server must speak git's smart HTTP protocol";
        if reply.kind != Kind::Ok {
            return Err(Error::new(code::GIT, format!("there is no git repository at {shown}")).help(help));
        }
        let expected = format!("application/x-git-upload-pack-{answer}");
        match reply.header(&CONTENT_TYPE) {
            Some(given) if given == expected => Ok(reply),
            given => Err(Error::new(code::GIT, format!("{shown} is not a git repository"))
                .because(format!("the answer is {}", given.unwrap_or("of no type")))
                .help(help)),
        }
    }

    fn limited(&self, reply: Reply) -> Answer {
        BufReader::new(Limited { inner: reply, left: self.max, max: self.max, trouble: self.trouble.clone() })
    }

    /// Keeps the failure for the one who asked, and tells gix that there is one.
    fn troubled(&self, error: Error) -> io::Error {
        let words = error.to_string();
        self.trouble.borrow_mut().get_or_insert(error);
        io::Error::other(words)
    }
}

impl http::Http for Smart {
    type Headers = Head;
    type ResponseBody = Body;
    type PostBody = Upload;

    fn get(
        &mut self,
        url: &str,
        _base: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> gix::Result<GetResponse<Head, Body>> {
        let reply = self
            .ask(url, header_map(headers), None, "advertisement")
            .and_then(|reply| {
                // What follows goes to where the answer came from.
                let mut base = reply.url().clone();
                let (path, query) = REFS.split_once('?').unwrap_or((REFS, ""));
                let trunk = base.path().strip_suffix(path).map(str::to_owned);
                match trunk {
                    Some(trunk) if base.query() == Some(query) => {
                        base.set_query(None);
                        base.set_path(trunk.trim_end_matches('/'));
                        self.moved = (base != self.home).then(|| base.into());
                        Ok(reply)
                    }
                    _ => Err(Error::new(code::GIT, format!("{} redirects to something else", net::shown(&self.home)))
                        .help("write the address of the repository itself")),
                }
            })
            .map_err(|error| gix::Error::from_error(self.troubled(error)))?;
        let text = Cursor::new(head_line(&reply));
        Ok(GetResponse {
            headers: Head { unsent: None, text },
            body: Body { arrived: Some(self.limited(reply)), awaited: Rc::default() },
        })
    }

    fn post(
        &mut self,
        url: &str,
        _base: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
        _body: PostBodyDataKind,
    ) -> gix::Result<PostResponse<Head, Body, Upload>> {
        let (upload, answer) = (Rc::default(), Rc::default());
        let smart = Self {
            client: self.client.clone(),
            home: self.home.clone(),
            moved: None,
            max: self.max,
            trouble: self.trouble.clone(),
        };
        let unsent = Unsent {
            smart,
            url: url.to_owned(),
            headers: header_map(headers),
            upload: Rc::clone(&upload),
            answer: Rc::clone(&answer),
        };
        Ok(PostResponse {
            post_body: Upload(upload),
            headers: Head { unsent: Some(unsent), text: Cursor::default() },
            body: Body { arrived: None, awaited: answer },
        })
    }

    fn configure(&mut self, _config: &dyn std::any::Any) -> gix::Result<()> {
        Ok(())
    }

    fn redirected_base_url(&self) -> Option<String> {
        self.moved.clone()
    }
}

fn head_line(reply: &Reply) -> Vec<u8> {
    format!("content-type: {}\n", reply.header(&CONTENT_TYPE).unwrap_or_default()).into_bytes()
}

fn header_map(lines: impl IntoIterator<Item = impl AsRef<str>>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some((name, value)) = line.as_ref().split_once(':') else { continue };
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value.trim())) {
            headers.append(name, value);
        }
    }
    headers
}

impl Head {
    /// Sends what is unsent.
    fn arrive(&mut self) -> io::Result<()> {
        let Some(unsent) = self.unsent.take() else { return Ok(()) };
        let body = unsent.upload.take();
        let reply = unsent
            .smart
            .ask(&unsent.url, unsent.headers, Some(body), "result")
            .map_err(|error| unsent.smart.troubled(error))?;
        self.text = Cursor::new(head_line(&reply));
        unsent.answer.replace(Some(unsent.smart.limited(reply)));
        Ok(())
    }
}

impl Read for Head {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.arrive()?;
        self.text.read(buf)
    }
}

impl BufRead for Head {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.arrive()?;
        self.text.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.text.consume(amount);
    }
}

impl Read for Body {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buf)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Body {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.arrived.is_none() {
            self.arrived = self.awaited.take();
        }
        self.arrived.as_mut().map_or(Ok(&[]), BufRead::fill_buf)
    }

    fn consume(&mut self, amount: usize) {
        if let Some(arrived) = &mut self.arrived {
            arrived.consume(amount);
        }
    }
}

impl Write for Upload {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Tells a gauge what is read.
struct Gauged<R> {
    inner: R,
    gauge: Gauge,
}

impl<R: Read> Read for Gauged<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        self.gauge.receive(count as u64);
        Ok(count)
    }
}

/// Ends with an error, not silently, where more than `max` bytes come; keeps that and every other failure.
struct Limited<R> {
    inner: R,
    left: u64,
    max: u64,
    trouble: Trouble,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let keep = |error: Error| {
            let words = error.to_string();
            self.trouble.borrow_mut().get_or_insert(error);
            io::Error::other(words)
        };
        match self.inner.read(buf) {
            Ok(read) => match self.left.checked_sub(read as u64) {
                Some(left) => {
                    self.left = left;
                    Ok(read)
                }
                None => Err(keep(
                    Error::new(code::GIT, format!("the git server sends more than {} bytes", self.max))
                        .help("keep big files out of the site: an artifact belongs into artifacts.toml"),
                )),
            },
            Err(why) if why.get_ref().is_some_and(|inner| inner.is::<Error>()) => Err(keep(net::from_io(why))),
            Err(why) => Err(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;
    use crate::net::testing::{Answer as Reply, Authority, Server, git, git_backend, git_command};

    /// A repository with one commit on `main`, and a clone-like place for the cache beside it.
    struct Fixture {
        dir: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let fixture = Self { dir: tempfile::tempdir().unwrap() };
            git(fixture.dir.path(), &["init", "-q", "-b", "main", "site"]);
            fixture.commit("release.toml", "first");
            fixture
        }

        fn site(&self) -> PathBuf {
            self.dir.path().join("site")
        }

        fn cache(&self) -> PathBuf {
            self.dir.path().join("cache/nested")
        }

        fn git(&self, arguments: &[&str]) -> String {
            git(&self.site(), arguments)
        }

        fn commit(&self, path: &str, text: &str) -> String {
            let path = self.site().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self.git(&["add", "-A"]);
            self.git(&["commit", "-q", "--allow-empty", "-m", "a change"]);
            self.git(&["rev-parse", "HEAD"])
        }

        fn serve(&self) -> Server {
            Server::plain(git_backend(self.dir.path().to_path_buf()))
        }

        fn source(&self, toml: &str) -> Git {
            let config: Config = toml::from_str(toml).unwrap();
            config.check().unwrap();
            Git::new(config.git.as_ref().unwrap(), &config, &config.net().load().unwrap(), &self.cache()).unwrap()
        }

        fn over(&self, server: &Server, more: &str) -> Git {
            self.source(&format!("git = '{}'\nretries = 1\n{more}", server.url("site")))
        }
    }

    fn news(source: &mut Git, mark: Option<&str>) -> (Box<dyn Tree>, String) {
        match source.poll(mark).unwrap() {
            Poll::News(tree, mark) => (tree, mark),
            Poll::Unchanged => panic!("no news"),
        }
    }

    fn release(tree: &dyn Tree) -> String {
        String::from_utf8(tree.read("release.toml", 100).unwrap().unwrap()).unwrap()
    }

    fn problem(source: &mut Git) -> Error {
        source.poll(None).err().unwrap()
    }

    #[test]
    fn an_unchanged_poll_is_one_request() {
        let fixture = Fixture::new();
        let server = fixture.serve();
        let mut source = fixture.over(&server, "");
        let (tree, mark) = news(&mut source, None);
        assert_eq!(release(&*tree), "first");
        let before = server.seen().len();
        assert!(matches!(source.poll(Some(&mark)).unwrap(), Poll::Unchanged));
        let seen = server.seen();
        assert_eq!(seen.len(), before + 1);
        assert_eq!((seen[before].method.as_str(), seen[before].path.as_str()), ("GET", "/site/info/refs"));
    }

    #[test]
    fn a_push_is_news_and_costs_two_requests() {
        let fixture = Fixture::new();
        let server = fixture.serve();
        let mut source = fixture.over(&server, "branch = 'main'");
        let (_, mark) = news(&mut source, None);
        let id = fixture.commit("roles/etcd/role.toml", "role");
        let before = server.seen().len();
        let (tree, mark) = news(&mut source, Some(&mark));
        assert_eq!(mark, id);
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
        let (_, mark) = news(&mut source, None);
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
        let (tree, _) = news(&mut source, Some(&mark));
        assert_eq!(release(&*tree), "second");
        assert!(size() < first + 2000, "{} after {first}", size());
        let repo = gix::open(fixture.cache()).unwrap();
        let oldest = fixture.git(&["rev-list", "--max-parents=0", "HEAD"]);
        assert!(!repo.has_object(ObjectId::from_hex(oldest.as_bytes()).unwrap()));
    }

    #[test]
    fn contents_that_come_back_are_fetched_again() {
        let fixture = Fixture::new();
        fixture.commit("release.toml", "second");
        let server = fixture.serve();
        let mut source = fixture.over(&server, "");
        let (_, mark) = news(&mut source, None);
        // The server's history has this blob, but the cache never had it.
        fixture.commit("release.toml", "first");
        let (tree, _) = news(&mut source, Some(&mark));
        assert_eq!(release(&*tree), "first");
    }

    #[test]
    fn a_rewritten_history_is_followed() {
        let fixture = Fixture::new();
        fixture.commit("release.toml", "second");
        let server = fixture.serve();
        let mut source = fixture.over(&server, "");
        let (_, mark) = news(&mut source, None);
        fixture.git(&["reset", "-q", "--hard", "HEAD^"]);
        fixture.git(&["commit", "-q", "--amend", "-m", "rewritten"]);
        let (tree, after) = news(&mut source, Some(&mark));
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
        let (tree, mark) = news(&mut source, None);
        assert_eq!((release(&*tree).as_str(), mark.as_str()), ("first", first.as_str()));
        assert_eq!(server.seen().len(), 2);
        assert!(matches!(source.poll(Some(&mark)).unwrap(), Poll::Unchanged));
        assert_eq!(release(&*news(&mut source, None).0), "first");
        assert_eq!(server.seen().len(), 2, "a commit that is there already needs no request");
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
            let said = error.to_string();
            assert!(
                said.ends_with(
                    "has objects named by SHA-256: kpull reads repositories with the object format sha1 only"
                ),
                "{said}"
            );
            assert!(error.advice().unwrap_or_default().contains("`git init --object-format=sha1`"), "{said}");
        }
        let config: Config = toml::from_str(&format!("git = '{path}'\ncommit = '{id}'")).unwrap();
        assert!(config.check().unwrap_err().to_string().contains("with objects named by SHA-256"));
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
        assert_eq!(error.advice(), Some("it has no tag at all"));
    }

    #[test]
    fn an_empty_repository_and_something_else_than_a_repository_say_so() {
        let fixture = Fixture::new();
        git(fixture.dir.path(), &["init", "-q", "empty"]);
        let server = fixture.serve();
        let error = problem(&mut fixture.source(&format!("git = '{}'", server.url("empty"))));
        assert!(error.to_string().ends_with("is empty"), "{error}");
        let error = problem(&mut fixture.source(&format!("git = '{}'", server.url("none"))));
        assert!(error.to_string().starts_with("there is no git repository at http://"), "{error}");
        let page = Server::plain(|_| Reply::new(200, "<html>").with("Content-Type", "text/html"));
        let error = problem(&mut fixture.source(&format!("git = '{}'", page.url("site"))));
        assert!(error.to_string().ends_with("is not a git repository: the answer is text/html"), "{error}");
        let error = problem(&mut fixture.source("git = '/dev'"));
        assert!(error.to_string().starts_with("git /dev is not a git repository"), "{error}");
    }

    #[test]
    fn links_and_submodules_are_listed_but_not_read() {
        let fixture = Fixture::new();
        std::os::unix::fs::symlink("/etc/passwd", fixture.site().join("link")).unwrap();
        let id = fixture.git(&["rev-parse", "HEAD"]);
        fixture.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{id},module")]);
        fixture.git(&["add", "link"]);
        fixture.git(&["commit", "-q", "-m", "odd things"]);
        let server = fixture.serve();
        let (tree, _) = news(&mut fixture.over(&server, ""), None);
        assert_eq!(tree.list().unwrap().unwrap(), ["link", "release.toml"]);
        let error = tree.read("link", 100).unwrap_err();
        assert!(error.to_string().ends_with("link is not a file"), "{error}");
        for path in ["module", "module/x"] {
            let error = tree.read(path, 100).unwrap_err().to_string();
            assert!(error.contains(&format!("{path} is in a submodule: ")), "{error}");
        }
        for path in ["link/x", "release.toml/x"] {
            assert!(tree.read(path, 100).unwrap().is_none(), "{path}");
        }
        assert!(fixture.cache().exists());
        assert!(tree.read("none", 100).unwrap().is_none());
        let error = tree.read("../release.toml", 100).unwrap_err();
        assert_eq!(error.to_string(), "`../release.toml` is not a path inside a site");
    }

    #[test]
    fn a_file_is_not_read_when_it_is_too_big() {
        let fixture = Fixture::new();
        let (tree, _) = news(&mut fixture.source(&format!("git = 'file://{}'", fixture.site().display())), None);
        assert!(tree.read("release.toml", 5).unwrap().is_some());
        let error = tree.read("release.toml", 4).unwrap_err();
        assert!(error.to_string().ends_with("release.toml has more than 4 bytes"), "{error}");
    }

    #[test]
    fn a_server_that_sends_too_much_is_cut_off() {
        let fixture = Fixture::new();
        let noise: String = (0..20_000_u32).map(|n| format!("{}", n.wrapping_mul(2_654_435_761))).collect();
        fixture.commit("big", &noise);
        let server = fixture.serve();
        let mut source = fixture.over(&server, "");
        source.received_max = 10_000;
        let error = problem(&mut source);
        assert_eq!(error.to_string(), "the git server sends more than 10000 bytes");
    }

    #[test]
    fn a_small_pack_that_unpacks_to_very_much_is_refused() {
        let fixture = Fixture::new();
        // as deltas of one another they would be small
        fixture.git(&["config", "pack.window", "0"]);
        for name in ["a", "b", "c", "d"] {
            fs::write(fixture.site().join(name), format!("{name}{}", "0".repeat(48 << 20))).unwrap();
        }
        fixture.commit("release.toml", "second");
        let server = fixture.serve();
        let error = problem(&mut fixture.over(&server, ""));
        let what = format!("git {} sends a pack that unpacks to more than 200 times its size", server.url("site"));
        assert_eq!((error.to_string(), error.exit_code()), (what, crate::Exit::Refused));
        assert_eq!(fs::read_dir(fixture.cache().join("objects/pack")).unwrap().count(), 0);
        // the next release is fetched as if nothing had been
        fixture.git(&["rm", "-q", "a", "b", "c", "d"]);
        fixture.commit("release.toml", "third");
        assert_eq!(release(&*news(&mut fixture.over(&server, ""), None).0), "third");
    }

    #[test]
    fn a_tree_that_claims_too_many_files_is_refused() {
        let fixture = Fixture::new();
        let mut tree = fixture.git(&["rev-parse", "HEAD^{tree}"]);
        // Twelve trees of ten names each: a trillion files in a kilobyte.
        for _ in 0..12 {
            let lines: String = (0..10).map(|n| format!("040000 tree {tree}\td{n}\n")).collect();
            let mut child = git_command(&fixture.site())
                .arg("mktree")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
            tree = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned();
        }
        let bomb = fixture.git(&["commit-tree", "-m", "bomb", &tree]);
        fixture.git(&["update-ref", "refs/heads/main", &bomb]);
        let server = fixture.serve();
        let error = problem(&mut fixture.over(&server, ""));
        assert!(error.to_string().ends_with("more than 100000 files and directories"), "{error}");
    }

    #[test]
    fn a_broken_cache_is_made_anew() {
        let fixture = Fixture::new();
        let server = fixture.serve();
        let (_, mark) = news(&mut fixture.over(&server, ""), None);
        fixture.commit("other", "more");
        for entry in fs::read_dir(fixture.cache().join("objects/pack")).unwrap() {
            let path = entry.unwrap().path();
            fs::remove_file(&path).unwrap();
            fs::write(&path, "rubbish").unwrap();
        }
        let (tree, mark) = news(&mut fixture.over(&server, ""), Some(&mark));
        assert_eq!(release(&*tree), "first");
        fixture.commit("other", "even more");
        fs::write(fixture.cache().join("config"), "[[[").unwrap();
        fs::write(fixture.cache().join("HEAD"), "").unwrap();
        let (tree, _) = news(&mut fixture.over(&server, ""), Some(&mark));
        assert_eq!(release(&*tree), "first");
    }

    #[test]
    fn the_cache_stays_small_over_many_fetches() {
        let fixture = Fixture::new();
        let server = fixture.serve();
        let mut source = fixture.over(&server, "");
        let (_, mut mark) = news(&mut source, None);
        for n in 0..PACK_FILES_MAX / 2 + 2 {
            fixture.commit("release.toml", &n.to_string());
            let (tree, now) = news(&mut source, Some(&mark));
            assert_eq!(release(&*tree), n.to_string());
            mark = now;
        }
        assert!(source.pack_files() < PACK_FILES_MAX, "{}", source.pack_files());
    }

    #[test]
    fn a_server_in_trouble_is_asked_again() {
        let fixture = Fixture::new();
        let answer = git_backend(fixture.dir.path().to_path_buf());
        let asked = std::sync::atomic::AtomicUsize::new(0);
        let server = Server::plain(move |request| match asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => Reply::new(503, "").with("Retry-After", "0"),
            _ => answer(request),
        });
        assert_eq!(release(&*news(&mut fixture.over(&server, ""), None).0), "first");
    }

    #[test]
    fn https_authorities_and_credentials_are_those_of_every_source() {
        let fixture = Fixture::new();
        let authority = Authority::new();
        let answer = git_backend(fixture.dir.path().to_path_buf());
        let server =
            Server::secure(authority.server("127.0.0.1", None), move |request| match request.header("authorization") {
                Some("Bearer hunter2") => answer(request),
                _ => Reply::new(401, ""),
            });
        let token = fixture.dir.path().join("token");
        fs::write(&token, "hunter2\n").unwrap();
        let ca = format!("ca = '{}'", authority.file().display());
        let error = problem(&mut fixture.over(&server, ""));
        assert!(error.advice().unwrap().contains("ca = \"FILE\""), "{error}");
        let error = problem(&mut fixture.over(&server, &ca));
        assert!(error.advice().unwrap().starts_with("authentication failed"), "{error}");
        let mut source = fixture.over(&server, &format!("{ca}\nbearer = '{}'", token.display()));
        assert_eq!(release(&*news(&mut source, None).0), "first");
    }

    #[test]
    fn a_repository_that_moved_is_followed_without_the_credentials() {
        let fixture = Fixture::new();
        let there = fixture.serve();
        let to = there.url("site");
        let here = Server::plain(move |request| {
            Reply::new(301, "").with("Location", format!("{to}/info/refs?{}", request.query))
        });
        let token = fixture.dir.path().join("token");
        fs::write(&token, "hunter2").unwrap();
        let mut source = fixture.over(&here, &format!("bearer = '{}'", token.display()));
        assert_eq!(release(&*news(&mut source, None).0), "first");
        assert_eq!(here.seen()[0].header("authorization"), Some("Bearer hunter2"));
        assert_eq!(there.seen().len(), 2);
        assert!(there.seen().iter().all(|request| request.header("authorization").is_none()));
    }

    #[test]
    fn a_repository_on_this_host_is_read_in_place() {
        let fixture = Fixture::new();
        let mut source = fixture.source(&format!("git = '{}'", fixture.site().display()));
        let (tree, mark) = news(&mut source, None);
        assert_eq!(release(&*tree), "first");
        assert!(matches!(source.poll(Some(&mark)).unwrap(), Poll::Unchanged));
        fixture.commit("release.toml", "second");
        assert_eq!(release(&*news(&mut source, Some(&mark)).0), "second");
        assert!(!fixture.cache().exists());
    }

    #[test]
    fn over_ssh_the_remote_command_is_gits_own() {
        let fixture = Fixture::new();
        // In the place of the ssh client: runs what it was told to, here.
        let stand_in = fixture.dir.path().join("ssh");
        let log = fixture.dir.path().join("log");
        let script = format!(
            "echo \"$*\" >> '{}'\nwhile [ $# -gt 2 ]; do shift; done\neval \"git upload-pack $2\"\n",
            log.display()
        );
        fs::write(&stand_in, script).unwrap();
        let mut source = fixture.source(&format!("git = 'ssh://git@localhost:22{}'", fixture.site().display()));
        let Remote::Ssh { command, .. } = &mut source.remote else { panic!("not ssh") };
        let options = command.strip_prefix("ssh ").unwrap().to_owned();
        *command = format!("sh {} {options}", stand_in.display());
        let (tree, mark) = news(&mut source, None);
        assert_eq!(release(&*tree), "first");
        assert!(matches!(source.poll(Some(&mark)).unwrap(), Poll::Unchanged));
        fixture.commit("release.toml", "second");
        assert_eq!(release(&*news(&mut source, Some(&mark)).0), "second");
        let log = fs::read_to_string(log).unwrap();
        assert_eq!(log.lines().count(), 3);
        assert!(log.contains("BatchMode=yes") && log.contains("git@localhost git-upload-pack"), "{log}");
    }

    #[test]
    fn a_host_that_ssh_cannot_reach_is_named_with_advice() {
        let fixture = Fixture::new();
        let mut source = fixture.source("git = 'git@host:site.git'\nretries = 0");
        let Remote::Ssh { command, .. } = &mut source.remote else { panic!("not ssh") };
        *command = "false".into();
        let error = problem(&mut source);
        assert!(error.to_string().starts_with("git git@host:site.git can't be reached over ssh"), "{error}");
        let Remote::Ssh { command, retries, .. } = &mut source.remote else { panic!("not ssh") };
        // Not tried again: the pauses would be minutes.
        *retries = 100;
        *command = "echo 'git@host: Permission denied (publickey).' >&2; false".into();
        let error = problem(&mut source);
        assert!(error.to_string().ends_with("permission denied"), "{error}");
        assert!(error.advice().unwrap().contains("BatchMode"));
    }
}
