//! Authorities and certificates: created by an operator, installed by a host, accepted by OpenSSL.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use ssh_key::LineEnding;
use ssh_key::private::{Ed25519Keypair, PrivateKey};

use crate::support::shipped::assemble;
use crate::support::site::{Output, Site, Tree, key, kpull};

/// A role with one certificate.
pub const WEB: &str = r#"
[[certificate]]
name = "web"
authority = "lan"
organization = ["people"]
dns = ["{{ host.name }}", "www.example.org"]
ip = ["{{ host.address }}", "fd00::1"]
cert = "/etc/web/cert.pem"
key = "/etc/web/key.pem"
ca = "/etc/web/ca.pem"
"#;

/// A site with an authority, and a host `h1` whose role has a certificate of it.
pub struct World {
    /// The site.
    pub site: Site,
    /// The host.
    pub tree: Tree,
}

fn public(key: &PrivateKey) -> String {
    key.public_key().to_openssh().unwrap()
}

fn host_key() -> PrivateKey {
    Ed25519Keypair::from_seed(&[8; 32]).into()
}

impl World {
    /// A site whose authority has issued nothing yet.
    pub fn new(role: &str) -> Self {
        let site = Site::new("test");
        site.file(
            "site.toml",
            format!(
                "name = \"test\"\n[secrets]\nrecipients = [{:?}]\n[pki.lan]\n[pki.tokens]\nkind = \"key-pair\"\n",
                public(key())
            ),
        );
        site.host("h1", &format!("address = \"10.0.0.1\"\nroles = [\"web\"]\nrecipient = {:?}\n", public(&host_key())));
        site.role("web", role);
        let tree = site.enroll();
        tree.write("etc/ssh/ssh_host_ed25519_key", &*host_key().to_openssh(LineEnding::LF).unwrap());
        Self { site, tree }
    }

    /// The same, with everything issued.
    pub fn issued(role: &str) -> Self {
        let world = Self::new(role);
        world.pki("init").exits(0);
        world.pki("issue").exits(0);
        world
    }

    /// Runs `kpull pki COMMAND` as the operator.
    fn pki(&self, command: &str) -> Output {
        let (site, identity) = (self.site.path().display().to_string(), self.tree.key());
        let mut arguments = vec!["pki"];
        arguments.extend(command.split(' '));
        arguments.extend(["--site", &site]);
        if !matches!(arguments[1], "init" | "list") {
            arguments.extend(["--identity", &identity]);
        }
        kpull(&arguments)
    }

    /// The advice to run a command on the site.
    fn run(&self, command: &str) -> String {
        format!("run `kpull pki {command} --site {}`", self.site.path().display())
    }

    fn check(&self) -> Output {
        kpull(&["check", "--json", "--site", &self.site.path().display().to_string()])
    }

    /// Signs the site, and applies it.
    pub fn apply(&self) -> Output {
        self.site.sign();
        self.tree.kpull("apply --json")
    }

    fn at(&self, path: &str) -> PathBuf {
        self.site.path().join(path)
    }

    /// Every file of the site's pki/ and secrets/.
    fn snapshot(&self) -> Vec<(String, Vec<u8>)> {
        let files = kpull::document::Files::in_directory(self.site.path()).unwrap();
        let ours = files.iter().filter(|(path, _)| path.starts_with("pki/") || path.starts_with("secrets/"));
        ours.map(|(path, content)| (path.to_owned(), content.to_vec())).collect()
    }

    fn state(&self) -> String {
        let list = self.pki("list --json");
        list.json()[0]["state"].as_str().unwrap().to_owned()
    }

    fn serial(&self) -> String {
        self.pki("list --json").json()[0]["serial"].as_str().unwrap().to_owned()
    }
}

/// What an `openssl` command writes; it has to succeed.
#[track_caller]
fn openssl(arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "openssl {arguments:?}: {out}{err}");
    out.into_owned()
}

