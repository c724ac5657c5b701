//! The role hardening on a real host, and which controls of dev-sec's baselines pass then, as `development/dev-sec.md` says.

use std::collections::BTreeMap;

use toml::{Table, Value};

use crate::lab::software::offer_script;
use crate::support::alone::World;
use crate::support::lab::Host;

const PAGE: &str = include_str!("../../docs/src/development/dev-sec.md");
const ROLE: &str = include_str!("../../roles/hardening/role.toml");
const FILES: [(&str, &str); 3] = [
    ("role.toml", ROLE),
    ("templates/sshd.conf", include_str!("../../roles/hardening/templates/sshd.conf")),
    ("templates/ssh.conf", include_str!("../../roles/hardening/templates/ssh.conf")),
];

/// Controls about the kernel of the machine, which a host in the lab can't set: the tree has what kpull would set.
const KERNEL: [&str; 5] = ["sysctl-30", "sysctl-31a", "sysctl-32", "sysctl-34", "sysctl-35"];

/// Controls that a machine of its own has to show: `tests/platforms/hardening.rs`.
const MACHINE: [&str; 5] = ["os-12", "package-08", "sysctl-29", "sysctl-31b", "sysctl-33"];

/// Packages that have to go.
const SERVERS: [&str; 6] = ["openbsd-inetd", "telnetd", "rsh-server", "ypserv", "tftpd-hpa", "prelink"];

/// Options of sshd that are the opposite of what the role sets.
const SSHD: &str = "ClientAliveCountMax 9\nClientAliveInterval 0\nDebianBanner yes\nGSSAPIAuthentication yes\nGatewayPorts yes
HostbasedAuthentication yes\nIgnoreRhosts no\nIgnoreUserKnownHosts no\nKbdInteractiveAuthentication yes\nLogLevel INFO\nLoginGraceTime 120
MaxAuthTries 9\nMaxSessions 5\nPasswordAuthentication yes\nPermitEmptyPasswords yes\nPermitRootLogin yes\nPermitTunnel yes
PermitUserEnvironment yes\nPubkeyAuthentication no\nStrictModes no\nTCPKeepAlive yes\nX11Forwarding yes\n";

/// Everything that the role restores: files with their modes, settings of the network.
const STATE: &str = "cd /; find etc -xdev -type f ! -path 'etc/kpull/*' ! -name '*-' -exec stat -c '%a %U %G %n' {} + -exec sha256sum {} + | sort
    stat -c '%a %n' /usr/lib/openssh/ssh-keysign /etc/cron.*
    sysctl -a 2>/dev/null | grep -E '^net.ipv[46].(conf.(all|default)|icmp|tcp_(syn|time|rfc))' | grep -v stable_secret; true";

/// What the page says of each control: with the defaults, and with its variables.
fn expected() -> BTreeMap<&'static str, [&'static str; 2]> {
    let rows = PAGE.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let id = *cells.get(1)?;
        let is_control = ["os-", "package-", "sysctl-", "ssh-", "sshd-"].iter().any(|start| id.starts_with(start));
        is_control.then(|| (id, [cells[3], cells[4]]))
    });
    rows.collect()
}

/// Which controls pass.
fn results(host: Host<'_>) -> BTreeMap<String, bool> {
    let output = host.run("TREE=/srv/tree bash /root/controls").ok();
    let result = |line: &str| line.split_once(' ').map(|(id, passes)| (id.to_owned(), passes == "yes"));
    output.lines().filter_map(result).collect()
}

/// The same in the words of the page.
fn words(before: &BTreeMap<String, bool>, now: &BTreeMap<String, bool>, id: &str) -> &'static str {
    match (before.get(id), now.get(id)) {
        (_, None) => "–",
        (_, Some(false)) => "fails",
        (Some(true), _) => "as installed",
        _ if KERNEL.contains(&id) => "written",
        _ => "passes",
    }
}

/// Makes the host as bad as the role can improve.
fn worsen(host: Host<'_>, settings: &Table) {
    for name in SERVERS {
        offer_script(host, name, "true");
    }
    host.run(&format!("DEBIAN_FRONTEND=noninteractive apt-get install -qq -y openssh-server {}", SERVERS.join(" ")))
        .ok();
    host.write("/etc/ssh/sshd_config.d/50-theirs.conf", SSHD);
    host.run(
        "ssh-keygen -q -t ed25519 -N '' -f /root/login && useradd -m -s /bin/bash ops && install -d -o ops -m 700 /home/ops/.ssh &&
        install -o ops -m 600 /root/login.pub /home/ops/.ssh/authorized_keys && passwd -d root
        touch /etc/hosts.equiv /etc/crontab && chmod 644 /etc/crontab /etc/shadow && chmod 664 /etc/passwd && mkdir -p /etc/cron.hourly
        sed -i 's/^LOGIN_RETRIES.*/LOGIN_RETRIES 9/; /^LOGIN_TIMEOUT/d; s/^PASS_WARN_AGE.*/PASS_WARN_AGE 1/' /etc/login.defs",
    )
    .ok();
    let opposite = |(name, value): (&String, &Value)| format!("{name}={}", u8::from(value.as_integer() == Some(0)));
    // those of forwarding reset others
    let (first, then): (Vec<_>, Vec<_>) =
        settings.iter().filter(|(name, _)| name.starts_with("net.")).partition(|(name, _)| name.contains("forward"));
    let all: Vec<String> = first.into_iter().chain(then).map(opposite).collect();
    host.run(&format!("sysctl -qw {}", all.join(" "))).ok();
}

