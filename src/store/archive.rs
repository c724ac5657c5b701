//! Hands out the named members of an upstream archive as bounded streams. It writes nothing and uses no name as a path.
//!
//! The file is pinned, so what its publisher wrote into it has been reviewed and is not searched for tricks. A member has to be one
//! regular file. An archive that is read while it is downloaded is as hostile as the network: it may take no more memory, disk and
//! time than [`Limits`] allow, and nothing from it counts until the digest of the file is verified. An archive is read to its end,
//! so that a late checksum or a late second entry still counts.

mod stream;
mod tarball;
#[cfg(test)]
pub(super) mod testing;
mod zipped;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek, SeekFrom};

use zip::CompressionMethod;

use crate::document::{Format, READABLE};
use crate::error::{Context, Error, Result, code, error};
use crate::magic::Container;
use crate::text::shortened;
use stream::{Content, Meter, Packed, Unpacked, unpacker};

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
    /// Unpacked bytes to which the ratio does not apply.
    pub free: u64,
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
    /// Its size in bytes, when the archive states it in advance; then exactly as many are handed out.
    pub size: Option<u64>,
    /// Whether anybody may execute it, as far as the archive states that.
    pub executable: bool,
    /// What it is; [`Kind::Regular`], except in [`Archive::walk`].
    pub kind: Kind,
}

/// Receives each member with its content.
pub type Sink<'a> = &'a mut dyn FnMut(&Member, &mut dyn Read) -> Result<()>;

/// An upstream file that may have members.
#[derive(Clone, Copy, Debug)]
pub struct Archive<'a> {
    /// What messages call it: a name without credentials.
    pub name: &'a str,
    /// Its format.
    pub format: Format,
    /// How much may come out of it.
    pub limits: Limits,
}

impl<'a> Archive<'a> {
    /// An archive with the default limits.
    pub fn new(name: &'a str, format: Format) -> Self {
        Self { name, format, limits: Limits::default() }
    }

    /// Hands each of the `wanted` members of `input` to `sink` as a bounded reader, in the archive's order.
    ///
    /// Names are compared byte for byte after one leading `./` is stripped. If the format [is not an archive](Format::is_archive), the
    /// file itself is handed out under the one wanted name, whatever that is. What `sink` does not read is discarded. **What `sink`
    /// got counts only once this returns `Ok`**: a checksum, or a second entry of the same name, comes after the bytes.
    ///
    /// # Errors
    /// When a wanted member is missing, not a regular file, or there twice; when the archive is damaged or truncated; when a limit is
    /// exceeded; and whatever `sink` fails with.
    pub fn extract(&self, input: impl Read + Seek, wanted: &BTreeSet<String>, sink: Sink<'_>) -> Result<()> {
        let mut pass = Pass::new(self, wanted, sink)?;
        pass.read(input)?;
        pass.finish()
    }

    /// [`Archive::extract`] from a stream, for a format that [streams](Format::streams).
    pub fn extract_stream(&self, input: impl BufRead, wanted: &BTreeSet<String>, sink: Sink<'_>) -> Result<()> {
        let mut pass = Pass::new(self, wanted, sink)?;
        pass.stream(input, None)?;
        pass.finish()
    }

    /// Hands out every member, whatever it is, as [`Archive::extract`] does the wanted ones. What is not a regular file has no content; a
    /// link has its target. `sink` decides whether names are valid as paths and fit together.
    pub fn walk(&self, input: impl Read + Seek, sink: Sink<'_>) -> Result<()> {
        let nothing = BTreeSet::new();
        Pass { wants_all: true, ..Pass::new(self, &nothing, sink)? }.read(input)
    }

    /// The names of the regular files in `input`, in its order; none if the format is not an archive. Errors as for [`Archive::extract`].
    /// Of very many names, only the first mebibyte is returned.
    pub fn list(&self, input: impl Read + Seek) -> Result<Vec<String>> {
        let (nothing, mut sink) = (BTreeSet::new(), |_: &Member, _: &mut dyn Read| Ok(()));
        let mut pass = Pass::new(self, &nothing, &mut sink)?;
        pass.read(input)?;
        Ok(pass.names)
    }

