//! A large file over several connections at once, where one alone is slower than what is done with the bytes.
//!
//! It begins with one connection, open to the file's end, and most of the time that is all. When the reader has done little but
//! wait for it, another one fetches parts further on, from the same server or from another that has the file; when the first
//! comes to them it ends, and there are as many for parts as there may be. Where they bring little more than one does, it is one
//! again for a while. What a server refuses, or breaks off, means fewer connections, and in the end one again, from where
//! the reader is. No answer is taken for a part of the file that is not, as far as the server tells; the digest tells the rest.

mod parts;
mod place;

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header;

use crate::error::{Error, Result, code};
use crate::net::{Ask, Client, Conditions, Download, Failure, Kind, Reply, retry};
use parts::{Ahead, PART, Parts, Taken};
use place::Place;

/// Connections for one file unless somebody says otherwise.
pub const CONNECTIONS: usize = 4;
/// The fewest bytes for which more than one connection is thought of.
pub const LARGE: u64 = 16 << 20;
/// The fewest bytes behind what one connection does meanwhile for which another is opened.
const LEFT: u64 = 4 << 20;
/// How long is looked before something is changed.
const PERIOD: Duration = Duration::from_secs(1);
/// Which share of its time a reader waits for whom connections are too slow.
const MOSTLY: f64 = 0.75;
/// For how many periods there is one connection after more have brought little; twice as many the next time.
const PAUSE: u32 = 8;

/// Asks for a file, which comes over up to `connections` at once if that helps, and if whoever reads it can tell whether all of it
/// is of one file.
pub fn get(client: &Client, ask: &Ask<'_>, connections: usize) -> Result<Download> {
    let reply = client.get(ask.url, &Conditions { etag: None, from: ask.from, state: ask.state })?;
    let (kind, length, state) = (reply.kind, reply.length, reply.state().map(str::to_owned));
    let at = match kind {
        Kind::Partial => ask.from.unwrap_or(0),
        _ => 0,
    };
    let has_parts = kind == Kind::Partial
        || kind == Kind::Ok && reply.header(&header::ACCEPT_RANGES).is_some_and(|unit| unit.trim() == "bytes");
    let body: Box<dyn Read> = match length {
        Some(length) if has_parts && may_help(length, ask.is_pinned, connections) => {
            Box::new(Ranges::new(client, ask, reply, at, at.saturating_add(length), connections)?)
        }
        _ => Box::new(reply),
    };
    Ok(Download { kind, length, state, body })
}

/// Whether other connections are ever thought of for the `length` bytes that are left of a file.
fn may_help(length: u64, is_pinned: bool, connections: usize) -> bool {
    is_pinned && connections > 1 && length >= LARGE
}

/// A file, read in order.
struct Ranges {
    client: Client,
    /// The connection that is open to the file's end.
    lead: Option<Reply>,
    /// Whether others fetch parts.
    has_company: bool,
    parts: Arc<Parts>,
    /// The next byte that is read.
    at: u64,
    total: u64,
    meter: Meter,
    /// The bytes a second over one connection; none while they are not known.
    alone: Option<u64>,
    /// The most bytes a second that there were.
    best: u64,
    /// For how many periods there have been connections for parts.
    periods: u32,
    /// How many periods more to keep to one connection, and how many the next time.
    pause: (u32, u32),
}

/// What a reader does with its time.
struct Meter {
    since: Instant,
    waited: Duration,
    /// Where it began.
    bytes: u64,
}

impl Meter {
    fn new(bytes: u64) -> Self {
        Self { since: Instant::now(), waited: Duration::ZERO, bytes }
    }

    fn left(&self) -> Duration {
        PERIOD.saturating_sub(self.since.elapsed())
    }

    /// Does something that is waiting.
    fn wait<T>(&mut self, what: impl FnOnce() -> T) -> T {
        let since = Instant::now();
        let done = what();
        self.waited += since.elapsed();
        done
    }

    /// Whether it was waiting most of the time, and the bytes a second up to byte `bytes`.
    fn read(&self, bytes: u64) -> (bool, u64) {
        let elapsed = self.since.elapsed();
        let rate = bytes.saturating_sub(self.bytes) as f64 / elapsed.as_secs_f64().max(0.001);
        (self.waited >= elapsed.mul_f64(MOSTLY), rate as u64)
    }
}

