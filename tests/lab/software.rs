//! `[[package]]` with the real apt, dpkg, dnf and rpm: what packages ship, bring along and leave.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

use kpull::net::server::Server;

use crate::support::alone::World;
use crate::support::lab::{Host, Output};

/// Makes a package for apt that ships `/etc/NAME/NAME.conf`, in the repository that the host installs from.
const DEB: &str = r#"
set -eu
name=$1 version=$2 arch=$3 depends=$4
dir=$(mktemp -d)
chmod 755 "$dir"
mkdir -p "$dir/DEBIAN" "$dir/etc/$name" "$dir/usr/share/$name"
cat > "$dir/DEBIAN/control" <<END
Package: $name
Version: $version
Architecture: $arch
Maintainer: Lab <lab@example.org>
Description: For a test
END
[ "$arch" = all ] || echo "Multi-Arch: same" >> "$dir/DEBIAN/control"
[ -z "$depends" ] || echo "Depends: $depends" >> "$dir/DEBIAN/control"
echo "shipped $version" > "$dir/etc/$name/$name.conf"
echo "/etc/$name/$name.conf" > "$dir/DEBIAN/conffiles"
echo "$version" > "$dir/usr/share/$name/version-$arch"
[ ! -e "/srv/postinst-$name" ] || install -m 755 "/srv/postinst-$name" "$dir/DEBIAN/postinst"
dpkg-deb --build --root-owner-group "$dir" /srv/apt >/dev/null
rm -r "$dir"
cd /srv/apt
apt-ftparchive packages . > Packages
rm -f Release
apt-ftparchive release . > /tmp/Release
mv /tmp/Release .
"#;

/// A package of the host's repository, whose new index apt has not read yet.
pub fn offer(host: Host<'_>, name: &str, version: &str, arch: &str, depends: &str) {
    host.write("/srv/deb", DEB);
    host.run(&format!("bash /srv/deb {name} {version} {arch} '{depends}'")).ok();
}

/// A package of the host's repository, in apt's index, that contains only a script that runs at installation.
pub fn offer_script(host: Host<'_>, name: &str, script: &str) {
    host.write("/srv/made/postinst", format!("#!/bin/sh\nset -e\n{script}\n"));
    host.run(&format!(
        r"cd /srv/made && mkdir -p {name}/DEBIAN && mv postinst {name}/DEBIAN
        printf 'Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: lab\nDescription: lab\n' > {name}/DEBIAN/control
        chmod 755 {name}/DEBIAN/postinst
        dpkg-deb --build {name} /srv/apt/{name}_1_all.deb
        cd /srv/apt && apt-ftparchive packages . > Packages && apt-ftparchive release . > /tmp/Release && mv /tmp/Release .
        apt-get -q update"
    ))
    .ok();
}

/// The file of a package as a role has it.
fn file(path: &str) -> String {
    format!("[[file]]\npath = {path:?}\ncontent = \"a role's\\n\"\n")
}

/// What is on the host of the packages of these tests, with content and mode.
fn left(host: Host<'_>) -> String {
    host.run(
        "dpkg-query -Wf '${Package}:${Architecture} ${db:Status-Abbrev}\\n' | grep ^daemon;
        find /etc/daemon* /usr/share/daemon* -printf '%p %m ' -exec sh -c 'cat {} 2>/dev/null || echo' \\; 2>/dev/null; true",
    )
    .ok()
}

const DAEMON: &str = "[[package]]\nname = \"daemon\"\n";

#[test]
fn a_packages_file_is_restored_when_no_role_manages_it_and_goes_with_the_package() {
    let world = World::new();
    let host = world.host();
    offer(host, "daemon-data", "1", "all", "");
    offer(host, "daemon", "1", "amd64", "daemon-data");
    world.release("");
    host.run("kpull apply").ok();
    host.run("test -z \"$(dpkg --verify)\"").ok();

    // a file of the package, one of what comes with it, a part of a file, a link, and what no package has
    let all = [
        DAEMON,
        &file("/etc/daemon/daemon.conf"),
        "mode = \"0600\"\n",
        "[[block]]\npath = \"/etc/daemon-data/daemon-data.conf\"\nname = \"more\"\ncontent = \"more\"\n",
        "[[symlink]]\npath = \"/usr/share/daemon/version-amd64\"\ntarget = \"/etc/hostname\"\n",
        &file("/etc/daemon/extra.conf"),
    ]
    .concat();
    world.release(&all);
    world.converges();
    assert!(host.run("dpkg --verify").stdout.contains("/etc/daemon/daemon.conf"), "the role has the file");
    world.release(DAEMON);
    world.converges();
    assert_eq!(host.run("cat /etc/daemon/daemon.conf").ok(), "shipped 1");
    assert_eq!(host.run("dpkg --verify").ok(), "", "{}", left(host));
    assert_eq!(host.run("stat -c %a /etc/daemon/daemon.conf").ok(), "644");
    host.run("test ! -e /etc/daemon/extra.conf").ok();

    // all of it in one release
    world.release(&all);
    world.converges();
    world.release("");
    let plan = host.run("kpull plan");
    assert!(plan.stdout.contains("purge 1, and daemon-data that were installed with it"), "{plan}");
    host.run("kpull apply").ok();
    assert_eq!(left(host), "");
    assert_eq!(host.run("dpkg --verify").ok(), "");
    world.is_converged();
}

