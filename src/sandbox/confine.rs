//! Gives up every right that talking to the network doesn't need, irrevocably.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, Scope, make_bitflags,
};
use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use seccompiler::{BpfProgram, TargetArch};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::filter;
use crate::error::{Context, Error, Result, code, error};
use crate::read;

/// The newest version of Landlock that is requested; an older kernel enforces what it has.
const LANDLOCK: ABI = ABI::V6;

/// The largest file, in bytes: a pack, with room to spare.
const FILE_MAX: u64 = 512 << 20;
/// Address space, in bytes: the largest pack and the largest object in it, twice over.
const MEMORY_MAX: u64 = 2 << 30;
/// Open files.
const FILES_MAX: u64 = 256;
/// Requests of `ioctl` (`asm-generic/ioctls.h`); C libraries disagree about their type.
const DO_NOT_BLOCK: i32 = 0x5421;
const CLOSE_ON_EXEC: i32 = 0x5451;

/// What may be read: the files of name resolution, and the system's certificate authorities.
const READABLE: &[&str] = &[
    "/etc/resolv.conf /etc/hosts /etc/nsswitch.conf /run/systemd/resolve",
    "/etc/ssl/certs /etc/ssl/cert.pem /etc/ssl/ca-bundle.pem /etc/ca-certificates",
    "/etc/pki/tls/certs /etc/pki/tls/cert.pem /etc/pki/ca-trust /usr/share/pki",
    "/usr/share/ca-certificates /usr/local/share/ca-certificates /var/lib/ca-certificates",
];
/// Variables that name more certificate authorities.
const READABLE_VARIABLES: &[&str] = &["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// What a process has to become.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Confinement {
    /// User and group to become; `None` when the process keeps its own.
    pub user: Option<(u32, u32)>,
    /// Directories that it may write to.
    pub writable: Vec<PathBuf>,
}

/// The confinement that a process has reached.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Confined {
    /// Whether the kernel denies it other files (Landlock, Linux 5.13).
    pub files: bool,
}

/// Confines this process irrevocably: it becomes another user, gains no rights by starting a program
/// (and may start none), reads only what [`READABLE`] names, writes only below the given directories, and may use few system
/// calls beyond sockets of TCP and UDP, memory and threads. Call it before the first thread starts. A kernel without
/// Landlock does the rest; any other failure is an error.
pub fn confine(confinement: &Confinement) -> Result<Confined> {
    // needs files that can't be read later
    let ruleset = ruleset(confinement)?;
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(seccompiler::Error::from);
    let filters =
        arch.and_then(filters).map_err(|why| error!(SANDBOX, "can't create a filter for system calls").because(why))?;
    if let Some((uid, gid)) = confinement.user {
        become_user(Uid::from_raw(uid), Gid::from_raw(gid))?;
    }
    end_with_parent()?;
    nix::sys::prctl::set_no_new_privs().context(code::SANDBOX, || "can't give up the way to more rights")?;
    // no other process of the same user may read this one
    nix::sys::prctl::set_dumpable(false).context(code::SANDBOX, || "can't hide from debuggers")?;
    for (resource, limit) in [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_FSIZE, FILE_MAX),
        (Resource::RLIMIT_AS, MEMORY_MAX),
        (Resource::RLIMIT_NOFILE, FILES_MAX),
    ] {
        // not RLIMIT_NPROC, which counts other processes of the same user: the filter forbids new processes
        setrlimit(resource, limit, limit).context(code::SANDBOX, || "can't set limits")?;
    }
    let status =
        ruleset.restrict_self().map_err(|why| error!(SANDBOX, "can't confine a process to its files").because(why))?;
    for filter in &filters {
        filter::apply(filter).map_err(|why| {
            error!(SANDBOX, "can't confine a process to its system calls")
                .because(why)
                .help("kpull needs a kernel with seccomp filters and, in a container, permission to use them")
        })?;
    }
    Ok(Confined { files: matches!(status.landlock, LandlockStatus::Available { .. }) })
}

