//! Directories of archives and commits, extracted into directories of the host with everything in them.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::OnceLock;

use crate::document::Pin;
use crate::error::{LISTED, counted, listed};
use crate::host::root::failed_io;
use crate::kind::prelude::*;
use crate::store::Progress;
use crate::store::tree::Entry;

/// The largest file that is held in memory, in bytes.
const LARGE: u64 = 1 << 20;
/// Everyone can read directories.
const DIRECTORY: Access = Access::of_mode(0o755);

/// What is extracted from one artifact.
#[derive(Debug)]
pub(crate) struct Trees {
    /// From the directory in the archive to that on the host.
    pub(in crate::kind) into: BTreeMap<String, AbsolutePath>,
    program: Ownership,
    other: Ownership,
    /// Everything that is extracted, once it is known.
    places: OnceLock<BTreeMap<PathBuf, Entry>>,
}

/// How a path differs from the archive.
enum Difference {
    /// It does not exist.
    Missing,
    /// It is something else.
    Other,
    /// Only its mode or owner differs, in words.
    Access(Vec<String>),
}

/// A path that differs, and its entry in the archive.
type Differing<'a> = (&'a Path, &'a Entry, Difference);

impl Trees {
    pub(in crate::kind) fn new(into: BTreeMap<String, AbsolutePath>, program: &Ownership) -> Self {
        Self { into, program: program.clone(), other: program.not_executable(), places: OnceLock::new() }
    }

    /// The directories on the host.
    pub(crate) fn directories(&self) -> impl Iterator<Item = &AbsolutePath> {
        self.into.values()
    }

    /// Everything that is extracted, by path; `None` while it is not known.
    fn places(&self, pin: &Pin, work: &Work<'_>) -> Result<Option<&BTreeMap<PathBuf, Entry>>> {
        if self.places.get().is_none() {
            let mut known = if self.into.is_empty() { BTreeMap::new() } else { work.store.listings(pin)? };
            let mut places = BTreeMap::new();
            for (prefix, into) in &self.into {
                let Some(listing) = known.remove(prefix) else { return Ok(None) };
                for (below, entry) in listing {
                    let path = AbsolutePath::try_from(format!("{into}/{below}"))
                        .map_err(|why| error!(ARTIFACT, "{}: can't be extracted", pin.name).because(why))?;
                    places.insert(path.to_path_buf(), entry);
                }
            }
            let _ = self.places.set(places);
        }
        Ok(self.places.get())
    }

    /// Every path that is extracted.
    pub(in crate::kind) fn paths(&self, pin: &Pin, work: &Work<'_>) -> Result<impl Iterator<Item = Claim>> {
        let places = self.places(pin, work)?.ok_or_else(|| {
            error!(ARTIFACT, "the contents of {} are not known yet", pin.name).help("the next `kpull apply` fetches it")
        })?;
        Ok(places.keys().map(Claim::path))
    }

    /// The inputs that change with a path.
    pub fn watched_inputs(&self, pin: &Pin, work: &Work<'_>) -> Result<Option<impl Iterator<Item = WatchedInput>>> {
        let Some(places) = self.places(pin, work)? else { return Ok(None) };
        Ok(Some(places.iter().map(|(path, entry)| match entry {
            Entry::Directory => WatchedInput::Place(path.clone()),
            _ => WatchedInput::Path(path.clone()),
        })))
    }

    /// Lists what to extract, and fetches the archive if anything differs.
    pub(in crate::kind) fn prepare(&self, pin: &Pin, work: &Work<'_>, progress: Progress<'_>) -> Result<()> {
        if self.places(pin, work)?.is_none() {
            work.store.learn_listings(pin, &self.into.keys().cloned().collect(), progress)?;
        }
        if self.differences(pin, work)?.is_some_and(|differences| !differences.is_empty()) {
            work.store.fetch(pin, progress)?;
        }
        Ok(())
    }

