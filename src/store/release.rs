//! The last good release in one file, a plain tar: read back in one go, and verified again each time.

use std::collections::BTreeMap;
use std::io::{BufWriter, Read, Write};
use std::ops::Range;

use crate::document::layout::{MANIFEST, SIGNATURES};
use crate::document::{Files, Tree};
use crate::error::{Context, Result, code, refused};

/// A release as it was kept. Trusted no more than any other source.
#[derive(Debug)]
pub struct CachedRelease {
    bytes: Vec<u8>,
    files: BTreeMap<String, Range<usize>>,
}

impl CachedRelease {
    /// Finds the files in a tar; what can't be read is missing, and verification will say so.
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        let mut files = BTreeMap::new();
        let mut archive = tar::Archive::new(bytes.as_slice());
        for entry in archive.entries().into_iter().flatten() {
            let Ok(entry) = entry else { break };
            let start = usize::try_from(entry.raw_file_position()).unwrap_or(usize::MAX);
            let end = start.saturating_add(usize::try_from(entry.size()).unwrap_or(usize::MAX));
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            if end <= bytes.len() {
                files.insert(name, start..end);
            }
        }
        Self { bytes, files }
    }
}

impl Tree for CachedRelease {
    fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let Some(range) = self.files.get(path) else { return Ok(None) };
        if range.len() as u64 > max {
            return Err(refused!(STORE, "{path} is larger than expected in the kept release"));
        }
        Ok(Some(self.bytes[range.clone()].to_vec()))
    }

    fn list(&self) -> Result<Option<Vec<String>>> {
        Ok(Some(self.files.keys().cloned().collect()))
    }
}

/// Writes a release as one tar.
pub(super) fn pack(manifest: &[u8], signatures: &[u8], files: &Files, to: impl Write) -> Result<()> {
    let mut archive = tar::Builder::new(BufWriter::with_capacity(64 << 10, to));
    let own = [(MANIFEST, manifest), (SIGNATURES, signatures)];
    for (path, content) in own.into_iter().chain(files.iter().map(|(path, content)| (path, &**content))) {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(0);
        archive
            .append_data(&mut header, path, content.take(content.len() as u64))
            .context(code::STORE, || format!("can't keep {path}"))?;
    }
    archive.into_inner().and_then(|mut rest| rest.flush()).context(code::STORE, || "can't keep the release")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(files: &Files) -> Vec<u8> {
        let mut bytes = Vec::new();
        pack(b"m", b"s", files, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_release_comes_back_as_it_was_kept_long_names_too() {
        let long = format!("roles/r/files/{}", "n".repeat(200));
        let files: Files =
            [(long.clone(), b"content".as_slice().into()), ("site.toml".to_owned(), b"".as_slice().into())]
                .into_iter()
                .collect();
        let kept = CachedRelease::new(packed(&files));
        assert_eq!(kept.read(MANIFEST, 9).unwrap().unwrap(), b"m");
        assert_eq!(kept.read(&long, 9).unwrap().unwrap(), b"content");
        let error = kept.read(&long, 3).unwrap_err();
        assert_eq!(error.to_string(), format!("{long} is larger than expected in the kept release"));
        assert_eq!(kept.list().unwrap().unwrap().len(), 4);
    }

    #[test]
    fn a_release_that_was_cut_short_lacks_its_missing_files() {
        let files: Files = [("site.toml".to_owned(), vec![7; 5000].into())].into_iter().collect();
        let mut bytes = packed(&files);
        bytes.truncate(3000);
        let kept = CachedRelease::new(bytes);
        assert!(kept.read("site.toml", 9999).unwrap().is_none());
    }
}
