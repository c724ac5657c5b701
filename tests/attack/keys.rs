//! Sets of keys, and the memory of a host, under attack.

use std::collections::BTreeSet;
use std::fs;

use jiff::Timestamp;
use kpull::trust::{AllowedSigners, KeySet};

use crate::attack::enrol::enroll;
use crate::attack::host::{EVERY, GOOD, Host, SITE, Tree, Via, allow, key, kpull, signature};

/// The set with this number: its signers, and how many of them sign the next set.
pub fn set(number: u64, keys: &[u8], rotate: usize) -> KeySet {
    let lines: String = keys.iter().map(|number| allow(*number, "")).collect();
    let start = KeySet::start(SITE, AllowedSigners::parse("f", &lines).unwrap(), 1, rotate);
    KeySet { number, created: Timestamp::from_second(1_800_000_000).unwrap(), ..start }
}

pub fn fingerprint(number: u8) -> String {
    key(number).public_key().fingerprint(ssh_key::HashAlg::Sha256).to_string()
}

/// A set that takes key 1 away for good, and leaves key 2.
pub fn without_key_1() -> KeySet {
    KeySet { revoked: BTreeSet::from([fingerprint(1)]), ..set(1, &[2], 1) }
}

/// The good release with this serial, with these key sets, each signed by these keys, and itself by `by`.
pub fn release(serial: u64, sets: &[(&KeySet, &[u8])], by: &[u8]) -> Tree {
    let mut tree = Tree::good(serial);
    for (set, signers) in sets {
        let text = set.to_toml();
        let signatures: String = signers.iter().map(|key| signature(*key, "keys@kpull", text.as_bytes())).collect();
        tree.put(&KeySet::path(set.number), text);
        tree.put(&KeySet::signatures_path(set.number), signatures);
    }
    tree.list(serial);
    tree.sign(by);
    tree
}

/// The host refuses the published release with this message, and not a byte of the host changes.
fn refuses(host: &Host, tree: &Tree, error: &str) {
    let before = host.snapshot();
    host.publish(tree);
    let ended = host.apply();
    assert_eq!((ended.error.as_str(), ended.code), (error, 4));
    assert_eq!(before, host.snapshot());
}

#[test]
fn a_host_that_missed_rotations_takes_the_newest_release_and_no_old_key() {
    for via in EVERY {
        let host = Host::with_good(*via);
        let (one, two, three) = (set(1, &[3], 1), set(2, &[4], 1), set(3, &[5], 1));
        let sets: [(&KeySet, &[u8]); 3] = [(&one, &[1, 3]), (&two, &[3, 4]), (&three, &[4, 5])];
        host.publish(&release(GOOD + 1, &sets, &[5]));
        host.expect_good(GOOD + 1);
        host.expect_good(GOOD + 1);
        for old in [1, 3, 4] {
            let error = format!(
                "no signature of the release is good: it is signed by a key that is not allowed: {}",
                fingerprint(old)
            );
            refuses(&host, &release(GOOD + 2, &sets, &[old]), &error);
        }
        // a source that hides the sets from now on changes nothing
        refuses(
            &host,
            &Tree::good(GOOD + 2),
            &format!(
                "no signature of the release is good: it is signed by a key that is not allowed: {}",
                fingerprint(1)
            ),
        );
    }
}

#[test]
fn a_forged_rotation_is_refused() {
    for via in EVERY {
        let host = Host::with_good(*via);
        let forged = set(1, &[3], 1);
        let not_allowed =
            format!("no signature of key set 1 is good: it is signed by a key that is not allowed: {}", fingerprint(3));
        refuses(&host, &release(GOOD + 1, &[(&forged, &[3])], &[3]), &not_allowed);
        // a set that a good key has signed, for keys that do not sign it
        let error =
            format!("no signature of key set 1 is good: it is signed by a key that is not allowed: {}", fingerprint(1));
        refuses(&host, &release(GOOD + 1, &[(&forged, &[1])], &[1]), &error);
        // a signature over a release does not make a set
        let mut tree = release(GOOD + 1, &[(&forged, &[3])], &[1]);
        let text = forged.to_toml();
        tree.put("keys/1.toml.sig", signature(1, "release@kpull", text.as_bytes()));
        tree.list(GOOD + 1);
        let error = "no signature of key set 1 is good: a signature is for `release@kpull` and not for `keys@kpull`";
        refuses(&host, &tree, error);
        let other = KeySet { site: "other".to_owned(), ..set(1, &[1], 1) };
        let error = "key set 1 does not follow set 0: it is for the site `other`, and this host belongs to `lab`";
        refuses(&host, &release(GOOD + 1, &[(&other, &[1])], &[1]), error);
        host.publish(&Tree::good(GOOD + 1));
        host.expect_good(GOOD + 1);
    }
}