#[test]
fn the_file_of_a_packages_later_version_is_the_one_that_is_restored() {
    let world = World::new();
    let host = world.host();
    offer(host, "daemon", "1", "amd64", "");
    let release = |version: u32, more: &str| world.release(&format!("{DAEMON}version = \"{version}\"\n{more}"));
    release(1, &file("/etc/daemon/daemon.conf"));
    world.converges();
    offer(host, "daemon", "2", "amd64", "");
    release(2, &file("/etc/daemon/daemon.conf"));
    world.converges();
    assert_eq!(host.run("cat /etc/daemon/daemon.conf").ok(), "a role's");
    release(2, "");
    world.converges();
    assert_eq!(host.run("cat /etc/daemon/daemon.conf").ok(), "shipped 2");
    assert_eq!(host.run("dpkg --verify").ok(), "");
}

#[test]
fn changed_lines_and_values_of_packages_files_outlive_an_upgrade_and_are_undone() {
    let world = World::new();
    let host = world.host();
    let real =
        "/etc/ssh/sshd_config /etc/default/grub /etc/docker/daemon.json /etc/systemd/journald.conf /etc/login.defs";
    host.run(
        "mkdir -p /etc/docker /etc/default /etc/ssh
        [ -e /etc/ssh/sshd_config ] || printf '#PermitRootLogin prohibit-password\\nUsePAM yes\\n' > /etc/ssh/sshd_config
        [ -e /etc/default/grub ] || printf 'GRUB_TIMEOUT=5\\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\\n' > /etc/default/grub
        [ -e /etc/docker/daemon.json ] || printf '{\\n  \"log-driver\": \"journald\"\\n}\\n' > /etc/docker/daemon.json",
    )
    .ok();
    let state = || host.run(&format!("stat -c '%n %a %u %g' {real}; sha256sum {real}; dpkg --verify")).ok();
    let before = state();
    offer(host, "daemon", "1", "amd64", "");
    let role = |version: u32| {
        format!(
            "{DAEMON}version = \"{version}\"\n{}",
            r#"
[[line]]
path = "/etc/daemon/daemon.conf"
line = "more = 1"
[[line]]
path = "/etc/ssh/sshd_config"
name = "root"
regex = '^#?\s*PermitRootLogin\s'
line = "PermitRootLogin no"
insert_before = "^Match"
[[line]]
path = "/etc/login.defs"
regex = '^UMASK\s'
line = "UMASK 027"
[[setting]]
path = "/etc/default/grub"
key = "GRUB_TIMEOUT"
value = 1
[[setting]]
path = "/etc/docker/daemon.json"
key = "log-opts.max-size"
value = "50m"
[[setting]]
path = "/etc/systemd/journald.conf"
key = "Journal.SystemMaxUse"
value = "100M"
[[unit]]
name = "systemd-journald.service"
restart_when = ["setting:/etc/systemd/journald.conf#Journal.SystemMaxUse"]
"#
        )
    };
    world.release(&role(1));
    world.converges();
    assert_eq!(host.run("cat /etc/daemon/daemon.conf").ok(), "shipped 1\nmore = 1");
    host.run("python3 -c 'import json; assert json.load(open(\"/etc/docker/daemon.json\"))[\"log-opts\"] == {\"max-size\": \"50m\"}'").ok();
    host.run(". /etc/default/grub && test \"$GRUB_TIMEOUT\" = 1 && grep -qx 'UMASK 027' /etc/login.defs").ok();
    host.run("systemd-analyze cat-config systemd/journald.conf | grep -qx SystemMaxUse=100M").ok();
    host.run("sed -i s/=100M/=1M/ /etc/systemd/journald.conf").ok();
    world.converges();

    // dpkg asks nobody about the file that was changed, and leaves it as it is
    offer(host, "daemon", "2", "amd64", "");
    world.release(&role(2));
    world.converges();
    assert_eq!(host.run("cat /etc/daemon/daemon.conf").ok(), "shipped 1\nmore = 1");
    world.release("");
    world.converges();
    assert_eq!(state(), before);
}

