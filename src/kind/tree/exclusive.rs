//! What is in the directory of an exclusive resource besides its files, and how it comes back.

use super::TreeFields;
use crate::error::{counted, listed};
use crate::kind::prelude::*;

/// How many paths are saved before they are removed, and how many bytes in all.
const PATHS_MAX: usize = 1000;
const BYTES_MAX: u64 = 64 << 20;

/// A directory that has nothing in it but the files of a tree, and what other resources manage.
#[derive(Debug)]
pub(in crate::kind) struct Exclusive {
    path: AbsolutePath,
    /// The files of the tree.
    known: BTreeSet<PathBuf>,
}

impl Exclusive {
    /// A directory with the files that are `known` already; those of other resources are looked up on the host.
    pub(in crate::kind) fn new(path: &AbsolutePath, known: BTreeSet<PathBuf>, build: &dyn Build) -> Result<Self> {
        let is_at_top = path.components().count() <= 2;
        let why = "kpull does not remove anything from a directory directly below `/`";
        build.refuse_if(is_at_top, "exclusive", why)?;
        Ok(Self { path: path.clone(), known })
    }

    /// Whether something is below a path.
    fn has_below(paths: &BTreeSet<PathBuf>, path: &Path) -> bool {
        // paths are sorted name by name
        paths.range(path.to_owned()..).take(2).any(|below| below != path && below.starts_with(path))
    }

    /// The paths to remove, and the directories that were inspected.
    fn others(&self, work: &Work<'_>) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
        let (mut managed, mut unknown) = (self.known.clone(), Vec::new());
        for item in work.catalog {
            let claims = || item.about.claims.iter().filter_map(Claim::any_path).map(Path::to_owned);
            match item.resource.owned(work) {
                Ok(owned) => managed.extend(owned.iter().filter_map(Claim::any_path).map(Path::to_owned)),
                // it is not fetched yet, and anything below can be its own
                Err(_) => unknown.extend(claims()),
            }
            managed.extend(claims());
        }
        if unknown.iter().any(|path| path.starts_with(&*self.path) || self.path.starts_with(path)) {
            return Ok((Vec::new(), Vec::new()));
        }
        let (mut others, mut visited) = (Vec::new(), Vec::new());
        let mut left = vec![self.path.to_path_buf()];
        while let Some(directory) = left.pop() {
            for name in work.host.root.names(&directory)? {
                let path = directory.join(&name);
                if Self::has_below(&managed, &path) && is_directory(work, &path)? {
                    left.push(path);
                } else if !managed.contains(&path) {
                    others.push(path);
                }
            }
            visited.push(directory);
        }
        others.sort();
        Ok((others, visited))
    }
}

fn is_directory(work: &Work<'_>, path: &Path) -> Result<bool> {
    Ok(work.host.root.meta(path)?.is_some_and(|meta| meta.what == FileType::Directory))
}

impl Resource for Exclusive {
    fn about(&self) -> About {
        About::new(TreeFields::NAME, self.path.to_string(), Phase::Files).recorded()
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        Ok(Some(self.others(work)?.1.into_iter().map(WatchedInput::Path).collect()))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        match work.host.root.meta(&self.path)?.map(|meta| meta.what) {
            None | Some(FileType::Directory) => {}
            Some(_) => {
                return Err(error!(FILE, "{} is not a directory, but the role requires a tree there", self.path)
                    .help("name the directory that the link points to, or move the link away"));
            }
        }
        let (others, _) = self.others(work)?;
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let names: Vec<String> = others.iter().map(name).collect();
        Ok((!names.is_empty()).then(|| Change::new(format!("remove {}", listed(&names, "path")))))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        for path in self.others(work)?.0 {
            work.host.root.remove_all(&path)?;
            work.host.file_changed(&path);
        }
        Ok(())
    }

    /// What is removed first: what comes later is not restored.
    fn prior_state(&self, _: &Claim, work: &Work<'_>) -> Result<PriorState> {
        let (mut states, mut bytes) = (Vec::new(), 0_u64);
        let mut left = self.others(work)?.0;
        while let Some(path) = left.pop() {
            let Some(meta) = work.host.root.meta(&path)? else { continue };
            match meta.what {
                FileType::Directory => left.extend(work.host.root.names(&path)?.iter().map(|name| path.join(name))),
                FileType::File => bytes = bytes.saturating_add(meta.size),
                FileType::Link | FileType::Special => {}
            }
            if states.len() == PATHS_MAX || bytes > BYTES_MAX {
                return Err(error!(FILE, "{} contains more than kpull can save before it removes it", self.path)
                    .because(format!("the limits are {} and {} MiB", counted(PATHS_MAX, "path"), BYTES_MAX >> 20))
                    .help("move away the files that are not in the tree, or set `exclusive = false`"));
            }
            states.push(PriorState::of_path(&Claim::path(&path), work)?);
        }
        // a directory before what is in it
        Ok(PriorState::Several { path: self.path.to_string(), states })
    }
}

/// Several paths that are restored together.
#[derive(Debug)]
pub(in crate::kind) struct Several {
    /// The directory that they were in.
    pub(in crate::kind) path: String,
    /// What restores each.
    pub(in crate::kind) resources: Vec<Box<dyn Resource>>,
}

impl Resource for Several {
    fn about(&self) -> About {
        About::new(TreeFields::NAME, &*self.path, Phase::Files)
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let mut different = 0;
        for resource in &self.resources {
            different += usize::from(resource.observe(work)?.is_some());
        }
        Ok((different > 0).then(|| Change::new(format!("restore {}", counted(different, "path")))))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        for resource in &self.resources {
            if let Some(change) = resource.observe(work)? {
                resource.apply(work, &change)?;
            }
        }
        Ok(())
    }
}
