//! `kpull pin`: adds upstream files to `artifacts.toml`, and keeps the rest of it as it is.

use toml_edit::{DocumentMut, InlineTable, Item, RawString, Table, TableLike, Value};

use crate::author::prelude::*;
use crate::author::supply::sums::Sums;
use crate::document::{Format, pins};
use crate::net::{self, Client, Conditions, Kind, Options};
use crate::read;

/// The file's name in a site.
pub const ARTIFACTS: &str = "artifacts.toml";

/// Names of architectures in file names, and their canonical names. A longer name comes before one that is part of it.
const ARCHES: [(&str, &str); 6] = [
    ("x86_64", "amd64"),
    ("x86-64", "amd64"),
    ("aarch64", "arm64"),
    ("amd64", "amd64"),
    ("arm64", "arm64"),
    ("x64", "amd64"),
];

/// Words in file names that name the platform.
const PLATFORM: [&str; 7] = ["linux", "musl", "gnu", "glibc", "unknown", "static", "pc"];

/// What can be derived from the address of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guess {
    /// The artifact's name.
    pub name: Option<String>,
    /// Its version, without a `v` before it.
    pub version: Option<String>,
    /// The architecture, as Go names it.
    pub arch: Option<String>,
}

impl Guess {
    /// Checks the file name first, then the directories above it.
    pub fn of(url: &str) -> Self {
        let path = url.split_once("://").map_or(url, |(_, rest)| rest.split_once('/').map_or("", |(_, path)| path));
        let mut names = path.split('/').rev();
        let mut guess = Self::of_name(names.next().unwrap_or_default());
        for above in names {
            let Self { version, arch, .. } = Self::of_name(above);
            // a directory name is a version only as a whole
            let version = version.filter(|version| above == version || above.strip_prefix('v') == Some(version));
            guess.version = guess.version.or(version);
            guess.arch = guess.arch.or(arch);
        }
        guess
    }

    fn of_name(file: &str) -> Self {
        let mut stem = Format::stem(file).to_owned();
        let mut arch = None;
        for (word, meant) in ARCHES {
            let Some(at) = stem.to_ascii_lowercase().find(word) else { continue };
            arch = Some(meant.to_owned());
            if let (Some(before), Some(behind)) = (stem.get(..at), stem.get(at + word.len()..)) {
                stem = format!("{before}\0{behind}");
            }
            break;
        }
        let words: Vec<&str> = stem.split(['-', '_']).collect();
        let (mut name, mut version) = (Vec::new(), None::<String>);
        let mut begun = false;
        for word in words {
            let is_platform = word.contains('\0') || PLATFORM.contains(&word.to_ascii_lowercase().as_str());
            match version_of(word) {
                _ if is_platform => begun = true,
                Some(found) if version.is_none() => {
                    (begun, version) = (true, Some(found.to_owned()));
                }
                _ if !begun => name.push(word),
                _ => match &mut version {
                    Some(version) if is_stage(word) => {
                        version.push('-');
                        version.push_str(word);
                    }
                    _ => {}
                },
            }
        }
        let name = name.join("-");
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+".contains(c));
        Self { name: is_name.then_some(name), version, arch }
    }
}

/// `1.2.3` of `v1.2.3` or `1.2.3`; requires at least one dot.
fn version_of(word: &str) -> Option<&str> {
    let digits = word.strip_prefix('v').unwrap_or(word);
    let plain = digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.contains('.')
        && digits.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '~'));
    plain.then_some(digits)
}

