//! SELinux, enforcing: Debian's kernel and policy in a machine of their own.

use std::fs;
use std::process::Command;

use crate::platforms::steps::{SITE, boot, with_program};
use crate::support::cookbook::recipes;
use crate::support::site::Output;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
const KPULL: &str = env!("CARGO_BIN_EXE_kpull");

#[test]
fn under_debians_policy_kpull_converges_with_its_module_and_labels_what_it_writes() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("kpull");
    Output::of(Command::new("strip").arg("-o").arg(&program).arg(KPULL).output().unwrap()).exits(0);
    let mut build = Command::new(format!("{REPOSITORY}/packaging/build"));
    build.arg("--binary").arg(&program).arg("--fast").arg(dir.path()).arg("deb");
    Output::of(build.env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap()).exits(0);
    fs::remove_file(&program).unwrap();
    let role = [ROLE, boolean("haproxy"), boolean("nginx")].join("\n");
    fs::write(dir.path().join("role.toml"), role).unwrap();
    fs::write(dir.path().join("nginx.conf"), NGINX).unwrap();

    let results = boot(dir.path(), STEPS, "security=selinux selinux=1 enforcing=1");
    assert_eq!(results.step("mode", 0), "Enforcing\n");

    // without the module the firewall is what fails, and nothing else does
    results.step("unpacked", 0);
    let message = results.step("without", 1);
    assert!(message.contains("in firewalld: no answer") && message.contains("ausearch -m USER_AVC"), "{message}");
    assert!(results.read("denied-without").contains("send_msg"), "{}", results.read("denied-without"));

    let message = results.step("install", 0);
    assert!(!message.contains("kpull:"), "{message}");
    assert_eq!(results.step("modules", 0), "kpull\n");
    results.step("with", 0);
    assert_eq!(results.step("made", 0), "Hello, world!\n6443/tcp\nactive\n1\n");
    results.step("idle", 0);
    results.step("drift", 0);
    results.step("proxy", 0);
    assert_eq!(results.read("labels-before") + &results.step("labels", 0), "", "restorecon would set these otherwise");
    assert!(results.step("spoilt", 0).contains("/etc/app/app.conf"), "restorecon reports files with another label");
    assert_eq!(results.read("denied-with"), "", "denied with the module");
    results.step("remove", 0);
    assert_eq!(results.step("modules-after", 1), "");
}

/// What a shipped role has to let its program connect.
fn boolean(role: &str) -> &'static str {
    let text = match role {
        "haproxy" => include_str!("../../roles/haproxy/role.toml"),
        _ => include_str!("../../roles/nginx/role.toml"),
    };
    text.split("\n\n").find(|part| part.starts_with("[[selinux]]")).expect("a boolean")
}

/// Of each way in which kpull writes, one; and a proxy for the port of an API server.
const ROLE: &str = r##"
summary = "One of each"
[[user]]
name = "worker"
[[file]]
path = "/etc/app/app.conf"
content = "x\n"
[[symlink]]
path = "/etc/app/link"
target = "app.conf"
[[directory]]
path = "/var/lib/app"
[[file]]
path = "/usr/local/bin/app"
content = "#!/bin/sh\nsleep infinity\n"
mode = "0755"
[[file]]
path = "/root/.app"
content = "x\n"
[[file]]
path = "/var/www/app/index.html"
content = "x\n"
[[block]]
path = "/etc/hosts"
name = "cluster"
content = "10.0.0.1 one"
[[package]]
name = "hello"
[[sysctl]]
name = "net.ipv4.ip_forward"
value = "1"
[[firewall]]
zone = "public"
ports = ["6443/tcp"]
[[unit]]
name = "app.service"
enable = true
content = "[Service]\nExecStart=/usr/local/bin/app\n[Install]\nWantedBy=multi-user.target\n"
[[command]]
name = "mark"
run = ["touch", "/var/lib/app/mark"]
creates = "/var/lib/app/mark"
[[file]]
path = "/etc/nginx/nginx.conf"
source = "nginx.conf"
[[unit]]
name = "nginx.service"
enable = true
restart_when = ["file:/etc/nginx/nginx.conf"]
"##;

