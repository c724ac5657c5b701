//! What a run publishes: status records, metrics, hooks.

pub mod hook;
pub mod metrics;
pub mod status;
