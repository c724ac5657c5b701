//! The catalog against the host, as changes. Nothing is changed by looking.

use std::any::Any;
use std::collections::{BTreeMap, HashSet};

use crate::engine::check;
use crate::engine::fault::LeftOut;
use crate::engine::prior::{Orphan, PriorStates};
use crate::error::{Error, Result, mask};
use crate::host::Host;
use crate::kind::package::remove_together;
use crate::kind::{Change, Claim, Item, Queries, Trigger, Work};
use crate::resolve::{Catalog, clashes};
use crate::store::{Pause, PendingActions, Store};

/// What an apply would do.
#[derive(Debug)]
pub struct Plan {
    /// The catalog.
    pub catalog: Catalog,
    /// Positions in the catalog, in order, with what is to be done there.
    pub changes: Vec<(usize, Change)>,
    /// What no role wants any more.
    pub leaving: Leftovers,
    /// Whether the release is not the last generation's, or an earlier run has not come to an end with it.
    pub is_new: bool,
    /// What stood on the host before kpull came; `None` when the catalog has all of that.
    pub before: Option<PriorStates>,
    /// Resources that are left alone for a while.
    pub held: Vec<Pause>,
    /// What something else on this host will undo at the next boot, by id, and what that is.
    pub overruled: Vec<(String, Error)>,
    /// What can't be observed, and what depends on it.
    pub left_out: LeftOut,
    /// Probes and slots that have to answer before the release counts as good, by position; they are among the changes.
    pub news: HashSet<usize>,
    /// Ids of resources of which it can't be told whether they differ, since the catalog has placeholders in place of secrets.
    pub uncompared: Vec<String>,
    /// What an earlier run left owed.
    pub owed: PendingActions,
}

impl Plan {
    /// Whether an earlier run has left nothing to do, but for what stays for now.
    pub fn is_owed_nothing(&self) -> bool {
        PendingActions { gone: false, ..self.owed.clone() } == PendingActions::default()
    }

    /// Whether the host is as it should be, and owed nothing now.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.leaving.gone.is_empty() && self.is_owed_nothing()
    }

    /// What is given back, with what is to be done.
    pub fn given_back(&self) -> impl Iterator<Item = (&Item, &Change)> {
        self.leaving.gone.iter().filter_map(|(one, change)| Some((&one.item, change.as_ref()?)))
    }
}

