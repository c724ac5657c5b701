//! A stand-in for firewalld 0.4.4.4 on a host: the host's own, without what came later.

use crate::support::lab::Host;

/// Takes the newer methods away from the host's firewalld.
pub fn make_old(host: Host<'_>) {
    host.write("/srv/old-firewalld", include_str!("../platforms/old-firewalld"));
    host.write(
        "/etc/systemd/system/firewalld.service.d/old.conf",
        "[Service]\nExecStart=\nExecStart=/usr/bin/python3 /srv/old-firewalld --nofork --nopid\n",
    );
    host.run("systemctl daemon-reload && systemctl restart firewalld").ok();
    let call = "busctl call org.fedoraproject.FirewallD1 /org/fedoraproject/FirewallD1 org.fedoraproject.FirewallD1";
    let output = host.run(&format!("{call}.zone getZoneSettings2 s public")).fails(1);
    assert!(output.contains("Traceback") && output.contains("Unknown method: getZoneSettings2"), "{output}");
    let output = host.run(&format!("{call} getZoneSettings s public")).ok();
    assert!(output.starts_with("(sssbsasa(ss)asba(ssss)asasasasa(ss)b)"), "{output}");
}
