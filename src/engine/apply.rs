//! The plan, carried out.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;

use crate::engine::check;
use crate::engine::fault::{LeftOut, needed};
use crate::engine::plan::{Leftovers, Plan, difference, locate};
use crate::engine::prior::{Orphan, PriorStates, PruneOrder};
use crate::engine::select::ReleaseStamp;
use crate::engine::slot::Slots;
use crate::error::{Error, Exit, Result, code};
use crate::host::{Host, is_firewall_file, is_unit_file};
use crate::kind::probe::Probe;
use crate::kind::{Change, Claim, Effect, Gate, Item, Phase, Trigger, Work};
use crate::report::{Event, Report, Summary};
use crate::resolve::Catalog;
use crate::store::{Generation, PendingActions, Store};
use crate::trust::{Manifest, Verified};

/// What an apply came to.
#[derive(Debug)]
pub struct Applied {
    /// For people and programs.
    pub summary: Summary,
    /// Which probes were asked, by id, and whether they passed.
    pub asked: BTreeMap<String, bool>,
    /// How it ended.
    pub outcome: Outcome,
    /// What was left out because this host failed there before this release, with what depends on it.
    pub fault: Option<Error>,
    /// What was applied.
    pub catalog: Catalog,
    /// What its signers said.
    pub manifest: Manifest,
}

/// How an apply ended.
#[derive(Debug)]
pub enum Outcome {
    /// Everything is as the release says, and well, but for [`Applied::fault`].
    Well,
    /// It ended before something that waits for another host, or for another program on this one; the next run goes on.
    Waiting(Error),
    /// Something could not be changed, or is not well now.
    Failed(Error),
}

/// Carries a plan out. Only a plan of a verified release can be: nothing else makes a `Verified<Plan>`.
///
/// Each resource is looked at again in its turn, since one change can bring another (a package brings a file). What
/// stood there before is remembered before anything is touched, and what units are owed before the change that it is owed for.
///
/// A resource that fails is left out, with what depends on it, where `is_old` says that this was so before this release;
/// everything else is applied. Any other failure ends the run; what was done until then stays, and the caller decides whether to
/// go on from there or back. So does something that can't be fetched, before anything is touched: a host without any good
/// release gets its accounts, packages and firewall all the same.
///
/// An error is one from before anything was touched.
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
    let serial = manifest.serial;
    let mut plan = plan.into_inner();
    let left_out = std::mem::take(&mut plan.left_out);
    let mut leaving = std::mem::take(&mut plan.leaving);
    let items = &plan.catalog.items;
    let work = Work { host, store, catalog: items };
    let is_new = plan.is_new;
    let mut run = Run::new(&work, report, &plan.catalog.host, plan.owed.clone());
    run.held = plan.held.iter().map(|one| one.id.clone()).collect();
    run.cuts_off = stamp.confirm_by;
    run.release = is_new.then(|| stamp.digest.clone());
    run.is_old = is_old;
    run.owed.probes |= !plan.news.is_empty();
    run.news = std::mem::take(&mut plan.news);
    let new_fault = left_out.faults().iter().find(|(at, error)| !is_old(&items[*at], error));
    let mut outcome = match new_fault {
        Some((_, error)) => Stop::from(error.clone()).into(),
        None => Outcome::Well,
    };
    run.left_out = left_out;
    if matches!(outcome, Outcome::Well) {
        run.prepare(plan.changes.iter().map(|(at, _)| *at))?;
    }
    if let Some(before) = plan.before.as_mut().filter(|_| leaving.is_partial) {
        // by now it is known what artifacts have in them
        leaving = Leftovers::of(before, &work, &plan.held)?;
    }
    let Leftovers { gone, stays, lost, .. } = leaving;
    run.gone_stays = stays;
    let is_empty = plan.changes.is_empty() && gone.is_empty() && plan.is_owed_nothing();
    for (id, error) in &lost {
        report.event(&Event::Lost { id, error });
    }
    for (id, error) in &plan.overruled {
        report.event(&Event::Overruled { id, error });
    }
    if matches!(outcome, Outcome::Well) && (is_new || !is_empty) {
        let mut before = match plan.before {
            Some(before) => before,
            None => PriorStates::load(store)?,
        };
        run.brings = plan.changes.iter().map(|(at, _)| *at).filter(|&at| is_package(&items[at])).collect();
        let package = run.brings.first().copied();
        let (is_unsaved, failed) =
            before.adopt(&work, package, |at| run.is_left_out(at) || run.held.contains(&items[at].id));
        (run.is_unsaved, run.before) = (is_unsaved, before);
        let ended =
            failed.into_iter().try_for_each(|(at, error)| run.fail(at, error)).and_then(|()| run.all(items, &gone));
        run.before.save(store)?;
        outcome = ended.map_or_else(Outcome::from, |()| Outcome::Well);
    }
    if run.basics.is_some() && matches!(outcome, Outcome::Well) {
        // what has begun here and is not whole is no generation
        run.note()?;
        outcome = std::mem::take(&mut run.left_out).into_error(items).map_or(Outcome::Well, Outcome::Failed);
    }
    let mut probes = 0;
    if matches!(outcome, Outcome::Well) {
        let (passed, unhealthy) = run.probe(items)?;
        probes = passed;
        outcome = unhealthy.map_or(Outcome::Well, Outcome::Failed);
        if is_new {
            run.before.settle(&work);
            run.before.save(store)?;
        }
        let checks = match matches!(outcome, Outcome::Well) && host.is_live() {
            true => check::all((0..items.len()).filter(|&at| !run.is_left_out(at)).map(|at| &items[at])),
            false => BTreeMap::new(),
        };
        let good = matches!(outcome, Outcome::Well);
        record(store, serial, stamp, items, &run.changes, Verdict { good, checks })?;
        run.owed.release = None;
        run.owed.gone = run.gone_stays;
        run.note()?;
    }
    let fault = std::mem::take(&mut run.left_out).into_error(items);
    let summary = Summary {
        command: "apply",
        host: plan.catalog.host.clone(),
        serial: Some(serial),
        resources: items.len(),
        changed: run.changes.iter().map(|(id, _)| id.clone()).collect(),
        drifted: if is_new { 0 } else { run.changes.len() },
        restarted: std::mem::take(&mut run.restarted),
        probes,
        uncompared: Vec::new(),
        up_to_date: false,
        is_failed: fault.is_some() || matches!(outcome, Outcome::Failed(_)),
        waits: None,
        took: start.elapsed(),
    };
    let asked = run.asked.take();
    Ok(Applied { summary, asked, outcome, fault, catalog: plan.catalog, manifest })
}