#[test]
fn a_run_that_dies_during_an_installation_still_records_the_packages_files() {
    let world = World::new();
    let host = world.host();
    host.write(
        "/srv/postinst-daemon",
        "#!/bin/sh\n[ -e /srv/died ] || { touch /srv/died; kill -KILL $(pidof kpull); }\n",
    );
    offer(host, "daemon", "1", "amd64", "");
    world.release(&format!("{DAEMON}{}", file("/etc/daemon/daemon.conf")));
    host.run("kpull apply").fails(137);
    host.run("timeout 60 sh -c 'while pidof dpkg apt-get; do sleep .1; done'").ok();
    assert_eq!(host.run("cat /etc/daemon/daemon.conf").ok(), "shipped 1", "the run died before its own was written");
    world.converges();
    assert_eq!(host.run("cat /etc/daemon/daemon.conf").ok(), "a role's");
    world.release(DAEMON);
    world.converges();
    assert_eq!(host.run("dpkg --verify; cat /etc/daemon/daemon.conf").ok(), "shipped 1");
}

#[test]
fn a_package_that_another_needs_by_now_stays_and_so_does_earlier_configuration() {
    let world = World::new();
    let host = world.host();
    offer(host, "daemon-data", "1", "all", "");
    offer(host, "daemon", "1", "amd64", "daemon-data");
    host.run("apt-get -q update && apt-get -qy install daemon-data && apt-get -qy remove daemon-data").ok();
    let was = left(host);
    assert!(was.contains("daemon-data:all rc"), "{was}");
    world.release("[[package]]\nname = \"daemon-data\"\n");
    world.converges();
    host.run("apt-get -qy install daemon").ok();
    world.release("");
    let plan = host.run("kpull plan");
    assert!(plan.stdout.contains("kept because daemon needs it"), "{plan}");
    world.converges();
    assert_eq!(host.run("dpkg-query -Wf '${db:Status-Abbrev}' daemon daemon-data").ok(), "ii ii ");

    // one that a role says is absent is not removed at the cost of others either
    world.release("[[package]]\nname = \"daemon-data\"\nstate = \"absent\"\n");
    let output = host.run("kpull apply").fails(3);
    assert!(output.contains("daemon would be removed too"), "{output}");
    host.run("apt-get -qy purge daemon").ok();
    world.release("[[package]]\nname = \"daemon-data\"\n");
    world.converges();
    world.release("[[package]]\nname = \"daemon-data\"\nstate = \"absent\"\n");
    let plan = host.run("kpull plan");
    assert!(plan.stdout.contains("remove 1, not its configuration"), "{plan}");
    world.converges();
    assert_eq!(left(host), was);
    assert_eq!(host.run("dpkg --verify").ok(), "");
}

/// A role with these packages and nothing else.
fn packages(names: &[&str], more: &str) -> String {
    names.iter().map(|name| format!("[[package]]\nname = {name:?}\n{more}")).collect()
}

#[test]
fn packages_that_become_orphans_together_are_removed_in_one_transaction() {
    let world = World::new();
    let host = world.host();
    let both = packages(&["daemon", "daemon-data"], "");
    offer(host, "daemon-data", "1", "all", "");
    offer(host, "daemon", "1", "amd64", "daemon-data");
    // a package of the operator needs one of them, and that needs the other
    offer(host, "daemon-more", "1", "all", "daemon");
    world.release(&both);
    world.converges();
    host.run("apt-get -qy install daemon-more").ok();
    world.release("");
    let plan = host.run("kpull plan").stdout;
    assert_eq!(plan.matches("kept because daemon-more needs it").count(), 2, "{plan}");
    world.converges();
    host.run("apt-get -qy purge daemon-more daemon daemon-data").ok();

    // each was installed separately; the required one is removed first
    world.release(&packages(&["daemon-data"], ""));
    world.converges();
    world.release(&both);
    world.converges();
    world.release("");
    let plan = host.run("kpull plan").stdout;
    assert!(plan.contains("purge 1, and daemon that needs it"), "{plan}");
    let output = host.run("kpull apply").ok();
    assert_eq!(output.matches("package:daemon").count(), 2, "both are reported: {output}");
    assert_eq!(left(host), "");
    assert_eq!(host.run("dpkg --verify").ok(), "");
    world.is_converged();

    // each needs the other
    offer(host, "daemon-data", "2", "all", "daemon");
    host.run("apt-get -q update").ok();
    world.release(&both);
    world.converges();
    world.release("");
    let plan = host.run("kpull plan").stdout;
    assert!(plan.contains("purge 2, and daemon that needs it"), "{plan}");
    assert!(plan.contains("purge 1, and daemon-data that needs it"), "{plan}");
    world.converges();
    assert_eq!(left(host), "");
}

