//! HTTP(S) the way this program does it everywhere: one client, bounded in time and size, with retries.

#[expect(
    clippy::disallowed_methods,
    reason = "below the state directory, which is nobody's but ours, or an operator's own command"
)]
pub mod download;
pub mod ranges;
pub mod server;
#[cfg(test)]
pub(crate) mod testing;
pub mod writeback;

use std::error::Error as StdError;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once, OnceLock};
use std::time::{Duration, Instant};

use reqwest::blocking::{Client as Http, RequestBuilder, Response};
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, CertificateError};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, code};
use crate::read;

/// Seconds for a connection, and for each wait for more bytes, unless the options say otherwise.
const TIMEOUT: u64 = 20;
/// How often a failed request is tried again unless the options say otherwise.
const RETRIES: u32 = 3;
/// The pause before the first retry, in milliseconds; it doubles with each.
const FIRST_PAUSE: u64 = 250;
/// The longest pause that we choose, in milliseconds.
const LONGEST_PAUSE: u64 = 5_000;
/// The longest pause that a server can make us take with `Retry-After`.
const LONGEST_WISH: Duration = Duration::from_secs(30);
/// The fewest bytes a second that are waited for, counted over one timeout: a server that hands out a byte now and then
/// would otherwise keep the host from its work for years.
const SLOWEST: u64 = 1024;
/// The bytes a second for which an address is given time in all, and three timeouts more: one that sends just enough to be waited for
/// would otherwise keep the host from its work for hours.
pub(crate) const STEADY: u64 = 32 << 10;
/// How many redirects one request follows.
const REDIRECTS: usize = 5;

/// How to connect to a server. Every field may be left out.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// PEM file with the only authorities that are trusted; the system's otherwise.
    pub ca: Option<PathBuf>,
    /// PEM file with a client certificate and its chain.
    pub client_cert: Option<PathBuf>,
    /// PEM file with the key of `client_cert`.
    pub client_key: Option<PathBuf>,
    /// File with a bearer token.
    pub bearer: Option<PathBuf>,
    /// File with `user:password`.
    pub basic: Option<PathBuf>,
    /// Seconds until a server that doesn't answer is given up: for the connection, and for each wait for more bytes;
    /// 20 otherwise.
    pub timeout: Option<u64>,
    /// How often a failed request is tried again, with growing pauses; 3 otherwise.
    pub retries: Option<u32>,
}

impl Options {
    /// Finds what can't be meant: half of a client certificate, two kinds of credentials, no time at all.
    pub fn check(&self) -> Result<()> {
        let half = match (&self.client_cert, &self.client_key) {
            (Some(_), None) => Some(("client_cert", "client_key")),
            (None, Some(_)) => Some(("client_key", "client_cert")),
            _ => None,
        };
        if let Some((set, unset)) = half {
            return Err(Error::new(code::NET, format!("`{set}` is set without `{unset}`"))
                .help(format!("a client certificate needs both: set `{unset}` too, to a PEM file")));
        }
        if self.bearer.is_some() && self.basic.is_some() {
            return Err(
                Error::new(code::NET, "`bearer` and `basic` are both set").help("keep the one that the server wants")
            );
        }
        if self.timeout == Some(0) {
            return Err(Error::new(code::NET, "`timeout` is 0 seconds").help("leave it out for 20 seconds"));
        }
        Ok(())
    }

    /// Every path that is set, so that a relative one can be given its base.
    pub fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [&mut self.ca, &mut self.client_cert, &mut self.client_key, &mut self.bearer, &mut self.basic]
            .into_iter()
            .flatten()
    }

    /// Reads the files that the options name. An error when one is missing or has something else in it.
    pub fn load(&self) -> Result<Loaded> {
        self.check()?;
        let identity = match (&self.client_cert, &self.client_key) {
            (Some(certificate), Some(key)) => Some(identity(certificate, key)?),
            _ => None,
        };
        let credentials = match (&self.bearer, &self.basic) {
            (Some(file), _) => Credentials::Bearer(secret("bearer", file)?),
            (None, Some(file)) => {
                let text = secret("basic", file)?;
                let (user, password) = text.split_once(':').ok_or_else(|| {
                    Error::new(code::NET, format!("`basic`: {} has no `:` in it", file.display()))
                        .help("write it as one line, USER:PASSWORD")
                })?;
                Credentials::Basic { user: user.to_owned(), password: password.to_owned() }
            }
            (None, None) => Credentials::None,
        };
        let ca = self.ca.as_deref().map(authorities).transpose()?;
        Ok(Loaded { ca, identity, credentials, retries: self.tries_again(), patience: self.patience() })
    }

    /// How long to wait for a connection, and each time for more bytes.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.timeout.unwrap_or(TIMEOUT))
    }

    /// How often to try again.
    pub fn tries_again(&self) -> u32 {
        self.retries.unwrap_or(RETRIES)
    }
}

/// Reads the address of a web server or of something on it. Credentials in an address would end in logs and in
/// `kpull.toml`, so they are refused; so is a query, which is where some servers want a token.
pub fn parse(url: &str) -> Result<Url> {
    let wrong = |why: &str| {
        let bare = url.split(['?', '#']).next().unwrap_or(url);
        let (scheme, rest) = bare.split_once("://").unwrap_or(("", bare));
        let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        let bare = if scheme.is_empty() { rest.to_owned() } else { format!("{scheme}://{rest}") };
        Error::new(code::NET, format!("`{bare}` {why}"))
    };
    let parsed = Url::parse(url)
        .map_err(|why| wrong("is not an address").because(why).help("write it out, such as https://HOST/DIRECTORY"))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(wrong("is not an http:// or https:// address").help("write it out, such as https://HOST/DIRECTORY"));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(wrong("has credentials in it")
            .help("put them into a file that only root can read, and name it: basic = \"FILE\" or bearer = \"FILE\""));
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(wrong("has a query or a fragment in it").help("remove what follows `?` or `#`"));
    }
    Ok(parsed)
}

/// Reads an address, whatever is in it.
pub(crate) fn read(url: &str) -> Result<Url> {
    Url::parse(url).map_err(|why| {
        Error::new(code::NET, "an address can't be read").because(why).help("write it as https://HOST/PATH")
    })
}

/// An address as it may stand in a message: without credentials, query and fragment.
pub fn shown(url: &Url) -> String {
    let mut bare = url.clone();
    // Both fail only for addresses that can't have credentials.
    let _ = bare.set_username("");
    let _ = bare.set_password(None);
    bare.set_query(None);
    bare.set_fragment(None);
    bare.to_string()
}

