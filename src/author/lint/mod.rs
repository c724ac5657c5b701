//! Problems that `kpull check` finds in a site whose hosts all resolve. One file for each lint.

mod certificates;
mod facts;
mod flags;
mod hosts;
mod needs;
mod patterns;
mod pins;
mod place;
mod ports;
mod programs;
mod rollout;
mod secrets;
mod systemd;
#[cfg(test)]
mod testing;
mod unit_names;
mod unit_verbs;

use crate::author::lint::systemd::UnitText;
use crate::author::prelude::*;
use crate::kind::artifact::Artifact;
use crate::kind::checkout::Checkout;
use crate::kind::symlink::Symlink;
use crate::kind::unit::Unit;

pub use facts::lint as lint_facts;
pub use hosts::lint as lint_hosts;
pub use patterns::unmatched_patterns;
pub use pins::unknown_sizes;

/// Checks a whole site for one kind of problem.
type Lint = fn(&Subject<'_>) -> Vec<Error>;

/// Every lint.
const LINTS: &[Lint] = &[
    programs::lint,
    flags::lint,
    unit_names::lint,
    unit_verbs::lint,
    ports::lint,
    certificates::lint,
    pins::lint,
    needs::lint,
    rollout::lint,
    secrets::lint,
];

/// All problems of a site with these catalogs, one for each host. The same problem may be listed for several hosts.
pub fn lint(site: &Site, catalogs: &[Catalog]) -> Vec<Error> {
    let subject = Subject { site, hosts: catalogs.iter().map(Host::new).collect() };
    LINTS.iter().flat_map(|lint| lint(&subject)).collect()
}

/// What lints check.
struct Subject<'a> {
    site: &'a Site,
    hosts: Vec<Host<'a>>,
}

impl<'a> Subject<'a> {
    /// Every unit, with its host.
    fn units(&self) -> impl Iterator<Item = (&Host<'a>, &HostUnit<'a>)> {
        self.hosts.iter().flat_map(|host| host.units.iter().map(move |unit| (host, unit)))
    }

    /// Where a word is written in the entry of a resource, else the place of the entry.
    fn place(&self, item: &Item, word: &str) -> Place {
        place::in_entry(self.site, item, word).unwrap_or_else(|| item.place.clone())
    }

    /// Where a word of a resource is written in its role, else the place of its entry.
    fn place_of_word(&self, item: &Item, word: &str) -> Place {
        place::of_word(self.site, item, word).unwrap_or_else(|| item.place.clone())
    }
}

/// One host.
struct Host<'a> {
    name: &'a str,
    items: &'a [Item],
    /// The names of its secrets.
    secrets: &'a BTreeSet<String>,
    units: Vec<HostUnit<'a>>,
    /// The artifacts of installed files, by path.
    artifacts: BTreeMap<String, &'a str>,
    /// The artifacts that are extracted as a whole, by directory.
    trees: Vec<(&'a Path, &'a str)>,
}

/// A unit of a host.
struct HostUnit<'a> {
    item: &'a Item,
    unit: &'a Unit,
    text: UnitText,
}

impl<'a> Host<'a> {
    fn new(catalog: &'a Catalog) -> Self {
        let items = catalog.items.as_slice();
        let units =
            of_kind(items).map(|(item, unit): (_, &Unit)| HostUnit { item, unit, text: UnitText::parse(unit.texts()) });
        let (mut artifacts, mut trees) = (BTreeMap::new(), Vec::new());
        for (_, artifact) in of_kind::<Artifact>(items) {
            let name = artifact.pin.name.as_str();
            artifacts.extend(artifact.install.values().map(|path| (path.to_string(), name)));
            trees.extend(artifact.trees.directories().map(|path| (&**path, name)));
        }
        trees.extend(of_kind::<Checkout>(items).map(|(_, checkout)| (&*checkout.path, checkout.commit.url.as_str())));
        let (name, secrets) = (&catalog.host, &catalog.secrets);
        Self { name, items, secrets, units: units.collect(), artifacts, trees }
    }

    /// The resources of one kind.
    fn all<T: 'static>(&self) -> impl Iterator<Item = (&'a Item, &'a T)> + use<'a, T> {
        of_kind(self.items)
    }

    /// The name of the artifact that installs the program at a path, if any.
    fn artifact_of(&self, path: &str) -> Option<&'a str> {
        let find = |path: &str| {
            let in_tree = || self.trees.iter().find(|(dir, _)| Path::new(path).starts_with(dir)).map(|(_, name)| *name);
            self.artifacts.get(path).copied().or_else(in_tree)
        };
        find(path).or_else(|| find(&self.behind_links(path)))
    }

    /// The target of a path through the links of the host's resources.
    fn behind_links(&self, path: &str) -> String {
        const MOST: usize = 8;
        let mut path = path.to_owned();
        let leads =
            |path: &str| self.all::<Symlink>().map(|(_, link)| link.ends()).find(|(at, _)| *at == Path::new(path));
        for _ in 0..MOST {
            let Some((_, to)) = leads(&path) else { break };
            path = to.to_string_lossy().into_owned();
        }
        path
    }
}

fn of_kind<T: 'static>(items: &[Item]) -> impl Iterator<Item = (&Item, &T)> {
    items.iter().filter_map(|item| Some((item, item.as_kind::<T>()?)))
}
