//! Files that a program must accept, on a real host: what it refuses never takes effect.

use crate::support::alone::World;

/// An include of sudo, which checks it itself, and a service that reads its configuration.
fn role(rule: &str, listen: &str) -> String {
    format!(
        r#"
[[file]]
path = "/etc/sudoers.d/50-admins"
mode = "0440"
content = "daemon ALL=(root) NOPASSWD: {rule}\n"
validate = ["visudo", "-cf", "%s"]
[[file]]
path = "/etc/haproxy/haproxy.cfg"
content = """
defaults
    mode http
    timeout client 5s
    timeout server 5s
    timeout connect 5s
frontend web
    bind 127.0.0.1:{listen}
    http-request return status 200 content-type text/plain string "{listen}"
"""
validate = ["haproxy", "-c", "-f", "%s"]
[[unit]]
name = "haproxy.service"
enable = true
reload_when = ["file:/etc/haproxy/haproxy.cfg"]
"#
    )
}

#[test]
fn a_file_that_its_program_refuses_never_replaces_the_one_in_use() {
    let world = World::new();
    let host = world.host();
    let serves = |port: &str| {
        host.run(&format!(
            "runuser -u daemon -- sudo -n /usr/bin/id -u && curl -sS --retry 20 --retry-connrefused 127.0.0.1:{port}"
        ))
        .ok()
    };
    world.release(&role("/usr/bin/id", "8081"));
    world.converges();
    assert_eq!(serves("8081"), "0\n8081");
    let files = "stat -c '%i %n' /etc/sudoers.d/50-admins /etc/haproxy/haproxy.cfg; ls -A /etc/sudoers.d /etc/haproxy";
    let before = host.run(files).ok();

    world.release(&role("/usr/bin/id, , ,", "8082"));
    let run = host.run("kpull apply --json");
    assert_eq!(run.code(), 3, "{run}");
    for words in ["visudo refuses the new /etc/sudoers.d/50-admins", "/etc/sudoers.d/50-admins:1:"] {
        assert!(run.stdout.contains(words), "no {words} in {run}");
    }
    assert_eq!(serves("8081"), "0\n8081");

    world.release(&role("/usr/bin/id", "none"));
    let run = host.run("kpull apply --json");
    assert_eq!(run.code(), 3, "{run}");
    for words in ["haproxy refuses the new /etc/haproxy/haproxy.cfg", "[/etc/haproxy/haproxy.cfg:7]"] {
        assert!(run.stdout.contains(words), "no {words} in {run}");
    }
    assert_eq!(serves("8081"), "0\n8081");
    assert_eq!(host.run(files).ok(), before, "nothing was written, and no temporary file remains");

    world.release(&role("/usr/bin/id", "8083"));
    world.converges();
    assert_eq!(serves("8083"), "0\n8083");

    // a run that dies while the program runs leaves a temporary file until the next run
    world.release(&format!(
        "{}[[file]]\npath = '/srv/slow'\ncontent = 'x'\nvalidate = ['sh', '-c', 'touch /run/checks; test -e /run/go || sleep 50', '%s']\n",
        role("/usr/bin/id", "8083")
    ));
    host.run(
        "kpull apply & run=$!; until [ -e /run/checks ]; do sleep 0.1; done; kill -9 $run; wait $run; test -e /srv/.slow.kpull-new",
    )
    .ok();
    host.run("touch /run/go").ok();
    world.converges();
    assert_eq!(host.run("cat /srv/slow; ls -A /srv | grep -c kpull-new").stdout, "x0\n");
}

