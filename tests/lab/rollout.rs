//! A bad release on five hosts, rolled out in waves: how far it comes.

use std::net::TcpListener;
use std::process::Command;

use kpull::net::server::Server;
use rcgen::KeyPair;

use crate::support::authority::{authority, named};
use crate::support::fleetlock::StandIn;
use crate::support::lab::{Host, Lab, Output};

const HOSTS: [(&str, &str); 5] = [
    ("h1", "192.168.1.11"),
    ("h2", "192.168.1.12"),
    ("h3", "192.168.1.13"),
    ("h4", "192.168.1.14"),
    ("h5", "192.168.1.15"),
];

const FABRIC: &str = "192.168.1.254";

/// A service whose release N is good, and one that is not where it is asked for.
const ROLE: &str = r#"
summary = "For a test"

[[file]]
path = "/etc/app.conf"
content = "RELEASE\n"

[[unit]]
name = "app.service"
content = """
[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
"""
enable = true
restart_when = ["file:/etc/app.conf"]

[[probe]]
name = "app"
command = ["sh", "-c", "! grep -q bad /etc/app.conf || test -e /etc/sturdy"]
within = "1s"
"#;

const WAVES: &str = "[[rollout.wave]]\nhosts = [\"h1\"]\n[[rollout.wave]]\nhosts = [\"h2\", \"h3\"]\n";

/// etcd on the first host, for every host's records.
const ETCD: &str = "systemd-run -q --unit=records etcd --name records --data-dir /var/lib/records \
    --listen-client-urls https://192.168.1.11:2379 --advertise-client-urls https://192.168.1.11:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
    --initial-cluster records=http://127.0.0.1:2380 --cert-file /srv/cert.pem --key-file /srv/key.pem";

/// Five hosts, the site of which they are, and where its releases are put.
struct World {
    lab: Lab,
    dir: tempfile::TempDir,
    servers: Vec<Server>,
}

impl Drop for World {
    fn drop(&mut self) {
        // a server ends with a connection to itself, which has to be made where it is
        let servers = std::mem::take(&mut self.servers);
        self.lab.in_network(move || drop(servers));
    }
}

impl World {
    /// Hosts on release 1.
    fn new(rollout: &str, status: &str) -> Self {
        let (lab, dir) = (Lab::new(&HOSTS), tempfile::tempdir().unwrap());
        let releases = dir.path().join("releases");
        let web = lab.in_network(move || {
            Server::on(TcpListener::bind((FABRIC, 80)).unwrap(), None, crate::support::web::web(releases))
        });
        let world = Self { lab, dir, servers: vec![web.unwrap()] };
        let path = |name: &str| world.dir.path().join(name).to_str().unwrap().to_owned();
        Output::of(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &path("key")])).ok();
        let (issuer, key) = (authority(), KeyPair::generate().unwrap());
        let certificate = named("records", vec![HOSTS[0].1.to_owned()]).signed_by(&key, &issuer).unwrap();
        let signer = std::fs::read_to_string(path("key.pub")).unwrap();
        std::fs::create_dir_all(path("site/roles/app")).unwrap();
        std::fs::create_dir_all(path("site/host_vars")).unwrap();
        std::fs::write(path("site/site.toml"), format!("name = \"lab\"\n{rollout}")).unwrap();
        for (name, address) in HOSTS {
            let host = world.lab.host(name);
            host.copy(env!("CARGO_BIN_EXE_kpull"), "/usr/bin/kpull", 0o755);
            host.write("/etc/kpull/records.pem", issuer.pem());
            let config = format!(
                "host = {name:?}\n[trust]\nsite = \"lab\"\nallowed_signers = \"allowed_signers\"\n{status}\
                 [[source]]\nhttp = \"http://{FABRIC}/\"\n"
            );
            host.write("/etc/kpull/kpull.toml", config);
            host.write("/etc/kpull/allowed_signers", format!("lab {signer}"));
            let key = host.run("ssh-keygen -A > /dev/null; cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub").ok();
            let vars = format!("address = {address:?}\nrecipient = {key:?}\nroles = [\"app\"]\n");
            std::fs::write(path(&format!("site/host_vars/{name}.toml")), vars).unwrap();
        }
        world.host("h1").write("/srv/cert.pem", certificate.pem());
        world.host("h1").write("/srv/key.pem", key.serialize_pem());
        world.host("h1").run(&format!("firewall-cmd -q --add-port=2379/tcp && {ETCD}")).ok();
        world.host("h1").run("curl -sS --retry 20 --retry-delay 1 --retry-all-errors --cacert /etc/kpull/records.pem https://192.168.1.11:2379/health").ok();
        world.release("good");
        for (name, _) in HOSTS {
            world.host(name).run("kpull apply").ok();
        }
        world
    }

    fn host<'a>(&'a self, name: &'a str) -> Host<'a> {
        self.lab.host(name)
    }

    fn release(&self, text: &str) {
        crate::lab::publish(self.dir.path(), &ROLE.replace("RELEASE", text));
    }

    /// Runs every host so many times, the last ones first; returns the last output of each.
    fn rounds(&self, count: usize) -> Vec<String> {
        let mut reported = Vec::new();
        for _ in 0..count {
            let each = HOSTS.iter().rev().map(|(name, _)| self.host(name).run("kpull apply"));
            reported = each.map(|output| format!("{}{}", output.stdout, output.stderr)).collect();
            reported.reverse();
        }
        reported
    }

    /// What hosts have, and how often each has restarted what a release touches.
    fn state(&self) -> Vec<(String, String)> {
        let text = |name| {
            let host = self.host(name);
            let starts = "journalctl -u app.service --output=cat --grep '^Started' | wc -l";
            (host.run("cat /etc/app.conf").ok(), host.run(starts).ok())
        };
        HOSTS.iter().map(|(name, _)| text(name)).collect()
    }
}

