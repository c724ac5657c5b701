//! What other configuration tools were reported for, on a real host; `docs/src/development/reports.md` says which.

use crate::lab::software::offer_script;
use crate::support::alone::World;
use crate::support::lab::Host;

fn state(host: Host<'_>, unit: &str) -> String {
    host.run(&format!("systemctl show -p ActiveState -p SubState --value {unit}")).ok().replace('\n', " ")
}

/// A service that ends as soon as it is started, and that systemd starts again an hour later, for ever.
const FAILING: &str = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=oneshot\nExecStart=/bin/false\nRestart=on-failure\nRestartSec=1h\n";

#[test]
fn a_unit_between_two_of_its_starts_is_stopped_if_a_role_says_so() {
    let world = World::new();
    let host = world.host();
    let between = |unit: &str| {
        host.run(&format!("systemctl start --no-block {unit}; timeout 60 sh -c 'until systemctl show -p SubState {unit} | grep -q auto-restart; do sleep .1; done'")).ok();
    };
    for unit in ["stopped", "masked"] {
        host.write(&format!("/usr/lib/systemd/system/{unit}.service"), FAILING);
    }
    host.run("systemctl daemon-reload").ok();
    between("stopped");
    between("masked");
    world.release(
        "[[unit]]\nname = \"stopped.service\"\nstate = \"stopped\"\n[[unit]]\nname = \"masked.service\"\nmask = true\n",
    );
    world.converges();
    assert_eq!(state(host, "stopped"), "inactive dead");
    assert_eq!(state(host, "masked"), "inactive dead");

    // the same, with its own role's file
    world.release(&format!("[[unit]]\nname = \"own.service\"\ncontent = \"\"\"\n{FAILING}\"\"\"\n"));
    world.converges();
    between("own");
    world.release("");
    world.converges();
    assert_eq!(state(host, "own"), "inactive dead");
}

#[test]
fn a_port_passes_from_the_unit_that_stops_to_the_one_that_starts() {
    let world = World::new();
    let host = world.host();
    let listens = |unit: &str, more: &str| {
        format!(
            "[[unit]]\nname = \"{unit}.service\"\ncontent = \"[Service]\\nExecStart=/usr/bin/socat TCP-LISTEN:8080,fork EXEC:cat\\nSuccessExitStatus=143\\n\"\n{more}\n"
        )
    };
    let (old, stopped) = (listens("old", "state = \"running\""), listens("old", "state = \"stopped\""));
    let new = listens("new", "state = \"running\"");
    world.release(&old);
    world.converges();
    world.release(&format!("{new}{stopped}"));
    world.converges();
    assert_eq!((state(host, "old"), state(host, "new")), ("inactive dead".into(), "active running".into()));
    // and back, where the other one goes with its role
    world.release(&old);
    world.converges();
    assert_eq!(state(host, "old"), "active running");
}

#[test]
fn a_unit_that_refuses_to_stop_is_named_before_any_change() {
    let world = World::new();
    let host = world.host();
    host.write(
        "/usr/lib/systemd/system/lab-audit.service",
        "[Unit]\nRefuseManualStop=yes\n[Service]\nExecStart=/bin/sleep infinity\n",
    );
    host.run("systemctl daemon-reload").ok();
    let role = |content: &str, more: &str| {
        format!(
            "[[file]]\npath = \"/etc/lab-audit.conf\"\ncontent = \"{content}\\n\"\n\
            [[unit]]\nname = \"lab-audit.service\"\nstate = \"running\"\nrestart_when = [\"file:/etc/lab-audit.conf\"]\n{more}"
        )
    };
    world.release(&role("one", ""));
    world.converges();
    world.release(&role("two", ""));
    let output = host.run("kpull apply").fails(3);
    assert!(output.contains("RefuseManualStop=no"), "{output}");
    assert_eq!(host.run("cat /etc/lab-audit.conf").ok(), "one", "nothing was touched");
    world.is_converged();
    let process = host.run("systemctl show -p MainPID --value lab-audit").ok();
    world.release(&role("two", "[unit.dropins]\n\"10-lab.conf\" = \"[Unit]\\nRefuseManualStop=no\\n\"\n"));
    world.converges();
    assert_eq!(host.run("cat /etc/lab-audit.conf").ok(), "two");
    assert_ne!(host.run("systemctl show -p MainPID --value lab-audit").ok(), process);
}

#[test]
fn accounts_that_another_process_has_locked_fail_no_release() {
    let world = World::new();
    let host = world.host();
    world.release("");
    world.converges();
    host.run("systemd-run -q --unit=editor sleep infinity && systemctl show -p MainPID --value editor | tr -d '\\n' > /etc/passwd.lock").ok();
    world.release("[[user]]\nname = \"ann\"\n");
    let output = host.run("kpull apply").fails(1);
    assert!(output.contains("cannot lock /etc/passwd") && output.contains("the next run"), "{output}");
    host.run("rm /etc/passwd.lock").ok();
    world.converges();
    host.run("id ann").ok();
}

