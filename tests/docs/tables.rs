//! The tables of the manual's pages.

use std::fs;
use std::path::Path;

/// A table: what stands above its columns, and its rows.
pub struct Table {
    head: Vec<String>,
    /// Cells by row.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// The column with this heading.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.head.iter().position(|head| head == name)
    }

    /// How many columns it has.
    pub fn width(&self) -> usize {
        self.head.len()
    }

    /// The names between backticks in a cell.
    pub fn names(cell: &str) -> impl Iterator<Item = &str> {
        cell.split('`').skip(1).step_by(2)
    }
}

/// The text of a page.
pub fn page(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src").join(path)).unwrap()
}

/// The tables right below a heading, before any other heading.
pub fn tables(path: &str, heading: &str) -> Vec<Table> {
    read(path, Some(heading))
}

/// All tables of a page.
pub fn all(path: &str) -> Vec<Table> {
    read(path, None)
}

fn read(path: &str, heading: Option<&str>) -> Vec<Table> {
    let text = page(path);
    let mut tables: Vec<Table> = Vec::new();
    let (mut is_below, mut is_code, mut is_table) = (heading.is_none(), false, false);
    for line in text.lines() {
        is_code ^= line.starts_with("```");
        if let Some(heading) = heading
            && !is_code
            && line.starts_with('#')
        {
            is_below = line.trim_start_matches('#').trim() == heading;
        }
        let is_row = is_below && !is_code && line.starts_with('|');
        if is_row {
            let line = line.replace("\\|", "\u{1}");
            let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect();
            match tables.last_mut().filter(|_| is_table) {
                Some(_) if line.starts_with("|--") => {}
                Some(table) => table.rows.push(cells),
                None => tables.push(Table { head: cells, rows: Vec::new() }),
            }
        }
        is_table = is_row;
    }
    tables
}
