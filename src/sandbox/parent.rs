//! The parent's side: a source and downloads whose bytes come from the child. What it answers is bounded in time and size,
//! and checked like anything from the network.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid, getgid, getuid};
use reqwest::Url;
use zeroize::Zeroizing;

use super::COMMAND;
use super::confine::{Confinement, has_landlock};
use super::need::{Need, demand};
use super::wire::{self, Answer, Job, MARK_MAX, Request, Setup, Tag};
use crate::document::Tree;
use crate::error::{Context, Error, Result, code, visible};
use crate::host::accounts::Accounts;
use crate::host::process::{self, not_started};
use crate::host::root::{Access, FileType, Root};
use crate::host::web;
use crate::net::{self, Conditions, Download, Get, Options, Pace};
use crate::read;
use crate::source::{self, Config, Poll, Reach, Source};

/// How long git may take for all that it is asked in a run: what it fetches comes before its first answer.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a web server has for all that it is asked in a run, and for the beginning of a download, at least.
const BEGIN: Duration = Duration::from_secs(120);
/// How much longer it has for each file that it is asked for; how much for the bytes, [`net::STEADY`] says.
const FILE: Duration = Duration::from_secs(1);
/// How much longer than what it does a child may take that asks a web server.
const SLACK: Duration = Duration::from_secs(5);
/// The most bytes of all the names that a source has.
const NAMES_MAX: u64 = 32 << 20;
/// How much a child may be ahead, in bytes.
const PIPE: i32 = 1 << 20;
/// How much of a child's last words is read, in bytes.
const WORDS_MAX: u64 = 4 << 10;
/// Variables that a confined child gets: proxies, language, and whom the system trusts.
const VARIABLES: &[&str] = &[
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "LANG",
    "TZ",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];
/// Variables that ssh gets besides: where it is, who asks, and the agent that has the keys.
const OF_SSH: &[&str] = &["PATH", "HOME", "USER", "LOGNAME", "SSH_AUTH_SOCK"];
/// The user that the child becomes if the host has it; [`NOBODY`] otherwise.
const USER: &str = "kpull";
const NOBODY: (u32, u32) = (65534, 65534);

/// Opens the source that `config` describes, like [`source::open`]; what talks to the network for it is a child. A source
/// on this host has none. Over ssh the child keeps its rights, since ssh needs root's keys and programs of its own: there
/// it only bounds the time. A poll fails where the sandbox lacks what is `required` of it.
pub fn open(config: &Config, cache: &Path, required: &[Need]) -> Result<Box<dyn Source>> {
    config.check()?;
    let confinement = match config.reach()? {
        Reach::Local => return source::open(config, cache),
        Reach::Ssh => None,
        Reach::Http => Some(Confinement { user: user()?, writable: vec![".".into()] }),
    };
    let owner = confinement.as_ref().and_then(|confinement| confinement.user);
    let cache = Cache { path: cache.to_owned(), owner: owner.unwrap_or((getuid().as_raw(), getgid().as_raw())) };
    let (name, required) = (source::name(config)?, required.to_vec());
    Ok(Box::new(Remote { name, config: config.clone(), confinement, cache, required }))
}

/// How long a server has that is not asked for anything large: as long as all its tries take, and the pauses between.
fn limit(options: &Options) -> Duration {
    BEGIN.max(options.patience().saturating_mul(options.tries_again().saturating_add(3)))
}

