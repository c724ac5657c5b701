//! Containers as units, with Debian 13's podman and a registry that asks for credentials.

use crate::support::alone::World;
use crate::support::cookbook::recipes;
use crate::support::lab::{H1, Host, Lab, Suite};

/// Prepares the host: a registry at 127.0.0.1:5000 for `lab` with the password `secret`, and podman's settings for a lab.
const PREPARE: &str = r#"
set -eu
apt-get -qq -y --no-install-recommends install docker-registry
hash=$(perl -e 'print crypt("secret", q($2b$04$abcdefghijklmnopqrstuu))')
echo "lab:$hash" > /etc/docker/registry/users
cat > /etc/docker/registry/config.yml <<END
version: 0.1
http: { addr: 127.0.0.1:5000 }
storage: { filesystem: { rootdirectory: /var/lib/docker-registry } }
auth: { htpasswd: { realm: lab, path: /etc/docker/registry/users } }
END
systemctl restart docker-registry
mkdir -p /etc/containers/registries.conf.d
cat > /etc/containers/registries.conf.d/lab.conf <<END
[[registry]]
prefix = "registry.example.org"
location = "127.0.0.1:5000"
insecure = true
END
# the host's disk is an overlay, on which there can be no other
cat > /etc/containers/storage.conf <<END
[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
END
# root in a lab can't raise limits, and lacks controllers
mkdir /etc/containers/containers.conf.d
cat > /etc/containers/containers.conf.d/lab.conf <<END
[containers]
pids_limit = 0
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
END
"#;

/// Pushes the image `$1` of version `$2`, which it serves at port 8080, and prints its digest.
const PUSH: &str = r#"
set -eu
registry=http://lab:secret@127.0.0.1:5000/v2/$1
blob() { # FILE: prints the descriptor's digest and size
    digest=sha256:$(sha256sum "$1" | cut -d' ' -f1)
    at=$(curl -sf -X POST -D - -o /dev/null "$registry/blobs/uploads/" | tr -d '\r' | sed -n 's/^Location: //Ip')
    curl -sf -u lab:secret -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$1" "$at&digest=$digest"
    printf '"digest": "%s", "size": %s' "$digest" "$(stat -c %s "$1")"
}
layer=/srv/images/busybox.tar
serve='trap "exit 0" TERM; echo "$VERSION" > /www/index.html; [ "$VERSION" != broken ] || exit 1; httpd -f -p 8080 -h /www & wait'
jq -nc --arg serve "$serve" --arg env "VERSION=$2" --arg layer "sha256:$(sha256sum $layer | cut -d' ' -f1)" '{ architecture: "amd64",
    os: "linux", config: { Entrypoint: ["/bin/sh", "-c", $serve], Env: [$env, "PATH=/bin"] },
    rootfs: { type: "layers", diff_ids: [$layer] } }' > /tmp/config
type=application/vnd.oci.image
cat > /tmp/manifest <<END
{ "schemaVersion": 2, "mediaType": "$type.manifest.v1+json",
  "config": { "mediaType": "$type.config.v1+json", $(blob /tmp/config) },
  "layers": [{ "mediaType": "$type.layer.v1.tar", $(blob $layer) }] }
END
curl -sf -X PUT -H "Content-Type: $type.manifest.v1+json" --data-binary @/tmp/manifest "$registry/manifests/$2" > /dev/null
sha256sum /tmp/manifest | cut -d' ' -f1
"#;

/// A host with Debian 13 that podman can be installed on.
fn world() -> World {
    let world = World::on(Lab::of(Suite::Trixie, &[H1]));
    let host = world.host();
    host.offer("podman", &["podman", "aardvark-dns", "docker-registry"]);
    host.run(PREPARE).ok();
    world
}

/// The digest of a new image of this name and version.
fn push(host: Host<'_>, name: &str, version: &str) -> String {
    host.write("/srv/push", PUSH);
    host.run(&format!("bash /srv/push {name} {version}")).ok()
}

/// A role with one container; `more` are lines of its entry.
fn role(digest: &str, container: &str, more: &str) -> String {
    format!(
        r#"
[[package]]
name = "podman"
[[file]]
path = "/etc/web.env"
content = "A=1\n"
[[file]]
path = "/etc/registry.json"
mode = "0600"
content = '{{ "auths": {{ "127.0.0.1:5000": {{ "auth": "bGFiOnNlY3JldA==" }} }} }}'
[[unit]]
name = "web.container"
restart_when = ["file:/etc/web.env"]
{more}
content = """
[Container]
Image=registry.example.org/web:1@sha256:{digest}
EnvironmentFile=/etc/web.env
PublishPort=8080:8080
{container}

[Install]
WantedBy=multi-user.target
"""
[[probe]]
name = "web"
http = "http://192.168.1.11:8080/"
"#
    )
}

