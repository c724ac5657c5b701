//! One walk through the catalog: each change in its order, recorded before it is made.

use std::cell::RefCell;

use crate::engine::fault::{LeftOut, needed};
use crate::engine::orphan::{PruneOrder, Restoration};
use crate::engine::plan::{difference, locate};
use crate::engine::prelude::*;
use crate::engine::prior::{PriorStates, Watchers, watchers};
use crate::engine::slot::Slots;
use crate::host::{deadline, is_firewall_file, is_unit_file};
use crate::kind::Effect;

/// Whether a resource failed like this before the release that is applied, so that the release is not to blame.
pub type IsOld<'a> = &'a dyn Fn(&Item, &Error) -> bool;

/// Why a run ended early.
#[derive(Debug)]
pub enum Stop {
    /// Another host, or another program on this one, must finish first; the next run continues.
    Waits(Error),
    /// Something could not be changed, or is unhealthy now.
    Failed(Error),
}

impl Stop {
    /// What it was.
    pub fn into_error(self) -> Error {
        let (Self::Waits(error) | Self::Failed(error)) = self;
        error
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        if error.passes() { Self::Waits(error) } else { Self::Failed(error) }
    }
}

/// The paths that a resource manages, whole or in part, and those of its files.
fn paths(item: &Item, work: &Work<'_>) -> BTreeSet<PathBuf> {
    let owned = item.resource.owned(work).unwrap_or_default();
    item.about.claims.iter().chain(&owned).filter_map(Claim::any_path).map(Path::to_owned).collect()
}

/// The state of a walk.
pub(super) struct Run<'a> {
    pub work: &'a Work<'a>,
    pub report: &'a dyn Report,
    pub slots: Slots<'a>,
    pub pending: PendingActions,
    /// What is recorded of it.
    pub recorded: PendingActions,
    pub prior: PriorStates,
    /// Whether `prior` has to be recorded before the first change.
    pub is_unsaved: bool,
    /// Positions of the packages that must still be changed: each may install files of later resources.
    pub packages: Vec<usize>,
    /// Ids of paused resources.
    pub paused: HashSet<ResourceId>,
    /// The release, if the host doesn't have it yet.
    pub release: Option<String>,
    /// The deadline for reaching a source again, should this run change what can cut the host off.
    pub confirm_by: Option<Timestamp>,
    /// Ids of the resources that have changed.
    pub changed: HashSet<&'a str>,
    /// Ids and summaries, in the order of the changes.
    pub changes: Vec<(ResourceId, String)>,
    /// Ids of units that were restarted or reloaded.
    pub restarted: Vec<ResourceId>,
    /// The probes that were run, and whether they passed.
    pub probed: RefCell<BTreeMap<ResourceId, bool>>,
    /// Changes that are not synced to the disk yet, by the position of the resource.
    pub unsynced: Vec<(usize, Change)>,
    /// What failed, and what depends on it.
    pub left_out: LeftOut,
    pub is_old: IsOld<'a>,
    /// All that a first run touches when something can't be fetched.
    pub basics: Option<HashSet<usize>>,
    /// Whether an orphan stays for now.
    pub orphans_stay: bool,
    /// Ids of the resources whose restoration failed, and why.
    pub unrestored: Vec<(ResourceId, Error)>,
    /// Probes and slots that the last good release did not have in the same form, by position.
    pub new_checks: HashSet<usize>,
}

impl<'a> Run<'a> {
    pub fn new(work: &'a Work<'a>, report: &'a dyn Report, host: &'a str, pending: PendingActions) -> Self {
        Self {
            work,
            report,
            slots: Slots { work, report, host },
            recorded: pending.clone(),
            pending,
            prior: PriorStates::default(),
            is_unsaved: false,
            packages: Vec::new(),
            paused: HashSet::new(),
            release: None,
            confirm_by: None,
            changed: HashSet::new(),
            changes: Vec::new(),
            restarted: Vec::new(),
            probed: RefCell::default(),
            unsynced: Vec::new(),
            left_out: LeftOut::default(),
            is_old: &|_, _| false,
            basics: None,
            orphans_stay: false,
            unrestored: Vec::new(),
            new_checks: HashSet::new(),
        }
    }

