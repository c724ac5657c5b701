//! Units as a role changes them: kpull's own, templates, links that enable, and what becomes of a unit that no role has any more.

use crate::support::alone::World;
use crate::support::lab::Host;

/// A service that runs, in a role; `\n` in `text` is a line end.
fn service(name: &str, text: &str, more: &str) -> String {
    format!("[[unit]]\nname = {name:?}\ncontent = \"[Service]\\nExecStart=/bin/sleep infinity\\n{text}\"\n{more}\n")
}

fn life(host: Host<'_>, unit: &str) -> String {
    host.run(&format!("systemctl show -p InvocationID --value {unit}")).ok()
}

fn state(host: Host<'_>, units: &str) -> String {
    host.run(&format!("systemctl is-active {units}")).stdout.trim_end().replace('\n', " ")
}

fn enabled(host: Host<'_>, unit: &str) -> String {
    host.run(&format!("systemctl is-enabled {unit} 2>&1")).stdout.trim_end().to_owned()
}

/// What is below the administrator's directory of units, links with where they lead.
fn etc(host: Host<'_>) -> String {
    host.run("cd /etc/systemd/system && find . -mindepth 1 -printf '%P %y %l\\n' | sort").ok()
}

mod own {
    use super::*;

    /// As the timer does; returns what systemd reports about the run.
    fn run(host: Host<'_>) -> String {
        host.run("systemctl start kpull.service; systemctl show -p Result -p ExecMainStatus --value kpull.service").ok()
    }

    fn starts(host: Host<'_>) -> usize {
        let journal = host.run("journalctl --sync; journalctl -q -o cat -u kpull.service").ok();
        journal.matches("Starting kpull.service").count()
    }

    #[test]
    fn a_run_does_not_restart_its_own_unit_whose_next_start_has_the_new_definition() {
        let world = World::new();
        let host = world.host();
        let dropin = |unit: &str, text: &str| {
            format!("[[unit]]\nname = {unit:?}\n[unit.dropins]\n\"10-lab.conf\" = \"{text}\"\n")
        };
        world.release(&dropin("kpull.service", "[Service]\\nEnvironment=LAB=1\\n"));
        assert_eq!(run(host), "success\n0");
        assert_eq!(starts(host), 1);
        assert!(host.run("systemctl show -p Environment --value kpull.service").ok().contains("LAB=1"));
        assert_eq!(host.run("systemctl show -p NeedDaemonReload --value kpull.service").ok(), "no");
        world.is_converged();

        // the same under another name, by a unit that never ends, and by one that ends with another
        let text = "[Unit]\\nPartOf=lab.service\\n[Service]\\nType=exec\\nExecStart=\\nExecStart=/bin/sh -c 'kpull apply; exec sleep infinity'\\n";
        host.run(
            "cp /usr/lib/systemd/system/kpull.service /etc/systemd/system/agent.service && systemctl daemon-reload",
        )
        .ok();
        world.release(&format!(
            "{}{}",
            dropin("agent.service", text),
            service("lab.service", "", "state = \"running\"")
        ));
        host.run("kpull apply").ok();
        let role = |number: u8| {
            format!(
                "{}{}",
                dropin("agent.service", &format!("{text}Environment=LAB={number}\\n")),
                service("lab.service", &format!("Environment=LAB={number}\\n"), "state = \"running\"")
            )
        };
        world.release(&role(2));
        let lab = life(host, "lab");
        host.run("systemctl start agent").ok();
        let agent = life(host, "agent");
        let done =
            "timeout 60 sh -c 'until journalctl -q -o cat -u agent KPULL_EVENT=done | grep .; do sleep .1; done'";
        host.run(done).ok();
        assert_eq!((life(host, "agent"), life(host, "lab")), (agent, lab));
        world.is_converged();

        // a manual run restarts units other than its own
        let lab = life(host, "lab");
        world.release(&role(3));
        world.converges();
        assert_ne!(life(host, "lab"), lab);
        assert!(host.run("systemctl show -p Environment --value agent").ok().contains("LAB=3"));
    }

