//! The process that talks to the network: it has no rights, and is believed no more than the network is.
//!
//! Name resolution, TLS, HTTP, git's packs and what unpacks them are far more code than the rest of this program, and all
//! of it reads what strangers send. It runs in a child process, `kpull fetch-worker`, of which the parent asks for the
//! present state and for single files. A mistake in that code is then a mistake in a process that is nobody, sees next to
//! no files, can start no program, and hands out bytes that the parent checks as it always does: signatures, digests,
//! sizes.
//!
//! ```text
//! parent (root)                                child (nobody)
//!   opens the cache, reads keys and tokens ──▶   confines itself (`confine`), then reads from the network
//!   Poll · Read · List · Get               ──▶
//!   verifies                               ◀──   answers (`wire`): as hostile as the network
//! ```

mod child;
mod confine;
mod filter;
mod need;
mod parent;
mod wire;

pub use child::main;
pub use confine::{Confined, Confinement, confine, has_landlock};
pub use need::{Need, lacking};
pub use parent::{Web, describe, open};

/// The argument that makes this program the child.
pub const COMMAND: &str = "fetch-worker";
