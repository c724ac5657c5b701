//! Secrets: age files that only operators and the hosts that need them can read.
//!
//! The format is age's own (<https://age-encryption.org/v1>), to SSH keys (Ed25519, RSA) or age's X25519 keys, so that
//! `age` and `rage` read and write the same files.

pub mod index;
pub mod name;
pub mod readers;
mod store;

pub use store::{Secret, SecretStore, fits, placeholder};

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use ssh_key::{LineEnding, PrivateKey};
use zeroize::Zeroizing;

use crate::error::{Context, Error, Result, code, error};
use crate::read;

/// The maximum size of a secret in bytes, enough for keys and tokens.
pub const LARGEST: u64 = 1 << 20;

/// The plaintext of a secret, wiped when dropped.
pub type Plain = Zeroizing<Vec<u8>>;

/// A recipient of a secret: an SSH public key (Ed25519 or RSA), or age's own `age1…`.
#[derive(Clone)]
pub enum Recipient {
    /// An SSH public key.
    Ssh(age::ssh::Recipient),
    /// An age public key.
    Age(age::x25519::Recipient),
}

impl Recipient {
    /// Its fingerprint as `ssh-keygen -l` shows it, or an age key itself.
    pub fn fingerprint(&self) -> String {
        let text = self.to_string();
        let ssh = text.parse::<ssh_key::PublicKey>().map(|key| key.fingerprint(ssh_key::HashAlg::Sha256).to_string());
        ssh.unwrap_or(text)
    }
}

impl FromStr for Recipient {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        // it may be a private key, so messages don't repeat it
        if text.starts_with("age1") {
            return text.parse().map(Self::Age).map_err(|_| "it starts like an age key but is not one".to_owned());
        }
        // without the comment
        let key = text.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        key.parse().map(Self::Ssh).map_err(|_| "it is not an ssh-ed25519, ssh-rsa or age1… public key".to_owned())
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ssh(key) => key.fmt(f),
            Self::Age(key) => key.fmt(f),
        }
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Encrypts `plain` to `recipients`, as age's armored text.
pub fn encrypt(plain: &[u8], recipients: &[Recipient]) -> Result<Vec<u8>> {
    let what = || "can't encrypt".to_owned();
    let each = recipients.iter().map(|recipient| match recipient {
        Recipient::Ssh(key) => key as &dyn age::Recipient,
        Recipient::Age(key) => key as &dyn age::Recipient,
    });
    let encryptor = age::Encryptor::with_recipients(each).context(code::SECRET, what)?;
    let mut encrypted = Vec::new();
    let armor = ArmoredWriter::wrap_output(&mut encrypted, Format::AsciiArmor).context(code::SECRET, what)?;
    let mut writer = encryptor.wrap_output(armor).context(code::SECRET, what)?;
    writer.write_all(plain).context(code::SECRET, what)?;
    writer.finish().and_then(ArmoredWriter::finish).context(code::SECRET, what)?;
    Ok(encrypted)
}

/// A private key. Hosts pass theirs to the template engine, which requires `Send` and `Sync`.
type Key = dyn age::Identity + Send + Sync;

/// Asks a question without echoing the answer.
pub type Ask = fn(question: &str) -> Result<Zeroizing<String>>;

/// Private keys that decrypt secrets.
pub struct Keyring {
    identities: Mutex<Vec<Box<Key>>>,
    /// Keys with a passphrase, which is asked for if no other key fits.
    locked: Mutex<Vec<(PathBuf, Plain)>>,
    ask: Option<Ask>,
    /// The files of the keys, for messages.
    files: Vec<PathBuf>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Keyring {
    /// Reads private keys of OpenSSH, or age's `AGE-SECRET-KEY-1…` lines. Skips missing files, since a host need not have every kind of
    /// key. A key with a passphrase requires `ask`.
    pub fn load(files: &[PathBuf], ask: Option<Ask>) -> Result<Self> {
        let (mut identities, mut locked) = (Vec::new(), Vec::new());
        for file in files {
            // an operator's key may be a pipe
            #[expect(clippy::disallowed_methods, reason = "an operator's own command")]
            let read = if ask.is_some() { std::fs::read(file) } else { read::named(file) };
            let bytes = match read {
                Ok(bytes) => Zeroizing::new(bytes),
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(error).context(code::SECRET, || format!("can't read the key {}", file.display()));
                }
            };
            if ask.is_some() && PrivateKey::from_openssh(&*bytes).is_ok_and(|key| key.is_encrypted()) {
                locked.push((file.clone(), bytes));
            } else {
                identities.extend(identities_in(file, &bytes)?);
            }
        }
        locked.reverse();
        Ok(Self { identities: Mutex::new(identities), locked: Mutex::new(locked), ask, files: files.to_vec() })
    }

