//! File systems on empty disks, and swap, on a kernel of its own: the machine of `selinux-image`, with SELinux off.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;

use crate::platforms::steps::{Disks, SITE, boot, with_program};
use crate::support::site::Output;

const KERNEL: &str = "selinux=0 systemd.mask=firewalld.service systemd.mask=auditd.service";

#[test]
fn empty_disks_get_their_file_systems_once_and_swap_is_turned_on_resized_and_off() {
    let dir = with_program();
    for (name, role) in [
        ("first", FIRST.to_owned()),
        ("larger", FIRST.replace("64M", "96M")),
        ("other", format!("{FIRST}{OTHER}")),
        ("auto", format!("{FIRST}{AUTO}")),
        ("none", String::new()),
    ] {
        fs::write(dir.path().join(format!("{name}.toml")), format!("summary = \"For a test\"\n{role}")).unwrap();
    }
    let results = boot(dir.path(), &format!("{SITE}{STEPS}"), KERNEL);
    results.step("enrolled", 0);
    results.step("first", 0);
    assert_eq!(results.step("state", 0), STATE);
    results.step("idle", 0);

    let plan = results.step("drift", 2);
    assert!(plan.contains("unit:swapfile.swap") && plan.contains("unit:srv-a.mount"), "{plan}");
    results.step("corrected", 0);
    assert_eq!(results.step("state-corrected", 0), STATE);

    results.step("larger", 0);
    assert_eq!(results.step("state-larger", 0), STATE.replace("67104768", "100659200"));

    // a disk that has something else is left alone, and the release goes back
    let message = results.step("other", 1);
    assert!(message.contains("can't create xfs on /dev/vde: it is not empty"), "{message}");
    assert!(message.contains("LABEL=EFI, "), "{message}");
    assert_eq!(results.step("state-other", 0), STATE.replace("67104768", "100659200"));

    // nothing of swap is left; the file systems stay, and what is on them is found again
    results.step("none", 0);
    assert_eq!(
        results.step("state-none", 0),
        "ext4 data xfs log vfat EFI \nswap: \nmounts: \n/swapfile does not exist\n"
    );
    results.step("again", 0);
    assert_eq!(results.step("state-again", 0), STATE);
    assert_eq!(results.step("content", 0), "kept\n");

    // an automount mounts when its directory is read, unmounts when it is idle, and neither is drift
    results.step("auto", 0);
    assert_eq!(results.step("waiting", 0), "autofs\n");
    results.step("waiting-idle", 0);
    assert_eq!(results.step("read", 0), "autofs tmpfs\n");
    results.step("read-idle", 0);
    assert_eq!(results.step("unused", 0), "autofs\n");
    results.step("auto-gone", 0);
    assert_eq!(results.step("gone", 1), "");
}

const FIRST: &str = r#"
[[filesystem]]
device = "/dev/disk/by-id/virtio-spare1"
type = "ext4"
label = "data"
options = ["-m", "0"]
[[filesystem]]
device = "/dev/disk/by-id/virtio-spare2"
type = "xfs"
label = "log"
[[filesystem]]
device = "/dev/disk/by-id/virtio-spare3"
type = "vfat"
label = "EFI"
[[mount]]
where = "/srv/a"
what = "LABEL=data"
type = "ext4"
[[mount]]
where = "/srv/b"
what = "LABEL=log"
type = "xfs"
[[swap]]
file = "/swapfile"
size = "64M"
"#;

const AUTO: &str = r#"
[[mount]]
where = "/srv/auto"
what = "tmpfs"
type = "tmpfs"
automount = true
idle = "2s"
"#;

/// In place of vfat.
const OTHER: &str = r#"
[[filesystem]]
device = "/dev/vde"
type = "xfs"
"#;

const STATE: &str =
    "ext4 data xfs log vfat EFI \nswap: /swapfile 67104768 \nmounts: /srv/a ext4 /srv/b xfs \n600 root\n";

