//! The short way through a run with nothing to do: what was looked into once, and has not been touched since, is not looked into again.
//!
//! After a run that found everything as it should be, the seal has what `stat` tells of every path that it looked at (device, inode, size,
//! mtime, ctime, mode, owners), and of everything that decided what to look for: the program, its configuration, the release, the
//! host's facts. While nothing of that has changed and no source has news, the host is as it was. Only a catalog of which every
//! resource can be told like this has a seal.
//!
//! Times have a granularity, so a path that was changed shortly before the run began is not sealed, but by a later run. Somebody
//! who sets the clock back can deceive `stat`; so a seal is good for a while only, and then everything is looked into.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::engine::take::Agent;
use crate::error::Result;
use crate::host::root::Seen;
use crate::kind::{Item, Trace, Work};
use crate::report::Summary;
use crate::resolve::Facts;

const FILE: &str = "seal.json";
/// How much older than the run a change has to be. The coarsest times of file systems are those of two seconds.
const GRANULARITY: SignedDuration = SignedDuration::from_secs(2);
/// What is in the state directory and decides what a run does.
const STATE: [&str; 6] = ["trust.toml", "release.tar", "sources.json", "hold.json", "held.json", "owed.json"];

/// Everything that was looked at in a run that found nothing to do.
#[derive(Debug, Deserialize, Serialize)]
pub struct Seal {
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
    inputs: BTreeMap<PathBuf, Option<Seen>>,
    /// What was looked at.
    traces: Vec<(Trace, Option<Seen>)>,
}

/// What decides what a run looks at.
fn inputs(agent: &Agent<'_>) -> BTreeMap<PathBuf, Option<Seen>> {
    let state = STATE.iter().map(|name| agent.store.dir().join(name));
    let trust = [&agent.config.trust.allowed_signers, &agent.config.trust.keys].into_iter().flatten().cloned();
    let program = std::env::current_exe().ok();
    let paths = state.chain(trust).chain(program).chain([agent.config_path.clone()]);
    paths.map(|path| (path.clone(), nix::sys::stat::stat(&path).ok().map(Seen::from))).collect()
}

fn facts(agent: &Agent<'_>) -> Result<String> {
    // in a tree they follow from the site
    let facts = match agent.host.is_live() {
        true => serde_json::to_vec(&Facts::of_machine(&agent.host)?).unwrap_or_default(),
        false => Vec::new(),
    };
    Ok(hex::encode(Sha256::digest(facts)))
}

/// Seals what a run that began at `start` has found as it should be, if all of it can be; else takes an older seal away.
pub fn seal(agent: &Agent<'_>, start: Timestamp, manifest: &crate::trust::Manifest, items: &[Item]) -> Result<()> {
    let work = Work { host: &agent.host, store: &agent.store, catalog: items };
    let mut traces = Vec::new();
    for item in items {
        match item.resource.traces(&work)? {
            Some(more) => traces.extend(more),
            None => return take_away(agent),
        }
    }
    let limit = start - GRANULARITY;
    let mut all = Vec::with_capacity(traces.len());
    for trace in traces {
        let seen = agent.host.root.seen(&trace)?;
        if seen.as_ref().is_some_and(|seen| !seen.is_older_than(limit)) {
            return take_away(agent);
        }
        all.push((trace, seen));
    }
    let inputs = inputs(agent);
    if inputs.values().flatten().any(|seen| !seen.is_older_than(limit)) {
        return take_away(agent);
    }
    let seal = Seal {
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
    agent.store.write_quickly(FILE, &seal)
}

fn take_away(agent: &Agent<'_>) -> Result<()> {
    agent.store.root().remove(&Path::new("/").join(FILE))
}

/// What a run comes to, when the seal is whole and no source has news; `None` when everything has to be looked at.
pub fn unbroken(agent: &Agent<'_>, start: std::time::Instant) -> Result<Option<Summary>> {
    // a seal that can't be read is none
    let Ok(Some(seal)) = agent.store.read::<Seal>(FILE) else { return Ok(None) };
    let now = Timestamp::now();
    let good = agent.config.verify_every();
    let is_timely = now >= seal.made && now < seal.made + good && now >= seal.created && now < seal.expires;
    if !is_timely || seal.program != env!("CARGO_PKG_VERSION") || seal.inputs != inputs(agent) {
        return Ok(None);
    }
    if seal.host != agent.name || seal.facts != facts(agent)? || !agent.sources_are_quiet() {
        return Ok(None);
    }
    for (trace, was) in &seal.traces {
        if agent.host.root.seen(trace)? != *was {
            return Ok(None);
        }
    }
    Ok(Some(Summary {
        command: "apply",
        host: agent.name.clone(),
        serial: Some(seal.serial),
        resources: seal.resources,
        changed: Vec::new(),
        kicked: Vec::new(),
        probes: 0,
        sealed: true,
        took: start.elapsed(),
    }))
}
