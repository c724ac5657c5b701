//! `kpull vendor`.

use crate::author::vendor::{Change, FILE, List, Upstream, VendoredRole, changes, fetch, write};
use crate::cli::prelude::*;

/// Arguments of `vendor`.
#[derive(Args, Debug)]
pub struct Vendor {
    /// Sites in vendor.toml [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Change nothing; exit with 1 if a file would change
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    net: TlsArgs,
    #[command(flatten)]
    options: SiteArgs,
}

impl Run for Vendor {
    fn run(&self) -> Result<Exit> {
        let list = List::load(&self.options.site)?.ok_or_else(|| {
            error!(VENDOR, "there is no {FILE} in {}", self.options.site.display())
                .help("it lists the roles to vendor and their sites; `kpull schema vendor` shows its keys")
        })?;
        let upstreams = self.selected(&list)?;
        let files = Files::in_directory(&self.options.site)?;
        let (mut roles, mut errors) = (Vec::new(), Vec::new());
        for upstream in upstreams {
            let fetched = fetch(upstream, &self.net.options()).map_err(|error| match error.place() {
                None => error.at(upstream.place.clone(), "while fetching from this site"),
                Some(_) => error,
            });
            roles.extend(keep(&mut errors, fetched).into_iter().flatten());
        }
        Error::check(errors)?;
        let changes = changes(&files, &roles)?;
        if !self.check {
            write(&self.options.site, &changes)?;
        }
        changes.iter().for_each(|change| self.report_change(change));
        roles.iter().for_each(|role| self.report_role(role));
        match changes.len() {
            left if left > 0 && self.check => {
                Err(error!(VENDOR, "`kpull vendor` would change {}", counted(left, "file"))
                    .help("run it, and check `git diff`"))
            }
            _ => Ok(Exit::Done),
        }
    }
}

impl Vendor {
    fn selected<'a>(&self, list: &'a List) -> Result<Vec<&'a Upstream>> {
        let known: Vec<&str> = list.upstreams.iter().map(|upstream| upstream.site.as_str()).collect();
        if let Some(name) = self.names.iter().find(|name| !known.contains(&name.as_str())) {
            let error = error!(VENDOR, "{FILE} has no `{name}`");
            return Err(error.help_nearest(name, known.iter().copied(), format!("it has {}", known.join(", "))));
        }
        let is_selected = |upstream: &&Upstream| self.names.is_empty() || self.names.contains(&upstream.site);
        Ok(list.upstreams.iter().filter(is_selected).collect())
    }

    fn report_change(&self, change: &Change) {
        let (sign, done) = match (&change.content, change.is_there) {
            (None, _) => ("-", "removed"),
            (Some(_), true) => ("~", "changed"),
            (Some(_), false) => ("+", "added"),
        };
        let path = self.options.site.join(&change.path);
        let object = json!({ "event": "vendored", "path": path, "done": done, "written": !self.check });
        print_result(self.options.json, object, &format!("{sign} {}", path.display()));
    }

    fn report_role(&self, role: &VendoredRole) {
        let VendoredRole { own, origin, .. } = role;
        if self.options.json {
            print_json(json!({
                "event": "role", "role": own, "site": origin.site, "name": origin.role,
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
