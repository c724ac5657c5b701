//! A cluster for a test: a site that is signed and published, and hosts that follow it by kpull's timer and nothing else.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kpull::document::layout::{MANIFEST, SIGNATURES};
use kpull::net::server::{Answer, Server};
use kpull::trust::NAMESPACE;
use toml_edit::{DocumentMut, Item, TableLike};

use crate::support::lab::{Host, Lab, Output, Suite, fabric_of};
use crate::support::shipped::{assemble, cluster_dir};

const KPULL: &str = env!("CARGO_BIN_EXE_kpull");
const PROJECT: &str = env!("CARGO_MANIFEST_DIR");
/// A short pause between two runs, so that no test waits for a minute; otherwise the timer is the shipped one.
const TIMER: &str = "[Timer]\nOnBootSec=\nOnBootSec=1s\nOnUnitInactiveSec=3s\nRandomizedDelaySec=0\n";

/// What hosts of a cluster are like.
pub struct Machines {
    /// The version of their control groups.
    pub cgroup: &'static str,
    /// The Debian release that they have.
    pub suite: Suite,
    /// Where the tarballs are that they install.
    pub artifacts: PathBuf,
    /// What is done to each before it is enrolled.
    pub prepare: fn(Host<'_>),
}

impl Default for Machines {
    fn default() -> Self {
        Self { cgroup: "1", suite: Suite::Bookworm, artifacts: artifacts(), prepare: |_| {} }
    }
}

/// The hosts of a site, where the site is, and where they get it from. All of it ends when this is dropped.
pub struct Cluster {
    lab: Lab,
    dir: tempfile::TempDir,
    /// What the hosts see as the world outside.
    fabric: String,
    serial: AtomicU64,
    machines: Machines,
    server: Mutex<Option<Server>>,
}

impl Cluster {
    /// Boots the hosts of the site that is shipped, or of `tests/cluster/sites/NAME`, and enrols them to it; `start` lets them
    /// go.
    ///
    /// Over the site lies what `tests/cluster/lab` says, and over that, where there is such a directory,
    /// `tests/cluster/kubernetes-VERSION`: each of their TOML files is merged into the site's of the same name, or stands beside
    /// it. `secrets.toml` is no part of the site: it has the values of secrets by name.
    pub fn new(name: Option<&str>) -> Self {
        Self::with(name, Machines::default(), |_| {})
    }

    /// The same, on other hosts; `change` edits the site's directory first.
    pub fn with(name: Option<&str>, machines: Machines, change: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let site = dir.path().join("site");
        assemble(&site, name);
        change(&site);
        let hosts = hosts_of(&site);
        let named: Vec<_> = hosts.iter().map(|(name, address)| (name.as_str(), address.as_str())).collect();
        let fabric = fabric_of(named[0].1);
        let artifacts = machines.artifacts.clone();
        pin(&site.join("artifacts.toml"), &artifacts, &fabric);
        let version = read(&site.join("artifacts.toml"))["kubernetes-server"]["version"].as_str().unwrap().to_owned();
        let (minor, _) = version.rsplit_once('.').unwrap();
        overlay(&site, &cluster_dir("lab"));
        overlay(&site, &cluster_dir(&format!("kubernetes-{minor}")));
        keygen(&dir.path().join("operator"));
        let operator = fs::read_to_string(dir.path().join("operator.pub")).unwrap();
        edit(&site.join("site.toml"), |doc| doc["secrets"]["recipients"] = array([operator.trim()]));
        let lab = Lab::of_for_containers(machines.suite, &named, machines.cgroup);
        let (releases, more) = (dir.path().join("releases"), dir.path().join("more"));
        let at = format!("{fabric}:80");
        let server = lab.in_network(move || {
            let listener = TcpListener::bind(at).unwrap();
            let file = move |path: &str| match path.strip_prefix("/artifacts/") {
                Some(name) => fs::read(artifacts.join(name)).or_else(|_| fs::read(more.join(name))),
                None => fs::read(releases.join(path.trim_start_matches('/'))),
            };
            Server::on(listener, None, move |request| match file(&request.path) {
                Ok(bytes) => Answer::new(200, bytes),
                Err(_) => Answer::new(404, ""),
            })
            .unwrap()
        });
        let cluster = Self { lab, dir, fabric, serial: AtomicU64::new(0), machines, server: Mutex::new(Some(server)) };
        for name in cluster.names() {
            cluster.make_key(&name);
        }
        cluster.set_secrets(&cluster_dir("lab").join("secrets.toml"));
        cluster.release();
        for name in cluster.names() {
            cluster.enroll(&name);
        }
        cluster
    }