#[test]
fn the_home_of_a_user_with_a_running_process_stays_and_the_unit_is_named() {
    let world = World::new();
    let host = world.host();
    let role = |home: &str| format!("[[user]]\nname = \"app\"\nhome = \"{home}\"\n");
    world.release(&role("/srv/one"));
    world.converges();
    host.run("systemd-run -q --unit=lab-app --uid=app sleep infinity").ok();
    world.release(&role("/srv/two"));
    let output = host.run("kpull apply --json");
    let message = output.to_string();
    assert_eq!(output.code(), 3, "{message}");
    assert!(
        message.contains("currently used by process") && message.contains("`systemctl stop lab-app.service`"),
        "{message}"
    );
    world.is_converged();
    host.run("systemctl stop lab-app.service && kpull apply --retry").ok();
    assert_eq!(host.run("getent passwd app | cut -d: -f6").ok(), "/srv/two");
    world.is_converged();
}

#[test]
fn a_package_whose_script_failed_is_removed_and_an_unpacked_one_is_configured() {
    let world = World::new();
    let host = world.host();
    offer_script(host, "lab-broken", "test -e /srv/works");
    let status = || host.run("dpkg-query -W -f '${Status}' lab-broken 2>&1").stdout;
    host.run("apt-get install -y lab-broken").fails(100);
    assert_eq!(status(), "install ok half-configured");
    let role = |state: &str| format!("[[package]]\nname = \"lab-broken\"\nstate = \"{state}\"\n");
    world.release(&role("absent"));
    assert!(host.run("kpull plan").stdout.contains("remove 1"));
    world.converges();
    assert!(!status().contains("half-configured"), "{}", status());

    host.run("dpkg --unpack /srv/apt/lab-broken_1_all.deb && touch /srv/works").ok();
    assert_eq!(status(), "install ok unpacked");
    world.release(&role("present"));
    world.converges();
    assert_eq!(status(), "install ok installed");
}

#[test]
fn settings_of_one_interface_override_those_of_all_now_and_at_the_next_boot() {
    let world = World::new();
    let host = world.host();
    host.run("sysctl -qw net.ipv4.ip_forward=0 net.ipv4.conf.all.accept_redirects=0; ip link add lab0.100 type veth peer name lab1").ok();
    let wanted = [
        ("net/ipv4/conf/lab0.100/forwarding", "0"),
        ("net.ipv4.conf.lab1.forwarding", "0"),
        ("net.ipv4.conf.all.accept_redirects", "1"),
        ("net.ipv6.conf.lab1.disable_ipv6", "0"),
        ("net.ipv6.conf.all.disable_ipv6", "1"),
        ("net.ipv4.ip_forward", "1"),
    ];
    let one = |(name, value): &(&str, &str)| format!("[[sysctl]]\nname = \"{name}\"\nvalue = \"{value}\"\n");
    world.release(&wanted.iter().map(one).collect::<String>());
    world.converges();
    let holds = |when: &str| {
        for (name, value) in wanted {
            assert_eq!(host.run(&format!("sysctl -n {name}")).ok(), value, "{name} {when}");
        }
    };
    holds("now");
    host.run("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.disable_ipv6=0; /usr/lib/systemd/systemd-sysctl").ok();
    holds("as at boot");
    world.is_converged();
    world.release("");
    world.converges();
    assert_eq!(host.run("sysctl -n net.ipv4.ip_forward net.ipv4.conf.all.accept_redirects").ok(), "0\n0", "as before");
}

#[test]
fn units_with_escaped_names_are_created_enabled_started_and_removed() {
    let world = World::new();
    let host = world.host();
    world.release(
        r#"
[[unit]]
name = 'srv-data\x2ddisk.mount'
enable = true
content = "[Mount]\nWhat=tmpfs\nWhere=/srv/data-disk\nType=tmpfs\n[Install]\nWantedBy=multi-user.target\n"
[[unit]]
name = '-.slice'
[unit.dropins]
"10-lab.conf" = "[Slice]\nTasksMax=90%\n"
"#,
    );
    world.converges();
    host.run("mountpoint /srv/data-disk && systemctl is-enabled 'srv-data\\x2ddisk.mount'").ok();
    world.release("");
    world.converges();
    host.run("mountpoint /srv/data-disk").fails(32);
    assert_eq!(host.run("ls /etc/systemd/system | grep -e x2d -e '^-'").stdout, "");
}
