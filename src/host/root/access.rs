//! Access to what is at a path: owners, modes, access lists and other extended attributes, SELinux contexts.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, FsType, MSDOS_SUPER_MAGIC, SMB_SUPER_MAGIC};
use nix::unistd::{Gid, Uid};
use rustix::buffer::spare_capacity;
use rustix::fs::XattrFlags;

use super::acl::{ACL_GROUP, ACL_MASK, ACL_OTHER, ACL_OWNER};
use super::{Access, FileType, Meta, Root, entries, label, through};
use crate::error::{Error, Result, error};

/// An extended attribute: its name and its value.
type Attribute = (String, Vec<u8>);

/// File systems whose files have the mode and owner of their mount: vfat, exFAT, NTFS, FUSE, SMB.
pub(super) const WITHOUT_MODES: [FsType; 6] = [
    MSDOS_SUPER_MAGIC,
    FsType(0x2011_bab0),
    FsType(0x7366_746e),
    FUSE_SUPER_MAGIC,
    SMB_SUPER_MAGIC,
    FsType(0xfe53_4d42),
];

/// The access list of a file.
pub(super) const ACL: &str = "system.posix_acl_access";

/// The access list of new files in a directory.
pub(super) const DEFAULT_ACL: &str = "system.posix_acl_default";

/// The capabilities of a program.
pub(super) const CAPABILITY: &str = "security.capability";

/// Attributes that a replaced file keeps, besides `user.*`. Others belong to its content (`security.ima`) or to the file system.
const KEPT: [&str; 3] = [label::ATTRIBUTE, CAPABILITY, ACL];

/// The kernel's limit for a value, and for the list of names.
pub(super) const ATTRIBUTE_MAX: usize = 64 * 1024;

impl Root {
    /// [`Root::give_access`]; an error if that is refused.
    pub fn set_access(&self, path: &Path, access: Access) -> Result<()> {
        if self.give_access(path, access)? { Ok(()) } else { Err(self.not_given(path)) }
    }

    /// Sets mode and owners of the file or directory at `path`. Returns `false` without a change if that [gives](Root::exposes) others access.
    pub fn give_access(&self, path: &Path, access: Access) -> Result<bool> {
        let (parent, name) = self.writable_parent(path)?;
        // through one descriptor, so that no link is followed and it can't be replaced meanwhile
        let fd = self.open_at((&parent, &name), OFlag::O_RDONLY, "open", path)?;
        let own = self.own(&fd, &parent, path)?;
        if self.exposes(&fd, &own, &parent, path, access)? {
            return Ok(false);
        }
        self.give(&fd, own, path, access).map(|()| true)
    }

    /// Whether `access` gives others access to something private of root's or kpull's user that others could have moved there. An empty
    /// directory exposes nothing.
    pub(super) fn exposes(
        &self,
        fd: &OwnedFd,
        own: &FileStat,
        parent: &OwnedFd,
        path: &Path,
        access: Access,
    ) -> Result<bool> {
        let is_new = |new: Option<u32>, old: u32| new.filter(|new| *new != old);
        let is_wider = is_new(access.uid, own.st_uid).is_some_and(|uid| !self.trusts(uid))
            || is_new(access.gid, own.st_gid).is_some() && access.mode & 0o070 != 0
            || access.mode & !own.st_mode & 0o077 != 0;
        // with the sticky bit of the directory above, only its owner can move it
        if !is_wider || !self.trusts(own.st_uid) || !self.others_write_in(parent, path, 0o1000)? {
            return Ok(false);
        }
        let is_directory = Meta::from(*own).what == FileType::Directory;
        Ok(!is_directory || !entries(fd).map_err(|errno| self.failed("list", path, errno))?.is_empty())
    }

    /// The error that nothing is [exposed](Root::exposes).
    pub(super) fn not_given(&self, path: &Path) -> Error {
        let shown = self.shown(path);
        let shown = shown.display();
        error!(FILE, "{shown} and its content can't be given to another user")
            .because("it is private to its owner, and other users who can write to the directory above it may have moved it there")
            .help(format!(
                "if other users may access it, set its owner and mode by hand (`ls -ld {shown}`); otherwise move it away, and the next run creates a new one"
            ))
            .of_path()
    }

    /// Whether an untrusted user can change names in a directory, unless it has one of the bits in `kept`.
    fn others_write_in(&self, parent: &OwnedFd, path: &Path, kept: u32) -> Result<bool> {
        let above = Meta::from(self.stat_of(parent, path)?);
        Ok(!self.trusts(above.uid) || above.mode & 0o022 != 0 && above.mode & kept == 0)
    }

    /// `fstat` of what is open at `path`; an error if it may be another user's file by a second name.
    pub(super) fn own(&self, fd: &OwnedFd, parent: &OwnedFd, path: &Path) -> Result<FileStat> {
        let own = self.stat_of(fd, path)?;
        if own.st_nlink > 1 && Meta::from(own).what == FileType::File && self.others_write_in(parent, path, 0)? {
            let why = "other users who can write to its directory may have created a hard link to another user's file";
            return Err(error!(FILE, "{} is the same file as another path", path.display())
                .because(why)
                .help("remove it: the next run creates it again"));
        }
        Ok(own)
    }

