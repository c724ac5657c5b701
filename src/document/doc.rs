//! TOML files whose values know their line and column.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::document::fields::names_of;
use crate::document::foreign;
use crate::error::{Error, Place, Result, error, nearest};

/// The path to a value: table keys, and positions in arrays as decimal numbers.
pub type Path = Vec<String>;

/// A TOML file with its text and the place of every value.
#[derive(Debug)]
pub struct Doc {
    file: String,
    text: Arc<str>,
    value: Value,
    spans: Spans,
    tables: OnceLock<Tables>,
}

/// The keys that the table at a path can have; empty if unknown.
pub type Tables = fn(&[String]) -> &'static [&'static str];

/// [`Tables`] for a file that is a `T`.
fn top_of<T: DeserializeOwned>(path: &[String]) -> &'static [&'static str] {
    if path.is_empty() { names_of::<T>() } else { &[] }
}

/// The spans of a value and its key, and those of the values in it, in order. Without names, which are those of the value: storing a
/// path with each would take too much memory.
#[derive(Debug, Default)]
struct Spans {
    key: Range<usize>,
    value: Range<usize>,
    inner: Vec<Spans>,
}

/// The maximum size of a file in bytes, as for the manifest of a release.
const LARGEST: usize = 8 << 20;
/// The maximum number of characters that delimit values. A value takes some hundred bytes of memory, but can be written with two.
const MOST_SIGNS: usize = 1 << 20;

impl Doc {
    /// Parses TOML. `file` is its name in messages.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self> {
        check_extent(file, bytes)?;
        let text: Arc<str> = utf8(file, bytes)?.into();
        let place = |span: Option<Range<usize>>| Place {
            file: file.to_owned(),
            text: text.clone(),
            span: span.unwrap_or(0..0),
        };
        let table = DeTable::parse(&text).map_err(|error| {
            let help = match error.message() {
                "duplicate key" => "the key is already set: keep one of them",
                _ => "write text in double quotes, lists in brackets, and each key on its own line",
            };
            error!(SYNTAX, "{file} is not TOML").because(error.message()).at(place(error.span()), "here").help(help)
        })?;
        let start = table.span().start;
        let (value, inner) = table_value(table.get_ref()).map_err(|(why, span)| {
            error!(SYNTAX, "{file} has a number that is too large").because(why).at(place(Some(span)), "here")
        })?;
        let spans = Spans { key: 0..0, value: start..start, inner };
        Ok(Self { file: file.to_owned(), text, value, spans, tables: OnceLock::new() })
    }

    /// Sets which keys its tables can have, for advice about a key in the wrong table.
    pub fn describe(&self, tables: Tables) {
        let _ = self.tables.set(tables);
    }

    /// The name of the file in messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The whole file as a value.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The place of the value at `path`, or of its table if the file doesn't have the value.
    pub fn place(&self, path: &[String]) -> Place {
        self.find(path, |spans| spans.value.clone())
    }

    /// The place of the key at the end of `path`.
    pub fn key_place(&self, path: &[String]) -> Place {
        self.find(path, |spans| spans.key.clone())
    }

    fn find(&self, path: &[String], which: impl Fn(&Spans) -> Range<usize>) -> Place {
        let (_, _, spans) = self.follow(path);
        Place { file: self.file.clone(), text: self.text.clone(), span: which(spans) }
    }

    /// How many parts of `path` exist in this file, with the value and spans there.
    fn follow(&self, path: &[String]) -> (usize, &Value, &Spans) {
        let (mut value, mut spans) = (&self.value, &self.spans);
        for (count, part) in path.iter().enumerate() {
            let inner = match value {
                Value::Object(map) => map
                    .iter()
                    .zip(&spans.inner)
                    .find(|((key, _), _)| *key == part)
                    .map(|((_, value), spans)| (value, spans)),
                Value::Array(items) => {
                    part.parse::<usize>().ok().and_then(|index| Some((items.get(index)?, spans.inner.get(index)?)))
                }
                _ => None,
            };
            let Some(inner) = inner else { return (count, value, spans) };
            (value, spans) = inner;
        }
        (path.len(), value, spans)
    }

    /// The whole file as a typed value. An unknown key or a value of the wrong type is an error with its place and, for a key, a
    /// suggestion.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        self.describe(top_of::<T>);
        self.read_at(&[], self.value.clone())
    }

    /// `value`, from `at` in this file, as a typed value; errors as for [`Doc::read`].
    pub fn read_at<T: DeserializeOwned>(&self, at: &[String], value: Value) -> Result<T> {
        serde_path_to_error::deserialize(value).map_err(|error| {
            let mut path = at.to_vec();
            path.extend(error.path().iter().filter_map(segment));
            self.explain(path, &error.inner().to_string())
        })
    }

    /// Turns serde's message about the value at `path` into an error.
    fn explain(&self, mut path: Path, message: &str) -> Error {
        let message = message.strip_prefix("invalid value: ").unwrap_or(message);
        if let Some(rest) = message.strip_prefix("unknown field `") {
            // names are in backticks, with serde's own words between them
            let mut names = rest.split('`').step_by(2).map(str::to_owned);
            let name = names.next().unwrap_or_default();
            let known: Vec<String> = names.filter(|name| !name.is_empty()).collect();
            if path.last() != Some(&name) {
                path.push(name.clone());
            }
            return self.unknown(&path, known.iter().map(String::as_str));
        }
        let name = if path.is_empty() { self.file.clone() } else { dotted(&path) };
        match message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
            Some(field) => {
                let error = error!(SYNTAX, "`{name}` lacks `{field}`")
                    .at(self.place(&path), format!("`{field}` must be set here"));
                match self.astray(&path, field) {
                    Some(help) => error.help(help),
                    None => error,
                }
            }
            None => {
                let is_number = message.starts_with("invalid type: integer") && message.ends_with("expected a string");
                let error =
                    error!(SYNTAX, "`{name}` can't be read").because(message).at(self.place(&path), "this value");
                if is_number { error.help("write it in quotes; an expression as `{{ NAME | string }}`") } else { error }
            }
        }
    }

    /// The error for an unknown key, with the nearest known one.
    pub fn unknown<'a>(&self, path: &[String], known: impl IntoIterator<Item = &'a str>) -> Error {
        let known: Vec<&str> = known.into_iter().collect();
        let name = path.last().map_or("", String::as_str);
        let above = || Some(format!("`{name}` belongs above `{}`: {BELOW}", self.header_above(path, name)?));
        let foreign = || foreign::advice(name, &known).map(str::to_owned);
        let near = || nearest(name, known.iter().copied()).map(|near| format!("did you mean `{near}`?"));
        let help = above().or_else(foreign).or_else(near).unwrap_or_else(|| match known.is_empty() {
            true => "nothing can be set here".to_owned(),
            false => {
                let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
                format!("expected one of {}", known.join(", "))
            }
        });
        error!(SYNTAX, "unknown key `{name}`").at(self.key_place(path), "not a key that is known here").help(help)
    }
}

