//! What an archive has below one of its directories: listed once, and refused if it could lead out of the directory it is extracted into.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek};

use serde::{Deserialize, Serialize};

use crate::document::Pin;
use crate::error::{Error, Result, error};
use crate::net::download::{Progress, hash};
use crate::store::Store;
use crate::store::archive::{Archive, Kind, Member, Sink, short};

/// No file on Linux has a longer name, in bytes.
const LONGEST_NAME: usize = 255;
/// Nor a longer path.
const LONGEST_PATH: usize = 4096;
/// How many names the message about an empty directory gives.
const SHOWN: usize = 5;
/// Advice about an archive that must not be extracted.
const REFUSED: &str = "nothing of it was extracted; install the members that you need by their names, or repack the archive; for a commit, set `from` to a directory without this entry";

/// One thing that an archive has.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Entry {
    /// A file.
    File {
        /// The member that its content is in: another one's for a hard link.
        member: String,
        /// Lower-case hex of its SHA-256.
        sha256: String,
        /// Whether it can be run.
        executable: bool,
    },
    /// A symbolic link.
    Link(String),
    /// A directory with nothing in it.
    Directory,
}

/// What is below one directory of an archive, by path from there.
pub type Listing = BTreeMap<String, Entry>;

/// Listings by the directories of the archive.
pub type Listings = BTreeMap<String, Listing>;

/// Why a directory of an archive can't be named like this; each ends with `/`, and `/` is the whole archive.
pub fn prefix_problem(prefix: &str) -> Option<&'static str> {
    let parts = prefix.strip_suffix('/').unwrap_or(prefix);
    let is_plain = parts.is_empty() || parts.split('/').all(|part| !matches!(part, "" | "." | ".."));
    (!is_plain).then_some("write a directory of an archive like `dir/sub/`, and the whole archive as `/`")
}

/// Lists what an archive has below each of `prefixes`.
///
/// # Errors
/// As for [`Archive::walk`]. When there is nothing below one; and when there is something that can't be extracted: a device, a link
/// that leads out of the directory, a path twice or below a file or link, a name that no file can have.
pub fn list(archive: &Archive<'_>, input: impl Read + Seek, prefixes: &BTreeSet<String>) -> Result<Listings> {
    let name = archive.name;
    let mut listings: Listings = prefixes.iter().map(|prefix| (prefix.clone(), Listing::new())).collect();
    let mut tops = BTreeSet::new();
    archive.walk(input, &mut |member, content| {
        let refuse = |why: &str| refuse(name, &format!("member `{}` {why}", short(&member.name)));
        if let Some(why) = name_problem(&member.name) {
            return Err(refuse(why));
        }
        let path = plain(&member.name);
        if let Some(top) = path.split('/').next().filter(|_| tops.len() < SHOWN) {
            tops.insert(format!("`{}`", short(top)));
        }
        let mut digest = None;
        for (prefix, listing) in &mut listings {
            let Some(below) = below(&path, prefix) else { continue };
            if member.kind == Kind::Regular && digest.is_none() {
                digest = Some(hash(&mut { &mut *content }).map_err(|error| refuse(&error.to_string()))?.sha256);
            }
            let entry = entry(member, below, prefix, listing, digest.clone()).map_err(|why| refuse(&why))?;
            let is_directory = entry == Entry::Directory;
            if listing.insert(below.to_owned(), entry).is_some_and(|first| !is_directory || first != Entry::Directory) {
                return Err(refuse("occurs twice"));
            }
        }
        Ok(())
    })?;
    for (prefix, listing) in &mut listings {
        settle(name, listing)?;
        if listing.is_empty() {
            let tops = tops.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(error!(ARTIFACT, "{name}: contains nothing below `{prefix}`")
                .help(format!("its top level contains {tops}; `/` is the whole archive")));
        }
    }
    Ok(listings)
}

/// Why nothing of an archive is extracted that has a member of this name, wherever in it that is.
fn name_problem(name: &str) -> Option<&'static str> {
    if name.strip_prefix("./").unwrap_or(name).starts_with('/') {
        Some("has an absolute name")
    } else if name.split('/').any(|part| part == "..") {
        Some("has a name that leaves the archive (`..`)")
    } else {
        None
    }
}

/// A name from an archive without empty parts and `.`.
fn plain(name: &str) -> String {
    name.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/")
}

/// What of a path is below a prefix; `None` when it is not, or is the directory itself.
fn below<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = if prefix == "/" { path } else { path.strip_prefix(prefix)? };
    (!rest.is_empty()).then_some(rest)
}

fn refuse(archive: &str, what: &str) -> Error {
    error!(ARTIFACT, "{archive}: {what}").help(REFUSED)
}

