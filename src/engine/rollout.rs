//! Whose turn it is with a new release. The site says in which order, each host reads what the earlier ones have signed
//! of themselves, and decides for itself: there is nobody who decides for all.

use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;

use crate::config::{READING, Status};
use crate::engine::lock::{self, Acquired};
use crate::engine::select::Agent;
use crate::error::{Error, Result, code};
use crate::host::fleetlock::FleetLock;
use crate::kind::Item;
use crate::report::Event;
use crate::site::{Rollout, Site};
use crate::status::{HostState, Record, RecordSource, written};

/// How a host stands to a release.
#[derive(Clone, Debug, PartialEq, Eq)]
enum HostProgress {
    /// It is on it, and healthy since.
    Healthy(Timestamp),
    /// It will take it.
    Coming,
    /// Nobody knows whether it will.
    Away(String),
    /// The release does it no good: how one sees that.
    Unhealthy(&'static str),
}

/// Why this host does not take a release yet, which has these resources for it; `None` when it is its turn.
///
/// A release may say where hosts tell how they are: those that have taken it tell it there. A host that can't read that yet, and
/// reads nowhere else, takes the release, or it would never be able to.
pub fn wait(agent: &Agent<'_>, rollout: &Rollout, site: &Site, coming: &[Item], serial: u64) -> Result<Option<String>> {
    let configured = agent.config.status.as_ref();
    // nobody goes before this host, and so nobody needs to be heard
    if configured.is_none() && !rollout.needs_status(&site.hosts) {
        return Ok(None);
    }
    let coming = written(coming, &config_path(agent)).flatten();
    let until = Instant::now() + configured.or(coming.as_ref()).map_or(READING, Status::within);
    let place = |status: &Status| RecordSource::of(status, &agent.host, &agent.config.sandbox.require);
    let mut places: Vec<RecordSource> = configured.map(place).transpose()?.into_iter().collect();
    if let Some(status) = coming.as_ref().filter(|coming| Some(*coming) != configured) {
        places.extend(place(status).ok().filter(|place| place.is_there(&agent.name, until)));
    }
    if places.is_empty() {
        return match coming {
            Some(_) => Ok(None),
            None => Err(Error::new(code::ROLLOUT, "this site has a [rollout], and this host can't read how the others are")
                .help("set [status] in kpull.toml; until then it stays with the release that it has, or takes this one with `kpull apply --now`")),
        };
    }
    let (now, trust) = (Timestamp::now(), agent.trust()?);
    let standing = |host: &str| -> Result<HostProgress> {
        let keys = site.hosts.get(host).map(|host| host.recipients.as_slice()).unwrap_or_default();
        let mut newest: Option<Record> = None;
        let mut away = "has never spoken".to_owned();
        for place in &places {
            let Some(record) = place.record(&site.name, host, keys, until)? else { continue };
            match record {
                Ok(record) if newest.as_ref().is_none_or(|known| known.time < record.time) => newest = Some(record),
                Ok(_) => {}
                Err(why) => away = why,
            }
        }
        let Some(mut record) = newest else { return Ok(HostProgress::Away(away)) };
        // however high a serial is, a key set can have taken it back since
        let counts = |serial: u64, keys: u64| trust.counts(&agent.store, serial, keys);
        if let Some((serial, keys)) = record.release.zip(record.keys)
            && !counts(serial, keys)?
        {
            record.release = None;
        }
        if let Some(serial) = record.seen
            && !counts(serial, record.keys_of_seen())?
        {
            record.seen = None;
        }
        Ok(HostProgress::of(&record, serial, now))
    };
    turn(rollout, site, &agent.name, now, &standing)
}

/// Where this host's configuration is, as its resources say it.
#[expect(clippy::disallowed_methods, reason = "only where it is, of which nothing is opened")]
fn config_path(agent: &Agent<'_>) -> PathBuf {
    let outside = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let (root, path) = (outside(&agent.host.root.outside(Path::new("/"))), outside(&agent.config_path));
    Path::new("/").join(path.strip_prefix(root).unwrap_or(&path))
}

impl HostProgress {
    /// What a record says about the release with this serial.
    fn of(record: &Record, serial: u64, now: Timestamp) -> Self {
        let is_there = record.release.is_some_and(|release| release >= serial);
        let has_tried = record.waits.is_none() && record.seen.is_some_and(|seen| seen >= serial);
        match record.state(serial, now) {
            HostState::RolledBack if record.bad.as_ref().is_some_and(|(bad, _)| *bad >= serial) => {
                Self::Unhealthy("it was no good there")
            }
            // what only this host is to blame for says nothing about the release
            HostState::Failed if record.of_host && is_there => {
                record.since.map_or_else(|| Self::Away(record.says(now).join("; ")), Self::Healthy)
            }
            // one that has seen it, and is not only waiting for its turn, has failed with it
            HostState::Failed if (is_there || has_tried) && !record.of_host => Self::Unhealthy("its run failed there"),
            HostState::Silent => Self::Away(format!("says nothing since {:.0}", record.time)),
            // what is not well apart from the release keeps nobody from taking it
            HostState::Healthy | HostState::Unhealthy if is_there => record.since.map_or(Self::Coming, Self::Healthy),
            HostState::Failed if record.waits.is_none() => Self::Away(record.says(now).join("; ")),
            _ => Self::Coming,
        }
    }

