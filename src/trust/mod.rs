//! From untrusted bytes to a release: signatures first, then the manifest, then every file against it.
//!
//! A host refuses, each with its own message and exit code 4: a bad or missing signature, too few signers, a serial below
//! the highest seen, an expired release, another site's release, a file whose size or digest differs, a file that is
//! not listed, a path outside the tree, more bytes than announced, an unknown format version, and a clock that is
//! behind the last release seen. The chain of key sets decides which keys are trusted, see `keys`.

mod allowed;
mod enrol;
mod keys;
mod manifest;
mod sign;
mod state;

pub use allowed::{Allowed, AllowedSigners, Message, Purpose, claimed, fingerprint, signed_by};
pub use enrol::{Enrolment, enrol};
pub use keys::{KeySet, Shortfall, Signed};
pub use manifest::{FORMAT, Listed, Manifest};
pub use sign::{Signer, add_signature, sign};
pub use state::{LastSeen, TRUST_FILE, TrustState};

use std::sync::Arc;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::document::layout::{LARGEST_MANIFEST, LARGEST_SIGNATURES, MANIFEST, SIGNATURES};
use crate::document::{Files, PARTS, Tree};
use crate::error::{Error, Exit, Result, refused};
use crate::magic::{KEEP, changed_by};
use crate::secret::index::Index;
use crate::secret::name::name_in;
use crate::site::Site;

/// The namespace of release signatures.
pub const NAMESPACE: &str = Purpose::Release.namespace();
/// The maximum size of a release in bytes.
const LARGEST_RELEASE: u64 = 128 << 20;
/// How far a signer's clock may be ahead of the host's.
const LEEWAY: jiff::SignedDuration = jiff::SignedDuration::from_mins(5);

/// A value that comes from a verified release. Only this module creates one from bytes; later stages turn it into one of their own
/// products.
///
/// ```compile_fail,E0451
/// // no other code can create one
/// fn forge(site: kpull::site::Site, manifest: std::sync::Arc<kpull::trust::Manifest>) -> kpull::trust::Release {
///     kpull::trust::Verified { manifest, value: site }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Verified<T> {
    manifest: Arc<Manifest>,
    value: T,
}

/// One signed state of a site, with the verified files that one host needs.
pub type Release = Verified<Site>;

impl<T> Verified<T> {
    /// The signed manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The value.
    pub fn get(&self) -> &T {
        &self.value
    }

    /// The value, at the end of the chain of stages.
    pub(crate) fn into_inner(self) -> T {
        self.value
    }

    /// The product of the next stage.
    pub(crate) fn then<U>(self, stage: impl FnOnce(T) -> Result<U>) -> Result<Verified<U>> {
        Ok(Verified { value: stage(self.value)?, manifest: self.manifest })
    }
}

/// What a host trusts.
#[derive(Debug)]
pub struct Policy {
    /// The site to which it is enrolled.
    pub site: String,
    /// The trusted keys.
    pub keys: KeySet,
}

/// A manifest with verified signatures, whose files are not fetched yet.
#[derive(Debug)]
pub struct VerifiedManifest {
    manifest: Arc<Manifest>,
    /// `release.toml`, as signed.
    pub bytes: Vec<u8>,
    /// `release.toml.sig`.
    pub signatures: Vec<u8>,
    /// The signers.
    pub signers: Vec<String>,
    /// The number of their key set.
    pub keys: u64,
}

impl Policy {
    /// Verifies the manifest by the trusted keys, and that it is of this site.
    pub fn announce(&self, tree: &dyn Tree, at: Timestamp) -> Result<VerifiedManifest> {
        let announced = VerifiedManifest::by(&self.keys, tree, at)?;
        let (site, own) = (&announced.manifest.site, &self.site);
        if site != own {
            return Err(refused!(SIGNATURE, "the release is for the site `{site}`, and this host belongs to `{own}`")
                .help("check the source's address, and `site` under [trust] in kpull.toml"));
        }
        Ok(announced)
    }
}

