//! Hands out the named members of an upstream archive as bounded streams; writes nothing and uses no name as a path.
//!
//! The file was already checked against its digest, so what is guarded against here is what its publisher put into it:
//! names that leave the tree, links, devices, a second entry of the same name, bytes without end, two readings of one
//! archive. An archive is read to its end, so that a checksum or a second entry that comes late still counts.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use zip::CompressionMethod;
use zip::read::{ArchiveOffset, Config, ZipArchive, ZipFileEntry};
use zip::result::ZipError;

use crate::error::{Context, Error, Result};

/// What an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A tar archive, compressed with gzip.
    TarGz,
    /// A tar archive, compressed with Zstandard.
    TarZst,
    /// A tar archive.
    Tar,
    /// A zip archive.
    Zip,
    /// One plain file, compressed with gzip.
    Gz,
    /// One plain file.
    Plain,
}

impl Format {
    /// What a file is by the end of its name or of its URL's path, in either case; [`Format::Plain`] when nothing fits.
    pub fn of(name: &str) -> Self {
        const ENDINGS: [(&str, Format); 7] = [
            (".tar.gz", Format::TarGz),
            (".tgz", Format::TarGz),
            (".tar.zst", Format::TarZst),
            (".tzst", Format::TarZst),
            (".tar", Format::Tar),
            (".zip", Format::Zip),
            (".gz", Format::Gz),
        ];
        let name = name.to_ascii_lowercase();
        ENDINGS.iter().find(|(ending, _)| name.ends_with(ending)).map_or(Self::Plain, |(_, format)| *format)
    }
}

/// How much may come out of an archive before it counts as an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Members, wanted or not.
    pub members: u64,
    /// Unpacked bytes of the whole archive, handed out or skipped.
    pub bytes: u64,
    /// Unpacked bytes of one wanted member.
    pub member: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { members: 100_000, bytes: 4 << 30, member: 2 << 30 }
    }
}

/// One wanted member, as it is handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The name, spelled as the caller wanted it.
    pub name: String,
    /// Its size in bytes, when the archive says it in advance; then exactly so many are handed out.
    pub size: Option<u64>,
    /// Whether anybody may execute it, as far as the archive says.
    pub executable: bool,
}

