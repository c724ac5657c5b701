//! A run of kpull that is traced: how much memory it took, and, when that is wanted, with a clock that is wrong for it alone.
//!
//! The program is linked statically and asks the vDSO for the time, so nothing can be loaded in front of its clock (libfaketime).
//! Here the vDSO is hidden from it, and what the kernel answers about the time is changed on its way.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::process::{Command, Stdio};

use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::support::site::{Output, Tree};

/// A day, in seconds.
pub const DAY: i64 = 24 * 3600;
/// A year, in seconds.
pub const YEAR: i64 = 365 * DAY;

/// The number of the system call, on the only target that there is.
const CLOCK_GETTIME: u64 = 228;
/// Of a program's auxiliary vector: where the vDSO is; to be ignored.
const SYSINFO_EHDR: i64 = 33;
const IGNORE: i64 = 1;

/// What a traced run came to.
pub struct Traced {
    /// How it ended.
    pub output: Output,
    /// How often it read the clock; 0 if its clock was left alone.
    pub looks: usize,
    /// The most memory that it had at once, in KiB.
    pub peak: u64,
}

/// Runs `kpull COMMAND --json --root TREE` with a clock that is off by what `offset` returns, in seconds, for the first
/// reading, the second, and so on. Returns how the run ended, and how often it read the clock.
pub fn with_clock(tree: &Tree, command: &str, offset: &dyn Fn(usize) -> i64) -> (Output, usize) {
    let Traced { output, looks, .. } = traced(tree, command, "4096", Some(offset));
    (output, looks)
}

/// Runs `kpull COMMAND --json --root TREE`, with that many open files at most.
#[allow(clippy::zombie_processes, reason = "it is waited for by its number, as what is traced has to be")]
pub fn traced(tree: &Tree, command: &str, files: &str, offset: Option<&dyn Fn(usize) -> i64>) -> Traced {
    let [stdout, stderr] = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
    let script = "ulimit -n \"$1\"; shift; kill -STOP $$; exec \"$@\"";
    let child = Command::new("sh")
        .args(["-c", script, "sh", files, env!("CARGO_BIN_EXE_kpull"), command, "--json", "--root"])
        .arg(tree.path())
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().unwrap())
        .stderr(stderr.try_clone().unwrap())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(child.id().cast_signed());
    assert_eq!(waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap(), WaitStatus::Stopped(pid, Signal::SIGSTOP));
    let what = Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_TRACEEXIT | Options::PTRACE_O_TRACESYSGOOD;
    ptrace::seize(pid, what | Options::PTRACE_O_EXITKILL).unwrap();
    kill(pid, Signal::SIGCONT).unwrap();
    let go_on = |signal| match offset {
        Some(_) => ptrace::syscall(pid, signal).unwrap(),
        None => ptrace::cont(pid, signal).unwrap(),
    };
    let (mut looks, mut peak) = (0, 0);
    let code = loop {
        match waitpid(pid, None).unwrap() {
            WaitStatus::Exited(_, code) => break code,
            WaitStatus::PtraceEvent(_, _, event) => {
                if event == Event::PTRACE_EVENT_EXEC as i32 && offset.is_some() {
                    hide_vdso(pid);
                }
                if event == Event::PTRACE_EVENT_EXIT as i32 {
                    peak = most_memory(pid);
                }
                go_on(None);
            }
            WaitStatus::PtraceSyscall(_) => {
                let registers = ptrace::getregs(pid).unwrap();
                // on the return from a reading of the time of day
                if registers.orig_rax == CLOCK_GETTIME && registers.rax == 0 && registers.rdi == 0 {
                    add(pid, registers.rsi, offset.map_or(0, |offset| offset(looks)));
                    looks += 1;
                }
                go_on(None);
            }
            WaitStatus::Stopped(_, signal) => go_on(Some(signal)),
            other => panic!("{other:?}"),
        }
    };
    let output = Output { code, stdout: text(stdout), stderr: text(stderr) };
    Traced { output, looks, peak }
}

fn text(mut file: File) -> String {
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

/// What the kernel counted until now, in KiB.
fn most_memory(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn at(address: u64) -> ptrace::AddressType {
    std::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap())
}

fn add(pid: Pid, address: u64, seconds: i64) {
    let now = ptrace::read(pid, at(address)).unwrap();
    ptrace::write(pid, at(address), now + seconds).unwrap();
}

/// Goes over what the kernel put on the stack of a program that begins: arguments, variables, the auxiliary vector.
fn hide_vdso(pid: Pid) {
    let mut address = ptrace::getregs(pid).unwrap().rsp + 8;
    let mut next = || {
        let word = ptrace::read(pid, at(address)).unwrap();
        address += 8;
        (address - 8, word)
    };
    // two lists, each with a zero at its end
    for _ in 0..2 {
        while next().1 != 0 {}
    }
    loop {
        let (place, kind) = next();
        match kind {
            0 => panic!("there is no vDSO to hide"),
            SYSINFO_EHDR => return ptrace::write(pid, at(place), IGNORE).unwrap(),
            _ => next(),
        };
    }
}