/// Whether a resource failed like this before the release that is applied, so that the release is not to blame.
pub type IsOld<'a> = &'a dyn Fn(&Item, &Error) -> bool;

/// Why a run ended early.
#[derive(Debug)]
enum Stop {
    /// Somebody else has their turn first.
    Waits(Error),
    /// Something failed.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        if error.passes() { Self::Waits(error) } else { Self::Failed(error) }
    }
}

impl From<Stop> for Outcome {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Waits(error) => Self::Waiting(error),
            Stop::Failed(error) => Self::Failed(error),
        }
    }
}

fn is_package(item: &Item) -> bool {
    item.about.phase == Phase::Packages
}

/// The paths that a resource alone decides about, and those of what it has in them.
fn paths(item: &Item, work: &Work<'_>) -> BTreeSet<PathBuf> {
    let owned = item.owned(work).unwrap_or_default();
    item.about.paths().chain(owned.iter().filter_map(Claim::whole_path)).map(Path::to_owned).collect()
}

struct Run<'a> {
    work: &'a Work<'a>,
    report: &'a dyn Report,
    slots: Slots<'a>,
    owed: PendingActions,
    /// What is written down of it.
    noted: PendingActions,
    before: PriorStates,
    /// Whether what stood there before has to be written down yet, before the first change.
    is_unsaved: bool,
    /// Positions of the packages that are still to be changed: each may bring what others are about.
    brings: Vec<usize>,
    /// Ids of resources that are left alone.
    held: HashSet<String>,
    /// The release, if the host was not made what it says yet.
    release: Option<String>,
    /// Until when a source has to be reached again, should this run change what can cut the host off.
    cuts_off: Option<Timestamp>,
    /// Ids and summaries, in the order of the changes.
    changes: Vec<(String, String)>,
    restarted: Vec<String>,
    /// Probes that were waited for, and whether they passed.
    asked: RefCell<BTreeMap<String, bool>>,
    /// Changes that are not on the disk yet, by the position of the resource.
    waiting: Vec<(usize, Change)>,
    /// What failed, and what depends on it.
    left_out: LeftOut,
    is_old: IsOld<'a>,
    /// All that a first run touches when something can't be fetched.
    basics: Option<HashSet<usize>>,
    /// Whether something that no role wants any more stays for now.
    gone_stays: bool,
    /// Probes and slots that the last good release did not have like this.
    news: HashSet<usize>,
}

impl<'a> Run<'a> {
    fn new(work: &'a Work<'a>, report: &'a dyn Report, host: &'a str, owed: PendingActions) -> Self {
        let slots = Slots { work, report, host };
        Self {
            work,
            report,
            slots,
            noted: owed.clone(),
            owed,
            before: PriorStates::default(),
            is_unsaved: false,
            brings: Vec::new(),
            held: HashSet::new(),
            cuts_off: None,
            release: None,
            changes: Vec::new(),
            restarted: Vec::new(),
            asked: RefCell::default(),
            waiting: Vec::new(),
            left_out: LeftOut::default(),
            is_old: &|_, _| false,
            basics: None,
            gone_stays: false,
            news: HashSet::new(),
        }
    }

