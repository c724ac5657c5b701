//! What operators do to a cluster that runs, day after day.

use std::process::Command;

use crate::cluster::faults::{Asking, SILENCE};
use crate::cluster::{MASTERS, SOON, cluster, everything_is_healthy, items, ready_nodes};
use crate::support::lab::Output;

const API: &str = "https://192.168.1.201/healthz";

/// The lines of a command's output on each host.
fn everywhere(command: &str) -> Vec<String> {
    cluster().names().iter().map(|name| cluster().host(name).run(command).ok()).collect()
}

#[test]
fn a_worker_is_added_and_removed() {
    everything_is_healthy();
    cluster().add("node2", "address = \"192.168.1.105\"\ngroups = [\"nodes\"]\n");
    cluster().release();
    cluster().host("node2").run("systemctl enable -q --now kpull.timer").ok();
    everything_is_healthy();
    assert_eq!(ready_nodes(cluster()), 5);

    cluster().kubectl("master1", "drain node2 --ignore-daemonsets --force").ok();
    cluster().kubectl("master1", "delete node node2").ok();
    for certificate in ["flanneld", "kube-proxy", "kubelet"] {
        let operator = cluster().operator();
        cluster().kpull(&[
            "pki",
            "revoke",
            "node2",
            certificate,
            "--reason",
            "cessation-of-operation",
            "--identity",
            &operator,
        ]);
    }
    cluster().remove("node2");
    cluster().host("node2").crash();
    cluster().release();
    everything_is_healthy();
    assert_eq!(ready_nodes(cluster()), 4);
    let open = cluster().host("master1").run("firewall-cmd --list-rich-rules").ok();
    assert!(open.contains("192.168.1.104") && !open.contains("192.168.1.105"), "{open}");
}

#[test]
fn certificates_are_renewed_one_host_at_a_time_without_an_interruption() {
    everything_is_healthy();
    let serial = "openssl x509 -noout -serial -in /etc/kubernetes/ssl/kubelet.pem";
    let before = everywhere(serial);
    let asking = Asking::start(cluster().host("node1"), API);
    cluster().kpull(&["pki", "renew", "--before", "400d", "--identity", &cluster().operator()]);
    cluster().release();
    everything_is_healthy();
    let (longest, failures) = asking.end();
    eprintln!("while certificates were renewed: {failures} requests failed, for {longest} ms at most");
    assert!(longest <= SILENCE, "{longest} ms");
    assert!(before.iter().zip(everywhere(serial)).all(|(before, now)| *before != now));
}

#[test]
fn an_authority_is_changed_and_the_cluster_stays() {
    everything_is_healthy();
    let operator = cluster().operator();
    let authority = "openssl x509 -noout -serial -in /etc/kubernetes/ssl/signing-ca.pem";
    let before = everywhere(authority);
    for step in [None, Some("--switch"), Some("--finish")] {
        let mut arguments = vec!["pki", "rotate", "kubernetes"];
        arguments.extend(step);
        arguments.extend(["--identity", &operator]);
        cluster().kpull(&arguments);
        cluster().release();
        everything_is_healthy();
    }
    assert!(before.iter().zip(everywhere(authority)).all(|(before, now)| *before != now));
    let trusted = everywhere("grep -c BEGIN /etc/kubernetes/ssl/ca.pem");
    assert!(trusted.iter().all(|count| count == "1"), "{trusted:?}");
}

#[test]
fn an_upgrade_is_another_pin_and_so_is_its_rollback() {
    everything_is_healthy();
    let versions = || {
        let nodes = crate::cluster::ask(cluster(), "get nodes");
        items(&nodes)
            .iter()
            .map(|node| node["status"]["nodeInfo"]["kubeletVersion"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let before = versions();
    let pins = std::fs::read_to_string(cluster().site().join("artifacts.toml")).unwrap();

    let asking = Asking::start(cluster().host("node1"), API);
    let next = cluster().pin_stand_in_for_next_version();
    cluster().release();
    everything_is_healthy();
    cluster().wait("every node says the new version", SOON, || {
        versions().iter().all(|version| *version == format!("v{next}"))
    });
    let (longest, failures) = asking.end();
    eprintln!("during the upgrade: {failures} requests failed, for {longest} ms at most");
    assert!(longest <= SILENCE, "{longest} ms");

    std::fs::write(cluster().site().join("artifacts.toml"), pins).unwrap();
    cluster().release();
    everything_is_healthy();
    cluster().wait("every node says the old version again", SOON, || versions() == before);
}

#[test]
fn another_service_network_is_refused_while_the_cluster_lives() {
    everything_is_healthy();
    let (old, new) = ("service_network = \"10.254.0.0/16\"", "service_network = \"10.253.0.0/16\"");
    cluster().replace("site.toml", old, new);
    cluster().release();
    cluster().wait("every master refuses", SOON, || {
        MASTERS.iter().all(|name| {
            cluster().host(name).run("kpull status").stdout.contains("services have addresses of 10.254.0.0/16")
        })
    });
    let range = cluster()
        .host("master1")
        .run("tr '\\0' '\\n' < /proc/$(pidof kube-apiserver)/cmdline | grep service-cluster")
        .ok();
    assert!(range.contains("10.254.0.0/16"), "what runs goes on as it was: {range}");
    cluster().replace("site.toml", new, old);
    cluster().release();
    everything_is_healthy();
}

#[test]
fn a_new_machine_takes_the_place_of_a_dead_master() {
    everything_is_healthy();
    let name = "master3";
    cluster().host(name).crash();
    cluster().replace_machine(name);
    cluster().release();
    cluster().host(name).run("systemctl enable -q --now kpull.timer").ok();
    everything_is_healthy();
    assert!(cluster().host(name).run("cat /etc/etcd/cluster.env").ok().contains("existing"));
}

#[test]
fn a_certificate_from_a_clock_that_is_ahead_is_reported_and_a_renewed_one_works() {
    everything_is_healthy();
    let operator = cluster().operator();
    // a real clock that is wrong, for a program that can be given one: kpull's is the machine's
    let issue = r#"set -e; cd "$1"
        for key in kubernetes node1/kubelet; do age -d -i "$2" "secrets/pki/$key.key.age" > "../${key#*/}.key"; done
        openssl x509 -x509toreq -in pki/node1/kubelet.pem -signkey ../kubelet.key -copy_extensions copyall > ../kubelet.csr
        faketime -f +3d openssl x509 -req -in ../kubelet.csr -CA pki/kubernetes.pem -CAkey ../kubernetes.key \
            -copy_extensions copyall -days 30 -out pki/node1/kubelet.pem"#;
    Output::of(Command::new("bash").args(["-c", issue, "issue"]).arg(cluster().site()).arg(&operator)).ok();
    cluster().release();
    cluster().converge(2 * SOON);
    let output = cluster().host("node1").run("kpull verify");
    assert_ne!(output.code(), 0, "{output}");
    assert!(output.stdout.contains("/etc/kubernetes/ssl/kubelet.pem is not valid before "), "{output}");
    let ask = || cluster().kubectl("master1", "get --raw /api/v1/nodes/node1/proxy/healthz");
    let refused = ask();
    assert!(refused.stderr.contains("not yet valid"), "an API server does not believe the kubelet: {refused}");

    cluster().kpull(&["pki", "renew", "kubelet", "--host", "node1", "--identity", &operator]);
    cluster().release();
    everything_is_healthy();
    assert_eq!(ask().ok(), "ok");
}
