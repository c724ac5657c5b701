//! What most files of the engine import.

pub(super) use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
pub(super) use std::path::{Path, PathBuf};
pub(super) use std::time::{Duration, Instant};

pub(super) use jiff::{SignedDuration, Timestamp};
pub(super) use serde::{Deserialize, Serialize};
pub(super) use sha2::{Digest, Sha256};

pub(super) use crate::engine::Agent;
pub(super) use crate::error::{Error, Exit, Result, code, error};
pub(super) use crate::host::Host;
pub(super) use crate::kind::{Change, Claim, Item, Phase, ResourceId, Trigger, Work};
pub(super) use crate::report::{Event, Report, Summary};
pub(super) use crate::resolve::Catalog;
pub(super) use crate::store::{Generation, Pause, PendingActions, StayOn, Store};
