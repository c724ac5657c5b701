//! The directory that a child keeps what it has fetched from a source in.

use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::error::{Context, Result, code};
use crate::host::root::{Access, FileType, Root};

/// The cache of a source, and its owner.
pub(super) struct Cache {
    pub path: PathBuf,
    pub owner: (u32, u32),
}

impl Cache {
    /// Makes the directory, empty, unless it exists with the right owner and mode. Everything above it belongs to root, so that
    /// no other user can move it meanwhile; its content is not checked, and no link in it is followed.
    pub fn prepare(&self) -> Result<()> {
        let path =
            std::path::absolute(&self.path).context(code::SANDBOX, || format!("can't find {}", self.path.display()))?;
        let root = Root::open(Path::new("/"))?.private(path.parent().unwrap_or(Path::new("/")))?;
        let name = Path::new("/").join(path.file_name().unwrap_or_default());
        let (uid, gid) = self.owner;
        match root.meta(&name)? {
            Some(meta) if meta.what == FileType::Directory && meta.uid == uid && meta.mode == 0o700 => return Ok(()),
            Some(_) => root.remove_all(&name)?,
            None => {}
        }
        let (uid, gid) = if geteuid().is_root() { (Some(uid), Some(gid)) } else { (None, None) };
        root.make_directory(&name, Access { mode: 0o700, uid, gid })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use nix::fcntl::OFlag;
    use nix::unistd::{getgid, getuid};

    use super::*;

    fn cache(path: &Path) -> Cache {
        Cache { path: path.join("cache/source-0"), owner: (getuid().as_raw(), getgid().as_raw()) }
    }

    #[test]
    fn a_cache_that_is_as_it_has_to_be_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        cache.prepare().unwrap();
        std::fs::write(cache.path.join("pack"), "x").unwrap();
        cache.prepare().unwrap();
        assert!(cache.path.join("pack").exists());
    }

    #[test]
    fn a_cache_that_others_can_look_into_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        cache.prepare().unwrap();
        std::fs::write(cache.path.join("pack"), "x").unwrap();
        std::fs::set_permissions(&cache.path, std::fs::Permissions::from_mode(0o755)).unwrap();
        cache.prepare().unwrap();
        assert!(!cache.path.join("pack").exists());
        assert_eq!(cache.path.metadata().unwrap().mode() & 0o7777, 0o700);
    }

    #[test]
    fn a_cache_that_is_deeper_than_there_may_be_open_files_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        cache.prepare().unwrap();
        let open = |at: &std::os::fd::OwnedFd, name: &str| {
            nix::fcntl::openat(at, name, OFlag::O_RDONLY, nix::sys::stat::Mode::empty()).unwrap()
        };
        let mut at = std::fs::File::open(&cache.path).unwrap().into();
        for _ in 0..3000 {
            nix::sys::stat::mkdirat(&at, "d", nix::sys::stat::Mode::S_IRWXU).unwrap();
            at = open(&at, "d");
        }
        std::fs::set_permissions(&cache.path, std::fs::Permissions::from_mode(0o755)).unwrap();
        cache.prepare().unwrap();
        assert_eq!(std::fs::read_dir(&cache.path).unwrap().count(), 0);
    }

    #[test]
    fn a_link_in_place_of_a_cache_or_inside_one_is_not_followed() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("precious"), "x").unwrap();
        let cache = cache(dir.path());
        cache.prepare().unwrap();
        symlink(outside.path(), cache.path.join("link")).unwrap();
        std::fs::set_permissions(&cache.path, std::fs::Permissions::from_mode(0o755)).unwrap();
        cache.prepare().unwrap();
        std::fs::remove_dir(&cache.path).unwrap();
        symlink(outside.path(), &cache.path).unwrap();
        cache.prepare().unwrap();
        assert!(cache.path.symlink_metadata().unwrap().is_dir());
        assert!(outside.path().join("precious").exists());
    }
}
