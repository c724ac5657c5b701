//! Has files on the disk: what was written to them, and that they are there.

use std::collections::HashSet;
use std::fs::File;
use std::io::Result;
use std::os::unix::fs::MetadataExt as _;
use std::panic::resume_unwind;
use std::thread::Builder;

use super::meminfo;
use crate::read;

/// How many files are given to the disk at once. The file system writes its journal once for all that wait then.
const AT_ONCE: usize = 16;
/// How many files are many.
const MANY: usize = 4;
/// Bytes that the disk takes in no time worth mentioning.
const LITTLE: u64 = 64 << 20;

/// Has all files on the disk: many by one order to their file systems to write everything, if that is little; else, or when that fails and it
/// has to be known of which file, each by itself. How that went, in the order of the files.
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
            // there may be no more threads
            Err(share) => each(share),
        });
        own.into_iter().chain(others).collect()
    })
}

/// Whether all disks of the machine together are to be written little, and `syncfs` tells of failures (Linux 5.8).
fn little_is_waiting() -> bool {
    let waiting = read::kernel("/proc/meminfo")
        .ok()
        .and_then(|text| Some(meminfo::bytes(&text, "Dirty")? + meminfo::bytes(&text, "Writeback")?));
    waiting.is_some_and(|bytes| bytes <= LITTLE) && kernel().is_some_and(|version| version >= (5, 8))
}

/// The kernel's version: its first two numbers.
fn kernel() -> Option<(u32, u32)> {
    let name = nix::sys::utsname::uname().ok()?;
    let mut numbers = name.release().to_str()?.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Has everything on the disk that the file systems of `files` have not written yet.
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
    fn the_kernel_tells_its_version() {
        assert!(kernel().unwrap() >= (3, 10), "what kpull needs anyhow");
    }

    #[test]
    fn every_file_is_told_of_in_its_order() {
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