#[test]
fn packages_of_dnf_that_become_orphans_together_are_removed_in_one_transaction() {
    let world = World::new();
    let host = world.host();
    let spec =
        |name: &str, needs: &str| SPEC.replace("daemon-rpm", name).replace("BuildArch", &format!("{needs}BuildArch"));
    for (name, needs) in [
        ("daemon-rpm", "Requires: daemon-rpm-library\n"),
        ("daemon-rpm-library", "Requires: daemon-rpm-data\n"),
        ("daemon-rpm-data", ""),
    ] {
        host.write("/srv/daemon.spec", spec(name, needs));
        host.run("rpmbuild --quiet -bb --define '_topdir /tmp/rpm' --define '_rpmdir /srv/rpm' /srv/daemon.spec").ok();
    }
    host.run("rm -r /srv/rpm/repodata && createrepo_c --quiet /srv/rpm").ok();
    world.release("");
    world.converges();
    let all = ["daemon-rpm", "daemon-rpm-library", "daemon-rpm-data"];
    world.release(&packages(&all, "manager = \"dnf\"\n"));
    world.converges();
    world.release("");
    let plan = host.run("kpull plan").stdout;
    assert!(plan.contains("remove 0:1-1, and daemon-rpm-library, daemon-rpm that need it"), "{plan}");
    world.converges();
    host.run("! rpm -q daemon-rpm && ! rpm -q daemon-rpm-library && ! rpm -q daemon-rpm-data").ok();
    world.is_converged();
}

#[test]
fn an_rpms_file_is_restored_when_no_role_manages_it_and_goes_with_the_package() {
    let world = World::new();
    let host = world.host();
    host.write("/srv/daemon.spec", SPEC);
    host.run("rpmbuild --quiet -bb --define '_topdir /tmp/rpm' --define '_rpmdir /srv/rpm' /srv/daemon.spec").ok();
    host.run("rm -r /srv/rpm/repodata && createrepo_c --quiet /srv/rpm").ok();
    let package = "[[package]]\nname = \"daemon-rpm\"\nmanager = \"dnf\"\n";
    world.release("");
    world.converges();
    world.release(&format!("{package}{}", file("/etc/daemon-rpm/daemon.conf")));
    world.converges();
    assert!(host.run("rpm -V daemon-rpm").stdout.contains("/etc/daemon-rpm/daemon.conf"), "the role has the file");
    world.release(package);
    world.converges();
    assert_eq!(host.run("rpm -V --nomtime daemon-rpm").ok(), "");
    world.release(&format!("{package}{}", file("/etc/daemon-rpm/daemon.conf")));
    world.converges();
    world.release("");
    let plan = host.run("kpull plan");
    assert!(plan.stdout.contains("remove 0:1-1"), "{plan}");
    world.converges();
    host.run("test ! -e /etc/daemon-rpm && ! rpm -q daemon-rpm").ok();
}

const SPEC: &str = "Name: daemon-rpm\nVersion: 1\nRelease: 1\nSummary: For a test\nLicense: MIT\nBuildArch: noarch\n%description\nFor a test.\n\
    %install\nmkdir -p %{buildroot}/etc/daemon-rpm\necho shipped > %{buildroot}/etc/daemon-rpm/daemon.conf\n\
    %files\n%dir /etc/daemon-rpm\n%config(noreplace) /etc/daemon-rpm/daemon.conf\n";

/// A world whose host can reach a repository of packages by HTTP, as long as it is served.
struct Mirror {
    world: World,
    server: Option<Server>,
}

impl Mirror {
    fn new() -> Self {
        let mut mirror = Self { world: World::new(), server: None };
        mirror.serve();
        mirror
    }

    /// Serves what the host has in /srv/mirror.
    fn serve(&mut self) {
        let files = self.world.host().root().join("srv/mirror");
        let listen = move || {
            Server::on(TcpListener::bind((FABRIC, 80)).unwrap(), None, crate::support::web::web(files)).unwrap()
        };
        self.server = Some(self.world.0.in_network(listen));
    }

    fn goes_away(&mut self) {
        if let Some(server) = self.server.take() {
            self.world.0.in_network(move || drop(server));
        }
    }

    /// Has these packages there too, and nothing new on the host itself. With a key, the index is signed with that.
    fn offer(&self, name: &str, version: &str, key: Option<&str>) {
        let host = self.world.host();
        offer(host, name, version, "amd64", "");
        host.run("mkdir -p /srv/mirror && mv /srv/apt/daemon*.deb /srv/mirror").ok();
        host.run("cd /srv/apt && apt-ftparchive packages . > Packages && rm Release && apt-ftparchive release . > /tmp/r && mv /tmp/r Release").ok();
        let sign = key.map_or(String::new(), |key| {
            format!("gpg -q --batch --yes --pinentry-mode loopback --passphrase '' -u {key} --clearsign -o InRelease Release")
        });
        host.run(&format!(
            "cd /srv/mirror && apt-ftparchive packages . > Packages && rm -f Release InRelease &&
            apt-ftparchive release . > /tmp/r && mv /tmp/r Release; {sign}"
        ))
        .ok();
    }

    fn is_blamed(&self) -> bool {
        self.world.host().run("kpull status").ok().contains("and not")
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.goes_away();
    }
}