    /// Fetches and checks what changes need, before anything is touched. On a host without any good release, what can't be fetched keeps
    /// only what depends on it away, and all that is not basic.
    fn prepare(&mut self, changes: impl Iterator<Item = usize>) -> Result<()> {
        let (work, report) = (self.work, self.report);
        let progress = |name: &str, done, total| report.event(&Event::Download { name, done, total });
        for at in changes {
            if self.is_left_out(at) {
                continue;
            }
            let item = &work.catalog[at];
            let prepared = item.resource.prepare(work, &progress);
            for (mirror, error) in work.store.take_passed_mirrors() {
                report.event(&Event::PassedMirror { mirror: &mirror, error: &error });
            }
            let Err(error) = prepared.map_err(|error| locate(error, item)) else { continue };
            if !(self.is_old)(item, &error) {
                if work.store.generations()?.iter().any(|one| one.good) {
                    return Err(error);
                }
                if self.basics.is_none() {
                    let is_basic = |item: &Item| {
                        item.about.is_of_source()
                            || matches!(item.about.phase, Phase::Accounts | Phase::Packages | Phase::Firewall)
                    };
                    self.basics = Some(needed(work.catalog, is_basic)?);
                }
            }
            self.left_out.add(at, error, work.catalog)?;
        }
        Ok(())
    }

    /// Whether this run does not touch an item.
    fn is_left_out(&mut self, at: usize) -> bool {
        self.left_out.has(at) || self.basics.as_ref().is_some_and(|basics| !basics.contains(&at))
    }

    /// Leaves a resource that failed out, if that is not this release's fault; else the run ends.
    fn fail(&mut self, at: usize, error: Error) -> Result<(), Stop> {
        let item = &self.work.catalog[at];
        let error = locate(error, item);
        if !(self.is_old)(item, &error) {
            return Err(error.into());
        }
        Ok(self.left_out.add(at, error, self.work.catalog)?)
    }

    fn all(&mut self, items: &'a [Item], gone: &[(Orphan, Option<Change>)]) -> Result<(), Stop> {
        let gone = if self.basics.is_some() { &[] } else { gone };
        let ended = self.each(items, gone);
        // also what was written before a failure
        let settled = self.settle();
        ended?;
        settled?;
        self.give_back(gone, PruneOrder::Last)?;
        self.work.host.settle_firewall()?;
        self.work.host.settle_unit_links()?;
        // whoever was owed something and is not in the catalog any more, or is not to run, is owed nothing now
        let left: HashSet<&str> =
            (0..items.len()).filter(|&at| self.is_left_out(at)).map(|at| items[at].id.as_str()).collect();
        self.owed.kicks.retain(|id, _| left.contains(id.as_str()));
        self.owed.unit_files = false;
        self.owed.firewall_files = false;
        Ok(())
    }

    fn each(&mut self, items: &'a [Item], gone: &[(Orphan, Option<Change>)]) -> Result<(), Stop> {
        if self.owed.unit_files {
            self.work.host.unit_files_changed();
        }
        if self.owed.firewall_files {
            self.work.host.firewall_files_changed();
        }
        let labels = self.work.host.root.labels();
        if labels.is_on() {
            labels.expect(items.iter().flat_map(|item| paths(item, self.work)).collect());
        }
        let mut watchers: BTreeMap<&str, Vec<(&str, Trigger)>> = BTreeMap::new();
        for item in items {
            for (watched, trigger) in &item.about.watches {
                watchers.entry(watched).or_default().push((&item.id, *trigger));
            }
        }
        let mut gates: BTreeMap<&str, Vec<&Item>> = BTreeMap::new();
        for item in items {
            for held in &item.about.before {
                gates.entry(held).or_default().push(item);
            }
            for id in &item.needs {
                let gate = items.iter().find(|other| other.id == *id && other.resource.gate().is_some());
                gate.into_iter().for_each(|gate| gates.entry(&item.id).or_default().push(gate));
            }
        }
        let mut changed: HashSet<&str> = HashSet::new();
        self.give_back(gone, PruneOrder::First)?;
        let middle = items.iter().position(|item| item.about.phase >= Phase::Stops).unwrap_or(items.len());
        for (at, item) in items.iter().enumerate() {
            if at == middle {
                self.settle()?;
                self.give_back(gone, PruneOrder::Middle)?;
                self.work.host.settle_firewall()?;
            }
            if !is_package(item) {
                self.close(at)?;
            }
            if self.held.contains(&item.id) || self.is_left_out(at) {
                continue;
            }
            let can_wait = item.about.is_self_contained && !gates.contains_key(item.id.as_str());
            let is_after = |first: usize| item.after.contains(&items[first].id);
            if !can_wait || (!item.after.is_empty() && self.waiting.iter().any(|(first, _)| is_after(*first))) {
                self.settle()?;
            }
            // what was written until now may have failed, and this one depend on it
            if self.is_left_out(at) {
                continue;
            }
            let change = match difference(item, self.work, &changed, &self.owed.kicks) {
                Ok(Some(change)) => change,
                Ok(None) => continue,
                Err(error) => {
                    self.fail(at, error)?;
                    continue;
                }
            };
            for gate in gates.get(item.id.as_str()).into_iter().flatten() {
                self.pass(gate, item).map_err(Stop::Waits)?;
            }
            let held = self.slots.before(item, &change).map_err(|error| Stop::Waits(locate(error, item)))?;
            let along = self.along(at, items);
            let all = std::iter::once(at).chain(along.iter().map(|(other, _)| *other));
            let owed: Vec<_> = all.filter_map(|at| watchers.get(items[at].id.as_str())).flatten().copied().collect();
            self.owe(item, &owed)?;
            if can_wait {
                self.work.host.root.gather();
            }
            if let Err(error) = self.make(item, None, &change) {
                self.fail(at, error)?;
                continue;
            }
            for (at, change) in std::iter::once((at, change)).chain(along) {
                changed.insert(&items[at].id);
                self.waiting.push((at, change));
            }
            if !can_wait || self.work.host.root.has_gathered_enough() {
                self.settle()?;
            }
            if let Some(held) = held {
                self.slots.after(item, held)?;
            }
        }
        if middle == items.len() {
            self.settle()?;
            self.give_back(gone, PruneOrder::Middle)?;
        }
        Ok(())
    }