impl Ranges {
    fn new(client: &Client, ask: &Ask<'_>, lead: Reply, at: u64, total: u64, connections: usize) -> Result<Self> {
        let mut places = vec![Place::of(ask.url, &lead)?];
        // one that can't be read is none
        places.extend(ask.others.iter().filter_map(|url| Place::new(url).ok()));
        Ok(Self {
            client: client.clone(),
            lead: Some(lead),
            has_company: false,
            parts: Parts::new(client.clone(), total, places, connections),
            at,
            total,
            meter: Meter::new(at),
            alone: None,
            best: 0,
            periods: 0,
            pause: (0, PAUSE),
        })
    }

    /// Looks back at a period: whether other connections than there are would help.
    fn look_back(&mut self) {
        let is_alone = self.lead.is_some() && !self.has_company;
        let bytes = if self.lead.is_some() { self.at } else { self.parts.lock().arrived };
        let (waits, rate) = self.meter.read(bytes);
        self.meter = Meter::new(bytes);
        if is_alone {
            // what this one does until another has its first answer
            let from = self.at.saturating_add(rate.max(PART));
            // the first period says little: servers begin faster than they go on, and lines slower
            let may_have_more = self.pause.0 == 0 && self.parts.lock().most > 1;
            if waits && may_have_more && self.alone.is_some() && from.saturating_add(LEFT) < self.total {
                (self.has_company, self.periods) = (true, 0);
                self.parts.start(from);
            }
            self.alone = Some(rate);
            self.pause.0 = self.pause.0.saturating_sub(1);
        } else if self.lead.is_none() && waits {
            let is_held_up = rate < self.best / 2 && self.parts.pass_slow();
            self.periods = self.periods.saturating_add(1);
            // in the first they are only opened
            let is_little = || brings_little(self.alone.unwrap_or(0), rate, self.parts.lock().wanted);
            if !is_held_up && self.periods == 2 && is_little() {
                self.parts.want(1);
            }
        }
        self.best = self.best.max(rate);
    }

    /// Keeps to one connection for a while.
    fn pause(&mut self) {
        let (_, next) = self.pause;
        self.pause = (next, next.saturating_mul(2));
        (self.has_company, self.alone) = (false, None);
    }

    /// Reads from the connection that is open to the end, up to what others have; nothing when it has come to that.
    fn read_lead(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let mut room = buffer.len();
        if self.lead.is_some() && self.has_company {
            match self.parts.ahead(self.at) {
                Ahead::Alone => self.pause(),
                Ahead::Free(bytes) => room = room.min(usize::try_from(bytes).unwrap_or(usize::MAX)),
                Ahead::Part => {
                    self.lead = None;
                    self.parts.leads(false);
                    self.parts.want(usize::MAX);
                    self.meter = Meter::new(self.parts.lock().arrived);
                    return Ok(None);
                }
            }
        }
        let Some(lead) = &mut self.lead else { return Ok(None) };
        self.meter.wait(|| lead.read(&mut buffer[..room])).map(Some)
    }

    /// Reads what others have fetched; nothing when nobody does any more.
    fn read_parts(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.parts.take(buffer).map_err(io::Error::other)? {
                Taken::Bytes(count) => return Ok(Some(count)),
                Taken::Left => return Ok(None),
                Taken::Wait => {
                    let left = self.meter.left();
                    self.meter.wait(|| self.parts.wait(left));
                    if self.meter.left().is_zero() {
                        self.look_back();
                    }
                }
            }
        }
    }

    /// Goes on with one connection from where the reader is.
    fn lead_again(&mut self) -> Result<()> {
        let mut places = self.parts.lock().places.clone();
        places.iter_mut().for_each(Place::forget);
        let lead = retry(self.client.loaded.retries, || {
            let ask = |place: &mut Place| place.ask(&self.client, self.at, None, self.total);
            let Some((first, others)) = places.split_first_mut() else {
                return Err(Failure::hopeless(Error::new(code::NET, "no address is left")));
            };
            ask(first).or_else(|failure| others.iter_mut().find_map(|place| ask(place).ok()).ok_or(failure))
        })?;
        self.lead = Some(lead);
        self.pause();
        self.parts.leads(true);
        self.meter = Meter::new(self.at);
        Ok(())
    }
}

impl Read for Ranges {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.at == self.total {
            return Ok(0);
        }
        if self.meter.left().is_zero() {
            self.look_back();
        }
        let count = match self.read_lead(buffer)? {
            Some(count) => count,
            None => match self.read_parts(buffer)? {
                Some(count) => count,
                None => {
                    self.lead_again().map_err(io::Error::other)?;
                    self.read_lead(buffer)?.unwrap_or(0)
                }
            },
        };
        self.at += count as u64;
        Ok(count)
    }
}

