//! Resolves paths of a root, name by name or by the kernel, and never out of the root.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use super::{Access, At, FileType, Meta, PLACE, Root, split};
use crate::error::{Error, Result, error};

/// Links that are followed for one path at most, as by the kernel.
const LINKS_MAX: usize = 40;

/// Directories that are kept open: well below the 1024 files that a process may have open.
const PARENTS_MAX: usize = 256;

/// Why a directory is not opened.
enum Unopened {
    /// What the system answers.
    System(Errno),
    /// The path is refused, or a part of it can't be read.
    Refused(Error),
}

impl From<Errno> for Unopened {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

impl From<Error> for Unopened {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl Root {
    /// Closes the directories that are kept open, so that their paths are resolved anew. Call this after anything else than this root may
    /// have moved them, or mounted something on them.
    pub fn forget_directories(&self) {
        self.parents.borrow_mut().clear();
    }

    /// The directory at `path`, following links inside the root; `None` if there is none.
    pub(super) fn directory(&self, path: &Path) -> Result<Option<Rc<OwnedFd>>> {
        if let Some(fd) = self.parents.borrow().get(path) {
            return Ok(Some(fd.clone()));
        }
        let inner = path.strip_prefix("/").unwrap_or(path);
        let inner = if inner.as_os_str().is_empty() { Path::new(".") } else { inner };
        let plain = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let opened = match open_within((&self.top, inner), PLACE, plain) {
            // there are links, or the kernel has no such call
            None | Some(Err(Errno::ELOOP)) => self.follow(path),
            Some(opened) => opened.map_err(Unopened::System),
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
            Err(Unopened::System(Errno::ENOENT | Errno::ENOTDIR)) => Ok(None),
            Err(Unopened::System(errno)) => Err(self.failed("open", path, errno)),
            Err(Unopened::Refused(error)) => Err(error),
        }
    }

    /// Whether a user is trusted in the tree: root, kpull's own user, and the owner of the tree.
    pub(super) fn trusts(&self, uid: u32) -> bool {
        uid == 0
            || uid == nix::unistd::geteuid().as_raw()
            || nix::sys::stat::fstat(&self.top).is_ok_and(|top| top.st_uid == uid)
    }

    /// Opens the directory at `path` name by name. Links are followed inside the root, but only those of trusted users: other links
    /// could redirect writes to any place.
    fn follow(&self, path: &Path) -> Result<OwnedFd, Unopened> {
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
                        // a link, or something that is not a directory
                        Err(Errno::ENOTDIR) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                    let fd = open(at, &name, OFlag::empty())?;
                    let meta = Meta::from(self.stat_of(&fd, path)?);
                    if meta.what != FileType::Link {
                        return Err(Errno::ENOTDIR.into());
                    }
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::ELOOP.into());
                    }
                    if !self.trusts(meta.uid) {
                        let error = error!(FILE, "{} goes through a link that belongs to user {}", path.display(), meta.uid)
                            .help("its owner could redirect writes to any place: make root the owner of the link, or use the path that it leads to");
                        return Err(error.into());
                    }
                    let target = nix::fcntl::readlinkat(&fd, "")
                        .map_err(|errno| self.failed("read the link in", path, errno))?;
                    left.extend(names(Path::new(&target)));
                }
            }
        }
        match way.pop() {
            Some(fd) => Ok(fd),
            None => Ok(nix::fcntl::openat(&self.top, ".", PLACE, Mode::empty())?),
        }
    }

    /// The directory of `path`, and the last name; `None` if there is no such directory.
    pub(super) fn parent(&self, path: &Path) -> Result<Option<(Rc<OwnedFd>, PathBuf)>> {
        let (parent, name) = split(path)?;
        Ok(self.directory(parent)?.map(|fd| (fd, name)))
    }

    /// [`Root::parent`], created if it is missing.
    pub(super) fn writable_parent(&self, path: &Path) -> Result<(Rc<OwnedFd>, PathBuf)> {
        let (parent, name) = split(path)?;
        if let Some(fd) = self.directory(parent)? {
            return Ok((fd, name));
        }
        self.make_directory(parent, Access::of_mode(0o755))?;
        match self.directory(parent)? {
            Some(fd) => Ok((fd, name)),
            None => Err(self.failed("open", parent, Errno::ENOTDIR)),
        }
    }
}

/// Opens `path` from `at` with `openat2`; `None` if the kernel has no such call (Linux before 5.6), or a filter forbids it.
pub(super) fn open_within((at, path): At<'_>, flags: OFlag, resolve: ResolveFlag) -> Option<nix::Result<OwnedFd>> {
    static IS_ABSENT: AtomicBool = AtomicBool::new(false);
    if IS_ABSENT.load(Ordering::Relaxed) {
        return None;
    }
    match openat2(at, path, OpenHow::new().flags(flags).resolve(resolve)) {
        // old system call filters return EPERM for new calls; no directory does
        Err(Errno::ENOSYS | Errno::EPERM) => {
            IS_ABSENT.store(true, Ordering::Relaxed);
            None
        }
        opened => Some(opened),
    }
}
