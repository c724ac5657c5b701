//! Slots: what must not happen on two hosts at once waits its turn. Who has a slot stands in etcd, under a lease, so that a
//! host that dies with it doesn't keep it for ever; or a FleetLock server knows it.

use std::rc::Rc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::engine::lock::{self, Acquired};
use crate::engine::plan::locate;
use crate::error::{Error, Exit, Result, code};
use crate::host::etcd::{Api, Client, Cluster, Failure, Lease};
use crate::kind::slot::{At, Slot};
use crate::kind::{Change, Item, Work};
use crate::report::{Event, Holder, Occupied, Report};
use crate::site::is_plain_name;

/// The pause between two looks at a slot that somebody else has.
const PAUSE: Duration = Duration::from_secs(1);

/// How long etcd may say nothing before that means that it is down: longer than it takes to choose another leader.
const SILENCE: Duration = Duration::from_secs(30);

/// How often it is tried to write a slot at once when others write it first. Whoever does so each time keeps nobody longer than `within`.
const TRIES: usize = 3;

/// A slot that this host has. Dropped, it stays taken: in etcd until its lease ends, at a server until this host is well.
#[derive(Debug)]
pub enum HeldSlot {
    /// In etcd.
    Lease(Rc<Client>, Lease),
    /// At a server; `true` when this host has it for something else besides.
    Lock(bool),
}

impl HeldSlot {
    /// Lets it last its whole time again, from now on.
    pub fn keep(&self) -> Result<(), Failure> {
        match self {
            Self::Lease(client, lease) => client.keep_alive(lease),
            Self::Lock(_) => Ok(()),
        }
    }

    /// Gives it back; why not, when that fails.
    pub fn give_back(self, work: &Work<'_>, slot: &Slot, host: &str) -> Result<(), String> {
        match (self, &slot.at) {
            (Self::Lease(client, lease), _) => client.revoke(&lease).map_err(|why| why.to_string()),
            (Self::Lock(false), At::Server(server)) => lock::give_back(work.host, work.store, host, server),
            (Self::Lock(_), _) => Ok(()),
        }
    }
}

/// Why a slot could not be had.
#[derive(Debug)]
pub enum SlotError {
    /// Nobody can say who has it: etcd is down.
    Unknown(String),
    /// Another host has it, or etcd refuses.
    Error(Error),
}

/// Where in etcd it stands who has a slot.
fn key(slot: &Slot) -> String {
    format!("/kpull/slots/{}", slot.name)
}

