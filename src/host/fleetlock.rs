//! FleetLock, as Zincati and its servers speak it: a host asks a server for one of the slots of its group before it may
//! do something, and says when it is steady again.
//!
//! <https://coreos.github.io/zincati/development/fleetlock/protocol/>

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use reqwest::blocking::Client as Http;
use reqwest::{StatusCode, Url, header};
use serde::Deserialize;
use serde_json::json;

use crate::error::{Result, visible};
use crate::net::{self, Options};

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long to wait for an answer: the server may have to ask others.
const ASK: Duration = Duration::from_secs(20);
/// The most of an answer that is read.
const LARGEST: u64 = 64 * 1024;

/// A server, and the group that this host is of there.
#[derive(Debug)]
pub struct Server {
    url: Url,
    group: String,
    http: Http,
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Yes.
    Granted,
    /// No, and why.
    Refused(String),
}

/// The body of every answer that is not a yes.
#[derive(Deserialize)]
struct Problem {
    kind: String,
    value: String,
}

impl Server {
    /// The server at `url`, whose certificate an authority in the PEM file `ca` has signed.
    pub fn new(url: &str, group: &str, ca: Option<&Path>) -> Result<Self> {
        let loaded = Options { ca: ca.map(Path::to_owned), ..Options::default() }.load()?;
        Ok(Self { url: net::parse(url)?, group: group.to_owned(), http: net::direct(&loaded, CONNECT)? })
    }

    /// Asks for a slot. A host that has one gets it again.
    pub fn pre_reboot(&self, id: &str) -> Result<Answer> {
        self.ask("pre-reboot", id)
    }

    /// Gives the slot back. A host that has none may do so too.
    pub fn steady_state(&self, id: &str) -> Result<Answer> {
        self.ask("steady-state", id)
    }

    fn ask(&self, what: &str, id: &str) -> Result<Answer> {
        let url = net::below(&self.url, ["v1", what])?;
        let body = json!({ "client_params": { "id": id, "group": self.group } });
        let request = self.http.post(url.clone()).header("fleet-lock-protocol", "true");
        let request = request.header(header::CONTENT_TYPE, "application/json").body(body.to_string());
        let request = request.timeout(ASK).send();
        let reply = request.map_err(|why| net::Failure::of(format!("POST {}", net::shown(&url)), &why).error)?;
        let status = reply.status();
        if status == StatusCode::OK {
            return Ok(Answer::Granted);
        }
        let mut text = String::new();
        // what can't be read says no more than the status
        let _ = reply.take(LARGEST).read_to_string(&mut text);
        let said = serde_json::from_str(&text).map(|Problem { kind, value }| format!("{value} ({kind})"));
        Ok(Answer::Refused(visible(&said.unwrap_or_else(|_| status.to_string()))))
    }
}
