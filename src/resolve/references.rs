//! The ids by which resources name one another: patterns, `notify`, and names that no resource of the host has.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::error::{Error, code};
use crate::kind::command::Run;
use crate::kind::probe::Probe;
use crate::kind::slot::Slot;
use crate::kind::{Item, ResourceId, Trigger};
use crate::text::fits;

/// A pattern that matches no resource of a host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unmatched {
    /// The pattern.
    pub pattern: String,
    /// The resource that has it.
    pub id: ResourceId,
}

/// What a `notify` triggers, and the id that it names; an error that says what to write.
pub(super) fn notification(text: &str) -> Result<(String, Trigger), String> {
    let verb = text.split_once(':').filter(|(_, name)| !name.is_empty());
    let (kind, name, trigger) = match verb {
        Some(("restart", name)) => ("unit", name, Trigger::Restart),
        Some(("reload", name)) => ("unit", name, Trigger::Reload),
        Some(("run", name)) => ("command", name, Trigger::Run),
        _ => return Err(format!("`{text}` is not `restart:UNIT`, `reload:UNIT` or `run:COMMAND`")),
    };
    Ok((format!("{kind}:{name}"), trigger))
}

/// The ids of a host's resources.
struct Ids {
    all: Vec<ResourceId>,
    positions: HashMap<ResourceId, usize>,
}

impl Ids {
    fn of(items: &[Item]) -> Self {
        let all: Vec<ResourceId> = items.iter().map(|item| item.id.clone()).collect();
        let positions = all.iter().enumerate().map(|(at, id)| (id.clone(), at)).collect();
        Self { all, positions }
    }

    /// The ids that a pattern matches, without the one of the resource that has it; `None` for what is no pattern.
    fn matching(&self, wanted: &str, own: &ResourceId) -> Option<Vec<String>> {
        let is_pattern = wanted.contains('*') && !self.positions.contains_key(wanted);
        let found = || {
            self.all.iter().filter(|id| *id != own && fits(id.as_str(), wanted)).map(ResourceId::to_string).collect()
        };
        is_pattern.then(found)
    }
}

/// Adds the triggers of each `notify` to what it names, and puts ids in the place of patterns. Returns the patterns without a match, but
/// for those in `needs`, which may be for other hosts; and the errors.
pub(super) fn connect(items: &mut [Item]) -> (BTreeSet<Unmatched>, Vec<Error>) {
    let (mut unmatched, mut errors) = (BTreeSet::new(), Vec::new());
    let refers = |item: &Item| {
        let listed = item.after.iter().chain(&item.needs).chain(&item.about.before);
        let mut all = listed.chain(item.about.watches.iter().map(|(id, _)| id));
        !item.notify.is_empty() || all.any(|id| id.contains('*'))
    };
    if items.iter().any(refers) {
        let ids = Ids::of(items);
        for item in items.iter_mut() {
            let mut lacks = |pattern: &str| {
                unmatched.insert(Unmatched { pattern: pattern.to_owned(), id: item.id.clone() });
            };
            let matching = |id: &String| ids.matching(id, &item.id);
            expand(&mut item.after, matching, |id| lacks(id));
            expand(&mut item.about.before, matching, |id| lacks(id));
            // a pattern that matches nothing here may be for other hosts
            expand(&mut item.needs, |id| matching(id).filter(|all| !all.is_empty()), |_| {});
            let with =
                |(id, trigger): &(String, Trigger)| Some(matching(id)?.into_iter().map(|id| (id, *trigger)).collect());
            expand(&mut item.about.watches, with, |(id, _)| lacks(id));
        }
        errors.extend(notify(items, &ids, &mut unmatched));
    }
    errors.extend(items.iter().filter(|item| lacks_reason(item)).map(|item| {
        let help = format!(
            "set `creates`, `unless` or `only_if`; or `on_change_of` to ids of resources; or `notify = [\"run:{}\"]` in a resource",
            item.about.key
        );
        dangling(item, format!("nothing defines when to run `{}`", item.id)).help(help)
    }));
    (unmatched, errors)
}

/// Replaces each entry for which `matching` returns a list by that list; `lacks` gets an entry whose list is empty.
fn expand<T: PartialEq>(list: &mut Vec<T>, matching: impl Fn(&T) -> Option<Vec<T>>, mut lacks: impl FnMut(&T)) {
    for one in std::mem::take(list) {
        let found = matching(&one);
        if found.as_ref().is_some_and(Vec::is_empty) {
            lacks(&one);
        }
        for one in found.unwrap_or_else(|| vec![one]) {
            if !list.contains(&one) {
                list.push(one);
            }
        }
    }
}

