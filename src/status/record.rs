//! Status records: one for each host, signed with the host's own SSH key, in a directory, on a web server or in etcd. The site has the
//! key that each record must be signed with. No server of kpull's own is needed.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use ssh_key::{PublicKey, SshSig};

use crate::config::Status;
use crate::document::fields::LONGEST_DURATION;
use crate::error::{Exit, Result, error};
use crate::host::Host;
use crate::host::etcd::{Api, Client};
use crate::host::root::Root;
use crate::kind::Item;
use crate::net;
use crate::read;
use crate::sandbox::{self, Need};
use crate::secret::Recipient;
use crate::status::vitals::{Ending, failing};
use crate::text::display_as_serialized;
use crate::trust::Purpose;

/// The version of the record's fields.
pub const VERSION: u32 = 1;
/// What separates the record from its signature.
const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
/// The most bytes of a record with its signature.
const MOST: u64 = 64 * 1024;
/// The most characters of a text in a record, which is to stay small.
const TEXT: usize = 300;
/// The most certificates, probes and artifacts in a record.
const ENTRIES: [usize; 3] = [3, 5, 12];
/// After how many missed records a host counts as silent.
const MISSED: i32 = 3;
/// Additional time for a host that was just started, or whose run takes long.
const PATIENCE: SignedDuration = SignedDuration::from_mins(5);
/// How far ahead of this clock another host's clock may be.
const AHEAD: SignedDuration = SignedDuration::from_hours(24);

/// The `[status]` that resources write into the configuration at a path of the host, if one of them writes that file or a part of
/// it; `Some(None)` when they write the whole file without one.
pub fn written(items: &[Item], path: &Path) -> Option<Option<Status>> {
    #[derive(Deserialize)]
    struct Part {
        status: Option<Status>,
    }
    let mut is_whole = false;
    for item in items {
        is_whole |= item.about.paths().any(|claimed| claimed == path);
        if !item.about.claims.iter().any(|claim| claim.any_path() == Some(path)) {
            continue;
        }
        let Some(content) = item.resource.content() else { continue };
        let part = std::str::from_utf8(&content).ok().and_then(|text| toml::from_str::<Part>(text).ok());
        if let Some(mut status) = part.and_then(|part| part.status).filter(|status| status.check().is_ok()) {
            let base = path.parent().unwrap_or(Path::new("/"));
            status.paths().for_each(|path| *path = base.join(&*path));
            return Some(Some(status));
        }
    }
    is_whole.then_some(None)
}

/// The status of a host.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Record {
    /// The version of the format.
    pub version: u32,
    /// The site's name.
    pub site: String,
    /// The host's name in the site.
    pub host: String,
    /// When it was written.
    pub time: Timestamp,
    /// After how many seconds the host writes again, at the latest.
    pub every: u64,
    /// The version of kpull.
    pub program: String,
    /// The serial of the host's release; `None` before the first.
    pub release: Option<u64>,
    /// The serial of the newest release that it has seen, and applied unless it waits.
    pub seen: Option<u64>,
    /// The number of the key set that verified `release`: a later set can withdraw serials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<u64>,
    /// The number of the key set that the release with the serial `seen` was signed by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_keys: Option<u64>,
    /// The number of its generation.
    pub generation: Option<u64>,
    /// Whether every unit and probe was healthy then.
    pub good: bool,
    /// The release that the host failed with, and why, while it stays on an earlier one.
    pub bad: Option<(u64, String)>,
    /// The exit code of the last run.
    pub exit: u8,
    /// Its error.
    pub error: Option<String>,
    /// Whether the host is to blame for the error, and no release.
    #[serde(default)]
    pub of_host: bool,
    /// How many resources are paused.
    #[serde(rename = "held")]
    pub paused: usize,
    /// Since when the host has been healthy on its release, from run to run; `None` when it is unhealthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Why the host doesn't apply the newest release yet, when others go first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// When drift was last corrected, and of how many resources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<(Timestamp, usize)>,
    /// How many probes passed when they last ran.
    #[serde(default)]
    pub passing: usize,
    /// Those that failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failing: Vec<String>,
    /// The certificates that expire first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<(String, Ending)>,
    /// The versions of installed artifacts, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub artifacts: BTreeMap<String, String>,
}

/// The key in etcd of a host's record.
pub fn key(host: &str) -> String {
    format!("/kpull/status/{host}")
}

/// The file name of a host's record.
pub fn file(host: &str) -> String {
    format!("{host}.status")
}

/// Where the records of a fleet are read.
pub enum RecordSource {
    /// In a directory.
    Dir(PathBuf),
    /// On a web server that serves such a directory: the start of every address.
    Web(Box<sandbox::Web>, String),
    /// In etcd.
    Etcd(Rc<Client>),
}

