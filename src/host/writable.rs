//! Whether somebody else than root may write what root goes by: what OpenSSH asks of its own files.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf, absolute};

use nix::errno::Errno;
use nix::fcntl::readlink;
use nix::sys::stat::{lstat, stat};
use nix::unistd::geteuid;

use super::root::{FileType, Meta};
use crate::error::{Context as _, Error, Result, code};
use crate::read;

/// Links that are followed; the kernel follows no more either.
const LINKS: usize = 40;
/// The owner that a user namespace shows where a file's own is none of its users.
const OVERFLOW: u32 = 65534;

/// Refuses a file that root is to go by and somebody else may write: itself, a link on the way to it, or a directory above. What is not there is no
/// error, and nothing is asked of anybody but root.
///
/// In a `tree` (not `/`), the directories above it are not looked at, and nothing is where it belongs to somebody else than root: root has named it,
/// and its owner decides about everything in it.
pub fn check(path: &Path, tree: &Path) -> Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let whole =
        |path: &Path| absolute(path).context(code::CONFIG, || format!("can't tell where {} is", path.display()));
    let (path, tree) = (whole(path)?, whole(tree)?);
    let inside = path.strip_prefix(&tree).ok().filter(|_| tree != Path::new("/"));
    let mut at = match inside {
        Some(_) => tree.clone(),
        None => PathBuf::from("/"),
    };
    if inside.is_some() {
        match stat(&at).map(Meta::from) {
            Ok(found) if is_roots(&found) => look(&path, &at, &found)?,
            // it is the owner's, or not there
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
            Err(why) => return Err(why).context(code::CONFIG, || format!("can't look at {}", next.display())),
        };
        // whoever reads it refuses a pipe or a device, and its mode is no reason to change that of /dev/zero
        if found.what == FileType::Special {
            return Ok(());
        }
        look(&path, &next, &found)?;
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

/// Whether everybody on this machine may read a file: it, and every directory above it.
pub fn is_public(path: &Path) -> bool {
    let Ok(path) = absolute(path) else { return false };
    let has = |path: &Path, bits: u32| stat(path).is_ok_and(|found| found.st_mode & bits == bits);
    has(&path, 0o004) && path.ancestors().skip(1).all(|above| has(above, 0o001))
}

/// The names of a path, the last first.
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

/// Whether something belongs to root, or to nobody of this user namespace: who that is, only the machine around it knows, whose root can do everything
/// here.
fn is_roots(found: &Meta) -> bool {
    let is_mapped = || read::has_number(&read::kernel("/proc/self/uid_map").unwrap_or_default(), OVERFLOW);
    found.uid == 0 || found.uid == OVERFLOW && !is_mapped()
}

/// Refuses one name on the way to a path.
fn look(path: &Path, at: &Path, found: &Meta) -> Result<()> {
    let Meta { what, mode, uid, .. } = *found;
    // in a directory with the sticky bit nobody can replace what belongs to somebody else
    let is_shared = what == FileType::Directory && mode & 0o1000 != 0;
    let is_open = what != FileType::Link && mode & 0o022 != 0 && !is_shared;
    let (why, command) = match (is_roots(found), mode & 0o002 != 0) {
        (false, _) => (format!("it belongs to user {uid}"), "chown -h root:root"),
        (true, _) if !is_open => return Ok(()),
        (true, true) => (format!("everybody may write it (its mode is {mode:04o})"), "chmod go-w"),
        (true, false) => (format!("its group may write it (its mode is {mode:04o})"), "chmod go-w"),
    };
    let (path, at) = (path.display(), at.display());
    Err(Error::new(code::CONFIG, format!("root does not go by {path}, since somebody else may write {at}"))
        .because(why)
        .help(format!(
            "look whether what is there is yours, then say `{command} {at}`; or keep it where only root may write"
        )))
}
