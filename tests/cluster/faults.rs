//! What happens to a cluster, and that it gets over it without a hand.

use jiff::{SignedDuration, Timestamp};

use crate::cluster::{MASTERS, SOON, cluster, everything_is_healthy, web};
use crate::support::lab::Host;

/// How many milliseconds the API can be silent during a change: VRRP takes 3.4 seconds to notice a missing host, and the
/// machine under a lab has other work.
pub const SILENCE: u64 = 10_000;

/// Asks for the API through the virtual address, again and again, and writes down when it was refused.
const ASK: &str = "
    cd /tmp; rm -f asked stop
    while [ ! -e stop ]; do
        code=$(curl -sk --connect-timeout 1 --max-time 3 -o /dev/null -w '%{http_code}' URL) || code=000
        echo $(date +%s%3N) $code >> asked
        sleep 0.1
    done";

/// A client that sends requests all the time, from one host.
pub struct Asking<'a> {
    host: Host<'a>,
}

impl<'a> Asking<'a> {
    pub fn start(host: Host<'a>, url: &str) -> Self {
        host.write("/tmp/ask", ASK.replace("URL", url));
        host.run("systemd-run --unit=ask --collect bash /tmp/ask").ok();
        Self { host }
    }

    /// Ends it. The longest time without an answer, in milliseconds, and how often there was none.
    pub fn end(self) -> (u64, usize) {
        self.host.run("touch /tmp/stop; while systemctl is-active -q ask; do sleep .1; done").ok();
        let asked = self.host.run("cat /tmp/asked").ok();
        let (mut longest, mut since, mut failures, mut answers) = (0, None, 0, 0);
        for line in asked.lines() {
            let (time, code) = line.split_once(' ').unwrap();
            let time: u64 = time.parse().unwrap();
            if code == "000" {
                failures += 1;
                since.get_or_insert(time);
                continue;
            }
            answers += 1;
            if let Some(start) = since.take() {
                longest = longest.max(time - start);
            }
        }
        assert!(answers > failures, "there were answers:\n{asked}");
        assert!(since.is_none(), "there was an answer at last:\n{asked}");
        (longest, failures)
    }
}

/// Who has the virtual address.
fn holder() -> Option<&'static str> {
    let has = |name: &&str| cluster().host(name).run("ip -4 -o address | grep -q 192.168.1.201/").status.success();
    MASTERS.into_iter().find(has)
}

#[test]
fn the_virtual_address_moves_when_its_holder_dies_and_comes_back() {
    everything_is_healthy();
    let first = holder().expect("one host has it");
    let asking = Asking::start(cluster().host("node1"), "https://192.168.1.201/healthz");
    cluster().host(first).crash();
    cluster().wait("another host has the virtual address", SOON, || holder().is_some());
    cluster().host(first).boot();
    cluster().wait("the first one has it again", SOON, || holder() == Some(first));
    everything_is_healthy();
    let (longest, _) = asking.end();
    eprintln!("longest time without an answer through the virtual address: {longest} ms");
    assert!(longest <= SILENCE, "{longest} ms");
}

#[test]
fn each_master_and_then_two_lose_their_power_and_the_cluster_recovers() {
    everything_is_healthy();
    for name in MASTERS {
        cluster().host(name).crash();
        cluster().host(name).boot();
        everything_is_healthy();
    }
    for name in &MASTERS[..2] {
        cluster().host(name).crash();
    }
    for name in &MASTERS[..2] {
        cluster().host(name).boot();
    }
    everything_is_healthy();
}

#[test]
fn a_member_that_lost_its_disk_joins_again() {
    everything_is_healthy();
    let host = cluster().host("master2");
    host.run(
        "systemctl stop kpull.timer; systemctl kill -s KILL etcd; systemctl stop etcd; rm -rf /var/lib/etcd/member",
    )
    .ok();
    host.run("systemctl start kpull.timer").ok();
    everything_is_healthy();
    assert!(host.run("cat /etc/etcd/cluster.env").ok().contains("existing"));
}

