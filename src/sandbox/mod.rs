//! The process that talks to the network: it has no rights, and is trusted no more than the network.
//!
//! Name resolution, TLS, HTTP, git's packs and their unpacking are far more code than the rest of this program, and all
//! of it reads what strangers send. It runs in a child process, `kpull fetch-worker`, which the parent asks for the
//! current state and for single files. A mistake in that code is then a mistake in a process that runs as nobody, sees hardly
//! any files, can start no program, and returns bytes that the parent checks like any others: signatures, digests,
//! sizes.
//!
//! ```text
//! parent (root)                                child (nobody)
//!   opens the cache, reads keys and tokens ──▶   confines itself (`confine`), then reads from the network
//!   Poll · Read · List · Get               ──▶
//!   verifies                               ◀──   answers (`wire`): as hostile as the network
//! ```

mod cache;
mod child;
mod confine;
mod filter;
mod need;
mod parent;
mod user;
mod wire;
mod worker;

pub use child::main;
pub use confine::{Confined, Confinement, confine, has_landlock};
pub use need::{Need, lacking};
pub use parent::{Web, describe, open};
pub use user::user;

/// The argument that makes this program the child.
pub const COMMAND: &str = "fetch-worker";