/// The server of an address, as in `https://HOST:PORT`; the address itself where there is none.
pub fn server_of(url: &str) -> String {
    let origin = Url::parse(url).ok().map(|url| url.origin()).filter(|origin| origin.is_tuple());
    origin.map_or_else(|| url.to_owned(), |origin| origin.ascii_serialization())
}

/// The address of what these names lead to below `base`; whatever is in a name is encoded.
pub fn below<'a>(base: &Url, names: impl IntoIterator<Item = &'a str>) -> Result<Url> {
    let mut url = base.clone();
    match url.path_segments_mut() {
        Ok(mut path) => path.pop_if_empty().extend(names),
        Err(()) => return Err(Error::new(code::NET, format!("`{}` has no path", shown(base)))),
    };
    Ok(url)
}

/// What a request depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conditions<'a> {
    /// Don't send the body if it is still the one with this `ETag`.
    pub etag: Option<&'a str>,
    /// Send the body from this byte on. The server may not be able to, or have less than that: then the answer is
    /// [`Kind::Ok`], the whole body.
    pub from: Option<u64>,
    /// Send it from there only if it is still what the server called so, see [`Reply::state`].
    pub state: Option<&'a str>,
}

/// What kind of answer a server gave. All others are errors.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Kind {
    /// The whole body.
    Ok,
    /// The body from the byte that was asked for.
    Partial,
    /// It is still what the condition said; there is no body.
    NotModified,
    /// There is nothing at this address (404, 410).
    Missing,
    /// What was to be replaced is not what the condition said; nothing was replaced (412).
    Changed,
    /// The body has no such part (416).
    NoPart,
}

/// The answer to a request; reading it reads the body. Read failures are [`Error`]s inside an [`io::Error`].
pub struct Reply {
    /// What kind of answer it is.
    pub kind: Kind,
    /// The server's name for this state of the body.
    pub etag: Option<String>,
    /// How many bytes the body has, if the server said so.
    pub length: Option<u64>,
    /// Where the answer came from in the end.
    url: Url,
    body: Response,
    pace: Pace,
    until: Option<Instant>,
}

/// How fast a body comes in.
pub(crate) struct Pace {
    patience: Duration,
    /// When bytes have come last.
    last: Instant,
    /// By how much it is behind [`STEADY`]. What comes quickly makes up for that, and is worth nothing later.
    behind: Duration,
    /// When the present wait began, which is as long as `patience`, and what has come in it.
    since: Instant,
    bytes: u64,
}

impl Pace {
    pub(crate) fn new(patience: Duration) -> Self {
        let now = Instant::now();
        Self { patience, last: now, behind: Duration::ZERO, since: now, bytes: 0 }
    }

    /// Whether it still goes on well enough after `count` bytes more; why not, if it does not.
    pub(crate) fn check(&mut self, count: usize) -> Result<(), String> {
        self.check_at(count as u64, Instant::now())
    }

    fn check_at(&mut self, count: u64, now: Instant) -> Result<(), String> {
        let slow = |least: u64| Err(format!("fewer than {least} bytes a second"));
        let worth = Duration::from_secs_f64(count as f64 / STEADY as f64);
        self.behind = self.behind.saturating_add(now.saturating_duration_since(self.last)).saturating_sub(worth);
        self.last = now;
        if self.behind > self.patience.saturating_mul(3) {
            return slow(STEADY);
        }
        self.bytes = self.bytes.saturating_add(count);
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < self.patience {
            return Ok(());
        }
        if self.bytes < elapsed.as_secs().saturating_mul(SLOWEST) {
            return slow(SLOWEST);
        }
        (self.since, self.bytes) = (now, 0);
        Ok(())
    }
}

impl Reply {
    /// Where the answer came from, after redirects.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// By which name the server would know this state of the body again: a strong `ETag`, or when it was modified.
    pub fn state(&self) -> Option<&str> {
        let etag = self.header(&header::ETAG).filter(|etag| !etag.starts_with("W/"));
        etag.or_else(|| self.header(&header::LAST_MODIFIED))
    }

    /// Which part of the body this is: its first byte, whether its last one is the body's, and the bytes of the body.
    fn part(&self) -> Option<(u64, bool, Option<u64>)> {
        let range = self.header(&header::CONTENT_RANGE)?.strip_prefix("bytes ")?;
        let (range, total) = range.split_once('/')?;
        let (from, last) = range.split_once('-')?;
        let (from, last, total): (u64, u64, Option<u64>) = (from.parse().ok()?, last.parse().ok()?, total.parse().ok());
        Some((from, total.is_none_or(|total| last.checked_add(1) == Some(total)), total))
    }

    /// One header, if there is one that is text.
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.body.headers().get(name).and_then(|value| value.to_str().ok())
    }
}

impl Read for Reply {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.body.read(buf).map_err(|why| {
            let what = format!("GET {}: the answer broke off", shown(&self.url));
            io::Error::new(why.kind(), Failure::of(what, &why).error)
        })?;
        if self.until.is_some_and(|until| until <= Instant::now()) {
            return Err(io::Error::other(too_slow(&self.url, "the time for all of it is over")));
        }
        if count > 0 {
            self.pace.check(count).map_err(|why| io::Error::other(too_slow(&self.url, &why)))?;
        }
        Ok(count)
    }
}

/// The failure of a body that comes in at a crawl.
pub(crate) fn too_slow(url: &Url, why: &str) -> Error {
    Error::new(code::NET, format!("GET {}: the answer comes too slowly", shown(url))).because(why).help(
        "use a source that is nearer, or `timeout = SECONDS` to allow for longer pauses and three times as long in all",
    )
}

/// Reads a whole body of a release. When it has more than `max` bytes the release is refused, and the body not read to
/// its end.
pub fn read_all(mut reply: Reply, max: u64) -> Result<Vec<u8>> {
    let too_big = |url: &Url| {
        Error::refused(code::NET, format!("{} has more than {max} bytes", shown(url)))
            .help("it is not read to its end: was it changed after signing?")
    };
    if reply.length.is_some_and(|length| length > max) {
        return Err(too_big(&reply.url));
    }
    let mut bytes = Vec::new();
    reply.by_ref().take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(from_io)?;
    if bytes.len() as u64 > max {
        return Err(too_big(&reply.url));
    }
    Ok(bytes)
}

/// The failure inside a read failure of a [`Reply`].
pub fn from_io(why: io::Error) -> Error {
    why.downcast::<Error>().unwrap_or_else(|why| Error::new(code::NET, "reading an answer failed").because(why))
}

