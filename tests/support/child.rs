//! The process that talks to the network for a kpull that runs.

use std::fs;

/// `/proc/PID/status` of the process that asks for the kpull which has `word` in its command line.
pub fn status(word: &str) -> Option<String> {
    let words = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = entry.file_name().into_string().ok()?;
        if !words(&pid).ends_with("fetch-worker\0") {
            return None;
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:\t"))?;
        words(parent).contains(word).then_some(status)
    })
}

/// Finds no rights in such a status; `what` says whose it is.
#[track_caller]
pub fn expect_none_of_roots_rights(what: &str, status: &str) {
    let says = |line: &str| assert!(status.lines().any(|has| has == line), "{what}: {line}: {status}");
    says("NoNewPrivs:\t1");
    says("Seccomp:\t2");
    says("CapEff:\t0000000000000000");
    says("CapPrm:\t0000000000000000");
    if nix::unistd::geteuid().is_root() {
        assert!(!status.contains("\nUid:\t0\t") && !status.contains("\nGid:\t0\t"), "{what}: {status}");
        says("Groups:\t ");
    }
}
