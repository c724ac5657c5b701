//! `[[kube_object]]`: objects of a Kubernetes cluster, applied by kubectl when they differ.

mod compare;
mod manifest;

use std::borrow::Cow;
use std::rc::Rc;
use std::time::{Duration, Instant};

use reqwest::Url;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::document::fields::{AbsolutePath, HumanDuration};
use crate::error::{Context, Error, Exit, Result, code, mask};
use crate::host::kube::{Access, Answer, Kube, Name};
use crate::host::process::{Command, Ended, argv, run};
use crate::kind::diff::Diff;
use crate::kind::{About, Build, Change, Claim, Fields, Phase, Resource, WatchedInput, Work};
use crate::secret::fits;
use crate::text::shortened;
use compare::{Difference, differences};

/// How long kubectl may take.
const KUBECTL: Duration = Duration::from_secs(60);

/// The pause between two looks at what is not ready yet.
const PAUSE: Duration = Duration::from_millis(500);

/// Fields of `[[kube_object]]`. Exactly one of `content` and `template` is set.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KubeObjectFields {
    /// The objects as YAML or JSON, with `---` between several; each is a resource of its own.
    content: Option<String>,
    /// The name of a file in the role's `templates/` with the objects.
    template: Option<String>,
    /// The `https://` address of the API server.
    server: String,
    /// File with the only authorities that the API server's certificate may be from (PEM).
    ca: AbsolutePath,
    /// File with the client certificate to ask and apply with (PEM).
    client_cert: AbsolutePath,
    /// File with the key of `client_cert` (PEM).
    client_key: AbsolutePath,
    /// The program; `kubectl`, from the usual places, when left out.
    kubectl: Option<String>,
    /// How long to wait for an API server that doesn't answer, for a kind or a namespace that isn't there, and for an
    /// object that is being deleted; `60s` when left out.
    within: Option<HumanDuration>,
    /// Whether the objects are to be gone rather than there.
    #[serde(default)]
    absent: bool,
}

impl Fields for KubeObjectFields {
    const NAME: &'static str = "kube_object";

    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let (field, what, text) = match (self.content, &self.template) {
            (Some(text), None) => ("content", String::new(), text),
            (None, Some(name)) => ("template", format!("templates/{name}, rendered: "), build.template(name)?),
            (None, None) => return Err(build.invalid("server", "set `content` or `template`")),
            (Some(_), Some(_)) => return Err(build.invalid("template", "set `content` or `template`, not both")),
        };
        let server = Url::parse(&self.server).map_err(|error| build.invalid("server", &error.to_string()))?;
        if server.scheme() != "https" {
            return Err(build.invalid("server", "it has to start with `https://`"));
        }
        if !server.username().is_empty() || server.password().is_some() || server.query().is_some() {
            return Err(build.invalid("server", "no credentials here: they are in `client_cert` and `client_key`"));
        }
        let kubectl = self.kubectl.unwrap_or_else(|| "kubectl".to_owned());
        if kubectl.is_empty() || kubectl.contains('\0') || kubectl.contains('/') && !kubectl.starts_with('/') {
            return Err(build.invalid("kubectl", "write its name, or its whole path"));
        }
        let is_secret = build.is_secret();
        let manifests =
            manifest::read(&text, is_secret).map_err(|why| build.invalid(field, &format!("{what}{why}")))?;
        let access = Access {
            server,
            ca: self.ca.to_path_buf(),
            cert: self.client_cert.to_path_buf(),
            key: self.client_key.to_path_buf(),
        };
        Ok(manifests
            .into_iter()
            .map(|manifest| -> Box<dyn Resource> {
                Box::new(KubeObject {
                    sensitive: is_secret || manifest.name.kind == "Secret",
                    name: manifest.name,
                    wanted: manifest.content,
                    access: access.clone(),
                    kubectl: kubectl.clone(),
                    within: self.within.map_or(Duration::from_secs(60), |span| span.0),
                    absent: self.absent,
                })
            })
            .collect())
    }
}

/// One object.
#[derive(Debug)]
pub struct KubeObject {
    name: Name,
    wanted: Value,
    access: Access,
    kubectl: String,
    within: Duration,
    absent: bool,
    /// Whether nothing of its content may be shown.
    sensitive: bool,
}

impl KubeObject {
    /// What whoever may look at objects of this kind sees of it: of a Secret, everything but its data.
    pub fn public(&self) -> Value {
        let mut seen = self.wanted.clone();
        if let Some(object) = seen.as_object_mut().filter(|_| self.name.kind == "Secret") {
            object.remove("data");
            object.remove("stringData");
        }
        seen
    }
}

