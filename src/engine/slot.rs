//! Slots: what must not happen on two hosts at once waits for its slot. etcd records the holder of a slot under a lease, so that a host
//! that dies doesn't hold it forever; or a FleetLock server records the holder.

use std::rc::Rc;

use crate::engine::lock;
use crate::engine::plan::locate;
use crate::engine::prelude::*;
use crate::host::deadline;
use crate::host::etcd::{Api, Client, Cluster, Failure, Lease};
use crate::kind::slot::{At, Slot};
use crate::report::{Holder, Occupied};
use crate::site::is_plain_name;

/// The pause between two attempts at a slot that another host holds.
const PAUSE: Duration = Duration::from_secs(1);

/// How long etcd may not answer before it counts as down: longer than the election of a leader takes.
const SILENCE: Duration = Duration::from_secs(30);

/// How many writes of a slot one attempt makes when other hosts are faster. Even then, no host waits longer than `within`.
const TRIES: usize = 3;

/// A slot that this host has acquired. After a drop, it stays acquired: in etcd until its lease ends, at a server until this host is
/// healthy.
#[derive(Debug)]
pub enum SlotGrant {
    /// In etcd.
    Lease(Rc<Client>, Lease),
    /// At a server; `true` when this host also holds it for something else.
    Lock(bool),
}

impl SlotGrant {
    /// Renews the lease, from now on.
    pub fn renew(&self) -> Result<(), Failure> {
        match self {
            Self::Lease(client, lease) => client.keep_alive(lease),
            Self::Lock(_) => Ok(()),
        }
    }

    /// Releases the slot; the reason when that fails.
    pub fn release(self, work: &Work<'_>, slot: &Slot, host: &str) -> Result<(), String> {
        match (self, &slot.at) {
            (Self::Lease(client, lease), _) => client.revoke(&lease).map_err(|why| why.to_string()),
            (Self::Lock(false), At::Server(server)) => {
                let reasons = lock::release(work.host, work.store, host, |held| held == server);
                reasons.map_err(|error| error.to_string())?.pop().map_or(Ok(()), Err)
            }
            (Self::Lock(_), _) => Ok(()),
        }
    }
}

/// The outcome of one attempt.
enum Attempt {
    /// This host holds the slot.
    Acquired(SlotGrant),
    /// It isn't free now.
    Occupied(Occupied),
}

/// Why this host doesn't get a slot.
#[derive(Debug)]
pub enum SlotError {
    /// The holder is unknown: etcd is down.
    Unknown(String),
    /// Another host holds it, or etcd refuses.
    Error(Error),
}

/// The key in etcd that records the holder of a slot.
fn key(slot: &Slot) -> String {
    format!("/kpull/slots/{}", slot.name)
}

/// Acquires a slot for `host`, and waits while another host holds it; `report` gets each of those. A slot that this host already holds,
/// from a run that was killed, is taken over.
pub fn acquire(work: &Work<'_>, slot: &Slot, host: &str, report: &dyn Fn(&Occupied)) -> Result<SlotGrant, SlotError> {
    let started = Instant::now();
    let mut answered = Instant::now();
    let mut reported = None;
    loop {
        match attempt(work, slot, host) {
            Ok(Attempt::Acquired(held)) => return Ok(held),
            Ok(Attempt::Occupied(by)) => {
                answered = Instant::now();
                if started.elapsed() >= slot.within || deadline::is_over() {
                    return Err(SlotError::Error(occupied(slot, &by)));
                }
                if reported.as_ref() != Some(&by) {
                    report(&by);
                    reported = Some(by);
                }
            }
            Err(SlotError::Unknown(_)) if answered.elapsed() < SILENCE.min(slot.within) => {}
            Err(error) => return Err(error),
        }
        std::thread::sleep(PAUSE);
    }
}

fn attempt(work: &Work<'_>, slot: &Slot, host: &str) -> Result<Attempt, SlotError> {
    match &slot.at {
        At::Etcd(cluster) => attempt_in_etcd(work, slot, cluster, host).map_err(|failure| match failure {
            Failure::Silent(why) | Failure::Unable(why) => SlotError::Unknown(why),
            Failure::Refused(why) => SlotError::Error(
                error!(SLOT, "etcd refuses the slot {}", slot.name)
                    .because(why)
                    .help("check that the client certificate can write below /kpull/slots/"),
            ),
        }),
        // a server that can't be reached counts as a refusal: the guarded unit is not what repairs the server
        At::Server(server) => Ok(match lock::acquire(work.host, work.store, host, server) {
            Ok(had) => Attempt::Acquired(SlotGrant::Lock(had)),
            Err(why) => Attempt::Occupied(Occupied::Refused(why)),
        }),
    }
}

