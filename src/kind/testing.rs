//! What the tests of kinds build their resources with.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use crate::document::{Doc, Pin};
use crate::error::{Error, Result, error};
use crate::host::Host;
use crate::kind::{Build, Change, Entry, Fields, Resource, Work, build_as, find};
use crate::pki::AuthorityFields;
use crate::secret::Secret;
use crate::store::Store;

/// A role's files and (already rendered) templates.
#[derive(Debug, Default)]
pub struct RoleFiles {
    files: HashMap<String, Vec<u8>>,
    is_secret: bool,
}

impl RoleFiles {
    /// With one more file.
    pub fn with(mut self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.files.insert(name.to_owned(), content.as_ref().to_owned());
        self
    }

    /// As if a secret had been asked for.
    pub fn secret(mut self) -> Self {
        self.is_secret = true;
        self
    }
}

impl Build for RoleFiles {
    fn file(&self, _: &str, name: &str) -> Result<Arc<[u8]>> {
        let content = self.files.get(name).map(|content| content.as_slice().into());
        content.ok_or_else(|| error!(OTHER, "there is no {name}"))
    }

    fn files_below(&self, field: &str, name: &str) -> Result<Vec<String>> {
        let prefix = format!("{name}/");
        let mut names: Vec<String> =
            self.files.keys().filter_map(|path| path.strip_prefix(&prefix)).map(str::to_owned).collect();
        names.sort();
        if names.is_empty() { Err(self.invalid(field, &format!("there is no {prefix}"))) } else { Ok(names) }
    }

    fn rendered(&self, _: &str, name: &str) -> Result<(String, bool)> {
        self.template(name).map(|text| (text, self.is_secret))
    }

    fn template(&self, name: &str) -> Result<String> {
        self.file("template", name).map(|content| String::from_utf8_lossy(&content).into_owned())
    }

    fn artifact(&self, name: &str) -> Result<Pin> {
        Err(error!(OTHER, "the artifact `{name}` is not pinned"))
    }

    fn host(&self) -> &str {
        "h1"
    }

    fn site_file(&self, _: &str) -> Option<&Arc<[u8]>> {
        None
    }

    fn authority(&self, name: &str) -> Result<&AuthorityFields> {
        Err(error!(OTHER, "there is no authority `{name}`"))
    }

    fn may_lack(&self) -> bool {
        false
    }

    /// Every secret is its own name, encrypted likewise.
    fn secret(&self, name: &str) -> Result<Secret> {
        Ok(Secret { plain: Arc::new(name.as_bytes().to_vec().into()), encrypted: name.to_owned() })
    }

    fn is_secret(&self) -> bool {
        self.is_secret
    }

    fn invalid(&self, field: &str, why: &str) -> Error {
        error!(OTHER, "`{field}`: {why}")
    }
}

/// The resources of one entry, from its fields in TOML.
pub fn build_with<F: Fields>(toml: &str, role: &RoleFiles) -> Result<Vec<Box<dyn Resource>>> {
    let doc = Doc::parse("role.toml", toml.as_bytes())?;
    let value: Value = doc.value().clone();
    build_as::<F>(&Entry { doc: &doc, path: &[], value }, role)
}

/// The message of an entry that is refused.
pub fn fails<F: Fields>(toml: &str, role: &RoleFiles) -> String {
    match build_with::<F>(toml, role) {
        Ok(_) => panic!("taken: {toml}"),
        Err(error) => error.to_string(),
    }
}

/// A directory as root, with nothing in its catalog.
pub struct Tree {
    /// Where it is.
    pub dir: tempfile::TempDir,
    /// The same, as a host.
    pub host: Host,
    /// Its state directory.
    pub store: Store,
}

impl Tree {
    /// An empty one.
    #[allow(clippy::new_without_default, reason = "a test says what it makes")]
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { host: Host::open(dir.path()).unwrap(), store: Store::open(dir.path()).unwrap(), dir }
    }

    /// What kinds are observed and changed with.
    pub fn work(&self) -> Work<'_> {
        Work { host: &self.host, store: &self.store, catalog: &[] }
    }

    /// A path of the tree, from outside.
    pub fn path(&self, path: &str) -> std::path::PathBuf {
        self.host.root.outside(path.as_ref())
    }

    /// Writes a file, and the directories above it.
    pub fn put(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Reads a file.
    pub fn get(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap()
    }

    /// The summary of the change that a resource sees.
    pub fn summary(&self, resource: &dyn Resource) -> Option<String> {
        resource.observe(&self.work()).unwrap().map(|change| change.summary)
    }

    /// Applies a resource that has to be changed, and sees that nothing is left to do.
    pub fn converge(&self, resource: &dyn Resource) -> Change {
        let change = resource.observe(&self.work()).unwrap().expect("there is something to do");
        resource.apply(&self.work(), &change).unwrap();
        assert_eq!(self.summary(resource), None, "nothing is left to do");
        change
    }
}

/// The resources of one entry of a role.
pub fn build(kind: &str, fields: &str) -> Result<Vec<Box<dyn Resource>>> {
    let doc = Doc::parse("role.toml", fields.as_bytes())?;
    (find(kind).unwrap().build)(&Entry { doc: &doc, path: &[], value: doc.value().clone() }, &RoleFiles::default())
}

/// The only resource of one entry with a secret in it.
pub fn one_secret(kind: &str, fields: &str) -> Box<dyn Resource> {
    let doc = Doc::parse("role.toml", fields.as_bytes()).unwrap();
    let entry = Entry { doc: &doc, path: &[], value: doc.value().clone() };
    (find(kind).unwrap().build)(&entry, &RoleFiles::default().secret()).unwrap().remove(0)
}

/// The only resource of one entry of a role.
pub fn one(kind: &str, fields: &str) -> Box<dyn Resource> {
    let mut resources = build(kind, fields).unwrap();
    assert_eq!(resources.len(), 1);
    resources.remove(0)
}

/// Why an entry of a role is refused.
pub fn refusal(kind: &str, fields: &str) -> String {
    build(kind, fields).unwrap_err().to_string()
}
