//! `kpull vendor`: roles of other sites, pinned and signed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use kpull::document::Files;
use kpull::document::layout::{MANIFEST, SIGNATURES};
use kpull::net::server::{Answer, Received, Server};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{LineEnding, PrivateKey};

use crate::support::git::{git, git_backend};
use crate::support::site::{Output, Site, Tree, key, kpull};

/// Another site, in a repository of its own.
struct Common {
    site: Site,
}

impl Common {
    fn new() -> Self {
        let site = Site::new("common");
        site.role(
            "web",
            "vars.port = 80\n[[template]]\npath = \"/etc/web.conf\"\ntemplate = \"web.conf\"\n[[file]]\npath = \"/etc/blob\"\nsource = \"deep/blob\"\n",
        );
        site.file("roles/web/templates/web.conf", "port = {{ port }}\n");
        site.file("roles/web/files/deep/blob", (0..=255).collect::<Vec<u8>>());
        site.file("roles/web/tests/port.toml", "summary = \"x\"\n[vars.web]\nport = 81\n[[expect.template]]\npath = \"/etc/web.conf\"\ncontains = [\"81\"]\n");
        site.role("db", "requires = [\"web\"]\n");
        git(site.path(), &["init", "-q", "-b", "main"]);
        Self { site }
    }

    /// Commits all files; returns the commit.
    fn commit(&self) -> String {
        git(self.site.path(), &["add", "-A"]);
        git(self.site.path(), &["commit", "-q", "-m", "a release"]);
        git(self.site.path(), &["rev-parse", "HEAD"])
    }

    fn release(&self) -> String {
        self.site.sign();
        self.commit()
    }

    fn address(&self) -> String {
        format!("file://{}", self.site.path().display())
    }
}

fn signer() -> String {
    format!("alice {}", key().public_key().to_openssh().unwrap())
}

/// A `vendor.toml` with these roles, and the test's key.
fn list(git: &str, commit: &str, roles: &str) -> String {
    format!("[common]\ngit = \"{git}\"\ncommit = \"{commit}\"\nsigners = [\"{}\"]\nroles = [{roles}]\n", signer())
}

/// A site that vendors the role web of `common`.
fn wanting(common: &Common, commit: &str) -> Site {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"web\"]\n");
    site.file("vendor.toml", list(&common.address(), commit, "\"web\""));
    site
}

fn vendor(site: &Site) -> Output {
    kpull(&["vendor", "--json", "--site", site.path().to_str().unwrap()])
}

fn check(site: &Site) -> Output {
    kpull(&["check", "--json", "--site", site.path().to_str().unwrap()])
}

/// Every file that a site is made of.
fn files(site: &Site) -> BTreeMap<String, Vec<u8>> {
    let files = Files::in_directory(site.path()).unwrap();
    files.iter().map(|(path, content)| (path.to_owned(), content.to_vec())).collect()
}

/// What a run did, as `SIGN PATH`, where the path is below `roles/`.
fn done(expected: &Output, site: &Site) -> Vec<String> {
    let roles = site.path().join("roles");
    let line = |event: serde_json::Value| {
        let path = Path::new(event["path"].as_str().unwrap()).strip_prefix(&roles).unwrap().display().to_string();
        format!("{} {path}", event["done"].as_str().unwrap())
    };
    expected.events("vendored").into_iter().map(line).collect()
}

/// Messages, each with its place.
fn errors(expected: &Output) -> Vec<String> {
    let line = |event: serde_json::Value| {
        format!("{} ({}:{})", event["error"].as_str().unwrap(), event["file"].as_str().unwrap_or("-"), event["line"])
    };
    expected.events("error").into_iter().map(line).collect()
}

/// Holds a run to this one error and exit code, and to nothing written.
#[track_caller]
fn refused(site: &Site, code: i32, what: &str) {
    let before = files(site);
    let output = vendor(site).exits(code);
    assert_eq!(errors(&output), [what]);
    assert_eq!(files(site), before);
}

