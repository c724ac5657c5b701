//! The order of resources: by phase, role and place in the file, unless one names another.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, error};
use crate::kind::{Item, Phase, ResourceId};
use crate::resolve::claims::Links;
use crate::resolve::references::dangling;

/// Sorts items. An `after` that names nothing in the catalog is an error if a role has it; derived ones are only hints, and what an
/// item `needs` may belong to another host. What a probe is a gate for comes after the probe, and so after everything that has no
/// gate. A circle is an error that shows it.
pub fn sort(items: Vec<Item>) -> Result<Vec<Item>> {
    let before = predecessors(&items)?;
    let known: HashSet<&ResourceId> = items.iter().map(|item| &item.id).collect();
    let mut turns: Vec<Phase> = items.iter().map(|item| item.about.turn(|id| known.contains(id))).collect();
    let mut of_sources: Vec<usize> = (0..items.len()).filter(|&at| items[at].about.is_of_source()).collect();
    // what a package source depends on, such as a package, comes with the sources
    while let Some(at) = of_sources.pop() {
        if turns[at] > Phase::Sources {
            turns[at] = Phase::Sources;
            of_sources.extend(&before[at]);
        }
    }
    let order = topological(&items, &before, &turns)?;
    let mut slots: Vec<Option<Item>> = items.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|at| slots[at].take()).collect())
}

/// For each item, the positions of its direct predecessors: one of the two names the other, or is in the other's directory.
pub fn predecessors(items: &[Item]) -> Result<Vec<Vec<usize>>> {
    let index: HashMap<&str, usize> = items.iter().enumerate().map(|(at, item)| (item.id.as_str(), at)).collect();
    let links = Links::of(items);
    let own: Vec<Vec<PathBuf>> = items.iter().map(|item| links.paths_of(item)).collect();
    let paths: HashMap<&Path, usize> =
        own.iter().enumerate().flat_map(|(at, paths)| paths.iter().map(move |path| (path.as_path(), at))).collect();
    let mut before: Vec<Vec<usize>> = vec![Vec::new(); items.len()];
    for (at, item) in items.iter().enumerate() {
        for wanted in &item.after {
            match index.get(wanted.as_str()) {
                Some(&first) => before[at].push(first),
                None => return Err(unknown(item, wanted, &index)),
            }
        }
        for gated in &item.about.before {
            if let Some(&then) = index.get(gated.as_str()) {
                before[then].push(at);
            }
        }
        let written = item.needs.iter().chain(item.about.watches.iter().map(|(id, _)| id)).map(String::as_str);
        let hints = item.about.after.iter().map(ResourceId::as_str).chain(written);
        before[at].extend(hints.filter_map(|id| index.get(id)).filter(|&&first| first != at));
        if !item.about.covers.is_empty() {
            let covered = |&then: &usize| then != at && items[then].about.is_covered_by(&item.about);
            (0..items.len()).filter(covered).for_each(|then| before[then].push(at));
        }
        for path in &own[at] {
            before[at].extend(path.ancestors().skip(1).filter_map(|dir| paths.get(dir)).filter(|&&first| first != at));
        }
    }
    Ok(before)
}

fn topological(items: &[Item], before: &[Vec<usize>], turns: &[Phase]) -> Result<Vec<usize>> {
    let mut waiting: Vec<usize> = before.iter().map(Vec::len).collect();
    let mut then: Vec<Vec<usize>> = vec![Vec::new(); items.len()];
    for (at, firsts) in before.iter().enumerate() {
        for &first in firsts {
            then[first].push(at);
        }
    }
    // items are already ordered by role and file: the position is the second key
    let key = |at: usize| Reverse((turns[at], at));
    let mut ready: BinaryHeap<_> = (0..items.len()).filter(|&at| waiting[at] == 0).map(key).collect();
    let mut order = Vec::with_capacity(items.len());
    while let Some(Reverse((_, at))) = ready.pop() {
        order.push(at);
        for &next in &then[at] {
            waiting[next] -= 1;
            if waiting[next] == 0 {
                ready.push(key(next));
            }
        }
    }
    match waiting.iter().position(|&left| left > 0) {
        None => Ok(order),
        Some(stuck) => Err(circle(items, before, &waiting, stuck)),
    }
}

