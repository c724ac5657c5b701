//! What a template sees: variables in their layers, the hosts of the site, facts. Each is looked up on demand, so that a
//! host pays only for what its roles use.

mod scope;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind};
use serde_json::Value as Json;

use self::scope::{FactsObject, HostObject, Scope, having};
use crate::document::{Doc, Path, foreign};
use crate::error::{Error, Place, Result, code, error, nearest};
use crate::resolve::facts::Facts;
use crate::resolve::secrets::{HostSecrets, TextLayer};
use crate::resolve::views::{Var, Views};
use crate::secret::{SecretStore, lock};
use crate::site::{RESERVED, Role, Site, Type};
use crate::template::{depth, expression, filters, functions, merge};
use crate::text::around;

/// Everything that a host's templates can see.
pub struct TemplateContext {
    /// The site.
    pub site: Arc<Site>,
    /// The host that is resolved.
    pub host: String,
    pub(super) facts: Value,
    env: Environment<'static>,
    /// The first error of a variable; the template engine can't carry it.
    failed: Mutex<Option<Error>>,
    /// Variables that are being rendered, to detect a circle.
    rendering: Mutex<Vec<String>>,
    rendered: Mutex<HashMap<Var, Rendered>>,
    /// What hosts see of one another, if several are resolved together.
    views: Option<Arc<Views>>,
    /// The secrets of the host.
    pub(super) secrets: Arc<HostSecrets>,
}

/// A variable's value, and whether it contains a secret.
#[derive(Clone)]
struct Rendered {
    value: Value,
    is_secret: bool,
}

/// How deep variables may depend on one another; with the depth of templates it must fit into a thread's stack.
const DEPTH: usize = 32;

impl std::fmt::Debug for TemplateContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TemplateContext")
            .field("site", &self.site.name)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// A layer of variables: its file, the table in it, and its name.
pub struct Layer<'a> {
    /// `role etcd`, `site`, `group masters`, `host master1`.
    pub name: String,
    /// The file.
    pub doc: &'a Doc,
    /// The table in it.
    pub path: Path,
    /// Whether it is the host's own file.
    pub is_of_host: bool,
}

/// The directory of the role that a file of the site belongs to: `roles/NAME`.
fn role_of(file: &str) -> Option<&str> {
    let (end, _) = file.match_indices('/').nth(1)?;
    file.get(..end).filter(|role| role.starts_with("roles/"))
}

/// The layers of variables of `role` (or of the site) for `host`, weakest first.
pub fn layers<'a>(site: &'a Site, host: &str, role: Option<&str>) -> Vec<Layer<'a>> {
    let mut layers = Vec::new();
    let vars = |role: Option<&str>| -> Path { ["vars"].into_iter().chain(role).map(str::to_owned).collect() };
    if let Some(role) = role.and_then(|role| site.roles.get(role)) {
        layers.push(Layer { name: format!("role {}", role.name), doc: &role.doc, path: vars(None), is_of_host: false });
    }
    layers.push(Layer { name: "site".into(), doc: &site.doc, path: vars(role), is_of_host: false });
    if let Some(found) = site.hosts.get(host) {
        for group in &found.groups {
            let path = ["groups".to_owned(), group.clone()].into_iter().chain(vars(role)).collect();
            layers.push(Layer { name: format!("group {group}"), doc: &site.doc, path, is_of_host: false });
        }
        layers.push(Layer { name: format!("host {host}"), doc: &found.doc, path: vars(role), is_of_host: true });
    }
    layers
}

impl Layer<'_> {
    /// The value at `keys` below the layer's table, unrendered.
    pub fn get(&self, keys: &[String]) -> Option<&Json> {
        self.path.iter().chain(keys).try_fold(self.doc.value(), |value, key| value.get(key))
    }

    /// The place of the value at `keys` below the layer's table, if it exists.
    pub fn place(&self, keys: &[String]) -> Option<Place> {
        self.get(keys)?;
        Some(self.doc.place(&[self.path.as_slice(), keys].concat()))
    }
}

