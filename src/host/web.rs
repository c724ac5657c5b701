//! Requests to web servers with all files read already, so that a process without rights can send them.

use std::io::Read as _;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::{Url, header};
use serde::{Deserialize, Serialize};

use crate::error::{Result, error, visible};
use crate::host::root::Root;
use crate::net::{self, LoadedOptions, Options};

/// One request, sent without a proxy and without following redirects.
#[derive(Clone, Deserialize, Serialize)]
pub struct Question {
    /// The address.
    pub url: Url,
    /// The address for messages.
    pub shown: String,
    /// JSON to POST; `None` for a GET.
    pub json: Option<String>,
    /// Headers besides the usual ones.
    pub headers: Vec<(String, String)>,
    /// The trusted authorities and the client's identity.
    pub tls: LoadedOptions,
    /// Timeout of the connection.
    pub connect: Duration,
    /// Timeout of the whole request.
    pub limit: Duration,
    /// Bytes of the answer's body that are read at most.
    pub most: usize,
}

/// Any answer to a [`Question`].
#[derive(Debug)]
pub struct Reply {
    /// Its HTTP status.
    pub status: u16,
    /// The beginning of its body.
    pub body: Vec<u8>,
    /// Why reading the body failed, if it did.
    pub broken: Option<String>,
}

/// Sends requests. Errors are texts for messages.
pub trait Ask {
    /// Sends a request once.
    fn ask(&self, question: &Question) -> Result<Reply, String>;

    /// Connects to `HOST:PORT` within `limit`, and sends nothing.
    fn connect(&self, target: &str, limit: Duration) -> Result<(), String>;
}

/// Sends requests from this process.
#[derive(Debug)]
pub struct Here;

/// Reads the files for TLS: the only trusted authorities (the system's if `None`), and a client certificate with its key. Errors are
/// texts for messages.
pub fn tls(root: &Root, ca: Option<&Path>, client: Option<(&Path, &Path)>) -> Result<LoadedOptions, String> {
    let read = |_: &str, path: &Path| match root.read(path)? {
        Some((_, content)) => Ok(content),
        None => Err(error!(NET, "there is no file {}", path.display())),
    };
    let (cert, key) = client.unzip();
    let [ca, client_cert, client_key] = [ca, cert, key].map(|path| path.map(Path::to_owned));
    Options { ca, client_cert, client_key, ..Options::default() }.load_by(&read).map_err(|why| why.to_string())
}

/// Why `server` does not answer.
pub fn unanswered(server: &str, why: &reqwest::Error) -> String {
    net::Failure::of(format!("{server} does not answer"), why).error.to_string()
}

impl Ask for Here {
    fn ask(&self, question: &Question) -> Result<Reply, String> {
        let Question { url, shown, json, headers, tls, connect, limit, most } = question;
        let http = net::direct(tls, *connect, *limit).map_err(|why| why.to_string())?;
        let mut request = match json {
            Some(json) => http.post(url.clone()).header(header::CONTENT_TYPE, "application/json").body(json.clone()),
            None => http.get(url.clone()),
        };
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let answer = request.send().map_err(|why| unanswered(shown, &why))?;
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
