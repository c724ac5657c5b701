//! Removes paths without following a link or leaving a file system.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, ResolveFlag};
use nix::sys::stat::Mode;
use nix::unistd::UnlinkatFlags;

use super::follow::open_within;
use super::{DIRECTORY, FileType, Meta, Root, entries, failed, identity, through};
use crate::error::{Error, Result, error};
use crate::read;

impl Root {
    /// Removes the file, link or empty directory at `path`; it is no error if nothing is there.
    pub fn remove(&self, path: &Path) -> Result<()> {
        let Some(meta) = self.meta(path)? else { return Ok(()) };
        let Some((parent, name)) = self.parent(path)? else { return Ok(()) };
        let flag = match meta.what {
            FileType::Directory => UnlinkatFlags::RemoveDir,
            _ => UnlinkatFlags::NoRemoveDir,
        };
        nix::unistd::unlinkat(&parent, &*name, flag).map_err(|errno| self.failed("remove", path, errno))?;
        self.forget_directories();
        self.sync(&parent, path)
    }

    /// Removes whatever is at `path`; a directory with its content. No link is followed, and a directory with a mount point in it is
    /// refused before anything is removed.
    pub fn remove_all(&self, path: &Path) -> Result<()> {
        if self.meta(path)?.is_none_or(|meta| meta.what != FileType::Directory) {
            return self.remove(path);
        }
        let Some((parent, name)) = self.parent(path)? else { return Ok(()) };
        let shown = self.shown(path);
        if let Some(below) = mount_in(&parent, &name) {
            let place: PathBuf = shown.components().chain(below.components()).collect();
            return Err(mounted(&place).help("unmount it first (findmnt shows it); nothing was removed"));
        }
        empty(&parent, &name, &shown)?;
        self.remove(path)
    }
}

/// The first mount point at or in the directory `name` of an open one, by its path from there.
fn mount_in(parent: &OwnedFd, name: &Path) -> Option<PathBuf> {
    let place = PathBuf::from(nix::fcntl::readlink(&through(parent)).ok()?).join(name);
    let table = read::up_to(Path::new("/proc/self/mountinfo"), read::MOST).unwrap_or_default();
    let mounts = table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    let mut mounts = mounts.map(|mount| PathBuf::from(read::unescaped(&String::from_utf8_lossy(mount))));
    mounts.find_map(|mount| mount.strip_prefix(&place).map(Path::to_owned).ok())
}

fn mounted(path: &Path) -> Error {
    error!(FILE, "can't remove {}: a file system is mounted there", path.display())
}

/// A directory on the path of [`empty`].
struct Level {
    /// Its name in the one above.
    name: OsString,
    /// Device and inode.
    id: (u64, u64),
    /// Directories in it that are not visited yet.
    left: Vec<OsString>,
}

/// Removes everything in the directory `name` of `parent`. `path` is its name in messages. Only one level is open at a time, however
/// deep it is.
fn empty(parent: &OwnedFd, name: &Path, path: &Path) -> Result<()> {
    let mut path = path.to_owned();
    let enter = |above: &OwnedFd, name: &Path, path: &Path| -> Result<(OwnedFd, Level)> {
        let dir = open_within((above, name), DIRECTORY, ResolveFlag::RESOLVE_NO_XDEV)
            .unwrap_or_else(|| nix::fcntl::openat(above, name, DIRECTORY, Mode::empty()));
        let dir = dir.map_err(|errno| match errno {
            // since a moment ago
            Errno::EXDEV => mounted(path),
            _ => failed("open", path, errno),
        })?;
        let id = identity(&dir).map_err(|errno| failed("look at", path, errno))?;
        let mut left = Vec::new();
        for inner in entries(&dir).map_err(|errno| failed("list", path, errno))? {
            let stat = nix::sys::stat::fstatat(&dir, &*inner, AtFlags::AT_SYMLINK_NOFOLLOW)
                .map_err(|errno| failed("look at", &path.join(&inner), errno))?;
            if Meta::from(stat).what == FileType::Directory {
                left.push(inner);
            } else {
                nix::unistd::unlinkat(&dir, &*inner, UnlinkatFlags::NoRemoveDir)
                    .map_err(|errno| failed("remove", &path.join(&inner), errno))?;
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
            return Err(error!(FILE, "{} was moved while it was being removed", path.display())
                .help("run again when no other program changes it")
                .of_path());
        }
        nix::unistd::unlinkat(&dir, &*done.name, UnlinkatFlags::RemoveDir)
            .map_err(|errno| failed("remove", &path, errno))?;
        path.pop();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::PLACE;
    use super::super::tests::{PLAIN, tree};
    use super::*;

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
    fn a_link_to_a_directory_is_removed_alone() {
        let (dir, root) = tree();
        root.write(Path::new("/keep/f"), b"x", PLAIN).unwrap();
        std::os::unix::fs::symlink("keep", dir.path().join("link")).unwrap();
        root.remove_all(Path::new("/link")).unwrap();
        assert!(root.meta(Path::new("/link")).unwrap().is_none());
        assert!(dir.path().join("keep/f").exists());
    }
}
