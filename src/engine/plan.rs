//! The catalog against the host, as changes. A plan changes nothing.

use std::any::Any;

use crate::engine::check;
use crate::engine::fault::LeftOut;
use crate::engine::only::selected;
use crate::engine::orphan::Restoration;
use crate::engine::prelude::*;
use crate::engine::prior::PriorStates;
use crate::error::mask;
use crate::kind::Queries;
use crate::kind::package::remove_together;
use crate::resolve::clashes;

/// What an apply would do.
#[derive(Debug)]
pub struct Plan {
    /// The catalog.
    pub catalog: Catalog,
    /// Positions in the catalog, in order, each with its change.
    pub changes: Vec<(usize, Change)>,
    /// What no role wants any more.
    pub leftovers: Leftovers,
    /// Whether the release is not the last generation's, or an earlier run has not finished with it.
    pub is_new: bool,
    /// What the host had before kpull came; `None` when nothing needs restoring.
    pub prior: Option<PriorStates>,
    /// Resources that are paused.
    pub paused: Vec<Pause>,
    /// Resources that another setting on this host undoes at the next boot, or makes ineffective, by id, with that setting.
    pub overruled: Vec<(ResourceId, Error)>,
    /// What can't be observed, and what depends on it.
    pub left_out: LeftOut,
    /// Probes and slots that must answer before the release counts as good, by position; they are among the changes.
    pub new_checks: HashSet<usize>,
    /// Ids of resources that can't be compared, because the catalog has placeholders instead of secrets.
    pub uncompared: Vec<ResourceId>,
    /// What an earlier run left to do.
    pub pending: PendingActions,
    /// Positions of the resources that it is about; all of them when `None`.
    pub only: Option<HashSet<usize>>,
}

impl Plan {
    /// Whether an apply has nothing to do now.
    pub fn is_empty(&self) -> bool {
        // what stays for now is not due
        let due = PendingActions { orphans: false, ..self.pending.clone() };
        self.changes.is_empty() && self.leftovers.orphans.is_empty() && due == PendingActions::default()
    }

    /// What is restored, each with its change.
    pub fn restored(&self) -> impl Iterator<Item = (&Item, &Change)> {
        self.leftovers.orphans.iter().filter_map(|(orphan, change)| Some((&orphan.item, change.as_ref()?)))
    }
}

/// Compares a catalog with the host. `digest` is the release's, empty for a preview.
pub fn plan(host: &Host, store: &Store, catalog: Catalog, digest: &str) -> Result<Plan> {
    plan_part(host, store, catalog, digest, &[])
}

