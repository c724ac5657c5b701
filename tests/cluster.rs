//! The shipped site on real hosts, with a real Kubernetes, by kpull's timer alone. All tests share one cluster; each
//! leaves it well, or the next one waits until it is. Only the tests of `sites`, `containerd`, `hardened` and `old` have
//! clusters of their own.

mod containerd;
mod days;
mod faults;
mod hardened;
mod old;
mod sites;
mod up;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::support::cluster::Cluster;
use serde_json::Value;

const MASTERS: [&str; 3] = ["master1", "master2", "master3"];
/// How long anything may take, on a machine that has much to do.
const SOON: Duration = Duration::from_secs(300);

/// Whom the certificate that a kubelet asked for is for; 1.9 calls the first one otherwise than the next.
const KUBELET_SUBJECT: &str = "cd /var/lib/kubelet/pki && openssl x509 -noout -subject -in $(ls kubelet-client-current.pem kubelet-client.crt 2>&- | head -1)";

/// The cluster: the first test that needs it creates it.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| come_up(Cluster::new(None), 2))
}

/// A cluster from nothing to a pod on each of so many hosts, and how long each step took.
fn come_up(made: Cluster, pods: usize) -> Cluster {
    let cluster = &made;
    let start = Instant::now();
    let reached = |what: &str| eprintln!("{what} after {} s", start.elapsed().as_secs());
    cluster.start();
    cluster.wait("the API answers", 2 * SOON, || ask(cluster, "get nodes")["kind"] == "List");
    reached("the API answers");
    cluster.wait("every node is ready", SOON, || ready_nodes(cluster) == cluster.nodes().len());
    reached("every node is ready");
    deploy(cluster);
    cluster.wait("pods run", SOON, || running_pods(cluster).len() == pods);
    reached("pods run");
    made
}

/// Waits until all hosts are converged and all nodes ready.
fn everything_is_healthy() {
    all_is_healthy(cluster());
}

/// The same, of any cluster.
fn all_is_healthy(cluster: &Cluster) {
    cluster.converge(2 * SOON);
    cluster.wait("every node is ready", SOON, || ready_nodes(cluster) == cluster.nodes().len());
    cluster.wait("kpull finds all well", SOON, || {
        cluster.names().iter().all(|name| cluster.host(name).run("kpull verify").status.success())
    });
}

fn ask(cluster: &Cluster, arguments: &str) -> Value {
    // any master that answers
    let expected =
        |name: String| serde_json::from_str(&cluster.kubectl(&name, &format!("{arguments} -o json")).stdout).ok();
    cluster.masters().into_iter().find_map(expected).unwrap_or_default()
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map_or(&[], Vec::as_slice)
}

fn ready_nodes(cluster: &Cluster) -> usize {
    let is_ready = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
    };
    items(&ask(cluster, "get nodes")).iter().filter(is_ready).count()
}

/// A pod that serves.
#[derive(Debug)]
struct Pod {
    name: String,
    host: String,
    address: String,
}

fn running_pods(cluster: &Cluster) -> Vec<Pod> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pods = ask(cluster, "get pods -l app=web");
    let running = items(&pods)
        .iter()
        .filter(|pod| pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null());
    running
        .map(|pod| Pod {
            name: text(&pod["metadata"]["name"]),
            host: text(&pod["spec"]["nodeName"]),
            address: text(&pod["status"]["podIP"]),
        })
        .collect()
}

/// Two pods on two hosts that serve one page each, and the address of the service before them.
#[derive(Debug)]
struct Web {
    service: String,
    pods: Vec<Pod>,
}

fn web(cluster: &Cluster) -> Web {
    // the API still shows the pods of a host that died a moment ago as running
    let serves = |pod: &Pod| {
        let page = format!("curl -sS --max-time 5 http://{}:8080/", pod.address);
        cluster.host("node1").run(&page).stdout.trim_end() == pod.name
    };
    cluster.wait("two pods serve", SOON, || {
        let pods = running_pods(cluster);
        pods.len() == 2 && pods.iter().all(serves)
    });
    let service = ask(cluster, "get service web")["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let pods = running_pods(cluster);
    // kube-proxy of each host learns of a pod's new address later than the API, and sends some requests to the former one
    let several =
        format!("for each in 1 2 3 4 5 6 7 8; do curl -sS --max-time 5 http://{service}/ && echo || exit 1; done");
    cluster.wait("the service sends requests from every host to both pods and nowhere else", SOON, || {
        cluster.names().iter().all(|name| {
            let output = cluster.host(name).run(&several);
            output.status.success() && pods.iter().all(|pod| output.stdout.lines().any(|line| line == pod.name))
        })
    });
    Web { service, pods }
}

fn deploy(cluster: &Cluster) {
    let master = &cluster.masters()[0];
    cluster.host(master).write("/root/web.yaml", include_str!("cluster/web.yaml"));
    cluster
        .wait("the deployment is taken", SOON, || cluster.kubectl(master, "apply -f /root/web.yaml").status.success());
}
