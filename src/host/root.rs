//! A directory that stands for a machine's `/`: the live one, or a tree.
//!
//! Every path is resolved inside it, name by name, so that no link in a tree leads out of it; if there is no link on the path, the
//! kernel resolves it in one call (`openat2`, Linux 5.6). A link in the last place is never followed.

mod access;
pub mod acl;
mod device;
mod follow;
mod gather;
pub mod label;
pub mod permissions;
mod remove;
mod write;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag};
use nix::sys::statfs::FsType;
use nix::unistd::AccessFlags;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result, code, error};
use crate::net::download::hash;
use crate::read;
use gather::Batch;
use label::Labels;

/// The type of what is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, socket or pipe.
    Special,
}

/// The metadata of a path that kpull manages, from `lstat`.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// The type.
    pub what: FileType,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
}

impl Meta {
    /// Its mode and owner, for a file in its place.
    pub fn access(&self) -> Access {
        Access { mode: self.mode, uid: Some(self.uid), gid: Some(self.gid) }
    }
}

impl From<FileStat> for Meta {
    fn from(stat: FileStat) -> Self {
        let what = match stat.st_mode & SFlag::S_IFMT.bits() {
            kind if kind == SFlag::S_IFREG.bits() => FileType::File,
            kind if kind == SFlag::S_IFDIR.bits() => FileType::Directory,
            kind if kind == SFlag::S_IFLNK.bits() => FileType::Link,
            _ => FileType::Special,
        };
        Self {
            what,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
        }
    }
}

/// Shows whether a path was touched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fingerprint {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// When the content changed: seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// When anything changed.
    pub ctime: (i64, i64),
    /// The content, for a file without times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<Vec<u8>>,
}

impl From<FileStat> for Fingerprint {
    fn from(stat: FileStat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
            text: None,
        }
    }
}

impl Fingerprint {
    /// Whether it is unchanged since `time`.
    pub fn is_older_than(&self, time: jiff::Timestamp) -> bool {
        let limit = (time.as_second(), i64::from(time.subsec_nanosecond()));
        self.mtime < limit && self.ctime < limit
    }
}

/// The wanted mode and owners. `None` leaves an owner as it is (for a new file, kpull's own).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

impl Access {
    /// A mode, and the owner that the kernel gives.
    pub const fn of_mode(mode: u32) -> Self {
        Self { mode, uid: None, gid: None }
    }

    /// Whether `meta` matches it.
    pub fn holds(&self, meta: &Meta) -> bool {
        let is = |own: Option<u32>, now: u32| own.is_none_or(|own| own == now);
        self.mode == meta.mode && is(self.uid, meta.uid) && is(self.gid, meta.gid)
    }
}

/// A directory that stands for `/`.
#[derive(Debug)]
pub struct Root {
    dir: PathBuf,
    /// The prefix of its paths in messages.
    shown: PathBuf,
    top: Rc<OwnedFd>,
    parents: RefCell<HashMap<PathBuf, Rc<OwnedFd>>>,
    /// The SELinux contexts of new paths of the live `/`.
    pub labels: Labels,
    /// The files that wait for [`Root::settle`], between [`Root::gather`] and that.
    batch: RefCell<Option<Batch>>,
}

/// A directory, and a name in it.
type At<'a> = (&'a OwnedFd, &'a Path);

/// Size below which a file is read as a whole for its digest.
const SMALL: u64 = 256 << 10;

/// Flags for a directory that is read or synced.
const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Flags for a file that is opened as it is: no link is followed, and no pipe waits for its other end.
const AS_IT_IS: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_NONBLOCK).union(OFlag::O_CLOEXEC);
/// Flags for a directory that only resolves paths.
const PLACE: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// The error for a path below a directory that is mounted read-only.
pub fn read_only(path: &Path, top: &Path) -> Error {
    let help = match top.starts_with("/usr") || top == Path::new("/") {
        true => {
            "on an image-based system, /usr is read-only: use a path below /opt, /etc or /var. For the shipped roles, set `bin = \"/opt/bin\"` under `[vars.base]`"
        }
        false => {
            "it is mounted read-only (`findmnt -T` shows where); the kernel does this too when a disk fails: check `dmesg`, then mount it read-write, or use another path"
        }
    };
    let message = format!("{} can't be written: {} is read-only on this host", path.display(), top.display());
    Error::new(code::FILE, message).help(help)
}

