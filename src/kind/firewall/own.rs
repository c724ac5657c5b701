//! Zones that a role describes.
//!
//! They are files, on a running host as in a tree: every version of firewalld reads them, they are written whole, and their prior
//! content is restored byte for byte. A running firewalld loads them when it reloads, once for all of them (`Host::settle_firewall`).

use super::zones::{etc_file, is_torn, kept_zone, repair_torn, write_zone, zone_file, zone_inputs, zone_name};
use super::{Firewall, FirewallFields, digest, in_zone, of_zone, part_of_file};
use crate::host::firewalld::Zone;
use crate::host::zone::Target;
use crate::kind::Queries;
use crate::kind::prelude::*;

/// A zone as a whole, by its file.
pub(super) fn whole_zone(zone: &str) -> Claim {
    Claim::part("zone", etc_file(zone))
}

/// The target of a zone.
fn target_of(zone: &str) -> Claim {
    Claim::part("zone", format!("{} target", etc_file(zone).display()))
}

/// Whether the zone existed.
pub(super) fn prior_state(zone: &str, host: &Host) -> Result<PriorState> {
    Ok(match kept_zone(&host.root, zone)? {
        Some(_) => PriorState::Same,
        None => PriorState::NoZone { zone: zone.to_owned() },
    })
}

/// A zone that a role describes: it is created if it does not exist, and has its target.
#[derive(Debug)]
pub struct OwnZone {
    /// Its name; `None` is firewalld's default zone.
    pub zone: Option<String>,
    /// Its target, if the role sets it.
    pub target: Option<Target>,
    key: String,
    sensitive: bool,
}

impl OwnZone {
    /// The zone of a part.
    pub(super) fn of(part: &Firewall) -> Self {
        let name = part.zone.as_deref().unwrap_or("default");
        let key = match part.target {
            Some(_) => format!("zone {name}"),
            None => format!("zone {name} {}", digest(&part.key())),
        };
        Self { zone: part.zone.clone(), target: part.target, key, sensitive: part.sensitive }
    }

    /// The zones of a catalog with this name.
    pub(super) fn all<'a>(host: &Host, catalog: &'a [Item], zone: &str) -> Result<Vec<&'a Self>> {
        of_zone(host, catalog.iter().filter_map(Item::as_kind), zone, |own: &Self| &own.zone)
    }

    /// Whether a catalog describes a zone.
    pub(super) fn is_in(host: &Host, catalog: &[Item], zone: &str) -> Result<bool> {
        Ok(!Self::all(host, catalog, zone)?.is_empty())
    }
}

impl Resource for OwnZone {
    fn about(&self) -> About {
        // only one [[firewall]] can set the target
        let target = self.target.map(|_| in_zone(self.zone.as_deref().unwrap_or("default"), "target"));
        About {
            claims: target.into_iter().chain(part_of_file(self.zone.as_deref(), &self.key)).collect(),
            cuts_off: true,
            ..About::new(FirewallFields::NAME, &self.key, Phase::Files)
        }
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        zone_inputs(self.zone.as_deref(), self.sensitive, work.host)
    }

    fn announce(&self, queries: &mut Queries) {
        queries.zones.insert(self.zone.clone().unwrap_or_default());
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let host = work.host;
        let zone = zone_name(self.zone.as_deref(), host)?;
        if host.is_live() && is_torn(host, &zone)? {
            return Ok(Some(Change::new("restore its incomplete file")));
        }
        let mut parts = Vec::new();
        let is_first = Self::all(host, work.catalog, &zone)?.first().is_none_or(|first| std::ptr::eq(*first, self));
        let is_new = is_first && kept_zone(&host.root, &zone)?.is_none();
        parts.extend(is_new.then(|| "create the zone".to_owned()));
        let differs = |have: Target| self.target.filter(|target| *target != have);
        let have = zone_file(host, &zone)?.settings().target;
        parts.extend(differs(have).map(|target| format!("target {have} → {target}")));
        if parts.is_empty()
            && host.is_live()
            && let Some(Zone { runtime, .. }) = host.zone(&zone)?
        {
            match runtime {
                Some(runtime) => {
                    let target = differs(runtime.target);
                    parts.extend(target.map(|target| format!("runtime: target {} → {target}", runtime.target)));
                }
                None if is_first => parts.push("runtime: create the zone".to_owned()),
                None => {}
            }
        }
        Ok(Change::of(parts).map(|change| change.added_if(is_new)))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let host = work.host;
        let zone = zone_name(self.zone.as_deref(), host)?;
        if host.is_live() {
            repair_torn(host, &zone)?;
        }
        let file = zone_file(host, &zone)?;
        let have = file.settings().target;
        match self.target {
            Some(target) if target != have => write_zone(host, &zone, &file.with_target(target))?,
            _ if kept_zone(&host.root, &zone)?.is_none() => write_zone(host, &zone, &file.edited(&[]))?,
            _ => {}
        }
        host.firewall_files_changed();
        host.forget_zones();
        Ok(())
    }

    fn owned(&self, work: &Work<'_>) -> Result<Vec<Claim>> {
        let zone = zone_name(self.zone.as_deref(), work.host)?;
        let target = self.target.map(|_| target_of(&zone));
        Ok(target.into_iter().chain([whole_zone(&zone)]).collect())
    }

    fn prior_state(&self, owned: &Claim, work: &Work<'_>) -> Result<PriorState> {
        let zone = zone_name(self.zone.as_deref(), work.host)?;
        let whole = prior_state(&zone, work.host)?;
        let is_whole = *owned == whole_zone(&zone);
        if is_whole || whole != PriorState::Same || is_torn(work.host, &zone)? {
            return Ok(if is_whole { whole } else { PriorState::Same });
        }
        let target = zone_file(work.host, &zone)?.settings().target;
        Ok(PriorState::Target { zone, target })
    }
}
