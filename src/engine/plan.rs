//! The catalog against the host, as changes. Nothing is changed by looking.

use std::collections::{BTreeMap, HashSet};

use crate::error::Result;
use crate::host::Host;
use crate::kind::{Change, Item, Kick, Wants, Work};
use crate::resolve::Catalog;
use crate::secret::mask;
use crate::store::{Owed, Store};

/// What an apply would do.
#[derive(Debug)]
pub struct Plan {
    /// The catalog.
    pub catalog: Catalog,
    /// Positions in the catalog, in order, with what is to be done there.
    pub changes: Vec<(usize, Change)>,
    /// What an earlier run left owed.
    pub owed: Owed,
}

impl Plan {
    /// Whether the host is as it should be, and owed nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.owed == Owed::default()
    }
}

/// Compares a catalog with the host.
pub fn plan(host: &Host, store: &Store, catalog: Catalog) -> Result<Plan> {
    let owed = store.owed()?;
    let mut wants = Wants::default();
    for item in &catalog.items {
        item.resource.announce(&mut wants);
    }
    host.expect(wants);
    let work = Work { host, store, catalog: &catalog.items };
    let mut changed = HashSet::new();
    let mut changes = Vec::new();
    for (at, item) in catalog.items.iter().enumerate() {
        if let Some(change) = difference(item, &work, &changed, &owed.kicks)? {
            changed.insert(item.id.as_str());
            changes.push((at, change));
        }
    }
    drop(changed);
    Ok(Plan { changes, owed, catalog })
}

/// What is to be done about one resource, given what else has changed and what it is owed.
pub(super) fn difference(
    item: &Item,
    work: &Work<'_>,
    changed: &HashSet<&str>,
    owed: &BTreeMap<String, Kick>,
) -> Result<Option<Change>> {
    let observed = item.resource.observe(work).map_err(|error| locate(error, item))?;
    let observed = observed.map(|change| discreet(change, item));
    let watched = item.resource.watches();
    let kick = watched
        .iter()
        .filter(|(id, _)| changed.contains(id.as_str()))
        .map(|(_, kick)| *kick)
        .chain(owed.get(&item.id).copied())
        .max();
    let Some(kick) = kick else { return Ok(observed) };
    if !item.resource.answers_kicks(work).map_err(|error| locate(error, item))? {
        return Ok(observed);
    }
    let word = match kick {
        Kick::Reload => "reload",
        Kick::Restart => "restart",
    };
    Ok(Some(match observed {
        Some(change) => Change { kick: change.kick.max(Some(kick)), ..change },
        None => Change { kick: Some(kick), ..Change::new(word) },
    }))
}

/// The change with nothing of a secret in it.
fn discreet(change: Change, item: &Item) -> Change {
    let summary = match item.is_secret && !item.resource.is_discreet() {
        true => "change (not shown: a secret is in it)".to_owned(),
        false => mask::hide(&change.summary).into_owned(),
    };
    // those with a secret say themselves that they show nothing
    let diff = change.diff.map(|diff| mask::hide(&diff).into_owned());
    Change { summary, diff: diff.filter(|_| !item.is_secret || item.resource.is_discreet()), ..change }
}

/// Gives an error about a resource the place where it is written, unless it has a better one.
pub(super) fn locate(error: crate::Error, item: &Item) -> crate::Error {
    if error.place().is_some() {
        return error;
    }
    error.at(item.place.clone(), format!("{} of the role {}", item.id, item.role))
}
