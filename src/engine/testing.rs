//! Hosts for the tests of the engine.

use jiff::Timestamp;
use serde_json::json;

use crate::engine::prior::PriorStates;
use crate::engine::run::Run;
use crate::error::Error;
use crate::host::Host;
use crate::kind::Work;
use crate::report::Report;
use crate::resolve::Catalog;
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

    /// The result of `test` on a host with one role, of this text.
    pub fn with<T>(&self, role: &str, test: impl FnOnce(&Work<'_>) -> T) -> T {
        let catalog = catalog(role).unwrap();
        test(&Work { host: &self.host, store: &self.store, catalog: &catalog.items })
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

/// The ids of a catalog, in order.
pub fn ids(catalog: &Catalog) -> Vec<&str> {
    catalog.items.iter().map(|item| item.id.as_str()).collect()
}

/// The machine that the tests run on. The commands of their roles make files in a directory.
pub struct Machine {
    pub dir: tempfile::TempDir,
    pub host: Host,
    pub store: Store,
    pub catalog: Catalog,
}

impl Machine {
    /// `DIR` in the role stands for the directory.
    pub fn new(role: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let role = role.replace("DIR", dir.path().to_str().unwrap());
        let store = Store::open(&dir.path().join("state")).unwrap();
        Self { host: Host::open("/".as_ref()).unwrap(), store, catalog: catalog(&role).unwrap(), dir }
    }

    /// What a run changes and how many probes pass; its error, if it ends with one.
    pub fn run(&self) -> (Vec<String>, Result<usize, Error>) {
        let items = &self.catalog.items;
        let work = Work { host: &self.host, store: &self.store, catalog: items };
        let (pending, silent) = (self.store.pending().unwrap(), Vec::<Box<dyn Report>>::new());
        let mut run = Run::new(&work, &silent, "h1", pending);
        let ended = match run.all(&[]) {
            Ok(()) => match run.probe() {
                Ok((passed, None)) => Ok(passed),
                Ok((_, Some(error))) | Err(error) => Err(error),
            },
            Err(stop) => Err(stop.into_error()),
        };
        (run.changes.into_iter().map(|(id, _)| id.to_string()).collect(), ended)
    }

    pub fn make(&self, name: &str) {
        std::fs::write(self.dir.path().join(name), "").unwrap();
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.dir.path().join(name)).unwrap();
    }
}
