//! The product by outside behaviour, as a user sees it: the program, a site, and a directory that is made into a machine.

#[path = "tree/apply.rs"]
mod apply;
#[path = "tree/artifacts.rs"]
mod artifacts;
#[path = "support/authority.rs"]
mod authority;
#[path = "tree/back.rs"]
mod back;
#[path = "tree/broken.rs"]
mod broken;
#[path = "tree/check.rs"]
mod check;
#[path = "support/disk.rs"]
mod disk;
#[path = "tree/faults.rs"]
mod faults;
#[path = "tree/fleet.rs"]
mod fleet;
#[path = "support/git.rs"]
mod git;
#[path = "tree/hooks.rs"]
mod hooks;
#[path = "tree/metrics.rs"]
mod metrics;
#[path = "tree/nginx.rs"]
mod nginx;
#[path = "tree/pki.rs"]
mod pki;
#[path = "tree/seal.rs"]
mod seal;
#[path = "tree/secrets.rs"]
mod secrets;
#[path = "support/site.rs"]
mod site;
#[path = "tree/sources.rs"]
mod sources;
#[path = "tree/supply.rs"]
mod supply;
#[path = "tree/verify.rs"]
mod verify;

use kpull::net::server::{Answer, Seen};
