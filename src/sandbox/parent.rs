//! The parent's side: a source and downloads whose bytes come from the child. Its answers are bounded in time and size,
//! and checked like anything from the network.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::{getgid, getuid};
use reqwest::Url;
use zeroize::Zeroizing;

use super::cache;
use super::confine::{Confinement, has_landlock};
use super::need::{Need, demand};
use super::user::user;
use super::wire::{self, Answer, CURSOR_MAX, Job, Request, Setup};
use super::worker::Worker;
use crate::document::Tree;
use crate::error::{Error, Result, error, visible};
use crate::host::{deadline, web};
use crate::net::{self, Conditions, Download, Get, Options, Pace};
use crate::source::{self, Config, Poll, Reach, Source};
use crate::store::{Commit, Repositories};

/// The time limit for all requests to git in a run: it fetches before its first answer.
const PATIENCE: Duration = Duration::from_secs(600);
/// The least time limit for all requests to a web server in a run, and for the start of a download.
const BEGIN: Duration = Duration::from_secs(120);
/// Additional time for each file; [`net::STEADY`] is the rate for the bytes.
const FILE: Duration = Duration::from_secs(1);
/// Additional time for the child, beyond the time limit of its request to a web server.
const SLACK: Duration = Duration::from_secs(5);
/// The most bytes of all names in a source.
const NAMES_MAX: u64 = 32 << 20;

/// Opens the source that `config` describes, like [`source::open`]; a child talks to the network for it. A source
/// on this host needs none. Over ssh the child keeps its rights, because ssh needs root's keys and programs of its own: there
/// it only limits the time. A poll fails where the sandbox lacks what is `required` of it.
pub fn open(config: &Config, cache: &Path, required: &[Need]) -> Result<Box<dyn Source>> {
    config.check()?;
    let confinement = match config.reach()? {
        Reach::Local => return source::open(config, cache),
        Reach::Ssh => None,
        Reach::Http => Some(Confinement { user: user()?, writable: vec![".".into()] }),
    };
    let (name, cache, required) = (source::name(config)?, cache.to_owned(), required.to_vec());
    Ok(Box::new(Remote { name, config: config.clone(), confinement, cache, required }))
}

/// The time limit for a server that sends nothing large: all attempts, and the pauses between.
fn limit(options: &Options) -> Duration {
    BEGIN.max(options.patience().saturating_mul(options.tries_again().saturating_add(3)))
}

/// Talks to web servers through a child, which starts with the first request and is kept for others to the same server: a child
/// that one server has taken over sees no other's answers and keys. Each download has a child of its own.
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
    /// Starts no child yet. `required` is what the sandbox must not lack.
    pub fn new(options: Options, required: &[Need]) -> Self {
        Self { options, required: required.to_vec(), kept: RefCell::default() }
    }

    /// Posts JSON.
    pub fn post(&self, url: &str, body: String) -> Result<()> {
        self.send(url, &Request::Post { url: url.to_owned(), body })
    }

    /// Puts a text at an address.
    pub fn put(&self, url: &Url, body: String) -> Result<()> {
        self.send(url.as_str(), &Request::Put { url: url.to_string(), body })
    }

    /// Sends a request without an answer. Its time limit is that of every attempt that the options allow, and ten seconds for the
    /// pauses.
    fn send(&self, url: &str, request: &Request) -> Result<()> {
        let limit = self.options.patience() * (self.options.tries_again() + 1) + Duration::from_secs(10);
        match self.request(&net::server_of(url), request, limit, 0)? {
            (Answer::Nothing, _) => Ok(()),
            _ => Err(self.nonsense()),
        }
    }

    /// The small file at an address; `None` where there is none. Fails at `until`, and refuses more than `max` bytes.
    pub fn read(&self, url: &str, max: u64, until: Instant) -> Result<Option<Vec<u8>>> {
        let within = until.saturating_duration_since(Instant::now());
        let request = Request::Fetch { url: url.to_owned(), max, within };
        match self.request(&net::server_of(url), &request, within.saturating_add(SLACK), max)? {
            (Answer::Nothing, _) => Ok(None),
            (Answer::Body { .. }, body) => Ok(Some(body)),
            _ => Err(self.nonsense()),
        }
    }

    /// Sends a request to the child for `server`, and returns its answer with the body that belongs to it.
    fn request(&self, server: &str, request: &Request, limit: Duration, most: u64) -> Result<(Answer, Vec<u8>)> {
        let mut kept = self.kept.borrow_mut();
        // a child that gave a wrong answer is not asked again
        let known = kept.take().filter(|worker| worker.name == server && worker.ended.is_none());
        let worker = match known {
            Some(known) => kept.insert(known),
            None => kept.insert(Worker::without_files(server, &self.options, &self.required, limit)?),
        };
        worker.allow(limit);
        let answer = worker.ask(request)?;
        let body = match answer {
            Answer::Replied { .. } | Answer::Body { .. } => worker.body(most)?.ok_or_else(|| worker.nonsense())?,
            _ => Vec::new(),
        };
        Ok((answer, body))
    }

    /// Ends the child, whose answer does not belong to the request.
    fn nonsense(&self) -> Error {
        let kept = self.kept.borrow_mut().take();
        kept.map_or_else(|| error!(SANDBOX, "no process was asked"), |mut worker| worker.nonsense())
    }
}

