//! Pinned upstream files: downloaded once, checked against their digest before a byte of them is used, kept by digest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Seek;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::net::download::{Progress, Wanted, download, hash};
use crate::site::Pin;
use crate::store::Store;
use crate::supply::layout;

/// How long a file has to be unchanged until its times tell it apart from one that is changed right now.
const SETTLED: i64 = 2;

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
        let digest = hash(&mut file).context(what)?.sha256;
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
            let digest = hash(&mut file).context(|| format!("can't read {}", path.display()))?;
            if digest.sha256 == pin.sha256 {
                file.rewind().context(|| format!("can't read {}", path.display()))?;
                return Ok(file);
            }
            // the disk has lost it: fetch it again
            std::fs::remove_file(&path).context(|| format!("can't remove {}", path.display()))?;
        }
        std::fs::create_dir_all(self.dir().join("artifacts"))
            .context(|| "can't make the store for artifacts".to_owned())?;
        let part = path.with_extension("part");
        let wanted = Wanted { name: &pin.name, sha256: Some(&pin.sha256), size: pin.size };
        let mut failures = Vec::new();
        let mirrors = self.mirrors.iter().map(|mirror| (Some(mirror), layout::artifact_in(mirror, &pin.sha256)));
        let own = pin.urls.iter().filter(|_| !self.only_mirrors).map(|url| (None, url.clone()));
        for (mirror, url) in mirrors.chain(own) {
            match download(&*self.net, &url, &part, &wanted, progress) {
                Ok(_) => {
                    std::fs::rename(&part, &path).context(|| format!("can't write {}", path.display()))?;
                    return File::open(&path).context(|| format!("can't read {}", path.display()));
                }
                Err(error) => {
                    if let Some(mirror) = mirror {
                        self.passed_mirrors.borrow_mut().push((mirror.clone(), error.clone()));
                    }
                    failures.push(error);
                }
            }
        }
        let why: Vec<String> = failures.iter().map(ToString::to_string).collect();
        Err(Error::new(format!("the artifact {} can't be had", pin.name))
            .because(why.join("; "))
            .help("nothing was changed; add a mirror to `urls` in artifacts.toml, or look at the network and at [artifacts] in kpull.toml"))
    }

    /// The mirrors that did not have an artifact since this was asked last, and why.
    pub fn take_passed_mirrors(&self) -> Vec<(String, Error)> {
        self.passed_mirrors.take()
    }
}
