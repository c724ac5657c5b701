//! The launcher: a process of kpull that leaves its terminal, closes every file except standard input, output and errors, and then
//! executes another program.
//!
//! Whoever can open a terminal can read what is typed there and type in root's name (`TIOCSTI`). A process can leave its terminal
//! only by starting a session, which the standard library doesn't offer. Without a terminal, such as under systemd, programs are
//! started directly.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};

use super::Identity;

/// The argument that makes this process the launcher of the program that follows.
pub const COMMAND: &str = "launch";

/// This program, even if its file was replaced meanwhile.
pub(super) const PROGRAM: &str = "/proc/self/exe";

/// The exit code of shells for a program that exists and can't be run.
const NOT_RUN: i32 = 126;

/// Whether this process is kpull, which can be started as a launcher, and not another program that uses the library.
static IS_KPULL: AtomicBool = AtomicBool::new(false);
/// Whether this process has inherited files that its programs must not inherit.
static HAS_MORE: AtomicBool = AtomicBool::new(false);

/// Declares that this process is kpull itself, and closes inherited files except those that `arguments` name (`/dev/fd/63`, which a
/// shell passes for `<(…)`). Call this before anything is opened.
pub fn prepare(arguments: impl Iterator<Item = OsString>) {
    let named: Vec<RawFd> = arguments.filter_map(|word| descriptor_in(word.to_str()?)).collect();
    HAS_MORE.store(!named.is_empty(), Ordering::Relaxed);
    IS_KPULL.store(true, Ordering::Relaxed);
    close_all_but(&named);
}

/// The number of an open file of this process that an argument names.
fn descriptor_in(argument: &str) -> Option<RawFd> {
    let after = ["/dev/fd/", "/proc/self/fd/"].iter().find_map(|start| Some(argument.split_once(start)?.1))?;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Whether programs have to be started by a launcher.
pub(super) fn is_needed() -> bool {
    static HAS_TERMINAL: OnceLock<bool> = OnceLock::new();
    let is_kpull = IS_KPULL.load(Ordering::Relaxed);
    is_kpull && (HAS_MORE.load(Ordering::Relaxed) || *HAS_TERMINAL.get_or_init(has_terminal))
}

/// Whether this process has a terminal that its programs would inherit.
fn has_terminal() -> bool {
    let open = OpenOptions::new().read(true).custom_flags(nix::libc::O_NOCTTY | nix::libc::O_NONBLOCK).open("/dev/tty");
    // without such a file no program finds the terminal either
    !open.is_err_and(|why| matches!(Errno::from_raw(why.raw_os_error().unwrap_or(0)), Errno::ENXIO | Errno::ENOENT))
}

/// Becomes the leader of a new session, which has no terminal.
pub fn leave_terminal() -> nix::Result<()> {
    nix::unistd::setsid().map(drop)
}

/// Closes every open file besides standard input, output and errors.
pub fn close_inherited() {
    close_all_but(&[]);
}

fn close_all_but(kept: &[RawFd]) {
    let named = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let open: Vec<RawFd> = match std::fs::read_dir("/proc/self/fd") {
        Ok(open) => open.flatten().filter_map(named).collect(),
        Err(_) => {
            // a file above the limit was opened before the limit was lowered
            let (most, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
            (0..RawFd::try_from(most).unwrap_or(1 << 20).min(1 << 20)).collect()
        }
    };
    for fd in open.into_iter().filter(|fd| *fd > 2 && !kept.contains(fd)) {
        // the one that the list was read from is closed already
        let _ = nix::unistd::close(fd);
    }
}

/// The argument for kpull's own user.
const ROOT: &str = "-";

/// The argument with the user and group that a launcher runs its program as.
pub(super) fn identity_word(identity: Option<&Identity>) -> String {
    identity.map_or_else(|| ROOT.to_owned(), |identity| format!("{}:{}", identity.uid, identity.gid))
}

/// User and group of such an argument.
fn user_and_group(word: &OsString) -> Option<(u32, u32)> {
    let (uid, gid) = word.to_str()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

/// Runs this process as a launcher: it executes the program that `words` name, and returns only if it can't, with the exit code.
pub fn main(mut words: impl Iterator<Item = OsString>) -> i32 {
    close_inherited();
    let (Some(identity), Some(program)) = (words.next(), words.next()) else { return NOT_RUN };
    // the parent process reports this
    eprintln!("can't run {}: {}", program.to_string_lossy(), become_program(&identity, &program, words));
    NOT_RUN
}

/// Executes the program; returns why it can't. The process stays root until it has left the terminal: another process of the user
/// could take over one that still has it.
fn become_program(identity: &OsString, program: &OsString, arguments: impl Iterator<Item = OsString>) -> io::Error {
    let user = user_and_group(identity);
    let prepared = leave_terminal().and_then(|()| match user {
        Some((1.., _)) => nix::sys::prctl::set_no_new_privs(),
        Some(_) => Ok(()),
        None if identity == ROOT => Ok(()),
        None => Err(Errno::EINVAL),
    });
    if let Err(errno) = prepared {
        return errno.into();
    }
    let mut process = super::new(program);
    process.args(arguments);
    if let Some((uid, gid)) = user {
        // enter the directory again, as that user
        process.uid(uid).gid(gid).current_dir(".");
    }
    process.exec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_names_an_open_file_by_its_number() {
        for (argument, number) in [
            ("/dev/fd/63", Some(63)),
            ("--config=/dev/fd/9", Some(9)),
            ("/proc/self/fd/5/x", Some(5)),
            ("/dev/fd/", None),
            ("/dev/fd/-1", None),
            ("/dev/fd/99999999999", None),
            ("fd/3", None),
        ] {
            assert_eq!(descriptor_in(argument), number, "{argument}");
        }
    }
}