/// Hands each of the `wanted` members of `input` to `sink` as a bounded reader, in the archive's order.
///
/// `archive` is what messages call it: a name without credentials. Names are compared byte for byte after one leading
/// `./` is taken off. For [`Format::Gz`] and [`Format::Plain`] the file itself is handed out under the one wanted name,
/// whatever that is. What `sink` does not read is skipped. **What `sink` got counts only once this returns `Ok`**: a
/// checksum, or a second entry of the same name, comes after the bytes.
///
/// # Errors
/// When a wanted member is missing, not a regular file, or there twice; when any name in the archive is absolute, has a
/// `..`, a NUL or a backslash, or is no UTF-8; when the archive is damaged, truncated, encrypted or continued by something
/// else; when a limit is passed; and whatever `sink` fails with.
pub fn extract(
    archive: &str,
    mut input: impl Read + Seek,
    format: Format,
    wanted: &BTreeSet<String>,
    limits: &Limits,
    sink: &mut dyn FnMut(&Member, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let mut pass = Pass::new(archive, wanted, limits, sink)?;
    let length = input.seek(SeekFrom::End(0)).context(|| format!("{archive} can't be read"))?;
    input.rewind().context(|| format!("{archive} can't be read"))?;
    let input = BufReader::with_capacity(BUFFER, input);
    match format {
        Format::Tar => pass.tar(input),
        Format::TarGz => pass.tar(MultiGzDecoder::new(input)),
        Format::TarZst => pass.tar(Zstd::new(input)),
        Format::Zip => pass.zip(input),
        Format::Gz => pass.whole(MultiGzDecoder::new(input), None),
        Format::Plain => pass.whole(input, Some(length)),
    }?;
    pass.finish()
}

/// Bytes that are read at once.
const BUFFER: usize = 64 << 10;
/// Bytes that the headers of one tar member may take, since they are held in memory.
const HEADERS: u64 = 1 << 20;
/// Bytes that one entry of a zip directory may take on average, since all are held in memory.
const DIRECTORY_ENTRY: u64 = 256;
/// No file on Linux has a longer name, in bytes.
const LONGEST_NAME: usize = 4096;
/// Bytes of names that are kept for the message about a missing member.
const KEPT_NAMES: usize = 1 << 20;

/// Advice about an archive that is wrong although its digest is right.
const PUBLISHER: &str = "the file has the pinned digest, so fetching it again gives the same one; tell its publisher, and \
    pin a version that is in order";
/// Advice about an archive that holds too much.
const RAISE: &str = "a small file that unpacks to very much is a known attack; if this size is right, raise the limit";

/// What an entry is, as far as it matters to somebody who wants a regular file.
enum Kind {
    Regular,
    Directory,
    Symlink(Option<String>),
    HardLink(String),
    Special(&'static str),
    Sparse,
    Method(CompressionMethod),
    Unknown(u8),
}

impl Kind {
    /// Why an entry can't be handed out, and what to do about it; `None` for a regular file.
    fn problem(&self) -> Option<(String, &'static str)> {
        let (why, help) = match self {
            Self::Regular => return None,
            Self::Directory => ("is a directory".into(), "name the files in it that are wanted"),
            Self::Symlink(None) => ("is a symbolic link".into(), "name the file that it points to"),
            Self::Symlink(Some(to)) => {
                (format!("is a symbolic link to `{}`", short(to)), "name the file that it points to")
            }
            Self::HardLink(to) => (
                format!("is a hard link to `{}`, another member; links are not followed", short(to)),
                "name the member that it links to",
            ),
            Self::Special(what) => (format!("is a {what}"), "only regular files can be taken out of an archive"),
            Self::Sparse => ("is stored as a sparse file, which is not supported".into(), PUBLISHER),
            Self::Method(method) => (
                format!("is compressed by a method that is not supported ({method})"),
                "only stored and deflated members of a zip can be read",
            ),
            Self::Unknown(kind) => {
                (format!("is of an unknown type ('{}')", kind.escape_ascii()), "only regular files can be taken out")
            }
        };
        Some((why, help))
    }
}

/// A name from the archive, short enough for a message.
fn short(name: &str) -> String {
    const MOST: usize = 200;
    match name.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.into(),
    }
}

/// Takes the one leading `./` off that archives of a directory have.
fn plain(name: &str) -> &str {
    name.strip_prefix("./").unwrap_or(name)
}

/// What is wrong with a name, whoever wants it.
fn name_problem(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("has no name")
    } else if name.len() > LONGEST_NAME {
        Some("has a name that is longer than any file's can be")
    } else if name.contains('\0') {
        Some("has a NUL in its name")
    } else if name.contains('\\') {
        Some("has a backslash in its name")
    } else if name.starts_with('/') || plain(name).starts_with('/') {
        Some("has an absolute name")
    } else if name.split('/').any(|part| part == "..") {
        Some("has a name that leaves the archive (`..`)")
    } else {
        None
    }
}

struct Wanted<'a> {
    spelling: &'a str,
    found: bool,
}

/// One reading of one archive.
struct Pass<'a> {
    archive: &'a str,
    limits: &'a Limits,
    /// By the name without its leading `./`.
    wanted: BTreeMap<&'a str, Wanted<'a>>,
    sink: &'a mut dyn FnMut(&Member, &mut dyn Read) -> Result<()>,
    members: u64,
    bytes: u64,
    /// Regular files that were seen, for the message about a missing one.
    names: Vec<String>,
    names_length: usize,
}

impl<'a> Pass<'a> {
    fn new(
        archive: &'a str,
        wanted: &'a BTreeSet<String>,
        limits: &'a Limits,
        sink: &'a mut dyn FnMut(&Member, &mut dyn Read) -> Result<()>,
    ) -> Result<Self> {
        let mut names = BTreeMap::new();
        for spelling in wanted {
            if let Some(other) = names.insert(plain(spelling), Wanted { spelling, found: false }) {
                return Err(Error::new(format!("`{}` and `{spelling}` are the same member of {archive}", other.spelling))
                    .help("name it once"));
            }
        }
        Ok(Self { archive, limits, wanted: names, sink, members: 0, bytes: 0, names: Vec::new(), names_length: 0 })
    }

