//! What tests of the network need: an authority for certificates, and git (shared with the tests of the whole program).

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

#[path = "../../tests/support/git.rs"]
mod git;

pub(crate) use git::{git, git_backend, git_command};

pub(crate) use crate::net::server::{Answer, Received};

/// The server, where there always is a free port.
pub(crate) struct Server(crate::net::server::Server);

impl Server {
    pub fn plain(answer: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        Self(crate::net::server::Server::plain(answer).unwrap())
    }

    pub fn secure(tls: ServerConfig, answer: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        Self(crate::net::server::Server::secure(tls, answer).unwrap())
    }
}

impl std::ops::Deref for Server {
    type Target = crate::net::server::Server;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// An authority, and PEM files of what it issues.
pub(crate) struct Authority {
    dir: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { dir, issuer }
    }

    /// The file with the authority's own certificate.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The files of a certificate for `name`, and its key.
    pub fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.into()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let file = |end: &str, text: String| -> PathBuf {
            let path = self.dir.path().join(format!("{name}.{end}"));
            std::fs::write(&path, text).unwrap();
            path
        };
        (file("pem", certificate.pem()), file("key", key.serialize_pem()))
    }

    /// What a server at `name` needs; with `clients`, it only talks to those that this authority certified.
    pub fn server(&self, name: &str, clients: Option<&Authority>) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.into()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let config =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let config = match clients {
            None => config.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.issuer.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
                config.with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        config.with_single_cert(vec![certificate.der().clone()], key).unwrap()
    }
}
