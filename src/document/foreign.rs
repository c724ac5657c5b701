//! Names from other tools or an earlier kpull, and what to write instead.

/// One line for each advice: foreign names, the name in kpull, what to write instead.
const NAMES: &str = include_str!("foreign.txt");

/// One line for each advice about templates: foreign names, what to write instead.
const IN_TEMPLATES: &str = include_str!("foreign_in_templates.txt");

/// The foreign names and the other columns of each line.
fn lines<const N: usize>(table: &'static str) -> impl Iterator<Item = (Vec<&'static str>, [&'static str; N])> {
    table.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (words, rest) = line.split_once(" | ")?;
        let rest: Vec<&str> = rest.splitn(N, " | ").collect();
        Some((words.split(' ').collect(), rest.try_into().ok()?))
    })
}

/// What to write instead of a name, where these names are valid.
pub fn advice(name: &str, known: &[&str]) -> Option<&'static str> {
    let mut found = lines(NAMES).filter(|(words, [own, _])| words.contains(&name) && known.contains(own));
    found.next().map(|(_, [_, advice])| advice)
}

/// What to write in a template instead of the name of a variable, filter or function.
pub fn in_templates(name: &str) -> Option<&'static str> {
    lines(IN_TEMPLATES).find(|(words, _)| words.contains(&name)).map(|(_, [advice])| advice)
}

#[cfg(test)]
mod tests {
    use super::{IN_TEMPLATES, NAMES, advice, lines};
    use crate::kind::KINDS;

    #[test]
    fn what_is_known_to_kpull_is_called_foreign_nowhere_that_it_is_known() {
        for (words, [own, advice]) in lines(NAMES) {
            assert!(!words.contains(&own) && !advice.is_empty(), "{own}");
        }
        let entries = |table: &str| table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
        assert!(entries(NAMES) > 60 && entries(IN_TEMPLATES) > 20);
        assert_eq!(lines::<2>(NAMES).count(), entries(NAMES), "a line has three columns");
        assert_eq!(lines::<1>(IN_TEMPLATES).count(), entries(IN_TEMPLATES), "a line has two columns");
        let kinds: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        for (typed, own) in
            [("service", "unit"), ("copy", "file"), ("cron", "timer"), ("fstab", "mount"), ("lineinfile", "line")]
        {
            assert!(advice(typed, &kinds).is_some_and(|advice| advice.contains(own)), "{typed}");
        }
        assert_eq!(advice("service", &["path"]), None, "only where it can stand");
    }
}