const STEPS: &str = r#"
state() {
    local disk
    for disk in c d e; do blkid -p -o value -s TYPE -s LABEL "/dev/vd$disk" | sort -r | tr '\n' ' '; done
    echo
    echo "swap: $(swapon --show=NAME,SIZE --bytes --noheadings | tr -s ' \n' ' ')"
    echo "mounts: $(findmnt -rno TARGET,FSTYPE | grep ^/srv | sort | tr '\n' ' ')"
    if [ -e /swapfile ]; then stat -c '%a %U' /swapfile; else echo '/swapfile does not exist'; fi
}
step enrolled enrolled
step first release first
step state state
echo kept > /srv/a/file
step idle kpull plan
umount /srv/a; swapoff /swapfile
step drift kpull plan
step corrected converge
step state-corrected state
step larger release larger
step state-larger state
step other release other
step state-other state
step none release none
step state-none state
step again release first
step state-again state
step content cat /srv/a/file
# findmnt would use the directory
automount() { awk '$2 == "/srv/auto" { print $3 }' /proc/self/mounts | xargs; }
step auto release auto
step waiting automount
step waiting-idle kpull plan
read_it() { ls /srv/auto && automount; }
step read read_it
step read-idle kpull plan
for _ in $(seq 100); do [ "$(automount)" != autofs ] || break; sleep 1; done
step unused automount
step auto-gone release first
step gone findmnt -rno FSTYPE /srv/auto
"#;

#[test]
fn a_run_that_is_killed_while_swapon_or_swapoff_runs_is_finished_by_the_next() {
    let dir = with_program();
    for (name, size) in [("none", ""), ("first", "256M"), ("larger", "288M")] {
        let role = if size.is_empty() {
            String::new()
        } else {
            format!("[[swap]]\nfile = \"/swapfile\"\nsize = \"{size}\"\n")
        };
        fs::write(dir.path().join(format!("{name}.toml")), format!("summary = \"For a test\"\n{role}")).unwrap();
    }
    let results = boot(dir.path(), &format!("{SITE}{KILL_STEPS}"), KERNEL);
    results.step("enrolled", 0);
    for (name, during) in [("written", "none"), ("swapon", "on"), ("swapoff", "off")] {
        let message = results.step(&format!("killed-{name}"), 1);
        assert!(message.contains("status=9/KILL"), "{name}: {message}");
        results.step(&format!("during-{name}"), 0);
        assert_eq!(
            results.read(&format!("state-{name}")),
            format!("{during}\n"),
            "what had begun when kpull was killed"
        );
        results.step(&format!("finished-{name}"), 0);
        results.step(&format!("idle-{name}"), 0);
    }
    assert_eq!(results.step("size-written", 0), "/swapfile 268431360\n");
    assert_eq!(results.step("size-swapon", 0), "/swapfile 268431360\n");
    assert_eq!(results.step("size-swapoff", 0), "/swapfile 301985792\n");
    assert_eq!(results.step("files", 0), "/swapfile\n", "no temporary file stays");
}

/// The real programs, which kill kpull once before they begin.
const KILL_STEPS: &str = r#"
kill_kpull() { kill -KILL "$(systemctl show -p MainPID --value kpull.service)"; }
for program in swapon swapoff; do
    mv "/usr/sbin/$program" "/usr/sbin/$program.real"
    cat > "/usr/sbin/$program" <<END
