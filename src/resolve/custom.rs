//! Custom facts of a host: files in `/etc/kpull/facts.d`, and the output of programs there.
//!
//! A program runs as the user of the unprivileged process, so that a mistake in it can't change the host. Only root may write what
//! is there, because the values decide what root does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::document::Doc;
use crate::error::{Error, Result, error};
use crate::host::process::{self, Command, Identity};
use crate::host::root::{FileType, Meta};
use crate::host::{Host, writable};
use crate::sandbox;
use crate::site::is_plain_name;

/// Where they are.
const DIR: &str = "/etc/kpull/facts.d";
/// The time that a program has.
const LIMIT: Duration = Duration::from_secs(10);
/// The largest file or output, in bytes: less than what is kept of a program's output.
const LARGEST: usize = 60 * 1024;
/// How deep lists and tables nest.
const DEEPEST: usize = 16;

/// The custom facts of a host, and what is wrong with those that can't be read.
#[derive(Clone, Debug, Default)]
pub struct Custom {
    /// Values by name.
    pub values: Map<String, Value>,
    /// Errors by name.
    pub failed: BTreeMap<String, Error>,
}

/// What decides the custom facts, by path outside the root: the directory and its files.
pub fn paths(host: &Host) -> Vec<PathBuf> {
    let names = host.root.names(Path::new(DIR)).unwrap_or_default();
    let files = names.iter().map(|name| host.root.outside(&Path::new(DIR).join(name)));
    std::iter::once(host.root.outside(Path::new(DIR))).chain(files).collect()
}

impl Custom {
    /// Reads the custom facts of a machine or a tree. Programs run only on the machine.
    pub fn read(host: &Host) -> Result<Self> {
        let mut names = host.root.names(Path::new(DIR))?;
        names.sort();
        let mut custom = Self::default();
        for file in names.iter().filter(|file| !file.starts_with('.')) {
            let name = file.split_once('.').map_or(file.as_str(), |(name, _)| name).to_owned();
            match read(host, file, &name) {
                Ok(None) => {}
                Ok(Some(value)) => {
                    if custom.values.insert(name.clone(), value).is_some() {
                        custom.values.remove(&name);
                        let error = error!(FACTS, "two files in {DIR} define the custom fact `{name}`");
                        custom.failed.insert(name, error.help(format!("remove one of them: `ls {DIR}`")));
                    }
                }
                Err(error) => drop(custom.failed.insert(name, error)),
            }
        }
        Ok(custom)
    }
}

/// The value of one file; `None` for a program of a tree.
fn read(host: &Host, file: &str, name: &str) -> Result<Option<Value>> {
    let path = Path::new(DIR).join(file);
    let wrong = |why: &str, help: String| {
        Err(error!(FACTS, "the custom fact {} can't be read", path.display()).because(why).help(help))
    };
    if !is_plain_name(name) {
        return wrong("its name can contain only letters, digits, `_` and `-`", format!("rename it: `ls {DIR}`"));
    }
    let Some(meta) = host.root.meta(&path)? else { return Ok(None) };
    if meta.what != FileType::File {
        return wrong("it is not a regular file", format!("copy the file itself to {}", path.display()));
    }
    writable::check(&host.root.outside(&path), host.root.dir())?;
    let value = match file.rsplit_once('.').map(|(_, end)| end) {
        _ if is_program(&meta) => match host.is_live() {
            true => output(&path)?,
            false => return Ok(None),
        },
        Some("toml") => Doc::parse(&path.display().to_string(), &content(host, &path)?)?.value().clone(),
        Some("json") => json(&path, &content(host, &path)?)?,
        _ => {
            let help = format!("a custom fact is NAME.toml, NAME.json, or a program: `chmod 0755 {}`", path.display());
            return wrong("it is neither a program nor TOML or JSON", help);
        }
    };
    match plain(value, DEEPEST) {
        Some(value) => Ok(Some(value)),
        None => wrong(
            &format!("its lists and tables are nested more than {DEEPEST} levels deep"),
            "use a flatter structure".to_owned(),
        ),
    }
}

fn is_program(meta: &Meta) -> bool {
    meta.mode & 0o111 != 0
}

fn content(host: &Host, path: &Path) -> Result<Vec<u8>> {
    let bytes = host.root.read(path)?.map(|(_, bytes)| bytes).unwrap_or_default();
    if bytes.len() > LARGEST { Err(too_large(path)) } else { Ok(bytes) }
}

fn too_large(path: &Path) -> Error {
    error!(FACTS, "the custom fact {} has more than {LARGEST} bytes", path.display()).help("keep only what roles use")
}

