//! Packages by apt, dnf or yum: what is installed is read from the database, changes are made by the program.

use std::collections::{BTreeSet, HashMap};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::host::process::{Command, Output, argv, run, run_if_there};
use crate::host::read;
use crate::host::root::{Access, Root};

/// How long a package manager may take; most of it is the download.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// The program that packages are installed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, Hash, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// Debian and those after it.
    Apt,
    /// Fedora, RHEL from 8 on and those after them.
    Dnf,
    /// RHEL up to 7 and those after it.
    Yum,
}

/// One installed package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Its whole version, for RPMs as `EPOCH:VERSION-RELEASE`.
    pub version: String,
    /// Its architecture.
    pub arch: String,
    /// Whether all of it is done: one that is only unpacked, or whose script failed, is on the host and not installed.
    pub is_whole: bool,
}

impl Installed {
    /// Whether this is the version that `wanted` names. For RPMs the epoch, and the release, may be left out.
    pub fn is(&self, wanted: &str, manager: Manager) -> bool {
        let without_epoch = self.version.split_once(':').map_or(&*self.version, |(_, rest)| rest);
        let bare = without_epoch.rsplit_once('-').map_or(without_epoch, |(version, _)| version);
        self.version == wanted || (manager != Manager::Apt && (without_epoch == wanted || bare == wanted))
    }
}

/// What is installed of the packages that were asked for, by the name that they were asked by.
pub type Known = HashMap<String, Vec<Installed>>;

impl Manager {
    /// The one that this host has.
    pub fn detect(root: &Root) -> Result<Self> {
        let has = |path: &str| root.meta(Path::new(path)).map(|meta| meta.is_some());
        if has("/var/lib/dpkg/status")? && has("/usr/bin/apt-get")? {
            return Ok(Self::Apt);
        }
        if has("/var/lib/rpm")? || has("/usr/lib/sysimage/rpm")? {
            if has("/usr/bin/dnf")? {
                return Ok(Self::Dnf);
            }
            if has("/usr/bin/yum")? {
                return Ok(Self::Yum);
            }
        }
        Err(Error::new("this host has none of the package managers apt, dnf and yum")
            .help("install what is needed with an [[artifact]], or leave the packages out here with `when`"))
    }

