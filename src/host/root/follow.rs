//! Where a path of a root is: the way there, name by name or by the kernel, and never out of the root.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use super::{Access, FileType, Meta, PLACE, Root, split};
use crate::error::{Error, Result, code};

/// How many links are followed on the way to one path, as by the kernel.
const LINKS_MAX: usize = 40;

/// How many directories are kept open: well below the 1024 files that a process may have open.
const PARENTS_MAX: usize = 256;

impl Root {
    /// The directory at `path`, links inside the root followed; `None` when there is none.
    pub(super) fn directory(&self, path: &Path) -> Result<Option<Rc<OwnedFd>>> {
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
    pub(super) fn trusts(&self, uid: u32) -> bool {
        uid == 0
            || uid == nix::unistd::geteuid().as_raw()
            || nix::sys::stat::fstat(&self.top).is_ok_and(|top| top.st_uid == uid)
    }

    /// Opens the directory at `path` name by name. Links are followed inside the root, but only those of users that are trusted:
    /// somebody else's could send what is written to any place.
    fn follow(&self, path: &Path) -> Result<Result<OwnedFd, Errno>> {
        let open = |at: &OwnedFd, name: &OsStr, flags: OFlag| {
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
                    let meta = Meta::from(self.stat_of(&fd, path)?);
                    if meta.what != FileType::Link {
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
    pub(super) fn parent(&self, path: &Path) -> Result<Option<(Rc<OwnedFd>, PathBuf)>> {
        let (parent, name) = split(path)?;
        Ok(self.directory(parent)?.map(|fd| (fd, name)))
    }

    /// [`Root::parent`], made when it is missing.
    pub(super) fn writable_parent(&self, path: &Path) -> Result<(Rc<OwnedFd>, PathBuf)> {
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
}

/// Opens `path` from `at` with `openat2`; `None` where the kernel has no such call (Linux before 5.6), or may not be asked for it.
pub(super) fn open_within(
    at: &OwnedFd,
    path: &Path,
    flags: OFlag,
    resolve: ResolveFlag,
) -> Option<nix::Result<OwnedFd>> {
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
