//! Files for TLS that lie on the host, as an HTTP client uses them.

use std::path::Path;

use reqwest::blocking::ClientBuilder;
use reqwest::{Certificate, Identity};

use crate::error::visible;
use crate::host::root::Root;

/// A client to be, with nothing but what is said here: no proxy, no redirects. Errors are what was wrong, for people.
pub fn client() -> ClientBuilder {
    // fails when there is one already, which is then used
    let _ = rustls::crypto::ring::default_provider().install_default();
    ClientBuilder::new().no_proxy().redirect(reqwest::redirect::Policy::none())
}

/// What is in a file.
pub fn read(root: &Root, path: &Path) -> Result<Vec<u8>, String> {
    match root.read(path) {
        Ok(Some((_, content))) => Ok(content),
        Ok(None) => Err(format!("there is no file {}", path.display())),
        Err(error) => Err(error.to_string()),
    }
}

/// The client trusts only the authorities in `pem`, which was read from `path`.
pub fn trusting(client: ClientBuilder, path: &Path, pem: &[u8]) -> Result<ClientBuilder, String> {
    let certificates =
        Certificate::from_pem_bundle(pem).map_err(|_| format!("{} has no certificates in PEM", path.display()))?;
    Ok(client.tls_certs_only(certificates))
}

/// The client shows the certificate `cert` and has its key `key`; both are a path with what was read there.
pub fn showing(client: ClientBuilder, cert: (&Path, &[u8]), key: (&Path, &[u8])) -> Result<ClientBuilder, String> {
    let pem = [cert.1, b"\n", key.1].concat();
    let identity = Identity::from_pem(&pem)
        .map_err(|_| format!("{} and {} are no certificate and key in PEM", cert.0.display(), key.0.display()))?;
    Ok(client.identity(identity))
}

/// Why there was no answer from `whom`, with everything behind it: what counts is mostly at the end.
pub fn said(whom: &str, error: &reqwest::Error) -> String {
    let mut text = format!("{whom} does not answer");
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    if error.is_timeout() {
        text = format!("{text}: not in time");
    }
    visible(&text)
}