fn fails(arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    assert!(!output.status.success(), "openssl {arguments:?} succeeded");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_new_key_is_only_for_recipients_that_could_read_the_old_one() {
    let world = World::issued(WEB);
    let before = world.snapshot();
    let mallory: PrivateKey = Ed25519Keypair::from_seed(&[66; 32]).into();
    let fingerprint = mallory.fingerprint(ssh_key::HashAlg::Sha256).to_string();
    let path = world.at("host_vars/h1.toml");
    let text = fs::read_to_string(&path).unwrap();
    let own = format!("{:?}", public(&host_key()));
    fs::write(&path, text.replace(&own, &format!("[{own}, {:?}]", public(&mallory)))).unwrap();
    let refused = world.pki("renew web").exits(1);
    assert!(refused.stderr.contains(&format!("would be readable by h1 ({fingerprint})")), "{}", refused.stderr);
    assert_eq!(world.snapshot(), before);
    // once the operator has confirmed
    let (site, identity) = (world.site.path().display().to_string(), world.tree.key());
    kpull(&["secret", "rekey", "--site", &site, "--identity", &identity])
        .fails(1, "would get new recipients, so nothing was written");
    kpull(&["secret", "rekey", "--yes", "--site", &site, "--identity", &identity]).exits(0);
    world.pki("renew web").exits(0);
    assert_ne!(world.snapshot(), before);
}

#[test]
fn an_issued_certificate_is_on_the_host_and_openssl_accepts_it() {
    let world = World::issued(WEB);
    assert_eq!(world.apply().changed(), ["certificate:web"]);
    assert!(world.tree.kpull("apply --json").changed().is_empty());
    assert_eq!(world.tree.mode("etc/web/key.pem"), 0o600);
    assert_eq!(world.tree.mode("etc/web/cert.pem"), 0o644);
    let at = |path: &str| world.tree.at(path).display().to_string();
    let (ca, cert, key) = (at("etc/web/ca.pem"), at("etc/web/cert.pem"), at("etc/web/key.pem"));
    for purpose in ["sslserver", "sslclient"] {
        openssl(&[
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-verify_hostname",
            "www.example.org",
            "-CAfile",
            &ca,
            &cert,
        ]);
    }
    let text = openssl(&["x509", "-in", &cert, "-noout", "-text"]);
    for part in [
        "Issuer: CN = lan-ca",
        "Subject: O = people, CN = web",
        "DNS:h1, DNS:www.example.org, IP Address:10.0.0.1, IP Address:FD00:0:0:0:0:0:0:1\n",
        "X509v3 Key Usage: critical\n                Digital Signature\n",
        "TLS Web Server Authentication, TLS Web Client Authentication\n",
        "X509v3 Basic Constraints: critical\n                CA:FALSE\n",
        "X509v3 Subject Key Identifier",
        "X509v3 Authority Key Identifier",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let text = openssl(&["x509", "-in", &ca, "-noout", "-text"]);
    assert!(text.contains("critical\n                CA:TRUE, pathlen:0\n"), "{text}");
    assert!(text.contains("critical\n                Certificate Sign, CRL Sign\n"), "{text}");
    assert_eq!(openssl(&["pkey", "-in", &key, "-pubout"]), openssl(&["x509", "-in", &cert, "-noout", "-pubkey"]));
}

#[test]
fn rsa_keys_are_accepted_too() {
    let world = World::issued(&WEB.replace("name = \"web\"", "name = \"web\"\nkey_type = \"rsa-2048\""));
    assert_eq!(world.apply().changed(), ["certificate:web"]);
    let at = |path: &str| world.tree.at(path).display().to_string();
    openssl(&[
        "verify",
        "-x509_strict",
        "-purpose",
        "sslserver",
        "-CAfile",
        &at("etc/web/ca.pem"),
        &at("etc/web/cert.pem"),
    ]);
    let text = openssl(&["x509", "-in", &at("etc/web/cert.pem"), "-noout", "-text"]);
    assert!(
        text.contains("Public-Key: (2048 bit)") && text.contains("Digital Signature, Key Encipherment\n"),
        "{text}"
    );
    assert_eq!(world.state(), "good");
}

#[test]
fn init_and_issue_change_no_existing_file() {
    let world = World::issued(WEB);
    let before = world.snapshot();
    assert!(world.pki("init").exits(0).stdout.contains("nothing to do"));
    assert!(world.pki("issue").exits(0).stdout.contains("nothing to do"));
    assert!(world.pki("renew").exits(0).stdout.contains("nothing to do"));
    assert_eq!(world.snapshot(), before);
    assert!(before.iter().all(|(_, content)| !String::from_utf8_lossy(content).contains("PRIVATE KEY")));
}

#[test]
fn a_missing_certificate_is_reported_with_the_command_that_issues_it() {
    let world = World::new(WEB);
    let error = world.check().exits(1).error();
    assert_eq!(error["error"], "`name` of this certificate can't be used: the site has no pki/lan.pem");
    assert_eq!(error["help"], world.run("init"));
    world.pki("init").exits(0);
    let error = world.check().exits(1).error();
    assert_eq!(error["error"], "`name` of this certificate can't be used: the site has no pki/h1/web.pem");
    assert_eq!(error["help"], world.run("issue"));
    world.pki("issue").exits(0);
    world.check().exits(0);
    fs::remove_file(world.at("secrets/pki/h1/web.key.age")).unwrap();
    assert_eq!(world.state(), "missing");
}

#[test]
fn a_changed_certificate_request_is_an_error_until_it_is_issued_again() {
    let world = World::issued(WEB);
    world.site.role("web", &WEB.replace("www.example.org", "app.example.org"));
    let error = world.check().exits(1).error();
    assert_eq!(
        error["error"],
        "the certificate web of h1 is not valid: lacks the name app.example.org; also has the name www.example.org"
    );
    assert_eq!(error["help"], world.run("issue"));
    let old = world.serial();
    world.pki("issue").exits(0);
    world.check().exits(0);
    assert_ne!(world.serial(), old);
}

#[test]
fn a_certificate_that_expires_soon_is_renewed_and_an_expired_one_is_an_error() {
    let short = WEB.replace("name = \"web\"", "name = \"web\"\nlifetime = \"2d\"");
    let world = World::issued(&short);
    assert_eq!(world.state(), "good");
    world.site.role("web", WEB);
    assert_eq!(world.state(), "due");
    let warning = world.check().exits(0);
    let words = warning.events("warning")[0]["warning"].as_str().unwrap().to_owned();
    assert_eq!(words, format!("the certificate web of h1 expires in 1 days: {}", world.run("renew")));
    let old = world.serial();
    world.pki("renew --host h1").exits(0);
    assert_ne!(world.serial(), old);
    assert_eq!(world.state(), "good");

    world.site.role("web", &WEB.replace("name = \"web\"", "name = \"web\"\nlifetime = \"1s\""));
    world.pki("renew web").exits(0);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let error = world.check().exits(1).error();
    assert_eq!(error["error"], "the certificate web of h1 is not valid: it has expired");
    assert_eq!(error["help"], world.run("renew"));
}

#[test]
fn a_certificate_never_outlives_its_authority() {
    let world = World::new(WEB);
    let text = fs::read_to_string(world.at("site.toml")).unwrap();
    world.site.file("site.toml", text.replace("[pki.lan]", "[pki.lan]\nlifetime = \"100d\""));
    world.pki("init").exits(0);
    let issued = world.pki("issue").exits(0);
    assert!(issued.stdout.contains("when the authority lan expires too"), "{}", issued.stdout);
    assert_eq!(world.pki("list --json").json()[0]["days"], 99);
}

#[test]
fn only_an_operator_can_issue_and_a_failure_changes_nothing() {
    let world = World::new(WEB);
    world.pki("init").exits(0);
    let before = world.snapshot();
    let (site, host) = (world.site.path().display().to_string(), world.tree.at("etc/ssh/ssh_host_ed25519_key"));
    let refused = kpull(&["pki", "issue", "--site", &site, "--identity", &host.display().to_string()]).exits(1);
    assert!(refused.stderr.contains("can't read the secret pki/lan.key"), "{}", refused.stderr);
    // one host can get its key, the other can't: none gets anything
    world.site.host("h2", "address = \"10.0.0.2\"\nroles = [\"web\"]\n");
    let refused = world.pki("issue").exits(1);
    assert!(refused.stderr.contains("host_vars/h2.toml has no `recipient`"), "{}", refused.stderr);
    assert_eq!(world.snapshot(), before);
}

#[test]
fn a_host_reads_no_key_but_its_own() {
    let world = World::new(WEB);
    let other: PrivateKey = Ed25519Keypair::from_seed(&[9; 32]).into();
    world.site.host("h2", &format!("address = \"10.0.0.2\"\nroles = [\"web\"]\nrecipient = {:?}\n", public(&other)));
    world.pki("init").exits(0);
    world.pki("issue").exits(0);
    let keys = kpull::secret::Keyring::load(&[world.tree.at("etc/ssh/ssh_host_ed25519_key")], None).unwrap();
    let open = |path: &str| keys.open(path, &fs::read(world.at(path)).unwrap());
    assert!(open("secrets/pki/h1/web.key.age").is_ok());
    for not_ours in ["h2/web", "lan", "tokens"] {
        let path = format!("secrets/pki/{not_ours}.key.age");
        let error = open(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("can't read the secret {path}: it is not encrypted to ")), "{error}");
    }
}

#[test]
fn a_revoked_certificate_is_in_the_list_and_the_next_issue_makes_another_one() {
    let world = World::issued(WEB);
    let old = fs::read(world.at("pki/h1/web.pem")).unwrap();
    let serial = world.serial();
    world.pki("revoke h1 web --reason key-compromise").exits(0);
    assert!(!world.at("pki/h1/web.pem").exists() && !world.at("secrets/pki/h1/web.key.age").exists());
    assert_eq!(world.state(), "missing");
    world.pki("issue").exits(0);
    world.check().exits(0);

    let at = |path: &str| world.at(path).display().to_string();
    let list = openssl(&["crl", "-in", &at("pki/lan.crl"), "-noout", "-text", "-CAfile", &at("pki/lan.pem")]);
    assert!(list.to_lowercase().contains(serial.trim_start_matches('0')) && list.contains("Key Compromise"), "{list}");
    fs::write(world.at("old.pem"), old).unwrap();
    let crl = ["verify", "-crl_check", "-CAfile", &at("pki/lan.pem"), "-CRLfile", &at("pki/lan.crl")];
    assert!(fails(&[&crl[..], &[&at("old.pem")]].concat()).contains("certificate revoked"));
    openssl(&[&crl[..], &[&at("pki/h1/web.pem")]].concat());

    // a second one joins the first
    world.pki("revoke h1 web").exits(0);
    let list = openssl(&["crl", "-in", &at("pki/lan.crl"), "-noout", "-text"]);
    assert_eq!(list.matches("Serial Number").count(), 2);
}

#[test]
fn a_host_that_keeps_its_key_gets_a_certificate_for_its_request_and_for_no_other() {
    let role = WEB.replace("name = \"web\"", "name = \"web\"\nkey_on_host = true");
    let world = World::issued(&role);
    assert_eq!(world.state(), "waiting");
    let change = world.apply();
    let summary = change.events("changed")[0]["summary"].as_str().unwrap().to_owned();
    assert!(
        summary.starts_with("generate the key, write the request ") && summary.ends_with("/csr/web.csr, ca: create"),
        "{summary}"
    );
    let key = world.tree.read("etc/web/key.pem");
    assert_eq!(world.tree.mode("etc/web/key.pem"), 0o600);
    assert!(!world.tree.at("etc/web/cert.pem").exists());
    assert!(world.tree.kpull("apply --json").changed().is_empty(), "it waits");
    let is_up_to_date = || {
        std::thread::sleep(std::time::Duration::from_millis(2100));
        let apply = || world.tree.kpull("apply --json").exits(0);
        apply();
        apply().events("done")[0]["up_to_date"] == true
    };
    assert!(!is_up_to_date(), "another user can remove the request");

    let request = world.tree.at("var/lib/kpull/csr/web.csr").display().to_string();
    openssl(&["req", "-in", &request, "-noout", "-verify"]);
    world.pki(&format!("sign-request {request} --host h1 --name web")).exits(0);
    world.check().exits(0);
    assert!(!world.at("secrets/pki/h1/web.key.age").exists());
    assert_eq!(world.apply().changed(), ["certificate:web"]);
    assert_eq!(world.tree.read("etc/web/key.pem"), key);
    let cert = world.tree.at("etc/web/cert.pem").display().to_string();
    let ca = world.tree.at("etc/web/ca.pem").display().to_string();
    openssl(&["verify", "-verify_hostname", "www.example.org", "-CAfile", &ca, &cert]);

    // renewed for the same key
    world.pki("renew web").exits(0);
    assert_eq!(world.apply().changed(), ["certificate:web"]);
    assert_eq!(world.tree.read("etc/web/key.pem"), key);

    assert!(is_up_to_date());

    // a lost key: a new request, and the certificate for the old key is not put beside the new one
    fs::remove_file(world.tree.at("etc/web/key.pem")).unwrap();
    fs::remove_file(&cert).unwrap();
    assert_eq!(world.apply().changed(), ["certificate:web"]);
    assert!(!world.tree.at("etc/web/cert.pem").exists());
    assert!(world.tree.kpull("apply --json").changed().is_empty());
    world.pki(&format!("sign-request {request} --host h1 --name web")).exits(0);
    world.apply().exits(0);
    openssl(&["verify", "-CAfile", &ca, &cert]);
}

#[test]
fn names_in_a_request_do_not_enter_the_certificate() {
    let role = WEB.replace("name = \"web\"", "name = \"web\"\nkey_on_host = true");
    let world = World::issued(&role);
    let at = |path: &str| world.at(path).display().to_string();
    openssl(&[
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-keyout",
        &at("evil.key"),
        "-out",
        &at("evil.csr"),
        "-subj",
        "/O=system:masters/CN=admin",
        "-addext",
        "subjectAltName=DNS:evil.example",
        "-addext",
        "basicConstraints=critical,CA:TRUE",
    ]);
    world.pki(&format!("sign-request {} --host h1 --name web", at("evil.csr"))).exits(0);
    let text = openssl(&["x509", "-in", &at("pki/h1/web.pem"), "-noout", "-text"]);
    assert!(!text.contains("evil") && !text.contains("admin") && !text.contains("CA:TRUE"), "{text}");
    assert!(text.contains("Subject: O = people, CN = web"), "{text}");
    // a key of another type than the role says is refused
    openssl(&[
        "req",
        "-new",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        &at("evil.key"),
        "-out",
        &at("evil.csr"),
        "-subj",
        "/CN=x",
    ]);
    let refused = world.pki(&format!("sign-request {} --host h1 --name web", at("evil.csr"))).exits(1);
    assert!(refused.stderr.contains("is for a key of another type than ecdsa-p256"), "{}", refused.stderr);
}

#[test]
fn an_authority_is_replaced_while_hosts_trust_both() {
    let world = World::issued(WEB);
    let at = |path: &str| world.at(path).display().to_string();
    world.pki("rotate lan --switch").fails(1, "the authority lan has no successor yet");
    world.pki("rotate lan --finish").fails(1, "there is no old authority lan to remove");
    world.pki("rotate lan").exits(0);
    world.pki("rotate lan").fails(1, "the change of the authority lan is already in progress");
    world.check().exits(0);
    assert_eq!(fs::read_to_string(world.at("pki/lan.pem")).unwrap().matches("BEGIN CERTIFICATE").count(), 2);
    world.pki("rotate lan --switch").exits(0);
    assert_eq!(world.state(), "changed");
    let early = world.pki("rotate lan --finish").exits(1);
    assert!(
        early.stderr.contains("the site still contains certificates of the old authority lan: h1/web"),
        "{}",
        early.stderr
    );
    openssl(&["verify", "-CAfile", &at("pki/lan.pem"), &at("pki/h1/web.pem")]);
    world.pki("issue").exits(0);
    openssl(&["verify", "-CAfile", &at("pki/lan.pem"), &at("pki/h1/web.pem")]);
    world.pki("rotate lan --finish").exits(0);
    world.check().exits(0);
    assert_eq!(fs::read_to_string(world.at("pki/lan.pem")).unwrap().matches("BEGIN CERTIFICATE").count(), 1);
    openssl(&["verify", "-CAfile", &at("pki/lan.pem"), &at("pki/h1/web.pem")]);
    world.pki("renew web").exits(0);
}

#[test]
fn a_template_shows_the_public_half_of_a_key_pair() {
    let world = World::new("[[file]]\npath = \"/etc/tokens.pub\"\ncontent = '{{ pki_file(\"tokens.pub\") }}'\n");
    let error = world.check().exits(1).error();
    assert!(error["error"].as_str().unwrap().contains("the site has no pki/tokens.pub"), "{error}");
    world.pki("init").exits(0);
    world.apply().exits(0);
    let public = world.tree.at("etc/tokens.pub").display().to_string();
    assert!(openssl(&["pkey", "-pubin", "-in", &public, "-noout", "-text"]).contains("prime256v1"));
}

#[test]
fn an_error_in_a_certificate_is_reported_with_its_field() {
    for (was, is, why) in [
        ("authority = \"lan\"", "authority = \"lam\"", "there is no authority `lam`"),
        ("authority = \"lan\"", "authority = \"tokens\"", "there is no authority `tokens`"),
        ("www.example.org", "www..org", "`dns` of this certificate can't be used: `www..org` is not a host name"),
        ("fd00::1", "fd00::x", "`certificate[0].ip[1]` can't be read: invalid IP address syntax"),
        ("[\"people\"]", "[\"a\", \"b\"]", "`organization` of this certificate can't be used: one at most"),
        (
            "name = \"web\"",
            "name = \"../web\"",
            "`name` of this certificate can't be used: a name has at most 64 letters, digits, `-`, `_` and `.`, and starts with a letter or digit",
        ),
        (
            "name = \"web\"",
            "name = \"web\"\nlifetime = \"5d\"\nrenew_before = \"5d\"",
            "`renew_before` of this certificate can't be used: it is longer than the `lifetime` of the certificate",
        ),
    ] {
        let world = World::new(&WEB.replace(was, is));
        assert_eq!(world.check().exits(1).error()["error"], why);
        world.pki("issue").fails(1, why);
    }
}

/// The shipped site, with an operator.
fn shipped() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let site = dir.path().join("site");
    assemble(&site, None);
    let mut text = fs::read_to_string(site.join("site.toml")).unwrap();
    text.push_str(&format!("\n[secrets]\nrecipients = [{:?}]\n", public(key())));
    fs::write(site.join("site.toml"), text).unwrap();
    for (entry, seed) in fs::read_dir(site.join("host_vars")).unwrap().zip(100..) {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let key = ssh_key::private::Ed25519Keypair::from_seed(&[seed; 32]).into();
        fs::write(&path, format!("recipient = {:?}\n{text}", public(&key))).unwrap();
    }
    (dir, site.display().to_string())
}

