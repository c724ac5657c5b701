//! The manual's recipes on a real host, all at once: each does what its heading says, and is removed again.

use crate::lab::kinds::REPOSITORIES;
use crate::support::alone::World;
use crate::support::cookbook::{Recipe, recipes};
use crate::support::lab::{H1, Host, Lab};

/// What the recipes need and the base of hosts does not have.
const PACKAGES: [&str; 12] = [
    "chrony",
    "fail2ban",
    "logrotate",
    "mariadb-server",
    "prometheus-node-exporter",
    "python3-systemd",
    "redis-server",
    "rsyslog",
    "systemd-resolved",
    "tzdata",
    "unattended-upgrades",
    "wireguard-tools",
];

/// Those that other tests apply to hosts, or that need what a lab does not have.
const ELSEWHERE: [&str; 8] = [
    // back.rs
    "A static address with systemd-networkd",
    "A static address with NetworkManager",
    // quadlets.rs
    "A container as a service",
    "Several containers instead of docker-compose",
    // tests/platforms/selinux.rs
    "Audit rules",
    // a server of the ACME protocol, and a kernel with NFS; swap would be the machine's
    "A certificate from Let's Encrypt",
    "A network share (NFS)",
    "A swap file",
];

/// Not together with the others: it allows only some ports.
const ALONE: &str = "Firewall without firewalld";

