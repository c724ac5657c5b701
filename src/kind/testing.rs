//! What the tests of kinds build their resources with.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::kind::{Build, Entry, Fields, Resource, build_as};
use crate::site::{Doc, Pin};

/// A role's files and (already rendered) templates.
#[derive(Debug, Default)]
pub struct RoleFiles(HashMap<String, String>);

impl RoleFiles {
    /// With one more file.
    pub fn with(mut self, name: &str, text: &str) -> Self {
        self.0.insert(name.to_owned(), text.to_owned());
        self
    }
}

impl Build for RoleFiles {
    fn file(&self, name: &str) -> Result<Arc<[u8]>> {
        self.template(name).map(|text| text.into_bytes().into())
    }

    fn template(&self, name: &str) -> Result<String> {
        self.0.get(name).cloned().ok_or_else(|| Error::new(format!("there is no {name}")))
    }

    fn artifact(&self, name: &str) -> Result<Pin> {
        Err(Error::new(format!("the artifact `{name}` is not pinned")))
    }

    fn invalid(&self, field: &str, why: &str) -> Error {
        Error::new(format!("`{field}` can't be used")).because(why)
    }
}

/// The resources of one entry, from its fields in TOML.
pub fn build<F: Fields>(toml: &str, role: &RoleFiles) -> Result<Vec<Box<dyn Resource>>> {
    let doc = Doc::parse("role.toml", toml.as_bytes())?;
    let value: Value = doc.value().clone();
    build_as::<F>(&Entry { doc: &doc, path: &[], value }, role)
}

/// The message of an entry that is refused.
pub fn fails<F: Fields>(toml: &str, role: &RoleFiles) -> String {
    match build::<F>(toml, role) {
        Ok(_) => panic!("taken: {toml}"),
        Err(error) => error.to_string(),
    }
}
