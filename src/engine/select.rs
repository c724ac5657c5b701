//! Which release this host follows now, and the catalog that it gives.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;

use crate::config::Config;
use crate::document::{Files, Tree};
use crate::engine::rollout;
use crate::error::{Error, Exit, Result, code, one_line};
use crate::host::Host;
use crate::host::fleetlock::FleetLock;
use crate::net;
use crate::report::{Event, Report};
use crate::resolve::{Catalog, Facts, resolve};
use crate::sandbox;
use crate::secret::SecretStore;
use crate::site::Site;
use crate::source::{Poll, Source};
use crate::store::{CachedRelease, ENROLL, Generation, StayOn, Store};
use crate::trust::{KeySet, LastSeen, Policy, Signed, TrustState, Verified, VerifiedManifest};

/// A host with its configuration and state: what a run works with.
pub struct Agent<'a> {
    /// The configuration.
    pub config: Config,
    /// Where it was read from.
    pub config_path: PathBuf,
    /// The machine, or a tree.
    pub host: Host,
    /// Its state directory.
    pub store: Store,
    /// Whoever listens.
    pub report: &'a dyn Report,
    /// The host's name in the site.
    pub name: String,
    /// Why this run does not take the newest release, when it is not this host's turn.
    pub waits: RefCell<Option<String>>,
}

/// The catalog to converge to.
pub struct Selection {
    /// The host's catalog.
    pub catalog: Verified<Catalog>,
    /// What is written down of the release.
    pub stamp: ReleaseStamp,
    /// Why something newer was not taken: a refusal, a site that can't be resolved, no source that answers.
    pub trouble: Option<Error>,
    /// Who has to be asked before this release is applied.
    pub lock: Option<FleetLock>,
}

/// What is written down of a release when it is applied.
#[derive(Clone, Debug, Default)]
pub struct ReleaseStamp {
    /// SHA-256 of its manifest, in hex.
    pub digest: String,
    /// When it was signed.
    pub created: Timestamp,
    /// Who signed it.
    pub signers: Vec<String>,
    /// The number of the key set that has them.
    pub keys: u64,
    /// Why this one, when it is not the newest.
    pub back: Option<String>,
    /// Until when a source has to be reached again, if the host is cut off; `None` when none was reached before either.
    pub confirm_by: Option<Timestamp>,
}

/// A release that was read, verified and resolved.
struct Read {
    catalog: Verified<Catalog>,
    site: Arc<Site>,
    seen: LastSeen,
    announced: VerifiedManifest,
}

/// What a host believes, and what it remembers.
pub struct Trust {
    /// Whose signatures count now.
    pub policy: Policy,
    /// What it must not forget.
    pub memory: TrustState,
    /// The keys that it was enrolled with.
    start: KeySet,
    /// What one of its two memories has lost.
    to_mend: Option<TrustState>,
    /// Whether this run has adopted a newer key set.
    rotated: bool,
}

