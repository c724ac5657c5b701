//! What a host reports under systemd: records with fields, metrics, hooks, a line at login.

use crate::support::lab::{H1, Lab};

const ROLE: &str = r#"
summary = "For a test"

[[unit]]
name = "etcd.service"
content = """
[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
"""
enable = true

[[probe]]
name = "api"
command = ["cat", "/run/api"]
within = "0s"
"#;

const MORE: &str = r#"
[metrics]
dir = "/srv"
[[hook]]
on = ["failure", "change", "recovery"]
command = ["sh", "-c", "cat >> /srv/told; echo >> /srv/told"]
[[hook]]
on = ["failure"]
command = ["sh", "-c", "echo no luck; echo with this; exit 7"]
"#;

#[test]
fn a_host_reports_in_its_journal_in_metrics_to_hooks_and_at_login() {
    let lab = Lab::new(&[H1]);
    let host = lab.host("h1");
    host.copy(concat!(env!("CARGO_MANIFEST_DIR"), "/kpull.service"), "/etc/systemd/system/kpull.service", 0o644);
    let motd = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/motd/60-kpull");
    host.run("mkdir -p /etc/update-motd.d").ok();
    host.copy(motd, "/etc/update-motd.d/60-kpull", 0o755);
    crate::lab::sign_on(host, ROLE, MORE);
    host.run("systemctl daemon-reload").ok();
    let metric = |name: &str| host.run(&format!("grep '^{name} ' /srv/kpull.prom | cut -d' ' -f2")).ok();
    let reported = || host.run("sed -n '$s/.*\"event\":\"\\([a-z]*\\)\".*/\\1/p' /srv/told").ok();

    // a probe that does not pass
    host.run("! systemctl start kpull.service").ok();
    assert_eq!(metric("kpull_probe_success{probe=\"api\"}"), "0");
    assert_eq!((metric("kpull_last_run_exit_code"), reported()), ("3".to_owned(), "failure".to_owned()));
    let hook = host.run("journalctl --sync; journalctl -q -o cat KPULL_EVENT=not_reported").ok();
    assert!(hook.ends_with("exit status: 7\nno luck\nwith this"), "{hook}");
    host.run("echo ok > /run/api && systemctl start kpull.service").ok();
    assert_eq!(metric("kpull_probe_success{probe=\"api\"}"), "1");
    assert_eq!((metric("kpull_last_run_exit_code"), reported()), ("0".to_owned(), "recovery".to_owned()));
    assert_eq!(host.run("stat -c %a /srv/kpull.prom").ok(), "644");
    let line = host.run("run-parts /etc/update-motd.d").ok();
    assert!(line.contains("kpull: release 1, healthy "), "{line}");

    // a unit that was stopped by hand is drift
    host.run("systemctl stop etcd.service && systemctl start kpull.service").ok();
    assert_eq!((metric("kpull_drifted_resources_total"), reported()), ("1".to_owned(), "change".to_owned()));

    // a release that is refused, and every example of the documentation finds something
    host.run("echo >> /srv/site/release.toml; ! systemctl start kpull.service").ok();
    assert_eq!((metric("kpull_last_run_exit_code"), reported()), ("4".to_owned(), "failure".to_owned()));
    let line = host.run("run-parts /etc/update-motd.d").ok();
    assert!(line.contains("kpull: release 1, FAILED "), "{line}");
    host.run("journalctl --sync").ok();
    let page = include_str!("../../docs/src/usage/journal.md");
    let examples: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("# journalctl ")).collect();
    assert!(examples.len() > 4, "{examples:?}");
    for example in examples {
        let found = host.run(&format!("journalctl -q {example}")).ok();
        assert!(!found.is_empty(), "journalctl {example}");
    }
}