impl TemplateContext {
    /// The context of a host, which shares `views` with others that are resolved together with it.
    pub fn new(
        site: Arc<Site>,
        host: &str,
        facts: &Facts,
        secrets: &SecretStore,
        views: Option<&Arc<Views>>,
    ) -> Arc<Self> {
        let mut env = expression::language();
        // a block on a line of its own leaves no empty line; the default delimiters never conflict
        if let Ok(syntax) =
            SyntaxConfig::builder().keep_trailing_newline(true).trim_blocks(true).lstrip_blocks(true).build()
        {
            env.set_syntax(syntax);
        }
        env.add_filter("with_role", |hosts: Vec<Value>, role: String| having(hosts, "roles", &role));
        env.add_filter("in_group", |hosts: Vec<Value>, group: String| having(hosts, "groups", &group));
        let files = site.files.clone();
        env.set_loader(move |name| match files.get(name) {
            Some(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => expression::checked_template(text).map(|text| Some(text.into_owned())),
                Err(_) => Err(minijinja::Error::new(ErrorKind::InvalidOperation, "not UTF-8 text")),
            },
            None => Ok(None),
        });
        // an include names a template of the same role
        env.set_path_join_callback(|name, parent| match role_of(parent) {
            Some(role) => format!("{role}/templates/{name}").into(),
            None => name.into(),
        });
        let secrets = Arc::new(HostSecrets::new(&site, host, secrets));
        let of_host = secrets.clone();
        env.add_function("secret", move |name: String| of_host.text(&name));
        let of_host = secrets.clone();
        env.add_function("pki_file", move |name: String| of_host.pki_file(&name));
        let facts = depth::looked_up(FactsObject::new(facts.with_defaults(&site, host)));
        Arc::new(Self {
            secrets,
            site,
            host: host.to_owned(),
            facts,
            env,
            failed: Mutex::default(),
            rendering: Mutex::default(),
            rendered: Mutex::default(),
            views: views.cloned(),
        })
    }

    /// A variable's unrendered value, merged over its layers, with the place of the strongest layer; `None` if no layer
    /// sets it.
    pub fn layered(&self, host: &str, role: Option<&str>, name: &str) -> Option<(Json, Place)> {
        let keys = [name.to_owned()];
        let mut merged: Option<(Json, Place)> = None;
        for layer in layers(&self.site, host, role) {
            let (Some(value), Some(place)) = (layer.get(&keys), layer.place(&keys)) else { continue };
            let value = match merged.take() {
                Some((below, _)) => merge(below, value),
                None => value.clone(),
            };
            merged = Some((value, place));
        }
        merged
    }

    /// The names of the facts that templates looked up on demand.
    pub(super) fn used_facts(&self) -> BTreeSet<String> {
        depth::as_lookup::<FactsObject>(&self.facts).map(FactsObject::used).unwrap_or_default()
    }

    /// Takes the error of the last variable that could not be rendered.
    pub fn take_failure(&self) -> Option<Error> {
        lock(&self.failed).take()
    }

    /// Discards errors of something optional.
    pub fn forget_failures(&self) {
        drop((self.take_failure(), self.secrets.take_failure()));
    }

