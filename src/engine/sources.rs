//! Which of a host's sources are asked in a run, and in which order.
//!
//! The first that answers ends the search, so that a run with nothing to do costs one question. That source alone could hold news
//! back for ever. So all of them are asked at intervals, and in each run once the kept release has expired. One that failed comes
//! after the others for a while.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::engine::select::Agent;
use crate::error::{Error, Exit, Result, code};
use crate::sandbox::{self, Need};
use crate::source::{self, Poll, Source};

/// A source that takes longer is slow.
const SLOW: Duration = Duration::from_secs(30);

/// One of the host's sources, as it is configured.
pub struct Configured<'a> {
    config: &'a source::Config,
    /// A directory for its own use.
    cache: PathBuf,
    required: &'a [Need],
}

impl Configured<'_> {
    /// Opens it. What talks to the network for it is a process without rights.
    pub fn open(&self) -> Result<Box<dyn Source>> {
        sandbox::open(self.config, &self.cache, self.required)
    }
}

/// The sources to ask.
pub(super) struct Order<'a> {
    /// The first one to ask comes first.
    pub sources: Vec<Configured<'a>>,
    /// Whether all of them are due, whatever the first says.
    pub all: bool,
}

impl Agent<'_> {
    /// The host's sources, in the order of its kpull.toml.
    pub fn sources(&self) -> Vec<Configured<'_>> {
        let required = &self.config.sandbox.require;
        let configs = self.config.sources.iter().enumerate();
        configs.map(|(index, config)| Configured { config, cache: self.store.source_cache(index), required }).collect()
    }

    /// In which order the sources are asked now; `is_fresh` tells whether there is a release that has not expired.
    pub(super) fn order(&self, is_fresh: bool) -> Order<'_> {
        let mut sources = self.sources();
        if sources.len() < 2 {
            return Order { sources, all: false };
        }
        let (known, now) = (self.store.addresses(), Timestamp::now());
        sources.sort_by_cached_key(|one| source::name(one.config).ok().and_then(|name| known.failed(&name, now)));
        let every = SignedDuration::try_from(self.config.ask_all_every()).unwrap_or(SignedDuration::MAX);
        Order { sources, all: !is_fresh || !known.all_were_asked(every, now) }
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
        let asked = if order.all { order.sources.len() } else { 1 };
        let is_quiet = |source: &Configured<'_>| {
            let Ok(mut source) = source.open() else { return false };
            let name = source.name();
            let Some(mark) = marks.get(&name) else { return false };
            let began = Instant::now();
            let answer = source.poll(Some(mark));
            // one that fails is asked once more by the longer way, which tells of it
            matches!(answer, Ok(Poll::Unchanged)) && self.note_source(&name, began.elapsed(), &answer).is_ok()
        };
        let quiet = !order.sources.is_empty() && order.sources.iter().take(asked).all(is_quiet);
        quiet && (!order.all || self.store.note_all_asked().is_ok())
    }

    /// Whether a source can be reached now.
    pub fn reaches_source(&self) -> Result<()> {
        let marks = self.store.marks();
        let mut last = Error::new(code::NET, "there is no source to reach");
        for source in self.order(true).sources {
            let asked = source
                .open()
                .and_then(|mut source| source.poll(marks.get(&source.name()).map(String::as_str)).map(drop));
            match asked {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}
