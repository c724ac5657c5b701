//! Which of a host's sources are asked in a run, and in which order.
//!
//! The first that answers ends the search, so that a run with nothing to do costs one question. That source alone could hold news
//! back for ever. So all of them are asked at intervals, and in each run once the kept release has expired. One that failed comes
//! after the others for a while.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::engine::take::Agent;
use crate::error::{Error, Exit, Result, code};
use crate::sandbox;
use crate::source::{self, Poll, Source};

/// A source that takes longer is slow.
const SLOW: Duration = Duration::from_secs(30);

/// The sources to ask.
pub(super) struct Order {
    /// Their positions in the configuration.
    pub positions: Vec<usize>,
    /// Whether all of them are due, whatever the first says.
    pub all: bool,
}

impl Agent<'_> {
    /// One of the host's sources.
    pub fn source(&self, index: usize, config: &source::Config) -> Result<Box<dyn Source>> {
        sandbox::open(config, &self.store.source_cache(index), &self.config.sandbox.require)
    }

    /// In which order the sources are asked now; `is_fresh` tells whether there is a release that has not expired.
    pub(super) fn order(&self, is_fresh: bool) -> Order {
        let mut positions: Vec<usize> = (0..self.config.sources.len()).collect();
        if positions.len() < 2 {
            return Order { positions, all: false };
        }
        let (known, now) = (self.store.addresses(), Timestamp::now());
        let failed = |config| source::name(config).ok().and_then(|name| known.failed(&name, now));
        positions.sort_by_cached_key(|at| self.config.sources.get(*at).and_then(failed));
        let every = SignedDuration::try_from(self.config.ask_all_every()).unwrap_or(SignedDuration::MAX);
        Order { positions, all: !is_fresh || !known.all_were_asked(every, now) }
    }

    /// Remembers how a source did, and in how long, for the order of the next run. One whose release is refused is not put behind the
    /// others for that: each run says so.
    pub(super) fn note_source<T>(&self, name: &str, took: Duration, outcome: &Result<T>) -> Result<()> {
        if self.config.sources.len() < 2 {
            return Ok(());
        }
        let has_answered = outcome.as_ref().err().is_none_or(|error| error.exit_code() == Exit::Refused);
        self.store.note_address(name, has_answered && took < SLOW)
    }

    /// Whether no source has news, of those that are to be asked now.
    pub fn sources_are_quiet(&self) -> bool {
        let marks = self.store.marks();
        let order = self.order(true);
        let asked = if order.all { order.positions.len() } else { 1 };
        let is_quiet = |at: &usize| {
            let Some(Ok(mut source)) = self.config.sources.get(*at).map(|config| self.source(*at, config)) else {
                return false;
            };
            let name = source.name();
            let Some(mark) = marks.get(&name) else { return false };
            let began = Instant::now();
            let answer = source.poll(Some(mark));
            // one that fails is asked once more by the longer way, which tells of it
            matches!(answer, Ok(Poll::Unchanged)) && self.note_source(&name, began.elapsed(), &answer).is_ok()
        };
        let quiet = !order.positions.is_empty() && order.positions.iter().take(asked).all(is_quiet);
        quiet && (!order.all || self.store.note_all_asked().is_ok())
    }

    /// Whether a source can be reached now.
    pub fn reaches_source(&self) -> Result<()> {
        let marks = self.store.marks();
        let mut last = Error::new(code::NET, "there is no source to reach");
        let positions = self.order(true).positions;
        let sources = positions.iter().filter_map(|at| Some((*at, self.config.sources.get(*at)?)));
        for (index, config) in sources {
            let asked = self
                .source(index, config)
                .and_then(|mut source| source.poll(marks.get(&source.name()).map(String::as_str)).map(drop));
            match asked {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}
