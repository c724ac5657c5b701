//! A run on a host: ask the sources, verify, resolve, plan, apply.

mod apply;
mod plan;
mod take;

pub use apply::{Applied, apply};
pub use plan::{Plan, plan};
pub use take::{Agent, Taken};
