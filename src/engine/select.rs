//! Which release this host follows now, and its catalog.

use std::sync::Arc;

use crate::document::{Files, Tree};
use crate::engine::prelude::*;
use crate::engine::trust::HostTrust;
use crate::engine::{ReleaseStamp, rollout};
use crate::error::{one_line, refused};
use crate::host::deadline::{self, OnlyDownloads};
use crate::host::fleetlock::FleetLock;
use crate::resolve::resolve;
use crate::secret::SecretStore;
use crate::site::Site;
use crate::source::Poll;
use crate::store::{CachedRelease, ENROLL};
use crate::trust::{KeySet, LastSeen, Policy, Verified, VerifiedManifest};

/// The catalog to converge to.
pub struct Selection {
    /// The host's catalog.
    pub catalog: Verified<Catalog>,
    /// What is recorded of the release.
    pub stamp: ReleaseStamp,
    /// Why nothing newer was selected: a refusal, a site that can't be resolved, no source that answers.
    pub trouble: Option<Error>,
    /// The lock to acquire before this release is applied.
    pub lock: Option<FleetLock>,
}

/// A release that was read, verified and resolved.
struct Resolved {
    catalog: Verified<Catalog>,
    site: Arc<Site>,
    seen: LastSeen,
    manifest: VerifiedManifest,
    /// That it has expired. Only a cached release may have.
    expired: Option<Error>,
}

impl Resolved {
    fn select(self, back: Option<String>, trouble: Option<Error>, lock: Option<FleetLock>) -> Selection {
        let VerifiedManifest { signers, keys, .. } = self.manifest;
        let LastSeen { digest, created, .. } = self.seen;
        let stamp = ReleaseStamp { digest, created, signers, keys, back, confirm_by: None };
        Selection { stamp, catalog: self.catalog, trouble, lock }
    }
}

fn withdrawn(what: &str) -> Error {
    refused!(TRUST_STATE, "{what} no longer counts")
        .help("the site's keys were changed after it was signed: sign a newer release")
}

