//! Packages by apt, dnf, yum, microdnf or zypper: the database has what is installed, the program makes changes.

mod dpkg;
mod hold;
mod output;
mod quiet;
mod version;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, error};
use crate::host::os::{Image, Os};
use crate::host::process::{Command, Output, run, run_if_there};
use crate::host::root::Root;
use dpkg::Dpkg;
use output::{INTERRUPTED, NOT_FETCHED, is_locked, is_mistaken, may_be_stale, says};
use quiet::{NoServiceStart, QUIET_MARK};
pub use version::Requirement;

/// Timeout of a package manager; most of it is for the download.
const TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Whether a path configures where package managers get packages from, or whose packages they trust.
pub fn is_of_source(path: &str) -> bool {
    const BELOW: &str =
        "/etc/apt /etc/dnf /etc/pki/rpm-gpg /etc/yum /etc/yum.conf /etc/yum.repos.d /etc/zypp /usr/share/keyrings";
    BELOW.split(' ').any(|below| Path::new(path).starts_with(below))
}

/// The program that packages are installed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, Hash, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// Debian and its derivatives.
    Apt,
    /// Fedora, RHEL 8 and later, and their derivatives; `dnf` of Fedora 41 and later is dnf5.
    Dnf,
    /// RHEL up to 7 and its derivatives.
    Yum,
    /// The replacement of dnf in small images of Fedora and RHEL.
    Microdnf,
    /// SUSE and openSUSE.
    Zypper,
}

/// In the order in which they are tried on a system of an unknown family.
const ALL: [Manager; 5] = [Manager::Apt, Manager::Dnf, Manager::Yum, Manager::Microdnf, Manager::Zypper];

/// One installed package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Its full version, for RPMs as `EPOCH:VERSION-RELEASE`.
    pub version: String,
    /// Its architecture.
    pub arch: String,
    /// Whether it is completely installed: it isn't if it is only unpacked, or if its script failed.
    pub is_whole: bool,
}

impl Installed {
    /// Whether this is the version that `wanted` names. For RPMs, epoch and release may be omitted.
    pub fn is(&self, wanted: &str, manager: Manager) -> bool {
        let without_epoch = self.version.split_once(':').map_or(&*self.version, |(_, rest)| rest);
        let plain = without_epoch.rsplit_once('-').map_or(without_epoch, |(version, _)| version);
        self.version == wanted || (manager != Manager::Apt && (without_epoch == wanted || plain == wanted))
    }
}

/// The name of a package, and the version that it must have.
pub type Wanted<'a> = (&'a str, Option<&'a Requirement>);

/// The installed versions by the names that were queried.
pub type InstalledPackages = HashMap<String, Vec<Installed>>;

/// An error for a package on a host whose system is an image, into which nothing can be installed.
pub fn check_changeable(image: Image, name: &str) -> Result<()> {
    let (why, way) = match image {
        Image::None => return Ok(()),
        Image::Ostree => (
            "this host's system is an image of ostree",
            format!("layer it (`rpm-ostree install {name}`, then reboot) or build it into the image"),
        ),
        Image::ReadOnly => (
            "/usr is read-only on this host: its system is an image",
            "add it as a system extension (systemd-sysext) or build it into the image".to_owned(),
        ),
    };
    Err(error!(PACKAGE, "can't change the package {name}").because(why).help(format!(
        "{way}; or install the program as an [[artifact]] below /opt. `when = \"not facts.image\"` excludes the package on this host"
    )))
}

/// The error for packages on a host without a known package manager.
pub fn no_manager() -> Error {
    error!(PACKAGE, "this host has no package manager that kpull supports")
        .because("for its system, none of apt, dnf, yum, microdnf and zypper is installed with a database of packages")
        .help("install the programs with an [[artifact]], or exclude the packages on this host with `when`")
}

impl Manager {
    /// The package manager of this host. Of several, the one of the host's own family: the others are there to build packages for
    /// other systems.
    pub fn detect(root: &Root) -> Result<Self> {
        match Self::find(root, &Os::of(root)?)? {
            Some(manager) => Ok(manager),
            // rpm lists what is installed; nothing is installed while the system runs
            None if Image::of(root)? == Image::Ostree => Ok(Self::Dnf),
            None => Err(no_manager()),
        }
    }

