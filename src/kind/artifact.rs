//! `[[artifact]]`: members of a pinned upstream file, put where they belong.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result};
use crate::host::process;
use crate::host::root::failed_io;
use crate::kind::fields::{AbsolutePath, AccountName, Mode};
use crate::kind::file::Wanted;
use crate::kind::{Build, Change, Fields, Phase, Resource, Work};
use crate::site::Pin;
use crate::store::Progress;
use crate::store::archive::{self, Format, Limits};

/// Fields of `[[artifact]]`. Either `install`, or `members` with `into`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactFields {
    /// Its name in `artifacts.toml`.
    name: String,
    /// From the member's name in the archive to its place on the host. For a file that is no archive, any name.
    #[serde(default)]
    install: BTreeMap<String, AbsolutePath>,
    /// Members that are put into one directory under their own names.
    #[serde(default)]
    members: Vec<String>,
    /// The directory in the archive that `members` are in; its top when left out.
    from: Option<String>,
    /// The directory on the host that `members` are put into.
    into: Option<AbsolutePath>,
    /// Permissions; `0755` when left out.
    mode: Option<Mode>,
    /// The user that owns it; `root` when left out.
    owner: Option<AccountName>,
    /// The group that owns it; `root` when left out.
    group: Option<AccountName>,
    /// Arguments with which the new file is run, and has to exit with 0, before it replaces the old one: the first in
    /// `install`, by the member's name. It is not run when left out.
    self_test: Option<Vec<String>>,
}

/// How long a self-test may take.
const SELF_TEST: Duration = Duration::from_secs(60);

impl Fields for ArtifactFields {
    const NAME: &'static str = "artifact";

    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let install = match (&self.into, self.members.is_empty(), self.install.is_empty()) {
            (None, true, false) if self.from.is_none() => self.install,
            (Some(into), false, true) => {
                let place = |name: &String| {
                    let member = self.from.iter().chain([name]).cloned().collect::<Vec<_>>().join("/");
                    let path = AbsolutePath::try_from(format!("{into}/{name}"));
                    path.map(|path| (member, path)).map_err(|why| build.invalid("members", &why))
                };
                self.members.iter().map(place).collect::<Result<_>>()?
            }
            _ => return Err(build.invalid("name", "set `install`, or `members` with `into`")),
        };
        if self.self_test.as_ref().is_some_and(Vec::is_empty) {
            return Err(build.invalid("self_test", "name at least one argument"));
        }
        let pin = build.artifact(&self.name)?;
        let wanted = Wanted::with_default(0o755, self.mode, self.owner, self.group);
        Ok(vec![Box::new(Artifact { pin, install, wanted, self_test: self.self_test })])
    }
}

/// The resource.
#[derive(Debug)]
pub(crate) struct Artifact {
    pin: Pin,
    install: BTreeMap<String, AbsolutePath>,
    wanted: Wanted,
    self_test: Option<Vec<String>>,
}

