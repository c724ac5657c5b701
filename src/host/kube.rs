//! A client of a Kubernetes API server, with one persistent connection.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::Read;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use reqwest::blocking::{Client, RequestBuilder};
use reqwest::{StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result, error, visible};
use crate::host::root::Root;
use crate::host::web;
use crate::net::{self, LoadedOptions};

/// Timeout of a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// Timeout of an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Bytes of an answer that are read at most; etcd stores objects of up to some 1.5 MB.
const LARGEST: u64 = 16 * 1024 * 1024;

/// The address of an API server, and the files of its client.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub struct Access {
    /// Its `https://` address.
    pub server: Url,
    /// PEM file with the only authorities that may have issued its certificate.
    pub ca: PathBuf,
    /// PEM file with the client certificate.
    pub cert: PathBuf,
    /// PEM file with the key of `cert`.
    pub key: PathBuf,
}

/// The name of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// `v1`, `apps/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// Its namespace; `default` if omitted. Ignored for kinds without namespaces.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// The address of an object, to be queried again in a later run; it has nothing of the content.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub struct ObjectVersion {
    /// The API server and its client.
    pub access: Access,
    /// The object.
    address: Url,
}

/// The answer of an API server about an object.
#[derive(Debug)]
pub enum Answer {
    /// It exists.
    Found {
        /// The object.
        object: Value,
        /// Whether its kind is namespaced.
        namespaced: bool,
    },
    /// It doesn't exist.
    Missing {
        /// The namespace that it would be in, for namespaced kinds.
        namespace: Option<String>,
    },
    /// The API server has no such kind (yet).
    UnknownKind,
    /// No answer, or one of a server that isn't ready, with the reason for messages.
    Silent(String),
}

/// A kind of object that an API server has.
#[derive(Clone, Debug, Deserialize)]
struct ApiResource {
    /// The plural, as in paths.
    name: String,
    kind: String,
    namespaced: bool,
}

/// The address of an object, its kind, and its namespace, for namespaced kinds.
type ObjectAddress<'a> = (Url, ApiResource, Option<&'a str>);

#[derive(Deserialize)]
struct ApiResources {
    resources: Vec<ApiResource>,
}

/// A connection to one API server.
pub struct Kube {
    access: Access,
    /// The contents of the files of `access`: other contents need another connection.
    files: LoadedOptions,
    client: Client,
    /// The kinds that it has, by group and version.
    kinds: RefCell<HashMap<String, Vec<ApiResource>>>,
    /// Why it did not answer last, so that not every query has to wait for a timeout.
    silence: RefCell<Option<String>>,
    /// Whether to send requests although it did not answer last.
    pub insists: Cell<bool>,
}

/// Why the address of an object is unknown.
enum Unplaced {
    /// What the API server answers, or that it does not.
    Answer(Answer),
    /// It refuses to say, or there is no such address.
    Failed(Error),
}

impl From<Error> for Unplaced {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The answer to a request.
enum Reply {
    Json(Value),
    Missing,
    Silent(String),
}

impl Kube {
    /// The connection for `access`: `known`, or a new one if the files have changed. The error is why there can be none now: a missing
    /// or invalid file.
    pub fn current(root: &Root, access: &Access, known: Option<&Rc<Self>>) -> Result<Rc<Self>, String> {
        let files = web::tls(root, Some(&access.ca), Some((&access.cert, &access.key)))?;
        if let Some(known) = known.filter(|known| known.files == files) {
            return Ok(known.clone());
        }
        let client = net::direct(&files, CONNECT, ANSWER).map_err(|error| error.to_string())?;
        Ok(Rc::new(Self {
            access: access.clone(),
            files,
            client,
            kinds: RefCell::default(),
            silence: RefCell::default(),
            insists: Cell::new(false),
        }))
    }

    /// Gets an object.
    pub fn get(&self, name: &Name) -> Result<Answer> {
        self.ask(name, |url| self.client.get(url), "look at")
    }

    /// Deletes an object with all that it owns. If that takes a while, the object has a `deletionTimestamp`.
    pub fn delete(&self, name: &Name) -> Result<Answer> {
        const HOW: &str = r#"{"apiVersion":"v1","kind":"DeleteOptions","propagationPolicy":"Background"}"#;
        let how = |url| self.client.delete(url).header("Content-Type", "application/json").body(HOW);
        self.ask(name, how, "delete")
    }

    /// Applies a merge patch to an object (RFC 7396).
    pub fn merge(&self, name: &Name, patch: &Value) -> Result<Answer> {
        let text = patch.to_string();
        let how = |url| self.client.patch(url).header("Content-Type", "application/merge-patch+json").body(text);
        self.ask(name, how, "change")
    }

    /// The address of an object; `None` if the API server has no such kind, or does not answer.
    pub fn standing(&self, name: &Name) -> Result<Option<ObjectVersion>> {
        match self.place(name) {
            Ok((address, ..)) => Ok(Some(ObjectVersion { access: self.access.clone(), address })),
            Err(Unplaced::Answer(_)) => Ok(None),
            Err(Unplaced::Failed(error)) => Err(error),
        }
    }

    /// The identity and version of an object: a text that differs after every change. `None` if there is no object.
    pub fn state(&self, object: &ObjectVersion) -> Result<Option<String>> {
        match self.send(self.client.get(object.address.clone()), "read an object")? {
            Reply::Missing => Ok(None),
            Reply::Silent(why) => Err(error!(KUBE, "the API server does not answer").because(why)),
            Reply::Json(json) => {
                let meta = |name: &str| json.pointer(&format!("/metadata/{name}")).and_then(Value::as_str);
                match (meta("uid"), meta("resourceVersion")) {
                    (Some(uid), Some(version)) => Ok(Some(format!("{uid} {version}"))),
                    _ => Err(error!(KUBE, "the API server does not return the version of an object")),
                }
            }
        }
    }

