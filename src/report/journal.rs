//! For journald: one record an event, with fields that `journalctl` can filter by (`KPULL_EVENT=changed`).

use log::{Level, log};

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

impl Report for Journal {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Passed { source, error } => {
                log!(Level::Warn, KPULL_EVENT = "source_passed", KPULL_SOURCE = *source; "{source}: {error}");
            }
            Event::PassedMirror { mirror, error } => {
                log!(Level::Warn, KPULL_EVENT = "mirror_passed", KPULL_MIRROR = *mirror; "mirror {mirror}: {error}");
            }
            Event::Keys(set) => {
                log!(Level::Warn, KPULL_EVENT = "keys", KPULL_KEYS = set.number; "key set {} counts from now on", set.number);
            }
            Event::News { source, manifest } => {
                log!(Level::Info, KPULL_EVENT = "release", KPULL_SOURCE = *source, KPULL_SERIAL = manifest.serial;
                    "release {} of {} from {source}", manifest.serial, manifest.site);
            }
            Event::Changed(item, change) => {
                log!(Level::Info, KPULL_EVENT = "changed", KPULL_RESOURCE = item.id.as_str(), KPULL_ROLE = &*item.role;
                    "{}: {}", item.id, change.summary);
            }
            Event::Unlabelled(error) => {
                let help = error.advice().unwrap_or_default();
                log!(Level::Warn, KPULL_EVENT = "unlabelled"; "{error}; {help}");
            }
            Event::Untold(error) => log!(Level::Warn, KPULL_EVENT = "untold"; "{error}"),
            Event::SlotTaken { item, slot, by } => {
                log!(Level::Info, KPULL_EVENT = "slot_taken", KPULL_RESOURCE = item.id.as_str(), KPULL_SLOT = *slot;
                    "{} waits for the slot {slot}: {by}", item.id);
            }
            Event::SlotUnknown { item, slot, why } => {
                log!(Level::Warn, KPULL_EVENT = "slot_unknown", KPULL_RESOURCE = item.id.as_str(), KPULL_SLOT = *slot;
                    "{} goes on without the slot {slot}, since etcd is down: {why}", item.id);
            }
            Event::SlotKept { item, slot, why } => {
                log!(Level::Warn, KPULL_EVENT = "slot_kept", KPULL_RESOURCE = item.id.as_str(), KPULL_SLOT = *slot;
                    "the slot {slot} could not be given back, and ends by itself: {why}");
            }
            Event::Passing(item) => {
                log!(Level::Info, KPULL_EVENT = "probe_passed", KPULL_RESOURCE = item.id.as_str(); "{}: passed", item.id);
            }
            Event::Saved { path } => {
                log!(Level::Warn, KPULL_EVENT = "saved"; "{path} was edited by hand; the edit is saved");
            }
            Event::Lost { id, error } => {
                log!(Level::Warn, KPULL_EVENT = "not_restored", KPULL_RESOURCE = *id, KPULL_CODE = error.code().name;
                    "{id}: can't be restored: {error}; `kpull disown {id}` leaves it as it is");
            }
            Event::Overruled { id, error } => {
                log!(Level::Warn, KPULL_EVENT = "overruled", KPULL_RESOURCE = *id, KPULL_CODE = error.code().name;
                    "{id}: {error}; {}", error.advice().unwrap_or_default());
            }
            Event::Waits { why } => log!(Level::Info, KPULL_EVENT = "waits"; "waits for its turn with {why}"),
            Event::LockKept { why } => {
                log!(Level::Warn, KPULL_EVENT = "lock_kept"; "the lock could not be given back, which the next run tries again: {why}");
            }
            Event::Stays { hold } => {
                log!(Level::Warn, KPULL_EVENT = "held_back", KPULL_SERIAL = hold.not; "{}", held_back(hold));
            }
            Event::Back { hold } => {
                log!(Level::Error, KPULL_EVENT = "back", KPULL_SERIAL = hold.serial;
                    "release {} is not good for this host: back to release {}: {}", hold.not, hold.serial, hold.why);
            }
            Event::Done(summary) => {
                log!(Level::Info, KPULL_EVENT = "done", KPULL_CHANGED = summary.changed.len(), KPULL_SERIAL = summary.serial.unwrap_or(0);
                    "{}: {} of {} resources changed", summary.host, summary.changed.len(), summary.resources);
            }
            Event::Planned(..) | Event::Waiting(_) | Event::Ended(_) | Event::Download { .. } => {}
        }
    }
}

/// Tells the journal why a run failed; false when [`Journal::connect`] found none, and somebody else has to be told.
pub fn failed(error: &crate::Error) -> bool {
    if log::max_level() == log::LevelFilter::Off {
        return false;
    }
    let place = error.place().map_or_else(String::new, |place| format!(" ({place})"));
    let help = error.advice().map_or_else(String::new, |help| format!("; {help}"));
    log!(Level::Error, KPULL_EVENT = "failed", KPULL_EXIT = error.exit_code() as i32, KPULL_CODE = error.code().name;
        "{error}{place}{help}");
    true
}
