//! Mode, owners, access list and capabilities of files and directories that others make.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, ResolveFlag};
use nix::sys::stat::{FileStat, Mode};
use rustix::buffer::spare_capacity;
use rustix::fs::XattrFlags;
use serde::{Deserialize, Serialize};

use super::access::{ACL, ATTRIBUTE_MAX, CAPABILITY, DEFAULT_ACL};
use super::follow::open_within;
use super::{AS_IT_IS, Access, At, FileType, Meta, Root, entries};
use crate::error::{Result, error};

/// How many directories below the first are visited: each of them is an open file meanwhile.
const DEPTH: usize = 128;

/// Who may do what with a file or a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions {
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The access list, as the kernel has it; `None` if the mode says it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl: Option<Vec<u8>>,
    /// The access list of what is made in a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_acl: Option<Vec<u8>>,
    /// Capabilities of a program, as the kernel has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<u8>>,
}

/// Returns the permissions that a file or directory is to have; `None` if they stay. The arguments are its path, whether it is a
/// directory, and its permissions now.
pub type Wanted<'a> = &'a mut dyn FnMut(&Path, bool, &Permissions) -> Result<Option<Permissions>>;

impl Root {
    /// Calls `wanted` for the file or directory at `path`; before that for everything below, if `is_recursive`: a directory that is
    /// given to others comes after what is in it. Links, devices and other file systems below are left out. Returns what is at
    /// `path`; `None` if nothing is.
    pub fn each_permissions(&self, path: &Path, is_recursive: bool, wanted: Wanted<'_>) -> Result<Option<FileType>> {
        let Some((parent, name)) = self.parent(path)? else { return Ok(None) };
        let what = self.meta(path)?.map(|meta| meta.what);
        if let Some(FileType::File | FileType::Directory) = what {
            self.visit((&parent, &name), path, is_recursive.then_some(0), wanted)?;
        }
        Ok(what)
    }