/// Takes a slot for `host`, waiting while another one has it; `tell` hears of those. One that this host has already, from a
/// run that was killed, is taken over.
pub fn take(work: &Work<'_>, slot: &Slot, host: &str, tell: &dyn Fn(&Occupied)) -> Result<HeldSlot, SlotError> {
    let started = Instant::now();
    let mut heard = Instant::now();
    let mut told = None;
    loop {
        match attempt(work, slot, host) {
            Ok(Ok(held)) => return Ok(held),
            Ok(Err(by)) => {
                heard = Instant::now();
                if started.elapsed() >= slot.within {
                    return Err(SlotError::Error(occupied(slot, &by)));
                }
                if told.as_ref() != Some(&by) {
                    tell(&by);
                    told = Some(by);
                }
            }
            Err(Failure::Refused(why)) => {
                return Err(SlotError::Error(refused(slot, &why)));
            }
            Err(Failure::Silent(why) | Failure::Unable(why)) => {
                if heard.elapsed() >= SILENCE.min(slot.within) {
                    return Err(SlotError::Unknown(why));
                }
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// One try; the inner error is who has it.
fn attempt(work: &Work<'_>, slot: &Slot, host: &str) -> Result<Result<HeldSlot, Occupied>, Failure> {
    match &slot.at {
        At::Etcd(cluster) => attempt_in_etcd(work, slot, cluster, host),
        // a server that can't be asked says no: what it guards is not what mends it
        At::Server(server) => Ok(match lock::take(work.host, work.store, host, server) {
            Ok(Acquired::Refused(why)) => Err(Occupied::Refused(format!("the lock server says: {why}"))),
            Ok(taken) => Ok(HeldSlot::Lock(taken == Acquired::Before)),
            Err(why) => Err(Occupied::Refused(format!("the lock server can't be asked: {why}"))),
        }),
    }
}

fn attempt_in_etcd(
    work: &Work<'_>,
    slot: &Slot,
    cluster: &Cluster,
    host: &str,
) -> Result<Result<HeldSlot, Occupied>, Failure> {
    let (client, key) = (work.host.etcd(cluster)?, key(slot));
    for _ in 0..TRIES {
        let pair = client.get(Api::V3, &key)?;
        if let Some(pair) = &pair {
            // whoever wrote something else there has it all the same
            let unknown = || Holder { host: "somebody".to_owned(), since: Timestamp::UNIX_EPOCH };
            let holder = serde_json::from_slice(&pair.value).ok().filter(|Holder { host, .. }| is_plain_name(host));
            let holder = holder.unwrap_or_else(unknown);
            if holder.host != host {
                return Ok(Err(Occupied::By(holder)));
            }
        }
        let lease = client.grant(slot.ttl)?;
        let own = serde_json::json!({ "host": host, "since": Timestamp::now() }).to_string();
        let was = pair.map_or(0, |pair| pair.revision);
        if client.swap_leased(&key, was, own.as_bytes(), Some(&lease))? {
            return Ok(Ok(HeldSlot::Lease(client, lease)));
        }
        // another host was faster
        client.revoke(&lease)?;
    }
    Ok(Err(Occupied::Refused("others write it again and again".to_owned())))
}

fn refused(slot: &Slot, why: &str) -> Error {
    Error::new(code::SLOT, format!("etcd refuses the slot {}", slot.name))
        .because(why)
        .help("may the client certificate write below /kpull/slots/?")
}

fn occupied(slot: &Slot, by: &Occupied) -> Error {
    let error = Error::new(code::SLOT, format!("the slot {} can't be had: {by}", slot.name));
    let Occupied::By(holder) = by else {
        return error.help("nothing was touched, and the next run tries again; the server knows who has it");
    };
    error.help(format!(
        "nothing was touched, and the next run tries again; look at {} (`kpull status`). It loses the slot {} after it \
         took it; `etcdctl del {}` takes it away at once",
        holder.host,
        jiff::SignedDuration::try_from(slot.ttl).map_or_else(|_| "some time".to_owned(), |ttl| format!("{ttl:#}")),
        key(slot)
    ))
}

/// The slots of a run.
pub struct Slots<'a> {
    /// What resources are observed with.
    pub work: &'a Work<'a>,
    /// Whoever listens.
    pub report: &'a dyn Report,
    /// This host's name.
    pub host: &'a str,
}

impl Slots<'_> {
    /// Takes the slot that a change needs: `None` when it needs none, or when etcd is down, whose cure the change may be.
    pub fn before(&self, item: &Item, change: &Change) -> Result<Option<HeldSlot>> {
        let Some(name) = item.about.slot.as_deref() else { return Ok(None) };
        if !item.resource.interrupts(self.work, change)? {
            return Ok(None);
        }
        let slot = find(self.work.catalog, name)
            .ok_or_else(|| Error::new(code::SLOT, format!("there is no slot {name} on this host")))?;
        let tell = |by: &Occupied| self.report.event(&Event::SlotTaken { item, slot: name, by });
        match take(self.work, slot, self.host, &tell) {
            Ok(held) => {
                // it may have taken a while
                self.work.host.forget_units();
                Ok(Some(held))
            }
            Err(SlotError::Unknown(why)) => {
                self.report.event(&Event::SlotUnknown { item, slot: name, why: &why });
                Ok(None)
            }
            Err(SlotError::Error(error)) => Err(error),
        }
    }

    /// Finds out whether a slot that is new to this host can be had: takes it and gives it back, unless another host has it or etcd is
    /// down. Nothing for what is no slot.
    pub fn ask(&self, item: &Item) -> Result<()> {
        let Some(slot) = item.as_kind::<Slot>() else { return Ok(()) };
        match attempt(self.work, slot, self.host) {
            Ok(Ok(held)) => {
                if let Err(why) = held.give_back(self.work, slot, self.host) {
                    self.report.event(&Event::SlotNotReturned { item, slot: &slot.name, why: &why });
                }
                Ok(())
            }
            // whoever has it could be asked
            Ok(Err(Occupied::By(_))) => Ok(()),
            Ok(Err(Occupied::Refused(why))) | Err(Failure::Silent(why) | Failure::Unable(why)) => {
                self.report.event(&Event::SlotUnknown { item, slot: &slot.name, why: &why });
                Ok(())
            }
            Err(Failure::Refused(why)) => Err(refused(slot, &why).exit(Exit::Unhealthy)),
        }
    }

    /// Gives a slot back, when the probes that it is kept for pass. When one doesn't, it is kept until its lease ends, so
    /// that no other host does the same to itself meanwhile.
    pub fn after(&self, item: &Item, held: HeldSlot) -> Result<()> {
        let slot = item.about.slot.as_deref().and_then(|name| find(self.work.catalog, name));
        for id in slot.map_or(&[][..], |slot| &slot.until) {
            let Some(probe) = self.work.catalog.iter().find(|item| item.id == *id) else { continue };
            self.report.event(&Event::Waiting(probe));
            // it only ends earlier without
            let _ = held.keep();
            if let Some(Err(why)) = probe.resource.gate().map(|gate| gate.wait(self.work)) {
                let error = Error::new(code::SLOT, format!("{id} does not pass after {} was interrupted", item.id))
                    .because(why)
                    .exit(Exit::Unhealthy)
                    .help("no other host does the same until the slot's lease ends; the next run goes on from here");
                return Err(locate(error, probe));
            }
            self.report.event(&Event::Passing(probe));
        }
        if let Some(slot) = slot
            && let Err(why) = held.give_back(self.work, slot, self.host)
        {
            self.report.event(&Event::SlotNotReturned { item, slot: &slot.name, why: &why });
        }
        Ok(())
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

    /// Tries to take a slot from an etcd that answers with this key, and takes no write; how often it was asked.
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
        let error = match take(&tree.work(), &slot, "h1", &|_| {}) {
            Err(SlotError::Error(error)) => error.to_string(),
            other => format!("{other:?}"),
        };
        (error, asked.load(Ordering::SeqCst))
    }

    #[test]
    fn a_slot_that_others_write_each_time_that_this_host_wants_to_is_not_tried_for_ever() {
        let (error, asked) = attempt_at("");
        assert_eq!(error, "the slot s can't be had: others write it again and again");
        assert!(asked < 20, "{asked}");
    }

    #[test]
    fn what_another_host_writes_into_a_slot_writes_no_line_of_its_own_and_is_not_repeated_without_end() {
        for host in ["h2\\nkpull: all is well", "h2\\u001b[2J", &"h".repeat(1 << 20), ""] {
            let value = format!("{{\"host\":\"{host}\",\"since\":\"2026-01-01T00:00:00Z\"}}");
            let value = base64::prelude::BASE64_STANDARD.encode(value);
            let (error, _) = attempt_at(&format!("{{\"value\":\"{value}\",\"mod_revision\":\"5\"}}"));
            assert!(error.starts_with("the slot s can't be had: somebody has had it since "), "{error:.300}");
            assert!(error.len() < 100 && !error.contains('\n'), "{error:.300}");
        }
    }
}