/// How an object is.
#[derive(Debug)]
enum ObjectState {
    /// As it should be.
    Well,
    /// Not there, and it should be.
    Missing,
    /// There, and it should not be.
    Unwanted,
    /// There, and not as it should be: in what, and the whole of it.
    Differs(Vec<Difference>, Value),
    /// Nothing can be done about it now.
    Later(Later),
}

/// What was done about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ObjectChange {
    Nothing,
    /// It was applied, or deleted.
    Written,
    /// What was still different then was patched.
    Patched,
}

/// What has to come first.
#[derive(Debug)]
enum Later {
    /// The API server has to answer; why it does not.
    Answer(String),
    /// Its kind has to be there.
    Kind,
    /// Its namespace has to be there.
    Namespace(String),
    /// Its predecessor has to be gone.
    Deletion,
}

impl KubeObject {
    /// `Kind/namespace/name`, with the namespace that it has when none is given.
    fn path(&self, default: Option<&str>) -> String {
        let namespace = self.name.namespace.as_deref().or(default);
        [Some(self.name.kind.as_str()), namespace, Some(&self.name.name)]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("/")
    }

    /// Looks at the object.
    fn look(&self, kube: &Kube) -> Result<ObjectState> {
        Ok(match kube.get(&self.name)? {
            Answer::Silent(why) => ObjectState::Later(Later::Answer(why)),
            Answer::UnknownKind if self.absent => ObjectState::Well,
            Answer::UnknownKind => ObjectState::Later(Later::Kind),
            Answer::Missing { .. } if self.absent => ObjectState::Well,
            Answer::Missing { namespace } => self.state_of_namespace(kube, namespace)?,
            Answer::Found { object, namespaced } => {
                let is_going = object.pointer("/metadata/deletionTimestamp").is_some();
                match (self.absent, is_going) {
                    (true, true) => ObjectState::Well,
                    (true, false) => ObjectState::Unwanted,
                    (false, true) => ObjectState::Later(Later::Deletion),
                    (false, false) => match self.differences(&object, namespaced) {
                        found if found.is_empty() => ObjectState::Well,
                        found => ObjectState::Differs(found, object),
                    },
                }
            }
        })
    }

    fn differences(&self, live: &Value, namespaced: bool) -> Vec<Difference> {
        let mut found = differences(&self.wanted, live);
        // the API server drops the namespace of what can't have one
        found.retain(|difference| namespaced || difference.path != "metadata.namespace");
        found
    }

    /// Whether an object that is missing could be made.
    fn state_of_namespace(&self, kube: &Kube, namespace: Option<String>) -> Result<ObjectState> {
        let Some(name) = namespace else { return Ok(ObjectState::Missing) };
        let asked = Name { api_version: "v1".into(), kind: "Namespace".into(), namespace: None, name: name.clone() };
        Ok(match kube.get(&asked)? {
            Answer::Silent(why) => ObjectState::Later(Later::Answer(why)),
            Answer::Found { .. } => ObjectState::Missing,
            Answer::Missing { .. } | Answer::UnknownKind => ObjectState::Later(Later::Namespace(name)),
        })
    }

