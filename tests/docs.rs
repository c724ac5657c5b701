//! The manual: a book that can be built, whose links lead somewhere, and whose claims have tests.

mod commands;
mod events;
mod examples;
mod fields;
mod glossary;
mod practice;
mod situations;
mod tables;
mod templates;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::files::files;

/// The values of an attribute, as mdbook writes it.
fn values<'a>(html: &'a str, attribute: &str) -> BTreeSet<&'a str> {
    let start = format!(" {attribute}=\"");
    html.split(&start).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn every_link_of_the_book_has_a_target() {
    let book = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let built = Command::new("mdbook").args(["build", "--dest-dir"]).arg(book.path()).arg(&source).output().unwrap();
    let message = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success() && !message.contains("WARN") && !message.contains("ERROR"), "{message}");
    let found = files(book.path(), ".html");
    let text: BTreeMap<&PathBuf, String> = found.iter().map(|page| (page, fs::read_to_string(page).unwrap())).collect();
    let mut broken = Vec::new();
    let mut count = 0;
    for (page, html) in text.iter().filter(|(page, _)| !page.ends_with("print.html") && !page.ends_with("404.html")) {
        for link in values(html, "href").into_iter().chain(values(html, "src")) {
            if ["https://", "http://", "mailto:", "data:"].iter().any(|start| link.starts_with(start)) {
                continue;
            }
            count += 1;
            let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { (*page).clone() } else { page.parent().unwrap().join(path) };
            let is_there = target.canonicalize().is_ok_and(|target| {
                fragment.is_empty() || text.get(&target).is_some_and(|html| values(html, "id").contains(fragment))
            });
            if !is_there {
                broken.push(format!("{}: {link}", page.strip_prefix(book.path()).unwrap().display()));
            }
        }
    }
    assert!(count > 500, "{count} links");
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_link_of_a_page_beside_the_book_has_a_target() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut broken = Vec::new();
    for name in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"] {
        let text = fs::read_to_string(top.join(name)).unwrap();
        let references =
            text.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: ")).map(|(_, link)| link);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).chain(references);
        let own = links.filter(|link| !link.starts_with("https://"));
        let missing = own.filter(|link| !top.join(link.split('#').next().unwrap_or(link)).exists());
        broken.extend(missing.map(|link| format!("{name}: {link}")));
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_page_is_in_the_table_of_contents() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src");
    let summary = fs::read_to_string(source.join("SUMMARY.md")).unwrap();
    for part in ["usage", "roles", "development"] {
        for page in fs::read_dir(source.join(part)).unwrap() {
            let name = format!("({part}/{})", page.unwrap().file_name().to_str().unwrap());
            assert!(!name.ends_with(".md)") || summary.contains(&name), "{name} is not in SUMMARY.md");
        }
    }
}

/// How many rows of a page say something in a column. In the same order, and by their first cells, they stand below a
/// heading of development/tests.md, with their tests.
#[track_caller]
fn rows_with_tests(page: &str, column: &str, heading: &str) -> usize {
    let mut rows: Vec<String> = Vec::new();
    for table in tables::all(page) {
        if let Some(column) = table.column(column) {
            rows.extend(table.rows.iter().filter(|row| row[column] != "–").map(|row| row[0].clone()));
        }
    }
    let tests = tables::tables("development/tests.md", heading).into_iter().flat_map(|table| table.rows);
    let (with_tests, tests): (Vec<String>, Vec<String>) = tests.map(|row| (row[0].clone(), row[1].clone())).unzip();
    assert_eq!(rows, with_tests, "{page} and development/tests.md");
    crate::support::named::check(&tests.iter().map(String::as_str).collect::<Vec<&str>>());
    rows.len()
}

/// The most columns of a table, as the style page says.
const COLUMNS: usize = 5;

#[test]
fn no_table_has_more_columns_than_fit_on_a_page() {
    assert!(tables::page("development/style.md").contains("A table has at most five short columns"));
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src");
    let names = files(&pages, ".md");
    let names = names.iter().map(|path| path.strip_prefix(&pages).unwrap().to_str().unwrap());
    let wide: Vec<&str> = names.filter(|name| tables::all(name).iter().any(|table| table.width() > COLUMNS)).collect();
    assert!(wide.is_empty(), "{wide:?}");
}

#[test]
fn the_pictures_are_those_that_their_script_draws() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/diagrams/make.py");
    let checked = Command::new("python3").arg(script).arg("--check").output().expect("python3 draws the pictures");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn every_direct_dependency_has_its_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest: toml::Table = fs::read_to_string(root.join("Cargo.toml")).unwrap().parse().unwrap();
    for (table, heading) in [("dependencies", "Dependencies"), ("dev-dependencies", "Tests only")] {
        let used: BTreeSet<&str> = manifest[table].as_table().unwrap().keys().map(String::as_str).collect();
        let listed = tables::tables("development/dependencies.md", heading);
        let names = listed.iter().flat_map(|table| &table.rows).map(|row| row[0].trim_matches('`'));
        assert_eq!(used, names.collect(), "{heading}");
    }
}

#[test]
fn every_row_of_the_comparison_has_a_test() {
    assert!(rows_with_tests("usage/comparison.md", "kpull", "Rows of the comparison") > 20);
}

#[test]
fn every_row_of_the_table_of_bugs_names_existing_tests() {
    assert!(rows_with_tests("usage/handbook.md", "here", "Rows of the handbook") > 20);
}

#[test]
fn every_report_about_another_tool_has_a_test() {
    assert!(crate::support::named::rows("development/reports.md") >= 12);
}
