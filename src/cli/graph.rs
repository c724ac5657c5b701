//! `kpull graph`.

use clap::Args;
use serde_json::json;

use crate::cli::{Run, SiteArgs, print, print_json};
use crate::error::{Exit, Result};
use crate::kind::Kick;
use crate::resolve::{Facts, resolve};
use crate::secret::Secrets;

/// Arguments of `graph`.
#[derive(Args, Debug)]
pub struct Graph {
    /// The host
    host: String,
    #[command(flatten)]
    site: SiteArgs,
    /// Write the graph for graphviz
    #[arg(long)]
    dot: bool,
    /// Write one JSON object a line
    #[arg(long, conflicts_with = "dot")]
    json: bool,
}

impl Run for Graph {
    fn run(&self) -> Result<Exit> {
        let site = self.site.load()?;
        let address = site.find_host(&self.host)?.address;
        let catalog = resolve(&site, &self.host, &Facts::assumed(&self.host, address, None)?, &Secrets::sealed())?;
        if self.dot {
            print("digraph kpull {\n  rankdir = LR;\n  node [shape = box];");
        }
        for item in &catalog.items {
            let watches = item.resource.watches();
            if self.json {
                let watches: Vec<_> = watches.iter().map(|(id, kick)| json!({ "id": id, "kick": kick })).collect();
                print_json(
                    &json!({ "version": crate::report::VERSION, "id": item.id, "role": *item.role, "place": item.place.to_string(), "after": item.after, "before": item.resource.before(), "watches": watches }),
                );
                continue;
            }
            if self.dot {
                print(&format!("  {:?} [tooltip = {:?}];", item.id, item.role));
                for after in &item.after {
                    print(&format!("  {after:?} -> {:?};", item.id));
                }
                for held in item.resource.before() {
                    print(&format!("  {:?} -> {held:?} [label = \"gate\"];", item.id));
                }
                for (watched, kick) in watches {
                    print(&format!("  {watched:?} -> {:?} [style = dashed, label = {:?}];", item.id, word(kick)));
                }
                continue;
            }
            print(&format!("{:<12} {}", item.role, item.id));
            for after in &item.after {
                print(&format!("{:<12}   after {after}", ""));
            }
            for held in item.resource.before() {
                print(&format!("{:<12}   gate before {held}", ""));
            }
            for (watched, kick) in watches {
                print(&format!("{:<12}   {} when {watched} changes", "", word(kick)));
            }
        }
        if self.dot {
            print("}");
        }
        Ok(Exit::Done)
    }

    fn json(&self) -> bool {
        self.json
    }
}

fn word(kick: Kick) -> &'static str {
    match kick {
        Kick::Reload => "reload",
        Kick::Restart => "restart",
    }
}
