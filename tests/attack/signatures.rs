//! Releases that the wrong keys signed, or no key, or too few of the right ones.

use kpull::document::layout::{MANIFEST, SIGNATURES};
use kpull::trust::NAMESPACE;

use crate::attack::host::{Attack, GOOD, Host, Tree, Via, allow, key, signature};

const SIGNERS: &str = "the keys that may sign are in /root/etc/kpull/allowed_signers";
const UNREADABLE: &str = "sign again: `kpull sign` writes them, and `ssh-keygen -Y sign` can add more";

fn fingerprint(number: u8) -> String {
    key(number).public_key().fingerprint(ssh_key::HashAlg::Sha256).to_string()
}

#[test]
fn an_unsigned_release_is_refused() {
    let error = "the release is not signed: there is no release.toml.sig";
    Attack { error, help: "sign the site with `kpull sign`", ..Attack::default() }
        .mount(|tree| drop(tree.0.remove(SIGNATURES)));
}

#[test]
fn an_empty_signature_is_refused() {
    let error = "the signatures of the release can't be read";
    Attack { error, help: UNREADABLE, ..Attack::default() }.mount(|tree| tree.put(SIGNATURES, ""));
}

#[test]
fn signatures_that_are_not_text_are_refused() {
    let error = "the signatures of the release can't be read";
    Attack { error, help: UNREADABLE, ..Attack::default() }.mount(|tree| tree.put(SIGNATURES, [0xff, 0, 0x1b, b'[']));
}

#[test]
fn a_signature_without_an_end_is_refused() {
    let error = "the signatures of the release can't be read";
    Attack { error, help: UNREADABLE, ..Attack::default() }.mount(|tree| {
        let text = tree.text(SIGNATURES);
        tree.put(SIGNATURES, &text[..text.len() - 10]);
    });
}

#[test]
fn garbage_between_the_armor_lines_of_a_signature_is_refused() {
    let error =
        "no signature of the release is good: a signature can't be read (PEM Base64 error: invalid Base64 encoding)";
    Attack { error, help: SIGNERS, ..Attack::default() }.mount(|tree| {
        tree.put(SIGNATURES, "-----BEGIN SSH SIGNATURE-----\n!!!!\n-----END SSH SIGNATURE-----\n");
    });
}

#[test]
fn a_key_that_is_not_allowed_is_refused_by_its_fingerprint() {
    let error =
        format!("no signature of the release is good: it is signed by a key that is not allowed: {}", fingerprint(3));
    Attack { error: &error, help: SIGNERS, ..Attack::default() }.mount(|tree| tree.sign(&[3]));
}

#[test]
fn a_signature_over_another_manifest_is_refused() {
    let error = "no signature of the release is good: the signature of signer1 is not over this release";
    Attack { error, help: SIGNERS, ..Attack::default() }.mount(|tree| {
        tree.put(SIGNATURES, Tree::good(GOOD + 7).text(SIGNATURES));
    });
}

#[test]
fn a_manifest_with_one_additional_space_is_refused() {
    let error = "no signature of the release is good: the signature of signer1 is not over this release";
    Attack { error, help: SIGNERS, ..Attack::default() }.mount(|tree| tree.put(MANIFEST, tree.text(MANIFEST) + " "));
}

#[test]
fn a_signature_for_another_purpose_is_refused() {
    let error = "no signature of the release is good: a signature is for `file` and not for `release@kpull`";
    Attack { error, help: SIGNERS, ..Attack::default() }.mount(|tree| {
        tree.put(SIGNATURES, signature(1, "file", tree.text(MANIFEST).as_bytes()));
    });
}

#[test]
fn an_expired_key_is_refused() {
    let error = "no signature of the release is good: it is signed by a key that is not valid now";
    let allowed = allow(1, "") + &allow(2, "") + &allow(3, "valid-before=\"20200101\" ");
    Attack { error, help: SIGNERS, allowed: Some(allowed), ..Attack::default() }.mount(|tree| tree.sign(&[3]));
}

#[test]
fn a_key_that_is_not_valid_yet_is_refused() {
    let error = "no signature of the release is good: it is signed by a key that is not valid now";
    let allowed = allow(1, "") + &allow(2, "") + &allow(3, "valid-after=\"29990101Z\" ");
    Attack { error, help: SIGNERS, allowed: Some(allowed), ..Attack::default() }.mount(|tree| tree.sign(&[3]));
}

#[test]
fn a_key_that_is_allowed_for_other_purposes_only_is_refused() {
    let error =
        format!("no signature of the release is good: it is signed by a key that is not allowed: {}", fingerprint(3));
    let allowed = allow(1, "") + &allow(2, "") + &allow(3, "namespaces=\"git,file\" ");
    Attack { error: &error, help: SIGNERS, allowed: Some(allowed), ..Attack::default() }.mount(|tree| tree.sign(&[3]));
}