    /// The package manager of a host whose system is `os`, if it has one.
    pub fn find(root: &Root, os: &Os) -> Result<Option<Self>> {
        let has = |path: &str| root.meta(Path::new(path)).map(|meta| meta.is_some());
        let (is_dpkg, is_rpm) = (has("/var/lib/dpkg/status")?, has("/var/lib/rpm")? || has("/usr/lib/sysimage/rpm")?);
        let managers: &[Self] = match &*os.family {
            "debian" => &[Self::Apt],
            "rhel" => &[Self::Dnf, Self::Yum, Self::Microdnf],
            "suse" => &[Self::Zypper],
            _ => &ALL,
        };
        for manager in managers {
            let has_database = if *manager == Self::Apt { is_dpkg } else { is_rpm };
            if has_database && has(&format!("/usr/bin/{}", manager.program()))? {
                return Ok(Some(*manager));
            }
        }
        Ok(None)
    }

    /// Its name in sites.
    pub fn name(self) -> &'static str {
        if self == Self::Apt { "apt" } else { self.program() }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Apt => "apt-get",
            Self::Dnf => "dnf",
            Self::Yum => "yum",
            Self::Microdnf => "microdnf",
            Self::Zypper => "zypper",
        }
    }

    /// Whether it succeeded. zypper also has exit codes for a due reboot or restart of programs (102, 103), a skipped repository that
    /// wasn't needed (106), and a failed script of a package that is installed (107), for which dnf and yum only warn.
    fn has_succeeded(self, output: &Output) -> bool {
        output.is_success() || (self == Self::Zypper && matches!(output.code(), Some(102 | 103 | 106 | 107)))
    }

    /// The files that change when a package changes.
    pub fn database(self) -> &'static [&'static str] {
        match self {
            Self::Apt => &["/var/lib/dpkg/status"],
            _ => &[
                "/var/lib/rpm/Packages",
                "/var/lib/rpm/Packages.db",
                "/var/lib/rpm/rpmdb.sqlite",
                "/var/lib/rpm/rpmdb.sqlite-wal",
                "/usr/lib/sysimage/rpm/Packages.db",
                "/usr/lib/sysimage/rpm/rpmdb.sqlite",
                "/usr/lib/sysimage/rpm/rpmdb.sqlite-wal",
            ],
        }
    }

    /// The installed versions of `names`; empty for a name that isn't installed.
    pub fn query(self, root: &Root, names: &BTreeSet<String>) -> Result<InstalledPackages> {
        let mut known: InstalledPackages = names.iter().map(|name| (name.clone(), Vec::new())).collect();
        match self {
            Self::Apt => {
                let dpkg = Dpkg::read(root)?;
                for (status, is_whole) in dpkg.there() {
                    for name in dpkg.names(status) {
                        if let Some(installed) = known.get_mut(&name) {
                            let (version, arch) = (status.version.clone(), status.arch.clone());
                            installed.push(Installed { version, arch, is_whole });
                        }
                    }
                }
            }
            _ => {
                let format = "%{NAME}\\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\\t%{ARCH}\\n";
                let argv = ["rpm", "-q", "--qf", format, "--"].into_iter().chain(names.iter().map(String::as_str));
                let output = run(&Command::new(argv, Duration::from_secs(60)))?;
                // the exit status is the number of packages that aren't installed; kpull is built for the host's architecture
                read_rpm(&String::from_utf8_lossy(&output.stdout), std::env::consts::ARCH, &mut known);
            }
        }
        Ok(known)
    }

    /// The name of every installed package, as apt writes it; `None` for the others, where this isn't needed.
    pub fn all(self, root: &Root) -> Result<Option<Vec<String>>> {
        if self != Self::Apt {
            return Ok(None);
        }
        let dpkg = Dpkg::read(root)?;
        Ok(Some(dpkg.there().map(|(status, _)| dpkg.names(status).swap_remove(0)).collect()))
    }

    /// Whether the host still has the configuration of a removed package.
    pub fn is_left(self, root: &Root, name: &str) -> Result<bool> {
        if self != Self::Apt {
            return Ok(false);
        }
        let dpkg = Dpkg::read(root)?;
        let is_it = |status: &dpkg::Status| dpkg.names(status).iter().any(|known| known == name);
        Ok(dpkg.0.iter().any(|status| status.state == "config-files" && is_it(status)))
    }

    /// Updates the lists of available packages.
    pub fn refresh(self) -> Result<()> {
        let options: &[&str] = match self {
            Self::Apt => &["update", "-o", "APT::Update::Error-Mode=any"],
            Self::Dnf => &["makecache", "--refresh", "--setopt=*.skip_if_unavailable=0"],
            Self::Yum => &["makecache", "--setopt=*.skip_if_unavailable=0"],
            Self::Microdnf => &["makecache", "--refresh"],
            Self::Zypper => &["refresh"],
        };
        if self == Self::Yum {
            // its makecache keeps lists until they expire
            self.run(&["clean", "expire-cache"], &[])?;
        }
        let output = self.run(options, &[])?;
        if output.is_success() {
            return Ok(());
        }
        let error = self.failure(&output, "can't update the package lists".to_owned());
        if is_locked(&output) {
            return Err(error);
        }
        if is_mistaken(&output) {
            return Err(error.help("correct the package source or key that the message names: this host refuses it"));
        }
        Err(error
            .passing()
            .help("the package source that the message names can't be reached, or is empty; the next run tries again"))
    }

    /// Installs packages, each in the given version. No installed package is removed for them, and unless `start` is set, their
    /// services aren't started. `is_fresh` means that the lists of packages are up to date.
    ///
    /// They are downloaded before they are installed, so that an unreachable source isn't reported as a failing package: the error is
    /// then a [passing](Error::passing) one.
    pub fn install(self, root: &Root, packages: &[Wanted<'_>], start: bool, is_fresh: bool) -> Result<()> {
        let spec = |(name, version): &Wanted<'_>| {
            version.map_or_else(|| (*name).to_owned(), |version| version.spec(name, self))
        };
        let specs: Vec<String> = packages.iter().map(spec).collect();
        let specs: Vec<&str> = specs.iter().map(String::as_str).collect();
        let (options, only_fetch): (&[&str], Option<&str>) = match self {
            Self::Apt => {
                (&["install", "--no-install-recommends", "--no-remove", "--allow-downgrades"], Some("--download-only"))
            }
            Self::Dnf | Self::Yum => (&["install"], Some("--downloadonly")),
            // it has no such option, and downloads all before it changes anything
            Self::Microdnf => (&["install"], None),
            Self::Zypper => (&["install", "--name", "--no-recommends", "--oldpackage"], Some("--download-only")),
        };
        let with = |more: Option<&str>| self.run(&[options, more.as_slice()].concat(), &specs);
        let mut fetched = with(only_fetch)?;
        if self == Self::Apt && !is_fresh && !self.has_succeeded(&fetched) && may_be_stale(&fetched) {
            let refreshed = self.refresh();
            fetched = with(only_fetch)?;
            if !self.has_succeeded(&fetched) {
                refreshed?;
            }
        }
        let what = || format!("can't install {}", specs.join(", "));
        if !self.has_succeeded(&fetched) {
            let error = self.failure(&fetched, what());
            // if apt can resolve the packages, only the download failed
            let is_unreachable = match self {
                Self::Apt => with(Some("--simulate"))?.is_success(),
                _ => says(&fetched, NOT_FETCHED),
            };
            return Err(match is_unreachable && may_be_stale(&fetched) && !is_mistaken(&fetched) {
                true => error.passing().help("the source of a package can't be reached; the next run tries again"),
                false => error,
            });
        }
        if only_fetch.is_none() {
            return Ok(());
        }
        let _quiet = if self == Self::Apt && !start { Some(NoServiceStart::new(root)?) } else { None };
        let output = with(None)?;
        if self.has_succeeded(&output) { Ok(()) } else { Err(self.failure(&output, what())) }
    }

    /// Makes rpm trust the keys in these files, as dnf and yum do by themselves when they install from a repository.
    pub fn trust<'a>(self, keys: impl Iterator<Item = &'a Path>) -> Result<()> {
        if self != Self::Zypper {
            return Ok(());
        }
        for key in keys.filter_map(Path::to_str) {
            run(&Command::new(["rpm", "--import", key], Duration::from_secs(60)))?
                .or_failure(format!("can't import {key} into the rpm database"))?;
        }
        Ok(())
    }

    /// Answers questions that apt's packages ask when they are installed: each is a line for debconf-set-selections(1).
    pub fn answer(self, lines: &str, is_sensitive: bool) -> Result<()> {
        if self != Self::Apt || lines.is_empty() {
            return Ok(());
        }
        let output = run(&Command { input: Some(lines.as_bytes()), ..unattended(["debconf-set-selections"]) })?;
        if output.is_success() {
            return Ok(());
        }
        Err(output.failure_of("can't set the answers of `debconf`", is_sensitive))
    }

    /// The packages that need these, and would be removed with them.
    pub fn needed_by(self, names: &[&str]) -> Result<Vec<String>> {
        if self == Self::Apt {
            return Ok(without(self.would_remove(names, false)?, names));
        }
        let words = ["rpm", "-e", "--test", "--"].into_iter().chain(names.iter().copied());
        let tried = run(&Command::new(words, Duration::from_secs(60)))?;
        let others = needing(&String::from_utf8_lossy(&tried.stderr));
        if tried.is_success() || !others.is_empty() {
            return Ok(others);
        }
        Err(tried.failure(format!("can't remove {}", names.join(", "))))
    }

    /// The packages among those that `came` with `names` that nothing needs once `names` are removed, by the package manager's own
    /// rules for automatically installed packages.
    pub fn useless_without(self, names: &[&str], came: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        if self != Self::Apt {
            return Ok(Vec::new());
        }
        let useless = self.would_remove(&[], true)?;
        let mut others = without(self.would_remove(names, true)?, names);
        others.retain(|other| came(other) && !useless.contains(other));
        let all: Vec<&str> = names.iter().copied().chain(others.iter().map(String::as_str)).collect();
        // the remaining packages may need some of them
        if self.needed_by(&all)?.is_empty() { Ok(others) } else { Ok(Vec::new()) }
    }

    /// What apt would remove; with `useless`, also what nothing needs then.
    fn would_remove(self, names: &[&str], useless: bool) -> Result<Vec<String>> {
        let useless = if useless { "--auto-remove" } else { "--no-auto-remove" };
        let tried = self.run(&["remove", "--simulate", useless], names)?;
        match tried.is_success() {
            true => Ok(removed(&String::from_utf8_lossy(&tried.stdout))),
            false => Err(self.failure(&tried, format!("can't remove {}", names.join(", ")))),
        }
    }

    /// Removes packages in one transaction. For those that are `purged`, this includes the configuration that apt would keep.
    pub fn remove(self, names: &[&str], purged: &[&str]) -> Result<()> {
        let options: &[&str] = match self {
            Self::Apt if names.len() == purged.len() => &["purge", "--no-auto-remove"],
            Self::Apt => &["remove", "--no-auto-remove"],
            Self::Dnf | Self::Yum => &["remove", "--setopt=clean_requirements_on_remove=0"],
            Self::Microdnf => &["remove"],
            Self::Zypper => &["remove", "--name", "--no-clean-deps"],
        };
        let output = self.run(options, names)?;
        if !self.has_succeeded(&output) {
            return Err(self.failure(&output, format!("can't remove {}", names.join(", "))));
        }
        // apt purges all packages of a transaction or none
        let is_left = self == Self::Apt && !purged.is_empty() && names.len() != purged.len();
        if is_left { self.remove(purged, purged) } else { Ok(()) }
    }

    /// Runs the program. If dpkg was interrupted, by a power cut for instance, it completes its work first: apt refuses to run
    /// otherwise.
    fn run(self, options: &[&str], names: &[&str]) -> Result<Output> {
        let output = self.try_run(options, names)?;
        if self != Self::Apt || output.is_success() || !says(&output, INTERRUPTED) {
            return Ok(output);
        }
        let ended = run(&unattended(["dpkg", "--force-confdef", "--force-confold", "--configure", "-a"]))?;
        if ended.is_success() {
            return self.try_run(options, names);
        }
        Err(ended.failure("dpkg was interrupted earlier, and can't complete its work").help(
            "run `dpkg --configure -a` by hand: it names the package that fails; repair the package, or remove it with `dpkg --remove --force-remove-reinstreq NAME`",
        ))
    }

    fn try_run(self, options: &[&str], names: &[&str]) -> Result<Output> {
        let mut words = vec![self.program()];
        words.extend((self == Self::Zypper).then_some("--non-interactive"));
        words.extend(options);
        // a simulation asks nothing, and with this it refuses to show that a held package is removed
        words.extend((self != Self::Zypper && !options.contains(&"--simulate")).then_some("-y"));
        if self == Self::Apt {
            if !is_lock_time_set()? {
                words.extend(["-o", "DPkg::Lock::Timeout=300"]);
            }
            words.extend(["-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"]);
        }
        if !names.is_empty() {
            words.push("--");
            words.extend(names);
        }
        run(&unattended(words))
    }
}

