//! Every kind that needs a running host, in one release: what a plan says, drift, a release that fails, runs that are killed in the
//! middle, and what was there before.

use std::collections::BTreeSet;

use crate::lab::software::offer;
use crate::support::alone::World;
use crate::support::lab::Host;
use crate::support::sample;

/// Calls before which the run is killed: those that start a program, and those that send a message to a service.
const CALLS: [&str; 2] = ["clone", "sendmsg"];

/// Two repositories of packages, signed with the same key, whose package has another version in each.
pub const REPOSITORIES: &str = r#"set -eu
gpg -q --batch --passphrase '' --quick-gen-key lab@lab
gpg --armor --export lab@lab > /srv/key.asc
for number in 1 2; do
    mkdir -p /srv/repository-$number /srv/made/DEBIAN
    cd /srv/made
    printf 'Package: more\nVersion: %s\nArchitecture: all\nMaintainer: lab\nDescription: lab\n' $number > DEBIAN/control
    dpkg-deb --build /srv/made /srv/repository-$number/more.deb > /dev/null
    cd /srv/repository-$number
    apt-ftparchive packages . > Packages
    apt-ftparchive release . > /tmp/Release
    gpg -q --batch --yes --pinentry-mode loopback --passphrase '' -u lab@lab --clearsign -o InRelease /tmp/Release
done"#;

/// A release, of which there are two.
fn role(number: u8, key: &str) -> String {
    let is_second = number == 2;
    let either = |first: &'static str, second: &'static str| if is_second { second } else { first };
    format!(
        r#"
[[group]]
name = "ops"
[[group]]
name = "team"
members = [{members}]
[[user]]
name = "ann"
groups = [{groups}]
shell = "{shell}"
expires = 2037-01-0{number}
linger = {is_second}
authorized_keys = ["ssh-ed25519 AAAA {number}"]
sudo = "ALL=(ALL) NOPASSWD: /bin/program-{number}"
on_removal = "remove"
remove_home = true
[[system]]
hostname = "host{number}"
timezone = "{timezone}"
locale = "{locale}"
keymap = "{keymap}"
[[mount]]
where = "/srv/mounted"
what = "tmpfs"
type = "tmpfs"
options = ["size={number}024k"]
[[nftables]]
name = "site"
content = "chain input {{ type filter hook input priority 10; policy accept; tcp dport 100{number} counter drop; }}"
[[package]]
name = "daemon"
version = "{number}"
hold = true
[[repository]]
name = "lab"
format = "apt"
urls = ["file:/srv/repository-{number}"]
suites = ["./"]
key_text = '''
{key}
'''
[[package]]
name = "more"
version = "{number}"
[[permissions]]
path = "/usr/share/daemon"
recursive = true
mode = "{mode}"
acl = ["user:ann:{rights}"]
[[permissions]]
path = "/usr/share/daemon/version-amd64"
capabilities = "{capability}=ep"
[[file]]
path = "/etc/app"
content = "{number}\n"
validate = ["grep", "-q", "{number}", "%s"]
notify = ["restart:app.service", "run:copy"]
[[command]]
name = "copy"
run = ["cp", "/etc/app", "/srv/copy"]
[[unit]]
name = "app.service"
enable = true
content = "[Service]\nExecStart=/bin/sh -c 'cp /etc/app /run/app; exec sleep infinity'\n[Install]\nWantedBy=multi-user.target\n"
"#,
        groups = either("\"ops\"", "\"ops\", \"audio\""),
        shell = either("/bin/sh", "/bin/bash"),
        timezone = either("Europe/Berlin", "Europe/Paris"),
        locale = either("C.UTF-8", "C"),
        keymap = either("de", "fr"),
        mode = either("u=rwX,g=rX,o=", "u=rwX,go=rX"),
        rights = either("r", "rX"),
        members = either("", "\"ann\""),
        capability = either("cap_net_raw", "cap_net_bind_service"),
    )
}

/// All that a release has changed on the host.
fn state(host: Host<'_>) -> String {
    host.run(
        "getent passwd ann; getent shadow ann | cut -d: -f8; id -nG ann; getent group team | grep -o ann
        cat /etc/sudoers.d/50-ann /home/ann/.ssh/authorized_keys; ls /home /var/lib/systemd/linger
        hostname; hostnamectl --static; readlink /etc/localtime | grep -o 'zoneinfo/.*'; localectl status | grep LANG
        cat /etc/timezone /etc/default/locale /etc/locale.conf /etc/vconsole.conf /etc/default/keyboard
        findmnt -no OPTIONS /srv/mounted | grep -o 'size=[0-9]*k'
        nft -s list table inet site; ls /etc/nftables.d; systemctl is-active kpull-nftables-inet-site
        apt-mark showhold; dpkg-query -Wf '${Package} ${Version} ${Status}\\n' | grep -E '^(daemon|more) '
        cat /etc/apt/sources.list.d/lab.sources; ls /etc/apt/keyrings
        cd / && getfacl -R usr/share/daemon && getfattr -m security.capability -d -e hex usr/share/daemon/version-amd64
        cat /etc/app; systemctl is-active app && cat /run/app; systemctl is-enabled app; systemctl list-units -q --failed
        find / -xdev -name '*kpull-new*' | grep -v ^/proc; true",
    )
    .stdout
}

