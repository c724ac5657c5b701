//! `roles/NAME/origin.toml`: the origin of a vendored role, and its files at that time.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;

use crate::document::{Doc, Files, quoted};
use crate::error::Result;
use crate::trust::Listed;

/// Its name in the directory of a role.
pub const ORIGIN: &str = "origin.toml";

/// The origin of a vendored role.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The other site's name.
    pub site: String,
    /// The address of its repository.
    pub git: String,
    /// The commit.
    pub commit: String,
    /// The name of the role in the other site.
    pub role: String,
    /// The serial of the release at that commit.
    pub serial: u64,
    /// Those of the named signers who signed it.
    pub signers: Vec<String>,
    /// Every file, by its path in the role's directory, as the release lists it.
    pub files: BTreeMap<String, Listed>,
}

/// How a file of a role differs from the vendored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// It has other content.
    Changed,
    /// It is missing.
    Removed,
    /// It was added.
    Added,
}

impl Origin {
    /// Reads the origin of `role`; `None` if it is the site's own.
    pub fn read(files: &Files, role: &str) -> Result<Option<(Doc, Self)>> {
        let Some(doc) = files.doc(&path(role))? else { return Ok(None) };
        let origin = doc.read().map_err(|error| {
            error.or_help(
                "`kpull vendor` writes this file: restore it from git, or delete it and edit the role as your own",
            )
        })?;
        Ok(Some((doc, origin)))
    }

    /// The text of the file.
    pub fn to_toml(&self) -> String {
        let mut text = "# Written by `kpull vendor`: edit the role at its origin, and vendor it again.\n".to_owned();
        for (key, value) in [("site", &self.site), ("git", &self.git), ("commit", &self.commit), ("role", &self.role)] {
            let _ = writeln!(text, "{key} = {}", quoted(value));
        }
        let signers: Vec<String> = self.signers.iter().map(|name| quoted(name)).collect();
        let _ = writeln!(text, "serial = {}\nsigners = [{}]\n\n[files]", self.serial, signers.join(", "));
        for (path, Listed { sha256, size }) in &self.files {
            let _ = writeln!(text, "{} = {{ sha256 = \"{sha256}\", size = {size} }}", quoted(path));
        }
        text
    }

    /// Every file of `role` that differs from the vendored one, by its path in the role's directory.
    pub fn edits(&self, files: &Files, role: &str) -> BTreeMap<String, Edit> {
        let mut edits: BTreeMap<String, Edit> = self.files.keys().map(|path| (path.clone(), Edit::Removed)).collect();
        for (path, content) in of_role(files, role) {
            match self.files.get(path) {
                Some(listed) if listed.matches(content) => drop(edits.remove(path)),
                Some(_) => drop(edits.insert(path.to_owned(), Edit::Changed)),
                None => drop(edits.insert(path.to_owned(), Edit::Added)),
            }
        }
        edits
    }
}

/// Its path in a site.
pub fn path(role: &str) -> String {
    format!("roles/{role}/{ORIGIN}")
}

/// The files of a role by their paths in its directory, without [`ORIGIN`].
pub fn of_role<'a>(files: &'a Files, role: &str) -> impl Iterator<Item = (&'a str, &'a [u8])> {
    let prefix = format!("roles/{role}/");
    files.iter().filter_map(move |(path, content)| {
        path.strip_prefix(&prefix).filter(|path| *path != ORIGIN).map(|path| (path, &**content))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_whatever_the_names_are() {
        let files = [("it's \"a\" = { } # [x]", "1"), ("files/é/b", ""), ("role.toml", "summary")];
        let listed = files.map(|(path, text)| (path.to_owned(), Listed::of(text.as_bytes())));
        let origin = Origin {
            site: "x\nserial = 9".into(),
            git: "ssh://git@h/a b".into(),
            commit: "0".repeat(40),
            role: "web".into(),
            serial: 7,
            signers: vec!["alice@example \"A\"".into(), "bob".into()],
            files: listed.into(),
        };
        let site: Files =
            [("roles/w/origin.toml".to_owned(), origin.to_toml().into_bytes().into())].into_iter().collect();
        assert_eq!(Origin::read(&site, "w").unwrap().unwrap().1, origin);
        assert!(Origin::read(&site, "v").unwrap().is_none());
    }

    #[test]
    fn each_file_that_differs_from_the_vendored_one_is_reported_and_no_other() {
        let file = |path: &str, text: &str| (format!("roles/{path}"), text.as_bytes().into());
        let listed = |path: &str, text: &str| (path.to_owned(), Listed::of(text.as_bytes()));
        let origin = Origin {
            site: "s".into(),
            git: "/g".into(),
            commit: "0".repeat(40),
            role: "w".into(),
            serial: 1,
            signers: Vec::new(),
            files: [listed("same", "a"), listed("changed", "a"), listed("removed", "a")].into(),
        };
        let site = [
            file("w/same", "a"),
            file("w/changed", "b"),
            file("w/added", "a"),
            file("w/origin.toml", "x"),
            file("ww/x", "a"),
        ];
        let edits = origin.edits(&site.into_iter().collect(), "w");
        let expected = [("added", Edit::Added), ("changed", Edit::Changed), ("removed", Edit::Removed)];
        assert_eq!(edits, expected.map(|(path, edit)| (path.to_owned(), edit)).into());
    }
}
