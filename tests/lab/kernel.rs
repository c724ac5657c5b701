//! Settings of a real kernel: each is read completely, so it is set once, kept, restored and adopted as it is.

use crate::support::alone::World;
use crate::support::sample;

/// A role with these settings.
fn role(settings: &[(&str, &str)]) -> String {
    let one = |(name, value): &(&str, &str)| format!("[[sysctl]]\nname = \"{name}\"\nvalue = \"{value}\"\n");
    settings.iter().map(one).collect()
}

#[test]
fn settings_of_any_length_are_set_once_and_restored_exactly() {
    const PORTS: &str = "net.ipv4.ip_local_reserved_ports";

    let world = World::new();
    let host = world.host();
    let get = |name: &str| host.run(&format!("sysctl -n {name}")).ok().replace('\t', " ");
    // single ports, none beside another: the kernel shows them as they are written. It takes up to a page at once, 4 KiB
    let many = (1..600).map(|at| (2 * at + 10_000).to_string()).collect::<Vec<_>>().join(",");
    let before = [
        ("net.core.somaxconn", "2048"),
        ("net.ipv4.tcp_rmem", "4096 98304 4194304"),
        ("net.ipv4.ip_local_port_range", "20000 60999"),
        (PORTS, "5000,6000"),
    ];
    for (name, value) in before {
        host.run(&format!("sysctl -qw {name}='{value}'")).ok();
    }
    let wanted = [
        ("net.core.somaxconn", "4096"),
        ("net.ipv4.tcp_rmem", "8192 262144 16777216"),
        ("net.ipv4.ip_local_port_range", "32768 60999"),
        (PORTS, many.as_str()),
    ];
    world.release(&role(&wanted));
    host.run("kpull apply").ok();
    for (name, value) in wanted {
        assert_eq!(get(name), value);
    }
    assert!(host.run("kpull apply").ok().contains("nothing to do"));

    for length in sample::of(1..=40_usize) {
        let start = ["10,12", "9", "99", "999", "1000"][length % 5];
        let more = (1..=(length - start.len()) / 5).map(|at| format!(",{}", 1000 + 2 * at));
        let value: String = std::iter::once(start.to_owned()).chain(more).collect();
        assert_eq!(value.len(), length);
        world.release(&role(&[(PORTS, &value)]));
        host.run("kpull apply").ok();
        assert_eq!(get(PORTS), value);
    }

    world.release("");
    host.run("kpull apply").ok();
    for (name, value) in before {
        assert_eq!(get(name), value, "as before");
    }

    host.run("cd /srv/site && kpull adopt taken sysctl:net.core.somaxconn sysctl:net.ipv4.tcp_rmem").ok();
    let taken = host.run("cat /srv/site/roles/taken/role.toml").ok();
    assert!(taken.contains("value = \"2048\"") && taken.contains("value = \"4096 98304 4194304\""), "{taken}");
}

#[test]
fn a_line_that_boot_reads_later_is_named_until_it_is_removed() {
    let world = World::new();
    let host = world.host();
    let name = "net.core.somaxconn";
    host.run(&format!("echo '{name} = 128' > /etc/sysctl.conf")).ok();
    world.release(&role(&[(name, "4096")]));
    let at_boot = || host.run(&format!("/usr/lib/systemd/systemd-sysctl && sysctl -n {name}")).ok();
    for command in ["plan", "apply"] {
        let output = host.run(&format!("kpull {command}")).stdout;
        let why = "the next boot sets it to `128`, not `4096`: line 1 of /etc/sysctl.conf is read after";
        assert!(
            output.contains(&format!("sysctl:{name}: {why}")) && output.contains("`sed -i 1d /etc/sysctl.conf`"),
            "{output}"
        );
    }
    assert_eq!(host.run(&format!("sysctl -n {name}")).ok(), "4096");
    assert_eq!(at_boot(), "128");
    host.run("sed -i 1d /etc/sysctl.conf").ok();
    let output = host.run("kpull apply").ok();
    assert!(!output.contains("next boot"), "{output}");
    assert_eq!(at_boot(), "4096");
}