/// Makes the kernel end this process when its parent ends. A change of user resets that.
pub(super) fn end_with_parent() -> Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context(code::SANDBOX, || "can't tie a process to its parent")
}

/// Whether this kernel has Landlock.
pub fn has_landlock() -> bool {
    let required = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    required.handle_access(AccessFs::from_all(ABI::V1)).and_then(Ruleset::create).is_ok()
}

/// Becomes another user with the one group `gid`, and checks that this can't be undone.
fn become_user(uid: Uid, gid: Gid) -> Result<()> {
    let what = || format!("can't become the user {uid}");
    setgroups(&[]).context(code::SANDBOX, what)?;
    setresgid(gid, gid, gid).context(code::SANDBOX, what)?;
    setresuid(uid, uid, uid).context(code::SANDBOX, what)?;
    if setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
        return Err(Error::new(code::SANDBOX, what()).because("it could become root again"));
    }
    let status = read::kernel("/proc/self/status").context(code::SANDBOX, what)?;
    let sets: Vec<&str> =
        status.lines().filter(|line| line.starts_with("CapEff:") || line.starts_with("CapPrm:")).collect();
    if sets.len() != 2 || sets.iter().any(|set| !set.ends_with("\t0000000000000000")) {
        return Err(Error::new(code::SANDBOX, what()).because("it keeps capabilities of root"));
    }
    Ok(())
}

/// The rules for Landlock.
fn ruleset(confinement: &Confinement) -> Result<landlock::RulesetCreated> {
    let build = || {
        let mut ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(LANDLOCK))?
            .handle_access(AccessNet::BindTcp)?
            .scope(Scope::from_all(LANDLOCK))?
            .create()?;
        let variables = READABLE_VARIABLES.iter().filter_map(std::env::var_os).map(PathBuf::from);
        for path in READABLE.iter().flat_map(|paths| paths.split(' ')).map(PathBuf::from).chain(variables) {
            ruleset = allow(ruleset, &path, make_bitflags!(AccessFs::{ReadFile | ReadDir}))?;
        }
        let write = make_bitflags!(AccessFs::{
            ReadFile | ReadDir | WriteFile | Truncate | RemoveFile | RemoveDir | MakeReg | MakeDir | Refer
        });
        for path in &confinement.writable {
            ruleset = allow(ruleset, path, write)?;
        }
        Ok::<_, landlock::RulesetError>(ruleset)
    };
    build().map_err(|why| error!(SANDBOX, "can't create rules for files").because(why))
}

/// Allows `access` to what is at `path` now, if anything is.
fn allow(
    ruleset: landlock::RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<landlock::RulesetCreated, landlock::RulesetError> {
    let Ok(fd) = PathFd::new(path) else { return Ok(ruleset) };
    let access = if read::is_directory(path) { access } else { access & AccessFs::from_file(LANDLOCK) };
    ruleset.add_rule(PathBeneath::new(fd, access))
}

/// The calls for the network, a cache, memory and threads. Every other call fails with EPERM.
const ALLOWED: &[&str] = &[
    // files
    "read write readv writev pread64 pwrite64 lseek close openat statx fstat newfstatat statfs fstatfs",
    "faccessat faccessat2 readlinkat getdents64 getcwd mkdirat unlinkat renameat2 linkat ftruncate fallocate",
    "fsync fdatasync flock fchmod fchmodat utimensat umask fcntl dup dup3 pipe2",
    // sockets, once there are any
    "connect bind getsockname getpeername setsockopt getsockopt sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg",
    "shutdown epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 eventfd2 ppoll pselect6",
    // memory, threads, signals to no process; for clone3, see `UNKNOWN`
    "munmap mremap madvise brk clone3 futex set_robust_list set_tid_address rseq membarrier sched_yield",
    "sched_getaffinity rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall exit exit_group",
    // what time it is, and who we are
    "clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday getrandom getpid gettid getppid",
    "getuid geteuid getgid getegid getgroups uname sysinfo",
];

/// Calls that fail as on a kernel that doesn't have them: glibc then starts threads in the older way, whose flags a filter can check.
/// [`ALLOWED`] lets them pass, so that this answer counts.
const UNKNOWN: &[&str] = &["clone3"];

/// Calls that only an attacker in the process makes: it is killed at once.
const DEADLY: &[&str] = &[
    "execve execveat ptrace process_vm_readv process_vm_writev mount umount2 pivot_root chroot setns unshare bpf",
    "perf_event_open userfaultfd io_uring_setup keyctl add_key request_key init_module finit_module delete_module",
    "kexec_load open_by_handle_at setuid setgid setresuid setresgid capset reboot swapon",
];

/// Allowed calls that not every architecture has: older ones have them in addition, or by another name.
fn old_calls(arch: TargetArch) -> &'static [&'static str] {
    match arch {
        TargetArch::x86_64 => &[
            "open stat lstat access readlink mkdir rmdir unlink rename renameat link chmod dup2 pipe poll select",
            "epoll_create epoll_wait getrlimit time fadvise64",
        ],
        TargetArch::aarch64 => &["renameat"],
        TargetArch::riscv64 => &[],
    }
}

