//! What talks to etcd, with real ones: clusters of members on the loopback interface, TLS on both sides.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::authority::{authority, named};
use crate::support::fleetlock::StandIn as Locks;
use kpull::document::Files;
use kpull::engine::slot::{SlotError, Slots, acquire};
use kpull::error::{Exit, Place, Result};
use kpull::host::Host;
use kpull::host::etcd::{Api, Client, Member};
use kpull::kind::slot::Slot;
use kpull::kind::{About, Change, Item, Phase, Resource, WatchedInput, Work};
use kpull::net::server::Server;
use kpull::report::{Event, Occupied, Report};
use kpull::resolve::{Facts, resolve};
use kpull::secret::SecretStore;
use kpull::site::Site;
use kpull::store::Store;
use rcgen::KeyPair;

/// How long a cluster may take until it is as it is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// Members with an address of the loopback network each, and what they have on their disks.
struct Cluster {
    dir: tempfile::TempDir,
    /// Addresses by name.
    members: BTreeMap<&'static str, String>,
    running: BTreeMap<&'static str, Child>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for name in self.running.keys().copied().collect::<Vec<_>>() {
            self.stop(name);
        }
    }
}

impl Cluster {
    /// Members that have never started.
    fn new(names: &[&'static str]) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let [.., high, low] = std::process::id().to_be_bytes();
        let mut cluster =
            Self { dir: tempfile::tempdir().unwrap(), members: BTreeMap::new(), running: BTreeMap::new() };
        for name in names {
            let last = NEXT.fetch_add(1, Ordering::Relaxed);
            cluster.members.insert(name, format!("127.{}.{low}.{last}", 100 + high % 100));
        }
        cluster.certificates();
        cluster
    }

    /// An authority, and a certificate for each member, which is also a client's.
    fn certificates(&self) {
        let issuer = authority();
        fs::write(self.file("ca.pem"), issuer.pem()).unwrap();
        let key = KeyPair::generate().unwrap();
        // one for all addresses, also those that a member may move to, and the one that it connects from
        let own = self.members.values().flat_map(|address| [address.clone(), moved(address)]);
        let addresses = own.chain(["127.0.0.1".to_owned()]).collect();
        let certificate = named("etcd", addresses).signed_by(&key, &issuer).unwrap();
        fs::write(self.file("cert.pem"), certificate.pem()).unwrap();
        fs::write(self.file("key.pem"), key.serialize_pem()).unwrap();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn peer_url(&self, name: &str) -> String {
        format!("https://{}:2380", self.members[name])
    }

    fn client_url(&self, name: &str) -> String {
        format!("https://{}:2379", self.members[name])
    }

    /// The fields that say how these members are reached.
    fn reach(&self, names: &[&str]) -> String {
        let endpoints: Vec<String> = names.iter().map(|name| self.client_url(name)).collect();
        format!(
            "endpoints = {endpoints:?}\nca = {:?}\nclient_cert = {:?}\nclient_key = {:?}\n",
            self.file("ca.pem"),
            self.file("cert.pem"),
            self.file("key.pem")
        )
    }

    /// One member, as a role describes it.
    fn member(&self, name: &str, more: &str) -> Catalog {
        let others: Vec<&str> = self.members.keys().copied().filter(|other| *other != name).collect();
        let members: Vec<String> =
            self.members.keys().map(|name| format!("{name} = {:?}", self.peer_url(name))).collect();
        Catalog::of(&format!(
            "[[etcd_member]]\nname = {name:?}\npeer_url = {:?}\ndata = {:?}\nenv = {:?}\nmembers = {{ {} }}\n{}{more}\n",
            self.peer_url(name),
            self.file(name),
            self.env(name),
            members.join(", "),
            self.reach(&others),
        ))
    }

    fn env(&self, name: &str) -> PathBuf {
        self.file(&format!("{name}.env"))
    }

    /// What was written for a member's unit, by name.
    fn variables(&self, name: &str) -> BTreeMap<String, String> {
        let text = fs::read_to_string(self.env(name)).unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix('#').is_none().then(|| line.split_once('='))?);
        lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn state(&self, name: &str) -> String {
        self.variables(name)["ETCD_INITIAL_CLUSTER_STATE"].clone()
    }

    /// Starts a member, as its unit would.
    fn start(&mut self, name: &'static str) {
        let (peer, client) = (self.peer_url(name), self.client_url(name));
        let log = fs::File::create(self.file(&format!("{name}.log"))).unwrap();
        let process = Command::new("etcd")
            .envs(self.variables(name))
            .args(["--name", name, "--enable-v2", "--client-cert-auth", "--peer-client-cert-auth"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .arg("--data-dir")
            .arg(self.file(name))
            .args(["--cert-file", "cert.pem", "--key-file", "key.pem", "--trusted-ca-file", "ca.pem"])
            .args(["--peer-cert-file", "cert.pem", "--peer-key-file", "key.pem", "--peer-trusted-ca-file", "ca.pem"])
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("etcd is there: tests/run installs it");
        self.running.insert(name, process);
    }

    fn stop(&mut self, name: &str) {
        if let Some(mut process) = self.running.remove(name) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// What talks to one member.
    fn client(&self, name: &str) -> Client {
        let cluster = kpull::host::etcd::Cluster {
            endpoints: vec![self.client_url(name).parse().unwrap()],
            ca: self.file("ca.pem"),
            client: Some((self.file("cert.pem"), self.file("key.pem"))),
        };
        Client::new(&cluster, cluster.load().unwrap()).unwrap()
    }

    /// Asks a member until it gives an answer that is good.
    fn until<T>(&self, name: &str, ask: impl Fn(&Client) -> Option<T>) -> T {
        let (started, client) = (Instant::now(), self.client(name));
        loop {
            if let Some(answer) = ask(&client) {
                return answer;
            }
            if started.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.file(&format!("{name}.log"))).unwrap_or_default();
                let end: Vec<&str> = log.lines().rev().take(20).collect();
                panic!("{name} does not come up; {:?}; its last words, backwards: {end:#?}", client.members());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until a member serves, in a cluster of these that have all started; their peer URLs by name.
    fn settled(&self, name: &str, names: &[&str]) -> BTreeMap<String, Member> {
        self.until(name, |client| {
            client.get(Api::V3, "any").ok()?;
            let members = client.members().ok()?;
            let known: BTreeMap<_, _> = members.into_iter().map(|member| (member.name.clone(), member)).collect();
            (known.keys().eq(names) && known.values().all(Member::has_started)).then_some(known)
        })
    }

    /// Lets a member join, and starts it.
    fn join(&mut self, name: &'static str, more: &str) {
        let member = self.member(name, more);
        member.apply().unwrap();
        assert_eq!(member.look(), None, "nothing is left to do before it starts");
        self.start(name);
    }

    /// A cluster of three that runs.
    fn of_three() -> Self {
        let mut cluster = Self::new(&["a", "b", "c"]);
        for name in ["a", "b", "c"] {
            cluster.join(name, "");
        }
        for name in ["a", "b", "c"] {
            cluster.settled(name, &["a", "b", "c"]);
        }
        cluster
    }

    /// A cluster of one that runs.
    fn of_one() -> Self {
        let mut cluster = Self::new(&["a"]);
        cluster.join("a", "");
        cluster.settled("a", &["a"]);
        cluster
    }
}

/// Where a member may move to.
fn moved(address: &str) -> String {
    let (network, last) = address.rsplit_once('.').unwrap();
    format!("{network}.{}", last.parse::<u8>().unwrap() + 100)
}

/// The resources of a role, and the machine itself to observe.
struct Catalog {
    items: Vec<Item>,
    host: Host,
    store: Store,
    _dir: tempfile::TempDir,
}

impl Catalog {
    fn of(role: &str) -> Self {
        Self::try_of(role).unwrap()
    }

    fn try_of(role: &str) -> Result<Self> {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("site.toml", "name = \"test\"\n"),
            ("host_vars/h1.toml", "address = \"127.0.0.1\"\nroles = [\"r\"]\n"),
            ("roles/r/role.toml", &format!("summary = \"For a test\"\n{role}")),
        ] {
            let path = dir.path().join("site").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let site = Arc::new(Site::load(Files::in_directory(&dir.path().join("site")).unwrap())?);
        let facts = Facts::assumed("h1", [127, 0, 0, 1].into(), None).unwrap();
        let items = resolve(&site, "h1", &facts, &SecretStore::expected())?.items;
        let (host, store) = (Host::open(Path::new("/")).unwrap(), Store::open(&dir.path().join("state")).unwrap());
        Ok(Self { items, host, store, _dir: dir })
    }

    fn work(&self) -> Work<'_> {
        Work { host: &self.host, store: &self.store, catalog: &self.items }
    }

    fn first(&self) -> &dyn Resource {
        &*self.items[0].resource
    }

    /// The summary of the planned change of the first resource.
    fn look(&self) -> Option<String> {
        self.first().observe(&self.work()).unwrap().map(|change| change.summary)
    }

    fn apply(&self) -> Result<()> {
        self.first().apply(&self.work(), &Change::default())
    }

    fn slot(&self) -> &Slot {
        self.items.iter().find_map(|item| item.as_kind()).unwrap()
    }
}

#[test]
fn members_that_start_in_any_order_make_one_cluster() {
    let mut cluster = Cluster::new(&["a", "b", "c"]);
    for name in ["c", "a", "b"] {
        assert_eq!(cluster.member(name, "").look().as_deref(), Some("start a new cluster of 3"));
        cluster.join(name, "");
        assert_eq!(cluster.state(name), "new");
        if name != "c" {
            // with two there is a cluster, which the last one finds
            cluster.until("c", |client| client.get(Api::V3, "any").ok());
        }
    }
    for name in ["a", "b", "c"] {
        cluster.settled(name, &["a", "b", "c"]);
        assert_eq!(cluster.member(name, "").look(), None);
    }
}

#[test]
fn a_member_that_lost_its_disk_is_removed_and_joins_again() {
    let mut cluster = Cluster::of_three();
    assert!(cluster.client("a").swap(Api::V3, "k", 0, b"kept").unwrap());
    let before = cluster.settled("a", &["a", "b", "c"]);
    cluster.stop("c");
    fs::remove_dir_all(cluster.file("c")).unwrap();
    assert_eq!(cluster.member("c", "").look().as_deref(), Some("join the running cluster (lost its data)"));
    cluster.join("c", "");
    assert_eq!(cluster.state("c"), "existing");
    let after = cluster.settled("c", &["a", "b", "c"]);
    assert_ne!(before["c"].id, after["c"].id, "it is another member now");
    assert_eq!(before["a"].id, after["a"].id);
    let pair = cluster.until("c", |client| client.peek(Api::V3, "k").ok()?);
    assert_eq!(pair.value, b"kept");
}

#[test]
fn a_member_without_data_replaces_no_running_member() {
    let cluster = Cluster::of_three();
    fs::rename(cluster.file("c"), cluster.file("elsewhere")).unwrap();
    let error = cluster.member("c", "within = '0s'").apply().unwrap_err();
    let client = cluster.client_url("c");
    assert_eq!(error.to_string(), format!("c has no data on this host, but it is running and answers at {client}"));
    fs::rename(cluster.file("elsewhere"), cluster.file("c")).unwrap();
    assert_eq!(cluster.settled("a", &["a", "b", "c"]).len(), 3);
}

/// The commands of a page and a role for an operator, with a member's own paths in them.
struct Manual {
    /// Shell commands, in the order of the page.
    blocks: Vec<String>,
}

impl Manual {
    /// The part of a page below a headline.
    fn read(page: &str, headline: &str) -> Self {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
        let part = text.split("\n## ").find(|part| part.starts_with(headline)).unwrap();
        let fenced = part.split("\n```").skip(1).step_by(2);
        Self { blocks: fenced.map(|block| block.strip_prefix("sh\n").unwrap().to_owned()).collect() }
    }

    /// What the unit for snapshots runs.
    fn snapshot_command() -> String {
        let unit = fs::read_to_string(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("roles/etcd/templates/etcd-snapshot.service"),
        );
        let unit = unit.unwrap().replace("\\\n", "");
        let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/bin/sh -c '")?.strip_suffix('\''));
        command.unwrap().replace("$$", "$").replace("%%", "%")
    }
}

/// Runs shell commands; calls of systemctl are reported, and not executed.
fn shell(cluster: &Cluster, commands: &str) -> Vec<String> {
    let reported = cluster.file("systemctl-stand-in");
    fs::write(&reported, "").unwrap();
    let script = format!("systemctl() {{ echo \"$@\" >> {}; }}\n{commands}", reported.display());
    let output = Command::new("bash").args(["-euc", &script]).env("ETCDCTL_API", "3").output().unwrap();
    assert!(output.status.success(), "{commands}\n{}", String::from_utf8_lossy(&output.stderr));
    fs::read_to_string(reported).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_cluster_is_restored_from_a_snapshot_as_the_manual_says() {
    let manual = Manual::read("docs/src/usage/cluster.md", "Snapshot and restore etcd");
    let [now, stop, variables, restore, start] = manual.blocks.as_slice() else { panic!("{:?}", manual.blocks) };
    let mut cluster = Cluster::of_three();
    let names = ["a", "b", "c"];
    let client = cluster.client("a");
    assert!(client.swap(Api::V3, "k", 0, b"good").unwrap());
    assert!(client.swap(Api::V2, "/old/k", 0, b"v2").unwrap());

    assert_eq!(shell(&cluster, now), ["start etcd-snapshot"]);
    let backups = cluster.file("backups");
    fs::create_dir(&backups).unwrap();
    let mut save = Manual::snapshot_command();
    for (variable, value) in [
        ("{{ base.bin }}/", String::new()),
        ("https://127.0.0.1:{{ client_port }}", cluster.client_url("a")),
        ("{{ tls.ca }}", cluster.file("ca.pem").display().to_string()),
        ("{{ tls.cert }}", cluster.file("cert.pem").display().to_string()),
        ("{{ tls.key }}", cluster.file("key.pem").display().to_string()),
        ("{{ snapshots }}", backups.display().to_string()),
    ] {
        assert!(save.contains(variable), "{save}");
        save = save.replace(variable, &value);
    }
    shell(&cluster, &save);
    let snapshot = fs::read_dir(&backups).unwrap().next().unwrap().unwrap().path();

    let revision = client.get(Api::V3, "k").unwrap().unwrap().revision;
    assert!(client.swap(Api::V3, "k", revision, b"bad").unwrap());
    assert!(client.swap(Api::V3, "later", 0, b"bad").unwrap());

    assert_eq!(shell(&cluster, stop), ["stop kpull.timer kpull.service kube-apiserver etcd"]);
    names.iter().for_each(|name| cluster.stop(name));
    let members: Vec<String> = names.iter().map(|name| format!("{name}={}", cluster.peer_url(name))).collect();
    for name in names {
        let values = BTreeMap::from([
            ("NAME", name.to_owned()),
            ("PEER_URL", cluster.peer_url(name)),
            ("MEMBERS", members.join(",")),
            ("SNAPSHOT", snapshot.display().to_string()),
        ]);
        let set: BTreeMap<_, _> = variables.lines().map(|line| line.split_once('=').unwrap()).collect();
        assert!(set.keys().eq(values.keys()), "{variables}");
        let own: Vec<String> = values.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let data = cluster.file(name).display().to_string();
        let commands = restore.replace("/var/lib/etcd", &data).replace("chown -R etcd:", "chown -R $(id -un):");
        assert_ne!(&commands, restore);
        shell(&cluster, &format!("{}\n{commands}", own.join("\n")));
    }
    for name in names {
        assert_eq!(cluster.member(name, "").look(), None, "no member is up, and {name} has data again");
    }

    assert_eq!(shell(&cluster, start), ["start --no-block etcd kube-apiserver kpull.timer"]);
    names.iter().for_each(|name| cluster.start(name));
    for name in names {
        assert_eq!(cluster.settled(name, &names).len(), 3);
        assert_eq!(cluster.member(name, "").look(), None);
        let client = cluster.client(name);
        assert_eq!(client.get(Api::V3, "k").unwrap().unwrap().value, b"good");
        assert!(client.get(Api::V3, "later").unwrap().is_none());
        assert!(client.get(Api::V2, "/old/k").unwrap().is_none(), "a snapshot has nothing of the older store");
    }
    assert!(cluster.client("b").swap(Api::V3, "next", 0, b"x").unwrap());
    assert_eq!(cluster.client("c").get(Api::V3, "next").unwrap().unwrap().value, b"x");
}

#[test]
fn a_cluster_grows_from_one_to_three() {
    let mut cluster = Cluster::new(&["a", "b", "c"]);
    let founder = "founders = ['a']\n";
    for name in ["a", "b", "c"] {
        cluster.join(name, founder);
        assert_eq!(cluster.state(name), if name == "a" { "new" } else { "existing" });
        let names: Vec<&str> = ["a", "b", "c"].into_iter().filter(|other| *other <= name).collect();
        cluster.settled(name, &names);
    }
}

#[test]
fn a_member_that_is_no_founder_waits_for_a_cluster_and_writes_nothing() {
    let cluster = Cluster::new(&["a", "b"]);
    let member = cluster.member("b", "founders = ['a']\nwithin = '0s'");
    assert_eq!(member.look().as_deref(), Some("join the cluster when it accepts the member"));
    let error = member.apply().unwrap_err();
    assert!(error.to_string().starts_with("b waits for a running cluster to join: "), "{error}");
    assert_eq!(error.exit_code(), Exit::Unhealthy);
    assert!(!cluster.env("b").exists());
}

#[test]
fn a_member_that_moves_updates_the_cluster_before_its_restart() {
    let mut cluster = Cluster::of_three();
    let before = cluster.settled("a", &["a", "b", "c"]);
    let (old, address) = (cluster.peer_url("c"), moved(&cluster.members["c"]));
    cluster.members.insert("c", address);
    let new = cluster.peer_url("c");
    let member = cluster.member("c", "");
    assert_eq!(member.look(), Some(format!("peer URL {old} → {new}")));
    member.apply().unwrap();
    assert_eq!(member.look(), None);
    cluster.stop("c");
    cluster.start("c");
    // a member itself publishes its address for clients when it is back
    let client = cluster.client_url("c");
    let after = cluster.until("c", |known| {
        let members = known.members().ok()?;
        members.into_iter().find(|member| member.name == "c" && member.client_urls == [client.as_str()])
    });
    assert_eq!(after.peer_urls, [new]);
    assert_eq!(after.id, before["c"].id, "it is still the same member");
}

#[test]
fn a_key_is_set_once_and_again_after_a_change_by_others() {
    let cluster = Cluster::of_one();
    for api in [Api::V2, Api::V3] {
        let name = if api == Api::V2 { "v2" } else { "v3" };
        let value = r#"{ "Network": "172.30.0.0/16", "Backend": { "Type": "vxlan" } }"#;
        let key = "/kubernetes/network/config";
        let role = format!("[[etcd_key]]\nkey = '{key}'\nvalue = '{value}'\napi = '{name}'\n{}", cluster.reach(&["a"]));
        let catalog = Catalog::of(&role);
        let change = catalog.first().observe(&catalog.work()).unwrap().unwrap();
        assert_eq!(change.summary, "set");
        assert!(change.diff.unwrap().to_string().contains("+{ \"Network\""));
        catalog.apply().unwrap();
        assert_eq!(catalog.look(), None);
        let client = cluster.client("a");
        let pair = client.get(api, key).unwrap().unwrap();
        assert_eq!(pair.value, value.as_bytes());
        let input = catalog.first().watched_inputs(&catalog.work()).unwrap().unwrap().remove(0);
        let kept = serde_json::to_string(&input).unwrap();
        assert!(!kept.contains("Network\""), "{kept}");
        let input: WatchedInput = serde_json::from_str(&kept).unwrap();
        let seen = || catalog.host.seen(&input).unwrap();
        let recorded = seen();
        assert!(recorded.is_some() && seen() == recorded, "{recorded:?}");
        assert!(!client.swap(api, key, 0, b"late").unwrap(), "a client that expects no key changes nothing");
        assert!(client.swap(api, key, pair.revision, b"other").unwrap());
        assert!(!client.swap(api, key, pair.revision, b"late").unwrap(), "nor does who has not seen the last change");
        assert_eq!(catalog.look().as_deref(), Some("set"));
        assert_ne!(seen(), recorded);
        catalog.apply().unwrap();
        assert_ne!(seen(), recorded, "it has been set since");
        assert_eq!(client.get(api, key).unwrap().unwrap().value, value.as_bytes());
    }
}

#[test]
fn a_key_waits_for_an_etcd_that_starts_later() {
    let mut cluster = Cluster::new(&["a"]);
    let role =
        |within: &str| format!("[[etcd_key]]\nkey = 'k'\nvalue = 'v'\nwithin = '{within}'\n{}", cluster.reach(&["a"]));
    let (patient, hasty) = (Catalog::of(&role("120s")), Catalog::of(&role("0s")));
    assert_eq!(patient.look().as_deref(), Some("set (etcd does not answer yet)"));
    let error = hasty.apply().unwrap_err();
    assert!(error.to_string().starts_with("the key k can't be set: etcd does not answer: "), "{error}");
    cluster.join("a", "");
    patient.apply().unwrap();
    assert_eq!(patient.look(), None);
}

#[test]
fn a_host_waits_for_a_key_that_another_host_sets_and_never_sets_it() {
    let cluster = Cluster::of_one();
    let role = |writers: &str, within: &str| {
        let fields = format!("key = '/k'\nvalue = 'v'\napi = 'v2'\nwriters = [{writers}]\nwithin = '{within}'\n");
        format!("[[etcd_key]]\n{fields}{}", cluster.reach(&["a"]))
    };
    let (hasty, patient) = (Catalog::of(&role("'h2', 'h3'", "0s")), Catalog::of(&role("'h2', 'h3'", "120s")));
    assert_eq!(hasty.look(), None);
    assert!(hasty.first().about().is_gate);
    let wait = |catalog: &Catalog| catalog.first().wait(&catalog.work());
    assert_eq!(wait(&hasty).unwrap_err(), "etcd does not have it yet; h2, h3 must set it");
    assert_eq!(cluster.client("a").get(Api::V2, "/k").unwrap(), None);
    // the up-to-date check does not request it either
    assert_eq!(hasty.first().watched_inputs(&hasty.work()).unwrap(), Some(Vec::new()));

    let writer = Catalog::of(&role("'h1', 'h2'", "0s"));
    assert!(!writer.first().about().is_gate);
    writer.apply().unwrap();
    wait(&patient).unwrap();
    assert!(cluster.client("a").swap(Api::V2, "/k", 0, b"other").is_ok());
    wait(&hasty).unwrap();
}

/// A slot, as a role describes it.
fn slot(cluster: &Cluster, more: &str) -> String {
    format!("[[slot]]\nname = 's'\n{}{more}\n", cluster.reach(&["a"]))
}

#[test]
fn one_host_at_a_time_has_a_slot() {
    let cluster = Cluster::of_one();
    let role = slot(&cluster, "");
    let (taken, turns) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for host in ["h1", "h2", "h3"] {
            let (role, taken, turns) = (&role, &taken, &turns);
            scope.spawn(move || {
                let catalog = Catalog::of(role);
                for _ in 0..3 {
                    let held = acquire(&catalog.work(), catalog.slot(), host, &|_| {}).unwrap();
                    assert!(!taken.swap(true, Ordering::SeqCst), "another host has it");
                    turns.lock().unwrap().push(host);
                    std::thread::sleep(Duration::from_millis(20));
                    taken.store(false, Ordering::SeqCst);
                    held.release(&catalog.work(), catalog.slot(), host).unwrap();
                }
            });
        }
    });
    assert_eq!(turns.lock().unwrap().len(), 9);
}

#[test]
fn a_host_whose_run_was_killed_keeps_its_slot_and_gets_it_again() {
    let cluster = Cluster::of_one();
    let catalog = Catalog::of(&slot(&cluster, "within = '0s'"));
    let (work, slot) = (catalog.work(), catalog.slot());
    drop(acquire(&work, slot, "h1", &|_| {}).unwrap());
    let Err(SlotError::Error(error)) = acquire(&work, slot, "h2", &|_| {}) else { panic!("h2 has it") };
    assert!(error.to_string().starts_with("the slot s is not available: h1 has had it since "), "{error}");
    assert_eq!(error.exit_code(), Exit::Failed);
    acquire(&work, slot, "h1", &|_| {}).unwrap().release(&work, slot, "h1").unwrap();
    acquire(&work, slot, "h2", &|_| {}).unwrap().release(&work, slot, "h2").unwrap();
}

#[test]
fn a_host_that_waits_for_a_slot_reports_its_holder_once_and_gets_it_afterwards() {
    let cluster = Cluster::of_one();
    let role = slot(&cluster, "within = '120s'");
    let (first, message) = (Catalog::of(&role), Mutex::new(Vec::new()));
    let held = acquire(&first.work(), first.slot(), "h1", &|_| {}).unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            let catalog = Catalog::of(&role);
            let report = |by: &Occupied| message.lock().unwrap().push(by.to_string());
            acquire(&catalog.work(), catalog.slot(), "h2", &report).map(drop)
        });
        while message.lock().unwrap().is_empty() && !second.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
        }
        // so that it looks again, and sees the same
        std::thread::sleep(Duration::from_millis(2500));
        held.release(&first.work(), first.slot(), "h1").unwrap();
        second.join().unwrap().unwrap();
    });
    let message = message.into_inner().unwrap();
    assert_eq!(message.len(), 1, "{message:?}");
    assert!(message[0].starts_with("h1 has had it since "), "{message:?}");
}