#[test]
fn the_controls_hold_as_listed_operators_can_log_in_and_all_is_restored() {
    let world = World::new();
    let host = world.host();
    let strict = PAGE.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let (role, more): (Table, Table) = (ROLE.parse().unwrap(), strict.parse().unwrap());
    let mut settings = role["vars"]["sysctl"].as_table().unwrap().clone();
    settings.extend(more["vars"]["hardening"]["sysctl"].as_table().unwrap().clone());
    worsen(host, &settings);
    host.copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/hardening/controls"), "/root/controls", 0o755);
    for (name, text) in FILES {
        host.write(&format!("/srv/site/roles/hardening/{name}"), text);
    }
    let of_machine = settings.keys().filter(|name| !name.starts_with("net."));
    let left: Table = of_machine.map(|name| (name.clone(), Value::from(""))).collect();
    let left = format!("[vars.hardening.sysctl]\n{left}");
    let h1 = |roles: &str| {
        let vars = if roles.contains("hardening") { left.as_str() } else { "" };
        host.write("/srv/site/host_vars/h1.toml", format!("address = \"192.168.1.11\"\nroles = [{roles}]\n{vars}"));
    };
    host.write("/srv/site/host_vars/t1.toml", "address = \"192.168.1.12\"\nroles = [\"hardening\"]\n");
    host.run(
        "mkdir -p /srv/tree/etc/pam.d && cp -a /etc/kpull /etc/os-release /srv/tree/etc && cp /etc/pam.d/su /srv/tree/etc/pam.d &&
        sed -i 's/^host = .*/host = \"t1\"/' /srv/tree/etc/kpull/kpull.toml",
    )
    .ok();
    let app = "[[unit]]\nname = \"ssh.service\"\nenable = true\n";
    h1("\"app\"");
    world.release(app);
    world.converges();
    let (state, before) = (host.run(STATE).ok(), results(host));
    let logs_in = || {
        let ssh = "ssh -i /root/login -o BatchMode=yes -o StrictHostKeyChecking=accept-new ops@192.168.1.11 ulimit -Hc";
        host.run(ssh).ok()
    };
    let compare = |column: usize| {
        let now = results(host);
        let wrong: Vec<String> = expected()
            .into_iter()
            .filter(|(id, cells)| !MACHINE.contains(id) && words(&before, &now, id) != cells[column])
            .map(|(id, cells)| format!("{id}: {}, not {}", words(&before, &now, id), cells[column]))
            .collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let known = expected();
        assert!(now.keys().all(|id| known.contains_key(id.as_str())), "{now:?}");
        assert_eq!(known.len(), 130, "the controls of both baselines");
    };

    h1("\"app\", \"hardening\"");
    world.release(app);
    world.converges();
    host.run("kpull apply --root /srv/tree").ok();
    compare(0);
    assert_eq!(logs_in(), "0", "no core dumps");
    assert_eq!(
        host.run("su - ops -c umask; su ops -c 'ulimit -Hc'; visudo -cq && cat /etc/sudoers.d/10-hardening").ok(),
        "0027\n0\nDefaults use_pty"
    );
    assert_eq!(host.run("runuser -u ops -- su -c 'id -u'").ok(), "0", "su is for everybody by default");

    // sshd refuses an option: it keeps those that it has
    let sshd = "cat /etc/ssh/sshd_config.d/10-hardening.conf; ls -A /etc/ssh/sshd_config.d; sshd -T; systemctl show -p MainPID -p StateChangeTimestampMonotonic ssh";
    let runs = host.run(sshd).ok();
    host.write("/srv/site/site.toml", "name = \"lab\"\n[vars.hardening.sshd]\nMaxAuthTries = \"six\"\n");
    world.release(app);
    let refused = host.run("kpull apply").fails(3);
    for words in
        ["refuses the new /etc/ssh/sshd_config.d/10-hardening.conf", "MaxAuthTries integer value invalid", " line "]
    {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    assert_eq!((host.run(sshd).ok(), logs_in()), (runs, "0".to_owned()));
    host.write("/srv/site/site.toml", "name = \"lab\"\n");
    world.release(app);
    world.converges();

    // drift of each sort
    host.run("chmod 644 /etc/ssh/sshd_config /etc/crontab && sysctl -qw net.ipv4.tcp_syncookies=0 && sed -i 's/^UMASK.*/UMASK 000/' /etc/login.defs && touch /etc/hosts.equiv").ok();
    let plan = host.run("kpull plan");
    assert_eq!(
        plan.stdout
            .lines()
            .filter(|line| [
                "permissions:/etc/ssh/sshd_config",
                "permissions:/etc/crontab",
                "sysctl:net.ipv4.tcp_syncookies",
                "line:/etc/login.defs#UMASK",
                "absent:/etc/hosts.equiv"
            ]
            .iter()
            .any(|id| line.contains(id)))
            .count(),
        5,
        "{plan}"
    );
    world.converges();
    compare(0);

    host.write("/srv/site/site.toml", format!("name = \"lab\"\n{strict}"));
    world.release(app);
    world.converges();
    host.run("kpull apply --root /srv/tree").ok();
    compare(1);
    assert_eq!(logs_in(), "0");
    assert_ne!(host.run("runuser -u ops -- su -c 'id -u'").code(), 0, "ops is not in the group");
    host.run("usermod -aG sudo ops").ok();
    assert_eq!(host.run("runuser -u ops -- su -c 'id -u'; gpasswd -d ops sudo >&2").ok(), "0");

    host.write("/srv/site/site.toml", "name = \"lab\"\n");
    h1("\"app\"");
    world.release(app);
    world.converges();
    let now = host.run(STATE).ok();
    let differ: Vec<&str> = now
        .lines()
        .filter(|line| !state.contains(line))
        .chain(state.lines().filter(|line| !now.contains(line)))
        .collect();
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}
