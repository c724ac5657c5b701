//! The files of a site, by path, in memory.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::document::Doc;
use crate::error::{Context, Error, Result, code, error};
use crate::read;

/// The files and directories of a site. Everything else in its repository (a README, CI configuration) is neither signed nor read.
pub const PARTS: &[&str] = &["site.toml", "artifacts.toml", "roles", "host_vars", "keys", "pki", "secrets"];

/// The files of a site, by path with `/` between names.
#[derive(Clone, Debug, Default)]
pub struct Files(BTreeMap<String, Arc<[u8]>>);

impl Files {
    /// Reads the site in a directory, signed or not, for whoever edits it. A host reads a `Release`.
    pub fn in_directory(dir: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        for part in PARTS {
            let path = dir.join(part);
            let Ok(meta) = path.symlink_metadata() else { continue };
            collect(&path, &meta, part, &mut files)?;
        }
        Ok(Self(files))
    }

    /// Whether every host of a site reads the file at `path`: the structure of the site, without contents.
    pub fn is_for_all(path: &str) -> bool {
        match path.split('/').collect::<Vec<_>>()[..] {
            ["site.toml" | "artifacts.toml"] | ["host_vars" | "pki", _] | ["secrets", "recipients.toml"] => true,
            ["roles", _, name] => name == "role.toml",
            _ => false,
        }
    }

    /// Adds files.
    pub fn extend(&mut self, more: impl IntoIterator<Item = (String, Arc<[u8]>)>) {
        self.0.extend(more);
    }

    /// The content at `path`.
    pub fn get(&self, path: &str) -> Option<&Arc<[u8]>> {
        self.0.get(path)
    }

    /// The TOML file at `path`; `None` if there is none.
    pub fn doc(&self, path: &str) -> Result<Option<Doc>> {
        self.get(path).map(|bytes| Doc::parse(path, bytes)).transpose()
    }

    /// All paths with their contents, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<[u8]>)> {
        self.0.iter().map(|(path, content)| (path.as_str(), content))
    }

    /// The names just below the directory `dir`, sorted.
    pub fn children(&self, dir: &str) -> Vec<String> {
        let prefix = format!("{dir}/");
        let mut names: Vec<String> = self
            .0
            .range(prefix.clone()..)
            .map_while(|(path, _)| path.strip_prefix(&prefix))
            .map(|rest| rest.split('/').next().unwrap_or(rest).to_owned())
            .collect();
        names.dedup();
        names
    }
}

impl FromIterator<(String, Arc<[u8]>)> for Files {
    fn from_iter<I: IntoIterator<Item = (String, Arc<[u8]>)>>(files: I) -> Self {
        Self(files.into_iter().collect())
    }
}

/// Whether a path is in the directory of a version control system. Files there can make git run programs, and are in no diff.
pub fn is_version_controls(path: &str) -> bool {
    path.split('/').any(|name| [".git", ".hg"].iter().any(|control| name.eq_ignore_ascii_case(control)))
}

/// The bytes of a file of the site in `dir`; `None` if there is none. Refuses links and special files, so that an untrusted site can't
/// lead to other files of the reader, or to endless ones.
pub fn read_if_there(dir: &Path, path: &str) -> Result<Option<Vec<u8>>> {
    let mut at = dir.to_owned();
    let mut names = path.split('/').peekable();
    while let Some(name) = names.next() {
        at.push(name);
        match at.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(code::SITE, || format!("can't read {}", at.display())),
            Ok(meta) if meta.is_dir() && names.peek().is_some() => {}
            Ok(meta) if meta.is_file() && names.peek().is_none() => return content(&at).map(Some),
            Ok(_) => return Err(no_part(&at)),
        }
    }
    Ok(None)
}

fn content(path: &Path) -> Result<Vec<u8>> {
    read::up_to(path, read::MOST).context(code::SITE, || format!("can't read {}", path.display()))
}

/// The error for something other than a file or directory.
fn no_part(path: &Path) -> Error {
    error!(SITE, "{} is neither a file nor a directory", path.display())
        .help("a site can't contain links: copy the file itself")
}

/// Writes files of a site, readable for everyone, with their parent directories. Each is written to a temporary file first, so that a
/// failure (no space, no permission) leaves all files unchanged.
pub fn replace(files: &[(PathBuf, Vec<u8>)]) -> Result<()> {
    let mut written = Vec::with_capacity(files.len());
    for (path, content) in files {
        let dir = path.parent().unwrap_or(Path::new("."));
        let what = || format!("can't write {}", path.display());
        std::fs::create_dir_all(dir).context(code::SITE, what)?;
        let mut file = tempfile::NamedTempFile::new_in(dir).context(code::SITE, what)?;
        file.write_all(content).context(code::SITE, what)?;
        file.as_file()
            .set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .context(code::SITE, what)?;
        file.as_file().sync_all().context(code::SITE, what)?;
        written.push((file, path));
    }
    for (file, path) in written {
        let what = || format!("can't write {}", path.display());
        file.persist(path).context(code::SITE, what)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(dir).and_then(|dir| dir.sync_all()).context(code::SITE, what)?;
    }
    Ok(())
}

fn collect(path: &Path, meta: &std::fs::Metadata, name: &str, files: &mut BTreeMap<String, Arc<[u8]>>) -> Result<()> {
    let what = || format!("can't read {}", path.display());
    if meta.is_file() {
        files.insert(name.to_owned(), content(path)?.into());
    } else if meta.is_dir() {
        for entry in std::fs::read_dir(path).context(code::SITE, what)? {
            let entry = entry.context(code::SITE, what)?;
            let child = entry.file_name().into_string().map_err(|name| {
                error!(SITE, "{} has a name that is not UTF-8: {}", path.display(), name.to_string_lossy())
            })?;
            collect(&entry.path(), &entry.metadata().context(code::SITE, what)?, &format!("{name}/{child}"), files)?;
        }
    } else {
        return Err(no_part(path));
    }
    Ok(())
}