fn attempt_in_etcd(work: &Work<'_>, slot: &Slot, cluster: &Cluster, host: &str) -> Result<Attempt, Failure> {
    let (client, key) = (work.host.etcd(cluster)?, key(slot));
    for _ in 0..TRIES {
        let pair = client.get(Api::V3, &key)?;
        if let Some(pair) = &pair {
            // a value that can't be parsed has a holder all the same
            let unknown = || Holder { host: "another host".to_owned(), since: Timestamp::UNIX_EPOCH };
            let holder = serde_json::from_slice(&pair.value).ok().filter(|Holder { host, .. }| is_plain_name(host));
            let holder = holder.unwrap_or_else(unknown);
            if holder.host != host {
                return Ok(Attempt::Occupied(Occupied::By(holder)));
            }
        }
        let lease = client.grant(slot.ttl)?;
        let own = serde_json::json!({ "host": host, "since": Timestamp::now() }).to_string();
        let revision = pair.map_or(0, |pair| pair.revision);
        if client.swap_leased(&key, revision, own.as_bytes(), Some(&lease))? {
            return Ok(Attempt::Acquired(SlotGrant::Lease(client, lease)));
        }
        // another host was faster
        client.revoke(&lease)?;
    }
    Ok(Attempt::Occupied(Occupied::Refused("other hosts repeatedly change it".to_owned())))
}

fn occupied(slot: &Slot, by: &Occupied) -> Error {
    let error = error!(SLOT, "the slot {} is not available: {by}", slot.name);
    let Occupied::By(holder) = by else {
        return error.help("nothing was changed, and the next run tries again; ask the server which host has the slot");
    };
    error.help(format!(
        "nothing was changed, and the next run tries again; run `kpull status` on {}. Its slot expires {} after it acquired it; `etcdctl del {}` removes it at once",
        holder.host,
        SignedDuration::try_from(slot.ttl).map_or_else(|_| "some time".to_owned(), |ttl| format!("{ttl:#}")),
        key(slot)
    ))
}

/// The slots of a run.
pub struct Slots<'a> {
    /// What resources are observed with.
    pub work: &'a Work<'a>,
    /// Where events go.
    pub report: &'a dyn Report,
    /// This host's name.
    pub host: &'a str,
}

impl Slots<'_> {
    /// Acquires the slot that a change needs: `None` when it needs none, or when etcd is down, which the change may repair.
    pub fn before(&self, item: &Item, change: &Change) -> Result<Option<SlotGrant>> {
        let Some(name) = item.about.slot.as_deref() else { return Ok(None) };
        if !item.resource.interrupts(self.work, change)? {
            return Ok(None);
        }
        let slot = find(self.work.catalog, name).ok_or_else(|| error!(SLOT, "there is no slot {name} on this host"))?;
        let report = |by: &Occupied| self.report.event(&Event::SlotTaken(item, name, by));
        match acquire(self.work, slot, self.host, &report) {
            Ok(held) => {
                // that may have taken a while
                self.work.host.forget_units();
                Ok(Some(held))
            }
            Err(SlotError::Unknown(why)) => {
                self.report.event(&Event::SlotUnknown(item, name, &why));
                Ok(None)
            }
            Err(SlotError::Error(error)) => Err(error),
        }
    }

    /// Checks that a slot that is new to this host can be had: acquires and releases it, unless another host holds it or etcd is
    /// down. Does nothing for any other resource.
    pub fn check(&self, item: &Item) -> Result<()> {
        let Some(slot) = item.as_kind::<Slot>() else { return Ok(()) };
        match attempt(self.work, slot, self.host) {
            Ok(Attempt::Acquired(held)) => self.release(held, item, slot),
            // whoever knows the holder has answered
            Ok(Attempt::Occupied(Occupied::By(_))) => {}
            Ok(Attempt::Occupied(Occupied::Refused(why))) | Err(SlotError::Unknown(why)) => {
                self.report.event(&Event::SlotUnknown(item, &slot.name, &why));
            }
            Err(SlotError::Error(error)) => return Err(error.exit(Exit::Unhealthy)),
        }
        Ok(())
    }

    /// Releases a slot once the probes in its `until` pass. When one doesn't, the slot stays held until its lease ends, so
    /// that no other host does the same to itself meanwhile.
    pub fn after(&self, item: &Item, held: SlotGrant) -> Result<()> {
        let Some(slot) = item.about.slot.as_deref().and_then(|name| find(self.work.catalog, name)) else {
            return Ok(());
        };
        for id in &slot.until {
            let Some(probe) = self.work.catalog.iter().find(|item| item.id == **id) else { continue };
            self.report.event(&Event::Waiting(probe));
            // without that the lease only ends earlier
            let _ = held.renew();
            if let Err(why) = probe.resource.wait(self.work) {
                let error = error!(SLOT, "{id} does not pass after {} was interrupted", item.id)
                    .because(why)
                    .exit(Exit::Unhealthy)
                    .help("no other host interrupts this unit until the slot's lease expires; the next run continues from here");
                return Err(locate(error, probe));
            }
            self.report.event(&Event::Passing(probe));
        }
        self.release(held, item, slot);
        Ok(())
    }

    fn release(&self, held: SlotGrant, item: &Item, slot: &Slot) {
        if let Err(why) = held.release(self.work, slot, self.host) {
            self.report.event(&Event::SlotNotReturned(item, &slot.name, &why));
        }
    }
}

