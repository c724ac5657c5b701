//! The operator's side of certificates: authorities, requests, renewal, revocation.

mod draft;
mod office;
mod status;

pub use draft::Draft;
pub use office::{Deed, Done, Office, Step};
pub use status::{Standing, State, survey};
