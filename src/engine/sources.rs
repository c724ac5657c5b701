//! Which of a host's sources a run polls, and in which order.
//!
//! The first source that answers ends the search, so that a run with nothing to do costs one request. That source alone could withhold news
//! for ever. Therefore all of them are polled at intervals, and in each run once the cached release has expired. A source that failed comes
//! after the others for a while.

use crate::engine::prelude::*;
use crate::host::deadline::OnlyDownloads;
use crate::sandbox;
use crate::source::{self, Poll, Source};

/// A source that takes longer is slow.
const SLOW: Duration = Duration::from_secs(30);

/// The sources to poll.
pub(super) struct Order {
    /// Their positions in kpull.toml, the first one to poll first.
    pub sources: Vec<usize>,
    /// Whether all of them are due, whatever the first answers.
    pub all: bool,
}

impl Agent<'_> {
    /// Opens each of the host's sources, in the order of its kpull.toml.
    pub fn sources(&self) -> impl Iterator<Item = Result<Box<dyn Source>>> {
        (0..self.config.sources.len()).map(|index| self.open_source(index))
    }

    /// Opens a source by its position in kpull.toml. A process without rights talks to the network for it.
    pub(super) fn open_source(&self, index: usize) -> Result<Box<dyn Source>> {
        self.open_with(index, &self.config.sources[index])
    }

    fn open_with(&self, index: usize, config: &source::Config) -> Result<Box<dyn Source>> {
        sandbox::open(config, &self.store.source_cache(index), &self.config.sandbox.require)
    }

    /// The order in which the sources are polled now; `is_fresh` says that there is a release that has not expired.
    pub(super) fn order(&self, is_fresh: bool) -> Order {
        let mut sources: Vec<usize> = (0..self.config.sources.len()).collect();
        if sources.len() < 2 {
            return Order { sources, all: false };
        }
        let (known, now) = (self.store.addresses(), Timestamp::now());
        let name = |&index: &usize| source::name(&self.config.sources[index]).ok();
        sources.sort_by_cached_key(|index| name(index).and_then(|name| known.failed(&name, now)));
        let every = SignedDuration::try_from(self.config.ask_all_every()).unwrap_or(SignedDuration::MAX);
        Order { sources, all: !is_fresh || !known.all_were_asked(every, now) }
    }

    /// Records whether a source answered, and how fast, for the order of the next run. A source whose release is refused keeps its
    /// place, so that each run says so.
    pub(super) fn note_source<T>(&self, name: &str, took: Duration, outcome: &Result<T>) -> Result<()> {
        if self.config.sources.len() < 2 {
            return Ok(());
        }
        let has_answered = outcome.as_ref().err().is_none_or(|error| error.exit_code() == Exit::Refused);
        self.store.note_address(name, has_answered && took < SLOW)
    }

    /// Whether none of the sources that are due has news.
    pub fn sources_are_quiet(&self) -> bool {
        let _share = OnlyDownloads::begin();
        let cursors = self.store.cursors();
        let order = self.order(true);
        let due = if order.all { order.sources.len() } else { 1 };
        let is_quiet = |&index: &usize| {
            let Ok(mut source) = self.open_source(index) else { return false };
            let name = source.name();
            let Some(cursor) = cursors.get(&name) else { return false };
            let began = Instant::now();
            let answer = source.poll(Some(cursor));
            // the full run polls a source that failed again, and reports it
            matches!(answer, Ok(Poll::Unchanged)) && self.note_source(&name, began.elapsed(), &answer).is_ok()
        };
        let quiet = !order.sources.is_empty() && order.sources.iter().take(due).all(is_quiet);
        quiet && (!order.all || self.store.note_all_asked().is_ok())
    }

    /// Fails unless a source answers `within` this time. Each is asked once, for an equal part of it: the caller asks again.
    pub fn reaches_source(&self, within: Duration) -> Result<()> {
        let cursors = self.store.cursors();
        let mut last = error!(NET, "no source is configured");
        let order = self.order(true).sources;
        let part = within.as_secs() / order.len().max(1) as u64;
        for index in order {
            let config = &self.config.sources[index];
            let timeout = config.net().patience().as_secs().min(part).max(1);
            let config = source::Config { timeout: Some(timeout), retries: Some(0), ..config.clone() };
            let poll = |mut source: Box<dyn Source>| source.poll(cursors.get(&source.name()).map(String::as_str));
            match self.open_with(index, &config).and_then(poll) {
                Ok(_) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}
