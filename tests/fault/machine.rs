//! Disks that fail: for real where the kernel of any machine can be brought to it, else by strace, which has a system call of this
//! one process return the error that the kernel would. Both need root.

use std::fs;
use std::process::{Command, Stdio};

use crate::fault::{copy, enrolled, role};
use crate::support::disk::{changing, on_own_file_system};
use crate::support::sample;
use crate::support::site::{Output, Site, Tree};

const FREE_SPACE: &str = "free some space or inodes there (`df -h` and `df -i` show which), then run again; nothing was \
                          changed at this path";
const QUOTA: &str = "the quota there is exhausted: raise it, or remove files that count towards it, then run again";
const DISK: &str = "the disk or the file system there fails: see `dmesg`, and run again once it is repaired";
const IMMUTABLE: &str = "it, or its directory, may be immutable or append-only: `lsattr -d` shows the attributes, `chattr -i -a` removes them";

/// A small ext4 on a loop device, whose directory is one block, and which has no other block left. In the directory there is room
/// for names of as many bytes as `names` leave.
fn without_blocks(names: &str) -> (String, String) {
    let mount = "mount -t tmpfs tmpfs \"$root/var\" && truncate -s 1M \"$root/var/disk\"\n\
                 mkfs.ext4 -q -b 1024 -m 0 -O ^has_journal,^metadata_csum,^dir_index \"$root/var/disk\"\n\
                 mount -o loop \"$root/var/disk\" \"$srv\" && rmdir \"$srv/lost+found\"";
    // each name takes 8 bytes more than it has, and 4 at a time; `.`, `..`, `old` and `fill` take 48 of 1024
    let spoil = format!(
        "cd \"$srv\"\nn=0\nfor length in {names}; do n=$((n + 1)); ln old \"$(printf \"%0${{length}}d\" $n)\"; done\n\
         dd if=/dev/zero of=fill bs=1k conv=fsync 2>/dev/null || [ \"$(stat -f -c %a .)\" = 0 ]\n\
         [ \"$(stat -c %s .)\" = 1024 ]; cd /"
    );
    (mount.to_owned(), spoil)
}

/// What is in `/srv` besides the names that fill it.
fn without_filling(after: &str) -> Vec<&str> {
    after.lines().filter(|name| *name != "fill" && !name.starts_with('0')).collect()
}

#[test]
fn a_directory_that_can_not_grow_is_named_and_the_old_file_stays_intact() {
    let (_site, tree) = changing("", "");
    // the state directory is on the disk with the image
    fs::create_dir_all(tree.at("var")).unwrap();
    let (mount, spoil) = without_blocks("56 56 56 56 56 56 56 56 56 56 56 56 56 56 44 20");
    let (output, after) = on_own_file_system(&tree, &mount, &spoil, "rm \"$srv/fill\"");
    let error = output.exits(1).error();
    assert_eq!(error["error"], "can't replace /srv/old: No space left on device");
    assert_eq!(error["help"], FREE_SPACE);
    assert_eq!((&error["file"], &error["line"]), (&"roles/base/role.toml".into(), &5.into()));
    assert_eq!(without_filling(&after), ["old", "old"]);
}

#[test]
fn a_directory_that_is_full_when_the_new_file_gets_its_name_is_left_as_it_was() {
    let (_site, tree) = changing("old\n", "[[file]]\npath = \"/srv/new\"\ncontent = \"\"\n");
    fs::create_dir_all(tree.at("var")).unwrap();
    let (mount, spoil) = without_blocks("56 56 56 56 56 56 56 56 56 56 56 56 56 56 44 20");
    let (output, after) = on_own_file_system(&tree, &mount, &spoil, "rm \"$srv/fill\"");
    let error = output.exits(1).error();
    assert_eq!(error["error"], "can't replace /srv/new: No space left on device");
    assert_eq!(error["help"], FREE_SPACE);
    assert_eq!((&error["file"], &error["line"]), (&"roles/base/role.toml".into(), &8.into()));
    assert_eq!(without_filling(&after), ["old", "old"]);
}

#[test]
fn an_immutable_path_is_named_with_the_programs_that_show_and_correct_it() {
    for (what, message) in [("/old", "can't replace /srv/old: "), ("", "can't write /srv/old: ")] {
        let (_site, tree) = changing("new\n", "");
        let chattr = |how: &str| format!("chattr {how} \"$srv{what}\"");
        let mount = "mount -t tmpfs tmpfs \"$srv\"";
        let (output, after) = on_own_file_system(&tree, mount, &chattr("+i"), &chattr("-i"));
        let error = output.exits(1).error();
        assert_eq!(error["error"], format!("{message}Operation not permitted"));
        assert_eq!(error["help"], IMMUTABLE);
        assert_eq!((&error["file"], &error["line"]), (&"roles/base/role.toml".into(), &5.into()));
        assert_eq!(after, "old\nold\n");
    }
}

/// A site, and a tree that never had a release of it and has older files at the paths of its role.
fn first_release() -> (Site, Tree) {
    let (site, tree) = enrolled(&role("new", FILES));
    for number in 0..FILES {
        tree.write(&format!("srv/{number}"), format!("old {number}\n"));
    }
    tree.write("etc/absent.new", "here\n");
    (site, tree)
}

const FILES: usize = 3;

/// What strace prints for the paths whose errors the tests read: the files below `/srv`, also those without a name yet, and a link.
const NAMED: [&str; 7] = ["/srv>", "/srv/.", "/srv/#", "/srv/0", "/srv/1", "/srv/2", ".link.kpull-new"];

