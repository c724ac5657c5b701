//! `[[etcd_key]]`: a key in etcd with its value, such as the network configuration of flannel.

use std::time::Instant;

use crate::host::deadline;
use crate::host::etcd::{Api, Cluster, Failure, KeyRevision, Pair};
use crate::kind::prelude::*;
use crate::net;
use crate::secret::fits;

/// The pause between two tries.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);

/// Fields of `[[etcd_key]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EtcdKeyFields {
    /// The key.
    key: String,
    /// Its value.
    value: String,
    /// Which of etcd's two sets of keys it is in: `v2` or `v3`. Default: `v3`.
    #[serde(default)]
    api: Api,
    /// Client URLs of the cluster's members.
    endpoints: Vec<String>,
    /// PEM file with the authority of the members' certificates.
    ca: AbsolutePath,
    /// PEM file with a client certificate. Default: none.
    client_cert: Option<AbsolutePath>,
    /// PEM file with the key of `client_cert`.
    client_key: Option<AbsolutePath>,
    /// How long to wait until etcd answers, or until another host has set the key. Default: `60s`.
    within: Option<HumanDuration>,
    /// Names of the hosts that set the key. The other hosts wait for it. Default: every host that has this resource.
    writers: Option<Vec<String>>,
}

/// A client certificate, and its key.
type Identity = (Option<AbsolutePath>, Option<AbsolutePath>);

/// The cluster that the fields of a kind describe.
pub(super) fn cluster(build: &dyn Build, endpoints: &[String], ca: &AbsolutePath, client: Identity) -> Result<Cluster> {
    let client = client_pair(build, client)?.map(|(cert, key)| (cert.to_path_buf(), key.to_path_buf()));
    let endpoint = |text: &String| {
        let url = net::parse(text).map_err(|error| build.invalid("endpoints", &error.to_string()))?;
        let is_bad = url.scheme() != "https" || url.path() != "/";
        build.refuse_if(is_bad, "endpoints", &format!("write them like `https://HOST:2379`, and not `{text}`"))?;
        Ok(url)
    };
    let endpoints = endpoints.iter().map(endpoint).collect::<Result<_>>()?;
    Ok(Cluster { endpoints, ca: ca.to_path_buf(), client })
}

/// A client certificate with its key, if both fields are set; an error if only one is.
pub(super) fn client_pair(build: &dyn Build, (cert, key): Identity) -> Result<Option<(AbsolutePath, AbsolutePath)>> {
    build.refuse_if(cert.is_some() && key.is_none(), "client_cert", "set `client_key` too")?;
    build.refuse_if(key.is_some() && cert.is_none(), "client_key", "set `client_cert` too")?;
    Ok(cert.zip(key))
}

impl Fields for EtcdKeyFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        build.refuse_if(self.endpoints.is_empty(), "endpoints", "name one at least")?;
        build.refuse_if(self.key.is_empty() || self.key.contains('\0'), "key", "it must be a text")?;
        let is_path = self.key.starts_with('/') && !self.key.ends_with('/') && !self.key.contains("//");
        let why = "with `api = \"v2\"`, it is a path, like `/kubernetes/network/config`";
        build.refuse_if(self.api == Api::V2 && !is_path, "key", why)?;
        Ok(vec![Box::new(EtcdKey {
            cluster: cluster(build, &self.endpoints, &self.ca, (self.client_cert, self.client_key))?,
            key: self.key,
            value: self.value,
            api: self.api,
            within: self.within.map_or(Duration::from_secs(60), |duration| duration.0),
            sensitive: build.is_secret(),
            writers: self.writers.filter(|names| !names.iter().any(|name| name == build.host())),
        })])
    }
}

/// A key with its value.
#[derive(Debug)]
pub struct EtcdKey {
    cluster: Cluster,
    key: String,
    value: String,
    api: Api,
    within: Duration,
    sensitive: bool,
    /// The hosts that set it, if this one does not.
    pub writers: Option<Vec<String>>,
}

impl EtcdKey {
    fn holds(&self, pair: Option<&Pair>) -> bool {
        pair.is_some_and(|pair| pair.value == self.value.as_bytes())
    }

    /// Sets it unless it has its value. Returns whether it has now: if another host changed it first, it is compared
    /// again.
    fn set(&self, work: &Work<'_>) -> Result<bool, Failure> {
        let client = work.host.etcd(&self.cluster)?;
        let pair = client.get(self.api, &self.key)?;
        let was = pair.as_ref().map_or(0, |pair| pair.revision);
        Ok(self.holds(pair.as_ref()) || client.swap(self.api, &self.key, was, self.value.as_bytes())?)
    }

    fn is_awaited(&self) -> bool {
        self.writers.is_some()
    }

    fn refused(&self, why: &str) -> Error {
        error!(ETCD, "etcd refuses to handle the key {}", self.key)
            .because(why)
            .help("compare `key`, `api` and the rights of the client certificate with the cluster")
    }
}