    /// What the change of an item changes too, and how.
    fn along(&self, at: usize, items: &[Item]) -> Vec<(usize, Change)> {
        let ids = items[at].resource.along(self.work);
        if ids.is_empty() {
            return Vec::new();
        }
        let meant = (at + 1..items.len()).filter(|&other| ids.contains(&items[other].id));
        // what can't be told of one is told at its own turn
        meant.filter_map(|other| Some((other, items[other].resource.observe(self.work).ok()??))).collect()
    }

    /// Once packages before the item at `at` were changed, has another look at what stands where the items up to the next package
    /// are: that is what the packages ship.
    fn close(&mut self, at: usize) -> Result<(), Stop> {
        if self.brings.first().is_none_or(|&package| package > at) {
            return Ok(());
        }
        self.brings.retain(|&package| package > at);
        let items = self.work.catalog;
        let until = self.brings.first().copied().unwrap_or(items.len());
        for (at, item) in items.iter().enumerate().take(until).skip(at) {
            if self.is_left_out(at) || self.held.contains(&item.id) {
                continue;
            }
            match self.before.close(item, self.work) {
                Ok(is_new) => self.is_unsaved |= is_new,
                Err(error) => self.fail(at, error)?,
            }
        }
        Ok(())
    }

    /// Has everything on the disk that was changed until now.
    fn settle(&mut self) -> Result<(), Stop> {
        let (settled, items) = (self.work.host.root.settle(), self.work.catalog);
        let mut unmade = Vec::new();
        for (at, change) in std::mem::take(&mut self.waiting) {
            if settled.is_err() && !matches!(items[at].resource.observe(self.work), Ok(None)) {
                unmade.push((at, change));
                continue;
            }
            self.finish(at, change)?;
        }
        let Err((path, error)) = settled else { return Ok(()) };
        match items.iter().position(|item| paths(item, self.work).contains(&path)) {
            Some(at) => self.fail(at, error)?,
            None => return Err(error.into()),
        }
        // only the first failure is known: the others are made one by one
        for (at, change) in unmade {
            if self.is_left_out(at) {
                continue;
            }
            match self.make(&items[at], None, &change) {
                Ok(()) => self.finish(at, change)?,
                Err(error) => self.fail(at, error)?,
            }
        }
        Ok(())
    }

    /// Remembers and reports a change that is on the disk.
    fn finish(&mut self, at: usize, change: Change) -> Result<()> {
        let item = &self.work.catalog[at];
        self.before.made(item, self.work)?;
        self.done(item, change);
        self.paid(&item.id)
    }