/// Why a key can be part of an unintended table.
const BELOW: &str = "everything below a header is part of its table";

impl Doc {
    /// The header above which a key belongs, if an outer table can have the key and its own can't.
    fn header_above(&self, path: &[String], name: &str) -> Option<String> {
        let tables = self.tables.get()?;
        let mut lengths = (1..path.len()).rev();
        lengths.find(|length| tables(&path[..length - 1]).contains(&name)).and_then(|length| {
            // the outermost header below that table
            (length..path.len()).find_map(|length| self.header(&path[..length]))
        })
    }

    /// The header of a table as it is written; `None` for a table in braces.
    fn header(&self, path: &[String]) -> Option<String> {
        let (count, value, spans) = self.follow(path);
        if count < path.len() || !value.is_object() {
            return None;
        }
        let text = self.text.get(spans.value.start..)?.lines().next()?;
        let end = if text.starts_with("[[") { "]]" } else { "]" };
        let (header, _) = text.split_once(end).filter(|_| text.starts_with('['))?;
        Some(format!("{header}{end}"))
    }

    /// Where a key is that the table at `path` lacks: below another header, further down.
    fn astray(&self, path: &[String], field: &str) -> Option<String> {
        let after = match self.follow(path) {
            (count, _, spans) if count == path.len() => spans.value.start,
            _ => 0,
        };
        let mut found = None;
        first_below((&self.value, &self.spans), field, after, &mut Vec::new(), &mut found);
        let (_, found) = found?;
        let (_, table) = found.split_last()?;
        let header = self.header(table)?;
        Some(format!("`{field}` is at {}, below `{header}`: {BELOW}", self.key_place(&found)))
    }
}