impl VerifiedManifest {
    /// Verifies the signatures before it parses the manifest. Keys must be valid at the time `at`. The caller checks the site.
    pub fn by(keys: &KeySet, tree: &dyn Tree, at: Timestamp) -> Result<Self> {
        let bytes = tree.read(MANIFEST, LARGEST_MANIFEST)?.ok_or_else(|| {
            refused!(SIGNATURE, "the source has no {MANIFEST}")
                .help("sign the site with `kpull sign` and publish the result; if the site is not at the top of its repository, set `path` to its directory")
        })?;
        let signatures = tree.read(SIGNATURES, LARGEST_SIGNATURES)?.ok_or_else(|| {
            refused!(SIGNATURE, "the release is not signed: there is no {SIGNATURES}")
                .help("sign the site with `kpull sign`")
        })?;
        let message = Message { bytes: &bytes, purpose: Purpose::Release, name: "the release", at };
        // kpull writes no carriage returns, so the signed bytes were different
        let filtered = |error: Error| match bytes.contains(&b'\r') {
            true => error.because("a filter changed its line ends").help(KEEP),
            false => error,
        };
        let signers = keys.signers.check(&message, &signatures, keys.release).map_err(filtered)?;
        let signers = signers.into_iter().map(str::to_owned).collect();
        let manifest = Manifest::parse(&bytes)?;
        Ok(Self { manifest: manifest.into(), bytes, signatures, signers, keys: keys.number })
    }

    /// The signed manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The SHA-256 of `release.toml` in hex, which identifies a release.
    pub fn digest(&self) -> String {
        hex::encode(Sha256::digest(&self.bytes))
    }

    /// Refuses a release that is older than one seen before, expired, or signed in the future by this host's clock.
    pub fn check_time(&self, seen: Option<&LastSeen>, now: Timestamp) -> Result<()> {
        let Manifest { serial, created, expires, .. } = &*self.manifest;
        if let Some(seen) = seen {
            if seen.digest.is_empty() && *serial <= seen.serial {
                return Err(refused!(
                    SERIAL,
                    "the release has serial {serial}, but since the last change of keys none up to {} counts",
                    seen.serial
                )
                .help("sign again: each release has the previous serial plus one"));
            }
            if *serial < seen.serial {
                return Err(refused!(SERIAL, "the release has serial {serial}, but {} was seen here before", seen.serial)
                    .help("someone is replaying an old release, or the source was reset; sign again to publish it under a new serial"));
            }
            if *serial == seen.serial && self.digest() != seen.digest {
                return Err(refused!(SERIAL, "there are two different releases with serial {serial}")
                    .help("one serial, one release: sign again, with the next serial"));
            }
            if now + LEEWAY < seen.created {
                return Err(clock(now, seen.created));
            }
        }
        if now + LEEWAY < *created {
            return Err(clock(now, *created));
        }
        if now > *expires {
            return Err(refused!(EXPIRED, "the release (serial {serial}) expired at {expires}")
                .help("sign again; if it should have been renewed, someone may be withholding newer releases"));
        }
        Ok(())
    }

    /// Fetches the files that `host` needs from `tree`, or takes them from `known` if the digest matches, and verifies them: first
    /// the files that every host reads, then those of this host. Refuses a site without this host.
    pub fn fetch(&self, tree: &dyn Tree, known: Option<&Files>, host: &str) -> Result<Release> {
        self.check_extent(tree)?;
        let files = gather(&self.manifest, tree, known, &Files::is_for_all)?;
        let mut site = Site::load(files.into_iter().collect())?;
        site.find_host(host).map_err(|error| error.exit(Exit::Refused))?;
        let secrets = Index::read(&site.files)?;
        let more = gather(&self.manifest, tree, known, &|path| is_for(host, &site, &secrets, path))?;
        site.files.extend(more);
        Ok(Verified { manifest: self.manifest.clone(), value: site })
    }

