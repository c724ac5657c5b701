//! etcd, thin: keys of both its interfaces, leases and members, over HTTPS with client certificates.
//!
//! The third interface is gRPC; what is spoken here is the JSON that etcd itself translates into it.

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

/// How long to wait for a connection. Members of a cluster are near.
const CONNECT: Duration = Duration::from_secs(2);

/// How long to wait for the answer to a question.
const ASK: Duration = Duration::from_secs(3);

/// How long to wait for the answer to a change: longer than etcd itself waits for its members to agree (7 s).
const CHANGE: Duration = Duration::from_secs(8);

/// The most of an answer that is read.
const LARGEST: u64 = 4 * 1024 * 1024;

/// The most characters of what it says that are repeated.
const TEXT: usize = 300;

/// What paths of the third interface begin with: from 3.4 on, in 3.3 and 3.4, up to 3.3.
const PREFIXES: [&str; 3] = ["v3", "v3beta", "v3alpha"];

/// Where a cluster is, and how it is talked to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub struct Cluster {
    /// Client URLs of members, asked in turn until one answers.
    pub endpoints: Vec<Url>,
    /// PEM file with the only authorities that are trusted.
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

/// A key of a cluster, to be asked for again in a later run: nothing of its value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub struct KeyRevision {
    /// The cluster.
    pub cluster: Cluster,
    /// Which of its sets of keys.
    pub api: Api,
    /// The key.
    pub key: String,
}

/// Why there is no answer to go by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody took a connection, or said anything in time: there may be no cluster at all.
    Silent(String),
    /// Somebody is there, and can't be understood or can't serve now: TLS, no leader, no quorum.
    Unable(String),
    /// etcd's own answer that it won't.
    Refused(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Silent(why) | Self::Unable(why) | Self::Refused(why)) = self;
        f.write_str(why)
    }
}

impl From<crate::Error> for Failure {
    /// The certificates can't be read: that says nothing of the cluster.
    fn from(error: crate::Error) -> Self {
        Self::Unable(error.to_string())
    }
}

/// Which of etcd's two sets of keys is meant; they know nothing of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// The older one, with directories.
    V2,
    /// The newer one.
    #[default]
    V3,
}

/// What a key has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The value.
    pub value: Vec<u8>,
    /// When it was last set, as etcd counts; never 0.
    pub revision: u64,
}

/// A member of the cluster, as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Member {
    /// Its number.
    #[serde(rename = "ID")]
    pub id: String,
    /// Its name; empty for one that was added and has not started yet.
    pub name: String,
    /// Where the others reach it.
    #[serde(rename = "peerURLs")]
    pub peer_urls: Vec<String>,
    /// Where clients reach it; none until it has started.
    #[serde(rename = "clientURLs")]
    pub client_urls: Vec<String>,
}

impl Member {
    /// Whether it has ever been at work in the cluster.
    pub fn has_started(&self) -> bool {
        !self.client_urls.is_empty()
    }
}

/// Talks to one cluster.
pub struct Client {
    cluster: Cluster,
    loaded: LoadedOptions,
    http: Http,
    /// For each endpoint, which of [`PREFIXES`] it has, once that is known: while a cluster is upgraded they differ.
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
    /// A client with what [`Cluster::load`] read.
    pub fn new(cluster: &Cluster, loaded: LoadedOptions) -> Result<Self> {
        let http = net::direct(&loaded, CONNECT, ASK)?;
        let prefixes = RefCell::new(vec![None; cluster.endpoints.len()]);
        Ok(Self { cluster: cluster.clone(), loaded, http, prefixes, last: Cell::new(0) })
    }

    /// Whether it talks to this cluster, with this in the files.
    pub fn is_for(&self, cluster: &Cluster, loaded: &LoadedOptions) -> bool {
        self.cluster == *cluster && self.loaded == *loaded
    }