impl RecordSource {
    /// The source for hosts with this `[status]`. `required` is what the sandbox must not lack.
    pub fn of(config: &Status, host: &Host, required: &[Need]) -> Result<Self> {
        match (config.cluster()?, &config.http, &config.dir) {
            (Some(cluster), ..) => Ok(Self::Etcd(host.etcd(&cluster)?)),
            (None, Some(url), _) => Ok(Self::on_web(url, &config.options(), required)),
            (None, None, dir) => Ok(Self::Dir(dir.clone().unwrap_or_default())),
        }
    }

    /// A directory that a web server serves; a process without rights reads it. `required` is what the sandbox must not lack.
    pub fn on_web(url: &str, options: &net::Options, required: &[Need]) -> Self {
        Self::Web(Box::new(sandbox::Web::new(options.clone(), required)), url.trim_end_matches('/').to_owned())
    }

    /// Whether it can be read now.
    pub fn is_there(&self, host: &str, until: Instant) -> bool {
        match self {
            Self::Dir(dir) => read::is_directory(dir),
            Self::Web(..) | Self::Etcd(_) => self.read(host, until).is_ok(),
        }
    }

    /// The record of a host of a site that has these keys. An error when the source can't be read, or not before `until`.
    pub fn record(&self, site: &str, host: &str, keys: &[Recipient], until: Instant) -> Result<Reported<Record>> {
        if until <= Instant::now() {
            return Err(error!(FLEET, "the record of {host} was not read: there was no time left")
                .help("the source of the records is slow: check it; `kpull fleet --within SECONDS` allows more time"));
        }
        Ok(match self.read(host, until)? {
            Reported::Here(bytes) => verify(&bytes, site, host, keys).map_or_else(Reported::Refused, Reported::Here),
            Reported::Refused(why) => Reported::Refused(why),
            Reported::Absent => Reported::Absent,
        })
    }

    fn read(&self, host: &str, until: Instant) -> Result<Reported<Vec<u8>>> {
        match self {
            Self::Dir(dir) => {
                let root = Root::open(dir)?.shown_whole();
                let path = Path::new("/").join(file(host));
                Ok(match (root.file(&path)?, root.meta(&path)?) {
                    (None, None) => Reported::Absent,
                    (None, Some(_)) => Reported::Refused("it is not a regular file".to_owned()),
                    (Some((meta, _)), _) if meta.size > MOST => {
                        Reported::Refused(format!("it has more than {MOST} bytes"))
                    }
                    (Some((_, file)), _) => {
                        let mut bytes = Vec::new();
                        match file.take(MOST).read_to_end(&mut bytes) {
                            Ok(_) => Reported::Here(bytes),
                            Err(why) => Reported::Refused(format!("it can't be read: {why}")),
                        }
                    }
                })
            }
            Self::Web(files, start) => match files.read(&format!("{start}/{}", file(host)), MOST, until) {
                Ok(bytes) => Ok(bytes.map_or(Reported::Absent, Reported::Here)),
                Err(why) if why.exit_code() == Exit::Refused => Ok(Reported::Refused(why.to_string())),
                Err(why) => Err(why),
            },
            Self::Etcd(client) => match client.peek(Api::V3, &key(host)) {
                Ok(pair) => Ok(pair.map_or(Reported::Absent, |pair| Reported::Here(pair.value))),
                Err(why) => Err(error!(FLEET, "etcd can't be read").because(why)),
            },
        }
    }
}

/// What a source has of a host.
#[derive(Debug)]
pub enum Reported<T> {
    /// The host has not written anything yet.
    Absent,
    /// What is there is refused, and why.
    Refused(String),
    /// What the host wrote.
    Here(T),
}

/// The state of a host of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostState {
    /// It has the newest release, and is healthy.
    Healthy,
    /// It doesn't have the newest release yet.
    Behind,
    /// A unit or probe is unhealthy, or a certificate has expired.
    Unhealthy,
    /// It failed with a release, and stays on an earlier one.
    RolledBack,
    /// Its last run failed.
    Failed,
    /// It has not written a record for long.
    Silent,
    /// Its record is not signed with its key, belongs to another host, or can't be true.
    Forged,
    /// Its record could not be read now.
    Unread,
    /// It has never written a record.
    Unknown,
}

display_as_serialized!(HostState);

