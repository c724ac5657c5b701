//! The operator's side of certificates: authorities, requests, renewal, revocation.

mod admin;
mod draft;
mod status;

pub use admin::{Completed, Operation, PkiAdmin, Step};
pub use draft::Draft;
pub use status::{CertificateState, CertificateStatus, survey};
