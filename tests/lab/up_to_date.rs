//! The short way on a real host, and that no drift of its units, its firewall and what its guards ask for slips through it.

use crate::support::alone::World;
use crate::support::lab::Host;

const ROLE: &str = r#"
[[file]]
path = "/etc/app.conf"
content = "a\n"
[[file]]
path = "/etc/virtualization"
content = "{{ facts.virtualization }}\n"
[[sysctl]]
name = "net.ipv4.ip_forward"
value = 1
[[package]]
name = "curl"
[[unit]]
name = "app.service"
content = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
enable = true
restart_when = ["file:/etc/app.conf"]
[[unit]]
name = "once.service"
content = "[Service]\nType=oneshot\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
enable = true
[[unit]]
name = "etcd.service"
mask = true
"#;

/// Runs with nothing to do, and returns whether the up-to-date check sufficed.
fn is_up_to_date(world: &World) -> bool {
    let output = world.host().run("kpull apply --json").ok();
    let done = output.lines().find(|line| line.contains(r#""event":"done""#)).unwrap();
    assert!(done.contains(r#""changed":[]"#), "{done}");
    done.contains(r#""up_to_date":true"#)
}

/// Makes all times old, and runs until the up-to-date check suffices.
#[track_caller]
fn becomes_up_to_date(world: &World) {
    std::thread::sleep(std::time::Duration::from_millis(2100));
    // what systemd and firewalld write by themselves may be younger
    for _ in 0..20 {
        if is_up_to_date(world) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    panic!("no run of twenty was short");
}

#[test]
fn an_up_to_date_check_reads_no_contents_and_sees_every_drift_of_units() {
    let world = World::new();
    let host = world.host();
    world.release(ROLE);
    host.run("kpull apply").ok();
    becomes_up_to_date(&world);
    // no program is asked what only the next boot can change
    host.write("/usr/local/bin/systemd-detect-virt", "#!/bin/sh\n# stand-in\necho other\n");
    host.run("chmod +x /usr/local/bin/systemd-detect-virt").ok();
    assert!(is_up_to_date(&world));
    let plan = host.run("kpull plan");
    assert!(plan.code() == 2 && plan.stdout.contains("/etc/virtualization"), "{plan}");
    host.run("rm /usr/local/bin/systemd-detect-virt").ok();
    for (what, drift, changed) in [
        ("stopped", "systemctl stop app.service", "unit:app.service"),
        ("killed", "systemctl kill -s KILL app.service", "unit:app.service"),
        ("disabled", "systemctl disable app.service", "unit:app.service"),
        ("unmasked", "systemctl unmask etcd.service", "unit:etcd.service"),
        ("a setting of the kernel", "sysctl -w net.ipv4.ip_forward=0", "sysctl:net.ipv4.ip_forward"),
        ("a file", "echo b > /etc/app.conf", "file:/etc/app.conf"),
    ] {
        host.run(drift).ok();
        let output = host.run("kpull apply --json").ok();
        let done = output.lines().find(|line| line.contains(r#""event":"done""#)).unwrap();
        assert!(done.contains(changed), "{what}: {done}");
        assert_eq!(host.run("systemctl is-active app.service").ok(), "active", "{what}");
        becomes_up_to_date(&world);
    }
    // a restart by others is no drift; a boot causes a full check, and one-time jobs run again
    host.run("systemctl restart app.service").ok();
    assert!(is_up_to_date(&world));
    host.crash();
    host.boot();
    assert!(!is_up_to_date(&world));
}

const FIREWALL: &str = r#"
[[unit]]
name = "firewalld.service"
enable = true
check = ["nft", "list", "chain", "inet", "firewalld", "filter_INPUT"]
[[firewall]]
zone = "public"
services = ["ssh"]
ports = ["443/tcp"]
allow = [{ port = "2379/tcp", from = "192.168.1.0/24" }]
masquerade = false
exclusive = true
[[firewall]]
zone = "trusted"
sources = ["172.30.0.0/16"]
[[firewall]]
services = ["ssh"]
[[command]]
name = "there"
run = ["touch", "/srv/there"]
unless = ["test", "-e", "/srv/there"]
[[command]]
name = "clean"
run = ["rm", "/srv/dirt"]
only_if = ["test", "-e", "/srv/dirt"]
user = "root"
"#;

/// All that firewalld has and will have, whatever the order.
fn zones(host: Host<'_>) -> Vec<String> {
    let zones = host.run("firewall-cmd --list-all-zones && firewall-cmd --permanent --list-all-zones").ok();
    let line = |line: &str| {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        words.sort_unstable();
        words.join(" ")
    };
    zones.lines().map(line).collect()
}

#[test]
fn an_up_to_date_check_reads_no_contents_and_sees_every_drift_of_a_firewall() {
    let world = World::new();
    let host = world.host();
    world.release(FIREWALL);
    host.run("kpull apply").ok();
    becomes_up_to_date(&world);
    let good = zones(host);
    for (drift, changed) in [
        ("firewall-cmd -q --remove-port=443/tcp", "firewall:public service ssh"),
        ("firewall-cmd -q --add-port=81/tcp", "firewall:public service ssh"),
        ("firewall-cmd -q --remove-service=ssh", "firewall:public service ssh"),
        ("firewall-cmd -q --add-service=http", "firewall:public service ssh"),
        ("firewall-cmd -q --add-masquerade", "firewall:public service ssh"),
        ("firewall-cmd -q --add-rich-rule='rule service name=\"http\" accept'", "firewall:public service ssh"),
        ("firewall-cmd -q --zone=trusted --remove-source=172.30.0.0/16", "firewall:trusted source 172.30.0.0/16"),
        ("firewall-cmd -q --permanent --remove-port=443/tcp", "firewall:public service ssh"),
        (
            "firewall-cmd -q --permanent --remove-port=443/tcp && firewall-cmd -q --reload",
            "firewall:public service ssh",
        ),
        (
            "sed -i '/443/d' /etc/firewalld/zones/public.xml && systemctl restart firewalld",
            "firewall:public service ssh",
        ),
        ("nft flush ruleset", "unit:firewalld.service"),
        ("systemctl stop firewalld", "unit:firewalld.service"),
        ("rm /srv/there", "command:there"),
        ("touch /srv/dirt", "command:clean"),
        (
            "firewall-cmd -q --zone=home --remove-service=ssh && firewall-cmd -q --set-default-zone=home",
            "firewall:default service ssh",
        ),
    ] {
        host.run(drift).ok();
        let output = host.run("kpull apply --json").ok();
        let done = output.lines().find(|line| line.contains(r#""event":"done""#)).unwrap();
        assert!(done.contains(changed), "{drift}: {done}");
        host.run("nft list chain inet firewalld filter_INPUT && test -e /srv/there && ! test -e /srv/dirt").ok();
        if !drift.contains("home") {
            assert_eq!(zones(host), good, "{drift}");
        }
        becomes_up_to_date(&world);
    }
    // a reload by others that changes nothing is no drift
    host.run("firewall-cmd -q --reload").ok();
    assert!(is_up_to_date(&world));
}

#[test]
fn a_host_without_units_or_firewall_is_up_to_date_without_a_bus() {
    let world = World::new();
    let host = world.host();
    let (files, _) = ROLE.split_once("[[unit]]").unwrap();
    world.release(files);
    host.run("kpull apply").ok();
    becomes_up_to_date(&world);
    host.run("mv /run/dbus/system_bus_socket /run/dbus/away").ok();
    assert!(is_up_to_date(&world));
    host.run("mv /run/dbus/away /run/dbus/system_bus_socket").ok();
}
