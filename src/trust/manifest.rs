//! `release.toml`: what signers sign. A site's name, a serial, two times, and every file with its size and digest.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::site::{Doc, Files};
use crate::trust::is_part;

/// The version of the format that this program writes, and the only one that it reads.
pub const FORMAT: i64 = 1;

/// A release's manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The site's name.
    pub site: String,
    /// Grows with every release.
    pub serial: u64,
    /// When it was made.
    pub created: Timestamp,
    /// From when on no host takes it any more.
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestFile {
    #[serde(rename = "format")]
    _format: i64,
    site: String,
    serial: u64,
    created: Timestamp,
    expires: Timestamp,
    files: BTreeMap<String, Listed>,
}

impl Listed {
    /// How `content` is listed.
    pub fn of(content: &[u8]) -> Self {
        Self { sha256: hex::encode(Sha256::digest(content)), size: content.len() as u64 }
    }

    /// Whether `content` is what is listed.
    pub fn matches(&self, content: &[u8]) -> bool {
        self.size == content.len() as u64 && self.sha256 == hex::encode(Sha256::digest(content))
    }
}

impl Manifest {
    /// The manifest of a site as it is.
    pub fn of(files: &Files, site: &str, serial: u64, created: Timestamp, expires: Timestamp) -> Self {
        let files = files.iter().map(|(path, content)| (path.to_owned(), Listed::of(content))).collect();
        Self { site: site.to_owned(), serial, created, expires, files }
    }

    /// As the text that is signed.
    pub fn to_toml(&self) -> String {
        // JSON's strings are TOML's, on one line and with one kind of quotes, so they can be keys too
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
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

    /// Reads a manifest whose signatures are good.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let doc = Doc::parse(crate::trust::MANIFEST, bytes).map_err(refused)?;
        match doc.value().get("format").and_then(serde_json::Value::as_i64) {
            Some(FORMAT) => {}
            Some(other) => {
                return Err(Error::refused(format!(
                    "the release has format {other}, and this kpull reads format {FORMAT}"
                ))
                .help("update kpull on this host"));
            }
            None => {
                return Err(
                    Error::refused("the release does not say which format it has").help("sign it with `kpull sign`")
                );
            }
        }
        let ManifestFile { site, serial, created, expires, files, .. } = doc.read::<ManifestFile>().map_err(refused)?;
        for (path, listed) in &files {
            check_path(path)?;
            if listed.sha256.len() != 64
                || !listed.sha256.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
            {
                return Err(Error::refused(format!("the release lists {path} with something that is not a SHA-256")));
            }
        }
        Ok(Self { site, serial, created, expires, files })
    }
}

/// Refuses a path that leads out of the tree, that could be spelled in two ways, or that is no part of a site.
fn check_path(path: &str) -> Result<()> {
    let plain = path.split('/').all(|name| !name.is_empty() && name != "." && name != ".." && name.len() <= 255);
    if !plain || path.len() > 4096 || path.contains('\\') || path.chars().any(char::is_control) {
        return Err(Error::refused(format!("the release lists a path outside the tree: `{path}`"))
            .help("`kpull sign` makes no such release: somebody wrote this one by hand"));
    }
    if !is_part(path) {
        return Err(Error::refused(format!("the release lists `{path}`, which is no part of a site"))
            .help("sign again with `kpull sign`"));
    }
    Ok(())
}

fn refused(error: Error) -> Error {
    error.exit(crate::Exit::Refused)
}
