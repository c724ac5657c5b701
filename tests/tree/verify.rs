//! What `kpull verify` reports about a tree: its certificates, and no result of a probe.

use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, KeyPair};

use crate::tree::pki::{WEB, World};

const PROBE: &str = "[[probe]]\nname = \"port\"\ntcp = \"127.0.0.1:1\"\n";

fn world() -> World {
    let world = World::issued(&format!("{WEB}\n{PROBE}"));
    world.apply().exits(0);
    world
}

/// Puts a certificate onto the host that is good from now on for this many days, from some days ago.
fn put(world: &World, from: i64, days: i64) {
    let mut params = CertificateParams::new(vec!["h1".to_owned()]).unwrap();
    let at = |days: i64| {
        let time = Timestamp::now() + SignedDuration::from_hours(24 * days);
        rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(time.as_second().try_into().unwrap())
    };
    params.not_before = at(from);
    params.not_after = at(days) + std::time::Duration::from_secs(3600);
    world.tree.write("etc/web/cert.pem", params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem());
}

#[test]
fn a_host_without_a_release_reports_that_and_how_to_get_one() {
    let world = World::issued(WEB);
    let error = world.tree.kpull("verify --json").exits(1).error();
    assert_eq!(error["error"], "this host has no release yet");
}

#[test]
fn certificates_are_listed_with_their_days_and_no_probe_runs() {
    let world = world();
    let output = world.tree.kpull("verify").exits(0).stdout;
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines[0].ends_with("is a tree, in which nothing runs: probes are skipped"), "{output}");
    assert!(lines[1].starts_with("NAME              STATUS    MESSAGE"), "{output}");
    assert!(lines[2].starts_with("certificate web   Healthy   364 days left (2"), "{output}");
    assert_eq!(lines[3..], ["1 healthy, 0 not"]);
    let why = world.tree.kpull("verify --json port").exits(1).error();
    assert!(why["error"].as_str().unwrap().starts_with("probe:port can't run"), "{why}");
}

#[test]
fn a_due_certificate_is_reported_and_an_expired_or_missing_one_is_unhealthy() {
    let world = world();
    put(&world, -1, 59);
    let text = world.tree.kpull("verify").exits(0).stdout;
    assert!(text.contains("certificate web   Expiring   59 days left (2"), "{text}");
    assert!(text.ends_with("\n1 healthy (1 expiring), 0 not\n"), "{text}");

    let unhealthy = |why: &str| {
        let output = world.tree.kpull("verify --json").exits(3);
        let row = &output.events("verified")[0];
        assert_eq!((&row["id"], &row["name"]), (&"certificate:web".into(), &"certificate web".into()));
        assert_eq!((&row["status"], &row["message"]), (&"Unhealthy".into(), &serde_json::Value::Null));
        assert!(row["error"].as_str().unwrap().contains(why), "{row}");
        let done = &output.events("done")[0];
        assert_eq!((&done["command"], &done["healthy"], &done["unhealthy"]), (&"verify".into(), &0.into(), &1.into()));
        assert_eq!(done["live"], false);
        row["days_left"].clone()
    };
    put(&world, -9, -3);
    assert_eq!(unhealthy("/etc/web/cert.pem expired on 2"), -2);
    put(&world, 2, 300);
    assert_eq!(unhealthy("/etc/web/cert.pem is not valid before 2"), 300);
    world.tree.write("etc/web/cert.pem", "nothing of that kind");
    assert!(unhealthy("it contains no certificate").is_null());
    std::fs::remove_file(world.tree.at("etc/web/cert.pem")).unwrap();
    assert!(unhealthy("there is no /etc/web/cert.pem").is_null());
}
