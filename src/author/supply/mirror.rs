//! `kpull mirror`: all artifacts of a site in a directory, by digest, for any web server.

use std::fs::File;

use serde::{Deserialize, Serialize};

use crate::author::prelude::*;
use crate::author::supply::publish::{lock, open};
use crate::document::layout::{self, ARTIFACTS};
use crate::document::{Artifact, Pin, is_sha256};
use crate::host::root::Root;
use crate::net::Options;
use crate::net::download::{DownloadRequest, LARGEST_PINNED, Progress, download_any, hash};

/// The name of the list, for people. Hosts don't read it.
pub const INDEX: &str = "index.json";

/// The contents of a mirror.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Index {
    /// The version of this format.
    pub version: u32,
    /// By name and architecture.
    pub artifacts: Vec<Entry>,
}

/// One artifact of a mirror.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the site.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `amd64` or `arm64`.
    pub arch: String,
    /// The publisher's name of the file.
    pub upstream: String,
    /// Its path in the mirror.
    pub file: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Options of a mirror.
#[derive(Clone, Debug, Default)]
pub struct Filling {
    /// The only architecture to mirror.
    pub arch: Option<String>,
    /// Addresses of other mirrors, tried first.
    pub from: Vec<String>,
    /// Whether to compare existing files with their digests.
    pub verify: bool,
    /// How to connect.
    pub net: Options,
}

/// The result for one artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was present.
    Kept,
    /// It was downloaded.
    Fetched,
    /// It replaced a file with other content.
    Corrected,
}

/// A mirror in a directory.
#[derive(Debug)]
pub struct Mirror {
    root: Root,
    dir: PathBuf,
    _lock: File,
}

impl Mirror {
    /// Opens the mirror in `dir`, and creates it if it is missing. Exit code 75 if another process is filling it.
    pub fn open(dir: &Path) -> Result<Self> {
        let (root, dir) = open(dir, &[ARTIFACTS])?;
        let _lock = lock(&root, &dir)?;
        Ok(Self { root, dir, _lock })
    }

    /// Downloads what is missing, writes the list, and passes every artifact to `each`. Unavailable artifacts don't prevent others from
    /// being downloaded: the error lists all of them.
    pub fn fill(
        &self,
        artifacts: &BTreeMap<String, Artifact>,
        filling: &Filling,
        progress: Progress<'_>,
        each: &mut dyn FnMut(&Entry, Done),
    ) -> Result<Index> {
        let sizes: BTreeMap<String, u64> =
            self.index().artifacts.into_iter().map(|entry| (entry.file, entry.size)).collect();
        let mut index = Index { version: 1, artifacts: Vec::new() };
        let mut errors = Vec::new();
        for (name, artifact) in artifacts {
            for (arch, pin) in &artifact.pins {
                let file = layout::artifact(&pin.sha256);
                let is_wanted = filling.arch.as_ref().is_none_or(|wanted| wanted == arch);
                let known = pin.size.or(sizes.get(&file).copied());
                let outcome = if is_wanted {
                    self.ensure(pin, known, filling, progress).map(Some)
                } else {
                    // other architectures that were mirrored before stay in the list
                    self.root.file(&self.dir.join(&file)).map(|found| found.map(|(meta, _)| (meta.size, Done::Kept)))
                };
                match outcome {
                    Ok(Some((size, done))) => {
                        let upstream = pin.urls.first().and_then(|url| url.rsplit('/').next()).unwrap_or_default();
                        let (version, upstream) = (artifact.version.clone(), upstream.to_owned());
                        let entry = Entry { name: name.clone(), version, arch: arch.clone(), upstream, file, size };
                        if is_wanted {
                            each(&entry, done);
                        }
                        index.artifacts.push(entry);
                    }
                    Ok(None) => {}
                    Err(error) => errors.push(error),
                }
            }
        }
        let text = serde_json::to_string_pretty(&index).context(code::SUPPLY, || format!("can't write {INDEX}"))?;
        self.root.write_lasting(&self.dir.join(INDEX), format!("{text}\n").as_bytes(), 0o644)?;
        Error::check(errors)?;
        Ok(index)
    }