impl Drop for Ranges {
    fn drop(&mut self) {
        self.parts.end();
    }
}

/// Whether so many connections `together` bring less than a quarter of what they could bring beyond one `alone`, in bytes a second.
fn brings_little(alone: u64, together: u64, connections: usize) -> bool {
    together.saturating_mul(4) < alone.saturating_mul(connections as u64 + 3)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::error::code;
    use crate::net::testing::{Answer, Seen, Server};
    use crate::net::{Options, from_io};

    /// Where parts begin in these tests.
    const FROM: u64 = 2 * PART;

    static CONTENT: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let words = 0..u32::try_from((LARGE + PART / 2) / 4).unwrap();
        words.flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
    });

    fn range(request: &Seen) -> Option<(usize, usize)> {
        let (from, last) = request.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((from.parse().unwrap(), last.parse::<usize>().unwrap() + 1))
    }

    /// What a good web server answers.
    fn good(content: &[u8], request: &Seen) -> Answer {
        let answer = match range(request) {
            Some((from, end)) if request.header("if-range").is_none_or(|state| state == "\"x\"") => {
                Answer::new(206, &content[from..end])
                    .with("Content-Range", format!("bytes {from}-{}/{}", end - 1, content.len()))
            }
            _ => Answer::new(200, content),
        };
        answer.with("Accept-Ranges", "bytes").with("ETag", "\"x\"")
    }

    /// A server that answers the nth request for a part, from 0, as `answer` says, and the others as a good one does.
    fn server(answer: impl Fn(usize, &Seen, Answer) -> Answer + Send + Sync + 'static) -> Server {
        let asked = AtomicUsize::new(0);
        Server::plain(move |request| match range(request) {
            Some(_) => answer(asked.fetch_add(1, Ordering::SeqCst), request, good(&CONTENT, request)),
            None => good(&CONTENT, request),
        })
    }

    /// Reads the first of `servers` with parts from [`FROM`] on, once `ready` is so, and with no more than `connections`.
    fn read(servers: &[&Server], connections: usize, ready: impl Fn(&Parts) -> bool) -> Result<Vec<u8>> {
        let urls: Vec<String> = servers.iter().map(|server| server.url("tool")).collect();
        let ask = Ask { url: &urls[0], others: &urls[1..], from: None, state: None, is_pinned: true };
        let client = Client::new(&Options { retries: Some(0), ..Options::default() }).unwrap();
        let lead = client.get(ask.url, &Conditions::default()).unwrap();
        let total = lead.length.unwrap();
        let mut ranges = Ranges::new(&client, &ask, lead, 0, total, connections).unwrap();
        ranges.has_company = true;
        ranges.parts.start(FROM);
        while !ready(&ranges.parts) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut bytes = Vec::new();
        ranges.read_to_end(&mut bytes).map_err(from_io)?;
        Ok(bytes)
    }

    fn has_part(parts: &Parts) -> bool {
        parts.lock().arrived > 0
    }

    fn is_given_up(parts: &Parts) -> bool {
        parts.lock().wanted < 2
    }

    fn asked(servers: &[&Server]) -> Vec<(usize, usize)> {
        let mut all: Vec<_> = servers.iter().flat_map(|server| server.seen()).filter_map(|seen| range(&seen)).collect();
        all.sort_unstable();
        all
    }

    /// Whether all behind [`FROM`] was asked for, and no byte twice.
    fn once(asked: &[(usize, usize)]) -> bool {
        asked.windows(2).all(|pair| pair[0].1 == pair[1].0)
            && asked.first().is_some_and(|first| first.0 as u64 == FROM)
            && asked.last().is_some_and(|last| last.1 == CONTENT.len())
    }

    #[test]
    fn a_small_file_and_one_without_a_pin_have_one_connection() {
        assert!(may_help(LARGE, true, 2));
        assert!(!may_help(LARGE - 1, true, 2));
        assert!(!may_help(LARGE, false, 2), "nobody could tell whether all parts are of one file");
        assert!(!may_help(LARGE, true, 1));
    }

    #[test]
    fn connections_are_too_slow_when_nearly_all_of_the_time_is_spent_on_waiting_for_them() {
        let second = Instant::now().checked_sub(PERIOD).unwrap();
        for (waited, waits) in [(0, false), (500, false), (900, true)] {
            let meter = Meter { since: second, waited: Duration::from_millis(waited), bytes: 1000 };
            let (is_waiting, rate) = meter.read(1000 + PART);
            assert!(is_waiting == waits && (1..=PART).contains(&rate), "{waited}: {rate}");
        }
    }

    #[test]
    fn connections_bring_little_when_they_share_what_one_had() {
        for (together, connections, little) in
            [(100, 4, true), (174, 4, true), (175, 4, false), (124, 2, true), (125, 2, false)]
        {
            assert_eq!(brings_little(100, together, connections), little, "{together} over {connections}");
        }
    }

    #[test]
    fn parts_of_several_servers_are_read_in_order_and_each_is_asked_for_once() {
        let (one, two) = (server(|_, _, answer| answer), server(|_, _, answer| answer));
        assert!(read(&[&one, &two], 4, has_part).unwrap() == *CONTENT);
        assert!(once(&asked(&[&one, &two])), "{:?}", asked(&[&one, &two]));
        assert!(!asked(&[&one]).is_empty() && !asked(&[&two]).is_empty());
        let states: Vec<_> = one.seen().iter().filter_map(|seen| seen.header("if-range").map(str::to_owned)).collect();
        assert_eq!(states.len(), asked(&[&one]).len());
    }

    #[test]
    fn a_server_with_another_file_or_none_has_no_share() {
        let one = server(|_, _, answer| answer);
        let other = Server::plain(|request| good(&CONTENT[1..], request));
        let none = Server::plain(|_| Answer::new(404, ""));
        let without = Server::plain(|_| Answer::new(200, &CONTENT[..]));
        assert!(read(&[&one, &other, &none, &without], 4, has_part).unwrap() == *CONTENT);
        assert!(once(&asked(&[&one])), "{:?}", asked(&[&one]));
    }

    #[test]
    fn a_server_that_refuses_or_breaks_off_parts_gives_the_rest_over_one_connection() {
        type Refusal = fn(Answer) -> Answer;
        let refusals: [Refusal; 5] = [
            |_| Answer::new(503, "").with("Retry-After", "3600"),
            |_| Answer::new(429, ""),
            |_| Answer::new(200, &CONTENT[..]),
            |_| Answer::new(416, ""),
            |answer| {
                let length = answer.body.len().to_string();
                let half = answer.body[..answer.body.len() / 2].to_vec();
                Answer { body: half, announced: false, ..answer }.with("Content-Length", length)
            },
        ];
        for (index, refuse) in refusals.into_iter().enumerate() {
            // what goes to the end is the one connection
            let server = server(move |nth, request, answer| {
                let is_part = range(request).is_some_and(|(from, end)| end - from <= PART as usize);
                if nth > 2 && is_part { refuse(answer) } else { answer }
            });
            assert!(read(&[&server], 4, has_part).unwrap() == *CONTENT, "{index}");
            assert!(asked(&[&server]).iter().any(|(from, end)| end - from > PART as usize && *end == CONTENT.len()));
        }
    }

    #[test]
    fn a_server_that_hands_out_no_part_after_all_is_read_to_the_end_over_the_first_connection() {
        let server = Server::plain(|_| Answer::new(200, &CONTENT[..]).with("Accept-Ranges", "bytes"));
        assert!(read(&[&server], 4, is_given_up).unwrap() == *CONTENT);
        assert_eq!(server.seen().len(), 2);
    }

    #[test]
    fn a_file_that_is_replaced_by_one_of_another_size_is_refused() {
        let server = server(|nth, request, answer| match nth {
            0..=8 => answer,
            _ => good(&CONTENT[1..], &Seen { headers: Vec::new(), ..request.clone() }).with("ETag", "\"y\""),
        });
        let error = read(&[&server], 4, has_part).unwrap_err();
        assert_eq!(error.code(), code::CHANGED);
        assert!(error.to_string().contains("the file has changed while it was downloaded"), "{error}");
    }

    #[test]
    fn parts_by_another_name_are_not_taken_and_the_digest_decides_about_the_rest() {
        let server = server(|nth, request, answer| match (nth, request.header("if-range")) {
            (0..=8, _) | (_, None) => answer,
            _ => Answer::new(200, &CONTENT[..]).with("ETag", "\"y\""),
        });
        assert!(read(&[&server], 4, has_part).unwrap() == *CONTENT);
        let seen = server.seen();
        let last = seen.last().unwrap();
        assert_eq!((last.header("if-range"), range(last).unwrap().1), (None, CONTENT.len()));
    }
}
