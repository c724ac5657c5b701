//! firewalld of every age: either backend, and the D-Bus interface that it had before 0.9.

use crate::support::alone::World;
use crate::support::lab::{H1, Host, Lab, Suite};
use crate::support::old_firewalld::make_old;

/// Zones, sets, services and rules, beside the shipped role.
const APP: &str = r#"
[[firewall]]
zone = "friends"
target = "ACCEPT"
sources = ["ipset:friends", "10.7.0.0/255.255.0.0"]
[firewall.define_ipsets.friends]
entries = ["192.168.1.12/32", "10.9.0.0/16"]

[[firewall]]
zone = "public"
services = ["app"]
ports = ["30000-30010/udp"]
allow = [{ port = "2379/tcp", from = "192.168.1.0/24" }]
rich = ["rule family=ipv4 source address=10.0.0.0/255.0.0.0 service name=ntp log prefix=ntp limit value=1/minute accept"]
masquerade = true
[firewall.define_services.app]
ports = ["9090/tcp"]
"#;

/// A host of a Debian release, with the shipped role `firewall` beside its own; firewalld has this backend.
pub fn world(suite: Suite) -> World {
    let world = World::on(Lab::of(suite, &[H1]));
    let host = world.host();
    host.write("/srv/site/roles/firewall/role.toml", include_str!("../../roles/firewall/role.toml"));
    host.write("/srv/site/host_vars/h1.toml", "address = \"192.168.1.11\"\nroles = [\"firewall\", \"app\"]\n");
    world
}

/// All that a site does with firewalld, on a host whose firewalld is as its package has it.
pub fn steps(world: &World, backend: &str) {
    let host = world.host();
    host.run(&format!(
        "sed -i 's/^FirewallBackend=.*/FirewallBackend={backend}/' /etc/firewalld/firewalld.conf && \
         grep -q '={backend}$' /etc/firewalld/firewalld.conf && systemctl restart firewalld"
    ))
    .ok();
    world.release(APP);
    differs(host);
    host.run("kpull apply").ok();
    is_idle(world);
    is_whole(host);

    host.run("firewall-cmd -q --reload").ok();
    is_idle(world);
    is_whole(host);
    host.run("systemctl restart firewalld").ok();
    is_idle(world);
    is_whole(host);

    for drift in [
        "firewall-cmd -q --add-port=7777/tcp",
        "firewall-cmd -q --permanent --add-port=7777/tcp",
        "firewall-cmd -q --remove-service=app",
        "firewall-cmd -q --zone=friends --remove-source=10.7.0.0/16",
        "firewall-cmd -q --ipset=friends --remove-entry=192.168.1.12",
    ] {
        host.run(drift).ok();
        differs(host);
        host.run("kpull apply").ok();
        is_whole(host);
    }
    is_idle(world);

    // newer ones own their table of nftables, which no other program can flush then
    host.run("nft flush ruleset; iptables -F").ok();
    host.run("kpull apply").ok();
    let rules = match backend {
        "iptables" => "iptables -w -C INPUT -j INPUT_direct",
        _ => "nft list chain inet firewalld filter_INPUT",
    };
    host.run(rules).ok();
    is_idle(world);
    is_whole(host);
}

/// `kpull plan` finds something to do.
#[track_caller]
fn differs(host: Host<'_>) {
    let plan = host.run("kpull plan");
    assert_eq!(plan.code(), 2, "{plan}");
}

/// Neither `kpull plan` nor `kpull apply` finds anything to do, and firewalld is the one that it was.
#[track_caller]
fn is_idle(world: &World) {
    let life = || world.host().run("systemctl show -p InvocationID firewalld").ok();
    let before = life();
    world.is_converged();
    world.converges();
    assert_eq!(life(), before, "firewalld was restarted");
}

/// All of [`APP`] is in effect, now and after the next start, and nothing that is not listed.
#[track_caller]
fn is_whole(host: Host<'_>) {
    let output = host.run(ASK).ok();
    let public = r#"["default",["app","http","https","ssh"],[["30000-30010","udp"]],true,[],2]"#;
    let friends = r#"["ACCEPT",[],[],false,["10.7.0.0/16","ipset:friends"],0]"#;
    let set = r#"["10.9.0.0/16","192.168.1.12"]"#;
    assert_eq!(output.lines().collect::<Vec<_>>(), [public, public, friends, friends, set, set]);
}

