//! The glossary is the only list of terms: what it has retired is written nowhere else.

use std::path::Path;

use clap::Command;

use crate::docs::tables::{Table, page, tables};
use crate::support::files::files;

/// The retired words and phrases, each as its words.
fn retired() -> Vec<Vec<String>> {
    let tables = tables("glossary.md", "Retired words");
    let names = tables.iter().flat_map(|table| &table.rows).flat_map(|row| Table::names(&row[0]));
    names.map(words).collect()
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

/// A text without what stands between two marks of this sort.
fn without(text: &str, mark: char) -> String {
    text.split(mark).step_by(2).collect::<Vec<_>>().join(" ")
}

#[test]
fn no_page_has_a_retired_word_in_its_prose() {
    let retired = retired();
    assert!(retired.len() > 15, "{retired:?}");
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let book = top.join("docs/src");
    let beside = ["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(|name| top.join(name));
    let mut hits = Vec::new();
    for path in files(&book, ".md").into_iter().chain(beside) {
        let name = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
        // these two are about the words
        if ["docs/src/glossary.md", "docs/src/development/style.md"].contains(&name.as_str()) {
            continue;
        }
        let mut is_code = false;
        for (number, line) in std::fs::read_to_string(&path).unwrap().lines().enumerate() {
            is_code ^= line.trim_start().starts_with("```");
            if let Some(word) = found(&without(line, '`'), &retired).filter(|_| !is_code) {
                hits.push(format!("{name}:{}: {word}: {line}", number + 1));
            }
        }
    }
    assert!(hits.is_empty(), "{}", hits.join("\n"));
}

#[test]
fn no_help_text_has_a_retired_word() {
    fn look(command: &mut Command, retired: &[Vec<String>], hits: &mut Vec<String>) {
        let help = command.render_long_help().to_string();
        hits.extend(found(&help, retired).map(|word| format!("{}: {word}: {help}", command.get_name())));
        command.get_subcommands_mut().for_each(|command| look(command, retired, hits));
    }
    let mut root = kpull::cli::command();
    root.build();
    let mut hits = Vec::new();
    look(&mut root, &retired(), &mut hits);
    assert!(hits.is_empty(), "{}", hits.join("\n"));
}

#[test]
fn no_source_has_a_retired_word() {
    let retired = retired();
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut hits = Vec::new();
    let tables = files(&top.join("src/document"), ".txt");
    assert_eq!(tables.len(), 2, "{tables:?}");
    for path in files(&top.join("src"), ".rs").into_iter().chain(tables) {
        for (number, line) in std::fs::read_to_string(&path).unwrap().lines().enumerate() {
            // what is in backquotes, or a text without a space, is a name: of a file of the state directory, or of a field in it
            let line_of_words = without(line, '`');
            let texts = line_of_words.split('"').enumerate();
            let said: Vec<&str> =
                texts.filter(|(at, text)| at % 2 == 0 || text.contains(' ')).map(|(_, text)| text).collect();
            if let Some(word) = found(&said.join(" "), &retired) {
                hits.push(format!("{}:{}: {word}: {line}", path.strip_prefix(top).unwrap().display(), number + 1));
            }
        }
    }
    assert!(hits.is_empty(), "{}", hits.join("\n"));
}

#[test]
fn retired_words_are_found_in_prose_and_in_names() {
    let retired = [words("given back"), words("seal")];
    assert_eq!(found("it is Given back", &retired).as_deref(), Some("given back"));
    assert_eq!(found("let given_back = 1;", &retired).as_deref(), Some("given back"));
    assert_eq!(found("fn makeSeal(", &retired).as_deref(), Some("seal"));
    assert_eq!(found("given, and back again; sealing", &retired), None);
    assert!(page("glossary.md").contains("## Retired words"));
}
