//! What several suites use.

pub mod alone;
pub mod authority;
pub mod child;
pub mod cluster;
pub mod cookbook;
pub mod disk;
pub mod files;
pub mod fleetlock;
pub mod git;
pub mod kernel;
pub mod lab;
pub mod machine;
pub mod named;
pub mod old_firewalld;
pub mod page;
pub mod sample;
pub mod shipped;
pub mod site;
pub mod traced;
pub mod translated;
pub mod web;

// of git.rs, which unit tests of src/net have too
use kpull::net::server::{Answer, Received};
