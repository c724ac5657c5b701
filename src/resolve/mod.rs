//! Resolves a site to the catalog of a host: layers, facts, templates, order.

mod all;
mod assert;
mod claims;
mod context;
mod facts;
mod order;
mod scope;
mod secrets;
mod shown;
#[cfg(test)]
pub mod testing;

pub use all::{Views, once, resolve_all};
pub use claims::{Clash, clashes};
pub use context::{Layer, TemplateContext, is_template, layers};
pub use facts::{Facts, NO_PACKAGE_MANAGER};
pub use order::predecessors;
pub use shown::{Shown, digest};

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use minijinja::value::{Value, ValueKind};

use crate::document::{Pin, dotted};
use crate::error::{Error, Place, Result, code};
use crate::kind::certificate::CertificateFields;
use crate::kind::probe::Probe;
use crate::kind::slot::Slot;
use crate::kind::unit::inherit;
use crate::kind::{Build, Entry, Fields as _, Item};
use crate::pki::{AuthorityFields, Category, CertificateRequest};
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
    /// The names of the secrets that the host needs.
    pub secrets: BTreeSet<String>,
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
    let context = TemplateContext::among(site.clone(), host, facts, secrets, views);
    let mut items = Vec::new();
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
                        let ids = built.iter().map(|item| item.id.clone()).collect();
                        let (kind, role, place) = (entry.kind.name, role.name.clone(), turn.site.at_entry());
                        let parts = turn.site.parts.take().unwrap_or_default().into_inner();
                        shown.push(Shown { kind, ids, role, place, fields: turn.value.clone(), parts });
                    }
                    items.extend(built.into_iter().filter(|_| turn.is_certain));
                    Ok(())
                });
                errors.extend(expanded.err());
            }
        }
        errors.extend(missing);
    }
    errors.extend(claims::errors(&items));
    // resources that failed above can't be found either, and one error is enough
    if errors.is_empty() {
        inherit(&mut items);
        errors.extend(unknown(&items));
        errors.extend(without_slot(&items));
    }
    Error::check(errors)?;
    let (site, host, secrets) = (site.name.clone(), host.to_owned(), context.secrets.names());
    Ok(Catalog { site, host, items: order::sort(items)?, secrets, has_placeholders: !context.secrets.is_open() })
}

/// The certificates that a host's roles request, with their places, whether or not the site has them.
pub fn certificate_requests(site: &Arc<Site>, host: &str, facts: &Facts) -> Result<Vec<(CertificateRequest, Place)>> {
    with_room(|| requests_of(site, host, facts))
}

fn requests_of(site: &Arc<Site>, host: &str, facts: &Facts) -> Result<Vec<(CertificateRequest, Place)>> {
    let context = TemplateContext::new(site.clone(), host, facts, &SecretStore::expected());
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
        let error = Error::new(code::VARIABLE, format!("{} has to set `{}.{name}`", context.host, role.name));
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
    value: serde_json::Value,
    /// Ids of resources that come before it.
    after: Vec<String>,
    /// Ids of resources that come before it, on any host.
    needs: Vec<String>,
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
    let at = |field: &str| role.doc.place(&[entry.path.as_slice(), &[field.to_owned()]].concat());
    let scope = context.scope(&context.host, Some(&role.name), None);
    let before_list = context.secrets.times_requested();
    let turns: Vec<Option<Value>> = match &entry.for_each {
        None => vec![None],
        Some(expression) => {
            let list = context.expression(expression, &scope, || at("for_each"))?;
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
                    let what = format!("`for_each` needs a list, and `{expression}` is a {kind}");
                    return Err(Error::new(code::FIELD, what).at(at("for_each"), "not a list"));
                }
            }
        }
    };
    let is_secret_list = context.secrets.times_requested() != before_list;
    for item in turns {
        let scope = context.scope(&context.host, Some(&role.name), item);
        if let Some(expression) = &entry.when {
            let condition = context.expression(expression, &scope, || at("when"))?;
            let Ok(condition) = bool::try_from(condition) else {
                let what = format!("`when` needs true or false, and `{expression}` is neither");
                return Err(Error::new(code::FIELD, what)
                    .at(at("when"), "neither true nor false")
                    .help("compare: `when = \"name == 'x'\"`"));
            };
            if !condition {
                // with the host's real facts it may exist, and need secrets and certificates
                if !context.secrets.is_open() && expression.contains("facts") {
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
        Error::new(code::FIELD, format!("{} can't be read", dotted(&entry.path))).because(error).at(place(&[]), "here")
    })?;
    let ids = |field: &str, wanted: &[String]| -> Result<Vec<String>> {
        let id = |text: &String| context.value(&text.as_str().into(), scope, &|_| place(&[field.to_owned()]));
        wanted.iter().map(|text| Ok(id(text)?.to_string())).collect()
    };
    let (after, needs) = (ids("after", &entry.after)?, ids("needs", &entry.needs)?);
    let site = Builder { context, role, entry, scope, arch: &facts.arch, is_secret, before, parts: None };
    Ok(Expansion { site, value, after, needs, is_certain })
}

/// The entry as kinds read it.
fn entry_of<'a>(turn: &Expansion<'a>) -> Entry<'a> {
    Entry { doc: &turn.site.role.doc, path: &turn.site.entry.path, value: turn.value.clone() }
}

