//! `kpull publish`: writes a signed release to a directory or web server for hosts.
//!
//! Blobs first, the pointer last: at any time, hosts see either the previous release or this one, complete.

use std::collections::HashSet;
use std::fs::File;
use std::time::Duration;

use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{fchown, geteuid};
use reqwest::Url;

use crate::author::prelude::*;
use crate::document::layout::{self, BLOBS, MANIFEST, POINTER, POINTER_MAX, Pointer, RELEASES, SIGNATURES};
use crate::document::{is_sha256, read_if_there};
use crate::error::Exit;
use crate::host::root::{Access, FileType, Fingerprint, Meta, Root};
use crate::net::{self, Client, Conditions, Kind};
use crate::trust::{KeySet, Listed, Manifest, Purpose, Shortfall, signed_by};

/// The file that is locked while a process works in a directory.
const LOCK: &str = ".lock";
const AGAIN: &str = "sign again with `kpull sign`, then publish";

/// A signed release, ready to publish.
#[derive(Debug)]
pub struct Signed {
    /// Its pointer.
    pub pointer: Pointer,
    /// Thresholds that the site's newest key set does not reach now, or will not reach during the release's lifetime.
    pub shortfalls: Vec<Shortfall>,
    /// All its blobs, by digest.
    blobs: BTreeMap<String, Arc<[u8]>>,
}

impl Signed {
    /// The release of the site in `dir`. Fails if it is not signed, if the files differ from the release, or if too few keys of the newest
    /// key set are valid for any host to apply it.
    pub fn open(dir: &Path) -> Result<Self> {
        let unsigned = |what: &str| {
            error!(SUPPLY, "the site in {} is not signed: {what}", dir.display())
                .help("sign it with `kpull sign`, then publish")
        };
        let bytes = read_if_there(dir, MANIFEST)?.ok_or_else(|| unsigned(&format!("there is no {MANIFEST}")))?;
        let signatures =
            read_if_there(dir, SIGNATURES)?.ok_or_else(|| unsigned(&format!("there is no {SIGNATURES}")))?;
        let plainly = |error: Error| error.exit(Exit::Failed).help(AGAIN);
        if signed_by(&bytes, &signatures).map_err(plainly)?.is_empty() {
            return Err(error!(SUPPLY, "no signature in {SIGNATURES} is over this {MANIFEST}").help(AGAIN));
        }
        let manifest = Manifest::parse(&bytes).map_err(plainly)?;
        let files = Files::in_directory(dir)?;
        let present: BTreeMap<String, Listed> =
            files.iter().map(|(path, content)| (path.to_owned(), Listed::of(content))).collect();
        let names: BTreeSet<&String> = present.keys().chain(manifest.files.keys()).collect();
        if let Some(path) = names.into_iter().find(|path| present.get(*path) != manifest.files.get(*path)) {
            let why = match (present.get(path), manifest.files.get(path)) {
                (None, _) => "is in the release, but no longer in the site",
                (_, None) => "is in the site, but not in the release",
                _ => "was changed after signing",
            };
            return Err(error!(SUPPLY, "{path} {why}").help(AGAIN));
        }
        let newest = KeySet::newest(&files)?;
        let shortfalls = newest.map(|set| set.shortfalls(Timestamp::now(), manifest.expires)).unwrap_or_default();
        let refused = |found: &&Shortfall| found.is_now && found.purpose == Purpose::Release;
        if let Some(found) = shortfalls.iter().find(refused) {
            return Err(found.error.clone());
        }
        let digest = |content: &[u8]| Listed::of(content).sha256;
        let pointer = Pointer::new(manifest.site, manifest.serial, digest(&bytes), digest(&signatures));
        let mut blobs: BTreeMap<String, Arc<[u8]>> =
            files.iter().map(|(_, content)| (digest(content), content.clone())).collect();
        blobs.insert(pointer.manifest.clone(), bytes.into());
        blobs.insert(pointer.signatures.clone(), signatures.into());
        Ok(Self { pointer, shortfalls, blobs })
    }
}

