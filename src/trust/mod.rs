//! From untrusted bytes to a release: signatures first, then the manifest, then every file against it.
//!
//! A node refuses, each with its own words and exit code 4: a bad or missing signature, too few signers, a serial below
//! the highest seen, an expired release, another site's release, a file whose size or digest differs, a file that is
//! not listed, a path outside the tree, more bytes than announced, an unknown format version; and a clock that runs
//! behind the last release seen. Which keys count is a chain of key sets of its own, see `keys`.

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
use crate::error::{Error, Exit, Result, code};
use crate::magic::{KEEP, changed_by};
use crate::secret::index::Index;
use crate::secret::name::name_in;
use crate::site::Site;

/// The namespace of signatures over a release.
pub const NAMESPACE: &str = Purpose::Release.namespace();
/// Bytes that a release may have in all.
const LARGEST_RELEASE: u64 = 128 << 20;
/// How far a signer's clock may be ahead of a host's.
const LEEWAY: jiff::SignedDuration = jiff::SignedDuration::from_mins(5);

/// Something that comes from a verified release and from nothing else. Only this module makes one out of bytes; the
/// stages after it turn it into one of what they make.
///
/// ```compile_fail,E0451
/// // nobody else can make one
/// fn forge(site: kpull::site::Site, manifest: std::sync::Arc<kpull::trust::Manifest>) -> kpull::trust::Release {
///     kpull::trust::Verified { manifest, value: site }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Verified<T> {
    manifest: Arc<Manifest>,
    value: T,
}

/// One signed state of a site, with the files that one host needs, each of which is what the signers saw.
pub type Release = Verified<Site>;

impl<T> Verified<T> {
    /// What the signers said of the release.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The thing itself.
    pub fn get(&self) -> &T {
        &self.value
    }

    /// The thing itself, when it has reached its end.
    pub(crate) fn into_inner(self) -> T {
        self.value
    }

    /// The next stage's product of this one.
    pub(crate) fn then<U>(self, stage: impl FnOnce(T) -> Result<U>) -> Result<Verified<U>> {
        Ok(Verified { value: stage(self.value)?, manifest: self.manifest })
    }
}

/// What a host believes.
#[derive(Debug)]
pub struct Policy {
    /// The site that it is enrolled to.
    pub site: String,
    /// Whose signatures count.
    pub keys: KeySet,
}

/// A release's manifest whose signatures are good; its files are still to be fetched.
#[derive(Debug)]
pub struct VerifiedManifest {
    manifest: Arc<Manifest>,
    /// `release.toml`, as signed.
    pub bytes: Vec<u8>,
    /// `release.toml.sig`.
    pub signatures: Vec<u8>,
    /// Whose signatures they are.
    pub signers: Vec<String>,
    /// The number of the key set that has them.
    pub keys: u64,
}

impl Policy {
    /// [`VerifiedManifest::by`] the keys that count here, and of this site.
    pub fn announce(&self, tree: &dyn Tree, at: Timestamp) -> Result<VerifiedManifest> {
        let announced = VerifiedManifest::by(&self.keys, tree, at)?;
        if announced.manifest.site != self.site {
            return Err(Error::refused(
                code::SIGNATURE,
                format!(
                    "the release is for the site `{}`, and this host belongs to `{}`",
                    announced.manifest.site, self.site
                ),
            )
            .help("look at the source's address, and at `site` under [trust] in kpull.toml"));
        }
        Ok(announced)
    }
}

