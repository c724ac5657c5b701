//! `roles/NAME/role.toml`: a named set of resources with default variables.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::document::fields::names_of;
use crate::document::{Doc, Files, Path, utf8};
use crate::error::{Error, Result, code, error, keep};
use crate::kind;
use crate::site::checked::{Assert, CustomFact, Definition, Rules};
use crate::site::{RESERVED, reserved};

/// A role.
#[derive(Debug)]
pub struct Role {
    /// Its name: that of its directory.
    pub name: String,
    /// `role.toml`.
    pub doc: Doc,
    /// Its purpose, in a sentence.
    pub summary: String,
    /// Roles that come before it on a host.
    pub requires: Vec<String>,
    /// Variables that a site, group or host has to set.
    pub required: Vec<String>,
    /// Variables with a default.
    pub vars: Map<String, Value>,
    /// Types of variables, its own and the site's.
    pub types: BTreeMap<String, Definition>,
    /// Custom facts that it reads, by name.
    pub facts: BTreeMap<String, CustomFact>,
    /// Its assertions.
    pub asserts: Vec<Assert>,
    /// Its resources, in the order of the file.
    pub entries: Vec<Entry>,
}

/// One `[[KIND]]` of a role, as written.
#[derive(Debug)]
pub struct Entry {
    /// The kind's name.
    pub kind: &'static kind::Kind,
    /// Where it is in `role.toml`.
    pub path: Path,
    /// The kind's own fields.
    pub fields: Value,
    /// The condition under which it exists.
    pub when: Option<String>,
    /// The list that it exists for each item of: a text is an expression.
    pub for_each: Option<Value>,
    /// Ids of resources that come before it: a list of texts, or an expression.
    pub after: Value,
    /// Ids of resources that come before it, on whichever host of the site they are.
    pub needs: Value,
    /// What its change triggers: `restart:UNIT`, `reload:UNIT`, `run:COMMAND`.
    pub notify: Value,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Head {
    /// The purpose of the role, in a sentence.
    summary: String,
    /// Roles that a host with this role also has, before this one.
    #[serde(default)]
    requires: Vec<String>,
    /// Variables that a site, group or host must set.
    #[serde(default)]
    required: Vec<String>,
    /// Variables with a default.
    #[serde(default)]
    vars: Map<String, Value>,
    /// Types of the role's and the site's variables.
    #[serde(default)]
    types: BTreeMap<String, Definition>,
    /// Custom facts that it reads, by name.
    #[serde(default)]
    facts: BTreeMap<String, CustomFact>,
    /// Conditions that variables must meet.
    #[serde(default)]
    assert: Vec<Assert>,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Common {
    /// An expression: the resource exists only where it is true.
    when: Option<String>,
    /// A list or a table, or an expression whose result is one: the resource exists once for each `item`.
    for_each: Option<Loop>,
    /// Ids of resources that kpull applies before this one; `*` stands for any text.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    after: Names,
    /// Ids of resources, on any host of the site, that this resource depends on; `*` stands for any text.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    needs: Names,
    /// Actions that a change of the resource triggers: `restart:UNIT`, `reload:UNIT`, `run:COMMAND`; `*` stands for any text.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    notify: Names,
}

/// What `for_each` can be.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "write a list, a table, or a text with an expression whose result is a list or table")]
enum Loop {
    Expression(String),
    List(Vec<Value>),
    Table(Map<String, Value>),
}

/// A list of ids, or one expression that is such a list.
#[derive(Deserialize)]
#[serde(try_from = "Value")]
struct Names(Value);

impl Default for Names {
    fn default() -> Self {
        Self(Value::Array(Vec::new()))
    }
}

impl TryFrom<Value> for Names {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        let is_right = match &value {
            Value::Array(list) => list.iter().all(Value::is_string),
            Value::String(text) => text.contains("{{"),
            _ => false,
        };
        is_right
            .then_some(Self(value))
            .ok_or("write a list of texts, or one `{{ expression }}` whose result is such a list")
    }
}

/// The fields that every kind has.
const COMMON: &[&str] = &["when", "for_each", "after", "needs", "notify"];

/// The keys of the tables of a role.
fn tables(path: &[String]) -> &'static [&'static str] {
    match path {
        [] => names_of::<Head>(),
        [name, _] if name == "assert" => names_of::<Assert>(),
        [name, _] if name == "types" => names_of::<Rules>(),
        [name, _] if name == "facts" => names_of::<CustomFact>(),
        [name, _] => kind::find(name).map_or(&[], |kind| (kind.fields)()),
        _ => &[],
    }
}