#[test]
fn a_key_that_signs_twice_counts_once() {
    let error = "the release has 1 good signature and needs 2";
    Attack { error, help: SIGNERS, threshold: 2, ..Attack::default() }.mount(|tree| tree.sign(&[1, 1]));
}

#[test]
fn two_different_signatures_of_one_key_count_once() {
    let error = "the release has 1 good signature and needs 2";
    Attack { error, help: SIGNERS, threshold: 2, ..Attack::default() }.mount(|tree| {
        let message = tree.text(MANIFEST);
        let other = key(1).sign(NAMESPACE, ssh_key::HashAlg::Sha256, message.as_bytes()).unwrap();
        let other = other.to_pem(ssh_key::LineEnding::LF).unwrap();
        assert!(!tree.text(SIGNATURES).contains(&other));
        tree.put(SIGNATURES, tree.text(SIGNATURES) + &other);
    });
}

#[test]
fn a_key_that_is_listed_twice_counts_once() {
    let error = "the release has 1 good signature and needs 2";
    let allowed = allow(1, "") + &allow(1, "namespaces=\"release@kpull\" ") + &allow(2, "");
    Attack { error, help: SIGNERS, threshold: 2, allowed: Some(allowed), ..Attack::default() }
        .mount(|tree| tree.sign(&[1, 1]));
}

#[test]
fn one_good_and_one_bad_signature_do_not_count_as_two() {
    let error = format!(
        "the release has 1 good signature and needs 2: besides, it is signed by a key that is not allowed: {}",
        fingerprint(3)
    );
    Attack { error: &error, help: SIGNERS, threshold: 2, ..Attack::default() }.mount(|tree| tree.sign(&[3, 1]));
}

#[test]
fn one_good_signature_suffices_for_a_threshold_of_one_whatever_else_is_there() {
    let host = Host::with_good(Via::Dir);
    let mut tree = Tree::good(GOOD + 1);
    tree.sign(&[3, 1]);
    tree.put(SIGNATURES, format!("a note\n{}another\n", tree.text(SIGNATURES)));
    host.publish(&tree);
    host.expect_good(GOOD + 1);
}

#[test]
fn hundreds_of_signatures_are_refused_unread() {
    let error = "the release has more than 64 signatures";
    Attack { error, help: "one signature of each signer is enough: remove the others", ..Attack::default() }
        .mount(|tree| tree.sign(&[1; 100]));
}

#[test]
fn nothing_of_an_unsigned_manifest_is_parsed() {
    let error =
        format!("no signature of the release is good: it is signed by a key that is not allowed: {}", fingerprint(3));
    Attack { error: &error, help: SIGNERS, ..Attack::default() }.mount(|tree| {
        let nested = "[".repeat(4 << 20);
        tree.put(MANIFEST, format!("x = {nested}"));
        tree.sign(&[3]);
    });
}

#[test]
fn a_configuration_without_signers_or_with_too_high_a_threshold_is_refused() {
    let problem = |allowed: &str, threshold| {
        let host = Host::new(Via::Dir, allowed, threshold);
        host.publish(&Tree::good(GOOD));
        let ended = host.apply();
        assert_eq!(ended.code, 1);
        assert!(!host.root().join("etc/motd").exists());
        ended.error
    };
    assert_eq!(problem("# nobody\n", 1), "/root/etc/kpull/allowed_signers names no key that can sign releases");
    let git_only = allow(1, "namespaces=\"git\" ");
    assert_eq!(problem(&git_only, 1), "/root/etc/kpull/allowed_signers names no key that can sign releases");
    assert_eq!(problem(&allow(1, ""), 0), "`threshold` is 0, and /root/etc/kpull/allowed_signers has 1 key");
    assert_eq!(
        problem(&(allow(1, "") + &allow(1, "")), 2),
        "`threshold` is 2, and /root/etc/kpull/allowed_signers has 1 key"
    );
}

#[test]
fn a_host_with_new_signers_takes_the_same_release_again_when_they_have_signed() {
    for via in [Via::Dir, Via::Git, Via::Http] {
        let host = Host::with_good(via);
        let address = std::fs::read_to_string(host.root().join("etc/kpull/kpull.toml")).unwrap();
        let address = address.split_once("[[source]]\n").unwrap().1;
        host.configure(&allow(2, ""), 1, address);
        let ended = host.apply();
        assert_eq!(ended.code, 4, "{via:?}");
        assert!(ended.error.contains("a key that is not allowed"), "{via:?}: {}", ended.error);
        let mut tree = host.published();
        tree.sign(&[1, 2]);
        host.publish(&tree);
        host.expect_good(GOOD);
    }
}
