//! For journald: one record an event, with fields that `journalctl` can filter by (`KPULL_EVENT=changed`).

use log::{Level, log};

use crate::error::{Error, one_line, visible};
use crate::kind::Item;
use crate::report::text::held_back;
use crate::report::{Event, Report};

/// Writes to the journal.
#[derive(Debug)]
pub struct Journal(());

impl Journal {
    /// Connects to the journal; `None` when there is none, or when this process was not started by systemd with its
    /// output going there.
    pub fn connect() -> Option<Self> {
        if !systemd_journal_logger::connected_to_journal() {
            return None;
        }
        let logger = systemd_journal_logger::JournalLog::new().ok()?.with_syslog_identifier("kpull".to_owned());
        logger.install().ok()?;
        log::set_max_level(log::LevelFilter::Info);
        Some(Self(()))
    }
}

/// What a resource is called, in a message: no name begins a line, or does something to the terminal of who reads it.
fn name(item: &Item) -> String {
    one_line(&item.id)
}

/// What is wrong with what has this name.
fn told(name: &str, error: &Error) -> String {
    format!("{}: {error}", one_line(name))
}

impl Report for Journal {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Passed { source, error } => {
                log!(Level::Warn, KPULL_EVENT = "source_passed", KPULL_SOURCE = *source; "{}", told(source, error));
            }
            Event::PassedMirror { mirror, error } => {
                log!(Level::Warn, KPULL_EVENT = "mirror_passed", KPULL_MIRROR = *mirror; "mirror {}", told(mirror, error));
            }
            Event::Keys(set) => {
                log!(Level::Warn, KPULL_EVENT = "keys", KPULL_KEYS = set.number; "key set {} counts from now on", set.number);
            }
            Event::News { source, manifest } => {
                log!(Level::Info, KPULL_EVENT = "release", KPULL_SOURCE = *source, KPULL_SERIAL = manifest.serial;
                    "{}", one_line(&format!("release {} of {} from {source}", manifest.serial, manifest.site)));
            }
            Event::Changed(item, change) => {
                log!(Level::Info, KPULL_EVENT = "changed", KPULL_RESOURCE = item.id.as_str(), KPULL_ROLE = &*item.role;
                    "{}: {}", name(item), change.summary);
            }
            Event::Unlabelled(error) => {
                let help = error.advice().unwrap_or_default();
                log!(Level::Warn, KPULL_EVENT = "unlabelled"; "{error}; {help}");
            }
            Event::Exposed(error) => {
                let help = error.advice().unwrap_or_default();
                log!(Level::Warn, KPULL_EVENT = "exposed"; "{error}; {help}");
            }
            Event::NotReported(error) => log!(Level::Warn, KPULL_EVENT = "not_reported"; "{error}"),
            Event::SlotTaken { item, slot, by } => {
                log!(Level::Info, KPULL_EVENT = "slot_taken", KPULL_RESOURCE = item.id.as_str(), KPULL_SLOT = *slot;
                    "{}", one_line(&format!("{} waits for the slot {slot}: {by}", item.id)));
            }
            Event::SlotUnknown { item, slot, why } => {
                log!(Level::Warn, KPULL_EVENT = "slot_unknown", KPULL_RESOURCE = item.id.as_str(), KPULL_SLOT = *slot;
                    "{}", one_line(&format!("{} goes on without the slot {slot}, since etcd is down: {why}", item.id)));
            }
            Event::SlotNotReturned { item, slot, why } => {
                log!(Level::Warn, KPULL_EVENT = "slot_not_returned", KPULL_RESOURCE = item.id.as_str(), KPULL_SLOT = *slot;
                    "{}", one_line(&format!("the slot {slot} could not be given back, and ends by itself: {why}")));
            }
            Event::Passing(item) => {
                log!(Level::Info, KPULL_EVENT = "probe_passed", KPULL_RESOURCE = item.id.as_str(); "{}: passed", name(item));
            }
            Event::Saved { path } => {
                log!(Level::Warn, KPULL_EVENT = "saved"; "{} was edited by hand; the edit is saved", one_line(path));
            }
            Event::Lost { id, error } => {
                log!(Level::Warn, KPULL_EVENT = "not_restored", KPULL_RESOURCE = *id, KPULL_CODE = error.code().name;
                    "{}; `kpull disown {1}` leaves it as it is", told(&format!("{id}: can't be restored"), error), one_line(id));
            }
            Event::Overruled { id, error } => {
                log!(Level::Warn, KPULL_EVENT = "overruled", KPULL_RESOURCE = *id, KPULL_CODE = error.code().name;
                    "{}; {}", told(id, error), error.advice().unwrap_or_default());
            }
            Event::RolloutWaiting { why } => {
                log!(Level::Info, KPULL_EVENT = "rollout_waiting"; "waits for its turn with {}", one_line(why))
            }
            Event::LockNotReturned { why } => {
                log!(Level::Warn, KPULL_EVENT = "lock_not_returned"; "the lock could not be given back, which the next run tries again: {}", visible(why));
            }
            Event::StaysOn { hold } => {
                log!(Level::Warn, KPULL_EVENT = "stays_on", KPULL_SERIAL = hold.not; "{}", visible(&held_back(hold)));
            }
            Event::RolledBack { hold } => {
                log!(Level::Error, KPULL_EVENT = "rolled_back", KPULL_SERIAL = hold.serial;
                    "release {} is not good for this host: back to release {}: {}", hold.not, hold.serial, visible(&hold.why));
            }
            Event::Done(summary) => {
                log!(Level::Info, KPULL_EVENT = "done", KPULL_CHANGED = summary.changed.len(), KPULL_SERIAL = summary.serial.unwrap_or(0);
                    "{}: {} of {} resources changed", one_line(&summary.host), summary.changed.len(), summary.resources);
            }
            Event::Planned(..) | Event::Waiting(_) | Event::Ended(_) | Event::Download { .. } => {}
        }
    }
}

/// Tells the journal why a run failed; false when [`Journal::connect`] found none, and somebody else has to be told.
pub fn failed(error: &Error) -> bool {
    if log::max_level() == log::LevelFilter::Off {
        return false;
    }
    let place = error.place().map_or_else(String::new, |place| format!(" ({place})"));
    let help = error.advice().map_or_else(String::new, |help| format!("; {help}"));
    log!(Level::Error, KPULL_EVENT = "failed", KPULL_EXIT = error.exit_code() as i32, KPULL_CODE = error.code().name;
        "{error}{place}{help}");
    true
}