const NGINX: &str = r#"
load_module modules/ngx_stream_module.so;
events {}
stream { server { listen 127.0.0.1:8443; proxy_pass 127.0.0.1:6443; } }
"#;

/// Runs as root after a login.
const STEPS: &str = r#"
converge() {
    local code=0
    systemctl start kpull.service || code=$?
    journalctl --no-pager -o cat -u kpull.service
    return $code
}
denied() { grep denied /var/log/audit/audit.log > "/mnt/all-$1"; grep -h 'denied' /var/log/audit/audit.log | grep -E 'comm="kpull|initrc_t' > "/mnt/$1"; : > /var/log/audit/audit.log; }
until_true() { for _ in {1..600}; do ! "$@" || return 0; sleep 1; done; "$@"; }

step mode getenforce
labels() { restorecon -nvR /etc /root /srv /usr/bin /usr/local /usr/share/doc/hello /var/lib/app /var/lib/kpull /var/www 2>/dev/null; }
labels | cat > /mnt/labels-before
until_true systemctl --quiet is-active firewalld.service
: > /var/log/audit/audit.log

unpacked() {
    dpkg-deb -x /mnt/kpull_*.deb / && restorecon -R /usr/bin/kpull /usr/lib/systemd/system && systemctl daemon-reload || return 1
    mkdir -p /srv/site/roles/app/files /srv/site/host_vars
    echo 'name = "lab"' > /srv/site/site.toml
    printf 'address = "10.0.2.15"\nroles = ["app"]\n' > /srv/site/host_vars/h1.toml
    cp /mnt/role.toml /srv/site/roles/app/
    cp /mnt/nginx.conf /srv/site/roles/app/files/
    ssh-keygen -q -t ed25519 -N '' -f /root/key && kpull sign --site /srv/site --key /root/key &&
        kpull enroll /srv/site --site lab --host h1 --fingerprint "$(ssh-keygen -lf /root/key.pub | cut -d' ' -f2)"
}
step unpacked unpacked
step without converge
denied denied-without

step install dpkg -i /mnt/kpull_*.deb
step modules sh -c 'semodule -l | grep -x kpull'
systemctl stop kpull.timer
step with converge
step made sh -c 'hello; firewall-cmd --zone=public --list-ports; systemctl is-active app.service; sysctl -n net.ipv4.ip_forward'
step idle kpull plan

drift() {
    echo y > /etc/app/app.conf
    firewall-cmd --zone=public --remove-port=6443/tcp
    systemctl start kpull.timer
    until_true grep -qx x /etc/app/app.conf && until_true firewall-cmd --zone=public --query-port=6443/tcp &&
        systemctl stop kpull.timer && until_true kpull plan
}
step drift drift

proxy() {
    python3 -c '
import socket
server = socket.create_server(("127.0.0.1", 6443))
client = socket.create_connection(("127.0.0.1", 8443))
server.settimeout(60)
server.accept()[0].sendall(b"hello")
print(client.recv(5))
'
}
step proxy proxy
step labels labels
chcon -t tmp_t /etc/app/app.conf
step spoilt labels
denied denied-with
step remove dpkg -r kpull
step modules-after sh -c 'semodule -l | grep -x kpull'
"#;

