//! What only operators do, on their own machines. Nothing that a host runs imports from here.
#![expect(clippy::disallowed_methods, reason = "an operator's own commands")]

pub mod adopt;
pub mod cluster;
pub mod compare;
pub mod differences;
pub mod example;
pub mod fmt;
pub mod lint;
pub mod pki;
mod prelude;
pub mod schema;
pub mod secret;
pub mod starts;
pub mod supply;
pub mod vendor;