/// A place to publish releases.
pub trait Target {
    /// Its name in messages.
    fn name(&self) -> String;

    /// The current pointer, and its ETag.
    fn pointer(&self) -> Result<Option<(Pointer, Option<String>)>>;

    /// Whether the file has this content, as far as that can be determined without reading all of it.
    fn has(&self, path: &str, content: &[u8]) -> Result<bool>;

    /// Writes a file atomically.
    fn put(&self, path: &str, content: &[u8]) -> Result<()>;

    /// Replaces the pointer, if it still has this `etag`.
    fn set_pointer(&self, pointer: &Pointer, etag: Option<&str>) -> Result<()>;
}

/// The result of publishing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// The number of blobs that were written.
    pub sent: usize,
    /// Their size in bytes.
    pub bytes: u64,
    /// The number of blobs that were already there.
    pub known: usize,
    /// Whether the pointer already named this release.
    pub unchanged: bool,
}

/// Publishes a release. Unless `force` is set, refuses one with a lower serial than the current one, with the same serial and other
/// content, or of another site.
pub fn publish(signed: &Signed, target: &dyn Target, force: bool) -> Result<Published> {
    let new = &signed.pointer;
    let old = target.pointer()?;
    if let Some((old, _)) = old.as_ref().filter(|_| !force) {
        may_follow(new, old, &target.name())?;
    }
    let mut published = Published::default();
    for (sha256, content) in &signed.blobs {
        let path = layout::blob(sha256);
        if target.has(&path, content)? {
            published.known += 1;
            continue;
        }
        target.put(&path, content)?;
        published.sent += 1;
        published.bytes += content.len() as u64;
    }
    let kept = (layout::release(new.serial), new.to_toml());
    if !target.has(&kept.0, kept.1.as_bytes())? {
        target.put(&kept.0, kept.1.as_bytes())?;
    }
    match old {
        Some((old, _)) if old == *new => published.unchanged = true,
        old => target.set_pointer(new, old.and_then(|(_, etag)| etag).as_deref())?,
    }
    Ok(published)
}

fn may_follow(new: &Pointer, old: &Pointer, target: &str) -> Result<()> {
    if old.site != new.site {
        return Err(error!(
            SUPPLY,
            "{target} has releases of the site `{}`, and this one is of `{}`", old.site, new.site
        )
        .help("publish each site to a separate directory; --force replaces it"));
    }
    if old.serial > new.serial {
        return Err(error!(SUPPLY, "{target} already has release {}, and this one is {}", old.serial, new.serial)
            .help("start from the last signed state of the site, and sign again; hosts refuse an older release, so use --force only for a directory that no host uses, and for serials that a key set has revoked (`last_serial`)"));
    }
    if old.serial == new.serial && old.manifest != new.manifest {
        return Err(error!(SUPPLY, "{target} has a different release with the serial {}", old.serial)
            .help("each serial has one release: use that site's release.toml, and sign again"));
    }
    Ok(())
}

/// A directory. Another user may own it, such as a web server: links are not followed, and only regular files are opened.
#[derive(Debug)]
pub struct Dir {
    root: Root,
    path: PathBuf,
    /// Held until the process ends, so that one process at a time publishes there.
    _lock: File,
}

/// What to keep in a directory.
#[derive(Clone, Copy, Debug)]
pub struct Pruning {
    /// The number of newest releases to keep.
    pub keep: usize,
    /// How long to keep a release after it was replaced, and a file after it was written.
    pub grace: Duration,
}

/// The number of removed files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Releases.
    pub releases: usize,
    /// Blobs, and temporary files of interrupted runs.
    pub blobs: usize,
}

impl Dir {
    /// Opens the directory at `path`, and creates it if it is missing. Exit code 75 if another process is publishing there.
    pub fn open(path: &Path) -> Result<Self> {
        let (root, path) = open(path, &[BLOBS, RELEASES])?;
        let _lock = lock(&root, &path)?;
        Ok(Self { root, path, _lock })
    }

