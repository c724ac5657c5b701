//! Unit files on disk: where they are, which links their `[Install]` sections ask for, and whether they are valid.

mod escape;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

pub use self::escape::{escaped, unescaped};
use crate::error::{Result, error};
use crate::host::root::{FileType, Root};

/// The administrator's directory for units, and for the links that enable units.
pub const ETC: &str = "/etc/systemd/system";

/// The administrator's directory for Quadlet files, from which podman's generator makes units.
pub const QUADLETS: &str = "/etc/containers/systemd";

/// Where systemd looks for units; the first wins.
pub const DIRS: [&str; 5] =
    [ETC, "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// The suffixes of directories whose links add dependencies to a unit.
const SUFFIXES: [&str; 3] = ["wants", "requires", "upholds"];

/// The target of a link that masks a unit.
const NOTHING: &str = "/dev/null";

/// The types of units that have files.
pub const TYPES: [&str; 9] = ["service", "socket", "timer", "mount", "automount", "swap", "path", "target", "slice"];

/// What is on disk for a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Missing,
    /// A link to nothing, which prevents its start: until the next boot (`runtime`) or permanently.
    Masked {
        /// Whether it is masked in `/run`.
        runtime: bool,
    },
    /// Its file.
    File(UnitFile),
}

/// A unit's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitFile {
    /// The unit's own name, which differs from the requested one if that is an alias.
    pub name: String,
    /// The path of the file.
    pub path: PathBuf,
    /// Its text, with that of its drop-ins.
    text: String,
}

/// The files of a unit that a role writes, which count as if they were on disk already.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// The unit's file.
    pub text: Option<String>,
    /// Its drop-ins by file name.
    pub dropins: BTreeMap<String, String>,
}

/// A link that enables a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The unit that it enables: the requested one, or one of its `Also=`.
    pub unit: String,
    /// Its path.
    pub at: PathBuf,
    /// Its target.
    pub to: PathBuf,
}

impl Link {
    /// Whether the link exists and leads to the unit's file.
    pub fn is_there(&self, root: &Root) -> Result<bool> {
        let Some(to) = root.link(&self.at)?.map(|to| straight(&self.at.with_file_name(to))) else { return Ok(false) };
        Ok(to == self.to || (to.file_name() == self.to.file_name() && root.meta(&to)?.is_some()))
    }

    /// Creates it. This replaces only links.
    pub fn make(&self, root: &Root) -> Result<()> {
        if root.meta(&self.at)?.is_some_and(|meta| meta.what != FileType::Link) {
            return Err(error!(UNIT, "{} can't be enabled: {} is in the way", self.unit, self.at.display())
                .because("it is not a link")
                .help("remove it with an [[absent]], or remove the name from `[Install]`"));
        }
        root.make_link(&self.at, &self.to)
    }
}

/// Removes a link that enables a unit, and its directory if that becomes empty.
pub fn unlink(root: &Root, at: &Path) -> Result<()> {
    root.remove(at)?;
    emptied(root, at)?.map_or(Ok(()), |dir| root.remove(&dir))
}

/// The directory of a link that enables a unit, if it is empty.
pub fn emptied(root: &Root, at: &Path) -> Result<Option<PathBuf>> {
    let Some(dir) = at.parent().filter(|dir| *dir != Path::new(ETC) && dir.starts_with(ETC)) else { return Ok(None) };
    let is_there = root.meta(dir)?.is_some_and(|meta| meta.what == FileType::Directory);
    Ok((is_there && root.names(dir)?.is_empty()).then(|| dir.to_owned()))
}

/// The links that [`unlink`] is going to remove, and the directories that this empties.
pub fn with_emptied(root: &Root, mut links: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    let dirs: BTreeSet<&Path> =
        links.iter().filter_map(|at| at.parent()).filter(|dir| *dir != Path::new(ETC)).collect();
    let mut emptied = Vec::new();
    for dir in dirs {
        if root.names(dir)?.iter().all(|name| links.contains(&dir.join(name))) {
            emptied.push(dir.to_owned());
        }
    }
    links.extend(emptied);
    Ok(links)
}

