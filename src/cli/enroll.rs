//! `kpull enroll`: sets which site and which signers a host trusts.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;

use crate::cli::keys;
use crate::cli::prelude::*;
use crate::document::quoted;
use crate::host::root::{Access, Root};
use crate::sandbox;
use crate::source;
use crate::trust::{self, Enrolment, LastSeen, Manifest, TrustState};

/// Arguments of `enroll`.
#[derive(Args, Debug)]
pub struct Enroll {
    #[command(flatten)]
    host: HostArgs,
    /// The source of releases: a directory on a web server, a git repository (….git, ssh://, or with --git), or a directory
    /// [default: as in kpull.toml]
    #[arg(value_name = "URL", requires = "site")]
    url: Option<String>,
    /// The site's name, as in its site.toml; releases of other sites are refused
    #[arg(long, value_name = "NAME", requires = "url")]
    site: Option<String>,
    /// Treat the address as a git repository
    #[arg(long, requires = "url")]
    git: bool,
    /// The site's directory in a git repository [default: the top level]
    #[arg(long, value_name = "DIRECTORY", requires = "url")]
    path: Option<String>,
    /// The trusted signers: a file in OpenSSH's allowed_signers format, or a key set of the site (keys/N.toml)
    #[arg(long, value_name = "FILE", requires = "url", conflicts_with = "fingerprint")]
    signers: Option<PathBuf>,
    /// The trusted signer: the key with this fingerprint (SHA256:…), which signed the site's first key set, or its release if there
    /// are no sets. Repeat it for each key, as many as that set requires for the next one
    #[arg(long, value_name = "FINGERPRINT", requires = "url")]
    fingerprint: Vec<String>,
    /// How many different keys must sign a release [default: each --fingerprint; 1 with --signers]
    #[arg(long, value_name = "N", requires = "url")]
    threshold: Option<usize>,
    /// Trust only the authorities in this PEM file for the source's TLS
    #[arg(long, value_name = "FILE", requires = "url")]
    ca: Option<PathBuf>,
    /// Replace an existing kpull.toml
    #[arg(long, requires = "url")]
    replace: bool,
    /// Accept a release with this serial or later, even if this host has seen newer ones
    #[arg(long, value_name = "SERIAL")]
    accept_serial: Option<u64>,
}

impl Run for Enroll {
    fn run(&self) -> Result<Exit> {
        let path = self.host.config();
        let written = match (&self.url, &self.site) {
            (Some(url), Some(site)) => self.write_configuration(url, site, &path)?,
            _ => Vec::new(),
        };
        let enrolled = self.enroll();
        for (path, before) in written.into_iter().filter(|_| enrolled.is_err()) {
            // the error of `enroll` is reported; a failure to restore the previous content is not
            let _ = before.map_or_else(|| std::fs::remove_file(&path), |bytes| std::fs::write(&path, bytes));
        }
        enrolled.map(|()| Exit::Done)
    }
}

/// Files that were written, and their previous content.
type Written = Vec<(PathBuf, Option<Vec<u8>>)>;

impl Enroll {
    /// Writes `kpull.toml` and the keys beside it, after checking the source.
    fn write_configuration(&self, url: &str, site: &str, path: &Path) -> Result<Written> {
        if path.exists() && !self.replace {
            return Err(error!(ENROLL, "{} already exists", path.display())
                .help("run `kpull enroll` without a URL to use it, or add --replace to write a new one"));
        }
        let config = self.source(url)?;
        let (keys_name, keys, threshold) = match &self.signers {
            Some(file) => {
                let bytes = std::fs::read(file).context(code::ENROLL, || format!("can't read {}", file.display()))?;
                let name = if file.extension().is_some_and(|end| end == "toml") { "keys" } else { "allowed_signers" };
                (name, bytes, self.threshold)
            }
            None => {
                let wanted: BTreeSet<&str> = self.fingerprint.iter().map(String::as_str).collect();
                if wanted.is_empty() {
                    return Err(error!(ENROLL, "no trusted signer was named")
                        .help("add --signers FILE or --fingerprint SHA256:…, from another place than the source"));
                }
                let cache = tempfile::tempdir().context(code::ENROLL, || "can't create a temporary directory")?;
                let tree = source::state(&mut *sandbox::open(&config, &cache.path().join("source"), &[])?)?;
                match trust::enrol(&*tree, site, &wanted, Timestamp::now())? {
                    Enrolment::Set(bytes) => ("keys", bytes, self.threshold),
                    Enrolment::Keys { lines, threshold } => {
                        ("allowed_signers", lines.into_bytes(), Some(self.threshold.unwrap_or(threshold)))
                    }
                }
            }
        };
        let base = path.parent().unwrap_or(Path::new("."));
        let file = if keys_name == "keys" { "keys.toml" } else { "allowed_signers" };
        let set = |key: &str, value: Option<&str>| value.map(|value| format!("{key} = {}\n", quoted(value)));
        let host = set("host", self.host.host.as_deref()).map(|line| format!("{line}\n")).unwrap_or_default();
        let threshold = threshold.map(|threshold| format!("threshold = {threshold}\n")).unwrap_or_default();
        let source = [("git", &config.git), ("path", &config.path), ("http", &config.http)].into_iter();
        let source = source.filter_map(|(key, value)| set(key, value.as_deref()));
        let files = [("dir", &config.dir), ("ca", &config.ca)].into_iter();
        let files = files.filter_map(|(key, path)| set(key, Some(&path.as_ref()?.display().to_string())));
        let text = format!(
            "{host}[trust]\nsite = {}\n{keys_name} = \"{file}\"\n{threshold}\n[[source]]\n{}",
            quoted(site),
            source.chain(files).collect::<String>()
        );
        let what = || format!("can't create {}", base.display());
        if let Some(above) = base.parent() {
            std::fs::create_dir_all(above).context(code::ENROLL, what)?;
        }
        // the configuration names files with secrets: only root reads it
        DirBuilder::new().mode(0o700).recursive(true).create(base).context(code::ENROLL, what)?;
        let root = Root::open(base)?;
        let mut written = Written::new();
        for (name, content) in [(file, keys.as_slice()), ("kpull.toml", text.as_bytes())] {
            let target = if name == "kpull.toml" { path.to_owned() } else { base.join(name) };
            let inside = Path::new("/").join(target.file_name().unwrap_or_default());
            written.push((target, root.read(&inside)?.map(|(_, bytes)| bytes)));
            root.write(&inside, content, Access::of_mode(0o600))?;
        }
        Ok(written)
    }

