//! Answers of web servers, bounded in size and held to a pace.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use reqwest::Url;
use reqwest::blocking::Response;
use reqwest::header::{self, HeaderName};
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::shown;
use crate::error::{Error, Result, code};

/// The fewest bytes a second that are waited for, counted over one timeout: a server that hands out a byte now and then
/// would otherwise keep the host from its work for years.
pub(super) const SLOWEST: u64 = 1024;
/// The bytes a second for which an address is given time in all, and three timeouts more: one that sends just enough to be waited for
/// would otherwise keep the host from its work for hours.
pub(crate) const STEADY: u64 = 32 << 10;

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
    pub(super) url: Url,
    pub(super) body: Response,
    pub(super) pace: Pace,
    pub(super) until: Option<Instant>,
}

/// How fast a body comes in.
pub(crate) struct Pace {
    patience: Duration,
    /// When bytes have come last.
    pub(super) last: Instant,
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

    pub(super) fn check_at(&mut self, count: u64, now: Instant) -> Result<(), String> {
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
    pub(super) fn part(&self) -> Option<(u64, bool, Option<u64>)> {
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
