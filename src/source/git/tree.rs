//! The files of one commit.

use std::error::Error as StdError;
use std::path::{Path, PathBuf};

use gix_hash::{Kind, ObjectId};
use gix_object::tree::EntryRef;
use gix_object::{Exists, FindExt};
use gix_odb::HeaderExt;
use gix_ref::file::ReferenceExt;

use super::{Refs, empty, first_words, other_format};
use crate::document::{Tree, repository};
use crate::error::{Error, Result, code, error, refused};
use crate::source::{segments, too_big};

/// Files of a tree at most: a few kilobytes of git objects can claim billions.
const FILES_MAX: usize = 100_000;

/// The objects of a repository.
pub(super) type Objects = gix_odb::Handle;

/// Opens the objects in a directory.
pub(super) fn objects(dir: PathBuf) -> Result<Objects, String> {
    gix_odb::at(dir, Kind::Sha1).map_err(|why| why.to_string())
}

/// Opens the repository at `path` on this host: its objects, and its refs with their peeled targets.
pub(super) fn open(path: &Path, name: &str) -> Result<(Objects, Refs)> {
    let not_one = |why: String| {
        error!(GIT, "{name} is not a git repository")
            .because(why)
            .help("correct `git`; a plain directory is a source too: dir = \"PATH\"")
    };
    // gix asks for it, even if the path is absolute
    std::env::current_dir().map_err(|why| {
        error!(GIT, "can't open {name} in a working directory that no longer exists")
            .because(why.to_string())
            .help("run again in another directory, such as after `cd /`")
    })?;
    let inside = path.join(".git");
    let dir = if inside.exists() { inside } else { path.to_path_buf() };
    let kind = gix_discover::is_git(&dir).map_err(|why| not_one(first_words(&why)))?;
    let (dir, _) = gix_discover::repository::Path::from_dot_git_dir(dir, kind, path)
        .ok_or_else(|| not_one("it points out of the file system".into()))?
        .into_repository_and_work_tree_directories();
    // a linked worktree shares objects and branches with the repository
    let store = match gix_discover::path::from_plain_file_relative_to_file(&dir.join("commondir")) {
        Some(common) => {
            let common = common.map_err(|why| not_one(why.to_string()))?;
            gix_ref::file::Store::for_linked_worktree(dir, common, Kind::Sha1)
        }
        None => gix_ref::file::Store::at(dir, Kind::Sha1),
    };
    let common = store.common_dir_resolved();
    let config = std::fs::read_to_string(common.join("config")).unwrap_or_default().to_ascii_lowercase();
    if config.lines().any(|line| line.split_whitespace().collect::<String>() == "objectformat=sha256") {
        return Err(other_format(name));
    }
    let objects = objects(common.join("objects")).map_err(not_one)?;
    let unreadable = |why: &(dyn StdError + 'static)| not_one(first_words(why));
    let head = store.find("HEAD").ok();
    let platform = store.iter().map_err(|why| unreadable(&why))?;
    let others = platform.all().map_err(|why| unreadable(&why))?;
    let mut refs = Refs::new();
    for mut reference in head.into_iter().chain(others.flatten()) {
        let name = reference.name.as_bstr().to_string();
        // ignore a dangling ref
        if let Ok(id) = reference.peel_to_id(&store, &objects) {
            refs.push((name, id));
        }
    }
    Ok((objects, refs))
}

/// Why the objects of a repository can't be used.
type Cause = Box<dyn StdError>;

/// The files of one commit.
pub(super) struct GitTree {
    objects: Objects,
    root: ObjectId,
    name: String,
    /// The cache, which is emptied if an object in it is broken, so that the next run fetches it again.
    cache: Option<PathBuf>,
}

impl GitTree {
    /// The tree of the commit `id`; an error if part of it is missing.
    pub fn new(objects: Objects, id: ObjectId, name: &str, cache: Option<PathBuf>) -> Result<Self, String> {
        let mut buffer = Vec::new();
        let root = objects.find_commit(&id, &mut buffer).map_err(|why| first_words(&why))?.tree();
        let tree = Self { objects, root, name: name.to_owned(), cache };
        tree.walk(|_, entry| {
            if entry.mode.is_commit() || tree.objects.exists(entry.oid) {
                return Ok(());
            }
            Err(format!("object {} is missing", entry.oid).into())
        })
        .map_err(|why| first_words(&*why))?;
        Ok(tree)
    }

    /// Visits every entry that isn't a tree, with the path of its parent, which ends in `/` or is empty.
    fn walk(&self, mut visit: impl FnMut(&[u8], &EntryRef<'_>) -> Result<(), Cause>) -> Result<(), Cause> {
        let mut left = FILES_MAX;
        let mut below = vec![(Vec::new(), self.root)];
        let mut buffer = Vec::new();
        while let Some((prefix, id)) = below.pop() {
            let tree = self.objects.find_tree(&id, &mut buffer)?;
            for entry in &tree.entries {
                left = left.checked_sub(1).ok_or_else(|| format!("more than {FILES_MAX} files and directories"))?;
                if entry.mode.is_tree() {
                    below.push(([&prefix[..], entry.filename, b"/"].concat(), entry.oid.to_owned()));
                } else {
                    visit(&prefix, entry)?;
                }
            }
        }
        Ok(())
    }

    /// The size of an object. Its header has it, before anything is unpacked.
    fn size(&self, id: ObjectId) -> Result<u64> {
        self.objects.header(id).map(|header| header.size()).map_err(|why| self.broken(&why))
    }

    fn broken(&self, why: &(dyn StdError + 'static)) -> Error {
        let error = Error::of(code::GIT, format!("{}: an object can't be read", self.name), why);
        // this host may be the cause, not the object: too many open files
        if error.advice().is_some() {
            return error;
        }
        match &self.cache {
            Some(cache) => {
                let _ = empty(cache);
                error.help("the local copy was damaged and has been removed: run kpull again to fetch it")
            }
            None => error.help("`git fsck` in the repository shows more"),
        }
    }
}

impl Tree for GitTree {
    fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let mut buffer = Vec::new();
        let mut id = self.root;
        let mut names = segments(path)?.into_iter().peekable();
        while let Some(name) = names.next() {
            let tree = self.objects.find_tree(&id, &mut buffer).map_err(|why| self.broken(&why))?;
            let Some(entry) = tree.entries.iter().find(|entry| entry.filename == name) else { return Ok(None) };
            id = entry.oid.to_owned();
            if entry.mode.is_commit() {
                return Err(refused!(GIT, "{}: {path} is in a submodule", self.name)
                    .because("a submodule is another repository; this one contains only a link to it")
                    .help("commit the files themselves: `git rm --cached` it, remove its .git and `git add` it; or copy roles of other sites with `kpull vendor`"));
            }
            if names.peek().is_some() && !entry.mode.is_tree() {
                return Ok(None);
            }
            if names.peek().is_none() && !entry.mode.is_blob() {
                return Err(refused!(GIT, "{}: {path} is not a file", self.name)
                    .help("kpull does not read symlinks, submodules and directories: commit the file itself"));
            }
        }
        if self.size(id)? > max {
            return Err(too_big(&self.name, path, max));
        }
        let mut blob = Vec::new();
        self.objects.find_blob(&id, &mut blob).map_err(|why| self.broken(&why))?;
        Ok(Some(blob))
    }

    fn object(&self, id: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let object = repository::commit(id)?;
        if !self.objects.exists(&object) {
            return Ok(None);
        }
        if self.size(object)? > max {
            return Err(error!(GIT, "an object has more than {max} bytes")
                .help("remove large files from the repository: pin them in artifacts.toml"));
        }
        let mut content = Vec::new();
        self.objects.find(&object, &mut content).map_err(|why| self.broken(&why))?;
        Ok(Some(content))
    }

    fn list(&self) -> Result<Option<Vec<String>>> {
        let mut found = Vec::new();
        self.walk(|prefix, entry| {
            // a submodule is not a file, and reading one is an error
            if !entry.mode.is_commit() {
                found.push([prefix, entry.filename].concat());
            }
            Ok(())
        })
        .map_err(|why| self.broken(&*why))?;
        let mut paths = Vec::with_capacity(found.len());
        for path in found {
            paths.push(String::from_utf8(path).map_err(|why| {
                let name = String::from_utf8_lossy(why.as_bytes()).into_owned();
                refused!(GIT, "{}: the name of {name} is not UTF-8", self.name).help("rename or remove it")
            })?);
        }
        paths.sort();
        Ok(Some(paths))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::Stdio;

    use super::super::testing::{Fixture, news, problem, release};
    use crate::net::testing::git_command;
    use crate::source::{Poll, Source};

    #[test]
    fn links_and_submodules_are_listed_but_not_read() {
        let fixture = Fixture::new();
        std::os::unix::fs::symlink("/etc/passwd", fixture.site().join("link")).unwrap();
        let id = fixture.git(&["rev-parse", "HEAD"]);
        fixture.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{id},module")]);
        fixture.git(&["add", "link"]);
        fixture.git(&["commit", "-q", "-m", "odd things"]);
        let server = fixture.serve();
        let (tree, _) = news(&mut fixture.over(&server, ""), None);
        assert_eq!(tree.list().unwrap().unwrap(), ["link", "release.toml"]);
        let error = tree.read("link", 100).unwrap_err();
        assert!(error.to_string().ends_with("link is not a file"), "{error}");
        for path in ["module", "module/x"] {
            let error = tree.read(path, 100).unwrap_err().to_string();
            assert!(error.contains(&format!("{path} is in a submodule: ")), "{error}");
        }
        for path in ["link/x", "release.toml/x"] {
            assert!(tree.read(path, 100).unwrap().is_none(), "{path}");
        }
        assert!(fixture.cache().exists());
        assert!(tree.read("none", 100).unwrap().is_none());
        let error = tree.read("../release.toml", 100).unwrap_err();
        assert_eq!(error.to_string(), "`../release.toml` is not a path inside a site");
    }

    #[test]
    fn a_file_is_not_read_when_it_is_too_big() {
        let fixture = Fixture::new();
        let (tree, _) = news(&mut fixture.source(&format!("git = 'file://{}'", fixture.site().display())), None);
        assert!(tree.read("release.toml", 5).unwrap().is_some());
        let error = tree.read("release.toml", 4).unwrap_err();
        assert!(error.to_string().ends_with("release.toml has more than 4 bytes"), "{error}");
    }

    #[test]
    fn a_tree_that_claims_too_many_files_is_refused() {
        let fixture = Fixture::new();
        let mut tree = fixture.git(&["rev-parse", "HEAD^{tree}"]);
        // Twelve trees of ten names each: a trillion files in a kilobyte.
        for _ in 0..12 {
            let lines: String = (0..10).map(|n| format!("040000 tree {tree}\td{n}\n")).collect();
            let mut child = git_command(&fixture.site())
                .arg("mktree")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
            tree = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned();
        }
        let bomb = fixture.git(&["commit-tree", "-m", "bomb", &tree]);
        fixture.git(&["update-ref", "refs/heads/main", &bomb]);
        let server = fixture.serve();
        let error = problem(&mut fixture.over(&server, ""));
        assert!(error.to_string().ends_with("more than 100000 files and directories"), "{error}");
    }

    #[test]
    fn a_repository_on_this_host_is_read_in_place() {
        let fixture = Fixture::new();
        let mut source = fixture.source(&format!("git = '{}'", fixture.site().display()));
        let (tree, cursor) = news(&mut source, None);
        assert_eq!(release(&*tree), "first");
        assert!(matches!(source.poll(Some(&cursor)).unwrap(), Poll::Unchanged));
        fixture.commit("release.toml", "second");
        assert_eq!(release(&*news(&mut source, Some(&cursor)).0), "second");
        assert!(!fixture.cache().exists());
    }

    #[test]
    fn a_worktree_beside_a_repository_has_its_own_head_and_shares_the_rest() {
        let fixture = Fixture::new();
        let first = fixture.git(&["rev-parse", "HEAD"]);
        fixture.git(&["worktree", "add", "-q", "-b", "other", "../beside"]);
        let second = fixture.commit("release.toml", "second");
        fixture.git(&["gc", "-q"]);
        let beside = fixture.dir.path().join("beside").display().to_string();
        let (tree, cursor) = news(&mut fixture.source(&format!("git = '{beside}'")), None);
        assert_eq!((release(&*tree).as_str(), cursor), ("first", first));
        let (tree, cursor) = news(&mut fixture.source(&format!("git = '{beside}'\nbranch = 'main'")), None);
        assert_eq!((release(&*tree).as_str(), cursor), ("second", second));
        let error = problem(&mut fixture.source(&format!("git = '{beside}'\nbranch = 'production'")));
        assert_eq!(error.advice(), Some("it has main, other"));
    }
}
