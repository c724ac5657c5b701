//! What people write: TOML files as types that know file, line and column.

mod doc;

pub use doc::{Doc, Path, dotted};

/// One pinned upstream file, for one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Its name in `artifacts.toml`.
    pub name: String,
    /// Where it can be had, in the order to try.
    pub urls: Vec<String>,
    /// Lower-case hex of its SHA-256.
    pub sha256: String,
    /// Its size in bytes, when that is pinned too.
    pub size: Option<u64>,
}
