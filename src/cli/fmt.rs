//! `kpull fmt`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::author::fmt::format;
use crate::author::vendor;
use crate::cli::{Run, print, print_json};
use crate::document::{Files, read_if_there, replace, utf8};
use crate::error::{Context, Error, Exit, Result, code};

/// Arguments of `fmt`.
#[derive(Args, Debug)]
pub struct Fmt {
    /// TOML files [default: all that people write in the site]
    files: Vec<PathBuf>,
    /// Change nothing; fail when something would change
    #[arg(long)]
    check: bool,
    /// The site's directory
    #[arg(long, value_name = "DIR", default_value = ".")]
    site: PathBuf,
    /// Write one JSON object a line
    #[arg(long)]
    json: bool,
}

impl Run for Fmt {
    fn run(&self) -> Result<Exit> {
        let (mut changed, mut errors) = (Vec::new(), Vec::new());
        for path in self.files()? {
            let name = path.display().to_string();
            let bytes = std::fs::read(&path).context(code::EDIT, || format!("can't read {name}"))?;
            match utf8(&name, &bytes).and_then(|text| format(&name, text)) {
                Ok(formatted) if formatted.as_bytes() != bytes => changed.push((path, formatted.into_bytes())),
                Ok(_) => {}
                Err(error) => errors.push(error),
            }
        }
        Error::check(errors)?;
        if !self.check {
            replace(&changed)?;
        }
        for (path, _) in &changed {
            if self.json {
                print_json(
                    &json!({ "event": "formatted", "version": crate::report::VERSION, "path": path, "written": !self.check }),
                );
            } else {
                print(&format!("~ {}", path.display()));
            }
        }
        match changed.len() {
            left if left > 0 && self.check => {
                let files = if left == 1 { "1 file is".to_owned() } else { format!("{left} files are") };
                Err(Error::new(code::EDIT, format!("{files} not formatted")).help("run `kpull fmt`"))
            }
            _ => Ok(Exit::Done),
        }
    }

    fn json(&self) -> bool {
        self.json
    }
}

impl Fmt {
    /// The files that were named, or those of the site but for what `kpull` writes itself.
    fn files(&self) -> Result<Vec<PathBuf>> {
        if !self.files.is_empty() {
            return Ok(self.files.clone());
        }
        let is_ours = |path: &str| ["keys/", "pki/", "secrets/"].iter().any(|dir| path.starts_with(dir));
        let is_copied = |path: &str| path.starts_with("roles/") && !is_read(path);
        let files = Files::in_directory(&self.site)?;
        // what others have signed stays as it is
        let is_theirs = |path: &str| {
            let role = path.strip_prefix("roles/").and_then(|path| path.split('/').next());
            role.is_some_and(|role| files.get(&format!("roles/{role}/{}", vendor::ORIGIN)).is_some())
        };
        let wanted = files.iter().map(|(path, _)| path).filter(|path| path.ends_with(".toml"));
        let wanted = wanted.filter(|path| !is_ours(path) && !is_copied(path) && !is_theirs(path));
        let listed = read_if_there(&self.site, vendor::FILE)?.map(|_| vendor::FILE);
        Ok(wanted.chain(listed).map(|path| self.site.join(path)).collect())
    }
}

/// Whether a file of a role is TOML of kpull's own, and not something that goes to hosts.
fn is_read(path: &str) -> bool {
    matches!(path.split('/').collect::<Vec<_>>()[..], [_, _, "role.toml"] | [_, _, "tests", _])
}