/// Verifies a host's record; the error says why it is refused.
fn verify(bytes: &[u8], site: &str, host: &str, keys: &[Recipient]) -> Result<Record, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
    // the last one: texts that the host quotes in its record may have that line too
    let (signed, _) = text.rsplit_once(BEGIN).ok_or("it is not signed")?;
    let signature = text.strip_prefix(signed).unwrap_or_default();
    let signature = SshSig::from_pem(signature).map_err(|why| format!("its signature can't be read: {why}"))?;
    let mut keys = keys.iter().filter_map(|key| key.to_string().parse::<PublicKey>().ok());
    let good = |key: PublicKey| key.verify(Purpose::Status.namespace(), signed.as_bytes(), &signature).is_ok();
    if !keys.any(good) {
        return Err("it is not signed with a `recipient` key of this host".to_owned());
    }
    let record: Record =
        serde_json::from_str(signed).map_err(|why| format!("it can't be read: {}", cut(&why.to_string())))?;
    if record.site != site || record.host != host {
        return Err(format!("it is the record of {} of the site {}", cut(&record.host), cut(&record.site)));
    }
    record.check(Timestamp::now())?;
    Ok(record.short())
}

/// A text of another host, no longer than it may be repeated.
fn cut(text: &str) -> String {
    text.chars().take(TEXT).collect()
}

impl Record {
    /// Shortens every text to what a host may write: the records of the hosts that wait for this one quote it.
    pub fn short(mut self) -> Self {
        let [most_certificates, most_probes, most_artifacts] = ENTRIES;
        let artifacts = self.artifacts.into_iter().take(most_artifacts);
        self.artifacts = artifacts.map(|(name, version)| (cut(&name), cut(&version))).collect();
        self.certificates.truncate(most_certificates);
        self.failing.truncate(most_probes);
        let texts =
            [self.error.as_mut(), self.waits.as_mut(), self.bad.as_mut().map(|(_, why)| why)].into_iter().flatten();
        let names = self.failing.iter_mut().chain(self.certificates.iter_mut().map(|(name, _)| name));
        for text in texts.chain(names).chain([&mut self.program]) {
            *text = cut(text);
        }
        self
    }

    /// Refuses a number or a time that no working host writes, because they are calculated with.
    fn check(&self, now: Timestamp) -> Result<(), String> {
        let (count, serial) = (u64::from(u32::MAX), i64::MAX.unsigned_abs());
        let numbers = [
            ("every", self.every, LONGEST_DURATION.as_secs()),
            ("release", self.release.unwrap_or(0), serial),
            ("seen", self.seen.unwrap_or(0), serial),
            ("generation", self.generation.unwrap_or(0), serial),
            ("bad", self.bad.as_ref().map_or(0, |(release, _)| *release), serial),
            ("held", self.paused as u64, count),
            ("passing", self.passing as u64, count),
            ("drift", self.drift.map_or(0, |(_, resources)| resources as u64), count),
        ];
        if let Some((name, number, most)) = numbers.into_iter().find(|(_, number, most)| number > most) {
            return Err(format!("its `{name}` is {number}, and {most} is the most that can be"));
        }
        if self.time.duration_since(now) > AHEAD {
            return Err(format!("its time is {:.0}, which is to come: this clock or the host's is wrong", self.time));
        }
        Ok(())
    }

    /// The number of the key set that signed the release with the serial `seen`. The records of older versions have only the set of
    /// the release that the host has.
    pub fn keys_of_seen(&self) -> u64 {
        self.seen_keys.or(self.keys).unwrap_or(0)
    }

    /// Whether the host has not written for long.
    pub fn is_silent(&self, now: Timestamp) -> bool {
        let every = Duration::from_secs(self.every).min(LONGEST_DURATION).try_into().unwrap_or(SignedDuration::MAX);
        now.duration_since(self.time) > every.saturating_mul(MISSED).saturating_add(PATIENCE)
    }

    /// The state of the host, when `newest` is the newest release.
    pub fn state(&self, newest: u64, now: Timestamp) -> HostState {
        match self {
            _ if self.is_silent(now) => HostState::Silent,
            Self { bad: Some(_), .. } => HostState::RolledBack,
            Self { exit: 1.., .. } => HostState::Failed,
            Self { release: Some(_), good: false, .. } => HostState::Unhealthy,
            _ if self.troubles(now).next().is_some() => HostState::Unhealthy,
            Self { release, .. } if release.is_none_or(|serial| serial < newest) => HostState::Behind,
            _ => HostState::Healthy,
        }
    }

    /// What is unhealthy whatever the result of the last run.
    fn troubles(&self, now: Timestamp) -> impl Iterator<Item = String> {
        let probes = self.failing.iter().map(|name| failing(name));
        probes.chain(self.certificates.iter().filter_map(move |(name, ending)| ending.trouble(name, now)))
    }

