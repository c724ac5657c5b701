//! A tree of files that nobody has verified.

use crate::error::Result;

/// The bytes of one state of a site, as a source has them.
pub trait Tree {
    /// One file. `None` when the tree has no such file; an error when it has more than `max` bytes, which are then
    /// not read. `path` is relative, with `/` between names and no `.` or `..` among them.
    fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>>;

    /// The path of every file in the tree, sorted; `None` where the source can't tell (HTTP).
    fn list(&self) -> Result<Option<Vec<String>>>;
}