#[test]
fn keepalived_accepts_what_the_shipped_role_writes_and_refuses_a_mistake_in_it() {
    let world = World::new();
    let host = world.host();
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/roles/keepalived");
    let role = std::fs::read_to_string(format!("{shipped}/role.toml")).unwrap();
    let (_, rest) = role.split_once("\nvalidate = [").unwrap();
    let validate = format!("validate = [{}]", rest.split_once(']').unwrap().0);
    let template = std::fs::read_to_string(format!("{shipped}/templates/keepalived.conf")).unwrap();
    host.write(
        "/srv/site/roles/app/templates/keepalived.conf",
        template.replace("secret(\"keepalived\")", "'12345678'"),
    );
    let release = |router_id: u32, peer: &str| {
        world.release(&format!(
            r#"
[vars]
router_id = {router_id}
address = "192.168.1.100/24"
interface = "host0"
peers = [{{ name = "h1", address = "192.168.1.11" }}{peer}]
priority = 200
advert = 1
check_port = 6443
check_every = 2
weight = -60
[[template]]
path = "/etc/keepalived/keepalived.conf"
template = "keepalived.conf"
{validate}
[[unit]]
name = "keepalived.service"
enable = true
reload_when = ["template:/etc/keepalived/keepalived.conf"]
"#
        ));
    };
    release(51, "");
    world.converges();
    let other = ", { name = \"h2\", address = \"192.168.1.12\" }";
    release(51, other);
    world.converges();
    let state = "cat /etc/keepalived/keepalived.conf; ls -A /etc/keepalived; systemctl is-active keepalived
        systemctl show -p MainPID -p StateChangeTimestampMonotonic keepalived";
    let before = host.run(state).ok();
    release(999, other);
    let run = host.run("kpull apply --json");
    assert_eq!(run.code(), 3, "{run}");
    for words in ["refuses the new /etc/keepalived/keepalived.conf", "Line 20) number '999'"] {
        assert!(run.stdout.contains(words), "no {words} in {run}");
    }
    assert_eq!(host.run(state).ok(), before, "keepalived was not reloaded");
}

/// Sites of nginx, each its name and text, in an nginx whose own configuration includes them by their absolute paths.
fn sites(sites: &[(&str, &str)]) -> String {
    let mut role = r#"
[[absent]]
path = "/etc/nginx/sites-enabled/default"
[[unit]]
name = "nginx.service"
enable = true
reload_when = ["file:/etc/nginx/conf.d/zones.conf"]
[[file]]
path = "/srv/elsewhere"
content = "x"
[[validate]]
run = ["nginx", "-t"]
paths = ["/etc/nginx"]
"#
    .to_owned();
    for (name, text) in sites {
        role += &format!("[[file]]\npath = '/etc/nginx/{name}'\ncontent = '''{text}'''\n");
    }
    role
}

