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
    let Some((name, above)) = key.split_last() else { return Ok(text.to_owned()) };
    let root = CstRootNode::parse(text, &ParseOptions::default()).map_err(|_| "it is not JSON".to_owned())?;
    let mut node: CstNode = root.object_value_or_set().into();
    for (at, part) in above.iter().enumerate() {
        node = match inner(&node, part) {
            Some(inner) if inner.as_null_keyword().is_none() => inner,
            _ => {
                // what is missing is added as a whole
                let rest = key.get(at.saturating_add(1)..).unwrap_or_default();
                let nested = rest
                    .iter()
                    .rev()
                    .fold(value.cloned(), |value, part| Some(Value::Object(Map::from_iter([(part.clone(), value?)]))));
                put(&node, part, nested.as_ref())?;
                return Ok(ended(text, &root));
            }
        };
    }
    put(&node, name, value)?;
    Ok(ended(text, &root))
}

/// A new file ends with a line break.
fn ended(text: &str, root: &CstRootNode) -> String {
    let new = root.to_string();
    if text.trim().is_empty() { format!("{}\n", new.trim()) } else { new }
}

fn inner(node: &CstNode, part: &str) -> Option<CstNode> {
    match node.as_object() {
        Some(object) => object.get(part)?.value(),
        None => node.as_array()?.elements().into_iter().nth(part.parse().ok()?),
    }
}

fn put(node: &CstNode, name: &str, value: Option<&Value>) -> Result<(), String> {
    if let Some(object) = node.as_object() {
        match (object.get(name), value) {
            (Some(old), Some(value)) => old.set_value(input(value)),
            (Some(old), None) => old.remove(),
            (None, Some(value)) => drop(object.append(name, input(value))),
            (None, None) => {}
        }
        return Ok(());
    }
    let list = node.as_array().ok_or_else(|| format!("`{name}` can't be in there"))?;
    let found = name.parse().ok().and_then(|at: usize| Some((at, list.elements().into_iter().nth(at)?)));
    let (at, old) = found.ok_or_else(|| format!("the list has no element `{name}`"))?;
    if let Some(value) = value {
        list.insert(at, input(value));
        old.remove();
    }
    Ok(())
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(value) => CstInputValue::Bool(*value),
        Value::Number(number) => CstInputValue::Number(number.to_string()),
        Value::String(text) => CstInputValue::String(text.clone()),
        Value::Array(list) => CstInputValue::Array(list.iter().map(input).collect()),
        Value::Object(map) => {
            CstInputValue::Object(map.iter().map(|(key, value)| (key.clone(), input(value))).collect())
        }
    }
}
