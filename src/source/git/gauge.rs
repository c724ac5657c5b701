//! Limits the unpacked size of a git pack in relation to its received size.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use gix_utils::progress::{Count, Id, MessageLevel, NestedProgress, Progress, Step, StepShared, UNKNOWN, Unit};

use crate::error::{Result, refused};

/// Bytes that may come out of each byte of a pack.
const RATIO: u64 = 200;
/// Bytes that may come out of any pack.
const FREE: u64 = 64 << 20;
/// What gix calls its count of the bytes that it has unpacked.
const UNPACKED: Id = *b"IWDB";

/// Receives the progress of gix, and stops it when the ratio is too high.
#[derive(Clone)]
pub(super) struct Gauge {
    /// The id of this part of the work.
    id: Id,
    totals: Arc<Totals>,
}

#[derive(Default)]
struct Totals {
    free: u64,
    received: AtomicU64,
    unpacked: AtomicU64,
    /// Whether gix has to stop.
    ended: AtomicBool,
}

impl Gauge {
    pub fn new() -> Self {
        Self::with(FREE)
    }

    fn with(free: u64) -> Self {
        Self { id: UNKNOWN, totals: Arc::new(Totals { free, ..Totals::default() }) }
    }

    /// Counts received bytes.
    pub fn receive(&self, bytes: u64) {
        self.totals.received.fetch_add(bytes, Ordering::SeqCst);
    }

    /// An error if the pack of the repository `name` has exceeded the ratio.
    pub fn check(&self, name: &str) -> Result<()> {
        if !self.totals.ended.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(refused!(GIT, "{name} sends a pack that unpacks to more than {RATIO} times its size")
            .help("a small pack with a very large content is a known attack; remove such files from the site"))
    }

    /// The flag that stops gix.
    pub fn ended(&self) -> &AtomicBool {
        &self.totals.ended
    }
}

impl Count for Gauge {
    fn set(&self, _: Step) {}

    fn step(&self) -> Step {
        0
    }

    fn inc_by(&self, step: Step) {
        if self.id != UNPACKED {
            return;
        }
        let Totals { free, received, unpacked, ended } = &*self.totals;
        let all = unpacked.fetch_add(step as u64, Ordering::SeqCst).saturating_add(step as u64);
        if all > received.load(Ordering::SeqCst).saturating_mul(RATIO).saturating_add(*free) {
            ended.store(true, Ordering::SeqCst);
        }
    }

    fn counter(&self) -> StepShared {
        StepShared::default()
    }
}

impl Progress for Gauge {
    fn init(&mut self, _: Option<Step>, _: Option<Unit>) {}

    fn set_name(&mut self, _: String) {}

    fn name(&self) -> Option<String> {
        None
    }

    fn id(&self) -> Id {
        self.id
    }

    fn message(&self, _: MessageLevel, _: String) {}
}

impl NestedProgress for Gauge {
    type SubProgress = Self;

    fn add_child(&mut self, _: impl Into<String>) -> Self {
        self.add_child_with_id("", UNKNOWN)
    }

    fn add_child_with_id(&mut self, _: impl Into<String>, id: Id) -> Self {
        Self { id, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_out_may_be_200_times_what_was_received_beyond_what_is_free() {
        let mut gauge = Gauge::with(1000);
        let (unpacked, others) = (gauge.add_child_with_id("", UNPACKED), gauge.add_child_with_id("", *b"IWIO"));
        gauge.receive(10);
        others.inc_by(1_000_000);
        unpacked.inc_by(3000);
        gauge.check("git g").unwrap();
        unpacked.inc_by(1);
        let why = "git g sends a pack that unpacks to more than 200 times its size";
        assert_eq!(gauge.check("git g").unwrap_err().to_string(), why);
        assert!(gauge.ended().load(Ordering::SeqCst));
    }
}
