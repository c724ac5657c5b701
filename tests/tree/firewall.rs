//! `[[firewall]]` in a tree: zones, services and sets of a role's own are files, and an address is the same however it is written.

use crate::support::site::{Output, Site, Tree, kpull};
use crate::tree::apply::base;

const PUBLIC: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<zone>\n  <short>Public</short>\n  <service name=\"ssh\"/>\n  \
    <interface name=\"eth1\"/>\n  <forward/>\n</zone>\n";

const OWN: &str = r#"
[[firewall]]
zone = "k8s"
target = "ACCEPT"
forward = true
sources = ["10.0.0.0/255.255.0.0", "ipset:nodes"]
interfaces = ["eth1"]
services = ["app"]
[firewall.define_services.app]
description = "What < we > sell"
ports = ["8080/tcp", "9000-9001/udp"]
protocols = ["VRRP"]
[firewall.define_ipsets.nodes]
entries = ["192.168.1.11/32", "192.168.1.0/24", "172.16.5.5/255.255.0.0"]

[[firewall]]
zone = "public"
target = "DROP"
forward = false
"#;

/// A tree that has firewalld's zone `public`, and a site with this role.
fn tree(role: &str) -> (Site, Tree) {
    let site = base(role);
    let tree = site.sign().enroll();
    tree.write("etc/firewalld/zones/public.xml", PUBLIC);
    (site, tree)
}

/// `kpull check` of a site.
fn check(site: &Site) -> Output {
    kpull(&["check", "--site", site.path().to_str().unwrap()])
}

/// The message, however its lines are broken.
fn words(expected: &str) -> String {
    expected.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ")
}

/// The files of a tree: of directories, those on the way stay.
fn files(tree: &Tree) -> Vec<String> {
    let all = tree.snapshot();
    all.into_iter().filter(|(_, (mode, _))| !mode.starts_with("40")).map(|file| format!("{file:?}")).collect()
}

#[test]
fn zones_services_and_sets_of_a_role_are_files_and_removed_with_it() {
    let (site, tree) = tree(OWN);
    let before = files(&tree);
    tree.kpull("apply").exits(0);
    assert_eq!(
        tree.read("etc/firewalld/zones/k8s.xml"),
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<zone target=\"ACCEPT\">\n  <service name=\"app\"/>\n  <forward/>\n  \
         <source address=\"10.0.0.0/16\"/>\n  <source ipset=\"nodes\"/>\n  <interface name=\"eth1\"/>\n</zone>\n"
    );
    assert_eq!(
        tree.read("etc/firewalld/services/app.xml"),
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<service>\n  <short>app</short>\n  \
         <description>What &lt; we &gt; sell</description>\n  <port port=\"8080\" protocol=\"tcp\"/>\n  \
         <port port=\"9000-9001\" protocol=\"udp\"/>\n  <protocol value=\"vrrp\"/>\n</service>\n"
    );
    assert_eq!(
        tree.read("etc/firewalld/ipsets/nodes.xml"),
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<ipset type=\"hash:net\">\n  <short>nodes</short>\n  \
         <entry>172.16.0.0/16</entry>\n  <entry>192.168.1.0/24</entry>\n</ipset>\n"
    );
    assert_eq!(
        tree.read("etc/firewalld/zones/public.xml"),
        PUBLIC
            .replace("<zone>", "<zone target=\"DROP\">")
            .replace("  <interface name=\"eth1\"/>\n", "")
            .replace("  <forward/>\n", ""),
        "an interface belongs to one zone"
    );
    let wanted = tree.snapshot();
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);

    // drift
    tree.write("etc/firewalld/services/app.xml", "<service/>\n");
    std::fs::remove_file(tree.at("etc/firewalld/zones/k8s.xml")).unwrap();
    let changed = tree.kpull("apply --json").exits(0).changed();
    assert_eq!(changed[..2], ["firewall:service app", "firewall:zone k8s"], "{changed:?}");
    assert_eq!(tree.snapshot(), wanted);

    // a part of it goes, and then all of it
    let less = OWN.replace("services = [\"app\"]\n", "").replace("target = \"DROP\"\n", "");
    site.role("base", &less).sign();
    tree.kpull("apply").exits(0);
    assert!(!tree.read("etc/firewalld/zones/k8s.xml").contains("app"));
    assert!(tree.read("etc/firewalld/zones/public.xml").contains("<zone>"));
    site.role("base", "").sign();
    let plan = tree.kpull("plan --json").exits(2).changed();
    for missing in
        ["firewall:zone k8s", "absent:/etc/firewalld/services/app.xml", "absent:/etc/firewalld/ipsets/nodes.xml"]
    {
        assert!(plan.contains(&missing.to_owned()), "{plan:?}");
    }
    tree.kpull("apply").exits(0);
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    // what comes back stands at another place in the file
    assert_eq!(sorted(&tree.read("etc/firewalld/zones/public.xml")), sorted(PUBLIC));
    tree.write("etc/firewalld/zones/public.xml", PUBLIC);
    assert_eq!(files(&tree), before);
    tree.kpull("plan").exits(0);
}

