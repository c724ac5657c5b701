//! The FleetLock protocol, as Zincati and its servers speak it: before it does something, a host requests one of the slots of its
//! group from a server, and reports when it is steady again.
//!
//! <https://coreos.github.io/zincati/development/fleetlock/protocol/>

use std::path::PathBuf;
use std::time::Duration;

use reqwest::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::{Error, Result, code, one_line};
use crate::host::Host;
use crate::host::web::{self, Question};
use crate::net;

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long to wait for an answer: the server may have to ask others.
const ASK: Duration = Duration::from_secs(20);
/// The most of an answer that is read.
const LARGEST: usize = 64 * 1024;
/// The most characters of what it says that are repeated.
const TEXT: usize = 300;

/// `fleetlock`: a server of the FleetLock protocol.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct FleetLock {
    /// Its address; `/v1/pre-reboot` and `/v1/steady-state` are below.
    pub url: String,
    /// The group whose slots hosts request. Default: `default`.
    #[serde(default = "default_group")]
    pub group: String,
    /// PEM file, on the hosts, with the authorities of an https server.
    pub ca: Option<PathBuf>,
}

fn default_group() -> String {
    "default".to_owned()
}

impl FleetLock {
    /// Checks the address and the group.
    pub fn check(&self) -> Result<(), String> {
        let url = net::parse(&self.url).map_err(|error| error.to_string())?;
        if url.scheme() == "https" && self.ca.is_none() {
            return Err("https needs `ca`".to_owned());
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '.';
        if self.group.is_empty() || !self.group.chars().all(is_plain) {
            return Err(format!("`{}` is not a group: use letters, digits and `.`", self.group));
        }
        Ok(())
    }

    /// Asks for a slot. A host that has one gets it again.
    pub fn pre_reboot(&self, host: &Host, id: &str) -> Result<Answer> {
        self.ask(host, "pre-reboot", id)
    }

    /// Gives the slot back. A host that has none may do so too.
    pub fn steady_state(&self, host: &Host, id: &str) -> Result<Answer> {
        self.ask(host, "steady-state", id)
    }

    fn ask(&self, host: &Host, what: &str, id: &str) -> Result<Answer> {
        let url = net::below(&net::parse(&self.url)?, ["v1", what])?;
        let body = json!({ "client_params": { "id": id, "group": self.group } });
        let question = Question {
            shown: net::shown(&url),
            url,
            json: Some(body.to_string()),
            headers: vec![("fleet-lock-protocol".to_owned(), "true".to_owned())],
            tls: web::tls(&host.root, self.ca.as_deref(), None).map_err(|what| Error::new(code::ROLLOUT, what))?,
            connect: CONNECT,
            limit: ASK,
            most: LARGEST,
        };
        let reply = host.web.ask(&question).map_err(|what| Error::new(code::ROLLOUT, what))?;
        if reply.status == 200 {
            return Ok(Answer::Granted);
        }
        // an answer that can't be parsed says no more than its status
        let problem = serde_json::from_slice(&reply.body).map(|Problem { kind, value }| format!("{value} ({kind})"));
        let status =
            || StatusCode::from_u16(reply.status).map_or_else(|_| reply.status.to_string(), |is| is.to_string());
        Ok(Answer::Refused(one_line(&problem.unwrap_or_else(|_| status())).chars().take(TEXT).collect()))
    }
}

/// The server's answer.
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
