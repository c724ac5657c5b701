//! A limit on what a command takes of an operator's memory: a role of a stranger can ask for any amount before anybody has signed it.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};

use crate::error::{Error, code};
use crate::host::meminfo;
use crate::read;

/// More than the largest sites take.
const MOST: u64 = 4 << 30;

/// Ends this process with an error, which `tell` writes, once it has more memory than it may.
pub(super) fn watch(tell: impl Fn(&Error) + Send + 'static) {
    let most = most();
    let has = || read::kernel("/proc/self/status").ok().and_then(|text| meminfo::bytes(&text, "VmRSS"));
    // without it, it is as if nobody watched: nothing to fail for
    let _ = std::thread::Builder::new().name("memory".to_owned()).stack_size(256 << 10).spawn(move || {
        while has().is_some_and(|has| has <= most) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if has().is_some() {
            let error = Error::new(code::TEMPLATE, format!("this takes more than {} MiB of memory", most >> 20))
                .because("a template of the site makes lists within lists, or something else that grows without end")
                .help("read the role that was added or changed last");
            tell(&error);
            std::process::exit(error.exit_code() as i32);
        }
    });
}

/// Bytes that it may have: no more than half of the machine's, so that nothing else has to end, and a quarter of what the shell allows.
fn most() -> u64 {
    let machine = read::kernel("/proc/meminfo").ok().and_then(|text| meminfo::bytes(&text, "MemTotal"));
    let shell = getrlimit(Resource::RLIMIT_AS).map_or(u64::MAX, |(soft, _)| soft);
    MOST.min(machine.unwrap_or(u64::MAX) / 2).min(shell / 4)
}