#[test]
fn files_that_are_valid_only_together_are_checked_together_before_any_is_written() {
    let world = World::new();
    let host = world.host();
    // after a reload, the former workers answer for a moment
    let serves = |text: &str| {
        let page = "curl -sS --retry 20 --retry-connrefused 127.0.0.1:8090";
        host.run(&format!("for i in $(seq 100); do [ \"$({page})\" = {text} ] && exit; sleep .1; done; {page}; false"))
            .ok();
    };
    let files = || {
        host.run("find /etc/nginx -printf '%p %i %m %C@\\n' | sort; findmnt -no TARGET /etc/nginx; ls -A /srv | grep -v site").stdout
    };
    let site = |zone: &str, text: &str| {
        format!(
            "server {{ listen 127.0.0.1:8090 default_server; location / {{ limit_req zone={zone} burst=100 nodelay; return 200 {text}; }} }}"
        )
    };
    let zone = |name: &str| format!("limit_req_zone $server_name zone={name}:1m rate=100r/s;");
    // each is wrong without the other
    let first = [("sites-enabled/a", site("one", "first")), ("conf.d/zones.conf", zone("one"))];
    let release = |files: &[(&str, String)]| {
        world.release(&sites(&files.iter().map(|(name, text)| (*name, text.as_str())).collect::<Vec<_>>()));
    };
    release(&first);
    world.converges();
    host.run("systemctl reload nginx").ok();
    serves("first");
    let before = files();

    for (second, words) in [
        (
            [("sites-enabled/a", site("two", "second")), ("conf.d/zones.conf", zone("one"))],
            "zero size shared memory zone \"two\"",
        ),
        (
            [("sites-enabled/a", site("one", "second")), ("conf.d/zones.conf", "oops;".to_owned())],
            "in /etc/nginx/conf.d/zones.conf:1",
        ),
    ] {
        release(&second);
        let plan = host.run("kpull plan");
        assert!(plan.stdout.contains("validate:nginx -t"), "{plan}");
        let run = host.run("kpull apply --json");
        assert_eq!(run.code(), 3, "{run}");
        assert!(run.stdout.contains("`nginx -t` refuses the new files"), "{run}");
        assert!(run.stdout.contains(&words.replace('"', "\\\"")), "no {words} in {run}");
        assert_eq!(files(), before, "nothing was written");
        host.run("systemctl reload nginx").ok();
        serves("first");
    }
    // a new name of a site: two with `default_server` would not be valid, and the old one goes in the same run
    release(&[("sites-enabled/b", site("two", "third")), ("conf.d/zones.conf", zone("two"))]);
    world.converges();
    host.run("systemctl reload nginx").ok();
    serves("third");
    assert_eq!(host.run("ls /etc/nginx/sites-enabled; cat /srv/elsewhere").ok(), "b\nx");
    // drift is corrected likewise, and the program may be missing only if nothing is to be changed
    host.run("echo drift > /etc/nginx/conf.d/zones.conf").ok();
    world.converges();
    host.run("nginx -t").ok();
    // a run that dies while the program runs has written nothing
    let before = files();
    let last = [("sites-enabled/b", site("two", "fourth")), ("conf.d/zones.conf", zone("two"))];
    let slow = "[\"sh\", \"-c\", \"touch /run/checks; test -e /run/go || sleep 50\"]";
    world.release(
        &sites(&last.each_ref().map(|(name, text)| (*name, text.as_str()))).replace("[\"nginx\", \"-t\"]", slow),
    );
    host.run(
        "kpull apply & run=$!; until [ -e /run/checks ]; do sleep 0.1; done; kill -9 $run; wait $run; touch /run/go",
    )
    .ok();
    assert_eq!(files(), before);
    world.converges();
    host.run("systemctl reload nginx").ok();
    serves("fourth");
    world.release("");
    world.converges();
    assert_eq!(
        host.run("ls -A /etc/nginx/conf.d /etc/nginx/sites-enabled").ok(),
        "/etc/nginx/conf.d:\n\n/etc/nginx/sites-enabled:\ndefault"
    );
}

/// A server that is installed and its settings, in one release, as in the manual's recipe.
fn ssh(options: &str) -> String {
    format!(
        r#"
[[package]]
name = "openssh-server"
[[file]]
path = "/etc/ssh/sshd_config.d/50-site.conf"
mode = "0600"
content = "{options}\n"
validate = ["sh", "-c", 'mkdir -p /run/sshd && sshd -t -f "$1"', "sh", "%s"]
[[unit]]
name = "ssh.service"
enable = true
reload_when = ["file:/etc/ssh/sshd_config.d/50-site.conf"]
"#
    )
}

