//! `[[absent]]`: a path that must not exist.

use crate::kind::prelude::*;

/// Fields of `[[absent]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AbsentFields {
    /// The path that must not exist: a file, a link (not its target) or an empty directory.
    path: AbsolutePath,
    /// Whether to remove a directory with everything in it. Refused if a file system is mounted in it. Default: false.
    #[serde(default)]
    recursive: bool,
    /// Whether a directory that is not empty stays.
    #[serde(skip)]
    or_full: bool,
}

impl Fields for AbsentFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let is_at_top = self.recursive && self.path.components().count() <= 2;
        build.refuse_if(is_at_top, "path", "a directory directly below `/` can't be removed with its contents")?;
        Ok(vec![Box::new(self)])
    }
}

impl AbsentFields {
    /// A path that must not exist, unless it is a directory that is not empty.
    pub(super) fn unless_full(path: AbsolutePath) -> Self {
        Self { path, recursive: false, or_full: true }
    }
}

impl Resource for AbsentFields {
    fn about(&self) -> About {
        About::at(AbsentFields::NAME, &self.path, Phase::Files)
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let root = &work.host.root;
        Ok(match root.meta(&self.path)?.map(|meta| meta.what) {
            None => None,
            Some(FileType::File) => Some(Change::removal("remove the file")),
            Some(FileType::Link) => Some(Change::removal("remove the link")),
            Some(FileType::Special) => Some(Change::removal("remove the device, socket or pipe")),
            Some(FileType::Directory) => match root.names(&self.path)?.is_empty() {
                true => Some(Change::removal("remove the directory")),
                false if self.recursive => Some(Change::removal("remove the directory and everything in it")),
                false if self.or_full => None,
                false => {
                    return Err(error!(FILE, "{} must be absent, but it is a directory that is not empty", self.path)
                        .help("check its contents; to remove it with its contents, set `recursive = true`"));
                }
            },
        })
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        if self.recursive {
            work.host.root.remove_all(&self.path)?
        } else {
            work.host.root.remove(&self.path)?
        }
        work.host.file_changed(&self.path);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::kind::testing::{Tree, one, refusal};

    #[test]
    fn a_file_a_link_and_an_empty_directory_go() {
        let tree = Tree::new();
        tree.put("/f", "x");
        std::os::unix::fs::symlink("f", tree.path("/l")).unwrap();
        std::fs::create_dir(tree.path("/d")).unwrap();
        assert_eq!(tree.converge(&*one("absent", "path = '/l'")).summary, "remove the link");
        assert_eq!(tree.get("/f"), "x", "what the link led to stays");
        assert_eq!(tree.converge(&*one("absent", "path = '/f'")).summary, "remove the file");
        assert_eq!(tree.converge(&*one("absent", "path = '/d'")).summary, "remove the directory");
        assert_eq!(tree.summary(&*one("absent", "path = '/never/there'")), None);
    }

    #[test]
    fn a_full_directory_is_removed_only_if_the_role_says_so() {
        let tree = Tree::new();
        tree.put("/a/d/f", "x");
        let error = one("absent", "path = '/a/d'").observe(&tree.work()).unwrap_err();
        assert_eq!(error.to_string(), "/a/d must be absent, but it is a directory that is not empty");
        assert!(error.advice().unwrap().contains("recursive = true"));
        tree.converge(&*one("absent", "path = '/a/d'\nrecursive = true"));
        assert!(!tree.path("/a/d").exists());
        assert!(tree.path("/a").exists());
    }

    #[test]
    fn a_whole_top_directory_is_refused() {
        assert!(refusal("absent", "path = '/etc'\nrecursive = true").contains("directly below `/`"));
    }
}
