//! How the host was when it was last looked into: what metrics and its status tell, and no record of the engine's own says. A run that
//! looks into nothing, since nothing was touched, leaves it as it is.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::store::Store;

const FILE: &str = "vitals.json";

/// How the host was when it was last looked into.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default)]
pub struct Vitals {
    /// The release that was applied.
    pub release: Option<Release>,
    /// Resources of the host.
    pub resources: usize,
    /// How many changes all runs have made.
    pub changed: u64,
    /// How many of those were of what had moved away from a release that was applied before.
    pub drifted: u64,
    /// When a run has found such a thing last, and how many.
    pub drift: Option<(Timestamp, usize)>,
    /// Whether each probe that decides passed when it was last waited for, by id; without those that never were.
    pub probes: BTreeMap<String, bool>,
    /// The certificates on this host, by name.
    pub certificates: BTreeMap<String, Ending>,
    /// The versions of the artifacts that are installed, by name.
    pub artifacts: BTreeMap<String, String>,
}

/// A release, as its signers say.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Release {
    /// Its serial.
    pub serial: u64,
    /// When it was signed.
    pub created: Timestamp,
    /// Until when it is good.
    pub expires: Timestamp,
}

/// How long a certificate lives.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Ending {
    /// From when on it has to be renewed.
    pub renew: Timestamp,
    /// Until when it is good.
    pub end: Timestamp,
}

impl Ending {
    /// That the certificate `name` is not good any more, if that is so at a time.
    pub fn trouble(&self, name: &str, now: Timestamp) -> Option<String> {
        (self.end <= now).then(|| format!("the certificate {name} has expired"))
    }
}

/// A resource's id without its kind.
pub fn bare<'a>(id: &'a str, kind: &str) -> &'a str {
    id.strip_prefix(kind).unwrap_or(id)
}

/// That a probe does not pass.
pub fn failing(name: &str) -> String {
    format!("the probe {name} does not pass")
}

impl Vitals {
    /// What is not well at a time: probes that did not pass when they were waited for last, and certificates that have ended.
    pub fn troubles(&self, now: Timestamp) -> Vec<String> {
        let probes = self.probes.iter().filter(|(_, passed)| !**passed).map(|(id, _)| failing(bare(id, "probe:")));
        let certificates = self.certificates.iter().filter_map(|(name, ending)| ending.trouble(name, now));
        probes.chain(certificates).collect()
    }

    /// Writes down what is known now.
    pub fn save(&self, store: &Store) -> Result<()> {
        store.write_quickly(FILE, self)
    }

    /// What is known; nothing before the first apply.
    pub fn load(store: &Store) -> Result<Self> {
        Ok(store.read(FILE)?.unwrap_or_default())
    }
}
