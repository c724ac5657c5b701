//! Partial runs on a real host: what `--only` leaves alone keeps running as it was.

use crate::support::alone::World;

/// A role with a service that counts its starts and ends at once unless its file says `good`.
fn role(name: &str, text: &str) -> String {
    format!(
        r#"
[[file]]
path = "/etc/{name}.conf"
content = "{text}\n"
[[unit]]
name = "{name}.service"
content = """
[Service]
ExecStartPre=/bin/sh -c 'echo >> /run/{name}.starts'
ExecStart=/bin/sh -c 'grep -q good /etc/{name}.conf && exec sleep infinity'
[Install]
WantedBy=multi-user.target
"""
enable = true
restart_when = ["file:/etc/{name}.conf"]
"#
    )
}

#[test]
fn a_partial_run_restarts_only_what_it_names_and_never_rolls_back() {
    let world = World::new();
    let host = world.host();
    host.write("/srv/site/host_vars/h1.toml", "address = \"192.168.1.11\"\nroles = [\"app\", \"other\"]\n");
    let release = |app: &str, other: &str| {
        host.write("/srv/site/roles/other/role.toml", format!("summary = \"x\"\n{}", role("other", other)));
        world.release(&role("app", app));
    };
    let starts = || host.run("wc -l < /run/app.starts; wc -l < /run/other.starts").ok();
    let status = |filter: &str| host.run(&format!("kpull status --json | jq -c '{filter}'")).ok();
    release("good 1", "good 1");
    world.converges();
    assert_eq!(starts(), "1\n1");

    release("good 2", "good 2");
    assert!(host.run("kpull plan --only app").fails(2).is_empty());
    let run = host.run("kpull apply --only app").ok();
    assert!(run.contains("only app: the next run without `--only` applies the rest"), "{run}");
    assert_eq!(starts(), "2\n1");
    assert_eq!(host.run("cat /etc/app.conf /etc/other.conf").ok(), "good 2\ngood 1");
    assert_eq!(status("[.generation.serial, .last_run.only]"), "[1,[\"app\"]]");
    // one resource and what it needs
    host.run("kpull apply --only unit:other.service").ok();
    assert_eq!(starts(), "2\n2");
    assert_eq!(status(".generation.serial"), "1", "no part counts as the whole");
    world.converges();
    assert_eq!((starts().as_str(), status(".generation.serial").as_str()), ("2\n2", "2"));

    // a part that fails is an error and stays; the whole release is rolled back
    release("bad", "good 3");
    let run = host.run("kpull apply --json --only app");
    assert_eq!(run.code(), 3, "{run}");
    assert!(run.stdout.contains("a partial run does not roll back"), "{run}");
    assert_eq!(host.run("cat /etc/app.conf /etc/other.conf").ok(), "bad\ngood 2");
    host.run("kpull apply").fails(3);
    assert_eq!(host.run("cat /etc/app.conf /etc/other.conf").ok(), "good 2\ngood 2");
    assert_eq!(host.run("systemctl is-active app other").ok(), "active\nactive");
    assert_eq!(status(".generation.serial"), "2");
}
