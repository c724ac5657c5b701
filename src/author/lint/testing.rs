//! Small sites for the tests of lints.

use std::sync::Arc;

use crate::author::lint::{lint, lint_hosts};
use crate::document::Files;
use crate::error::Error;
use crate::resolve::{Facts, resolve};
use crate::secret::SecretStore;
use crate::site::Site;

/// `artifacts.toml` with one artifact, `app` 1.0.
pub const ARTIFACTS: &str = r#"[app]
version = "1.0"
amd64 = { url = "https://example.org/app.tar", sha256 = "0000000000000000000000000000000000000000000000000000000000000000", size = 4 }
arm64 = { url = "https://example.org/app.tar", sha256 = "0000000000000000000000000000000000000000000000000000000000000000", size = 4 }
"#;

/// What is found in a site with these files, each as message, place and help.
pub fn found(files: &[(&str, &str)]) -> Vec<(String, String, String)> {
    errors(files).iter().map(parts).collect()
}

/// What is found in a site with these files. Without hosts of its own it has one, `h1` (10.0.0.1), with the role `r`.
pub fn errors(files: &[(&str, &str)]) -> Vec<Error> {
    let mut files: Files = files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().into())).collect();
    if files.children("host_vars").is_empty() {
        files.extend([file("host_vars/h1.toml", "address = '10.0.0.1'\nroles = ['r']\n")]);
    }
    if files.get("site.toml").is_none() {
        files.extend([file("site.toml", "name = 'test'\n[pki.ca]\n")]);
    }
    let site = Arc::new(Site::load(files).unwrap());
    let catalog = |(name, host): (&String, &crate::site::HostVars)| {
        resolve(&site, name, &Facts::assumed(name, host.address, None).unwrap(), &SecretStore::expected()).unwrap()
    };
    let catalogs: Vec<_> = site.hosts.iter().map(catalog).collect();
    let found = [lint_hosts(&site), lint(&site, &catalogs)].concat();
    Error::distinct(found).into_iter().flat_map(Error::each).collect()
}

/// A finding as [`found`] gives it.
pub fn reported(what: &str, place: &str, help: &str) -> (String, String, String) {
    (what.to_owned(), place.to_owned(), help.to_owned())
}

fn file(path: &str, text: &str) -> (String, Arc<[u8]>) {
    (path.to_owned(), text.as_bytes().into())
}

fn parts(error: &Error) -> (String, String, String) {
    let place = error.place().map(ToString::to_string).unwrap_or_default();
    (error.to_string(), place, error.advice().unwrap_or_default().to_owned())
}
