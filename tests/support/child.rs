//! The process that talks to the network for a kpull that runs.

use std::fs;

/// `/proc/PID/status` of the process that asks for the kpull which has `word` in its command line. Another one may only begin, for the
/// next request of the same kpull: this waits until it has given up its rights too. The one that asks waits for its answer, and can't.
pub fn status(word: &str) -> Option<String> {
    let mut all = statuses(word);
    for _ in 0..100 {
        if all.iter().all(|status| status.contains("\nSeccomp:\t2\n")) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        all = statuses(word);
    }
    all.sort_by_key(|status| status.contains("\nSeccomp:\t2\n"));
    all.into_iter().next()
}

fn statuses(word: &str) -> Vec<String> {
    let words = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let of = |entry: fs::DirEntry| {
        let pid = entry.file_name().into_string().ok()?;
        if !words(&pid).ends_with("fetch-worker\0") {
            return None;
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:\t"))?;
        words(parent).contains(word).then_some(status)
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(of).collect()
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
