//! What a host tells of itself.

pub mod vitals;
