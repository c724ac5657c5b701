//! The manual's tables of fields agree with the types that read them: every field and no other is there, each required field is
//! marked, and each has its type.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::docs::tables::{Table, tables};

/// A table of the manual: page, heading, which table of those below it, sort of file, and the place in it.
type Described = (&'static str, &'static str, usize, &'static str, &'static str);

const DESCRIBED: &[Described] = &[
    ("usage/site.md", "site.toml", 0, "site", ""),
    ("usage/site.md", "host_vars/NAME.toml", 0, "host", ""),
    ("usage/roles.md", "Writing roles", 0, "role", ""),
    ("usage/roles.md", "Types and assertions", 1, "role", "types.NAME"),
    ("usage/roles.md", "Custom facts", 1, "role", "facts.NAME"),
    ("usage/rollout.md", "Rollouts", 0, "site", "rollout"),
    ("usage/rollout.md", "FleetLock", 0, "site", "rollout.fleetlock"),
    ("usage/pki.md", "Create authorities and certificates", 0, "site", "pki.NAME"),
    ("usage/artifacts.md", "artifacts.toml", 0, "artifacts", "NAME"),
    ("usage/artifacts.md", "artifacts.toml", 1, "artifacts", "NAME.amd64"),
    ("usage/editing.md", "Examples of roles", 0, "test", ""),
    ("usage/enrolling.md", "3. kpull.toml", 0, "kpull", ""),
    ("usage/enrolling.md", "`[trust]`", 0, "kpull", "trust"),
    ("usage/enrolling.md", "`[[source]]`", 0, "kpull", "source"),
    ("usage/enrolling.md", "`[secrets]`", 0, "kpull", "secrets"),
    ("usage/enrolling.md", "`[sandbox]`", 0, "kpull", "sandbox"),
    ("usage/enrolling.md", "`[artifacts]`", 0, "kpull", "artifacts"),
    ("usage/back.md", "Cut off", 0, "kpull", "rollback"),
    ("usage/back.md", "How much is kept", 0, "kpull", "keep"),
    ("usage/fleet.md", "Fleet status", 0, "kpull", "status"),
    ("usage/observing.md", "Metrics", 0, "kpull", "metrics"),
    ("usage/observing.md", "Hooks", 0, "kpull", "hook"),
    ("usage/reuse.md", "Sharing roles between sites", 0, "vendor", "NAME"),
    ("usage/kinds.md", "unit", 1, "role", "unit.listens"),
];

/// The fields that every resource has, which one place of the manual describes for all.
const COMMON: [&str; 5] = ["after", "for_each", "needs", "notify", "when"];

/// The JSON Schema of a sort of file.
fn schema(name: &str) -> Value {
    kpull::author::schema::FILES.iter().find(|file| file.name == name).unwrap().schema()
}

/// What a value may be, where a schema lets it be one of several; not the expression that may stand for any of them.
fn choices(schema: &Value) -> Vec<&Value> {
    let listed = ["anyOf", "oneOf"].iter().find_map(|list| schema[list].as_array());
    let Some(listed) = listed else { return vec![schema] };
    listed.iter().filter(|one| one["pattern"] != r"\{\{|\{%").flat_map(choices).collect()
}

/// The tables that a schema has in it, itself included: of a list or of names, those that are in it.
fn inner(schema: &Value) -> Vec<(&'static str, &Map<String, Value>, &Value)> {
    let mut found = Vec::new();
    for choice in choices(schema) {
        if let Some(own) = choice["properties"].as_object().filter(|own| !own.is_empty()) {
            found.push(("", own, choice));
        }
        found.extend(inner_of(&choice["items"]));
        let named = choice["additionalProperties"].is_object().then(|| inner_of(&choice["additionalProperties"]));
        found.extend(named.unwrap_or_default().into_iter().map(|(_, own, whole)| ("NAME.", own, whole)));
    }
    found
}

fn inner_of(schema: &Value) -> Vec<(&'static str, &Map<String, Value>, &Value)> {
    if schema.is_object() { inner(schema) } else { Vec::new() }
}

/// A field of a schema.
struct Field<'a> {
    schema: &'a Value,
    is_required: bool,
    has_fields: bool,
}

/// Every field below a place, by its dotted name from there.
fn fields<'a>(schema: &'a Value, before: &str, into: &mut BTreeMap<String, Field<'a>>) {
    for (named, own, whole) in inner(schema) {
        let required: BTreeSet<&str> =
            whole["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, field) in own {
            let path = format!("{before}{named}{name}");
            fields(field, &format!("{path}."), into);
            let has_fields = !inner(field).is_empty();
            into.insert(path, Field { schema: field, is_required: required.contains(name.as_str()), has_fields });
        }
    }
}