#[test]
fn a_zone_that_another_resource_still_uses_outlives_the_one_that_made_it() {
    let (site, tree) = tree(
        "[[firewall]]\nzone = \"k8s\"\nsources = [\"10.0.0.0/16\"]\n[[firewall]]\nzone = \"k8s\"\nports = [\"6443/tcp\"]\n",
    );
    tree.kpull("apply").exits(0);
    site.role("base", "[[firewall]]\nzone = \"k8s\"\nports = [\"6443/tcp\"]\n").sign();
    tree.kpull("apply").exits(0);
    let zone = tree.read("etc/firewalld/zones/k8s.xml");
    assert!(zone.contains("6443") && !zone.contains("10.0.0.0"), "{zone}");
    tree.kpull("plan").exits(0);
}

#[test]
fn an_existing_equivalent_entry_is_no_change() {
    let (_site, tree) = tree(
        r#"
        [[firewall]]
        zone = "public"
        sources = ["10.0.0.0/16", "FD00:0::/64", "02:00:00:00:00:ab"]
        ports = ["80-80/tcp"]
        allow = [
            { port = "443-443/tcp", from = ["10.1.0.7/255.255.0.0", "fd01::/64"] },
            { protocol = "VRRP", from = "10.2.0.1" },
        ]
        "#,
    );
    tree.write(
        "etc/firewalld/zones/public.xml",
        "<zone>\n  <source address=\"10.0.0.0/255.255.0.0\"/>\n  <source address=\"fd00:0:0:0::/64\"/>\n  \
         <source address=\"02:00:00:00:00:AB\"/>\n  <port port=\"80-80\" protocol=\"tcp\"/>\n  \
         <rule family=\"ipv4\"><source address=\"10.1.0.0/16\"/><port port=\"443\" protocol=\"tcp\"/><accept/></rule>\n  \
         <rule family=\"ipv6\"><source address=\"FD01::0/64\"/><port port=\"443\" protocol=\"tcp\"/><accept/></rule>\n  \
         <rule family=\"ipv4\"><source address=\"10.2.0.1/32\"/><protocol value=\"vrrp\"/><accept/></rule>\n</zone>\n",
    );
    assert_eq!(tree.kpull("plan --json").exits(0).changed(), [""; 0]);
}

#[test]
fn an_undefined_zone_is_an_error_with_the_nearest_name() {
    let (_site, tree) = tree("[[firewall]]\nzone = \"pubilc\"\nports = [\"80/tcp\"]\n");
    let output = tree.kpull("plan").exits(1).stderr;
    for part in ["firewalld has no zone `pubilc`", "did you mean `public`?", "target = \"default\""] {
        assert!(words(&output).contains(part), "{output}");
    }
}

#[test]
fn a_zone_that_is_a_file_and_a_firewall_is_refused_with_the_fields_to_use() {
    let file = "[[file]]\npath = \"/etc/firewalld/zones/k8s.xml\"\ncontent = \"<zone/>\"\n";
    for firewall in ["ports = [\"6443/tcp\"]", "target = \"DROP\"", "sources = [\"10.0.0.0/8\"]"] {
        let site = base(&format!("{file}[[firewall]]\nzone = \"k8s\"\n{firewall}\n"));
        let output = words(&check(&site).exits(1).stderr);
        for part in ["`/etc/firewalld/zones/k8s.xml` occurs twice in the role base", "`target`, `sources`, `services`"]
        {
            assert!(output.contains(part), "{firewall}: {output}");
        }
    }
}

#[test]
fn an_invalid_service_or_set_is_refused_with_the_reason() {
    for (fields, why) in [
        ("define_services.app = {}", "the service `app` is empty: set its `ports`"),
        ("define_services.\"a b\" = { ports = ['1/tcp'] }", "`a b` is not the name of a service"),
        ("define_services.app = { ports = ['1/tcp'], description = \"a\\nb\" }", "contains control characters"),
        ("define_ipsets.a = { type = 'list:set' }", "`list:set` is not a type of set in firewalld: hash:ip"),
        (
            "define_ipsets.a = { entries = ['10.0.0.1', 'fd00::1'] }",
            "the entry `fd00::1` of the set `a` is of the other family",
        ),
        ("define_ipsets.a = { entries = ['0.0.0.0/0'] }", "contains all addresses, which a set can't"),
        ("define_ipsets.a = { entries = ['10.0.0.1,tcp:80'] }", "is not of the type hash:net"),
        ("define_ipsets.a = { entries = ['10.0.0'] }", "has `10.0.0`, which is neither an address nor a network"),
        ("define_ipsets.a = { entries = ['10.0.0.1'], options = { timeout = 60 } }", "the set `a` has a `timeout`"),
        ("target = 'ALLOW'", "`firewall[0].target` can't be read"),
        ("sources = ['ipset:a b']", "`a b` is not the name of a set"),
    ] {
        let site = base(&format!("[[firewall]]\nzone = \"k8s\"\n{fields}\n"));
        let output = words(&check(&site).exits(1).stderr);
        assert!(output.contains(why), "{fields}: {output}");
    }
}

