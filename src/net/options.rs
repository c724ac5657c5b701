//! Options of connections, from a configuration and with their files read.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::blocking::RequestBuilder;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use crate::error::{Result, error};
use crate::read;

/// The default timeout in seconds of a connection, and of each wait for more bytes.
const TIMEOUT: u64 = 20;
/// The default number of retries.
const RETRIES: u32 = 3;

/// How to connect to a server. Every field may be omitted.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// PEM file with the only authorities that are trusted. Default: the system's.
    pub ca: Option<PathBuf>,
    /// PEM file with a client certificate and its chain.
    pub client_cert: Option<PathBuf>,
    /// PEM file with the key of `client_cert`.
    pub client_key: Option<PathBuf>,
    /// File with a bearer token.
    pub bearer: Option<PathBuf>,
    /// File with `user:password`.
    pub basic: Option<PathBuf>,
    /// The time limit in seconds for connecting, and for each wait for more bytes. Default: 20.
    pub timeout: Option<u64>,
    /// How often a failed request is retried, with growing pauses. Default: 3.
    pub retries: Option<u32>,
}

impl Options {
    /// Refuses invalid combinations: half of a client certificate, two kinds of credentials, a timeout of zero.
    pub fn check(&self) -> Result<()> {
        let half = match (&self.client_cert, &self.client_key) {
            (Some(_), None) => Some(("client_cert", "client_key")),
            (None, Some(_)) => Some(("client_key", "client_cert")),
            _ => None,
        };
        if let Some((set, unset)) = half {
            return Err(error!(NET, "`{set}` is set without `{unset}`")
                .help(format!("a client certificate needs both: set `{unset}` too, to a PEM file")));
        }
        if self.bearer.is_some() && self.basic.is_some() {
            return Err(error!(NET, "`bearer` and `basic` are both set").help("keep the one that the server requires"));
        }
        if self.timeout == Some(0) {
            return Err(error!(NET, "`timeout` is 0 seconds").help("omit it for the default of 20 seconds"));
        }
        Ok(())
    }

    /// Reads the files in the options. An error if one is missing or invalid.
    pub fn load(&self) -> Result<LoadedOptions> {
        self.load_by(&named)
    }

    /// [`Options::load`] with the files read by `read`, which gets the name of the option and the file.
    pub fn load_by(&self, read: &dyn Fn(&str, &Path) -> Result<Vec<u8>>) -> Result<LoadedOptions> {
        self.check()?;
        let ca = self.ca.as_deref().map(|file| certificates(file, &read("ca", file)?)).transpose()?;
        let identity = match (&self.client_cert, &self.client_key) {
            (Some(cert), Some(key)) => {
                Some(identity((cert, &read("client_cert", cert)?), (key, &read("client_key", key)?))?)
            }
            _ => None,
        };
        let secret = |option, file: &Path| secret(file, read(option, file)?);
        let credentials = match (&self.bearer, &self.basic) {
            (Some(file), _) => Credentials::Bearer(secret("bearer", file)?),
            (None, Some(file)) => {
                let text = secret("basic", file)?;
                let (user, password) = text.split_once(':').ok_or_else(|| {
                    error!(NET, "`basic`: {} contains no `:`", file.display())
                        .help("write it as one line, USER:PASSWORD")
                })?;
                Credentials::Basic { user: user.to_owned(), password: password.to_owned() }
            }
            (None, None) => Credentials::None,
        };
        Ok(LoadedOptions { ca, identity, credentials, retries: self.tries_again(), patience: self.patience() })
    }

    /// How long to wait for a connection, and each time for more bytes.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.timeout.unwrap_or(TIMEOUT))
    }

    /// How often to try again.
    pub fn tries_again(&self) -> u32 {
        self.retries.unwrap_or(RETRIES)
    }
}

/// [`Options`] with their files read, for a client in a process that can't read those files.
#[derive(Clone, Deserialize, Serialize, PartialEq)]
pub struct LoadedOptions {
    /// PEM of the only authorities that are trusted.
    pub(super) ca: Option<String>,
    /// PEM of the client certificate, its chain and its key.
    pub(super) identity: Option<String>,
    pub(super) credentials: Credentials,
    pub(super) retries: u32,
    pub(super) patience: Duration,
}

/// The credentials of kpull.
#[derive(Clone, Deserialize, Serialize, PartialEq)]
pub(super) enum Credentials {
    None,
    Bearer(String),
    Basic { user: String, password: String },
}

impl Credentials {
    pub(super) fn add_to(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::None => request,
            Self::Bearer(token) => request.bearer_auth(token),
            Self::Basic { user, password } => request.basic_auth(user, Some(password)),
        }
    }
}

/// Reads the file of an option.
fn named(option: &str, file: &Path) -> Result<Vec<u8>> {
    read::named(file).map_err(|why| {
        error!(NET, "`{option}`: {} can't be read", file.display())
            .because(why)
            .help(format!("create the file, or correct `{option}`"))
    })
}

/// The credentials in a file of one line, which must not appear in messages.
fn secret(file: &Path, content: Vec<u8>) -> Result<String> {
    let wrong = |why| error!(NET, "{} {why}", file.display());
    let text = String::from_utf8(content).map_err(|_| wrong("is not text"))?;
    match text.trim() {
        "" => Err(wrong("is empty").help("write the credentials into it, as one line")),
        text if text.contains(char::is_control) => {
            Err(wrong("has more than one line").help("write the credentials into it, as one line"))
        }
        text => Ok(text.to_owned()),
    }
}

/// The content of a PEM file with at least one certificate.
fn certificates(file: &Path, pem: &[u8]) -> Result<String> {
    match reqwest::Certificate::from_pem_bundle(pem) {
        // text around the certificates may have any encoding
        Ok(found) if !found.is_empty() => Ok(String::from_utf8_lossy(pem).into_owned()),
        _ => Err(error!(NET, "{} contains no certificate", file.display())
            .help("it must be PEM: -----BEGIN CERTIFICATE-----")),
    }
}

/// A client certificate with its chain and key, from two PEM files.
fn identity(cert: (&Path, &[u8]), key: (&Path, &[u8])) -> Result<String> {
    let cert = certificates(cert.0, cert.1)?;
    if PrivateKeyDer::from_pem_slice(key.1).is_err() {
        return Err(error!(NET, "{} contains no private key", key.0.display())
            .help("it must be PEM without a passphrase: -----BEGIN PRIVATE KEY-----"));
    }
    Ok([&*cert, "\n", &*String::from_utf8_lossy(key.1)].concat())
}
