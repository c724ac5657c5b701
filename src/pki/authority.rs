//! Authorities: sign certificates and revocation lists.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    SubjectPublicKeyInfo, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use ssh_key::rand_core::{OsRng, RngCore as _};

use crate::error::{Context, Error, Result, code, error};
use crate::pki::{AuthorityFields, Certificate, CertificateRequest, KeyType, PrivateKey, Revoked, Usage};

/// A time for rcgen, in whole seconds. A macro, since the type has no public name.
macro_rules! date {
    ($time:expr) => {
        date_time_ymd(1970, 1, 1) + seconds($time)
    };
}

/// Certificates are valid from a little earlier, for hosts whose clock is behind.
const CLOCKS: SignedDuration = SignedDuration::from_mins(5);

/// An authority's certificate with its key.
#[derive(Debug)]
pub struct Authority {
    name: String,
    /// Its certificate.
    pub certificate: Certificate,
    /// Its key.
    pub key: PrivateKey,
}

impl Authority {
    /// Creates a self-signed authority.
    pub fn make(name: &str, fields: &AuthorityFields, now: Timestamp) -> Result<Self> {
        let what = || format!("can't create the authority {name}");
        let key = PrivateKey::generate(fields.key_type)?;
        let end = now.checked_add(fields.lifetime()).context(code::PKI, what)?;
        let mut params = params(None, &fields.common_name(name), now, end);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(key.signing()).context(code::PKI, what)?.pem();
        Self::new(name, Certificate::one(&what(), pem.as_bytes())?, key)
    }

    /// An existing authority. Fails if the key is not that of the certificate.
    pub fn new(name: &str, certificate: Certificate, key: PrivateKey) -> Result<Self> {
        if certificate.public != key.public() {
            return Err(error!(PKI, "the key of the authority {name} does not match its certificate").help(format!(
                "pki/{name}.pem and secrets/pki/{name}.key.age belong together: restore both from one commit"
            )));
        }
        Ok(Self { name: name.to_owned(), certificate, key })
    }

    /// Signs a certificate for a public key (DER, SubjectPublicKeyInfo). It never outlives the authority.
    pub fn sign(&self, request: &CertificateRequest, public: &[u8], now: Timestamp) -> Result<Certificate> {
        let what = || format!("can't issue the certificate {}", request.name);
        let end = self.certificate.not_after;
        if end <= now {
            return Err(Error::new(code::PKI, what())
                .because(format!("the authority {} expired on {end:.0}", self.name))
                .help(format!("replace it: `kpull pki rotate {}`", self.name)));
        }
        let end = now.checked_add(request.lifetime).context(code::PKI, what)?.min(end);
        let mut params = params(request.organization.as_deref(), &request.common_name, now, end);
        for name in &request.dns {
            params.subject_alt_names.push(SanType::DnsName(name.clone().try_into().context(code::PKI, what)?));
        }
        params.subject_alt_names.extend(request.ip.iter().map(|address| SanType::IpAddress(*address)));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = match request.key_type {
            KeyType::EcdsaP256 => vec![KeyUsagePurpose::DigitalSignature],
            KeyType::Rsa2048 => vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment],
        };
        params.extended_key_usages = request
            .usage
            .iter()
            .map(|usage| match usage {
                Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
                Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
            })
            .collect();
        let public = SubjectPublicKeyInfo::from_der(public).context(code::PKI, what)?;
        let signed = params.signed_by(&public, &self.issuer()?).context(code::PKI, what)?;
        Certificate::one(&what(), signed.pem().as_bytes())
    }

    /// The revocation list as PEM, valid until the authority expires.
    pub fn revocations<'a>(&self, revoked: impl IntoIterator<Item = &'a Revoked>, now: Timestamp) -> Result<String> {
        let what = || format!("can't write the revocation list of {}", self.name);
        let mut revoked_certs = Vec::new();
        for entry in revoked {
            revoked_certs.push(RevokedCertParams {
                serial_number: SerialNumber::from(hex::decode(&entry.serial).context(code::PKI, what)?),
                revocation_time: date!(entry.time),
                reason_code: Some(entry.reason.into()),
                invalidity_date: None,
            });
        }
        let params = CertificateRevocationListParams {
            this_update: date!(now - CLOCKS),
            next_update: date!(self.certificate.not_after),
            // must increase from list to list
            crl_number: SerialNumber::from(now.as_second().unsigned_abs()),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer()?).and_then(|list| list.pem()).context(code::PKI, what)
    }

    fn issuer(&self) -> Result<Issuer<'static, &impl rcgen::SigningKey>> {
        Issuer::from_ca_cert_der(&CertificateDer::from(self.certificate.der.as_slice()), self.key.signing())
            .context(code::PKI, || format!("can't sign with the authority {}", self.name))
    }
}

/// What the certificates of authorities and of others have in common.
fn params(organization: Option<&str>, common_name: &str, now: Timestamp, end: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.serial_number = Some(serial());
    params.not_before = date!(now - CLOCKS);
    params.not_after = date!(end);
    params.use_authority_key_identifier_extension = true;
    params
}

/// 128 random bits, so that serial numbers are unpredictable and unique.
fn serial() -> SerialNumber {
    let mut bytes = [0; 16];
    OsRng.fill_bytes(&mut bytes);
    SerialNumber::from_slice(&bytes)
}

/// Seconds since 1970; rcgen's certificates begin there.
fn seconds(time: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0))
}
