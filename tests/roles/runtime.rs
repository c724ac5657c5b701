//! What runs containers: which control groups it needs, and what goes with it.

use std::path::Path;
use std::sync::Arc;

use kpull::document::Files;
use kpull::host::os::Os;
use kpull::resolve::{Facts, resolve};
use kpull::secret::SecretStore;
use kpull::site::Site;

use crate::roles::made::{Made, facts};

/// What is wrong with a host that has these control groups: messages with their places and advice.
fn refused(site: &Arc<Site>, host: &str, cgroup: &str) -> Vec<[String; 3]> {
    let facts = Facts { cgroup: cgroup.to_owned(), ..facts(site, host, "amd64") };
    let errors =
        resolve(site, host, &facts, &SecretStore::encrypted()).err().into_iter().flat_map(|error| error.each());
    let parts = |error: kpull::error::Error| {
        let place = error.place().map(ToString::to_string).unwrap_or_default();
        [error.to_string(), place, error.advice().unwrap_or_default().to_owned()]
    };
    errors.map(parts).collect()
}

/// The shipped site with other texts in its files.
fn edited(edits: &[(&str, &str, &str)]) -> Made {
    Made::new(None, |site| edit(site, edits))
}

fn edit(site: &Path, edits: &[(&str, &str, &str)]) {
    for (path, old, new) in edits {
        let text = std::fs::read_to_string(site.join(path)).unwrap();
        assert!(text.contains(old), "{path} has no {old}");
        std::fs::write(site.join(path), text.replace(old, new)).unwrap();
    }
}

#[test]
fn the_shipped_versions_are_refused_on_cgroup_v2_and_nowhere_else() {
    let made = Made::shipped();
    for host in made.site.hosts.keys() {
        for fine in ["v1", "hybrid", "unknown"] {
            assert_eq!(refused(&made.site, host, fine), Vec::<[String; 3]>::new(), "{host} with {fine}");
        }
        let reported = refused(&made.site, host, "v2");
        let whats: Vec<&str> = reported.iter().map(|[what, ..]| what.as_str()).collect();
        let booted = "needs cgroup v1, and this host has booted with v2";
        assert_eq!(whats, [format!("Docker 1.13.1 {booted}"), format!("kubelet 1.9.2 {booted}")], "{host}");
        for [_, place, help] in &reported {
            assert!(place.starts_with("roles/docker/role.toml:5:") || place.starts_with("roles/kubelet/role.toml:"));
            assert!(help.starts_with("add `systemd.unified_cgroup_hierarchy=0` to the kernel command line and reboot"));
        }
    }
}

#[test]
fn check_reports_cgroup_v2_if_facts_are_recorded() {
    let made = edited(&[]);
    let assumed = facts(&made.site, "node1", "amd64");
    let record = |cgroup: &str| {
        let recorded = Facts { cgroup: cgroup.to_owned(), ..assumed.clone() };
        std::fs::create_dir_all(made.path().join("facts")).unwrap();
        std::fs::write(made.path().join("facts/node1.toml"), toml::to_string(&recorded).unwrap()).unwrap();
    };
    record("v1");
    made.kpull("check").exits(0);
    record("v2");
    let output = made.kpull("check").exits(1).stderr;
    assert!(
        output.contains("kubelet 1.9.2 needs cgroup v1") && output.contains("Docker 1.13.1 needs cgroup v1"),
        "{output}"
    );
    assert!(output.contains("systemd.unified_cgroup_hierarchy=0"), "{output}");
}

#[test]
fn the_distribution_s_docker_and_a_newer_kubernetes_are_accepted_on_cgroup_v2() {
    let made = edited(&[
        ("site.toml", "[groups.masters]\n", "[vars.docker]\npackage = \"docker.io\"\n\n[groups.masters]\n"),
        ("artifacts.toml", "version = \"1.9.2\"", "version = \"1.20.2\""),
    ]);
    for host in made.site.hosts.keys() {
        assert_eq!(refused(&made.site, host, "v2"), Vec::<[String; 3]>::new(), "{host}");
    }
}

/// The shipped site with containerd in place of Docker, and a Kubernetes that goes with it.
fn with_containerd() -> Made {
    edited(&[
        ("site.toml", "\"docker\"", "\"containerd\""),
        ("artifacts.toml", "version = \"1.9.2\"", "version = \"1.20.2\""),
    ])
}

#[test]
fn containerd_replaces_docker_if_the_roles_say_so() {
    let made = with_containerd();
    let tree = made.tree("node1", "amd64");
    let config: toml::Table = tree.file("etc/containerd/config.toml").parse().unwrap();
    let cri = &config["plugins"]["io.containerd.grpc.v1.cri"];
    assert_eq!(cri["cni"]["bin_dir"].as_str(), Some("/usr/lib/cni"));
    let runc = &cri["containerd"]["runtimes"]["runc"];
    assert_eq!(runc["options"]["SystemdCgroup"].as_bool(), Some(true));
    let flags = tree.flags("kubelet");
    let endpoint = ("remote", format!("unix://{}", config["grpc"]["address"].as_str().unwrap()));
    assert_eq!((flags["container-runtime"], flags["container-runtime-endpoint"].to_owned()), endpoint);
    let unit = tree.file("etc/systemd/system/kubelet.service");
    assert!(unit.contains("After=network-online.target containerd.service\n"), "{unit}");
    assert!(!tree.files().any(|(path, text)| path.contains("docker") || text.contains("docker.service")));
    for host in made.site.hosts.keys() {
        assert_eq!(refused(&made.site, host, "v2"), Vec::<[String; 3]>::new(), "{host}");
    }
}

