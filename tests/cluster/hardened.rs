//! A cluster that `kpull new cluster` creates, on hosts that have the role hardening too, as the manual has it, "Harden the hosts".

use std::fs;
use std::process::Command;

use toml::Table;

use crate::cluster::up::pods_serve;
use crate::cluster::{all_is_healthy, come_up};
use crate::support::cluster::{Cluster, Machines};
use crate::support::lab::{Host, Output};

/// The hosts of the shipped site.
const HOSTS: &str = "--masters master1=192.168.1.101,master2=192.168.1.102,master3=192.168.1.103 \
    --workers node1=192.168.1.104 --vip 192.168.1.201/24";
const BASE: &str = "\"base\", ";
const HARDENED: &str = "\"base\", \"hardening\", ";

/// What the role has for a network: its names, and their values. The lab's site leaves out those of the machine.
fn settings() -> (String, String) {
    let role: Table = include_str!("../../roles/hardening/role.toml").parse().unwrap();
    let all = role["vars"]["sysctl"].as_table().unwrap();
    let network = all.iter().filter(|(name, _)| name.starts_with("net."));
    let set: Vec<_> = network.filter_map(|(name, value)| Some((name, value.as_integer()?.to_string()))).collect();
    assert!(set.len() > 25, "{set:?}");
    let names: Vec<_> = set.iter().map(|(name, _)| name.as_str()).collect();
    let values: Vec<_> = set.iter().map(|(_, value)| value.as_str()).collect();
    (names.join(" "), values.join("\n"))
}

/// A server for logins, as every host has one outside of a lab, and a key of root's.
fn admit_root(host: Host<'_>) {
    host.run(
        "DEBIAN_FRONTEND=noninteractive apt-get install -qq -y openssh-server && systemctl enable -q --now ssh &&
        mkdir -p -m 700 /root/.ssh && ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519 && cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys",
    )
    .ok();
}

#[test]
fn a_new_cluster_comes_up_on_hardened_hosts_and_stays_up_without_the_role() {
    let machines = Machines { prepare: admit_root, ..Machines::default() };
    let made = Cluster::with(None, machines, |site| {
        fs::remove_dir_all(site).unwrap();
        let mut new = Command::new(env!("CARGO_BIN_EXE_kpull"));
        new.args(["new", "cluster"]).args(HOSTS.split(' '));
        Output::of(new.arg(site)).ok();
        let file = site.join("site.toml");
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text.matches(BASE).count(), 2, "both groups");
        fs::write(file, text.replace(BASE, HARDENED)).unwrap();
    });
    let (names, values) = settings();
    let read = |cluster: &Cluster| -> Vec<String> {
        cluster.names().iter().map(|name| cluster.host(name).run(&format!("sysctl -n {names}")).ok()).collect()
    };
    let before = read(&made);
    let cluster = come_up(made, 2);
    let serves_hardened = || {
        all_is_healthy(&cluster);
        pods_serve(&cluster);
        assert_eq!(read(&cluster), vec![values.clone(); 4]);
        for name in cluster.names() {
            let login = "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new 127.0.0.1";
            let output =
                cluster.host(&name).run(&format!("{login} 'bash -lc \"umask; ulimit -Hc; kpull verify >&2\"'"));
            assert_eq!(output.ok(), "0027\n0", "{name}");
            assert_eq!(cluster.host(&name).run("sshd -T | grep -ix 'x11forwarding no'").code(), 0, "{name}");
        }
    };
    serves_hardened();
    for name in ["master1", "node1"] {
        cluster.host(name).crash();
        cluster.host(name).boot();
    }
    serves_hardened();

    cluster.replace("site.toml", HARDENED, BASE);
    cluster.release();
    all_is_healthy(&cluster);
    pods_serve(&cluster);
    assert_eq!(read(&cluster), before);
}
