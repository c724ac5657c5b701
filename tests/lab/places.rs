//! Paths on a real host that refuse a resource: what depends on it is left out, and everything else is applied.

use crate::support::alone::World;

/// A file in a directory that a command replaces, and one below a mount that the same run makes.
const MOVED: &str = r#"
[[command]]
name = "swap"
run = ["sh", "-c", "mv /srv/app /srv/former && mkdir /srv/app"]
creates = "/srv/former"
[[file]]
path = "/srv/app/conf"
content = "new\n"
after = ["command:swap"]
[[mount]]
where = "/srv/data"
what = "tmpfs"
type = "tmpfs"
[[file]]
path = "/srv/data/conf"
content = "new\n"
after = ["unit:srv-data.mount"]
"#;

/// Files of a user, one that needs the first, and one of the host that comes last.
const ROLE: &str = r#"
[[user]]
name = "bob"
[[file]]
path = "/home/bob/.profile"
content = "kpull's\n"
owner = "bob"
[[file]]
path = "/home/bob/.profile.d"
content = "x\n"
owner = "bob"
after = ["file:/home/bob/.profile"]
[[absent]]
path = "/home/bob/old"
recursive = true
[[file]]
path = "/srv/last"
content = "1\n"
"#;

/// Takes a lease on a file and keeps it; the kernel asks for it back with SIGIO.
const LEASE: &str = "import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
fcntl.fcntl(os.open('/home/bob/.profile', os.O_RDWR), fcntl.F_SETLEASE, fcntl.F_WRLCK)
open('/run/leased', 'w')
time.sleep(3600)
";

/// Makes a directory in which each has another, 3000 times.
const DEEP: &str = "import os
os.mkdir('/home/bob/old')
os.chdir('/home/bob/old')
for _ in range(3000):
    os.mkdir('d')
    os.mkdir('e')
    os.chdir('d')
";

/// What obstructs the path, how it is removed, and what kpull reports.
const FAULTS: [(&str, &str, &str); 6] = [
    ("rm $P; mkdir $P; touch $P/mine", "rm -r $P", "is a directory or a device"),
    ("rm $P; mkfifo $P", "rm $P", "is a directory or a device"),
    ("rm $P; truncate -s 8T $P", "rm $P", "at most 256 MiB (`ls -ls` shows its size): move it away"),
    ("echo mine > $P; chattr +i $P", "chattr -i $P", "`chattr -i -a` removes them"),
    (
        "echo mine > $P; systemd-run -q --unit=lease python3 /srv/lease; until [ -e /run/leased ]; do sleep 0.1; done",
        "systemctl stop lease",
        "a process has a lease on it (`grep LEASE /proc/locks` shows its PID)",
    ),
    (
        "echo mine > /srv/mine; mount --bind /srv/mine $P",
        "umount $P",
        "a file system is mounted there (`findmnt /home/bob/.profile`): unmount it",
    ),
];

#[test]
fn a_path_that_refuses_writes_is_named_and_stops_only_what_depends_on_it() {
    let world = World::new();
    let host = world.host();
    host.write("/srv/lease", LEASE);
    host.write("/srv/deep", DEEP);
    world.release(ROLE);
    world.converges();
    for (number, (breaks, corrects, expected)) in FAULTS.into_iter().enumerate() {
        let shell = |script: &str| host.run(&format!("set -e; P=/home/bob/.profile; {script}")).ok();
        shell(breaks);
        host.run("echo drift > /srv/last; echo drift > /home/bob/.profile.d; python3 /srv/deep").ok();
        // a later release is not to blame either
        world.release(&format!("{ROLE}[[file]]\npath = \"/srv/later\"\ncontent = \"{number}\\n\"\n"));
        let run = host.run("kpull apply --json");
        assert_eq!(run.code(), 1, "{breaks}: {run}");
        let error = run.stdout;
        assert!(error.contains("/home/bob/.profile") && error.contains(expected), "{breaks}: {error}");
        assert!(error.contains("skipped because it depends on this: file:/home/bob/.profile.d"), "{breaks}: {error}");
        let files = host.run("cat /srv/last /home/bob/.profile.d /srv/later; ls -d /home/bob/old").stdout;
        assert_eq!(files, format!("1\ndrift\n{number}\n"), "{breaks}");
        shell(corrects);
        world.converges();
    }
    // a second name of the file is no fault: what it names stays
    host.run("echo mine > /home/bob/.profile; ln /home/bob/.profile /srv/second").ok();
    world.converges();
    assert_eq!(host.run("cat /srv/second /home/bob/.profile").ok(), "mine\nkpull's");
    // the obstacle is removed with the user that no role defines any more
    host.run("rm /home/bob/.profile; truncate -s 8T /home/bob/.profile").ok();
    world.release("[[file]]\npath = \"/srv/last\"\ncontent = \"2\\n\"\n");
    host.run("kpull apply").ok();
    assert_eq!(host.run("cat /srv/last").ok(), "2");
}

