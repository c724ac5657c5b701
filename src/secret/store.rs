//! The value of `secret("NAME")`: the plaintext on its host, a placeholder everywhere else.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

use crate::document::Files;
use crate::error::{Error, Result, error, mask, nearest};
use crate::secret::index::Index;
use crate::secret::{Keyring, Plain, lock, name};

/// The secrets of a site: plaintexts or placeholders. Clones share them.
#[derive(Clone)]
pub struct SecretStore {
    /// Whether a missing secret is an error.
    strict: bool,
    /// Plaintexts, on a host; `None` for placeholders, for whoever edits a site.
    open: Option<Arc<Opened>>,
}

/// The plaintexts by the digests of their encrypted files, and the keys to decrypt more.
struct Opened {
    files: Vec<PathBuf>,
    keys: Mutex<Option<Arc<Keyring>>>,
    plain: Mutex<HashMap<String, Secret>>,
}

/// One secret.
#[derive(Clone)]
pub struct Secret {
    /// Its plaintext, or the placeholder.
    pub plain: Arc<Plain>,
    /// SHA-256, in hex, of the encrypted file, which changes whenever the secret is written again.
    pub encrypted: String,
}

impl std::fmt::Debug for SecretStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_open() { "Secrets(open)" } else { "Secrets(encrypted)" })
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("encrypted", &self.encrypted).finish_non_exhaustive()
    }
}

/// The placeholder of a secret.
pub fn placeholder(name: &str) -> String {
    format!("<secret {name}>")
}

/// Whether a text with placeholders matches one on a host, secrets aside. One without placeholders counts as a match, since its secret
/// can't be compared.
pub fn fits(wanted: &[u8], have: &[u8]) -> bool {
    let (Ok(mut wanted), Ok(mut have)) = (std::str::from_utf8(wanted), std::str::from_utf8(have)) else { return false };
    let mut is_first = true;
    loop {
        let found = wanted.split_once("<secret ").and_then(|(before, rest)| Some((before, rest.split_once('>')?.1)));
        let Some((before, behind)) = found else { return is_first || have.ends_with(wanted) };
        // the first part is at the start, every other one somewhere after the previous secret
        let rest = if is_first { have.strip_prefix(before) } else { have.split_once(before).map(|(_, rest)| rest) };
        let Some(rest) = rest else { return false };
        (wanted, have, is_first) = (behind, rest, false);
    }
}

impl SecretStore {
    /// Placeholders for existing secrets.
    pub fn encrypted() -> Self {
        Self { strict: true, open: None }
    }

    /// Placeholders, also for secrets that don't exist yet.
    pub fn expected() -> Self {
        Self { strict: false, open: None }
    }

    /// Plaintexts, decrypted with the keys in `files`. Nothing is read before the first secret is requested.
    pub fn open(files: Vec<PathBuf>) -> Self {
        let opened = Opened { files, keys: Mutex::default(), plain: Mutex::default() };
        Self { strict: true, open: Some(Arc::new(opened)) }
    }

    /// Whether these are plaintexts.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// The encrypted file of a secret; the error suggests the nearest name.
    pub fn encrypted_file(name: &str, files: &Files) -> Result<Arc<[u8]>> {
        name::check(name)?;
        files.get(&name::path_of(name)).cloned().ok_or_else(|| missing(name, files))
    }

    /// Whether missing secrets count as existing.
    pub fn may_lack(&self) -> bool {
        !self.strict
    }

    /// One secret of the site with these files, for `host`.
    pub fn get(&self, name: &str, files: &Files, host: &str) -> Result<Secret> {
        name::check(name)?;
        let encrypted = files.get(&name::path_of(name));
        let digest = encrypted.map(|encrypted| hex::encode(Sha256::digest(encrypted))).unwrap_or_default();
        let Some(store) = &self.open else {
            return match encrypted {
                None if self.strict => Err(missing(name, files)),
                _ => Ok(Secret { plain: Arc::new(placeholder(name).into_bytes().into()), encrypted: digest }),
            };
        };
        if let Some(known) = lock(&store.plain).get(&digest) {
            return Ok(known.clone());
        }
        let Some(encrypted) = encrypted else {
            return Err(for_others(name, files, host).unwrap_or_else(|| missing(name, files)));
        };
        let opened = store.keyring()?.open(name, encrypted);
        let opened = opened.map_err(|error| for_others(name, files, host).unwrap_or(error))?;
        mask::remember(name, &opened);
        let secret = Secret { plain: Arc::new(opened), encrypted: digest.clone() };
        lock(&store.plain).insert(digest, secret.clone());
        Ok(secret)
    }
}

impl Opened {
    /// The host's keys, read on first use.
    fn keyring(&self) -> Result<Arc<Keyring>> {
        let mut keys = lock(&self.keys);
        if let Some(keys) = &*keys {
            return Ok(keys.clone());
        }
        Ok(keys.insert(Arc::new(Keyring::load(&self.files, None)?)).clone())
    }
}

fn missing(name: &str, files: &Files) -> Error {
    let error = error!(SECRET, "there is no secret `{name}`: the site has no {}", name::path_of(name));
    // these commands create the keys of authorities and certificates
    if let Some(key) = name.strip_prefix("pki/") {
        return error.help(if key.contains('/') { "run `kpull pki issue`" } else { "run `kpull pki init`" });
    }
    match nearest(name, files.iter().filter_map(|(path, _)| name::name_in(path))) {
        Some(near) => error.help(format!("did you mean `{near}`? Otherwise, write it with `kpull secret set {name}`")),
        None => error.help(format!("write it with `kpull secret set {name}`")),
    }
}

