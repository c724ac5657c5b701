//! `artifacts.toml`: upstream files, pinned by digest, one for each architecture.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::{Doc, Files, Format, Path, READABLE};
use crate::error::{Result, error};
use crate::net;

/// `[NAME]` in `artifacts.toml`.
#[derive(Debug)]
pub struct Artifact {
    /// The upstream version, for people and templates.
    pub version: String,
    /// Its pins, by architecture as Go names them (`amd64`, `arm64`).
    pub pins: BTreeMap<String, Pin>,
}

/// One pinned upstream file, for one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The artifact's name.
    pub name: String,
    /// The upstream version.
    pub version: String,
    /// Its addresses, in the order to try.
    pub urls: Vec<String>,
    /// Lower-case hex of its SHA-256.
    pub sha256: String,
    /// Its size in bytes, if that is known.
    pub size: Option<u64>,
    /// Its format.
    pub format: Format,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ArtifactFile {
    /// The upstream version, for readers and templates.
    version: String,
    /// The file for x86-64.
    amd64: Option<PinFile>,
    /// The file for 64-bit ARM.
    arm64: Option<PinFile>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PinFile {
    /// The address of the file.
    url: Option<String>,
    /// Mirrors, in the order to try.
    #[serde(default)]
    urls: Vec<String>,
    /// Its SHA-256: 64 hexadecimal digits in small letters.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    sha256: String,
    /// Its size in bytes, or `"unknown"` if the publisher can't be reached now. `kpull check` refuses a pin without it.
    size: Option<Size>,
    /// Its format, if the end of the first address does not indicate it; `file` for a file to install unchanged.
    format: Option<Format>,
}

/// The size in a pin.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a number of bytes, or \"unknown\"")]
enum Size {
    /// Bytes.
    Bytes(u64),
    /// Unknown.
    Unknown(Unknown),
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Unknown {
    Unknown,
}

/// Whether a text is a SHA-256: 64 hex digits in lower case.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// Reads `artifacts.toml`; no artifacts if there is none.
pub fn read(files: &Files) -> Result<BTreeMap<String, Artifact>> {
    let Some(doc) = files.doc("artifacts.toml")? else { return Ok(BTreeMap::new()) };
    let read: BTreeMap<String, ArtifactFile> = doc.read()?;
    read.into_iter().map(|(name, file)| Ok((name.clone(), artifact(&doc, &name, file)?))).collect()
}

fn artifact(doc: &Doc, name: &str, file: ArtifactFile) -> Result<Artifact> {
    let mut pins = BTreeMap::new();
    for (architecture, pin) in [("amd64", file.amd64), ("arm64", file.arm64)] {
        let Some(pin) = pin else { continue };
        let at = |field: &str| vec![name.to_owned(), architecture.to_owned(), field.to_owned()];
        if !is_sha256(&pin.sha256) {
            return Err(error!(PIN, "the digest of {name} ({architecture}) is not a SHA-256")
                .at(doc.place(&at("sha256")), "expected 64 hexadecimal digits in lower case")
                .help("copy it from the publisher; then `sha256sum FILE` must print the same for the file"));
        }
        let mirrors = pin.urls.into_iter().enumerate();
        let mirrors = mirrors.map(|(index, url)| (url, [at("urls"), vec![index.to_string()]].concat()));
        let urls: Vec<(String, Path)> = pin.url.into_iter().map(|url| (url, at("url"))).chain(mirrors).collect();
        if urls.is_empty() {
            return Err(error!(PIN, "{name} ({architecture}) has no address")
                .at(doc.place(&at("url")), "no address here")
                .help("set `url`, or `urls` with mirrors in the order to try"));
        }
        for (url, path) in urls.iter().filter(|(url, _)| !url.starts_with("file:///")) {
            net::parse(url).map_err(|error| error.at(doc.place(path), "an address of this artifact"))?;
        }
        let format = match (pin.format, urls.first()) {
            (Some(format), _) => format,
            (None, Some((url, path))) => Format::of(url).map_err(|what| {
                error!(PIN, "{name} ({architecture}) is {what}, which can't be unpacked")
                    .at(doc.place(path), "its name indicates this")
                    .help(READABLE)
            })?,
            (None, None) => Format::Plain,
        };
        let urls = urls.into_iter().map(|(url, _)| url).collect();
        let (name, version) = (name.to_owned(), file.version.clone());
        let size = match pin.size {
            Some(Size::Bytes(bytes)) => Some(bytes),
            Some(Size::Unknown(_)) | None => None,
        };
        let found = Pin { name, version, urls, sha256: pin.sha256, size, format };
        pins.insert(architecture.to_owned(), found);
    }
    if pins.is_empty() {
        return Err(error!(PIN, "the artifact {name} is not pinned for any architecture")
            .at(doc.place(&[name.to_owned()]), "no pin here")
            .help("add `amd64 = { url = \"…\", sha256 = \"…\" }`"));
    }
    Ok(Artifact { version: file.version, pins })
}
