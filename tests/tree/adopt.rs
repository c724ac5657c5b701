//! A role of the files and settings that a host has already: it changes nothing there.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::support::site::{Output, Site, Tree};

/// A machine that was set up by hand.
fn by_hand() -> Tree {
    let tree = Tree::new();
    tree.write("etc/app/app.conf", "port = 80\nbrackets = {{ not a variable }}\n")
        .write("etc/app/run.sh", "#!/bin/sh\n")
        .write("etc/app/bytes", [0xff, 0x00, 0xfe])
        .write("etc/systemd/system/app.service", "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n")
        .write("etc/systemd/system/app.service.d/10-limits.conf", "[Service]\nLimitNOFILE=4096\n")
        .write("etc/systemd/system/off.service", "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n")
        .write("etc/sysctl.d/90-kpull-net.ipv4.ip_forward.conf", "net.ipv4.ip_forward = 1\n")
        .write(
            "etc/firewalld/zones/public.xml",
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<zone>\n  <service name=\"ssh\"/>\n  <port port=\"8080-8090\" protocol=\"tcp\"/>\n  \
             <rule family=\"ipv4\">\n    <source address=\"10.0.0.0/8\"/>\n    <port port=\"22\" protocol=\"tcp\"/>\n    <accept/>\n  </rule>\n  \
             <masquerade/>\n</zone>\n",
        );
    fs::set_permissions(tree.at("etc/app/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(tree.at("etc/systemd/system/multi-user.target.wants")).unwrap();
    symlink("/etc/systemd/system/app.service", tree.at("etc/systemd/system/multi-user.target.wants/app.service"))
        .unwrap();
    symlink("app.conf", tree.at("etc/app/link")).unwrap();
    tree
}

fn adopt(tree: &Tree, site: &Site, rest: &str) -> Output {
    tree.kpull(&format!("adopt {rest} --site {}", site.path().display()))
}

#[test]
fn manual_setup_becomes_a_role_that_changes_nothing_on_its_host() {
    let (tree, site) = (by_hand(), Site::new("test"));
    let things = "web /etc/app app.service /etc/systemd/system/off.service firewall:public sysctl:net.ipv4.ip_forward";
    let output = adopt(&tree, &site, things).exits(0);
    assert!(output.stdout.contains("roles/web/files/etc/app/app.conf\n"), "{}", output.stdout);
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"web\"]\n").sign();
    tree.configure(&format!("[[source]]\ndir = {:?}\n", site.path()));
    let role = fs::read_to_string(site.path().join("roles/web/role.toml")).unwrap();
    let plan = tree.kpull("plan").exits(0);
    assert!(plan.stdout.contains("nothing to do of 12 resources"), "{role}\n{}", plan.stdout);
    for text in
        ["mode = \"0755\"", "ports = [\"8080-8090/tcp\"]", "masquerade = true", "enable = false", "LimitNOFILE=4096"]
    {
        assert!(role.contains(text), "{text}: {role}");
    }
    // and is what another machine becomes
    let other = Tree::new();
    other.configure(&format!("[[source]]\ndir = {:?}\n", site.path()));
    other.kpull("apply").exits(0);
    for path in
        ["etc/app/app.conf", "etc/systemd/system/app.service", "etc/systemd/system/app.service.d/10-limits.conf"]
    {
        assert_eq!(other.read(path), tree.read(path));
    }
    assert_eq!(other.mode("etc/app/run.sh"), 0o755);
    assert_eq!(fs::read(other.at("etc/app/bytes")).unwrap(), [0xff, 0x00, 0xfe]);
}

#[test]
fn no_secret_enters_a_site_unrequested_and_nothing_does_after_an_error() {
    let (tree, site) = (by_hand(), Site::new("test"));
    tree.write("etc/app/token.conf", "password = x8Kq2Lw9Zr5TbV3n\n");
    tree.write("etc/app/closed.conf", "quiet\n");
    fs::set_permissions(tree.at("etc/app/closed.conf"), fs::Permissions::from_mode(0o600)).unwrap();
    // what a role would render is not what stands there
    tree.write("etc/systemd/system/on.service", "[Service]\nExecStart=/bin/true\n")
        .write("etc/systemd/system/on.service.d/note.conf", "{# not a comment of systemd #}\n")
        .write("etc/names/{% x %}", "x\n");
    fs::create_dir(tree.at("etc/links")).unwrap();
    symlink("{{ x }}", tree.at("etc/links/link")).unwrap();
    for (rest, why) in [
        ("web /etc/app/closed.conf", "not everyone on the host can read /etc/app/closed.conf"),
        ("web /etc/app/token.conf", "is in the site, where anyone with access can read it"),
        ("web /etc/app/app.conf /etc/none", "/etc/none does not exist"),
        ("web app.service gone.service", "there is no unit gone.service"),
        ("web on.service", "note.conf of on.service looks like a template"),
        ("web /etc/links", "\"{{ x }}\" looks like a template"),
        ("web /etc/names", "\"/etc/names/{% x %}\" looks like a template"),
        ("web firewall:none", "firewalld has no zone none here"),
        ("web sysctl:net.none", "there is no kernel setting net.none here"),
        ("we/b /etc/app", "`we/b` is not a valid name for a role"),
        ("web", "there is nothing to adopt"),
    ] {
        let output = adopt(&tree, &site, rest).exits(1);
        // lines are broken where they get too long
        let text = output.stderr.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        assert!(text.contains(why), "{rest}: {text}");
        assert!(!text.contains("x8Kq2Lw9Zr5TbV3n"));
        assert!(!site.path().join("roles").exists(), "{rest}");
    }
    adopt(&tree, &site, "web /etc/app/closed.conf --private").exits(0);
    let text = adopt(&tree, &site, "web /etc/app/app.conf").exits(1).stderr;
    assert!(text.contains(" already has a role web"), "{text}");
    assert!(adopt(&tree, &site, "web mail:x").exits(1).stderr.contains("write /PATH, NAME.service, firewall:ZONE"));
}
