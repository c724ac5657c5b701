//! What the manual says that templates see: filters and functions, facts, names that no variable may have.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use kpull::resolve::Facts;
use serde_json::Value;

use crate::docs::tables::{Table, page, tables};

/// The names in the first column of a table, as far as they begin like this.
fn named(table: &Table, start: &str) -> BTreeSet<String> {
    let names = table.rows.iter().flat_map(|row| Table::names(&row[0]));
    names.filter_map(|name| name.strip_prefix(start)).map(|name| name.trim_end_matches("()").to_owned()).collect()
}

#[test]
fn every_filter_and_function_is_in_the_table_and_no_other() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut registered = BTreeSet::new();
    for file in ["template/functions.rs", "resolve/context.rs"] {
        let text = fs::read_to_string(top.join(file)).unwrap();
        for call in ["add_filter(\"", "add_function(\""] {
            let names = text.split(call).skip(1).filter_map(|rest| rest.split('"').next());
            registered.extend(names.map(str::to_owned));
        }
    }
    let table = &tables("usage/roles.md", "Filters and functions of kpull's own")[0];
    assert!(registered.len() > 15, "{registered:?}");
    assert_eq!(named(table, ""), registered);
}

#[test]
fn every_fact_is_in_the_table_and_no_other() {
    let facts = Facts::assumed("h1", "192.0.2.1".parse().unwrap(), None).unwrap();
    let mut known = BTreeSet::new();
    for (name, value) in serde_json::to_value(facts).unwrap().as_object().unwrap() {
        match value {
            Value::Object(inner) if name == "os" => known.extend(inner.keys().map(|inner| format!("os.{inner}"))),
            _ => drop(known.insert(name.clone())),
        }
    }
    let tables = tables("usage/roles.md", "Names");
    let message: BTreeSet<String> = tables.iter().flat_map(|table| named(table, "facts.")).collect();
    assert_eq!(message, known);
}

#[test]
fn every_name_that_no_variable_can_have_is_documented() {
    let text = page("usage/site.md").replace('\n', " ");
    let sentence = text.split("The names ").nth(1).and_then(|rest| rest.split(" are reserved").next()).unwrap();
    let message: BTreeSet<&str> = Table::names(sentence).collect();
    assert_eq!(message, kpull::site::RESERVED.iter().copied().collect());
}
