//! The events of a run. The engine reports them; how they look is decided here and nowhere else.

mod journal;
mod json;
mod notes;
pub mod terminal;
mod text;

pub use journal::{Journal, failed};
pub use json::{Json, VERSION, line as json_line};
pub use notes::{Note, Notes};
pub use text::Text;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::advice::complete;
use crate::error::{Error, one_line, visible};
use crate::kind::{Change, Item, ResourceId};
use crate::store::StayOn;
use crate::trust::{KeySet, Manifest};

/// The holder of a slot, as etcd records it.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Holder {
    /// The host's name.
    pub host: String,
    /// Since when it holds the slot.
    pub since: Timestamp,
}

/// Why a slot is not free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occupied {
    /// Another host holds it.
    By(Holder),
    /// A server refuses, or gives no answer.
    Refused(String),
}

impl std::fmt::Display for Occupied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::By(holder) => write!(f, "{} has had it since {}", holder.host, holder.since),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

/// Something that happened in a run.
#[derive(Debug)]
pub enum Event<'a> {
    /// A source could not be polled, or its release was refused; the run continues without it. The source, and why.
    Passed(&'a str, &'a Error),
    /// A newer key set counts from now on.
    Keys(&'a KeySet),
    /// A source has a new release: the source, and its manifest.
    News(&'a str, &'a Manifest),
    /// A difference between the catalog and the host, found by `plan`.
    Planned(&'a Item, &'a Change),
    /// A difference was corrected.
    Changed(&'a Item, &'a Change),
    /// Progress of a download.
    Download {
        /// What is downloaded.
        name: &'a str,
        /// Bytes so far.
        done: u64,
        /// Bytes in all, if known.
        total: Option<u64>,
    },
    /// A mirror doesn't have an artifact; the next address is tried. The mirror, and why.
    PassedMirror(&'a str, &'a Error),
    /// SELinux is on, and new files of this run don't get the contexts that its policy has for them; reported once.
    Unlabelled(&'a Error),
    /// This host's status could not be published.
    NotReported(&'a Error),
    /// Every user of the host can read a secret of its configuration.
    Exposed(&'a Error),
    /// A custom fact can't be read; it has the value that it had last, if any. Its name, and why.
    NoFact(&'a str, &'a Error),
    /// The slot that a resource waits for is not free. The resource, the slot, and why.
    SlotTaken(&'a Item, &'a str, &'a Occupied),
    /// The holder of a slot is unknown; the run continues without the slot. The resource that needs it, the slot, and why.
    SlotUnknown(&'a Item, &'a str, &'a str),
    /// A slot could not be returned; it stays held until its lease ends. The resource that needed it, the slot, and why.
    SlotNotReturned(&'a Item, &'a str, &'a str),
    /// The run waits for a probe.
    Waiting(&'a Item),
    /// A probe passed.
    Passing(&'a Item),
    /// A local edit of this file was saved before the file was overwritten or removed.
    Saved(&'a str),
    /// The prior state of a resource that no role wants any more can't be restored. The resource's id, and why.
    Lost(&'a ResourceId, &'a Error),
    /// Something else on this host will undo a resource at the next boot, or leaves it without effect. The resource's id; what that is, and
    /// what to do about it.
    Overruled(&'a ResourceId, &'a Error),
    /// There is a newer release, and other hosts go first: which release, and why.
    RolloutWaiting(&'a str),
    /// A lock could not be returned, and why; the next run tries again.
    LockNotReturned(&'a str),
    /// The host stays on an earlier release than the newest one: both, and why.
    StaysOn(&'a StayOn),
    /// The host rolls back to an earlier release: both, and why.
    RolledBack(&'a StayOn),
    /// A release was applied, or planned; a run that rolls back has two of these.
    Done(&'a Summary),
    /// The whole run ends, and the host is healthy.
    Ended(&'a Summary),
}

impl Event<'_> {
    /// What happened, in words; `None` where each kind of report has its own form for it.
    fn message(&self) -> Option<String> {
        let advised = |error: &Error| match error.advice() {
            Some(advice) => format!("{error}; {advice}"),
            None => error.to_string(),
        };
        let text = match self {
            Self::Passed(source, error) => format!("{}: {error}", one_line(source)),
            Self::PassedMirror(mirror, error) => format!("mirror {}: {error}", one_line(mirror)),
            Self::Keys(set) => {
                let names: Vec<&str> = set.signers.iter().map(|signer| signer.principal.as_str()).collect();
                format!("key set {} is now in effect: {}", set.number, names.join(", "))
            }
            Self::News(source, manifest) => {
                one_line(&format!("release {} of {} from {source}", manifest.serial, manifest.site))
            }
            Self::NoFact(name, error) => {
                format!("custom fact {}: {}; kpull uses its last value", one_line(name), advised(error))
            }
            Self::Unlabelled(error) | Self::NotReported(error) | Self::Exposed(error) => advised(error),
            Self::SlotTaken(_, slot, by) => format!("waits for the slot {slot}: {by}"),
            Self::SlotUnknown(_, slot, why) => {
                format!("continues without the slot {slot}, because etcd is down: {why}")
            }
            Self::SlotNotReturned(_, slot, why) => {
                format!("the slot {slot} could not be returned, and expires: {why}")
            }
            Self::Saved(path) => {
                complete(&format!("{} was edited by hand: saved, see `kpull history --edits`", one_line(path)))
                    .into_owned()
            }
            Self::Lost(id, error) => {
                let id = one_line(id.as_str());
                complete(&format!("{id}: can't be restored: {error}; to keep it unchanged, run `kpull disown {id}`"))
                    .into_owned()
            }
            Self::Overruled(id, error) => format!("{}: {}", one_line(id.as_str()), advised(error)),
            Self::RolloutWaiting(why) => format!("waits for its position in the rollout of {why}"),
            Self::LockNotReturned(why) => {
                format!("the lock could not be returned, and the next run tries again: {why}")
            }
            Self::StaysOn(stay) => {
                let until = stay.again.map_or_else(String::new, |again| format!(" until {again:.0}"));
                let StayOn { not, serial, why, .. } = stay;
                format!("this host stays on release {serial}{until}, not on release {not}: {why}")
            }
            Self::RolledBack(stay) => {
                format!("release {} failed on this host: rolling back to release {}", stay.not, stay.serial)
            }
            Self::Planned(..)
            | Self::Changed(..)
            | Self::Download { .. }
            | Self::Waiting(_)
            | Self::Passing(_)
            | Self::Done(_)
            | Self::Ended(_) => return None,
        };
        Some(visible(&text))
    }
}

/// The result of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// `apply` or `plan`.
    pub command: &'static str,
    /// The host.
    pub host: String,
    /// The release's serial; `None` for an unsigned preview.
    pub serial: Option<u64>,
    /// The resources and roles to which a partial run was limited.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// Resources of the host.
    pub resources: usize,
    /// Ids of those that were, or would be, changed.
    pub changed: Vec<ResourceId>,
    /// How many of those had drifted from a release that was applied before.
    pub drifted: usize,
    /// Ids of units that were, or would be, restarted or reloaded because something that they watch changed.
    pub restarted: Vec<ResourceId>,
    /// Probes that passed.
    pub probes: usize,
    /// Ids of those that a preview can't compare, because it reads no secrets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uncompared: Vec<ResourceId>,
    /// Whether the up-to-date check ended the run: nothing was touched, and no source has news.
    pub up_to_date: bool,
    /// Why the newest release is not applied yet, when other hosts go first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// Whether there is an error, which is reported apart: the text must not say that there was nothing to do.
    #[serde(skip)]
    pub is_failed: bool,
    /// How long it took.
    #[serde(serialize_with = "seconds")]
    pub took: Duration,
}

fn seconds<S: serde::Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((took.as_secs_f64() * 1000.0).round() / 1000.0)
}

/// A receiver of events.
pub trait Report {
    /// Reports an event.
    fn event(&self, event: &Event<'_>);
}

#[cfg(test)]
impl Report for Vec<Box<dyn Report>> {
    fn event(&self, event: &Event<'_>) {
        self.iter().for_each(|report| report.event(event));
    }
}

impl<T: Report + ?Sized> Report for &T {
    fn event(&self, event: &Event<'_>) {
        (**self).event(event);
    }
}
