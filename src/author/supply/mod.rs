//! The operator's side of publishing: releases are published, artifacts pinned and mirrored.

pub mod check;
pub mod mirror;
pub mod pin;
pub mod publish;
pub mod sums;
