//! Tables in the documentation whose rows name the tests that hold them.

use std::fs;
use std::path::Path;

use crate::support::files::files;

/// How many rows the tables of a page have. The last cell of each names tests, and every one of these is there.
#[track_caller]
pub fn rows(page: &str) -> usize {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src").join(page)).unwrap();
    let lines: Vec<&str> = page.lines().collect();
    let is_head = |index: usize| lines.get(index + 1).is_some_and(|below| below.starts_with("|--"));
    let rows = (0..lines.len()).filter(|index| lines[*index].starts_with("| ") && !is_head(*index));
    let rows: Vec<&str> = rows.map(|index| lines[index]).collect();
    check(&rows);
    rows.len()
}

/// The last cell of each row names tests, and every one of these is there.
#[track_caller]
pub fn check(rows: &[&str]) {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = ["tests", "src"].into_iter().flat_map(|dir| files(&top.join(dir), ".rs"));
    let text: String = sources.map(|path| fs::read_to_string(path).unwrap()).collect();
    for row in rows {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let tests: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test: {row}");
        for test in tests {
            // a function, one that a macro makes, or one of a suite without a harness
            let written = [format!("fn {test}()"), format!("\n    {test}: ["), format!("name: \"{test}\"")];
            assert!(written.iter().any(|written| text.contains(written)), "there is no test `{test}`");
        }
    }
}
