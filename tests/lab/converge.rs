//! A host becomes what its signed release says, from git over HTTPS, with real daemons.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kpull::net::server::Server;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};

use crate::support::git::{git, git_backend};
use crate::support::lab::{Host, Lab, Output};
use kpull::net::server::{Answer, Received};

const MASTER: (&str, &str) = ("master1", "192.168.1.101");
const CLIENT: (&str, &str) = ("client", "192.168.1.50");
const FABRIC: &str = "192.168.1.254";
const KPULL: &str = env!("CARGO_BIN_EXE_kpull");
const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

/// A site in git, its server, and two hosts: one that is converged, one that observes it from outside.
struct World {
    lab: Lab,
    dir: tempfile::TempDir,
    _server: Server,
}

impl World {
    fn new() -> Self {
        let lab = Lab::new(&[MASTER, CLIENT]);
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let authority = Authority::new();
        std::fs::create_dir_all(path("artifacts")).unwrap();
        git(dir.path(), &["init", "-q", "--bare", "-b", "main", "site.git"]);
        let (root, tls) = (dir.path().to_owned(), authority.server());
        let server = lab.in_network(move || {
            let listener = TcpListener::bind((FABRIC, 443)).unwrap();
            let repositories = git_backend(root.clone());
            let answer = move |request: &Received| match request.path.starts_with("/artifacts/") {
                true => Answer::new(200, std::fs::read(root.join(&request.path[1..])).unwrap()),
                false => repositories(request),
            };
            Server::on(listener, Some(Arc::new(tls)), answer).unwrap()
        });
        let world = Self { lab, dir, _server: server };
        world.make_site();
        world.enroll(&authority);
        world
    }

    /// The same, after the first run on the host, whose services the other host may use.
    fn converged() -> Self {
        let world = Self::new();
        world.host().run("kpull apply").ok();
        world.lend_certificate();
        world
    }

