//! A thin client of etcd: keys of both APIs, leases and members, over HTTPS with client certificates.
//!
//! For the v3 API, this uses etcd's JSON gateway.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::blocking::{Client as Http, RequestBuilder};
use reqwest::{Url, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::error::{Result, one_line};
use crate::net::{self, LoadedOptions, Options};

/// How long to wait for a connection: members of a cluster are near.
const CONNECT: Duration = Duration::from_secs(2);

/// How long to wait for the answer to a query.
const QUERY: Duration = Duration::from_secs(3);

/// How long to wait for the answer to a change: longer than etcd itself waits for consensus (7 s).
const CHANGE: Duration = Duration::from_secs(8);

/// Bytes of an answer that are read at most.
const LARGEST: u64 = 4 * 1024 * 1024;

/// Characters of its message that are repeated at most.
const TEXT: usize = 300;

/// Prefixes of v3 paths: from etcd 3.4 on, in 3.3 and 3.4, up to 3.3.
const PREFIXES: [&str; 3] = ["v3", "v3beta", "v3alpha"];

/// The endpoints of a cluster, and how to connect to them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub struct Cluster {
    /// Client URLs of members, tried in turn until one answers.
    pub endpoints: Vec<Url>,
    /// PEM file with the only trusted authorities.
    pub ca: PathBuf,
    /// PEM files with a client certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl Cluster {
    /// Reads the files.
    pub fn load(&self) -> Result<LoadedOptions> {
        let (client_cert, client_key) = self.client.clone().unzip();
        Options { ca: Some(self.ca.clone()), client_cert, client_key, ..Options::default() }.load()
    }
}

/// A key of a cluster, to be queried again in a later run; it has nothing of the value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub struct KeyRevision {
    /// The cluster.
    pub cluster: Cluster,
    /// The API of the key.
    pub api: Api,
    /// The key.
    pub key: String,
}

/// Why there is no usable answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection, or no answer in time: there may be no cluster at all.
    Silent(String),
    /// A server is there, and its answer is invalid or it can't serve now: TLS, no leader, no quorum.
    Unable(String),
    /// etcd refuses the request.
    Refused(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Silent(why) | Self::Unable(why) | Self::Refused(why)) = self;
        f.write_str(why)
    }
}

impl From<crate::Error> for Failure {
    /// The certificates can't be read, which says nothing about the cluster.
    fn from(error: crate::Error) -> Self {
        Self::Unable(error.to_string())
    }
}

/// One of etcd's two APIs, whose keys are separate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// The older API, with directories.
    V2,
    /// The newer API.
    #[default]
    V3,
}

/// The state of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The value.
    pub value: Vec<u8>,
    /// The revision at which it was last set; never 0.
    pub revision: u64,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Member {
    /// Its number.
    #[serde(rename = "ID")]
    pub id: String,
    /// Its name; empty if it was added and has not started yet.
    pub name: String,
    /// Its URLs for other members.
    #[serde(rename = "peerURLs")]
    pub peer_urls: Vec<String>,
    /// Its URLs for clients; none until it has started.
    #[serde(rename = "clientURLs")]
    pub client_urls: Vec<String>,
}

impl Member {
    /// Whether it has ever joined the cluster.
    pub fn has_started(&self) -> bool {
        !self.client_urls.is_empty()
    }
}