/// A non-interactive program of a package manager.
fn unattended<'a>(argv: impl IntoIterator<Item = &'a str>) -> Command<'static> {
    let env = [("DEBIAN_FRONTEND", "noninteractive"), (QUIET_MARK, "1"), ("ZYPP_LOCK_TIMEOUT", "300")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Command { env, ..Command::new(argv, TIMEOUT) }
}

/// Whether the host's configuration sets how long apt waits for a lock.
fn is_lock_time_set() -> Result<bool> {
    let ask = ["apt-config", "shell", "TIME", "DPkg::Lock::Timeout"];
    Ok(run_if_there(&Command::new(ask, Duration::from_secs(60)))?.is_some_and(|output| !output.stdout.is_empty()))
}

/// The packages that `apt-get remove --simulate` would remove.
fn removed(simulation: &str) -> Vec<String> {
    let removed_name = |line: &str| {
        let rest = line.strip_prefix("Remv ").or_else(|| line.strip_prefix("Purg "))?;
        rest.split(' ').next().map(str::to_owned)
    };
    simulation.lines().filter_map(removed_name).collect()
}

/// The packages that aren't in `names`.
fn without(mut packages: Vec<String>, names: &[&str]) -> Vec<String> {
    packages.retain(|package| !names.iter().any(|name| is_named(name, package)));
    packages
}

