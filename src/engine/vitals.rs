//! How the host was when it was last looked into: what metrics and its status tell, and no record of the engine's own says. A run that
//! looks into nothing, since nothing was touched, leaves it as it is.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::apply::Applied;
use crate::engine::take::Agent;
use crate::error::Result;
use crate::kind::Item;
use crate::kind::artifact::Artifact;
use crate::kind::certificate::Installed;
use crate::pki::Certificate;
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

    /// What is known; nothing before the first apply.
    pub fn load(store: &Store) -> Result<Self> {
        Ok(store.read(FILE)?.unwrap_or_default())
    }

    /// Writes down what an apply came to, if that is news.
    pub fn keep(agent: &Agent<'_>, applied: &Applied) -> Result<()> {
        // one that is damaged counts from nought again
        let old = Self::load(&agent.store).unwrap_or_default();
        let new = old.clone().after(agent, applied);
        if new == old { Ok(()) } else { agent.store.write_quickly(FILE, &new) }
    }

    fn after(mut self, agent: &Agent<'_>, applied: &Applied) -> Self {
        let Applied { summary, asked, catalog, manifest, .. } = applied;
        self.release = Some(Release { serial: manifest.serial, created: manifest.created, expires: manifest.expires });
        self.resources = summary.resources;
        self.changed += summary.changed.len() as u64;
        self.drifted += summary.drifted as u64;
        if summary.drifted > 0 {
            self.drift = Some((Timestamp::now(), summary.drifted));
        }
        self.probes.extend(asked.iter().map(|(id, passed)| (id.clone(), *passed)));
        self.probes.retain(|id, _| catalog.items.iter().any(|item| item.id == *id));
        self.certificates = catalog.items.iter().filter_map(|item| ending(agent, item)).collect();
        let artifacts = catalog.items.iter().filter_map(|item| item.resource.as_any().downcast_ref::<Artifact>());
        let versions = artifacts.map(Artifact::version);
        self.artifacts = versions.map(|(name, version)| (name.to_owned(), version.to_owned())).collect();
        self
    }
}

/// The name of a certificate that is on the host, and how long it lives. One that can't be read is `kpull verify`'s to tell.
fn ending(agent: &Agent<'_>, item: &Item) -> Option<(String, Ending)> {
    let wanted = item.resource.as_any().downcast_ref::<Installed>()?;
    let (_, bytes) = agent.host.root.read(wanted.path()).ok()??;
    let end = Certificate::one(&wanted.path().to_string(), &bytes).ok()?.not_after;
    Some((wanted.name().to_owned(), Ending { renew: end - wanted.renew_before(), end }))
}
