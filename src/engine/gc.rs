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
