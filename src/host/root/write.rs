//! Writing files, directories and links: whole or not at all, under a temporary name beside their places first.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::UnlinkatFlags;
use rustix::fs::XattrFlags;

use super::access::WITHOUT_MODES;
use super::gather::give_name;
use super::{Access, DIRECTORY, FileType, Root, split, through};
use crate::error::{Context as _, Error, Result, code};
use crate::host::label;

impl Root {
    /// Writes a file whole or not at all: a temporary file beside it, its access, fsync, rename, fsync of the directory. It
    /// keeps the extended attributes of the file that it replaces; a new one gets its SELinux context.
    pub fn write(&self, path: &Path, content: &[u8], access: Access) -> Result<()> {
        if self.batch.borrow().is_some() && self.stage(path, content, access)? {
            return Ok(());
        }
        self.write_with(path, access, |file| {
            file.write_all(content).map_err(|error| self.failed_io("write", path, error))
        })
    }

    /// Writes a file whole or not at all, as [`Root::write`] does it, in a directory that has to be there and may be somebody else's. It is
    /// not synced, and keeps nothing of the file that it replaces: for what is worth nothing after a crash.
    pub fn write_quickly(&self, path: &Path, content: &[u8], mode: u32) -> Result<()> {
        self.write_new(path, content, mode, false)
    }

    /// The same, for what is to be there after a crash. Where files have the mode of their mount, that is not an error.
    pub fn write_lasting(&self, path: &Path, content: &[u8], mode: u32) -> Result<()> {
        self.write_new(path, content, mode, true)
    }

    fn write_new(&self, path: &Path, content: &[u8], mode: u32, is_lasting: bool) -> Result<()> {
        let (parent, name) = self.parent(path)?.ok_or_else(|| self.failed("write", path, Errno::ENOENT))?;
        self.replace((&parent, &name), path, |temporary| {
            let mut file = self.create(&parent, temporary, path)?;
            file.write_all(content).map_err(|error| self.failed_io("write", path, error))?;
            nix::sys::stat::fchmod(&file, Mode::from_bits_truncate(mode))
                .map_err(|errno| self.refused("mode", path, errno, &file))?;
            if is_lasting { file.sync_all().map_err(|error| self.failed_io("write", path, error)) } else { Ok(()) }
        })?;
        if is_lasting { self.sync(&parent, path) } else { Ok(()) }
    }

    /// Has `make` make something under a temporary name beside `path`, and gives it its place in one step. When that fails, what stands at
    /// `path` stays, and nothing else does.
    pub(super) fn replace(
        &self,
        (parent, name): (&OwnedFd, &Path),
        path: &Path,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let temporary = temporary_name(path);
        clear(parent, &temporary);
        let replaced = make(&temporary).and_then(|()| {
            nix::fcntl::renameat(parent, &*temporary, parent, name).map_err(|errno| self.failed("replace", path, errno))
        });
        if replaced.is_err() {
            clear(parent, &temporary);
        }
        replaced
    }

    /// Gives a file of ours its mode and the place of `to`, in the same directory. Refuses what is another's, or has a second name.
    pub fn publish(&self, path: &Path, to: &Path, mode: u32) -> Result<()> {
        let Some((parent, name)) = self.parent(path)? else { return Err(self.failed("open", path, Errno::ENOENT)) };
        let Some((stat, file)) = self.open_file(path)? else { return Err(self.failed("open", path, Errno::ENOENT)) };
        let has_owners =
            nix::sys::statfs::fstatfs(&file).is_ok_and(|fs| !WITHOUT_MODES.contains(&fs.filesystem_type()));
        if has_owners && (stat.st_uid != nix::unistd::geteuid().as_raw() || stat.st_nlink > 1) {
            return Err(Error::new(
                code::FILE,
                format!("{} is not the file that was written there", self.shown(path).display()),
            )
            .help("somebody else has put it there, who can write in its directory: run again"));
        }
        nix::sys::stat::fchmod(&file, Mode::from_bits_truncate(mode))
            .map_err(|errno| self.refused("mode", path, errno, &file))?;
        let (_, last) = split(to)?;
        nix::fcntl::renameat(&parent, &*name, &parent, &*last).map_err(|errno| self.failed("replace", to, errno))?;
        self.sync(&parent, to)
    }