    #[test]
    fn a_run_neither_stops_nor_restarts_the_timer_that_started_it() {
        let world = World::new();
        let host = world.host();
        host.copy(
            concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/kpull.timer"),
            "/usr/lib/systemd/system/kpull.timer",
            0o644,
        );
        host.run("systemctl daemon-reload && systemctl start kpull.timer").ok();
        let timer = life(host, "kpull.timer");
        world.release(
            "[[unit]]\nname = \"kpull.timer\"\n[unit.dropins]\n\"10-lab.conf\" = \"[Timer]\\nOnUnitInactiveSec=\\nOnUnitInactiveSec=7min\\n\"\n",
        );
        assert_eq!(run(host), "success\n0");
        assert_eq!(life(host, "kpull.timer"), timer);
        assert!(host.run("systemctl show -p TimersMonotonic kpull.timer").ok().contains("7min"));
        world.is_converged();

        world.release("[[unit]]\nname = \"kpull.timer\"\nstate = \"stopped\"\n[[unit]]\nname = \"kpull.service\"\nstate = \"stopped\"\n");
        assert_eq!(run(host), "success\n0");
        assert_eq!(state(host, "kpull.timer"), "active");
        assert_eq!(run(host), "success\n0");
        // a manual run blocks no other
        host.run("kpull apply").ok();
        assert_eq!(state(host, "kpull.timer"), "inactive");
    }
}

#[test]
fn a_template_s_change_restarts_its_running_instances() {
    let world = World::new();
    let host = world.host();
    let role = |number: u8| {
        format!(
            "{}[[unit]]\nname = \"lab@a.service\"\nstate = \"running\"\n[[unit]]\nname = \"lab@off.service\"\n",
            service("lab@.service", &format!("Environment=LAB={number}\\n"), "")
        )
    };
    world.release(&role(1));
    world.converges();
    host.run("systemctl start lab@b").ok();
    let lives = || ["lab@a", "lab@b"].map(|unit| life(host, unit));
    let first = lives();
    world.release(&role(2));
    world.converges();
    let second = lives();
    assert!(first[0] != second[0] && first[1] != second[1], "{first:?} {second:?}");
    for unit in ["lab@a", "lab@b"] {
        assert!(host.run(&format!("systemctl show -p Environment --value {unit}")).ok().contains("LAB=2"));
    }
    assert_eq!(state(host, "lab@off"), "inactive");

    // a drop-in of a template of the distribution, and connections of a socket, which nothing can start again
    host.write("/etc/systemd/system/echo.socket", "[Socket]\nListenStream=/run/echo\nAccept=yes\n");
    host.write("/etc/systemd/system/echo@.service", "[Service]\nStandardInput=socket\nExecStart=/bin/cat\n");
    host.run("systemctl daemon-reload && systemctl start echo.socket").ok();
    host.run("systemd-run -q --unit=client socat UNIX-CONNECT:/run/echo EXEC:'sleep infinity'").ok();
    host.run("timeout 60 sh -c 'until systemctl is-active -q echo@*.service; do sleep .1; done'").ok();
    let connection = life(host, "'echo@*'");
    world.release(
        "[[unit]]\nname = \"echo@.service\"\n[unit.dropins]\n\"10-lab.conf\" = \"[Service]\\nNice=5\\n\"\n[[unit]]\nname = \"getty@.service\"\n[unit.dropins]\n\"10-lab.conf\" = \"[Service]\\nNice=5\\n\"\n",
    );
    world.converges();
    assert_eq!(life(host, "'echo@*'"), connection);
    // and the template that no role has any more takes its instances along
    assert_eq!(state(host, "lab@a lab@b"), "inactive inactive");
    assert!(!etc(host).contains("lab@"), "{}", etc(host));

    // masked, and asked for in other ways
    world.release("[[unit]]\nname = \"lab@.service\"\nmask = true\n");
    world.converges();
    assert_eq!(host.run("readlink /etc/systemd/system/lab@.service").ok(), "/dev/null");
    world.release("");
    world.converges();
    assert!(!etc(host).contains("lab@"), "{}", etc(host));
}

