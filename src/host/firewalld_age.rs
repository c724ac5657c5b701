//! How old a host's firewalld is, as far as that is known without querying it: it does not run in a tree, nor before it is installed.

use std::path::Path;

use crate::error::{Result, error};
use crate::host::os::Os;
use crate::host::rich_rule::newest_word;
use crate::host::root::Root;
use crate::host::zone::Element;

/// How old a firewalld is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Age {
    /// It has this version.
    Is(String),
    /// The packages of this system have one older than this version.
    OlderThan(&'static str, String),
    /// Nothing is known.
    Unknown,
}

impl Age {
    /// The age of the one that is installed in a root, or else of the one that its system would install.
    pub fn of(root: &Root) -> Result<Self> {
        Ok(Self::of_facts(&installed(root)?, &Os::of(root)?))
    }

    /// The age by the facts of a host: the installed version, which is empty if none is installed or known.
    pub fn of_facts(installed: &str, os: &Os) -> Self {
        if installed.is_empty() { Self::of_system(os) } else { Self::Is(installed.to_owned()) }
    }

    /// The age of the one in the packages of a system.
    pub fn of_system(os: &Os) -> Self {
        // each with the first release of the system that has this version or a newer one
        let rows: &[(&'static str, &[u32])] = match (&*os.id, &*os.family) {
            ("ubuntu", _) => &[("0.7", &[20]), ("0.9", &[21]), ("1.0", &[22])],
            ("fedora", _) => &[("0.9", &[34]), ("1.0", &[35])],
            ("amzn", _) => &[("0.7", &[2023])],
            (_, "debian") => &[("0.7", &[11]), ("1.0", &[12])],
            (_, "rhel") => &[("0.7", &[8]), ("1.0", &[9])],
            (_, "suse") => &[("1.0", &[15, 6])],
            _ => &[],
        };
        let version: Vec<u32> = os.version.split('.').map_while(|part| part.parse().ok()).collect();
        // a system without a version is the newest
        let row = rows.iter().find(|(_, first)| !version.is_empty() && version.as_slice() < *first);
        match row {
            Some((older_than, _)) => Self::OlderThan(older_than, format!("{} {}", os.id, os.version)),
            None => Self::Unknown,
        }
    }

    /// Whether it is certainly older than a version.
    pub fn is_before(&self, first: &str) -> bool {
        match self {
            Self::Is(version) => is_older(version, first),
            Self::OlderThan(bound, _) => !is_older(first, bound),
            Self::Unknown => false,
        }
    }

    /// An error if it is older than `first`, the version that introduced `what`.
    pub fn check(&self, what: &str, first: &str) -> Result<()> {
        match self.is_before(first) {
            true => Err(error!(FIREWALL, "{} has no {what}", self.name())
                .help(format!("this needs {first} or newer: omit it on this host, for example with `when`"))),
            false => Ok(()),
        }
    }

    /// An error if it is too old for an element of a zone.
    pub fn check_element(&self, element: &Element) -> Result<()> {
        match element {
            Element::Forward => self.check("`forward` in its zones", "0.9"),
            Element::Rule(rule) => match newest_word(rule) {
                Some((word, first)) => self.check(&format!("`{word}` in its rich rules"), first),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Its name in messages.
    fn name(&self) -> String {
        match self {
            Self::Is(version) => format!("firewalld {version}"),
            Self::OlderThan(_, system) => format!("the firewalld of {system}"),
            Self::Unknown => "this firewalld".to_owned(),
        }
    }
}

/// The version of the firewalld in a root, from its program; empty if there is none.
pub fn installed(root: &Root) -> Result<String> {
    let mut newest = String::new();
    if root.meta(Path::new("/usr/sbin/firewalld"))?.is_none() {
        return Ok(newest);
    }
    for python in root.names(Path::new("/usr/lib"))?.iter().filter(|name| name.starts_with("python")) {
        for packages in ["site-packages", "dist-packages"] {
            let path = format!("/usr/lib/{python}/{packages}/firewall/config/__init__.py");
            let text = root.text(Path::new(&path))?;
            let Some(version) = text.lines().find_map(version_in) else { continue };
            // an older Python may have been left behind with its packages
            if newest.is_empty() || is_older(&newest, version) {
                version.clone_into(&mut newest);
            }
        }
    }
    Ok(newest)
}

/// The version in a line of the program.
fn version_in(line: &str) -> Option<&str> {
    let value = line.strip_prefix("VERSION")?.trim_start().strip_prefix('=')?.trim();
    let version = value.trim_matches(['\'', '"']);
    version.starts_with(|c: char| c.is_ascii_digit()).then_some(version)
}

/// Whether a version of firewalld is older than another; `false` if either can't be parsed.
pub fn is_older(version: &str, first: &str) -> bool {
    let numbers = |text: &str| text.split('.').map(|part| part.parse::<u32>().ok()).collect::<Option<Vec<_>>>();
    matches!((numbers(version), numbers(first)), (Some(version), Some(first)) if version < first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_number_by_number() {
        for (version, first, older) in [
            ("0.6.3", "0.7", true),
            ("0.10.0", "0.7", false),
            ("0.7.0", "0.7", false),
            ("1.0", "1.0", false),
            ("git", "0.7", false),
        ] {
            assert_eq!(is_older(version, first), older, "{version} {first}");
        }
    }

    #[test]
    fn a_root_has_the_version_that_its_program_says_and_else_the_one_of_its_system() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("etc/os-release", "ID=centos\nVERSION_ID=\"7\"\n");
        let age = || Age::of(&Root::open(dir.path()).unwrap()).unwrap();
        assert_eq!(age(), Age::OlderThan("0.7", "centos 7".to_owned()));
        put(
            "usr/lib/python2.7/site-packages/firewall/config/__init__.py",
            "# VERSION\nDAEMON = 'x'\nVERSION = '0.6.3'\n",
        );
        assert_eq!(age(), Age::OlderThan("0.7", "centos 7".to_owned()), "a library is no program");
        put("usr/sbin/firewalld", "");
        assert_eq!(age(), Age::Is("0.6.3".to_owned()));
        put("usr/lib/python3/dist-packages/firewall/config/__init__.py", "VERSION = \"1.3.3\"\n");
        assert_eq!(age(), Age::Is("1.3.3".to_owned()));
    }

    #[test]
    fn a_system_s_own_firewalld_is_before_what_it_certainly_does_not_have() {
        for (release, before, not_before) in [
            ("ID=centos\nID_LIKE=\"rhel fedora\"\nVERSION_ID=7", &["0.7", "0.9"][..], &["0.6"][..]),
            ("ID=rocky\nID_LIKE=rhel\nVERSION_ID=8.10", &["1.0", "1.1"], &["0.9"]),
            ("ID=rocky\nID_LIKE=rhel\nVERSION_ID=9.3", &[], &["1.0", "1.1"]),
            ("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=18.04", &["0.7", "0.9"], &[]),
            ("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=20.04", &["0.9", "1.0"], &["0.8"]),
            ("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=22.04", &[], &["1.1"]),
            ("ID=debian\nVERSION_ID=11", &["1.0"], &["0.9"]),
            ("ID=amzn\nID_LIKE=fedora\nVERSION_ID=2", &["0.7", "0.9"], &[]),
            ("ID=opensuse-leap\nID_LIKE=suse\nVERSION_ID=15.5", &["1.0"], &["0.9"]),
            ("ID=debian", &[], &["1.0"]),
        ] {
            let age = Age::of_system(&Os::read(release));
            assert!(before.iter().all(|version| age.is_before(version)), "{release}: {age:?}");
            assert!(!not_before.iter().any(|version| age.is_before(version)), "{release}: {age:?}");
        }
    }
}
