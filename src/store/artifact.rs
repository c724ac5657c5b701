//! Pinned upstream files: downloaded once, verified against their digests before use, and stored by digest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Seek;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use crate::document::{Pin, layout};
use crate::error::{Context, Error, Result, code};
use crate::host::root::Fingerprint;
use crate::net::download::{DownloadRequest, Listener, Piece, Progress, download_any, hash, hash_with};
use crate::net::server_of;
use crate::store::Store;
use crate::store::archive::Archive;
use crate::store::unpack::{Targets, Unpacked, Unpacking};

/// How long a file has to be unchanged before its times can detect another change.
const SETTLED: SignedDuration = SignedDuration::from_secs(2);
/// Members of all artifacts that may be unpacked in advance: each is an open file.
pub const OPEN_FILES: usize = 256;
/// The file of the cached digests.
const STAMPS: &str = "stamps.json";

/// The digests of installed files, each with the fingerprint of the file.
#[derive(Debug)]
pub(super) struct DigestCache {
    known: BTreeMap<PathBuf, (Fingerprint, String)>,
    /// Whether some are not stored yet.
    is_new: bool,
}

impl Store {
    /// The digests of members that were extracted from an artifact before.
    pub fn members(&self, pin: &Pin) -> Result<BTreeMap<String, String>> {
        Ok(self.read(&format!("artifacts/{}.members.json", pin.sha256))?.unwrap_or_default())
    }

    /// Records the digests of members that were extracted from an artifact.
    pub fn add_members(&self, pin: &Pin, members: impl Iterator<Item = (String, String)>) -> Result<()> {
        let mut known = self.members(pin)?;
        known.extend(members);
        self.write(&format!("artifacts/{}.members.json", pin.sha256), &known)
    }

    /// SHA-256 of an installed file, in hex. A file that is unchanged since it was last read is not read again.
    pub fn digest_of(&self, path: &Path, mut file: File) -> Result<String> {
        let what = || format!("can't read {}", path.display());
        let seen = Fingerprint::from(nix::sys::stat::fstat(&file).context(code::ARTIFACT, what)?);
        let mut stamps = self.stamps.borrow_mut();
        let stamps = stamps.get_or_insert_with(|| DigestCache {
            known: self.read(STAMPS).ok().flatten().unwrap_or_default(),
            is_new: false,
        });
        if let Some((_, digest)) = stamps.known.get(path).filter(|(then, _)| *then == seen) {
            return Ok(digest.clone());
        }
        let digest = hash(&mut file).context(code::ARTIFACT, what)?.sha256;
        if seen.is_older_than(Timestamp::now().saturating_sub(SETTLED).unwrap_or_default()) {
            stamps.known.insert(path.to_owned(), (seen, digest.clone()));
            stamps.is_new = true;
        }
        Ok(digest)
    }

    /// Makes [`Store::digest_of`] read every file again, since `stat` does not show every change.
    pub fn forget_stamps(&self) {
        self.stamps.replace(Some(DigestCache { known: BTreeMap::new(), is_new: true }));
    }

    /// Stores the cache of [`Store::digest_of`] for the next run.
    pub(super) fn keep_stamps(&self) -> Result<()> {
        let mut stamps = self.stamps.borrow_mut();
        let Some(stamps) = stamps.as_mut().filter(|stamps| stamps.is_new) else { return Ok(()) };
        stamps.is_new = false;
        self.write_quickly(STAMPS, &stamps.known)
    }

    /// An empty file without a name, for content that is not verified yet.
    pub fn blank(&self) -> Result<File> {
        let dir = self.artifacts_dir()?;
        tempfile::tempfile_in(&dir).context(code::ARTIFACT, || format!("can't write to {}", dir.display()))
    }

