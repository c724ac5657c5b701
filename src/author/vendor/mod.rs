//! Roles of other sites, taken into this one: whoever edits a site asks another one's repository for a pinned commit, and what
//! enough of the named keys have signed there is copied. Hosts know nothing of it: they get it in the site's own release.

mod check;
mod list;
mod origin;

pub use check::complaints;
pub(crate) use list::UpstreamFile;
pub use list::{FILE, List, RoleRequest, Upstream};
pub use origin::{Edit, ORIGIN, Origin};

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use crate::document::{Files, is_version_controls, replace};
use crate::error::{Context, Error, Place, Result, code};
use crate::net;
use crate::sandbox;
use crate::site::Role;
use crate::source::{self, Config};
use crate::trust::{KeySet, VerifiedManifest};

/// A role as another site's signers saw it.
#[derive(Debug)]
pub struct VendoredRole {
    /// What it is called here.
    pub own: String,
    /// Where it comes from.
    pub origin: Origin,
    /// Its files, by their paths in its directory; without [`ORIGIN`].
    files: BTreeMap<String, Arc<[u8]>>,
    /// What roles it requires.
    requires: Vec<String>,
    /// Where it is listed.
    place: Place,
}

/// Something to be written or removed.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// Its path in the site.
    pub path: String,
    /// What is to be there; nothing, when it is to be removed.
    pub content: Option<Vec<u8>>,
    /// Whether something is there now.
    pub is_there: bool,
}

/// Asks `upstream` for the roles that are wanted of it. Nothing is looked at before its signatures are good.
pub fn take(upstream: &Upstream, net: &net::Options) -> Result<Vec<VendoredRole>> {
    let cache = tempfile::tempdir().context(code::VENDOR, || "can't make a temporary directory".to_owned())?;
    let config = Config {
        git: Some(upstream.git.clone()),
        commit: Some(upstream.commit.clone()),
        ca: net.ca.clone(),
        client_cert: net.client_cert.clone(),
        client_key: net.client_key.clone(),
        ..Config::default()
    };
    let tree = source::state(&mut *sandbox::open(&config, &cache.path().join("source"), &[])?)?;
    let keys = KeySet::start(&upstream.site, upstream.signers.clone(), upstream.threshold, 1);
    let announced = VerifiedManifest::by(&keys, &*tree, Timestamp::now())?;
    let manifest = announced.manifest();
    if manifest.site != upstream.site {
        return Err(Error::refused(
            code::VENDOR,
            format!("the release is of the site `{}`, and {FILE} calls it `{}`", manifest.site, upstream.site),
        )
        .at(upstream.place.clone(), "another name")
        .help("look at the address; the table is called as the other site calls itself"));
    }
    let names: BTreeSet<&str> =
        manifest.files.keys().filter_map(|path| path.strip_suffix("/role.toml")?.strip_prefix("roles/")).collect();
    if let Some(wanted) = upstream.roles.iter().find(|wanted| !names.contains(wanted.name.as_str())) {
        let error = Error::new(
            code::VENDOR,
            format!("{} has no role `{}` in release {}", upstream.site, wanted.name, manifest.serial),
        )
        .at(wanted.place.clone(), "no such role");
        return Err(error.help_nearest(
            &wanted.name,
            names.iter().copied(),
            format!("it has {}", names.iter().copied().collect::<Vec<_>>().join(", ")),
        ));
    }
    let part = announced.fetch_part(&*tree, &|path| upstream.roles.iter().any(|wanted| wanted.path(path).is_some()))?;
    upstream.roles.iter().map(|wanted| VendoredRole::of(wanted, upstream, &announced, part.get())).collect()
}

impl RoleRequest {
    /// The path in the role's directory of what is taken from `path` of the other site; `None` for what is not taken.
    fn path<'a>(&self, path: &'a str) -> Option<&'a str> {
        let path = path.strip_prefix("roles/")?.strip_prefix(self.name.as_str())?.strip_prefix('/')?;
        // where they have it from is theirs; examples call a role by its name
        let stays = path == ORIGIN || self.own != self.name && path.starts_with("tests/");
        (!stays).then_some(path)
    }
}

