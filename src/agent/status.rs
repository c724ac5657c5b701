//! Publishes the signed record of this host's status after a run.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::Status;
use crate::engine::Agent;
use crate::error::{Result, code, error, mask};
use crate::host::etcd::{Api, Client, Failure};
use crate::host::root::Root;
use crate::net;
use crate::sandbox;
use crate::status::vitals::Vitals;
use crate::status::{Record, VERSION, file, key};
use crate::store::{LastRun, Pause};
use crate::trust::{Purpose, Signer};

/// What was published last, and when.
const REPORTED: &str = "told.json";

/// What was published last.
#[derive(Debug, Deserialize, Serialize)]
struct Reported {
    time: Timestamp,
    /// SHA-256 of the record without its time, and of where it is published.
    digest: String,
    /// The release that the host was healthy on, and since when.
    #[serde(default, rename = "well")]
    healthy: Option<(u64, Timestamp)>,
}

/// Publishes this host's status after a run, if `[status]` is configured, and if something is new or it is time.
pub fn write(agent: &Agent<'_>, run: &LastRun) -> Result<()> {
    let Some(config) = &agent.config.status else { return Ok(()) };
    let last = agent.store.read::<Reported>(REPORTED).ok().flatten();
    let mut record = record(agent, config, run)?;
    let is_healthy = (record.exit == 0 || record.of_host) && record.good && record.bad.is_none();
    let healthy = record.release.filter(|_| is_healthy).map(|release| {
        let known =
            last.as_ref().and_then(|last| last.healthy).filter(|known| known.0 == release && known.1 <= run.time);
        known.unwrap_or((release, run.time))
    });
    record.since = healthy.map(|(_, since)| since);
    // what was published elsewhere is news here
    let places = (&config.dir, &config.http, &config.etcd);
    let digest = hex::encode(Sha256::digest(serde_json::to_vec(&(&record, places)).unwrap_or_default()));
    record.time = run.time;
    let is_recent = |last: &Reported| last.time <= run.time && run.time < last.time + config.every.0;
    if last.is_some_and(|last| last.digest == digest && is_recent(&last)) {
        return Ok(());
    }
    let bytes = sign(agent, &record)?;
    if let Some(dir) = &config.dir {
        Root::write_output(dir, &file(&record.host), &bytes).map_err(|why| {
            why.wrapped(code::FLEET, "can't write this host's status")
                .or_help("`dir` under [status] in kpull.toml is a directory: make it, or correct it")
        })?;
    }
    if let Some(url) = &config.http {
        let to = net::below(&net::parse(url)?, [file(&record.host).as_str()])?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        sandbox::Web::new(config.options(), &agent.config.sandbox.require).put(&to, text)?;
    }
    if let Some(cluster) = config.cluster()? {
        put(&*agent.host.etcd(&cluster)?, &key(&record.host), &bytes)
            .map_err(|why| error!(FLEET, "can't write this host's status to etcd").because(why))?;
    }
    agent.store.write_quickly(REPORTED, &Reported { time: run.time, digest, healthy })
}

/// The record of this host, without its time.
fn record(agent: &Agent<'_>, config: &Status, run: &LastRun) -> Result<Record> {
    let vitals = Vitals::load(&agent.store).unwrap_or_default();
    let mut certificates: Vec<_> = vitals.certificates.into_iter().collect();
    certificates.sort_by_key(|(_, ending)| ending.end);
    let failing = vitals.probes.iter().filter(|(_, passed)| !**passed).map(|(id, _)| id.key().to_owned());
    let generation = agent.store.generation()?;
    let seen = agent.trust()?.state.release;
    let record = Record {
        version: VERSION,
        site: agent.config.trust.site.clone(),
        host: agent.name.clone(),
        time: Timestamp::UNIX_EPOCH,
        every: config.every.0.as_secs(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        release: generation.as_ref().map(|one| one.serial),
        seen: seen.as_ref().map(|seen| seen.serial),
        seen_keys: seen.map(|seen| seen.keys),
        keys: generation.as_ref().map(|one| one.keys),
        generation: generation.as_ref().map(|one| one.number),
        good: generation.is_some_and(|one| one.good),
        bad: agent.store.stay_on()?.map(|stay| (stay.not, mask::hide(&stay.why).into_owned())),
        exit: run.exit,
        error: run.error.as_deref().map(|error| mask::hide(error).into_owned()),
        of_host: run.of_host,
        paused: Pause::now(&agent.store)?.len(),
        since: None,
        waits: run.waits.as_deref().map(|why| mask::hide(why).into_owned()),
        drift: vitals.drift,
        passing: vitals.probes.values().filter(|passed| **passed).count(),
        failing: failing.collect(),
        certificates,
        artifacts: vitals.artifacts,
    };
    Ok(record.short())
}

fn sign(agent: &Agent<'_>, record: &Record) -> Result<Vec<u8>> {
    let keys = agent.config.identities(&agent.host.root);
    let Some(key) = keys.iter().find(|key| nix::sys::stat::stat(*key).is_ok()) else {
        return Err(error!(FLEET, "there is no key to sign this host's status with")
            .help("`ssh-keygen -A` makes the host keys; or set `identities` under [secrets]"));
    };
    let mut bytes = serde_json::to_vec(record).unwrap_or_default();
    bytes.push(b'\n');
    let signature = Signer::of(key)?.sign(&bytes, Purpose::Status)?;
    bytes.extend(signature.as_bytes());
    Ok(bytes)
}

fn put(client: &Client, key: &str, value: &[u8]) -> Result<(), Failure> {
    // no other host writes it: the second attempt is for a run of this host that was killed
    for _ in 0..2 {
        let was = client.peek(Api::V3, key)?.map_or(0, |pair| pair.revision);
        if client.swap(Api::V3, key, was, value)? {
            break;
        }
    }
    Ok(())
}
