//! The shipped roles in other sites: one host that is everything, five etcd members with another address plan, and where else
//! etcd, masters and pods may be.

use std::collections::BTreeSet;
use std::fs;

use serde_json::json;

use crate::roles::made::{Content, Entry, Made};

/// What the site's hosts install, and artifacts.toml has no pin for arm64 of.
const NOT_PINNED: [&str; 1] = ["etcd"];

#[track_caller]
fn names(made: &Made, host: &str, certificate: &str) -> BTreeSet<String> {
    let certificate = made.certificate(host, certificate);
    certificate.dns.into_iter().chain(certificate.ip.iter().map(ToString::to_string)).collect()
}

#[track_caller]
fn has(all: &BTreeSet<String>, names: &[&str]) {
    let missing: Vec<_> = names.iter().filter(|name| !all.contains(**name)).collect();
    assert!(missing.is_empty(), "{missing:?} is not in {all:?}");
}

#[test]
fn one_host_can_be_the_whole_cluster() {
    let made = Made::new(Some("one-master"), |_| {});
    made.kpull("check").exits(0);
    let tree = made.tree("solo", "amd64");
    let member = made.fields("solo", "etcd", "etcd_member");
    assert_eq!(member["members"], json!({ "etcd1": "https://10.20.0.10:2380" }));
    assert_eq!((&member["founders"], &member["endpoints"]), (&json!(["etcd1"]), &json!([])));
    let flags = tree.flags("kube-apiserver");
    assert_eq!((flags["apiserver-count"], flags["etcd-servers"]), ("1", "https://10.20.0.10:2379"));
    assert_eq!(flags["service-cluster-ip-range"], "10.22.0.0/16");
    let known =
        ["10.20.0.10", "10.22.0.1", "127.0.0.1", "solo", "api.solo.example", "kubernetes.default.svc.solo.local"];
    has(&names(&made, "solo", "kube-apiserver"), &known);
    has(&names(&made, "solo", "etcd"), &["10.20.0.10", "127.0.0.1", "etcd1"]);
    let flags = tree.flags("kubelet");
    assert_eq!((flags["cluster-dns"], flags["cluster-domain"]), ("10.22.0.2", "solo.local"));
    assert!(tree.file("etc/kubernetes/bootstrap.kubeconfig").contains("\"https://api.solo.example:6443\""));
    assert_eq!(tree.flags("kube-controller-manager")["cluster-cidr"], "10.21.0.0/16");
    assert!(tree.file("etc/hosts").contains("\n10.20.0.10 solo etcd1\n10.20.0.10 api.solo.example\n"));
    assert!(!tree.entries.keys().any(|path| path.contains("haproxy") || path.contains("keepalived")));
}

#[test]
fn five_members_make_one_etcd_and_three_of_them_are_masters() {
    let made = Made::five();
    made.kpull("check").exits(0);
    let members = json!({
        "member1": "https://10.30.0.11:2380", "member2": "https://10.30.0.12:2380", "member3": "https://10.30.0.13:2380",
        "member4": "https://10.30.0.14:2380", "member5": "https://10.30.0.15:2380",
    });
    for host in ["m1", "m2", "m3", "e4", "e5"] {
        assert_eq!(made.fields(host, "etcd", "etcd_member")["members"], members, "{host}");
    }
    let endpoints = "https://10.30.0.14:2379,https://10.30.0.15:2379,https://10.30.0.11:2379,https://10.30.0.12:2379,https://10.30.0.13:2379";
    for host in ["m1", "m2", "m3"] {
        let tree = made.tree(host, "amd64");
        let flags = tree.flags("kube-apiserver");
        assert_eq!((flags["apiserver-count"], flags["etcd-servers"]), ("3", endpoints), "{host}");
        let known = [
            "10.30.0.11",
            "10.30.0.12",
            "10.30.0.13",
            "10.30.0.100",
            "10.96.0.1",
            "m1",
            "m2",
            "m3",
            "api.five.example",
        ];
        let names = names(made, host, "kube-apiserver");
        has(&names, &known);
        assert!(!names.contains("10.30.0.14"), "{names:?}");
        assert!(tree.file("etc/nginx/nginx.conf").contains("        listen 8443;\n"));
        let servers = "        server 10.30.0.11:6443 max_fails=2 fail_timeout=30s;\n        server 10.30.0.12:6443 max_fails=2 fail_timeout=30s;\n        server 10.30.0.13:6443 max_fails=2 fail_timeout=30s;\n    }";
        assert!(tree.file("etc/nginx/nginx.conf").contains(servers), "{host}");
        assert!(tree.file("etc/keepalived/keepalived.conf").contains("        10.30.0.100/24\n"), "{host}");
    }
    // a host that is only a member has nothing of Kubernetes
    let tree = made.tree("e4", "amd64");
    assert!(
        !tree.entries.keys().any(|path| path.contains("etc/kubernetes") || path.contains("kube-")),
        "{:?}",
        tree.entries.keys()
    );
    assert!(tree.file("etc/firewalld/zones/public.xml").contains("port=\"2380\""));
}

