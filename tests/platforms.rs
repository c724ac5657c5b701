//! Systems that are not the one the other suites run on: older kernels, other distributions, other architectures.
#![allow(clippy::disallowed_types, reason = "tests start programs as anybody does")]

#[path = "lab/alone.rs"]
mod alone;
#[path = "platforms/arm64.rs"]
mod arm64;
#[path = "platforms/debian.rs"]
mod debian;
#[path = "platforms/families.rs"]
mod families;
#[path = "platforms/firewalld.rs"]
mod firewalld;
#[path = "support/kernel.rs"]
mod kernel;
#[path = "platforms/kernels.rs"]
mod kernels;
#[path = "support/lab.rs"]
mod lab;
#[path = "support/machine.rs"]
mod machine;
#[path = "platforms/memory.rs"]
mod memory;
#[path = "support/old_firewalld.rs"]
mod old_firewalld;
#[path = "platforms/packages.rs"]
mod packages;
#[path = "platforms/selinux.rs"]
mod selinux;
#[path = "support/site.rs"]
mod site;
#[path = "platforms/steps.rs"]
mod steps;
#[path = "support/web.rs"]
mod web;

const H1: (&str, &str) = ("h1", "192.168.1.11");