const AUTHFILE: &str = "authfile = \"/etc/registry.json\"";

/// What the container serves, once it does.
fn served(host: Host<'_>) -> String {
    host.run("curl -sf --retry 50 --retry-delay 0 --retry-max-time 10 --retry-connrefused http://192.168.1.11:8080/")
        .ok()
}

/// Which container runs: another one after a restart.
fn container(host: Host<'_>) -> String {
    host.run("podman ps -q --no-trunc; systemctl show -p InvocationID web.service").ok()
}

#[test]
fn a_container_is_replaced_only_by_one_whose_image_is_there() {
    let world = world();
    let host = world.host();
    let (one, two, broken) = (push(host, "web", "one"), push(host, "web", "two"), push(host, "web", "broken"));

    // without credentials, nothing is written
    world.release(&role(&one, "", ""));
    let refused = host.run("kpull apply");
    assert_ne!(refused.code(), 0, "{refused}");
    assert!(refused.stderr.contains("podman can't pull registry.example.org/web:1@sha256:"), "{refused}");
    host.run("test ! -e /etc/containers/systemd/web.container").ok();

    world.release(&role(&one, "", AUTHFILE));
    let plan = host.run("kpull plan");
    assert!(plan.stdout.contains("pull registry.example.org/web:1@sha256:"), "{plan}");
    world.converges();
    assert_eq!(served(host), "one");
    let first = container(host);
    assert!(host.run("kpull apply").ok().contains("nothing to do"));
    assert_eq!(container(host), first);

    // another image, and a file that it watches
    world.release(&role(&two, "", AUTHFILE));
    world.converges();
    assert_eq!(served(host), "two");
    let second = container(host);
    world.release(&role(&two, "", AUTHFILE).replace("A=1", "A=2"));
    world.converges();
    assert_ne!(container(host), second, "it watches the file");
    let good = container(host);

    // no such image, and a key that podman does not know: the container stays
    let none = "0".repeat(64);
    for (release, words) in [
        (role(&none, "", AUTHFILE), "manifest unknown"),
        (
            role(&one, "Nonsense=1", AUTHFILE),
            "unsupported key 'Nonsense' in group 'Container' in /etc/containers/systemd/web.container",
        ),
        (role(&one, "Network=missing.network", AUTHFILE), "missing.network"),
    ] {
        world.release(&release.replace("A=1", "A=2"));
        let run = host.run("kpull apply");
        assert_ne!(run.code(), 0, "{run}");
        assert!(run.stderr.contains(words) || run.stdout.contains(words), "{words}: {run}");
        assert_eq!(container(host), good, "{words}");
    }

    // one that ends at once: the former one runs again
    world.release(&role(&broken, "", AUTHFILE).replace("A=1", "A=2"));
    host.run("kpull apply").fails(3);
    assert_eq!(served(host), "two");

    // drift
    for drift in [
        "systemctl stop web.service",
        "podman rm -f -t 0 systemd-web",
        "echo >> /etc/containers/systemd/web.container",
        "rm /etc/containers/systemd/web.container && systemctl daemon-reload",
        "systemctl stop web.service && podman rmi -f -a",
    ] {
        world.release(&role(&two, "", AUTHFILE).replace("A=1", "A=2"));
        world.converges();
        host.run(drift).ok();
        let plan = host.run("kpull plan");
        assert_eq!(plan.code(), 2, "{drift}: {plan}");
        world.converges();
        assert_eq!(served(host), "two", "{drift}");
    }

    // killed in the middle
    for (at, digest) in [(0.3, &one), (0.6, &two), (1.0, &one), (1.5, &two), (2.2, &one)] {
        world.release(&role(digest, "", AUTHFILE));
        host.run(&format!("timeout -s KILL {at} kpull apply; true")).ok();
    }
    world.converges();
    assert_eq!(served(host), "one");

    host.run("sync").ok();
    host.crash();
    host.boot();
    assert_eq!(served(host), "one", "it starts at boot");
    world.is_converged();

    world.release("");
    world.converges();
    assert_eq!(
        host.run("systemctl is-active web.service; podman ps -aq; ls /etc/containers/systemd").stdout,
        "inactive\n"
    );
}