impl VerifiedManifest {
    /// Checks signatures and then, only then, reads the manifest that they are over. Keys have to be valid at the time `at`.
    /// Which site it is of is the caller's to look at.
    pub fn by(keys: &KeySet, tree: &dyn Tree, at: Timestamp) -> Result<Self> {
        let read = |name: &str, max: u64| -> Result<Option<Vec<u8>>> { tree.read(name, max) };
        let bytes = read(MANIFEST, LARGEST_MANIFEST)?.ok_or_else(|| {
            Error::refused(code::SIGNATURE, format!("the source has no {MANIFEST}"))
                .help("sign the site with `kpull sign`, and publish what that writes; if the site is not at the top of its repository, name its directory with `path`")
        })?;
        let signatures = read(SIGNATURES, LARGEST_SIGNATURES)?.ok_or_else(|| {
            Error::refused(code::SIGNATURE, format!("the release is not signed: there is no {SIGNATURES}"))
                .help("sign the site with `kpull sign`")
        })?;
        let message = Message { bytes: &bytes, purpose: Purpose::Release, name: "the release", at };
        // kpull writes no line of it with a carriage return: whoever has signed it, these are other bytes
        let filtered = |error: Error| match bytes.contains(&b'\r') {
            true => error.because("a filter changed its line ends").help(KEEP),
            false => error,
        };
        let signers = keys.signers.check(&message, &signatures, keys.release).map_err(filtered)?;
        let signers = signers.into_iter().map(str::to_owned).collect();
        let manifest = Manifest::parse(&bytes)?;
        Ok(Self { manifest: manifest.into(), bytes, signatures, signers, keys: keys.number })
    }

    /// What the signers said.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of `release.toml`, in hex: what tells one release from another.
    pub fn digest(&self) -> String {
        hex::encode(Sha256::digest(&self.bytes))
    }

    /// Refuses a release that is older than one seen before, expired, or signed in what is the future here.
    pub fn check_time(&self, seen: Option<&LastSeen>, now: Timestamp) -> Result<()> {
        let Manifest { serial, created, expires, .. } = &*self.manifest;
        if let Some(seen) = seen {
            if seen.digest.is_empty() && *serial <= seen.serial {
                return Err(Error::refused(
                    code::SERIAL,
                    format!(
                        "the release has serial {serial}, and since the last change of keys none up to {} counts",
                        seen.serial
                    ),
                )
                .help("sign again: each release has the serial of the one before and one more"));
            }
            if *serial < seen.serial {
                return Err(Error::refused(code::SERIAL, format!("the release has serial {serial}, and {} was seen here before", seen.serial))
                    .help("somebody replays an old release, or the source was set back; sign again to publish it under a new serial"));
            }
            if *serial == seen.serial && self.digest() != seen.digest {
                return Err(Error::refused(
                    code::SERIAL,
                    format!("there are two different releases with serial {serial}"),
                )
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
            return Err(Error::refused(code::EXPIRED, format!("the release (serial {serial}) expired at {expires}"))
                .help("sign again: a release that nobody renews may be one that somebody holds back"));
        }
        Ok(())
    }

    /// Fetches what `host` needs from `tree`, or takes it from `known` where the digest is the same, and checks it: first
    /// what every host of the site reads, then what is this one's alone. Refused when the site has no such host: a host
    /// takes its own catalog or none.
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

    /// Fetches the files that are `wanted`, and checks them: for whoever takes a part of another site into their own.
    pub fn fetch_part(&self, tree: &dyn Tree, wanted: &dyn Fn(&str) -> bool) -> Result<Verified<Files>> {
        self.check_extent(tree)?;
        let files = gather(&self.manifest, tree, None, wanted)?;
        Ok(Verified { manifest: self.manifest.clone(), value: files.into_iter().collect() })
    }

    /// Refuses a release of more bytes than are allowed, and a source with files of the site that nobody signed.
    fn check_extent(&self, tree: &dyn Tree) -> Result<()> {
        let total: u64 = self.manifest.files.values().map(|listed| listed.size).fold(0, u64::saturating_add);
        if total > LARGEST_RELEASE {
            return Err(Error::refused(
                code::SIGNATURE,
                format!("the release announces {total} bytes, more than the {LARGEST_RELEASE} that are allowed"),
            )
            .help("publish large files as artifacts, pinned in artifacts.toml"));
        }
        if let Some(present) = tree.list()? {
            let unlisted = present.iter().find(|path| is_part(path) && !self.manifest.files.contains_key(*path));
            if let Some(path) = unlisted {
                return Err(Error::refused(
                    code::TAMPERED,
                    format!("{path} is in the source, and the release does not list it"),
                )
                .help("sign again after adding a file"));
            }
        }
        Ok(())
    }
}

/// The most bytes of a text of which it is looked into what became of it on its way.
const LARGEST_TEXT: u64 = 64 << 10;

/// Whether `host` reads the file at `path`, beside those that every host reads.
fn is_for(host: &str, site: &Site, secrets: &Index, path: &str) -> bool {
    match path.split('/').collect::<Vec<_>>()[..] {
        // what `kpull check` compares command lines with; a host has no use for it
        ["roles", _, "flags", ..] => false,
        // nor for where a role was taken from
        ["roles", _, "origin.toml"] => false,
        ["roles", role, _, ..] => site.hosts.get(host).is_some_and(|host| host.roles.iter().any(|known| known == role)),
        ["pki", owner, _] => owner == host,
        ["secrets", ..] => {
            name_in(path).is_some_and(|name| secrets.hosts_of(name).is_none_or(|hosts| hosts.contains(host)))
        }
        _ => false,
    }
}

/// The listed files that are wanted: from `known` where the digest is the same, else from `tree`, checked.
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
        // of what has more bytes so many are looked at that it can be told what became of it
        ..=LARGEST_TEXT if error.exit_code() == Exit::Refused => {
            let more = tree.read(path, listed.size.saturating_mul(2).max(LARGEST_TEXT)).ok().flatten();
            more.and_then(|content| disguised(path, listed, &content)).unwrap_or(error)
        }
        _ => error,
    });
    let content = read?.ok_or_else(|| {
        Error::refused(code::TAMPERED, format!("{path} is listed in the release, and the source does not have it"))
            .help("publish every file of the site; was the push complete?")
    })?;
    if !listed.matches(&content)
        && let Some(error) = disguised(path, listed, &content)
    {
        return Err(error);
    }
    if content.len() as u64 != listed.size {
        return Err(Error::refused(
            code::TAMPERED,
            format!("{path} has {} bytes, and the release says {}", content.len(), listed.size),
        )
        .help("the file was changed or cut short after signing"));
    }
    if !listed.matches(&content) {
        return Err(Error::refused(
            code::TAMPERED,
            format!("{path} is not the file that was signed: its SHA-256 differs"),
        )
        .help("the file was changed after signing; sign again if that was you"));
    }
    Ok(content)
}

