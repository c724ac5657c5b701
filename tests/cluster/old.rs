//! The shipped cluster on the oldest systems that can be had: Debian 11 (systemd 247), where kpull finds a kernel without any system
//! call younger than Linux 3.10 and a firewalld with the interface of 0.4.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::cluster::{SOON, all_is_healthy, come_up};
use crate::support::cluster::{Cluster, Machines, artifacts};
use crate::support::lab::{Host, Output, Suite};
use crate::support::old_firewalld;

/// Only if hosts have a C library that is new enough for these programs.
const LIBRARY: &str = "/opt/lab-libc";

/// What a Kubernetes and an etcd that are built on Debian 12 load, which Debian 11 has older.
const LOADED: [&str; 2] = ["ld-linux-x86-64.so.2", "libc.so.6"];

#[test]
fn the_shipped_cluster_comes_up_and_stays_up_on_linux_3_10_and_firewalld_0_4() {
    let tarballs = tempfile::tempdir().unwrap();
    with_own_library(tarballs.path());
    let machines = Machines {
        suite: Suite::Bullseye,
        artifacts: tarballs.path().to_owned(),
        prepare: make_old,
        ..Machines::default()
    };
    let cluster = come_up(Cluster::with(None, machines, |_| {}), 2);
    all_is_healthy(&cluster);
    for name in cluster.names() {
        let host = cluster.host(&name);
        assert!(host.run("systemctl --version").ok().starts_with("systemd 247 "));
        let last = host.run("kpull status").ok();
        assert!(last.contains("has no Landlock"), "{last}");
        assert_eq!(host.run("firewall-cmd --version").ok(), "0.4.4.4");
    }

    for (name, drift) in [
        ("master1", "firewall-cmd -q --remove-service=ssh"),
        ("master2", "systemctl stop haproxy && echo drift >> /etc/haproxy/haproxy.cfg"),
        ("master3", "systemctl stop kube-scheduler"),
        ("node1", "rm /usr/k8s/bin/kube-proxy && systemctl stop docker"),
    ] {
        let host = cluster.host(name);
        host.run(drift).ok();
        let id = |name: &str| host.run(&format!("systemctl is-active {name}")).stdout;
        cluster.wait("what has drifted is corrected", SOON, || match name {
            "master1" => host.run("firewall-cmd -q --query-service=ssh").status.success(),
            "master2" => {
                id("haproxy") == "active\n" && !host.run("grep drift /etc/haproxy/haproxy.cfg").status.success()
            }
            "master3" => id("kube-scheduler") == "active\n",
            _ => id("docker") == "active\n" && host.run("test -x /usr/k8s/bin/kube-proxy").status.success(),
        });
    }
    all_is_healthy(&cluster);

    let before = firewalls(&cluster);
    for name in cluster.names() {
        cluster.host(&name).run("firewall-cmd -q --reload").ok();
    }
    all_is_healthy(&cluster);
    assert_eq!(firewalls(&cluster), before, "no firewalld was restarted");

    let file = cluster.site().join("site.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}\n[vars.docker.config.log-opts]\nmax-file = \"5\"\n")).unwrap();
    cluster.release();
    all_is_healthy(&cluster);
    for name in cluster.nodes() {
        cluster.host(&name).run("grep -q '\"max-file\": \"5\"' /etc/docker/daemon.json").ok();
    }

    let host = cluster.host("node1");
    host.crash();
    host.boot();
    all_is_healthy(&cluster);
}

/// Which firewalld runs on each host.
fn firewalls(cluster: &Cluster) -> Vec<String> {
    cluster.names().iter().map(|name| cluster.host(name).run("systemctl show -p InvocationID firewalld").ok()).collect()
}

/// Takes from a host what kpull is not to find there.
fn make_old(host: Host<'_>) {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    host.copy(own.join("cluster/old-kernel"), "/usr/local/sbin/kpull", 0o755);
    host.write(
        "/etc/systemd/system/kpull.service.d/old.conf",
        "[Service]\nExecStart=\nExecStart=/usr/local/sbin/kpull apply\n",
    );
    old_firewalld::make_old(host);
    for name in LOADED {
        host.copy(Path::new("/lib/x86_64-linux-gnu").join(name), &format!("{LIBRARY}/{name}"), 0o755);
    }
}

/// Puts the tarballs into a directory, with programs that load what [`LIBRARY`] has.
fn with_own_library(to: &Path) {
    let script = r#"
        cd "$1"
        for file in "$2"/*.tar.gz; do
            mkdir in && tar -C in -xzf "$file"
            for program in $(find in -type f -perm /111); do
                ! patchelf --print-interpreter "$program" >/dev/null 2>&1 ||
                    patchelf --set-interpreter "$3/ld-linux-x86-64.so.2" --set-rpath "$3" "$program"
            done
            tar -C in -cf - . | gzip -1n > "${file##*/}" && rm -r in
        done"#;
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script, "with_own_library"]).arg(to).arg(artifacts()).arg(LIBRARY);
    Output::of(&mut command).ok();
}
