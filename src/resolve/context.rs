//! What a template sees: variables in their layers, the hosts of the site, facts. Each is looked up when it is asked
//! for, so that a host pays for nothing that its roles don't use.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Object, Serde, Value};
use minijinja::{Environment, ErrorKind};
use serde_json::Value as Json;

use crate::document::{Doc, Path, foreign};
use crate::error::{Error, Place, Result, code, nearest};
use crate::resolve::all::Views;
use crate::resolve::asked::{Asked, Origin};
use crate::resolve::facts::Facts;
use crate::secret::{Secret, SecretStore, lock};
use crate::site::{RESERVED, Role, Site, Type};
use crate::template::{depth, expression, filters, functions, merge};
use crate::text::around;

/// Everything that a host's templates can see.
pub struct TemplateContext {
    /// The site.
    pub site: Arc<Site>,
    /// The host that is resolved.
    pub host: String,
    facts: Value,
    env: Environment<'static>,
    /// The first thing that went wrong in a variable; the template engine can't carry it.
    failed: Mutex<Option<Error>>,
    /// Variables that are being rendered, to notice a circle.
    rendering: Mutex<Vec<String>>,
    rendered: Mutex<HashMap<Var, Rendered>>,
    /// What hosts see of one another, when several are resolved together.
    views: Option<Arc<Views>>,
    asked: Arc<Asked>,
}

/// A variable's value, and whether a secret is in it.
#[derive(Clone)]
struct Rendered {
    value: Value,
    is_secret: bool,
}

/// Which variable: the host, the role (or the site) and the name.
pub(super) type Var = (String, Option<String>, String);

/// A [`Var`], to look for one without making it.
trait VarName {
    fn parts(&self) -> (&str, Option<&str>, &str);
}

impl VarName for Var {
    fn parts(&self) -> (&str, Option<&str>, &str) {
        (&self.0, self.1.as_deref(), &self.2)
    }
}

impl VarName for (&str, Option<&str>, &str) {
    fn parts(&self) -> (&str, Option<&str>, &str) {
        *self
    }
}

impl<'a> Borrow<dyn VarName + 'a> for Var {
    fn borrow(&self) -> &(dyn VarName + 'a) {
        self
    }
}

impl PartialEq for dyn VarName + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn VarName + '_ {}

impl Hash for dyn VarName + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

/// How deep variables may need one another; with the depth of templates it has to fit into a thread's stack.
const DEPTH: usize = 32;

impl std::fmt::Debug for TemplateContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("site", &self.site.name).field("host", &self.host).finish_non_exhaustive()
    }
}

/// One layer of variables: where in which file, and what to call it.
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

/// The layers that decide about variables of `role` (or of the site, without one) for `host`, weakest first.
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
    /// The value at `way` below the layer's table, as it is written.
    pub fn get(&self, way: &[String]) -> Option<&Json> {
        self.path.iter().chain(way).try_fold(self.doc.value(), |value, key| value.get(key))
    }

    /// Where the value at `way` below the layer's table is, if it is there.
    pub fn place(&self, way: &[String]) -> Option<Place> {
        self.get(way)?;
        Some(self.doc.place(&[self.path.as_slice(), way].concat()))
    }
}

impl TemplateContext {
    /// The world of one host.
    pub fn new(site: Arc<Site>, host: &str, facts: &Facts, secrets: &SecretStore) -> Arc<Self> {
        Self::among(site, host, facts, secrets, None)
    }

    /// The world of one host of several, which have the same `views`.
    pub(super) fn among(
        site: Arc<Site>,
        host: &str,
        facts: &Facts,
        secrets: &SecretStore,
        views: Option<&Arc<Views>>,
    ) -> Arc<Self> {
        let mut env = expression::language();
        // a block on a line of its own leaves no line behind; the default delimiters always go together
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
        env.set_path_join_callback(|name, parent| match parent.rsplit_once("/templates/") {
            Some((role, _)) => format!("{role}/templates/{name}").into(),
            None => name.into(),
        });
        let asked = Arc::new(Asked::new(&site, host, secrets));
        let asks = asked.clone();
        env.add_function("secret", move |name: String| asks.text(&name));
        let asks = asked.clone();
        env.add_function("pki_file", move |name: String| asks.pki_file(&name));
        Arc::new(Self {
            asked,
            site,
            host: host.to_owned(),
            facts: Value::from(Serde(facts)),
            env,
            failed: Mutex::default(),
            rendering: Mutex::default(),
            rendered: Mutex::default(),
            views: views.cloned(),
        })
    }