#[test]
fn a_role_of_another_site_is_vendored_completely_and_applied() {
    let common = Common::new();
    let site = wanting(&common, &common.release());
    let output = vendor(&site).exits(0);
    assert_eq!(
        done(&output, &site),
        ["files/deep/blob", "role.toml", "templates/web.conf", "tests/port.toml", "origin.toml"]
            .map(|path| format!("added web/{path}"))
    );
    let role = &output.events("role")[0];
    assert_eq!((role["site"].as_str(), role["serial"].as_u64()), (Some("common"), Some(1)));
    assert_eq!(role["signers"], serde_json::json!(["alice"]));
    let (here, there) = (files(&site), files(&common.site));
    for (path, content) in there.iter().filter(|(path, _)| path.starts_with("roles/web/")) {
        assert_eq!(&here[path], content, "{path}");
    }
    assert!(!here.contains_key("roles/db/role.toml"), "no one requested it");
    check(&site).exits(0);
    kpull(&["test", "--site", site.path().to_str().unwrap()]).exits(0);
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/web.conf"), "port = 80\n");
    assert_eq!(fs::read(tree.at("etc/blob")).unwrap(), (0..=255).collect::<Vec<u8>>());
    // and existing files are not written again
    assert_eq!(done(&vendor(&site).exits(0), &site), [""; 0]);
}

#[test]
fn a_role_is_vendored_over_http_from_a_commit_that_is_not_the_newest() {
    let common = Common::new();
    let commit = common.release();
    common.site.file("roles/web/templates/web.conf", "newer\n");
    common.release();
    let hub = tempfile::tempdir().unwrap();
    git(hub.path(), &["clone", "-q", "--bare", common.site.path().to_str().unwrap(), "common.git"]);
    let server = Server::plain(git_backend(hub.path().to_owned())).unwrap();
    let site = wanting(&common, &commit);
    site.file("vendor.toml", list(&server.url("common.git"), &commit.to_uppercase(), "\"web\""));
    vendor(&site).exits(0);
    assert_eq!(files(&site)["roles/web/templates/web.conf"], b"port = {{ port }}\n");
    check(&site).exits(0);
}

#[test]
fn a_signature_of_a_key_that_is_not_named_is_refused() {
    let common = Common::new();
    common.site.sign();
    let signatures = fs::read(common.site.path().join(SIGNATURES)).unwrap();
    let other = common.site.path().join("other-key");
    let pair: PrivateKey = Ed25519Keypair::from_seed(&[8; 32]).into();
    fs::write(&other, pair.to_openssh(LineEnding::LF).unwrap()).unwrap();
    fs::remove_file(common.site.path().join(SIGNATURES)).unwrap();
    kpull(&["sign", "--key", other.to_str().unwrap(), "--site", common.site.path().to_str().unwrap()]).exits(0);
    let fingerprint = pair.public_key().fingerprint(ssh_key::HashAlg::Sha256);
    let site = wanting(&common, &common.commit());
    let message = format!(
        "no signature of the release is good: it is signed by a key that is not allowed: {fingerprint} (vendor.toml:1)"
    );
    refused(&site, 4, &message);
    // nor does a good signature over something else help, or none at all
    common.site.file(SIGNATURES, signatures);
    fs::write(common.site.path().join("roles/web/templates/web.conf"), "evil\n").unwrap();
    let manifest = fs::read_to_string(common.site.path().join(MANIFEST)).unwrap();
    common.site.file(MANIFEST, manifest.replace("serial = 1", "serial = 2"));
    let site = wanting(&common, &common.commit());
    refused(
        &site,
        4,
        "no signature of the release is good: the signature of alice is not over this release (vendor.toml:1)",
    );
    fs::remove_file(common.site.path().join(SIGNATURES)).unwrap();
    let site = wanting(&common, &common.commit());
    refused(&site, 4, "the release is not signed: there is no release.toml.sig (vendor.toml:1)");
    fs::remove_file(common.site.path().join(MANIFEST)).unwrap();
    let site = wanting(&common, &common.commit());
    refused(&site, 4, "the source has no release.toml (vendor.toml:1)");
}

