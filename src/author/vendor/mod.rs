//! Vendored roles of other sites: fetched from a pinned commit of another site's repository, verified against the named keys, and
//! copied. Hosts get them in the site's own release.

mod check;
mod list;
mod origin;

pub use check::complaints;
pub(crate) use list::UpstreamFile;
pub use list::{FILE, List, RoleRequest, Upstream};
pub use origin::{Edit, ORIGIN, Origin};

use crate::author::prelude::*;
use crate::document::{is_version_controls, replace};
use crate::net;
use crate::sandbox;
use crate::site::Role;
use crate::source::{self, Config};
use crate::trust::{KeySet, VerifiedManifest};

/// A role as another site signed it.
#[derive(Debug)]
pub struct VendoredRole {
    /// Its name in this site.
    pub own: String,
    /// Its origin.
    pub origin: Origin,
    /// Its files, by their paths in its directory; without [`ORIGIN`].
    files: BTreeMap<String, Arc<[u8]>>,
    /// The roles that it requires.
    requires: Vec<String>,
    /// Where it is listed.
    place: Place,
}

/// A file to write or remove.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// Its path in the site.
    pub path: String,
    /// The new content; `None` to remove the file.
    pub content: Option<Vec<u8>>,
    /// Whether the file exists now.
    pub is_there: bool,
}

/// Fetches the listed roles of `upstream`. Nothing is parsed before its signatures are verified.
pub fn fetch(upstream: &Upstream, net: &net::Options) -> Result<Vec<VendoredRole>> {
    let cache = tempfile::tempdir().context(code::VENDOR, || "can't create a temporary directory")?;
    let net::Options { ca, client_cert, client_key, .. } = net.clone();
    let (git, commit) = (Some(upstream.git.clone()), Some(upstream.commit.clone()));
    let config = Config { git, commit, ca, client_cert, client_key, ..Config::default() };
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
        .help("check the address; the name of the table must be the name of the other site"));
    }
    let names: BTreeSet<&str> =
        manifest.files.keys().filter_map(|path| path.strip_suffix("/role.toml")?.strip_prefix("roles/")).collect();
    if let Some(wanted) = upstream.roles.iter().find(|wanted| !names.contains(wanted.name.as_str())) {
        let error = error!(VENDOR, "{} has no role `{}` in release {}", upstream.site, wanted.name, manifest.serial)
            .at(wanted.place.clone(), "no such role");
        let known: Vec<&str> = names.into_iter().collect();
        return Err(error.help_nearest(&wanted.name, known.iter().copied(), format!("it has {}", known.join(", "))));
    }
    let part = announced.fetch_part(&*tree, &|path| upstream.roles.iter().any(|wanted| wanted.path(path).is_some()))?;
    upstream.roles.iter().map(|wanted| VendoredRole::of(wanted, upstream, &announced, part.get())).collect()
}

impl RoleRequest {
    /// The path in the role's directory for `path` of the other site; `None` for files that are not copied.
    fn path<'a>(&self, path: &'a str) -> Option<&'a str> {
        let path = path.strip_prefix("roles/")?.strip_prefix(self.name.as_str())?.strip_prefix('/')?;
        // not its own origin, and no examples of a renamed role, which use the old name
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
            .because("git would use its settings and hooks for your site")
            .help("nothing was written; no role needs such a file: inform the other site's signers"));
        }
        let here = files.iter().map(|(path, content)| (format!("roles/{own}/{path}"), content.clone())).collect();
        let requires = Role::load(&here, own)?.requires;
        let manifest = announced.manifest();
        let listed =
            manifest.files.iter().filter_map(|(path, listed)| Some((wanted.path(path)?.to_owned(), listed.clone())));
        let Upstream { site, git, commit, .. } = upstream;
        let (site, git, commit, role) = (site.clone(), git.clone(), commit.clone(), wanted.name.clone());
        let (serial, signers) = (manifest.serial, announced.signers.clone());
        let origin = Origin { site, git, commit, role, serial, signers, files: listed.collect() };
        Ok(Self { own: own.clone(), origin, files, requires, place: wanted.place.clone() })
    }
}

/// The changes to a site with these `files` to vendor `roles`. A role of the site's own, or one that was edited, is an error.
pub fn changes(files: &Files, roles: &[VendoredRole]) -> Result<Vec<Change>> {
    let (mut changes, mut errors) = (Vec::new(), Vec::new());
    let mut known: BTreeSet<String> = files.children("roles").into_iter().collect();
    known.extend(roles.iter().map(|role| role.own.clone()));
    for role in roles {
        if let Some(missing) = role.requires.iter().find(|name| !known.contains(*name)) {
            errors.push(
                error!(VENDOR, "the role {} requires `{missing}`, which the site does not have", role.own)
                    .at(role.place.clone(), "requires another one")
                    .help(format!("vendor `{missing}` too, or create it")),
            );
        }
        changes.extend(keep(&mut errors, role.changes(files)).into_iter().flatten());
    }
    Error::check(errors)?;
    Ok(changes)
}

impl VendoredRole {
    fn changes(&self, files: &Files) -> Result<Vec<Change>> {
        let own = &self.own;
        let before = Origin::read(files, own)?;
        let has = |path: &str| files.get(&format!("roles/{own}/{path}"));
        // a file that already has its new content is no edit, so that a killed run can be repeated
        let is_new = |path: &str| has(path).map(|content| &**content) == self.files.get(path).map(|content| &**content);
        if before.is_none() && origin::of_role(files, own).any(|(path, _)| !is_new(path)) {
            return Err(error!(VENDOR, "roles/{own}/ exists already, and is not vendored")
                .at(self.place.clone(), "would be written there")
                .help("vendor it under another name, { name = \"NAME\", as = \"OWN NAME\" }, or move your role; nothing was written"));
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
        let removed = origin::of_role(files, own).filter(|(path, _)| !self.files.contains_key(*path));
        let mut changes: Vec<Change> = removed.map(|(path, _)| change(path, None)).collect();
        let origin: Arc<[u8]> = self.origin.to_toml().into_bytes().into();
        let own_files = self.files.iter().map(|(path, content)| (path.as_str(), content));
        let all = own_files.chain([(ORIGIN, &origin)]);
        changes.extend(
            all.filter(|(path, content)| has(path) != Some(content)).map(|(path, content)| change(path, Some(content))),
        );
        Ok(changes)
    }
}

/// Applies these changes to the site in `dir`. Removals come first, since new files can need their paths.
pub fn write(dir: &Path, changes: &[Change]) -> Result<()> {
    for Change { path, .. } in changes.iter().filter(|change| change.content.is_none()) {
        let path = dir.join(path);
        std::fs::remove_file(&path).context(code::VENDOR, || format!("can't remove {}", path.display()))?;
        // removes directories that are empty now
        path.ancestors().skip(1).take_while(|above| std::fs::remove_dir(above).is_ok()).for_each(drop);
    }
    let content = |change: &Change| Some((dir.join(&change.path), change.content.clone()?));
    replace(&changes.iter().filter_map(content).collect::<Vec<_>>())
}
