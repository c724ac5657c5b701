//! Formats of upstream files, by name.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::magic::Container;

/// The format of an upstream file.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
pub enum Format {
    /// A tar archive, compressed with gzip.
    #[serde(rename = "tar.gz")]
    TarGz,
    /// A tar archive, compressed with xz.
    #[serde(rename = "tar.xz")]
    TarXz,
    /// A tar archive, compressed with Zstandard.
    #[serde(rename = "tar.zst")]
    TarZst,
    /// A tar archive.
    #[serde(rename = "tar")]
    Tar,
    /// A zip archive.
    #[serde(rename = "zip")]
    Zip,
    /// One file, compressed with gzip.
    #[serde(rename = "gz")]
    Gz,
    /// One file, compressed with xz.
    #[serde(rename = "xz")]
    Xz,
    /// One file, compressed with Zstandard.
    #[serde(rename = "zst")]
    Zst,
    /// One file that is not an archive by its name.
    #[serde(skip)]
    Plain,
    /// One file as it is, even if it is an archive.
    #[serde(rename = "file")]
    File,
}

/// File name endings in lower case; a longer ending comes before one that is part of it.
const ENDINGS: [(&str, Format); 11] = [
    (".tar.gz", Format::TarGz),
    (".tgz", Format::TarGz),
    (".tar.xz", Format::TarXz),
    (".txz", Format::TarXz),
    (".tar.zst", Format::TarZst),
    (".tzst", Format::TarZst),
    (".tar", Format::Tar),
    (".zip", Format::Zip),
    (".gz", Format::Gz),
    (".xz", Format::Xz),
    (".zst", Format::Zst),
];

/// Endings of archives that are installed as they are.
const WHOLE: &str = ".apk .box .cpio .deb .gem .htm .html .img .iso .jar .ova .rpm .snap .squashfs .war .whl";

/// Endings of unsupported archives, and their descriptions.
const UNREADABLE: [(&str, &str); 11] = [
    (".7z", "a 7-Zip archive"),
    (".bz2", "compressed with bzip2"),
    (".lz", "compressed with lzip"),
    (".lz4", "compressed with LZ4"),
    (".lzma", "compressed with LZMA"),
    (".lzo", "compressed with lzop"),
    (".rar", "a RAR archive"),
    (".tbz", "compressed with bzip2"),
    (".tbz2", "compressed with bzip2"),
    (".tlz", "compressed with lzip"),
    (".z", "compressed with compress"),
];

/// Advice for an unsupported archive.
pub const READABLE: &str = "kpull reads tar, zip, gzip, xz and Zstandard: pin a file in one of these formats, from the publisher or repacked on your mirror; with `format = \"file\"` in artifacts.toml, kpull installs it unchanged";

impl Format {
    /// The format by the end of a file name or URL, ignoring case; [`Format::Plain`] if none matches. The error describes an
    /// unsupported format.
    pub fn of(name: &str) -> Result<Self, &'static str> {
        let name = name.to_ascii_lowercase();
        if let Some((_, what)) = UNREADABLE.iter().find(|(ending, _)| name.ends_with(ending)) {
            return Err(what);
        }
        let known = ENDINGS.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, format)| *format);
        let is_whole = || WHOLE.split(' ').any(|ending| name.ends_with(ending));
        Ok(known.unwrap_or_else(|| if is_whole() { Self::File } else { Self::Plain }))
    }

    /// A name without the ending of its format.
    pub fn stem(name: &str) -> &str {
        let lower = name.to_ascii_lowercase();
        let endings = ENDINGS.iter().map(|(ending, _)| *ending).chain([".exe"]);
        let length = endings.filter(|ending| lower.ends_with(ending)).map(str::len).next().unwrap_or(0);
        name.get(..name.len() - length).unwrap_or(name)
    }

    /// Whether it can be read while it is downloaded; the index of a zip is at its end.
    pub fn streams(self) -> bool {
        self != Self::Zip
    }

    /// Whether it can have several members.
    pub fn is_archive(self) -> bool {
        matches!(self, Self::TarGz | Self::TarXz | Self::TarZst | Self::Tar | Self::Zip)
    }

    /// The container that its first bytes must show, if any; `None` if it can be anything.
    pub fn container(self) -> Option<Container> {
        match self {
            Self::TarGz | Self::Gz => Some(Container::Gzip),
            Self::TarXz | Self::Xz => Some(Container::Xz),
            Self::TarZst | Self::Zst => Some(Container::Zstd),
            Self::Tar => Some(Container::Tar),
            Self::Zip => Some(Container::Zip),
            Self::Plain | Self::File => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_show_the_format_in_either_case_and_the_longest_ending_counts() {
        for (name, format) in [
            ("https://host/etcd-v3.2.9-linux-amd64.tar.gz", Format::TarGz),
            ("docker-1.13.1.TGZ", Format::TarGz),
            ("node-v20.0.0-linux-x64.tar.xz", Format::TarXz),
            ("x.txz", Format::TarXz),
            ("x.Tar.Zst", Format::TarZst),
            ("x.tzst", Format::TarZst),
            ("x.tar", Format::Tar),
            ("x.zip", Format::Zip),
            ("tool.gz", Format::Gz),
            ("tool.xz", Format::Xz),
            ("tool.zst", Format::Zst),
            ("tool_1.0_amd64.deb", Format::File),
            ("kubectl", Format::Plain),
            ("cni-plugins-v0.9", Format::Plain),
            ("tar.gz/tool", Format::Plain),
            ("", Format::Plain),
        ] {
            assert_eq!(Format::of(name), Ok(format), "{name}");
        }
        for (name, what) in [
            ("tool.tar.bz2", "compressed with bzip2"),
            ("TOOL.TBZ2", "compressed with bzip2"),
            ("tool.tar.lz", "compressed with lzip"),
            ("tool.7z", "a 7-Zip archive"),
        ] {
            assert_eq!(Format::of(name), Err(what), "{name}");
        }
    }

    #[test]
    fn a_name_without_its_format_is_what_stands_before_the_ending() {
        for (name, stem) in
            [("a.tar.xz", "a"), ("A.TGZ", "A"), ("a.exe", "a"), ("a.b", "a.b"), ("é.gz", "é"), (".gz", "")]
        {
            assert_eq!(Format::stem(name), stem);
        }
    }
}