/// What a member is to become at `path`, or why it can't be extracted.
fn entry(member: &Member, path: &str, prefix: &str, others: &Listing, digest: Option<String>) -> Result<Entry, String> {
    if path.len() > LONGEST_PATH || path.split('/').any(|part| part.len() > LONGEST_NAME) || path.contains(is_odd) {
        return Err("has an invalid name".to_owned());
    }
    match &member.kind {
        Kind::Regular => Ok(Entry::File {
            member: member.name.clone(),
            sha256: digest.unwrap_or_default(),
            executable: member.executable,
        }),
        Kind::Directory => Ok(Entry::Directory),
        Kind::Symlink(target) => {
            let target = target.as_deref().unwrap_or_default();
            if !leads_out(path, target) {
                return Ok(Entry::Link(target.to_owned()));
            }
            let (target, why) = (short(target), "which can point out of the directory that it is extracted to");
            Err(format!("is a symbolic link to `{target}`, {why}"))
        }
        Kind::HardLink(target) => match below(&plain(target), prefix).and_then(|target| others.get(target)) {
            Some(file @ Entry::File { .. }) => Ok(file.clone()),
            _ => {
                let target = short(target);
                Err(format!("is a hard link to `{target}`, which is not an earlier file in the extracted directory"))
            }
        },
        other => Err(other.problem().map_or_else(String::new, |(why, _)| why)),
    }
}

/// Whether a character must not be in a name: a control character, or one that replaces invalid UTF-8.
fn is_odd(c: char) -> bool {
    c.is_control() || c == char::REPLACEMENT_CHARACTER
}

/// Whether a link at `path` may lead out of the top. It can go up only at its beginning, where it is in real directories: after a name,
/// which may be a link itself, `..` can be anywhere.
fn leads_out(path: &str, target: &str) -> bool {
    let mut parts = target.split('/').filter(|part| !matches!(*part, "" | ".")).peekable();
    let mut up = 0;
    while parts.next_if_eq(&"..").is_some() {
        up += 1;
    }
    target.is_empty()
        || target.starts_with('/')
        || target.contains(is_odd)
        || up > path.matches('/').count()
        || parts.any(|part| part == "..")
}

/// Takes out directories that have something in them, and refuses what is below a file or link.
fn settle(name: &str, listing: &mut Listing) -> Result<()> {
    let mut above = BTreeSet::new();
    for path in listing.keys() {
        for (end, _) in path.match_indices('/') {
            let Some(directory) = path.get(..end) else { continue };
            match listing.get(directory) {
                None | Some(Entry::Directory) => above.insert(directory.to_owned()),
                Some(_) => {
                    let (path, directory) = (short(path), short(directory));
                    return Err(refuse(name, &format!("`{path}` is below `{directory}`, which is not a directory")));
                }
            };
        }
    }
    listing.retain(|path, _| !above.contains(path));
    Ok(())
}

/// Where listings of an artifact are kept.
fn file(pin: &Pin) -> String {
    format!("artifacts/{}.trees.json", pin.sha256)
}

impl Store {
    /// What is known of what an artifact has below directories of it.
    pub fn listings(&self, pin: &Pin) -> Result<Listings> {
        Ok(self.read(&file(pin))?.unwrap_or_default())
    }

    /// Fetches the pinned file if it isn't here, and remembers what it has below each of `prefixes`.
    pub fn learn_listings(&self, pin: &Pin, prefixes: &BTreeSet<String>, progress: Progress<'_>) -> Result<()> {
        let archive = self.fetch(pin, progress)?;
        let mut known = self.listings(pin)?;
        known.extend(list(&Archive::new(&pin.name, pin.format), archive, prefixes)?);
        self.write(&file(pin), &known)
    }

