//! An older kernel, as far as programs can see: system calls that it lacks answer ENOSYS.

use std::collections::BTreeMap;

use nix::libc::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

/// A kernel's version: its first two numbers.
pub type Version = (u32, u32);

/// Calls of x86_64 that are younger than Linux 3.10, by the first version that has them.
const CALLS: &[(Version, &[i64])] = &[
    ((3, 14), &[SYS_sched_setattr, SYS_sched_getattr]),
    ((3, 15), &[SYS_renameat2]),
    ((3, 17), &[SYS_seccomp, SYS_getrandom, SYS_memfd_create]),
    ((3, 18), &[SYS_bpf]),
    ((3, 19), &[SYS_execveat]),
    ((4, 3), &[SYS_userfaultfd, SYS_membarrier]),
    ((4, 4), &[SYS_mlock2]),
    ((4, 5), &[SYS_copy_file_range]),
    ((4, 6), &[SYS_preadv2, SYS_pwritev2]),
    ((4, 9), &[SYS_pkey_mprotect, SYS_pkey_alloc, SYS_pkey_free]),
    ((4, 11), &[SYS_statx]),
    ((4, 18), &[IO_PGETEVENTS, SYS_rseq]),
    ((5, 1), &[SYS_pidfd_send_signal, SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register]),
    ((5, 2), &[SYS_open_tree, SYS_move_mount, SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_fspick]),
    ((5, 3), &[SYS_pidfd_open, SYS_clone3]),
    ((5, 6), &[SYS_openat2, SYS_pidfd_getfd]),
    ((5, 8), &[SYS_faccessat2]),
    ((5, 9), &[SYS_close_range]),
    ((5, 10), &[SYS_process_madvise]),
    ((5, 11), &[SYS_epoll_pwait2]),
    ((5, 12), &[SYS_mount_setattr]),
    ((5, 13), &[SYS_landlock_create_ruleset, SYS_landlock_add_rule, SYS_landlock_restrict_self]),
    ((5, 14), &[SYS_quotactl_fd, SYS_memfd_secret]),
    ((5, 15), &[SYS_process_mrelease]),
    ((5, 16), &[SYS_futex_waitv]),
    ((5, 17), &[SYS_set_mempolicy_home_node]),
];

/// Only 32-bit architectures have it under this name in the C library.
const IO_PGETEVENTS: i64 = if cfg!(target_arch = "x86_64") { 333 } else { 292 };

/// The first number that no version in [`CALLS`] has, and one that no kernel has reached yet.
const YOUNGER: std::ops::Range<i64> = 451..520;

/// The first version that has files without a name.
const NAMELESS: Version = (3, 11);

/// Runs `work` in a thread for which, and for all programs that it starts, this is Linux `version`: younger calls are not
/// there, and before 3.11 there are no files without a name. What a kernel calls itself stays.
pub fn like<T: Send>(version: Version, work: impl FnOnce() -> T + Send) -> T {
    answering(version, ENOSYS, work)
}

/// The same in a container whose filter was made for Linux `version`, and forbids (EPERM) all newer calls.
pub fn in_container_of<T: Send>(version: Version, work: impl FnOnce() -> T + Send) -> T {
    answering(version, EPERM, work)
}

fn answering<T: Send>(version: Version, answer: i32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let work = move || {
            // the second filter takes the call away that puts filters in place
            if version < NAMELESS {
                apply(without_nameless_files(), EISDIR);
            }
            apply(younger_than(version), answer);
            work()
        };
        scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn younger_than(version: Version) -> BTreeMap<i64, Vec<SeccompRule>> {
    let younger = CALLS.iter().filter(|(since, _)| *since > version).flat_map(|(_, calls)| calls.iter().copied());
    younger.chain(YOUNGER).map(|call| (call, Vec::new())).collect()
}

/// A directory that is opened like this counts as written, for a kernel without the flag.
fn without_nameless_files() -> BTreeMap<i64, Vec<SeccompRule>> {
    let flag = u64::from((O_TMPFILE & !O_DIRECTORY).cast_unsigned());
    let rule = |argument| {
        let is_set = SeccompCmpOp::MaskedEq(flag);
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, is_set, flag);
        vec![SeccompRule::new(vec![condition.expect("a condition")]).expect("a rule")]
    };
    let mut rules = BTreeMap::from([(SYS_openat, rule(2))]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(SYS_open, rule(1));
    rules
}

fn apply(rules: BTreeMap<i64, Vec<SeccompRule>>, answer: i32) {
    let arch = std::env::consts::ARCH.try_into().expect("an architecture that filters are made for");
    let answer = SeccompAction::Errno(answer.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, arch).expect("a filter");
    let program = BpfProgram::try_from(filter).expect("a program");
    apply_filter(&program).expect("a kernel with filters for system calls");
}
