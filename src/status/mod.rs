//! What hosts say of themselves.

mod record;
pub mod vitals;

pub use record::{HostState, Record, RecordSource, VERSION, file, key, written};
