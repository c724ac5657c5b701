//! Detects the type of a file by its first bytes.

use std::fmt;
use std::io::Read as _;

/// The type of a file.
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
    /// A format that kpull can't read.
    Other(&'static str),
}

impl Container {
    /// Bytes of a file that are needed.
    pub const HEAD: usize = 512;

    /// Detects the type by the first bytes of a file; `None` if it is not an archive, not compressed, and no web page.
    pub fn of(head: &[u8]) -> Option<Self> {
        const MAGIC: [(usize, &[u8], Container); 22] = [
            (0, b"\x1f\x8b", Container::Gzip),
            (0, b"\xfd7zXZ\0", Container::Xz),
            (0, b"\x28\xb5\x2f\xfd", Container::Zstd),
            // a skippable frame
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

/// How a file was changed in transfer, and what to do about it. `is_signed` recognizes the signed bytes.
pub fn changed_by(bytes: &[u8], is_signed: impl Fn(&[u8]) -> bool) -> Option<(&'static str, &'static str)> {
    const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";
    match Container::of(bytes.get(..Container::HEAD).unwrap_or(bytes)) {
        Some(Container::Page) => return Some((PAGE, NO_PAGE)),
        Some(Container::Gzip) => {
            let mut plain = Vec::new();
            let most = (bytes.len() as u64).saturating_mul(64);
            let read = flate2::read::GzDecoder::new(bytes).take(most).read_to_end(&mut plain);
            if read.is_ok() && is_signed(&plain) {
                return Some(("the server has compressed it with gzip", NO_GZIP));
            }
        }
        _ if bytes.starts_with(LFS) => {
            return Some((
                "git has a pointer of Git LFS in its place, and its content elsewhere",
                "keep the files of a site out of LFS: `git lfs untrack` it, remove it from .gitattributes, and commit it anew",
            ));
        }
        _ => {}
    }
    let unix: Vec<u8> = bytes
        .split(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .collect::<Vec<_>>()
        .join(&b'\n');
    let dos = unix.split(|&byte| byte == b'\n').collect::<Vec<_>>().join(&b"\r\n"[..]);
    (is_signed(&unix) || is_signed(&dos)).then_some(("a filter changed its line ends", KEEP))
}

/// Advice about filters of git.
pub const KEEP: &str = "have git keep files as they are: `* -text` in .gitattributes, and no core.autocrlf where the site is signed or checked out; then sign again";
/// The message that a server has sent a web page.
pub const PAGE: &str = "the server sends a web page in its place, such as one to log in or of an error";
/// Advice about a web page.
pub const NO_PAGE: &str = "open the address in a browser, or with `curl -L`: correct it, or let hosts read it without a log-in page (`bearer`, `basic`, `client_cert`)";
/// Advice about a server that compresses files.
pub const NO_GZIP: &str = "have the server send files as they are: kpull did not request `Content-Encoding: gzip`";

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
    fn the_first_bytes_identify_archives_and_web_pages() {
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