    /// Extracts members from the pinned file, which is downloaded if it isn't stored yet. All is read once: fetched, hashed,
    /// inflated and written at the same time. `blank` makes an empty file for each member that is wanted, or none for one of
    /// which only the digest is; it is called again when another address has to be tried. Nothing is returned
    /// unless the pinned file has its digest and is a complete archive; until then, no file has a name.
    pub fn unpack(&self, pin: &Pin, blank: &dyn Fn() -> Result<Targets>, progress: Progress<'_>) -> Result<Unpacked> {
        let archive = Archive::new(&pin.name, pin.format);
        std::thread::scope(|scope| {
            let mut unpacking = None;
            let file = self.artifact(pin, progress, &mut |piece| match piece {
                // drops what came from an earlier address
                Piece::Start => {
                    let stream = || Unpacking::stream(scope, archive, blank()?);
                    unpacking = pin.format.streams().then(stream);
                }
                Piece::Bytes(bytes) => {
                    if let Some(Ok(unpacking)) = &mut unpacking {
                        unpacking.feed(bytes);
                    }
                }
            })?;
            unpacking.unwrap_or_else(|| Ok(Unpacking::file(scope, archive, blank()?, file)))?.finish()
        })
    }

    /// The pinned file, downloaded if it isn't stored yet, with its digest verified.
    pub fn fetch(&self, pin: &Pin, progress: Progress<'_>) -> Result<File> {
        self.artifact(pin, progress, &mut |_| {})
    }

    pub(super) fn artifacts_dir(&self) -> Result<PathBuf> {
        let dir = self.dir().join("artifacts");
        std::fs::create_dir_all(&dir).context(code::ARTIFACT, || "can't create the directory for artifacts")?;
        Ok(dir)
    }

    /// The pinned file, downloaded if it isn't stored yet, with its digest verified. `listener` gets its bytes.
    fn artifact(&self, pin: &Pin, progress: Progress<'_>, listener: Listener<'_>) -> Result<File> {
        let path = self.artifacts_dir()?.join(&pin.sha256);
        let what = || format!("can't read {}", path.display());
        if let Ok(mut file) = File::open(&path) {
            if hash_with(&mut file, listener).context(code::ARTIFACT, what)?.sha256 == pin.sha256 {
                file.rewind().context(code::ARTIFACT, what)?;
                return Ok(file);
            }
            // damaged on the disk: download it again
            std::fs::remove_file(&path).context(code::ARTIFACT, || format!("can't remove {}", path.display()))?;
        }
        let part = path.with_extension("part");
        let wanted = DownloadRequest { name: &pin.name, sha256: Some(&pin.sha256), size: pin.size };
        let mirrors = self.mirrors.iter().map(|mirror| layout::artifact_in(mirror, &pin.sha256));
        let own = pin.urls.iter().filter(|_| !self.only_mirrors).cloned();
        let mut urls: Vec<String> = mirrors.chain(own).collect();
        let (known, now) = (self.addresses(), Timestamp::now());
        urls.sort_by_cached_key(|url| known.failed(&server_of(url), now));
        let has_choice = urls.len() > 1;
        let mut tried = |url: &str, error: Option<&Error>| {
            let is_mirror = |mirror: &&String| layout::artifact_in(mirror, &pin.sha256) == url;
            if let (Some(error), Some(mirror)) = (error, self.mirrors.iter().find(is_mirror)) {
                self.passed_mirrors.borrow_mut().push((mirror.clone(), error.clone()));
            }
            // a mirror that lacks a single file still works for others
            let works = error.is_none_or(|error| error.code() == code::MISSING);
            if has_choice && let Err(error) = self.note_address(&server_of(url), works) {
                log::debug!("{error}");
            }
        };
        download_any(&*self.net, &urls, &part, &wanted, progress, listener, &mut tried).map_err(|error| {
            let other = "nothing was changed; add a mirror to `urls` in artifacts.toml, or check the network and [artifacts] in kpull.toml";
            // of an error on this host, such as a full disk, the advice for its cause stays
            if error.passes() { error.help(other) } else { error.or_help(other) }
        })?;
        std::fs::rename(&part, &path).context(code::ARTIFACT, || format!("can't write {}", path.display()))?;
        File::open(&path).context(code::ARTIFACT, what)
    }

    /// The mirrors that failed to provide an artifact since the last call, and why.
    pub fn take_passed_mirrors(&self) -> Vec<(String, Error)> {
        self.passed_mirrors.take()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Cursor, Read, Write};

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::document::Format;
    use crate::net::{Conditions, Download, Get, Kind};
    use crate::trust::Listed;

    /// A stand-in for a server that hands out this, and looks into a directory before the last byte.
    #[derive(Debug)]
    struct Looking {
        content: Vec<u8>,
        dir: PathBuf,
    }

    struct Body {
        content: Cursor<Vec<u8>>,
        dir: PathBuf,
    }

