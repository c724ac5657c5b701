//! The glossary is the only list of terms: what it has retired is written nowhere else.

use std::path::{Path, PathBuf};

use clap::Command;
use regex::{Captures, Regex};

use crate::docs::tables::{Table, page, tables};
use crate::support::files::files;

/// The names in the first cells of a table of the glossary, with the other cells.
fn rows(heading: &str) -> Vec<(String, Vec<String>)> {
    let rows = tables("glossary.md", heading).into_iter().flat_map(|table| table.rows);
    let named = |row: Vec<String>| Table::names(&row[0]).map(|name| (name.to_owned(), row.clone())).collect::<Vec<_>>();
    rows.flat_map(named).collect()
}

/// The retired words and phrases, each as its words.
fn retired() -> Vec<Vec<String>> {
    rows("Retired words").iter().map(|(name, _)| words(name)).collect()
}

/// The words of a text, in lower case; `camelCase` and `snake_case` are two each.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in text.chars() {
        if !c.is_alphabetic() || (c.is_uppercase() && was_lower) {
            words.push(String::new());
        }
        was_lower = c.is_lowercase();
        if c.is_alphabetic() {
            words.last_mut().unwrap().extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The first retired phrase of a text.
fn found(text: &str, retired: &[Vec<String>]) -> Option<String> {
    let words = words(text);
    let is_in = |phrase: &&Vec<String>| words.windows(phrase.len()).any(|window| window == phrase.as_slice());
    retired.iter().find(is_in).map(|phrase| phrase.join(" "))
}

/// A text without the names that stay until their format changes. One in lower case is a name only in quotes.
fn without_kept(text: &str, kept: &[(String, Vec<String>)]) -> String {
    kept.iter().fold(text.to_owned(), |text, (name, _)| {
        let is_word = name.chars().all(char::is_lowercase);
        if is_word {
            text.replace(&format!("\"{name}\""), "").replace(&format!("`{name}`"), "")
        } else {
            text.replace(name, "")
        }
    })
}

/// A source without its strings, and without its comments if `with_comments` is false. The lines stay.
fn without_strings(source: &str, with_comments: bool) -> String {
    let token = r###"(?s)//[^\n]*|b?r##".*?"##|b?r#".*?"#|b?r".*?"|"(?:\\.|[^"\\])*"|'(?:\\.[^']*|[^'\\])'"###;
    let lines = |found: &Captures<'_>| match found[0].starts_with("//") && with_comments {
        true => found[0].to_owned(),
        false => "\n".repeat(found[0].matches('\n').count()),
    };
    Regex::new(token).unwrap().replace_all(source, lines).into_owned()
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The name of a file in the repository, and its text.
fn read(path: PathBuf) -> (String, String) {
    let text = std::fs::read_to_string(&path).unwrap();
    (path.strip_prefix(top()).unwrap().to_str().unwrap().to_owned(), text)
}

/// The sources below these directories: names and texts.
fn sources(dirs: &[&str]) -> impl Iterator<Item = (String, String)> {
    dirs.iter().flat_map(|dir| files(&top().join(dir), ".rs")).map(read)
}

/// Each line of a text with a retired word.
fn hits(name: &str, text: &str) -> Vec<String> {
    let (retired, kept) = (retired(), rows("Names that stay"));
    let word = |line: &str| found(&without_kept(line, &kept), &retired);
    let hit = |(at, line)| Some(format!("{name}:{}: {}: {line}", at + 1, word(line)?));
    text.lines().enumerate().filter_map(hit).collect()
}

#[track_caller]
fn assert_none(hits: &[String]) {
    assert!(hits.is_empty(), "{}", hits.join("\n"));
}

#[test]
fn no_page_and_no_role_has_a_retired_word() {
    assert!(retired().len() > 25);
    let pages = files(&top().join("docs/src"), ".md").into_iter();
    let beside = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"].map(|name| top().join(name));
    let roles = ["roles", "examples"].into_iter().flat_map(|dir| files(&top().join(dir), ""));
    let mut all = Vec::new();
    for (name, text) in pages.chain(beside).chain(roles).map(read) {
        match name.as_str() {
            // these two are about the words
            "docs/src/glossary.md" | "docs/src/development/style.md" => {}
            // names of earlier versions are in code font here
            "CHANGELOG.md" => {
                let prose = |line: &str| line.split('`').step_by(2).collect::<Vec<_>>().join(" ");
                all.extend(hits(&name, &text.lines().map(prose).collect::<Vec<_>>().join("\n")));
            }
            // the flags of other programs
            _ if name.contains("/flags/") => {}
            _ => all.extend(hits(&name, &text)),
        }
    }
    assert_none(&all);
}

#[test]
fn no_help_text_has_a_retired_word() {
    fn look(command: &mut Command, all: &mut Vec<String>) {
        all.extend(hits(&format!("kpull {} --help", command.get_name()), &command.render_long_help().to_string()));
        command.get_subcommands_mut().for_each(|command| look(command, all));
    }
    let mut root = kpull::cli::command();
    root.build();
    let mut all = Vec::new();
    look(&mut root, &mut all);
    assert_none(&all);
}

#[test]
fn no_source_has_a_retired_word() {
    let mut all = Vec::new();
    let tables: Vec<PathBuf> = files(&top().join("src/document"), ".txt");
    assert_eq!(tables.len(), 2, "{tables:?}");
    for (name, text) in sources(&["src"]).chain(tables.into_iter().map(read)) {
        // strings in tests are texts of other programs and of sites
        let (own, tests) = text.split_at(text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len()));
        all.extend(hits(&name, &format!("{own}{}", without_strings(tests, true))));
    }
    for (name, text) in sources(&["tests", "fuzz/src"]).filter(|(name, _)| name != "tests/docs/glossary.rs") {
        all.extend(hits(&name, &without_strings(&text, true)));
    }
    assert_none(&all);
}

