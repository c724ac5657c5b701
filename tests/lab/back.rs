//! Rollback and undo on a real host: from a release that fails, from one that cuts the host off, and of everything.

use std::net::TcpListener;

use kpull::net::server::Server;

use crate::support::cookbook::recipes;
use crate::support::lab::{H1, Host, Lab};

const FABRIC: &str = "192.168.1.254";

const ROLE: &str = r#"
summary = "For a test"

[[package]]
name = "hello"

[[sysctl]]
name = "net.ipv4.ip_nonlocal_bind"
value = 1

[[firewall]]
zone = "public"
ports = ["8080/tcp", "22/tcp"]

[[file]]
path = "/etc/app.conf"
content = "good\n"

[[block]]
path = "/etc/hosts"
name = "releases"
content = "192.168.1.254 releases.lab"

[[unit]]
name = "app.service"
content = """
[Service]
ExecStart=/bin/sh -c 'grep -q good /etc/app.conf && exec sleep infinity'
[Install]
WantedBy=multi-user.target
"""
enable = true
restart_when = ["file:/etc/app.conf"]

[[probe]]
name = "app"
command = ["grep", "-q", "good", "/etc/app.conf"]
within = "1s"
"#;

const CONFIG: &str = "host = \"h1\"\n[trust]\nsite = \"lab\"\nallowed_signers = \"allowed_signers\"\n\
    [rollback]\ncontact_within = \"4s\"\n[[source]]\nhttp = \"http://releases.lab/\"\n";

/// A host, and a site that it gets by HTTP from the world outside.
struct World {
    lab: Lab,
    dir: tempfile::TempDir,
    server: Option<Server>,
}

impl World {
    fn new() -> Self {
        let (lab, dir) = (Lab::new(&[H1]), tempfile::tempdir().unwrap());
        let releases = dir.path().join("releases");
        let server = lab.in_network(move || {
            Server::on(TcpListener::bind((FABRIC, 80)).unwrap(), None, crate::support::web::web(releases)).unwrap()
        });
        let world = Self { lab, dir, server: Some(server) };
        let site = world.dir.path().join("site");
        std::fs::create_dir_all(site.join("roles/app")).unwrap();
        std::fs::create_dir_all(site.join("host_vars")).unwrap();
        std::fs::write(site.join("site.toml"), "name = \"lab\"\n").unwrap();
        std::fs::write(site.join("host_vars/h1.toml"), "address = \"192.168.1.11\"\nroles = [\"app\"]\n").unwrap();
        let key = world.dir.path().join("key");
        crate::support::lab::Output::of(
            std::process::Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key),
        )
        .ok();
        let host = world.host();
        host.copy(env!("CARGO_BIN_EXE_kpull"), "/usr/bin/kpull", 0o755);
        host.write("/etc/kpull/kpull.toml", CONFIG);
        let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
        host.write("/etc/kpull/allowed_signers", format!("lab {public}"));
        host.run("echo '192.168.1.254 releases.lab' >> /etc/hosts").ok();
        world
    }

    fn host(&self) -> Host<'_> {
        self.lab.host("h1")
    }

    /// Signs and publishes this role.
    fn release(&self, role: &str) {
        crate::lab::publish(self.dir.path(), role);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // the server ends with a connection to itself, which has to be made where it is
        if let Some(server) = self.server.take() {
            self.lab.in_network(move || drop(server));
        }
    }
}

/// What a host has that a release may change.
fn state(host: Host<'_>) -> String {
    host.run(
        "cat /etc/app.conf /etc/hosts; sysctl -n net.ipv4.ip_nonlocal_bind; firewall-cmd --list-ports; \
         firewall-cmd --permanent --list-ports; dpkg -l hello | grep -c ^ii; ls /etc/sysctl.d /etc/systemd/system; \
         systemctl is-active app; systemctl is-enabled app; true",
    )
    .ok()
}

