//! The part of git's protocol that a release needs: listing refs, and fetching commits without their history. Version 1 does that in one
//! request and one answer. gix handles packet lines, side bands and ssh; kpull handles HTTP, so that connections work the same for every
//! source.

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::rc::Rc;

use gix_hash::ObjectId;
use gix_transport::client::blocking_io::{ExtendedBufRead, ReadlineBufRead, SetServiceResponse, Transport, ssh};
use gix_transport::client::git::ConnectMode;
use gix_transport::client::git::blocking_io::Connection;
use gix_transport::client::{self, Capabilities, MessageKind, WriteMode};
use gix_transport::packetline::PacketLineRef;
use gix_transport::packetline::blocking_io::StreamingPeekableIter;
use gix_transport::{Protocol, Service};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use reqwest::{Method, Url};

use super::gauge::Gauge;
use super::{BRANCHES, Refs, TAGS, first_words, other_format};
use crate::error::{Error, Result, error};
use crate::net::{self, Client, Failure, Kind, Reply, Request, Retryable};

/// Web servers may recognize git's requests by the start of this.
const AGENT: &str = concat!("git/kpull-", env!("CARGO_PKG_VERSION"));
/// A failure of ssh for which a retry doesn't help.
const DENIED: &str = "permission denied";

/// A repository on another host.
pub(super) struct Remote {
    /// Its name in messages.
    pub name: String,
    /// Bytes of one answer at most.
    pub max: u64,
    pub link: Link,
}

/// How a repository on another host is reached.
pub(super) enum Link {
    Http {
        /// The server that gets the credentials.
        home: Url,
        client: Client,
    },
    /// Through the system's ssh client, started with `command`.
    Ssh { url: gix_url::Url, command: String, retries: u32 },
}

/// Why a fetch failed.
pub(super) enum Fetch {
    /// A failure that fetching again wouldn't change.
    Failed(Error),
    /// The answer, or the cache, is unusable.
    Unusable(String),
}

impl Fetch {
    pub fn or(self, unusable: impl FnOnce(&str) -> Error) -> Error {
        match self {
            Self::Failed(error) => error,
            Self::Unusable(why) => unusable(&why),
        }
    }
}

impl From<io::Error> for Fetch {
    fn from(why: io::Error) -> Self {
        match why.kind() {
            _ if why.get_ref().is_some_and(|inner| inner.is::<Error>()) => Self::Failed(net::from_io(why)),
            io::ErrorKind::PermissionDenied => Self::Unusable(DENIED.into()),
            _ => Self::Unusable(first_words(&why)),
        }
    }
}

impl From<client::Error> for Fetch {
    fn from(why: client::Error) -> Self {
        match why {
            client::Error::Io(why) => why.into(),
            why => Self::Unusable(first_words(&why)),
        }
    }
}

/// A connection whose server has listed its refs.
pub(super) struct Session<'a> {
    remote: &'a Remote,
    /// Full names with their peeled targets.
    pub refs: Refs,
    capabilities: Capabilities,
    transport: Box<dyn Transport>,
}

