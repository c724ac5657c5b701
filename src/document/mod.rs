//! Files of people and releases: TOML that knows its places, trees of files, pins, and types of single values.

mod doc;
pub mod fields;
#[expect(clippy::disallowed_methods, reason = "an operator's own commands")]
mod files;
pub mod foreign;
mod format;
pub mod layout;
mod pin;
pub mod repository;
mod resource_id;
mod tree;

pub use doc::{Doc, Path, dotted, quoted, utf8};
pub use files::{Files, PARTS, is_version_controls, read_if_there, replace};
pub use format::{Format, READABLE};
pub(crate) use pin::ArtifactFile;
pub use pin::{Artifact, Pin, is_sha256, read as pins};
pub use resource_id::ResourceId;
pub use tree::Tree;
