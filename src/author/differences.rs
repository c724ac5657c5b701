//! Compares two releases for a host, without checking the host itself.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use crate::kind::diff::Diff;
use crate::kind::{Change, Item};
use crate::resolve::Catalog;

/// Fields that are shown as the content of the resource, or of another one.
const CONTENT: [&str; 2] = ["content", "dropins"];

/// A resource that differs between two releases.
#[derive(Debug)]
pub struct Difference<'a> {
    /// The resource, as in the newer release if it has it.
    pub item: &'a Item,
    /// The difference, without secrets: an addition, a removal or a change.
    pub change: Change,
}

/// All differences, in the order of the newer catalog, then what it lacks. Texts with secrets, and those that a role marks as
/// sensitive, are not shown.
pub fn differences<'a>(old: &'a Catalog, new: &'a Catalog) -> Vec<Difference<'a>> {
    let before: HashMap<&str, &Item> = old.items.iter().map(|item| (item.id.as_str(), item)).collect();
    let mut found: Vec<Difference<'_>> = Vec::new();
    for item in &new.items {
        let change = match before.get(item.id.as_str()) {
            Some(was) => changed(was, item),
            None => Some(whole(item, false)),
        };
        found.extend(change.map(|change| Difference { item, change }));
    }
    let after: HashMap<&str, &Item> = new.items.iter().map(|item| (item.id.as_str(), item)).collect();
    let removed = old.items.iter().filter(|item| !after.contains_key(item.id.as_str()));
    found.extend(removed.map(|item| Difference { item, change: whole(item, true) }));
    found
}

/// A resource that only one release has.
fn whole(item: &Item, is_old: bool) -> Change {
    let own = text(item);
    let (change, old, new): (_, &[u8], &[u8]) = match is_old {
        true => (Change::removal("remove"), &own, &[]),
        false => (Change::addition("add"), &[], &own),
    };
    Change { diff: Diff::of(old, new, hides(item)), ..change }
}

/// The change of a resource that both have.
fn changed(old: &Item, new: &Item) -> Option<Change> {
    let mut parts = Vec::new();
    if old.role != new.role {
        parts.push(format!("role {} → {}", old.role, new.role));
    }
    let names: Vec<String> = differing(&old.fields, &new.fields);
    let is_content = old.resource.content() != new.resource.content();
    if is_content {
        parts.push("content".to_owned());
    }
    parts.extend(names.iter().cloned());
    let is_hidden = hides(old) || hides(new);
    let mut diffs = Vec::new();
    if !names.is_empty() {
        let (old, new) = (fields(&old.fields, Some(&names)), fields(&new.fields, Some(&names)));
        diffs.extend(Diff::of(old.as_bytes(), new.as_bytes(), is_hidden));
    }
    // one note about hidden text is enough
    let is_noted = is_hidden && !diffs.is_empty();
    if is_content && !is_noted {
        diffs.extend(Diff::of(&*content(old), &*content(new), is_hidden));
    }
    Change::of(parts).map(|change| Change { diff: Diff::together(diffs), ..change })
}

/// Whether to hide its fields and content.
fn hides(item: &Item) -> bool {
    item.is_sensitive() || item.fields.get("sensitive") == Some(&Value::Bool(true))
}

fn content(item: &Item) -> Cow<'_, [u8]> {
    item.resource.content().unwrap_or_default()
}

/// A resource as text: its content, or else its fields.
fn text(item: &Item) -> Cow<'_, [u8]> {
    item.resource.content().unwrap_or_else(|| fields(&item.fields, None).into_bytes().into())
}

/// The names of the fields that differ.
fn differing(old: &Value, new: &Value) -> Vec<String> {
    let fields = [old, new].into_iter().filter_map(Value::as_object).flatten();
    let names: BTreeSet<&String> = fields.map(|(name, _)| name).collect();
    let differs = |name: &&String| !CONTENT.contains(&name.as_str()) && old.get(*name) != new.get(*name);
    names.into_iter().filter(differs).cloned().collect()
}