/// [`plan`] for the resources that some patterns name, and what these need: see [`selected`]. It restores nothing.
pub fn plan_part(host: &Host, store: &Store, catalog: Catalog, digest: &str, patterns: &[String]) -> Result<Plan> {
    let only = selected(&catalog.items, patterns)?;
    let is_out = |at: usize| only.as_ref().is_some_and(|only| !only.contains(&at));
    let pending = store.pending()?;
    let mut queries = Queries::default();
    for item in &catalog.items {
        item.resource.announce(&mut queries);
    }
    host.expect(queries);
    let work = Work { host, store, catalog: &catalog.items };
    let paused = Pause::now(store)?;
    let is_new = !(pending.release.is_none() && store.generation()?.is_some_and(|last| last.release == digest));
    let mut prior = None;
    let mut leftovers = Leftovers::default();
    if only.is_none() && (is_new || pending.orphans) {
        let known = prior.insert(PriorStates::load(store)?);
        leftovers = Leftovers::of(known, &work, &paused)?;
    }
    let mut changed = HashSet::new();
    let mut changes = Vec::new();
    let mut left_out = LeftOut::default();
    let mut new_checks = HashSet::new();
    let mut uncompared = Vec::new();
    // a tree has no probes
    let mut known_checks = None;
    if is_new && host.is_live() {
        let last_good = store.generations()?.into_iter().rev().find(|one| one.good);
        known_checks = Some(last_good.map(|one| one.checks).unwrap_or_default());
    }
    for clash in clashes(&catalog.items, |path| host.root.place_of(path)) {
        for at in clash.items.into_iter().filter(|at| !is_out(*at)) {
            left_out.add(at, clash.on_host(&catalog.items), &catalog.items)?;
        }
    }
    for (at, item) in catalog.items.iter().enumerate() {
        if paused.iter().any(|one| one.id == item.id) || is_out(at) || left_out.has(at) {
            continue;
        }
        let mut difference = difference(item, &work, &changed, &pending.triggers);
        if let Ok(Some(_)) = difference {
            difference = writable(item, host).and(difference);
        }
        if difference.is_err() && prior.as_ref().is_some_and(|prior: &PriorStates| prior.is_blocked(item)) {
            // apply observes it again after the obstacle is removed
            difference = Ok((item.about.kind != "absent").then(|| Change::new("create")));
        }
        match difference {
            Ok(None) => {
                if let Some(change) = known_checks.as_ref().and_then(|known| check::news(item, known)) {
                    new_checks.insert(at);
                    changes.push((at, change));
                }
            }
            Ok(Some(change)) if catalog.has_placeholders && item.is_secret && change.only_secrets => {
                uncompared.push(item.id.clone());
            }
            Ok(Some(change)) => {
                changed.insert(item.id.as_str());
                changes.push((at, change));
            }
            Err(error) => left_out.add(at, error, &catalog.items)?,
        }
    }
    drop(changed);
    let overruled = |item: &Item| {
        let error = item.resource.overruled(&work).unwrap_or_else(Some)?;
        Some((item.id.clone(), error))
    };
    let items = catalog.items.iter().enumerate().filter(|(at, _)| !is_out(*at));
    let overruled = items.filter_map(|(_, item)| overruled(item)).collect();
    Ok(Plan {
        is_new,
        changes,
        leftovers,
        prior,
        paused,
        overruled,
        left_out,
        new_checks,
        uncompared,
        pending,
        catalog,
        only,
    })
}

/// An error when a path that a resource claims can't be written at all.
fn writable(item: &Item, host: &Host) -> Result<()> {
    let mut paths = item.about.claims.iter().filter_map(Claim::any_path);
    paths.try_for_each(|path| host.root.check_writable(path)).map_err(|error| locate(error, item))
}

/// What no role wants any more.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// In the order in which they are restored, each with its change if known.
    pub orphans: Vec<Restoration>,
    /// Whether something stays for now: it is paused, or it can't be restored.
    pub stays: bool,
    /// What can't be restored, by the id of the resource that owned it, and why.
    pub lost: Vec<(ResourceId, Error)>,
    /// Whether there may be more, in artifacts that are not fetched yet.
    pub is_partial: bool,
}

impl Leftovers {
    /// Known objects that the catalog no longer contains.
    pub(super) fn of(known: &mut PriorStates, work: &Work<'_>, paused: &[Pause]) -> Result<Self> {
        let mut removed = HashSet::new();
        let (mut all, lost) = known.orphans(work);
        let is_partial = work.catalog.iter().any(|item| item.resource.owned(work).is_err());
        let mut leftovers = Self { lost, is_partial, ..Self::default() };
        let count = all.len();
        all.retain(|orphan| !paused.iter().any(|paused| paused.id == orphan.id));
        leftovers.stays = all.len() < count;
        remove_together(&mut all.iter_mut().map(|one| one.item.resource.as_mut() as &mut dyn Any).collect::<Vec<_>>());
        for orphan in all {
            let observed = match orphan.item.resource.observe(work) {
                Ok(observed) => observed,
                Err(error) => {
                    leftovers.lost.push((orphan.id, error));
                    continue;
                }
            };
            let others = leftovers.orphans.iter().any(|(_, change)| change.is_some());
            let observed = observed.map(|change| discreet(change, &orphan.item));
            let mut change = orphan.with_restart(observed, others);
            if change.is_none() {
                change = orphan.removal_once_empty(&removed, work.host)?;
            }
            if let Some(change) = &change {
                removed.extend(orphan.path());
                removed.extend(change.unlinks.iter().cloned());
            }
            leftovers.orphans.push((orphan, change));
        }
        leftovers.stays |= !leftovers.lost.is_empty();
        Ok(leftovers)
    }
}

