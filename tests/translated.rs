//! Ansible applies public roles to a host, and kpull the same roles, translated, to another one: afterwards the hosts differ only in what
//! this file lists. The originals are not in this repository; `KPULL_ANSIBLE_ROLES` names the directory with them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use crate::support::alone::World;
use crate::support::lab::{H1, Host, Lab, Output};
use crate::support::machine::cache;
use crate::support::translated::{DIR, copy_dir, prepare};

const H2: (&str, &str) = ("h2", "192.168.1.12");
/// With ansible-core 2.19, the last one for the Python of Debian 12.
const ANSIBLE: &str = "ansible==12.3.0";
const COLLECTION: &str = "ansible-collection-hardening";
const ROLES: [&str; 3] = ["ansible-role-ntp", "ansible-role-security", "ansible-role-nginx"];

/// Installs `$2` into the directory `$1`, once, without the collections that these roles do not use.
const INSTALL: &str = r#"
set -eu
exec 9> "$1.lock"
flock 9
[ ! -d "$1" ] || exit 0
rm -rf "$1.part"
python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore --no-compile --target "$1.part" "$2"
cd "$1.part/ansible_collections"
find . -mindepth 2 -maxdepth 2 ! -path ./ansible/posix ! -path ./community/general ! -path ./community/crypto -exec rm -r {} +
mv -T "$1.part" "$1"
"#;

const PLAY: &str = "cd /opt && PYTHONPATH=/opt/ansible ANSIBLE_ROLES_PATH=/opt/roles \
     ANSIBLE_COLLECTIONS_PATH=/opt/collections:/opt/ansible python3 -m ansible playbook -i localhost, /opt/site/playbook.yml";

/// Where the roles and their packages write.
const DIRECTORIES: [&str; 7] =
    ["etc", "home", "srv/sftp", "usr/lib/systemd/system", "usr/local", "var/spool", "var/www"];

/// Files with comments and blanks of the role's own, by how they begin.
const CONFIGURATION: [&str; 10] = [
    "etc/apt/apt.conf.d/50unattended-upgrades",
    "etc/fail2ban/jail.local",
    "etc/nginx/nginx.conf",
    "etc/nginx/sites-enabled/",
    "etc/ntpsec/ntp.conf",
    "etc/pam.d/sshd",
    "etc/ssh/auth_principals/",
    "etc/ssh/revoked_keys",
    "etc/ssh/ssh",
    "etc/ssh/user_ca",
];

/// What differs, by how its key begins, and why.
const DIFFERENT: [(&str, &str); 16] = [
    ("file etc/hostname", "every host has its own"),
    ("file etc/machine-id", "every host has its own"),
    ("file etc/systemd/network/10-lab.network", "every host has its own address"),
    ("file etc/ssh/ssh_host_", "every host has its own keys"),
    ("file etc/group-", "a copy of the file before its last change"),
    ("file etc/gshadow-", "a copy of the file before its last change"),
    ("file etc/kpull", "kpull's own"),
    ("file usr/lib/systemd/system/kpull.service", "kpull's own"),
    ("unit kpull.service", "kpull's own"),
    ("file etc/timezone", "Ansible sets only /etc/localtime, and the file has the old time zone"),
    (
        "file etc/apt/apt.conf.d/50unattended-upgrades",
        "the original lacks a semicolon, which joins the origins of Ubuntu",
    ),
    ("file etc/pam.d/sshd.", "Ansible's pamd keeps a copy of the old file"),
    ("file etc/systemd/system/multi-user.target.wants/nginx.service", "the same unit, below /usr/lib instead of /lib"),
    ("file etc/systemd/system/dbus-org.freedesktop.timesync1.service", "a link to the unit of a removed package"),
    (
        "file etc/systemd/system/sysinit.target.wants/systemd-timesyncd.service",
        "a link to the unit of a removed package",
    ),
    ("unit dbus-org.freedesktop.timesync1.service", "a link to the unit of a removed package"),
];

/// What is on a host, by kind and name.
type State = BTreeMap<String, String>;

fn state(host: Host<'_>) -> State {
    let mut state = State::new();
    for dir in DIRECTORIES {
        read(&host.root(), dir, &mut state);
    }
    let mut list = |kind: &str, command: &str, separator: char| {
        for line in host.run(command).ok().lines() {
            let (name, value) = line.split_once(separator).unwrap_or((line, ""));
            state.insert(format!("{kind} {name}"), value.to_owned());
        }
    };
    list("user", "getent passwd", ':');
    list("group", "getent group", ':');
    list("package", "dpkg-query -W -f '${Package} ${db:Status-Abbrev}${Version}\\n'", ' ');
    list("unit", "systemctl list-unit-files --no-legend --plain | awk '{ print $1, $2 }'", ' ');
    let active = "for unit in $(systemctl list-unit-files --no-legend --plain --state=enabled | cut -d' ' -f1); do \
         echo \"$unit $(systemctl is-active $unit)\"; done";
    list("runs", active, ' ');
    state
}

