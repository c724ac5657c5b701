//! The trust floor under attack: hostile sources against the real program.
//!
//! Each attack is mounted through a directory, a git repository and a web server, on hosts that have a good release and
//! on fresh ones; see `attack/host.rs` for what is held against what comes out.

mod asking;
mod author;
mod bytes;
mod desk;
mod enrol;
mod host;
mod keys;
mod launch;
mod local;
mod manifest;
mod mirrors;
mod moved;
mod outputs;
mod records;
mod secrets;
mod signatures;
mod supplying;
mod table;
mod taken;
mod terminal;
mod time;
mod tools;
mod writable;