    /// Sets mode and owners of what is open.
    pub(super) fn give(&self, fd: &OwnedFd, old: FileStat, path: &Path, access: Access) -> Result<()> {
        self.give_owner(fd, path, access)?;
        if access.uid.is_some_and(|uid| uid != old.st_uid) && !self.trusts(old.st_uid) {
            // the old owner's access list doesn't apply to the new owner
            for name in [ACL, DEFAULT_ACL] {
                match rustix::fs::fremovexattr(fd, name) {
                    Ok(()) | Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => {}
                    Err(errno) => return Err(self.failed_io("remove the access list of", path, errno.into())),
                }
            }
        }
        // after the owner: chown clears setuid and setgid
        self.give_mode(fd, path, access.mode)
    }

    pub(super) fn give_owner(&self, fd: impl AsFd, path: &Path, access: Access) -> Result<()> {
        if access.uid.is_none() && access.gid.is_none() {
            return Ok(());
        }
        nix::unistd::fchown(&fd, access.uid.map(Uid::from_raw), access.gid.map(Gid::from_raw))
            .map_err(|errno| self.refused("owner", path, errno, &fd))
    }

    /// Sets the mode of what is open, which some file systems ignore.
    pub(super) fn change_mode(&self, fd: impl AsFd, path: &Path, mode: u32) -> Result<()> {
        let changed = nix::sys::stat::fchmod(&fd, Mode::from_bits_truncate(mode));
        changed.map_err(|errno| self.refused("mode", path, errno, &fd))
    }

    pub(super) fn give_mode(&self, fd: impl AsFd, path: &Path, mode: u32) -> Result<()> {
        self.change_mode(&fd, path, mode)?;
        // some file systems ignore it without an error
        match nix::sys::stat::fstat(&fd) {
            Ok(now) if now.st_mode & 0o7777 != mode => Err(self.without("mode", path, &now)),
            _ => Ok(()),
        }
    }

    /// The error for a mode or an owner that could not be set.
    fn refused(&self, what: &str, path: &Path, errno: Errno, fd: impl AsFd) -> Error {
        let kind = nix::sys::statfs::fstatfs(&fd).map(|fs| fs.filesystem_type());
        match nix::sys::stat::fstat(&fd) {
            Ok(now) if errno == Errno::EPERM && kind.is_ok_and(|kind| WITHOUT_MODES.contains(&kind)) => {
                self.without(what, path, &now)
            }
            _ => self.failed(&format!("set the {what} of"), path, errno),
        }
    }

    /// The error that a file system has no modes and owners of its own.
    fn without(&self, what: &str, path: &Path, now: &FileStat) -> Error {
        error!(FILE, "can't set the {what} of {}", self.shown(path).display())
            .because("all files of this file system have the mode and owner that the mount sets (vfat, exFAT, NTFS, a network share)")
            .help(format!(
                "write `mode = \"{:04o}\"` in the role, with the owner and group whose numbers are {} and {}, or mount it with another `umask=`, `uid=` and `gid=` (`findmnt -T {}`)",
                now.st_mode & 0o7777,
                now.st_uid,
                now.st_gid,
                path.display()
            ))
            .of_path()
    }

    /// The extended attributes of the file at `path` that a new one in its place keeps: its SELinux context, its capabilities, its
    /// access list within the new mode, and `user.*`. None if its owner is neither trusted nor the owner of the new file: the access
    /// list would let that user read it.
    pub(super) fn kept(&self, path: &Path, access: Access) -> Vec<Attribute> {
        // an unreadable file counts as missing
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
    pub(super) fn label(&self, parent: &OwnedFd, name: &Path, what: FileType) -> Option<Attribute> {
        if !self.is_live() || !self.labels.is_on() {
            return None;
        }
        // a policy has paths without links
        let parent = nix::fcntl::readlink(&through(parent)).ok()?;
        let mut context = self.labels.of(&Path::new(&parent).join(name), what)?.into_bytes();
        context.push(0);
        Some((label::ATTRIBUTE.to_owned(), context))
    }

    pub(super) fn set_attribute(&self, fd: impl AsFd, path: &Path, (name, value): &Attribute) -> Result<()> {
        let set = rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty());
        self.attribute_is_set(set, path, name)
    }

    /// Decides whether an attribute that could not be set is an error. If SELinux is on, daemons may be unable to read a file without its
    /// context; otherwise attributes that may not be set, such as by an unprivileged user, are skipped.
    pub(super) fn attribute_is_set(&self, set: rustix::io::Result<()>, path: &Path, name: &str) -> Result<()> {
        use rustix::io::Errno as Raw;

        match set {
            // file systems without attributes have one context for all their files
            Ok(()) | Err(Raw::OPNOTSUPP) => Ok(()),
            Err(Raw::PERM | Raw::ACCESS) if !self.is_live() || !self.labels.is_on() => Ok(()),
            Err(errno) => Err(self.failed_io(&format!("set the attribute {name} of"), path, errno.into())),
        }
    }
}

/// Limits an access list in the kernel's format to a mode, as chmod does, so that the list can be set before the mode without giving
/// anybody access meanwhile.
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

#[cfg(test)]
mod tests {
    use super::super::tests::{PLAIN, tree};
    use super::*;

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
}
