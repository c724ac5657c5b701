//! Trust under attack: hostile sources against the real program.
//!
//! Each attack runs through a directory, a git repository and a web server, on hosts that have a good release and on new ones;
//! `attack/host.rs` says what is compared with the result.

mod asking;
mod author;
mod bytes;
mod enrol;
mod host;
mod keys;
mod launch;
mod local;
mod manifest;
mod mirrors;
mod moved;
mod operator;
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