    /// The layers that decide about variables of `role` (or of the site, without one) for `host`, weakest first.
    pub fn layers(&self, host: &str, role: Option<&str>) -> Vec<Layer<'_>> {
        layers(&self.site, host, role)
    }

    /// A variable's value as written, merged over its layers, with the place of the layer that decides; `None` when
    /// no layer sets it.
    pub fn layered(&self, host: &str, role: Option<&str>, name: &str) -> Option<(Json, Place)> {
        let way = [name.to_owned()];
        let mut merged: Option<(Json, Place)> = None;
        for layer in self.layers(host, role) {
            let (Some(value), Some(place)) = (layer.get(&way), layer.place(&way)) else { continue };
            let value = match merged.take() {
                Some((below, _)) => merge(below, value),
                None => value.clone(),
            };
            merged = Some((value, place));
        }
        merged
    }

    /// Why the last variable could not be made, if one could not.
    pub fn take_failure(&self) -> Option<Error> {
        lock(&self.failed).take()
    }

    /// Forgets why something could not be made that need not be.
    pub fn forget_failures(&self) {
        drop((self.take_failure(), self.asked.take_failure()));
    }

    /// A secret of the host, as it is.
    pub fn secret(&self, name: &str) -> Result<Secret> {
        self.asked.get(name)
    }

    /// Grows whenever a secret is asked for, or a variable that has one in it: whatever was rendered in between has a
    /// secret in it.
    pub fn times_asked(&self) -> usize {
        self.asked.times()
    }

    /// The names of all secrets that were asked for.
    pub fn secrets(&self) -> BTreeSet<String> {
        self.asked.names()
    }

    /// Whether secrets are read, and not only named.
    pub fn is_open(&self) -> bool {
        self.asked.is_open()
    }

    /// Whether secrets, and certificates, may still be missing.
    pub fn may_lack(&self) -> bool {
        self.asked.may_lack()
    }

    /// The name of a secret that was asked for and can be read, or is named as such, in `text`.
    pub fn secret_in(&self, text: &str) -> Option<String> {
        self.asked.found_in(text)
    }

    /// The variables of `role` for `host`, rendered; what `{{ name }}` is there.
    pub fn variable(self: &Arc<Self>, host: &str, role: Option<&str>, name: &str) -> Option<Value> {
        if let Some(known) = lock(&self.rendered).get(&(host, role, name) as &dyn VarName) {
            self.asked.again(known.is_secret);
            return Some(known.value.clone());
        }
        let var: Var = (host.to_owned(), role.map(str::to_owned), name.to_owned());
        // only a host's own world knows its facts
        let views = self.views.as_ref().filter(|_| host != self.host);
        if let Some(value) = views.and_then(|views| views.get(&var)) {
            lock(&self.rendered).insert(var, Rendered { value: value.clone(), is_secret: false });
            return Some(value);
        }
        let (json, place) = self.layered(host, role, name)?;
        let label = role.map_or_else(|| name.to_owned(), |role| format!("{role}.{name}"));
        let before = self.times_asked();
        let value = self.render_variable(&var, &label, &json, &place);
        let is_secret = self.times_asked() != before;
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
                let circle: Vec<&str> = rendering[start..]
                    .iter()
                    .chain([&entry])
                    .map(|name| name.split(':').next_back().unwrap_or(name))
                    .collect();
                let error = Error::new(
                    code::VARIABLE,
                    format!("variables need each other in a circle: {}", circle.join(" → ")),
                );
                let error = error.at(place.clone(), "this variable needs itself");
                keep_first(&self.failed, error.help("give one of them a value of its own"));
                return Value::from(minijinja::Error::new(ErrorKind::BadInclude, "a circle of variables"));
            }
            if rendering.len() >= DEPTH {
                let error = Error::new(
                    code::TEMPLATE,
                    format!("`{label}` is needed by more than {DEPTH} variables, one through the other"),
                );
                let error = error.at(place.clone(), "this variable");
                keep_first(&self.failed, error.help("set some of them to a value of their own"));
                return Value::from(minijinja::Error::new(ErrorKind::BadInclude, "variables need each other too deep"));
            }
            rendering.push(entry);
        }
        let scope = self.scope(&var.0, var.1.as_deref(), None);
        let layers = self.layers(&var.0, var.1.as_deref());
        let place_of = |way: &[String]| {
            let way = [std::slice::from_ref(&var.2), way].concat();
            layers.iter().rev().find_map(|layer| layer.place(&way)).unwrap_or_else(|| place.clone())
        };
        let is_of_host = |way: &[String]| {
            let way = [std::slice::from_ref(&var.2), way].concat();
            layers.last().is_some_and(|layer| layer.is_of_host && layer.get(&way).is_some())
        };
        // of most variables a host says nothing
        let may_be_of_host = is_of_host(&[]);
        let lines = may_be_of_host && self.may_have_lines(var.1.as_deref(), &var.2);
        let of_role = self.asked.origin_for(&var.0);
        let origin = |way: &[String]| match may_be_of_host && is_of_host(way) {
            true => Origin::HostVars { lines },
            false => of_role,
        };
        let value = self.value_at(json, &scope, &place_of, &origin, &mut Vec::new());
        lock(&self.rendering).pop();
        value.unwrap_or_else(|error| {
            keep_first(&self.failed, error);
            Value::from(minijinja::Error::new(
                ErrorKind::InvalidOperation,
                format!("the variable `{label}` can't be made"),
            ))
        })
    }

    /// Whether a role says of a variable (of its own, or of the site) that it may have several lines.
    fn may_have_lines(&self, role: Option<&str>, name: &str) -> bool {
        let says_so = |one: &Role| one.types.get(name) == Some(&Type::Lines);
        match role {
            Some(role) => self.site.roles.get(role).is_some_and(says_so),
            None => self.site.roles.values().any(|one| !one.declares(name) && says_so(one)),
        }
    }

    /// What a template of `role` on `host` sees; `item` is what `for_each` is at.
    pub fn scope(self: &Arc<Self>, host: &str, role: Option<&str>, item: Option<Value>) -> Value {
        Value::from_object(Scope { world: self.clone(), host: host.to_owned(), role: role.map(str::to_owned), item })
    }

    /// A host, as an entry of `hosts`.
    fn host_value(self: &Arc<Self>, name: &str) -> Value {
        Value::from_object(HostObject { world: self.clone(), name: name.to_owned() })
    }

    /// Renders every string in `json`; a string that is one `{{ expression }}` becomes the expression's value, with
    /// its type. `place` tells where the value on a way below `json` is written.
    pub fn value(&self, json: &Json, scope: &Value, place: &dyn Fn(&[String]) -> Place) -> Result<Value> {
        self.value_at(json, scope, place, &|_| Origin::Site, &mut Vec::new())
    }

    fn value_at(
        &self,
        json: &Json,
        scope: &Value,
        place: &dyn Fn(&[String]) -> Place,
        origin: &dyn Fn(&[String]) -> Origin,
        way: &mut Path,
    ) -> Result<Value> {
        let string = |text: &str, way: &[String]| {
            let origin = origin(way);
            let value = match is_template(text) {
                true => self.asked.within(origin, || self.string(text, scope, || place(way)))?,
                false => Value::from(text),
            };
            self.asked.check_line(origin, &value, || place(way)).map(|()| value)
        };
        Ok(match json {
            Json::String(text) => string(text, way)?,
            Json::Array(items) => {
                // lists replace one another whole
                let whole = origin(way);
                let origin = |_: &[String]| whole;
                let mut values = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    way.push(index.to_string());
                    values.push(self.value_at(item, scope, place, &origin, way)?);
                    way.pop();
                }
                Value::from(values)
            }
            Json::Object(map) => {
                let mut values = Vec::with_capacity(map.len());
                for (key, item) in map {
                    way.push(key.clone());
                    let name = string(key, way)?.to_string();
                    values.push((name, self.value_at(item, scope, place, origin, way)?));
                    way.pop();
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
        // most are rendered once: the engine keeps only those that others include
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

    /// Turns the template engine's error into one of ours. `source` is the text that it was given, which is at `place`.
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
        let range = error.range().map(|range| expression::written(source, range));
        let words = range.clone().and_then(|range| source.get(range)).unwrap_or(source);
        // a value in a TOML file: if it stands there as it is, the error's own place inside it can be shown
        let shown = place.text.get(place.span.clone()).unwrap_or_default();
        if let (Some(range), Some(offset)) = (range, if place.span.is_empty() { Some(0) } else { shown.find(source) }) {
            place.span = place.span.start + offset + range.start..place.span.start + offset + range.end;
        } else if place.span.is_empty()
            && let Some(line) = error.line()
        {
            let start: usize = source.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
            place.span = start..start;
        }
        if let Some(inner) = self.asked.take_failure() {
            return inner.at(place, "asked for here");
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
            let result = Error::new(code::VARIABLE, format!("`{name}` is not defined")).at(place, "not defined");
            if let Some(advice) = foreign::in_templates(name.split('.').next().unwrap_or(name)) {
                return result.help(advice);
            }
            return match self.suggest(name, scope) {
                Some(near) => result.help(format!("did you mean `{near}`?")),
                None => result.help(
                    "a role declares its variables under [vars], or under `required` when a host has to set them",
                ),
            };
        }
        let what = match place.file.contains("/templates/") {
            true => "the template can't be rendered",
            false => "the value can't be made",
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
                .help("is there a loop that is longer than it was meant to be?");
        }
        let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
        // `filter NAME is unknown`, `NAME is unknown`, `string has no method named NAME`
        let name = detail.strip_suffix(" is unknown").unwrap_or(&detail).rsplit(' ').next().unwrap_or_default();
        let near = match error.kind() {
            ErrorKind::UnknownFilter => nearest(name, functions::FILTERS.iter().copied().chain(filters::names())),
            ErrorKind::UnknownFunction => nearest(name, functions::FUNCTIONS.iter().copied()),
            ErrorKind::UnknownTest => nearest(name, functions::TESTS.iter().copied()),
            ErrorKind::UnknownMethod => nearest(name, filters::METHODS.iter().copied()),
            _ => {
                let result = Error::new(code::TEMPLATE, what).because(&detail).at(place, "here");
                return match depth::advice(&detail) {
                    Some(advice) => result.help(advice),
                    None => result,
                };
            }
        };
        let advice = foreign::in_templates(name).map(str::to_owned);
        let result = Error::new(code::TEMPLATE, what).because(&detail).at(place, "here");
        match advice.or_else(|| near.map(|near| format!("did you mean `{near}`?"))) {
            Some(help) => result.help(help),
            None => result,
        }
    }

    /// The names of all templates of the role that the template `file` belongs to.
    fn templates_beside(&self, file: &str) -> Vec<String> {
        let Some((role, _)) = file.split_once("/templates/") else { return Vec::new() };
        let prefix = format!("{role}/templates/");
        self.site.files.iter().filter_map(|(path, _)| path.strip_prefix(&prefix)).map(str::to_owned).collect()
    }

    /// The name in an expression that nothing defines; `None` when that can't be told, as with the names of a loop.
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
        let scope = scope.downcast_object_ref::<Scope>()?;
        let names_of = |role: &str| -> Vec<&str> {
            self.site.roles.get(role).map(|role| role.names().collect()).unwrap_or_default()
        };
        let globals = self
            .site
            .doc
            .value()
            .get("vars")
            .and_then(Json::as_object)
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str());
        let own = scope.role.as_deref().map(names_of).unwrap_or_default();
        let known = own
            .into_iter()
            .chain(globals)
            .chain(self.site.roles.keys().map(String::as_str))
            .chain(RESERVED.iter().copied());
        nearest(name, known).map(str::to_owned)
    }
}

