//! Certificates as they are: read from PEM, and compared with what is wanted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION};
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, SubjectPublicKeyInfo};

use crate::error::{Error, Result, code};
use crate::pki::{CertificateRequest, KeyType, Usage};
use crate::text::block;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// A certificate, read.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Itself as PEM, without what may stand around it.
    pub pem: String,
    der: Vec<u8>,
    /// Its serial number in hex.
    pub serial: String,
    /// The common name of its subject.
    pub common_name: String,
    /// The organizations of its subject.
    pub organization: Vec<String>,
    /// Host names that it is for.
    pub dns: Vec<String>,
    /// Addresses that it is for.
    pub ip: Vec<IpAddr>,
    /// What it may be used for.
    pub usage: Vec<Usage>,
    /// The type of its key; `None` for one that is never made here.
    pub key_type: Option<KeyType>,
    /// Its public key as DER (SubjectPublicKeyInfo).
    pub public: Vec<u8>,
    /// Good from then on.
    pub not_before: Timestamp,
    /// Good until then.
    pub not_after: Timestamp,
    /// Whether it may sign others.
    pub is_authority: bool,
}

impl Certificate {
    /// Reads every certificate of a PEM file, of which there has to be one at least; `file` is what it is called in
    /// messages.
    pub fn bundle(file: &str, bytes: &[u8]) -> Result<Vec<Self>> {
        let unreadable = |why: String| {
            Error::new(code::PKI, format!("{file} can't be read"))
                .because(why)
                .help("it has to hold certificates in PEM; `kpull pki issue` makes what is missing anew")
        };
        let mut rest = std::str::from_utf8(bytes).map_err(|_| unreadable("it is not a text".into()))?;
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
        match found.is_empty() {
            true => Err(unreadable("there is no certificate in it".into())),
            false => Ok(found),
        }
    }

    /// Reads the first certificate of a PEM file.
    pub fn one(file: &str, bytes: &[u8]) -> Result<Self> {
        let mut all = Self::bundle(file, bytes)?;
        Ok(all.swap_remove(0))
    }

    fn read(pem: &str, der: Vec<u8>) -> Result<Self, String> {
        let (rest, parsed) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err("there are bytes behind a certificate in it".into());
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
                            other => return Err(format!("it is for something that is never issued here: {other}")),
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

    /// Itself as DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whether `authority` signed it.
    pub fn is_signed_by(&self, authority: &Self) -> bool {
        let (Ok((_, own)), Ok((_, other))) =
            (X509Certificate::from_der(&self.der), X509Certificate::from_der(&authority.der))
        else {
            return false;
        };
        // several authorities may have one name: whose key it is decides
        own.issuer().as_raw() == other.subject().as_raw() && own.verify_signature(Some(other.public_key())).is_ok()
    }

    /// How it differs from what is wanted, in words; time has nothing to do with it.
    pub fn differences(&self, wish: &CertificateRequest, authority: &Self) -> Vec<String> {
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
                parts.push(format!("has {what} {} too many", extra.join(", ")));
            }
        };
        let words = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect();
        let usages = |usages: &[Usage]| usages.iter().map(ToString::to_string).collect();
        lists("the name", self.dns.clone(), wish.dns.clone());
        lists("the address", words(&self.ip), words(&wish.ip));
        lists("the usage", usages(&self.usage), usages(&wish.usage));
        lists("the organization", self.organization.clone(), wish.organization.iter().cloned().collect());
        if self.common_name != wish.common_name {
            parts.push(format!("is for `{}` instead of `{}`", self.common_name, wish.common_name));
        }
        if self.key_type != Some(wish.key_type) {
            parts.push(format!("its key is not {}", wish.key_type));
        }
        if self.is_authority {
            parts.push("is an authority's own".to_owned());
        }
        if !self.is_signed_by(authority) {
            parts.push(format!("is not from the authority {}, or from an old one", wish.authority));
        }
        parts
    }
}

/// The type of a public key; `None` for what is never made here.
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
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|bytes| Ipv4Addr::from(bytes).into()),
        _ => <[u8; 16]>::try_from(bytes).ok().map(|bytes| Ipv6Addr::from(bytes).into()),
    }
}
