//! Files by the ends of their names.

use std::fs;
use std::path::{Path, PathBuf};

/// The files below `dir` whose names end like this.
pub fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let found = entries.flat_map(|path| if path.is_dir() { files(&path, end) } else { vec![path] });
    found.filter(|path| path.to_str().unwrap().ends_with(end)).collect()
}
