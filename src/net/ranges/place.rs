//! A place that has a file, of which it hands out parts.

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Url};

use crate::error::{Error, Result, code};
use crate::net::{Again, Client, Failure, Kind, Reply, Request, bad_header, read, shown};

/// A server's address of a file of which the size is known.
#[derive(Clone)]
pub(super) struct Place {
    pub url: Url,
    /// Where that has led to.
    at: Option<Url>,
    /// The server's name for what it hands out: a strong `ETag`, or when it was modified.
    state: Option<HeaderValue>,
    /// Whether it has handed out a part of it.
    pub works: bool,
}

impl Place {
    /// A place that was not asked yet.
    pub fn new(url: &str) -> Result<Self> {
        Ok(Self { url: read(url)?, at: None, state: None, works: false })
    }

    /// The place that has given `reply`.
    pub fn of(url: &str, reply: &Reply) -> Result<Self> {
        Ok(Self { at: Some(reply.url().clone()), state: state(reply), works: true, ..Self::new(url)? })
    }

    /// Asks once for the bytes from `from` to before `end`, or to the last, of a file of `total` bytes. An answer is that part of
    /// the file that this place had before, as far as the server tells.
    pub fn ask(&mut self, client: &Client, from: u64, end: Option<u64>, total: u64) -> Result<Reply, Failure> {
        let end = end.unwrap_or(total);
        let mut headers = HeaderMap::new();
        let range = HeaderValue::try_from(format!("bytes={from}-{}", end.saturating_sub(1)));
        headers.insert(header::RANGE, range.map_err(|why| Failure::hopeless(bad_header(why)))?);
        if let Some(state) = &self.state {
            headers.insert(header::IF_RANGE, state.clone());
        }
        let get = |url: &Url| {
            let headers = headers.clone();
            client.attempt(&Request { url, home: &self.url, headers, method: Method::GET, body: None })
        };
        let reply = match self.at.as_ref().filter(|at| **at != self.url).map(get) {
            // where it led to may be an address for a few minutes only
            Some(Ok(reply)) if matches!(reply.kind, Kind::Partial | Kind::Ok) => reply,
            Some(Err(failure)) if matches!(failure.again, Again::Later(_)) => return Err(failure),
            _ => get(&self.url)?,
        };
        self.judge(&reply, from, end, total)?;
        self.at = Some(reply.url().clone());
        self.state = state(&reply);
        self.works = true;
        Ok(reply)
    }

    /// Whether `reply` has those bytes of that file.
    fn judge(&self, reply: &Reply, from: u64, end: u64, total: u64) -> Result<(), Failure> {
        let what = format!("GET {}", shown(&self.url));
        let has = match reply.kind {
            Kind::Partial => {
                let range = reply.header(&header::CONTENT_RANGE).unwrap_or("nothing");
                let (part, has) = range.rsplit_once('/').unwrap_or((range, ""));
                let has = has.parse().ok();
                if has == Some(total) && part != format!("bytes {from}-{}", end - 1) {
                    return Err(Failure::hopeless(
                        Error::new(code::NET, format!("{what}: the server sent another part than asked for"))
                            .because(format!("Content-Range: {range}")),
                    ));
                }
                has
            }
            Kind::Ok => reply.length,
            Kind::NoPart => {
                return Err(Failure::hopeless(Error::new(code::NET, format!("{what}: it has no such part"))));
            }
            _ => return Err(Failure::hopeless(Error::new(code::NET, format!("{what}: it is not there")))),
        };
        let error = match has {
            Some(has) if has != total && self.works => {
                return Err(Failure::hopeless(changed(&what, &format!("it had {total} bytes, and has {has}"))));
            }
            Some(has) if has != total => Error::new(code::NET, format!("{what}: another file, of {has} bytes")),
            _ if reply.kind == Kind::Ok => {
                Error::new(code::NET, format!("{what}: the server hands out no part of this file"))
            }
            _ if self.state.as_ref().is_some_and(|state| self::state(reply).is_some_and(|now| now != *state)) => {
                Error::new(code::NET, format!("{what}: the server hands out another file"))
            }
            Some(_) => return Ok(()),
            None => Error::new(code::NET, format!("{what}: the server does not say how long the file is")),
        };
        Err(Failure::hopeless(error))
    }

    /// Forgets what the server called the file: whoever asks now lets the digest decide.
    pub fn forget(&mut self) {
        self.state = None;
    }
}

fn changed(what: &str, why: &str) -> Error {
    Error::new(code::CHANGED, format!("{what}: the file has changed while it was downloaded")).because(why)
}

/// See [`Reply::state`].
fn state(reply: &Reply) -> Option<HeaderValue> {
    reply.state()?.parse().ok()
}