/// The first key with the name `field` after `after`, in a table within this one: its position and path.
fn first_below(
    (value, spans): (&Value, &Spans),
    field: &str,
    after: usize,
    path: &mut Path,
    found: &mut Option<(usize, Path)>,
) {
    let mut each = |name: &str, value: &Value, spans: &Spans| {
        path.push(name.to_owned());
        let start = spans.key.start;
        if name == field && path.len() > 1 && start > after && found.as_ref().is_none_or(|(known, _)| start < *known) {
            *found = Some((start, path.clone()));
        }
        first_below((value, spans), field, after, path, found);
        path.pop();
    };
    match value {
        Value::Object(map) => {
            map.iter().zip(&spans.inner).for_each(|((name, value), spans)| each(name, value, spans));
        }
        Value::Array(items) => {
            let items = items.iter().zip(&spans.inner).enumerate();
            items.for_each(|(index, (value, spans))| each(&index.to_string(), value, spans));
        }
        _ => {}
    }
}

/// Refuses files that would take more memory than any file of a site needs.
fn check_extent(file: &str, bytes: &[u8]) -> Result<()> {
    let too_much = |what: String| {
        Err(error!(SYNTAX, "{file} is too large: it has {what}")
            .help("split it, or move content that is not TOML to other files"))
    };
    if bytes.len() > LARGEST {
        return too_much(format!("{} bytes, and the limit is {LARGEST}", bytes.len()));
    }
    let signs = bytes.iter().filter(|byte| b"=,[]{}\n".contains(byte)).count();
    if signs > MOST_SIGNS {
        return too_much(format!("{signs} lines, commas, brackets and equals signs, and the limit is {MOST_SIGNS}"));
    }
    Ok(())
}

/// The text of a file of the site; `file` is its name in messages.
pub fn utf8<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|error| {
        let start = error.valid_up_to();
        // each invalid sequence becomes one character of three bytes
        let place =
            Place { file: file.to_owned(), text: String::from_utf8_lossy(bytes).into(), span: start..start + 3 };
        error!(SYNTAX, "{file} is not UTF-8 text")
            .at(place, "this can't be parsed")
            .help("save it as UTF-8; put binary files into the role's files/")
    })
}

/// A text as a TOML string. A JSON string is one, on one line and with one kind of quotes, and can also be a key.
pub fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A path as people write it.
pub fn dotted(path: &[String]) -> String {
    let mut text = String::new();
    for part in path {
        text += &match part.bytes().all(|byte| byte.is_ascii_digit()) {
            _ if text.is_empty() => part.clone(),
            true => format!("[{part}]"),
            false => format!(".{part}"),
        };
    }
    text
}

