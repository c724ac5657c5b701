//! `kpull adopt`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::author::adopt::{AdoptTarget, candidates, role};
use crate::cli::{Run, print, print_json, print_line};
use crate::document::replace;
use crate::error::{Error, Exit, Result, code};
use crate::host::root::Root;
use crate::report::VERSION;

/// Arguments of `adopt`.
#[derive(Args, Debug)]
pub struct Adopt {
    /// What the role is called; without it, tells what somebody has made or changed in /etc of this host
    role: Option<String>,
    /// /PATH (a directory with all in it), NAME.service, firewall:ZONE, sysctl:NAME, package:NAME
    #[arg(requires = "role")]
    things: Vec<AdoptTarget>,
    /// Take over files that not everybody here can read, too
    #[arg(long)]
    private: bool,
    /// The directory of the site that the role is written into
    #[arg(long, value_name = "DIR", default_value = ".")]
    site: PathBuf,
    /// Look at this directory as if it were `/`
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Write one JSON object a line
    #[arg(long)]
    json: bool,
}

impl Run for Adopt {
    fn run(&self) -> Result<Exit> {
        let root = Root::open(&self.root)?;
        let Some(name) = &self.role else {
            for path in candidates(&root)? {
                match self.json {
                    true => print_json(&json!({ "version": VERSION, "path": path })),
                    false => print_line(&path.display().to_string()),
                }
            }
            return Ok(Exit::Done);
        };
        if self.things.is_empty() {
            return Err(Error::new(code::ADOPT, "there is nothing to adopt")
                .help("name paths, units, firewall:ZONE, sysctl:NAME or package:NAME; `kpull adopt` alone tells what there is"));
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if name.is_empty() || !name.chars().all(is_plain) {
            return Err(Error::new(code::ADOPT, format!("a role can't be called `{name}`"))
                .help("letters, digits, `-` and `_` make a name"));
        }
        let dir = self.site.join("roles").join(name);
        if dir.exists() {
            return Err(Error::new(code::ADOPT, format!("there is a role {name} in {} already", self.site.display()))
                .help("choose another name; two roles can be made one by hand"));
        }
        let files = role(&root, name, &self.things, self.private)?;
        let written: Vec<(PathBuf, Vec<u8>)> =
            files.iter().map(|(path, content)| (self.site.join(path), content.to_vec())).collect();
        replace(&written)?;
        for (path, _) in &written {
            match self.json {
                true => print_json(&json!({ "version": VERSION, "wrote": path })),
                false => print_line(&format!("wrote {}", path.display())),
            }
        }
        if !self.json {
            print(&next(name, &self.site));
        }
        Ok(Exit::Done)
    }

    fn json(&self) -> bool {
        self.json
    }
}

fn next(name: &str, site: &Path) -> String {
    let site = site.display();
    format!(
        "next: add {name:?} to `roles` of a host in {site}/host_vars, then `kpull check --site {site}`, and on that host\n\
         `kpull plan --site {site} --host NAME`, which has nothing to change"
    )
}