    /// Fetches and verifies the `wanted` files, to vendor a part of another site.
    pub fn fetch_part(&self, tree: &dyn Tree, wanted: &dyn Fn(&str) -> bool) -> Result<Verified<Files>> {
        self.check_extent(tree)?;
        let files = gather(&self.manifest, tree, None, wanted)?;
        Ok(Verified { manifest: self.manifest.clone(), value: files.into_iter().collect() })
    }

    /// Refuses a release above the maximum size, and a source with unsigned files of the site.
    fn check_extent(&self, tree: &dyn Tree) -> Result<()> {
        let total: u64 = self.manifest.files.values().map(|listed| listed.size).fold(0, u64::saturating_add);
        if total > LARGEST_RELEASE {
            return Err(refused!(
                SIGNATURE,
                "the release announces {total} bytes, more than the {LARGEST_RELEASE} that are allowed"
            )
            .help("publish large files as artifacts, pinned in artifacts.toml"));
        }
        if let Some(present) = tree.list()? {
            let unlisted = present.iter().find(|path| is_part(path) && !self.manifest.files.contains_key(*path));
            if let Some(path) = unlisted {
                return Err(refused!(TAMPERED, "{path} is in the source, and the release does not list it")
                    .help("sign again after adding a file"));
            }
        }
        Ok(())
    }
}

/// The maximum size of a text that is checked for changes in transit.
const LARGEST_TEXT: u64 = 64 << 10;

/// Whether `host` reads the file at `path`, besides those that every host reads.
fn is_for(host: &str, site: &Site, secrets: &Index, path: &str) -> bool {
    match path.split('/').collect::<Vec<_>>()[..] {
        // only `kpull check` reads these
        ["roles", _, "flags", ..] | ["roles", _, "origin.toml"] => false,
        ["roles", role, _, ..] => site.hosts.get(host).is_some_and(|host| host.roles.iter().any(|known| known == role)),
        ["pki", owner, _] => owner == host,
        ["secrets", ..] => {
            name_in(path).is_some_and(|name| secrets.hosts_of(name).is_none_or(|hosts| hosts.contains(host)))
        }
        _ => false,
    }
}

