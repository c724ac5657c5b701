//! Examples of roles for `kpull test`: with these variables and facts, a host has these resources.

use std::net::{IpAddr, Ipv4Addr};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::author::prelude::*;
use crate::document::Path;
use crate::kind;
use crate::resolve::{Shown, show};

/// `roles/NAME/tests/EXAMPLE.toml`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExampleFile {
    /// What the example shows, in a sentence.
    #[allow(dead_code, reason = "it is for readers")]
    summary: String,
    /// The host to inspect. Default: the first by name.
    host: Option<String>,
    /// As `[vars]` in `site.toml`: variables of the site, and tables of variables of roles.
    #[serde(default)]
    vars: Map<String, Value>,
    /// As `[groups]` in `site.toml`.
    #[serde(default)]
    groups: Map<String, Value>,
    /// As `[pki]` in `site.toml`. Everything that `kpull pki init` creates is assumed to exist.
    #[serde(default)]
    pki: Map<String, Value>,
    /// Hosts by name, each as in its file in `host_vars/`. Default: one host with the role, `h1` at 192.0.2.1.
    #[serde(default)]
    hosts: BTreeMap<String, Value>,
    /// Facts of the inspected host, instead of those that `kpull check` assumes.
    #[serde(default)]
    facts: Map<String, Value>,
    /// Resources that the host must have, by kind, with the fields that matter, as roles write them. `contains` and `lacks` are lists of
    /// texts that must and must not be in the content.
    #[serde(default)]
    expect: Expected,
    /// Resources that the host must not have, by kind.
    #[serde(default)]
    without: Expected,
}

type Expected = BTreeMap<String, Vec<Map<String, Value>>>;

/// One example of a role.
pub struct Example {
    role: String,
    doc: Doc,
    file: ExampleFile,
}

/// The paths of a role's examples in a site.
pub fn paths(files: &Files, role: &str) -> Vec<String> {
    let names = files.children(&format!("roles/{role}/tests"));
    let paths = names.iter().filter(|name| name.ends_with(".toml"));
    paths.map(|name| format!("roles/{role}/tests/{name}")).collect()
}

impl Example {
    /// Reads the example of `role` at a path in a site.
    pub fn load(files: &Files, role: &str, path: &str) -> Result<Self> {
        let doc = files.doc(path)?.ok_or_else(|| error!(EDIT, "there is no {path}"))?;
        let file: ExampleFile = doc.read()?;
        for (table, expected) in [("expect", &file.expect), ("without", &file.without)] {
            if let Some(name) = expected.keys().find(|name| kind::find(name).is_none()) {
                let at = [table.to_owned(), name.clone()];
                return Err(doc.unknown(&at, kind::KINDS.iter().map(|kind| kind.name)));
            }
        }
        if file.expect.is_empty() && file.without.is_empty() {
            return Err(error!(EDIT, "{path} has no expectations")
                .help("add [[expect.KIND]] with some fields of a resource, or [[without.KIND]]"));
        }
        Ok(Self { role: role.to_owned(), doc, file })
    }

    /// Tests the role; returns the number of expectations. All that are not met are reported together.
    pub fn run(&self, files: &Files) -> Result<usize> {
        let mut errors = Vec::new();
        let shown = self.shown(files).map_err(|error| self.ours(error))?;
        for (kind, index, wanted) in each(&self.file.expect) {
            errors.extend(self.missing(&shown, kind, index, wanted));
        }
        for (kind, index, wanted) in each(&self.file.without) {
            if let Some(found) = of(&shown, kind).find(|one| differences(one, wanted).is_empty()) {
                let at = ["without".to_owned(), kind.to_owned(), index.to_string()];
                let error = error!(EDIT, "a {kind} matches that must not exist: {}", found.ids.join(", "));
                let help = format!("it is from {}", found.place);
                errors.push(error.at(self.doc.place(&at), "must not exist").help(help));
            }
        }
        Error::check(errors)?;
        Ok(each(&self.file.expect).chain(each(&self.file.without)).count())
    }

    /// The resources of the host, in a site with the roles and pins of `files` and the settings of the example.
    fn shown(&self, files: &Files) -> Result<Vec<Shown>> {
        let file = &self.file;
        let roles = files.iter().filter(|(path, _)| path.starts_with("roles/") || *path == "artifacts.toml");
        let mut site: Files = roles.map(|(path, bytes)| (path.to_owned(), bytes.clone())).collect();
        let own = json!({ "name": "example", "vars": file.vars, "groups": file.groups, "pki": file.pki });
        let mut made = vec![("site.toml".to_owned(), own)];
        let one = || BTreeMap::from([("h1".to_owned(), json!({ "address": FIRST, "roles": [self.role] }))]);
        let hosts = if file.hosts.is_empty() { one() } else { file.hosts.clone() };
        made.extend(hosts.iter().map(|(name, vars)| (format!("host_vars/{name}.toml"), vars.clone())));
        for (path, value) in made {
            let text = toml::to_string(&value)
                .map_err(|error| error!(EDIT, "the example can't be converted to a site").because(error))?;
            site.extend([(path, text.into_bytes().into())]);
        }
        site.extend(file.pki.keys().flat_map(|name| as_if_made(name)));
        let site = Arc::new(Site::load(site)?);
        let name = file.host.as_ref().or(hosts.keys().next()).map_or("h1", String::as_str);
        let address = site.find_host(name)?.address;
        let facts = Facts::assumed(name, address, None)?.with(&self.doc, &["facts".to_owned()], &file.facts)?;
        Ok(show(&site, name, &facts, &SecretStore::expected(), &Arc::default())?.1)
    }