fn segment(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

type TooLarge = (String, Range<usize>);

fn table_value(table: &DeTable<'_>) -> Result<(Value, Vec<Spans>), TooLarge> {
    let mut entries: Vec<_> = table.iter().collect();
    // in the order of the file
    entries.sort_by_key(|(key, _)| key.span().start);
    let (mut map, mut inner) = (Map::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
    for (key, value) in entries {
        let (converted, spans) = spanned_value(key.span(), value)?;
        map.insert(key.get_ref().to_string(), converted);
        inner.push(spans);
    }
    Ok((Value::Object(map), inner))
}

fn spanned_value(key: Range<usize>, value: &Spanned<DeValue<'_>>) -> Result<(Value, Spans), TooLarge> {
    let (converted, inner) = match value.get_ref() {
        DeValue::String(text) => (Value::String(text.to_string()), Vec::new()),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            (Value::from(parsed.map_err(|error| (error.to_string(), value.span()))?), Vec::new())
        }
        DeValue::Float(number) => {
            let parsed = number.as_str().parse::<f64>();
            (Value::from(parsed.map_err(|error| (error.to_string(), value.span()))?), Vec::new())
        }
        DeValue::Boolean(flag) => (Value::Bool(*flag), Vec::new()),
        DeValue::Datetime(time) => (Value::String(time.to_string()), Vec::new()),
        DeValue::Array(items) => {
            let (mut array, mut inner) = (Vec::with_capacity(items.len()), Vec::with_capacity(items.len()));
            for item in items.iter() {
                let (converted, spans) = spanned_value(item.span(), item)?;
                array.push(converted);
                inner.push(spans);
            }
            (Value::Array(array), inner)
        }
        DeValue::Table(table) => table_value(table)?,
    };
    Ok((converted, Spans { key, value: value.span(), inner }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[allow(dead_code)]
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[allow(dead_code)]
        port: u16,
    }

    fn failure(text: &str) -> (String, String, String) {
        let error = match Doc::parse("x.toml", text.as_bytes()) {
            Ok(doc) => doc.read::<Outer>().unwrap_err(),
            Err(error) => error,
        };
        let place = error.place().map(ToString::to_string).unwrap_or_default();
        (error.to_string(), place, error.advice().unwrap_or_default().to_owned())
    }

    #[test]
    fn an_unknown_key_is_shown_with_its_place_and_the_nearest_name() {
        let (what, place, help) = failure("[[inner]]\nport = 1\n[[inner]]\nprot = 2\n");
        assert_eq!(what, "unknown key `prot`");
        assert_eq!(place, "x.toml:4:1");
        assert_eq!(help, "did you mean `port`?");
    }

    #[test]
    fn a_wrong_type_is_shown_with_its_place() {
        let (what, place, _) = failure("[[inner]]\nport = \"a\"\n");
        assert_eq!(what, "`inner[0].port` can't be read: invalid type: string \"a\", expected u16");
        assert_eq!(place, "x.toml:2:8");
    }

    #[test]
    fn a_missing_key_is_shown_at_its_table() {
        let (what, place, _) = failure("[[inner]]\n");
        assert_eq!((what.as_str(), place.as_str()), ("`inner[0]` lacks `port`", "x.toml:1:1"));
    }

    #[test]
    fn every_value_and_key_has_its_place_and_what_is_not_there_that_of_its_table() {
        let text = "a = 1\n[t]\nb = [ { c = 2 }, 3 ]\n[[l]]\n[[l]]\nd.e = \"x\"\n";
        let doc = Doc::parse("x.toml", text.as_bytes()).unwrap();
        for (path, key, value) in [
            ("", "1:1", "1:1"),
            ("a", "1:1", "1:5"),
            ("t", "2:2", "2:1"),
            ("t b 0 c", "3:9", "3:13"),
            ("t b 1", "3:18", "3:18"),
            ("t b 2", "3:1", "3:5"),
            ("t none deep", "2:2", "2:1"),
            ("l 1 d e", "6:3", "6:7"),
            ("l x", "4:3", "4:1"),
        ] {
            let path: Path = path.split_whitespace().map(str::to_owned).collect();
            let places = [doc.key_place(&path), doc.place(&path)].map(|place| place.to_string());
            assert_eq!(places, [key, value].map(|at| format!("x.toml:{at}")), "{path:?}");
        }
    }

    #[test]
    fn a_key_that_stands_below_another_header_is_named_with_the_first_place_that_it_has() {
        let (what, place, help) = failure("[[inner]]\n[[other.deep]]\nport = 1\n[[other.deep]]\nport = 2\n");
        assert_eq!((what.as_str(), place.as_str()), ("`inner[0]` lacks `port`", "x.toml:1:1"));
        assert!(help.starts_with("`port` is at x.toml:3:1, below `[[other.deep]]`"), "{help}");
    }

    #[test]
    fn a_file_that_would_fill_the_memory_is_refused_before_it_is_read() {
        let problem = |text: String| Doc::parse("x.toml", text.as_bytes()).unwrap_err().to_string();
        let items = |count: usize| format!("a=[{}]", "1,".repeat(count));
        assert_eq!(
            problem(items(MOST_SIGNS)),
            "x.toml is too large: it has 1048579 lines, commas, brackets and equals signs, and the limit is 1048576"
        );
        assert_eq!(
            problem("#".repeat(LARGEST + 1)),
            "x.toml is too large: it has 8388609 bytes, and the limit is 8388608"
        );
        let nested = format!("a={}{}", "[".repeat(1000), "]".repeat(1000));
        for text in [nested, "a.".repeat(1000) + "b=1", format!("[{}b]", "a.".repeat(1000))] {
            let why = problem(text);
            assert!(why.contains("recursion limit") || why.contains("recursion depth"), "{why}");
        }
        // a long name and many values are no longer one another's factor
        let long =
            Doc::parse("x.toml", format!("{}=[{}]", "k".repeat(1 << 20), "1,".repeat(100_000)).as_bytes()).unwrap();
        assert_eq!(long.place(&["k".repeat(1 << 20), "99999".to_owned()]).span, 1_248_576..1_248_577);
    }

    #[test]
    fn text_that_is_not_toml_is_shown_where_it_stops_being() {
        let (what, place, _) = failure("a = 1\nb = = 2\n");
        assert!(what.starts_with("x.toml is not TOML"), "{what}");
        assert_eq!(place, "x.toml:2:5");
    }
}