/// The resources of a rendered entry.
fn build(turn: &Expansion<'_>) -> Result<Vec<Item>> {
    let (site, context) = (&turn.site, turn.site.context);
    let resources = (site.entry.kind.build)(&entry_of(turn), site)?;
    let is_secret = site.is_secret();
    let item = |resource| Item::new(resource, site.role.name.as_str().into(), site.at_entry());
    let mut items: Vec<Item> = resources.into_iter().map(item).collect();
    let is_own = |item: &Item| item.about.kind == site.entry.kind.name;
    let is_one = items.iter().filter(|item| is_own(item)).count() == 1;
    for item in &mut items {
        if let Some(name) = is_secret.then(|| context.secrets.found_in(&item.id)).flatten() {
            return Err(Error::new(code::FIELD, format!("a {} can't be called by the secret {name}", item.about.kind))
                .because("what tells resources from each other is shown and written down")
                .at(site.at_entry(), "this resource")
                .help("give it a `name`, or a path, without the secret"));
        }
        (item.after, item.needs, item.is_secret) = (turn.after.clone(), turn.needs.clone(), is_secret);
        if is_one && is_own(item) {
            item.fields = turn.value.clone();
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

    /// The path in the site of a file in a directory of the role.
    fn part(&self, dir: &str, name: &str, field: &str) -> Result<String> {
        let prefix = format!("roles/{}/{dir}/", self.role.name);
        let path = format!("{prefix}{name}");
        if self.context.site.files.get(&path).is_some() {
            return Ok(path);
        }
        let error =
            Error::new(code::FIELD, format!("there is no {path}")).at(self.at(field), "no such file in the role");
        let names = self.context.site.files.iter().filter_map(|(path, _)| path.strip_prefix(&prefix));
        Err(error.help_nearest(name, names, format!("put it into {prefix}")))
    }
}

impl Build for Builder<'_> {
    fn file(&self, field: &str, name: &str) -> Result<Arc<[u8]>> {
        let path = self.part("files", name, field)?;
        let bytes = self.context.site.files.get(&path).cloned();
        let bytes = bytes.ok_or_else(|| Error::new(code::FIELD, format!("there is no {path}")))?;
        let text = || std::str::from_utf8(&bytes).map_or_else(|_| digest(&bytes), str::to_owned);
        self.record(|| format!("files/{name}"), text);
        Ok(bytes)
    }

    fn template(&self, name: &str) -> Result<String> {
        let path = self.part("templates", name, "template")?;
        let text = self.context.file(&path, self.scope)?;
        self.record(|| format!("templates/{name}"), || text.clone());
        Ok(text)
    }

    fn artifact(&self, name: &str) -> Result<Pin> {
        let artifacts = &self.context.site.artifacts;
        let Some(artifact) = artifacts.get(name) else {
            let error = Error::new(code::FIELD, format!("the artifact `{name}` is not pinned"))
                .at(self.at("name"), "not in artifacts.toml");
            return Err(error.help_nearest(
                name,
                artifacts.keys().map(String::as_str),
                format!("add [{name}] with a version, an address and its sha256 to artifacts.toml"),
            ));
        };
        let pin = artifact.pins.get(self.arch).cloned().ok_or_else(|| {
            Error::new(code::FIELD, format!("the artifact `{name}` has no pin for {}", self.arch))
                .at(self.at("name"), format!("needed for {}", self.arch))
                .help(format!("add `{} = {{ url = \"…\", sha256 = \"…\" }}` to [{name}] in artifacts.toml", self.arch))
        })?;
        self.record(|| format!("artifact {name}"), || format!("SHA-256 {}", pin.sha256));
        Ok(pin)
    }

    fn secret(&self, name: &str) -> Result<Secret> {
        self.context.secrets.get(name).map_err(|error| error.at(self.at("name"), "asked for here"))
    }

    fn is_secret(&self) -> bool {
        self.is_secret || self.context.secrets.times_requested() != self.before
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
            let error = Error::new(code::FIELD, format!("there is no authority `{name}`"))
                .at(self.at("authority"), "not in site.toml");
            error.help_nearest(
                name,
                known.keys().map(String::as_str),
                format!("add [pki.{name}] to site.toml, and run `kpull pki init`"),
            )
        })
    }

    fn may_lack(&self) -> bool {
        self.context.secrets.may_lack()
    }

    fn invalid(&self, field: &str, why: &str) -> Error {
        Error::new(code::FIELD, format!("`{}` of this {} can't be used", field, self.entry.kind.name))
            .because(why)
            .at(self.at(field), "this value")
    }
}