    fn error(&self, what: impl AsRef<str>) -> Error {
        Error::new(format!("{}: {}", self.archive, what.as_ref()))
    }

    fn about(&self, name: &str, what: impl AsRef<str>) -> Error {
        self.error(format!("member `{}` {}", short(name), what.as_ref()))
    }

    /// Counts one entry that holds `size` bytes, handed out or not.
    fn count(&mut self, size: u64) -> Result<()> {
        self.members += 1;
        self.bytes = self.bytes.saturating_add(size);
        if self.members > self.limits.members {
            return Err(self.error(format!("has more than {} members", self.limits.members)).help(RAISE));
        }
        if self.bytes > self.limits.bytes {
            return Err(self.error(format!("unpacks to more than {} bytes", self.limits.bytes)).help(RAISE));
        }
        Ok(())
    }

    /// Looks at one entry: refuses the archive for it, or says under which spelling it is wanted.
    fn admit(&mut self, raw: &[u8], kind: &Kind, size: u64) -> Result<Option<String>> {
        let Ok(name) = std::str::from_utf8(raw) else {
            let shown = raw.escape_ascii().to_string();
            return Err(self.about(&shown, "has a name that is not UTF-8").help(PUBLISHER));
        };
        if let Some(problem) = name_problem(name) {
            return Err(self.about(name, problem).help(PUBLISHER));
        }
        self.count(size)?;
        let name = plain(name);
        let Some(wanted) = self.wanted.get_mut(name) else {
            if matches!(kind, Kind::Regular) && self.names_length + name.len() <= KEPT_NAMES {
                self.names_length += name.len();
                self.names.push(name.into());
            }
            return Ok(None);
        };
        let twice = std::mem::replace(&mut wanted.found, true);
        let spelling = wanted.spelling.to_owned();
        if twice {
            return Err(self.about(name, "is there twice, and only one can be meant").help(PUBLISHER));
        }
        if let Some((why, help)) = kind.problem() {
            return Err(self.about(name, why).help(help));
        }
        if size > self.limits.member {
            return Err(self
                .about(name, format!("has {size} bytes, and {} are allowed", self.limits.member))
                .help(RAISE));
        }
        Ok(Some(spelling))
    }

    /// Gives one member to the sink, and reads what the sink left.
    fn hand(&mut self, member: &Member, content: &mut dyn Read) -> Result<()> {
        let most = member.size.unwrap_or(self.limits.member.min(self.limits.bytes));
        let mut content = Content { archive: self.archive, member, content, most, read: 0, fault: None };
        let taken = (self.sink)(member, &mut content);
        if taken.is_ok() {
            // A failure stays in `fault`, in better words.
            let _ = io::copy(&mut content, &mut io::sink());
        }
        match content.fault {
            Some(fault) => Err(fault),
            None => taken,
        }
    }

    /// Hands out a file that is its own only member.
    fn whole(&mut self, mut stream: impl Read, size: Option<u64>) -> Result<()> {
        if self.wanted.len() > 1 {
            let names: Vec<_> = self.wanted.values().map(|wanted| format!("`{}`", wanted.spelling)).collect();
            return Err(self
                .error(format!("is one file, and {} are wanted: {}", names.len(), names.join(", ")))
                .help("name one, or give the archive's format"));
        }
        let Some(name) = self.wanted.keys().next().copied() else { return Ok(()) };
        match self.admit(name.as_bytes(), &Kind::Regular, size.unwrap_or(0))? {
            Some(name) => self.hand(&Member { name, size, executable: false }, &mut stream),
            None => Ok(()),
        }
    }

