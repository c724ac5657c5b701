//! The shipped roles: what they make of a host, in the shipped site and in others; their pages; and that they have none of
//! the handbook's mistakes.

mod bugs;
mod made;
mod pages;
mod rendered;
mod runtime;
mod sites;