#[test]
fn containerd_comes_from_each_family_s_own_packages_or_from_pinned_tarballs() {
    let made = with_containerd();
    let mut facts = facts(&made.site, "node1", "amd64");
    let of_site = |made: &Made, facts: &Facts| {
        let catalog = resolve(&made.site, "node1", facts, &SecretStore::encrypted()).unwrap();
        let own = catalog.items.iter().filter(|item| &*item.role == "containerd").map(|item| item.id.clone());
        own.filter(|id| matches!(id.kind(), "package" | "artifact")).collect::<Vec<_>>()
    };
    let of = |facts: &Facts| of_site(&made, facts);
    assert_eq!(of(&facts), ["package:containerd", "package:containernetworking-plugins"]);
    let pinned = edited(&[
        ("site.toml", "\"docker\"", "\"containerd\""),
        ("site.toml", "[groups.masters]\n", "[vars.containerd]\npackage = \"\"\n\n[groups.masters]\n"),
        ("artifacts.toml", "version = \"1.9.2\"", "version = \"1.20.2\""),
    ]);
    assert_eq!(of_site(&pinned, &facts), ["artifact:containerd", "artifact:runc", "artifact:cni-plugins"]);
    for arch in ["amd64", "arm64"] {
        let tree = pinned.tree("node1", arch);
        assert!(tree.file("etc/containerd/config.toml").contains("bin_dir = \"/usr/k8s/bin/cni\""));
        assert!(tree.file("etc/systemd/system/containerd.service").contains("\nExecStart=/usr/k8s/bin/containerd\n"));
    }
    for (family, id, packages) in [
        ("rhel", "rocky", ["package:containerd.io", "package:containernetworking-plugins"]),
        ("rhel", "fedora", ["package:containerd", "package:containernetworking-plugins"]),
        ("suse", "sles", ["package:containerd", "package:cni-plugins"]),
    ] {
        facts.os = Os { family: family.to_owned(), id: id.to_owned(), ..facts.os };
        assert_eq!(of(&facts), packages, "{id}");
    }
}

#[test]
fn a_kubelets_file_matches_its_flags_and_a_site_changes_both_in_one_place() {
    let made = edited(&[
        (
            "site.toml",
            "[groups.masters]\n",
            "[vars.kubelet.flags]\nread-only-port = 10255\ncluster-dns = \"10.254.0.2,10.254.0.3\"\nmax-pods = 50\n\n[groups.masters]\n",
        ),
        ("artifacts.toml", "version = \"1.9.2\"", "version = \"1.20.2\""),
    ]);
    let tree = made.tree("node1", "amd64");
    let file: serde_json::Value = serde_json::from_str(tree.file("etc/kubernetes/kubelet.json")).unwrap();
    let flags = tree.flags("kubelet");
    assert_eq!((flags["config"], flags["max-pods"]), ("/etc/kubernetes/kubelet.json", "50"));
    assert_eq!((&file["readOnlyPort"], &file["port"]), (&10255.into(), &10250.into()));
    assert_eq!(file["clusterDNS"], serde_json::json!(["10.254.0.2", "10.254.0.3"]));
    assert_eq!(file["authentication"]["x509"]["clientCAFile"], "/etc/kubernetes/ssl/ca.pem");
    let twice = ["read-only-port", "cluster-dns", "client-ca-file", "anonymous-auth", "cgroup-driver"];
    assert!(twice.iter().all(|flag| !flags.contains_key(flag)), "{flags:?}");
    let old = Made::shipped().tree("node1", "amd64");
    assert!(twice.iter().all(|flag| old.flags("kubelet").contains_key(flag)));
    assert!(!old.flags("kubelet").contains_key("config") && !old.entries.contains_key("etc/kubernetes/kubelet.json"));
}

#[test]
fn values_that_a_kubelet_can_not_use_are_refused() {
    let whats = |edits: &[(&str, &str, &str)]| {
        let made = tempfile::tempdir().unwrap();
        let files = Files::in_directory(&Made::shipped().path()).unwrap();
        for (path, bytes) in files.iter() {
            let path = made.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        edit(made.path(), edits);
        let site = Site::load(Files::in_directory(made.path()).unwrap()).unwrap().into();
        refused(&site, "node1", "v1").into_iter().map(|[what, ..]| what).collect::<Vec<_>>()
    };
    assert_eq!(
        whats(&[("artifacts.toml", "version = \"1.9.2\"", "version = \"1.24.0\"")]),
        ["kubelet 1.24.0 does not support Docker: 1.23 is the last version that does"]
    );
    assert_eq!(
        whats(&[("site.toml", "\"flannel\", \"docker\", \"kubelet\"", "\"flannel\", \"kubelet\"")]),
        ["the kubelet needs a container runtime, and node1 does not have the role docker"]
    );
    assert_eq!(
        whats(&[("site.toml", "\"docker\"", "\"containerd\"")]),
        ["kubelet 1.9.2 works with Docker only: this role supports containerd from 1.20 on"]
    );
    let newest = ("artifacts.toml", "version = \"1.9.2\"", "version = \"1.35.1\"");
    let containerd = ("site.toml", "\"docker\"", "\"containerd\"");
    let only_v2 = "kubelet 1.35.1 starts with cgroup v2 only, and this host has booted with v1";
    assert_eq!(whats(&[newest, containerd]), [only_v2]);
    let asked = (
        "roles/kubelet/role.toml",
        "kind = \"KubeletConfiguration\"\n",
        "kind = \"KubeletConfiguration\"\nfailCgroupV1 = false\n",
    );
    assert_eq!(whats(&[newest, containerd, asked]), [""; 0]);
}
