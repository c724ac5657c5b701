//! Checks that only one resource claims each thing, whatever links lead to a path.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use crate::error::{Error, code, error};
use crate::kind::block::Block;
use crate::kind::edit::FileEdit;
use crate::kind::file::File;
use crate::kind::symlink::Symlink;
use crate::kind::validate::Validate;
use crate::kind::{Claim, Item};

/// Directories that are links on usual hosts, and their targets.
const USUAL: [(&str, &str); 6] = [
    ("/bin", "/usr/bin"),
    ("/lib", "/usr/lib"),
    ("/lib64", "/usr/lib64"),
    ("/sbin", "/usr/sbin"),
    ("/var/lock", "/run/lock"),
    ("/var/run", "/run"),
];

/// How many links are followed for one path, as in the kernel.
const LINKS_MAX: usize = 40;

/// The links between directories that are known without a host: the usual ones, and those in a catalog.
#[derive(Debug)]
pub(super) struct Links(BTreeMap<PathBuf, PathBuf>);

impl Links {
    /// The links of a host with these resources.
    pub(super) fn of(items: &[Item]) -> Self {
        let usual = USUAL.iter().map(|(path, target)| (path.into(), target.into()));
        let own = items.iter().filter_map(Item::as_kind::<Symlink>);
        Self(usual.chain(own.map(Symlink::ends).map(|(path, target)| (path.to_owned(), target))).collect())
    }

    /// The path with all links in its directory resolved; the last name is not followed.
    pub(super) fn straight(&self, path: &Path) -> PathBuf {
        let mut straight = path.to_owned();
        for _ in 0..LINKS_MAX {
            let link = straight.ancestors().skip(1).find_map(|dir| Some((dir, self.0.get(dir)?)));
            let Some((dir, target)) = link else { break };
            // below `dir`, since that is one of the directories above it
            let Ok(below) = straight.strip_prefix(dir) else { break };
            straight = target.join(below);
        }
        straight
    }

    /// The paths that a resource owns, resolved by [`Links::straight`].
    pub(super) fn paths_of(&self, item: &Item) -> Vec<PathBuf> {
        item.about.paths().map(|path| self.straight(path)).collect()
    }
}

/// Two resources that claim the same thing, or one the whole of what the other claims a part of.
#[derive(Debug)]
pub struct Clash {
    /// Their positions in the catalog.
    pub items: [usize; 2],
    /// The name that each of them uses.
    pub names: [String; 2],
}

impl Clash {
    /// The error on a host where the two are the same.
    pub fn on_host(&self, items: &[Item]) -> Error {
        let ([first, second], [one, other]) = (self.items.map(|at| &items[at]), &self.names);
        error!(CLASH, "{} and {} manage the same path of this host", first.id, second.id)
            .because(format!("`{one}` and `{other}` are the same path: a link or a mount connects the two directories"))
            .at(second.place.clone(), format!("the other one is at {}", first.place))
            .help(format!("keep one of them, or remove the link (`namei {one} {other}` shows it)"))
    }
}

/// All clashes, where `place` identifies a path.
pub fn clashes(items: &[Item], place: impl Fn(&Path) -> PathBuf) -> Vec<Clash> {
    let mut owners: HashMap<Claim, (usize, String)> = HashMap::new();
    let mut parts: HashMap<Claim, (usize, String)> = HashMap::new();
    let mut found = Vec::new();
    for (at, item) in items.iter().enumerate() {
        for written in &item.about.claims {
            let (claim, name) = (written.with_place(&place), written.subject());
            let whole = claim.whole();
            let other =
                owners.get(whole.unwrap_or(&claim)).or_else(|| parts.get(&claim).filter(|_| whole.is_none())).cloned();
            if let Some(whole) = whole {
                parts.entry(whole.clone()).or_insert((at, name.clone()));
            }
            match other.or_else(|| owners.get(&claim).cloned()) {
                Some((first, first_name)) => found.push(Clash { items: [first, at], names: [first_name, name] }),
                None => drop(owners.insert(claim, (at, name))),
            }
        }
    }
    found
}

/// An error for each clash, and for each path below a file.
pub(super) fn errors(items: &[Item]) -> Vec<Error> {
    let links = Links::of(items);
    let clashes = clashes(items, |path| links.straight(path));
    let mut errors: Vec<Error> = clashes.iter().map(|clash| explain(clash, items)).collect();
    errors.extend(below_files(items, &links));
    errors.extend(contradictions(items, &links));
    errors.extend(covered_files(items, &links));
    errors
}

