//! The way of a program that is started out of the terminal: a process of this program that gives up its terminal and every
//! file that is open besides standard input, output and errors, and then becomes that program.
//!
//! Where somebody works at a terminal, whoever may open it can read what is typed and type in root's name (`TIOCSTI`). A
//! process leaves its terminal for a new session only, and the standard library starts none; where there is no terminal,
//! under systemd for instance, programs are started without this.

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

use super::process::{self, Identity};

/// The argument that makes this program the launcher of what comes after it.
pub const COMMAND: &str = "launch";

/// This program, whatever has happened to its file meanwhile.
pub(super) const PROGRAM: &str = "/proc/self/exe";

/// What shells answer when a program is there and can't be run.
const NOT_RUN: i32 = 126;

/// Whether this process is kpull, which can be started as a launcher, and not another program that uses the library.
static IS_KPULL: AtomicBool = AtomicBool::new(false);
/// Whether files were left open for this process that its programs must not get.
static HAS_MORE: AtomicBool = AtomicBool::new(false);

/// Says that this process is kpull itself, and closes what its own parent has left open, but for what `arguments` name
/// (`/dev/fd/63`, which a shell makes of `<(…)`). Has to come before anything is opened.
pub fn prepare(arguments: impl Iterator<Item = OsString>) {
    let named: Vec<RawFd> = arguments.filter_map(|word| descriptor_in(word.to_str()?)).collect();
    HAS_MORE.store(!named.is_empty(), Ordering::Relaxed);
    IS_KPULL.store(true, Ordering::Relaxed);
    close_all_but(&named);
}

/// The number of an open file of this process, where an argument names one.
fn descriptor_in(argument: &str) -> Option<RawFd> {
    let after = ["/dev/fd/", "/proc/self/fd/"].iter().find_map(|start| Some(argument.split_once(start)?.1))?;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Whether a program has to be started by a launcher.
pub(super) fn is_needed() -> bool {
    static HAS_TERMINAL: OnceLock<bool> = OnceLock::new();
    let is_kpull = IS_KPULL.load(Ordering::Relaxed);
    is_kpull && (HAS_MORE.load(Ordering::Relaxed) || *HAS_TERMINAL.get_or_init(has_terminal))
}

/// Whether this process has a terminal that its programs would inherit.
fn has_terminal() -> bool {
    let open = OpenOptions::new().read(true).custom_flags(nix::libc::O_NOCTTY | nix::libc::O_NONBLOCK).open("/dev/tty");
    // without such a file nobody finds the terminal either
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
            // what is above the limit was opened before somebody lowered it
            let (most, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
            (0..RawFd::try_from(most).unwrap_or(1 << 20).min(1 << 20)).collect()
        }
    };
    for fd in open.into_iter().filter(|fd| *fd > 2 && !kept.contains(fd)) {
        // the one that the list was read from is gone by now
        let _ = nix::unistd::close(fd);
    }
}

/// That argument for whoever runs this program.
const ROOT: &str = "-";

/// The argument that tells a launcher whom its program runs as.
pub(super) fn whom(identity: Option<&Identity>) -> String {
    identity.map_or_else(|| ROOT.to_owned(), |identity| format!("{}:{}", identity.uid, identity.gid))
}

/// User and group of such an argument.
fn user_and_group(whom: &OsString) -> Option<(u32, u32)> {
    let (uid, gid) = whom.to_str()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

/// Runs this process as a launcher: it becomes the program that `words` name, and returns only where it can't, with the
/// code to exit with.
pub fn main(mut words: impl Iterator<Item = OsString>) -> i32 {
    close_inherited();
    let (Some(whom), Some(program)) = (words.next(), words.next()) else { return NOT_RUN };
    // whoever has started it shows this
    eprintln!("can't run {}: {}", program.to_string_lossy(), become_program(&whom, &program, words));
    NOT_RUN
}

/// Why it can't become the program. It is root until it has left the terminal: another process of the user could take over
/// one of the user's that still has it.
fn become_program(whom: &OsString, program: &OsString, arguments: impl Iterator<Item = OsString>) -> io::Error {
    let user = user_and_group(whom);
    let prepared = leave_terminal().and_then(|()| match user {
        Some((1.., _)) => nix::sys::prctl::set_no_new_privs(),
        Some(_) => Ok(()),
        None if whom == ROOT => Ok(()),
        None => Err(Errno::EINVAL),
    });
    if let Err(errno) = prepared {
        return errno.into();
    }
    let mut process = process::new(program);
    process.args(arguments);
    if let Some((uid, gid)) = user {
        // this directory, as that user
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