    /// The last list; empty if it can't be read, which only means that more files are read.
    fn index(&self) -> Index {
        let text = self.root.read(&self.dir.join(INDEX)).ok().flatten().map(|(_, text)| text).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Ensures that the file of a pin is present; returns its size.
    fn ensure(&self, pin: &Pin, known: Option<u64>, filling: &Filling, progress: Progress<'_>) -> Result<(u64, Done)> {
        let path = self.dir.join(layout::artifact(&pin.sha256));
        let what = || format!("can't read {}", path.display());
        let mut done = Done::Fetched;
        if let Some((meta, mut file)) = self.root.file(&path)? {
            let is_read = filling.verify || known.is_none();
            // a file above the maximum size is not read
            let good = meta.size <= pin.size.unwrap_or(LARGEST_PINNED)
                && known.is_none_or(|known| known == meta.size)
                && (!is_read || hash(&mut file).context(code::SUPPLY, what)?.sha256 == pin.sha256);
            if good {
                return Ok((meta.size, Done::Kept));
            }
            self.root.remove(&path)?;
            done = Done::Corrected;
        }
        let part = path.with_extension("part");
        let wanted = DownloadRequest { name: &pin.name, sha256: Some(&pin.sha256), size: pin.size };
        let others = filling.from.iter().map(|mirror| layout::artifact_in(mirror, &pin.sha256));
        let urls: Vec<String> = others.chain(pin.urls.iter().cloned()).collect();
        let got = download_any(&filling.net, &urls, &part, &wanted, progress, &mut |_| {}, &mut |_, _| {})
            .map_err(|error| error.help("run again to resume; --from uses another mirror"))?;
        self.root.publish(&part, &path, 0o644)?;
        Ok((got.size, done))
    }

    /// Removes files that no pin names; returns their number.
    pub fn prune(&self, artifacts: &BTreeMap<String, Artifact>) -> Result<usize> {
        let pinned: BTreeSet<&str> =
            artifacts.values().flat_map(|artifact| artifact.pins.values()).map(|pin| pin.sha256.as_str()).collect();
        let dir = self.dir.join(ARTIFACTS);
        let mut removed = 0;
        for name in self.root.names(&dir)? {
            // files that are not named like artifacts are not part of the mirror
            let digest = name.split('.').next().unwrap_or_default();
            if is_sha256(digest) && !pinned.contains(digest) {
                self.root.remove(&dir.join(&name))?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Format;
    use crate::trust::Listed;

    /// One artifact for each of these contents, published below `dir`.
    fn artifacts(dir: &Path, contents: &[&str], with_sizes: bool) -> BTreeMap<String, Artifact> {
        let artifact = |content: &&str| {
            let path = dir.join(content);
            std::fs::write(&path, content).unwrap();
            let Listed { sha256, size } = Listed::of(content.as_bytes());
            let urls = vec![format!("file://{}", path.display())];
            let pin = Pin {
                name: (*content).to_owned(),
                version: "1".to_owned(),
                urls,
                sha256,
                size: with_sizes.then_some(size),
                format: Format::Plain,
            };
            let pins = [("amd64".to_owned(), pin)].into_iter().collect();
            ((*content).to_owned(), Artifact { version: "1".into(), pins })
        };
        contents.iter().map(artifact).collect()
    }

    fn fill(mirror: &Mirror, artifacts: &BTreeMap<String, Artifact>, filling: &Filling) -> Result<Vec<Done>> {
        let mut all = Vec::new();
        mirror.fill(artifacts, filling, &|_, _, _| {}, &mut |_, done| all.push(done))?;
        Ok(all)
    }

    #[test]
    fn what_is_there_is_kept_and_what_is_damaged_is_corrected() {
        let (upstream, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mirror = Mirror::open(dir.path()).unwrap();
        let pinned = artifacts(upstream.path(), &["one"], false);
        let plain = Filling::default();
        assert_eq!(fill(&mirror, &pinned, &plain).unwrap(), [Done::Fetched]);
        assert_eq!(fill(&mirror, &pinned, &plain).unwrap(), [Done::Kept]);
        let file = dir.path().join(layout::artifact(&Listed::of(b"one").sha256));
        std::fs::write(&file, "on").unwrap();
        assert_eq!(fill(&mirror, &pinned, &plain).unwrap(), [Done::Corrected], "the list has its size");
        std::fs::write(&file, "two").unwrap();
        assert_eq!(fill(&mirror, &pinned, &plain).unwrap(), [Done::Kept], "it has the right size");
        assert_eq!(fill(&mirror, &pinned, &Filling { verify: true, ..plain }).unwrap(), [Done::Corrected]);
        assert_eq!(std::fs::read(file).unwrap(), b"one");
    }

    #[test]
    fn one_that_cannot_be_had_does_not_keep_the_others_away() {
        let (upstream, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mirror = Mirror::open(dir.path()).unwrap();
        let pinned = artifacts(upstream.path(), &["a", "b", "c"], true);
        std::fs::write(upstream.path().join("a"), "evil").unwrap();
        std::fs::remove_file(upstream.path().join("b")).unwrap();
        let error = fill(&mirror, &pinned, &Filling::default()).unwrap_err();
        assert_eq!(error.others().len(), 1);
        let names: Vec<String> = mirror.index().artifacts.into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["c"]);
        assert_eq!(std::fs::read_dir(dir.path().join(ARTIFACTS)).unwrap().count(), 2, "c, and an empty part of b");
    }

    #[test]
    fn another_mirror_serves_the_file_if_the_publisher_is_missing() {
        let (upstream, one, two) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let pinned = artifacts(upstream.path(), &["a"], true);
        fill(&Mirror::open(one.path()).unwrap(), &pinned, &Filling::default()).unwrap();
        drop(upstream);
        let from = vec![format!("file://{}", one.path().display())];
        let filling = Filling { from, ..Filling::default() };
        assert_eq!(fill(&Mirror::open(two.path()).unwrap(), &pinned, &filling).unwrap(), [Done::Fetched]);
    }

    #[test]
    fn pruning_takes_what_no_pin_names_and_nothing_of_anybody_else() {
        let (upstream, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mirror = Mirror::open(dir.path()).unwrap();
        let mut pinned = artifacts(upstream.path(), &["a", "b"], true);
        fill(&mirror, &pinned, &Filling::default()).unwrap();
        std::fs::write(dir.path().join("sha256/README"), "mine").unwrap();
        std::fs::write(dir.path().join(format!("sha256/{}.part", "0".repeat(64))), "cut").unwrap();
        pinned.remove("b");
        assert_eq!(mirror.prune(&pinned).unwrap(), 2);
        assert_eq!(std::fs::read_dir(dir.path().join("sha256")).unwrap().count(), 2);
    }
}