/// An error for each slot, and each probe of a slot, that does not exist.
fn without_slot(items: &[Item]) -> Vec<Error> {
    let slots: Vec<(&Item, &Slot)> = items.iter().filter_map(|item| Some((item, item.as_kind()?))).collect();
    let probes: Vec<&str> =
        items.iter().filter(|item| item.as_kind::<Probe>().is_some()).map(|item| item.id.as_str()).collect();
    let names: Vec<&str> = slots.iter().map(|(_, slot)| slot.name.as_str()).collect();
    let wanted = items.iter().filter_map(|item| Some((item, item.about.slot.as_deref()?)));
    let missing = |(item, name): (&Item, &str)| {
        let what = format!("`{}` waits for the slot `{name}`, and this host has no such slot", item.id);
        dangling(item, what).help_nearest(name, names.iter().copied(), "add a [[slot]] with this name to the role")
    };
    let unnamed = wanted.filter(|(_, name)| !names.contains(name)).map(missing);
    let until = slots.iter().flat_map(|(item, slot)| slot.until.iter().map(move |id| (item, id.as_str())));
    let unpassed = until.filter(|(_, id)| !probes.contains(id)).map(|(item, id)| {
        let what = format!("`{}` is kept until `{id}` passes, and this host has no such probe", item.id);
        dangling(item, what).help_nearest(id, probes.iter().copied(), "a probe is named `probe:NAME`")
    });
    unnamed.chain(unpassed).collect()
}

/// An error for each watch or gate that names no resource: the restart would never come.
fn unknown(items: &[Item]) -> Vec<Error> {
    let ids: std::collections::HashSet<&str> = items.iter().map(|item| item.id.as_str()).collect();
    let mut errors = Vec::new();
    for item in items {
        let watched = item.about.watches.iter().map(|(id, _)| ("watches", id));
        let held = item.about.before.iter().map(|id| ("is a gate before", id));
        for (verb, id) in watched.chain(held).filter(|(_, id)| !ids.contains(id.as_str())) {
            let what = format!("`{}` {verb} `{id}`, and there is no such resource on this host", item.id);
            let advice = "a resource is named KIND:KEY, like `template:/etc/etcd/etcd.env`";
            errors.push(dangling(item, what).help_nearest(id, ids.iter().copied(), advice));
        }
    }
    errors
}

/// The error of a resource that names another which does not exist.
fn dangling(item: &Item, what: String) -> Error {
    Error::new(code::UNKNOWN, what).at(item.place.clone(), "this resource")
}
