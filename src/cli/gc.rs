//! `kpull gc`.

use crate::cli::prelude::*;
use crate::engine::gc::{Freed, collect};

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
        print_result(
            self.host.json,
            json!({ "generations": generations, "saved": saved, "artifacts": artifacts }),
            &format!("deleted {generations} generations, {saved} saved contents and {artifacts} artifact files"),
        );
        Ok(Exit::Done)
    }
}