/// What hosts are like when the first has a bad release for good, the second was touched by it and is back, and no other was.
fn two_touched() -> Vec<(String, String)> {
    [("bad", "2"), ("good", "3"), ("good", "1"), ("good", "1"), ("good", "1")]
        .map(|(text, starts)| (text.to_owned(), starts.to_owned()))
        .into()
}

#[test]
fn a_bad_release_that_passes_the_canary_reaches_one_host_of_the_second_wave() {
    let status = "[status]\netcd = [\"https://192.168.1.11:2379\"]\nca = \"records.pem\"\n";
    let world = World::new(&format!("[rollout]\n{WAVES}"), status);
    world.host("h1").write("/etc/sturdy", "");
    world.release("bad");
    let message = world.rounds(6);
    assert_eq!(world.state(), two_touched(), "{message:#?}");
    assert!(
        message[2].contains(
            "waits for its position in the rollout of release 2: stopped by h2 (wave 2): the release failed there"
        ),
        "{}",
        message[2]
    );
    // the next one is good, and comes to all
    world.release("better");
    let message = world.rounds(6);
    assert!(world.state().iter().all(|(text, _)| text == "better"), "{message:#?}");
}

#[test]
fn with_a_lock_server_a_bad_release_reaches_no_more_hosts_than_it_has_slots() {
    let url = format!("http://{FABRIC}:3333");
    let mut world = World::new(&format!("[rollout]\nfleetlock = {{ url = {url:?} }}\n"), "");
    let locks = StandIn::new(&[("default", 1)]);
    let stand_in = locks.clone();
    let server = world.lab.in_network(move || {
        Server::on(TcpListener::bind((FABRIC, 3333)).unwrap(), None, move |request| stand_in.answer(request)).unwrap()
    });
    world.servers.push(server);
    world.host("h1").write("/etc/sturdy", "");
    world.release("bad");
    world.host("h1").run("kpull apply").ok();
    world.host("h2").run("kpull apply").fails(3);
    let message = world.rounds(3);
    assert_eq!(world.state(), two_touched(), "{message:#?}");
    assert_eq!(locks.holders("default"), ["h2"]);
    assert!(message[4].contains("the lock server refuses: all 1 semaphore slots currently locked"), "{}", message[4]);
    world.release("better");
    world.host("h2").run("kpull apply").ok();
    let message = world.rounds(1);
    assert!(world.state().iter().all(|(text, _)| text == "better"), "{message:#?}");
    assert_eq!(locks.holders("default"), [""; 0]);
}
