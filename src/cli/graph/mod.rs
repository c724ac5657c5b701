//! `kpull graph`.

mod dot;
mod mermaid;

use std::collections::{HashMap, HashSet};

use clap::ValueEnum;

use crate::cli::kept_site;
use crate::cli::prelude::*;
use crate::kind::{Item, Trigger};
use crate::resolve::resolve;

/// Arguments of `graph`.
#[derive(Args, Debug)]
pub struct Graph {
    /// The host, like `--host` [default: this host, or the only one of the site]
    #[arg(value_name = "HOST", conflicts_with = "host")]
    name: Option<String>,
    #[command(flatten)]
    site: SiteSource,
    #[command(flatten)]
    host: HostArgs,
    /// Output format
    #[arg(long, value_enum, default_value = "text", conflicts_with = "json")]
    format: Format,
}

/// Formats of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One resource after the other, in order
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
            let error = error!(EXPLAIN, "`--format svg` was removed");
            return Err(error.help(
                "run `kpull graph --format dot` and pipe it into Graphviz (`dot -Tsvg`), or use --format mermaid",
            ));
        }
        let catalog = self.catalog()?;
        match self.format {
            _ if self.host.json => catalog.items.iter().for_each(|item| print_json(describe(item))),
            Format::Mermaid => print(mermaid::write(&catalog).trim_end()),
            Format::Text | Format::Svg => catalog.items.iter().for_each(print_item),
            Format::Dot => print(dot::write(&catalog).trim_end()),
        }
        Ok(Exit::Done)
    }
}

impl Graph {
    fn named(&self) -> Option<&String> {
        self.name.as_ref().or(self.host.host.as_ref())
    }

    /// The host's resources, from the site in a directory or from the release of this host.
    fn catalog(&self) -> Result<Catalog> {
        let is_here = self.host.root == Path::new("/");
        if let Some(dir) = self.site.dir().filter(|_| is_here || self.site.site.is_some()) {
            let site = load_site(&dir)?;
            let name = self.host_name(&site)?;
            let address = site.find_host(&name)?.address;
            return resolve(&site, &name, &Facts::recorded(Some(&dir), &name, address)?, &SecretStore::encrypted());
        }
        let report = Text::new(false);
        let agent = self.host.agent(&report)?;
        let site = kept_site(&agent)?;
        let name = self.named().unwrap_or(&agent.name);
        let facts = match *name == agent.name {
            true => agent.facts(&site)?,
            false => Facts::assumed(name, site.find_host(name)?.address, None)?,
        };
        resolve(&site, name, &facts, &SecretStore::encrypted())
    }

    /// The host that was named, or the only one of the site.
    fn host_name(&self, site: &Site) -> Result<String> {
        let names: Vec<&str> = site.hosts.keys().map(String::as_str).collect();
        match (self.named(), names.as_slice()) {
            (Some(name), _) => Ok(name.clone()),
            (None, [name]) => Ok((*name).to_owned()),
            (None, _) => Err(error!(SITE, "which host?").help(format!("name one of {}", names.join(", ")))),
        }
    }
}

fn describe(item: &Item) -> serde_json::Value {
    let watches: Vec<_> =
        item.about.watches.iter().map(|(id, trigger)| json!({ "id": id, "trigger": trigger })).collect();
    let also: Vec<_> =
        item.also.iter().map(|(role, place)| json!({ "role": **role, "place": place.to_string() })).collect();
    json!({ "id": item.id, "role": *item.role, "place": item.place.to_string(),
        "also": also, "after": item.after, "before": item.about.before, "watches": watches })
}

fn print_item(item: &Item) {
    print_line(&format!("{:<12} {}", item.role, item.id));
    for (role, place) in &item.also {
        print_line(&format!("{:<12}   also in the role {role}, at {place}", ""));
    }
    for after in &item.after {
        print_line(&format!("{:<12}   after {after}", ""));
    }
    for gated in &item.about.before {
        print_line(&format!("{:<12}   gate before {gated}", ""));
    }
    for (watched, trigger) in &item.about.watches {
        print_line(&format!("{:<12}   {} when {watched} changes", "", Edge::of(*trigger).word()));
    }
}

/// How one resource depends on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    /// It comes after the other one.
    After,
    /// It waits until the other one passes.
    Gate,
    /// It runs when the other one changes.
    Run,
    /// It is reloaded when the other one changes.
    Reload,
    /// It is restarted when the other one changes.
    Restart,
}

impl Edge {
    fn of(trigger: Trigger) -> Self {
        match trigger {
            Trigger::Run => Self::Run,
            Trigger::Reload => Self::Reload,
            Trigger::Restart => Self::Restart,
        }
    }

    fn word(self) -> &'static str {
        ["after", "gate", "run", "reload", "restart"][self as usize]
    }

    fn color(self) -> &'static str {
        ["#94a3b8", "#7c3aed", "#0f766e", "#2563eb", "#c2410c"][self as usize]
    }
}

/// Every edge between two resources of the catalog, once each, by their positions: the earlier one, the later one. A resource that
/// watches another one always comes after it.
fn edges(catalog: &Catalog) -> Vec<(usize, usize, Edge)> {
    let places: HashMap<&str, usize> =
        catalog.items.iter().enumerate().map(|(at, item)| (item.id.as_str(), at)).collect();
    let mut found: BTreeMap<(usize, usize), Edge> = BTreeMap::new();
    let mut add = |from: Option<&usize>, to: Option<&usize>, edge: Edge| {
        if let (Some(&from), Some(&to)) = (from, to) {
            let known = found.entry((from, to)).or_insert(edge);
            *known = edge.max(*known);
        }
    };
    for (at, item) in catalog.items.iter().enumerate() {
        item.after.iter().for_each(|id| add(places.get(id.as_str()), Some(&at), Edge::After));
        item.about.before.iter().for_each(|id| add(Some(&at), places.get(id.as_str()), Edge::Gate));
        item.about.watches.iter().for_each(|(id, trigger)| add(places.get(id.as_str()), Some(&at), Edge::of(*trigger)));
    }
    found.into_iter().map(|((from, to), edge)| (from, to, edge)).collect()
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
