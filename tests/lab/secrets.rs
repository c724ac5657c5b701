//! A secret handed to a service by systemd, encrypted for the machine where that can be.

use crate::support::lab::{H1, Host, Lab};

const ROLE: &str = r#"
summary = "For a test"

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
restart_when = ["secret:db"]
"#;

const PREPARE: &str = r#"
set -e
ssh-keygen -q -t ed25519 -N '' -f /root/operator
mkdir -p /etc/ssh && ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
printf 'name = "lab"\n[secrets]\nrecipients = ["%s"]\n' "$(cat /root/operator.pub)" > /srv/site/site.toml
printf 'address = "192.168.1.11"\nrecipient = "%s"\nroles = ["app"]\n' "$(cat /etc/ssh/ssh_host_ed25519_key.pub)" > /srv/site/host_vars/h1.toml
echo "lab $(cat /root/operator.pub)" > /etc/kpull/allowed_signers
"#;

const CONFIG: &str =
    "host = \"h1\"\n[trust]\nsite = \"lab\"\nallowed_signers = \"allowed_signers\"\n[[source]]\ndir = \"/srv/site\"\n";

/// A host with a site of its own that has this role and can have secrets.
pub fn prepare(host: Host<'_>, role: &str) {
    host.copy(env!("CARGO_BIN_EXE_kpull"), "/usr/bin/kpull", 0o755);
    host.write("/srv/site/roles/app/role.toml", role);
    host.write("/srv/site/host_vars/.keep", "");
    host.write("/etc/kpull/kpull.toml", CONFIG);
    host.run("rm /srv/site/host_vars/.keep").ok();
    host.run(PREPARE).ok();
}

/// Writes the secret, and signs the site.
pub fn release(host: Host<'_>, value: &str) {
    let command =
        format!("cd /srv/site && printf %s '{value}' | kpull secret set db && kpull sign --key /root/operator");
    host.run(&command).ok();
}

/// What the service read when it was started last.
fn read(host: Host<'_>) -> String {
    host.run("for i in $(seq 100); do [ -s /run/app ] && break; sleep .1; done; cat /run/app; rm /run/app").ok()
}

#[test]
fn a_service_gets_its_secret_as_a_credential_and_again_when_it_changes() {
    let lab = Lab::new(&[H1]);
    let host = lab.host("h1");
    prepare(host, ROLE);

    release(host, "first-of-the-lab");
    let applied = host.run("kpull apply --diff").ok();
    assert_eq!(read(host), "first-of-the-lab");
    assert!(!applied.contains("first-of-the-lab"), "{applied}");
    let stored =
        host.run("find /etc/credstore /etc/credstore.encrypted -type f -printf '%p %m\\n' 2>/dev/null; true").ok();
    assert_eq!(stored, "/etc/credstore.encrypted/db 600");
    host.run("! grep -r first-of-the-lab /etc /var/lib/kpull").ok();
    assert!(host.run("kpull apply").ok().contains("nothing to do"));

    release(host, "second-of-the-lab");
    let applied = host.run("kpull apply --json").ok();
    assert!(applied.contains("\"changed\":[\"secret:db\",\"unit:app.service\"]"), "{applied}");
    assert_eq!(read(host), "second-of-the-lab");

    // the stored file was changed by hand
    host.run("echo x >> /etc/credstore.encrypted/db").ok();
    assert_eq!(host.run("kpull plan").code(), 2);
    host.run("kpull apply").ok();
    assert_eq!(read(host), "second-of-the-lab");

    // a value that was encrypted once is not written in plaintext because encryption fails
    host.run("mount --bind /bin/false /usr/bin/systemd-creds").ok();
    release(host, "third-of-the-lab");
    let failed = host.run("kpull apply").fails(3);
    assert!(failed.contains("can't encrypt the credential db"), "{failed}");
    // a host that can't encrypt has it for root's eyes
    host.run("rm /etc/credstore.encrypted/db").ok();
    host.run("kpull apply --retry").ok();
    assert_eq!(read(host), "third-of-the-lab");
    assert_eq!(host.run("stat -c %a /etc/credstore/db").ok(), "600");
    assert!(host.run("kpull apply").ok().contains("nothing to do"));
}
