//! Output for journald: one record for each event, with fields that `journalctl` can filter by (`KPULL_EVENT=changed`).

use log::{Level, log};

use crate::error::{Error, one_line, visible};
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
        let message = event.message().unwrap_or_default();
        match event {
            Event::Passed(source, ..) => {
                log!(Level::Warn, KPULL_EVENT = "source_passed", KPULL_SOURCE = *source; "{message}");
            }
            Event::PassedMirror(mirror, ..) => {
                log!(Level::Warn, KPULL_EVENT = "mirror_passed", KPULL_MIRROR = *mirror; "{message}");
            }
            Event::Keys(set) => log!(Level::Warn, KPULL_EVENT = "keys", KPULL_KEYS = set.number; "{message}"),
            Event::News(source, manifest) => {
                log!(Level::Info, KPULL_EVENT = "release", KPULL_SOURCE = *source, KPULL_SERIAL = manifest.serial; "{message}");
            }
            Event::Changed(item, change) => {
                log!(Level::Info, KPULL_EVENT = "changed", KPULL_RESOURCE = item.id.as_str(), KPULL_ROLE = &*item.role;
                    "{}: {}", one_line(item.id.as_str()), change.summary);
            }
            Event::Unlabelled(_) => log!(Level::Warn, KPULL_EVENT = "unlabelled"; "{message}"),
            Event::Exposed(_) => log!(Level::Warn, KPULL_EVENT = "exposed"; "{message}"),
            Event::NotReported(_) => log!(Level::Warn, KPULL_EVENT = "not_reported"; "{message}"),
            Event::NoFact(..) => log!(Level::Warn, KPULL_EVENT = "fact_failed"; "{message}"),
            Event::SlotTaken(item, slot, _) => {
                log!(Level::Info, KPULL_EVENT = "slot_taken", KPULL_RESOURCE = item.id.as_str(), KPULL_SLOT = *slot;
                    "{}", one_line(&format!("{} {message}", item.id)));
            }
            Event::SlotUnknown(item, slot, _) => {
                log!(Level::Warn, KPULL_EVENT = "slot_unknown", KPULL_RESOURCE = item.id.as_str(), KPULL_SLOT = *slot;
                    "{}", one_line(&format!("{} {message}", item.id)));
            }
            Event::SlotNotReturned(item, slot, _) => {
                log!(Level::Warn, KPULL_EVENT = "slot_not_returned", KPULL_RESOURCE = item.id.as_str(), KPULL_SLOT = *slot;
                    "{}", one_line(&message));
            }
            Event::Passing(item) => {
                log!(Level::Info, KPULL_EVENT = "probe_passed", KPULL_RESOURCE = item.id.as_str();
                    "{}: passed", one_line(item.id.as_str()));
            }
            Event::Saved(_) => log!(Level::Warn, KPULL_EVENT = "saved"; "{message}"),
            Event::Lost(id, error) => {
                log!(Level::Warn, KPULL_EVENT = "not_restored", KPULL_RESOURCE = id.as_str(), KPULL_CODE = error.code().name; "{message}");
            }
            Event::Overruled(id, error) => {
                log!(Level::Warn, KPULL_EVENT = "overruled", KPULL_RESOURCE = id.as_str(), KPULL_CODE = error.code().name; "{message}");
            }
            Event::RolloutWaiting(_) => log!(Level::Info, KPULL_EVENT = "rollout_waiting"; "{message}"),
            Event::LockNotReturned(_) => log!(Level::Warn, KPULL_EVENT = "lock_not_returned"; "{message}"),
            Event::StaysOn(stay) => log!(Level::Warn, KPULL_EVENT = "stays_on", KPULL_SERIAL = stay.not; "{message}"),
            Event::RolledBack(stay) => {
                log!(Level::Error, KPULL_EVENT = "rolled_back", KPULL_SERIAL = stay.serial; "{message}: {}", visible(&stay.why));
            }
            Event::Done(summary) => {
                log!(Level::Info, KPULL_EVENT = "done", KPULL_CHANGED = summary.changed.len(), KPULL_SERIAL = summary.serial.unwrap_or(0);
                    "{}: {} of {} resources changed", one_line(&summary.host), summary.changed.len(), summary.resources);
            }
            Event::Planned(..) | Event::Waiting(_) | Event::Ended(_) | Event::Download { .. } => {}
        }
    }
}

/// Writes to the journal why a run failed; false when [`Journal::connect`] found none, and the error has to be shown elsewhere.
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
