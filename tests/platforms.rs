//! Systems that are not the one the other suites run on: older kernels, other distributions, other architectures.

#[path = "support/kernel.rs"]
mod kernel;
#[path = "platforms/kernels.rs"]
mod kernels;
#[path = "platforms/packages.rs"]
mod packages;
#[path = "support/site.rs"]
mod site;