#[test]
fn as_many_keys_as_the_threshold_requires_must_have_signed() {
    let common = Common::new();
    let commit = common.release();
    let site = wanting(&common, &commit);
    let bob: PrivateKey = Ed25519Keypair::from_seed(&[8; 32]).into();
    let both = format!("{}\", \"bob {}", signer(), bob.public_key().to_openssh().unwrap());
    let text = list(&common.address(), &commit, "\"web\"").replace(&signer(), &both);
    site.file("vendor.toml", format!("{text}threshold = 2\n"));
    refused(&site, 4, "the release has 1 good signature and needs 2 (vendor.toml:1)");
}

#[test]
fn an_expired_release_is_vendored_and_an_expired_key_does_not_count() {
    let common = Common::new();
    common.site.sign();
    let manifest = fs::read_to_string(common.site.path().join(MANIFEST)).unwrap();
    let old = |line: &str| match line.split_once(" = ") {
        Some(("created", _)) => "created = 2026-01-01T00:00:00Z\n".to_owned(),
        Some(("expires", _)) => "expires = 2026-01-02T00:00:00Z\n".to_owned(),
        _ => format!("{line}\n"),
    };
    let manifest: String = manifest.lines().map(old).collect();
    let signature = key().sign(kpull::trust::NAMESPACE, ssh_key::HashAlg::Sha512, manifest.as_bytes()).unwrap();
    common.site.file(MANIFEST, manifest).file(SIGNATURES, signature.to_pem(LineEnding::LF).unwrap());
    let commit = common.commit();
    let site = wanting(&common, &commit);
    let text = list(&common.address(), &commit, "\"web\"");
    site.file("vendor.toml", text.replace("alice ssh", "alice valid-before=\\\"20200101\\\" ssh"));
    refused(
        &site,
        4,
        "no signature of the release is good: it is signed by a key that is not valid now (vendor.toml:1)",
    );
    site.file("vendor.toml", text);
    vendor(&site).exits(0);
}

#[test]
fn a_file_that_differs_from_the_signed_one_is_refused() {
    let common = Common::new();
    common.site.sign();
    common.site.file("roles/web/templates/web.conf", "PORT = {{ port }}\n");
    let site = wanting(&common, &common.commit());
    refused(
        &site,
        4,
        "roles/web/templates/web.conf is not the file that was signed: its SHA-256 differs (vendor.toml:1)",
    );
    common.site.sign().file("roles/web/files/more", "x");
    let site = wanting(&common, &common.commit());
    refused(&site, 4, "roles/web/files/more is in the source, and the release does not list it (vendor.toml:1)");
}

#[test]
fn a_site_other_than_the_named_one_is_refused() {
    let common = Common::new();
    let site = wanting(&common, &common.release());
    let text = fs::read_to_string(site.path().join("vendor.toml")).unwrap();
    site.file("vendor.toml", text.replace("[common]", "[commons]"));
    refused(&site, 4, "the release is of the site `common`, and vendor.toml calls it `commons` (vendor.toml:1)");
}

