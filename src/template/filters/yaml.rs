//! YAML as Ansible reads and writes it: the texts of libyaml, its quotes and its line breaks.

use std::sync::LazyLock;

use fancy_regex::Regex;
use minijinja::Error;
use minijinja::value::{Serde, Value};
use serde_json::Value as Json;

use crate::template::filters::{Call, Filter, data, invalid, python_float};

pub(super) const FILTERS: &[Filter] = &[
    ("to_yaml", NAMES, |call| write(call, 2, None)),
    ("to_nice_yaml", NAMES, |call| write(call, 4, Some(false))),
    ("from_yaml", &[], read),
];

const NAMES: &[&str] = &["indent", "width", "sort_keys", "default_flow_style", "explicit_start", "allow_unicode"];

/// Plain scalars that are no strings in YAML 1.1.
static OTHER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let other = [
        "yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF|~|null|Null|NULL||<<|=|[!&*]",
        r"[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?",
        r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "[-+]?0b[01_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+",
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::[0-9]{2})?))?",
    ];
    Regex::new(&format!(r"\A(?:{})\z", other.join("|"))).ok()
});

fn read(call: &Call<'_>) -> Result<Value, Error> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true, with_snippet: false };
    let value: Json = serde_saphyr::from_str_with_options(&call.input()?, options).map_err(|error| {
        // only the place: the text may contain a secret
        let at = error
            .location()
            .map_or_else(String::new, |at| format!(", from line {}, column {}", at.line(), at.column()));
        invalid(format!("this is not YAML{at}"))
    })?;
    Ok(Value::from(Serde(value)))
}

fn write(call: &Call<'_>, indent: i64, flow: Option<bool>) -> Result<Value, Error> {
    let flow = call.get("default_flow_style").map_or(flow, |wanted| Some(wanted.is_true()));
    let indent = call.number("indent")?.unwrap_or(indent);
    let mut emitter = Emitter {
        out: String::new(),
        step: usize::try_from(indent).ok().filter(|step| (2..10).contains(step)).unwrap_or(2),
        width: usize::try_from(call.number("width")?.unwrap_or(80)).unwrap_or(usize::MAX),
        flow,
        indent: None,
        column: 0,
        flow_level: 0,
        whitespace: true,
        indention: true,
    };
    if call.flag("explicit_start") {
        emitter.indicator("---", true, false, false);
        emitter.line();
    }
    emitter.node(&data(call, true)?, false, false);
    emitter.line();
    call.charge(emitter.out.len())?;
    Ok(Value::from(emitter.out))
}

/// Writes values with the rules of libyaml's emitter, so that a migrated role writes the same files.
struct Emitter {
    out: String,
    /// Blanks of one indent.
    step: usize,
    /// The column after which a text is folded.
    width: usize,
    /// Whether everything is in flow style, nothing, or (`None`) collections of scalars only.
    flow: Option<bool>,
    /// The current indent; none at the top level.
    indent: Option<usize>,
    column: usize,
    flow_level: usize,
    /// Whether the last character was a blank.
    whitespace: bool,
    /// Whether the line has nothing but indents and dashes so far.
    indention: bool,
}

/// How a text may be written.
#[derive(PartialEq, Eq)]
enum Style {
    Plain,
    Single,
    Double,
}

impl Emitter {
    fn put(&mut self, c: char) {
        self.out.push(c);
        self.column = if c == '\n' { 0 } else { self.column + 1 };
    }

    fn line(&mut self) {
        if self.column > 0 {
            self.put('\n');
        }
        self.whitespace = true;
        self.indention = true;
    }

    /// Moves to the indent, on a new line if necessary.
    fn write_indent(&mut self) {
        let indent = self.indent.unwrap_or(0);
        if !self.indention || self.column > indent || (self.column == indent && !self.whitespace) {
            self.put('\n');
        }
        while self.column < indent {
            self.put(' ');
        }
        self.whitespace = true;
        self.indention = true;
    }

    fn indicator(&mut self, text: &str, needs_space: bool, is_space: bool, is_indention: bool) {
        if needs_space && !self.whitespace {
            self.put(' ');
        }
        text.chars().for_each(|c| self.put(c));
        self.whitespace = is_space;
        self.indention = self.indention && is_indention;
    }