    /// Moves an error about the generated site to its place in the example.
    fn ours(&self, error: Error) -> Error {
        let moved = |error: Error| {
            let Some(at) = error.place().and_then(|place| match place.file.as_str() {
                "site.toml" => Some(vec!["vars".to_owned()]),
                file => {
                    let host = file.strip_prefix("host_vars/")?.strip_suffix(".toml")?;
                    Some(vec!["hosts".to_owned(), host.to_owned()])
                }
            }) else {
                return error;
            };
            let label = error.label().unwrap_or("here").to_owned();
            error.at(self.doc.place(&at), label)
        };
        Error::all(error.each().map(moved).collect())
            .unwrap_or_else(|| error!(EDIT, "the example can't be converted to a site"))
    }

    /// The error if none of the host's resources matches.
    fn missing(&self, shown: &[Shown], kind: &str, index: usize, wanted: &Map<String, Value>) -> Option<Error> {
        let at = |field: Option<&str>| {
            let way = ["expect", kind].map(str::to_owned).into_iter().chain([index.to_string()]);
            self.doc.place(&way.chain(field.map(str::to_owned)).collect::<Path>())
        };
        let judged = of(shown, kind).map(|one| (differences(one, wanted), one));
        let Some((differ, nearest)) = judged.min_by_key(|(differ, _)| differ.len()) else {
            return Some(
                error!(EDIT, "the host has no {kind} at all").at(at(None), format!("this {kind} was expected")),
            );
        };
        let (field, _) = differ.first()?;
        let lines: Vec<&str> = differ.iter().map(|(_, line)| line.as_str()).collect();
        Some(
            error!(EDIT, "no {kind} has the expected fields")
                .because(format!("the nearest is {} ({})", nearest.ids.join(", "), nearest.place))
                .at(at(Some(field)), "not so")
                .help(lines.join("\n")),
        )
    }
}

/// The stand-in for certificates, which examples don't have.
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

/// An address for documentation.
const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Stand-ins for what `kpull pki init` creates for an authority or key pair: certificates and public keys.
pub(crate) fn as_if_made(name: &str) -> [(String, Arc<[u8]>); 2] {
    ["pem", "pub"].map(|end| (format!("pki/{name}.{end}"), CERTIFICATE.into()))
}

fn each(expected: &Expected) -> impl Iterator<Item = (&str, usize, &Map<String, Value>)> {
    expected
        .iter()
        .flat_map(|(kind, list)| list.iter().enumerate().map(move |(index, one)| (kind.as_str(), index, one)))
}

fn of<'a>(shown: &'a [Shown], kind: &str) -> impl Iterator<Item = &'a Shown> {
    shown.iter().filter(move |one| one.kind == kind)
}

/// The fields that differ from the expectation, each with what was expected and what is.
fn differences<'a>(one: &Shown, wanted: &'a Map<String, Value>) -> Vec<(&'a str, String)> {
    let mut found = Vec::new();
    for (field, value) in wanted {
        let different = |wanted: &str, is: &str| (field.as_str(), format!("{field}:\n- {wanted}\n+ {is}"));
        match (field.as_str(), value) {
            ("contains", Value::Array(texts)) => {
                for text in texts.iter().filter_map(Value::as_str).filter(|text| !has(one, text)) {
                    let lines = texts_of(one).flat_map(str::lines).map(str::trim);
                    found.push(different(text, nearest(text.trim(), lines).unwrap_or("(nothing alike)")));
                }
            }
            ("lacks", Value::Array(texts)) => {
                for text in texts.iter().filter_map(Value::as_str).filter(|text| has(one, text)) {
                    found.push(different("(not there)", text));
                }
            }
            (name, wanted) => match one.fields.get(name) {
                Some(is) if is_part(wanted, is) => {}
                Some(is) => found.push(different(&wanted.to_string(), &is.to_string())),
                None => found.push(different(&wanted.to_string(), "(left out)")),
            },
        }
    }
    found
}

fn has(one: &Shown, text: &str) -> bool {
    texts_of(one).any(|whole| whole.contains(text))
}

/// The texts that it writes: rendered templates, files, contents.
fn texts_of(one: &Shown) -> impl Iterator<Item = &str> {
    let content = one.fields.get("content").and_then(Value::as_str);
    one.parts.iter().map(|(_, text)| text.as_str()).chain(content)
}

/// Whether a value matches; a table can have more entries.
fn is_part(wanted: &Value, is: &Value) -> bool {
    match (wanted, is) {
        (Value::Object(wanted), Value::Object(is)) => {
            wanted.iter().all(|(key, value)| is.get(key).is_some_and(|is| is_part(value, is)))
        }
        (wanted, is) => wanted == is,
    }
}