    /// What a key has, as one member knows it, who may lag behind: for a look in passing. `None` when it isn't there.
    pub fn peek(&self, api: Api, key: &str) -> Result<Option<Pair>, Failure> {
        self.read(api, key, false)
    }

    /// When a key was last set, as [`Client::peek`] tells; `None` when it isn't there.
    pub fn state(&self, standing: &KeyRevision) -> Result<Option<u64>, Failure> {
        Ok(self.peek(standing.api, &standing.key)?.map(|pair| pair.revision))
    }

    /// What a key has, as most members agree.
    pub fn get(&self, api: Api, key: &str) -> Result<Option<Pair>, Failure> {
        self.read(api, key, true)
    }

    fn read(&self, api: Api, key: &str, agreed: bool) -> Result<Option<Pair>, Failure> {
        match api {
            Api::V3 => {
                let body = json!({ "key": BASE64_STANDARD.encode(key), "serializable": !agreed });
                first_pair(&self.v3("kv/range", &body, ASK)?)
            }
            Api::V2 => {
                let query = [("quorum", if agreed { "true" } else { "false" })];
                match self.v2(key, &query, None)? {
                    (_, 100) => Ok(None),
                    (answer, 0) => node(key, &answer).map(Some),
                    (answer, _) => Err(Failure::Refused(said(&answer))),
                }
            }
        }
    }

    /// Gives a key a value, if it was last set at `was` (0: if it isn't there). Whether it did.
    pub fn swap(&self, api: Api, key: &str, was: u64, value: &[u8]) -> Result<bool, Failure> {
        match api {
            Api::V3 => self.swap_leased(key, was, value, None),
            Api::V2 => {
                let index = was.to_string();
                let condition = if was == 0 { ("prevExist", "false") } else { ("prevIndex", index.as_str()) };
                match self.v2(key, &[condition], Some(&String::from_utf8_lossy(value)))? {
                    // gone, set by somebody else, or there already
                    (_, 100 | 101 | 105) => Ok(false),
                    (_, 0) => Ok(true),
                    (answer, _) => Err(Failure::Refused(said(&answer))),
                }
            }
        }
    }

    /// [`Client::swap`] in the newer interface, with a lease that takes the key with it when it ends.
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

    /// Asks for a lease that ends after `ttl`, unless it is kept alive.
    pub fn grant(&self, ttl: Duration) -> Result<Lease, Failure> {
        let answer = self.v3("lease/grant", &json!({ "TTL": ttl.as_secs().max(1).to_string() }), CHANGE)?;
        number(&answer["ID"])
            .map(|id| Lease(id.to_string()))
            .ok_or_else(|| Failure::Unable("a lease without ID".into()))
    }

    /// Makes a lease last as long as at first, from now on.
    pub fn keep_alive(&self, lease: &Lease) -> Result<(), Failure> {
        self.v3("lease/keepalive", &json!({ "ID": lease.0 }), CHANGE).map(drop)
    }