impl Remote {
    /// Connects, and reads the refs.
    pub fn connect(&self) -> Result<Session<'_>> {
        match &self.link {
            // the client retries by itself
            Link::Http { home, client } => self.over_http(home, client).map_err(|failure| {
                failure.or(|why| {
                    error!(GIT, "{} is not a git repository", self.name)
                        .because(why)
                        .help("check the address; the server must speak git's smart HTTP protocol")
                })
            }),
            Link::Ssh { url, command, retries } => net::retry(*retries, None, || {
                let options = ssh::connect::Options {
                    command: Some(with_marked_output(command).into()),
                    disallow_shell: false,
                    kind: Some(ssh::ProgramKind::Ssh),
                };
                let connected = ssh::connect(url.clone(), Protocol::V1, options, false);
                let connected = connected.map_err(|why| Failure::permanent(self.ssh_failed(&first_words(&why))))?;
                self.session(connected).map_err(|failure| match failure {
                    Fetch::Failed(error) => Failure::permanent(error),
                    Fetch::Unusable(why) => {
                        let again = if why == DENIED { Retryable::Never } else { Retryable::Later(None) };
                        Failure { error: self.ssh_failed(&why), again }
                    }
                })
            }),
        }
    }

    fn ssh_failed(&self, why: &str) -> Error {
        // another thread passes on what ssh reports: without a pause, this error may come first, or the process end before
        std::thread::sleep(std::time::Duration::from_millis(200));
        error!(GIT, "{} can't be reached over ssh", self.name).because(why).help(
            "try `ssh -o BatchMode=yes HOST` as the user that runs kpull: its key must be allowed on the server, and the server's host key must be in its known hosts",
        )
    }

    fn over_http(&self, home: &Url, client: &Client) -> Result<Session<'_>, Fetch> {
        let exchange = Exchange::open(home, client).map_err(Fetch::Failed)?;
        let web = Web(Rc::new(RefCell::new(exchange)));
        // over HTTP, the name of the service comes first
        let mut lines = StreamingPeekableIter::new(web.clone(), &[PacketLineRef::Flush], false);
        let (mut service, mut left) = (Box::new(lines.as_read()), self.max);
        while self.next(&mut service, &mut left)?.is_some() {}
        // like a process that is started for this only: the server sends the refs first
        let mode = ConnectMode::Process;
        self.session(Connection::new(web.clone(), web, Protocol::V1, "", None::<(&str, _)>, mode, false))
    }

    fn session(&self, mut transport: impl Transport + 'static) -> Result<Session<'_>, Fetch> {
        let (mut refs, mut left) = (Refs::new(), self.max);
        let SetServiceResponse { capabilities, refs: mut lines, .. } = transport.handshake(Service::UploadPack, &[])?;
        if capabilities.iter().any(|one| one.name() == "object-format" && one.value().is_some_and(|id| id != "sha1")) {
            return Err(Fetch::Failed(other_format(&self.name)));
        }
        while let Some(line) = lines.as_mut().map(|lines| self.next(lines, &mut left)).transpose()?.flatten() {
            let unusable = || Fetch::Unusable(format!("`{line}` is not a ref"));
            let (id, name) = line.split_once(' ').ok_or_else(unusable)?;
            if id == "shallow" || name == "capabilities^{}" {
                continue;
            }
            let id = ObjectId::from_hex(id.as_bytes()).map_err(|_| unusable())?;
            match (name.strip_suffix("^{}"), refs.last_mut()) {
                (Some(tag), Some((last, to))) if last == tag => *to = id,
                _ => refs.push((name.to_owned(), id)),
            }
        }
        drop(lines);
        Ok(Session { remote: self, refs, capabilities, transport: Box::new(transport) })
    }

    /// The next line without its end; `None` at the end of a section. An error if it has more than the bytes that are `left`.
    fn next<R: ReadlineBufRead + ?Sized>(&self, lines: &mut Box<R>, left: &mut u64) -> Result<Option<String>, Fetch> {
        let Some(line) = lines.readline() else { return Ok(None) };
        let line = line?.map_err(|why| Fetch::Unusable(first_words(&why)))?;
        let Some(line) = line.as_slice() else { return Ok(None) };
        *left = left.checked_sub(line.len() as u64).ok_or_else(|| Fetch::Failed(too_much(self.max)))?;
        Ok(Some(String::from_utf8_lossy(line.trim_ascii_end()).into_owned()))
    }
}

/// A shell command that starts the ssh client and marks each line of its error output, which includes the server's, and removes control
/// characters. The client's other arguments are those of the shell.
fn with_marked_output(command: &str) -> String {
    format!("{{ {command} \"$@\" 2>&1 >&3 3>&- | LC_ALL=C sed -e 's/[^ -~]/?/g' -e 's/^/  | /' >&2; }} 3>&1")
}

