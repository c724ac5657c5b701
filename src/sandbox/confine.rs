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
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use serde::{Deserialize, Serialize};

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
const DO_NOT_BLOCK: u64 = 0x5421;
const CLOSE_ON_EXEC: u64 = 0x5451;

/// What may be read: the files of name resolution, and the system's certificate authorities.
const READABLE: &[&str] = &[
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/run/systemd/resolve",
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/pki",
    "/var/lib/ca-certificates",
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
    // in this order: the last one allows no further filter
    let filters = [deadly(), unknown(), allowed()].into_iter().collect::<Result<Vec<_>, _>>();
    let filters = filters.map_err(|why| error!(SANDBOX, "can't create a filter for system calls").because(why))?;
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
        for path in READABLE.iter().map(PathBuf::from).chain(variables) {
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
fn allowed() -> Result<BpfProgram, BackendError> {
    use libc::*;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = [
        // files
        SYS_read,
        SYS_write,
        SYS_readv,
        SYS_writev,
        SYS_pread64,
        SYS_pwrite64,
        SYS_lseek,
        SYS_close,
        SYS_openat,
        SYS_statx,
        SYS_fstat,
        SYS_newfstatat,
        SYS_statfs,
        SYS_fstatfs,
        SYS_faccessat,
        SYS_faccessat2,
        SYS_readlinkat,
        SYS_getdents64,
        SYS_getcwd,
        SYS_mkdirat,
        SYS_unlinkat,
        SYS_renameat2,
        SYS_linkat,
        SYS_ftruncate,
        SYS_fallocate,
        SYS_fsync,
        SYS_fdatasync,
        SYS_flock,
        SYS_fchmod,
        SYS_fchmodat,
        SYS_utimensat,
        SYS_umask,
        SYS_fcntl,
        SYS_dup,
        SYS_dup3,
        SYS_pipe2,
        // sockets, once there are any
        SYS_connect,
        SYS_bind,
        SYS_getsockname,
        SYS_getpeername,
        SYS_setsockopt,
        SYS_getsockopt,
        SYS_sendto,
        SYS_recvfrom,
        SYS_sendmsg,
        SYS_recvmsg,
        SYS_sendmmsg,
        SYS_recvmmsg,
        SYS_shutdown,
        SYS_epoll_create1,
        SYS_epoll_ctl,
        SYS_epoll_pwait,
        SYS_epoll_pwait2,
        SYS_eventfd2,
        SYS_ppoll,
        SYS_pselect6,
        // memory, threads, signals to nobody
        SYS_munmap,
        SYS_mremap,
        SYS_madvise,
        SYS_brk,
        SYS_clone3, // see `unknown`
        SYS_futex,
        SYS_set_robust_list,
        SYS_set_tid_address,
        SYS_rseq,
        SYS_membarrier,
        SYS_sched_yield,
        SYS_sched_getaffinity,
        SYS_rt_sigaction,
        SYS_rt_sigprocmask,
        SYS_rt_sigreturn,
        SYS_sigaltstack,
        SYS_restart_syscall,
        SYS_exit,
        SYS_exit_group,
        // what time it is, and who we are
        SYS_clock_gettime,
        SYS_clock_getres,
        SYS_clock_nanosleep,
        SYS_nanosleep,
        SYS_gettimeofday,
        SYS_getrandom,
        SYS_getpid,
        SYS_gettid,
        SYS_getppid,
        SYS_getuid,
        SYS_geteuid,
        SYS_getgid,
        SYS_getegid,
        SYS_getgroups,
        SYS_uname,
        SYS_sysinfo,
    ]
    .into_iter()
    .chain(OLD_CALLS.iter().copied())
    .map(|call| (call, Vec::new()))
    .collect();
    let dword = |index, op, value| SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value);
    let number = |value: i32| u64::from(value.cast_unsigned());
    // TCP and UDP; no packets, no netlink, no sockets of this host
    let mut sockets = Vec::new();
    for family in [AF_INET, AF_INET6] {
        for kind in [SOCK_STREAM, SOCK_DGRAM] {
            sockets.push(SeccompRule::new(vec![
                dword(0, SeccompCmpOp::Eq, number(family))?,
                dword(1, SeccompCmpOp::MaskedEq(0xf), number(kind))?,
            ])?);
        }
    }
    rules.insert(SYS_socket, sockets);
    // threads, no processes
    let thread = number(CLONE_THREAD);
    rules.insert(SYS_clone, vec![SeccompRule::new(vec![dword(0, SeccompCmpOp::MaskedEq(thread), thread)?])?]);
    // writable memory is never executable
    let executable = SeccompCmpOp::MaskedEq(number(PROT_EXEC));
    for call in [SYS_mmap, SYS_mprotect] {
        rules.insert(call, vec![SeccompRule::new(vec![dword(2, executable.clone(), 0)?])?]);
    }
    let name = |option| SeccompRule::new(vec![dword(0, SeccompCmpOp::Eq, number(option))?]);
    rules.insert(SYS_prctl, vec![name(PR_SET_NAME)?, name(PR_GET_NAME)?]);
    let request = |number: u64| SeccompRule::new(vec![dword(1, SeccompCmpOp::Eq, number)?]);
    rules.insert(SYS_ioctl, vec![request(DO_NOT_BLOCK)?, request(CLOSE_ON_EXEC)?]);
    // limits of this process are read, and not set
    let own = dword(0, SeccompCmpOp::Eq, 0)?;
    let unset = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.insert(SYS_prlimit64, vec![SeccompRule::new(vec![own, unset])?]);
    filter(rules, SeccompAction::Errno(EPERM.cast_unsigned()), SeccompAction::Allow)
}

/// A call that fails as on a kernel that doesn't have it: glibc then starts threads in the older way, whose flags a
/// filter can check. [`allowed`] lets it pass, so that this answer counts.
fn unknown() -> Result<BpfProgram, BackendError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    filter(rules, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS.cast_unsigned()))
}

/// Calls that only an attacker in the process makes: it is killed at once.
fn deadly() -> Result<BpfProgram, BackendError> {
    use libc::*;
    let calls = [
        SYS_execve,
        SYS_execveat,
        SYS_ptrace,
        SYS_process_vm_readv,
        SYS_process_vm_writev,
        SYS_mount,
        SYS_umount2,
        SYS_pivot_root,
        SYS_chroot,
        SYS_setns,
        SYS_unshare,
        SYS_bpf,
        SYS_perf_event_open,
        SYS_userfaultfd,
        SYS_io_uring_setup,
        SYS_keyctl,
        SYS_add_key,
        SYS_request_key,
        SYS_init_module,
        SYS_finit_module,
        SYS_delete_module,
        SYS_kexec_load,
        SYS_open_by_handle_at,
        SYS_setuid,
        SYS_setgid,
        SYS_setresuid,
        SYS_setresgid,
        SYS_capset,
        SYS_reboot,
        SYS_swapon,
    ];
    filter(calls.map(|call| (call, Vec::new())).into(), SeccompAction::Allow, SeccompAction::KillProcess)
}

fn filter(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, otherwise, matched, std::env::consts::ARCH.try_into()?)?.try_into()
}

/// Calls that not every architecture has: older ones have them in addition, or by another name.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_link,
    libc::SYS_chmod,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_getrlimit,
    libc::SYS_time,
    libc::SYS_fadvise64,
];
#[cfg(target_arch = "riscv64")]
const OLD_CALLS: &[i64] = &[];
#[cfg(not(any(target_arch = "x86_64", target_arch = "riscv64")))]
const OLD_CALLS: &[i64] = &[libc::SYS_renameat];
