//! Patterns for ids that match nothing: probably a name that is misspelled.

use std::collections::BTreeMap;

use crate::kind::ResourceId;
use crate::resolve::Catalog;

/// A warning for each pattern that matches no resource on any host with the resource that has it. A list of a few hosts may be empty.
pub fn unmatched_patterns(catalogs: &[Catalog]) -> Vec<String> {
    let mut found: BTreeMap<_, usize> = BTreeMap::new();
    for unmatched in catalogs.iter().flat_map(|catalog| &catalog.unmatched) {
        *found.entry(unmatched).or_default() += 1;
    }
    let count = |id: &ResourceId| catalogs.iter().filter(|one| one.items.iter().any(|item| item.id == *id)).count();
    let lacking = found.into_iter().filter(|(unmatched, hosts)| *hosts == count(&unmatched.id));
    let warning = |(unmatched, _): (&crate::resolve::Unmatched, usize)| {
        format!("`{}` of `{}` matches no resource on any host", unmatched.pattern, unmatched.id)
    };
    lacking.map(warning).collect()
}