    fn source(&self, url: &str) -> Result<source::Config> {
        let mut config = source::Config { ca: self.ca.clone(), path: self.path.clone(), ..source::Config::default() };
        let is_git = self.git || url.ends_with(".git") || url.starts_with("ssh://") || url.starts_with("git@");
        match url {
            _ if is_git => config.git = Some(url.to_owned()),
            _ if url.starts_with("http://") || url.starts_with("https://") => config.http = Some(url.to_owned()),
            _ => {
                let dir = std::path::absolute(url).context(code::ENROLL, || format!("`{url}` is not a directory"))?;
                config.dir = Some(dir);
            }
        }
        config.check()?;
        Ok(config)
    }

    /// Verifies the release of the source against the keys of `kpull.toml`, and records it as trusted.
    fn enroll(&self) -> Result<()> {
        let report = Text::new(false);
        let agent = self.host.agent(&report)?;
        let _lock = agent.store.lock()?;
        let now = Timestamp::now();
        let in_root = match TrustState::in_root(&agent.host.root) {
            Ok(in_root) => in_root.filter(|in_root| in_root.site == agent.config.trust.site),
            Err(error) if self.accept_serial.is_none() => {
                return Err(error.help(
                    "add --accept-serial SERIAL to discard it, with the serial of a release that you know to be good",
                ));
            }
            Err(_) => None,
        };
        let mut trust = agent.first_trust(agent.config.trust.start()?);
        // only for the same keys: other keys have another chain of sets
        let followed =
            in_root.as_ref().filter(|in_root| in_root.start == trust.state.start).map_or(0, |in_root| in_root.keys);
        if self.accept_serial.is_none() {
            trust.state.release = in_root.and_then(|in_root| in_root.release);
        }
        let mut failed = None;
        for source in agent.sources() {
            let asked = source.and_then(|mut source| source::state(&mut *source));
            let found = asked.and_then(|tree| {
                let chain = trust.policy.keys.follow(&*tree, now, trust.state.release.as_ref())?;
                let last = chain.last().map_or(trust.state.keys, |signed| signed.set.number);
                if last < followed {
                    return Err(Error::refused(code::ENROLL, format!(
                        "this host has followed key set {followed}, and the source ends with set {last}"
                    ))
                    .help("someone may be hiding newer sets to restore replaced keys; if the site starts with new keys, name the signers again: `kpull enroll URL --site NAME --replace --signers FILE`"));
                }
                agent.adopt(&mut trust, chain)?;
                let announced = trust.policy.announce(&*tree, now)?;
                let (known, serial) = (trust.state.release.as_ref(), announced.manifest().serial);
                let oldest = self.accept_serial.or(known.map(|known| known.serial)).unwrap_or(0);
                if serial < oldest {
                    return Err(Error::refused(code::ENROLL, format!("the source has release {serial}, but this host has seen {oldest}")).help(
                        "someone may be replaying an old release; if this is intended, add --accept-serial SERIAL",
                    ));
                }
                announced.check_time(known, now)?;
                Ok(announced)
            });
            match found {
                Ok(announced) => {
                    agent.remember(&mut trust.state, LastSeen::of(&announced))?;
                    self.report(&trust.policy.keys, &trust.state, &announced);
                    return Ok(());
                }
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        Err(failed.unwrap_or_else(|| error!(ENROLL, "no source was checked")))
    }

    fn report(&self, set: &KeySet, memory: &TrustState, announced: &trust::VerifiedManifest) {
        let Manifest { serial, created, expires, .. } = announced.manifest();
        if self.host.json {
            print_json(json!({ "host": memory.host, "site": memory.site,
                "keys": set.number, "serial": serial, "signers": announced.signers }));
            return;
        }
        print(&format!(
            "{} is enrolled to the site {}\n{}\n  release {serial}: signed by {} on {created:.0}, valid until {expires:.0}\n\
             next: {}",
            memory.host,
            memory.site,
            keys::describe(set),
            announced.signers.join(", "),
            complete("`kpull plan`, then `kpull apply`"),
        ));
    }
}