    /// A rendered variable of `role` for `host`: the value of `{{ name }}`.
    pub fn variable(self: &Arc<Self>, host: &str, role: Option<&str>, name: &str) -> Option<Value> {
        let var: Var = (host.to_owned(), role.map(str::to_owned), name.to_owned());
        if let Some(known) = lock(&self.rendered).get(&var) {
            self.secrets.request_again(known.is_secret);
            return Some(known.value.clone());
        }
        // only a host's own context has its facts
        let views = self.views.as_ref().filter(|_| host != self.host);
        if let Some(value) = views.and_then(|views| views.get(&var)) {
            lock(&self.rendered).insert(var, Rendered { value: value.clone(), is_secret: false });
            return Some(value);
        }
        let (json, place) = self.layered(host, role, name)?;
        let label = role.map_or_else(|| name.to_owned(), |role| format!("{role}.{name}"));
        let before = self.secrets.times_requested();
        let value = self.render_variable(&var, &label, &json, &place);
        let is_secret = self.secrets.times_requested() != before;
        if let Some(views) = views.filter(|_| !is_secret) {
            views.keep(&var, &value);
        }
        lock(&self.rendered).insert(var, Rendered { value: value.clone(), is_secret });
        Some(value)
    }

    fn render_variable(self: &Arc<Self>, var: &Var, label: &str, json: &Json, place: &Place) -> Value {
        let entry = format!("{}:{label}", var.0);
        {
            let mut rendering = lock(&self.rendering);
            if let Some(start) = rendering.iter().position(|known| *known == entry) {
                let names = rendering[start..].iter().chain([&entry]);
                let names: Vec<&str> = names.map(|name| name.split(':').next_back().unwrap_or(name)).collect();
                let what = format!("variables depend on each other in a circle: {}", names.join(" → "));
                let error = Error::new(code::VARIABLE, what).at(place.clone(), "this variable depends on itself");
                return self.fail(error.help("set one of them to a value without variables"), "a circle of variables");
            }
            if rendering.len() >= DEPTH {
                let what = format!("`{label}` is at the end of a chain of more than {DEPTH} variables");
                let error = Error::new(code::TEMPLATE, what).at(place.clone(), "this variable");
                return self
                    .fail(error.help("set some of them to a value without variables"), "variables nest too deep");
            }
            rendering.push(entry);
        }
        let scope = self.scope(&var.0, var.1.as_deref(), None);
        let layers = layers(&self.site, &var.0, var.1.as_deref());
        let full = |keys: &[String]| [std::slice::from_ref(&var.2), keys].concat();
        let place_of = |keys: &[String]| {
            layers.iter().rev().find_map(|layer| layer.place(&full(keys))).unwrap_or_else(|| place.clone())
        };
        let is_of_host =
            |keys: &[String]| layers.last().is_some_and(|layer| layer.is_of_host && layer.get(&full(keys)).is_some());
        // hosts set few variables
        let may_be_of_host = is_of_host(&[]);
        let lines = may_be_of_host && self.may_have_lines(var.1.as_deref(), &var.2);
        let of_role = self.secrets.layer_for(&var.0);
        let origin = |keys: &[String]| match may_be_of_host && is_of_host(keys) {
            true => TextLayer::HostVars { lines },
            false => of_role,
        };
        let value = self.value_at(json, &scope, &place_of, &origin, &mut Vec::new());
        lock(&self.rendering).pop();
        value.unwrap_or_else(|error| self.fail(error, format!("the variable `{label}` can't be computed")))
    }

    /// Keeps the first error, and returns the value that makes the template engine fail.
    fn fail(&self, error: Error, why: impl Into<Cow<'static, str>>) -> Value {
        lock(&self.failed).get_or_insert(error);
        Value::from(minijinja::Error::new(ErrorKind::InvalidOperation, why))
    }

    /// Whether a role declares that a variable (its own, or the site's) may have several lines.
    fn may_have_lines(&self, role: Option<&str>, name: &str) -> bool {
        let says_so = |one: &Role| one.types.get(name).is_some_and(|definition| definition.0.kind == Type::Lines);
        match role {
            Some(role) => self.site.roles.get(role).is_some_and(says_so),
            None => self.site.roles.values().any(|one| !one.declares(name) && says_so(one)),
        }
    }

