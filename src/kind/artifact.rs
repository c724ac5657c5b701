//! `[[artifact]]`: members of a pinned upstream file, installed on the host.

pub(super) mod tree;

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::document::Pin;
use crate::host::process;
use crate::kind::artifact::tree::{Trees, installed, is_safe};
use crate::kind::prelude::*;
use crate::kind::tree::Exclusive;
use crate::store::tree::prefix_problem;
use crate::store::{OPEN_FILES, Progress, Unpacked};

/// Fields of `[[artifact]]`. Either `install`, or `members` with `into`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArtifactFields {
    /// Its name in `artifacts.toml`.
    name: String,
    /// Maps names of members in the archive to paths on the host. For a file that is not an archive, any name. A name that ends with `/` is
    /// a directory in the archive: everything below it is extracted into the directory on the host; `/` is the whole archive.
    #[serde(default)]
    install: BTreeMap<String, AbsolutePath>,
    /// Members to extract into one directory under their own names.
    #[serde(default)]
    members: Vec<String>,
    /// The directory in the archive that contains `members`. Default: the top of the archive.
    from: Option<String>,
    /// The directory on the host to extract `members` to.
    into: Option<AbsolutePath>,
    /// The mode. In an extracted directory, this is the mode of programs; other files get it without execute permission. Default: `0755`.
    mode: Option<Mode>,
    /// The user that owns it. Default: `root`.
    owner: Option<AccountName>,
    /// The group that owns it. Default: `root`.
    group: Option<AccountName>,
    /// Whether to remove everything else in the extracted directories, except for what other resources manage. Default: false.
    #[serde(default)]
    exclusive: bool,
    /// Arguments for a test run of the new file, which must exit with 0 before it replaces the old one. If there are several files, the
    /// first in `install` by member name. Default: no test run.
    self_test: Option<Vec<String>>,
}

/// How long a self-test may take.
const SELF_TEST: Duration = Duration::from_secs(60);

impl Fields for ArtifactFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let install = match (&self.into, self.members.is_empty(), self.install.is_empty()) {
            (None, true, false) if self.from.is_none() => self.install,
            (Some(into), false, true) => {
                let place = |name: &String| {
                    let member = self.from.iter().chain([name]).cloned().collect::<Vec<_>>().join("/");
                    let path = AbsolutePath::try_from(format!("{into}/{}", name.strip_suffix('/').unwrap_or(name)));
                    path.map(|path| (member, path)).map_err(|why| build.invalid("members", &why))
                };
                self.members.iter().map(place).collect::<Result<_>>()?
            }
            _ => return Err(build.invalid("name", "set `install`, or `members` with `into`")),
        };
        let field = if self.members.is_empty() { "install" } else { "members" };
        let (trees, install): (BTreeMap<_, _>, BTreeMap<_, _>) =
            install.into_iter().partition(|(name, _)| name.ends_with('/'));
        if let Some((prefix, why)) = trees.keys().find_map(|prefix| Some((prefix, prefix_problem(prefix)?))) {
            return Err(build.invalid(field, &format!("`{prefix}`: {why}")));
        }
        let is_nested = |into: &AbsolutePath| trees.values().any(|other| other != into && into.starts_with(&**other));
        if let Some(into) = trees.values().find(|into| is_nested(into)) {
            let why = format!("`{into}` is inside another directory that this artifact is extracted to");
            return Err(build.invalid(field, &why));
        }
        let why = "it names no program: name it first, and list the same program in `install`";
        build.refuse_if(self.self_test.is_some() && install.is_empty(), "self_test", why)?;
        let why = "name at least one argument";
        build.refuse_if(self.self_test.as_ref().is_some_and(Vec::is_empty), "self_test", why)?;
        let pin = build.artifact(&self.name)?;
        let has_members = install.len() > 1 || !trees.is_empty();
        let why = "according to its name, the artifact is a single file; to change this, set `format` in its pin";
        build.refuse_if(!pin.format.is_archive() && has_members, field, why)?;
        let why = "only a directory of an archive can be exclusive: its name ends with `/`";
        build.refuse_if(self.exclusive && trees.is_empty(), "exclusive", why)?;
        let mut resources: Vec<Box<dyn Resource>> = Vec::new();
        for path in trees.values().filter(|_| self.exclusive) {
            resources.push(Box::new(Exclusive::new(path, BTreeSet::new(), build)?));
        }
        let wanted = Ownership::new(0o755, self.mode, self.owner, self.group);
        let trees = Trees::new(trees, &wanted);
        let staged = Mutex::default();
        resources.insert(0, Box::new(Artifact { pin, install, trees, wanted, self_test: self.self_test, staged }));
        Ok(resources)
    }
}

