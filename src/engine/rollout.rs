//! This host's position in the rollout of a new release. The site defines the order; each host reads what the earlier hosts have signed
//! about themselves, and decides for itself: no central service decides for all.

use crate::config::{READING, Status};
use crate::engine::prelude::*;
use crate::site::{Rollout, Site};
use crate::status::{HostState, Record, RecordSource, Reported, written};

/// A host's progress to a release.
#[derive(Clone, Debug, PartialEq, Eq)]
enum HostProgress {
    /// It has the release, and has been healthy since.
    Healthy(Timestamp),
    /// It will apply it.
    Coming,
    /// It is unknown whether it will.
    Away(String),
    /// It failed with the release, and how that shows.
    Failed(&'static str),
}

/// Why this host doesn't apply a release yet that has the resources `coming` for it; `None` when it is its turn.
///
/// A release may change where hosts write their status: the hosts that have applied it write there. A host that can't read that place yet,
/// and reads no other, applies the release, or it could never read it.
pub fn wait(agent: &Agent<'_>, rollout: &Rollout, site: &Site, coming: &[Item], serial: u64) -> Result<Option<String>> {
    let configured = agent.config.status.as_ref();
    // no host goes before this one, so no record is needed
    if configured.is_none() && !rollout.needs_status(&site.hosts) {
        return Ok(None);
    }
    let coming = written(coming, &config_path(agent)).flatten();
    let until = Instant::now() + configured.or(coming.as_ref()).map_or(READING, Status::within);
    let source = |status: &Status| RecordSource::of(status, &agent.host, &agent.config.sandbox.require);
    let mut sources: Vec<RecordSource> = configured.map(source).transpose()?.into_iter().collect();
    if let Some(status) = coming.as_ref().filter(|coming| Some(*coming) != configured) {
        sources.extend(source(status).ok().filter(|source| source.is_there(&agent.name, until)));
    }
    if sources.is_empty() {
        return match coming {
            Some(_) => Ok(None),
            None => Err(error!(ROLLOUT, "this site has a [rollout], and this host can't read the status of the others")
                .help("set [status] in kpull.toml; until then, the host stays on its release; `kpull apply --now` applies the new one anyway")),
        };
    }
    let (now, trust) = (Timestamp::now(), agent.trust()?);
    let progress = |host: &str| -> Result<HostProgress> {
        let keys = site.hosts.get(host).map(|host| host.recipients.as_slice()).unwrap_or_default();
        let mut newest: Option<Record> = None;
        let mut away = "has never reported".to_owned();
        for source in &sources {
            match source.record(&site.name, host, keys, until)? {
                Reported::Here(record) if newest.as_ref().is_none_or(|known| known.time < record.time) => {
                    newest = Some(record);
                }
                Reported::Refused(why) => away = why,
                Reported::Here(_) | Reported::Absent => {}
            }
        }
        let Some(mut record) = newest else { return Ok(HostProgress::Away(away)) };
        // whatever its serial is, a key set can have withdrawn a release since
        if let (Some(serial), Some(keys)) = (record.release, record.keys)
            && !trust.accepts(&agent.store, serial, keys)?
        {
            record.release = None;
        }
        if let Some(serial) = record.seen
            && !trust.accepts(&agent.store, serial, record.keys_of_seen())?
        {
            record.seen = None;
        }
        Ok(HostProgress::of(&record, serial, now))
    };
    turn(rollout, site, &agent.name, now, &progress)
}

/// The path of this host's configuration, as its resources name it.
#[expect(clippy::disallowed_methods, reason = "only where it is, of which nothing is opened")]
fn config_path(agent: &Agent<'_>) -> PathBuf {
    let outside = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let (root, path) = (outside(&agent.host.root.outside(Path::new("/"))), outside(&agent.config_path));
    Path::new("/").join(path.strip_prefix(root).unwrap_or(&path))
}

impl HostProgress {
    /// What a record says about the release with this serial.
    fn of(record: &Record, serial: u64, now: Timestamp) -> Self {
        let has_release = record.release.is_some_and(|release| release >= serial);
        let has_tried = record.waits.is_none() && record.seen.is_some_and(|seen| seen >= serial);
        let away = || Self::Away(record.says(now).join("; "));
        match record.state(serial, now) {
            HostState::RolledBack if record.bad.as_ref().is_some_and(|(bad, _)| *bad >= serial) => {
                Self::Failed("the release failed there")
            }
            // a failure of the host's own says nothing about the release
            HostState::Failed if record.of_host && has_release => record.since.map_or_else(away, Self::Healthy),
            // a host that has seen it, and is not only waiting for its turn, has failed with it
            HostState::Failed if (has_release || has_tried) && !record.of_host => Self::Failed("its run failed there"),
            HostState::Silent => Self::Away(format!("has not reported since {:.0}", record.time)),
            // what is unhealthy for other reasons doesn't hold back the release
            HostState::Healthy | HostState::Unhealthy if has_release => {
                record.since.map_or(Self::Coming, Self::Healthy)
            }
            HostState::Failed if record.waits.is_none() => away(),
            _ => Self::Coming,
        }
    }
}

/// Checks the hosts that come before `own`, from the nearest: as a rule the first one that has not finished is the only one that must be
/// read. Only a host whose position is reached reads all others, once.
fn turn(
    rollout: &Rollout,
    site: &Site,
    own: &str,
    now: Timestamp,
    progress: &dyn Fn(&str) -> Result<HostProgress>,
) -> Result<Option<String>> {
    let waves = rollout.waves(&site.hosts);
    let Some(at) = waves.iter().position(|wave| wave.hosts.contains(&own)) else { return Ok(None) };
    let mut failed = Vec::new();
    let mut stopped = |host: &str, number: usize, why: &str| {
        failed.push(format!("{host} (wave {number}): {why}"));
        (failed.len() > rollout.failures).then(|| format!("stopped by {}", failed.join("; ")))
    };
    let hosts = &waves[at].hosts;
    let place = hosts.iter().position(|host| *host == own).unwrap_or_default();
    let earlier = hosts[..place].iter().rev().map(|host| (host, true));
    // later hosts have the release only by `--now`, so only a host whose turn it seems to be reads them
    let later = hosts[place + 1..].iter().rev().map(|host| (host, false));
    let mut ahead = 0;
    for (host, is_ahead) in earlier.chain(later) {
        match progress(host)? {
            HostProgress::Coming if is_ahead => {
                ahead += 1;
                if ahead >= waves[at].at_once {
                    return Ok(Some(format!("{host} goes first")));
                }
            }
            HostProgress::Failed(why) => {
                if let Some(stopped) = stopped(host, at + 1, why) {
                    return Ok(Some(stopped));
                }
            }
            HostProgress::Coming | HostProgress::Healthy(_) | HostProgress::Away(_) => {}
        }
    }
    for (number, wave) in waves[..at].iter().enumerate().rev().map(|(at, wave)| (at + 1, wave)) {
        for host in wave.hosts.iter().rev() {
            let why = match progress(host)? {
                HostProgress::Coming => return Ok(Some(format!("{host} of wave {number} goes first"))),
                HostProgress::Healthy(since) => {
                    let end = since.saturating_add(wave.soak).unwrap_or(Timestamp::MAX);
                    if now < end {
                        return Ok(Some(format!("wave {number} must stay healthy until {end:.0} at least")));
                    }
                    continue;
                }
                HostProgress::Away(why) => why,
                HostProgress::Failed(why) => why.to_owned(),
            };
            if let Some(stopped) = stopped(host, number, &why) {
                return Ok(Some(stopped));
            }
        }
    }
    Ok(None)
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

    /// What `own` waits for at minute 60, and how many hosts it read for that.
    fn waits(site: &Site, own: &str, progress: &[(&str, HostProgress)]) -> (Option<String>, usize) {
        let known: BTreeMap<&str, &HostProgress> = progress.iter().map(|(host, progress)| (*host, progress)).collect();
        let asked = RefCell::new(Vec::new());
        let progress = |host: &str| {
            asked.borrow_mut().push(host.to_owned());
            Ok(known.get(host).map_or(HostProgress::Coming, |known| (*known).clone()))
        };
        let why = turn(site.rollout.as_ref().unwrap(), site, own, minutes(60), &progress).unwrap();
        (why, asked.into_inner().len())
    }

    fn why(site: &Site, own: &str, progress: &[(&str, HostProgress)]) -> String {
        waits(site, own, progress).0.unwrap_or_else(|| "now".to_owned())
    }

    fn healthy() -> HostProgress {
        HostProgress::Healthy(minutes(1))
    }

    fn bad() -> HostProgress {
        HostProgress::Failed("probe")
    }

    fn away() -> HostProgress {
        HostProgress::Away("off".to_owned())
    }

    #[test]
    fn a_wave_goes_when_the_earlier_ones_have_been_healthy_for_long_enough() {
        let site = site("", "");
        assert_eq!(why(&site, "h1", &[]), "now");
        assert_eq!(why(&site, "h2", &[]), "h1 of wave 1 goes first");
        assert_eq!(
            why(&site, "h2", &[("h1", HostProgress::Healthy(minutes(51)))]),
            "wave 1 must stay healthy until 1970-01-01T01:01:00Z at least"
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
        // a host that waits reads one host, as a rule: none of those that come after it
        assert_eq!(
            waits(&one, "h5", &[("h1", healthy()), ("h2", healthy()), ("h3", healthy())]),
            (Some("h4 goes first".to_owned()), 1)
        );
    }

    #[test]
    fn a_rollout_stops_at_the_first_host_that_fails_or_after_as_many_as_may_fail() {
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

    /// The progress of a host that is healthy on release 7, wrote at minute 59, and differs in these fields.
    fn progress(differs: serde_json::Value) -> HostProgress {
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
    fn the_progress_of_a_host_follows_from_its_record() {
        use serde_json::json;

        let (no_good, failed) =
            (HostProgress::Failed("the release failed there"), HostProgress::Failed("its run failed there"));
        for (differs, expected) in [
            (json!({}), HostProgress::Healthy(minutes(50))),
            (json!({ "release": 8, "seen": 8 }), HostProgress::Healthy(minutes(50))),
            // it was healthy for not even one whole run
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
                HostProgress::Away("has not reported since 1970-01-01T00:00:00Z".to_owned()),
            ),
        ] {
            assert_eq!(progress(differs.clone()), expected, "{differs}");
        }
    }
}