    fn program(self) -> &'static str {
        match self {
            Self::Apt => "apt-get",
            Self::Dnf => "dnf",
            Self::Yum => "yum",
        }
    }

    /// The files that change when a package does.
    pub fn database(self) -> &'static [&'static str] {
        match self {
            Self::Apt => &["/var/lib/dpkg/status"],
            Self::Dnf | Self::Yum => &[
                "/var/lib/rpm/Packages",
                "/var/lib/rpm/Packages.db",
                "/var/lib/rpm/rpmdb.sqlite",
                "/var/lib/rpm/rpmdb.sqlite-wal",
                "/usr/lib/sysimage/rpm/rpmdb.sqlite",
                "/usr/lib/sysimage/rpm/rpmdb.sqlite-wal",
            ],
        }
    }

    /// What is installed of `names`; a name that isn't installed has an empty list.
    pub fn query(self, root: &Root, names: &BTreeSet<String>) -> Result<Known> {
        let mut known: Known = names.iter().map(|name| (name.clone(), Vec::new())).collect();
        match self {
            Self::Apt => {
                let path = Path::new("/var/lib/dpkg/status");
                if let Some((_, file)) = root.file(path)? {
                    read_status(BufReader::with_capacity(128 * 1024, file), &mut known)
                        .context(|| format!("can't read {}", path.display()))?;
                }
            }
            Self::Dnf | Self::Yum => {
                let format = "%{NAME}\\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\\t%{ARCH}\\n";
                let words = ["rpm", "-q", "--qf", format, "--"];
                let argv = argv(words.into_iter().chain(names.iter().map(String::as_str)));
                let output = run(&Command::new(&argv, Duration::from_secs(60)))?;
                // its exit status is the number of packages that aren't installed
                read_rpm(&String::from_utf8_lossy(&output.stdout), &mut known);
            }
        }
        Ok(known)
    }

    /// Installs packages, each in the version that is named with it. Nothing that is installed is removed for them, and
    /// unless `start` is set their services aren't started.
    pub fn install(self, root: &Root, packages: &[(&str, Option<&str>)], start: bool) -> Result<()> {
        let separator = if self == Self::Apt { '=' } else { '-' };
        let specs: Vec<String> = packages
            .iter()
            .map(|(name, version)| {
                version.map_or_else(|| (*name).to_owned(), |version| format!("{name}{separator}{version}"))
            })
            .collect();
        let _quiet = if self == Self::Apt && !start { Some(Quiet::new(root)?) } else { None };
        let options: &[&str] = match self {
            Self::Apt => &["install", "--no-install-recommends", "--no-remove", "--allow-downgrades"],
            Self::Dnf | Self::Yum => &["install"],
        };
        let mut output = self.run(options, &specs)?;
        if self == Self::Apt && !output.is_success() && is_index_stale(&output) {
            let update = self.run(&["update"], &[])?;
            if !update.is_success() {
                return Err(self.failure(&update, "can't update the index of packages".to_owned()));
            }
            output = self.run(options, &specs)?;
        }
        if output.is_success() {
            return Ok(());
        }
        Err(self.failure(&output, format!("can't install {}", specs.join(", "))))
    }

    /// Removes packages, but not when others, that need them, would go too.
    pub fn remove(self, names: &[&str]) -> Result<()> {
        let names = argv(names.iter().copied());
        let what = || format!("can't remove {}", names.join(", "));
        if self == Self::Apt {
            let tried = self.run(&["remove", "--simulate"], &names)?;
            if !tried.is_success() {
                return Err(self.failure(&tried, what()));
            }
            let others = removed(&String::from_utf8_lossy(&tried.stdout), &names);
            if !others.is_empty() {
                return Err(Error::new(what())
                    .because(format!("{} would go too", others.join(", ")))
                    .help("if they are to go as well, name them in the [[package]] that says `absent`"));
            }
        } else {
            let words = argv(["rpm", "-e", "--test", "--"].into_iter().chain(names.iter().map(String::as_str)));
            let tried = run(&Command::new(&words, Duration::from_secs(60)))?;
            if !tried.is_success() {
                return Err(tried
                    .failure(what())
                    .help("if those that need it are to go as well, name them in the [[package]] that says `absent`"));
            }
        }
        let options: &[&str] = match self {
            Self::Apt => &["remove", "--no-auto-remove"],
            Self::Dnf | Self::Yum => &["remove", "--setopt=clean_requirements_on_remove=0"],
        };
        let output = self.run(options, &names)?;
        if output.is_success() { Ok(()) } else { Err(self.failure(&output, what())) }
    }

    /// Runs the program. A dpkg that was interrupted, by a power cut for instance, ends its work first: apt refuses to go on
    /// otherwise.
    fn run(self, options: &[&str], names: &[String]) -> Result<Output> {
        let output = self.try_run(options, names)?;
        if self != Self::Apt || output.is_success() || !says(&output, INTERRUPTED) {
            return Ok(output);
        }
        let ended = run(&unattended(&argv(["dpkg", "--force-confdef", "--force-confold", "--configure", "-a"])))?;
        if ended.is_success() { self.try_run(options, names) } else { Ok(ended) }
    }

    fn try_run(self, options: &[&str], names: &[String]) -> Result<Output> {
        let mut words = vec![self.program()];
        words.extend(options);
        words.push("-y");
        if self == Self::Apt {
            if !is_lock_time_set()? {
                words.extend(["-o", "DPkg::Lock::Timeout=300"]);
            }
            words.extend(["-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"]);
        }
        if !names.is_empty() {
            words.push("--");
            words.extend(names.iter().map(String::as_str));
        }
        run(&unattended(&argv(words)))
    }

    /// The error that the program failed, with advice by what it said.
    fn failure(self, output: &Output, what: String) -> Error {
        let says = |words: &str| says(output, words);
        let error = output.failure(what);
        if says("Could not get lock") || says("is another process using it") || says("Another app is currently holding")
        {
            let holder = lock_holder(output).unwrap_or_else(|| "another program".to_owned());
            error
                .passing()
                .help(format!("{holder} has the package manager's lock; the next run goes on when it has ended"))
        } else if says(INTERRUPTED) {
            error.help("run `dpkg --configure -a` by hand and look at what it says")
        } else if says("but remove is disabled") {
            error.help("a package that is installed is in the way: say with a [[package]] that it is absent")
        } else if says("Unable to locate package") || says("Unable to find a match") || says("No package") {
            error.help("check the name, and that the repository which has it is set up on this host")
        } else if self == Self::Apt && says("was not found") {
            error.help("see which versions there are with `apt-cache madison NAME`")
        } else if says("No space left on device") {
            error.help("free some space and run again")
        } else {
            error.help(format!("run the same with `{}` by hand to see all that it says", self.program()))
        }
    }
}

const INTERRUPTED: &str = "dpkg was interrupted";

fn says(output: &Output, words: &str) -> bool {
    String::from_utf8_lossy(&output.stderr).contains(words)
}

