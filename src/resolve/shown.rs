//! What a host is given, in the words of its roles: for examples of roles and for reviews, away from hosts.

use std::cell::RefCell;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::document::Pin;
use crate::error::{Error, Place, Result};
use crate::kind::Build;
use crate::pki::AuthorityFields;
use crate::secret::Secret;

/// One entry of a role, as it is for a host.
#[derive(Debug)]
pub struct Shown {
    /// The kind's name.
    pub kind: &'static str,
    /// The resources that it is.
    pub ids: Vec<String>,
    /// The role.
    pub role: String,
    /// Where it is written.
    pub place: Place,
    /// Its fields, rendered.
    pub fields: serde_json::Value,
    /// What else it is made of, by name: rendered templates, files; of what is no text, or is signed, its SHA-256.
    pub parts: Vec<(String, String)>,
}

/// Builds as another does, and remembers what it gave.
pub(super) struct Recorder<'a> {
    inner: &'a dyn Build,
    parts: RefCell<Vec<(String, String)>>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(inner: &'a dyn Build) -> Self {
        Self { inner, parts: RefCell::default() }
    }

    /// What was asked for since it was made.
    pub(super) fn parts(self) -> Vec<(String, String)> {
        self.parts.into_inner()
    }

    fn keep(&self, name: String, text: String) {
        self.parts.borrow_mut().push((name, text));
    }
}

/// Bytes that are not shown, as their SHA-256.
pub fn digest(bytes: &[u8]) -> String {
    format!("SHA-256 {}", hex::encode(Sha256::digest(bytes)))
}

impl Build for Recorder<'_> {
    fn file(&self, name: &str) -> Result<Arc<[u8]>> {
        let bytes = self.inner.file(name)?;
        let text = std::str::from_utf8(&bytes).map_or_else(|_| digest(&bytes), str::to_owned);
        self.keep(format!("files/{name}"), text);
        Ok(bytes)
    }

    fn template(&self, name: &str) -> Result<String> {
        let text = self.inner.template(name)?;
        self.keep(format!("templates/{name}"), text.clone());
        Ok(text)
    }

    fn artifact(&self, name: &str) -> Result<Pin> {
        let pin = self.inner.artifact(name)?;
        self.keep(format!("artifact {name}"), format!("SHA-256 {}", pin.sha256));
        Ok(pin)
    }

    fn host(&self) -> &str {
        self.inner.host()
    }

    fn site_file(&self, path: &str) -> Option<&Arc<[u8]>> {
        let bytes = self.inner.site_file(path)?;
        self.keep(path.to_owned(), digest(bytes));
        Some(bytes)
    }

    fn authority(&self, name: &str) -> Result<&AuthorityFields> {
        self.inner.authority(name)
    }

    fn may_lack(&self) -> bool {
        self.inner.may_lack()
    }

    fn secret(&self, name: &str) -> Result<Secret> {
        self.inner.secret(name)
    }

    fn is_secret(&self) -> bool {
        self.inner.is_secret()
    }

    fn invalid(&self, field: &str, why: &str) -> Error {
        self.inner.invalid(field, why)
    }
}
