//! Four public roles of Ansible, translated to a site: `tests/translated`.

use std::path::Path;
use std::process::Command;

use crate::support::lab::{Host, Output};

/// Where the site is, and the playbook with the same variables.
pub const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/translated");

/// What the roles install, with the packages that these recommend, and a server of Debian has before.
const PACKAGES: [&str; 10] = [
    "cron",
    "fail2ban",
    "nftables",
    "ntpsec",
    "openssh-server",
    "python3-pyinotify",
    "python3-systemd",
    "tzdata",
    "unattended-upgrades",
    "whois",
];

/// Makes the host a server as Debian's installer leaves it. As no host of a lab may set the clock, the daemon of NTP runs without the
/// right to.
pub fn prepare(host: Host<'_>) {
    host.offer("translated", &PACKAGES);
    host.offer("timesyncd", &["systemd-timesyncd"]); // apt installs no other daemon of NTP beside it
    host.run("DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install cron openssh-server systemd-timesyncd tzdata").ok();
    host.write(
        "/etc/systemd/system/ntpsec.service.d/lab.conf",
        "[Unit]\nConditionCapability=\n[Service]\nType=simple\nPIDFile=\nExecStart=\nExecStart=/usr/sbin/ntpd -n -c /etc/ntpsec/ntp.conf\n",
    );
}

/// Replaces a directory of the host by one of this machine.
pub fn copy_dir(host: Host<'_>, dir: impl AsRef<Path>, path: &str) {
    host.run(&format!("rm -rf {path} && mkdir -p {path}")).ok();
    let mut copy = Command::new("cp");
    copy.arg("-rL").arg(dir.as_ref().join(".")).arg(host.root().join(path.trim_start_matches('/')));
    Output::of(&mut copy).ok();
}