#[test]
fn workers_of_another_address_plan_have_their_labels_and_taints() {
    let tree = Made::five().tree("w1", "amd64");
    let flags = tree.flags("kubelet");
    assert_eq!(
        (flags["cluster-dns"], flags["cluster-domain"], flags["node-ip"]),
        ("10.96.0.10", "five.example", "10.30.0.21")
    );
    assert_eq!(flags["node-labels"], "disk=ssd,example.org/rack=r1");
    assert_eq!(flags["register-with-taints"], "dedicated=db:NoSchedule,slow=true:PreferNoSchedule");
    assert_eq!(tree.flags("kube-proxy")["cluster-cidr"], "10.64.0.0/12");
    assert!(tree.file("etc/kubernetes/kube-proxy.kubeconfig").contains("\"https://api.five.example:8443\""));
    let tree = Made::five().tree("w2", "amd64");
    let flags = tree.flags("kubelet");
    assert!(!flags.contains_key("node-labels") && !flags.contains_key("register-with-taints"), "{flags:?}");
}

#[test]
fn hosts_of_the_shipped_cluster_keep_all_settings_with_the_role_hardening() {
    let made = Made::new(None, |site| {
        let file = site.join("site.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("\"base\", ", "\"base\", \"hardening\", ")).unwrap();
    });
    let checked = made.kpull("check").exits(0);
    assert_eq!(checked.stderr, "");
    for host in made.site.hosts.keys() {
        let [tree, before] = [&made, Made::shipped()].map(|made| {
            // every Debian has this group
            made.tree_with(host, "amd64", |root| {
                fs::create_dir(root.join("etc")).unwrap();
                fs::write(root.join("etc/group"), "root:x:0:\nshadow:x:42:\n").unwrap();
            })
        });
        assert!(tree.left.is_empty(), "{host}: {:?}", tree.left);
        // each site has its own certificates
        let is_own = |entry: &Entry| matches!(&entry.what, Content::File(text) if text.contains("-----BEGIN "));
        for (path, entry) in before.entries.iter().filter(|(_, entry)| !is_own(entry)) {
            assert_eq!(tree.entries.get(path).map(|entry| &entry.what), Some(&entry.what), "{host}: {path}");
        }
        let loose = tree.file("etc/sysctl.d/91-kpull-net.ipv4.conf.all.rp_filter.conf");
        assert_eq!(loose, "net.ipv4.conf.all.rp_filter = 2\n", "{host}");
        let blocked = tree.file("etc/modprobe.d/hardening.conf");
        for module in ["br_netfilter", "overlay"] {
            assert!(tree.file(&format!("etc/modules-load.d/kpull-{module}.conf")).contains(module), "{host}");
            assert!(!blocked.contains(module), "{host}: {blocked}");
        }
        assert!(tree.file("etc/ssh/sshd_config.d/10-hardening.conf").contains("X11Forwarding no"), "{host}");
    }
    // what both set is a conflict
    let file = made.path().join("site.toml");
    let text = fs::read_to_string(&file).unwrap() + "[vars.hardening.sysctl]\n\"net.ipv4.ip_forward\" = 0\n";
    fs::write(&file, text).unwrap();
    let error = made.kpull("check --json").exits(1).events("error").remove(0).to_string();
    assert!(error.contains("roles/hardening/role.toml") && error.contains("roles/base/role.toml"), "{error}");
}

