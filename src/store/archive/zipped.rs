//! Zip archives, which are read once they are complete and their digest is verified.

use std::io::{self, Read, Seek};

use zip::CompressionMethod;
use zip::read::{ZipArchive, ZipFileEntry};
use zip::result::ZipError;

use super::stream::Meter;
use super::{Archive, Kind, Member, PUBLISHER, Pass};
use crate::error::{Error, Result};

/// Bytes of a link's target that are read: no path on Linux is longer.
const LONGEST_TARGET: u64 = 4096;

impl Pass<'_> {
    /// Reads a zip archive.
    pub(super) fn zip(&mut self, input: impl Read + Seek, meter: &Meter<'_>) -> Result<()> {
        let source = self.archive;
        let damaged = |error| zip_fault(source, error);
        let mut archive = ZipArchive::new(input).map_err(damaged)?;
        archive.validate_header_consistency().map_err(damaged)?;
        let directory = archive.metadata();
        for index in 0..directory.len() {
            let entry = directory.entry(index).map_err(damaged)?;
            meter.add_unpacked(entry.size())?;
            let mut kind = kind_of(&entry);
            let Some(name) = self.admit(entry.name_raw(), &kind)? else { continue };
            let mut content: Box<dyn Read> = match kind {
                Kind::Regular | Kind::Symlink(_) => Box::new(archive.by_index(index).map_err(damaged)?),
                _ => Box::new(io::empty()),
            };
            if let Kind::Symlink(to) = &mut kind {
                let mut target = Vec::new();
                let read = (&mut content).take(LONGEST_TARGET + 1).read_to_end(&mut target);
                read.map_err(|error| source.fault(Some(&name), error))?;
                *to = Some(String::from_utf8_lossy(&target).into_owned());
            }
            let executable = mode(&entry) & 0o111 != 0;
            self.hand(&Member { name, size: Some(entry.size()), executable, kind }, &mut content)?;
        }
        Ok(())
    }
}

/// The Unix type and permissions of an entry; 0 if it was written on a system without them.
fn mode(entry: &ZipFileEntry<'_>) -> u32 {
    entry.external_attributes() >> 16
}

fn kind_of(entry: &ZipFileEntry<'_>) -> Kind {
    match mode(entry) & 0o170_000 {
        _ if entry.encrypted() => Kind::Encrypted,
        0o120_000 => Kind::Symlink(None),
        0o040_000 => Kind::Directory,
        0 | 0o100_000 if entry.is_dir() => Kind::Directory,
        0 | 0o100_000 => match entry.compression() {
            CompressionMethod::Stored | CompressionMethod::Deflated => Kind::Regular,
            other => Kind::Method(other),
        },
        0o010_000 => Kind::Special("fifo"),
        _ => Kind::Special("device"),
    }
}

fn zip_fault(archive: &Archive<'_>, error: ZipError) -> Error {
    match error {
        ZipError::Io(error) => archive.fault(None, error),
        error => archive.wrong("is damaged").because(error).help(PUBLISHER),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write as _};

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::super::Limits;
    use super::super::testing::*;
    use crate::document::Format;

    #[test]
    fn an_encrypted_member_is_refused_when_it_is_wanted() {
        let secret = Stored { flags: 1, ..Stored::new("secret", b"a") };
        let zip = stored_zip(&[Stored::new("a", b"a"), secret]);
        assert_refused(
            take(Format::Zip, &zip, &["secret"]),
            "member `secret` is encrypted [use an archive that needs no",
        );
        assert_eq!(take(Format::Zip, &zip, &["a"]).unwrap()[0].1, b"a");
    }

    #[test]
    fn a_zip_that_lies_about_a_size_is_refused() {
        for size in [0, 4, 6, u32::MAX] {
            let liar = Stored { size, ..Stored::new("a", b"12345") };
            let limits = Limits { bytes: u64::MAX, member: u64::MAX, free: u64::MAX, ..Limits::default() };
            let message = refusal(take_within(&limits, Format::Zip, &stored_zip(&[liar]), &["a"]));
            assert!(message.contains("damaged in member `a`") || message.contains("is truncated"), "{size}: {message}");
        }
        // A deflated bomb that says to be small.
        let mut zip = zipped(&[("a", &[0; 100_000])]);
        let (real, lie) = (100_000_u32.to_le_bytes(), 10_u32.to_le_bytes());
        for at in 0..zip.len() - 4 {
            if zip[at..at + 4] == real {
                zip[at..at + 4].copy_from_slice(&lie);
            }
        }
        assert_refused(take(Format::Zip, &zip, &["a"]), "damaged in member `a`");
    }

    #[test]
    fn a_zip_that_can_be_read_in_two_ways_is_refused() {
        let cloaked = Stored { local_name: b"b".into(), ..Stored::new("a", b"a") };
        assert_refused(take(Format::Zip, &stored_zip(&[cloaked]), &["a"]), "damaged");
        // A whole archive within one that is truncated.
        let inner = stored_zip(&[Stored::new("a", b"inner")]);
        let outer = stored_zip(&[Stored::new("inner.zip", &inner), Stored::new("a", b"outer")]);
        assert_refused(take(Format::Zip, &outer[..30 + 9 + inner.len()], &["a"]), "damaged");
        assert_eq!(take(Format::Zip, &outer, &["a"]).unwrap()[0].1, b"outer");
    }

    #[test]
    fn a_zip_method_that_is_not_supported_is_named() {
        let zip = stored_zip(&[Stored { method: 14, ..Stored::new("a", b"a") }, Stored::new("b", b"b")]);
        assert_refused(take(Format::Zip, &zip, &["a"]), "by a method that is not supported");
        assert_eq!(take(Format::Zip, &zip, &["b"]).unwrap()[0].1, b"b");
    }

    #[test]
    fn a_zip64_archive_is_read() {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        writer.start_file("tool", SimpleFileOptions::default().large_file(true)).unwrap();
        writer.write_all(TOOL).unwrap();
        for n in 0..66_000 {
            writer.start_file(format!("n/{n}"), SimpleFileOptions::default()).unwrap();
        }
        let zip = writer.finish().unwrap().into_inner();
        assert!(zip.windows(4).any(|bytes| bytes == b"PK\x06\x06"));
        assert_eq!(take(Format::Zip, &zip, &["tool"]).unwrap()[0].1, TOOL);
    }
}
