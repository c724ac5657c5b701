//! One resource for what several roles of a host define in the same way.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::Value;

use crate::error::{Error, code};
use crate::kind::{Claim, Item, ResourceId};

/// Fields in which the definitions of two roles may differ: the resource has what both say.
const UNITED: [&str; 3] = ["restart_when", "reload_when", "on_change_of"];

/// The resources of a host, while they are collected from its roles.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) items: Vec<Item>,
    /// The fields of the entry that each item comes from.
    written: Vec<Arc<Value>>,
    /// Positions by id.
    known: HashMap<ResourceId, usize>,
    /// Pairs of entries that contradict each other: one error is enough.
    refused: BTreeSet<[String; 2]>,
}

impl Shared {
    /// Adds a resource, or joins it with that of another role. `written` has the fields of its entry. An error if the two differ.
    pub(super) fn add(&mut self, item: Item, written: &Arc<Value>) -> Option<Error> {
        let first = self.known.get(&item.id).copied();
        // a role that defines something twice is a mistake: the claims report it
        let Some(at) = first.filter(|&at| self.items[at].roles().all(|role| *role != *item.role)) else {
            self.known.entry(item.id.clone()).or_insert(self.items.len());
            self.items.push(item);
            self.written.push(written.clone());
            return None;
        };
        let first = &mut self.items[at];
        if item.resource.is_addition() || item.resource.definition() == first.resource.definition() {
            first.join(item);
            return None;
        }
        if first.resource.is_addition() {
            let addition = std::mem::replace(first, item);
            first.join(addition);
            self.written[at] = written.clone();
            return None;
        }
        let is_new = self.refused.insert([first.place.to_string(), item.place.to_string()]);
        is_new.then(|| differ(first, &item, &self.written[at], written))
    }
}

impl Item {
    /// Adds what another role says about the same resource.
    fn join(&mut self, other: Self) {
        unite(&mut self.after, other.after);
        unite(&mut self.needs, other.needs);
        unite(&mut self.notify, other.notify);
        unite(&mut self.about.after, other.about.after);
        unite(&mut self.about.watches, other.about.watches);
        self.is_secret |= other.is_secret;
        self.also.push((other.role, other.place));
        self.also.extend(other.also);
        let (Some(own), Value::Object(mut fields)) = (self.fields.as_object_mut(), other.fields) else { return };
        for name in UNITED {
            match (own.get_mut(name).and_then(Value::as_array_mut), fields.remove(name)) {
                (Some(own), Some(Value::Array(more))) => unite(own, more),
                (None, Some(more)) => drop(own.insert(name.to_owned(), more)),
                _ => {}
            }
        }
    }
}

/// Adds what a list lacks of another one.
fn unite<T: PartialEq>(list: &mut Vec<T>, more: Vec<T>) {
    for one in more {
        if !list.contains(&one) {
            list.push(one);
        }
    }
}

/// The error for two roles that define one thing differently.
fn differ(first: &Item, item: &Item, was: &Value, is: &Value) -> Error {
    let subject = item.about.claims.first().map_or_else(|| item.id.to_string(), Claim::subject);
    let fields = differing(was, is).join(", ");
    let what = format!("two roles manage `{subject}`: {} and {}, which differ in {fields}", first.role, item.role);
    let help = format!("the other one is at {}; keep one of them, or make both identical", first.place);
    Error::new(code::CLASH, what).at(item.place.clone(), "here again").help(help)
}

/// The names of the fields that differ; if none does, those that name a file of the role.
fn differing(was: &Value, is: &Value) -> Vec<String> {
    let names: BTreeSet<&String> =
        [was, is].into_iter().filter_map(Value::as_object).flat_map(|map| map.keys()).collect();
    let quoted = |name: &&String| format!("`{name}`");
    let differ = |name: &&&String| !UNITED.contains(&name.as_str()) && was.get(name) != is.get(name);
    // an entry with several names differs in one resource because of another field, if there is one
    let (named, found): (Vec<&String>, Vec<&String>) =
        names.iter().filter(differ).partition(|name| ["name", "names"].contains(&name.as_str()));
    if let Some(found) = [found, named].into_iter().find(|found| !found.is_empty()) {
        return found.iter().map(quoted).collect();
    }
    let of_files: Vec<String> =
        names.iter().filter(|name| ["template", "source"].contains(&name.as_str())).map(quoted).collect();
    match of_files.is_empty() {
        true => vec!["what they compute".to_owned()],
        false => vec![format!("the file that {} names", of_files.join(" or "))],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_is_what_differs_only_if_nothing_else_does() {
        let secret = |name: &str, mode: &str| json!({ "name": name, "path": "/etc/key", "mode": mode });
        assert_eq!(differing(&secret("a", "0600"), &secret("b", "0600")), ["`name`"]);
        assert_eq!(differing(&secret("a", "0600"), &secret("b", "0640")), ["`mode`"]);
    }
}
