//! `pki/revoked.toml`: certificates that are not to be believed any more, and why.

use std::fmt;

use clap::ValueEnum;
use jiff::Timestamp;
use rcgen::RevocationReason;
use serde::{Deserialize, Serialize};

use crate::document::Files;
use crate::error::Result;

/// The site's path of the record.
pub const PATH: &str = "pki/revoked.toml";

/// Why a certificate is revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Nobody said why
    #[default]
    Unspecified,
    /// Somebody else may have its key
    KeyCompromise,
    /// Its names or organization are not right any more
    AffiliationChanged,
    /// Another one has taken its place
    Superseded,
    /// What it was for is gone
    CessationOfOperation,
    /// Its holder may not do any more what it allows
    PrivilegeWithdrawn,
}

impl From<Reason> for RevocationReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Unspecified => Self::Unspecified,
            Reason::KeyCompromise => Self::KeyCompromise,
            Reason::AffiliationChanged => Self::AffiliationChanged,
            Reason::Superseded => Self::Superseded,
            Reason::CessationOfOperation => Self::CessationOfOperation,
            Reason::PrivilegeWithdrawn => Self::PrivilegeWithdrawn,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

/// A certificate that is not to be believed any more.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Revoked {
    /// Its serial number in hex.
    pub serial: String,
    /// The authority that signed it.
    pub authority: String,
    /// The host that it was for.
    pub host: String,
    /// Its name there.
    pub name: String,
    /// Why.
    pub reason: Reason,
    /// Since when.
    pub time: Timestamp,
    /// When it ends by itself.
    pub expires: Timestamp,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Record {
    #[serde(default)]
    revoked: Vec<Revoked>,
}

impl Revoked {
    /// All that a site knows of.
    pub fn all(files: &Files) -> Result<Vec<Self>> {
        Ok(match files.doc(PATH)? {
            Some(doc) => doc.read::<Record>()?.revoked,
            None => Vec::new(),
        })
    }

    /// The record as it is written.
    pub(crate) fn to_toml(all: Vec<Self>) -> String {
        let text = toml::to_string(&Record { revoked: all }).unwrap_or_default();
        format!("# Written by `kpull pki revoke`: certificates that are not to be believed any more.\n\n{text}")
    }
}