/// Talks to web servers through a child, which is started for the first question and kept for more to the same server: what one
/// server has taken over sees no other's answers and keys. Each download has a child of its own.
pub struct Web {
    options: Options,
    required: Vec<Need>,
    kept: RefCell<Option<Worker>>,
}

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Web").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Web {
    /// Nobody is asked yet. `required` is what the sandbox must not lack.
    pub fn new(options: Options, required: &[Need]) -> Self {
        Self { options, required: required.to_vec(), kept: RefCell::default() }
    }

    /// Posts JSON.
    pub fn post(&self, url: &str, body: String) -> Result<()> {
        self.tell(url, &Request::Post { url: url.to_owned(), body })
    }

    /// Puts a text at an address.
    pub fn put(&self, url: &Url, body: String) -> Result<()> {
        self.tell(url.as_str(), &Request::Put { url: url.to_string(), body })
    }

    /// Sends something that is answered by nothing, which has the time of every try that the options allow, and ten seconds for the
    /// pauses.
    fn tell(&self, url: &str, request: &Request) -> Result<()> {
        let limit = self.options.patience() * (self.options.tries_again() + 1) + Duration::from_secs(10);
        match self.put_question(&net::server_of(url), request, limit, 0)? {
            (Answer::Nothing, _) => Ok(()),
            _ => Err(self.nonsense()),
        }
    }

    /// The small file at an address, of `max` bytes at most; `None` where there is nothing. Fails by `until`, and is refused where there
    /// is more than that.
    pub fn read(&self, url: &str, max: u64, until: Instant) -> Result<Option<Vec<u8>>> {
        let within = until.saturating_duration_since(Instant::now());
        let request = Request::Fetch { url: url.to_owned(), max, within };
        match self.put_question(&net::server_of(url), &request, within.saturating_add(SLACK), max)? {
            (Answer::Nothing, _) => Ok(None),
            (Answer::Body { .. }, body) => Ok(Some(body)),
            _ => Err(self.nonsense()),
        }
    }

    /// Puts a question to the child that asks `whom`, and takes its answer with the body that belongs to it.
    fn put_question(&self, whom: &str, request: &Request, limit: Duration, most: u64) -> Result<(Answer, Vec<u8>)> {
        let mut kept = self.kept.borrow_mut();
        // one that did not answer as it should is not asked again
        let known = kept.take().filter(|worker| worker.name == whom && worker.ended.is_none());
        let worker = match known {
            Some(known) => kept.insert(known),
            None => kept.insert(Worker::without_files(whom, &self.options, &self.required, limit)?),
        };
        worker.allow(limit);
        let answer = worker.ask(request)?;
        let body = match answer {
            Answer::Replied { .. } | Answer::Body { .. } => worker.body(most)?.ok_or_else(|| worker.nonsense())?,
            _ => Vec::new(),
        };
        Ok((answer, body))
    }

    /// Ends the child, whose answer does not belong to the question.
    fn nonsense(&self) -> Error {
        let kept = self.kept.borrow_mut().take();
        kept.map_or_else(|| Error::new(code::SANDBOX, "nobody was asked"), |mut worker| worker.nonsense())
    }
}

impl web::Ask for Web {
    fn ask(&self, question: &web::Question) -> Result<web::Reply, String> {
        let (whom, limit) = (question.url.origin().ascii_serialization(), question.limit + SLACK);
        let request = Request::Ask(Box::new(question.clone()));
        match self.put_question(&whom, &request, limit, question.most as u64).map_err(|why| why.to_string())? {
            (Answer::Replied { status, broken }, body) => {
                Ok(web::Reply { status, body, broken: broken.map(|why| visible(&wire::short(&why))) })
            }
            _ => Err(self.nonsense().to_string()),
        }
    }

    fn connect(&self, target: &str, limit: Duration) -> Result<(), String> {
        let request = Request::Connect { target: target.to_owned(), limit };
        match self.put_question(target, &request, limit + SLACK, 0).map_err(|why| why.to_string())? {
            (Answer::Nothing, _) => Ok(()),
            _ => Err(self.nonsense().to_string()),
        }
    }
}

/// How the process that talks to the network is confined on this host, in words.
pub fn describe() -> Result<String> {
    let who = match user()? {
        Some((uid, _)) => format!("user {uid}, "),
        None => String::new(),
    };
    let files = if has_landlock() { "Landlock" } else { "no Landlock in this kernel" };
    Ok(format!("{who}{files}, seccomp"))
}

/// The user that a child becomes; `None` when this isn't root, or a root that has no other users.
pub(super) fn user() -> Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let root = Root::open(Path::new("/"))?;
    let accounts = Accounts::read(&root)?;
    let own = accounts.local(USER).map(|login| (login.uid, login.gid)).filter(|(uid, gid)| *uid != 0 && *gid != 0);
    let (uid, gid) = own.unwrap_or(NOBODY);
    // root of a user namespace, of an image that is built for instance
    let map = |name: &str| read::kernel(&format!("/proc/self/{name}")).unwrap_or_default();
    let can = read::has_number(&map("uid_map"), uid)
        && read::has_number(&map("gid_map"), gid)
        && map("setgroups").trim() != "deny";
    Ok(can.then_some((uid, gid)))
}

