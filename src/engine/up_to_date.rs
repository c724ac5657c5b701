//! The up-to-date check: the short way through a run with nothing to do. What was checked once, and has not been touched since, is
//! not checked again.
//!
//! After a run that found nothing to do, `seal.json` records what `stat` says of every path that the run checked (device, inode, size,
//! mtime, ctime, mode, owners), and of everything that decided what to check: the program, its configuration, the release, the
//! host's facts. While nothing of that has changed and no source has news, the host is up to date. Only a catalog of which every
//! resource can be watched like this gets such a record.
//!
//! The full check, once an hour and on request, reads every one of these files, and those that decided, and compares the
//! digests: the same release leads to the same catalog, so the site need not be resolved for that. Files with a secret in them get
//! no digest (it would reveal something), so a host with such files is compared with its site each time.
//!
//! Times have a granularity: a path that changed shortly before the run began is recorded by a later run only. Whoever
//! sets the clock back can deceive `stat`; so the record is good for a while only, and then comes a full check.

use crate::engine::prelude::*;
use crate::host::accounts::{GROUP, PASSWD};
use crate::host::firewalld_age;
use crate::host::os::Os;
use crate::host::root::{Fingerprint, failed_io};
use crate::kind::{Queries, WatchedInput};
use crate::net::download::hash;
use crate::read;
use crate::resolve::{Facts, custom};
use crate::trust::Manifest;

const FILE: &str = "seal.json";
const CONTENTS: &str = "contents.json";
/// A larger file, in bytes, is read again on request only, and not once an hour.
const LARGE: u64 = 8 << 20;
/// How much older than the run a change has to be. The coarsest times of file systems are those of two seconds.
const GRANULARITY: SignedDuration = SignedDuration::from_secs(2);
/// What the state directory has that decides what a run does.
const STATE: [&str; 6] = ["trust.toml", "release.tar", "sources.json", "hold.json", "held.json", "owed.json"];

/// Everything that a run with nothing to do has checked.
#[derive(Debug, Deserialize, Serialize)]
pub struct UpToDate {
    /// The version of the program.
    program: String,
    /// The host's name in the site.
    host: String,
    /// When the record was made.
    made: Timestamp,
    /// The release's serial.
    serial: u64,
    /// When the release was signed.
    created: Timestamp,
    /// When the release expires.
    expires: Timestamp,
    /// How many resources there are.
    resources: usize,
    /// SHA-256 of the host's facts.
    facts: String,
    /// The names of the facts that templates looked up on demand: these alone are compared too.
    details: BTreeSet<String>,
    /// SHA-256 of the custom facts, whose programs only a full check runs; empty without any.
    custom: String,
    /// What decided what to check, by path outside the root.
    inputs: BTreeMap<PathBuf, Option<Fingerprint>>,
    /// What was checked.
    #[serde(rename = "traces")]
    watched: Vec<(WatchedInput, Option<Fingerprint>)>,
}

/// The digests of everything in an [`UpToDate`]: too much to read for a quick check.
#[derive(Debug, Deserialize, Serialize)]
struct Contents {
    /// When the record that it belongs to was made.
    made: Timestamp,
    /// SHA-256 of each input that is a file, in the record's order.
    inputs: Vec<Option<String>>,
    /// SHA-256 of each watched input that is a file.
    #[serde(rename = "traces")]
    watched: Vec<Option<String>>,
}

fn fingerprint(path: &Path) -> Option<Fingerprint> {
    nix::sys::stat::stat(path).ok().map(Fingerprint::from)
}

/// What decides what a run checks.
fn inputs(agent: &Agent<'_>) -> BTreeMap<PathBuf, Option<Fingerprint>> {
    let state = STATE.iter().map(|name| agent.store.dir().join(name));
    let trust = [&agent.config.trust.allowed_signers, &agent.config.trust.keys].into_iter().flatten().cloned();
    let program = std::env::current_exe().ok();
    // they give owners their numbers
    let accounts = [PASSWD, GROUP].map(|path| agent.host.root.outside(path.as_ref()));
    let paths = state.chain(trust).chain(program).chain(accounts).chain(custom::paths(&agent.host));
    let paths = paths.chain([agent.config_path.clone()]);
    paths.map(|path| (path.clone(), fingerprint(&path))).collect()
}