/// Compares a catalog with the host. `digest` is the release's, empty for a preview.
pub fn plan(host: &Host, store: &Store, catalog: Catalog, digest: &str) -> Result<Plan> {
    let owed = store.owed()?;
    let mut wants = Queries::default();
    for item in &catalog.items {
        item.resource.announce(&mut wants);
    }
    host.expect(wants);
    let work = Work { host, store, catalog: &catalog.items };
    let held = Pause::now(store)?;
    let is_new = !(owed.release.is_none() && store.generation()?.is_some_and(|last| last.release == digest));
    let mut before = None;
    let mut leaving = Leftovers::default();
    if is_new || owed.gone {
        let mut known = PriorStates::load(store)?;
        leaving = Leftovers::of(&mut known, &work, &held)?;
        before = Some(known);
    }
    let is_held = |id: &str| held.iter().any(|one| one.id == id);
    let mut changed = HashSet::new();
    let mut changes = Vec::new();
    let mut left_out = LeftOut::default();
    let mut news = HashSet::new();
    let mut uncompared = Vec::new();
    // a tree has no probes
    let known = match is_new && host.is_live() {
        true => {
            Some(store.generations()?.into_iter().rev().find(|one| one.good).map(|one| one.checks).unwrap_or_default())
        }
        false => None,
    };
    for clash in clashes(&catalog.items, |path| host.root.place_of(path)) {
        for at in clash.items {
            left_out.add(at, clash.on_host(&catalog.items), &catalog.items)?;
        }
    }
    for (at, item) in catalog.items.iter().enumerate() {
        if is_held(&item.id) || left_out.has(at) {
            continue;
        }
        let is_in_way = before.as_ref().is_some_and(|before: &PriorStates| before.is_in_way_of(item));
        let difference = difference(item, &work, &changed, &owed.kicks)
            .and_then(|change| if change.is_some() { writable(item, host).map(|()| change) } else { Ok(None) });
        let difference = match difference {
            // looked at again when that has gone
            Err(_) if is_in_way => Ok((item.about.kind != "absent").then(|| Change::new("create"))),
            difference => difference,
        };
        match difference {
            Ok(None) => {
                if let Some(change) = known.as_ref().and_then(|known| check::news(item, known)) {
                    news.insert(at);
                    changes.push((at, change));
                }
            }
            Ok(Some(change)) if catalog.is_sealed && item.is_secret && change.only_secrets => {
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
    let overruled = catalog.items.iter().filter_map(overruled).collect();
    Ok(Plan { is_new, changes, leaving, before, held, overruled, left_out, news, uncompared, owed, catalog })
}

/// An error when a path that a resource decides about can't be written at all.
fn writable(item: &Item, host: &Host) -> Result<()> {
    let mut paths = item.about.claims.iter().filter_map(Claim::any_path);
    paths.try_for_each(|path| host.root.check_writable(path)).map_err(|error| locate(error, item))
}

/// What no role wants any more.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// That, in the order in which it is given back, with what is to be done, if that can be told.
    pub gone: Vec<(Orphan, Option<Change>)>,
    /// Whether something stays for now: it is held, or it can't be restored.
    pub stays: bool,
    /// What can't be restored, by the id of the resource that had it, and why.
    pub lost: Vec<(String, Error)>,
    /// Whether there may be more, in artifacts that are not here yet.
    pub is_partial: bool,
}

impl Leftovers {
    /// What the catalog has no more of all that is known.
    pub(super) fn of(known: &mut PriorStates, work: &Work<'_>, held: &[Pause]) -> Result<Self> {
        let mut leaves = HashSet::new();
        let (mut all, lost) = known.gone(work);
        let is_partial = work.catalog.iter().any(|item| item.owned(work).is_err());
        let mut leaving = Self { lost, is_partial, ..Self::default() };
        let before = all.len();
        all.retain(|one| !held.iter().any(|held| held.id == one.id));
        leaving.stays = all.len() < before;
        remove_together(&mut all.iter_mut().map(|one| one.item.resource.as_mut() as &mut dyn Any).collect::<Vec<_>>());
        for one in all {
            let observed = match one.item.resource.observe(work) {
                Ok(observed) => observed,
                Err(error) => {
                    leaving.lost.push((one.id, error));
                    continue;
                }
            };
            let others = leaving.gone.iter().any(|(_, change)| change.is_some());
            let change = observed.map(|change| discreet(change, &one.item)).or_else(|| one.restart(others));
            let change = match change {
                None => one.empties(&leaves, work.host)?,
                change => change,
            };
            if let Some(change) = &change {
                leaves.extend(one.path());
                leaves.extend(change.unlinks.iter().cloned());
            }
            leaving.gone.push((one, change));
        }
        leaving.stays |= !leaving.lost.is_empty();
        Ok(leaving)
    }
}

/// What is to be done about one resource, given what else has changed and what it is owed.
pub(super) fn difference(
    item: &Item,
    work: &Work<'_>,
    changed: &HashSet<&str>,
    owed: &BTreeMap<String, Trigger>,
) -> Result<Option<Change>> {
    let observed = item.resource.observe(work).map_err(|error| locate(error, item))?;
    let observed = observed.map(|change| discreet(change, item));
    let watched = item.about.watches.iter();
    let trigger = watched
        .filter(|(id, _)| changed.contains(id.as_str()))
        .map(|(_, trigger)| *trigger)
        .chain(owed.get(&item.id).copied())
        .max();
    let Some(trigger) = trigger else { return Ok(observed) };
    let Some(trigger) = item.resource.answer(work, trigger).map_err(|error| locate(error, item))? else {
        return Ok(observed);
    };
    let word = match trigger {
        Trigger::Reload => "reload",
        Trigger::Restart => "restart",
    };
    Ok(Some(match observed {
        Some(change) => Change { trigger: change.trigger.max(Some(trigger)), ..change },
        None => Change { trigger: Some(trigger), ..Change::new(word) },
    }))
}

/// The change with nothing of a secret in it.
fn discreet(change: Change, item: &Item) -> Change {
    let summary = match item.is_secret && !item.about.is_discreet {
        true => "change (not shown: a secret is in it)".to_owned(),
        false => mask::hide(&change.summary).into_owned(),
    };
    // those with a secret say themselves that they show nothing
    Change { summary, diff: change.diff.filter(|_| !item.is_secret || item.about.is_discreet), ..change }
}

/// Gives an error about a resource the place where it is written, unless it has a better one.
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
    fn of_what_has_a_secret_in_it_only_kinds_that_show_none_of_their_fields_are_shown() {
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
    fn what_is_owed_is_a_change_of_its_own_or_goes_with_another_and_is_nothing_in_a_tree() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let items = catalog(&format!("[[file]]\npath = {path:?}\ncontent = 'x'\n")).unwrap().items;
        let store = Store::open(&dir.path().join("state")).unwrap();
        let look = |root: &str, owed: Option<Trigger>| {
            let host = Host::open(root.as_ref()).unwrap();
            let work = Work { host: &host, store: &store, catalog: &items };
            let owed = owed.map(|trigger| (items[0].id.clone(), trigger)).into_iter().collect();
            let change = difference(&items[0], &work, &HashSet::new(), &owed).unwrap();
            change.map(|change| (change.summary, change.trigger))
        };
        let (made, trigger) = look("/", None).unwrap();
        assert_eq!(trigger, None);
        assert_eq!(look("/", Some(Trigger::Reload)), Some((made, Some(Trigger::Reload))));
        std::fs::write(&path, "x").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(look("/", None), None);
        assert_eq!(look("/", Some(Trigger::Reload)), Some(("reload".to_owned(), Some(Trigger::Reload))));
        assert_eq!(look("/", Some(Trigger::Restart)), Some(("restart".to_owned(), Some(Trigger::Restart))));
        let tree = tempfile::tempdir().unwrap();
        let inside = tree.path().join(path.strip_prefix("/").unwrap());
        std::fs::create_dir_all(inside.parent().unwrap()).unwrap();
        std::fs::copy(&path, inside).unwrap();
        assert_eq!(look(tree.path().to_str().unwrap(), Some(Trigger::Restart)), None);
    }

    /// The plan of the release `digest` whose one role says this.
    fn planned(world: &TestTree, role: &str, digest: &str) -> Plan {
        plan(&world.host, &world.store, catalog(role).unwrap(), digest).unwrap()
    }

    /// Has `release` as the last generation's, and a file that it had remembered.
    fn reach(world: &TestTree, release: &str) {
        world.add_generation(1, release);
        world.remember(X);
    }

    const X: &str = "[[file]]\npath = '/x'\ncontent = 'x'\n";

    #[test]
    fn a_release_is_new_until_a_run_has_come_to_its_end_with_it() {
        let world = TestTree::new();
        assert!(planned(&world, "", "d").is_new, "nothing was applied yet");
        reach(&world, "d");
        assert!(!planned(&world, "", "d").is_new);
        assert!(planned(&world, "", "e").is_new);
        world.store.set_owed(&PendingActions { release: Some("d".to_owned()), ..PendingActions::default() }).unwrap();
        assert!(planned(&world, "", "d").is_new);
        world.store.set_owed(&PendingActions { gone: true, ..PendingActions::default() }).unwrap();
        assert!(!planned(&world, "", "d").is_new, "something is held, and all else is done");
    }

    #[test]
    fn what_is_gone_is_looked_for_with_a_new_release_and_while_some_of_it_is_held() {
        let world = TestTree::new();
        reach(&world, "d");
        let gone = |digest: &str| {
            let plan = planned(&world, "", digest);
            let ids: Vec<String> = plan.leaving.gone.into_iter().map(|(one, _)| one.id).collect();
            (ids, plan.leaving.stays, plan.before.is_some())
        };
        let x = || vec!["file:/x".to_owned()];
        assert_eq!(gone("d"), (vec![], false, false), "nothing can be gone");
        assert_eq!(gone("e"), (x(), false, true));
        assert_eq!(planned(&world, "", "e").given_back().count(), 0, "there is nothing at /x");
        std::fs::write(world.dir.path().join("x"), "x").unwrap();
        assert_eq!(planned(&world, "", "e").given_back().next().unwrap().0.id, "absent:/x");
        world.store.set_owed(&PendingActions { gone: true, ..PendingActions::default() }).unwrap();
        assert_eq!(gone("d"), (x(), false, true), "its time is over");
        let hold = |id: &str| {
            let (since, until) = (Timestamp::now(), Timestamp::now() + SignedDuration::from_hours(1));
            Pause { id: id.to_owned(), since, until, why: "why".to_owned() }.save(&world.store).unwrap();
        };
        hold("file:/y");
        assert_eq!(gone("d"), (x(), false, true), "another one is held");
        hold("file:/x");
        assert_eq!(gone("d"), (vec![], true, true));
    }

    #[test]
    fn a_plan_is_empty_when_nothing_is_to_be_done_or_given_back_and_nothing_owed_but_what_is_held() {
        let world = TestTree::new();
        reach(&world, "d");
        assert!(planned(&world, "", "d").is_empty());
        assert!(!planned(&world, X, "d").is_empty(), "a change");
        assert!(!planned(&world, "", "e").is_empty(), "something to give back");
        world.store.set_owed(&PendingActions { probes: true, ..PendingActions::default() }).unwrap();
        assert!(!planned(&world, "", "d").is_empty());
        world.store.set_owed(&PendingActions { gone: true, ..PendingActions::default() }).unwrap();
        assert!(!planned(&world, "", "d").is_empty(), "its time is over");
        let mut plan = planned(&world, "", "d");
        plan.leaving.gone.clear();
        assert!(plan.is_empty(), "it is held");
    }
}