impl VendoredRole {
    fn of(wanted: &RoleRequest, upstream: &Upstream, announced: &VerifiedManifest, part: &Files) -> Result<Self> {
        let own = &wanted.own;
        let files: BTreeMap<String, Arc<[u8]>> =
            part.iter().filter_map(|(path, content)| Some((wanted.path(path)?.to_owned(), content.clone()))).collect();
        if let Some(path) = files.keys().find(|path| is_version_controls(path)) {
            return Err(Error::refused(
                code::VENDOR,
                format!("{} has `{path}` in its role `{}`", upstream.site, wanted.name),
            )
            .at(wanted.place.clone(), "would be written here")
            .because("git would take the settings and programs in it for yours")
            .help("nothing was written; no role needs such a file: tell the other site's signers"));
        }
        let here = files.iter().map(|(path, content)| (format!("roles/{own}/{path}"), content.clone())).collect();
        let role = Role::load(&here, own)?;
        let manifest = announced.manifest();
        let listed =
            manifest.files.iter().filter_map(|(path, listed)| Some((wanted.path(path)?.to_owned(), listed.clone())));
        let origin = Origin {
            site: upstream.site.clone(),
            git: upstream.git.clone(),
            commit: upstream.commit.clone(),
            role: wanted.name.clone(),
            serial: manifest.serial,
            signers: announced.signers.clone(),
            files: listed.collect(),
        };
        Ok(Self { own: own.clone(), origin, files, requires: role.requires, place: wanted.place.clone() })
    }
}

/// What has to be written and removed in a site, which has `files`, to have all that was `taken`. A role of the site's own, and
/// one that was edited, is an error and not a change.
pub fn changes(files: &Files, taken: &[VendoredRole]) -> Result<Vec<Change>> {
    let (mut changes, mut errors) = (Vec::new(), Vec::new());
    let mut known: BTreeSet<String> = files.children("roles").into_iter().collect();
    known.extend(taken.iter().map(|taken| taken.own.clone()));
    for role in taken {
        if let Some(missing) = role.requires.iter().find(|name| !known.contains(*name)) {
            errors.push(
                Error::new(
                    code::VENDOR,
                    format!("the role {} requires `{missing}`, which the site does not have", role.own),
                )
                .at(role.place.clone(), "requires another one")
                .help(format!("take `{missing}` too, or write it")),
            );
        }
        match role.changes(files) {
            Ok(own) => changes.extend(own),
            Err(error) => errors.push(error),
        }
    }
    Error::check(errors)?;
    Ok(changes)
}

impl VendoredRole {
    fn changes(&self, files: &Files) -> Result<Vec<Change>> {
        let own = &self.own;
        let before = Origin::read(files, own)?;
        let has = |path: &str| files.get(&format!("roles/{own}/{path}"));
        // what is as it is to be is no edit, so that a run that was killed is followed by one that ends
        let is_new = |path: &str| has(path).map(|content| &**content) == self.files.get(path).map(|content| &**content);
        if before.is_none() && origin::of_role(files, own).any(|(path, _)| !is_new(path)) {
            return Err(Error::new(code::VENDOR, format!("roles/{own}/ is there already, and was not taken from anywhere"))
                .at(self.place.clone(), "would be written there")
                .help("take it under another name, { name = \"NAME\", as = \"OWN NAME\" }, or move yours away; nothing was written"));
        }
        let edits = before.as_ref().map(|(_, origin)| origin.edits(files, own)).unwrap_or_default();
        if let Some(((doc, _), path)) = before.as_ref().zip(edits.keys().find(|path| !is_new(path))) {
            let edit = edits[path];
            return Err(edit.error(doc, own, path).help_more("nothing was written"));
        }
        let change = |path: &str, content: Option<&[u8]>| Change {
            path: format!("roles/{own}/{path}"),
            content: content.map(<[u8]>::to_vec),
            is_there: has(path).is_some(),
        };
        let gone = origin::of_role(files, own).filter(|(path, _)| !self.files.contains_key(*path));
        let mut changes: Vec<Change> = gone.map(|(path, _)| change(path, None)).collect();
        let origin: Arc<[u8]> = self.origin.to_toml().into_bytes().into();
        let own_files = self.files.iter().map(|(path, content)| (path.as_str(), content));
        let all = own_files.chain([(ORIGIN, &origin)]);
        changes.extend(
            all.filter(|(path, content)| has(path) != Some(content)).map(|(path, content)| change(path, Some(content))),
        );
        Ok(changes)
    }
}

/// Makes these changes in the site in `dir`. First goes what is to go: something else may have to stand in its place.
pub fn write(dir: &Path, changes: &[Change]) -> Result<()> {
    for Change { path, .. } in changes.iter().filter(|change| change.content.is_none()) {
        let path = dir.join(path);
        std::fs::remove_file(&path).context(code::VENDOR, || format!("can't remove {}", path.display()))?;
        // directories that are empty now; the role's own has its role.toml, which nobody removes
        path.ancestors().skip(1).take_while(|above| std::fs::remove_dir(above).is_ok()).for_each(drop);
    }
    let content = |change: &Change| Some((dir.join(&change.path), change.content.clone()?));
    replace(&changes.iter().filter_map(content).collect::<Vec<_>>())
}
