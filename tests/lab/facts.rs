//! Facts of a real host: what its own programs say, and programs that are custom facts.

use serde_json::json;

use crate::support::alone::World;

const ROLE: &str = r##"
[facts.who]
default = {}

[[file]]
path = "/etc/kpull/facts.d/who"
content = "#!/bin/sh\necho \"{\\\"uid\\\": $(id -u), \\\"rights\\\": \\\"$(grep NoNewPrivs /proc/self/status | cut -f2)\\\", \\\"value\\\": \\\"$(cat /srv/value)\\\"}\"\ntest -e /srv/value\n"
mode = "0755"

[[file]]
path = "/etc/facts"
content = "{{ facts.custom.who | tojson }} {{ facts.default_ipv4.interface }} {{ facts.fqdn }}\n"
"##;

#[test]
fn a_program_is_a_custom_fact_and_runs_without_rights_in_each_full_check() {
    let world = World::new();
    let host = world.host();
    host.write("/srv/value", "one\n");
    world.release(ROLE);
    host.run("kpull apply").ok();
    assert!(host.run("cat /etc/facts").ok().starts_with("{} "), "the first run installs it");
    world.converges();
    let shown = host.run("cat /etc/facts").ok();
    let uid = host.run("id -u kpull 2> /dev/null || id -u nobody").ok();
    assert!(shown.contains(&format!("\"uid\": {}", uid.trim())), "{shown}");
    assert!(shown.contains("\"rights\": \"1\"") && shown.contains("\"value\": \"one\""), "{shown}");
    // other output is found by a full check, and a failure keeps the last value
    host.write("/srv/value", "two\n");
    host.run("kpull apply --full").ok();
    assert!(host.run("cat /etc/facts").ok().contains("\"value\": \"two\""));
    host.run("rm /srv/value").ok();
    let run = host.run("kpull apply --full --json").ok();
    assert!(run.contains("\"event\":\"fact_failed\"") && run.contains("it exited with 1"), "{run}");
    assert!(host.run("cat /etc/facts").ok().contains("\"value\": \"two\""));
    let failed = host.run("kpull facts");
    assert_eq!(failed.code(), 1, "{failed}");
    // a fact that the role uses changes
    host.run("echo '192.168.1.11 h1.lab.example h1' > /etc/hosts && kpull apply").ok();
    let shown = host.run("cat /etc/facts").ok();
    assert!(shown.ends_with(" h1.lab.example"), "{shown}");
    // the facts are what the host's own programs say
    host.run("ip -6 address add fd00::11/64 dev host0 nodad && ip -6 route add default via fd00::1 dev host0").ok();
    let facts = host.run("kpull facts --json").stdout;
    let facts: serde_json::Value = serde_json::from_str(facts.lines().next().unwrap()).unwrap();
    let facts = &facts["facts"];
    let says = |command: &str| host.run(command).stdout.trim().to_owned();
    assert_eq!(facts["machine_id"], says("cat /etc/machine-id"));
    assert_eq!(facts["virtualization"], says("systemd-detect-virt || true"));
    assert_eq!(facts["default_ipv4"]["gateway"], says("ip -4 route show default | cut -d' ' -f3"));
    assert_eq!(facts["os"]["codename"], says(". /etc/os-release; echo $VERSION_CODENAME"));
    assert_eq!(facts["mounts"]["/"]["type"], says("findmnt -no FSTYPE /"));
    assert_eq!(facts["timezone"], says("readlink -f /etc/localtime | cut -d/ -f5-"));
    let ipv6 = json!({ "interface": "host0", "address": "fd00::11", "gateway": "fd00::1" });
    assert_eq!(facts["default_ipv6"], ipv6);
    let disks = facts["disks"].as_object().unwrap().iter();
    let disks: Vec<String> = disks.map(|(name, disk)| format!("{name} {}", disk["size"])).collect();
    assert_eq!(
        disks.join("\n"),
        says(
            "lsblk -dnb -o NAME,SIZE,TYPE | awk '$3 == \"disk\" && $1 !~ /^zram/ { print $1, int($2 / 1048576) }' | sort"
        )
    );
    // programs that take too long, or print too much
    host.run(
        "cd /etc/kpull/facts.d && printf '#!/bin/sh\nsleep 60\n' > slow && printf '#!/bin/sh\nseq 100000\n' > large && chmod 755 slow large",
    )
    .ok();
    let failed = host.run("kpull facts");
    assert_eq!(failed.code(), 1, "{failed}");
    for words in [
        "the program of the custom fact /etc/kpull/facts.d/slow failed: it did not end in time",
        "the custom fact /etc/kpull/facts.d/large has more than 61440 bytes",
    ] {
        assert!(failed.to_string().contains(words), "no {words} in {failed}");
    }
    host.run("! pgrep -x sleep").ok();
}