    /// Hands out the content of each of `members` of the pinned file, by their names in its listings.
    pub fn extract(&self, pin: &Pin, members: &dyn Fn(&str) -> bool, sink: Sink<'_>) -> Result<()> {
        let archive = self.fetch(pin, &|_, _, _| {})?;
        Archive::new(&pin.name, pin.format).walk(archive, &mut |member, content| {
            if member.kind == Kind::Regular && members(&member.name) { sink(member, content) } else { Ok(()) }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tar::EntryType;

    use super::*;
    use crate::document::Format;
    use crate::store::archive::Limits;
    use crate::store::archive::testing::{self as made, Stored, pax, stored_zip, tarball};

    #[test]
    fn a_link_may_lead_anywhere_in_the_directory_but_not_through_other_links() {
        for (path, target) in [
            ("x", "y"),
            ("x", "./y/"),
            ("x", "."),
            ("a/x", ".."),
            ("a/x", "../y"),
            ("a/b/x", "../../c/d"),
            ("a/b/x", ".././.././c"),
        ] {
            assert!(!leads_out(path, target), "{path} → {target}");
        }
        for (path, target) in [
            ("x", ""),
            ("x", "/"),
            ("x", "//y"),
            ("x", ".."),
            ("x", "./../y"),
            ("a/x", "../../y"),
            ("a/x", "b/.."),
            ("a/x", "../b/../.."),
            ("x", "a\nb"),
            ("x", "a\u{fffd}"),
        ] {
            assert!(leads_out(path, target), "{path} → {target}");
        }
    }

    #[test]
    fn a_directory_of_an_archive_is_written_in_one_way() {
        for good in ["/", "a/", "a/b.c/", "..a/"] {
            assert_eq!(prefix_problem(good), None, "{good}");
        }
        for bad in ["./", "../", "/a/", "a//", "a/./b/", "a/../", "//"] {
            assert!(prefix_problem(bad).unwrap().ends_with("the whole archive as `/`"), "{bad}");
        }
    }

    /// An archive of two files with so many bytes.
    fn archive(sizes: [usize; 2]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, size) in ["d/a", "d/b"].into_iter().zip(sizes) {
            let mut header = tar::Header::new_gnu();
            header.set_size(size as u64);
            header.set_mode(0o600);
            archive.append_data(&mut header, name, vec![7; size].as_slice()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    #[test]
    fn what_holds_too_much_is_refused() {
        let listed = |limits: Limits| {
            let prefixes = BTreeSet::from(["/".to_owned()]);
            let listed =
                list(&Archive { limits, ..Archive::new("x", Format::Tar) }, Cursor::new(archive([10, 20])), &prefixes);
            listed.map(|listed| listed["/"].len()).map_err(|error| error.to_string())
        };
        // headers and what fills a block count too
        let bytes = archive([10, 20]).len() as u64;
        let limits = Limits { members: 2, bytes, member: 20, ..Limits::default() };
        assert_eq!(listed(limits), Ok(2));
        assert_eq!(listed(Limits { members: 1, ..limits }), Err("x: has more than 1 members".to_owned()));
        let error = listed(Limits { bytes: bytes - 1, ..limits }).unwrap_err();
        assert_eq!(error, format!("x: unpacks to more than {} bytes", bytes - 1));
        let error = listed(Limits { member: 19, ..limits }).unwrap_err();
        assert_eq!(error, "x: member `d/b` has 20 bytes, and 19 are allowed");
    }

    #[test]
    fn a_missing_directory_is_reported_with_what_is_there() {
        let prefixes = BTreeSet::from(["e/".to_owned()]);
        let error = list(&Archive::new("x", Format::Tar), Cursor::new(archive([1, 1])), &prefixes).unwrap_err();
        assert_eq!(error.to_string(), "x: contains nothing below `e/`");
        assert_eq!(error.advice(), Some("its top level contains `d`; `/` is the whole archive"));
    }

    /// The error for an archive that contains this beside a valid file.
    fn refused(format: Format, archive: &[u8]) -> String {
        let prefixes = BTreeSet::from(["good/".to_owned()]);
        let listed = list(&Archive::new("x", format), Cursor::new(archive), &prefixes);
        listed.expect_err("this must be refused").to_string()
    }

    #[test]
    fn a_name_that_leads_out_refuses_the_whole_archive_in_every_form() {
        let good = made::file("good/a", b"good");
        let long =
            |kind, content: &[u8]| [made::entry(b"././@LongLink", kind, content), made::file("short", b"")].concat();
        for (name, says) in [
            ("../a", "leaves the archive (`..`)"),
            ("good/../../b", "leaves the archive (`..`)"),
            ("good/..", "leaves the archive (`..`)"),
            ("..", "leaves the archive (`..`)"),
            ("./../a", "leaves the archive (`..`)"),
            ("/etc/passwd", "has an absolute name"),
            (".//etc/passwd", "has an absolute name"),
        ] {
            for kind in [EntryType::Regular, EntryType::Symlink, EntryType::Link, EntryType::Directory] {
                let tar = tarball(&[good.clone(), made::entry(name.as_bytes(), kind, b"")]);
                assert!(refused(Format::Tar, &tar).ends_with(says), "{name}");
            }
            let gnu = long(EntryType::GNULongName, format!("{name}\0").as_bytes());
            let posix = [pax(b'x', &[("path", name)]), made::file("short", b"")].concat();
            for hidden in [gnu, posix] {
                assert!(refused(Format::Tar, &tarball(&[good.clone(), hidden])).ends_with(says), "{name}");
            }
            let zip = stored_zip(&[Stored::new("good/a", b"good"), Stored::new(name, b"bad")]);
            assert!(refused(Format::Zip, &zip).ends_with(says), "{name}");
        }
        for name in [&b"good/a\xff"[..], b"good/a\x1b[2J", b"good/a\0b"] {
            let odd = long(EntryType::GNULongName, &[name, b"\0"].concat());
            let message = refused(Format::Tar, &tarball(&[good.clone(), odd]));
            assert!(message.ends_with("has an invalid name"), "{message}");
        }
        for long_one in ["a".repeat(256), "a/".repeat(2100)] {
            let name = format!("good/{long_one}\0");
            let message = refused(Format::Tar, &tarball(&[long(EntryType::GNULongName, name.as_bytes())]));
            assert!(message.ends_with("has an invalid name"), "{message}");
        }
    }
}
