//! Resolves a site to the catalog of a host: layers, facts, templates, order.

mod all;
mod assert;
mod claims;
mod context;
pub mod custom;
mod facts;
mod order;
mod references;
mod secrets;
mod share;
mod shown;
#[cfg(test)]
pub mod testing;
mod views;

pub use all::{once, resolve_all};
pub use claims::{Clash, clashes};
use context::whole_expression;
pub use context::{Layer, TemplateContext, is_template, layers};
pub use facts::{Facts, NO_PACKAGE_MANAGER};
pub use order::predecessors;
pub use references::Unmatched;
pub use shown::{Shown, digest};
pub use views::Views;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Arc;

use minijinja::value::{Value, ValueKind};
use serde_json::Value as Json;

use crate::document::{Pin, dotted};
use crate::error::{Error, Place, Result, code, error};
use crate::kind::certificate::CertificateFields;
use crate::kind::unit::inherit;
use crate::kind::{Build, Entry, Item, Named as _, Trigger};
use crate::pki::{AuthorityFields, Category, CertificateRequest};
use crate::resolve::share::Shared;
use crate::secret::{Secret, SecretStore};
use crate::site::{self, Role, Site};
use crate::template::with_room;

/// All resources of a host, resolved and ordered.
#[derive(Debug)]
pub struct Catalog {
    /// The site's name.
    pub site: String,
    /// The host's name.
    pub host: String,
    /// The resources, in the order in which they are applied.
    pub items: Vec<Item>,
    /// The names of the facts that were looked up on demand for it.
    pub facts: BTreeSet<String>,
    /// The names of the secrets that the host needs.
    pub secrets: BTreeSet<String>,
    /// Patterns that match none of the resources.
    pub unmatched: BTreeSet<Unmatched>,
    /// Whether it contains placeholders instead of secrets.
    pub has_placeholders: bool,
}

/// Resolves one host of a site. All errors are reported together.
pub fn resolve(site: &Arc<Site>, host: &str, facts: &Facts, secrets: &SecretStore) -> Result<Catalog> {
    with_room(|| resolve_into(site, host, facts, secrets, None, None))
}

/// [`resolve`], and the rendered entries of the catalog. `views` are those of all hosts of the site.
pub fn show(
    site: &Arc<Site>,
    host: &str,
    facts: &Facts,
    secrets: &SecretStore,
    views: &Arc<Views>,
) -> Result<(Catalog, Vec<Shown>)> {
    let mut shown = Vec::new();
    let catalog = resolve_into(site, host, facts, secrets, Some(views), Some(&mut shown))?;
    Ok((catalog, shown))
}

fn resolve_into(
    site: &Arc<Site>,
    host: &str,
    facts: &Facts,
    secrets: &SecretStore,
    views: Option<&Arc<Views>>,
    mut shown: Option<&mut Vec<Shown>>,
) -> Result<Catalog> {
    let roles = &site.find_host(host)?.roles;
    let context = TemplateContext::new(site.clone(), host, facts, secrets, views);
    let mut shared = Shared::default();
    let mut errors = Vec::new();
    for role in roles.iter().filter_map(|name| site.roles.get(name)) {
        let missing: Vec<Error> = unset(&context, role).collect();
        if missing.is_empty() {
            errors.extend(assert::errors(&context, role));
            for entry in &role.entries {
                let expanded = expand(&context, role, entry, facts, &mut |mut turn| {
                    turn.site.parts = shown.is_some().then(RefCell::default);
                    let built = build(&turn)?;
                    if let Some(shown) = shown.as_mut().filter(|_| turn.is_certain) {
                        let ids = built.iter().map(|item| item.id.to_string()).collect();
                        let (kind, role, place) = (entry.kind.name, role.name.clone(), turn.site.at_entry());
                        let mut parts = turn.site.parts.take().unwrap_or_default().into_inner();
                        let triggers = turn.notify.iter().map(|(id, trigger)| format!("{trigger} {id}\n"));
                        parts.extend((!turn.notify.is_empty()).then(|| ("notify".to_owned(), triggers.collect())));
                        shown.push(Shown { kind, ids, role, place, fields: turn.value.clone(), parts });
                    }
                    let written = Arc::new(turn.value);
                    let built = built.into_iter().filter(|_| turn.is_certain);
                    Error::check(built.filter_map(|item| shared.add(item, &written)).collect())
                });
                errors.extend(expanded.err());
            }
        }
        errors.extend(missing);
    }
    let mut items = shared.items;
    errors.extend(claims::errors(&items));
    let mut unmatched = BTreeSet::new();
    // resources that failed above can't be found either, and one error is enough
    if errors.is_empty() {
        let (lacking, wrong) = references::connect(&mut items);
        unmatched = lacking;
        errors.extend(wrong);
        inherit(&mut items);
        errors.extend(references::unknown(&items));
        errors.extend(references::without_slot(&items));
    }
    Error::check(errors)?;
    let (site, host, secrets) = (site.name.clone(), host.to_owned(), context.secrets.names());
    let (facts, has_placeholders) = (context.used_facts(), !context.secrets.store.is_open());
    Ok(Catalog { site, host, items: order::sort(items)?, facts, secrets, unmatched, has_placeholders })
}