    /// [`Root::write_quickly`] of a file for everybody to read, in a directory that an operator has named in `kpull.toml`: of the machine,
    /// also where a run works in a tree.
    pub fn write_output(dir: &Path, name: &str, content: &[u8]) -> Result<()> {
        let dir = std::path::absolute(dir).context(code::FILE, || format!("can't find {}", dir.display()))?;
        Self::open(Path::new("/"))?.write_quickly(&dir.join(name), content, 0o644)
    }

    /// [`Root::write`] with content that `fill` streams into the file.
    pub fn write_with(&self, path: &Path, access: Access, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
        let check = |_: &Path| Ok(());
        self.put(path, access, check, |parent, temporary| {
            let mut file = self.create(parent, temporary, path)?;
            fill(&mut file)?;
            Ok(file)
        })
    }

    /// An empty file that has no name yet, where one at `path` would be made; `None` when there can't be such a file. What is
    /// written to it is gone with this process, unless it is [given its place](Root::place).
    pub fn nameless(&self, path: &Path) -> Result<Option<File>> {
        // what is above it may have to be made first
        for parent in path.ancestors().skip(1) {
            let Some(dir) = self.directory(parent)? else { continue };
            let flags = OFlag::O_RDWR | OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
            return Ok(nix::fcntl::openat(&dir, ".", flags, Mode::S_IRUSR | Mode::S_IWUSR).ok().map(File::from));
        }
        Ok(None)
    }

    /// Puts a file that [has no name](Root::nameless) at `path`, as [`Root::write`] does it; one of another file system is copied. `check`
    /// looks at the new file, at a path that only this process knows, before it takes its place; a child can have the directory of that
    /// path for its own. When `check` fails, the old file stays.
    pub fn place(
        &self,
        path: &Path,
        mut file: File,
        access: Access,
        check: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        self.put(path, access, check, |parent, temporary| {
            if give_name(&file, parent, temporary).is_ok() {
                return Ok(file);
            }
            let mut copy = self.create(parent, temporary, path)?;
            // shares the blocks where the file system can do that
            file.rewind()
                .and_then(|()| std::io::copy(&mut file, &mut copy))
                .map_err(|error| self.failed_io("write", path, error))?;
            Ok(copy)
        })
    }

    /// Has `make` make a file under a temporary name beside `path`, and gives it its access and its place.
    fn put(
        &self,
        path: &Path,
        access: Access,
        check: impl FnOnce(&Path) -> Result<()>,
        make: impl FnOnce(&OwnedFd, &Path) -> Result<File>,
    ) -> Result<()> {
        let (parent, name) = self.writable_parent(path)?;
        self.replace((&parent, &name), path, |temporary| {
            let file = make(&parent, temporary)?;
            self.furnish(&file, (&parent, &name), path, access)?;
            file.sync_all().map_err(|error| self.failed_io("write", path, error))?;
            // a program that somebody has open for writing can't be run
            drop(file);
            check(&through(&parent).join(temporary))
        })?;
        self.sync(&parent, path)
    }

    /// Gives a new file, for the name in a directory, its owner, attributes and mode.
    pub(super) fn furnish(
        &self,
        file: &File,
        (parent, name): (&OwnedFd, &Path),
        path: &Path,
        access: Access,
    ) -> Result<()> {
        self.give_owner(file, path, access)?;
        // after the content and the owner: a change of either takes capabilities away
        let mut kept = self.kept(path, access);
        if !kept.iter().any(|(name, _)| name == label::ATTRIBUTE) {
            kept.extend(self.label(parent, name, FileType::File));
        }
        for attribute in kept {
            self.set_attribute(file, path, &attribute)?;
        }
        self.give_mode(file, path, access.mode)
    }

