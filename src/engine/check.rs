//! Which probes and slots of a release must answer before it counts as good: those that the last good release did not have in the same
//! form.

use crate::engine::prelude::*;
use crate::kind::probe::Probe;
use crate::kind::slot::Slot;

/// Whether a release counts as good only when it answers: a probe that decides, or a slot.
fn decides(item: &Item) -> bool {
    item.as_kind::<Probe>().is_some_and(|probe| probe.decides) || item.as_kind::<Slot>().is_some()
}

/// SHA-256 of its fields in the role; empty when they have a secret, whose digest would reveal something.
fn digest(item: &Item) -> String {
    if item.is_secret { String::new() } else { hex::encode(Sha256::digest(item.fields.to_string())) }
}

/// Everything that decides, by id, with a digest of its fields.
pub fn all<'a>(items: impl Iterator<Item = &'a Item>) -> BTreeMap<ResourceId, String> {
    items.filter(|item| decides(item)).map(|item| (item.id.clone(), digest(item))).collect()
}

/// What `plan` shows of something that decides and that the last good release, `known`, did not have in the same form.
pub fn news(item: &Item, known: &BTreeMap<ResourceId, String>) -> Option<Change> {
    if !decides(item) {
        return None;
    }
    let (change, word): (fn(String) -> Change, _) = match known.get(&item.id) {
        None => (Change::addition, "new"),
        Some(known) if known.is_empty() || *known != digest(item) => (Change::new, "changed"),
        Some(_) => return None,
    };
    Some(change(format!("{word}: must pass before the release counts as good")))
}
