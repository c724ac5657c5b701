//! The filter `for_os`: rows of a table for the system of a host.

use minijinja::value::{Serde, Value, ValueKind};
use minijinja::{Error, State};
use serde::Deserialize;

use crate::host::os::Os;
use crate::template::filters::invalid;

/// The row names that match a system, from the most general to the most specific.
pub fn rows(os: &Os) -> Vec<String> {
    let Os { id, version, variant, family, .. } = os;
    let major = version.split('.').next().unwrap_or_default();
    let mut rows = vec!["default".to_owned()];
    for name in [family, id] {
        rows.push(name.clone());
        rows.extend([major, version].iter().filter(|part| !part.is_empty()).map(|part| format!("{name}-{part}")));
    }
    if !variant.is_empty() {
        rows.push(format!("{id}-{variant}"));
    }
    // duplicates, where the id is the family or the version is the major version: keep the first
    let mut seen = std::collections::HashSet::new();
    rows.retain(|row| seen.insert(row.clone()));
    rows
}

/// The filter `for_os`: merges the rows of a table that match this host's system. More specific rows win.
pub fn for_os(state: &State<'_, '_>, table: &Value) -> std::result::Result<Value, Error> {
    if table.kind() != ValueKind::Map {
        return Err(invalid("`for_os` takes a table with a row for each system"));
    }
    let facts = state.lookup("facts").ok_or_else(|| invalid("facts are not known here"))?;
    let os = Os::deserialize(facts.get_attr("os")?)?;
    let rows = rows(&os);
    for row in table.try_iter()? {
        let name = row.to_string();
        if let Some(near) = misspelt(&name).filter(|_| !rows.contains(&name)) {
            return Err(invalid(format!(
                "no system is called `{name}`: did you mean `{near}`? (a version follows after `-`: `rhel-7`)"
            )));
        }
        let value = table.get_item(&row)?;
        let parts = (value.kind() == ValueKind::Map).then(|| value.try_iter()).transpose()?;
        let parts = parts.into_iter().flatten().map(|key| key.to_string());
        if let Some(part) = parts.into_iter().find(|key| key.starts_with(|c: char| c.is_ascii_digit())) {
            return Err(invalid(format!("a row with a dot in its name stands in quotes: write `\"{name}.{part}\"`")));
        }
    }
    let mut merged: Option<serde_json::Value> = None;
    for row in &rows {
        let value = table.get_attr(row)?;
        if !value.is_undefined() {
            let value = serde_json::to_value(&value).map_err(|error| invalid(error.to_string()))?;
            merged = Some(match merged {
                Some(below) => crate::template::merge(below, &value),
                None => value,
            });
        }
    }
    merged.map(|rows| Value::from(Serde(&rows))).ok_or_else(|| {
        let known: Vec<String> = table.try_iter().into_iter().flatten().map(|row| row.to_string()).collect();
        let (wanted, known) = (rows.join("`, `"), known.join("`, `"));
        invalid(format!("no row is for {} {}: there is `{known}`, and none of `{wanted}`", os.id, os.version))
    })
}

/// The system that a misspelled row probably means, if it starts with no known system.
fn misspelt(row: &str) -> Option<&'static str> {
    let is_of = |known: &str| row.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    if row == "default" || Os::known().any(is_of) {
        return None;
    }
    let system = row.split(['-', '_']).next().unwrap_or(row).to_lowercase();
    let system = system.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    // only long names: short ones may be other systems
    let is_slip = |known: &&str| system.len() > 3 && strsim::damerau_levenshtein(system, known) == 1;
    Os::known().find(|known| *known == system).or_else(|| Os::known().chain(["default"]).find(is_slip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_no_system_that_is_known_names_the_one_that_was_meant() {
        for (row, near) in [
            ("rehl-7", "rhel"),
            ("RHEL-7", "rhel"),
            ("rhel7", "rhel"),
            ("rhel_7", "rhel"),
            ("ubunut", "ubuntu"),
            ("rokcy", "rocky"),
            ("defualt", "default"),
        ] {
            assert_eq!(misspelt(row), Some(near), "{row}");
        }
        for row in [
            "default",
            "rhel-7.9",
            "opensuse-leap-15.6",
            "fedora-coreos",
            "flatcar",
            "my-own-linux",
            "mylinux",
            "void",
            "sle-micro",
            "rhcos",
        ] {
            assert_eq!(misspelt(row), None, "{row}");
        }
    }

    #[test]
    fn rows_go_from_all_systems_to_this_one() {
        let rows = |text: &str| super::rows(&Os::read(text)).join(" ");
        assert_eq!(rows("ID=debian\nVERSION_ID=12"), "default debian debian-12");
        assert_eq!(rows("ID=debian"), "default debian");
        assert_eq!(
            rows("ID=rocky\nID_LIKE=rhel\nVERSION_ID=8.9"),
            "default rhel rhel-8 rhel-8.9 rocky rocky-8 rocky-8.9"
        );
        assert_eq!(
            rows("ID=fedora\nVERSION_ID=41\nVARIANT_ID=coreos"),
            "default rhel rhel-41 fedora fedora-41 fedora-coreos"
        );
    }
}
