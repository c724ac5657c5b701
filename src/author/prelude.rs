//! What many files of an operator's commands import.

pub(super) use std::collections::{BTreeMap, BTreeSet};
pub(super) use std::path::{Path, PathBuf};
pub(super) use std::sync::Arc;

pub(super) use jiff::Timestamp;

pub(super) use crate::document::{Doc, Files};
pub(super) use crate::error::{Context, Error, Place, Result, code, error, keep, nearest};
pub(super) use crate::kind::Item;
pub(super) use crate::resolve::{Catalog, Facts};
pub(super) use crate::secret::SecretStore;
pub(super) use crate::site::Site;