    /// Asks for the passphrase of the next locked key; `false` if none is left.
    fn unlock(&self) -> Result<bool> {
        let (Some(ask), Some((file, bytes))) = (self.ask, lock(&self.locked).pop()) else { return Ok(false) };
        let what = || format!("can't use the key {}", file.display());
        let phrase = ask(&format!("Passphrase of {}", file.display()))?;
        let key = PrivateKey::from_openssh(&*bytes).and_then(|key| key.decrypt(phrase.as_bytes())).map_err(|_| {
            Error::new(code::SECRET, what())
                .because("the passphrase is wrong")
                .help("try again, or name another key with --identity")
        })?;
        let plain = key.to_openssh(LineEnding::LF).context(code::SECRET, what)?;
        lock(&self.identities).extend(identities_in(&file, plain.as_bytes())?);
        Ok(true)
    }

    /// Decrypts a secret; `name` is its name in messages.
    pub fn open(&self, name: &str, encrypted: &[u8]) -> Result<Plain> {
        let what = || format!("can't read the secret {name}");
        let files = || self.files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
        if lock(&self.identities).is_empty() && !self.unlock()? {
            let error = Error::new(code::SECRET, what()).because("there is no key to decrypt it");
            // operators name one on the command line, hosts in their configuration
            let name = match self.ask {
                Some(_) => "name your private key with --identity FILE",
                None => "name the file with the private key in `identities` under [secrets] of kpull.toml",
            };
            return Err(match self.files.is_empty() {
                true => error.help(name),
                false => error.help(format!("{name}; looked for {}", files())),
            });
        }
        loop {
            match self.try_open(name, encrypted)? {
                Some(plain) => return Ok(plain),
                None if self.unlock()? => {}
                None => {
                    return Err(Error::new(code::SECRET, what()).because(format!("it is not encrypted to {}", files())).help(
                        "`kpull secret list` shows its recipients; after a change of keys or roles, run `kpull secret rekey`",
                    ));
                }
            }
        }
    }

    /// [`Keyring::open`] with the unlocked keys; `None` if it is encrypted to none of them.
    fn try_open(&self, name: &str, encrypted: &[u8]) -> Result<Option<Plain>> {
        let what = || format!("can't read the secret {name}");
        let damaged = |error: age::DecryptError| Error::new(code::SECRET, what()).because(error);
        let decryptor = age::Decryptor::new_buffered(ArmoredReader::new(encrypted)).map_err(|error| {
            damaged(error).help("it is not an age file: write it with `kpull secret set`, or with `age --armor`")
        })?;
        let identities = lock(&self.identities);
        let reader = match decryptor.decrypt(identities.iter().map(|identity| &**identity as &dyn age::Identity)) {
            Ok(reader) => reader,
            Err(age::DecryptError::NoMatchingKeys) => return Ok(None),
            Err(error) => {
                return Err(damaged(error).help("the file was damaged: write the secret again with `kpull secret set`"));
            }
        };
        let mut plain = Zeroizing::new(Vec::with_capacity(4096));
        reader.take(LARGEST + 1).read_to_end(&mut plain).context(code::SECRET, what)?;
        if plain.len() as u64 > LARGEST {
            return Err(Error::new(code::SECRET, what())
                .because(format!("it has more than {LARGEST} bytes"))
                .help("publish large files as artifacts"));
        }
        Ok(Some(plain))
    }
}

