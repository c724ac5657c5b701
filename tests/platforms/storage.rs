//! File systems on empty disks, and swap, on a kernel of its own: the machine of `selinux-image`, with SELinux off.

use std::fs;

use crate::platforms::steps::{SITE, boot, with_program};

#[test]
fn empty_disks_get_their_file_systems_once_and_swap_is_turned_on_resized_and_off() {
    let dir = with_program();
    for (name, role) in [
        ("first", FIRST.to_owned()),
        ("larger", FIRST.replace("64M", "96M")),
        ("other", format!("{FIRST}{OTHER}")),
        ("none", String::new()),
    ] {
        fs::write(dir.path().join(format!("{name}.toml")), format!("summary = \"For a test\"\n{role}")).unwrap();
    }
    let results = boot(
        dir.path(),
        &format!("{SITE}{STEPS}"),
        "selinux=0 systemd.mask=firewalld.service systemd.mask=auditd.service",
    );
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
"#;
