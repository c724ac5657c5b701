//! `[[package]]`: packages of the distribution that are installed, or not. For a tree nothing is done: packages belong to
//! whoever made its base.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::packages::Manager;
use crate::kind::origin::Origin;
use crate::kind::{Build, Change, Fields, Phase, Resource, Trace, Wants, Work};

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
    state: State,
    /// The exact version, for one package; any that is there when left out.
    version: Option<String>,
    /// `apt`, `dnf` or `yum`; the one that the host has when left out.
    manager: Option<Manager>,
    /// Whether a package may start its services when it is installed (apt); units say that better.
    #[serde(default)]
    start: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum State {
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
            if names.len() != 1 || self.state == State::Absent {
                return Err(build.invalid("version", "a version is said of one package that is present"));
            }
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | ':' | '~' | '^' | '_' | '-');
            if !version.starts_with(|c: char| c.is_ascii_alphanumeric()) || !version.chars().all(plain) {
                return Err(build.invalid("version", "write the version as the package manager shows it"));
            }
        }
        let set =
            Arc::new(Set { names, state: self.state, version: self.version, manager: self.manager, start: self.start });
        Ok(set.names.iter().map(|name| Box::new(Package { name: name.clone(), set: set.clone() }) as _).collect())
    }
}

/// Whether it can be a package, and nothing that a package manager would take for something else.
fn is_name(name: &str) -> bool {
    let (bare, arch) = name.split_once(':').unwrap_or((name, "any"));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '_' | '-');
    // apt reads `NAME-` as: remove NAME
    bare.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !bare.ends_with('-')
        && bare.chars().all(plain)
        && !arch.is_empty()
        && arch.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// What one entry of a role says of all its packages.
#[derive(Debug)]
struct Set {
    names: Vec<String>,
    state: State,
    version: Option<String>,
    manager: Option<Manager>,
    start: bool,
}

impl Set {
    fn manager(&self, host: &Host) -> Result<Manager> {
        self.manager.map_or_else(|| Manager::detect(&host.root), Ok)
    }

    /// What is to be done with one of the packages.
    fn difference(&self, host: &Host, name: &str) -> Result<Option<Change>> {
        let manager = self.manager(host)?;
        let mut installed = host.package(manager, name)?;
        if self.state == State::Present {
            installed.retain(|one| one.is_whole);
        }
        let versions = || installed.iter().map(|one| one.version.as_str()).collect::<Vec<_>>().join(", ");
        Ok(match (self.state, &self.version) {
            (State::Absent, _) => (!installed.is_empty()).then(|| Change::removal(format!("remove {}", versions()))),
            (State::Present, None) => installed.is_empty().then(|| Change::addition("install")),
            (State::Present, Some(wanted)) if installed.is_empty() => {
                Some(Change::addition(format!("install {wanted}")))
            }
            (State::Present, Some(wanted)) => (!installed.iter().any(|one| one.is(wanted, manager)))
                .then(|| Change::new(format!("version {} → {wanted}", versions()))),
        })
    }
}

/// One package.
#[derive(Debug)]
pub struct Package {
    name: String,
    set: Arc<Set>,
}

impl Package {
    /// That a host is without it.
    pub(super) fn absent(name: &str, manager: Option<Manager>) -> Self {
        let set = Set { names: vec![name.to_owned()], state: State::Absent, version: None, manager, start: false };
        Self { name: name.to_owned(), set: Arc::new(set) }
    }
}

impl Resource for Package {
    fn traces(&self, work: &Work<'_>) -> Result<Option<Vec<Trace>>> {
        if !work.host.is_live() {
            return Ok(Some(Vec::new()));
        }
        let files = self.set.manager(work.host)?.database();
        Ok(Some(files.iter().map(|path| Trace::Path(path.into())).collect()))
    }

    fn kind(&self) -> &'static str {
        PackageFields::NAME
    }

    fn key(&self) -> String {
        self.name.clone()
    }

    fn phase(&self) -> Phase {
        Phase::Packages
    }

    fn footprint(&self, host: &Host) -> Result<Vec<String>> {
        Ok(if host.is_live() { self.claims() } else { Vec::new() })
    }

    fn origin(&self, _: &str, work: &Work<'_>) -> Result<Origin> {
        let installed = work.host.package(self.set.manager(work.host)?, &self.name)?;
        Ok(match installed.is_empty() {
            true => Origin::NoPackage { name: self.name.clone(), manager: self.set.manager },
            false => Origin::Same,
        })
    }

    fn announce(&self, wants: &mut Wants) {
        wants.packages.insert(self.name.clone());
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        if !work.host.is_live() {
            return Ok(None);
        }
        self.set.difference(work.host, &self.name)
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let (host, set) = (work.host, &self.set);
        // the first of an entry takes the others along, which then have nothing left to do
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
            State::Present => {
                let packages: Vec<_> = due.iter().map(|name| (*name, set.version.as_deref())).collect();
                manager.install(&host.root, &packages, set.start)
            }
            State::Absent => manager.remove(&due),
        };
        // even a failed run may have done something; packages bring units and accounts
        host.forget_packages();
        host.unit_files_changed();
        done?;
        for name in due {
            if let Some(left) = set.difference(host, name)? {
                return Err(Error::new(format!(
                    "the package manager succeeded, but there is still to do for {name}: {}",
                    left.summary
                ))
                .help(
                    "write the package's own name, not that of something that it provides; a version is only \
                           lowered by dnf and yum when that is done by hand (`downgrade`)",
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::testing::{Tree, build, one, refusal};

    #[test]
    fn each_package_of_an_entry_is_a_resource_of_its_own() {
        let packages = build("package", "names = ['haproxy', 'libc6:i386']").unwrap();
        let keys: Vec<String> = packages.iter().map(|package| package.key()).collect();
        assert_eq!(keys, ["haproxy", "libc6:i386"]);
        let mut wants = Wants::default();
        packages.iter().for_each(|package| package.announce(&mut wants));
        assert_eq!(wants.packages.len(), 2);
    }

    #[test]
    fn what_is_to_do_is_seen_in_dpkg_s_status() {
        let tree = Tree::new();
        tree.put("/var/lib/dpkg/status", "Package: a\nStatus: install ok installed\nArchitecture: all\nVersion: 1-1\n");
        tree.put("/usr/bin/apt-get", "");
        let difference = |fields: &str| {
            let package = one("package", fields);
            let package = package.as_any().downcast_ref::<Package>().unwrap();
            package.set.difference(&tree.host, &package.name).unwrap().map(|change| change.summary)
        };
        assert_eq!(difference("name = 'a'"), None);
        assert_eq!(difference("name = 'a'\nversion = '1-1'"), None);
        assert_eq!(difference("name = 'a'\nversion = '1-2'").as_deref(), Some("version 1-1 → 1-2"));
        assert_eq!(difference("name = 'a'\nstate = 'absent'").as_deref(), Some("remove 1-1"));
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
    fn a_name_that_a_package_manager_takes_for_something_else_is_refused() {
        for bad in ["-y", "a b", "a-", "a=1", "./a.deb", "a/stable", "a*", "^a", "a:", ""] {
            assert!(refusal("package", &format!("name = '{bad}'")).starts_with("`name`: "), "{bad}");
        }
        for good in ["g++", "libstdc++6", "python3.11", "NetworkManager"] {
            assert!(build("package", &format!("name = '{good}'")).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_version_is_said_of_one_package() {
        assert!(refusal("package", "names = ['a', 'b']\nversion = '1'").starts_with("`version`: "));
        assert!(refusal("package", "name = 'a'\nversion = '-1'").starts_with("`version`: "));
    }
}
