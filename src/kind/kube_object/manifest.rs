//! Kubernetes manifests: YAML or JSON with one or more objects.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Map, Value};

use crate::host::kube::Name;

/// One object.
#[derive(Debug)]
pub struct Manifest {
    /// Which one it is.
    pub name: Name,
    /// Its content, without what only the API server sets.
    pub content: Value,
}

/// Reads all objects of a text. The error says what is wrong and where; only where if the text contains a secret.
pub fn read(text: &str, is_secret: bool) -> Result<Vec<Manifest>, String> {
    // numbers and booleans as kubectl reads them
    let options = serde_saphyr::options! { legacy_octal_numbers: true, with_snippet: false };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let place =
            error.location().map_or_else(String::new, |at| format!("line {}, column {}: ", at.line(), at.column()));
        match is_secret {
            true => format!("{place}this is not YAML (details are not shown: it contains a secret)"),
            false => format!("{place}{}", words(&error)),
        }
    })?;
    let count = documents.len();
    let read = |(at, document): (usize, Value)| {
        let which = if count == 1 { String::new() } else { format!("document {}: ", at + 1) };
        object(document).map_err(|why| format!("{which}{why}"))
    };
    let manifests: Vec<Manifest> = documents.into_iter().enumerate().map(read).collect::<Result<_, _>>()?;
    if manifests.is_empty() {
        return Err("it contains no object".to_owned());
    }
    Ok(manifests)
}

