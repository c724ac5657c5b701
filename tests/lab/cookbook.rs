//! The manual's recipes on a real host: all that need no package from a network, at once.

use crate::support::alone::World;
use crate::support::cookbook::{Recipe, recipes};

/// Those that a host of the lab has the packages for.
const HERE: [&str; 20] = [
    "Users from a list",
    "Offboarding",
    "sudo",
    "Message of the day",
    "Time zone",
    "Locale",
    "Entries in /etc/hosts",
    "DNS resolver",
    "A program of your own",
    "Alternatives",
    "A job by timer instead of cron",
    "Backups",
    "The size of the journal",
    "Firewall",
    "WireGuard",
    "Kernel settings",
    "No swap",
    "Kernel modules that must not load",
    "A certificate authority that hosts trust",
    "Limits of processes",
];

#[test]
fn recipes_work_on_a_real_host_and_are_removed_again() {
    let world = World::new();
    let host = world.host();
    world.release("");
    world.converges();
    let state = || host.run("find /etc /usr/local /var/backups -type f | sort | xargs sha256sum").ok();
    let before = state();
    let here = recipes().into_iter().filter(|recipe| HERE.contains(&recipe.title.as_str()));
    let here: Vec<(String, Recipe)> = here.enumerate().map(|(number, recipe)| (format!("r{number}"), recipe)).collect();
    assert_eq!(here.len(), HERE.len(), "a recipe has gone from the page");
    for (name, recipe) in &here {
        host.write(&format!("/srv/site/roles/{name}/role.toml"), &recipe.role);
    }
    let names: Vec<String> = here.iter().map(|(name, _)| format!("{name:?}")).collect();
    let roles = |names: &str| {
        host.write("/srv/site/host_vars/h1.toml", format!("address = \"192.168.1.11\"\nroles = [{names}]\n"))
    };
    roles(&names.join(", "));
    world.release("");
    world.converges();
    assert_eq!(
        host.run("systemctl is-active app.service cleanup.timer site-backup.timer").ok(),
        "active\nactive\nactive"
    );
    assert_eq!(host.run("grep -c ^ssh- /home/ann/.ssh/authorized_keys && stat -c %U /home/ann/.ssh").ok(), "1\nann");
    assert_eq!(host.run("sysctl -n net.ipv4.tcp_syncookies && getent hosts h1").ok(), "1\n192.168.1.11    h1");
    host.run("systemctl start cleanup.service site-backup.service && test -s /var/backups/site/$(date +%u).tar.gz")
        .ok();
    host.run("openssl verify -CAfile /etc/ssl/certs/ca-certificates.crt /usr/local/share/ca-certificates/site.crt")
        .ok();
    assert_eq!(host.run("firewall-cmd --list-services").ok(), "https ssh");
    let alternatives = "readlink /etc/alternatives/ip{,6}tables{,-restore}";
    let legacy = host.run(alternatives).ok();
    assert_eq!(legacy.matches("-legacy").count(), 4, "{legacy}");
    for drift in ["ln -sfn /usr/sbin/iptables-nft /etc/alternatives/iptables", "update-alternatives --auto ip6tables"] {
        host.run(drift).ok();
        assert_eq!(host.run("kpull plan").code(), 2, "{drift}");
        world.converges();
        assert_eq!(host.run(alternatives).ok(), legacy, "{drift}");
    }

    roles("\"app\"");
    host.run("rm /var/backups/site/*.tar.gz").ok();
    world.release("");
    world.converges();
    host.run("update-ca-certificates --fresh >/dev/null 2>&1").ok();
    assert_eq!(host.run("systemctl is-active app.service cleanup.timer").stdout, "inactive\ninactive\n");
    let after = state();
    // accounts stay, and what the firewall had beside the recipe
    let is_of_others = |line: &&str| {
        [
            "/etc/passwd",
            "/etc/group",
            "/etc/shadow",
            "/etc/gshadow",
            "/etc/subuid",
            "/etc/subgid",
            "/etc/firewalld",
            "/etc/ssl/certs/java",
            "/etc/kpull",
        ]
        .iter()
        .any(|start| line.contains(start))
    };
    let rest = |text: &str| text.lines().filter(|line| !is_of_others(line)).map(str::to_owned).collect::<Vec<_>>();
    let (before, after) = (rest(&before), rest(&after));
    let left: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    assert!(left.is_empty(), "{left:?}");
}
