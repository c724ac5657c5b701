//! A TOML file that a person wrote, whose every value still knows its line and column.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Error, Place, Result, nearest};
use crate::kind::fields::names_of;
use crate::site::foreign;

/// The way to a value: table keys, and positions in arrays as decimal numbers.
pub type Path = Vec<String>;

/// A TOML file with its text and the place of every value.
#[derive(Debug)]
pub struct Doc {
    file: String,
    text: Arc<str>,
    value: Value,
    spans: HashMap<Path, Spans>,
    tables: OnceLock<Tables>,
}

/// The keys that can stand in the table at a path; none for a table of which that is not known.
pub type Tables = fn(&[String]) -> &'static [&'static str];

/// [`Tables`] for a file that is nothing but a `T`.
fn top_of<T: DeserializeOwned>(path: &[String]) -> &'static [&'static str] {
    if path.is_empty() { names_of::<T>() } else { &[] }
}

#[derive(Clone, Debug)]
struct Spans {
    key: Range<usize>,
    value: Range<usize>,
}

impl Doc {
    /// Reads TOML. `file` is what the file is called in messages.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self> {
        let text: Arc<str> = utf8(file, bytes)?.into();
        let place = |span: Option<Range<usize>>| Place {
            file: file.to_owned(),
            text: text.clone(),
            span: span.unwrap_or(0..0),
        };
        let table = DeTable::parse(&text).map_err(|error| {
            let help = match error.message() {
                "duplicate key" => "it is set before already: keep one of them",
                _ => "a text stands in double quotes, a list in brackets, and each key on a line of its own",
            };
            Error::new(format!("{file} is not TOML"))
                .because(error.message())
                .at(place(error.span()), "here")
                .help(help)
        })?;
        let mut spans = HashMap::new();
        let whole = table.span();
        let value = table_value(table.get_ref(), &mut Vec::new(), &mut spans).map_err(|(why, span)| {
            Error::new(format!("{file} has a number that is too large")).because(why).at(place(Some(span)), "here")
        })?;
        spans.insert(Vec::new(), Spans { key: 0..0, value: whole.start..whole.start });
        Ok(Self { file: file.to_owned(), text, value, spans, tables: OnceLock::new() })
    }

    /// Says which keys its tables can have, for advice about one that stands in the wrong table.
    pub fn describe(&self, tables: Tables) {
        let _ = self.tables.set(tables);
    }

    /// What the file is called in messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The whole file as a value.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Where in the file the value at `path` is; where its table is, when it isn't in the file itself.
    pub fn place(&self, path: &[String]) -> Place {
        self.find(path, |spans| spans.value.clone())
    }

    /// Where in the file the key at the end of `path` is.
    pub fn key_place(&self, path: &[String]) -> Place {
        self.find(path, |spans| spans.key.clone())
    }

    fn find(&self, path: &[String], which: impl Fn(&Spans) -> Range<usize>) -> Place {
        let mut length = path.len();
        let span = loop {
            match self.spans.get(&path[..length]) {
                Some(spans) => break which(spans),
                None if length == 0 => break 0..0,
                None => length -= 1,
            }
        };
        Place { file: self.file.clone(), text: self.text.clone(), span }
    }

    /// The whole file as a typed value. A key that `T` doesn't have, or a value of the wrong type, is an error with
    /// its place and, for a key, the name that was probably meant.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        self.describe(top_of::<T>);
        self.read_at(&[], self.value.clone())
    }

    /// `value`, which came from `at` in this file, as a typed value; errors as for [`Doc::read`].
    pub fn read_at<T: DeserializeOwned>(&self, at: &[String], value: Value) -> Result<T> {
        serde_path_to_error::deserialize(value).map_err(|error| {
            let mut path = at.to_vec();
            path.extend(error.path().iter().filter_map(segment));
            self.explain(path, &error.inner().to_string())
        })
    }

    /// Turns serde's words about the value at `path` into an error of ours.
    fn explain(&self, mut path: Path, message: &str) -> Error {
        let message = message.strip_prefix("invalid value: ").unwrap_or(message);
        if let Some(rest) = message.strip_prefix("unknown field `") {
            // names stand between backticks, serde's own words between the names
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
                let error = Error::new(format!("`{name}` lacks `{field}`"))
                    .at(self.place(&path), format!("`{field}` has to be set here"));
                match self.astray(&path, field) {
                    Some(help) => error.help(help),
                    None => error,
                }
            }
            None => Error::new(format!("`{name}` can't be read")).because(message).at(self.place(&path), "this value"),
        }
    }

    /// The error for a key that nobody knows, with the nearest known one.
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
        Error::new(format!("unknown key `{name}`")).at(self.key_place(path), "not a key that is known here").help(help)
    }
}