#[test]
fn a_failing_release_is_rolled_back_to_the_last_good_one_and_all_can_be_undone() {
    let world = World::new();
    let host = world.host();
    host.run("firewall-cmd -q --add-port=22/tcp && firewall-cmd -q --permanent --add-port=22/tcp").ok();
    let untouched = state(host);
    world.release(ROLE);
    host.run("kpull apply").ok();
    let good = state(host);
    assert!(good.contains("8080/tcp") && good.contains("active\nenabled"), "{good}");

    // a unit that does not start: back at once, and not again but once, and not before a minute is over
    let bad = ROLE.replace("good\\n", "bad\\n").replace("8080/tcp", "9090/tcp");
    world.release(&bad);
    let output = host.run("kpull apply").fails(3);
    assert!(output.contains("release 2 failed on this host, which rolled back to release 1"), "{output}");
    assert_eq!(state(host), good);
    assert!(host.run("kpull apply").ok().contains("nothing to do"));
    let status = host.run("kpull status").ok();
    assert!(status.contains("stays on    release 1, and not 2; tried again after"), "{status}");
    host.run("sed -i 's/\"again\": \"[^\"]*\"/\"again\": \"2020-01-01T00:00:00Z\"/' /var/lib/kpull/hold.json").ok();
    host.run("kpull apply").fails(3);
    assert_eq!(state(host), good);
    let status = host.run("kpull status").ok();
    assert!(status.contains("stays on    release 1, and not 2\n"), "no more tries: {status}");
    let bad_unit = host.run("systemctl is-failed app").stdout;
    assert_eq!(bad_unit, "active\n");

    // one that is well is taken at once
    world.release(&ROLE.replace("8080/tcp", "9090/tcp"));
    host.run("kpull apply").ok();
    assert!(state(host).contains("9090/tcp") && !state(host).contains("8080/tcp"));
    // and a release that was good once is corrected, not rolled back, when it breaks
    host.run("systemctl stop app").ok();
    host.run("kpull apply").ok();
    assert!(state(host).contains("9090/tcp"));

    // by hand
    let back = host.run("kpull rollback --reason 'we need 8080'").ok();
    assert!(
        back.contains(", release 1; the host stays there until a newer release arrives")
            && !back.contains("not undone"),
        "{back}"
    );
    assert_eq!(state(host), good);

    // and a role that was removed leaves the host as it was
    world.release("summary = \"Nothing\"");
    host.run("kpull apply").ok();
    assert_eq!(state(host), untouched);
}

#[test]
fn a_new_or_changed_probe_must_pass_before_a_release_counts_as_good() {
    let world = World::new();
    let host = world.host();
    let role = |probe: &str| {
        format!("summary = \"For a test\"\n[[file]]\npath = \"/etc/app.conf\"\ncontent = \"x\\n\"\n{probe}")
    };
    let probe = |command: &str, within: &str| {
        role(&format!("[[probe]]\nname = \"more\"\ncommand = [\"{command}\"]\nwithin = \"{within}\"\n"))
    };
    let last = || host.run("kpull history").ok();
    world.release(&role(""));
    host.run("kpull apply").ok();

    world.release(&probe("false", "0s"));
    let planned = host.run("kpull plan; [ $? = 2 ]").ok();
    assert!(planned.contains("probe:more  new: must pass before the release counts as good"), "{planned}");
    host.run("kpull apply").fails(3);
    assert!(host.run("kpull status").ok().contains("stays on    release 1, and not 2"));

    // one that passes is asked once
    world.release(&probe("true", "0s"));
    let applied = host.run("kpull apply").ok();
    assert!(applied.contains("nothing to change") && applied.contains("1 probe passed"), "{applied}");
    assert!(last().contains("release 3     good"), "{}", last());
    world.release(&format!("{}# news\n", probe("true", "0s")));
    let applied = host.run("kpull apply").ok();
    assert!(applied.contains("nothing to do") && !applied.contains("probe"), "{applied}");

    // and again when its definition changes
    for (serial, changed) in [(5, probe("true", "3s")), (6, probe("/bin/true", "3s"))] {
        world.release(&changed);
        let planned = host.run("kpull plan; [ $? = 2 ]").ok();
        assert!(planned.contains("probe:more  changed: must pass"), "{planned}");
        assert!(host.run("kpull apply").ok().contains("1 probe passed"));
        assert!(last().contains(&format!("release {serial}     good")), "{}", last());
    }
}

