//! `release.toml`, the signed manifest: the site's name, a serial, two times, and every file with its size and digest.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::document::layout::MANIFEST;
use crate::document::{Doc, Files, is_sha256, quoted};
use crate::error::{Error, Result, refused};
use crate::trust::is_part;

/// The version of the format that this program writes, and the only one it reads.
pub const FORMAT: i64 = 1;

const BY_HAND: &str = "`kpull sign` creates no such release: someone wrote this one by hand";

/// A release's manifest.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the format.
    pub format: i64,
    /// The site's name.
    pub site: String,
    /// Increases with every release.
    pub serial: u64,
    /// When it was created.
    pub created: Timestamp,
    /// The time from which hosts refuse it.
    pub expires: Timestamp,
    /// Every file of the site.
    pub files: BTreeMap<String, Listed>,
}

/// A file as a manifest lists it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// Lower-case hex of its SHA-256.
    pub sha256: String,
    /// Its bytes.
    pub size: u64,
}

impl Listed {
    /// The entry of `content`.
    pub fn of(content: &[u8]) -> Self {
        Self { sha256: hex::encode(Sha256::digest(content)), size: content.len() as u64 }
    }

    /// Whether `content` matches this entry.
    pub fn matches(&self, content: &[u8]) -> bool {
        self.size == content.len() as u64 && self.sha256 == hex::encode(Sha256::digest(content))
    }
}

impl Manifest {
    /// The manifest of these files.
    pub fn of(files: &Files, site: &str, serial: u64, created: Timestamp, expires: Timestamp) -> Self {
        let files = files.iter().map(|(path, content)| (path.to_owned(), Listed::of(content))).collect();
        Self { format: FORMAT, site: site.to_owned(), serial, created, expires, files }
    }

    /// The text to sign.
    pub fn to_toml(&self) -> String {
        let mut text = format!("format = {FORMAT}\nsite = {}\n", quoted(&self.site));
        let _ = writeln!(
            text,
            "serial = {}\ncreated = {:.0}\nexpires = {:.0}\n\n[files]",
            self.serial, self.created, self.expires
        );
        for (path, Listed { sha256, size }) in &self.files {
            let _ = writeln!(text, "{} = {{ sha256 = \"{sha256}\", size = {size} }}", quoted(path));
        }
        text
    }

    /// Reads a manifest whose signatures have been verified.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let doc = Doc::parse(MANIFEST, bytes).map_err(by_hand)?;
        match doc.value().get("format").and_then(serde_json::Value::as_i64) {
            Some(FORMAT) => {}
            Some(other) => {
                return Err(refused!(MANIFEST, "the release has format {other}, and this kpull reads format {FORMAT}")
                    .help("update kpull on this host"));
            }
            None => {
                return Err(refused!(MANIFEST, "the release does not say which format it has")
                    .help("sign it with `kpull sign`"));
            }
        }
        let manifest: Self = doc.read().map_err(by_hand)?;
        for (path, listed) in &manifest.files {
            check_path(path)?;
            if !is_sha256(&listed.sha256) {
                return Err(
                    refused!(MANIFEST, "the release lists {path} with something that is not a SHA-256").help(BY_HAND)
                );
            }
        }
        Ok(manifest)
    }
}

/// Refuses a path that leads out of the tree, that has another spelling, or that is not part of a site.
fn check_path(path: &str) -> Result<()> {
    let plain = path.split('/').all(|name| !name.is_empty() && name != "." && name != ".." && name.len() <= 255);
    if !plain || path.len() > 4096 || path.contains('\\') || path.chars().any(char::is_control) {
        return Err(refused!(MANIFEST, "the release lists a path outside the tree: `{path}`").help(BY_HAND));
    }
    if !is_part(path) {
        return Err(refused!(MANIFEST, "the release lists `{path}`, which is not part of a site")
            .help("sign again with `kpull sign`"));
    }
    Ok(())
}