    /// The changes in a few words each; and whether nothing exists yet.
    pub(in crate::kind) fn observe(&self, pin: &Pin, work: &Work<'_>) -> Result<(Vec<String>, bool)> {
        let Some(differences) = self.differences(pin, work)? else {
            let mut is_new = true;
            for into in self.directories() {
                is_new &= work.host.root.meta(into)?.is_none();
            }
            let parts = self.into.iter().map(|(prefix, into)| format!("extract {prefix} into {into}"));
            return Ok((parts.collect(), is_new));
        };
        let (mut missing, mut others, mut accesses) = (0, Vec::new(), Vec::new());
        for (path, _, difference) in differences {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            match difference {
                Difference::Missing => missing += 1,
                Difference::Other => others.push(name.into_owned()),
                Difference::Access(parts) => accesses.push(format!("{name}: {}", parts.join(", "))),
            }
        }
        let mut parts = Vec::new();
        parts.extend((missing > 0).then(|| format!("extract {}", counted(missing, "file"))));
        parts.extend((!others.is_empty()).then(|| format!("replace {}", listed(&others, "file"))));
        match accesses.len() {
            0..=LISTED => parts.append(&mut accesses),
            many => parts.push(format!("mode or owner of {}", counted(many, "file"))),
        }
        Ok((parts, self.places.get().is_some_and(|places| places.len() == missing)))
    }

    fn wanted(&self, executable: bool) -> &Ownership {
        if executable { &self.program } else { &self.other }
    }