#[test]
fn a_release_that_cuts_the_host_off_is_rolled_back_even_if_the_run_dies() {
    let world = World::new();
    let host = world.host();
    world.release(ROLE);
    host.run("kpull apply").ok();
    // the line from before kpull came
    host.run("sed -i '0,/^192.168.1.254 releases.lab$/{//d}' /etc/hosts").ok();
    let good = state(host);
    assert_eq!(good.matches("releases.lab").count(), 1, "{good}");
    // no server answers at the address of the releases
    let cut = ROLE.replace("\"192.168.1.254 releases.lab\"", "\"192.168.1.99 releases.lab\"");
    world.release(&cut);
    host.run("kpull apply --json > /dev/null; true").ok();
    let output = host.run("kpull status").ok();
    assert!(output.contains("no source can be reached since this host's network"), "{output}");
    assert_eq!(state(host), good);
    assert!(host.run("kpull apply").ok().contains("nothing to do"));

    // the same, and the run dies while it waits
    world.release(&format!("{cut}\n# once more\n"));
    host.run("(kpull apply > /dev/null 2>&1 & echo $! > /run/it); while ! grep -q 192.168.1.99 /etc/hosts; do sleep .05; done; sleep .5; kill -9 $(cat /run/it)")
        .ok();
    assert!(host.run("grep releases /etc/hosts").ok().contains("192.168.1.99"), "it is cut off");
    host.run("kpull apply").fails(3);
    assert_eq!(state(host), good);

    // a network that comes back in time is no reason to go back
    host.run("sed -i 's/contact_within = .*/contact_within = \"120s\"/' /etc/kpull/kpull.toml").ok();
    world.release(&format!("{cut}\n# and again\n"));
    host.run(
        "kpull apply & while ! grep -q 192.168.1.99 /etc/hosts; do sleep .05; done; sleep 1; \
         sed -i s/192.168.1.99/192.168.1.254/ /etc/hosts; wait $!",
    )
    .ok();
}

#[test]
fn a_packet_filter_that_cuts_the_host_off_is_rolled_back_and_its_drift_is_corrected() {
    let world = World::new();
    let host = world.host();
    let role = |verdict: &str| {
        format!(
            r#"
summary = "For a test"
[[nftables]]
name = "site"
content = """
chain output {{
    type filter hook output priority filter; policy accept;
    ip daddr 192.168.1.254 tcp dport 80 counter {verdict}
}}
"""
"#
        )
    };
    let state = || host.run("nft -s list table inet site; cat /etc/nftables.d/*").ok();
    world.release(&role("accept"));
    host.run("kpull apply").ok();
    host.run("kpull plan").ok();
    let good = state();
    assert!(good.contains("tcp dport 80 counter accept"), "{good}");
    world.release(&role("drop"));
    let run = host.run("kpull apply");
    assert_eq!(run.code(), 3, "{run}");
    let status = host.run("kpull status").ok();
    assert!(status.contains("no source can be reached since this host's network"), "{status}");
    assert_eq!(state(), good);
    assert!(host.run("kpull apply").ok().contains("nothing to do"));

    // a table that nft refuses is not loaded
    world.release(&role("acept"));
    let run = host.run("kpull apply --json");
    assert_eq!(run.code(), 3, "{run}");
    assert!(run.stdout.contains("nft refuses the new /etc/nftables.d/kpull-inet-site.nft"), "{run}");
    assert_eq!(state(), good);

    // what somebody changes in the kernel is drift
    world.release(&role("accept"));
    host.run("kpull apply").ok();
    for changes in ["nft add rule inet site output drop", "nft flush table inet site", "nft delete table inet site"] {
        host.run(changes).ok();
        host.run("kpull apply").ok();
        assert_eq!(state(), good, "{changes}");
        host.run("kpull plan").ok();
    }
    host.run("sync").ok();
    host.crash();
    host.boot();
    assert_eq!(state(), good, "it is loaded at boot");
    host.run("kpull plan").ok();

    world.release("summary = \"For a test\"\n");
    host.run("kpull apply").ok();
    host.run("nft list table inet site").fails(1);
    host.run("ls /etc/nftables.d").fails(2);
}