impl Trust {
    /// Whether a release with this serial, by the key set with this number, is none of those that a later set has taken back.
    pub fn counts(&self, store: &Store, serial: u64, keys: u64) -> Result<bool> {
        let newest = &self.policy.keys;
        for number in keys.max(self.start.number).saturating_add(1)..=newest.number {
            let last =
                if number == newest.number { newest.last_serial } else { KeySet::kept(store, number)?.last_serial };
            if last.is_some_and(|last| serial > last) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn counts_no_more(what: &str) -> Error {
    Error::refused(code::MEMORY, format!("{what} does not count any more"))
        .help("the site's keys were changed after it was signed: a newer release is needed")
}

fn stamp(read: &Read, back: Option<String>) -> ReleaseStamp {
    let VerifiedManifest { signers, keys, .. } = &read.announced;
    let LastSeen { digest, created, .. } = read.seen.clone();
    ReleaseStamp { digest, created, signers: signers.clone(), keys: *keys, back, confirm_by: None }
}

impl<'a> Agent<'a> {
    /// Opens a host. `root` is `/` or a tree; `name` overrules the configured host name.
    pub fn open(root: &Path, config: &Path, name: Option<&str>, report: &'a dyn Report) -> Result<Self> {
        let config_path = config.to_owned();
        let config = Config::load(config, root)?;
        let mut host = Host::open(root)?;
        host.web = Box::new(sandbox::Web::new(net::Options::default(), &config.sandbox.require));
        let mut store = Store::open(&config.state(&host))?;
        store.net = Box::new(sandbox::Web::new(config.artifacts.net(), &config.sandbox.require));
        store.mirrors.clone_from(&config.artifacts.mirrors);
        store.only_mirrors = config.artifacts.only_mirrors;
        let own = || nix::unistd::gethostname().ok().map(|name| name.to_string_lossy().into_owned());
        let name = name.map(str::to_owned).or_else(|| config.host.clone()).or_else(own).ok_or_else(|| {
            Error::new(code::NAME, "this host has no name").help("set `host` in kpull.toml, or say --host NAME")
        })?;
        Ok(Self { config, config_path, host, store, report, name, waits: RefCell::default() })
    }

    /// What this host believes. Refused when its memory and its configuration contradict each other.
    pub fn trust(&self) -> Result<Trust> {
        let mut trust = self.first_trust(self.config.trust.start()?);
        let Some((known, is_whole)) = TrustState::load(self.store.root(), &self.host.root)? else { return Ok(trust) };
        trust.to_mend = (!is_whole).then(|| known.clone());
        let memory = &mut trust.memory;
        for (what, enrolled, now) in [("site", &known.site, &memory.site), ("host", &known.host, &memory.host)] {
            if enrolled != now {
                return Err(Error::refused(
                    code::MEMORY,
                    format!("this host is enrolled as the {what} `{enrolled}`, and not as `{now}`"),
                )
                .help(format!("look at `{what}` in kpull.toml; {ENROLL}")));
            }
        }
        if known.keys <= memory.keys {
            // only local root has said what counts, and may say it anew
            memory.release = known.release;
            return Ok(trust);
        }
        if known.start != memory.start {
            return Err(Error::refused(code::MEMORY, format!(
                "the keys in kpull.toml are not those that this host was enrolled with, and key set {} counts since",
                known.keys
            ))
            .help(format!("put them back, or, if you mean to start from other keys, {ENROLL}")));
        }
        trust.policy.keys = KeySet::kept(&self.store, known.keys)?;
        trust.memory = known;
        Ok(trust)
    }

    /// What a host that starts from these keys believes and remembers.
    pub fn first_trust(&self, start: KeySet) -> Trust {
        let site = self.config.trust.site.clone();
        let memory = TrustState {
            site: site.clone(),
            host: self.name.clone(),
            start: start.digest(),
            keys: start.number,
            release: None,
        };
        Trust { policy: Policy { site, keys: start.clone() }, memory, start, to_mend: None, rotated: false }
    }

    /// Asks the sources and takes what is new, if it is good and this host's turn, or nobody waits for that (`now`); else stays
    /// with the last good release.
    pub fn take(&self, now: bool) -> Result<Selection> {
        let mut trust = self.trust()?;
        if let Some(memory) = &trust.to_mend {
            // a copy that was lost is made again from the other
            memory.save(self.store.root(), &self.host.root)?;
        }
        let (is_now, now) = (now, Timestamp::now());
        let mut marks = self.store.marks();
        // what came with a mark is only as good as what was kept of it
        let mut kept = self.store.release()?.map(|kept| self.read_kept(&trust, &kept, now));
        let mut trouble: Vec<Error> = Vec::new();
        let mut answered = false;
        let mut newest: Option<(Read, String)> = None;
        let order = self.order(kept.as_ref().is_some_and(|kept| matches!(kept, Ok((_, None)))));
        for source in &order.sources {
            if !order.all && (answered || newest.is_some()) {
                break;
            }
            let mut source = source.open()?;
            let name = source.name();
            let good = kept.as_ref().and_then(|kept| kept.as_ref().ok()).map(|(read, _)| read);
            let mark = marks.get(&name).filter(|_| good.is_some());
            let (began, keys) = (Instant::now(), trust.policy.keys.number);
            let found = match self.poll(&mut *source, mark.map(String::as_str)) {
                Ok(None) => Ok(None),
                Ok(Some((tree, mark))) => self
                    .rotate(&mut trust, &*tree, now)
                    .and_then(|()| self.read(&trust, &*tree, now, good.map(|good| &good.site.files)))
                    .map(|read| Some((read, mark))),
                Err(error) => Err(error),
            };
            self.note_source(&name, began.elapsed(), &found)?;
            if trust.policy.keys.number != keys
                && let Some((_, other)) = newest.take()
            {
                // verified by keys that may count no more
                marks.remove(&other);
            }
            match found {
                Ok(None) => answered = true,
                Ok(Some((read, mark))) => {
                    // what another source has is this one, or newer, or refused
                    self.remember(&mut trust.memory, read.seen.clone())?;
                    marks.insert(name.clone(), mark);
                    let known = newest.as_ref().map(|(newest, _)| newest).or(good.filter(|_| answered));
                    if known.is_none_or(|known| known.seen != read.seen) {
                        newest = Some((read, name));
                    }
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
        if order.all {
            self.store.note_all_asked()?;
        }
        if let Some((read, source)) = newest {
            self.report.event(&Event::News { source: &source, manifest: read.catalog.manifest() });
            let VerifiedManifest { bytes, signatures, .. } = &read.announced;
            self.store.set_release(bytes, signatures, &read.site.files)?;
            self.store.set_marks(&marks)?;
            return self.taken(read, None, true, is_now);
        }
        if answered && order.all {
            // of those that have the same release
            self.store.set_marks(&marks)?;
        }
        // a refusal is worse news than a server that does not answer
        trouble.sort_by_key(|error| error.exit_code() != Exit::Refused);
        let trouble = if answered { None } else { trouble.into_iter().next() };
        // keys may have been taken away meanwhile
        if trust.rotated
            && let Some(release) = self.store.release()?
        {
            kept = Some(self.read_kept(&trust, &release, now));
        }
        let Some(kept) = kept else {
            return Err(trouble.unwrap_or_else(|| Error::new(code::MEMORY, "there is no release to apply yet")));
        };
        match (kept, trouble) {
            (Ok((read, late)), trouble) => self.taken(read, trouble.or(late), answered, is_now),
            (Err(error), None) => Err(error),
            (Err(_), Some(trouble)) => Err(trouble),
        }
    }

    /// The newest release, or the one that this host stays with.
    fn taken(&self, read: Read, trouble: Option<Error>, answered: bool, is_now: bool) -> Result<Selection> {
        let mut taken = match self.store.hold()? {
            Some(hold) if read.seen.serial <= hold.not && !hold.is_over(Timestamp::now()) => {
                let known = self.store.generations()?.into_iter().rev().find(|one| one.release == hold.release);
                self.report.event(&Event::StaysOn { hold: &hold });
                let known = known.ok_or_else(|| {
                    Error::new(code::MEMORY, format!("release {}, which this host stays with, is lost", hold.serial))
                        .help("`kpull apply --retry` follows the newest again")
                })?;
                Selection { trouble, ..self.take_back(&known, &hold.why)? }
            }
            hold => {
                if hold.is_some_and(|hold| read.seen.serial > hold.not) {
                    self.store.set_hold(None)?;
                }
                self.in_turn(read, trouble, is_now)?
            }
        };
        if answered && self.host.is_live() {
            taken.stamp.confirm_by = Some(Timestamp::now() + self.config.rollback.contact_within());
        }
        Ok(taken)
    }

    /// The newest release, or the one that this host has until it is its turn.
    fn in_turn(&self, read: Read, trouble: Option<Error>, is_now: bool) -> Result<Selection> {
        let mut lock = None;
        if let (Some(rollout), Some(current)) = (&read.site.rollout, self.store.generation()?)
            && !is_now
            && current.release != read.seen.digest
            && (current.serial < read.seen.serial
                || !self.trust()?.counts(&self.store, current.serial, current.keys)?)
            && self.store.owed()?.release.as_ref() != Some(&read.seen.digest)
        {
            match rollout::wait(self, rollout, &read.site, &read.catalog.get().items, read.seen.serial) {
                Ok(None) => lock.clone_from(&rollout.fleetlock),
                Ok(Some(why)) => return Ok(Selection { trouble, ..self.stay(&current, read.seen.serial, &why)? }),
                // who can't be asked may be down because of what the next release mends, and a person has to say so
                Err(error) => {
                    let taken = self.stay(&current, read.seen.serial, &error.to_string())?;
                    return Ok(Selection { trouble: Some(trouble.unwrap_or(error)), ..taken });
                }
            }
        }
        let stamp = stamp(&read, None);
        Ok(Selection { stamp, catalog: read.catalog, trouble, lock })
    }

    /// What this host has, while it waits for its turn with the release with this serial.
    pub fn stay(&self, current: &Generation, serial: u64, why: &str) -> Result<Selection> {
        // others have a say in it: hosts that go first, a lock server
        let why = format!("release {serial}: {}", one_line(why));
        self.report.event(&Event::RolloutWaiting { why: &why });
        // also where that can't be converged to any more: whoever waits has not failed with the release that it waits for
        self.waits.replace(Some(why.clone()));
        self.take_back(current, &why)
    }

    /// The release of an earlier generation, verified again as one that was good then.
    pub fn take_back(&self, to: &Generation, why: &str) -> Result<Selection> {
        let (kept, announced) = self.announce_generation(to)?;
        let read = self.resolve(announced, &kept, None)?;
        let stamp = stamp(&read, Some(why.to_owned()));
        Ok(Selection { stamp, catalog: read.catalog, trouble: None, lock: None })
    }

    /// The last generation that was well, of another release than `digest`, whose release still counts: what there is to go back to.
    pub fn last_good(&self, digest: &str) -> Result<Option<Generation>> {
        self.store.last_good_that(digest, |one| self.announce_generation(one).is_ok())
    }

    /// The site of an earlier generation's release, verified again as one that was good then, and what it says of this host,
    /// with placeholders for secrets: to be looked at.
    pub fn look_back(&self, to: &Generation) -> Result<(Arc<Site>, Catalog)> {
        let (kept, announced) = self.announce_generation(to)?;
        let site = announced.fetch(&kept, None, &self.name)?.then(|site| Ok(Arc::new(site)))?.get().clone();
        let catalog = resolve(&site, &self.name, &self.facts(&site)?, &SecretStore::sealed())?;
        Ok((site, catalog))
    }

    /// The catalog of the release that this host has, verified and resolved; `None` before the first. Old age is no
    /// error here.
    pub fn kept_catalog(&self) -> Result<Option<Verified<Catalog>>> {
        let Some(kept) = self.store.release()? else { return Ok(None) };
        let (read, _) = self.read_kept(&self.trust()?, &kept, Timestamp::now())?;
        Ok(Some(read.catalog))
    }

    /// Follows the chain of key sets in `tree`, and adopts what it finds.
    pub fn rotate(&self, trust: &mut Trust, tree: &dyn Tree, now: Timestamp) -> Result<()> {
        let chain = trust.policy.keys.follow(tree, now, trust.memory.release.as_ref())?;
        self.adopt(trust, chain)
    }

    /// Goes by the last of these key sets, which follow the present one: for good, whatever becomes of the release.
    pub fn adopt(&self, trust: &mut Trust, chain: Vec<Signed>) -> Result<()> {
        for Signed { set, bytes } in chain {
            self.store.add_key_set(set.number, &bytes)?;
            trust.memory.keys = set.number;
            // what was seen under this set already is none of the releases before it
            if let Some(last) = set.last_serial
                && let Some(seen) =
                    trust.memory.release.as_mut().filter(|seen| seen.serial > last && seen.keys < set.number)
            {
                *seen = LastSeen { serial: last, digest: String::new(), ..seen.clone() };
                // nor does one of those that this host went back from keep it from what comes after
                if let Some(hold) = self.store.hold()?.filter(|hold| hold.not > last) {
                    self.store.set_hold(Some(&StayOn { not: last, ..hold }))?;
                }
            }
            trust.memory.save(self.store.root(), &self.host.root)?;
            self.report.event(&Event::Keys(&set));
            trust.policy.keys = set;
            trust.rotated = true;
        }
        Ok(())
    }

    /// Keeps what was seen of a release, before anything of it is applied.
    pub fn remember(&self, memory: &mut TrustState, seen: LastSeen) -> Result<()> {
        memory.release = Some(seen);
        memory.save(self.store.root(), &self.host.root)
    }

    /// The site of the release that this host has, verified, with the files that are this host's; `None` before the first.
    pub fn kept_site(&self) -> Result<Option<Arc<Site>>> {
        let Some(kept) = self.store.release()? else { return Ok(None) };
        let release = self.announce_kept(&self.trust()?, &kept)?.fetch(&kept, None, &self.name)?;
        Ok(Some(release.then(|site| Ok(Arc::new(site)))?.get().clone()))
    }

    fn poll(&self, source: &mut dyn Source, mark: Option<&str>) -> Result<Option<(Box<dyn Tree>, String)>> {
        Ok(match source.poll(mark)? {
            Poll::Unchanged => None,
            Poll::News(tree, mark) => Some((tree, mark)),
        })
    }

    fn read(&self, trust: &Trust, tree: &dyn Tree, now: Timestamp, known: Option<&Files>) -> Result<Read> {
        let announced = trust.policy.announce(tree, now)?;
        announced.check_time(trust.memory.release.as_ref(), now)?;
        self.resolve(announced, tree, known)
    }

    /// The kept release, and whether it is too old by now: what was good once is still converged to.
    fn read_kept(&self, trust: &Trust, kept: &dyn Tree, now: Timestamp) -> Result<(Read, Option<Error>)> {
        let announced = self.announce_kept(trust, kept)?;
        let late = announced.check_time(None, now).err();
        Ok((self.resolve(announced, kept, None)?, late))
    }

    /// Verifies the kept release by the key set that it was taken with, less what was revoked since, as of when it was
    /// made: a key that ran out, or was replaced, has signed it all the same.
    fn announce_kept(&self, trust: &Trust, kept: &dyn Tree) -> Result<VerifiedManifest> {
        let Some(seen) = &trust.memory.release else {
            return Err(
                Error::refused(code::MEMORY, "it is not remembered that the kept release was good").help(ENROLL)
            );
        };
        let announced = self.announce_as_of(trust, kept, seen.keys, seen.created)?;
        if announced.manifest().serial > seen.serial {
            return Err(counts_no_more(&format!("the kept release (serial {})", announced.manifest().serial)));
        }
        Ok(announced)
    }

    /// Verifies the release of an earlier generation.
    fn announce_generation(&self, to: &Generation) -> Result<(CachedRelease, VerifiedManifest)> {
        let lost = || {
            Error::new(code::MEMORY, format!("the release of generation {} is not kept any more", to.number))
                .help("`kpull history` shows which are")
        };
        let kept = self.store.kept_release(&to.release)?.ok_or_else(lost)?;
        let trust = self.trust()?;
        let announced = self.announce_as_of(&trust, &kept, to.keys, to.created)?;
        let serial = announced.manifest().serial;
        if !trust.counts(&self.store, serial, to.keys)? {
            return Err(counts_no_more(&format!("release {serial} of generation {}", to.number)));
        }
        if LastSeen::of(&announced).digest != to.release {
            return Err(lost());
        }
        Ok((kept, announced))
    }

    /// Verifies a kept release by a key set, less what was revoked since, as of a time.
    fn announce_as_of(&self, trust: &Trust, kept: &dyn Tree, number: u64, at: Timestamp) -> Result<VerifiedManifest> {
        let mut keys =
            if number > trust.start.number { KeySet::kept(&self.store, number)? } else { trust.start.clone() };
        keys.signers = keys.signers.without(&trust.policy.keys.revoked);
        Policy { site: trust.policy.site.clone(), keys }.announce(kept, at)
    }

    fn resolve(&self, announced: VerifiedManifest, tree: &dyn Tree, known: Option<&Files>) -> Result<Read> {
        let release = announced.fetch(tree, known, &self.name)?.then(|site| Ok(Arc::new(site)))?;
        let site = release.get().clone();
        let catalog = release.then(|site| {
            let facts = self.facts(&site)?;
            resolve(&site, &self.name, &facts, &SecretStore::open(self.config.identities(&self.host.root)))
        })?;
        Ok(Read { catalog, site, seen: LastSeen::of(&announced), announced })
    }

    /// What is known of this host, for a site.
    pub fn facts(&self, site: &Site) -> Result<Facts> {
        if self.host.is_live() {
            return Facts::of_machine(&self.host);
        }
        Facts::assumed(&self.name, site.find_host(&self.name)?.address, Some(&self.host))
    }
}