#[test]
fn a_manual_edit_is_reported_and_not_overwritten() {
    let common = Common::new();
    let site = wanting(&common, &common.release());
    vendor(&site).exits(0);
    let taken = files(&site);
    let line = |path: &str| {
        let origin = String::from_utf8(taken["roles/web/origin.toml"].clone()).unwrap();
        origin.lines().position(|line| line.starts_with(&format!("\"{path}\""))).unwrap() + 1
    };
    let edited = format!(
        "roles/web/templates/web.conf was edited after it was vendored (roles/web/origin.toml:{})",
        line("templates/web.conf")
    );
    site.file("roles/web/templates/web.conf", "port = {{ port }}\n# mine\n");
    assert_eq!(errors(&check(&site).exits(1)), [edited.as_str()]);
    refused(&site, 1, &edited);
    site.file("roles/web/templates/web.conf", &taken["roles/web/templates/web.conf"]);
    site.file("roles/web/files/mine", "x");
    let added = errors(&check(&site).exits(1));
    assert!(added[0].starts_with("roles/web/files/mine was added to the vendored role"), "{added:?}");
    fs::remove_file(site.path().join("roles/web/files/mine")).unwrap();
    fs::remove_file(site.path().join("roles/web/files/deep/blob")).unwrap();
    let removed = errors(&check(&site).exits(1));
    assert!(
        removed.iter().any(|expected| expected.starts_with("roles/web/files/deep/blob was vendored, but is missing")),
        "{removed:?}"
    );
    // after an undo all is as before, and a role whose origin is deleted is the site's own
    site.file("roles/web/files/deep/blob", &taken["roles/web/files/deep/blob"]);
    check(&site).exits(0);
    fs::remove_file(site.path().join("roles/web/origin.toml")).unwrap();
    fs::remove_file(site.path().join("vendor.toml")).unwrap();
    site.file("roles/web/templates/web.conf", "mine\n");
    check(&site).exits(0);
}

#[test]
fn check_reports_that_another_commit_is_pinned_or_none_any_more() {
    let common = Common::new();
    let old = common.release();
    let site = wanting(&common, &old);
    vendor(&site).exits(0);
    common.site.file("roles/web/templates/web.conf", "newer\n");
    let new = common.release();
    site.file("vendor.toml", list(&common.address(), &new, "\"web\", { name = \"db\", as = \"sql\" }"));
    assert_eq!(
        errors(&check(&site).exits(1)),
        [
            "roles/sql/ does not exist (vendor.toml:5)".to_owned(),
            format!("roles/web/ is of commit {old} of {} (vendor.toml:3)", common.address()),
        ]
    );
    let changed = kpull(&["vendor", "--check", "--json", "--site", site.path().to_str().unwrap()]).exits(1);
    assert_eq!(changed.error()["error"], "`kpull vendor` would change 4 files");
    assert_eq!(files(&site)["roles/web/templates/web.conf"], b"port = {{ port }}\n", "--check writes nothing");
    vendor(&site).exits(0);
    kpull(&["vendor", "--check", "--site", site.path().to_str().unwrap()]).exits(0);
    check(&site).exits(0);
    site.file(
        "vendor.toml",
        list(&common.address(), &new, "{ name = \"db\", as = \"web\" }, { name = \"db\", as = \"sql\" }"),
    );
    assert_eq!(errors(&check(&site).exits(1)), ["roles/web/ is `web` of common (vendor.toml:5)"]);
    site.file("vendor.toml", list(&common.address(), &new, "\"db\""));
    let output = errors(&check(&site).exits(1));
    assert_eq!(
        output,
        [
            "roles/db/ does not exist (vendor.toml:5)",
            "roles/sql/ is vendored from common, but vendor.toml does not list it (roles/sql/origin.toml:2)",
            "roles/web/ is vendored from common, but vendor.toml does not list it (roles/web/origin.toml:2)",
        ]
    );
}

#[test]
fn another_commit_changes_only_what_differs() {
    let common = Common::new();
    let site = wanting(&common, &common.release());
    vendor(&site).exits(0);
    let roles = common.site.path().join("roles/web");
    common.site.file("roles/web/templates/web.conf", "PORT = {{ port }}\n");
    // a file where a directory was, and a directory where a file was
    fs::remove_dir_all(roles.join("files")).unwrap();
    common
        .site
        .file("roles/web/files/deep", "x")
        .role("web", "vars.port = 80\n[[template]]\npath = \"/etc/web.conf\"\ntemplate = \"web.conf\"\n");
    fs::remove_file(roles.join("tests/port.toml")).unwrap();
    let commit = common.release();
    site.file("vendor.toml", list(&common.address(), &commit, "\"web\""));
    let output = vendor(&site).exits(0);
    assert_eq!(
        done(&output, &site),
        [
            "removed web/files/deep/blob",
            "removed web/tests/port.toml",
            "added web/files/deep",
            "changed web/role.toml",
            "changed web/templates/web.conf",
            "changed web/origin.toml",
        ]
    );
    assert!(!site.path().join("roles/web/tests").exists(), "nothing is in it any more");
    check(&site).exits(0);
    // a commit that changes nothing of the role changes where it is from, and nothing else
    common.site.file("roles/db/files/x", "x");
    site.file("vendor.toml", list(&common.address(), &common.release(), "\"web\""));
    assert_eq!(done(&vendor(&site).exits(0), &site), ["changed web/origin.toml"]);
}

