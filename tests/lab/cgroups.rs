//! Which control groups a real host has, and that a role that needs others changes nothing.

use crate::support::alone::World;
use crate::support::lab::{H1, Lab};

const DOCKER: &str = include_str!("../../roles/docker/role.toml");

/// What the shipped role `docker` asserts, before a file and a sysctl.
fn role() -> String {
    let (_, asserted) = DOCKER.split_once("[[assert]]\n").unwrap();
    let (asserted, _) = asserted.split_once("\n[[package]]").unwrap();
    format!(
        "[vars]\npackage = ''\nsystem = {{ package = 'docker.io' }}\n[[assert]]\n{asserted}\n[[file]]\npath = '/etc/lab/docker'\ncontent = ''\n\
         [[sysctl]]\nname = 'net.core.somaxconn'\nvalue = 3000\n"
    )
}

fn world(lab: Lab) -> World {
    let world = World::on(lab);
    world.host().write("/srv/site/artifacts.toml", include_str!("../../artifacts.toml"));
    world.release(&role());
    world
}

#[test]
fn with_cgroup_v2_what_needs_v1_is_refused_before_anything_is_changed() {
    let world = world(Lab::new(&[H1]));
    let host = world.host();
    assert!(host.run("kpull facts").ok().lines().any(|line| line == "cgroup = \"v2\""));
    for command in ["plan", "apply"] {
        let output = host.run(&format!("NO_COLOR=1 kpull {command}"));
        assert_eq!(output.code(), 1, "{command}: {output}");
        for part in [
            "Docker 1.13.1 needs cgroup v1, and this host has booted with v2",
            "add `systemd.unified_cgroup_hierarchy=0` to the kernel command line and reboot",
        ] {
            assert!(output.stderr.contains(part), "{part}: {output}");
        }
        let untouched = "[ ! -e /etc/lab ] && [ $(sysctl -n net.core.somaxconn) != 3000 ]";
        host.run(untouched).ok();
    }
}

#[test]
fn with_cgroup_v1_what_needs_it_is_applied() {
    let world = world(Lab::for_containers(&[H1], "1"));
    let facts = world.host().run("kpull facts").ok();
    assert!(facts.lines().any(|line| ["cgroup = \"v1\"", "cgroup = \"hybrid\""].contains(&line)), "{facts}");
    world.converges();
    assert_eq!(world.host().run("sysctl -n net.core.somaxconn && cat /etc/lab/docker").ok(), "3000");
}