#[test]
fn booleans_ports_file_contexts_and_audit_rules_are_set_rolled_back_and_restored() {
    let dir = with_program();
    let role = ["summary = \"For a test\"", boolean("haproxy"), boolean("nginx"), SETTINGS].join("\n");
    fs::write(dir.path().join("failing.toml"), format!("{role}{LOOK}")).unwrap();
    fs::write(dir.path().join("settings.toml"), role).unwrap();
    fs::write(dir.path().join("none.toml"), "summary = \"For a test\"\n").unwrap();
    let recipe = recipes().into_iter().find(|recipe| recipe.title == "Audit rules").expect("the recipe");
    fs::write(dir.path().join("audit-rules.toml"), recipe.role).unwrap();
    let steps = format!("{SITE}{SETTING_STEPS}");
    let results = boot(dir.path(), &steps, "security=selinux selinux=1 enforcing=1 systemd.mask=firewalld.service");
    assert_eq!(results.step("mode", 0), "Enforcing\n");
    results.step("enrolled", 0);
    results.step("first", 0);
    results.step("administrator", 0);
    let before = results.step("before", 0);
    assert_eq!(before, BEFORE);

    let plan = results.step("plan", 2);
    assert!(plan.contains("selinux:httpd_can_network_connect  off → on"), "{plan}");
    assert!(plan.contains("selinux:8118/tcp  ssh_port_t → http_port_t"), "{plan}");
    assert!(!plan.contains("selinux:443/tcp"), "the policy has that itself: {plan}");
    assert!(!plan.contains("haproxy_connect_any"), "Debian's policy does not have it: {plan}");
    // runs that die are finished by the next one, and so is the way back
    for step in ["killed-commit", "killed-files", "killed-back"] {
        let message = results.step(step, 1);
        assert!(message.contains("status=9/KILL"), "{step}: {message}");
    }
    assert_eq!(results.read("contexts"), "var_log_t var_log_t var_t\n", "in the policy, but not of the files yet");
    assert_eq!(results.read("during"), SET, "before the release failed");
    assert_eq!(results.read("contexts-back"), "var_log_t var_log_t httpd_sys_content_t\n");
    results.step("back", 0);
    assert_eq!(results.step("state-back", 0), before);

    results.step("set", 0);
    assert_eq!(results.step("state", 0), SET);
    results.step("idle", 0);
    results.step("drift", 2);
    results.step("corrected", 0);
    assert_eq!(results.step("state-corrected", 0), SET);
    let message = results.step("misspelled", 1);
    assert!(message.contains("did you mean `httpd_can_network_connect`?"), "{message}");
    // a policy brings the boolean of the role haproxy
    assert!(results.step("policy", 2).contains("selinux:haproxy_connect_any  off → on"));
    results.step("policy-set", 0);
    assert_eq!(results.step("haproxy", 0), "haproxy_connect_any --> on\n");
    results.step("policy-idle", 0);
    results.step("none", 0);
    assert_eq!(results.step("after", 0), before);
    assert_eq!(results.step("haproxy-after", 0), "haproxy_connect_any --> off\n");

    results.step("rules", 0);
    assert!(results.step("loaded", 0).contains("-w /etc/sudoers.d -p wa -k sudo"));
    results.step("recorded", 0);
    results.step("rules-idle", 0);
    assert_eq!(results.read("denied"), "", "denied");
}

/// Values that the policy does not have, one that it has itself, and some in place of those of an administrator.
const SETTINGS: &str = r#"
[[selinux]]
boolean = "httpd_can_network_relay"
on = false
[[selinux]]
port = "443/tcp"
type = "http_port_t"
[[selinux]]
port = "8500-8510/tcp"
type = "http_port_t"
[[selinux]]
port = "8118/tcp"
type = "http_port_t"
[[selinux]]
fcontext = "/srv/pages(/.*)?"
type = "httpd_sys_content_t"
[[selinux]]
fcontext = "/srv/own(/.*)?"
type = "httpd_sys_content_t"
"#;

/// Keeps what a release has set, and fails.
const LOOK: &str = r#"
[[command]]
name = "look"
run = ["bash", "-c", ". /srv/state; state > /srv/during; false"]
creates = "/srv/never"
timeout = "600s"
after = ["command:restorecon for *"]
"#;

const BEFORE: &str = "httpd_can_network_connect --> off\nhttpd_can_network_relay --> on\n8118 ssh_port_t tcp\n\
/srv/pages(/.*)? all files system_u:object_r:var_log_t:s0\nvar_log_t var_log_t var_t\n";

