//! A host with its configuration and its state: what a run works with.

use std::cell::{OnceCell, RefCell};

use serde_json::{Map, Value};

use crate::config::Config;
use crate::engine::prelude::*;
use crate::net;
use crate::resolve::Facts;
use crate::resolve::custom::Custom;
use crate::sandbox::Web;
use crate::site::Site;

/// The last values of custom facts.
const CUSTOM: &str = "custom-facts.json";

/// A host with its configuration and its state.
pub struct Agent<'a> {
    /// The configuration.
    pub config: Config,
    /// Where it was read from.
    pub config_path: PathBuf,
    /// The machine, or a tree.
    pub host: Host,
    /// Its state directory.
    pub store: Store,
    /// Where events go.
    pub report: &'a dyn Report,
    /// The host's name in the site.
    pub name: String,
    /// The custom facts, once they are read: their programs run once in a run.
    custom: OnceCell<Map<String, Value>>,
    /// Why this run does not apply the newest release yet, when other hosts go first.
    pub waits: RefCell<Option<String>>,
}

/// What is recorded of a release when it is applied.
#[derive(Clone, Debug, Default)]
pub struct ReleaseStamp {
    /// SHA-256 of its manifest, in hex.
    pub digest: String,
    /// When it was signed.
    pub created: Timestamp,
    /// Who signed it.
    pub signers: Vec<String>,
    /// The number of the key set that has the signers.
    pub keys: u64,
    /// Why this release, when it is not the newest.
    pub back: Option<String>,
    /// The deadline for reaching a source again, if the host gets cut off; `None` when none was reached before either.
    pub confirm_by: Option<Timestamp>,
}

impl<'a> Agent<'a> {
    /// Opens a host. `root` is `/` or a tree; `name` overrides the configured host name.
    pub fn open(root: &Path, config: &Path, name: Option<&str>, report: &'a dyn Report) -> Result<Self> {
        let config_path = config.to_owned();
        let config = Config::load(config, root)?;
        let mut host = Host::open(root)?;
        host.web = Box::new(Web::new(net::Options::default(), &config.sandbox.require));
        let mut store = Store::open(&config.state(&host))?;
        store.net = Box::new(Web::new(config.artifacts.net(), &config.sandbox.require));
        store.repositories = Some(Box::new(Web::new(config.artifacts.net(), &config.sandbox.require)));
        store.mirrors.clone_from(&config.artifacts.mirrors);
        store.only_mirrors = config.artifacts.only_mirrors;
        let hostname = || nix::unistd::gethostname().ok().map(|name| name.to_string_lossy().into_owned());
        let name = name.map(str::to_owned).or_else(|| config.host.clone()).or_else(hostname).ok_or_else(|| {
            error!(NAME, "this host has no name").help("set `host` in kpull.toml, or use --host NAME")
        })?;
        Ok(Self { config, config_path, host, store, report, name, custom: OnceCell::new(), waits: RefCell::default() })
    }

    /// The facts of this host, for a site.
    pub fn facts(&self, site: &Site) -> Result<Facts> {
        let facts = match self.host.is_live() {
            true => Facts::of_machine(&self.host)?,
            false => Facts::assumed(&self.name, site.find_host(&self.name)?.address, Some(&self.host))?,
        };
        Ok(Facts { custom: self.custom_facts()?.clone(), ..facts })
    }

    /// The custom facts of this host. One that can't be read has the value that it had last, so that a role does not change the host
    /// because a program failed once.
    pub fn custom_facts(&self) -> Result<&Map<String, Value>> {
        if let Some(known) = self.custom.get() {
            return Ok(known);
        }
        let Custom { mut values, failed } = Custom::read(&self.host)?;
        // a damaged record is none
        let last: Map<String, Value> = self.store.read(CUSTOM).ok().flatten().unwrap_or_default();
        for (name, error) in &failed {
            values.extend(last.get(name).map(|value| (name.clone(), value.clone())));
            self.report.event(&Event::NoFact(name, error));
        }
        if values != last {
            self.store.write_quickly(CUSTOM, &values)?;
        }
        Ok(self.custom.get_or_init(|| values))
    }
}
