//! `kpull gc`.

use clap::Args;
use serde_json::json;

use crate::cli::{HostArgs, Run, print, print_json};
use crate::engine::gc::{Freed, collect};
use crate::error::{Exit, Result};
use crate::report::{Text, VERSION};

/// Arguments of `gc`.
#[derive(Args, Debug)]
pub struct Gc {
    #[command(flatten)]
    host: HostArgs,
}

impl Run for Gc {
    fn run(&self) -> Result<Exit> {
        let report = Text::new(false);
        let agent = self.host.agent(&report)?;
        let _lock = agent.store.lock()?;
        let Freed { generations, saved, artifacts } = collect(&agent.store, &agent.config.keep)?;
        match self.host.json {
            true => print_json(
                &json!({ "version": VERSION, "generations": generations, "saved": saved, "artifacts": artifacts }),
            ),
            false => print(&format!(
                "{generations} generations, {saved} saved contents and {artifacts} files of artifacts deleted"
            )),
        }
        Ok(Exit::Done)
    }

    fn json(&self) -> bool {
        self.host.json
    }
}
