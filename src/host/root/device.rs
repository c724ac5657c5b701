//! Block devices: which one a path leads to, whether the kernel uses it, and what it begins with.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag};

use super::{AS_IT_IS, Root};
use crate::error::{Result, error};
use crate::host::unit_files::straight;

/// How many links lead to a device at most: one of `/dev/disk`, one of a volume group.
const LINKS: usize = 8;

/// Bytes at the beginning of a device that are zero if nothing is on it: what has a file system or a partition table begins in them.
const BEGINNING: u64 = 1 << 20;

impl Root {
    /// The block device at `path`, by its own name: links are followed. `None` if nothing is there, an error if anything else is.
    pub fn device(&self, path: &Path) -> Result<Option<PathBuf>> {
        let mut real = path.to_owned();
        for _ in 0..LINKS {
            let Some(target) = self.link(&real)? else { break };
            real = straight(&real.parent().unwrap_or(Path::new("/")).join(target));
        }
        let Some(stat) = self.stat(&real)? else { return Ok(None) };
        match stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFBLK.bits() {
            true => Ok(Some(real)),
            false => Err(error!(FILE, "{} is not a block device", self.shown(path).display())
                .help("name a disk, a partition or a volume; `lsblk -p` lists them, and `ls -l /dev/disk/by-id` their persistent names")),
        }
    }

    /// Whether the kernel uses the device: it is mounted, it is swap, or it is a part of another device.
    pub fn is_in_use(&self, device: &Path) -> Result<bool> {
        let Some((parent, name)) = self.parent(device)? else { return Ok(false) };
        // for a device, this asks for a use of one's own, which the kernel grants to one at a time
        match openat(&parent, &*name, OFlag::O_RDONLY | OFlag::O_EXCL | AS_IT_IS, Mode::empty()) {
            Ok(_) => Ok(false),
            Err(Errno::EBUSY) => Ok(true),
            Err(errno) => Err(self.failed("open", device, errno)),
        }
    }

    /// The first MiB of the device.
    pub fn beginning(&self, device: &Path) -> Result<Vec<u8>> {
        let Some((parent, name)) = self.parent(device)? else { return Ok(Vec::new()) };
        let file = File::from(self.open_at((&parent, &name), OFlag::O_RDONLY, "open", device)?);
        let mut content = Vec::new();
        file.take(BEGINNING).read_to_end(&mut content).map_err(|error| self.failed_io("read", device, error))?;
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_block_devices_are_devices() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(root.device(Path::new("/none")).unwrap(), None);
        for path in ["/file", "/link", "/loop"] {
            let error = root.device(Path::new(path)).unwrap_err();
            assert_eq!(error.to_string(), format!("{path} is not a block device"));
        }
        let error = Root::open(Path::new("/")).unwrap().device(Path::new("/dev/null")).unwrap_err();
        assert_eq!(error.to_string(), "/dev/null is not a block device");
    }

    #[test]
    fn the_beginning_is_a_mib_or_what_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        for (name, size, read) in [("short", 3, 3), ("whole", 1 << 20, 1 << 20), ("long", 2 << 20, 1 << 20)] {
            std::fs::write(dir.path().join(name), vec![7; size]).unwrap();
            assert_eq!(root.beginning(&Path::new("/").join(name)).unwrap(), vec![7; read], "{name}");
        }
        assert!(!root.is_in_use(Path::new("/short")).unwrap());
    }
}