impl Root {
    /// Opens `dir`, which must exist, as a root.
    pub fn open(dir: &Path) -> Result<Self> {
        let top = nix::fcntl::openat(AT_FDCWD, dir, PLACE, Mode::empty())
            .context(code::FILE, || format!("can't open {} as the root", dir.display()))?;
        Ok(Self::at(dir.to_owned(), "/".into(), Rc::new(top)))
    }

    fn at(dir: PathBuf, shown: PathBuf, top: Rc<OwnedFd>) -> Self {
        let (parents, labels, batch) = (RefCell::default(), Labels::default(), RefCell::default());
        Self { dir, shown, top, parents, labels, batch }
    }

    /// The directory at `path` as a root of its own for private files. It is created (0700) if it is missing, and refused if an untrusted
    /// user owns it or others can write in it.
    pub fn private(&self, path: &Path) -> Result<Self> {
        let top = match self.directory(path)? {
            Some(top) => top,
            None => {
                self.make_directory(path, Access::of_mode(0o700))?;
                self.directory(path)?.ok_or_else(|| self.failed("open", path, Errno::ENOTDIR))?
            }
        };
        let Meta { mode, uid, .. } = Meta::from(self.stat_of(&top, path)?);
        let own = nix::unistd::geteuid().as_raw();
        let why = match (self.trusts(uid), mode & 0o022) {
            (true, 0) => None,
            (true, _) => Some(format!("other users can write to it (its mode is {mode:04o})")),
            (false, _) => Some(format!("it belongs to user {uid}")),
        };
        if let Some(why) = why {
            let shown = self.shown(path);
            let shown = shown.display();
            return Err(error!(FILE, "the content of {shown} can't be trusted").because(why).help(format!(
                "check its contents (`ls -la {shown}`); then remove it, or make it private: \
                 `chown -R {own}: {shown} && chmod 0700 {shown}`"
            )));
        }
        if mode & 0o077 != 0 && uid == own {
            let fd = reopen(&top).map_err(|errno| self.failed("open", path, errno))?;
            self.give_mode(&fd, path, 0o700)?;
        }
        Ok(Self::at(self.outside(path), self.shown(path), top))
    }

    /// Makes messages use paths from outside, for a directory that doesn't stand for `/`.
    pub fn shown_whole(self) -> Self {
        Self { shown: self.dir.clone(), ..self }
    }