#[test]
fn a_read_only_usr_is_named_before_any_change_and_a_role_below_opt_is_applied() {
    let world = World::new();
    let host = world.host();
    host.run("mount --bind /usr /usr && mount -o remount,bind,ro /usr").ok();
    let role = |bin: &str| {
        format!(
            "[[directory]]\npath = '{bin}'\n[[file]]\npath = '{bin}/env.sh'\ncontent = 'x'\n\
             [[file]]\npath = '/etc/first'\ncontent = 'x'\n"
        )
    };
    let refused = |wants: &str, words: &[&str]| {
        world.release(wants);
        for command in ["kpull plan --json", "kpull apply --json"] {
            let run = host.run(command);
            assert_eq!(run.code(), 1, "{command}: {run}");
            words.iter().for_each(|word| assert!(run.stdout.contains(word), "{command}: no {word} in {run}"));
        }
        host.run("ls /etc/first").fails(2);
    };
    let programs = "/usr/k8s/bin can't be written: /usr is read-only on this host";
    refused(&role("/usr/k8s/bin"), &[programs, "under `[vars.base]`"]);
    let link = "[[symlink]]\npath = '/usr/local/bin/x'\ntarget = '/opt/x'\n";
    refused(&format!("{}{link}", role("/opt/bin")), &["/usr/local/bin/x can't be written: /usr is read-only"]);
    let package = |name: &str| format!("[[package]]\nname = '{name}'\n");
    let sysext = ["can't change the package sl: /usr is read-only on this host", "systemd-sysext"];
    refused(&(role("/opt/bin") + &package("sl")), &sysext);
    // what the host says of itself is enough for check to refuse the same, before a release is signed
    let facts = host.run("mkdir -p /srv/site/facts && kpull facts | tee /srv/site/facts/h1.toml").ok();
    for fact in ["image = \"read-only\"", "package_manager = \"apt\""] {
        assert!(facts.lines().any(|line| line == fact), "{facts}");
    }
    let check = host.run("kpull check --json --site /srv/site");
    assert_eq!(check.code(), 1, "{check}");
    sysext.iter().for_each(|word| assert!(check.stdout.contains(word), "no {word} in {check}"));
    // the writable part is a mount of its own, and its content is valid
    host.run("mkdir /srv/local && mount --bind /srv/local /usr/local").ok();
    world.release(&(role("/opt/bin") + &package("socat") + "[[file]]\npath = '/usr/local/x'\ncontent = 'x'\n"));
    world.converges();
    assert_eq!(host.run("cat /opt/bin/env.sh /srv/local/x /etc/first").ok(), "xxx");
}

#[test]
fn a_file_stays_when_a_release_uses_another_name_of_its_directory() {
    let world = World::new();
    let host = world.host();
    // a link that every host has, one of this host, and a mount
    host.run("mkdir -p /srv/data /srv/view && ln -s srv/data /data && mount --bind /srv/data /srv/view").ok();
    let file = |path: &str| format!("[[file]]\npath = \"{path}\"\ncontent = \"ours\\n\"\n");
    let names = [
        ["/lib/udev/rules.d/90-ours.rules", "/data/a"],
        ["/usr/lib/udev/rules.d/90-ours.rules", "/srv/data/a"],
        ["/lib/udev/rules.d/90-ours.rules", "/srv/view/a"],
    ];
    let is_there = || host.run("cat /usr/lib/udev/rules.d/90-ours.rules /srv/data/a").stdout == "ours\nours\n";
    for paths in names {
        world.release(&paths.map(file).concat());
        world.converges();
        assert!(is_there(), "{paths:?}");
    }
    world.release(&[file("/srv/view/a"), file("/data/a")].concat());
    let error = host.run("kpull apply --json");
    assert!(
        error.code() == 3 && error.stdout.contains("file:/srv/view/a and file:/data/a manage the same path"),
        "{error}"
    );
    assert!(is_there());
    world.release("");
    world.converges();
    host.run("ls /usr/lib/udev/rules.d/90-ours.rules").fails(2);
    host.run("ls /srv/data/a").fails(2);
}

#[test]
fn a_mounted_file_is_written_in_place_if_the_role_says_so_and_restored_likewise() {
    let world = World::new();
    let host = world.host();
    host.run("cp /etc/hosts /srv/hosts && mount --bind /srv/hosts /etc/hosts").ok();
    host.run("echo theirs > /srv/a && touch /srv/mounted && mount --bind /srv/a /srv/mounted && ln /srv/a /srv/second")
        .ok();
    let before = host.run("cat /srv/hosts /srv/a; stat -c '%i %a' /srv/hosts /srv/a").ok();
    let role = |in_place: &str| {
        format!(
            "[[block]]\npath = '/etc/hosts'\nname = 'lab'\ncontent = '192.0.2.1 one'\n{in_place}\
             [[file]]\npath = '/srv/mounted'\ncontent = 'ours'\nmode = '0600'\n{in_place}"
        )
    };
    world.release(&role(""));
    let refused = host.run("kpull apply --json");
    assert_eq!(refused.code(), 1, "{refused}");
    for expected in
        ["can't replace /etc/hosts: Device or resource busy", "`findmnt /etc/hosts`", "with `in_place = true`"]
    {
        assert!(refused.stdout.contains(expected), "{refused}");
    }

    world.release(&role("in_place = true\n"));
    world.converges();
    assert!(host.run("cat /srv/hosts").ok().ends_with("# BEGIN kpull lab\n192.0.2.1 one\n# END kpull lab"));
    assert_eq!(host.run("cat /srv/second; stat -c %a /srv/second").ok(), "ours600");
    host.run("echo drift > /srv/mounted").ok();
    world.converges();
    assert_eq!(host.run("cat /srv/second").ok(), "ours");

    world.release("");
    world.converges();
    assert_eq!(host.run("cat /srv/hosts /srv/a; stat -c '%i %a' /srv/hosts /srv/a").ok(), before);
}

#[test]
fn a_file_reaches_its_path_if_the_run_moves_its_directory_or_mounts_there() {
    let world = World::new();
    let host = world.host();
    host.run("mkdir /srv/app /srv/data && echo old | tee /srv/app/conf /srv/data/conf").ok();
    world.release(MOVED);
    world.converges();
    assert_eq!(host.run("cat /srv/app/conf /srv/former/conf /srv/data/conf").ok(), "new\nold\nnew");
    host.run("systemctl stop srv-data.mount").ok();
    assert_eq!(host.run("cat /srv/data/conf").ok(), "old");
}
