//! Debian in a machine that QEMU emulates: its kernel, its systemd, and root who runs some steps.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempDir};

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

/// The disks of a machine.
pub struct Disks {
    made: PathBuf,
    /// What the machine starts from, if it is to keep what it writes there.
    own: Option<NamedTempFile>,
    steps: NamedTempFile,
    spare: Vec<NamedTempFile>,
}

impl Disks {
    /// Those of a machine in which root runs the steps at each boot, with the files of `dir` at /mnt.
    pub fn new(dir: &Path, steps: &str) -> Self {
        need(&[
            ("qemu-system-x86_64", "qemu-system-x86"),
            ("setfiles", "policycoreutils"),
            ("mke2fs", "e2fsprogs"),
            ("mmdebstrap", "mmdebstrap"),
        ]);
        fs::write(dir.join("steps"), format!("{STEP}{steps}")).unwrap();
        let disk = NamedTempFile::new().unwrap();
        run("mke2fs", ["-q", "-t", "ext4", "-d", dir.to_str().unwrap(), disk.path().to_str().unwrap(), "256M"]);
        let spare = SPARE.map(|size| {
            let disk = NamedTempFile::new().unwrap();
            disk.as_file().set_len(size << 20).unwrap();
            disk
        });
        Self { made: made_by("selinux-image"), own: None, steps: disk, spare: spare.into() }
    }

    /// The machine keeps all that it writes, so it can be booted again.
    pub fn kept(self) -> Self {
        let own = NamedTempFile::new().unwrap();
        run("cp", [Path::new("--sparse=always"), &self.made.join("disk"), own.path()]);
        Self { own: Some(own), ..self }
    }

    /// An empty disk, counted from one.
    pub fn spare(&self, number: usize) -> &Path {
        self.spare[number - 1].path()
    }

    /// The machine with these words for its kernel. One of the empty disks may be slow.
    pub fn machine(&self, words: &str, slow: Option<usize>) -> Machine {
        let drive = |path: &Path, more: &str| {
            let file = format!("file={},if=virtio,format=raw{more}", path.display());
            ["-drive".to_owned(), file]
        };
        let base = self.made.join("disk");
        let first = self.own.as_ref().map_or_else(|| drive(&base, ",snapshot=on"), |own| drive(own.path(), ""));
        let mut options = vec!["-cpu".to_owned(), "max".to_owned()];
        options.extend([first, drive(self.steps.path(), "")].concat());
        for (disk, number) in self.spare.iter().zip(1..) {
            let (limit, each) = match slow == Some(number) {
                true => (",throttling.iops-write=8", ",request-merging=off"),
                false => ("", ""),
            };
            let file = format!("file={},if=none,format=raw,id=spare{number}{limit}", disk.path().display());
            // behind the others on the bus, which are named in this order
            let device = format!("virtio-blk-pci,drive=spare{number},serial=spare{number},addr=0x1{number}{each}");
            options.extend(["-drive".to_owned(), file, "-device".to_owned(), device]);
        }
        let (kernel, initrd) = (self.made.join("kernel"), self.made.join("initrd"));
        let append = format!("console=ttyS0 root=/dev/vda rw {words}");
        Machine { program: "qemu-system-x86_64", options, kernel, initrd, append }
    }

    /// What the steps have left on the machine's second disk.
    pub fn results(&self, console: String) -> Results {
        let dir = tempfile::tempdir().unwrap();
        run("debugfs", ["-R", &format!("rdump / {}", dir.path().display()), self.steps.path().to_str().unwrap()]);
        Results { dir, console }
    }
}

/// Boots the machine with these words for its kernel. Root runs the steps in it, with the files of `dir` at /mnt.
pub fn boot(dir: &Path, steps: &str, kernel: &str) -> Results {
    let disks = Disks::new(dir, steps);
    let console = disks.machine(kernel, None).run();
    disks.results(console)
}