    fn tar(&mut self, stream: impl Read) -> Result<()> {
        let meter = Meter::new(self.archive, self.limits.bytes);
        let mut archive = tar::Archive::new(Metered { inner: stream, meter: &meter });
        let mut entries = archive.entries().map_err(|error| fault(self.archive, None, error))?;
        let mut unread = 0;
        loop {
            meter.allow(HEADERS.saturating_add(unread));
            let Some(entry) = entries.next() else { break };
            let mut entry = entry.map_err(|error| fault(self.archive, None, error))?;
            // A sparse file's own size counts its holes, which are never read.
            unread = entry.header().entry_size().map_err(|error| fault(self.archive, None, error))?.max(entry.size());
            if entry.header().entry_type().is_gnu_sparse() {
                unread = entry.header().entry_size().map_err(|error| fault(self.archive, None, error))?;
            }
            if entry.header().entry_type().is_pax_global_extensions() {
                // Its name is made up by the archiver, often in its temporary directory.
                self.count(unread)?;
                self.extended(&mut entry)?;
                continue;
            }
            let sparse = self.extended(&mut entry)?;
            let name = sparse.as_ref().map_or_else(|| entry.path_bytes().into_owned(), Clone::clone);
            let kind = if sparse.is_some() { Kind::Sparse } else { tar_kind(&entry, &name) };
            if let Some(name) = self.admit(&name, &kind, unread)? {
                let mode = entry.header().mode().map_err(|error| fault(self.archive, Some(&name), error))?;
                meter.allow(u64::MAX);
                self.hand(&Member { name, size: Some(unread), executable: mode & 0o111 != 0 }, &mut entry)?;
            }
        }
        drop(entries);
        meter.allow(u64::MAX);
        if meter.ended.get() {
            return Err(self.error("is cut off: the archive's end is missing").help(PUBLISHER));
        }
        let mut rest = archive.into_inner();
        let mut buffer = vec![0; BUFFER];
        loop {
            match rest.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) if buffer[..n].iter().all(|byte| *byte == 0) => {}
                Ok(_) => return Err(self.error("goes on after the archive's end").help(PUBLISHER)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(fault(self.archive, None, error)),
            }
        }
    }

    /// Refuses extended headers that two readers could read differently; gives the real name of a sparse file.
    fn extended(&self, entry: &mut tar::Entry<'_, impl Read>) -> Result<Option<Vec<u8>>> {
        let global = entry.header().entry_type().is_pax_global_extensions();
        let (name, size) = (entry.path_bytes().into_owned(), entry.size());
        let shown = String::from_utf8_lossy(&name).into_owned();
        let refuse = |what: &str| self.about(&shown, what).help(PUBLISHER);
        let mut sparse = None;
        let records = entry.pax_extensions().map_err(|error| fault(self.archive, Some(&shown), error))?;
        for record in records.into_iter().flatten() {
            let record = record.map_err(|error| fault(self.archive, Some(&shown), error))?;
            let (key, value) = (record.key_bytes(), record.value_bytes());
            match key {
                b"path" | b"linkpath" | b"size" if global => return Err(refuse("gives all others one name or size")),
                b"path" if value != name => return Err(refuse("has two different names")),
                b"size" if value != size.to_string().as_bytes() => return Err(refuse("has two different sizes")),
                b"GNU.sparse.name" => sparse = Some(value.to_vec()),
                _ if key.starts_with(b"GNU.sparse.") => sparse = sparse.or_else(|| Some(name.clone())),
                _ => {}
            }
        }
        Ok(sparse)
    }

    fn zip(&mut self, input: impl Read + Seek) -> Result<()> {
        let meter = Meter::new(self.archive, u64::MAX);
        meter.allow(self.limits.members.saturating_mul(DIRECTORY_ENTRY).saturating_add(HEADERS));
        // Nothing may stand before the archive: the end of a truncated one could be a whole archive itself.
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let mut archive = ZipArchive::with_config(config, Metered { inner: input, meter: &meter })
            .map_err(|error| self.zip_fault(error))?;
        meter.allow(u64::MAX);
        let directory = archive.metadata();
        if directory.len() as u64 > self.limits.members {
            return Err(self.error(format!("has more than {} members", self.limits.members)).help(RAISE));
        }
        for index in 0..directory.len() {
            let entry = directory.entry(index).map_err(|error| self.zip_fault(error))?;
            if entry.encrypted() {
                let name = String::from_utf8_lossy(entry.name_raw());
                return Err(self.about(&name, "is encrypted").help("use an archive that needs no password"));
            }
        }
        if directory.has_duplicate_names() {
            return Err(self.error("has a name twice, and only one can be meant").help(PUBLISHER));
        }
        archive.validate_header_consistency().map_err(|error| self.zip_fault(error))?;
        for index in 0..directory.len() {
            let entry = directory.entry(index).map_err(|error| self.zip_fault(error))?;
            if let Some(name) = self.admit(entry.name_raw(), &zip_kind(&entry), entry.size())? {
                let mut content = archive.by_index(index).map_err(|error| self.zip_fault(error))?;
                let executable = zip_mode(&entry) & 0o111 != 0;
                self.hand(&Member { name, size: Some(entry.size()), executable }, &mut content)?;
            }
        }
        Ok(())
    }

    fn zip_fault(&self, error: ZipError) -> Error {
        match error {
            ZipError::Io(error) => fault(self.archive, None, error),
            error => self.error("is damaged").because(error).help(PUBLISHER),
        }
    }

    /// Tells of every wanted member that was not there.
    fn finish(self) -> Result<()> {
        let missing = self.wanted.iter().filter(|(_, wanted)| !wanted.found).map(|(name, wanted)| {
            let error = self.error(format!("has no member `{}`", wanted.spelling));
            match nearest(name, &self.names) {
                near if near.is_empty() => error.help("it holds no files; is it the right file, and the right format?"),
                near => error.help(format!("nearest to it are {}", near.join(", "))),
            }
        });
        Error::all(missing.collect()).map_or(Ok(()), Err)
    }
}

