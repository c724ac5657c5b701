//! The directory that a child keeps what it has fetched from a source in.

use std::path::Path;

use nix::unistd::geteuid;

use crate::error::{Context, Result, code};
use crate::host::root::{Access, FileType, Root};

/// Makes the cache of a source, empty, unless it exists with the right owner and mode. Everything above it belongs to root, so that no
/// other user can move it meanwhile; its content is not checked, and no link in it is followed.
pub(super) fn prepare(cache: &Path, (uid, gid): (u32, u32)) -> Result<()> {
    let path = std::path::absolute(cache).context(code::SANDBOX, || format!("can't find {}", cache.display()))?;
    let root = Root::open(Path::new("/"))?.private(path.parent().unwrap_or(Path::new("/")))?;
    let name = Path::new("/").join(path.file_name().unwrap_or_default());
    match root.meta(&name)? {
        Some(meta) if meta.what == FileType::Directory && meta.uid == uid && meta.mode == 0o700 => return Ok(()),
        Some(_) => root.remove_all(&name)?,
        None => {}
    }
    let (uid, gid) = if geteuid().is_root() { (Some(uid), Some(gid)) } else { (None, None) };
    root.make_directory(&name, Access { mode: 0o700, uid, gid })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::PathBuf;

    use nix::fcntl::OFlag;
    use nix::unistd::{getgid, getuid};

    use super::*;

    fn cache(path: &Path) -> PathBuf {
        path.join("cache/source-0")
    }

    fn made(cache: &Path) -> Result<()> {
        prepare(cache, (getuid().as_raw(), getgid().as_raw()))
    }

    #[test]
    fn a_cache_that_is_as_it_has_to_be_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        made(&cache).unwrap();
        std::fs::write(cache.join("pack"), "x").unwrap();
        made(&cache).unwrap();
        assert!(cache.join("pack").exists());
    }

    #[test]
    fn a_cache_that_others_can_look_into_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        made(&cache).unwrap();
        std::fs::write(cache.join("pack"), "x").unwrap();
        std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o755)).unwrap();
        made(&cache).unwrap();
        assert!(!cache.join("pack").exists());
        assert_eq!(cache.metadata().unwrap().mode() & 0o7777, 0o700);
    }

    #[test]
    fn a_cache_that_is_deeper_than_there_may_be_open_files_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        made(&cache).unwrap();
        let open = |at: &std::os::fd::OwnedFd, name: &str| {
            nix::fcntl::openat(at, name, OFlag::O_RDONLY, nix::sys::stat::Mode::empty()).unwrap()
        };
        let mut at = std::fs::File::open(&cache).unwrap().into();
        for _ in 0..3000 {
            nix::sys::stat::mkdirat(&at, "d", nix::sys::stat::Mode::S_IRWXU).unwrap();
            at = open(&at, "d");
        }
        std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o755)).unwrap();
        made(&cache).unwrap();
        assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 0);
    }

    #[test]
    fn a_link_in_place_of_a_cache_or_inside_one_is_not_followed() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("precious"), "x").unwrap();
        let cache = cache(dir.path());
        made(&cache).unwrap();
        symlink(outside.path(), cache.join("link")).unwrap();
        std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o755)).unwrap();
        made(&cache).unwrap();
        std::fs::remove_dir(&cache).unwrap();
        symlink(outside.path(), &cache).unwrap();
        made(&cache).unwrap();
        assert!(cache.symlink_metadata().unwrap().is_dir());
        assert!(outside.path().join("precious").exists());
    }
}
