//! Enrollment under attack: what one signer, or the owner of a source, can do to a host that trusts no key yet.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use jiff::{SignedDuration, Timestamp};
use kpull::document::layout::MANIFEST;
use kpull::trust::{AllowedSigners, KeySet};

use crate::attack::host::{EVERY, Entry, GOOD, Host, SITE, Tree, Via, allow, kpull, signature};
use crate::attack::keys::{fingerprint, release, set};

/// Runs `kpull enroll`; its exit code, and what it says.
pub fn enroll(host: &Host, more: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } =
        kpull().args(["enroll", "--root"]).arg(host.root()).args(more).output().unwrap();
    (status.code(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

/// A host that trusts no key yet.
fn fresh(via: Via) -> Host {
    let host = Host::new(via, &allow(1, ""), 1);
    fs::remove_dir_all(host.root().join("etc/kpull")).unwrap();
    host
}

/// Enrols by the address of the source, and the fingerprints of these keys.
fn by_fingerprints(host: &Host, keys: &[u8], more: &[&str]) -> (Option<i32>, String) {
    let mut arguments = vec![host.address(), "--host=a".to_owned(), format!("--site={SITE}")];
    arguments.extend(host.is_git().then(|| "--git".to_owned()));
    arguments.extend(keys.iter().map(|number| format!("--fingerprint={}", fingerprint(*number))));
    arguments.extend(more.iter().map(|word| (*word).to_owned()));
    enroll(host, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The source is refused, with these words in the message, and nothing of an enrolment is left.
fn refuses(host: &Host, keys: &[u8], words: &str) {
    let (code, text) = by_fingerprints(host, keys, &[]);
    // a message is wrapped where a terminal would
    let plain = text.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
    assert!(plain.contains(words), "{text}");
    assert_eq!(code, Some(4), "{text}");
    for name in ["kpull.toml", "keys.toml", "allowed_signers"] {
        assert!(!host.root().join("etc/kpull").join(name).exists(), "{name} is left");
    }
}

#[test]
fn a_new_host_is_enrolled_by_an_address_and_a_fingerprint() {
    for via in EVERY {
        let host = fresh(*via);
        host.publish(&Tree::good(GOOD));
        let (code, text) = by_fingerprints(&host, &[3], &[]);
        assert!(text.contains("no signature of the release is of SHA256:"), "{text}");
        assert_eq!((code, host.root().join("etc/kpull/kpull.toml").exists()), (Some(4), false));
        let (code, text) = by_fingerprints(&host, &[1], &[]);
        assert!(text.contains("a is enrolled to the site lab"), "{text}");
        assert_eq!(code, Some(0), "{text}");
        let mode = |path: &str| fs::metadata(host.root().join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("etc/kpull"), mode("etc/kpull/kpull.toml"), mode("etc")), (0o700, 0o600, 0o755));
        host.expect_good(GOOD);
        let (code, text) = by_fingerprints(&host, &[1], &[]);
        assert!(text.contains("already exists"), "{text}");
        assert_eq!(code, Some(1));
    }
}

#[test]
fn a_new_host_is_enrolled_by_the_first_key_set_and_follows_the_others() {
    let host = fresh(Via::Dir);
    let (one, two) = (set(1, &[3], 1), set(2, &[4], 1));
    host.publish(&release(GOOD, &[(&one, &[1, 3]), (&two, &[3, 4])], &[4]));
    refuses(&host, &[4], "no signature of key set 1 is of SHA256:");
    let (code, text) = by_fingerprints(&host, &[3], &[]);
    assert!(text.contains("key set 2"), "{text}");
    assert_eq!(code, Some(0), "{text}");
    host.expect_good(GOOD);
}

#[test]
fn a_new_host_is_enrolled_by_a_later_set_in_a_file() {
    let host = fresh(Via::Dir);
    let (one, two) = (set(1, &[3], 1), set(2, &[4], 1));
    host.publish(&release(GOOD, &[(&one, &[1, 3]), (&two, &[3, 4])], &[4]));
    let file = host.root().join("2.toml");
    fs::write(&file, two.to_toml()).unwrap();
    let (code, text) = by_fingerprints(&host, &[], &[&format!("--signers={}", file.display())]);
    assert_eq!(code, Some(0), "{text}");
    host.expect_good(GOOD);
}

/// A first set that two of keys 1, 2 and 3 have to replace, and a second one of key 1 alone.
fn of_three_and_alone() -> (KeySet, KeySet) {
    (set(1, &[1, 2, 3], 2), set(2, &[1], 1))
}

#[test]
fn a_second_set_that_one_of_two_has_signed_enrolls_no_host() {
    for via in EVERY {
        let (first, alone) = of_three_and_alone();
        // the one whose fingerprint is given has signed the first set, and then one for himself
        let host = fresh(*via);
        host.publish(&release(GOOD, &[(&first, &[1, 2]), (&alone, &[1])], &[1]));
        refuses(&host, &[1], "key set 1 needs 2 fingerprints, and 1 is given");
        refuses(&host, &[1, 2], "key set 2 has 1 good signature and needs 2");
        // he has not even signed the first one
        host.publish(&release(GOOD, &[(&first, &[2, 3]), (&alone, &[1])], &[1]));
        refuses(&host, &[1], "no signature of key set 1 is of");
        refuses(&host, &[2, 3], "key set 2 has 1 good signature and needs 2");
        // the good one is taken by as many as it needs
        host.publish(&release(GOOD, &[(&first, &[2, 3])], &[1]));
        assert_eq!(by_fingerprints(&host, &[2, 3], &[]).0, Some(0));
        host.expect_good(GOOD);
    }
}

#[test]
fn a_fingerprint_that_is_given_twice_counts_once() {
    let (first, alone) = of_three_and_alone();
    let host = fresh(Via::Dir);
    host.publish(&release(GOOD, &[(&first, &[1, 2]), (&alone, &[1])], &[1]));
    refuses(&host, &[1, 1], "key set 1 needs 2 fingerprints, and 1 is given");
}

#[test]
fn a_first_set_without_its_signatures_is_not_skipped() {
    for via in EVERY {
        let host = fresh(*via);
        let mut tree = release(GOOD, &[(&of_three_and_alone().0, &[1, 2])], &[1]);
        tree.0.remove("keys/1.toml.sig");
        tree.list(GOOD);
        host.publish(&tree);
        refuses(&host, &[1], "key set 1 is not signed: there is no keys/1.toml.sig");
    }
}

#[test]
fn a_source_that_hides_the_key_sets_needs_every_key_that_was_named() {
    for via in EVERY {
        let host = fresh(*via);
        let mut tree = Tree::good(GOOD);
        // key 2 has signed something once: that shows which key it is, and nothing else
        let message = tree.text(MANIFEST);
        let both = signature(1, "release@kpull", message.as_bytes()) + &signature(2, "release@kpull", b"another");
        tree.put("release.toml.sig", both);
        host.publish(&tree);
        refuses(&host, &[1, 2], "the release has 1 good signature and needs 2");
        tree.sign(&[1, 2]);
        host.publish(&tree);
        assert_eq!(by_fingerprints(&host, &[1, 2], &[]).0, Some(0));
        host.expect_good(GOOD);
        host.publish(&Tree::good(GOOD + 1));
        assert_eq!(host.apply().error, "the release has 1 good signature and needs 2");
    }
}

#[test]
fn a_later_set_in_place_of_the_first_enrolls_no_host() {
    let host = fresh(Via::Dir);
    let (first, second) = (set(1, &[1, 2], 1), set(2, &[2], 1));
    let mut tree = release(GOOD, &[(&first, &[1, 2]), (&second, &[2])], &[2]);
    for (from, to) in [("keys/2.toml", "keys/1.toml"), ("keys/2.toml.sig", "keys/1.toml.sig")] {
        let Some(Entry::File(content)) = tree.0.remove(from) else { panic!("{from} does not exist") };
        tree.put(to, content);
    }
    tree.list(GOOD);
    tree.sign(&[2]);
    host.publish(&tree);
    refuses(&host, &[2], "it has number 2");
}

#[test]
fn a_key_set_or_a_release_of_another_site_enrolls_no_host() {
    for via in EVERY {
        let host = fresh(*via);
        let other = KeySet { site: "other".to_owned(), ..set(1, &[1], 1) };
        host.publish(&release(GOOD, &[(&other, &[1])], &[1]));
        refuses(&host, &[1], "it is for the site `other`, and this host belongs to `lab`");
        let mut tree = Tree::good(GOOD);
        tree.set("site", "\"other\"");
        host.publish(&tree);
        refuses(&host, &[1], "the release is for the site `other`, and this host belongs to `lab`");
    }
}

#[test]
fn an_address_without_a_site_and_a_source_without_keys_enroll_no_host() {
    let host = fresh(Via::Dir);
    host.publish(&Tree::good(GOOD));
    let address = host.address();
    let (code, text) = enroll(&host, &[&address, "--host=a", &format!("--fingerprint={}", fingerprint(1))]);
    assert!(text.contains("--site <NAME>"), "{text}");
    assert_eq!(code, Some(1), "{text}");
    let (code, text) = by_fingerprints(&host, &[], &[]);
    assert!(text.contains("--fingerprint SHA256:…"), "{text}");
    assert_eq!(code, Some(1), "{text}");
    assert!(!host.root().join("etc/kpull/kpull.toml").exists());
}

#[test]
fn nothing_unsigned_is_parsed_when_a_host_is_enrolled() {
    for via in EVERY {
        let host = fresh(*via);
        let mut tree = Tree::good(GOOD);
        tree.put(MANIFEST, format!("x = [{}", "[],".repeat(2 << 20)));
        tree.sign(&[3]);
        // its signature names the key, and is over something else
        tree.put("release.toml.sig", signature(1, "release@kpull", b"another"));
        host.publish(&tree);
        refuses(&host, &[1], "the signature of signer is not over this release");
        tree.put("release.toml.sig", "nothing");
        host.publish(&tree);
        refuses(&host, &[1], "the signatures of the release can't be read");
        tree.put("keys/1.toml", "x = [".to_owned() + &"[],".repeat(9 << 10));
        tree.put("keys/1.toml.sig", signature(1, "keys@kpull", b"another"));
        host.publish(&tree);
        refuses(&host, &[1], "the signature of signer is not over this key set 1");
    }
}

#[test]
fn enrolling_again_by_key_sets_keeps_the_record_of_the_newest_release() {
    let first = set(1, &[2], 1);
    for via in EVERY {
        let host = Host::with_good(*via);
        host.publish(&release(GOOD + 5, &[(&first, &[1, 2])], &[2]));
        host.expect_good(GOOD + 5);
        host.publish(&release(GOOD + 1, &[(&first, &[1, 2])], &[2]));
        for _ in 0..2 {
            let (code, text) = enroll(&host, &[]);
            assert!(text.contains("the source has release 11, but this host has seen 15"), "{text}");
            assert_eq!(code, Some(4));
            assert_eq!(host.apply().code, 4);
            host.expect_files(GOOD + 5);
        }
        assert_eq!(enroll(&host, &["--accept-serial", "11"]).0, Some(0));
        host.expect_good(GOOD + 1);
    }
}

#[test]
fn enrolling_again_does_not_revoke_serials_that_a_set_revoked_once() {
    let host = Host::with_good(Via::Dir);
    let first = KeySet { last_serial: Some(GOOD), ..set(1, &[2], 1) };
    host.publish(&release(GOOD + 5, &[(&first, &[1, 2])], &[2]));
    host.expect_good(GOOD + 5);
    host.publish(&release(GOOD + 1, &[(&first, &[1, 2])], &[2]));
    assert_eq!(enroll(&host, &[]).0, Some(4));
    assert_eq!(host.apply().code, 4);
}

#[test]
fn a_source_that_hides_later_sets_returns_no_host_to_replaced_keys() {
    let (first, second) = (set(1, &[2], 1), set(2, &[3], 1));
    for via in EVERY {
        let host = Host::with_good(*via);
        host.publish(&release(GOOD + 1, &[(&first, &[1, 2]), (&second, &[2, 3])], &[3]));
        host.expect_good(GOOD + 1);
        let before = host.snapshot();
        host.publish(&release(GOOD + 2, &[(&first, &[1, 2])], &[2]));
        let (code, text) = enroll(&host, &[]);
        assert!(text.contains("this host has followed key set 2, and the source ends with set 1"), "{text}");
        assert_eq!((code, before), (Some(4), host.snapshot()));
        // an operator who lost sets on purpose names the set to start from
        let (code, text) = by_fingerprints(&host, &[2], &["--replace", "--accept-serial=12"]);
        assert_eq!(code, Some(0), "{text}");
        host.expect_good(GOOD + 2);
    }
}

#[test]
fn another_release_with_a_serial_that_was_seen_enrolls_no_host() {
    let host = Host::with_good(Via::Dir);
    let mut tree = Tree::good(GOOD);
    tree.put("roles/base/files/more", "another\n");
    tree.list(GOOD);
    host.publish(&tree);
    let (code, text) = enroll(&host, &[]);
    assert!(text.contains("there are two different releases with serial 10"), "{text}");
    assert_eq!(code, Some(4));
    assert_eq!(host.apply().code, 4);
}

#[test]
fn a_file_that_would_fill_the_memory_is_refused_before_it_is_read() {
    // each of these took a thousand times its size
    let numbers = "1,".repeat(3 << 20);
    for text in [
        format!("a = [{numbers}]"),
        format!("{} = [{numbers}]", "k".repeat(1000)),
        format!("a = {}{numbers}{}", "[".repeat(70), "]".repeat(70)),
        "[[a]]\n".repeat(1 << 20),
        format!("a = [{}]", "{},".repeat(1 << 20)),
    ] {
        let site = tempfile::tempdir().unwrap();
        fs::write(site.path().join("site.toml"), format!("name = \"lab\"\n{text}\n")).unwrap();
        let output = limited(&["check", "--site"], site.path());
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("site.toml is too large: it has "), "{text}");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn the_memory_for_values_does_not_grow_with_the_length_of_their_tables_names() {
    let (name, numbers) = ("k".repeat(100_000), "1,".repeat(100_000));
    for text in [format!("{name} = [{numbers}]"), format!("{name} = {}{numbers}{}", "[".repeat(70), "]".repeat(70))] {
        let site = tempfile::tempdir().unwrap();
        fs::write(site.path().join("site.toml"), format!("name = \"lab\"\n[vars]\n{text}\n")).unwrap();
        let output = limited(&["check", "--site"], site.path());
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{text}");
    }
}

/// Runs the program with half a GiB of memory.
fn limited(arguments: &[&str], site: &Path) -> Output {
    let limited = "ulimit -v 500000; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", limited, env!("CARGO_BIN_EXE_kpull")]).args(arguments).arg(site).output().unwrap()
}

fn day(days: i64) -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap() + SignedDuration::from_hours(24 * days)
}

/// `KEY 1, valid until so many days from now`, for a list of allowed signers.
fn until(days: i64) -> String {
    allow(1, &format!("valid-before=\"{}\" ", day(days).strftime("%Y%m%d%H%M%S")))
}

fn made(days: i64, set: KeySet) -> KeySet {
    KeySet { created: day(days), ..set }
}

#[test]
fn a_host_that_was_off_when_its_keys_expired_follows_sets_signed_in_time() {
    for via in EVERY {
        // the keys of sets 0 and 1 are over by now, and each had signed the next set before
        let host = Host::new(*via, &until(-50), 1);
        let lines = allow(2, &format!("valid-before=\"{}\" ", day(-20).strftime("%Y%m%d%H%M%S")));
        let first = KeySet { signers: AllowedSigners::parse("f", &lines).unwrap(), ..made(-60, set(1, &[2], 1)) };
        let second = made(-30, set(2, &[3], 1));
        let sets: [(&KeySet, &[u8]); 2] = [(&first, &[1, 2]), (&second, &[2, 3])];
        host.publish(&release(GOOD, &sets, &[2]));
        // the last set has to be good now
        assert_eq!(host.apply().code, 4);
        host.publish(&release(GOOD, &sets, &[3]));
        host.expect_good(GOOD);
    }
}

#[test]
fn an_expired_key_signs_no_set_that_is_dated_after_its_expiry() {
    for via in EVERY {
        let host = Host::new(*via, &until(-50), 1);
        for created in [-50, -1, 0, 30] {
            host.publish(&release(GOOD, &[(&made(created, set(1, &[2], 1)), &[1, 2])], &[2]));
            let ended = host.apply();
            let error = "no signature of key set 1 is good: it is signed by a key that is not valid now";
            assert_eq!((ended.error.as_str(), ended.code), (error, 4), "{created}");
        }
    }
}

#[test]
fn a_backdated_set_changes_no_host_that_has_run_since_its_date() {
    for via in EVERY {
        let both = until(-1) + &allow(2, "");
        let host = Host::new(*via, &both, 1);
        let mut good = Tree::good(GOOD);
        good.sign(&[2]);
        host.publish(&good);
        host.expect_good(GOOD);
        let before = host.snapshot();
        // key 1 was stolen after its expiry: the thief dates the set back
        host.publish(&release(GOOD + 1, &[(&made(-2, set(1, &[3], 1)), &[1, 3])], &[3]));
        let ended = host.apply();
        assert!(ended.error.contains("signed by a key that is not valid now"), "{}", ended.error);
        assert_eq!((ended.code, before), (4, host.snapshot()));
    }
}

#[test]
fn a_key_that_is_not_valid_yet_signs_no_postdated_set() {
    let line = allow(1, &format!("valid-after=\"{}\" ", day(30).strftime("%Y%m%d%H%M%S")));
    let host = Host::new(Via::Dir, &(line + &allow(2, "")), 1);
    host.publish(&release(GOOD, &[(&made(40, set(1, &[3], 1)), &[1, 3])], &[3]));
    let ended = host.apply();
    assert!(ended.error.contains("signed by a key that is not valid now"), "{}", ended.error);
    assert_eq!(ended.code, 4);
}
