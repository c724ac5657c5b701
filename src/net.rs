//! HTTP(S) the way this program does it everywhere: one client, bounded in time and size, with retries.

use std::path::PathBuf;

use serde::Deserialize;

/// How to connect to a server. Every field may be left out.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Options {
    /// PEM file with the only authorities that are trusted; the system's otherwise.
    pub ca: Option<PathBuf>,
    /// PEM file with a client certificate and its chain.
    pub client_cert: Option<PathBuf>,
    /// PEM file with the key of `client_cert`.
    pub client_key: Option<PathBuf>,
    /// File with a bearer token.
    pub bearer: Option<PathBuf>,
    /// File with `user:password`.
    pub basic: Option<PathBuf>,
    /// Seconds until a server that doesn't answer is given up: for the connection, and for each wait for more bytes.
    pub timeout: Option<u64>,
    /// How often a failed request is tried again, with growing pauses; 3 otherwise.
    pub retries: Option<u32>,
}