/// Who has the lock that apt could not get: `process 4711 (apt-get)`. apt itself does not always say.
fn lock_holder(output: &Output) -> Option<String> {
    const LOCKS: [&str; 4] = [
        "/var/lib/dpkg/lock-frontend",
        "/var/lib/dpkg/lock",
        "/var/lib/apt/lists/lock",
        "/var/cache/apt/archives/lock",
    ];
    let file = std::fs::File::open(LOCKS.into_iter().find(|path| says(output, path))?).ok()?;
    let (l_type, unlocked) = (i16::try_from(libc::F_WRLCK).ok()?, i16::try_from(libc::F_UNLCK).ok()?);
    let mut lock = libc::flock { l_type, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    fcntl(&file, FcntlArg::F_GETLK(&mut lock)).ok()?;
    let pid = Some(lock.l_pid).filter(|pid| lock.l_type != unlocked && *pid > 0)?;
    let name = read::kernel(&format!("/proc/{pid}/comm")).ok()?;
    Some(format!("process {pid} ({})", name.trim_end()))
}

/// A program of a package manager, with nobody there to answer its questions.
fn unattended(argv: &[String]) -> Command<'_> {
    static ENV: LazyLock<[(String, String); 2]> = LazyLock::new(|| {
        [("DEBIAN_FRONTEND", "noninteractive"), (QUIET_MARK, "1")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
    });
    Command { env: &*ENV, ..Command::new(argv, PATIENCE) }
}

/// Whether this host's own configuration says how long apt is to wait for a lock.
fn is_lock_time_set() -> Result<bool> {
    let ask = argv(["apt-config", "shell", "TIME", "DPkg::Lock::Timeout"]);
    Ok(run_if_there(&Command::new(&ask, Duration::from_secs(60)))?.is_some_and(|output| !output.stdout.is_empty()))
}

/// Whether an update of the index may help.
fn is_index_stale(output: &Output) -> bool {
    ["Unable to locate package", "no installation candidate", "404  Not Found", "was not found", "Unable to fetch"]
        .iter()
        .any(|words| says(output, words))
}

/// What `apt-get remove --simulate` would remove besides `names`.
fn removed(simulation: &str, names: &[String]) -> Vec<String> {
    let gone = simulation.lines().filter_map(|line| line.strip_prefix("Remv ")?.split(' ').next());
    let bare = |name: &str| name.split(':').next().unwrap_or_default().to_owned();
    gone.map(bare).filter(|name| !names.iter().any(|wanted| bare(wanted) == *name)).collect()
}

/// Goes through dpkg's status file, and notes what is installed of the names in `known`.
fn read_status(mut status: impl BufRead, known: &mut Known) -> std::io::Result<()> {
    let mut line = Vec::new();
    let mut entry: HashMap<&str, String> = HashMap::new();
    loop {
        line.clear();
        let length = status.read_until(b'\n', &mut line)?;
        let text = line.trim_ascii_end();
        for field in ["Package", "Status", "Architecture", "Version"] {
            if let Some(value) = text.strip_prefix(field.as_bytes()).and_then(|rest| rest.strip_prefix(b": ")) {
                entry.insert(field, String::from_utf8_lossy(value).into_owned());
            }
        }
        if text.is_empty() {
            note(&entry, known);
            entry.clear();
        }
        if length == 0 {
            return Ok(());
        }
    }
}

fn note(entry: &HashMap<&str, String>, known: &mut Known) {
    let field = |name: &str| entry.get(name).map(String::as_str).unwrap_or_default();
    let is_whole = match field("Status").rsplit(' ').next().unwrap_or_default() {
        "installed" | "triggers-awaited" | "triggers-pending" => true,
        "unpacked" | "half-configured" | "half-installed" => false,
        _ => return,
    };
    let (name, arch) = (field("Package"), field("Architecture"));
    for asked in [name.to_owned(), format!("{name}:{arch}")] {
        if let Some(installed) = known.get_mut(&asked) {
            installed.push(Installed { version: field("Version").to_owned(), arch: arch.to_owned(), is_whole });
        }
    }
}

fn read_rpm(answer: &str, known: &mut Known) {
    for line in answer.lines() {
        let mut fields = line.split('\t');
        let (Some(name), Some(version), Some(arch)) = (fields.next(), fields.next(), fields.next()) else { continue };
        if let Some(installed) = known.get_mut(name) {
            installed.push(Installed { version: version.to_owned(), arch: arch.to_owned(), is_whole: true });
        }
    }
}

const POLICY: &str = "/usr/sbin/policy-rc.d";
const QUIET_MARK: &str = "KPULL_INSTALLS";

/// Keeps Debian's packages from starting services while they are installed, until it is dropped. Another policy that is
/// there already stays, and decides.
///
/// The policy holds only for what our own installation runs, which it knows by a variable in the environment: one that a
/// killed run leaves behind stands in nobody's way, and the next run takes it away.
struct Quiet<'a> {
    root: &'a Root,
}

