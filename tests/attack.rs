//! The trust floor under attack: hostile sources against the real program.
//!
//! Each attack is mounted through a directory, a git repository and a web server, on hosts that have a good release and
//! on fresh ones; see `attack/host.rs` for what is held against what comes out.
#![allow(clippy::disallowed_types, reason = "tests start programs as anybody does")]

#[path = "attack/asking.rs"]
mod asking;
#[path = "attack/author.rs"]
mod author;
#[path = "attack/bytes.rs"]
mod bytes;
#[path = "support/child.rs"]
mod child;
#[path = "attack/desk.rs"]
mod desk;
#[path = "attack/enrol.rs"]
mod enrol;
#[path = "attack/host.rs"]
mod host;
#[path = "attack/keys.rs"]
mod keys;
#[path = "attack/launch.rs"]
mod launch;
#[path = "attack/local.rs"]
mod local;
#[path = "attack/manifest.rs"]
mod manifest;
#[path = "attack/mirrors.rs"]
mod mirrors;
#[path = "attack/moved.rs"]
mod moved;
#[path = "support/named.rs"]
mod named;
#[path = "attack/outputs.rs"]
mod outputs;
#[path = "attack/records.rs"]
mod records;
#[path = "attack/secrets.rs"]
mod secrets;
#[path = "attack/signatures.rs"]
mod signatures;
#[path = "support/site.rs"]
mod site;
#[path = "attack/supplying.rs"]
mod supplying;
#[path = "attack/table.rs"]
mod table;
#[path = "attack/taken.rs"]
mod taken;
#[path = "attack/terminal.rs"]
mod terminal;
#[path = "attack/time.rs"]
mod time;
#[path = "attack/tools.rs"]
mod tools;
#[path = "attack/writable.rs"]
mod writable;
