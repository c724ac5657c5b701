//! The operator's side of secrets: writing and encrypting them, and finding text that should be a secret.

pub mod admin;
pub mod scan;
