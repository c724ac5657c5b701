//! Restores what a zone had before a role changed it.

use super::own::OwnZone;
use super::zones::{edit, etc_file, is_bound, kept_zone, parse, write_zone, zone_file};
use super::{Edits, FirewallFields, change, change_of, firewalls};
use crate::host::firewalld::Zone;
use crate::host::zone::{Edit, Settings, Target};
use crate::kind::prelude::*;

/// A prior setting of a zone, unless the catalog says otherwise.
#[derive(Debug)]
pub struct Former {
    /// The zone.
    pub zone: String,
    /// What is restored.
    pub setting: Setting,
}

/// What of a zone is restored.
#[derive(Debug)]
pub enum Setting {
    /// It did not exist: kpull created it.
    Missing,
    /// Its target.
    Target(Target),
    /// An element that it did not have, and loses; or had, and gets back.
    Element(Edit),
}

impl Former {
    /// The edits that restore an element.
    fn edits(&self, edit: &Edit, have: &Settings, work: &Work<'_>) -> Result<Vec<Edit>> {
        let mut wanted = Settings::default();
        for other in firewalls(work.catalog) {
            let is_here = other.zone_name(work.host)? == self.zone;
            match edit {
                Edit::Add(element) => {
                    let is_barred = is_here && other.bars.contains(element);
                    if is_barred || is_bound(element) && other.listed.find(element).is_some() {
                        return Ok(Vec::new());
                    }
                }
                Edit::Remove(_) if is_here => wanted.merge(&other.listed),
                Edit::Remove(_) => {}
            }
        }
        Ok(match edit {
            Edit::Add(element) => Settings::of(element).without(have).into_iter().map(Edit::Add).collect(),
            Edit::Remove(element) => {
                let unwanted = Settings::of(element).without(&wanted).into_iter();
                unwanted.filter_map(|one| have.find(&one)).map(Edit::Remove).collect()
            }
        })
    }

    fn observe_element(&self, edit: &Edit, work: &Work<'_>) -> Result<Option<Change>> {
        let host = work.host;
        let edits = |have| self.edits(edit, have, work);
        if !host.is_live() {
            let Some((_, text)) = kept_zone(&host.root, &self.zone)? else { return Ok(None) };
            let settings = parse(host, &etc_file(&self.zone), text)?.settings();
            return Ok(change(&edits(&settings)?));
        }
        // a removed zone has no settings
        match host.zone(&self.zone)? {
            Some(Zone { runtime: Some(runtime), permanent: Some(permanent) }) => {
                let edits = Edits { runtime: edits(&runtime)?, permanent: edits(&permanent)? };
                Ok(change_of(edits.words(), edits.all()))
            }
            _ => Ok(None),
        }
    }

    /// Whether a resource of the catalog uses the zone.
    fn is_wanted(&self, host: &Host, catalog: &[Item]) -> Result<bool> {
        let is_here = || firewalls(catalog).any(|part| part.zone_name(host).is_ok_and(|zone| zone == self.zone));
        Ok(OwnZone::is_in(host, catalog, &self.zone)? || is_here())
    }
}

impl Resource for Former {
    fn about(&self) -> About {
        let zone = &self.zone;
        let about = match &self.setting {
            Setting::Missing | Setting::Target(_) => {
                let about = About::new(FirewallFields::NAME, format!("zone {zone}"), Phase::Files);
                About { claims: vec![Claim::path(etc_file(zone))], ..about }
            }
            Setting::Element(Edit::Remove(element)) => {
                About::new(FirewallFields::NAME, format!("{zone} {element}"), Phase::Firewall)
            }
            Setting::Element(edit) => About::new(FirewallFields::NAME, format!("{zone} {edit}"), Phase::Firewall),
        };
        About { cuts_off: true, ..about }
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let (host, zone) = (work.host, &self.zone);
        match &self.setting {
            Setting::Missing => {
                let is_due = host.root.meta(&etc_file(zone))?.is_some() && !self.is_wanted(host, work.catalog)?;
                Ok(is_due.then(|| Change::removal("remove the zone")))
            }
            Setting::Target(target) => {
                let is_set = OwnZone::all(host, work.catalog, zone)?.iter().any(|own| own.target.is_some());
                if is_set || kept_zone(&host.root, zone)?.is_none() {
                    return Ok(None);
                }
                let have = zone_file(host, zone)?.settings().target;
                Ok((have != *target).then(|| Change::new(format!("target {have} → {target}"))))
            }
            Setting::Element(edit) => self.observe_element(edit, work),
        }
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let (host, zone) = (work.host, &self.zone);
        match &self.setting {
            Setting::Element(one) => {
                let edits = |have: &Settings| self.edits(one, have, work).unwrap_or_default();
                return edit(host, work.catalog, zone, &edits);
            }
            Setting::Target(target) => write_zone(host, zone, &zone_file(host, zone)?.with_target(*target))?,
            Setting::Missing => {
                let path = etc_file(zone);
                // firewalld's backup of the file
                host.root.remove(&path.with_extension("xml.old"))?;
                host.root.remove(&path)?;
            }
        }
        host.firewall_files_changed();
        host.forget_zones();
        Ok(())
    }
}