    /// Runs `inner` one level deeper.
    fn further(&mut self, is_flow: bool, stays: bool, inner: impl FnOnce(&mut Self)) {
        let before = self.indent;
        self.indent = match before {
            None => Some(if is_flow { self.step } else { 0 }),
            Some(indent) if stays => Some(indent),
            Some(indent) => Some(indent + self.step),
        };
        inner(self);
        self.indent = before;
    }

    fn node(&mut self, value: &Json, in_map: bool, is_key: bool) {
        let is_scalar = |value: &Json| !value.is_array() && !value.is_object();
        let in_flow = |emitter: &Self, only_scalars: bool, is_empty: bool| {
            emitter.flow_level > 0 || is_empty || emitter.flow.unwrap_or(only_scalars)
        };
        match value {
            Json::Array(list) if in_flow(self, list.iter().all(is_scalar), list.is_empty()) => {
                self.in_brackets(["[", "]"], list, |emitter, item| emitter.node(item, false, false));
            }
            Json::Array(list) => self.further(false, in_map && !self.indention, |emitter| {
                for item in list {
                    emitter.write_indent();
                    emitter.indicator("-", true, false, true);
                    emitter.node(item, false, false);
                }
            }),
            Json::Object(map) if in_flow(self, map.values().all(is_scalar), map.is_empty()) => {
                self.in_brackets(["{", "}"], map, |emitter, (key, value)| emitter.entry(key, value));
            }
            Json::Object(map) => self.further(false, false, |emitter| {
                for (key, value) in map {
                    emitter.write_indent();
                    emitter.entry(key, value);
                }
            }),
            scalar => self.further(true, false, |emitter| emitter.scalar(scalar, is_key)),
        }
    }

    fn entry(&mut self, key: &str, value: &Json) {
        const LONGEST: usize = 128;
        let is_simple = key.len() <= LONGEST && !key.contains('\n');
        if is_simple {
            self.node(&Json::from(key), false, true);
            self.indicator(":", false, false, false);
        } else {
            self.indicator("?", true, false, true);
            self.node(&Json::from(key), true, false);
            self.write_indent();
            self.indicator(":", true, false, true);
        }
        self.node(value, true, false);
    }

    fn in_brackets<T>(
        &mut self,
        brackets: [&str; 2],
        entries: impl IntoIterator<Item = T>,
        each: impl Fn(&mut Self, T),
    ) {
        self.indicator(brackets[0], true, true, false);
        self.flow_level += 1;
        self.further(true, false, |emitter| {
            for (at, entry) in entries.into_iter().enumerate() {
                if at > 0 {
                    emitter.indicator(",", false, false, false);
                }
                if emitter.column > emitter.width {
                    emitter.write_indent();
                }
                each(emitter, entry);
            }
        });
        self.flow_level -= 1;
        self.indicator(brackets[1], false, false, false);
    }

    fn scalar(&mut self, value: &Json, is_key: bool) {
        let text = match value {
            Json::String(text) => {
                return match self.style(text, is_key) {
                    Style::Plain => self.plain(text, !is_key),
                    Style::Single => self.single(text, !is_key),
                    Style::Double => self.double(text, !is_key),
                };
            }
            Json::Number(number) if number.is_f64() => match number.as_f64().map(python_float) {
                Some(float) if float.contains('e') && !float.contains('.') => float.replacen('e', ".0e", 1),
                float => float.unwrap_or_default(),
            },
            other => other.to_string(),
        };
        self.plain(&text, !is_key);
    }

    fn style(&self, text: &str, is_key: bool) -> Style {
        let seen = QuoteHints::of(text);
        if is_key && seen.breaks {
            return Style::Double;
        }
        let is_text = OTHER.as_ref().is_some_and(|other| matches!(other.is_match(text), Ok(false)));
        let may_be_plain = if self.flow_level > 0 { seen.plain_in_flow } else { seen.plain };
        match (may_be_plain && is_text, seen.single) {
            (true, _) => Style::Plain,
            (false, true) => Style::Single,
            (false, false) => Style::Double,
        }
    }

    /// A blank, or a line break if the line is long.
    fn space(&mut self, may_break: bool) {
        if may_break && self.column > self.width {
            self.write_indent();
        } else {
            self.put(' ');
        }
    }