const FABRIC: &str = "192.168.1.254";
const LIST: &str = "[[file]]\npath = \"/etc/apt/sources.list.d/lab.list\"\ncontent = \"deb [trusted=yes] http://192.168.1.254/ ./\\n\"\n";
const RULE: &str = "[[file]]\npath = \"/srv/rule\"\ncontent = \"1\\n\"\n";

#[test]
fn a_repository_its_key_and_its_pin_precede_packages_and_configuration_follows() {
    let mirror = Mirror::new();
    let (world, host) = (&mirror.world, mirror.world.host());
    for name in ["right", "wrong"] {
        host.run(&format!("gpg -q --batch --passphrase '' --quick-gen-key {name}@lab && gpg --armor --export {name}@lab > /srv/{name}.asc")).ok();
    }
    mirror.offer("daemon", "1", Some("right@lab"));
    mirror.offer("daemon", "2", Some("right@lab"));
    let role = |key: &str, version: &str| {
        let key = host.run(&format!("cat /srv/{key}.asc")).ok();
        [
            &file("/etc/daemon/daemon.conf"),
            DAEMON,
            &format!("[[file]]\npath = \"/etc/apt/preferences.d/lab\"\ncontent = '''\nPackage: daemon\nPin: version {version}\nPin-Priority: 1001\n'''\n"),
            "[[file]]\npath = \"/etc/apt/sources.list.d/lab.list\"\ncontent = \"deb [signed-by=/etc/apt/keyrings/lab.asc] http://192.168.1.254/ ./\\n\"\n",
            &format!("[[file]]\npath = \"/etc/apt/keyrings/lab.asc\"\ncontent = '''\n{key}\n'''\n"),
            "[[directory]]\npath = \"/etc/apt/keyrings\"\n",
        ]
        .concat()
    };
    world.release("");
    world.converges();

    // the host refuses a signature of another key, and that is the release's fault
    world.release(&role("wrong", "1"));
    let output = host.run("kpull apply").fails(3);
    assert!(output.contains("can't update the package lists") && output.contains("NO_PUBKEY"), "{output}");
    assert!(mirror.is_blamed());
    host.run("test ! -e /etc/apt/sources.list.d/lab.list").ok();

    world.release(&role("right", "1"));
    world.converges();
    assert_eq!(host.run("cat /etc/daemon/daemon.conf /usr/share/daemon/version-amd64").ok(), "a role's\n1");
    world.release("");
    world.converges();
    assert_eq!(left(host), "");
}

#[test]
fn lists_of_packages_are_read_again_after_a_repository_has_changed() {
    let mirror = Mirror::new();
    let (world, host) = (&mirror.world, mirror.world.host());
    mirror.offer("daemon", "1", None);
    host.run("mv /srv/mirror /srv/first && mkdir -p /srv/mirror && mv /srv/first /srv/mirror").ok();
    mirror.offer("daemon", "2", None);
    let list = |below: &str| LIST.replace(".254/", &format!(".254/{below}"));
    world.release(&format!("{DAEMON}{}", list("first/")));
    world.converges();
    assert_eq!(host.run("cat /usr/share/daemon/version-amd64").ok(), "1");
    world.release(&format!("{DAEMON}version = \"2\"\n{}", list("")));
    world.converges();
    assert_eq!(host.run("cat /usr/share/daemon/version-amd64").ok(), "2");

    // the same for dnf
    host.write("/srv/daemon.spec", SPEC);
    host.run("rpmbuild --quiet -bb --define '_topdir /tmp/rpm' --define '_rpmdir /srv/mirror/rpm' /srv/daemon.spec && createrepo_c --quiet /srv/mirror/rpm").ok();
    world.release(&format!(
        "{DAEMON}{}{REPO}[[package]]\nname = \"daemon-rpm\"\nmanager = \"dnf\"\nwhen = \"false\"\n",
        list("")
    ));
    world.converges();
    world.release(&format!("{}{REPO}[[package]]\nname = \"daemon-rpm\"\nmanager = \"dnf\"\n", list("")));
    world.converges();
    assert_eq!(host.run("rpm -q daemon-rpm").ok(), "daemon-rpm-1-1.noarch");
}

const REPO: &str = "[[file]]\npath = \"/etc/yum.repos.d/more.repo\"\ncontent = '''\n[more]\nname=more\nbaseurl=http://192.168.1.254/rpm/\ngpgcheck=0\n'''\n";

