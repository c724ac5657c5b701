//! Syncs files to the disk.

use std::collections::HashSet;
use std::fs::File;
use std::io::Result;
use std::os::unix::fs::MetadataExt as _;
use std::panic::resume_unwind;
use std::thread::Builder;

use super::meminfo;
use crate::read;

/// Files that are synced at the same time. The file system writes its journal once for all that wait.
const AT_ONCE: usize = 16;
/// From this number of files, `syncfs` is considered.
const MANY: usize = 4;
/// Bytes that a disk writes in negligible time.
const LITTLE: u64 = 64 << 20;

/// Syncs all files and returns the results in their order. Many files are synced by one `syncfs` for each file system, if little else
/// waits to be written; otherwise, or to find out which file has failed, each is synced by itself.
pub fn files(files: &[&File]) -> Vec<Result<()>> {
    if files.len() >= MANY && little_is_waiting() && file_systems(files).is_ok() {
        return files.iter().map(|_| Ok(())).collect();
    }
    let each = |files: &[&File]| files.iter().map(|file| file.sync_all()).collect::<Vec<_>>();
    let mut shares = files.chunks(files.len().div_ceil(AT_ONCE).max(1));
    let own = shares.next().unwrap_or_default();
    std::thread::scope(|scope| {
        let start = |share| Builder::new().spawn_scoped(scope, move || each(share)).map_err(|_| share);
        let threads: Vec<_> = shares.map(start).collect();
        let own = each(own);
        let others = threads.into_iter().flat_map(|thread| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            // no more threads can be started
            Err(share) => each(share),
        });
        own.into_iter().chain(others).collect()
    })
}

/// Whether little waits to be written to all disks of the machine, and `syncfs` reports failures (Linux 5.8).
fn little_is_waiting() -> bool {
    let waiting = read::kernel("/proc/meminfo")
        .ok()
        .and_then(|text| Some(meminfo::bytes(&text, "Dirty")? + meminfo::bytes(&text, "Writeback")?));
    waiting.is_some_and(|bytes| bytes <= LITTLE) && kernel().is_some_and(|version| version >= (5, 8))
}

/// The first two numbers of the kernel's version.
fn kernel() -> Option<(u32, u32)> {
    let name = nix::sys::utsname::uname().ok()?;
    let mut numbers = name.release().to_str()?.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Syncs the file systems of `files`.
fn file_systems(files: &[&File]) -> Result<()> {
    let mut known = HashSet::new();
    for file in files {
        if known.insert(file.metadata()?.dev()) {
            rustix::fs::syncfs(file)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use nix::fcntl::{OFlag, open};
    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn the_version_of_the_kernel_is_known() {
        assert!(kernel().unwrap() >= (3, 10), "what kpull needs anyhow");
    }

    #[test]
    fn results_are_in_the_order_of_the_files() {
        let file = tempfile::tempfile().unwrap();
        // of this only the place can be asked for (std takes the flag away on musl, whose O_ACCMODE has it)
        let place = File::from(open("/proc", OFlag::O_PATH, Mode::empty()).unwrap());
        let mut all = vec![&file; 40];
        all[30] = &place;
        let synced: Vec<bool> = super::files(&all).iter().map(Result::is_ok).collect();
        assert_eq!(synced.iter().position(|ok| !ok), Some(30));
        assert_eq!(synced.iter().filter(|ok| **ok).count(), 39);
    }
}
