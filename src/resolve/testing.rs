//! What the tests of later stages have a catalog from.

use crate::document::Files;
use crate::error::Result;
use crate::resolve::{Catalog, Facts, resolve};
use crate::secret::SecretStore;
use crate::site::Site;

/// The catalog of a host `h` whose one role `r` says this.
pub fn catalog(role: &str) -> Result<Catalog> {
    let role = format!("summary = \"For a test\"\n{role}");
    let files: Files = [
        ("site.toml", "name = \"x\""),
        ("host_vars/h.toml", "address = \"10.0.0.1\"\nroles = [\"r\"]"),
        ("roles/r/role.toml", &role),
    ]
    .into_iter()
    .map(|(path, text)| (path.to_owned(), text.as_bytes().into()))
    .collect();
    resolve(
        &Site::load(files)?.into(),
        "h",
        &Facts::assumed("h", [10, 0, 0, 1].into(), None)?,
        &SecretStore::encrypted(),
    )
}
