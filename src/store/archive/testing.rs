//! Archives of every kind, made byte by byte where that is needed to lie.

use std::collections::BTreeSet;
use std::io::{Cursor, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::EntryType;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::{Archive, Limits, Member};
use crate::document::Format;
use crate::error::{Context, Result, code};

/// `release-1.2/` with `README` and `bin/tool`, made by GNU tar and `zstd -19 --check`.
pub const REAL_ZSTD: &str = "28b52ffd640011550900920e291a704d3a68062533157268ca3a04bd67e14ab29b000301ba388704fd8d10a2b3363\
    63fda4c5d4e84d0f394fb113af6fdd665fcddd5fe54c6c4cbf35745fc9edda88c9baebeb9897a88e8b7d1afb7362737eeeb26a2012cd952ec\
    acc1d8995acae2a7e8dcb8308cc4f5ce212c65710003d5301063566129c991acb1a51e120b28883192529c9d3c3e6c44e26040288e59932491\
    c9613b9aedcc7e87900314a848528b6a0269a86168580bd24265388027add10122d00508c10c43d0f0c081c4ffaf986e7e40c35930dae92d4c\
    c20c3303040e0b674d29c29841044898810734422d31c1115881fd7830246635aa53282cad25d925b0ab8e79482099230336801b50e90c1f87\
    03480d98f99dba0e4de114d84380c0c7e1809a403f944024f49b0559770f10c8eefe6a6389ec";

type Contents = Vec<(Member, Vec<u8>)>;

pub fn names<'a>(wanted: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    wanted.into_iter().map(str::to_owned).collect()
}

pub fn take_within(limits: &Limits, format: Format, bytes: &[u8], wanted: &[&str]) -> Result<Contents> {
    let mut taken = Vec::new();
    let wanted = names(wanted.iter().copied());
    Archive { limits: *limits, ..Archive::new("x", format) }.extract(
        Cursor::new(bytes),
        &wanted,
        &mut |member, content| {
            let mut all = Vec::new();
            content.read_to_end(&mut all).context(code::ARTIFACT, || "sink")?;
            taken.push((member.clone(), all));
            Ok(())
        },
    )?;
    Ok(taken)
}

pub fn take(format: Format, bytes: &[u8], wanted: &[&str]) -> Result<Contents> {
    take_within(&Limits::default(), format, bytes, wanted)
}

/// The whole message of a refusal.
#[track_caller]
pub fn refusal(result: Result<Contents>) -> String {
    let error = result.expect_err("this must be refused");
    let advice = error.advice().unwrap_or_default();
    format!("{error} [{advice}]")
}

#[track_caller]
pub fn assert_refused(result: Result<Contents>, words: &str) {
    let message = refusal(result);
    assert!(message.contains(words), "{message:?} does not say {words:?}");
}

pub fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

pub fn header(name: &[u8], kind: EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o755);
    header.set_cksum();
    header
}

/// One tar entry, whatever its name.
pub fn entry(name: &[u8], kind: EntryType, content: &[u8]) -> Vec<u8> {
    let header = header(name, kind, content.len() as u64);
    padded([header.as_bytes().as_slice(), content].concat())
}

pub fn file(name: &str, content: &[u8]) -> Vec<u8> {
    entry(name.as_bytes(), EntryType::Regular, content)
}

pub fn link(name: &str, kind: EntryType, to: &str) -> Vec<u8> {
    let mut header = header(name.as_bytes(), kind, 0);
    header.set_link_name(to).unwrap();
    header.set_cksum();
    header.as_bytes().to_vec()
}

pub fn pax(kind: u8, records: &[(&str, &str)]) -> Vec<u8> {
    let mut content = String::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest..).find(|length| length.to_string().len() + rest == *length).unwrap();
        content += &format!("{length} {key}={value}\n");
    }
    entry(b"pax", EntryType::new(kind), content.as_bytes())
}

pub fn tarball(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

pub fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zst(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

pub fn xz(bytes: &[u8]) -> Vec<u8> {
    xz_with(bytes, 64 << 10)
}

/// With a window of so many bytes.
pub fn xz_with(bytes: &[u8], window: u32) -> Vec<u8> {
    let mut options = lzma_rust2::XzOptions::with_preset(0);
    options.lzma_options.dict_size = window;
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

/// A zip by the crate's own writer, deflated.
pub fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        writer.start_file(*name, SimpleFileOptions::default().unix_permissions(0o755)).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// One stored zip member, field by field, with room for lies.
pub struct Stored {
    pub name: Vec<u8>,
    pub local_name: Vec<u8>,
    pub content: Vec<u8>,
    pub flags: u16,
    pub method: u16,
    pub mode: u32,
    pub crc: u32,
    pub size: u32,
}

impl Stored {
    pub fn new(name: &str, content: &[u8]) -> Self {
        let mut crc = flate2::Crc::new();
        crc.update(content);
        Self {
            name: name.into(),
            local_name: name.into(),
            content: content.into(),
            flags: 0,
            method: 0,
            mode: 0o100_755,
            crc: crc.sum(),
            size: content.len() as u32,
        }
    }

    /// The fields that the local header and the directory have in common.
    fn common(&self, name: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in [20, self.flags, self.method, 0, 0x21] {
            bytes.extend(field.to_le_bytes());
        }
        for field in [self.crc, self.content.len() as u32, self.size] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend((name.len() as u16).to_le_bytes());
        bytes.extend([0; 2]);
        bytes
    }
}

pub fn stored_zip(members: &[Stored]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for member in members {
        directory.extend(b"PK\x01\x02\x14\x03");
        directory.extend(member.common(&member.name));
        directory.extend([0; 6]);
        directory.extend((member.mode << 16).to_le_bytes());
        directory.extend((bytes.len() as u32).to_le_bytes());
        directory.extend(&member.name);
        bytes.extend(b"PK\x03\x04");
        bytes.extend(member.common(&member.local_name));
        bytes.extend(&member.local_name);
        bytes.extend(&member.content);
    }
    let start = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend((members.len() as u16).to_le_bytes().repeat(2));
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0; 2]);
    bytes
}

pub const TOOL: &[u8] = b"#!/bin/true\nand some more bytes, some of which come again and again and again\n";

/// The same two files in each format that can hold two.
pub fn in_every_format() -> [(Format, Vec<u8>); 5] {
    let tar =
        tarball(&[entry(b"./r/", EntryType::Directory, b""), file("./r/README", b"read me"), file("./r/tool", TOOL)]);
    [
        (Format::TarGz, gz(&tar)),
        (Format::TarXz, xz(&tar)),
        (Format::TarZst, zst(&tar)),
        (Format::Zip, zipped(&[("r/README", b"read me"), ("r/tool", TOOL)])),
        (Format::Tar, tar),
    ]
}
