//! Restores what no role defines any more.

use crate::engine::orphan::{Orphan, PruneOrder, Restoration};
use crate::engine::prelude::*;
use crate::engine::run::Run;
use crate::host::is_unit_file;
use crate::kind::Effect;

impl Run<'_> {
    /// Restores the orphans whose turn it is. A failure is reported, and tried again by the next run.
    pub(super) fn restore_all(&mut self, orphans: &[Restoration], order: PruneOrder) -> Result<()> {
        for (at, (orphan, _)) in orphans.iter().enumerate().filter(|(_, (orphan, _))| orphan.order == order) {
            if self.is_in_use(orphan) {
                continue;
            }
            match self.restore(orphan, orphans.get(at + 1..).unwrap_or_default()) {
                Ok(()) => self.prior.forget(&orphan.claim),
                Err(error) if !error.passes() && !error.is_of_machine() => {
                    self.report.event(&Event::Lost(&orphan.id, &error));
                    // a program can fail when it has done its work already, as zypper if it can't cache what is left
                    if matches!(orphan.item.resource.observe(self.work), Ok(None)) {
                        self.prior.forget(&orphan.claim);
                    } else {
                        self.orphans_stay = true;
                        self.unrestored.push((orphan.id.clone(), error));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether it is a file of a unit that could not be stopped: systemd needs the file until then.
    fn is_in_use(&self, orphan: &Orphan) -> bool {
        let Some(path) = orphan.path().filter(|path| is_unit_file(path)) else { return false };
        let mut units = self.unrestored.iter().filter(|(id, _)| id.kind() == "unit").map(|(id, _)| id.key());
        units.any(|unit| path.ends_with(unit) || path.ancestors().any(|above| above.ends_with(format!("{unit}.d"))))
    }

    /// Restores one orphan, and with it those of the `others` that change along with it.
    fn restore(&mut self, orphan: &Orphan, others: &[Restoration]) -> Result<()> {
        let item = &orphan.item;
        let observed = item.resource.observe(self.work)?;
        let Some(change) = orphan.with_restart(observed, !self.changes.is_empty()) else { return Ok(()) };
        let ids = item.resource.along(self.work);
        // an orphan that can't be observed is reported in its own turn
        let observe = |orphan: &Orphan| orphan.item.resource.observe(self.work).ok();
        let along = others.iter().map(|(other, _)| other).filter(|other| ids.contains(&other.item.id));
        let mut along: Vec<(&Orphan, Change)> = along.filter_map(|other| Some((other, observe(other)??))).collect();
        along.retain(|(_, change)| change.what == Effect::Removed);
        let all = std::iter::once(orphan).chain(along.iter().map(|(other, _)| *other));
        let triggers: Vec<(&ResourceId, Trigger)> =
            all.flat_map(|one| &one.triggers).map(|(id, trigger)| (id, *trigger)).collect();
        self.expect(item, &triggers)?;
        self.make(item, Some(&orphan.claim), &change)?;
        along.retain(|(other, _)| matches!(observe(other), Some(None)));
        self.done(item, change);
        for (other, change) in along {
            self.done(&other.item, change);
        }
        Ok(())
    }
}
