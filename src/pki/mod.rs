//! Authorities, certificates and their keys: created by an operator, stored in the site, installed by hosts.
//!
//! Everything is a file of the site, and so signed with it: `pki/AUTHORITY.pem` (the authority's certificate; while it is
//! changed, several), `pki/HOST/NAME.pem` (a certificate), and as secrets `secrets/pki/AUTHORITY.key.age` (for operators
//! and the hosts that `key_hosts` names) and `secrets/pki/HOST/NAME.key.age` (for the host and the operators).

mod authority;
mod certificate;
mod key;
mod request;
pub mod revoked;

pub use authority::Authority;
pub use certificate::Certificate;
pub use key::{KeyType, PrivateKey};
pub use request::{Request, request};
pub use revoked::{Reason, Revoked};

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::SignedDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::fields::Lifetime;
use crate::text::display_as_serialized;

/// The default lifetime of certificates.
pub const LIFETIME: SignedDuration = SignedDuration::from_hours(365 * 24);
/// The default time before expiry from which a certificate is due for renewal.
pub const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(60 * 24);
/// The default lifetime of authorities.
const AUTHORITY_LIFETIME: SignedDuration = SignedDuration::from_hours(3650 * 24);

/// What a `[pki.NAME]` of `site.toml` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Category {
    /// It signs certificates.
    #[default]
    Authority,
    /// A key and its public half, for programs that sign with a bare key.
    KeyPair,
}

/// `[pki.NAME]` in `site.toml`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuthorityFields {
    /// An authority or a key pair. Default: an authority.
    pub kind: Category,
    /// The name in its certificate. Default: `NAME-ca`.
    pub common_name: Option<String>,
    /// How long it is valid. Default: `3650d`.
    pub lifetime: Option<Lifetime>,
    /// The type of its key, and of the keys of its certificates. Default: `ecdsa-p256`.
    pub key_type: KeyType,
    /// The hosts that can have its private key, each by its name. Default: none.
    pub key_hosts: BTreeSet<String>,
}

impl AuthorityFields {
    fn common_name(&self, name: &str) -> String {
        self.common_name.clone().unwrap_or_else(|| format!("{name}-ca"))
    }

    fn lifetime(&self) -> SignedDuration {
        self.lifetime.map_or(AUTHORITY_LIFETIME, |lifetime| lifetime.0)
    }
}

/// A permitted usage of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Usage {
    /// By a server.
    Server,
    /// By a client.
    Client,
}

display_as_serialized!(Usage);

/// A certificate that a role requests for a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRequest {
    /// Its name, unique on the host.
    pub name: String,
    /// The authority that signs it.
    pub authority: String,
    /// The common name of its subject.
    pub common_name: String,
    /// The organization of its subject.
    pub organization: Option<String>,
    /// The host names for which it is valid.
    pub dns: Vec<String>,
    /// The addresses for which it is valid.
    pub ip: Vec<IpAddr>,
    /// Its permitted usages.
    pub usage: Vec<Usage>,
    /// The type of its key.
    pub key_type: KeyType,
    /// How long it lives.
    pub lifetime: SignedDuration,
    /// The time before expiry from which it is due for renewal.
    pub renew_before: SignedDuration,
    /// Whether the host generates the key, which then never leaves it.
    pub key_on_host: bool,
}

/// The site's path of an authority's certificate.
pub fn authority_path(authority: &str) -> String {
    format!("pki/{authority}.pem")
}

/// The site's path of a host's certificate.
pub fn certificate_path(host: &str, name: &str) -> String {
    format!("pki/{host}/{name}.pem")
}

/// The site's path of a host's certificate signing request.
pub fn request_path(host: &str, name: &str) -> String {
    format!("pki/{host}/{name}.csr")
}

/// The name of the secret that is a certificate's key.
pub fn key_secret(host: &str, name: &str) -> String {
    format!("pki/{host}/{name}.key")
}

/// The name of the secret that is an authority's key.
pub fn authority_secret(authority: &str) -> String {
    format!("pki/{authority}.key")
}

/// The owner of a key that is a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOf<'a> {
    /// A `[pki.NAME]` of `site.toml`: its key, or while it is changed, its next one or its old one.
    Pki(&'a str),
    /// A host, for one of its certificates.
    Host(&'a str),
}

/// The owner of the key with this secret name; `None` if kpull doesn't create it.
pub fn key_of(secret: &str) -> Option<KeyOf<'_>> {
    let rest = secret.strip_prefix("pki/")?;
    Some(match rest.split_once('/') {
        Some((host, _)) => KeyOf::Host(host),
        // there is no dot in the names of `[pki.NAME]`
        None => KeyOf::Pki(rest.split_once('.').map_or(rest, |(name, _)| name)),
    })
}

/// Why a certificate can't have this name, which becomes a file name; `None` if it can.
pub fn bad_name(name: &str) -> Option<&'static str> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match name.chars().all(good) && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.len() <= 64 {
        true => None,
        false => Some("a name has at most 64 letters, digits, `-`, `_` and `.`, and starts with a letter or digit"),
    }
}

/// Why an authority can't have this name: as for certificates, and no dots, which the names of its files use.
pub fn bad_authority(name: &str) -> Option<&'static str> {
    if name.contains('.') { Some("an authority's name can't contain a dot") } else { bad_name(name) }
}
