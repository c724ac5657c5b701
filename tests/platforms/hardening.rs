//! The role hardening on a kernel of its own, as a node of a cluster has it: the machine of `selinux-image`, with SELinux off.

use std::fs;

use toml::Table;

use crate::platforms::steps::{SITE, boot, with_program};
use crate::support::machine::run;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

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
    for (name, role) in [("none", ""), ("node", NODE)] {
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

const STEPS: &str = r#"
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
step before values
step loads loads
step applied with '"app", "hardening"' node
step held values
step node node
step blocked modprobe dccp
step idle kpull plan
worsen
step drift kpull plan
step corrected converge
step held-again values
boot() { worsen && systemctl restart systemd-sysctl.service && values; }
step boot boot
step removed with '"app"' none
step after values
step loads-after loads
step files sh -c 'ls /etc/sysctl.d /etc/modprobe.d | grep -E "kpull|hardening" || true'
"#;
