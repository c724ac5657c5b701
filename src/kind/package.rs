//! `[[package]]`: packages of the distribution that are installed or removed. In a tree nothing is done: its packages
//! come with its base image.

use std::any::Any;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::error::{Context, Error, Result, code};
use crate::host::Host;
use crate::host::os::Image;
use crate::host::packages::{Installed, Manager, check_changeable, is_named};
use crate::host::root::Fingerprint;
use crate::kind::prior_state::PriorState;
use crate::kind::{About, Build, Change, Claim, Fields, Phase, Queries, Resource, Restorable, WatchedInput, Work};

/// The package sources at the last refresh of the package lists.
const SOURCES: &str = "package-sources.json";

/// Fields of `[[package]]`. Exactly one of `name` and `names` is set.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PackageFields {
    /// The package. Each is a resource of its own.
    name: Option<String>,
    /// Several packages, which are installed in one go.
    names: Option<Vec<String>>,
    /// `present` when left out.
    #[serde(default)]
    state: PackageState,
    /// The exact version, for one package; any that is there when left out.
    version: Option<String>,
    /// `apt`, `dnf`, `yum`, `microdnf` or `zypper`; the one that the host has when left out.
    manager: Option<Manager>,
    /// Whether a package may start its services when it is installed (apt); units say that better.
    #[serde(default)]
    start: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum PackageState {
    #[default]
    Present,
    Absent,
}

impl Fields for PackageFields {
    const NAME: &'static str = "package";

    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let (field, names) = match (self.name, self.names) {
            (Some(name), None) => ("name", vec![name]),
            (None, Some(names)) => ("names", names),
            (None, None) => return Err(build.invalid("name", "set `name` or `names`")),
            (Some(_), Some(_)) => return Err(build.invalid("names", "set `name` or `names`, not both")),
        };
        if let Some(bad) = names.iter().find(|name| !is_name(name)) {
            return Err(build.invalid(field, &format!("`{bad}` is not the name of a package")));
        }
        if let Some(version) = &self.version {
            let is_for_one = names.len() == 1 && self.state == PackageState::Present;
            build.refuse_if(!is_for_one, "version", "a version is said of one package that is present")?;
            let plain = |c: char| c.is_ascii_alphanumeric() || ".+:~^_-".contains(c);
            let is_bad = !version.starts_with(|c: char| c.is_ascii_alphanumeric()) || !version.chars().all(plain);
            build.refuse_if(is_bad, "version", "write the version as the package manager shows it")?;
        }
        let set =
            Arc::new(Set { names, state: self.state, version: self.version, manager: self.manager, start: self.start });
        Ok(set.names.iter().map(|name| Box::new(Package { name: name.clone(), set: set.clone() }) as _).collect())
    }
}

/// Whether it is the name of a package, and no package manager reads it as something else.
fn is_name(name: &str) -> bool {
    let (stem, arch) = name.split_once(':').unwrap_or((name, "any"));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '_' | '-');
    // apt reads `NAME-` as: remove NAME
    stem.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !stem.ends_with('-')
        && stem.chars().all(plain)
        && !arch.is_empty()
        && arch.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// The versions of what is installed, in one line.
fn versions(installed: &[Installed]) -> String {
    installed.iter().map(|one| one.version.as_str()).collect::<Vec<_>>().join(", ")
}

/// What one entry of a role says about its packages.
#[derive(Debug)]
struct Set {
    names: Vec<String>,
    state: PackageState,
    version: Option<String>,
    manager: Option<Manager>,
    start: bool,
}

impl Set {
    fn manager(&self, host: &Host) -> Result<Manager> {
        self.manager.map_or_else(|| host.package_manager(), Ok)
    }