/// A body that is downloaded.
pub struct Download {
    /// What kind of answer it is.
    pub kind: Kind,
    /// How many bytes the body has from here on, if the server said so.
    pub length: Option<u64>,
    /// See [`Reply::state`].
    pub state: Option<String>,
    /// The body. Read failures are [`Error`]s inside an [`io::Error`].
    pub body: Box<dyn Read>,
}

/// How files are downloaded: by this process, or by one that has no rights.
pub trait Get: std::fmt::Debug {
    /// Asks for a body.
    fn get(&self, ask: &Ask<'_>) -> Result<Download>;
}

/// Which body is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Where it is.
    pub url: &'a str,
    /// Where the same is besides, for parts of it.
    pub others: &'a [String],
    /// The byte that it is wanted from; all of it otherwise.
    pub from: Option<u64>,
    /// What the server called it when it handed out what came before that; see [`Reply::state`].
    pub state: Option<&'a str>,
    /// Whether its digest is known, so that parts of several files can't be taken for one.
    pub is_pinned: bool,
}

impl Get for Options {
    fn get(&self, ask: &Ask<'_>) -> Result<Download> {
        ranges::get(&Client::new(self)?, ask, ranges::CONNECTIONS)
    }
}

/// [`Options`] with the files that they name read: a client can be made of it where those files can't be read.
#[derive(Clone, Deserialize, Serialize, PartialEq)]
pub struct Loaded {
    /// PEM of the only authorities that are trusted.
    ca: Option<String>,
    /// PEM of the client certificate, its chain and its key.
    identity: Option<String>,
    credentials: Credentials,
    retries: u32,
    patience: Duration,
}

/// How to say who we are.
#[derive(Clone, Deserialize, Serialize, PartialEq)]
enum Credentials {
    None,
    Bearer(String),
    Basic { user: String, password: String },
}

/// One request, however often it is tried and redirected.
pub(crate) struct Request<'a> {
    /// What is asked for.
    pub url: &'a Url,
    /// The server that the credentials are for: no other gets them.
    pub home: &'a Url,
    /// Headers besides those of every request.
    pub headers: HeaderMap,
    /// What is to be done there.
    pub method: Method,
    /// What to POST or PUT.
    pub body: Option<Vec<u8>>,
}

fn unusable(why: &reqwest::Error) -> Error {
    Error::new(code::NET, "the files for TLS can't be used")
        .because(root_cause(why))
        .help("`client_key` must be the key of the first certificate in `client_cert`, and `ca` an authority")
}

/// A client to be, but for its authorities.
fn builder(loaded: &Loaded) -> Result<reqwest::blocking::ClientBuilder> {
    let builder = Http::builder()
        .user_agent(concat!("kpull/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(loaded.patience)
        // For each wait, not for a whole download.
        .timeout(loaded.patience)
        // Redirects are followed by `attempt`, which knows what must not be.
        .redirect(reqwest::redirect::Policy::none());
    Ok(match &loaded.identity {
        Some(pem) => builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).map_err(|why| unusable(&why))?),
        None => builder,
    })
}

