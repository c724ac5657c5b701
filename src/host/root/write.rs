//! Writes files, directories and links atomically, under a temporary name beside their places first.

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
use super::{AS_IT_IS, Access, At, DIRECTORY, FileType, Meta, Root, label, split, through};
use crate::error::{Context as _, Result, code, error};

/// Decides whether a file with a temporary name, which has the new content, moves to its place.
type Check<'a> = &'a dyn Fn(&Path) -> Result<()>;

impl Root {
    /// Writes a file atomically: a temporary file beside it, its access, fsync, rename, fsync of the directory. It keeps the extended
    /// attributes of the file that it replaces; a new one gets its SELinux context.
    pub fn write(&self, path: &Path, content: &[u8], access: Access) -> Result<()> {
        if self.batch.borrow().is_some() && self.stage(path, content, access)? {
            return Ok(());
        }
        let fill = |file: &mut File| file.write_all(content).map_err(|error| self.failed_io("write", path, error));
        self.write_with(path, access, fill)
    }

    /// Writes a file atomically like [`Root::write`], in a directory that has to exist and may belong to another user. It is not synced,
    /// and keeps nothing of the file that it replaces: for what is not needed after a crash.
    pub fn write_quickly(&self, path: &Path, content: &[u8], mode: u32) -> Result<()> {
        self.write_new(path, content, mode, false)
    }

    /// The same, but synced.
    pub fn write_lasting(&self, path: &Path, content: &[u8], mode: u32) -> Result<()> {
        self.write_new(path, content, mode, true)
    }

    fn write_new(&self, path: &Path, content: &[u8], mode: u32, is_lasting: bool) -> Result<()> {
        let (parent, name) = self.parent(path)?.ok_or_else(|| self.failed("write", path, Errno::ENOENT))?;
        self.replace((&parent, &name), path, |temporary| {
            let mut file = self.create(&parent, temporary, path)?;
            file.write_all(content).map_err(|error| self.failed_io("write", path, error))?;
            self.change_mode(&file, path, mode)?;
            if is_lasting { file.sync_all().map_err(|error| self.failed_io("write", path, error)) } else { Ok(()) }
        })?;
        if is_lasting { self.sync(&parent, path) } else { Ok(()) }
    }

