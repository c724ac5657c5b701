//! Everything in the state directory: the last good release, records of runs, pending actions, generations, artifacts.

mod addresses;
pub mod archive;
#[expect(clippy::disallowed_methods, reason = "below the state directory, which is nobody's but ours")]
mod artifact;
#[expect(clippy::disallowed_methods, reason = "below the state directory, which is nobody's but ours")]
mod commit;
mod generation;
mod pause;
mod release;
mod saved;
pub mod tree;
mod unpack;

pub use crate::net::download::Progress;
pub use artifact::OPEN_FILES;
pub use commit::{Commit, Repositories};
pub use generation::{Generation, Keep, StayOn};
pub use pause::Pause;
pub use release::CachedRelease;
pub use saved::Saved;
pub use unpack::{Extracted, Unpacked};

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use nix::unistd::AccessFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::document::{Files, ResourceId, layout};
use crate::error::{Context, Error, Exit, Result, code, error, refused};
use crate::host::root::{Access, Root};
use crate::host::systemd::Trigger;
use crate::net;

/// Advice when the state directory or a record in it is lost or damaged.
pub const ENROLL: &str = "`kpull enroll` shows what this host will trust, and enrolls it again";
const RIGHTS: &str = "run as root, or use `--root DIR` for a tree of your own";
const PRIVATE: Access = Access::of_mode(0o600);
const DIRECTORY: Access = Access::of_mode(0o700);

/// The state directory.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    root: Root,
    /// How artifacts are downloaded.
    pub net: Box<dyn net::Get>,
    /// How commits of git repositories are fetched; `None` where nothing is.
    pub repositories: Option<Box<dyn Repositories>>,
    /// Mirrors that are tried first for artifacts, see [`crate::config::Artifacts`].
    pub mirrors: Vec<String>,
    /// Whether artifacts come only from mirrors.
    pub only_mirrors: bool,
    /// How many more members of artifacts may be unpacked in advance.
    pub may_stage: Cell<usize>,
    passed_mirrors: RefCell<Vec<(String, Error)>>,
    stamps: RefCell<Option<artifact::DigestCache>>,
}

/// The lock of a run. It is released when it is dropped, or when the process ends in any way.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "the lock is the open file")] File);

/// Actions that are due because something was changed. They are recorded before the change and removed when they are done, so that a
/// run that dies in between doesn't lose them.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default)]
pub struct PendingActions {
    /// Pending restarts and reloads by the ids of unit resources.
    #[serde(rename = "kicks")]
    pub triggers: BTreeMap<ResourceId, Trigger>,
    /// Whether systemd has to reload its unit files.
    pub unit_files: bool,
    /// Whether firewalld has to reload its files.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub firewall_files: bool,
    /// Whether the probes have not all passed since the last change.
    pub probes: bool,
    /// The release that a run has started to apply and not completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Whether an orphan is paused or could not be restored, and has to be checked again.
    #[serde(rename = "gone", skip_serializing_if = "std::ops::Not::not")]
    pub orphans: bool,
    /// Until when a source has to be reached, after a change that can disconnect this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact: Option<jiff::Timestamp>,
}

/// The result of the last run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LastRun {
    /// When it ended.
    pub time: jiff::Timestamp,
    /// Its exit code.
    pub exit: u8,
    /// The error, if it failed.
    pub error: Option<String>,
    /// Whether the error is caused by this host and not by a release.
    #[serde(default)]
    pub of_host: bool,
    /// How many resources it changed.
    pub changed: usize,
    /// The resources and roles to which it was limited, if it was partial.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// Why it did not select the newest release, if it was waiting for its position in the rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// How many of those had drifted from a release that was applied before.
    #[serde(default)]
    pub drifted: usize,
    /// How long it took, in seconds.
    #[serde(default)]
    pub took: f64,
    /// When a run last succeeded: this one, or an earlier one.
    pub good: Option<jiff::Timestamp>,
    /// The last run that failed, this one or an earlier one.
    pub failed: Option<Failure>,
}

/// A failed run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Failure {
    /// When.
    pub time: jiff::Timestamp,
    /// The error.
    pub error: String,
    /// Its code, which `kpull help CODE` explains.
    #[serde(default)]
    pub code: String,
}

/// The path of a certificate request in the state directory.
fn request(name: &str) -> String {
    format!("csr/{name}.csr")
}

impl Drop for Store {
    fn drop(&mut self) {
        // without them, the next run only reads a few more files
        let _ = self.keep_stamps();
    }
}

