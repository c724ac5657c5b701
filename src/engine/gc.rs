//! What this host need not remember any longer, and lets go of.

use crate::engine::before::Before;
use crate::error::Result;
use crate::store::{Keep, Store};

/// How much went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    /// Generations.
    pub generations: usize,
    /// Contents that stood somewhere before, or that somebody had edited.
    pub saved: usize,
    /// Files of artifacts.
    pub artifacts: usize,
}

/// Deletes generations that are too many or too old, and whatever only they needed.
pub fn collect(store: &Store, keep: &Keep) -> Result<Gone> {
    Ok(Gone {
        generations: store.drop_generations(keep)?,
        saved: store.drop_saved(&Before::load(store)?.saved())?,
        artifacts: store.drop_artifacts()?,
    })
}

/// [`collect`], if there are generations to delete.
pub fn collect_due(store: &Store, keep: &Keep) -> Result<()> {
    if store.has_generations_to_drop(keep)? {
        collect(store, keep)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::host::Host;
    use crate::kind::Work;
    use crate::resolve::testing::catalog;

    /// A store with as many generations, what stood at a path of the catalog, and what nothing needs: a content and an artifact.
    fn store(generations: u64) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x"), "theirs").unwrap();
        let (host, store) = (Host::open(dir.path()).unwrap(), Store::open(&dir.path().join("state")).unwrap());
        let items = catalog("[[file]]\npath = '/x'\ncontent = 'x'\n").unwrap().items;
        let mut before = Before::default();
        before.adopt(&Work { host: &host, store: &store, catalog: &items }).unwrap();
        before.save(&store).unwrap();
        store.save(b"nobody's").unwrap();
        std::fs::create_dir_all(dir.path().join("state/artifacts")).unwrap();
        std::fs::write(dir.path().join("state/artifacts").join("0".repeat(64)), "").unwrap();
        for number in 1..=generations {
            let release = format!("{number:064}");
            let generation = json!({
                "number": number, "time": Timestamp::now(), "serial": 1, "release": release, "resources": [], "changes": {},
            });
            store.set_generation(&serde_json::from_value(generation).unwrap()).unwrap();
        }
        (dir, store)
    }

    /// How many generations, contents and artifacts there are.
    fn counts(dir: &tempfile::TempDir) -> [usize; 3] {
        let count = |name: &str| std::fs::read_dir(dir.path().join("state").join(name)).unwrap().count();
        ["generations", "saved", "artifacts"].map(count)
    }

    const KEEP: Keep = Keep { generations: 3, days: 90 };

    #[test]
    fn what_nothing_needs_goes_and_what_stood_somewhere_before_stays() {
        let (dir, store) = store(5);
        assert_eq!(counts(&dir), [5, 2, 1]);
        assert_eq!(collect(&store, &KEEP).unwrap(), Gone { generations: 2, saved: 1, artifacts: 1 });
        assert_eq!(counts(&dir), [3, 1, 0]);
        assert_eq!(collect(&store, &KEEP).unwrap(), Gone::default());
    }

    #[test]
    fn nothing_is_looked_for_until_there_are_generations_to_delete() {
        let (dir, store) = store(3);
        collect_due(&store, &KEEP).unwrap();
        assert_eq!(counts(&dir), [3, 2, 1]);
        collect_due(&store, &Keep { generations: 2, ..KEEP }).unwrap();
        assert_eq!(counts(&dir), [2, 1, 0]);
    }
}
