//! The name of a host, its time zone, its locale and its mounts, with systemd's own services.

use crate::support::alone::World;

/// Everything that the tests change, as it is on the host.
const STATE: &str = "hostname; hostnamectl --static; timedatectl show -p Timezone --value; 
    localectl status | grep Locale; ls /etc/vconsole.conf 2>&1; cat /etc/default/locale /etc/locale.conf 2>&1; true";

#[test]
fn the_settings_of_a_system_hold_at_once_drift_is_corrected_and_they_are_restored() {
    let world = World::new();
    let host = world.host();
    world.release("");
    world.converges();
    let before = host.run(STATE).ok();
    world.release(
        "[[system]]\nhostname = \"web1\"\ntimezone = \"Europe/Berlin\"\nlocale = \"C.UTF-8\"\nkeymap = \"de\"\n",
    );
    world.converges();
    let state = host.run(STATE).ok();
    for line in ["web1\nweb1\nEurope/Berlin\n", "LANG=C.UTF-8"] {
        assert!(state.contains(line), "{state}");
    }
    assert_eq!(host.run("cat /etc/vconsole.conf; date +%Z | grep -c 'CES\\?T'").ok(), "KEYMAP=de\n1");

    host.run("hostname other && ln -sfn /usr/share/zoneinfo/Etc/UTC /etc/localtime").ok();
    let plan = host.run("kpull plan").stdout;
    assert!(plan.contains("system:hostname  running: other → web1"), "{plan}");
    assert!(plan.contains("system:timezone  Etc/UTC → Europe/Berlin"), "{plan}");
    world.converges();
    assert_eq!(host.run(STATE).ok(), state);

    // what the host does not have fails, and the former values come back
    world.release("[[system]]\nhostname = \"web2\"\ntimezone = \"Europe/Atlantis\"\n");
    let output = host.run("kpull apply").fails(3);
    assert!(output.contains("this host has no time zone Europe/Atlantis"), "{output}");
    assert_eq!(host.run("hostname").ok(), "web1");
    world.release("");
    world.converges();
    assert_eq!(host.run(STATE).ok(), before);
}

const MOUNT: &str = "[[mount]]\nwhere = \"/srv/my-data\"\nwhat = \"tmpfs\"\ntype = \"tmpfs\"\n";

#[test]
fn a_mount_is_made_corrected_changed_and_removed() {
    let world = World::new();
    let host = world.host();
    let mounted = || {
        let shown =
            host.run("findmnt -no FSTYPE,OPTIONS /srv/my-data | grep -o 'tmpfs\\|size=[0-9]*k' | tr '\\n' ' '").ok();
        shown.trim_end().to_owned()
    };
    world.release(MOUNT);
    world.converges();
    assert_eq!(mounted(), "tmpfs");
    // drift, then other options
    host.run("umount /srv/my-data").ok();
    assert_eq!(host.run("kpull plan").code(), 2);
    world.converges();
    world.release(&format!("{MOUNT}options = [\"size=1024k\"]\n"));
    world.converges();
    assert_eq!(mounted(), "tmpfs size=1024k");

    // a directory at a second place, for reading
    host.run("mkdir -p /srv/original && echo one > /srv/original/file").ok();
    let bind = "[[mount]]\nwhere = \"/srv/copy\"\nwhat = \"/srv/original\"\noptions = [\"bind\", \"ro\"]\n";
    world.release(&format!("{MOUNT}{bind}"));
    world.converges();
    host.run("cat /srv/copy/file && ! touch /srv/copy/new && touch /srv/original/new && test -e /srv/copy/new").ok();
    world.release(MOUNT);
    world.converges();
    host.run("! mountpoint /srv/copy && test -e /srv/original/new").ok();

    world.release("");
    world.converges();
    host.run("! findmnt /srv/my-data && test ! -e '/etc/systemd/system/srv-my\\x2ddata.mount'").ok();
}

#[test]
fn a_line_of_fstab_agrees_with_its_mount_and_comes_back_with_what_it_mounts() {
    let world = World::new();
    let host = world.host();
    let fstab =
        |line: &str| format!("# theirs\nnone /srv/other tmpfs noauto 0 0\n{line}\nLABEL=x none swap noauto 0 0");
    let theirs = fstab("tmpfs\t/srv/my-data tmpfs size=2048k,x-theirs 0 0");
    host.write("/etc/fstab", &theirs);
    host.run("systemctl daemon-reload && systemctl start 'srv-my\\x2ddata.mount'").ok();
    let mounted = || {
        host.run(
            "findmnt -no FSTYPE,OPTIONS /srv/my-data | grep -o 'tmpfs\\|size=[0-9]*k' | tr '\\n' ' '
            systemctl show -p FragmentPath --value 'srv-my\\x2ddata.mount'; systemctl show -p Requires --value local-fs.target | grep -c my",
        )
        .stdout
    };
    let before = "tmpfs size=2048k /run/systemd/generator/srv-my\\x2ddata.mount\n1\n";
    assert_eq!(mounted(), before);

    world.release(&format!("{MOUNT}options = [\"size=1024k\"]\n"));
    let plan = host.run("kpull plan");
    assert!(plan.code() == 2 && plan.stdout.contains("mount:/srv/my-data  change line 3 of /etc/fstab"), "{plan}");
    world.converges();
    let after = "tmpfs size=1024k /etc/systemd/system/srv-my\\x2ddata.mount\n0\n";
    let ours = fstab("tmpfs\t/srv/my-data tmpfs size=1024k,nofail,x-theirs 0 0");
    assert_eq!((mounted(), host.run("cat /etc/fstab").stdout), (after.to_owned(), ours.clone()));
    host.run("findmnt --verify && mount -a && test \"$(findmnt -no TARGET /srv/my-data | wc -l)\" = 1").ok();
    // what only fstab says: the next boot and `mount -a` would do something else
    host.run("sed -i 's/1024k/512k/' /etc/fstab").ok();
    assert_eq!(host.run("kpull plan").code(), 2);
    world.converges();
    assert_eq!((mounted(), host.run("cat /etc/fstab").stdout), (after.to_owned(), ours));

    world.release("");
    world.converges();
    assert_eq!((mounted(), host.run("cat /etc/fstab").stdout), (before.to_owned(), theirs));

    host.run("line=$(grep my-data /etc/fstab) && printf '\\n%s\\n' \"$line\" >> /etc/fstab").ok();
    world.release(MOUNT);
    let plan = host.run("kpull plan").fails(1);
    assert!(plan.contains("lines 3 and 5 of /etc/fstab both mount a file system at /srv/my-data"), "{plan}");
}
