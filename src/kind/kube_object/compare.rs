//! Compares a manifest with the object in the cluster.

use crate::text::leading;
use std::collections::HashSet;
use std::fmt::Write as _;

use serde_json::{Map, Value};

/// The annotation in which `kubectl apply` records its last input.
const LAST: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Maps whose values are quantities, which the API server may normalize.
const QUANTITIES: &str = "limits requests hard capacity default defaultRequest max min maxLimitRequestRatio overhead";

/// Fields that contain a quantity.
const QUANTITY: [&str; 4] = ["sizeLimit", "divisor", "averageValue", "targetAverageValue"];

/// Lists of named entries whose order matters.
const ORDERED: [&str; 1] = ["initContainers"];

/// A field that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Its path: `spec.ports[0].port`.
    pub path: String,
    /// The value in the manifest; `None` for a field that was removed from it.
    pub wanted: Option<Value>,
    /// The value in the cluster.
    pub live: Option<Value>,
}

/// All differences between the manifest and the cluster's object. Fields that are not in the manifest may have any value,
/// unless they were in it when kubectl applied it last: then they must go.
pub fn differences(wanted: &Value, live: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(wanted, Some(live), &FieldPath::default(), &mut found);
    let last = live.pointer("/metadata/annotations").and_then(|all| all.get(LAST)).and_then(Value::as_str);
    if let Some(Value::Object(mut last)) = last.and_then(|last| serde_json::from_str(last).ok()) {
        // these are filled in by kubectl, or are not part of the manifest
        last.shift_remove("status");
        if let Some(metadata) = last.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.shift_remove("namespace");
            metadata.shift_remove("creationTimestamp");
        }
        dropped(&Value::Object(last), wanted, live, &FieldPath::default(), &mut found);
    }
    found
}

/// The path of a value.
#[derive(Clone, Debug, Default)]
struct FieldPath {
    text: String,
    keys: Vec<String>,
}

impl FieldPath {
    fn key(&self, key: &str) -> Self {
        let is_plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '$'));
        let text = match (is_plain, self.text.is_empty()) {
            (true, true) => key.to_owned(),
            (true, false) => format!("{}.{key}", self.text),
            (false, _) => format!("{}[{key:?}]", self.text),
        };
        Self { text, keys: [self.keys.as_slice(), &[key.to_owned()]].concat() }
    }

    fn entry(&self, entry: &str) -> Self {
        Self { text: format!("{}[{entry}]", self.text), keys: self.keys.clone() }
    }

    fn last(&self) -> &str {
        self.keys.last().map_or("", String::as_str)
    }

    fn is_metadata(&self) -> bool {
        self.keys.iter().any(|key| key == "metadata")
    }

    /// Whether the value is a quantity.
    fn is_quantity(&self) -> bool {
        let above = &self.keys[..self.keys.len().saturating_sub(1)];
        let named = above.iter().any(|key| QUANTITIES.split(' ').any(|known| known == key));
        (named || QUANTITY.contains(&self.last())) && !self.is_metadata()
    }
}

fn compare(wanted: &Value, live: Option<&Value>, path: &FieldPath, found: &mut Vec<Difference>) {
    let mut differ =
        || found.push(Difference { path: path.text.clone(), wanted: Some(wanted.clone()), live: live.cloned() });
    match (wanted, live) {
        (Value::Object(wanted), Some(Value::Object(live))) => {
            for (key, value) in wanted {
                compare(value, live.get(key), &path.key(key), found);
            }
        }
        (Value::Array(wanted), Some(Value::Array(live))) if wanted.len() == live.len() => {
            for (at, value) in wanted.iter().enumerate() {
                let (name, other) = partner(wanted, live, at, path.last());
                match other {
                    Some(other) => compare(value, Some(other), &path.entry(&name), found),
                    // with other names, the whole list says more than one entry
                    None => {
                        let [wanted, live] = [wanted, live].map(|list| Some(Value::Array(list.clone())));
                        found.push(Difference { path: path.text.clone(), wanted, live });
                        return;
                    }
                }
            }
        }
        (wanted, None) if is_left_out(wanted, path) => {}
        (Value::Null, Some(Value::Null)) => {}
        (wanted, Some(live)) if is_same(wanted, live, path) => {}
        _ => differ(),
    }
}