/// The up to three names that were most likely meant: first those of the same file elsewhere, then by spelling.
fn nearest(word: &str, names: &[String]) -> Vec<String> {
    const SHOWN: usize = 3;
    let file = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let wanted = file(word);
    let mut ranked: Vec<_> = names
        .iter()
        .map(|name| (file(name) != wanted, strsim::damerau_levenshtein(word, name), name))
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().take(SHOWN).map(|(_, _, name)| format!("`{}`", short(name))).collect()
}

fn tar_kind(entry: &tar::Entry<'_, impl Read>, name: &[u8]) -> Kind {
    use tar::EntryType as Type;
    let target = || entry.link_name_bytes().map(|to| String::from_utf8_lossy(&to).into_owned());
    match entry.header().entry_type() {
        // Before ustar, a directory was a file whose name ends so.
        Type::Regular if name.ends_with(b"/") => Kind::Directory,
        Type::Regular => Kind::Regular,
        Type::Directory => Kind::Directory,
        Type::Symlink => Kind::Symlink(target()),
        Type::Link => Kind::HardLink(target().unwrap_or_default()),
        Type::Char | Type::Block => Kind::Special("device"),
        Type::Fifo => Kind::Special("fifo"),
        Type::GNUSparse => Kind::Sparse,
        other => Kind::Unknown(other.as_byte()),
    }
}

/// The Unix type and permissions of a zip entry; 0 when whoever wrote it had none.
fn zip_mode(entry: &ZipFileEntry<'_>) -> u32 {
    entry.external_attributes() >> 16
}

fn zip_kind(entry: &ZipFileEntry<'_>) -> Kind {
    match zip_mode(entry) & 0o170_000 {
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

/// A failure to read the archive in our words, unless it already is.
fn fault(archive: &str, member: Option<&str>, error: io::Error) -> Error {
    let place = member.map(|name| format!(" in member `{}`", short(name))).unwrap_or_default();
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        // The operating system's own errors say nothing about what is in the file.
        Err(error) if error.raw_os_error().is_some() => Error::new(format!("{archive} can't be read")).because(error),
        Err(error) => Error::new(format!("{archive}: is damaged{place}")).because(error).help(PUBLISHER),
    }
}

/// A member's bytes as the sink sees them: never more than announced, never fewer without an error.
struct Content<'a> {
    archive: &'a str,
    member: &'a Member,
    content: &'a mut dyn Read,
    most: u64,
    read: u64,
    /// The first failure, kept because a sink may swallow it.
    fault: Option<Error>,
}

