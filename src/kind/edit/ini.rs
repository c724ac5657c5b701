//! Values in `[Section]` files, and in files of `KEY=value` that a shell can read.

use ini_roundtrip::{Item, Parser};
use serde_json::{Map, Value};

/// A line of the file that has a key.
struct Property<'a> {
    /// Which line.
    line: usize,
    /// `[NAME]`; empty before the first section.
    section: String,
    key: &'a str,
    value: Option<String>,
    raw: &'a str,
}

/// What a file consists of.
struct Parsed<'a> {
    properties: Vec<Property<'a>>,
    /// Each section with its line.
    sections: Vec<(String, usize)>,
    /// Comments, each with its section and its line.
    comments: Vec<(String, usize, &'a str)>,
}

fn read(text: &str, is_env: bool) -> Result<Parsed<'_>, String> {
    if text.contains('\r') {
        return Err("it has line breaks of several kinds".to_owned());
    }
    let (mut line, mut section) = (0_usize, String::new());
    let mut parsed = Parsed { properties: Vec::new(), sections: Vec::new(), comments: Vec::new() };
    for item in Parser::new(text) {
        let number = line.saturating_add(1);
        match item {
            Item::SectionEnd => continue,
            Item::Error(_) => return Err(format!("line {number} is not a section: it has no `]` at its end")),
            Item::Section { .. } if is_env => return Err(format!("line {number} is not KEY=value: is it `ini`?")),
            Item::Section { name, .. } => {
                section = format!("[{name}]");
                parsed.sections.push((section.clone(), line));
            }
            Item::Property { key, val, raw } => {
                let key = if is_env { key.strip_prefix("export ").map_or(key, str::trim) } else { key };
                let value = match val {
                    Some(value) if is_env => {
                        let words = shlex::split(value)
                            .ok_or_else(|| format!("a quote in line {number} is not closed there"))?;
                        Some(if words.len() < 2 { words.concat() } else { value.to_owned() })
                    }
                    value => value.map(str::to_owned),
                };
                parsed.properties.push(Property { line, section: section.clone(), key, value, raw });
            }
            Item::Comment { raw } => parsed.comments.push((section.clone(), line, raw)),
            Item::Blank { .. } => {}
        }
        line = number;
    }
    Ok(parsed)
}

/// A key that stands there several times is a list.
pub(super) fn parse(text: &str, is_env: bool) -> Result<Value, String> {
    let parsed = read(text, is_env)?;
    let mut all = Map::new();
    for (section, _) in parsed.sections {
        all.insert(section, Value::Object(Map::new()));
    }
    for Property { section, key, value, .. } in parsed.properties {
        let table =
            if section.is_empty() { Some(&mut all) } else { all.get_mut(&section).and_then(Value::as_object_mut) };
        let Some(table) = table else { continue };
        let value = value.map_or(Value::Null, Value::String);
        match table.get_mut(key) {
            Some(Value::Array(list)) => list.push(value),
            Some(other) => *other = Value::Array(vec![other.take(), value]),
            None => drop(table.insert(key.to_owned(), value)),
        }
    }
    Ok(Value::Object(all))
}

pub(super) fn write(text: &str, key: &[String], value: Option<&Value>, is_env: bool) -> Result<String, String> {
    let Some((name, section)) = key.split_last() else { return Ok(text.to_owned()) };
    let section = section.first().map_or("", String::as_str);
    let parsed = read(text, is_env)?;
    // null is a key without a `=`
    let value = value.map(|value| match value.as_str() {
        Some(value) => format!("={}", if is_env { quoted(value) } else { value.to_owned() }),
        None => String::new(),
    });
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let own = |one: &&Property<'_>| one.section == section;
    let found: Vec<&Property<'_>> = parsed.properties.iter().filter(own).filter(|one| one.key == name).collect();
    if let Some(old) = found.first() {
        if found.len() > 1 {
            return Err(format!("`{name}` occurs {} times: remove all but one, or write a [[block]]", found.len()));
        }
        let has_end = |at: Option<usize>, end: char| {
            at.and_then(|at| lines.get(at)).is_some_and(|line| line.trim_end().ends_with(end))
        };
        let next = lines.get(old.line.saturating_add(1)).filter(|_| !is_env);
        let is_indented = next.is_some_and(|next| next.starts_with([' ', '\t']) && !next.trim().is_empty());
        if has_end(Some(old.line), '\\') || has_end(old.line.checked_sub(1), '\\') || is_indented {
            return Err(format!("the value of `{name}` has several lines"));
        }
        let end = if lines.get(old.line).is_some_and(|line| line.ends_with('\n')) { "\n" } else { "" };
        let new = value.map(|value| match old.raw.split_once('=') {
            Some((key, rest)) => {
                let space = rest.get(..rest.len().saturating_sub(rest.trim_start().len())).unwrap_or_default();
                let space = if rest.trim().is_empty() { "" } else { space };
                match value.strip_prefix('=') {
                    Some(value) => format!("{key}={space}{value}{end}"),
                    None => format!("{}{end}", key.trim_end()),
                }
            }
            None => format!("{}{value}{end}", old.raw.trim_end()),
        });
        lines.splice(old.line..=old.line, new);
        return Ok(lines.concat());
    }
    let Some(value) = value else { return Ok(text.to_owned()) };
    let is_spaced =
        !is_env && parsed.properties.iter().find(|one| one.value.is_some()).is_some_and(|one| one.raw.contains(" = "));
    let mut new = match value.strip_prefix('=').filter(|_| is_spaced) {
        Some(value) => format!("{name} = {value}\n"),
        None => format!("{name}{value}\n"),
    };
    if let Some(last) = lines.last_mut().filter(|last| !last.ends_with('\n')) {
        last.push('\n');
    }
    // below the line that has the default in a comment, otherwise at the end of the section
    let is_default = |text: &str| {
        let text = text.trim_start_matches(['#', ';', ' ', '\t']);
        text.strip_prefix(name.as_str()).is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    let default =
        parsed.comments.iter().rfind(|(its, _, text)| its == section && is_default(text)).map(|(_, at, _)| *at);
    let header = parsed.sections.iter().find(|(its, _)| its == section).map(|(_, at)| *at);
    let next = parsed.sections.iter().map(|(_, at)| *at).find(|at| header.is_none_or(|header| *at > header));
    let last = parsed.properties.iter().filter(own).map(|one| one.line).rfind(|at| next.is_none_or(|next| *at < next));
    let below = default.or(last).or(header).map(|at| at.saturating_add(1));
    let at = match below {
        Some(at) => at,
        None if section.is_empty() => next.unwrap_or(lines.len()),
        None => {
            let gap = lines.last().is_some_and(|last| !last.trim().is_empty());
            new = format!("{}{section}\n{new}", if gap { "\n" } else { "" });
            lines.len()
        }
    };
    lines.insert(at.min(lines.len()), new);
    Ok(lines.concat())
}

/// A value as a shell and systemd read it.
fn quoted(value: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "_-./:,@%+=".contains(c);
    if value.chars().all(is_safe) {
        return value.to_owned();
    }
    match value.contains(['"', '\\', '$', '`', '!']) {
        true => shlex::try_quote(value).map_or_else(|_| String::new(), std::borrow::Cow::into_owned),
        false => format!("\"{value}\""),
    }
}
