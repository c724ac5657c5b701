//! Debian 11 to sid: one script of steps on a host of each.

use crate::platforms::firewalld;
use crate::support::alone::World;
use crate::support::lab::{Host, Suite};

/// One of most kinds. The shipped role `firewall` is on the host too.
const APP: &str = r#"
[vars]
answer = "first"

[[user]]
name = "app"
system = true
[[user]]
name = "ann"
uid = 1600
groups = ["app"]
[[package]]
name = "hello"
[[sysctl]]
name = "net.ipv4.ip_nonlocal_bind"
value = 1
[[directory]]
path = "/srv/app"
owner = "app"
mode = "0750"
[[file]]
path = "/srv/app/answer"
content = "{{ answer }}\n"
owner = "app"
group = "app"
mode = "0640"
[[block]]
name = "app"
path = "/etc/hosts"
content = "192.168.1.77 app.test"
[[symlink]]
path = "/srv/current"
target = "/srv/app"
[[unit]]
name = "app.service"
content = """
[Service]
User=app
ExecStart=/bin/sleep infinity
MemoryMax=100M
[Install]
WantedBy=multi-user.target
"""
enable = true
restart_when = ["file:/srv/app/answer"]
[[unit]]
name = "app.timer"
content = """
[Timer]
OnCalendar=daily
[Install]
WantedBy=timers.target
"""
enable = true
[[unit]]
name = "app.socket"
mask = true
[[firewall]]
zone = "public"
ports = ["8080/tcp"]
[[probe]]
name = "app"
command = ["grep", "-q", "", "/srv/app/answer"]
"#;

/// Everything of [`APP`] is there.
#[track_caller]
fn is_whole(host: Host<'_>, answer: &str) {
    for (command, expected) in [
        ("cat /srv/current/answer; stat -c '%U %G %a' /srv/app/answer", &*format!("{answer}\napp app 640")),
        ("id -nG ann", "ann app"),
        ("hello", "Hello, world!"),
        ("cat /proc/sys/net/ipv4/ip_nonlocal_bind", "1"),
        ("getent hosts 192.168.1.77 | xargs", "192.168.1.77 app.test"),
        ("systemctl is-active app.service app.timer", "active\nactive"),
        ("systemctl is-enabled app.service app.timer", "enabled\nenabled"),
        ("ps -o user= -p $(systemctl show -p MainPID --value app.service)", "app"),
        ("firewall-cmd --list-ports; firewall-cmd --permanent --list-ports", "8080/tcp\n8080/tcp"),
    ] {
        assert_eq!(host.run(command).ok(), expected, "{command}");
    }
}

/// When the application was started last, and which firewalld this is.
fn lives(host: Host<'_>) -> String {
    host.run("systemctl show -p InvocationID firewalld app.service").ok()
}

/// Neither `kpull plan` nor `kpull apply` finds anything to do, and nothing is restarted.
#[track_caller]
fn is_idle(world: &World) {
    let before = lives(world.host());
    world.is_converged();
    world.converges();
    assert_eq!(lives(world.host()), before, "something was restarted");
}

/// Plan, apply, idle, reload and restart of firewalld, drift, idle, another release, one that fails, a boot, nothing.
fn steps(suite: Suite) -> World {
    let world = firewalld::world(suite);
    let host = world.host();
    world.release(APP);
    let plan = host.run("kpull plan");
    assert_eq!(plan.code(), 2, "{plan}");
    host.run("test ! -e /srv/app && ! id app").ok();
    host.run("kpull apply").ok();
    is_whole(host, "first");
    is_idle(&world);

    host.run("firewall-cmd -q --reload").ok();
    is_idle(&world);
    host.run("systemctl restart firewalld").ok();
    is_idle(&world);

    host.run(
        "echo drift > /srv/app/answer && chmod 777 /srv/app && sed -i /app.test/d /etc/hosts && systemctl disable -q --now app.service && \
         systemctl stop app.timer && firewall-cmd -q --remove-port=8080/tcp && firewall-cmd -q --permanent --add-port=1/tcp && \
         gpasswd -q -d ann app; echo 0 > /proc/sys/net/ipv4/ip_nonlocal_bind && apt-get -qq -y remove hello",
    )
    .ok();
    assert_eq!(host.run("kpull plan").code(), 2);
    host.run("kpull apply").ok();
    is_whole(host, "first");
    is_idle(&world);

    world.release(&APP.replace("\"first\"", "\"second\""));
    let before = lives(host);
    host.run("kpull apply").ok();
    is_whole(host, "second");
    assert_ne!(lives(host), before, "the unit watches the file");
    world.release(&APP.replace("\"first\"", "\"third\"").replace("\"-q\", \"\"", "\"-q\", \"fourth\""));
    host.run("kpull apply").fails(3);
    is_whole(host, "second");

    host.crash();
    host.boot();
    assert_eq!(host.run("systemctl is-system-running").ok(), "running");
    is_whole(host, "second");
    host.run("kpull rollback").ok();
    is_whole(host, "first");

    world.release("");
    world.converges();
    host.run("test ! -e /srv/app && test ! -e /etc/systemd/system/app.service && ! grep app.test /etc/hosts").ok();
    assert_eq!(host.run("firewall-cmd --list-ports; firewall-cmd --permanent --list-ports").ok(), "");
    world
}

/// In CI.
mod short {
    use super::{Suite, steps};

    #[test]
    fn debian_11_goes_through_all_steps() {
        steps(Suite::Bullseye);
    }

    #[test]
    fn debian_13_goes_through_all_steps() {
        steps(Suite::Trixie);
    }
}

/// With what [`firewalld`] shows, on each.
mod long {
    use super::{Suite, firewalld, steps};

    fn all(suite: Suite) {
        let world = steps(suite);
        for backend in ["iptables", "nftables"] {
            firewalld::steps(&world, backend);
            world.release("");
            world.converges();
        }
    }

    #[test]
    fn debian_11_goes_through_all_steps_with_either_backend_of_firewalld() {
        all(Suite::Bullseye);
    }

    #[test]
    fn debian_12_goes_through_all_steps_with_either_backend_of_firewalld() {
        all(Suite::Bookworm);
    }

    #[test]
    fn debian_13_goes_through_all_steps_with_either_backend_of_firewalld() {
        all(Suite::Trixie);
    }

    #[test]
    fn debian_sid_goes_through_all_steps_with_either_backend_of_firewalld() {
        all(Suite::Sid);
    }
}
