//! The cookbook is found by the words that people search for.

use std::collections::BTreeSet;

use crate::docs::tables::{page, tables};
use crate::support::cookbook::recipes;

/// What somebody searches for who comes from another tool, or from doing it by hand.
const WORDS: [&str; 52] = [
    "/etc/hosts",
    "acl",
    "apt repository",
    "audit.rules",
    "authorized_keys",
    "automatic updates",
    "backup",
    "bastion",
    "ca certificate",
    "certbot",
    "chrony",
    "container",
    "cron",
    "crontab",
    "dns",
    "docker",
    "docker-compose",
    "fail2ban",
    "firewalld",
    "fstab",
    "hardening",
    "hostname",
    "hosts file",
    "iptables",
    "journald",
    "jump host",
    "kernel module",
    "let's encrypt",
    "limits.conf",
    "locale",
    "logrotate",
    "mariadb",
    "mkfs",
    "motd",
    "mysql",
    "nfs",
    "nginx",
    "node_exporter",
    "ntp",
    "postgresql",
    "proxy",
    "redis",
    "resolv.conf",
    "rsyslog",
    "selinux",
    "sshd_config",
    "static ip",
    "sudoers",
    "swap file",
    "sysctl",
    "ulimit",
    "wireguard",
];

/// The anchor of a heading.
fn fragment(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|one| one.is_alphanumeric() || ['-', '_'].contains(one)).collect()
}

#[test]
fn each_word_that_people_search_for_leads_to_a_recipe_or_a_page() {
    let found = tables("usage/cookbook.md", "Find a recipe");
    let [index] = &found[..] else { panic!("{} tables", found.len()) };
    let words: BTreeSet<String> =
        index.rows.iter().flat_map(|row| row[0].split(", ")).map(|word| word.replace('`', "").to_lowercase()).collect();
    let missing: Vec<&str> = WORDS.into_iter().filter(|word| !words.contains(*word)).collect();
    assert!(missing.is_empty(), "{missing:?}");

    let mut reached = BTreeSet::new();
    for row in &index.rows {
        let targets: Vec<&str> = row[1].split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
        assert!(!targets.is_empty(), "{row:?} leads nowhere");
        for target in targets {
            let (path, wanted) = target.split_once('#').unwrap_or((target, ""));
            let text = page(&if path.is_empty() { "usage/cookbook.md".to_owned() } else { format!("usage/{path}") });
            let mut headings =
                text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
            assert!(wanted.is_empty() || headings.any(|heading| fragment(heading) == wanted), "no {target}: {row:?}");
            reached.insert(target.to_owned());
        }
    }
    let others: Vec<String> = recipes()
        .into_iter()
        .map(|one| one.title)
        .filter(|title| !reached.contains(&format!("#{}", fragment(title))))
        .collect();
    assert!(others.is_empty(), "no word leads to {others:?}");
}