/// The certificates that a host's roles request, with their places, whether or not the site has them.
pub fn certificate_requests(site: &Arc<Site>, host: &str, facts: &Facts) -> Result<Vec<(CertificateRequest, Place)>> {
    with_room(|| requests_of(site, host, facts))
}

fn requests_of(site: &Arc<Site>, host: &str, facts: &Facts) -> Result<Vec<(CertificateRequest, Place)>> {
    let context = TemplateContext::new(site.clone(), host, facts, &SecretStore::expected(), None);
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for role in site.find_host(host)?.roles.iter().filter_map(|name| site.roles.get(name)) {
        for entry in role.entries.iter().filter(|entry| entry.kind.name == CertificateFields::NAME) {
            let expanded = expand(&context, role, entry, facts, &mut |turn| {
                let fields: CertificateFields = entry_of(&turn).read()?;
                found.push((fields.request(&turn.site)?, turn.site.at_entry()));
                Ok(())
            });
            errors.extend(expanded.err());
        }
    }
    Error::check(errors)?;
    Ok(found)
}

/// An error for each required variable that is not set.
fn unset<'a>(context: &'a TemplateContext, role: &'a Role) -> impl Iterator<Item = Error> + 'a {
    let missing = |name: &&String| context.layered(&context.host, Some(&role.name), name).is_none();
    role.required.iter().enumerate().filter(move |(_, name)| missing(name)).map(|(index, name)| {
        let place = role.doc.place(&["required".to_owned(), index.to_string()]);
        let error = error!(VARIABLE, "{} must set `{}.{name}`", context.host, role.name);
        error.at(place, "required by the role").help(format!(
            "add `{name} = …` under [vars.{}] in host_vars/{}.toml, or in a group",
            role.name, context.host
        ))
    })
}

/// An entry of a role, rendered for one item.
struct Expansion<'a> {
    /// The interface for the kind.
    site: Builder<'a>,
    /// The kind's own fields.
    value: Json,
    /// Ids of resources that come before it.
    after: Vec<String>,
    /// Ids of resources that come before it, on any host.
    needs: Vec<String>,
    /// What its change triggers, by id.
    notify: Vec<(String, Trigger)>,
    /// Whether it exists; otherwise that depends on facts which only the host knows.
    is_certain: bool,
}

