//! Real hosts for a test: `tests/lab/lab`, with an end that also comes when the test fails or is killed.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::support::machine::cache;

/// The host of a test that has one.
pub const H1: (&str, &str) = ("h1", "192.168.1.11");
const LAB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/lab");
const CONTAINERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/containers/.");

/// Downloads packages of a Debian release to the directory `$1`, once, and copies them to the host with the root `$2`, with all that they
/// need.
const FETCH: &str = r#"
set -eu
root=$2 suite=$3
mkdir -p "$1"/archives/partial "$1"/lists/partial
cd "$1"
shift 3
exec 9> lock
flock 9
cp "$root/var/lib/dpkg/status" status # apt would resolve the link in the path of the root, and read this machine's
for part in "debian $suite" "debian $suite-updates" "debian-security $suite-security"; do
    echo "deb http://deb.debian.org/$part main"
done > sources
of_suite() {
    apt-get -qq -y --no-install-recommends -o Dir::Etc::sourcelist="$PWD/sources" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$PWD/lists" -o Dir::State::status="$PWD/status" -o Dir::Cache="$PWD" "$@"
}
if [ "$(cat complete 2>/dev/null)" != "$*" ]; then
    rm -f archives/*.deb
    { of_suite update && of_suite --download-only install "$@"; } > log 2>&1 || { cat log >&2; exit 1; }
    echo "$*" > complete
fi
cp archives/*.deb "$root/srv/apt"
"#;

/// The URL at which a host, by its address, reaches the servers beside the hosts.
pub fn fabric_of(address: &str) -> String {
    let (network, _) = address.rsplit_once('.').expect("an IPv4 address");
    format!("{network}.254")
}

/// A Debian release.
#[derive(Clone, Copy, Debug)]
pub enum Suite {
    Bullseye,
    Bookworm,
    Trixie,
    Sid,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::Bullseye => "bullseye",
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }
}

/// Hosts on a private network, a /24 that their addresses are in; all of it ends when this is dropped.
pub struct Lab {
    /// Holds the lab as long as its stdin is open, which ends with this process however that ends.
    keeper: Child,
    dir: PathBuf,
    /// `1` for the legacy control groups, else `2`.
    cgroup: &'static str,
    suite: Suite,
}

impl Lab {
    /// Boots hosts, given as name and address, and returns when all of them are up.
    pub fn new(hosts: &[(&str, &str)]) -> Self {
        Self::of(Suite::Bookworm, hosts)
    }

    /// The same, with hosts of another Debian release.
    pub fn of(suite: Suite, hosts: &[(&str, &str)]) -> Self {
        Self::boot(hosts, "2", suite)
    }

    /// The same, with hosts that containers run on: they have control groups of this version, and what else the lab has to make
    /// up for.
    pub fn for_containers(hosts: &[(&str, &str)], cgroup: &'static str) -> Self {
        Self::of_for_containers(Suite::Bookworm, hosts, cgroup)
    }

    /// The same, with hosts of another Debian release.
    pub fn of_for_containers(suite: Suite, hosts: &[(&str, &str)], cgroup: &'static str) -> Self {
        let lab = Self::boot(hosts, cgroup, suite);
        for (name, _) in hosts {
            lab.host(name).prepare_for_containers();
        }
        lab
    }

    /// Boots one more host in a lab for containers.
    pub fn add_for_containers(&self, name: &str, address: &str) {
        Output::of(self.command("up").arg(format!("{name}={address}"))).ok();
        self.host(name).prepare_for_containers();
    }

    fn boot(hosts: &[(&str, &str)], cgroup: &'static str, suite: Suite) -> Self {
        // The first time this takes minutes, and an interrupt from the terminal should end it.
        Output::of(Command::new(LAB).arg("base").env("SUITE", suite.name())).ok();
        let mut keeper = Command::new(LAB)
            .arg("hold")
            .env("CGROUP", cgroup)
            .env("SUITE", suite.name())
            .process_group(0) // an interrupt from the terminal must not reach it: it has to clean up
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the lab");
        let mut dir = String::new();
        BufReader::new(keeper.stdout.take().expect("its stdout")).read_line(&mut dir).expect("read its directory");
        assert!(dir.ends_with('\n'), "the lab did not start: {:?}", keeper.wait());
        let lab = Self { keeper, dir: dir.trim_end().into(), cgroup, suite };
        let hosts: Vec<_> = hosts.iter().map(|(name, address)| format!("{name}={address}")).collect();
        Output::of(lab.command("up").args(hosts)).ok();
        lab
    }

    /// The lab's own directory on this machine; `$LAB` in commands on the fabric. It ends with the lab.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// One of the hosts.
    pub fn host<'a>(&'a self, name: &'a str) -> Host<'a> {
        Host { lab: self, name }
    }

    /// Runs a shell command beside the hosts, at `fabric_of` them, with this machine's files and tools.
    pub fn fabric(&self, command: &str) -> Output {
        Output::of(self.command("fabric").args(["bash", "-c", command]))
    }

    /// Runs `f` in the network beside the hosts: what it listens on, they can reach at `fabric_of` them.
    pub fn in_network<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> T {
        let pid = std::fs::read_to_string(self.dir.join("pids/fabric")).expect("the fabric's PID");
        let network = std::fs::File::open(format!("/proc/{}/ns/net", pid.trim())).expect("its network");
        std::thread::spawn(move || {
            nix::sched::setns(network, nix::sched::CloneFlags::CLONE_NEWNET).expect("enter its network");
            f()
        })
        .join()
        .expect("what runs in the network")
    }

    /// Starts a shell command beside the hosts, a server for instance; it ends when the returned value is dropped.
    pub fn spawn_fabric(&self, command: &str) -> Running {
        let mut process = self.command("fabric");
        process.args(["bash", "-c", command]).process_group(0).stdin(Stdio::null());
        Running(process.spawn().expect("start a command on the fabric"))
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(LAB);
        command.arg(verb).env("LAB", &self.dir).env("CGROUP", self.cgroup).env("SUITE", self.suite.name());
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        match self.keeper.wait() {
            Ok(status) if status.success() => {}
            ended => eprintln!("the lab did not end well: {ended:?}"),
        }
    }
}

/// One host of a lab.
#[derive(Clone, Copy)]
pub struct Host<'a> {
    lab: &'a Lab,
    name: &'a str,
}

impl Host<'_> {
    fn prepare_for_containers(&self) {
        Output::of(Command::new("cp").args(["-r", "--preserve=mode", "--", CONTAINERS]).arg(self.root())).ok();
        self.run(
            "systemctl daemon-reload && systemctl enable -q --now lab-prepare.service var-lib-{docker,containerd}.mount &&
            systemctl enable -q lab-images.service lab-images-containerd.service",
        )
        .ok();
    }

    /// Runs a shell command as root.
    pub fn run(&self, command: &str) -> Output {
        Output::of(self.command().args(["bash", "-c", command]))
    }

    /// Writes a file, mode 0644, and the directories that it needs.
    pub fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        self.put(path, bytes.as_ref(), 0o644);
    }

    /// Copies a file of this machine to the host, with a mode.
    pub fn copy(&self, local: impl AsRef<Path>, path: &str, mode: u32) {
        let local = local.as_ref();
        let bytes = std::fs::read(local).unwrap_or_else(|error| panic!("read {}: {error}", local.display()));
        self.put(path, &bytes, mode);
    }

    /// Installs a package of this machine's Debian release that the base does not have. It is downloaded into the user's cache once, with
    /// what it needs.
    pub fn install(&self, package: &str) {
        let debs = cache().join("lab").join(package);
        std::fs::create_dir_all(debs.join("partial")).expect("make a directory for packages");
        // apt would resolve the link in the path of the root, and read this machine's
        let status = debs.join("status");
        std::fs::copy(self.root().join("var/lib/dpkg/status"), &status).expect("copy what is installed");
        let mut fetch = Command::new("apt-get");
        fetch.args(["-qq", "-y", "--no-install-recommends", "--download-only"]);
        fetch.arg("-o").arg(format!("Dir::State::status={}", status.display()));
        fetch.arg("-o").arg(format!("Dir::Cache::archives={}", debs.display()));
        Output::of(fetch.args(["install", package])).ok();
        for entry in std::fs::read_dir(&debs).expect("list the packages") {
            let deb = entry.expect("a package").path();
            if deb.extension().is_some_and(|extension| extension == "deb") {
                self.copy(&deb, &format!("/opt/debs/{}", deb.file_name().expect("its name").to_string_lossy()), 0o644);
            }
        }
        self.run("dpkg -i /opt/debs/*.deb").ok();
    }

    /// Offers packages of the host's Debian release to the host's apt, with what they need. They are downloaded into the user's cache
    /// once, as `name`.
    pub fn offer(&self, name: &str, packages: &[&str]) {
        let suite = self.lab.suite.name();
        let debs = cache().join(format!("lab/{suite}-{name}"));
        let mut fetch = Command::new("bash");
        fetch.args(["-c", FETCH, "fetch"]).arg(debs).arg(self.root()).arg(suite).args(packages);
        Output::of(&mut fetch).ok();
        self.run(
            "cd /srv/apt && apt-ftparchive packages . > Packages && apt-ftparchive release . > /tmp/Release &&
            mv /tmp/Release . && apt-get -q update",
        )
        .ok();
    }

    /// Its root directory, as this machine sees it.
    pub fn root(&self) -> PathBuf {
        Output::of(self.lab.command("root").arg(self.name)).ok().into()
    }

    /// A power cut: everything on the host is killed at once; its disk stays.
    pub fn crash(&self) {
        Output::of(self.lab.command("crash").arg(self.name)).ok();
    }

    /// Takes the disk of a host that has crashed.
    pub fn wipe(&self) {
        Output::of(self.lab.command("wipe").arg(self.name)).ok();
    }

    /// Boots the host again after a crash, and returns when it is up, even where a unit of it failed.
    pub fn boot(&self) {
        Output::of(self.lab.command("up").arg(self.name)).ok();
    }

    fn command(&self) -> Command {
        let mut command = self.lab.command("sh");
        command.arg(self.name);
        command
    }

    /// Renames the new file into place, so that a program that runs can be replaced.
    fn put(&self, path: &str, bytes: &[u8], mode: u32) {
        let script = r#"mkdir -p "$(dirname "$1")" && cat > "$1.new" && chmod "$2" "$1.new" && mv -T "$1.new" "$1""#;
        let mut command = self.command();
        command.args(["bash", "-c", script, "put", path, &format!("{mode:o}")]);
        Output::with_input(&mut command, bytes).ok();
    }
}

/// What a command left.
#[derive(Debug)]
pub struct Output {
    command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Runs a command of this machine to its end.
    pub fn of(command: &mut Command) -> Self {
        Self::with_input(command, &[])
    }

    fn with_input(command: &mut Command, input: &[u8]) -> Self {
        let shown = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {shown}: {error}"));
        let mut stdin = child.stdin.take().expect("its stdin");
        let output = std::thread::scope(|scope| {
            // A command that ends without reading all of its input reports why.
            scope.spawn(move || drop(stdin.write_all(input)));
            child.wait_with_output().unwrap_or_else(|error| panic!("wait for {shown}: {error}"))
        });
        Self {
            command: shown,
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The exit code; a command that a signal ended has 128 and the signal's number.
    pub fn code(&self) -> i32 {
        self.status.code().or_else(|| self.status.signal().map(|signal| 128 + signal)).expect("it ended")
    }

    /// What it printed, without the last line end; fails the test where the command failed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{self}");
        self.stdout.trim_end_matches('\n').to_owned()
    }

    /// Its standard error; fails the test if the command did not end with this exit code.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert!(self.code() == code, "expected exit code {code}\n{self}");
        self.stderr
    }
}

impl Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, status, stdout, stderr } = self;
        write!(f, "{command}\n{status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// A command that runs beside the hosts until this is dropped.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It can have ended already, or with its lab.
        if let Ok(id) = i32::try_from(self.0.id())
            && matches!(self.0.try_wait(), Ok(None))
        {
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
        let _ = self.0.wait();
    }
}
