//! What the tests of the engine look at.

use jiff::Timestamp;
use serde_json::json;

use crate::engine::prior::PriorStates;
use crate::host::Host;
use crate::kind::Work;
use crate::resolve::testing::catalog;
use crate::store::Store;

/// An empty tree, and its store.
pub struct TestTree {
    pub dir: tempfile::TempDir,
    pub host: Host,
    pub store: Store,
}

impl TestTree {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        Self { host: Host::open(dir.path()).unwrap(), store, dir }
    }

    /// What `look` makes of a host whose one role says this.
    pub fn with<T>(&self, role: &str, look: impl FnOnce(&Work<'_>) -> T) -> T {
        let catalog = catalog(role).unwrap();
        look(&Work { host: &self.host, store: &self.store, catalog: &catalog.items })
    }

    /// Remembers what stands where this role has something.
    pub fn remember(&self, role: &str) {
        let mut before = PriorStates::default();
        self.with(role, |work| assert!(before.adopt(work, None, |_| false).1.is_empty()));
        before.save(&self.store).unwrap();
    }

    /// Has a generation of the release `release`, made now.
    pub fn add_generation(&self, number: u64, release: &str) {
        let generation = json!({
            "number": number, "time": Timestamp::now(), "serial": 1, "release": release, "resources": [], "changes": {},
        });
        self.store.set_generation(&serde_json::from_value(generation).unwrap()).unwrap();
    }
}
