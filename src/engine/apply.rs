//! Applies a plan.

use crate::engine::orphan::Restoration;
use crate::engine::plan::{Leftovers, Plan};
use crate::engine::prelude::*;
use crate::engine::prior::PriorStates;
use crate::engine::run::{IsOld, Run, Stop};
use crate::engine::{ReleaseStamp, check};
use crate::trust::{Manifest, Verified};

/// The result of an apply.
#[derive(Debug)]
pub struct Applied {
    /// For people and programs.
    pub summary: Summary,
    /// Which probes were run, by id, and whether they passed.
    pub probed: BTreeMap<ResourceId, bool>,
    /// How it ended: `Ok` when the host is as the release says, and healthy, but for [`Applied::fault`].
    pub outcome: Result<(), Stop>,
    /// Resources that were skipped because they failed on this host before this release too, and those that depend on them.
    pub fault: Option<Error>,
    /// Orphans that could not be restored; the next run tries again. They do not count against a release.
    pub unrestored: Option<Error>,
    /// What was applied.
    pub catalog: Catalog,
    /// The manifest that was signed.
    pub manifest: Manifest,
}

impl Applied {
    /// What keeps this host from being healthy, if anything.
    pub fn into_error(self) -> Option<Error> {
        self.outcome.err().map(Stop::into_error).or(self.fault)
    }
}

/// Applies a plan. Only the plan of a verified release can be applied: nothing else creates a `Verified<Plan>`.
///
/// Each resource is observed again before it is changed, because one change can cause another (a package installs a file). What was there
/// before is recorded before anything is touched, and a pending action before the change that causes it.
///
/// A resource that fails is skipped, with those that depend on it, if `is_old` says that it failed before this release too; everything else
/// is applied. Any other failure ends the run; what was done until then stays, and the caller decides whether to continue from there or to
/// roll back. A failure to fetch ends the run before anything is touched; a host without any good release gets its accounts, packages and
/// firewall all the same.
///
/// A plan for a part of the catalog changes only this part. Whatever else the change requires stays pending, and no generation is
/// recorded: the next run continues with the rest.
///
/// An error means that nothing was changed.
pub fn apply(
    host: &Host,
    store: &Store,
    plan: Verified<Plan>,
    stamp: &ReleaseStamp,
    report: &dyn Report,
    is_old: IsOld<'_>,
) -> Result<Applied> {
    let start = Instant::now();
    let manifest = plan.manifest().clone();
    let mut plan = plan.into_inner();
    let is_new = plan.is_new;
    let items = &plan.catalog.items;
    let work = Work { host, store, catalog: items };
    let left_out = std::mem::take(&mut plan.left_out);
    let new_fault = left_out.faults.iter().find(|(at, error)| !is_old(&items[*at], error));
    let mut outcome = new_fault.map_or(Ok(()), |(_, error)| Err(Stop::from(error.clone())));
    let mut run = Run {
        paused: plan.paused.iter().map(|one| one.id.clone()).collect(),
        confirm_by: stamp.confirm_by,
        release: is_new.then(|| stamp.digest.clone()),
        is_old,
        new_checks: plan.new_checks.clone(),
        left_out,
        basics: plan.only.clone(),
        ..Run::new(&work, report, &plan.catalog.host, plan.pending.clone())
    };
    run.pending.probes |= !plan.new_checks.is_empty();
    let changes: Vec<usize> = plan.changes.iter().map(|(at, _)| *at).collect();
    if outcome.is_ok() {
        run.prepare(&changes)?;
    }
    if let Some(prior) = plan.prior.as_mut().filter(|_| plan.leftovers.is_partial) {
        // the artifacts are fetched now, so that their files are known
        plan.leftovers = Leftovers::of(prior, &work, &plan.paused)?;
    }
    run.orphans_stay = plan.leftovers.stays;
    for (id, error) in &plan.leftovers.lost {
        report.event(&Event::Lost(id, error));
    }
    for (id, error) in &plan.overruled {
        report.event(&Event::Overruled(id, error));
    }
    if outcome.is_ok() && (is_new || !plan.is_empty()) {
        let prior = match plan.prior.take() {
            Some(prior) => prior,
            None => PriorStates::load(store)?,
        };
        outcome = run.change(&changes, prior, &plan.leftovers.orphans);
        run.prior.save(store)?;
    }
    let mut probes = 0;
    if outcome.is_ok() {
        let (passed, failed) = run.conclude(stamp, manifest.serial, plan.only.is_some())?;
        probes = passed;
        outcome = failed.map_or(Ok(()), |error| Err(Stop::Failed(error)));
    }
    let fault = std::mem::take(&mut run.left_out).into_error(items);
    let unrestored = Error::all(run.unrestored.into_iter().map(|(_, error)| error.exit(Exit::Failed)).collect());
    let summary = Summary {
        command: "apply",
        host: plan.catalog.host.clone(),
        serial: Some(manifest.serial),
        resources: items.len(),
        changed: run.changes.iter().map(|(id, _)| id.clone()).collect(),
        drifted: if is_new { 0 } else { run.changes.len() },
        restarted: run.restarted,
        probes,
        is_failed: fault.is_some() || unrestored.is_some() || matches!(outcome, Err(Stop::Failed(_))),
        took: start.elapsed(),
        ..Summary::default()
    };
    Ok(Applied { summary, probed: run.probed.take(), outcome, fault, unrestored, catalog: plan.catalog, manifest })
}