/// A source whose bytes come from a child, which is started when it is polled.
struct Remote {
    name: String,
    config: Config,
    confinement: Option<Confinement>,
    cache: Cache,
    required: Vec<Need>,
}

impl Source for Remote {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn poll(&mut self, mark: Option<&str>) -> Result<Poll> {
        // a commit never changes: no need to ask anybody
        if let (Some(commit), Some(mark)) = (&self.config.commit, mark)
            && commit.eq_ignore_ascii_case(mark)
        {
            return Ok(Poll::Unchanged);
        }
        demand(&self.required)?;
        self.cache.prepare()?;
        let options = self.config.net();
        let limit = if self.config.git.is_some() { PATIENCE.max(limit(&options)) } else { limit(&options) };
        let setup = Setup {
            job: Job::Source(Box::new(self.config.clone())),
            net: options.load()?,
            confinement: self.confinement.clone(),
        };
        let mut worker = Worker::start(&self.name, &setup, &self.cache.path, limit)?;
        match worker.ask(&Request::Poll { mark: mark.map(str::to_owned) })? {
            Answer::Unchanged if mark.is_some() => Ok(Poll::Unchanged),
            Answer::News { mark } if mark.len() <= MARK_MAX => {
                if worker.is_open {
                    log::warn!(
                        "{}: this kernel has no Landlock: only its user keeps what talks to it from files",
                        self.name
                    );
                }
                let tree = RemoteTree { name: self.name.clone(), worker: RefCell::new(worker) };
                Ok(Poll::News(Box::new(tree), mark))
            }
            _ => Err(worker.nonsense()),
        }
    }
}

/// Where the cache of a source is, and whose it has to be.
struct Cache {
    path: PathBuf,
    owner: (u32, u32),
}

impl Cache {
    /// Makes the directory, empty, unless it is there as it has to be. Everything above it is root's alone, so that
    /// nobody moves it meanwhile; what is in it is not looked at, and no link in it is followed.
    fn prepare(&self) -> Result<()> {
        let path =
            std::path::absolute(&self.path).context(code::SANDBOX, || format!("can't find {}", self.path.display()))?;
        let root = Root::open(Path::new("/"))?.private(path.parent().unwrap_or(Path::new("/")))?;
        let name = Path::new("/").join(path.file_name().unwrap_or_default());
        let (uid, gid) = self.owner;
        match root.meta(&name)? {
            Some(meta) if meta.what == FileType::Directory && meta.uid == uid && meta.mode == 0o700 => return Ok(()),
            Some(_) => root.remove_all(&name)?,
            None => {}
        }
        let (uid, gid) = if geteuid().is_root() { (Some(uid), Some(gid)) } else { (None, None) };
        root.make_directory(&name, Access { mode: 0o700, uid, gid })
    }
}

/// The last news of a source, as the child hands it out.
struct RemoteTree {
    name: String,
    worker: RefCell<Worker>,
}

impl RemoteTree {
    /// Asks for a body; `None` when there is none.
    fn whole(&self, request: &Request, max: u64, what: &str) -> Result<Option<Vec<u8>>> {
        let mut worker = self.worker.borrow_mut();
        worker.allow_more(FILE);
        match worker.ask(request)? {
            Answer::Nothing => return Ok(None),
            Answer::Body { .. } => {}
            _ => return Err(worker.nonsense()),
        }
        worker.body(max)?.map(Some).ok_or_else(|| source::too_big(&self.name, what, max))
    }
}

impl Tree for RemoteTree {
    fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
        self.whole(&Request::Read { path: path.to_owned(), max }, max, path)
    }

    fn list(&self) -> Result<Option<Vec<String>>> {
        let Some(bytes) = self.whole(&Request::List, NAMES_MAX, "the list of its files")? else { return Ok(None) };
        if bytes.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let names = String::from_utf8(bytes).map_err(|_| self.worker.borrow_mut().nonsense())?;
        Ok(Some(names.split('\0').map(str::to_owned).collect()))
    }
}

