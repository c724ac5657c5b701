//! Private keys: generated, read from PEM, and never shown.

use std::fmt;

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, PublicKeyData as _, SigningKey};
use rsa::pkcs8::EncodePrivateKey as _;
use rustls::pki_types::PrivatePkcs8KeyDer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssh_key::rand_core::OsRng;
use zeroize::Zeroizing;

use crate::error::{Context, Result, code, error};
use crate::text::display_as_serialized;

/// The type of a certificate's key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum KeyType {
    /// ECDSA on the curve P-256.
    #[default]
    #[serde(rename = "ecdsa-p256")]
    EcdsaP256,
    /// RSA with 2048 bits, for programs that don't support ECDSA.
    #[serde(rename = "rsa-2048")]
    Rsa2048,
}

display_as_serialized!(KeyType);

/// A private key.
pub struct PrivateKey(KeyPair);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

impl PrivateKey {
    /// Generates a key.
    pub fn generate(key_type: KeyType) -> Result<Self> {
        let what = || format!("can't create a key ({key_type})");
        let pair = match key_type {
            KeyType::EcdsaP256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context(code::PKI, what)?,
            KeyType::Rsa2048 => {
                let der = rsa::RsaPrivateKey::new(&mut OsRng, 2048)
                    .context(code::PKI, what)?
                    .to_pkcs8_der()
                    .context(code::PKI, what)?;
                let der = PrivatePkcs8KeyDer::from(der.as_bytes());
                KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_RSA_SHA256).context(code::PKI, what)?
            }
        };
        Ok(Self(pair))
    }

    /// Reads a key in PEM (PKCS#8); `name` is its name in messages.
    pub fn from_pem(name: &str, pem: &[u8]) -> Result<Self> {
        // the parser's message could contain parts of the key
        let unusable = || {
            error!(PKI, "{name} is not a usable private key")
                .help("it must be PKCS#8 in PEM, as `openssl pkcs8 -topk8 -nocrypt` writes it")
        };
        let text = std::str::from_utf8(pem).map_err(|_| unusable())?;
        KeyPair::from_pem(text).map(Self).map_err(|_| unusable())
    }

    /// As PEM (PKCS#8).
    pub fn pem(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.serialize_pem().into_bytes())
    }

    /// Its public half as DER (SubjectPublicKeyInfo).
    pub fn public(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// Its public half as PEM.
    pub fn public_pem(&self) -> String {
        self.0.public_key_pem()
    }

    /// What signs with it.
    pub(super) fn signing(&self) -> &impl SigningKey {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_each_type_is_the_same_after_a_way_through_pem() {
        for key_type in [KeyType::EcdsaP256, KeyType::Rsa2048] {
            let key = PrivateKey::generate(key_type).unwrap();
            let pem = key.pem();
            assert!(pem.starts_with(b"-----BEGIN PRIVATE KEY-----"));
            assert_eq!(PrivateKey::from_pem("x", &pem).unwrap().public(), key.public());
        }
    }

    #[test]
    fn an_invalid_key_is_reported_without_being_shown() {
        let error = PrivateKey::from_pem("k", b"-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----\n");
        let error = error.unwrap_err();
        assert_eq!(error.to_string(), "k is not a usable private key");
        assert!(!format!("{error:?}").contains("SECRET"));
    }
}
