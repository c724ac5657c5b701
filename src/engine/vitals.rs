//! What an apply leaves of how the host is.

use jiff::Timestamp;

use crate::engine::apply::Applied;
use crate::engine::select::Agent;
use crate::error::Result;
use crate::kind::Item;
use crate::kind::artifact::Artifact;
use crate::kind::certificate::Installed;
use crate::pki::Certificate;
use crate::status::vitals::{Ending, Release, Vitals};

impl Vitals {
    /// Writes down what an apply came to, if that is news.
    pub fn keep(agent: &Agent<'_>, applied: &Applied) -> Result<()> {
        // one that is damaged counts from nought again
        let old = Self::load(&agent.store).unwrap_or_default();
        let new = old.clone().after(agent, applied);
        if new == old { Ok(()) } else { new.save(&agent.store) }
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
        let artifacts = catalog.items.iter().filter_map(|item| item.as_kind::<Artifact>());
        let versions = artifacts.map(Artifact::version);
        self.artifacts = versions.map(|(name, version)| (name.to_owned(), version.to_owned())).collect();
        self
    }
}

/// The name of a certificate that is on the host, and how long it lives. One that can't be read is `kpull verify`'s to tell.
fn ending(agent: &Agent<'_>, item: &Item) -> Option<(String, Ending)> {
    let wanted = item.as_kind::<Installed>()?;
    let (_, bytes) = agent.host.root.read(&wanted.cert).ok()??;
    let end = Certificate::one(&wanted.cert.to_string(), &bytes).ok()?.not_after;
    Some((wanted.name.clone(), Ending { renew: end - wanted.renew_before, end }))
}