#[test]
fn no_source_uses_a_retired_name() {
    let identifier = Regex::new(r"[A-Za-z_][A-Za-z0-9_]*").unwrap();
    let names = rows("Retired names");
    assert!(names.len() > 10);
    let mut all = Vec::new();
    for (file, text) in sources(&["src", "tests", "fuzz/src"]) {
        for (at, line) in without_strings(&text, false).lines().enumerate() {
            let found: Vec<&str> = identifier.find_iter(line).map(|found| found.as_str()).collect();
            let parts: Vec<String> = found.iter().copied().flat_map(words).collect();
            for (name, row) in &names {
                let places: Vec<&str> = Table::names(&row[2]).collect();
                let is_type = name.starts_with(char::is_uppercase);
                if (places.is_empty() || places.iter().any(|place| file.starts_with(place)))
                    && (if is_type { found.contains(&name.as_str()) } else { parts.contains(name) })
                {
                    all.push(format!("{file}:{}: {name}: {line}", at + 1));
                }
            }
        }
    }
    assert_none(&all);
}

#[test]
fn no_name_of_a_test_has_more_than_80_characters() {
    let function = Regex::new(r"fn (\w{81,})").unwrap();
    let long = |(file, text): (String, String)| {
        function.captures_iter(&text).map(|name| format!("{file}: {}", &name[1])).collect::<Vec<_>>()
    };
    assert_none(&sources(&["src", "tests", "fuzz/src"]).flat_map(long).collect::<Vec<_>>());
}

#[test]
fn every_name_that_stays_is_still_in_use() {
    let alerts = read(top().join("packaging/prometheus/kpull.rules.yml"));
    let all: String = sources(&["src"]).chain([alerts]).map(|(_, text)| text).collect();
    let names = rows("Names that stay").into_iter().map(|(name, _)| name);
    assert_none(&names.filter(|name| without_kept(&all, &[(name.clone(), Vec::new())]) == all).collect::<Vec<_>>());
}

#[test]
fn retired_words_are_found_in_prose_and_in_names() {
    let retired = [words("given back"), words("seal")];
    assert_eq!(found("it is Given back", &retired).as_deref(), Some("given back"));
    assert_eq!(found("let given_back = 1;", &retired).as_deref(), Some("given back"));
    assert_eq!(found("fn makeSeal(", &retired).as_deref(), Some("seal"));
    assert_eq!(found("given, and back again; sealing", &retired), None);
    let kept = ["seal.json", "gone"].map(|name| (name.to_owned(), Vec::new()));
    assert_eq!(without_kept("/a/seal.json `gone` \"gone\" gone", &kept), "/a/   gone");
    let source = "let a = \"x\\\"\ny\"; // z's\nb('\"', r#\"c\"#);";
    assert_eq!(without_strings(source, true), "let a = \n; // z's\nb(, );");
    assert_eq!(without_strings(source, false), "let a = \n; \nb(, );");
    assert!(page("glossary.md").contains("## Retired words"));
}
