//! Why a request failed, in words that tell what to do; and when to try again.

use std::error::Error as StdError;
use std::time::{Duration, Instant};

use reqwest::blocking::Response;
use reqwest::header;
use rustls::{AlertDescription, CertificateError};

use crate::error::{Error, Result, chain, code};

/// The pause before the first retry, in milliseconds; it doubles with each.
const FIRST_PAUSE: u64 = 250;
/// The longest pause that we choose, in milliseconds.
const LONGEST_PAUSE: u64 = 5_000;
/// The longest pause that a server can make us take with `Retry-After`.
pub(super) const LONGEST_WISH: Duration = Duration::from_secs(30);

/// Whether trying again may help.
#[derive(Debug)]
pub(crate) enum Retryable {
    Never,
    /// After the pause that the server asked for, or one of our own.
    Later(Option<Duration>),
}

/// Why an attempt failed, and whether to make another.
#[derive(Debug)]
pub(crate) struct Failure {
    pub error: Error,
    pub again: Retryable,
}

impl Failure {
    /// A failure that will be the same next time.
    pub(crate) fn hopeless(error: Error) -> Self {
        Self { error, again: Retryable::Never }
    }

    /// Says which of name, connection, TLS and time went wrong with `what`.
    pub(crate) fn of(what: String, why: &(dyn StdError + 'static)) -> Self {
        let request = chain(why).find_map(|cause| cause.downcast_ref::<reqwest::Error>());
        let cause = root_cause(why);
        if let Some(tls) = chain(why).find_map(|cause| cause.downcast_ref::<rustls::Error>()) {
            return Self::of_tls(&what, tls);
        }
        let later = |error| Self { error, again: Retryable::Later(None) };
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
        let (problem, help) = match why {
            rustls::Error::InvalidCertificate(problem) => {
                let help = match problem {
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
                };
                // Without the words that say that it is about a certificate.
                (format!("the server's certificate is not good: {problem}"), help)
            }
            rustls::Error::AlertReceived(
                AlertDescription::CertificateRequired
                | AlertDescription::HandshakeFailure
                | AlertDescription::BadCertificate
                | AlertDescription::UnknownCA
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::AccessDenied,
            ) => (
                format!("the server hung up: {why}"),
                "the server wants a client certificate that it trusts: set `client_cert` and `client_key`",
            ),
            _ => (why.to_string(), "does the server speak TLS 1.2 or 1.3 on this port?"),
        };
        Self::hopeless(Error::new(code::NET, format!("{what}: TLS failed")).because(problem).help(help))
    }
}

/// Makes attempts until one succeeds, `retries` more have failed, it is hopeless, or the pause before the next would end after `until`.
pub(crate) fn retry<T>(
    retries: u32,
    until: Option<Instant>,
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> Result<T> {
    let mut made = 0;
    loop {
        let Failure { error, again } = match attempt() {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        let Retryable::Later(wish) = again else { return Err(error) };
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
pub(super) fn pause(made: u32) -> Duration {
    let most = FIRST_PAUSE.saturating_mul(1 << made.min(16)).min(LONGEST_PAUSE);
    Duration::from_millis(fastrand::u64(most / 2..=most))
}

/// What a server wished for, and up to half as much again: a `Retry-After` with a date is the same moment for a whole fleet.
pub(super) fn spread(wish: Duration) -> Duration {
    let most = u64::try_from(wish.as_millis() / 2).unwrap_or(u64::MAX);
    wish + Duration::from_millis(fastrand::u64(..=most))
}

/// How long a server wishes us to wait.
pub(super) fn wish(answer: &Response) -> Option<Duration> {
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

/// Whether it was TLS that failed: then somebody is there.
pub(crate) fn is_tls(why: &(dyn StdError + 'static)) -> bool {
    chain(why).any(|cause| cause.is::<rustls::Error>())
}

/// What it all comes from, in a few words and without addresses, which can have a secret in them.
pub(super) fn root_cause(why: &(dyn StdError + 'static)) -> String {
    let root = chain(why).filter(|cause| !cause.is::<reqwest::Error>()).last();
    root.map_or_else(|| "no reason given".into(), ToString::to_string)
}
