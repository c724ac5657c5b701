//! Unpacks compressed streams within the limits.

use std::cell::Cell;
use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::{Archive, Limits, Member, PUBLISHER, RAISE, REPACK, WINDOW};
use crate::document::Format;
use crate::error::{Error, Result};

/// Counts what goes into an unpacker and what comes out of it.
pub(super) struct Meter<'a> {
    archive: &'a Archive<'a>,
    packed: Cell<u64>,
    unpacked: Cell<u64>,
    /// Unpacked bytes that a parser may read until this is set again: it keeps the headers that it reads in memory.
    pub allowed: Cell<u64>,
    /// Whether the end of the unpacked stream was reached.
    pub has_ended: Cell<bool>,
}

impl<'a> Meter<'a> {
    pub fn new(archive: &'a Archive<'a>) -> Self {
        let (packed, unpacked, allowed) = (Cell::new(0), Cell::new(0), Cell::new(u64::MAX));
        Self { archive, packed, unpacked, allowed, has_ended: Cell::new(false) }
    }

    /// Counts packed bytes that were read.
    pub fn add_packed(&self, bytes: u64) {
        self.packed.set(self.packed.get().saturating_add(bytes));
    }

    /// Counts bytes that came out; an error when they exceed a limit.
    pub fn add_unpacked(&self, bytes: u64) -> Result<()> {
        let Limits { bytes: most, ratio, free, .. } = self.archive.limits;
        let unpacked = self.unpacked.get().saturating_add(bytes);
        self.unpacked.set(unpacked);
        if unpacked > most {
            return Err(self.archive.wrong(format!("unpacks to more than {most} bytes")).help(RAISE));
        }
        if unpacked > free.saturating_add(self.packed.get().saturating_mul(ratio)) {
            return Err(self.archive.wrong(format!("unpacks to more than {ratio} times its size")).help(REPACK));
        }
        let left = self.allowed.get().checked_sub(bytes);
        self.allowed.set(left.ok_or_else(|| self.archive.wrong("has endless headers").help(PUBLISHER))?);
        Ok(())
    }
}

/// What an unpacker reads.
pub(super) struct Packed<'a, R> {
    pub inner: R,
    pub meter: &'a Meter<'a>,
}

impl<R: BufRead> BufRead for Packed<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.meter.add_packed(count as u64);
        self.inner.consume(count);
    }
}

impl<R: BufRead> Read for Packed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// What comes out of an unpacker.
pub(super) struct Unpacked<'a, R> {
    pub inner: R,
    pub meter: &'a Meter<'a>,
}

impl<R: Read> Read for Unpacked<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = loop {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.meter.has_ended.set(count == 0 && !buffer.is_empty());
        self.meter.add_unpacked(count as u64).map_err(io::Error::other)?;
        Ok(count)
    }
}

/// The content of a stream of this format, with every checksum verified; the stream itself if it is not compressed.
pub(super) fn unpacker<'a>(format: Format, stream: impl BufRead + 'a) -> Box<dyn Read + 'a> {
    // in KiB; beside the window there is little
    const LIMIT: u32 = (WINDOW >> 10) as u32 + 4096;
    match format {
        Format::TarGz | Format::Gz => Box::new(MultiGzDecoder::new(stream)),
        Format::TarXz | Format::Xz => Box::new(XzReader::new_mem_limit(stream, true, LIMIT)),
        Format::TarZst | Format::Zst => Box::new(Zstd::new(stream)),
        Format::Tar | Format::Zip | Format::Plain | Format::File => Box::new(stream),
    }
}

/// All Zstandard frames of a stream, one after the other.
struct Zstd<R> {
    stream: R,
    decoder: FrameDecoder,
}

