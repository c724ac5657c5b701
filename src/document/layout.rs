//! The names of a release's own files, and the layout of the directories that `kpull publish` and `kpull mirror` write: by digest, and
//! immutable.
//!
//! Only [`POINTER`] changes, which names the newest release. It need not be signed, since the release is.

use serde::Deserialize;

use crate::document::{is_sha256, quoted};
use crate::error::{Error, Result, code};

/// The name of a release's manifest, with the size and digest of all other files.
pub const MANIFEST: &str = "release.toml";
/// The name of the file with the signatures over the manifest.
pub const SIGNATURES: &str = "release.toml.sig";
/// The maximum size of a manifest in bytes.
pub const LARGEST_MANIFEST: u64 = 8 << 20;
/// The maximum size of the signatures of a release in bytes.
pub const LARGEST_SIGNATURES: u64 = 64 << 10;

/// The path of the key set with this number in a site.
pub fn key_set(number: u64) -> String {
    format!("keys/{number}.toml")
}

/// The name of the pointer to the newest release.
pub const POINTER: &str = "current.toml";
/// The maximum size of a pointer in bytes.
pub const POINTER_MAX: u64 = 4 << 10;
/// The directory of blobs: files of releases, their manifests and signatures, by digest.
pub const BLOBS: &str = "blobs";
/// The directory of the pointers of this and earlier releases, by serial.
pub const RELEASES: &str = "releases";
/// The directory of artifacts in a mirror, by digest.
pub const ARTIFACTS: &str = "sha256";

const FORMAT: i64 = 1;

/// Names the newest release. It is untrusted.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Pointer {
    format: i64,
    /// The site's name.
    pub site: String,
    /// The release's serial.
    pub serial: u64,
    /// SHA-256 of its `release.toml`, in lower-case hex.
    pub manifest: String,
    /// SHA-256 of its `release.toml.sig`, in lower-case hex.
    pub signatures: String,
}

impl Pointer {
    /// A pointer of this version of the format.
    pub fn new(site: String, serial: u64, manifest: String, signatures: String) -> Self {
        Self { format: FORMAT, site, serial, manifest, signatures }
    }

    /// Reads a pointer; `name` is its name in messages.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self> {
        let wrong = |why: &str| {
            Error::refused(code::SUPPLY, format!("{name} does not point to a release"))
                .because(why)
                .help("publish a release there with `kpull publish`")
        };
        if bytes.len() as u64 > POINTER_MAX {
            return Err(wrong("it is too long"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("it is not text"))?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| wrong(error.message()))?;
        match table.get("format").and_then(toml::Value::as_integer) {
            Some(FORMAT) => {}
            Some(other) => {
                return Err(Error::refused(
                    code::SUPPLY,
                    format!("{name} has format {other}, and this kpull reads format {FORMAT}"),
                )
                .help("update kpull on this host"));
            }
            None => return Err(wrong("it has no `format`")),
        }
        let pointer: Self = table.try_into().map_err(|error: toml::de::Error| wrong(error.message()))?;
        if !is_sha256(&pointer.manifest) || !is_sha256(&pointer.signatures) {
            return Err(wrong("a digest in it is not a SHA-256"));
        }
        Ok(pointer)
    }

    /// As text.
    pub fn to_toml(&self) -> String {
        let Self { format, site, serial, manifest, signatures } = self;
        let site = quoted(site);
        // nginx and others distinguish states of a file by modification second and size, so releases published within one second
        // must differ in size
        let first = signatures.chars().next().and_then(|digit| digit.to_digit(16)).unwrap_or_default();
        let padding = "#".repeat(1 + (serial % 16) as usize + 16 * first as usize);
        format!(
            "format = {format}\nsite = {site}\nserial = {serial}\nmanifest = \"{manifest}\"\nsignatures = \"{signatures}\"\n{padding}\n"
        )
    }
}

/// The path of a blob.
pub fn blob(sha256: &str) -> String {
    format!("{BLOBS}/{sha256}")
}

/// The path of the stored pointer of a release.
pub fn release(serial: u64) -> String {
    format!("{RELEASES}/{serial}.toml")
}

/// The path of an artifact in a mirror.
pub fn artifact(sha256: &str) -> String {
    format!("{ARTIFACTS}/{sha256}")
}

/// The address of an artifact in the mirror at this address.
pub fn artifact_in(mirror: &str, sha256: &str) -> String {
    format!("{}/{}", mirror.trim_end_matches('/'), artifact(sha256))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(site: &str) -> Pointer {
        Pointer::new(site.into(), 7, "a".repeat(64), "b".repeat(64))
    }

    #[test]
    fn a_pointer_reads_as_it_was_written_whatever_the_site_is_called() {
        for site in ["lab", "it's \"the\" lab", "lab\nserial = 9", "a\\b", "\u{1b}[2J", ""] {
            let pointer = pointer(site);
            assert_eq!(Pointer::parse("p", pointer.to_toml().as_bytes()).unwrap(), pointer);
        }
    }

    #[test]
    fn pointers_that_may_follow_each_other_have_different_sizes() {
        let size = |serial, digit: &str| {
            let signatures = digit.repeat(64);
            Pointer::new("lab".into(), serial, "a".repeat(64), signatures).to_toml().len()
        };
        assert_ne!(size(1, "a"), size(2, "a"));
        assert_ne!(size(15, "a"), size(16, "a"));
        assert_ne!(size(1, "a"), size(1, "b"));
        assert!(size(u64::MAX, "f") < POINTER_MAX as usize);
    }

    #[test]
    fn what_is_no_pointer_is_refused_with_its_reason() {
        let text = pointer("lab").to_toml();
        let problem = |text: &str| Pointer::parse("p", text.as_bytes()).unwrap_err().to_string();
        assert_eq!(problem(""), "p does not point to a release: it has no `format`");
        assert_eq!(problem(&text.replace("format = 1", "format = 2")), "p has format 2, and this kpull reads format 1");
        assert!(
            problem(&text.replace(&"a".repeat(64), "../../etc/passwd")).ends_with("a digest in it is not a SHA-256")
        );
        assert!(problem(&text.replace("serial", "seriel")).contains("seriel"));
        assert!(problem("<!doctype html>").starts_with("p does not point to a release: "));
        assert!(problem(&" ".repeat(5000)).ends_with("it is too long"));
        assert_eq!(Pointer::parse("p", &[0xff]).unwrap_err().exit_code(), crate::Exit::Refused);
    }

    #[test]
    fn a_mirror_may_be_written_with_a_slash_at_its_end() {
        assert_eq!(artifact_in("https://h/m/", "ab"), "https://h/m/sha256/ab");
        assert_eq!(artifact_in("file:///srv/m", "ab"), "file:///srv/m/sha256/ab");
    }
}
