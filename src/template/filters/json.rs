//! JSON as Python writes it.

use minijinja::Error;
use minijinja::value::{Serde, Value};
use serde_json::Value as Json;

use crate::template::filters::{Call, Filter, data, entries_of, invalid, python_float};

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
    let mut writer = Writer {
        out: String::new(),
        indent,
        sorts: call.given.get("sort_keys").map_or(sorts, Value::is_true),
        is_ascii: call.given.get("ensure_ascii").is_none_or(Value::is_true),
    };
    writer.value(&data(&call.value)?, 0);
    call.charge(writer.out.len())?;
    Ok(Value::from(writer.out))
}

struct Writer {
    out: String,
    indent: Option<usize>,
    sorts: bool,
    is_ascii: bool,
}

impl Writer {
    fn value(&mut self, value: &Json, depth: usize) {
        match value {
            Json::String(text) => self.text(text),
            Json::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
                Some(float) => self.out.push_str(&python_float(float)),
                None => self.out.push_str(&number.to_string()),
            },
            Json::Array(list) => self.block(['[', ']'], list.len(), depth, |writer, at| {
                writer.value(list.get(at).unwrap_or(&Json::Null), depth + 1);
            }),
            Json::Object(map) => {
                let entries = entries_of(map, self.sorts);
                self.block(['{', '}'], entries.len(), depth, |writer, at| {
                    let Some((key, value)) = entries.get(at) else { return };
                    writer.text(key);
                    writer.out.push_str(": ");
                    writer.value(value, depth + 1);
                });
            }
            Json::Bool(_) | Json::Null => self.out.push_str(&value.to_string()),
        }
    }

    fn block(&mut self, brackets: [char; 2], count: usize, depth: usize, each: impl Fn(&mut Self, usize)) {
        self.out.push(brackets[0]);
        for at in 0..count {
            if at > 0 {
                self.out.push(',');
            }
            match self.indent {
                Some(_) => self.line(depth + 1),
                None if at > 0 => self.out.push(' '),
                None => {}
            }
            each(self, at);
        }
        if count > 0 && self.indent.is_some() {
            self.line(depth);
        }
        self.out.push(brackets[1]);
    }

    fn line(&mut self, depth: usize) {
        self.out.push('\n');
        self.out.push_str(&" ".repeat(depth * self.indent.unwrap_or(0)));
    }

    fn text(&mut self, text: &str) {
        let quoted = Json::from(text).to_string();
        if !self.is_ascii {
            return self.out.push_str(&quoted);
        }
        let mut units = [0; 2];
        for c in quoted.chars() {
            if c.is_ascii() {
                self.out.push(c);
            } else {
                c.encode_utf16(&mut units).iter().for_each(|unit| self.out.push_str(&format!("\\u{unit:04x}")));
            }
        }
    }
}
