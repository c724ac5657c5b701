//! What most kinds import.

pub(super) use std::borrow::Cow;
pub(super) use std::collections::{BTreeMap, BTreeSet};
pub(super) use std::fmt;
pub(super) use std::path::{Path, PathBuf};
pub(super) use std::sync::Arc;
pub(super) use std::time::Duration;

pub(super) use schemars::JsonSchema;
pub(super) use serde::{Deserialize, Serialize};

pub(super) use crate::document::fields::{AbsolutePath, AccountName, HumanDuration, Mode, is_argv, is_plain, is_word};
pub(super) use crate::error::{Error, Result, code, error};
pub(super) use crate::host::Host;
pub(super) use crate::host::root::{Access, FileType, Meta, Root};
pub(super) use crate::kind::diff::Diff;
pub(super) use crate::kind::file::{File, Ownership};
pub(super) use crate::kind::prior_state::PriorState;
pub(super) use crate::kind::{
    About, Build, Change, Claim, Fields, Item, Named, Phase, Presence, Resource, ResourceId, Trigger, WatchedInput,
    Work,
};
pub(super) use crate::text::from_text;
