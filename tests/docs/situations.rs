//! The page of situations of Ansible's tests names tests that exist.

use crate::docs::tables::page;

#[test]
fn every_test_on_the_page_of_situations_exists() {
    let page = page("development/ansible-situations.md");
    let tables: Vec<&str> = page.split("\n\n").filter(|part| part.contains(" | test |\n|--")).collect();
    assert!(tables.len() >= 4, "{} tables have a column with tests", tables.len());
    let rows = tables.iter().flat_map(|table| table.lines().skip(2)).filter(|row| row.trim_end().ends_with("` |"));
    let rows: Vec<&str> = rows.collect();
    assert!(rows.len() > 40, "{} rows name a test", rows.len());
    crate::support::named::check(&rows);
}
