//! The ids of resources.

use std::borrow::Borrow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The id of a resource, unique on its host: `KIND:KEY`, like `file:/etc/hosts`. What refers to resources, like `after` in a role, is
/// a text: it can be a pattern, or name a resource that the host does not have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(transparent)]
pub struct ResourceId(String);

impl ResourceId {
    /// The id of the resource of a kind with this key.
    pub fn new(kind: &str, key: impl fmt::Display) -> Self {
        Self(format!("{kind}:{key}"))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its kind.
    pub fn kind(&self) -> &str {
        self.0.split_once(':').map_or(&self.0, |(kind, _)| kind)
    }

    /// What distinguishes the resource from others of its kind.
    pub fn key(&self) -> &str {
        self.0.split_once(':').map_or(&self.0, |(_, key)| key)
    }
}

impl Borrow<str> for ResourceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for ResourceId {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for ResourceId {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_knows_its_kind_and_key_and_is_recorded_as_a_text() {
        let id = ResourceId::new("etcd_key", "/a:b");
        assert_eq!((id.kind(), id.key(), id.to_string().as_str()), ("etcd_key", "/a:b", "etcd_key:/a:b"));
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"etcd_key:/a:b\"");
    }
}