    /// The site's directory: edit it, then `release`.
    pub fn site(&self) -> PathBuf {
        self.dir.path().join("site")
    }

    /// The hosts of the group `masters`.
    pub fn masters(&self) -> Vec<String> {
        let is_master = |name: &String| {
            let reported = read(&self.site().join(format!("host_vars/{name}.toml")));
            reported["groups"]
                .as_array()
                .is_some_and(|groups| groups.iter().any(|group| group.as_str() == Some("masters")))
        };
        self.names().into_iter().filter(is_master).collect()
    }

    /// The hosts that pods run on.
    pub fn nodes(&self) -> Vec<String> {
        let site = read(&self.site().join("site.toml"));
        let has_kubelet = |reported: &Item| {
            reported["roles"].as_array().is_some_and(|roles| roles.iter().any(|role| role.as_str() == Some("kubelet")))
        };
        let is_node = |name: &String| {
            let reported = read(&self.site().join(format!("host_vars/{name}.toml")));
            let groups = reported["groups"].as_array().unwrap();
            groups.iter().any(|group| has_kubelet(&site["groups"][group.as_str().unwrap()]))
        };
        self.names().into_iter().filter(is_node).collect()
    }

    /// Names of the site's hosts.
    pub fn names(&self) -> Vec<String> {
        hosts_of(&self.site()).into_iter().map(|(name, _)| name).collect()
    }

    /// Boots one more host of the site, gives it a key, and enrols it; it follows the site from its next release on.
    pub fn add(&self, name: &str, host_vars: &str) {
        fs::write(self.site().join(format!("host_vars/{name}.toml")), host_vars).unwrap();
        self.install(name);
    }

    /// A new machine takes the place of one that has crashed, with the same name and address.
    pub fn replace_machine(&self, name: &str) {
        self.host(name).wipe();
        self.install(name);
    }

    fn install(&self, name: &str) {
        let (_, address) = hosts_of(&self.site()).into_iter().find(|(known, _)| known == name).unwrap();
        self.lab.add_for_containers(name, &address);
        self.make_key(name);
        self.enroll(name);
    }

    /// Takes a host out of the site.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.site().join(format!("host_vars/{name}.toml"))).unwrap();
    }

    /// Pins Kubernetes in another version: the same programs, which say of themselves that they are the next patch release. A
    /// stand-in for the real one.
    pub fn pin_stand_in_for_next_version(&self) -> String {
        let file = self.site().join("artifacts.toml");
        let now = read(&file)["kubernetes-server"]["version"].as_str().unwrap().to_owned();
        let (minor, patch) = now.rsplit_once('.').unwrap();
        let next = format!("{minor}.{}", patch.parse::<u32>().unwrap() + 1);
        let more = self.dir.path().join("more");
        fs::create_dir_all(&more).unwrap();
        for name in ["kubernetes-server", "kubernetes-node"] {
            let from = self.machines.artifacts.join(format!("{name}-linux-amd64.tar.gz"));
            let tarball = format!("{name}-v{next}-linux-amd64.tar.gz");
            let script = r#"mkdir "$5" && tar -C "$5" -xzf "$1" && find "$5" -type f -exec sed -i "s/v${3//./\.}/v$4/g" {} + &&
                tar -C "$5" -cf - . | gzip -1n > "$2" && rm -r "$5""#;
            let mut command = Command::new("bash");
            command
                .args(["-c", script, "next"])
                .arg(from)
                .arg(more.join(&tarball))
                .args([&now, &next])
                .arg(more.join("unpacked"));
            Output::of(&mut command).ok();
        }
        pin(&file, &more, &self.fabric);
        for role in fs::read_dir(self.site().join("roles")).unwrap() {
            let tables = role.unwrap().path().join("flags");
            for program in fs::read_dir(tables).into_iter().flatten() {
                let program = program.unwrap().path();
                let table = program.join(format!("{now}.txt"));
                if table.exists() {
                    fs::copy(table, program.join(format!("{next}.txt"))).unwrap();
                }
            }
        }
        next
    }

