//! Numbered generations, the releases that they came from, and the release that the host stays on.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::ResourceId;
use crate::error::{Context, Result, code};
use crate::store::{CachedRelease, Store};

const STAY_ON: &str = "hold.json";

/// The result of one apply.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Generation {
    /// Counts from 1.
    pub number: u64,
    /// The time of the apply.
    pub time: Timestamp,
    /// The release's serial.
    pub serial: u64,
    /// SHA-256 of the release's manifest, in hex.
    pub release: String,
    /// When the release was signed.
    #[serde(default = "never")]
    pub created: Timestamp,
    /// The signers of the release.
    #[serde(default)]
    pub signers: Vec<String>,
    /// The number of the key set that has them.
    #[serde(default)]
    pub keys: u64,
    /// Ids of all resources of the host.
    pub resources: Vec<ResourceId>,
    /// Ids and summaries of the changes.
    pub changes: BTreeMap<ResourceId, String>,
    /// Whether all units and probes were healthy.
    #[serde(default)]
    pub good: bool,
    /// Probes and slots that passed, by id, with a digest of their definitions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub checks: BTreeMap<ResourceId, String>,
    /// The reason why an older release than the newest was applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back: Option<String>,
}

fn never() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

/// Makes a host stay on a release although there is a newer one.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct StayOn {
    /// The release that it stays on, as [`Generation::release`].
    pub release: String,
    /// That release's serial.
    pub serial: u64,
    /// Releases up to this serial are skipped; a newer one is applied.
    pub not: u64,
    /// The reason.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
    /// How often `not` was tried.
    #[serde(default)]
    pub tries: u32,
    /// When it is tried again; not automatically if `None`.
    pub again: Option<Timestamp>,
}

impl StayOn {
    /// Whether it is time to try again. This also covers a clock that was ahead when this was written and has been corrected.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.again.is_some_and(|again| now >= again || now < self.since)
    }
}

/// How much of the past is kept.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// Generations, at least 2. Default: 10.
    pub generations: usize,
    /// Days after which a generation is deleted, unless it is one of the last two good ones. Default: 90.
    pub days: u32,
}

impl Default for Keep {
    fn default() -> Self {
        Self { generations: 10, days: 90 }
    }
}

impl Keep {
    /// Generations before this are too old.
    fn oldest(&self) -> Timestamp {
        Timestamp::now().saturating_sub(SignedDuration::from_hours(24 * i64::from(self.days))).unwrap_or(Timestamp::MIN)
    }
}

fn release_path(digest: &str) -> String {
    format!("/releases/{digest}.tar")
}

impl Store {
    /// The last generation.
    pub fn generation(&self) -> Result<Option<Generation>> {
        match self.generation_names()?.last() {
            Some(name) => self.read(&format!("generations/{name}")),
            None => Ok(None),
        }
    }

    /// All generations, the oldest first.
    pub fn generations(&self) -> Result<Vec<Generation>> {
        let names = self.generation_names()?;
        let read = |name: &String| self.read(&format!("generations/{name}")).transpose();
        names.iter().filter_map(read).collect()
    }

    fn generation_names(&self) -> Result<Vec<String>> {
        let mut names = self.root().names(Path::new("/generations"))?;
        names.retain(|name| name.ends_with(".json"));
        Ok(names)
    }

    /// Records a generation, and stores its release.
    pub fn add_generation(&self, generation: &Generation) -> Result<()> {
        self.root().together(|| {
            self.keep_release(&generation.release)?;
            self.set_generation(generation)
        })
    }

    /// Updates a generation.
    pub fn set_generation(&self, generation: &Generation) -> Result<()> {
        self.write(&format!("generations/{:08}.json", generation.number), generation)
    }

    /// The last good generation of another release than `digest`.
    pub fn last_good(&self, digest: &str) -> Result<Option<Generation>> {
        self.last_good_that(digest, |_| true)
    }

    /// The same, of those that `suits`.
    pub fn last_good_that(&self, digest: &str, suits: impl Fn(&Generation) -> bool) -> Result<Option<Generation>> {
        let mut all = self.generations()?;
        all.retain(|one| one.good && one.release != digest);
        while let Some(one) = all.pop() {
            if self.root().meta(Path::new(&release_path(&one.release)))?.is_some() && suits(&one) {
                return Ok(Some(one));
            }
        }
        Ok(None)
    }