/// What went wrong in an included template, for an error that only says that something did.
fn included(error: &minijinja::Error) -> &minijinja::Error {
    let mut error = error;
    while error.kind() == ErrorKind::BadInclude
        && let Some(inner) = std::error::Error::source(error).and_then(|inner| inner.downcast_ref())
    {
        error = inner;
    }
    error
}

/// Where `word` stands in a text, and not as a part of a longer word.
fn find_word(text: &str, word: &str) -> Option<usize> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let is_whole = |(before, behind): &(&str, &str)| {
        !before.ends_with(|c: char| is_part(c) || c == '.') && !behind.starts_with(is_part)
    };
    let (before, _) = around(text, word).find(is_whole)?;
    Some(before.len())
}

/// Whether there is anything to render in a value.
pub fn is_template(text: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|mark| text.contains(mark))
}

/// `text` without its braces, when it is nothing but one expression: a blank or a line break around it makes it a text.
fn whole_expression(text: &str) -> Option<&str> {
    let inner = text.strip_prefix("{{")?.strip_suffix("}}")?;
    let inner = inner.strip_prefix('-').unwrap_or(inner);
    let inner = inner.strip_suffix('-').unwrap_or(inner);
    (!inner.contains("{{") && !inner.contains("}}") && !inner.contains("{%")).then_some(inner.trim())
}

