//! `[[kube_object]]`: objects of a Kubernetes cluster, applied by kubectl when they differ.

mod compare;
mod fields;
mod manifest;
#[cfg(test)]
mod testing;

use std::time::Instant;

use serde_json::Value;

use crate::error::{Context, Exit, mask};
use crate::host::deadline;
use crate::host::kube::{Access, Answer, Kube, Name};
use crate::host::process::{Command, Ended, argv, run};
use crate::kind::prelude::*;
use crate::secret::fits;
use crate::text::shortened;
use compare::{Difference, differences};
pub use fields::KubeObjectFields;

/// How long kubectl may take.
const KUBECTL: Duration = Duration::from_secs(60);

/// The pause between two checks of something that is not ready.
const PAUSE: Duration = Duration::from_millis(500);

/// One object.
#[derive(Debug)]
pub struct KubeObject {
    name: Name,
    wanted: Value,
    access: Access,
    kubectl: String,
    within: Duration,
    absent: bool,
    /// Whether its content must not be shown.
    sensitive: bool,
}

impl KubeObject {
    /// The parts that are not sensitive by kind: of a Secret, everything except its data.
    pub fn public(&self) -> Value {
        let mut seen = self.wanted.clone();
        if let Some(object) = seen.as_object_mut().filter(|_| self.name.kind == "Secret") {
            object.remove("data");
            object.remove("stringData");
        }
        seen
    }
}

/// The state of an object.
#[derive(Debug)]
enum ObjectState {
    /// It matches the role.
    UpToDate,
    /// It does not exist, but should.
    Missing,
    /// It exists, but should not.
    Unwanted,
    /// It differs: the differences, and the whole object.
    Differs(Vec<Difference>, Value),
    /// It can't be changed yet.
    Later(Later),
}

/// What a run has done with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ObjectChange {
    Nothing,
    /// It was applied, or deleted.
    Written,
    /// What still differed afterwards was patched.
    Patched,
}

/// What an object waits for.
#[derive(Debug)]
enum Later {
    /// The API server, and why it does not answer.
    Answer(String),
    /// Its kind.
    Kind,
    /// Its namespace.
    Namespace(String),
    /// The deletion of its predecessor.
    Deletion,
}

impl KubeObject {
    /// `Kind/namespace/name`, with a default namespace.
    fn path(&self, default: Option<&str>) -> String {
        let namespace = self.name.namespace.as_deref().or(default);
        let parts = [Some(self.name.kind.as_str()), namespace, Some(&self.name.name)];
        Vec::from_iter(parts.into_iter().flatten()).join("/")
    }

