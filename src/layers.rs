//! That no file imports from a room above its own. The rooms and their order are those of docs/src/development/architecture.md.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

const ARCHITECTURE: &str = include_str!("../docs/src/development/architecture.md");

/// Each room's layer, counted from the top.
fn layers() -> HashMap<&'static str, usize> {
    let (_, rest) = ARCHITECTURE.split_once("## Layers\n").unwrap();
    let (_, rest) = rest.split_once("```text\n").unwrap();
    let (block, _) = rest.split_once("```").unwrap();
    let rooms = |line: &'static str| line.split("  ").next().unwrap().split(' ');
    block.lines().enumerate().flat_map(|(layer, line)| rooms(line).map(move |room| (room, layer))).collect()
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// Every room that a line names after `crate::`.
fn named(line: &str) -> impl Iterator<Item = &str> {
    let paths = line.split("crate::").skip(1);
    paths
        .flat_map(|path| path.strip_prefix('{').map_or(vec![path], |list| list.split(", ").collect()))
        .map(|path| path.split(|c: char| !c.is_ascii_lowercase() && c != '_').next().unwrap_or(path))
}

#[test]
fn every_file_imports_only_from_rooms_below_its_own() {
    let layers = layers();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut upwards = Vec::new();
    for path in sources(&src) {
        let name = path.strip_prefix(&src).unwrap().to_str().unwrap();
        let room = name.split(['/', '.']).next().unwrap();
        if ["main", "lib", "layers"].contains(&room) {
            continue;
        }
        let own = *layers.get(room).unwrap_or_else(|| panic!("architecture.md has no layer for src/{name}"));
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            assert!(!line.ends_with("crate::{"), "src/{name}:{}: write one `use` a room", number + 1);
            let is_above = |one: &&str| *one != room && layers.get(one).is_some_and(|layer| *layer <= own);
            if let Some(above) = named(line).find(is_above) {
                upwards.push(format!("src/{name}:{}: {room} is not above {above}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(upwards.is_empty(), "imports that do not go down:\n{}", upwards.join("\n"));
}

#[test]
fn rooms_are_found_in_paths_and_in_lists() {
    assert_eq!(named("use crate::host::root::Root;").collect::<Vec<_>>(), ["host"]);
    assert_eq!(named("use crate::{Error, net, text::quoted};").collect::<Vec<_>>(), ["", "net", "text"]);
    assert_eq!(named("    let made: crate::pki::Key = crate::net::get();").collect::<Vec<_>>(), ["pki", "net"]);
}
