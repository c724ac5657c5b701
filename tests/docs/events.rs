//! What the manual says that programs read: every JSON event and every record of the journal, with their fields.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use kpull::document::ResourceId;
use kpull::report::Summary;

use crate::docs::tables::{Table, tables};

/// An event's name and, where the commands' differ, the command's.
type Key = (String, Option<String>);

/// Fields of events.
type Events = BTreeMap<Key, BTreeSet<String>>;

/// What stands between a bracket and the one that closes it, texts left alone.
fn between(text: &str, opens: char, closes: char) -> &str {
    let mut depth = 0;
    let mut in_text = false;
    for (at, one) in text.char_indices() {
        match one {
            '"' => in_text = !in_text,
            _ if in_text => {}
            _ if one == opens => depth += 1,
            _ if one == closes => depth -= 1,
            _ => {}
        }
        if depth == 0 && one == closes && !in_text {
            return &text[..at];
        }
    }
    text
}

/// The names of the fields of a `json!({ … })`, and its `event` as it is written.
fn object(text: &str) -> (Option<&str>, BTreeSet<String>) {
    let (mut event, mut fields, mut rest) = (None, BTreeSet::new(), text);
    let mut depth = 0;
    while let Some(at) = rest.find(['"', '{', '(', '[', '}', ')', ']']) {
        let (one, after) = (rest.as_bytes()[at], &rest[at + 1..]);
        rest = after;
        match one {
            b'"' => {
                let Some((name, after)) = after.split_once('"') else { break };
                rest = after;
                if depth == 0
                    && let Some(value) = after.strip_prefix(": ")
                {
                    match name {
                        "event" => event = value.split([',', ' ']).next(),
                        "version" => {}
                        _ => drop(fields.insert(name.to_owned())),
                    }
                }
            }
            b'{' | b'(' | b'[' => depth += 1,
            _ => depth -= 1,
        }
    }
    (event, fields)
}

/// Every event that the sources write, with the command whose file it stands in; none for those that several commands share.
fn written() -> Vec<(Key, BTreeSet<String>)> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![sources.join("report/json.rs"), sources.join("cli/fleet/mod.rs")];
    files.extend(fs::read_dir(sources.join("cli")).unwrap().map(|entry| entry.unwrap().path()));
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "rs")) {
        let text = fs::read_to_string(file).unwrap();
        let stem = file.file_stem().unwrap().to_str().unwrap();
        let command = (!["mod", "json"].contains(&stem)).then(|| stem.to_owned());
        for part in text.split("json!({").skip(1) {
            let part = format!("{{{part}");
            let (event, fields) = object(between(&part, '{', '}').trim_start_matches('{'));
            match event.map(|event| event.trim_matches('"')) {
                // `planned` and `changed`, two words for one object
                Some("name") => {
                    found.extend(["planned", "changed"].map(|name| ((name.to_owned(), None), fields.clone())))
                }
                Some("word") => found.extend(
                    ["fetched", "kept", "corrected"].map(|name| ((name.to_owned(), command.clone()), fields.clone())),
                ),
                Some("operation") => {
                    let words = ["made", "issued", "renewed", "revoked", "waiting", "rotated"];
                    found.extend(words.map(|word| ((word.to_owned(), command.clone()), fields.clone())));
                }
                Some(event) => found.push(((event.to_owned(), command.clone()), fields)),
                None => {}
            }
        }
    }
    let (uncompared, only) = (vec![ResourceId::new("file", "/x")], vec![String::new()]);
    let summary = Summary { uncompared, only, waits: Some(String::new()), ..Summary::default() };
    let summary = serde_json::to_value(summary).unwrap();
    found.push((("done".to_owned(), None), summary.as_object().unwrap().keys().cloned().collect()));
    found
}

/// Every event that the page lists.
fn documented() -> Events {
    let mut found = Events::new();
    for table in tables("usage/commands.md", "Output") {
        for row in &table.rows {
            let (names, command) = match row[0].split_once(" of ") {
                Some((names, command)) => (names, Table::names(command).next().map(str::to_owned)),
                None => (row[0].as_str(), None),
            };
            // the description of a field stands in brackets, that of the event behind a colon
            let mut depth = 0;
            let plain: String = row[1]
                .chars()
                .filter(|one| {
                    depth += i32::from(*one == '(');
                    depth -= i32::from(*one == ')');
                    depth == 0
                })
                .collect();
            let fields = plain.split(": ").next().unwrap_or_default();
            let fields: BTreeSet<String> = Table::names(fields).map(str::to_owned).collect();
            for name in Table::names(names) {
                assert!(
                    found.insert((name.to_owned(), command.clone()), fields.clone()).is_none(),
                    "{name} is there twice"
                );
            }
        }
    }
    found
}

#[test]
fn every_json_event_is_in_the_table_with_its_fields() {
    let documented = documented();
    let written = written();
    let mut wrong = Vec::new();
    let mut met = BTreeSet::new();
    for ((name, command), fields) in &written {
        let keys = [(name.clone(), command.clone()), (name.clone(), None)];
        let Some(key) = keys.into_iter().find(|key| documented.contains_key(key)) else {
            wrong.push(format!("`{name}` of {command:?} is missing: {fields:?}"));
            continue;
        };
        let differ: Vec<&String> = documented[&key].symmetric_difference(fields).collect();
        if !differ.is_empty() {
            wrong.push(format!("`{name}` of {command:?}: {differ:?}"));
        }
        met.insert(key);
    }
    wrong.extend(documented.keys().filter(|key| !met.contains(*key)).map(|key| format!("nothing writes {key:?}")));
    assert!(written.len() > 40, "{}", written.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_record_of_the_journal_is_in_the_table_with_its_priority_and_fields() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/report/journal.rs");
    let source = fs::read_to_string(source).unwrap();
    let mut written = BTreeSet::new();
    for call in source.split("log!(Level::").skip(1) {
        let (level, rest) = call.split_once(", KPULL_EVENT = \"").unwrap();
        let (event, rest) = rest.split_once('"').unwrap();
        let fields = rest.split_once(';').unwrap().0.split("KPULL_").skip(1);
        let fields: BTreeSet<String> =
            fields.map(|rest| format!("KPULL_{}", rest.split(' ').next().unwrap())).collect();
        let priority = match level {
            "Error" => "error",
            "Warn" => "warning",
            _ => "info",
        };
        written.insert((event.to_owned(), priority.to_owned(), fields));
    }
    let table = &tables("usage/journal.md", "The journal")[0];
    let documented: BTreeSet<_> = table
        .rows
        .iter()
        .map(|row| {
            let event = Table::names(&row[0]).next().unwrap().to_owned();
            (event, row[1].clone(), Table::names(&row[2]).map(str::to_owned).collect())
        })
        .collect();
    assert!(written.len() > 14, "{written:?}");
    let differ: Vec<_> = written.symmetric_difference(&documented).collect();
    assert!(differ.is_empty(), "{differ:#?}");
}
