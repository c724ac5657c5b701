//! Resources that are left alone for a while: somebody works on them by hand, and says until when and why.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::store::Store;

const FILE: &str = "held.json";

/// A resource that no run touches until its time is over.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct HeldBack {
    /// The resource.
    pub id: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// Why.
    pub why: String,
}

impl HeldBack {
    /// Those whose time is not over.
    pub fn now(store: &Store) -> Result<Vec<Self>> {
        let now = Timestamp::now();
        let all: Vec<Self> = store.read(FILE)?.unwrap_or_default();
        Ok(all.into_iter().filter(|one| one.until > now).collect())
    }

    /// Holds one more back, in place of an earlier word about the same resource.
    pub fn save(self, store: &Store) -> Result<()> {
        let mut all = Self::now(store)?;
        all.retain(|one| one.id != self.id);
        all.push(self);
        store.write(FILE, &all)
    }

    /// Lets go of a resource. Whether it was held.
    pub fn remove(id: &str, store: &Store) -> Result<bool> {
        let mut all = Self::now(store)?;
        let count = all.len();
        all.retain(|one| one.id != id);
        store.write(FILE, &all)?;
        Ok(all.len() != count)
    }
}
