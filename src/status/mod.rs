//! What hosts say of themselves.

mod record;
pub mod vitals;

pub use record::{Place, Record, State, file, key, written};
