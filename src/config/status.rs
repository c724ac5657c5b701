//! `[status]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::fields::HumanDuration;
use crate::error::{Result, error};
use crate::host::etcd::Cluster;
use crate::net;

/// The default time limit for reading all records of a fleet.
pub const READING: Duration = Duration::from_secs(60);

/// `[status]`: where a host publishes its status.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// A directory that others can read: one that a web server serves, or a shared file system.
    pub dir: Option<PathBuf>,
    /// `https://HOST:2379`, client addresses of etcd.
    #[serde(default)]
    pub etcd: Vec<String>,
    /// The address of a directory on a web server that accepts PUT, `https://HOST/DIRECTORY`.
    pub http: Option<String>,
    /// PEM file with the authorities of etcd, or of the web server instead of the system's.
    pub ca: Option<PathBuf>,
    /// PEM file with the client certificate.
    pub client_cert: Option<PathBuf>,
    /// PEM file with its key.
    pub client_key: Option<PathBuf>,
    /// How often a host publishes its status when nothing is new. Default: `10m`.
    #[serde(default = "ten_minutes")]
    pub every: HumanDuration,
    /// The time limit for reading the records of all other hosts before this host applies a release of a rollout. Default: `60s`.
    #[serde(default = "a_minute")]
    within: HumanDuration,
}

fn ten_minutes() -> HumanDuration {
    HumanDuration(Duration::from_secs(600))
}

fn a_minute() -> HumanDuration {
    HumanDuration(READING)
}

impl Status {
    /// Every path in it.
    pub fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [&mut self.dir, &mut self.ca, &mut self.client_cert, &mut self.client_key].into_iter().flatten()
    }

    /// Refuses options that contradict each other.
    pub fn check(&self) -> Result<()> {
        if self.dir.is_none() && self.etcd.is_empty() && self.http.is_none() {
            return Err(error!(FLEET, "[status] has no destination").help("set `dir`, `http`, or `etcd` with `ca`"));
        }
        self.http.as_deref().map(net::parse).transpose()?;
        self.cluster().map(drop)
    }

    /// The time limit for reading the records of all other hosts.
    pub fn within(&self) -> Duration {
        self.within.0
    }

    /// The options for connecting to the web server.
    pub fn options(&self) -> net::Options {
        let Self { ca, client_cert, client_key, .. } = self.clone();
        net::Options { ca, client_cert, client_key, retries: Some(1), ..net::Options::default() }
    }

    /// The etcd cluster, if there is one.
    pub fn cluster(&self) -> Result<Option<Cluster>> {
        cluster(&self.etcd, self.ca.as_deref(), self.client_cert.as_deref(), self.client_key.as_deref())
    }
}

/// The etcd cluster of these options, if there is one.
pub fn cluster(etcd: &[String], ca: Option<&Path>, cert: Option<&Path>, key: Option<&Path>) -> Result<Option<Cluster>> {
    if etcd.is_empty() {
        return Ok(None);
    }
    let endpoints = etcd.iter().map(|text| net::parse(text)).collect::<Result<Vec<_>>>()?;
    let Some(ca) = ca else {
        return Err(error!(FLEET, "`etcd` needs `ca`").help("name the PEM file with etcd's authority"));
    };
    let client = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert.to_owned(), key.to_owned())),
        (None, None) => None,
        _ => return Err(error!(FLEET, "set both `client_cert` and `client_key`, or neither")),
    };
    Ok(Some(Cluster { endpoints, ca: ca.to_owned(), client }))
}