    /// Hard-links the last selected release to a name with its digest.
    #[expect(clippy::disallowed_methods, reason = "below the state directory, which is nobody's but ours")]
    fn keep_release(&self, digest: &str) -> Result<()> {
        let path = release_path(digest);
        if self.root().meta(Path::new(&path))?.is_some() || self.root().meta(Path::new("/release.tar"))?.is_none() {
            return Ok(());
        }
        let (from, to) = (self.dir().join("release.tar"), self.dir().join(path.trim_start_matches('/')));
        self.root().make_directory(Path::new("/releases"), super::DIRECTORY)?;
        std::fs::hard_link(from, &to).context(code::STORE, || format!("can't keep the release as {}", to.display()))
    }

    /// The release of a generation, unverified.
    pub fn kept_release(&self, digest: &str) -> Result<Option<CachedRelease>> {
        Ok(self.root().read(Path::new(&release_path(digest)))?.map(|(_, bytes)| CachedRelease::new(bytes)))
    }

    /// The release that the host stays on, if any.
    pub fn stay_on(&self) -> Result<Option<StayOn>> {
        self.read(STAY_ON)
    }

    /// Makes the host stay on a release; `None` makes it follow the newest again.
    pub fn set_stay_on(&self, stay: Option<&StayOn>) -> Result<()> {
        match stay {
            Some(stay) => self.write(STAY_ON, stay),
            None => self.root().remove(&Path::new("/").join(STAY_ON)),
        }
    }

    /// Whether [`Store::drop_generations`] would delete something.
    pub fn has_generations_to_drop(&self, keep: &Keep) -> Result<bool> {
        let names = self.generation_names()?;
        let Some(first) = names.first() else { return Ok(false) };
        // reads all of them only if there may be one
        let may_be = names.len() > keep.generations.max(2)
            || self.read(&format!("generations/{first}"))?.is_some_and(|one: Generation| one.time < keep.oldest());
        Ok(may_be && !self.sorted_generations(keep)?.0.is_empty())
    }

    /// Deletes generations that are too many or too old, and releases of no remaining generation. The last one and the last two good
    /// ones stay. Returns the number of deleted generations.
    pub fn drop_generations(&self, keep: &Keep) -> Result<usize> {
        let (expired, kept) = self.sorted_generations(keep)?;
        let wanted: HashSet<String> = kept.iter().map(|one| format!("{}.tar", one.release)).collect();
        for one in &expired {
            self.root().remove(Path::new(&format!("/generations/{:08}.json", one.number)))?;
        }
        for name in self.root().names(Path::new("/releases"))? {
            if !wanted.contains(&name) {
                self.root().remove(&Path::new("/releases").join(&name))?;
            }
        }
        Ok(expired.len())
    }