impl Get for Web {
    fn get(&self, url: &str, conditions: &Conditions<'_>) -> Result<Download> {
        let patience = self.options.patience();
        let (parsed, limit) = (net::read(url)?, limit(&self.options));
        let name = net::shown(&parsed);
        let mut worker = Worker::without_files(&name, &self.options, &self.required, limit)?;
        let (url, state) = (url.to_owned(), conditions.state.map(str::to_owned));
        match worker.ask(&Request::Get { url, from: conditions.from, state })? {
            Answer::Body { kind, length, state } => {
                let state = state.filter(|state| state.len() <= MARK_MAX);
                let pace = Pace::new(patience);
                let frame = Zeroizing::default();
                let body = Box::new(Body { worker, frame, read: 0, ended: false, pace, patience, url: parsed });
                Ok(Download { kind, length, state, body })
            }
            _ => Err(worker.nonsense()),
        }
    }
}

/// The body of a download.
struct Body {
    worker: Worker,
    /// The present frame; an empty one ends the body.
    frame: Zeroizing<Vec<u8>>,
    /// How much of it is read.
    read: usize,
    ended: bool,
    pace: Pace,
    patience: Duration,
    url: Url,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read == self.frame.len() && !self.ended && !buffer.is_empty() {
            self.worker.allow(self.patience * 2);
            self.frame = self.worker.frame().map_err(io::Error::other)?;
            (self.read, self.ended) = (0, self.frame.is_empty());
            if !self.ended {
                self.pace.check(self.frame.len()).map_err(|why| io::Error::other(net::too_slow(&self.url, &why)))?;
            }
        }
        let count = self.frame.get(self.read..).unwrap_or_default().read(buffer)?;
        self.read += count;
        Ok(count)
    }
}

/// A child and the pipes to it. It ends when this is dropped, with all that it has started.
struct Worker {
    /// What it is asked about.
    name: String,
    child: Child,
    to: Pipe<ChildStdin>,
    from: BufReader<Pipe<ChildStdout>>,
    words: Option<ChildStderr>,
    limit: Duration,
    until: Rc<Cell<Instant>>,
    ended: Option<ExitStatus>,
    /// Whether only its user keeps it from files, where more should.
    is_open: bool,
}

impl Worker {
    /// Starts a child that has no file to read or write, for no longer than `limit`, unless the sandbox lacks what is `required`.
    fn without_files(name: &str, options: &Options, required: &[Need], limit: Duration) -> Result<Self> {
        demand(required)?;
        let confinement = Some(Confinement { user: user()?, writable: Vec::new() });
        Self::start(name, &Setup { job: Job::Web, net: options.load()?, confinement }, Path::new("/"), limit)
    }

