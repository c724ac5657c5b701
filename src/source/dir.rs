//! Releases from a directory on this host: a mounted share, a USB stick, or a copy made by another program.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::dir::{Dir as Entries, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use super::{Poll, Source, digest, segments, too_big};
use crate::document::Tree;
use crate::document::layout::{LARGEST_MANIFEST, MANIFEST, SIGNATURES};
use crate::error::{Context, Error, Result, code, error, refused};
use crate::read;

/// A directory.
pub(super) struct Dir {
    path: PathBuf,
}

/// The directory as it was opened.
struct Opened {
    path: PathBuf,
    root: OwnedFd,
}

/// The directory, with the two files that its cursor is for.
struct DirTree {
    dir: Opened,
    release: Vec<u8>,
    signatures: Option<Vec<u8>>,
}

/// The name of the source at `path`.
pub(super) fn name(path: &Path) -> String {
    format!("dir {}", path.display())
}

impl Dir {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf() }
    }
}

impl Source for Dir {
    fn name(&self) -> String {
        name(&self.path)
    }

    fn poll(&mut self, cursor: Option<&str>) -> Result<Poll> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(&self.path, flags, Mode::empty()).map_err(|why| {
            Error::of(code::DIR, format!("the directory {} can't be opened", self.path.display()), &why)
                .or_help("mount or create it, or correct `dir`")
        })?;
        let dir = Opened { path: self.path.clone(), root };
        let Some(release) = dir.read(MANIFEST, LARGEST_MANIFEST)? else {
            return Err(error!(DIR, "{} has no {MANIFEST}", self.path.display())
                .help("publish a release there, or correct `dir`"));
        };
        let signatures = dir.read(SIGNATURES, LARGEST_MANIFEST)?;
        let now = digest(&[Some(&release), signatures.as_deref()]);
        if cursor == Some(&now) {
            return Ok(Poll::Unchanged);
        }
        Ok(Poll::News(Box::new(DirTree { dir, release, signatures }), now))
    }
}

impl Tree for DirTree {
    fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
        // the bytes that the cursor is for, even if the files have been replaced since
        let kept = match path {
            MANIFEST => Some(&self.release),
            SIGNATURES => self.signatures.as_ref(),
            _ => return self.dir.read(path, max),
        };
        match kept {
            Some(bytes) if bytes.len() as u64 > max => Err(too_big(&self.dir.path.display().to_string(), path, max)),
            kept => Ok(kept.cloned()),
        }
    }

    fn list(&self) -> Result<Option<Vec<String>>> {
        let mut found = Vec::new();
        let Opened { path, root } = &self.dir;
        let root = root.try_clone().context(code::DIR, || format!("reading {}", path.display()))?;
        walk(root, path, "", &mut found)?;
        found.sort();
        Ok(Some(found))
    }
}

impl Opened {
    /// Reads one regular file. No name of the path may be a symlink, so that only files in the directory itself are read. Opening name
    /// by name also works on kernels without `openat2`.
    fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let names = segments(path)?;
        let Some((file_name, parents)) = names.split_last() else { return Ok(None) };
        // without O_NONBLOCK, opening a pipe would wait for a writer
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match self.directory(parents).and_then(|at| openat(&at, *file_name, flags, Mode::empty())) {
            Ok(fd) => File::from(fd),
            Err(why) => return missing_or_refused(why, &self.path, path),
        };
        let what = || format!("reading {}", self.path.join(path).display());
        let meta = file.metadata().context(code::DIR, what)?;
        if !meta.is_file() {
            return Err(not_a_file(&self.path, path));
        }
        match read::whole(&file, meta.len(), max) {
            Err(why) if why.kind() == io::ErrorKind::FileTooLarge => {
                Err(too_big(&self.path.display().to_string(), path, max))
            }
            content => content.map(Some).context(code::DIR, what),
        }
    }

    fn directory(&self, names: &[&str]) -> std::result::Result<OwnedFd, Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let first = openat(&self.root, ".", flags, Mode::empty());
        names.iter().try_fold(first?, |at, name| openat(&at, *name, flags, Mode::empty()))
    }
}

fn missing_or_refused(why: Errno, root: &Path, path: &str) -> Result<Option<Vec<u8>>> {
    match why {
        Errno::ENOENT => Ok(None),
        // a symlink, a parent that isn't a directory (which a symlink isn't either), a socket
        Errno::ELOOP | Errno::ENOTDIR | Errno::ENXIO => Err(not_a_file(root, path)),
        why => Err(Error::of(code::DIR, format!("{} can't be read", root.join(path).display()), &why)
            .or_help("allow the user that runs kpull to read it")),
    }
}

fn not_a_file(root: &Path, path: &str) -> Error {
    refused!(DIR, "{} is not a regular file inside the directory", root.join(path).display())
        .help("symlinks, directories and special files can't be part of a site: replace it with the file itself")
}

