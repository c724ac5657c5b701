//! What a run tells while it goes on. The engine reports events; how they look is decided here and nowhere else.

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

use crate::error::Error;
use crate::kind::{Change, Item};
use crate::store::StayOn;
use crate::trust::{KeySet, Manifest};

/// Who has a slot, as it stands in etcd.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Holder {
    /// The host's name.
    pub host: String,
    /// Since when.
    pub since: Timestamp,
}

/// Why a slot is not free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occupied {
    /// Another host has it.
    By(Holder),
    /// A server says no, or nothing.
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
    /// A source could not be asked, or what it has was not taken; the run goes on without it.
    Passed {
        /// The source.
        source: &'a str,
        /// Why.
        error: &'a Error,
    },
    /// A newer set of keys counts from now on.
    Keys(&'a KeySet),
    /// A release was taken from a source.
    News {
        /// The source.
        source: &'a str,
        /// What its signers say.
        manifest: &'a Manifest,
    },
    /// A difference between the catalog and the host, found by `plan`.
    Planned(&'a Item, &'a Change),
    /// A difference was mended.
    Changed(&'a Item, &'a Change),
    /// Bytes of a download have come in.
    Download {
        /// What is downloaded.
        name: &'a str,
        /// Bytes so far.
        done: u64,
        /// Bytes in all, if known.
        total: Option<u64>,
    },
    /// A mirror did not have an artifact; it is looked for elsewhere.
    PassedMirror {
        /// The mirror.
        mirror: &'a str,
        /// Why.
        error: &'a Error,
    },
    /// SELinux is on, and what is new in this run does not get the contexts that its policy has for it; told once.
    Unlabelled(&'a Error),
    /// Nobody hears how this host is: its status could not be told.
    NotReported(&'a Error),
    /// Everybody on the host can read a secret of its configuration.
    Exposed(&'a Error),
    /// The slot that a resource waits for is not free.
    SlotTaken {
        /// The resource.
        item: &'a Item,
        /// The slot.
        slot: &'a str,
        /// Why it is not free.
        by: &'a Occupied,
    },
    /// Nobody can say who has a slot; the run goes on without it.
    SlotUnknown {
        /// The resource that needs it.
        item: &'a Item,
        /// The slot.
        slot: &'a str,
        /// Why.
        why: &'a str,
    },
    /// A slot could not be given back; it is kept until its lease ends.
    SlotNotReturned {
        /// The resource that needed it.
        item: &'a Item,
        /// The slot.
        slot: &'a str,
        /// Why.
        why: &'a str,
    },
    /// A probe is waited for.
    Waiting(&'a Item),
    /// A probe passed.
    Passing(&'a Item),
    /// Somebody's edit of a file was saved before the file was overwritten or removed.
    Saved {
        /// The file.
        path: &'a str,
    },
    /// What stood on this host before a resource can't be restored now that no role wants the resource any more.
    Lost {
        /// The resource.
        id: &'a str,
        /// Why.
        error: &'a Error,
    },
    /// Something else on this host will undo a resource at the next boot.
    Overruled {
        /// The resource.
        id: &'a str,
        /// What, and what to do about it.
        error: &'a Error,
    },
    /// There is a newer release, and it is not this host's turn.
    RolloutWaiting {
        /// Which, and why.
        why: &'a str,
    },
    /// The lock server has not taken its lock back; the next run tries again.
    LockNotReturned {
        /// Why.
        why: &'a str,
    },
    /// A newer release is held back, and the host stays with an earlier one.
    StaysOn {
        /// Which, with which, and why.
        hold: &'a StayOn,
    },
    /// The host goes back to an earlier release.
    RolledBack {
        /// Which, from which, and why.
        hold: &'a StayOn,
    },
    /// What a release asks for was done, or planned; a run that goes back has two of these.
    Done(&'a Summary),
    /// The whole run ends, and all is well.
    Ended(&'a Summary),
}

/// What a run came to.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// `apply` or `plan`.
    pub command: &'static str,
    /// The host.
    pub host: String,
    /// The release's serial; `None` for an unsigned preview.
    pub serial: Option<u64>,
    /// Resources of the host.
    pub resources: usize,
    /// Ids of those that were, or would be, changed.
    pub changed: Vec<String>,
    /// How many of those had moved away from a release that was applied before.
    pub drifted: usize,
    /// Ids of units that were, or would be, restarted or reloaded because something that they watch changed.
    pub restarted: Vec<String>,
    /// Probes that passed.
    pub probes: usize,
    /// Ids of those that a preview could not compare, since it reads no secrets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uncompared: Vec<String>,
    /// Whether nothing was looked into, since nobody has touched it and no source has news.
    pub up_to_date: bool,
    /// Why the newest release was not taken, when it is not this host's turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// Whether something was wrong, which is told beside it: nobody is to read that there was nothing to do.
    #[serde(skip)]
    pub is_failed: bool,
    /// How long it took.
    #[serde(serialize_with = "seconds")]
    pub took: Duration,
}

fn seconds<S: serde::Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((took.as_secs_f64() * 1000.0).round() / 1000.0)
}

/// Whoever listens.
pub trait Report {
    /// Tells of an event.
    fn event(&self, event: &Event<'_>);
}

impl<T: Report + ?Sized> Report for &T {
    fn event(&self, event: &Event<'_>) {
        (**self).event(event);
    }
}

/// Several listeners as one.
impl Report for Vec<Box<dyn Report>> {
    fn event(&self, event: &Event<'_>) {
        for report in self {
            report.event(event);
        }
    }
}
