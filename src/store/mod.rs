//! Everything under the state directory: the last good release, what was seen, what is owed, generations, artifacts.

mod addresses;
pub mod archive;
#[expect(clippy::disallowed_methods, reason = "below the state directory, which is nobody's but ours")]
mod artifact;
mod generation;
mod pause;
mod release;
mod saved;
pub mod tree;
mod unpack;

pub use crate::net::download::Progress;
pub use artifact::OPEN_FILES;
pub use generation::{Generation, Keep, StayOn};
pub use pause::Pause;
pub use release::CachedRelease;
pub use saved::Saved;
pub use unpack::Extracted;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use nix::unistd::AccessFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::document::{Files, layout};
use crate::error::{Context, Error, Exit, Result, code};
use crate::host::root::{Access, Root};
use crate::host::systemd::Trigger;
use crate::net;

/// What to do when the state directory or what it remembers is lost or damaged.
pub const ENROLL: &str = "`kpull enroll` says what this host would trust, and takes it up again";
const RIGHTS: &str = "run as root, or say `--root DIR` for a tree of your own";
const PRIVATE: Access = Access { mode: 0o600, uid: None, gid: None };
const DIRECTORY: Access = Access { mode: 0o700, uid: None, gid: None };

/// The state directory.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    root: Root,
    /// How artifacts are downloaded.
    pub net: Box<dyn net::Get>,
    /// Where artifacts are looked for first, see [`crate::config::Artifacts`].
    pub mirrors: Vec<String>,
    /// Whether they are looked for nowhere else.
    pub only_mirrors: bool,
    /// How many members of artifacts may still be unpacked before their turn.
    pub may_stage: Cell<usize>,
    passed_mirrors: RefCell<Vec<(String, Error)>>,
    stamps: RefCell<Option<artifact::DigestCache>>,
}

/// Held while a run goes on; let go when it is dropped, or when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "the lock is the open file")] File);

/// Restarts and reloads that are due because something was changed. Written down before the change, taken back when
/// they are done, so that a run that dies in between doesn't lose them.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct PendingActions {
    /// Ids of unit resources, and what they are owed.
    #[serde(default)]
    pub kicks: BTreeMap<String, Trigger>,
    /// Whether systemd has to read its unit files again.
    #[serde(default)]
    pub unit_files: bool,
    /// Whether firewalld has to read its files again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub firewall_files: bool,
    /// Whether the probes have not all passed since the last change.
    #[serde(default)]
    pub probes: bool,
    /// The release that a run has begun to make of this host, and not come to an end with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Whether something that no role wants any more is held, or could not be restored, and is to be looked at again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
    /// Until when a source has to be reached again, after a change that can cut this host off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<jiff::Timestamp>,
}

/// How the last run went.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LastRun {
    /// When it ended.
    pub time: jiff::Timestamp,
    /// Its exit code.
    pub exit: u8,
    /// What went wrong.
    pub error: Option<String>,
    /// Whether this host is to blame for that, and no release.
    #[serde(default)]
    pub of_host: bool,
    /// How many resources it changed.
    pub changed: usize,
    /// Why it did not take the newest release, when it was not this host's turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// How many of those had moved away from a release that was applied before.
    #[serde(default)]
    pub drifted: usize,
    /// How long it took, in seconds.
    #[serde(default)]
    pub took: f64,
    /// When a run has ended well last: this one, or one before it.
    #[serde(default)]
    pub good: Option<jiff::Timestamp>,
    /// The last run that failed, this one or an earlier one.
    #[serde(default)]
    pub failed: Option<Failure>,
}

/// That a run failed.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Failure {
    /// When.
    pub time: jiff::Timestamp,
    /// What went wrong.
    pub error: String,
    /// Its class, which `kpull help CODE` explains.
    #[serde(default)]
    pub code: String,
}

/// Where a request for a certificate is below the state directory.
fn request(name: &str) -> String {
    format!("csr/{name}.csr")
}

impl Drop for Store {
    fn drop(&mut self) {
        // without them, the next run reads a few files more
        let _ = self.keep_stamps();
    }
}