/// The words of the manual for the types that a schema lets a value have.
fn words(schema: &Value) -> BTreeSet<&'static str> {
    let of = |choice: &Value| match choice["type"].as_str() {
        Some("string") => {
            &["text", "path", "mode", "account", "duration", "time", "expression", "IP address", "address"][..]
        }
        Some("integer" | "number") => &["number", "seconds"],
        Some("boolean") => &["true/false"],
        Some("array") => &["list", "list of tables", "list of paths"],
        Some("object") => &["table"],
        _ => &[],
    };
    choices(schema).into_iter().flat_map(of).copied().collect()
}

/// What is wrong about a table.
fn wrong(table: &Table, known: &BTreeMap<String, Field<'_>>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut reported = BTreeSet::new();
    let (default, of_type) = (table.column("default"), table.column("type"));
    for row in &table.rows {
        for name in Table::names(&row[0]) {
            // `expect.KIND` is whatever `expect` has in it
            let any = name.rsplit_once('.').filter(|(_, last)| last.chars().all(|one| one.is_ascii_uppercase()));
            let name = any.map_or(name, |(above, _)| above);
            let Some(field) = known.get(name) else {
                wrong.push(format!("there is no `{name}`"));
                continue;
            };
            reported.insert(name);
            let says = default.is_some_and(|column| row[column] == "required");
            if default.is_some() && says != field.is_required {
                wrong.push(format!("`{name}` is {}required", if field.is_required { "" } else { "not " }));
            }
            let types = of_type.map(|column| row[column].as_str()).filter(|types| !types.is_empty());
            let may = words(field.schema);
            for word in types.into_iter().flat_map(|types| types.split(" or ")).filter(|word| !word.starts_with('`')) {
                if !may.contains(word) && !may.contains(word.trim_end_matches('s')) {
                    wrong.push(format!("`{name}` is no {word} but one of {may:?}"));
                }
            }
        }
    }
    let is_reported = |path: &str| {
        let mut above = path.match_indices('.').map(|(end, _)| &path[..end]).chain([path]);
        above.any(|path| reported.contains(path))
    };
    let left = known.iter().filter(|(path, field)| !field.has_fields && !is_reported(path));
    wrong.extend(left.map(|(path, _)| format!("`{path}` is missing")));
    wrong
}

/// Asserts that nothing was found wrong.
#[track_caller]
fn assert_right(wrong: &[String]) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_table_of_a_kinds_fields_matches_the_kind() {
    let role = schema("role");
    let mut all = Vec::new();
    for kind in kpull::kind::KINDS {
        let mut known = BTreeMap::new();
        fields(&role["properties"][kind.name], "", &mut known);
        known.retain(|name, _| !COMMON.contains(&name.as_str()));
        assert!(!known.is_empty(), "{}", kind.name);
        let tables = tables("usage/kinds.md", kind.name);
        let own = tables.first().unwrap_or_else(|| panic!("{} has no table", kind.name));
        all.extend(wrong(own, &known).into_iter().map(|why| format!("[[{}]]: {why}", kind.name)));
    }
    assert_right(&all);
}

#[test]
fn every_kind_and_no_other_has_its_part_of_the_page() {
    let page = crate::docs::tables::page("usage/kinds.md");
    let parts: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let kinds: BTreeSet<&str> = kpull::kind::KINDS.iter().map(|kind| kind.name).collect();
    let others: Vec<&&str> = parts.symmetric_difference(&kinds).collect();
    let rules = [
        &"Attributes of a replaced file",
        &"Owners and groups",
        &"Paths that kpull cannot write",
        &"Two names of one path",
    ];
    assert_eq!(others, rules);
}

#[test]
fn every_table_of_a_files_keys_matches_the_file() {
    let mut all = Vec::new();
    for (page, heading, index, file, at) in DESCRIBED {
        let schema = schema(file);
        let mut known = BTreeMap::new();
        fields(&schema, "", &mut known);
        let before = if at.is_empty() { String::new() } else { format!("{at}.") };
        let mut own: BTreeMap<String, Field<'_>> = known
            .into_iter()
            .filter_map(|(path, field)| Some((path.strip_prefix(&before)?.to_owned(), field)))
            .collect();
        if at.is_empty() && *file == "role" {
            own.retain(|path, _| kpull::kind::find(path.split('.').next().unwrap_or(path)).is_none());
        }
        assert!(!own.is_empty(), "{file} has no {at}");
        let tables = tables(page, heading);
        let own_table = tables.get(*index).unwrap_or_else(|| panic!("{page} has no such table below {heading}"));
        all.extend(wrong(own_table, &own).into_iter().map(|why| format!("{page}, {heading}: {why}")));
    }
    assert_right(&all);
}