/// What differs in `live`, as an RFC 7396 patch: only differing keys of maps, whole lists.
pub fn patch(wanted: &Value, live: &Value) -> Value {
    patch_at(wanted, Some(live), &FieldPath::default()).unwrap_or_else(|| Value::Object(Map::new()))
}

fn patch_at(wanted: &Value, live: Option<&Value>, path: &FieldPath) -> Option<Value> {
    if let (Value::Object(wanted), Some(Value::Object(live))) = (wanted, live) {
        let part =
            |(key, value): (&String, &Value)| Some((key.clone(), patch_at(value, live.get(key), &path.key(key))?));
        let parts: Map<String, Value> = wanted.iter().filter_map(part).collect();
        return (!parts.is_empty()).then_some(Value::Object(parts));
    }
    let mut found = Vec::new();
    compare(wanted, live, path, &mut found);
    (!found.is_empty()).then(|| wanted.clone())
}

/// Whether the API server omits a field with this value.
fn is_left_out(value: &Value, path: &FieldPath) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        // elsewhere an empty map is a choice: `emptyDir: {}`
        Value::Object(map) => map.is_empty() && path.is_metadata(),
        // `false` and 0 may differ from the default
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn is_same(wanted: &Value, live: &Value, path: &FieldPath) -> bool {
    if wanted == live {
        return true;
    }
    let text = |value: &Value| match value {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        _ => None,
    };
    if wanted.is_string() && live.is_string() && !path.is_quantity() {
        return false;
    }
    let quantity = |value| text(value).as_deref().and_then(Quantity::parse);
    quantity(wanted).is_some_and(|wanted| quantity(live) == Some(wanted))
}

/// The entry of `others` that corresponds to `list[at]`, and its label: by `name` if all entries of both have unique
/// names, else by position.
fn partner<'a>(list: &[Value], others: &'a [Value], at: usize, key: &str) -> (String, Option<&'a Value>) {
    fn names(list: &[Value]) -> Option<HashSet<&str>> {
        let names: Option<HashSet<&str>> = list.iter().map(|entry| entry.get("name")?.as_str()).collect();
        names.filter(|names| names.len() == list.len())
    }
    if !ORDERED.contains(&key)
        && names(others).is_some()
        && let Some(name) = names(list).and_then(|_| list.get(at)?.get("name")?.as_str())
    {
        let other = others.iter().find(|other| other.get("name").and_then(Value::as_str) == Some(name));
        return (name.to_owned(), other);
    }
    (at.to_string(), others.get(at))
}

/// What `last` has, `wanted` no longer has, and `live` still has.
fn dropped(last: &Value, wanted: &Value, live: &Value, path: &FieldPath, found: &mut Vec<Difference>) {
    match (last, wanted, live) {
        (Value::Object(last), Value::Object(wanted), Value::Object(live)) => {
            for (key, value) in last {
                let path = path.key(key);
                match (wanted.get(key), live.get(key)) {
                    (Some(wanted), Some(live)) => dropped(value, wanted, live, &path, found),
                    (None, Some(live)) if !is_left_out(value, &path) && !live.is_null() => {
                        found.push(Difference { path: path.text, wanted: None, live: Some(live.clone()) });
                    }
                    _ => {}
                }
            }
        }
        // lists of different lengths are already reported
        (Value::Array(last), Value::Array(wanted), Value::Array(live)) if wanted.len() == live.len() => {
            for (at, wanted_entry) in wanted.iter().enumerate() {
                let (name, live) = partner(wanted, live, at, path.last());
                let (_, last) = partner(wanted, last, at, path.last());
                if let (Some(last), Some(live)) = (last, live) {
                    dropped(last, wanted_entry, live, &path.entry(&name), found);
                }
            }
        }
        _ => {}
    }
}

/// Values as lines of `path: value`, for people and for diffs.
pub fn lines<'a>(values: impl IntoIterator<Item = (&'a str, &'a Value)>) -> String {
    let mut out = String::new();
    for (path, value) in values {
        write_lines(value, &FieldPath { text: path.to_owned(), keys: Vec::new() }, &mut out);
    }
    out
}

fn write_lines(value: &Value, path: &FieldPath, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                write_lines(value, &path.key(key), out);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for (at, value) in list.iter().enumerate() {
                write_lines(value, &path.entry(&at.to_string()), out);
            }
        }
        Value::String(text) if text.contains('\n') => {
            let _ = writeln!(out, "{}: |", path.text);
            for line in text.lines() {
                let _ = writeln!(out, "  {line}");
            }
        }
        value => {
            let _ = writeln!(out, "{}: {value}", path.text);
        }
    }
}