fn json(path: &Path, bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|why| {
        error!(FACTS, "the custom fact {} is not JSON", path.display())
            .because(why)
            .help(format!("it must be one JSON value: `{}` shows it", path.display()))
    })
}

/// What a program prints.
fn output(path: &Path) -> Result<Value> {
    let argv = [path.display().to_string()];
    let identity =
        sandbox::user()?.map(|(uid, gid)| Identity { name: "nobody".to_owned(), uid, gid, home: "/".to_owned() });
    let user = identity.as_ref().map_or_else(|| "its user".to_owned(), |identity| format!("user {}", identity.uid));
    let failed = |why: String| {
        error!(FACTS, "the program of the custom fact {} failed", path.display()).because(why).help(format!(
            "it runs without privileges, as {user}, in `/`, for at most {LIMIT:?}: every file that it reads must be readable for all users"
        ))
    };
    let ran =
        process::run(&Command { identity, ..Command::new(&argv, LIMIT) }).map_err(|why| failed(why.to_string()))?;
    if !ran.is_success() {
        let last = String::from_utf8_lossy(&ran.stderr).lines().last().unwrap_or_default().to_owned();
        return Err(failed(match ran.code() {
            Some(code) if last.is_empty() => format!("it exited with {code}"),
            Some(code) => format!("it exited with {code}: {last}"),
            None => "it did not end in time, or was killed".to_owned(),
        }));
    }
    if ran.stdout.len() > LARGEST { Err(too_large(path)) } else { json(path, &ran.stdout) }
}

/// The value without `null`, which TOML lacks; `None` if it is nested deeper.
fn plain(value: Value, depth: usize) -> Option<Value> {
    Some(match value {
        Value::Array(_) | Value::Object(_) if depth == 0 => return None,
        Value::Array(list) => {
            let list = list.into_iter().filter(|one| !one.is_null()).map(|one| plain(one, depth - 1));
            Value::Array(list.collect::<Option<_>>()?)
        }
        Value::Object(map) => {
            let map = map.into_iter().filter(|(_, one)| !one.is_null());
            let map = map.map(|(key, one)| Some((key, plain(one, depth - 1)?)));
            Value::Object(map.collect::<Option<_>>()?)
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;

    use super::*;

    /// The values and errors of a tree with these files and modes.
    fn of(files: &[(&str, &str, u32)]) -> (Value, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let facts = dir.path().join("etc/kpull/facts.d");
        fs::create_dir_all(&facts).unwrap();
        for (name, content, mode) in files {
            fs::write(facts.join(name), content).unwrap();
            fs::set_permissions(facts.join(name), fs::Permissions::from_mode(*mode)).unwrap();
        }
        let custom = Custom::read(&Host::open(dir.path()).unwrap()).unwrap();
        let place = dir.path().display().to_string();
        let failed = custom.failed.values().map(|error| error.to_string().replace(&place, "")).collect();
        (Value::Object(custom.values), failed)
    }

    #[test]
    fn files_of_toml_and_json_are_custom_facts_by_their_names() {
        let files =
            [("a.toml", "x = 1\n", 0o644), ("b.json", "[1, null, {\"y\": null}]", 0o600), (".c.toml", "!", 0o644)];
        assert_eq!(of(&files), (json!({ "a": { "x": 1 }, "b": [1, {}] }), vec![]));
        assert_eq!(of(&[]).0, json!({}));
    }

    #[test]
    fn what_is_no_custom_fact_is_an_error_of_that_fact_alone() {
        let (values, failed) = of(&[
            ("good.json", "1", 0o644),
            ("a.json", "{", 0o644),
            ("b.txt", "", 0o644),
            ("c.json", &"[".repeat(60).chars().chain("]".repeat(60).chars()).collect::<String>(), 0o644),
            ("d.json", &format!("\"{}\"", "x".repeat(LARGEST)), 0o644),
            ("e.json", "1", 0o644),
            ("e.toml", "x = 1", 0o644),
        ]);
        assert_eq!(values, json!({ "good": 1 }));
        let starts = [
            "the custom fact /etc/kpull/facts.d/a.json is not JSON: EOF",
            "the custom fact /etc/kpull/facts.d/b.txt can't be read: it is neither a program",
            "the custom fact /etc/kpull/facts.d/c.json can't be read: its lists and tables are nested",
            "the custom fact /etc/kpull/facts.d/d.json has more than 61440 bytes",
            "two files in /etc/kpull/facts.d define the custom fact `e`",
        ];
        assert_eq!(failed.len(), starts.len(), "{failed:?}");
        for (error, start) in failed.iter().zip(starts) {
            assert!(error.starts_with(start), "{error}");
        }
    }
}
