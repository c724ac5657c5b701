//! What runs containers: which control groups it needs, and what goes with it.

use kpull::resolve::{Facts, resolve};
use kpull::secret::Secrets;

use crate::made::{Made, facts};

/// What is wrong with a host that has these control groups: messages with their places and advice.
fn refused(made: &Made, host: &str, cgroup: &str) -> Vec<[String; 3]> {
    let facts = Facts { cgroup: cgroup.to_owned(), ..facts(&made.site, host, "amd64") };
    let errors = resolve(&made.site, host, &facts, &Secrets::sealed()).err().into_iter().flat_map(|error| error.each());
    let tell = |error: kpull::error::Error| {
        let place = error.place().map(ToString::to_string).unwrap_or_default();
        [error.to_string(), place, error.advice().unwrap_or_default().to_owned()]
    };
    errors.map(tell).collect()
}

/// The shipped site with other texts in its files.
fn edited(edits: &'static [(&str, &str, &str)]) -> Made {
    Made::new(None, |site| {
        for (path, old, new) in edits {
            let text = std::fs::read_to_string(site.join(path)).unwrap();
            assert!(text.contains(old), "{path} has no {old}");
            std::fs::write(site.join(path), text.replace(old, new)).unwrap();
        }
    })
}

#[test]
fn the_shipped_versions_are_refused_on_cgroup_v2_and_nowhere_else() {
    let made = Made::shipped();
    for host in made.site.hosts.keys() {
        for fine in ["v1", "hybrid", "unknown"] {
            assert_eq!(refused(made, host, fine), Vec::<[String; 3]>::new(), "{host} with {fine}");
        }
        let told = refused(made, host, "v2");
        let whats: Vec<&str> = told.iter().map(|[what, ..]| what.as_str()).collect();
        let booted = "needs cgroup v1, and this host has booted with v2";
        assert_eq!(whats, [format!("Docker 1.13.1 {booted}"), format!("kubelet 1.9.2 {booted}")], "{host}");
        for [_, place, help] in &told {
            assert!(place.starts_with("roles/docker/role.toml:5:") || place.starts_with("roles/kubelet/role.toml:"));
            assert!(help.starts_with("add `systemd.unified_cgroup_hierarchy=0` to the kernel command line and reboot"));
        }
    }
}

#[test]
fn check_tells_of_cgroup_v2_where_facts_are_recorded() {
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
    let told = made.kpull("check").exits(1).stderr;
    assert!(told.contains("kubelet 1.9.2 needs cgroup v1") && told.contains("Docker 1.13.1 needs cgroup v1"), "{told}");
    assert!(told.contains("systemd.unified_cgroup_hierarchy=0"), "{told}");
}

#[test]
fn the_distribution_s_docker_and_a_newer_kubernetes_go_with_cgroup_v2() {
    let made = edited(&[
        ("site.toml", "[groups.masters]\n", "[vars.docker]\npackage = \"docker.io\"\n\n[groups.masters]\n"),
        ("artifacts.toml", "version = \"1.9.2\"", "version = \"1.20.2\""),
    ]);
    for host in made.site.hosts.keys() {
        assert_eq!(refused(&made, host, "v2"), Vec::<[String; 3]>::new(), "{host}");
    }
}