impl Role {
    /// Reads one role of a site.
    pub fn load(files: &Files, name: &str) -> Result<Self> {
        let file = format!("roles/{name}/role.toml");
        let doc = files.doc(&file)?.ok_or_else(|| {
            error!(ROLE, "there is no {file}").help(format!("roles/{name}/ needs a role.toml with a `summary`"))
        })?;
        doc.describe(tables);
        let known_head = names_of::<Head>();
        let mut head = Map::new();
        let mut entries = Vec::new();
        let mut errors = Vec::new();
        for (key, value) in doc.value().as_object().into_iter().flatten() {
            if known_head.contains(&key.as_str()) {
                head.insert(key.clone(), value.clone());
            } else if let Some(kind) = kind::find(key) {
                entries.extend(keep(&mut errors, read_entries(&doc, kind, value)).into_iter().flatten());
            } else {
                let known = known_head.iter().copied().chain(kind::KINDS.iter().map(|kind| kind.name));
                errors.push(doc.unknown(std::slice::from_ref(key), known));
            }
        }
        let head: Head = doc.read_at(&[], Value::Object(head))?;
        for (index, name) in head.required.iter().enumerate().filter(|(_, name)| head.vars.contains_key(*name)) {
            errors.push(
                error!(ROLE, "`{name}` is required, but has a default")
                    .at(doc.place(&["required".to_owned(), index.to_string()]), "no one needs to set this")
                    .help("remove it from `required` or from [vars]"),
            );
        }
        for (variable, definition) in &head.types {
            errors.extend(definition.mistake().map(|(field, why)| {
                let path = ["types".to_owned(), variable.clone(), field.to_owned()];
                error!(ROLE, "`{field}` of `{variable}` can't be used").because(why).at(doc.place(&path), "this value")
            }));
        }
        for (fact, CustomFact { kind, default, .. }) in &head.facts {
            let Some(kind) = kind else { continue };
            let path = |field: &str| ["facts".to_owned(), fact.clone(), field.to_owned()];
            errors.extend(kind.mistake().map(|(field, why)| {
                let what = format!("`{field}` of the custom fact `{fact}` can't be used");
                Error::new(code::ROLE, what).because(why).at(doc.place(&path("type")), "this type")
            }));
            errors.extend(default.as_ref().and_then(|default| kind.refuse(default)).map(|refusal| {
                let what = format!("the default of the custom fact `{fact}` is {}", refusal.what);
                Error::new(code::ROLE, what).at(doc.place(&path("default")), "this value").help(refusal.help)
            }));
        }
        let templates = format!("roles/{name}/templates/");
        for (path, content) in files.iter().filter(|(path, _)| path.starts_with(&templates)) {
            errors.extend(utf8(path, content).err());
        }
        for key in head.vars.keys() {
            let path = ["vars".to_owned(), key.clone()];
            if RESERVED.contains(&key.as_str()) {
                errors.push(reserved(&doc, &path));
            } else if known_head.contains(&key.as_str()) {
                // else what somebody wrote one header too late would be a variable that nobody asks for
                errors.push(doc.unknown(&path, []));
            }
        }
        Error::check(errors)?;
        entries.sort_by_key(|entry| doc.place(&entry.path).span.start);
        let Head { summary, requires, required, vars, types, facts, assert: asserts } = head;
        Ok(Self { name: name.to_owned(), doc, summary, requires, required, vars, types, facts, asserts, entries })
    }

    /// Whether the role has a variable of this name.
    pub fn declares(&self, name: &str) -> bool {
        self.vars.contains_key(name) || self.required.iter().any(|required| required == name)
    }

    /// The names of its variables.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.vars.keys().map(String::as_str).chain(self.required.iter().map(String::as_str))
    }
}

fn read_entries(doc: &Doc, kind: &'static kind::Kind, value: &Value) -> Result<Vec<Entry>> {
    let table = vec![kind.name.to_owned()];
    let Some(list) = value.as_array() else {
        return Err(error!(ROLE, "`{}` must be a list of resources", kind.name)
            .at(doc.key_place(&table), "not a list")
            .help(format!("write [[{}]], with two brackets", kind.name)));
    };
    let known = (kind.fields)();
    let mut entries = Vec::new();
    for (index, value) in list.iter().enumerate() {
        let path = [table.clone(), vec![index.to_string()]].concat();
        let Some(map) = value.as_object() else {
            return Err(error!(ROLE, "an entry of `{}` must be a table", kind.name).at(doc.place(&path), "not a table"));
        };
        if let Some(key) = map.keys().find(|key| !known.contains(&key.as_str()) && !COMMON.contains(&key.as_str())) {
            let path = [path.as_slice(), std::slice::from_ref(key)].concat();
            return Err(doc.unknown(&path, known.iter().chain(COMMON).copied()));
        }
        let (common, fields): (Map<_, _>, Map<_, _>) =
            map.clone().into_iter().partition(|(key, _)| COMMON.contains(&key.as_str()));
        let Common { when, for_each, after, needs, notify } = doc.read_at(&path, Value::Object(common))?;
        let for_each = for_each.map(|form| match form {
            Loop::Expression(text) => text.into(),
            Loop::List(list) => list.into(),
            Loop::Table(map) => map.into(),
        });
        let (after, needs, notify) = (after.0, needs.0, notify.0);
        entries.push(Entry { kind, path, fields: Value::Object(fields), when, for_each, after, needs, notify });
    }
    Ok(entries)
}