#[test]
fn a_change_of_the_firewall_fails_no_request() {
    everything_is_healthy();
    let asking = Asking::start(cluster().host("node1"), "https://192.168.1.201/healthz");
    cluster().replace(
        "roles/firewall/role.toml",
        "services = [\"ssh\", \"http\", \"https\"]",
        "services = [\"ssh\", \"http\", \"https\", \"ntp\"]",
    );
    cluster().release();
    everything_is_healthy();
    let open =
        cluster().host("master1").run("firewall-cmd --list-services; firewall-cmd --permanent --list-services").ok();
    assert_eq!(open.matches("ntp").count(), 2, "{open}");
    let (_, failures) = asking.end();
    assert_eq!(failures, 0);
}

#[test]
fn kpull_corrects_what_a_reload_of_firewalld_by_others_removes() {
    everything_is_healthy();
    let web = web(cluster());
    let host = cluster().host("node1");
    let answers = || host.run(&format!("curl -sS --max-time 5 http://{}/", web.service)).stdout.starts_with("web-");
    cluster().wait("the service answers", SOON, answers);
    host.run("firewall-cmd --reload").ok();
    cluster().wait("the service answers again", SOON, answers);
    host.run("nft flush ruleset").ok();
    cluster().wait("what is shut is shut again", SOON, || {
        host.run("nft list chain inet firewalld filter_INPUT").status.success()
    });
    cluster().wait("the service answers again", SOON, answers);
    everything_is_healthy();
}

#[test]
fn a_host_that_was_off_for_two_releases_gets_the_newest_when_it_is_back() {
    everything_is_healthy();
    let host = cluster().host("node1");
    host.run("systemctl stop kpull.timer").ok();
    for port in ["8101", "8102"] {
        cluster().replace("roles/base/role.toml", "[vars.env]", &format!("[vars.env]\nSLEPT_{port} = \"{port}\""));
        cluster().release();
    }
    host.run("systemctl start kpull.timer").ok();
    everything_is_healthy();
    let env = host.run("cat /usr/k8s/bin/env.sh").ok();
    assert!(env.contains("SLEPT_8101") && env.contains("SLEPT_8102"), "{env}");
}

/// A lab's hosts have the machine's clock, and it can't be set for one of them. So it is the operator's that is wrong, by days:
/// to a host that is the same as a clock of its own that is wrong by as much the other way. What is signed is real.
#[test]
fn a_clock_that_is_days_off_stops_new_releases_and_nothing_else() {
    everything_is_healthy();
    let (now, day) = (Timestamp::now(), SignedDuration::from_hours(24));
    let asking = Asking::start(cluster().host("node1"), "https://192.168.1.201/healthz");
    let good = cluster().serial();
    let behind = (now + 3 * day, now + 33 * day, "and a release was signed at", "set the clock");
    let ahead = (now - 33 * day, now - 3 * day, ") expired at", "sign again");
    for (turn, (created, expires, why, advice)) in [behind, ahead].into_iter().enumerate() {
        let skewed = format!("[vars.env]\nSKEWED_{turn} = \"true\"");
        cluster().replace("roles/base/role.toml", "[vars.env]", &skewed);
        cluster().release_with_times(created, expires);
        cluster().host("node1").run("rm /usr/k8s/bin/env.sh").ok();
        let names = cluster().names();
        cluster().wait("every host refuses the release, and stays with the last good one", SOON, || {
            names.iter().all(|name| {
                let output = cluster().host(name).run("kpull status").stdout;
                output.contains(why) && output.contains(&format!("release     {good}, signed"))
            })
        });
        cluster().wait("drift is still corrected", SOON, || {
            let env = cluster().host("node1").run("cat /usr/k8s/bin/env.sh");
            env.status.success() && !env.stdout.contains("SKEWED")
        });
        for name in &names {
            let output = cluster().host(name).run("journalctl -q --no-pager -o cat -n 60 -u kpull.service").stdout;
            assert!(output.contains(advice), "{name} says what to do: {output}");
        }
    }
    cluster().release();
    everything_is_healthy();
    let (_, failures) = asking.end();
    assert_eq!(failures, 0, "no request to the API failed");
    let env = cluster().host("node1").run("cat /usr/k8s/bin/env.sh").ok();
    assert!(env.contains("SKEWED_0") && env.contains("SKEWED_1"), "{env}");
}