#[test]
fn a_run_after_a_killed_one_finishes_the_vendoring() {
    let common = Common::new();
    let site = wanting(&common, &common.release());
    vendor(&site).exits(0);
    common.site.file("roles/web/templates/web.conf", "newer\n").file("roles/web/files/more", "x");
    fs::remove_file(common.site.path().join("roles/web/tests/port.toml")).unwrap();
    let commit = common.release();
    // half of it already exists
    site.file("roles/web/templates/web.conf", "newer\n").file("roles/web/files/more", "x");
    fs::remove_file(site.path().join("roles/web/tests/port.toml")).unwrap();
    site.file("vendor.toml", list(&common.address(), &commit, "\"web\""));
    assert_eq!(done(&vendor(&site).exits(0), &site), ["changed web/origin.toml"]);
    check(&site).exits(0);
}

#[test]
fn a_role_of_the_site_itself_is_not_overwritten() {
    let common = Common::new();
    let commit = common.release();
    let site = wanting(&common, &commit);
    site.role("web", "# mine");
    refused(&site, 1, "roles/web/ exists already, and is not vendored (vendor.toml:5)");
    assert_eq!(errors(&check(&site).exits(1)), ["roles/web/ is not vendored (vendor.toml:5)"]);
    // under another name it fits beside it, without the examples that call it by its own
    site.file("vendor.toml", list(&common.address(), &commit, "{ name = \"web\", as = \"www\" }"));
    vendor(&site).exits(0);
    assert!(files(&site).contains_key("roles/www/templates/web.conf"));
    assert!(!files(&site).contains_key("roles/www/tests/port.toml"));
    assert_eq!(files(&site)["roles/web/role.toml"], b"summary = \"For a test\"\n# mine");
    check(&site).exits(0);
}

#[test]
fn a_missing_role_or_a_missing_required_role_is_reported() {
    let common = Common::new();
    let commit = common.release();
    let site = wanting(&common, &commit);
    site.file("vendor.toml", list(&common.address(), &commit, "\"wep\""));
    let output = vendor(&site).exits(1);
    assert_eq!(output.error()["error"], "common has no role `wep` in release 1");
    assert_eq!(output.error()["help"], "did you mean `web`?");
    site.file("vendor.toml", list(&common.address(), &commit, "\"db\""));
    refused(&site, 1, "the role db requires `web`, which the site does not have (vendor.toml:5)");
    site.file("vendor.toml", list(&common.address(), &commit, "\"db\", \"web\""));
    vendor(&site).exits(0);
}

