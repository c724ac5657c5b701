//! The objects that a template sees: the scope of its names, roles and hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use minijinja::ErrorKind;
use minijinja::value::{Enumerator, Serde, Value};

use crate::host::details;
use crate::resolve::Facts;
use crate::resolve::context::TemplateContext;
use crate::secret::lock;
use crate::site::ALL;
use crate::template::depth::{Lookup, as_lookup, looked_up};
use crate::template::filters;

/// The names that a template sees.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) context: Arc<TemplateContext>,
    pub(super) host: String,
    pub(super) role: Option<String>,
    pub(super) item: Option<Value>,
}

impl Lookup for Scope {
    fn get(&self, name: &str) -> Option<Value> {
        let context = &self.context;
        match name {
            "item" => return self.item.clone(),
            "host" => return Some(context.host_value(&self.host)),
            "hosts" => return Some(context.site.hosts.keys().map(|name| context.host_value(name)).collect()),
            "facts" if self.host == context.host => return Some(context.facts.clone()),
            "facts" => {
                let why = format!("the facts of another host ({}) are not known here", self.host);
                return Some(Value::from(minijinja::Error::new(ErrorKind::InvalidOperation, why)));
            }
            "artifacts" => {
                let versions = context.site.artifacts.iter().map(|(name, artifact)| {
                    (name.clone(), Value::from_pairs([("version", Value::from(artifact.version.clone()))]))
                });
                return Some(Value::from_pairs(versions));
            }
            _ => {}
        }
        if let Some(role) = &self.role
            && let Some(value) = context.variable(&self.host, Some(role), name)
        {
            return Some(value);
        }
        if context.site.roles.contains_key(name) {
            return Some(looked_up(RoleObject {
                context: context.clone(),
                host: self.host.clone(),
                role: name.to_owned(),
            }));
        }
        context.variable(&self.host, None, name)
    }
}

/// The variables of a role for a host: `etcd.client_port`.
#[derive(Debug)]
struct RoleObject {
    context: Arc<TemplateContext>,
    host: String,
    role: String,
}

impl Lookup for RoleObject {
    fn get(&self, name: &str) -> Option<Value> {
        self.context.variable(&self.host, Some(&self.role), name)
    }

    fn names(&self) -> Enumerator {
        let role = self.context.site.roles.get(&self.role);
        Enumerator::Values(role.into_iter().flat_map(|role| role.names()).map(Value::from).collect())
    }
}

/// The hosts of a list whose `attribute` contains `name`.
pub(super) fn having(
    hosts: Vec<Value>,
    attribute: &str,
    name: &str,
) -> std::result::Result<Vec<Value>, minijinja::Error> {
    let mut found = Vec::new();
    for host in hosts {
        if let Some(one) = as_lookup::<HostObject>(&host) {
            if one.has(attribute, name) {
                found.push(host);
            }
            continue;
        }
        let has = host.get_attr(attribute)?;
        if has.is_undefined() {
            return Err(filters::invalid("this filter needs a list of hosts: `hosts | with_role(\"etcd\")`"));
        }
        if has.try_iter()?.any(|entry| entry.as_str() == Some(name)) {
            found.push(host);
        }
    }
    Ok(found)
}

/// The facts of the host. Those that few roles use are looked up on demand.
#[derive(Debug)]
pub(super) struct FactsObject {
    /// The facts that are known already.
    known: Value,
    facts: Facts,
    /// The details that were looked up, by name.
    used: Mutex<BTreeMap<String, Value>>,
}

impl FactsObject {
    /// The facts of a host.
    pub(super) fn new(facts: Facts) -> Self {
        Self { known: Value::from(Serde(&facts)), facts, used: Mutex::default() }
    }

    /// The names of the details that were looked up.
    pub(super) fn used(&self) -> BTreeSet<String> {
        lock(&self.used).keys().cloned().collect()
    }
}

impl Lookup for FactsObject {
    fn get(&self, name: &str) -> Option<Value> {
        let known = self.known.get_attr(name).ok().filter(|value| !value.is_undefined());
        if known.is_some() || !self.facts.on_demand || !details::NAMES.contains(&name) {
            return known;
        }
        let mut used = lock(&self.used);
        if let Some(value) = used.get(name) {
            return Some(value.clone());
        }
        let value = match self.facts.detail(name) {
            Ok(value) => Value::from(Serde(&value)),
            Err(error) => Value::from(minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string())),
        };
        used.insert(name.to_owned(), value.clone());
        Some(value)
    }

    fn names(&self) -> Enumerator {
        let known = self.known.try_iter().into_iter().flatten();
        let details = details::NAMES.iter().filter(|_| self.facts.on_demand).map(|name| Value::from(*name));
        Enumerator::Values(known.chain(details).collect())
    }
}

/// A host of the site: `name`, `address`, `groups`, `roles`, `vars.ROLE.NAME`.
#[derive(Debug)]
pub(super) struct HostObject {
    pub(super) context: Arc<TemplateContext>,
    pub(super) name: String,
}

impl HostObject {
    /// Whether its `groups` or `roles` have this name.
    pub(super) fn has(&self, list: &str, name: &str) -> bool {
        let Some(host) = self.context.site.hosts.get(&self.name) else { return false };
        if list == "groups" && name == ALL {
            return true;
        }
        let names = if list == "groups" { &host.groups } else { &host.roles };
        names.iter().any(|one| one == name)
    }
}

impl Lookup for HostObject {
    fn get(&self, name: &str) -> Option<Value> {
        let host = self.context.site.hosts.get(&self.name)?;
        Some(match name {
            "name" => Value::from(self.name.clone()),
            "address" => Value::from(host.address.to_string()),
            "groups" => host.groups.iter().cloned().collect(),
            "roles" => host.roles.iter().cloned().collect(),
            "vars" => self.context.scope(&self.name, None, None),
            _ => return None,
        })
    }

    fn names(&self) -> Enumerator {
        Enumerator::Str(&["name", "address", "groups", "roles", "vars"])
    }
}
