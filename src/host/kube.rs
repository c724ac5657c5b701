//! An API server of Kubernetes, asked over one connection that is kept.

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

use crate::error::{Error, Result, code, visible};
use crate::host::root::Root;
use crate::host::web;
use crate::net::{self, LoadedOptions};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(2);

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// The largest answer that is read; etcd takes objects of some 1.5 MB.
const LARGEST: u64 = 16 * 1024 * 1024;

/// Where an API server is, and the files of who asks it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub struct Access {
    /// Its `https://` address.
    pub server: Url,
    /// PEM file with the only authorities that its certificate may be from.
    pub ca: PathBuf,
    /// PEM file with the client certificate.
    pub cert: PathBuf,
    /// PEM file with the key of `cert`.
    pub key: PathBuf,
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// `v1`, `apps/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// Its namespace; `default` when left out, nothing for kinds without one.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// An object at its address, to be asked for again in a later run: nothing of what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub struct ObjectVersion {
    /// The API server, and who asks it.
    pub access: Access,
    /// The object.
    address: Url,
}

/// What an API server says of an object.
#[derive(Debug)]
pub enum Answer {
    /// It is there.
    Found {
        /// The object.
        object: Value,
        /// Whether its kind lives in namespaces.
        namespaced: bool,
    },
    /// It is not there.
    Missing {
        /// The namespace that it would be in, for kinds that live in one.
        namespace: Option<String>,
    },
    /// The API server has no such kind (yet).
    UnknownKind,
    /// No answer, or one of a server that isn't ready: why, for people.
    Silent(String),
}

/// An entry of what an API server has.
#[derive(Clone, Debug, Deserialize)]
struct ApiResource {
    /// The plural, as paths have it.
    name: String,
    kind: String,
    namespaced: bool,
}

/// The address of an object, its kind, and the namespace that it is in, for kinds that live in one.
type ObjectAddress<'a> = (Url, ApiResource, Option<&'a str>);

#[derive(Deserialize)]
struct ApiResources {
    resources: Vec<ApiResource>,
}

/// A connection to one API server.
pub struct Kube {
    access: Access,
    /// What was in the files of `access`: with anything else in them it is another connection.
    files: LoadedOptions,
    client: Client,
    /// What it has, by group and version.
    sorts: RefCell<HashMap<String, Vec<ApiResource>>>,
    /// Why it did not answer last: who asks many things need not wait for each.
    silence: RefCell<Option<String>>,
    /// Whether it is asked although it did not answer last.
    insists: Cell<bool>,
}

/// What came back.
enum Reply {
    Json(Value),
    Missing,
    Silent(String),
}