    /// Makes the object what it should be. False when the API server went away in between.
    #[expect(
        clippy::disallowed_methods,
        reason = "a directory with a name that nobody knows, where others can't remove it"
    )]
    fn write(&self, kube: &Kube) -> Result<bool> {
        if self.absent {
            return Ok(!matches!(kube.delete(&self.name)?, Answer::Silent(_)));
        }
        // where kubectl may keep what it likes to keep
        let home = tempfile::tempdir().context(code::KUBE, || "can't make a directory for kubectl".to_owned())?;
        let env = [("HOME".to_owned(), home.path().display().to_string())];
        let flag = |name: &str, value: &dyn std::fmt::Display| format!("--{name}={value}");
        let argv = argv([
            self.kubectl.as_str(),
            // an empty one, so that nobody's is used
            "--kubeconfig=/dev/null",
            &flag("server", &self.access.server),
            &flag("certificate-authority", &self.access.ca.display()),
            &flag("client-certificate", &self.access.cert.display()),
            &flag("client-key", &self.access.key.display()),
            "apply",
            "-f",
            "-",
        ]);
        let input = self.wanted.to_string();
        let command = Command::new(&argv, KUBECTL);
        let output = run(&Command { env: &env, input: Some(input.as_bytes()), ..command })?;
        if output.is_success() {
            return Ok(true);
        }
        if matches!(self.look(kube)?, ObjectState::Later(Later::Answer(_))) {
            return Ok(false);
        }
        let what = format!("kubectl can't apply {}", self.path(None));
        let error = match self.sensitive {
            true => Error::new(code::KUBE, what)
                .because(format!("{} (its output is not shown: it is sensitive)", output.verdict())),
            false => output.failure(what),
        };
        Err(match output.ended {
            Ended::TimedOut(_) => error.help("look at the API server and its admission plugins"),
            Ended::Exited(_) => {
                error.help("correct the object in the role; a field that can't be changed needs a new object")
            }
        })
    }

    /// The error that something that has to come first did not come.
    fn too_late(&self, later: Later) -> Error {
        let key = self.path(None);
        match later {
            Later::Answer(why) => Error::new(code::KUBE, format!("{key} can't be applied"))
                .because(format!("{why} (waited for {:?})", self.within))
                .exit(Exit::Unhealthy)
                .help("look at the API server's unit, `server`, and the certificates; the next run tries again"),
            Later::Kind => {
                let Name { api_version, kind, .. } = &self.name;
                Error::new(
                    code::KUBE,
                    format!("{key} can't be applied: the API server knows no {kind} in {api_version}"),
                )
                .help("correct `apiVersion` and `kind`; a CustomResourceDefinition has to come before its objects")
            }
            Later::Namespace(name) => {
                Error::new(code::KUBE, format!("{key} can't be applied: there is no namespace {name}"))
                    .help(format!("put the Namespace {name} before it"))
            }
            Later::Deletion => {
                Error::new(code::KUBE, format!("{key} can't be applied: an older one is still being deleted"))
                    .help("see what its finalizers wait for; the next run tries again")
            }
        }
    }

    /// The error that the API server has something else than it was given.
    fn kept(&self, found: &[Difference]) -> Error {
        const SHOWN: usize = 5;
        let shown = |value: &Value| shortened(&mask::hide(&value.to_string()), 200);
        let tell = |difference: &Difference| match (self.sensitive, &difference.wanted, &difference.live) {
            (true, ..) => difference.path.clone(),
            (false, wanted, live) => {
                let text = |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), shown);
                format!("{}: {} in the role, {} there", difference.path, text(wanted), text(live))
            }
        };
        let mut told: Vec<String> = found.iter().take(SHOWN).map(tell).collect();
        if found.len() > SHOWN {
            told.push(format!("and {} more", found.len() - SHOWN));
        }
        Error::new(
            code::KUBE,
            format!("the API server reads {} in another way than the role writes it", self.path(None)),
        )
        .because(told.join("\n"))
        .help(
            "write it in the role as it reads there, and leave out what is not there; or see whether somebody else \
                 changes the object",
        )
    }
}

impl Resource for KubeObject {
    fn about(&self) -> About {
        let namespace = self.name.namespace.iter().filter(|_| !self.absent);
        About {
            claims: vec![Claim::thing(KubeObjectFields::NAME, self.path(Some("default")))],
            after: namespace.map(|name| format!("{}:Namespace/{name}", KubeObjectFields::NAME)).collect(),
            is_discreet: true,
            ..About::new(KubeObjectFields::NAME, self.path(None), Phase::Units)
        }
    }

