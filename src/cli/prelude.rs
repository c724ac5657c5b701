//! What almost every command imports.

pub(super) use std::path::{Path, PathBuf};

pub(super) use clap::Args;
pub(super) use jiff::Timestamp;
pub(super) use serde_json::json;

pub(super) use crate::cli::{HostArgs, Run, SiteArgs, print, print_json, print_result};
pub(super) use crate::document::Files;
pub(super) use crate::error::{Context, Error, Exit, Result, code, error};
pub(super) use crate::report::Text;
pub(super) use crate::site::Site;