impl Kube {
    /// The connection to be used for `access`: `known`, or a new one when the files have changed. The error says why
    /// there can be none now: a file that is missing, or has something else in it.
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
            sorts: RefCell::default(),
            silence: RefCell::default(),
            insists: Cell::new(false),
        }))
    }

    /// Asks it from now on although it did not answer before.
    pub fn insist(&self) {
        self.insists.set(true);
    }

    /// Looks for an object.
    pub fn get(&self, name: &Name) -> Result<Answer> {
        self.ask(name, |url| self.client.get(url), "look at")
    }

    /// Removes an object, with all that it owns. It may take a while to go: then it has a `deletionTimestamp`.
    pub fn delete(&self, name: &Name) -> Result<Answer> {
        const HOW: &str = r#"{"apiVersion":"v1","kind":"DeleteOptions","propagationPolicy":"Background"}"#;
        let how = |url| self.client.delete(url).header("Content-Type", "application/json").body(HOW);
        self.ask(name, how, "delete")
    }

    /// Sets what `patch` says of an object, map by map and lists as a whole (RFC 7396).
    pub fn merge(&self, name: &Name, patch: &Value) -> Result<Answer> {
        let text = patch.to_string();
        let how = |url| self.client.patch(url).header("Content-Type", "application/merge-patch+json").body(text);
        self.ask(name, how, "change")
    }

    /// Where an object stands; `None` when the API server knows no such kind, or does not answer.
    pub fn standing(&self, name: &Name) -> Result<Option<ObjectVersion>> {
        let place = self.place(name)?.ok();
        Ok(place.map(|(address, ..)| ObjectVersion { access: self.access.clone(), address }))
    }

    /// Which object stands there, in which state: another text whenever anybody has changed it. `None` when none does.
    pub fn state(&self, standing: &ObjectVersion) -> Result<Option<String>> {
        match self.send(self.client.get(standing.address.clone()), "look at an object")? {
            Reply::Missing => Ok(None),
            Reply::Silent(why) => Err(Error::new(code::KUBE, "the API server does not answer").because(why)),
            Reply::Json(object) => {
                let meta = |name: &str| object.pointer(&format!("/metadata/{name}")).and_then(Value::as_str);
                match (meta("uid"), meta("resourceVersion")) {
                    (Some(uid), Some(version)) => Ok(Some(format!("{uid} {version}"))),
                    _ => Err(Error::new(code::KUBE, "the API server does not say which version of an object it has")),
                }
            }
        }
    }

    fn ask(&self, name: &Name, how: impl FnOnce(Url) -> RequestBuilder, what: &str) -> Result<Answer> {
        let (url, sort, namespace) = match self.place(name)? {
            Ok(place) => place,
            Err(answer) => return Ok(answer),
        };
        Ok(match self.send(how(url), &format!("{what} {}", sort.name))? {
            Reply::Json(object) => Answer::Found { object, namespaced: sort.namespaced },
            Reply::Missing => Answer::Missing { namespace: namespace.map(str::to_owned) },
            Reply::Silent(why) => Answer::Silent(why),
        })
    }

    /// Where an object is.
    fn place<'a>(&self, name: &'a Name) -> Result<Result<ObjectAddress<'a>, Answer>> {
        let base = match name.api_version.split_once('/') {
            Some((group, version)) => net::below(&self.access.server, ["apis", group, version])?,
            None => net::below(&self.access.server, ["api", &name.api_version])?,
        };
        let sort = match self.sort(&base, name)? {
            Ok(sort) => sort,
            Err(answer) => return Ok(Err(answer)),
        };
        let namespace = sort.namespaced.then(|| name.namespace.as_deref().unwrap_or("default"));
        let way = namespace.map(|namespace| ["namespaces", namespace]).into_iter().flatten();
        let url = net::below(&base, way.chain([sort.name.as_str(), name.name.as_str()]))?;
        Ok(Ok((url, sort, namespace)))
    }

    /// What the API server knows of a kind; asked once for each group and version, and again for what was not there.
    fn sort(&self, base: &Url, name: &Name) -> Result<Result<ApiResource, Answer>> {
        let find = |sorts: &Vec<ApiResource>| {
            // `deployments/scale` and the like are parts of others
            sorts.iter().find(|sort| sort.kind == name.kind && !sort.name.contains('/')).cloned()
        };
        if let Some(sort) = self.sorts.borrow().get(&name.api_version).and_then(find) {
            return Ok(Ok(sort));
        }
        let what = format!("ask what there is in {}", name.api_version);
        let known = match self.send(self.client.get(base.clone()), &what)? {
            Reply::Missing => return Ok(Err(Answer::UnknownKind)),
            Reply::Silent(why) => return Ok(Err(Answer::Silent(why))),
            Reply::Json(list) => match serde_json::from_value::<ApiResources>(list) {
                Ok(list) => list.resources,
                Err(_) => return Ok(Err(Answer::Silent(format!("{base} does not answer as an API server does")))),
            },
        };
        let sort = find(&known);
        self.sorts.borrow_mut().insert(name.api_version.clone(), known);
        Ok(sort.ok_or(Answer::UnknownKind))
    }

    /// Sends a request. `what` says what is being done, for a refusal.
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
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Error::new(
                code::KUBE,
                format!("the API server {server} does not let the bearer of {} {what}", self.access.cert.display()),
            )
            .because(said(status, body))
            .help(match status {
                StatusCode::FORBIDDEN => {
                    "give its user or group a role that may do that, or name a certificate of somebody who may"
                }
                _ => "the certificate has to be from an authority in the API server's --client-ca-file",
            })),
            StatusCode::TOO_MANY_REQUESTS => Ok(Reply::Silent(format!("{server} answered {status}"))),
            status if status.is_server_error() => Ok(Reply::Silent(format!("{server} answered {status}"))),
            status if status.is_success() => match serde_json::from_slice(body) {
                Ok(json) => Ok(Reply::Json(json)),
                Err(_) => Ok(Reply::Silent(format!("{server} does not answer as an API server does"))),
            },
            status => Err(Error::new(code::KUBE, format!("can't {what}: the API server {server} refuses"))
                .because(said(status, body))
                .help("check `server`, and `apiVersion`, `kind` and `name` of the object")),
        }
    }
}

/// Why an API server refuses, in its own words.
fn said(status: StatusCode, body: &[u8]) -> String {
    let words = serde_json::from_slice::<Value>(body).ok();
    match words.as_ref().and_then(|words| words.get("message")).and_then(Value::as_str) {
        Some(words) => visible(&format!("{status}, {words}")),
        None => status.to_string(),
    }
}