/// The error without its place, which precedes it.
fn words(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    match text.split_once(" at line ") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

fn object(document: Value) -> Result<Manifest, String> {
    let Value::Object(mut content) = document else {
        return Err("an object is a map with `apiVersion` and `kind`".to_owned());
    };
    let text = |map: &Map<String, Value>, field: &str, name: &str| match map.get(field) {
        Some(Value::String(text)) if !text.is_empty() && !text.contains(|c: char| c.is_control() || c == ' ') => {
            Ok(text.clone())
        }
        Some(_) => Err(format!("`{name}` must be a text without blanks; put a number or `on` in quotes")),
        None => Err(format!("`{name}` is missing")),
    };
    let part = |map: &Map<String, Value>, field: &str, name: &str| {
        let text = text(map, field, name)?;
        match text.contains(['/', '%']) || matches!(text.as_str(), "." | "..") {
            true => Err(format!("`{name}` can't be `{text}`")),
            false => Ok(text),
        }
    };
    let api_version = text(&content, "apiVersion", "apiVersion")?;
    let kind = part(&content, "kind", "kind")?;
    if kind == "List" {
        return Err("a List has no name: write its items as separate documents, with `---` between them".to_owned());
    }
    if api_version.split('/').any(str::is_empty) || api_version.split('/').count() > 2 {
        return Err("`apiVersion` is `VERSION` or `GROUP/VERSION`, like `v1` or `apps/v1`".to_owned());
    }
    let Some(Value::Object(metadata)) = content.get_mut("metadata") else {
        return Err("`metadata` is missing".to_owned());
    };
    let name = part(metadata, "name", "metadata.name")?;
    let namespace = match metadata.get("namespace") {
        None | Some(Value::Null) => None,
        Some(_) => Some(part(metadata, "namespace", "metadata.namespace")?),
    };
    // generators write it, but the API server sets it
    if metadata.get("creationTimestamp").is_some_and(Value::is_null) {
        metadata.shift_remove("creationTimestamp");
    }
    // the cluster's, not the role's
    content.shift_remove("status");
    if api_version == "v1" && kind == "Secret" {
        encode(&mut content)?;
    }
    Ok(Manifest { name: Name { api_version, kind, namespace, name }, content: Value::Object(content) })
}

/// Moves a Secret's `stringData` to `data`, as the API server does.
fn encode(content: &mut Map<String, Value>) -> Result<(), String> {
    let Some(plain) = content.shift_remove("stringData") else { return Ok(()) };
    let Value::Object(plain) = plain else { return Err("`stringData` must be a map".to_owned()) };
    let data = content.entry("data").or_insert_with(|| Value::Object(Map::new()));
    if data.is_null() {
        *data = Value::Object(Map::new());
    }
    let Value::Object(data) = data else { return Err("`data` must be a map".to_owned()) };
    for (name, value) in plain {
        let Value::String(text) = value else { return Err(format!("`stringData.{name}` must be a text")) };
        data.insert(name, Value::String(BASE64_STANDARD.encode(text)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(text: &str) -> Manifest {
        let mut all = read(text, false).unwrap();
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    fn refusal(text: &str) -> String {
        read(text, false).unwrap_err()
    }

    #[test]
    fn every_document_of_a_text_is_an_object_and_empty_ones_are_none() {
        let text = "---\n# nothing\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n\
                    apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: b, namespace: a}\n---\n";
        let names: Vec<Name> = read(text, false).unwrap().into_iter().map(|manifest| manifest.name).collect();
        let name = |api_version: &str, kind: &str, namespace: Option<&str>, name: &str| Name {
            api_version: api_version.into(),
            kind: kind.into(),
            namespace: namespace.map(Into::into),
            name: name.into(),
        };
        assert_eq!(names, [name("v1", "Namespace", None, "a"), name("apps/v1", "Deployment", Some("a"), "b")]);
        assert_eq!(one(r#"{"apiVersion": "v1", "kind": "X", "metadata": {"name": "a"}}"#).name.kind, "X");
    }

    #[test]
    fn values_are_read_as_kubectl_reads_them() {
        let text = "apiVersion: v1\nkind: X\nmetadata: {name: a}\nmode: 0644\nat: 0o17\non: yes\ntext: \"yes\"\nhalf: .5\n\
                    big: 9007199254740993\nnone: ~\nlines: |\n  a\n  b\nversion: 1.20\n";
        let content = one(text).content;
        assert_eq!(content["mode"], json!(420));
        assert_eq!((&content["text"], &content["half"]), (&json!("yes"), &json!(0.5)));
        assert_eq!((&content["big"], &content["none"]), (&json!(9_007_199_254_740_993_i64), &json!(null)));
        assert_eq!((&content["lines"], &content["version"]), (&json!("a\nb\n"), &json!(1.2)));
        assert_eq!(content.get("true").or(content.get("on")), Some(&json!(true)));
    }

    #[test]
    fn what_the_api_server_alone_decides_about_is_left_out() {
        let text = "apiVersion: v1\nkind: X\nmetadata: {name: a, creationTimestamp: null}\nstatus: {x: 1}\n";
        assert_eq!(one(text).content, json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "a"}}));
    }

    #[test]
    fn a_secret_s_plain_texts_become_what_the_api_server_shows() {
        for (plain, encoded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("ÿ>?\u{10ffff}", "w78+P/SPv78=")]
        {
            let plain =
                json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "stringData": {"x": plain}});
            assert_eq!(one(&plain.to_string()).content["data"], json!({"x": encoded}));
        }
    }

    #[test]
    fn an_error_has_its_line_and_column() {
        let why = refusal("apiVersion: v1\nkind: [X\nmetadata: {}\n");
        assert!(why.starts_with("line 3, column "), "{why}");
        let why = refusal("apiVersion: v1\nkind: X\nkind: Y\n");
        assert!(why.starts_with("line 3, column 1: ") && why.contains("kind"), "{why}");
        let why = read("a: hunter2\nhunter2\n", true).unwrap_err();
        assert!(why.starts_with("line 2, column ") && !why.contains("hunter2"), "{why}");
    }

    #[test]
    fn an_object_without_a_name_is_refused() {
        assert_eq!(refusal("# nothing\n"), "it contains no object");
        assert_eq!(refusal("- a\n"), "an object is a map with `apiVersion` and `kind`");
        assert_eq!(refusal("apiVersion: v1\nkind: X\n"), "`metadata` is missing");
        assert_eq!(refusal("apiVersion: v1\nkind: X\nmetadata: {}\n"), "`metadata.name` is missing");
        assert_eq!(
            refusal("apiVersion: v1\nkind: X\nmetadata: {name: 1}\n"),
            "`metadata.name` must be a text without blanks; put a number or `on` in quotes"
        );
        assert_eq!(refusal("apiVersion: v1\nkind: X\nmetadata: {name: ../a}\n"), "`metadata.name` can't be `../a`");
        let two = "apiVersion: v1\nkind: X\nmetadata: {name: a}\n---\nkind: X\n";
        assert_eq!(refusal(two), "document 2: `apiVersion` is missing");
    }
}