impl web::Ask for Web {
    fn ask(&self, question: &web::Question) -> Result<web::Reply, String> {
        let (whom, limit) = (question.url.origin().ascii_serialization(), question.limit + SLACK);
        let request = Request::Ask(Box::new(question.clone()));
        match self.request(&whom, &request, limit, question.most as u64).map_err(|why| why.to_string())? {
            (Answer::Replied { status, broken }, body) => {
                Ok(web::Reply { status, body, broken: broken.map(|why| visible(&wire::short(&why))) })
            }
            _ => Err(self.nonsense().to_string()),
        }
    }

    fn connect(&self, target: &str, limit: Duration) -> Result<(), String> {
        let request = Request::Connect { target: target.to_owned(), limit };
        match self.request(target, &request, limit + SLACK, 0).map_err(|why| why.to_string())? {
            (Answer::Nothing, _) => Ok(()),
            _ => Err(self.nonsense().to_string()),
        }
    }
}

/// A description of the sandbox on this host.
pub fn describe() -> Result<String> {
    let who = match user()? {
        Some((uid, _)) => format!("user {uid}, "),
        None => String::new(),
    };
    let files = if has_landlock() { "Landlock" } else { "no Landlock in this kernel" };
    Ok(format!("{who}{files}, seccomp"))
}

/// A source whose bytes come from a child, which starts with the poll.
struct Remote {
    name: String,
    config: Config,
    confinement: Option<Confinement>,
    cache: PathBuf,
    required: Vec<Need>,
}

impl Source for Remote {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn poll(&mut self, cursor: Option<&str>) -> Result<Poll> {
        // a commit never changes: no need for a poll
        if let (Some(commit), Some(cursor)) = (&self.config.commit, cursor)
            && commit.eq_ignore_ascii_case(cursor)
        {
            return Ok(Poll::Unchanged);
        }
        demand(&self.required)?;
        let user = self.confinement.as_ref().and_then(|confinement| confinement.user);
        cache::prepare(&self.cache, user.unwrap_or((getuid().as_raw(), getgid().as_raw())))?;
        let options = self.config.net();
        let limit = if self.config.git.is_some() { PATIENCE.max(limit(&options)) } else { limit(&options) };
        let setup = Setup {
            job: Job::Source(Box::new(self.config.clone())),
            net: options.load()?,
            confinement: self.confinement.clone(),
        };
        let mut worker = Worker::start(&self.name, &setup, &self.cache, limit)?;
        match worker.ask(&Request::Poll { cursor: cursor.map(str::to_owned) })? {
            Answer::Unchanged if cursor.is_some() => Ok(Poll::Unchanged),
            Answer::News { cursor } if cursor.len() <= CURSOR_MAX => {
                if worker.is_open {
                    log::warn!(
                        "{}: this kernel has no Landlock: only the permissions of its user keep the process from files",
                        self.name
                    );
                }
                Ok(Poll::News(Box::new(RemoteTree(RefCell::new(worker))), cursor))
            }
            _ => Err(worker.nonsense()),
        }
    }
}

/// The last news of a source, read through the child.
struct RemoteTree(RefCell<Worker>);

impl RemoteTree {
    /// Requests a body; `None` when there is none.
    fn whole(&self, request: &Request, max: u64, what: &str) -> Result<Option<Vec<u8>>> {
        let mut worker = self.0.borrow_mut();
        worker.allow_more(FILE);
        match worker.ask(request)? {
            Answer::Nothing => return Ok(None),
            Answer::Body { .. } => {}
            _ => return Err(worker.nonsense()),
        }
        worker.body(max)?.map(Some).ok_or_else(|| source::too_big(&worker.name, what, max))
    }
}

impl Tree for RemoteTree {
    fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
        self.whole(&Request::Read { path: path.to_owned(), max }, max, path)
    }

    fn object(&self, id: &str, max: u64) -> Result<Option<Vec<u8>>> {
        self.whole(&Request::Object { id: id.to_owned(), max }, max, id)
    }

    fn list(&self) -> Result<Option<Vec<String>>> {
        let Some(bytes) = self.whole(&Request::List, NAMES_MAX, "the list of its files")? else { return Ok(None) };
        if bytes.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let names = String::from_utf8(bytes).map_err(|_| self.0.borrow_mut().nonsense())?;
        Ok(Some(names.split('\0').map(str::to_owned).collect()))
    }
}