    /// Removes excess releases, and blobs that no remaining release uses.
    pub fn prune(&self, pruning: &Pruning) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        let Some((current, _)) = self.pointer()? else { return Ok(pruned) };
        let serial_of = |name: &str| name.strip_suffix(".toml")?.parse::<u64>().ok();
        let entries = self.entries(RELEASES)?.into_iter();
        let releases: BTreeMap<_, _> = entries.filter_map(|(name, path, _)| Some((serial_of(&name)?, path))).collect();
        let mut used: HashSet<String> = HashSet::new();
        let mut replaced_at = None;
        let mut condemned = Vec::new();
        for (rank, (serial, path)) in releases.iter().rev().enumerate() {
            let stays =
                rank < pruning.keep || *serial == current.serial || !is_older(replaced_at.as_ref(), pruning.grace);
            replaced_at = self.root.seen(path)?;
            if stays {
                let bytes = self.read(path)?.ok_or_else(|| not_a_file(path))?;
                self.use_of(&Pointer::parse(&path.display().to_string(), &bytes).map_err(not_pruned)?, &mut used)?;
            } else {
                condemned.push(path);
            }
        }
        self.use_of(&current, &mut used)?;
        for path in condemned {
            self.root.remove(path)?;
            pruned.releases += 1;
        }
        for (name, path, seen) in self.entries(BLOBS)? {
            // only blobs and temporary files
            let is_ours = is_sha256(&name) || name.starts_with('.');
            if is_ours && !used.contains(&name) && is_older(Some(&seen), pruning.grace) {
                self.root.remove(&path)?;
                pruned.blobs += 1;
            }
        }
        Ok(pruned)
    }

    /// Adds the blobs of a release to `used`.
    fn use_of(&self, pointer: &Pointer, used: &mut HashSet<String>) -> Result<()> {
        let path = self.path.join(layout::blob(&pointer.manifest));
        let bytes = self.read(&path).and_then(|bytes| bytes.ok_or_else(|| not_a_file(&path))).map_err(not_pruned)?;
        let manifest = Manifest::parse(&bytes).map_err(not_pruned)?;
        used.extend(manifest.files.into_values().map(|listed| listed.sha256));
        used.extend([pointer.manifest.clone(), pointer.signatures.clone()]);
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        Ok(self.root.read(path)?.map(|(_, content)| content))
    }

    /// The files in one of its directories: names, paths and fingerprints.
    fn entries(&self, name: &str) -> Result<Vec<(String, PathBuf, Fingerprint)>> {
        let dir = self.path.join(name);
        let mut entries = Vec::new();
        for name in self.root.names(&dir)? {
            let path = dir.join(&name);
            if self.root.meta(&path)?.is_some_and(|meta| meta.what == FileType::File)
                && let Some(seen) = self.root.seen(&path)?
            {
                entries.push((name, path, seen));
            }
        }
        Ok(entries)
    }
}

/// Opens a directory that another user may own, to be written by the rules of [`Root`], and creates these directories in it.
pub(super) fn open(path: &Path, directories: &[&str]) -> Result<(Root, PathBuf)> {
    let path = std::path::absolute(path).context(code::SUPPLY, || format!("can't find {}", path.display()))?;
    let root = Root::open(Path::new("/"))?;
    for directory in directories.iter().map(|name| path.join(name)) {
        if root.meta(&directory)?.is_none() {
            root.make_directory(&directory, Access::of_mode(0o755))?;
        }
        // refuses a link before anything is written
        root.names(&directory)?;
    }
    Ok((root, path))
}

fn not_a_file(path: &Path) -> Error {
    error!(SUPPLY, "can't read {}: it is not a file", path.display())
}

