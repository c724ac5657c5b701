//! Interprets the messages of failing package managers, and adds advice.

use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::Manager;
use crate::error::{Error, code};
use crate::host::process::Output;
use crate::read;

pub(super) const INTERRUPTED: &str = "dpkg was interrupted";
const HELD: &str = "Held packages were changed";
const FULL: &str = "No space left on device";
/// Messages of all but apt when a download fails.
pub(super) const NOT_FETCHED: &str = "rror downloading packages|Failed to download|Cannot download|Cannot retrieve|Curl error|\
    Download (curl) error|not found on medium";
/// Messages about a package that no source has; yum writes it to its standard output.
const NO_SUCH: &str = "Unable to locate package|Unable to find a match|No match for argument|No package |No provider of '|\
    ' not found.";

impl Manager {
    /// The error for a failure of the program, with advice from its messages.
    pub(super) fn failure(self, output: &Output, what: String) -> Error {
        let says = |words: &str| says(output, words);
        let error = output.failure(what);
        if is_locked(output) {
            let holder = lock_holder(output).unwrap_or_else(|| "another program".to_owned());
            let help = format!("{holder} has the package manager's lock; the next run continues when it has ended");
            error.passing().help(help)
        } else if says(HELD) {
            let held = held(output).join(" ");
            let help = format!("a package is on hold on this host: run `apt-mark unhold {held}` to allow the change");
            error.of_host().help(help)
        } else if prints(output, "remove lock to allow") {
            error.of_host().help(
                "a package is locked on this host: `zypper locks` lists it, `zypper removelock` allows the change",
            )
        } else if says("but remove is disabled") {
            error.help("an installed package conflicts with it: remove that package with `state = \"absent\"`")
        } else if says(NO_SUCH) || prints(output, NO_SUCH) {
            error.help("check the name, and that its repository is configured on this host")
        } else if let Some(name) = not_there(output).filter(|_| self == Self::Apt) {
            error.help(format!(
                "`apt-cache policy {name}` shows which versions are available, and whether a pin in /etc/apt/preferences.d excludes them"
            ))
        } else if says(FULL) {
            error.with_code(code::SPACE).help("free some space and run again")
        } else {
            error.help(format!("run `{}` by hand with the same arguments to see its full output", self.program()))
        }
    }
}

/// Whether the error output has one of these texts, which `|` separates.
pub(super) fn says(output: &Output, texts: &str) -> bool {
    has_one_of(&output.stderr, texts)
}

/// The same for the standard output.
pub(super) fn prints(output: &Output, texts: &str) -> bool {
    has_one_of(&output.stdout, texts)
}

fn has_one_of(output: &[u8], texts: &str) -> bool {
    let output = String::from_utf8_lossy(output);
    texts.split('|').any(|text| output.contains(text))
}

