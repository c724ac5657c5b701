//! Round trips with OpenSSH's own programs, and `kpull sign`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use kpull::document::layout::{MANIFEST, SIGNATURES};
use kpull::trust::{Manifest, NAMESPACE};

use crate::attack::host::{Entry, GOOD, Host, Tree, Via, allow, key, kpull};

/// A site and a place for keys.
struct Operator {
    dir: tempfile::TempDir,
}

impl Operator {
    fn new() -> Self {
        let operator = Self { dir: tempfile::tempdir().unwrap() };
        for (path, entry) in Tree::good(GOOD).0 {
            if let Entry::File(content) = entry
                && !path.starts_with(MANIFEST)
            {
                operator.write(&format!("site/{path}"), content);
            }
        }
        operator
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), content).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Makes a key with ssh-keygen; the file is called `key`, and its public half `key.pub`.
    fn keygen(&self, kind: &[&str], passphrase: &str) -> PathBuf {
        let path = self.path("key");
        run(Command::new("ssh-keygen")
            .args(["-q", "-N", passphrase, "-C", "me", "-f"])
            .arg(&path)
            .arg("-t")
            .args(kind));
        path
    }

    /// Writes one of the known keys into a file.
    fn key(&self, number: u8) -> PathBuf {
        let path = self.path(&format!("key{number}"));
        key(number).write_openssh_file(&path, ssh_key::LineEnding::LF).unwrap();
        path
    }

    fn sign_with(&self, key: &Path, arguments: &[&str]) -> Command {
        let mut command = kpull();
        command.args(["sign", "--json", "--site"]).arg(self.path("site")).arg("--key").arg(key).args(arguments);
        command
    }

    /// Runs `kpull sign`, and reads what it says.
    fn sign(&self, key: &Path, arguments: &[&str]) -> serde_json::Value {
        let output = self.sign_with(key, arguments).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    }

    fn manifest(&self) -> Manifest {
        Manifest::parse(self.read(&format!("site/{MANIFEST}")).as_bytes()).unwrap()
    }

    /// Verifies the signatures with `ssh-keygen -Y verify`.
    fn verify(&self, public: &str) -> Output {
        self.write("allowed", format!("me namespaces=\"{NAMESPACE}\" {public}\n"));
        let mut child = Command::new("ssh-keygen")
            .args(["-Y", "verify", "-I", "me", "-n", NAMESPACE, "-f"])
            .arg(self.path("allowed"))
            .arg("-s")
            .arg(self.path("site").join(SIGNATURES))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(self.read(&format!("site/{MANIFEST}")).as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// A fresh host that allows this key and follows the site.
    fn apply(&self, public: &str) -> (i32, String) {
        let host = Host::new(Via::Dir, &format!("me {public}\n"), 1);
        host.configure(&format!("me {public}\n"), 1, &format!("dir = {:?}\n", self.path("site")));
        let ended = host.apply();
        if ended.code == 0 {
            host.expect_files(GOOD);
        }
        (ended.code, ended.error)
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

const KINDS: &[&[&str]] = &[&["ed25519"], &["ecdsa", "-b", "256"], &["rsa", "-b", "3072"]];

#[test]
fn ssh_keygen_accepts_what_kpull_signs() {
    for kind in KINDS {
        let operator = Operator::new();
        let key = operator.keygen(kind, "");
        let message = operator.sign(&key, &[]);
        assert_eq!(message["serial"], 1, "{kind:?}: {message}");
        let output = operator.verify(&operator.read("key.pub"));
        assert!(output.status.success(), "{kind:?}: {output:?}");
        assert_eq!(operator.apply(&operator.read("key.pub")), (0, String::new()), "{kind:?}");
    }
}

#[test]
fn kpull_accepts_signatures_of_ssh_keygen_for_this_purpose_and_for_no_other() {
    for kind in KINDS {
        let operator = Operator::new();
        let key = operator.keygen(kind, "");
        operator.sign(&operator.key(1), &[]);
        let manifest = operator.path("site").join(MANIFEST);
        let sign = |namespace: &str| {
            fs::remove_file(operator.path("site").join(SIGNATURES)).unwrap();
            run(Command::new("ssh-keygen").args(["-q", "-Y", "sign", "-n", namespace, "-f"]).arg(&key).arg(&manifest));
        };
        sign(NAMESPACE);
        assert_eq!(operator.apply(&operator.read("key.pub")), (0, String::new()), "{kind:?}");
        sign("file");
        let error = "no signature of the release is good: a signature is for `file` and not for `release@kpull`";
        assert_eq!(operator.apply(&operator.read("key.pub")), (4, error.to_owned()), "{kind:?}");
    }
}

#[test]
fn weak_and_unknown_keys_are_refused_in_a_list_of_signers() {
    for (kind, why) in [
        (["rsa", "-b", "2048"], "an RSA key needs 3072 bits or more"),
        (["ecdsa", "-b", "384"], "of ECDSA keys only nistp256 is supported"),
    ] {
        let operator = Operator::new();
        operator.keygen(&kind, "");
        operator.sign(&operator.key(1), &[]);
        let error = format!("/root/etc/kpull/allowed_signers:1: can't read this allowed signer: {why}");
        assert_eq!(operator.apply(&operator.read("key.pub")), (1, error));
    }
}

/// An agent that ends with the test.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_key_in_an_agent_signs_and_a_missing_one_is_reported() {
    let operator = Operator::new();
    let key = operator.keygen(&["ed25519"], "");
    let socket = operator.path("agent");
    let agent = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap();
    let _agent = Agent(agent);
    while !socket.exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let public = operator.read("key.pub");
    fs::rename(operator.path("key.pub"), operator.path("only.pub")).unwrap();
    let sign = || operator.sign_with(&operator.path("only.pub"), &[]).env("SSH_AUTH_SOCK", &socket).output().unwrap();

    let output = sign();
    let text: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let what = format!("can't sign with {} through ssh-keygen", operator.path("only.pub").display());
    assert!(text["error"].as_str().unwrap().starts_with(&what), "{text}");
    assert_eq!(text["help"], "check that the key is in the agent: `ssh-add -L` lists its keys");
    assert_eq!(output.status.code(), Some(1));
    assert!(!operator.path("site").join(SIGNATURES).exists() && !operator.path("site").join(MANIFEST).exists());

    run(Command::new("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket));
    fs::remove_file(&key).unwrap();
    let output = sign();
    assert!(output.status.success(), "{output:?}");
    assert!(operator.verify(&public).status.success());
    assert_eq!(operator.apply(&public), (0, String::new()));
}

#[test]
fn a_key_with_a_passphrase_signs_when_it_is_given() {
    let operator = Operator::new();
    let key = operator.keygen(&["ed25519"], "correct horse");
    let sign = |answer: &str| {
        operator.write("askpass", format!("#!/bin/sh\necho '{answer}'\n"));
        fs::set_permissions(operator.path("askpass"), fs::Permissions::from_mode(0o700)).unwrap();
        let mut command = operator.sign_with(&key, &[]);
        command.env("SSH_ASKPASS", operator.path("askpass")).env("SSH_ASKPASS_REQUIRE", "force");
        command.stdin(Stdio::null()).output().unwrap()
    };
    let output = sign("wrong");
    assert_eq!(output.status.code(), Some(1));
    assert!(!String::from_utf8_lossy(&output.stdout).contains("wrong"));
    assert!(!operator.path("site").join(MANIFEST).exists());
    assert!(sign("correct horse").status.success());
    assert!(operator.verify(&operator.read("key.pub")).status.success());
    assert_eq!(operator.apply(&operator.read("key.pub")), (0, String::new()));
}

#[test]
fn each_change_gets_the_next_serial_and_without_a_change_a_signature_is_added() {
    let operator = Operator::new();
    let (first, second) = (operator.key(1), operator.key(2));
    assert_eq!(operator.sign(&first, &[])["serial"], 1);
    let alone = operator.read(&format!("site/{SIGNATURES}"));
    assert_eq!(operator.sign(&first, &[])["serial"], 1);
    assert_eq!(operator.read(&format!("site/{SIGNATURES}")), alone, "the same signature is not added twice");
    let added = operator.sign(&second, &[]);
    assert_eq!((&added["serial"], &added["added"]), (&1.into(), &true.into()));
    assert!(operator.read(&format!("site/{SIGNATURES}")).starts_with(&alone));

    let host = Host::new(Via::Dir, "", 2);
    host.configure(&(allow(1, "") + &allow(2, "")), 2, &format!("dir = {:?}\n", operator.path("site")));
    host.expect_good(GOOD);

    operator.write("site/roles/base/files/more", "more of release 11\n");
    operator.write(
        "site/roles/base/role.toml",
        operator.read("site/roles/base/role.toml").replace("release 10", "release 11"),
    );
    let next = operator.sign(&second, &[]);
    assert_eq!((&next["serial"], &next["added"]), (&2.into(), &false.into()));
    assert_eq!(host.apply().error, "the release has 1 good signature and needs 2");
    operator.sign(&first, &[]);
    host.expect_good(GOOD + 1);
}

#[test]
fn renewing_makes_a_new_release_of_the_same_files() {
    let operator = Operator::new();
    let key = operator.key(1);
    operator.sign(&key, &["--lifetime", "2h"]);
    let before = operator.manifest();
    assert_eq!(before.expires.duration_since(before.created).as_hours(), 2);
    let renewed = operator.sign(&key, &["--renew", "--lifetime", "3d"]);
    assert_eq!((&renewed["serial"], &renewed["added"]), (&2.into(), &false.into()));
    let after = operator.manifest();
    assert_eq!(after.expires.duration_since(after.created).as_hours(), 72);
    assert_eq!(before.files, after.files);
    assert_eq!(
        operator.read(&format!("site/{SIGNATURES}")).matches("BEGIN").count(),
        1,
        "an old signature is worth nothing"
    );
}

#[test]
fn no_signature_is_valid_for_longer_than_the_signer_requests() {
    // the site contains a manifest of another author that is valid for years
    let operator = Operator::new();
    let key = operator.key(1);
    operator.sign(&key, &["--lifetime", "3000d"]);
    let before = operator.read(&format!("site/{SIGNATURES}"));
    let message = operator.sign(&operator.key(2), &[]);
    assert!(
        message["error"].as_str().unwrap().starts_with("the existing release (serial 1) is valid until "),
        "{message}"
    );
    assert_eq!(message["help"], "add a longer --lifetime to sign it anyway, or --renew to sign a release of your own");
    assert_eq!(operator.read(&format!("site/{SIGNATURES}")), before);
    assert_eq!(operator.sign(&operator.key(2), &["--renew"])["serial"], 2);
}

#[test]
fn the_second_signer_does_not_sign_times_that_kpull_does_not_write() {
    let operator = Operator::new();
    operator.sign(&operator.key(1), &[]);
    let (good, second) = (operator.manifest(), operator.key(2));
    let day = jiff::SignedDuration::from_hours(24);
    for (created, error) in [
        (
            good.created + day,
            format!("the existing release (serial 1) was created at {:.0}, which is in the future", good.created + day),
        ),
        // a host compares later key sets with that time
        (good.created - day, format!("the existing release (serial 1) is valid until {:.0}, but", good.expires)),
    ] {
        let manifest = kpull::trust::Manifest { created, ..good.clone() };
        operator.write(&format!("site/{MANIFEST}"), manifest.to_toml());
        let message = operator.sign(&second, &[]);
        assert!(message["error"].as_str().is_some_and(|message| message.starts_with(&error)), "{message}");
    }
}

#[test]
fn a_signer_of_another_ones_key_set_sees_what_it_changes() {
    let operator = Operator::new();
    let keys = |arguments: &[&str]| {
        let output = kpull().arg("keys").args(arguments).arg("--site").arg(operator.path("site")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let file = |name: &str, text: String| {
        operator.write(name, text);
        operator.path(name).display().to_string()
    };
    keys(&["new", "--release", "2", "--rotate", "2", "--signers", &file("both", allow(1, "") + &allow(2, ""))]);
    // the first signer gives the name of the second to a key of their own
    let forged = file("forged", allow(1, "") + &allow(3, "").replace("signer3", "signer2"));
    keys(&["new", "--release", "1", "--signers", &forged]);
    let message = keys(&["sign", "--key", operator.key(2).to_str().unwrap()]);
    let print = |number: u8| key(number).public_key().fingerprint(ssh_key::HashAlg::Sha256).to_string();
    for line in [
        format!("  removed  signer2          {}", print(2)),
        format!("  new      signer2          {}", print(3)),
        "  changed  a release needs 1, before 2".to_owned(),
    ] {
        assert!(message.lines().any(|message| message == line), "{line} is not in\n{message}");
    }
    assert!(!message.contains("the next key set needs 2, before"), "{message}");
}

#[test]
fn no_implausible_serial_is_signed_or_continued() {
    let operator = Operator::new();
    let key = operator.key(1);
    operator.sign(&key, &[]);
    let manifest = operator.read(&format!("site/{MANIFEST}"));
    // one signer can skip serials, and must not use them up with the signatures of others
    operator.write(&format!("site/{MANIFEST}"), manifest.replace("serial = 1", "serial = 1000000000000"));
    for arguments in [&[][..], &["--renew"]] {
        assert_eq!(
            operator.sign(&operator.key(2), arguments)["error"],
            "serial 1000000000000 is higher than any site can have reached"
        );
    }
    operator.write(&format!("site/{MANIFEST}"), manifest.replace("serial = 1", &format!("serial = {}", i64::MAX)));
    let message = operator.sign(&key, &["--renew"]);
    assert_eq!(message["error"], format!("serial {} is higher than any site can have reached", i64::MAX));
    assert_eq!(
        message["help"],
        "release.toml is not one of yours: restore the last one that you signed, and find out who changed it"
    );
}

#[test]
fn a_file_that_hosts_would_refuse_is_not_signed() {
    let operator = Operator::new();
    operator.write("site/roles/base/files/two\nlines", "x");
    let output = operator.sign_with(&operator.key(1), &[]).output().unwrap();
    let text: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(text["error"], "the release lists a path outside the tree: `roles/base/files/two\nlines`");
    assert_eq!(text["help"], "hosts would refuse such a release: rename the file, and sign again");
    assert_eq!(output.status.code(), Some(1));
    assert!(!operator.path("site").join(MANIFEST).exists());
}

#[test]
fn a_file_that_is_no_key_is_reported_and_not_quoted() {
    let operator = Operator::new();
    operator.write("none", "hunter2");
    let message = operator.sign(&operator.path("none"), &[]);
    let error = message["error"].as_str().unwrap();
    assert!(error.starts_with(&format!("{} is not an OpenSSH key", operator.path("none").display())), "{error}");
    assert!(!message.to_string().contains("hunter2"));
    assert_eq!(
        message["help"],
        "create one with `ssh-keygen -t ed25519`, or give the .pub file of a key in your agent"
    );
    let message = operator.sign(&operator.path("missing"), &[]);
    let error = message["error"].as_str().unwrap();
    assert!(error.starts_with(&format!("can't read the key {}", operator.path("missing").display())), "{error}");
}

/// A stand-in for a security key of the kind `sk-ssh-ed25519@openssh.com`: it signs as OpenSSH's PROTOCOL.u2f says, touched
/// or not.
struct StandInSecurityKey(rcgen::KeyPair);

impl StandInSecurityKey {
    const APPLICATION: &str = "ssh:";

    fn public(&self) -> ssh_key::public::KeyData {
        let point = ssh_key::public::Ed25519PublicKey(self.0.public_key_raw().try_into().unwrap());
        ssh_key::public::SkEd25519::new(point, Self::APPLICATION).into()
    }

    fn line(&self) -> String {
        format!("me {}\n", ssh_key::PublicKey::from(self.public()).to_openssh().unwrap())
    }

    fn sign(&self, message: &[u8], touched: bool) -> String {
        use rcgen::SigningKey as _;
        use sha2::{Digest, Sha256};
        let hash = ssh_key::HashAlg::Sha512;
        let signed = ssh_key::SshSig::signed_data(NAMESPACE, hash, message).unwrap();
        let flags_and_counter = [u8::from(touched), 0, 0, 0, 7];
        let mut data = Sha256::digest(Self::APPLICATION).to_vec();
        data.extend(flags_and_counter);
        data.extend(Sha256::digest(signed));
        let bytes = [self.0.sign(&data).unwrap(), flags_and_counter.to_vec()].concat();
        let signature = ssh_key::Signature::new(ssh_key::Algorithm::SkEd25519, bytes).unwrap();
        let signature = ssh_key::SshSig::new(self.public(), NAMESPACE, hash, signature).unwrap();
        signature.to_pem(ssh_key::LineEnding::LF).unwrap()
    }
}

#[test]
fn a_security_key_counts_only_if_it_was_touched() {
    let key = StandInSecurityKey(rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap());
    let host = Host::new(Via::Dir, &key.line(), 1);
    let mut tree = Tree::good(GOOD);
    let manifest = tree.text(MANIFEST);
    tree.put(SIGNATURES, key.sign(manifest.as_bytes(), false));
    host.publish(&tree);
    let ended = host.apply();
    assert_eq!(
        (ended.error.as_str(), ended.code),
        ("no signature of the release is good: the security key of me was not touched for the signature", 4)
    );
    tree.put(SIGNATURES, key.sign(manifest.as_bytes(), true));
    host.publish(&tree);
    host.expect_good(GOOD);
    // OpenSSH takes what the stand-in makes for a security key's too
    let operator = Operator::new();
    operator.write("signature", key.sign(b"message", true));
    operator.write("allowed", key.line());
    operator.write("message", "message");
    run(Command::new("ssh-keygen")
        .args(["-Y", "verify", "-I", "me", "-n", NAMESPACE, "-f"])
        .arg(operator.path("allowed"))
        .arg("-s")
        .arg(operator.path("signature"))
        .stdin(fs::File::open(operator.path("message")).unwrap()));
}

#[test]
fn a_site_changes_its_keys_with_ssh_keygen_and_kpull_keys() {
    let operator = Operator::new();
    let (one, two, three) = (operator.key(1), operator.key(2), operator.key(3));
    let keys = |arguments: &[&str]| {
        let output = kpull().arg("keys").args(arguments).arg("--site").arg(operator.path("site")).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text)
    };
    operator.write("new", allow(2, "") + &allow(3, ""));
    let new = operator.path("new");
    let (code, text) = keys(&["new", "--signers", new.to_str().unwrap(), "--rotate", "3"]);
    assert!(text.contains("`rotate` is 3, and 2 of its keys may sign for that"), "{text}");
    assert_eq!(code, Some(1));
    assert!(!operator.path("site/keys").exists());
    let (code, text) = keys(&["new", "--signers", new.to_str().unwrap(), "--rotate", "2"]);
    assert!(text.starts_with("wrote keys/1.toml"), "{text}");
    assert_eq!(code, Some(0));
    for key in [&one, &two] {
        assert_eq!(keys(&["sign", "--key", key.to_str().unwrap()]).0, Some(0));
    }
    // the third signature is ssh-keygen's own
    let set = operator.read("site/keys/1.toml");
    let output = Command::new("ssh-keygen")
        .args(["-Y", "sign", "-n", "keys@kpull", "-f"])
        .arg(&three)
        .stdin(fs::File::open(operator.path("site/keys/1.toml")).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success());
    operator.write("enrolled", allow(1, ""));
    let enrolled = operator.path("enrolled");
    let (_, text) = keys(&["show", "--enrolled", enrolled.to_str().unwrap()]);
    assert!(text.contains("does not count yet: key set 1 has 1 good signature and needs 2"), "{text}");
    let signatures = operator.read("site/keys/1.toml.sig") + &String::from_utf8(output.stdout).unwrap();
    operator.write("site/keys/1.toml.sig", &signatures);
    let (_, text) = keys(&["show", "--enrolled", enrolled.to_str().unwrap()]);
    assert!(text.contains("follows set 0"), "{text}");
    // a key that is not in the set signs no release
    let sign = |key: &Path| {
        kpull().arg("sign").arg("--site").arg(operator.path("site")).arg("--key").arg(key).output().unwrap()
    };
    let text = String::from_utf8(sign(&one).stderr).unwrap();
    assert!(text.contains("hosts would refuse a release with this signature, by key set 1"), "{text}");
    assert!(!operator.path("site/release.toml").exists());
    assert!(sign(&two).status.success());
    // an unknown key counts for nothing, and is not added
    let nobody = operator.key(9);
    keys(&["new", "--revoke", &key(3).public_key().fingerprint(ssh_key::HashAlg::Sha256).to_string(), "--rotate", "1"]);
    let (code, text) = keys(&["sign", "--key", nobody.to_str().unwrap()]);
    assert!(text.contains("neither in the previous set nor in this one"), "{text}");
    assert_eq!((code, operator.path("site/keys/2.toml.sig").exists()), (Some(1), false));
    let next = operator.read("site/keys/2.toml");
    assert!(next.contains("revoked = [") && !next.contains("signer3") && set.contains("signer3"), "{next}");
    let (code, text) = keys(&["new", "--revoke", "SHA256:x"]);
    assert!(text.contains("`SHA256:x` is not a fingerprint"), "{text}");
    assert_eq!(code, Some(1));
}

#[test]
fn a_threshold_of_enrolled_keys_decides_whether_a_first_key_set_follows() {
    let operator = Operator::new();
    let keys = |arguments: &[&str]| {
        let output = kpull().arg("keys").args(arguments).arg("--site").arg(operator.path("site")).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text)
    };
    for (name, lines) in [("new", allow(1, "")), ("one", allow(1, "")), ("two", allow(1, "") + &allow(2, ""))] {
        operator.write(name, lines);
    }
    let path = |name: &str| operator.path(name).display().to_string();
    assert_eq!(keys(&["new", "--signers", &path("new")]).0, Some(0));
    assert_eq!(keys(&["sign", "--key", &operator.key(1).display().to_string()]).0, Some(0));
    let show = |name: &str, threshold: &[&str]| keys(&[&["show", "--enrolled", &path(name)], threshold].concat());
    // one key leaves no question
    assert!(show("one", &[]).1.contains("  follows set 0\n"));
    assert!(show("two", &["--threshold", "1"]).1.contains("  follows set 0\n"));
    let (code, message) = show("two", &["--threshold", "2"]);
    assert!(message.contains("  does not count yet: key set 1 has 1 good signature and needs 2"), "{message}");
    assert_eq!(code, Some(0));
    let (code, message) = show("two", &[]);
    assert!(message.contains("how many of the 2 keys in"), "{message}");
    assert!(message.contains("--threshold N"), "{message}");
    assert_eq!(code, Some(1));
    for wrong in ["0", "3"] {
        let (code, message) = show("two", &["--threshold", wrong]);
        assert!(message.contains(&format!("`--threshold` is {wrong}, and 2 of the keys in")), "{message}");
        assert_eq!(code, Some(1));
    }
}

#[test]
fn a_key_on_two_lines_reaches_no_threshold_of_two() {
    let operator = Operator::new();
    let twice = allow(1, "") + &allow(1, "namespaces=\"*\" ").replace("signer1", "other");
    operator.write("twice", &twice);
    let reported = |command: &mut Command| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let new = |thresholds: &[&str]| {
        let mut command = kpull();
        command.args(["keys", "new", "--signers"]).arg(operator.path("twice")).args(thresholds);
        reported(command.arg("--site").arg(operator.path("site")))
    };
    assert!(new(&["--release", "2"]).contains("`release` is 2, and 1 of its keys may sign for that"));
    assert!(new(&["--rotate", "2"]).contains("`rotate` is 2, and 1 of its keys may sign for that"));
    // where a host starts from a list
    let host = |name: &str| {
        let tables = "[[source]]\ndir = \"/none\"\n[trust]\nsite = \"lab\"\nallowed_signers = \"allowed_signers\"\n";
        operator.write("tree/etc/kpull/allowed_signers", &twice);
        operator.write("tree/etc/kpull/kpull.toml", format!("host = \"h1\"\n{tables}{name}\n"));
        reported(kpull().arg("plan").arg("--root").arg(operator.path("tree")))
    };
    assert!(host("threshold = 2").contains("`threshold` is 2, and"), "{}", host("threshold = 2"));
    assert!(host("rotate_threshold = 2").contains("`rotate_threshold` is 2, and"), "{}", host("rotate_threshold = 2"));
    assert!(host("rotate_threshold = 0").contains("`rotate_threshold` is 0, and"));
}
