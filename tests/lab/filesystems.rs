//! File systems on empty devices of a real host: a loop device of the machine, which all hosts of the lab share.

use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Command;

use crate::support::alone::World;

/// A loop device of 64 MiB that the host has too; it ends when this is dropped.
struct Loop {
    device: String,
    _image: tempfile::NamedTempFile,
}

impl Loop {
    fn new(world: &World) -> Self {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(64 << 20).unwrap();
        let output = Command::new("losetup").args(["--find", "--show"]).arg(image.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let device = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let number = device.strip_prefix("/dev/loop").unwrap();
        world.host().run(&format!("mknod {device} b 7 {number}")).ok();
        Self { device, _image: image }
    }

    /// A digest of all that is on it.
    fn content(&self, world: &World) -> String {
        world.host().run(&format!("sha256sum < {}", self.device)).ok()
    }

    /// Nothing is on it any more.
    fn clear(&self, world: &World) {
        world.host().run(&format!("dd if=/dev/zero of={} bs=1M count=64 status=none conv=fsync", self.device)).ok();
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

#[test]
fn an_empty_device_gets_its_file_system_which_is_mounted_and_stays() {
    let world = World::new();
    let (host, device) = (world.host(), Loop::new(&world));
    let name = &device.device;
    host.run(&format!("ln -s {name} /dev/data")).ok();
    let role = format!(
        "[[filesystem]]\ndevice = \"/dev/data\"\ntype = \"ext4\"\nlabel = \"data\"\n\
         [[mount]]\nwhere = \"/srv/data\"\nwhat = \"{name}\"\ntype = \"ext4\"\n"
    );
    world.release(&role);
    let plan = host.run("kpull plan");
    assert!(plan.code() == 2 && plan.to_string().contains("make ext4 with the label data"), "{plan}");
    assert_eq!(host.run(&format!("blkid -p {name}")).code(), 2, "a plan changes nothing");

    // a run that dies while the program works is finished by the next, whatever was written until then
    for what in
        ["", "dd if=/dev/urandom of=$last bs=64k seek=1 count=1 status=none conv=fsync", "/usr/sbin/mkfs.ext4 \"$@\""]
    {
        let program = format!("#!/bin/sh\n# stand-in\nfor last; do :; done\n{what}\nkill -9 $PPID\n");
        host.write("/usr/local/sbin/mkfs.ext4", program);
        host.run("chmod +x /usr/local/sbin/mkfs.ext4").ok();
        host.run("kpull apply").fails(137);
        host.run("rm /usr/local/sbin/mkfs.ext4").ok();
        assert_eq!(host.run("kpull plan").code(), 2);
    }
    world.converges();
    let shown = || host.run(&format!("blkid -p -o value -s LABEL -s TYPE {name} | sort | tr '\\n' ' '")).ok();
    assert_eq!(shown().trim_end(), "data ext4");
    host.run("echo kept > /srv/data/file && findmnt -n -t ext4 /srv/data").ok();

    // it stays when no role has it, and is the same one later
    world.release("");
    world.converges();
    host.run("! findmnt /srv/data").ok();
    let content = device.content(&world);
    world.release(&role.replace("[[mount]]", "[[mount]]\noptions = [\"ro\", \"noload\"]"));
    world.converges();
    assert_eq!(host.run("cat /srv/data/file").ok(), "kept");
    world.release("");
    world.converges();
    assert_eq!(device.content(&world), content, "nothing was written to it");

    // what somebody does to it later is not taken for work that was left unfinished
    host.run(&format!("wipefs --all --quiet {name}")).ok();
    let content = device.content(&world);
    world.release(&role);
    assert!(host.run("kpull apply").fails(3).contains("nonzero bytes in its first MiB"));
    assert_eq!(device.content(&world), content, "nothing was written to it");
}

#[test]
fn a_device_with_any_content_stays_unchanged_and_its_content_is_reported() {
    let world = World::new();
    let (host, device) = (world.host(), Loop::new(&world));
    let name = &device.device;
    world.release("");
    world.converges();
    let role = |more: &str| format!("[[filesystem]]\ndevice = \"{name}\"\n{more}\n");
    let is_refused = |more: &str, why: &str| {
        let before = device.content(&world);
        // a release that is unlike the one that went back
        world.release(&format!("# {why}\n{}", role(more)));
        for command in ["kpull plan", "kpull apply"] {
            let output = host.run(command);
            assert!(output.code() != 0 && output.to_string().contains(why), "{command}: {output}");
        }
        assert_eq!(device.content(&world), before, "{why}");
    };
    let ext4 = "type = \"ext4\"\nlabel = \"new\"";
    // a partition for Linux, from the second MiB on, of 4096 sectors
    let mut table = vec![0; 512];
    table[450..464].copy_from_slice(&[0x83, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0, 0, 0]);
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    host.write("/srv/table", &table);
    for (make, why) in [
        ("mkfs.ext4 -q -L old", "LABEL=old, "),
        ("mkswap", "TYPE=swap, "),
        ("wipefs --all --quiet", "it has nonzero bytes in its first MiB"),
        ("sh -c 'cat /srv/table > \"$0\"'", "PTTYPE=dos"),
    ] {
        if make.starts_with("sh") {
            device.clear(&world);
        }
        host.run(&format!("{make} {name}")).ok();
        is_refused(ext4, why);
    }
    // one that is empty and in use
    device.clear(&world);
    let mut options = std::fs::OpenOptions::new();
    let used = options.read(true).custom_flags(nix::libc::O_EXCL).open(name).unwrap();
    is_refused(ext4, "it has a mount or another user");
    drop(used);
    world.release(&role("type = \"xfs\""));
    let output = host.run("kpull apply");
    assert!(output.to_string().contains("add a [[package]] with the name xfsprogs"), "{output}");
    world.release(&role(ext4));
    world.converges();
    is_refused("type = \"ext4\"\nlabel = \"other\"", "LABEL=new, ");

    let nowhere = "[[filesystem]]\ndevice = \"/dev/nowhere\"\ntype = \"ext4\"\n";
    world.release(nowhere);
    let plan = host.run("kpull plan");
    assert!(plan.code() == 1 && plan.to_string().contains("there is no device /dev/nowhere"), "{plan}");
    world
        .release(&format!("{nowhere}[[command]]\nname = \"makes it\"\nrun = [\"true\"]\ncreates = \"/dev/nowhere\"\n"));
    let plan = host.run("kpull plan");
    assert!(plan.to_string().contains("make ext4, once the device exists"), "{plan}");
}

#[test]
fn a_mount_that_a_process_uses_stays_until_it_is_free_and_the_run_names_the_process() {
    let world = World::new();
    let host = world.host();
    world.release("[[mount]]\nwhere = \"/srv/mounted\"\nwhat = \"tmpfs\"\ntype = \"tmpfs\"\n");
    world.converges();
    host.run("systemd-run -q --unit=user sh -c 'cd /srv/mounted && exec sleep infinity'; until pgrep -x sleep; do sleep .1; done").ok();
    let words = format!(
        "/srv/mounted is in use by process {} (sleep)",
        host.run("systemctl show -p MainPID --value user").ok()
    );
    world.release("");
    for _ in 0..2 {
        for (command, code) in
            [("kpull apply", 1), ("kpull apply --json", 1), ("kpull status", 0), ("kpull status --json", 0)]
        {
            let run = host.run(command);
            assert!(run.code() == code && run.to_string().contains(&words), "{command}: {run}");
        }
        let run = host.run("kpull apply --json");
        for words in [&*format!("failed to stop: {words}"), "then run again"] {
            assert!(run.code() == 1 && run.stdout.contains(words), "no {words} in {run}");
        }
        host.run("findmnt /srv/mounted && test -e /etc/systemd/system/srv-mounted.mount").ok();
        assert_eq!(host.run("kpull plan").code(), 2);
    }
    host.run("systemctl stop user").ok();
    host.run("systemctl daemon-reload; systemctl start kpull.service").ok();
    host.run("! findmnt /srv/mounted && test ! -e /etc/systemd/system/srv-mounted.mount").ok();
    assert_eq!(
        host.run("systemctl list-units --failed --no-legend").ok(),
        "",
        "nothing is left of the refused attempts"
    );
    world.is_converged();
}
