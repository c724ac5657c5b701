//! Contents that were on the host and are not any more: by digest, with a list of what was saved when, and why.

use std::collections::HashSet;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::site::is_sha256;
use crate::source::Tree as _;
use crate::store::{CachedRelease, PRIVATE, Store};

const LIST: &str = "saved.json";
/// Local edits that are kept at most.
const MOST: usize = 200;
/// And for how long.
const LONGEST: SignedDuration = SignedDuration::from_hours(90 * 24);

/// Somebody's edit of a file, saved before it was overwritten or removed.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Saved {
    /// When.
    pub time: Timestamp,
    /// The path that it stood at.
    pub path: String,
    /// SHA-256 of the content, in hex: its name in `saved/`.
    pub digest: String,
}

impl Store {
    /// Saves a content for good, and returns its name: SHA-256 in hex.
    pub fn save(&self, content: &[u8]) -> Result<String> {
        let digest = hex::encode(Sha256::digest(content));
        let path = Path::new("/saved").join(&digest);
        if self.root().meta(&path)?.is_none_or(|meta| meta.size != content.len() as u64) {
            self.root().write(&path, content, PRIVATE)?;
        }
        Ok(digest)
    }

    /// A content that was saved.
    pub fn saved(&self, digest: &str) -> Result<Vec<u8>> {
        let found = self.root().read(&Path::new("/saved").join(digest))?.map(|(_, content)| content);
        found.filter(|content| hex::encode(Sha256::digest(content)) == digest).ok_or_else(|| {
            Error::new(format!("what was saved as {digest} is lost or damaged"))
                .help("put the file back by hand; `kpull disown` makes kpull forget what stood there")
        })
    }

    /// Saves a local edit of the file at `path`.
    pub fn save_edit(&self, path: &str, content: &[u8]) -> Result<String> {
        let digest = self.save(content)?;
        let mut edits = self.edits()?;
        edits.push(Saved { time: Timestamp::now(), path: path.to_owned(), digest: digest.clone() });
        let since = Timestamp::now() - LONGEST;
        edits.retain(|edit| edit.time >= since);
        edits.drain(..edits.len().saturating_sub(MOST));
        self.write(LIST, &edits)?;
        Ok(digest)
    }

    /// Every local edit that is still kept, the oldest first.
    pub fn edits(&self) -> Result<Vec<Saved>> {
        Ok(self.read(LIST)?.unwrap_or_default())
    }

    /// Deletes contents that are neither a kept edit nor among `wanted`. How many.
    pub fn drop_saved(&self, wanted: &HashSet<String>) -> Result<usize> {
        let edits: HashSet<String> = self.edits()?.into_iter().map(|edit| edit.digest).collect();
        let mut dropped = 0;
        for name in self.root().names(Path::new("/saved"))? {
            if !wanted.contains(&name) && !edits.contains(&name) {
                self.root().remove(&Path::new("/saved").join(&name))?;
                dropped += 1;
            }
        }
        Ok(dropped)
    }

    /// Deletes artifacts that neither the newest release nor a kept one pins. How many files.
    pub fn drop_artifacts(&self) -> Result<usize> {
        let kept = self.root().names(Path::new("/releases"))?.into_iter().map(|name| format!("/releases/{name}"));
        let mut pins = String::new();
        for path in kept.chain(["/release.tar".to_owned()]) {
            let Some((_, bytes)) = self.root().read(Path::new(&path))? else { continue };
            let text = CachedRelease::new(bytes).read("artifacts.toml", u64::MAX)?.unwrap_or_default();
            pins += &String::from_utf8_lossy(&text);
        }
        let mut dropped = 0;
        for name in self.root().names(Path::new("/artifacts"))? {
            // with what belongs to it: part of a download, what is in it
            let digest = name.split('.').next().unwrap_or(&name);
            if is_sha256(digest) && !pins.contains(digest) {
                self.root().remove(&Path::new("/artifacts").join(&name))?;
                dropped += 1;
            }
        }
        Ok(dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_kept_up_to_a_number_and_what_nothing_needs_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        for number in 0..=MOST {
            store.save_edit("/etc/x", number.to_string().as_bytes()).unwrap();
        }
        let wanted = store.save(b"an origin").unwrap();
        assert_eq!(store.edits().unwrap().len(), MOST);
        assert_eq!(store.drop_saved(&[wanted.clone()].into()).unwrap(), 1, "the oldest edit");
        assert_eq!(store.saved(&wanted).unwrap(), b"an origin");
        assert!(store.saved(&hex::encode(Sha256::digest("0"))).is_err());
    }

    #[test]
    fn a_damaged_content_is_not_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        let digest = store.save(b"whole").unwrap();
        std::fs::write(dir.path().join("state/saved").join(&digest), "other").unwrap();
        assert!(store.saved(&digest).unwrap_err().to_string().contains("lost or damaged"));
    }
}
