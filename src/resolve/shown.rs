//! Rendered entries of roles, for examples and reviews.

use sha2::{Digest as _, Sha256};

use crate::error::Place;

/// An entry of a role, rendered for a host.
#[derive(Debug)]
pub struct Shown {
    /// The kind's name.
    pub kind: &'static str,
    /// The ids of its resources.
    pub ids: Vec<String>,
    /// The role.
    pub role: String,
    /// Where it is defined.
    pub place: Place,
    /// Its fields, rendered.
    pub fields: serde_json::Value,
    /// Its parts by name: rendered templates and files; the SHA-256 of binary or signed files.
    pub parts: Vec<(String, String)>,
}

/// The SHA-256 of bytes that are not shown.
pub fn digest(bytes: &[u8]) -> String {
    format!("SHA-256 {}", hex::encode(Sha256::digest(bytes)))
}