/// The change of one resource, given what else has changed and which triggers are pending.
pub(super) fn difference(
    item: &Item,
    work: &Work<'_>,
    changed: &HashSet<&str>,
    pending: &BTreeMap<ResourceId, Trigger>,
) -> Result<Option<Change>> {
    let observed = item.resource.observe(work).map_err(|error| locate(error, item))?;
    let observed = observed.map(|change| discreet(change, item));
    let watched = item.about.watches.iter().filter(|(id, _)| changed.contains(id.as_str()));
    let trigger = watched.map(|(_, trigger)| *trigger).chain(pending.get(&item.id).copied()).max();
    let Some(trigger) = trigger else { return Ok(observed) };
    let Some(trigger) = item.resource.answer(work, trigger).map_err(|error| locate(error, item))? else {
        return Ok(observed);
    };
    let change = observed.unwrap_or_else(|| Change::new(trigger.to_string()));
    Ok(Some(Change { trigger: change.trigger.max(Some(trigger)), ..change }))
}

/// The change without any secret.
fn discreet(change: Change, item: &Item) -> Change {
    let summary = match item.is_secret && !item.about.is_discreet {
        true => "change (not shown: a secret is in it)".to_owned(),
        false => mask::hide(&change.summary).into_owned(),
    };
    // kinds that hold secrets say themselves that they show none
    Change { summary, diff: change.diff.filter(|_| !item.is_secret || item.about.is_discreet), ..change }
}

