//! `[[line]]`, `[[setting]]` and `[[block]]` in files that others write too.

use std::fs;

use crate::support::site::{Site, Tree, kpull};
use crate::tree::apply::base;

/// Files as packages ship them.
const FILES: [(&str, &str); 6] = [
    (
        "etc/ssh/sshd_config",
        "# sshd\nPort 22\n#PermitRootLogin prohibit-password\n\nMatch User git\n\tX11Forwarding no\n",
    ),
    ("etc/default/grub", "# grub\nGRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n"),
    ("etc/docker/daemon.json", "{\n    \"log-driver\": \"json-file\",\n    \"dns\": [\"10.0.0.53\"]\n}"),
    ("etc/systemd/journald.conf", "[Journal]\r\n#Storage=auto\r\n#SystemMaxUse=\r\n"),
    ("etc/netplan/10.yaml", "# net\nnetwork:\n  version: 2\n  ethernets:\n    eth0: {dhcp4: true}\n"),
    ("etc/containerd/config.toml", "version = 2 # of the format\n\n[plugins.cri]\nsandbox = 'a' # image\n"),
];

const ONE: &str = r#"
[[line]]
path = "/etc/ssh/sshd_config"
name = "root"
regex = '^#?PermitRootLogin\s'
line = "PermitRootLogin no"
[[setting]]
path = "/etc/default/grub"
key = "GRUB_TIMEOUT"
value = 0
[[setting]]
path = "/etc/docker/daemon.json"
key = "log-opts.max-size"
value = "50m"
[[setting]]
path = "/etc/systemd/journald.conf"
key = "Journal.SystemMaxUse"
value = "1G"
[[setting]]
path = "/etc/netplan/10.yaml"
key = "network.ethernets.eth0.mtu"
value = 9000
[[setting]]
path = "/etc/containerd/config.toml"
key = "plugins.cri.sandbox"
value = "b"
[[setting]]
path = "/etc/new/app.json"
key = "a.b"
value = [1, 2]
create = true
"#;

const TWO: &str = r#"
[[line]]
path = "/etc/ssh/sshd_config"
line = "AllowUsers ann"
insert_before = "^Match"
[[block]]
path = "/etc/ssh/sshd_config"
name = "bob"
content = "Match User bob\n\tX11Forwarding no"
[[setting]]
path = "/etc/default/grub"
key = "GRUB_CMDLINE_LINUX_DEFAULT"
state = "absent"
[[setting]]
path = "/etc/docker/daemon.json"
key = "live-restore"
value = true
[[setting]]
path = "/etc/new/app.json"
key = "a.c"
value = "x"
create = true
"#;

fn shipped(tree: &Tree) {
    for (path, text) in FILES {
        tree.write(path, text);
    }
}

#[test]
fn changes_of_two_roles_in_one_file_compose_and_are_undone_to_the_last_byte() {
    let site = base(ONE);
    site.role("more", TWO).host("h1", "address = \"10.0.0.1\"\nroles = [\"base\", \"more\"]\n");
    let tree = site.sign().enroll();
    shipped(&tree);
    tree.write("var/lib/theirs", "");
    let before = tree.snapshot();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);
    assert_eq!(
        tree.read("etc/ssh/sshd_config"),
        "# sshd\nPort 22\nPermitRootLogin no\n\nAllowUsers ann\nMatch User git\n\tX11Forwarding no\n\
         # BEGIN kpull bob\nMatch User bob\n\tX11Forwarding no\n# END kpull bob\n"
    );
    assert_eq!(tree.read("etc/default/grub"), "# grub\nGRUB_TIMEOUT=0\n");
    assert_eq!(
        tree.read("etc/docker/daemon.json"),
        "{\n    \"log-driver\": \"json-file\",\n    \"dns\": [\"10.0.0.53\"],\n    \"log-opts\": {\n        \
         \"max-size\": \"50m\"\n    },\n    \"live-restore\": true\n}"
    );
    assert_eq!(
        tree.read("etc/systemd/journald.conf"),
        "[Journal]\r\n#Storage=auto\r\n#SystemMaxUse=\r\nSystemMaxUse=1G\r\n"
    );
    assert!(tree.read("etc/netplan/10.yaml").ends_with("    eth0: {dhcp4: true, mtu: 9000}\n"));
    assert!(tree.read("etc/containerd/config.toml").ends_with("sandbox = \"b\" # image\n"));
    assert!(tree.read("etc/new/app.json").contains("\"c\": \"x\""));
    // one role goes, then the other
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n").sign();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/default/grub"), "# grub\nGRUB_TIMEOUT=0\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n");
    site.role("base", "").sign();
    tree.kpull("apply").exits(0);
    for (path, text) in FILES {
        assert_eq!(tree.read(path), text, "{path}");
    }
    assert_eq!(tree.snapshot(), before);
}

