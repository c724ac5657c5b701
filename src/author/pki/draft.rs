//! Changes to files of a site that are written together or not at all.

use crate::author::prelude::*;
use crate::document::replace;
use crate::secret::index::{Entry, INDEX, Index, digests};
use crate::secret::{Recipient, encrypt, name};

/// Files to write to a site and to remove from it.
#[derive(Debug)]
pub struct Draft {
    files: BTreeMap<String, Option<Vec<u8>>>,
    /// The recipients of the site's secrets, including the changes of this draft.
    pub index: Index,
    known: Index,
}

impl Draft {
    /// An empty draft for the site.
    pub fn new(files: &Files) -> Result<Self> {
        Ok(Self::of(Index::read(files)?))
    }

    /// An empty draft for a site with this index of secrets.
    pub fn of(index: Index) -> Self {
        Self { files: BTreeMap::new(), known: index.clone(), index }
    }

    /// Writes a file.
    pub fn write(&mut self, path: String, content: impl Into<Vec<u8>>) {
        self.files.insert(path, Some(content.into()));
    }

    /// Removes a file, if it exists.
    pub fn remove(&mut self, path: String) {
        self.files.insert(path, None);
    }

    /// Writes a secret, encrypted to `recipients`: the operators and those of `hosts`.
    pub fn write_secret(
        &mut self,
        name: &str,
        plain: &[u8],
        hosts: BTreeSet<String>,
        recipients: &[Recipient],
    ) -> Result<()> {
        self.write(name::path_of(name), encrypt(plain, recipients)?);
        self.index.set(name, Entry { hosts, keys: digests(recipients) });
        Ok(())
    }

    /// Moves an encrypted secret.
    pub fn move_secret(&mut self, from: &str, to: &str, encrypted: &[u8]) {
        self.write(name::path_of(to), encrypted);
        if let Some(entry) = self.index.get(from).cloned() {
            self.index.set(to, entry);
        }
        self.remove_secret(from);
    }

    /// Removes a secret, if it exists.
    pub fn remove_secret(&mut self, name: &str) {
        self.remove(name::path_of(name));
        self.index.remove(name);
    }

    /// Applies the draft to the site in `dir`. All files are written to temporary files first, so that a full disk changes nothing. The
    /// index comes last: after a crash, it is outdated, which `rekey` detects.
    pub fn commit(self, dir: &Path) -> Result<()> {
        let index = (self.index != self.known).then(|| (dir.join(INDEX), self.index.to_toml().into_bytes()));
        let written = self.files.iter().filter_map(|(path, content)| Some((dir.join(path), content.clone()?)));
        replace(&written.chain(index).collect::<Vec<_>>())?;
        for path in self.files.iter().filter(|(_, content)| content.is_none()).map(|(path, _)| dir.join(path)) {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).context(code::SITE, || format!("can't remove {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
