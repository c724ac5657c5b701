//! `kpull compare`.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use clap::Args;
use serde_json::json;

use crate::cli::{Run, print, print_as_is, print_json};
use crate::compare::{State, compare};
use crate::error::{Context, Error, Exit, Result};
use crate::host::process::at_terminal;
use crate::site::{Files, Site};

/// Arguments of `compare`.
#[derive(Args, Debug)]
pub struct Compare {
    /// What to compare with: a directory with a site, or a revision in the git repository of the site
    old: String,
    /// The state to look at, likewise [default: the site's directory as it is]
    new: Option<String>,
    /// The site's directory
    #[arg(long, value_name = "DIR", default_value = ".")]
    site: PathBuf,
    /// Show at most so many bytes of each difference
    #[arg(long, value_name = "BYTES", default_value_t = 20_000)]
    most: usize,
    /// Write one JSON object a line
    #[arg(long)]
    json: bool,
}

impl Run for Compare {
    fn run(&self) -> Result<Exit> {
        let old = self.state(&self.old)?;
        let new = match &self.new {
            Some(new) => self.state(new)?,
            None => read(&self.site)?,
        };
        let found = compare(&old, &new)?;
        if self.json {
            for (hosts, what) in &found.groups {
                print_json(
                    &json!({ "event": "compared", "version": crate::report::VERSION, "hosts": hosts, "markdown": what }),
                );
            }
            print_json(
                &json!({ "event": "done", "version": crate::report::VERSION, "command": "compare", "same": found.same,
                "changed": found.groups.iter().map(|(hosts, _)| hosts.len()).sum::<usize>() }),
            );
        } else {
            for line in found.markdown(self.most).lines() {
                match line.is_empty() {
                    true => print_as_is(""),
                    false => print(line),
                }
            }
        }
        Ok(Exit::Done)
    }

    fn json(&self) -> bool {
        self.json
    }
}

impl Compare {
    fn state(&self, name: &str) -> Result<State> {
        let dir = Path::new(name);
        if dir.is_dir() {
            return read(dir);
        }
        let what = || format!("can't get the revision `{name}`");
        if name.starts_with('-') {
            return Err(Error::new(what()).because("it starts with a dash"));
        }
        let unpacked = tempfile::tempdir().context(what)?;
        let mut child = at_terminal("git")
            .arg("-C")
            .arg(&self.site)
            .args(["archive", "--format=tar", name])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context(|| "can't run git".to_owned())?;
        let taken = child.stdout.take().map(|tar| tar::Archive::new(tar).unpack(unpacked.path()));
        let output = child.wait_with_output().context(what)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Error::new(what()).because(said.trim().trim_start_matches("fatal: ")).help(
                "say a directory, or a revision of the git repository that the site is in; a shallow clone has few",
            ));
        }
        taken.transpose().context(what)?;
        read(unpacked.path()).map_err(|error| error.help_more(&format!("this is the state at `{name}`")))
    }
}

fn read(dir: &Path) -> Result<State> {
    State::new(Site::load(Files::in_directory(dir)?)?, dir)
}