/// Keeps the first failure.
fn keep_first(failed: &Mutex<Option<Error>>, error: Error) {
    lock(failed).get_or_insert(error);
}

/// What a template sees by name.
#[derive(Debug)]
struct Scope {
    world: Arc<TemplateContext>,
    host: String,
    role: Option<String>,
    item: Option<Value>,
}

impl Object for Scope {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str()?;
        let world = &self.world;
        match name {
            "item" => return self.item.clone(),
            "host" => return Some(world.host_value(&self.host)),
            "hosts" => return Some(world.site.hosts.keys().map(|name| world.host_value(name)).collect()),
            "facts" if self.host == world.host => return Some(world.facts.clone()),
            "facts" => {
                let why = format!("the facts of another host ({}) are not known here", self.host);
                return Some(Value::from(minijinja::Error::new(ErrorKind::InvalidOperation, why)));
            }
            "artifacts" => {
                let versions = world.site.artifacts.iter().map(|(name, artifact)| {
                    (name.clone(), Value::from_pairs([("version", Value::from(artifact.version.clone()))]))
                });
                return Some(Value::from_pairs(versions));
            }
            _ => {}
        }
        if let Some(role) = &self.role
            && let Some(value) = world.variable(&self.host, Some(role), name)
        {
            return Some(value);
        }
        if world.site.roles.contains_key(name) {
            return Some(Value::from_object(RoleObject {
                world: world.clone(),
                host: self.host.clone(),
                role: name.to_owned(),
            }));
        }
        world.variable(&self.host, None, name)
    }
}