/// Locks a directory. Exit code 75 if another process holds the lock.
///
/// The lock file can only be opened by those who may write to the directory, since anyone who can open a file can lock it, and many can
/// read what is published.
pub(super) fn lock(root: &Root, dir: &Path) -> Result<File> {
    let what = || format!("can't lock {}", dir.display());
    let file = root.lock_file(&dir.join(LOCK))?;
    let found = Meta::from(fstat(&file).context(code::SUPPLY, what)?);
    let user = geteuid();
    // a file with content is not a lock: others may have moved a private one there
    if let Some(dir) = root.meta(dir)?.filter(|_| found.uid == user.as_raw() && found.size == 0) {
        let writers = dir.mode & 0o022;
        let mode = Mode::from_bits_truncate(0o600 | writers | writers << 1);
        // the directory's owner may write too, and could not open a file of root
        let owner = if user.is_root() { dir.uid } else { found.uid };
        if (found.mode, found.uid, found.gid) != (mode.bits(), owner, dir.gid) {
            // of a group that this user is not in, nobody else can be meant
            let is_shared = (found.uid, found.gid) == (owner, dir.gid)
                || fchown(&file, Some(owner.into()), Some(dir.gid.into())).is_ok();
            fchmod(&file, if is_shared { mode } else { Mode::S_IRUSR | Mode::S_IWUSR }).context(code::SUPPLY, what)?;
        }
    }
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(error!(BUSY, "another kpull is running in {}", dir.display()).exit(Exit::Busy))
        }
        Err(std::fs::TryLockError::Error(error)) => Err(error).context(code::SUPPLY, what),
    }
}

fn not_pruned(error: Error) -> Error {
    error
        .exit(Exit::Failed)
        .help("the release was published, but older ones were not removed: publish it again to repair this")
}

/// Whether a file was written more than `grace` ago; `false` if unknown.
fn is_older(seen: Option<&Fingerprint>, grace: Duration) -> bool {
    let age = seen.and_then(|seen| Timestamp::now().as_second().checked_sub(seen.mtime.0)).map(u64::try_from);
    age.is_some_and(|age| age.is_ok_and(|age| age >= grace.as_secs()))
}

impl Target for Dir {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn pointer(&self) -> Result<Option<(Pointer, Option<String>)>> {
        let path = self.path.join(POINTER);
        let Some(bytes) = self.read(&path)? else { return Ok(None) };
        let pointer = Pointer::parse(&path.display().to_string(), &bytes);
        Ok(Some((pointer.map_err(|error| error.exit(Exit::Failed))?, None)))
    }

    fn has(&self, path: &str, content: &[u8]) -> Result<bool> {
        let path = self.path.join(path);
        let is_as_long = self.root.meta(&path)?.is_some_and(|meta| meta.size == content.len() as u64);
        Ok(is_as_long && self.read(&path)?.is_some_and(|present| present == content))
    }

    fn put(&self, path: &str, content: &[u8]) -> Result<()> {
        self.root.write_lasting(&self.path.join(path), content, 0o644)
    }

    fn set_pointer(&self, pointer: &Pointer, _: Option<&str>) -> Result<()> {
        self.put(POINTER, pointer.to_toml().as_bytes())
    }
}

/// A web server that accepts PUT.
pub struct Web {
    base: Url,
    client: Client,
}

impl Web {
    /// The place at `base`; fails if the files in `options` can't be used.
    pub fn open(base: &str, options: &net::Options) -> Result<Self> {
        Ok(Self { base: net::parse(base)?, client: Client::new(options)? })
    }

    fn send(&self, path: &str, content: &[u8], etag: Option<&str>) -> Result<Kind> {
        let url = net::below(&self.base, path.split('/'))?;
        self.client.put(&url, content.to_vec(), etag).map(|reply| reply.kind)
    }
}

impl Target for Web {
    fn name(&self) -> String {
        net::shown(&self.base)
    }