impl Store {
    /// Opens the state directory, made when it is missing, for root's eyes only.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = std::path::absolute(dir).context(code::STORE, || format!("can't find {}", dir.display()))?;
        let machine = Root::open(Path::new("/"))?;
        if machine.meta(&path)?.is_none() {
            machine.make_directory(&path, DIRECTORY).map_err(|why| {
                let error =
                    Error::new(code::STORE, format!("can't make the state directory {}", dir.display())).because(&why);
                error.help(why.advice().filter(|_| why.code() != code::RIGHTS).unwrap_or(RIGHTS))
            })?;
        }
        let root = machine.private(&path)?;
        nix::unistd::access(dir, AccessFlags::R_OK | AccessFlags::X_OK)
            .context(code::STORE, || format!("can't look into the state directory {}", dir.display()))
            .map_err(|error| error.or_help(RIGHTS))?;
        Ok(Self {
            dir: dir.to_owned(),
            root,
            net: Box::new(net::Options::default()),
            mirrors: Vec::new(),
            only_mirrors: false,
            may_stage: Cell::new(OPEN_FILES),
            passed_mirrors: RefCell::default(),
            stamps: RefCell::default(),
        })
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes the lock, or fails with exit code 75 when another run has it.
    pub fn lock(&self) -> Result<Lock> {
        let file = self.root.lock_file(Path::new("/lock")).map_err(|error| error.or_help(RIGHTS))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => Err(Error::new(code::BUSY, "another kpull is at work on this host")
                .exit(Exit::Busy)
                .help("it ends by itself; `kpull status` tells how it went")),
            Err(TryLockError::Error(error)) => {
                Err(error).context(code::STORE, || format!("can't lock {}", self.dir.join("lock").display()))
            }
        }
    }

    /// A directory for a source's own use, which may be deleted at any time.
    pub fn source_cache(&self, index: usize) -> PathBuf {
        self.dir.join("cache").join(format!("source-{index}"))
    }

    /// The marks of the sources' last news, by source name.
    pub fn marks(&self) -> BTreeMap<String, String> {
        self.read("sources.json").ok().flatten().unwrap_or_default()
    }

    /// Keeps the marks; without them, everything is news once more.
    pub fn set_marks(&self, marks: &BTreeMap<String, String>) -> Result<()> {
        self.write_quickly("sources.json", marks)
    }

    /// Writes a request for a certificate, for somebody to fetch: `csr/NAME.csr`.
    pub fn write_request(&self, name: &str, pem: &str) -> Result<()> {
        self.root.write(&Path::new("/").join(request(name)), pem.as_bytes(), PRIVATE)
    }

    /// The request that is there.
    pub fn read_request(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.root.read(&Path::new("/").join(request(name)))?.map(|(_, pem)| pem))
    }

    /// Where [`Store::write_request`] writes it.
    pub fn request_path(&self, name: &str) -> PathBuf {
        self.dir.join(request(name))
    }

    /// The key set with this number, as it was adopted.
    pub fn key_set(&self, number: u64) -> Result<Vec<u8>> {
        let path = format!("/{}", layout::key_set(number));
        let (_, bytes) = self.root.read(Path::new(&path))?.ok_or_else(|| {
            Error::refused(code::STORE, format!("the state directory has lost key set {number}")).help(ENROLL)
        })?;
        Ok(bytes)
    }

    /// Keeps a key set.
    pub fn add_key_set(&self, number: u64, bytes: &[u8]) -> Result<()> {
        self.root.write(Path::new(&format!("/{}", layout::key_set(number))), bytes, PRIVATE)
    }

    /// The last good release, still to be verified like any other.
    pub fn release(&self) -> Result<Option<CachedRelease>> {
        Ok(self.root.read(Path::new("/release.tar"))?.map(|(_, bytes)| CachedRelease::new(bytes)))
    }

    /// Keeps a release as the last good one.
    pub fn set_release(&self, manifest: &[u8], signatures: &[u8], files: &Files) -> Result<()> {
        let pack = |file: &mut File| release::pack(manifest, signatures, files, file);
        self.root.write_with(Path::new("/release.tar"), PRIVATE, pack)
    }

    /// What is owed.
    pub fn owed(&self) -> Result<PendingActions> {
        Ok(self.read("owed.json")?.unwrap_or_default())
    }

    /// Writes down what is owed; nothing owed, no file.
    pub fn set_owed(&self, owed: &PendingActions) -> Result<()> {
        if *owed == PendingActions::default() {
            self.root.remove(Path::new("/owed.json"))
        } else {
            self.write("owed.json", owed)
        }
    }

    /// How the last run went; `None` before the first.
    pub fn last_run(&self) -> Result<Option<LastRun>> {
        self.read("last-run.json")
    }

    /// Keeps how this run went.
    pub fn set_last_run(&self, run: &LastRun) -> Result<()> {
        self.write_quickly("last-run.json", run)
    }

    /// Keeps a record as JSON that is worth nothing after a crash: it is not synced to the disk.
    pub fn write_quickly<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let bytes = serde_json::to_vec(value).context(code::STORE, || format!("can't write {name}"))?;
        self.root.write_quickly(&Path::new("/").join(name), &bytes, PRIVATE.mode)
    }

    /// A record of another kind, kept as JSON; `None` when there is none.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some((_, bytes)) = self.root.read(&Path::new("/").join(name))? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Error::new(code::STORE, format!("{} is damaged", self.dir.join(name).display()))
                .because(error)
                .help("it can be removed: the next run makes it anew")
        })
    }

    /// Keeps a record as JSON.
    pub fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(value).context(code::STORE, || format!("can't write {name}"))?;
        self.root.write(&Path::new("/").join(name), &bytes, PRIVATE)
    }

    /// The state directory as a root, for what is streamed into it.
    pub fn root(&self) -> &Root {
        &self.root
    }
}
