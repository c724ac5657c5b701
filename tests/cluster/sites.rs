//! Other sites than the shipped one, with other networks: one host that is everything, which becomes three, and other
//! places for etcd, masters and pods.

use crate::cluster::faults::{Asking, SILENCE};
use crate::cluster::up::condition;
use crate::cluster::{SOON, all_is_healthy, ask, come_up, items, ready_nodes, running_pods};
use crate::support::cluster::Cluster;

const VIP: &str = "10.20.0.100";

/// One test, since each step needs what the one before left, and no other test needs the cluster.
#[test]
fn one_master_becomes_three_and_changes_its_load_balancer_back_and_forth() {
    let cluster = come_up(Cluster::new(Some("one-master")), 1);
    one_host_is_all_of_it(&cluster);
    one_master_becomes_three(&cluster);
    the_cluster_goes_on_without_its_founder(&cluster);
    another_load_balancer_takes_its_place(&cluster, "haproxy", "nginx");
    let stops_nginx = "[vars.haproxy]\nreplaces = [\"nginx.service\"]\n\n[groups.masters]\n";
    cluster.replace("site.toml", "[groups.masters]\n", stops_nginx);
    another_load_balancer_takes_its_place(&cluster, "nginx", "haproxy");
    eprintln!("{}", cluster.usage());
}

/// A site that comes up with pods that answer on these hosts.
fn comes_up_with_pods_on(site: &str, nodes: &[&str], pods: usize) -> Cluster {
    let cluster = come_up(Cluster::new(Some(site)), pods);
    all_is_healthy(&cluster);
    assert_eq!(cluster.nodes(), nodes);
    for name in nodes {
        assert_eq!(pods_that_answer(&cluster, name), pods, "from {name}");
    }
    cluster
}

#[test]
fn etcd_has_hosts_of_its_own() {
    let cluster = comes_up_with_pods_on("etcd-apart", &["m1", "m2", "w1"], 2);
    assert_eq!(healthy_components(&cluster), ["controller-manager", "etcd-0", "etcd-1", "etcd-2", "scheduler"]);
    for name in cluster.nodes() {
        assert_eq!(cluster.host(&name).run("systemctl is-active etcd").stdout, "inactive\n", "{name}");
    }
}

#[test]
fn masters_run_no_pods() {
    comes_up_with_pods_on("quiet-masters", &["w1", "w2"], 2);
}

#[test]
fn a_worker_is_a_member_of_etcd() {
    let cluster = comes_up_with_pods_on("member-worker", &["m1", "m2", "w1", "w2"], 2);
    assert_eq!(healthy_components(&cluster), ["controller-manager", "etcd-0", "etcd-1", "etcd-2", "scheduler"]);
    assert_eq!(cluster.host("w1").run("systemctl is-active etcd").ok(), "active");
}

#[test]
fn one_master_and_one_worker_are_a_cluster() {
    comes_up_with_pods_on("two-hosts", &["m1", "w1"], 2);
}

fn one_host_is_all_of_it(cluster: &Cluster) {
    all_is_healthy(cluster);
    assert_eq!(healthy_components(cluster), ["controller-manager", "etcd-0", "scheduler"]);
    let subject = cluster.host("solo").run(crate::cluster::KUBELET_SUBJECT).ok();
    assert!(subject.contains("system:node:solo"), "the certificate that it asked for: {subject}");
    let pods = running_pods(cluster);
    assert!(pods[0].address.starts_with("10.21."), "in the site's own network: {pods:?}");
    assert_eq!(pods_that_answer(cluster, "solo"), 1);
    let service = ask(cluster, "get service web")["spec"]["clusterIP"].clone();
    assert!(service.as_str().is_some_and(|address| address.starts_with("10.22.")), "{service}");
    let output = cluster.host("solo").run("kpull verify").ok();
    for what in ["scheduler", "controller-manager", "etcd solo", "node solo"] {
        assert!(output.lines().any(|line| line.starts_with(what)), "{what} in {output}");
    }
}

