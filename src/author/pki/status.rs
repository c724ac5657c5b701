//! The status of every certificate of a site: what its roles request, compared with what it has.

use std::fmt;

use jiff::SignedDuration;

use crate::author::prelude::*;
use crate::pki::{Certificate, CertificateRequest, authority_path, certificate_path, key_secret, request_path};
use crate::resolve::certificate_requests;
use crate::secret::name;

/// The state of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateState {
    /// Matches the request, and is not due yet.
    Good,
    /// Matches the request, and is due for renewal.
    Due,
    /// Expired.
    Expired,
    /// Requested, but it or its key is missing.
    Missing,
    /// Requested with a key that stays on its host, whose request is missing.
    Waiting,
    /// Differs from the request in these ways.
    Changed(Vec<String>),
    /// Exists, but no role requests it.
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
    /// The request of a role, and its place; `None` if no role requests it.
    pub request: Option<(CertificateRequest, Place)>,
    /// The certificate, if it exists.
    pub certificate: Option<Certificate>,
    /// The state.
    pub state: CertificateState,
}

impl CertificateStatus {
    /// The time until the certificate expires.
    pub fn left(&self, now: Timestamp) -> Option<SignedDuration> {
        self.certificate.as_ref().map(|certificate| certificate.not_after.duration_since(now))
    }

    /// The error for a state that is a mistake in the site.
    pub fn error(&self) -> Option<Error> {
        let (_, place) = self.request.as_ref()?;
        let (host, name) = (&self.host, &self.name);
        let (why, help) = match &self.state {
            CertificateState::Expired => ("it has expired".to_owned(), "run `kpull pki renew`"),
            CertificateState::Changed(how) => (how.join("; "), "run `kpull pki issue`"),
            _ => return None,
        };
        let what = format!("the certificate {name} of {host} is not valid");
        Some(Error::new(code::PKI, what).because(why).at(place.clone(), "this certificate").help(help))
    }

    /// Whether it is due for renewal.
    pub fn is_due(&self) -> bool {
        self.state == CertificateState::Due
    }

    /// The warning for a state that needs attention, although nothing is broken yet.
    pub fn warning(&self, now: Timestamp) -> Option<String> {
        let (host, name) = (&self.host, &self.name);
        Some(match self.state {
            CertificateState::Due => {
                let days = self.left(now).unwrap_or_default().as_hours() / 24;
                format!("the certificate {name} of {host} expires in {days} days: run `kpull pki renew`")
            }
            CertificateState::Waiting => format!(
                "the certificate {name} of {host} waits for the host's request: run `kpull apply` there, then `kpull pki sign-request`"
            ),
            CertificateState::Unwanted => {
                format!(
                    "no role requests the certificate {name} of {host} any more: run `kpull pki revoke {host} {name}`"
                )
            }
            _ => return None,
        })
    }
}

/// Every certificate of a site, by host and name, with the facts recorded in `dir`. Hosts that can't be resolved are errors.
pub fn survey(site: &Arc<Site>, dir: Option<&Path>, now: Timestamp) -> Result<Vec<CertificateStatus>> {
    let mut errors = Vec::new();
    let mut statuses = BTreeMap::new();
    for (host, vars) in &site.hosts {
        let facts = Facts::recorded(dir, host, vars.address);
        let requests = facts.and_then(|facts| certificate_requests(site, host, &facts));
        for (request, place) in keep(&mut errors, requests).into_iter().flatten() {
            let status = keep(&mut errors, status_of(site, host, request, place, now));
            statuses.extend(status.map(|status| ((host.clone(), status.name.clone()), status)));
        }
    }
    Error::check(errors)?;
    for (path, bytes) in site.files.iter() {
        let Some((host, name)) = certificate_at(path) else { continue };
        statuses.entry((host.to_owned(), name.to_owned())).or_insert(CertificateStatus {
            host: host.to_owned(),
            name: name.to_owned(),
            request: None,
            certificate: Some(Certificate::one(path, bytes)?),
            state: CertificateState::Unwanted,
        });
    }
    Ok(statuses.into_values().collect())
}

/// The host and name of the certificate at `path` of a site.
pub(super) fn certificate_at(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix("pki/")?.strip_suffix(".pem")?.split_once('/')
}

/// The authority's certificates, the current one first; none if it doesn't exist yet.
pub(super) fn bundle(site: &Site, authority: &str) -> Result<Vec<Certificate>> {
    let path = authority_path(authority);
    site.files.get(&path).map_or(Ok(Vec::new()), |bytes| Certificate::bundle(&path, bytes))
}

fn status_of(
    site: &Site,
    host: &str,
    request: CertificateRequest,
    place: Place,
    now: Timestamp,
) -> Result<CertificateStatus> {
    let path = certificate_path(host, &request.name);
    let certificate = site.files.get(&path).map(|bytes| Certificate::one(&path, bytes)).transpose()?;
    let authority = bundle(site, &request.authority)?.into_iter().next();
    let has_key = request.key_on_host || site.files.get(&name::path_of(&key_secret(host, &request.name))).is_some();
    let has_request = site.files.get(&request_path(host, &request.name)).is_some();
    let state = match (&certificate, &authority) {
        _ if request.key_on_host && !has_request => CertificateState::Waiting,
        (Some(certificate), Some(authority)) if has_key => {
            let differences = certificate.differences(&request, authority);
            let left = certificate.not_after.duration_since(now);
            match differences.is_empty() {
                false => CertificateState::Changed(differences),
                true if left <= SignedDuration::ZERO => CertificateState::Expired,
                true if left <= request.renew_before => CertificateState::Due,
                true => CertificateState::Good,
            }
        }
        _ => CertificateState::Missing,
    };
    let (host, name) = (host.to_owned(), request.name.clone());
    Ok(CertificateStatus { host, name, request: Some((request, place)), certificate, state })
}
