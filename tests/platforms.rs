//! Systems that are not the one the other suites run on: older kernels, other distributions, other architectures.

mod arm64;
mod debian;
mod families;
mod firewalld;
mod hardening;
mod kernels;
mod memory;
mod packages;
mod selinux;
mod steps;
mod storage;