    fn pointer(&self) -> Result<Option<(Pointer, Option<String>)>> {
        let url = net::below(&self.base, [POINTER])?;
        let reply = self.client.get(url.as_str(), &Conditions::default())?;
        if reply.kind == Kind::Missing {
            return Ok(None);
        }
        let etag = reply.etag.clone();
        let plainly = |error: Error| error.exit(Exit::Failed);
        let bytes = net::read_all(reply, POINTER_MAX).map_err(plainly)?;
        Ok(Some((Pointer::parse(&net::shown(&url), &bytes).map_err(plainly)?, etag)))
    }

    fn has(&self, path: &str, content: &[u8]) -> Result<bool> {
        let reply = self.client.head(&net::below(&self.base, path.split('/'))?)?;
        // stored pointers of the same release have the same size
        let is_blob = path.starts_with(BLOBS);
        Ok(is_blob && reply.kind == Kind::Ok && reply.length == Some(content.len() as u64))
    }

    fn put(&self, path: &str, content: &[u8]) -> Result<()> {
        self.send(path, content, None).map(drop)
    }

    fn set_pointer(&self, pointer: &Pointer, etag: Option<&str>) -> Result<()> {
        if self.send(POINTER, pointer.to_toml().as_bytes(), etag)? != Kind::Changed {
            return Ok(());
        }
        // perhaps this request succeeded, and only the answer was lost
        if self.pointer()?.is_some_and(|(present, _)| present == *pointer) {
            return Ok(());
        }
        Err(error!(SUPPLY, "someone else has just published to {}", self.name())
            .help("hosts use that release; check it, sign again on top of it, and publish"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(serial: u64, files: &[(&str, &str)]) -> Signed {
        let files: Files = files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().into())).collect();
        let created = "2026-11-24T03:50:00Z".parse().unwrap();
        let bytes = Manifest::of(&files, "lab", serial, created, "2026-12-24T03:50:00Z".parse().unwrap()).to_toml();
        let digest = |content: &[u8]| Listed::of(content).sha256;
        let signatures = format!("signatures of {serial}");
        let pointer = Pointer::new("lab".into(), serial, digest(bytes.as_bytes()), digest(signatures.as_bytes()));
        let mut blobs: BTreeMap<String, Arc<[u8]>> =
            files.iter().map(|(_, content)| (digest(content), content.clone())).collect();
        for content in [bytes.as_bytes(), signatures.as_bytes()] {
            blobs.insert(digest(content), content.into());
        }
        Signed { pointer, shortfalls: Vec::new(), blobs }
    }

    fn names(dir: &Path, name: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(dir.join(name))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_there_is_not_written_again_and_a_damaged_blob_is() {
        let dir = tempfile::tempdir().unwrap();
        let target = Dir::open(dir.path()).unwrap();
        let first = signed(1, &[("site.toml", "a"), ("roles/x/role.toml", "b")]);
        let published = publish(&first, &target, false).unwrap();
        assert_eq!((published.sent, published.known, published.unchanged), (4, 0, false));
        let again = publish(&first, &target, false).unwrap();
        assert_eq!((again.sent, again.known, again.unchanged), (0, 4, true));
        let blob = dir.path().join(layout::blob(&Listed::of(b"a").sha256));
        std::fs::write(&blob, "x").unwrap();
        assert_eq!(publish(&first, &target, false).unwrap().sent, 1);
        assert_eq!(std::fs::read(blob).unwrap(), b"a");
        let next = publish(&signed(2, &[("site.toml", "a"), ("roles/x/role.toml", "c")]), &target, false).unwrap();
        assert_eq!((next.sent, next.known), (3, 1));
    }

    #[test]
    fn an_older_another_and_a_foreign_release_are_refused_without_force() {
        let dir = tempfile::tempdir().unwrap();
        let target = Dir::open(dir.path()).unwrap();
        publish(&signed(2, &[("site.toml", "a")]), &target, false).unwrap();
        let problem = |signed: &Signed| publish(signed, &target, false).unwrap_err().to_string();
        let name = dir.path().display();
        assert_eq!(problem(&signed(1, &[])), format!("{name} already has release 2, and this one is 1"));
        assert_eq!(problem(&signed(2, &[])), format!("{name} has a different release with the serial 2"));
        let mut foreign = signed(3, &[]);
        foreign.pointer.site = "other".into();
        assert_eq!(problem(&foreign), format!("{name} has releases of the site `lab`, and this one is of `other`"));
        publish(&signed(1, &[]), &target, true).unwrap();
        assert_eq!(target.pointer().unwrap().unwrap().0.serial, 1);
    }

    #[test]
    fn pruning_keeps_the_newest_the_current_and_what_they_share() {
        let dir = tempfile::tempdir().unwrap();
        let target = Dir::open(dir.path()).unwrap();
        for serial in 1..=4 {
            publish(&signed(serial, &[("site.toml", "same"), ("keys/k", &format!("{serial}"))]), &target, false)
                .unwrap();
        }
        std::fs::write(dir.path().join("blobs/.tmpAbC"), "cut").unwrap();
        let hour = Duration::from_secs(3600);
        assert_eq!(target.prune(&Pruning { keep: 1, grace: hour }).unwrap(), Pruned::default());
        let pruned = target.prune(&Pruning { keep: 2, grace: Duration::ZERO }).unwrap();
        // of each: the key, the manifest and the signatures
        assert_eq!(pruned, Pruned { releases: 2, blobs: 2 * 3 + 1 });
        assert_eq!(names(dir.path(), RELEASES), ["3.toml", "4.toml"]);
        assert_eq!(names(dir.path(), BLOBS).len(), 1 + 2 * 3);
        assert!(dir.path().join(layout::blob(&Listed::of(b"same").sha256)).exists());
        publish(&signed(1, &[("site.toml", "old")]), &target, true).unwrap();
        target.prune(&Pruning { keep: 1, grace: Duration::ZERO }).unwrap();
        assert_eq!(names(dir.path(), RELEASES), ["1.toml", "4.toml"]);
        assert!(dir.path().join(layout::blob(&Listed::of(b"old").sha256)).exists());
    }

    #[test]
    fn nothing_is_pruned_when_a_release_that_stays_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let target = Dir::open(dir.path()).unwrap();
        for serial in 1..=3 {
            publish(&signed(serial, &[("site.toml", &format!("{serial}"))]), &target, false).unwrap();
        }
        let before = names(dir.path(), BLOBS);
        let manifest = signed(2, &[("site.toml", "2")]).pointer.manifest;
        std::fs::remove_file(dir.path().join(layout::blob(&manifest))).unwrap();
        let error = target.prune(&Pruning { keep: 2, grace: Duration::ZERO }).unwrap_err();
        assert!(error.to_string().ends_with(": it is not a file"), "{error}");
        assert!(
            error.advice().unwrap().starts_with("the release was published, but older ones were not removed"),
            "{error}"
        );
        assert_eq!(names(dir.path(), BLOBS).len(), before.len() - 1);
        assert_eq!(names(dir.path(), RELEASES).len(), 3);
    }

    #[test]
    fn one_at_a_time_publishes_in_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = Dir::open(dir.path()).unwrap();
        assert_eq!(Dir::open(dir.path()).unwrap_err().exit_code(), Exit::Busy);
        drop(first);
        Dir::open(dir.path()).unwrap();
    }

    #[test]
    fn the_owner_of_a_directory_can_open_the_lock_file_that_root_created() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

        let dir = tempfile::tempdir().unwrap();
        let lock = dir.path().join(LOCK);
        let state = || {
            Dir::open(dir.path()).unwrap();
            let meta = std::fs::metadata(&lock).unwrap();
            (meta.uid(), meta.gid(), meta.permissions().mode() & 0o777)
        };
        if !geteuid().is_root() {
            return;
        }
        chown(dir.path(), Some(4242), Some(4243)).unwrap();
        assert_eq!(state(), (4242, 4243, 0o600));
        // another file of root's does not become theirs under this name
        std::fs::remove_file(&lock).unwrap();
        std::fs::write(&lock, "private").unwrap();
        assert_eq!(state().0, 0);
    }
}
