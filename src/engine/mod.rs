//! A run on a host: ask the sources, verify, resolve, plan, apply.

mod apply;
mod check;
mod converge;
mod fault;
pub mod gc;
mod lock;
mod plan;
pub mod prior;
mod rollout;
mod select;
pub mod slot;
mod sources;
#[cfg(test)]
mod testing;
mod up_to_date;
mod vitals;

pub use apply::{Applied, Outcome, apply};
pub use converge::{RunOptions, converge, go_back};
pub use plan::{Plan, plan};
pub use select::{Agent, ReleaseStamp, Selection};