#[test]
fn keys_below_the_threshold_rotate_nothing() {
    for via in EVERY {
        let host = Host::new(*via, &(allow(1, "") + &allow(2, "") + &allow(3, "")), 2);
        let mut good = Tree::good(GOOD);
        good.sign(&[1, 2]);
        host.publish(&good);
        host.expect_good(GOOD);
        let forged = set(1, &[1], 1);
        refuses(&host, &release(GOOD + 1, &[(&forged, &[1])], &[1]), "key set 1 has 1 good signature and needs 2");
        host.publish(&release(GOOD + 1, &[(&forged, &[1, 3])], &[1]));
        host.expect_good(GOOD + 1);
    }
}

#[test]
fn a_key_for_releases_alone_signs_no_set() {
    let host =
        Host::new(Via::Dir, &(allow(1, "namespaces=\"release@kpull\" ") + &allow(2, "namespaces=\"keys@kpull\" ")), 1);
    host.publish(&Tree::good(GOOD));
    host.expect_good(GOOD);
    let next = set(1, &[1], 1);
    let error =
        format!("no signature of key set 1 is good: it is signed by a key that is not allowed: {}", fingerprint(1));
    refuses(&host, &release(GOOD + 1, &[(&next, &[1])], &[1]), &error);
    let error =
        format!("no signature of the release is good: it is signed by a key that is not allowed: {}", fingerprint(2));
    refuses(&host, &release(GOOD + 1, &[], &[2]), &error);
    host.publish(&release(GOOD + 1, &[(&next, &[1, 2])], &[1]));
    host.expect_good(GOOD + 1);
}

#[test]
fn a_release_of_a_revoked_key_no_longer_counts_even_if_the_host_has_it() {
    for via in EVERY {
        let host = Host::with_good(*via);
        // the set is adopted, its release is not good
        host.publish(&release(GOOD + 1, &[(&without_key_1(), &[2])], &[1]));
        let ended = host.apply();
        let error = format!(
            "no signature of the release is good: it is signed by a key that is not allowed: {}",
            fingerprint(1)
        );
        assert_eq!((ended.error, ended.code), (error.clone(), 4));
        // a release that a revoked key has signed corrects no drift
        fs::write(host.root().join("etc/motd"), "drift\n").unwrap();
        assert_eq!(host.apply().code, 4);
        assert_eq!(fs::read_to_string(host.root().join("etc/motd")).unwrap(), "drift\n");
        host.publish(&release(GOOD + 1, &[(&without_key_1(), &[2])], &[2]));
        host.expect_good(GOOD + 1);
    }
}

#[test]
fn a_release_on_the_host_by_a_replaced_key_still_counts() {
    let host = Host::with_good(Via::Dir);
    let next = set(1, &[2], 1);
    host.publish(&release(GOOD + 1, &[(&next, &[2])], &[3]));
    assert_eq!(host.apply().code, 4);
    fs::write(host.root().join("etc/motd"), "drift\n").unwrap();
    assert_eq!(host.apply().code, 4);
    host.expect_files(GOOD);
}

#[test]
fn a_set_without_the_key_that_signed_a_serial_far_ahead_revokes_the_serial() {
    for via in EVERY {
        let host = Host::with_good(*via);
        // the owner of a key can do this: see the page on trust
        host.publish(&Tree::good(1 << 60));
        host.expect_good(1 << 60);
        let next = KeySet { last_serial: Some(GOOD), ..without_key_1() };
        let error =
            format!("the release has serial {GOOD}, but since the last change of keys none up to {GOOD} counts");
        host.publish(&release(GOOD, &[(&next, &[2])], &[2]));
        let ended = host.apply();
        assert_eq!((ended.error, ended.code), (error, 4));
        host.publish(&release(GOOD + 1, &[(&next, &[2])], &[2]));
        host.expect_good(GOOD + 1);
    }
}

#[test]
fn a_release_beyond_its_keys_last_serial_is_not_applied_even_with_a_valid_key() {
    let host = Host::with_good(Via::Dir);
    host.publish(&Tree::good(GOOD + 5));
    host.expect_good(GOOD + 5);
    let next = KeySet { last_serial: Some(GOOD), ..set(1, &[1, 2], 1) };
    host.publish(&release(GOOD, &[(&next, &[1])], &[1]));
    assert_eq!(host.apply().code, 4);
    fs::write(host.root().join("etc/motd"), "drift\n").unwrap();
    assert_eq!(host.apply().code, 4);
    assert_eq!(fs::read_to_string(host.root().join("etc/motd")).unwrap(), "drift\n");
}

