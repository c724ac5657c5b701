//! A run on a host: poll the sources, verify, resolve, plan, apply.

mod agent;
mod apply;
mod check;
mod converge;
mod fault;
mod gates;
pub mod gc;
mod lock;
mod only;
mod orphan;
mod plan;
mod prelude;
pub mod prior;
mod restore;
mod rollout;
mod run;
mod select;
pub mod slot;
mod sources;
#[cfg(test)]
mod testing;
mod trust;
mod up_to_date;
mod vitals;

pub use agent::{Agent, ReleaseStamp};
pub use apply::{Applied, apply};
pub use converge::{RunOptions, converge, go_back};
pub use plan::{Plan, plan, plan_part};
pub use run::Stop;
pub use select::Selection;
pub use trust::HostTrust;
