//! What the first bytes of a file tell that it is.

use std::fmt;

/// What the first bytes of a file tell that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// Compressed with gzip.
    Gzip,
    /// Compressed with xz.
    Xz,
    /// Compressed with Zstandard.
    Zstd,
    /// A tar archive.
    Tar,
    /// A zip archive.
    Zip,
    /// A web page.
    Page,
    /// An archive that nothing here reads.
    Other(&'static str),
}

impl Container {
    /// How many bytes of a file are looked at.
    pub const HEAD: usize = 512;

    /// What these first bytes of a file tell; `None` for what is no archive, nor compressed, nor a web page.
    pub fn of(head: &[u8]) -> Option<Self> {
        const MAGIC: [(usize, &[u8], Container); 22] = [
            (0, b"\x1f\x8b", Container::Gzip),
            (0, b"\xfd7zXZ\0", Container::Xz),
            (0, b"\x28\xb5\x2f\xfd", Container::Zstd),
            // a frame that is skipped
            (1, b"\x2a\x4d\x18", Container::Zstd),
            (0, b"PK\x03\x04", Container::Zip),
            (0, b"PK\x05\x06", Container::Zip),
            (257, b"ustar", Container::Tar),
            (4, b"1AY&SY", Container::Other("compressed with bzip2")),
            (4, b"\x17\x72\x45\x38\x50\x90", Container::Other("compressed with bzip2")),
            (0, b"7z\xbc\xaf\x27\x1c", Container::Other("a 7-Zip archive")),
            (0, b"Rar!\x1a\x07", Container::Other("a RAR archive")),
            (0, b"LZIP", Container::Other("compressed with lzip")),
            (0, b"\x04\x22\x4d\x18", Container::Other("compressed with LZ4")),
            (0, b"\x89LZO\0\r\n\x1a\n", Container::Other("compressed with lzop")),
            (0, b"\x5d\0\0", Container::Other("compressed with LZMA")),
            (0, b"\x1f\x9d", Container::Other("compressed with compress")),
            (0, b"070701", Container::Other("a cpio archive")),
            (0, b"070707", Container::Other("a cpio archive")),
            (0, b"!<arch>\n", Container::Other("an ar archive, as packages of Debian are")),
            (0, b"\xed\xab\xee\xdb", Container::Other("an RPM package")),
            (0, b"xar!", Container::Other("a xar archive")),
            (0, b"hsqs", Container::Other("a squashfs image")),
        ];
        let is_page = || {
            let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
            let begins =
                |word: &str| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes()));
            ["<!doctype html", "<html", "<head"].into_iter().any(begins)
        };
        let fits = |(at, magic, _): &&(usize, &[u8], Container)| {
            let begins = match at {
                1 => head.first().is_some_and(|byte| byte & 0xf0 == 0x50),
                4 => head.starts_with(b"BZh"),
                _ => true,
            };
            begins && head.get(*at..).is_some_and(|rest| rest.starts_with(magic))
        };
        let found = MAGIC.iter().find(fits).map(|(_, _, found)| *found);
        found.or_else(|| is_page().then_some(Self::Page))
    }
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "compressed with gzip",
            Self::Xz => "compressed with xz",
            Self::Zstd => "compressed with Zstandard",
            Self::Tar => "a tar archive",
            Self::Zip => "a zip archive",
            Self::Page => "a web page (HTML)",
            Self::Other(what) => what,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_archives_and_web_pages_and_nothing_of_programs_and_text() {
        let tar = [&[b'x'; 257][..], b"ustar\0"].concat();
        for (head, found) in [
            (&b"\x1f\x8b\x08"[..], Container::Gzip),
            (b"\xfd7zXZ\0\0", Container::Xz),
            (b"\x28\xb5\x2f\xfd", Container::Zstd),
            (b"\x50\x2a\x4d\x18\0", Container::Zstd),
            (b"PK\x03\x04", Container::Zip),
            (&tar, Container::Tar),
            (b"BZh91AY&SY", Container::Other("compressed with bzip2")),
            (b"7z\xbc\xaf\x27\x1c", Container::Other("a 7-Zip archive")),
            (b"\x04\x22\x4d\x18", Container::Other("compressed with LZ4")),
            (b"<!DOCTYPE html><html>", Container::Page),
            (b"\xef\xbb\xbf\n <HTML lang=en>", Container::Page),
        ] {
            assert_eq!(Container::of(head), Some(found), "{}", head.escape_ascii());
        }
        for head in [
            &b""[..],
            b"\x1f",
            b"\x7fELF\x02",
            b"#!/bin/sh\n",
            b"BZh9, says he",
            b"\x30\x2a\x4d\x18",
            b"<?xml",
            &tar[..260],
        ] {
            assert_eq!(Container::of(head), None, "{}", head.escape_ascii());
        }
    }
}
