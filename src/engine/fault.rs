//! What a run skips: resources that can't be observed or changed, and those that depend on them.

use crate::engine::prelude::*;
use crate::resolve::predecessors;

/// How many dependent resources the message of a fault names.
const NAMED: usize = 4;

/// Resources that failed, and those that depend on them. Ask for items in the catalog's order, in which a dependent resource
/// comes later.
#[derive(Debug, Default)]
pub struct LeftOut {
    /// Positions of the resources that failed themselves, and why.
    pub faults: Vec<(usize, Error)>,
    /// Positions of these, and of dependent resources as far as they were asked for.
    out: HashSet<usize>,
    /// What each item depends on; filled at the first fault.
    predecessors: Vec<Vec<usize>>,
}

impl LeftOut {
    /// Leaves a resource out, because of an error.
    pub fn add(&mut self, at: usize, error: Error, items: &[Item]) -> Result<()> {
        if self.predecessors.is_empty() {
            self.predecessors = predecessors(items)?;
        }
        self.out.insert(at);
        self.faults.push((at, error));
        Ok(())
    }

    /// Whether an item failed or depends on one that did.
    pub fn has(&mut self, at: usize) -> bool {
        if self.faults.is_empty() {
            return false;
        }
        let is_out = self.out.contains(&at)
            || self.predecessors.get(at).is_some_and(|needed| needed.iter().any(|one| self.out.contains(one)));
        if is_out {
            self.out.insert(at);
        }
        is_out
    }

    /// Everything that failed, as one error that also names what depends on it; `None` when nothing did.
    pub fn into_error(self, items: &[Item]) -> Option<Error> {
        let explain = |(at, error): (usize, Error)| {
            let mut behind = HashSet::from([at]);
            let mut names = Vec::new();
            for (position, needed) in self.predecessors.iter().enumerate().skip(at + 1) {
                if needed.iter().any(|one| behind.contains(one)) {
                    behind.insert(position);
                    names.extend(items.get(position).map(|item| item.id.as_str()));
                }
            }
            let more = names.len().saturating_sub(NAMED);
            names.truncate(NAMED);
            if names.is_empty() {
                return error;
            }
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            error.help_more(&format!("skipped because it depends on this: {}{more}", names.join(", ")))
        };
        Error::distinct(self.faults.into_iter().map(explain).collect()).map(Error::of_host)
    }
}

/// Positions of everything that some items need, directly or not, with these.
pub fn needed(items: &[Item], wanted: impl Fn(&Item) -> bool) -> Result<HashSet<usize>> {
    let predecessors = predecessors(items)?;
    let mut all = HashSet::new();
    let mut next: Vec<usize> = (0..items.len()).filter(|&at| wanted(&items[at])).collect();
    while let Some(at) = next.pop() {
        if all.insert(at) {
            next.extend(&predecessors[at]);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::testing::catalog;

    const ROLE: &str = r#"
        [[directory]]
        path = "/d"
        [[file]]
        path = "/d/in"
        content = "x"
        [[file]]
        path = "/other"
        content = "x"
        [[file]]
        path = "/later"
        content = "x"
        after = ["file:/d/in"]
    "#;

    fn ids(items: &[Item], positions: impl Iterator<Item = usize>) -> Vec<&str> {
        let mut ids: Vec<&str> = positions.map(|at| items[at].id.as_str()).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn what_depends_on_a_fault_is_left_out_and_nothing_else() {
        let items = catalog(ROLE).unwrap().items;
        let mut left_out = LeftOut::default();
        assert!(!(0..items.len()).any(|at| left_out.has(at)));
        let at = items.iter().position(|item| item.id == "directory:/d").unwrap();
        left_out.add(at, Error::new(crate::error::code::OTHER, "it fails").help("correct it"), &items).unwrap();
        assert_eq!(
            ids(&items, (0..items.len()).filter(|&at| left_out.has(at))),
            ["directory:/d", "file:/d/in", "file:/later"]
        );
        let error = left_out.into_error(&items).unwrap();
        assert!(error.is_of_host());
        assert_eq!(error.advice(), Some("correct it; skipped because it depends on this: file:/d/in, file:/later"));
    }

    #[test]
    fn what_an_item_needs_is_everything_that_comes_before_it_because_of_it() {
        let items = catalog(ROLE).unwrap().items;
        let needed = needed(&items, |item| item.id == "file:/later").unwrap();
        assert_eq!(ids(&items, needed.into_iter()), ["directory:/d", "file:/d/in", "file:/later"]);
    }
}
