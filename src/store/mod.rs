//! Everything under the state directory.

pub mod archive;

use std::path::{Path, PathBuf};

/// The state directory.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}