/// The `wanted` files: from `known` if the digest matches, else from `tree`, verified.
fn gather(
    manifest: &Manifest,
    tree: &dyn Tree,
    known: Option<&Files>,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Vec<(String, Arc<[u8]>)>> {
    let mut files = Vec::new();
    for (path, listed) in manifest.files.iter().filter(|(path, _)| wanted(path)) {
        let known = known.and_then(|known| known.get(path)).filter(|content| listed.matches(content));
        let content: Arc<[u8]> = match known {
            Some(content) => content.clone(),
            None => fetch(tree, path, listed)?.into(),
        };
        files.push((path.clone(), content));
    }
    Ok(files)
}

fn fetch(tree: &dyn Tree, path: &str, listed: &Listed) -> Result<Vec<u8>> {
    let read = tree.read(path, listed.size).map_err(|error| match listed.size {
        // reads more than announced, to find out what changed the file
        ..=LARGEST_TEXT if error.exit_code() == Exit::Refused => {
            let more = tree.read(path, listed.size.saturating_mul(2).max(LARGEST_TEXT)).ok().flatten();
            more.and_then(|content| disguised(path, listed, &content)).unwrap_or(error)
        }
        _ => error,
    });
    let content = read?.ok_or_else(|| {
        refused!(TAMPERED, "{path} is listed in the release, and the source does not have it")
            .help("publish every file of the site; check that the push was complete")
    })?;
    if listed.matches(&content) {
        return Ok(content);
    }
    let refused = |what: String, help| refused!(TAMPERED, "{path} {what}").help(help);
    Err(disguised(path, listed, &content).unwrap_or_else(|| match content.len() as u64 == listed.size {
        true => refused(
            "is not the file that was signed: its SHA-256 differs".to_owned(),
            "the file was changed after signing; sign again if that was you",
        ),
        false => refused(
            format!("has {} bytes, and the release says {}", content.len(), listed.size),
            "the file was changed or truncated after signing",
        ),
    }))
}

/// The error for a file that differs from the signed one, if its bytes show what changed it.
fn disguised(path: &str, listed: &Listed, content: &[u8]) -> Option<Error> {
    let (what, help) = changed_by(content, |bytes| listed.matches(bytes))?;
    let error = refused!(TAMPERED, "{path} is not the file that was signed: {what}");
    Some(error.help(help))
}

fn clock(now: Timestamp, created: Timestamp) -> Error {
    refused!(CLOCK, "this host's clock says {now:.0}, and a release was signed at {created:.0}")
        .help("set the clock; with a clock that is behind, an expired release would be accepted")
}

/// Whether a path of a repository belongs to the site.
pub fn is_part(path: &str) -> bool {
    PARTS.contains(&path.split('/').next().unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use super::*;
    use crate::error::code;

    const CREATED: &str = "2026-11-24T00:00:00Z";
    const EXPIRES: &str = "2026-12-24T00:00:00Z";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn announced(serial: u64, files: BTreeMap<String, Listed>) -> VerifiedManifest {
        let (created, expires) = (at(CREATED), at(EXPIRES));
        let manifest = Manifest { format: FORMAT, site: "lab".to_owned(), serial, created, expires, files };
        let bytes = manifest.to_toml().into_bytes();
        VerifiedManifest { manifest: manifest.into(), bytes, signatures: Vec::new(), signers: Vec::new(), keys: 0 }
    }

    fn seen(serial: u64, digest: &str) -> LastSeen {
        LastSeen { serial, created: at(CREATED), digest: digest.to_owned(), keys: 0 }
    }

    /// A source without lists, and what it was asked for.
    #[derive(Default)]
    struct Asked {
        files: BTreeMap<String, Vec<u8>>,
        asked: RefCell<Vec<(String, u64)>>,
    }

    impl Tree for Asked {
        fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
            self.asked.borrow_mut().push((path.to_owned(), max));
            Ok(self.files.get(path).cloned())
        }

        fn list(&self) -> Result<Option<Vec<String>>> {
            Ok(None)
        }
    }

    #[test]
    fn a_release_is_valid_from_five_minutes_before_its_creation_until_it_expires() {
        let release = announced(7, BTreeMap::new());
        for (now, good) in [
            ("2026-11-23T23:54:59.999999999Z", false),
            ("2026-11-23T23:55:00Z", true),
            ("2026-11-24T00:00:00Z", true),
            (EXPIRES, true),
            ("2026-12-24T00:00:00.000000001Z", false),
        ] {
            assert_eq!(release.check_time(None, at(now)).is_ok(), good, "{now}");
        }
    }

    #[test]
    fn a_clock_may_be_five_minutes_behind_the_newest_release_seen_and_no_more() {
        let release = announced(8, BTreeMap::new());
        let seen = LastSeen { created: at("2026-12-01T00:00:00Z"), ..seen(7, "another") };
        let error = release.check_time(Some(&seen), at("2026-11-30T23:54:59.999999999Z")).unwrap_err();
        assert_eq!(error.code().name, code::CLOCK.name, "{error}");
        for now in ["2026-11-30T23:55:00Z", "2026-12-01T00:00:00Z", "2026-12-02T00:00:00Z"] {
            release.check_time(Some(&seen), at(now)).unwrap();
        }
    }

    #[test]
    fn a_serial_is_that_of_a_newer_release_or_of_the_same_one() {
        let release = announced(7, BTreeMap::new());
        let own = release.digest();
        for (serial, digest, why) in [
            (6, own.as_str(), None),
            (6, "another", None),
            (7, own.as_str(), None),
            (7, "another", Some("there are two different releases with serial 7")),
            (8, own.as_str(), Some("the release has serial 7, but 8 was seen here before")),
            // since a change of keys none up to this serial counts
            (6, "", None),
            (7, "", Some("the release has serial 7, but since the last change of keys none up to 7 counts")),
            (8, "", Some("the release has serial 7, but since the last change of keys none up to 8 counts")),
        ] {
            let ended = release.check_time(Some(&seen(serial, digest)), at(CREATED));
            let reported = ended.err().map(|error| error.to_string());
            assert_eq!(reported.as_deref(), why, "{serial} {digest}");
        }
    }

    #[test]
    fn a_source_is_asked_for_no_more_than_a_release_may_have() {
        let key = ssh_key::PrivateKey::from(ssh_key::private::Ed25519Keypair::from_seed(&[1; 32]));
        let signers = AllowedSigners::parse("f", &format!("a {}", key.public_key().to_openssh().unwrap())).unwrap();
        let policy = Policy { site: "lab".to_owned(), keys: KeySet::start("lab", signers, 1, 1) };
        let files = BTreeMap::from([(MANIFEST.to_owned(), Vec::new()), (SIGNATURES.to_owned(), Vec::new())]);
        let source = Asked { files, ..Asked::default() };
        let error = policy.announce(&source, at(CREATED)).unwrap_err();
        assert_eq!(error.to_string(), "the signatures of the release can't be read");
        let asked = source.asked.into_inner();
        assert_eq!(asked, [(MANIFEST.to_owned(), 8 << 20), (SIGNATURES.to_owned(), 64 << 10)]);
    }

    #[test]
    fn a_release_announces_no_more_bytes_than_hosts_take() {
        let problem = |size: u64| {
            let listed = Listed { sha256: "0".repeat(64), size };
            let files = BTreeMap::from([("site.toml".to_owned(), listed)]);
            announced(7, files).fetch(&Asked::default(), None, "h").unwrap_err().to_string()
        };
        assert!(problem(128 << 20).contains("the source does not have it"));
        assert!(problem((128 << 20) + 1).starts_with("the release announces 134217729 bytes"));
    }

    #[test]
    fn a_host_fetches_what_is_its_own_and_not_what_is_anothers() {
        let files: [(&str, &str); 5] = [
            ("site.toml", "name = \"lab\""),
            ("host_vars/a.toml", "address = \"10.0.0.1\"\nroles = [\"web\"]"),
            ("host_vars/b.toml", "address = \"10.0.0.2\"\nroles = [\"db\"]"),
            ("roles/web/role.toml", "summary = \"x\""),
            ("roles/db/role.toml", "summary = \"x\""),
        ];
        let site = files.map(|(path, text)| (path.to_owned(), text.as_bytes().into()));
        let site = Site::load(site.into_iter().collect()).unwrap();
        let entry = "hosts = [\"a\"]\nkeys = \"0\"";
        let index = format!("[own]\n{entry}\n[other]\n{}", entry.replace("\"a\"", "\"b\""));
        let index = [("secrets/recipients.toml".to_owned(), index.into_bytes().into())];
        let secrets = Index::read(&index.into_iter().collect()).unwrap();
        for (path, wanted) in [
            ("roles/web/files/x", true),
            ("roles/db/files/x", false),
            ("roles/web/flags/x", false),
            ("roles/web/origin.toml", false),
            ("pki/a/key", true),
            ("pki/b/key", false),
            ("secrets/own.age", true),
            ("secrets/other.age", false),
            // whose it is is not known
            ("secrets/new.age", true),
            ("secrets/note", false),
            ("keys/1.toml", false),
        ] {
            assert_eq!(is_for("a", &site, &secrets, path), wanted, "{path}");
        }
    }
}