/// An error for each two edits of one file that can't both be in effect.
fn contradictions(items: &[Item], links: &Links) -> Vec<Error> {
    let mut edits: HashMap<PathBuf, Vec<(&Item, &FileEdit)>> = HashMap::new();
    let mut errors = Vec::new();
    for (item, edit) in items.iter().filter_map(|item| Some((item, item.as_kind::<FileEdit>()?))) {
        let others = edits.entry(links.straight(&edit.file.path)).or_default();
        for (first, _) in others.iter().filter(|(_, other)| edit.contradicts(other)) {
            let what = format!("{} and {} change the same part of `{}`", first.id, item.id, edit.file.path);
            let error = Error::new(code::CLASH, what).at(item.place.clone(), "here again");
            errors.push(error.help(format!("the other one is at {}; keep one of them", first.place)));
        }
        others.push((item, edit));
    }
    errors
}

/// An error for each file or link where a `[[validate]]` needs a directory.
fn covered_files(items: &[Item], links: &Links) -> Vec<Error> {
    let is_file = |item: &&Item| {
        item.as_kind::<File>().is_some()
            || item.as_kind::<Block>().is_some()
            || item.as_kind::<FileEdit>().is_some()
            || item.as_kind::<Symlink>().is_some()
    };
    let mut errors = Vec::new();
    let validates = items.iter().filter(|item| item.as_kind::<Validate>().is_some());
    for (item, path) in validates.flat_map(|item| item.about.covers.iter().map(move |path| (item, path))) {
        let is_at = |claim: &Claim| claim.any_path().is_some_and(|at| links.straight(at) == links.straight(path));
        let Some(file) = items.iter().filter(is_file).find(|file| file.about.claims.iter().any(is_at)) else {
            continue;
        };
        let what = format!("`{}` in the `paths` of {} is not a directory", path.display(), item.id);
        let error = Error::new(code::CLASH, what).because(format!("{} is at {}", file.id, file.place));
        errors.push(
            error
                .at(item.place.clone(), "this resource")
                .help("name the directory that contains it; to check a single file, set its `validate`"),
        );
    }
    errors
}

fn explain(Clash { items: [first, second], names: [first_name, name] }: &Clash, items: &[Item]) -> Error {
    let (first, item) = (&items[*first], &items[*second]);
    let mut error = match first.role == item.role {
        true => error!(CLASH, "`{name}` occurs twice in the role {}", item.role),
        false => error!(CLASH, "two roles manage `{name}`: {} and {}", first.role, item.role),
    };
    if first_name != name {
        error = error.because(format!("`{first_name}` and `{name}` are the same path on hosts, because of a link"));
    }
    let help = match [first, item].iter().any(|one| one.about.kind == "firewall") {
        true => format!(
            "the other one is at {}; firewalld writes this file for a [[firewall]]: set its content there (`target`, `sources`, `services`, …), and remove the file",
            first.place
        ),
        false => format!("the other one is at {}; keep one of them", first.place),
    };
    error.at(item.place.clone(), "here again").help(help)
}

/// An error for each path below a file.
fn below_files(items: &[Item], links: &Links) -> Vec<Error> {
    let files: HashMap<PathBuf, &Item> = items
        .iter()
        .filter(|item| item.as_kind::<File>().is_some())
        .flat_map(|item| links.paths_of(item).into_iter().map(move |path| (path, item)))
        .collect();
    let mut errors = Vec::new();
    for item in items {
        for path in links.paths_of(item) {
            let above = path.ancestors().skip(1).find_map(|above| Some((above, files.get(above)?)));
            let Some((above, file)) = above else { continue };
            let (path, above) = (path.display(), above.display());
            let what = format!("`{path}` can't exist: `{above}` is a file");
            let error = Error::new(code::CLASH, what).at(item.place.clone(), "this resource");
            errors.push(error.help(format!("the file is at {}; use another path for one of them", file.place)));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::testing::catalog;

    #[test]
    fn a_path_is_straight_by_the_usual_links_and_by_those_of_the_catalog() {
        let link = |path: &str, target: &str| format!("[[symlink]]\npath = '{path}'\ntarget = '{target}'\n");
        let role = [link("/opt/current", "v1"), link("/srv/a", "/srv/b"), link("/srv/b", "/srv/a")].concat();
        let links = Links::of(&catalog(&role).unwrap().items);
        for (path, straight) in [
            ("/lib/udev/rules.d/x", "/usr/lib/udev/rules.d/x"),
            ("/var/run/a", "/run/a"),
            ("/var/lock/x/y", "/run/lock/x/y"),
            ("/opt/current/bin/x", "/opt/v1/bin/x"),
            ("/var/running/a", "/var/running/a"),
            // a link itself is what it is
            ("/lib", "/lib"),
            ("/opt/current", "/opt/current"),
        ] {
            assert_eq!(links.straight(Path::new(path)), Path::new(straight));
        }
        // links in a circle lead nowhere, in finite time
        links.straight(Path::new("/srv/a/x"));
    }
}
