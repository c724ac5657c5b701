//! `kpull self-test`: the test that a new kpull must pass before it replaces the old one.

use crate::cli::prelude::*;
use crate::config::Config;
use crate::read;

/// Arguments of `self-test`.
#[derive(Args, Debug)]
pub struct SelfTest {
    #[command(flatten)]
    host: HostArgs,
}

impl Run for SelfTest {
    fn run(&self) -> Result<Exit> {
        let config = Config::load(&self.host.config(), &self.host.root)?;
        config.trust.start()?;
        // opening a state directory would create it
        let has_state = read::is_directory(&config.state(&Host::open(&self.host.root)?));
        let report = Text::new(false);
        let catalog = if has_state { self.host.agent(&report)?.cached_catalog()? } else { None };
        let kept = catalog.map(|catalog| (catalog.manifest().serial, catalog.get().items.len()));
        let line = match kept {
            Some((serial, resources)) => format!("ok: release {serial}, {resources} resources"),
            None => "ok: the configuration can be read; there is no release yet".to_owned(),
        };
        let (serial, resources) = kept.unzip();
        print_result(self.host.json, json!({ "ok": true, "serial": serial, "resources": resources }), &line);
        Ok(Exit::Done)
    }
}
