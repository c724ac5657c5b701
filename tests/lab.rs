//! The hosts that the other lab tests stand on are real ones.

mod accounts;
mod adopt;
mod back;
mod cgroups;
mod checkouts;
mod converge;
mod cookbook;
mod facts;
mod faults;
mod filesystems;
mod firewall;
mod hardening;
mod health;
mod kernel;
mod kinds;
mod labels;
mod launch;
mod observe;
mod outputs;
mod packages;
mod partial;
mod permissions;
mod places;
mod probes;
mod quadlets;
mod quickstart;
mod reports;
mod rollout;
mod secrets;
mod share;
mod software;
mod status;
mod system;
mod translated;
mod tutorial;
mod units;
mod up_to_date;
mod validate;
mod writable;

use std::path::Path;

use crate::support::lab::{H1, Lab};

const H2: (&str, &str) = ("h2", "192.168.1.12");

const CURL_NO_CONNECTION: i32 = 7;

#[test]
fn hosts_boot_with_systemd_and_reach_each_other_through_their_firewalls() {
    let lab = Lab::new(&[H1, H2]);
    for (name, _) in [H1, H2] {
        let host = lab.host(name);
        assert_eq!(host.run("hostname").ok(), name);
        assert_eq!(host.run("cat /proc/1/comm").ok(), "systemd");
        assert_eq!(host.run("systemctl is-system-running").ok(), "running");
        assert_eq!(host.run("firewall-cmd --state").ok(), "running");
        assert_eq!(host.run("firewall-cmd --get-default-zone").ok(), "public");
        host.run("busctl --system status org.freedesktop.systemd1").ok();
        host.run("logger -t lab heard && journalctl --sync && journalctl -t lab | grep -q heard").ok();
    }
    lab.host("h2").run(&format!("ping -c1 -W5 {}", H1.1)).ok();
}

#[test]
fn a_host_starts_nothing_unrequested() {
    let lab = Lab::new(&[H1]);
    for unit in ["etcd", "haproxy", "apt-daily.timer"] {
        assert_eq!(lab.host("h1").run(&format!("systemctl is-enabled {unit}")).stdout, "disabled\n", "{unit}");
        assert_eq!(lab.host("h1").run(&format!("systemctl is-active {unit}")).stdout, "inactive\n", "{unit}");
    }
    assert_eq!(lab.host("h1").run("ss --no-header --listening --tcp --udp").ok(), "", "listens on its network");
}

#[test]
fn the_firewall_refuses_a_port_until_it_is_opened() {
    let lab = Lab::new(&[H1, H2]);
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    h1.write("/etc/systemd/system/web.socket", "[Socket]\nListenStream=8080\nAccept=yes\n");
    h1.write("/etc/systemd/system/web@.service", "[Service]\nStandardInput=socket\nExecStart=/bin/bash /srv/web\n");
    h1.write("/srv/web", WEB);
    h1.run("systemctl daemon-reload && systemctl start web.socket").ok();

    let get = "curl -sS --max-time 10 http://192.168.1.11:8080/";
    assert_eq!(h1.run(get).ok(), "hello", "from the host itself");
    h2.run(get).fails(CURL_NO_CONNECTION);
    h1.run("firewall-cmd --add-port=8080/tcp").ok();
    assert_eq!(h2.run(get).ok(), "hello");
    h1.run("firewall-cmd --remove-port=8080/tcp").ok();
    h2.run(get).fails(CURL_NO_CONNECTION);
}

const WEB: &str = r#"
while read -r line && [ "$line" != $'\r' ]; do :; done
printf 'HTTP/1.0 200 OK\r\n\r\nhello'
"#;

#[test]
fn packages_of_both_families_install_without_a_network() {
    let lab = Lab::new(&[H1]);
    let host = lab.host("h1");
    host.run("hello").fails(127);
    host.run("DEBIAN_FRONTEND=noninteractive apt-get -y install hello").ok();
    assert_eq!(host.run("hello").ok(), "Hello, world!");
    host.run("dnf -y install kpull-lab-rpm").ok();
    assert_eq!(host.run("rpm -q kpull-lab-rpm").ok(), "kpull-lab-rpm-1.0-1.noarch");
    assert_eq!(host.run("cat /usr/share/kpull-lab-rpm/hello").ok(), "hello");
}

#[test]
fn a_copied_file_arrives_intact_with_its_mode_even_over_a_running_program() {
    let lab = Lab::new(&[H1]);
    let host = lab.host("h1");
    let program = std::env::current_exe().unwrap();
    host.run("cp /bin/sleep /opt/program && systemd-run --unit=busy /opt/program infinity").ok();
    host.copy(&program, "/opt/program", 0o750);
    assert_eq!(
        host.run("stat -c '%a %U %s' /opt/program").ok(),
        format!("750 root {}", program.metadata().unwrap().len())
    );
    assert!(host.run("/opt/program --list").ok().contains("a_copied_file"));
    assert_eq!(host.run("systemctl is-active busy").ok(), "active");
}