    /// The change of one of the packages.
    fn difference(&self, host: &Host, name: &str) -> Result<Option<Change>> {
        let manager =
            self.manager(host).or_else(|none| check_changeable(Image::of(&host.root)?, name).and(Err(none)))?;
        let mut installed = host.package(manager, name)?;
        if self.state == PackageState::Present {
            installed.retain(|one| one.is_whole);
        }
        let versions = || versions(&installed);
        let change = match (self.state, &self.version) {
            (PackageState::Absent, _) => (!installed.is_empty()).then(|| {
                let version = versions();
                Change::removal(match manager {
                    Manager::Apt => format!("remove {version}, not its configuration"),
                    _ => format!("remove {version}"),
                })
            }),
            (PackageState::Present, None) => installed.is_empty().then(|| Change::addition("install")),
            (PackageState::Present, Some(wanted)) if installed.is_empty() => {
                Some(Change::addition(format!("install {wanted}")))
            }
            (PackageState::Present, Some(wanted)) => (!installed.iter().any(|one| one.is(wanted, manager)))
                .then(|| Change::new(format!("version {} → {wanted}", versions()))),
        };
        if change.is_some() {
            check_changeable(Image::of(&host.root)?, name)?;
        }
        Ok(change)
    }
}

/// One package.
#[derive(Debug)]
pub struct Package {
    name: String,
    set: Arc<Set>,
}

impl Package {
    /// The package manager that the role names.
    pub fn manager(&self) -> Option<Manager> {
        self.set.manager
    }

    /// Whether it must be installed.
    pub fn is_wanted(&self) -> bool {
        self.set.state == PackageState::Present
    }
}

impl Resource for Package {
    fn about(&self) -> About {
        About::new(PackageFields::NAME, &self.name, Phase::Packages)
    }

    fn restorable(&self) -> Option<&dyn Restorable> {
        Some(self)
    }

    fn definition(&self) -> String {
        let Set { names: _, state, version, manager, start } = &*self.set;
        format!("{:?}", (state, version, manager, start))
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        if !work.host.is_live() {
            return Ok(Some(Vec::new()));
        }
        let files = self.set.manager(work.host)?.database();
        Ok(Some(files.iter().map(|path| WatchedInput::Path(path.into())).collect()))
    }

    fn announce(&self, queries: &mut Queries) {
        queries.packages.insert(self.name.clone());
    }

    fn along(&self, _: &Work<'_>) -> Vec<String> {
        self.set.names.iter().map(|name| format!("{}:{name}", PackageFields::NAME)).collect()
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        if !work.host.is_live() {
            return Ok(None);
        }
        self.set.difference(work.host, &self.name)
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let (host, set) = (work.host, &self.set);
        // the first package of an entry installs the others too
        if !host.is_live() || set.difference(host, &self.name)?.is_none() {
            return Ok(());
        }
        let mut due = Vec::new();
        for name in &set.names {
            if set.difference(host, name)?.is_some() {
                due.push(name.as_str());
            }
        }
        let manager = set.manager(host)?;
        let done = match set.state {
            PackageState::Present => {
                let packages: Vec<_> = due.iter().map(|name| (*name, set.version.as_deref())).collect();
                refresh(work, manager).and_then(|is_fresh| manager.install(&host.root, &packages, set.start, is_fresh))
            }
            PackageState::Absent => match manager.needed_by(&due)? {
                others if others.is_empty() => manager.remove(&due, &[]),
                others => Err(Error::new(code::PACKAGE, format!("can't remove {}", due.join(", ")))
                    .because(format!("{} would go too", others.join(", ")))
                    .help("if they are to go as well, name them in the [[package]] that says `absent`")),
            },
        };
        // even a failed run may have changed something; packages bring units and accounts
        host.forget_packages();
        host.unit_files_changed();
        done?;
        for name in due {
            if let Some(left) = set.difference(host, name)? {
                let what =
                    format!("the package manager succeeded, but there is still to do for {name}: {}", left.summary);
                return Err(Error::new(code::PACKAGE, what).help(
                    "write the package's own name, not that of something that it provides; a version is only \
                           lowered by yum and microdnf when that is done by hand (`downgrade`)",
                ));
            }
        }
        Ok(())
    }
}