impl Resource for EtcdKey {
    fn about(&self) -> About {
        // a resource that waits for other hosts comes last
        let phase = if self.is_awaited() { Phase::Probes } else { Phase::Units };
        About { is_gate: self.is_awaited(), is_discreet: true, ..About::new(EtcdKeyFields::NAME, &self.key, phase) }
    }

    fn wait(&self, work: &Work<'_>) -> Result<(), String> {
        let ask = || {
            let client = work.host.etcd(&self.cluster).map_err(Failure::from)?;
            let found = client.peek(self.api, &self.key)?;
            found.map(drop).ok_or_else(|| Failure::Unable("etcd does not have it yet".to_owned()))
        };
        deadline::retry(self.within, PAUSE, ask).map_err(|why| {
            let writers = self.writers.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(", ");
            format!("{why}; {writers} must set it")
        })
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        let key =
            || WatchedInput::Key(KeyRevision { cluster: self.cluster.clone(), api: self.api, key: self.key.clone() });
        Ok(Some((work.host.is_live() && !self.is_awaited()).then(key).into_iter().collect()))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        if !work.host.is_live() || self.is_awaited() {
            return Ok(None);
        }
        let asked = work.host.etcd(&self.cluster).map_err(Failure::from);
        match asked.and_then(|client| client.peek(self.api, &self.key)) {
            Ok(pair) if self.holds(pair.as_ref()) => Ok(None),
            Ok(pair) => {
                let is_new = pair.is_none();
                let old = pair.map(|pair| pair.value).unwrap_or_default();
                let only_secrets = !is_new && fits(self.value.as_bytes(), &old);
                let diff = Diff::of(old, self.value.as_bytes(), self.sensitive);
                Ok(Some(Change { diff, only_secrets, ..Change::new("set").added_if(is_new) }))
            }
            Err(Failure::Refused(why)) => Err(self.refused(&why)),
            // on a new host, the same run may install etcd or its certificates
            Err(_) => Ok(Some(Change::new("set (etcd does not answer yet)"))),
        }
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let started = Instant::now();
        loop {
            let why = match self.set(work) {
                Ok(true) => return Ok(()),
                Ok(false) => "other hosts repeatedly set it to another value".to_owned(),
                Err(Failure::Refused(why)) => return Err(self.refused(&why)),
                Err(Failure::Silent(why) | Failure::Unable(why)) => why,
            };
            if started.elapsed() >= self.within || deadline::is_over() {
                return Err(error!(ETCD, "the key {} can't be set: etcd does not answer", self.key).because(why).help(
                    "is etcd up on most of its members (`systemctl status etcd`), and are `endpoints` and the \
                         certificates right? The next run tries again",
                ));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kind::Phase;
    use crate::kind::testing::{Tree, one, one_secret, refusal};

    const REST: &str = "value = 'v'\nca = '/ca'\n";

    #[test]
    fn a_mistake_is_refused_with_its_field() {
        for (fields, why) in [
            ("key = 'k'\nendpoints = []", "`endpoints`: name one at least"),
            ("key = ''\nendpoints = ['https://a:1']", "`key`: it must be a text"),
            (
                "key = 'k'\napi = 'v2'\nendpoints = ['https://a:1']",
                "`key`: with `api = \"v2\"`, it is a path, like `/kubernetes/network/config`",
            ),
            (
                "key = 'k'\nendpoints = ['http://a:1']",
                "`endpoints`: write them like `https://HOST:2379`, and not `http://a:1`",
            ),
            ("key = 'k'\nendpoints = ['https://a:1']\nclient_cert = '/c'", "`client_cert`: set `client_key` too"),
        ] {
            assert_eq!(refusal("etcd_key", &format!("{fields}\n{REST}")), why);
        }
    }

    #[test]
    fn a_tree_has_no_etcd_to_ask() {
        let tree = Tree::new();
        assert_eq!(
            tree.summary(&*one("etcd_key", &format!("key = 'k'\nendpoints = ['https://127.0.0.1:1']\n{REST}"))),
            None
        );
    }

    #[test]
    fn only_a_writer_sets_it_and_the_others_wait_for_it_after_all_that_need_not_wait() {
        let of = |writers: &str| {
            let key = one("etcd_key", &format!("key = 'k'\nendpoints = ['https://127.0.0.1:1']\n{REST}{writers}"));
            (key.about().phase, key.about().is_gate)
        };
        assert_eq!(of(""), (Phase::Units, false));
        assert_eq!(of("writers = ['h0', 'h1']"), (Phase::Units, false), "the tests' host is h1");
        assert_eq!(of("writers = ['h2']"), (Phase::Probes, true));
        assert_eq!(of("writers = []"), (Phase::Probes, true));
    }

    #[test]
    fn a_secret_value_shows_that_it_is_set_and_no_more() {
        let key = one_secret("etcd_key", &format!("key = 'k'\nendpoints = ['https://127.0.0.1:1']\n{REST}"));
        assert!(key.about().is_discreet);
    }
}