fn too_much(max: u64) -> Error {
    error!(GIT, "the git server sends more than {max} bytes")
        .help("remove large files from the site: pin artifacts in artifacts.toml")
}

impl Session<'_> {
    /// Whether the server sends this commit by its id.
    pub fn gives(&self, id: ObjectId) -> bool {
        self.refs.iter().any(|(_, known)| *known == id)
            || self.capabilities.contains("allow-reachable-sha1-in-want")
            || self.capabilities.contains("allow-tip-sha1-in-want")
    }

    /// The commits of all branches and tags, each once.
    pub fn tips(&self) -> Vec<ObjectId> {
        let is_named = |name: &str| name.starts_with(BRANCHES) || name.starts_with(TAGS);
        let mut tips: Vec<ObjectId> = self.refs.iter().filter(|(name, _)| is_named(name)).map(|(_, id)| *id).collect();
        tips.sort();
        tips.dedup();
        tips
    }

    /// Fetches the commits `wants` and passes the pack to `write`: without their history if `newest`, and without the objects of `have`,
    /// whose own history isn't in the cache.
    pub fn fetch(
        &mut self,
        wants: &[ObjectId],
        have: Option<ObjectId>,
        newest: bool,
        write: impl FnOnce(&mut dyn BufRead, Gauge) -> Result<(), String>,
    ) -> Result<(), Fetch> {
        if wants.is_empty() {
            return Ok(());
        }
        let is_able = |capability: &&str| self.capabilities.contains(capability);
        let needed = if newest || have.is_some() { &["side-band-64k", "shallow"][..] } else { &["side-band-64k"] };
        if let Some(missing) = needed.iter().find(|needed| !is_able(needed)) {
            return Err(Fetch::Unusable(format!("the server does not support `{missing}`")));
        }
        let capabilities: Vec<&str> =
            ["side-band-64k", "ofs-delta", "thin-pack", "no-progress"].into_iter().filter(is_able).collect();
        let mode = WriteMode::OneLfTerminatedLinePerWriteCall;
        let mut request = self.transport.request(mode, MessageKind::Text(b"done"), false)?;
        for (index, want) in wants.iter().enumerate() {
            let capabilities = if index == 0 { format!(" {}", capabilities.join(" ")) } else { String::new() };
            request.write_all(format!("want {want}{capabilities}").as_bytes())?;
        }
        if let Some(id) = have {
            request.write_all(format!("shallow {id}").as_bytes())?;
        }
        if newest {
            request.write_all(b"deepen 1")?;
        }
        request.write_message(MessageKind::Flush)?;
        if let Some(id) = have {
            request.write_all(format!("have {id}").as_bytes())?;
        }
        let mut refusal = None;
        let (remote, max) = (self.remote, self.remote.max);
        let (mut answer, mut left) = (request.into_read()?, max);
        if newest {
            // skip the list of shallow commits: the cache has no history
            while remote.next(&mut answer, &mut left)?.is_some() {}
            answer.reset(Protocol::V1);
        }
        while let Some(line) = answer.peek_data_line() {
            let line = line??;
            if !line.starts_with(b"ACK ") && !line.starts_with(b"NAK") {
                break;
            }
            remote.next(&mut answer, &mut left)?;
        }
        answer.set_progress_handler(Some(Box::new(|is_error, text| {
            if is_error {
                refusal.get_or_insert_with(|| String::from_utf8_lossy(text).trim().to_owned());
            }
            std::ops::ControlFlow::Continue(())
        })));
        let gauge = Gauge::new();
        let limited = Limited { inner: answer, left, max, gauge: gauge.clone(), failure: None };
        let mut pack = BufReader::new(limited);
        let written = write(&mut pack, gauge.clone());
        let failure = pack.into_inner().failure;
        gauge.check(&remote.name).map_err(Fetch::Failed)?;
        match (failure, refusal) {
            (Some(error), _) => Err(Fetch::Failed(error)),
            (None, Some(text)) => Err(Fetch::Unusable(format!("the server reports: {text}"))),
            (None, None) => written.map_err(Fetch::Unusable),
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // end the conversation politely; over HTTP, nothing is sent
        if let Ok(mut request) = self.transport.request(WriteMode::Binary, MessageKind::Flush, false) {
            let _ = request.write_message(MessageKind::Flush);
        }
    }
}