    /// Calls `make` with a temporary name beside `path`, and moves the result to its place in one step. If that fails, `path` is unchanged
    /// and the temporary name is removed.
    pub(super) fn replace(&self, at: At<'_>, path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let (parent, name) = at;
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

    /// Sets the mode of a file and moves it to `to`, in the same directory. Refuses another user's file, or one with a second name.
    pub fn publish(&self, path: &Path, to: &Path, mode: u32) -> Result<()> {
        let Some((parent, name)) = self.parent(path)? else { return Err(self.failed("open", path, Errno::ENOENT)) };
        let Some((stat, file)) = self.open_file(path)? else { return Err(self.failed("open", path, Errno::ENOENT)) };
        let has_owners =
            nix::sys::statfs::fstatfs(&file).is_ok_and(|fs| !WITHOUT_MODES.contains(&fs.filesystem_type()));
        if has_owners && (stat.st_uid != nix::unistd::geteuid().as_raw() || stat.st_nlink > 1) {
            return Err(error!(FILE, "{} is not the file that kpull wrote", self.shown(path).display())
                .help("another user who can write to its directory has replaced it: run again"));
        }
        self.change_mode(&file, path, mode)?;
        let (_, last) = split(to)?;
        nix::fcntl::renameat(&parent, &*name, &parent, &*last).map_err(|errno| self.failed("replace", to, errno))?;
        self.sync(&parent, to)
    }

    /// [`Root::write_quickly`] of a world-readable file in a directory from `kpull.toml`, which is one of the machine even if a run works
    /// in a tree.
    pub fn write_output(dir: &Path, name: &str, content: &[u8]) -> Result<()> {
        let dir = std::path::absolute(dir).context(code::FILE, || format!("can't find {}", dir.display()))?;
        Self::open(Path::new("/"))?.write_quickly(&dir.join(name), content, 0o644)
    }

    /// [`Root::write`] with content that `fill` writes into the file.
    pub fn write_with(&self, path: &Path, access: Access, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
        self.put(path, access, &|_| Ok(()), |parent, temporary| {
            let mut file = self.create(parent, temporary, path)?;
            fill(&mut file)?;
            Ok(file)
        })
    }

    /// Calls `check` with the path of a temporary file beside `path`, which has the content and all that [`Root::write`] sets. Then removes
    /// it: `path` is unchanged.
    pub fn beside(&self, path: &Path, content: &[u8], access: Access, check: Check<'_>) -> Result<()> {
        let (parent, name) = self.writable_parent(path)?;
        let temporary = temporary_name(path);
        clear(&parent, &temporary);
        let checked = self.create(&parent, &temporary, path).and_then(|mut file| {
            file.write_all(content).map_err(|error| self.failed_io("write", path, error))?;
            self.furnish(&file, (&parent, &name), path, access)?;
            drop(file);
            check(&self.outside(&path.with_file_name(&temporary)))
        });
        clear(&parent, &temporary);
        checked
    }

    /// An empty file without a name, on the file system of `path`; `None` if that is not supported. It ends with this process unless it
    /// is [put in its place](Root::place).
    pub fn nameless(&self, path: &Path) -> Result<Option<File>> {
        // directories above it may be missing
        for parent in path.ancestors().skip(1) {
            let Some(dir) = self.directory(parent)? else { continue };
            let flags = OFlag::O_RDWR | OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
            return Ok(nix::fcntl::openat(&dir, ".", flags, Mode::S_IRUSR | Mode::S_IWUSR).ok().map(File::from));
        }
        Ok(None)
    }

    /// Puts a file [without a name](Root::nameless) at `path` like [`Root::write`]; one of another file system is copied. `check` gets a
    /// temporary path of the new file, which only this process and its children can use, before it takes its place. If `check` fails,
    /// the old file stays.
    pub fn place(&self, path: &Path, mut file: File, access: Access, check: Check<'_>) -> Result<()> {
        self.put(path, access, check, |parent, temporary| {
            if give_name(&file, parent, temporary).is_ok() {
                return Ok(file);
            }
            let mut copy = self.create(parent, temporary, path)?;
            // shares the blocks if the file system supports that
            let copied = file.rewind().and_then(|()| std::io::copy(&mut file, &mut copy));
            copied.map_err(|error| self.failed_io("write", path, error))?;
            Ok(copy)
        })
    }

    /// Calls `make` for a file with a temporary name beside `path`, sets its access, and moves it to its place.
    fn put(
        &self,
        path: &Path,
        access: Access,
        check: Check<'_>,
        make: impl FnOnce(&OwnedFd, &Path) -> Result<File>,
    ) -> Result<()> {
        let (parent, name) = self.writable_parent(path)?;
        self.replace((&parent, &name), path, |temporary| {
            let file = make(&parent, temporary)?;
            self.furnish(&file, (&parent, &name), path, access)?;
            file.sync_all().map_err(|error| self.failed_io("write", path, error))?;
            // a program that is open for writing can't be executed
            drop(file);
            check(&through(&parent).join(temporary))
        })?;
        self.sync(&parent, path)
    }

    /// Sets owner, attributes and mode of a new file for a name in a directory.
    pub(super) fn furnish(&self, file: &File, (parent, name): At<'_>, path: &Path, access: Access) -> Result<()> {
        self.give_owner(file, path, access)?;
        // after the content and the owner: a change of either clears capabilities
        let mut kept = self.kept(path, access);
        if !kept.iter().any(|(name, _)| name == label::ATTRIBUTE) {
            kept.extend(self.label(parent, name, FileType::File));
        }
        for attribute in kept {
            self.set_attribute(file, path, &attribute)?;
        }
        self.give_mode(file, path, access.mode)
    }

    /// Creates the directory at `path`, and missing ones above it (0755). A new one has its access and SELinux context before it gets its
    /// name.
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
                .map_err(|errno| self.failed("create the directory", path, errno))?;
            let fd = self.open_at((&parent, temporary), DIRECTORY, "open", path)?;
            if let Some(context) = self.label(&parent, &name, FileType::Directory) {
                self.set_attribute(&fd, path, &context)?;
            }
            let own = self.stat_of(&fd, path)?;
            // another user may have replaced it
            if self.exposes(&fd, &own, &parent, path, access)? {
                return Err(self.not_given(path));
            }
            self.give(&fd, own, path, access)
        })?;
        self.sync(&parent, path)
    }

    /// Creates the link at `path`, replacing any file or link.
    pub fn make_link(&self, path: &Path, target: &Path) -> Result<()> {
        let (parent, name) = self.writable_parent(path)?;
        self.replace((&parent, &name), path, |temporary| {
            nix::unistd::symlinkat(target, &parent, temporary)
                .map_err(|errno| self.failed("create the link", path, errno))?;
            let Some((attribute, context)) = self.label(&parent, &name, FileType::Link) else { return Ok(()) };
            let link = through(&parent).join(temporary);
            let set = rustix::fs::lsetxattr(link, &attribute, &context, XattrFlags::empty());
            self.attribute_is_set(set, path, &attribute)
        })?;
        // they may go through the replaced link
        self.forget_directories();
        self.sync(&parent, path)
    }

    /// Copies what is in a directory, of this root or another, into a directory of this one: files, directories and links. Devices and
    /// pipes are skipped.
    pub fn copy(&self, to: &Path, (other, from): (&Self, &Path), access: &dyn Fn(&Meta) -> Access) -> Result<()> {
        for name in other.names(from)? {
            let (from, to) = (from.join(&name), to.join(&name));
            let Some(meta) = other.meta(&from)? else { continue };
            match meta.what {
                FileType::Directory => {
                    self.make_directory(&to, access(&meta))?;
                    self.copy(&to, (other, &from), access)?;
                }
                FileType::File => {
                    if let Some((_, content)) = other.read(&from)? {
                        self.write(&to, &content, access(&meta))?;
                    }
                }
                FileType::Link => {
                    if let Some(target) = other.link(&from)? {
                        self.make_link(&to, &target)?;
                    }
                }
                FileType::Special => {}
            }
        }
        Ok(())
    }

    /// Writes into the regular file at `path` in place, for one that can't be replaced: a run that dies meanwhile leaves it incomplete.
    /// `false` if there is no such file.
    pub fn write_into(&self, path: &Path, content: &[u8], access: Access) -> Result<bool> {
        if self.meta(path)?.is_none_or(|meta| meta.what != FileType::File) {
            return Ok(false);
        }
        let Some((parent, name)) = self.parent(path)? else { return Ok(false) };
        let fd = self.open_at((&parent, &name), OFlag::O_WRONLY, "write", path)?;
        let own = self.own(&fd, &parent, path)?;
        if self.exposes(&fd, &own, &parent, path, access)? {
            return Err(self.not_given(path));
        }
        // before the content, which may be more private than the old one
        self.give(&fd, own, path, access)?;
        let mut file = File::from(fd);
        let written = file.write_all(content).and_then(|()| file.set_len(content.len() as u64));
        let written = written.and_then(|()| file.sync_all());
        written.map_err(|error| self.failed_io("write", path, error))?;
        Ok(true)
    }

    /// Writes into the file at `path` in place, without a temporary one: for kernel files. `false` if there is no such file.
    pub fn overwrite(&self, path: &Path, content: &[u8]) -> Result<bool> {
        let Some((parent, name)) = self.parent(path)? else { return Ok(false) };
        match nix::fcntl::openat(&parent, &*name, OFlag::O_WRONLY | OFlag::O_TRUNC | AS_IT_IS, Mode::empty()) {
            Ok(fd) => {
                // the kernel reads a setting from one write, so a short one is not continued
                nix::unistd::write(&fd, content).map_err(|errno| self.failed("write", path, errno))?;
                Ok(true)
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
            Err(errno) => Err(self.failed("write", path, errno)),
        }
    }

    /// Opens the file at `path` for a lock, and creates it (0600) if it is missing. An error if it may be another user's file by a second name.
    pub fn lock_file(&self, path: &Path) -> Result<File> {
        let (parent, name) = self.writable_parent(path)?;
        let is_new = self.meta(path)?.is_none();
        let fd = self.open_at((&parent, &name), OFlag::O_RDWR | OFlag::O_CREAT, "open", path)?;
        self.own(&fd, &parent, path)?;
        if is_new && let Some(context) = self.label(&parent, &name, FileType::File) {
            self.set_attribute(&fd, path, &context)?;
        }
        Ok(File::from(fd))
    }

    /// Creates the new file `temporary` in `parent` for `path`.
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
    // file systems allow names of 255 bytes
    let short: String = name.chars().take(50).collect();
    format!(".{short}.kpull-new").into()
}

