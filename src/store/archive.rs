//! Hands out the named members of an upstream archive as bounded streams; writes nothing and uses no name as a path.
//!
//! Guarded against is what its publisher put into it: names that leave the tree, links, devices, a second entry of the same
//! name, bytes without end, two readings of one archive. An archive is read to its end, so that a checksum or a second entry
//! that comes late still counts. One that is read while it comes in is as hostile as the network: whatever is taken out of it
//! is worth nothing until the file's digest is right.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek, SeekFrom};

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use zip::CompressionMethod;
use zip::read::{ArchiveOffset, Config, ZipArchive, ZipFileEntry};
use zip::result::ZipError;

use crate::error::{Context, Error, Result, code};
use crate::magic::Container;
use crate::site::{Format, READABLE};
use crate::text::shortened;

/// How much may come out of an archive before it counts as an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Members, wanted or not.
    pub members: u64,
    /// Unpacked bytes of the whole archive, handed out or skipped.
    pub bytes: u64,
    /// Unpacked bytes of one wanted member.
    pub member: u64,
    /// Unpacked bytes for each byte of the archive.
    pub ratio: u64,
    /// Unpacked bytes of which no ratio is asked.
    pub free: u64,
}

impl Limits {
    /// The most that may come out of so many bytes.
    fn most(&self, packed: u64) -> u64 {
        self.free.saturating_add(packed.saturating_mul(self.ratio))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { members: 100_000, bytes: 4 << 30, member: 2 << 30, ratio: 200, free: 64 << 20 }
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
    /// What it is; [`Kind::Regular`], unless all is [handed out](walk).
    pub kind: Kind,
}

/// Hands each of the `wanted` members of `input` to `sink` as a bounded reader, in the archive's order.
///
/// `archive` is what messages call it: a name without credentials. Names are compared byte for byte after one leading
/// `./` is taken off. For a format that [is no archive](Format::is_archive) the file itself is handed out under the one wanted name,
/// whatever that is. What `sink` does not read is read and thrown away. **What `sink` got counts only once this returns `Ok`**: a
/// checksum, or a second entry of the same name, comes after the bytes.
///
/// # Errors
/// When a wanted member is missing, not a regular file, or there twice; when any name in the archive is absolute, has a
/// `..`, a NUL or a backslash, or is no UTF-8; when the archive is damaged, truncated, encrypted or continued by something
/// else; when a limit is passed; and whatever `sink` fails with.
pub fn extract(
    archive: &str,
    input: impl Read + Seek,
    format: Format,
    wanted: &BTreeSet<String>,
    limits: &Limits,
    sink: &mut dyn FnMut(&Member, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let mut pass = Pass::new(archive, wanted, limits, sink)?;
    pass.read(input, format)?;
    pass.finish()
}

/// [`extract`] from a stream, of a format that [streams](Format::streams).
pub fn extract_stream(
    archive: &str,
    input: impl BufRead,
    format: Format,
    wanted: &BTreeSet<String>,
    limits: &Limits,
    sink: &mut dyn FnMut(&Member, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let mut pass = Pass::new(archive, wanted, limits, sink)?;
    pass.stream(input, format, None)?;
    pass.finish()
}

/// Hands out every member of an archive, whatever it is, as [`extract`] does the wanted ones. Of what is no regular file there is
/// no content; of a link there is where it leads. Whether names fit together is for `sink` to see.
pub fn walk(
    archive: &str,
    input: impl Read + Seek,
    format: Format,
    limits: &Limits,
    sink: &mut dyn FnMut(&Member, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let nothing = BTreeSet::new();
    let mut pass = Pass::new(archive, &nothing, limits, sink)?;
    pass.wants_all = true;
    pass.read(input, format)
}

/// The names of the regular files in `input`, in its order; none for what is no archive. Errors as for
/// [`extract`]. Of very many names, only the first mebibyte is given.
pub fn list(archive: &str, input: impl Read + Seek, format: Format, limits: &Limits) -> Result<Vec<String>> {
    let (nothing, mut sink) = (BTreeSet::new(), |_: &Member, _: &mut dyn Read| Ok(()));
    let mut pass = Pass::new(archive, &nothing, limits, &mut sink)?;
    pass.read(input, format)?;
    Ok(pass.names)
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

/// Bytes that unpacking may keep in memory to look back at: what `xz -9` and `zstd --long` want, and no more.
const WINDOW: u64 = 128 << 20;

/// Advice about an archive that is wrong although its digest is right.
const PUBLISHER: &str = "the file has the pinned digest, so fetching it again gives the same one; tell its publisher, and \
    pin a version that is in order";
/// Advice about an archive that holds too much.
const RAISE: &str = "a small file that unpacks to very much is a known attack; if this size is right, raise the limit";

/// Advice about an archive that is packed better than files are.
const REPACK: &str = "a small file that unpacks to very much is a known attack; if this one is in order, repack it without what is empty in \
    it, pin that, and hand it out from a mirror of yours";

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link, and where it leads, if that was read.
    Symlink(Option<String>),
    /// Another name of a member.
    HardLink(String),
    /// A device or alike.
    Special(&'static str),
    /// A file with holes.
    Sparse,
    /// A file that is compressed in an unusual way.
    Method(CompressionMethod),
    /// Something else.
    Unknown(u8),
}

impl Kind {
    /// Why an entry can't be handed out, and what to do about it; `None` for a regular file.
    pub fn problem(&self) -> Option<(String, &'static str)> {
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
pub(super) fn short(name: &str) -> String {
    const MOST: usize = 200;
    shortened(name, MOST)
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
    /// Whether every entry is handed out.
    wants_all: bool,
    sink: &'a mut dyn FnMut(&Member, &mut dyn Read) -> Result<()>,
    members: u64,
    bytes: u64,
    /// The most bytes by the size of the archive, where that is known in advance.
    most: u64,
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
                return Err(Error::new(
                    code::ARTIFACT,
                    format!("`{}` and `{spelling}` are the same member of {archive}", other.spelling),
                )
                .help("name it once"));
            }
        }
        let wanted = names;
        let names = Vec::new();
        let (members, bytes, most, names_length) = (0, 0, u64::MAX, 0);
        Ok(Self { archive, limits, wanted, wants_all: false, sink, members, bytes, most, names, names_length })
    }

    /// Goes through the whole archive.
    fn read(&mut self, mut input: impl Read + Seek, format: Format) -> Result<()> {
        let what = || format!("{} can't be read", self.archive);
        let length = input.seek(SeekFrom::End(0)).context(code::ARTIFACT, what)?;
        input.rewind().context(code::ARTIFACT, what)?;
        let mut input = BufReader::with_capacity(BUFFER, input);
        if format != Format::Zip {
            return self.stream(input, format, Some(length));
        }
        self.look(&head(self.archive, &mut input)?, format)?;
        input.rewind().context(code::ARTIFACT, what)?;
        self.most = self.limits.most(length);
        self.zip(input)
    }

    /// Goes through a whole archive from its beginning on; `length` is the file's, if it is known.
    fn stream(&mut self, mut input: impl BufRead, format: Format, length: Option<u64>) -> Result<()> {
        let head = head(self.archive, &mut input)?;
        self.look(&head, format)?;
        let packed = Cell::new(0);
        let input = Packed { inner: Cursor::new(head).chain(input), read: &packed };
        let (archive, limits) = (self.archive, self.limits);
        let held = |inner| Held { archive, inner, limits, packed: &packed, written: 0 };
        match format {
            Format::Tar => self.tar(input),
            Format::TarGz => self.tar(held(Box::new(MultiGzDecoder::new(input)) as Box<dyn Read + '_>)),
            Format::TarXz => self.tar(held(Box::new(xz(archive, input)))),
            Format::TarZst => self.tar(held(Box::new(Zstd::new(archive, input)))),
            Format::Zip => Err(self.error("is a zip, which can't be read while it comes in")),
            Format::Gz => self.inflated(held(Box::new(MultiGzDecoder::new(input)))),
            Format::Xz => self.inflated(held(Box::new(xz(archive, input)))),
            Format::Zst => self.inflated(held(Box::new(Zstd::new(archive, input)))),
            Format::Plain | Format::File => self.whole(input, length),
        }
    }

    /// Refuses what is not what its name says, by its first bytes.
    fn look(&self, head: &[u8], format: Format) -> Result<()> {
        let Some(found) = Container::of(head) else { return Ok(()) };
        if format == Format::File || format.container() == Some(found) {
            return Ok(());
        }
        let error = self.error(format!("is {found}, and its name does not say so"));
        Err(match found {
            Container::Page => error.help(
                "open the address in a browser: is it a login or an error page, or the page about the file instead of the file?",
            ),
            Container::Other(_) => error.help(READABLE),
            _ => error.help(
                "say what it is beside its pin in artifacts.toml: `format = \"tar.gz\"` or alike, `format = \"file\"` if it is to be \
                 installed as it is",
            ),
        })
    }

    /// Hands out the one file that is inside, which is no archive again.
    fn inflated(&mut self, mut stream: impl Read) -> Result<()> {
        let head = head(self.archive, &mut stream)?;
        self.look(&head, Format::Plain)?;
        self.whole(Cursor::new(head).chain(stream), None)
    }

    fn error(&self, what: impl AsRef<str>) -> Error {
        Error::new(code::ARTIFACT, format!("{}: {}", self.archive, what.as_ref()))
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
        if self.bytes > self.most {
            return Err(inflates(self.archive, self.limits.ratio));
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
        if self.wants_all {
            return Ok(Some(name.to_owned()));
        }
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
        Ok(Some(spelling))
    }

    /// Gives one member to the sink, and reads what the sink left.
    fn hand(&mut self, member: &Member, content: &mut dyn Read) -> Result<()> {
        if member.kind != Kind::Regular {
            return (self.sink)(member, &mut io::empty());
        }
        let most = member.size.unwrap_or(self.limits.member.min(self.limits.bytes));
        if most > self.limits.member {
            let what = format!("has {most} bytes, and {} are allowed", self.limits.member);
            return Err(self.about(&member.name, what).help(RAISE));
        }
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
                .help("name one, or say `format` beside its pin in artifacts.toml, if it is an archive"));
        }
        self.count(size.unwrap_or(0))?;
        let Some(wanted) = self.wanted.values_mut().next() else { return Ok(()) };
        wanted.found = true;
        let name = wanted.spelling.to_owned();
        self.hand(&Member { name, size, executable: false, kind: Kind::Regular }, &mut stream)
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
            unread = if entry.header().entry_type().is_gnu_sparse() {
                // Its own size counts the holes, which are never read.
                entry.header().entry_size().map_err(|error| fault(self.archive, None, error))?
            } else {
                entry.size()
            };
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
                self.hand(&Member { name, size: Some(unread), executable: mode & 0o111 != 0, kind }, &mut entry)?;
            }
        }
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
            let mut kind = zip_kind(&entry);
            if let Some(name) = self.admit(entry.name_raw(), &kind, entry.size())? {
                let mut content: Box<dyn Read> = match kind {
                    Kind::Regular | Kind::Symlink(_) => {
                        Box::new(archive.by_index(index).map_err(|error| self.zip_fault(error))?)
                    }
                    _ => Box::new(io::empty()),
                };
                if let Kind::Symlink(to) = &mut kind {
                    let mut target = Vec::new();
                    let read = (&mut content).take(LONGEST_NAME as u64 + 1).read_to_end(&mut target);
                    read.map_err(|error| fault(self.archive, Some(&name), error))?;
                    *to = Some(String::from_utf8_lossy(&target).into_owned());
                }
                let executable = zip_mode(&entry) & 0o111 != 0;
                self.hand(&Member { name, size: Some(entry.size()), executable, kind }, &mut content)?;
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
    let elsewhere = |name: &str| name.rsplit('/').next() == word.rsplit('/').next();
    let mut ranked: Vec<_> =
        names.iter().map(|name| (!elsewhere(name), strsim::levenshtein(word, name), name)).collect();
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

/// The first bytes of a file, for [`Container::of`].
fn head(archive: &str, input: &mut impl Read) -> Result<Vec<u8>> {
    let mut head = Vec::with_capacity(Container::HEAD);
    let read = input.take(Container::HEAD as u64).read_to_end(&mut head);
    read.map_err(|error| fault(archive, None, error))?;
    Ok(head)
}

/// A failure to read the archive in our words, unless it already is.
fn fault(archive: &str, member: Option<&str>, error: io::Error) -> Error {
    let place = member.map(|name| format!(" in member `{}`", short(name))).unwrap_or_default();
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        // The operating system's own errors say nothing about what is in the file.
        Err(error) if error.raw_os_error().is_some() => {
            Error::new(code::ARTIFACT, format!("{archive} can't be read")).because(error)
        }
        Err(error) => {
            Error::new(code::ARTIFACT, format!("{archive}: is damaged{place}")).because(error).help(PUBLISHER)
        }
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
        Error::new(code::ARTIFACT, format!("{}: member `{}` {what}", self.archive, self.member.name))
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
            let error =
                Error::new(code::ARTIFACT, format!("{}: unpacks to more than {} bytes", self.archive, self.most));
            return Err(io::Error::other(error.help(RAISE)));
        };
        let Some(allowed) = self.allowed.get().checked_sub(bytes) else {
            let error = Error::new(code::ARTIFACT, format!("{}: has headers without end", self.archive));
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

fn inflates(archive: &str, ratio: u64) -> Error {
    Error::new(code::ARTIFACT, format!("{archive}: unpacks to more than {ratio} times its size")).help(REPACK)
}

/// Counts what an unpacker reads.
struct Packed<'a, R> {
    inner: R,
    read: &'a Cell<u64>,
}

impl<R: BufRead> BufRead for Packed<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.read.set(self.read.get().saturating_add(count as u64));
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

/// Holds what an unpacker writes against what it has read.
struct Held<'a, R> {
    archive: &'a str,
    inner: R,
    limits: &'a Limits,
    packed: &'a Cell<u64>,
    written: u64,
}

impl<R: Read> Read for Held<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.written = self.written.saturating_add(count as u64);
        if self.written > self.limits.most(self.packed.get()) {
            return Err(io::Error::other(inflates(self.archive, self.limits.ratio)));
        }
        Ok(count)
    }
}

/// What is packed so that more than [`WINDOW`] bytes have to be looked back at.
fn too_wide(archive: &str, wanted: Option<u64>) -> io::Error {
    let wanted = wanted.map_or_else(|| "more".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
    io::Error::other(
        Error::new(code::ARTIFACT, format!("{archive}: needs {wanted} of memory to be unpacked, and {} MiB are allowed", WINDOW >> 20)).help(
            "it was packed with a very large window (`zstd --long=28` and above, `xz --lzma2=dict=…`): repack it with `zstd -19` or `xz \
             -9`, pin that, and hand it out from a mirror of yours",
        ),
    )
}

/// All xz streams of a file, one after the other, with their checksums.
fn xz<'a>(archive: &'a str, source: impl Read + 'a) -> impl Read + 'a {
    // beside the window there is little
    const LIMIT: u32 = (WINDOW >> 10) as u32 + 4096;
    Xz { archive, reader: XzReader::new_mem_limit(source, true, LIMIT) }
}

struct Xz<'a, R: Read> {
    archive: &'a str,
    reader: XzReader<R>,
}

impl<R: Read> Read for Xz<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::OutOfMemory => too_wide(self.archive, None),
            _ => error,
        })
    }
}

