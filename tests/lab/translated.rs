//! Public roles of Ansible, translated with the manual alone, on a real host. `tests/translated.rs` compares it with Ansible's own run.

use std::collections::BTreeSet;

use crate::support::alone::World;
use crate::support::translated::{DIR, copy_dir, prepare};

/// What the roles are for: a command on the host, and what it prints.
const WORKS: [(&str, &str); 14] = [
    // ntp
    ("ntpq -pn | grep -o 192.168.1.254 | head -1; date -d 2026-07-01 +%Z", "192.168.1.254\nCEST"),
    ("systemctl is-active ntpsec; dpkg-query -Wf '${Status}' systemd-timesyncd", "active\ndeinstall ok config-files"),
    // security
    (
        "fail2ban-client get sshd journalmatch | grep -o _COMM=sshd; fail2ban-client get logtarget | grep -o SYSTEMD.*",
        "_COMM=sshd\nSYSTEMD-JOURNAL",
    ),
    (
        "runuser -u deploy -- sudo -n id -u; runuser -u ops -- sudo -n id -u 2>&1 | tail -1",
        "0\nsudo: a password is required",
    ),
    ("apt-config shell a APT::Periodic::Unattended-Upgrade b Unattended-Upgrade::Mail", "a='1'\nb='root'"),
    ("systemctl is-active unattended-upgrades; stat -c %a /etc/sudoers", "active\n440"),
    // nginx
    (
        "curl -sI http://127.0.0.1:8080/ -H 'Host: www.files.example.org' | grep -o 'http://.*/'",
        "http://files.example.org/",
    ),
    (
        "echo here > /var/www/html/here; curl -sS http://127.0.0.1:8080/here -H 'Host: files.example.org'; rm /var/www/html/here",
        "here",
    ),
    (
        "echo app > /run/app && systemd-run -q --collect --unit=app socat TCP-LISTEN:8082,fork,reuseaddr 'SYSTEM:echo HTTP/1.0 200 OK; echo; cat /run/app'; \
         for i in $(seq 50); do curl -sfS http://127.0.0.1:8090/ && break; sleep .1; done; \
         systemctl stop app",
        "app",
    ),
    ("ls /etc/nginx/sites-enabled", "app.conf\nfiles.example.org.conf"),
    // ssh-hardening
    (
        "sshd -T | grep -E '^(permitrootlogin|maxauthtries|allowgroups|authenticationmethods|macs|loglevel) '",
        "maxauthtries 2\npermitrootlogin no\nmacs hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com,\
         umac-128-etm@openssh.com,hmac-sha2-512,hmac-sha2-256\nloglevel VERBOSE\nallowgroups admins\nauthenticationmethods publickey",
    ),
    (
        "sshd -T -C user=deploy,host=h,addr=10.0.0.1 | grep ^maxsessions; systemctl is-active ssh ssh.socket; systemctl is-enabled ssh.socket",
        "maxsessions 2\nactive\ninactive\nmasked",
    ),
    (
        "ssh-keygen -l -f /etc/ssh/ssh_host_rsa_key | cut -d' ' -f1; awk '$5 < 2048' /etc/ssh/moduli | wc -l; grep -c ^session.*motd /etc/pam.d/sshd",
        "4096\n0\n0",
    ),
    // what sshd does with all this: a certificate with one of the principals is what lets a user in
    (
        "ssh-keygen -q -t ed25519 -N '' -f /root/ca && cat /root/ca.pub > /etc/ssh/user_ca && ssh-keygen -q -t ed25519 -N '' -f /root/login && \
         ssh-keygen -q -s /root/ca -I test -n admins /root/login.pub; \
         for user in ops root; do ssh -n -i /root/login -o StrictHostKeyChecking=no -o LogLevel=ERROR $user@192.168.1.11 id -un 2>/dev/null || echo refused; done; \
         rm -r /root/ca* /root/login*",
        "ops\nrefused",
    ),
];

/// What removing the roles does not undo: a longer key, long primes, and the package that another one replaced. The files with a `-` are
/// copies of the files of accounts.
const LEFT: [&str; 9] = [
    "/etc/ssh/moduli",
    "/etc/ssh/ssh_host_rsa_key",
    "/etc/ssh/ssh_host_rsa_key.pub",
    "dbus-org.freedesktop.timesync1.service",
    "systemd-timesyncd.service",
    "/etc/group-",
    "/etc/gshadow-",
    "/etc/passwd-",
    "/etc/shadow-",
];

/// All files below some directories, all units, and whether some of them run.
const STATE: &str = "
find /etc /usr/local /home -path /etc/kpull -prune -o -type f -printf '%p %m %u %g ' -exec sha256sum {} \\; | cut -d' ' -f1-5
systemctl list-unit-files --no-legend --plain | awk '{ print $1, $2 }'
for unit in cron fail2ban nginx ntpsec ssh unattended-upgrades; do echo $unit is $(systemctl is-active $unit); done";

#[test]
fn four_public_roles_work_in_one_release_and_are_removed_again() {
    let world = World::new();
    let host = world.host();
    prepare(host);
    copy_dir(host, format!("{DIR}/site"), "/srv/site");
    let state = || host.run(STATE).ok().lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let release = |roles: &str| {
        host.run(&format!("sed -i '/^roles = /c roles = [{roles}]' /srv/site/host_vars/h1.toml")).ok();
        world.release("");
        world.converges();
    };
    let accounts = r#""accounts""#;
    release(accounts);
    let before = state();

    release(r#""accounts", "ntp", "security", "nginx", "ssh-hardening""#);
    let wrong = WORKS.iter().filter_map(|(command, prints)| {
        let output = host.run(command);
        (output.stdout.trim_end() != *prints).then(|| format!("not {prints:?}: {output}"))
    });
    let wrong: Vec<_> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // what the last command has changed
    world.converges();

    release(accounts);
    let after = state();
    let left: Vec<_> = before
        .symmetric_difference(&after)
        .filter(|line| !LEFT.iter().any(|left| line.starts_with(&format!("{left} "))))
        .collect();
    assert!(left.is_empty(), "{left:#?}");
}
