//! The part of a catalog that a partial run is about (`--only`).

use crate::engine::fault::needed;
use crate::engine::prelude::*;
use crate::text::fits;

/// Positions of the resources that the patterns name, and of everything that these need. A pattern with a colon names resources by
/// id, any other one roles; `*` stands for any text and `?` for one character. Everything is wanted if there are no patterns, which
/// is `None`.
pub fn selected(items: &[Item], patterns: &[String]) -> Result<Option<HashSet<usize>>> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let unknown = patterns.iter().filter(|pattern| !items.iter().any(|item| is_named(item, pattern)));
    let explain = |pattern: &String| {
        let what = if pattern.contains(':') { "resource" } else { "role with resources" };
        let roles: BTreeSet<&str> = items.iter().flat_map(Item::roles).collect();
        let known = roles.into_iter().chain(items.iter().map(|item| item.id.as_str()));
        let advice = "`kpull plan --only ROLE` takes the name of a role, or an id such as `file:/etc/motd`; `kpull graph HOST` lists both";
        error!(UNKNOWN, "`--only` names `{pattern}`, but this host has no such {what}")
            .help_nearest(pattern, known, advice)
    };
    Error::check(unknown.map(explain).collect())?;
    needed(items, |item| patterns.iter().any(|pattern| is_named(item, pattern))).map(Some)
}

fn is_named(item: &Item, pattern: &str) -> bool {
    match pattern.contains(':') {
        true => fits(item.id.as_str(), pattern),
        false => item.roles().any(|role| fits(role, pattern)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::testing::catalog;

    #[test]
    fn a_pattern_names_whole_ids_and_roles_and_its_stars_reach_over_anything() {
        let fitting = |pattern: &str| {
            let names = ["file:/etc/a", "file:/etc/a/b", "unit:a.service", "öl"];
            names.into_iter().filter(|name| fits(name, pattern)).collect::<Vec<_>>()
        };
        assert_eq!(fitting("file:/etc/a"), ["file:/etc/a"]);
        assert_eq!(fitting("file:*"), ["file:/etc/a", "file:/etc/a/b"]);
        assert_eq!(fitting("*/a/*"), ["file:/etc/a/b"]);
        assert_eq!(fitting("*a*e"), ["unit:a.service"]);
        assert_eq!(fitting("?l"), ["öl"]);
        assert_eq!(fitting("*").len(), 4);
        assert_eq!((fitting("").len(), fitting("file:/etc/a?").len()), (0, 0));
    }

    #[test]
    fn what_is_selected_brings_what_it_needs_and_an_unknown_name_is_an_error() {
        let role = "[[directory]]\npath = '/d'\n[[file]]\npath = '/d/in'\ncontent = 'x'\n[[file]]\npath = '/other'\ncontent = 'x'\n";
        let items = catalog(role).unwrap().items;
        let ids = |pattern: &str| -> Vec<&str> {
            let mut at: Vec<usize> = selected(&items, &[pattern.to_owned()]).unwrap().unwrap().into_iter().collect();
            at.sort_unstable();
            at.into_iter().map(|at| items[at].id.as_str()).collect()
        };
        assert_eq!(ids("file:/d/*"), ["directory:/d", "file:/d/in"]);
        assert_eq!(ids("r").len(), 3);
        assert_eq!(selected(&items, &[]).unwrap(), None);
        let error = selected(&items, &["file:/d/im".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "`--only` names `file:/d/im`, but this host has no such resource");
        assert_eq!(error.advice(), Some("did you mean `file:/d/in`?"));
    }
}