/// The process that holds the lock that apt could not get: `process 4711 (apt-get)`. apt itself does not always name it.
pub(super) fn lock_holder(output: &Output) -> Option<String> {
    const LOCKS: &str =
        "/var/lib/dpkg/lock-frontend /var/lib/dpkg/lock /var/lib/apt/lists/lock /var/cache/apt/archives/lock";
    let file = read::open_named(Path::new(LOCKS.split(' ').find(|path| says(output, path))?)).ok()?;
    let (l_type, unlocked) = (i16::try_from(libc::F_WRLCK).ok()?, i16::try_from(libc::F_UNLCK).ok()?);
    let mut lock = libc::flock { l_type, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    fcntl(&file, FcntlArg::F_GETLK(&mut lock)).ok()?;
    let pid = Some(lock.l_pid).filter(|pid| lock.l_type != unlocked && *pid > 0)?;
    let name = read::kernel(&format!("/proc/{pid}/comm")).ok()?;
    Some(format!("process {pid} ({})", name.trim_end()))
}

/// Whether another program holds the package manager's lock.
pub(super) fn is_locked(output: &Output) -> bool {
    const LOCKED: &str = "Could not get lock|is another process using it|Another app is currently holding|\
        System management is locked";
    says(output, LOCKED)
}

/// The packages on hold among those that apt was to change.
pub(super) fn held(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().skip_while(|line| !line.starts_with("The following held packages")).skip(1);
    let names = lines.take_while(|line| line.starts_with(' ')).flat_map(str::split_whitespace);
    names.map(|name| name.trim_end_matches('*').to_owned()).collect()
}

/// The package for which apt has no allowed version, or not the requested one.
pub(super) fn not_there(output: &Output) -> Option<String> {
    let text = String::from_utf8_lossy(&output.stderr);
    let line =
        text.lines().find(|line| line.contains("was not found") || line.contains("no installation candidate"))?;
    line.rsplit('\'').nth(1).map(str::to_owned)
}

/// Whether updating the lists of packages may help.
pub(super) fn may_be_stale(output: &Output) -> bool {
    !is_locked(output) && !says(output, HELD) && !says(output, FULL) && !says(output, "but remove is disabled")
}

/// Whether this host refuses a source, or its configuration is invalid: a later run won't change that.
pub(super) fn is_mistaken(output: &Output) -> bool {
    // apt, dnf and yum; zypper; dnf5
    const MISTAKES: &str = "GPG|NO_PUBKEY|is not signed|unauthenticated packages|could not be read|could not be parsed|Malformed|\
        is not known on line|Conflicting values set|onfig error|Parsing file|\
        Signature verification failed|contains garbage|\
        OpenPGP";
    says(output, MISTAKES)
}

#[cfg(test)]
mod tests {
    use super::super::tests::exited;
    use super::*;

    #[test]
    fn the_messages_of_a_package_manager_decide_the_advice() {
        // zypper 1.14.42 as it ran; the others as they are written in the sources of yum 3.4.3, microdnf 3.10 and dnf5
        let advice = |manager: Manager, code: i32, stdout: &str, stderr: &str| {
            let (stdout, stderr) = (stdout.as_bytes().to_vec(), stderr.as_bytes().to_vec());
            let output = exited(code, stdout, stderr);
            assert!(!manager.has_succeeded(&output));
            let error = manager.failure(&output, "can't install x".into());
            (error.advice().unwrap().to_owned(), may_be_stale(&output) && says(&output, NOT_FETCHED))
        };
        let name = "check the name, and that its repository is configured on this host";
        for (manager, code, stdout, stderr) in [
            (Manager::Yum, 1, "No package x available.\n", "Error: Nothing to do\n"),
            (Manager::Dnf, 1, "", "Error: Unable to find a match: x\n"),
            (Manager::Dnf, 1, "", "Failed to resolve the transaction:\nNo match for argument: x\n"),
            (Manager::Microdnf, 1, "", "error: No package matches 'x'\n"),
            (Manager::Zypper, 104, "", "Package 'x' not found.\n"),
            (Manager::Zypper, 104, "", "No provider of 'x' found.\n"),
        ] {
            assert_eq!(advice(manager, code, stdout, stderr), (name.to_owned(), false), "{stdout}{stderr}");
        }
        for (manager, stderr) in [
            (Manager::Yum, "Error downloading packages:\n  x-1-1.noarch: [Errno 256] No more mirrors to try.\n"),
            (Manager::Dnf, ">>> Curl error (7): Could not connect to server for http://x/ [Connection refused]\n"),
            (
                Manager::Microdnf,
                "error: cannot update repo 'x': Cannot download repomd.xml: Curl error (7): Couldn't connect\n",
            ),
            (Manager::Zypper, "Download (curl) error for 'http://x/':\nError code: Connection failed\n"),
            (Manager::Zypper, "File './x-1-1.noarch.rpm' not found on medium 'http://x/'\n"),
        ] {
            assert!(advice(manager, 8, "", stderr).1, "{stderr}");
        }
        let locked =
            advice(Manager::Zypper, 7, "", "System management is locked by the application with pid 9 (zypper).\n");
        assert_eq!(
            locked.0,
            "another program has the package manager's lock; the next run continues when it has ended"
        );
        let stdout =
            "Problem: conflicting requests\n Solution 1: remove lock to allow installation of x-1-1.noarch[lab]\n";
        assert!(advice(Manager::Zypper, 4, stdout, "").0.contains("zypper removelock"));
        assert!(is_mistaken(&exited(
            8,
            Vec::new(),
            b"x (lab): Signature verification failed [6-File is unsigned]".into()
        )));
        for code in [102, 103, 106, 107] {
            assert!(Manager::Zypper.has_succeeded(&exited(code, Vec::new(), Vec::new())), "{code}");
            assert!(!Manager::Dnf.has_succeeded(&exited(code, Vec::new(), Vec::new())), "{code}");
        }
    }
}