#[test]
fn the_service_of_kpull_pulls_images_and_ends_a_pull_that_hangs() {
    let world = world();
    let host = world.host();
    // the driver of most hosts, which tests what the kernel can do; it does not work on the overlay that is the host's disk
    host.run("mkdir -p /var/lib/containers && mount -t tmpfs tmpfs /var/lib/containers").ok();
    host.run("sed -i s/vfs/overlay/ /etc/containers/storage.conf").ok();
    let applies = || host.run("systemctl start kpull.service || { journalctl -u kpull.service -o cat -n 40; exit 1; }");
    let (one, two) = (push(host, "web", "one"), push(host, "web", "two"));
    world.release(&role(&one, "", AUTHFILE));
    applies().ok();
    assert_eq!(served(host), "one");
    let shifting = host.run(r#"podman info -f '{{index .Store.GraphStatus "Supports shifting"}}'"#);
    assert_eq!(shifting.ok(), "true", "podman records until the next boot what it could not do");

    // this registry accepts connections, and answers none
    host.run("systemd-run -q socat TCP-LISTEN:5001,fork EXEC:'sleep 600'").ok();
    let silent = "[[registry]]\nprefix = \"silent.example.org\"\nlocation = \"127.0.0.1:5001\"\ninsecure = true\n";
    host.write("/etc/containers/registries.conf.d/silent.conf", silent);
    let first = container(host);
    let limit = format!("{AUTHFILE}\npull_within = \"3s\"");
    world.release(&role(&two, "", &limit).replace("registry.example.org", "silent.example.org"));
    let run = applies();
    assert_ne!(run.code(), 0, "{run}");
    assert_eq!(host.run("systemctl show -p ExecMainStatus --value kpull.service").ok(), "1");
    for part in
        ["podman can't pull silent.example.org/web:1", "it took longer than 3s and was terminated", "set `pull_within`"]
    {
        assert!(run.stdout.contains(part), "{part}: {run}");
    }
    host.run("! pgrep -x podman").ok();

    // the same with one that is not there: no release is to blame
    host.run("systemctl stop docker-registry").ok();
    world.release(&role(&two, "", &limit));
    host.run("kpull apply").fails(1);
    assert_eq!(container(host), first);
    host.run("systemctl start docker-registry").ok();
    applies().ok();
    assert_eq!(served(host), "two");
    world.is_converged();

    // several that hang, each for ten minutes at most, leave time for what does not need them
    host.write("/etc/systemd/system/kpull.service.d/limit.conf", "[Service]\nTimeoutStartSec=40\n");
    let image = format!("registry.example.org/more@sha256:{}", push(host, "more", "one"));
    let more =
        format!("[[unit]]\nname = \"more.container\"\n{AUTHFILE}\ncontent = \"[Container]\\nImage={image}\\n\"\n");
    let rest = "[[unit]]\nname = \"rest.service\"\nstate = \"running\"\ncontent = \"[Service]\\nExecStart=sleep infinity\\n\"\n";
    world.release(&format!("{}{more}{rest}", role(&two, "", AUTHFILE)));
    world.converges();
    let location =
        |port: u16| format!("sed -i 's/127.0.0.1:.*/127.0.0.1:{port}\"/' /etc/containers/registries.conf.d/lab.conf");
    host.run(&format!("systemctl daemon-reload; systemctl stop web rest; podman rmi -f -a; {}", location(5001))).ok();
    let run = applies();
    assert_ne!(run.code(), 0, "{run}");
    assert_eq!(host.run("systemctl show -p Result -p ExecMainStatus --value kpull.service").ok(), "exit-code\n1");
    for part in ["can't pull registry.example.org/web:1", "it took longer than", "this run downloads nothing more"] {
        assert!(run.stdout.contains(part), "{part}: {run}");
    }
    assert!(run.stdout.contains("kpull.service has used 50 % of its 40s"), "{run}");
    host.run("systemctl is-active rest.service && ! pgrep -x podman").ok();
    host.run(&location(5000)).ok();
    applies().ok();
    assert_eq!(served(host), "two");
    world.is_converged();
}

#[test]
fn a_file_names_the_image_and_a_drop_in_changes_a_packaged_container() {
    let world = world();
    let host = world.host();
    let (one, two) = (push(host, "web", "one"), push(host, "web", "two"));
    let named = |digest: &str, more: &str| {
        let image = format!("registry.example.org/web:1@sha256:{digest}");
        let file = format!("[Image]\\nImage={image}\\nAuthFile=/etc/registry.json\\n");
        let unit = format!("[[unit]]\nname = \"web.image\"\n{AUTHFILE}\ncontent = \"{file}\"\n");
        role(digest, "", "").replace(&image, "web.image") + &unit + more
    };
    for (digest, version) in [(&one, "one"), (&two, "two")] {
        world.release(&named(digest, ""));
        world.converges();
        assert_eq!(served(host), version);
    }
    // without its image, the container stays as it is
    let before = container(host);
    world.release(&named(&"0".repeat(64), ""));
    let words = host.run("kpull apply").fails(3);
    assert!(words.contains("podman can't pull"), "{words}");
    assert_eq!(container(host), before);

    let package = format!("[Container]\nImage=registry.example.org/web@sha256:{one}\nPublishPort=8081:8080\n");
    host.write("/usr/share/containers/systemd/pkg.container", package);
    let dropin = |value: &str| {
        format!(
            r#"
[[file]]
path = "/etc/containers/systemd/pkg.container.d/10-site.conf"
content = "[Container]\nEnvironment=VERSION={value}\n"
[[unit]]
name = "pkg.service"
state = "running"
restart_when = ["file:/etc/containers/systemd/pkg.container.d/10-site.conf"]
"#
        )
    };
    for value in ["three", "four"] {
        world.release(&named(&two, &dropin(value)));
        world.converges();
        let page =
            "curl -sf --retry 50 --retry-delay 0 --retry-max-time 10 --retry-connrefused http://192.168.1.11:8081/";
        assert_eq!(host.run(page).ok(), value);
    }
}

#[test]
fn a_former_container_of_the_host_is_restored() {
    let world = world();
    let host = world.host();
    let (one, two) = (push(host, "web", "one"), push(host, "web", "two"));
    world.release("[[package]]\nname = \"podman\"\n");
    world.converges();
    host.run("echo secret | podman login --tls-verify=false -u lab --password-stdin 127.0.0.1:5000").ok();
    let text = format!("[Container]\nImage=registry.example.org/web@sha256:{one}\nPublishPort=8080:8080\n");
    host.write("/etc/containers/systemd/web.container", &text);
    host.run("systemctl daemon-reload && systemctl start web.service").ok();
    assert_eq!(served(host), "one");
    world.release(&role(&two, "", AUTHFILE));
    world.converges();
    assert_eq!(served(host), "two");
    world.release("[[package]]\nname = \"podman\"\n");
    world.converges();
    assert_eq!(served(host), "one");
    assert_eq!(host.run("cat /etc/containers/systemd/web.container").ok(), text.trim_end());
}

#[test]
fn the_recipes_of_containers_work_and_are_removed_again() {
    let world = world();
    let host = world.host();
    host.run("mkdir -p /root/.config/containers").ok();
    host.write(
        "/root/.config/containers/auth.json",
        r#"{ "auths": { "127.0.0.1:5000": { "auth": "bGFiOnNlY3JldA==" } } }"#,
    );
    let titles = ["A container as a service", "Several containers instead of docker-compose"];
    for recipe in recipes().into_iter().filter(|recipe| titles.contains(&recipe.title.as_str())) {
        let mut text = recipe.role.replacen("summary = ", "# ", 1);
        for name in ["web", "db", "shop"] {
            let digest = push(host, name, name);
            let (before, zeros) = (format!("example.org/{name}:"), "0".repeat(64));
            if let Some((head, rest)) = text.split_once(&before) {
                text = format!("{head}{before}{}", rest.replacen(&zeros, &digest, 1));
            }
        }
        world.release(&text);
        world.converges();
        if recipe.title == titles[0] {
            assert_eq!(served(host), "web");
            host.run("test -s $(podman volume inspect -f '{{.Mountpoint}}' systemd-web)/index.html").ok();
        } else {
            let asked = "podman exec shop wget -qO- http://shop-db:8080/; curl -sf http://192.168.1.11:8081/";
            assert_eq!(host.run(asked).ok(), "db\nshop");
        }
        world.release("");
        world.converges();
        assert_eq!(host.run("podman ps -aq; ls /etc/containers/systemd; systemctl list-units -q --failed").stdout, "");
    }
}
