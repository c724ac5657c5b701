//! `kpull adopt`.

use crate::author::adopt::{AdoptTarget, candidates, role};
use crate::cli::prelude::*;
use crate::host::root::Root;

/// Arguments of `adopt`.
#[derive(Args, Debug)]
pub struct Adopt {
    /// The name of the role [default: list files in /etc that were created or changed on this host]
    role: Option<String>,
    /// The objects to adopt: /PATH (a directory with its contents), NAME.service, firewall:ZONE, sysctl:NAME, package:NAME
    #[arg(requires = "role")]
    things: Vec<AdoptTarget>,
    /// Include files that some users of the host cannot read
    #[arg(long)]
    private: bool,
    /// The directory of the site to write the role to
    #[arg(long, value_name = "DIR", default_value = ".")]
    site: PathBuf,
    /// Use this directory as if it were `/`
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Write one JSON object on each line
    #[arg(long)]
    json: bool,
}

impl Run for Adopt {
    fn run(&self) -> Result<Exit> {
        let root = Root::open(&self.root)?;
        let Some(name) = &self.role else {
            for path in candidates(&root)? {
                print_result(self.json, json!({ "path": path }), &path.display().to_string());
            }
            return Ok(Exit::Done);
        };
        if self.things.is_empty() {
            return Err(error!(ADOPT, "there is nothing to adopt")
                .help("name paths, units, firewall:ZONE, sysctl:NAME or package:NAME; `kpull adopt` without arguments lists candidates"));
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if name.is_empty() || !name.chars().all(is_plain) {
            return Err(
                error!(ADOPT, "`{name}` is not a valid name for a role").help("use letters, digits, `-` and `_`")
            );
        }
        let dir = self.site.join("roles").join(name);
        if dir.exists() {
            return Err(error!(ADOPT, "{} already has a role {name}", self.site.display())
                .help("choose another name; you can merge two roles by hand"));
        }
        let files = role(&root, name, &self.things, self.private)?;
        let written: Vec<(PathBuf, Vec<u8>)> =
            files.iter().map(|(path, content)| (self.site.join(path), content.to_vec())).collect();
        replace(&written)?;
        for (path, _) in &written {
            print_result(self.json, json!({ "wrote": path }), &format!("wrote {}", path.display()));
        }
        if !self.json {
            print(&next(name, &self.site));
        }
        Ok(Exit::Done)
    }
}

fn next(name: &str, site: &Path) -> String {
    let site = site.display();
    format!(
        "next: add {name:?} to `roles` of a host in {site}/host_vars, then `kpull check --site {site}`, and on that host\n\
         `kpull plan --site {site} --host NAME`, which shows no changes"
    )
}