    /// What a template of `role` on `host` sees; `item` is the current item of `for_each`.
    pub fn scope(self: &Arc<Self>, host: &str, role: Option<&str>, item: Option<Value>) -> Value {
        depth::looked_up(Scope { context: self.clone(), host: host.to_owned(), role: role.map(str::to_owned), item })
    }

    /// A host, as an entry of `hosts`.
    pub(super) fn host_value(self: &Arc<Self>, name: &str) -> Value {
        depth::looked_up(HostObject { context: self.clone(), name: name.to_owned() })
    }

    /// Renders every string in `json`; a string that is one `{{ expression }}` becomes the expression's value, with
    /// its type. `place` returns the place of the value at some keys below `json`.
    pub fn value(&self, json: &Json, scope: &Value, place: &dyn Fn(&[String]) -> Place) -> Result<Value> {
        self.value_at(json, scope, place, &|_| TextLayer::Site, &mut Vec::new())
    }

    fn value_at(
        &self,
        json: &Json,
        scope: &Value,
        place: &dyn Fn(&[String]) -> Place,
        origin: &dyn Fn(&[String]) -> TextLayer,
        keys: &mut Path,
    ) -> Result<Value> {
        let string = |text: &str, keys: &[String]| {
            let origin = origin(keys);
            let value = match is_template(text) {
                true => self.secrets.within(origin, || self.string(text, scope, || place(keys)))?,
                false => Value::from(text),
            };
            self.secrets.check_line(origin, &value, || place(keys)).map(|()| value)
        };
        Ok(match json {
            Json::String(text) => string(text, keys)?,
            Json::Array(items) => {
                // a list comes from one layer
                let whole = origin(keys);
                let origin = |_: &[String]| whole;
                let mut values = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    keys.push(index.to_string());
                    values.push(self.value_at(item, scope, place, &origin, keys)?);
                    keys.pop();
                }
                Value::from(values)
            }
            Json::Object(map) => {
                let mut values = Vec::with_capacity(map.len());
                for (key, item) in map {
                    keys.push(key.clone());
                    let name = string(key, keys)?.to_string();
                    values.push((name, self.value_at(item, scope, place, origin, keys)?));
                    keys.pop();
                }
                Value::from_pairs(values)
            }
            other => Value::from(Serde(other)),
        })
    }

    fn string(&self, text: &str, scope: &Value, place: impl FnOnce() -> Place) -> Result<Value> {
        let result = match whole_expression(text) {
            Some(expression) => return self.expression(expression, scope, place),
            None => expression::checked_template(text)
                .and_then(|text| self.env.render_named_str("", &text, scope.clone()).map(Value::from)),
        };
        result.map_err(|error| self.explain(error, text, scope, place()))
    }

    /// The value of an expression, as in `when` and `for_each`.
    pub fn expression(&self, text: &str, scope: &Value, place: impl FnOnce() -> Place) -> Result<Value> {
        let compiled = expression::checked(text).and_then(|text| self.env.compile_expression(text));
        let evaluated =
            compiled.and_then(|expression| expression.eval(scope.clone())).and_then(|value| depth::checked(&value));
        let value = match evaluated {
            Ok(value) if !value.is_undefined() => return Ok(value),
            Ok(_) => Err(minijinja::Error::from(ErrorKind::UndefinedError)),
            Err(error) => Err(error),
        };
        value.map_err(|error| self.explain(error, text, scope, place()))
    }

    /// A template file of the site, rendered.
    pub fn file(&self, path: &str, scope: &Value) -> Result<String> {
        // most templates are rendered once: the engine caches only those that others include
        let template = match self.text_of(path) {
            Some(text) => expression::checked_template(text)
                .and_then(|text| self.env.render_named_str(path, &text, scope.clone())),
            None => self.env.get_template(path).and_then(|template| template.render(scope.clone())),
        };
        template.map_err(|error| {
            let text: Arc<str> = self.text_of(path).unwrap_or_default().into();
            self.explain(error, &text.clone(), scope, Place { file: path.to_owned(), text, span: 0..0 })
        })
    }

    fn text_of(&self, path: &str) -> Option<&str> {
        std::str::from_utf8(self.site.files.get(path)?).ok()
    }

    /// Converts an error of the template engine. `source` is the text at `place`.
    fn explain(&self, error: minijinja::Error, source: &str, scope: &Value, mut place: Place) -> Error {
        if let Some(inner) = lock(&self.failed).take() {
            return inner;
        }
        let error = included(&error);
        let included = error.name().filter(|name| !name.is_empty() && *name != place.file).and_then(|name| {
            let text = self.text_of(name)?;
            place = Place { file: name.to_owned(), text: text.into(), span: 0..0 };
            Some(text)
        });
        let source = included.unwrap_or(source);
        let range = error.range().map(|range| expression::range_as_written(source, range));
        let words = range.clone().and_then(|range| source.get(range)).unwrap_or(source);
        // a value in a TOML file: if it is there verbatim, the error can point into it
        let shown = place.text.get(place.span.clone()).unwrap_or_default();
        if let (Some(range), Some(offset)) = (range, if place.span.is_empty() { Some(0) } else { shown.find(source) }) {
            place.span = place.span.start + offset + range.start..place.span.start + offset + range.end;
        } else if place.span.is_empty()
            && let Some(line) = error.line()
        {
            let start: usize = source.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
            place.span = start..start;
        }
        if let Some(inner) = self.secrets.take_failure() {
            return inner.at(place, "used here");
        }
        if error.kind() == ErrorKind::UndefinedError {
            let mut name = words.trim().trim_start_matches("{{").trim_end_matches("}}").trim().to_owned();
            if let Some(found) = self.undefined_in(&name, scope) {
                let within = place.text.get(place.span.clone()).and_then(|shown| find_word(shown, &found));
                if let Some(at) = within {
                    place.span = place.span.start + at..place.span.start + at + found.len();
                }
                name = found;
            }
            let name = name.as_str();
            let result = error!(VARIABLE, "`{name}` is not defined").at(place, "not defined");
            if let Some(advice) = foreign::in_templates(name.split('.').next().unwrap_or(name)) {
                return result.help(advice);
            }
            return match self.suggest(name, scope) {
                Some(near) => result.help(format!("did you mean `{near}`?")),
                None if name.starts_with("item.") => {
                    result.help(format!("if an item may lack it, write `{name} is defined` or `{name} | default(…)`"))
                }
                None => result
                    .help("a role declares its variables under [vars], or under `required` if a host must set them"),
            };
        }
        let what = match ["/templates/", "/files/"].iter().any(|dir| place.file.contains(dir)) {
            true => "the template can't be rendered",
            false => "the value can't be computed",
        };
        if error.kind() == ErrorKind::TemplateNotFound {
            let name = error.detail().and_then(|detail| detail.split(['"', '\'']).nth(1)).unwrap_or_default();
            let templates = self.templates_beside(&place.file);
            let result = Error::new(code::TEMPLATE, what)
                .because(format!("there is no template `{name}` in the role"))
                .at(place, "not there");
            return result.help_nearest(
                name,
                templates.iter().map(String::as_str),
                "an include names a file below the role's templates/",
            );
        }
        if error.kind() == ErrorKind::OutOfFuel {
            return Error::new(code::TEMPLATE, what)
                .because(expression::too_long())
                .at(place, "here")
                .help("check its loops: one may be longer than intended");
        }
        let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
        // `filter NAME is unknown`, `NAME is unknown`, `string has no method named NAME`
        let name = detail.strip_suffix(" is unknown").unwrap_or(&detail).rsplit(' ').next().unwrap_or_default();
        let near = |known: &mut dyn Iterator<Item = &'static str>| {
            let foreign = foreign::in_templates(name).map(str::to_owned);
            foreign.or_else(|| nearest(name, known).map(|near| format!("did you mean `{near}`?")))
        };
        let help = match error.kind() {
            ErrorKind::UnknownFilter => near(&mut functions::FILTERS.split(' ').chain(filters::names())),
            ErrorKind::UnknownFunction => near(&mut functions::FUNCTIONS.iter().copied()),
            ErrorKind::UnknownTest => near(&mut functions::TESTS.split(' ')),
            ErrorKind::UnknownMethod => near(&mut filters::METHODS.split(' ')),
            _ => depth::advice(&detail).map(str::to_owned),
        };
        let result = Error::new(code::TEMPLATE, what).because(&detail).at(place, "here");
        match help {
            Some(help) => result.help(help),
            None => result,
        }
    }

    /// The names of all templates in the role of the template `file`.
    fn templates_beside(&self, file: &str) -> Vec<String> {
        let Some(role) = role_of(file) else { return Vec::new() };
        let prefix = format!("{role}/templates/");
        self.site.files.iter().filter_map(|(path, _)| path.strip_prefix(&prefix)).map(str::to_owned).collect()
    }

    /// The undefined name in an expression; `None` if it is not known, like the names of a loop.
    fn undefined_in(&self, expression: &str, scope: &Value) -> Option<String> {
        let names = self.env.compile_expression(expression).ok()?.undeclared_variables(true);
        let is_undefined = |name: &String| match self.env.compile_expression(name).map(|name| name.eval(scope.clone()))
        {
            Ok(Ok(value)) => value.is_undefined(),
            Ok(Err(error)) => error.kind() == ErrorKind::UndefinedError,
            Err(_) => false,
        };
        let mut undefined = names.into_iter().filter(is_undefined);
        let name = undefined.next()?;
        undefined.next().is_none().then_some(name)
    }

    fn suggest(&self, name: &str, scope: &Value) -> Option<String> {
        if let Some((whole, part)) = name.rsplit_once('.') {
            let whole_value = self.env.compile_expression(whole).and_then(|found| found.eval(scope.clone())).ok()?;
            let names: Vec<String> = whole_value.try_iter().ok()?.map(|key| key.to_string()).collect();
            return nearest(part, names.iter().map(String::as_str)).map(|near| format!("{whole}.{near}"));
        }
        let scope = depth::as_lookup::<Scope>(scope)?;
        let names_of = |role: &str| -> Vec<&str> {
            self.site.roles.get(role).map(|role| role.names().collect()).unwrap_or_default()
        };
        let own = scope.role.as_deref().map(names_of).unwrap_or_default();
        let known = own
            .into_iter()
            .chain(self.site.variables())
            .chain(self.site.roles.keys().map(String::as_str))
            .chain(RESERVED.iter().copied());
        nearest(name, known).map(str::to_owned)
    }
}

