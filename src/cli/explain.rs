//! `kpull explain`.

use crate::cli::prelude::*;
use crate::error::Place;
use crate::resolve::{TemplateContext, layers};
use crate::site::{Definition, HostVars};
use crate::template::os::rows;
use crate::template::with_room;

/// Arguments of `explain`.
#[derive(Args, Debug)]
pub struct Explain {
    /// The host
    host: String,
    /// The variable: `ROLE.NAME`, or `NAME` for a variable of the whole site
    variable: String,
    #[command(flatten)]
    site: SiteSource,
    /// Write one JSON object
    #[arg(long)]
    json: bool,
}

impl Run for Explain {
    fn run(&self) -> Result<Exit> {
        with_room(|| self.explain())
    }
}

impl Explain {
    fn explain(&self) -> Result<Exit> {
        let (site, dir) = (self.site.load()?, self.site.dir());
        let host = site.find_host(&self.host)?;
        let facts = Facts::recorded(dir.as_deref(), &self.host, host.address)?;
        let recorded = facts.live.then(|| Facts::file_of(&self.host));
        let (role, path) = match self.variable.split_once('.') {
            Some((role, rest)) if site.roles.contains_key(role) => (Some(role), rest),
            _ => (None, self.variable.as_str()),
        };
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        let context = TemplateContext::new(site.clone(), &self.host, &facts, &SecretStore::encrypted(), None);
        let layers = layers(&site, &self.host, role);
        let set_at = |path: &[String]| -> Vec<_> {
            layers.iter().filter_map(|layer| Some((layer.name.clone(), layer.place(path)?))).collect()
        };
        // a part of the value of an expression is set where the expression is
        let set =
            (1..=path.len()).rev().map(|parts| set_at(&path[..parts])).find(|set| !set.is_empty()).unwrap_or_default();
        let rows = set.last().and_then(|(_, place)| {
            let table = context.variable(&self.host, role, table_by_systems(place)?)?;
            let table = serde_json::to_value(&table).ok()?;
            Some(rows(&facts.os).into_iter().filter(|row| table.get(row).is_some()).collect::<Vec<_>>())
        });
        let Some(value) = context.variable(&self.host, role, &path[0]).filter(|_| !set.is_empty()) else {
            return Err(self.unknown(&site, role, &path));
        };
        let mut value = serde_json::to_value(&value)
            .map_err(|_| context.take_failure().unwrap_or_else(|| error!(EXPLAIN, "the variable can't be rendered")))?;
        for (at, key) in path.iter().enumerate().skip(1) {
            let Some(part) = value.get_mut(key).map(serde_json::Value::take) else {
                let whole = self.variable.rsplitn(path.len() - at + 1, '.').last().unwrap_or_default();
                let names = value.as_object().into_iter().flatten().map(|(name, _)| format!("`{name}`"));
                return Err(self.unset().help(match names.collect::<Vec<_>>().join(", ") {
                    none if none.is_empty() => format!("{value} has no entries"),
                    names => format!("`{whole}` has no `{key}`: it has {names}"),
                }));
            };
            value = part;
        }
        let definition = match path.as_slice() {
            [name] => definition(&site, role, name, host),
            _ => None,
        };
        if self.json {
            let layers: Vec<_> =
                set.iter().map(|(name, place)| json!({ "layer": name, "place": place.to_string() })).collect();
            print_json(
                json!({ "host": self.host, "variable": self.variable, "value": value, "layers": layers, "rows": rows, "facts": recorded, "type": definition }),
            );
            return Ok(Exit::Done);
        }
        print_line(&format!("{} = {value}", self.variable));
        for (index, (name, place)) in set.iter().enumerate().rev() {
            let note = if index + 1 == set.len() { "" } else { "   (overruled)" };
            print_line(&format!("  {name:<20} {place}{note}"));
        }
        if let Some(definition) = definition {
            let about = definition.0.description.as_ref().map(|about| format!(": {about}")).unwrap_or_default();
            print_line(&format!("  {:<20} {}{about}", "type", definition.words()));
        }
        if let Some(rows) = rows {
            print(&format!("  {:<20} {}", "rows", rows.join(", ")));
        }
        if let Some(file) = recorded {
            print(&format!("  {:<20} {file}", "facts"));
        }
        Ok(Exit::Done)
    }
}

/// What a variable of a role has to be, or one of the site by the first role of the host that says so.
fn definition<'a>(site: &'a Site, role: Option<&str>, name: &str, host: &HostVars) -> Option<&'a Definition> {
    let of = |role: &str| site.roles.get(role);
    match role {
        Some(role) => of(role)?.types.get(name),
        None => host
            .roles
            .iter()
            .filter_map(|role| of(role))
            .find_map(|role| role.types.get(name).filter(|_| !role.declares(name))),
    }
}

/// The table from which the expression at a place selects rows with `for_os`, if it does.
fn table_by_systems(place: &Place) -> Option<&str> {
    let (before, _) = place.text.get(place.span.clone())?.split_once("for_os")?;
    let before = before.trim_end().strip_suffix('|')?.trim_end();
    before.rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next().filter(|name| !name.is_empty())
}

impl Explain {
    fn unset(&self) -> Error {
        error!(EXPLAIN, "nothing sets `{}` for {}", self.variable, self.host)
    }

    fn unknown(&self, site: &Site, role: Option<&str>, path: &[String]) -> Error {
        let error = self.unset();
        let role = role.and_then(|role| site.roles.get(role));
        match role.and_then(|role| Some((role, nearest(&path[0], role.names())?))) {
            Some((role, near)) => error.help(format!("did you mean `{}.{near}`?", role.name)),
            None => error.help("a variable is ROLE.NAME, or NAME if site.toml declares it"),
        }
    }
}
