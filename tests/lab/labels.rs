//! Files get the contexts of SELinux's policy, from the real program that reads it.

use crate::support::lab::{Host, Lab};

const KPULL: &str = env!("CARGO_BIN_EXE_kpull");

/// A host with a policy of a few lines, and a release for it that it can sign itself.
fn prepare(host: Host<'_>) {
    host.copy(KPULL, "/usr/bin/kpull", 0o755);
    host.write("/etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=lab\n");
    host.write("/etc/selinux/lab/contexts/files/file_contexts", POLICY);
    host.write("/usr/local/sbin/matchpathcon", MATCHPATHCON);
    host.write("/usr/local/sbin/with-selinux-stand-in", SELINUX);
    host.run("chmod 755 /usr/local/sbin/*").ok();
    host.write("/srv/site/site.toml", "name = \"lab\"\n");
    host.write("/srv/site/host_vars/h1.toml", "address = \"192.168.1.11\"\nroles = [\"r\"]\n");
    host.run("ssh-keygen -q -t ed25519 -N '' -f /root/key && mkdir -p /etc/kpull").ok();
    host.run("echo \"lab $(cat /root/key.pub)\" > /etc/kpull/allowed_signers").ok();
    host.write(
        "/etc/kpull/kpull.toml",
        "host = \"h1\"\n[trust]\nsite = \"lab\"\nallowed_signers = \"allowed_signers\"\n[[source]]\ndir = \"/srv/site\"\n",
    );
}

fn release(host: Host<'_>, role: &str) {
    host.write("/srv/site/roles/r/role.toml", format!("summary = \"Files\"\n{role}"));
    host.run("kpull sign --site /srv/site --key /root/key").ok();
}

fn context(host: Host<'_>, path: &str) -> String {
    host.run(&format!("getfattr -h --only-values -n security.selinux {path} | tr -d '\\0'")).ok()
}

/// How often the policy was asked, and for what.
fn asked(host: Host<'_>) -> Vec<String> {
    let log = host.run("cat /run/asked; : > /run/asked").stdout;
    let mut kinds: Vec<String> = log.lines().map(str::to_owned).collect();
    kinds.sort();
    kinds
}

#[test]
fn new_files_get_the_context_of_the_policy_and_replaced_files_keep_theirs() {
    let lab = Lab::new(&[("h1", "192.168.1.11")]);
    let host = lab.host("h1");
    prepare(host);
    release(host, ROLE);
    host.run("with-selinux-stand-in kpull apply").ok();
    for (path, kind) in [
        ("/etc/lab", "etc_t"),
        ("/etc/lab/app.conf", "app_conf_t"),
        ("/etc/lab/link", "app_link_t"),
        ("/usr/k8s", "usr_t"),
        ("/usr/k8s/bin", "bin_t"),
        ("/usr/k8s/bin/tool", "bin_t"),
        ("/srv/lab/data", "app_data_t"),
        ("/srv/way/f", "app_data_t"),
    ] {
        assert_eq!(context(host, path), format!("system_u:object_r:{kind}:s0"), "{path}");
    }
    host.run("getfattr -n security.selinux /run/lab/none").fails(1);
    // one question for all that the role has, of each type; others for the path that a link leads to, and kpull's own
    let paths = "/etc/lab/app.conf /etc/lab/link /run/lab/none /srv/lab/data /srv/way /srv/way/f /usr/k8s/bin/tool";
    let above = "/ /etc /etc/lab /etc/lab/app.conf /etc/lab/link /run /run/lab /run/lab/none /srv /srv/lab \
                 /srv/lab/data /srv/way /srv/way/f /usr /usr/k8s /usr/k8s/bin /usr/k8s/bin/tool";
    let expected = [
        format!("dir {above}"),
        "dir /var/lib/kpull".to_owned(),
        "file /etc/kpull/trust.toml".to_owned(),
        format!("file {paths}"),
        "file /srv/lab/data/f".to_owned(),
        format!("lnk_file {paths}"),
    ];
    assert_eq!(asked(host), expected);
    assert_eq!(host.run("kpull plan").code(), 0);

    // what an administrator has set stays: a context, a note, whom else a file is for
    let file = "/etc/lab/app.conf";
    host.run(&format!(
        "setfattr -n security.selinux -v system_u:object_r:own_t:s0 {file} && setfattr -n user.note -v mine {file} && setfacl -m u:nobody:rw {file}"
    ))
    .ok();
    release(host, &ROLE.replace("old", "new"));
    host.run("with-selinux-stand-in kpull apply").ok();
    assert_eq!(host.run(&format!("cat {file}")).ok(), "new");
    assert_eq!(context(host, file), "system_u:object_r:own_t:s0");
    assert_eq!(host.run(&format!("getfattr --only-values -n user.note {file}")).ok(), "mine");
    let list = host.run(&format!("getfacl -cE {file}")).ok();
    assert_eq!(list.trim(), "user::rw-\nuser:nobody:rw-\ngroup::r--\nmask::r--\nother::---");
    assert_eq!(host.run("kpull plan").code(), 0, "an access list is no difference");
    assert_eq!(asked(host), [""; 0], "nothing is new");
}