impl Resource for Artifact {
    fn kind(&self) -> &'static str {
        ArtifactFields::NAME
    }

    fn key(&self) -> String {
        self.pin.name.clone()
    }

    fn phase(&self) -> Phase {
        Phase::Artifacts
    }

    fn claims(&self) -> Vec<String> {
        let paths = self.install.values().map(|path| format!("path:{path}"));
        paths.chain([format!("artifact:{}", self.pin.name)]).collect()
    }

    fn after(&self) -> Vec<String> {
        self.wanted.after()
    }

    fn prepare(&self, work: &Work<'_>, progress: Progress<'_>) -> Result<()> {
        let file = work.store.artifact(&self.pin, progress)?;
        let known = work.store.members(&self.pin)?;
        if self.install.keys().all(|member| known.contains_key(member)) {
            return Ok(());
        }
        // once through the whole archive, so that a damaged one is found before anything of it is installed
        let mut digests = BTreeMap::new();
        self.extract(file, &mut |member, content| {
            let mut hashing = Hashing { to: io::sink(), hasher: Sha256::new() };
            io::copy(content, &mut hashing).context(|| format!("can't read {member}"))?;
            digests.insert(member.to_owned(), hex::encode(hashing.hasher.finalize()));
            Ok(())
        })?;
        work.store.add_members(&self.pin, digests)
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let members = work.store.members(&self.pin)?;
        let mut parts = Vec::new();
        for (member, path) in &self.install {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some((meta, file)) = work.host.root.file(path)? else {
                parts.push(format!("install {name}"));
                continue;
            };
            let installed = work.store.digest_of(&work.host.root.outside(path), file)?;
            if members.get(member) != Some(&installed) {
                parts.push(format!("replace {name}"));
            }
            parts.extend(self.wanted.differences(work.host, &meta)?.into_iter().map(|part| format!("{name}: {part}")));
        }
        Ok(Change::of(parts))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        // the one that is tested comes first, so that a failure leaves all others as they are
        let tested = self.self_test.as_ref().and_then(|arguments| Some((self.install.keys().next()?, arguments)));
        if let Some((member, arguments)) = tested {
            self.install(work, &|name| name == member, &|path, new| self_test(path, new, arguments))?;
        }
        let rest = |name: &str| tested.is_none_or(|(member, _)| name != member);
        if tested.is_some() && self.install.len() == 1 {
            return Ok(());
        }
        self.install(work, &rest, &|_, _| Ok(()))
    }
}

/// Runs the new file that is to be at `path`.
fn self_test(path: &Path, new: &Path, arguments: &[String]) -> Result<()> {
    let what = format!("the new {} does not pass its self-test", path.display());
    let help = "the old file stays; pin another version, or look for what it needs on this host";
    let name = format!("./{}", new.file_name().unwrap_or_default().to_string_lossy());
    let argv: Vec<String> = [name].into_iter().chain(arguments.iter().cloned()).collect();
    let cwd = new.parent().unwrap_or(new);
    let output = process::run(&process::Command { cwd, ..process::Command::new(&argv, SELF_TEST) })
        .map_err(|error| Error::new(&what).because(error).help(help))?;
    if output.is_success() { Ok(()) } else { Err(output.failure(what).help(help)) }
}

impl Artifact {
    /// The pin, and the members that are installed.
    pub(crate) fn members(&self) -> (&Pin, impl Iterator<Item = &String>) {
        (&self.pin, self.install.keys())
    }

    /// Where its members are put.
    pub(crate) fn places(&self) -> impl Iterator<Item = &AbsolutePath> {
        self.install.values()
    }

    /// Puts the members that `which` names into their places; `check` looks at each before.
    fn install(
        &self,
        work: &Work<'_>,
        which: &dyn Fn(&str) -> bool,
        check: &dyn Fn(&Path, &Path) -> Result<()>,
    ) -> Result<()> {
        let file = work.store.artifact(&self.pin, &|_, _, _| {})?;
        self.extract(file, &mut |member, content| {
            let Some(path) = self.install.get(member).filter(|_| which(member)) else { return Ok(()) };
            let access = self.wanted.access(work.host, path)?;
            let fill = |to: &mut File| io::copy(content, to).map_err(|error| failed_io("write", path, error)).map(drop);
            work.host.root.write_checked(path, access, fill, |new| check(path, new))
        })
    }

    /// Hands each member that is to be installed to `sink`.
    fn extract(&self, file: File, sink: &mut dyn FnMut(&str, &mut dyn Read) -> Result<()>) -> Result<()> {
        let format = self.pin.urls.first().map_or(Format::Plain, |url| Format::of(url));
        let names: BTreeSet<String> = self.install.keys().cloned().collect();
        archive::extract(&self.pin.name, file, format, &names, &Limits::default(), &mut |member, content| sink(&member.name, content))
    }
}

/// Hashes what is written to something else.
struct Hashing<W> {
    to: W,
    hasher: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