#[test]
fn disabling_removes_every_link_and_enabling_leaves_those_of_the_install_section() {
    let world = World::new();
    let host = world.host();
    let before = etc(host);
    let install = |text: &str, more: &str| service("lab.service", &format!("[Install]\\n{text}\\n"), more);
    world
        .release(&install("WantedBy=multi-user.target\\nRequiredBy=lab.target\\nAlias=other.service", "enable = true"));
    world.converges();
    assert_eq!(enabled(host, "lab"), "enabled");
    // another target, another name
    world.release(&install("WantedBy=timers.target\\nAlias=third.service", "enable = true"));
    world.converges();
    let links = host.run("cd /etc/systemd/system && find . -type l -lname '*lab.service' -printf '%P\\n' | sort").ok();
    assert_eq!(links, "third.service\ntimers.target.wants/lab.service");
    // no [Install] any more
    world.release(&service("lab.service", "", "enable = false"));
    world.converges();
    assert_eq!(enabled(host, "lab"), "static");
    let links = host.run("cd /etc/systemd/system && find . -lname '*lab.service'").ok();
    assert_eq!(links, "");
    // a unit that was removed leaves a link to nowhere
    host.run("ln -s /etc/systemd/system/gone.service /etc/systemd/system/multi-user.target.wants/gone.service").ok();
    world.release("[[unit]]\nname = \"gone.service\"\nenable = false\n");
    world.converges();
    assert!(!etc(host).contains("gone"), "{}", etc(host));
    world.release("");
    world.converges();
    assert_eq!(etc(host), before);
}

#[test]
fn a_service_with_only_an_init_script_is_enabled_by_the_distributions_program() {
    let world = World::new();
    let host = world.host();
    let script = "#!/bin/sh\n### BEGIN INIT INFO\n# Provides: old\n# Required-Start:\n# Required-Stop:\n# Default-Start: 2 3 4 5\n\
        # Default-Stop: 0 1 6\n### END INIT INFO\ncase $1 in start) touch /run/old ;; stop) rm -f /run/old ;; esac\n";
    host.write("/etc/init.d/old", script);
    host.run("chmod 755 /etc/init.d/old && systemctl daemon-reload").ok();
    let links = || host.run("ls /etc/rc?.d | grep -c '^S[0-9]*old$'; true").ok();
    world.release("[[unit]]\nname = \"old.service\"\nenable = true\n");
    world.converges();
    assert_eq!((state(host, "old"), links().as_str()), ("active".to_owned(), "4"));
    host.run("test -e /run/old").ok();
    world.release("[[unit]]\nname = \"old.service\"\nenable = false\nstate = \"stopped\"\n");
    world.converges();
    assert_eq!((state(host, "old"), links().as_str()), ("inactive".to_owned(), "0"));
    world.release("[[unit]]\nname = \"old.service\"\nenable = true\n");
    world.converges();
    world.release("");
    world.converges();
    assert_eq!((state(host, "old"), links().as_str()), ("inactive".to_owned(), "0"));
    // what another generator makes has its cause elsewhere
    host.run("mkdir -p /mnt/lab && echo 'tmpfs /mnt/lab tmpfs noauto 0 0' >> /etc/fstab && systemctl daemon-reload")
        .ok();
    world.release("[[unit]]\nname = \"mnt-lab.mount\"\nenable = true\n");
    let output = host.run("kpull apply").fails(3);
    assert!(output.contains("mnt-lab.mount can't be enabled") && output.contains("/etc/fstab"), "{output}");
}

