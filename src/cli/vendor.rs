//! `kpull vendor`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::author::vendor::{Change, FILE, List, Upstream, VendoredRole, changes, take, write};
use crate::cli::{Run, TlsArgs, print, print_json, print_line};
use crate::document::Files;
use crate::error::{Error, Exit, Result, code, counted};
use crate::report::VERSION;

/// Arguments of `vendor`.
#[derive(Args, Debug)]
pub struct Vendor {
    /// Sites that vendor.toml names [default: all of them]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Change nothing; fail when something would change
    #[arg(long)]
    check: bool,
    /// The site's directory
    #[arg(long, value_name = "DIR", default_value = ".")]
    site: PathBuf,
    #[command(flatten)]
    net: TlsArgs,
    /// Write one JSON object a line
    #[arg(long)]
    json: bool,
}

impl Run for Vendor {
    fn run(&self) -> Result<Exit> {
        let list = List::load(&self.site)?.ok_or_else(|| {
            Error::new(code::VENDOR, format!("there is no {FILE} in {}", self.site.display()))
                .help("it says which roles are taken from where; `kpull schema vendor` has its keys")
        })?;
        let wanted = self.wanted(&list)?;
        let files = Files::in_directory(&self.site)?;
        let (mut taken, mut errors) = (Vec::new(), Vec::new());
        for upstream in wanted {
            match take(upstream, &self.net.options()) {
                Ok(roles) => taken.extend(roles),
                // every one of them happens to a site in this list
                Err(error) if error.place().is_none() => {
                    errors.push(error.at(upstream.place.clone(), "while taking from this site"));
                }
                Err(error) => errors.push(error),
            }
        }
        Error::check(errors)?;
        let changes = changes(&files, &taken)?;
        if !self.check {
            write(&self.site, &changes)?;
        }
        changes.iter().for_each(|change| self.tell_change(change));
        taken.iter().for_each(|role| self.tell_role(role));
        match changes.len() {
            left if left > 0 && self.check => {
                Err(Error::new(code::VENDOR, format!("`kpull vendor` would change {}", counted(left, "file")))
                    .help("run it, and look at `git diff`"))
            }
            _ => Ok(Exit::Done),
        }
    }

    fn json(&self) -> bool {
        self.json
    }
}

impl Vendor {
    fn wanted<'a>(&self, list: &'a List) -> Result<Vec<&'a Upstream>> {
        let known = || list.upstreams.iter().map(|upstream| upstream.site.as_str());
        if let Some(name) = self.names.iter().find(|name| !known().any(|known| known == *name)) {
            let error = Error::new(code::VENDOR, format!("{FILE} has no `{name}`"));
            return Err(error.help_nearest(
                name,
                known(),
                format!("it has {}", known().collect::<Vec<_>>().join(", ")),
            ));
        }
        let is_wanted = |upstream: &&Upstream| self.names.is_empty() || self.names.contains(&upstream.site);
        Ok(list.upstreams.iter().filter(is_wanted).collect())
    }

    fn tell_change(&self, change: &Change) {
        let (sign, done) = match (&change.content, change.is_there) {
            (None, _) => ("-", "removed"),
            (Some(_), true) => ("~", "changed"),
            (Some(_), false) => ("+", "added"),
        };
        let path = self.site.join(&change.path);
        if self.json {
            print_json(
                &json!({ "event": "vendored", "version": VERSION, "path": path, "done": done, "written": !self.check }),
            );
        } else {
            print_line(&format!("{sign} {}", path.display()));
        }
    }

    fn tell_role(&self, role: &VendoredRole) {
        let VendoredRole { own, origin, .. } = role;
        if self.json {
            print_json(&json!({
                "event": "role", "version": VERSION, "role": own, "site": origin.site, "name": origin.role,
                "git": origin.git, "commit": origin.commit, "serial": origin.serial, "signers": origin.signers,
            }));
        } else {
            let commit = origin.commit.get(..12).unwrap_or(&origin.commit);
            let signers = origin.signers.join(", ");
            print(&format!(
                "✓ {own:<16} {} of {}, release {}, commit {commit}, signed by {signers}",
                origin.role, origin.site, origin.serial
            ));
        }
    }
}
