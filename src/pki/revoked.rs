//! `pki/revoked.toml`: revoked certificates, with the reasons.

use clap::ValueEnum;
use jiff::Timestamp;
use rcgen::RevocationReason;
use serde::{Deserialize, Serialize};

use crate::document::Files;
use crate::error::Result;
use crate::text::display_as_serialized;

/// The site's path of the record.
pub const PATH: &str = "pki/revoked.toml";

/// Why a certificate is revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// No reason given
    #[default]
    Unspecified,
    /// The key may be compromised
    KeyCompromise,
    /// The names or the organization have changed
    AffiliationChanged,
    /// Another certificate replaces it
    Superseded,
    /// The service no longer exists
    CessationOfOperation,
    /// The holder has lost the privilege
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

display_as_serialized!(Reason);

/// A revoked certificate.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Revoked {
    /// Its serial number in hex.
    pub serial: String,
    /// The authority that signed it.
    pub authority: String,
    /// Its host.
    pub host: String,
    /// Its name on the host.
    pub name: String,
    /// The reason.
    pub reason: Reason,
    /// The time of the revocation.
    pub time: Timestamp,
    /// When it would have expired.
    pub expires: Timestamp,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Record {
    #[serde(default)]
    revoked: Vec<Revoked>,
}

impl Revoked {
    /// All revoked certificates of a site.
    pub fn all(files: &Files) -> Result<Vec<Self>> {
        Ok(match files.doc(PATH)? {
            Some(doc) => doc.read::<Record>()?.revoked,
            None => Vec::new(),
        })
    }

    /// The text of the record.
    pub(crate) fn to_toml(all: Vec<Self>) -> String {
        let text = toml::to_string(&Record { revoked: all }).unwrap_or_default();
        format!("# Written by `kpull pki revoke`: certificates that hosts must not trust any more.\n\n{text}")
    }
}