    /// The error that something is wrong with the archive.
    fn wrong(&self, what: impl AsRef<str>) -> Error {
        error!(ARTIFACT, "{}: {}", self.name, what.as_ref())
    }

    /// The error that something is wrong with a member.
    fn wrong_member(&self, member: &str, what: impl AsRef<str>) -> Error {
        self.wrong(format!("member `{}` {}", short(member), what.as_ref()))
    }

    /// Turns a failure to read the archive into an error with advice, unless it is one already.
    fn fault(&self, member: Option<&str>, error: io::Error) -> Error {
        let place = member.map(|name| format!(" in member `{}`", short(name))).unwrap_or_default();
        match error.downcast::<Error>() {
            Ok(error) => error,
            Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                self.wrong(format!("needs more than {} MiB of memory to unpack", WINDOW >> 20)).help(NARROW)
            }
            // the operating system's own errors are not about what is in the file
            Err(error) if error.raw_os_error().is_some() => {
                error!(ARTIFACT, "{} can't be read", self.name).because(error)
            }
            Err(error) => self.wrong(format!("is damaged{place}")).because(error).help(PUBLISHER),
        }
    }

    /// The first bytes of `input`, which have to be of `format`, or of none that is known.
    fn head(&self, input: &mut impl Read, format: Format) -> Result<Vec<u8>> {
        let mut head = Vec::with_capacity(Container::HEAD);
        input.take(Container::HEAD as u64).read_to_end(&mut head).map_err(|error| self.fault(None, error))?;
        let Some(found) = Container::of(&head) else { return Ok(head) };
        if format == Format::File || format.container() == Some(found) {
            return Ok(head);
        }
        Err(self.wrong(format!("is {found}, which its name does not indicate")).help(match found {
            Container::Page => {
                "open the address in a browser: it may be a login page, an error page, or a page about the file"
            }
            Container::Other(_) => READABLE,
            _ => {
                "set its format in its pin in artifacts.toml, such as `format = \"tar.gz\"`, or `format = \"file\"` to install it unchanged"
            }
        }))
    }
}

/// Bytes that are read at once.
const BUFFER: usize = 64 << 10;
/// Bytes of names that are kept for the message about a missing member.
const KEPT_NAMES: usize = 1 << 20;
/// Bytes that unpacking may keep in memory as its window: what `xz -9` and `zstd --long` need, and no more.
const WINDOW: u64 = 128 << 20;

/// Advice about an archive that is wrong although its digest is right.
const PUBLISHER: &str = "the file has the pinned digest, so downloading it again does not help; inform its publisher, and pin another version";
/// Advice about an archive that holds too much.
const RAISE: &str = "a small file with a very large content is a known attack; if this size is right, raise the limit";
/// Advice about an archive whose ratio is too high.
const REPACK: &str = "a small file with a very large content is a known attack; if this file is legitimate, repack it without its empty content, pin the new file, and serve it from your mirror";
/// Advice about an archive that takes too much memory.
const NARROW: &str = "it was packed with a very large window (`zstd --long=28` and above, `xz --lzma2=dict=…`): repack it with `zstd -19` or `xz -9`, pin the new file, and serve it from your mirror";

/// The type of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link with its target, if that was read.
    Symlink(Option<String>),
    /// Another name of a member.
    HardLink(String),
    /// A device or pipe.
    Special(&'static str),
    /// A file with holes.
    Sparse,
    /// A file that needs a password.
    Encrypted,
    /// A file with an unusual compression.
    Method(CompressionMethod),
    /// Anything else.
    Unknown(u8),
}

