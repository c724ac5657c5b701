//! JSON Schemas of the TOML files, for editors, generated from the types that read the files.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::author::example::ExampleFile;
use crate::author::vendor;
use crate::config::Config;
use crate::document::ArtifactFile;
use crate::kind::{KINDS, Kind};
use crate::resolve::Facts;
use crate::site::{Common, Head, HostFile, SiteFile};

/// A kind of file, and its schema.
#[derive(Debug)]
pub struct FileKind {
    /// Its name for `kpull schema`.
    pub name: &'static str,
    /// The files of a site, as a glob; `None` for files of hosts.
    pub glob: Option<&'static str>,
    make: fn(&mut SchemaGenerator) -> Value,
}

/// All kinds of files.
pub const FILES: &[FileKind] = &[
    FileKind { name: "site", glob: Some("site.toml"), make: of::<SiteFile> },
    FileKind { name: "role", glob: Some("roles/*/role.toml"), make: role },
    FileKind { name: "host", glob: Some("host_vars/*.toml"), make: of::<HostFile> },
    FileKind { name: "artifacts", glob: Some("artifacts.toml"), make: tables::<ArtifactFile> },
    FileKind { name: "test", glob: Some("roles/*/tests/*.toml"), make: example },
    FileKind { name: "facts", glob: Some("facts/*.toml"), make: of::<Facts> },
    FileKind { name: "vendor", glob: Some(vendor::FILE), make: tables::<vendor::UpstreamFile> },
    FileKind { name: "kpull", glob: None, make: of::<Config> },
];

impl FileKind {
    /// Its JSON Schema (draft 7, which editors support).
    pub fn schema(&self) -> Value {
        let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
        let mut schema = (self.make)(&mut settings.into_generator());
        if let Some(map) = schema.as_object_mut() {
            map.insert("$schema".into(), "http://json-schema.org/draft-07/schema#".into());
            map.insert("title".into(), format!("{} of kpull", self.name).into());
        }
        plain(&mut schema);
        schema
    }
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    T::json_schema(generator).to_value()
}

/// The schema of a file of tables with any names.
fn tables<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    json!({ "type": "object", "additionalProperties": of::<T>(generator) })
}

fn role(generator: &mut SchemaGenerator) -> Value {
    let mut schema = of::<Head>(generator);
    let mut common = properties(of::<Common>(generator));
    for name in ["after", "needs", "notify"] {
        common.get_mut(name).into_iter().for_each(templated);
    }
    for kind in KINDS {
        let mut fields = (kind.schema)(generator).to_value();
        plain(&mut fields);
        let described = fields.as_object_mut().and_then(|fields| fields.remove("description"));
        if let Some(own) = fields.get_mut("properties").and_then(Value::as_object_mut) {
            own.values_mut().for_each(templated);
            own.extend(common.clone());
        }
        let mut list = json!({ "type": "array", "items": fields });
        if let (Some(list), Some(described)) = (list.as_object_mut(), described) {
            list.insert("description".into(), described);
        }
        if let Some(all) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            all.insert(kind.name.to_owned(), list);
        }
    }
    schema
}

/// The schema of examples: resources by kind, with any of their fields, all optional.
fn example(generator: &mut SchemaGenerator) -> Value {
    let mut schema = of::<ExampleFile>(generator);
    let texts = json!({ "type": "array", "items": { "type": "string" } });
    let kind = |kind: &Kind| {
        let mut fields = properties((kind.schema)(generator).to_value());
        fields.extend(["contains", "lacks"].map(|name| (name.to_owned(), texts.clone())));
        let entry = json!({ "type": "object", "additionalProperties": false, "properties": fields });
        (kind.name.to_owned(), json!({ "type": "array", "items": entry }))
    };
    let kinds: Map<String, Value> = KINDS.iter().map(kind).collect();
    for table in ["expect", "without"] {
        if let Some(table) = schema.pointer_mut(&format!("/properties/{table}")).and_then(Value::as_object_mut) {
            table.insert("properties".into(), Value::Object(kinds.clone()));
            table.insert("additionalProperties".into(), false.into());
        }
    }
    schema
}

fn properties(mut schema: Value) -> Map<String, Value> {
    match schema.get_mut("properties").map(Value::take) {
        Some(Value::Object(properties)) => properties,
        _ => Map::new(),
    }
}

/// Allows strings with an expression in place of values of any type, at every depth: their type is only known once a host is
/// resolved.
fn templated(schema: &mut Value) {
    inside(schema);
    let Some(map) = schema.as_object_mut() else { return };
    if map.get("type").is_some_and(|of| of == "string") && !map.contains_key("enum") {
        return;
    }
    let (mut outer, mut inner) = (Map::new(), std::mem::take(map));
    for key in ["description", "default"] {
        outer.extend(inner.remove(key).map(|value| (key.to_owned(), value)));
    }
    outer.insert("anyOf".into(), json!([inner, { "type": "string", "pattern": r"\{\{|\{%" }]));
    *map = outer;
}

/// [`templated`] for the parts of a value.
fn inside(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for key in ["items", "additionalProperties"] {
        map.get_mut(key).into_iter().for_each(templated);
    }
    for own in map.get_mut("properties").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        templated(own);
    }
    for list in ["anyOf", "oneOf"] {
        map.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().for_each(inside);
    }
}

/// Removes `null`, which TOML lacks.
fn plain(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Array(of)) = map.get_mut("type") {
                of.retain(|one| one != "null");
                if let [one] = &of[..] {
                    let one = one.clone();
                    map.insert("type".into(), one);
                }
            }
            for list in ["anyOf", "oneOf", "enum"] {
                if let Some(Value::Array(of)) = map.get_mut(list) {
                    of.retain(|one| !one.is_null() && one.get("type").is_none_or(|of| of != "null"));
                }
            }
            if map.get("default").is_some_and(Value::is_null) {
                map.remove("default");
            }
            map.values_mut().for_each(plain);
            // a single choice
            if let Some([Value::Object(one)]) = map.get("anyOf").and_then(Value::as_array).map(Vec::as_slice) {
                let one = one.clone();
                map.remove("anyOf");
                for (key, value) in one {
                    map.entry(key).or_insert(value);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(plain),
        _ => {}
    }
}

/// The configuration of Taplo (and VS Code's "Even Better TOML") for the schemas below `schemas/`.
pub fn taplo() -> String {
    let rule = |kind: &FileKind| {
        let glob = kind.glob?;
        Some(format!("\n[[rule]]\ninclude = [\"{glob}\"]\n[rule.schema]\npath = \"schemas/{}.json\"\n", kind.name))
    };
    let rules: String = FILES.iter().filter_map(rule).collect();
    format!("# For editors: `kpull schema --write schemas` creates these files.\n{rules}")
}

/// The text of a schema file.
pub fn text(schema: &Value) -> String {
    format!("{schema:#}\n")
}
