//! A run on a host: ask the sources, verify, resolve, plan, apply.

mod apply;
mod plan;
pub mod slot;
mod take;

pub use apply::{Applied, apply};
pub use plan::{Plan, plan};
pub use take::{Agent, Taken};