    fn content(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Owned(compare::all(&self.wanted).into_bytes()))
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        if !work.host.is_live() {
            return Ok(Some(Vec::new()));
        }
        let Ok(kube) = work.host.kube(&self.access)? else { return Ok(None) };
        Ok(kube.standing(&self.name)?.map(|standing| vec![WatchedInput::Object(standing)]))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        const SILENT: &str = "apply (the API server does not answer yet)";
        if !work.host.is_live() {
            return Ok(None);
        }
        let Ok(kube) = work.host.kube(&self.access)? else { return Ok(Some(Change::new(SILENT))) };
        let with_diff = |change: Change, old: &str, new: &str| Change {
            diff: Diff::of(old.as_bytes(), new.as_bytes(), self.sensitive),
            ..change
        };
        Ok(match self.look(&kube)? {
            ObjectState::Well => None,
            ObjectState::Unwanted => Some(Change::removal("delete")),
            ObjectState::Later(Later::Answer(_)) => Some(Change::new(SILENT)),
            ObjectState::Later(Later::Deletion) => Some(Change::new("create again (it is being deleted)")),
            ObjectState::Missing | ObjectState::Later(Later::Kind | Later::Namespace(_)) => {
                Some(with_diff(Change::addition("create"), "", &compare::all(&self.wanted)))
            }
            ObjectState::Differs(found, _) => {
                let (live, wanted) = compare::both(&found);
                let only_secrets = fits(wanted.as_bytes(), live.as_bytes());
                Some(with_diff(Change { only_secrets, ..Change::new("change") }, &live, &wanted))
            }
        })
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        if !work.host.is_live() {
            return Ok(());
        }
        let started = Instant::now();
        let mut done = ObjectChange::Nothing;
        loop {
            let kube: Result<Rc<Kube>, String> = work.host.kube(&self.access)?;
            let state = match &kube {
                Ok(kube) => {
                    kube.insist();
                    self.look(kube)?
                }
                Err(why) => ObjectState::Later(Later::Answer(why.clone())),
            };
            match (state, kube) {
                (ObjectState::Well, _) => return Ok(()),
                (ObjectState::Later(later), _) if started.elapsed().saturating_add(PAUSE) > self.within => {
                    return Err(self.too_late(later));
                }
                (ObjectState::Differs(found, _), _) if done == ObjectChange::Patched => return Err(self.kept(&found)),
                // kubectl mixes up entries of a list with the same port and another protocol, as every DNS has them
                (ObjectState::Differs(found, live), Ok(kube)) if done == ObjectChange::Written => {
                    match kube.merge(&self.name, &compare::patch(&self.wanted, &live)) {
                        Ok(Answer::Silent(_)) => {}
                        Ok(_) => done = ObjectChange::Patched,
                        Err(_) => return Err(self.kept(&found)),
                    }
                }
                (ObjectState::Missing | ObjectState::Unwanted, _) if done > ObjectChange::Nothing => {
                    let how = if self.absent { "deleted, and is there again" } else { "applied, and is gone again" };
                    return Err(Error::new(code::KUBE, format!("{} was {how}", self.path(None)))
                        .help("see who else decides about it: an addon manager, an operator, another host"));
                }
                (ObjectState::Missing | ObjectState::Unwanted | ObjectState::Differs(..), Ok(kube)) => {
                    if self.write(&kube)? {
                        done = ObjectChange::Written;
                    }
                }
                (ObjectState::Later(_), _) | (_, Err(_)) => std::thread::sleep(PAUSE),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;
    use crate::host::Host;
    use crate::kind::testing::{RoleFiles, Tree, build, build_with, fails, one, one_secret, refusal};
    use crate::net::testing::{Answer, Authority, Received, Server};
    use crate::store::Store;

    /// A stand-in for a cluster: an API server that knows four kinds, keeps its objects as files and answers nothing
    /// that kpull should not ask; and a kubectl that does nothing but write the object that it is given.
    struct StandIn {
        dir: tempfile::TempDir,
        authority: Authority,
        server: Server,
        host: Host,
        store: Store,
    }

    /// Where the stand-in keeps the object at `path`.
    fn file(dir: &std::path::Path, path: &str) -> PathBuf {
        dir.join(path.replace('/', "+"))
    }

    fn answer(dir: &std::path::Path, seen: &Received) -> Answer {
        let json =
            |status, value: Value| Answer::new(status, value.to_string()).with("Content-Type", "application/json");
        let sort = |name: &str, kind: &str, namespaced: bool| json!({"name": name, "kind": kind, "namespaced": namespaced, "verbs": ["get"]});
        if let Ok(status) = std::fs::read_to_string(dir.join("status")) {
            return json(status.parse().unwrap(), json!({"kind": "Status", "message": "because the stand-in says so"}));
        }
        let path = file(dir, &seen.path);
        match (seen.method.as_str(), seen.path.as_str()) {
            ("GET", "/api/v1") => json(
                200,
                json!({"kind": "APIResourceList", "resources": [
                sort("namespaces", "Namespace", false), sort("configmaps", "ConfigMap", true), sort("secrets", "Secret", true)]}),
            ),
            ("GET", "/apis/apps/v1") if dir.join("apps").exists() => json(
                200,
                json!({"kind": "APIResourceList", "resources": [
                sort("deployments/scale", "Deployment", false), sort("deployments", "Deployment", true)]}),
            ),
            ("GET", "/apis/apps/v1") => json(404, json!({"kind": "Status"})),
            ("GET", _) => match std::fs::read_to_string(path) {
                Ok(object) => Answer::new(200, object),
                Err(_) => json(404, json!({"kind": "Status", "reason": "NotFound"})),
            },
            ("PATCH", _) if dir.join("patches").exists() => {
                assert_eq!(seen.header("content-type"), Some("application/merge-patch+json"));
                let mut object = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
                merge(&mut object, &serde_json::from_slice(&seen.body).unwrap());
                std::fs::write(path, object.to_string()).unwrap();
                json(200, object)
            }
            ("DELETE", _) => {
                let body: Value = serde_json::from_slice(&seen.body).unwrap();
                assert_eq!(
                    (&body["kind"], &body["propagationPolicy"]),
                    (&json!("DeleteOptions"), &json!("Background"))
                );
                std::fs::remove_file(path).unwrap();
                json(200, json!({"kind": "Status"}))
            }
            _ => json(400, json!({"kind": "Status"})),
        }
    }

    fn merge(object: &mut Value, patch: &Value) {
        match (object, patch) {
            (Value::Object(object), Value::Object(patch)) => {
                for (key, value) in patch {
                    merge(object.entry(key).or_insert(Value::Null), value);
                }
            }
            (object, patch) => *object = patch.clone(),
        }
    }

    impl StandIn {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let authority = Authority::new();
            let kept = dir.path().to_owned();
            let server =
                Server::secure(authority.server("127.0.0.1", Some(&authority)), move |seen| answer(&kept, seen));
            let this = Self {
                host: Host::open("/".as_ref()).unwrap(),
                store: Store::open(dir.path()).unwrap(),
                dir,
                authority,
                server,
            };
            this.put("/api/v1/namespaces/default", &json!({"kind": "Namespace"}));
            this
        }

        fn work(&self) -> Work<'_> {
            Work { host: &self.host, store: &self.store, catalog: &[] }
        }

        fn put(&self, path: &str, object: &Value) {
            std::fs::write(file(self.dir.path(), path), object.to_string()).unwrap();
        }

        fn get(&self, path: &str) -> Option<Value> {
            serde_json::from_str(&std::fs::read_to_string(file(self.dir.path(), path)).ok()?).unwrap()
        }

        /// From now on everything is answered with this status.
        fn status(&self, status: u16) {
            std::fs::write(self.dir.path().join("status"), status.to_string()).unwrap();
        }

        /// A kubectl that runs `script` when it is called as it should be.
        fn kubectl(&self, script: &str) -> String {
            let (cert, key) = self.certificate();
            let flags = format!(
                "--kubeconfig=/dev/null --server={} --certificate-authority={} --client-certificate={cert} --client-key={key} apply -f -",
                self.server.url(""),
                self.authority.file().display()
            );
            let path = self.dir.path().join("kubectl");
            let text = format!(
                "#!/bin/sh\n[ \"$*\" = '{flags}' ] && [ -d \"$HOME\" ] || {{ echo \"$HOME $*\" >&2; exit 9; }}\n{script}\n"
            );
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path.display().to_string()
        }

        fn certificate(&self) -> (String, String) {
            let file = |end: &str| self.authority.file().with_file_name(format!("admin.{end}")).display().to_string();
            if !PathBuf::from(file("pem")).exists() {
                self.authority.issue("admin");
            }
            (file("pem"), file("key"))
        }

        /// Fields for `content`, with a kubectl that writes what it is given to `path`.
        fn fields(&self, path: &str, content: &Value, more: &str) -> String {
            let kubectl = self.kubectl(&format!("exec cat >'{}'", file(self.dir.path(), path).display()));
            self.fields_with(&kubectl, content, more)
        }

        fn fields_with(&self, kubectl: &str, content: &Value, more: &str) -> String {
            let (cert, key) = self.certificate();
            format!(
                "server = '{}'\nca = '{}'\nclient_cert = '{cert}'\nclient_key = '{key}'\nkubectl = '{kubectl}'\ncontent = '{content}'\n{more}",
                self.server.url(""),
                self.authority.file().display()
            )
        }
    }

