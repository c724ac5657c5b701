//! Deletes what this host no longer needs to store.

use crate::engine::prior::PriorStates;
use crate::error::Result;
use crate::store::{Keep, Store};

/// How much was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Generations.
    pub generations: usize,
    /// Saved contents: of prior states, and of local edits.
    pub saved: usize,
    /// Files of artifacts.
    pub artifacts: usize,
}

/// Deletes generations that are too many or too old, and what only they needed.
pub fn collect(store: &Store, keep: &Keep) -> Result<Freed> {
    Ok(Freed {
        generations: store.drop_generations(keep)?,
        saved: store.drop_saved(&PriorStates::load(store)?.saved())?,
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
    use super::*;
    use crate::engine::testing::TestTree;

    /// So many generations, a prior state, and what nothing needs: a content and an artifact.
    fn tree(generations: u64) -> TestTree {
        let tree = TestTree::new();
        std::fs::write(tree.dir.path().join("x"), "theirs").unwrap();
        tree.remember("[[file]]\npath = '/x'\ncontent = 'x'\n");
        tree.store.save(b"nobody's").unwrap();
        std::fs::create_dir_all(tree.dir.path().join("state/artifacts")).unwrap();
        std::fs::write(tree.dir.path().join("state/artifacts").join("0".repeat(64)), "").unwrap();
        (1..=generations).for_each(|number| tree.add_generation(number, &format!("{number:064}")));
        tree
    }

    /// How many generations, contents and artifacts there are.
    fn counts(tree: &TestTree) -> [usize; 3] {
        let count = |name: &str| std::fs::read_dir(tree.dir.path().join("state").join(name)).unwrap().count();
        ["generations", "saved", "artifacts"].map(count)
    }

    const KEEP: Keep = Keep { generations: 3, days: 90 };

    #[test]
    fn what_nothing_needs_is_deleted_and_prior_states_stay() {
        let tree = tree(5);
        assert_eq!(counts(&tree), [5, 2, 1]);
        assert_eq!(collect(&tree.store, &KEEP).unwrap(), Freed { generations: 2, saved: 1, artifacts: 1 });
        assert_eq!(counts(&tree), [3, 1, 0]);
        assert_eq!(collect(&tree.store, &KEEP).unwrap(), Freed::default());
    }

    #[test]
    fn nothing_is_looked_for_until_there_are_generations_to_delete() {
        let tree = tree(3);
        collect_due(&tree.store, &KEEP).unwrap();
        assert_eq!(counts(&tree), [3, 2, 1]);
        collect_due(&tree.store, &Keep { generations: 2, ..KEEP }).unwrap();
        assert_eq!(counts(&tree), [2, 1, 0]);
    }
}
