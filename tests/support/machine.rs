//! Virtual machines, for what needs a kernel of its own: QEMU in software, which every machine can run.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// After this many seconds a machine that has not switched itself off is ended: many times what it takes where nothing else runs.
const PATIENCE: &str = "7200";

/// Installs the Debian packages of those commands that are missing, each given as command and package.
pub fn need(tools: &[(&str, &str)]) {
    let is_there = |tool: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|dir| dir.join(tool).exists())
    };
    let missing: Vec<_> = tools.iter().filter(|(tool, _)| !is_there(tool)).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        run("apt-get", ["-qq", "update"]);
        run("apt-get", [&["-qq", "-y", "--no-install-recommends", "install"], &missing[..]].concat());
    }
}

/// Runs a program that has to succeed; what it says goes to the test's own output.
pub fn run(program: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) {
    let mut command = Command::new(program);
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    let status = command.status().unwrap_or_else(|error| panic!("start {program}: {error}"));
    assert!(status.success(), "{program}: {status}");
}

/// The user's directory for what tests make once.
pub fn cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    cache.unwrap_or_else(|| Path::new(&std::env::var_os("HOME").expect("a home")).join(".cache")).join("kpull")
}

/// The directory that a recipe of `tests/platforms/` makes, made once: it bears the recipe's digest.
pub fn made_by(recipe: &str) -> PathBuf {
    let path = Path::new(REPOSITORY).join("tests/platforms").join(recipe);
    let digest = hex::encode(Sha256::digest(fs::read(&path).expect("a recipe")));
    let dir = cache().join("machines").join(format!("{recipe}-{}", &digest[..12]));
    fs::create_dir_all(dir.parent().unwrap()).unwrap();
    let lock = fs::File::create(dir.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    if !dir.exists() {
        let part = dir.with_extension("part");
        run("rm", [OsStr::new("-rf"), OsStr::new("--one-file-system"), part.as_os_str()]);
        run("unshare", [OsStr::new("--mount"), path.as_os_str(), part.as_os_str()]);
        fs::rename(&part, &dir).unwrap();
    }
    dir
}

/// What a machine is booted with.
pub struct Machine {
    /// QEMU's program, and what it says of the machine.
    pub program: &'static str,
    pub options: Vec<String>,
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    /// The kernel's command line.
    pub append: String,
}

impl Machine {
    /// Boots it without a network, and waits until it has switched itself off; returns the output of its console.
    pub fn run(&self) -> String {
        let (status, console) = self.until(|| false);
        assert!(status.success(), "{}: {status}\n{console}", self.program);
        console
    }

    /// Boots it, and cuts its power once it `is_time`.
    pub fn cut_off(&self, is_time: impl Fn() -> bool) {
        let (status, console) = self.until(is_time);
        assert!(!status.success(), "{} has switched itself off\n{console}", self.program);
    }

    fn until(&self, is_time: impl Fn() -> bool) -> (ExitStatus, String) {
        let [console, pid] = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap());
        let mut command = Command::new("timeout");
        command.args(["--kill-after=10", PATIENCE, self.program, "-accel", "tcg", "-display", "none"]);
        command.args(["-no-reboot", "-nic", "none", "-smp", "2", "-m", "2048"]).args(&self.options);
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initrd).args(["-append", &self.append]);
        command.arg("-serial").arg(format!("file:{}", console.path().display())).arg("-pidfile").arg(pid.path());
        let mut child = command.stdin(Stdio::null()).spawn().expect("start QEMU");
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if is_time() {
                let pid = fs::read_to_string(pid.path()).unwrap().trim().parse().unwrap();
                kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
                break child.wait().unwrap();
            }
            sleep(Duration::from_millis(50));
        };
        (status, String::from_utf8_lossy(&fs::read(console.path()).unwrap()).into_owned())
    }
}