/// The directories of links that enable units: the administrator's, and one below it for each unit that wants others.
fn link_dirs(root: &Root) -> Result<Vec<PathBuf>> {
    let is_for_links = |name: &String| SUFFIXES.iter().any(|end| name.ends_with(&format!(".{end}")));
    let names = root.names(Path::new(ETC))?.into_iter().filter(is_for_links);
    Ok(std::iter::once(PathBuf::from(ETC)).chain(names.map(|name| Path::new(ETC).join(name))).collect())
}

/// Every link of the administrator that enables a unit or is an alias of it, regardless of `[Install]`, even if it is dangling. `names`
/// are the names of the unit.
pub fn links_to(root: &Root, names: &[&str]) -> Result<Vec<PathBuf>> {
    let mut links = Vec::new();
    for dir in link_dirs(root)? {
        for name in root.names(&dir)? {
            let at = dir.join(&name);
            let Some(target) = root.link(&at)?.filter(|target| target != Path::new(NOTHING)) else { continue };
            let target = straight(&dir.join(target));
            let Some(leads) = leads_to(&name, &target) else { continue };
            let is_named = names.contains(&name.as_str());
            let is_ours = match dir == Path::new(ETC) {
                // a link to its file elsewhere, which does not enable it
                true if leads == name => is_named && root.meta(&target)?.is_none(),
                true => names.contains(&leads.as_str()) || (is_named && root.meta(&target)?.is_none()),
                false => is_named || names.contains(&leads.as_str()),
            };
            if is_ours {
                links.push(at);
            }
        }
    }
    Ok(links)
}

