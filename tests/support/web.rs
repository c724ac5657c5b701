//! A web server's answers for the tests.

use std::path::PathBuf;

use kpull::net::server::{Answer, Received};

/// Hands a directory out.
pub fn web(dir: PathBuf) -> impl Fn(&Received) -> Answer + Send + Sync + 'static {
    move |request| match std::fs::read(dir.join(request.path.trim_start_matches('/'))) {
        Ok(bytes) => Answer::new(200, bytes),
        Err(_) => Answer::new(404, ""),
    }
}
