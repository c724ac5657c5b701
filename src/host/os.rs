//! The operating system of a host, from its os-release, and whether it is an image.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, error};
use crate::host::root::Root;

/// The system, from os-release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Os {
    /// `debian`, `centos`, …
    pub id: String,
    /// `12`, `7`, …; empty if the system has none.
    pub version: String,
    /// `coreos`, `server`, …; empty if the system has none.
    #[serde(default)]
    pub variant: String,
    /// `bookworm`, `noble`, …; empty if the system has none.
    #[serde(default)]
    pub codename: String,
    /// `debian`, `rhel` or `suse`: the family whose package manager and paths it has; the id itself if it has none.
    pub family: String,
}

/// Each family, with the words in ID and `ID_LIKE` that stand for it.
const FAMILIES: [(&str, &[&str]); 3] = [
    ("debian", &["debian", "ubuntu"]),
    ("rhel", &["rhel", "fedora", "centos", "almalinux", "rocky", "ol", "amzn"]),
    ("suse", &["suse", "opensuse", "opensuse-leap", "opensuse-tumbleweed", "sles", "sled"]),
];

fn family(word: &str) -> Option<&'static str> {
    FAMILIES.iter().find(|(_, words)| words.contains(&word)).map(|(family, _)| *family)
}

impl Os {
    /// Reads the os-release of a machine or a tree.
    pub fn of(root: &Root) -> Result<Self> {
        let mut text = root.text(Path::new("/etc/os-release"))?;
        if text.is_empty() {
            text = root.text(Path::new("/usr/lib/os-release"))?;
        }
        let os = Self::read(&text);
        if os.id.is_empty() && !text.is_empty() {
            return Err(error!(FACTS, "/etc/os-release does not name the system: it has no ID")
                .help("add a line such as `ID=debian` (see os-release(5)), or reinstall the distribution's package that contains the file"));
        }
        Ok(os)
    }

    /// The family of a system by its id alone; the id itself if it has none.
    pub fn family_of(id: &str) -> &str {
        family(id).unwrap_or(id)
    }

    /// The known ids and families; there are others.
    pub fn known() -> impl Iterator<Item = &'static str> {
        let ids = FAMILIES.iter().flat_map(|(family, ids)| ids.iter().copied().chain([*family]));
        ids.chain(["flatcar", "sle", "alpine", "arch"])
    }

    /// Parses an os-release file.
    pub fn read(text: &str) -> Self {
        let mut os = Self::default();
        let mut like = String::new();
        for line in text.lines() {
            let Some((key, value)) = line.trim().split_once('=') else { continue };
            let field = match key {
                "ID" => &mut os.id,
                "ID_LIKE" => &mut like,
                "VERSION_ID" => &mut os.version,
                "VARIANT_ID" => &mut os.variant,
                "VERSION_CODENAME" => &mut os.codename,
                _ => continue,
            };
            // a value is one shell word; if a name is set twice, the last one counts
            *field = shlex::split(value).and_then(|words| words.into_iter().next()).unwrap_or_default();
        }
        // ID_LIKE lists the closest system first
        let mut words = std::iter::once(os.id.as_str()).chain(like.split_whitespace());
        os.family = words.find_map(family).map_or_else(|| os.id.clone(), str::to_owned);
        os
    }

    /// The system to assume for a host that can't be queried.
    pub fn assumed() -> Self {
        let (id, version, codename) = ("debian".to_owned(), "12".to_owned(), "bookworm".to_owned());
        Self { family: id.clone(), id, version, variant: String::new(), codename }
    }
}

/// Whether a system is an image: its /usr is read-only, and no package manager can change it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Image {
    /// It isn't, as far as is known.
    #[default]
    #[serde(rename = "")]
    None,
    /// It has booted from ostree, like Fedora CoreOS, Silverblue and images of bootc.
    #[serde(rename = "ostree")]
    Ostree,
    /// Any other kind of image.
    #[serde(rename = "read-only")]
    ReadOnly,
}

/// The file that ostree creates when it boots a host.
const OSTREE_BOOTED: &str = "/run/ostree-booted";