/// Reads a path below `root`, and everything below it.
fn read(root: &Path, path: &str, state: &mut State) {
    let full = root.join(path);
    let Ok(meta) = full.symlink_metadata() else { return };
    let content = match () {
        () if meta.is_symlink() => full.read_link().unwrap().display().to_string(),
        () if meta.is_file() => content(path, &fs::read(&full).unwrap()),
        () => String::new(),
    };
    state.insert(format!("file {path}"), content);
    state.insert(format!("mode {path}"), format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid()));
    if meta.is_dir() {
        for entry in fs::read_dir(&full).unwrap() {
            read(root, &format!("{path}/{}", entry.unwrap().file_name().to_str().unwrap()), state);
        }
    }
}

/// The content of a file, as the program that reads it sees it.
fn content(path: &str, bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    if !CONFIGURATION.iter().any(|start| path.starts_with(start)) {
        return text.into_owned();
    }
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#') && !line.starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Everything that differs between two hosts, as lines that only one of them has.
fn differences(kpull: &State, ansible: &State) -> BTreeMap<String, String> {
    let keys: BTreeSet<&String> = kpull.keys().chain(ansible.keys()).collect();
    // what is missing has no mode
    let is_missing = |key: &str| key.starts_with("mode ") && !(kpull.contains_key(key) && ansible.contains_key(key));
    let different =
        keys.into_iter().filter(|key| kpull.get(*key) != ansible.get(*key) && !is_missing(key)).map(|key| {
            let lines = |state: &State| -> Vec<String> {
                state
                    .get(key)
                    .map_or_else(|| vec!["missing".to_owned()], |value| value.lines().map(str::to_owned).collect())
            };
            let (ours, theirs) = (lines(kpull), lines(ansible));
            let only = |these: &[String], those: &[String]| {
                these.iter().filter(|line| !those.contains(line)).take(20).cloned().collect::<Vec<_>>()
            };
            (key.clone(), format!("kpull {:#?}, Ansible {:#?}", only(&ours, &theirs), only(&theirs, &ours)))
        });
    different.collect()
}

/// Copies Ansible and the original roles to a host.
fn install_ansible(host: Host<'_>) {
    let given = env::var("KPULL_ANSIBLE_ROLES").expect("`tests/run translated --roles DIR` sets it");
    let ansible = cache().join("lab").join(ANSIBLE);
    Output::of(Command::new("bash").args(["-c", INSTALL, "install"]).arg(&ansible).arg(ANSIBLE)).ok();
    copy_dir(host, ansible, "/opt/ansible");
    for role in ROLES {
        copy_dir(host, Path::new(&given).join(role), &format!("/opt/roles/{role}"));
    }
    copy_dir(host, Path::new(&given).join(COLLECTION), "/opt/collections/ansible_collections/devsec/hardening");
    copy_dir(host, DIR, "/opt/site");
}

#[test]
fn hosts_are_the_same_after_ansible_s_roles_and_their_translations() {
    let world = World::on(Lab::new(&[H1, H2]));
    let (h1, h2) = (world.host(), world.0.host("h2"));
    prepare(h1);
    prepare(h2);
    install_ansible(h2);
    copy_dir(h1, format!("{DIR}/site"), "/srv/site");
    let vars = h1.run("cat /srv/site/host_vars/h1.toml").ok();
    let mut found: BTreeSet<&str> = BTreeSet::new();
    let mut compare = |more: &str| {
        world.release("");
        world.converges();
        h2.run(&format!("{PLAY} {more}")).ok();
        let (kpull, ansible) = (state(h1), state(h2));
        for kind in ["file", "user", "group", "package", "unit", "runs"] {
            let number = kpull.keys().filter(|key| key.starts_with(&format!("{kind} "))).count();
            eprintln!("{kind}: {number}");
        }
        let mut unexpected = differences(&kpull, &ansible);
        unexpected.retain(|key, _| {
            let reason = DIFFERENT.iter().find(|(start, _)| key.starts_with(start));
            eprintln!("{key}: {}", reason.map_or("unexpected", |(_, why)| why));
            found.extend(reason.map(|(start, _)| *start));
            reason.is_none()
        });
        assert!(unexpected.is_empty(), "{unexpected:#?}");
    };
    // the lines of sshd_config, which the last role replaces
    let lines = vars.replace(", \"ssh-hardening\"]", "]").replace("sshd_config = false", "sshd_config = true");
    assert_ne!(lines, vars);
    h1.write("/srv/site/host_vars/h1.toml", lines);
    compare("-e hardened=false");
    h1.write("/srv/site/host_vars/h1.toml", vars);
    compare("");
    let stale: Vec<_> = DIFFERENT.iter().filter(|one| !found.contains(one.0)).collect();
    assert!(stale.is_empty(), "does not differ any more: {stale:?}");
}
