//! Refuses files that root relies on and another user can write, as OpenSSH does with its own files.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf, absolute};

use nix::errno::Errno;
use nix::fcntl::readlink;
use nix::sys::stat::{lstat, stat};
use nix::unistd::geteuid;

use super::root::{FileType, Meta};
use crate::error::{Context as _, Result, code, error};
use crate::read;

/// Links that are followed at most, as by the kernel.
const LINKS: usize = 40;
/// The owner that a user namespace shows for files of users outside of it.
const OVERFLOW: u32 = 65534;

/// Refuses a file that root relies on if another user can write it, a link on the way to it, or a directory above it. A missing file is
/// no error. Only runs as root check this.
///
/// In a `tree` (not `/`), the directories above the tree are not checked. Nothing is checked in a tree of another user: root has named
/// the tree, and its owner controls everything in it.
pub fn check(path: &Path, tree: &Path) -> Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let whole = |path: &Path| {
        absolute(path).context(code::CONFIG, || format!("can't determine the path of {}", path.display()))
    };
    let (path, tree) = (whole(path)?, whole(tree)?);
    let inside = path.strip_prefix(&tree).ok().filter(|_| tree != Path::new("/"));
    let mut at = if inside.is_some() { tree.clone() } else { PathBuf::from("/") };
    if inside.is_some() {
        match stat(&at).map(Meta::from) {
            Ok(found) if is_roots(&found) => check_part(&path, &at, &found)?,
            // it belongs to another user, or is missing
            _ => return Ok(()),
        }
    }
    let mut left = names(inside.unwrap_or(&path));
    let mut links = 0;
    while let Some(name) = left.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let found = match lstat(&next) {
            Ok(found) => Meta::from(found),
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(why) => return Err(why).context(code::CONFIG, || format!("can't inspect {}", next.display())),
        };
        // reading refuses pipes and devices, and their modes (/dev/zero) are no concern
        if found.what == FileType::Special {
            return Ok(());
        }
        check_part(&path, &next, &found)?;
        if found.what != FileType::Link {
            at = next;
            continue;
        }
        links += 1;
        if links > LINKS {
            return Ok(());
        }
        let target = readlink(&next).context(code::CONFIG, || format!("can't read the link {}", next.display()))?;
        let target = PathBuf::from(target);
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        left.extend(names(&target));
    }
    Ok(())
}

/// Whether every user can read a file, including access to the directories above it.
pub fn is_public(path: &Path) -> bool {
    let Ok(path) = absolute(path) else { return false };
    let has = |path: &Path, bits: u32| stat(path).is_ok_and(|found| found.st_mode & bits == bits);
    has(&path, 0o004) && path.ancestors().skip(1).all(|above| has(above, 0o001))
}

/// The names of a path, in reverse order.
fn names(path: &Path) -> Vec<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    let mut names: Vec<OsString> = path.components().filter_map(name).collect();
    names.reverse();
    names
}

/// Whether something belongs to root, or to a user outside of this user namespace: only root of the surrounding machine can map that,
/// and has all rights here anyway.
fn is_roots(found: &Meta) -> bool {
    let is_mapped = || read::has_number(&read::kernel("/proc/self/uid_map").unwrap_or_default(), OVERFLOW);
    found.uid == 0 || found.uid == OVERFLOW && !is_mapped()
}

/// Refuses a part of a path that others can write.
fn check_part(path: &Path, at: &Path, found: &Meta) -> Result<()> {
    let Meta { what, mode, uid, .. } = *found;
    // in a directory with the sticky bit, only owners can replace their files
    let is_shared = what == FileType::Directory && mode & 0o1000 != 0;
    let is_open = what != FileType::Link && mode & 0o022 != 0 && !is_shared;
    let (why, command) = match (is_roots(found), mode & 0o002 != 0) {
        (false, _) => (format!("it belongs to user {uid}"), "chown -h root:root"),
        (true, _) if !is_open => return Ok(()),
        (true, true) => (format!("every user can write to it (its mode is {mode:04o})"), "chmod go-w"),
        (true, false) => (format!("its group can write to it (its mode is {mode:04o})"), "chmod go-w"),
    };
    let (path, at) = (path.display(), at.display());
    Err(error!(CONFIG, "{path} is not safe for root: another user can write to {at}").because(why).help(format!(
        "check the content, then run `{command} {at}`; or move it to a directory that only root can write to"
    )))
}
