//! `module` of `[[package]]` with the real dnf 4: streams of a module in a repository of their own.

use crate::platforms::packages::zypper::OFFER;
use crate::support::alone::World;

/// Two streams of the module `daemon`, each with one version of the package.
const MODULES: &str = "stream() {
    printf '%s\\n' --- 'document: modulemd' 'version: 2' 'data:' '  name: daemon' \"  stream: \\\"$1\\\"\" '  version: 1' \
        \"  context: c0ffee0$1\" '  arch: x86_64' '  summary: For a test' '  description: For a test' \
        '  license: { module: [MIT] }' \"  artifacts: { rpms: [daemon-0:$1.0-1.noarch] }\" ...
}
(stream 1; stream 2) > /srv/modules.yaml && modifyrepo_c --mdtype=modules /srv/modules.yaml /srv/rpm/repodata";

/// What the role says of the package.
fn daemon(more: &str) -> String {
    format!("[[package]]\nname = \"daemon\"\nmanager = \"dnf\"\n{more}\n")
}

#[test]
fn a_stream_of_a_dnf_module_is_enabled_switched_rolled_back_and_reset() {
    let world = World::new();
    let host = world.host();
    host.write("/srv/offer", OFFER);
    host.run("printf 'daemon 1.0\\ndaemon 2.0\\nother 1.0\\n' | bash /srv/offer").ok();
    host.run(MODULES).ok();
    let installed = || host.run("rpm -q --qf '%{NAME} %{VERSION}\\n' daemon").stdout;
    let enabled = || host.run("dnf -q module list --enabled 2>/dev/null | grep -o '^daemon *[0-9]' | tr -s ' '").stdout;
    world.release("");
    world.converges();

    // no stream is the default, so dnf offers none of the packages
    world.release(&daemon(""));
    let message = host.run("kpull apply").fails(3);
    assert!(message.contains("Unable to find a match: daemon"), "{message}");

    world.release(&daemon("module = \"daemon:1\""));
    world.converges();
    assert_eq!((installed().trim(), enabled().trim()), ("daemon 1.0", "daemon 1"));
    // dnf leaves the file as kpull wrote it
    host.run("dnf -q -y install other && dnf -q -y upgrade").ok();
    world.is_converged();
    assert_eq!(installed().trim(), "daemon 1.0");

    // drift
    host.run("dnf -q -y module reset daemon").ok();
    let plan = host.run("kpull plan");
    assert!(plan.code() == 2 && plan.stdout.contains("package:/etc/dnf/modules.d/daemon.module"), "{plan}");
    world.converges();
    assert_eq!(enabled().trim(), "daemon 1");

    // another stream alone changes no package, as no upgrade does
    world.release(&daemon("module = \"daemon:2\""));
    world.converges();
    assert_eq!((installed().trim(), enabled().trim()), ("daemon 1.0", "daemon 2"));
    world.release(&daemon("module = \"daemon:2\"\nversion = \">=2\""));
    world.converges();
    assert_eq!((installed().trim(), enabled().trim()), ("daemon 2.0", "daemon 2"));
    world.release(&daemon("module = \"daemon:1\"\nversion = \"1.0\""));
    world.converges();
    assert_eq!((installed().trim(), enabled().trim()), ("daemon 1.0", "daemon 1"));

    // a stream that no repository has is a failure, and the host goes back
    world.release(&daemon("module = \"daemon:9\"\nversion = \">=2\""));
    let message = host.run("kpull apply").fails(3);
    assert!(message.contains("daemon"), "{message}");
    assert_eq!((installed().trim(), enabled().trim()), ("daemon 1.0", "daemon 1"));

    world.release("");
    world.converges();
    assert_eq!((enabled().trim(), host.run("rpm -q daemon").code()), ("", 1));
    host.run("test ! -e /etc/dnf/modules.d/daemon.module").ok();
}