/// What somebody does to the host, and which resource is corrected then.
const DRIFT: [(&str, &str); 19] = [
    ("user:ann", "usermod --shell /bin/false ann"),
    ("login:ann", "usermod --expiredate '' ann"),
    ("members:ann", "gpasswd --delete ann audio"),
    ("linger:ann", "loginctl disable-linger ann"),
    ("authorized_keys:ann", "rm /home/ann/.ssh/authorized_keys"),
    ("user:/etc/sudoers.d/50-ann", "echo >> /etc/sudoers.d/50-ann"),
    ("system:hostname", "hostname other"),
    ("system:timezone", "ln -sfn /usr/share/zoneinfo/Etc/UTC /etc/localtime"),
    ("system:locale", "localectl set-locale LANG=C.UTF-8"),
    ("system:keymap", "echo KEYMAP=us > /etc/vconsole.conf"),
    ("unit:srv-mounted.mount", "umount /srv/mounted"),
    ("unit:kpull-nftables-inet-site.service", "nft flush table inet site"),
    ("package:daemon", "apt-mark unhold daemon"),
    ("repository:/etc/apt/sources.list.d/lab.sources", "echo >> /etc/apt/sources.list.d/lab.sources"),
    ("package:more", "dpkg --purge more"),
    ("permissions:/usr/share/daemon", "setfacl -R -x user:ann /usr/share/daemon"),
    ("permissions:/usr/share/daemon/version-amd64", "setfattr -x security.capability /usr/share/daemon/version-amd64"),
    ("group_members:team", "gpasswd --delete ann team"),
    ("unit:app.service", "systemctl stop app"),
];

/// The ids of what a run changes, or would change.
fn changed(host: Host<'_>, command: &str, code: i32) -> BTreeSet<String> {
    let run = host.run(&format!("{command} --json"));
    assert_eq!(run.code(), code, "{run}");
    let done = run.stdout.lines().find(|line| line.contains("\"event\":\"done\"")).expect("it is done");
    let done: serde_json::Value = serde_json::from_str(done).unwrap();
    done["changed"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_needs_a_running_host_is_planned_corrected_undone_finished_and_restored() {
    let world = World::new();
    let host = world.host();
    host.install("strace");
    for version in ["1", "2"] {
        offer(host, "daemon", version, "amd64", "");
    }
    host.write("/srv/repositories", REPOSITORIES);
    host.run("bash /srv/repositories && apt-get -q update").ok();
    let key = host.run("cat /srv/key.asc").ok();
    world.release("");
    world.converges();
    let before = state(host);
    let mut now = before.clone();
    let states = [1, 2].map(|number| {
        world.release(&role(number, &key));
        let planned = changed(host, "kpull plan", 2);
        assert_eq!(state(host), now, "a plan changes nothing");
        assert_eq!(changed(host, "kpull apply", 0), planned);
        world.is_converged();
        assert_eq!(host.run("cat /srv/copy").ok(), number.to_string());
        now = state(host);
        now.clone()
    });
    let second = [
        "fr\n",
        "host2\nhost2\n",
        "size=2024k",
        "dport 1002",
        "daemon 2 ",
        "more 2 ",
        "user:ann:r-x",
        "2\nactive\n2\nenabled\n",
    ];
    for words in second {
        assert!(states[1].contains(words) && !states[0].contains(words), "{words}: {}", states[1]);
    }

    for (_, command) in DRIFT {
        host.run(command).ok();
    }
    let drifted = changed(host, "kpull plan", 2);
    let missed: Vec<&str> = DRIFT.iter().map(|(id, _)| *id).filter(|id| !drifted.contains(*id)).collect();
    assert_eq!(missed, [""; 0], "{drifted:?}");
    world.converges();
    assert_eq!(state(host), states[1], "corrected");

    let fails = "[[probe]]\nname = \"never\"\ncommand = [\"false\"]\nwithin = \"0s\"\n";
    world.release(&format!("{}{fails}", role(1, &key)));
    host.run("kpull apply").fails(3);
    assert_eq!(state(host), states[1], "undone");

    let (mut number, mut killed) = (1, 0);
    for call in CALLS {
        for when in sample::of(1..) {
            world.release(&role(number, &key));
            let strace = format!("strace -qq -o /dev/null -e trace={call} -e inject={call}:signal=KILL:when={when}");
            let run = host.run(&format!("{strace} kpull apply"));
            let has_ended = run.code() == 0;
            let ends = host.run("kpull apply");
            assert_eq!(ends.code(), 0, "before {call} {when}: {ends}");
            world.is_converged();
            assert_eq!(state(host), states[usize::from(number) - 1], "before {call} {when}: {run}{ends}");
            assert_eq!(host.run("cat /srv/copy").ok(), number.to_string(), "before {call} {when}");
            number = 3 - number;
            if has_ended {
                break;
            }
            killed += 1;
        }
    }
    println!("killed {killed} times");
    assert!(killed * sample::one_in() > 20, "{killed}");

    world.release("");
    world.converges();
    assert_eq!(state(host), before, "restored");
}
