//! The operator's side of secrets: making, reading and encrypting them anew, and finding texts that should be secrets.

pub mod admin;
pub mod scan;
