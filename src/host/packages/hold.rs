//! Holds: installed packages that the package manager leaves at their version.

use std::path::Path;
use std::time::Duration;

use super::dpkg::Dpkg;
use super::{Installed, Manager};
use crate::error::{Error, Result, code};
use crate::host::process::{Command, run};
use crate::host::root::Root;

/// Where dnf's plugin keeps its entries.
const VERSIONLOCK: &str = "/etc/dnf/plugins/versionlock.list";
/// Where zypper keeps its locks.
const LOCKS: &str = "/etc/zypp/locks";

impl Manager {
    /// The file besides its database that changes when a hold does.
    pub fn hold_file(self) -> Option<&'static str> {
        match self {
            Self::Dnf => Some(VERSIONLOCK),
            Self::Zypper => Some(LOCKS),
            Self::Apt | Self::Yum | Self::Microdnf => None,
        }
    }

    /// Whether a package is held; for dnf, at the version that is installed.
    pub fn is_held(self, root: &Root, name: &str, installed: &[Installed]) -> Result<bool> {
        let text = || self.hold_file().map_or(Ok(String::new()), |path| root.text(Path::new(path)));
        Ok(match self {
            Self::Apt => {
                let dpkg = Dpkg::read(root)?;
                dpkg.0.iter().any(|one| one.is_held && dpkg.names(one).iter().any(|known| known == name))
            }
            Self::Zypper => text()?.lines().any(|line| {
                line.split_once(':').is_some_and(|(key, value)| key.trim() == "solvable_name" && value.trim() == name)
            }),
            _ => {
                let text = text()?;
                let is_locked = |one: &Installed| {
                    let start = format!("{name}-{}.", one.version);
                    text.lines().any(|line| line.trim().starts_with(&start))
                };
                installed.iter().any(is_locked)
            }
        })
    }

    /// Holds a package at its version, or ends that.
    pub fn hold(self, name: &str, installed: &[Installed], on: bool) -> Result<()> {
        let what = || format!("can't {} {name}", if on { "hold" } else { "release the hold of" });
        let whole = match installed {
            [one, ..] if on => format!("{name}-{}", one.version),
            _ => name.to_owned(),
        };
        let (words, help): (&[&str], _) = match (self, on) {
            (Self::Apt, true) => (&["apt-mark", "hold", name], None),
            (Self::Apt, false) => (&["apt-mark", "unhold", name], None),
            (Self::Zypper, true) => (&["zypper", "--non-interactive", "addlock", name], None),
            (Self::Zypper, false) => (&["zypper", "--non-interactive", "removelock", name], None),
            (Self::Dnf, _) => (
                &["dnf", "-q", "-y", "versionlock", if on { "add" } else { "delete" }, &whole],
                Some(
                    "dnf needs its plugin for this: first install `python3-dnf-plugin-versionlock` with another [[package]]",
                ),
            ),
            (Self::Yum | Self::Microdnf, _) => {
                let why = format!("kpull supports `hold` with apt, dnf and zypper, but this host has {}", self.name());
                return Err(Error::new(code::PACKAGE, what()).because(why).help(
                    "require the `version` instead, or write the list of yum's plugin versionlock with a [[file]]",
                ));
            }
        };
        let output = run(&Command::new(words.iter().copied(), Duration::from_secs(300)))?;
        let done = output.or_failure(what()).map(drop);
        done.map_err(|error| help.into_iter().fold(error, Error::help))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_are_read_from_where_each_package_manager_keeps_them() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let root = Root::open(dir.path()).unwrap();
        let installed = [Installed { version: "0:1.2-3".to_owned(), arch: "noarch".to_owned(), is_whole: true }];
        let is_held = |manager: Manager, name: &str| manager.is_held(&root, name, &installed).unwrap();
        for manager in [Manager::Dnf, Manager::Zypper, Manager::Yum] {
            assert!(!is_held(manager, "a"), "there is no list");
        }
        put(
            "var/lib/dpkg/status",
            "Package: a\nStatus: hold ok installed\nArchitecture: all\nVersion: 1\n\n\
             Package: b\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n",
        );
        put("etc/dnf/plugins/versionlock.list", "# by hand\na-0:1.2-3.*\nb-0:1.1-3.*\na-c-0:1.2-3.*\n!d-0:1.2-3.*\n");
        put("etc/zypp/locks", "\ntype: package\nmatch_type: glob\ncase_sensitive: on\nsolvable_name: a\n");
        for manager in [Manager::Apt, Manager::Dnf, Manager::Zypper] {
            assert!(is_held(manager, "a"), "{manager:?}");
            assert!(!is_held(manager, "b") && !is_held(manager, "d"), "{manager:?}");
        }
    }

    #[test]
    fn a_hold_that_the_package_manager_does_not_have_is_refused_with_another_way() {
        for manager in [Manager::Yum, Manager::Microdnf] {
            let error = manager.hold("a", &[], true).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "can't hold a: kpull supports `hold` with apt, dnf and zypper, but this host has {}",
                    manager.name()
                )
            );
        }
    }
}
