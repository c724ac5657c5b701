//! A directory that stands for a machine's `/`: the live one, or a tree that is being made.
//!
//! Every path is resolved inside it (`openat2` with `RESOLVE_IN_ROOT`), so that no link in a tree leads out of it, and
//! the last name is never followed when it is a link.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag};
use nix::unistd::{Gid, Uid};

use crate::error::{Context, Error, Result};

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// A directory that stands for `/`.
#[derive(Debug)]
pub struct Root {
    dir: PathBuf,
    top: Rc<OwnedFd>,
    parents: RefCell<HashMap<PathBuf, Rc<OwnedFd>>>,
}

/// How many links are followed on the way to one path, as by the kernel.
const LINKS_MAX: usize = 40;

/// Opened for path look-ups only.
const PLACE: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

impl Root {
    /// Opens `dir`, which must exist, as the root.
    pub fn open(dir: &Path) -> Result<Self> {
        let top = nix::fcntl::openat(AT_FDCWD, dir, PLACE, Mode::empty())
            .context(|| format!("can't open {} as the root", dir.display()))?;
        Ok(Self { dir: dir.to_owned(), top: Rc::new(top), parents: RefCell::default() })
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
        let Some((parent, name)) = self.parent(path)? else { return Ok(None) };
        match nix::sys::stat::fstatat(&parent, &name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat.into())),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(failed("look at", path, errno)),
        }
    }

    /// Opens the regular file at `path` for reading, with what `fstat` tells of it; `None` when nothing, or something
    /// else than a file, stands there.
    pub fn file(&self, path: &Path) -> Result<Option<(Meta, File)>> {
        let Some((parent, name)) = self.parent(path)? else { return Ok(None) };
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match nix::fcntl::openat(&parent, &*name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENXIO) => return Ok(None),
            Err(errno) => return Err(failed("read", path, errno)),
        };
        let meta: Meta = nix::sys::stat::fstat(&file).map_err(|errno| failed("look at", path, errno))?.into();
        Ok((meta.what == What::File).then_some((meta, file)))
    }

    /// The content of the regular file at `path`, with what `fstat` tells of it; `None` as for [`Root::file`].
    pub fn read(&self, path: &Path) -> Result<Option<(Meta, Vec<u8>)>> {
        let Some((meta, mut file)) = self.file(path)? else { return Ok(None) };
        let mut content = Vec::with_capacity(usize::try_from(meta.size).unwrap_or(0) + 1);
        file.read_to_end(&mut content).context(|| format!("can't read {}", path.display()))?;
        Ok(Some((meta, content)))
    }

    /// [`Root::read`] as text; empty when there is no such file. For the files that the system keeps (`/etc/fstab`).
    pub fn text(&self, path: &Path) -> Result<String> {
        match self.read(path)? {
            Some((_, content)) => {
                String::from_utf8(content).map_err(|_| Error::new(format!("{} is not UTF-8 text", path.display())))
            }
            None => Ok(String::new()),
        }
    }

    /// Where the link at `path` leads; `None` when no link stands there.
    pub fn link(&self, path: &Path) -> Result<Option<PathBuf>> {
        let Some((parent, name)) = self.parent(path)? else { return Ok(None) };
        match nix::fcntl::readlinkat(&parent, &*name) {
            Ok(target) => Ok(Some(target.into())),
            Err(Errno::ENOENT | Errno::EINVAL | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(failed("read the link", path, errno)),
        }
    }

    /// The names in the directory at `path`, sorted; none when there is no such directory.
    pub fn names(&self, path: &Path) -> Result<Vec<String>> {
        let Some(dir) = self.directory(path)? else { return Ok(Vec::new()) };
        let open = nix::dir::Dir::openat(&dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty());
        let mut dir = match open {
            Ok(dir) => dir,
            Err(errno) => return Err(failed("list", path, errno)),
        };
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(|errno| failed("list", path, errno))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Writes a file whole or not at all: a temporary file beside it, its access, fsync, rename, fsync of the directory.
    pub fn write(&self, path: &Path, content: &[u8], access: Access) -> Result<()> {
        self.write_with(path, access, |file| file.write_all(content).map_err(|error| failed_io("write", path, error)))
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
        let temporary = temporary_name(path);
        let (parent, name) = self.writable_parent(path)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        // whatever a killed run left behind under this name is ours to take away
        let _ = nix::unistd::unlinkat(&parent, &*temporary, nix::unistd::UnlinkatFlags::NoRemoveDir);
        let fd = nix::fcntl::openat(&parent, &*temporary, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|errno| failed("write", path, errno))?;
        let written = (|| {
            let mut file = File::from(fd);
            fill(&mut file)?;
            if access.uid.is_some() || access.gid.is_some() {
                nix::unistd::fchown(&file, access.uid.map(Uid::from_raw), access.gid.map(Gid::from_raw))
                    .map_err(|errno| failed("set the owner of", path, errno))?;
            }
            nix::sys::stat::fchmod(&file, Mode::from_bits_truncate(access.mode))
                .map_err(|errno| failed("set the mode of", path, errno))?;
            file.sync_all().map_err(|error| failed_io("write", path, error))?;
            // a program that somebody has open for writing can't be run
            drop(file);
            // through our descriptor, so that no link in a tree leads elsewhere
            let dir = format!("/proc/self/fd/{}", parent.as_raw_fd());
            check(&Path::new(&dir).join(&temporary))?;
            nix::fcntl::renameat(&parent, &*temporary, &parent, &*name).map_err(|errno| failed("replace", path, errno))
        })();
        if written.is_err() {
            let _ = nix::unistd::unlinkat(&parent, &*temporary, nix::unistd::UnlinkatFlags::NoRemoveDir);
            return written;
        }
        sync(&parent, path)
    }

    /// Sets mode and owners of the file or directory at `path`.
    pub fn set_access(&self, path: &Path, access: Access) -> Result<()> {
        let (parent, name) = self.writable_parent(path)?;
        // through one descriptor, so that no link is followed and nothing else can take its place meanwhile
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let fd =
            nix::fcntl::openat(&parent, &*name, flags, Mode::empty()).map_err(|errno| failed("open", path, errno))?;
        let look = |fd: &OwnedFd| nix::sys::stat::fstat(fd).map_err(|errno| failed("look at", path, errno));
        let (own, above) = (look(&fd)?, Meta::from(look(&parent)?));
        let others_write = !self.trusts(above.uid) || above.mode & 0o022 != 0;
        if others_write && own.st_nlink > 1 && Meta::from(own).what == What::File {
            return Err(Error::new(format!("{} is the same file as another path", path.display()))
                .because("others can write in its directory, and may have put a second name of somebody's file there")
                .help("remove it: the next run makes it anew"));
        }
        if access.uid.is_some() || access.gid.is_some() {
            nix::unistd::fchown(&fd, access.uid.map(Uid::from_raw), access.gid.map(Gid::from_raw))
                .map_err(|errno| failed("set the owner of", path, errno))?;
        }
        // after the owner: chown takes setuid and setgid away
        nix::sys::stat::fchmod(&fd, Mode::from_bits_truncate(access.mode))
            .map_err(|errno| failed("set the mode of", path, errno))
    }

    /// Makes the directory at `path`, and those above it (0755, ours) that are missing.
    pub fn make_directory(&self, path: &Path, access: Access) -> Result<()> {
        let (parent, name) = self.writable_parent(path)?;
        match nix::sys::stat::mkdirat(&parent, &*name, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(failed("make the directory", path, errno)),
        }
        self.set_access(path, access)?;
        sync(&parent, path)
    }

    /// Makes the link at `path`, in place of whatever file or link stands there.
    pub fn make_link(&self, path: &Path, target: &Path) -> Result<()> {
        let temporary = temporary_name(path);
        let (parent, name) = self.writable_parent(path)?;
        let _ = nix::unistd::unlinkat(&parent, &*temporary, nix::unistd::UnlinkatFlags::NoRemoveDir);
        nix::unistd::symlinkat(target, &parent, &*temporary).map_err(|errno| failed("make the link", path, errno))?;
        nix::fcntl::renameat(&parent, &*temporary, &parent, &*name).map_err(|errno| {
            let _ = nix::unistd::unlinkat(&parent, &*temporary, nix::unistd::UnlinkatFlags::NoRemoveDir);
            failed("replace", path, errno)
        })?;
        sync(&parent, path)
    }

    /// Takes away the file, link or empty directory at `path`; fine when nothing stands there.
    pub fn remove(&self, path: &Path) -> Result<()> {
        let Some(meta) = self.meta(path)? else { return Ok(()) };
        let Some((parent, name)) = self.parent(path)? else { return Ok(()) };
        let flag = match meta.what {
            What::Directory => nix::unistd::UnlinkatFlags::RemoveDir,
            _ => nix::unistd::UnlinkatFlags::NoRemoveDir,
        };
        nix::unistd::unlinkat(&parent, &*name, flag).map_err(|errno| failed("remove", path, errno))?;
        self.parents.borrow_mut().clear();
        sync(&parent, path)
    }

    /// Takes away whatever stands at `path`; a directory with everything in it. No link is followed, and a directory
    /// that something is mounted in is refused before anything is removed.
    pub fn remove_all(&self, path: &Path) -> Result<()> {
        if self.meta(path)?.is_none_or(|meta| meta.what != What::Directory) {
            return self.remove(path);
        }
        let Some((parent, name)) = self.parent(path)? else { return Ok(()) };
        walk(&parent, &name, path, false)?;
        walk(&parent, &name, path, true)?;
        self.remove(path)
    }

    /// Writes into the file at `path` as it stands, without a temporary one beside it: for the files of the kernel.
    /// `false` when there is no such file.
    pub fn overwrite(&self, path: &Path, content: &[u8]) -> Result<bool> {
        let Some((parent, name)) = self.parent(path)? else { return Ok(false) };
        let flags = OFlag::O_WRONLY | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        match nix::fcntl::openat(&parent, &*name, flags, Mode::empty()) {
            Ok(fd) => {
                // the kernel takes a setting from one write, so a short one is not continued
                nix::unistd::write(&fd, content).map_err(|errno| failed("write", path, errno))?;
                Ok(true)
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
            Err(errno) => Err(failed("write", path, errno)),
        }
    }

    /// Opens the file at `path` for a lock, and makes it (0600, ours) when it is missing.
    pub fn lock_file(&self, path: &Path) -> Result<File> {
        let (parent, name) = self.writable_parent(path)?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        nix::fcntl::openat(&parent, &*name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map(File::from)
            .map_err(|errno| failed("open", path, errno))
    }

    /// The directory at `path`, links inside the root followed; `None` when there is none.
    fn directory(&self, path: &Path) -> Result<Option<Rc<OwnedFd>>> {
        if let Some(fd) = self.parents.borrow().get(path) {
            return Ok(Some(fd.clone()));
        }
        let inner = path.strip_prefix("/").unwrap_or(path);
        let inner = if inner.as_os_str().is_empty() { Path::new(".") } else { inner };
        let plain =
            OpenHow::new().flags(PLACE).resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let opened = match openat2(self.top.as_fd(), inner, plain) {
            // there are links; or Linux before 5.6
            Err(Errno::ELOOP) => self.follow(path)?,
            Err(Errno::ENOSYS) if self.is_live() => self.follow(path)?,
            opened => opened,
        };
        match opened {
            Ok(fd) => {
                let fd = Rc::new(fd);
                self.parents.borrow_mut().insert(path.to_owned(), fd.clone());
                Ok(Some(fd))
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(failed("open", path, errno)),
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
                    let fd = match open(at, &name, OFlag::empty()) {
                        Ok(fd) => fd,
                        Err(errno) => return Ok(Err(errno)),
                    };
                    let meta = Meta::from(nix::sys::stat::fstat(&fd).map_err(|errno| failed("look at", path, errno))?);
                    if meta.what != What::Link {
                        way.push(fd);
                        continue;
                    }
                    links += 1;
                    if links > LINKS_MAX {
                        return Ok(Err(Errno::ELOOP));
                    }
                    if !self.trusts(meta.uid) {
                        return Err(Error::new(format!("{} goes through a link that belongs to user {}", path.display(), meta.uid))
                            .help("its owner could send what is written to any place: let root own the link, or name the path that it leads to"));
                    }
                    let target =
                        nix::fcntl::readlinkat(&fd, "").map_err(|errno| failed("read the link in", path, errno))?;
                    left.extend(names(Path::new(&target)));
                }
            }
        }
        let last = way.last().unwrap_or(&self.top);
        Ok(nix::fcntl::openat(last, ".", PLACE, Mode::empty()))
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
            None => Err(failed("open", parent, Errno::ENOTDIR)),
        }
    }
}

/// Goes through everything in the directory `name` of `parent`, and takes it away when `remove` is set; without, only
/// looks whether it could. `path` is what the directory is called in messages.
fn walk(parent: &OwnedFd, name: &Path, path: &Path, remove: bool) -> Result<()> {
    use nix::unistd::UnlinkatFlags;

    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_BENEATH);
    let dir = openat2(parent, name, how).map_err(|errno| match errno {
        Errno::EXDEV => Error::new(format!("can't remove {}: something is mounted there", path.display()))
            .help("unmount it first (findmnt shows it); nothing of it was removed"),
        _ => failed("open", path, errno),
    })?;
    let again = nix::fcntl::openat(&dir, ".", flags, Mode::empty()).map_err(|errno| failed("open", path, errno))?;
    let mut list = nix::dir::Dir::from_fd(again).map_err(|errno| failed("list", path, errno))?;
    let entries: Vec<_> = list.iter().collect::<Result<_, _>>().map_err(|errno| failed("list", path, errno))?;
    for entry in entries {
        let inner = Path::new(std::ffi::OsStr::from_bytes(entry.file_name().to_bytes()));
        if inner == Path::new(".") || inner == Path::new("..") {
            continue;
        }
        let whole = path.join(inner);
        let stat = nix::sys::stat::fstatat(&dir, inner, AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|errno| failed("look at", &whole, errno))?;
        let is_directory = Meta::from(stat).what == What::Directory;
        if is_directory {
            walk(&dir, inner, &whole, remove)?;
        }
        if remove {
            let flag = if is_directory { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
            nix::unistd::unlinkat(&dir, inner, flag).map_err(|errno| failed("remove", &whole, errno))?;
        }
    }
    Ok(())
}

fn split(path: &Path) -> Result<(&Path, PathBuf)> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((parent, name.into())),
        _ => Err(Error::new(format!("{} can't be managed: it has no name in a directory", path.display()))),
    }
}

fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // a long name has to stay below the 255 bytes that file systems allow
    let short: String = name.chars().take(50).collect();
    format!(".{short}.kpull-new").into()
}

fn sync(parent: &OwnedFd, path: &Path) -> Result<()> {
    let dir = nix::fcntl::openat(parent, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| failed("open the directory of", path, errno))?;
    nix::unistd::fsync(&dir).map_err(|errno| failed("write the directory of", path, errno))
}

/// What to tell of a file of a root that could not be read or written through its handle.
pub fn failed_io(doing: &str, path: &Path, error: std::io::Error) -> Error {
    match error.raw_os_error() {
        Some(number) => failed(doing, path, Errno::from_raw(number)),
        None => Error::new(format!("can't {doing} {}", path.display())).because(error),
    }
}

fn failed(doing: &str, path: &Path, errno: Errno) -> Error {
    let error = Error::new(format!("can't {doing} {}", path.display())).because(errno.desc());
    match errno {
        Errno::ENOSPC | Errno::EDQUOT => {
            error.help("free some space there, then run again; nothing was changed at this path")
        }
        Errno::EROFS => error.help("the file system is mounted read-only"),
        Errno::EACCES | Errno::EPERM => error.help("run as root, or look for an immutable attribute (lsattr)"),
        Errno::EISDIR | Errno::EEXIST | Errno::ENOTDIR => {
            error.help("something of another type stands there; move it away")
        }
        Errno::ENOSYS => error.help("this needs Linux 5.6 or later (openat2), to keep links inside the tree"),
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
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let (dir, root) = tree();
        root.write(Path::new("/f"), b"old", PLAIN).unwrap();
        let failed = root.write_with(Path::new("/f"), PLAIN, |_| Err(Error::new("no")));
        assert!(failed.is_err());
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
        assert!(root.meta(Path::new("/a/x")).is_err());
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