    fn host(&self) -> Host<'_> {
        self.lab.host("master1")
    }

    fn site(&self) -> PathBuf {
        self.dir.path().join("site")
    }

    fn make_site(&self) {
        git(self.dir.path(), &["clone", "-q", "site.git", "site"]);
        let site = self.site();
        Output::of(Command::new("cp").args(["-r", &format!("{PROJECT}/roles")]).arg(&site)).ok();
        let tarball = self.etcd();
        let digest = hex::encode(Sha256::digest(std::fs::read(&tarball).unwrap()));
        let write = |name: &str, text: &str| {
            let path = site.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        Output::of(
            Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(self.dir.path().join("signer")),
        )
        .ok();
        let operator = std::fs::read_to_string(self.dir.path().join("signer.pub")).unwrap();
        let host_key = "/etc/ssh/ssh_host_ed25519_key";
        let recipient = self
            .host()
            .run(&format!("mkdir -p /etc/ssh && ssh-keygen -q -t ed25519 -N '' -f {host_key} && cat {host_key}.pub"))
            .ok();
        write("site.toml", &format!("{SITE}[secrets]\nrecipients = [{:?}]\n[pki.etcd]\n", operator.trim()));
        write("roles/lab/role.toml", ROLE);
        write(
            "host_vars/master1.toml",
            &format!(
                "address = \"{}\"\nrecipient = {:?}\ngroups = [\"masters\"]\n[vars.etcd]\nname = \"etcd3\"\n",
                MASTER.1,
                recipient.trim()
            ),
        );
        write(
            "artifacts.toml",
            &format!(
                "[etcd]\nversion = \"3.4.23\"\n[etcd.amd64]\nurl = \"https://{FABRIC}/artifacts/etcd.tar.gz\"\nsha256 = \"{digest}\"\nsize = \"unknown\"\n"
            ),
        );
        git(self.dir.path(), &["-C", "site", "checkout", "-q", "-B", "main"]);
        let pki = || {
            let mut command = Command::new(KPULL);
            command.arg("pki").arg("--site").arg(self.site());
            command
        };
        Output::of(pki().arg("init")).ok();
        let set = "printf secret | \"$0\" secret set haproxy-stats --site \"$1\"";
        Output::of(Command::new("bash").args(["-c", set, KPULL]).arg(self.site())).ok();
        Output::of(pki().args(["issue", "--identity"]).arg(self.dir.path().join("signer"))).ok();
        self.release("the site");
    }

    /// Debian's etcd, packed like upstream's release.
    fn etcd(&self) -> PathBuf {
        let stage = self.dir.path().join("stage/etcd-v3.4.23-linux-amd64");
        std::fs::create_dir_all(&stage).unwrap();
        let root = self.lab.host("client").root();
        for name in ["etcd", "etcdctl"] {
            std::fs::copy(root.join("usr/bin").join(name), stage.join(name)).unwrap();
        }
        let tarball = self.dir.path().join("artifacts/etcd.tar.gz");
        Output::of(Command::new("tar").arg("-czf").arg(&tarball).arg("-C").arg(self.dir.path().join("stage")).arg("."))
            .ok();
        tarball
    }

    /// Replaces a piece of a file of the site.
    fn edit(&self, path: &str, from: &str, to: &str) {
        let path = self.site().join(path);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(path, text.replace(from, to)).unwrap();
    }

    /// Signs the site as it is, and pushes it.
    fn release(&self, message: &str) {
        Output::of(
            Command::new(KPULL)
                .arg("sign")
                .arg("--site")
                .arg(self.site())
                .arg("--key")
                .arg(self.dir.path().join("signer")),
        )
        .ok();
        self.push(message);
    }

    /// Pushes the site as it is, signed or not.
    fn push(&self, message: &str) {
        git(&self.site(), &["add", "-A"]);
        git(&self.site(), &["commit", "-q", "-m", message]);
        git(&self.site(), &["push", "-q", "origin", "main"]);
    }

    fn enroll(&self, authority: &Authority) {
        let host = self.host();
        host.copy(Path::new(KPULL), "/usr/bin/kpull", 0o755);
        for unit in ["kpull.service", "packaging/kpull.timer"] {
            let name = Path::new(unit).file_name().unwrap().to_str().unwrap();
            host.copy(Path::new(PROJECT).join(unit), &format!("/usr/lib/systemd/system/{name}"), 0o644);
        }
        let key = std::fs::read_to_string(self.dir.path().join("signer.pub")).unwrap();
        host.write("/etc/kpull/allowed_signers", format!("lab namespaces=\"release@kpull\" {key}"));
        host.write("/etc/kpull/ca.pem", authority.issuer.pem());
        host.write("/etc/kpull/kpull.toml", CONFIG);
    }

    /// Lets the other host show itself to etcd.
    fn lend_certificate(&self) {
        for name in ["ca.pem", "etcd.pem", "etcd-key.pem"] {
            let path = format!("/etc/etcd/ssl/{name}");
            self.lab.host("client").write(&path, self.host().run(&format!("cat {path}")).ok());
        }
    }

    /// What the other host gets through the load balancer.
    fn through_the_load_balancer(&self) -> String {
        let ssl = "/etc/etcd/ssl";
        let curl = format!(
            "curl -sS --max-time 10 --retry 20 --retry-delay 1 --retry-all-errors --cacert {ssl}/ca.pem --cert {ssl}/etcd.pem --key {ssl}/etcd-key.pem https://{}/health",
            MASTER.1
        );
        self.lab.host("client").run(&curl).ok()
    }

    fn is_shut(&self, port: u16) {
        self.lab
            .host("client")
            .run(&format!("curl -sS --max-time 5 http://{}:{port}/", MASTER.1))
            .fails(CURL_NO_CONNECTION);
    }

    /// PID and invocation of the daemons: another one means a restart.
    fn lives(&self) -> Vec<String> {
        let life = |unit: &str| {
            self.host().run(&format!("systemctl show -p MainPID -p InvocationID --value {unit} | paste -sd' '")).ok()
        };
        ["etcd", "haproxy", "firewalld"].map(life).into()
    }

    fn changed(output: &str) -> Vec<String> {
        let events = output.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let changed = events.filter(|event| event["event"] == "changed" || event["event"] == "planned");
        let mut ids: Vec<String> = changed.map(|event| event["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    }
}

#[test]
fn a_host_is_converged_from_signed_git_in_one_run() {
    let world = World::new();
    let host = world.host();
    let first = host.run("kpull apply").ok();
    assert!(first.contains("probes passed"), "{first}");

    world.lend_certificate();
    assert!(world.through_the_load_balancer().contains("\"health\":\"true\""));
    let stranger = world
        .lab
        .host("client")
        .run(&format!("curl -sS --max-time 10 --cacert /etc/etcd/ssl/ca.pem https://{}/health", MASTER.1));
    assert!(stranger.code() != 0 && stranger.stderr.contains("certificate"), "{stranger:?}");
    world.is_shut(8080);
    world.is_shut(2379);
    assert_eq!(host.run("id -nG deploy").ok(), "deploy adm");
    assert_eq!(host.run("getent hosts k8s-api.virtual.local").ok().split_whitespace().next(), Some("192.168.1.201"));
    assert_eq!(host.run("sysctl -n net.ipv4.ip_nonlocal_bind").ok(), "1");
    assert_eq!(host.run("hello -g hi").ok(), "hi");
    assert_eq!(host.run("rpm -q kpull-lab-rpm").ok(), "kpull-lab-rpm-1.0-1.noarch");
    assert_eq!(host.run("systemctl show -p Type --value etcd").ok(), "notify");
    let (runtime, permanent) =
        (host.run("firewall-cmd --list-all").ok(), host.run("firewall-cmd --permanent --list-all").ok());
    // firewalld lists in no order
    let rules = |text: &str| -> std::collections::BTreeSet<String> {
        text.lines()
            .filter(|line| !line.contains("target") && !line.contains("interfaces") && !line.contains("public"))
            .map(|line| line.split_whitespace().collect::<std::collections::BTreeSet<_>>())
            .map(|words| words.into_iter().collect::<Vec<_>>().join(" "))
            .collect()
    };
    assert_eq!(rules(&runtime), rules(&permanent));
}

#[test]
fn a_second_run_changes_and_restarts_nothing() {
    let world = World::converged();
    let host = world.host();
    let lives = world.lives();
    let second = host.run("kpull apply").ok();
    assert!(second.contains("nothing to do"), "{second}");
    assert_eq!(world.lives(), lives);
    let status = host.run("kpull status").ok();
    assert!(status.contains("generation  1") && !status.contains("Landlock"), "{status}");
}

#[test]
fn drift_of_a_file_a_unit_a_rule_and_a_kernel_setting_is_planned_and_corrected() {
    let world = World::converged();
    let host = world.host();
    host.run("echo '# by hand' >> /etc/haproxy/haproxy.cfg && systemctl stop etcd && firewall-cmd -q --remove-port=443/tcp && sysctl -qw net.ipv4.ip_nonlocal_bind=0").ok();
    let drifted = [
        "firewall:public port 443/tcp 5b2d73",
        "sysctl:net.ipv4.ip_nonlocal_bind",
        "template:/etc/haproxy/haproxy.cfg",
        "unit:etcd.service",
        "unit:haproxy.service",
    ];
    let plan = host.run("kpull plan --json");
    assert_eq!(plan.code(), 2, "{plan:?}");
    assert_eq!(World::changed(&plan.stdout), drifted);
    assert_eq!(World::changed(&host.run("kpull apply --json").ok()), drifted);
    assert!(world.through_the_load_balancer().contains("true"));
    assert_eq!(host.run("kpull plan").code(), 0);
}

#[test]
fn a_release_that_fails_halfway_is_rolled_back_and_the_next_one_is_applied() {
    let world = World::converged();
    let host = world.host();
    world.edit("roles/haproxy/templates/haproxy.cfg", "maxconn 4000", "maxconn 4001");
    let role = world.site().join("roles/lab/role.toml");
    std::fs::write(&role, format!("{ROLE}\n[[command]]\nrun = [\"/bin/false\"]\nunless = [\"/bin/false\"]\n")).unwrap();
    world.release("a command that fails");
    let failed = host.run("kpull apply").fails(3);
    assert!(failed.contains("/bin/false") && failed.contains("rolled back to release 1"), "{failed}");
    host.run("grep -q 'maxconn 4000' /etc/haproxy/haproxy.cfg").ok();
    let status = host.run("kpull status").ok();
    assert!(status.contains("stays on    release 1, and not 2") && !status.contains("pending"), "{status}");

    std::fs::write(&role, ROLE).unwrap();
    world.release("without it");
    let changed = World::changed(&host.run("kpull apply --json").ok());
    assert_eq!(changed, ["template:/etc/haproxy/haproxy.cfg", "unit:haproxy.service"]);
}

#[test]
fn a_unit_that_need_not_run_is_restarted_only_if_it_does() {
    let world = World::converged();
    let host = world.host();
    world.edit("roles/lab/role.toml", "first", "second");
    world.release("for a unit that does not run");
    assert_eq!(World::changed(&host.run("kpull apply --json").ok()), ["file:/etc/by-hand.conf"]);
    host.run("systemctl start by-hand").ok();
    world.edit("roles/lab/role.toml", "second", "third");
    world.release("for a unit that somebody has started");
    let changed = World::changed(&host.run("kpull apply --json").ok());
    assert_eq!(changed, ["file:/etc/by-hand.conf", "unit:by-hand.service"]);
    assert!(!host.run("kpull status").ok().contains("pending"));
}

#[test]
fn a_change_in_git_reaches_the_host_by_the_timer_and_restarts_only_its_unit() {
    let world = World::converged();
    let host = world.host();
    let lives = world.lives();
    world.edit(ETCD_UNIT, "LimitNOFILE=65536", "LimitNOFILE=65535");
    world.release("fewer files");
    host.run("systemctl start kpull.timer && systemctl enable -q kpull.timer").ok();
    wait(host, || {
        host.run("systemctl show -p LimitNOFILE --value etcd").ok() == "65535" && world.lives()[0] != lives[0]
    });
    wait(host, || host.run("systemctl is-active kpull.service").stdout.trim() == "inactive");
    assert_eq!(world.lives()[1..], lives[1..], "only etcd is restarted");
    let records = host.run("journalctl -q -o json KPULL_EVENT=changed").ok();
    assert!(records.contains("\"KPULL_RESOURCE\":\"unit:etcd.service\""), "{records}");
}

#[test]
fn an_unsigned_change_is_reported_once_and_changes_nothing() {
    let world = World::converged();
    let host = world.host();
    let (lives, unit) = (world.lives(), host.run("sha256sum /etc/systemd/system/etcd.service").ok());
    world.edit(ETCD_UNIT, "LimitNOFILE=65536", "LimitNOFILE=1");
    world.edit("release.toml", "expires = 2", "expires = 3");
    world.push("not signed");
    assert_ne!(host.run("systemctl start kpull.service").code(), 0);
    assert_eq!(host.run("systemctl show -p ExecMainStatus --value kpull.service").ok(), "4");
    let run = host.run("systemctl show -p InvocationID --value kpull.service").ok();
    let output = host.run(&format!("journalctl -q -o cat -p err _SYSTEMD_INVOCATION_ID={run}")).ok();
    assert_eq!(output.lines().count(), 1, "{output}");
    assert!(output.starts_with("no signature of the release is good"), "{output}");
    assert_eq!((world.lives(), host.run("sha256sum /etc/systemd/system/etcd.service").ok()), (lives, unit));

    world.edit("release.toml", "expires = 3", "expires = 2");
    world.edit(ETCD_UNIT, "LimitNOFILE=1", "LimitNOFILE=65535");
    world.release("signed again");
    host.run("systemctl start kpull.service").ok();
    assert_eq!(host.run("systemctl show -p LimitNOFILE --value etcd").ok(), "65535");
}

#[test]
fn after_a_power_cut_the_host_is_up_again_and_the_timer_finds_nothing_to_do() {
    let world = World::converged();
    let host = world.host();
    host.run("systemctl enable -q --now kpull.timer && sync").ok();
    host.crash();
    host.boot();
    assert!(world.through_the_load_balancer().contains("true"));
    world.is_shut(2379);
    wait(host, || {
        host.run("journalctl -q -b -o cat KPULL_EVENT=done").ok().lines().any(|line| line.contains(": 0 of "))
    });
}

#[test]
fn without_firewalld_or_d_bus_the_message_says_so_and_nothing_is_changed() {
    let lab = Lab::new(&[CLIENT]);
    let host = lab.host("client");
    host.copy(KPULL, "/usr/bin/kpull", 0o755);
    host.write("/srv/site/site.toml", "name = \"lab\"\n");
    host.write("/srv/site/host_vars/client.toml", "address = \"192.168.1.50\"\nroles = [\"web\"]\n");
    host.write("/srv/site/roles/web/role.toml", "summary = \"A port\"\n[[firewall]]\nports = [\"80/tcp\"]\n");
    host.run("ssh-keygen -q -t ed25519 -N '' -f /root/key && kpull sign --site /srv/site --key /root/key").ok();
    host.run("mkdir -p /etc/kpull && echo \"lab $(cat /root/key.pub)\" > /etc/kpull/allowed_signers").ok();
    host.write(
        "/etc/kpull/kpull.toml",
        "host = \"client\"\n[trust]\nsite = \"lab\"\nallowed_signers = \"allowed_signers\"\n[[source]]\ndir = \"/srv/site\"\n",
    );
    host.run("systemctl stop firewalld").ok();
    let firewalld = host.run("kpull apply").fails(1);
    assert!(firewalld.contains("firewalld is not running"), "{firewalld}");
    host.run("systemctl start firewalld && mv /run/dbus/system_bus_socket /run/dbus/away").ok();
    let bus = host.run("kpull apply").fails(1);
    assert!(bus.contains("D-Bus"), "{bus}");
    host.run("mv /run/dbus/away /run/dbus/system_bus_socket && firewall-cmd --query-port=80/tcp").fails(1);
    host.run("kpull apply && firewall-cmd --query-port=80/tcp && firewall-cmd --permanent --query-port=80/tcp").ok();
}

const CURL_NO_CONNECTION: i32 = 7;
const ETCD_UNIT: &str = "roles/etcd/templates/etcd.service";

const SITE: &str = r#"
name = "lab"
[vars]
vip = "192.168.1.201"
api_name = "k8s-api.virtual.local"
api_port = 443
apiserver_port = 2379 # no API server here: etcd answers behind the load balancer
api = "https://{{ api_name }}"
pod_network = "172.30.0.0/16"
service_network = "10.254.0.0/16"
dns_ip = "10.254.0.2"
cluster_domain = "cluster.local"
addresses = "{{ hosts | map(attribute='address') | list }}"
[groups.masters]
roles = ["base", "firewall", "etcd", "haproxy", "lab"]
[groups.masters.vars.base]
modules = [] # hosts in a lab have no modules of their own
[groups.masters.vars.haproxy]
servers = "{{ hosts }}"
"#;

const ROLE: &str = r#"
summary = "What else a host of the lab shows"
[[user]]
name = "deploy"
groups = ["adm"]
shell = "/bin/bash"
[[package]]
name = "hello"
[[package]]
name = "kpull-lab-rpm"
manager = "dnf"
[[file]]
path = "/etc/by-hand.conf"
content = "first\n"
[[unit]]
name = "by-hand.service"
content = "[Service]\nExecStart=/bin/sleep infinity\n"
restart_when = ["file:/etc/by-hand.conf"]
"#;

const CONFIG: &str = r#"
host = "master1"
[trust]
site = "lab"
allowed_signers = "allowed_signers"
[artifacts]
ca = "ca.pem"
[[source]]
git = "https://192.168.1.254/site.git"
branch = "main"
ca = "ca.pem"
"#;

/// Waits for something that the timer brings about; longer than its period takes.
fn wait(host: Host<'_>, mut until: impl FnMut() -> bool) {
    let start = Instant::now();
    while !until() {
        let journal = || {
            host.run("systemctl list-timers kpull.timer; journalctl --no-pager -n 40 -u kpull.service -u kpull.timer")
        };
        assert!(start.elapsed() < Duration::from_secs(120), "it did not happen: {}", journal());
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Makes certificates for servers and clients.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "the lab's authority");
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn certify(&self, names: &[&str]) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, names[0]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn server(&self) -> ServerConfig {
        let (certificate, key) = self.certify(&[FABRIC]);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap()
    }
}
