//! Commits of git repositories: fetched once, checked object by object, and stored as a tar among the artifacts.
//!
//! What fetches is trusted no more than the network. The id of a commit is the digest of what names its tree, and so on down to each
//! file, so every object is hashed here, with git's own detection of collisions.

use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use gix_hash::{Kind as Hash, ObjectId};
use gix_object::tree::EntryKind;
use gix_object::{CommitRefIter, Kind, TreeRefIter, compute_hash};

use crate::document::{Format, Pin, Tree, repository};
use crate::error::{Context, Error, Result, code, error};
use crate::net::download::{Downloaded, hash};
use crate::store::Store;

/// The most bytes of one object, which is held in memory.
const OBJECT_MAX: u64 = 256 << 20;
/// The most bytes of all objects of a commit.
const BYTES_MAX: u64 = 4 << 30;
/// The most files and directories of a commit.
const ENTRIES_MAX: usize = 100_000;
/// How many digits of an id messages have.
const SHORT: usize = 12;

/// A commit, and a repository that has it.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The address of the repository.
    pub url: String,
    /// The whole id, in lower-case hex.
    pub id: String,
}

impl Commit {
    /// The beginning of the id, for people.
    pub fn short(&self) -> &str {
        self.id.get(..SHORT).unwrap_or(&self.id)
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.url, self.short())
    }
}

/// Fetches commits.
pub trait Repositories: fmt::Debug {
    /// The commit as a tree whose objects can be read. `cache` is a directory of its own that may be emptied at any time.
    fn open(&self, commit: &Commit, cache: &Path) -> Result<Box<dyn Tree>>;
}

/// Where the digest and the size of the tar of a commit are.
fn record(commit: &Commit) -> String {
    format!("artifacts/{}.commit.json", commit.id)
}

impl Store {
    /// The tar of a commit, if it was fetched before.
    pub fn commit(&self, commit: &Commit) -> Result<Option<Pin>> {
        Ok(self.read(&record(commit))?.map(|Downloaded { sha256, size }| Pin {
            name: commit.to_string(),
            version: commit.id.clone(),
            urls: Vec::new(),
            sha256,
            size: Some(size),
            format: Format::Tar,
        }))
    }

    /// Fetches a commit unless its tar is stored already.
    pub fn fetch_commit(&self, commit: &Commit) -> Result<Pin> {
        let dir = self.artifacts_dir()?;
        if let Some(pin) = self.commit(commit)? {
            let stored = File::open(dir.join(&pin.sha256)).and_then(|mut file| hash(&mut file));
            if stored.is_ok_and(|stored| stored.sha256 == pin.sha256) {
                return Ok(pin);
            }
        }
        let repositories = self.repositories.as_ref();
        let repositories =
            repositories.ok_or_else(|| error!(GIT, "this command fetches nothing from git repositories"))?;
        let objects = repositories.open(commit, &self.dir().join("cache").join("commit")).map_err(Error::passing)?;
        let part = dir.join("commit.part");
        let what = || format!("can't write {}", part.display());
        let file = File::create(&part).context(code::GIT, what)?;
        Packing { commit, objects: &*objects, bytes: BYTES_MAX, entries: ENTRIES_MAX }.pack(&file, &what)?;
        file.sync_all().context(code::GIT, what)?;
        let tar = File::open(&part).and_then(|mut file| hash(&mut file)).context(code::GIT, what)?;
        std::fs::rename(&part, dir.join(&tar.sha256)).context(code::GIT, what)?;
        self.write(&record(commit), &tar)?;
        drop(objects);
        self.root().remove_all(Path::new("/cache/commit"))?;
        self.commit(commit)?.ok_or_else(|| error!(STORE, "the record of {commit} is missing"))
    }
}

/// A commit on its way into a tar.
struct Packing<'a> {
    commit: &'a Commit,
    objects: &'a dyn Tree,
    /// Bytes and entries that are left.
    bytes: u64,
    entries: usize,
}