    const MAP: &str = "/api/v1/namespaces/default/configmaps/a";

    fn map(value: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": value}})
    }

    #[test]
    fn an_object_that_is_missing_is_created_and_then_left_alone() {
        let cluster = StandIn::new();
        let object = one("kube_object", &cluster.fields(MAP, &map("1"), ""));
        assert_eq!(object.about().key, "ConfigMap/a");
        let change = object.observe(&cluster.work()).unwrap().unwrap();
        assert_eq!(change.summary, "create");
        assert!(change.diff.unwrap().to_string().contains("+data.x: \"1\"\n"));
        object.apply(&cluster.work(), &Change::default()).unwrap();
        assert_eq!(cluster.get(MAP), Some(map("1")));
        assert!(object.observe(&cluster.work()).unwrap().is_none());
    }

    #[test]
    fn what_differs_is_shown_and_put_right_and_nothing_else_is_asked_twice() {
        let cluster = StandIn::new();
        cluster.put(MAP, &map("2"));
        let object = one("kube_object", &cluster.fields(MAP, &map("1"), ""));
        let change = object.observe(&cluster.work()).unwrap().unwrap();
        assert_eq!(change.summary, "change");
        assert_eq!(change.diff.as_ref().unwrap().to_string(), "@@ -1 +1 @@\n-data.x: \"2\"\n+data.x: \"1\"\n");
        object.apply(&cluster.work(), &change).unwrap();
        assert_eq!(cluster.get(MAP), Some(map("1")));
        let asked: Vec<String> = cluster.server.seen().into_iter().map(|seen| seen.path).collect();
        assert_eq!(asked, ["/api/v1", MAP, MAP, MAP]);
    }