/// Removes what a killed run left behind under a temporary name.
fn clear(parent: &OwnedFd, temporary: &Path) {
    for flag in [UnlinkatFlags::NoRemoveDir, UnlinkatFlags::RemoveDir] {
        let _ = nix::unistd::unlinkat(parent, temporary, flag);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{PLAIN, tree};
    use super::*;
    use crate::error::error;

    #[test]
    fn a_nameless_file_is_nowhere_until_it_gets_its_place() {
        let (dir, root) = tree();
        let path = Path::new("/opt/bin/tool");
        let mut file = root.nameless(path).unwrap().unwrap();
        file.write_all(b"x").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        root.place(path, file, PLAIN, &|_| Ok(())).unwrap();
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
        root.place(Path::new("/f"), file, PLAIN, &|_| Ok(())).unwrap();
        assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"copied");
    }

    #[test]
    fn a_nameless_file_that_fails_its_check_leaves_the_old_one() {
        let (dir, root) = tree();
        root.write(Path::new("/f"), b"old", PLAIN).unwrap();
        let file = root.nameless(Path::new("/f")).unwrap().unwrap();
        root.place(Path::new("/f"), file, PLAIN, &|_| Err(error!(FILE, "no"))).unwrap_err();
        assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_run_left_behind_is_replaced() {
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
        // neither what is not a file nor what may be somebody's
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