impl Run<'_> {
    /// Changes the resources at these positions, after their prior states are recorded, and prunes orphans.
    fn change(&mut self, changes: &[usize], mut prior: PriorStates, orphans: &[Restoration]) -> Result<(), Stop> {
        let items = self.work.catalog;
        self.packages = changes.iter().copied().filter(|&at| items[at].about.phase == Phase::Packages).collect();
        let first_package = self.packages.first().copied();
        let (is_unsaved, failed) = prior.adopt(self.work, first_package, |at| self.skips(at));
        (self.is_unsaved, self.prior) = (is_unsaved, prior);
        failed.into_iter().try_for_each(|(at, error)| self.fail(at, error)).and_then(|()| self.all(orphans))
    }

    /// Waits for the probes after all changes, and records the generation. Returns how many passed, and what keeps this host
    /// from being as the release says.
    fn conclude(&mut self, stamp: &ReleaseStamp, serial: u64, is_partial: bool) -> Result<(usize, Option<Error>)> {
        let Work { host, store, catalog: items } = *self.work;
        if is_partial {
            return Ok((0, self.probe_part()?));
        }
        if self.basics.is_some() {
            // a release that has only begun is not a generation
            self.record_pending()?;
            if let Some(error) = std::mem::take(&mut self.left_out).into_error(items) {
                return Ok((0, Some(error)));
            }
        }
        let (passed, unhealthy) = self.probe()?;
        if self.release.is_some() {
            self.prior.settle(self.work);
            self.prior.save(store)?;
        }
        let good = unhealthy.is_none();
        let checks = match good && host.is_live() {
            true => check::all((0..items.len()).filter(|&at| !self.is_left_out(at)).map(|at| &items[at])),
            false => BTreeMap::new(),
        };
        let generation = Generation {
            number: 0,
            time: Timestamp::now(),
            serial,
            release: stamp.digest.clone(),
            created: stamp.created,
            signers: stamp.signers.clone(),
            keys: stamp.keys,
            resources: items.iter().map(|item| item.id.clone()).collect(),
            changes: self.changes.iter().cloned().collect(),
            good,
            checks,
            back: stamp.back.clone(),
        };
        record(store, generation)?;
        self.pending.release = None;
        self.pending.orphans = self.orphans_stay;
        self.record_pending()?;
        Ok((passed, unhealthy))
    }
}

/// Records a generation under the next number, when something was changed or the release is another one; or that the last one is
/// good by now.
fn record(store: &Store, new: Generation) -> Result<()> {
    match store.generation()? {
        Some(last) if new.changes.is_empty() && last.release == new.release => match new.good && !last.good {
            true => store.set_generation(&Generation { good: true, checks: new.checks, ..last }),
            false => Ok(()),
        },
        last => store.add_generation(&Generation { number: last.map_or(1, |last| last.number + 1), ..new }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_recorded_for_a_change_or_a_release_and_good_once_healthy() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        let record = |digest: &str, changes: &[&str], good| -> Vec<(u64, bool)> {
            let changes = changes.iter().map(|path| (ResourceId::new("file", path), "content".to_owned())).collect();
            let generation = Generation {
                number: 0,
                time: Timestamp::now(),
                serial: 1,
                release: digest.to_owned(),
                created: Timestamp::now(),
                signers: Vec::new(),
                keys: 0,
                resources: Vec::new(),
                changes,
                good,
                checks: BTreeMap::new(),
                back: None,
            };
            record(&store, generation).unwrap();
            store.generations().unwrap().iter().map(|one| (one.number, one.good)).collect()
        };
        assert_eq!(record("a", &[], false), [(1, false)]);
        assert_eq!(record("a", &[], false), [(1, false)]);
        assert_eq!(record("a", &[], true), [(1, true)]);
        assert_eq!(record("a", &["/etc/x"], false), [(1, true), (2, false)]);
        assert_eq!(record("b", &[], true), [(1, true), (2, false), (3, true)]);
    }
}