/// Adds the path of everything below `at` that isn't a directory.
fn walk(at: OwnedFd, root: &Path, prefix: &str, found: &mut Vec<String>) -> Result<()> {
    let what = || format!("listing {}", root.join(prefix).display());
    // a separate open file, so that reading doesn't move the position of another one
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut entries = Entries::openat(&at, ".", flags, Mode::empty()).context(code::DIR, what)?;
    for entry in entries.iter() {
        let entry = entry.context(code::DIR, what)?;
        let Ok(name) = entry.file_name().to_str() else {
            let name = entry.file_name().to_string_lossy();
            return Err(refused!(DIR, "the name of {}{name} is not UTF-8", root.join(prefix).display())
                .help("rename or remove it"));
        };
        if matches!(name, "." | "..") || (prefix.is_empty() && name == ".git") {
            continue;
        }
        let path = format!("{prefix}{name}");
        let below = match entry.file_type() {
            Some(Type::Directory) | None => match openat(&at, name, flags, Mode::empty()) {
                Ok(below) => Some(below),
                // the file system didn't return the type: opening it shows whether it is a directory
                Err(Errno::ENOTDIR | Errno::ELOOP) => None,
                Err(why) => return Err(why).context(code::DIR, what),
            },
            Some(_) => None,
        };
        match below {
            Some(below) => walk(below, root, &format!("{path}/"), found)?,
            None => found.push(path),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn site() -> tempfile::TempDir {
        let site = tempfile::tempdir().unwrap();
        fs::write(site.path().join(MANIFEST), "release").unwrap();
        fs::write(site.path().join(SIGNATURES), "signature").unwrap();
        fs::create_dir_all(site.path().join("roles/etcd")).unwrap();
        fs::write(site.path().join("roles/etcd/role.toml"), "role").unwrap();
        site
    }

    fn news(dir: &Path, cursor: Option<&str>) -> (Box<dyn Tree>, String) {
        match Dir::new(dir).poll(cursor).unwrap() {
            Poll::News(tree, cursor) => (tree, cursor),
            Poll::Unchanged => panic!("no news"),
        }
    }

    fn problem(tree: &dyn Tree, path: &str) -> String {
        tree.read(path, 1000).unwrap_err().to_string()
    }

    #[test]
    fn a_directory_is_news_until_it_is_known_and_again_when_it_changes() {
        let site = site();
        let (tree, cursor) = news(site.path(), None);
        assert_eq!(tree.read("roles/etcd/role.toml", 4).unwrap().as_deref(), Some(&b"role"[..]));
        assert!(matches!(Dir::new(site.path()).poll(Some(&cursor)).unwrap(), Poll::Unchanged));
        fs::write(site.path().join(SIGNATURES), "another").unwrap();
        let (_, changed) = news(site.path(), Some(&cursor));
        assert_ne!(cursor, changed);
    }

    #[test]
    fn the_state_of_the_cursor_stays_when_the_file_is_replaced() {
        let site = site();
        let (tree, _) = news(site.path(), None);
        fs::write(site.path().join(MANIFEST), "newer").unwrap();
        assert_eq!(tree.read(MANIFEST, 100).unwrap().as_deref(), Some(&b"release"[..]));
        let error = tree.read(MANIFEST, 6).unwrap_err();
        assert!(error.to_string().ends_with("release.toml has more than 6 bytes"), "{error}");
    }

    #[test]
    fn a_missing_file_is_none_and_a_big_one_an_error() {
        let site = site();
        let (tree, _) = news(site.path(), None);
        assert!(tree.read("roles/none", 10).unwrap().is_none());
        assert!(tree.read("none/none", 10).unwrap().is_none());
        let error = tree.read("roles/etcd/role.toml", 3).unwrap_err();
        assert!(error.to_string().ends_with("roles/etcd/role.toml has more than 3 bytes"), "{error}");
    }

    #[test]
    fn no_symlink_is_followed_neither_at_the_end_nor_on_the_way() {
        let site = site();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        symlink(outside.path().join("secret"), site.path().join("link")).unwrap();
        symlink(outside.path(), site.path().join("way")).unwrap();
        symlink("roles/etcd/role.toml", site.path().join("inside")).unwrap();
        let (tree, _) = news(site.path(), None);
        for path in ["link", "way/secret", "inside"] {
            assert!(problem(&*tree, path).contains("is not a regular file"), "{path}");
        }
    }

    #[test]
    fn a_directory_and_a_pipe_are_not_files_and_a_pipe_does_not_block() {
        let site = site();
        nix::unistd::mkfifo(&site.path().join("pipe"), Mode::S_IRWXU).unwrap();
        let (tree, _) = news(site.path(), None);
        assert!(problem(&*tree, "pipe").contains("is not a regular file"));
        assert!(problem(&*tree, "roles").contains("is not a regular file"));
    }

    #[test]
    fn the_list_has_every_file_and_link_but_not_gits_own() {
        let site = site();
        fs::create_dir(site.path().join(".git")).unwrap();
        fs::write(site.path().join(".git/config"), "").unwrap();
        symlink("/etc", site.path().join("link")).unwrap();
        let (tree, _) = news(site.path(), None);
        let expected = ["link", MANIFEST, SIGNATURES, "roles/etcd/role.toml"];
        assert_eq!(tree.list().unwrap().unwrap(), expected);
        assert_eq!(tree.list().unwrap().unwrap(), expected);
    }

    #[test]
    fn a_missing_directory_and_a_missing_release_say_so() {
        let empty = tempfile::tempdir().unwrap();
        let error = Dir::new(empty.path()).poll(None).err().unwrap();
        assert!(error.to_string().ends_with("has no release.toml"), "{error}");
        let error = Dir::new(&empty.path().join("none")).poll(None).err().unwrap();
        assert!(error.to_string().contains("none can't be opened"), "{error}");
    }

    #[test]
    fn a_path_out_of_the_directory_is_refused() {
        let (tree, _) = news(site().path(), None);
        assert!(problem(&*tree, "../release.toml").contains("not a path inside a site"));
    }
}
