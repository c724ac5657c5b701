//! Locks of FleetLock servers that this host has: written down before they are asked for, since nothing else ends them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::host::Host;
use crate::host::fleetlock::{Answer, FleetLock, Server};
use crate::store::Store;

const FILE: &str = "locks.json";

/// A lock, as it is written down.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
struct LockRecord {
    url: String,
    group: String,
    ca: Option<PathBuf>,
}

/// What came of asking for a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// This host has it now.
    Now,
    /// This host has had it before, for something that is not done yet.
    Before,
    /// The server gives none, and why.
    Refused(String),
}

impl From<&FleetLock> for LockRecord {
    fn from(lock: &FleetLock) -> Self {
        let FleetLock { url, group, ca } = lock.clone();
        Self { url, group, ca }
    }
}

impl LockRecord {
    fn server(&self) -> Server<'_> {
        Server { url: &self.url, group: &self.group, ca: self.ca.as_deref() }
    }
}

fn held(store: &Store) -> Result<Vec<LockRecord>> {
    Ok(store.read(FILE)?.unwrap_or_default())
}

fn keep(store: &Store, held: &[LockRecord]) -> Result<()> {
    if held.is_empty() { store.root().remove(&Path::new("/").join(FILE)) } else { store.write(FILE, &held) }
}

/// Asks for a lock for the host that is called `name`. An error when there is no answer; then it may have the lock all the same, and gives it back in time.
pub fn take(host: &Host, store: &Store, name: &str, lock: &FleetLock) -> Result<Acquired> {
    let (own, mut all) = (LockRecord::from(lock), held(store)?);
    let had = all.contains(&own);
    if !had {
        all.push(own.clone());
        keep(store, &all)?;
    }
    match own.server().pre_reboot(host, name)? {
        Answer::Granted => Ok(if had { Acquired::Before } else { Acquired::Now }),
        Answer::Refused(why) => {
            all.retain(|one| *one != own);
            keep(store, &all)?;
            Ok(Acquired::Refused(why))
        }
    }
}

/// Gives a lock back; why not, when the server does not take it. It is tried again with [`give_back_all`] then.
pub fn give_back(host: &Host, store: &Store, name: &str, lock: &FleetLock) -> Result<(), String> {
    let text = |error: crate::Error| error.to_string();
    let (own, mut all) = (LockRecord::from(lock), held(store).map_err(text)?);
    give_back_one(host, &own, name)?;
    all.retain(|one| *one != own);
    keep(store, &all).map_err(text)
}

fn give_back_one(host: &Host, held: &LockRecord, name: &str) -> Result<(), String> {
    match held.server().steady_state(host, name) {
        Ok(Answer::Granted) => Ok(()),
        Ok(Answer::Refused(why)) => Err(why),
        Err(error) => Err(error.to_string()),
    }
}

/// Gives back every lock that this host has; why not, for each that a server does not take.
pub fn give_back_all(host: &Host, store: &Store, name: &str) -> Result<Vec<String>> {
    let all = held(store)?;
    let (mut left, mut whys) = (Vec::new(), Vec::new());
    for one in &all {
        if let Err(why) = give_back_one(host, one, name) {
            left.push(one.clone());
            whys.push(why);
        }
    }
    if left != all {
        keep(store, &left)?;
    }
    Ok(whys)
}

/// Whether this host has a lock, or may have one.
pub fn has_any(store: &Store) -> Result<bool> {
    Ok(!held(store)?.is_empty())
}