#[test]
fn nothing_is_for_amd64_alone_where_there_are_pins_for_arm64() {
    let pinned = Made::new(Some("five-members"), |site| {
        let file = site.join("artifacts.toml");
        let mut text = fs::read_to_string(&file).unwrap();
        for name in NOT_PINNED {
            assert!(!text.contains(&format!("[{name}.arm64]")), "{name} is pinned now");
            let digest = "0".repeat(64);
            text += &format!(
                "[{name}.arm64]\nurl = \"https://stand-in.example/{name}-arm64.tar.gz\"\nsha256 = \"{digest}\"\n"
            );
        }
        fs::write(file, text).unwrap();
    });
    for host in pinned.site.hosts.keys() {
        for item in pinned.catalog(host, "arm64").items {
            assert!(!format!("{:?}", item.resource).contains("amd64"), "{host}: {:?}", item);
        }
        for (path, text) in pinned.tree(host, "arm64").files() {
            assert!(!text.contains("amd64"), "{host}: {path}:\n{text}");
        }
    }
    // without it etcd before 3.5 refuses to start
    let of_etcd = |arch| {
        let tree = pinned.tree("m1", arch);
        let unit = tree.file("etc/systemd/system/etcd.service");
        unit.lines().filter(|line| line.starts_with("Environment=")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of_etcd("arm64"), ["Environment=ETCD_UNSUPPORTED_ARCH=arm64"]);
    assert_eq!(of_etcd("amd64"), [""; 0]);
}

/// A site in which each of these hosts sets flannel's network in etcd, and each of the others waits for it.
fn layout(name: &str, writers: &[&str], waiters: &[&str]) -> Made {
    let made = Made::new(Some(name), |_| {});
    made.kpull("check").exits(0);
    let key = "etcd_key:/kubernetes/network/config";
    for host in made.site.hosts.keys().map(String::as_str) {
        let catalog = made.catalog(host, "amd64");
        let at = |id: &str| catalog.items.iter().position(|item| item.id == id);
        assert_eq!(at(key).is_some(), writers.contains(&host) || waiters.contains(&host), "{host}");
        let Some(place) = at(key) else { continue };
        assert_eq!(catalog.items[place].about.is_gate, waiters.contains(&host), "{host}");
        let chain = [place, at("unit:flanneld.service").unwrap(), at("unit:docker.service").unwrap()];
        assert!(chain.is_sorted(), "{host}: {chain:?}");
        // what has nothing to do with pods does not wait for it
        let load_balancer = at("unit:keepalived.service");
        assert!(load_balancer.is_none_or(|at| at < place), "{host}");
        assert_eq!(made.tree(host, "amd64").left, [""; 0], "{host}");
    }
    made
}

#[test]
fn etcd_has_its_own_hosts_and_masters_configure_the_network() {
    let made = layout("etcd-apart", &["m1", "m2"], &["w1"]);
    let endpoints = "https://10.40.0.11:2379,https://10.40.0.12:2379,https://10.40.0.13:2379";
    let tree = made.tree("m1", "amd64");
    assert_eq!(tree.flags("kube-apiserver")["etcd-servers"], endpoints);
    assert_eq!(tree.flags("flanneld")["etcd-endpoints"], endpoints);
    assert!(!tree.entries.contains_key("etc/systemd/system/etcd.service"));
    let tree = made.tree("e1", "amd64");
    assert!(!tree.entries.keys().any(|path| path.contains("kube") && !path.starts_with("etc/profile.d")));
}

#[test]
fn masters_run_no_pods_and_workers_configure_the_network() {
    let made = layout("quiet-masters", &["w1", "w2"], &[]);
    let tree = made.tree("m1", "amd64");
    for program in ["flanneld", "docker", "kubelet", "kube-proxy"] {
        assert!(!tree.entries.contains_key(&format!("etc/systemd/system/{program}.service")), "{program}");
    }
}

#[test]
fn one_master_and_one_worker_are_a_cluster() {
    let made = layout("two-hosts", &["m1"], &["w1"]);
    assert_eq!(made.tree("w1", "amd64").flags("flanneld")["etcd-endpoints"], "https://10.60.0.21:2379");
}

#[test]
fn a_worker_may_be_a_member_of_etcd() {
    let made = layout("member-worker", &["m1", "m2", "w1"], &["w2"]);
    let member = made.fields("w1", "etcd", "etcd_member");
    assert_eq!(member["endpoints"], json!(["https://10.70.0.21:2379", "https://10.70.0.22:2379"]));
    let tree = made.tree("w1", "amd64");
    assert!(tree.file("etc/firewalld/zones/public.xml").contains("port=\"2380\""));
    assert!(!tree.entries.contains_key("etc/systemd/system/kube-apiserver.service"));
}

#[test]
fn two_clusters_in_one_repository_share_nothing() {
    let (blue, green) = (Made::new(Some("two-hosts"), |_| {}), Made::new(Some("etcd-apart"), |_| {}));
    let repository = tempfile::tempdir().unwrap();
    for (made, path) in [(&blue, "blue"), (&green, "green")] {
        let at = repository.path().join(path);
        assert!(std::process::Command::new("cp").arg("-r").args([made.path(), at.clone()]).status().unwrap().success());
        let output = crate::support::site::kpull(&["check", "--site", at.to_str().unwrap()]).exits(0).stdout;
        assert_eq!(output.contains("e1 "), path == "green", "{output}");
    }
    let names = |made: &Made| made.site.hosts.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&blue).intersection(&names(&green)).count(), 2, "even hosts of one name are others");
    let authority = |made: &Made| made.site.files.get("pki/etcd.pem").unwrap().to_vec();
    assert_ne!(authority(&blue), authority(&green));
}

