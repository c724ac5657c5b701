//! What hosts are supplied with: releases as they are published, artifacts as they are pinned and mirrored.
//!
//! The operator's side. Of it, a host knows [`layout`] and nothing else.

pub mod check;
pub mod mirror;
pub mod pin;
pub mod publish;
pub mod sums;