/// Members, and where they are installed.
type Places<'a> = BTreeMap<&'a String, &'a AbsolutePath>;

/// The resource.
#[derive(Debug)]
pub(crate) struct Artifact {
    /// The pinned file.
    pub(crate) pin: Pin,
    /// The paths of its members, by their names.
    pub(crate) install: BTreeMap<String, AbsolutePath>,
    /// The directories of it.
    pub(crate) trees: Trees,
    wanted: Ownership,
    self_test: Option<Vec<String>>,
    /// Extracted members that are not in their places yet.
    staged: Mutex<Unpacked>,
}

impl Resource for Artifact {
    fn about(&self) -> About {
        let paths = self.install.values().chain(self.trees.directories()).map(Claim::path);
        let about = About::new(ArtifactFields::NAME, &self.pin.name, Phase::Artifacts).claiming(paths);
        About { after: self.wanted.after(), ..about }
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        let Some(trees) = self.trees.watched_inputs(&self.pin, work)? else { return Ok(None) };
        Ok(Some(self.install.values().map(|path| WatchedInput::Path(path.to_path_buf())).chain(trees).collect()))
    }

    fn content(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Owned(format!("sha256 {}\n", self.pin.sha256).into_bytes()))
    }

    fn prepare(&self, work: &Work<'_>, progress: Progress<'_>) -> Result<()> {
        self.trees.prepare(&self.pin, work, progress)?;
        let known = work.store.members(&self.pin)?;
        let wanted = match self.install.keys().all(|member| known.contains_key(member)) {
            true => self.stale(work, &known)?,
            // their digests are not known yet
            false => self.install.iter().collect(),
        };
        if wanted.is_empty() {
            return Ok(());
        }
        let keep = wanted.len() <= work.store.may_stage.get();
        let extracted = self.unpack(work, &wanted, keep, progress)?;
        work.store
            .add_members(&self.pin, extracted.iter().map(|(name, member)| (name.clone(), member.sha256.clone())))?;
        if keep {
            work.store.may_stage.update(|left| left - wanted.len());
            *self.staged() = extracted;
        }
        Ok(())
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let members = work.store.members(&self.pin)?;
        let (mut parts, mut is_new) = (Vec::new(), true);
        for (member, path) in &self.install {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            match installed(work, path)? {
                None => {
                    self.wanted.check(work, path)?;
                    parts.push(format!("install {name}"));
                }
                Some((meta, installed)) => {
                    is_new = false;
                    parts.extend((members.get(member) != Some(&installed)).then(|| format!("replace {name}")));
                    let differences = self.wanted.differences(work, path, &meta)?;
                    parts.extend(differences.into_iter().map(|part| format!("{name}: {part}")));
                }
            }
        }
        let (more, has_none) = self.trees.observe(&self.pin, work)?;
        parts.extend(more);
        is_new &= has_none;
        Ok(Change::of(parts).map(|change| change.added_if(is_new)))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let mut staged = std::mem::take(&mut *self.staged());
        let stale = self.stale(work, &work.store.members(&self.pin)?)?;
        // the tested member comes first, so that a failure leaves the others unchanged
        let tested = self.self_test.as_ref().and_then(|arguments| Some((self.install.keys().next()?, arguments)));
        let waiting: Vec<_> = stale.iter().map(|(member, path)| (*member, *path)).collect();
        for members in waiting.chunks(OPEN_FILES) {
            let missing: BTreeMap<_, _> =
                members.iter().copied().filter(|(member, _)| !staged.contains_key(*member)).collect();
            if !missing.is_empty() {
                staged.extend(self.unpack(work, &missing, true, &|_, _, _| {})?);
            }
            for (member, path) in members {
                let Some(file) = staged.remove(*member).and_then(|extracted| extracted.file) else { continue };
                let access = self.wanted.access(work, path)?;
                work.host.root.place(path, file, access, &|new| match tested {
                    Some((name, arguments)) if name == *member => self_test(path, new, arguments),
                    _ => Ok(()),
                })?;
            }
        }
        for (_, path) in self.install.iter().filter(|(member, _)| !stale.contains_key(member)) {
            let Some(meta) = work.host.root.meta(path)? else { continue };
            if !self.wanted.differences(work, path, &meta)?.is_empty() {
                work.host.root.set_access(path, self.wanted.access(work, path)?)?;
            }
        }
        self.trees.apply(&self.pin, work)
    }

    fn owned(&self, work: &Work<'_>) -> Result<Vec<Claim>> {
        let trees = self.trees.paths(&self.pin, work)?;
        Ok(self.install.values().map(Claim::path).chain(trees).collect())
    }
}