impl<'a> Quiet<'a> {
    fn new(root: &'a Root) -> Result<Option<Self>> {
        let path = Path::new(POLICY);
        let script = format!(
            "#!/bin/sh\n# by kpull, while it installs packages; safe to remove\n\
             [ -z \"${QUIET_MARK}\" ] || exit 101\n"
        );
        match root.read(path)? {
            Some((_, content)) if content == script.as_bytes() => {}
            Some(_) => return Ok(None),
            None if root.meta(path)?.is_some() => return Ok(None),
            None => root.write(path, script.as_bytes(), Access { mode: 0o755, uid: None, gid: None })?,
        }
        Ok(Some(Self { root }))
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.root.remove(Path::new(POLICY)) {
            log::warn!("{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(names: &[&str]) -> Known {
        names.iter().map(|name| ((*name).to_owned(), Vec::new())).collect()
    }

    fn installed(version: &str, arch: &str) -> Installed {
        Installed { version: version.to_owned(), arch: arch.to_owned(), is_whole: true }
    }

    #[test]
    fn dpkg_s_status_tells_what_is_installed() {
        let status = "Package: a\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:2-3\nDescription: x\n Package: c\n\n\
                      Package: b\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n\n\
                      Package: d\nStatus: install ok half-configured\nArchitecture: all\nVersion: 1\n\n\
                      Package: e\nStatus: install ok triggers-pending\nArchitecture: i386\nVersion: 4";
        let mut known = asked(&["a", "b", "c", "d", "e", "e:i386", "e:amd64"]);
        read_status(status.as_bytes(), &mut known).unwrap();
        assert_eq!(known["a"], [installed("1:2-3", "amd64")]);
        assert_eq!(known["e"], [installed("4", "i386")]);
        assert_eq!(known["e:i386"], known["e"]);
        assert_eq!(known["d"], [Installed { is_whole: false, ..installed("1", "all") }]);
        for absent in ["b", "c", "e:amd64"] {
            assert!(known[absent].is_empty(), "{absent}");
        }
    }

    #[test]
    fn rpm_s_answer_tells_what_is_installed() {
        let mut known = asked(&["a", "b"]);
        read_rpm("a\t0:1.2-3.el7\tx86_64\npackage b is not installed\n", &mut known);
        assert_eq!(known["a"], [installed("0:1.2-3.el7", "x86_64")]);
        assert!(known["b"].is_empty());
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
    fn what_would_be_removed_too_is_found_in_a_simulation() {
        let simulation = "Reading…\nRemv b [1] [c:amd64 ]\nRemv libx:i386 [2]\nRemv a [1]\n";
        assert_eq!(removed(simulation, &argv(["a", "libx:i386"])), ["b"]);
    }

    #[test]
    fn the_policy_holds_for_our_own_installation_and_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let script = dir.path().join("usr/sbin/policy-rc.d").display().to_string();
        let quiet = Quiet::new(&root).unwrap();
        let status = |env: &[(String, String)]| {
            // through sh: a test that forks just now may hold the file open, and a busy file can't be started
            let argv = argv(["sh", script.as_str(), "nginx", "start"]);
            let output = run(&Command { env, ..Command::new(&argv, Duration::from_secs(60)) }).unwrap();
            output.verdict()
        };
        assert_eq!(status(&[]), "exit status: 0");
        assert_eq!(status(&[(QUIET_MARK.to_owned(), "1".to_owned())]), "exit status: 101");
        drop(quiet);
        assert!(!dir.path().join("usr/sbin/policy-rc.d").exists());
    }

    #[test]
    fn the_policy_of_somebody_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        std::fs::create_dir_all(dir.path().join("usr/sbin")).unwrap();
        std::fs::write(dir.path().join("usr/sbin/policy-rc.d"), "theirs").unwrap();
        assert!(Quiet::new(&root).unwrap().is_none());
        assert_eq!(std::fs::read_to_string(dir.path().join("usr/sbin/policy-rc.d")).unwrap(), "theirs");
    }

    #[test]
    fn a_host_without_a_package_manager_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let error = Manager::detect(&Root::open(dir.path()).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "this host has none of the package managers apt, dnf and yum");
    }
}
