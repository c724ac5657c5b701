//! `kpull check --artifacts`: whether every pin is still available, and contains the members that roles install.

use std::fs::File;

use crate::author::prelude::*;
use crate::author::supply::pin::ARTIFACTS;
use crate::document::{Artifact, Pin};
use crate::kind::artifact::Artifact as Installed;
use crate::net::download::{DownloadRequest, Progress, download, hash};
use crate::net::{self, Client, Conditions, Kind, Options};
use crate::resolve::resolve;
use crate::store::archive::Archive;
use crate::store::tree;

/// Options of the check.
#[derive(Debug, Default)]
pub struct Checking {
    /// How to connect.
    pub net: Options,
    /// Whether to download everything and compare the digests.
    pub download: bool,
    /// Directories that may have artifacts, named by digest.
    pub stores: Vec<PathBuf>,
    /// The members that roles install, by the digest of the artifact.
    pub members: BTreeMap<String, BTreeSet<String>>,
}

/// The result for one address.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The pin; its name is the artifact's.
    pub pin: &'a Pin,
    /// The architecture.
    pub arch: &'a str,
    /// The address.
    pub url: &'a str,
    /// Its place.
    pub place: Place,
    /// The size that the server reports, if any; or why it does not work.
    pub answer: Result<Option<u64>>,
}

/// The members of artifacts that roles install, by digest: for every host, on every architecture.
pub fn installed(site: &Arc<Site>, dir: Option<&Path>) -> BTreeMap<String, BTreeSet<String>> {
    let mut members: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, host) in &site.hosts {
        // other errors have been reported
        let Ok(facts) = Facts::recorded(dir, name, host.address) else { continue };
        for arch in ["amd64", "arm64"] {
            let facts = Facts { arch: arch.to_owned(), ..facts.clone() };
            // a host without pins for this architecture doesn't have it
            let Ok(catalog) = resolve(site, name, &facts, &SecretStore::encrypted()) else { continue };
            for item in &catalog.items {
                let Some(artifact) = item.as_kind::<Installed>() else { continue };
                let (pin, names) = artifact.members();
                members.entry(pin.sha256.clone()).or_default().extend(names.cloned());
            }
        }
    }
    members
}

/// Queries every address of every pin, and passes the results to `each`. Fails for pins without a working address, and for members that
/// their artifact lacks.
pub fn check(
    files: &Files,
    artifacts: &BTreeMap<String, Artifact>,
    checking: &Checking,
    progress: Progress<'_>,
    each: &mut dyn FnMut(&Asked<'_>),
) -> Result<()> {
    let Some(doc) = files.doc(ARTIFACTS)? else { return Ok(()) };
    let client = Client::new(&checking.net)?;
    let scratch = tempfile::tempdir().context(code::SUPPLY, || "can't create a temporary directory")?;
    let mut errors = Vec::new();
    for (name, artifact) in artifacts {
        for (arch, pin) in &artifact.pins {
            let mut local = stored(pin, checking)?;
            let mut works = false;
            for (index, url) in pin.urls.iter().enumerate() {
                let answer = if checking.download {
                    let part = scratch.path().join("file");
                    let wanted = DownloadRequest { name, sha256: Some(&pin.sha256), size: pin.size };
                    download(&checking.net, url, &part, &wanted, progress).and_then(|got| {
                        local =
                            local.take().or(Some(File::open(&part).context(code::SUPPLY, || "can't read a download")?));
                        // the open file stays readable; the next download begins with nothing
                        std::fs::remove_file(&part).context(code::SUPPLY, || "can't remove a download")?;
                        Ok(Some(got.size))
                    })
                } else {
                    ask(&client, url).and_then(|size| match (pin.size, size) {
                        (Some(pinned), Some(size)) if pinned != size => {
                            Err(error!(SUPPLY, "{url} has {size} bytes, but the pin has {pinned}"))
                        }
                        _ => Ok(size),
                    })
                };
                works |= answer.is_ok();
                each(&Asked { pin, arch, url, place: place_of(&doc, name, arch, index), answer });
            }
            let place = || doc.place(&[name.clone(), arch.clone()]);
            if !works {
                errors.push(
                    error!(SUPPLY, "{name} ({arch}) is not available from any of its addresses")
                        .at(place(), "no address of this pin works")
                        .help(
                            "add an address that works to `urls` with `kpull pin URL`, or serve the file from a mirror",
                        ),
                );
            }
            if let (Some(file), Some(members)) = (local, checking.members.get(&pin.sha256)) {
                let read = has(name, &file, pin, members);
                errors.extend(read.err().map(|error| error.at(place(), "the artifact of this member")));
            }
        }
    }
    Error::check(errors)
}

/// Checks that an artifact has these members, and that everything below names that end with `/` can be extracted.
fn has(name: &str, file: &File, pin: &Pin, members: &BTreeSet<String>) -> Result<()> {
    let (trees, files): (BTreeSet<_>, BTreeSet<_>) = members.iter().cloned().partition(|member| member.ends_with('/'));
    let archive = Archive::new(name, pin.format);
    if !files.is_empty() {
        archive.extract(file, &files, &mut |_, _| Ok(()))?;
    }
    if !trees.is_empty() {
        tree::list(&archive, file, &trees)?;
    }
    Ok(())
}

/// The place of the address with this position in [`Pin::urls`].
fn place_of(doc: &Doc, name: &str, arch: &str, index: usize) -> Place {
    let way =
        |last: &[&str]| -> Vec<String> { [name, arch].iter().chain(last).map(|part| (*part).to_owned()).collect() };
    let has_url = doc.value().get(name).and_then(|pins| pins.get(arch)?.get("url")).is_some();
    match index.checked_sub(usize::from(has_url)) {
        None => doc.place(&way(&["url"])),
        Some(index) => doc.place(&way(&["urls", &index.to_string()])),
    }
}

/// A local copy of the pinned file, if there is one.
fn stored(pin: &Pin, checking: &Checking) -> Result<Option<File>> {
    for store in &checking.stores {
        let path = store.join(&pin.sha256);
        let Ok(mut file) = File::open(&path) else { continue };
        if hash(&mut file).context(code::SUPPLY, || format!("can't read {}", path.display()))?.sha256 == pin.sha256 {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// The size that an address reports, if any; an error if nothing is there.
fn ask(client: &Client, url: &str) -> Result<Option<u64>> {
    if let Some(path) = url.strip_prefix("file://") {
        return std::fs::metadata(Path::new(path))
            .map(|meta| Some(meta.len()))
            .context(code::SUPPLY, || format!("can't read {path}"));
    }
    let reply = match client.head(&net::parse(url)?) {
        Ok(reply) => reply,
        // not every server accepts HEAD; the body of this request is not read
        Err(_) => client.get(url, &Conditions { from: Some(0), ..Conditions::default() })?,
    };
    match reply.kind {
        Kind::Ok | Kind::Partial => Ok(reply.length),
        _ => Err(error!(SUPPLY, "{url} does not exist")),
    }
}
