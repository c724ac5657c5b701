//! Kernels from 3.10 on: what they lack is done without.

use std::fs;

use kpull::net::server::{Answer, Received, Server};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, open, openat2};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use serde_json::json;

use crate::support::alone::World;
use crate::support::kernel::{Version, in_container_of, like};
use crate::support::lab;
use crate::support::site::{Output, Site, Tree, command};

/// What a tree is made of at first: each way of writing, links on the way, and a directory to be removed with all that is in it.
const OLD: &str = r#"
vars.names = [1, 2, 3, 4, 5, 6]
[[file]]
for_each = "names"
path = "/srv/data/{{ item }}"
content = "{{ item }}\n"
[[file]]
path = "/link/through"
content = "by a link\n"
[[directory]]
path = "/srv/empty"
mode = "0750"
[[symlink]]
path = "/etc/link"
target = "hosts"
[[block]]
path = "/etc/hosts"
name = "cluster"
content = "10.0.0.1 h1"
[[user]]
name = "app"
[[unit]]
name = "web.service"
enable = true
content = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
"#;

/// The desired state.
const NEW: &str = r#"
[[file]]
path = "/srv/data/1"
content = "new\n"
[[absent]]
path = "/srv/old"
recursive = true
"#;

/// The kernel lacks the named system calls; otherwise the other tests show nothing.
#[test]
fn the_older_kernel_lacks_newer_system_calls() {
    let answers = |version| {
        like(version, || {
            let nameless = open("/tmp", OFlag::O_TMPFILE | OFlag::O_RDWR, Mode::S_IRWXU).err();
            let memory = memfd_create(c"x", MFdFlags::empty()).err();
            let way = openat2(nix::fcntl::AT_FDCWD, "/", OpenHow::new().flags(OFlag::O_PATH)).err();
            (nameless, memory, way)
        })
    };
    assert_eq!(answers((3, 10)), (Some(Errno::EISDIR), Some(Errno::ENOSYS), Some(Errno::ENOSYS)));
    assert_eq!(answers((4, 18)), (None, None, Some(Errno::ENOSYS)));
    assert_eq!(answers((5, 14)), (None, None, None));
}

#[test]
fn on_linux_3_10_trees_are_created_changed_and_undone() {
    all_works_on((3, 10));
}

#[test]
fn on_linux_4_18_trees_are_created_changed_and_undone() {
    all_works_on((4, 18));
}

#[test]
fn on_linux_5_4_trees_are_created_changed_and_undone() {
    all_works_on((5, 4));
}

#[test]
fn on_linux_5_14_trees_are_created_changed_and_undone() {
    all_works_on((5, 14));
}

#[test]
fn under_a_filter_of_calls_newer_than_5_4_trees_are_created_changed_and_undone() {
    all_works(&|start| in_container_of((5, 4), start));
}

/// Starts the program on a kernel.
type On = dyn Fn(&(dyn Fn() -> Output + Sync)) -> Output;

fn all_works_on(version: Version) {
    all_works(&move |start| like(version, start));
}

fn all_works(on: &On) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("demo");
    let demo = on(&|| Output::of(command(&["demo", "--dir", dir.to_str().unwrap()]).output().unwrap()));
    assert!(demo.exits(0).stdout.contains("nothing"), "the demo ends with nothing to do");
    let old = a_tree_that_changes(|tree, arguments| on(&|| tree.kpull(arguments)));
    let new = a_tree_that_changes(Tree::kpull);
    assert_eq!(old, new, "every kernel makes the same of it");
}

/// Creates a tree, changes it and rolls back, with a kpull that `run` runs on it; returns the state after each step.
pub fn a_tree_that_changes(run: impl Fn(&Tree, &str) -> Output) -> Vec<crate::support::site::Snapshot> {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n").role("base", OLD);
    let tree = site.sign().enroll();
    let run = |arguments: &str| run(&tree, arguments);
    prepare(&tree);
    let mut states = Vec::new();
    run("apply").exits(0);
    states.push(tree.snapshot());
    run("plan").exits(0);

    tree.write("srv/data/3", "drift\n");
    run("plan").fails(2, "file:/srv/data/3");
    assert_eq!(run("apply --json").exits(0).changed(), ["file:/srv/data/3"]);

    site.role("base", NEW).sign();
    run("apply").exits(0);
    assert!(!tree.at("srv/old").exists() && !tree.at("srv/data/2").exists());
    states.push(tree.snapshot());

    run("rollback").exits(0);
    states.push(tree.snapshot());
    states
}

fn prepare(tree: &Tree) {
    tree.write("etc/hosts", "127.0.0.1 localhost\n").write("real/x", "x\n");
    tree.write("srv/old/deep/er/file", "x\n").write("srv/old/file", "x\n");
    std::os::unix::fs::symlink("/real", tree.at("link")).unwrap();
    std::os::unix::fs::symlink("../../real", tree.at("srv/old/out")).unwrap();
    fs::create_dir(tree.at("srv/old/empty")).unwrap();
}