    /// One of the hosts.
    pub fn host<'a>(&'a self, name: &'a str) -> Host<'a> {
        self.lab.host(name)
    }

    /// Starts the timer of every host.
    pub fn start(&self) {
        for name in self.names() {
            self.host(&name).run("systemctl enable -q --now kpull.timer").ok();
        }
    }

    /// Issues certificates, checks the site, signs it, publishes it: what an operator does after an edit.
    pub fn release(&self) {
        self.release_of(|_| {});
    }

    /// The same, by an operator whose clock is wrong: signatures have these times. kpull uses the machine's clock, so the times
    /// are written into its output, which is signed again.
    pub fn release_with_times(&self, created: Timestamp, expires: Timestamp) {
        let operator = self.operator();
        self.release_of(|manifest| {
            self.kpull(&["sign", "--renew", "--key", &operator]);
            edit(manifest, |doc| {
                for (key, time) in [("created", created), ("expires", expires)] {
                    doc[key] = toml_edit::value(format!("{time:.0}").parse::<toml_edit::Datetime>().unwrap());
                }
            });
            fs::remove_file(self.site().join(SIGNATURES)).unwrap();
            let mut sign = Command::new("ssh-keygen");
            Output::of(sign.args(["-q", "-Y", "sign", "-n", NAMESPACE, "-f", &operator]).arg(manifest)).ok();
        });
    }

    /// Makes a release, and publishes it after `change` had its manifest.
    fn release_of(&self, change: impl FnOnce(&Path)) {
        let operator = self.operator();
        self.kpull(&["pki", "init"]);
        self.kpull(&["secret", "rekey", "--yes", "--identity", &operator]);
        self.kpull(&["pki", "issue", "--identity", &operator]);
        self.kpull(&["check"]);
        self.kpull(&["sign", "--key", &operator]);
        let manifest = self.site().join(MANIFEST);
        change(&manifest);
        let releases = self.dir.path().join("releases");
        self.kpull(&["publish", releases.to_str().unwrap()]);
        let serial = read(&manifest)["serial"].as_integer().unwrap();
        self.serial.store(serial.try_into().unwrap(), Ordering::SeqCst);
    }

    /// What the hosts have of the site when all of them are converged: the last release's serial.
    pub fn serial(&self) -> u64 {
        self.serial.load(Ordering::SeqCst)
    }

    /// Replaces text in a file of the site; it has to be there.
    pub fn replace(&self, path: &str, from: &str, to: &str) {
        let path = self.site().join(path);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{} has no {from:?}", path.display());
        fs::write(path, text.replace(from, to)).unwrap();
    }

    /// Waits until every host has the newest release, with nothing left to do and all probes passed.
    #[track_caller]
    pub fn converge(&self, within: Duration) {
        self.wait("every host has the newest release, and is well", within, || {
            self.names().iter().all(|name| self.has_converged(name))
        });
    }

    /// Whether a host has the newest release, with nothing left to do and all probes passed.
    pub fn has_converged(&self, name: &str) -> bool {
        let Ok(status) = serde_json::from_str::<serde_json::Value>(&self.host(name).run("kpull status --json").stdout)
        else {
            return false;
        };
        let (last, pending) = (&status["last_run"], &status["pending"]);
        status["generation"]["serial"] == self.serial()
            && last["exit"] == 0
            && last["changed"] == 0
            && pending["triggers"].as_object().is_none_or(serde_json::Map::is_empty)
            && pending["probes"] != true
    }

