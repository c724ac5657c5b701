//! What many commands import.

pub(super) use std::collections::{BTreeMap, BTreeSet};
pub(super) use std::path::{Path, PathBuf};
pub(super) use std::sync::Arc;

pub(super) use clap::{Args, Subcommand};
pub(super) use jiff::{SignedDuration, Timestamp};
pub(super) use serde_json::json;

pub(super) use crate::cli::{HostArgs, Run, SiteArgs, SiteSource, TlsArgs, VerbosityArgs, load_site};
pub(super) use crate::cli::{print, print_as_is, print_json, print_line, print_result};
pub(super) use crate::document::{Files, replace};
pub(super) use crate::engine::Agent;
pub(super) use crate::error::advice::complete;
pub(super) use crate::error::{Context, Error, Exit, Result, code, counted, error, keep, nearest};
pub(super) use crate::host::Host;
pub(super) use crate::report::{Event, Report, Text};
pub(super) use crate::resolve::{Catalog, Facts};
pub(super) use crate::secret::SecretStore;
pub(super) use crate::site::Site;
pub(super) use crate::store::Generation;
pub(super) use crate::trust::KeySet;
