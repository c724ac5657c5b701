//! Values in YAML: found by the spans of the parser, and written in flow style.

use granit_parser::{Event, Parser, ScalarStyle, Span, StructureStyle};
use serde_json::Value;

pub(super) fn parse(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        // only the place: the text may contain a secret
        let at = error.location().map_or_else(String::new, |at| format!(", from line {}", at.line()));
        format!("it is not one YAML document of values{at}")
    })
}

/// A part of the document.
struct Node {
    /// Its first byte.
    start: usize,
    /// The end of its last byte that is content.
    end: usize,
    /// Its column, from 0.
    column: usize,
    content: Content,
}

enum Content {
    /// A value; whether it is a literal or folded text.
    Scalar {
        text: String,
        is_block: bool,
    },
    List {
        items: Vec<Node>,
        is_flow: bool,
    },
    Map {
        entries: Vec<(Node, Node)>,
        is_flow: bool,
    },
}

impl Node {
    fn is_empty(&self) -> bool {
        self.start >= self.end && matches!(self.content, Content::Scalar { .. })
    }

    fn inner(&self, part: &str) -> Option<&Self> {
        match &self.content {
            Content::Map { entries, .. } => entries.iter().find(|(key, _)| key.is_named(part)).map(|(_, value)| value),
            Content::List { items, .. } => items.get(part.parse::<usize>().ok()?),
            Content::Scalar { .. } => None,
        }
    }

    fn is_named(&self, name: &str) -> bool {
        matches!(&self.content, Content::Scalar { text, .. } if text == name)
    }

