//! Problems of vendored roles for `check`: manual edits, and other commits than pinned.

use crate::author::vendor::{Edit, FILE, List, ORIGIN, Origin, RoleRequest, Upstream};
use crate::document::{Doc, Files};
use crate::error::{Error, Result, error};

/// Differences from `vendor.toml` and the origins of roles. Queries no repository.
pub fn complaints(files: &Files, list: Option<&List>) -> Vec<Error> {
    let mut errors = Vec::new();
    let listed = list.map(|list| list.upstreams.as_slice()).unwrap_or_default();
    for wanted in listed.iter().flat_map(|upstream| &upstream.roles) {
        if files.children(&format!("roles/{}", wanted.own)).is_empty() {
            errors.push(
                error!(VENDOR, "roles/{}/ does not exist", wanted.own)
                    .at(wanted.place.clone(), "listed here")
                    .help("`kpull vendor` fetches it"),
            );
        }
    }
    for role in files.children("roles") {
        let found = list.and_then(|list| list.find(&role));
        errors.extend(of_role(files, &role, found).unwrap_or_else(|error| vec![error]));
    }
    errors
}

fn of_role(files: &Files, role: &str, listed: Option<(&Upstream, &RoleRequest)>) -> Result<Vec<Error>> {
    let (doc, origin) = match (Origin::read(files, role)?, listed) {
        (Some(read), _) => read,
        (None, None) => return Ok(Vec::new()),
        (None, Some((_, wanted))) => {
            return Ok(vec![
                error!(VENDOR, "roles/{role}/ is not vendored")
                    .at(wanted.place.clone(), "listed here")
                    .help("vendor it under another name, or don't list it here"),
            ]);
        }
    };
    let mut errors: Vec<Error> =
        origin.edits(files, role).iter().map(|(path, edit)| edit.error(&doc, role, path)).collect();
    let again = "`kpull vendor` fetches it again";
    match listed {
        None => errors.push(
            error!(VENDOR, "roles/{role}/ is vendored from {}, but {FILE} does not list it", origin.site)
                .at(doc.place(&["site".to_owned()]), "vendored from there")
                .help(format!("delete the role, or list it; without {ORIGIN}, it counts as a role of this site")),
        ),
        Some((upstream, wanted)) if upstream.site != origin.site || wanted.name != origin.role => errors.push(
            error!(VENDOR, "roles/{role}/ is `{}` of {}", origin.role, origin.site)
                .at(wanted.place.clone(), "vendor.toml defines another one")
                .help(again),
        ),
        Some((upstream, _)) if upstream.commit != origin.commit || upstream.git != origin.git => errors.push(
            error!(VENDOR, "roles/{role}/ is of commit {} of {}", origin.commit, origin.git)
                .at(upstream.commit_place.clone(), "vendor.toml defines another one")
                .help(again),
        ),
        Some(_) => {}
    }
    Ok(errors)
}

impl Edit {
    /// The error for the file at `path` of `role`, whose origin is `doc`.
    pub(super) fn error(self, doc: &Doc, role: &str, path: &str) -> Error {
        let what = match self {
            Self::Changed => "was edited after it was vendored",
            Self::Removed => "was vendored, but is missing",
            Self::Added => "was added to the vendored role",
        };
        error!(VENDOR, "roles/{role}/{path} {what}")
            .at(doc.place(&["files".to_owned(), path.to_owned()]), "the vendored file")
            .help(format!("edit it at its origin, and vendor it again; `git checkout` undoes edits; without {ORIGIN}, the role counts as a role of this site"))
    }
}
