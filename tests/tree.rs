//! The product by outside behaviour, as a user sees it: the program, a site, and a directory that is made into a machine.
#![allow(clippy::disallowed_types, reason = "tests start programs as anybody does")]

#[path = "tree/adopt.rs"]
mod adopt;
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
#[path = "support/child.rs"]
mod child;
#[path = "tree/compare.rs"]
mod compare;
#[path = "support/disk.rs"]
mod disk;
#[path = "tree/downloads.rs"]
mod downloads;
#[path = "tree/example.rs"]
mod example;
#[path = "tree/extract.rs"]
mod extract;
#[path = "tree/faults.rs"]
mod faults;
#[path = "tree/firewall.rs"]
mod firewall;
#[path = "tree/fleet.rs"]
mod fleet;
#[path = "support/fleetlock.rs"]
mod fleetlock;
#[path = "tree/fmt.rs"]
mod fmt;
#[path = "support/git.rs"]
mod git;
#[path = "tree/help.rs"]
mod help;
#[path = "tree/hooks.rs"]
mod hooks;
#[path = "tree/isolated.rs"]
mod isolated;
#[path = "tree/metrics.rs"]
mod metrics;
#[path = "tree/mirrors.rs"]
mod mirrors;
#[path = "tree/names.rs"]
mod names;
#[path = "tree/new.rs"]
mod new;
#[path = "tree/nginx.rs"]
mod nginx;
#[path = "tree/owed.rs"]
mod owed;
#[path = "tree/packaging.rs"]
mod packaging;
#[path = "tree/pki.rs"]
mod pki;
#[path = "tree/recipe.rs"]
mod recipe;
#[path = "tree/reports.rs"]
mod reports;
#[path = "tree/rollout.rs"]
mod rollout;
#[path = "tree/schema.rs"]
mod schema;
#[path = "tree/seal.rs"]
mod seal;
#[path = "tree/secrets.rs"]
mod secrets;
#[path = "tree/see.rs"]
mod see;
#[path = "support/shipped.rs"]
mod shipped;
#[path = "support/site.rs"]
mod site;
#[path = "tree/sources.rs"]
mod sources;
#[path = "tree/state.rs"]
mod state;
#[path = "tree/supply.rs"]
mod supply;
#[path = "tree/vendor.rs"]
mod vendor;
#[path = "tree/verify.rs"]
mod verify;

use kpull::net::server::{Answer, Seen};
