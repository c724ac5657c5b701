//! The short way through a run with nothing to do: what was looked into once, and has not been touched since, is not looked into again.
//!
//! After a run that found everything as it should be, the seal has what `stat` tells of every path that it looked at (device, inode, size,
//! mtime, ctime, mode, owners), and of everything that decided what to look for: the program, its configuration, the release, the
//! host's facts. While nothing of that has changed and no source has news, the host is as it was. Only a catalog of which every
//! resource can be told like this has a seal.
//!
//! The whole look, once an hour and whenever somebody asks for it, reads every one of these files, and those that decided, and compares the
//! digests: what leads from the same release to the same catalog need not be done again for that. What has a secret in it has no digest
//! here (it would tell something), so that a host with such files is compared with its site anew.
//!
//! Times have a granularity, so a path that was changed shortly before the run began is not sealed, but by a later run. Somebody
//! who sets the clock back can deceive `stat`; so a seal is good for a while only, and then everything is looked into.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::engine::select::Agent;
use crate::error::Result;
use crate::host::accounts::{GROUP, PASSWD};
use crate::host::firewalld_age;
use crate::host::os::Os;
use crate::host::root::{Fingerprint, failed_io};
use crate::kind::{Item, Queries, WatchedInput, Work};
use crate::net::download::hash;
use crate::read;
use crate::report::Summary;
use crate::resolve::Facts;

const FILE: &str = "seal.json";
const CONTENTS: &str = "contents.json";
/// Bytes above which a file is read again only when somebody asks for that, and not once an hour.
const LARGE: u64 = 8 << 20;
/// How much older than the run a change has to be. The coarsest times of file systems are those of two seconds.
const GRANULARITY: SignedDuration = SignedDuration::from_secs(2);
/// What is in the state directory and decides what a run does.
const STATE: [&str; 6] = ["trust.toml", "release.tar", "sources.json", "hold.json", "held.json", "owed.json"];

/// Everything that was looked at in a run that found nothing to do.
#[derive(Debug, Deserialize, Serialize)]
pub struct UpToDate {
    /// The version of the program.
    program: String,
    /// The host's name in the site.
    host: String,
    /// When it was made.
    made: Timestamp,
    /// The release's serial.
    serial: u64,
    /// When the release was signed.
    created: Timestamp,
    /// Until when the release is good.
    expires: Timestamp,
    /// How many resources there are.
    resources: usize,
    /// SHA-256 of the host's facts.
    facts: String,
    /// What decided what to look at, by path outside the root.
    inputs: BTreeMap<PathBuf, Option<Fingerprint>>,
    /// What was looked at.
    traces: Vec<(WatchedInput, Option<Fingerprint>)>,
}

/// What was in everything that a seal is about: too much to read for a short look.
#[derive(Debug, Deserialize, Serialize)]
struct Contents {
    /// When the seal was made.
    made: Timestamp,
    /// SHA-256 of each input that is a file, in the seal's order.
    inputs: Vec<Option<String>>,
    /// SHA-256 of each trace that is a file.
    traces: Vec<Option<String>>,
}

/// How closely a run looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckLevel {
    /// Whether anything was touched; into everything when that was long ago.
    Short,
    /// Into everything.
    Whole,
}

/// What decides what a run looks at.
fn inputs(agent: &Agent<'_>) -> BTreeMap<PathBuf, Option<Fingerprint>> {
    let state = STATE.iter().map(|name| agent.store.dir().join(name));
    let trust = [&agent.config.trust.allowed_signers, &agent.config.trust.keys].into_iter().flatten().cloned();
    let program = std::env::current_exe().ok();
    // by them, owners have numbers
    let accounts = [PASSWD, GROUP].map(|path| agent.host.root.outside(path.as_ref()));
    let paths = state.chain(trust).chain(program).chain(accounts).chain([agent.config_path.clone()]);
    paths.map(|path| (path.clone(), nix::sys::stat::stat(&path).ok().map(Fingerprint::from))).collect()
}

fn facts(agent: &Agent<'_>) -> Result<String> {
    let facts = match agent.host.is_live() {
        true => serde_json::to_vec(&Facts::of_machine(&agent.host)?),
        // in a tree all others follow from the site
        false => serde_json::to_vec(&(Os::of(&agent.host.root)?, firewalld_age::installed(&agent.host.root)?)),
    };
    Ok(hex::encode(Sha256::digest(facts.unwrap_or_default())))
}