/// Whether a word after a version marks a pre-release.
fn is_stage(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    ["rc", "alpha", "beta", "pre"]
        .iter()
        .filter_map(|stage| word.strip_prefix(stage))
        .any(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

/// The maximum size of a checksum file in bytes.
const SUMS_MAX: u64 = 1 << 20;

/// The result of the comparison with the publisher's checksums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Those at this address match its digest.
    Agrees(String),
    /// No checksums were found. Why the first candidate could not be read, if so.
    Nowhere(Option<String>),
}

/// Compares a file from `url` with published checksums: those in `sums` (an address or a file), or the usual ones beside it. Exit code 4
/// if they differ; an error if `sums` lacks the file. With `alone`, no other file is pinned, so a digest alone in `sums` is that of
/// this file.
pub fn compare(options: &Options, url: &str, sha256: &str, sums: Option<&str>, alone: bool) -> Result<Checked> {
    let name = url.rsplit('/').next().unwrap_or(url);
    let places = sums.map_or_else(|| beside(url), |sums| vec![(sums.to_owned(), alone)]);
    let mut unread = None;
    for (place, is_own) in places {
        let found = match fetch(options, &place) {
            Ok(Some(text)) => Sums::parse(&text),
            Ok(None) if sums.is_some() => {
                return Err(error!(SUPPLY, "there is no {place}")
                    .help("`--sums` is the address or path of the publisher's checksums"));
            }
            Ok(None) => continue,
            // an address that can't be read counts as not published
            Err(why) if sums.is_none() => {
                unread.get_or_insert(why.to_string());
                continue;
            }
            Err(why) => return Err(why),
        };
        match found.of(name)?.or_else(|| found.only().filter(|_| is_own)) {
            Some(digest) => return agree(name, sha256, digest, place),
            None if sums.is_some() => {
                return Err(error!(SUPPLY, "{place} has no SHA-256 of {name}").help(
                    "use the checksums of this version; a file that contains only a digest works for one address only",
                ));
            }
            None => {}
        }
    }
    Ok(Checked::Nowhere(unread))
}

fn agree(name: &str, sha256: &str, published: &str, place: String) -> Result<Checked> {
    if sha256 == published {
        return Ok(Checked::Agrees(place));
    }
    Err(Error::refused(code::SUPPLY, format!("{name} is not the file that was published"))
        .because(format!("its SHA-256 is {sha256}, and {place} says {published}"))
        .help("nothing was written; try another mirror, and inform the publisher if that does not help"))
}

/// The usual addresses of checksums, and whether they are of this file alone.
fn beside(url: &str) -> Vec<(String, bool)> {
    let dir = url.rsplit_once('/').map_or(url, |(dir, _)| dir);
    let shared = ["SHA256SUMS", "SHA256SUMS.txt", "sha256sums.txt"].map(|name| (format!("{dir}/{name}"), false));
    [(format!("{url}.sha256"), true)].into_iter().chain(shared).collect()
}

/// A text at an address or path; `None` if there is none.
fn fetch(options: &Options, place: &str) -> Result<Option<String>> {
    let what = || format!("can't read {place}");
    let bytes = if place.starts_with("https://") || place.starts_with("http://") {
        net::parse(place)?;
        let reply = Client::new(options)?.get(place, &Conditions::default())?;
        if reply.kind == Kind::Missing {
            return Ok(None);
        }
        net::read_all(reply, SUMS_MAX).map_err(|error| error.exit(crate::Exit::Failed))?
    } else {
        match read::up_to(Path::new(place.strip_prefix("file://").unwrap_or(place)), SUMS_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(code::SUPPLY, what),
        }
    };
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// One file to pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPin {
    /// The artifact's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `amd64` or `arm64`.
    pub arch: String,
    /// Its addresses.
    pub urls: Vec<String>,
    /// Its SHA-256 in lower-case hex.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its format as in `artifacts.toml`, if it can't be derived from the address.
    pub format: Option<String>,
}

/// The result for one pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It is new.
    Added,
    /// It replaces the pin of this other version.
    Updated(String),
    /// It replaces this other digest of the same version.
    Replaced(String),
    /// The same file has one more address.
    MoreUrls,
    /// The size of the same file was not known.
    Size,
    /// It is already pinned like this.
    Nothing,
}