    #[test]
    fn whoever_changes_an_object_changes_its_trace_which_has_nothing_of_its_content() {
        let cluster = StandIn::new();
        let version = |version: &str, value: &str| {
            let mut object = map(value);
            object["metadata"] = json!({"name": "a", "uid": "u", "resourceVersion": version});
            object
        };
        cluster.put(MAP, &version("7", "hunter2"));
        let object = one("kube_object", &cluster.fields(MAP, &map("hunter2"), ""));
        let trace = object.watched_inputs(&cluster.work()).unwrap().unwrap().remove(0);
        let kept = serde_json::to_string(&trace).unwrap();
        assert!(!kept.contains("hunter2"), "{kept}");
        // another run asks by what was kept, and for nothing else
        let trace: WatchedInput = serde_json::from_str(&kept).unwrap();
        let before = cluster.server.seen().len();
        let seen = || Host::open("/".as_ref()).unwrap().seen(&trace);
        let sealed = seen().unwrap();
        assert_eq!(sealed.clone().unwrap().text.unwrap(), b"u 7");
        assert_eq!(cluster.server.seen()[before..].iter().map(|seen| &seen.path).collect::<Vec<_>>(), [MAP]);
        cluster.put(MAP, &version("8", "hunter3"));
        assert_ne!(seen().unwrap(), sealed);
        std::fs::remove_file(file(cluster.dir.path(), MAP)).unwrap();
        assert_eq!(seen().unwrap(), None);
        cluster.status(500);
        let error = seen().unwrap_err();
        assert!(error.to_string().contains("500"), "who does not answer tells nothing: {error}");
    }

    #[test]
    fn an_object_that_is_well_by_its_turn_is_not_applied() {
        let cluster = StandIn::new();
        let object = one("kube_object", &cluster.fields_with("/no/such/kubectl", &map("1"), ""));
        assert!(object.observe(&cluster.work()).unwrap().is_some());
        cluster.put(MAP, &map("1"));
        object.apply(&cluster.work(), &Change::default()).unwrap();
    }

