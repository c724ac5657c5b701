//! The role hardening on a kernel of its own, as a node of a cluster has it: the machine of `selinux-image`, with SELinux off.

use std::collections::BTreeMap;
use std::fs;

use toml::Table;

use crate::platforms::steps::{SITE, boot, with_program};
use crate::support::machine::run;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
const PAGE: &str = include_str!("../../docs/src/development/dev-sec.md");

/// What the page says about a control: with the defaults, and with its variables.
fn cells(id: &str) -> [&'static str; 2] {
    let row = PAGE.lines().find(|line| line.starts_with(&format!("| {id} |"))).unwrap();
    let cells: Vec<&str> = row.split('|').map(str::trim).collect();
    [cells[3], cells[4]]
}

#[test]
fn kernel_settings_of_the_role_hardening_hold_at_once_and_at_boot_and_are_restored() {
    let dir = with_program();
    run("cp", ["-r", &format!("{REPOSITORY}/roles/hardening"), dir.path().to_str().unwrap()]);
    let role: Table = fs::read_to_string(dir.path().join("hardening/role.toml")).unwrap().parse().unwrap();
    let settings: Vec<(&String, i64)> = role["vars"]["sysctl"]
        .as_table()
        .unwrap()
        .iter()
        .filter_map(|(name, value)| Some((name, value.as_integer()?)))
        .collect();
    assert!(settings.len() > 30, "{settings:?}");
    let lines = |value: fn(i64) -> i64| -> String {
        settings.iter().map(|(name, wanted)| format!("{name} {}\n", value(*wanted))).collect()
    };
    let (wanted, worse) = (lines(|value| value), lines(|value| i64::from(value == 0)));
    fs::write(dir.path().join("worse"), &worse).unwrap();
    fs::copy(format!("{REPOSITORY}/tests/lab/hardening/controls"), dir.path().join("controls")).unwrap();
    let strict = PAGE.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    for (name, vars) in [("strict", strict), ("dumps", DUMPS)] {
        fs::write(dir.path().join(format!("{name}.site")), format!("name = \"lab\"\n{vars}")).unwrap();
    }
    for (name, role) in [("none", ""), ("node", NODE), ("audit", AUDIT)] {
        fs::write(dir.path().join(format!("{name}.toml")), format!("summary = \"For a test\"\n{role}")).unwrap();
    }
    let results = boot(
        dir.path(),
        &format!("{SITE}{STEPS}"),
        "selinux=0 systemd.mask=firewalld.service systemd.mask=auditd.service",
    );
    results.step("enrolled", 0);
    assert_eq!(results.step("before", 0), worse, "the kernel has all settings and takes other values");
    results.step("loads", 0);

    results.step("applied", 0);
    assert_eq!(results.step("held", 0), wanted);
    assert_eq!(results.step("node", 0), "1\n1\nbr_netfilter overlay\n", "what a node needs besides");
    results.step("blocked", 1);
    results.step("idle", 0);

    let plan = results.step("drift", 2);
    assert_eq!(plan.matches("sysctl:").count(), settings.len(), "{plan}");
    results.step("corrected", 0);
    assert_eq!(results.step("held-again", 0), wanted);
    assert_eq!(results.step("boot", 0), wanted, "systemd-sysctl reads the files as at boot");

    let controls = |step: &str| -> BTreeMap<String, bool> {
        let output = results.step(step, 0);
        output.lines().filter_map(|line| line.split_once(' ')).map(|(id, is)| (id.to_owned(), is == "yes")).collect()
    };
    let before = controls("controls-before");
    assert_eq!(before.len(), 4, "{before:?}");
    results.step("strict", 0);
    for (column, step) in ["controls-default", "controls-strict"].into_iter().enumerate() {
        let now = controls(step);
        for id in ["os-12", "package-08", "sysctl-29", "sysctl-31b", "sysctl-33"] {
            let word = match (before.get(id), now.get(id)) {
                (_, None) => "–",
                (_, Some(false)) => "fails",
                (Some(true), _) => "as installed",
                _ => "passes",
            };
            assert_eq!((id, word), (id, cells(id)[column]));
        }
    }
    // what the page says beside them
    results.step("path-missing", 0);
    assert!(!controls("controls-missing")["sysctl-31b"]);
    results.step("path", 0);
    let now = controls("controls-path");
    assert!(now["sysctl-31b"] && now["package-08"], "{now:?}");

    results.step("removed", 0);
    assert_eq!(results.step("after", 0), worse);
    results.step("loads-after", 0);
    assert_eq!(results.step("files", 0), "", "nothing of kpull is left for the next boot");
}

/// What the role base has for a node, without the rest of the cluster.
const NODE: &str = r#"
[[module]]
name = "br_netfilter"
[[module]]
name = "overlay"
[[sysctl]]
name = "net.ipv4.ip_forward"
value = 1
[[sysctl]]
name = "net.bridge.bridge-nf-call-iptables"
value = 1
"#;

/// Core dumps of setuid programs, to a program.
const DUMPS: &str = "[vars.hardening.sysctl]\n\"fs.suid_dumpable\" = 2\n\"kernel.core_pattern\" = \"|/bin/false\"\n";

/// What auditd has to have besides Debian's own settings.
const AUDIT: &str = r#"
[[package]]
name = "auditd"
[[setting]]
path = "/etc/audit/auditd.conf"
format = "ini"
key = "log_format"
value = "RAW"
[[setting]]
path = "/etc/audit/auditd.conf"
format = "ini"
key = "max_log_file_action"
value = "KEEP_LOGS"
"#;

const STEPS: &str = r#"
controls() { bash /mnt/controls machine; }
values() { while read -r name _; do echo "$name $(cat "/proc/sys/${name//.//}")"; done < /mnt/worse; }
worsen() { while read -r name value; do echo "$value" > "/proc/sys/${name//.//}"; done < /mnt/worse; }
with() { # ROLES NAME
    printf 'address = "10.0.2.15"\nroles = [%s]\n' "$1" > /srv/site/host_vars/h1.toml && release "$2"
}
loads() { modprobe dccp && modprobe -r dccp; }
node() {
    cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/bridge/bridge-nf-call-iptables
    lsmod | cut -d' ' -f1 | grep -xE 'br_netfilter|overlay' | sort | xargs
}
step enrolled enrolled
cp -r /mnt/hardening /srv/site/roles/
worsen
step controls-before controls
step before values
step loads loads
step applied with '"app", "hardening"' node
step held values
step controls-default controls
step node node
step blocked modprobe dccp
step idle kpull plan
worsen
step drift kpull plan
step corrected converge
step held-again values
boot() { worsen && systemctl restart systemd-sysctl.service && values; }
step boot boot
cp /mnt/strict.site /srv/site/site.toml
step strict with '"app", "hardening"' none
step controls-strict controls
sed '/core_pattern/d' /mnt/dumps.site > /srv/site/site.toml
step path-missing with '"app", "hardening"' audit
step controls-missing controls
cp /mnt/dumps.site /srv/site/site.toml
step path with '"app", "hardening"' audit
step controls-path controls
echo 'name = "lab"' > /srv/site/site.toml
step removed with '"app"' none
step after values
step loads-after loads
step files sh -c 'ls /etc/sysctl.d /etc/modprobe.d | grep -E "kpull|hardening" || true'
"#;
