//! Batches of files: written completely, synced together, and then linked to their places.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};

use super::{Access, Root, reopen};
use crate::error::{Error, Result};
use crate::host::sync;

/// Files and directories in a batch at most: each is an open file, of which a service may have 1024 by default.
const BATCH: usize = 256;

/// What was written and is not synced yet.
#[derive(Debug, Default)]
pub(super) struct Batch {
    files: Vec<Staged>,
    /// Directories in which names have changed, with one path in each.
    directories: Vec<(Rc<OwnedFd>, PathBuf)>,
    /// How many may wait, once that is known.
    most: Option<usize>,
}

/// A complete file that has no name until its content is synced.
#[derive(Debug)]
struct Staged {
    path: PathBuf,
    parent: Rc<OwnedFd>,
    name: PathBuf,
    file: File,
}

impl Root {
    /// Starts a batch: until [`Root::settle`], files that [`Root::write`] writes keep their old content, and changes of directories may
    /// be lost in a power failure.
    pub fn gather(&self) {
        self.batch.borrow_mut().get_or_insert_default();
    }

    /// Whether the batch should be [settled](Root::settle) now.
    pub fn has_gathered_enough(&self) -> bool {
        let mut batch = self.batch.borrow_mut();
        let Some(batch) = batch.as_mut() else { return false };
        let count = batch.files.len() + batch.directories.len();
        count >= 16 && count >= batch.most()
    }

    /// Syncs the batch, and then puts each file in its place, with either all of its content or the old one. Returns the first failure
    /// with its path; the other files are put in their places all the same.
    pub fn settle(&self) -> Result<(), (PathBuf, Error)> {
        let Some(Batch { files, mut directories, .. }) = self.batch.take() else { return Ok(()) };
        let mut first = Ok(());
        let synced = sync::files(&files.iter().map(|one| &one.file).collect::<Vec<_>>());
        for (staged, synced) in files.into_iter().zip(synced) {
            let path = staged.path.clone();
            directories.push((staged.parent.clone(), path.clone()));
            let placed =
                synced.map_err(|error| self.failed_io("write", &path, error)).and_then(|()| self.give_place(&staged));
            first = first.and(placed.map_err(|error| (path, error)));
        }
        directories.sort_by_key(|(directory, _)| Rc::as_ptr(directory));
        directories.dedup_by_key(|(directory, _)| Rc::as_ptr(directory));
        for (directory, path) in directories {
            let synced = self.sync_directory(&directory, &path);
            first = first.and(synced.map_err(|error| (path, error)));
        }
        first
    }

    /// Gives a file its name, replacing any file or link.
    fn give_place(&self, Staged { path, parent, name, file }: &Staged) -> Result<()> {
        let named = |name: &Path| give_name(file, parent, name);
        let failed = |errno| self.failed("replace", path, errno);
        match named(name) {
            // linking can't replace a name, renaming can
            Err(Errno::EEXIST) => self.replace((parent, name), path, |temporary| named(temporary).map_err(failed)),
            done => done.map_err(failed),
        }
    }

    /// Syncs all that `work` writes together at its end. Meanwhile, reads return the old content.
    pub fn together<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.gather();
        let done = work();
        // also what was written before a failure
        let settled = self.settle().map_err(|(_, error)| error);
        done.and_then(|done| settled.map(|()| done))
    }

    /// Adds a file to the batch; `false` if the file system doesn't support files without a name.
    pub(super) fn stage(&self, path: &Path, content: &[u8], access: Access) -> Result<bool> {
        let (parent, name) = self.writable_parent(path)?;
        let Some(mut file) = self.nameless(path)? else { return Ok(false) };
        file.write_all(content).map_err(|error| self.failed_io("write", path, error))?;
        self.furnish(&file, (&parent, &name), path, access)?;
        if let Some(batch) = self.batch.borrow_mut().as_mut() {
            batch.touched(&parent, path);
            batch.files.push(Staged { path: path.to_owned(), parent, name, file });
        }
        Ok(true)
    }

    /// Syncs the names in a directory, now or with the batch.
    pub(super) fn sync(&self, directory: &Rc<OwnedFd>, path: &Path) -> Result<()> {
        let mut batch = self.batch.borrow_mut();
        let Some(batch) = batch.as_mut() else { return self.sync_directory(directory, path) };
        batch.touched(directory, path);
        // one path may have more new directories than there may be open files
        if batch.directories.len() > batch.most().max(16) {
            for (directory, path) in std::mem::take(&mut batch.directories) {
                self.sync_directory(&directory, &path)?;
            }
        }
        Ok(())
    }

    fn sync_directory(&self, parent: &OwnedFd, path: &Path) -> Result<()> {
        let dir = reopen(parent).map_err(|errno| self.failed("open the directory of", path, errno))?;
        nix::unistd::fsync(&dir).map_err(|errno| self.failed("write the directory of", path, errno))
    }
}

