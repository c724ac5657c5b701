//! kpull pulls its host's signed manifest from git, HTTP or a directory, and makes the host what the manifest says.
//!
//! The flow goes one way, and each arrow is a type that only the stage before it can make:
//!
//! ```text
//! source ──bytes──▶ trust ──Release──▶ resolve ──Catalog──▶ plan ──Plan──▶ apply ──▶ Generation
//! ```
//!
//! Start at `main.rs`, then read the stages in that order.

#![deny(unsafe_code)] // with the one exception in sandbox/filter.rs
#![deny(missing_docs)]
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::string_slice))]
#![cfg_attr(test, allow(clippy::disallowed_types, reason = "tests start programs as anybody does"))]

pub mod agent;
pub mod author;
pub mod cli;
pub mod config;
pub mod document;
pub mod engine;
pub mod error;
pub mod host;
pub mod kind;
#[cfg(test)]
mod layers;
pub mod magic;
pub mod net;
pub mod pki;
pub mod read;
pub mod report;
pub mod resolve;
pub mod sandbox;
pub mod secret;
pub mod site;
pub mod source;
pub mod status;
pub mod store;
pub mod template;
pub mod text;
pub mod trust;

pub use error::{Context, Error, Exit, Result};