/// Adds `new` to the text of an `artifacts.toml`; returns the text and the result for each. With `replace`, a pin of the same version
/// can get another digest.
pub fn write(text: &str, new: &[NewPin], replace: bool) -> Result<(String, Vec<Done>)> {
    // kpull's own reader first, whose errors have a place
    Doc::parse(ARTIFACTS, text.as_bytes())?;
    check(text)?;
    let mut doc: DocumentMut = text.parse().context(code::SUPPLY, || format!("{ARTIFACTS} can't be read"))?;
    let mut done = vec![Done::Nothing; new.len()];
    let names: BTreeSet<&str> = new.iter().map(|pin| pin.name.as_str()).collect();
    for name in names {
        let (places, pins): (Vec<usize>, Vec<&NewPin>) =
            new.iter().enumerate().filter(|(_, pin)| pin.name == name).unzip();
        for (place, what) in places.into_iter().zip(put(&mut doc, name, &pins, replace)?) {
            done[place] = what;
        }
    }
    let text = doc.to_string();
    check(&text)?;
    Ok((text, done))
}

fn check(text: &str) -> Result<()> {
    let files: Files = [(ARTIFACTS.to_owned(), text.as_bytes().into())].into_iter().collect();
    pins(&files).map(drop)
}

/// Adds the pins of one artifact, which have one version and different architectures.
fn put(doc: &mut DocumentMut, name: &str, pins: &[&NewPin], replace: bool) -> Result<Vec<Done>> {
    let Some(version) = pins.first().map(|pin| pin.version.as_str()) else { return Ok(Vec::new()) };
    if let Some(other) = pins.iter().find(|pin| pin.version != version) {
        return Err(error!(SUPPLY, "{name} can't be of version {version} and {} at once", other.version).help(
            "all architectures of an artifact have one version: pass addresses of one version, or add --version",
        ));
    }
    if !doc.contains_key(name) {
        // after everything else, including trailing comments
        let before = doc.trailing().as_str().unwrap_or_default().to_owned();
        let gap = if doc.as_table().is_empty() && before.is_empty() { "" } else { "\n" };
        doc.set_trailing("");
        let mut table = Table::new();
        table.decor_mut().set_prefix(before + gap);
        doc.insert(name, Item::Table(table));
    }
    let item = doc.entry(name).or_insert_with(toml_edit::table);
    let artifact = item.as_table_like_mut().ok_or_else(|| error!(SUPPLY, "`{name}` in {ARTIFACTS} is not a table"))?;
    let arches: Vec<String> =
        artifact.iter().filter(|(_, item)| item.is_table_like()).map(|(key, _)| key.to_owned()).collect();
    let before = artifact.get("version").and_then(Item::as_str).filter(|old| *old != version).map(str::to_owned);
    if let Some(old) = &before
        && let Some(stale) = arches.iter().find(|arch| !pins.iter().any(|pin| pin.arch == **arch))
    {
        return Err(error!(SUPPLY, "{name} {old} is also pinned for {stale}, which would keep the old file")
            .help(format!("pin {version} for all architectures at once: kpull pin URL_AMD64 URL_ARM64")));
    }
    set(artifact, "version", version.into());
    // in the style of the other pins
    let inline = arches.iter().any(|arch| artifact.get(arch).is_some_and(Item::is_inline_table));
    pins.iter().map(|pin| put_one(artifact, pin, before.as_deref(), inline, replace)).collect()
}

fn put_one(
    artifact: &mut dyn TableLike,
    pin: &NewPin,
    before: Option<&str>,
    inline: bool,
    replace: bool,
) -> Result<Done> {
    let updated = before.map(|old| Done::Updated(old.to_owned()));
    let Some(present) = artifact.get_mut(&pin.arch).and_then(Item::as_table_like_mut) else {
        let item = if inline {
            Item::Value(Value::InlineTable(InlineTable::new()))
        } else {
            let mut table = Table::new();
            table.decor_mut().set_prefix("");
            Item::Table(table)
        };
        artifact.insert(&pin.arch, item);
        if let Some(fresh) = artifact.get_mut(&pin.arch).and_then(Item::as_table_like_mut) {
            fill(fresh, pin);
        }
        return Ok(updated.unwrap_or(Done::Added));
    };
    let old = present.get("sha256").and_then(Item::as_str).unwrap_or_default().to_owned();
    if updated.is_none() && old == pin.sha256 {
        let known = urls_of(present);
        let is_sized = present.get("size").is_some_and(Item::is_integer);
        if !is_sized {
            set_size(present, pin);
        }
        let more: Vec<&String> = pin.urls.iter().filter(|url| !known.contains(url)).collect();
        for url in &more {
            add_url(present, url);
        }
        return Ok(match (more.is_empty(), is_sized) {
            (false, _) => Done::MoreUrls,
            (true, false) => Done::Size,
            (true, true) => Done::Nothing,
        });
    }
    if updated.is_none() && !replace {
        return Err(error!(SUPPLY, "{} {} ({}) is pinned with another digest", pin.name, pin.version, pin.arch)
            .because(format!("{old} is pinned, and this file has {}", pin.sha256))
            .help(
                "publishers should not change a release: find out why this one did; --replace pins the new digest \
                 anyway",
            ));
    }
    fill(present, pin);
    Ok(updated.unwrap_or(Done::Replaced(old)))
}

