//! Locks of FleetLock servers that this host holds. Each is recorded before it is requested, because nothing else ends it.

use crate::engine::prelude::*;
use crate::host::fleetlock::{Answer, FleetLock};

const FILE: &str = "locks.json";

/// The locks that this host holds, or may hold.
pub fn held(store: &Store) -> Result<Vec<FleetLock>> {
    Ok(store.read(FILE)?.unwrap_or_default())
}

fn record(store: &Store, held: &[FleetLock]) -> Result<()> {
    if held.is_empty() { store.root().remove(&Path::new("/").join(FILE)) } else { store.write(FILE, &held) }
}

/// Requests a lock for the host `name`: whether this host held it before, for something that is not done yet; or why it gets none.
/// Without an answer it may hold the lock all the same, and releases it in time.
pub fn acquire(host: &Host, store: &Store, name: &str, lock: &FleetLock) -> Result<bool, String> {
    let request = || -> Result<(bool, Answer)> {
        let mut all = held(store)?;
        let had = all.contains(lock);
        if !had {
            all.push(lock.clone());
            record(store, &all)?;
        }
        let answer = lock.pre_reboot(host, name)?;
        if answer != Answer::Granted {
            all.retain(|one| one != lock);
            record(store, &all)?;
        }
        Ok((had, answer))
    };
    match request().map_err(|why| format!("the lock server can't be reached: {why}"))? {
        (had, Answer::Granted) => Ok(had),
        (_, Answer::Refused(why)) => Err(format!("the lock server refuses: {why}")),
    }
}

/// Releases the locks that this host holds and that `which` chooses; the reason for each that a server doesn't take back.
pub fn release(host: &Host, store: &Store, name: &str, which: impl Fn(&FleetLock) -> bool) -> Result<Vec<String>> {
    let all = held(store)?;
    let (mut left, mut reasons) = (Vec::new(), Vec::new());
    for lock in &all {
        let reason = match which(lock).then(|| lock.steady_state(host, name)) {
            Some(Ok(Answer::Granted)) => continue,
            Some(Ok(Answer::Refused(why))) => Some(why),
            Some(Err(error)) => Some(error.to_string()),
            None => None,
        };
        left.push(lock.clone());
        reasons.extend(reason);
    }
    if left != all {
        record(store, &left)?;
    }
    Ok(reasons)
}
