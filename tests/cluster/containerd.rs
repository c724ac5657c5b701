//! containerd in place of Docker, and both versions of control groups, which systemd makes.

use std::fs;

use serde_json::Value;

use crate::cluster::sites::pods_that_answer;
use crate::cluster::{SOON, all_is_healthy, ask, come_up, items, running_pods};
use crate::support::cluster::{Cluster, Machines};

#[test]
fn pods_run_behind_a_service_with_cgroup_v1() {
    let cluster = pods_run("containerd", "1");
    for name in cluster.names() {
        cluster.host(&name).run("[ -d /sys/fs/cgroup/memory/kubepods.slice/kubepods-besteffort.slice ]").ok();
    }
}

#[test]
fn pods_run_behind_a_service_with_cgroup_v2() {
    let cluster = pods_run("containerd", "2");
    for name in cluster.names() {
        cluster.host(&name).run("[ -d /sys/fs/cgroup/kubepods.slice/kubepods-besteffort.slice ]").ok();
        assert!(cluster.host(&name).run("kpull facts").ok().contains("cgroup = \"v2\""));
    }
}

#[test]
fn the_distribution_s_docker_runs_pods_with_cgroup_v2() {
    pods_run("docker", "2");
}

/// As the documentation has it, "containerd in place of Docker".
#[test]
fn a_node_that_runs_moves_from_docker_to_containerd() {
    let cluster = come_up(Cluster::new(Some("two-hosts")), 2);
    all_is_healthy(&cluster);
    let runtime = |name: &str| {
        let node = ask(&cluster, &format!("get node {name}"));
        node["status"]["nodeInfo"]["containerRuntimeVersion"].as_str().unwrap_or_default().to_owned()
    };
    assert!(runtime("w1").starts_with("docker://"));
    cluster.kubectl("m1", "drain w1 --ignore-daemonsets --force").ok();
    cluster.replace(
        "site.toml",
        "\"kubernetes\", \"flannel\", \"docker\", \"kubelet\"",
        "\"kubernetes\", \"flannel\", \"containerd\", \"kubelet\"",
    );
    cluster.release();
    cluster.converge(SOON);
    cluster.host("w1").crash();
    cluster.host("w1").boot();
    cluster.kubectl("m1", "uncordon w1").ok();
    cluster.wait("a pod runs on the node that moved", SOON, || running_pods(&cluster).len() == 2);
    all_is_healthy(&cluster);
    assert!(runtime("m1").starts_with("docker://") && runtime("w1").starts_with("containerd://"));
    assert_eq!(cluster.host("w1").run("systemctl is-active docker").stdout, "inactive\n");
    for name in cluster.names() {
        assert_eq!(pods_that_answer(&cluster, &name), 2, "from {name}");
    }
}

/// A master and a worker, with a pod on each, which answer on their service's address.
fn pods_run(runtime: &str, cgroup: &'static str) -> Cluster {
    let machines = Machines { cgroup, ..Machines::default() };
    let made = Cluster::with(Some("two-hosts"), machines, |site| {
        let file = site.join("site.toml");
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text.matches("\"docker\"").count(), 2);
        fs::write(file, text.replace("\"docker\"", &format!("\"{runtime}\""))).unwrap();
    });
    let cluster = come_up(made, 2);
    all_is_healthy(&cluster);
    let nodes = ask(&cluster, "get nodes");
    for node in items(&nodes) {
        let version = node["status"]["nodeInfo"]["containerRuntimeVersion"].as_str().unwrap();
        assert!(version.starts_with(&format!("{runtime}://")), "{version}");
        let name = node["metadata"]["name"].as_str().unwrap();
        let output = cluster.kubectl("m1", &format!("get --raw /api/v1/nodes/{name}/proxy/configz")).ok();
        let config: Value = serde_json::from_str(&output).unwrap();
        let config = &config["kubeletconfig"];
        assert_eq!((&config["cgroupDriver"], &config["clusterDomain"]), (&"systemd".into(), &"cluster.local".into()));
        let line = cluster.host(name).run("tr '\\0' '\\n' < /proc/$(pidof kubelet)/cmdline").ok();
        assert!(line.contains("--config=/etc/kubernetes/kubelet.json") && !line.contains("--cgroup-driver"), "{line}");
        assert_eq!(pods_that_answer(&cluster, name), 2, "from {name}");
    }
    let pods = running_pods(&cluster);
    for pod in &pods {
        assert_eq!(cluster.kubectl("m1", &format!("exec {} -- /bin/hostname", pod.name)).ok(), pod.name);
        for other in &pods {
            let ask = format!("exec {} -- wget -qO- http://{}:8080/", pod.name, other.address);
            assert_eq!(cluster.kubectl("m1", &ask).ok(), other.name, "from {} to {}", pod.host, other.host);
        }
    }
    cluster
}
