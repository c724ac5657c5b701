//! Every host of a site at once, for whoever edits it: on all processors, and what hosts see of one another is made once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;

use minijinja::value::{Value, ValueKind};

use crate::error::{Error, Result};
use crate::resolve::context::Var;
use crate::resolve::{Catalog, Facts, resolve_into};
use crate::secret::{SecretStore, lock};
use crate::site::{HostVars, Site};
use crate::template::depth::{STACK, is_looked_up};

/// Variables of hosts as other hosts see them: without facts and secrets, so the same for all that look.
#[derive(Default)]
pub struct Views(RwLock<HashMap<Var, Value>>);

impl Views {
    pub(super) fn get(&self, var: &Var) -> Option<Value> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(var).cloned()
    }

    /// Keeps a value, unless something of the world that it was made in is still in it.
    pub(super) fn keep(&self, var: &Var, value: &Value) {
        if is_plain(value, 0) {
            self.0.write().unwrap_or_else(PoisonError::into_inner).insert(var.clone(), value.clone());
        }
    }
}

/// Whether a value is the same wherever it is looked at.
fn is_plain(value: &Value, depth: usize) -> bool {
    const DEEPEST: usize = 16;
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::String => true,
        ValueKind::Seq if depth < DEEPEST => {
            value.try_iter().is_ok_and(|mut items| items.all(|item| is_plain(&item, depth + 1)))
        }
        ValueKind::Map if depth < DEEPEST => {
            !is_looked_up(value)
                && value.try_iter().is_ok_and(|mut keys| {
                    keys.all(|key| value.get_item(&key).is_ok_and(|item| is_plain(&item, depth + 1)))
                })
        }
        _ => false,
    }
}

/// Resolves every host of a site, in the order of their names, each with the facts that `facts` tells of it.
pub fn resolve_all<'a>(
    site: &'a Arc<Site>,
    facts: &(dyn Fn(&str, &HostVars) -> Result<Facts> + Sync),
    secrets: &SecretStore,
) -> Vec<(&'a str, Result<(Catalog, Facts)>)> {
    let hosts: Vec<(&str, &HostVars)> = site.hosts.iter().map(|(name, host)| (name.as_str(), host)).collect();
    let views = Arc::new(Views::default());
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::with_capacity(hosts.len()));
    let work = || {
        while let Some((name, host)) = hosts.get(next.fetch_add(1, Ordering::Relaxed)).map(|host| (host.0, host.1)) {
            let resolved = facts(name, host).and_then(|facts| {
                resolve_into(site, name, &facts, secrets, Some(&views), None).map(|catalog| (catalog, facts))
            });
            let index = hosts.partition_point(|(other, _)| *other < name);
            lock(&found).push((index, resolved));
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(hosts.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            // what can't be started is done by the others, or below
            let _ = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
        }
    });
    work();
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|(index, _)| *index);
    found.into_iter().filter_map(|(index, resolved)| Some((hosts.get(index)?.0, resolved))).collect()
}

/// Each mistake once, of those that were found on several hosts, with what it is the same on: a mistake in a role is there
/// for each host that has the role, with the host's own name in it perhaps.
pub fn once(found: Vec<(&str, Error)>) -> Vec<Error> {
    let mut known: HashMap<(String, Option<String>), usize> = HashMap::new();
    let mut told: Vec<(Error, Vec<&str>)> = Vec::new();
    for (host, error) in found.into_iter().flat_map(|(host, error)| error.each().map(move |error| (host, error))) {
        let key = (error.to_string().replace(host, "\0"), error.place().map(ToString::to_string));
        let index = *known.entry(key).or_insert(told.len());
        match told.get_mut(index) {
            Some((_, hosts)) if hosts.last() == Some(&host) => {}
            Some((_, hosts)) => hosts.push(host),
            None => told.push((error, vec![host])),
        }
    }
    told.into_iter()
        .map(|(error, hosts)| match hosts.as_slice() {
            [] | [_] => error,
            [_, others @ ..] => error.help_more(&format!("the same on {} more: {}", others.len(), few(others))),
        })
        .collect()
}

/// Some names of a list, and how many there are besides.
fn few(names: &[&str]) -> String {
    const SOME: usize = 3;
    match names.len() {
        count if count > SOME + 1 => format!("{} and {} others", names[..SOME].join(", "), count - SOME),
        _ => names.join(", "),
    }
}