#[test]
fn two_hosts_hold_slots_of_two_names_under_the_keys_that_the_advice_names() {
    let cluster = Cluster::of_one();
    let (one, role) = (slot(&cluster, "within = '0s'"), slot(&cluster, "within = '0s'").replace("'s'", "'t'"));
    let (one, two) = (Catalog::of(&one), Catalog::of(&role));
    acquire(&one.work(), one.slot(), "h1", &|_| {}).unwrap();
    acquire(&two.work(), two.slot(), "h2", &|_| {}).unwrap();
    let Err(SlotError::Error(error)) = acquire(&one.work(), one.slot(), "h2", &|_| {}) else { panic!("h2 has it") };
    assert!(error.advice().unwrap().contains("`etcdctl del /kpull/slots/s`"), "{error:?}");
    assert!(cluster.client("a").get(Api::V3, "/kpull/slots/s").unwrap().is_some());
}

#[test]
fn a_slot_that_is_kept_lasts_its_full_time_again() {
    let cluster = Cluster::of_one();
    let catalog = Catalog::of(&slot(&cluster, ""));
    let held = acquire(&catalog.work(), catalog.slot(), "h1", &|_| {}).unwrap();
    let etcdctl = |words: &str| -> serde_json::Value {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .current_dir(cluster.dir.path())
            .args(["--endpoints", &cluster.client_url("a"), "--cacert", "ca.pem", "--cert", "cert.pem"])
            .args(["--key", "key.pem", "--write-out", "json"])
            .args(words.split(' '))
            .output();
        serde_json::from_slice(&output.unwrap().stdout).unwrap()
    };
    let id = etcdctl("lease list")["leases"][0]["id"].as_i64().unwrap();
    let left = || etcdctl(&format!("lease timetolive {id:x}"))["ttl"].as_i64().unwrap();
    std::thread::sleep(Duration::from_secs(5));
    let before = left();
    held.renew().unwrap();
    let after = left();
    assert!(after > before, "{before} {after}");
}