    /// Compares the object with the cluster.
    fn check(&self, kube: &Kube) -> Result<ObjectState> {
        Ok(match kube.get(&self.name)? {
            Answer::Silent(why) => ObjectState::Later(Later::Answer(why)),
            Answer::UnknownKind if self.absent => ObjectState::UpToDate,
            Answer::UnknownKind => ObjectState::Later(Later::Kind),
            Answer::Missing { .. } if self.absent => ObjectState::UpToDate,
            Answer::Missing { namespace } => self.state_of_namespace(kube, namespace)?,
            Answer::Found { object, namespaced } => {
                let is_going = object.pointer("/metadata/deletionTimestamp").is_some();
                match (self.absent, is_going) {
                    (true, true) => ObjectState::UpToDate,
                    (true, false) => ObjectState::Unwanted,
                    (false, true) => ObjectState::Later(Later::Deletion),
                    (false, false) => match self.differences(&object, namespaced) {
                        found if found.is_empty() => ObjectState::UpToDate,
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

    /// Whether a missing object can be created.
    fn state_of_namespace(&self, kube: &Kube, namespace: Option<String>) -> Result<ObjectState> {
        let Some(name) = namespace else { return Ok(ObjectState::Missing) };
        let asked = Name { api_version: "v1".into(), kind: "Namespace".into(), namespace: None, name: name.clone() };
        Ok(match kube.get(&asked)? {
            Answer::Silent(why) => ObjectState::Later(Later::Answer(why)),
            Answer::Found { .. } => ObjectState::Missing,
            Answer::Missing { .. } | Answer::UnknownKind => ObjectState::Later(Later::Namespace(name)),
        })
    }

    /// Applies or deletes the object. False if the API server stopped answering.
    #[expect(clippy::disallowed_methods, reason = "a directory with a random name that others can't remove")]
    fn write(&self, kube: &Kube) -> Result<bool> {
        if self.absent {
            return Ok(!matches!(kube.delete(&self.name)?, Answer::Silent(_)));
        }
        // for kubectl's caches
        let home = tempfile::tempdir().context(code::KUBE, || "can't create a directory for kubectl")?;
        let env = vec![("HOME".to_owned(), home.path().display().to_string())];
        let flag = |name: &str, value: &dyn std::fmt::Display| format!("--{name}={value}");
        let argv = argv([
            self.kubectl.as_str(),
            // an empty one, so that no other is used
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
        let output = run(&Command { env, input: Some(input.as_bytes()), ..Command::new(&argv, KUBECTL) })?;
        if output.is_success() {
            return Ok(true);
        }
        if matches!(self.check(kube)?, ObjectState::Later(Later::Answer(_))) {
            return Ok(false);
        }
        let what = format!("kubectl can't apply {}", self.path(None));
        let error = output.failure_of(what, self.sensitive);
        Err(match output.ended {
            Ended::TimedOut(_) => error.help("look at the API server and its admission plugins"),
            Ended::Exited(_) => {
                error.help("correct the object in the role; a field that can't be changed needs a new object")
            }
        })
    }

    /// The error for something that did not appear in time.
    fn too_late(&self, later: Later) -> Error {
        let failed = |why: &str| error!(KUBE, "{} can't be applied{why}", self.path(None));
        let Name { api_version, kind, .. } = &self.name;
        match later {
            Later::Answer(why) => failed("")
                .because(format!("{why} (waited for {:?})", self.within))
                .exit(Exit::Unhealthy)
                .help("look at the API server's unit, `server`, and the certificates; the next run tries again"),
            Later::Kind => failed(&format!(": the API server has no {kind} in {api_version}"))
                .help("correct `apiVersion` and `kind`; a CustomResourceDefinition must come before its objects"),
            Later::Namespace(name) => {
                failed(&format!(": there is no namespace {name}")).help(format!("put the Namespace {name} before it"))
            }
            Later::Deletion => failed(": an older one is still being deleted")
                .help("find out what its finalizers wait for; the next run tries again"),
        }
    }

    /// The error for an API server that stores something else than it was given.
    fn kept(&self, found: &[Difference]) -> Error {
        const SHOWN: usize = 5;
        let shown = |value: &Value| shortened(&mask::hide(&value.to_string()), 200);
        let text = |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), shown);
        let line = |Difference { path, wanted, live }: &Difference| match self.sensitive {
            true => path.clone(),
            false => format!("{path}: {} in the role, {} in the cluster", text(wanted), text(live)),
        };
        let mut lines: Vec<String> = found.iter().take(SHOWN).map(line).collect();
        lines.extend((found.len() > SHOWN).then(|| format!("and {} more", found.len() - SHOWN)));
        error!(KUBE, "the API server stores {} differently from the role", self.path(None)).because(lines.join("\n")).help(
            "write the fields in the role as they are in the cluster, and omit fields that the cluster does not have; or find out whether something else changes the object",
        )
    }
}

impl Resource for KubeObject {
    fn about(&self) -> About {
        let namespace = self.name.namespace.iter().filter(|_| !self.absent);
        About {
            claims: vec![Claim::thing(KubeObjectFields::NAME, self.path(Some("default")))],
            after: namespace.map(|name| ResourceId::new(KubeObjectFields::NAME, format!("Namespace/{name}"))).collect(),
            is_discreet: true,
            ..About::new(KubeObjectFields::NAME, self.path(None), Phase::Units)
        }
    }

    fn content(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Owned(compare::all(&self.wanted).into_bytes()))
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        let Some(host) = work.live() else { return Ok(Some(Vec::new())) };
        let Ok(kube) = host.kube(&self.access) else { return Ok(None) };
        Ok(kube.standing(&self.name)?.map(|standing| vec![WatchedInput::Object(standing)]))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        const SILENT: &str = "apply (the API server does not answer yet)";
        let Some(host) = work.live() else { return Ok(None) };
        let Ok(kube) = host.kube(&self.access) else { return Ok(Some(Change::new(SILENT))) };
        let with_diff = |change: Change, old: &str, new: &str| Change {
            diff: Diff::of(old.as_bytes(), new.as_bytes(), self.sensitive),
            ..change
        };
        Ok(match self.check(&kube)? {
            ObjectState::UpToDate => None,
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
        let started = Instant::now();
        let mut done = ObjectChange::Nothing;
        loop {
            let kube = work.host.kube(&self.access);
            let state = match &kube {
                Ok(kube) => {
                    kube.insists.set(true);
                    self.check(kube)?
                }
                Err(why) => ObjectState::Later(Later::Answer(why.clone())),
            };
            match (state, kube) {
                (ObjectState::UpToDate, _) => return Ok(()),
                (ObjectState::Later(later), _)
                    if started.elapsed().saturating_add(PAUSE) > self.within || deadline::is_over() =>
                {
                    return Err(self.too_late(later));
                }
                (ObjectState::Differs(found, _), _) if done == ObjectChange::Patched => return Err(self.kept(&found)),
                // kubectl confuses list entries with the same port and different protocols, which every DNS has
                (ObjectState::Differs(found, live), Ok(kube)) if done == ObjectChange::Written => {
                    match kube.merge(&self.name, &compare::patch(&self.wanted, &live)) {
                        Ok(Answer::Silent(_)) => {}
                        Ok(_) => done = ObjectChange::Patched,
                        Err(_) => return Err(self.kept(&found)),
                    }
                }
                (ObjectState::Missing | ObjectState::Unwanted, _) if done > ObjectChange::Nothing => {
                    let how =
                        if self.absent { "deleted, but exists again" } else { "applied, but does not exist any more" };
                    return Err(error!(KUBE, "{} was {how}", self.path(None))
                        .help("find out what else manages it: an addon manager, an operator, another host"));
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
    use serde_json::json;

    use super::testing::{MAP, StandIn, file, map};
    use super::*;
    use crate::host::Host;
    use crate::kind::testing::{RoleFiles, Tree, build, build_with, fails, one, one_secret, refusal};
    use crate::net::testing::Authority;

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
    fn a_change_of_an_object_changes_its_watched_input_which_has_no_content() {
        let cluster = StandIn::new();
        let version = |version: &str, value: &str| {
            let mut object = map(value);
            object["metadata"] = json!({"name": "a", "uid": "u", "resourceVersion": version});
            object
        };
        cluster.put(MAP, &version("7", "hunter2"));
        let object = one("kube_object", &cluster.fields(MAP, &map("hunter2"), ""));
        let input = object.watched_inputs(&cluster.work()).unwrap().unwrap().remove(0);
        let kept = serde_json::to_string(&input).unwrap();
        assert!(!kept.contains("hunter2"), "{kept}");
        // another run asks by what was kept, and for nothing else
        let input: WatchedInput = serde_json::from_str(&kept).unwrap();
        let before = cluster.server.seen().len();
        let seen = || Host::open("/".as_ref()).unwrap().seen(&input);
        let recorded = seen().unwrap();
        assert_eq!(recorded.clone().unwrap().text.unwrap(), b"u 7");
        assert_eq!(cluster.server.seen()[before..].iter().map(|seen| &seen.path).collect::<Vec<_>>(), [MAP]);
        cluster.put(MAP, &version("8", "hunter3"));
        assert_ne!(seen().unwrap(), recorded);
        std::fs::remove_file(file(cluster.dir.path(), MAP)).unwrap();
        assert_eq!(seen().unwrap(), None);
        cluster.status(500);
        let error = seen().unwrap_err();
        assert!(error.to_string().contains("500"), "without an answer nothing is known: {error}");
    }

    #[test]
    fn an_object_that_is_up_to_date_by_its_turn_is_not_applied() {
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
        assert!(error.to_string().ends_with("differently from the role: data.x"), "{error}");
    }

    #[test]
    fn the_output_of_a_failed_kubectl_is_reported() {
        let cluster = StandIn::new();
        let kubectl = cluster.kubectl("echo 'the field is immutable' >&2; exit 1");
        let object = one("kube_object", &cluster.fields_with(&kubectl, &map("1"), ""));
        let error = object.apply(&cluster.work(), &Change::default()).unwrap_err();
        assert_eq!(error.to_string(), "kubectl can't apply ConfigMap/a: exit status: 1\nthe field is immutable");
    }

    #[test]
    fn what_the_api_server_stores_differently_is_reported_field_by_field() {
        let cluster = StandIn::new();
        let path = file(cluster.dir.path(), MAP);
        let kubectl = cluster.kubectl(&format!("sed 's/\"1\"/\"one\"/; s/,\"y\":false//' >'{}'", path.display()));
        let mut wanted = map("1");
        wanted["data"]["y"] = json!(false);
        let object = one("kube_object", &cluster.fields_with(&kubectl, &wanted, ""));
        let error = object.apply(&cluster.work(), &Change::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the API server stores ConfigMap/a differently from the role: \
             data.x: \"1\" in the role, \"one\" in the cluster\ndata.y: false in the role, nothing in the cluster"
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
    fn a_plan_tolerates_a_silent_api_server_and_an_apply_waits_for_it() {
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
    fn a_refused_client_is_named() {
        let cluster = StandIn::new();
        let object = one("kube_object", &cluster.fields(MAP, &map("1"), ""));
        for (status, words) in [(403, "403 Forbidden"), (401, "401 Unauthorized")] {
            cluster.status(status);
            let error = object.observe(&cluster.work()).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "the API server {} does not permit the owner of {} to list the resources of v1: {words}, because the stand-in says so",
                    cluster.server.url(""),
                    cluster.certificate().0
                )
            );
        }
    }

    #[test]
    fn an_absent_object_is_deleted_if_it_exists() {
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
        assert!(unknown.observe(&cluster.work()).unwrap().is_none(), "of a kind that does not exist, there is nothing");
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
            ("create".into(), "Deployment/n/a can't be applied: the API server has no Deployment in apps/v1".into())
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
        assert!(with("server = 'http://a'\ncontent = ''").contains("it must start with `https://`"));
        assert!(with("server = 'https://me:hunter2@a'\ncontent = ''").contains("it must not contain credentials"));
        assert!(with("server = 'https://a'\ncontent = ''\nkubectl = 'bin/kubectl'").starts_with("`kubectl`: "));
        assert!(with("server = 'https://a'\ncontent = ''").ends_with("it contains no object"));
    }

    #[test]
    fn a_tree_has_no_objects() {
        let tree = Tree::new();
        let cluster = StandIn::new();
        let object = one("kube_object", &cluster.fields(MAP, &map("1"), ""));
        assert_eq!(tree.summary(&*object), None);
        assert!(cluster.server.seen().is_empty());
    }
}