#[test]
fn a_crash_ends_everything_on_a_host_but_its_disk() {
    let lab = Lab::new(&[H1]);
    let host = lab.host("h1");
    host.write("/var/lib/kept", "kept");
    host.run("systemd-run --unit=busy sleep infinity").ok();
    host.crash();
    assert!(host.run("true").fails(1).contains("no host h1 is running"));
    host.boot();
    assert_eq!(host.run("cat /var/lib/kept").ok(), "kept");
    assert_eq!(host.run("systemctl is-active busy").stdout, "inactive\n");
    assert_eq!(host.run("systemctl is-system-running").ok(), "running");
}

#[test]
fn containers_run_and_belong_to_their_host_alone() {
    let lab = Lab::for_containers(&[H1, H2], "1");
    let machine = std::fs::read_to_string("/proc/sys/kernel/panic").unwrap();
    for (name, _) in [H1, H2] {
        let host = lab.host(name);
        host.run("systemctl start docker.service lab-images.service").ok();
        host.run("docker run -d --name web --hostname web-on-$(hostname) -p 8080:8080 lab/web:1").ok();
        let get = "curl -sS --max-time 10 --retry 20 --retry-delay 1 --retry-all-errors http://127.0.0.1:8080/";
        assert_eq!(host.run(get).ok(), format!("web-on-{name}"));
        assert_eq!(host.run("ls -d /sys/fs/cgroup/memory/docker/*/ | wc -l").ok(), "1", "containers that {name} sees");
        host.run("echo 5 > /proc/sys/kernel/panic").ok();
    }
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/panic").unwrap(), machine, "a host has set the machine's");

    let host = lab.host("h1");
    host.crash();
    host.boot();
    assert_eq!(host.run("systemctl is-active lab-prepare.service var-lib-docker.mount").ok(), "active\nactive");
    assert_eq!(host.run("ls /sys/fs/cgroup/memory | grep -c docker").stdout, "0\n", "left of what was killed");
}

#[test]
fn a_server_on_the_fabric_answers_hosts_until_it_is_dropped() {
    let lab = Lab::new(&[H1]);
    let host = lab.host("h1");
    lab.fabric(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=fabric -days 1 \
        -keyout $LAB/key.pem -out $LAB/cert.pem",
    )
    .ok();
    let get = "curl -sS -k --max-time 10 --retry 20 --retry-delay 1 --retry-connrefused https://192.168.1.254:8443/";
    let server = lab.spawn_fabric("cd $LAB && openssl s_server -quiet -accept 8443 -key key.pem -cert cert.pem -www");
    assert!(host.run(get).ok().contains("s_server"));
    drop(server);
    host.run("curl -sS -k --max-time 10 https://192.168.1.254:8443/").fails(CURL_NO_CONNECTION);
}

#[test]
fn a_lab_ends_with_all_of_its_processes_and_files() {
    let lab = Lab::new(&[H1]);
    let dir = lab.dir().to_owned();
    let cgroup = std::fs::read_to_string(dir.join("cgroup")).unwrap();
    let processes = lab.fabric("cat $LAB/pids/*").ok();
    assert_eq!(processes.lines().count(), 2, "the host's and the fabric's");
    drop(lab);
    for path in [dir.as_path(), Path::new(cgroup.trim_end())] {
        assert!(!path.exists(), "{}", path.display());
    }
    for pid in processes.lines() {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert_eq!(command, "", "process {pid} still runs");
    }
}

/// Puts kpull on the host `h1`, and a site that it signs itself, in which it has this role; `more` goes into its `kpull.toml`.
fn sign_on(host: crate::support::lab::Host<'_>, role: &str, more: &str) {
    host.copy(env!("CARGO_BIN_EXE_kpull"), "/usr/bin/kpull", 0o755);
    host.write("/srv/site/site.toml", "name = \"lab\"\n");
    host.write("/srv/site/host_vars/h1.toml", "address = \"192.168.1.11\"\nroles = [\"app\"]\n");
    host.write("/srv/site/roles/app/role.toml", role);
    let config = "host = \"h1\"\n[trust]\nsite = \"lab\"\nallowed_signers = \"allowed_signers\"\n[[source]]\ndir = \"/srv/site\"\n";
    host.write("/etc/kpull/kpull.toml", format!("{config}{more}"));
    host.run("ssh-keygen -q -t ed25519 -N '' -f /root/key && kpull sign --site /srv/site --key /root/key").ok();
    host.run("echo \"lab $(cat /root/key.pub)\" > /etc/kpull/allowed_signers").ok();
}

/// Signs the site below `dir`, in which `app` is this role, with the key there, and publishes it there.
fn publish(dir: &Path, role: &str) {
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    std::fs::write(path("site/roles/app/role.toml"), role).unwrap();
    for arguments in [["sign", "--key", &path("key")].as_slice(), &["publish", &path("releases")]] {
        let mut kpull = std::process::Command::new(env!("CARGO_BIN_EXE_kpull"));
        crate::support::lab::Output::of(kpull.args(arguments).args(["--site", &path("site")])).ok();
    }
}
