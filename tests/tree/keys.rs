//! Key sets whose keys have expired, or will: what operators hear of it, and that no host minds.

use jiff::{SignedDuration, Timestamp};
use kpull::trust::{AllowedSigners, KeySet, Purpose};
use ssh_key::private::{Ed25519Keypair, PrivateKey};
use ssh_key::{HashAlg, LineEnding};

use crate::support::site::{Output, Site, key, kpull};

fn bob() -> PrivateKey {
    Ed25519Keypair::from_seed(&[8; 32]).into()
}

fn bobs() -> String {
    format!("the key of bob ({})", bob().public_key().fingerprint(HashAlg::Sha256))
}

/// A signed site with the key set 1: alice, who signs the releases of all sites here, and bob, until `end`.
fn site(end: Timestamp, release: usize, rotate: usize) -> Site {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n")
        .role("base", "[[file]]\npath = \"/etc/a\"\ncontent = \"x\"\n");
    let public = |key: &PrivateKey| key.public_key().to_openssh().unwrap();
    let end = end.strftime("%Y%m%d%H%M%SZ");
    let lines = format!("alice {}\nbob valid-before=\"{end}\" {}\n", public(key()), public(&bob()));
    let signers = AllowedSigners::parse("f", &lines).unwrap();
    // bob was there then
    let created = "2019-06-01T00:00:00Z".parse().unwrap();
    let set = KeySet { number: 1, created, ..KeySet::start("test", signers, release, rotate) };
    let sign = |key: &PrivateKey| {
        let signature = key.sign(Purpose::Keys.namespace(), HashAlg::Sha512, set.to_toml().as_bytes()).unwrap();
        signature.to_pem(LineEnding::LF).unwrap()
    };
    site.file("keys/1.toml", set.to_toml()).file("keys/1.toml.sig", sign(key()) + &sign(&bob()));
    site.sign();
    site
}

fn expired() -> Timestamp {
    "2020-01-01T00:00:00Z".parse().unwrap()
}

/// So many hours from now, to the second.
fn in_hours(hours: i64) -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap() + SignedDuration::from_hours(hours)
}

fn run(site: &Site, words: &[&str]) -> Output {
    kpull(&[words, &["--site", site.path().to_str().unwrap()]].concat())
}

#[test]
fn check_and_publish_refuse_a_threshold_that_valid_keys_do_not_reach() {
    let site = site(expired(), 2, 2);
    let why = format!("it needs 2 valid keys and has 1: {} expired at 2020-01-01T00:00:00Z", bobs());
    let release = format!("key set 1 can't sign a release: {why}");
    let checked = run(&site, &["check", "--json"]).exits(1);
    let errors: Vec<_> = checked.events("error");
    let texts: Vec<_> = errors.iter().map(|error| error["error"].as_str().unwrap()).collect();
    assert_eq!(texts, [release.clone(), format!("key set 1 can't sign the next key set: {why}")]);
    let help = errors[1]["help"].as_str().unwrap();
    assert!(help.contains("kpull enroll URL --site NAME --replace --signers FILE"), "{help}");

    let shown = run(&site, &["keys", "show"]).exits(0).stdout;
    assert!(
        shown.contains(&format!("! {release}; make the next set with keys that are valid: `kpull keys new")),
        "{shown}"
    );
    assert!(shown.contains(" expired 2020-01-01T00:00:00Z"), "{shown}");
    let shown = run(&site, &["keys", "show", "--json"]).exits(0).json();
    assert_eq!(shown[0]["shortfalls"].as_array().unwrap().len(), 2, "{shown:?}");

    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().to_str().unwrap();
    assert_eq!(run(&site, &["publish", to, "--json"]).exits(1).error()["error"], release);
    assert_eq!(std::fs::read_dir(to).unwrap().count(), 0);

    // nor is a set written that its keys can't sign by now
    let refused = run(&site, &["keys", "new", "--json"]).exits(1).error();
    let why = format!("key set 2 can't sign the next key set: {}", why);
    assert_eq!(refused["error"], why);
    assert!(!site.path().join("keys/2.toml").exists());
    run(&site, &["keys", "new", "--release", "1", "--rotate", "1"]).exits(0);
    run(&site, &["check"]).exits(0);
}

#[test]
fn check_warns_a_month_before_keys_expire_and_publish_within_the_release() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().to_str().unwrap();
    // a release here is good for a day
    for (hours, checks, publishes) in [(12, true, true), (24 * 20, true, false), (24 * 40, false, false)] {
        let end = in_hours(hours);
        let site = site(end, 2, 1);
        let warning = format!(
            "! key set 1 can't sign a release from {end} on: it needs 2 valid keys and has then 1: {} expires at {end}; \
             make the next set before that",
            bobs()
        );
        let checked = run(&site, &["check"]).exits(0).stdout;
        assert_eq!(checked.contains(&warning), checks, "{hours}: {checked}");
        let published = run(&site, &["publish", to, "--force"]).exits(0).stdout;
        assert_eq!(published.contains(&warning), publishes, "{hours}: {published}");
    }
}

#[test]
fn a_host_applies_releases_of_valid_keys_although_no_key_set_can_follow() {
    let site = site(expired(), 1, 2);
    let dir = tempfile::tempdir().unwrap();
    let published = run(&site, &["publish", dir.path().to_str().unwrap()]).exits(0).stdout;
    assert!(
        published.contains("! key set 1 can't sign the next key set: it needs 2 valid keys and has 1"),
        "{published}"
    );
    let tree = site.enroll();
    // the key of all sites here signs sets too
    tree.write("etc/kpull/allowed_signers", format!("alice {}\n", key().public_key().to_openssh().unwrap()));
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/a"), "x");
    // and goes on to
    site.role("base", "[[file]]\npath = \"/etc/a\"\ncontent = \"y\"\n");
    crate::support::site::sign(site.path(), key(), "test", 2);
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/a"), "y");
}
