//! The plan, carried out.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::Instant;

use jiff::Timestamp;

use crate::engine::plan::{Plan, difference, locate};
use crate::engine::slot::Slots;
use crate::error::{Error, Exit, Result};
use crate::host::{Host, is_unit_file};
use crate::kind::probe::Probe;
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
    let mut run = Run::new(&work, report, &plan.catalog.host, plan.owed.clone());
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

/// The paths that a resource alone decides about.
fn paths(item: &Item) -> Vec<PathBuf> {
    item.resource.claims().iter().filter_map(|claim| claim.strip_prefix("path:")).map(PathBuf::from).collect()
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

impl<'a> Run<'a> {
    fn new(work: &'a Work<'a>, report: &'a dyn Report, host: &'a str, owed: Owed) -> Self {
        let slots = Slots { work, report, host };
        Self { work, report, slots, owed, changes: Vec::new(), kicked: Vec::new() }
    }

    fn all(&mut self, items: &[Item]) -> Result<()> {
        if self.owed.unit_files {
            self.work.host.unit_files_changed();
        }
        let labels = self.work.host.root.labels();
        if self.work.host.is_live() && labels.is_on() {
            labels.expect(items.iter().flat_map(paths).collect());
        }
        let mut watchers: BTreeMap<String, Vec<(&str, Kick)>> = BTreeMap::new();
        for item in items {
            for (watched, kick) in item.resource.watches() {
                watchers.entry(watched).or_default().push((&item.id, kick));
            }
        }
        let mut gates: BTreeMap<String, Vec<&Item>> = BTreeMap::new();
        for item in items {
            for held in item.resource.before() {
                gates.entry(held).or_default().push(item);
            }
        }
        let mut changed: HashSet<&str> = HashSet::new();
        for item in items {
            let Some(change) =
                difference(item, self.work, &changed, &self.owed.kicks).map_err(|error| locate(error, item))?
            else {
                continue;
            };
            for gate in gates.get(&item.id).into_iter().flatten() {
                self.pass(gate, item)?;
            }
            let held = self.slots.before(item, &change).map_err(|error| locate(error, item))?;
            self.owe(item, watchers.get(&item.id).map_or(&[], Vec::as_slice))?;
            let applied = item.resource.apply(self.work, &change).map_err(|error| locate(error, item));
            if let Some(error) = labels.take_trouble() {
                self.report.event(&Event::Unlabelled(&error));
            }
            applied?;
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
        self.owed.unit_files |= paths(item).iter().any(|path| is_unit_file(path));
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

    /// Waits for the probe that `item` is not to be changed before. When it does not pass, the run ends there: what comes
    /// later may need what waits.
    fn pass(&self, gate: &Item, item: &Item) -> Result<()> {
        let Some(probe) = gate.resource.probe().filter(|_| self.work.host.is_live()) else { return Ok(()) };
        self.wait(gate, probe).map_err(|why| {
            let error = Error::new(format!("{} waits for {}", item.id, gate.id)).because(why).exit(Exit::Unhealthy);
            locate(error.help("it may be another host's turn; the next run goes on from here"), gate)
        })
    }

    fn wait(&self, item: &Item, probe: &Probe) -> Result<(), String> {
        self.report.event(&Event::Waiting(item));
        probe.wait(self.work)?;
        self.report.event(&Event::Passing(item));
        Ok(())
    }

    /// Waits for every probe that decides, if anything was changed since they all passed last.
    fn probe(&mut self, items: &[Item]) -> Result<(usize, Option<Error>)> {
        if !self.owed.probes || !self.work.host.is_live() {
            self.owed.probes = false;
            self.work.store.set_owed(&self.owed)?;
            return Ok((0, None));
        }
        let mut passed = 0;
        for item in items {
            let Some(probe) = item.resource.probe().filter(|probe| probe.decides()) else { continue };
            if let Err(why) = self.wait(item, probe) {
                let error = Error::new(format!("{} does not pass", item.id))
                    .because(why)
                    .exit(Exit::Unhealthy)
                    .help("everything was applied and stays so; the next run tries the probe again");
                return Ok((passed, Some(locate(error, item))));
            }
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
            let ended = run.all(items).and_then(|()| match run.probe(items)? {
                (passed, None) => Ok(passed),
                (_, Some(unhealthy)) => Err(unhealthy),
            });
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
        let planned = plan(&host, &store, catalog(role).unwrap()).unwrap();
        let work = Work { host: &host, store: &store, catalog: &planned.catalog.items };
        let mut run = Run::new(&work, &silent, "h1", planned.owed);
        run.all(&planned.catalog.items).unwrap();
        assert_eq!(run.changes.len(), 1);
    }
}