fn circle(items: &[Item], before: &[Vec<usize>], waiting: &[usize], mut at: usize) -> Error {
    let mut chain = Vec::new();
    while !chain.contains(&at) {
        chain.push(at);
        // an item that still waits depends on another that still waits
        at = before[at].iter().copied().find(|&first| waiting[first] > 0).unwrap_or(at);
    }
    let start = chain.iter().position(|&known| known == at).unwrap_or(0);
    let names: Vec<&str> = chain[start..].iter().chain([&at]).map(|&at| items[at].id.as_str()).collect();
    let written = chain[start..]
        .iter()
        .copied()
        .find(|&at| !items[at].after.is_empty() || !items[at].needs.is_empty())
        .unwrap_or(at);
    error!(UNKNOWN, "resources wait for each other in a circle: {}", names.join(" → "))
        .at(items[written].place.clone(), "this one waits for the next, and so on")
        .help("remove one `after`, `before` or `needs`")
}

fn unknown(item: &Item, wanted: &str, index: &HashMap<&str, usize>) -> Error {
    let what = format!("`{}` must come after `{wanted}`, but this host has no such resource", item.id);
    let advice = "the id of a resource is KIND:KEY, like `template:/etc/etcd/etcd.env`; `kpull graph` lists them";
    dangling(item, what).help_nearest(wanted, index.keys().copied(), advice)
}

#[cfg(test)]
mod tests {
    use crate::resolve::testing::catalog;

    fn order(role: &str) -> Vec<String> {
        catalog(role).unwrap().items.into_iter().map(|item| item.id.to_string()).collect()
    }

    #[test]
    fn package_sources_come_before_packages_and_other_configuration_after() {
        let role = "
            [[file]]\npath = '/etc/app.conf'\ncontent = ''
            [[directory]]\npath = '/etc/app'
            [[package]]\nname = 'app'
            [[file]]\npath = '/etc/apt/sources.list.d/app.sources'\ncontent = ''
            [[block]]\npath = '/etc/apt/apt.conf.d/proxy'\nname = 'proxy'\ncontent = ''
            [[symlink]]\npath = '/usr/share/keyrings/app.gpg'\ntarget = '/srv/app.gpg'
            [[absent]]\npath = '/etc/yum.repos.d/old.repo'
            [[file]]\npath = '/etc/apt/keyrings/app.asc'\ncontent = ''
            [[directory]]\npath = '/etc/apt/keyrings'
        ";
        assert_eq!(
            order(role),
            [
                "file:/etc/apt/sources.list.d/app.sources",
                "block:/etc/apt/apt.conf.d/proxy#proxy",
                "symlink:/usr/share/keyrings/app.gpg",
                "absent:/etc/yum.repos.d/old.repo",
                "directory:/etc/apt/keyrings",
                "file:/etc/apt/keyrings/app.asc",
                "package:app",
                "directory:/etc/app",
                "file:/etc/app.conf",
            ]
        );
    }

    #[test]
    fn files_that_a_program_checks_together_come_after_it_and_directories_before() {
        let role = "
            [[file]]\npath = '/etc/nginx/a'\ncontent = ''
            [[block]]\npath = '/etc/nginx/b'\nname = 'n'\ncontent = ''
            [[file]]\npath = '/srv/a'\ncontent = ''
            [[validate]]\nrun = ['nginx', '-t']\npaths = ['/etc/nginx']
            [[directory]]\npath = '/etc/nginx/d'
            [[package]]\nname = 'nginx'
        ";
        assert_eq!(
            order(role),
            [
                "package:nginx",
                "directory:/etc/nginx/d",
                "file:/srv/a",
                "validate:nginx -t",
                "file:/etc/nginx/a",
                "block:/etc/nginx/b#n",
            ]
        );
    }

    #[test]
    fn packages_that_a_source_needs_come_before_it_and_packages_from_it_after() {
        let role = "
            [[package]]\nname = 'app'
            [[package]]\nname = 'ca-certificates'
            [[file]]\npath = '/etc/apt/sources.list.d/app.list'\ncontent = ''\nafter = ['package:ca-certificates']
        ";
        assert_eq!(order(role), ["package:ca-certificates", "file:/etc/apt/sources.list.d/app.list", "package:app"]);
    }
}