    fn visit(&self, (parent, name): At<'_>, path: &Path, depth: Option<usize>, wanted: Wanted<'_>) -> Result<()> {
        let is_top = depth.is_none_or(|depth| depth == 0);
        let found = match nix::sys::stat::fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Meta::from(stat).what,
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(self.failed("look at", path, errno)),
        };
        // opening a device or a pipe can have an effect
        if !matches!(found, FileType::File | FileType::Directory) {
            return Ok(());
        }
        let flags = OFlag::O_RDONLY | AS_IT_IS;
        let within = if is_top { ResolveFlag::empty() } else { ResolveFlag::RESOLVE_NO_XDEV };
        let opened = open_within((parent, name), flags, within)
            .unwrap_or_else(|| nix::fcntl::openat(parent, name, flags, Mode::empty()));
        let fd = match opened {
            Ok(fd) => fd,
            // a mount, or something that was removed or replaced meanwhile
            Err(Errno::EXDEV | Errno::ENOENT | Errno::ELOOP | Errno::ENXIO) if !is_top => return Ok(()),
            Err(errno) => return Err(self.failed("open", path, errno)),
        };
        let stat = self.stat_of(&fd, path)?;
        let is_directory = match Meta::from(stat).what {
            FileType::Directory => true,
            FileType::File => false,
            FileType::Link | FileType::Special => return Ok(()),
        };
        // before Linux 5.6, only the device shows a mount
        if !is_top && stat.st_dev != self.stat_of(parent, path)?.st_dev {
            return Ok(());
        }
        if let Some(depth) = depth.filter(|_| is_directory) {
            if depth == DEPTH {
                return Err(error!(FILE, "{} is more than {DEPTH} directories deep", self.shown(path).display())
                    .help("define a separate resource for it")
                    .of_path());
            }
            for name in entries(&fd).map_err(|errno| self.failed("list", path, errno))? {
                self.visit((&fd, Path::new(&name)), &path.join(&name), Some(depth + 1), wanted)?;
            }
        }
        let now = self.permissions(&fd, &stat, path)?;
        match wanted(path, is_directory, &now)? {
            Some(new) if new != now => self.give_permissions(&fd, parent, path, &now, &new),
            _ => Ok(()),
        }
    }

    fn permissions(&self, fd: &OwnedFd, stat: &FileStat, path: &Path) -> Result<Permissions> {
        let Meta { mode, uid, gid, what, .. } = Meta::from(*stat);
        let attribute = |name: &str| self.attribute(fd, path, name);
        let (default_acl, capabilities) = match what {
            FileType::Directory => (attribute(DEFAULT_ACL)?, None),
            _ => (None, attribute(CAPABILITY)?),
        };
        Ok(Permissions { mode, uid, gid, acl: attribute(ACL)?, default_acl, capabilities })
    }

    fn attribute(&self, fd: &OwnedFd, path: &Path, name: &str) -> Result<Option<Vec<u8>>> {
        use rustix::io::Errno as Raw;

        // most files have none, and need no large buffer
        match rustix::fs::fgetxattr(fd, name, &mut [0_u8; 1][..]) {
            Err(Raw::NODATA | Raw::OPNOTSUPP) => return Ok(None),
            Ok(_) | Err(Raw::RANGE) => {}
            Err(errno) => return Err(self.failed_io(&format!("read the attribute {name} of"), path, errno.into())),
        }
        let mut value = Vec::with_capacity(ATTRIBUTE_MAX);
        match rustix::fs::fgetxattr(fd, name, spare_capacity(&mut value)) {
            Ok(_) => Ok(Some(value)),
            Err(Raw::NODATA) => Ok(None),
            Err(errno) => Err(self.failed_io(&format!("read the attribute {name} of"), path, errno.into())),
        }
    }

    fn give_permissions(
        &self,
        fd: &OwnedFd,
        parent: &OwnedFd,
        path: &Path,
        old: &Permissions,
        new: &Permissions,
    ) -> Result<()> {
        let own = self.own(fd, parent, path)?;
        let is_given = new.uid != old.uid || new.gid != old.gid;
        let other = |new: u32, old: u32| (new != old).then_some(new);
        let access = Access { mode: new.mode, uid: other(new.uid, old.uid), gid: other(new.gid, old.gid) };
        // an access list can let anyone in
        let widest = Access { mode: if new.acl == old.acl { new.mode } else { new.mode | 0o077 }, ..access };
        if own.st_mode & 0o004 == 0 && self.exposes(fd, &own, parent, path, widest)? {
            return Err(self.not_given(path));
        }
        self.give_owner(fd, path, access)?;
        if new.acl != old.acl {
            self.replace_attribute(fd, path, ACL, new.acl.as_deref())?;
        }
        // after the owner, which clears setuid and setgid, and after the access list, which changes the bits of the group
        self.give_mode(fd, path, new.mode)?;
        if new.default_acl != old.default_acl {
            self.replace_attribute(fd, path, DEFAULT_ACL, new.default_acl.as_deref())?;
        }
        // a new owner clears them
        if is_given && new.capabilities.is_some() || new.capabilities != old.capabilities {
            self.replace_attribute(fd, path, CAPABILITY, new.capabilities.as_deref())?;
        }
        nix::unistd::fsync(fd).map_err(|errno| self.failed("write", path, errno))
    }

    fn replace_attribute(&self, fd: &OwnedFd, path: &Path, name: &str, value: Option<&[u8]>) -> Result<()> {
        use rustix::io::Errno as Raw;

        let set = match value {
            Some(value) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            None => match rustix::fs::fremovexattr(fd, name) {
                Err(Raw::NODATA | Raw::OPNOTSUPP) => Ok(()),
                removed => removed,
            },
        };
        let what = match name {
            CAPABILITY => "capabilities",
            _ => "access list",
        };
        set.map_err(|errno| {
            let error = self.failed_io(&format!("set the {what} of"), path, errno.into());
            match errno {
                Raw::OPNOTSUPP => error.help(format!(
                    "its file system does not support this: `findmnt -T {}` shows the file system; remove this field, or use another file system",
                    path.display()
                )),
                _ => error,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::super::tests::tree;
    use super::*;

    /// Gives everything below a path this mode, and lists what was visited.
    fn visited(root: &Root, path: &str, mode: u32) -> Vec<String> {
        let mut names = Vec::new();
        let mut give = |path: &Path, _: bool, now: &Permissions| {
            names.push(path.display().to_string());
            Ok(Some(Permissions { mode, ..now.clone() }))
        };
        root.each_permissions(path.as_ref(), true, &mut give).unwrap();
        names
    }

    #[test]
    fn a_directory_is_changed_after_what_is_in_it_and_no_link_is_followed() {
        let (dir, root) = tree();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/f"), "x").unwrap();
        std::fs::write(dir.path().join("other"), "x").unwrap();
        symlink("../other", dir.path().join("a/link")).unwrap();
        let before = dir.path().join("other").metadata().unwrap().permissions().mode();
        assert_eq!(visited(&root, "/a", 0o700), ["/a/b/f", "/a/b", "/a"]);
        assert_eq!(dir.path().join("a/b/f").metadata().unwrap().permissions().mode() & 0o7777, 0o700);
        assert_eq!(dir.path().join("other").metadata().unwrap().permissions().mode(), before);
        assert_eq!(
            root.each_permissions("/a/link".as_ref(), true, &mut |_, _, _| panic!()).unwrap(),
            Some(FileType::Link)
        );
        assert_eq!(root.each_permissions("/none".as_ref(), true, &mut |_, _, _| panic!()).unwrap(), None);
    }

    #[test]
    fn a_private_file_in_a_directory_of_others_is_not_given_to_them() {
        let (dir, root) = tree();
        let shared = dir.path().join("shared");
        std::fs::create_dir(&shared).unwrap();
        std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::write(shared.join("private"), "x").unwrap();
        std::fs::set_permissions(shared.join("private"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut open = |_: &Path, _: bool, now: &Permissions| Ok(Some(Permissions { mode: 0o644, ..now.clone() }));
        let error = root.each_permissions("/shared/private".as_ref(), false, &mut open).unwrap_err();
        assert!(error.to_string().contains("and its content can't be given to another user"), "{error}");
        std::fs::set_permissions(shared.join("private"), std::fs::Permissions::from_mode(0o604)).unwrap();
        root.each_permissions("/shared/private".as_ref(), false, &mut open).unwrap();
        std::fs::hard_link(shared.join("private"), dir.path().join("second")).unwrap();
        let mut open = |_: &Path, _: bool, now: &Permissions| Ok(Some(Permissions { mode: 0o666, ..now.clone() }));
        let error = root.each_permissions("/shared/private".as_ref(), false, &mut open).unwrap_err();
        assert!(error.to_string().contains("the same file as another path"), "{error}");
    }

    #[test]
    fn a_tree_that_is_too_deep_is_refused() {
        let (dir, root) = tree();
        let deep: std::path::PathBuf = std::iter::repeat_n("d", DEPTH + 1).collect();
        std::fs::create_dir_all(dir.path().join(deep)).unwrap();
        let error = root.each_permissions("/d".as_ref(), true, &mut |_, _, _| Ok(None)).unwrap_err();
        assert!(error.to_string().contains("more than 128 directories deep"), "{error}");
    }
}