    impl Get for Looking {
        fn get(&self, _: &str, _: &Conditions<'_>) -> Result<Download> {
            let body = Body { content: Cursor::new(self.content.clone()), dir: self.dir.clone() };
            Ok(Download { kind: Kind::Ok, length: None, state: None, body: Box::new(body) })
        }
    }

    impl Read for Body {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let left = self.content.get_ref().len() - usize::try_from(self.content.position()).unwrap();
            if left == 1 {
                let names: Vec<_> = names(&self.dir).into_iter().filter(|name| !name.contains('.')).collect();
                assert_eq!(names, [""; 0]);
            }
            let most = buffer.len().min(1000).min(left - usize::from(left > 1));
            self.content.read(&mut buffer[..most])
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let names = std::fs::read_dir(dir).into_iter().flatten();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// A tar.gz with one member that does not compress well.
    fn archive() -> (Vec<u8>, Vec<u8>) {
        let content: Vec<u8> = (0..40_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        archive.append_data(&mut header, "tool", content.as_slice()).unwrap();
        (archive.into_inner().unwrap().finish().unwrap(), content)
    }

    fn unpack(served: Vec<u8>, pinned: &[u8]) -> (tempfile::TempDir, Result<Unpacked>) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        store.net = Box::new(Looking { content: served, dir: dir.path().join("artifacts") });
        let Listed { sha256, size } = Listed::of(pinned);
        let urls = vec!["http://x/tool.tar.gz".to_owned()];
        let pin =
            Pin { name: "tool".into(), version: "1".into(), urls, sha256, size: Some(size), format: Format::TarGz };
        let blank = || Ok([("tool".to_owned(), Some(store.blank()?))].into_iter().collect());
        let taken = store.unpack(&pin, &blank, &|_, _, _| {});
        drop(store);
        (dir, taken)
    }

    #[test]
    fn nothing_has_a_name_before_the_last_byte_and_a_whole_member_comes_out() {
        let (archive, content) = archive();
        let (dir, taken) = unpack(archive.clone(), &archive);
        let taken = taken.unwrap().remove("tool").unwrap();
        assert_eq!(taken.sha256, Listed::of(&content).sha256);
        let (mut file, mut written) = (taken.file.unwrap(), Vec::new());
        file.rewind().unwrap();
        file.read_to_end(&mut written).unwrap();
        assert!(written == content);
        assert_eq!(names(&dir.path().join("artifacts")), [Listed::of(&archive).sha256]);
    }

    #[test]
    fn a_wrong_last_byte_leaves_nothing_at_all() {
        let (archive, _) = archive();
        // behind the end of what is compressed, where inflating doesn't see it
        let pinned = [archive.clone(), vec![0]].concat();
        let mut served = pinned.clone();
        *served.last_mut().unwrap() = 1;
        let (dir, taken) = unpack(served, &pinned);
        assert!(taken.unwrap_err().to_string().contains("is not the pinned file"));
        assert_eq!(names(&dir.path().join("artifacts")), [""; 0]);
    }

    #[test]
    fn a_damaged_pinned_file_is_reported_as_such() {
        let (mut archive, _) = archive();
        let middle = archive.len() / 2;
        archive[middle..middle + 100].fill(0x5a);
        let (_dir, taken) = unpack(archive.clone(), &archive);
        let error = taken.unwrap_err();
        assert!(error.to_string().starts_with("tool: is damaged"), "{error}");
    }

    #[test]
    fn a_full_disk_is_reported_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (archive, _) = archive();
        let path = dir.path().join("tool.tar.gz");
        File::create(&path).unwrap().write_all(&archive).unwrap();
        let Listed { sha256, size } = Listed::of(&archive);
        let pin = Pin {
            name: "tool".into(),
            version: "1".into(),
            urls: vec![format!("file://{}", path.display())],
            sha256,
            size: Some(size),
            format: Format::TarGz,
        };
        let full = || Ok([("tool".to_owned(), Some(File::options().write(true).open("/dev/full").unwrap()))].into());
        let error = store.unpack(&pin, &full, &|_, _, _| {}).unwrap_err();
        assert!(error.to_string().starts_with("can't unpack tool: "), "{error}");
        assert!(error.advice().unwrap().starts_with("free some space"), "{error}");
    }
}