impl Kind {
    /// Why an entry can't be handed out, and what to do about it; `None` for a regular file.
    pub fn problem(&self) -> Option<(String, &'static str)> {
        const POINTS: &str = "name the file that it points to";
        let (why, help) = match self {
            Self::Regular => return None,
            Self::Directory => ("is a directory".into(), "name the files in it that you need"),
            Self::Symlink(None) => ("is a symbolic link".into(), POINTS),
            Self::Symlink(Some(to)) => (format!("is a symbolic link to `{}`", short(to)), POINTS),
            Self::HardLink(to) => (
                format!("is a hard link to `{}`, another member; links are not followed", short(to)),
                "name the member that it links to",
            ),
            Self::Special(what) => (format!("is a {what}"), "kpull extracts only regular files from an archive"),
            Self::Sparse => ("is stored as a sparse file, which is not supported".into(), PUBLISHER),
            Self::Encrypted => ("is encrypted".into(), "use an archive that needs no password"),
            Self::Method(method) => (
                format!("is compressed by a method that is not supported ({method})"),
                "only stored and deflated members of a zip can be read",
            ),
            Self::Unknown(kind) => {
                (format!("is of an unknown type ('{}')", kind.escape_ascii()), "kpull extracts only regular files")
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

/// Strips the one leading `./` that archives of a directory have.
fn plain(name: &str) -> &str {
    name.strip_prefix("./").unwrap_or(name)
}

/// One pass over an archive.
struct Pass<'a> {
    archive: &'a Archive<'a>,
    /// The caller's spelling and whether the member was found, by the name without its leading `./`.
    wanted: BTreeMap<&'a str, (&'a str, bool)>,
    /// Whether every entry is handed out.
    wants_all: bool,
    sink: Sink<'a>,
    members: u64,
    /// Regular files that were seen, for the message about a missing one.
    names: Vec<String>,
    /// Bytes that there is still room for in `names`.
    names_left: usize,
}

impl<'a> Pass<'a> {
    fn new(archive: &'a Archive<'a>, names: &'a BTreeSet<String>, sink: Sink<'a>) -> Result<Self> {
        let mut wanted = BTreeMap::new();
        for name in names {
            if let Some((other, _)) = wanted.insert(plain(name), (name.as_str(), false)) {
                return Err(error!(ARTIFACT, "`{other}` and `{name}` are the same member of {}", archive.name)
                    .help("name it once"));
            }
        }
        Ok(Self { archive, wanted, wants_all: false, sink, members: 0, names: Vec::new(), names_left: KEPT_NAMES })
    }

    /// Reads the whole archive.
    fn read(&mut self, mut input: impl Read + Seek) -> Result<()> {
        let length = input.seek(SeekFrom::End(0)).and_then(|length| input.rewind().map(|()| length));
        let length = length.context(code::ARTIFACT, || format!("{} can't be read", self.archive.name))?;
        let mut input = BufReader::with_capacity(BUFFER, input);
        if self.archive.format != Format::Zip {
            return self.stream(input, Some(length));
        }
        self.archive.head(&mut input, Format::Zip)?;
        let meter = Meter::new(self.archive);
        meter.add_packed(length);
        self.zip(input, &meter)
    }

    /// Reads a whole archive from its beginning; `length` is the file's, if it is known.
    fn stream(&mut self, mut input: impl BufRead, length: Option<u64>) -> Result<()> {
        let (archive, format) = (self.archive, self.archive.format);
        let start = archive.head(&mut input, format)?;
        let meter = Meter::new(archive);
        let packed = Packed { inner: Cursor::new(start).chain(input), meter: &meter };
        let mut stream = Unpacked { inner: unpacker(format, packed), meter: &meter };
        match format {
            Format::Tar | Format::TarGz | Format::TarXz | Format::TarZst => self.tar(stream, &meter),
            Format::Gz | Format::Xz | Format::Zst => {
                let start = archive.head(&mut stream, Format::Plain)?;
                self.whole(Cursor::new(start).chain(stream), None)
            }
            Format::Plain | Format::File => self.whole(stream, length),
            Format::Zip => Err(archive.wrong("is a zip, which can't be read while it is downloaded")),
        }
    }

    /// Counts an entry, and returns the spelling under which it is wanted.
    fn admit(&mut self, raw: &[u8], kind: &Kind) -> Result<Option<String>> {
        let most = self.archive.limits.members;
        self.members += 1;
        if self.members > most {
            return Err(self.archive.wrong(format!("has more than {most} members")).help(RAISE));
        }
        let name = String::from_utf8_lossy(raw);
        let name = plain(&name);
        if self.wants_all {
            return Ok(Some(name.to_owned()));
        }
        let Some((spelling, is_found)) = self.wanted.get_mut(name) else {
            if let Some(left) = self.names_left.checked_sub(name.len()).filter(|_| *kind == Kind::Regular) {
                self.names_left = left;
                self.names.push(name.into());
            }
            return Ok(None);
        };
        let (why, help) = match kind.problem() {
            _ if std::mem::replace(is_found, true) => ("occurs twice".to_owned(), PUBLISHER),
            Some(problem) => problem,
            None => return Ok(Some((*spelling).to_owned())),
        };
        Err(self.archive.wrong_member(name, why).help(help))
    }

    /// Gives one member to the sink, and reads what the sink left.
    fn hand(&mut self, member: &Member, content: &mut dyn Read) -> Result<()> {
        if member.kind != Kind::Regular {
            return (self.sink)(member, &mut io::empty());
        }
        let allowed = self.archive.limits.member;
        let most = member.size.unwrap_or(allowed);
        if most > allowed {
            let what = format!("has {most} bytes, and {allowed} are allowed");
            return Err(self.archive.wrong_member(&member.name, what).help(RAISE));
        }
        let mut content = Content { archive: self.archive, member, content, most, read: 0, fault: None };
        let taken = (self.sink)(member, &mut content);
        if taken.is_ok() {
            // `fault` keeps the failure with more detail
            let _ = io::copy(&mut content, &mut io::sink());
        }
        content.fault.map_or(taken, Err)
    }

    /// Hands out a file that is its own only member.
    fn whole(&mut self, mut stream: impl Read, size: Option<u64>) -> Result<()> {
        if self.wanted.len() > 1 {
            let names: Vec<_> = self.wanted.values().map(|(spelling, _)| format!("`{spelling}`")).collect();
            let what = format!("is one file, but the role installs {}: {}", names.len(), names.join(", "));
            return Err(self
                .archive
                .wrong(what)
                .help("name one; if it is an archive, set `format` in its pin in artifacts.toml"));
        }
        let Some((spelling, is_found)) = self.wanted.values_mut().next() else { return Ok(()) };
        *is_found = true;
        let name = (*spelling).to_owned();
        self.hand(&Member { name, size, executable: false, kind: Kind::Regular }, &mut stream)
    }

    /// Reports the wanted members that were not there.
    fn finish(self) -> Result<()> {
        let missing: Vec<_> = self.wanted.iter().filter(|(_, (_, is_found))| !is_found).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = missing.iter().map(|(_, (spelling, _))| format!("`{spelling}`")).collect();
        let each = if missing.len() == 1 { SIMILAR } else { 1 };
        let mut near: Vec<_> = missing.iter().flat_map(|(name, _)| nearest(name, &self.names).take(each)).collect();
        near.dedup();
        let error = self.archive.wrong(format!("has no member {}", names.join(", ")));
        Err(match near.is_empty() {
            true => error.help("it contains no files: check the address and the format"),
            false => error.help(format!("similar members are {}", near.join(", "))),
        })
    }
}

/// How many similar members an error shows for one that is missing.
const SIMILAR: usize = 3;

/// The names, the most likely meant first: those of the same file elsewhere, then by spelling.
fn nearest(word: &str, names: &[String]) -> impl Iterator<Item = String> {
    let elsewhere = |name: &str| name.rsplit('/').next() == word.rsplit('/').next();
    let mut ranked: Vec<_> =
        names.iter().map(|name| (!elsewhere(name), strsim::levenshtein(word, name), name)).collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, _, name)| format!("`{}`", short(name)))
}

