//! A host that was set up by hand, and the role that `kpull adopt` makes of it.

use crate::support::lab::{H1, Lab};

const BY_HAND: &str = "
    printf '[Service]\\nExecStart=/bin/sleep infinity\\n[Install]\\nWantedBy=multi-user.target\\n' > /etc/systemd/system/app.service
    printf '[Service]\\nType=oneshot\\nExecStart=/bin/true\\n[Install]\\nWantedBy=multi-user.target\\n' > /etc/systemd/system/once.service
    mkdir /etc/app && echo 'port = 80' > /etc/app/app.conf && echo '# by hand' >> /etc/adduser.conf
    systemctl -q daemon-reload && systemctl -q enable --now app.service once.service
    firewall-cmd -q --permanent --add-port=8080/tcp && firewall-cmd -q --reload
    mkdir -p /srv/site/host_vars && echo 'name = \"lab\"' > /srv/site/site.toml
    printf 'address = \"192.168.1.11\"\\nroles = [\"app\"]\\n' > /srv/site/host_vars/h1.toml";

#[test]
fn a_host_that_was_set_up_by_hand_becomes_a_role_that_changes_nothing_there() {
    let lab = Lab::new(&[H1]);
    let host = lab.host("h1");
    host.copy(env!("CARGO_BIN_EXE_kpull"), "/usr/bin/kpull", 0o755);
    host.run(BY_HAND).ok();
    let found = host.run("kpull adopt").ok();
    for path in ["/etc/systemd/system/app.service", "/etc/app/app.conf", "/etc/firewalld/zones/public.xml"] {
        assert!(found.lines().any(|line| line == path), "{path}: {found}");
    }
    assert!(found.contains("/etc/adduser.conf\n"), "a package's file that was changed: {found}");
    assert!(!found.contains("/etc/deluser.conf\n"), "a package's file that was not: {found}");
    host.run(
        "cd /srv/site && kpull adopt app /etc/app /etc/adduser.conf app.service once.service firewall:public \
         sysctl:net.ipv4.ip_forward package:hostname && kpull check",
    )
    .ok();
    let plan = host.run("kpull plan --site /srv/site --host h1").stdout;
    // the file that kpull keeps a setting in is its own
    let changes: Vec<&str> =
        plan.lines().filter(|line| ["+ ", "~ ", "- "].iter().any(|mark| line.trim_start().starts_with(mark))).collect();
    assert_eq!(changes.len(), 1, "{plan}");
    assert!(changes[0].contains("sysctl:net.ipv4.ip_forward"), "{plan}");
}