    /// Every path that differs from the archive; `None` while that is not known.
    fn differences(&self, pin: &Pin, work: &Work<'_>) -> Result<Option<Vec<Differing<'_>>>> {
        let Some(places) = self.places(pin, work)? else { return Ok(None) };
        self.check(places, &pin.name, work)?;
        let root = &work.host.root;
        let mut differences = Vec::new();
        for (path, entry) in places {
            let difference = match (entry, root.meta(path)?.map(|meta| meta.what)) {
                (Entry::File { executable, .. }, None) => {
                    self.wanted(*executable).check(work, path)?;
                    Difference::Missing
                }
                (_, None) => Difference::Missing,
                (Entry::Directory, Some(FileType::Directory)) => continue,
                (Entry::Directory, Some(_)) => return Err(in_the_way(path, "a directory")),
                (_, Some(FileType::Directory | FileType::Special)) => return Err(in_the_way(path, "a file or link")),
                (Entry::Link(target), Some(_)) => match root.link(path)? {
                    Some(now) if now == Path::new(target) => continue,
                    _ => Difference::Other,
                },
                (Entry::File { sha256, executable, .. }, Some(_)) => match installed(work, path)? {
                    Some((meta, digest)) if digest == *sha256 => {
                        let parts = self.wanted(*executable).differences(work, path, &meta)?;
                        if parts.is_empty() {
                            continue;
                        }
                        Difference::Access(parts)
                    }
                    _ => Difference::Other,
                },
            };
            differences.push((path.as_path(), entry, difference));
        }
        Ok(Some(differences))
    }

    /// Checks that no other resource claims a path of the archive, and that no path is behind a link.
    fn check(&self, places: &BTreeMap<PathBuf, Entry>, name: &str, work: &Work<'_>) -> Result<()> {
        let mut directories = BTreeSet::new();
        for path in places.keys() {
            let Some(into) = self.directories().find(|into| path.starts_with(&***into)) else { continue };
            directories.extend(path.ancestors().skip(1).take_while(|above| *above != &**into));
        }
        for directory in &directories {
            if work.host.root.meta(directory)?.is_some_and(|meta| meta.what != FileType::Directory) {
                return Err(in_the_way(directory, "a directory"));
            }
        }
        // another resource may use another name of the directory
        let own: HashSet<PathBuf> = places.keys().map(|path| work.host.root.place_of(path)).collect();
        let is_no_directory = |above| places.get(above).is_some_and(|entry| *entry != Entry::Directory);
        for item in work.catalog {
            for path in item.about.claims.iter().filter_map(Claim::any_path) {
                let is_clash = own.contains(&work.host.root.place_of(path))
                    || directories.contains(path) && item.about.kind != "directory"
                    || path.ancestors().skip(1).any(is_no_directory);
                if is_clash {
                    return Err(error!(CLASH, "two resources manage `{}`", path.display())
                        .because(format!("it is in {name}, and {} contains it too, at {}", item.id, item.place))
                        .help("remove it from one of them; from an archive, you can install single members by their names"));
                }
            }
        }
        Ok(())
    }

    /// Extracts what differs.
    pub(in crate::kind) fn apply(&self, pin: &Pin, work: &Work<'_>) -> Result<()> {
        let root = &work.host.root;
        let mut contents: HashMap<&str, Vec<(&Path, &Ownership)>> = HashMap::new();
        root.together(|| {
            for (path, entry, difference) in self.differences(pin, work)?.unwrap_or_default() {
                match entry {
                    Entry::Directory => root.make_directory(path, DIRECTORY)?,
                    Entry::Link(target) => root.make_link(path, target.as_ref())?,
                    Entry::File { member, executable, .. } => {
                        let wanted = self.wanted(*executable);
                        if let Difference::Access(_) = difference
                            && let Some(meta) = root.meta(path)?
                            && is_safe(work, &meta, wanted)?
                        {
                            root.set_access(path, wanted.access(work, path)?)?;
                        } else {
                            contents.entry(member).or_default().push((path, wanted));
                            continue;
                        }
                    }
                }
                work.host.file_changed(path);
            }
            if contents.is_empty() {
                return Ok(());
            }
            work.store.extract(pin, &|member| contents.contains_key(member), &mut |member, content| {
                let places = contents.get(member.name.as_str()).map_or(&[][..], Vec::as_slice);
                write(work, member.size.unwrap_or(u64::MAX), content, places)
            })
        })
    }
}

/// The metadata and digest of the file at `path`.
pub(super) fn installed(work: &Work<'_>, path: &Path) -> Result<Option<(Meta, String)>> {
    let Some((meta, file)) = work.host.root.file(path)? else { return Ok(None) };
    Ok(Some((meta, work.store.digest_of(&work.host.root.outside(path), file)?)))
}

/// Whether a file can stay: its owner is right, and no other user can have it open for writing.
pub(super) fn is_safe(work: &Work<'_>, meta: &Meta, wanted: &Ownership) -> Result<bool> {
    Ok(meta.mode & 0o022 == 0 && wanted.is_owned(work, meta)?)
}

/// Writes one content to each of its places.
fn write(work: &Work<'_>, size: u64, content: &mut dyn Read, places: &[(&Path, &Ownership)]) -> Result<()> {
    let root = &work.host.root;
    let mut small = None;
    let mut first: Option<&Path> = None;
    for (path, wanted) in places {
        let access = wanted.access(work, path)?;
        if size <= LARGE && small.is_none() {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes).map_err(|error| failed_io("unpack", path, error))?;
            small = Some(bytes);
        }
        match (&small, first) {
            (Some(bytes), _) => root.write(path, bytes, access)?,
            (None, first) => {
                // a hard link is a copy of the file that was written before
                let mut copy = first.map(|first| root.file(first)).transpose()?.flatten();
                root.write_with(path, access, |file| {
                    let copied = match &mut copy {
                        Some((_, copy)) => std::io::copy(copy, file),
                        None => std::io::copy(content, file),
                    };
                    copied.map(drop).map_err(|error| failed_io("unpack", path, error))
                })?;
            }
        }
        first = first.or(Some(path));
        work.host.file_changed(path);
        if root.has_gathered_enough() {
            root.settle().map_err(|(_, error)| error)?;
            root.gather();
        }
    }
    Ok(())
}

fn in_the_way(path: &Path, what: &str) -> Error {
    error!(ARTIFACT, "{} exists and is not what kpull extracts there: {what} there", path.display())
        .help("move it away; kpull never extracts through a link")
}
