//! What the handbook gets wrong, and the shipped roles get right. `development/tests.md` has these tests by the rows of the
//! handbook's page.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::OnceLock;

use kpull::document::is_sha256;
use kpull::pki::KeyType;
use serde_json::Value;

use crate::roles::made::{Made, Tree};

const MASTERS: [&str; 3] = ["master1", "master2", "master3"];

/// The trees of the shipped site's hosts.
fn trees() -> &'static BTreeMap<String, Tree> {
    static TREES: OnceLock<BTreeMap<String, Tree>> = OnceLock::new();
    TREES.get_or_init(|| {
        let made = Made::shipped();
        made.site.hosts.keys().map(|host| (host.clone(), made.tree(host, "amd64"))).collect()
    })
}

fn addresses() -> BTreeSet<IpAddr> {
    Made::shipped().site.hosts.values().map(|host| host.address).collect()
}

/// What stands behind the first word of every line that starts with it.
fn after<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines()
        .filter_map(move |line| line.trim().strip_prefix(word)?.strip_prefix(' '))
        .map(|rest| rest.trim_end_matches(';'))
}

fn kubeconfigs(tree: &Tree) -> impl Iterator<Item = (&str, Value)> {
    let files = tree.files().filter(|(path, _)| path.ends_with(".kubeconfig"));
    files.map(|(path, text)| (path, serde_json::from_str(text).unwrap()))
}

#[test]
fn load_balancers_pass_on_to_addresses_of_masters() {
    let masters: Vec<String> = ["101", "102", "103"].map(|end| format!("192.168.1.{end}:6443")).into();
    let haproxy = trees()["master2"].file("etc/haproxy/haproxy.cfg");
    let servers: Vec<&str> = after(haproxy, "server").map(|rest| rest.split(' ').nth(1).unwrap()).collect();
    assert_eq!(servers, masters);
    let tree = Made::with_nginx().tree("master2", "amd64");
    let nginx = tree.file("etc/nginx/nginx.conf");
    let servers: Vec<&str> =
        after(nginx, "server").filter_map(|rest| rest.split(' ').next()).filter(|word| *word != "{").collect();
    assert_eq!(servers, masters);
}

#[test]
fn keepalived_has_one_check_that_needs_no_package() {
    for host in MASTERS {
        let text = trees()[host].file("etc/keepalived/keepalived.conf");
        let names: Vec<&str> = after(text, "vrrp_script").map(|rest| rest.trim_end_matches(" {")).collect();
        let [name] = names[..] else { panic!("{names:?} in {text}") };
        assert!(text.contains(&format!("    track_script {{\n        {name}\n    }}\n")), "{text}");
        assert!(!text.contains("killall"), "{text}");
        let scripts: Vec<&str> = after(text, "script").collect();
        assert_eq!(scripts, ["\"/bin/bash -c '</dev/tcp/127.0.0.1/443'\""]);
    }
}

#[test]
fn a_load_balancer_that_is_down_has_less_priority_than_any_other() {
    let of = |host: &str, word: &str| -> i32 {
        after(trees()[host].file("etc/keepalived/keepalived.conf"), word).next().unwrap().parse().unwrap()
    };
    for down in MASTERS {
        for up in MASTERS.into_iter().filter(|up| *up != down) {
            assert!(of(down, "priority") + of(down, "weight") < of(up, "priority"), "{down} is down, {up} is not");
        }
    }
}

#[test]
fn a_second_run_has_nothing_left_to_do() {
    for (host, tree) in trees() {
        assert!(tree.left.is_empty(), "{host}: {:?}", tree.left);
        assert_eq!(tree.file("etc/hosts").matches("k8s-api.virtual.local").count(), 1);
    }
}