/// A tree whose release comes over HTTP.
fn served(tables: &str) -> (Site, Tree, Server) {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n").role("base", NEW).sign();
    let dir = site.path().to_owned();
    let server =
        Server::plain(move |request: &Received| match fs::read(dir.join(request.path.trim_start_matches('/'))) {
            Ok(content) => Answer::new(200, content),
            Err(_) => Answer::new(404, ""),
        })
        .unwrap();
    let tree = Tree::new();
    tree.configure(&format!("[[source]]\nhttp = \"{}\"\nretries = 0\n{tables}", server.url("/")));
    (site, tree, server)
}

#[test]
fn without_landlock_a_host_reports_what_is_missing_and_continues() {
    let (_site, tree, _server) = served("");
    let on = |version, command: &str| like(version, || tree.kpull(command));
    let words = "has no Landlock: the process that talks to the network can read all files that every user can read";
    on((5, 4), "apply").exits(0);
    let output = on((5, 4), "status").exits(0);
    assert!(output.stdout.contains(words), "{output:?}");
    assert_eq!(on((5, 4), "status --json").exits(0).json()[0]["sandbox_lacks"], json!(["landlock"]));
    let output = on((5, 14), "status").exits(0);
    assert!(!output.stdout.contains("Landlock"), "{output:?}");
    assert_eq!(on((5, 14), "status --json").exits(0).json()[0]["sandbox_lacks"], json!([]));
}

#[test]
fn a_host_that_requires_landlock_fetches_nothing_without_it_and_keeps_its_release() {
    let (site, tree, server) = served("[sandbox]\nrequire = [\"landlock\", \"user\"]\n");
    let on = |version, command: &str| like(version, || tree.kpull(command));
    let asked = || server.seen().len();
    let error = on((5, 4), "apply --json").exits(1).error();
    assert_eq!((error["code"].as_str(), asked()), (Some("net.sandbox"), 0));
    let text = error["error"].as_str().unwrap();
    let words =
        "kpull fetches nothing: `require` under [sandbox] in kpull.toml names \"landlock\": this host's kernel, Linux ";
    assert!(text.starts_with(words) && text.ends_with("has no Landlock"), "{text}");
    assert!(error["help"].as_str().unwrap().starts_with("boot Linux 5.13 or later with Landlock enabled"), "{error}");

    on((5, 14), "apply").exits(0);
    let before = asked();
    assert!(before > 0);
    tree.write("srv/data/1", "drift\n");
    site.role("base", &NEW.replace("new", "newer")).sign();
    on((5, 4), "apply").fails(1, "has no Landlock");
    assert_eq!((tree.read("srv/data/1").as_str(), asked()), ("new\n", before), "drift is corrected all the same");
    let output = on((5, 4), "status").exits(0);
    assert!(output.stdout.contains("has no Landlock, and [sandbox] requires it"), "{output:?}");
    on((5, 14), "apply").exits(0);
    assert_eq!(tree.read("srv/data/1"), "newer\n");
}

#[test]
fn a_requirement_that_the_sandbox_can_not_meet_is_a_configuration_error() {
    for (source, require, expected) in [
        ("dir = \"/x\"", "selinux", "unknown variant `selinux`, expected `landlock` or `user`"),
        ("git = \"ssh://git@h/x\"", "landlock", "git over ssh does not run in the sandbox"),
    ] {
        let tree = Tree::new();
        tree.configure(&format!("[[source]]\n{source}\n[sandbox]\nrequire = [\"{require}\"]\n"));
        let output = tree.kpull("status").exits(1);
        assert!(output.stderr.contains(expected) && output.stderr.contains("kpull.toml:"), "{output:?}");
    }
}

/// Every kind of request and report of a host, with a server of its own for the release and an artifact.
const LIVE: &str = r#"
[[user]]
name = "app"
[[package]]
name = "hello"
[[artifact]]
name = "tool"
install = { "bin/tool" = "/opt/tool" }
[[file]]
path = "/etc/app.conf"
content = "VALUE\n"
owner = "app"
[[sysctl]]
name = "net.ipv4.ip_forward"
value = 1
[[command]]
run = ["sh", "-c", "cp /etc/app.conf /srv/copied"]
unless = ["cmp", "-s", "/etc/app.conf", "/srv/copied"]
[[absent]]
path = "/srv/old"
recursive = true
[[firewall]]
zone = "public"
ports = ["8080/tcp"]
[[secret]]
name = "db"
credential = "db"
unit = "app.service"
[[unit]]
name = "app.service"
content = """
[Service]
ExecStart=/bin/sh -c 'cat "$CREDENTIALS_DIRECTORY/db" > /run/app && sleep infinity'
[Install]
WantedBy=multi-user.target
"""
enable = true
restart_when = ["file:/etc/app.conf", "secret:db"]
[[probe]]
name = "app"
command = ["/opt/tool"]
within = "20s"
"#;

