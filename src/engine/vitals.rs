//! Records the vitals of a host after an apply.

use crate::engine::apply::Applied;
use crate::engine::prelude::*;
use crate::kind::artifact::Artifact;
use crate::kind::certificate::Installed;
use crate::pki::Certificate;
use crate::status::vitals::{Ending, Release, Vitals};

impl Vitals {
    /// Records the result of an apply, if it differs from the last one.
    pub fn keep(agent: &Agent<'_>, applied: &Applied) -> Result<()> {
        // a damaged record starts again from zero
        let old = Self::load(&agent.store).unwrap_or_default();
        let new = old.clone().after(agent, applied);
        if new == old { Ok(()) } else { new.save(&agent.store) }
    }

    fn after(mut self, agent: &Agent<'_>, applied: &Applied) -> Self {
        let Applied { summary, probed, catalog, manifest, .. } = applied;
        self.release = Some(Release { serial: manifest.serial, created: manifest.created, expires: manifest.expires });
        self.resources = summary.resources;
        self.changed += summary.changed.len() as u64;
        self.drifted += summary.drifted as u64;
        if summary.drifted > 0 {
            self.drift = Some((Timestamp::now(), summary.drifted));
        }
        self.probes.extend(probed.iter().map(|(id, passed)| (id.clone(), *passed)));
        self.probes.retain(|id, _| catalog.items.iter().any(|item| item.id == *id));
        self.certificates = catalog.items.iter().filter_map(|item| ending(agent, item)).collect();
        let artifacts = catalog.items.iter().filter_map(|item| item.as_kind::<Artifact>());
        self.artifacts = artifacts.map(|one| (one.pin.name.clone(), one.pin.version.clone())).collect();
        self
    }
}

/// The name of a certificate that is on the host, and its dates. `kpull verify` reports one that can't be read.
fn ending(agent: &Agent<'_>, item: &Item) -> Option<(String, Ending)> {
    let installed = item.as_kind::<Installed>()?;
    let (_, bytes) = agent.host.root.read(&installed.cert).ok()??;
    let end = Certificate::one(&installed.cert.to_string(), &bytes).ok()?.not_after;
    Some((installed.name.clone(), Ending { renew: end - installed.renew_before, end }))
}