#[cfg(test)]
mod tests {
    use tar::EntryType;

    use super::testing::*;
    use super::*;

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
    fn a_member_that_is_not_executable_is_reported_as_such() {
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
    fn what_does_not_match_its_name_is_reported_and_not_handed_out() {
        let tar = tarball(&[file("a", TOOL)]);
        let bzip2 = b"BZh91AY&SY and so on".to_vec();
        let page = b"<!DOCTYPE html><html>Log in</html>".to_vec();
        for (format, bytes, words) in [
            (Format::Plain, xz(&tar), "x: is compressed with xz, which its name does not indicate [set its format"),
            (
                Format::Plain,
                bzip2.clone(),
                "x: is compressed with bzip2, which its name does not indicate [kpull reads tar, ",
            ),
            (Format::Plain, zipped(&[("a", TOOL)]), "x: is a zip archive, which"),
            (Format::Plain, tar.clone(), "x: is a tar archive, which"),
            (
                Format::Plain,
                page.clone(),
                "x: is a web page (HTML), which its name does not indicate [open the address",
            ),
            (Format::TarGz, bzip2, "x: is compressed with bzip2, which"),
            (Format::TarGz, xz(&tar), "x: is compressed with xz, which"),
            (Format::TarXz, gz(&tar), "x: is compressed with gzip, which"),
            (Format::Zip, gz(&tar), "x: is compressed with gzip, which"),
            (Format::Zip, page.clone(), "x: is a web page (HTML), which"),
            (Format::TarZst, page, "x: is a web page (HTML), which"),
            (Format::Gz, gz(&tar), "x: is a tar archive, which"),
            (Format::Xz, xz(&gz(TOOL)), "x: is compressed with gzip, which"),
        ] {
            assert_refused(take(format, &bytes, &["a"]), words);
            assert_refused(take(format, &bytes, &[]), words);
        }
        assert_eq!(take(Format::File, &gz(TOOL), &["a"]).unwrap()[0].1, gz(TOOL));
    }

    #[test]
    fn a_plain_file_has_only_one_member() {
        assert_refused(take(Format::Plain, TOOL, &["a", "b"]), "is one file, but the role installs 2: `a`, `b`");
        assert_refused(take(Format::Gz, &gz(TOOL), &["a", "b"]), "is one file, but the role installs 2: `a`, `b`");
    }

    #[test]
    fn a_name_that_leads_out_is_only_a_name_to_whoever_wants_another_member() {
        for name in
            [b"../a".as_slice(), b"a/../../b", b"..", b"/etc/passwd", b".//etc/passwd", b"a\\b", b"a\xff", b"a\nb"]
        {
            for kind in [EntryType::Regular, EntryType::Symlink] {
                let tar = tarball(&[file("good", b"good"), entry(name, kind, b"bad")]);
                assert_eq!(take(Format::Tar, &tar, &["good"]).unwrap()[0].1, b"good");
            }
            let bad = Stored { name: name.into(), local_name: name.into(), ..Stored::new("", b"bad") };
            let zip = stored_zip(&[Stored::new("good", b"good"), bad]);
            let taken = take(Format::Zip, &zip, &["good"]).unwrap();
            assert_eq!((taken.len(), taken[0].1.as_slice()), (1, b"good".as_slice()));
        }
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
    fn a_wanted_name_that_stands_twice_is_refused_however_late_the_second_comes() {
        for second in [file("./a", b"two"), file("a", b"one"), link("a", EntryType::Symlink, "b")] {
            let mut entries = vec![file("a", b"one")];
            entries.extend((0..500).map(|n| file(&format!("between-{n}"), b"-")));
            entries.push(second);
            let tar = tarball(&entries);
            assert_refused(take(Format::TarGz, &gz(&tar), &["a"]), "member `a` occurs twice");
        }
        let zip = stored_zip(&[Stored::new("a", b"one"), Stored::new("a", b"two")]);
        assert_refused(take(Format::Zip, &zip, &["a"]), "duplicate file names");
        let zip = stored_zip(&[Stored::new("a", b"one"), Stored::new("./a", b"two")]);
        assert_refused(take(Format::Zip, &zip, &["a"]), "member `a` occurs twice");
    }

    #[test]
    fn an_archive_that_is_cut_off_anywhere_is_refused() {
        for (format, bytes) in in_every_format().into_iter().chain([(Format::Gz, gz(TOOL))]) {
            // The tail of a tar is zeros, of which one block is enough.
            let length = if format == Format::Tar { bytes.len() - 1023 } else { bytes.len() };
            for end in (0..16).map(|part| length * part / 16).chain([length - 1]) {
                let message = refusal(take(format, &bytes[..end], &["r/tool"]));
                assert!(message.contains("damaged") || message.contains("truncated"), "{format:?} at {end}: {message}");
            }
        }
    }

    #[test]
    fn a_missing_member_is_reported_with_similar_names() {
        let names = ["etcd-v3.2.9/etcd", "etcd-v3.2.9/etcdctl", "etcd-v3.2.9/README", "z"];
        let tar = tarball(&names.map(|name| file(name, b"")));
        assert_eq!(
            refusal(take(Format::Tar, &tar, &["etcd-v3.2.10/etcd"])),
            "x: has no member `etcd-v3.2.10/etcd` [similar members are `etcd-v3.2.9/etcd`, `etcd-v3.2.9/etcdctl`, \
             `etcd-v3.2.9/README`]"
        );
        assert_refused(take(Format::Tar, &tar, &["README"]), "[similar members are `etcd-v3.2.9/README`, ");
        let two = take(Format::Tar, &tar, &["a", "b", "z"]).unwrap_err();
        assert_eq!((two.to_string().as_str(), two.others().len()), ("x: has no member `a`, `b`", 0));
    }

    #[test]
    fn an_archive_without_members_is_read_and_lacks_what_is_wanted() {
        let tar = tarball(&[]);
        for (format, bytes) in
            [(Format::TarGz, gz(&tar)), (Format::TarZst, zst(&tar)), (Format::Zip, stored_zip(&[])), (Format::Tar, tar)]
        {
            assert_eq!(take(format, &bytes, &[]).unwrap(), []);
            assert_refused(take(format, &bytes, &["a"]), "x: has no member `a` [it contains no files");
        }
    }

    #[test]
    fn a_file_that_is_not_of_its_format_is_refused() {
        for format in [Format::Tar, Format::TarGz, Format::TarXz, Format::TarZst, Format::Zip, Format::Gz, Format::Xz] {
            for bytes in [b"".as_slice(), b"<!DOCTYPE html>", &[b'x'; 2000]] {
                let message = refusal(take(format, bytes, &["a"]));
                let named = ["damaged", "truncated", "a web page"];
                assert!(named.iter().any(|words| message.contains(words)), "{format:?}: {message}");
            }
        }
    }

    #[test]
    fn the_sink_s_own_failure_comes_back_and_its_silence_hides_nothing() {
        let tar = tarball(&[file("a", TOOL), file("b", TOOL)]);
        let mut asked = 0;
        let wanted = names(["a", "b"]);
        let error = Archive::new("x", Format::Tar)
            .extract(Cursor::new(&tar), &wanted, &mut |_, _| {
                asked += 1;
                Err(error!(ARTIFACT, "the disk is full"))
            })
            .unwrap_err();
        assert_eq!((error.to_string().as_str(), asked), ("the disk is full", 1));

        let cut = &tar[..512 + 10];
        let error = Archive::new("x", Format::Tar)
            .extract(Cursor::new(cut), &wanted, &mut |_, content| {
                let _ = content.read_to_end(&mut Vec::new());
                Ok(())
            })
            .unwrap_err();
        assert_eq!(error.to_string(), format!("x: member `a` is truncated after 10 of {} bytes", TOOL.len()));
    }

    #[test]
    fn a_sink_that_reads_nothing_skips_the_member() {
        for (format, bytes) in in_every_format() {
            let mut met = Vec::new();
            let wanted = names(["r/README", "r/tool"]);
            Archive::new("x", format)
                .extract(Cursor::new(&bytes), &wanted, &mut |member, _| {
                    met.push(member.name.clone());
                    Ok(())
                })
                .unwrap();
            assert_eq!(met, ["r/README", "r/tool"], "{format:?}");
        }
    }

    #[test]
    fn a_name_from_the_archive_cannot_fill_or_write_to_the_terminal() {
        let message = refusal(take(Format::Tar, &tarball(&[file("\u{1b}[2J/a", b"")]), &["a"]));
        assert!(message.contains("\\u{1b}[2J"), "{message:?}");
        let long = [entry(b"l", EntryType::GNULongName, "é".repeat(2000).as_bytes()), file("a", b"")];
        assert!(refusal(take(Format::Tar, &tarball(&long), &["b"])).len() < 1000);
    }
}