impl Get for Web {
    fn get(&self, url: &str, conditions: &Conditions<'_>) -> Result<Download> {
        deadline::check_downloads()?;
        let patience = self.options.patience();
        let (parsed, limit) = (net::read(url)?, limit(&self.options));
        let name = net::shown(&parsed);
        let mut worker = Worker::without_files(&name, &self.options, &self.required, limit)?;
        let (url, state) = (url.to_owned(), conditions.state.map(str::to_owned));
        match worker.ask(&Request::Get { url, from: conditions.from, state })? {
            Answer::Body { kind, length, state } => {
                let state = state.filter(|state| state.len() <= CURSOR_MAX);
                let pace = Pace::new(patience);
                let frame = Zeroizing::default();
                let body = Box::new(Body { worker, frame, read: 0, ended: false, pace, patience, url: parsed });
                Ok(Download { kind, length, state, body })
            }
            _ => Err(worker.nonsense()),
        }
    }
}

impl Repositories for Web {
    fn open(&self, commit: &Commit, cache: &Path) -> Result<Box<dyn Tree>> {
        deadline::check_downloads()?;
        let Options { ca, client_cert, client_key, timeout, retries, .. } = self.options.clone();
        let (git, id) = (Some(commit.url.clone()), Some(commit.id.clone()));
        let config = Config { git, commit: id, ca, client_cert, client_key, timeout, retries, ..Config::default() };
        if !self.required.is_empty() && config.reach()? == Reach::Ssh {
            return Err(error!(SANDBOX, "{} can't be reached over ssh", commit.url)
                .because("`require` under [sandbox] in kpull.toml is set, and ssh never runs in the sandbox")
                .help("use an address that begins with https://, or remove `require`"));
        }
        source::state(&mut *open(&config, cache, &self.required)?)
    }
}

/// The body of a download.
struct Body {
    worker: Worker,
    /// The present frame; an empty one ends the body.
    frame: Zeroizing<Vec<u8>>,
    /// How many bytes of it were read.
    read: usize,
    ended: bool,
    pace: Pace,
    patience: Duration,
    url: Url,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read == self.frame.len() && !self.ended && !buffer.is_empty() {
            deadline::check_downloads().map_err(io::Error::other)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::worker::testing::{LONG, worker};

    fn tree(script: &str) -> RemoteTree {
        RemoteTree(RefCell::new(worker(script, LONG)))
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
    fn more_bytes_than_asked_for_are_not_kept() {
        let endless = format!("{}; while {}; do :; done", starts_body(), body("0123456789"));
        let error = tree(&endless).read("site.toml", 25).unwrap_err();
        assert_eq!(error.to_string(), "http x: site.toml has more than 25 bytes");
        assert_eq!(error.exit_code(), crate::Exit::Refused);
    }

    #[test]
    fn a_body_that_breaks_off_is_an_error() {
        let failure = message(
            r#"{"Failed":{"what":"the answer was interrupted","help":null,"code":"net.failed","refused":false}}"#,
        );
        let script = format!("{}; {}; {failure}; exec sleep 1000", starts_body(), body("half"));
        assert_eq!(tree(&script).read("x", 99).unwrap_err().to_string(), "the answer was interrupted");
        let script = format!("{}; {}", starts_body(), body("half"));
        let error = tree(&script).read("x", 99).unwrap_err();
        assert_eq!(error.to_string(), "http x: the process that fetches from it failed: exit status: 0");
    }

    #[test]
    fn a_whole_body_arrives_and_names_are_distinct() {
        let script = format!("{}; {}; {}; {}; exec sleep 1000", starts_body(), body("site"), body(".toml"), body(""));
        assert_eq!(tree(&script).read("x", 9).unwrap().unwrap(), b"site.toml");
        assert_eq!(tree(&script).list().unwrap().unwrap(), ["site.toml"]);
        let script = format!("{}; {}; exec sleep 1000", starts_body(), body(""));
        assert_eq!(tree(&script).list().unwrap().unwrap(), [""; 0]);
    }

    #[test]
    fn answers_to_other_questions_are_refused() {
        for answer in [r#""Unchanged""#, r#"{"News":{"cursor":"x"}}"#, r#"{"Ready":{"files":true}}"#] {
            let error = tree(&format!("{}; exec sleep 1000", message(answer))).read("x", 9).unwrap_err();
            assert_eq!(
                error.to_string(),
                "http x: the process that fetches from it failed: an answer does not match the request"
            );
        }
        let error = tree("printf 'B\\000\\000\\000\\000'; exec sleep 1000").read("x", 9).unwrap_err();
        assert!(error.to_string().ends_with("a frame is not of the kind that is expected"), "{error}");
        let error = tree("printf 'M\\377\\377\\377\\377'; exec sleep 1000").read("x", 9).unwrap_err();
        assert!(error.to_string().ends_with("a frame is too long"), "{error}");
    }
}
