//! The HTTP client: trust, redirects, and the interpretation of answers.

use std::path::Path;
use std::sync::{Arc, Once, OnceLock};
use std::time::{Duration, Instant};

use reqwest::blocking::{Client as Http, Response};
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};

use super::failure::{Failure, Retryable, retry, retry_after, root_cause};
use super::options::{Credentials, LoadedOptions, Options};
use super::reply::{Kind, Pace, Reply, SLOWEST};
use super::{read, shown};
use crate::error::{Error, Result, error};

/// Redirects that one request follows at most.
const REDIRECTS: usize = 5;
/// Files with all authorities of a system (Debian, Fedora, SUSE, Alpine).
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The conditions of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conditions<'a> {
    /// Don't send the body if it still has this `ETag`.
    pub etag: Option<&'a str>,
    /// Send the body from this byte on. If the server can't, or the body is shorter, the answer is the whole body, [`Kind::Ok`].
    pub from: Option<u64>,
    /// Send it from there only if it still has this state, see [`Reply::state`].
    pub state: Option<&'a str>,
}

/// One request, with all its retries and redirects.
pub(crate) struct Request<'a> {
    /// The address.
    pub url: &'a Url,
    /// The only server that gets the credentials.
    pub home: &'a Url,
    /// Headers besides those of every request.
    pub headers: HeaderMap,
    /// The method.
    pub method: Method,
    /// The body of a POST or PUT.
    pub body: Option<Vec<u8>>,
}

/// A client with one set of options. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: Http,
    /// The client with the system's authorities, for https if no others are configured. It is made only if it is needed, since reading
    /// them takes longer than everything else.
    https: Option<Arc<OnceLock<Http>>>,
    loaded: LoadedOptions,
    /// The deadline of all requests, if there is one besides the timeouts in the options.
    until: Option<Instant>,
}

impl Client {
    /// A client with these options; it uses `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`. An error if a file in the options is missing or
    /// invalid.
    pub fn new(options: &Options) -> Result<Self> {
        Self::with(&options.load()?)
    }

    /// A client with options whose files are read already.
    pub fn with(loaded: &LoadedOptions) -> Result<Self> {
        install_provider();
        let authorities = given_authorities(loaded)?;
        let http = builder(loaded)?.tls_certs_only(authorities).build().map_err(|why| unusable(&why))?;
        let https = loaded.ca.is_none().then(Arc::default);
        Ok(Self { http, https, loaded: loaded.clone(), until: None })
    }

    /// The same client with a deadline for all requests.
    #[must_use]
    pub fn until(&self, until: Instant) -> Self {
        Self { until: Some(until), ..self.clone() }
    }

    /// The timeout of the next wait.
    fn left(&self) -> Duration {
        let patience = self.loaded.patience;
        self.until.map_or(patience, |until| until.saturating_duration_since(Instant::now()).min(patience))
    }

