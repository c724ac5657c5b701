//! What `kpull status` reads from a host's own systemd.

use crate::support::lab::{H1, Host, Lab};

const CONFIG: &str =
    "host = \"h1\"\n[trust]\nsite = \"lab\"\nallowed_signers = \"allowed_signers\"\n[[source]]\ndir = \"/srv/site\"\n";

/// What the host says of the next run.
fn next(host: Host<'_>) -> (String, serde_json::Value) {
    let output = host.run("kpull status").ok();
    let line = output.lines().find_map(|line| line.strip_prefix("  next run    ")).unwrap().to_owned();
    let status: serde_json::Value = serde_json::from_str(&host.run("kpull status --json").ok()).unwrap();
    (line, status["next_run"].clone())
}

/// Has the timer elapse as this says, and not otherwise.
fn timer(host: Host<'_>, when: &str) {
    let reset = "OnBootSec=\nOnUnitInactiveSec=\nRandomizedDelaySec=0\n";
    host.write("/etc/systemd/system/kpull.timer.d/test.conf", format!("[Timer]\n{reset}{when}\n"));
    host.run("systemctl daemon-reload && systemctl restart kpull.timer").ok();
}

#[test]
fn status_shows_the_timers_next_run_by_calendar_and_by_monotonic_clock() {
    let lab = Lab::new(&[H1]);
    let host = lab.host("h1");
    host.copy(env!("CARGO_BIN_EXE_kpull"), "/usr/bin/kpull", 0o755);
    let project = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    host.copy(project.join("kpull.service"), "/usr/lib/systemd/system/kpull.service", 0o644);
    host.copy(project.join("packaging/kpull.timer"), "/usr/lib/systemd/system/kpull.timer", 0o644);
    host.write("/etc/kpull/kpull.toml", CONFIG);
    host.run(
        "ssh-keygen -q -t ed25519 -N '' -f /root/key && echo \"lab $(cat /root/key.pub)\" > /etc/kpull/allowed_signers",
    )
    .ok();
    host.run("systemctl daemon-reload").ok();
    let none = "none: kpull.timer is not active; `systemctl enable --now kpull.timer` starts it".to_owned();
    assert_eq!(next(host), (none, serde_json::Value::Null));

    timer(host, "OnCalendar=2099-01-01 00:00:00 UTC");
    assert_eq!(next(host), ("2099-01-01T00:00:00Z".to_owned(), "2099-01-01T00:00:00Z".into()));

    timer(host, "OnActiveSec=1000d");
    let (_, time) = next(host);
    let time: jiff::Timestamp = time.as_str().unwrap().parse().unwrap();
    let days = time.duration_since(jiff::Timestamp::now()).as_hours() / 24;
    assert!((999..=1000).contains(&days), "{time}");
}