/// All Zstandard frames of a stream, one after the other, with their checksums and sizes held against what came out.
struct Zstd<'a, R> {
    archive: &'a str,
    source: R,
    decoder: FrameDecoder,
    /// Whether a frame was begun and not yet checked.
    within: bool,
    /// Frames begun.
    frames: u64,
    /// Bytes that came out of this frame.
    written: u64,
}

impl<'a, R: BufRead> Zstd<'a, R> {
    fn new(archive: &'a str, source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW);
        Self { archive, source, decoder, within: false, frames: 0, written: 0 }
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
                Err(FrameDecoderError::WindowSizeTooBig { requested, .. }) => {
                    return Err(too_wide(self.archive, Some(requested)));
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

impl<R: BufRead> Read for Zstd<'_, R> {
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::path::Path;
    use std::process::Command;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tar::EntryType;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    /// `release-1.2/` with `README` and `bin/tool`, made by GNU tar and `zstd -19 --check`.
    const REAL_ZSTD: &str = "28b52ffd640011550900920e291a704d3a68062533157268ca3a04bd67e14ab29b000301ba388704fd8d10a2b3363\
        63fda4c5d4e84d0f394fb113af6fdd665fcddd5fe54c6c4cbf35745fc9edda88c9baebeb9897a88e8b7d1afb7362737eeeb26a2012cd952ec\
        acc1d8995acae2a7e8dcb8308cc4f5ce212c65710003d5301063566129c991acb1a51e120b28883192529c9d3c3e6c44e26040288e59932491\
        c9613b9aedcc7e87900314a848528b6a0269a86168580bd24265388027add10122d00508c10c43d0f0c081c4ffaf986e7e40c35930dae92d4c\
        c20c3303040e0b674d29c29841044898810734422d31c1115881fd7830246635aa53282cad25d925b0ab8e79482099230336801b50e90c1f87\
        03480d98f99dba0e4de114d84380c0c7e1809a403f944024f49b0559770f10c8eefe6a6389ec";

    type Taken = Vec<(Member, Vec<u8>)>;

    fn names<'a>(wanted: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
        wanted.into_iter().map(str::to_owned).collect()
    }

    fn take_within(limits: &Limits, format: Format, bytes: &[u8], wanted: &[&str]) -> Result<Taken> {
        let mut taken = Vec::new();
        let wanted = names(wanted.iter().copied());
        extract("x", Cursor::new(bytes), format, &wanted, limits, &mut |member, content| {
            let mut all = Vec::new();
            content.read_to_end(&mut all).context(code::ARTIFACT, || "sink".into())?;
            taken.push((member.clone(), all));
            Ok(())
        })?;
        Ok(taken)
    }

    fn take(format: Format, bytes: &[u8], wanted: &[&str]) -> Result<Taken> {
        take_within(&Limits::default(), format, bytes, wanted)
    }

    /// The whole message of a refusal.
    #[track_caller]
    fn refusal(result: Result<Taken>) -> String {
        let error = result.expect_err("this must be refused");
        let advice = error.advice().unwrap_or_default();
        format!("{error} [{advice}]")
    }

    #[track_caller]
    fn assert_refused(result: Result<Taken>, words: &str) {
        let told = refusal(result);
        assert!(told.contains(words), "{told:?} does not say {words:?}");
    }

    fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn header(name: &[u8], kind: EntryType, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o755);
        header.set_cksum();
        header
    }

