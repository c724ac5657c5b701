//! Saved contents that are no longer on the host: by digest, with a list of local edits.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::document::Tree as _;
use crate::document::is_sha256;
use crate::error::{Result, error};
use crate::host::root::failed_io;
use crate::store::{CachedRelease, PRIVATE, Store};

const LIST: &str = "saved.json";
/// Local edits that are kept at most.
const MOST: usize = 200;
/// How long they are kept.
const LONGEST: SignedDuration = SignedDuration::from_hours(90 * 24);
/// Bytes of all of them together.
const BYTES: u64 = 256 << 20;
/// The block size of file systems: a block of zeros needs no space.
const BLOCK: usize = 4096;

/// A local edit of a file, saved before it was overwritten or removed.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Saved {
    /// When.
    pub time: Timestamp,
    /// The path of the file.
    pub path: String,
    /// SHA-256 of the content, in hex: its name in `saved/`.
    pub digest: String,
}

impl Store {
    /// Saves a content and returns its name: SHA-256 in hex.
    pub fn save(&self, content: &[u8]) -> Result<String> {
        let digest = hex::encode(Sha256::digest(content));
        let path = Path::new("/saved").join(&digest);
        if self.root().meta(&path)?.is_none_or(|meta| meta.size != content.len() as u64) {
            // a sparse file needs no space for its zeros, and neither does this
            match content.chunks(BLOCK).any(|block| block.len() == BLOCK && is_zero(block)) {
                true => self.root().write_with(&path, PRIVATE, |file| {
                    write_sparse(file, content).map_err(|error| failed_io("write", &path, error))
                })?,
                false => self.root().write(&path, content, PRIVATE)?,
            }
        }
        Ok(digest)
    }

    /// A saved content.
    pub fn saved(&self, digest: &str) -> Result<Vec<u8>> {
        let found = self.root().read(&Path::new("/saved").join(digest))?.map(|(_, content)| content);
        found.filter(|content| hex::encode(Sha256::digest(content)) == digest).ok_or_else(|| {
            error!(STORE, "the saved content {digest} is lost or damaged")
                .help("restore the file by hand; `kpull disown` discards its prior state")
        })
    }

    /// Saves a local edit of the file at `path`. The contents of edits that this displaces are deleted, unless they are among `wanted`.
    pub fn save_edit(&self, path: &str, content: &[u8], wanted: impl FnOnce() -> HashSet<String>) -> Result<()> {
        let digest = self.save(content)?;
        let mut edits = self.edits()?;
        let before: HashSet<String> = edits.iter().map(|edit| edit.digest.clone()).collect();
        edits.push(Saved { time: Timestamp::now(), path: path.to_owned(), digest });
        let since = Timestamp::now() - LONGEST;
        edits.retain(|edit| edit.time >= since);
        edits.drain(..edits.len().saturating_sub(MOST));
        self.drop_largest(&mut edits)?;
        self.write(LIST, &edits)?;
        let kept: HashSet<&String> = edits.iter().map(|edit| &edit.digest).collect();
        let dropped: Vec<&String> = before.iter().filter(|digest| !kept.contains(digest)).collect();
        if !dropped.is_empty() {
            let wanted = wanted();
            for digest in dropped.into_iter().filter(|digest| !wanted.contains(*digest)) {
                self.root().remove(&Path::new("/saved").join(digest))?;
            }
        }
        Ok(())
    }