/// A refusal for an error in the text, without advice about TOML, which does not help whoever runs a host.
fn by_hand(error: Error) -> Error {
    error.exit(crate::Exit::Refused).help(BY_HAND)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(site: &str, paths: &[&str]) -> Manifest {
        let files: Files = paths.iter().map(|path| ((*path).to_owned(), path.as_bytes().into())).collect();
        let created = "2026-11-24T03:50:00Z".parse().unwrap();
        let expires = "2026-12-24T03:50:00Z".parse().unwrap();
        Manifest::of(&files, site, 7, created, expires)
    }

    #[test]
    fn what_is_signed_reads_as_it_was_meant_whatever_the_names_are() {
        let paths = [
            "site.toml",
            "roles/a b/role.toml",
            "roles/x/files/it's",
            "roles/x/files/\"quoted\"",
            "roles/x/files/'''\"\"\"",
            "roles/x/files/a = { } # [x]",
            "roles/x/files/å→\u{1f512}",
            "roles/x/files/e\u{301}",
            "roles/x/files/é",
            "roles/x/files/…",
            "roles/x/files/..a",
            "roles/x/files/a..",
            "roles/x/files/-",
            "roles/x/files/\u{202e}x",
        ];
        for site in ["lab", "it's \"the\" lab", "lab\nserial = 9", "a\\b", "\u{1b}[2J", ""] {
            let manifest = manifest(site, &paths);
            let text = manifest.to_toml();
            assert_eq!(Manifest::parse(text.as_bytes()).unwrap(), manifest, "{text}");
            assert_eq!(text.lines().count(), 7 + paths.len(), "each file has a line of its own");
        }
    }

    #[test]
    fn the_text_that_is_signed_stays_as_it_is() {
        // a signature is over these bytes: a change of them is a change of the format
        let text = manifest("lab", &["site.toml"]).to_toml();
        let expected = "format = 1\nsite = \"lab\"\nserial = 7\ncreated = 2026-11-24T03:50:00Z\n\
            expires = 2026-12-24T03:50:00Z\n\n[files]\n\"site.toml\" = { sha256 = \
            \"42c7497436167fac285b3d87c0971ca373edb13c798700c4c903f60c795daf8e\", size = 9 }\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_name_that_no_host_accepts_is_reported_when_it_is_read() {
        for path in ["roles/a\nb", "roles/a\u{7f}", "roles/a\\b", "README.md"] {
            let text = manifest("lab", &[path]).to_toml();
            assert_eq!(Manifest::parse(text.as_bytes()).unwrap_err().exit_code(), crate::Exit::Refused, "{path:?}");
        }
    }

    #[test]
    fn a_key_that_is_not_known_or_missing_is_refused_by_name() {
        let text = manifest("lab", &["site.toml"]).to_toml();
        let problem = |text: &str| Manifest::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(problem(&text.replace("serial = 7\n", "")).contains("serial"));
        assert!(problem(&text.replace("serial", "seriel")).contains("seriel"));
        assert!(problem(&text.replace("size", "length")).contains("length"));
        assert!(problem(&text.replace("2026-12-24T03:50:00Z", "\"soon\"")).contains("expires"));
        assert!(problem(&text.replace("2026-12-24T03:50:00Z", "2026-12-24T03:50:00")).contains("expires"));
    }

    #[test]
    fn a_listed_file_is_recognized_by_its_size_and_its_digest() {
        let listed = Listed::of(b"x");
        assert!(listed.matches(b"x"));
        assert!(!listed.matches(b"y"));
        assert!(!Listed { size: 2, ..listed.clone() }.matches(b"x"));
        assert!(!Listed { sha256: "0".repeat(64), ..listed }.matches(b"x"));
    }

    #[test]
    fn a_path_is_spelled_in_one_way_and_no_longer_than_a_host_can_have_it() {
        let (name, parent) = ("n".repeat(255), "roles/".to_owned() + &"d/".repeat(2044));
        let (longest, ways) = (format!("{parent}ab"), ["roles/.x", "roles/..x", "roles/x.."]);
        assert_eq!(longest.len(), 4096);
        let refused = |bad: &str| {
            let error = check_path(bad).unwrap_err().to_string();
            assert!(error.starts_with("the release lists a path outside the tree: `"), "{bad}: {error}");
        };
        for good in [&format!("roles/{name}"), &longest].into_iter().map(String::as_str).chain(ways) {
            check_path(good).unwrap();
        }
        for bad in ["", "/site.toml", "roles//x", "roles/./x", "roles/x/..", "roles/x/", "roles/x\ty", "roles/x\\y"] {
            refused(bad);
        }
        refused(&format!("roles/{name}n"));
        refused(&format!("{longest}c"));
        let error = check_path("secrets.toml").unwrap_err();
        assert_eq!(error.to_string(), "the release lists `secrets.toml`, which is not part of a site");
    }
}