impl Packing<'_> {
    fn refuse(&self, why: &str) -> Error {
        error!(GIT, "{}: {why}", self.commit)
            .help("nothing was changed; `git fsck` in a clone shows whether the repository itself is damaged")
    }

    /// An object of this kind, whose content is what its id says.
    fn read(&mut self, kind: Kind, id: ObjectId, what: &str) -> Result<Vec<u8>> {
        let read = self.objects.object(&id.to_string(), OBJECT_MAX.min(self.bytes));
        let read = read.map_err(|error| {
            let code = error.code();
            error.wrapped(code, format!("{}: can't read {what}", self.commit))
        })?;
        let content = read.ok_or_else(|| self.refuse(&format!("{what} is missing")))?;
        self.bytes = self.bytes.saturating_sub(content.len() as u64);
        match compute_hash(Hash::Sha1, kind, &content) {
            Ok(found) if found == id => Ok(content),
            Ok(_) => Err(self.refuse(&format!("the content of {what} does not match its id {id}"))),
            Err(why) => Err(self.refuse(&format!("{what} can't be trusted")).because(why)),
        }
    }

    /// Writes all files and links, as `git archive` does: nothing of submodules.
    fn pack(mut self, to: impl Write, what: &dyn Fn() -> String) -> Result<()> {
        let id = repository::commit(&self.commit.id)?;
        let commit = self.read(Kind::Commit, id, "the commit")?;
        let top = CommitRefIter::from_bytes(&commit, Hash::Sha1).tree_id();
        let top = top.map_err(|why| self.refuse("the commit names no tree").because(why))?;
        let mut archive = tar::Builder::new(BufWriter::new(to));
        let mut left = vec![(String::new(), top)];
        while let Some((directory, id)) = left.pop() {
            let named = if directory.is_empty() { "its top directory" } else { &directory };
            let tree = self.read(Kind::Tree, id, named)?;
            for entry in TreeRefIter::from_bytes(&tree, Hash::Sha1) {
                let entry = entry.map_err(|why| self.refuse(&format!("{named} can't be parsed")).because(why))?;
                let entries = self.entries.checked_sub(1);
                self.entries = entries
                    .ok_or_else(|| self.refuse(&format!("it has more than {ENTRIES_MAX} files and directories")))?;
                let path = format!("{directory}{}", self.name(entry.filename)?);
                let mut header = tar::Header::new_gnu();
                header.set_mtime(0);
                let kind = entry.mode.kind();
                let written = match kind {
                    EntryKind::Tree => {
                        left.push((format!("{path}/"), entry.oid.to_owned()));
                        continue;
                    }
                    EntryKind::Commit => continue,
                    EntryKind::Link => {
                        let target = self.read(Kind::Blob, entry.oid.to_owned(), &path)?;
                        header.set_entry_type(tar::EntryType::Symlink);
                        header.set_mode(0o777);
                        header.set_size(0);
                        archive.append_link(&mut header, &path, &*String::from_utf8_lossy(&target))
                    }
                    EntryKind::Blob | EntryKind::BlobExecutable => {
                        let content = self.read(Kind::Blob, entry.oid.to_owned(), &path)?;
                        header.set_mode(if kind == EntryKind::Blob { 0o644 } else { 0o755 });
                        header.set_size(content.len() as u64);
                        archive.append_data(&mut header, &path, &*content)
                    }
                };
                written.context(code::GIT, what)?;
            }
        }
        archive.into_inner().and_then(|mut file| file.flush()).context(code::GIT, what)
    }

    /// A name in a directory. Git itself never checks out the others.
    fn name<'a>(&self, name: &'a [u8]) -> Result<&'a str> {
        std::str::from_utf8(name)
            .ok()
            .filter(|name| !name.is_empty() && !name.contains(['/', '\\', '\0']) && *name != "." && *name != "..")
            .filter(|name| !name.eq_ignore_ascii_case(".git"))
            .ok_or_else(|| self.refuse(&format!("`{}` is not the name of a file", String::from_utf8_lossy(name))))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A stand-in for a repository, which may be hostile: objects by the id that it says they have.
    #[derive(Clone, Debug, Default)]
    struct StandIn(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

    impl StandIn {
        fn add(&self, kind: Kind, content: &[u8]) -> ObjectId {
            let id = compute_hash(Hash::Sha1, kind, content).unwrap();
            self.0.lock().unwrap().insert(id.to_string(), content.to_vec());
            id
        }

        fn tree(&self, entries: &[(&str, &str, ObjectId)]) -> ObjectId {
            let line =
                |(mode, name, id): &(_, _, ObjectId)| [format!("{mode} {name}\0").as_bytes(), id.as_bytes()].concat();
            self.add(Kind::Tree, &entries.iter().flat_map(line).collect::<Vec<u8>>())
        }

        /// A commit with this tree.
        fn commit(&self, tree: ObjectId) -> Commit {
            let text = format!("tree {tree}\nauthor a <a> 0 +0000\ncommitter a <a> 0 +0000\n\nx\n");
            Commit { url: "/r".into(), id: self.add(Kind::Commit, text.as_bytes()).to_string() }
        }

        /// Fetches a commit into a store of its own.
        fn fetch(&self, commit: &Commit) -> Result<Pin> {
            let dir = tempfile::tempdir().unwrap();
            let mut store = Store::open(&dir.path().join("state")).unwrap();
            store.repositories = Some(Box::new(self.clone()));
            let pin = store.fetch_commit(commit)?;
            store.repositories = None;
            assert_eq!(store.fetch_commit(commit).unwrap(), pin, "it is not fetched twice");
            Ok(pin)
        }

        fn problem(&self, commit: &Commit) -> String {
            self.fetch(commit).unwrap_err().to_string()
        }
    }

    impl Repositories for StandIn {
        fn open(&self, _: &Commit, _: &Path) -> Result<Box<dyn Tree>> {
            Ok(Box::new(self.clone()))
        }
    }

    impl Tree for StandIn {
        fn read(&self, _: &str, _: u64) -> Result<Option<Vec<u8>>> {
            Ok(None)
        }

        fn list(&self) -> Result<Option<Vec<String>>> {
            Ok(None)
        }

        fn object(&self, id: &str, _: u64) -> Result<Option<Vec<u8>>> {
            Ok(self.0.lock().unwrap().get(id).cloned())
        }
    }

    #[test]
    fn every_object_has_the_content_that_its_id_says_or_the_commit_is_refused() {
        let all = StandIn::default();
        let file = all.add(Kind::Blob, b"x");
        let inner = all.tree(&[("100644", "file", file)]);
        let top = all.tree(&[("40000", "dir", inner)]);
        let commit = all.commit(top);
        assert_eq!(all.fetch(&commit).unwrap().version, commit.id);
        let id = commit.id.clone();
        for (id, what) in [
            (id, "the commit"),
            (top.to_string(), "its top directory"),
            (inner.to_string(), "dir/"),
            (file.to_string(), "dir/file"),
        ] {
            let hostile = StandIn(Arc::new(Mutex::new(all.0.lock().unwrap().clone())));
            hostile.0.lock().unwrap().entry(id.clone()).or_default().push(b' ');
            let says = format!("/r at {}: the content of {what} does not match its id {id}", commit.short());
            assert_eq!(hostile.problem(&commit), says);
            hostile.0.lock().unwrap().remove(&id);
            assert_eq!(hostile.problem(&commit), format!("/r at {}: {what} is missing", commit.short()));
        }
    }

    #[test]
    fn names_that_git_never_checks_out_are_refused() {
        let all = StandIn::default();
        let file = all.add(Kind::Blob, b"x");
        for name in [".git", ".GIT", "..", ".", "a/b", "a\\b"] {
            let problem = all.problem(&all.commit(all.tree(&[("100644", name, file)])));
            assert!(problem.ends_with(&format!("`{name}` is not the name of a file")), "{problem}");
        }
    }

    #[test]
    fn directories_that_contain_the_same_one_many_times_are_counted_as_often() {
        let all = StandIn::default();
        let names: Vec<String> = (0..60).map(|number| format!("d{number:02}")).collect();
        let mut tree = all.tree(&[("100644", "f", all.add(Kind::Blob, b""))]);
        for _ in 0..3 {
            tree = all.tree(&names.iter().map(|name| ("40000", name.as_str(), tree)).collect::<Vec<_>>());
        }
        let problem = all.problem(&all.commit(tree));
        assert!(problem.ends_with("it has more than 100000 files and directories"), "{problem}");
    }

    #[test]
    fn what_is_no_commit_or_no_directory_is_refused() {
        let all = StandIn::default();
        let tag = Commit { url: "/r".into(), id: all.add(Kind::Tag, b"object 1\n").to_string() };
        assert!(all.problem(&tag).contains("the content of the commit does not match its id"));
        let broken = all.add(Kind::Tree, b"100644 f\0short");
        assert!(all.problem(&all.commit(broken)).contains("its top directory can't be parsed"));
        let no_tree = Commit { url: "/r".into(), id: all.add(Kind::Commit, b"parent x\n").to_string() };
        assert!(all.problem(&no_tree).contains("the commit names no tree"));
    }
}
