//! The vitals of a host: what its metrics and its status need of the last full run. A run that the up-to-date check ends leaves them
//! as they are.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::document::ResourceId;
use crate::error::Result;
use crate::store::Store;

const FILE: &str = "vitals.json";

/// The state of the host after the last full run.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default)]
pub struct Vitals {
    /// The release that was applied.
    pub release: Option<Release>,
    /// The number of resources.
    pub resources: usize,
    /// How many changes all runs have made.
    pub changed: u64,
    /// How many of those corrected drift from a release that was applied before.
    pub drifted: u64,
    /// When a run last found drift, and how many resources had drifted.
    pub drift: Option<(Timestamp, usize)>,
    /// Whether each probe that decides passed when it last ran, by id; without those that never ran.
    pub probes: BTreeMap<ResourceId, bool>,
    /// The certificates on this host, by name.
    pub certificates: BTreeMap<String, Ending>,
    /// The versions of the artifacts that are installed, by name.
    pub artifacts: BTreeMap<String, String>,
}

/// A release, from its manifest.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Release {
    /// Its serial.
    pub serial: u64,
    /// When it was signed.
    pub created: Timestamp,
    /// When it expires.
    pub expires: Timestamp,
}

/// The dates of a certificate.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Ending {
    /// When it is due for renewal.
    pub renew: Timestamp,
    /// When it expires.
    pub end: Timestamp,
}

impl Ending {
    /// That the certificate `name` has expired, if it has.
    pub fn trouble(&self, name: &str, now: Timestamp) -> Option<String> {
        (self.end <= now).then(|| format!("the certificate {name} has expired"))
    }
}

/// That a probe fails.
pub fn failing(name: &str) -> String {
    format!("the probe {name} does not pass")
}

impl Vitals {
    /// What is unhealthy: probes that failed when they last ran, and certificates that have expired.
    pub fn troubles(&self, now: Timestamp) -> Vec<String> {
        let probes = self.probes.iter().filter(|(_, passed)| !**passed).map(|(id, _)| failing(id.key()));
        let certificates = self.certificates.iter().filter_map(|(name, ending)| ending.trouble(name, now));
        probes.chain(certificates).collect()
    }

    /// Writes the vitals.
    pub fn save(&self, store: &Store) -> Result<()> {
        store.write_quickly(FILE, self)
    }

    /// Reads the vitals; empty before the first apply.
    pub fn load(store: &Store) -> Result<Self> {
        Ok(store.read(FILE)?.unwrap_or_default())
    }
}