    /// `path` as it appears in messages.
    fn shown(&self, path: &Path) -> PathBuf {
        self.shown.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn failed(&self, doing: &str, path: &Path, errno: Errno) -> Error {
        failed(doing, &self.shown(path), errno)
    }

    /// Opens the name in a directory of the root as it is. `doing` and `path` are for the error.
    fn open_at(&self, (parent, name): At<'_>, flags: OFlag, doing: &str, path: &Path) -> Result<OwnedFd> {
        let opened = nix::fcntl::openat(parent, name, flags | AS_IT_IS, Mode::S_IRUSR | Mode::S_IWUSR);
        opened.map_err(|errno| self.failed(doing, path, errno))
    }

    fn failed_io(&self, doing: &str, path: &Path, error: std::io::Error) -> Error {
        failed_io(doing, &self.shown(path), error)
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether this is the machine's own `/`.
    pub fn is_live(&self) -> bool {
        self.dir == Path::new("/")
    }

    /// `path` of the root from outside, for messages and for arguments of programs.
    pub fn outside(&self, path: &Path) -> PathBuf {
        self.dir.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The metadata of `path`, without following links; `None` if nothing is there.
    pub fn meta(&self, path: &Path) -> Result<Option<Meta>> {
        Ok(self.stat(path)?.map(Meta::from))
    }

    /// The fingerprint of a path; `None` if nothing is there.
    pub fn seen(&self, path: &Path) -> Result<Option<Fingerprint>> {
        Ok(self.stat(path)?.map(Fingerprint::from))
    }

    /// Identifies a path independently of links and mounts: the device and inode of the nearest existing directory above it, and the
    /// names below that. The path itself if that fails.
    pub fn place_of(&self, path: &Path) -> PathBuf {
        let open = |above: &Path| self.directory(above).transpose().map(|dir| (above.to_owned(), dir));
        if let Some((above, Ok(dir))) = path.ancestors().skip(1).find_map(open)
            && let (Ok((device, inode)), Ok(below)) = (identity(&dir), path.strip_prefix(&above))
        {
            return Path::new(&format!("{device:x}:{inode:x}")).join(below);
        }
        path.to_owned()
    }

    /// An error if `path` is on a file system that is mounted read-only.
    pub fn check_writable(&self, path: &Path) -> Result<()> {
        match self.read_only_above(path)? {
            Some(top) => Err(read_only(path, top)),
            None => Ok(()),
        }
    }

    /// The topmost directory above `path` on a read-only file system, if `path` itself is on one.
    pub fn read_only_above<'a>(&self, path: &'a Path) -> Result<Option<&'a Path>> {
        let refuses = |dir: &OwnedFd, name: &Path| {
            nix::unistd::faccessat(dir, name, AccessFlags::W_OK, AtFlags::empty()) == Err(Errno::EROFS)
        };
        // it may be a mount point below a read-only directory
        let is_link = |stat: FileStat| Meta::from(stat).what == FileType::Link;
        if self.stat(path)?.is_some_and(|stat| !is_link(stat))
            && let Some((parent, name)) = self.parent(path)?
            && !refuses(&parent, &name)
        {
            return Ok(None);
        }
        let is_read_only = |dir: &&Path| matches!(self.directory(dir), Ok(Some(fd)) if refuses(&fd, Path::new(".")));
        // a missing directory is created in the nearest existing one above it
        let there = path.ancestors().skip(1).skip_while(|dir| !matches!(self.directory(dir), Ok(Some(_))));
        Ok(there.take_while(is_read_only).last())
    }

    /// `lstat` of a path; `None` if nothing is there.
    fn stat(&self, path: &Path) -> Result<Option<FileStat>> {
        let Some((parent, name)) = self.parent(path)? else { return Ok(None) };
        match nix::sys::stat::fstatat(&parent, &name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(self.failed("look at", path, errno)),
        }
    }

    /// `fstat` of what is open at `path`.
    fn stat_of(&self, fd: impl AsFd, path: &Path) -> Result<FileStat> {
        nix::sys::stat::fstat(fd).map_err(|errno| self.failed("look at", path, errno))
    }

    /// Opens the regular file at `path` for reading, with its metadata; `None` if there is no regular file.
    pub fn file(&self, path: &Path) -> Result<Option<(Meta, File)>> {
        Ok(self.open_file(path)?.map(|(stat, file)| (Meta::from(stat), file)))
    }

    fn open_file(&self, path: &Path) -> Result<Option<(FileStat, File)>> {
        let Some((parent, name)) = self.parent(path)? else { return Ok(None) };
        // opening a device can have an effect, for example with a watchdog
        if self.stat(path)?.is_none_or(|stat| Meta::from(stat).what != FileType::File) {
            return Ok(None);
        }
        let file = match nix::fcntl::openat(&parent, &*name, OFlag::O_RDONLY | AS_IT_IS, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENXIO) => return Ok(None),
            Err(errno) => return Err(self.failed("read", path, errno)),
        };
        let stat = self.stat_of(&file, path)?;
        Ok((Meta::from(stat).what == FileType::File).then_some((stat, file)))
    }

    /// The content of the regular file at `path`, with its metadata; `None` as for [`Root::file`]. A file of more than [`read::MOST`]
    /// bytes is an error.
    pub fn read(&self, path: &Path) -> Result<Option<(Meta, Vec<u8>)>> {
        let Some((meta, file)) = self.file(path)? else { return Ok(None) };
        Ok(Some((meta, self.content(&file, meta.size, path)?)))
    }