    /// The client for `url`.
    fn client_for(&self, url: &Url) -> Result<&Http> {
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
            // without any authorities, the connection fails with an unknown issuer
            None => builder(&self.loaded)?.build().unwrap_or_else(|_| self.http.clone()),
        };
        Ok(https.get_or_init(|| made))
    }

    /// Requests `url`, with the retries in the options. Any answer that isn't one of [`Kind`] is an error.
    pub fn get(&self, url: &str, conditions: &Conditions<'_>) -> Result<Reply> {
        let url = read(url)?;
        let mut headers = HeaderMap::new();
        // an `ETag` that can't be sent back is ignored
        if let Some(etag) = conditions.etag.and_then(|etag| etag.parse().ok()) {
            headers.insert(header::IF_NONE_MATCH, etag);
        }
        let without_range = headers.clone();
        if let Some(from) = conditions.from {
            headers.insert(header::RANGE, format!("bytes={from}-").parse().map_err(bad_header)?);
            if let Some(state) = conditions.state.and_then(|state| state.parse().ok()) {
                headers.insert(header::IF_RANGE, state);
            }
        }
        let ask = |headers| self.send(&Request { url: &url, home: &url, headers, method: Method::GET, body: None });
        let mut reply = ask(headers)?;
        let is_requested = |reply: &Reply| match reply.kind {
            Kind::Partial => reply.part().is_some_and(|(from, to_end, _)| to_end && Some(from) == conditions.from),
            kind => kind != Kind::NoPart,
        };
        if conditions.from.is_some() && !is_requested(&reply) {
            log::debug!("GET {}: no such part; requesting the whole file", shown(&url));
            reply = ask(without_range)?;
        }
        if reply.kind == Kind::Partial && matches!(reply.part(), Some((0, true, Some(_)))) {
            // it is the whole body
            reply.kind = Kind::Ok;
        }
        if is_requested(&reply) {
            return Ok(reply);
        }
        let range = reply.header(&header::CONTENT_RANGE).unwrap_or("nothing");
        Err(error!(NET, "GET {}: the server sent another part than requested", shown(&url))
            .because(format!("Content-Range: {range}")))
    }

    /// Requests only the headers of `url`, including its length.
    pub fn head(&self, url: &Url) -> Result<Reply> {
        let headers = HeaderMap::new();
        let mut reply = self.send(&Request { url, home: url, headers, method: Method::HEAD, body: None })?;
        reply.length = reply.header(&header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
        Ok(reply)
    }

    /// Puts `body` at `url`; with `etag`, only if what is there still has that one: [`Kind::Changed`] otherwise.
    pub fn put(&self, url: &Url, body: Vec<u8>, etag: Option<&str>) -> Result<Reply> {
        let mut headers = HeaderMap::new();
        // by the rules of HTTP, a weak one never matches here
        if let Some(etag) = etag.filter(|etag| !etag.starts_with("W/")).and_then(|etag| etag.parse().ok()) {
            headers.insert(header::IF_MATCH, etag);
        }
        self.send(&Request { url, home: url, headers, method: Method::PUT, body: Some(body) })
    }

    /// Posts JSON to `url`; the body of the answer is not read.
    pub fn post_json(&self, url: &str, body: String) -> Result<()> {
        let url = read(url)?;
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let body = Some(body.into_bytes());
        let reply = self.send(&Request { url: &url, home: &url, headers, method: Method::POST, body })?;
        if reply.kind == Kind::Missing {
            return Err(error!(NET, "POST {}: the server does not accept requests at this address", shown(&url))
                .help("check the address"));
        }
        Ok(())
    }

    /// Sends `request` until there is an answer or a permanent failure.
    pub(crate) fn send(&self, request: &Request<'_>) -> Result<Reply> {
        retry(self.loaded.retries, self.until, || self.attempt(request))
    }

    /// Sends `request` once and follows redirects.
    fn attempt(&self, request: &Request<'_>) -> Result<Reply, Failure> {
        let mut url = request.url.clone();
        for _ in 0..=REDIRECTS {
            let what = format!("{} {}", request.method, shown(&url));
            let puts = request.method == Method::PUT;
            let posts = request.method == Method::POST;
            let mut builder = self
                .client_for(&url)
                .map_err(Failure::permanent)?
                .request(request.method.clone(), url.clone())
                .headers(request.headers.clone());
            if let Some(body) = &request.body {
                // the timeout covers the whole body, unless it is sent too slowly
                let sending = Duration::from_secs(body.len() as u64 / SLOWEST);
                builder = builder.timeout(self.loaded.patience.saturating_add(sending)).body(body.clone());
            }
            if self.until.is_some() {
                // zero would mean no limit
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
                // like git, don't redirect a POST
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
        Err(Failure::permanent(
            error!(NET, "GET {}: more than {REDIRECTS} redirects", shown(request.url)).help("use the final address"),
        ))
    }

    /// The failure for a status.
    fn refusal(&self, what: &str, status: StatusCode, answer: &Response) -> Failure {
        let error = error!(NET, "{what}: the server answered {status}");
        let later = Retryable::Later(retry_after(answer));
        let help = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => match self.loaded.credentials {
                Credentials::None => "authentication failed: set `bearer`, `basic` or `client_cert`",
                Credentials::Bearer(_) => "authentication failed: the server doesn't accept the token in `bearer`",
                Credentials::Basic { .. } => {
                    "authentication failed: the server doesn't accept the user and password in `basic`"
                }
            },
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                "the proxy requires credentials: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                return Failure { error, again: later };
            }
            status if status.is_server_error() => {
                let help = "the server has an error: check its log; the next run tries again";
                return Failure { error: error.help(help), again: later };
            }
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::CONFLICT if what.starts_with("PUT") => {
                "the server must accept PUT there, and create missing directories: with nginx, use `dav_methods PUT` \
                 and `create_full_put_path on`"
            }
            StatusCode::PAYLOAD_TOO_LARGE => {
                "let the server accept larger files: with nginx, use `client_max_body_size 128m`"
            }
            _ => "check the address",
        };
        Failure::permanent(error.help(help))
    }
}