fn facts(agent: &Agent<'_>, details: &BTreeSet<String>) -> Result<String> {
    let facts = match agent.host.is_live() {
        true => {
            let facts = Facts::of_machine(&agent.host)?;
            // what stays the same until the next boot, another program need not report again: the facts have the boot
            let details = details.iter().filter(|name| *name != "virtualization");
            let details = details.map(|name| facts.detail(name)).collect::<Result<Vec<_>>>()?;
            serde_json::to_vec(&(facts, details))
        }
        // in a tree all others follow from the site
        false => serde_json::to_vec(&(Os::of(&agent.host.root)?, firewalld_age::installed(&agent.host.root)?)),
    };
    Ok(hex::encode(Sha256::digest(facts.unwrap_or_default())))
}

fn custom_facts(agent: &Agent<'_>) -> Result<String> {
    let facts = agent.custom_facts()?;
    let digest = || serde_json::to_vec(facts).map(|facts| hex::encode(Sha256::digest(facts))).unwrap_or_default();
    Ok(if facts.is_empty() { String::new() } else { digest() })
}

/// Records what a run that began at `start` has found up to date, if all of it can be watched; else removes an older record.
pub fn record(agent: &Agent<'_>, start: Timestamp, manifest: &Manifest, catalog: &Catalog) -> Result<()> {
    let Some((record, has_secrets)) = watch(agent, start, manifest, catalog)? else { return remove(agent, FILE) };
    agent.store.write_quickly(FILE, &record)?;
    if has_secrets {
        return remove(agent, CONTENTS);
    }
    let contents = Contents { made: start, inputs: input_digests(&record), watched: digests(agent, &record)? };
    agent.store.write_quickly(CONTENTS, &contents)
}

/// The record, and whether the files that it watches have secrets in them; `None` when not everything can be watched.
fn watch(
    agent: &Agent<'_>,
    start: Timestamp,
    manifest: &Manifest,
    catalog: &Catalog,
) -> Result<Option<(UpToDate, bool)>> {
    let items = catalog.items.as_slice();
    let work = Work { host: &agent.host, store: &agent.store, catalog: items };
    let limit = start - GRANULARITY;
    let mut watched = Vec::new();
    let mut asked_anew = Vec::new();
    let mut has_secrets = false;
    let mut known = HashSet::new();
    for item in items {
        let Some(inputs) = item.resource.watched_inputs(&work)? else { return Ok(None) };
        has_secrets |= !inputs.is_empty() && item.is_sensitive();
        if inputs.iter().any(WatchedInput::is_asked_anew) {
            asked_anew.push(&item.resource);
        }
        // units have paths in common
        watched.extend(inputs.into_iter().filter(|input| known.insert(input.clone())));
    }
    let mut all = Vec::with_capacity(watched.len());
    for input in watched {
        let Ok(seen) = agent.host.seen(&input) else { return Ok(None) };
        let is_old = match &seen {
            Some(seen) => seen.is_older_than(limit),
            // a removal since the check has changed the directory
            None => is_missing_since(agent, &input, limit)?,
        };
        if !is_old {
            return Ok(None);
        }
        all.push((input, seen));
    }
    // it may have been touched between the run's check and the question above
    if !asked_anew.iter().all(|resource| matches!(resource.observe(&work), Ok(None))) {
        return Ok(None);
    }
    let inputs = inputs(agent);
    if inputs.values().flatten().any(|seen| !seen.is_older_than(limit)) {
        return Ok(None);
    }
    let record = UpToDate {
        program: env!("CARGO_PKG_VERSION").to_owned(),
        host: agent.name.clone(),
        made: start,
        serial: manifest.serial,
        created: manifest.created,
        expires: manifest.expires,
        resources: items.len(),
        facts: facts(agent, &catalog.facts)?,
        details: catalog.facts.clone(),
        custom: custom_facts(agent)?,
        inputs,
        watched: all,
    };
    Ok(Some((record, has_secrets)))
}

/// Whether nothing has been removed, since `limit`, from the directory in which a path is missing.
fn is_missing_since(agent: &Agent<'_>, input: &WatchedInput, limit: Timestamp) -> Result<bool> {
    let (WatchedInput::Path(path) | WatchedInput::Place(path) | WatchedInput::Text(path)) = input else {
        return Ok(true);
    };
    for above in path.ancestors().skip(1) {
        let seen = match above.parent() {
            Some(_) => agent.host.root.seen(above)?,
            None => fingerprint(&agent.host.root.outside(above)),
        };
        if let Some(seen) = seen {
            return Ok(seen.is_older_than(limit));
        }
    }
    Ok(true)
}

/// SHA-256 of each input but the program.
fn input_digests(record: &UpToDate) -> Vec<Option<String>> {
    let program = std::env::current_exe().ok();
    let paths = record.inputs.keys().filter(|path| Some(*path) != program.as_ref());
    paths.map(|path| read::up_to(path, read::MOST).ok().map(|content| hex::encode(Sha256::digest(content)))).collect()
}

