//! Orphans: what no role defines any more, and when in a run it is restored.

use crate::engine::prelude::*;

/// Something that no role defines any more, to be restored.
#[derive(Debug)]
pub struct Orphan {
    /// What the resource owned.
    pub claim: Claim,
    /// The resource that owned it.
    pub id: ResourceId,
    /// The resource that restores it.
    pub item: Item,
    /// When it is restored.
    pub order: PruneOrder,
    /// Units that the restoration triggers.
    pub triggers: Vec<(ResourceId, Trigger)>,
}

/// When in a run an orphan is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PruneOrder {
    /// Before everything else: a unit that must stop.
    First,
    /// After the files, and before the first unit or command.
    Middle,
    /// After all units: a unit that ran before, and packages.
    Last,
}

/// An orphan, and the change that restores what was there before; `None` if nothing differs.
pub type Restoration = (Orphan, Option<Change>);

impl Orphan {
    /// The observed change, with the restart of a unit that ran before and still runs, when what it runs with is restored.
    pub fn with_restart(&self, observed: Option<Change>, with_others: bool) -> Option<Change> {
        if !(with_others && self.order == PruneOrder::Last && self.item.about.kind == "unit") {
            return observed;
        }
        let change = match observed {
            Some(change) if change.summary.contains("start") => change,
            Some(change) => Change { summary: format!("{}, restart", change.summary), ..change },
            None => Change::new("restart"),
        };
        Some(Change { trigger: Some(Trigger::Restart), ..change })
    }

    /// The path that it is about.
    pub fn path(&self) -> Option<PathBuf> {
        self.claim.any_path().map(Path::to_owned)
    }

    /// The removal of a directory that has nothing in it but `removed` paths.
    pub fn removal_once_empty(&self, removed: &HashSet<PathBuf>, host: &Host) -> Result<Option<Change>> {
        let Some(path) = self.path().filter(|_| self.item.about.kind == "absent") else { return Ok(None) };
        let names = host.root.names(&path)?;
        let all = !names.is_empty() && names.iter().all(|name| removed.contains(&path.join(name)));
        Ok(all.then(|| Change::removal("remove the directory")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::TestTree;
    use crate::resolve::testing::catalog;

    const FILE: &str = "[[file]]\npath = '/etc/x'\ncontent = 'x'\n";

    #[test]
    fn only_a_unit_that_ran_before_is_restarted_when_what_it_runs_with_is_restored() {
        let orphan = |role: &str, order: PruneOrder| {
            let item = catalog(role).unwrap().items.into_iter().next().unwrap();
            Orphan { claim: Claim::thing("m", "x"), id: item.id.clone(), item, order, triggers: Vec::new() }
        };
        let unit = "[[unit]]\nname = 'x.service'\n";
        let restart = orphan(unit, PruneOrder::Last).with_restart(None, true).unwrap();
        assert_eq!((restart.summary.as_str(), restart.trigger), ("restart", Some(Trigger::Restart)));
        for (observed, summary) in [("disable", "disable, restart"), ("start", "start")] {
            let change = orphan(unit, PruneOrder::Last).with_restart(Some(Change::new(observed)), true).unwrap();
            assert_eq!((change.summary.as_str(), change.trigger), (summary, Some(Trigger::Restart)));
        }
        assert!(orphan(unit, PruneOrder::Last).with_restart(None, false).is_none());
        assert!(orphan(unit, PruneOrder::First).with_restart(None, true).is_none());
        assert!(orphan(FILE, PruneOrder::Last).with_restart(None, true).is_none());
    }

    #[test]
    fn a_directory_goes_when_all_that_is_in_it_goes() {
        let tree = TestTree::new();
        std::fs::create_dir(tree.dir.path().join("etc")).unwrap();
        std::fs::write(tree.dir.path().join("etc/x"), "theirs").unwrap();
        std::fs::create_dir(tree.dir.path().join("empty")).unwrap();
        let empties = |role: &str, path: &str, removed: &[&str]| {
            let item = catalog(role).unwrap().items.remove(0);
            let orphan = Orphan {
                claim: Claim::path(path),
                id: item.id.clone(),
                item,
                order: PruneOrder::Middle,
                triggers: Vec::new(),
            };
            let removed = removed.iter().map(PathBuf::from).collect();
            orphan.removal_once_empty(&removed, &tree.host).unwrap().map(|change| change.summary)
        };
        let absent = "[[absent]]\npath = '/etc'\n";
        assert_eq!(empties(absent, "/etc", &["/etc/x"]).as_deref(), Some("remove the directory"));
        assert_eq!(empties(absent, "/etc", &["/etc/y"]), None);
        assert_eq!(empties(absent, "/empty", &[]), None, "observing it shows that");
        assert_eq!(empties(FILE, "/etc", &["/etc/x"]), None);
    }
}
