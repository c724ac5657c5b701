//! A directory that stands for a machine's `/`: the live one, or a tree that is being made.
//!
//! Every path is resolved inside it, name by name, so that no link in a tree leads out of it; where there is no link on the way, the
//! kernel does it in one call (`openat2`, Linux 5.6). The last name is never followed when it is a link.

use std::cell::{OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, FsType, MSDOS_SUPER_MAGIC, SMB_SUPER_MAGIC};
use nix::unistd::{AccessFlags, Gid, Uid};
use rustix::buffer::spare_capacity;
use rustix::fs::XattrFlags;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::label::{self, Labels};
use super::{read, sync};
use crate::error::{Context, Error, Result, code};
use crate::net::download::hash;

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, socket or pipe.
    Special,
}

/// What `lstat` tells of a path, as far as it is managed.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// The type.
    pub what: What,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
}

impl From<FileStat> for Meta {
    fn from(stat: FileStat) -> Self {
        let what = match stat.st_mode & SFlag::S_IFMT.bits() {
            kind if kind == SFlag::S_IFREG.bits() => What::File,
            kind if kind == SFlag::S_IFDIR.bits() => What::Directory,
            kind if kind == SFlag::S_IFLNK.bits() => What::Link,
            _ => What::Special,
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

/// Something on the host whose state tells whether a resource was touched.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trace {
    /// Whatever stands at the path, or that nothing does.
    Path(PathBuf),
    /// The same, but of a directory what is in it does not matter.
    Place(PathBuf),
    /// The text of a file of the kernel's, which has no times.
    Text(PathBuf),
    /// What systemd says of a unit.
    Unit(String),
    /// What firewalld lets into a zone now.
    Zone(String),
    /// What is in a set of addresses of firewalld's now.
    IpSet(String),
    /// Whether a program succeeds.
    Program(super::process::Program),
    /// In which state an object of a Kubernetes cluster is.
    Object(super::kube::Standing),
    /// When a key of etcd was last set.
    Key(super::etcd::Standing),
}

impl Trace {
    /// Whether it is asked anew each time: what it tells later may not be what was looked at.
    pub fn is_asked_anew(&self) -> bool {
        matches!(self, Self::Text(_) | Self::Program(_) | Self::Object(_) | Self::Key(_))
    }
}

/// What tells whether somebody has touched a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
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
    #[serde(default)]
    pub size: u64,
    /// When the content was changed: seconds and nanoseconds.
    #[serde(default)]
    pub mtime: (i64, i64),
    /// When anything was changed.
    #[serde(default)]
    pub ctime: (i64, i64),
    /// The content, of a file that has no times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Vec<u8>>,
}

impl From<FileStat> for Seen {
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

impl Seen {
    /// Whether nobody has touched it since `time`.
    pub fn is_older_than(&self, time: jiff::Timestamp) -> bool {
        let limit = (time.as_second(), i64::from(time.subsec_nanosecond()));
        self.mtime < limit && self.ctime < limit
    }
}

/// The mode and owners that something is to have. `None` for an owner leaves it as it is (a new file gets ours).
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
    /// Whether `meta` already has it.
    pub fn holds(&self, meta: &Meta) -> bool {
        self.mode == meta.mode
            && self.uid.is_none_or(|uid| uid == meta.uid)
            && self.gid.is_none_or(|gid| gid == meta.gid)
    }
}

/// An extended attribute: its name, and what is in it.
type Attribute = (String, Vec<u8>);

/// A directory that stands for `/`.
#[derive(Debug)]
pub struct Root {
    dir: PathBuf,
    /// What messages write in front of its paths.
    shown: PathBuf,
    top: Rc<OwnedFd>,
    parents: RefCell<HashMap<PathBuf, Rc<OwnedFd>>>,
    labels: Labels,
    /// What waits for [`Root::settle`], while anything may.
    batch: RefCell<Option<Batch>>,
}

/// What was written and is not on the disk yet.
#[derive(Debug, Default)]
struct Batch {
    files: Vec<Staged>,
    /// Directories in which names have changed, by one path in each.
    directories: Vec<(Rc<OwnedFd>, PathBuf)>,
    /// How many may wait, if that is known.
    most: Option<usize>,
}

/// A file that is whole, and has no name until its content is on the disk.
#[derive(Debug)]
struct Staged {
    path: PathBuf,
    parent: Rc<OwnedFd>,
    name: PathBuf,
    file: File,
}

/// How many files and directories may wait for the disk together: each is an open file. (A service may have 1024 of them, unless it is told else.)
const BATCH: usize = 256;

/// How many directories are kept open: well below the 1024 files that a process may have open.
const PARENTS_MAX: usize = 256;

/// Bytes of a file below which it is read as a whole where only its digest is wanted.
const SMALL: u64 = 256 << 10;

/// How many links are followed on the way to one path, as by the kernel.
const LINKS_MAX: usize = 40;

/// File systems whose files have the mode and owner of their mount: vfat, exFAT, NTFS, FUSE, SMB.
const WITHOUT_MODES: [FsType; 6] = [
    MSDOS_SUPER_MAGIC,
    FsType(0x2011_bab0),
    FsType(0x7366_746e),
    FUSE_SUPER_MAGIC,
    SMB_SUPER_MAGIC,
    FsType(0xfe53_4d42),
];

/// Who may read or write a file besides its owner and group.
const ACL: &str = "system.posix_acl_access";

/// What new files of a directory have as [`ACL`].
const DEFAULT_ACL: &str = "system.posix_acl_default";

/// What a file keeps besides what users noted (`user.*`). Others are of its content (`security.ima`) or of the file system.
const KEPT: [&str; 3] = [label::ATTRIBUTE, "security.capability", ACL];

/// The kernel's limit for a value, and for the list of names.
const ATTRIBUTE_MAX: usize = 64 * 1024;

/// Whom an entry of an access list is for.
const ACL_OWNER: u16 = 0x01;
const ACL_GROUP: u16 = 0x04;
const ACL_MASK: u16 = 0x10;
const ACL_OTHER: u16 = 0x20;

/// Opened for path look-ups only.
const PLACE: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

impl Root {
    /// Opens `dir`, which must exist, as the root.
    pub fn open(dir: &Path) -> Result<Self> {
        let top = nix::fcntl::openat(AT_FDCWD, dir, PLACE, Mode::empty())
            .context(code::FILE, || format!("can't open {} as the root", dir.display()))?;
        Ok(Self {
            dir: dir.to_owned(),
            shown: "/".into(),
            top: Rc::new(top),
            parents: RefCell::default(),
            labels: Labels::default(),
            batch: RefCell::default(),
        })
    }

    /// The directory at `path` as a root of its own, for what only we may touch: made (0700, ours) when it is missing, and refused when
    /// somebody who is not trusted owns it, or others could write in it.
    pub fn private(&self, path: &Path) -> Result<Self> {
        let top = match self.directory(path)? {
            Some(top) => top,
            None => {
                self.make_directory(path, Access { mode: 0o700, uid: None, gid: None })?;
                self.directory(path)?.ok_or_else(|| self.failed("open", path, Errno::ENOTDIR))?
            }
        };
        let stat = nix::sys::stat::fstat(&top).map_err(|errno| self.failed("look at", path, errno))?;
        let Meta { mode, uid, .. } = Meta::from(stat);
        let own = nix::unistd::geteuid().as_raw();
        let why = match (self.trusts(uid), mode & 0o022) {
            (true, 0) => None,
            (true, _) => Some(format!("others can write in it (its mode is {mode:04o})")),
            (false, _) => Some(format!("it belongs to user {uid}")),
        };
        if let Some(why) = why {
            let shown = self.shown(path);
            let shown = shown.display();
            return Err(Error::new(code::FILE, format!("what is in {shown} can't be trusted")).because(why).help(
                format!(
                    "look at what others have put there (`ls -la {shown}`); then remove it, or make it yours alone: \
                 `chown -R {own}: {shown} && chmod 0700 {shown}`"
                ),
            ));
        }
        if mode & 0o077 != 0 && uid == own {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let fd = nix::fcntl::openat(&top, ".", flags, Mode::empty())
                .map_err(|errno| self.failed("open", path, errno))?;
            self.give_mode(&fd, path, 0o700)?;
        }
        let (dir, shown) = (self.outside(path), self.shown(path));
        Ok(Self { dir, shown, top, parents: RefCell::default(), labels: Labels::default(), batch: RefCell::default() })
    }

    /// Has messages call its paths by where they are from outside: for a directory that is nobody's `/`.
    pub fn shown_whole(self) -> Self {
        Self { shown: self.dir.clone(), ..self }
    }