#[test]
fn without_selinux_no_program_runs_and_a_missing_program_is_reported_once() {
    let lab = Lab::new(&[("h1", "192.168.1.11")]);
    let host = lab.host("h1");
    prepare(host);
    release(host, ROLE);
    let off = host.run("kpull apply");
    assert!(off.code() == 0 && !format!("{off:?}").contains("SELinux"), "{off:?}");
    host.run("getfattr -n security.selinux /etc/lab/app.conf").fails(1);
    assert_eq!(asked(host), [""; 0]);

    host.run("rm /usr/local/sbin/matchpathcon && mv /usr/sbin/matchpathcon /srv/away").ok();
    let more = "[[file]]\npath = \"/etc/lab/a\"\ncontent = \"a\"\n[[file]]\npath = \"/etc/lab/b\"\ncontent = \"b\"\n";
    release(host, &format!("{ROLE}{more}"));
    let output = host.run("with-selinux-stand-in kpull apply --json").ok();
    let events = output.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let output: Vec<_> = events.filter(|event| event["event"] == "unlabelled").collect();
    assert_eq!(output.len(), 1, "{output:?}");
    assert!(output[0]["error"].as_str().unwrap().contains("there is no program matchpathcon"), "{output:?}");
    assert!(output[0]["help"].as_str().unwrap().starts_with("install libselinux-utils"), "{output:?}");
    assert_eq!(host.run("cat /etc/lab/a /etc/lab/b").ok(), "ab");
}

const ROLE: &str = r#"
[[file]]
path = "/etc/lab/app.conf"
content = "old"
mode = "0640"
[[symlink]]
path = "/etc/lab/link"
target = "app.conf"
[[file]]
path = "/usr/k8s/bin/tool"
content = "x"
mode = "0755"
[[directory]]
path = "/srv/lab/data"
[[symlink]]
path = "/srv/way"
target = "/srv/lab/data"
[[file]]
path = "/srv/way/f"
content = "x"
[[file]]
path = "/run/lab/none"
content = "x"
"#;

/// A stand-in for a policy, in the form of a real one.
const POLICY: &str = "
/.*	system_u:object_r:default_t:s0
/etc(/.*)?	system_u:object_r:etc_t:s0
/etc/lab/app\\.conf	--	system_u:object_r:app_conf_t:s0
/etc/lab/.*	-l	system_u:object_r:app_link_t:s0
/usr(/.*)?	system_u:object_r:usr_t:s0
/usr/.*/bin(/.*)?	system_u:object_r:bin_t:s0
/srv/lab/data(/.*)?	system_u:object_r:app_data_t:s0
/run/.*	<<none>>
";

/// Writes down what the real program is asked.
const MATCHPATHCON: &str = r#"#!/bin/bash
[[ "$1 $2 $3" = "-n -N -m" ]] || exit 64
echo "$4 ${*:5}" >> /run/asked
exec /usr/sbin/matchpathcon "$@"
"#;

/// Runs a program that sees a stand-in for the kernel's SELinux, switched on.
const SELINUX: &str = r#"#!/bin/bash
exec unshare --mount bash -euc '
    mkdir -p /run/real-sys-fs && mount --rbind /sys/fs /run/real-sys-fs
    mount -t tmpfs stand-in /sys/fs && mkdir /sys/fs/{cgroup,selinux}
    mount --rbind /run/real-sys-fs/cgroup /sys/fs/cgroup
    echo 1 > /sys/fs/selinux/enforce
    exec "$@"' -- "$@"
"#;
