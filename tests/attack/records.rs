//! Status records of hosts as an operator sees them: the table and the page of `kpull fleet`; and the metrics of a host.

use std::fs;
use std::path::PathBuf;

use kpull::trust::Purpose;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use ssh_key::{HashAlg, LineEnding};

use crate::support::site::{Site, key, kpull};

/// A site of which each host has signed what `say` makes of an honest record.
fn fleet(records: &[(&str, Value)]) -> (Site, PathBuf) {
    let site = Site::new("test");
    let place = site.path().join("records");
    fs::create_dir(&place).unwrap();
    for (host, changes) in records {
        let recipient = key().public_key().to_openssh().unwrap();
        site.host(host, &format!("address = \"10.0.0.1\"\nrecipient = {recipient:?}\n"));
        let mut record = json!({ "version": 1, "site": "test", "host": host, "time": jiff::Timestamp::now(), "every": 600, "program": "0.1.0",
            "release": 7, "seen": 7, "generation": 1, "good": true, "bad": null, "exit": 0, "error": null, "held": 0 });
        for (name, value) in changes.as_object().unwrap() {
            record[name] = value.clone();
        }
        let text = format!("{record}\n");
        let signature = key().sign(Purpose::Status.namespace(), HashAlg::Sha512, text.as_bytes()).unwrap();
        fs::write(place.join(format!("{host}.status")), text + &signature.to_pem(LineEnding::LF).unwrap()).unwrap();
    }
    (site, place)
}

#[test]
fn a_record_of_one_host_floods_no_table_or_page_and_injects_no_line() {
    let of_length =
        |length| -> String { "x\nh9  7  well\u{1b}]0;t\u{7}\u{202e}<script>".chars().cycle().take(length).collect() };
    let (long, short) = (of_length(30_000), of_length(5000));
    let of = [
        ("h1", json!({ "host": long })),
        ("h2", json!({ "site": long })),
        ("h3", json!({ "exit": long })),
        ("h4", json!({ "program": long, "error": short })),
        ("h5", json!({ "artifacts": { "a": short, short.clone(): "1" } })),
        ("h6", json!({ "failing": vec![short.clone(); 5], "bad": [8, short] })),
        ("h7", json!({ "certificates": [[long, { "renew": "2020-01-01T00:00:00Z", "end": "2020-01-01T00:00:00Z" }]] })),
        ("h8", json!({ "release": u64::MAX, "held": u64::MAX })),
    ];
    let (site, place) = fleet(&of);
    let run = |more: &[&str]| {
        let whole = ["fleet", place.to_str().unwrap(), "--site", site.path().to_str().unwrap()];
        kpull(&[&whole[..], more].concat()).exits(3).stdout
    };
    let table = run(&[]);
    assert_eq!(table.lines().count(), 1 + of.len() + 1, "{table}");
    let page = site.path().join("page.html");
    run(&["--html", page.to_str().unwrap()]);
    let page = fs::read_to_string(page).unwrap();
    for text in [&table, &page, &run(&["--json"])] {
        assert!(text.len() < 48 * 1024, "{} {text}", text.len());
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{text}");
    }
    assert!(!page.contains("<script"), "{page}");
}

#[test]
fn the_page_of_the_fleet_follows_no_link_of_another_user_like_any_output() {
    let (site, place) = fleet(&[("h1", json!({}))]);
    let web = site.path().join("web");
    fs::create_dir(&web).unwrap();
    let secret = site.path().join("shadow");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("index.html"), "root's own").unwrap();
    let user = Some(65534);
    std::os::unix::fs::chown(&web, user, user).unwrap();
    std::os::unix::fs::symlink(&secret, web.join("fleet")).unwrap();
    std::os::unix::fs::lchown(web.join("fleet"), user, user).unwrap();
    let page = web.join("fleet/index.html");
    let whole = ["fleet", place.to_str().unwrap(), "--site", site.path().to_str().unwrap(), "--html"];
    kpull(&[&whole[..], &[page.to_str().unwrap()]].concat()).fails(1, "goes through a link that belongs to user 65534");
    assert_eq!(fs::read_to_string(secret.join("index.html")).unwrap(), "root's own");
    assert_eq!(fs::read_dir(&secret).unwrap().count(), 1);
}

#[test]
fn a_name_in_a_label_injects_no_metric() {
    let site = Site::new("test");
    let name = "a\\\"} 1\\nkpull_last_run_exit_code 0\\nb{c=\\\"\\\\\\\\";
    let digest = hex::encode(Sha256::digest(b"tool"));
    site.file("tool", "tool");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n")
        .role("base", &format!("[[artifact]]\nname = \"{name}\"\ninstall = {{ tool = \"/usr/bin/tool\" }}\n"))
        .file(
            "artifacts.toml",
            format!(
                "[\"{name}\"]\nversion = \"{name}\"\namd64 = {{ url = \"file://{0}/tool\", size = 4, sha256 = \"{digest}\" }}\n\
                 arm64 = {{ url = \"file://{0}/tool\", size = 4, sha256 = \"{digest}\" }}\n",
                site.path().display()
            ),
        )
        .sign();
    let tree = site.enroll();
    fs::create_dir(tree.at("metrics")).unwrap();
    tree.configure(&format!("[[source]]\ndir = {:?}\n[metrics]\ndir = {:?}\n", site.path(), tree.at("metrics")));
    tree.kpull("apply").exits(0);
    let text = tree.read("metrics/kpull.prom");
    assert_eq!(text.lines().filter(|line| line.starts_with("kpull_last_run_exit_code ")).count(), 1, "{text}");
    let info: Vec<&str> = text.lines().filter(|line| line.starts_with("kpull_artifact_info")).collect();
    let label = r#"a\"} 1\nkpull_last_run_exit_code 0\nb{c=\"\\\\"#;
    assert_eq!(info, [format!("kpull_artifact_info{{artifact=\"{label}\",version=\"{label}\"}} 1")], "{text}");
    assert!(text.lines().all(|line| line.starts_with("# ") || line.starts_with("kpull_")), "{text}");
}