/// What works with each recipe: its heading, a command on the host, and what the command prints.
const WORKS: &[(&str, &str, &str)] = &[
    (
        "SSH server",
        "ssh ann@192.168.1.11 id -un; ssh -o PreferredAuthentications=none ann@192.168.1.11 2>&1 | grep -o '([a-z,-]*)'",
        "ann\n(publickey)",
    ),
    (
        "Users from a list",
        "stat -c %U /home/ann/.ssh /home/bob; grep -c ^ssh- /home/ann/.ssh/authorized_keys",
        "ann\nbob\n1",
    ),
    ("Offboarding", "id -nG carol; runuser -u carol -- sudo -n id -u", "carol ops\n0"),
    ("sudo", "gpasswd -a bob admins >/dev/null; sudo -l -U bob | grep -o '(ALL : ALL) ALL'", "(ALL : ALL) ALL"),
    (
        "Bastion",
        "ssh -o ProxyCommand='ssh -W %h:%p dan@192.168.1.11' ann@192.168.1.11 id -un; ssh dan@192.168.1.11 id",
        "ann\nThis account is currently not available.",
    ),
    (
        "Message of the day",
        "echo exit | ssh -tt ann@192.168.1.11 | grep -o 'kpull manages this host'",
        "kpull manages this host",
    ),
    ("NTP", "chronyc -n sources | grep -o ' 192.168.1.254 '", " 192.168.1.254 "),
    ("Time zone", "timedatectl show -p Timezone --value; date -d 2026-07-01 +%Z", "Europe/Berlin\nCEST"),
    ("Locale", "localectl status | grep -o LANG=.*; LC_ALL=en_US.UTF-8 locale charmap", "LANG=en_US.UTF-8\nUTF-8"),
    ("Entries in /etc/hosts", "getent -s files hosts h1", "192.168.1.11    h1"),
    (
        "DNS resolver",
        "resolvectl dns | head -1; grep ^nameserver /etc/resolv.conf; resolvectl query -4 --legend=no localhost | grep -o 127.0.0.1",
        "Global: 9.9.9.9 149.112.112.112\nnameserver 127.0.0.53\n127.0.0.1",
    ),
    ("nginx with TLS", "curl -sS --cacert /etc/nginx/tls/ca.pem https://h1/", "It works"),
    (
        "PostgreSQL",
        "pg_isready -q -h 192.168.1.11; runuser -u postgres -- psql -Atc 'show max_connections' \
         -c \"select address from pg_hba_file_rules where type = 'hostssl' and auth_method = 'scram-sha-256' and netmask = '255.255.255.0'\"",
        "200\n192.168.1.0",
    ),
    (
        "MariaDB (MySQL)",
        "mariadb -Ne 'select @@max_connections'; ss -Hltn sport 3306 | grep -o 0.0.0.0:3306",
        "200\n0.0.0.0:3306",
    ),
    ("Redis", "redis-cli config get maxmemory-policy; redis-cli set a 1", "maxmemory-policy\nallkeys-lru\nOK"),
    (
        "Docker",
        "systemctl start lab-images && docker run --rm --network none --entrypoint /bin/echo lab/pause:1 runs; \
         docker info -f '{{.LoggingDriver}} {{.LiveRestoreEnabled}}'",
        "runs\njournald true",
    ),
    ("A program of your own", "ps -o user= -p $(systemctl show -p MainPID --value app)", "app"),
    ("Alternatives", "readlink /etc/alternatives/ip{,6}tables{,-restore} | grep -c legacy", "4"),
    (
        "A package repository",
        "apt-cache policy more | grep -o ' 400 file:/srv/repository-1'",
        " 400 file:/srv/repository-1",
    ),
    (
        "Unattended upgrades",
        "systemctl is-active apt-daily.timer apt-daily-upgrade.timer; systemctl start apt-daily-upgrade.service; \
         grep -o 'Starting unattended upgrades script' /var/log/unattended-upgrades/unattended-upgrades.log",
        "active\nactive\nStarting unattended upgrades script",
    ),
    (
        "A job by timer instead of cron",
        "systemctl is-active cleanup.timer; touch -d '40 days ago' /var/tmp/old; systemctl start cleanup; ls /var/tmp/old 2>&1 | grep -o 'No such.*'",
        "active\nNo such file or directory",
    ),
    (
        "Backups",
        "systemctl is-active site-backup.timer; systemctl start site-backup; tar -tf /var/backups/site/$(date +%u).tar.gz srv/site/site.toml",
        "active\nsrv/site/site.toml",
    ),
    (
        "Log rotation",
        "systemctl is-active logrotate.timer; mkdir -p /var/log/app; echo line > /var/log/app/x.log; \
         printf 'logrotate state -- version 2\\n\"/var/log/app/x.log\" 2020-1-1-0:0:0\\n' > /var/lib/logrotate/status; \
         systemctl start logrotate; zcat /var/log/app/x.log.1.gz",
        "active\nline",
    ),
    (
        "The size of the journal",
        "logger kept; journalctl --sync; journalctl -q -D /var/log/journal -o cat -g ^kept$",
        "kept",
    ),
    (
        "node_exporter",
        "curl -sS http://192.168.1.11:9100/metrics | grep -o '^kpull_info\\|^node_systemd_version' | sort -u",
        "kpull_info\nnode_systemd_version",
    ),
    (
        "Logs to a central server",
        "logger forwarded-line; for i in $(seq 100); do grep -qs forwarded-line /run/logs && break; sleep .1; done; grep -o forwarded-line /run/logs",
        "forwarded-line",
    ),
    ("Firewall", "firewall-cmd --zone=public --list-services", "https ssh"),
    (
        "WireGuard",
        // the kernel of a lab need not have it
        "runuser -u systemd-network -- cat /etc/systemd/network/60-wg0.key | wc -c; stat -c '%a %G' /etc/systemd/network/60-wg0.key; \
         ip -br link show wg0 2>/dev/null | grep -o ^wg0 || \
         journalctl -u systemd-networkd -o cat | sed -n 's/^\\(wg0\\): netdev could not be created: Operation not supported/\\1/p'",
        "45\n640 systemd-network\nwg0",
    ),
    ("Kernel settings", "sysctl -n net.ipv4.tcp_syncookies", "1"),
    ("No swap", "swapon --noheadings | wc -l", "0"),
    (
        "HTTP proxy",
        "ssh ann@192.168.1.11 'echo $http_proxy $no_proxy'; apt-config shell proxy Acquire::http::Proxy",
        "http://proxy.example.org:3128 localhost,127.0.0.1,.example.org\nproxy='http://proxy.example.org:3128'",
    ),
    ("Kernel modules that must not load", "modprobe -c | grep -c '^install [cdsrampft]* /bin/false'", "3"),
    (
        "A certificate authority that hosts trust",
        "openssl verify -CAfile /etc/ssl/certs/ca-certificates.crt /usr/local/share/ca-certificates/site.crt",
        "/usr/local/share/ca-certificates/site.crt: OK",
    ),
    ("Limits of processes", "ssh ann@192.168.1.11 ulimit -n", "512"),
    (
        "Fail2ban",
        "for i in $(seq 100); do nft list ruleset | grep -qF 192.168.1.254 && break; sleep .1; done; fail2ban-client get sshd banip",
        "192.168.1.254",
    ),
];