/// Makes rustls know its cryptography.
fn install_provider() {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Fails only if there is one already, which is then as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// A bare client for whoever speaks something of their own over HTTP, and tries again by rules of their own: no proxy, no
/// redirects, and no other authorities than those given.
pub(crate) fn direct(loaded: &Loaded, connect: Duration) -> Result<Http> {
    install_provider();
    let builder = builder(loaded)?.connect_timeout(connect).no_proxy().tls_certs_only(given_authorities(loaded)?);
    builder.build().map_err(|why| unusable(&why))
}

/// The authorities that the options name.
fn given_authorities(loaded: &Loaded) -> Result<Vec<reqwest::Certificate>> {
    let given = loaded.ca.as_ref().map(|pem| reqwest::Certificate::from_pem_bundle(pem.as_bytes()));
    Ok(given.transpose().map_err(|why| unusable(&why))?.unwrap_or_default())
}

/// Files in which systems keep all their authorities together (Debian, Fedora, SUSE, Alpine).
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The system's authorities from the one file that has all of them, rather than from each file of their directory besides; `None`
/// when there is none, or when somebody has named a directory.
fn system_bundle() -> Option<Vec<reqwest::Certificate>> {
    let pem = match (std::env::var_os("SSL_CERT_FILE"), std::env::var_os("SSL_CERT_DIR")) {
        (None, None) => BUNDLES.iter().find_map(|path| read::named(Path::new(path)).ok())?,
        (Some(file), None) => read::named(Path::new(&file)).ok()?,
        (_, Some(_)) => return None,
    };
    reqwest::Certificate::from_pem_bundle(&pem).ok().filter(|authorities| !authorities.is_empty())
}

/// Whether a proxy is set, which may itself be spoken to by TLS.
fn has_proxy() -> bool {
    ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// Talks to one server. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: Http,
    /// With the system's authorities, for https when no others are given: reading them takes longer than all the rest, so
    /// they are read when they are needed.
    https: Option<Arc<OnceLock<Http>>>,
    loaded: Loaded,
    /// When whoever asks has no more time; none when each request has as long as the options say.
    until: Option<Instant>,
}

impl Client {
    /// A client that connects as `options` say; `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` are honoured. An error when
    /// a file that the options name is missing or has something else in it.
    pub fn new(options: &Options) -> Result<Self> {
        Self::with(&options.load()?)
    }

    /// A client with everything read already.
    pub fn with(loaded: &Loaded) -> Result<Self> {
        install_provider();
        let authorities = given_authorities(loaded)?;
        let http = builder(loaded)?.tls_certs_only(authorities).build().map_err(|why| unusable(&why))?;
        let https = loaded.ca.is_none().then(Arc::default);
        Ok(Self { http, https, loaded: loaded.clone(), until: None })
    }

    /// The same, for requests that all have to end by then.
    #[must_use]
    pub fn until(&self, until: Instant) -> Self {
        Self { until: Some(until), ..self.clone() }
    }

    /// How long there is for the next wait.
    fn left(&self) -> Duration {
        let patience = self.loaded.patience;
        self.until.map_or(patience, |until| until.saturating_duration_since(Instant::now()).min(patience))
    }

    /// What connects to `url`.
    fn connects(&self, url: &Url) -> Result<&Http> {
        let Some(https) = self.https.as_ref().filter(|_| url.scheme() == "https" || has_proxy()) else {
            return Ok(&self.http);
        };
        if let Some(known) = https.get() {
            return Ok(known);
        }
        let bundled = match system_bundle() {
            Some(authorities) => builder(&self.loaded)?.tls_certs_only(authorities).build().ok(),
            None => None,
        };
        let made = match bundled {
            Some(made) => made,
            // a host without any authorities can still try; it then says that the issuer is unknown
            None => builder(&self.loaded)?.build().unwrap_or_else(|_| self.http.clone()),
        };
        Ok(https.get_or_init(|| made))
    }

    /// Asks for `url`, as often as the options say. Any answer that isn't one of [`Kind`] is an error.
    pub fn get(&self, url: &str, conditions: &Conditions<'_>) -> Result<Reply> {
        let url = read(url)?;
        let mut headers = HeaderMap::new();
        // An `ETag` that can't be sent back is one that nothing depends on.
        if let Some(etag) = conditions.etag.and_then(|etag| etag.parse().ok()) {
            headers.insert(header::IF_NONE_MATCH, etag);
        }
        let bare = headers.clone();
        if let Some(from) = conditions.from {
            headers.insert(header::RANGE, format!("bytes={from}-").parse().map_err(bad_header)?);
            if let Some(state) = conditions.state.and_then(|state| state.parse().ok()) {
                headers.insert(header::IF_RANGE, state);
            }
        }
        let ask = |headers| self.send(&Request { url: &url, home: &url, headers, method: Method::GET, body: None });
        let mut reply = ask(headers)?;
        let is_asked_for = |reply: &Reply| match reply.kind {
            Kind::Partial => reply.part().is_some_and(|(from, to_end, _)| to_end && Some(from) == conditions.from),
            kind => kind != Kind::NoPart,
        };
        if conditions.from.is_some() && !is_asked_for(&reply) {
            log::debug!("GET {}: no such part; asking for all of it", shown(&url));
            reply = ask(bare)?;
        }
        if reply.kind == Kind::Partial && matches!(reply.part(), Some((0, true, Some(_)))) {
            // all of it, however the server calls that
            reply.kind = Kind::Ok;
        }
        if is_asked_for(&reply) {
            return Ok(reply);
        }
        let range = reply.header(&header::CONTENT_RANGE).unwrap_or("nothing");
        Err(Error::new(code::NET, format!("GET {}: the server sent another part than asked for", shown(&url)))
            .because(format!("Content-Range: {range}")))
    }

    /// Asks whether something is at `url`, and how long it is; the answer has no body.
    pub fn head(&self, url: &Url) -> Result<Reply> {
        let headers = HeaderMap::new();
        let mut reply = self.send(&Request { url, home: url, headers, method: Method::HEAD, body: None })?;
        reply.length = reply.header(&header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
        Ok(reply)
    }

    /// Puts `body` at `url`; with `etag`, only if what is there still has that one: [`Kind::Changed`] otherwise.
    pub fn put(&self, url: &Url, body: Vec<u8>, etag: Option<&str>) -> Result<Reply> {
        let mut headers = HeaderMap::new();
        // a weak one never matches here, by the rules of HTTP
        if let Some(etag) = etag.filter(|etag| !etag.starts_with("W/")).and_then(|etag| etag.parse().ok()) {
            headers.insert(header::IF_MATCH, etag);
        }
        self.send(&Request { url, home: url, headers, method: Method::PUT, body: Some(body) })
    }

    /// Posts JSON to `url`; what is answered beyond that it was taken is not read.
    pub fn post_json(&self, url: &str, body: String) -> Result<()> {
        let url = read(url)?;
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let body = Some(body.into_bytes());
        let reply = self.send(&Request { url: &url, home: &url, headers, method: Method::POST, body })?;
        if reply.kind == Kind::Missing {
            return Err(Error::new(code::NET, format!("POST {}: nobody is there to take it", shown(&url)))
                .help("check the address"));
        }
        Ok(())
    }

    /// Sends `request` until there is an answer or no hope.
    pub(crate) fn send(&self, request: &Request<'_>) -> Result<Reply> {
        retry_until(self.loaded.retries, self.until, || self.attempt(request))
    }

    /// Sends `request` once and follows where it leads.
    fn attempt(&self, request: &Request<'_>) -> Result<Reply, Failure> {
        let mut url = request.url.clone();
        for _ in 0..=REDIRECTS {
            let what = format!("{} {}", request.method, shown(&url));
            let puts = request.method == Method::PUT;
            let posts = request.method == Method::POST;
            let mut builder = self
                .connects(&url)
                .map_err(Failure::hopeless)?
                .request(request.method.clone(), url.clone())
                .headers(request.headers.clone());
            if let Some(body) = &request.body {
                // the time of a wait has room for all of it, so long as it isn't too slow
                let sending = Duration::from_secs(body.len() as u64 / SLOWEST);
                builder = builder.timeout(self.loaded.patience.saturating_add(sending)).body(body.clone());
            }
            if self.until.is_some() {
                // none at all would stand for no limit
                builder = builder.timeout(self.left().max(Duration::from_millis(1)));
            }
            if url.origin() == request.home.origin() {
                builder = self.loaded.credentials.add_to(builder);
            }
            let answer = builder.send().map_err(|why| Failure::of(what.clone(), &why))?;
            let kind = match answer.status() {
                StatusCode::OK => Kind::Ok,
                StatusCode::PARTIAL_CONTENT => Kind::Partial,
                StatusCode::NOT_MODIFIED => Kind::NotModified,
                StatusCode::CREATED | StatusCode::NO_CONTENT if puts => Kind::Ok,
                StatusCode::CREATED | StatusCode::ACCEPTED | StatusCode::NO_CONTENT if posts => Kind::Ok,
                StatusCode::PRECONDITION_FAILED if puts => Kind::Changed,
                StatusCode::RANGE_NOT_SATISFIABLE if request.headers.contains_key(header::RANGE) => Kind::NoPart,
                StatusCode::NOT_FOUND | StatusCode::GONE if !puts => Kind::Missing,
                // Like git, a POST goes only where it was sent.
                status if status.is_redirection() && request.body.is_none() => {
                    url = redirected(&what, &url, &answer)?;
                    continue;
                }
                status => return Err(self.refusal(&what, status, &answer)),
            };
            let etag = answer.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
            let (length, pace) = (answer.content_length(), Pace::new(self.loaded.patience));
            return Ok(Reply { kind, etag, length, url, body: answer, pace, until: self.until });
        }
        Err(Failure::hopeless(
            Error::new(code::NET, format!("GET {}: more than {REDIRECTS} redirects", shown(request.url)))
                .help("write the address that they should lead to"),
        ))
    }

    /// The failure that a status stands for.
    fn refusal(&self, what: &str, status: StatusCode, answer: &Response) -> Failure {
        let error = Error::new(code::NET, format!("{what}: the server answered {status}"));
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::hopeless(error.help(match self.loaded.credentials {
                Credentials::None => "authentication failed: set `bearer`, `basic` or `client_cert`",
                Credentials::Bearer(_) => "authentication failed: the server doesn't take the token in `bearer`",
                Credentials::Basic { .. } => "authentication failed: the server doesn't take what is in `basic`",
            })),
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Failure::hopeless(error.help("the proxy wants credentials: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"))
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                Failure { error, again: Again::Later(wish(answer)) }
            }
            status if status.is_server_error() => Failure {
                error: error.help("the server is in trouble: look there, or wait for the next run"),
                again: Again::Later(wish(answer)),
            },
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED | StatusCode::CONFLICT
                if what.starts_with("PUT") =>
            {
                Failure::hopeless(error.help(
                    "the server has to take PUT there, and to make the directories above: with nginx, `dav_methods PUT` \
                     and `create_full_put_path on`",
                ))
            }
            StatusCode::PAYLOAD_TOO_LARGE => {
                Failure::hopeless(error.help("let the server take more: with nginx, `client_max_body_size 128m`"))
            }
            _ => Failure::hopeless(error.help("check the address")),
        }
    }
}

