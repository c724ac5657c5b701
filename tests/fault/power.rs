//! The power goes, and with it all that was not on the disk yet: a run on an ext4 of its own, on a loop device, is killed before one of
//! its writes, and what comes after is done on a copy of the disk as it was at that moment, after a replay of its journal.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::fault::{World, copy};
use crate::support::site::Tree;

/// Calls at which the content of the disk and of the cache differ most: before those that create names, and before those that
/// wait for the disk.
const CALLS: [&str; 8] = ["linkat", "renameat", "rename", "fsync", "syncfs", "mkdirat", "unlinkat", "write"];

/// Runs a script in a mount namespace of its own, with a directory for its files, the program and some words more.
fn script(dir: &Path, script: &str, more: &[&str]) -> bool {
    let mut unshare = Command::new("unshare");
    unshare.args(["-m", "sh", "-euc", script, "sh"]).arg(dir).arg(env!("CARGO_BIN_EXE_kpull")).args(more);
    let output = unshare.stdin(Stdio::null()).output().unwrap();
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 3)), "{failed}");
    output.status.code() == Some(0)
}

const MAKE: &str = r#"
truncate -s 48M "$1/disk"
mkfs.ext4 -q "$1/disk"
mkdir "$1/mnt"
mount -o loop "$1/disk" "$1/mnt"
rmdir "$1/mnt/lost+found"
cp -a "$3/." "$1/mnt/"
umount "$1/mnt"
"#;

/// The file system does nothing for files that are renamed without a sync (`noauto_da_alloc`), as others don't. Every other time, files
/// can't be synced together (`syncfs`), but only one by one. Ends with 3 when the run made the call less often.
const CUT: &str = r#"
cp --sparse=always "$1/disk" "$1/running"
mount -o loop,noauto_da_alloc "$1/running" "$1/mnt"
sync
[ $(($4 % 2)) = 0 ] || [ "$3" = syncfs ] || together="-e inject=syncfs:error=EIO"
if strace -qq -o /dev/null -e "trace=$3,syncfs" ${together:-} -e "inject=$3:signal=KILL:when=$4" "$2" apply --root "$1/mnt" >/dev/null 2>&1; then exit 3; fi
cp --sparse=always "$1/running" "$1/cut"
umount "$1/mnt"
mount -o loop "$1/cut" "$1/mnt"
cp -a "$1/mnt/." "$5/"
umount "$1/mnt"
e2fsck -fn "$1/cut" >/dev/null
"#;

#[test]
fn the_next_run_restores_what_a_power_failure_kept_from_the_disk() {
    let world = World::new();
    let whole = copy(&world.tree);
    whole.kpull("apply").exits(0);
    let wanted = whole.snapshot();
    let dir = tempfile::tempdir().unwrap();
    script(dir.path(), MAKE, &[world.tree.path().to_str().unwrap()]);
    // each cut takes seconds: all of them only when the sweep is asked for
    let step = if std::env::var_os("KPULL_SWEEP").is_some() { 1 } else { 8 };
    let mut cuts = 0;
    for (first, call) in CALLS.iter().enumerate() {
        for number in (1 + first % 3..).step_by(step) {
            let after = Tree::new();
            if !script(dir.path(), CUT, &[call, &number.to_string(), after.path().to_str().unwrap()]) {
                break;
            }
            let when = format!("before {call} {number}");
            assert_eq!(world.torn(&after), [""; 0], "{when}");
            after.kpull("apply").exits(0);
            assert_eq!(after.snapshot(), wanted, "{when}");
            assert_eq!(after.leftovers(), [""; 0], "{when}");
            assert_eq!(after.kpull("apply --json").exits(0).changed(), [""; 0], "{when}");
            cuts += 1;
        }
    }
    eprintln!("the power went {cuts} times");
    assert!(cuts >= CALLS.len());
}