/// The error of an included template, for one that only says that including failed.
fn included(error: &minijinja::Error) -> &minijinja::Error {
    let mut error = error;
    while error.kind() == ErrorKind::BadInclude
        && let Some(inner) = std::error::Error::source(error).and_then(|inner| inner.downcast_ref())
    {
        error = inner;
    }
    error
}

/// The position of `word` in a text, as a whole word.
fn find_word(text: &str, word: &str) -> Option<usize> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let is_whole = |(before, behind): &(&str, &str)| {
        !before.ends_with(|c: char| is_part(c) || c == '.') && !behind.starts_with(is_part)
    };
    let (before, _) = around(text, word).find(is_whole)?;
    Some(before.len())
}

/// Whether a value contains template syntax.
pub fn is_template(text: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|delimiter| text.contains(delimiter))
}

/// The expression in `text`, if that is a single `{{ expression }}` without text around it.
pub(super) fn whole_expression(text: &str) -> Option<&str> {
    let inner = text.strip_prefix("{{")?.strip_suffix("}}")?;
    let inner = inner.strip_prefix('-').unwrap_or(inner);
    let inner = inner.strip_suffix('-').unwrap_or(inner);
    (!inner.contains("{{") && !inner.contains("}}") && !inner.contains("{%")).then_some(inner.trim())
}

