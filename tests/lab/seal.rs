//! The short way on a real host, and that no drift of its units slips through it.

use crate::alone::World;

const ROLE: &str = r#"
[[file]]
path = "/etc/app.conf"
content = "a\n"
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

/// Runs with nothing to do, and whether nothing was looked into.
fn is_short(world: &World) -> bool {
    let output = world.host().run("kpull apply --json").ok();
    let done = output.lines().find(|line| line.contains(r#""event":"done""#)).unwrap();
    assert!(done.contains(r#""changed":[]"#), "{done}");
    done.contains(r#""sealed":true"#)
}

/// Lets all times become old, and runs until nothing has to be looked into any more.
#[track_caller]
fn is_sealed_soon(world: &World) {
    std::thread::sleep(std::time::Duration::from_millis(2100));
    is_short(world);
    assert!(is_short(world));
}

#[test]
fn a_host_whose_units_run_is_not_looked_into_and_every_drift_of_them_is_seen() {
    let world = World::new();
    let host = world.host();
    world.release(ROLE);
    host.run("kpull apply").ok();
    is_sealed_soon(&world);
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
        is_sealed_soon(&world);
    }
    // somebody else's restart is no drift; a boot is looked into, and one-time jobs are done again by it
    host.run("systemctl restart app.service").ok();
    assert!(is_short(&world));
    host.crash();
    host.boot();
    assert!(!is_short(&world));
}
