//! Pinned upstream files: downloaded once, checked against their digest before a byte of them is used, kept by digest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result};
use crate::net::{self, Kind};
use crate::site::Pin;
use crate::store::Store;

const CHUNK: usize = 256 << 10;
/// Bytes of an artifact whose size is not pinned.
const LARGEST: u64 = 4 << 30;
/// How long a file has to be unchanged until its times tell it apart from one that is changed right now.
const SETTLED: i64 = 2;

/// Hears of a download: what is downloaded, the bytes so far, and all of them if that is known.
pub type Progress<'a> = &'a dyn Fn(&str, u64, Option<u64>);

/// What identifies the content of an installed file without reading it.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    sha256: String,
}

impl Stamp {
    fn of(meta: &std::fs::Metadata, sha256: &str) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            sha256: sha256.to_owned(),
        }
    }
}

impl Store {
    fn artifact_path(&self, pin: &Pin) -> PathBuf {
        self.dir().join("artifacts").join(&pin.sha256)
    }

    /// The digests of what was taken out of an artifact before, by member.
    pub fn members(&self, pin: &Pin) -> Result<BTreeMap<String, String>> {
        Ok(self.read(&format!("artifacts/{}.members.json", pin.sha256))?.unwrap_or_default())
    }

    /// Remembers the digests of what was taken out of an artifact.
    pub fn add_members(&self, pin: &Pin, members: BTreeMap<String, String>) -> Result<()> {
        let mut known = self.members(pin)?;
        known.extend(members);
        self.write(&format!("artifacts/{}.members.json", pin.sha256), &known)
    }

    /// SHA-256 of an installed file, in hex. A file that was read before and has not been touched since is not read again.
    pub fn digest_of(&self, path: &Path, mut file: File) -> Result<String> {
        let what = || format!("can't read {}", path.display());
        let meta = file.metadata().context(what)?;
        let name = "stamps.json";
        let mut stamps: BTreeMap<PathBuf, Stamp> = self.read(name).ok().flatten().unwrap_or_default();
        if let Some(stamp) = stamps.get(path)
            && *stamp == Stamp::of(&meta, &stamp.sha256)
        {
            return Ok(stamp.sha256.clone());
        }
        let digest = hash(&mut file, &mut Sha256::new(), |_| Ok(())).context(what)?;
        let now = jiff::Timestamp::now().as_second();
        if now - meta.ctime() > SETTLED {
            stamps.insert(path.to_owned(), Stamp::of(&meta, &digest));
            self.write(name, &stamps)?;
        }
        Ok(digest)
    }

    /// The pinned file, downloaded if it isn't here yet, its digest checked now.
    pub fn artifact(&self, pin: &Pin, progress: Progress<'_>) -> Result<File> {
        let path = self.artifact_path(pin);
        if let Ok(mut file) = File::open(&path) {
            let digest =
                hash(&mut file, &mut Sha256::new(), |_| Ok(())).context(|| format!("can't read {}", path.display()))?;
            if digest == pin.sha256 {
                file.rewind().context(|| format!("can't read {}", path.display()))?;
                return Ok(file);
            }
            // the disk has lost it: fetch it again
            std::fs::remove_file(&path).context(|| format!("can't remove {}", path.display()))?;
        }
        std::fs::create_dir_all(self.dir().join("artifacts"))
            .context(|| "can't make the store for artifacts".to_owned())?;
        let mut failures = Vec::new();
        for url in &pin.urls {
            match self.download(pin, url, &path, progress) {
                Ok(()) => return File::open(&path).context(|| format!("can't read {}", path.display())),
                Err(error) => failures.push(error),
            }
        }
        let why: Vec<String> = failures.iter().map(ToString::to_string).collect();
        Err(Error::new(format!("the artifact {} can't be had", pin.name))
            .because(why.join("; "))
            .help("nothing was changed; add a mirror to `urls` in artifacts.toml, or look at the network and at [artifacts] in kpull.toml"))
    }