    #[test]
    fn nothing_of_a_secret_is_shown() {
        let cluster = StandIn::new();
        let path = "/api/v1/namespaces/default/secrets/a";
        let secret = |value: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "data": {"x": value}});
        let kubectl = cluster.kubectl("cat >&2; exit 1");
        cluster.put(path, &secret("old-hunter2"));
        let plain = one("kube_object", &cluster.fields_with(&kubectl, &secret("hunter2"), ""));
        let marked = one_secret("kube_object", &cluster.fields_with(&kubectl, &map("hunter2"), ""));
        for object in [&plain, &marked] {
            let change = object.observe(&cluster.work()).unwrap().unwrap();
            let error = object.apply(&cluster.work(), &change).unwrap_err();
            assert!(error.to_string().contains("its output is not shown"), "{error}");
            assert!(!format!("{change:?}{error:?}").contains("hunter2"), "{change:?} {error:?}");
        }
        let kubectl = cluster.kubectl("cat >/dev/null");
        let error = one("kube_object", &cluster.fields_with(&kubectl, &secret("hunter2"), ""))
            .apply(&cluster.work(), &Change::default())
            .unwrap_err();
        assert!(error.to_string().ends_with("than the role writes it: data.x"), "{error}");
    }

    #[test]
    fn what_kubectl_says_when_it_fails_is_told() {
        let cluster = StandIn::new();
        let kubectl = cluster.kubectl("echo 'the field is immutable' >&2; exit 1");
        let object = one("kube_object", &cluster.fields_with(&kubectl, &map("1"), ""));
        let error = object.apply(&cluster.work(), &Change::default()).unwrap_err();
        assert_eq!(error.to_string(), "kubectl can't apply ConfigMap/a: exit status: 1\nthe field is immutable");
    }

    #[test]
    fn what_the_api_server_writes_differently_is_told_field_by_field() {
        let cluster = StandIn::new();
        let path = file(cluster.dir.path(), MAP);
        let kubectl = cluster.kubectl(&format!("sed 's/\"1\"/\"one\"/; s/,\"y\":false//' >'{}'", path.display()));
        let mut wanted = map("1");
        wanted["data"]["y"] = json!(false);
        let object = one("kube_object", &cluster.fields_with(&kubectl, &wanted, ""));
        let error = object.apply(&cluster.work(), &Change::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the API server reads ConfigMap/a in another way than the role writes it: \
             data.x: \"1\" in the role, \"one\" there\ndata.y: false in the role, nothing there"
        );
    }

    #[test]
    fn what_kubectl_applies_without_effect_is_patched() {
        let cluster = StandIn::new();
        cluster.put(MAP, &map("2"));
        std::fs::write(cluster.dir.path().join("patches"), "").unwrap();
        let kubectl = cluster.kubectl("cat >/dev/null");
        let object = one("kube_object", &cluster.fields_with(&kubectl, &map("1"), ""));
        object.apply(&cluster.work(), &Change::default()).unwrap();
        assert_eq!(cluster.get(MAP), Some(map("1")));
        let patches: Vec<Value> = cluster
            .server
            .seen()
            .iter()
            .filter(|seen| seen.method == "PATCH")
            .map(|seen| serde_json::from_slice(&seen.body).unwrap())
            .collect();
        assert_eq!(patches, [json!({"data": {"x": "1"}})]);
    }

    #[test]
    fn an_api_server_that_does_not_answer_yet_is_no_error_of_a_plan_and_waited_for_by_an_apply() {
        let cluster = StandIn::new();
        let silent = |cluster: &StandIn, fields: &str| {
            let object = one("kube_object", fields);
            let change = object.observe(&cluster.work()).unwrap().unwrap();
            assert_eq!(change.summary, "apply (the API server does not answer yet)");
            let error = object.apply(&cluster.work(), &change).unwrap_err();
            assert_eq!(error.exit_code(), Exit::Unhealthy);
            error.to_string()
        };
        let fields = cluster.fields(MAP, &map("1"), "within = '0s'");
        // nobody listens on port 1
        let why = silent(&cluster, &fields.replace(&cluster.server.url(""), "https://127.0.0.1:1/"));
        assert!(why.starts_with("ConfigMap/a can't be applied: https://127.0.0.1:1/ does not answer: "), "{why}");
        let why = silent(&cluster, &fields.replace("admin.pem", "other.pem"));
        assert!(why.contains("there is no file ") && why.contains("other.pem"), "{why}");
        cluster.status(503);
        assert!(silent(&cluster, &fields).contains("answered 503"));
    }

    #[test]
    fn an_api_server_that_answers_in_the_end_was_worth_the_wait() {
        let cluster = StandIn::new();
        cluster.status(500);
        let object = one("kube_object", &cluster.fields(MAP, &map("1"), ""));
        let change = object.observe(&cluster.work()).unwrap().unwrap();
        let status = cluster.dir.path().join("status");
        let asked = cluster.server.seen().len();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // only after apply has asked in vain
                while cluster.server.seen().len() == asked {
                    std::thread::sleep(Duration::from_millis(5));
                }
                std::fs::remove_file(status).unwrap();
            });
            object.apply(&cluster.work(), &change).unwrap();
        });
        assert_eq!(cluster.get(MAP), Some(map("1")));
    }

    #[test]
    fn whoever_is_refused_is_named() {
        let cluster = StandIn::new();
        let object = one("kube_object", &cluster.fields(MAP, &map("1"), ""));
        for (status, words) in [(403, "403 Forbidden"), (401, "401 Unauthorized")] {
            cluster.status(status);
            let error = object.observe(&cluster.work()).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "the API server {} does not let the bearer of {} ask what there is in v1: {words}, because the stand-in says so",
                    cluster.server.url(""),
                    cluster.certificate().0
                )
            );
        }
    }

    #[test]
    fn an_object_that_is_to_be_gone_is_deleted_when_it_is_there() {
        let cluster = StandIn::new();
        let object = one("kube_object", &cluster.fields(MAP, &map("1"), "absent = true"));
        assert!(object.observe(&cluster.work()).unwrap().is_none());
        cluster.put(MAP, &map("2"));
        let change = object.observe(&cluster.work()).unwrap().unwrap();
        assert_eq!(change.summary, "delete");
        object.apply(&cluster.work(), &change).unwrap();
        assert_eq!(cluster.get(MAP), None);
        let mut going = map("1");
        going["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
        cluster.put(MAP, &going);
        assert!(object.observe(&cluster.work()).unwrap().is_none(), "it is on its way");
        let unknown = json!({"apiVersion": "x.example/v1", "kind": "X", "metadata": {"name": "a"}});
        let fields = cluster.fields(MAP, &unknown, "absent = true");
        let unknown = one("kube_object", &fields);
        assert!(unknown.observe(&cluster.work()).unwrap().is_none(), "of a kind that is not there, there is nothing");
    }

    #[test]
    fn what_has_to_come_first_is_named_when_it_does_not_come() {
        let cluster = StandIn::new();
        let apply = |content: &Value| {
            let object = one("kube_object", &cluster.fields(MAP, content, "within = '0s'"));
            let change = object.observe(&cluster.work()).unwrap().unwrap();
            (change.summary.clone(), object.apply(&cluster.work(), &change).unwrap_err().to_string())
        };
        let deployment =
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "n"}});
        assert_eq!(
            apply(&deployment),
            ("create".into(), "Deployment/n/a can't be applied: the API server knows no Deployment in apps/v1".into())
        );
        std::fs::write(cluster.dir.path().join("apps"), "").unwrap();
        assert_eq!(
            apply(&deployment),
            ("create".into(), "Deployment/n/a can't be applied: there is no namespace n".into())
        );
        let mut going = map("1");
        going["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
        cluster.put(MAP, &going);
        assert_eq!(
            apply(&map("1")),
            (
                "create again (it is being deleted)".into(),
                "ConfigMap/a can't be applied: an older one is still being deleted".into()
            )
        );
    }

    #[test]
    fn a_certificate_that_is_another_now_is_used() {
        let cluster = StandIn::new();
        cluster.put(MAP, &map("1"));
        let object = one("kube_object", &cluster.fields(MAP, &map("1"), ""));
        let (cert, key) = cluster.certificate();
        let good = [std::fs::read(&cert).unwrap(), std::fs::read(&key).unwrap()];
        let stranger = Authority::new();
        let (other_cert, other_key) = stranger.issue("admin");
        std::fs::copy(other_cert, &cert).unwrap();
        std::fs::copy(other_key, &key).unwrap();
        assert!(object.observe(&cluster.work()).unwrap().is_some(), "the API server does not know its authority");
        std::fs::write(&cert, &good[0]).unwrap();
        std::fs::write(&key, &good[1]).unwrap();
        assert!(object.observe(&cluster.work()).unwrap().is_none());
    }

    #[test]
    fn each_document_is_a_resource_that_comes_after_its_namespace() {
        let fields = |content: &str| {
            format!(
                "server = 'https://a'\nca = '/a'\nclient_cert = '/b'\nclient_key = '/c'\ncontent = '''\n{content}'''"
            )
        };
        let content = "apiVersion: v1\nkind: Namespace\nmetadata: {name: net}\n---\n\
                       apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: net}\n---\n\
                       apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: default}\n";
        let all = build("kube_object", &fields(content)).unwrap();
        let keys: Vec<String> = all.iter().map(|object| object.about().key).collect();
        assert_eq!(keys, ["Namespace/net", "ConfigMap/net/a", "ConfigMap/default/a"]);
        assert_eq!(all[1].about().after, ["kube_object:Namespace/net"]);
        let same = one("kube_object", &fields("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"));
        assert_eq!((same.about().key.as_str(), same.about().claims), ("ConfigMap/a", all[2].about().claims));
    }

    #[test]
    fn a_template_is_read_with_its_variables_and_a_mistake_in_it_has_its_place() {
        let fields = "server = 'https://a'\nca = '/a'\nclient_cert = '/b'\nclient_key = '/c'\ntemplate = 'a.yaml'";
        let role = RoleFiles::default().with("a.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: net}\n");
        assert_eq!(build_with::<KubeObjectFields>(fields, &role).unwrap()[0].about().key, "Namespace/net");
        let why = fails::<KubeObjectFields>(fields, &RoleFiles::default().with("a.yaml", "kind: X\nkind: Y\n"));
        assert!(why.starts_with("`template`: templates/a.yaml, rendered: line 2, column 1: "), "{why}");
    }

    #[test]
    fn fields_that_can_not_be_meant_are_refused() {
        let with = |fields: &str| {
            refusal("kube_object", &format!("ca = '/a'\nclient_cert = '/b'\nclient_key = '/c'\n{fields}"))
        };
        assert!(with("server = 'https://a'").contains("set `content` or `template`"));
        assert!(with("server = 'https://a'\ncontent = ''\ntemplate = 'a'").contains("not both"));
        assert!(with("server = 'http://a'\ncontent = ''").contains("it has to start with `https://`"));
        assert!(with("server = 'https://me:hunter2@a'\ncontent = ''").contains("no credentials here"));
        assert!(with("server = 'https://a'\ncontent = ''\nkubectl = 'bin/kubectl'").starts_with("`kubectl`: "));
        assert!(with("server = 'https://a'\ncontent = ''").ends_with("there is no object in it"));
    }

    #[test]
    fn a_tree_has_no_objects() {
        let tree = Tree::new();
        let cluster = StandIn::new();
        let object = one("kube_object", &cluster.fields(MAP, &map("1"), ""));
        assert_eq!(tree.summary(&*object), None);
        object.apply(&tree.work(), &Change::default()).unwrap();
        assert!(cluster.server.seen().is_empty());
    }
}