#[test]
fn a_file_changes_between_parts_and_a_whole_in_one_run_and_is_undone() {
    let parts = "[[line]]\npath = '/etc/ssh/sshd_config'\nregex = '^Port '\nline = 'Port 23'\n[[block]]\npath = '/etc/ssh/sshd_config'\n\
        name = 'bob'\ncontent = 'Match User bob'\n[[permissions]]\npath = '/etc/ssh/sshd_config'\nmode = '0600'\n[[line]]\npath = '/etc/new'\n\
        line = 'a'\ncreate = true\n";
    let whole = "[[file]]\npath = '/etc/ssh/sshd_config'\ncontent = \"Port 23\\nPermitRootLogin no\\n\"\nmode = '0640'\n\
        [[file]]\npath = '/etc/new'\ncontent = \"a\\n\"\n";
    let site = base("");
    let tree = site.sign().enroll();
    shipped(&tree);
    tree.kpull("apply").exits(0);
    let before = tree.snapshot();
    let shipped = tree.read("etc/ssh/sshd_config");
    for release in [parts, whole, parts, whole, "", parts, ""] {
        site.role("base", release).sign();
        tree.kpull("apply").exits(0);
        tree.kpull("plan").exits(0);
        let (content, mode, new) = match release {
            "" => (shipped.clone(), 0o644, None),
            _ if release == whole => ("Port 23\nPermitRootLogin no\n".to_owned(), 0o640, Some("a\n")),
            _ => {
                let block = "# BEGIN kpull bob\nMatch User bob\n# END kpull bob\n";
                (shipped.replace("Port 22", "Port 23") + block, 0o600, Some("a\n"))
            }
        };
        assert_eq!(tree.read("etc/ssh/sshd_config"), content, "{release}");
        assert_eq!(tree.mode("etc/ssh/sshd_config"), mode, "{release}");
        assert_eq!(fs::read_to_string(tree.at("etc/new")).ok().as_deref(), new, "{release}");
    }
    assert_eq!(tree.snapshot(), before);
}

#[test]
fn drift_of_a_line_or_value_is_corrected_and_other_changes_stay() {
    let site = base(ONE);
    let tree = site.sign().enroll();
    shipped(&tree);
    tree.kpull("apply").exits(0);
    tree.kpull("apply").exits(0);
    let edit = |path: &str, from: &str, to: &str| tree.write(path, tree.read(path).replace(from, to));
    edit("etc/ssh/sshd_config", "PermitRootLogin no", "PermitRootLogin yes\nPort 23");
    edit("etc/docker/daemon.json", "\"50m\"", "\"1m\", \"max-file\": \"2\"");
    let plan = tree.kpull("plan").exits(2).stdout;
    assert!(plan.contains("-PermitRootLogin yes\n") && plan.contains("+PermitRootLogin no\n"), "{plan}");
    assert!(!plan.contains("Port 23"), "only the line: {plan}");
    let changed = tree.kpull("apply --json").exits(0).changed();
    assert_eq!(changed, ["line:/etc/ssh/sshd_config#root", "setting:/etc/docker/daemon.json#log-opts.max-size"]);
    assert!(tree.read("etc/ssh/sshd_config").contains("\nPermitRootLogin no\nPort 23\n"));
    assert!(tree.read("etc/docker/daemon.json").contains("\"50m\", \"max-file\": \"2\""));
    site.role("base", "").sign();
    tree.kpull("apply").exits(0);
    assert!(tree.read("etc/ssh/sshd_config").contains("\n#PermitRootLogin prohibit-password\nPort 23\n"));
    let rest = tree.read("etc/docker/daemon.json");
    assert!(rest.contains("max-file") && !rest.contains("max-size"), "{rest}");
}