#[test]
fn a_unit_that_no_role_defines_any_more_stops_with_what_started_it() {
    let world = World::new();
    let host = world.host();
    let before = etc(host);
    let socket = "[[unit]]\nname = \"lab.socket\"\ncontent = \"[Socket]\\nListenStream=/run/lab\\n[Install]\\nWantedBy=sockets.target\\n\"\nenable = true\n";
    let knock = "socat -u OPEN:/dev/null UNIX-CONNECT:/run/lab; timeout 60 sh -c 'until systemctl is-active -q lab.service; do sleep .1; done'";
    // the socket starts a service whose state the role leaves open; while it is stopped, a client connects again and again
    world.release(&format!("{}{socket}", service("lab.service", "", "")));
    world.converges();
    host.run(knock).ok();
    host.run("systemd-run -q --unit=knocks sh -c 'while :; do socat -u OPEN:/dev/null UNIX-CONNECT:/run/lab; done'")
        .ok();
    world.release("");
    host.run("kpull apply").ok();
    assert_eq!(state(host, "lab.socket lab.service"), "inactive inactive");
    assert_eq!(etc(host), before);
    world.is_converged();

    // what a release has started after one that did not say, and links with it
    let plain = service("lab.service", "[Install]\\nWantedBy=multi-user.target\\n", "");
    host.write(
        "/usr/lib/systemd/system/theirs.service",
        "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n",
    );
    host.run("systemctl daemon-reload").ok();
    let dropin = "[unit.dropins]\n\"10-lab.conf\" = \"[Service]\\nNice=5\\n\"\n";
    let theirs = |more: &str| format!("[[unit]]\nname = \"theirs.service\"\n{more}\n{dropin}");
    world.release(&format!("{plain}{}", theirs("")));
    world.converges();
    world.release(&format!("{plain}enable = true\n{}", theirs("enable = true")));
    world.converges();
    assert_eq!(state(host, "lab theirs"), "active active");
    world.release("");
    world.converges();
    assert_eq!((state(host, "lab theirs"), etc(host)), ("inactive inactive".to_owned(), before.clone()));

    // a unit that was started by hand continues, and so does one that the role starts
    world.release(&theirs(""));
    world.converges();
    host.run("systemctl start theirs").ok();
    world.release(&service("kept.service", "", "state = \"running\"\nkeep_running = true"));
    world.converges();
    assert_eq!(state(host, "theirs kept"), "active active");
    world.release("");
    world.converges();
    assert_eq!((state(host, "theirs kept"), etc(host)), ("active active".to_owned(), before.clone()));

    // a mask goes with the role that wanted it
    world.release("[[unit]]\nname = \"theirs.service\"\nmask = true\n");
    world.converges();
    assert_eq!(state(host, "theirs"), "inactive");
    world.release("");
    world.converges();
    assert_eq!((state(host, "theirs"), etc(host)), ("active".to_owned(), before));
}

#[test]
fn a_unit_that_changed_on_disk_is_reloaded_before_its_restart() {
    let world = World::new();
    let host = world.host();
    let file = "/usr/lib/systemd/system/theirs.service";
    host.write(file, "[Service]\nEnvironment=LAB=1\nExecStart=/bin/sleep infinity\n");
    host.run("systemctl daemon-reload").ok();
    let role = |number: u8, watch: &str| {
        format!(
            "[[file]]\npath = \"/etc/lab.conf\"\ncontent = \"{number}\"\n[[unit]]\nname = \"theirs.service\"\nstate = \"running\"\n{watch} = [\"file:/etc/lab.conf\"]\n"
        )
    };
    world.release(&role(1, "restart_when"));
    world.converges();
    host.run(&format!("sed -i s/LAB=1/LAB=2/ {file}")).ok();
    world.release(&role(2, "restart_when"));
    world.converges();
    let environment = || host.run("tr '\\0' '\\n' < /proc/$(systemctl show -p MainPID --value theirs)/environ").ok();
    assert!(environment().contains("LAB=2"), "{}", environment());

    // it can't be reloaded: it is restarted, and the plan says so
    let before = life(host, "theirs");
    world.release(&role(3, "reload_when"));
    let plan = host.run("kpull plan");
    assert!(plan.stdout.contains("unit:theirs.service  restart"), "{plan}");
    world.converges();
    assert_ne!(life(host, "theirs"), before);
    // and one that can be is reloaded
    host.run(&format!("echo 'ExecReload=/bin/touch /run/reloaded' >> {file} && systemctl daemon-reload")).ok();
    let before = life(host, "theirs");
    world.release(&role(4, "reload_when"));
    world.converges();
    host.run("test -e /run/reloaded").ok();
    assert_eq!(life(host, "theirs"), before);
}