/// Why a key belongs to a table that nobody meant.
const BELOW: &str = "all that stands below a header is part of its table";

impl Doc {
    /// The header that a key has to stand above, when a table further out can have the key and its own can't.
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
        let is_table = path.iter().try_fold(&self.value, |value, key| match value {
            Value::Array(items) => items.get(key.parse::<usize>().ok()?),
            other => other.get(key),
        });
        is_table.filter(|value| value.is_object())?;
        let text = self.text.get(self.spans.get(path)?.value.start..)?.lines().next()?;
        let end = if text.starts_with("[[") { "]]" } else { "]" };
        let (header, _) = text.split_once(end).filter(|_| text.starts_with('['))?;
        Some(format!("{header}{end}"))
    }

    /// Where a key stands that the table at `path` lacks: below another header, further down.
    fn astray(&self, path: &[String], field: &str) -> Option<String> {
        let after = self.spans.get(path).map_or(0, |spans| spans.value.start);
        let is_astray = |(way, spans): &(&Path, &Spans)| {
            way.last().is_some_and(|name| name == field) && way.len() > 1 && spans.key.start > after
        };
        let (way, _) = self.spans.iter().filter(is_astray).min_by_key(|(_, spans)| spans.key.start)?;
        let header = self.header(&way[..way.len() - 1])?;
        Some(format!("`{field}` stands at {}, below `{header}`: {BELOW}", self.key_place(way)))
    }
}

/// The text of a file of the site, which is called `file` in messages.
pub fn utf8<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|error| {
        let start = error.valid_up_to();
        // what can't be read has become one character of three bytes
        let place =
            Place { file: file.to_owned(), text: String::from_utf8_lossy(bytes).into(), span: start..start + 3 };
        Error::new(format!("{file} is not UTF-8 text"))
            .at(place, "this can't be read")
            .help("save it as UTF-8; what is not text goes into the role's files/")
    })
}

/// A text as a TOML string. JSON's strings are TOML's, on one line and with one kind of quotes, so they can be keys too.
pub fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A path as people write it.
pub fn dotted(path: &[String]) -> String {
    let mut text = String::new();
    for part in path {
        if part.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
            text.push_str(&format!("[{part}]"));
        } else {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(part);
        }
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

fn table_value(table: &DeTable<'_>, path: &mut Path, spans: &mut HashMap<Path, Spans>) -> Result<Value, TooLarge> {
    let mut entries: Vec<_> = table.iter().collect();
    // the order of the file, not of the alphabet
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut map = Map::new();
    for (key, value) in entries {
        path.push(key.get_ref().to_string());
        let converted = spanned_value(key.span(), value, path, spans)?;
        map.insert(key.get_ref().to_string(), converted);
        path.pop();
    }
    Ok(Value::Object(map))
}

fn spanned_value(
    key: Range<usize>,
    value: &Spanned<DeValue<'_>>,
    path: &mut Path,
    spans: &mut HashMap<Path, Spans>,
) -> Result<Value, TooLarge> {
    spans.insert(path.clone(), Spans { key, value: value.span() });
    Ok(match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(Value::from)
            .map_err(|error| (error.to_string(), value.span()))?,
        DeValue::Float(number) => {
            number.as_str().parse::<f64>().map(Value::from).map_err(|error| (error.to_string(), value.span()))?
        }
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Datetime(time) => Value::String(time.to_string()),
        DeValue::Array(items) => {
            let mut array = Vec::with_capacity(items.len());
            for (index, item) in items.iter().enumerate() {
                path.push(index.to_string());
                array.push(spanned_value(item.span(), item, path, spans)?);
                path.pop();
            }
            Value::Array(array)
        }
        DeValue::Table(table) => table_value(table, path, spans)?,
    })
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
    fn text_that_is_not_toml_is_shown_where_it_stops_being() {
        let (what, place, _) = failure("a = 1\nb = = 2\n");
        assert!(what.starts_with("x.toml is not TOML"), "{what}");
        assert_eq!(place, "x.toml:2:5");
    }
}