/// Locks even after a panic elsewhere, since the values are consistent at all times.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The private keys in one file.
fn identities_in(file: &Path, bytes: &[u8]) -> Result<Vec<Box<Key>>> {
    let unusable = |why: &str| {
        error!(SECRET, "{} can't be used for secrets", file.display())
            .because(why.to_owned())
            .help("use an OpenSSH private key (Ed25519 or RSA) without a passphrase, or an age identity file")
    };
    if bytes.starts_with(b"-----BEGIN") {
        return match age::ssh::Identity::from_buffer(bytes, None) {
            Ok(identity @ age::ssh::Identity::Unencrypted(_)) => Ok(vec![Box::new(identity)]),
            Ok(age::ssh::Identity::Encrypted(_)) => Err(unusable("it has a passphrase")),
            Ok(age::ssh::Identity::Unsupported(_)) | Err(_) => Err(unusable("it is another type of key")),
        };
    }
    let text = std::str::from_utf8(bytes).map_err(|_| unusable("it is not text"))?;
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let identity: age::x25519::Identity = line.parse().map_err(|_| unusable("a line in it is not a key"))?;
            Ok(Box::new(identity) as Box<Key>)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use age::secrecy::ExposeSecret;

    use super::*;

    fn pair() -> (Recipient, Keyring) {
        let identity = age::x25519::Identity::generate();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, format!("# mine\n{}\n", identity.to_string().expose_secret())).unwrap();
        (Recipient::Age(identity.to_public()), Keyring::load(&[file.path().to_owned()], None).unwrap())
    }

    #[test]
    fn each_recipient_reads_a_secret_and_nobody_else_does() {
        let ((a, a_keys), (b, b_keys), (_, c_keys)) = (pair(), pair(), pair());
        let encrypted = encrypt(b"hunter2", &[a, b]).unwrap();
        assert!(encrypted.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----"));
        assert_eq!(&**a_keys.open("x", &encrypted).unwrap(), b"hunter2");
        assert_eq!(&**b_keys.open("x", &encrypted).unwrap(), b"hunter2");
        let error = c_keys.open("db", &encrypted).unwrap_err();
        assert!(error.to_string().starts_with("can't read the secret db: it is not encrypted to "), "{error}");
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let (a, keys) = pair();
        let encrypted = encrypt(b"hunter2", &[a]).unwrap();
        // behind the line that says what this is, and before the one in which bits may mean nothing
        let body = 36..encrypted.len() - 120;
        for at in body.step_by(5).filter(|at| encrypted[*at] != b'\n') {
            let mut changed = encrypted.clone();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let error = keys.open("x", &changed).unwrap_err();
            assert!(error.to_string().starts_with("can't read the secret x: "), "{at}: {error}");
        }
    }

    #[test]
    fn an_invalid_key_is_reported_without_being_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "AGE-SECRET-KEY-1OOPS\n").unwrap();
        let error = Keyring::load(&[file.path().to_owned()], None).unwrap_err();
        assert!(!format!("{error} {:?}", error.advice()).contains("OOPS"), "{error}");
        let why = "ssh-dss AAAA".parse::<Recipient>().unwrap_err();
        assert_eq!(why, "it is not an ssh-ed25519, ssh-rsa or age1… public key");
    }

    #[test]
    fn a_key_with_a_passphrase_is_asked_for_it_once_and_only_when_no_other_fits() {
        static ASKED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let mut rng = ssh_key::rand_core::OsRng;
        let key = PrivateKey::random(&mut rng, ssh_key::Algorithm::Ed25519).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (locked, other) = (dir.path().join("locked"), dir.path().join("other"));
        let text = key.encrypt(&mut rng, "correct horse").unwrap().to_openssh(LineEnding::LF).unwrap();
        std::fs::write(&locked, text).unwrap();
        let identity = age::x25519::Identity::generate();
        std::fs::write(&other, identity.to_string().expose_secret()).unwrap();
        let ask: Ask = |_| {
            ASKED.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Ok("correct horse".to_owned().into())
        };
        let keys = Keyring::load(&[locked.clone(), other], Some(ask)).unwrap();
        let theirs = encrypt(b"a", &[Recipient::Age(identity.to_public())]).unwrap();
        assert_eq!(&**keys.open("x", &theirs).unwrap(), b"a");
        assert_eq!(ASKED.load(std::sync::atomic::Ordering::SeqCst), 0);
        let ours: Recipient = key.public_key().to_openssh().unwrap().parse().unwrap();
        for _ in 0..2 {
            assert_eq!(&**keys.open("x", &encrypt(b"b", std::slice::from_ref(&ours)).unwrap()).unwrap(), b"b");
        }
        assert_eq!(ASKED.load(std::sync::atomic::Ordering::SeqCst), 1);
        let wrong = Keyring::load(std::slice::from_ref(&locked), Some(|_| Ok("battery".to_owned().into()))).unwrap();
        let error = wrong.open("x", &theirs).unwrap_err();
        assert!(error.to_string().ends_with("the passphrase is wrong"), "{error}");
        let error = Keyring::load(&[locked], None).unwrap_err();
        assert!(error.to_string().ends_with("it has a passphrase"), "{error}");
    }
}
