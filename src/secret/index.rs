//! `secrets/recipients.toml`: the recipients of each secret of a site. Written by `kpull secret`, signed with the site, and
//! readable by everyone: it lists which secrets a host fetches.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::document::Files;
use crate::error::Result;
use crate::secret::{Recipient, name};

/// The index's path in a site.
pub const INDEX: &str = "secrets/recipients.toml";

/// The entry of one secret.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The hosts to which it is encrypted.
    pub hosts: BTreeSet<String>,
    /// [`digests`] of its recipients, including the operators.
    pub keys: String,
}

impl Entry {
    /// Whether these are exactly its recipients.
    pub fn is_to(&self, recipients: &[Recipient]) -> bool {
        self.keys == digests(recipients)
    }

    /// Whether it is encrypted to a key.
    pub fn has(&self, recipient: &Recipient) -> bool {
        self.keys.split(' ').any(|known| known == digest(recipient))
    }

    /// The number of its recipients.
    pub fn count(&self) -> usize {
        self.keys.split_whitespace().count()
    }
}

/// The recipients of all secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index(BTreeMap<String, Entry>);

impl Index {
    /// Reads the index of a site; empty if it has none.
    pub fn read(files: &Files) -> Result<Self> {
        let Some(doc) = files.doc(INDEX)? else { return Ok(Self::default()) };
        let entries: BTreeMap<String, Entry> = doc.read().map_err(|error| {
            error.help("`kpull secret` writes this file; remove it, and `kpull secret rekey` creates it again")
        })?;
        for name in entries.keys() {
            name::check(name)
                .map_err(|error| error.at(doc.key_place(std::slice::from_ref(name)), "this can't be a secret"))?;
        }
        Ok(Self(entries))
    }

    /// The hosts to which a secret is encrypted; `None` without an entry.
    pub fn hosts_of(&self, name: &str) -> Option<&BTreeSet<String>> {
        self.0.get(name).map(|entry| &entry.hosts)
    }

    /// The entry of a secret.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.0.get(name)
    }

    /// The names of all secrets with an entry, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Sets the entry of a secret.
    pub fn set(&mut self, name: &str, entry: Entry) {
        self.0.insert(name.to_owned(), entry);
    }

    /// Removes the entry of a secret.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// The text of the file, always the same for the same index.
    pub fn to_toml(&self) -> String {
        let mut text =
            "# Written by `kpull secret`: which hosts each secret is encrypted to, besides the operators, and\n\
                        # digests of the keys. It does not contain the secrets.\n"
                .to_owned();
        for (name, Entry { hosts, keys }) in &self.0 {
            let hosts: Vec<String> = hosts.iter().map(|host| toml::Value::from(host.as_str()).to_string()).collect();
            text.push_str(&format!("\n[\"{name}\"]\nhosts = [{}]\nkeys = \"{keys}\"\n", hosts.join(", ")));
        }
        text
    }
}

/// Identifies keys: the first half of the SHA-256 of each, in hex, sorted.
pub fn digests(recipients: &[Recipient]) -> String {
    let keys: BTreeSet<String> = recipients.iter().map(digest).collect();
    keys.into_iter().collect::<Vec<_>>().join(" ")
}

fn digest(recipient: &Recipient) -> String {
    let digest = Sha256::digest(recipient.to_string());
    hex::encode(digest.get(..16).unwrap_or(&digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(text: &str) -> Files {
        [(INDEX.to_owned(), text.as_bytes().into())].into_iter().collect()
    }

    fn index() -> Index {
        let mut index = Index::default();
        let entry =
            |hosts: &[&str]| Entry { hosts: hosts.iter().map(|&host| host.into()).collect(), keys: "ab".into() };
        index.set("db-password", entry(&["master1"]));
        index.set("pki/etcd-ca.key", entry(&[]));
        index.set("token", entry(&["master2", "master1"]));
        index
    }

    #[test]
    fn what_was_written_is_read_back() {
        let text = index().to_toml();
        assert!(text.ends_with("[\"token\"]\nhosts = [\"master1\", \"master2\"]\nkeys = \"ab\"\n"), "{text}");
        assert_eq!(Index::read(&files(&text)).unwrap(), index());
        assert_eq!(Index::read(&Files::default()).unwrap(), Index::default());
    }

    #[test]
    fn the_hosts_of_a_secret_are_those_that_it_is_encrypted_to() {
        let index = index();
        let hosts = |name| index.hosts_of(name).unwrap().iter().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(hosts("token"), ["master1", "master2"]);
        assert_eq!(hosts("db-password"), ["master1"]);
        assert!(index.hosts_of("pki/etcd-ca.key").unwrap().is_empty());
        assert!(index.hosts_of("other").is_none());
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused_with_its_place() {
        let error = Index::read(&files("[\"../x\"]\nhosts = []\nkeys = \"\"\n")).unwrap_err();
        assert_eq!(error.to_string().split(": ").next(), Some("`../x` is not the name of a secret"));
        assert_eq!(error.place().unwrap().to_string(), "secrets/recipients.toml:1:2");
        let error = Index::read(&files("[a]\nhost = []\n")).unwrap_err();
        assert_eq!(error.to_string(), "unknown key `host`");
    }

    #[test]
    fn the_digests_are_of_the_keys_and_not_of_their_order() {
        let key = || Recipient::Age(age::x25519::Identity::generate().to_public());
        let (a, b) = (key(), key());
        assert_eq!(digests(&[a.clone(), b.clone(), a.clone()]), digests(&[b.clone(), a.clone()]));
        assert_ne!(digests(std::slice::from_ref(&a)), digests(&[a.clone(), b.clone()]));
        let entry = |keys| Entry { hosts: BTreeSet::new(), keys };
        let entry = entry(digests(std::slice::from_ref(&a)));
        assert_eq!((entry.has(&a), entry.has(&b), entry.count()), (true, false, 1));
        assert!(entry.is_to(std::slice::from_ref(&a)) && !entry.is_to(&[a.clone(), b.clone()]), "{entry:?}");
    }
}