impl Agent<'_> {
    /// Polls the sources and selects the newest release, if it is good and has reached this host, or `at_once`; else the last good
    /// release.
    pub fn select(&self, at_once: bool) -> Result<Selection> {
        let mut trust = self.trust()?;
        if let Some(state) = &trust.to_restore {
            state.save(self.store.root(), &self.host.root)?;
        }
        let now = Timestamp::now();
        let mut cursors = self.store.cursors();
        // a cursor counts only while the release that were installed with it can be read
        let mut cached = self.store.release()?.map(|cached| self.read_cached(&trust, &cached, now));
        let mut trouble: Vec<Error> = Vec::new();
        let mut answered = false;
        let mut newest: Option<(Resolved, String)> = None;
        let order = self.order(matches!(&cached, Some(Ok(cached)) if cached.expired.is_none()));
        let share = OnlyDownloads::begin();
        for &index in &order.sources {
            // the next run begins with those that are left
            let is_late = deadline::is_over() && !trouble.is_empty();
            if is_late || (!order.all && (answered || newest.is_some())) {
                break;
            }
            let mut source = self.open_source(index)?;
            let name = source.name();
            let good = cached.as_ref().and_then(|cached| cached.as_ref().ok());
            let cursor = cursors.get(&name).filter(|_| good.is_some());
            let (began, keys) = (Instant::now(), trust.policy.keys.number);
            let found = source.poll(cursor.map(String::as_str)).and_then(|poll| match poll {
                Poll::Unchanged => Ok(None),
                Poll::News(tree, cursor) => {
                    self.rotate(&mut trust, &*tree, now)?;
                    let release = self.read(&trust, &*tree, now, good.map(|good| &good.site.files))?;
                    Ok(Some((release, cursor)))
                }
            });
            self.note_source(&name, began.elapsed(), &found)?;
            if trust.policy.keys.number != keys
                && let Some((_, other)) = newest.take()
            {
                // verified by keys that may no longer count
                cursors.remove(&other);
            }
            match found {
                Ok(None) => answered = true,
                Ok(Some((release, cursor))) => {
                    // from now on, another source has this release, a newer one, or is refused
                    self.remember(&mut trust.state, release.seen.clone())?;
                    cursors.insert(name.clone(), cursor);
                    let known = newest.as_ref().map(|(newest, _)| newest).or(good.filter(|_| answered));
                    if known.is_none_or(|known| known.seen != release.seen) {
                        newest = Some((release, name));
                    }
                }
                Err(error) => {
                    // the error of the only source is the run's own, and reported as that
                    if self.config.sources.len() > 1 {
                        self.report.event(&Event::Passed(&name, &error));
                    }
                    trouble.push(error);
                }
            }
        }
        if order.all && !deadline::is_over() {
            self.store.note_all_asked()?;
        }
        drop(share);
        if let Some((release, source)) = newest {
            self.report.event(&Event::News(&source, release.catalog.manifest()));
            let VerifiedManifest { bytes, signatures, .. } = &release.manifest;
            self.store.set_release(bytes, signatures, &release.site.files)?;
            self.store.set_cursors(&cursors)?;
            return self.follow(release, None, true, at_once);
        }
        if answered && order.all {
            // of the sources that have the same release
            self.store.set_cursors(&cursors)?;
        }
        // a refusal is worse news than a server that does not answer
        trouble.sort_by_key(|error| error.exit_code() != Exit::Refused);
        let trouble = if answered { None } else { trouble.into_iter().next() };
        // the new key set may have withdrawn the cached release
        if trust.is_rotated
            && let Some(release) = self.store.release()?
        {
            cached = Some(self.read_cached(&trust, &release, now));
        }
        let cached = cached.unwrap_or_else(|| Err(error!(TRUST_STATE, "there is no release to apply yet")));
        let mut release = cached.map_err(|error| trouble.clone().unwrap_or(error))?;
        let trouble = trouble.or(release.expired.take());
        self.follow(release, trouble, answered, at_once)
    }

    /// The newest release, or the one that this host stays on.
    fn follow(&self, release: Resolved, trouble: Option<Error>, answered: bool, at_once: bool) -> Result<Selection> {
        let mut selection = match self.store.stay_on()? {
            Some(stay) if release.seen.serial <= stay.not && !stay.is_over(Timestamp::now()) => {
                let known = self.store.generations()?.into_iter().rev().find(|one| one.release == stay.release);
                self.report.event(&Event::StaysOn(&stay));
                let known = known.ok_or_else(|| {
                    error!(TRUST_STATE, "release {}, which this host stays on, is lost", stay.serial)
                        .help("`kpull apply --retry` follows the newest release again")
                })?;
                Selection { trouble, ..self.select_generation(&known, &stay.why)? }
            }
            stay => {
                if stay.is_some_and(|stay| release.seen.serial > stay.not) {
                    self.store.set_stay_on(None)?;
                }
                self.select_in_turn(release, trouble, at_once)?
            }
        };
        if answered && self.host.is_live() {
            selection.stamp.confirm_by = Some(Timestamp::now() + self.config.rollback.contact_within());
        }
        Ok(selection)
    }

    /// The newest release, or the one that this host has until the newest has reached it.
    fn select_in_turn(&self, release: Resolved, trouble: Option<Error>, at_once: bool) -> Result<Selection> {
        let (serial, digest) = (release.seen.serial, &release.seen.digest);
        let mut lock = None;
        if let (Some(rollout), Some(current)) = (&release.site.rollout, self.store.generation()?)
            && !at_once
            && current.release != *digest
            && (current.serial < serial || !self.trust()?.accepts(&self.store, current.serial, current.keys)?)
            && self.store.pending()?.release.as_ref() != Some(digest)
        {
            let turn = rollout::wait(self, rollout, &release.site, &release.catalog.get().items, serial);
            if let Some(why) = turn.as_ref().map_or_else(|error| Some(error.to_string()), Clone::clone) {
                // hosts that can't be reached may be down because of a problem that the next release repairs: an operator decides that
                let trouble = trouble.or(turn.err());
                return Ok(Selection { trouble, ..self.wait_on(&current, serial, &why)? });
            }
            lock.clone_from(&rollout.fleetlock);
        }
        Ok(release.select(None, trouble, lock))
    }

    /// What this host has, while it waits for its position in the rollout of the release with this serial.
    pub fn wait_on(&self, current: &Generation, serial: u64, why: &str) -> Result<Selection> {
        // other hosts and a lock server have a say in the text
        let why = format!("release {serial}: {}", one_line(why));
        self.report.event(&Event::RolloutWaiting(&why));
        // also when the current release fails now: that host has not failed with the release that it waits for
        self.waits.replace(Some(why.clone()));
        self.select_generation(current, &why)
    }

    /// The release of an earlier generation, verified again as of when it was signed.
    pub fn select_generation(&self, to: &Generation, why: &str) -> Result<Selection> {
        let (cached, manifest) = self.verify_generation(to)?;
        Ok(self.resolve(manifest, &cached, None)?.select(Some(why.to_owned()), None, None))
    }

    /// The last good generation of another release than `digest`, whose release still counts: the target of a rollback.
    pub fn last_good(&self, digest: &str) -> Result<Option<Generation>> {
        self.store.last_good_that(digest, |one| self.verify_generation(one).is_ok())
    }

    /// The site of an earlier generation's release, verified again as of when it was signed, and its catalog for this host
    /// with placeholders for secrets: for display only.
    pub fn read_generation(&self, to: &Generation) -> Result<(Arc<Site>, Catalog)> {
        let (cached, manifest) = self.verify_generation(to)?;
        let site = self.site(&manifest, &cached, None)?.get().clone();
        let catalog = resolve(&site, &self.name, &self.facts(&site)?, &SecretStore::encrypted())?;
        Ok((site, catalog))
    }

    /// The catalog of the release that this host has, verified and resolved; `None` before the first. An expired release is no
    /// error here.
    pub fn cached_catalog(&self) -> Result<Option<Verified<Catalog>>> {
        let Some(cached) = self.store.release()? else { return Ok(None) };
        Ok(Some(self.read_cached(&self.trust()?, &cached, Timestamp::now())?.catalog))
    }

    /// The site of the release that this host has, verified, with the files that this host gets; `None` before the first.
    pub fn cached_site(&self) -> Result<Option<Arc<Site>>> {
        let Some(cached) = self.store.release()? else { return Ok(None) };
        let manifest = self.verify_cached(&self.trust()?, &cached)?;
        Ok(Some(self.site(&manifest, &cached, None)?.get().clone()))
    }

    fn read(&self, trust: &HostTrust, tree: &dyn Tree, now: Timestamp, known: Option<&Files>) -> Result<Resolved> {
        let manifest = trust.policy.announce(tree, now)?;
        manifest.check_time(trust.state.release.as_ref(), now)?;
        self.resolve(manifest, tree, known)
    }

    /// The cached release. One that has expired since is still converged to.
    fn read_cached(&self, trust: &HostTrust, cached: &dyn Tree, now: Timestamp) -> Result<Resolved> {
        let manifest = self.verify_cached(trust, cached)?;
        let expired = manifest.check_time(None, now).err();
        Ok(Resolved { expired, ..self.resolve(manifest, cached, None)? })
    }

    /// Verifies the cached release by the key set that it came with, less what was revoked since, as of when it was
    /// signed: a key that has expired or was replaced since has signed it all the same.
    fn verify_cached(&self, trust: &HostTrust, cached: &dyn Tree) -> Result<VerifiedManifest> {
        let Some(seen) = &trust.state.release else {
            return Err(refused!(TRUST_STATE, "there is no record that the stored release was good").help(ENROLL));
        };
        let manifest = self.verify_as_of(trust, cached, seen.keys, seen.created)?;
        let serial = manifest.manifest().serial;
        if serial > seen.serial {
            return Err(withdrawn(&format!("the kept release (serial {serial})")));
        }
        Ok(manifest)
    }

    /// Verifies the release of an earlier generation.
    fn verify_generation(&self, to: &Generation) -> Result<(CachedRelease, VerifiedManifest)> {
        let lost = || {
            error!(TRUST_STATE, "the release of generation {} is no longer stored", to.number)
                .help("`kpull history` lists the stored ones")
        };
        let cached = self.store.kept_release(&to.release)?.ok_or_else(lost)?;
        let trust = self.trust()?;
        let manifest = self.verify_as_of(&trust, &cached, to.keys, to.created)?;
        let serial = manifest.manifest().serial;
        if !trust.accepts(&self.store, serial, to.keys)? {
            return Err(withdrawn(&format!("release {serial} of generation {}", to.number)));
        }
        if LastSeen::of(&manifest).digest != to.release { Err(lost()) } else { Ok((cached, manifest)) }
    }

    /// Verifies a cached release by a key set, less what was revoked since, as of a time.
    fn verify_as_of(
        &self,
        trust: &HostTrust,
        cached: &dyn Tree,
        number: u64,
        at: Timestamp,
    ) -> Result<VerifiedManifest> {
        let mut keys =
            if number > trust.start.number { KeySet::kept(&self.store, number)? } else { trust.start.clone() };
        keys.signers = keys.signers.without(&trust.policy.keys.revoked);
        Policy { site: trust.policy.site.clone(), keys }.announce(cached, at)
    }

    fn site(&self, manifest: &VerifiedManifest, tree: &dyn Tree, known: Option<&Files>) -> Result<Verified<Arc<Site>>> {
        manifest.fetch(tree, known, &self.name)?.then(|site| Ok(Arc::new(site)))
    }

    fn resolve(&self, manifest: VerifiedManifest, tree: &dyn Tree, known: Option<&Files>) -> Result<Resolved> {
        let release = self.site(&manifest, tree, known)?;
        let site = release.get().clone();
        let catalog = release.then(|site| {
            let facts = self.facts(&site)?;
            resolve(&site, &self.name, &facts, &SecretStore::open(self.config.identities(&self.host.root)))
        })?;
        Ok(Resolved { catalog, site, seen: LastSeen::of(&manifest), manifest, expired: None })
    }
}