    /// Ends a lease, and the keys that have it. One that has ended already is fine.
    pub fn revoke(&self, lease: &Lease) -> Result<(), Failure> {
        match self.v3("kv/lease/revoke", &json!({ "ID": lease.0 }), CHANGE) {
            Err(Failure::Refused(why)) if why.contains("lease not found") => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// The members, as one of them knows the cluster.
    pub fn members(&self) -> Result<Vec<Member>, Failure> {
        let answer = self.v3("cluster/member/list", &json!({}), ASK)?;
        let members: Vec<Member> =
            serde_json::from_value(answer["members"].clone()).map_err(|error| Failure::Unable(error.to_string()))?;
        // they stand in messages, and in a file with one thing a line
        let texts = members.iter().flat_map(|member| {
            [&member.id, &member.name].into_iter().chain(&member.peer_urls).chain(&member.client_urls)
        });
        let bad = { texts }.find(|text| text.len() > 1000 || one_line(text) != **text).map(|text| one_line(text));
        match bad {
            Some(bad) => Err(Failure::Unable(format!("etcd has a member that is called `{bad:.100}`"))),
            None => Ok(members),
        }
    }

    /// Adds a member that is still to start.
    pub fn add_member(&self, peer_url: &str) -> Result<(), Failure> {
        self.v3("cluster/member/add", &json!({ "peerURLs": [peer_url] }), CHANGE).map(drop)
    }

    /// Takes a member out, for good.
    pub fn remove_member(&self, member: &Member) -> Result<(), Failure> {
        self.v3("cluster/member/remove", &json!({ "ID": member.id }), CHANGE).map(drop)
    }

    /// Tells the cluster where a member is reached from now on.
    pub fn move_member(&self, member: &Member, peer_url: &str) -> Result<(), Failure> {
        self.v3("cluster/member/update", &json!({ "ID": member.id, "peerURLs": [peer_url] }), CHANGE).map(drop)
    }

    /// Asks one endpoint after the other, first the one that answered last.
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
        let why = if whys.is_empty() { "there is nobody to ask".to_owned() } else { whys.join("; ") };
        Err(if is_silent { Failure::Silent(why) } else { Failure::Unable(why) })
    }

    /// One request of the newer interface.
    fn v3(&self, path: &str, body: &Value, wait: Duration) -> Result<Value, Failure> {
        let body = body.to_string();
        self.each(|at, endpoint| {
            let known = self.prefixes.borrow()[at];
            // also the others: it may have been upgraded a moment ago
            for prefix in known.into_iter().chain(PREFIXES) {
                let url = below(endpoint, &format!("{prefix}/{path}"));
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

    /// One request of the older interface about a key: the answer, and etcd's number for what went wrong (0: nothing).
    fn v2(&self, key: &str, query: &[(&str, &str)], value: Option<&str>) -> Result<(Value, u64), Failure> {
        self.each(|_, endpoint| {
            let mut url =
                net::below(endpoint, ["v2", "keys"].into_iter().chain(key.split('/').filter(|part| !part.is_empty())))?;
            url.query_pairs_mut().extend_pairs(query);
            let (request, wait) = match value {
                None => (self.http.get(url), ASK),
                Some(value) => {
                    let form = header::HeaderValue::from_static("application/x-www-form-urlencoded");
                    (self.http.put(url).header(header::CONTENT_TYPE, form).body(value_form(value)), CHANGE)
                }
            };
            match send(endpoint, request, wait)? {
                (200 | 201, Some(answer)) => Ok((answer, 0)),
                (status, Some(answer)) => match answer["errorCode"].as_u64() {
                    // inside etcd: no leader, no quorum
                    Some(300..) | None => {
                        Err(Failure::Unable(format!("{endpoint} answered {status}: {}", said(&answer))))
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

/// A lease: what has one is gone when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease(String);

/// An address of an endpoint.
fn below(endpoint: &Url, path: &str) -> Url {
    let mut url = endpoint.clone();
    url.set_path(path);
    url
}

/// A value as a web form.
fn value_form(value: &str) -> String {
    form_urlencoded::Serializer::new(String::new()).append_pair("value", value).finish()
}

/// Sends one request; the answer is `None` when it isn't a JSON object.
fn send(endpoint: &Url, request: RequestBuilder, wait: Duration) -> Result<(u16, Option<Value>), Failure> {
    let failed = |why: &reqwest::Error| {
        let said = net::Failure::of(origin(endpoint), why).error.to_string();
        if net::is_tls(why) { Failure::Unable(said) } else { Failure::Silent(said) }
    };
    let answer = request.timeout(wait).send().map_err(|why| failed(&why))?;
    let status = answer.status().as_u16();
    let mut body = Vec::new();
    answer
        .take(LARGEST)
        .read_to_end(&mut body)
        .map_err(|why| Failure::Unable(format!("{}: {why}", origin(endpoint))))?;
    Ok((status, serde_json::from_slice(&body).ok().filter(Value::is_object)))
}

/// An endpoint, as it stands in messages.
fn origin(endpoint: &Url) -> String {
    endpoint.origin().ascii_serialization()
}

/// What an answer of the newer interface comes to.
fn judge(endpoint: &Url, status: u16, answer: Value) -> Result<Value, Failure> {
    /// What etcd says when it is the cluster that can't, and not the request that is wrong.
    const PASSING: [&str; 6] =
        ["timed out", "no leader", "leader changed", "server stopped", "too many requests", "leader transfer"];
    // codes of gRPC: too late, unavailable
    const PASSING_CODES: [u64; 2] = [4, 14];
    if (200..300).contains(&status) {
        return Ok(answer);
    }
    let why = said(&answer);
    let code = answer["code"].as_u64().unwrap_or(0);
    if PASSING_CODES.contains(&code) || PASSING.iter().any(|words| why.contains(words)) {
        return Err(Failure::Unable(format!("{}: {why}", origin(endpoint))));
    }
    Err(Failure::Refused(why))
}

/// The failure of somebody who doesn't speak like etcd.
fn strange(endpoint: &Url, status: u16) -> Failure {
    Failure::Unable(format!("{} answered {status}, not like etcd", origin(endpoint)))
}

/// etcd's words for what is wrong.
fn said(answer: &Value) -> String {
    let words = ["error", "message", "cause"].iter().filter_map(|name| answer[*name].as_str());
    let mut said: Vec<&str> = words.filter(|words| !words.is_empty()).collect();
    said.dedup();
    let said = if said.is_empty() { "no reason given".to_owned() } else { said.join(": ") };
    one_line(&said).chars().take(TEXT).collect()
}

/// The first key of an answer about keys.
fn first_pair(answer: &Value) -> Result<Option<Pair>, Failure> {
    let Some(found) = answer["kvs"].get(0) else { return Ok(None) };
    let value = BASE64_STANDARD.decode(found["value"].as_str().unwrap_or_default()).ok();
    let revision = number(&found["mod_revision"]);
    match (value, revision) {
        (Some(value), Some(revision)) => Ok(Some(Pair { value, revision })),
        _ => Err(Failure::Unable("a key without a value or revision".to_owned())),
    }
}

/// The key of an answer of the older interface.
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

/// A number; the newer interface writes large ones as texts.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_cannot_now_is_told_from_one_that_will_not() {
        let endpoint = Url::parse("https://127.0.0.1:2379").unwrap();
        let answer = json!({ "error": "etcdserver: request timed out", "code": 2 });
        let why = "https://127.0.0.1:2379: etcdserver: request timed out".to_owned();
        assert_eq!(judge(&endpoint, 500, answer), Err(Failure::Unable(why)));
        let answer =
            json!({ "error": "etcdserver: member not found", "message": "etcdserver: member not found", "code": 5 });
        assert_eq!(judge(&endpoint, 404, answer), Err(Failure::Refused("etcdserver: member not found".to_owned())));
    }

    #[test]
    fn what_etcd_says_writes_no_line_of_its_own_and_is_not_repeated_without_end() {
        let endpoint = Url::parse("https://127.0.0.1:2379").unwrap();
        let answer = json!({ "error": format!("no\nh1: nothing to do\u{1b}{}", "x".repeat(LARGEST as usize)) });
        let Err(Failure::Refused(said)) = judge(&endpoint, 400, answer) else { panic!("it is no refusal") };
        assert!(said.starts_with("no\\nh1: nothing to do\\u{1b}xxx") && said.len() == TEXT, "{said:.400}");
    }

    #[test]
    fn a_value_with_any_character_is_sent_as_a_form() {
        assert_eq!(value_form("{\"a\": 1}+&é"), "value=%7B%22a%22%3A+1%7D%2B%26%C3%A9");
    }
}