/// What the test prepares: keys, a certificate authority, a repository, where logs go, and what a lab does not have.
const PREPARE: &str = r#"
set -eu
ssh-keygen -q -t ed25519 -N '' -f /root/login
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
cp /etc/ssh/ssh_host_ed25519_key.pub /root/host.pub # the package of the server removes its keys
printf 'name = "lab"\n[secrets]\nrecipients = ["%s"]\n[pki.lan]\n' "$(cat /root/key.pub)" > /srv/site/site.toml
mkdir -p /root/.ssh
printf 'IdentityFile /root/login\nBatchMode yes\nStrictHostKeyChecking accept-new\nLogLevel ERROR\n' > /root/.ssh/config
systemd-run -q socat -u TCP-LISTEN:514,fork,bind=127.0.0.1 OPEN:/run/logs,creat,append
# no host of a lab can set the clock
echo 'DAEMON_OPTS="-F 1 -x"' > /etc/default/chrony
mkdir -p /etc/systemd/system/chrony.service.d
printf '[Unit]\nConditionCapability=\n' > /etc/systemd/system/chrony.service.d/lab.conf
"#;

/// What the recipes say, and what there is in the lab instead; a text in `$(…)` is a command on the host.
const INSTEAD: [(&str, &str); 7] = [
    ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample", "$(cut -d' ' -f1,2 /root/login.pub)"),
    ("0.pool.ntp.org", "192.168.1.254"),
    ("logs.example.org", "127.0.0.1"),
    ("files = 65536", "files = 512"), // a host of a lab can't raise limits
    ("https://packages.example.org/debian", "file:/srv/repository-1"),
    ("suites = [\"stable\"]", "suites = [\"./\"]"),
    (
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nthe publisher's key\n-----END PGP PUBLIC KEY BLOCK-----",
        "$(cat /srv/key.asc)",
    ),
];

/// Gives the host these roles.
fn roles(host: Host<'_>, names: &[String]) {
    let key = host.run("cat /root/host.pub").ok();
    let host_vars = format!("address = \"192.168.1.11\"\nrecipient = {key:?}\nroles = {names:?}\n");
    host.write("/srv/site/host_vars/h1.toml", host_vars);
}