/// Runs the new file for `path`.
fn self_test(path: &Path, new: &Path, arguments: &[String]) -> Result<()> {
    let what = format!("the new {} does not pass its self-test", path.display());
    let help = "the old file stays; pin another version, or find out what the program needs on this host";
    let name = format!("./{}", new.file_name().unwrap_or_default().to_string_lossy());
    let argv: Vec<String> = [name].into_iter().chain(arguments.iter().cloned()).collect();
    let cwd = new.parent().unwrap_or(new).to_owned();
    let output = process::run(&process::Command { cwd, ..process::Command::new(&argv, SELF_TEST) })
        .map_err(|error| Error::new(code::ARTIFACT, &what).because(error).help(help))?;
    output.or_failure(what).map(drop).map_err(|error| error.help(help))
}

impl Artifact {
    /// The pin and the installed members; directories end with `/`.
    pub(crate) fn members(&self) -> (&Pin, impl Iterator<Item = &String>) {
        (&self.pin, self.install.keys().chain(self.trees.into.keys()))
    }

    fn staged(&self) -> MutexGuard<'_, Unpacked> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The members that are missing or differ from their `known` digests. A file that others can have open for writing
    /// counts as missing.
    fn stale(&self, work: &Work<'_>, known: &BTreeMap<String, String>) -> Result<Places<'_>> {
        let mut stale = BTreeMap::new();
        for (member, path) in &self.install {
            let stays = match installed(work, path)? {
                Some((meta, digest)) => known.get(member) == Some(&digest) && is_safe(work, &meta, &self.wanted)?,
                None => false,
            };
            if !stays {
                stale.insert(member, path);
            }
        }
        Ok(stale)
    }

    /// Extracts `members`, into files beside their places if `keep`.
    fn unpack(&self, work: &Work<'_>, members: &Places<'_>, keep: bool, progress: Progress<'_>) -> Result<Unpacked> {
        let file = |path: &Path| match work.host.root.nameless(path)? {
            Some(file) => Ok(file),
            None => work.store.blank(),
        };
        let staged = |(member, path): (&&String, &&AbsolutePath)| {
            Ok(((*member).clone(), if keep { Some(file(path)?) } else { None }))
        };
        let blank = || members.iter().map(staged).collect();
        work.store.unpack(&self.pin, &blank, progress)
    }
}

#[cfg(test)]
mod tests {
    use crate::kind::testing::refusal;

    #[test]
    fn what_is_extracted_has_one_name_and_a_place_of_its_own() {
        for (fields, why) in [
            ("install = { 'a/../' = '/x' }", "`install`: `a/../`: write a directory of an archive like"),
            ("members = ['../a/']\ninto = '/x'", "`members`: `/x/../a` must be written without"),
            (
                "install = { '/' = '/x', 'a/' = '/x/y' }",
                "`install`: `/x/y` is inside another directory that this artifact is extracted to",
            ),
            ("install = { 'a/' = '/x' }\nself_test = ['-v']", "`self_test`: it names no program"),
            ("install = { 'a/' = '/x/' }", "`/x/` must be written without"),
            ("install = { 'a/' = '/x' }", "the artifact `n` is not pinned"),
        ] {
            let refusal = refusal("artifact", &format!("name = 'n'\n{fields}"));
            assert!(refusal.contains(why), "{refusal} does not say {why}");
        }
    }
}