#[test]
fn check_finds_changes_that_contradict_each_other_with_both_places() {
    let line = "[[line]]\npath = '/etc/f'\nregex = '^A='\nline = 'A=1'\n";
    let setting = "[[setting]]\npath = '/etc/f'\nformat = 'env'\nkey = 'A'\nvalue = 2\n";
    let file = "[[file]]\npath = '/etc/f'\ncontent = 'A=3'\n";
    for (one, other, expected) in [
        (line, file, "two roles manage `/etc/f`: base and more"),
        (setting, file, "two roles manage `/etc/f`: base and more"),
        (setting, "[[setting]]\npath = '/etc/f'\nformat = 'env'\nkey = 'A'\nvalue = 3\n", "two roles"),
        (line, setting, "line:/etc/f#^A= and setting:/etc/f#A change the same part of `/etc/f`"),
    ] {
        let site = base(one);
        site.role("more", other).host("h1", "address = \"10.0.0.1\"\nroles = [\"base\", \"more\"]\n");
        let error = kpull(&["check", "--site", site.path().to_str().unwrap()]).exits(1).stderr;
        for part in [expected, "roles/more/role.toml:2:1", "roles/base/role.toml:2:1"] {
            assert!(error.contains(part), "no {part} in {error}");
        }
    }
    let site = base(&line.replace("'^A='", "'^B='"));
    let error = kpull(&["check", "--site", site.path().to_str().unwrap()]).exits(1).stderr;
    assert!(error.contains("roles/base/role.toml:4:9") && error.contains("it does not match `line`"), "{error}");
}

#[test]
fn a_file_that_cannot_be_changed_stays_and_stops_no_other_resource() {
    let site = base(&format!("{ONE}[[file]]\npath = '/etc/other'\ncontent = 'x'\n"));
    let tree = site.sign().enroll();
    shipped(&tree);
    // a release that was good here is not to blame
    tree.kpull("apply").exits(0);
    for (path, bytes, why) in [
        ("etc/docker/daemon.json", &b"{ \"log-driver\": }\n"[..], "it is not JSON, from line 1"),
        ("etc/default/grub", b"\xff\n", "it is not UTF-8 text"),
        ("etc/containerd/config.toml", b"a = 1\na = 2\n", "it is not TOML, from line 2"),
    ] {
        shipped(&tree);
        fs::write(tree.at(path), bytes).unwrap();
        fs::remove_file(tree.at("etc/other")).unwrap();
        let error = tree.kpull("apply").exits(1).stderr;
        assert!(error.contains(&format!("/{path} can't be edited: {why}")), "{error}");
        assert_eq!(fs::read(tree.at(path)).unwrap(), bytes, "{path}");
        assert_eq!(tree.read("etc/other"), "x", "{path}");
    }
    assert!(tree.read("etc/ssh/sshd_config").contains("\nPermitRootLogin no\n"));
}

#[test]
fn the_line_of_fstab_for_a_mount_follows_the_role_and_comes_back() {
    let site = Site::new("test");
    let mount = |options: &str| format!("[[mount]]\nwhere = \"/srv/a\"\nwhat = \"LABEL=a\"\noptions = [{options}]\n");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n").role("base", &mount(""));
    let tree = site.sign().enroll();
    let fstab = |line: &str| format!("UUID=1 / ext4 defaults 0 1 # root\n{line}\n\n#/dev/y /srv/a xfs\n");
    let theirs = fstab("/dev/x /srv/a ext4 ro 0 2");
    tree.write("etc/fstab", &theirs);
    let plan = tree.kpull("plan").exits(2).stdout;
    let diff = "-/dev/x /srv/a ext4 ro 0 2\n+LABEL=a /srv/a auto defaults,nofail 0 2\n";
    let shown: String = plan.lines().map(|line| format!("{}\n", line.trim_start())).collect();
    assert!(shown.contains("change line 2 of /etc/fstab") && shown.contains(diff), "{plan}");
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/fstab"), fstab("LABEL=a /srv/a auto defaults,nofail 0 2"));
    site.role("base", &mount("\"noatime\"")).sign();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/fstab"), fstab("LABEL=a /srv/a auto noatime,nofail 0 2"));
    // somebody changes another line, and removes this one
    let others = "UUID=1 / ext4 noatime 0 1\n";
    tree.write("etc/fstab", others);
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0], "kpull adds no line");
    tree.write("etc/fstab", format!("{others}/dev/z /srv/a auto\n"));
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/fstab"), format!("{others}LABEL=a /srv/a auto noatime,nofail\n"));
    site.role("base", "").sign();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/fstab"), format!("{others}/dev/x /srv/a ext4 ro 0 2\n"));
    assert!(!tree.at("etc/systemd/system/srv-a.mount").exists());
}