    /// Downloads from one address, going on where an earlier attempt ended.
    fn download(&self, pin: &Pin, url: &str, path: &Path, progress: Progress<'_>) -> Result<()> {
        let part = path.with_extension("part");
        let what = || format!("can't write {}", part.display());
        let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&part).context(what)?;
        let mut hasher = Sha256::new();
        let mut done = 0;
        hash(&mut file, &mut hasher, |bytes| {
            done += bytes as u64;
            Ok(())
        })
        .context(what)?;
        let resumed = done;
        let (mut body, total, from_start) = self.body(url, done)?;
        if from_start && done > 0 {
            (hasher, done) = (Sha256::new(), 0);
            file.set_len(0).and_then(|()| file.rewind()).context(what)?;
        }
        let limit = pin.size.unwrap_or(LARGEST);
        let total = pin.size.or(total);
        if let Some(total) = total {
            room_for(&part, total.saturating_sub(done))?;
        }
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = body.read(&mut buffer).map_err(net::from_io)?;
            if count == 0 {
                break;
            }
            done += count as u64;
            if done > limit {
                drop(std::fs::remove_file(&part));
                return Err(Error::new(format!("{url} has more than the {limit} bytes that are expected")));
            }
            hasher.update(&buffer[..count]);
            file.write_all(&buffer[..count]).context(what)?;
            progress(&pin.name, done, total);
        }
        let digest = hex::encode(hasher.finalize());
        if digest != pin.sha256 {
            drop(std::fs::remove_file(&part));
            if resumed > 0 && !from_start {
                // what was there before may have been the wrong half
                return self.download(pin, url, path, progress);
            }
            return Err(Error::new(format!(
                "{url} is not the file that is pinned: its SHA-256 is {digest}, and artifacts.toml says {}",
                pin.sha256
            )));
        }
        file.sync_all().context(what)?;
        std::fs::rename(&part, path).context(what)
    }

    /// The body at `url` from byte `from` on; whether it starts at byte 0 after all; its whole size.
    fn body(&self, url: &str, from: u64) -> Result<(Box<dyn Read>, Option<u64>, bool)> {
        if let Some(path) = url.strip_prefix("file://") {
            let file = File::open(path).context(|| format!("can't read {path}"))?;
            let size = file.metadata().context(|| format!("can't read {path}"))?.len();
            return Ok((Box::new(file), Some(size), true));
        }
        let from = Some(from).filter(|from| *from > 0);
        let reply = self.net.get(url, from)?;
        let (total, from_start) = match reply.kind {
            Kind::Ok => (reply.length, true),
            Kind::Partial => (reply.length.map(|rest| rest.saturating_add(from.unwrap_or(0))), false),
            _ => return Err(Error::new(format!("{url} is not there"))),
        };
        Ok((reply.body, total, from_start))
    }
}

/// Reads to the end; the digest of what `hasher` has got, in hex. `each` hears of every piece.
fn hash(
    input: &mut dyn Read,
    hasher: &mut Sha256,
    mut each: impl FnMut(usize) -> std::io::Result<()>,
) -> std::io::Result<String> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = input.read(&mut buffer)?;
        if count == 0 {
            return Ok(hex::encode(hasher.clone().finalize()));
        }
        hasher.update(&buffer[..count]);
        each(count)?;
    }
}

fn room_for(part: &Path, bytes: u64) -> Result<()> {
    let dir = part.parent().unwrap_or(part);
    let stat =
        nix::sys::statvfs::statvfs(dir).context(|| format!("can't ask for the free space at {}", dir.display()))?;
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    if free < bytes {
        return Err(Error::new(format!(
            "{} has {} MiB free, and {} MiB are needed",
            dir.display(),
            free >> 20,
            bytes >> 20
        ))
        .help("free some space there; nothing was changed"));
    }
    Ok(())
}