#[test]
fn a_key_that_no_host_of_a_site_writes_is_reported_with_the_role_and_a_host() {
    for (file, from, to, what) in [
        (
            "roles/flannel/role.toml",
            "writers = \"{{ writers | map(attribute='name') | list }}\"",
            "writers = []",
            "no host creates `etcd_key:/kubernetes/network/config`, but the role flannel of m1 needs it",
        ),
        (
            "roles/flannel/role.toml",
            "[[etcd_key]]\n",
            "[[etcd_key]]\nwhen = \"'etcd' in host.roles\"\n",
            "no host creates `etcd_key:/kubernetes/network/config`, but the role flannel of m1 needs it",
        ),
        (
            "site.toml",
            "\"kubelet-bootstrap\", ",
            "",
            "no host creates `kube_object:ClusterRoleBinding/kpull:kubelet-bootstrap`, but the role kubelet of m1 needs it",
        ),
    ] {
        let made = Made::new(Some("etcd-apart"), |_| {});
        let path = made.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file}: {from}");
        fs::write(&path, text.replace(from, to)).unwrap();
        let output = made.kpull("check").exits(1).stderr;
        assert!(output.contains(what) && output.contains("the same on"), "{output}");
    }
}

#[test]
fn an_error_in_the_address_plan_is_reported_where_it_is() {
    let made = Made::shipped();
    let copy = tempfile::tempdir().unwrap();
    let at = copy.path().join("site");
    assert!(std::process::Command::new("cp").arg("-r").args([made.path(), at.clone()]).status().unwrap().success());
    let (site, master2) = ("site.toml", "host_vars/master2.toml");
    for (file, from, to, what, line) in [
        (site, "192.168.1.201", "192.168.1.102", "`vip` is the address of the host master2", "vip ="),
        (site, "192.168.1.201", "192.168.2.201", "is outside the network of master1", "vip ="),
        (site, "vip_prefix = 24", "vip_prefix = 33", "a prefix of 33 is longer than the address", "vip_prefix ="),
        (site, "172.30.0.0/16", "10.0.0.0/8", "and `pod_network` 10.0.0.0/8 overlap", "service_network ="),
        (site, "172.30.0.0/16", "192.168.0.0/16", "master1 has an address in `pod_network`", "pod_network ="),
        (site, "10.254.0.0/16", "192.168.1.0/24", "has an address in `service_network`", "service_network ="),
        (site, "172.30.0.0/16", "172.30.0.0", "`pod_network` is a network without a prefix", "pod_network ="),
        (site, "172.30.0.0/16", "172.30.0.0/33", "is a network with an impossible prefix", "pod_network ="),
        (
            site,
            "service_network | cidr_host(2)",
            "pod_network | cidr_host(2)",
            "is outside `service_network`",
            "dns_ip =",
        ),
        (site, "apiserver_port = 6443", "apiserver_port = 2379", "both listen at 2379/tcp", ""),
        (master2, "192.168.1.102", "192.168.1.101", "master1 and master2 have the same address", "address ="),
        (master2, "\"etcd1\"", "\"etcd3\"", "are both the member `etcd3` of etcd", "name ="),
        ("host_vars/node1.toml", "groups = [\"nodes\"]", "", "node1 has no role", "address ="),
    ] {
        let text = fs::read_to_string(at.join(file)).unwrap();
        assert!(text.contains(from), "{file}: {from}");
        fs::write(at.join(file), text.replace(from, to)).unwrap();
        let output = crate::support::site::kpull(&["check", "--site", at.to_str().unwrap()]).exits(1).stderr;
        let number = text.lines().position(|known| known.starts_with(line)).unwrap() + 1;
        let place = if line.is_empty() { "kube-apiserver/role.toml:".to_owned() } else { format!("{file}:{number}:") };
        assert!(output.contains(what) && output.contains(&place), "{to}: {what}, {place}\n{output}");
        fs::write(at.join(file), text).unwrap();
    }
    made.kpull("check").exits(0);
}