/// The name of a recipe's role: its heading in lower case, with `-` between the words.
fn name(recipe: &Recipe) -> String {
    let words = recipe.title.split(|one: char| !one.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join("-")
}

#[test]
fn recipes_work_on_a_real_host_and_are_removed_again() {
    let world = World::on(Lab::for_containers(&[H1], "2"));
    let host = world.host();
    host.offer("cookbook", &PACKAGES);
    // as on a new Debian
    host.offer("timesyncd", &["systemd-timesyncd"]);
    host.run("apt-get -qq -y install systemd-timesyncd").ok();
    host.run(REPOSITORIES).ok();
    host.run(PREPARE).ok();
    roles(host, &["app".to_owned()]);
    world.release("");
    world.converges();
    let state = || host.run("find /etc /usr/local /var/backups -type f | sort | xargs -d '\\n' sha256sum").ok();
    let before = state();

    let all = recipes();
    let here: Vec<&Recipe> = all.iter().filter(|recipe| !ELSEWHERE.contains(&recipe.title.as_str())).collect();
    assert_eq!(here.len() + ELSEWHERE.len(), all.len(), "a recipe has gone from the page");
    let there =
        INSTEAD.map(|(_, there)| host.run(&format!("echo \"{there}\"", there = there.replace('"', "\\\""))).ok());
    for recipe in &here {
        let texts = INSTEAD.iter().zip(&there);
        let role = texts.fold(recipe.role.clone(), |role, ((shown, _), there)| role.replace(shown, there));
        host.write(&format!("/srv/site/roles/{}/role.toml", name(recipe)), role);
    }
    let names: Vec<String> = here.iter().filter(|recipe| recipe.title != ALONE).map(|recipe| name(recipe)).collect();
    roles(host, &names);
    host.run("cd /srv/site && kpull pki init && kpull pki issue --identity /root/key").ok();
    world.release("");
    world.converges();
    host.run("printf '[metrics]\\ndir = \"/var/lib/prometheus/node-exporter\"\\n' >> /etc/kpull/kpull.toml").ok();
    world.converges();
    // six logins of a user that the host does not have
    let guess =
        "ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null guess@192.168.1.11";
    world.0.fabric(&format!("for i in $(seq 6); do {guess}; done"));
    let applied = here.iter().filter(|recipe| recipe.title != ALONE);
    let wrong = applied.filter_map(|recipe| {
        let found = WORKS.iter().find(|(title, ..)| *title == recipe.title);
        let (_, command, prints) = found.unwrap_or_else(|| panic!("what does {} do?", recipe.title));
        let output = host.run(command);
        (output.stdout.trim_end_matches('\n') != *prints).then(|| format!("{}: not {prints:?}: {output}", recipe.title))
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    alternatives_are_corrected(&world);

    // without them, and with the one that allows only some ports
    host.run("rm /var/backups/site/*.tar.gz").ok();
    roles(host, &["firewall-without-firewalld".to_owned()]);
    world.release("");
    world.converges();
    assert_eq!(host.run("systemctl is-active app.service cleanup.timer").stdout, "inactive\ninactive\n");
    host.run("systemctl stop firewalld && for port in 443 9100; do systemd-run -q socat TCP-LISTEN:$port,fork,reuseaddr EXEC:true; done").ok();
    let connects = |port: u16| world.0.fabric(&format!("timeout 2 bash -c '</dev/tcp/192.168.1.11/{port}'")).code();
    assert_eq!([connects(443), connects(9100)], [0, 124]);
    host.run("systemctl start firewalld").ok();

    roles(host, &["app".to_owned()]);
    world.release("");
    world.converges();
    host.run("update-ca-certificates --fresh >/dev/null 2>&1").ok();
    let after = state();
    // accounts stay, a key that the page names, what the firewall had beside the recipe, Debian's PostgreSQL with what it needs, which
    // protects itself from apt, and what programs have written
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
            "60-wg0.key",
            "postgresql",
            "ssl-cert-snakeoil",
            "/etc/locale.",
            "/etc/ucf.conf",
            "/etc/docker/key.json",
            "/etc/ld.so.cache",
            "/etc/mysql/debian.cnf",
            "/etc/profile.d/gawk",
            "/etc/resolv.conf",
            "/var/backups/apt",
        ]
        .iter()
        .any(|start| line.contains(start))
    };
    let rest = |text: &str| text.lines().filter(|line| !is_of_others(line)).map(str::to_owned).collect::<Vec<_>>();
    let (before, after) = (rest(&before), rest(&after));
    let left: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Someone chooses other alternatives.
fn alternatives_are_corrected(world: &World) {
    let host = world.host();
    let links = "readlink /etc/alternatives/ip{,6}tables{,-restore}";
    let legacy = host.run(links).ok();
    for drift in ["ln -sfn /usr/sbin/iptables-nft /etc/alternatives/iptables", "update-alternatives --auto ip6tables"] {
        host.run(drift).ok();
        assert_eq!(host.run("kpull plan").code(), 2, "{drift}");
        world.converges();
        assert_eq!(host.run(links).ok(), legacy, "{drift}");
    }
}
