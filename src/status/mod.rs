//! What hosts say of themselves.

mod record;
pub mod vitals;

pub use record::{HostState, Record, RecordSource, file, key, written};