/// As the documentation has it, "From one master to three".
fn one_master_becomes_three(cluster: &Cluster) {
    let start = std::time::Instant::now();
    cluster.replace("site.toml", "vip = \"10.20.0.10\"", &format!("vip_prefix = 24\nvip = \"{VIP}\""));
    cluster.replace("site.toml", "api_port = 6443", "api_port = 443");
    cluster.replace("site.toml", "\"etcd\", \"flannel\"", "\"etcd\", \"haproxy\", \"keepalived\", \"flannel\"");
    cluster.replace("site.toml", "[groups.masters]\n", "[vars.etcd]\nfounders = [\"etcd1\"]\n\n[groups.masters]\n");
    let grown = ["master2", "master3"];
    for (number, name) in (2..).zip(grown) {
        let member = format!("groups = [\"masters\"]\n[vars.etcd]\nname = \"etcd{number}\"\n");
        cluster.add(name, &format!("address = \"10.20.0.1{number}\"\n{member}"));
    }
    cluster.replace("site.toml", "key_hosts = [\"solo\"]", "key_hosts = [\"solo\", \"master2\", \"master3\"]");
    cluster.release();
    for name in grown {
        cluster.host(name).run("systemctl enable -q --now kpull.timer").ok();
    }
    all_is_healthy(cluster);
    eprintln!("three masters after {} s", start.elapsed().as_secs());
    assert_eq!(members(cluster), ["etcd1 started", "etcd2 started", "etcd3 started"]);
    assert_eq!(ready_nodes(cluster), 3);
    assert_eq!(healthy_components(cluster), ["controller-manager", "etcd-0", "etcd-1", "etcd-2", "scheduler"]);
    let server = "sed -n 's/^ *server: //p' /etc/kubernetes/kubelet.kubeconfig";
    for name in cluster.names() {
        let server = cluster.host(&name).run(server).ok();
        assert_eq!(server, "https://api.solo.example:443", "whom the kubelet of {name} asks");
        assert_eq!(listener(cluster, &name), "haproxy", "on {name}");
    }
    cluster.wait("there is a pod on a second host", SOON, || running_pods(cluster).len() == 2);
    for name in cluster.names() {
        assert_eq!(pods_that_answer(cluster, &name), 2, "from {name}");
    }
}

fn the_cluster_goes_on_without_its_founder(cluster: &Cluster) {
    cluster.host("solo").crash();
    cluster.wait("what is written is kept without the founder", SOON, || {
        cluster.kubectl("master2", "create configmap after-a-crash").status.success()
    });
    cluster.host("solo").boot();
    all_is_healthy(cluster);
    assert!(cluster.kubectl("solo", "get configmap after-a-crash").status.success());
}

/// Each host stops the one and starts the other, as the documentation has it, "Change the load balancer".
fn another_load_balancer_takes_its_place(cluster: &Cluster, old: &str, new: &str) {
    let asking = Asking::start(cluster.host("solo"), &format!("https://{VIP}/healthz"));
    cluster.replace("site.toml", &format!("\"{old}\", \"keepalived\""), &format!("\"{new}\", \"keepalived\""));
    cluster.release();
    all_is_healthy(cluster);
    let (longest, failures) = asking.end();
    eprintln!("while {new} took the place of {old}: {failures} requests failed, for {longest} ms at most");
    assert!(longest <= SILENCE, "{longest} ms");
    for name in cluster.names() {
        assert_eq!(listener(cluster, &name), new, "on {name}");
        let stopped = cluster.host(&name).run(&format!("systemctl is-active {old}; systemctl is-enabled {old}")).stdout;
        assert_eq!(stopped, "inactive\ndisabled\n", "{old} on {name}");
    }
    // through the virtual address, which one of them has
    assert_eq!(ready_nodes(cluster), 3);
}

/// The names of the components, all of which have to be healthy.
fn healthy_components(cluster: &Cluster) -> Vec<String> {
    let reported = ask(cluster, "get componentstatuses");
    let name = |status: &serde_json::Value| {
        assert_eq!(condition(status, "Healthy"), "True", "{status:#}");
        status["metadata"]["name"].as_str().unwrap().to_owned()
    };
    let mut names: Vec<String> = items(&reported).iter().map(name).collect();
    names.sort_unstable();
    names
}

/// etcd's members, each with how it is, as the founder says.
fn members(cluster: &Cluster) -> Vec<String> {
    let list = ". /usr/k8s/bin/env.sh && ETCDCTL_API=3 /usr/k8s/bin/etcdctl --endpoints $ETCD_ENDPOINTS \
        --cacert /etc/etcd/ssl/ca.pem --cert /etc/etcd/ssl/etcd.pem --key /etc/etcd/ssl/etcd-key.pem member list";
    let output = cluster.host("solo").run(list).ok();
    let member = |line: &str| {
        let fields: Vec<&str> = line.split(", ").collect();
        format!("{} {}", fields[2], fields[1])
    };
    let mut members: Vec<String> = output.lines().map(member).collect();
    members.sort_unstable();
    members
}

/// The program that takes requests for the API on a host, on the port of the virtual address.
fn listener(cluster: &Cluster, host: &str) -> String {
    let ask = "ss -Hltnp 'sport = :443' | grep -o '((\"[a-z]*' | tr -d '(\"' | sort -u";
    cluster.host(host).run(ask).ok()
}

/// How many pods answer on the service's address, as a host sees it. Each answers with its name.
pub fn pods_that_answer(cluster: &Cluster, host: &str) -> usize {
    let service = ask(cluster, "get service web")["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let ask = format!("for i in $(seq 40); do curl -sS --max-time 10 http://{service}/; done | sort -u | wc -l");
    cluster.host(host).run(&ask).ok().parse().unwrap()
}