    /// SHA-256 of the regular file at `path`, in hex, with its fingerprint; `None` as for [`Root::file`], or if it is larger than `most`
    /// bytes.
    pub fn digest(&self, path: &Path, most: u64) -> Result<Option<(Fingerprint, String)>> {
        let Some((stat, mut file)) = self.open_file(path)? else { return Ok(None) };
        let seen = Fingerprint::from(stat);
        if seen.size > most {
            return Ok(None);
        }
        let digest = match seen.size {
            // a buffer would cost more than the file
            0..SMALL => hex::encode(Sha256::digest(self.content(&file, seen.size, path)?)),
            _ => hash(&mut file).map_err(|error| self.failed_io("read", path, error))?.sha256,
        };
        Ok(Some((seen, digest)))
    }

    /// [`Root::read`] as text that is not written back: invalid UTF-8 is replaced, since system files have comments and names in any
    /// encoding. Empty if there is no such file.
    pub fn text(&self, path: &Path) -> Result<String> {
        let content = self.read(path)?.map(|(_, content)| content).unwrap_or_default();
        Ok(String::from_utf8(content).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// The target of the link at `path`; `None` if there is no link.
    pub fn link(&self, path: &Path) -> Result<Option<PathBuf>> {
        let Some((parent, name)) = self.parent(path)? else { return Ok(None) };
        match nix::fcntl::readlinkat(&parent, &*name) {
            Ok(target) => Ok(Some(target.into())),
            Err(Errno::ENOENT | Errno::EINVAL | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(self.failed("read the link", path, errno)),
        }
    }

    /// The type of the file system of the directory at `path`; `None` if there is no such directory.
    pub fn file_system(&self, path: &Path) -> Result<Option<FsType>> {
        let Some(dir) = self.directory(path)? else { return Ok(None) };
        // before Linux 3.12, an O_PATH descriptor is not enough
        let stat = reopen(&dir).and_then(nix::sys::statfs::fstatfs);
        let stat = stat.map_err(|errno| self.failed("look at", path, errno))?;
        Ok(Some(stat.filesystem_type()))
    }

    /// The names in the directory at `path`, sorted; none if there is no such directory.
    pub fn names(&self, path: &Path) -> Result<Vec<String>> {
        let Some(dir) = self.directory(path)? else { return Ok(Vec::new()) };
        let names = entries(&dir).map_err(|errno| self.failed("list", path, errno))?;
        let mut names: Vec<String> = names.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    }

    fn content(&self, file: &File, size: u64, path: &Path) -> Result<Vec<u8>> {
        read::whole(file, size, read::MOST).map_err(|error| self.failed_io("read", path, error))
    }
}

/// Opens a directory again, for operations that an O_PATH descriptor doesn't allow.
fn reopen(dir: &OwnedFd) -> nix::Result<OwnedFd> {
    nix::fcntl::openat(dir, ".", DIRECTORY, Mode::empty())
}

/// The names in a directory.
fn entries(dir: &OwnedFd) -> nix::Result<Vec<OsString>> {
    let mut list = nix::dir::Dir::from_fd(reopen(dir)?)?;
    let names = list.iter().map(|entry| Ok(OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned()));
    names.filter(|name| !matches!(name, Ok(name) if name == "." || name == "..")).collect()
}

/// Device and inode of an open file.
fn identity(fd: &OwnedFd) -> nix::Result<(u64, u64)> {
    let stat = nix::sys::stat::fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn split(path: &Path) -> Result<(&Path, PathBuf)> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((parent, name.into())),
        _ => Err(error!(FILE, "{} can't be managed: it is not an entry of a directory", path.display())),
    }
}

/// The path of a directory through its descriptor, so that no link in a tree leads elsewhere.
fn through(parent: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", parent.as_raw_fd()).into()
}

/// The error for an open file of a root that could not be read or written.
pub fn failed_io(doing: &str, path: &Path, error: std::io::Error) -> Error {
    match error.raw_os_error() {
        Some(number) => failed(doing, path, Errno::from_raw(number)),
        None => error!(FILE, "can't {doing} {}", path.display()).because(error).of_path(),
    }
}

fn failed(doing: &str, path: &Path, errno: Errno) -> Error {
    let error = Error::of(code::FILE, format!("can't {doing} {}", path.display()), &errno).of_path();
    match errno {
        Errno::ENOSPC | Errno::EDQUOT => error.help_more("nothing was changed at this path"),
        Errno::EAGAIN => error.help("a process has a lease on it (`grep LEASE /proc/locks` shows its PID): stop that process"),
        Errno::EBUSY => error.help(format!(
            "a file system is mounted there (`findmnt {}`): unmount it, or use a [[file]], [[template]] or [[block]] with `in_place = true`",
            path.display()
        )),
        Errno::EFBIG if doing == "read" => error.help(format!(
            "kpull reads files of at most {} MiB (`ls -ls` shows its size): move it away",
            read::MOST >> 20
        )),
        Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS if doing == "create the link" => {
            error.help("the file system may not support links (vfat, exFAT), or its directory is immutable (`lsattr -d`)")
        }
        Errno::EPERM if nix::unistd::geteuid().is_root() => error.help(
            "it, or its directory, may be immutable or append-only: `lsattr -d` shows the attributes, `chattr -i -a` removes them",
        ),
        Errno::EACCES | Errno::EPERM => error.help("run as root, or check for an immutable attribute (lsattr)"),
        Errno::EISDIR | Errno::EEXIST | Errno::ENOTDIR => {
            error.help("an object of another type is there: move it away")
        }
        Errno::ELOOP | Errno::EXDEV => error.help("a link on the path leads in a circle or out of the root"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const PLAIN: Access = Access { mode: 0o640, uid: None, gid: None };

    pub(super) fn tree() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    #[test]
    fn a_file_is_written_with_its_mode_and_the_directories_above_it() {
        let (dir, root) = tree();
        root.write(Path::new("/etc/a/b"), b"x", PLAIN).unwrap();
        let (meta, content) = root.read(Path::new("/etc/a/b")).unwrap().unwrap();
        assert_eq!((meta.mode, content.as_slice()), (0o640, b"x".as_slice()));
        assert_eq!(std::fs::read_dir(dir.path().join("etc/a")).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn an_absolute_link_in_a_tree_leads_into_the_tree() {
        let (dir, root) = tree();
        std::fs::create_dir_all(dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink("/real", dir.path().join("link")).unwrap();
        root.write(Path::new("/link/f"), b"x", PLAIN).unwrap();
        assert!(dir.path().join("real/f").exists());
    }

    #[test]
    fn a_link_at_the_last_name_is_replaced_and_not_followed() {
        let (dir, root) = tree();
        std::fs::write(dir.path().join("victim"), "keep").unwrap();
        std::os::unix::fs::symlink("victim", dir.path().join("f")).unwrap();
        assert!(root.read(Path::new("/f")).unwrap().is_none());
        root.write(Path::new("/f"), b"x", PLAIN).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("victim")).unwrap(), "keep");
        assert_eq!(std::fs::read_to_string(dir.path().join("f")).unwrap(), "x");
    }

    #[test]
    fn messages_call_a_path_as_it_is_in_the_tree_or_from_outside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("f")).unwrap();
        let reported = |root: Root| root.write(Path::new("/f"), b"x", PLAIN).unwrap_err().to_string();
        let inside = reported(Root::open(dir.path()).unwrap());
        assert!(inside.starts_with("can't replace /f: "), "{inside}");
        let whole = reported(Root::open(dir.path()).unwrap().shown_whole());
        assert_eq!(whole, inside.replace("/f", dir.path().join("f").to_str().unwrap()));
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let (dir, root) = tree();
        root.write(Path::new("/f"), b"old", PLAIN).unwrap();
        let failed = root.write_with(Path::new("/f"), PLAIN, |_| Err(error!(FILE, "no")));
        assert_eq!(failed.unwrap_err().to_string(), "no");
        assert_eq!(std::fs::read_to_string(dir.path().join("f")).unwrap(), "old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_is_no_file_and_an_absent_path_is_nothing() {
        let (_dir, root) = tree();
        root.make_directory(Path::new("/d"), Access { mode: 0o700, ..PLAIN }).unwrap();
        assert!(root.read(Path::new("/d")).unwrap().is_none());
        assert_eq!(root.meta(Path::new("/d")).unwrap().unwrap().mode, 0o700);
        assert!(root.meta(Path::new("/nothing/here")).unwrap().is_none());
        root.remove(Path::new("/d")).unwrap();
        root.remove(Path::new("/d")).unwrap();
        assert!(root.meta(Path::new("/d")).unwrap().is_none());
    }

    #[test]
    fn what_is_no_file_of_a_size_that_can_be_read_is_refused_at_once_or_nothing() {
        let (dir, root) = tree();
        let huge = std::fs::File::create(dir.path().join("huge")).unwrap();
        huge.set_len(8 << 40).unwrap();
        let error = root.read(Path::new("/huge")).unwrap_err();
        assert_eq!(error.to_string(), "can't read /huge: File too large");
        assert!(error.is_of_path() && error.advice().unwrap().contains("at most 256 MiB"), "{error:?}");
        assert_eq!(root.text(Path::new("/huge")).unwrap_err().to_string(), error.to_string());
        assert!(root.digest(Path::new("/huge"), 1).unwrap().is_none());
        nix::unistd::mkfifo(&dir.path().join("pipe"), Mode::S_IRUSR).unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        for path in ["/pipe", "/link", "/socket"] {
            assert!(root.read(Path::new(path)).unwrap().is_none(), "{path}");
        }
    }

    #[test]
    fn a_link_of_another_user_is_not_followed_and_one_of_ours_is() {
        let (dir, root) = tree();
        let victim = dir.path().join("victim");
        std::fs::create_dir_all(dir.path().join("home/alice")).unwrap();
        std::fs::create_dir(&victim).unwrap();
        let link = dir.path().join("home/alice/conf");
        std::os::unix::fs::symlink("/victim/../victim", &link).unwrap();
        root.write(Path::new("/home/alice/conf/a"), b"x", PLAIN).unwrap();
        assert_eq!(std::fs::read(victim.join("a")).unwrap(), b"x");
        // only root can give a link to somebody else
        if std::os::unix::fs::lchown(&link, Some(12345), None).is_ok() {
            let root = Root::open(dir.path()).unwrap();
            let error = root.write(Path::new("/home/alice/conf/b"), b"x", PLAIN).unwrap_err();
            assert_eq!(error.to_string(), "/home/alice/conf goes through a link that belongs to user 12345");
            assert!(!victim.join("b").exists());
        }
    }

    #[test]
    fn links_in_a_circle_are_an_error_and_one_to_nowhere_is_nothing() {
        let (dir, root) = tree();
        std::os::unix::fs::symlink("b", dir.path().join("a")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("b")).unwrap();
        std::os::unix::fs::symlink("../../none", dir.path().join("c")).unwrap();
        let error = root.meta(Path::new("/a/x")).unwrap_err();
        assert_eq!(error.advice(), Some("a link on the path leads in a circle or out of the root"), "{error}");
        assert!(root.meta(Path::new("/c/x")).unwrap().is_none());
    }

    #[test]
    fn the_owner_of_a_file_with_a_second_name_is_not_set_where_others_can_write() {
        let (dir, root) = tree();
        std::fs::create_dir(dir.path().join("open")).unwrap();
        std::fs::set_permissions(dir.path().join("open"), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::fs::hard_link(dir.path().join("secret"), dir.path().join("open/f")).unwrap();
        let error = root.set_access(Path::new("/open/f"), PLAIN).unwrap_err();
        assert!(error.to_string().starts_with("/open/f is the same file as another path"), "{error}");
    }
}