/// The error for a secret of other hosts, if the index says so.
fn for_others(name: &str, files: &Files, host: &str) -> Option<Error> {
    let index = Index::read(files).ok()?;
    let hosts = index.hosts_of(name).filter(|hosts| !hosts.contains(host))?;
    let whose = match hosts.is_empty() {
        true => "the operators only".to_owned(),
        false => hosts.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
    };
    Some(
        error!(SECRET, "the secret {name} is not for {host}: it is encrypted to {whose}")
            .help("if this host needs it, run `kpull secret rekey` on the site and sign again"),
    )
}

#[cfg(test)]
mod tests {
    use age::secrecy::ExposeSecret;

    use super::*;
    use crate::secret::index::{Entry, INDEX};
    use crate::secret::{Recipient, encrypt};

    struct Site {
        dir: tempfile::TempDir,
        files: Files,
    }

    /// A site with the secret `db`, encrypted to a key in `dir/key`; the index says that it is for `h1`.
    fn site() -> Site {
        let identity = age::x25519::Identity::generate();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("key"), identity.to_string().expose_secret()).unwrap();
        let encrypted = encrypt(b"vault-hunter2\n", &[Recipient::Age(identity.to_public())]).unwrap();
        let mut index = Index::default();
        index.set("db", Entry { hosts: ["h1".to_owned()].into(), keys: String::new() });
        let files = [("secrets/db.age", encrypted), (INDEX, index.to_toml().into_bytes())];
        Site { dir, files: files.into_iter().map(|(path, bytes)| (path.to_owned(), bytes.into())).collect() }
    }

    #[test]
    fn encrypted_ones_are_placeholders_of_what_is_there() {
        let Site { files, .. } = site();
        let secret = SecretStore::encrypted().get("db", &files, "h1").unwrap();
        assert_eq!(&**secret.plain, b"<secret db>");
        let error = SecretStore::encrypted().get("dv", &files, "h1").unwrap_err();
        assert_eq!(error.to_string(), "there is no secret `dv`: the site has no secrets/dv.age");
        assert_eq!(error.advice(), Some("did you mean `db`? Otherwise, write it with `kpull secret set dv`"));
        assert_eq!(&**SecretStore::expected().get("dv", &files, "h1").unwrap().plain, b"<secret dv>");
        let error = SecretStore::expected().get("../dv", &files, "h1").unwrap_err();
        assert!(error.to_string().starts_with("`../dv` is not the name of a secret"), "{error}");
    }

    #[test]
    fn a_text_with_placeholders_is_compared_around_them() {
        let have = "a = für\nkey = geheim\nb = 2\nother = x\n";
        for (wanted, is_same) in [
            ("a = für\nkey = <secret k>\nb = 2\nother = <secret o>\n", true),
            ("<secret all>", true),
            ("a = <secret a>", true),
            ("a = für\nkey = <secret k>\nb = 3\nother = <secret o>\n", false),
            ("a = für\nkey = <secret k>\nb = 2\nother = <secret o>", true),
            ("b = für\nkey = <secret k>\nb = 2\nother = x\n", false),
            ("a = für\nkey = <secret k>\nb = 2\nother = x\nmore\n", false),
            ("a = für\nkey = <secret k>\nb = 2\nother = <secret o>\nmore\n", false),
            ("what a filter made of it", true),
        ] {
            assert_eq!(fits(wanted.as_bytes(), have.as_bytes()), is_same, "{wanted}");
        }
    }

    #[test]
    fn a_host_opens_its_own_and_they_are_masked_from_then_on() {
        let Site { dir, files } = site();
        let secrets = SecretStore::open(vec![dir.path().join("key"), dir.path().join("none")]);
        assert_eq!(&**secrets.get("db", &files, "h1").unwrap().plain, b"vault-hunter2\n");
        assert_eq!(mask::hide("vault-hunter2"), "‹secret db›");
        let shown = format!("{secrets:?} {:?}", secrets.get("db", &files, "h1").unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn keys_are_not_looked_at_before_a_secret_is_asked_for() {
        let Site { dir, files } = site();
        std::fs::write(dir.path().join("bad"), "no key").unwrap();
        let secrets = SecretStore::open(vec![dir.path().join("bad")]);
        let error = secrets.get("db", &files, "h1").unwrap_err();
        assert!(error.to_string().ends_with("bad can't be used for secrets: a line in it is not a key"), "{error}");
    }

    #[test]
    fn another_host_s_secret_is_reported_with_its_host() {
        let Site { dir, files } = site();
        let other = age::x25519::Identity::generate();
        std::fs::write(dir.path().join("other"), other.to_string().expose_secret()).unwrap();
        let secrets = SecretStore::open(vec![dir.path().join("other")]);
        let error = secrets.get("db", &files, "h2").unwrap_err();
        assert_eq!(error.to_string(), "the secret db is not for h2: it is encrypted to h1");
        // it was not even fetched
        let without: Files = files
            .iter()
            .filter(|(path, _)| *path == INDEX)
            .map(|(path, bytes)| (path.to_owned(), bytes.clone()))
            .collect();
        let error = secrets.get("db", &without, "h2").unwrap_err();
        assert_eq!(error.to_string(), "the secret db is not for h2: it is encrypted to h1");
        let error = SecretStore::open(Vec::new()).get("db", &files, "h1").unwrap_err();
        assert_eq!(error.to_string(), "can't read the secret db: there is no key to decrypt it");
    }
}