/// The System V script from which systemd generates the service if there is no unit of this name.
pub fn script(root: &Root, name: &str) -> Result<Option<PathBuf>> {
    let Some(stem) = name.strip_suffix(".service") else { return Ok(None) };
    for dir in ["/etc/init.d", "/etc/rc.d/init.d"] {
        let path = Path::new(dir).join(stem);
        if root.meta(&path)?.is_some_and(|meta| meta.what == FileType::File) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The links that run a script at boot.
pub fn script_links(root: &Root, name: &str) -> Result<Vec<PathBuf>> {
    let stem = name.strip_suffix(".service").unwrap_or(name);
    let starts = |entry: &String| {
        let rest = entry.strip_prefix('S').and_then(|rest| rest.strip_suffix(stem));
        rest.is_some_and(|number| number.len() == 2 && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let mut links = Vec::new();
    for dir in ["/etc", "/etc/rc.d"].iter().flat_map(|dir| (2..=5).map(move |level| format!("{dir}/rc{level}.d"))) {
        let dir = Path::new(&dir);
        links.extend(root.names(dir)?.iter().filter(|entry| starts(entry)).map(|entry| dir.join(entry)));
    }
    Ok(links)
}

/// Finds a unit's file; what a role writes replaces what is on disk.
pub fn find(root: &Root, name: &str, own: &Own) -> Result<Found> {
    let found = match &own.text {
        Some(text) => {
            Found::File(UnitFile { name: name.to_owned(), path: Path::new(ETC).join(name), text: text.clone() })
        }
        None => search(root, name, &mut BTreeSet::new())?,
    };
    let Found::File(mut file) = found else { return Ok(found) };
    for dropins in dropin_dirs(std::iter::once(file.name.clone()).chain(template_of(&file.name))) {
        for dropin in root.names(&dropins)?.iter().filter(|dropin| dropin.ends_with(".conf")) {
            if !(dropins.starts_with(ETC) && own.dropins.contains_key(dropin)) {
                file.text += &format!("\n{}", root.text(&dropins.join(dropin))?);
            }
        }
    }
    file.text.extend(own.dropins.values().flat_map(|text| ["\n", text.as_str()]));
    Ok(Found::File(file))
}

/// Whether a generator of systemd has made a unit, as from a line of `/etc/fstab`.
pub fn is_generated(root: &Root, name: &str) -> Result<bool> {
    let mut is_there = false;
    for dir in ["generator", "generator.early", "generator.late"] {
        is_there |= root.meta(&Path::new("/run/systemd").join(dir).join(name))?.is_some();
    }
    Ok(is_there)
}

/// Every path that can change the result of [`find`], [`masked`] or [`UnitFile::links`] for a unit.
pub fn watched_paths(root: &Root, name: &str, own: &Own) -> Result<Vec<PathBuf>> {
    let mut names: BTreeSet<String> = std::iter::once(name.to_owned()).chain(template_of(name)).collect();
    let mut paths: Vec<PathBuf> = DIRS.iter().map(PathBuf::from).chain(link_dirs(root)?).collect();
    paths.extend(script(root, name)?.into_iter().chain(script_links(root, name)?));
    if let Found::File(file) = find(root, name, own)? {
        names.extend(std::iter::once(file.name.clone()).chain(template_of(&file.name)));
        paths.extend(file.links(root)?.into_iter().map(|link| link.at));
        paths.push(file.path);
    }
    paths.extend(DIRS.iter().flat_map(|dir| names.iter().map(|name| Path::new(dir).join(name))));
    for dropins in dropin_dirs(names) {
        paths.extend(root.names(&dropins)?.iter().map(|dropin| dropins.join(dropin)));
        paths.push(dropins);
    }
    Ok(paths)
}

/// The directories of drop-ins of units with these names, in the order in which systemd reads them.
fn dropin_dirs(names: impl IntoIterator<Item = String>) -> Vec<PathBuf> {
    let names: Vec<String> = names.into_iter().map(|name| format!("{name}.d")).collect();
    DIRS.iter().flat_map(|dir| names.iter().map(|name| Path::new(dir).join(name))).collect()
}

/// Whether a unit is masked, regardless of what a role writes.
pub fn masked(root: &Root, name: &str) -> Result<Option<Found>> {
    let found = search(root, name, &mut BTreeSet::new())?;
    Ok(matches!(found, Found::Masked { .. }).then_some(found))
}

/// The names of all units on disk, for suggestions.
pub fn names(root: &Root) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for dir in DIRS {
        names.extend(root.names(Path::new(dir))?);
    }
    Ok(names)
}

/// Names that a chain of links may have at most.
const MOST_NAMES: usize = 64;

/// `seen` has the names that were searched already: none is searched twice, since each may have a link in each directory.
fn search(root: &Root, name: &str, seen: &mut BTreeSet<String>) -> Result<Found> {
    if seen.len() >= MOST_NAMES || !seen.insert(name.to_owned()) {
        return Ok(Found::Missing);
    }
    for candidate in std::iter::once(name.to_owned()).chain(template_of(name)) {
        for dir in DIRS {
            let path = Path::new(dir).join(&candidate);
            match root.meta(&path)? {
                Some(meta) if meta.what == FileType::File && meta.size == 0 => {
                    return Ok(Found::Masked { runtime: path.starts_with("/run") });
                }
                Some(meta) if meta.what == FileType::File => {
                    let text = root.text(&path)?;
                    return Ok(Found::File(UnitFile { name: name.to_owned(), path, text }));
                }
                Some(meta) if meta.what == FileType::Link => {
                    let Some(target) = root.link(&path)? else { continue };
                    if target == Path::new(NOTHING) {
                        return Ok(Found::Masked { runtime: path.starts_with("/run") });
                    }
                    if let Some(found) = follow(root, name, dir, &target, seen)? {
                        return Ok(found);
                    }
                }
                _ => {}
            }
        }
    }
    Ok(Found::Missing)
}

/// The unit that a link in `dir` leads to: another name (an alias), or a file outside of systemd's directories.
fn follow(root: &Root, name: &str, dir: &str, target: &Path, seen: &mut BTreeSet<String>) -> Result<Option<Found>> {
    let target = straight(&Path::new(dir).join(target));
    let Some(other) = leads_to(name, &target) else { return Ok(None) };
    if other != name {
        return Ok(Some(search(root, &other, seen)?).filter(|found| *found != Found::Missing));
    }
    let Some((_, content)) = root.read(&target)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&content).into_owned();
    Ok(Some(Found::File(UnitFile { name: other, path: target, text })))
}

/// The unit that a link of this name leads to.
fn leads_to(name: &str, target: &Path) -> Option<String> {
    let other = target.file_name()?.to_str()?;
    // an alias of a template applies to each instance
    Some(match (instance_of(name), instance_of(other)) {
        (Some((_, instance)), Some((prefix, ""))) => {
            format!("{prefix}@{instance}.{}", other.rsplit('.').next().unwrap_or_default())
        }
        _ => other.to_owned(),
    })
}

/// A path without `.` and `..`.
pub fn straight(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

/// Prefix and instance of `prefix@instance.type`; the instance of a template is empty.
pub fn instance_of(name: &str) -> Option<(&str, &str)> {
    let (stem, _) = name.rsplit_once('.')?;
    stem.split_once('@')
}

/// Whether a name is that of a template, which can't be started itself.
pub fn is_template(name: &str) -> bool {
    instance_of(name).is_some_and(|(_, instance)| instance.is_empty())
}

/// `a@.service` for `a@b.service`.
pub fn template_of(name: &str) -> Option<String> {
    let (prefix, instance) = instance_of(name)?;
    let (_, kind) = name.rsplit_once('.')?;
    (!instance.is_empty()).then(|| format!("{prefix}@.{kind}"))
}

impl UnitFile {
    /// The links that enable the unit, with those of the units in its `Also=`; none if it can't be enabled.
    pub fn links(&self, root: &Root) -> Result<Vec<Link>> {
        let mut links = Vec::new();
        let mut seen = BTreeSet::new();
        // no recursion: a chain of units that name one another may be long
        let mut waiting = vec![self.clone()];
        while let Some(file) = waiting.pop() {
            if seen.insert(file.name.clone()) {
                let also = file.own_links(root, &mut links)?;
                for name in also.iter().rev().filter(|name| !seen.contains(*name)) {
                    if let Found::File(file) = find(root, name, &Own::default())? {
                        waiting.push(file);
                    }
                }
            }
        }
        Ok(links)
    }

    /// Adds the links of this unit, and returns the names of the units in its `Also=`.
    fn own_links(&self, root: &Root, links: &mut Vec<Link>) -> Result<Vec<String>> {
        let install = install(&self.text);
        let words = |key: &str| install.get(key).map(Vec::as_slice).unwrap_or_default();
        // a template is enabled as its default instance
        let name = match (self.name.split_once("@."), words("DefaultInstance").first()) {
            (Some((prefix, kind)), Some(instance)) => format!("{prefix}@{instance}.{kind}"),
            _ => self.name.clone(),
        };
        let expanded = |key: &str| -> Result<Vec<String>> {
            let words: Vec<_> = words(key).iter().map(|word| expand(word, &name, root)).collect::<Result<_>>()?;
            Ok(words.into_iter().flatten().collect())
        };
        let link = |at: PathBuf| Link { unit: self.name.clone(), at, to: self.path.clone() };
        for (key, suffix) in ["WantedBy", "RequiredBy", "UpheldBy"].into_iter().zip(SUFFIXES) {
            let by = expanded(key)?.into_iter().filter(|_| !is_template(&name));
            links.extend(by.map(|by| link(Path::new(ETC).join(format!("{by}.{suffix}")).join(&name))));
        }
        let aliases = expanded("Alias")?.into_iter().filter(|alias| *alias != self.name);
        links.extend(aliases.map(|alias| link(Path::new(ETC).join(alias))));
        expanded("Also")
    }
}

/// The words of each key of the `[Install]` section.
fn install(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut is_ours = false;
    for (_, line) in logical_lines(text) {
        if line.starts_with('[') {
            is_ours = line.trim_end() == "[Install]";
            continue;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| is_ours) else { continue };
        let words = keys.entry(key.trim().to_owned()).or_default();
        // an empty value resets the key; of DefaultInstance, only the last one counts
        if value.trim().is_empty() || key.trim() == "DefaultInstance" {
            words.clear();
        }
        words.extend(value.split_whitespace().map(|word| word.trim_matches(['"', '\'']).to_owned()));
    }
    keys
}

/// Whether `[Install]` names a unit that starts this one.
pub fn is_wanted(text: &str) -> bool {
    let install = install(text);
    ["WantedBy", "RequiredBy", "UpheldBy"].iter().any(|key| install.get(*key).is_some_and(|words| !words.is_empty()))
}

/// A word of `[Install]` with its specifiers expanded; `None` for specifiers that depend on more than the names of unit and host.
fn expand(word: &str, name: &str, root: &Root) -> Result<Option<String>> {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let (prefix, instance) = instance_of(name).unwrap_or((stem, ""));
    let mut out = String::new();
    let mut rest = word.chars();
    while let Some(c) = rest.next() {
        match c {
            '%' => match rest.next() {
                Some('%') => out.push('%'),
                Some('n') => out.push_str(name),
                Some('N') => out.push_str(stem),
                Some('p') => out.push_str(prefix),
                Some('i') => out.push_str(instance),
                Some('j') => out.push_str(prefix.rsplit('-').next().unwrap_or(prefix)),
                Some(c @ ('H' | 'm')) => {
                    let path = if c == 'H' { "/etc/hostname" } else { "/etc/machine-id" };
                    match root.text(Path::new(path))?.trim() {
                        "" => return Ok(None),
                        text => out.push_str(text),
                    }
                }
                _ => return Ok(None),
            },
            c => out.push(c),
        }
    }
    Ok(Some(out))
}

/// A problem in a unit's text.
#[derive(Debug, PartialEq, Eq)]
pub struct Flaw {
    /// The line, from 1.
    pub line: usize,
    /// Its text.
    pub text: String,
    /// What the problem is.
    pub why: &'static str,
}

/// Finds what systemd would warn about and ignore: invalid lines, keys outside of a section, open quotes.
pub fn check(text: &str) -> Result<(), Flaw> {
    let mut has_section = false;
    for (line, text) in logical_lines(text) {
        let flaw = |why| Err(Flaw { line, text: text.trim_end().to_owned(), why });
        if text.starts_with('[') {
            if !text.trim_end().ends_with(']') || text.trim_end().len() < 3 {
                return flaw("a section is written as `[Name]`");
            }
            has_section = true;
            continue;
        }
        let Some((key, value)) = text.split_once('=') else {
            return flaw("neither a `[Section]`, a `Key=value`, a comment nor a continued line");
        };
        let key = key.trim_end();
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return flaw("a key is made of letters, digits and `-`");
        }
        if !has_section {
            return flaw("it is before any `[Section]`");
        }
        if key.starts_with("Exec") && is_open(value) {
            return flaw("a quote is opened and never closed");
        }
    }
    if has_section { Ok(()) } else { Err(Flaw { line: 1, text: String::new(), why: "it has no `[Section]`" }) }
}

/// The lines without comments and blanks, continued ones joined, each with the number of its first line.
pub fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut is_continued = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        // a comment between continued lines doesn't end them
        if line.starts_with(['#', ';']) || (line.is_empty() && !is_continued) {
            continue;
        }
        let (part, continues) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match lines.last_mut().filter(|_| is_continued) {
            Some((_, before)) => before.extend([" ", part]),
            None => lines.push((number + 1, part.to_owned())),
        }
        is_continued = continues;
    }
    lines
}

