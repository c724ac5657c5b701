//! Texts: quotes, paths, digests, encodings.

use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use md5::Md5;
use minijinja::Error;
use minijinja::value::Value;
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use crate::template::filters::{Call, Filter, invalid, list, text};
use crate::text::{quoted, trailing};

pub(super) const FILTERS: &[Filter] = &[
    ("quote", &[], |call| Ok(Value::from(quoted(&call.input()?)))),
    ("basename", &[], |call| Ok(Value::from(parted(&call.input()?).1))),
    ("dirname", &[], |call| Ok(Value::from(parted(&call.input()?).0))),
    ("splitext", &[], split_extension),
    ("path_join", &[], join_path),
    ("comment", &["style"], comment),
    ("b64encode", &["encoding"], |call| Ok(Value::from(BASE64_STANDARD.encode(call.input()?)))),
    ("b64decode", &["encoding"], decode),
    ("hash", &["hashtype"], |call| digest(call, &call.get("hashtype").map_or(Ok("sha1".to_owned()), text)?)),
    ("checksum", &[], |call| digest(call, "sha1")),
    ("sha1", &[], |call| digest(call, "sha1")),
    ("md5", &[], |call| digest(call, "md5")),
    ("urldecode", &[], |call| Ok(Value::from(decode_url(&call.input()?)))),
    ("bool", &[], |call| Ok(Value::from(truth(&call.value)))),
    ("ternary", &["true_val", "false_val", "none_val"], ternary),
    ("default", DEFAULT, default),
    ("d", DEFAULT, default),
    ("mandatory", &["msg"], |call| Ok(call.value.clone())),
];

const DEFAULT: &[&str] = &["default_value", "boolean"];

/// The directory and the last name of a path.
fn parted(path: &str) -> (&str, &str) {
    let (dir, name) = trailing(path, |c| c != '/');
    match dir.trim_end_matches('/') {
        "" => (dir, name),
        dir => (dir, name),
    }
}

fn split_extension(call: &Call<'_>) -> Result<Value, Error> {
    let path = call.input()?;
    let name = parted(&path).1;
    // a leading dot is no extension
    let hidden = name.len() - name.trim_start_matches('.').len();
    let length = name.get(hidden..).and_then(|shown| shown.rfind('.')).map_or(0, |at| name.len() - hidden - at);
    let (stem, extension) = path.split_at_checked(path.len() - length).unwrap_or((&path, ""));
    Ok(Value::from(vec![Value::from(stem), Value::from(extension)]))
}

fn join_path(call: &Call<'_>) -> Result<Value, Error> {
    let parts = if call.value.as_str().is_some() { vec![call.value.clone()] } else { list(&call.value)? };
    let path = parts.iter().map(text).collect::<Result<PathBuf, Error>>()?;
    Ok(Value::from(path.to_string_lossy()))
}

/// A text as a comment.
fn comment(call: &Call<'_>) -> Result<Value, Error> {
    let (begin, prefix, end) = match call.text("style")?.as_str() {
        "" | "plain" => ("", "# ", ""),
        "erlang" => ("", "% ", ""),
        "c" => ("", "// ", ""),
        "cblock" => ("/*\n", " * ", "\n */"),
        "xml" => ("<!--\n", " - ", "\n-->"),
        other => return Err(invalid(format!("`{other}` is not a style: plain, erlang, c, cblock, xml"))),
    };
    let text = call.input()?;
    let lines: Vec<String> = text.split('\n').map(|line| format!("{prefix}{line}").trim_end().to_owned()).collect();
    let empty = prefix.trim_end();
    Ok(Value::from(format!("{begin}{empty}\n{}\n{empty}{end}", lines.join("\n"))))
}

fn decode(call: &Call<'_>) -> Result<Value, Error> {
    let bytes = BASE64_STANDARD.decode(call.input()?.trim()).map_err(|_| invalid("this is not base64"))?;
    let text = String::from_utf8(bytes).map_err(|_| invalid("what is encoded is not a text: put it into files/"))?;
    Ok(Value::from(text))
}

fn digest(call: &Call<'_>, algorithm: &str) -> Result<Value, Error> {
    fn of<D: Digest>(text: &str) -> String {
        hex::encode(D::digest(text))
    }
    let text = call.input()?;
    Ok(Value::from(match algorithm {
        "md5" => of::<Md5>(&text),
        "sha1" => of::<Sha1>(&text),
        "sha224" => of::<Sha224>(&text),
        "sha256" => of::<Sha256>(&text),
        "sha384" => of::<Sha384>(&text),
        "sha512" => of::<Sha512>(&text),
        other => return Err(invalid(format!("`{other}` is not a digest: md5, sha1, sha224, sha256, sha384, sha512"))),
    }))
}

/// A text with `+` and `%20` as blanks.
fn decode_url(text: &str) -> String {
    percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// Whether a text or a number means true.
fn truth(value: &Value) -> bool {
    match value.as_str() {
        Some(text) => ["yes", "on", "true", "1"].contains(&text.to_lowercase().as_str()),
        None => *value == Value::from(true) || *value == Value::from(1),
    }
}

fn ternary(call: &Call<'_>) -> Result<Value, Error> {
    Ok(match call.get("none_val") {
        Some(none) if call.value.is_none() => none.clone(),
        _ => call.need(if call.value.is_true() { "true_val" } else { "false_val" })?.clone(),
    })
}

fn default(call: &Call<'_>) -> Result<Value, Error> {
    let has_none = call.value.is_undefined() || call.flag("boolean") && !call.value.is_true();
    Ok(match has_none {
        true => call.given.get("default_value").cloned().unwrap_or_else(|| Value::from("")),
        false => call.value.clone(),
    })
}