const SET: &str = "httpd_can_network_connect --> on\nhttpd_can_network_relay --> off\n8118 8500-8510 http_port_t tcp\n\
/srv/own(/.*)? all files system_u:object_r:httpd_sys_content_t:s0\n\
/srv/pages(/.*)? all files system_u:object_r:httpd_sys_content_t:s0\n\
httpd_sys_content_t httpd_sys_content_t httpd_sys_content_t\n";

const SETTING_STEPS: &str = r#"
step mode getenforce
mkdir -p /srv/pages/sub /srv/own && echo x > /srv/pages/sub/index.html
cat > /srv/state <<'END'
state() {
    getsebool httpd_can_network_connect httpd_can_network_relay
    semanage port -l -C -n | tr -d , | xargs -n1 | sort | xargs
    semanage fcontext -l -C -n | tr -s ' ' | sed 's/ $//' | sort
    contexts
}
contexts() { stat -c %C /srv/pages /srv/pages/sub/index.html /srv/own | cut -d: -f3 | xargs; }
END
. /srv/state
step enrolled enrolled
step first converge
administrator() {
    semanage import <<'END' && restorecon -R /srv/pages
boolean -m -1 httpd_can_network_relay
port -m -t ssh_port_t -p tcp 8118
fcontext -a -t var_log_t '/srv/pages(/.*)?'
END
}
step administrator administrator
step before state
: > /var/log/audit/audit.log
plan() { sign "$1" > /dev/null && kpull plan; }
step plan plan failing
killing() { # MOMENT: the run and semanage die then
    cat > /usr/local/sbin/semanage
    chmod +x /usr/local/sbin/semanage
    step "killed-$1" converge
    rm /usr/local/sbin/semanage
}
killing commit <<'END'
#!/bin/sh
# stand-in
[ "$1 $2" = "port -m" ] || exec /usr/sbin/semanage "$@"
/usr/sbin/semanage "$@" &
for _ in $(seq 3000); do [ ! -d /var/lib/selinux/default/tmp ] || break; sleep .1; done
kill -9 $! $PPID
END
killing files <<'END'
#!/bin/sh
# stand-in
/usr/sbin/semanage "$@" || exit
case "$*" in "fcontext "*pages*) kill -9 $PPID ;; esac
END
contexts > /mnt/contexts
# the release fails, and the run dies on its way back, when an expression is no longer in the policy and its files are as before
killing back <<'END'
#!/bin/sh
# stand-in
/usr/sbin/semanage "$@" || exit
case "$*" in "fcontext -d "*) kill -9 $PPID ;; esac
END
cp /srv/during /mnt/
contexts > /mnt/contexts-back
step back converge
step state-back state
step set release settings
step state state
step idle kpull plan
setsebool httpd_can_network_connect off
semanage port -d -p tcp 8500-8510
step drift kpull plan
step corrected converge
step state-corrected state
{ cat /mnt/settings.toml; printf '[[selinux]]\nboolean = "httpd_can_network_conect"\non = true\n'; } > /mnt/typo.toml
misspelled() { sign typo && kpull plan; }
step misspelled misspelled
# a stand-in for the policies of Fedora and RHEL, which have this boolean
policy() {
    local rule='(allow httpd_t unreserved_port_t (tcp_socket (name_connect)))'
    echo "(boolean haproxy_connect_any false) (booleanif haproxy_connect_any (true $rule))" > /root/haproxy.cil
    semodule -i /root/haproxy.cil && plan settings
}
step policy policy
step policy-set converge
step haproxy getsebool haproxy_connect_any
step policy-idle kpull plan
step none release none
step after state
step haproxy-after getsebool haproxy_connect_any
grep -h denied /var/log/audit/audit.log | grep -E 'comm="kpull|initrc_t|semanage|setsebool|restorecon' > /mnt/denied

recorded() {
    touch /etc/passwd
    for _ in {1..60}; do ! ausearch -k accounts -i 2> /dev/null | grep touch || return 0; sleep 1; done
    return 1
}
step rules release audit-rules
step loaded auditctl -l
step recorded recorded
step rules-idle kpull plan
"#;