/// The message as text.
#[derive(Default)]
struct Reported(Mutex<Vec<String>>);

impl Report for Reported {
    fn event(&self, event: &Event<'_>) {
        let word = match event {
            Event::SlotTaken(.., Occupied::By(holder)) => format!("taken by {}", holder.host),
            Event::SlotTaken(.., Occupied::Refused(why)) => why.clone(),
            Event::SlotNotReturned(.., why) => format!("kept: {why}"),
            Event::SlotUnknown(..) => "unknown".to_owned(),
            Event::Passing(item) => format!("{} passes", item.id),
            Event::Waiting(item) => format!("{} is waited for", item.id),
            _ => "something else".to_owned(),
        };
        self.0.lock().unwrap().push(word);
    }
}

/// A stand-in for a unit that runs and must be restarted.
#[derive(Debug)]
struct StandIn;

impl Resource for StandIn {
    fn about(&self) -> About {
        About { slot: Some("s".to_owned()), ..About::new("stand-in", "unit", Phase::Units) }
    }

    fn interrupts(&self, _: &Work<'_>, change: &Change) -> Result<bool> {
        Ok(change.trigger.is_some())
    }

    fn observe(&self, _: &Work<'_>) -> Result<Option<Change>> {
        Ok(None)
    }

    fn apply(&self, _: &Work<'_>, _: &Change) -> Result<()> {
        Ok(())
    }
}