/// What stands at the start of each error, and how many lines they have together.
fn causes(output: &Output) -> (Vec<&str>, usize) {
    let whats = output.stderr.lines().filter_map(|line| line.trim().strip_prefix("help: "));
    (whats.map(|line| line.split(';').next().unwrap()).collect(), output.stderr.lines().count())
}

#[test]
fn one_cause_is_reported_once_for_all_its_certificates_and_secrets() {
    let (dir, site) = shipped();
    let fresh = kpull(&["check", "--site", &site]).exits(1);
    let (helps, lines) = causes(&fresh);
    let secret = |name: &str| format!("write it with `kpull secret set {name} --site {site}`");
    let secrets = ["haproxy-stats", "keepalived", "bootstrap-token"].map(secret);
    let mut wanted = vec![format!("run `kpull pki init --site {site}`")];
    wanted.extend(secrets);
    let sorted = |mut list: Vec<String>| {
        list.sort();
        list
    };
    assert_eq!(sorted(helps.iter().map(|help| (*help).to_owned()).collect()), sorted(wanted), "{}", fresh.stderr);
    assert!(lines < 50, "{}", fresh.stderr);
    // for a program each has its place
    assert!(kpull(&["check", "--json", "--site", &site]).exits(1).events("error").len() > 10);

    kpull(&["pki", "init", "--site", &site]).exits(0);
    let unissued = kpull(&["check", "--site", &site]).exits(1);
    let issue = format!("run `kpull pki issue --site {site}`");
    assert_eq!(causes(&unissued).0.iter().filter(|help| **help == issue).count(), 1, "{}", unissued.stderr);

    // no keys, then those of others
    let issue = |identity: &[&str]| {
        let words = [["pki", "issue", "--site", &site].as_slice(), identity].concat();
        Output::of(crate::support::site::command(&words).env("HOME", dir.path()).output().unwrap()).exits(1)
    };
    let unread = issue(&[]);
    assert_eq!(causes(&unread).0, ["name your private key with --identity FILE"], "{}", unread.stderr);
    assert!(unread.stderr.contains("more errors with the same cause"), "{}", unread.stderr);
    let other = dir.path().join("other");
    fs::write(&other, &*host_key().to_openssh(LineEnding::LF).unwrap()).unwrap();
    let unread = issue(&["--identity", other.to_str().unwrap()]);
    assert_eq!(causes(&unread).0.len(), 1, "{}", unread.stderr);
}

#[test]
fn certificates_that_are_due_together_are_one_warning() {
    let many = "for_each = \"[1, 2, 3]\"\nname = \"web{{ item }}\"";
    let role = |more: &str| {
        let role = WEB.replace("name = \"web\"", &format!("{many}\n{more}"));
        role.replace("cert.pem", "cert{{ item }}.pem")
            .replace("key.pem", "key{{ item }}.pem")
            .replace("ca = \"/etc/web/ca.pem\"\n", "")
    };
    let world = World::issued(&role("lifetime = \"2d\""));
    world.site.role("web", &role(""));
    let site = world.site.path().display().to_string();
    let output = kpull(&["check", "--site", &site]).exits(0).stdout;
    let warnings: Vec<&str> = output.lines().filter(|line| line.starts_with("! ")).collect();
    let wanted =
        format!("! the certificate web1 of h1 expires in 1 days: run `kpull pki renew --site {site}`; 2 more are due");
    assert_eq!(warnings, [wanted.as_str()], "{output}");
    assert_eq!(world.check().exits(0).events("warning").len(), 3);
}
