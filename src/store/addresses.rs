//! Remembers which addresses failed, and when all sources were last polled.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::store::Store;

/// The file in the state directory.
const FILE: &str = "addresses.json";
/// How long an address that failed is tried after the others.
const LATER: SignedDuration = SignedDuration::from_hours(1);
/// Failed addresses that are remembered at most.
const MOST: usize = 64;

/// The remembered addresses.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default)]
pub struct Addresses {
    /// When an address last failed or was too slow.
    failed: BTreeMap<String, Timestamp>,
    /// When all sources were last polled.
    all_asked: Option<Timestamp>,
}

impl Addresses {
    /// When this address failed, if that is recent. Sorting by this gives the order in which to try addresses: first those that did
    /// not fail, then the one that failed longest ago.
    pub fn failed(&self, address: &str, now: Timestamp) -> Option<Timestamp> {
        self.failed.get(address).copied().filter(|at| is_within(*at, LATER, now))
    }

    /// Whether all sources were polled less than `every` ago.
    pub fn all_were_asked(&self, every: SignedDuration, now: Timestamp) -> bool {
        self.all_asked.is_some_and(|at| is_within(at, every, now))
    }
}

/// Whether something was less than `duration` ago. A future time, after the clock was set back, doesn't count.
fn is_within(at: Timestamp, duration: SignedDuration, now: Timestamp) -> bool {
    at <= now && now.duration_since(at) < duration
}

impl Store {
    /// The remembered addresses.
    pub fn addresses(&self) -> Addresses {
        self.read(FILE).ok().flatten().unwrap_or_default()
    }

    /// Records whether an address worked.
    pub fn note_address(&self, address: &str, is_good: bool) -> Result<()> {
        self.note(|known| {
            if is_good {
                known.failed.remove(address);
                return;
            }
            let now = Timestamp::now();
            known.failed.retain(|_, at| is_within(*at, LATER, now));
            known.failed.insert(address.to_owned(), now);
            while known.failed.len() > MOST {
                let oldest = known.failed.iter().min_by_key(|(_, at)| **at).map(|(address, _)| address.clone());
                oldest.map(|address| known.failed.remove(&address));
            }
        })
    }

    /// Records that all sources were polled just now.
    pub fn note_all_asked(&self) -> Result<()> {
        self.note(|known| known.all_asked = Some(Timestamp::now()))
    }

    fn note(&self, change: impl FnOnce(&mut Addresses)) -> Result<()> {
        let was = self.addresses();
        let mut is = was.clone();
        change(&mut is);
        if is == was { Ok(()) } else { self.write_quickly(FILE, &is) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    #[test]
    fn an_address_that_failed_is_tried_after_the_others_for_an_hour() {
        let (_dir, store) = store();
        for address in ["a", "b"] {
            store.note_address(address, false).unwrap();
        }
        let order = |now: Timestamp| {
            let known = store.addresses();
            let mut all = ["b", "a", "c"];
            all.sort_by_key(|address| known.failed(address, now));
            all
        };
        let now = Timestamp::now();
        assert_eq!(order(now), ["c", "a", "b"]);
        assert_eq!(order(now + LATER), ["b", "a", "c"]);
        assert_eq!(order(now - LATER), ["b", "a", "c"], "a clock that was set back remembers nothing");
        store.note_address("a", true).unwrap();
        assert_eq!(order(now), ["a", "c", "b"]);
    }

    #[test]
    fn no_more_addresses_are_remembered_than_a_few_and_damage_is_no_error() {
        let (dir, store) = store();
        for number in 0..MOST + 10 {
            store.note_address(&format!("http://{number}"), false).unwrap();
        }
        let known = store.addresses();
        assert_eq!(known.failed.len(), MOST);
        assert!(known.failed(&format!("http://{}", MOST + 9), Timestamp::now()).is_some());
        assert!(known.failed("http://0", Timestamp::now()).is_none());
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(store.addresses(), Addresses::default());
    }

    #[test]
    fn sources_are_polled_again_after_the_interval_or_if_the_clock_was_ahead() {
        let (_dir, store) = store();
        let hour = SignedDuration::from_hours(1);
        let before = Timestamp::now();
        assert!(!store.addresses().all_were_asked(hour, before));
        store.note_all_asked().unwrap();
        let after = Timestamp::now();
        let known = store.addresses();
        assert!(known.all_were_asked(hour, after));
        assert!(!known.all_were_asked(hour, after + hour));
        assert!(!known.all_were_asked(hour, before - hour));
        assert!(!known.all_were_asked(SignedDuration::ZERO, after));
    }
}
