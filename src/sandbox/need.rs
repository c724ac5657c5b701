//! What a host can require of the sandbox, beyond what every kernel supports.

use nix::unistd::geteuid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::confine::has_landlock;
use super::user::user;
use crate::error::{Error, Result, error};
use crate::text::display_as_serialized;

/// A part of the sandbox that not every host has.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    /// Landlock, which denies the process all files but a few (Linux 5.13).
    Landlock,
    /// A user other than root, where kpull is root.
    User,
}

display_as_serialized!(Need);

impl Need {
    /// What the process that talks to the network can do on a host without it.
    pub fn consequence(self) -> &'static str {
        match self {
            Self::Landlock => {
                "can read all files that every user can read, and write to all files that every user can write"
            }
            Self::User => "runs as root, limited only by the system call filter and Landlock",
        }
    }

    /// Why this host does not have it.
    pub fn cause(self) -> String {
        match self {
            Self::Landlock => {
                let name = nix::sys::utsname::uname();
                let release = name.as_ref().map_or_else(|_| "?".into(), |name| name.release().to_string_lossy());
                format!("this host's kernel, Linux {release}, has no Landlock")
            }
            Self::User => "root is the only user of the container that kpull runs in".to_owned(),
        }
    }

    /// The error of a host that does not have what its configuration requires.
    fn unmet(self) -> Error {
        let help = match self {
            Self::Landlock => {
                "boot Linux 5.13 or later with Landlock enabled (`landlock` is listed in /sys/kernel/security/lsm)"
            }
            Self::User => "run kpull outside the container, or map the user nobody (65534) into it",
        };
        error!(SANDBOX, "kpull fetches nothing: `require` under [sandbox] in kpull.toml names \"{self}\"")
            .because(self.cause())
            .help(format!(
                "{help}, or remove \"{self}\" from `require`; without it, the process that talks to the network {}",
                self.consequence()
            ))
    }
}

/// What this host's sandbox lacks.
pub fn lacking() -> Result<Vec<Need>> {
    let mut lacking = Vec::new();
    if !has_landlock() {
        lacking.push(Need::Landlock);
    }
    if geteuid().is_root() && user()?.is_none() {
        lacking.push(Need::User);
    }
    Ok(lacking)
}

/// Fails when this host's sandbox lacks something that is required of it.
pub(super) fn demand(required: &[Need]) -> Result<()> {
    if required.is_empty() {
        return Ok(());
    }
    let lacking = lacking()?;
    required.iter().find(|need| lacking.contains(need)).map_or(Ok(()), |need| Err(need.unmet()))
}