/// The reading and writing end of a conversation over HTTP: written bytes are sent when the answer is read.
#[derive(Clone)]
struct Web(Rc<RefCell<Exchange>>);

struct Exchange {
    client: Client,
    home: Url,
    /// The address of the service, after redirects.
    url: Url,
    unsent: Vec<u8>,
    answer: Reply,
}

impl Exchange {
    /// Requests the refs.
    fn open(home: &Url, client: &Client) -> Result<Self> {
        let mut url = net::below(home, ["info", "refs"])?;
        url.set_query(Some("service=git-upload-pack"));
        let answer = ask(client, home, &url, None, "advertisement")?;
        // further requests go to where the answer came from
        let mut there = answer.url().clone();
        let path = there.path().strip_suffix("/info/refs").map(|base| format!("{base}/git-upload-pack"));
        let Some(path) = path.filter(|_| there.query() == url.query()) else {
            return Err(error!(GIT, "{} redirects to another address", net::shown(home))
                .help("write the address of the repository itself"));
        };
        there.set_query(None);
        there.set_path(&path);
        Ok(Self { client: client.clone(), home: home.clone(), url: there, unsent: Vec::new(), answer })
    }
}

/// Sends a request, and accepts only the answer of a git server.
fn ask(client: &Client, home: &Url, url: &Url, body: Option<Vec<u8>>, answer: &str) -> Result<Reply> {
    let mut headers = HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static(AGENT))]);
    let mut method = Method::GET;
    if body.is_some() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-git-upload-pack-request"));
        method = Method::POST;
    }
    let reply = client.send(&Request { url, home, headers, method, body })?;
    let shown = net::shown(home);
    let help = "check the address; the server must speak git's smart HTTP protocol";
    if reply.kind != Kind::Ok {
        return Err(error!(GIT, "there is no git repository at {shown}").help(help));
    }
    match reply.header(&CONTENT_TYPE) {
        Some(given) if given == format!("application/x-git-upload-pack-{answer}") => Ok(reply),
        given => Err(error!(GIT, "{shown} is not a git repository")
            .because(format!("the answer is {}", given.unwrap_or("of no type")))
            .help(help)),
    }
}

impl Read for Web {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Exchange { client, home, url, unsent, answer } = &mut *self.0.borrow_mut();
        if !unsent.is_empty() {
            *answer = ask(client, home, url, Some(std::mem::take(unsent)), "result").map_err(io::Error::other)?;
        }
        answer.read(buf)
    }
}

impl Write for Web {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().unsent.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fails after more than `max` bytes, and keeps failures, of which gix has only the text.
struct Limited<R> {
    inner: R,
    left: u64,
    max: u64,
    gauge: Gauge,
    failure: Option<Error>,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let error = match self.inner.read(buf) {
            Ok(read) => {
                self.gauge.receive(read as u64);
                match self.left.checked_sub(read as u64) {
                    Some(left) => {
                        self.left = left;
                        return Ok(read);
                    }
                    None => too_much(self.max),
                }
            }
            Err(why) if why.get_ref().is_some_and(|inner| inner.is::<Error>()) => net::from_io(why),
            Err(why) => return Err(why),
        };
        let words = error.to_string();
        self.failure = Some(error);
        Err(io::Error::other(words))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::testing::{Fixture, news, problem, release};
    use super::super::{Git, Location};
    use super::*;
    use crate::net::testing::{Answer as Reply, Authority, Server, git_backend};
    use crate::source::{Poll, Source};