    /// Gives back what no role wants any more and whose turn it is. What can't be is reported, and tried again by the next run.
    fn give_back(&mut self, gone: &[(Orphan, Option<Change>)], turn: PruneOrder) -> Result<()> {
        for (at, (one, _)) in gone.iter().enumerate().filter(|(_, (one, _))| one.turn == turn) {
            match self.restore(one, gone.get(at + 1..).unwrap_or_default()) {
                Ok(()) => self.before.forget(&one.mark),
                Err(Stop::Failed(error)) if !error.is_of_machine() => {
                    self.gone_stays = true;
                    self.report.event(&Event::Lost { id: &one.id, error: &error });
                }
                Err(Stop::Failed(error) | Stop::Waits(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives one thing back, and with it those of the `others` that go along with it.
    fn restore(&mut self, one: &Orphan, others: &[(Orphan, Option<Change>)]) -> Result<(), Stop> {
        let item = &one.item;
        let observed = item.resource.observe(self.work)?;
        if let Some(change) = observed.or_else(|| one.restart(!self.changes.is_empty())) {
            let ids = item.resource.along(self.work);
            // what can't be told of one is told at its own turn
            let observe = |one: &Orphan| one.item.resource.observe(self.work).ok();
            let along = others.iter().map(|(other, _)| other).filter(|other| ids.contains(&other.item.id));
            let mut along: Vec<(&Orphan, Change)> = along.filter_map(|other| Some((other, observe(other)??))).collect();
            along.retain(|(_, change)| change.what == Effect::Removed);
            let all = std::iter::once(one).chain(along.iter().map(|(other, _)| *other));
            let triggers: Vec<(&str, Trigger)> =
                all.flat_map(|one| &one.triggers).map(|(id, trigger)| (id.as_str(), *trigger)).collect();
            self.owe(item, &triggers)?;
            self.make(item, Some(&one.mark), &change)?;
            along.retain(|(other, _)| matches!(observe(other), Some(None)));
            self.done(item, change);
            for (other, change) in along {
                self.done(&other.item, change);
            }
        }
        Ok(())
    }

    fn done(&mut self, item: &Item, change: Change) {
        if change.trigger.is_some() {
            self.restarted.push(item.id.clone());
        }
        self.report.event(&Event::Changed(item, &change));
        self.changes.push((item.id.clone(), change.summary));
    }

    /// Makes one change; what somebody has edited there, at `mark` or anywhere in what it owns, is saved before.
    fn make(&self, item: &Item, mark: Option<&Claim>, change: &Change) -> Result<()> {
        for path in self.before.save_edits(item, mark, self.work)? {
            self.report.event(&Event::Saved { path: &path });
        }
        let made = item.resource.apply(self.work, change);
        if let Some(error) = self.work.host.root.labels().take_trouble() {
            self.report.event(&Event::Unlabelled(&error));
        }
        made
    }

    /// Writes down what the change of `item` will make due, and before the first one what stood there until now.
    fn owe(&mut self, item: &Item, watchers: &[(&str, Trigger)]) -> Result<()> {
        self.owed.probes = true;
        self.owed.release = self.release.clone().or(self.owed.release.take());
        if item.about.can_cut_off() {
            self.owed.contact = self.owed.contact.or(self.cuts_off);
        }
        let paths = paths(item, self.work);
        self.owed.unit_files |= paths.iter().any(|path| is_unit_file(path));
        self.owed.firewall_files |= paths.iter().any(|path| is_firewall_file(path));
        for (unit, trigger) in watchers {
            let owed = self.owed.kicks.entry((*unit).to_owned()).or_insert(*trigger);
            *owed = (*owed).max(*trigger);
        }
        if !std::mem::take(&mut self.is_unsaved) {
            return self.note();
        }
        let store = self.work.store;
        store.root().together(|| {
            self.before.save(store)?;
            self.note()
        })
    }

    fn paid(&mut self, id: &str) -> Result<()> {
        self.owed.kicks.remove(id);
        self.note()
    }

    /// Has on the disk what is owed, if that is not what it was.
    fn note(&mut self) -> Result<()> {
        if self.owed != self.noted {
            self.work.store.set_owed(&self.owed)?;
            self.noted.clone_from(&self.owed);
        }
        Ok(())
    }

    /// Waits for what `item` is not to be changed before. When that does not come, the run ends there: what comes
    /// later may need what waits.
    fn pass(&self, gate: &Item, item: &Item) -> Result<()> {
        let Some(what) = gate.resource.gate().filter(|_| self.work.host.is_live()) else { return Ok(()) };
        self.wait(gate, what).map_err(|why| {
            let error = Error::new(code::PROBE, format!("{} waits for {}", item.id, gate.id))
                .because(why)
                .exit(Exit::Unhealthy);
            locate(error.help("it may be another host's turn; the next run goes on from here"), gate)
        })
    }

    fn wait(&self, item: &Item, gate: &dyn Gate) -> Result<(), String> {
        self.report.event(&Event::Waiting(item));
        let passed = gate.wait(self.work);
        if item.as_kind::<Probe>().is_some() {
            self.asked.borrow_mut().insert(item.id.clone(), passed.is_ok());
        }
        passed?;
        self.report.event(&Event::Passing(item));
        Ok(())
    }

    /// Waits for every probe that decides, if anything was changed since they all passed last. What is owed then is still to be noted.
    fn probe(&mut self, items: &[Item]) -> Result<(usize, Option<Error>)> {
        if !self.owed.probes || !self.work.host.is_live() {
            self.owed.probes = false;
            return Ok((0, None));
        }
        let mut passed = 0;
        for (at, item) in items.iter().enumerate() {
            if self.is_left_out(at) {
                continue;
            }
            if self.news.contains(&at)
                && let Err(error) = self.slots.ask(item)
            {
                return Ok((passed, Some(locate(error, item))));
            }
            let Some(probe) = item.as_kind::<Probe>().filter(|probe| probe.decides) else { continue };
            if let Err(why) = self.wait(item, probe) {
                let error = Error::new(code::PROBE, format!("{} does not pass", item.id))
                    .because(why)
                    .exit(Exit::Unhealthy)
                    .help("everything was applied and stays so; the next run tries the probe again");
                return Ok((passed, Some(locate(error, item))));
            }
            passed += 1;
        }
        self.owed.probes = false;
        Ok((passed, None))
    }
}

/// What a generation is recorded as.
struct Verdict {
    good: bool,
    /// What answered, as [`Generation::checks`].
    checks: BTreeMap<String, String>,
}

/// Records a generation, when something was changed or the release is another one; or that the last one is well by now.
fn record(
    store: &Store,
    serial: u64,
    stamp: &ReleaseStamp,
    items: &[Item],
    changes: &[(String, String)],
    Verdict { good, checks }: Verdict,
) -> Result<()> {
    let last = store.generation()?;
    if changes.is_empty()
        && let Some(last) = last.as_ref().filter(|last| last.release == stamp.digest)
    {
        if good && !last.good {
            return store.set_generation(&Generation { good, checks, ..last.clone() });
        }
        return Ok(());
    }
    store.add_generation(&Generation {
        number: last.map_or(1, |last| last.number + 1),
        time: Timestamp::now(),
        serial,
        release: stamp.digest.clone(),
        created: stamp.created,
        signers: stamp.signers.clone(),
        keys: stamp.keys,
        resources: items.iter().map(|item| item.id.clone()).collect(),
        changes: changes.iter().cloned().collect(),
        good,
        checks,
        back: stamp.back.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plan::plan;
    use crate::resolve::Catalog;
    use crate::resolve::testing::catalog;

    fn ids(catalog: &Catalog) -> Vec<&str> {
        catalog.items.iter().map(|item| item.id.as_str()).collect()
    }

    /// A machine, on which the commands of these tests make files in a directory.
    struct World {
        dir: tempfile::TempDir,
        host: Host,
        store: Store,
        catalog: Catalog,
    }

    impl World {
        /// `DIR` in the role stands for the directory.
        fn new(role: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let role = role.replace("DIR", dir.path().to_str().unwrap());
            let store = Store::open(&dir.path().join("state")).unwrap();
            Self { host: Host::open("/".as_ref()).unwrap(), store, catalog: catalog(&role).unwrap(), dir }
        }

        /// What a run changes and how many probes pass; how it ends, if that is not well.
        fn run(&self) -> (Vec<String>, Result<usize, Error>) {
            let items = &self.catalog.items;
            let work = Work { host: &self.host, store: &self.store, catalog: items };
            let (owed, silent) = (self.store.owed().unwrap(), Vec::<Box<dyn Report>>::new());
            let mut run = Run::new(&work, &silent, "h1", owed);
            let ended = match run.all(items, &[]) {
                Ok(()) => match run.probe(items) {
                    Ok((passed, None)) => Ok(passed),
                    Ok((_, Some(error))) | Err(error) => Err(error),
                },
                Err(Stop::Waits(error) | Stop::Failed(error)) => Err(error),
            };
            (run.changes.into_iter().map(|(id, _)| id).collect(), ended)
        }

        fn make(&self, name: &str) {
            std::fs::write(self.dir.path().join(name), "").unwrap();
        }

        fn remove(&self, name: &str) {
            std::fs::remove_file(self.dir.path().join(name)).unwrap();
        }
    }

    const GATED: &str = r#"
        [[command]]
        name = "kubelet"
        run = ["touch", "DIR/kubelet"]
        creates = "DIR/kubelet"
        [[command]]
        name = "after it"
        run = ["touch", "DIR/more"]
        creates = "DIR/more"
        after = ["command:kubelet"]
        [[probe]]
        name = "api"
        command = ["test", "-e", "DIR/api"]
        before = ["command:kubelet"]
        within = "0s"
        [[command]]
        name = "proxy"
        run = ["touch", "DIR/proxy"]
        creates = "DIR/proxy"
    "#;

    #[test]
    fn what_waits_for_a_gate_comes_after_all_that_does_not() {
        let world = World::new(GATED);
        assert_eq!(ids(&world.catalog), ["command:proxy", "probe:api", "command:kubelet", "command:after it"]);
    }

    #[test]
    fn a_gate_that_does_not_open_ends_the_run_before_what_waits_is_touched_and_the_next_run_goes_on() {
        let world = World::new(GATED);
        let (changed, ended) = world.run();
        assert_eq!(changed, ["command:proxy"]);
        let error = ended.unwrap_err();
        assert_eq!(
            error.to_string(),
            "command:kubelet waits for probe:api: test failed: exit status: 1, without a word"
        );
        assert_eq!((error.exit_code(), error.place().unwrap().file.as_str()), (Exit::Unhealthy, "roles/r/role.toml"));
        assert!(error.advice().unwrap().contains("the next run goes on from here"));
        assert!(!world.dir.path().join("kubelet").exists());

        world.make("api");
        let (changed, ended) = world.run();
        assert_eq!(changed, ["command:kubelet", "command:after it"]);
        assert_eq!(ended.unwrap(), 1, "the probe passes at the end too");
    }

    #[test]
    fn what_needs_a_probe_waits_for_it_as_behind_a_gate_and_what_no_host_here_has_only_check_looks_for() {
        let role = GATED.replace("before = [\"command:kubelet\"]", "");
        let role = role.replace(
            "creates = \"DIR/kubelet\"",
            "creates = \"DIR/kubelet\"\nneeds = [\"probe:api\", \"etcd_key:/k\"]",
        );
        let world = World::new(&role);
        assert_eq!(ids(&world.catalog), ["command:proxy", "probe:api", "command:kubelet", "command:after it"]);
        let (changed, ended) = world.run();
        assert_eq!(changed, ["command:proxy"]);
        assert!(ended.unwrap_err().to_string().starts_with("command:kubelet waits for probe:api: test failed"));
        world.make("api");
        assert_eq!(world.run().0, ["command:kubelet", "command:after it"]);
    }

    #[test]
    fn a_gate_is_not_asked_when_nothing_behind_it_changes() {
        let world = World::new(&GATED.replace("within", "decides = false\n        within"));
        world.make("api");
        world.run().1.unwrap();
        world.remove("api");
        world.remove("proxy");
        let (changed, ended) = world.run();
        assert_eq!(changed, ["command:proxy"]);
        assert_eq!(ended.unwrap(), 0, "nor is it one of those that decide");
        world.remove("kubelet");
        assert_eq!(world.run().1.unwrap_err().exit_code(), Exit::Unhealthy);
    }

    #[test]
    fn a_probe_that_decides_nothing_does_not_make_a_run_unhealthy() {
        let role =
            "[[command]]\nrun = ['touch', 'DIR/x']\ncreates = 'DIR/x'\n[[probe]]\ncommand = ['false']\nwithin = '0s'\n";
        assert_eq!(World::new(role).run().1.unwrap_err().exit_code(), Exit::Unhealthy);
        assert_eq!(World::new(&format!("{role}decides = false")).run().1.unwrap(), 0);
    }

    #[test]
    fn a_gate_for_what_the_host_does_not_have_is_an_error_with_the_name_that_was_meant() {
        let role = GATED.replace("before = [\"command:kubelet\"]", "before = [\"command:kublet\"]");
        let error = catalog(&role.replace("DIR", "/dir")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`probe:api` is a gate before `command:kublet`, and there is no such resource on this host"
        );
        assert_eq!(error.advice(), Some("did you mean `command:kubelet`?"));
    }

    #[test]
    fn a_gate_that_needs_what_waits_for_it_is_a_circle() {
        let role = GATED.replace("within", "after = [\"command:after it\"]\n        within");
        let error = catalog(&role.replace("DIR", "/dir")).unwrap_err();
        assert!(
            error.to_string().contains("command:kubelet → probe:api → command:after it → command:kubelet"),
            "{error}"
        );
    }

    #[test]
    fn a_tree_has_no_gates() {
        let dir = tempfile::tempdir().unwrap();
        let role = "[[file]]\npath = '/etc/x'\ncontent = 'x'\n[[probe]]\ncommand = ['false']\nbefore = ['file:/etc/x']\nwithin = '0s'";
        let (host, store) = (Host::open(dir.path()).unwrap(), Store::open(&dir.path().join("state")).unwrap());
        let silent = Vec::<Box<dyn Report>>::new();
        let planned = plan(&host, &store, catalog(role).unwrap(), "").unwrap();
        let work = Work { host: &host, store: &store, catalog: &planned.catalog.items };
        let mut run = Run::new(&work, &silent, "h1", planned.owed);
        run.all(&planned.catalog.items, &[]).unwrap();
        assert_eq!(run.changes.len(), 1);
        assert!(run.owed.probes);
        let (passed, unhealthy) = run.probe(&planned.catalog.items).unwrap();
        assert!(passed == 0 && unhealthy.is_none() && run.asked.borrow().is_empty(), "{unhealthy:?}");
    }

    #[test]
    fn what_a_command_or_a_gate_may_look_for_is_on_the_disk_by_then() {
        let role = r#"
            [[command]]
            name = "first"
            run = ["touch", "DIR/first"]
            creates = "DIR/first"
            [[file]]
            path = "DIR/in"
            content = "x"
            after = ["command:first"]
            [[command]]
            name = "copy"
            run = ["cp", "DIR/in", "DIR/out"]
            creates = "DIR/out"
            after = ["file:DIR/in"]
        "#;
        let world = World::new(role);
        assert_eq!(ids(&world.catalog)[0], "command:first");
        world.run().1.unwrap();
        // passes for the second file when the first is there
        let role = r#"
            [[file]]
            path = "DIR/one"
            content = "x"
            [[file]]
            path = "DIR/two"
            content = "x"
            [[probe]]
            name = "gate"
            command = ["sh", "-c", "if test -e DIR/asked; then test -e DIR/one; else touch DIR/asked; fi"]
            before = ["file:DIR/one", "file:DIR/two"]
            within = "0s"
        "#;
        World::new(role).run().1.unwrap();
    }

    #[test]
    fn what_a_change_makes_due_is_written_down_until_it_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let (host, store) = (Host::open(dir.path()).unwrap(), Store::open(&dir.path().join("state")).unwrap());
        let role =
            "[[file]]\npath = '/etc/systemd/system/x.service'\ncontent = ''\n[[file]]\npath = '/etc/x'\ncontent = ''\n";
        let (items, silent) = (catalog(role).unwrap().items, Vec::<Box<dyn Report>>::new());
        let work = Work { host: &host, store: &store, catalog: &items };
        let mut run = Run::new(&work, &silent, "h1", PendingActions::default());
        let owed = |unit_files, trigger: Option<Trigger>| PendingActions {
            kicks: trigger.map(|trigger| ("unit:x".to_owned(), trigger)).into_iter().collect(),
            unit_files,
            probes: true,
            ..PendingActions::default()
        };
        run.is_unsaved = run.before.adopt(&work, None, |_| false).0;
        run.owe(&items[1], &[]).unwrap();
        assert_eq!(store.owed().unwrap(), owed(false, None));
        assert_eq!(
            PriorStates::load(&store).unwrap().ids().count(),
            5,
            "what stood there until now, and at the three directories above"
        );
        run.owe(&items[0], &[("unit:x", Trigger::Restart)]).unwrap();
        assert_eq!(store.owed().unwrap(), owed(true, Some(Trigger::Restart)));
        run.owe(&items[1], &[("unit:x", Trigger::Reload)]).unwrap();
        assert_eq!(store.owed().unwrap(), owed(true, Some(Trigger::Restart)), "the most that is owed");
        run.paid("unit:x").unwrap();
        assert_eq!(store.owed().unwrap(), owed(true, None));
    }

    #[test]
    fn a_unit_that_ran_before_is_restarted_when_anything_was_changed_and_not_without() {
        let dir = tempfile::tempdir().unwrap();
        let (host, store) = (Host::open(dir.path()).unwrap(), Store::open(&dir.path().join("state")).unwrap());
        let silent = Vec::<Box<dyn Report>>::new();
        let work = Work { host: &host, store: &store, catalog: &[] };
        for (changed, restarted) in [(vec![], 0), (vec![("file:/etc/x".to_owned(), "content".to_owned())], 1)] {
            std::fs::create_dir_all(dir.path().join("etc/systemd/system")).unwrap();
            std::fs::write(dir.path().join("etc/systemd/system/x.service"), "").unwrap();
            let item = catalog("[[unit]]\nname = 'x.service'\n").unwrap().items.remove(0);
            let gone = Orphan {
                mark: Claim::thing("unit", "x"),
                id: item.id.clone(),
                item,
                turn: PruneOrder::Last,
                triggers: Vec::new(),
            };
            let mut run = Run::new(&work, &silent, "h1", PendingActions::default());
            run.changes = changed;
            run.all(&[], &[(gone, None)]).unwrap();
            assert_eq!(run.restarted.len(), restarted);
        }
    }

    /// Remembers of each change, when it is told, whether there is a file by then.
    struct Watch(PathBuf, RefCell<Vec<bool>>);

    impl Report for Watch {
        fn event(&self, event: &Event<'_>) {
            if matches!(event, Event::Changed(..)) {
                self.1.borrow_mut().push(self.0.exists());
            }
        }
    }

    #[test]
    fn files_are_written_together_before_any_of_them_is_told() {
        let file = |name: &str| format!("[[file]]\npath = 'DIR/{name}'\ncontent = 'x'\n");
        let world = World::new(&format!("{}{}", file("one"), file("two")));
        let work = Work { host: &world.host, store: &world.store, catalog: &world.catalog.items };
        let watch = Watch(world.dir.path().join("two"), RefCell::default());
        Run::new(&work, &watch, "h1", PendingActions::default()).all(&world.catalog.items, &[]).unwrap();
        assert_eq!(watch.1.take(), [true, true]);
    }

    #[test]
    fn what_is_due_again_at_once_was_done_all_the_same() {
        let world = World::new("[[command]]\nname = 'always'\nrun = ['true']\nonly_if = ['true']\n");
        assert_eq!(world.run().0, ["command:always"]);
    }

    #[test]
    fn a_generation_is_recorded_for_a_change_or_another_release_and_is_good_once_all_is_well() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        let record = |digest: &str, changes: &[&str], good| -> Vec<(u64, bool)> {
            let stamp = ReleaseStamp { digest: digest.to_owned(), ..ReleaseStamp::default() };
            let changes: Vec<_> = changes.iter().map(|id| ((*id).to_owned(), "content".to_owned())).collect();
            record(&store, 1, &stamp, &[], &changes, Verdict { good, checks: BTreeMap::new() }).unwrap();
            store.generations().unwrap().iter().map(|one| (one.number, one.good)).collect()
        };
        assert_eq!(record("a", &[], false), [(1, false)]);
        assert_eq!(record("a", &[], false), [(1, false)]);
        assert_eq!(record("a", &[], true), [(1, true)]);
        assert_eq!(record("a", &["file:/etc/x"], false), [(1, true), (2, false)]);
        assert_eq!(record("b", &[], true), [(1, true), (2, false), (3, true)]);
    }
}
