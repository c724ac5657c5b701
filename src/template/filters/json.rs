//! JSON as Python writes it.

use minijinja::Error;
use minijinja::value::{Serde, Value};
use serde_json::Value as Json;

use crate::template::filters::{Call, Filter, data, invalid, python_float};

pub(super) const FILTERS: &[Filter] = &[
    ("to_json", &["indent", "sort_keys", "ensure_ascii"], |call| write(call, None, false)),
    ("to_nice_json", &["indent", "sort_keys", "ensure_ascii"], |call| write(call, Some(4), true)),
    ("from_json", &[], read),
];

fn read(call: &Call<'_>) -> Result<Value, Error> {
    // only where: what is there may be a secret's
    let wrong = |error: serde_json::Error| {
        invalid(format!("this is not JSON, from line {}, column {}", error.line(), error.column()))
    };
    serde_json::from_str::<Json>(&call.input()?).map_err(wrong).map(|value| Value::from(Serde(value)))
}

fn write(call: &Call<'_>, indent: Option<usize>, sorts: bool) -> Result<Value, Error> {
    let indent = match call.number("indent")? {
        Some(wanted) => Some(usize::try_from(wanted).unwrap_or(0).min(32)),
        None => indent,
    };
    let mut writer = Writer { out: String::new(), indent };
    writer.value(&data(call, sorts)?, 0);
    let is_ascii = call.given.get("ensure_ascii").is_none_or(Value::is_true);
    let out = if is_ascii { ascii(&writer.out) } else { writer.out };
    call.charge(out.len())?;
    Ok(Value::from(out))
}

/// The same JSON with characters that are not ASCII, which are only in texts, as escapes.
fn ascii(json: &str) -> String {
    let (mut out, mut units) = (String::with_capacity(json.len()), [0; 2]);
    for c in json.chars() {
        match c.is_ascii() {
            true => out.push(c),
            false => c.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    out
}

struct Writer {
    out: String,
    indent: Option<usize>,
}

impl Writer {
    fn value(&mut self, value: &Json, depth: usize) {
        match value {
            Json::Array(list) => self.block(['[', ']'], list, depth, |writer, value| writer.value(value, depth + 1)),
            Json::Object(map) => self.block(['{', '}'], map, depth, |writer, (key, value)| {
                writer.out.push_str(&format!("{}: ", Json::from(key.as_str())));
                writer.value(value, depth + 1);
            }),
            Json::Number(number) if number.is_f64() => {
                self.out.push_str(&number.as_f64().map(python_float).unwrap_or_default());
            }
            other => self.out.push_str(&other.to_string()),
        }
    }

    fn block<T>(
        &mut self,
        brackets: [char; 2],
        entries: impl IntoIterator<Item = T>,
        depth: usize,
        each: impl Fn(&mut Self, T),
    ) {
        self.out.push(brackets[0]);
        let mut is_empty = true;
        for entry in entries {
            if !is_empty {
                self.out.push(',');
            }
            match self.indent {
                Some(_) => self.line(depth + 1),
                None if !is_empty => self.out.push(' '),
                None => {}
            }
            each(self, entry);
            is_empty = false;
        }
        if !is_empty && self.indent.is_some() {
            self.line(depth);
        }
        self.out.push(brackets[1]);
    }

    fn line(&mut self, depth: usize) {
        self.out.push('\n');
        self.out.push_str(&" ".repeat(depth * self.indent.unwrap_or(0)));
    }
}