/// A Kubernetes quantity, exactly: digits without trailing zeros, and a power of ten.
#[derive(Debug, PartialEq, Eq)]
struct Quantity {
    digits: i128,
    power: i32,
}

impl Quantity {
    fn parse(text: &str) -> Option<Self> {
        let (number, suffix) = leading(text, |c| matches!(c, '0'..='9' | '.' | '+' | '-'));
        // each suffix is 1,000 or 1,024 times the one before
        const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        let at = |suffixes: &[&str]| suffixes.iter().position(|known| *known == suffix);
        let (factor, power) = match (at(&DECIMAL), at(&BINARY)) {
            (Some(at), _) => (1, 3 * i32::try_from(at).ok()? - 9),
            (None, Some(at)) => (1_i128 << (10 * at), 0),
            _ => (1, suffix.strip_prefix(['e', 'E'])?.parse().ok().filter(|power: &i32| power.abs() < 100)?),
        };
        let (negative, number) = match number.strip_prefix('-') {
            Some(number) => (true, number),
            None => (false, number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty()
            || !(whole.bytes().chain(fraction.bytes()).all(|c| c.is_ascii_digit()))
        {
            return None;
        }
        let mut digits = format!("{whole}{fraction}").parse::<i128>().ok()?.checked_mul(factor)?;
        let mut power = power - i32::try_from(fraction.len()).ok()?;
        while digits != 0 && digits % 10 == 0 {
            digits /= 10;
            power += 1;
        }
        if digits == 0 {
            power = 0;
        }
        Some(Self { digits: if negative { -digits } else { digits }, power })
    }
}

/// The live and the wanted values as lines, for a diff.
pub fn both(differences: &[Difference]) -> (String, String) {
    let side = |value: fn(&Difference) -> Option<&Value>| {
        lines(differences.iter().filter_map(|difference| Some((difference.path.as_str(), value(difference)?))))
    };
    (side(|difference| difference.live.as_ref()), side(|difference| difference.wanted.as_ref()))
}

/// The whole manifest as lines.
pub fn all(wanted: &Value) -> String {
    let empty = Map::new();
    lines(wanted.as_object().unwrap_or(&empty).iter().map(|(key, value)| (key.as_str(), value)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The paths of what differs.
    fn paths(wanted: &Value, live: &Value) -> Vec<String> {
        differences(wanted, live).into_iter().map(|difference| difference.path).collect()
    }

    #[test]
    fn what_a_manifest_does_not_speak_of_may_be_as_it_likes() {
        let live = json!({"metadata": {"name": "a", "uid": "1"}, "data": {"x": "1", "y": "2"}, "status": {}});
        assert!(paths(&json!({"metadata": {"name": "a"}, "data": {"x": "1"}}), &live).is_empty());
        assert_eq!(paths(&json!({"data": {"x": "2", "z": "3"}}), &live), ["data.x", "data.z"]);
        assert_eq!(paths(&json!({"data": {"a.b/c": "2"}}), &live), ["data[\"a.b/c\"]"]);
    }

    #[test]
    fn lists_have_the_same_length_and_their_entries_what_is_wanted() {
        let live = json!({"ports": [{"port": 1, "protocol": "TCP"}, {"port": 2, "protocol": "TCP"}]});
        assert!(paths(&json!({"ports": [{"port": 1}, {"port": 2}]}), &live).is_empty());
        assert_eq!(paths(&json!({"ports": [{"port": 1}, {"port": 3}]}), &live), ["ports[1].port"]);
        assert_eq!(paths(&json!({"ports": [{"port": 1}]}), &live), ["ports"]);
    }

    #[test]
    fn entries_with_names_are_found_by_them_unless_their_order_means_something() {
        let live = json!([{"name": "b", "image": "2", "x": 1}, {"name": "a", "image": "1"}]);
        let wanted = json!([{"name": "a", "image": "1"}, {"name": "b", "image": "3"}]);
        assert_eq!(paths(&json!({"containers": wanted}), &json!({"containers": live})), ["containers[b].image"]);
        let wanted = json!([{"name": "a", "image": "1"}, {"name": "c"}]);
        assert_eq!(paths(&json!({"containers": wanted}), &json!({"containers": live})), ["containers"]);
        let wanted = json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]);
        let found = paths(&json!({"initContainers": wanted}), &json!({"initContainers": live}));
        assert_eq!(found.len(), 4, "{found:?}");
    }

    #[test]
    fn quantities_and_numbers_are_equal_by_value_and_texts_are_not() {
        let same =
            [("100m", "0.1"), ("1Gi", "1024Mi"), ("1e3", "1k"), ("0.5", "500m"), ("128974848", "123Mi"), ("0", "0k")];
        for (one, other) in same {
            assert!(
                paths(&json!({"limits": {"x": one}}), &json!({"limits": {"x": other}})).is_empty(),
                "{one} {other}"
            );
        }
        for (one, other) in [("100m", "0.11"), ("1Gi", "1G"), ("1", "a"), ("1x", "1"), ("-1", "1"), (".", "0")] {
            assert_eq!(paths(&json!({"limits": {"x": one}}), &json!({"limits": {"x": other}})), ["limits.x"]);
        }
        assert!(
            paths(&json!({"limits": {"cpu": 2}, "port": 1}), &json!({"limits": {"cpu": "2"}, "port": "1"})).is_empty()
        );
        assert!(paths(&json!({"x": 1.0}), &json!({"x": 1})).is_empty());
        assert_eq!(paths(&json!({"data": {"x": "1.0"}}), &json!({"data": {"x": "1"}})), ["data.x"]);
        assert_eq!(paths(&json!({"x": true}), &json!({"x": "true"})), ["x"]);
    }

    #[test]
    fn what_the_api_server_leaves_out_when_it_is_empty_may_be_missing_and_nothing_else() {
        let wanted = json!({"a": "", "b": [], "c": null, "metadata": {"annotations": {}}});
        assert!(paths(&wanted, &json!({"metadata": {}})).is_empty());
        let wanted = json!({"automountServiceAccountToken": false, "runAsUser": 0, "emptyDir": {}});
        assert_eq!(paths(&wanted, &json!({"hostPath": {}})).len(), 3);
        assert_eq!(paths(&json!({"c": null}), &json!({"c": 1})), ["c"]);
    }

    #[test]
    fn what_was_applied_last_and_is_wanted_no_more_is_to_go() {
        let last = json!({"metadata": {"annotations": {}, "name": "a", "namespace": "n"}, "status": {"x": 1},
                          "data": {"x": "1", "y": "2", "gone": "3"}, "list": [{"name": "l", "a": 1, "b": 2}]});
        let live = json!({"metadata": {"name": "a", "namespace": "n", "annotations": {LAST: last.to_string()}},
                          "status": {"x": 1}, "data": {"x": "1", "y": "2", "other": "4"},
                          "list": [{"name": "l", "a": 1, "b": 2, "c": 3}]});
        let wanted = json!({"metadata": {"name": "a"}, "data": {"x": "1"}, "list": [{"name": "l", "a": 1}]});
        let found = differences(&wanted, &live);
        let lost = |path: &str, live: Value| Difference { path: path.into(), wanted: None, live: Some(live) };
        assert_eq!(found, [lost("data.y", json!("2")), lost("list[l].b", json!(2))]);
    }

    #[test]
    fn a_patch_has_what_differs_and_lists_as_a_whole() {
        let wanted = json!({"kind": "X", "spec": {"a": 1, "b": {"c": [{"x": 1}, {"x": 2}]}, "d": {"e": "f"}}});
        let live = json!({"kind": "X", "spec": {"a": 1, "b": {"c": [{"x": 1, "y": 0}], "z": 1}, "d": {"e": "f"}}});
        assert_eq!(patch(&wanted, &live), json!({"spec": {"b": {"c": [{"x": 1}, {"x": 2}]}}}));
        assert_eq!(patch(&wanted, &wanted), json!({}));
    }

    #[test]
    fn differences_are_shown_as_lines_with_their_paths() {
        let wanted = json!({"data": {"conf": "a\nc\n"}, "spec": {"n": 1, "list": [{"x": 1}]}});
        let live = json!({"data": {"conf": "a\nb\n"}, "spec": {"n": 2}});
        let (live, wanted) = both(&differences(&wanted, &live));
        assert_eq!(live, "data.conf: |\n  a\n  b\nspec.n: 2\n");
        assert_eq!(wanted, "data.conf: |\n  a\n  c\nspec.n: 1\nspec.list[0].x: 1\n");
        assert_eq!(all(&json!({"kind": "X", "spec": {"a": {}}})), "kind: \"X\"\nspec.a: {}\n");
    }
}