#!/bin/bash
if [ -e /srv/kill-$program ]; then
    rm /srv/kill-$program
    echo ${program#swap} > /mnt/state-$program
    kill -KILL "\$(systemctl show -p MainPID --value kpull.service)"
    sleep 2
fi
exec /usr/sbin/$program.real "\$@"
END
    chmod 755 "/usr/sbin/$program"
done
large() { find / -xdev -maxdepth 1 -type f -size "+$1" -newer /srv/begun; }
size() { swapon --show=NAME,SIZE --bytes --noheadings | tr -s ' '; }
killed() { # NAME RELEASE: kpull can't say so itself
    release "$2" && return
    journalctl --no-pager -q -o cat -u kpull.service -n 20
    return 1
}
after() { # NAME
    step "finished-$1" converge
    step "size-$1" size
    step "idle-$1" kpull plan
}
step enrolled enrolled
touch /srv/begun
(until [ -n "$(large 8M)" ]; do :; done; kill_kpull) &
step killed-written killed written first
wait
step during-written sh -c 'test ! -e /swapfile && echo none > /mnt/state-written'
after written
step gone release none
touch /srv/kill-swapon
step killed-swapon killed swapon first
step during-swapon test ! -e /srv/kill-swapon
after swapon
touch /srv/kill-swapoff
step killed-swapoff killed swapoff larger
step during-swapoff test ! -e /srv/kill-swapoff
after swapoff
step files large 1M
"#;

/// Types, with what shows on a disk that mkfs has begun: bytes, and where.
const BEGUN: [(&str, u64, &[u8]); 2] = [("xfs", 0, b"XFSB"), ("vfat", 510, &[0x55, 0xaa])];

#[test]
fn a_file_system_is_made_again_if_the_power_is_cut_while_mkfs_writes_it() {
    let dir = with_program();
    fs::write(dir.path().join("none.toml"), "summary = \"For a test\"\n").unwrap();
    for ((kind, ..), number) in BEGUN.iter().zip(1..) {
        let device = format!("/dev/disk/by-id/virtio-spare{number}");
        let role = format!(
            "summary = \"For a test\"\n[[filesystem]]\ndevice = \"{device}\"\ntype = \"{kind}\"\nlabel = \"NEW\"\n"
        );
        fs::write(dir.path().join(format!("{kind}.toml")), role).unwrap();
    }
    let disks = Disks::new(dir.path(), &format!("{SITE}{CUT_STEPS}")).kept();
    let written = |number| fs::metadata(disks.spare(number)).unwrap().blocks();
    let mut cut = Vec::new();
    for ((kind, at, bytes), number) in BEGUN.iter().zip(1..) {
        let has_begun = || {
            let mut found = vec![0; bytes.len()];
            File::open(disks.spare(number)).unwrap().read_exact_at(&mut found, *at).unwrap();
            found == *bytes
        };
        disks.machine(KERNEL, Some(number)).cut_off(has_begun);
        cut.push(written(number));
        assert_eq!(blkid(disks.spare(number)), format!("{kind}\n"), "this is not enough to see that it is unfinished");
    }
    let results = disks.results(disks.machine(KERNEL, None).run());
    for ((kind, ..), number) in BEGUN.iter().zip(1..) {
        results.step(&format!("finished-{kind}"), 0);
        results.step(&format!("checked-{kind}"), 0);
        results.step(&format!("idle-{kind}"), 0);
        assert!(written(number) > cut[number - 1], "{kind} was finished when the power was cut");
    }
}

fn blkid(disk: &Path) -> String {
    Output::of(Command::new("blkid").args(["-p", "-o", "value", "-s", "TYPE"]).arg(disk).output().unwrap())
        .exits(0)
        .stdout
}

/// At each boot: the file system that was cut off is finished, and mkfs begins to write the next one, page by page.
const CUT_STEPS: &str = r#"
check() { # TYPE DEVICE
    case $1 in xfs) xfs_repair -n "$2" ;; vfat) fsck.vfat -n "$2" ;; esac
}
kinds=(xfs vfat)
number=$(cat /srv/number 2> /dev/null || echo 0)
if [ "$number" = 0 ]; then
    step enrolled enrolled
else
    kind=${kinds[$number - 1]}
    step "finished-$kind" converge
    step "checked-$kind" check "$kind" "/dev/disk/by-id/virtio-spare$number"
    step "idle-$kind" kpull plan
fi
kind=${kinds[$number]:-}
[ -n "$kind" ] || exit 0
echo $((++number)) > /srv/number
disk=$(readlink -f "/dev/disk/by-id/virtio-spare$number")
echo 4 > "/sys/block/${disk##*/}/queue/max_sectors_kb"
sync
step "begun-$kind" release "$kind"
"#;
