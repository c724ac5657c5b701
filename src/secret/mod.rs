//! Secrets: age files that only the hosts which need them, and the operators, can read.
//!
//! The format is age's own (<https://age-encryption.org/v1>), to SSH keys (Ed25519, RSA) or age's X25519 keys, so that
//! `age` and `rage` read and write the same files.

pub mod index;
pub mod name;

use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use zeroize::Zeroizing;

use crate::error::{Context, Error, Result};

/// Bytes that a secret may have: keys and tokens, not archives.
pub const LARGEST: u64 = 1 << 20;

/// A secret's plain bytes, wiped when they are dropped.
pub type Plain = Zeroizing<Vec<u8>>;

/// One secret as it was asked for.
#[derive(Clone)]
pub struct Secret {
    /// Its plaintext.
    pub plain: std::sync::Arc<Plain>,
}

/// Somebody who a secret is encrypted to: an SSH public key (Ed25519 or RSA), or age's own `age1…`.
#[derive(Clone)]
pub enum Recipient {
    /// An SSH public key.
    Ssh(age::ssh::Recipient),
    /// An age public key.
    Age(age::x25519::Recipient),
}

impl FromStr for Recipient {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        // what is no public key may be a private one, and is not repeated
        if text.starts_with("age1") {
            return text.parse().map(Self::Age).map_err(|_| "it starts like an age key and is none".to_owned());
        }
        // the comment behind a key is nobody's business here
        let key = text.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        key.parse().map(Self::Ssh).map_err(|_| "it is neither an ssh-ed25519, ssh-rsa nor age1… public key".to_owned())
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

/// Encrypts `plain` so that each of `recipients` can read it and nobody else; the result is age's armoured text.
pub fn seal(plain: &[u8], recipients: &[Recipient]) -> Result<Vec<u8>> {
    let what = || "can't encrypt".to_owned();
    let each = recipients.iter().map(|recipient| match recipient {
        Recipient::Ssh(key) => key as &dyn age::Recipient,
        Recipient::Age(key) => key as &dyn age::Recipient,
    });
    let encryptor = age::Encryptor::with_recipients(each).context(what)?;
    let mut sealed = Vec::new();
    let armor = ArmoredWriter::wrap_output(&mut sealed, Format::AsciiArmor).context(what)?;
    let mut writer = encryptor.wrap_output(armor).context(what)?;
    writer.write_all(plain).context(what)?;
    writer.finish().and_then(ArmoredWriter::finish).context(what)?;
    Ok(sealed)
}

/// Private keys that secrets are read with.
pub struct Keyring {
    identities: Vec<Box<dyn age::Identity>>,
    /// Where they were looked for, for messages.
    files: Vec<PathBuf>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Keyring {
    /// Reads private keys: OpenSSH's, without a passphrase, or age's `AGE-SECRET-KEY-1…` lines. A file that isn't there is
    /// left out: a host has not every kind of key.
    pub fn load(files: &[PathBuf]) -> Result<Self> {
        let mut identities = Vec::new();
        for file in files {
            match std::fs::read(file) {
                Ok(bytes) => identities.extend(identities_in(file, &Zeroizing::new(bytes))?),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).context(|| format!("can't read the key {}", file.display())),
            }
        }
        Ok(Self { identities, files: files.to_vec() })
    }

    /// Decrypts a secret; `name` is what it is called in messages.
    pub fn open(&self, name: &str, sealed: &[u8]) -> Result<Plain> {
        let what = || format!("can't read the secret {name}");
        let damaged = |error: age::DecryptError| Error::new(what()).because(error);
        let decryptor = age::Decryptor::new_buffered(ArmoredReader::new(sealed)).map_err(|error| {
            damaged(error).help("it is not an age file: write it with `kpull secret set`, or with `age --armor`")
        })?;
        let identities = self.identities.iter().map(|identity| &**identity as &dyn age::Identity);
        let reader = decryptor.decrypt(identities).map_err(|error| match error {
            age::DecryptError::NoMatchingKeys => {
                let files: Vec<String> = self.files.iter().map(|file| file.display().to_string()).collect();
                let keys = if files.is_empty() { "no key".to_owned() } else { files.join(", ") };
                Error::new(what()).because(format!("it is not encrypted to {keys}")).help(
                    "`kpull secret list` tells for whom it is; after a change of keys or roles, `kpull secret rekey` encrypts anew",
                )
            }
            error => damaged(error).help("the file was damaged: write the secret again with `kpull secret set`"),
        })?;
        let mut plain = Zeroizing::new(Vec::with_capacity(4096));
        reader.take(LARGEST + 1).read_to_end(&mut plain).context(what)?;
        if plain.len() as u64 > LARGEST {
            return Err(Error::new(what())
                .because(format!("it has more than {LARGEST} bytes"))
                .help("publish large files as artifacts"));
        }
        Ok(plain)
    }
}

/// The private keys in one file.
fn identities_in(file: &Path, bytes: &[u8]) -> Result<Vec<Box<dyn age::Identity>>> {
    let unusable = |why: &str| {
        Error::new(format!("{} can't be used for secrets", file.display()))
            .because(why.to_owned())
            .help("give an OpenSSH private key (Ed25519 or RSA) without a passphrase, or an age identity file")
    };
    if bytes.starts_with(b"-----BEGIN") {
        return match age::ssh::Identity::from_buffer(bytes, None) {
            Ok(identity @ age::ssh::Identity::Unencrypted(_)) => Ok(vec![Box::new(identity)]),
            Ok(age::ssh::Identity::Encrypted(_)) => Err(unusable("it has a passphrase")),
            Ok(age::ssh::Identity::Unsupported(_)) | Err(_) => Err(unusable("it is a key of another kind")),
        };
    }
    let text = std::str::from_utf8(bytes).map_err(|_| unusable("it is not a text"))?;
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let identity: age::x25519::Identity = line.parse().map_err(|_| unusable("a line in it is no key"))?;
            Ok(Box::new(identity) as Box<dyn age::Identity>)
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
        (Recipient::Age(identity.to_public()), Keyring::load(&[file.path().to_owned()]).unwrap())
    }

    #[test]
    fn each_recipient_reads_a_secret_and_nobody_else_does() {
        let ((a, a_keys), (b, b_keys), (_, c_keys)) = (pair(), pair(), pair());
        let sealed = seal(b"hunter2", &[a, b]).unwrap();
        assert!(sealed.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----"));
        assert_eq!(&**a_keys.open("x", &sealed).unwrap(), b"hunter2");
        assert_eq!(&**b_keys.open("x", &sealed).unwrap(), b"hunter2");
        let error = c_keys.open("db", &sealed).unwrap_err();
        assert!(error.to_string().starts_with("can't read the secret db: it is not encrypted to "), "{error}");
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let (a, keys) = pair();
        let mut sealed = seal(b"hunter2", &[a]).unwrap();
        let middle = sealed.len() / 2;
        sealed[middle] = if sealed[middle] == b'A' { b'B' } else { b'A' };
        assert!(keys.open("x", &sealed).is_err());
    }

    #[test]
    fn what_is_no_key_is_told_without_being_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "AGE-SECRET-KEY-1OOPS\n").unwrap();
        let error = Keyring::load(&[file.path().to_owned()]).unwrap_err();
        assert!(!format!("{error} {:?}", error.advice()).contains("OOPS"), "{error}");
        assert!("ssh-dss AAAA".parse::<Recipient>().is_err());
    }
}
