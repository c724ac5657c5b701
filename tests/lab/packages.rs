//! The packages on real hosts: installed, upgraded, removed, purged.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::lab::{H1, Host, Lab, Output};

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What the release of these tests makes.
const MADE: &str = "/srv/made";

/// Two revisions of each package with this build's program, made once; they go with the test's own directory.
pub fn packages() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap().keep();
        let program = dir.join("kpull");
        Output::of(Command::new("strip").arg("-o").arg(&program).arg(env!("CARGO_BIN_EXE_kpull"))).ok();
        for revision in ["1", "2"] {
            let mut build = Command::new(format!("{REPOSITORY}/packaging/build"));
            build.arg("--binary").arg(&program).arg("--fast").arg(&dir).args(["deb", "rpm"]);
            Output::of(build.env("REVISION", revision).env("SOURCE_DATE_EPOCH", "1700000000")).ok();
        }
        dir
    })
}

/// A lab whose host has both revisions of a package in /opt and, in /srv/site, a release that makes a file; no kpull.
fn lab(ending: &str) -> Lab {
    let lab = Lab::new(&[H1]);
    let host = lab.host("h1");
    for entry in std::fs::read_dir(packages()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if let Some(stem) = name.strip_suffix(ending) {
            let revision = stem.rsplit_once('-').unwrap().1;
            host.copy(&path, &format!("/opt/kpull-{revision}{ending}"), 0o644);
        }
    }
    host.copy(packages().join("kpull"), "/opt/kpull", 0o755);
    host.write("/srv/site/site.toml", "name = \"lab\"\n");
    host.write("/srv/site/host_vars/h1.toml", "address = \"192.168.1.11\"\nroles = [\"app\"]\n");
    host.write(
        "/srv/site/roles/app/role.toml",
        format!("summary = \"For a test\"\n[[file]]\npath = \"{MADE}\"\ncontent = \"made\\n\"\n"),
    );
    // the shipped timer, with short pauses
    host.write("/etc/systemd/system/kpull.timer.d/test.conf", "[Timer]\nOnUnitInactiveSec=2s\nRandomizedDelaySec=0\n");
    host.run("ssh-keygen -q -t ed25519 -N '' -f /root/key && /opt/kpull sign --site /srv/site --key /root/key").ok();
    lab
}

/// Every path that could be a package's or kpull's, with type, mode, owner and where a link leads.
fn paths_of(host: Host<'_>) -> BTreeSet<String> {
    let find = "find /etc /usr /opt /root /srv /var/lib -path /var/lib/dpkg -prune -o -path /var/lib/rpm -prune \
        -o -printf '%p %M %u:%g %l\\n'";
    host.run(find).ok().lines().map(str::to_owned).collect()
}

/// The host has what it had, and nothing else.
#[track_caller]
fn is_as(host: Host<'_>, before: &BTreeSet<String>) {
    let now = paths_of(host);
    let differ: Vec<_> = now.symmetric_difference(before).collect();
    assert!(differ.is_empty(), "left, or gone: {differ:#?}");
}

fn enroll(host: Host<'_>) {
    host.run(
        "kpull enroll /srv/site --site lab --host h1 --fingerprint $(ssh-keygen -lf /root/key.pub | cut -d' ' -f2)",
    )
    .ok();
}

/// Whether the timer is enabled, and active.
fn timer(host: Host<'_>) -> String {
    host.run("systemctl is-enabled kpull.timer; systemctl is-active kpull.timer").stdout.replace('\n', " ")
}

/// Changes what the release says, and waits until the timer has made it so again.
fn the_timer_converges(host: Host<'_>) {
    let wait = format!("timeout 60 sh -c 'until grep -qx made {MADE}; do sleep .2; done'");
    let report = "systemctl status kpull.timer; journalctl -u kpull.service; false";
    host.run(&format!("echo drift > {MADE}; {wait} || {{ {report}; }}")).ok();
}

/// Waits until no run is at work.
fn is_quiet(host: Host<'_>) {
    host.run("timeout 60 sh -c 'while systemctl is-active kpull.service | grep -q activating; do sleep .2; done'").ok();
    assert_eq!(host.run("systemctl is-system-running").ok(), "running");
}

const NOT_STARTED: &str = "disabled inactive ";
const STARTED: &str = "enabled active ";

