//! `[[symlink]]`: a symbolic link; its target need not exist.

use crate::host::unit_files::straight;
use crate::kind::file::{MOVE_AWAY, in_the_way};
use crate::kind::prelude::*;

/// Fields of `[[symlink]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SymlinkFields {
    /// The path of the link. An existing file or link is replaced.
    path: AbsolutePath,
    /// The target, written as specified: absolute, or relative to the directory of the link.
    target: String,
}

impl Fields for SymlinkFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let is_bad = self.target.is_empty() || self.target.contains('\0');
        build.refuse_if(is_bad, "target", "a link needs a target")?;
        Ok(vec![Box::new(Symlink { path: self.path, target: self.target.into() })])
    }
}

/// A symbolic link.
#[derive(Debug)]
pub struct Symlink {
    pub(super) path: AbsolutePath,
    pub(super) target: PathBuf,
}

impl Symlink {
    /// The path and the resolved target.
    pub(crate) fn ends(&self) -> (&Path, PathBuf) {
        let above = self.path.parent().unwrap_or(Path::new("/"));
        (&self.path, straight(&above.join(&self.target)))
    }
}

impl Resource for Symlink {
    fn about(&self) -> About {
        About { is_self_contained: true, ..About::at(SymlinkFields::NAME, &self.path, Phase::Files) }
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let to = self.target.display();
        Ok(match work.host.root.meta(&self.path)?.map(|meta| meta.what) {
            None => Some(Change::addition(format!("create, to {to}"))),
            Some(FileType::File) => Some(Change::new(format!("replace the file with a link to {to}"))),
            Some(FileType::Link) => {
                let now = work.host.root.link(&self.path)?.unwrap_or_default();
                (now != self.target).then(|| Change::new(format!("{} → {to}", now.display())))
            }
            Some(FileType::Directory | FileType::Special) => {
                return Err(in_the_way(&self.path, "a directory or a device", "a link there").help(MOVE_AWAY));
            }
        })
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        // again: something else may be there by now
        self.observe(work)?;
        work.host.root.make_link(&self.path, &self.target)?;
        work.host.file_changed(&self.path);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::kind::testing::{Tree, one, refusal};

    #[test]
    fn a_link_is_made_whether_its_target_is_there_or_not() {
        let tree = Tree::new();
        let change = tree.converge(&*one("symlink", "path = '/a/l'\ntarget = '../nowhere'"));
        assert_eq!(change.summary, "create, to ../nowhere");
        assert_eq!(std::fs::read_link(tree.path("/a/l")).unwrap().to_str(), Some("../nowhere"));
    }

    #[test]
    fn a_file_or_another_link_is_replaced_and_what_the_link_led_to_stays() {
        let tree = Tree::new();
        tree.put("/f", "keep");
        tree.converge(&*one("symlink", "path = '/l'\ntarget = 'f'"));
        let change = tree.converge(&*one("symlink", "path = '/l'\ntarget = 'g'"));
        assert_eq!(change.summary, "f → g");
        assert_eq!(tree.get("/f"), "keep");
        let change = tree.converge(&*one("symlink", "path = '/f'\ntarget = 'g'"));
        assert_eq!(change.summary, "replace the file with a link to g");
    }

    #[test]
    fn a_directory_is_not_replaced() {
        let tree = Tree::new();
        std::fs::create_dir(tree.path("/d")).unwrap();
        let error = one("symlink", "path = '/d'\ntarget = 'g'").observe(&tree.work()).unwrap_err();
        assert_eq!(error.to_string(), "/d is a directory or a device, but the role requires a link there");
        assert!(tree.path("/d").is_dir());
    }

    #[test]
    fn a_link_to_nowhere_at_all_is_refused() {
        assert_eq!(refusal("symlink", "path = '/l'\ntarget = ''"), "`target`: a link needs a target");
    }
}