    /// One tar entry, whatever its name.
    fn entry(name: &[u8], kind: EntryType, content: &[u8]) -> Vec<u8> {
        let header = header(name, kind, content.len() as u64);
        padded([header.as_bytes().as_slice(), content].concat())
    }

    fn file(name: &str, content: &[u8]) -> Vec<u8> {
        entry(name.as_bytes(), EntryType::Regular, content)
    }

    fn link(name: &str, kind: EntryType, to: &str) -> Vec<u8> {
        let mut header = header(name.as_bytes(), kind, 0);
        header.set_link_name(to).unwrap();
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    fn pax(kind: u8, records: &[(&str, &str)]) -> Vec<u8> {
        let mut content = String::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest..).find(|length| length.to_string().len() + rest == *length).unwrap();
            content += &format!("{length} {key}={value}\n");
        }
        entry(b"pax", EntryType::new(kind), content.as_bytes())
    }

    fn tarball(entries: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = entries.concat();
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zst(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        xz_with(bytes, 64 << 10)
    }

    /// With a window of so many bytes.
    fn xz_with(bytes: &[u8], window: u32) -> Vec<u8> {
        let mut options = lzma_rust2::XzOptions::with_preset(0);
        options.lzma_options.dict_size = window;
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    /// A zip by the crate's own writer, deflated.
    fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in files {
            writer.start_file(*name, SimpleFileOptions::default().unix_permissions(0o755)).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    /// One stored zip member, field by field, with room for lies.
    struct Stored {
        name: Vec<u8>,
        local_name: Vec<u8>,
        content: Vec<u8>,
        flags: u16,
        method: u16,
        mode: u32,
        crc: u32,
        size: u32,
    }

    impl Stored {
        fn new(name: &str, content: &[u8]) -> Self {
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

    fn stored_zip(members: &[Stored]) -> Vec<u8> {
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

    const TOOL: &[u8] = b"#!/bin/true\nand some more bytes, some of which come again and again and again\n";

    /// The same two files in each format that can hold two.
    fn in_every_format() -> [(Format, Vec<u8>); 5] {
        let tar = tarball(&[
            entry(b"./r/", EntryType::Directory, b""),
            file("./r/README", b"read me"),
            file("./r/tool", TOOL),
        ]);
        [
            (Format::TarGz, gz(&tar)),
            (Format::TarXz, xz(&tar)),
            (Format::TarZst, zst(&tar)),
            (Format::Zip, zipped(&[("r/README", b"read me"), ("r/tool", TOOL)])),
            (Format::Tar, tar),
        ]
    }

    #[test]
    fn a_wanted_member_comes_out_of_every_format_and_an_unwanted_one_does_not() {
        for (format, bytes) in in_every_format() {
            let taken = take(format, &bytes, &["r/tool"]).unwrap();
            let member =
                Member { name: "r/tool".into(), size: Some(TOOL.len() as u64), executable: true, kind: Kind::Regular };
            assert_eq!(taken, [(member, TOOL.to_vec())], "{format:?}");
        }
    }

    #[test]
    fn members_come_in_the_order_of_the_archive_under_the_name_that_was_asked_for() {
        for (format, bytes) in in_every_format() {
            let taken = take(format, &bytes, &["r/tool", "./r/README"]).unwrap();
            let names: Vec<_> = taken.iter().map(|(member, _)| member.name.as_str()).collect();
            assert_eq!(names, ["./r/README", "r/tool"], "{format:?}");
        }
    }

    #[test]
    fn a_member_may_not_be_wanted_under_two_spellings() {
        assert_refused(take(Format::Tar, &tarball(&[file("a", b"")]), &["a", "./a"]), "are the same member of x");
    }

    #[test]
    fn a_member_that_is_not_executable_is_not_said_to_be() {
        let mut plain = header(b"a", EntryType::Regular, 0);
        plain.set_mode(0o644);
        plain.set_cksum();
        let tar = tarball(&[plain.as_bytes().to_vec()]);
        assert!(!take(Format::Tar, &tar, &["a"]).unwrap()[0].0.executable);
        let zip = stored_zip(&[Stored { mode: 0o100_644, ..Stored::new("a", b"") }]);
        assert!(!take(Format::Zip, &zip, &["a"]).unwrap()[0].0.executable);
    }

    #[test]
    fn a_plain_or_compressed_file_comes_out_under_whatever_name_is_wanted() {
        let taken = take(Format::Plain, TOOL, &["/usr/bin/tool"]).unwrap();
        let member = Member {
            name: "/usr/bin/tool".into(),
            size: Some(TOOL.len() as u64),
            executable: false,
            kind: Kind::Regular,
        };
        assert_eq!(taken, [(member, TOOL.to_vec())]);
        for (format, bytes) in [(Format::Gz, gz(TOOL)), (Format::Xz, xz(TOOL)), (Format::Zst, zst(TOOL))] {
            let taken = take(format, &bytes, &["tool"]).unwrap();
            assert_eq!(
                taken,
                [(Member { name: "tool".into(), size: None, executable: false, kind: Kind::Regular }, TOOL.to_vec())]
            );
        }
    }

    #[test]
    fn what_is_not_what_its_name_says_is_named_and_not_handed_out() {
        let tar = tarball(&[file("a", TOOL)]);
        let bzip2 = b"BZh91AY&SY and so on".to_vec();
        let page = b"<!DOCTYPE html><html>Log in</html>".to_vec();
        for (format, bytes, words) in [
            (Format::Plain, xz(&tar), "x: is compressed with xz, and its name does not say so [say what it is"),
            (
                Format::Plain,
                bzip2.clone(),
                "x: is compressed with bzip2, and its name does not say so [kpull reads tar, ",
            ),
            (Format::Plain, zipped(&[("a", TOOL)]), "x: is a zip archive, and"),
            (Format::Plain, tar.clone(), "x: is a tar archive, and"),
            (Format::Plain, page.clone(), "x: is a web page (HTML), and its name does not say so [open the address"),
            (Format::TarGz, bzip2, "x: is compressed with bzip2, and"),
            (Format::TarGz, xz(&tar), "x: is compressed with xz, and"),
            (Format::TarXz, gz(&tar), "x: is compressed with gzip, and"),
            (Format::Zip, gz(&tar), "x: is compressed with gzip, and"),
            (Format::Zip, page.clone(), "x: is a web page (HTML), and"),
            (Format::TarZst, page, "x: is a web page (HTML), and"),
            (Format::Gz, gz(&tar), "x: is a tar archive, and"),
            (Format::Xz, xz(&gz(TOOL)), "x: is compressed with gzip, and"),
        ] {
            assert_refused(take(format, &bytes, &["a"]), words);
            assert_refused(take(format, &bytes, &[]), words);
        }
        assert_eq!(take(Format::File, &gz(TOOL), &["a"]).unwrap()[0].1, gz(TOOL));
    }

    #[test]
    fn what_needs_too_much_memory_is_refused_before_it_is_unpacked() {
        let tar = tarball(&[file("a", TOOL)]);
        assert_eq!(take(Format::TarXz, &xz_with(&tar, 64 << 20), &["a"]).unwrap()[0].1, TOOL);
        assert_refused(
            take(Format::TarXz, &xz_with(&tar, 192 << 20), &["a"]),
            "x: needs more of memory to be unpacked, and 128 MiB are allowed [it was packed with a very large window",
        );
        // a frame without a size, and a window as `zstd --long=27` and `--long=28` have it
        let frame = |window: u8| [b"\x28\xb5\x2f\xfd\x00".as_slice(), &[window], b"\x01\0\0"].concat();
        assert_refused(take(Format::Zst, &frame(17 << 3 | 1), &["a"]), "x: needs 144 MiB of memory");
        assert_refused(take(Format::Zst, &frame(18 << 3), &["a"]), "x: needs 256 MiB of memory");
        assert_eq!(take(Format::Zst, &frame(17 << 3), &["a"]).unwrap()[0].1, b"");
    }

    #[test]
    fn a_plain_file_has_only_one_member() {
        assert_refused(take(Format::Plain, TOOL, &["a", "b"]), "is one file, and 2 are wanted: `a`, `b`");
        assert_refused(take(Format::Gz, &gz(TOOL), &["a", "b"]), "is one file, and 2 are wanted: `a`, `b`");
    }

    #[test]
    fn a_name_that_could_leave_the_archive_refuses_all_of_it_although_nobody_wants_it() {
        for (name, words) in [
            (b"../a".as_slice(), "leaves the archive"),
            (b"a/../../b", "leaves the archive"),
            (b"a/..", "leaves the archive"),
            (b"..", "leaves the archive"),
            (b"./../a", "leaves the archive"),
            (b"/etc/passwd", "absolute name"),
            (b".//etc/passwd", "absolute name"),
            (b"a\\b", "backslash"),
            (b"..\\a", "backslash"),
            (b"a\xff", "not UTF-8"),
        ] {
            let tar = tarball(&[file("good", b"good"), entry(name, EntryType::Regular, b"bad")]);
            assert_refused(take(Format::Tar, &tar, &["good"]), words);
            let tar = tarball(&[file("good", b"good"), entry(name, EntryType::Symlink, b"")]);
            assert_refused(take(Format::Tar, &tar, &["good"]), words);
            let bad = Stored { name: name.into(), local_name: name.into(), ..Stored::new("", b"bad") };
            assert_refused(take(Format::Zip, &stored_zip(&[Stored::new("good", b"good"), bad]), &["good"]), words);
        }
    }

    #[test]
    fn a_long_name_of_either_kind_is_checked_like_a_short_one() {
        let long = |name: &[u8]| [entry(b"././@LongLink", EntryType::GNULongName, name), file("short", b"")].concat();
        assert_refused(take(Format::Tar, &tarball(&[long(b"a/../b\0")]), &[]), "leaves the archive");
        assert_refused(take(Format::Tar, &tarball(&[long(b"good\0/bad\0")]), &[]), "NUL");
        assert_refused(take(Format::Tar, &tarball(&[long(&[b'a'; 5000])]), &[]), "longer than any file's");
        let records = [pax(b'x', &[("path", "/etc/passwd")]), file("short", b"")];
        assert_refused(take(Format::Tar, &tarball(&records), &[]), "absolute name");
        let nul = Stored { name: b"a\0b".into(), local_name: b"a\0b".into(), ..Stored::new("", b"") };
        assert_refused(take(Format::Zip, &stored_zip(&[nul]), &[]), "NUL");
        assert_refused(take(Format::Tar, &tarball(&[file("", b"")]), &[]), "has no name");
    }

    #[test]
    fn two_dots_within_a_name_are_only_a_name() {
        let tar = tarball(&[file("..a/b..c/...", b"good")]);
        assert_eq!(take(Format::Tar, &tar, &["..a/b..c/..."]).unwrap()[0].1, b"good");
    }

    #[test]
    fn a_wanted_member_that_is_no_regular_file_is_refused_and_an_unwanted_one_skipped() {
        for (kind, words) in [
            (EntryType::Symlink, "member `a` is a symbolic link to `../../etc/shadow`"),
            (
                EntryType::Link,
                "member `a` is a hard link to `../../etc/shadow`, another member; links are not followed",
            ),
            (EntryType::Char, "is a device"),
            (EntryType::Block, "is a device"),
            (EntryType::Fifo, "is a fifo"),
            (EntryType::Directory, "is a directory"),
            (EntryType::Continuous, "is of an unknown type ('7')"),
            (EntryType::new(b'Z'), "is of an unknown type ('Z')"),
        ] {
            let tar = tarball(&[link("a", kind, "../../etc/shadow"), file("good", b"good")]);
            assert_refused(take(Format::Tar, &tar, &["a"]), words);
            assert_eq!(take(Format::Tar, &tar, &["good"]).unwrap()[0].1, b"good");
        }
        for (mode, words) in [
            (0o120_777, "is a symbolic link"),
            (0o040_755, "is a directory"),
            (0o010_644, "is a fifo"),
            (0o020_644, "is a device"),
            (0o060_644, "is a device"),
        ] {
            let odd = Stored { mode, ..Stored::new("a", b"/etc/shadow") };
            let zip = stored_zip(&[odd, Stored::new("good", b"good")]);
            assert_refused(take(Format::Zip, &zip, &["a"]), words);
            assert_eq!(take(Format::Zip, &zip, &["good"]).unwrap()[0].1, b"good");
        }
    }

    #[test]
    fn a_directory_is_one_by_its_name_alone() {
        assert_refused(take(Format::Tar, &tarball(&[file("a/", b"")]), &["a/"]), "is a directory");
        assert_refused(take(Format::Zip, &stored_zip(&[Stored::new("a/", b"")]), &["a/"]), "is a directory");
    }

    #[test]
    fn a_sparse_file_of_any_kind_is_refused_when_wanted_and_skipped_otherwise() {
        let mut old = header(b"a", EntryType::GNUSparse, 0);
        let gnu = old.as_gnu_mut().unwrap();
        // A hole of some tebibytes, which nobody may read through.
        gnu.realsize = *b"77777777777\0";
        gnu.sparse[0].offset = *b"77777777777\0";
        gnu.sparse[0].numbytes = *b"00000000000\0";
        old.set_cksum();
        let records = pax(b'x', &[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "a")]);
        let new = [records, file("GNUSparseFile.1/a", b"1\n0\n512\n")].concat();
        for sparse in [old.as_bytes().to_vec(), new] {
            let tar = tarball(&[sparse, file("good", b"good")]);
            assert_refused(take(Format::Tar, &tar, &["a"]), "is stored as a sparse file");
            assert_eq!(take(Format::Tar, &tar, &["good"]).unwrap()[0].1, b"good");
        }
    }

    #[test]
    fn a_wanted_name_that_stands_twice_is_refused_however_late_the_second_comes() {
        for second in [file("./a", b"two"), file("a", b"one"), link("a", EntryType::Symlink, "b")] {
            let mut entries = vec![file("a", b"one")];
            entries.extend((0..500).map(|n| file(&format!("between-{n}"), b"-")));
            entries.push(second);
            let tar = tarball(&entries);
            assert_refused(take(Format::TarGz, &gz(&tar), &["a"]), "member `a` is there twice");
        }
        let zip = stored_zip(&[Stored::new("a", b"one"), Stored::new("a", b"two")]);
        assert_refused(take(Format::Zip, &zip, &["a"]), "has a name twice");
        let zip = stored_zip(&[Stored::new("a", b"one"), Stored::new("./a", b"two")]);
        assert_refused(take(Format::Zip, &zip, &["a"]), "member `a` is there twice");
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
                // of what is no archive nothing is unpacked that nobody wants
                if wanted.is_empty() && !format.is_archive() {
                    continue;
                }
                let told = refusal(take_within(&limits, *format, bomb, wanted));
                assert!(told.contains("x: unpacks to more than 200 times its size"), "{format:?}: {told}");
            }
            // the same, where that much is free
            assert!(take(*format, bomb, &["a"]).is_ok(), "{format:?}");
        }
        // what is stored as it is may be as large as it wants
        assert!(take_within(&limits, Format::Tar, &tar, &["a"]).is_ok());
    }

    #[test]
    fn a_bomb_behind_much_that_does_not_compress_is_as_large_as_that_allows_and_no_larger() {
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
        assert_refused(take(Format::TarGz, &gz(&long), &["a"]), "headers without end");
        let global = tarball(&[entry(b"pax", EntryType::XGlobalHeader, &huge), file("a", b"a")]);
        assert_refused(take(Format::TarGz, &gz(&global), &["a"]), "headers without end");
        let limits = Limits { members: 10, ..Limits::default() };
        let zip = stored_zip(&(0..30_000).map(|n| Stored::new(&format!("{n}"), b"")).collect::<Vec<_>>());
        assert_refused(take_within(&limits, Format::Zip, &zip, &[]), "headers without end");
    }

    #[test]
    fn an_archive_that_is_cut_off_anywhere_is_refused() {
        for (format, bytes) in in_every_format().into_iter().chain([(Format::Gz, gz(TOOL))]) {
            // The tail of a tar is zeros, of which one block is enough.
            let length = if format == Format::Tar { bytes.len() - 1023 } else { bytes.len() };
            for end in (0..16).map(|part| length * part / 16).chain([length - 1]) {
                let told = refusal(take(format, &bytes[..end], &["r/tool"]));
                assert!(told.contains("damaged") || told.contains("cut off"), "{format:?} at {end}: {told}");
            }
        }
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
    fn a_zstandard_frame_that_lies_about_its_size_is_refused() {
        let tar = tarball(&[file("a", b"a")]);
        // One raw block, a size of two bytes that counts from 256, no checksum.
        let frame = |size: usize| {
            let mut bytes = b"\x28\xb5\x2f\xfd\x60".to_vec();
            bytes.extend(((size - 256) as u16).to_le_bytes());
            bytes.extend(&((tar.len() << 3 | 1) as u32).to_le_bytes()[..3]);
            bytes.extend(&tar);
            bytes
        };
        assert_eq!(take(Format::TarZst, &frame(tar.len()), &["a"]).unwrap()[0].1, b"a");
        assert_refused(take(Format::TarZst, &frame(tar.len() + 1), &["a"]), "wrong size");
    }

    #[test]
    fn a_wrong_checksum_is_seen_although_the_sink_reads_no_further_than_the_last_byte() {
        let wrong = Stored { crc: 1, ..Stored::new("a", b"abc") };
        let zip = stored_zip(&[wrong]);
        let error =
            extract("x", Cursor::new(zip), Format::Zip, &names(["a"]), &Limits::default(), &mut |_, content| {
                content.read_exact(&mut [0; 3]).context(code::ARTIFACT, || "sink".into())
            })
            .unwrap_err();
        assert_eq!(error.to_string(), "x: is damaged in member `a`: Invalid checksum");
    }

    #[test]
    fn whatever_follows_the_archive_is_refused() {
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
        let twice = [tar.clone(), tarball(&[file("a", b"b")])].concat();
        assert_refused(take(Format::Tar, &twice, &["a"]), "goes on after the archive's end");
        assert_refused(take(Format::TarGz, &gz(&twice), &["a"]), "goes on after the archive's end");
        assert_refused(take(Format::TarGz, &[gz(&tar), gz(&twice)].concat(), &["a"]), "goes on after");
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
        assert_refused(take(Format::TarZst, &skippable, &[]), "damaged");
    }

    #[test]
    fn an_encrypted_zip_is_refused_even_when_another_member_is_wanted() {
        let secret = Stored { flags: 1, ..Stored::new("secret", b"a") };
        let zip = stored_zip(&[Stored::new("a", b"a"), secret]);
        assert_refused(take(Format::Zip, &zip, &["a"]), "member `secret` is encrypted");
    }

    #[test]
    fn a_zip_that_lies_about_a_size_is_refused() {
        for size in [0, 4, 6, u32::MAX] {
            let liar = Stored { size, ..Stored::new("a", b"12345") };
            let limits = Limits { bytes: u64::MAX, member: u64::MAX, free: u64::MAX, ..Limits::default() };
            let told = refusal(take_within(&limits, Format::Zip, &stored_zip(&[liar]), &["a"]));
            assert!(told.contains("damaged in member `a`") || told.contains("is cut off"), "{size}: {told}");
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
        let before = [b"#!/bin/sh\n".to_vec(), stored_zip(&[Stored::new("a", b"a")])].concat();
        assert_refused(take(Format::Zip, &before, &["a"]), "damaged");
        // A whole archive within one whose end is cut off.
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

    #[test]
    fn long_names_of_either_kind_work() {
        let name = format!("{}/tool", ["a-directory-with-a-name"; 20].join("/"));
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_data(&mut header(b"", EntryType::Regular, TOOL.len() as u64), &name, TOOL).unwrap();
        let gnu = builder.into_inner().unwrap();
        assert_eq!(take(Format::Tar, &gnu, &[&name]).unwrap()[0].1, TOOL);
        let pax = tarball(&[pax(b'x', &[("mtime", "1.5"), ("path", &name)]), file("short", TOOL)]);
        assert_eq!(take(Format::Tar, &pax, &[&name]).unwrap()[0].1, TOOL);
    }

    #[test]
    fn extended_headers_that_contradict_are_refused() {
        let local = |records: &[(&str, &str)]| tarball(&[pax(b'x', records), file("a", TOOL)]);
        assert_refused(take(Format::Tar, &local(&[("path", "a"), ("path", "b")]), &[]), "two different names");
        let both = [entry(b"././@LongLink", EntryType::GNULongName, b"b\0"), local(&[("path", "a")])].concat();
        assert_refused(take(Format::Tar, &both, &[]), "two different names");
        let size = TOOL.len().to_string();
        assert_refused(take(Format::Tar, &local(&[("size", &size), ("size", "1")]), &[]), "two different sizes");
        let malformed = tarball(&[entry(b"pax", EntryType::XHeader, b"99 path=b\n"), file("a", TOOL)]);
        assert_refused(take(Format::Tar, &malformed, &[]), "malformed pax extension");
        let global = |records: &[(&str, &str)]| tarball(&[pax(b'g', records), file("a", TOOL)]);
        assert_refused(take(Format::Tar, &global(&[("path", "b")]), &["a"]), "gives all others one name or size");
        assert_eq!(take(Format::Tar, &global(&[("comment", "c0ffee")]), &["a"]).unwrap()[0].1, TOOL);
    }

    #[test]
    fn a_missing_member_is_told_with_the_nearest_that_are_there() {
        let names = ["etcd-v3.2.9/etcd", "etcd-v3.2.9/etcdctl", "etcd-v3.2.9/README", "z"];
        let tar = tarball(&names.map(|name| file(name, b"")));
        assert_eq!(
            refusal(take(Format::Tar, &tar, &["etcd-v3.2.10/etcd"])),
            "x: has no member `etcd-v3.2.10/etcd` [nearest to it are `etcd-v3.2.9/etcd`, `etcd-v3.2.9/etcdctl`, \
             `etcd-v3.2.9/README`]"
        );
        assert_refused(take(Format::Tar, &tar, &["README"]), "[nearest to it are `etcd-v3.2.9/README`, ");
        let two = take(Format::Tar, &tar, &["a", "b", "z"]).unwrap_err();
        assert_eq!((two.to_string().as_str(), two.others().len()), ("x: has no member `a`", 1));
    }

    #[test]
    fn an_archive_without_members_is_read_and_lacks_what_is_wanted() {
        let tar = tarball(&[]);
        for (format, bytes) in
            [(Format::TarGz, gz(&tar)), (Format::TarZst, zst(&tar)), (Format::Zip, stored_zip(&[])), (Format::Tar, tar)]
        {
            assert_eq!(take(format, &bytes, &[]).unwrap(), []);
            assert_refused(take(format, &bytes, &["a"]), "x: has no member `a` [it holds no files");
        }
    }

    #[test]
    fn a_file_that_is_not_of_its_format_is_refused() {
        for format in [Format::Tar, Format::TarGz, Format::TarXz, Format::TarZst, Format::Zip, Format::Gz, Format::Xz] {
            for bytes in [b"".as_slice(), b"<!DOCTYPE html>", &[b'x'; 2000]] {
                let told = refusal(take(format, bytes, &["a"]));
                let named = ["damaged", "cut off", "a web page"];
                assert!(named.iter().any(|words| told.contains(words)), "{format:?}: {told}");
            }
        }
    }

    #[test]
    fn the_sink_s_own_failure_comes_back_and_its_silence_hides_nothing() {
        let tar = tarball(&[file("a", TOOL), file("b", TOOL)]);
        let mut asked = 0;
        let wanted = names(["a", "b"]);
        let error = extract("x", Cursor::new(&tar), Format::Tar, &wanted, &Limits::default(), &mut |_, _| {
            asked += 1;
            Err(Error::new(code::ARTIFACT, "the disk is full"))
        })
        .unwrap_err();
        assert_eq!((error.to_string().as_str(), asked), ("the disk is full", 1));

        let cut = &tar[..512 + 10];
        let error = extract("x", Cursor::new(cut), Format::Tar, &wanted, &Limits::default(), &mut |_, content| {
            let _ = content.read_to_end(&mut Vec::new());
            Ok(())
        })
        .unwrap_err();
        assert_eq!(error.to_string(), format!("x: member `a` is cut off after 10 of {} bytes", TOOL.len()));
    }

    #[test]
    fn a_sink_that_reads_nothing_skips_the_member() {
        for (format, bytes) in in_every_format() {
            let mut met = Vec::new();
            let wanted = names(["r/README", "r/tool"]);
            extract("x", Cursor::new(&bytes), format, &wanted, &Limits::default(), &mut |member, _| {
                met.push(member.name.clone());
                Ok(())
            })
            .unwrap();
            assert_eq!(met, ["r/README", "r/tool"], "{format:?}");
        }
    }

    #[test]
    fn a_name_from_the_archive_cannot_fill_or_write_to_the_terminal() {
        let told = refusal(take(Format::Tar, &tarball(&[file("\u{1b}[2J/../a", b"")]), &[]));
        assert!(told.contains("\\u{1b}[2J"), "{told:?}");
        let long = [entry(b"l", EntryType::GNULongName, format!("/{}", "é".repeat(2000)).as_bytes()), file("a", b"")];
        assert!(refusal(take(Format::Tar, &tarball(&long), &[])).len() < 1000);
    }

    fn run(directory: &Path, program: &str, arguments: &[&str]) -> Vec<u8> {
        let output = Command::new(program).args(arguments).current_dir(directory).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    #[test]
    fn what_the_system_s_tar_and_gzip_write_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let deep = format!("{}/tool", ["a-directory-with-a-name"; 7].join("/"));
        fs::create_dir_all(at(&deep).parent().unwrap()).unwrap();
        let big: Vec<u8> = (0..100_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        fs::write(at(&deep), &big).unwrap();
        fs::write(at("small"), TOOL).unwrap();
        fs::hard_link(at("small"), at("twin")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", at("symlink")).unwrap();
        fs::File::create(at("holes")).unwrap().set_len(10 << 20).unwrap();

        let holes = vec![0; 10 << 20];
        let members = ["./small", "./twin", "./symlink", "./holes"];
        // The oldest style has no room for a deep name, and the two old ones none for holes.
        let styles: [(&str, &[&str]); 4] = [
            ("v7", &[]),
            ("ustar", &["./a-directory-with-a-name"]),
            ("gnu", &["-S", "./a-directory-with-a-name"]),
            ("posix", &["-S", "./a-directory-with-a-name"]),
        ];
        for (style, more) in styles {
            let style_option = format!("--format={style}");
            let options = [[style_option.as_str(), "-czf", "-"].as_slice(), &members, more].concat();
            let bytes = run(directory.path(), "tar", &options);
            let content = |name: &str| take(Format::TarGz, &bytes, &[name]).map(|mut taken| taken.remove(0).1);
            assert_eq!(content("small").unwrap(), TOOL, "{style}");
            let links = [("twin", "is a hard link to `./small`"), ("symlink", "is a symbolic link to `/etc/passwd`")];
            for (name, words) in links {
                assert!(content(name).unwrap_err().to_string().contains(words), "{style}");
            }
            if more.contains(&"-S") {
                assert!(content("holes").unwrap_err().to_string().contains("sparse"), "{style}");
            } else {
                assert!(content("holes").unwrap() == holes, "{style}");
            }
            if !more.is_empty() {
                assert!(content(&deep).unwrap() == big, "{style}");
            }
        }

        let once = run(directory.path(), "gzip", &["-c", "small"]);
        assert_eq!(take(Format::Gz, &once, &["tool"]).unwrap()[0].1, TOOL);
        let twice = run(directory.path(), "gzip", &["-9c", "small", "small"]);
        assert_eq!(take(Format::Gz, &twice, &["tool"]).unwrap()[0].1, TOOL.repeat(2));
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
