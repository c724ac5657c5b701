//! A limit on the memory of an operator's command: an unsigned role can use any amount.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};

use crate::error::{Error, error};
use crate::host::meminfo;
use crate::read;

/// More than the largest sites use.
const MOST: u64 = 4 << 30;

/// Ends this process with an error, which `report` prints, when it uses more memory than the limit.
pub(super) fn watch(report: impl Fn(&Error) + Send + 'static) {
    let most = most();
    let used = || read::kernel("/proc/self/status").ok().and_then(|text| meminfo::bytes(&text, "VmRSS"));
    // without the thread there is no limit, which is no reason to fail
    let _ = std::thread::Builder::new().name("memory".to_owned()).stack_size(256 << 10).spawn(move || {
        while used().is_some_and(|used| used <= most) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if used().is_some() {
            let error = error!(TEMPLATE, "this needs more than {} MiB of memory", most >> 20)
                .because("a template of the site creates nested lists, or something else that grows without limit")
                .help("check the role that was added or changed last");
            report(&error);
            std::process::exit(error.exit_code() as i32);
        }
    });
}

/// The limit in bytes: at most half of the machine's memory, so that nothing else is killed, and a quarter of the shell's limit.
fn most() -> u64 {
    let machine = read::kernel("/proc/meminfo").ok().and_then(|text| meminfo::bytes(&text, "MemTotal"));
    let shell = getrlimit(Resource::RLIMIT_AS).map_or(u64::MAX, |(soft, _)| soft);
    MOST.min(machine.unwrap_or(u64::MAX) / 2).min(shell / 4)
}