    fn remote(source: &mut Git) -> &mut Remote {
        match &mut source.location {
            Location::Remote(remote) => remote,
            Location::Local(_) => panic!("not on another host"),
        }
    }

    #[test]
    fn a_server_that_sends_too_much_is_cut_off() {
        let fixture = Fixture::new();
        let noise: String = (0..20_000_u32).map(|n| format!("{}", n.wrapping_mul(2_654_435_761))).collect();
        fixture.commit("big", &noise);
        let server = fixture.serve();
        let mut source = fixture.over(&server, "");
        remote(&mut source).max = 10_000;
        let error = problem(&mut source);
        assert_eq!(error.to_string(), "the git server sends more than 10000 bytes");
    }

    #[test]
    fn a_server_that_sends_lines_without_end_is_cut_off() {
        let fixture = Fixture::new();
        let kind = |what: &str| format!("application/x-git-upload-pack-{what}");
        let announcing = Server::plain(move |_| {
            Reply::new(200, "001e# service=git-upload-pack\n".repeat(1000)).with("Content-Type", kind("advertisement"))
        });
        let answer = git_backend(fixture.dir.path().to_path_buf());
        let listing = Server::plain(move |request| match request.method.as_str() {
            "POST" => {
                Reply::new(200, format!("0035shallow {:040}\n", 1).repeat(1000)).with("Content-Type", kind("result"))
            }
            _ => answer(request),
        });
        for server in [announcing, listing] {
            let mut source = fixture.over(&server, "");
            remote(&mut source).max = 10_000;
            assert_eq!(problem(&mut source).to_string(), "the git server sends more than 10000 bytes");
        }
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
    fn over_ssh_the_remote_command_is_gits_own() {
        let fixture = Fixture::new();
        // A stand-in for the ssh client: runs its command here.
        let stand_in = fixture.dir.path().join("ssh");
        let log = fixture.dir.path().join("log");
        let script = format!(
            "echo \"$*\" >> '{}'\nwhile [ $# -gt 2 ]; do shift; done\neval \"git upload-pack $2\"\n",
            log.display()
        );
        fs::write(&stand_in, script).unwrap();
        let mut source = fixture.source(&format!("git = 'ssh://git@localhost:22{}'", fixture.site().display()));
        let Link::Ssh { command, .. } = &mut remote(&mut source).link else { panic!("not ssh") };
        let options = command.strip_prefix("ssh ").unwrap().to_owned();
        *command = format!("sh {} {options}", stand_in.display());
        let (tree, cursor) = news(&mut source, None);
        assert_eq!(release(&*tree), "first");
        assert!(matches!(source.poll(Some(&cursor)).unwrap(), Poll::Unchanged));
        fixture.commit("release.toml", "second");
        assert_eq!(release(&*news(&mut source, Some(&cursor)).0), "second");
        let log = fs::read_to_string(log).unwrap();
        assert_eq!(log.lines().count(), 3);
        assert!(log.contains("BatchMode=yes") && log.contains("git@localhost git-upload-pack"), "{log}");
    }

    #[test]
    fn a_host_that_ssh_cannot_reach_is_named_with_advice() {
        let fixture = Fixture::new();
        let mut source = fixture.source("git = 'git@host:site.git'\nretries = 0");
        let Link::Ssh { command, .. } = &mut remote(&mut source).link else { panic!("not ssh") };
        *command = "false".into();
        let error = problem(&mut source);
        assert!(error.to_string().starts_with("git git@host:site.git can't be reached over ssh"), "{error}");
        let Link::Ssh { command, retries, .. } = &mut remote(&mut source).link else { panic!("not ssh") };
        // Not tried again: the pauses would be minutes.
        *retries = 100;
        *command = "echo 'git@host: Permission denied (publickey).' >&2; false".into();
        let error = problem(&mut source);
        assert!(error.to_string().ends_with("permission denied"), "{error}");
        assert!(error.advice().unwrap().contains("BatchMode"));
    }
}
