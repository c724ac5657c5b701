//! `kpull check`.

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use crate::cli::{Run, SiteArgs, print, print_json};
use crate::error::{Error, Exit, Result};
use crate::pki::survey;
use crate::resolve::{Facts, resolve};

/// Arguments of `check`.
#[derive(Args, Debug)]
pub struct Check {
    #[command(flatten)]
    site: SiteArgs,
    /// Write one JSON object a line
    #[arg(long)]
    json: bool,
}

impl Run for Check {
    fn run(&self) -> Result<Exit> {
        let site = self.site.load()?;
        let mut errors: Vec<Error> = Vec::new();
        for (name, host) in &site.hosts {
            let resolved = Facts::assumed(name, host.address, None).and_then(|facts| resolve(&site, name, &facts));
            match resolved {
                Ok(catalog) if self.json => {
                    print_json(
                        &json!({ "event": "checked", "version": crate::report::VERSION, "host": name, "resources": catalog.items.len() }),
                    );
                }
                Ok(catalog) => {
                    print(&format!("✓ {name:<16} {} resources of {} roles", catalog.items.len(), host.roles.len()))
                }
                Err(error) => errors.push(error),
            }
        }
        for role in site.roles.keys().filter(|role| !site.hosts.values().any(|host| host.roles.contains(role))) {
            if !self.json {
                print(&format!("! the role {role} is used by no host, so its templates were not tried"));
            }
        }
        if errors.is_empty() {
            let now = Timestamp::now();
            for standing in survey(&site, now)? {
                errors.extend(standing.error());
                match standing.warning(now) {
                    Some(warning) if self.json => print_json(
                        &json!({ "event": "warning", "version": crate::report::VERSION, "host": standing.host, "warning": warning }),
                    ),
                    Some(warning) => print(&format!("! {warning}")),
                    None => {}
                }
            }
        }
        match Error::all(distinct(errors)) {
            Some(error) => Err(error),
            None => Ok(Exit::Done),
        }
    }

    fn json(&self) -> bool {
        self.json
    }
}

/// Each error once: a mistake in a role is there for every host that has the role.
fn distinct(errors: Vec<Error>) -> Vec<Error> {
    let mut seen = std::collections::HashSet::new();
    let key = |error: &Error| (error.to_string(), error.place().map(ToString::to_string));
    errors.into_iter().flat_map(Error::each).filter(|error| seen.insert(key(error))).collect()
}