/// The target of a redirect, unless that is less secure.
fn redirected(what: &str, from: &Url, answer: &Response) -> Result<Url, Failure> {
    let refused = |why: String| Failure::permanent(error!(NET, "{what}: the server redirects {why}"));
    let location = answer.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
    let Some(Ok(mut to)) = location.map(|location| from.join(location)) else {
        return Err(refused("to nowhere".into()));
    };
    // ignore credentials from a server
    let _ = to.set_username("");
    let _ = to.set_password(None);
    match (from.scheme(), to.scheme()) {
        ("https", "https") | ("http", "http" | "https") => Ok(to),
        ("https", "http") => Err(refused(format!("from https to {}, which is not encrypted", shown(&to)))),
        (_, scheme) => Err(refused(format!("to a {scheme} address"))),
    }
}

fn bad_header(why: header::InvalidHeaderValue) -> Error {
    error!(NET, "a request can't be written").because(why)
}

fn unusable(why: &reqwest::Error) -> Error {
    error!(NET, "the files for TLS can't be used")
        .because(root_cause(why))
        .help("`client_key` must be the key of the first certificate in `client_cert`, and `ca` an authority")
}

/// The builder of a client, without its authorities.
fn builder(loaded: &LoadedOptions) -> Result<reqwest::blocking::ClientBuilder> {
    let builder = Http::builder()
        .user_agent(concat!("kpull/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(loaded.patience)
        // for each wait, not for a whole download
        .timeout(loaded.patience)
        // `attempt` follows redirects, and refuses some
        .redirect(reqwest::redirect::Policy::none());
    Ok(match &loaded.identity {
        Some(pem) => builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).map_err(|why| unusable(&why))?),
        None => builder,
    })
}

/// Installs the cryptography of rustls.
fn install_provider() {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // fails only if there is one already
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// A plain client for other protocols over HTTP, with their own rules for retries: no proxy, no redirects, and with timeouts for the
/// connection and for each wait for an answer.
pub(crate) fn direct(loaded: &LoadedOptions, connect: Duration, answer: Duration) -> Result<Http> {
    install_provider();
    let mut builder = builder(loaded)?.connect_timeout(connect).timeout(answer).no_proxy();
    if loaded.ca.is_some() {
        builder = builder.tls_certs_only(given_authorities(loaded)?);
    }
    builder.build().map_err(|why| unusable(&why))
}

/// The authorities in the options.
fn given_authorities(loaded: &LoadedOptions) -> Result<Vec<reqwest::Certificate>> {
    let given = loaded.ca.as_ref().map(|pem| reqwest::Certificate::from_pem_bundle(pem.as_bytes()));
    Ok(given.transpose().map_err(|why| unusable(&why))?.unwrap_or_default())
}

/// The system's authorities from the one file that has all of them, which is faster than reading their directory; `None` if there is
/// none, or if the environment names a directory.
fn system_bundle() -> Option<Vec<reqwest::Certificate>> {
    let pem = match (std::env::var_os("SSL_CERT_FILE"), std::env::var_os("SSL_CERT_DIR")) {
        (None, None) => BUNDLES.iter().find_map(|path| crate::read::named(Path::new(path)).ok())?,
        (Some(file), None) => crate::read::named(Path::new(&file)).ok()?,
        (_, Some(_)) => return None,
    };
    reqwest::Certificate::from_pem_bundle(&pem).ok().filter(|authorities| !authorities.is_empty())
}

/// Whether a proxy is set, which may itself use TLS.
fn has_proxy() -> bool {
    ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}
