//! Which release this host follows now, and the catalog that it gives.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use crate::config::Config;
use crate::error::{Error, Exit, Result};
use crate::host::Host;
use crate::report::{Event, Report};
use crate::resolve::{Catalog, Facts, resolve};
use crate::site::{Files, Site};
use crate::source::{self, Poll, Source, Tree};
use crate::store::Store;
use crate::trust::{Policy, Seen, Verified};

/// A host with its configuration and state: what a run works with.
pub struct Agent<'a> {
    /// The configuration.
    pub config: Config,
    /// The machine, or a tree.
    pub host: Host,
    /// Its state directory.
    pub store: Store,
    /// Whoever listens.
    pub report: &'a dyn Report,
    /// The host's name in the site.
    pub name: String,
}

/// The catalog to converge to.
pub struct Taken {
    /// The host's catalog.
    pub catalog: Verified<Catalog>,
    /// SHA-256 of the release's manifest, in hex.
    pub digest: String,
    /// Why something newer was not taken: a refusal, a site that can't be resolved, no source that answers.
    pub trouble: Option<Error>,
}

/// A release that was read, verified and resolved.
struct Read {
    catalog: Verified<Catalog>,
    files: Files,
    seen: Seen,
    bytes: Vec<u8>,
    signatures: Vec<u8>,
}

impl<'a> Agent<'a> {
    /// Opens a host. `root` is `/` or a tree; `name` overrules the configured host name.
    pub fn open(root: &Path, config: &Path, name: Option<&str>, report: &'a dyn Report) -> Result<Self> {
        let config = Config::load(config)?;
        let host = Host::open(root)?;
        let mut store = Store::open(&config.state(&host))?;
        store.net = config.artifacts.net();
        store.mirrors.clone_from(&config.artifacts.mirrors);
        store.only_mirrors = config.artifacts.only_mirrors;
        let own = || nix::unistd::gethostname().ok().map(|name| name.to_string_lossy().into_owned());
        let name =
            name.map(str::to_owned).or_else(|| config.host.clone()).or_else(own).ok_or_else(|| {
                Error::new("this host has no name").help("set `host` in kpull.toml, or say --host NAME")
            })?;
        Ok(Self { config, host, store, report, name })
    }

    /// Asks the sources and takes what is new, if it is good; else stays with the last good release.
    pub fn take(&self) -> Result<Taken> {
        let policy = self.config.policy()?;
        let seen = self.store.seen()?;
        let now = Timestamp::now();
        let mut marks = self.store.marks();
        // what came with a mark is only as good as what was kept of it
        let kept = self.store.release()?.map(|kept| self.read_kept(&policy, &kept, now));
        let good = kept.as_ref().and_then(|kept| kept.as_ref().ok()).map(|(read, _)| read);
        let mut trouble: Vec<Error> = Vec::new();
        let mut answered = false;
        for (index, config) in self.config.sources.iter().enumerate() {
            let mut source = source::open(config, &self.store.source_cache(index))?;
            let name = source.name();
            let mark = marks.get(&name).filter(|_| good.is_some());
            let found = match self.poll(&mut *source, mark.map(String::as_str)) {
                Ok(None) => {
                    answered = true;
                    break;
                }
                Ok(Some((tree, mark))) => self
                    .read(&policy, &*tree, seen.as_ref(), now, good.map(|good| &good.files))
                    .map(|read| (read, mark)),
                Err(error) => Err(error),
            };
            match found {
                Ok((read, mark)) => {
                    self.report.event(&Event::News { source: &name, manifest: read.catalog.manifest() });
                    // the release before what was seen of it: a crash in between must not leave only a serial
                    self.store.set_release(&read.bytes, &read.signatures, &read.files)?;
                    self.store.set_seen(&read.seen)?;
                    marks.insert(name, mark);
                    self.store.set_marks(&marks)?;
                    return Ok(Taken { catalog: read.catalog, digest: read.seen.digest, trouble: None });
                }
                Err(error) => {
                    // the only source's error is the run's own, and told as that
                    if self.config.sources.len() > 1 {
                        self.report.event(&Event::Passed { source: &name, error: &error });
                    }
                    trouble.push(error);
                }
            }
        }
        // a refusal is worse news than a server that does not answer
        trouble.sort_by_key(|error| error.exit_code() != Exit::Refused);
        let trouble = if answered { None } else { trouble.into_iter().next() };
        let Some(kept) = kept else {
            return Err(trouble.unwrap_or_else(|| Error::new("there is no release to apply yet")));
        };
        match (kept, trouble) {
            (Ok((read, late)), trouble) => {
                Ok(Taken { catalog: read.catalog, digest: read.seen.digest, trouble: trouble.or(late) })
            }
            (Err(error), None) => Err(error),
            (Err(_), Some(trouble)) => Err(trouble),
        }
    }

    /// The catalog of the release that this host has, verified and resolved; `None` before the first. Old age is no
    /// error here.
    pub fn kept_catalog(&self) -> Result<Option<Verified<Catalog>>> {
        let Some(kept) = self.store.release()? else { return Ok(None) };
        let (read, _) = self.read_kept(&self.config.policy()?, &kept, Timestamp::now())?;
        Ok(Some(read.catalog))
    }

    /// The files of the release that this host has, verified; `None` before the first.
    pub fn kept_files(&self) -> Result<Option<Files>> {
        let Some(kept) = self.store.release()? else { return Ok(None) };
        let release = self.config.policy()?.announce(&kept)?.fetch(&kept, None)?;
        Ok(Some(release.get().clone()))
    }

    fn poll(&self, source: &mut dyn Source, mark: Option<&str>) -> Result<Option<(Box<dyn Tree>, String)>> {
        Ok(match source.poll(mark)? {
            Poll::Unchanged => None,
            Poll::News(tree, mark) => Some((tree, mark)),
        })
    }

    fn read(
        &self,
        policy: &Policy,
        tree: &dyn Tree,
        seen: Option<&Seen>,
        now: Timestamp,
        known: Option<&Files>,
    ) -> Result<Read> {
        let announced = policy.announce(tree)?;
        announced.check_time(seen, now)?;
        self.resolve(announced, tree, known)
    }

    /// The kept release, and whether it is too old by now: what was good once is still converged to.
    fn read_kept(&self, policy: &Policy, kept: &dyn Tree, now: Timestamp) -> Result<(Read, Option<Error>)> {
        let announced = policy.announce(kept)?;
        let late = announced.check_time(None, now).err();
        Ok((self.resolve(announced, kept, None)?, late))
    }

    fn resolve(&self, announced: crate::trust::Announced, tree: &dyn Tree, known: Option<&Files>) -> Result<Read> {
        let seen = Seen::of(&announced);
        let (bytes, signatures) = (announced.bytes.clone(), announced.signatures.clone());
        let release = announced.fetch(tree, known)?;
        let files = release.get().clone();
        let catalog = release.then(|files| {
            let site = Arc::new(Site::load(files)?);
            let facts = self.facts(&site)?;
            resolve(&site, &self.name, &facts)
        })?;
        Ok(Read { catalog, files, seen, bytes, signatures })
    }

    fn facts(&self, site: &Site) -> Result<Facts> {
        if self.host.is_live() {
            return Facts::of_machine(&self.host);
        }
        Facts::assumed(&self.name, site.find_host(&self.name)?.address, Some(&self.host))
    }
}
