//! Failures of requests, with advice, and retries.

use std::error::Error as StdError;
use std::time::{Duration, Instant};

use reqwest::blocking::Response;
use reqwest::header;
use rustls::{AlertDescription, CertificateError};

use crate::error::{Error, Result, chain, error};

/// The pause before the first retry, in milliseconds; it doubles with each.
const FIRST_PAUSE: u64 = 250;
/// The longest pause without `Retry-After`, in milliseconds.
const LONGEST_PAUSE: u64 = 5_000;
/// The longest pause that a server can request with `Retry-After`.
pub(super) const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30);

/// Whether a retry may help.
#[derive(Debug)]
pub(crate) enum Retryable {
    Never,
    /// After the pause that the server requested, or a default one.
    Later(Option<Duration>),
}

/// Why an attempt failed, and whether to retry.
#[derive(Debug)]
pub(crate) struct Failure {
    pub error: Error,
    pub again: Retryable,
}

impl Failure {
    /// A permanent failure.
    pub(crate) fn permanent(error: Error) -> Self {
        Self { error, again: Retryable::Never }
    }

    /// Determines whether the name, the connection, TLS or a timeout caused the failure.
    pub(crate) fn of(what: String, why: &(dyn StdError + 'static)) -> Self {
        let request = chain(why).find_map(|cause| cause.downcast_ref::<reqwest::Error>());
        let cause = root_cause(why);
        if let Some(tls) = chain(why).find_map(|cause| cause.downcast_ref::<rustls::Error>()) {
            return Self::of_tls(&what, tls);
        }
        let is = |check: fn(&reqwest::Error) -> bool| request.is_some_and(check);
        let error = |problem: &str| error!(NET, "{what}: {problem}");
        if is(reqwest::Error::is_builder) {
            return Self::permanent(error("the request can't be sent").because(cause));
        }
        let error = if is(reqwest::Error::is_dns) {
            error("the host's name can't be resolved")
                .because(cause)
                .help("check the spelling of the host, and DNS on this host (/etc/resolv.conf)")
        } else if is(reqwest::Error::is_timeout) {
            let missing = if is(reqwest::Error::is_connect) { "connection" } else { "answer" };
            error(&format!("timeout, no {missing} in time"))
                .help("check that the server is up, and that no firewall or proxy blocks the connection; `timeout = SECONDS` allows more time")
        } else if is(reqwest::Error::is_connect) {
            error("no connection")
                .because(cause)
                .help("check that the server is up, that the port is right, and that no firewall or proxy (HTTPS_PROXY, NO_PROXY) blocks the connection")
        } else {
            error("the connection was closed").because(cause)
        };
        Self { error, again: Retryable::Later(None) }
    }

    fn of_tls(what: &str, why: &rustls::Error) -> Self {
        let (problem, help) = match why {
            rustls::Error::InvalidCertificate(problem) => {
                let help = match problem {
                    // a bad signature comes from another authority with the same name
                    CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                        "its issuer is not trusted: set its PEM file, ca = \"FILE\", or install the \
                         system's ca-certificates"
                    }
                    CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                        "renew the server's certificate, or correct this host's clock"
                    }
                    CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                        "check this host's clock"
                    }
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                        "use the name that the certificate was issued for, or issue a certificate with this name for the server"
                    }
                    _ => "the server needs another certificate",
                };
                // without the prefix that it is about a certificate
                (format!("the server's certificate is not valid: {problem}"), help)
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
                format!("the server closed the connection: {why}"),
                "the server requires a client certificate that it trusts: set `client_cert` and `client_key`",
            ),
            _ => (why.to_string(), "check that the server supports TLS 1.2 or 1.3 on this port"),
        };
        Self::permanent(error!(NET, "{what}: TLS failed").because(problem).help(help))
    }
}

/// Makes attempts until one succeeds, `retries` more have failed, a failure is permanent, or the next pause would end after `until`.
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
        let Retryable::Later(requested) = again else { return Err(error) };
        if made == retries {
            return Err(error);
        }
        let pause = requested.map_or_else(|| pause(made), spread);
        if until.is_some_and(|until| until.saturating_duration_since(Instant::now()) <= pause) {
            return Err(error);
        }
        log::debug!("{error}; trying again in {pause:?}");
        std::thread::sleep(pause);
        made += 1;
    }
}

/// A growing pause, half of it random, so that a fleet doesn't retry all at once.
pub(super) fn pause(made: u32) -> Duration {
    let most = FIRST_PAUSE.saturating_mul(1 << made.min(16)).min(LONGEST_PAUSE);
    Duration::from_millis(fastrand::u64(most / 2..=most))
}

/// The pause that a server requested plus up to half of it: a `Retry-After` with a date is the same time for a whole fleet.
pub(super) fn spread(requested: Duration) -> Duration {
    let most = u64::try_from(requested.as_millis() / 2).unwrap_or(u64::MAX);
    requested + Duration::from_millis(fastrand::u64(..=most))
}

/// The pause that a server requests.
pub(super) fn retry_after(answer: &Response) -> Option<Duration> {
    let text = answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            Duration::try_from(until.duration_since(jiff::Timestamp::now())).ok()?
        }
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

/// Whether TLS failed, so that a server is there.
pub(crate) fn is_tls(why: &(dyn StdError + 'static)) -> bool {
    chain(why).any(|cause| cause.is::<rustls::Error>())
}

/// The root cause, without addresses, which can have secrets.
pub(super) fn root_cause(why: &(dyn StdError + 'static)) -> String {
    let root = chain(why).filter(|cause| !cause.is::<reqwest::Error>()).last();
    root.map_or_else(|| "no reason given".into(), ToString::to_string)
}