/// Whether a command line ends inside a quote.
fn is_open(command: &str) -> bool {
    let mut quote = None;
    let mut rest = command.chars();
    while let Some(c) = rest.next() {
        match (c, quote) {
            ('\\', _) => drop(rest.next()),
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => quote = Some(c),
            _ => {}
        }
    }
    quote.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    fn links(root: &Root, name: &str) -> Vec<(String, String)> {
        let Found::File(file) = find(root, name, &Own::default()).unwrap() else { panic!("{name} is not found") };
        let text = |path: &Path| path.to_string_lossy().into_owned();
        file.links(root).unwrap().iter().map(|link| (text(&link.at), text(&link.to))).collect()
    }

    fn pair(at: &str, to: &str) -> (String, String) {
        (at.to_owned(), to.to_owned())
    }

    #[test]
    fn enabling_links_what_install_names_in_the_file_its_drop_ins_and_also() {
        let (_dir, root) = tree(&[
            (
                "usr/lib/systemd/system/a.service",
                "[Unit]\nWantedBy=no.target\n[Install]\nWantedBy=x.target \\\n  y.target\nAlias=b.service\nAlso=a.socket\n",
            ),
            ("usr/lib/systemd/system/a.socket", "[Install]\nRequiredBy=sockets.target\nAlso=a.service\n"),
            ("etc/systemd/system/a.service.d/more.conf", "[Install]\nWantedBy=z.target\n"),
        ]);
        let to = "/usr/lib/systemd/system/a.service";
        assert_eq!(
            links(&root, "a.service"),
            [
                pair("/etc/systemd/system/x.target.wants/a.service", to),
                pair("/etc/systemd/system/y.target.wants/a.service", to),
                pair("/etc/systemd/system/z.target.wants/a.service", to),
                pair("/etc/systemd/system/b.service", to),
                pair("/etc/systemd/system/sockets.target.requires/a.socket", "/usr/lib/systemd/system/a.socket"),
            ]
        );
    }

    #[test]
    fn links_that_lead_everywhere_and_nowhere_are_followed_once() {
        let (dir, root) = tree(&[]);
        for at in DIRS.map(|at| dir.path().join(&at[1..])) {
            std::fs::create_dir_all(&at).unwrap();
            for number in 0..20 {
                for instance in ["", "x"] {
                    let next = format!("u{}@.service", number + 1);
                    symlink(next, at.join(format!("u{number}@{instance}.service"))).unwrap();
                }
            }
        }
        assert_eq!(find(&root, "u0@x.service", &Own::default()).unwrap(), Found::Missing);
    }

    #[test]
    fn a_long_row_of_units_that_name_one_another_is_followed_to_its_end() {
        let (dir, root) = tree(&[("etc/systemd/system/u5000.service", "[Install]\nAlias=last.service\n")]);
        for number in 0..5000 {
            let text = format!("[Install]\nAlso=u{}.service\n", number + 1);
            std::fs::write(dir.path().join(format!("etc/systemd/system/u{number}.service")), text).unwrap();
        }
        let to = "/etc/systemd/system/u5000.service";
        assert_eq!(links(&root, "u0.service"), [pair("/etc/systemd/system/last.service", to)]);
    }

    #[test]
    fn an_instance_is_linked_to_its_template_with_specifiers_filled_in() {
        let (_dir, root) = tree(&[(
            "usr/lib/systemd/system/a@.service",
            "[Install]\nWantedBy=multi-user.target of-%i.target %H.target\n",
        )]);
        let to = "/usr/lib/systemd/system/a@.service";
        assert_eq!(
            links(&root, "a@x.service"),
            [
                pair("/etc/systemd/system/multi-user.target.wants/a@x.service", to),
                pair("/etc/systemd/system/of-x.target.wants/a@x.service", to),
            ]
        );
    }

    #[test]
    fn an_empty_assignment_resets_a_key() {
        let install = install("[Install]\nWantedBy=a.target\nWantedBy=\nWantedBy=b.target\n");
        assert_eq!(install["WantedBy"], ["b.target"]);
    }

    #[test]
    fn etc_wins_over_the_packages_files_and_an_alias_leads_to_the_unit_s_own_name() {
        let (dir, root) = tree(&[
            ("usr/lib/systemd/system/ssh.service", "[Install]\nAlias=sshd.service\n"),
            ("etc/systemd/system/x.service", "[Unit]\n"),
            ("usr/lib/systemd/system/x.service", "[Install]\nWantedBy=a.target\n"),
        ]);
        symlink("/usr/lib/systemd/system/ssh.service", dir.path().join("etc/systemd/system/sshd.service")).unwrap();
        let Found::File(file) = find(&root, "sshd.service", &Own::default()).unwrap() else { panic!() };
        assert_eq!(
            (file.name.as_str(), file.path.to_str()),
            ("ssh.service", Some("/usr/lib/systemd/system/ssh.service"))
        );
        assert!(file.links(&root).unwrap().iter().all(|link| link.is_there(&root).unwrap()));
        assert_eq!(links(&root, "x.service"), []);
    }

    #[test]
    fn a_link_to_nothing_and_an_empty_file_mask_a_unit() {
        let (dir, root) = tree(&[("etc/systemd/system/a.service", ""), ("run/systemd/system/other", "")]);
        symlink("/dev/null", dir.path().join("run/systemd/system/b.service")).unwrap();
        assert_eq!(find(&root, "a.service", &Own::default()).unwrap(), Found::Masked { runtime: false });
        assert_eq!(masked(&root, "b.service").unwrap(), Some(Found::Masked { runtime: true }));
        assert_eq!(find(&root, "c.service", &Own::default()).unwrap(), Found::Missing);
    }

    #[test]
    fn what_a_role_writes_counts_before_it_is_on_disk() {
        let (_dir, root) = tree(&[("etc/systemd/system/a.service", "[Install]\nWantedBy=old.target\n")]);
        let own = Own { text: Some("[Install]\nWantedBy=new.target\n".into()), ..Own::default() };
        let Found::File(file) = find(&root, "a.service", &own).unwrap() else { panic!() };
        assert_eq!(file.links(&root).unwrap()[0].at, Path::new("/etc/systemd/system/new.target.wants/a.service"));
    }

    #[test]
    fn links_that_lead_in_a_circle_are_no_unit() {
        let (dir, root) = tree(&[("etc/systemd/system/other", "")]);
        symlink("b.service", dir.path().join("etc/systemd/system/a.service")).unwrap();
        symlink("a.service", dir.path().join("etc/systemd/system/b.service")).unwrap();
        assert_eq!(find(&root, "a.service", &Own::default()).unwrap(), Found::Missing);
    }

    #[test]
    fn a_good_unit_has_no_flaw() {
        let text = "# a comment\n\n[Unit]\nDescription=It's fine\n[Service]\nExecStart=/bin/x --a \\\n# why\n  'b c' \\\n\
                    \"d\"\nExecStop=/bin/y \\\"\n[X-Ours]\nA-b=c\n";
        assert_eq!(check(text), Ok(()));
    }

    #[test]
    fn a_flaw_is_reported_with_its_line() {
        let flaw = |text: &str| check(text).map_err(|flaw| (flaw.line, flaw.text, flaw.why)).unwrap_err();
        assert_eq!(
            flaw("[Service]\nExecStart=/bin/x 'a\n"),
            (2, "ExecStart=/bin/x 'a".to_owned(), "a quote is opened and never closed")
        );
        assert_eq!(flaw("ExecStart=/bin/x\n[Service]\n").2, "it is before any `[Section]`");
        assert_eq!(
            flaw("[Unit]\n\nrestart now\n"),
            (3, "restart now".to_owned(), "neither a `[Section]`, a `Key=value`, a comment nor a continued line")
        );
        assert_eq!(flaw("[Unit\nA=b\n").0, 1);
        assert_eq!(flaw("# nothing\n").2, "it has no `[Section]`");
    }
}