    fn plain(&mut self, text: &str, may_break: bool) {
        if !self.whitespace && (!text.is_empty() || self.flow_level > 0) {
            self.put(' ');
        }
        let mut after_space = false;
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c == ' ' {
                self.space(may_break && !after_space && chars.peek() != Some(&' '));
            } else {
                self.put(c);
                self.indention = false;
            }
            after_space = c == ' ';
        }
        self.whitespace = false;
        self.indention = false;
    }

    fn single(&mut self, text: &str, may_break: bool) {
        self.indicator("'", true, false, false);
        let (mut after_space, mut after_break, mut is_first) = (false, false, true);
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c == ' ' {
                let next = chars.peek();
                self.space(may_break && !after_space && !is_first && next.is_some() && next != Some(&' '));
            } else if c == '\n' {
                if !after_break {
                    self.put('\n');
                }
                self.put('\n');
                self.indention = true;
            } else {
                if after_break {
                    self.write_indent();
                }
                if c == '\'' {
                    self.put('\'');
                }
                self.put(c);
                self.indention = false;
            }
            (after_space, after_break, is_first) = (c == ' ', c == '\n', false);
        }
        if after_break {
            self.write_indent();
        }
        self.indicator("'", false, false, false);
    }

    fn double(&mut self, text: &str, may_break: bool) {
        self.indicator("\"", true, false, false);
        let (mut after_space, mut is_first) = (false, true);
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c == ' ' {
                let next = chars.peek().copied();
                let breaks = may_break && !after_space && !is_first && next.is_some() && self.column > self.width;
                self.space(breaks);
                if breaks && next == Some(' ') {
                    self.put('\\');
                }
            } else if is_printable(c) && !matches!(c, '\n' | '"' | '\\') {
                self.put(c);
            } else {
                escaped(c).chars().for_each(|c| self.put(c));
            }
            (after_space, is_first) = (c == ' ', false);
        }
        self.indicator("\"", false, false, false);
    }
}

/// A character between double quotes.
fn escaped(c: char) -> String {
    const SPECIAL: &str = "\0\u{7}\u{8}\t\n\u{b}\u{c}\r\u{1b}\"\\\u{85}\u{a0}\u{2028}\u{2029}";
    const LETTERS: &str = "0abtnvfre\"\\N_LP";
    let letter = SPECIAL.chars().zip(LETTERS.chars()).find(|(special, _)| *special == c);
    match (letter, u32::from(c)) {
        (Some((_, letter)), _) => format!("\\{letter}"),
        (None, code @ 0..=0xff) => format!("\\x{code:02X}"),
        (None, code @ 0x100..=0xffff) => format!("\\u{code:04X}"),
        (None, code) => format!("\\U{code:08X}"),
    }
}

fn is_printable(c: char) -> bool {
    let is_plain = matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}');
    is_plain && !matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}')
}

/// The properties of a text that decide its quotes.
struct QuoteHints {
    breaks: bool,
    plain: bool,
    plain_in_flow: bool,
    single: bool,
}

impl QuoteHints {
    fn of(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let is_blank = |at: usize| chars.get(at).is_none_or(|c| matches!(c, ' ' | '\t' | '\n'));
        let mut is_indicator = text.starts_with("---") || text.starts_with("...");
        let mut is_flow_indicator = is_indicator;
        for (at, c) in chars.iter().enumerate() {
            let before_blank = is_blank(at + 1);
            let (block, flow) = match (at, c) {
                (0, '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`') => {
                    (true, true)
                }
                (0, '?') | (_, ':') => (before_blank, true),
                (0, '-') => (before_blank, before_blank),
                (_, ',' | '?' | '[' | ']' | '{' | '}') => (false, true),
                (at, '#') if at > 0 && is_blank(at - 1) => (true, true),
                _ => (false, false),
            };
            is_indicator |= block;
            is_flow_indicator |= flow;
        }
        let is_special = chars.iter().any(|c| !is_printable(*c));
        let breaks = text.contains('\n');
        let is_open = text.starts_with([' ', '\n']) || text.ends_with([' ', '\n']);
        let single = !is_special && !text.contains("\n ") && !text.contains(" \n");
        let plain = single && !is_open && !breaks;
        Self { breaks, single, plain: plain && !is_indicator, plain_in_flow: plain && !is_flow_indicator }
    }
}
