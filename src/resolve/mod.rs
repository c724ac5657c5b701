//! From a site to one host's catalog: layers, facts, templates, order.

mod all;
mod asked;
mod assert;
mod claims;
mod context;
mod facts;
mod order;
mod shown;
#[cfg(test)]
pub mod testing;

pub use all::{Views, once, resolve_all};
pub use claims::{Clash, clashes};
pub use context::{Layer, TemplateContext, is_template, layers};
pub use facts::{Facts, NO_PACKAGE_MANAGER};
pub use order::predecessors;
pub use shown::{Shown, digest};

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
use crate::resolve::shown::Recorder;
use crate::secret::{Secret, SecretStore};
use crate::site::{self, Role, Site};
use crate::template::with_room;

/// Every resource of one host, fully resolved and in order.
#[derive(Debug)]
pub struct Catalog {
    /// The site's name.
    pub site: String,
    /// The host's name.
    pub host: String,
    /// The resources, in the order in which they have their turn.
    pub items: Vec<Item>,
    /// The names of the secrets that the host needs.
    pub secrets: BTreeSet<String>,
    /// Whether there are placeholders in place of secrets.
    pub is_sealed: bool,
}

/// Resolves one host of a site. All errors that are found are told together.
pub fn resolve(site: &Arc<Site>, host: &str, facts: &Facts, secrets: &SecretStore) -> Result<Catalog> {
    with_room(|| resolve_into(site, host, facts, secrets, None, None))
}

