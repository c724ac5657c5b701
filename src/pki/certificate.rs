//! Certificates: read from PEM, and compared with what a role requests.

use std::net::IpAddr;

use jiff::Timestamp;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION};
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, SubjectPublicKeyInfo};

use crate::error::{Result, error};
use crate::pki::{CertificateRequest, KeyType, Usage};
use crate::text::block;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// A parsed certificate.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate as PEM, without surrounding text.
    pub pem: String,
    /// The certificate as DER.
    pub der: Vec<u8>,
    /// Its serial number in hex.
    pub serial: String,
    /// The common name of its subject.
    pub common_name: String,
    /// The organizations of its subject.
    pub organization: Vec<String>,
    /// The host names for which it is valid.
    pub dns: Vec<String>,
    /// The addresses for which it is valid.
    pub ip: Vec<IpAddr>,
    /// Its permitted usages.
    pub usage: Vec<Usage>,
    /// The type of its key; `None` for one that kpull never creates.
    pub key_type: Option<KeyType>,
    /// Its public key as DER (SubjectPublicKeyInfo).
    pub public: Vec<u8>,
    /// Valid from this time on.
    pub not_before: Timestamp,
    /// Valid until this time.
    pub not_after: Timestamp,
    /// Whether it may sign others.
    pub is_authority: bool,
}

impl Certificate {
    /// Reads all certificates of a PEM file, which must have at least one; `file` is its name in messages.
    pub fn bundle(file: &str, bytes: &[u8]) -> Result<Vec<Self>> {
        let unreadable = |why: String| {
            error!(PKI, "{file} can't be read")
                .because(why)
                .help("it must contain certificates in PEM; if you remove it, `kpull pki issue` issues it again")
        };
        let mut rest = std::str::from_utf8(bytes).map_err(|_| unreadable("it is not text".into()))?;
        let mut found = Vec::new();
        while let Some((_, pem, behind)) = block(rest, BEGIN, END) {
            if pem.is_empty() {
                return Err(unreadable("a certificate in it has no end".into()));
            }
            rest = behind;
            let (_, block) =
                x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|error| unreadable(error.to_string()))?;
            found.push(Self::read(pem, block.contents).map_err(unreadable)?);
        }
        if found.is_empty() { Err(unreadable("it contains no certificate".into())) } else { Ok(found) }
    }

    /// Reads the first certificate of a PEM file.
    pub fn one(file: &str, bytes: &[u8]) -> Result<Self> {
        let mut all = Self::bundle(file, bytes)?;
        Ok(all.swap_remove(0))
    }

    fn read(pem: &str, der: Vec<u8>) -> Result<Self, String> {
        let (rest, parsed) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err("it has bytes after a certificate".into());
        }
        let text = |value: &AttributeTypeAndValue<'_>| value.as_str().map(str::to_owned).unwrap_or_default();
        let subject = parsed.subject();
        let mut certificate = Self {
            pem: format!("{pem}\n"),
            serial: hex::encode(parsed.serial.to_bytes_be()),
            common_name: subject.iter_common_name().next().map(text).unwrap_or_default(),
            organization: subject.iter_organization().map(text).collect(),
            dns: Vec::new(),
            ip: Vec::new(),
            usage: Vec::new(),
            key_type: key_type(parsed.public_key()),
            public: parsed.public_key().raw.to_vec(),
            not_before: time(parsed.validity().not_before.timestamp())?,
            not_after: time(parsed.validity().not_after.timestamp())?,
            is_authority: parsed.is_ca(),
            der: Vec::new(),
        };
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => {
                    for name in &names.general_names {
                        match name {
                            GeneralName::DNSName(name) => certificate.dns.push((*name).to_owned()),
                            GeneralName::IPAddress(bytes) => certificate.ip.extend(address(bytes)),
                            other => return Err(format!("it contains something that kpull never issues: {other}")),
                        }
                    }
                }
                ParsedExtension::ExtendedKeyUsage(usage) => {
                    certificate.usage.extend(usage.server_auth.then_some(Usage::Server));
                    certificate.usage.extend(usage.client_auth.then_some(Usage::Client));
                }
                _ => {}
            }
        }
        drop(parsed);
        certificate.der = der;
        Ok(certificate)
    }

    /// Whether `authority` signed it.
    pub fn is_signed_by(&self, authority: &Self) -> bool {
        let (Ok((_, own)), Ok((_, other))) =
            (X509Certificate::from_der(&self.der), X509Certificate::from_der(&authority.der))
        else {
            return false;
        };
        // authorities may have the same name, so the key decides
        own.issuer().as_raw() == other.subject().as_raw() && own.verify_signature(Some(other.public_key())).is_ok()
    }

    /// How it differs from the request, in words; validity times are not compared.
    pub fn differences(&self, request: &CertificateRequest, authority: &Self) -> Vec<String> {
        let mut parts = Vec::new();
        let mut lists = |what: &str, have: Vec<String>, want: Vec<String>| {
            let (lacks, extra): (Vec<_>, Vec<_>) = (
                want.iter().filter(|name| !have.contains(name)).cloned().collect(),
                have.iter().filter(|name| !want.contains(name)).cloned().collect(),
            );
            if !lacks.is_empty() {
                parts.push(format!("lacks {what} {}", lacks.join(", ")));
            }
            if !extra.is_empty() {
                parts.push(format!("also has {what} {}", extra.join(", ")));
            }
        };
        let words = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect();
        let usages = |usages: &[Usage]| usages.iter().map(ToString::to_string).collect();
        lists("the name", self.dns.clone(), request.dns.clone());
        lists("the address", words(&self.ip), words(&request.ip));
        lists("the usage", usages(&self.usage), usages(&request.usage));
        lists("the organization", self.organization.clone(), request.organization.iter().cloned().collect());
        if self.common_name != request.common_name {
            parts.push(format!("is for `{}` instead of `{}`", self.common_name, request.common_name));
        }
        if self.key_type != Some(request.key_type) {
            parts.push(format!("its key is not {}", request.key_type));
        }
        if self.is_authority {
            parts.push("is the certificate of an authority".to_owned());
        }
        if !self.is_signed_by(authority) {
            parts.push(format!("was not issued by the current authority {}", request.authority));
        }
        parts
    }
}

/// The type of a public key; `None` for one that kpull never creates.
pub fn key_type(key: &SubjectPublicKeyInfo<'_>) -> Option<KeyType> {
    let algorithm = &key.algorithm.algorithm;
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        return (key.parsed().ok()?.key_size() == 2048).then_some(KeyType::Rsa2048);
    }
    let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
    (*algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == OID_EC_P256).then_some(KeyType::EcdsaP256)
}

fn time(seconds: i64) -> Result<Timestamp, String> {
    Timestamp::from_second(seconds).map_err(|error| error.to_string())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}