impl Content<'_> {
    fn fail(&mut self, error: Error) -> io::Error {
        let told = io::Error::other(error.to_string());
        self.fault = Some(error);
        told
    }

    fn about(&self, what: &str) -> Error {
        Error::new(format!("{}: member `{}` {what}", self.archive, self.member.name))
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(fault) = &self.fault {
            return Err(io::Error::other(fault.to_string()));
        }
        match self.content.read(buffer) {
            Ok(0) if !buffer.is_empty() && self.member.size.is_some_and(|size| self.read < size) => {
                let error = self.about(&format!("is cut off after {} of {} bytes", self.read, self.most));
                Err(self.fail(error.help(PUBLISHER)))
            }
            Ok(n) => {
                self.read += n as u64;
                if self.read > self.most {
                    let error = self.about(&format!("unpacks to more than {} bytes", self.most)).help(RAISE);
                    return Err(self.fail(error));
                }
                Ok(n)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let error = fault(self.archive, Some(&self.member.name), error);
                Err(self.fail(error))
            }
        }
    }
}

/// Counts what is read out of a [`Metered`] stream, so that a parser above it can't be made to read without end.
struct Meter<'a> {
    archive: &'a str,
    /// The most bytes that may be read at all, for the message.
    most: u64,
    left: Cell<u64>,
    /// Bytes that may be read until [`Meter::allow`] is called again.
    allowed: Cell<u64>,
    /// Whether the stream's own end was seen.
    ended: Cell<bool>,
}

impl<'a> Meter<'a> {
    fn new(archive: &'a str, most: u64) -> Self {
        Self { archive, most, left: Cell::new(most), allowed: Cell::new(0), ended: Cell::new(false) }
    }

    fn allow(&self, bytes: u64) {
        self.allowed.set(bytes);
    }

    fn count(&self, bytes: u64) -> io::Result<()> {
        let Some(left) = self.left.get().checked_sub(bytes) else {
            let error = Error::new(format!("{}: unpacks to more than {} bytes", self.archive, self.most));
            return Err(io::Error::other(error.help(RAISE)));
        };
        let Some(allowed) = self.allowed.get().checked_sub(bytes) else {
            let error = Error::new(format!("{}: has headers without end", self.archive));
            return Err(io::Error::other(error.help(PUBLISHER)));
        };
        self.left.set(left);
        self.allowed.set(allowed);
        Ok(())
    }
}

/// A stream whose bytes are counted.
struct Metered<'a, R> {
    inner: R,
    meter: &'a Meter<'a>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        if n == 0 && !buffer.is_empty() {
            self.meter.ended.set(true);
        }
        self.meter.count(n as u64)?;
        Ok(n)
    }
}

impl<R: Seek> Seek for Metered<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

/// All Zstandard frames of a stream, one after the other, with their checksums and sizes held against what came out.
struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    /// Whether a frame was begun and not yet checked.
    within: bool,
    /// Frames begun.
    frames: u64,
    /// Bytes that came out of this frame.
    written: u64,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Self {
        Self { source, decoder: FrameDecoder::new(), within: false, frames: 0, written: 0 }
    }

    /// Goes to the next frame; false at the end of the stream.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => {
                    self.within = true;
                    self.frames += 1;
                    self.written = 0;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let length = u64::from(length);
                    if io::copy(&mut (&mut self.source).take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        if self.frames == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(false)
    }

    /// Holds a whole frame against what its header and its end say; the decoder itself does not.
    fn end(&mut self) -> io::Result<()> {
        self.within = false;
        let stored = self.decoder.get_checksum_from_data();
        if stored.is_some() && stored != self.decoder.get_calculated_checksum() {
            return Err(io::Error::other("a Zstandard frame has the wrong checksum"));
        }
        // 0 stands for a size that is not given.
        let announced = self.decoder.content_size();
        if announced != 0 && announced != self.written {
            return Err(io::Error::other("a Zstandard frame has the wrong size"));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.within {
                if !self.begin()? {
                    return Ok(0);
                }
            } else if self.decoder.can_collect() > 0 {
                let n = self.decoder.read(buffer)?;
                self.written += n as u64;
                return Ok(n);
            } else if self.decoder.is_finished() {
                self.end()?;
            } else {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(io::Error::other)?;
            }
        }
    }
}
