//! What this host need not remember any longer, and lets go of.

use crate::engine::prior::PriorStates;
use crate::error::Result;
use crate::store::{Keep, Store};

/// How much went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Generations.
    pub generations: usize,
    /// Contents that stood somewhere before, or that somebody had edited.
    pub saved: usize,
    /// Files of artifacts.
    pub artifacts: usize,
}

/// Deletes generations that are too many or too old, and whatever only they needed.
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

    /// As many generations, what stood at a path of the catalog, and what nothing needs: a content and an artifact.
    fn world(generations: u64) -> TestTree {
        let world = TestTree::new();
        std::fs::write(world.dir.path().join("x"), "theirs").unwrap();
        world.remember("[[file]]\npath = '/x'\ncontent = 'x'\n");
        world.store.save(b"nobody's").unwrap();
        std::fs::create_dir_all(world.dir.path().join("state/artifacts")).unwrap();
        std::fs::write(world.dir.path().join("state/artifacts").join("0".repeat(64)), "").unwrap();
        (1..=generations).for_each(|number| world.add_generation(number, &format!("{number:064}")));
        world
    }

    /// How many generations, contents and artifacts there are.
    fn counts(world: &TestTree) -> [usize; 3] {
        let count = |name: &str| std::fs::read_dir(world.dir.path().join("state").join(name)).unwrap().count();
        ["generations", "saved", "artifacts"].map(count)
    }

    const KEEP: Keep = Keep { generations: 3, days: 90 };

    #[test]
    fn what_nothing_needs_goes_and_what_stood_somewhere_before_stays() {
        let world = world(5);
        assert_eq!(counts(&world), [5, 2, 1]);
        assert_eq!(collect(&world.store, &KEEP).unwrap(), Freed { generations: 2, saved: 1, artifacts: 1 });
        assert_eq!(counts(&world), [3, 1, 0]);
        assert_eq!(collect(&world.store, &KEEP).unwrap(), Freed::default());
    }

    #[test]
    fn nothing_is_looked_for_until_there_are_generations_to_delete() {
        let world = world(3);
        collect_due(&world.store, &KEEP).unwrap();
        assert_eq!(counts(&world), [3, 2, 1]);
        collect_due(&world.store, &Keep { generations: 2, ..KEEP }).unwrap();
        assert_eq!(counts(&world), [2, 1, 0]);
    }
}
