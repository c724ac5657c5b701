//! The shipped roles: what they make of a host, in the shipped site and in others; their pages; and that they have none of
//! the handbook's mistakes.
#![allow(clippy::disallowed_types, reason = "tests start programs as anybody does")]

#[path = "roles/bugs.rs"]
mod bugs;
#[path = "roles/made.rs"]
mod made;
#[path = "roles/pages.rs"]
mod pages;
#[path = "roles/rendered.rs"]
mod rendered;
#[path = "roles/runtime.rs"]
mod runtime;
#[path = "support/shipped.rs"]
mod shipped;
#[path = "support/site.rs"]
mod site;
#[path = "roles/sites.rs"]
mod sites;