#[test]
fn a_mirror_that_is_down_is_waited_for_and_fails_no_release() {
    let mut mirror = Mirror::new();
    mirror.offer("daemon", "1", None);
    let role = format!("{RULE}{LIST}{DAEMON}{}", file("/etc/daemon/daemon.conf"));
    mirror.world.release(RULE);
    mirror.world.converges();

    // before its lists were read
    mirror.goes_away();
    mirror.world.release(&role);
    for _ in 0..2 {
        let output = mirror.world.host().run("kpull apply").fails(1);
        assert!(
            output.contains("can't update the package lists") && output.contains("http://192.168.1.254"),
            "{output}"
        );
        assert!(output.contains("the next run tries again"), "{output}");
    }
    assert!(!mirror.is_blamed());
    mirror.serve();
    mirror.world.converges();
    assert_eq!(mirror.world.host().run("cat /etc/daemon/daemon.conf").ok(), "a role's");

    // with lists of now, when the package itself is fetched
    mirror.world.release(&format!("{RULE}{LIST}"));
    mirror.world.converges();
    mirror.world.host().run("apt-get clean").ok();
    mirror.goes_away();
    mirror.world.release(&role);
    let output = mirror.world.host().run("kpull apply").fails(1);
    assert!(output.contains("can't install daemon") || output.contains("can't update the package lists"), "{output}");
    assert!(!mirror.is_blamed());
    mirror.serve();
    mirror.world.converges();

    // dnf, that has not seen its repository yet
    mirror.goes_away();
    let rpm = "[[package]]\nname = \"daemon-rpm\"\nmanager = \"dnf\"\n";
    mirror.world.release(&format!("{RULE}{LIST}{DAEMON}{REPO}{rpm}"));
    mirror.world.host().run("kpull apply").fails(1);
    assert!(!mirror.is_blamed());
    let host = mirror.world.host();
    host.write("/srv/daemon.spec", SPEC);
    host.run("rpmbuild --quiet -bb --define '_topdir /tmp/rpm' --define '_rpmdir /srv/mirror/rpm' /srv/daemon.spec && createrepo_c --quiet /srv/mirror/rpm").ok();
    mirror.serve();
    mirror.world.converges();

    // what the host itself answers is not the mirror's fault
    mirror.world.host().write("/srv/postinst-daemon-bad", "#!/bin/sh\nexit 1\n");
    mirror.offer("daemon-bad", "1", None);
    for (name, why) in [("daemon-bad", "can't install daemon-bad"), ("daemon-none", "Unable to locate package")] {
        mirror.world.release(&format!(
            "{RULE}{LIST}{DAEMON}{REPO}{rpm}[[package]]\nname = {name:?}\n[[group]]\nname = {name:?}\n"
        ));
        let output = mirror.world.host().run("kpull apply").fails(3);
        assert!(output.contains(why), "{output}");
    }
    assert!(mirror.is_blamed());
}

#[test]
fn packages_that_are_foreign_on_hold_or_half_installed_are_named_as_such() {
    let world = World::new();
    let host = world.host();
    offer(host, "daemon", "1", "i386", "");
    offer(host, "daemon", "1", "amd64", "");
    host.run("dpkg --add-architecture i386 && apt-get -q update").ok();
    world.release("[[package]]\nname = \"daemon:i386\"\n");
    world.converges();
    let which = "dpkg-query -Wf '${Architecture} ${db:Status-Abbrev}\\n' daemon";
    assert_eq!(host.run(which).ok(), "i386 ii ");
    // they share their configuration
    world.release(&format!("[[package]]\nname = \"daemon:i386\"\n{DAEMON}"));
    assert!(host.run("kpull plan").stdout.contains("package:daemon  install"), "{}", host.run("kpull plan"));
    world.converges();
    assert_eq!(host.run(which).ok(), "amd64 ii \ni386 ii ");
    world.release(DAEMON);
    world.converges();
    assert_eq!(host.run(which).ok(), "amd64 ii ");

    offer(host, "daemon", "2", "amd64", "");
    host.run("apt-mark hold daemon").ok();
    world.release(&format!("{DAEMON}version = \"2\"\n"));
    let output = host.run("kpull apply").fails(1);
    assert!(output.contains("can't install daemon=2") && output.contains("`apt-mark unhold daemon`"), "{output}");
    // that is the fault of this host: the next run continues
    host.run("apt-mark unhold daemon").ok();
    world.converges();
    assert_eq!(host.run("cat /usr/share/daemon/version-amd64").ok(), "2");
    host.write("/etc/apt/preferences.d/none", "Package: daemon-pinned\nPin: release *\nPin-Priority: -1\n");
    offer(host, "daemon-pinned", "1", "amd64", "");
    world.release("[[package]]\nname = \"daemon-pinned\"\n");
    let output = host.run("kpull apply --json");
    assert!(output.code() == 3 && output.to_string().contains("policy daemon-pinned`"), "{output}");

    // dpkg dies in the middle, and the next run goes on where it was
    host.run("rm /etc/apt/preferences.d/none").ok();
    host.write("/srv/postinst-daemon-dies", "#!/bin/sh\n[ -e /srv/died ] || { touch /srv/died; kill -KILL $PPID; }\n");
    offer(host, "daemon-dies", "1", "amd64", "");
    world.release(&format!("{DAEMON}[[package]]\nname = \"daemon-dies\"\n"));
    host.run("kpull apply").fails(3);
    host.run("kpull apply --retry").ok();
    world.is_converged();
}