    /// Starts a child in `directory`, which has `limit` for all that it is asked, and confines it.
    fn start(name: &str, setup: &Setup, directory: &Path, limit: Duration) -> Result<Self> {
        let mut command = process::ourselves(COMMAND);
        command.current_dir(directory).stdin(Stdio::piped()).stdout(Stdio::piped()).env_clear();
        command.envs(VARIABLES.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        match setup.confinement {
            Some(_) => command.stderr(Stdio::piped()),
            None => {
                let kept = OF_SSH.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
                command.envs(kept)
            }
        };
        let what = || format!("can't start the process that asks {name}");
        let mut child = command.spawn().map_err(|why| not_started(&what(), &why).or_help("is /proc mounted?"))?;
        let until = Rc::new(Cell::new(Instant::now() + limit));
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::new(code::SANDBOX, what()));
        };
        let words = child.stderr.take();
        let to = Pipe { inner: to, until: until.clone() };
        let from = BufReader::new(Pipe { inner: from, until: until.clone() });
        let mut worker =
            Self { name: name.to_owned(), child, to, from, words, limit, until, ended: None, is_open: false };
        for pipe in [worker.to.inner.as_fd(), worker.from.get_ref().inner.as_fd()] {
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context(code::SANDBOX, what)?;
        }
        // fewer turns for a long body; there may be no more room for large pipes
        let _ = fcntl(worker.from.get_ref().inner.as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE));
        wire::write_json(&mut worker.to, Tag::Request, setup).map_err(|why| worker.failed(why))?;
        match worker.hear()? {
            Answer::Ready(confined) => {
                worker.is_open = setup.confinement.is_some() && !confined.files;
                Ok(worker)
            }
            _ => Err(worker.nonsense()),
        }
    }

    /// Asks something and waits for the answer; one that tells of a failure is an error.
    fn ask(&mut self, request: &Request) -> Result<Answer> {
        wire::write_json(&mut self.to, Tag::Request, request).map_err(|why| self.failed(why))?;
        self.hear()
    }

    fn hear(&mut self) -> Result<Answer> {
        match wire::read_json(&mut self.from, Tag::Answer).map_err(|why| self.failed(why))? {
            Answer::Failed(fault) => Err(fault.into()),
            answer => Ok(answer),
        }
    }

    /// The next bytes of a body; none at its end.
    fn frame(&mut self) -> Result<Zeroizing<Vec<u8>>> {
        let (tag, payload) = wire::read(&mut self.from, &[Tag::Body, Tag::Answer]).map_err(|why| self.failed(why))?;
        if tag == Tag::Body {
            return Ok(payload);
        }
        match wire::parse(&payload).map_err(|why| self.failed(why))? {
            Answer::Failed(fault) => Err(fault.into()),
            _ => Err(self.nonsense()),
        }
    }

    /// All of a body; `None` when it has more than `max` bytes, which ends the child.
    fn body(&mut self, max: u64) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        loop {
            let frame = self.frame()?;
            if frame.is_empty() {
                return Ok(Some(bytes));
            }
            if (bytes.len() + frame.len()) as u64 > max {
                self.end();
                return Ok(None);
            }
            self.allow_more(Duration::from_secs(frame.len() as u64) / u32::try_from(net::STEADY).unwrap_or(u32::MAX));
            bytes.extend_from_slice(&frame);
        }
    }

    /// Gives it this long for the next answer.
    fn allow(&mut self, limit: Duration) {
        self.limit = limit;
        self.until.set(Instant::now() + limit);
    }

    /// Gives it so much longer than it has.
    fn allow_more(&mut self, time: Duration) {
        self.limit += time;
        self.until.set(self.until.get() + time);
    }

    /// An answer that doesn't belong to the question.
    fn nonsense(&mut self) -> Error {
        self.failed(io::Error::new(io::ErrorKind::InvalidData, "an answer does not belong to the question"))
    }

    /// Ends the child because of `why`, and says how it came to that.
    fn failed(&mut self, why: io::Error) -> Error {
        let name = self.name.clone();
        let gone = matches!(why.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe);
        if gone {
            self.wait_a_moment();
        }
        self.end();
        if why.kind() == io::ErrorKind::TimedOut {
            return Error::new(code::SANDBOX, format!("{name}: no end within {:?}", self.limit))
                .help("is the server stalling, or the connection too slow for what is to be fetched?");
        }
        let error = Error::new(code::SANDBOX, format!("{name}: the process that asks it failed"));
        if !gone {
            return error.because(why).help(
                "a hostile server may have taken it over; it had no rights, and nothing that it says is believed",
            );
        }
        let ended = self.ended.map_or_else(|| "it closed its pipe".to_owned(), |status| status.to_string());
        let error = error.because(match self.last_words() {
            words if words.is_empty() => ended,
            words => format!("{ended}: {words}"),
        });
        match self.ended.and_then(|status| status.signal()) {
            Some(nix::libc::SIGSYS) => error.help(
                "it asked the kernel for what it never needs and was killed for that: a hostile server may have taken it \
                 over; it had no rights, and nothing was changed",
            ),
            Some(nix::libc::SIGKILL) => error.help(process::KILLED),
            _ => error,
        }
    }

    /// Lets a child that has closed its pipe end by itself, so that it can be said how.
    fn wait_a_moment(&mut self) {
        for _ in 0..200 {
            if let Ok(Some(status)) = self.child.try_wait() {
                self.ended = Some(status);
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The last line of what it said about its own end.
    fn last_words(&mut self) -> String {
        let Some(words) = self.words.take() else { return String::new() };
        let mut bytes = Vec::new();
        // whoever still holds the other end is not waited for
        if fcntl(&words, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).is_ok() {
            let _ = words.take(WORDS_MAX).read_to_end(&mut bytes);
        }
        let text = String::from_utf8_lossy(&bytes);
        visible(text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default())
    }

    /// Kills it, and whatever it has started.
    fn end(&mut self) {
        if self.ended.is_none() {
            let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
            // one that was just started has no group of its own yet
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

/// One end of a pipe that is not waited for any longer than until a certain time.
struct Pipe<T> {
    inner: T,
    until: Rc<Cell<Instant>>,
}

impl<T: AsFd> Pipe<T> {
    /// Does `attempt` when the pipe is ready for it.
    fn when(&mut self, ready: PollFlags, mut attempt: impl FnMut(&mut T) -> io::Result<usize>) -> io::Result<usize> {
        loop {
            let left = self.until.get().saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // rounded up, so that it doesn't turn around for the last millisecond
            let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.inner.as_fd(), ready)], left) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
                Ok(_) => {}
                Err(errno) => return Err(errno.into()),
            }
            match attempt(&mut self.inner) {
                Err(why) if matches!(why.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                done => return done,
            }
        }
    }
}

impl<T: AsFd + Read> Read for Pipe<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.when(PollFlags::POLLIN, |inner| inner.read(buffer))
    }
}