/// The filters for system calls, in the order in which they have to be applied: the last one allows no further filter.
fn filters(arch: TargetArch) -> Result<Vec<BpfProgram>, seccompiler::Error> {
    let plain = |names: &[&str]| -> Vec<Value> {
        names.iter().flat_map(|names| names.split(' ')).map(|name| json!({ "syscall": name })).collect()
    };
    let when = |name: &str, conditions: &[Value]| json!({ "syscall": name, "args": conditions });
    let is = |index: u8, value: i32| json!({ "index": index, "type": "dword", "op": "eq", "val": value });
    let masked = |index: u8, mask: i32, value: i32| json!({ "index": index, "type": "dword", "op": { "masked_eq": mask }, "val": value });
    let mut allowed = [plain(ALLOWED), plain(old_calls(arch))].concat();
    // TCP and UDP; no packets, no netlink, no sockets of this host
    for family in [libc::AF_INET, libc::AF_INET6] {
        let kinds = [libc::SOCK_STREAM, libc::SOCK_DGRAM];
        allowed.extend(kinds.map(|kind| when("socket", &[is(0, family), masked(1, 0xf, kind)])));
    }
    allowed.extend([
        // threads, no processes
        when("clone", &[masked(0, libc::CLONE_THREAD, libc::CLONE_THREAD)]),
        // writable memory is never executable
        when("mmap", &[masked(2, libc::PROT_EXEC, 0)]),
        when("mprotect", &[masked(2, libc::PROT_EXEC, 0)]),
        when("prctl", &[is(0, libc::PR_SET_NAME)]),
        when("prctl", &[is(0, libc::PR_GET_NAME)]),
        when("ioctl", &[is(1, DO_NOT_BLOCK)]),
        when("ioctl", &[is(1, CLOSE_ON_EXEC)]),
        // limits of this process are read, and not set
        when("prlimit64", &[is(0, 0), json!({ "index": 2, "type": "qword", "op": "eq", "val": 0 })]),
    ]);
    let matched = |action: Value, calls: Vec<Value>| json!({ "mismatch_action": "allow", "match_action": action, "filter": calls });
    let filters = json!({
        "1 deadly": matched("kill_process".into(), plain(DEADLY)),
        "2 unknown": matched(json!({ "errno": libc::ENOSYS }), plain(UNKNOWN)),
        "3 allowed": { "mismatch_action": { "errno": libc::EPERM }, "match_action": "allow", "filter": allowed },
    });
    let programs = seccompiler::compile_from_json(filters.to_string().as_bytes(), arch)?;
    Ok(BTreeMap::from_iter(programs).into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_architecture_has_all_calls_of_its_filters() {
        for arch in [TargetArch::x86_64, TargetArch::aarch64, TargetArch::riscv64] {
            let lengths = filters(arch).unwrap().iter().map(Vec::len).collect::<Vec<_>>();
            assert!(lengths.len() == 3 && lengths[0] > 30 && lengths[2] > 100, "{arch:?}: {lengths:?}");
        }
    }
}
