//! Answers of web servers, with limits on size and a minimum speed.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use reqwest::Url;
use reqwest::blocking::Response;
use reqwest::header::{self, HeaderName};
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::shown;
use crate::error::{Error, Result, error, refused};

/// The minimum bytes per second over one timeout: a server that sends a byte now and then could otherwise block the host for
/// years.
pub(super) const SLOWEST: u64 = 1024;
/// The minimum bytes per second of a whole download, with three timeouts of tolerance: a server that sends just enough could otherwise
/// block the host for hours.
pub(crate) const STEADY: u64 = 32 << 10;

/// The kind of an answer. All other answers are errors.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Kind {
    /// The whole body.
    Ok,
    /// The body from the requested byte.
    Partial,
    /// The body is unchanged, and was not sent.
    NotModified,
    /// Nothing is at this address (404, 410).
    Missing,
    /// The condition of a replacement failed, and nothing was replaced (412).
    Changed,
    /// The body has no such part (416).
    NoPart,
}

/// The answer to a request; reading it reads the body. Read failures are [`Error`]s inside an [`io::Error`].
pub struct Reply {
    /// What kind of answer it is.
    pub kind: Kind,
    /// The `ETag` of the body.
    pub etag: Option<String>,
    /// The size of the body in bytes, if the server sent that.
    pub length: Option<u64>,
    /// The final address after redirects.
    pub(super) url: Url,
    pub(super) body: Response,
    pub(super) pace: Pace,
    pub(super) until: Option<Instant>,
}

/// The speed of a download.
pub(crate) struct Pace {
    patience: Duration,
    /// When bytes were last received.
    pub(super) last: Instant,
    /// The delay relative to [`STEADY`]. Fast bytes reduce it, but are not credited for later.
    behind: Duration,
    /// When the current interval of `patience` began, and the bytes received in it.
    since: Instant,
    bytes: u64,
}

impl Pace {
    pub(crate) fn new(patience: Duration) -> Self {
        let now = Instant::now();
        Self { patience, last: now, behind: Duration::ZERO, since: now, bytes: 0 }
    }

    /// Checks the speed after `count` more bytes; the error is why it is too slow.
    pub(crate) fn check(&mut self, count: usize) -> Result<(), String> {
        self.check_at(count as u64, Instant::now())
    }

    pub(super) fn check_at(&mut self, count: u64, now: Instant) -> Result<(), String> {
        let slow = |least: u64| Err(format!("fewer than {least} bytes per second"));
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
    /// The final address after redirects.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Identifies the state of the body for the server: a strong `ETag`, or the time of its last modification.
    pub fn state(&self) -> Option<&str> {
        let etag = self.header(&header::ETAG).filter(|etag| !etag.starts_with("W/"));
        etag.or_else(|| self.header(&header::LAST_MODIFIED))
    }

    /// The part of the body: its first byte, whether it extends to the end, and the size of the whole body.
    pub(super) fn part(&self) -> Option<(u64, bool, Option<u64>)> {
        let range = self.header(&header::CONTENT_RANGE)?.strip_prefix("bytes ")?;
        let (range, total) = range.split_once('/')?;
        let (from, last) = range.split_once('-')?;
        let (from, last, total): (u64, u64, Option<u64>) = (from.parse().ok()?, last.parse().ok()?, total.parse().ok());
        Some((from, total.is_none_or(|total| last.checked_add(1) == Some(total)), total))
    }

    /// A header, if it exists and is text.
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.body.headers().get(name).and_then(|value| value.to_str().ok())
    }
}

impl Read for Reply {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.body.read(buf).map_err(|why| {
            let what = format!("GET {}: the answer was interrupted", shown(&self.url));
            io::Error::new(why.kind(), Failure::of(what, &why).error)
        })?;
        if self.until.is_some_and(|until| until <= Instant::now()) {
            return Err(io::Error::other(too_slow(&self.url, "the deadline has passed")));
        }
        if count > 0 {
            self.pace.check(count).map_err(|why| io::Error::other(too_slow(&self.url, &why)))?;
        }
        Ok(count)
    }
}

/// The error for a download that is too slow.
pub(crate) fn too_slow(url: &Url, why: &str) -> Error {
    error!(NET, "GET {}: the answer is too slow", shown(url))
        .because(why)
        .help("use a faster source, or raise `timeout = SECONDS`")
}

/// Reads the whole body of a part of a release. If it has more than `max` bytes, the release is refused, and the rest is not read.
pub fn read_all(mut reply: Reply, max: u64) -> Result<Vec<u8>> {
    let too_big = |url: &Url| {
        refused!(NET, "{} has more than {max} bytes", shown(url))
            .help("kpull does not read the rest: check whether it was changed after signing")
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

/// The [`Error`] inside a read failure of a [`Reply`].
pub fn from_io(why: io::Error) -> Error {
    why.downcast::<Error>().unwrap_or_else(|why| error!(NET, "reading an answer failed").because(why))
}
