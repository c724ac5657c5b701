//! What several roles of a host have in common, and what a change triggers.

use crate::support::alone::World;
use crate::support::lab::Host;

/// A service that counts its starts and reloads, in a role with a file that reloads it.
const APP: &str = r#"
[[package]]
names = ["bash", "procps"]

[[group]]
name = "shared"

[[directory]]
path = "/etc/shared"

[[unit]]
name = "lab.service"
content = """
[Service]
ExecStartPre=/bin/sh -c 'echo >> /run/starts'
ExecStart=/bin/sleep infinity
ExecReload=/bin/sh -c 'echo >> /run/reloads'
"""
state = "running"

[[file]]
path = "/etc/app.conf"
content = "APP\n"
notify = ["reload:la*.service"]
"#;

/// A role that has some of it too, and adds triggers. Its commands fail, or kill the run, unless there is `/run/ok`.
const SITES: &str = r#"
[[package]]
name = "bash"

[[group]]
name = "shared"

[[directory]]
path = "/etc/shared"
mode = "0755"

[[file]]
for_each = [{ name = "a" }, { name = "b" }]
path = "/etc/sites/{{ item.name }}"
content = "SITES\n"

[[unit]]
name = "lab.service"
restart_when = ["file:/etc/sites/*"]

[[command]]
name = "collect"
run = ["sh", "-c", "echo >> /run/collected; test -e /run/ok"]
on_change_of = ["file:/etc/sites/*"]

[[file]]
path = "/etc/shared/list"
content = "SITES\n"
notify = ["run:rebuild-*"]

[[command]]
for_each = ["index"]
name = "rebuild-{{ item }}"
run = ["sh", "-c", "echo >> /run/rebuilt; test -e /run/ok || kill -9 $(cat /run/pid)"]
"#;

/// How often the service was started and reloaded, and the commands `collect` and `rebuild` run.
fn counts(host: Host<'_>) -> [usize; 4] {
    ["starts", "reloads", "collected", "rebuilt"]
        .map(|name| host.run(&format!("cat /run/{name} 2>/dev/null")).stdout.lines().count())
}

fn has_roles(host: Host<'_>, roles: &str) {
    host.write("/srv/site/host_vars/h1.toml", format!("address = \"192.168.1.11\"\nroles = [{roles}]\n"));
}

#[test]
fn roles_share_resources_and_each_change_triggers_once() {
    let world = World::new();
    let host = world.host();
    let release = |app: &str, sites: &str| {
        let more = format!("summary = \"For a test\"\n{}", SITES.replace("SITES", sites));
        host.write("/srv/site/roles/sites/role.toml", more);
        world.release(&APP.replace("APP", app));
    };
    has_roles(host, "\"app\", \"sites\"");
    host.run("touch /run/ok").ok();
    release("1", "1");
    world.converges();
    assert_eq!(counts(host), [1, 0, 1, 1]);
    host.run("kpull apply").ok();
    assert_eq!(counts(host), [1, 0, 1, 1], "nothing has changed");
    release("2", "1");
    world.converges();
    assert_eq!(counts(host), [1, 1, 1, 1], "`notify` reloads");
    release("2", "2");
    world.converges();
    assert_eq!(counts(host), [2, 1, 2, 2], "two files that change are one restart and one run of each command");

    // a command that fails stays pending
    host.run("rm /run/ok; echo drift > /etc/sites/a").ok();
    assert_eq!(host.run("kpull apply").code(), 1);
    assert_eq!(counts(host), [3, 1, 3, 2]);
    let status = host.run("kpull status");
    assert!(status.stdout.contains("Run of command:collect"), "{status}");
    host.run("touch /run/ok").ok();
    world.converges();
    assert_eq!(counts(host), [3, 1, 4, 2]);

    // so does one that was running when the run was killed
    host.run("rm /run/ok; echo drift > /etc/shared/list").ok();
    assert_eq!(host.run("sh -c 'echo $$ > /run/pid; exec kpull apply'").code(), 137);
    assert_eq!(host.run("cat /etc/shared/list").ok(), "2");
    host.run("touch /run/ok").ok();
    world.converges();
    assert_eq!(counts(host), [3, 1, 4, 4]);
    host.run("kpull apply").ok();
    assert_eq!(counts(host), [3, 1, 4, 4], "nothing is pending");

    // what both roles have stays while one of them has it
    has_roles(host, "\"app\"");
    release("2", "2");
    world.converges();
    let left = "test -d /etc/shared && getent group shared && ! test -e /etc/sites && systemctl is-active lab";
    host.run(left).ok();
    assert_eq!(counts(host), [4, 1, 4, 4], "the removal of what it watched restarts the unit");
    world.release("");
    world.converges();
    host.run("! test -e /etc/shared && ! systemctl is-active lab").ok();
}
