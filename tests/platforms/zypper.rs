//! `[[package]]` on a host whose os-release says SUSE, with the real zypper, beside the apt and dnf of Debian.

use crate::support::alone::World;
use crate::support::sample;

const OS_RELEASE: &str = "ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\nVERSION_ID=\"15.6\"\n";
const REPO: &str = "[[file]]\npath = \"/etc/zypp/repos.d/lab.repo\"\n\
     content = \"[lab]\\nname=lab\\nbaseurl=dir:///srv/rpm\\nenabled=1\\ngpgcheck=0\\n\"\n";
const AWAY: &str = "[[file]]\npath = \"/etc/zypp/repos.d/away.repo\"\n\
     content = \"[away]\\nname=away\\nbaseurl=http://127.0.0.1:1/\\nenabled=1\\ngpgcheck=0\\n\"\n";

/// Makes packages in the repository that the host installs from; each is NAME VERSION [REQUIRES [CONFLICTS]], with - for none.
pub const OFFER: &str = r#"
set -eu
cd /srv/rpm
while read -r name version requires conflicts; do
    requires=${requires#-}
    cat > /tmp/made.spec <<SPEC
Name: $name
Version: $version
Release: 1
Summary: For a test
License: MIT
BuildArch: noarch
${requires:+Requires: $requires}
${conflicts:+Conflicts: $conflicts}
%description
For a test.
%install
mkdir -p %{buildroot}/usr/share/$name
echo $version > %{buildroot}/usr/share/$name/version
%files
/usr/share/$name
SPEC
    rpmbuild --quiet -bb --define '_topdir /tmp/rpm' --define '_rpmdir /srv/rpm' /tmp/made.spec
done
rm -r repodata
createrepo_c --quiet .
"#;

/// A host with zypper, which calls itself one of SUSE's.
fn world() -> World {
    let world = World::new();
    let host = world.host();
    host.install("zypper");
    // where SUSE's rpm has it; Debian's has one in each user's home
    host.write("/etc/rpm/macros", "%_dbpath /var/lib/rpm\n");
    host.write("/etc/os-release.new", OS_RELEASE);
    host.run("mv -T /etc/os-release.new /etc/os-release").ok();
    host.write("/srv/offer", OFFER);
    host.write(
        "/srv/packages",
        "daemon 1.0\ndaemon 2.0\nuser 1.0 daemon\nbroken 1.0 nobody-has-it\nagainst 1.0 - daemon\n",
    );
    host.run("bash /srv/offer < /srv/packages").ok();
    world
}

/// A package as a role has it.
fn package(name: &str, more: &str) -> String {
    format!("[[package]]\nname = {name:?}\n{more}\n")
}

/// What is installed of the packages that are offered.
fn installed(world: &World) -> String {
    world.host().run("rpm -qa --qf '%{NAME} %{VERSION}\\n' | sort").ok()
}

#[test]
fn zypper_installs_downgrades_and_removes_even_if_a_suse_host_has_apt() {
    let world = world();
    let host = world.host();
    // the repository and what comes from it in one release
    world.release(&format!("{REPO}{}{}", package("daemon", "version = \"1.0\""), package("user", "")));
    world.converges();
    assert_eq!(installed(&world), "daemon 1.0\nuser 1.0");
    world.release(&format!("{REPO}{}{}", package("daemon", "version = \"2.0-1\""), package("user", "")));
    world.converges();
    assert_eq!(installed(&world), "daemon 2.0\nuser 1.0");
    world.release(&format!("{REPO}{}{}", package("daemon", "version = \"0:1.0-1\""), package("user", "")));
    world.converges();
    assert_eq!(installed(&world), "daemon 1.0\nuser 1.0");

    // drift
    host.run("zypper --non-interactive remove user").ok();
    let plan = host.run("kpull plan");
    assert!(plan.code() == 2 && plan.stdout.contains("package:user  install"), "{plan}");
    world.converges();
    // what another package needs stays
    world.release(&format!("{REPO}{}{}", package("daemon", "state = \"absent\""), package("user", "")));
    let output = host.run("kpull apply").fails(3);
    assert!(output.contains("can't remove daemon: user would be removed too"), "{output}");
    // orphans are removed
    world.release(&format!("{REPO}{}", package("daemon", "")));
    world.converges();
    assert_eq!(installed(&world), "daemon 1.0");
    world.release(REPO);
    world.converges();
    assert_eq!(installed(&world), "");
}

#[test]
fn a_failure_of_zypper_is_reported_with_what_to_do() {
    let world = world();
    let host = world.host();
    world.release(REPO);
    world.converges();
    for (name, why, advice) in [
        ("nobody-has-it", "Package 'nobody-has-it' not found.", "check the name"),
        ("broken", "nothing provides nobody-has-it needed by broken", "by hand with the same arguments"),
    ] {
        world.release(&format!("{REPO}{}", package(name, "")));
        let output = host.run("kpull apply").fails(3);
        assert!(output.contains(&format!("can't install {name}")) && output.contains(why), "{output}");
        assert!(output.contains(advice), "{output}");
    }

    // nothing that is there is taken away for something else
    world.release(&format!("{REPO}{}", package("daemon", "")));
    world.converges();
    world.release(&format!("{REPO}{}{}", package("daemon", ""), package("against", "")));
    let output = host.run("kpull apply").fails(3);
    assert!(output.contains("conflicts with daemon"), "{output}");
    assert_eq!(installed(&world), "daemon 2.0");

    host.run("zypper --non-interactive addlock user").ok();
    world.release(&format!("{REPO}{}{}", package("daemon", ""), package("user", "")));
    let output = host.run("kpull apply").fails(3);
    assert!(output.contains("zypper removelock"), "{output}");
    host.run("zypper --non-interactive removelock user").ok();
    world.release(&format!("{REPO}{}{}", package("daemon", ""), package("user", "")));
    world.converges();

    // a source that can't be reached blames no release
    world.release(&format!("{REPO}{AWAY}{}", package("daemon", "")));
    world.converges();
    world.release(&format!("{REPO}{AWAY}{}{}", package("daemon", ""), package("nobody-has-it", "")));
    let output = host.run("kpull apply").fails(1);
    assert!(output.contains("Download (curl) error for 'http://127.0.0.1:1/"), "{output}");
    let status = host.run("kpull status").ok();
    assert!(!status.contains("and not"), "{status}");
}

#[test]
fn a_repository_of_zypper_is_trusted_by_its_key_alone_and_a_package_is_held() {
    let world = world();
    let host = world.host();
    for name in ["right", "wrong"] {
        host.run(&format!("gpg -q --batch --passphrase '' --quick-gen-key {name}@lab && gpg --armor --export {name}@lab > /srv/{name}.asc")).ok();
    }
    // libsolv refuses a database that has keys alone
    host.run("echo base 1.0 | bash /srv/offer && rpm -i /srv/rpm/noarch/base-1.0-1.noarch.rpm").ok();
    host.run("gpg -q --batch --pinentry-mode loopback --passphrase '' -u right@lab --armor --detach-sign /srv/rpm/repodata/repomd.xml").ok();
    let repository = |key: &str| {
        let key = host.run(&format!("cat /srv/{key}.asc")).ok();
        format!(
            "[[repository]]\nname = \"lab\"\nformat = \"zypper\"\nurls = [\"dir:///srv/rpm\"]\nkey_text = '''\n{key}\n'''\n"
        )
    };
    world.release("");
    world.converges();
    let version = |version: &str| package("daemon", &format!("version = {version:?}\nhold = true"));
    world.release(&format!("{}{}", repository("wrong"), version("1.0")));
    let output = host.run("kpull apply").fails(3);
    assert!(output.contains("Signature verification failed"), "{output}");
    assert!(!installed(&world).contains("daemon"), "{}", installed(&world));
    host.run("test ! -e /etc/zypp/repos.d/lab.repo -a ! -e /etc/pki/rpm-gpg/RPM-GPG-KEY-lab").ok();

    world.release(&format!("{}{}", repository("right"), version("1.0")));
    world.converges();
    assert_eq!(
        host.run("rpm -q daemon && grep solvable_name /etc/zypp/locks").ok(),
        "daemon-1.0-1.noarch\nsolvable_name: daemon"
    );
    // drift
    host.run("zypper --non-interactive removelock daemon && rm /etc/zypp/repos.d/lab.repo").ok();
    world.converges();
    world.release(&format!("{}{}", repository("right"), version(">=1.5")));
    world.converges();
    assert_eq!(
        host.run("rpm -q daemon && grep solvable_name /etc/zypp/locks").ok(),
        "daemon-2.0-1.noarch\nsolvable_name: daemon"
    );
    world.release("");
    world.converges();
    host.run("! rpm -q daemon && ! grep daemon /etc/zypp/locks && test ! -e /etc/zypp/repos.d/lab.repo").ok();
}

/// Moments at which everything of a run is killed, in tenths of a second.
const MOMENTS: std::ops::Range<usize> = 1..80;

/// The repository and the package that zypper or dnf has. The key stays in the database of rpm, as the manual says.
fn state(world: &World) -> String {
    let all = world.host().run(
        "cat /etc/zypp/repos.d/lab.repo /etc/yum.repos.d/lab.repo; cat /etc/pki/rpm-gpg/*; rpm -q daemon && rpm -V daemon
        cat /usr/share/daemon/version; grep solvable_name /etc/zypp/locks; find / -xdev -name '*kpull-new*' | grep -v ^/proc; rpm -qa | grep -v gpg-pubkey | sort",
    );
    all.stdout
}

#[test]
fn a_repository_of_zypper_or_dnf_is_finished_by_the_next_run_whenever_one_is_killed() {
    let world = world();
    let host = world.host();
    host.install("strace");
    // libsolv refuses a database that has keys alone
    host.run(
        "echo base 1.0 | bash /srv/offer && rpm -i /srv/rpm/noarch/base-1.0-1.noarch.rpm
        gpg -q --batch --passphrase '' --quick-gen-key lab@lab && gpg --armor --export lab@lab > /srv/lab.asc
        rpmsign --define '__gpg /usr/bin/gpg' --define '_gpg_name lab@lab' --define '__gpg_sign_cmd_extra_args --batch --pinentry-mode loopback --passphrase \"\"' --addsign /srv/rpm/noarch/*.rpm
        cd /srv/rpm && createrepo_c --quiet . && gpg -q --batch --pinentry-mode loopback --passphrase '' -u lab@lab --armor --detach-sign repodata/repomd.xml",
    )
    .ok();
    let key = host.run("cat /srv/lab.asc").ok();
    let mut cuts = [0, 0];
    for (format, url, more) in [("zypper", "dir", "hold = true"), ("dnf", "file", "manager = \"dnf\"")] {
        let role = |number: usize| {
            format!(
                "[[repository]]\nname = \"lab\"\nformat = \"{format}\"\ndescription = \"Lab {number}\"\nurls = [\"{url}:///srv/rpm\"]\n\
                 priority = 1{number}\nkey_text = '''\n{key}\n'''\n{}",
                package("daemon", &format!("version = \"{number}.0\"\n{more}"))
            )
        };
        world.release("");
        world.converges();
        let before = state(&world);
        let states = [1, 2].map(|number| {
            world.release(&role(number));
            world.converges();
            state(&world)
        });
        assert!(states[1].contains("daemon-2.0-1") && states[1].contains("Lab 2"), "{}", states[1]);
        let mut number = 1;
        let mut is_finished = |when: &str| {
            let run = host.run("kpull apply");
            assert_eq!(run.code(), 0, "{format}, {when}: {run}");
            world.is_converged();
            assert_eq!(state(&world), states[number - 1], "{format}, {when}");
            number = 3 - number;
            world.release(&role(number));
        };
        world.release(&role(1));
        // before it starts a program
        for when in sample::of(1..) {
            let strace = format!("strace -qq -o /dev/null -e trace=clone -e inject=clone:signal=KILL:when={when}");
            let has_ended = host.run(&format!("{strace} kpull apply")).code() == 0;
            is_finished(&format!("before clone {when}"));
            if has_ended {
                break;
            }
            cuts[0] += 1;
        }
        // with all programs that it has started
        for when in sample::of(MOMENTS) {
            let at = format!("{}.{}", when / 10, when % 10);
            let cut = host.run(&format!(
                "systemctl start --no-block kpull.service; sleep {at}; systemctl is-active kpull.service
                systemctl kill -s KILL kpull.service; while pgrep -x zypper; do sleep .1; done; systemctl reset-failed kpull.service"
            ));
            is_finished(&format!("after {at} s"));
            if !cut.stdout.starts_with("activating") {
                break;
            }
            cuts[1] += 1;
        }
        world.release("");
        world.converges();
        assert_eq!(state(&world), before, "restored");
    }
    println!("killed {} times before a program, {} times with its programs", cuts[0], cuts[1]);
    assert!(cuts.iter().all(|cuts| cuts * sample::one_in() > 10), "{cuts:?}");
}
