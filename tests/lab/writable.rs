//! Owners and modes of what root goes by on a real host: its configuration, the keys, what it remembers, a hook's program.

use serde_json::Value;

use crate::support::lab::{H1, Host, Lab};

const ROLE: &str = "summary = \"For a test\"\n[[file]]\npath = \"/etc/app.conf\"\ncontent = \"x\\n\"\n";
const HOOK: &str = "[[hook]]\non = [\"change\"]\ncommand = [\"/opt/hook\"]\n";

/// A host with a second user and a hook, on which everything is as its release says.
fn world() -> Lab {
    let lab = Lab::new(&[H1]);
    let host = lab.host("h1");
    host.run("useradd bob && printf '#!/bin/sh\\ntouch /srv/ran\\n' > /opt/hook && chmod 755 /opt/hook").ok();
    crate::lab::sign_on(host, ROLE, HOOK);
    host.copy(concat!(env!("CARGO_MANIFEST_DIR"), "/kpull.service"), "/usr/lib/systemd/system/kpull.service", 0o644);
    host.run("kpull apply").ok();
    host.run("rm /srv/ran && systemctl daemon-reload").ok();
    lab
}

/// Everything that a run could change: names, owners, modes, times and contents.
fn state(host: Host<'_>) -> String {
    host.run(
        "find /etc/kpull /etc/app.conf /var/lib/kpull /opt/hook /srv/ran -printf '%p %y %m %U %G %T@ %s\\n' 2> /dev/null | sort;
         cat /etc/kpull/* /etc/app.conf /var/lib/kpull/*.json | sha256sum",
    )
    .ok()
}

/// With `change` made on a drifted host, each run is refused because of `at` with this reason and changes nothing, until the command in the
/// message is run.
#[track_caller]
fn is_refused(host: Host<'_>, change: &str, path: &str, at: &str, why: &str) {
    host.run(&format!("echo drifted > /etc/app.conf; {change}")).ok();
    let before = state(host);
    let output = host.run("kpull apply --json");
    assert_eq!(output.code(), 1, "{change}: {output}");
    let event: Value = serde_json::from_str(output.stdout.lines().last().unwrap()).unwrap();
    let says = format!("{path} is not safe for root: another user can write to {at}: {why}");
    assert_eq!((&event["event"], &event["error"]), (&"error".into(), &says.into()), "{change}: {output}");
    // the timer's run is refused as well, and so is what only looks
    assert_ne!(host.run("systemctl start kpull.service").code(), 0, "{change}");
    assert_eq!(host.run("systemctl show -p ExecMainStatus --value kpull.service").ok(), "1", "{change}");
    host.run("kpull plan").fails(1);
    assert_eq!(state(host), before, "{change}");

    host.run(event["help"].as_str().unwrap().split('`').nth(1).unwrap()).ok();
    host.run("kpull apply").ok();
    assert_eq!(host.run("cat /etc/app.conf && ls /srv/ran && rm /srv/ran").ok(), "x\n/srv/ran", "{change}");
}

#[test]
fn a_configuration_that_another_user_can_write_is_refused_and_nothing_changes() {
    let lab = world();
    let host = lab.host("h1");
    let (config, dir) = ("/etc/kpull/kpull.toml", "/etc/kpull");
    let bob = host.run("id -u bob").ok();
    // what bob writes there is not even read
    let edited = "chmod 666 /etc/kpull/kpull.toml && chmod 755 /etc/kpull && su bob -c 'echo \"# by bob\" >> /etc/kpull/kpull.toml'";
    is_refused(host, edited, config, config, "every user can write to it (its mode is 0666)");
    is_refused(
        host,
        "chgrp bob /etc/kpull/kpull.toml && chmod 660 /etc/kpull/kpull.toml",
        config,
        config,
        "its group can write to it (its mode is 0660)",
    );
    is_refused(host, "chown bob /etc/kpull/kpull.toml", config, config, &format!("it belongs to user {bob}"));
    is_refused(host, "chown bob /etc/kpull", config, dir, &format!("it belongs to user {bob}"));
    is_refused(host, "chmod 777 /etc/kpull", config, dir, "every user can write to it (its mode is 0777)");
}

#[test]
fn keys_state_and_hooks_that_another_user_can_write_are_refused() {
    let lab = world();
    let host = lab.host("h1");
    let bob = host.run("id -u bob").ok();
    for (path, mode) in [("/etc/kpull/allowed_signers", "666"), ("/etc/kpull/trust.toml", "666"), ("/opt/hook", "777")]
    {
        let why = format!("every user can write to it (its mode is 0{mode})");
        is_refused(host, &format!("chmod {mode} {path}"), path, path, &why);
        is_refused(host, &format!("chown bob {path}"), path, path, &format!("it belongs to user {bob}"));
    }
}
