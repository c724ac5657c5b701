//! The site that is shipped, and the tests' own sites, which have its roles and pins.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory of `tests/cluster`.
pub fn cluster_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster").join(name)
}

/// The shipped site, or `tests/cluster/sites/NAME` with the shipped roles and pins, in the directory `site`, which is made.
pub fn assemble(site: &Path, name: Option<&str>) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR"));
    let whose = name.map_or(shipped.to_owned(), |name| cluster_dir("sites").join(name));
    let parts =
        [shipped.join("roles"), shipped.join("artifacts.toml"), whose.join("site.toml"), whose.join("host_vars")];
    std::fs::create_dir_all(site).unwrap();
    let copied = Command::new("cp").arg("-r").args(parts).arg(site).status().unwrap();
    assert!(copied.success(), "the site {name:?} can't be copied");
}
