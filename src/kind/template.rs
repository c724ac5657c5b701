//! `[[template]]`: a file whose content is rendered from the role's `templates/` with the host's variables.

use crate::kind::prelude::*;
use crate::kind::validation::Validation;

/// Fields of `[[template]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TemplateFields {
    /// The path of the file on the host.
    path: AbsolutePath,
    /// The name of a template in the role's `templates/`.
    template: String,
    /// The mode. Default: `0644`, or `0600` with a secret in it.
    mode: Option<Mode>,
    /// The user that owns it. Default: `root`.
    owner: Option<AccountName>,
    /// The group that owns it. Default: `root`.
    group: Option<AccountName>,
    /// Whether to omit the content from diffs.
    #[serde(default)]
    sensitive: bool,
    /// Whether to write into the existing file instead of replacing it, for a file that is a mount, or that another program keeps open.
    /// Default: false.
    #[serde(default)]
    in_place: bool,
    /// A program with its arguments that must accept the new content before it replaces the old one, with `%s` for the path of a temporary
    /// file with that content. Default: no check.
    validate: Option<Vec<String>>,
}

impl Fields for TemplateFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let content = build.template(&self.template)?.into_bytes();
        let is_secret = build.is_secret();
        let wanted = Ownership::of_file(is_secret, self.mode, self.owner, self.group);
        let sensitive = self.sensitive || is_secret;
        let validate = Validation::of(self.validate, sensitive, build)?;
        let file = File::new(Self::NAME, self.path, content, sensitive);
        Ok(vec![Box::new(File { wanted, in_place: self.in_place, validate, ..file })])
    }
}