    /// Fetches and checks what changes need, before anything is touched. On a host without any good release, a failure to fetch leaves
    /// out what depends on it, and all that is not basic.
    pub fn prepare(&mut self, changes: &[usize]) -> Result<()> {
        let (work, report) = (self.work, self.report);
        let progress = |name: &str, done, total| report.event(&Event::Download { name, done, total });
        for &at in changes {
            if self.is_left_out(at) {
                continue;
            }
            if let Err(over) = deadline::check() {
                let faults = std::mem::take(&mut self.left_out).into_error(work.catalog);
                return Error::check(std::iter::once(over).chain(faults).collect());
            }
            let item = &work.catalog[at];
            let prepared = item.resource.prepare(work, &progress);
            for (mirror, error) in work.store.take_passed_mirrors() {
                report.event(&Event::PassedMirror(&mirror, &error));
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

    /// Whether this run leaves out an item because of a failure.
    pub fn is_left_out(&mut self, at: usize) -> bool {
        self.left_out.has(at) || self.basics.as_ref().is_some_and(|basics| !basics.contains(&at))
    }

    /// Whether this run doesn't touch an item.
    pub fn skips(&mut self, at: usize) -> bool {
        self.is_left_out(at) || self.paused.contains(&self.work.catalog[at].id)
    }

    /// Skips a resource that failed, if this release is not the cause; otherwise, the run ends.
    pub fn fail(&mut self, at: usize, error: Error) -> Result<(), Stop> {
        let item = &self.work.catalog[at];
        let error = locate(error, item);
        if !(self.is_old)(item, &error) {
            return Err(error.into());
        }
        Ok(self.left_out.add(at, error, self.work.catalog)?)
    }

    /// Makes all changes, and restores the orphans.
    pub fn all(&mut self, orphans: &[Restoration]) -> Result<(), Stop> {
        let orphans = if self.basics.is_some() { &[] } else { orphans };
        let ended = self.each(orphans);
        // also what was written before a failure
        let synced = self.sync();
        ended?;
        synced?;
        self.restore_all(orphans, PruneOrder::Last)?;
        self.work.host.settle_firewall()?;
        self.work.host.settle_unit_links()?;
        // nothing is pending for a unit that is no longer in the catalog, or that must not run
        let items = self.work.catalog;
        let left: HashSet<&ResourceId> =
            (0..items.len()).filter(|&at| self.is_left_out(at)).map(|at| &items[at].id).collect();
        self.pending.triggers.retain(|id, _| left.contains(id));
        self.pending.unit_files = false;
        self.pending.firewall_files = false;
        Ok(())
    }

    fn each(&mut self, orphans: &[Restoration]) -> Result<(), Stop> {
        let (host, items) = (self.work.host, self.work.catalog);
        if self.pending.unit_files {
            host.unit_files_changed();
        }
        if self.pending.firewall_files {
            host.firewall_files_changed();
        }
        let labels = &host.root.labels;
        if labels.is_on() {
            labels.expect(items.iter().flat_map(|item| paths(item, self.work)).collect());
        }
        let watchers = watchers(items);
        let is_removed =
            |(_, change): &&Restoration| change.as_ref().is_some_and(|change| change.what == Effect::Removed);
        host.expect_removal(orphans.iter().filter(is_removed).filter_map(|(orphan, _)| orphan.path()).collect());
        let gates = gates(items);
        self.restore_all(orphans, PruneOrder::First)?;
        if self.prior.is_any_divided() {
            self.close_from(0)?;
        }
        let middle = items.iter().position(|item| item.about.phase >= Phase::Stops).unwrap_or(items.len());
        for (at, item) in items.iter().enumerate() {
            if at == middle {
                self.sync()?;
                self.restore_all(orphans, PruneOrder::Middle)?;
                host.settle_firewall()?;
            }
            if item.about.phase != Phase::Packages {
                self.close(at)?;
            }
            if self.skips(at) {
                continue;
            }
            let gates = gates.get(item.id.as_str()).map_or(&[][..], Vec::as_slice);
            self.one(at, gates, &watchers)?;
        }
        if middle == items.len() {
            self.sync()?;
            self.restore_all(orphans, PruneOrder::Middle)?;
        }
        Ok(())
    }

    /// Makes the change of one item, once its gates have passed.
    fn one(&mut self, at: usize, gates: &[&Item], watchers: &Watchers<'_>) -> Result<(), Stop> {
        let (host, items) = (self.work.host, self.work.catalog);
        let item = &items[at];
        deadline::check()?;
        let can_wait = item.about.is_self_contained && gates.is_empty();
        let is_after = |first: usize| item.after.iter().any(|id| items[first].id == **id);
        if !can_wait || (!item.after.is_empty() && self.unsynced.iter().any(|(first, _)| is_after(*first))) {
            self.sync()?;
        }
        // a sync may have failed, and this item depend on it
        if self.is_left_out(at) {
            return Ok(());
        }
        let change = match difference(item, self.work, &self.changed, &self.pending.triggers) {
            Ok(Some(change)) => change,
            Ok(None) => return Ok(()),
            Err(error) => return self.fail(at, error),
        };
        for gate in gates {
            self.pass(gate, item).map_err(Stop::Waits)?;
        }
        let slot = self.slots.before(item, &change).map_err(|error| Stop::Waits(locate(error, item)))?;
        let along = self.along(at);
        let all = std::iter::once(at).chain(along.iter().map(|(other, _)| *other));
        let triggers: Vec<_> = all.filter_map(|at| watchers.get(items[at].id.as_str())).flatten().copied().collect();
        let pending = self.pending.triggers.clone();
        self.expect(item, &triggers)?;
        if can_wait {
            host.root.gather();
        }
        if let Err(error) = self.make(item, None, &change) {
            // what a program refuses is not written: nothing has to restart
            if error.code() == code::VALIDATE {
                self.pending.triggers = pending;
                self.record_pending()?;
            }
            return self.fail(at, error);
        }
        for (at, change) in std::iter::once((at, change)).chain(along) {
            self.changed.insert(items[at].id.as_str());
            self.unsynced.push((at, change));
        }
        if !can_wait || host.root.has_gathered_enough() {
            self.sync()?;
        }
        if let Some(slot) = slot {
            self.slots.after(item, slot)?;
        }
        Ok(())
    }

    /// What the change of an item changes too, and how.
    fn along(&self, at: usize) -> Vec<(usize, Change)> {
        let items = self.work.catalog;
        let ids = items[at].resource.along(self.work);
        let others = (at + 1..items.len()).filter(|&other| ids.contains(&items[other].id));
        // an item that can't be observed is reported in its own turn
        others.filter_map(|other| Some((other, items[other].resource.observe(self.work).ok()??))).collect()
    }

    /// Once packages before the item at `at` were changed, reads the prior states of the items up to the next package
    /// again: that is what the packages ship.
    fn close(&mut self, at: usize) -> Result<(), Stop> {
        if self.packages.first().is_none_or(|&package| package > at) {
            return Ok(());
        }
        self.packages.retain(|&package| package > at);
        self.close_from(at)
    }

    /// Reads the open prior states of the items from `at` up to the next package again.
    fn close_from(&mut self, at: usize) -> Result<(), Stop> {
        let items = self.work.catalog;
        let until = self.packages.first().copied().unwrap_or(items.len());
        for (at, item) in items.iter().enumerate().take(until).skip(at) {
            if self.skips(at) {
                continue;
            }
            match self.prior.close(item, self.work) {
                Ok(is_new) => self.is_unsaved |= is_new,
                Err(error) => self.fail(at, error)?,
            }
        }
        Ok(())
    }

    /// Syncs to the disk everything that was changed until now.
    fn sync(&mut self) -> Result<(), Stop> {
        let (synced, items) = (self.work.host.root.settle(), self.work.catalog);
        let mut unmade = Vec::new();
        for (at, change) in std::mem::take(&mut self.unsynced) {
            if synced.is_err() && !matches!(items[at].resource.observe(self.work), Ok(None)) {
                unmade.push((at, change));
                continue;
            }
            self.finish(at, change)?;
        }
        let Err((path, error)) = synced else { return Ok(()) };
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

    /// Records and reports a change that is on the disk.
    fn finish(&mut self, at: usize, change: Change) -> Result<()> {
        let item = &self.work.catalog[at];
        self.prior.made(item, self.work)?;
        self.done(item, change);
        self.clear_trigger(&item.id)
    }

    fn clear_trigger(&mut self, id: &ResourceId) -> Result<()> {
        self.pending.triggers.remove(id);
        self.record_pending()
    }

    pub fn done(&mut self, item: &Item, change: Change) {
        if change.trigger >= Some(Trigger::Reload) {
            self.restarted.push(item.id.clone());
        }
        self.report.event(&Event::Changed(item, &change));
        self.changes.push((item.id.clone(), change.summary));
    }

    /// Makes one change. Local edits, at `claim` or in everything that the item owns, are saved before.
    pub fn make(&self, item: &Item, claim: Option<&Claim>, change: &Change) -> Result<()> {
        for path in self.prior.save_edits(item, claim, self.work)? {
            self.report.event(&Event::Saved(&path));
        }
        let made = item.resource.apply(self.work, change);
        // a program may have moved directories or mounted something on them, as semanage does with its own
        if !item.about.is_self_contained {
            self.work.host.root.forget_directories();
        }
        if let Some(error) = self.work.host.root.labels.take_trouble() {
            self.report.event(&Event::Unlabelled(&error));
        }
        made
    }

    /// Records the actions that the change of `item` will make pending, and before the first change the prior states.
    pub fn expect(&mut self, item: &Item, triggers: &[(&ResourceId, Trigger)]) -> Result<()> {
        self.pending.probes = true;
        self.pending.release = self.release.clone().or(self.pending.release.take());
        if item.about.can_cut_off() {
            self.pending.contact = self.pending.contact.or(self.confirm_by);
        }
        let paths = paths(item, self.work);
        self.pending.unit_files |= paths.iter().any(|path| is_unit_file(path));
        self.pending.firewall_files |= paths.iter().any(|path| is_firewall_file(path));
        for (unit, trigger) in triggers {
            let pending = self.pending.triggers.entry((*unit).clone()).or_insert(*trigger);
            *pending = (*pending).max(*trigger);
        }
        if !std::mem::take(&mut self.is_unsaved) {
            return self.record_pending();
        }
        let store = self.work.store;
        store.root().together(|| {
            self.prior.save(store)?;
            self.record_pending()
        })
    }

    /// Records what is pending, if that has changed.
    pub fn record_pending(&mut self) -> Result<()> {
        if self.pending != self.recorded {
            self.work.store.set_pending(&self.pending)?;
            self.recorded.clone_from(&self.pending);
        }
        Ok(())
    }
}

/// The gates before each item, by its id.
fn gates(items: &[Item]) -> BTreeMap<&str, Vec<&Item>> {
    let mut gates: BTreeMap<&str, Vec<&Item>> = BTreeMap::new();
    for item in items {
        for behind in &item.about.before {
            gates.entry(behind).or_default().push(item);
        }
        let needed = item.needs.iter().filter_map(|id| items.iter().find(|other| other.id == **id));
        for gate in needed.filter(|other| other.about.is_gate) {
            gates.entry(item.id.as_str()).or_default().push(gate);
        }
    }
    gates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::orphan::Orphan;
    use crate::engine::testing::{Machine, ids};
    use crate::host::Host;
    use crate::resolve::testing::catalog;
    use crate::store::Store;

    #[test]
    fn what_a_command_or_a_gate_may_read_is_on_the_disk_by_then() {
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
        let machine = Machine::new(role);
        assert_eq!(ids(&machine.catalog)[0], "command:first");
        machine.run().1.unwrap();
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
        Machine::new(role).run().1.unwrap();
    }

    #[test]
    fn what_a_change_makes_pending_is_recorded_until_it_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let (host, store) = (Host::open(dir.path()).unwrap(), Store::open(&dir.path().join("state")).unwrap());
        let role =
            "[[file]]\npath = '/etc/systemd/system/x.service'\ncontent = ''\n[[file]]\npath = '/etc/x'\ncontent = ''\n";
        let (items, silent) = (catalog(role).unwrap().items, Vec::<Box<dyn Report>>::new());
        let work = Work { host: &host, store: &store, catalog: &items };
        let mut run = Run::new(&work, &silent, "h1", PendingActions::default());
        let pending = |unit_files, trigger: Option<Trigger>| PendingActions {
            triggers: trigger.map(|trigger| (ResourceId::new("unit", "x"), trigger)).into_iter().collect(),
            unit_files,
            probes: true,
            ..PendingActions::default()
        };
        let unit = ResourceId::new("unit", "x");
        run.is_unsaved = run.prior.adopt(&work, None, |_| false).0;
        run.expect(&items[1], &[]).unwrap();
        assert_eq!(store.pending().unwrap(), pending(false, None));
        assert_eq!(
            PriorStates::load(&store).unwrap().ids().count(),
            5,
            "the prior state, and that of the three directories above"
        );
        run.expect(&items[0], &[(&unit, Trigger::Restart)]).unwrap();
        assert_eq!(store.pending().unwrap(), pending(true, Some(Trigger::Restart)));
        run.expect(&items[1], &[(&unit, Trigger::Reload)]).unwrap();
        assert_eq!(store.pending().unwrap(), pending(true, Some(Trigger::Restart)), "the strongest trigger");
        run.clear_trigger(&unit).unwrap();
        assert_eq!(store.pending().unwrap(), pending(true, None));
    }

    #[test]
    fn a_unit_that_ran_before_is_restarted_when_anything_was_changed_and_not_without() {
        let dir = tempfile::tempdir().unwrap();
        let (host, store) = (Host::open(dir.path()).unwrap(), Store::open(&dir.path().join("state")).unwrap());
        let silent = Vec::<Box<dyn Report>>::new();
        let work = Work { host: &host, store: &store, catalog: &[] };
        for (changed, restarted) in [(vec![], 0), (vec![(ResourceId::new("file", "/etc/x"), "content".to_owned())], 1)]
        {
            std::fs::create_dir_all(dir.path().join("etc/systemd/system")).unwrap();
            std::fs::write(dir.path().join("etc/systemd/system/x.service"), "").unwrap();
            let item = catalog("[[unit]]\nname = 'x.service'\n").unwrap().items.remove(0);
            let orphan = Orphan {
                claim: Claim::thing("unit", "x"),
                id: item.id.clone(),
                item,
                order: PruneOrder::Last,
                triggers: Vec::new(),
            };
            let mut run = Run::new(&work, &silent, "h1", PendingActions::default());
            run.changes = changed;
            run.all(&[(orphan, None)]).unwrap();
            assert_eq!(run.restarted.len(), restarted);
        }
    }

    /// Records of each change, when it is reported, whether there is a file by then.
    struct Watch(PathBuf, RefCell<Vec<bool>>);

    impl Report for Watch {
        fn event(&self, event: &Event<'_>) {
            if matches!(event, Event::Changed(..)) {
                self.1.borrow_mut().push(self.0.exists());
            }
        }
    }

    #[test]
    fn files_are_written_together_before_any_of_them_is_reported() {
        let file = |name: &str| format!("[[file]]\npath = 'DIR/{name}'\ncontent = 'x'\n");
        let machine = Machine::new(&format!("{}{}", file("one"), file("two")));
        let work = Work { host: &machine.host, store: &machine.store, catalog: &machine.catalog.items };
        let watch = Watch(machine.dir.path().join("two"), RefCell::default());
        Run::new(&work, &watch, "h1", PendingActions::default()).all(&[]).unwrap();
        assert_eq!(watch.1.take(), [true, true]);
    }

    #[test]
    fn a_command_runs_once_for_what_changed_and_again_until_it_succeeds() {
        let role = "[[file]]\npath = 'DIR/a'\ncontent = 'x'\n[[file]]\npath = 'DIR/b'\ncontent = 'x'\nnotify = ['run:count']\n\
                    [[command]]\nname = 'count'\non_change_of = ['file:DIR/a*']\n\
                    run = ['sh', '-c', 'echo >> DIR/count; test -e DIR/ok']\n";
        let machine = Machine::new(role);
        let count = || std::fs::read_to_string(machine.dir.path().join("count")).unwrap().len();
        for times in 1..=2 {
            let error = machine.run().1.unwrap_err().to_string();
            let why = "`count` failed: exit status: 1, without any output";
            assert_eq!((error.lines().next(), count()), (Some(why), times));
        }
        machine.make("ok");
        let (changed, ended) = machine.run();
        assert_eq!((changed, ended.unwrap(), count()), (vec!["command:count".to_owned()], 0, 3));
        assert_eq!((machine.run().0, count()), (vec![], 3));
        machine.remove("b");
        assert_eq!((machine.run().0.len(), count()), (2, 4));
    }

    #[test]
    fn a_change_that_is_due_again_at_once_was_made_all_the_same() {
        let machine = Machine::new("[[command]]\nname = 'always'\nrun = ['true']\nonly_if = ['true']\n");
        assert_eq!(machine.run().0, ["command:always"]);
    }
}