fn stand_in() -> Item {
    let place = Place { file: "role.toml".to_owned(), text: "".into(), span: 0..0 };
    Item::new(Box::new(StandIn), "r".into(), place)
}

fn restart() -> Change {
    Change { trigger: Some(kpull::kind::Trigger::Restart), ..Change::new("restart") }
}

#[test]
fn a_slot_is_released_when_the_probes_pass_and_kept_when_one_fails() {
    let cluster = Cluster::of_one();
    let good = format!("[[probe]]\nname = 'p'\ntcp = '{}:2379'\n", cluster.members["a"]);
    let bad = format!("[[probe]]\nname = 'p'\ntcp = '{}:1'\nwithin = '0s'\n", cluster.members["a"]);
    let slot = slot(&cluster, "within = '0s'\nuntil = ['probe:p']");
    let (good, bad) = (Catalog::of(&format!("{slot}{good}")), Catalog::of(&format!("{slot}{bad}")));
    let (message, item) = (Reported::default(), stand_in());
    let (good_work, bad_work) = (good.work(), bad.work());
    let h1 = Slots { work: &good_work, report: &message, host: "h1" };
    let h2 = Slots { work: &bad_work, report: &message, host: "h2" };

    assert!(h1.before(&item, &Change::new("start")).unwrap().is_none(), "what doesn't run interrupts nothing");
    let held = h1.before(&item, &restart()).unwrap().unwrap();
    let error = h2.before(&item, &restart()).unwrap_err();
    assert!(error.to_string().starts_with("the slot s is not available: h1 has had it since "), "{error}");
    h1.after(&item, held).unwrap();
    assert_eq!(*message.0.lock().unwrap(), ["probe:p is waited for", "probe:p passes"]);

    let held = h2.before(&item, &restart()).unwrap().unwrap();
    let error = h2.after(&item, held).unwrap_err();
    assert!(error.to_string().starts_with("probe:p does not pass after stand-in:unit was interrupted: "), "{error}");
    assert_eq!(error.exit_code(), Exit::Unhealthy);
    let error = h1.before(&item, &restart()).unwrap_err();
    assert!(error.to_string().starts_with("the slot s is not available: h2 has had it since "), "{error}");
}