    /// What messages call `path`.
    fn shown(&self, path: &Path) -> PathBuf {
        self.shown.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn failed(&self, doing: &str, path: &Path, errno: Errno) -> Error {
        failed(doing, &self.shown(path), errno)
    }

    fn failed_io(&self, doing: &str, path: &Path, error: std::io::Error) -> Error {
        failed_io(doing, &self.shown(path), error)
    }

    /// What new paths of the live `/` are labelled by.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether this is the machine's own `/`.
    pub fn is_live(&self) -> bool {
        self.dir == Path::new("/")
    }

    /// Where `path` of the root is from outside. For messages and for programs that are told a path.
    pub fn outside(&self, path: &Path) -> PathBuf {
        self.dir.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What stands at `path`, links not followed; `None` when there is nothing.
    pub fn meta(&self, path: &Path) -> Result<Option<Meta>> {
        Ok(self.stat(path)?.map(Meta::from))
    }

    /// What stands at a path, as far as it tells whether somebody has touched that; `None` when nothing does.
    pub fn seen(&self, path: &Path) -> Result<Option<Seen>> {
        Ok(self.stat(path)?.map(Seen::from))
    }

    /// Which place a path names, whatever links and mounts lead there: the nearest directory above it that is there, by device and
    /// inode, and the names below that. The path itself, if that can't be looked at.
    pub fn place_of(&self, path: &Path) -> String {
        let open = |above: &Path| self.directory(above).transpose().map(|dir| (above.to_owned(), dir));
        if let Some((above, Ok(dir))) = path.ancestors().skip(1).find_map(open)
            && let (Ok((device, inode)), Ok(below)) = (identity(&dir), path.strip_prefix(&above))
        {
            return format!("{device:x}:{inode:x}/{}", below.display());
        }
        path.display().to_string()
    }

    /// An error when `path` is on a file system that is mounted read-only: neither it nor anything else can be made there.
    pub fn check_writable(&self, path: &Path) -> Result<()> {
        let refuses = |dir: &OwnedFd, name: &Path| {
            nix::unistd::faccessat(dir, name, AccessFlags::W_OK, AtFlags::empty()) == Err(Errno::EROFS)
        };
        // it may be a mount of its own, below a directory that is read-only
        let is_link = |stat: FileStat| Meta::from(stat).what == What::Link;
        if self.stat(path)?.is_some_and(|stat| !is_link(stat))
            && let Some((parent, name)) = self.parent(path)?
            && !refuses(&parent, &name)
        {
            return Ok(());
        }
        let is_read_only = |dir: &&Path| matches!(self.directory(dir), Ok(Some(fd)) if refuses(&fd, Path::new(".")));
        // what is not there yet is made where the nearest one above it is
        let there = path.ancestors().skip(1).skip_while(|dir| !matches!(self.directory(dir), Ok(Some(_))));
        let Some(top) = there.take_while(is_read_only).last() else { return Ok(()) };
        let help = match top.starts_with("/usr") || top == Path::new("/") {
            true => {
                "a system that is an image keeps /usr read-only: put it below /opt, /etc or /var. The programs of the shipped roles go \
                 where `base.bin` says: `[vars.base]` with `bin = \"/opt/bin\"`"
            }
            false => {
                "it is mounted read-only (`findmnt -T` shows where), as the kernel does it with a disk that fails: `dmesg` tells, then \
                 mount it read-write or put the file elsewhere"
            }
        };
        let message = format!("{} can't be written: {} is read-only on this host", path.display(), top.display());
        Err(Error::new(code::FILE, message).help(help))
    }

    /// What `lstat` tells of a path; `None` when nothing stands there.
    fn stat(&self, path: &Path) -> Result<Option<FileStat>> {
        let Some((parent, name)) = self.parent(path)? else { return Ok(None) };
        match nix::sys::stat::fstatat(&parent, &name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(self.failed("look at", path, errno)),
        }
    }

    /// Opens the regular file at `path` for reading, with what `fstat` tells of it; `None` when nothing, or something
    /// else than a file, stands there.
    pub fn file(&self, path: &Path) -> Result<Option<(Meta, File)>> {
        Ok(self.open_file(path)?.map(|(stat, file)| (Meta::from(stat), file)))
    }

    fn open_file(&self, path: &Path) -> Result<Option<(FileStat, File)>> {
        let Some((parent, name)) = self.parent(path)? else { return Ok(None) };
        // to open a device may do something already, as with a watchdog
        match nix::sys::stat::fstatat(&parent, &name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if Meta::from(stat).what == What::File => {}
            Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(errno) => return Err(self.failed("look at", path, errno)),
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match nix::fcntl::openat(&parent, &*name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENXIO) => return Ok(None),
            Err(errno) => return Err(self.failed("read", path, errno)),
        };
        let stat = nix::sys::stat::fstat(&file).map_err(|errno| self.failed("look at", path, errno))?;
        Ok((Meta::from(stat).what == What::File).then_some((stat, file)))
    }

    /// The content of the regular file at `path`, with what `fstat` tells of it; `None` as for [`Root::file`]. One with more than
    /// [`read::MOST`] bytes is an error.
    pub fn read(&self, path: &Path) -> Result<Option<(Meta, Vec<u8>)>> {
        let Some((meta, file)) = self.file(path)? else { return Ok(None) };
        Ok(Some((meta, self.content(&file, meta.size, path)?)))
    }

    /// SHA-256 of the regular file at `path`, in hex, with what tells whether somebody has touched it; `None` as for [`Root::file`], or
    /// when it is larger than `most` bytes.
    pub fn digest(&self, path: &Path, most: u64) -> Result<Option<(Seen, String)>> {
        let Some((stat, mut file)) = self.open_file(path)? else { return Ok(None) };
        let seen = Seen::from(stat);
        if seen.size > most {
            return Ok(None);
        }
        let digest = match seen.size {
            // a buffer would cost more than what goes into it
            0..SMALL => hex::encode(Sha256::digest(self.content(&file, seen.size, path)?)),
            _ => hash(&mut file).map_err(|error| self.failed_io("read", path, error))?.sha256,
        };
        Ok(Some((seen, digest)))
    }

    /// [`Root::read`] as text to look at, not to write back: what is not UTF-8 is replaced, since the files that a system keeps have
    /// comments and names in any encoding. Empty when there is no such file.
    pub fn text(&self, path: &Path) -> Result<String> {
        let content = self.read(path)?.map(|(_, content)| content).unwrap_or_default();
        Ok(String::from_utf8(content).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// Where the link at `path` leads; `None` when no link stands there.
    pub fn link(&self, path: &Path) -> Result<Option<PathBuf>> {
        let Some((parent, name)) = self.parent(path)? else { return Ok(None) };
        match nix::fcntl::readlinkat(&parent, &*name) {
            Ok(target) => Ok(Some(target.into())),
            Err(Errno::ENOENT | Errno::EINVAL | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(self.failed("read the link", path, errno)),
        }
    }

    /// The type of the file system that has the directory at `path`; `None` when there is no such directory.
    pub fn file_system(&self, path: &Path) -> Result<Option<FsType>> {
        let Some(dir) = self.directory(path)? else { return Ok(None) };
        // before Linux 3.12 a descriptor of a path alone is not enough
        let open =
            nix::fcntl::openat(&dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
        let told = open.and_then(nix::sys::statfs::fstatfs).map_err(|errno| self.failed("look at", path, errno))?;
        Ok(Some(told.filesystem_type()))
    }

    /// The names in the directory at `path`, sorted; none when there is no such directory.
    pub fn names(&self, path: &Path) -> Result<Vec<String>> {
        let Some(dir) = self.directory(path)? else { return Ok(Vec::new()) };
        let open = nix::dir::Dir::openat(&dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty());
        let mut dir = match open {
            Ok(dir) => dir,
            Err(errno) => return Err(self.failed("list", path, errno)),
        };
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(|errno| self.failed("list", path, errno))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Writes a file whole or not at all: a temporary file beside it, its access, fsync, rename, fsync of the directory. It
    /// keeps the extended attributes of the file that it replaces; a new one gets its SELinux context.
    pub fn write(&self, path: &Path, content: &[u8], access: Access) -> Result<()> {
        if self.batch.borrow().is_some() && self.stage(path, content, access)? {
            return Ok(());
        }
        self.write_with(path, access, |file| {
            file.write_all(content).map_err(|error| self.failed_io("write", path, error))
        })
    }

    /// Writes a file whole or not at all, as [`Root::write`] does it, in a directory that has to be there and may be somebody else's. It is
    /// not synced, and keeps nothing of the file that it replaces: for what is worth nothing after a crash.
    pub fn write_quickly(&self, path: &Path, content: &[u8], mode: u32) -> Result<()> {
        self.write_new(path, content, mode, false)
    }

    /// The same, for what is to be there after a crash. Where files have the mode of their mount, that is not an error.
    pub fn write_lasting(&self, path: &Path, content: &[u8], mode: u32) -> Result<()> {
        self.write_new(path, content, mode, true)
    }

    fn write_new(&self, path: &Path, content: &[u8], mode: u32, is_lasting: bool) -> Result<()> {
        let temporary = temporary_name(path);
        let (parent, name) = self.parent(path)?.ok_or_else(|| self.failed("write", path, Errno::ENOENT))?;
        clear(&parent, &temporary);
        let written = (|| {
            let mut file = self.create(&parent, &temporary, path)?;
            file.write_all(content).map_err(|error| self.failed_io("write", path, error))?;
            nix::sys::stat::fchmod(&file, Mode::from_bits_truncate(mode))
                .map_err(|errno| self.refused("mode", path, errno, &file))?;
            if is_lasting {
                file.sync_all().map_err(|error| self.failed_io("write", path, error))?;
            }
            nix::fcntl::renameat(&parent, &*temporary, &parent, &*name)
                .map_err(|errno| self.failed("replace", path, errno))
        })();
        if written.is_err() {
            clear(&parent, &temporary);
            return written;
        }
        if is_lasting { self.sync(&parent, path) } else { Ok(()) }
    }

    /// Gives a file of ours its mode and the place of `to`, in the same directory. Refuses what is another's, or has a second name.
    pub fn publish(&self, path: &Path, to: &Path, mode: u32) -> Result<()> {
        let Some((parent, name)) = self.parent(path)? else { return Err(self.failed("open", path, Errno::ENOENT)) };
        let Some((stat, file)) = self.open_file(path)? else { return Err(self.failed("open", path, Errno::ENOENT)) };
        let has_owners =
            nix::sys::statfs::fstatfs(&file).is_ok_and(|fs| !WITHOUT_MODES.contains(&fs.filesystem_type()));
        if has_owners && (stat.st_uid != nix::unistd::geteuid().as_raw() || stat.st_nlink > 1) {
            return Err(Error::new(
                code::FILE,
                format!("{} is not the file that was written there", self.shown(path).display()),
            )
            .help("somebody else has put it there, who can write in its directory: run again"));
        }
        nix::sys::stat::fchmod(&file, Mode::from_bits_truncate(mode))
            .map_err(|errno| self.refused("mode", path, errno, &file))?;
        let (_, last) = split(to)?;
        nix::fcntl::renameat(&parent, &*name, &parent, &*last).map_err(|errno| self.failed("replace", to, errno))?;
        self.sync(&parent, to)
    }

    /// [`Root::write_quickly`] of a file for everybody to read, in a directory that an operator has named in `kpull.toml`: of the machine,
    /// also where a run works in a tree.
    pub fn write_output(dir: &Path, name: &str, content: &[u8]) -> Result<()> {
        let dir = std::path::absolute(dir).context(code::FILE, || format!("can't find {}", dir.display()))?;
        Self::open(Path::new("/"))?.write_quickly(&dir.join(name), content, 0o644)
    }

    /// From now on, what [`Root::write`] writes keeps its old content, and what changes in directories may be lost with the power,
    /// until [`Root::settle`].
    pub fn gather(&self) {
        self.batch.borrow_mut().get_or_insert_default();
    }

    /// Whether no more should wait for [`Root::settle`].
    pub fn has_gathered_enough(&self) -> bool {
        let mut batch = self.batch.borrow_mut();
        let Some(batch) = batch.as_mut() else { return false };
        let count = batch.files.len() + batch.directories.len();
        count >= 16 && count >= batch.most()
    }

    /// Has everything that was gathered on the disk, and then each file in its place: all of its content, or the old one. The
    /// first failure, with the path that it is about; the other files have their places all the same.
    pub fn settle(&self) -> Result<(), (PathBuf, Error)> {
        let Some(Batch { files, mut directories, .. }) = self.batch.take() else { return Ok(()) };
        let mut first = Ok(());
        let synced = sync::files(&files.iter().map(|one| &one.file).collect::<Vec<_>>());
        for (staged, synced) in files.into_iter().zip(synced) {
            let path = staged.path.clone();
            directories.push((staged.parent.clone(), path.clone()));
            let placed = synced
                .map_err(|error| self.failed_io("write", &path, error))
                .and_then(|()| staged.place().map_err(|errno| self.failed("replace", &path, errno)));
            first = first.and(placed.map_err(|error| (path, error)));
        }
        directories.sort_by_key(|(directory, _)| Rc::as_ptr(directory));
        directories.dedup_by_key(|(directory, _)| Rc::as_ptr(directory));
        for (directory, path) in directories {
            let synced = self.sync_directory(&directory, &path);
            first = first.and(synced.map_err(|error| (path, error)));
        }
        first
    }

    /// Has all that `work` writes on the disk at its end, together. Meanwhile old content is what is read.
    pub fn together<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.gather();
        let done = work();
        // also what was written before a failure
        let settled = self.settle().map_err(|(_, error)| error);
        done.and_then(|done| settled.map(|()| done))
    }

    /// Writes a file that waits for [`Root::settle`]; `false` when the file system has no files without a name.
    fn stage(&self, path: &Path, content: &[u8], access: Access) -> Result<bool> {
        let (parent, name) = self.writable_parent(path)?;
        let Some(mut file) = self.nameless(path)? else { return Ok(false) };
        file.write_all(content).map_err(|error| self.failed_io("write", path, error))?;
        self.furnish(&file, (&parent, &name), path, access)?;
        if let Some(batch) = self.batch.borrow_mut().as_mut() {
            batch.touched(&parent, path);
            batch.files.push(Staged { path: path.to_owned(), parent, name, file });
        }
        Ok(true)
    }

    /// [`Root::write`] with content that `fill` streams into the file.
    pub fn write_with(&self, path: &Path, access: Access, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
        self.write_checked(path, access, fill, |_| Ok(()))
    }

    /// [`Root::write_with`], and `check` looks at the new file, at a path that only this process knows, before it takes its
    /// place. A child can have the directory of that path for its own. When `check` fails, the old file stays.
    pub fn write_checked(
        &self,
        path: &Path,
        access: Access,
        fill: impl FnOnce(&mut File) -> Result<()>,
        check: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        self.put(path, access, check, |parent, temporary| {
            let mut file = self.create(parent, temporary, path)?;
            fill(&mut file)?;
            Ok(file)
        })
    }

    /// An empty file that has no name yet, where one at `path` would be made; `None` when there can't be such a file. What is
    /// written to it is gone with this process, unless it is [given its place](Root::place).
    pub fn nameless(&self, path: &Path) -> Result<Option<File>> {
        // what is above it may have to be made first
        for parent in path.ancestors().skip(1) {
            let Some(dir) = self.directory(parent)? else { continue };
            let flags = OFlag::O_RDWR | OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
            return Ok(nix::fcntl::openat(&dir, ".", flags, Mode::S_IRUSR | Mode::S_IWUSR).ok().map(File::from));
        }
        Ok(None)
    }

    /// Puts a file that [has no name](Root::nameless) at `path`, as [`Root::write_checked`] does it. One of another file
    /// system is copied.
    pub fn place(
        &self,
        path: &Path,
        mut file: File,
        access: Access,
        check: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        self.put(path, access, check, |parent, temporary| {
            if give_name(&file, parent, temporary).is_ok() {
                return Ok(file);
            }
            let mut copy = self.create(parent, temporary, path)?;
            // shares the blocks where the file system can do that
            file.rewind()
                .and_then(|()| std::io::copy(&mut file, &mut copy))
                .map_err(|error| self.failed_io("write", path, error))?;
            Ok(copy)
        })
    }

    /// Has `make` make a file under a temporary name beside `path`, and gives it its access and its place.
    fn put(
        &self,
        path: &Path,
        access: Access,
        check: impl FnOnce(&Path) -> Result<()>,
        make: impl FnOnce(&OwnedFd, &Path) -> Result<File>,
    ) -> Result<()> {
        let temporary = temporary_name(path);
        let (parent, name) = self.writable_parent(path)?;
        clear(&parent, &temporary);
        let written = (|| {
            let file = make(&parent, &temporary)?;
            self.furnish(&file, (&parent, &name), path, access)?;
            file.sync_all().map_err(|error| self.failed_io("write", path, error))?;
            // a program that somebody has open for writing can't be run
            drop(file);
            check(&through(&parent).join(&temporary))?;
            nix::fcntl::renameat(&parent, &*temporary, &parent, &*name)
                .map_err(|errno| self.failed("replace", path, errno))
        })();
        if written.is_err() {
            let _ = nix::unistd::unlinkat(&parent, &*temporary, nix::unistd::UnlinkatFlags::NoRemoveDir);
            return written;
        }
        self.sync(&parent, path)
    }

    /// Gives a new file, for the name in a directory, its owner, attributes and mode.
    fn furnish(&self, file: &File, (parent, name): (&OwnedFd, &Path), path: &Path, access: Access) -> Result<()> {
        self.give_owner(file, path, access)?;
        // after the content and the owner: a change of either takes capabilities away
        let mut kept = self.kept(path, access);
        if !kept.iter().any(|(name, _)| name == label::ATTRIBUTE) {
            kept.extend(self.label(parent, name, What::File));
        }
        for attribute in kept {
            self.set_attribute(file, path, &attribute)?;
        }
        self.give_mode(file, path, access.mode)
    }

    /// Has the names in a directory on the disk; with all others, when there will be a [`Root::settle`].
    fn sync(&self, directory: &Rc<OwnedFd>, path: &Path) -> Result<()> {
        let mut batch = self.batch.borrow_mut();
        let Some(batch) = batch.as_mut() else { return self.sync_directory(directory, path) };
        batch.touched(directory, path);
        // one path may have more new directories above it than there may be open files
        if batch.directories.len() > batch.most().max(16) {
            for (directory, path) in std::mem::take(&mut batch.directories) {
                self.sync_directory(&directory, &path)?;
            }
        }
        Ok(())
    }

    /// [`Root::give_access`]; an error where that is refused.
    pub fn set_access(&self, path: &Path, access: Access) -> Result<()> {
        match self.give_access(path, access)? {
            true => Ok(()),
            false => Err(self.not_given(path)),
        }
    }

    /// Sets mode and owners of the file or directory at `path`. `false`, and nothing is changed, where it [lets](Root::lets_in) somebody in.
    pub fn give_access(&self, path: &Path, access: Access) -> Result<bool> {
        let (parent, name) = self.writable_parent(path)?;
        // through one descriptor, so that no link is followed and nothing else can take its place meanwhile
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::openat(&parent, &*name, flags, Mode::empty())
            .map_err(|errno| self.failed("open", path, errno))?;
        let own = self.own(&fd, &parent, path)?;
        if self.lets_in(&fd, &own, &parent, path, access)? {
            return Ok(false);
        }
        self.give(&fd, own, path, access).map(|()| true)
    }

    /// Whether `access` lets somebody into what is open whom its owner, root or we, keeps out, where others could have moved it there. Nothing
    /// is in an empty directory.
    fn lets_in(&self, fd: &OwnedFd, own: &FileStat, parent: &OwnedFd, path: &Path, access: Access) -> Result<bool> {
        let is_new = |new: Option<u32>, old: u32| new.filter(|new| *new != old);
        let is_wider = is_new(access.uid, own.st_uid).is_some_and(|uid| !self.trusts(uid))
            || is_new(access.gid, own.st_gid).is_some() && access.mode & 0o070 != 0
            || access.mode & !own.st_mode & 0o077 != 0;
        let others_move = || -> Result<bool> {
            let above = Meta::from(nix::sys::stat::fstat(parent).map_err(|errno| self.failed("look at", path, errno))?);
            // with the sticky bit, its owner alone can move it
            Ok(!self.trusts(above.uid) || above.mode & 0o022 != 0 && above.mode & 0o1000 == 0)
        };
        if !is_wider || !self.trusts(own.st_uid) || !others_move()? {
            return Ok(false);
        }
        let is_directory = Meta::from(*own).what == What::Directory;
        Ok(!is_directory || !is_empty(fd).map_err(|errno| self.failed("list", path, errno))?)
    }

    /// That nobody is [let in](Root::lets_in).
    fn not_given(&self, path: &Path) -> Error {
        let shown = self.shown(path);
        let shown = shown.display();
        Error::new(code::FILE, format!("{shown} is not given to others, with what is in it"))
            .because("its owner keeps them out, and others can write in the directory above it, and may have moved it there")
            .help(format!(
                "if they may have it, give it owner and mode by hand (`ls -ld {shown}`); else move it away, and the next run makes a new one"
            ))
            .of_path()
    }

    /// Whether somebody who is not trusted can change what has which name in a directory.
    fn others_write_in(&self, parent: &OwnedFd, path: &Path) -> Result<bool> {
        let above = nix::sys::stat::fstat(parent).map_err(|errno| self.failed("look at", path, errno))?;
        let above = Meta::from(above);
        Ok(!self.trusts(above.uid) || above.mode & 0o022 != 0)
    }

    /// What `fstat` tells of what is open at `path`; an error when that may be somebody's file by a second name.
    fn own(&self, fd: &OwnedFd, parent: &OwnedFd, path: &Path) -> Result<FileStat> {
        let own = nix::sys::stat::fstat(fd).map_err(|errno| self.failed("look at", path, errno))?;
        if own.st_nlink > 1 && Meta::from(own).what == What::File && self.others_write_in(parent, path)? {
            return Err(Error::new(code::FILE, format!("{} is the same file as another path", path.display()))
                .because("others can write in its directory, and may have put a second name of somebody's file there")
                .help("remove it: the next run makes it anew"));
        }
        Ok(own)
    }

    /// Sets mode and owners of what is open.
    fn give(&self, fd: &OwnedFd, old: FileStat, path: &Path, access: Access) -> Result<()> {
        self.give_owner(fd, path, access)?;
        if access.uid.is_some_and(|uid| uid != old.st_uid) && !self.trusts(old.st_uid) {
            // whom the last owner let in is not whom the next one lets in
            for name in [ACL, DEFAULT_ACL] {
                match rustix::fs::fremovexattr(fd, name) {
                    Ok(()) | Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => {}
                    Err(errno) => return Err(self.failed_io("take the access list of", path, errno.into())),
                }
            }
        }
        // after the owner: chown takes setuid and setgid away
        self.give_mode(fd, path, access.mode)
    }

    fn give_owner(&self, fd: impl AsFd, path: &Path, access: Access) -> Result<()> {
        if access.uid.is_none() && access.gid.is_none() {
            return Ok(());
        }
        nix::unistd::fchown(&fd, access.uid.map(Uid::from_raw), access.gid.map(Gid::from_raw))
            .map_err(|errno| self.refused("owner", path, errno, &fd))
    }

    fn give_mode(&self, fd: impl AsFd, path: &Path, mode: u32) -> Result<()> {
        nix::sys::stat::fchmod(&fd, Mode::from_bits_truncate(mode))
            .map_err(|errno| self.refused("mode", path, errno, &fd))?;
        // some say that they have taken it
        match nix::sys::stat::fstat(&fd) {
            Ok(now) if now.st_mode & 0o7777 != mode => Err(self.without("mode", path, &now)),
            _ => Ok(()),
        }
    }

    /// What to tell of a mode or an owner that could not be set.
    fn refused(&self, what: &str, path: &Path, errno: Errno, fd: impl AsFd) -> Error {
        let kind = nix::sys::statfs::fstatfs(&fd).map(|fs| fs.filesystem_type());
        match nix::sys::stat::fstat(&fd) {
            Ok(now) if errno == Errno::EPERM && kind.is_ok_and(|kind| WITHOUT_MODES.contains(&kind)) => {
                self.without(what, path, &now)
            }
            _ => self.failed(&format!("set the {what} of"), path, errno),
        }
    }

    /// That a file system has no modes and owners of its own.
    fn without(&self, what: &str, path: &Path, now: &FileStat) -> Error {
        Error::new(code::FILE, format!("can't set the {what} of {}", self.shown(path).display()))
            .because("every file of this file system has the mode and owner that its mount gives (vfat, exFAT, NTFS, a network share)")
            .help(format!(
                "write `mode = \"{:04o}\"` in the role, with the owner and the group that have the numbers {} and {}, or mount it \
                 with another `umask=`, `uid=` and `gid=` (`findmnt -T {}`)",
                now.st_mode & 0o7777,
                now.st_uid,
                now.st_gid,
                path.display()
            ))
            .of_path()
    }

    /// Makes the directory at `path`, and those above it (0755, ours) that are missing. A new one has its access and its
    /// SELinux context from the moment that it has its name.
    pub fn make_directory(&self, path: &Path, access: Access) -> Result<()> {
        let temporary = temporary_name(path);
        let (parent, name) = self.writable_parent(path)?;
        match self.meta(path)?.map(|meta| meta.what) {
            None => {}
            Some(What::Directory) => {
                self.set_access(path, access)?;
                return self.sync(&parent, path);
            }
            Some(_) => return Err(self.failed("open", path, Errno::ENOTDIR)),
        }
        clear(&parent, &temporary);
        nix::sys::stat::mkdirat(&parent, &*temporary, Mode::S_IRWXU)
            .map_err(|errno| self.failed("make the directory", path, errno))?;
        let made = (|| {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let fd = nix::fcntl::openat(&parent, &*temporary, flags, Mode::empty())
                .map_err(|errno| self.failed("open", path, errno))?;
            if let Some(context) = self.label(&parent, &name, What::Directory) {
                self.set_attribute(&fd, path, &context)?;
            }
            let own = nix::sys::stat::fstat(&fd).map_err(|errno| self.failed("look at", path, errno))?;
            // somebody may have put another one in its place
            if self.lets_in(&fd, &own, &parent, path, access)? {
                return Err(self.not_given(path));
            }
            self.give(&fd, own, path, access)?;
            nix::fcntl::renameat(&parent, &*temporary, &parent, &*name)
                .map_err(|errno| self.failed("make the directory", path, errno))
        })();
        if made.is_err() {
            clear(&parent, &temporary);
            return made;
        }
        self.sync(&parent, path)
    }

    /// Makes the link at `path`, in place of whatever file or link stands there.
    pub fn make_link(&self, path: &Path, target: &Path) -> Result<()> {
        let temporary = temporary_name(path);
        let (parent, name) = self.writable_parent(path)?;
        clear(&parent, &temporary);
        nix::unistd::symlinkat(target, &parent, &*temporary)
            .map_err(|errno| self.failed("make the link", path, errno))?;
        let made = (|| {
            if let Some((attribute, context)) = self.label(&parent, &name, What::Link) {
                let link = through(&parent).join(&temporary);
                let set = rustix::fs::lsetxattr(link, &attribute, &context, XattrFlags::empty());
                self.attribute_is_set(set, path, &attribute)?;
            }
            nix::fcntl::renameat(&parent, &*temporary, &parent, &*name)
                .map_err(|errno| self.failed("replace", path, errno))
        })();
        if made.is_err() {
            clear(&parent, &temporary);
            return made;
        }
        // what was opened through the link that it replaces
        self.parents.borrow_mut().clear();
        self.sync(&parent, path)
    }

    /// The extended attributes of the file at `path` that a new one in its place keeps: its SELinux context, its
    /// capabilities, who else may read it within the new mode, and what users noted. Nothing of somebody's who is neither
    /// trusted nor the owner of the new file: an access list of theirs would let them read it.
    fn kept(&self, path: &Path, access: Access) -> Vec<Attribute> {
        // what can't be read is left out like what is not there
        let Ok(Some((meta, old))) = self.file(path) else { return Vec::new() };
        if !self.trusts(meta.uid) && access.uid != Some(meta.uid) {
            return Vec::new();
        }
        let mut names = Vec::with_capacity(ATTRIBUTE_MAX);
        if rustix::fs::flistxattr(&old, spare_capacity(&mut names)).is_err() {
            return Vec::new();
        }
        let names = names.split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok());
        let kept = names.filter(|name| KEPT.contains(name) || name.starts_with("user."));
        let read = kept.filter_map(|name| {
            let mut value = Vec::with_capacity(ATTRIBUTE_MAX);
            rustix::fs::fgetxattr(&old, name, spare_capacity(&mut value)).ok()?;
            if name == ACL {
                limit(&mut value, access.mode);
            }
            Some((name.to_owned(), value))
        });
        read.collect()
    }

    /// The SELinux context for something new, as an extended attribute.
    fn label(&self, parent: &OwnedFd, name: &Path, what: What) -> Option<Attribute> {
        if !self.is_live() || !self.labels.is_on() {
            return None;
        }
        // a policy knows the paths that no link is part of
        let parent = nix::fcntl::readlink(&through(parent)).ok()?;
        let mut context = self.labels.of(&Path::new(&parent).join(name), what)?.into_bytes();
        context.push(0);
        Some((label::ATTRIBUTE.to_owned(), context))
    }

    fn set_attribute(&self, fd: impl AsFd, path: &Path, (name, value): &Attribute) -> Result<()> {
        let set = rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty());
        self.attribute_is_set(set, path, name)
    }

    /// Whether an attribute that could not be set is an error. Where SELinux is on, a file without its context may be one that no
    /// daemon can read; elsewhere what may not be set here, by an unprivileged user for instance, is left out.
    fn attribute_is_set(&self, set: rustix::io::Result<()>, path: &Path, name: &str) -> Result<()> {
        use rustix::io::Errno as Raw;

        match set {
            // file systems without them have one context for all that is in them
            Ok(()) | Err(Raw::OPNOTSUPP) => Ok(()),
            Err(Raw::PERM | Raw::ACCESS) if !self.is_live() || !self.labels.is_on() => Ok(()),
            Err(errno) => Err(self.failed_io(&format!("set the attribute {name} of"), path, errno.into())),
        }
    }

    /// Takes away the file, link or empty directory at `path`; fine when nothing stands there.
    pub fn remove(&self, path: &Path) -> Result<()> {
        let Some(meta) = self.meta(path)? else { return Ok(()) };
        let Some((parent, name)) = self.parent(path)? else { return Ok(()) };
        let flag = match meta.what {
            What::Directory => nix::unistd::UnlinkatFlags::RemoveDir,
            _ => nix::unistd::UnlinkatFlags::NoRemoveDir,
        };
        nix::unistd::unlinkat(&parent, &*name, flag).map_err(|errno| self.failed("remove", path, errno))?;
        self.parents.borrow_mut().clear();
        self.sync(&parent, path)
    }

    /// Takes away whatever stands at `path`; a directory with everything in it. No link is followed, and a directory
    /// that something is mounted in is refused before anything is removed.
    pub fn remove_all(&self, path: &Path) -> Result<()> {
        if self.meta(path)?.is_none_or(|meta| meta.what != What::Directory) {
            return self.remove(path);
        }
        let Some((parent, name)) = self.parent(path)? else { return Ok(()) };
        walk(&parent, &name, &self.shown(path), false)?;
        walk(&parent, &name, &self.shown(path), true)?;
        self.remove(path)
    }

    /// Writes into the regular file at `path` as it stands, for one that can't be replaced: a run that dies meanwhile leaves a part of it.
    /// `false` when there is no such file.
    pub fn write_into(&self, path: &Path, content: &[u8], access: Access) -> Result<bool> {
        if self.meta(path)?.is_none_or(|meta| meta.what != What::File) {
            return Ok(false);
        }
        let Some((parent, name)) = self.parent(path)? else { return Ok(false) };
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::openat(&parent, &*name, flags, Mode::empty())
            .map_err(|errno| self.failed("write", path, errno))?;
        let own = self.own(&fd, &parent, path)?;
        if self.lets_in(&fd, &own, &parent, path, access)? {
            return Err(self.not_given(path));
        }
        // before the content, which may be for fewer eyes than the old one
        self.give(&fd, own, path, access)?;
        let mut file = File::from(fd);
        file.write_all(content)
            .and_then(|()| file.set_len(content.len() as u64))
            .and_then(|()| file.sync_all())
            .map_err(|error| self.failed_io("write", path, error))?;
        Ok(true)
    }

    /// Writes into the file at `path` as it stands, without a temporary one beside it: for the files of the kernel.
    /// `false` when there is no such file.
    pub fn overwrite(&self, path: &Path, content: &[u8]) -> Result<bool> {
        let Some((parent, name)) = self.parent(path)? else { return Ok(false) };
        let flags = OFlag::O_WRONLY | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        match nix::fcntl::openat(&parent, &*name, flags, Mode::empty()) {
            Ok(fd) => {
                // the kernel takes a setting from one write, so a short one is not continued
                nix::unistd::write(&fd, content).map_err(|errno| self.failed("write", path, errno))?;
                Ok(true)
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
            Err(errno) => Err(self.failed("write", path, errno)),
        }
    }

    /// Opens the file at `path` for a lock, and makes it (0600, ours) when it is missing.
    pub fn lock_file(&self, path: &Path) -> Result<File> {
        let (parent, name) = self.writable_parent(path)?;
        let is_new = self.meta(path)?.is_none();
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::openat(&parent, &*name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|errno| self.failed("open", path, errno))?;
        if is_new && let Some(context) = self.label(&parent, &name, What::File) {
            self.set_attribute(&fd, path, &context)?;
        }
        Ok(File::from(fd))
    }

    /// The directory at `path`, links inside the root followed; `None` when there is none.
    fn directory(&self, path: &Path) -> Result<Option<Rc<OwnedFd>>> {
        if let Some(fd) = self.parents.borrow().get(path) {
            return Ok(Some(fd.clone()));
        }
        let inner = path.strip_prefix("/").unwrap_or(path);
        let inner = if inner.as_os_str().is_empty() { Path::new(".") } else { inner };
        let plain = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let opened = match open_within(&self.top, inner, PLACE, plain) {
            // there are links; or the kernel has no such call
            None | Some(Err(Errno::ELOOP)) => self.follow(path)?,
            Some(opened) => opened,
        };
        match opened {
            Ok(fd) => {
                let fd = Rc::new(fd);
                let mut parents = self.parents.borrow_mut();
                if parents.len() == PARENTS_MAX {
                    parents.clear();
                }
                parents.insert(path.to_owned(), fd.clone());
                Ok(Some(fd))
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(self.failed("open", path, errno)),
        }
    }

    /// Whether what this user does in the tree is as good as ours: root, ourselves, and whoever the tree belongs to.
    fn trusts(&self, uid: u32) -> bool {
        uid == 0
            || uid == nix::unistd::geteuid().as_raw()
            || nix::sys::stat::fstat(&self.top).is_ok_and(|top| top.st_uid == uid)
    }

    /// Opens the directory at `path` name by name. Links are followed inside the root, but only those of users that are trusted:
    /// somebody else's could send what is written to any place.
    fn follow(&self, path: &Path) -> Result<Result<OwnedFd, Errno>> {
        let open = |at: &OwnedFd, name: &std::ffi::OsStr, flags: OFlag| {
            nix::fcntl::openat(at, name, flags | OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
        };
        let names = |path: &Path| path.components().rev().map(|name| name.as_os_str().to_owned()).collect::<Vec<_>>();
        let mut left = names(path);
        let mut way: Vec<OwnedFd> = Vec::new();
        let mut links = 0;
        while let Some(name) = left.pop() {
            match name.as_bytes() {
                b"/" => way.clear(),
                b"." => {}
                b".." => drop(way.pop()),
                _ => {
                    let at = way.last().unwrap_or(&self.top);
                    match open(at, &name, OFlag::O_DIRECTORY) {
                        Ok(fd) => {
                            way.push(fd);
                            continue;
                        }
                        // a link, or something that leads nowhere
                        Err(Errno::ENOTDIR) => {}
                        Err(errno) => return Ok(Err(errno)),
                    }
                    let fd = match open(at, &name, OFlag::empty()) {
                        Ok(fd) => fd,
                        Err(errno) => return Ok(Err(errno)),
                    };
                    let meta =
                        Meta::from(nix::sys::stat::fstat(&fd).map_err(|errno| self.failed("look at", path, errno))?);
                    if meta.what != What::Link {
                        return Ok(Err(Errno::ENOTDIR));
                    }
                    links += 1;
                    if links > LINKS_MAX {
                        return Ok(Err(Errno::ELOOP));
                    }
                    if !self.trusts(meta.uid) {
                        return Err(Error::new(code::FILE, format!("{} goes through a link that belongs to user {}", path.display(), meta.uid))
                            .help("its owner could send what is written to any place: let root own the link, or name the path that it leads to"));
                    }
                    let target = nix::fcntl::readlinkat(&fd, "")
                        .map_err(|errno| self.failed("read the link in", path, errno))?;
                    left.extend(names(Path::new(&target)));
                }
            }
        }
        Ok(way.pop().map_or_else(|| nix::fcntl::openat(&self.top, ".", PLACE, Mode::empty()), Ok))
    }

    /// The directory that holds `path`, and the last name; `None` when there is no such directory.
    fn parent(&self, path: &Path) -> Result<Option<(Rc<OwnedFd>, PathBuf)>> {
        let (parent, name) = split(path)?;
        Ok(self.directory(parent)?.map(|fd| (fd, name)))
    }

    /// [`Root::parent`], made when it is missing.
    fn writable_parent(&self, path: &Path) -> Result<(Rc<OwnedFd>, PathBuf)> {
        let (parent, name) = split(path)?;
        if let Some(fd) = self.directory(parent)? {
            return Ok((fd, name));
        }
        self.make_directory(parent, Access { mode: 0o755, uid: None, gid: None })?;
        match self.directory(parent)? {
            Some(fd) => Ok((fd, name)),
            None => Err(self.failed("open", parent, Errno::ENOTDIR)),
        }
    }

    /// Makes the new file `temporary` in `parent`, for what is to be at `path`.
    fn create(&self, parent: &OwnedFd, temporary: &Path, path: &Path) -> Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let created = nix::fcntl::openat(parent, temporary, flags, Mode::S_IRUSR | Mode::S_IWUSR).map(File::from);
        created.map_err(|errno| match errno {
            Errno::EEXIST => self.failed("write", &path.with_file_name(temporary), errno),
            _ => self.failed("write", path, errno),
        })
    }

    fn content(&self, file: &File, size: u64, path: &Path) -> Result<Vec<u8>> {
        read::whole(file, size, read::MOST).map_err(|error| self.failed_io("read", path, error))
    }

    fn sync_directory(&self, parent: &OwnedFd, path: &Path) -> Result<()> {
        let dir =
            nix::fcntl::openat(parent, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(|errno| self.failed("open the directory of", path, errno))?;
        nix::unistd::fsync(&dir).map_err(|errno| self.failed("write the directory of", path, errno))
    }
}

/// A directory on the way of [`walk`].
struct Level {
    /// Its name in the one above.
    name: OsString,
    /// Device and inode.
    id: (u64, u64),
    /// Directories in it that are still to be gone through.
    left: Vec<OsString>,
}

/// Goes through everything in the directory `name` of `parent`, and takes it away when `remove` is set; without, only
/// looks whether it could. `path` is what the directory is called in messages. However deep it is, one level of it is open at a time.
fn walk(parent: &OwnedFd, name: &Path, path: &Path, remove: bool) -> Result<()> {
    use nix::unistd::UnlinkatFlags;

    const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
    let mut path = path.to_owned();
    let mounts = OnceCell::new();
    let open = |above: &OwnedFd, name: &Path| -> nix::Result<OwnedFd> {
        if let Some(opened) = open_within(above, name, DIRECTORY, ResolveFlag::RESOLVE_NO_XDEV) {
            return opened;
        }
        let dir = nix::fcntl::openat(above, name, DIRECTORY, Mode::empty())?;
        let is_mount = || {
            let place = nix::fcntl::readlink(&through(&dir)).unwrap_or_default();
            mounts.get_or_init(mount_points).contains(Path::new(&place))
        };
        // a directory can be mounted elsewhere on its own file system, too
        if identity(&dir)?.0 != identity(above)?.0 || is_mount() {
            return Err(Errno::EXDEV);
        }
        Ok(dir)
    };
    let enter = |above: &OwnedFd, name: &Path, path: &Path| -> Result<(OwnedFd, Level)> {
        let dir = open(above, name).map_err(|errno| match errno {
            Errno::EXDEV => {
                Error::new(code::FILE, format!("can't remove {}: something is mounted there", path.display()))
                    .help("unmount it first (findmnt shows it); nothing of it was removed")
            }
            _ => failed("open", path, errno),
        })?;
        let id = identity(&dir).map_err(|errno| failed("look at", path, errno))?;
        let again =
            nix::fcntl::openat(&dir, ".", DIRECTORY, Mode::empty()).map_err(|errno| failed("open", path, errno))?;
        let mut list = nix::dir::Dir::from_fd(again).map_err(|errno| failed("list", path, errno))?;
        let mut left = Vec::new();
        let entries: Vec<_> = list.iter().collect::<Result<_, _>>().map_err(|errno| failed("list", path, errno))?;
        for entry in entries {
            let inner = std::ffi::OsStr::from_bytes(entry.file_name().to_bytes());
            if inner == "." || inner == ".." {
                continue;
            }
            let stat = nix::sys::stat::fstatat(&dir, inner, AtFlags::AT_SYMLINK_NOFOLLOW)
                .map_err(|errno| failed("look at", &path.join(inner), errno))?;
            if Meta::from(stat).what == What::Directory {
                left.push(inner.to_owned());
            } else if remove {
                nix::unistd::unlinkat(&dir, inner, UnlinkatFlags::NoRemoveDir)
                    .map_err(|errno| failed("remove", &path.join(inner), errno))?;
            }
        }
        Ok((dir, Level { name: name.into(), id, left }))
    };
    let (mut dir, top) = enter(parent, name, &path)?;
    let mut way = vec![top];
    while let Some(last) = way.last_mut() {
        if let Some(inner) = last.left.pop() {
            path.push(&inner);
            let (below, level) = enter(&dir, Path::new(&inner), &path)?;
            dir = below;
            way.push(level);
            continue;
        }
        let Some(done) = way.pop() else { break };
        let Some(above) = way.last() else { break };
        dir = nix::fcntl::openat(&dir, "..", DIRECTORY, Mode::empty()).map_err(|errno| failed("open", &path, errno))?;
        if identity(&dir).map_err(|errno| failed("look at", &path, errno))? != above.id {
            return Err(Error::new(code::FILE, format!("{} was moved while it was looked through", path.display()))
                .help("run again when nobody changes it any more")
                .of_path());
        }
        if remove {
            nix::unistd::unlinkat(&dir, &*done.name, UnlinkatFlags::RemoveDir)
                .map_err(|errno| failed("remove", &path, errno))?;
        }
        path.pop();
    }
    Ok(())
}

/// Opens `path` from `at` with `openat2`; `None` where the kernel has no such call (Linux before 5.6), or may not be asked for it.
fn open_within(at: &OwnedFd, path: &Path, flags: OFlag, resolve: ResolveFlag) -> Option<nix::Result<OwnedFd>> {
    static IS_ABSENT: AtomicBool = AtomicBool::new(false);
    if IS_ABSENT.load(Ordering::Relaxed) {
        return None;
    }
    match openat2(at, path, OpenHow::new().flags(flags).resolve(resolve)) {
        // filters for system calls that are older than this one answer EPERM, which no directory does
        Err(Errno::ENOSYS | Errno::EPERM) => {
            IS_ABSENT.store(true, Ordering::Relaxed);
            None
        }
        opened => Some(opened),
    }
}

/// Where something is mounted, as far as this process can see that.
fn mount_points() -> HashSet<PathBuf> {
    let table = read::up_to(Path::new("/proc/self/mountinfo"), read::MOST).unwrap_or_default();
    let places = table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    places.map(|place| read::unescaped(&String::from_utf8_lossy(place)).into()).collect()
}

/// Whether nothing is in a directory.
fn is_empty(dir: &OwnedFd) -> nix::Result<bool> {
    let mut list = nix::dir::Dir::openat(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
    for entry in list.iter() {
        if ![&b"."[..], b".."].contains(&entry?.file_name().to_bytes()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Device and inode of what is open.
fn identity(fd: &OwnedFd) -> nix::Result<(u64, u64)> {
    let stat = nix::sys::stat::fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn split(path: &Path) -> Result<(&Path, PathBuf)> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((parent, name.into())),
        _ => Err(Error::new(code::FILE, format!("{} can't be managed: it has no name in a directory", path.display()))),
    }
}

fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // a long name has to stay below the 255 bytes that file systems allow
    let short: String = name.chars().take(50).collect();
    format!(".{short}.kpull-new").into()
}

/// Takes away whatever a killed run left behind under a temporary name.
fn clear(parent: &OwnedFd, temporary: &Path) {
    use nix::unistd::UnlinkatFlags;

    for flag in [UnlinkatFlags::NoRemoveDir, UnlinkatFlags::RemoveDir] {
        let _ = nix::unistd::unlinkat(parent, temporary, flag);
    }
}

/// The path of a directory through our descriptor, so that no link in a tree leads elsewhere.
fn through(parent: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", parent.as_raw_fd()).into()
}

/// Limits an access list, as the kernel keeps it, to what a mode allows, as chmod does: the list can be given to a file before its
/// mode, and lets nobody in meanwhile.
fn limit(list: &mut [u8], mode: u32) {
    // entries of a tag, rights and an id, after the version
    const ENTRY: usize = 8;
    let Some(entries) = list.get_mut(4..) else { return };
    let tag = |entry: &[u8]| u16::from_le_bytes([entry[0], entry[1]]);
    let has_mask = entries.chunks_exact(ENTRY).any(|entry| tag(entry) == ACL_MASK);
    for entry in entries.chunks_exact_mut(ENTRY) {
        let shift = match tag(entry) {
            ACL_OWNER => 6,
            ACL_MASK => 3,
            ACL_GROUP if !has_mask => 3,
            ACL_OTHER => 0,
            _ => continue,
        };
        entry[2] = (mode >> shift & 0o7) as u8;
    }
}

impl Batch {
    /// How many may wait.
    fn most(&mut self) -> usize {
        use nix::sys::resource::{Resource, getrlimit};

        let open_files = || {
            let (most, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
            usize::try_from(most / 4).ok()
        };
        *self.most.get_or_insert_with(|| open_files().unwrap_or(BATCH).min(BATCH))
    }

    /// Remembers that names in a directory have changed.
    fn touched(&mut self, directory: &Rc<OwnedFd>, path: &Path) {
        if self.directories.last().is_none_or(|(last, _)| !Rc::ptr_eq(last, directory)) {
            self.directories.push((directory.clone(), path.to_owned()));
        }
    }
}

/// Gives a file that has no name one in a directory.
fn give_name(file: &File, parent: &OwnedFd, name: &Path) -> nix::Result<()> {
    match nix::unistd::linkat(file, "", parent, name, AtFlags::AT_EMPTY_PATH) {
        // for which one has to be root, or it has to be Linux 6.10
        Err(Errno::ENOENT) => {
            let nameless = format!("/proc/self/fd/{}", file.as_raw_fd());
            nix::unistd::linkat(AT_FDCWD, &*nameless, parent, name, AtFlags::AT_SYMLINK_FOLLOW)
        }
        linked => linked,
    }
}

impl Staged {
    /// Gives the file its name, in place of whatever file or link has it.
    fn place(self) -> nix::Result<()> {
        let link = |name: &Path| give_name(&self.file, &self.parent, name);
        match link(&self.name) {
            // a link can't take the place of another, a rename can
            Err(Errno::EEXIST) => {
                let temporary = temporary_name(&self.path);
                clear(&self.parent, &temporary);
                let placed = link(&temporary)
                    .and_then(|()| nix::fcntl::renameat(&self.parent, &*temporary, &self.parent, &*self.name));
                if placed.is_err() {
                    clear(&self.parent, &temporary);
                }
                placed
            }
            linked => linked,
        }
    }
}

/// What to tell of a file of a root that could not be read or written through its handle.
pub fn failed_io(doing: &str, path: &Path, error: std::io::Error) -> Error {
    match error.raw_os_error() {
        Some(number) => failed(doing, path, Errno::from_raw(number)),
        None => Error::new(code::FILE, format!("can't {doing} {}", path.display())).because(error).of_path(),
    }
}

fn failed(doing: &str, path: &Path, errno: Errno) -> Error {
    let error = Error::of(code::FILE, format!("can't {doing} {}", path.display()), &errno).of_path();
    match errno {
        Errno::ENOSPC | Errno::EDQUOT => error.help_more("nothing was changed at this path"),
        Errno::EAGAIN => error.help("a process has a lease on it (`grep LEASE /proc/locks` shows its PID): end that process"),
        Errno::EBUSY => error.help(format!(
            "something is mounted there (`findmnt {}`): unmount it, or have it written into: a [[file]], [[template]] or [[block]] \
             takes `in_place = true`",
            path.display()
        )),
        Errno::EFBIG if doing == "read" => error.help(format!(
            "kpull reads files of at most {} MiB (`ls -ls` shows its size): move it away",
            read::MOST >> 20
        )),
        Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS if doing == "make the link" => {
            error.help("the file system there may have no links (vfat, exFAT), or its directory is immutable (`lsattr -d`)")
        }
        Errno::EPERM if nix::unistd::geteuid().is_root() => error.help(
            "it, or its directory, may be immutable or append-only: `lsattr -d` shows that, `chattr -i -a` takes it away",
        ),
        Errno::EACCES | Errno::EPERM => error.help("run as root, or look for an immutable attribute (lsattr)"),
        Errno::EISDIR | Errno::EEXIST | Errno::ENOTDIR => {
            error.help("something of another type stands there; move it away")
        }
        Errno::ELOOP | Errno::EXDEV => error.help("a link on the way leads in a circle or out of the root"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Access = Access { mode: 0o640, uid: None, gid: None };

    fn tree() -> (tempfile::TempDir, Root) {
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
    fn a_nameless_file_is_nowhere_until_it_gets_its_place() {
        let (dir, root) = tree();
        let path = Path::new("/opt/bin/tool");
        let mut file = root.nameless(path).unwrap().unwrap();
        file.write_all(b"x").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        root.place(path, file, PLAIN, |_| Ok(())).unwrap();
        let (meta, content) = root.read(path).unwrap().unwrap();
        assert_eq!((meta.mode, content.as_slice()), (0o640, b"x".as_slice()));
        assert_eq!(std::fs::read_dir(dir.path().join("opt/bin")).unwrap().count(), 1);
    }

    #[test]
    fn what_is_gathered_has_its_place_when_all_is_on_the_disk() {
        let (dir, root) = tree();
        let at = |name: &str| std::fs::read_to_string(dir.path().join(name)).ok();
        root.write(Path::new("/old"), b"old", PLAIN).unwrap();
        std::os::unix::fs::symlink("old", dir.path().join("link")).unwrap();
        root.gather();
        for path in ["/old", "/link", "/a/b/new"] {
            root.write(Path::new(path), path.as_bytes(), PLAIN).unwrap();
        }
        assert_eq!((at("old").unwrap(), at("link").unwrap(), at("a/b/new")), ("old".into(), "old".into(), None));
        assert_eq!(root.names(Path::new("/")).unwrap(), ["a", "link", "old"], "nothing beside them");
        root.settle().unwrap();
        for path in ["old", "link", "a/b/new"] {
            assert_eq!(at(path).unwrap(), format!("/{path}"));
        }
        assert_eq!(root.names(Path::new("/")).unwrap(), ["a", "link", "old"]);
        root.write(Path::new("/old"), b"at once", PLAIN).unwrap();
        assert_eq!(at("old").unwrap(), "at once");
    }

    #[test]
    fn a_gathered_file_that_can_t_have_its_place_is_told_and_the_others_have_theirs() {
        let (dir, root) = tree();
        root.gather();
        for path in ["/a", "/b", "/c"] {
            root.write(Path::new(path), b"new", PLAIN).unwrap();
        }
        std::fs::create_dir(dir.path().join("b")).unwrap();
        let (path, error) = root.settle().unwrap_err();
        assert_eq!((path.as_path(), error.to_string().as_str()), (Path::new("/b"), "can't replace /b: Is a directory"));
        assert!(dir.path().join("a").is_file() && dir.path().join("c").is_file());
        assert_eq!(root.names(Path::new("/")).unwrap(), ["a", "b", "c"]);
    }

    #[test]
    fn a_nameless_file_that_can_t_have_a_name_there_is_copied() {
        let (dir, root) = tree();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"copied").unwrap();
        root.write(Path::new("/f"), b"old", PLAIN).unwrap();
        root.place(Path::new("/f"), file, PLAIN, |_| Ok(())).unwrap();
        assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"copied");
    }

    #[test]
    fn a_nameless_file_that_fails_its_check_leaves_the_old_one() {
        let (dir, root) = tree();
        root.write(Path::new("/f"), b"old", PLAIN).unwrap();
        let file = root.nameless(Path::new("/f")).unwrap().unwrap();
        root.place(Path::new("/f"), file, PLAIN, |_| Err(Error::new(code::FILE, "no"))).unwrap_err();
        assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
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
        let told = |root: Root| root.write(Path::new("/f"), b"x", PLAIN).unwrap_err().to_string();
        let inside = told(Root::open(dir.path()).unwrap());
        assert!(inside.starts_with("can't replace /f: "), "{inside}");
        let whole = told(Root::open(dir.path()).unwrap().shown_whole());
        assert_eq!(whole, inside.replace("/f", dir.path().join("f").to_str().unwrap()));
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let (dir, root) = tree();
        root.write(Path::new("/f"), b"old", PLAIN).unwrap();
        let failed = root.write_with(Path::new("/f"), PLAIN, |_| Err(Error::new(code::FILE, "no")));
        assert_eq!(failed.unwrap_err().to_string(), "no");
        assert_eq!(std::fs::read_to_string(dir.path().join("f")).unwrap(), "old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// An access list: a user of its own, within a mask.
    fn list(mode: [u8; 3], mask: u8) -> Vec<u8> {
        let mut list = vec![2, 0, 0, 0];
        for (tag, rights, id) in [
            (ACL_OWNER, mode[0], u32::MAX),
            (0x02, 6, 1234),
            (ACL_GROUP, mode[1], u32::MAX),
            (ACL_MASK, mask, u32::MAX),
            (ACL_OTHER, mode[2], u32::MAX),
        ] {
            list.extend(tag.to_le_bytes());
            list.extend([rights, 0]);
            list.extend(id.to_le_bytes());
        }
        list
    }

    fn set(path: &Path, name: &str, value: &[u8]) {
        rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).expect("a file system with extended attributes");
    }

    fn get(path: &Path, name: &str) -> Option<Vec<u8>> {
        let mut value = Vec::with_capacity(ATTRIBUTE_MAX);
        rustix::fs::lgetxattr(path, name, spare_capacity(&mut value)).ok()?;
        Some(value)
    }

    #[test]
    fn a_file_that_is_replaced_keeps_its_attributes_and_its_access_list_within_the_mode() {
        let (dir, root) = tree();
        let file = dir.path().join("f");
        std::fs::write(&file, "old").unwrap();
        set(&file, "user.note", b"kept");
        set(&file, ACL, &list([6, 4, 4], 6));
        root.write(Path::new("/f"), b"new", PLAIN).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(get(&file, "user.note").unwrap(), b"kept");
        assert_eq!(get(&file, ACL).unwrap(), list([6, 4, 0], 4));
        assert_eq!(root.meta(Path::new("/f")).unwrap().unwrap().mode, 0o640);
    }

    #[test]
    fn an_access_list_never_allows_more_than_the_mode_of_its_file() {
        let mut wide = list([6, 4, 4], 6);
        limit(&mut wide, 0o600);
        assert_eq!(wide, list([6, 4, 0], 0));
        let mut short = vec![2, 0, 0, 0, 1, 0, 6];
        limit(&mut short, 0);
        assert_eq!(short, [2, 0, 0, 0, 1, 0, 6]);
    }

    #[test]
    fn whom_a_strange_owner_let_in_stays_out_when_the_file_becomes_ours() {
        let (dir, root) = tree();
        let (written, given) = (dir.path().join("written"), dir.path().join("given"));
        for file in [&written, &given] {
            std::fs::write(file, "old").unwrap();
            set(file, "user.note", b"x");
            set(file, ACL, &list([6, 4, 4], 6));
        }
        // only root can give a file to somebody else
        if std::os::unix::fs::chown(&written, Some(12345), None).is_ok() {
            std::os::unix::fs::chown(&given, Some(12345), None).unwrap();
            root.write(Path::new("/written"), b"new", PLAIN).unwrap();
            root.set_access(Path::new("/given"), Access { uid: Some(0), ..PLAIN }).unwrap();
            assert_eq!((get(&written, ACL), get(&given, ACL)), (None, None));
            assert_eq!(get(&written, "user.note"), None);
        }
    }

    #[test]
    fn what_a_killed_run_left_is_in_nobodys_way() {
        let (dir, root) = tree();
        std::fs::create_dir(dir.path().join(".f.kpull-new")).unwrap();
        std::fs::write(dir.path().join(".d.kpull-new"), "x").unwrap();
        std::fs::create_dir(dir.path().join(".l.kpull-new")).unwrap();
        root.write(Path::new("/f"), b"x", PLAIN).unwrap();
        root.make_directory(Path::new("/d"), PLAIN).unwrap();
        root.make_link(Path::new("/l"), Path::new("f")).unwrap();
        assert_eq!(root.names(Path::new("/")).unwrap(), ["d", "f", "l"]);
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
    fn a_directory_is_removed_with_everything_in_it_and_no_link_is_followed() {
        let (dir, root) = tree();
        root.write(Path::new("/keep/f"), b"x", PLAIN).unwrap();
        root.write(Path::new("/gone/a/b/f"), b"x", PLAIN).unwrap();
        std::os::unix::fs::symlink("/keep", dir.path().join("gone/a/link")).unwrap();
        std::os::unix::fs::symlink("../keep", dir.path().join("gone/link")).unwrap();
        root.remove_all(Path::new("/gone")).unwrap();
        assert!(!dir.path().join("gone").exists());
        assert!(dir.path().join("keep/f").exists());
    }

    #[test]
    fn a_directory_of_3000_levels_is_removed_with_few_open_files() {
        let (_dir, root) = tree();
        root.write(Path::new("/gone/f"), b"x", PLAIN).unwrap();
        let mut at = root.directory(Path::new("/gone")).unwrap().unwrap();
        for _ in 0..3000 {
            nix::sys::stat::mkdirat(&at, "d", Mode::S_IRWXU).unwrap();
            nix::sys::stat::mkdirat(&at, "e", Mode::S_IRWXU).unwrap();
            at = nix::fcntl::openat(&at, "d", PLACE, Mode::empty()).unwrap().into();
        }
        root.remove_all(Path::new("/gone")).unwrap();
        assert!(root.meta(Path::new("/gone")).unwrap().is_none());
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
    fn a_link_to_a_directory_is_removed_alone() {
        let (dir, root) = tree();
        root.write(Path::new("/keep/f"), b"x", PLAIN).unwrap();
        std::os::unix::fs::symlink("keep", dir.path().join("link")).unwrap();
        root.remove_all(Path::new("/link")).unwrap();
        assert!(root.meta(Path::new("/link")).unwrap().is_none());
        assert!(dir.path().join("keep/f").exists());
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
        assert_eq!(error.advice(), Some("a link on the way leads in a circle or out of the root"), "{error}");
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

    #[test]
    fn a_file_is_written_into_whole_with_its_access_and_is_the_same_file_then() {
        let (dir, root) = tree();
        let (file, second) = (dir.path().join("f"), dir.path().join("second"));
        std::fs::write(&file, "long old text").unwrap();
        std::fs::hard_link(&file, &second).unwrap();
        assert!(root.write_into(Path::new("/f"), b"new", PLAIN).unwrap());
        assert_eq!(std::fs::read_to_string(&second).unwrap(), "new");
        assert_eq!(root.meta(Path::new("/f")).unwrap().unwrap().mode, 0o640);
        // neither what is no file nor what may be somebody's
        std::os::unix::fs::symlink("f", dir.path().join("link")).unwrap();
        for path in ["/link", "/none", "/none/f", "/"] {
            assert!(!root.write_into(Path::new(path), b"x", PLAIN).unwrap_or(false), "{path}");
        }
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let error = root.write_into(Path::new("/f"), b"x", PLAIN).unwrap_err();
        assert!(error.to_string().starts_with("/f is the same file as another path"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
    }

    #[test]
    fn overwriting_keeps_the_file_and_makes_none() {
        let (dir, root) = tree();
        root.write(Path::new("/f"), b"long old text", PLAIN).unwrap();
        let hard_link = dir.path().join("same");
        std::fs::hard_link(dir.path().join("f"), &hard_link).unwrap();
        assert!(root.overwrite(Path::new("/f"), b"new").unwrap());
        assert_eq!(std::fs::read_to_string(hard_link).unwrap(), "new");
        assert!(!root.overwrite(Path::new("/g"), b"new").unwrap());
        assert!(!dir.path().join("g").exists());
    }
}