/// [`resolve`], and every entry that the catalog is made of, as it is for the host. `views` are those of all its hosts.
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
    let world = TemplateContext::among(site.clone(), host, facts, secrets, views);
    let mut items = Vec::new();
    let mut errors = Vec::new();
    for role in roles.iter().filter_map(|name| site.roles.get(name)) {
        let missing: Vec<Error> = unset(&world, role).collect();
        if missing.is_empty() {
            errors.extend(assert::errors(&world, role));
            for entry in &role.entries {
                let expanded = expand(&world, role, entry, facts, &mut |turn| {
                    let Some(shown) = &mut shown else {
                        items.extend(build(&turn, &turn.site)?.into_iter().filter(|_| turn.is_certain));
                        return Ok(());
                    };
                    let recorder = Recorder::new(&turn.site);
                    let built = build(&turn, &recorder)?;
                    if turn.is_certain {
                        let ids = built.iter().map(|item| item.id.clone()).collect();
                        let (kind, role, place) = (entry.kind.name, role.name.clone(), turn.site.at_entry());
                        let parts = recorder.parts();
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
    // what could not be made above can't be watched either, and once is enough
    if errors.is_empty() {
        inherit(&mut items);
        errors.extend(unknown(&items));
        errors.extend(without_slot(&items));
    }
    Error::check(errors)?;
    let (site, host, secrets) = (site.name.clone(), host.to_owned(), world.secrets());
    Ok(Catalog { site, host, items: order::sort(items)?, secrets, is_sealed: !world.is_open() })
}

/// The certificates that a host's roles want, each with the place where it is written; whether the site has them does
/// not matter.
pub fn wishes(site: &Arc<Site>, host: &str, facts: &Facts) -> Result<Vec<(CertificateRequest, Place)>> {
    with_room(|| wishes_of(site, host, facts))
}

fn wishes_of(site: &Arc<Site>, host: &str, facts: &Facts) -> Result<Vec<(CertificateRequest, Place)>> {
    let world = TemplateContext::new(site.clone(), host, facts, &SecretStore::expected());
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for role in site.find_host(host)?.roles.iter().filter_map(|name| site.roles.get(name)) {
        for entry in role.entries.iter().filter(|entry| entry.kind.name == CertificateFields::NAME) {
            let expanded = expand(&world, role, entry, facts, &mut |turn| {
                let fields: CertificateFields = entry_of(&turn).read()?;
                found.push((fields.wish(&turn.site)?, turn.site.at_entry()));
                Ok(())
            });
            errors.extend(expanded.err());
        }
    }
    Error::check(errors)?;
    Ok(found)
}

/// An error for each variable that the role requires and nobody sets.
fn unset<'a>(world: &'a TemplateContext, role: &'a Role) -> impl Iterator<Item = Error> + 'a {
    let missing = |name: &&String| world.layered(&world.host, Some(&role.name), name).is_none();
    role.required.iter().enumerate().filter(move |(_, name)| missing(name)).map(|(index, name)| {
        let place = role.doc.place(&["required".to_owned(), index.to_string()]);
        let error = Error::new(code::VARIABLE, format!("{} has to set `{}.{name}`", world.host, role.name));
        error.at(place, "required by the role").help(format!(
            "add `{name} = …` under [vars.{}] in host_vars/{}.toml, or in a group",
            role.name, world.host
        ))
    })
}

/// One turn of an entry of a role, rendered.
struct Expansion<'a> {
    /// What a kind builds its resources with.
    site: Builder<'a>,
    /// The kind's own fields.
    value: serde_json::Value,
    /// Ids that come before it.
    after: Vec<String>,
    /// Ids that come before it, on whichever host they are.
    needs: Vec<String>,
    /// Whether it is there; else that depends on facts which only the host knows.
    is_certain: bool,
}

/// Renders one entry of a role, once for each item of its list, and hands each turn to `each`.
fn expand(
    world: &Arc<TemplateContext>,
    role: &Role,
    entry: &site::Entry,
    facts: &Facts,
    each: &mut dyn FnMut(Expansion<'_>) -> Result<()>,
) -> Result<()> {
    let at = |field: &str| role.doc.place(&[entry.path.as_slice(), &[field.to_owned()]].concat());
    let scope = world.scope(&world.host, Some(&role.name), None);
    let before_list = world.times_asked();
    let turns: Vec<Option<Value>> = match &entry.for_each {
        None => vec![None],
        Some(expression) => {
            let list = world.expression(expression, &scope, || at("for_each"))?;
            match list.kind() {
                ValueKind::Seq | ValueKind::Iterable => list.try_iter().into_iter().flatten().map(Some).collect(),
                ValueKind::Map => list
                    .try_iter()
                    .into_iter()
                    .flatten()
                    .map(|key| {
                        let value = list.get_item(&key).unwrap_or_default();
                        Some(Value::from_pairs([("key", key), ("value", value)]))
                    })
                    .collect(),
                kind => {
                    return Err(Error::new(
                        code::FIELD,
                        format!("`for_each` needs a list, and `{expression}` is a {kind}"),
                    )
                    .at(at("for_each"), "not a list"));
                }
            }
        }
    };
    let is_secret_list = world.times_asked() != before_list;
    for item in turns {
        let scope = world.scope(&world.host, Some(&role.name), item);
        if let Some(expression) = &entry.when {
            let condition = world.expression(expression, &scope, || at("when"))?;
            let Ok(condition) = bool::try_from(condition) else {
                return Err(Error::new(
                    code::FIELD,
                    format!("`when` needs true or false, and `{expression}` is neither"),
                )
                .at(at("when"), "neither true nor false")
                .help("compare: `when = \"name == 'x'\"`"));
            };
            if !condition {
                // a host's real facts may say otherwise, and then it needs these secrets and certificates
                if !world.is_open() && expression.contains("facts") {
                    let _ = turn(world, role, entry, facts, &scope, is_secret_list, false).and_then(&mut *each);
                    world.forget_failures();
                }
                continue;
            }
        }
        each(turn(world, role, entry, facts, &scope, is_secret_list, true)?)?;
    }
    Ok(())
}

/// Renders an entry of a role for one item of its list.
fn turn<'a>(
    world: &'a Arc<TemplateContext>,
    role: &'a Role,
    entry: &'a site::Entry,
    facts: &'a Facts,
    scope: &'a Value,
    is_secret: bool,
    is_certain: bool,
) -> Result<Expansion<'a>> {
    let place = |way: &[String]| role.doc.place(&[entry.path.as_slice(), way].concat());
    let before = world.times_asked();
    let rendered = world.value(&entry.fields, scope, &place)?;
    let value = serde_json::to_value(&rendered).map_err(|error| {
        Error::new(code::FIELD, format!("{} can't be read", dotted(&entry.path))).because(error).at(place(&[]), "here")
    })?;
    let ids = |field: &str, wanted: &[String]| -> Result<Vec<String>> {
        let id = |text: &String| world.value(&text.as_str().into(), scope, &|_| place(&[field.to_owned()]));
        wanted.iter().map(|text| Ok(id(text)?.to_string())).collect()
    };
    let (after, needs) = (ids("after", &entry.after)?, ids("needs", &entry.needs)?);
    let site = Builder { world, role, entry, scope, arch: &facts.arch, is_secret, before };
    Ok(Expansion { site, value, after, needs, is_certain })
}

/// A turn as kinds read it.
fn entry_of<'a>(turn: &Expansion<'a>) -> Entry<'a> {
    Entry { doc: &turn.site.role.doc, path: &turn.site.entry.path, value: turn.value.clone() }
}

/// The resources of one turn of an entry, made with what `with` gives.
fn build(turn: &Expansion<'_>, with: &dyn Build) -> Result<Vec<Item>> {
    let (site, world) = (&turn.site, turn.site.world);
    let resources = (site.entry.kind.build)(&entry_of(turn), with)?;
    let is_secret = site.is_secret();
    let item = |resource| Item::new(resource, site.role.name.as_str().into(), site.at_entry());
    let mut items: Vec<Item> = resources.into_iter().map(item).collect();
    let is_own = |item: &Item| item.about.kind == site.entry.kind.name;
    let is_one = items.iter().filter(|item| is_own(item)).count() == 1;
    for item in &mut items {
        if let Some(name) = is_secret.then(|| world.secret_in(&item.id)).flatten() {
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

/// What a kind builds its resources with, for one entry.
struct Builder<'a> {
    world: &'a Arc<TemplateContext>,
    role: &'a Role,
    entry: &'a site::Entry,
    scope: &'a Value,
    arch: &'a str,
    /// Whether the list that the entry exists for has a secret in it.
    is_secret: bool,
    /// [`TemplateContext::times_asked`] before the entry was rendered.
    before: usize,
}

impl Builder<'_> {
    fn at_entry(&self) -> Place {
        self.role.doc.place(&self.entry.path)
    }

    fn at(&self, field: &str) -> Place {
        self.role.doc.place(&[self.entry.path.as_slice(), &[field.to_owned()]].concat())
    }

    /// The site's path of a file in a directory of the role.
    fn part(&self, dir: &str, name: &str, field: &str) -> Result<String> {
        let prefix = format!("roles/{}/{dir}/", self.role.name);
        let path = format!("{prefix}{name}");
        if self.world.site.files.get(&path).is_some() {
            return Ok(path);
        }
        let error =
            Error::new(code::FIELD, format!("there is no {path}")).at(self.at(field), "no such file in the role");
        let names = self.world.site.files.iter().filter_map(|(path, _)| path.strip_prefix(&prefix));
        Err(error.help_nearest(name, names, format!("put it into {prefix}")))
    }
}

impl Build for Builder<'_> {
    fn file(&self, name: &str) -> Result<Arc<[u8]>> {
        let path = self.part("files", name, "source")?;
        self.world.site.files.get(&path).cloned().ok_or_else(|| Error::new(code::FIELD, format!("there is no {path}")))
    }

    fn template(&self, name: &str) -> Result<String> {
        let path = self.part("templates", name, "template")?;
        self.world.file(&path, self.scope)
    }

    fn artifact(&self, name: &str) -> Result<Pin> {
        let artifacts = &self.world.site.artifacts;
        let Some(artifact) = artifacts.get(name) else {
            let error = Error::new(code::FIELD, format!("the artifact `{name}` is not pinned"))
                .at(self.at("name"), "not in artifacts.toml");
            return Err(error.help_nearest(
                name,
                artifacts.keys().map(String::as_str),
                format!("add [{name}] with a version, an address and its sha256 to artifacts.toml"),
            ));
        };
        artifact.pins.get(self.arch).cloned().ok_or_else(|| {
            Error::new(code::FIELD, format!("the artifact `{name}` has no pin for {}", self.arch))
                .at(self.at("name"), format!("needed for {}", self.arch))
                .help(format!("add `{} = {{ url = \"…\", sha256 = \"…\" }}` to [{name}] in artifacts.toml", self.arch))
        })
    }

    fn secret(&self, name: &str) -> Result<Secret> {
        self.world.secret(name).map_err(|error| error.at(self.at("name"), "asked for here"))
    }

    fn is_secret(&self) -> bool {
        self.is_secret || self.world.times_asked() != self.before
    }

    fn host(&self) -> &str {
        &self.world.host
    }

    fn site_file(&self, path: &str) -> Option<&Arc<[u8]>> {
        self.world.site.files.get(path)
    }

    fn authority(&self, name: &str) -> Result<&AuthorityFields> {
        let known = &self.world.site.pki;
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
        self.world.may_lack()
    }

    fn invalid(&self, field: &str, why: &str) -> Error {
        Error::new(code::FIELD, format!("`{}` of this {} can't be used", field, self.entry.kind.name))
            .because(why)
            .at(self.at(field), "this value")
    }
}

/// An error for each slot that nobody describes, and for each probe that is to give one back and isn't there.
fn without_slot(items: &[Item]) -> Vec<Error> {
    let slots: Vec<(&Item, &Slot)> = items.iter().filter_map(|item| Some((item, item.as_kind()?))).collect();
    let probes: Vec<&str> =
        items.iter().filter(|item| item.as_kind::<Probe>().is_some()).map(|item| item.id.as_str()).collect();
    let names: Vec<&str> = slots.iter().map(|(_, slot)| slot.name.as_str()).collect();
    let wanted = items.iter().filter_map(|item| Some((item, item.about.slot.as_deref()?)));
    let missing = |(item, name): (&Item, &str)| {
        let error = Error::new(
            code::UNKNOWN,
            format!("`{}` waits for the slot `{name}`, and this host has no such slot", item.id),
        );
        let error = error.at(item.place.clone(), "this resource");
        error.help_nearest(name, names.iter().copied(), "add a [[slot]] with this name to the role")
    };
    let unnamed = wanted.filter(|(_, name)| !names.contains(name)).map(missing);
    let until = slots.iter().flat_map(|(item, slot)| slot.until.iter().map(move |id| (item, id.as_str())));
    let unpassed = until.filter(|(_, id)| !probes.contains(id)).map(|(item, id)| {
        let error = Error::new(
            code::UNKNOWN,
            format!("`{}` is kept until `{id}` passes, and this host has no such probe", item.id),
        )
        .at(item.place.clone(), "this resource");
        error.help_nearest(id, probes.iter().copied(), "a probe is named `probe:NAME`")
    });
    unnamed.chain(unpassed).collect()
}

/// An error for each watch or gate that names nothing: the restart that somebody counts on would never come.
fn unknown(items: &[Item]) -> Vec<Error> {
    let ids: std::collections::HashSet<&str> = items.iter().map(|item| item.id.as_str()).collect();
    let mut errors = Vec::new();
    for item in items {
        let watched = item.about.watches.iter().map(|(id, _)| ("watches", id));
        let held = item.about.before.iter().map(|id| ("is a gate before", id));
        for (verb, id) in watched.chain(held).filter(|(_, id)| !ids.contains(id.as_str())) {
            let error = Error::new(
                code::UNKNOWN,
                format!("`{}` {verb} `{id}`, and there is no such resource on this host", item.id),
            )
            .at(item.place.clone(), "this resource");
            errors.push(error.help_nearest(
                id,
                ids.iter().copied(),
                "a resource is named KIND:KEY, like `template:/etc/etcd/etcd.env`",
            ));
        }
    }
    errors
}