#[test]
fn settings_that_sshd_refuses_cut_nobody_off() {
    let world = World::new();
    let host = world.host();
    host.run("ssh-keygen -q -t ed25519 -N '' -f /root/login && mkdir -p /root/.ssh && cp /root/login.pub /root/.ssh/authorized_keys").ok();
    let ssh_in = "ssh -i /root/login -o BatchMode=yes -o StrictHostKeyChecking=accept-new 192.168.1.11 true && sshd -T | grep -i maxauthtries";
    let file = "stat -c '%i %a' /etc/ssh/sshd_config.d/50-site.conf; ls -A /etc/ssh/sshd_config.d; systemctl show -p ActiveEnterTimestamp ssh";
    world.release(&ssh("MaxAuthTries 3"));
    world.converges();
    assert_eq!(host.run(ssh_in).ok(), "maxauthtries 3");
    let before = host.run(file).ok();
    for (options, why) in [
        ("MaxAuthTries three", "/etc/ssh/sshd_config.d/50-site.conf line 1: MaxAuthTries integer value invalid"),
        (
            "MaxAuthTries 4\\nPermitRootLogon no",
            "/etc/ssh/sshd_config.d/50-site.conf: line 2: Bad configuration option: PermitRootLogon",
        ),
    ] {
        world.release(&ssh(options));
        let run = host.run("kpull apply --json");
        assert_eq!(run.code(), 3, "{run}");
        assert!(run.stdout.contains("sh refuses the new /etc/ssh/sshd_config.d/50-site.conf"), "{run}");
        assert!(run.stdout.contains(why), "no {why} in {run}");
        assert_eq!((host.run(ssh_in).ok(), host.run(file).ok()), ("maxauthtries 3".to_owned(), before.clone()));
    }
    world.release(&ssh("MaxAuthTries 4"));
    world.converges();
    assert_eq!(host.run(ssh_in).ok(), "maxauthtries 4");
}

/// Parts of three files of others, each checked by the program that reads the file.
fn parts(rule: &str, port: &str, tries: &str) -> String {
    format!(
        r#"
[[line]]
path = "/etc/sudoers"
regex = '^daemon\s'
line = "daemon ALL=(root) NOPASSWD: {rule}"
validate = ["visudo", "-cf", "%s"]
[[setting]]
path = "/srv/app.json"
key = "port"
value = {port}
validate = ["jq", "-e", ".port < 65536", "%s"]
[[block]]
path = "/etc/ssh/sshd_config"
name = "site"
content = "MaxAuthTries {tries}"
validate = ["sh", "-c", 'mkdir -p /run/sshd && sshd -t -f "$1"', "sh", "%s"]
"#
    )
}

#[test]
fn a_part_of_a_file_that_its_program_refuses_is_not_written() {
    let world = World::new();
    let host = world.host();
    host.install("openssh-server");
    host.write("/srv/app.json", "{\n  \"host\": \"::1\", \"port\": 80\n}\n");
    let files = "/etc/sudoers /srv/app.json /etc/ssh/sshd_config";
    let original = host.run(&format!("sha256sum {files}; stat -c '%a %U:%G' {files}")).ok();
    let state = format!("stat -c '%i %a %U:%G %n' {files}; sha256sum {files}; ls -A /srv /etc/ssh | grep kpull-new");
    world.release(&parts("/usr/bin/id", "8080", "3"));
    world.converges();
    host.run("runuser -u daemon -- sudo -n /usr/bin/id -u && jq -e '.port == 8080' /srv/app.json && sshd -T | grep -ix 'maxauthtries 3'")
        .ok();
    let before = host.run(&state).stdout;
    for (role, program, words) in [
        (parts("/usr/bin/id, , ,", "8080", "3"), "visudo refuses the new /etc/sudoers", "/etc/sudoers:"),
        (parts("/usr/bin/id", "80800", "3"), "jq refuses the new /srv/app.json", "false"),
        (parts("/usr/bin/id", "8080", "x"), "sh refuses the new /etc/ssh/sshd_config", "/etc/ssh/sshd_config line "),
    ] {
        world.release(&role);
        let run = host.run("kpull apply --json");
        assert_eq!(run.code(), 3, "{run}");
        assert!(run.stdout.contains(program) && run.stdout.contains(words), "no {program} or {words} in {run}");
        assert_eq!(host.run(&state).stdout, before, "nothing was written");
    }
    world.release("");
    world.converges();
    assert_eq!(host.run(&format!("sha256sum {files}; stat -c '%a %U:%G' {files}")).ok(), original);
}