/// Renders an entry of a role for each item of its list, and passes it to `each`.
fn expand(
    context: &Arc<TemplateContext>,
    role: &Role,
    entry: &site::Entry,
    facts: &Facts,
    each: &mut dyn FnMut(Expansion<'_>) -> Result<()>,
) -> Result<()> {
    let place = |keys: &[String]| role.doc.place(&[entry.path.as_slice(), keys].concat());
    let at = |field: &str| place(&[field.to_owned()]);
    let scope = context.scope(&context.host, Some(&role.name), None);
    let before_list = context.secrets.times_requested();
    let turns: Vec<Option<Value>> = match &entry.for_each {
        None => vec![None],
        Some(written) => {
            let list = match written {
                Json::String(expression) => {
                    context.expression(without_braces(expression), &scope, || at("for_each"))?
                }
                other => context.value(other, &scope, &|keys| place(&[&["for_each".to_owned()], keys].concat()))?,
            };
            match list.kind() {
                ValueKind::Seq | ValueKind::Iterable => list.try_iter().into_iter().flatten().map(Some).collect(),
                ValueKind::Map => {
                    let pair = |key: Value| {
                        let value = list.get_item(&key).unwrap_or_default();
                        Some(Value::from_pairs([("key", key), ("value", value)]))
                    };
                    list.try_iter().into_iter().flatten().map(pair).collect()
                }
                kind => {
                    let what =
                        format!("`for_each` needs a list, and `{}` is a {kind}", written.as_str().unwrap_or_default());
                    return Err(Error::new(code::FIELD, what).at(at("for_each"), "not a list"));
                }
            }
        }
    };
    let is_secret_list = context.secrets.times_requested() != before_list;
    for item in turns {
        let scope = context.scope(&context.host, Some(&role.name), item);
        if let Some(expression) = &entry.when {
            let expression = without_braces(expression);
            let value = context.expression(expression, &scope, || at("when"))?;
            let Ok(condition) = bool::try_from(value.clone()) else {
                let what = format!("`when` needs true or false, and `{expression}` is neither");
                return Err(Error::new(code::FIELD, what)
                    .at(at("when"), "neither true nor false")
                    .help(format!("compare: `when = \"{}\"`", comparison(expression, &value))));
            };
            if !condition {
                // with the host's real facts it may exist, and need secrets and certificates
                if !context.secrets.store.is_open() && expression.contains("facts") {
                    let _ = turn(context, role, entry, facts, &scope, is_secret_list, false).and_then(&mut *each);
                    context.forget_failures();
                }
                continue;
            }
        }
        each(turn(context, role, entry, facts, &scope, is_secret_list, true)?)?;
    }
    Ok(())
}

/// An expression without the braces that a template needs around it.
fn without_braces(expression: &str) -> &str {
    whole_expression(expression).unwrap_or(expression)
}

/// An expression that is true or false, instead of one that has this value.
fn comparison(expression: &str, value: &Value) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._'[]()".contains(c);
    let term = if expression.chars().all(is_plain) { expression.to_owned() } else { format!("({expression})") };
    match value.kind() {
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => format!("{term} | length > 0"),
        ValueKind::Number => format!("{term} != 0"),
        ValueKind::None => format!("{term} is not none"),
        _ => format!("{term} == 'x'"),
    }
}

/// Renders an entry of a role for one item of its list.
fn turn<'a>(
    context: &'a Arc<TemplateContext>,
    role: &'a Role,
    entry: &'a site::Entry,
    facts: &'a Facts,
    scope: &'a Value,
    is_secret: bool,
    is_certain: bool,
) -> Result<Expansion<'a>> {
    let place = |keys: &[String]| role.doc.place(&[entry.path.as_slice(), keys].concat());
    let before = context.secrets.times_requested();
    let rendered = context.value(&entry.fields, scope, &place)?;
    let value = serde_json::to_value(&rendered).map_err(|error| {
        error!(FIELD, "{} can't be read", dotted(&entry.path)).because(error).at(place(&[]), "here")
    })?;
    let ids = |field: &str, wanted: &Json| -> Result<Vec<String>> {
        let at = |keys: &[String]| place(&[&[field.to_owned()], keys].concat());
        let value = context.value(wanted, scope, &at)?;
        let is_list = matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable);
        let texts = value.try_iter().into_iter().flatten().map(|id| id.as_str().map(str::to_owned));
        texts.collect::<Option<Vec<String>>>().filter(|_| is_list).ok_or_else(|| {
            let what = format!("`{field}` needs a list of texts, and this is a {}", value.kind());
            Error::new(code::FIELD, what).at(at(&[]), "not a list of texts")
        })
    };
    let (after, needs) = (ids("after", &entry.after)?, ids("needs", &entry.needs)?);
    let notified = ids("notify", &entry.notify)?;
    let notify = notified.iter().map(|text| references::notification(text)).collect::<Result<Vec<_>, _>>();
    let notify = notify.map_err(|why| {
        let error = Error::new(code::FIELD, why).at(place(&["notify".to_owned()]), "this value");
        error.help("write a unit with its type, like `restart:nginx.service`, and a command with its `name`")
    })?;
    let site = Builder {
        context,
        role,
        entry,
        scope,
        arch: &facts.arch,
        is_secret,
        before,
        apart: Cell::default(),
        parts: None,
    };
    Ok(Expansion { site, value, after, needs, notify, is_certain })
}

