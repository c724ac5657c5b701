//! `[[hook]]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::fields::is_argv;
use crate::error::{Result, error};
use crate::net;

/// The time limit, in seconds, for a program, and for each answer of a server.
const TIMEOUT: u64 = 10;
/// How often a failed request is repeated.
const RETRIES: u32 = 2;

/// What can happen in a run, the most important first.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// The host rolled back to an earlier release.
    Back,
    /// The run failed, and not as the one before it.
    Failure,
    /// Something was changed.
    Change,
    /// The host is healthy, after a run that failed.
    Recovery,
}

/// `[[hook]]`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// The events to report.
    pub on: Vec<When>,
    /// The program and its arguments, without a shell. Set either this or `post`.
    pub command: Option<Vec<String>>,
    /// The address to post notifications to.
    pub post: Option<String>,
    /// The time limit in seconds, for the program or for each answer of the server. Default: 10.
    timeout: Option<u64>,
    /// How often a failed request is repeated. Default: 2.
    retries: Option<u32>,
    /// See [`net::Options::ca`].
    ca: Option<PathBuf>,
    /// See [`net::Options::client_cert`].
    client_cert: Option<PathBuf>,
    /// See [`net::Options::client_key`].
    client_key: Option<PathBuf>,
    /// See [`net::Options::bearer`].
    bearer: Option<PathBuf>,
    /// See [`net::Options::basic`].
    basic: Option<PathBuf>,
}

impl Hook {
    /// Every path in it.
    pub fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [&mut self.ca, &mut self.client_cert, &mut self.client_key, &mut self.bearer, &mut self.basic]
            .into_iter()
            .flatten()
    }

    /// The program, if its path is absolute.
    pub fn program(&self) -> Option<&Path> {
        let program = Path::new(self.command.as_ref()?.first()?);
        program.is_absolute().then_some(program)
    }

    /// The files with the secrets that it sends to a server.
    pub fn secret_files(&self) -> [&Option<PathBuf>; 3] {
        [&self.bearer, &self.basic, &self.client_key]
    }

    /// The time limit, for the program or for each answer of the server.
    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.timeout.unwrap_or(TIMEOUT))
    }

    /// How to connect to its server.
    pub fn net(&self) -> net::Options {
        let Self { ca, client_cert, client_key, bearer, basic, .. } = self.clone();
        let (timeout, retries) = (Some(self.limit().as_secs()), Some(self.retries.unwrap_or(RETRIES)));
        net::Options { ca, client_cert, client_key, bearer, basic, timeout, retries }
    }

    /// Refuses options that contradict each other.
    pub fn check(&self) -> Result<()> {
        if self.on.is_empty() {
            return Err(
                error!(HOOK, "a hook has no events").help("set `on` to some of: failure, back, change, recovery")
            );
        }
        match (&self.command, &self.post) {
            (Some(argv), None) if is_argv(argv) => {}
            (Some(_), None) => {
                return Err(error!(HOOK, "`command` is empty").help("write it as [\"/path/of/program\", \"argument\"]"));
            }
            (None, Some(url)) => {
                let url = net::parse(url)?;
                let is_here = matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
                if url.scheme() != "https" && !is_here {
                    return Err(error!(HOOK, "{} would be sent unencrypted", origin(&url))
                        .help("use https://; http:// is only for addresses of this host"));
                }
            }
            _ => return Err(error!(HOOK, "a hook needs either `command` or `post`").help("set one of them")),
        }
        self.net().check()
    }
}

/// An address without its path and query.
pub fn origin(url: &reqwest::Url) -> String {
    url.origin().ascii_serialization()
}