impl Image {
    /// Detects it on a host.
    pub fn of(root: &Root) -> Result<Self> {
        if root.meta(Path::new(OSTREE_BOOTED))?.is_some() {
            return Ok(Self::Ostree);
        }
        Ok(match root.read_only_above(Path::new("/usr/bin/.new"))? {
            Some(_) => Self::ReadOnly,
            None => Self::None,
        })
    }

    /// Detects it from os-release alone, for systems that always are images.
    pub fn of_system(os: &Os) -> Self {
        match (&*os.id, &*os.variant) {
            ("fedora" | "rhel" | "centos", "coreos" | "iot" | "kinoite" | "silverblue") => Self::Ostree,
            ("rhcos" | "scos" | "endless", _) => Self::Ostree,
            ("flatcar" | "bottlerocket" | "cos" | "ubuntu-core", _) => Self::ReadOnly,
            ("opensuse-microos" | "opensuse-leap-micro" | "sle-micro" | "sl-micro", _) => Self::ReadOnly,
            _ => Self::None,
        }
    }

    /// The read-only directory that `path` is below, if any. /usr/local may be writable.
    pub fn read_only_above(self, path: &Path) -> Option<&'static Path> {
        let tops = ["/usr", "/bin", "/sbin", "/lib", "/lib64"].map(Path::new);
        let is_kept = self != Self::None && !path.starts_with("/usr/local");
        tops.into_iter().find(|top| is_kept && path.starts_with(top))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_a_shell_reads_them() {
        for (value, wanted) in [
            ("12", "12"),
            ("\"12\"", "12"),
            ("'12'", "12"),
            ("\"a\\\"b\\$c\\d\"", "a\"b$c\\d"),
            ("'a\\b'", "a\\b"),
            ("a\\ b", "a b"),
            ("1\"2\"'3' # and more", "123"),
            ("\"it's\"", "it's"),
            ("\"", ""),
            ("\\", ""),
            ("", ""),
        ] {
            assert_eq!(Os::read(&format!("ID={value}\n")).id, wanted, "{value}");
        }
    }

    #[test]
    fn of_a_name_that_is_set_twice_the_last_counts_and_comments_and_other_names_do_not() {
        let os = Os::read("# ID=x\n  ID=ubuntu\nVERSION_ID=\"20.04\"\r\nMY_ID=y\nID_LIKE\nVERSION_ID=\"22.04\"\n");
        assert_eq!((os.id.as_str(), os.version.as_str(), os.family.as_str()), ("ubuntu", "22.04", "debian"));
        assert_eq!(Os::read(""), Os::default());
    }

    #[test]
    fn the_family_is_that_of_the_nearest_system_that_has_one() {
        for (text, family) in [
            ("ID=pop\nID_LIKE=\"ubuntu debian\"", "debian"),
            ("ID=nobara\nID_LIKE=\"unheard-of fedora debian\"", "rhel"),
            ("ID=\"sle-micro\"\nID_LIKE=\"suse\"", "suse"),
            ("ID=alpine", "alpine"),
        ] {
            assert_eq!(Os::read(text).family, family, "{text}");
        }
    }

    #[test]
    fn a_system_that_is_always_an_image_is_known_by_its_os_release() {
        for (text, image) in [
            ("ID=fedora\nVARIANT_ID=coreos", Image::Ostree),
            ("ID=fedora\nVARIANT_ID=server", Image::None),
            ("ID=rhcos\nID_LIKE=\"rhel fedora\"", Image::Ostree),
            ("ID=flatcar", Image::ReadOnly),
            ("ID=\"sl-micro\"\nID_LIKE=suse", Image::ReadOnly),
            ("ID=debian", Image::None),
        ] {
            assert_eq!(Image::of_system(&Os::read(text)), image, "{text}");
        }
        let above = |image: Image, path: &str| image.read_only_above(Path::new(path)).map(Path::to_owned);
        for (path, top) in
            [("/usr/bin/x", Some("/usr")), ("/lib/x", Some("/lib")), ("/usr/local/x", None), ("/opt/x", None)]
        {
            assert_eq!(above(Image::Ostree, path), top.map(Into::into), "{path}");
            assert_eq!(above(Image::None, path), None, "{path}");
        }
    }
}
