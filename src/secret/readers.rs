//! The recipients of an encrypted file, from its header. Changing the header requires the file's key.

use std::io::Read as _;

use age::armor::ArmoredReader;
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use sha2::{Digest, Sha256};

use crate::secret::Recipient;
use crate::secret::index::Entry;

/// The maximum size of a header to read, enough for some thousand recipients.
const LARGEST: u64 = 4 << 20;

/// A reader of a secret.
#[derive(Clone, Debug)]
pub struct Reader {
    /// The host; `None` for an operator.
    pub host: Option<String>,
    /// The public key.
    pub key: Recipient,
}

impl std::fmt::Display for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.host.as_deref().unwrap_or("an operator"), self.key.fingerprint())
    }
}

/// The keys of readers.
pub fn keys(readers: &[Reader]) -> Vec<Recipient> {
    readers.iter().map(|reader| reader.key.clone()).collect()
}

/// The intended readers of a secret: the operators, and each host with its keys.
pub fn readers<'a>(
    operators: &[Recipient],
    hosts: impl IntoIterator<Item = (&'a str, &'a [Recipient])>,
) -> Vec<Reader> {
    let operators = operators.iter().map(|key| (None, key));
    let hosts = hosts.into_iter().flat_map(|(name, keys)| keys.iter().map(move |key| (Some(name), key)));
    let reader = |(host, key): (Option<&str>, &Recipient)| Reader { host: host.map(str::to_owned), key: key.clone() };
    operators.chain(hosts).map(reader).collect()
}

/// Those of `wanted` who can't read an encrypted file yet, by the file and its entry in the index: the file has only 32 bits of SSH
/// keys and the number of other keys, and the index can be edited.
pub fn newcomers(encrypted: &[u8], entry: Option<&Entry>, mut wanted: Vec<Reader>) -> Vec<Reader> {
    let now = Readers::of(encrypted);
    let is_in = |reader: &Reader| match (now.has(&reader.key), entry.is_none_or(|entry| entry.has(&reader.key))) {
        (Some(in_file), in_index) => in_file && in_index,
        // age keys are not named in the file
        (None, in_index) => in_index && entry.is_some_and(|entry| entry.count() <= now.count()),
    };
    wanted.retain(|reader| !is_in(reader));
    wanted
}

/// The recipients of an encrypted file.
#[derive(Debug, Default)]
struct Readers {
    /// Recipients with SSH keys, each by 32 bits of the key's digest, as age names them.
    tags: Vec<String>,
    /// The number of other recipients, which age does not name.
    nameless: usize,
}

impl Readers {
    /// The recipients of an encrypted file; none for another file.
    fn of(encrypted: &[u8]) -> Self {
        let mut readers = Self::default();
        let mut bytes = Vec::new();
        // after the header, the file can be binary or truncated
        let _ = ArmoredReader::new(encrypted).take(LARGEST).read_to_end(&mut bytes);
        for line in bytes.split(|byte| *byte == b'\n').take_while(|line| !line.starts_with(b"---")) {
            let line = String::from_utf8_lossy(line);
            let mut words = line.strip_prefix("-> ").unwrap_or_default().split(' ');
            match (words.next(), words.next()) {
                (Some("ssh-ed25519" | "ssh-rsa"), Some(tag)) => readers.tags.push(tag.to_owned()),
                (Some("X25519"), _) => readers.nameless += 1,
                _ => {}
            }
        }
        readers
    }

    /// Their number.
    fn count(&self) -> usize {
        self.tags.len() + self.nameless
    }

    /// Whether a recipient is one of them; `None` if the header does not say, as for age's own keys.
    fn has(&self, recipient: &Recipient) -> Option<bool> {
        let Recipient::Ssh(_) = recipient else { return (self.nameless == 0).then_some(false) };
        let text = recipient.to_string();
        let key = BASE64_STANDARD.decode(text.split(' ').nth(1)?).ok()?;
        let digest = Sha256::digest(key);
        Some(self.tags.contains(&BASE64_STANDARD_NO_PAD.encode(digest.get(..4)?)))
    }
}

#[cfg(test)]
mod tests {
    use ssh_key::private::Ed25519Keypair;

    use super::*;
    use crate::secret::encrypt;

    #[test]
    fn an_encrypted_file_says_whose_ssh_keys_read_it_and_how_many_others() {
        let ssh = |seed| -> Recipient {
            let key = ssh_key::PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]));
            key.public_key().to_openssh().unwrap().parse().unwrap()
        };
        let native = || Recipient::Age(age::x25519::Identity::generate().to_public());
        let readers = Readers::of(&encrypt(b"x", &[ssh(1), ssh(2)]).unwrap());
        let has = |recipient: &Recipient| readers.has(recipient);
        assert_eq!(
            (readers.count(), has(&ssh(1)), has(&ssh(2)), has(&ssh(3))),
            (2, Some(true), Some(true), Some(false))
        );
        assert_eq!(has(&native()), Some(false));
        let readers = Readers::of(&encrypt(b"x", &[ssh(1), native()]).unwrap());
        assert_eq!((readers.count(), readers.has(&native()), readers.has(&ssh(2))), (2, None, Some(false)));
        assert_eq!(Readers::of(b"-> ssh-ed25519 nothing").count(), 0);
    }
}