#[test]
fn the_last_release_of_the_earlier_keys_still_counts() {
    let host = Host::with_good(Via::Dir);
    let good = host.published();
    let next = KeySet { last_serial: Some(GOOD), ..set(1, &[1, 2], 1) };
    host.publish(&release(GOOD + 1, &[(&next, &[1])], &[3]));
    assert_eq!(host.apply().code, 4);
    host.publish(&good);
    host.expect_good(GOOD);
    // also when all of it is read again
    fs::remove_file(host.state().join("sources.json")).unwrap();
    host.expect_good(GOOD);
}

#[test]
fn a_release_of_later_keys_stays_in_effect_when_no_source_answers() {
    let host = Host::with_good(Via::Dir);
    let (one, two) = (set(1, &[2], 1), set(2, &[3], 1));
    let sets: [(&KeySet, &[u8]); 2] = [(&one, &[1, 2]), (&two, &[2, 3])];
    for (serial, sets, key) in [(GOOD + 1, &sets[..1], 2), (GOOD + 2, &sets[..], 3)] {
        host.publish(&release(serial, sets, &[key]));
        host.expect_good(serial);
        fs::remove_dir_all(host.address()).unwrap();
        fs::write(host.root().join("etc/motd"), "drift\n").unwrap();
        let ended = host.apply();
        assert!(ended.error.ends_with("can't be opened: No such file or directory"), "{}", ended.error);
        assert_eq!(ended.code, 1);
        host.expect_files(serial);
        fs::create_dir(host.address()).unwrap();
    }
}

