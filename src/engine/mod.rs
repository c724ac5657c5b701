//! A run on a host: ask the sources, verify, resolve, plan, apply.

mod apply;
pub mod before;
mod check;
mod converge;
mod fault;
pub mod gc;
mod lock;
mod plan;
mod rollout;
mod seal;
pub mod slot;
mod sources;
mod take;
#[cfg(test)]
mod testing;
mod vitals;

pub use apply::{Applied, Outcome, apply};
pub use converge::{How, converge, go_back};
pub use plan::{Plan, plan};
pub use take::{Agent, Stamp, Taken};
