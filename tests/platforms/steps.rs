//! Debian in a machine that QEMU emulates: its kernel, its systemd, and root who runs some steps.

use std::fs;
use std::path::Path;

use crate::support::machine::{Machine, made_by, need, run};

/// What a step says and its exit code are files beside the steps.
const STEP: &str = r#"
step() { "${@:2}" 2>&1 | cat > "/mnt/$1"; echo "${PIPESTATUS[0]}" > "/mnt/$1.code"; }
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
    let disks = [drive(base.to_str().unwrap(), ",snapshot=on"), drive(path, "")].concat();
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