#[test]
fn every_package_of_an_entry_is_reported_and_restarts_the_units_that_watch_it() {
    let world = World::new();
    let host = world.host();
    for name in ["daemon", "daemon-data"] {
        offer(host, name, "1", "all", "");
    }
    let unit = "[[unit]]\nname = \"lab.service\"\ncontent = \"[Service]\\nExecStart=/bin/sleep infinity\\n\"\nstate = \"running\"\n";
    world.release(unit);
    world.converges();
    let life = || host.run("systemctl show -p InvocationID --value lab").ok();
    let before = life();
    world.release(&format!(
        "[[package]]\nnames = [\"daemon\", \"daemon-data\"]\n{unit}restart_when = [\"package:daemon-data\"]\n"
    ));
    let plan = host.run("kpull plan").stdout;
    let output = host.run("kpull apply").ok();
    for part in ["package:daemon  install", "package:daemon-data  install", "unit:lab.service  restart"] {
        assert!(plan.contains(part) && output.contains(part), "{part}: {plan}{output}");
    }
    assert_ne!(life(), before);
    world.is_converged();
}

#[test]
fn a_package_is_held_at_its_version_answered_and_restored_by_apt_and_by_dnf() {
    let world = World::new();
    let host = world.host();
    let script =
        "#!/bin/sh\nset -e\n. /usr/share/debconf/confmodule\ndb_get daemon/kind || true\necho \"$RET\" > /srv/kind\n";
    host.write("/srv/postinst-daemon", script);
    for version in ["1", "2", "3"] {
        offer(host, "daemon", version, "amd64", "");
    }
    host.run("apt-get -q update && apt-get -qq install daemon=1").ok();
    let held = || host.run("apt-mark showhold; dpkg-query -Wf '${Version} ${db:Status-Status}' daemon").ok();
    // what an operator has installed and not held
    world.release(&format!("{DAEMON}version = \">=2\"\nhold = true\n"));
    assert!(host.run("kpull plan").stdout.contains("package:daemon  version 1 → at least 2, hold"));
    world.converges();
    assert_eq!(held(), "daemon\n3 installed");
    // drift, and a version that is changed in spite of the hold
    host.run("apt-mark unhold daemon").ok();
    assert!(host.run("kpull plan").stdout.contains("package:daemon  hold"));
    world.converges();
    world.release(&format!("{DAEMON}version = \"2\"\nhold = true\n"));
    world.converges();
    assert_eq!(held(), "daemon\n2 installed");
    // no version of a source is enough: rolled back, and held as before
    world.release(&format!("{DAEMON}version = \">=4\"\nhold = true\n"));
    let output = host.run("kpull apply").fails(3);
    assert!(
        output.contains("version 3 → at least 4") && output.contains("a source of this host must have"),
        "{output}"
    );
    assert!(held().starts_with("daemon\n"), "{}", held());
    world.release("");
    world.converges();
    assert!(!held().contains("daemon"), "{}", held());

    // what kpull has installed is removed in spite of its hold
    host.run("apt-get -qq purge daemon && rm /srv/kind").ok();
    world.release(&format!("{DAEMON}hold = true\ndebconf = {{ \"daemon/kind\" = \"select Local only\" }}\n"));
    world.converges();
    assert_eq!(host.run("cat /srv/kind").ok(), "Local only");
    assert_eq!(held(), "daemon\n3 installed");
    world.release("");
    assert!(host.run("kpull plan").stdout.contains("purge 3"), "{}", host.run("kpull plan"));
    world.converges();
    assert_eq!(left(host), "");

    // dnf, with its plugin
    for version in ["1", "2"] {
        host.write("/srv/daemon.spec", SPEC.replace("Version: 1", &format!("Version: {version}")));
        host.run("rpmbuild --quiet -bb --define '_topdir /tmp/rpm' --define '_rpmdir /srv/rpm' /srv/daemon.spec").ok();
    }
    host.run("cd /srv/rpm && rm -r repodata && createrepo_c --quiet . && dnf -q clean all").ok();
    let rpm = |more: &str| format!("[[package]]\nname = \"daemon-rpm\"\nmanager = \"dnf\"\n{more}\n");
    world.release(&rpm("version = \"1\"\nhold = true"));
    let output = host.run("kpull apply").fails(3);
    assert!(output.contains("can't hold daemon-rpm") && output.contains("python3-dnf-plugin-versionlock"), "{output}");
    versionlock(host);
    host.run("kpull apply --retry").ok();
    world.is_converged();
    let locked = || host.run("rpm -q daemon-rpm; grep -v '^#' /etc/dnf/plugins/versionlock.list | grep .; true").ok();
    assert_eq!(locked(), "daemon-rpm-1-1.noarch\ndaemon-rpm-0:1-1.*");
    host.run("dnf -q -y upgrade").ok();
    assert_eq!(locked(), "daemon-rpm-1-1.noarch\ndaemon-rpm-0:1-1.*", "it is held");
    world.release(&rpm("version = \">=2\"\nhold = true"));
    world.converges();
    assert_eq!(locked(), "daemon-rpm-2-1.noarch\ndaemon-rpm-0:2-1.*");
    world.release(&rpm("hold = false"));
    world.converges();
    assert_eq!(locked(), "daemon-rpm-2-1.noarch");
    world.release("");
    world.converges();
    assert!(locked().contains("is not installed"), "{}", locked());
}

