//! That no file imports from a room above its own, and that files do not import each other in a circle. The rooms and their order are
//! those of docs/src/development/architecture.md.

use std::collections::{BTreeMap, BTreeSet, HashMap};
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

/// Imports that are in a circle and stay: each kind may build a file, and each says which of the states it restores.
const IN_CIRCLES: [(&str, &str); 2] = [("kind/prelude", "kind/file"), ("kind/prelude", "kind/prior_state")];

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_in(&path) } else { vec![path] }).collect()
}

/// All files by their names below `src`, without their tests.
fn sources() -> BTreeMap<String, String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let without_tests = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
        (path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned(), text)
    };
    let mut sources: BTreeMap<_, _> = files_in(&src).into_iter().map(without_tests).collect();
    sources.retain(|name, _| !["main.rs", "lib.rs", "layers.rs"].contains(&name.as_str()));
    sources
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
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
    let mut upwards = Vec::new();
    for (name, text) in sources() {
        let room = name.split(['/', '.']).next().unwrap();
        let own = *layers.get(room).unwrap_or_else(|| panic!("architecture.md has no layer for src/{name}"));
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !is_comment(line)) {
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

/// Adds every path of a `use` that goes on with `rest` behind `before`; returns what follows it.
fn expand<'a>(before: &[&'a str], mut rest: &'a str, paths: &mut Vec<Vec<&'a str>>) -> &'a str {
    let mut path = before.to_vec();
    loop {
        if let Some(mut list) = rest.strip_prefix('{') {
            while let Some(next) = list.trim_start().strip_prefix(|c: char| c != '}').map(|_| list.trim_start()) {
                let left = expand(&path, next, paths);
                list = left.strip_prefix(',').unwrap_or(left);
            }
            return list.trim_start().strip_prefix('}').unwrap_or_default();
        }
        let (word, left) = rest.split_at(rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len()));
        path.push(word);
        match left.strip_prefix("::") {
            Some(left) => rest = left,
            None => {
                paths.push(path);
                return left.find([',', '}']).map_or("", |end| &left[end..]);
            }
        }
    }
}

/// The modules that the text of a module names, without those above and below it: a file and the files of its directory are one.
fn imports(module: &str, text: &str, modules: &BTreeSet<&str>) -> BTreeSet<String> {
    let text: String = text.lines().filter(|line| !is_comment(line)).flat_map(|line| [line, "\n"]).collect();
    let mut paths = Vec::new();
    for start in ["crate", "super"] {
        for (at, _) in text.match_indices(start) {
            if !text[..at].ends_with(|c: char| c.is_alphanumeric() || ":_".contains(c)) {
                expand(&[], &text[at..], &mut paths);
            }
        }
    }
    let found = paths.iter().filter_map(|path| {
        let mut whole: Vec<&str> = if path[0] == "super" { module.split('/').collect() } else { Vec::new() };
        for word in path {
            match *word {
                "crate" => {}
                "super" => drop(whole.pop()),
                word => whole.push(word),
            }
        }
        (1..=whole.len()).rev().map(|count| whole[..count].join("/")).find(|one| modules.contains(one.as_str()))
    });
    found.filter(|other| !Path::new(other).starts_with(module) && !Path::new(module).starts_with(other)).collect()
}

#[test]
fn files_do_not_import_each_other_in_a_circle() {
    let sources = sources();
    let name = |file: &String| file.trim_end_matches(".rs").trim_end_matches("/mod").to_owned();
    let names: Vec<String> = sources.keys().map(name).collect();
    let modules: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let mut edges: BTreeSet<(String, String)> = BTreeSet::new();
    for (module, text) in names.iter().zip(sources.values()) {
        edges.extend(imports(module, text, &modules).into_iter().map(|other| (module.clone(), other)));
    }
    for (from, to) in IN_CIRCLES {
        assert!(
            edges.remove(&(from.to_owned(), to.to_owned())),
            "{from} does not import {to}: take it out of the list"
        );
    }
    // what imports nothing, or is imported by nothing, is in no circle
    loop {
        let (importing, imported): (BTreeSet<_>, BTreeSet<_>) = edges.iter().cloned().unzip();
        let count = edges.len();
        edges.retain(|(from, to)| imported.contains(from) && importing.contains(to));
        if edges.len() == count {
            break;
        }
    }
    let lines: Vec<String> = edges.iter().map(|(from, to)| format!("src/{from} imports src/{to}")).collect();
    assert!(lines.is_empty(), "files that import each other in a circle:\n{}", lines.join("\n"));
}

#[test]
fn imports_are_found_in_lists_and_from_above() {
    let modules = BTreeSet::from(["a", "a/b", "a/b/c", "a/d", "e", "e/f"]);
    let found = |text: &str| imports("a/b", text, &modules).into_iter().collect::<Vec<_>>();
    assert_eq!(found("use crate::e::{self, f::{G, h}, Other};\nuse super::d;"), ["a/d", "e", "e/f"]);
    assert_eq!(
        found("use super::Own;\nuse self::c::C;\nlet x = crate::a::b::c::y();\n// crate::e"),
        Vec::<&str>::new()
    );
    assert_eq!(found("    super::d::new(crate::e::f::make)"), ["a/d", "e/f"]);
}
