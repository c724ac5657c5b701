//! The shipped site on real hosts, with a real Kubernetes, by kpull's timer alone.

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/lab.rs"]
mod lab;

use std::time::Duration;

use cluster::Cluster;

#[test]
fn the_cluster_comes_up_from_nothing_by_the_timer_alone() {
    let cluster = Cluster::new("handbook");
    cluster.start();
    cluster.converge(Duration::from_secs(600));
    let ssl = "/etc/etcd/ssl";
    let health = format!(
        "ETCDCTL_API=3 /usr/k8s/bin/etcdctl --endpoints https://127.0.0.1:2379 --cacert {ssl}/ca.pem --cert {ssl}/etcd.pem \
        --key {ssl}/etcd-key.pem endpoint health --cluster 2>&1"
    );
    let told = cluster.host("master1").run(&health).ok();
    assert_eq!(told.matches("is healthy").count(), 3, "{told}");
}
