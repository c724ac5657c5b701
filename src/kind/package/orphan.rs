//! Packages that no role has any more, and their holds.

use std::any::Any;
use std::collections::HashSet;

use super::{HOLD, PackageFields, is_held, set_hold, versions};
use crate::host::packages::{Manager, is_named};
use crate::kind::prelude::*;

/// The former hold of a package whose hold no role has any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageHold {
    pub(super) name: String,
    /// The package manager; the host's own if `None`.
    pub(super) manager: Option<Manager>,
    /// Whether it was held.
    pub(super) held: bool,
}

impl Resource for PackageHold {
    fn about(&self) -> About {
        About::new(HOLD, &self.name, Phase::Packages)
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        if !work.host.is_live() || is_held(work.host, self.manager, &self.name)? == self.held {
            return Ok(None);
        }
        Ok(Some(Change::new(if self.held { "hold" } else { "release the hold" })))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        set_hold(work.host, self.manager, &self.name, self.held)
    }
}

/// A package that kpull installed, and that no role has any more.
#[derive(Debug)]
pub struct OrphanPackage {
    package: Arc<PriorPackage>,
    /// Other such packages: those that need it are removed together with it.
    others: Vec<Arc<PriorPackage>>,
}

/// What is recorded about a package that kpull installed.
#[derive(Debug)]
struct PriorPackage {
    name: String,
    manager: Option<Manager>,
    /// What was installed before it, if known.
    beside: Option<HashSet<String>>,
    /// Whether its configuration is removed too.
    purge: bool,
}

/// What to do about a package that no role has any more.
enum Removal<'a> {
    /// It is not installed.
    NotInstalled,
    /// It stays because these packages need it.
    Needed(Vec<String>),
    /// It is removed in one transaction with others.
    Remove {
        /// Packages that need it, and that no role has any more either.
        needing: Vec<&'a PriorPackage>,
        /// Dependencies of these that no other package needs.
        unneeded: Vec<String>,
    },
}

/// Links the orphaned packages among `resources`, so that they are removed in one transaction.
pub fn remove_together(resources: &mut [&mut dyn Any]) {
    let packages = |resource: &&mut dyn Any| resource.downcast_ref::<OrphanPackage>().map(|one| one.package.clone());
    let all: Vec<Arc<PriorPackage>> = resources.iter().filter_map(packages).collect();
    for one in resources.iter_mut().filter_map(|resource| resource.downcast_mut::<OrphanPackage>()) {
        one.others = all.iter().filter(|other| !Arc::ptr_eq(other, &one.package)).cloned().collect();
    }
}

impl OrphanPackage {
    /// `beside` has one name per line.
    pub(in crate::kind) fn new(name: &str, manager: Option<Manager>, beside: Option<&[u8]>, purge: bool) -> Self {
        let beside = beside.map(|names| String::from_utf8_lossy(names).lines().map(str::to_owned).collect());
        Self { package: Arc::new(PriorPackage { name: name.to_owned(), manager, beside, purge }), others: Vec::new() }
    }

    fn removal(&self, host: &Host) -> Result<Removal<'_>> {
        let manager = host.package_manager(self.package.manager)?;
        if host.package(manager, &self.package.name)?.is_empty() {
            return Ok(Removal::NotInstalled);
        }
        let mut going: Vec<&PriorPackage> = vec![&self.package];
        let names = loop {
            let names: Vec<&str> = going.iter().map(|one| one.name.as_str()).collect();
            let needed_by = manager.needed_by(&names)?;
            if needed_by.is_empty() {
                break names;
            }
            let leaves = |name: &String| self.others.iter().find(|other| is_named(&other.name, name));
            let (leaving, staying): (Vec<_>, Vec<_>) =
                needed_by.iter().map(|name| (name, leaves(name))).partition(|(_, leaves)| leaves.is_some());
            if !staying.is_empty() {
                return Ok(Removal::Needed(staying.into_iter().map(|(name, _)| name.clone()).collect()));
            }
            going.extend(leaving.into_iter().filter_map(|(_, leaves)| leaves).map(Arc::as_ref));
        };
        let is_new =
            |name: &str| going.iter().filter_map(|one| one.beside.as_ref()).any(|beside| !beside.contains(name));
        let unneeded = match going.iter().any(|one| one.beside.is_some()) {
            true => manager.useless_without(&names, is_new)?,
            false => Vec::new(),
        };
        Ok(Removal::Remove { needing: going.split_off(1), unneeded })
    }
}

impl Resource for OrphanPackage {
    fn about(&self) -> About {
        About::new(PackageFields::NAME, &self.package.name, Phase::Packages)
    }

    fn along(&self, work: &Work<'_>) -> Vec<ResourceId> {
        // what is not known now is removed on its own
        let Ok(Removal::Remove { needing, unneeded }) = self.removal(work.host) else { return Vec::new() };
        let is_useless = |other: &&PriorPackage| unneeded.iter().any(|name| is_named(&other.name, name));
        let is_new = self.others.iter().map(Arc::as_ref).filter(is_useless);
        is_new.chain(needing).map(|other| ResourceId::new(PackageFields::NAME, &other.name)).collect()
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let Some(host) = work.live() else { return Ok(None) };
        let (needing, unneeded) = match self.removal(host)? {
            Removal::NotInstalled => return Ok(None),
            Removal::Needed(by) => return Ok(Some(Change::new(format!("kept because {} needs it", by.join(", "))))),
            Removal::Remove { needing, unneeded } => (needing, unneeded),
        };
        let manager = host.package_manager(self.package.manager)?;
        let installed = host.package(manager, &self.package.name)?;
        let verb = if self.package.purge && manager == Manager::Apt { "purge" } else { "remove" };
        let mut summary = format!("{verb} {}", versions(&installed));
        let needing: Vec<&str> = needing.iter().map(|one| one.name.as_str()).collect();
        let unneeded: Vec<&str> = unneeded.iter().map(String::as_str).collect();
        let need = if needing.len() == 1 { "needs it" } else { "need it" };
        for (names, why) in [(needing, need), (unneeded, "were installed with it")] {
            if !names.is_empty() {
                summary = format!("{summary}, and {} that {why}", names.join(", "));
            }
        }
        Ok(Some(Change::removal(summary)))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let host = work.host;
        let Removal::Remove { needing, unneeded } = self.removal(host)? else { return Ok(()) };
        let going = || std::iter::once(&*self.package).chain(needing.iter().copied());
        let unneeded = unneeded.iter().map(String::as_str);
        let names: Vec<&str> = going().map(|one| one.name.as_str()).chain(unneeded.clone()).collect();
        let purged = going().filter(|one| one.purge).map(|one| one.name.as_str());
        let purged: Vec<&str> = purged.chain(unneeded.filter(|_| self.package.purge)).collect();
        let manager = host.package_manager(self.package.manager)?;
        let done = manager.remove(&names, &purged);
        host.forget_packages();
        host.unit_files_changed();
        done
    }
}
