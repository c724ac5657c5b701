//! Units whose work is undone, hosts that wait for another, and the health of all of it as a table.

use crate::support::lab::{H1, Host, Lab};

const ROLE: &str = r#"
summary = "For a test"

[[unit]]
name = "rules.service"
content = """
[Service]
ExecStart=/bin/sh -c 'cp /srv/rules /run/rules && sleep infinity'
[Install]
WantedBy=multi-user.target
"""
enable = true
check = ["sh", "-c", "[ ! -e /run/hang ] || sleep 60; grep -q good /run/rules || { echo no rules; exit 1; }"]
check_within = "10s"

[[unit]]
name = "agent.service"
content = """
[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
"""
enable = true

[[probe]]
name = "api"
command = ["cat", "/run/api"]
before = ["unit:agent.service"]
within = "0s"

[[probe]]
name = "rules"
unit = "rules.service"

[[probe]]
name = "elsewhere"
command = ["sh", "-c", "echo gone; exit 1"]
decides = false
"#;

/// Which run of the unit this is.
fn life(host: Host<'_>, unit: &str) -> String {
    host.run(&format!("systemctl show -p InvocationID --value {unit}")).ok()
}

#[test]
fn a_unit_waits_for_its_gate_and_is_restarted_when_its_check_fails() {
    let lab = Lab::new(&[H1]);
    let host = lab.host("h1");
    host.write("/srv/rules", "good\n");
    crate::lab::sign_on(host, ROLE, "");
    assert!(host.run("kpull verify").fails(1).contains("no release yet"));

    // the gate is shut: all else is done, and what waits was never touched
    let waits = host.run("kpull apply").fails(3);
    assert!(waits.contains("unit:agent.service waits for probe:api: cat failed"), "{waits}");
    assert_eq!(host.run("systemctl is-active rules").ok(), "active");
    assert_eq!(host.run("systemctl is-enabled agent").stdout, "disabled\n");
    assert_eq!(life(host, "agent"), "");
    host.run("echo v1.8 > /run/api").ok();
    let applied = host.run("kpull apply --json").ok();
    assert!(applied.contains("\"changed\":[\"unit:agent.service\"]"), "{applied}");
    let (agent, rules) = (life(host, "agent"), life(host, "rules"));
    host.run("rm /run/api").ok();
    assert!(host.run("kpull apply").ok().contains("nothing to do"), "nothing waits, so the gate is not asked");
    host.run("echo v1.8 > /run/api").ok();

    // the health of all, and of some
    let table = host.run("kpull verify");
    assert_eq!(table.code(), 3, "{table}");
    let lines: Vec<&str> = table.stdout.lines().collect();
    assert_eq!(
        lines,
        [
            "NAME        STATUS      MESSAGE   ERROR",
            "api         Healthy     v1.8",
            "rules       Healthy     ok",
            "elsewhere   Unhealthy             sh failed: exit status: 1; gone",
            "2 healthy, 1 not",
        ]
    );
    assert!(host.run("kpull verify rules probe:api").ok().ends_with("2 healthy, 0 not"));

    // another user undoes its work
    host.run("rm /run/rules").ok();
    let plan = host.run("kpull plan");
    assert_eq!(plan.code(), 2, "{plan}");
    assert!(plan.stdout.contains("unit:rules.service  restart (its check fails)"), "{plan}");
    let applied = host.run("kpull apply --json").ok();
    assert!(applied.contains("\"restarted\":[\"unit:rules.service\"]"), "{applied}");
    assert_eq!(host.run("cat /run/rules").ok(), "good");
    assert_ne!(life(host, "rules"), rules);
    assert_eq!(life(host, "agent"), agent);
    assert!(host.run("kpull apply").ok().contains("nothing to do"));

    // a restart does not help: the check's own words
    host.run("echo bad > /srv/rules && rm /run/rules").ok();
    let failed = host.run("kpull apply").fails(3);
    assert!(failed.contains("rules.service was started, but its check still fails: exit status: 1"), "{failed}");
    assert!(failed.contains("no rules"), "{failed}");
    host.run("echo good > /srv/rules && kpull apply").ok();

    // a check that hangs is no reason for a restart
    let rules = life(host, "rules");
    host.run("touch /run/hang").ok();
    let failed = host.run("kpull apply").fails(1);
    assert!(failed.contains("the check of rules.service did not end in time"), "{failed}");
    assert_eq!(life(host, "rules"), rules);
}

#[test]
fn a_unit_that_others_restarted_gets_its_time_until_its_check_succeeds() {
    let lab = Lab::new(&[H1]);
    let host = lab.host("h1");
    // it fails as often as /run/fails says
    let role = |within: &str| {
        format!(
            r#"
summary = "For a test"
[[unit]]
name = "rules.service"
content = """
[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
"""
enable = true
check = ["sh", "-c", "n=$(cat /run/fails) && [ $n -gt 0 ] || exit 0; echo $((n - 1)) > /run/fails; exit 1"]
check_within = "{within}"
"#
        )
    };
    crate::lab::sign_on(host, &role("1h"), "");
    host.run("kpull apply").ok();
    host.run("systemctl restart rules && echo 3 > /run/fails").ok();
    let before = life(host, "rules");
    host.run("kpull plan").ok();
    assert_eq!(host.run("cat /run/fails").ok(), "0");
    host.run("echo 2 > /run/fails").ok();
    host.run("kpull apply").ok();
    assert_eq!((life(host, "rules"), host.run("cat /run/fails").ok()), (before.clone(), "0".to_owned()));

    // without time, the first failure counts
    host.write("/srv/site/roles/app/role.toml", role("0s"));
    host.run("kpull sign --site /srv/site --key /root/key && kpull apply").ok();
    host.run("echo 100 > /run/fails").ok();
    assert!(host.run("kpull plan").stdout.contains("restart (its check fails)"));
    assert!(host.run("kpull apply").fails(3).contains("its check still fails"));
    assert_ne!(life(host, "rules"), before);
}