impl Credentials {
    fn add_to(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::None => request,
            Self::Bearer(token) => request.bearer_auth(token),
            Self::Basic { user, password } => request.basic_auth(user, Some(password)),
        }
    }
}

/// Where `answer` sends us, unless that is less safe than where we are.
fn redirected(what: &str, from: &Url, answer: &Response) -> Result<Url, Failure> {
    let refused = |why: String| Failure::hopeless(Error::new(code::NET, format!("{what}: the server redirects {why}")));
    let location = answer.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
    let Some(Ok(mut to)) = location.map(|location| from.join(location)) else {
        return Err(refused("to nowhere".into()));
    };
    // Credentials that come from a server are none of ours.
    let _ = to.set_username("");
    let _ = to.set_password(None);
    match (from.scheme(), to.scheme()) {
        ("https", "https") | ("http", "http" | "https") => Ok(to),
        ("https", "http") => Err(refused(format!("from https to {}, which anybody can read and change", shown(&to)))),
        (_, scheme) => Err(refused(format!("to a {scheme} address"))),
    }
}

/// How long a server wishes us to wait.
fn wish(answer: &Response) -> Option<Duration> {
    let text = answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            Duration::try_from(until.duration_since(jiff::Timestamp::now())).ok()?
        }
    };
    Some(wait.min(LONGEST_WISH))
}

/// Whether trying again may help.
#[derive(Debug)]
pub(crate) enum Again {
    Never,
    /// After the pause that the server asked for, or one of our own.
    Later(Option<Duration>),
}

/// Why an attempt failed, and whether to make another.
#[derive(Debug)]
pub(crate) struct Failure {
    pub error: Error,
    pub again: Again,
}

/// Makes attempts until one succeeds, `retries` more have failed, or it is hopeless.
pub(crate) fn retry<T>(retries: u32, attempt: impl FnMut() -> Result<T, Failure>) -> Result<T> {
    retry_until(retries, None, attempt)
}

