//! Debian in a machine that QEMU emulates: its kernel, its systemd, and root who runs some steps.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::support::machine::{Machine, made_by, need, run};

/// A directory for the files of the steps, with the program, without what only debuggers need, and its service.
pub fn with_program() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("kpull");
    run("strip", [Path::new("-o"), &program, Path::new(env!("CARGO_BIN_EXE_kpull"))]);
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/kpull.service"), dir.path().join("kpull.service")).unwrap();
    dir
}

/// What a step says and its exit code are files beside the steps.
const STEP: &str = r#"
step() { "${@:2}" 2>&1 | cat > "/mnt/$1"; echo "${PIPESTATUS[0]}" > "/mnt/$1.code"; }
"#;

/// Steps with a site in a directory, whose role is one of the files beside the steps, NAME.toml: `enrolled`, `sign NAME`,
/// `converge`, and `release NAME` for both. The first is called `none`.
pub const SITE: &str = r#"
converge() {
    local code=0
    systemctl start kpull.service || code=$?
    journalctl --sync
    journalctl --no-pager -q -o cat "_SYSTEMD_INVOCATION_ID=$(systemctl show -p InvocationID --value kpull.service)" \
        + "INVOCATION_ID=$(systemctl show -p InvocationID --value kpull.service)"
    systemctl reset-failed kpull.service || true
    return $code
}
sign() { # NAME
    cp "/mnt/$1.toml" /srv/site/roles/app/role.toml && kpull sign --site /srv/site --key /root/key
}
release() { # NAME
    sign "$1" && converge
}
enrolled() {
    cp /mnt/kpull /usr/bin/ && cp /mnt/kpull.service /usr/lib/systemd/system/ || return 1
    [ ! -e /sys/fs/selinux/enforce ] || restorecon -R /usr/bin/kpull /usr/lib/systemd/system || return 1
    systemctl daemon-reload || return 1
    mkdir -p /srv/site/roles/app /srv/site/host_vars
    echo 'name = "lab"' > /srv/site/site.toml
    printf 'address = "10.0.2.15"\nroles = ["app"]\n' > /srv/site/host_vars/h1.toml
    cp /mnt/none.toml /srv/site/roles/app/role.toml
    ssh-keygen -q -t ed25519 -N '' -f /root/key && kpull sign --site /srv/site --key /root/key &&
        kpull enroll /srv/site --site lab --host h1 --fingerprint "$(ssh-keygen -lf /root/key.pub | cut -d' ' -f2)"
}
"#;

/// What the steps have left on the machine's second disk.
pub struct Results {
    dir: tempfile::TempDir,
    console: String,
}

impl Results {
    /// One of those files.
    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        let path = self.dir.path().join(name);
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}\n{}", self.console))
    }

    /// The output of a step, which must have ended with this exit code.
    #[track_caller]
    pub fn step(&self, name: &str, code: i32) -> String {
        let message = self.read(name);
        let audit = fs::read_to_string(self.dir.path().join("audit")).unwrap_or_default();
        assert_eq!(self.read(&format!("{name}.code")), format!("{code}\n"), "{name}: {message}\n{audit}");
        message
    }
}

/// Sizes of empty disks that the machine has besides, in MiB: `/dev/disk/by-id/virtio-spare1`, `-spare2`, `-spare3`.
const SPARE: [u64; 3] = [512, 512, 64];

/// Boots the machine with these words for its kernel. Root runs the steps in it, with the files of `dir` at /mnt.
pub fn boot(dir: &Path, steps: &str, kernel: &str) -> Results {
    need(&[
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("setfiles", "policycoreutils"),
        ("mke2fs", "e2fsprogs"),
        ("mmdebstrap", "mmdebstrap"),
    ]);
    let made = made_by("selinux-image");
    fs::write(dir.join("steps"), format!("{STEP}{steps}")).unwrap();
    let disk = tempfile::NamedTempFile::new().unwrap();
    let path = disk.path().to_str().unwrap();
    run("mke2fs", ["-q", "-t", "ext4", "-d", dir.to_str().unwrap(), path, "256M"]);
    let drive = |path: &str, more: &str| ["-drive".to_owned(), format!("file={path},if=virtio,format=raw{more}")];
    let base = made.join("disk");
    let mut disks = [drive(base.to_str().unwrap(), ",snapshot=on"), drive(path, "")].concat();
    let spare = SPARE.map(|size| {
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().set_len(size << 20).unwrap();
        disk
    });
    for (disk, number) in spare.iter().zip(1..) {
        let file = format!("file={},if=none,format=raw,id=spare{number}", disk.path().display());
        // behind the others on the bus, which are named in this order
        let device = format!("virtio-blk-pci,drive=spare{number},serial=spare{number},addr=0x1{number}");
        disks.extend(["-drive".to_owned(), file, "-device".to_owned(), device]);
    }
    let console = Machine {
        program: "qemu-system-x86_64",
        options: [vec!["-cpu".to_owned(), "max".to_owned()], disks].concat(),
        kernel: made.join("kernel"),
        initrd: made.join("initrd"),
        append: &format!("console=ttyS0 root=/dev/vda rw {kernel}"),
    }
    .run();
    let dir = tempfile::tempdir().unwrap();
    run("debugfs", ["-R", &format!("rdump / {}", dir.path().display()), path]);
    Results { dir, console }
}
