//! `kpull.toml`: the name of a host, where its releases come from, and which keys it trusts.

mod hook;
mod metrics;
mod status;

pub use hook::{Hook, When, origin};
pub use metrics::Metrics;
pub use status::{READING, Status, cluster};

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::Doc;
use crate::document::fields::HumanDuration;
use crate::error::{Context, Error, Result, code, counted, error};
use crate::host::root::Root;
use crate::host::{Host, writable};
use crate::net;
use crate::read;
use crate::sandbox::Need;
use crate::source::{self, Reach};
use crate::store::Keep;
use crate::trust::{AllowedSigners, KeySet, Purpose, TRUST_FILE};

/// A host's configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The host's name in the site (`host_vars/NAME.toml`). Default: the machine's host name.
    pub host: Option<String>,
    /// The state directory. Default: `/var/lib/kpull` of the root.
    pub state: Option<PathBuf>,
    /// The keys that the host trusts.
    pub trust: Trust,
    /// How artifacts are downloaded.
    #[serde(default)]
    pub artifacts: Artifacts,
    /// The keys that decrypt the host's secrets.
    #[serde(default)]
    pub secrets: Secrets,
    /// Requirements for the process that talks to the network.
    #[serde(default)]
    pub sandbox: Sandbox,
    /// When this host rolls back automatically.
    #[serde(default)]
    pub rollback: Rollback,
    /// How many generations are kept.
    #[serde(default)]
    pub keep: Keep,
    /// The place where this host publishes its status. Default: none.
    pub status: Option<Status>,
    /// The place where this host writes its metrics. Default: none.
    pub metrics: Option<Metrics>,
    /// Programs and servers to notify of runs.
    #[serde(rename = "hook", default)]
    pub hooks: Vec<Hook>,
    /// The interval between full checks; `0s` for a full check in each run. Default: `1h`.
    verify_every: Option<HumanDuration>,
    /// The interval at which kpull polls all sources, even if the first has no news; `0s` for each run. Default: `1h`.
    ask_all_every: Option<HumanDuration>,
    /// The sources of releases, in the order to try.
    #[serde(rename = "source", default)]
    pub sources: Vec<source::Config>,
}

/// `[trust]`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    /// The site's name.
    pub site: String,
    /// The file with the keys of the signers, in OpenSSH's allowed_signers format. Set either this or `keys`.
    pub allowed_signers: Option<PathBuf>,
    /// A key set of the site (its `keys/N.toml`) to start from.
    pub keys: Option<PathBuf>,
    /// How many different keys must sign a release. Default: 1. A key set has its own threshold.
    pub threshold: Option<usize>,
    /// How many different keys must sign a new key set. Default: as many as a release.
    pub rotate_threshold: Option<usize>,
}

/// `[artifacts]`: how artifacts are downloaded, see [`net::Options`], and from where besides their own addresses.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Artifacts {
    /// See [`net::Options::ca`].
    ca: Option<PathBuf>,
    /// See [`net::Options::client_cert`].
    client_cert: Option<PathBuf>,
    /// See [`net::Options::client_key`].
    client_key: Option<PathBuf>,
    /// See [`net::Options::timeout`].
    timeout: Option<u64>,
    /// See [`net::Options::retries`].
    retries: Option<u32>,
    /// Addresses (`https://`, `http://`, `file:///`) of mirrors that `kpull mirror` writes, tried in this order before the addresses in
    /// `artifacts.toml`. Default: none.
    pub mirrors: Vec<String>,
    /// Whether the addresses in `artifacts.toml` are never used, for a host that can't reach them. Default: false.
    pub only_mirrors: bool,
}

impl Artifacts {
    /// The options for connecting to mirrors and to the addresses in `artifacts.toml`.
    pub fn net(&self) -> net::Options {
        let Self { ca, client_cert, client_key, timeout, retries, .. } = self.clone();
        net::Options { ca, client_cert, client_key, timeout, retries, ..net::Options::default() }
    }

    /// Refuses options that contradict each other; `doc` is the file that this was read from.
    fn check(&self, doc: &Doc) -> Result<()> {
        let at = |names: &[&str]| doc.place(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        for (index, mirror) in self.mirrors.iter().enumerate().filter(|(_, mirror)| !mirror.starts_with("file:///")) {
            net::parse(mirror)
                .map_err(|error| error.at(at(&["artifacts", "mirrors", &index.to_string()]), "this mirror"))?;
        }
        if self.only_mirrors && self.mirrors.is_empty() {
            return Err(error!(CONFIG, "`only_mirrors` is set without `mirrors`")
                .at(at(&["artifacts", "only_mirrors"]), "no artifact could be downloaded")
                .help(
                    "add mirrors = [\"https://HOST/DIRECTORY\"], the address of a directory that `kpull mirror` writes",
                ));
        }
        self.net().check().map_err(|error| error.at(at(&["artifacts"]), "these options"))
    }
}

/// `[sandbox]`: what is required of the process that talks to the network.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sandbox {
    /// The parts of the sandbox that kpull requires before it fetches anything. Default: none.
    pub require: Vec<Need>,
}

