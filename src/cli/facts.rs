//! `kpull facts`.

use std::path::Path;

use clap::Args;

use crate::cli::{Run, print_as_is};
use crate::error::{Context, Exit, Result, code};
use crate::host::Host;
use crate::resolve::Facts;

/// Arguments of `facts`.
#[derive(Args, Debug)]
pub struct FactsOf {
    /// Write one JSON object
    #[arg(long)]
    json: bool,
}

impl Run for FactsOf {
    fn run(&self) -> Result<Exit> {
        let facts = Facts::of_machine(&Host::open(Path::new("/"))?)?;
        let what = || "facts can't be told".to_owned();
        let text = match self.json {
            true => serde_json::to_string(&serde_json::json!({ "version": crate::report::VERSION, "facts": facts }))
                .context(code::FACTS, what)?,
            false => toml::to_string(&facts).context(code::FACTS, what)?,
        };
        print_as_is(text.trim_end());
        Ok(Exit::Done)
    }

    fn json(&self) -> bool {
        self.json
    }
}
