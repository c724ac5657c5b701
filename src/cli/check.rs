//! `kpull check`.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use crate::cli::{Run, SiteArgs, print, print_json};
use crate::error::{Error, Exit, Result};
use crate::pki::{Standing, survey};
use crate::resolve::{Facts, resolve};
use crate::secret::Secrets;
use crate::secret::desk::{Desk, Users, distinct};
use crate::secret::scan::scan;
use crate::site::Site;

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
        let literals = scan(&site.files);
        let mut users = Users::default();
        for (name, host) in &site.hosts {
            let resolved = Facts::assumed(name, host.address, None)
                .and_then(|facts| resolve(&site, name, &facts, &Secrets::sealed()));
            if let Ok(catalog) = &resolved {
                users.add(catalog);
            }
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
        // of a site that can't be resolved it is not known who uses what
        if errors.is_empty() {
            errors.extend(self.certificates(&site)?);
            errors.extend(Desk::of(Path::new("."), site, users)?.complaints());
        }
        errors.extend(literals);
        match Error::all(distinct(errors)) {
            Some(error) => Err(error),
            None => Ok(Exit::Done),
        }
    }

    fn json(&self) -> bool {
        self.json
    }
}

impl Check {
    /// Tells of certificates that need attention; those that are no good any more are errors.
    fn certificates(&self, site: &Arc<Site>) -> Result<Vec<Error>> {
        let now = Timestamp::now();
        let standings = survey(site, now)?;
        for standing in &standings {
            match standing.warning(now) {
                Some(warning) if self.json => print_json(
                    &json!({ "event": "warning", "version": crate::report::VERSION, "host": standing.host, "warning": warning }),
                ),
                Some(warning) => print(&format!("! {warning}")),
                None => {}
            }
        }
        Ok(standings.iter().filter_map(Standing::error).collect())
    }
}
