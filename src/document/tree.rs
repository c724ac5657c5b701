//! An unverified tree of files.

use crate::error::Result;

/// One state of a site, as its source has it.
pub trait Tree {
    /// One file; `None` if the tree doesn't have it. An error if it has more than `max` bytes, which are then not
    /// read. `path` is relative, with `/` between names and no `.` or `..` among them.
    fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>>;

    /// All paths in the tree, sorted; `None` if the source can't list them (HTTP).
    fn list(&self) -> Result<Option<Vec<String>>>;

    /// The content of a git object by its id: a commit, a tree or a file; `None` if the tree is no commit or lacks it. An error if it has
    /// more than `max` bytes, which are then not read.
    fn object(&self, id: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let _ = (id, max);
        Ok(None)
    }
}