#[cfg(test)]
mod tests {
    use crate::document::Files;
    use crate::resolve::testing::catalog;
    use crate::resolve::{Facts, resolve};
    use crate::secret::SecretStore;
    use crate::site::Site;

    /// What resolving a host says, whose role has these variables and a file with this content.
    fn resolved(vars: &str, content: &str) -> Result<usize, String> {
        let role = format!("summary = \"x\"\n[[template]]\npath = \"/a\"\ntemplate = \"t\"\n[vars]\n{vars}");
        let files: Files = [
            ("site.toml", "name = \"x\""),
            ("host_vars/h.toml", "address = \"10.0.0.1\"\nroles = [\"r\"]"),
            ("roles/r/role.toml", &role),
            ("roles/r/templates/t", content),
        ]
        .into_iter()
        .map(|(path, text)| (path.to_owned(), text.as_bytes().into()))
        .collect();
        let site = Site::load(files).unwrap().into();
        let facts = Facts::assumed("h", [10, 0, 0, 1].into(), None).unwrap();
        resolve(&site, "h", &facts, &SecretStore::encrypted())
            .map(|catalog| catalog.items.len())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn each_use_of_a_variable_that_can_not_be_made_names_it() {
        let file = |path: &str| format!("[[file]]\npath = '{path}'\ncontent = '{{{{ v }}}}'\n");
        let role = format!("{}{}[vars]\nv = '{{{{ nope }}}}'\n", file("/a"), file("/b"));
        let errors: Vec<String> = catalog(&role).unwrap_err().each().map(|error| error.to_string()).collect();
        let second = "the value can't be computed: the variable `r.v` can't be computed";
        assert_eq!(errors, ["`nope` is not defined", second]);
    }

    /// `v1` to `vN`, each made of the next by `text`, in which `NEXT` stands for its name.
    fn chain(length: usize, text: &str) -> String {
        let line = |number: usize| format!("v{number} = '{}'\n", text.replace("NEXT", &format!("v{}", number + 1)));
        (1..length).map(line).chain([format!("v{length} = 'x'\n")]).collect()
    }

    #[test]
    fn a_loop_without_a_reasonable_end_is_refused() {
        let each = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        assert_eq!(
            resolved("", each).unwrap_err(),
            "the template can't be rendered: it takes more than 1048576 steps, or makes more than 64 MiB of text"
        );
        assert_eq!(resolved("", "{% for a in range(9999) %}{{ a }}{% endfor %}"), Ok(1));
    }

    #[test]
    fn text_that_doubles_and_doubles_is_refused_before_it_fills_the_memory() {
        let reported = resolved(&chain(32, "{{ NEXT }}{{ NEXT }}"), "{{ v1 }}").unwrap_err();
        assert!(reported.contains("64 MiB of text"), "{reported}");
        let reported = resolved("", "{% set x = 'x' * 99999999 %}{{ x }}").unwrap_err();
        assert!(reported.contains("64 MiB of text"), "{reported}");
    }

    #[test]
    fn variables_and_macros_nest_as_deep_as_allowed_and_no_deeper() {
        let deep = "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{% else %}{{ NEXT }}{% endif %}{% endmacro %}{{ m(24) }}";
        assert_eq!(resolved(&chain(32, deep), "{{ v1 }}"), Ok(1), "the stack is large enough");
        assert_eq!(
            resolved(&chain(33, "{{ NEXT }}"), "{{ v1 }}").unwrap_err(),
            "`r.v33` is at the end of a chain of more than 32 variables"
        );
        let reported = resolved("", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").unwrap_err();
        assert_eq!(reported, "the template can't be rendered: recursion limit exceeded");
    }
}
