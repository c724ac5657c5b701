//! Questions to web servers, with everything read that they need: so that another process can ask them, which has no rights.

use std::io::Read as _;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::{Url, header};
use serde::{Deserialize, Serialize};

use crate::error::visible;
use crate::host::root::Root;
use crate::host::tls;

/// A file for TLS: where it is on the host, and what was read there.
pub type Pem = (PathBuf, Vec<u8>);

/// One request, which is sent as it is: by no proxy, and not again where it is redirected.
#[derive(Clone, Deserialize, Serialize)]
pub struct Question {
    /// The address.
    pub url: Url,
    /// The address as it may stand in a message.
    pub shown: String,
    /// JSON to POST; it is a GET without.
    pub json: Option<String>,
    /// Headers besides the usual ones.
    pub headers: Vec<(String, String)>,
    /// The only authorities that are trusted; the system's without.
    pub ca: Option<Pem>,
    /// A client certificate, and its key.
    pub client: Option<(Pem, Pem)>,
    /// How long a connection may take.
    pub connect: Duration,
    /// How long all of it may take.
    pub limit: Duration,
    /// How many bytes of the answer's body are read at most.
    pub most: usize,
}

/// The answer to a [`Question`], whatever it is.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// The beginning of its body, no more than was asked for.
    pub body: Vec<u8>,
    /// Why that broke off, if it did.
    pub broken: Option<String>,
}

/// Who asks. Errors are what was wrong, for people.
pub trait Ask {
    /// Sends a request once.
    fn ask(&self, question: &Question) -> Result<Reply, String>;

    /// Connects to `HOST:PORT` within some time, and says nothing there.
    fn connect(&self, target: &str, limit: Duration) -> Result<(), String>;
}

/// This process asks by itself.
#[derive(Debug)]
pub struct Here;

/// A file for TLS, read on the host.
pub fn pem(root: &Root, path: &Path) -> Result<Pem, String> {
    Ok((path.to_owned(), tls::read(root, path)?))
}

impl Ask for Here {
    fn ask(&self, question: &Question) -> Result<Reply, String> {
        let Question { url, shown, json, headers, ca, client, connect, limit, most } = question;
        let said = |error: &reqwest::Error| tls::said(shown, error);
        let mut builder = tls::client().connect_timeout(*connect).timeout(*limit).pool_max_idle_per_host(0);
        if let Some((path, pem)) = ca {
            builder = tls::trusting(builder, path, pem)?;
        }
        if let Some((cert, key)) = client {
            builder = tls::showing(builder, (&cert.0, &cert.1), (&key.0, &key.1))?;
        }
        let http = builder.build().map_err(|error| said(&error))?;
        let mut request = match json {
            Some(json) => http.post(url.clone()).header(header::CONTENT_TYPE, "application/json").body(json.clone()),
            None => http.get(url.clone()),
        };
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let answer = request.send().map_err(|error| said(&error))?;
        let (status, mut body) = (answer.status().as_u16(), Vec::new());
        let read = answer.take(*most as u64).read_to_end(&mut body);
        Ok(Reply { status, body, broken: read.err().map(|why| visible(&why.to_string())) })
    }

    fn connect(&self, target: &str, limit: Duration) -> Result<(), String> {
        let addresses = target.to_socket_addrs().map_err(|error| format!("can't look up {target}: {error}"))?;
        let started = Instant::now();
        let mut why = format!("{target} has no address");
        for address in addresses {
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() {
                break;
            }
            match TcpStream::connect_timeout(&address, left) {
                Ok(_) => return Ok(()),
                Err(error) => why = format!("can't connect to {address}: {error}"),
            }
        }
        Err(why)
    }
}