/// The error for a file that is not the one that was signed, where its bytes tell what became of it.
fn disguised(path: &str, listed: &Listed, content: &[u8]) -> Option<Error> {
    let (what, help) = changed_by(content, |bytes| listed.matches(bytes))?;
    let error = Error::refused(code::TAMPERED, format!("{path} is not the file that was signed: {what}"));
    Some(error.help(help))
}

fn clock(now: Timestamp, created: Timestamp) -> Error {
    Error::refused(code::CLOCK, format!("this host's clock says {now:.0}, and a release was signed at {created:.0}"))
        .help("set the clock; a clock that is set back would let an expired release pass")
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

    const CREATED: &str = "2026-11-24T00:00:00Z";
    const EXPIRES: &str = "2026-12-24T00:00:00Z";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn announced(serial: u64, files: BTreeMap<String, Listed>) -> VerifiedManifest {
        let (created, expires) = (at(CREATED), at(EXPIRES));
        let manifest = Manifest { site: "lab".to_owned(), serial, created, expires, files };
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
    fn a_release_counts_from_five_minutes_before_it_was_made_to_the_moment_that_it_expires() {
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
            (8, own.as_str(), Some("the release has serial 7, and 8 was seen here before")),
            // since a change of keys none up to this serial counts
            (6, "", None),
            (7, "", Some("the release has serial 7, and since the last change of keys none up to 7 counts")),
            (8, "", Some("the release has serial 7, and since the last change of keys none up to 8 counts")),
        ] {
            let ended = release.check_time(Some(&seen(serial, digest)), at(CREATED));
            let told = ended.err().map(|error| error.to_string());
            assert_eq!(told.as_deref(), why, "{serial} {digest}");
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