#[test]
fn no_name_leads_outside_of_the_roles_directory() {
    let common = Common::new();
    let commit = common.release();
    let site = wanting(&common, &commit);
    for name in ["..", "../web", "web/../../x", "/etc", ".", "a\\\\b", ""] {
        for roles in [format!("\"{name}\""), format!("{{ name = \"web\", as = \"{name}\" }}")] {
            site.file("vendor.toml", list(&common.address(), &commit, &roles));
            refused(
                &site,
                1,
                &format!("`{}` is not a valid name for a role (vendor.toml:5)", name.replace("\\\\", "\\")),
            );
        }
    }
    // neither a path in the signed release, nor a link in the site
    let manifest = fs::read_to_string(common.site.path().join(MANIFEST)).unwrap();
    let evil = manifest.replace("\"roles/web/files/deep/blob\"", "\"roles/web/../../../evil\"");
    let signature = key().sign(kpull::trust::NAMESPACE, ssh_key::HashAlg::Sha512, evil.as_bytes()).unwrap();
    common.site.file(MANIFEST, evil).file(SIGNATURES, signature.to_pem(LineEnding::LF).unwrap());
    let evil = common.commit();
    site.file("vendor.toml", list(&common.address(), &evil, "\"web\""));
    refused(&site, 4, "the release lists a path outside the tree: `roles/web/../../../evil` (vendor.toml:1)");
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(site.path().join("roles")).unwrap();
    std::os::unix::fs::symlink(outside.path(), site.path().join("roles/web")).unwrap();
    site.file("vendor.toml", list(&common.address(), &commit, "\"web\""));
    let reported = vendor(&site).exits(1).error();
    assert!(reported["error"].as_str().unwrap().ends_with("roles/web is neither a file nor a directory"), "{reported}");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn a_vendored_role_is_not_formatted_and_the_list_is() {
    let common = Common::new();
    common.site.role("web", "vars.port=80");
    let commit = common.release();
    let site = wanting(&common, &commit);
    vendor(&site).exits(0);
    let text = fs::read_to_string(site.path().join("vendor.toml")).unwrap();
    site.file("vendor.toml", text.replace("git = ", "git="));
    let path = site.path().to_str().unwrap();
    let output = kpull(&["fmt", "--site", path]).exits(0);
    assert_eq!(output.stdout, format!("~ {path}/vendor.toml\n"));
    assert_eq!(fs::read_to_string(site.path().join("vendor.toml")).unwrap(), text);
    check(&site).exits(0);
}

#[test]
fn a_host_does_not_fetch_the_record_of_a_roles_origin() {
    let common = Common::new();
    let site = wanting(&common, &common.release());
    vendor(&site).exits(0);
    site.sign();
    let (asked, dir) = (Arc::new(Mutex::new(Vec::new())), site.path().to_owned());
    let kept = asked.clone();
    let server = Server::plain(move |request: &Received| {
        let path = request.path.trim_start_matches('/').to_owned();
        let answer = fs::read(dir.join(&path)).map_or_else(|_| Answer::new(404, ""), |bytes| Answer::new(200, bytes));
        kept.lock().unwrap().push(path);
        answer
    })
    .unwrap();
    let tree = Tree::new();
    tree.configure(&format!("[[source]]\nhttp = \"{}\"\n", server.url(""))).kpull("apply").exits(0);
    let asked = asked.lock().unwrap();
    assert!(asked.iter().any(|path| path == "roles/web/templates/web.conf"), "{asked:?}");
    assert!(!asked.iter().any(|path| path.contains("origin.toml") || path == "vendor.toml"), "{asked:?}");
}

#[test]
fn the_operator_sees_what_was_vendored_and_where_an_error_is() {
    let common = Common::new();
    let commit = common.release();
    let site = wanting(&common, &commit);
    let path = site.path().to_str().unwrap();
    let reported = kpull(&["vendor", "common", "--site", path]).exits(0).stdout;
    assert!(reported.starts_with(&format!("+ {path}/roles/web/files/deep/blob\n")), "{reported}");
    let last = format!("✓ web              web of common, release 1, commit {}, signed by alice\n", &commit[..12]);
    assert!(reported.ends_with(&last), "{reported}");
    let reported = kpull(&["vendor", "comon", "--json", "--site", path]).exits(1).error();
    assert_eq!(
        (&reported["error"], &reported["help"]),
        (&"vendor.toml has no `comon`".into(), &"did you mean `common`?".into())
    );
    site.file("vendor.toml", list(&common.address(), &"0".repeat(40), "\"web\""));
    let reported = vendor(&site).exits(1).error();
    assert!(reported["error"].as_str().unwrap().ends_with(&format!("has no commit {}", "0".repeat(40))), "{reported}");
    assert_eq!((&reported["file"], &reported["line"]), (&"vendor.toml".into(), &1.into()));
    fs::remove_file(site.path().join("vendor.toml")).unwrap();
    let reported = vendor(&site).exits(1).error();
    assert_eq!(reported["code"], "site.vendor");
}
