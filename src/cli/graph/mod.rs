//! `kpull graph`.

mod dot;
mod mermaid;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::cli::{HostArgs, Run, SiteArgs, print, print_json, print_line};
use crate::document::Files;
use crate::error::{Error, Exit, Result, code};
use crate::kind::{Item, Trigger};
use crate::report::Text;
use crate::resolve::{Catalog, Facts, resolve};
use crate::secret::SecretStore;
use crate::site::Site;

/// Arguments of `graph`.
#[derive(Args, Debug)]
pub struct Graph {
    /// The host, as `--host` says it too [default: this host, or the only one of the site]
    #[arg(value_name = "HOST", conflicts_with = "host")]
    name: Option<String>,
    #[command(flatten)]
    site: SiteArgs,
    #[command(flatten)]
    host: HostArgs,
    /// How it is written
    #[arg(long, value_enum, default_value = "text", conflicts_with = "json")]
    format: Format,
}

/// How a graph is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// In the order in which the resources have their turn
    Text,
    /// For Graphviz
    Dot,
    /// For Mermaid, which GitHub, GitLab and many editors draw
    Mermaid,
    #[value(hide = true)]
    Svg,
}

impl Run for Graph {
    fn run(&self) -> Result<Exit> {
        if self.format == Format::Svg {
            let error = Error::new(code::EXPLAIN, "`--format svg` was removed");
            return Err(error.help(
                "run `kpull graph --format dot` and pipe it into Graphviz (`dot -Tsvg`), or use --format mermaid",
            ));
        }
        let catalog = self.catalog()?;
        match self.format {
            _ if self.host.json => catalog.items.iter().for_each(|item| print_json(&describe(item))),
            Format::Mermaid => print(mermaid::write(&catalog).trim_end()),
            Format::Text | Format::Svg => catalog.items.iter().for_each(tell),
            Format::Dot => print(dot::write(&catalog).trim_end()),
        }
        Ok(Exit::Done)
    }

    fn json(&self) -> bool {
        self.host.json
    }
}

impl Graph {
    fn wanted(&self) -> Option<&String> {
        self.name.as_ref().or(self.host.host.as_ref())
    }

    /// The host's resources: of the site in a directory, or of the release that the host has.
    fn catalog(&self) -> Result<Catalog> {
        let is_here = self.host.root == Path::new("/");
        if let Some(dir) = self.site.dir().filter(|_| is_here || self.site.site.is_some()) {
            let site = Arc::new(Site::load(Files::in_directory(&dir)?)?);
            let name = self.only(&site)?;
            let address = site.find_host(&name)?.address;
            return resolve(&site, &name, &Facts::recorded(Some(&dir), &name, address)?, &SecretStore::sealed());
        }
        let report = Text::new(false);
        let agent = self.host.agent(&report)?;
        let site = agent.cached_site()?.ok_or_else(|| {
            Error::new(code::SITE, "there is no site here, and this host has no release yet").help("say --site DIR")
        })?;
        let name = self.wanted().unwrap_or(&agent.name);
        let facts = match *name == agent.name {
            true => agent.facts(&site)?,
            false => Facts::assumed(name, site.find_host(name)?.address, None)?,
        };
        resolve(&site, name, &facts, &SecretStore::sealed())
    }

    /// The host that is asked for, or the only one that there is.
    fn only(&self, site: &Site) -> Result<String> {
        let names: Vec<&String> = site.hosts.keys().collect();
        match (self.wanted(), names.as_slice()) {
            (Some(name), _) => Ok(name.clone()),
            (None, [name]) => Ok((*name).clone()),
            (None, _) => {
                let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
                Err(Error::new(code::SITE, "which host?").help(format!("name one of {}", names.join(", "))))
            }
        }
    }
}

fn describe(item: &Item) -> serde_json::Value {
    let watches: Vec<_> =
        item.about.watches.iter().map(|(id, trigger)| json!({ "id": id, "trigger": trigger })).collect();
    json!({ "version": crate::report::VERSION, "id": item.id, "role": *item.role, "place": item.place.to_string(),
        "after": item.after, "before": item.about.before, "watches": watches })
}

fn tell(item: &Item) {
    print_line(&format!("{:<12} {}", item.role, item.id));
    for after in &item.after {
        print_line(&format!("{:<12}   after {after}", ""));
    }
    for held in &item.about.before {
        print_line(&format!("{:<12}   gate before {held}", ""));
    }
    for (watched, trigger) in &item.about.watches {
        print_line(&format!("{:<12}   {} when {watched} changes", "", Tie::of(*trigger).word()));
    }
}

/// What one resource has to do with another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tie {
    /// It comes after it.
    After,
    /// It is held until the other one passes.
    Gate,
    /// It is reloaded when the other one changes.
    Reload,
    /// It is restarted then.
    Restart,
}

impl Tie {
    fn of(trigger: Trigger) -> Self {
        match trigger {
            Trigger::Reload => Self::Reload,
            Trigger::Restart => Self::Restart,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::After => "after",
            Self::Gate => "gate",
            Self::Reload => "reload",
            Self::Restart => "restart",
        }
    }

    fn color(self) -> &'static str {
        match self {
            Self::After => "#94a3b8",
            Self::Gate => "#7c3aed",
            Self::Reload => "#2563eb",
            Self::Restart => "#c2410c",
        }
    }
}

/// Every tie between two resources of the catalog, once each, by their positions: what comes first, what comes then. What watches
/// another one comes after it anyway.
fn ties(catalog: &Catalog) -> Vec<(usize, usize, Tie)> {
    let places: HashMap<&str, usize> =
        catalog.items.iter().enumerate().map(|(at, item)| (item.id.as_str(), at)).collect();
    let mut found: BTreeMap<(usize, usize), Tie> = BTreeMap::new();
    let mut add = |from: Option<&usize>, to: Option<&usize>, tie: Tie| {
        if let (Some(&from), Some(&to)) = (from, to) {
            let known = found.entry((from, to)).or_insert(tie);
            *known = tie.max(*known);
        }
    };
    for (at, item) in catalog.items.iter().enumerate() {
        item.after.iter().for_each(|id| add(places.get(id.as_str()), Some(&at), Tie::After));
        item.about.before.iter().for_each(|id| add(Some(&at), places.get(id.as_str()), Tie::Gate));
        item.about.watches.iter().for_each(|(id, trigger)| add(places.get(id.as_str()), Some(&at), Tie::of(*trigger)));
    }
    found.into_iter().map(|((from, to), tie)| (from, to, tie)).collect()
}

/// The roles in the order of their first resources, each with the positions of its own.
fn roles(catalog: &Catalog) -> Vec<(&str, Vec<usize>)> {
    let mut seen = HashSet::new();
    let names = catalog.items.iter().map(|item| &*item.role).filter(|name| seen.insert(*name));
    let own = |name: &str| -> Vec<usize> {
        catalog.items.iter().enumerate().filter(|(_, item)| &*item.role == name).map(|(at, _)| at).collect()
    };
    names.map(|name| (name, own(name))).collect()
}