/// Cuts the host off with an address in another network, in the role of a recipe, and sees it return; `file` has the address.
fn returns_after_a_wrong_address(world: &World, recipe: &str, file: &str, mode: &str) {
    let host = world.host();
    let role = recipes().into_iter().find(|one| one.title == recipe).unwrap().role;
    let release = |address: Option<&str>| {
        let vars = address.map(|address| {
            format!("[vars.app]\ninterface = \"host0\"\naddress = \"{address}/24\"\ngateway = \"{FABRIC}\"\n")
        });
        let host_vars = format!("address = \"192.168.1.11\"\nroles = [\"app\"]\n{}", vars.unwrap_or_default());
        std::fs::write(world.dir.path().join("site/host_vars/h1.toml"), host_vars).unwrap();
        world.release(address.map_or("summary = \"For a test\"\n", |_| &role));
    };
    // the only address, once the service has set it
    let is_at = |address: &str| {
        let shown = "ip -4 -o address show dev host0 scope global | awk '{print $4}'";
        host.run(&format!(
            "for i in $(seq 100); do [ \"$({shown})\" = {address}/24 ] && exit; sleep .1; done; {shown}; false"
        ))
        .ok();
        host.run(&format!("cat {file}; ip route show default")).stdout
    };
    // without the role, the host has its former address, and networkd keeps the role's beside it until it boots
    let has_former = || {
        host.run("for i in $(seq 100); do ip -4 address show dev host0 | grep -q 192.168.1.11/ && exit; sleep .1; done; false").ok();
        host.run(&format!("test ! -e {file}")).ok();
    };
    release(None);
    host.run("kpull apply").ok();
    // its first address is wrong already
    release(Some("10.9.9.7"));
    host.run("kpull apply").fails(3);
    has_former();
    assert!(host.run("kpull apply").ok().contains("nothing to do"));

    release(Some("192.168.1.21"));
    host.run("kpull apply").ok();
    let good = is_at("192.168.1.21");
    host.run("kpull plan").ok();
    release(Some("10.9.9.9"));
    let run = host.run("kpull apply");
    assert_eq!(run.code(), 3, "{run}");
    let status = host.run("kpull status").ok();
    assert!(status.contains("no source can be reached since this host's network"), "{status}");
    assert_eq!(is_at("192.168.1.21"), good);
    assert!(host.run("kpull apply").ok().contains("nothing to do"));

    // the power fails while the host is cut off, and it boots with the wrong address
    let waits = |time: &str| {
        host.run(&format!("sed -i 's/contact_within = .*/contact_within = \"{time}\"/' /etc/kpull/kpull.toml")).ok()
    };
    waits("10m");
    release(Some("10.9.9.8"));
    host.run("kpull apply < /dev/null > /dev/null 2>&1 &").ok();
    is_at("10.9.9.8");
    host.run("sync").ok();
    host.crash();
    host.boot();
    is_at("10.9.9.8");
    waits("4s");
    let run = host.run("kpull apply");
    assert_eq!(run.code(), 3, "{run}");
    assert_eq!(is_at("192.168.1.21"), good);

    release(Some("192.168.1.22"));
    host.run("kpull apply").ok();
    is_at("192.168.1.22");
    host.run("kpull plan").ok();
    assert_eq!(host.run(&format!("stat -c %a:%U {file}")).ok(), mode);
    release(None);
    host.run("kpull apply").ok();
    has_former();
}

#[test]
fn a_wrong_file_of_networkd_cuts_the_host_off_and_the_host_returns() {
    let recipe = "A static address with systemd-networkd";
    returns_after_a_wrong_address(&World::new(), recipe, "/etc/systemd/network/05-lan.network", "644:root");
}

#[test]
fn a_wrong_connection_of_networkmanager_cuts_the_host_off_and_the_host_returns() {
    let world = World::new();
    let host = world.host();
    host.install("network-manager");
    let former = "[connection]\nid=former\ntype=ethernet\ninterface-name=host0\n[ipv4]\nmethod=manual\n\
        address1=192.168.1.11/24,192.168.1.254\n";
    host.write("/etc/NetworkManager/system-connections/former.nmconnection", former);
    host.run(
        "systemctl disable -q --now systemd-networkd.socket systemd-networkd.service; cd /etc/NetworkManager && \
         chmod 600 system-connections/former.nmconnection && nmcli connection reload && nmcli connection up former",
    )
    .ok();
    let file = "/etc/NetworkManager/system-connections/lan.nmconnection";
    returns_after_a_wrong_address(&world, "A static address with NetworkManager", file, "600:root");
}