/// Seals what a run that began at `start` has found as it should be, if all of it can be; else takes an older seal away.
pub fn seal(agent: &Agent<'_>, start: Timestamp, manifest: &crate::trust::Manifest, items: &[Item]) -> Result<()> {
    let work = Work { host: &agent.host, store: &agent.store, catalog: items };
    let mut traces = Vec::new();
    let mut asked_anew = Vec::new();
    let mut has_secrets = false;
    for item in items {
        let Some(more) = item.resource.watched_inputs(&work)? else { return take_away(agent) };
        has_secrets |= !more.is_empty() && item.is_sensitive();
        if more.iter().any(WatchedInput::is_asked_anew) {
            asked_anew.push(&item.resource);
        }
        traces.extend(more);
    }
    let limit = start - GRANULARITY;
    let mut all = Vec::with_capacity(traces.len());
    let mut known = HashSet::new();
    for trace in traces {
        // units have paths in common
        if !known.insert(trace.clone()) {
            continue;
        }
        let Ok(seen) = agent.host.seen(&trace) else { return take_away(agent) };
        let is_old = match &seen {
            Some(seen) => seen.is_older_than(limit),
            // what has gone since it was looked at has changed the directory that it was in
            None => is_long_gone(agent, &trace, limit)?,
        };
        if !is_old {
            return take_away(agent);
        }
        all.push((trace, seen));
    }
    // somebody may have touched it after the run had looked at it, and before it was asked for here
    if !asked_anew.iter().all(|resource| matches!(resource.observe(&work), Ok(None))) {
        return take_away(agent);
    }
    let inputs = inputs(agent);
    if inputs.values().flatten().any(|seen| !seen.is_older_than(limit)) {
        return take_away(agent);
    }
    let seal = UpToDate {
        program: env!("CARGO_PKG_VERSION").to_owned(),
        host: agent.name.clone(),
        made: start,
        serial: manifest.serial,
        created: manifest.created,
        expires: manifest.expires,
        resources: items.len(),
        facts: facts(agent)?,
        inputs,
        traces: all,
    };
    agent.store.write_quickly(FILE, &seal)?;
    if has_secrets {
        return remove(agent, CONTENTS);
    }
    let contents = Contents { made: start, inputs: input_digests(&seal), traces: digests(agent, &seal)? };
    agent.store.write_quickly(CONTENTS, &contents)
}

/// Whether nothing has been taken away, since `limit`, from the directory in which a path is not.
fn is_long_gone(agent: &Agent<'_>, trace: &WatchedInput, limit: Timestamp) -> Result<bool> {
    let (WatchedInput::Path(path) | WatchedInput::Place(path) | WatchedInput::Text(path)) = trace else {
        return Ok(true);
    };
    for above in path.ancestors().skip(1) {
        let seen = match above.parent() {
            Some(_) => agent.host.root.seen(above)?,
            None => nix::sys::stat::stat(&agent.host.root.outside(above)).ok().map(Fingerprint::from),
        };
        if let Some(seen) = seen {
            return Ok(seen.is_older_than(limit));
        }
    }
    Ok(true)
}

/// SHA-256 of what is in each input but the program.
fn input_digests(seal: &UpToDate) -> Vec<Option<String>> {
    let program = std::env::current_exe().ok();
    let paths = seal.inputs.keys().filter(|path| Some(*path) != program.as_ref());
    paths.map(|path| read::up_to(path, read::MOST).ok().map(|content| hex::encode(Sha256::digest(content)))).collect()
}

/// SHA-256 of what is in each trace that is a file: of others the text is in the seal, or nothing matters but that they are there.
fn digests(agent: &Agent<'_>, seal: &UpToDate) -> Result<Vec<Option<String>>> {
    let root = &agent.host.root;
    let digest = |(trace, seen): &(WatchedInput, Option<Fingerprint>)| match (trace, seen) {
        (WatchedInput::Path(path), Some(seen)) if seen.size > LARGE => match root.file(path)? {
            // has been read for the artifact that it is of
            Some((_, file)) => agent.store.digest_of(&root.outside(path), file).map(Some),
            None => Ok(None),
        },
        (WatchedInput::Path(path), Some(_)) => Ok(root.digest(path, LARGE)?.map(|(_, digest)| digest)),
        _ => Ok(None),
    };
    seal.traces.iter().map(digest).collect()
}