impl<R: BufRead> Zstd<R> {
    fn new(stream: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW);
        Self { stream, decoder }
    }

    /// Starts the next frame; `false` at the end of the stream.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.stream.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.stream) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let length = u64::from(length);
                    if io::copy(&mut (&mut self.stream).take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error @ FrameDecoderError::WindowSizeTooBig { .. }) => {
                    return Err(io::Error::new(io::ErrorKind::OutOfMemory, error));
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() {
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if self.decoder.is_finished() {
                // the decoder itself does not verify it
                let stored = self.decoder.get_checksum_from_data();
                if stored.is_some() && stored != self.decoder.get_calculated_checksum() {
                    return Err(io::Error::other("a Zstandard frame has the wrong checksum"));
                }
                if !self.begin()? {
                    return Ok(0);
                }
            } else {
                let blocks = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.stream, blocks).map_err(io::Error::other)?;
            }
        }
        Ok(0)
    }
}

/// A member's bytes as the sink sees them: never more than announced, never fewer without an error.
pub(super) struct Content<'a> {
    pub archive: &'a Archive<'a>,
    pub member: &'a Member,
    pub content: &'a mut dyn Read,
    pub most: u64,
    pub read: u64,
    /// The first failure, kept because a sink may swallow it.
    pub fault: Option<Error>,
}

