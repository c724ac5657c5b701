//! A stand-in for a cluster, for the tests.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::kind::prelude::*;
use crate::net::testing::{Answer, Authority, Received, Server};
use crate::store::Store;

/// A stand-in for a cluster: an API server that knows four kinds, keeps its objects as files and answers nothing
/// that kpull should not ask; and a kubectl that does nothing but write the object that it is given.
pub(super) struct StandIn {
    pub(super) dir: tempfile::TempDir,
    pub(super) authority: Authority,
    pub(super) server: Server,
    pub(super) host: Host,
    pub(super) store: Store,
}

/// Where the stand-in keeps the object at `path`.
pub(super) fn file(dir: &std::path::Path, path: &str) -> PathBuf {
    dir.join(path.replace('/', "+"))
}

fn answer(dir: &std::path::Path, seen: &Received) -> Answer {
    let json = |status, value: Value| Answer::new(status, value.to_string()).with("Content-Type", "application/json");
    let api = |name: &str, kind: &str, namespaced: bool| json!({"name": name, "kind": kind, "namespaced": namespaced, "verbs": ["get"]});
    if let Ok(status) = std::fs::read_to_string(dir.join("status")) {
        return json(status.parse().unwrap(), json!({"kind": "Status", "message": "because the stand-in says so"}));
    }
    let path = file(dir, &seen.path);
    match (seen.method.as_str(), seen.path.as_str()) {
        ("GET", "/api/v1") => json(
            200,
            json!({"kind": "APIResourceList", "resources": [
            api("namespaces", "Namespace", false), api("configmaps", "ConfigMap", true), api("secrets", "Secret", true)]}),
        ),
        ("GET", "/apis/apps/v1") if dir.join("apps").exists() => json(
            200,
            json!({"kind": "APIResourceList", "resources": [
            api("deployments/scale", "Deployment", false), api("deployments", "Deployment", true)]}),
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
            assert_eq!((&body["kind"], &body["propagationPolicy"]), (&json!("DeleteOptions"), &json!("Background")));
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
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let kept = dir.path().to_owned();
        let server = Server::secure(authority.server("127.0.0.1", Some(&authority)), move |seen| answer(&kept, seen));
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

    pub(super) fn work(&self) -> Work<'_> {
        Work { host: &self.host, store: &self.store, catalog: &[] }
    }

    pub(super) fn put(&self, path: &str, object: &Value) {
        std::fs::write(file(self.dir.path(), path), object.to_string()).unwrap();
    }

    pub(super) fn get(&self, path: &str) -> Option<Value> {
        serde_json::from_str(&std::fs::read_to_string(file(self.dir.path(), path)).ok()?).unwrap()
    }

    /// From now on everything is answered with this status.
    pub(super) fn status(&self, status: u16) {
        std::fs::write(self.dir.path().join("status"), status.to_string()).unwrap();
    }

    /// A kubectl that runs `script` when it is called as it should be.
    pub(super) fn kubectl(&self, script: &str) -> String {
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

    pub(super) fn certificate(&self) -> (String, String) {
        let file = |end: &str| self.authority.file().with_file_name(format!("admin.{end}")).display().to_string();
        if !PathBuf::from(file("pem")).exists() {
            self.authority.issue("admin");
        }
        (file("pem"), file("key"))
    }

    /// Fields for `content`, with a kubectl that writes what it is given to `path`.
    pub(super) fn fields(&self, path: &str, content: &Value, more: &str) -> String {
        let kubectl = self.kubectl(&format!("exec cat >'{}'", file(self.dir.path(), path).display()));
        self.fields_with(&kubectl, content, more)
    }

    pub(super) fn fields_with(&self, kubectl: &str, content: &Value, more: &str) -> String {
        let (cert, key) = self.certificate();
        format!(
            "server = '{}'\nca = '{}'\nclient_cert = '{cert}'\nclient_key = '{key}'\nkubectl = '{kubectl}'\ncontent = '{content}'\n{more}",
            self.server.url(""),
            self.authority.file().display()
        )
    }
}

pub(super) const MAP: &str = "/api/v1/namespaces/default/configmaps/a";

pub(super) fn map(value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": value}})
}
