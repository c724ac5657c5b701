//! The newest release that this host has seen: kept on disk before anything of it is applied.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::trust::Announced;

/// The newest release seen.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// Its serial: no release below it is taken.
    pub serial: u64,
    /// When it was signed: the clock may not run behind that.
    pub created: Timestamp,
    /// SHA-256 of its `release.toml`, in hex.
    pub digest: String,
}

impl Seen {
    /// What has to be remembered of a release.
    pub fn of(release: &Announced) -> Self {
        let manifest = release.manifest();
        Self { serial: manifest.serial, created: manifest.created, digest: release.digest() }
    }

    /// Reads it back; `None` when there is no such file. A file that can't be read is an error and not a fresh start:
    /// that would let an old release pass.
    pub fn load(path: &Path) -> Result<Option<Self>> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(|| format!("can't read {}", path.display())),
        };
        toml::from_str(&text).map(Some).map_err(|error| {
            Error::new(format!("{} is damaged", path.display())).because(error.message()).help(
                "it says which releases are too old; if you know that the source is good, remove it, and the next release is taken as the first",
            )
        })
    }

    /// As text.
    pub fn to_toml(&self) -> String {
        format!("serial = {}\ncreated = \"{}\"\ndigest = \"{}\"\n", self.serial, self.created, self.digest)
    }
}
