//! The recipes of the manual's cookbook.

use std::fs;
use std::path::Path;

/// A recipe: its heading, and the whole role.toml.
pub struct Recipe {
    /// The heading above it.
    pub title: String,
    /// What it says.
    pub role: String,
}

/// All of them, in the order of the page.
pub fn recipes() -> Vec<Recipe> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src/usage/cookbook.md");
    let page = fs::read_to_string(page).unwrap();
    let sections = page.split("\n### ").skip(1).map(|section| {
        let (title, text) = section.split_once('\n').unwrap();
        let mut blocks = text.split("```toml\n").skip(1).map(|rest| rest.split("```\n").next().unwrap().to_owned());
        let role = blocks.next().unwrap_or_else(|| panic!("{title} has no role"));
        assert!(blocks.next().is_none(), "{title} has two");
        Recipe { title: title.to_owned(), role }
    });
    sections.collect()
}
