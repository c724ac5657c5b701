//! What a run tells others.

pub mod hook;
pub mod metrics;
pub mod status;
