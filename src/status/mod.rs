//! The status of hosts: signed records, and where they are read.

mod record;
pub mod vitals;

pub use record::{HostState, Record, RecordSource, Reported, VERSION, file, key, written};