/// Adds to an error about a resource where that is written, unless the error has a better place.
pub(super) fn locate(error: Error, item: &Item) -> Error {
    if error.place().is_some() {
        return error;
    }
    error.at(item.place.clone(), format!("{} of the role {}", item.id, item.role))
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::*;
    use crate::engine::testing::TestTree;
    use crate::kind::diff::Diff;
    use crate::resolve::testing::catalog;

    #[test]
    fn a_change_with_a_secret_in_it_is_shown_only_for_kinds_that_show_no_fields() {
        let link = "[[symlink]]\npath = \"/l\"\ntarget = \"t\"\n";
        let file = "[[file]]\npath = \"/f\"\ncontent = \"t\"\n";
        let shown = |role: &str, is_secret| {
            let mut item = catalog(role).unwrap().items.remove(0);
            item.is_secret = is_secret;
            let change =
                Change { diff: Diff::of([], *b"t\n", false), trigger: Some(Trigger::Reload), ..Change::new("to t") };
            let Change { summary, diff, trigger, .. } = discreet(change, &item);
            assert_eq!(trigger, Some(Trigger::Reload));
            (summary, diff.map(|diff| diff.to_string()))
        };
        let all = ("to t".to_owned(), Some("@@ -0,0 +1 @@\n+t\n".to_owned()));
        assert_eq!(shown(link, true), ("change (not shown: a secret is in it)".to_owned(), None));
        assert_eq!((shown(link, false), shown(file, true), shown(file, false)), (all.clone(), all.clone(), all));
    }

    #[test]
    fn a_pending_trigger_is_a_change_or_joins_another_and_does_nothing_in_a_tree() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let items = catalog(&format!("[[file]]\npath = {path:?}\ncontent = 'x'\n")).unwrap().items;
        let store = Store::open(&dir.path().join("state")).unwrap();
        let planned = |root: &str, pending: Option<Trigger>| {
            let host = Host::open(root.as_ref()).unwrap();
            let work = Work { host: &host, store: &store, catalog: &items };
            let pending = pending.map(|trigger| (items[0].id.clone(), trigger)).into_iter().collect();
            let change = difference(&items[0], &work, &HashSet::new(), &pending).unwrap();
            change.map(|change| (change.summary, change.trigger))
        };
        let (made, trigger) = planned("/", None).unwrap();
        assert_eq!(trigger, None);
        assert_eq!(planned("/", Some(Trigger::Reload)), Some((made, Some(Trigger::Reload))));
        std::fs::write(&path, "x").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(planned("/", None), None);
        assert_eq!(planned("/", Some(Trigger::Reload)), Some(("reload".to_owned(), Some(Trigger::Reload))));
        assert_eq!(planned("/", Some(Trigger::Restart)), Some(("restart".to_owned(), Some(Trigger::Restart))));
        let tree = tempfile::tempdir().unwrap();
        let inside = tree.path().join(path.strip_prefix("/").unwrap());
        std::fs::create_dir_all(inside.parent().unwrap()).unwrap();
        std::fs::copy(&path, inside).unwrap();
        assert_eq!(planned(tree.path().to_str().unwrap(), Some(Trigger::Restart)), None);
    }

    /// The plan of the release `digest` whose one role says this.
    fn planned(tree: &TestTree, role: &str, digest: &str) -> Plan {
        plan(&tree.host, &tree.store, catalog(role).unwrap(), digest).unwrap()
    }

    /// Adds a generation of `release`, and the prior state of a file that it had.
    fn reach(tree: &TestTree, release: &str) {
        tree.add_generation(1, release);
        tree.remember(X);
    }

    const X: &str = "[[file]]\npath = '/x'\ncontent = 'x'\n";

    #[test]
    fn a_release_is_new_until_a_run_has_finished_with_it() {
        let tree = TestTree::new();
        assert!(planned(&tree, "", "d").is_new, "nothing was applied yet");
        reach(&tree, "d");
        assert!(!planned(&tree, "", "d").is_new);
        assert!(planned(&tree, "", "e").is_new);
        tree.store.set_pending(&PendingActions { release: Some("d".to_owned()), ..PendingActions::default() }).unwrap();
        assert!(planned(&tree, "", "d").is_new);
        tree.store.set_pending(&PendingActions { orphans: true, ..PendingActions::default() }).unwrap();
        assert!(!planned(&tree, "", "d").is_new, "something is paused, and all else is done");
    }

    #[test]
    fn orphans_are_looked_for_with_a_new_release_and_while_some_are_paused() {
        let tree = TestTree::new();
        reach(&tree, "d");
        let orphans = |digest: &str| {
            let plan = planned(&tree, "", digest);
            let ids: Vec<ResourceId> = plan.leftovers.orphans.into_iter().map(|(one, _)| one.id).collect();
            (ids, plan.leftovers.stays, plan.prior.is_some())
        };
        let x = || vec![ResourceId::new("file", "/x")];
        assert_eq!(orphans("d"), (vec![], false, false), "there can be no orphan");
        assert_eq!(orphans("e"), (x(), false, true));
        assert_eq!(planned(&tree, "", "e").restored().count(), 0, "/x does not exist");
        std::fs::write(tree.dir.path().join("x"), "x").unwrap();
        assert_eq!(planned(&tree, "", "e").restored().next().unwrap().0.id, "absent:/x");
        tree.store.set_pending(&PendingActions { orphans: true, ..PendingActions::default() }).unwrap();
        assert_eq!(orphans("d"), (x(), false, true), "its pause is over");
        let pause = |path: &str| {
            let (since, until) = (Timestamp::now(), Timestamp::now() + SignedDuration::from_hours(1));
            Pause { id: ResourceId::new("file", path), since, until, why: "why".to_owned() }.save(&tree.store).unwrap();
        };
        pause("/y");
        assert_eq!(orphans("d"), (x(), false, true), "another one is paused");
        pause("/x");
        assert_eq!(orphans("d"), (vec![], true, true));
    }

    #[test]
    fn a_plan_is_empty_when_nothing_is_to_be_changed_or_restored_and_nothing_is_due() {
        let tree = TestTree::new();
        reach(&tree, "d");
        assert!(planned(&tree, "", "d").is_empty());
        assert!(!planned(&tree, X, "d").is_empty(), "a change");
        assert!(!planned(&tree, "", "e").is_empty(), "something to restore");
        tree.store.set_pending(&PendingActions { probes: true, ..PendingActions::default() }).unwrap();
        assert!(!planned(&tree, "", "d").is_empty());
        tree.store.set_pending(&PendingActions { orphans: true, ..PendingActions::default() }).unwrap();
        assert!(!planned(&tree, "", "d").is_empty(), "its pause is over");
        let mut plan = planned(&tree, "", "d");
        plan.leftovers.orphans.clear();
        assert!(plan.is_empty(), "it is paused");
    }
}