    fn is_flow_or_scalar(&self) -> bool {
        match &self.content {
            Content::Scalar { is_block, .. } => !is_block,
            Content::List { is_flow, .. } | Content::Map { is_flow, .. } => *is_flow,
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), String> {
        loop {
            match self.parser.next_event() {
                Some(Ok((Event::StreamStart | Event::DocumentStart(..), _))) => {}
                Some(Ok(event)) => return Ok(event),
                _ => return Err("it is not YAML".to_owned()),
            }
        }
    }

    /// The node that begins with this event; `None` for the end of a collection.
    fn node(&mut self, event: &Event<'_>, span: &Span) -> Result<Option<Node>, String> {
        let [start, mut end] = [span.start, span.end].map(|at| at.byte_offset().unwrap_or_default());
        let mut is_flow = true;
        let mut last = |flow: &StructureStyle, inner: Option<usize>, close: &Span| {
            is_flow = *flow == StructureStyle::Flow;
            end = if is_flow { close.end.byte_offset().unwrap_or(end) } else { inner.unwrap_or(end) };
        };
        let content = match event {
            Event::Scalar(text, style, ..) => {
                let is_block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
                Content::Scalar { text: text.to_string(), is_block }
            }
            Event::Alias(_) => Content::Scalar { text: String::new(), is_block: false },
            Event::SequenceStart(style, ..) => {
                let mut items = Vec::new();
                let close = loop {
                    let (event, span) = self.next()?;
                    match self.node(&event, &span)? {
                        Some(node) => items.push(node),
                        None if matches!(event, Event::SequenceEnd) => break span,
                        None => {}
                    }
                };
                last(style, items.last().map(|item: &Node| item.end), &close);
                Content::List { items, is_flow }
            }
            Event::MappingStart(style, ..) => {
                let (mut entries, mut key) = (Vec::new(), None);
                let close = loop {
                    let (event, span) = self.next()?;
                    match (self.node(&event, &span)?, key.take()) {
                        (Some(node), None) => key = Some(node),
                        (Some(node), Some(key)) => entries.push((key, node)),
                        (None, _) if matches!(event, Event::MappingEnd) => break span,
                        (None, was) => key = was,
                    }
                };
                let inner = entries.last().map(|(key, value): &(Node, Node)| value.end.max(key.end));
                last(style, inner, &close);
                Content::Map { entries, is_flow }
            }
            _ => return Ok(None),
        };
        Ok(Some(Node { start, end, column: span.start.col(), content }))
    }
}

fn document(text: &str) -> Result<Option<Node>, String> {
    let mut reader = Reader { parser: Parser::new_from_str(text) };
    let mut root = None;
    loop {
        let (event, span) = reader.next()?;
        match (reader.node(&event, &span)?, event) {
            (Some(node), _) => root = root.or(Some(node)),
            (None, Event::StreamEnd) => break,
            (None, _) => {}
        }
    }
    Ok(root.filter(|root| !root.is_empty()))
}

pub(super) fn write(text: &str, key: &[String], value: Option<&Value>) -> Result<String, String> {
    let replaced = |start: usize, end: usize, new: &str| {
        [text.get(..start), Some(new), text.get(end..)].map(Option::unwrap_or_default).concat()
    };
    let line_end = |at: usize| {
        let tail = text.get(at..).unwrap_or_default();
        match text.get(..at).is_some_and(|head| head.ends_with('\n')) {
            true => at,
            false => tail.find('\n').map_or(text.len(), |end| at.saturating_add(end).saturating_add(1)),
        }
    };
    let Some(root) = document(text)? else {
        let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        return Ok(format!("{text}{gap}{}", value.map_or_else(String::new, |value| nested(key, value, 0))));
    };
    // the deepest table or list that is there, and what is to be in it
    let (mut node, mut depth) = (&root, 0_usize);
    let mut above = None;
    while let Some(inner) = key.get(depth).and_then(|part| node.inner(part)) {
        (above, node, depth) = (Some(node), inner, depth.saturating_add(1));
    }
    let rest = key.get(depth..).unwrap_or_default();
    let name = key.get(depth.saturating_sub(1)).map_or("", String::as_str);
    match (value, rest.split_first()) {
        (None, Some(_)) => Ok(text.to_owned()),
        (Some(value), None) => {
            set(text, above, name, node, &flow(value)).ok_or_else(|| "it can't be written at this place".to_owned())
        }
        (Some(value), Some((part, deeper))) => match &node.content {
            Content::Map { entries, is_flow: true } => {
                let inner =
                    deeper.iter().rev().fold(flow(value), |value, part| format!("{{{}: {value}}}", scalar(part)));
                let gap = if entries.is_empty() { "" } else { ", " };
                let at = entries.last().map_or(node.end.saturating_sub(1), |(key, value)| value.end.max(key.end));
                Ok(replaced(at, at, &format!("{gap}{}: {inner}", scalar(part))))
            }
            Content::Map { entries, .. } => {
                let column = entries.first().map_or(0, |(key, _)| key.column);
                let at = line_end(node.end);
                let gap = if text.get(..at).is_some_and(|head| head.ends_with('\n')) { "" } else { "\n" };
                Ok(replaced(at, at, &format!("{gap}{}", nested(rest, value, column))))
            }
            Content::Scalar { .. } => {
                let inner = rest.iter().rev().fold(flow(value), |value, part| format!("{{{}: {value}}}", scalar(part)));
                set(text, above, name, node, &inner).ok_or_else(|| "it can't be written at this place".to_owned())
            }
            Content::List { .. } => Err(format!("the list has no element `{part}`")),
        },
        (None, None) => match above.map(|above| &above.content) {
            Some(Content::Map { entries, .. }) if entries.len() == 1 && depth > 1 => {
                let parent = key.get(..depth.saturating_sub(1)).unwrap_or_default();
                write(text, parent, Some(&Value::Object(serde_json::Map::new())))
            }
            Some(Content::Map { entries, is_flow }) => {
                let at = entries.iter().position(|(key, _)| key.is_named(name)).unwrap_or_default();
                let spans: Vec<_> = entries.iter().map(|(key, value)| (key.start, value.end.max(key.end))).collect();
                Ok(without(text, &spans, at, *is_flow, line_end))
            }
            _ => Ok(text.to_owned()),
        },
    }
}

/// The text with another value in the place of a node.
fn set(text: &str, above: Option<&Node>, name: &str, node: &Node, new: &str) -> Option<String> {
    if node.is_flow_or_scalar() && !node.is_empty() {
        return Some([text.get(..node.start)?, new, text.get(node.end..)?].concat());
    }
    // behind the colon of its key, or the dash of its element
    let start = match &above?.content {
        Content::Map { entries, .. } => {
            let (key, _) = entries.iter().find(|(key, _)| key.is_named(name))?;
            text.get(key.end..)?.find(':')?.checked_add(key.end)?.checked_add(1)?
        }
        _ => text.get(..node.start)?.rfind('-')?.checked_add(1)?,
    };
    let end = if node.is_empty() { start } else { node.end.max(start) };
    let end = end.checked_sub(text.get(start..end)?.chars().rev().take_while(|c| c.is_whitespace()).count())?;
    Some([text.get(..start)?, " ", new, text.get(end..)?].concat())
}

/// The text without one entry of a table.
fn without(text: &str, spans: &[(usize, usize)], at: usize, flow: bool, line_end: impl Fn(usize) -> usize) -> String {
    let Some((start, end)) = spans.get(at).copied() else { return text.to_owned() };
    let (start, end) = match (flow, spans.get(at.saturating_add(1)), at.checked_sub(1).and_then(|at| spans.get(at))) {
        (true, Some((next, _)), _) => (start, *next),
        (true, None, Some((_, last))) => (*last, end),
        (true, None, None) => (start, end),
        _ => (text.get(..start).and_then(|head| head.rfind('\n')).map_or(0, |at| at.saturating_add(1)), line_end(end)),
    };
    [text.get(..start), text.get(end..)].map(Option::unwrap_or_default).concat()
}

/// Lines with a value below its keys.
fn nested(key: &[String], value: &Value, column: usize) -> String {
    let mut lines = String::new();
    for (depth, part) in key.iter().enumerate() {
        let is_last = depth.saturating_add(1) == key.len();
        let indent = " ".repeat(column.saturating_add(depth.saturating_mul(2)));
        let value = if is_last { format!(" {}", flow(value)) } else { String::new() };
        lines.push_str(&format!("{indent}{}:{value}\n", scalar(part)));
    }
    lines
}

fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        Value::Array(list) => format!("[{}]", list.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| format!("{}: {}", scalar(key), flow(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// A text; in quotes, unless it is a plain word that no version of YAML takes for something else.
fn scalar(text: &str) -> String {
    let is_word = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    let other = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    match is_word && !other.contains(&text.to_ascii_lowercase().as_str()) {
        true => text.to_owned(),
        false => Value::from(text).to_string(),
    }
}
