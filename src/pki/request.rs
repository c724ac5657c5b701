//! Certificate signing requests of hosts whose key never leaves the host. A request only proves possession of the key: the site
//! decides what the certificate is valid for.

use rcgen::{CertificateParams, DistinguishedName, DnType};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use crate::error::{Context, Result, code, error};
use crate::pki::certificate::key_type;
use crate::pki::{KeyType, PrivateKey};

/// A request with a verified signature.
#[derive(Clone, Debug)]
pub struct Request {
    /// The public key as DER (SubjectPublicKeyInfo).
    pub public: Vec<u8>,
    /// The type of the key; `None` for an unsupported one.
    pub key_type: Option<KeyType>,
}

impl Request {
    /// Reads a request in PEM and verifies its signature; `file` is its name in messages.
    pub fn read(file: &str, bytes: &[u8]) -> Result<Self> {
        let refused = |why: String| {
            error!(PKI, "{file} is not a request that can be signed")
                .because(why)
                .help("the host writes it to csr/NAME.csr in its state directory: copy it from there again")
        };
        let (_, block) = x509_parser::pem::parse_x509_pem(bytes).map_err(|error| refused(error.to_string()))?;
        if !matches!(block.label.as_str(), "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST") {
            return Err(refused(format!("it is a {}", block.label)));
        }
        let (rest, request) =
            X509CertificationRequest::from_der(&block.contents).map_err(|error| refused(error.to_string()))?;
        if !rest.is_empty() {
            return Err(refused("it has bytes after its end".into()));
        }
        request.verify_signature().map_err(|_| refused("its signature does not match its key".into()))?;
        let key = &request.certification_request_info.subject_pki;
        Ok(Self { public: key.raw.to_vec(), key_type: key_type(key) })
    }
}

/// A request for `common_name`, signed with `key`, as PEM.
pub fn request(common_name: &str, key: &PrivateKey) -> Result<String> {
    let what = || "can't write a request for a certificate".to_owned();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.serialize_request(key.signing()).and_then(|request| request.pem()).context(code::PKI, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_proves_that_its_maker_has_the_key() {
        for key_type in [KeyType::EcdsaP256, KeyType::Rsa2048] {
            let key = PrivateKey::generate(key_type).unwrap();
            let read = Request::read("x", request("etcd", &key).unwrap().as_bytes()).unwrap();
            assert_eq!((read.public, read.key_type), (key.public(), Some(key_type)));
        }
    }

    #[test]
    fn a_request_with_another_s_key_in_it_is_refused() {
        let mine = request("etcd", &PrivateKey::generate(KeyType::EcdsaP256).unwrap()).unwrap();
        let other = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(mine.as_bytes()).unwrap();
        let (_, parsed) = X509CertificationRequest::from_der(&block.contents).unwrap();
        let key = parsed.certification_request_info.subject_pki.raw;
        let at = block.contents.windows(key.len()).position(|window| window == key).unwrap();
        let mut forged = block.contents.clone();
        forged[at..at + key.len()].copy_from_slice(&other.public());
        let forged = pem(&forged);
        let error = Request::read("csr", forged.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "csr is not a request that can be signed: its signature does not match its key");
    }

    fn pem(der: &[u8]) -> String {
        use rsa::pkcs8::der::pem::LineEnding;
        rsa::pkcs8::der::pem::encode_string("CERTIFICATE REQUEST", LineEnding::LF, der).unwrap()
    }
}