/// Adds the triggers of each `notify` to what it names. Returns an error for each name that no resource has.
fn notify(items: &mut [Item], ids: &Ids, unmatched: &mut BTreeSet<Unmatched>) -> Vec<Error> {
    let (mut triggers, mut errors, mut known) = (Vec::new(), Vec::new(), HashSet::new());
    for item in items.iter() {
        for (target, trigger) in &item.notify {
            let found = ids.matching(target, &item.id);
            let is_pattern = found.is_some();
            let found: Vec<usize> = found
                .unwrap_or_else(|| vec![target.clone()])
                .iter()
                .filter_map(|id| ids.positions.get(id.as_str()))
                .copied()
                .collect();
            if found.is_empty() && is_pattern {
                unmatched.insert(Unmatched { pattern: target.clone(), id: item.id.clone() });
            } else if found.is_empty() && known.insert((item.place.to_string(), target)) {
                let what = format!("`{}` notifies `{target}`, but this host has no such resource", item.id);
                let kind = target.split(':').next().unwrap_or_default();
                let same = ids.all.iter().filter(|id| id.kind() == kind).map(ResourceId::as_str);
                let advice = "`notify` names a unit or a command that a role of this host defines";
                errors.push(dangling(item, what).help_nearest(target, same, advice));
            }
            triggers.extend(found.into_iter().map(|at| (at, item.id.clone(), *trigger)));
        }
    }
    for (at, id, trigger) in triggers.into_iter().filter(|(at, id, _)| ids.all[*at] != *id) {
        let watches = &mut items[at].about.watches;
        let watch = (id.to_string(), trigger);
        if !watches.contains(&watch) {
            watches.push(watch);
        }
    }
    errors
}

/// Whether a command is never run.
fn lacks_reason(item: &Item) -> bool {
    item.about.watches.is_empty() && item.as_kind::<Run>().is_some_and(Run::lacks_reason)
}

/// An error for each slot, and each probe of a slot, that does not exist.
pub(super) fn without_slot(items: &[Item]) -> Vec<Error> {
    let slots: Vec<(&Item, &Slot)> = items.iter().filter_map(|item| Some((item, item.as_kind()?))).collect();
    let probes: Vec<&str> =
        items.iter().filter(|item| item.as_kind::<Probe>().is_some()).map(|item| item.id.as_str()).collect();
    let names: Vec<&str> = slots.iter().map(|(_, slot)| slot.name.as_str()).collect();
    let wanted = items.iter().filter_map(|item| Some((item, item.about.slot.as_deref()?)));
    let missing = |(item, name): (&Item, &str)| {
        let what = format!("`{}` waits for the slot `{name}`, but this host has no such slot", item.id);
        dangling(item, what).help_nearest(name, names.iter().copied(), "add a [[slot]] with this name to the role")
    };
    let unnamed = wanted.filter(|(_, name)| !names.contains(name)).map(missing);
    let until = slots.iter().flat_map(|(item, slot)| slot.until.iter().map(move |id| (item, id.as_str())));
    let unpassed = until.filter(|(_, id)| !probes.contains(id)).map(|(item, id)| {
        let what = format!("`{}` is kept until `{id}` passes, but this host has no such probe", item.id);
        dangling(item, what).help_nearest(id, probes.iter().copied(), "the id of a probe is `probe:NAME`")
    });
    unnamed.chain(unpassed).collect()
}

/// An error for each watch or gate that names no resource: the restart would never come.
pub(super) fn unknown(items: &[Item]) -> Vec<Error> {
    let ids: HashSet<&str> = items.iter().map(|item| item.id.as_str()).collect();
    let mut errors = Vec::new();
    for item in items {
        let watched = item.about.watches.iter().map(|(id, _)| ("watches", id));
        let gated = item.about.before.iter().map(|id| ("is a gate before", id));
        for (verb, id) in watched.chain(gated).filter(|(_, id)| !ids.contains(id.as_str())) {
            let what = format!("`{}` {verb} `{id}`, but this host has no such resource", item.id);
            let advice = "the id of a resource is KIND:KEY, like `template:/etc/etcd/etcd.env`";
            errors.push(dangling(item, what).help_nearest(id, ids.iter().copied(), advice));
        }
    }
    errors
}

/// The error of a resource that names another which does not exist.
pub(super) fn dangling(item: &Item, what: String) -> Error {
    Error::new(code::UNKNOWN, what).at(item.place.clone(), "this resource")
}