#[test]
fn an_etcd_that_is_down_prevents_no_restart() {
    let cluster = Cluster::new(&["a"]);
    let catalog = Catalog::of(&slot(&cluster, "within = '0s'"));
    let (message, work) = (Reported::default(), catalog.work());
    let slots = Slots { work: &work, report: &message, host: "h1" };
    assert!(slots.before(&stand_in(), &restart()).unwrap().is_none());
    assert_eq!(*message.0.lock().unwrap(), ["unknown"]);
}

#[test]
fn one_host_at_a_time_has_a_slot_at_a_lock_server_and_keeps_it_if_a_probe_fails() {
    let locks = Locks::new(&[("default", 1)]);
    let stand_in_server = locks.clone();
    let server = Server::plain(move |request| stand_in_server.answer(request)).unwrap();
    let role = |probe: &str| {
        let slot = format!(
            "[[slot]]\nname = 's'\nfleetlock = {{ url = {:?} }}\nwithin = '0s'\nuntil = ['probe:p']\n",
            server.url("")
        );
        Catalog::of(&format!("{slot}[[probe]]\nname = 'p'\ntcp = '{probe}'\nwithin = '0s'\n"))
    };
    let (good, bad) = (role(&server.address.to_string()), role("127.0.0.1:1"));
    let (message, item) = (Reported::default(), stand_in());
    let (good_work, bad_work) = (good.work(), bad.work());
    let h1 = Slots { work: &good_work, report: &message, host: "h1" };
    let h2 = Slots { work: &bad_work, report: &message, host: "h2" };

    let held = h1.before(&item, &restart()).unwrap().unwrap();
    assert_eq!(locks.holders("default"), ["h1"]);
    let error = h2.before(&item, &restart()).unwrap_err();
    let full = "the lock server refuses: all 1 semaphore slots currently locked (failed_lock)";
    assert_eq!(error.to_string(), format!("the slot s is not available: {full}"));
    h1.after(&item, held).unwrap();
    assert_eq!(locks.holders("default"), [""; 0]);
    assert!(!good.store.dir().join("locks.json").exists(), "nothing is left to give back");

    let held = h2.before(&item, &restart()).unwrap().unwrap();
    assert_eq!(h2.after(&item, held).unwrap_err().exit_code(), Exit::Unhealthy);
    let error = h1.before(&item, &restart()).unwrap_err();
    assert_eq!(error.to_string(), format!("the slot s is not available: {full}"));
    assert_eq!(locks.holders("default"), ["h2"]);
    // a server that can't be asked is no reason to go on
    drop(server);
    let error = h1.before(&item, &restart()).unwrap_err();
    assert!(
        error.to_string().starts_with("the slot s is not available: the lock server can't be reached: http"),
        "{error}"
    );
}