impl Restorable for Package {
    fn owned(&self, work: &Work<'_>) -> Result<Vec<Claim>> {
        Ok(if work.host.is_live() { self.about().claims } else { Vec::new() })
    }

    fn prior_state(&self, _: &Claim, work: &Work<'_>) -> Result<PriorState> {
        let (host, manager) = (work.host, self.set.manager(work.host)?);
        if !host.package(manager, &self.name)?.is_empty() {
            return Ok(PriorState::Same);
        }
        let residue = manager.is_left(&host.root, &self.name)?;
        let beside = manager.all(&host.root)?.map(|names| work.store.save(names.join("\n").as_bytes())).transpose()?;
        Ok(PriorState::NoPackage { name: self.name.clone(), manager: self.set.manager, beside, residue })
    }
}

/// Refreshes the package lists if the catalog's package sources have changed since the last refresh. Returns whether it
/// did.
fn refresh(work: &Work<'_>, manager: Manager) -> Result<bool> {
    let mut sources: BTreeMap<&Path, Option<Fingerprint>> = BTreeMap::new();
    let described = work.catalog.iter().map(|item| &item.about).filter(|about| about.is_of_source());
    let claims = described.filter(|about| about.phase != Phase::Directories).flat_map(|about| &about.claims);
    for path in claims.filter_map(Claim::any_path) {
        sources.insert(path, work.host.root.seen(path)?);
    }
    let sources =
        serde_json::to_value(sources).context(code::PACKAGE, || "can't note the sources of packages".to_owned())?;
    let known = work.store.read::<serde_json::Value>(SOURCES)?.unwrap_or_else(|| serde_json::json!({}));
    if sources == known {
        return Ok(false);
    }
    manager.refresh()?;
    work.store.write(SOURCES, &sources)?;
    Ok(true)
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
        /// Dependencies of these that nothing else needs.
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
    pub(super) fn new(name: &str, manager: Option<Manager>, beside: Option<&[u8]>, purge: bool) -> Self {
        let beside = beside.map(|names| String::from_utf8_lossy(names).lines().map(str::to_owned).collect());
        Self { package: Arc::new(PriorPackage { name: name.to_owned(), manager, beside, purge }), others: Vec::new() }
    }

    fn manager(&self, host: &Host) -> Result<Manager> {
        self.package.manager.map_or_else(|| host.package_manager(), Ok)
    }

    fn removal(&self, host: &Host) -> Result<Removal<'_>> {
        let manager = self.manager(host)?;
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

    fn along(&self, work: &Work<'_>) -> Vec<String> {
        // what is not known now is removed on its own
        let Ok(Removal::Remove { needing, unneeded }) = self.removal(work.host) else { return Vec::new() };
        let is_useless = |other: &&PriorPackage| unneeded.iter().any(|name| is_named(&other.name, name));
        let is_new = self.others.iter().map(Arc::as_ref).filter(is_useless);
        is_new.chain(needing).map(|other| format!("{}:{}", PackageFields::NAME, other.name)).collect()
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        if !work.host.is_live() {
            return Ok(None);
        }
        let (needing, unneeded) = match self.removal(work.host)? {
            Removal::NotInstalled => return Ok(None),
            Removal::Needed(by) => return Ok(Some(Change::new(format!("kept because {} needs it", by.join(", "))))),
            Removal::Remove { needing, unneeded } => (needing, unneeded),
        };
        let manager = self.manager(work.host)?;
        let installed = work.host.package(manager, &self.package.name)?;
        let verb = if self.package.purge && manager == Manager::Apt { "purge" } else { "remove" };
        let mut summary = format!("{verb} {}", versions(&installed));
        let needing: Vec<&str> = needing.iter().map(|one| one.name.as_str()).collect();
        let unneeded: Vec<&str> = unneeded.iter().map(String::as_str).collect();
        let need = if needing.len() == 1 { "needs it" } else { "need it" };
        for (names, why) in [(needing, need), (unneeded, "came with it")] {
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
        let done = self.manager(host)?.remove(&names, &purged);
        host.forget_packages();
        host.unit_files_changed();
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::testing::{Tree, build, one, refusal};

    #[test]
    fn each_package_of_an_entry_is_a_resource_of_its_own() {
        let packages = build("package", "names = ['haproxy', 'libc6:i386']").unwrap();
        let keys: Vec<String> = packages.iter().map(|package| package.about().key).collect();
        assert_eq!(keys, ["haproxy", "libc6:i386"]);
        let mut wants = Queries::default();
        packages.iter().for_each(|package| package.announce(&mut wants));
        assert_eq!(wants.packages.len(), 2);
    }

    #[test]
    fn what_an_image_lacks_is_refused_with_what_to_do_and_what_it_has_is_fine() {
        let tree = Tree::new();
        let difference = |name: &str| {
            let package = one("package", &format!("name = '{name}'"));
            let package = package.as_kind::<Package>().unwrap();
            package.set.difference(&tree.host, &package.name)
        };
        let none = difference("socat").unwrap_err();
        assert!(none.to_string().starts_with("this host has no package manager that kpull knows: "), "{none}");
        tree.put("/run/ostree-booted", "");
        let refused = |name: &str| {
            let error = difference(name).unwrap_err();
            (error.to_string(), error.advice().unwrap_or_default().to_owned())
        };
        let (what, help) = refused("socat");
        assert_eq!(what, "can't change the package socat: this host's system is an image of ostree");
        assert!(help.starts_with("layer it (`rpm-ostree install socat`, then reboot)"), "{help}");
        tree.put("/var/lib/dpkg/status", "Package: a\nStatus: install ok installed\nArchitecture: all\nVersion: 1-1\n");
        tree.put("/usr/bin/apt-get", "");
        tree.host.forget_packages();
        assert_eq!(difference("a").unwrap().map(|change| change.summary), None);
        assert!(refused("b").1.contains("`rpm-ostree install b`"));
    }

    #[test]
    fn what_is_to_do_is_seen_in_dpkg_s_status() {
        let tree = Tree::new();
        tree.put("/var/lib/dpkg/status", "Package: a\nStatus: install ok installed\nArchitecture: all\nVersion: 1-1\n");
        tree.put("/usr/bin/apt-get", "");
        let difference = |fields: &str| {
            let package = one("package", fields);
            let package = package.as_kind::<Package>().unwrap();
            package.set.difference(&tree.host, &package.name).unwrap().map(|change| change.summary)
        };
        assert_eq!(difference("name = 'a'"), None);
        assert_eq!(difference("name = 'a'\nversion = '1-1'"), None);
        assert_eq!(difference("name = 'a'\nversion = '1-2'").as_deref(), Some("version 1-1 → 1-2"));
        assert_eq!(difference("name = 'a'\nstate = 'absent'").as_deref(), Some("remove 1-1, not its configuration"));
        assert_eq!(difference("name = 'b'").as_deref(), Some("install"));
        assert_eq!(difference("name = 'b'\nstate = 'absent'"), None);
    }

    #[test]
    fn a_tree_has_no_packages_to_change() {
        let tree = Tree::new();
        let package = one("package", "name = 'a'");
        assert_eq!(tree.summary(&*package), None);
        package.apply(&tree.work(), &Change::default()).unwrap();
    }

    #[test]
    fn a_name_that_a_package_manager_reads_as_something_else_is_refused() {
        for bad in ["-y", "a b", "a-", "a=1", "./a.deb", "a/stable", "a*", "^a", "a:", ""] {
            assert!(refusal("package", &format!("name = '{bad}'")).starts_with("`name`: "), "{bad}");
        }
        for good in ["g++", "libstdc++6", "python3.11", "NetworkManager"] {
            assert!(build("package", &format!("name = '{good}'")).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_version_goes_with_one_package() {
        assert!(refusal("package", "names = ['a', 'b']\nversion = '1'").starts_with("`version`: "));
        assert!(refusal("package", "name = 'a'\nversion = '-1'").starts_with("`version`: "));
    }
}