/// The entry as kinds read it.
fn entry_of<'a>(turn: &Expansion<'a>) -> Entry<'a> {
    Entry { doc: &turn.site.role.doc, path: &turn.site.entry.path, value: turn.value.clone() }
}

/// The resources of a rendered entry.
fn build(turn: &Expansion<'_>) -> Result<Vec<Item>> {
    let (site, context) = (&turn.site, turn.site.context);
    let resources = (site.entry.kind.build)(&entry_of(turn), site)?;
    let (is_secret, apart) = (site.is_secret(), site.apart.get());
    let item = |resource| Item::new(resource, site.role.name.as_str().into(), site.at_entry());
    let mut items: Vec<Item> = resources.into_iter().map(item).collect();
    let is_own = |item: &Item| item.about.kind == site.entry.kind.name;
    let is_one = items.iter().filter(|item| is_own(item)).count() == 1;
    for item in &mut items {
        let is_secret = is_secret || (apart.is_some() && item.about.is_sensitive);
        if let Some(name) = is_secret.then(|| context.secrets.found_in(item.id.as_str())).flatten() {
            return Err(error!(FIELD, "the id of a {} can't contain the secret {name}", item.about.kind)
                .because("ids of resources are shown and stored")
                .at(site.at_entry(), "this resource")
                .help("set a `name` or a path without the secret"));
        }
        (item.after, item.needs, item.is_secret) = (turn.after.clone(), turn.needs.clone(), is_secret);
        item.notify.clone_from(&turn.notify);
        if is_one && is_own(item) {
            item.fields = turn.value.clone();
            item.fields.as_object_mut().zip(apart).and_then(|(fields, apart)| fields.remove(apart));
        }
    }
    Ok(items)
}

/// The interface between a kind and the site, for one entry.
struct Builder<'a> {
    context: &'a Arc<TemplateContext>,
    role: &'a Role,
    entry: &'a site::Entry,
    scope: &'a Value,
    arch: &'a str,
    /// Whether the `for_each` list contains a secret.
    is_secret: bool,
    /// [`HostSecrets::times_requested`] before the entry was rendered.
    before: usize,
    /// The only field with a secret, if the kind has [set it apart](Build::set_apart).
    apart: Cell<Option<&'static str>>,
    /// What the kind asked for, if it is recorded: see [`Shown::parts`].
    parts: Option<RefCell<Vec<(String, String)>>>,
}

impl Builder<'_> {
    fn record(&self, name: impl FnOnce() -> String, text: impl FnOnce() -> String) {
        if let Some(parts) = &self.parts {
            parts.borrow_mut().push((name(), text()));
        }
    }

    fn at_entry(&self) -> Place {
        self.role.doc.place(&self.entry.path)
    }

    fn at(&self, field: &str) -> Place {
        self.role.doc.place(&[self.entry.path.as_slice(), &[field.to_owned()]].concat())
    }

    /// The path in the site of a file in a directory of the role, and its content.
    fn part(&self, dir: &str, name: &str, field: &str) -> Result<(String, &Arc<[u8]>)> {
        let prefix = format!("roles/{}/{dir}/", self.role.name);
        let path = format!("{prefix}{name}");
        if let Some(bytes) = self.context.site.files.get(&path) {
            return Ok((path, bytes));
        }
        let error = error!(FIELD, "there is no {path}").at(self.at(field), "no such file in the role");
        let names = self.context.site.files.iter().filter_map(|(path, _)| path.strip_prefix(&prefix));
        Err(error.help_nearest(name, names, format!("put it into {prefix}")))
    }
}