#[test]
fn a_deb_starts_nothing_until_the_host_is_enrolled_and_leaves_nothing_after_a_purge() {
    let lab = lab("_amd64.deb");
    let host = lab.host("h1");
    let before = paths_of(host);

    host.run("dpkg -i /opt/kpull-1_amd64.deb").ok();
    assert_eq!(host.run("dpkg --verify kpull").ok(), "");
    assert_eq!(host.run("dpkg-query -W kpull").ok(), format!("kpull\t{VERSION}-1"));
    assert_eq!(timer(host), NOT_STARTED);
    host.run("test ! -e /etc/kpull && test ! -e /var/lib/kpull").ok();
    host.run("cat /usr/share/bash-completion/completions/kpull | bash -n && zcat /usr/share/man/man1/kpull.1.gz").ok();

    enroll(host);
    host.run("systemctl enable --now kpull.timer").ok();
    the_timer_converges(host);

    let known = "cat /etc/kpull/* | sha256sum; kpull history | wc -l";
    let knows = host.run(known).ok();
    host.run("dpkg -i /opt/kpull-2_amd64.deb").ok();
    assert_eq!(host.run("dpkg-query -W kpull").ok(), format!("kpull\t{VERSION}-2"));
    assert_eq!(timer(host), STARTED);
    assert_eq!(host.run(known).ok(), knows, "an upgrade has changed the state of the host");
    the_timer_converges(host);

    host.run("systemctl disable --now kpull.timer && dpkg -i /opt/kpull-1_amd64.deb").ok();
    assert_eq!(timer(host), NOT_STARTED, "an operator has disabled it, and a package enabled it");
    host.run("systemctl enable --now kpull.timer").ok();

    host.run("dpkg -r kpull").ok();
    assert!(timer(host).ends_with("inactive "), "{}", timer(host));
    host.run("test ! -e /usr/bin/kpull && test -e /etc/kpull/kpull.toml && test -d /var/lib/kpull").ok();
    is_quiet(host);
    host.run("dpkg -i /opt/kpull-2_amd64.deb").ok();
    assert_eq!(timer(host), STARTED, "it was, before the package was removed");
    the_timer_converges(host);

    host.run("systemctl stop kpull.timer").ok();
    is_quiet(host);
    host.run("mkdir /run/kept && cp /etc/kpull/{kpull.toml,allowed_signers} /run/kept && dpkg -P kpull").ok();
    host.run(&format!("rm {MADE}")).ok();
    is_as(host, &before);
    is_quiet(host);

    // as an image or cloud-init does it
    host.run("cp -r /run/kept /etc/kpull && dpkg -i /opt/kpull-2_amd64.deb").ok();
    assert_eq!(timer(host), STARTED);
    the_timer_converges(host);
}

#[test]
fn an_rpm_starts_nothing_until_the_host_is_enrolled_and_keeps_its_state() {
    let lab = lab(".x86_64.rpm");
    let host = lab.host("h1");
    let before = paths_of(host);

    // the shell that the scripts need is Debian's, which is not in rpm's database
    host.run("rpm -i --nodeps /opt/kpull-1.x86_64.rpm").ok();
    assert_eq!(host.run("rpm -V --nodeps kpull").ok(), "");
    assert_eq!(timer(host), NOT_STARTED);
    enroll(host);
    host.run("systemctl enable --now kpull.timer").ok();
    the_timer_converges(host);

    host.run("rpm -U --nodeps /opt/kpull-2.x86_64.rpm").ok();
    assert_eq!(host.run("rpm -q kpull").ok(), format!("kpull-{VERSION}-2.x86_64"));
    assert_eq!(timer(host), STARTED);
    host.run("echo more >> /usr/lib/systemd/system/kpull.timer").ok();
    assert!(host.run("rpm -V --nodeps kpull").stdout.contains("kpull.timer"), "differences are reported");

    let remove = || {
        host.run("rpm -e kpull").ok();
        is_quiet(host);
        assert!(timer(host).ends_with("inactive "), "{}", timer(host));
        host.run("test ! -e /usr/bin/kpull && test -e /etc/kpull/kpull.toml && test -d /var/lib/kpull").ok();
    };
    remove();
    host.run("rpm -i --nodeps /opt/kpull-2.x86_64.rpm").ok();
    assert_eq!(timer(host), STARTED, "the host is enrolled");
    the_timer_converges(host);
    remove();
    host.run(&format!("rm -r /etc/kpull /var/lib/kpull {MADE}")).ok();
    // those of the distribution's own packages, on a host of that distribution
    let common = "/usr/share/{fish/vendor_completions.d,licenses,zsh/site-functions}";
    host.run(&format!("rmdir -p --ignore-fail-on-non-empty {common}")).ok();
    is_as(host, &before);

    // a root that does not run, as an image is made
    host.run("mkdir -p /srv/root/bin && cp /bin/busybox /srv/root/bin && ln -s busybox /srv/root/bin/sh").ok();
    host.run("rpm --root /srv/root --initdb").ok();
    let files = "cd /srv/root && find . -path ./var/lib/rpm -prune -o ! -type d -print | sort";
    let before = host.run(files).ok();
    host.run("rpm --root /srv/root -i --nodeps /opt/kpull-1.x86_64.rpm").ok();
    assert_eq!(host.run("rpm --root /srv/root -V --nodeps kpull").ok(), "");
    assert_eq!(host.run("chroot /srv/root /usr/bin/kpull --version").ok(), format!("kpull {VERSION}"));
    host.run("rpm --root /srv/root -e kpull").ok();
    assert_eq!(host.run(files).ok(), before);

    // the memory limit that systemd of CentOS 7 has
    let systemctl = "#!/bin/sh\nprintf 'systemd 219\\n+PAM +AUDIT\\n'\n";
    host.write("/srv/root/bin/systemctl", systemctl);
    host.run("chmod 755 /srv/root/bin/systemctl && mkdir /srv/root/dev && touch /srv/root/dev/null").ok();
    host.run("rpm --root /srv/root -i --nodeps /opt/kpull-1.x86_64.rpm").ok();
    let dropin = "/usr/lib/systemd/system/kpull.service.d/memory.conf";
    assert_eq!(host.run(&format!("cat /srv/root{dropin}")).ok(), "[Service]\nMemoryLimit=1G");
    assert_eq!(host.run("rpm --root /srv/root -V --nodeps kpull").ok(), "");
    host.run("rpm --root /srv/root -e kpull && rm -r /srv/root/bin/systemctl /srv/root/dev").ok();
    assert_eq!(host.run(files).ok(), before);
}