    /// The generations to delete, and those to keep.
    fn sorted_generations(&self, keep: &Keep) -> Result<(Vec<Generation>, Vec<Generation>)> {
        let all = self.generations()?;
        let good: Vec<u64> = all.iter().rev().filter(|one| one.good).map(|one| one.number).take(2).collect();
        let stay = self.stay_on()?.map(|stay| stay.release);
        let oldest = keep.oldest();
        let first = all.len().saturating_sub(keep.generations.max(2));
        let last = all.last().map(|one| one.number);
        let is_expired = |(index, one): &(usize, Generation)| {
            (*index < first || one.time < oldest)
                && !good.contains(&one.number)
                && Some(one.number) != last
                && stay.as_ref() != Some(&one.release)
        };
        let (expired, kept): (Vec<_>, Vec<_>) = all.into_iter().enumerate().partition(is_expired);
        let values = |numbered: Vec<(usize, Generation)>| numbered.into_iter().map(|(_, one)| one).collect();
        Ok((values(expired), values(kept)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(number: u64, days_ago: i64, good: bool) -> Generation {
        Generation {
            number,
            time: Timestamp::now() - SignedDuration::from_hours(24 * days_ago),
            serial: number,
            release: format!("{number:064}"),
            created: never(),
            signers: Vec::new(),
            keys: 0,
            resources: Vec::new(),
            changes: BTreeMap::new(),
            good,
            checks: BTreeMap::new(),
            back: None,
        }
    }

    fn store(generations: &[Generation]) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        for one in generations {
            store.set_release(b"m", b"s", &[].into_iter().collect()).unwrap();
            store.add_generation(one).unwrap();
        }
        (dir, store)
    }

    fn numbers(store: &Store) -> Vec<u64> {
        store.generations().unwrap().iter().map(|one| one.number).collect()
    }

    #[test]
    fn what_is_too_old_or_too_much_goes_with_its_release_and_what_was_good_stays() {
        let (dir, store) = store(&[
            generation(1, 200, true),
            generation(2, 190, true),
            generation(3, 180, false),
            generation(4, 1, false),
            generation(5, 0, false),
        ]);
        let due = |generations, days| store.has_generations_to_drop(&Keep { generations, days }).unwrap();
        assert!(due(10, 90), "the third");
        assert!(!due(10, 185), "of the two that are older, each was good");
        assert!(due(2, 365), "the third is one too many");
        assert!(!due(3, 365), "of the two that are too many, each was good");
        assert!(!due(5, u32::MAX), "longer than there are dates");
        assert_eq!(store.drop_generations(&Keep { generations: 10, days: 90 }).unwrap(), 1);
        assert!(!due(10, 90));
        assert_eq!(numbers(&store), [1, 2, 4, 5]);
        assert_eq!(std::fs::read_dir(dir.path().join("state/releases")).unwrap().count(), 4);
        assert_eq!(store.drop_generations(&Keep { generations: 2, days: 90 }).unwrap(), 0);
        assert_eq!(store.last_good(&format!("{:064}", 2)).unwrap().unwrap().number, 1);
        assert!(store.kept_release(&format!("{:064}", 3)).unwrap().is_none());
    }

    #[test]
    fn staying_on_a_release_ends_at_its_time_or_if_the_clock_was_ahead() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let is_over = |again: Option<i64>, now| {
            let again = again.map(at);
            let stay = StayOn {
                release: "r".to_owned(),
                serial: 1,
                not: 2,
                why: "w".to_owned(),
                since: at(10),
                tries: 0,
                again,
            };
            stay.is_over(at(now))
        };
        assert_eq!([9, 10, 19, 20, 21].map(|now| is_over(Some(20), now)), [true, false, false, true, true]);
        assert!(!is_over(None, 9) && !is_over(None, 21));
    }

    #[test]
    fn a_release_is_kept_once_and_a_generation_is_recorded_without_one_too() {
        let (dir, store) = store(&[generation(1, 1, true)]);
        store.add_generation(&Generation { number: 2, ..generation(1, 0, true) }).unwrap();
        assert_eq!(store.generation().unwrap().unwrap().number, 2);
        assert!(store.kept_release(&format!("{:064}", 1)).unwrap().is_some());
        std::fs::remove_file(dir.path().join("state/release.tar")).unwrap();
        store.add_generation(&generation(3, 0, true)).unwrap();
        assert_eq!(store.generation().unwrap().unwrap().number, 3);
        assert!(store.kept_release(&format!("{:064}", 3)).unwrap().is_none());
    }

    #[test]
    fn two_stay_whatever_is_to_be_kept() {
        let (_dir, store) = store(&[generation(1, 1, false), generation(2, 0, false)]);
        let keep = Keep { generations: 1, days: 90 };
        assert!(!store.has_generations_to_drop(&keep).unwrap());
        assert_eq!(store.drop_generations(&keep).unwrap(), 0);
    }

    #[test]
    fn the_release_that_a_host_stays_with_is_never_dropped() {
        let (_dir, store) = store(&(1..=6).map(|number| generation(number, 100, number > 3)).collect::<Vec<_>>());
        let stay = StayOn {
            release: format!("{:064}", 1),
            serial: 1,
            not: 6,
            why: "by hand".to_owned(),
            since: never(),
            tries: 0,
            again: None,
        };
        store.set_stay_on(Some(&stay)).unwrap();
        store.drop_generations(&Keep { generations: 2, days: 1 }).unwrap();
        assert_eq!(numbers(&store), [1, 5, 6]);
        store.set_stay_on(None).unwrap();
        assert_eq!(store.stay_on().unwrap(), None);
    }
}