/// [`retry`], without a pause beyond a certain time.
fn retry_until<T>(retries: u32, until: Option<Instant>, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T> {
    let mut made = 0;
    loop {
        let Failure { error, again } = match attempt() {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        let Again::Later(wish) = again else { return Err(error) };
        if made == retries {
            return Err(error);
        }
        let pause = wish.map_or_else(|| pause(made), spread);
        if until.is_some_and(|until| until.saturating_duration_since(Instant::now()) <= pause) {
            return Err(error);
        }
        log::debug!("{error}; trying again in {pause:?}");
        std::thread::sleep(pause);
        made += 1;
    }
}

/// A growing pause, with half of it left to chance so that a fleet doesn't come back all at once.
fn pause(made: u32) -> Duration {
    let most = FIRST_PAUSE.saturating_mul(1 << made.min(16)).min(LONGEST_PAUSE);
    Duration::from_millis(most / 2 + chance(most / 2))
}

/// What a server wished for, and up to half as much again: a `Retry-After` with a date is the same moment for a whole fleet.
fn spread(wish: Duration) -> Duration {
    let most = u64::try_from(wish.as_millis() / 2).unwrap_or(u64::MAX);
    wish + Duration::from_millis(chance(most))
}

/// A number up to `most`, left to chance.
fn chance(most: u64) -> u64 {
    // The standard library's keys for hash maps are the chance that is at hand.
    RandomState::new().build_hasher().finish() % most.saturating_add(1)
}

impl Failure {
    /// A failure that will be the same next time.
    pub(crate) fn hopeless(error: Error) -> Self {
        Self { error, again: Again::Never }
    }

    /// Says which of name, connection, TLS and time went wrong with `what`.
    pub(crate) fn of(what: String, why: &(dyn StdError + 'static)) -> Self {
        let causes = causes(why);
        let request = causes.iter().find_map(|cause| cause.downcast_ref::<reqwest::Error>());
        let cause = root_cause(why);
        if let Some(tls) = causes.iter().find_map(|cause| cause.downcast_ref::<rustls::Error>()) {
            return Self::of_tls(&what, tls);
        }
        let later = |error| Self { error, again: Again::Later(None) };
        if request.is_some_and(reqwest::Error::is_builder) {
            return Self::hopeless(Error::new(code::NET, format!("{what}: the request can't be made")).because(cause));
        }
        if request.is_some_and(reqwest::Error::is_dns) {
            return later(
                Error::new(code::NET, format!("{what}: the host's name can't be resolved"))
                    .because(cause)
                    .help("check the spelling of the host, and DNS on this host (/etc/resolv.conf)"),
            );
        }
        if request.is_some_and(reqwest::Error::is_timeout) {
            let which = if request.is_some_and(reqwest::Error::is_connect) { "connection" } else { "answer" };
            return later(
                Error::new(code::NET, format!("{what}: timeout, no {which} in time")).help(
                    "is the server up, and does a firewall or proxy drop it? `timeout = SECONDS` allows for more",
                ),
            );
        }
        if request.is_some_and(reqwest::Error::is_connect) {
            return later(Error::new(code::NET, format!("{what}: no connection")).because(cause).help(
                "is the server up, the port right, and a firewall or proxy (HTTPS_PROXY, NO_PROXY) in the way?",
            ));
        }
        later(Error::new(code::NET, format!("{what}: the connection broke")).because(cause))
    }

    fn of_tls(what: &str, why: &rustls::Error) -> Self {
        let cause = match why {
            // Without the words that say that it is about a certificate.
            rustls::Error::InvalidCertificate(problem) => problem.to_string(),
            why => why.to_string(),
        };
        let help = match why {
            rustls::Error::InvalidCertificate(problem) => match problem {
                // A bad signature is that of another authority with the same name.
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    "the authority that issued it is not trusted: name its PEM file, ca = \"FILE\", or install the \
                     system's ca-certificates"
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "renew the server's certificate; or is this host's clock wrong?"
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "is this host's clock wrong?"
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    "use the name that the certificate was issued for, or give the server one with this name"
                }
                _ => "the server needs another certificate",
            },
            rustls::Error::AlertReceived(
                AlertDescription::CertificateRequired
                | AlertDescription::HandshakeFailure
                | AlertDescription::BadCertificate
                | AlertDescription::UnknownCA
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::AccessDenied,
            ) => "the server wants a client certificate that it trusts: set `client_cert` and `client_key`",
            _ => "does the server speak TLS 1.2 or 1.3 on this port?",
        };
        let problem = match why {
            rustls::Error::InvalidCertificate(_) => "TLS: the server's certificate is not good",
            rustls::Error::AlertReceived(_) => "TLS: the server hung up",
            _ => "TLS failed",
        };
        Self::hopeless(Error::new(code::NET, format!("{what}: {problem}")).because(cause).help(help))
    }
}

/// An error and everything behind it, also what an [`io::Error`] hides inside.
fn causes<'a>(why: &'a (dyn StdError + 'static)) -> Vec<&'a (dyn StdError + 'static)> {
    let mut all = vec![why];
    let mut at = why;
    loop {
        let hidden = at.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let next = match hidden {
            Some(hidden) => Some(hidden as &(dyn StdError + 'static)),
            None => at.source(),
        };
        let Some(next) = next else { return all };
        all.push(next);
        at = next;
    }
}

/// Whether it was TLS that failed: then somebody is there.
pub(crate) fn is_tls(why: &(dyn StdError + 'static)) -> bool {
    causes(why).iter().any(|cause| cause.is::<rustls::Error>())
}

/// What it all comes from, in a few words and without addresses, which can have a secret in them.
fn root_cause(why: &(dyn StdError + 'static)) -> String {
    causes(why)
        .into_iter()
        .rev()
        .find(|cause| !cause.is::<reqwest::Error>())
        .map_or_else(|| "no reason given".into(), ToString::to_string)
}

fn bad_header(why: header::InvalidHeaderValue) -> Error {
    Error::new(code::NET, "a request can't be written").because(why)
}

/// Reads a file that an option names.
fn named(option: &str, file: &Path) -> Result<Vec<u8>> {
    read::named(file).map_err(|why| {
        Error::new(code::NET, format!("`{option}`: {} can't be read", file.display()))
            .because(why)
            .help(format!("put the file there, or correct `{option}`"))
    })
}

/// Reads credentials: one line, of which nothing may reach a message.
fn secret(option: &str, file: &Path) -> Result<String> {
    let wrong = |why| Error::new(code::NET, format!("`{option}`: {} {why}", file.display()));
    let text = String::from_utf8(named(option, file)?).map_err(|_| wrong("is not text"))?;
    match text.trim() {
        "" => Err(wrong("is empty").help("write the credentials into it, as one line")),
        text if text.contains(char::is_control) => {
            Err(wrong("has more than one line").help("write the credentials into it, as one line"))
        }
        text => Ok(text.to_owned()),
    }
}

/// The certificates in a PEM file; at least one.
fn certificates(option: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&named(option, file)?).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(Error::new(code::NET, format!("`{option}`: {} has no certificate in it", file.display()))
            .help("it must be PEM: -----BEGIN CERTIFICATE-----")),
    }
}

fn authorities(file: &Path) -> Result<String> {
    for der in certificates("ca", file)? {
        reqwest::Certificate::from_der(&der).map_err(|why| {
            Error::new(code::NET, format!("`ca`: {} can't be used", file.display())).because(root_cause(&why))
        })?;
    }
    // what stands around the certificates may be in any encoding
    Ok(String::from_utf8_lossy(&named("ca", file)?).into_owned())
}

fn identity(certificate: &Path, key: &Path) -> Result<String> {
    certificates("client_cert", certificate)?;
    let key_pem = named("client_key", key)?;
    if PrivateKeyDer::from_pem_slice(&key_pem).is_err() {
        return Err(Error::new(code::NET, format!("`client_key`: {} has no private key in it", key.display()))
            .help("it must be PEM without a passphrase: -----BEGIN PRIVATE KEY-----"));
    }
    let mut pem = named("client_cert", certificate)?;
    pem.push(b'\n');
    pem.extend(key_pem);
    reqwest::Identity::from_pem(&pem).map_err(|why| {
        Error::new(
            code::NET,
            format!("`client_cert` {} and `client_key` {} can't be used", certificate.display(), key.display()),
        )
        .because(root_cause(&why))
    })?;
    Ok(String::from_utf8_lossy(&pem).into_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::testing::{Answer, Authority, Server};
    use super::*;

    fn once() -> Options {
        Options { retries: Some(0), ..Options::default() }
    }

    fn get(options: &Options, url: &str) -> Result<Reply> {
        Client::new(options)?.get(url, &Conditions::default())
    }

    fn body(options: &Options, url: &str) -> Vec<u8> {
        read_all(get(options, url).unwrap(), 1000).unwrap()
    }

    fn problem(options: &Options, url: &str) -> Error {
        get(options, url).err().unwrap()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    /// After how many seconds a body is given up that comes like this, second by second; `None` when it is not within an hour.
    fn given_up(bytes: impl Fn(u64) -> u64) -> Option<u64> {
        let mut pace = Pace::new(Duration::from_secs(20));
        let began = pace.last;
        (1..3600).find(|second| pace.check_at(bytes(*second), began + Duration::from_secs(*second)).is_err())
    }

    #[test]
    fn an_answer_that_comes_by_drops_is_given_up_after_a_minute_whatever_its_size() {
        assert_eq!(given_up(|_| 1500), Some(63));
        assert_eq!(given_up(|_| 1000), Some(20), "which is not even waited for");
        assert_eq!(given_up(|_| STEADY), None);
        // a pause is nothing bad
        assert_eq!(given_up(|second| if second % 60 < 15 { 1100 } else { 2 * STEADY }), None);
    }

    #[test]
    fn an_answer_can_not_live_on_what_it_has_sent_quickly_before() {
        let quick_then_drops = |second| if second <= 100 { 100 * STEADY } else { 1500 };
        assert_eq!(given_up(quick_then_drops), Some(163));
    }

    #[test]
    fn only_the_pinned_authority_is_trusted() {
        let (ours, other) = (Authority::new(), Authority::new());
        let server = Server::secure(ours.server("127.0.0.1", None), |_| Answer::new(200, "hello"));
        let url = server.url("a");
        assert_eq!(body(&Options { ca: Some(ours.file()), ..once() }, &url), b"hello");
        for options in [Options { ca: Some(other.file()), ..once() }, once()] {
            let error = problem(&options, &url);
            assert!(error.to_string().contains("TLS: the server's certificate is not good"), "{error}");
            assert!(error.advice().unwrap().contains("ca = \"FILE\""));
        }
        assert_eq!(server.seen().len(), 1);
    }

    #[test]
    fn a_certificate_for_another_name_is_refused_by_name() {
        let authority = Authority::new();
        let server = Server::secure(authority.server("elsewhere", None), |_| Answer::new(200, ""));
        let error = problem(&Options { ca: Some(authority.file()), ..once() }, &server.url(""));
        assert!(error.to_string().contains("elsewhere"), "{error}");
        assert!(error.advice().unwrap().contains("the name that the certificate was issued for"));
    }

    #[test]
    fn a_server_that_wants_a_client_certificate_gets_it() {
        let authority = Authority::new();
        let tls = authority.server("127.0.0.1", Some(&authority));
        let server = Server::secure(tls, |_| Answer::new(200, "hello"));
        let mut options = Options { ca: Some(authority.file()), ..once() };
        let error = problem(&options, &server.url(""));
        assert!(error.advice().unwrap().contains("client_cert"), "{error}: {:?}", error.advice());
        let (certificate, key) = authority.issue("host1");
        options = Options { client_cert: Some(certificate), client_key: Some(key), ..options };
        assert_eq!(body(&options, &server.url("")), b"hello");
    }

    #[test]
    fn credentials_come_from_a_file_and_are_sent() {
        let server = Server::plain(|_| Answer::new(200, ""));
        let token = file("hunter2\n");
        get(&Options { bearer: Some(token.path().into()), ..once() }, &server.url("")).unwrap();
        let pair = file("me:pass:word\n");
        get(&Options { basic: Some(pair.path().into()), ..once() }, &server.url("")).unwrap();
        let seen = server.seen();
        assert_eq!(seen[0].header("authorization"), Some("Bearer hunter2"));
        assert_eq!(seen[1].header("authorization"), Some("Basic bWU6cGFzczp3b3Jk"));
    }

    #[test]
    fn a_file_that_is_missing_or_wrong_is_named_and_its_contents_are_not() {
        let wrong = file("hunter2");
        let authority = Authority::new();
        let path = wrong.path().to_path_buf();
        let none = PathBuf::from("/nonexistent/file");
        for (options, expected) in [
            (Options { bearer: Some(none.clone()), ..once() }, "`bearer`: /nonexistent/file can't be read"),
            (Options { ca: Some(none), ..once() }, "`ca`: /nonexistent/file can't be read"),
            (Options { basic: Some(path.clone()), ..once() }, "has no `:` in it"),
            (Options { ca: Some(path.clone()), ..once() }, "has no certificate in it"),
            (
                Options { client_cert: Some(path.clone()), client_key: Some(path.clone()), ..once() },
                "has no certificate in it",
            ),
            (
                Options { client_cert: Some(authority.issue("a").0), client_key: Some(path), ..once() },
                "has no private key in it",
            ),
        ] {
            let error = Client::new(&options).err().unwrap();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn the_key_of_another_certificate_is_refused() {
        let authority = Authority::new();
        let ((certificate, _), (_, key)) = (authority.issue("a"), authority.issue("b"));
        let error = Client::new(&Options { client_cert: Some(certificate), client_key: Some(key), ..once() });
        assert_eq!(error.err().unwrap().advice().map(|help| help.contains("must be the key of")), Some(true));
    }

    #[test]
    fn a_redirect_from_https_to_http_is_refused() {
        let authority = Authority::new();
        let plain = Server::plain(|_| Answer::new(200, "tampered"));
        let to = plain.url("b");
        let server = Server::secure(authority.server("127.0.0.1", None), move |_| {
            Answer::new(302, "").with("Location", to.clone())
        });
        let error = problem(&Options { ca: Some(authority.file()), ..once() }, &server.url("a"));
        assert!(error.to_string().contains("redirects from https to http://127.0.0.1"), "{error}");
        assert!(plain.seen().is_empty());
    }

    #[test]
    fn a_redirect_leads_to_no_other_scheme_and_not_round_and_round() {
        let file = Server::plain(|_| Answer::new(301, "").with("Location", "file:///etc/passwd"));
        assert!(problem(&once(), &file.url("")).to_string().ends_with("redirects to a file address"));
        let circle = Server::plain(|_| Answer::new(307, "").with("Location", "/again"));
        assert!(problem(&once(), &circle.url("")).to_string().ends_with("more than 5 redirects"));
        assert_eq!(circle.seen().len(), 6);
    }

    #[test]
    fn credentials_follow_a_redirect_on_the_same_server_only() {
        let other = Server::plain(|_| Answer::new(200, "there"));
        let to = other.url("c");
        let server = Server::plain(move |request| match request.path.as_str() {
            "/a" => Answer::new(302, "").with("Location", "/b"),
            _ => Answer::new(302, "").with("Location", to.clone()),
        });
        let token = file("hunter2");
        assert_eq!(body(&Options { bearer: Some(token.path().into()), ..once() }, &server.url("a")), b"there");
        assert_eq!(server.seen()[1].header("authorization"), Some("Bearer hunter2"));
        assert_eq!(other.seen()[0].header("authorization"), None);
    }

    /// A server that answers `status` until it was asked three times.
    fn recovering(status: u16) -> Server {
        let asked = AtomicUsize::new(0);
        Server::plain(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => Answer::new(status, "").with("Retry-After", "0"),
            _ => Answer::new(200, "at last"),
        })
    }

    #[test]
    fn what_may_pass_is_tried_again_and_what_will_not_is_not() {
        for status in [408, 425, 429, 500, 503] {
            let server = recovering(status);
            assert_eq!(body(&Options::default(), &server.url("")), b"at last", "{status}");
        }
        for status in [400, 401, 403, 405] {
            let server = recovering(status);
            let error = problem(&Options::default(), &server.url("x?token=hunter2"));
            assert!(error.to_string().starts_with(&format!("GET {}: the server answered {status}", server.url("x"))));
            assert!(!error.to_string().contains("hunter2"));
            assert_eq!(server.seen().len(), 1, "{status}");
        }
    }

    #[test]
    fn retries_end_with_the_last_failure() {
        let server = recovering(502);
        let error = problem(&Options { retries: Some(1), ..Options::default() }, &server.url(""));
        assert!(error.to_string().contains("502 Bad Gateway"), "{error}");
        assert_eq!(server.seen().len(), 2);
    }

    #[test]
    fn pauses_grow_to_a_bound_and_keep_half_of_their_length() {
        for (made, most) in [(0, 250), (1, 500), (2, 1000), (5, 5000), (40, 5000)] {
            let pause = u64::try_from(pause(made).as_millis()).unwrap();
            assert!((most / 2..=most).contains(&pause), "{made}: {pause}");
        }
    }

    #[test]
    fn a_fleet_that_is_told_one_moment_does_not_come_back_in_one() {
        let wish = Duration::from_secs(20);
        let pauses: Vec<Duration> = (0..64).map(|_| spread(wish)).collect();
        assert!(pauses.iter().all(|pause| (wish..=wish * 3 / 2).contains(pause)), "{pauses:?}");
        let (first, last) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
        assert!(*last - *first > Duration::from_secs(2), "{pauses:?}");
        assert_eq!(spread(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_server_that_is_away_and_one_that_is_silent_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let silent = problem(&Options { timeout: Some(1), ..once() }, &url);
        assert!(silent.to_string().ends_with("timeout, no answer in time"), "{silent}");
        drop(listener);
        let away = problem(&once(), &url);
        assert!(away.to_string().contains(": no connection: "), "{away}");
        assert!(away.to_string().contains("refused"), "{away}");
    }

    #[test]
    fn a_name_that_cannot_be_resolved_is_told_as_that() {
        // No label may be this long, so nobody is asked.
        let error = problem(&once(), &format!("http://{}.invalid/", "a".repeat(64)));
        assert!(error.to_string().contains("the host's name can't be resolved"), "{error}");
    }

    #[test]
    fn a_proxy_is_used_unless_the_host_is_excepted() {
        let proxy = Server::plain(|_| Answer::new(200, ""));
        // The variables are those of a process, so another test runs in one that has them.
        let run = |except: &str| {
            std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "net::tests::credentials_come_from_a_file_and_are_sent"])
                .envs([("HTTP_PROXY", proxy.url("").as_str()), ("http_proxy", &proxy.url("")), ("NO_PROXY", except)])
                .envs([("no_proxy", except)])
                .output()
                .unwrap()
        };
        assert!(run("127.0.0.1").status.success());
        assert!(proxy.seen().is_empty());
        assert!(!run("").status.success());
        assert!(proxy.seen()[0].path.starts_with("http://127.0.0.1:"), "{:?}", proxy.seen());
    }

    #[test]
    fn plain_http_behind_an_https_address_is_told_as_tls() {
        let authority = Authority::new();
        let server = Server::plain(|_| Answer::new(200, ""));
        let url = server.url("").replace("http:", "https:");
        let error = problem(&Options { ca: Some(authority.file()), ..once() }, &url);
        assert!(error.to_string().contains(": TLS failed: "), "{error}");
    }

    #[test]
    fn conditions_are_sent_and_their_answers_known() {
        let server = Server::plain(|request| match (request.path.as_str(), request.header("range")) {
            ("/none", _) => Answer::new(404, "a page"),
            ("/gone", _) => Answer::new(410, "a page"),
            ("/wrong", _) => Answer::new(206, "ello").with("Content-Range", "bytes 1-4/5"),
            ("/whole", _) => Answer::new(206, "hello").with("Content-Range", "bytes 0-4/5"),
            ("/short", Some(_)) => Answer::new(416, "").with("Content-Range", "bytes */5"),
            (_, Some("bytes=3-")) => Answer::new(206, "lo").with("Content-Range", "bytes 3-4/5"),
            _ if request.header("if-none-match") == Some("\"x\"") => Answer::new(304, ""),
            _ => Answer::new(200, "hello").with("ETag", "\"x\""),
        });
        let client = Client::new(&once()).unwrap();
        let ask = |path: &str, etag, from| client.get(&server.url(path), &Conditions { etag, from, state: None });
        let whole = ask("a", None, None).unwrap();
        assert_eq!((whole.kind, whole.etag.as_deref(), whole.length), (Kind::Ok, Some("\"x\""), Some(5)));
        assert_eq!(ask("a", Some("\"x\""), None).unwrap().kind, Kind::NotModified);
        assert_eq!(ask("none", None, None).unwrap().kind, Kind::Missing);
        assert_eq!(ask("gone", None, None).unwrap().kind, Kind::Missing);
        let part = ask("a", None, Some(3)).unwrap();
        assert_eq!(part.kind, Kind::Partial);
        assert_eq!(read_all(part, 2).unwrap(), b"lo");
        assert!(ask("wrong", None, Some(3)).err().unwrap().to_string().contains("another part"));
        for path in ["whole", "short"] {
            let all = ask(path, None, Some(3)).unwrap();
            assert_eq!(all.kind, Kind::Ok, "{path}");
            assert_eq!(read_all(all, 5).unwrap(), b"hello", "{path}");
        }
    }

    #[test]
    fn a_body_over_the_limit_is_refused_announced_or_not() {
        let server = Server::plain(|request| Answer {
            announced: request.path == "/announced",
            ..Answer::new(200, vec![0; 100_000])
        });
        for path in ["announced", "silent"] {
            let error = read_all(get(&once(), &server.url(path)).unwrap(), 99_999).unwrap_err();
            assert_eq!(error.to_string(), format!("{} has more than 99999 bytes", server.url(path)));
            assert_eq!(read_all(get(&once(), &server.url(path)).unwrap(), 100_000).unwrap().len(), 100_000);
        }
    }

    #[test]
    fn a_body_that_breaks_off_is_an_error() {
        let server =
            Server::plain(|_| Answer { announced: false, ..Answer::new(200, "half") }.with("Content-Length", "1000"));
        let error = read_all(get(&once(), &server.url("a")).unwrap(), 1000).unwrap_err();
        assert!(error.to_string().starts_with(&format!("GET {}: the answer broke off", server.url("a"))), "{error}");
    }

    #[test]
    fn a_wish_is_read_as_seconds_or_as_a_date() {
        let date = Arc::new("Wed, 21 Oct 2065 07:28:00 GMT");
        let server = Server::plain(move |request| {
            let wish = if request.path == "/date" { date.to_string() } else { "7".into() };
            Answer::new(200, "").with("Retry-After", wish)
        });
        assert_eq!(wish(&get(&once(), &server.url("date")).unwrap().body), Some(LONGEST_WISH));
        assert_eq!(wish(&get(&once(), &server.url("seconds")).unwrap().body), Some(Duration::from_secs(7)));
    }
}