/// Copies `from` again and again, and runs `kpull apply` on the copy with one system call of this name failing with `errno`: each
/// at one of these paths, and each of the others or a sample of them. Each failure is reported with what to do, every file is old
/// or new, and the next run finishes the work.
fn each_failing(from: &Tree, call: &str, errno: &str) -> Vec<serde_json::Value> {
    each_with(from, call, &format!("error={errno}"))
}

/// The same with the instruction for strace about the system call.
fn each_with(from: &Tree, call: &str, fault: &str) -> Vec<serde_json::Value> {
    let whole = copy(from);
    let (output, calls) = traced(&whole, call, &[]);
    output.exits(0);
    let wanted = whole.snapshot();
    let (named, others): (Vec<_>, Vec<_>) =
        calls.lines().zip(1..).partition(|(line, _)| NAMED.iter().any(|name| line.contains(name)));
    let numbers: Vec<usize> =
        named.into_iter().chain(sample::of(others.into_iter())).map(|(_, number)| number).collect();
    let mut reported = Vec::new();
    let mut injected = 0;
    for number in &numbers {
        let when = format!("{call} {number}");
        let tree = copy(from);
        let (output, log) = traced(&tree, call, &["-e", &format!("inject={call}:{fault}:when={number}")]);
        // runs differ by a few calls
        injected += usize::from(log.contains("(INJECTED)"));
        for number in 0..FILES {
            let content = tree.read(&format!("srv/{number}"));
            assert!([format!("old {number}\n"), format!("new {number}\n")].contains(&content), "{when}: {content}");
        }
        if output.code == 0 {
            assert_eq!(tree.snapshot(), wanted, "{when}");
        } else if !output.stdout.is_empty() {
            let error = output.error();
            assert!(error["help"].is_string(), "{when}: {error}");
            reported.push(error);
        }
        tree.kpull("apply").exits(0);
        assert_eq!(tree.snapshot(), wanted, "{when}");
        tree.kpull("plan").exits(0);
    }
    eprintln!("{call}: {injected} of {} failed", calls.lines().count());
    assert!(2 * injected >= numbers.len(), "{call}: {injected} of {numbers:?}");
    reported
}

/// Runs `kpull apply` under strace, and returns strace's log of the calls of this name too, with the paths of their files.
fn traced(tree: &Tree, call: &str, inject: &[&str]) -> (Output, String) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-qqy", "-e", &format!("trace={call}"), "-o"]).arg(log.path()).args(inject);
    strace.arg(env!("CARGO_BIN_EXE_kpull")).args(["apply", "--json", "--root"]).arg(tree.path());
    let output = Output::of(strace.stdin(Stdio::null()).output().expect("strace is there"));
    (output, fs::read_to_string(log.path()).unwrap())
}

/// Requires that one of the errors names a file of the role, with its place there.
fn of_a_file(expected: &[serde_json::Value], what: &str, help: &str) {
    let fits = |error: &&serde_json::Value| {
        let place = error["file"] == "roles/base/role.toml" && error["line"].as_u64() > Some(1);
        error["error"].as_str().unwrap().contains(what) && place && error["help"].as_str().unwrap().contains(help)
    };
    assert!(expected.iter().any(|error| fits(&error)), "{what}: {expected:#?}");
}

#[test]
fn a_disk_error_on_a_sync_is_reported_and_the_next_run_finishes_the_work() {
    let (_site, tree) = first_release();
    let expected: Vec<_> =
        ["fsync", "fdatasync", "syncfs"].iter().flat_map(|call| each_failing(&tree, call, "EIO")).collect();
    of_a_file(&expected, "can't write /srv/", DISK);
}

/// By strace: file systems without modes (vfat, exFAT, NTFS) say that they have taken one, or need a kernel that has them.
#[test]
fn a_file_system_without_modes_is_named_with_the_mode_of_its_files() {
    let (_site, tree) = first_release();
    let message = each_with(&tree, "fchmod", "retval=0");
    of_a_file(&message, "can't set the mode of /srv/", "write `mode = \"0600\"` in the role, with the owner and group");
    of_a_file(
        &message,
        "the mode and owner that the mount sets (vfat, exFAT, NTFS, a network share)",
        "`findmnt -T /srv/",
    );
}

#[test]
fn a_disk_error_on_a_read_is_reported_and_the_next_run_finishes_the_work() {
    let (_site, tree) = first_release();
    let reported: Vec<_> = ["read", "pread64"].iter().flat_map(|call| each_failing(&tree, call, "EIO")).collect();
    of_a_file(&reported, "can't read /srv/", DISK);
}

/// By strace: that takes a kernel with quotas for tmpfs or a second file system with quotas, and many have neither.
#[test]
fn an_exhausted_quota_is_named_and_the_next_run_finishes_the_work() {
    let (_site, tree) = first_release();
    let calls = ["write", "mkdirat", "symlinkat", "renameat"];
    let reported: Vec<_> = calls.iter().flat_map(|call| each_failing(&tree, call, "EDQUOT")).collect();
    of_a_file(&reported, "can't write /srv/", QUOTA);
    of_a_file(&reported, "can't replace /srv/", QUOTA);
    of_a_file(&reported, "can't create the directory /srv/new", QUOTA);
    of_a_file(&reported, "can't create the link /etc/link", QUOTA);
}

#[test]
fn memory_that_the_kernel_denies_is_reported_and_the_next_run_finishes_the_work() {
    let (_site, tree) = first_release();
    let message = each_failing(&tree, "openat2", "ENOMEM");
    let help = |error: &serde_json::Value| error["help"].as_str().unwrap().starts_with("there is not enough memory");
    assert!(!message.is_empty() && message.iter().all(help), "{message:#?}");
}