/// `[rollback]`: when this host rolls back automatically.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rollback {
    /// How often kpull tries a release, with a minute between the attempts, before the release counts as bad on this host. Default: 2.
    pub tries: u32,
    /// How long a source may take to answer after a change to the network, the firewall or SSH. Default: `60s`.
    contact_within: HumanDuration,
}

impl Default for Rollback {
    fn default() -> Self {
        Self { tries: 2, contact_within: HumanDuration(Duration::from_secs(60)) }
    }
}

impl Rollback {
    /// How long no source may answer after a change that can cut this host off.
    pub fn contact_within(self) -> Duration {
        self.contact_within.0
    }
}

/// `[secrets]`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    /// Files with the host's private keys. Default: its SSH host keys.
    pub identities: Option<Vec<PathBuf>>,
}

/// The host keys that secrets can be encrypted for.
const HOST_KEYS: &[&str] = &["/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_rsa_key"];

impl Config {
    /// The state directory of this host.
    pub fn state(&self, host: &Host) -> PathBuf {
        self.state.clone().unwrap_or_else(|| host.root.outside(Path::new("/var/lib/kpull")))
    }

    /// The interval between full checks.
    pub fn verify_every(&self) -> Duration {
        self.verify_every.map_or(Duration::from_secs(3600), |duration| duration.0)
    }

    /// The interval at which all sources are polled, even if the first has no news.
    pub fn ask_all_every(&self) -> Duration {
        self.ask_all_every.map_or(Duration::from_secs(3600), |duration| duration.0)
    }

    /// Reads the configuration of a host, `/` or a tree; a relative path in it starts at its own directory. Root refuses a
    /// configuration that others may write, or that names keys or programs that others may write.
    pub fn load(path: &Path, root: &Path) -> Result<Self> {
        for path in [path, &root.join(TRUST_FILE.trim_start_matches('/'))] {
            writable::check(path, root)?;
        }
        let bytes = read::named(path)
            .context(code::CONFIG, || format!("can't read the configuration {}", path.display()))
            .map_err(|error| error.or_help("run `kpull enroll URL --site NAME` to write it, or pass --config FILE"))?;
        let doc = Doc::parse(&path.display().to_string(), &bytes)?;
        let mut config: Self = doc.read()?;
        config.check(&doc, path)?;
        let base = path.parent().unwrap_or(Path::new("."));
        config.paths().for_each(|path| *path = base.join(&*path));
        let keys = [&config.trust.allowed_signers, &config.trust.keys].into_iter().flatten().map(PathBuf::as_path);
        for path in keys.chain(config.hooks.iter().filter_map(Hook::program)) {
            writable::check(path, root)?;
        }
        Ok(config)
    }

    /// Refuses options that contradict each other; `doc` is the file at `path` that this was read from.
    fn check(&self, doc: &Doc, path: &Path) -> Result<()> {
        let at = |table: &str, index: usize| doc.place(&[table.to_owned(), index.to_string()]);
        let table = |name: &str| doc.place(&[name.to_owned()]);
        self.trust.check().map_err(|error| error.at(table("trust"), "in this table"))?;
        if self.sources.is_empty() {
            return Err(
                error!(CONFIG, "{} names no source", path.display()).help("add [[source]] with `git`, `http` or `dir`")
            );
        }
        for (index, source) in self.sources.iter().enumerate() {
            source.check().map_err(|error| error.at(at("source", index), "this source"))?;
            if !self.sandbox.require.is_empty() && source.reach()? == Reach::Ssh {
                return Err(error!(
                    CONFIG,
                    "git over ssh does not run in the sandbox, which `require` under [sandbox] requires"
                )
                .at(at("source", index), "this source")
                .help("use https, or remove `require` under [sandbox]"));
            }
        }
        self.artifacts.check(doc)?;
        if let Some(status) = &self.status {
            status.check().map_err(|error| error.at(table("status"), "in this table"))?;
        }
        for (index, hook) in self.hooks.iter().enumerate() {
            hook.check().map_err(|error| error.at(at("hook", index), "this hook"))?;
        }
        Ok(())
    }

