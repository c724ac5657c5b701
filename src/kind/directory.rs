//! `[[directory]]`: a directory with its mode and owners, whatever is in it.

use crate::kind::file::{MOVE_AWAY, in_the_way};
use crate::kind::prelude::*;

/// Fields of `[[directory]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DirectoryFields {
    /// The path of the directory. Missing parent directories are created too (0755, root).
    path: AbsolutePath,
    /// Permissions. Default: `0755`.
    mode: Option<Mode>,
    /// The user that owns it. Default: `root`.
    owner: Option<AccountName>,
    /// The group that owns it. Default: `root`.
    group: Option<AccountName>,
}

impl Fields for DirectoryFields {
    fn build(self, _: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let wanted = Ownership::new(0o755, self.mode, self.owner, self.group);
        Ok(vec![Box::new(Directory { path: self.path, wanted })])
    }
}

/// A directory.
#[derive(Debug)]
pub struct Directory {
    pub(super) path: AbsolutePath,
    pub(super) wanted: Ownership,
}

impl Resource for Directory {
    fn about(&self) -> About {
        About {
            after: self.wanted.after(),
            is_self_contained: true,
            watched: Some(vec![WatchedInput::Place(self.path.to_path_buf())]),
            ..About::at(DirectoryFields::NAME, &self.path, Phase::Directories)
        }
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let Some(meta) = work.host.root.meta(&self.path)? else {
            self.wanted.check(work, &self.path)?;
            return Ok(Some(Change::addition("create")));
        };
        let (found, help) = match meta.what {
            FileType::Directory => return Ok(Change::of(self.wanted.differences(work, &self.path, &meta)?)),
            FileType::Link => ("a link", "name the directory that it points to, or remove the link with an [[absent]]"),
            FileType::File => ("a file", MOVE_AWAY),
            FileType::Special => ("a device, socket or pipe", MOVE_AWAY),
        };
        Err(in_the_way(&self.path, found, "a directory there").help(help))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        // again: something else may be there by now
        self.observe(work)?;
        work.host.root.make_directory(&self.path, self.wanted.access(work, &self.path)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use crate::kind::testing::{Tree, one};

    #[test]
    fn a_directory_is_made_with_those_above_it() {
        let tree = Tree::new();
        let change = tree.converge(&*one("directory", "path = '/a/b'\nmode = '0700'"));
        assert_eq!(change.summary, "create");
        assert_eq!(tree.path("/a/b").metadata().unwrap().permissions().mode() & 0o7777, 0o700);
        assert_eq!(tree.path("/a").metadata().unwrap().permissions().mode() & 0o7777, 0o755);
    }

    #[test]
    fn a_mode_is_corrected_and_the_content_stays() {
        let tree = Tree::new();
        tree.put("/a/f", "x");
        let change = tree.converge(&*one("directory", "path = '/a'\nmode = '2770'"));
        assert!(change.summary.contains("→ 2770"), "{}", change.summary);
        assert_eq!(tree.get("/a/f"), "x");
    }

    #[test]
    fn a_file_or_a_link_in_its_place_is_an_error_with_advice() {
        let tree = Tree::new();
        tree.put("/f", "x");
        std::os::unix::fs::symlink("f", tree.path("/l")).unwrap();
        let error = one("directory", "path = '/f'").observe(&tree.work()).unwrap_err();
        assert_eq!(error.to_string(), "/f is a file, but the role requires a directory there");
        assert!(error.advice().unwrap().contains("[[absent]]"));
        let error = one("directory", "path = '/l'").observe(&tree.work()).unwrap_err();
        assert_eq!(error.to_string(), "/l is a link, but the role requires a directory there");
    }
}