/// Whether `name`, with or without an architecture, is the package that a package manager names.
pub fn is_named(name: &str, package: &str) -> bool {
    name == package || name.split(':').next() == Some(package)
}

/// The packages that need what is to be removed, from what `rpm -e` reports: `… is needed by (installed) NAME-VERSION-RELEASE.ARCH`.
fn needing(complaint: &str) -> Vec<String> {
    let name = |whole: &str| whole.rsplitn(3, '-').nth(2).unwrap_or(whole).to_owned();
    let others =
        complaint.lines().filter_map(|line| line.split_once("(installed) ").map(|(_, whole)| name(whole.trim())));
    others.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Adds what is installed to the names in `known`. A name without an architecture has the host's own, `native`.
fn read_rpm(answer: &str, native: &str, known: &mut InstalledPackages) {
    for line in answer.lines() {
        let mut fields = line.split('\t');
        let (Some(name), Some(version), Some(arch)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let plain = [native, "noarch"].contains(&arch).then(|| name.to_owned());
        for name in plain.into_iter().chain([format!("{name}.{arch}")]) {
            if let Some(installed) = known.get_mut(&name) {
                installed.push(Installed { version: version.to_owned(), arch: arch.to_owned(), is_whole: true });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(names: &[&str]) -> InstalledPackages {
        names.iter().map(|name| ((*name).to_owned(), Vec::new())).collect()
    }

    pub(super) fn exited(code: i32, stdout: Vec<u8>, stderr: Vec<u8>) -> Output {
        use std::os::unix::process::ExitStatusExt;
        let status = std::process::ExitStatus::from_raw(code << 8);
        Output { ended: crate::host::process::Ended::Exited(status), stdout, stderr }
    }

    fn installed(version: &str, arch: &str) -> Installed {
        Installed { version: version.to_owned(), arch: arch.to_owned(), is_whole: true }
    }

    /// What is known of `names` on a host whose dpkg has this status.
    fn known(status: &str, names: &[&str]) -> InstalledPackages {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("var/lib/dpkg")).unwrap();
        std::fs::write(dir.path().join("var/lib/dpkg/status"), status).unwrap();
        Manager::Apt
            .query(&Root::open(dir.path()).unwrap(), &names.iter().map(|&name| name.to_owned()).collect())
            .unwrap()
    }

    #[test]
    fn dpkg_s_status_has_what_is_installed() {
        let status = "Package: a\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:2-3\nDescription: x\n Package: c\n\n\
                      Package: b\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n\n\
                      Package: d\nStatus: install ok half-configured\nArchitecture: all\nVersion: 1\n\n\
                      Package: e\nStatus: hold ok triggers-pending\nArchitecture: i386\nVersion: 4";
        let known = known(status, &["a", "b", "c", "d", "e", "e:i386", "e:amd64"]);
        assert_eq!(known["a"], [installed("1:2-3", "amd64")]);
        assert_eq!(known["e"], [installed("4", "i386")]);
        assert_eq!(known["e:i386"], known["e"]);
        assert_eq!(known["d"], [Installed { is_whole: false, ..installed("1", "all") }]);
        for absent in ["b", "c", "e:amd64"] {
            assert!(known[absent].is_empty(), "{absent}");
        }
    }

    #[test]
    fn a_package_of_another_architecture_is_another_package() {
        let package = |name: &str, arch: &str| {
            format!("Package: {name}\nStatus: install ok installed\nArchitecture: {arch}\nVersion: 1\n\n")
        };
        let status = [("multi", "i386"), ("both", "i386"), ("both", "amd64"), ("data", "all"), ("dpkg", "amd64")];
        let status: String = status.iter().map(|(name, arch)| package(name, arch)).collect();
        let known = known(&status, &["multi", "multi:i386", "multi:amd64", "both", "data", "data:all"]);
        assert_eq!(known["multi"], []);
        assert_eq!(known["multi:i386"], [installed("1", "i386")]);
        assert_eq!(known["multi:amd64"], []);
        assert_eq!(known["both"], [installed("1", "amd64")]);
        assert_eq!((known["data"].len(), known["data:all"].len()), (1, 1));
    }

    #[test]
    fn rpm_s_answer_has_what_is_installed() {
        let mut known = asked(&["a", "a.x86_64", "b", "c", "c.i686", "d"]);
        let answer = "a\t0:1.2-3.el7\tx86_64\npackage b is not installed\nc\t0:1-1\ti686\nd\t0:1-1\tnoarch\n";
        read_rpm(answer, "x86_64", &mut known);
        assert_eq!(known["a"], [installed("0:1.2-3.el7", "x86_64")]);
        assert_eq!(known["a.x86_64"], known["a"]);
        assert_eq!((known["c"].len(), known["c.i686"].len()), (0, 1), "of another architecture");
        assert_eq!((known["b"].len(), known["d"].len()), (0, 1));
    }

    #[test]
    fn an_rpm_s_version_may_be_written_without_epoch_and_release() {
        let rpm = installed("0:1.2-3.el7", "x86_64");
        for version in ["1.2", "1.2-3.el7", "0:1.2-3.el7"] {
            assert!(rpm.is(version, Manager::Yum), "{version}");
        }
        assert!(!rpm.is("1", Manager::Yum));
        assert!(!installed("1.2-3", "all").is("1.2", Manager::Apt));
    }

    #[test]
    fn package_sources_are_known_by_their_paths() {
        for path in [
            "/etc/apt/sources.list",
            "/etc/apt/sources.list.d/x.sources",
            "/etc/apt/keyrings",
            "/etc/apt/preferences.d/x",
            "/usr/share/keyrings/x.gpg",
            "/etc/yum.repos.d/x.repo",
            "/etc/yum.conf",
            "/etc/pki/rpm-gpg/RPM-GPG-KEY-x",
            "/etc/zypp/repos.d/x.repo",
        ] {
            assert!(is_of_source(path), "{path}");
        }
        for path in ["/etc/apticron/x", "/etc/pki/tls/x", "/usr/share/keyrings-x", "/etc", "/etc/nginx/nginx.conf"] {
            assert!(!is_of_source(path), "{path}");
        }
    }

    #[test]
    fn who_needs_an_rpm_is_found_in_what_rpm_complains_of() {
        let complaint = "error: Failed dependencies:\n\tlib is needed by (installed) b-c-1-1.x86_64\n\
                         \tlib.so is needed by (installed) b-c-1-1.x86_64\n\tlib is needed by (installed) a-1-1.noarch\n";
        assert_eq!(needing(complaint), ["a", "b-c"]);
        assert_eq!(needing("error: package x is not installed\n"), [""; 0]);
    }

    #[test]
    fn what_would_be_removed_too_is_found_in_a_simulation() {
        let simulation = "Reading…\nRemv b [1] [c:amd64 ]\nRemv libx:i386 [2]\nRemv a [1]\n";
        assert_eq!(without(removed(simulation), &["a", "libx:i386"]), ["b"]);
        assert_eq!(without(removed("Purg a:i386 [1]\n"), &["a"]), ["a:i386"], "it is another one");
    }

    #[test]
    fn the_package_manager_is_that_of_the_system_s_family_whatever_else_is_installed() {
        const EVERYTHING: [&str; 7] =
            ["apt-get", "dnf", "yum", "microdnf", "zypper", "var/lib/dpkg/status", "var/lib/rpm"];
        let detected = |os_release: &str, there: &[&str]| {
            let dir = tempfile::tempdir().unwrap();
            let put = |path: &str, text: &str| {
                let path = dir.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            };
            put("usr/lib/os-release", os_release);
            for name in there {
                put(&if name.contains('/') { (*name).to_owned() } else { format!("usr/bin/{name}") }, "");
            }
            Manager::detect(&Root::open(dir.path()).unwrap()).ok()
        };
        for (os_release, wanted) in [
            ("ID=debian", Manager::Apt),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"", Manager::Apt),
            ("ID=\"centos\"\nID_LIKE=\"rhel fedora\"", Manager::Dnf),
            ("ID=fedora", Manager::Dnf),
            ("ID='opensuse-tumbleweed'\nID_LIKE='opensuse suse'", Manager::Zypper),
            ("ID=sles", Manager::Zypper),
            // nothing is known of it: by what is there
            ("ID=else", Manager::Apt),
            ("", Manager::Apt),
        ] {
            assert_eq!(detected(os_release, &EVERYTHING), Some(wanted), "{os_release}");
        }
        let rhel = "ID=\"ol\"\nID_LIKE=\"fedora\"";
        let (apt, rpm) = (["apt-get", "var/lib/dpkg/status"], "usr/lib/sysimage/rpm/rpmdb.sqlite");
        assert_eq!(detected(rhel, &[&apt[..], &["yum", "microdnf", rpm]].concat()), Some(Manager::Yum));
        assert_eq!(detected(rhel, &[&apt[..], &["microdnf", rpm]].concat()), Some(Manager::Microdnf));
        assert_eq!(detected(rhel, &[&apt[..], &["zypper", rpm]].concat()), None);
        assert_eq!(detected("ID=debian", &["apt-get", "dnf", rpm]), None, "nothing is installed by apt");
        assert_eq!(detected("ID=else", &["apt-get", "microdnf", rpm]), Some(Manager::Microdnf));
    }

    #[test]
    fn a_host_without_a_package_manager_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = Manager::detect(&Root::open(dir.path()).unwrap()).unwrap_err();
        let wanted = "this host has no package manager that kpull supports: for its system, none of apt, dnf, yum, microdnf and zypper is installed with a database of packages";
        assert_eq!(error.to_string(), wanted);
    }
}
