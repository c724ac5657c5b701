//! YAML as Ansible reads and writes it: the texts of libyaml, its quotes and its line breaks.

use std::sync::LazyLock;

use fancy_regex::Regex;
use libyaml_safer::{Emitter, Encoding, Event, MappingStyle, ScalarStyle, SequenceStyle};
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
    let data = data(call, true)?;
    let mut out = Vec::new();
    let mut emitter = Emitter::new();
    emitter.set_output_string(&mut out);
    emitter.set_unicode(true);
    emitter.set_indent(i32::try_from(call.number("indent")?.unwrap_or(indent)).unwrap_or_default());
    emitter.set_width(i32::try_from(call.number("width")?.unwrap_or(80)).unwrap_or(-1));
    let mut emit = |event| emitter.emit(event).map_err(|error| invalid(error.to_string()));
    emit(Event::stream_start(Encoding::Utf8))?;
    emit(Event::document_start(None, &[], !call.flag("explicit_start")))?;
    node(&data, flow, &mut emit)?;
    emit(Event::document_end(true))?;
    emit(Event::stream_end())?;
    call.charge(out.len())?;
    Ok(Value::from(String::from_utf8_lossy(&out)))
}

/// Emits a value. `flow`: whether everything is in flow style, nothing, or (`None`) collections of scalars only.
fn node(value: &Json, flow: Option<bool>, emit: &mut dyn FnMut(Event) -> Result<(), Error>) -> Result<(), Error> {
    let is_scalar = |value: &Json| !value.is_array() && !value.is_object();
    match value {
        Json::Array(list) => {
            let in_flow = flow.unwrap_or_else(|| list.iter().all(is_scalar));
            let style = if in_flow { SequenceStyle::Flow } else { SequenceStyle::Block };
            emit(Event::sequence_start(None, None, true, style))?;
            list.iter().try_for_each(|item| node(item, flow, emit))?;
            emit(Event::sequence_end())
        }
        Json::Object(map) => {
            let in_flow = flow.unwrap_or_else(|| map.values().all(is_scalar));
            let style = if in_flow { MappingStyle::Flow } else { MappingStyle::Block };
            emit(Event::mapping_start(None, None, true, style))?;
            for (key, value) in map {
                emit(text(key))?;
                node(value, flow, emit)?;
            }
            emit(Event::mapping_end())
        }
        Json::String(value) => emit(text(value)),
        other => emit(Event::scalar(None, None, &number(other), true, false, ScalarStyle::Plain)),
    }
}

/// A text, in quotes if it would be something else without them.
fn text(text: &str) -> Event {
    let is_text = OTHER.as_ref().is_some_and(|other| matches!(other.is_match(text), Ok(false)));
    Event::scalar(None, None, text, is_text, true, ScalarStyle::Any)
}

/// A scalar that is not a text.
fn number(value: &Json) -> String {
    match value.as_f64().filter(|_| value.is_f64()).map(python_float) {
        Some(float) if float.contains('e') && !float.contains('.') => float.replacen('e', ".0e", 1),
        Some(float) => float,
        None => value.to_string(),
    }
}