#[test]
fn a_missing_slot_or_probe_is_an_error_with_the_nearest_name() {
    let cluster = Cluster::new(&["a"]);
    let unit = "[[unit]]\nname = 'a.service'\nslot = 'ss'\n[[probe]]\nname = 'p'\ntcp = '127.0.0.1:1'\n";
    let Err(error) = Catalog::try_of(&format!("{}{unit}", slot(&cluster, "until = ['probe:pp']"))) else {
        panic!("taken")
    };
    let message: Vec<(String, Option<String>)> =
        error.each().map(|error| (error.to_string(), error.advice().map(str::to_owned))).collect();
    let expected = [
        ("`unit:a.service` waits for the slot `ss`, but this host has no such slot", "did you mean `s`?"),
        ("`slot:s` is kept until `probe:pp` passes, but this host has no such probe", "did you mean `probe:p`?"),
    ];
    assert_eq!(message, expected.map(|(what, help)| (what.to_owned(), Some(help.to_owned()))));
}

#[test]
fn a_host_writes_its_status_record_to_etcd_and_operators_read_it_there() {
    let cluster = Cluster::of_one();
    let name = *cluster.members.keys().next().unwrap();
    let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| cluster.file(name).display().to_string());
    let site = crate::support::site::Site::new("test");
    let public = crate::support::site::key().public_key().to_openssh().unwrap();
    site.host("h1", &format!("address = \"10.0.0.1\"\nrecipient = {public:?}\n"));
    let tree = site.sign().enroll();
    tree.write(
        "etc/ssh/ssh_host_ed25519_key",
        crate::support::site::key().to_openssh(ssh_key::LineEnding::LF).unwrap().as_bytes(),
    );
    let url = cluster.client_url(name);
    tree.configure(&format!(
        "[[source]]\ndir = {:?}\n[status]\netcd = [{url:?}]\nca = {ca:?}\nclient_cert = {cert:?}\nclient_key = {key:?}\nevery = \"0s\"\n",
        site.path()
    ));
    for _ in 0..2 {
        let output = tree.kpull("apply --json").exits(0);
        assert_eq!(output.events("not_reported").len(), 0, "{output:?}");
        let fleet = ["fleet", "--site", site.path().to_str().unwrap(), "--etcd", &url];
        let tls = ["--ca", &ca, "--client-cert", &cert, "--client-key", &key];
        let output = crate::support::site::kpull(&[&fleet[..], &tls].concat()).exits(0);
        assert!(output.stdout.ends_with("1 hosts, release 1: 1 healthy\n"), "{output:?}");
    }
}
