//! Every suite but that of the sandbox, which has a process of its own for each test: one program, since each links everything that kpull has.

#![allow(clippy::disallowed_types, reason = "tests start programs as anybody does")]

mod attack;
mod cluster;
mod docs;
mod edits;
mod etcd;
mod fault;
mod fuzz;
mod lab;
mod platforms;
mod roles;
mod soak;
mod support;
mod translated;
mod tree;