const PREPARE: &str = r#"
set -e
mkdir -p /srv/www/tool/bin /srv/old/deep/er
touch /srv/old/deep/er/file
printf '#!/bin/sh\ncat /srv/answer\n' > /srv/www/tool/bin/tool
chmod 755 /srv/www/tool/bin/tool
tar -czf /srv/www/tool.tar.gz -C /srv/www/tool bin
cat > /srv/site/artifacts.toml <<END
[tool]
version = "1"
[tool.amd64]
url = "http://127.0.0.1:8000/www/tool.tar.gz"
sha256 = "$(sha256sum /srv/www/tool.tar.gz | cut -d' ' -f1)"
size = "unknown"
END
mkdir -p /etc/ssh && ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
printf 'name = "lab"\n[secrets]\nrecipients = ["%s"]\n' "$(cat /root/key.pub)" > /srv/site/site.toml
printf 'recipient = "%s"\n' "$(cat /etc/ssh/ssh_host_ed25519_key.pub)" >> /srv/site/host_vars/h1.toml
cd /srv/site && printf %s a-secret-of-the-lab | kpull secret set db
systemd-run -q --unit=web python3 -m http.server --bind 127.0.0.1 --directory /srv 8000
timeout 20 sh -c 'until curl -fs http://127.0.0.1:8000/ >/dev/null; do sleep .1; done'
cat > /etc/kpull/kpull.toml <<END
host = "h1"
[trust]
site = "lab"
allowed_signers = "allowed_signers"
[[source]]
http = "http://127.0.0.1:8000/site"
[[hook]]
on = ["change", "back"]
command = ["sh", "-c", "cat >> /srv/told; echo >> /srv/told"]
END
touch /srv/answer
"#;

#[test]
fn on_a_real_host_with_linux_3_10_everything_is_created_corrected_and_undone() {
    let world = World::new();
    let host = world.host();
    let run = |command: &str| like((3, 10), || host.run(command));
    let first = LIVE.replace("VALUE", "first");
    host.write("/srv/site/roles/app/role.toml", format!("summary = \"For a test\"\n{first}"));
    host.run(PREPARE).ok();
    world.release(&first);

    let plan = run("kpull plan");
    assert_eq!(plan.code(), 2, "{plan}");
    // a file system is mounted below a directory that must be removed
    host.run("mkdir /srv/mine && touch /srv/mine/kept && mount --bind /srv/mine /srv/old/deep/er").ok();
    let refused = run("NO_COLOR=1 kpull apply");
    assert_eq!(refused.code(), 1, "{refused}");
    assert!(refused.stderr.contains("can't remove /srv/old/deep/er: a file system is mounted there"), "{refused}");
    host.run("test -e /srv/mine/kept && umount /srv/old/deep/er && test -e /srv/old/deep/er/file").ok();

    run("kpull apply").ok();
    assert_eq!(host.run("ls -d /srv/old").code(), 2, "it is removed");
    assert_eq!(
        host.run("cat /run/app /srv/copied; stat -c %U /etc/app.conf; hello").ok(),
        "a-secret-of-the-labfirst\napp\nHello, world!"
    );
    assert_eq!(host.run("firewall-cmd --list-ports; sysctl -n net.ipv4.ip_forward").ok(), "8080/tcp\n1");
    host.run("! grep -r a-secret-of-the-lab /etc /srv /var/lib/kpull").ok();
    assert!(host.run("cat /srv/told").ok().contains("\"file:/etc/app.conf\""), "a hook gets its input");
    assert!(run("kpull apply").ok().contains("nothing to do"));
    assert_eq!(run("kpull verify").code(), 0);
    assert!(run("kpull status").ok().contains("no Landlock"));

    for drift in [
        "systemctl stop app.service",
        "echo drift > /etc/app.conf",
        "firewall-cmd -q --remove-port=8080/tcp",
        "sysctl -qw net.ipv4.ip_forward=0",
        "rm /opt/tool",
        "dpkg --purge hello",
        "rm /srv/copied",
    ] {
        host.run(drift).ok();
        let plan = run("kpull plan");
        assert_eq!(plan.code(), 2, "{drift}: {plan}");
        run("kpull apply").ok();
        assert_eq!(run("kpull plan").code(), 0, "{drift}");
    }

    // the probe fails, so the host rolls back automatically
    world.release(&LIVE.replace("VALUE", "second").replace("[\"/opt/tool\"]", "[\"false\"]").replace("20s", "1s"));
    assert_eq!(run("kpull apply").code(), 3);
    assert_eq!(host.run("cat /etc/app.conf").ok(), "first");
    assert!(run("kpull apply").ok().contains("nothing to do"));

    // and with an empty role, all of it is removed
    world.release("");
    run("kpull apply --retry").ok();
    let left = host
        .run("ls -d /etc/app.conf /opt/tool /etc/systemd/system/app.service; firewall-cmd --list-ports; dpkg -s hello");
    assert_eq!(left.stdout.trim(), "", "{left}");
    lab::Output::ok(run("kpull plan"));
}