/// The client of one cluster.
pub struct Client {
    cluster: Cluster,
    loaded: LoadedOptions,
    http: Http,
    /// Which of [`PREFIXES`] each endpoint has, once that is known: they differ while a cluster is upgraded.
    prefixes: RefCell<Vec<Option<&'static str>>>,
    /// The endpoint that answered last.
    last: Cell<usize>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Client {
    /// A client with the files that [`Cluster::load`] has read.
    pub fn new(cluster: &Cluster, loaded: LoadedOptions) -> Result<Self> {
        let http = net::direct(&loaded, CONNECT, QUERY)?;
        let prefixes = RefCell::new(vec![None; cluster.endpoints.len()]);
        Ok(Self { cluster: cluster.clone(), loaded, http, prefixes, last: Cell::new(0) })
    }

    /// Whether it is for this cluster, with these contents of the files.
    pub fn is_for(&self, cluster: &Cluster, loaded: &LoadedOptions) -> bool {
        self.cluster == *cluster && self.loaded == *loaded
    }

    /// The state of a key from one member, which may lag behind; `None` if there is no such key.
    pub fn peek(&self, api: Api, key: &str) -> Result<Option<Pair>, Failure> {
        self.read(api, key, false)
    }

    /// The revision at which a key was last set, by [`Client::peek`]; `None` if there is no such key.
    pub fn state(&self, key: &KeyRevision) -> Result<Option<u64>, Failure> {
        Ok(self.peek(key.api, &key.key)?.map(|pair| pair.revision))
    }

    /// The state of a key by consensus.
    pub fn get(&self, api: Api, key: &str) -> Result<Option<Pair>, Failure> {
        self.read(api, key, true)
    }

    fn read(&self, api: Api, key: &str, agreed: bool) -> Result<Option<Pair>, Failure> {
        match api {
            Api::V3 => {
                let body = json!({ "key": BASE64_STANDARD.encode(key), "serializable": !agreed });
                first_pair(&self.v3("kv/range", &body, QUERY)?)
            }
            Api::V2 => {
                let query = [("quorum", if agreed { "true" } else { "false" })];
                match self.v2(key, &query, None)? {
                    (_, 100) => Ok(None),
                    (answer, 0) => node(key, &answer).map(Some),
                    (answer, _) => Err(Failure::Refused(message(&answer))),
                }
            }
        }
    }

    /// Sets a key if it was last set at revision `was` (0: if it doesn't exist). Returns whether it did.
    pub fn swap(&self, api: Api, key: &str, was: u64, value: &[u8]) -> Result<bool, Failure> {
        match api {
            Api::V3 => self.swap_leased(key, was, value, None),
            Api::V2 => {
                let index = was.to_string();
                let condition = if was == 0 { ("prevExist", "false") } else { ("prevIndex", index.as_str()) };
                match self.v2(key, &[condition], Some(&String::from_utf8_lossy(value)))? {
                    // deleted, changed, or created meanwhile
                    (_, 100 | 101 | 105) => Ok(false),
                    (_, 0) => Ok(true),
                    (answer, _) => Err(Failure::Refused(message(&answer))),
                }
            }
        }
    }

    /// [`Client::swap`] in the v3 API, with a lease that deletes the key when it ends.
    pub fn swap_leased(&self, key: &str, was: u64, value: &[u8], lease: Option<&Lease>) -> Result<bool, Failure> {
        let key = BASE64_STANDARD.encode(key);
        let put =
            json!({ "key": key, "value": BASE64_STANDARD.encode(value), "lease": lease.map_or("0", |lease| &lease.0) });
        let body = json!({
            "compare": [{ "key": key, "target": "MOD", "mod_revision": was.to_string() }],
            "success": [{ "request_put": put }],
        });
        Ok(self.v3("kv/txn", &body, CHANGE)?["succeeded"].as_bool().unwrap_or(false))
    }

    /// Grants a lease that ends after `ttl`, unless it is kept alive.
    pub fn grant(&self, ttl: Duration) -> Result<Lease, Failure> {
        let answer = self.v3("lease/grant", &json!({ "TTL": ttl.as_secs().max(1).to_string() }), CHANGE)?;
        let lease = number(&answer["ID"]).map(|id| Lease(id.to_string()));
        lease.ok_or_else(|| Failure::Unable("a lease without ID".into()))
    }

    /// Renews a lease.
    pub fn keep_alive(&self, lease: &Lease) -> Result<(), Failure> {
        self.v3("lease/keepalive", &json!({ "ID": lease.0 }), CHANGE).map(drop)
    }

    /// Ends a lease, and deletes its keys. It is no error if it has ended already.
    pub fn revoke(&self, lease: &Lease) -> Result<(), Failure> {
        match self.v3("kv/lease/revoke", &json!({ "ID": lease.0 }), CHANGE) {
            Err(Failure::Refused(why)) if why.contains("lease not found") => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// The members, according to one of them.
    pub fn members(&self) -> Result<Vec<Member>, Failure> {
        let answer = self.v3("cluster/member/list", &json!({}), QUERY)?;
        let members: Vec<Member> =
            serde_json::from_value(answer["members"].clone()).map_err(|error| Failure::Unable(error.to_string()))?;
        // they appear in messages, and in a file with one entry a line
        let texts = members.iter().flat_map(|member| {
            [&member.id, &member.name].into_iter().chain(&member.peer_urls).chain(&member.client_urls)
        });
        let bad = { texts }.find(|text| text.len() > 1000 || one_line(text) != **text).map(|text| one_line(text));
        match bad {
            Some(bad) => Err(Failure::Unable(format!("etcd has a member with the invalid name `{bad:.100}`"))),
            None => Ok(members),
        }
    }

    /// Adds a member that has not started yet.
    pub fn add_member(&self, peer_url: &str) -> Result<(), Failure> {
        self.v3("cluster/member/add", &json!({ "peerURLs": [peer_url] }), CHANGE).map(drop)
    }

    /// Removes a member permanently.
    pub fn remove_member(&self, member: &Member) -> Result<(), Failure> {
        self.v3("cluster/member/remove", &json!({ "ID": member.id }), CHANGE).map(drop)
    }

    /// Changes the peer URL of a member.
    pub fn move_member(&self, member: &Member, peer_url: &str) -> Result<(), Failure> {
        self.v3("cluster/member/update", &json!({ "ID": member.id, "peerURLs": [peer_url] }), CHANGE).map(drop)
    }

    /// Tries one endpoint after the other, starting with the one that answered last.
    fn each<T>(&self, ask: impl Fn(usize, &Url) -> Result<T, Failure>) -> Result<T, Failure> {
        let count = self.cluster.endpoints.len();
        let (mut whys, mut is_silent) = (Vec::new(), true);
        for at in (0..count).map(|offset| (self.last.get() + offset) % count) {
            match ask(at, &self.cluster.endpoints[at]) {
                Err(Failure::Silent(why)) => whys.push(why),
                Err(Failure::Unable(why)) => {
                    is_silent = false;
                    whys.push(why);
                }
                answer => {
                    self.last.set(at);
                    return answer;
                }
            }
        }
        let why = if whys.is_empty() { "there is no endpoint".to_owned() } else { whys.join("; ") };
        Err(if is_silent { Failure::Silent(why) } else { Failure::Unable(why) })
    }

    /// Sends a v3 request.
    fn v3(&self, path: &str, body: &Value, wait: Duration) -> Result<Value, Failure> {
        let body = body.to_string();
        self.each(|at, endpoint| {
            let known = self.prefixes.borrow()[at];
            // also try the others: it may have just been upgraded
            for prefix in known.into_iter().chain(PREFIXES) {
                let url = net::below(endpoint, [prefix].into_iter().chain(path.split('/')))?;
                let request = self.http.post(url).header(header::CONTENT_TYPE, "application/json").body(body.clone());
                let (status, answer) = send(endpoint, request, wait)?;
                match answer {
                    Some(answer) => {
                        self.prefixes.borrow_mut()[at] = Some(prefix);
                        return judge(endpoint, status, answer);
                    }
                    None if status == 404 => {}
                    None => return Err(strange(endpoint, status)),
                }
            }
            Err(strange(endpoint, 404))
        })
    }

    /// Sends a v2 request about a key, and returns the answer and etcd's error code (0: none).
    fn v2(&self, key: &str, query: &[(&str, &str)], value: Option<&str>) -> Result<(Value, u64), Failure> {
        self.each(|_, endpoint| {
            let mut url =
                net::below(endpoint, ["v2", "keys"].into_iter().chain(key.split('/').filter(|part| !part.is_empty())))?;
            url.query_pairs_mut().extend_pairs(query);
            let (request, wait) = match value {
                None => (self.http.get(url), QUERY),
                Some(value) => {
                    let put = self.http.put(url).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
                    (put.body(value_form(value)), CHANGE)
                }
            };
            match send(endpoint, request, wait)? {
                (200 | 201, Some(answer)) => Ok((answer, 0)),
                (status, Some(answer)) => match answer["errorCode"].as_u64() {
                    // errors inside etcd: no leader, no quorum
                    Some(300..) | None => {
                        Err(Failure::Unable(format!("{endpoint} answered {status}: {}", message(&answer))))
                    }
                    Some(code) => Ok((answer, code)),
                },
                (404, None) => {
                    Err(Failure::Refused(format!("{endpoint} has no v2 keys (etcd 3.4 and later: --enable-v2)")))
                }
                (status, None) => Err(strange(endpoint, status)),
            }
        })
    }
}

/// A lease, which deletes its keys when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease(String);

/// A value as a URL-encoded form.
fn value_form(value: &str) -> String {
    form_urlencoded::Serializer::new(String::new()).append_pair("value", value).finish()
}

/// Sends one request; the answer is `None` if it isn't a JSON object.
fn send(endpoint: &Url, request: RequestBuilder, wait: Duration) -> Result<(u16, Option<Value>), Failure> {
    let failed = |why: &reqwest::Error| {
        let cause = net::Failure::of(origin(endpoint), why).error.to_string();
        if net::is_tls(why) { Failure::Unable(cause) } else { Failure::Silent(cause) }
    };
    let answer = request.timeout(wait).send().map_err(|why| failed(&why))?;
    let status = answer.status().as_u16();
    let mut body = Vec::new();
    let read = answer.take(LARGEST).read_to_end(&mut body);
    read.map_err(|why| Failure::Unable(format!("{}: {why}", origin(endpoint))))?;
    Ok((status, serde_json::from_slice(&body).ok().filter(Value::is_object)))
}

/// An endpoint, as it appears in messages.
fn origin(endpoint: &Url) -> String {
    endpoint.origin().ascii_serialization()
}

/// Interprets an answer of the v3 API.
fn judge(endpoint: &Url, status: u16, answer: Value) -> Result<Value, Failure> {
    /// Messages of etcd about the cluster and not about the request.
    const PASSING: [&str; 6] =
        ["timed out", "no leader", "leader changed", "server stopped", "too many requests", "leader transfer"];
    // gRPC codes: deadline exceeded, unavailable
    const PASSING_CODES: [u64; 2] = [4, 14];
    if (200..300).contains(&status) {
        return Ok(answer);
    }
    let why = message(&answer);
    let code = answer["code"].as_u64().unwrap_or(0);
    if PASSING_CODES.contains(&code) || PASSING.iter().any(|words| why.contains(words)) {
        return Err(Failure::Unable(format!("{}: {why}", origin(endpoint))));
    }
    Err(Failure::Refused(why))
}

/// The failure of a server that isn't etcd.
fn strange(endpoint: &Url, status: u16) -> Failure {
    Failure::Unable(format!("{} answered {status}, which is not an answer of etcd", origin(endpoint)))
}

/// etcd's message in an answer.
fn message(answer: &Value) -> String {
    let parts = ["error", "message", "cause"].iter().filter_map(|name| answer[*name].as_str());
    let mut parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    parts.dedup();
    let message = if parts.is_empty() { "no reason given".to_owned() } else { parts.join(": ") };
    one_line(&message).chars().take(TEXT).collect()
}

/// The first key in a v3 answer.
fn first_pair(answer: &Value) -> Result<Option<Pair>, Failure> {
    let Some(found) = answer["kvs"].get(0) else { return Ok(None) };
    let value = BASE64_STANDARD.decode(found["value"].as_str().unwrap_or_default()).ok();
    let revision = number(&found["mod_revision"]);
    match (value, revision) {
        (Some(value), Some(revision)) => Ok(Some(Pair { value, revision })),
        _ => Err(Failure::Unable("a key without a value or revision".to_owned())),
    }
}

/// The key in a v2 answer.
fn node(key: &str, answer: &Value) -> Result<Pair, Failure> {
    let node = &answer["node"];
    if node["dir"].as_bool() == Some(true) {
        return Err(Failure::Refused(format!("{key} is a directory")));
    }
    match (node["value"].as_str(), number(&node["modifiedIndex"])) {
        (Some(value), Some(revision)) => Ok(Pair { value: value.as_bytes().to_vec(), revision }),
        _ => Err(Failure::Unable("a key without a value or index".to_owned())),
    }
}

/// A number; the v3 API writes large ones as strings.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_can_t_serve_now_is_distinguished_from_one_that_refuses() {
        let endpoint = Url::parse("https://127.0.0.1:2379").unwrap();
        let answer = json!({ "error": "etcdserver: request timed out", "code": 2 });
        let why = "https://127.0.0.1:2379: etcdserver: request timed out".to_owned();
        assert_eq!(judge(&endpoint, 500, answer), Err(Failure::Unable(why)));
        let answer =
            json!({ "error": "etcdserver: member not found", "message": "etcdserver: member not found", "code": 5 });
        assert_eq!(judge(&endpoint, 404, answer), Err(Failure::Refused("etcdserver: member not found".to_owned())));
    }

    #[test]
    fn a_message_of_etcd_is_one_line_of_limited_length() {
        let endpoint = Url::parse("https://127.0.0.1:2379").unwrap();
        let answer = json!({ "error": format!("no\nh1: nothing to do\u{1b}{}", "x".repeat(LARGEST as usize)) });
        let Err(Failure::Refused(message)) = judge(&endpoint, 400, answer) else { panic!("it is no refusal") };
        assert!(message.starts_with("no\\nh1: nothing to do\\u{1b}xxx") && message.len() == TEXT, "{message:.400}");
    }

    #[test]
    fn a_value_with_any_character_is_sent_as_a_form() {
        assert_eq!(value_form("{\"a\": 1}+&é"), "value=%7B%22a%22%3A+1%7D%2B%26%C3%A9");
    }
}