#[test]
fn a_path_that_no_longer_exists_needs_no_restoring() {
    let world = World::new();
    let host = world.host();
    let unit = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\nAlias=name.service\n";
    let legacy = "/usr/lib/systemd/system/legacy.service";
    host.write(legacy, unit);
    host.run("systemctl daemon-reload && systemctl enable -q --now legacy").ok();
    let dropin = |name: &str| {
        format!(
            "[[unit]]\nname = {name:?}\nenable = true\n[unit.dropins]\n\"10-lab.conf\" = \"[Service]\\nNice=5\\n\"\n"
        )
    };
    for name in ["legacy.service", "name.service"] {
        world.release(&dropin(name));
        world.converges();
        // an operator purges the package that installed it
        host.run(&format!("systemctl disable -q --now legacy; rm {legacy}; systemctl daemon-reload")).ok();
        world.release("");
        world.converges();
        assert!(!etc(host).contains("10-lab.conf"), "{}", etc(host));
        host.write(legacy, unit);
        host.run("systemctl daemon-reload && systemctl enable -q --now legacy").ok();
    }
    // an operator masks it: that is deliberate, and no reason to fail
    world.release(&dropin("legacy.service"));
    world.converges();
    host.run("systemctl mask -q --now legacy").ok();
    world.release("");
    world.converges();
    assert_eq!((enabled(host, "legacy"), state(host, "legacy")), ("masked".to_owned(), "inactive".to_owned()));
}

#[test]
fn a_failed_unit_is_reported_as_a_unit_and_not_as_a_probe() {
    let world = World::new();
    let host = world.host();
    world.release(&service("good.service", "", "state = \"running\""));
    world.converges();
    // at its start
    world.release("[[unit]]\nname = \"bad.service\"\ncontent = \"[Service]\\nExecStart=/bin/sh -c 'echo no room; exit 7'\\n\"\nstate = \"running\"\n");
    let output = host.run("kpull apply").fails(3);
    for part in ["unit bad.service failed to start", "exit status 7", "no room"] {
        assert!(output.contains(part), "{part}: {output}");
    }
    let status = host.run("kpull status").ok();
    assert!(!status.contains("probe") && status.contains("unit bad.service failed to start"), "{status}");

    // later, between two runs
    world.release("[[unit]]\nname = \"late.service\"\ncontent = \"[Service]\\nExecStart=/bin/sh -c 'while ! test -e /run/fail; do sleep .1; done; echo out of luck; exit 9'\\n\"\nstate = \"running\"\n");
    world.converges();
    host.run("touch /run/fail; timeout 60 sh -c 'until systemctl is-failed -q late; do sleep .1; done'").ok();
    let verified = host.run("kpull verify");
    assert_eq!(verified.code(), 3, "{verified}");
    for part in ["late.service", "Unhealthy", "the unit failed", "exit status 9"] {
        assert!(verified.stdout.contains(part), "{part}: {verified}");
    }
    let output = host.run("kpull apply").fails(3);
    for part in ["unit late.service failed to start", "exit status 9", "out of luck"] {
        assert!(output.contains(part), "{part}: {output}");
    }
    let status = host.run("kpull status").ok();
    assert!(!status.contains("probe"), "{status}");
}
