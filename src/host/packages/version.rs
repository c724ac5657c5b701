//! The version that a role requires of a package.

use std::fmt;
use std::time::Duration;

use super::{Installed, Manager};
use crate::error::{Result, error};
use crate::host::process::{Command, run};

/// The required version of a package.
#[derive(Debug)]
pub struct Requirement {
    version: String,
    /// Whether a later version is fine too.
    at_least: bool,
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.at_least { "at least " } else { "" }, self.version)
    }
}

impl Requirement {
    /// Parses `1.2-3` or `>=1.2`; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (version, at_least) = match text.strip_prefix(">=") {
            Some(version) => (version.trim_start(), true),
            None => (text, false),
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || ".+:~^_-".contains(c);
        match version.starts_with(|c: char| c.is_ascii_alphanumeric()) && version.chars().all(is_plain) {
            true => Ok(Self { version: version.to_owned(), at_least }),
            false => {
                Err("write the version as the package manager shows it: `1.2-3` for exactly this version, `>=1.2` for this version or a later one"
                    .to_owned())
            }
        }
    }

    /// Whether an installed package meets it. For RPMs, epoch and release may be omitted.
    pub fn is_met(&self, installed: &Installed, manager: Manager) -> Result<bool> {
        if !self.at_least || installed.is(&self.version, manager) {
            return Ok(installed.is(&self.version, manager));
        }
        if manager == Manager::Apt {
            let words = ["dpkg", "--compare-versions", &installed.version, "ge", &self.version];
            return Ok(run(&Command::new(words, Duration::from_secs(60)))?.is_success());
        }
        let ((epoch, version, release), (least_epoch, least_version, least_release)) =
            (parts(&installed.version), parts(&self.version));
        let order = |a: &str, b: &str| rpm_order(a, b);
        if let (Some(epoch), Some(least)) = (epoch, least_epoch)
            && epoch != least
        {
            return Ok(order(epoch, least)? > 0);
        }
        Ok(match (order(version, least_version)?, release.zip(least_release)) {
            (0, Some((release, least))) => order(release, least)? >= 0,
            (other, _) => other >= 0,
        })
    }

    /// The package in this version, as the package manager is asked for it.
    pub(super) fn spec(&self, name: &str, manager: Manager) -> String {
        match (manager, self.at_least) {
            // it takes its candidate
            (Manager::Apt, true) => name.to_owned(),
            (Manager::Zypper, true) => format!("{name}>={}", self.version),
            (_, true) => format!("{name} >= {}", self.version),
            (Manager::Apt | Manager::Zypper, false) => format!("{name}={}", self.version),
            (_, false) => format!("{name}-{}", self.version),
        }
    }
}

/// Epoch, version and release of an RPM.
fn parts(version: &str) -> (Option<&str>, &str, Option<&str>) {
    let (epoch, rest) = version.split_once(':').map_or((None, version), |(epoch, rest)| (Some(epoch), rest));
    let (version, release) = rest.rsplit_once('-').map_or((rest, None), |(version, release)| (version, Some(release)));
    (epoch, version, release)
}

/// How rpm itself orders two parts of versions: negative, 0 or positive.
fn rpm_order(a: &str, b: &str) -> Result<i32> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".+~^_".contains(c);
    let fails = |why: &str| error!(PACKAGE, "can't compare the versions {a} and {b}").because(why);
    if !a.chars().chain(b.chars()).all(is_plain) {
        return Err(fails("a version has letters, digits, `.`, `+`, `~`, `^` and `_`"));
    }
    let compare = format!("%{{lua:print(rpm.vercmp(\"{a}\", \"{b}\"))}}");
    let output = run(&Command::new(["rpm", "--eval", &compare], Duration::from_secs(60)))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().map_err(|_| fails(&format!("rpm answers `{}`", output.last_lines())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_versions_is_that_of_the_package_manager() {
        let is_met = |manager, installed: &str, wanted: &str| {
            let (version, arch) = (installed.to_owned(), "all".to_owned());
            let installed = Installed { version, arch, is_whole: true };
            Requirement::parse(wanted).unwrap().is_met(&installed, manager).unwrap()
        };
        for (manager, installed, wanted, met) in [
            (Manager::Apt, "1.10-1", ">=1.9", true),
            (Manager::Apt, "1.10~rc1-1", ">= 1.10", false),
            (Manager::Apt, "1:0.1", ">=2.0", true),
            (Manager::Apt, "1.10-1", "1.9", false),
            (Manager::Dnf, "0:1.10-1.el9", ">=1.9", true),
            (Manager::Dnf, "0:1.10-1.el9", ">=1.10", true),
            (Manager::Dnf, "0:1.10-1.el9", ">=1.10-2", false),
            (Manager::Dnf, "0:1.10-2.el9", ">=0:1.10-2", true),
            (Manager::Dnf, "1:0.1-1", ">=0:2.0", true),
            (Manager::Zypper, "0:1.10~rc1-1", ">=1.10", false),
            (Manager::Zypper, "0:1.2-9", ">=1.2.1-1", false),
        ] {
            assert_eq!(is_met(manager, installed, wanted), met, "{installed} {wanted}");
        }
    }

    #[test]
    fn a_version_that_is_none_is_refused() {
        for bad in ["", "-1", ">=", "<2", "=1", ">1", "1 2", ">=%{x}", "1\n"] {
            assert!(Requirement::parse(bad).unwrap_err().contains("`>=1.2`"), "{bad}");
        }
    }
}