    /// What is wrong.
    fn why(&self) -> &str {
        match self {
            Self::Away(why) => why,
            Self::Unhealthy(why) => why,
            Self::Healthy(_) | Self::Coming => "",
        }
    }
}

/// Goes through the hosts that come before `own`, from the nearest: as a rule the first one that has not gone yet is the
/// only one that has to be asked. All others are asked once, when it is its turn.
fn turn(
    rollout: &Rollout,
    site: &Site,
    own: &str,
    now: Timestamp,
    standing: &dyn Fn(&str) -> Result<HostProgress>,
) -> Result<Option<String>> {
    let waves = rollout.waves(&site.hosts);
    let Some(at) = waves.iter().position(|wave| wave.hosts.contains(&own)) else { return Ok(None) };
    let mut unhealthy = Vec::new();
    let mut stopped = |host: &str, number: usize, why: &str| {
        unhealthy.push(format!("{host} (wave {number}): {why}"));
        (unhealthy.len() > rollout.failures).then(|| format!("stopped by {}", unhealthy.join("; ")))
    };
    let hosts = &waves[at].hosts;
    let place = hosts.iter().position(|host| *host == own).unwrap_or_default();
    let earlier = hosts[..place].iter().rev().map(|host| (host, true));
    // they have gone only if somebody made them (`--now`), so only a host whose turn it seems to be asks them
    let later = hosts[place + 1..].iter().rev().map(|host| (host, false));
    let mut ahead = 0;
    for (host, is_ahead) in earlier.chain(later) {
        match standing(host)? {
            HostProgress::Coming if is_ahead => {
                ahead += 1;
                if ahead >= waves[at].at_once {
                    return Ok(Some(format!("{host} goes first")));
                }
            }
            HostProgress::Unhealthy(why) => {
                if let Some(stopped) = stopped(host, at + 1, why) {
                    return Ok(Some(stopped));
                }
            }
            HostProgress::Coming | HostProgress::Healthy(_) | HostProgress::Away(_) => {}
        }
    }
    for (number, wave) in waves[..at].iter().enumerate().rev().map(|(at, wave)| (at + 1, wave)) {
        for host in wave.hosts.iter().rev() {
            match standing(host)? {
                HostProgress::Coming => return Ok(Some(format!("{host} of wave {number} goes first"))),
                HostProgress::Healthy(since) if now < since.saturating_add(wave.soak).unwrap_or(Timestamp::MAX) => {
                    let end = since.saturating_add(wave.soak).unwrap_or(Timestamp::MAX);
                    return Ok(Some(format!("wave {number} is watched until {end:.0}, at least")));
                }
                HostProgress::Healthy(_) => {}
                away @ (HostProgress::Away(_) | HostProgress::Unhealthy(_)) => {
                    if let Some(stopped) = stopped(host, number, away.why()) {
                        return Ok(Some(stopped));
                    }
                }
            }
        }
    }
    Ok(None)
}

/// Asks the server that the site names for a lock, before this host takes a release; why not, when it gives none.
pub fn lock(agent: &Agent<'_>, fleetlock: &FleetLock) -> Option<String> {
    match lock::take(&agent.host, &agent.store, &agent.name, fleetlock) {
        Ok(Acquired::Now | Acquired::Before) => None,
        Ok(Acquired::Refused(why)) => Some(format!("the lock server says: {why}")),
        Err(why) => Some(format!("the lock server can't be asked: {why}")),
    }
}

/// Gives back the locks that this host has, if it has any, now that it is well.
pub fn unlock(agent: &Agent<'_>) -> Result<()> {
    for why in lock::give_back_all(&agent.host, &agent.store, &agent.name)? {
        agent.report.event(&Event::LockNotReturned { why: &why });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use jiff::SignedDuration;

    use super::*;
    use crate::document::Files;

    /// Six hosts in waves of one, two and three; `wave` is added to the second.
    fn site(rollout: &str, wave: &str) -> Site {
        let text = format!(
            "name = \"x\"\n[rollout]\n{rollout}\n[[rollout.wave]]\nhosts = [\"h1\"]\nsoak = \"10m\"\n\
             [[rollout.wave]]\nhosts = [\"h2\", \"h3\"]\n{wave}\n"
        );
        let mut files = Files::default();
        files.extend([("site.toml".to_owned(), text.into_bytes().into())]);
        for number in 1..=6 {
            let host = format!("address = \"10.0.0.{number}\"\n").into_bytes();
            files.extend([(format!("host_vars/h{number}.toml"), host.into())]);
        }
        Site::load(files).unwrap()
    }

    fn minutes(count: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_mins(count)
    }

    /// What `own` waits for at minute 60, and how many hosts it asked for that.
    fn waits(site: &Site, own: &str, standings: &[(&str, HostProgress)]) -> (Option<String>, usize) {
        let known: BTreeMap<&str, &HostProgress> = standings.iter().map(|(host, standing)| (*host, standing)).collect();
        let asked = RefCell::new(Vec::new());
        let standing = |host: &str| {
            asked.borrow_mut().push(host.to_owned());
            Ok(known.get(host).map_or(HostProgress::Coming, |known| (*known).clone()))
        };
        let why = turn(site.rollout.as_ref().unwrap(), site, own, minutes(60), &standing).unwrap();
        (why, asked.into_inner().len())
    }

    fn why(site: &Site, own: &str, standings: &[(&str, HostProgress)]) -> String {
        waits(site, own, standings).0.unwrap_or_else(|| "now".to_owned())
    }

    fn healthy() -> HostProgress {
        HostProgress::Healthy(minutes(1))
    }

    fn bad() -> HostProgress {
        HostProgress::Unhealthy("probe")
    }

    fn away() -> HostProgress {
        HostProgress::Away("off".to_owned())
    }

    #[test]
    fn a_wave_goes_when_the_ones_before_it_have_been_well_for_long_enough() {
        let site = site("", "");
        assert_eq!(why(&site, "h1", &[]), "now");
        assert_eq!(why(&site, "h2", &[]), "h1 of wave 1 goes first");
        assert_eq!(
            why(&site, "h2", &[("h1", HostProgress::Healthy(minutes(51)))]),
            "wave 1 is watched until 1970-01-01T01:01:00Z, at least"
        );
        assert_eq!(why(&site, "h2", &[("h1", HostProgress::Healthy(minutes(50)))]), "now");
        assert_eq!(why(&site, "h4", &[("h1", healthy()), ("h2", healthy())]), "h3 of wave 2 goes first");
        assert_eq!(why(&site, "h4", &[("h1", healthy()), ("h2", healthy()), ("h3", healthy())]), "now");
    }

    #[test]
    fn within_a_wave_hosts_go_one_after_the_other_unless_more_are_let() {
        let one = site("", "");
        assert_eq!(why(&one, "h3", &[("h1", healthy())]), "h2 goes first");
        assert_eq!(why(&one, "h3", &[("h1", healthy()), ("h2", healthy())]), "now");
        let two = site("", "at_once = 2");
        assert_eq!(why(&two, "h3", &[("h1", healthy())]), "now");
        // who waits asks one host, as a rule: none of those that come after it
        assert_eq!(
            waits(&one, "h5", &[("h1", healthy()), ("h2", healthy()), ("h3", healthy())]),
            (Some("h4 goes first".to_owned()), 1)
        );
    }

    #[test]
    fn it_ends_with_the_first_host_that_it_does_no_good_or_after_as_many_as_may_fail() {
        let none = site("", "");
        assert_eq!(why(&none, "h3", &[("h1", healthy()), ("h2", bad())]), "stopped by h2 (wave 2): probe");
        assert_eq!(why(&none, "h2", &[("h1", healthy()), ("h3", bad())]), "stopped by h3 (wave 2): probe");
        assert_eq!(
            why(&none, "h4", &[("h1", bad()), ("h2", healthy()), ("h3", healthy())]),
            "stopped by h1 (wave 1): probe"
        );
        let one = site("failures = 1", "");
        assert_eq!(why(&one, "h3", &[("h1", healthy()), ("h2", bad())]), "now");
        assert_eq!(
            why(&one, "h4", &[("h1", bad()), ("h2", healthy()), ("h3", bad())]),
            "stopped by h3 (wave 2): probe; h1 (wave 1): probe"
        );
    }

    #[test]
    fn a_host_that_is_away_counts_like_one_that_failed_once_the_next_wave_is_to_go() {
        let none = site("", "");
        assert_eq!(why(&none, "h3", &[("h1", healthy()), ("h2", away())]), "now");
        assert_eq!(
            why(&none, "h4", &[("h1", healthy()), ("h2", away()), ("h3", healthy())]),
            "stopped by h2 (wave 2): off"
        );
        let one = site("failures = 1", "");
        assert_eq!(why(&one, "h4", &[("h1", healthy()), ("h2", away()), ("h3", healthy())]), "now");
    }

    #[test]
    fn a_host_that_failed_before_the_turn_does_not_stop_itself() {
        let site = site("", "");
        assert_eq!(why(&site, "h2", &[("h1", healthy()), ("h2", bad())]), "now");
        assert_eq!(why(&site, "h3", &[("h1", healthy()), ("h2", healthy()), ("h3", bad())]), "now");
    }

    /// The record of a host that is well on release 7, spoke at minute 59, and differs in these fields.
    fn standing(differs: serde_json::Value) -> HostProgress {
        let mut record = serde_json::json!({
            "version": 1, "site": "x", "host": "h", "time": minutes(59), "every": 600, "program": "0", "release": 7,
            "seen": 7, "generation": 1, "good": true, "bad": null, "exit": 0, "error": null, "held": 0,
            "since": minutes(50),
        });
        let serde_json::Value::Object(differs) = differs else { panic!("{differs}") };
        record.as_object_mut().unwrap().extend(differs);
        HostProgress::of(&serde_json::from_value(record).unwrap(), 7, minutes(60))
    }

    #[test]
    fn how_a_host_stands_to_a_release_is_in_its_record() {
        use serde_json::json;

        let (no_good, failed) =
            (HostProgress::Unhealthy("it was no good there"), HostProgress::Unhealthy("its run failed there"));
        for (differs, expected) in [
            (json!({}), HostProgress::Healthy(minutes(50))),
            (json!({ "release": 8, "seen": 8 }), HostProgress::Healthy(minutes(50))),
            // it was well for not even one whole run
            (json!({ "since": null }), HostProgress::Coming),
            (json!({ "release": 6, "waits": "for its turn" }), HostProgress::Coming),
            (json!({ "release": 6, "seen": 6 }), HostProgress::Coming),
            (json!({ "release": null, "seen": null }), HostProgress::Coming),
            (json!({ "release": 6, "bad": [7, "why"], "exit": 3 }), no_good.clone()),
            (json!({ "release": 6, "bad": [8, "why"] }), no_good),
            (json!({ "release": 5, "bad": [6, "why"] }), HostProgress::Coming),
            (json!({ "exit": 1 }), failed.clone()),
            (json!({ "release": 8, "seen": 8, "exit": 1, "waits": "for its turn" }), failed.clone()),
            (json!({ "release": 6, "exit": 1 }), failed.clone()),
            (json!({ "release": 6, "seen": 8, "exit": 1 }), failed),
            (json!({ "release": 6, "exit": 1, "waits": "for its turn" }), HostProgress::Coming),
            // something on that host alone is in the way
            (json!({ "exit": 1, "of_host": true }), HostProgress::Healthy(minutes(50))),
            (
                json!({ "release": 8, "seen": 9, "exit": 1, "of_host": true, "waits": "for its turn" }),
                HostProgress::Healthy(minutes(50)),
            ),
            (json!({ "release": 6, "exit": 1, "of_host": true, "waits": "for its turn" }), HostProgress::Coming),
            (
                json!({ "release": 6, "exit": 1, "of_host": true, "since": null, "error": "no space" }),
                HostProgress::Away("no space".to_owned()),
            ),
            // its source is down: it may never hear of it
            (
                json!({ "release": 6, "seen": 6, "exit": 1, "error": "no source" }),
                HostProgress::Away("no source".to_owned()),
            ),
            (
                json!({ "time": Timestamp::UNIX_EPOCH }),
                HostProgress::Away("says nothing since 1970-01-01T00:00:00Z".to_owned()),
            ),
        ] {
            assert_eq!(standing(differs.clone()), expected, "{differs}");
        }
    }
}