/// Asks firewalld for target, services, ports, masquerading, sources and the number of rich rules of each zone, and for the entries of
/// the set; of each for what holds now and for what holds after the next start. firewall-cmd takes a third of a second for a question.
const ASK: &str = r#"
service=org.fedoraproject.FirewallD1 at=/org/fedoraproject/FirewallD1
ask() { busctl --json=short call $service "$@" | jq -r -c '.data[0]'; }
zone() { jq -c '[.[4], (.[5] | sort), .[6], .[8], (.[11] | sort), (.[12] | length)]'; }
for zone in public friends; do
    ask $at $service getZoneSettings s $zone | zone
    ask "$(ask $at/config $service.config getZoneByName s $zone)" $service.config.zone getSettings | zone
done
ask $at $service.ipset getEntries s friends | jq -c sort
ask "$(ask $at/config $service.config getIPSetByName s friends)" $service.config.ipset getEntries | jq -c sort
"#;

#[test]
fn a_firewalld_with_the_interface_of_0_4_goes_through_all_steps_with_either_backend() {
    let world = world(Suite::Bookworm);
    make_old(world.host());
    for backend in ["nftables", "iptables"] {
        steps(&world, backend);
        world.release("");
        world.converges();
        assert!(!world.host().run("firewall-cmd --get-zones").ok().contains("friends"));
    }
}

#[test]
fn a_feature_that_an_older_firewalld_lacks_is_reported_before_any_change() {
    let world = world(Suite::Bookworm);
    let host = world.host();
    make_old(host);
    world.release("");
    world.converges();
    let before = host.run("firewall-cmd --get-zones; cat /etc/firewalld/*/*.xml").ok();
    let public = "[[file]]\npath = \"/etc/motd.d/new\"\ncontent = \"\"\n[[firewall]]\nzone = \"public\"\n";
    for (role, parts) in [
        (
            format!("{public}forward = true\n"),
            ["firewalld does not support `forward`, which the role sets for the zone public", "it is older than 0.9"],
        ),
        (
            "[[firewall]]\nzone = \"storage\"\ntarget = \"DROP\"\nforward = true\n".to_owned(),
            [
                "firewalld does not support `forward`, which the role sets for the zone storage",
                "omit `forward` on this host",
            ],
        ),
        (
            format!("{public}rich = [\"rule priority=5 service name=ntp accept\"]\n"),
            ["INVALID_RULE: 'priority' outside of any element", "`priority` needs firewalld 0.7 or newer"],
        ),
        (
            format!("{public}rich = [\"rule family=ipv4 tcp-mss-clamp value=pmtu\"]\n"),
            ["firewalld refuses", "`tcp-mss-clamp` needs firewalld 1.0 or newer"],
        ),
        (
            format!("{public}services = [\"own\"]\n[firewall.define_services.own]\nincludes = [\"ssh\"]\n"),
            ["firewalld 0.4.4.4 has no `includes` in its services", "this needs 0.7 or newer"],
        ),
    ] {
        world.release(&role);
        for verb in ["plan", "apply"] {
            let output = host.run(&format!("kpull {verb}"));
            assert!(!matches!(output.code(), 0 | 2), "{output}");
            let words: Vec<&str> = output.stderr.split_whitespace().filter(|word| *word != "│").collect();
            let words = words.join(" ");
            for part in parts {
                assert!(words.contains(part), "{part}: {words}");
            }
            assert!(!words.contains("Traceback") && !words.contains(".py"), "{words}");
        }
        let now = host.run("firewall-cmd --get-zones; cat /etc/firewalld/*/*.xml").ok();
        assert_eq!(now, before, "{role}");
        host.run("test ! -e /etc/motd.d/new").ok();
    }
}

#[test]
fn the_role_firewall_restarts_nothing_whatever_backend_firewalld_has() {
    let world = world(Suite::Trixie);
    for backend in ["iptables", "nftables"] {
        steps(&world, backend);
        world.release("");
        world.converges();
    }
}