/// Ends `plan` and `apply` with this error, before anything is changed.
#[track_caller]
fn refuses(tree: &Tree, what: &str, help: &str) {
    let before = files(tree);
    for command in ["plan --json", "apply --json"] {
        let error = tree.kpull(command).exits(1).error();
        let message = (error["error"].as_str().unwrap(), error["help"].as_str().unwrap());
        assert!(message.0.contains(what) && message.1.contains(help), "{error}");
        assert_eq!(error["file"], "roles/base/role.toml");
    }
    let is_state = |file: &String| file.contains("var/lib/kpull");
    let now = files(tree);
    assert!(now.iter().filter(|file| !is_state(file)).eq(before.iter().filter(|file| !is_state(file))), "{now:?}");
}

#[test]
fn a_feature_too_new_for_the_firewalld_of_a_tree_is_refused_before_any_change() {
    let first = "[[file]]\npath = \"/etc/first\"\ncontent = \"\"\n";
    let zone = "[[firewall]]\nzone = \"public\"\n";
    let own = "[firewall.define_services.own]\nports = [\"1/tcp\"]\n";
    for (wants, what, needs) in [
        (format!("{zone}forward = true\n"), "`forward` in its zones", "0.9"),
        (
            "[[firewall]]\nzone = \"k8s\"\ntarget = \"ACCEPT\"\nforward = true\n".to_owned(),
            "`forward` in its zones",
            "0.9",
        ),
        (
            format!("{zone}rich = [\"rule priority=5 service name=ntp accept\"]\n"),
            "`priority` in its rich rules",
            "0.7",
        ),
        (
            format!("{zone}rich = [\"rule family=ipv4 tcp-mss-clamp value=pmtu\"]\n"),
            "`tcp-mss-clamp` in its rich rules",
            "1.0",
        ),
        (format!("{zone}{own}includes = [\"ssh\"]\n"), "`includes` in its services", "0.7"),
        (format!("{zone}{own}helpers = [\"ftp\"]\n"), "`helpers` in its services", "0.8"),
    ] {
        let (site, tree) = tree(&format!("{first}{wants}"));
        tree.write("etc/firewalld/zones/public.xml", "<zone>\n</zone>\n");
        // from the system, whose firewalld is not installed yet
        tree.write("etc/os-release", "ID=centos\nID_LIKE=\"rhel fedora\"\nVERSION_ID=7\n");
        refuses(&tree, &format!("the firewalld of centos 7 has no {what}"), &format!("this needs {needs} or newer"));
        // by the firewalld that is there
        let program = "usr/lib/python3.6/site-packages/firewall/config/__init__.py";
        tree.write("usr/sbin/firewalld", "").write(program, "DAEMON = 'x'\nVERSION = '0.6.3'\n");
        tree.write("etc/os-release", "ID=fedora\nVERSION_ID=41\n");
        refuses(&tree, &format!("firewalld 0.6.3 has no {what}"), &format!("this needs {needs} or newer"));
        // and an existing entry is no change
        tree.write(program, "VERSION = '2.1.1'\n");
        tree.kpull("apply").exits(0);
        tree.write(program, "VERSION = '0.6.3'\n");
        tree.kpull("plan").exits(0);
        drop(site);
    }
}

#[test]
fn a_role_can_use_the_firewalld_version_of_a_tree_and_the_next_run_sees_another() {
    let asks = "[[firewall]]\nzone = \"k8s\"\ntarget = \"ACCEPT\"\nforward = \"{{ facts.firewalld is version('0.9', '>=') }}\"\n";
    let (_site, tree) = tree(asks);
    let program = "usr/lib/python3/dist-packages/firewall/config/__init__.py";
    tree.write("usr/sbin/firewalld", "").write(program, "VERSION = '0.6.3'\n");
    tree.kpull("apply").exits(0);
    let has_forward = || tree.read("etc/firewalld/zones/k8s.xml").contains("<forward/>");
    assert!(!has_forward());
    tree.write(program, "VERSION = '1.3.3'\n");
    tree.kpull("apply").exits(0);
    assert!(has_forward());
}