/// The slot with this name.
fn find<'a>(items: &'a [Item], name: &str) -> Option<&'a Slot> {
    items.iter().filter_map(|item| item.as_kind::<Slot>()).find(|slot| slot.name == name)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use base64::Engine as _;

    use super::*;
    use crate::kind::testing::Tree;
    use crate::net::testing::{Answer, Authority, Server};

    /// Attempts to acquire a slot from an etcd that answers with this key, and takes no write; how often it was asked.
    fn attempt_at(kvs: &str) -> (String, usize) {
        let authority = Authority::new();
        let asked = Arc::new(AtomicUsize::new(0));
        let (counted, kvs) = (asked.clone(), format!("{{\"kvs\":[{kvs}]}}"));
        let server = Server::secure(authority.server("127.0.0.1", None), move |request| {
            // so that a loop without end ends here
            assert!(counted.fetch_add(1, Ordering::SeqCst) < 100);
            let answer = match request.path.as_str() {
                "/v3/kv/range" => kvs.as_str(),
                "/v3/lease/grant" => "{\"ID\":\"7\"}",
                "/v3/kv/txn" => "{\"succeeded\":false}",
                _ => "{}",
            };
            Answer::new(200, answer)
        });
        let cluster = Cluster { endpoints: vec![server.url("").parse().unwrap()], ca: authority.file(), client: None };
        let (within, ttl) = (Duration::ZERO, Duration::from_secs(10));
        let slot = Slot { name: "s".to_owned(), at: At::Etcd(cluster), ttl, within, until: Vec::new() };
        let tree = Tree::new();
        let error = match acquire(&tree.work(), &slot, "h1", &|_| {}) {
            Err(SlotError::Error(error)) => error.to_string(),
            other => format!("{other:?}"),
        };
        (error, asked.load(Ordering::SeqCst))
    }

    #[test]
    fn a_slot_that_others_always_write_first_is_not_tried_for_ever() {
        let (error, asked) = attempt_at("");
        assert_eq!(error, "the slot s is not available: other hosts repeatedly change it");
        assert!(asked < 20, "{asked}");
    }

    #[test]
    fn a_holder_that_another_host_wrote_forges_no_line_and_is_not_quoted_without_end() {
        for host in ["h2\\nkpull: all is well", "h2\\u001b[2J", &"h".repeat(1 << 20), ""] {
            let value = format!("{{\"host\":\"{host}\",\"since\":\"2026-01-01T00:00:00Z\"}}");
            let value = base64::prelude::BASE64_STANDARD.encode(value);
            let (error, _) = attempt_at(&format!("{{\"value\":\"{value}\",\"mod_revision\":\"5\"}}"));
            assert!(error.starts_with("the slot s is not available: another host has had it since "), "{error:.300}");
            assert!(error.len() < 100 && !error.contains('\n'), "{error:.300}");
        }
    }
}
