//! firewalld on a real host: zones, services and sets of a role's own, and addresses that are written in more than one way.

use crate::lab::{CURL_NO_CONNECTION, H1, H2};
use crate::support::alone::World;
use crate::support::lab::{Host, Lab};
use crate::support::sample;

const OWN: &str = r#"
[[firewall]]
zone = "friends"
target = "ACCEPT"
sources = ["ipset:friends", "10.7.0.0/255.255.0.0"]
[firewall.define_ipsets.friends]
entries = ["192.168.1.12/32", "10.9.0.0/16"]

[[firewall]]
zone = "public"
services = ["app"]
[firewall.define_services.app]
ports = ["9090/tcp"]

[[firewall]]
zone = "storage"
target = "DROP"
forward = true
interfaces = ["eth7", "cali+"]
ports = ["3260/tcp"]
"#;

/// What a zone has now, and what it will have: alike, or the test fails.
#[track_caller]
fn zone(host: Host<'_>, name: &str) -> String {
    let list = |how: &str| {
        let output = host.run(&format!("firewall-cmd {how} --zone={name} --list-all")).ok();
        let lines = output.lines().filter(|line| line.contains(':') && !line.contains("short")).map(|line| {
            let mut words: Vec<&str> = line.split_whitespace().collect();
            words[1..].sort_unstable();
            words.join(" ")
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    let (now, then) = (list(""), list("--permanent"));
    assert_eq!(now, then, "{name}");
    now
}

/// All of it is there, now and for the next start.
#[track_caller]
fn is_whole(host: Host<'_>) {
    let friends = zone(host, "friends");
    for line in ["target: ACCEPT", "sources: 10.7.0.0/16 ipset:friends"] {
        assert!(friends.lines().any(|one| one == line), "{line}: {friends}");
    }
    let storage = zone(host, "storage");
    for line in ["target: DROP", "forward: yes", "interfaces: cali+ eth7", "ports: 3260/tcp"] {
        assert!(storage.lines().any(|one| one == line), "{line}: {storage}");
    }
    assert!(zone(host, "public").contains("app"));
    for how in ["", "--permanent"] {
        assert_eq!(
            host.run(&format!("firewall-cmd {how} --info-service=app | grep ports:")).ok().trim(),
            "ports: 9090/tcp\n  source-ports:"
        );
        assert_eq!(
            host.run(&format!("firewall-cmd {how} --ipset=friends --get-entries | sort")).ok(),
            "10.9.0.0/16\n192.168.1.12"
        );
    }
}

/// Everything that firewalld has, but for the file of the zone public: firewalld writes one when it edits a zone, whatever is in it then.
fn everything(host: Host<'_>) -> Vec<String> {
    let output = host
        .run(
            "for how in '' --permanent; do firewall-cmd $how --list-all-zones; firewall-cmd $how --get-ipsets; \
             firewall-cmd $how --get-services | tr ' ' '\\n' | sort; done; find /etc/firewalld -name '*.xml' ! -path '*/zones/public.xml'",
        )
        .ok();
    let mut lines: Vec<String> = output.lines().map(|line| line.trim().to_owned()).collect();
    lines.sort();
    lines
}

const WEB: &str = "mkdir -p /srv && printf 'HTTP/1.0 200 OK\\r\\n\\r\\nhello' > /srv/web && \
    printf '[Socket]\\nListenStream=8080\\nAccept=yes\\n' > /etc/systemd/system/web.socket && \
    printf '[Service]\\nStandardOutput=socket\\nExecStart=/bin/cat /srv/web\\n' > /etc/systemd/system/web@.service && \
    systemctl daemon-reload && systemctl start web.socket";

#[test]
fn zones_services_and_sets_survive_reloads_and_boots_and_go_with_their_role() {
    let world = World::on(Lab::new(&[H1, H2]));
    let (host, friend) = (world.host(), world.0.host("h2"));
    host.run(WEB).ok();
    let before = everything(host);
    // no unit or zone of kpull: an operator's own, until the next reload
    host.run("firewall-cmd -q --zone=work --add-source=10.99.0.0/16 && firewall-cmd -q --zone=home --add-port=7/udp")
        .ok();
    let get = "curl -sS --max-time 10 http://192.168.1.11:8080/";
    friend.run(get).fails(CURL_NO_CONNECTION);

    world.release(OWN);
    let plan = host.run("kpull plan");
    assert_eq!(plan.code(), 2, "{plan}");
    for part in ["firewall:ipset friends", "firewall:service app", "firewall:zone friends", "firewall:zone storage"] {
        assert!(plan.stdout.contains(part), "{part}: {plan}");
    }
    host.run("kpull apply").ok();
    is_whole(host);
    world.is_converged();
    // the server ends before it has read the request
    assert!(friend.run(get).stdout.contains("hello"), "the zone lets its source in");
    assert_eq!(
        host.run("firewall-cmd --zone=work --list-sources").ok(),
        "10.99.0.0/16",
        "what others had for now only"
    );
    assert_eq!(host.run("firewall-cmd --zone=home --list-ports").ok(), "7/udp");

    host.run("firewall-cmd -q --reload").ok();
    is_whole(host);
    world.is_converged();
    host.crash();
    host.boot();
    is_whole(host);
    world.is_converged();

    let drifts = [
        "firewall-cmd -q --ipset=friends --remove-entry=192.168.1.12",
        "firewall-cmd -q --permanent --ipset=friends --remove-entry=192.168.1.12",
        "firewall-cmd -q --ipset=friends --add-entry=10.11.0.0/16",
        "firewall-cmd -q --permanent --service=app --add-port=1/tcp && firewall-cmd -q --reload",
        "firewall-cmd -q --permanent --zone=storage --set-target=ACCEPT && firewall-cmd -q --reload",
        "firewall-cmd -q --permanent --zone=storage --set-target=ACCEPT",
        "firewall-cmd -q --zone=friends --remove-source=10.7.0.0/16",
        "firewall-cmd -q --permanent --delete-zone=storage && firewall-cmd -q --reload",
        "firewall-cmd -q --permanent --delete-zone=storage",
        "rm /etc/firewalld/ipsets/friends.xml && systemctl restart firewalld",
        "rm /etc/firewalld/services/app.xml && systemctl restart firewalld",
        "firewall-cmd -q --zone=public --change-interface=eth7",
    ];
    for drift in sample::of(drifts.into_iter()) {
        host.run(drift).ok();
        let output = host.run("kpull apply");
        assert_eq!(output.code(), 0, "{drift}: {output}");
        is_whole(host);
        assert_eq!(host.run("kpull plan").code(), 0, "{drift}");
    }

    world.release("");
    world.converges();
    assert_eq!(everything(host), before);
    friend.run(get).fails(CURL_NO_CONNECTION);
}

#[test]
fn another_entry_of_a_set_takes_effect_now_and_after_the_next_start() {
    let world = World::new();
    let host = world.host();
    let set = |entries: &str| {
        format!(
            "[[firewall]]\nzone = \"public\"\nallow = [{{ port = \"80/tcp\", from = \"ipset:s\" }}]\n[firewall.define_ipsets.s]\nentries = [{entries}]\n"
        )
    };
    world.release(&set("\"10.0.0.1\""));
    world.converges();
    world.release(&set("\"10.0.0.2\", \"10.1.0.0/255.255.0.0\""));
    world.converges();
    for how in ["", "--permanent"] {
        let entries = host.run(&format!("firewall-cmd {how} --ipset=s --get-entries | sort")).ok();
        assert_eq!(entries, "10.0.0.2\n10.1.0.0/16", "{how}");
    }
    world.release(&set("\"fd00::2\"").replace("80/tcp", "81/tcp"));
    world.converges();
    assert_eq!(host.run("firewall-cmd --ipset=s --get-entries").ok(), "fd00::2");
}

#[test]
fn an_equivalent_source_is_the_same_and_one_of_another_zone_moves_and_returns() {
    let world = World::new();
    let host = world.host();
    host.run(
        "firewall-cmd -q --permanent --zone=trusted --add-source=10.0.0.0/255.255.0.0 && \
         firewall-cmd -q --permanent --zone=trusted --add-source=FD00:0::/64 && \
         firewall-cmd -q --permanent --zone=internal --add-source=10.5.0.0/255.255.0.0 && \
         firewall-cmd -q --permanent --zone=internal --add-interface=eth9 && \
         firewall-cmd -q --permanent --add-rich-rule='rule family=ipv4 source address=10.6.0.0/255.255.0.0 service name=http accept' && \
         firewall-cmd -q --reload",
    )
    .ok();
    let before = everything(host);
    let same = "[[firewall]]\nzone = \"trusted\"\nsources = [\"10.0.0.0/16\", \"fd00::/64\"]\n\
        [[firewall]]\nzone = \"public\"\nallow = [{ service = \"http\", from = \"10.6.0.0/16\" }]\n";
    world.release(same);
    world.is_converged();
    host.run("kpull apply").ok();
    assert_eq!(everything(host), before);

    world.release(&format!(
        "{same}[[firewall]]\nzone = \"dmz\"\nsources = [\"10.5.0.0/16\"]\ninterfaces = [\"eth9\"]\n"
    ));
    world.converges();
    assert!(zone(host, "dmz").contains("sources: 10.5.0.0/16") && zone(host, "dmz").contains("interfaces: eth9"));
    assert!(zone(host, "internal").lines().any(|line| line == "sources:"), "{}", zone(host, "internal"));
    host.run("firewall-cmd --check-config").ok();

    world.release("");
    world.converges();
    let internal = zone(host, "internal");
    assert!(internal.contains("sources: 10.5.0.0/255.255.0.0") && internal.contains("interfaces: eth9"), "{internal}");
    assert!(zone(host, "trusted").contains("10.0.0.0/255.255.0.0"), "it was there before");
}

#[test]
fn a_service_file_of_the_same_release_is_loaded_before_a_zone_lists_it() {
    let world = World::new();
    let host = world.host();
    let role = |port: u16| {
        format!(
            "[[file]]\npath = \"/etc/firewalld/services/app.xml\"\ncontent = '<service><port port=\"{port}\" protocol=\"tcp\"/></service>'\n\
             [[file]]\npath = \"/etc/firewalld/zones/own.xml\"\ncontent = '<zone><service name=\"app\"/><source address=\"10.0.0.{port}\"/></zone>'\n\
             [[firewall]]\nzone = \"public\"\nservices = [\"app\"]\n"
        )
    };
    for port in [81, 82] {
        world.release(&role(port));
        world.converges();
        assert_eq!(host.run("firewall-cmd --service=app --get-ports --permanent").ok(), format!("{port}/tcp"));
        assert!(host.run("firewall-cmd --info-service=app").ok().contains(&format!("ports: {port}/tcp")));
        assert_eq!(host.run("firewall-cmd --zone=own --list-sources").ok(), format!("10.0.0.{port}"));
    }
    assert_eq!(host.run("firewall-cmd --zone=public --query-service=app").ok(), "yes");
    world.release("");
    world.converges();
    host.run("firewall-cmd --info-service=app").fails(101);
    host.run("firewall-cmd --info-zone=own").fails(112);
}

#[test]
fn an_undefined_zone_is_reported_with_the_nearest_name_and_nothing_changes() {
    let world = World::new();
    let host = world.host();
    let before = everything(host);
    world.release("[[firewall]]\nzone = \"pubilc\"\nports = [\"80/tcp\"]\n");
    let output = host.run("kpull plan").fails(1);
    for part in ["firewalld has no zone `pubilc`", "did you mean `public`?"] {
        assert!(output.contains(part), "{output}");
    }
    assert_eq!(everything(host), before);
}

#[test]
fn a_feature_too_new_for_a_stopped_firewalld_is_refused_before_any_change() {
    let world = World::new();
    let host = world.host();
    let facts = host.run("kpull facts").ok();
    let version = host.run("firewall-cmd --version").ok();
    assert!(facts.lines().any(|line| line == format!("firewalld = \"{version}\"")), "{version}: {facts}");

    let program = "/usr/lib/python3/dist-packages/firewall/config/__init__.py";
    host.run(&format!("systemctl stop firewalld && sed -i.new \"s/^VERSION = .*/VERSION = '0.6.3'/\" {program}")).ok();
    let wants =
        "[[file]]\npath = \"/etc/first\"\ncontent = \"\"\n[[unit]]\nname = \"firewalld.service\"\nenable = true\n";
    for (more, what) in [
        ("[[firewall]]\nzone = \"storage\"\nforward = true\n", "firewalld 0.6.3 has no `forward` in its zones"),
        (
            "[[firewall]]\n[firewall.define_services.own]\nports = [\"1/tcp\"]\nhelpers = [\"ftp\"]\n",
            "firewalld 0.6.3 has no `helpers` in its services",
        ),
    ] {
        world.release(&format!("{wants}{more}"));
        for command in ["plan", "apply"] {
            let output = host.run(&format!("kpull {command} --json"));
            assert_eq!(output.code(), 1, "{command}: {output}");
            assert!(output.stdout.contains(what), "{command}: {output}");
        }
        host.run("test ! -e /etc/first && ! systemctl is-active firewalld").ok();
    }
    host.run(&format!("mv {program}.new {program}")).ok();
    world.converges();
    host.run("firewall-cmd --info-service=own").ok();
}
