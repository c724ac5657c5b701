//! A clock that is wrong for one process, and right for everybody else. The program is linked statically and asks the vDSO, so
//! nothing can be loaded in front of its clock (libfaketime): it is traced, the vDSO is hidden from it, and what the
//! kernel answers about the time is changed on its way.

use std::fs;
use std::io::{Read as _, Seek as _};
use std::process::{Command, Stdio};

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::site::{Output, Tree};

/// A year, in seconds.
pub const YEAR: i64 = 365 * 24 * 3600;

/// What tells the kernel's entry code from another; what `clock_gettime` has there, on the only target that there is.
const CLOCK_GETTIME: u64 = 228;
/// Of a program's auxiliary vector: where the vDSO is; to be ignored.
const SYSINFO_EHDR: i64 = 33;
const IGNORE: i64 = 1;

/// Runs `kpull COMMAND --json --root TREE` with a clock that is off by what `offset` says, in seconds, of the first time that it is
/// looked at, the second, and so on. How the run ended, and how often it looked.
pub fn with_clock(tree: &Tree, command: &str, offset: &dyn Fn(usize) -> i64) -> (Output, usize) {
    let [mut stdout, mut stderr] = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
    let child = Command::new("sh")
        .args(["-c", "kill -STOP $$; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_kpull"), command, "--json", "--root"])
        .arg(tree.path())
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().unwrap())
        .stderr(stderr.try_clone().unwrap())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(child.id().cast_signed());
    assert_eq!(waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap(), WaitStatus::Stopped(pid, Signal::SIGSTOP));
    let options = Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL;
    ptrace::seize(pid, options).unwrap();
    kill(pid, Signal::SIGCONT).unwrap();
    let mut looks = 0;
    let code = loop {
        match waitpid(pid, None).unwrap() {
            WaitStatus::Exited(_, code) => break code,
            WaitStatus::PtraceEvent(_, _, event) if event == ptrace::Event::PTRACE_EVENT_EXEC as i32 => {
                hide_vdso(pid);
                ptrace::syscall(pid, None).unwrap();
            }
            WaitStatus::PtraceEvent(..) => ptrace::cont(pid, None).unwrap(),
            WaitStatus::PtraceSyscall(_) => {
                let registers = ptrace::getregs(pid).unwrap();
                // on the way back from a look at the time of day
                if registers.orig_rax == CLOCK_GETTIME && registers.rax == 0 && registers.rdi == 0 {
                    add(pid, registers.rsi, offset(looks));
                    looks += 1;
                }
                ptrace::syscall(pid, None).unwrap();
            }
            WaitStatus::Stopped(_, Signal::SIGCONT) => ptrace::cont(pid, Signal::SIGCONT).unwrap(),
            WaitStatus::Stopped(_, signal) => ptrace::syscall(pid, signal).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    let read = |file: &mut fs::File| {
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    };
    (Output { code, stdout: read(&mut stdout), stderr: read(&mut stderr) }, looks)
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
