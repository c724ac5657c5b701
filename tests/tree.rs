//! The product by outside behaviour, as a user sees it: the program, a site, and a directory that is made into a machine.

#[path = "tree/apply.rs"]
mod apply;
#[path = "tree/broken.rs"]
mod broken;
#[path = "support/site.rs"]
mod site;