impl Store {
    /// Opens the state directory; a missing one is created, readable only for root.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = std::path::absolute(dir).context(code::STORE, || format!("can't find {}", dir.display()))?;
        let machine = Root::open(Path::new("/"))?;
        if machine.meta(&path)?.is_none() {
            machine.make_directory(&path, DIRECTORY).map_err(|why| {
                let error = error!(STORE, "can't create the state directory {}", dir.display()).because(&why);
                error.help(why.advice().filter(|_| why.code() != code::RIGHTS).unwrap_or(RIGHTS))
            })?;
        }
        let root = machine.private(&path)?;
        nix::unistd::access(dir, AccessFlags::R_OK | AccessFlags::X_OK)
            .context(code::STORE, || format!("can't access the state directory {}", dir.display()))
            .map_err(|error| error.or_help(RIGHTS))?;
        Ok(Self {
            dir: dir.to_owned(),
            root,
            net: Box::new(net::Options::default()),
            repositories: None,
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

    /// Acquires the lock, or fails with exit code 75 if another run has it.
    pub fn lock(&self) -> Result<Lock> {
        let file = self.root.lock_file(Path::new("/lock")).map_err(|error| error.or_help(RIGHTS))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => Err(error!(BUSY, "another kpull is running on this host")
                .exit(Exit::Busy)
                .help("wait until it ends; `kpull status` shows its result")),
            Err(TryLockError::Error(error)) => {
                Err(error).context(code::STORE, || format!("can't lock {}", self.dir.join("lock").display()))
            }
        }
    }

    /// The cache directory of a source, which may be deleted at any time.
    pub fn source_cache(&self, index: usize) -> PathBuf {
        self.dir.join("cache").join(format!("source-{index}"))
    }

    /// The cursors of the sources' last states, by source name.
    pub fn cursors(&self) -> BTreeMap<String, String> {
        self.read("sources.json").ok().flatten().unwrap_or_default()
    }

    /// Stores the cursors; without them, every state counts as new.
    pub fn set_cursors(&self, cursors: &BTreeMap<String, String>) -> Result<()> {
        self.write_quickly("sources.json", cursors)
    }

    /// Writes a certificate request to `csr/NAME.csr`, for an operator to fetch.
    pub fn write_request(&self, name: &str, pem: &str) -> Result<()> {
        self.root.write(&Path::new("/").join(request(name)), pem.as_bytes(), PRIVATE)
    }

    /// The stored request.
    pub fn read_request(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.root.read(&Path::new("/").join(request(name)))?.map(|(_, pem)| pem))
    }

    /// The path that [`Store::write_request`] writes.
    pub fn request_path(&self, name: &str) -> PathBuf {
        self.dir.join(request(name))
    }

    /// The key set with this number.
    pub fn key_set(&self, number: u64) -> Result<Vec<u8>> {
        let path = format!("/{}", layout::key_set(number));
        let (_, bytes) = self
            .root
            .read(Path::new(&path))?
            .ok_or_else(|| refused!(STORE, "the state directory has lost key set {number}").help(ENROLL))?;
        Ok(bytes)
    }

    /// Stores a key set.
    pub fn add_key_set(&self, number: u64, bytes: &[u8]) -> Result<()> {
        self.root.write(Path::new(&format!("/{}", layout::key_set(number))), bytes, PRIVATE)
    }

    /// The last good release, unverified.
    pub fn release(&self) -> Result<Option<CachedRelease>> {
        Ok(self.root.read(Path::new("/release.tar"))?.map(|(_, bytes)| CachedRelease::new(bytes)))
    }

    /// Stores a release as the last good one.
    pub fn set_release(&self, manifest: &[u8], signatures: &[u8], files: &Files) -> Result<()> {
        let pack = |file: &mut File| release::pack(manifest, signatures, files, file);
        self.root.write_with(Path::new("/release.tar"), PRIVATE, pack)
    }

    /// The pending actions.
    pub fn pending(&self) -> Result<PendingActions> {
        Ok(self.read("owed.json")?.unwrap_or_default())
    }

    /// Records the pending actions; without any, the file is removed.
    pub fn set_pending(&self, pending: &PendingActions) -> Result<()> {
        match *pending == PendingActions::default() {
            true => self.root.remove(Path::new("/owed.json")),
            false => self.write("owed.json", pending),
        }
    }

    /// The result of the last run; `None` before the first.
    pub fn last_run(&self) -> Result<Option<LastRun>> {
        self.read("last-run.json")
    }

    /// Stores the result of this run.
    pub fn set_last_run(&self, run: &LastRun) -> Result<()> {
        self.write_quickly("last-run.json", run)
    }

    /// Stores a record as JSON without syncing it, for what is not needed after a crash.
    pub fn write_quickly<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let bytes = serde_json::to_vec(value).context(code::STORE, || format!("can't write {name}"))?;
        self.root.write_quickly(&Path::new("/").join(name), &bytes, PRIVATE.mode)
    }

    /// Reads a record from JSON; `None` if there is none.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some((_, bytes)) = self.root.read(&Path::new("/").join(name))? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            error!(STORE, "{} is damaged", self.dir.join(name).display())
                .because(error)
                .help("remove it: the next run creates it again")
        })
    }

    /// Stores a record as JSON.
    pub fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(value).context(code::STORE, || format!("can't write {name}"))?;
        self.root.write(&Path::new("/").join(name), &bytes, PRIVATE)
    }

    /// The state directory as a root.
    pub fn root(&self) -> &Root {
        &self.root
    }
}
