//! Paused resources, which an operator works on by hand, with a time limit and a reason.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::document::ResourceId;
use crate::error::Result;
use crate::store::Store;

const FILE: &str = "held.json";

/// A resource that runs leave alone for some time.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Pause {
    /// The resource.
    pub id: ResourceId,
    /// Since when.
    pub since: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// Why.
    pub why: String,
}

impl Pause {
    /// All pauses that have not ended.
    pub fn now(store: &Store) -> Result<Vec<Self>> {
        let now = Timestamp::now();
        let all: Vec<Self> = store.read(FILE)?.unwrap_or_default();
        Ok(all.into_iter().filter(|one| one.until > now).collect())
    }

    /// Adds a pause, replacing an earlier one of the same resource.
    pub fn save(self, store: &Store) -> Result<()> {
        let mut all = Self::now(store)?;
        all.retain(|one| one.id != self.id);
        all.push(self);
        store.write(FILE, &all)
    }

    /// Ends the pause of a resource. Whether it was paused.
    pub fn remove(id: &str, store: &Store) -> Result<bool> {
        let mut all = Self::now(store)?;
        let count = all.len();
        all.retain(|one| one.id != *id);
        store.write(FILE, &all)?;
        Ok(all.len() != count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_pause_replaces_an_earlier_one_of_the_same_resource_only() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        let hold = |path: &str, why: &str| {
            let since = Timestamp::now();
            let until = since + jiff::SignedDuration::from_hours(1);
            Pause { id: ResourceId::new("file", path), since, until, why: why.to_owned() }.save(&store).unwrap();
        };
        let all = || -> Vec<(String, String)> {
            Pause::now(&store).unwrap().into_iter().map(|one| (one.id.to_string(), one.why)).collect()
        };
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(id, why)| ((*id).to_owned(), (*why).to_owned())).collect()
        };
        hold("/a", "first");
        hold("/b", "other");
        hold("/a", "second");
        assert_eq!(all(), pairs(&[("file:/b", "other"), ("file:/a", "second")]));
        assert!(!Pause::remove("file:/c", &store).unwrap());
        assert!(Pause::remove("file:/a", &store).unwrap());
        assert_eq!(all(), pairs(&[("file:/b", "other")]));
    }
}