    /// Waits for a condition. If it does not hold in time, the test fails with the reports of the hosts.
    #[track_caller]
    pub fn wait(&self, what: &str, within: Duration, mut until: impl FnMut() -> bool) {
        let start = Instant::now();
        while !until() {
            if start.elapsed() > within {
                let message = self.report();
                self.stay();
                panic!("it did not come in {within:?}: {what}\n{message}");
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Runs kubectl on a host, as root after a login.
    pub fn kubectl(&self, host: &str, arguments: &str) -> Output {
        self.host(host).run(&format!(". /etc/profile.d/kubernetes.sh && kubectl {arguments}"))
    }

    /// Processor time and memory that the hosts use, for a reader of the output.
    pub fn usage(&self) -> String {
        self.lab.fabric("free -m; uptime").stdout
    }

    /// What every host says of its runs, of the units that failed and of the errors that it has seen.
    fn report(&self) -> String {
        let mut message = String::new();
        for name in self.names() {
            let output = self.host(&name).run(REPORT);
            let _ = writeln!(message, "\n=== {name}\n{}{}", output.stdout, output.stderr);
        }
        message
    }

    /// With KPULL_STAY, a lab stays after a failed expectation until you have inspected it.
    fn stay(&self) {
        if std::env::var_os("KPULL_STAY").is_none() {
            return;
        }
        let mark = self.lab.dir().join("stay");
        fs::write(&mark, "").unwrap();
        eprintln!("\nLAB={} stays until this is removed: {}", self.lab.dir().display(), mark.display());
        while mark.exists() {
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    /// The operator's private key.
    pub fn operator(&self) -> String {
        self.dir.path().join("operator").to_str().unwrap().to_owned()
    }

    /// Runs kpull on the operator's side.
    pub fn kpull(&self, arguments: &[&str]) {
        Output::of(Command::new(KPULL).args(arguments).arg("--site").arg(self.site()).env("NO_COLOR", "1")).ok();
    }

    /// Gives a host the key that its secrets are encrypted to, as the installation of its system does elsewhere.
    fn make_key(&self, name: &str) {
        let key = "/etc/ssh/ssh_host_ed25519_key";
        let make = format!("mkdir -p /etc/ssh && ssh-keygen -q -t ed25519 -N '' -f {key} && cat {key}.pub");
        let public = self.host(name).run(&make).ok();
        let file = self.site().join(format!("host_vars/{name}.toml"));
        edit(&file, |doc| doc["recipient"] = toml_edit::value(public.trim()));
    }

    fn set_secrets(&self, file: &Path) {
        if !file.exists() {
            return;
        }
        self.kpull(&["pki", "init"]); // a role may ask for what is in pki/
        for (name, value) in read(file).as_table() {
            let mut command = Command::new(KPULL);
            command.args(["secret", "set", name, "--site"]).arg(self.site());
            command.stdin(Stdio::piped()).stdout(Stdio::null());
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(value.as_str().unwrap().as_bytes()).unwrap();
            assert!(child.wait().unwrap().success(), "the secret {name}");
        }
    }

    fn enroll(&self, name: &str) {
        let host = self.host(name);
        host.copy(KPULL, "/usr/bin/kpull", 0o755);
        for unit in ["kpull.service", "packaging/kpull.timer"] {
            let file = Path::new(unit).file_name().unwrap().to_str().unwrap();
            host.copy(Path::new(PROJECT).join(unit), &format!("/usr/lib/systemd/system/{file}"), 0o644);
        }
        host.write("/etc/systemd/system/kpull.timer.d/lab.conf", TIMER);
        host.write("/etc/kpull/signers", self.signers());
        (self.machines.prepare)(host);
        let (from, site) = (&self.fabric, read(&self.site().join("site.toml")));
        let site = site["name"].as_str().unwrap();
        host.run(&format!(
            "systemctl daemon-reload && kpull enroll http://{from} --site {site} --host {name} --signers /etc/kpull/signers"
        ))
        .ok();
    }

    fn signers(&self) -> String {
        let key = fs::read_to_string(self.dir.path().join("operator.pub")).unwrap();
        format!("operator namespaces=\"release@kpull\" {key}")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The server ends with a connection to itself, which has to be made where it is.
        if let Some(server) = self.server.get_mut().ok().and_then(Option::take) {
            self.lab.in_network(move || drop(server));
        }
    }
}

/// What to show of a host of which something is expected in vain.
const REPORT: &str = r#"
kpull status
systemctl list-units --failed --plain --no-legend
for unit in kpull.service $(systemctl list-units --failed --plain --no-legend | cut -d' ' -f1 | grep -v kpull.service); do
    echo "--- $unit"
    journalctl -q --no-pager -o cat -n 40 -u "$unit" | cut -c1-300
done
echo "--- errors"
journalctl -q --no-pager -o short-monotonic -p err -n 20 | cut -c1-300
systemctl is-active docker >/dev/null && docker ps -a --format '{{.Names}} {{.Status}}'
"#;

/// Merges the TOML files of a directory, if it is there, into those of a site.
fn overlay(site: &Path, overlay: &Path) {
    for part in ["", "host_vars"] {
        let (from, to) = (overlay.join(part), site.join(part));
        let Ok(entries) = fs::read_dir(&from) else { continue };
        for name in entries.map(|entry| entry.unwrap().file_name()) {
            let (from, to) = (from.join(&name), to.join(&name));
            if from.is_dir() || name == "secrets.toml" {
                continue;
            }
            let message = read(&from);
            if !to.exists() {
                fs::write(&to, "").unwrap();
            }
            edit(&to, |doc| merge(doc.as_table_mut(), message.as_table()));
        }
    }
}

/// Maps key by key, as layers of variables are; everything else is replaced.
fn merge(under: &mut dyn TableLike, over: &dyn TableLike) {
    for (key, expected) in over.iter() {
        match (under.get_mut(key).and_then(Item::as_table_like_mut), expected.as_table_like()) {
            (Some(under), Some(over)) => merge(under, over),
            _ => {
                under.insert(key, expected.clone());
            }
        }
    }
}

/// The directory with the files that hosts install: built, or given in KPULL_ARTIFACTS.
/// Where `tests/run cluster` has what hosts install.
pub fn artifacts() -> PathBuf {
    let dir = std::env::var_os("KPULL_ARTIFACTS").expect("KPULL_ARTIFACTS: `tests/run cluster` sets it");
    PathBuf::from(dir)
}

/// Pins each file NAME-VERSION-linux-amd64.tar.gz or NAME-linux-amd64.tar.gz of `dir`, as it is served to the hosts by
/// `server`.
fn pin(file: &Path, dir: &Path, server: &str) {
    let suffix = "-linux-amd64.tar.gz";
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    for tarball in names.filter(|name| name.ends_with(suffix)) {
        let path = dir.join(&tarball);
        let stem = tarball.strip_suffix(suffix).unwrap();
        let (name, version) = match stem.split_once("-v") {
            Some((name, version)) => (name, version.to_owned()),
            None => (stem, kubernetes_version(stem, &path)),
        };
        let sum = Output::of(Command::new("sha256sum").arg(&path)).ok();
        let (digest, _) = sum.split_once(' ').unwrap();
        let size = path.metadata().unwrap().len();
        let text = format!(
            "version = \"{version}\"\n[amd64]\nurl = \"http://{server}/artifacts/{tarball}\"\nsha256 = \"{digest}\"\n\
             size = {size}\n"
        );
        let pinned: DocumentMut = text.parse().unwrap();
        edit(file, |doc| doc[name] = pinned.as_item().clone());
    }
}

/// Upstream's tarballs of Kubernetes don't have their version in their name; their content has it.
fn kubernetes_version(name: &str, tarball: &Path) -> String {
    let kind = name.strip_prefix("kubernetes-").unwrap();
    let program = tempfile::tempdir().unwrap();
    let script = format!(
        "tar -xOzf \"$1\" --wildcards '*kubernetes/{kind}/bin/kube-proxy' > \"$2/it\" && chmod 755 \"$2/it\" && \"$2/it\" --version"
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script, "version"]).arg(tarball).arg(program.path());
    Output::of(&mut command).ok().trim().strip_prefix("Kubernetes v").unwrap().to_owned()
}

fn hosts_of(site: &Path) -> Vec<(String, String)> {
    let files = fs::read_dir(site.join("host_vars")).unwrap().map(|entry| entry.unwrap().path());
    let mut hosts: Vec<_> = files
        .map(|file| {
            let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, read(&file)["address"].as_str().unwrap().to_owned())
        })
        .collect();
    hosts.sort();
    hosts
}

fn read(file: &Path) -> DocumentMut {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn edit(file: &Path, change: impl FnOnce(&mut DocumentMut)) {
    let mut doc = read(file);
    change(&mut doc);
    fs::write(file, doc.to_string()).unwrap();
}

fn array<'a>(values: impl IntoIterator<Item = &'a str>) -> Item {
    toml_edit::value(values.into_iter().collect::<toml_edit::Array>())
}

fn keygen(path: &Path) {
    Output::of(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path)).ok();
}