fn take_away(agent: &Agent<'_>) -> Result<()> {
    remove(agent, FILE)
}

fn remove(agent: &Agent<'_>, name: &str) -> Result<()> {
    agent.store.root().remove(&Path::new("/").join(name))
}

/// Whether everything is as it was: whether anybody has touched it, and with `known` what is in it too; in large files only when that was
/// asked for.
fn is_whole(agent: &Agent<'_>, seal: &UpToDate, known: Option<&Contents>, look: CheckLevel) -> Result<bool> {
    let root = &agent.host.root;
    if known.is_some_and(|known| known.made != seal.made || known.inputs != input_digests(seal)) {
        return Ok(false);
    }
    let units = seal.traces.iter().filter_map(|(trace, _)| match trace {
        WatchedInput::Unit(name) => Some(name.clone()),
        _ => None,
    });
    agent.host.expect(Queries { units: units.collect(), ..Queries::default() });
    for (at, (trace, was)) in seal.traces.iter().enumerate() {
        let known = known.and_then(|known| known.traces.get(at)?.as_ref());
        if let (WatchedInput::Path(path), Some(known)) = (trace, known) {
            if let Some((seen, digest)) = root.digest(path, LARGE)? {
                if Some(&seen) != was.as_ref() {
                    return Ok(false);
                }
                if digest != *known {
                    agent.store.forget_stamps();
                    return Ok(false);
                }
                continue;
            }
            if look == CheckLevel::Whole {
                let Some((_, mut file)) = root.file(path)? else { return Ok(false) };
                if hash(&mut file).map_err(|error| failed_io("read", path, error))?.sha256 != *known {
                    return Ok(false);
                }
            }
        }
        if agent.host.seen(trace)? != *was {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What a run comes to, when the seal is whole and no source has news; `None` when the host has to be compared with its site.
pub fn unbroken(agent: &Agent<'_>, look: CheckLevel, start: std::time::Instant) -> Result<Option<Summary>> {
    // a seal that can't be read is none
    let Ok(Some(mut seal)) = agent.store.read::<UpToDate>(FILE) else { return Ok(None) };
    let now = Timestamp::now();
    let is_good = now >= seal.made && now >= seal.created && now < seal.expires;
    if !is_good || seal.program != env!("CARGO_PKG_VERSION") || seal.inputs != inputs(agent) {
        return Ok(None);
    }
    if seal.host != agent.name || seal.facts != facts(agent)? || !agent.sources_are_quiet() {
        return Ok(None);
    }
    let is_due = now >= seal.made + agent.config.verify_every();
    let mut known = None;
    if look == CheckLevel::Whole || is_due {
        let Ok(Some(contents)) = agent.store.read::<Contents>(CONTENTS) else { return Ok(None) };
        known = Some(contents);
    }
    // what can't be looked at is told by the longer way, which knows whose it is
    if !is_whole(agent, &seal, known.as_ref(), look).unwrap_or(false) {
        return Ok(None);
    }
    if let Some(contents) = known.filter(|_| is_due) {
        seal.made = now;
        agent.store.write_quickly(CONTENTS, &Contents { made: now, ..contents })?;
        agent.store.write_quickly(FILE, &seal)?;
    }
    Ok(Some(Summary {
        command: "apply",
        host: agent.name.clone(),
        serial: Some(seal.serial),
        resources: seal.resources,
        changed: Vec::new(),
        drifted: 0,
        restarted: Vec::new(),
        probes: 0,
        waits: None,
        uncompared: Vec::new(),
        up_to_date: look == CheckLevel::Short && !is_due,
        is_failed: false,
        took: start.elapsed(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_of_more_than_configuration_has_is_looked_into() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("release.tar");
        let now = Timestamp::UNIX_EPOCH;
        let seal = UpToDate {
            program: String::new(),
            host: String::new(),
            made: now,
            serial: 1,
            created: now,
            expires: now,
            resources: 0,
            facts: String::new(),
            inputs: [(path.clone(), None)].into(),
            traces: Vec::new(),
        };
        let digests = [b'a', b'b'].map(|byte| {
            std::fs::write(&path, vec![byte; 9 << 20]).unwrap();
            input_digests(&seal)
        });
        assert!(digests.iter().flatten().all(Option::is_some), "{digests:?}");
        assert_ne!(digests[0], digests[1]);
    }
}