/// All fields, or these, as TOML, with one line for each value of a list.
fn fields(value: &Value, names: Option<&[String]>) -> String {
    let wanted = |name: &String| names.map_or(!CONTENT.contains(&name.as_str()), |names| names.contains(name));
    let mut shown = value.as_object().cloned().unwrap_or_default();
    shown.retain(|name, _| wanted(name));
    toml::to_string_pretty(&shown).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Effect;
    use crate::resolve::testing::catalog;

    fn reported(old: &str, new: &str) -> Vec<(String, Effect, String, String)> {
        let (old, new) = (catalog(old).unwrap(), catalog(new).unwrap());
        differences(&old, &new)
            .into_iter()
            .map(|one| {
                (
                    one.item.id.to_string(),
                    one.change.what,
                    one.change.summary,
                    one.change.diff.unwrap_or_default().to_string(),
                )
            })
            .collect()
    }

    const FILE: &str = "[[file]]\npath = '/f'\ncontent = \"one\\n\"\n";

    #[test]
    fn a_release_does_not_differ_from_itself() {
        assert_eq!(reported(FILE, FILE), []);
    }

    #[test]
    fn added_removed_and_changed_resources_are_reported_with_fields_and_text() {
        let link = "[[symlink]]\npath = '/l'\ntarget = 'f'\n";
        let new =
            "[[file]]\npath = '/f'\ncontent = \"two\\n\"\nmode = '0600'\n[[directory]]\npath = '/d'\nmode = '0700'\n";
        assert_eq!(
            reported(&format!("{link}{FILE}"), new),
            [
                (
                    "directory:/d".to_owned(),
                    Effect::Added,
                    "add".to_owned(),
                    "@@ -0,0 +1,2 @@\n+path = \"/d\"\n+mode = \"0700\"\n".to_owned()
                ),
                (
                    "file:/f".to_owned(),
                    Effect::Changed,
                    "content, mode".to_owned(),
                    "@@ -0,0 +1 @@\n+mode = \"0600\"\n@@ -1 +1 @@\n-one\n+two\n".to_owned()
                ),
                (
                    "symlink:/l".to_owned(),
                    Effect::Removed,
                    "remove".to_owned(),
                    "@@ -1,2 +0,0 @@\n-path = \"/l\"\n-target = \"f\"\n".to_owned()
                ),
            ]
        );
    }

    #[test]
    fn of_a_sensitive_resource_only_the_names_of_the_fields_are_reported() {
        let file = |text: &str| format!("[[file]]\npath = '/f'\ncontent = '{text}'\nsensitive = true\n");
        let new = format!("{}owner = 'hunter'\n", file("hunter2"));
        let reported = reported(&file("hunter1"), &new);
        assert_eq!(reported.len(), 1);
        assert_eq!(reported[0].2, "content, owner");
        assert_eq!(reported[0].3, "(the content is not shown: it is sensitive)\n");
    }

    const HIDDEN: &str = "(the content is not shown: it is sensitive)\n";

    /// The one difference: in what, and the text.
    fn one(old: &Catalog, new: &Catalog) -> (String, Option<String>) {
        let mut all = differences(old, new);
        assert_eq!(all.len(), 1);
        let change = all.remove(0).change;
        (change.summary, change.diff.map(|diff| diff.to_string()))
    }

    #[test]
    fn what_either_release_hides_is_shown_of_neither() {
        let file =
            |text: &str, more: &str| catalog(&format!("[[file]]\npath = '/f'\ncontent = '{text}'\n{more}")).unwrap();
        let (plain, hidden) = (file("hunter1", ""), file("hunter2", "sensitive = true"));
        for (old, new) in [(&plain, &hidden), (&hidden, &plain)] {
            assert_eq!(one(old, new), ("content, sensitive".to_owned(), Some(HIDDEN.to_owned())));
        }
        assert_eq!(
            one(&file("hunter3", "sensitive = true"), &hidden),
            ("content".to_owned(), Some(HIDDEN.to_owned())),
            "also when it differs in nothing else"
        );
        let mut secret = file("hunter4", "");
        secret.items[0].is_secret = true;
        assert_eq!(one(&plain, &secret), ("content".to_owned(), Some(HIDDEN.to_owned())));
        let command = |word: &str| {
            catalog(&format!("[[command]]\nname = 'c'\nrun = ['{word}']\ncreates = '/c'\nsensitive = true\n")).unwrap()
        };
        assert_eq!(one(&command("hunter5"), &command("hunter6")), ("run".to_owned(), Some(HIDDEN.to_owned())));
    }

    #[test]
    fn a_resource_that_moves_to_another_role_is_reported_without_text() {
        let (old, mut new) = (catalog(FILE).unwrap(), catalog(FILE).unwrap());
        new.items[0].role = "other".into();
        assert_eq!(one(&old, &new), ("role r → other".to_owned(), None));
    }
}
