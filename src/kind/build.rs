//! What a role writes of a kind, and what turns it into resources.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::document::Pin;
use crate::error::{Error, Result};
use crate::kind::resource::Resource;
use crate::pki::AuthorityFields;
use crate::secret::Secret;

/// Whether something exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// It does.
    #[default]
    Present,
    /// It does not.
    Absent,
}

/// What a kind's fields are turned into resources with: the role's files and templates, and the pins.
pub trait Build {
    /// A file of the role, from its `files/` directory, which `field` names.
    fn file(&self, field: &str, name: &str) -> Result<Arc<[u8]>>;

    /// The paths of the files below a directory in the role's `files/`, from there, sorted; `field` names the directory. An error if there
    /// are none.
    fn files_below(&self, field: &str, name: &str) -> Result<Vec<String>>;

    /// A file of the role, from its `files/` directory, rendered with the host's variables; and whether it contains a secret.
    fn rendered(&self, field: &str, name: &str) -> Result<(String, bool)>;

    /// A template of the role, from its `templates/` directory, rendered with the host's variables.
    fn template(&self, name: &str) -> Result<String>;

    /// The pin of an artifact for this host's architecture.
    fn artifact(&self, name: &str) -> Result<Pin>;

    /// The host's name.
    fn host(&self) -> &str;

    /// A file of the site, by its path there.
    fn site_file(&self, path: &str) -> Option<&Arc<[u8]>>;

    /// What `site.toml` says of an authority.
    fn authority(&self, name: &str) -> Result<&AuthorityFields>;

    /// Whether files that are yet to be issued may be missing: for operators who prepare a site, never on a host.
    fn may_lack(&self) -> bool;

    /// A secret of this host; a placeholder where it can't be decrypted.
    fn secret(&self, name: &str) -> Result<Secret>;

    /// Whether the fields, or a template rendered so far, contain a secret: call it after [`Build::template`].
    /// Such content is kept out of diffs and messages, and only its owner can read it unless the role says otherwise.
    fn is_secret(&self) -> bool;

    /// Declares that resources which contain a secret of this field are sensitive. If no other field contains one, the others count as
    /// without a secret.
    fn set_apart(&self, _field: &'static str) {}

    /// An error about a field, with its place.
    fn invalid(&self, field: &str, why: &str) -> Error;

    /// [`Build::invalid`] if `is_wrong`.
    fn refuse_if(&self, is_wrong: bool, field: &str, why: &str) -> Result<()> {
        if is_wrong { Err(self.invalid(field, why)) } else { Ok(()) }
    }
}

/// The name of a kind, which is that of its module.
pub trait Named {
    /// The kind's name in a role: `[[NAME]]`.
    const NAME: &'static str;
}

/// The fields of one kind, as roles write them.
pub trait Fields: Named + DeserializeOwned + JsonSchema {
    /// The resources that these fields describe.
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>>;
}