#[test]
fn firewalld_is_on_everywhere_and_opens_little_else_than_the_api_to_all() {
    for (host, tree) in trees() {
        let catalog = Made::shipped().catalog(host, "amd64");
        let first = catalog.items.iter().find(|item| item.about.kind == "unit").unwrap();
        assert_eq!(first.id, "unit:firewalld.service", "{host}: before anything else runs");
        let zone = tree.file("etc/firewalld/zones/public.xml");
        let open: Vec<&str> =
            zone.lines().filter(|line| line.starts_with("  <service") || line.starts_with("  <port")).collect();
        let mut wanted = ["ssh", "http", "https"].map(|name| format!("  <service name=\"{name}\"/>")).to_vec();
        wanted.extend(MASTERS.contains(&host.as_str()).then(|| "  <port port=\"443\" protocol=\"tcp\"/>".to_owned()));
        assert_eq!(open, wanted, "{host}");
        for rule in zone.split("<rule ").skip(1) {
            let source = rule.split("<source address=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
            assert!(addresses().contains(&source.parse().unwrap()), "{host}: {rule}");
        }
    }
}

#[test]
fn nothing_talks_to_an_api_server_without_tls_and_a_name() {
    for (host, tree) in trees() {
        for (path, text) in tree.files() {
            assert!(!text.contains(":8080"), "{host}: {path}:\n{text}");
        }
        for (path, config) in kubeconfigs(tree) {
            let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
            assert!(cluster["server"].as_str().unwrap().starts_with("https://"), "{host}: {path}");
            assert_eq!(cluster["certificate-authority"], "/etc/kubernetes/ssl/ca.pem", "{host}: {path}");
            assert!(user["client-certificate"].is_string() || user["token"].is_string(), "{host}: {path}");
        }
    }
    for host in MASTERS {
        let tree = &trees()[host];
        let flags = tree.flags("kube-apiserver");
        assert_eq!((flags["insecure-port"], flags["anonymous-auth"]), ("0", "false"), "{host}");
        for component in ["kube-controller-manager", "kube-scheduler"] {
            let flags = tree.flags(component);
            assert!(!flags.contains_key("master"), "{host}");
            assert_eq!(
                (flags["address"], flags["kubeconfig"]),
                ("127.0.0.1", &*format!("/etc/kubernetes/{component}.kubeconfig"))
            );
        }
    }
}

#[test]
fn hosts_that_are_no_masters_reach_the_api_through_the_virtual_address() {
    let servers = |host: &str| -> BTreeMap<String, String> {
        let server = |config: &Value| config["clusters"][0]["cluster"]["server"].as_str().unwrap().to_owned();
        kubeconfigs(&trees()[host]).map(|(path, config)| (path.to_owned(), server(&config))).collect()
    };
    let api = "https://k8s-api.virtual.local:443";
    assert_eq!(servers("node1").values().collect::<Vec<_>>(), [api, api]);
    for (path, server) in servers("master2") {
        let is_own = path.contains("controller-manager") || path.contains("scheduler");
        assert_eq!(server, if is_own { "https://192.168.1.102:6443" } else { api }, "{path}");
    }
    assert!(trees()["node1"].file("etc/hosts").contains("\n192.168.1.201 k8s-api.virtual.local\n"));
}

#[test]
fn service_accounts_have_their_own_key_and_the_authoritys_is_only_where_it_signs() {
    for host in MASTERS {
        let tree = &trees()[host];
        let flags = tree.flags("kube-controller-manager");
        let [signs, tokens] = ["cluster-signing-key-file", "service-account-private-key-file"].map(|flag| flags[flag]);
        assert_eq!(tree.file(&signs[1..]), "<secret pki/kubernetes.key>");
        assert_eq!(tree.file(&tokens[1..]), "<secret pki/service-account.key>");
        let checks = tree.flags("kube-apiserver")["service-account-key-file"];
        let public = &Made::shipped().site.files.get("pki/service-account.pub").unwrap()[..];
        assert_eq!(tree.file(&checks[1..]).as_bytes(), public);
        assert!(!tree.flags("kube-apiserver").values().any(|value| *value == signs), "{host}");
    }
    let asked = Made::shipped().catalog("node1", "amd64").secrets;
    let foreign: Vec<_> =
        asked.iter().filter(|name| name.starts_with("pki/") && !name.starts_with("pki/node1/")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}

#[test]
fn the_bootstrap_token_is_a_secret_of_the_cluster_that_can_expire() {
    let token = Made::shipped().template("master1", "kubelet-bootstrap", "token.yaml");
    assert!(token.contains("\ntype: bootstrap.kubernetes.io/token\n"), "{token}");
    assert!(token.contains("token-secret: \"<secret bootstrap-token>\"") && !token.contains("expiration"), "{token}");
    let token = Made::five().template("m1", "kubelet-bootstrap", "token.yaml");
    assert!(token.contains("\n  expiration: \"2099-01-01T00:00:00Z\"\n"), "{token}");
    for (host, tree) in trees() {
        let config = tree.file("etc/kubernetes/bootstrap.kubeconfig");
        assert!(config.contains("\"kpull0.<secret bootstrap-token>\""), "{host}: {config}");
        assert_eq!(tree.entries["etc/kubernetes/bootstrap.kubeconfig"].mode, 0o600, "{host}");
        assert!(!tree.entries.contains_key("etc/kubernetes/token.csv"), "{host}");
    }
}

#[test]
fn pods_and_services_have_one_network_each_everywhere() {
    let network = &Made::shipped().fields("master1", "flannel", "etcd_key")["value"];
    let network: Value = serde_json::from_str(network.as_str().unwrap()).unwrap();
    assert_eq!(network["Network"], "172.30.0.0/16");
    for (host, tree) in trees() {
        assert_eq!(tree.flags("kube-proxy")["cluster-cidr"], "172.30.0.0/16", "{host}");
        assert_eq!(tree.flags("kubelet")["cluster-dns"], "10.254.0.2", "{host}");
    }
    for host in MASTERS {
        let (api, controllers) =
            (trees()[host].flags("kube-apiserver"), trees()[host].flags("kube-controller-manager"));
        assert_eq!(controllers["cluster-cidr"], "172.30.0.0/16");
        let service = "service-cluster-ip-range";
        assert_eq!((api[service], controllers[service]), ("10.254.0.0/16", "10.254.0.0/16"));
    }
}

#[test]
fn the_cluster_approves_the_certificate_requests_of_kubelets() {
    let token = Made::shipped().template("master1", "kubelet-bootstrap", "token.yaml");
    let approval = Made::shipped().template("master1", "kubelet-bootstrap", "approval.yaml");
    let group = token.split("auth-extra-groups: ").nth(1).unwrap().trim();
    for (role, who) in [
        ("system:node-bootstrapper", group),
        ("system:certificates.k8s.io:certificatesigningrequests:nodeclient", group),
        ("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "\"system:nodes\""),
    ] {
        let is_bound = |part: &str| {
            part.contains(&format!("  name: {role}\n")) && part.contains(&format!("kind: Group, name: {who} }}"))
        };
        assert!(approval.split("---\n").any(is_bound), "{role} to {who} in {approval}");
    }
    let controllers = trees()["master1"].flags("kube-controller-manager")["controllers"];
    assert!(controllers.starts_with('*'), "with the one that approves: {controllers}");
}

#[test]
fn the_command_line_of_etcd_does_not_depend_on_whether_its_cluster_is_new() {
    for host in MASTERS {
        let tree = &trees()[host];
        let flags = tree.flags("etcd");
        assert!(
            !flags.keys().any(|flag| flag.starts_with("initial-cluster") && *flag != "initial-cluster-token"),
            "{flags:?}"
        );
        let env = Made::shipped().fields(host, "etcd", "etcd_member")["env"].as_str().unwrap().to_owned();
        assert!(tree.file("etc/systemd/system/etcd.service").contains(&format!("\nEnvironmentFile={env}\n")));
    }
}

#[test]
fn etcd_has_one_authority_and_each_member_a_certificate_of_its_own() {
    let made = Made::shipped();
    let authority = String::from_utf8(made.site.files.get("pki/etcd.pem").unwrap().to_vec()).unwrap();
    let mut keys = BTreeSet::new();
    for (host, address, name) in [
        ("master1", "192.168.1.101", "etcd3"),
        ("master2", "192.168.1.102", "etcd1"),
        ("master3", "192.168.1.103", "etcd2"),
    ] {
        let tree = &trees()[host];
        for (component, flag) in [
            ("etcd", "trusted-ca-file"),
            ("etcd", "peer-trusted-ca-file"),
            ("flanneld", "etcd-cafile"),
            ("kube-apiserver", "etcd-cafile"),
        ] {
            assert_eq!(tree.file(&tree.flags(component)[flag][1..]), authority, "{host}: {component} --{flag}");
        }
        let certificate = made.certificate(host, "etcd");
        let others: Vec<_> = certificate.ip.iter().filter(|ip| !ip.is_loopback()).map(ToString::to_string).collect();
        assert_eq!((others, &*certificate.common_name), (vec![address.to_owned()], name), "{host}");
        keys.insert(certificate.public);
    }
    assert_eq!(keys.len(), 3);
}

#[test]
fn no_role_disables_selinux_and_load_balancers_get_only_the_right_to_connect() {
    let mut allowed = Vec::new();
    for (path, text) in Made::shipped().site.files.iter().filter(|(path, _)| path.ends_with("/role.toml")) {
        let text = String::from_utf8_lossy(text).to_lowercase();
        for word in ["setenforce", "/etc/selinux", "selinux=0", "permissive", "semanage", "chcon"] {
            assert!(!text.contains(word), "{path}: {word}");
        }
        assert!(!text.contains("setsebool"), "{path}");
        let lines = text.lines().filter_map(|line| line.strip_prefix("boolean = "));
        allowed.extend(lines.map(str::to_owned));
    }
    assert_eq!(allowed, ["\"haproxy_connect_any\"", "\"httpd_can_network_connect\""]);
}

#[test]
fn nodes_are_restricted_and_ordinary_pods_are_not() {
    for host in MASTERS {
        let flags = trees()[host].flags("kube-apiserver");
        let admission: Vec<&str> = flags["admission-control"].split(',').collect();
        assert!(admission.contains(&"NodeRestriction") && !admission.contains(&"SecurityContextDeny"), "{admission:?}");
        assert_eq!(flags["authorization-mode"], "Node,RBAC");
    }
}

#[test]
fn api_servers_and_kubelets_agree_on_privileged_pods() {
    let of = |component: &'static str| {
        let units = trees()
            .values()
            .filter(move |tree| tree.entries.contains_key(&format!("etc/systemd/system/{component}.service")));
        units.map(move |tree| tree.flags(component)["allow-privileged"])
    };
    let message: BTreeSet<&str> = of("kube-apiserver").chain(of("kubelet")).collect();
    assert_eq!(message.len(), 1, "{message:?}");
}

#[test]
fn every_host_uses_its_own_name_and_address() {
    for (host, tree) in trees() {
        let address = Made::shipped().site.hosts[host].address.to_string();
        let (kubelet, proxy) = (tree.flags("kubelet"), tree.flags("kube-proxy"));
        for (flags, flag) in
            [(&kubelet, "node-ip"), (&kubelet, "address"), (&proxy, "bind-address"), (&tree.flags("flanneld"), "iface")]
        {
            assert_eq!(flags[flag], address, "{host}: --{flag}");
        }
        assert_eq!((kubelet["hostname-override"], proxy["hostname-override"]), (host.as_str(), host.as_str()));
        if MASTERS.contains(&host.as_str()) {
            assert_eq!(tree.flags("kube-apiserver")["advertise-address"], address);
            assert_eq!(tree.flags("etcd")["initial-advertise-peer-urls"], format!("https://{address}:2380"));
            assert_eq!(
                after(tree.file("etc/keepalived/keepalived.conf"), "unicast_src_ip").collect::<Vec<_>>(),
                [address]
            );
        }
    }
}

#[test]
fn every_artifact_has_a_digest_and_no_role_downloads_by_itself() {
    let made = Made::shipped();
    for (name, artifact) in &made.site.artifacts {
        assert!(!artifact.pins.is_empty() && artifact.pins.values().all(|pin| is_sha256(&pin.sha256)), "{name}");
    }
    for (path, text) in
        made.site.files.iter().filter(|(path, _)| path.starts_with("roles/") && !path.contains("/flags/"))
    {
        let text = String::from_utf8_lossy(text);
        assert!(!text.contains("curl") && !text.contains("wget"), "{path}");
    }
}

#[test]
fn certificates_have_ecdsa_keys_and_live_a_year() {
    for (host, vars) in &Made::shipped().site.hosts {
        let certificates = Made::shipped().catalog(host, "amd64").items;
        let names = certificates.iter().filter(|item| item.id.kind() == "certificate").map(|item| item.id.key());
        for name in names {
            let certificate = Made::shipped().certificate(host, name);
            let days = certificate.not_after.duration_since(certificate.not_before).as_hours() / 24;
            assert_eq!(
                (certificate.key_type, days),
                (Some(KeyType::EcdsaP256), 365),
                "{host}: {name} of {:?}",
                vars.roles
            );
        }
    }
}