/// The variables of a role for a host: `etcd.client_port`.
#[derive(Debug)]
struct RoleObject {
    world: Arc<TemplateContext>,
    host: String,
    role: String,
}

impl Object for RoleObject {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.world.variable(&self.host, Some(&self.role), key.as_str()?)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let role = self.world.site.roles.get(&self.role);
        Enumerator::Values(role.into_iter().flat_map(|role| role.names()).map(Value::from).collect())
    }
}

/// The hosts of a list that have `name` among their `attribute`.
fn having(hosts: Vec<Value>, attribute: &str, name: &str) -> std::result::Result<Vec<Value>, minijinja::Error> {
    let mut found = Vec::new();
    for host in hosts {
        if let Some(one) = host.downcast_object_ref::<HostObject>() {
            if one.has(attribute, name) {
                found.push(host);
            }
            continue;
        }
        let has = host.get_attr(attribute)?;
        if has.is_undefined() {
            return Err(functions::invalid("this goes with a list of hosts: `hosts | with_role(\"etcd\")`"));
        }
        if has.try_iter()?.any(|entry| entry.as_str() == Some(name)) {
            found.push(host);
        }
    }
    Ok(found)
}

/// A host of the site: `name`, `address`, `groups`, `roles`, `vars.ROLE.NAME`.
#[derive(Debug)]
pub(super) struct HostObject {
    world: Arc<TemplateContext>,
    name: String,
}

impl HostObject {
    /// Whether its `groups` or `roles` have this name.
    pub(super) fn has(&self, list: &str, name: &str) -> bool {
        let Some(host) = self.world.site.hosts.get(&self.name) else { return false };
        let names = if list == "groups" { &host.groups } else { &host.roles };
        names.iter().any(|one| one == name)
    }
}

impl Object for HostObject {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let host = self.world.site.hosts.get(&self.name)?;
        Some(match key.as_str()? {
            "name" => Value::from(self.name.clone()),
            "address" => Value::from(host.address.to_string()),
            "groups" => host.groups.iter().cloned().collect(),
            "roles" => host.roles.iter().cloned().collect(),
            "vars" => self.world.scope(&self.name, None, None),
            _ => return None,
        })
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&["name", "address", "groups", "roles", "vars"])
    }
}

#[cfg(test)]
mod tests {
    use crate::document::Files;
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
        resolve(&site, "h", &facts, &SecretStore::sealed())
            .map(|catalog| catalog.items.len())
            .map_err(|error| error.to_string())
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
        let told = resolved(&chain(32, "{{ NEXT }}{{ NEXT }}"), "{{ v1 }}").unwrap_err();
        assert!(told.contains("64 MiB of text"), "{told}");
        let told = resolved("", "{% set x = 'x' * 99999999 %}{{ x }}").unwrap_err();
        assert!(told.contains("64 MiB of text"), "{told}");
    }

    #[test]
    fn variables_and_macros_lead_as_deep_as_allowed_and_no_deeper() {
        let deep = "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{% else %}{{ NEXT }}{% endif %}{% endmacro %}{{ m(24) }}";
        assert_eq!(resolved(&chain(32, deep), "{{ v1 }}"), Ok(1), "the stack is large enough");
        assert_eq!(
            resolved(&chain(33, "{{ NEXT }}"), "{{ v1 }}").unwrap_err(),
            "`r.v33` is needed by more than 32 variables, one through the other"
        );
        let told = resolved("", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").unwrap_err();
        assert_eq!(told, "the template can't be rendered: recursion limit exceeded");
    }
}