    fn ask(&self, name: &Name, how: impl FnOnce(Url) -> RequestBuilder, what: &str) -> Result<Answer> {
        let (url, kind, namespace) = match self.place(name) {
            Ok(place) => place,
            Err(Unplaced::Answer(answer)) => return Ok(answer),
            Err(Unplaced::Failed(error)) => return Err(error),
        };
        Ok(match self.send(how(url), &format!("{what} {}", kind.name))? {
            Reply::Json(object) => Answer::Found { object, namespaced: kind.namespaced },
            Reply::Missing => Answer::Missing { namespace: namespace.map(str::to_owned) },
            Reply::Silent(why) => Answer::Silent(why),
        })
    }

    /// The address of an object.
    fn place<'a>(&self, name: &'a Name) -> Result<ObjectAddress<'a>, Unplaced> {
        let base = match name.api_version.split_once('/') {
            Some((group, version)) => net::below(&self.access.server, ["apis", group, version])?,
            None => net::below(&self.access.server, ["api", &name.api_version])?,
        };
        let kind = self.kind(&base, name)?;
        let namespace = kind.namespaced.then(|| name.namespace.as_deref().unwrap_or("default"));
        let path = namespace.map(|namespace| ["namespaces", namespace]).into_iter().flatten();
        let url = net::below(&base, path.chain([kind.name.as_str(), name.name.as_str()]))?;
        Ok((url, kind, namespace))
    }

    /// Looks up a kind; queried once for each group and version, and again for missing kinds.
    fn kind(&self, base: &Url, name: &Name) -> Result<ApiResource, Unplaced> {
        let find = |kinds: &Vec<ApiResource>| {
            // names such as `deployments/scale` are subresources
            kinds.iter().find(|known| known.kind == name.kind && !known.name.contains('/')).cloned()
        };
        if let Some(kind) = self.kinds.borrow().get(&name.api_version).and_then(find) {
            return Ok(kind);
        }
        let what = format!("list the resources of {}", name.api_version);
        let known = match self.send(self.client.get(base.clone()), &what)? {
            Reply::Missing => return Err(Unplaced::Answer(Answer::UnknownKind)),
            Reply::Silent(why) => return Err(Unplaced::Answer(Answer::Silent(why))),
            Reply::Json(list) => match serde_json::from_value::<ApiResources>(list) {
                Ok(list) => list.resources,
                Err(_) => {
                    let why = format!("{base} does not answer like an API server");
                    return Err(Unplaced::Answer(Answer::Silent(why)));
                }
            },
        };
        let kind = find(&known);
        self.kinds.borrow_mut().insert(name.api_version.clone(), known);
        kind.ok_or(Unplaced::Answer(Answer::UnknownKind))
    }

    /// Sends a request. `what` is what is being done, for the message about a refusal.
    fn send(&self, request: RequestBuilder, what: &str) -> Result<Reply> {
        if let Some(why) = self.silence.borrow().as_ref().filter(|_| !self.insists.get()) {
            return Ok(Reply::Silent(why.clone()));
        }
        let server = net::shown(&self.access.server);
        let reply = match request.send() {
            Err(error) => Reply::Silent(web::unanswered(&server, &error)),
            Ok(answer) => {
                let status = answer.status();
                let mut body = Vec::new();
                match answer.take(LARGEST).read_to_end(&mut body) {
                    Err(error) => Reply::Silent(format!("{server} stopped answering: {error}")),
                    Ok(_) => self.judge(status, &body, what)?,
                }
            }
        };
        *self.silence.borrow_mut() = match &reply {
            Reply::Silent(why) => Some(why.clone()),
            _ => None,
        };
        Ok(reply)
    }

    fn judge(&self, status: StatusCode, body: &[u8], what: &str) -> Result<Reply> {
        let server = net::shown(&self.access.server);
        match status {
            StatusCode::NOT_FOUND => Ok(Reply::Missing),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(error!(
                KUBE,
                "the API server {server} does not permit the owner of {} to {what}",
                self.access.cert.display()
            )
            .because(message(status, body))
            .help(match status {
                StatusCode::FORBIDDEN => {
                    "bind its user or group to a role with this permission, or use another user's certificate"
                }
                _ => "the certificate must be issued by an authority in the API server's --client-ca-file",
            })),
            StatusCode::TOO_MANY_REQUESTS => Ok(Reply::Silent(format!("{server} answered {status}"))),
            status if status.is_server_error() => Ok(Reply::Silent(format!("{server} answered {status}"))),
            status if status.is_success() => match serde_json::from_slice(body) {
                Ok(json) => Ok(Reply::Json(json)),
                Err(_) => Ok(Reply::Silent(format!("{server} does not answer like an API server"))),
            },
            status => Err(error!(KUBE, "can't {what}: the API server {server} refuses")
                .because(message(status, body))
                .help("check `server`, and `apiVersion`, `kind` and `name` of the object")),
        }
    }
}

/// The message of an API server about a refusal.
fn message(status: StatusCode, body: &[u8]) -> String {
    let json = serde_json::from_slice::<Value>(body).ok();
    match json.as_ref().and_then(|json| json.get("message")).and_then(Value::as_str) {
        Some(message) => visible(&format!("{status}, {message}")),
        None => status.to_string(),
    }
}