/// Sets the fields of a pin in its table.
fn fill(table: &mut dyn TableLike, pin: &NewPin) {
    let mut urls = pin.urls.iter();
    if let Some(first) = urls.next() {
        set(table, "url", first.as_str().into());
    }
    table.remove("urls");
    if table.get("sha256").and_then(Item::as_str) != Some(&pin.sha256)
        && let Some(decor) = table.get_mut("sha256").and_then(Item::as_value_mut).map(Value::decor_mut)
        && decor.suffix().and_then(RawString::as_str).is_some_and(|suffix| suffix.contains('#'))
    {
        // a comment beside a digest belongs to the old one
        decor.set_suffix("");
    }
    set(table, "sha256", pin.sha256.as_str().into());
    set_size(table, pin);
    match &pin.format {
        Some(format) => set(table, "format", format.as_str().into()),
        None => drop(table.remove("format")),
    }
    for url in urls {
        add_url(table, url);
    }
}

fn set_size(table: &mut dyn TableLike, pin: &NewPin) {
    set(table, "size", i64::try_from(pin.size).unwrap_or(i64::MAX).into());
}

fn urls_of(table: &dyn TableLike) -> Vec<String> {
    let more = table.get("urls").and_then(Item::as_array).into_iter().flatten().filter_map(Value::as_str);
    table.get("url").and_then(Item::as_str).into_iter().chain(more).map(str::to_owned).collect()
}

fn add_url(table: &mut dyn TableLike, url: &str) {
    match table.get_mut("urls").and_then(Item::as_array_mut) {
        Some(urls) => urls.push(url),
        None => set(table, "urls", Value::Array([url].into_iter().collect())),
    }
}