/// Gives the host dnf's plugin versionlock, from Debian's package of it, which is downloaded once.
fn versionlock(host: Host<'_>) {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
    let dir = cache.join("kpull/lab/dnf-plugins-core");
    std::fs::create_dir_all(&dir).unwrap();
    let fetch = "ls *.deb 2>/dev/null || apt-get -qq download dnf-plugins-core; dpkg-deb -x *.deb x";
    Output::of(Command::new("sh").args(["-euc", fetch]).current_dir(&dir)).ok();
    let (python, plugins) = ("/usr/lib/python3/dist-packages", "/etc/dnf/plugins");
    for file in [
        format!("{python}/dnf-plugins/versionlock.py"),
        format!("{python}/dnfpluginscore/__init__.py"),
        format!("{plugins}/versionlock.conf"),
        format!("{plugins}/versionlock.list"),
    ] {
        host.copy(dir.join(format!("x{file}")), &file, 0o644);
    }
}

#[test]
fn a_repository_and_its_key_precede_its_packages_and_other_signatures_are_refused() {
    let mirror = Mirror::new();
    let (world, host) = (&mirror.world, mirror.world.host());
    for name in ["right", "wrong"] {
        host.run(&format!("gpg -q --batch --passphrase '' --quick-gen-key {name}@lab && gpg --armor --export {name}@lab > /srv/{name}.asc")).ok();
    }
    mirror.offer("daemon", "1", Some("right@lab"));
    host.write("/srv/daemon.spec", SPEC);
    host.run(
        "rpmbuild --quiet -bb --define '_topdir /tmp/rpm' --define '_rpmdir /srv/mirror/rpm' /srv/daemon.spec &&
        rpmsign --define '__gpg /usr/bin/gpg' --define '_gpg_name right@lab' --define '__gpg_sign_cmd_extra_args --batch --pinentry-mode loopback --passphrase \"\"' \
        --addsign /srv/mirror/rpm/noarch/*.rpm && createrepo_c --quiet /srv/mirror/rpm",
    )
    .ok();
    let apt = |key: &str| {
        let key = host.run(&format!("cat /srv/{key}.asc")).ok();
        format!(
            "{DAEMON}[[repository]]\nname = \"lab\"\nformat = \"apt\"\nurls = [\"http://{FABRIC}/\"]\nsuites = [\"./\"]\npriority = 990\nkey_text = '''\n{key}\n'''\n"
        )
    };
    let dnf = |key: &str| {
        let key = host.run(&format!("cat /srv/{key}.asc")).ok();
        format!(
            "[[package]]\nname = \"daemon-rpm\"\nmanager = \"dnf\"\n[[repository]]\nname = \"more\"\nformat = \"dnf\"\nurls = [\"http://{FABRIC}/rpm/\"]\nkey_text = '''\n{key}\n'''\n"
        )
    };
    world.release("");
    world.converges();
    for role in [apt("wrong"), format!("{}{}", apt("right"), dnf("wrong"))] {
        world.release(&role);
        host.run("kpull apply").fails(3);
        assert!(mirror.is_blamed());
        host.run("test ! -e /etc/apt/sources.list.d/lab.sources -a ! -e /etc/yum.repos.d/more.repo").ok();
    }

    world.release(&format!("{}{}", apt("right"), dnf("right")));
    world.converges();
    assert_eq!(host.run("cat /usr/share/daemon/version-amd64 && rpm -q daemon-rpm").ok(), "1\ndaemon-rpm-1-1.noarch");
    assert!(host.run("apt-cache policy daemon").ok().contains(" 990"));
    // drift is seen and corrected
    host.run("echo trusted=yes >> /etc/apt/sources.list.d/lab.sources && rm /etc/yum.repos.d/more.repo").ok();
    world.converges();
    host.run("! grep trusted /etc/apt/sources.list.d/lab.sources && test -e /etc/yum.repos.d/more.repo").ok();
    world.release("");
    world.converges();
    assert_eq!(left(host), "");
    host.run("test ! -e /etc/apt/sources.list.d/lab.sources -a ! -e /etc/yum.repos.d/more.repo -a ! -e /etc/apt/preferences.d/lab.pref").ok();
}
