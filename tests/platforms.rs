//! Systems that are not the one the other suites run on: older kernels, other distributions, other architectures.

#[path = "support/kernel.rs"]
mod kernel;
#[path = "platforms/kernels.rs"]
mod kernels;
#[path = "support/site.rs"]
mod site;