/// Sets a value, and keeps comments and white space around the previous one.
fn set(table: &mut dyn TableLike, key: &str, mut value: Value) {
    match table.get_mut(key) {
        // however it is quoted
        Some(item) if item.is_str() && item.as_str() == value.as_str() => {}
        Some(item) => {
            if let Some(old) = item.as_value() {
                *value.decor_mut() = old.decor().clone();
            }
            *item = Item::Value(value);
        }
        None => drop(table.insert(key, Item::Value(value))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(url: &str) -> [Option<String>; 3] {
        let Guess { name, version, arch } = Guess::of(url);
        [name, version, arch]
    }

    #[test]
    fn the_name_of_a_file_contains_name_version_and_architecture() {
        for (url, name, version, arch) in [
            ("https://h/etcd/releases/download/v3.2.9/etcd-v3.2.9-linux-amd64.tar.gz", "etcd", "3.2.9", "amd64"),
            ("https://dl.k8s.io/v1.9.2/kubernetes-server-linux-arm64.tar.gz", "kubernetes-server", "1.9.2", "arm64"),
            ("https://get.docker.com/builds/Linux/x86_64/docker-1.13.1.tgz", "docker", "1.13.1", "amd64"),
            ("https://h/v1.9.2/bin/linux/amd64/kubectl", "kubectl", "1.9.2", "amd64"),
            ("https://h/cni-plugins-linux-amd64-v1.4.0.tgz", "cni-plugins", "1.4.0", "amd64"),
            ("https://h/cfssl_1.6.4_linux_amd64", "cfssl", "1.6.4", "amd64"),
            ("https://h/etcd-v3.4.0-rc.1-linux-arm64.tar.gz", "etcd", "3.4.0-rc.1", "arm64"),
            ("file:///srv/ripgrep-14.1.0-aarch64-unknown-linux-musl.tar.gz", "ripgrep", "14.1.0", "arm64"),
            ("https://h/Tool-2.0+git.1-Linux-X86_64.zip", "Tool", "2.0+git.1", "amd64"),
        ] {
            assert_eq!(guess(url), [Some(name.into()), Some(version.into()), Some(arch.into())], "{url}");
        }
    }

    #[test]
    fn what_the_name_lacks_is_not_made_up() {
        assert_eq!(guess("https://h/tool"), [Some("tool".into()), None, None]);
        assert_eq!(guess("https://h.v1.example/1/linux-amd64.tar.gz"), [None, None, Some("amd64".into())]);
        assert_eq!(guess("https://h/"), [None, None, None]);
        assert_eq!(guess("https://1.2.3.4/tool-arm64"), [Some("tool".into()), None, Some("arm64".into())]);
    }

    const OLD: &str = "\
# pinned by hand   <- keep

[etcd]           # from the CHANGELOG
version = '3.2.9' # the last of its line
[etcd.amd64]
sha256 = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\" # by mail
url    = \"https://h/etcd-v3.2.9-linux-amd64.tar.gz\"

[zeta]
version = \"1.0\"
amd64 = { url = \"https://h/z\", sha256 = \"cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc\" }
# the end
";

    fn pin(name: &str, version: &str, arch: &str, digit: char) -> NewPin {
        NewPin {
            name: name.into(),
            version: version.into(),
            arch: arch.into(),
            urls: vec![format!("https://h/{name}-v{version}-linux-{arch}.tar.gz")],
            sha256: digit.to_string().repeat(64),
            size: 7,
            format: None,
        }
    }

    fn wrote(new: &[NewPin], replace: bool) -> (String, Vec<Done>) {
        write(OLD, new, replace).unwrap()
    }

    #[test]
    fn what_is_pinned_already_changes_nothing() {
        let (sized, done) = wrote(&[pin("etcd", "3.2.9", "amd64", 'a')], false);
        let line = "url    = \"https://h/etcd-v3.2.9-linux-amd64.tar.gz\"\n";
        assert_eq!((&sized, done), (&OLD.replace(line, &format!("{line}size = 7\n")), vec![Done::Size]));
        let again = write(&sized, &[pin("etcd", "3.2.9", "amd64", 'a')], false).unwrap();
        assert_eq!(again, (sized, vec![Done::Nothing]));
    }

    #[test]
    fn another_address_of_the_same_file_is_added() {
        let mut mirror = pin("etcd", "3.2.9", "amd64", 'a');
        mirror.urls = vec!["https://m/etcd.tar.gz".into()];
        let (text, done) = wrote(&[mirror.clone()], false);
        assert_eq!(done, [Done::MoreUrls]);
        let line = "url    = \"https://h/etcd-v3.2.9-linux-amd64.tar.gz\"\n";
        assert_eq!(text, OLD.replace(line, &format!("{line}size = 7\nurls = [\"https://m/etcd.tar.gz\"]\n")));
        mirror.urls = vec!["https://n/etcd.tar.gz".into()];
        let (text, _) = write(&text, &[mirror], false).unwrap();
        assert!(text.contains("urls = [\"https://m/etcd.tar.gz\", \"https://n/etcd.tar.gz\"]\n"), "{text}");
    }

    #[test]
    fn another_digest_of_the_same_version_needs_to_be_asked_for() {
        let new = [pin("etcd", "3.2.9", "amd64", 'b')];
        let error = write(OLD, &new, false).unwrap_err();
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        assert_eq!(
            error.to_string(),
            format!("etcd 3.2.9 (amd64) is pinned with another digest: {a} is pinned, and this file has {b}")
        );
        let (text, done) = wrote(&new, true);
        assert_eq!(done, [Done::Replaced(a.clone())]);
        let line = "url    = \"https://h/etcd-v3.2.9-linux-amd64.tar.gz\"\n";
        let replaced = OLD.replace(&format!("{a}\" # by mail"), &format!("{b}\""));
        assert_eq!(text, replaced.replace(line, &format!("{line}size = 7\n")));
    }

    #[test]
    fn a_new_version_replaces_the_old_and_comments_stay_but_that_on_the_former_digest() {
        let (text, done) = wrote(&[pin("etcd", "3.3.0", "amd64", 'b')], false);
        assert_eq!(done, [Done::Updated("3.2.9".into())]);
        let expected = OLD
            .replace("'3.2.9'", "\"3.3.0\"")
            .replace(&format!("{}\" # by mail", "a".repeat(64)), &format!("{}\"", "b".repeat(64)))
            .replace("v3.2.9-linux-amd64.tar.gz\"\n", "v3.3.0-linux-amd64.tar.gz\"\nsize = 7\n");
        assert_eq!(text, expected);
    }

    #[test]
    fn no_architecture_is_left_with_an_old_version() {
        let (both, _) = wrote(&[pin("etcd", "3.2.9", "arm64", 'd')], false);
        let new = [pin("etcd", "3.3.0", "amd64", 'b'), pin("etcd", "3.3.0", "arm64", 'e')];
        let error = write(&both, &new[..1], true).unwrap_err();
        assert_eq!(error.to_string(), "etcd 3.2.9 is also pinned for arm64, which would keep the old file");
        let (text, done) = write(&both, &new, false).unwrap();
        assert_eq!(done, vec![Done::Updated("3.2.9".into()); 2]);
        assert!(!text.contains("3.2.9"), "{text}");
        let two = [pin("etcd", "3.3.0", "amd64", 'b'), pin("etcd", "3.4.0", "arm64", 'e')];
        let error = write(OLD, &two, false).unwrap_err();
        assert_eq!(error.to_string(), "etcd can't be of version 3.3.0 and 3.4.0 at once");
    }

    #[test]
    fn a_new_architecture_stands_behind_its_neighbour_and_is_written_like_it() {
        let (text, done) = wrote(&[pin("etcd", "3.2.9", "arm64", 'd'), pin("zeta", "1.0", "arm64", 'e')], false);
        assert_eq!(done, [Done::Added, Done::Added]);
        let (d, e) = ("d".repeat(64), "e".repeat(64));
        let table = format!(
            "[etcd.arm64]\nurl = \"https://h/etcd-v3.2.9-linux-arm64.tar.gz\"\nsha256 = \"{d}\"\nsize = 7\n\n[zeta]"
        );
        let inline = format!(
            "arm64 = {{ url = \"https://h/zeta-v1.0-linux-arm64.tar.gz\", sha256 = \"{e}\", size = 7 }}\n# the end"
        );
        assert_eq!(text, OLD.replace("\n[zeta]", &table).replace("# the end", &inline));
    }

    #[test]
    fn a_new_artifact_stands_at_the_end_and_an_empty_file_will_do() {
        let new = [pin("new", "1.0", "amd64", 'd')];
        let table = format!(
            "[new]\nversion = \"1.0\"\n[new.amd64]\nurl = \"https://h/new-v1.0-linux-amd64.tar.gz\"\n\
             sha256 = \"{}\"\nsize = 7\n",
            "d".repeat(64)
        );
        assert_eq!(write("", &new, false).unwrap().0, table);
        let (text, _) = wrote(&new, false);
        assert_eq!(text, format!("{OLD}\n{table}"));
        assert_eq!(write("# none yet\n", &new, false).unwrap().0, format!("# none yet\n\n{table}"));
    }

    #[test]
    fn a_broken_file_is_reported_with_its_place_and_not_changed() {
        let error = write("[etcd]\nverson = 1\n", &[pin("etcd", "1.0", "amd64", 'a')], false).unwrap_err();
        assert_eq!(error.place().unwrap().to_string(), "artifacts.toml:2:1");
    }
}