    /// Makes the directory at `path`, and those above it (0755, ours) that are missing. A new one has its access and its
    /// SELinux context from the moment that it has its name.
    pub fn make_directory(&self, path: &Path, access: Access) -> Result<()> {
        let (parent, name) = self.writable_parent(path)?;
        match self.meta(path)?.map(|meta| meta.what) {
            None => {}
            Some(FileType::Directory) => {
                self.set_access(path, access)?;
                return self.sync(&parent, path);
            }
            Some(_) => return Err(self.failed("open", path, Errno::ENOTDIR)),
        }
        self.replace((&parent, &name), path, |temporary| {
            nix::sys::stat::mkdirat(&parent, temporary, Mode::S_IRWXU)
                .map_err(|errno| self.failed("make the directory", path, errno))?;
            let fd = nix::fcntl::openat(&parent, temporary, DIRECTORY, Mode::empty())
                .map_err(|errno| self.failed("open", path, errno))?;
            if let Some(context) = self.label(&parent, &name, FileType::Directory) {
                self.set_attribute(&fd, path, &context)?;
            }
            let own = self.stat_of(&fd, path)?;
            // somebody may have put another one in its place
            if self.lets_in(&fd, &own, &parent, path, access)? {
                return Err(self.not_given(path));
            }
            self.give(&fd, own, path, access)
        })?;
        self.sync(&parent, path)
    }

    /// Makes the link at `path`, in place of whatever file or link stands there.
    pub fn make_link(&self, path: &Path, target: &Path) -> Result<()> {
        let (parent, name) = self.writable_parent(path)?;
        self.replace((&parent, &name), path, |temporary| {
            nix::unistd::symlinkat(target, &parent, temporary)
                .map_err(|errno| self.failed("make the link", path, errno))?;
            let Some((attribute, context)) = self.label(&parent, &name, FileType::Link) else { return Ok(()) };
            let link = through(&parent).join(temporary);
            let set = rustix::fs::lsetxattr(link, &attribute, &context, XattrFlags::empty());
            self.attribute_is_set(set, path, &attribute)
        })?;
        // what was opened through the link that it replaces
        self.parents.borrow_mut().clear();
        self.sync(&parent, path)
    }

    /// Writes into the regular file at `path` as it stands, for one that can't be replaced: a run that dies meanwhile leaves a part of it.
    /// `false` when there is no such file.
    pub fn write_into(&self, path: &Path, content: &[u8], access: Access) -> Result<bool> {
        if self.meta(path)?.is_none_or(|meta| meta.what != FileType::File) {
            return Ok(false);
        }
        let Some((parent, name)) = self.parent(path)? else { return Ok(false) };
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::openat(&parent, &*name, flags, Mode::empty())
            .map_err(|errno| self.failed("write", path, errno))?;
        let own = self.own(&fd, &parent, path)?;
        if self.lets_in(&fd, &own, &parent, path, access)? {
            return Err(self.not_given(path));
        }
        // before the content, which may be for fewer eyes than the old one
        self.give(&fd, own, path, access)?;
        let mut file = File::from(fd);
        file.write_all(content)
            .and_then(|()| file.set_len(content.len() as u64))
            .and_then(|()| file.sync_all())
            .map_err(|error| self.failed_io("write", path, error))?;
        Ok(true)
    }

    /// Writes into the file at `path` as it stands, without a temporary one beside it: for the files of the kernel.
    /// `false` when there is no such file.
    pub fn overwrite(&self, path: &Path, content: &[u8]) -> Result<bool> {
        let Some((parent, name)) = self.parent(path)? else { return Ok(false) };
        let flags = OFlag::O_WRONLY | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        match nix::fcntl::openat(&parent, &*name, flags, Mode::empty()) {
            Ok(fd) => {
                // the kernel takes a setting from one write, so a short one is not continued
                nix::unistd::write(&fd, content).map_err(|errno| self.failed("write", path, errno))?;
                Ok(true)
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
            Err(errno) => Err(self.failed("write", path, errno)),
        }
    }

    /// Opens the file at `path` for a lock, and makes it (0600, ours) when it is missing.
    pub fn lock_file(&self, path: &Path) -> Result<File> {
        let (parent, name) = self.writable_parent(path)?;
        let is_new = self.meta(path)?.is_none();
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::openat(&parent, &*name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|errno| self.failed("open", path, errno))?;
        if is_new && let Some(context) = self.label(&parent, &name, FileType::File) {
            self.set_attribute(&fd, path, &context)?;
        }
        Ok(File::from(fd))
    }

    /// Makes the new file `temporary` in `parent`, for what is to be at `path`.
    fn create(&self, parent: &OwnedFd, temporary: &Path, path: &Path) -> Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let created = nix::fcntl::openat(parent, temporary, flags, Mode::S_IRUSR | Mode::S_IWUSR).map(File::from);
        created.map_err(|errno| match errno {
            Errno::EEXIST => self.failed("write", &path.with_file_name(temporary), errno),
            _ => self.failed("write", path, errno),
        })
    }
}

fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // a long name has to stay below the 255 bytes that file systems allow
    let short: String = name.chars().take(50).collect();
    format!(".{short}.kpull-new").into()
}

/// Takes away whatever a killed run left behind under a temporary name.
fn clear(parent: &OwnedFd, temporary: &Path) {
    for flag in [UnlinkatFlags::NoRemoveDir, UnlinkatFlags::RemoveDir] {
        let _ = nix::unistd::unlinkat(parent, temporary, flag);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{PLAIN, tree};
    use super::*;

    #[test]
    fn a_nameless_file_is_nowhere_until_it_gets_its_place() {
        let (dir, root) = tree();
        let path = Path::new("/opt/bin/tool");
        let mut file = root.nameless(path).unwrap().unwrap();
        file.write_all(b"x").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        root.place(path, file, PLAIN, |_| Ok(())).unwrap();
        let (meta, content) = root.read(path).unwrap().unwrap();
        assert_eq!((meta.mode, content.as_slice()), (0o640, b"x".as_slice()));
        assert_eq!(std::fs::read_dir(dir.path().join("opt/bin")).unwrap().count(), 1);
    }

    #[test]
    fn a_nameless_file_that_can_t_have_a_name_there_is_copied() {
        let (dir, root) = tree();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"copied").unwrap();
        root.write(Path::new("/f"), b"old", PLAIN).unwrap();
        root.place(Path::new("/f"), file, PLAIN, |_| Ok(())).unwrap();
        assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"copied");
    }

    #[test]
    fn a_nameless_file_that_fails_its_check_leaves_the_old_one() {
        let (dir, root) = tree();
        root.write(Path::new("/f"), b"old", PLAIN).unwrap();
        let file = root.nameless(Path::new("/f")).unwrap().unwrap();
        root.place(Path::new("/f"), file, PLAIN, |_| Err(Error::new(code::FILE, "no"))).unwrap_err();
        assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_run_left_is_in_nobodys_way() {
        let (dir, root) = tree();
        std::fs::create_dir(dir.path().join(".f.kpull-new")).unwrap();
        std::fs::write(dir.path().join(".d.kpull-new"), "x").unwrap();
        std::fs::create_dir(dir.path().join(".l.kpull-new")).unwrap();
        root.write(Path::new("/f"), b"x", PLAIN).unwrap();
        root.make_directory(Path::new("/d"), PLAIN).unwrap();
        root.make_link(Path::new("/l"), Path::new("f")).unwrap();
        assert_eq!(root.names(Path::new("/")).unwrap(), ["d", "f", "l"]);
    }

    #[test]
    fn a_file_is_written_into_whole_with_its_access_and_is_the_same_file_then() {
        let (dir, root) = tree();
        let (file, second) = (dir.path().join("f"), dir.path().join("second"));
        std::fs::write(&file, "long old text").unwrap();
        std::fs::hard_link(&file, &second).unwrap();
        assert!(root.write_into(Path::new("/f"), b"new", PLAIN).unwrap());
        assert_eq!(std::fs::read_to_string(&second).unwrap(), "new");
        assert_eq!(root.meta(Path::new("/f")).unwrap().unwrap().mode, 0o640);
        // neither what is no file nor what may be somebody's
        std::os::unix::fs::symlink("f", dir.path().join("link")).unwrap();
        for path in ["/link", "/none", "/none/f", "/"] {
            assert!(!root.write_into(Path::new(path), b"x", PLAIN).unwrap_or(false), "{path}");
        }
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let error = root.write_into(Path::new("/f"), b"x", PLAIN).unwrap_err();
        assert!(error.to_string().starts_with("/f is the same file as another path"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
    }

    #[test]
    fn overwriting_keeps_the_file_and_makes_none() {
        let (dir, root) = tree();
        root.write(Path::new("/f"), b"long old text", PLAIN).unwrap();
        let hard_link = dir.path().join("same");
        std::fs::hard_link(dir.path().join("f"), &hard_link).unwrap();
        assert!(root.overwrite(Path::new("/f"), b"new").unwrap());
        assert_eq!(std::fs::read_to_string(hard_link).unwrap(), "new");
        assert!(!root.overwrite(Path::new("/g"), b"new").unwrap());
        assert!(!dir.path().join("g").exists());
    }
}