impl Batch {
    /// How many may wait.
    fn most(&mut self) -> usize {
        use nix::sys::resource::{Resource, getrlimit};

        let open_files = || {
            let (most, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
            usize::try_from(most / 4).ok()
        };
        *self.most.get_or_insert_with(|| open_files().unwrap_or(BATCH).min(BATCH))
    }

    /// Records that names in a directory have changed.
    fn touched(&mut self, directory: &Rc<OwnedFd>, path: &Path) {
        if self.directories.last().is_none_or(|(last, _)| !Rc::ptr_eq(last, directory)) {
            self.directories.push((directory.clone(), path.to_owned()));
        }
    }
}

/// Gives a file that has no name one in a directory.
pub(super) fn give_name(file: &File, parent: &OwnedFd, name: &Path) -> nix::Result<()> {
    match nix::unistd::linkat(file, "", parent, name, AtFlags::AT_EMPTY_PATH) {
        // this needs root, or Linux 6.10
        Err(Errno::ENOENT) => {
            let nameless = format!("/proc/self/fd/{}", file.as_raw_fd());
            nix::unistd::linkat(AT_FDCWD, &*nameless, parent, name, AtFlags::AT_SYMLINK_FOLLOW)
        }
        linked => linked,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{PLAIN, tree};
    use super::*;

    #[test]
    fn what_is_gathered_has_its_place_when_all_is_on_the_disk() {
        let (dir, root) = tree();
        let at = |name: &str| std::fs::read_to_string(dir.path().join(name)).ok();
        root.write(Path::new("/old"), b"old", PLAIN).unwrap();
        std::os::unix::fs::symlink("old", dir.path().join("link")).unwrap();
        root.gather();
        for path in ["/old", "/link", "/a/b/new"] {
            root.write(Path::new(path), path.as_bytes(), PLAIN).unwrap();
        }
        assert_eq!((at("old").unwrap(), at("link").unwrap(), at("a/b/new")), ("old".into(), "old".into(), None));
        assert_eq!(root.names(Path::new("/")).unwrap(), ["a", "link", "old"], "nothing beside them");
        root.settle().unwrap();
        for path in ["old", "link", "a/b/new"] {
            assert_eq!(at(path).unwrap(), format!("/{path}"));
        }
        assert_eq!(root.names(Path::new("/")).unwrap(), ["a", "link", "old"]);
        root.write(Path::new("/old"), b"at once", PLAIN).unwrap();
        assert_eq!(at("old").unwrap(), "at once");
    }

    #[test]
    fn a_file_of_a_batch_that_can_t_be_placed_is_reported_and_the_others_are_placed() {
        let (dir, root) = tree();
        root.gather();
        for path in ["/a", "/b", "/c"] {
            root.write(Path::new(path), b"new", PLAIN).unwrap();
        }
        std::fs::create_dir(dir.path().join("b")).unwrap();
        let (path, error) = root.settle().unwrap_err();
        assert_eq!((path.as_path(), error.to_string().as_str()), (Path::new("/b"), "can't replace /b: Is a directory"));
        assert!(dir.path().join("a").is_file() && dir.path().join("c").is_file());
        assert_eq!(root.names(Path::new("/")).unwrap(), ["a", "b", "c"]);
    }
}
