//! What shows that something on the host was touched since it was last looked at.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::process::{self, Command, Ended};
use super::root::Fingerprint;
use super::{Host, etcd, kube};
use crate::error::{Error, Result, code, error};

/// Something on the host that can show whether a resource was touched.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WatchedInput {
    /// What is at a path, or that nothing is.
    Path(PathBuf),
    /// The same, but without the content of a directory.
    Place(PathBuf),
    /// The text of a kernel file, which has no times.
    Text(PathBuf),
    /// The state of a unit.
    Unit(String),
    /// The runtime settings of a firewalld zone.
    Zone(String),
    /// The runtime state of a set of addresses in firewalld.
    IpSet(String),
    /// Whether a program succeeds.
    Program(Command<'static>),
    /// The version of an object of a Kubernetes cluster.
    Object(kube::ObjectVersion),
    /// The revision of a key of etcd.
    Key(etcd::KeyRevision),
}

impl WatchedInput {
    /// Whether it is queried again each time, so that a later answer may differ from what was observed.
    pub fn is_asked_anew(&self) -> bool {
        matches!(self, Self::Text(_) | Self::Program(_) | Self::Object(_) | Self::Key(_))
    }
}

impl Host {
    /// The current fingerprint of an input; it differs from an earlier one if the input was touched.
    pub fn seen(&self, input: &WatchedInput) -> Result<Option<Fingerprint>> {
        let text = |text: Vec<u8>| Fingerprint { text: Some(text), ..Fingerprint::default() };
        Ok(match input {
            WatchedInput::Path(path) => self.root.seen(path)?,
            WatchedInput::Place(path) => {
                let place = |seen: Fingerprint| Fingerprint { size: 0, mtime: (0, 0), ctime: (0, 0), ..seen };
                self.root.seen(path)?.map(place)
            }
            WatchedInput::Text(path) => self.root.read(path)?.map(|(_, content)| text(content)),
            WatchedInput::Unit(name) => {
                let unit = self.unit(name)?;
                // the sub-state of an active unit changes by itself
                let sub = if unit.active == "active" { "" } else { &unit.sub };
                Some(text(format!("{} {} {sub} {}", unit.load, unit.active, unit.has_job).into()))
            }
            WatchedInput::Zone(name) => self.runtime(name)?.map(|zone| text(zone.digest().into())),
            WatchedInput::IpSet(name) => self.firewalld()?.ipset(name)?.known().map(|set| text(set.digest().into())),
            WatchedInput::Program(program) => {
                let ended =
                    process::run_if_there(&Command { mute: true, ..program.clone() })?.map(|output| output.ended);
                let answer = match ended {
                    Some(Ended::Exited(status)) if status.success() => "yes",
                    Some(Ended::TimedOut(_)) => "none in time",
                    _ => "no",
                };
                Some(text(answer.into()))
            }
            WatchedInput::Object(object) => {
                let kube = self.kube(&object.access).map_err(|what| Error::new(code::FACTS, what))?;
                kube.state(object)?.map(|state| text(state.into()))
            }
            WatchedInput::Key(key) => {
                let state = self.etcd(&key.cluster)?.state(key);
                let state =
                    state.map_err(|why| error!(FACTS, "etcd does not return the state of a key").because(why))?;
                state.map(|revision| text(revision.to_string().into()))
            }
        })
    }
}