    /// Drops edits until the rest has at most [`BYTES`]: the oldest of the path with the most bytes, so that large edits don't displace
    /// those of other files.
    fn drop_largest(&self, edits: &mut Vec<Saved>) -> Result<()> {
        let size =
            |edit: &Saved| Ok(self.root().meta(&Path::new("/saved").join(&edit.digest))?.map_or(0, |meta| meta.size));
        let mut sizes = edits.iter().map(size).collect::<Result<Vec<u64>>>()?;
        while sizes.iter().sum::<u64>() > BYTES {
            let mut of_paths: BTreeMap<&str, u64> = BTreeMap::new();
            for (edit, size) in edits.iter().zip(&sizes) {
                *of_paths.entry(&edit.path).or_default() += size;
            }
            let most = of_paths.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(path, _)| path.to_owned());
            let Some(oldest) = edits.iter().position(|edit| Some(&edit.path) == most.as_ref()) else { break };
            edits.remove(oldest);
            sizes.remove(oldest);
        }
        Ok(())
    }

    /// All saved edits, the oldest first.
    pub fn edits(&self) -> Result<Vec<Saved>> {
        Ok(self.read(LIST)?.unwrap_or_default())
    }

    /// Deletes contents that are neither a saved edit nor among `wanted`, and returns their number.
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

    /// Deletes artifacts that neither the newest release nor a stored one pins, and returns the number of files.
    pub fn drop_artifacts(&self) -> Result<usize> {
        let kept = self.root().names(Path::new("/releases"))?.into_iter().map(|name| format!("/releases/{name}"));
        let mut pins = String::new();
        for path in kept.chain(["/release.tar".to_owned()]) {
            let Some((_, bytes)) = self.root().read(Path::new(&path))? else { continue };
            let release = CachedRelease::new(bytes);
            // artifacts.toml has the digests of artifacts; roles and variables have the ids of commits
            for path in release.list()?.unwrap_or_default().iter().filter(|path| path.ends_with(".toml")) {
                let text = release.read(path, u64::MAX)?.unwrap_or_default();
                pins += &String::from_utf8_lossy(&text).to_ascii_lowercase();
            }
        }
        let mut dropped = 0;
        for name in self.root().names(Path::new("/artifacts"))? {
            let Some(commit) = name.strip_suffix(".commit.json") else { continue };
            let path = Path::new("/artifacts").join(&name);
            match pins.contains(commit) {
                // the digest of its tar
                true => pins += &self.root().text(&path)?,
                false => self.root().remove(&path)?,
            }
        }
        for name in self.root().names(Path::new("/artifacts"))? {
            // including partial downloads and lists of members
            let digest = name.split('.').next().unwrap_or(&name);
            if is_sha256(digest) && !pins.contains(digest) {
                self.root().remove(&Path::new("/artifacts").join(&name))?;
                dropped += 1;
            }
        }
        Ok(dropped)
    }
}

/// Writes a content without its blocks of zeros.
fn write_sparse(file: &mut File, content: &[u8]) -> io::Result<()> {
    for block in content.chunks(BLOCK) {
        match is_zero(block) {
            true => file.seek(SeekFrom::Current(i64::try_from(block.len()).unwrap_or(i64::MAX))).map(|_| ())?,
            false => file.write_all(block)?,
        }
    }
    file.set_len(content.len() as u64)
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_of_a_sparse_file_costs_what_is_in_it_and_comes_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        let mut content = vec![0; (16 << 20) - 3];
        content[5 << 20] = 1;
        for length in [content.len(), (5 << 20) + 1, 8192, 4096, 4095] {
            let digest = store.save(&content[..length]).unwrap();
            assert_eq!(store.saved(&digest).unwrap(), &content[..length]);
            let meta = std::fs::metadata(dir.path().join("state/saved").join(digest)).unwrap();
            assert!(std::os::unix::fs::MetadataExt::blocks(&meta) * 512 <= 64 << 10, "{length}");
        }
    }

    #[test]
    fn edits_of_one_file_push_out_those_of_no_other_and_their_contents_go_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        store.save_edit("/etc/alice", b"alice", HashSet::new).unwrap();
        let mut content = vec![0; 16 << 20];
        let origin = hex::encode(Sha256::digest(&content));
        for number in 0..20 {
            content[0] = number;
            store.save_edit("/home/bob/x", &content, || HashSet::from([origin.clone()])).unwrap();
        }
        let edits = store.edits().unwrap();
        assert_eq!((edits[0].path.as_str(), edits.len()), ("/etc/alice", 16));
        // those, and what is wanted for something else
        assert_eq!(std::fs::read_dir(dir.path().join("state/saved")).unwrap().count(), 17);
    }

    #[test]
    fn edits_are_kept_up_to_a_number_and_what_nothing_needs_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        for number in 0..=MOST {
            store.save_edit("/etc/x", number.to_string().as_bytes(), HashSet::new).unwrap();
        }
        let wanted = store.save(b"an origin").unwrap();
        store.save(b"nobody's").unwrap();
        assert_eq!(store.edits().unwrap().len(), MOST);
        assert_eq!(store.drop_saved(&[wanted.clone()].into()).unwrap(), 1, "the oldest edit is removed already");
        assert_eq!(store.saved(&wanted).unwrap(), b"an origin");
        let lost = hex::encode(Sha256::digest("0"));
        let error = store.saved(&lost).unwrap_err();
        assert_eq!(error.to_string(), format!("the saved content {lost} is lost or damaged"));
    }

    #[test]
    fn a_damaged_content_is_not_restored() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        let digest = store.save(b"whole").unwrap();
        std::fs::write(dir.path().join("state/saved").join(&digest), "other").unwrap();
        assert!(store.saved(&digest).unwrap_err().to_string().contains("lost or damaged"));
    }
}
