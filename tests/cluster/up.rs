//! From nothing to pods that answer.

use serde_json::Value;

use crate::cluster::{MASTERS, cluster, everything_is_healthy};
use crate::support::cluster::Cluster;

/// What kubectl prints as JSON.
fn get(what: &str) -> Value {
    serde_json::from_str(&cluster().kubectl("master1", &format!("get {what} -o json")).ok()).unwrap()
}

pub fn condition<'a>(object: &'a Value, name: &str) -> &'a str {
    let conditions =
        object.pointer("/status/conditions").or(object.get("conditions")).and_then(Value::as_array).unwrap();
    let found = conditions.iter().find(|condition| condition["type"] == name);
    found.map_or("", |condition| condition["status"].as_str().unwrap())
}

#[test]
fn kubectl_shows_every_component_as_healthy_through_the_virtual_address() {
    everything_is_healthy();
    let message = get("componentstatuses");
    let mut names = Vec::new();
    for status in message["items"].as_array().unwrap() {
        assert_eq!(condition(status, "Healthy"), "True", "{status:#}");
        names.push(status["metadata"]["name"].as_str().unwrap());
    }
    names.sort_unstable();
    assert_eq!(names, ["controller-manager", "etcd-0", "etcd-1", "etcd-2", "scheduler"]);
    let server = cluster().kubectl("node1", "config view -o jsonpath={.clusters[0].cluster.server}");
    assert_ne!(server.code(), 0, "a worker has nothing of the administrator's");
}

#[test]
fn every_node_has_joined_with_a_certificate_that_it_requested() {
    everything_is_healthy();
    let nodes = get("nodes");
    let nodes = nodes["items"].as_array().unwrap();
    let names: Vec<_> = nodes.iter().map(|node| node["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["master1", "master2", "master3", "node1"]);
    for (node, name) in nodes.iter().zip(names) {
        assert_eq!(condition(node, "Ready"), "True", "{node:#}");
        let subject = cluster().host(name).run(crate::cluster::KUBELET_SUBJECT).ok();
        assert!(subject.contains("system:nodes") && subject.contains(&format!("system:node:{name}")), "{subject}");
    }
}

#[test]
fn two_replicas_answer_on_their_service_address_and_reach_each_other() {
    everything_is_healthy();
    pods_serve(cluster());
}

/// Pods on two hosts answer on the service's address and reach each other, and kubectl reaches them.
pub fn pods_serve(cluster: &Cluster) {
    let web = crate::cluster::web(cluster);
    let [one, other] = web.pods.as_slice() else { panic!("{web:?}") };
    assert_ne!(one.host, other.host, "on two hosts");
    for name in cluster.names() {
        // each answers with its own name
        let answer = cluster.host(&name).run(&format!("curl -sS --max-time 10 http://{}/", web.service)).ok();
        assert!([&one.name, &other.name].contains(&&answer), "{answer}, from {name}");
    }
    for (from, to) in [(one, other), (other, one)] {
        assert_eq!(cluster.kubectl("master2", &format!("exec {} -- /bin/hostname", from.name)).ok(), from.name);
        cluster.kubectl("master2", &format!("exec {} -- sh -c 'echo to {} > /proc/1/fd/1'", from.name, to.name)).ok();
        let logged = cluster.kubectl("master1", &format!("logs --tail=1 {}", from.name)).ok();
        assert_eq!(logged, format!("to {}", to.name));
        // in the pod's network; the image's own programs can't look up anything
        let ask = format!(
            "pod=$(docker ps -q -f label=io.kubernetes.pod.name={} -f label=io.kubernetes.container.name=web) &&
            nsenter -n -t $(docker inspect -f '{{{{.State.Pid}}}}' $pod) curl -sS --max-time 10 http://{}:8080/",
            from.name, to.address
        );
        assert_eq!(cluster.host(&from.host).run(&ask).ok(), to.name, "from {} to {}", from.host, to.host);
    }
}

#[test]
fn verify_reports_every_host_as_healthy() {
    everything_is_healthy();
    for name in cluster().names() {
        let output = cluster().host(&name).run("kpull verify").ok();
        assert!(output.contains("certificate"), "{output}");
        assert!(!output.contains("Unhealthy"), "{output}");
        for what in MASTERS
            .contains(&name.as_str())
            .then_some(["scheduler", "controller-manager", "etcd master3", "virtual address", "node node1"])
            .iter()
            .flatten()
        {
            assert!(output.lines().any(|line| line.starts_with(what)), "{what} in {output}");
        }
        let json = cluster().host(&name).run("kpull verify --json").ok();
        assert!(json.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{json}");
    }
}
