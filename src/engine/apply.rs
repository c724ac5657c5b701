//! The plan, carried out.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::Instant;

use jiff::Timestamp;

use crate::engine::plan::{Plan, difference, locate};
use crate::engine::slot::Slots;
use crate::error::{Error, Exit, Result};
use crate::host::{Host, is_unit_file};
use crate::kind::{Item, Kick, Work};
use crate::report::{Event, Report, Summary};
use crate::store::{Generation, Owed, Store};
use crate::trust::Verified;

/// What an apply came to.
#[derive(Debug)]
pub struct Applied {
    /// For people and programs.
    pub summary: Summary,
    /// Why the host is not healthy now, although everything was applied.
    pub unhealthy: Option<Error>,
}

/// Carries a plan out. Only a plan of a verified release can be: nothing else makes a `Verified<Plan>`.
///
/// Each resource is looked at again in its turn, since one change can bring another (a package brings a file). What
/// units are owed is written down before the change that it is owed for. The first failure ends the run; what was done
/// until then stays, and the next run goes on from there.
pub fn apply(host: &Host, store: &Store, plan: Verified<Plan>, digest: &str, report: &dyn Report) -> Result<Applied> {
    let start = Instant::now();
    let manifest = plan.manifest().clone();
    let plan = plan.get();
    let items = &plan.catalog.items;
    let work = Work { host, store, catalog: items };
    let progress = |name: &str, done, total| report.event(&Event::Download { name, done, total });
    for (at, _) in &plan.changes {
        let item = &items[*at];
        let prepared = item.resource.prepare(&work, &progress);
        for (mirror, error) in store.take_passed_mirrors() {
            report.event(&Event::PassedMirror { mirror: &mirror, error: &error });
        }
        prepared.map_err(|error| locate(error, item))?;
    }
    let slots = Slots { work: &work, report, host: &plan.catalog.host };
    let mut run = Run { work: &work, report, slots, owed: plan.owed.clone(), changes: Vec::new(), kicked: Vec::new() };
    if !plan.is_empty() {
        run.all(items)?;
    }
    let (probes, unhealthy) = run.probe(items)?;
    let summary = Summary {
        command: "apply",
        host: plan.catalog.host.clone(),
        serial: Some(manifest.serial),
        resources: items.len(),
        changed: run.changes.iter().map(|(id, _)| id.clone()).collect(),
        kicked: run.kicked,
        probes,
        took: start.elapsed(),
    };
    record(store, &manifest, digest, items, run.changes)?;
    Ok(Applied { summary, unhealthy })
}

struct Run<'a> {
    work: &'a Work<'a>,
    report: &'a dyn Report,
    slots: Slots<'a>,
    owed: Owed,
    /// Ids and summaries, in the order of the changes.
    changes: Vec<(String, String)>,
    kicked: Vec<String>,
}

impl Run<'_> {
    fn all(&mut self, items: &[Item]) -> Result<()> {
        if self.owed.unit_files {
            self.work.host.unit_files_changed();
        }
        let mut watchers: BTreeMap<String, Vec<(&str, Kick)>> = BTreeMap::new();
        for item in items {
            for (watched, kick) in item.resource.watches() {
                watchers.entry(watched).or_default().push((&item.id, kick));
            }
        }
        let mut changed: HashSet<&str> = HashSet::new();
        for item in items {
            let Some(change) =
                difference(item, self.work, &changed, &self.owed.kicks).map_err(|error| locate(error, item))?
            else {
                continue;
            };
            let held = self.slots.before(item, &change).map_err(|error| locate(error, item))?;
            self.owe(item, watchers.get(&item.id).map_or(&[], Vec::as_slice))?;
            item.resource.apply(self.work, &change).map_err(|error| locate(error, item))?;
            changed.insert(&item.id);
            if change.kick.is_some() {
                self.kicked.push(item.id.clone());
            }
            self.report.event(&Event::Changed(item, &change));
            self.changes.push((item.id.clone(), change.summary));
            self.paid(&item.id)?;
            if let Some(held) = held {
                self.slots.after(item, held)?;
            }
        }
        self.work.host.settle_unit_links()?;
        // whoever was owed something and is not in the catalog any more, or is not to run, is owed nothing now
        self.owed = Owed { probes: self.owed.probes, ..Owed::default() };
        self.work.store.set_owed(&self.owed)
    }

    /// Writes down what the change of `item` will make due.
    fn owe(&mut self, item: &Item, watchers: &[(&str, Kick)]) -> Result<()> {
        let before = self.owed.clone();
        self.owed.probes = true;
        self.owed.unit_files |= item
            .resource
            .claims()
            .iter()
            .filter_map(|claim| claim.strip_prefix("path:"))
            .any(|path| is_unit_file(Path::new(path)));
        for (unit, kick) in watchers {
            let owed = self.owed.kicks.entry((*unit).to_owned()).or_insert(*kick);
            *owed = (*owed).max(*kick);
        }
        if self.owed == before { Ok(()) } else { self.work.store.set_owed(&self.owed) }
    }

    fn paid(&mut self, id: &str) -> Result<()> {
        match self.owed.kicks.remove(id) {
            Some(_) => self.work.store.set_owed(&self.owed),
            None => Ok(()),
        }
    }

    /// Waits for every probe, if anything was changed since they all passed last.
    fn probe(&mut self, items: &[Item]) -> Result<(usize, Option<Error>)> {
        if !self.owed.probes || !self.work.host.is_live() {
            self.owed.probes = false;
            self.work.store.set_owed(&self.owed)?;
            return Ok((0, None));
        }
        let mut passed = 0;
        for item in items {
            let Some(probe) = item.resource.probe() else { continue };
            self.report.event(&Event::Waiting(item));
            if let Err(why) = probe.wait(self.work) {
                let error = Error::new(format!("{} does not pass", item.id))
                    .because(why)
                    .exit(Exit::Unhealthy)
                    .help("everything was applied and stays so; the next run tries the probe again");
                return Ok((passed, Some(locate(error, item))));
            }
            self.report.event(&Event::Passing(item));
            passed += 1;
        }
        self.owed.probes = false;
        self.work.store.set_owed(&self.owed)?;
        Ok((passed, None))
    }
}

/// Records a generation, when something was changed or the release is another one.
fn record(
    store: &Store,
    manifest: &crate::trust::Manifest,
    digest: &str,
    items: &[Item],
    changes: Vec<(String, String)>,
) -> Result<()> {
    let last = store.generation()?;
    if changes.is_empty() && last.as_ref().is_some_and(|last| last.release == digest) {
        return Ok(());
    }
    store.add_generation(&Generation {
        number: last.map_or(1, |last| last.number + 1),
        time: Timestamp::now(),
        serial: manifest.serial,
        release: digest.to_owned(),
        resources: items.iter().map(|item| item.id.clone()).collect(),
        changes: changes.into_iter().collect(),
    })
}
