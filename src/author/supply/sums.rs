//! Published checksum files: `sha256sum` output, BSD style, or a digest alone.

use crate::document::is_sha256;
use crate::error::{Error, Result, code};

/// The digests in a checksum file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Names of files, without their directories, and digests; no name for a digest alone.
    entries: Vec<(Option<String>, String)>,
}

impl Sums {
    /// Reads what can be read; lines that hold no SHA-256 are passed over.
    pub fn parse(text: &str) -> Self {
        Self { entries: text.lines().filter_map(line).collect() }
    }

    /// The digest of the file with this name; an error when there are two.
    pub fn of(&self, name: &str) -> Result<Option<&str>> {
        let mut found =
            self.entries.iter().filter(|(known, _)| known.as_deref() == Some(name)).map(|(_, digest)| digest);
        let Some(first) = found.next() else { return Ok(None) };
        if found.any(|other| other != first) {
            return Err(Error::refused(code::SUPPLY, format!("the published checksums have two digests for {name}"))
                .help("ask its publisher which one is right"));
        }
        Ok(Some(first))
    }

    /// The digest in a file that holds just one, whatever it is called there.
    pub fn only(&self) -> Option<&str> {
        match &self.entries[..] {
            [(_, digest)] => Some(digest),
            _ => None,
        }
    }
}

fn line(line: &str) -> Option<(Option<String>, String)> {
    let line = line.trim();
    if let Some(rest) = line.strip_prefix("SHA256").or_else(|| line.strip_prefix("SHA2-256")) {
        // `SHA256 (NAME) = HEX`, and openssl's `SHA256(NAME)= HEX`
        let (name, digest) = rest.trim_start().strip_prefix('(')?.rsplit_once(')')?;
        return Some((Some(base(name)), digest_of(digest.trim_start().strip_prefix('=')?.trim())?));
    }
    // `\` stands before a line whose name has one in it
    let line = line.strip_prefix('\\').unwrap_or(line);
    let (digest, name) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let name = name.trim_start();
    let name = name.strip_prefix('*').unwrap_or(name);
    Some((Some(base(name)).filter(|name| !name.is_empty() && name != "-"), digest_of(digest)?))
}

fn digest_of(text: &str) -> Option<String> {
    Some(text.to_ascii_lowercase()).filter(|text| is_sha256(text))
}

fn base(name: &str) -> String {
    name.rsplit('/').next().unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    #[test]
    fn every_common_way_to_write_a_checksum_is_read() {
        for text in [
            format!("{B}  other\n{A}  a.tgz\n"),
            format!("{A} *a.tgz\r\n"),
            format!("{A}  ./dir/a.tgz"),
            format!("# sums\n\nSHA256 (a.tgz) = {A}\nSHA512 (a.tgz) = {A}{A}\n"),
            format!("SHA2-256(a.tgz)= {}", A.to_uppercase()),
            format!("{A}\ta.tgz"),
        ] {
            assert_eq!(Sums::parse(&text).of("a.tgz").unwrap(), Some(A), "{text:?}");
        }
    }

    #[test]
    fn a_digest_alone_is_that_of_the_file_beside_it() {
        for text in [format!("{A}\n"), format!("{A}  -\n"), format!("{A}  another-name\n")] {
            assert_eq!(Sums::parse(&text).only(), Some(A), "{text:?}");
            assert_eq!(Sums::parse(&text).of("a.tgz").unwrap(), None);
        }
        assert_eq!(Sums::parse(&format!("{A}  a\n{B}  b\n")).only(), None);
    }

    #[test]
    fn what_is_no_checksum_file_has_no_digests() {
        for text in
            ["", "<!doctype html>\n<html>", "SHA256 (", "SHA256 (a.tgz) = abc", &"a".repeat(63), &"g".repeat(64)]
        {
            assert_eq!(Sums::parse(text), Sums::default(), "{text:?}");
        }
    }

    #[test]
    fn two_digests_for_one_name_are_refused() {
        let error = Sums::parse(&format!("{A}  a\n{B}  a\n")).of("a").unwrap_err();
        assert_eq!(error.exit_code(), crate::Exit::Refused);
        assert_eq!(Sums::parse(&format!("{A}  a\n{A}  a\n")).of("a").unwrap(), Some(A));
    }
}