impl Build for Builder<'_> {
    fn file(&self, field: &str, name: &str) -> Result<Arc<[u8]>> {
        let (_, bytes) = self.part("files", name, field)?;
        let text = || std::str::from_utf8(bytes).map_or_else(|_| digest(bytes), str::to_owned);
        self.record(|| format!("files/{name}"), text);
        Ok(bytes.clone())
    }

    fn files_below(&self, field: &str, name: &str) -> Result<Vec<String>> {
        let prefix = format!("roles/{}/files/", self.role.name);
        let whole = format!("{prefix}{name}/");
        let all = || self.context.site.files.iter().map(|(path, _)| path);
        let names: Vec<String> = all().filter_map(|path| path.strip_prefix(&whole)).map(str::to_owned).collect();
        if !names.is_empty() {
            return Ok(names);
        }
        let what = format!("{whole} is empty or does not exist");
        let error = Error::new(code::FIELD, what).at(self.at(field), "no such directory in the role");
        let directories = all().filter_map(|path| path.strip_prefix(&prefix)?.rsplit_once('/')).map(|(above, _)| above);
        Err(error.help_nearest(name, directories, format!("put files into {whole}")))
    }

    fn rendered(&self, field: &str, name: &str) -> Result<(String, bool)> {
        let (path, _) = self.part("files", name, field)?;
        let before = self.context.secrets.times_requested();
        let text = self.context.file(&path, self.scope)?;
        self.record(|| format!("files/{name}"), || text.clone());
        Ok((text, self.is_secret || self.context.secrets.times_requested() != before))
    }

    fn template(&self, name: &str) -> Result<String> {
        let (path, _) = self.part("templates", name, "template")?;
        let text = self.context.file(&path, self.scope)?;
        self.record(|| format!("templates/{name}"), || text.clone());
        Ok(text)
    }

    fn artifact(&self, name: &str) -> Result<Pin> {
        let artifacts = &self.context.site.artifacts;
        let Some(artifact) = artifacts.get(name) else {
            let error =
                error!(FIELD, "the artifact `{name}` is not pinned").at(self.at("name"), "not in artifacts.toml");
            return Err(error.help_nearest(
                name,
                artifacts.keys().map(String::as_str),
                format!("add [{name}] with a version, an address and its sha256 to artifacts.toml"),
            ));
        };
        let pin = artifact.pins.get(self.arch).cloned().ok_or_else(|| {
            error!(FIELD, "the artifact `{name}` has no pin for {}", self.arch)
                .at(self.at("name"), format!("needed for {}", self.arch))
                .help(format!("add `{} = {{ url = \"…\", sha256 = \"…\" }}` to [{name}] in artifacts.toml", self.arch))
        })?;
        self.record(|| format!("artifact {name}"), || format!("SHA-256 {}", pin.sha256));
        Ok(pin)
    }

    fn secret(&self, name: &str) -> Result<Secret> {
        self.context.secrets.get(name).map_err(|error| error.at(self.at("name"), "used here"))
    }

    fn is_secret(&self) -> bool {
        self.apart.get().is_none() && (self.is_secret || self.context.secrets.times_requested() != self.before)
    }

    fn set_apart(&self, field: &'static str) {
        let before = self.context.secrets.times_requested();
        let mut others = self.entry.fields.clone();
        let is_set = others.as_object_mut().is_some_and(|fields| fields.remove(field).is_some());
        let is_clean = self.context.value(&others, self.scope, &|_| self.at_entry()).is_ok()
            && self.context.secrets.times_requested() == before;
        if is_set && is_clean && !self.is_secret {
            self.apart.set(Some(field));
        }
    }

    fn host(&self) -> &str {
        &self.context.host
    }

    fn site_file(&self, path: &str) -> Option<&Arc<[u8]>> {
        let bytes = self.context.site.files.get(path)?;
        self.record(|| path.to_owned(), || digest(bytes));
        Some(bytes)
    }

    fn authority(&self, name: &str) -> Result<&AuthorityFields> {
        let known = &self.context.site.pki;
        known.get(name).filter(|fields| fields.kind == Category::Authority).ok_or_else(|| {
            let error = error!(FIELD, "there is no authority `{name}`").at(self.at("authority"), "not in site.toml");
            error.help_nearest(
                name,
                known.keys().map(String::as_str),
                format!("add [pki.{name}] to site.toml, and run `kpull pki init`"),
            )
        })
    }

    fn may_lack(&self) -> bool {
        self.context.secrets.store.may_lack()
    }

    fn invalid(&self, field: &str, why: &str) -> Error {
        error!(FIELD, "`{}` of this {} can't be used", field, self.entry.kind.name)
            .because(why)
            .at(self.at(field), "this value")
    }
}
