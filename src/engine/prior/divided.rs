//! Paths of which an orphan is a part and the catalog has the whole, or the reverse: a role now writes a file in which it had lines. Orphans
//! there are restored before anything else, so that they don't undo what the run writes, and the prior states of the others are read
//! afterwards.

use super::{OwnedItem, PriorStates};
use crate::engine::prelude::*;
use crate::kind::prior_state::PriorState;

impl PriorStates {
    /// These paths. `own` is what the catalog owns.
    pub(super) fn find_divided(&self, own: &HashSet<Claim>, work: &Work<'_>) -> HashSet<PathBuf> {
        let is_left = |(claim, known): &(&Claim, &OwnedItem)| !known.open && !own.contains(*claim);
        let left: Vec<_> = self.known.iter().filter(is_left).collect();
        let mut divided = HashSet::new();
        if left.is_empty() {
            return divided;
        }
        let described = work.catalog.iter().flat_map(|item| &item.about.claims);
        let (wholes, parts): (Vec<&Claim>, _) = own.iter().chain(described).partition(|one| one.whole_path().is_some());
        let paths = |claims: Vec<&Claim>| -> HashSet<PathBuf> {
            claims.into_iter().filter_map(Claim::any_path).map(Path::to_owned).collect()
        };
        let (wholes, parts) = (paths(wholes), paths(parts));
        for (claim, known) in left {
            match (&known.prior, claim.whole_path(), claim.any_path()) {
                (PriorState::Permissions { path, .. }, ..) => {
                    divided.extend(wholes.iter().filter(|whole| whole.starts_with(path)).cloned());
                }
                (_, Some(path), _) => divided.extend(parts.get(path).cloned()),
                (_, None, Some(path)) => divided.extend(wholes.get(path).cloned()),
                (_, None, None) => {}
            }
        }
        divided
    }

    /// Whether an orphan with this claim is at such a path.
    pub(super) fn has_divided(&self, claim: &Claim) -> bool {
        claim.any_path().is_some_and(|path| self.divided.contains(path))
    }

    /// Whether an item with this claim is at such a path.
    pub(super) fn is_divided(&self, item: &Item, claim: &Claim) -> bool {
        item.about.claims.iter().chain([claim]).any(|claim| self.has_divided(claim))
    }

    /// Whether there are such paths: some prior states are open until the first orphans are restored.
    pub fn is_any_divided(&self) -> bool {
        !self.divided.is_empty()
    }
}
