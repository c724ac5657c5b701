//! Resolves all hosts of a site, for operators: on all processors, and what hosts see of one another only once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::error::{Error, Result};
use crate::resolve::{Catalog, Facts, Views, resolve_into};
use crate::secret::{SecretStore, lock};
use crate::site::{HostVars, Site};
use crate::template::depth::STACK;

/// Resolves every host of a site, ordered by name, with the facts that `facts` returns.
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
            // the other threads, or this one, do the work of a thread that can't start
            let _ = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
        }
    });
    work();
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|(index, _)| *index);
    found.into_iter().filter_map(|(index, resolved)| Some((hosts.get(index)?.0, resolved))).collect()
}

/// Merges errors that several hosts have in common: an error in a role appears for each host with the role, perhaps with
/// the host's name in it.
pub fn once(found: Vec<(&str, Error)>) -> Vec<Error> {
    let mut known: HashMap<(String, Option<String>), usize> = HashMap::new();
    let mut distinct: Vec<(Error, Vec<&str>)> = Vec::new();
    for (host, error) in found.into_iter().flat_map(|(host, error)| error.each().map(move |error| (host, error))) {
        let key = (error.to_string().replace(host, "\0"), error.place().map(ToString::to_string));
        let index = *known.entry(key).or_insert(distinct.len());
        match distinct.get_mut(index) {
            Some((_, hosts)) if hosts.last() == Some(&host) => {}
            Some((_, hosts)) => hosts.push(host),
            None => distinct.push((error, vec![host])),
        }
    }
    distinct
        .into_iter()
        .map(|(error, hosts)| match hosts.as_slice() {
            [] | [_] => error,
            [_, others @ ..] => error.help_more(&format!("the same on {} more: {}", others.len(), few(others))),
        })
        .collect()
}

/// The first names of a list, and the number of others.
fn few(names: &[&str]) -> String {
    const SOME: usize = 3;
    match names.len() {
        count if count > SOME + 1 => format!("{} and {} others", names[..SOME].join(", "), count - SOME),
        _ => names.join(", "),
    }
}
