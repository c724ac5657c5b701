//! How every certificate of a site stands: what its roles want, against what it has.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::error::{Error, Place, Result, code};
use crate::pki::{Certificate, CertificateRequest, authority_path, certificate_path, key_secret, request_path};
use crate::resolve::{Facts, certificate_requests};
use crate::secret::name;
use crate::site::Site;

/// How a certificate stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateState {
    /// As it is wanted, and not due yet.
    Good,
    /// As it is wanted, and to be renewed by now.
    Due,
    /// Past its end.
    Expired,
    /// Wanted, and it or its key is not there.
    Missing,
    /// Wanted, with a key that its host keeps, and the host's request is not there.
    Waiting,
    /// Not as it is wanted: how it differs.
    Changed(Vec<String>),
    /// There, and no role wants it.
    Unwanted,
}

impl CertificateState {
    /// One word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Due => "due",
            Self::Expired => "expired",
            Self::Missing => "missing",
            Self::Waiting => "waiting",
            Self::Changed(_) => "changed",
            Self::Unwanted => "unwanted",
        }
    }
}

impl fmt::Display for CertificateState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => f.write_str("waits for the host's request"),
            Self::Changed(how) => f.write_str(&how.join("; ")),
            other => f.write_str(other.word()),
        }
    }
}

/// One certificate of one host.
#[derive(Clone, Debug)]
pub struct CertificateStatus {
    /// The host.
    pub host: String,
    /// Its name there.
    pub name: String,
    /// What a role wants, and where that is written; `None` when none does.
    pub wish: Option<(CertificateRequest, Place)>,
    /// What there is.
    pub certificate: Option<Certificate>,
    /// How it stands.
    pub state: CertificateState,
}

impl CertificateStatus {
    /// How long until the certificate's end.
    pub fn left(&self, now: Timestamp) -> Option<SignedDuration> {
        self.certificate.as_ref().map(|certificate| certificate.not_after.duration_since(now))
    }

    /// How it stands is a mistake of the site, with what to do about it.
    pub fn error(&self) -> Option<Error> {
        let (_, place) = self.wish.as_ref()?;
        let (host, name) = (&self.host, &self.name);
        let (why, help) = match &self.state {
            CertificateState::Expired => ("it has expired".to_owned(), "run `kpull pki renew`"),
            CertificateState::Changed(how) => (how.join("; "), "run `kpull pki issue`"),
            _ => return None,
        };
        let what = format!("the certificate {name} of {host} is not good");
        Some(Error::new(code::PKI, what).because(why).at(place.clone(), "this certificate").help(help))
    }

    /// Whether it has to be renewed by now.
    pub fn is_due(&self) -> bool {
        self.state == CertificateState::Due
    }

    /// How it stands needs somebody's attention, though nothing is broken yet.
    pub fn warning(&self, now: Timestamp) -> Option<String> {
        let (host, name) = (&self.host, &self.name);
        Some(match self.state {
            CertificateState::Due => {
                let days = self.left(now).unwrap_or_default().as_hours() / 24;
                format!("the certificate {name} of {host} ends in {days} days: run `kpull pki renew`")
            }
            CertificateState::Waiting => format!(
                "the certificate {name} of {host} waits for the host's request: apply there, then `kpull pki sign-request`"
            ),
            CertificateState::Unwanted => {
                format!("no role wants the certificate {name} of {host} any more: `kpull pki revoke {host} {name}`")
            }
            _ => return None,
        })
    }
}

/// Every certificate of a site, by host and name, with the facts that were recorded in `dir`. What can't be resolved is an error.
pub fn survey(site: &Arc<Site>, dir: Option<&Path>, now: Timestamp) -> Result<Vec<CertificateStatus>> {
    let mut errors = Vec::new();
    let mut standings = BTreeMap::new();
    for (host, vars) in &site.hosts {
        match Facts::recorded(dir, host, vars.address).and_then(|facts| certificate_requests(site, host, &facts)) {
            Ok(found) => {
                for (wish, place) in found {
                    match stand(site, host, wish, place, now) {
                        Ok(standing) => drop(standings.insert((host.clone(), standing.name.clone()), standing)),
                        Err(error) => errors.push(error),
                    }
                }
            }
            Err(error) => errors.push(error),
        }
    }
    Error::check(errors)?;
    for (path, bytes) in site.files.iter() {
        let Some((host, name)) = certificate_at(path) else { continue };
        standings.entry((host.to_owned(), name.to_owned())).or_insert(CertificateStatus {
            host: host.to_owned(),
            name: name.to_owned(),
            wish: None,
            certificate: Some(Certificate::one(path, bytes)?),
            state: CertificateState::Unwanted,
        });
    }
    Ok(standings.into_values().collect())
}

/// The host and name of the certificate that the site's file at `path` is.
pub(super) fn certificate_at(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix("pki/")?.strip_suffix(".pem")?.split_once('/')
}

/// The authority's certificates, the one that signs now first; none when it was not made yet.
pub(super) fn bundle(site: &Site, authority: &str) -> Result<Vec<Certificate>> {
    let path = authority_path(authority);
    site.files.get(&path).map_or(Ok(Vec::new()), |bytes| Certificate::bundle(&path, bytes))
}

fn stand(site: &Site, host: &str, wish: CertificateRequest, place: Place, now: Timestamp) -> Result<CertificateStatus> {
    let path = certificate_path(host, &wish.name);
    let certificate = site.files.get(&path).map(|bytes| Certificate::one(&path, bytes)).transpose()?;
    let authority = bundle(site, &wish.authority)?.into_iter().next();
    let has_key = wish.key_on_host || site.files.get(&name::path_of(&key_secret(host, &wish.name))).is_some();
    let has_request = site.files.get(&request_path(host, &wish.name)).is_some();
    let state = match (&certificate, &authority) {
        _ if wish.key_on_host && !has_request => CertificateState::Waiting,
        (Some(certificate), Some(authority)) if has_key => {
            let differences = certificate.differences(&wish, authority);
            let left = certificate.not_after.duration_since(now);
            match differences.is_empty() {
                false => CertificateState::Changed(differences),
                true if left <= SignedDuration::ZERO => CertificateState::Expired,
                true if left <= wish.renew_before => CertificateState::Due,
                true => CertificateState::Good,
            }
        }
        _ => CertificateState::Missing,
    };
    Ok(CertificateStatus {
        host: host.to_owned(),
        name: wish.name.clone(),
        wish: Some((wish, place)),
        certificate,
        state,
    })
}
