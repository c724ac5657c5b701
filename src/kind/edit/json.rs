//! Values in JSON, also with comments and trailing commas.

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstNode, CstRootNode};
use serde_json::{Map, Value};

pub(super) fn parse(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(text).or_else(|_| {
        // only the place: the text may contain a secret
        let at =
            |error: jsonc_parser::errors::ParseError| format!("it is not JSON, from line {}", error.line_display());
        jsonc_parser::parse_to_serde_value(text, &ParseOptions::default()).map_err(at)
    })
}

pub(super) fn write(text: &str, key: &[String], value: Option<&Value>) -> Result<String, String> {
    let root = CstRootNode::parse(text, &ParseOptions::default()).map_err(|_| "it is not JSON".to_owned())?;
    put(&root.object_value_or_set().into(), key, value).ok_or_else(|| "it can't be written there".to_owned())?;
    let new = root.to_string();
    // a new file ends with a line break
    Ok(if text.trim().is_empty() { format!("{}\n", new.trim()) } else { new })
}

/// Puts a value at a key below a node. What is missing above it is added as a whole.
fn put(node: &CstNode, key: &[String], value: Option<&Value>) -> Option<()> {
    let (part, rest) = key.split_first()?;
    let index = part.parse::<usize>();
    let inner = match node.as_object() {
        Some(object) => object.get(part).and_then(|property| property.value()),
        None => node.as_array()?.elements().into_iter().nth(index.clone().ok()?),
    };
    if let Some(inner) = inner.as_ref().filter(|inner| !rest.is_empty() && inner.as_null_keyword().is_none()) {
        return put(inner, rest, value);
    }
    let nest = |value, part: &String| Some(Value::Object(Map::from_iter([(part.clone(), value?)])));
    let value = rest.iter().rev().fold(value.cloned(), nest);
    match (node.as_object(), value) {
        (Some(object), value) => match (object.get(part), value) {
            (Some(old), Some(value)) => old.set_value(input(&value)),
            (Some(old), None) => old.remove(),
            (None, Some(value)) => drop(object.append(part, input(&value))),
            (None, None) => {}
        },
        (None, Some(value)) => {
            node.as_array()?.insert(index.ok()?, input(&value));
            inner?.remove();
        }
        (None, None) => {}
    }
    Some(())
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(value) => CstInputValue::Bool(*value),
        Value::Number(number) => CstInputValue::Number(number.to_string()),
        Value::String(text) => CstInputValue::String(text.clone()),
        Value::Array(list) => CstInputValue::Array(list.iter().map(input).collect()),
        Value::Object(map) => CstInputValue::Object(map.iter().map(|(key, one)| (key.clone(), input(one))).collect()),
    }
}