impl<T: AsFd + Write> Write for Pipe<T> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.when(PollFlags::POLLOUT, |inner| inner.write(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::*;

    fn cache(path: &Path) -> Cache {
        Cache { path: path.join("cache/source-0"), owner: (getuid().as_raw(), getgid().as_raw()) }
    }

    #[test]
    fn a_cache_that_is_as_it_has_to_be_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        cache.prepare().unwrap();
        std::fs::write(cache.path.join("pack"), "x").unwrap();
        cache.prepare().unwrap();
        assert!(cache.path.join("pack").exists());
    }

    #[test]
    fn a_cache_that_others_can_look_into_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        cache.prepare().unwrap();
        std::fs::write(cache.path.join("pack"), "x").unwrap();
        std::fs::set_permissions(&cache.path, std::fs::Permissions::from_mode(0o755)).unwrap();
        cache.prepare().unwrap();
        assert!(!cache.path.join("pack").exists());
        assert_eq!(cache.path.metadata().unwrap().mode() & 0o7777, 0o700);
    }

    #[test]
    fn a_cache_that_is_deeper_than_there_may_be_open_files_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        cache.prepare().unwrap();
        let open = |at: &std::os::fd::OwnedFd, name: &str| {
            nix::fcntl::openat(at, name, OFlag::O_RDONLY, nix::sys::stat::Mode::empty()).unwrap()
        };
        let mut at = std::fs::File::open(&cache.path).unwrap().into();
        for _ in 0..3000 {
            nix::sys::stat::mkdirat(&at, "d", nix::sys::stat::Mode::S_IRWXU).unwrap();
            at = open(&at, "d");
        }
        std::fs::set_permissions(&cache.path, std::fs::Permissions::from_mode(0o755)).unwrap();
        cache.prepare().unwrap();
        assert_eq!(std::fs::read_dir(&cache.path).unwrap().count(), 0);
    }

    #[test]
    fn a_link_in_place_of_a_cache_or_inside_one_is_not_followed() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("precious"), "x").unwrap();
        let cache = cache(dir.path());
        cache.prepare().unwrap();
        symlink(outside.path(), cache.path.join("link")).unwrap();
        std::fs::set_permissions(&cache.path, std::fs::Permissions::from_mode(0o755)).unwrap();
        cache.prepare().unwrap();
        std::fs::remove_dir(&cache.path).unwrap();
        symlink(outside.path(), &cache.path).unwrap();
        cache.prepare().unwrap();
        assert!(cache.path.symlink_metadata().unwrap().is_dir());
        assert!(outside.path().join("precious").exists());
    }

    /// A shell script that is the child.
    fn worker(script: &str, limit: Duration) -> Worker {
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let until = Rc::new(Cell::new(Instant::now() + limit));
        let to = Pipe { inner: child.stdin.take().unwrap(), until: until.clone() };
        let from = BufReader::new(Pipe { inner: child.stdout.take().unwrap(), until: until.clone() });
        for pipe in [to.inner.as_fd(), from.get_ref().inner.as_fd()] {
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        }
        let words = child.stderr.take();
        Worker { name: "http x".into(), child, to, from, words, limit, until, ended: None, is_open: false }
    }

    const LONG: Duration = Duration::from_secs(600);

    fn tree(script: &str) -> RemoteTree {
        RemoteTree { name: "http x".into(), worker: RefCell::new(worker(script, LONG)) }
    }

    /// A command that prints a frame; the last byte of the length is the lowest.
    fn message(text: &str) -> String {
        format!("printf 'M\\{:03o}\\000\\000\\000'; printf '%s' '{text}'", text.len())
    }

    fn body(text: &str) -> String {
        format!("printf 'B\\{:03o}\\000\\000\\000'; printf '%s' '{text}'", text.len())
    }

    fn starts_body() -> String {
        message(r#"{"Body":{"kind":"Ok","length":null}}"#)
    }

    #[test]
    fn a_child_that_stalls_is_ended_with_what_it_started() {
        let mut worker = worker("sleep 1000 & echo $! >&2; wait", Duration::from_millis(500));
        let error = worker.ask(&Request::List).unwrap_err();
        assert_eq!(error.to_string(), "http x: no end within 500ms");
        let sleeper: i32 = worker.last_words().parse().unwrap();
        crate::host::process::expect_end_of(sleeper);
    }

    #[test]
    fn a_child_that_does_not_listen_cannot_hold_its_parent() {
        let mut worker = worker("exec sleep 1000", Duration::from_millis(500));
        let path = "x".repeat(60_000);
        let error = (0..9).find_map(|_| {
            wire::write_json(&mut worker.to, Tag::Request, &Request::Read { path: path.clone(), max: 1 }).err()
        });
        assert_eq!(error.unwrap().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_child_that_dies_is_told_of_with_its_last_words_made_harmless() {
        let error = worker("echo 'thread panicked\n\u{1b}[2Jat x' >&2; exit 7", LONG).ask(&Request::List).unwrap_err();
        assert_eq!(error.to_string(), "http x: the process that asks it failed: exit status: 7: \\u{1b}[2Jat x");
        let error = worker("kill -SYS $$", LONG).ask(&Request::List).unwrap_err();
        assert!(error.advice().unwrap().contains("never needs"), "{error}");
    }

    #[test]
    fn more_bytes_than_asked_for_are_not_kept() {
        let endless = format!("{}; while {}; do :; done", starts_body(), body("0123456789"));
        let error = tree(&endless).read("site.toml", 25).unwrap_err();
        assert_eq!(error.to_string(), "http x: site.toml has more than 25 bytes");
        assert_eq!(error.exit_code(), crate::Exit::Refused);
    }

    #[test]
    fn a_body_that_breaks_off_is_an_error() {
        let failure =
            message(r#"{"Failed":{"what":"the answer broke off","help":null,"code":"net.failed","refused":false}}"#);
        let script = format!("{}; {}; {failure}; exec sleep 1000", starts_body(), body("half"));
        assert_eq!(tree(&script).read("x", 99).unwrap_err().to_string(), "the answer broke off");
        let script = format!("{}; {}", starts_body(), body("half"));
        let error = tree(&script).read("x", 99).unwrap_err();
        assert_eq!(error.to_string(), "http x: the process that asks it failed: exit status: 0");
    }

    #[test]
    fn a_whole_body_arrives_and_names_are_told_apart() {
        let script = format!("{}; {}; {}; {}; exec sleep 1000", starts_body(), body("site"), body(".toml"), body(""));
        assert_eq!(tree(&script).read("x", 9).unwrap().unwrap(), b"site.toml");
        assert_eq!(tree(&script).list().unwrap().unwrap(), ["site.toml"]);
        let script = format!("{}; {}; exec sleep 1000", starts_body(), body(""));
        assert_eq!(tree(&script).list().unwrap().unwrap(), [""; 0]);
    }

    #[test]
    fn answers_to_other_questions_are_refused() {
        for answer in [r#""Unchanged""#, r#"{"News":{"mark":"x"}}"#, r#"{"Ready":{"files":true}}"#] {
            let error = tree(&format!("{}; exec sleep 1000", message(answer))).read("x", 9).unwrap_err();
            assert_eq!(
                error.to_string(),
                "http x: the process that asks it failed: an answer does not belong to the question"
            );
        }
        let error = tree("printf 'B\\000\\000\\000\\000'; exec sleep 1000").read("x", 9).unwrap_err();
        assert!(error.to_string().ends_with("a frame is not of the kind that is expected"), "{error}");
        let error = tree("printf 'M\\377\\377\\377\\377'; exec sleep 1000").read("x", 9).unwrap_err();
        assert!(error.to_string().ends_with("a frame is too long"), "{error}");
    }
}