/// SHA-256 of each watched input that is a file. Of others the record has the text, or only their existence matters.
fn digests(agent: &Agent<'_>, record: &UpToDate) -> Result<Vec<Option<String>>> {
    let root = &agent.host.root;
    let digest = |(input, seen): &(WatchedInput, Option<Fingerprint>)| match (input, seen) {
        (WatchedInput::Path(path), Some(seen)) if seen.size > LARGE => match root.file(path)? {
            // its artifact's check has read it
            Some((_, file)) => agent.store.digest_of(&root.outside(path), file).map(Some),
            None => Ok(None),
        },
        (WatchedInput::Path(path), Some(_)) => Ok(root.digest(path, LARGE)?.map(|(_, digest)| digest)),
        _ => Ok(None),
    };
    record.watched.iter().map(digest).collect()
}

fn remove(agent: &Agent<'_>, name: &str) -> Result<()> {
    agent.store.root().remove(&Path::new("/").join(name))
}

/// Whether nothing was touched since the record was made, and with `known` whether every content is the same; large files are read on
/// request only.
fn is_untouched(agent: &Agent<'_>, record: &UpToDate, known: Option<&Contents>, is_full: bool) -> Result<bool> {
    let root = &agent.host.root;
    if known.is_some_and(|known| known.made != record.made || known.inputs != input_digests(record)) {
        return Ok(false);
    }
    let units = record.watched.iter().filter_map(|(input, _)| match input {
        WatchedInput::Unit(name) => Some(name.clone()),
        _ => None,
    });
    agent.host.expect(Queries { units: units.collect(), ..Queries::default() });
    for (at, (input, was)) in record.watched.iter().enumerate() {
        let known = known.and_then(|known| known.watched.get(at)?.as_ref());
        if let (WatchedInput::Path(path), Some(known)) = (input, known) {
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
            if is_full {
                let Some((_, mut file)) = root.file(path)? else { return Ok(false) };
                if hash(&mut file).map_err(|error| failed_io("read", path, error))?.sha256 != *known {
                    return Ok(false);
                }
            }
        }
        if agent.host.seen(input)? != *was {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The result of a run on a host that is up to date while no source has news; `None` when the host has to be compared with its site. Checks
/// everything if `is_full`, or if the last full check was long ago; else whether anything was touched.
pub fn check(agent: &Agent<'_>, is_full: bool, start: Instant) -> Result<Option<Summary>> {
    // a record that can't be read is none
    let Ok(Some(mut record)) = agent.store.read::<UpToDate>(FILE) else { return Ok(None) };
    let now = Timestamp::now();
    let is_good = now >= record.made && now >= record.created && now < record.expires;
    if !is_good || record.program != env!("CARGO_PKG_VERSION") || record.inputs != inputs(agent) {
        return Ok(None);
    }
    if record.host != agent.name || record.facts != facts(agent, &record.details)? || !agent.sources_are_quiet() {
        return Ok(None);
    }
    let is_due = now >= record.made + agent.config.verify_every();
    let mut known = None;
    if is_full || is_due {
        let Ok(Some(contents)) = agent.store.read::<Contents>(CONTENTS) else { return Ok(None) };
        known = Some(contents);
        if record.custom != custom_facts(agent)? {
            return Ok(None);
        }
    }
    // the long way reports what can't be checked, and knows whose it is
    if !is_untouched(agent, &record, known.as_ref(), is_full).unwrap_or(false) {
        return Ok(None);
    }
    if let Some(contents) = known.filter(|_| is_due) {
        record.made = now;
        agent.store.write_quickly(CONTENTS, &Contents { made: now, ..contents })?;
        agent.store.write_quickly(FILE, &record)?;
    }
    Ok(Some(Summary {
        command: "apply",
        host: agent.name.clone(),
        serial: Some(record.serial),
        resources: record.resources,
        up_to_date: !is_full && !is_due,
        took: start.elapsed(),
        ..Summary::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_that_is_larger_than_any_configuration_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("release.tar");
        let now = Timestamp::UNIX_EPOCH;
        let record = UpToDate {
            program: String::new(),
            host: String::new(),
            made: now,
            serial: 1,
            created: now,
            expires: now,
            resources: 0,
            facts: String::new(),
            details: BTreeSet::new(),
            custom: String::new(),
            inputs: [(path.clone(), None)].into(),
            watched: Vec::new(),
        };
        let digests = [b'a', b'b'].map(|byte| {
            std::fs::write(&path, vec![byte; 9 << 20]).unwrap();
            input_digests(&record)
        });
        assert!(digests.iter().flatten().all(Option::is_some), "{digests:?}");
        assert_ne!(digests[0], digests[1]);
    }
}