#[test]
fn a_host_rolls_back_to_a_release_of_a_replaced_key_but_not_of_a_revoked_one() {
    let back = |host: &Host| {
        let output = kpull().args(["rollback", "--reason=r", "--root"]).arg(host.root()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (next, code) in [(set(1, &[2], 1), 0), (without_key_1(), 4)] {
        let host = Host::with_good(Via::Dir);
        host.publish(&release(GOOD + 1, &[(&next, if code == 0 { &[1, 2] } else { &[2] })], &[2]));
        host.expect_good(GOOD + 1);
        let (ended, text) = back(&host);
        assert_eq!(ended, Some(code), "{text}");
        assert_eq!(text.contains("it is signed by a key that is not allowed"), code == 4, "{text}");
        host.expect_files(if code == 0 { GOOD } else { GOOD + 1 });
    }
}

#[test]
fn a_key_that_has_expired_in_its_set_does_not_count() {
    let host = Host::with_good(Via::Dir);
    let lines = allow(2, "") + &allow(3, "valid-before=\"20200101\" ");
    let next = KeySet { signers: AllowedSigners::parse("f", &lines).unwrap(), ..set(1, &[2], 1) };
    host.publish(&release(GOOD + 1, &[(&next, &[1, 2])], &[2]));
    host.expect_good(GOOD + 1);
    let error = "no signature of the release is good: it is signed by a key that is not valid now";
    refuses(&host, &release(GOOD + 2, &[(&next, &[1, 2])], &[3]), error);
}

#[test]
fn a_state_directory_that_was_deleted_does_not_make_an_old_release_new() {
    for via in EVERY {
        let host = Host::with_good(*via);
        let good = host.published();
        fs::remove_dir_all(host.state()).unwrap();
        host.publish(&Tree::good(GOOD - 1));
        let ended = host.apply();
        assert_eq!(
            ended.error,
            format!(
                "the state directory lacks what /etc/kpull/trust.toml has: this host is `a` of the site \
                 `lab`, last at release {GOOD}"
            )
        );
        assert_eq!(ended.code, 4);
        host.expect_files(GOOD);
        let (code, text) = enroll(&host, &[]);
        assert!(text.contains("the source has release 9, but this host has seen 10"), "{text}");
        assert_eq!(code, Some(4));
        host.publish(&good);
        let (code, text) = enroll(&host, &[]);
        assert!(text.contains(&format!("a is enrolled to the site {SITE}")), "{text}");
        assert!(text.contains(&fingerprint(1)), "{text}");
        assert_eq!(code, Some(0));
        host.expect_good(GOOD);
    }
}

#[test]
fn an_older_release_is_accepted_only_by_its_serial() {
    let host = Host::with_good(Via::Dir);
    host.publish(&Tree::good(GOOD - 1));
    assert_eq!(enroll(&host, &[]).0, Some(4));
    assert_eq!(host.apply().code, 4);
    assert_eq!(enroll(&host, &["--accept-serial", "9"]).0, Some(0));
    host.expect_good(GOOD - 1);
}

#[test]
fn a_lost_copy_of_the_trust_state_is_written_again() {
    let host = Host::with_good(Via::Dir);
    let trust = host.root().join("etc/kpull/trust.toml");
    let before = fs::read(&trust).unwrap();
    fs::remove_file(&trust).unwrap();
    host.expect_good(GOOD);
    assert_eq!(fs::read(&trust).unwrap(), before);
}

#[test]
fn other_keys_in_the_configuration_do_not_count_once_the_site_has_sets() {
    let host = Host::with_good(Via::Dir);
    let next = set(1, &[2], 1);
    host.publish(&release(GOOD + 1, &[(&next, &[1, 2])], &[2]));
    host.expect_good(GOOD + 1);
    fs::write(host.root().join("etc/kpull/allowed_signers"), allow(3, "")).unwrap();
    let ended = host.apply();
    assert_eq!(
        ended.error,
        "this host was enrolled with other keys than those in kpull.toml, and now follows key set 1"
    );
    assert_eq!(ended.code, 4);
}

#[test]
fn a_host_with_another_name_gets_no_other_catalog() {
    for via in EVERY {
        let host = Host::with_good(*via);
        let before = host.snapshot();
        let output = kpull().args(["apply", "--host", "b", "--root"]).arg(host.root()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("this host is enrolled as the host `a`, not as `b`"), "{text}");
        assert_eq!((output.status.code(), before), (Some(4), host.snapshot()));
    }
}

#[test]
fn a_host_requests_no_files_of_roles_that_it_does_not_have() {
    let host = Host::new(Via::Http, &allow(1, ""), 1);
    let mut tree = Tree::good(GOOD);
    tree.put("roles/other/role.toml", "summary = \"Not for a\"\n");
    tree.put("roles/other/files/big", "big\n");
    tree.put("pki/b/etcd.pem", "b's\n");
    tree.list(GOOD);
    host.publish(&tree);
    host.expect_good(GOOD);
    let asked = host.asked();
    assert!(asked.contains(&"/roles/base/files/more".to_owned()), "{asked:?}");
    assert!(asked.contains(&"/roles/other/role.toml".to_owned()), "{asked:?}");
    assert!(!asked.iter().any(|path| path.contains("big") || path.contains("pki/b")), "{asked:?}");
}

/// Makes a release invalid for every host.
fn spoil(tree: &mut Tree, serial: u64) {
    let role = tree.text("roles/base/role.toml");
    tree.put("roles/base/role.toml", format!("{role}[[file]]\npath = \"/dead/end/file\"\ncontent = \"x\"\n"));
    tree.list(serial);
}

/// A host with the good release, on which a spoilt one fails.
fn to_spoil() -> Host {
    let host = Host::with_good(Via::Dir);
    std::os::unix::fs::symlink("/proc/self", host.root().join("dead")).unwrap();
    fs::create_dir(host.root().join("proc")).unwrap();
    fs::write(host.root().join("proc/self"), "no directory").unwrap();
    host
}

#[test]
fn a_host_rolls_back_past_releases_that_no_longer_count() {
    let host = to_spoil();
    host.publish(&Tree::good(GOOD + 5));
    host.expect_good(GOOD + 5);
    let next = KeySet { last_serial: Some(GOOD), ..set(1, &[1, 2], 1) };
    let mut tree = release(GOOD + 1, &[(&next, &[1])], &[1]);
    spoil(&mut tree, GOOD + 1);
    host.publish(&tree);
    let ended = host.apply();
    assert_eq!(ended.code, 3, "{ended:?}");
    host.expect_files(GOOD);
}

#[test]
fn a_host_takes_the_first_release_after_a_serial_far_ahead_is_revoked() {
    let host = to_spoil();
    let mut tree = Tree::good(1 << 60);
    spoil(&mut tree, 1 << 60);
    host.publish(&tree);
    let ended = host.apply();
    assert_eq!(ended.code, 3, "{ended:?}");
    host.expect_files(GOOD);
    let next = KeySet { last_serial: Some(GOOD), ..set(1, &[1, 2], 1) };
    host.publish(&release(GOOD + 1, &[(&next, &[1])], &[2]));
    host.expect_good(GOOD + 1);
}

#[test]
fn no_rollback_leads_to_a_release_beyond_the_last_serial_of_its_keys() {
    let host = Host::with_good(Via::Dir);
    host.publish(&Tree::good(GOOD + 5));
    host.expect_good(GOOD + 5);
    let next = KeySet { last_serial: Some(GOOD), ..set(1, &[1, 2], 1) };
    host.publish(&release(GOOD + 1, &[(&next, &[1])], &[1]));
    host.expect_good(GOOD + 1);
    let back = kpull().args(["rollback", "2", "--json", "--root"]).arg(host.root()).output().unwrap();
    let text = String::from_utf8(back.stdout).unwrap();
    assert_eq!(back.status.code(), Some(4), "{text}");
    assert!(text.contains("no longer counts"), "{text}");
    host.expect_files(GOOD + 1);
    // the one before is within it
    let back = kpull().args(["rollback", "1", "--json", "--root"]).arg(host.root()).output().unwrap();
    assert_eq!(back.status.code(), Some(0), "{back:?}");
    host.expect_files(GOOD);
}