impl Content<'_> {
    fn next(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let (archive, name) = (self.archive, &*self.member.name);
        let count = self.content.read(buffer).map_err(|error| archive.fault(Some(name), error))?;
        self.read = self.read.saturating_add(count as u64);
        if self.read > self.most {
            return Err(archive.wrong_member(name, format!("unpacks to more than {} bytes", self.most)).help(RAISE));
        }
        if count == 0 && !buffer.is_empty() && self.member.size.is_some_and(|size| self.read < size) {
            let what = format!("is truncated after {} of {} bytes", self.read, self.most);
            return Err(archive.wrong_member(name, what).help(PUBLISHER));
        }
        Ok(count)
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.fault.is_none() {
            match self.next(buffer) {
                Ok(count) => return Ok(count),
                Err(error) => self.fault = Some(error),
            }
        }
        Err(io::Error::other(self.fault.as_ref().map(ToString::to_string).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tar::EntryType;

    use super::super::testing::*;
    use super::*;
    use crate::error::{Context as _, code};

    #[test]
    fn what_needs_too_much_memory_is_refused_before_it_is_unpacked() {
        let tar = tarball(&[file("a", TOOL)]);
        assert_eq!(take(Format::TarXz, &xz_with(&tar, 64 << 20), &["a"]).unwrap()[0].1, TOOL);
        assert_refused(
            take(Format::TarXz, &xz_with(&tar, 192 << 20), &["a"]),
            "x: needs more than 128 MiB of memory to unpack [it was packed with a very large window",
        );
        // a frame without a size, and a window as `zstd --long=27` and `--long=28` have it
        let frame = |window: u8| [b"\x28\xb5\x2f\xfd\x00".as_slice(), &[window], b"\x01\0\0"].concat();
        assert_refused(take(Format::Zst, &frame(17 << 3 | 1), &["a"]), "x: needs more than 128 MiB of memory");
        assert_refused(take(Format::Zst, &frame(18 << 3), &["a"]), "x: needs more than 128 MiB of memory");
        assert_eq!(take(Format::Zst, &frame(17 << 3), &["a"]).unwrap()[0].1, b"");
    }

    #[test]
    fn more_than_the_limit_is_refused_whether_it_is_handed_out_or_skipped() {
        let limits = Limits { members: 3, bytes: 10_000, member: 3000, ..Limits::default() };
        let fits = [file("a", &[1; 2000]), file("b", &[2; 2000])];
        assert_eq!(take_within(&limits, Format::Tar, &tarball(&fits), &["a"]).unwrap()[0].1, [1; 2000]);

        let single = tarball(&[file("a", &[0; 3001])]);
        assert_refused(
            take_within(&limits, Format::TarGz, &gz(&single), &["a"]),
            "has 3001 bytes, and 3000 are allowed",
        );
        assert!(take_within(&limits, Format::TarGz, &gz(&single), &[]).is_ok());
        let total = tarball(&[file("a", b"a"), file("b", &[0; 20_000])]);
        for (format, bytes) in [(Format::TarGz, gz(&total)), (Format::TarZst, zst(&total)), (Format::Tar, total)] {
            assert_refused(take_within(&limits, format, &bytes, &["a"]), "unpacks to more than 10000 bytes");
        }
        let many = tarball(&["a", "b", "c", "d"].map(|name| file(name, b"")));
        assert_refused(take_within(&limits, Format::Tar, &many, &["a"]), "has more than 3 members");

        assert_refused(take_within(&limits, Format::Gz, &gz(&[0; 3001]), &["a"]), "unpacks to more than 3000 bytes");
        assert_refused(take_within(&limits, Format::Plain, &[0; 3001], &["a"]), "has 3001 bytes, and 3000 are allowed");

        let single = zipped(&[("a", &[0; 3001])]);
        assert_refused(take_within(&limits, Format::Zip, &single, &["a"]), "has 3001 bytes, and 3000 are allowed");
        let total = zipped(&[("a", b"a"), ("b", &[0; 20_000])]);
        assert_refused(take_within(&limits, Format::Zip, &total, &["a"]), "unpacks to more than 10000 bytes");
        let many = zipped(&[("a", b""), ("b", b""), ("c", b""), ("d", b"")]);
        assert_refused(take_within(&limits, Format::Zip, &many, &["a"]), "has more than 3 members");
    }

    #[test]
    fn what_unpacks_to_far_more_than_its_size_is_refused_in_every_format() {
        let limits = Limits { free: 1 << 20, ..Limits::default() };
        let zeros = vec![0; 8 << 20];
        let tar = tarball(&[file("a", &zeros)]);
        let bombs = [
            (Format::TarGz, gz(&tar)),
            (Format::TarZst, zst(&tar)),
            (Format::TarXz, xz(&tar)),
            (Format::Gz, gz(&zeros)),
            (Format::Zst, zst(&zeros)),
            (Format::Xz, xz(&zeros)),
            (Format::Zip, zipped(&[("a", &zeros)])),
        ];
        for (format, bomb) in &bombs {
            for wanted in [&["a"][..], &[]] {
                // of what is not an archive nothing is unpacked that nobody wants
                if wanted.is_empty() && !format.is_archive() {
                    continue;
                }
                let message = refusal(take_within(&limits, *format, bomb, wanted));
                assert!(message.contains("x: unpacks to more than 200 times its size"), "{format:?}: {message}");
            }
            // the same, where that much is free
            assert!(take(*format, bomb, &["a"]).is_ok(), "{format:?}");
        }
        // what is stored as it is may be as large as it wants
        assert!(take_within(&limits, Format::Tar, &tar, &["a"]).is_ok());
    }

    #[test]
    fn incompressible_data_allows_a_bomb_only_within_the_ratio() {
        let limits = Limits { free: 0, ratio: 10, ..Limits::default() };
        let mut state = 1_u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let noise: Vec<u8> = (0..100_000).map(|_| noise()).collect();
        let with = |zeros: usize| gz(&tarball(&[file("a", &noise), file("b", &vec![0; zeros])]));
        assert!(take_within(&limits, Format::TarGz, &with(500_000), &["b"]).is_ok());
        assert_refused(
            take_within(&limits, Format::TarGz, &with(2_000_000), &["b"]),
            "unpacks to more than 10 times its size",
        );
    }

    #[test]
    fn zeros_without_end_after_the_end_of_a_tar_are_refused() {
        let limits = Limits { bytes: 100_000, ..Limits::default() };
        let mut tar = tarball(&[file("a", b"a")]);
        tar.resize(200_000, 0);
        assert_refused(take_within(&limits, Format::TarGz, &gz(&tar), &["a"]), "unpacks to more than 100000 bytes");
    }

    #[test]
    fn headers_that_would_fill_the_memory_are_refused() {
        let huge = vec![b'a'; 2 << 20];
        let long = tarball(&[entry(b"././@LongLink", EntryType::GNULongName, &huge), file("a", b"a")]);
        assert_refused(take(Format::TarGz, &gz(&long), &["a"]), "endless headers");
        let posix = tarball(&[entry(b"pax", EntryType::XHeader, &huge), file("a", b"a")]);
        assert_refused(take(Format::TarGz, &gz(&posix), &["a"]), "endless headers");
        // of one for all others, nothing is kept
        let global = tarball(&[entry(b"pax", EntryType::XGlobalHeader, &huge), file("a", b"a")]);
        assert_eq!(take(Format::TarGz, &gz(&global), &["a"]).unwrap()[0].1, b"a");
    }

    #[test]
    fn sizes_in_an_archive_cost_neither_memory_nor_time() {
        let sized = |size: [u8; 12]| {
            let mut header = header(b"d", EntryType::Regular, 0);
            header.as_old_mut().size = size;
            header.set_cksum();
            tarball(&[file("a", b"a"), header.as_bytes().to_vec()])
        };
        let posix = |size: &str| tarball(&[file("a", b"a"), pax(b'x', &[("size", size)]), file("d", b"")]);
        let huge = [b"\x80".as_slice(), &[0xff; 11]].concat().try_into().unwrap();
        for tar in [
            sized(huge),
            sized([0xff; 12]),
            sized(*b"77777777777\0"),
            posix("18446744073709551615"),
            posix("9223372036854775807"),
        ] {
            assert_refused(take(Format::Tar, &tar, &["a"]), "damaged");
        }
        // a table of holes that goes on and on
        let mut sparse = header(b"d", EntryType::GNUSparse, 0);
        sparse.as_gnu_mut().unwrap().isextended = [1];
        sparse.set_cksum();
        let more = [[0; 504].as_slice(), &[1], &[0; 7]].concat().repeat(4000);
        let tar = tarball(&[file("a", b"a"), sparse.as_bytes().to_vec(), more]);
        assert_refused(take(Format::TarGz, &gz(&tar), &["a"]), "endless headers");
        let name = [b"\x1f\x8b\x08\x08\0\0\0\0\0\x03".as_slice(), &[b'a'; 1 << 20]].concat();
        assert_refused(take(Format::TarGz, &name, &["a"]), "gzip header field too long");
    }

    #[test]
    fn a_flipped_bit_never_passes_as_success_with_other_bytes() {
        let real = (Format::TarZst, hex::decode(REAL_ZSTD).unwrap(), "release-1.2/bin/tool");
        let ours = in_every_format().map(|(format, bytes)| (format, bytes, "r/tool"));
        for (format, bytes, name) in ours.into_iter().chain([(Format::Gz, gz(TOOL), "r/tool"), real]) {
            // A plain tar has no checksum of what is in it.
            if format == Format::Tar {
                continue;
            }
            let right = take(format, &bytes, &[name]).unwrap().remove(0).1;
            let mut refused = 0;
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                match take(format, &flipped, &[name]) {
                    Ok(taken) => assert_eq!(taken[0].1, right, "{format:?}, bit {bit}"),
                    Err(_) => refused += 1,
                }
            }
            assert!(refused > bytes.len() * 4, "{format:?}: only {refused} flips were seen");
        }
    }

    #[test]
    fn a_wrong_checksum_is_refused_even_when_it_comes_after_the_wanted_member() {
        let tar = tarball(&[file("a", b"a"), file("b", TOOL)]);
        let mut bytes = gz(&tar);
        let crc = bytes.len() - 8;
        bytes[crc] ^= 1;
        assert_refused(take(Format::TarGz, &bytes, &["a"]), "damaged");
        assert_refused(take(Format::TarGz, &bytes, &[]), "damaged");
        let mut bytes = zst(&tar);
        let checksum = bytes.len() - 4;
        bytes[checksum] ^= 1;
        assert_refused(take(Format::TarZst, &bytes, &["a"]), "wrong checksum");
        for at in 1..40 {
            let mut bytes = xz(&tar);
            let at = bytes.len() - at;
            bytes[at] ^= 1;
            assert_refused(take(Format::TarXz, &bytes, &["a"]), "damaged");
        }
        let wrong = Stored { crc: 1, ..Stored::new("a", b"a") };
        assert_refused(take(Format::Zip, &stored_zip(&[wrong]), &["a"]), "damaged in member `a`: Invalid checksum");
    }

    #[test]
    fn a_wrong_checksum_is_seen_although_the_sink_reads_no_further_than_the_last_byte() {
        let wrong = Stored { crc: 1, ..Stored::new("a", b"abc") };
        let zip = stored_zip(&[wrong]);
        let error = Archive::new("x", Format::Zip)
            .extract(Cursor::new(zip), &names(["a"]), &mut |_, content| {
                content.read_exact(&mut [0; 3]).context(code::ARTIFACT, || "sink")
            })
            .unwrap_err();
        assert_eq!(error.to_string(), "x: is damaged in member `a`: Invalid checksum");
    }

    #[test]
    fn data_after_a_compressed_stream_is_damage_and_after_a_tar_is_ignored() {
        let tar = tarball(&[file("a", b"a")]);
        for rest in [b"x".as_slice(), b"\x1f", b"\x1f\x8b", &[0; 512], &[0xff; 4096]] {
            assert_refused(take(Format::TarGz, &[&gz(&tar), rest].concat(), &["a"]), "damaged");
            assert_refused(take(Format::TarZst, &[&zst(&tar), rest].concat(), &["a"]), "damaged");
            assert_refused(take(Format::Gz, &[&gz(TOOL), rest].concat(), &["a"]), "damaged");
            // several zeros are padding, by the rules of xz
            if rest != [0; 512] {
                assert_refused(take(Format::TarXz, &[&xz(&tar), rest].concat(), &["a"]), "damaged");
            }
        }
        let twice = [tar.clone(), tarball(&[file("a", b"b"), file("c", b"c")])].concat();
        for (format, bytes) in
            [(Format::TarGz, gz(&twice)), (Format::TarGz, [gz(&tar), gz(&twice)].concat()), (Format::Tar, twice)]
        {
            assert_eq!(take(format, &bytes, &["a"]).unwrap()[0].1, b"a");
            assert_refused(take(format, &bytes, &["c"]), "has no member `c`");
        }
    }

    #[test]
    fn several_compressed_pieces_are_one_stream() {
        let tar = tarball(&[file("a", TOOL)]);
        let (one, two) = tar.split_at(600);
        assert_eq!(take(Format::TarGz, &[gz(one), gz(two)].concat(), &["a"]).unwrap()[0].1, TOOL);
        assert_eq!(take(Format::TarXz, &[xz(one), xz(two)].concat(), &["a"]).unwrap()[0].1, TOOL);
        let skippable = b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec();
        let pieces = [skippable.clone(), zst(one), skippable.clone(), zst(two)].concat();
        assert_eq!(take(Format::TarZst, &pieces, &["a"]).unwrap()[0].1, TOOL);
        let cut = [zst(&tar), skippable[..10].to_vec()].concat();
        assert_refused(take(Format::TarZst, &cut, &["a"]), "damaged");
        assert_refused(take(Format::TarZst, &skippable, &[]), "truncated");
    }

    #[test]
    fn what_the_real_zstd_writes_is_read() {
        let bytes = hex::decode(REAL_ZSTD).unwrap();
        let taken = take(Format::TarZst, &bytes, &["release-1.2/README", "release-1.2/bin/tool"]).unwrap();
        let tool: String = (0..40).map(|n| format!("line {n} of {} in a tool\n", n * n % 97)).collect();
        assert_eq!(taken[0].1, b"Read me, then read me again; then read no more.\n");
        assert_eq!(taken[1].1, tool.as_bytes());
    }
}