    /// Every path in it: a relative one starts at the directory of the configuration.
    fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Artifacts { ca, client_cert, client_key, .. } = &mut self.artifacts;
        let own = [&mut self.state, &mut self.trust.allowed_signers, &mut self.trust.keys, ca, client_cert, client_key];
        let paths = own.into_iter().flatten().chain(self.metrics.iter_mut().map(|metrics| &mut metrics.dir));
        let paths = paths.chain(self.secrets.identities.iter_mut().flatten());
        let paths = paths.chain(self.sources.iter_mut().flat_map(source::Config::paths));
        paths.chain(self.status.iter_mut().flat_map(Status::paths)).chain(self.hooks.iter_mut().flat_map(Hook::paths))
    }

    /// Each secret of this configuration, which was read from `path`, that every user of the host can read.
    pub fn exposed(&self, path: &Path) -> Vec<Error> {
        let status = self.status.iter().flat_map(|status| &status.client_key);
        let files = self.sources.iter().flat_map(|source| [&source.bearer, &source.basic, &source.client_key]);
        let hooks = self.hooks.iter().flat_map(Hook::secret_files);
        let files = files.chain(hooks).chain([&self.artifacts.client_key]).flatten().chain(status);
        let files = files.chain(self.secrets.identities.iter().flatten()).map(|file| (file.as_path(), "a secret"));
        // the address of another's server is a secret itself, as a rule
        let own = self.hooks.iter().any(|hook| hook.post.is_some()).then_some((path, "the address of a hook"));
        let error = |(file, what): (&Path, &str)| {
            let file = file.display();
            error!(CONFIG, "every user of this host can read {file}, which contains {what}")
                .help(format!("run `chmod o-rwx {file}`, and change the secret if someone may have read it"))
        };
        let mut known = HashSet::new();
        let public = files.chain(own).filter(|(file, _)| known.insert(*file) && writable::is_public(file));
        public.map(error).collect()
    }

    /// The files with the private keys that decrypt the host's secrets.
    pub fn identities(&self, root: &Root) -> Vec<PathBuf> {
        let host_keys = || HOST_KEYS.iter().map(|path| root.outside(Path::new(path))).collect();
        self.secrets.identities.clone().unwrap_or_else(host_keys)
    }
}

impl Trust {
    fn check(&self) -> Result<()> {
        match (&self.allowed_signers, &self.keys) {
            (None, None) => Err(error!(CONFIG, "[trust] names no keys").help(
                "set `allowed_signers` to a file with the keys of the signers, or `keys` to a key set of the site",
            )),
            (Some(_), Some(_)) => {
                Err(error!(CONFIG, "[trust] sets both `allowed_signers` and `keys`").help("keep only one of them"))
            }
            (None, Some(_)) if self.threshold.or(self.rotate_threshold).is_some() => {
                Err(error!(CONFIG, "[trust] sets a threshold beside `keys`")
                    .help("a key set defines its own thresholds: remove it"))
            }
            _ => Ok(()),
        }
    }

    /// The keys that the host starts from.
    pub fn start(&self) -> Result<KeySet> {
        if let Some(path) = &self.keys {
            let bytes =
                read::named(path).context(code::CONFIG, || format!("can't read the key set {}", path.display()))?;
            let set = KeySet::parse(&path.display().to_string(), &bytes)?;
            if set.site != self.site {
                return Err(error!(CONFIG, "{} is a key set of the site `{}`", path.display(), set.site)
                    .help(format!("`site` under [trust] in kpull.toml is `{}`", self.site)));
            }
            return Ok(set);
        }
        let Some(path) = &self.allowed_signers else { return Err(error!(CONFIG, "[trust] names no keys")) };
        let signers = AllowedSigners::load(path)?;
        let release = self.threshold.unwrap_or(1);
        let rotate = self.rotate_threshold.unwrap_or(release);
        // without an explicit threshold, the list may have too few keys for a new set
        let explicit = self.rotate_threshold.map(|wanted| ("rotate_threshold", wanted, Purpose::Keys));
        for (name, wanted, purpose) in [Some(("threshold", release, Purpose::Release)), explicit].into_iter().flatten()
        {
            let keys = signers.count(purpose);
            if wanted == 0 || wanted > keys {
                return Err(error!(CONFIG, "`{name}` is {wanted}, and {} has {}", path.display(), counted(keys, "key"))
                .help(format!(
                    "set `{name}` under [trust] in kpull.toml to between 1 and the number of keys whose `namespaces` has {}",
                    purpose.namespace()
                )));
            }
        }
        Ok(KeySet::start(&self.site, signers, release, rotate))
    }
}
