//! The fields of `[[kube_object]]`.

use reqwest::Url;

use super::KubeObject;
use super::manifest::{self, Manifest};
use crate::host::kube::Access;
use crate::kind::prelude::*;

/// Fields of `[[kube_object]]`. Exactly one of `content` and `template` is set.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KubeObjectFields {
    /// The objects as YAML or JSON, with `---` between several; each is a separate resource.
    content: Option<String>,
    /// The name of a file in the role's `templates/` with the objects.
    template: Option<String>,
    /// The `https://` address of the API server.
    server: String,
    /// PEM file with the only authorities that are trusted for the API server's certificate.
    ca: AbsolutePath,
    /// PEM file with the client certificate for queries and changes.
    client_cert: AbsolutePath,
    /// PEM file with the key of `client_cert`.
    client_key: AbsolutePath,
    /// The program: its name or path. Default: `kubectl`.
    kubectl: Option<String>,
    /// How long to wait for an API server that doesn't answer, for a kind or a namespace that doesn't exist, and for an object that is
    /// being deleted. Default: `60s`.
    within: Option<HumanDuration>,
    /// Whether to delete the objects.
    #[serde(default)]
    absent: bool,
}

impl Fields for KubeObjectFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let (field, what, text) = match (self.content, &self.template) {
            (Some(text), None) => ("content", String::new(), text),
            (None, Some(name)) => ("template", format!("templates/{name}, rendered: "), build.template(name)?),
            (None, None) => return Err(build.invalid("server", "set `content` or `template`")),
            (Some(_), Some(_)) => return Err(build.invalid("template", "set `content` or `template`, not both")),
        };
        let server = Url::parse(&self.server).map_err(|error| build.invalid("server", &error.to_string()))?;
        build.refuse_if(server.scheme() != "https", "server", "it must start with `https://`")?;
        let has_more = !server.username().is_empty() || server.password().is_some() || server.query().is_some();
        build.refuse_if(has_more, "server", "it must not contain credentials: set `client_cert` and `client_key`")?;
        let kubectl = self.kubectl.unwrap_or_else(|| "kubectl".to_owned());
        let is_program =
            !kubectl.is_empty() && !kubectl.contains('\0') && kubectl.starts_with('/') == kubectl.contains('/');
        build.refuse_if(!is_program, "kubectl", "write its name, or its full path")?;
        let is_secret = build.is_secret();
        let manifests =
            manifest::read(&text, is_secret).map_err(|why| build.invalid(field, &format!("{what}{why}")))?;
        let [ca, cert, key] = [self.ca, self.client_cert, self.client_key].map(|path| path.to_path_buf());
        let access = Access { server, ca, cert, key };
        let object = |manifest: Manifest| KubeObject {
            sensitive: is_secret || manifest.name.kind == "Secret",
            name: manifest.name,
            wanted: manifest.content,
            access: access.clone(),
            kubectl: kubectl.clone(),
            within: self.within.map_or(Duration::from_secs(60), |within| within.0),
            absent: self.absent,
        };
        Ok(manifests.into_iter().map(|manifest| Box::new(object(manifest)) as _).collect())
    }
}