    /// What to show of it.
    pub fn says(&self, now: Timestamp) -> Vec<String> {
        let of_run = match (&self.bad, &self.error) {
            (Some((release, why)), _) => Some(format!("release {release} was not good: {why}")),
            (None, Some(error)) => Some(error.clone()),
            (None, None) if self.waits.is_some() => self.waits.clone(),
            (None, None) => (self.paused > 0).then(|| format!("{} held", self.paused)),
        };
        of_run.into_iter().chain(self.troubles(now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            version: VERSION,
            site: "s".to_owned(),
            host: "h".to_owned(),
            time: Timestamp::now(),
            every: 600,
            program: String::new(),
            release: Some(7),
            seen: Some(7),
            keys: None,
            seen_keys: None,
            generation: Some(1),
            good: true,
            bad: None,
            exit: 0,
            error: None,
            of_host: false,
            paused: 0,
            since: None,
            waits: None,
            drift: None,
            passing: 0,
            failing: Vec::new(),
            certificates: Vec::new(),
            artifacts: BTreeMap::new(),
        }
    }

    #[test]
    fn a_record_of_an_older_kpull_is_read_and_one_with_everything_in_it_is_small() {
        let old = r#"{"version":1,"site":"s","host":"h","time":"2026-01-01T00:00:00Z","every":600,"program":"0.1.0",
            "release":7,"seen":7,"generation":1,"good":true,"bad":null,"exit":0,"error":null,"held":0}"#;
        let old: Record = serde_json::from_str(old).unwrap();
        assert_eq!((old.release, old.drift, old.artifacts.len()), (Some(7), None, 0));
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let names = ["etcd", "flannel", "kube-controller-manager", "kubernetes-server", "docker", "cni-plugins"];
        let full = Record {
            bad: Some((8, "x".repeat(TEXT))),
            drift: Some((now, 3)),
            failing: names.iter().take(ENTRIES[1]).map(|name| (*name).to_owned()).collect(),
            certificates: names
                .iter()
                .take(ENTRIES[0])
                .map(|name| ((*name).to_owned(), Ending { renew: now, end: now }))
                .collect(),
            artifacts: names.iter().map(|name| ((*name).to_owned(), "1.20.2".to_owned())).collect(),
            ..record()
        };
        let size = serde_json::to_vec(&full).unwrap().len();
        assert!(size < 1200, "{size}");
    }

    #[test]
    fn a_host_that_reports_nothing_three_times_is_silent_whatever_it_reported_before() {
        let now = Timestamp::now();
        let after = |minutes: i64| record().state(7, now + SignedDuration::from_mins(minutes));
        assert_eq!((after(0), after(34), after(36)), (HostState::Healthy, HostState::Healthy, HostState::Silent));
        let back = Record { bad: Some((8, "why".to_owned())), ..record() };
        assert_eq!(back.state(7, now + SignedDuration::from_mins(36)), HostState::Silent);
    }

    #[test]
    fn what_is_wrong_with_a_host_counts_before_what_it_lacks() {
        let now = Timestamp::now();
        let failed = Record { exit: 1, error: Some("no".to_owned()), ..record() };
        let back = Record { bad: Some((8, "broken".to_owned())), ..failed.clone() };
        assert_eq!(
            (record().state(8, now), failed.state(8, now), back.state(8, now)),
            (HostState::Behind, HostState::Failed, HostState::RolledBack)
        );
        assert_eq!(
            (failed.says(now), back.says(now)),
            (vec!["no".to_owned()], vec!["release 8 was not good: broken".to_owned()])
        );
        assert_eq!(Record { release: None, ..record() }.state(0, now), HostState::Behind);
    }

    #[test]
    fn no_host_is_healthy_with_a_failing_probe_an_expired_certificate_or_a_bad_release() {
        let now = Timestamp::now();
        let hour = SignedDuration::from_hours(1);
        let ending = |end| vec![("etcd".to_owned(), Ending { renew: now - hour, end })];
        let failing = Record { failing: vec!["api".to_owned()], ..record() };
        let expired = Record { certificates: ending(now - hour), ..record() };
        let due = Record { certificates: ending(now + hour), ..record() };
        let unproven = Record { good: false, ..record() };
        assert_eq!(
            [&failing, &expired, &unproven, &due].map(|one| one.state(7, now)),
            [HostState::Unhealthy, HostState::Unhealthy, HostState::Unhealthy, HostState::Healthy]
        );
        assert_eq!(failing.state(8, now), HostState::Unhealthy, "also while it is behind");
        assert_eq!(failing.says(now), ["the probe api does not pass"]);
        assert_eq!(expired.says(now), ["the certificate etcd has expired"]);
        let failed = Record { exit: 3, error: Some("no".to_owned()), failing: failing.failing, ..expired };
        assert_eq!(failed.state(7, now), HostState::Failed);
        assert_eq!(failed.says(now), ["no", "the probe api does not pass", "the certificate etcd has expired"]);
    }
}
