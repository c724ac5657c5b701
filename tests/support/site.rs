//! A site in a directory, a tree to apply it to, and the program as a user at a terminal has it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use kpull::document::Files;
use kpull::document::layout::{MANIFEST, SIGNATURES};
use kpull::trust::{Manifest, NAMESPACE};
use serde_json::Value;
use ssh_key::private::Ed25519Keypair;
use ssh_key::{HashAlg, LineEnding, PrivateKey};

/// A site of its own directory, without a file at first but `site.toml`.
pub struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    /// A site of this name.
    pub fn new(name: &str) -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap() };
        site.file("site.toml", format!("name = \"{name}\"\n"));
        site
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file of the site.
    pub fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        write(&self.path().join(path), content.as_ref());
        self
    }

    /// Writes the variables of a host.
    pub fn host(&self, name: &str, toml: &str) -> &Self {
        self.file(&format!("host_vars/{name}.toml"), toml)
    }

    /// Writes a role with nothing but what `toml` says.
    pub fn role(&self, name: &str, toml: &str) -> &Self {
        self.file(&format!("roles/{name}/role.toml"), format!("summary = \"For a test\"\n{toml}"))
    }

    /// Signs the site as it is, broken or not, under the next serial. What `kpull sign` refuses can be signed by hand, and
    /// a host has to stand that.
    pub fn sign(&self) -> &Self {
        let old = fs::read(self.path().join(MANIFEST)).ok().map(|bytes| Manifest::parse(&bytes).unwrap());
        let (site, serial) = match old {
            Some(old) => (old.site, old.serial + 1),
            None => (kpull::site::Site::load(Files::in_directory(self.path()).unwrap()).unwrap().name, 1),
        };
        sign(self.path(), key(), &site, serial);
        self
    }

    /// A tree that belongs to this site as `h1`, and takes its releases from the site's directory.
    pub fn enroll(&self) -> Tree {
        let tree = Tree::new();
        tree.configure(&format!("[[source]]\ndir = \"{}\"\n", self.path().display()));
        tree
    }
}

/// Signs the site in a directory as it is, for a day.
pub fn sign(dir: &Path, key: &PrivateKey, site: &str, serial: u64) {
    let files = Files::in_directory(dir).unwrap();
    let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap();
    let expires = now + jiff::SignedDuration::from_hours(24);
    let manifest = Manifest::of(&files, site, serial, now, expires).to_toml();
    let signature = key.sign(NAMESPACE, HashAlg::Sha512, manifest.as_bytes()).unwrap();
    write(&dir.join(MANIFEST), manifest.as_bytes());
    write(&dir.join(SIGNATURES), signature.to_pem(LineEnding::LF).unwrap().as_bytes());
}

/// The key that signs; no secret.
pub fn key() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| Ed25519Keypair::from_seed(&[7; 32]).into())
}

/// A directory that is made into a machine: `--root`.
pub struct Tree {
    dir: tempfile::TempDir,
}

/// What is in a tree: type, mode and content by path.
pub type Snapshot = BTreeMap<String, (String, Vec<u8>)>;

impl Tree {
    /// An empty one.
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// Enrolls it as `h1` of the site `test`, with these tables in its `kpull.toml`.
    pub fn configure(&self, tables: &str) -> &Self {
        let config =
            format!("host = \"h1\"\n{tables}\n[trust]\nsite = \"test\"\nallowed_signers = \"allowed_signers\"\n");
        let signer = key().public_key().to_openssh().unwrap();
        self.write("etc/kpull/kpull.toml", config)
            .write("etc/kpull/allowed_signers", format!("tester namespaces=\"{NAMESPACE}\" {signer}\n"))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path inside, from outside. It starts without a `/`, or it would be the machine's own.
    #[track_caller]
    pub fn at(&self, path: &str) -> PathBuf {
        assert!(!path.starts_with('/'), "{path} is not inside the tree");
        self.path().join(path)
    }

    /// Writes a file.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        write(&self.at(path), content.as_ref());
        self
    }

    /// The content of a file.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The permission bits of a path.
    pub fn mode(&self, path: &str) -> u32 {
        fs::symlink_metadata(self.at(path)).unwrap().permissions().mode() & 0o7777
    }

    /// The file with the key that signs, for `kpull sign`.
    pub fn key(&self) -> String {
        let path = self.at("key");
        fs::write(&path, key().to_openssh(LineEnding::LF).unwrap()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Runs `kpull COMMAND --root DIR`; words after a blank in `command` are arguments.
    pub fn kpull(&self, command: &str) -> Output {
        let mut arguments: Vec<&str> = command.split(' ').collect();
        arguments.extend(["--root", self.path().to_str().unwrap()]);
        kpull(&arguments)
    }

    /// [`snapshot`] of it.
    pub fn snapshot(&self) -> Snapshot {
        snapshot(self.path())
    }

    /// When each path was last written or replaced: its times and inode.
    pub fn times(&self) -> BTreeMap<String, (i64, i64, u64)> {
        let mut found = BTreeMap::new();
        walk(self.path(), "", &mut |name, meta, _| {
            found.insert(name.to_owned(), (meta.ctime(), meta.ctime_nsec(), meta.ino()));
        });
        found
    }

    /// The names of files that a run had begun and not finished, outside the state directory.
    pub fn leftovers(&self) -> Vec<String> {
        self.snapshot().into_keys().filter(|name| name.contains("kpull-new")).collect()
    }
}

/// Everything in a tree except the state directory and the enrolment.
pub fn snapshot(dir: &Path) -> Snapshot {
    let mut found = Snapshot::new();
    walk(dir, "", &mut |name, meta, path| {
        let content = match meta.file_type() {
            kind if kind.is_symlink() => fs::read_link(path).unwrap().into_os_string().into_encoded_bytes(),
            kind if kind.is_file() => fs::read(path).unwrap(),
            _ => Vec::new(),
        };
        found.insert(name.to_owned(), (format!("{:o}", meta.mode()), content));
    });
    found
}

fn walk(dir: &Path, prefix: &str, each: &mut dyn FnMut(&str, &fs::Metadata, &Path)) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        if ["etc/kpull", "var/lib/kpull"].contains(&name.as_str()) {
            continue;
        }
        let meta = entry.metadata().unwrap();
        each(&name, &meta, &entry.path());
        if meta.is_dir() {
            walk(&entry.path(), &format!("{name}/"), each);
        }
    }
}

fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// How a run of `kpull` ended.
#[derive(Debug)]
pub struct Output {
    /// The exit code.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Output {
    /// That of a process that has ended.
    pub fn of(output: std::process::Output) -> Self {
        Self {
            code: output.status.code().unwrap_or_else(|| panic!("{}", output.status)),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Holds it to an exit code; shows everything when it had another.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    /// [`Output::exits`] with a message that contains this text.
    #[track_caller]
    pub fn fails(self, code: i32, text: &str) -> Self {
        let output = self.exits(code);
        assert!(format!("{}{}", output.stdout, output.stderr).contains(text), "{text}: {output:?}");
        output
    }

    /// Standard output as JSON, one object a line, each of the format's version 1.
    #[track_caller]
    pub fn json(&self) -> Vec<Value> {
        let values: Vec<Value> = self
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}")))
            .collect();
        assert!(!values.is_empty(), "{self:?}");
        for value in &values {
            assert_eq!(value["version"], 2, "{value}");
        }
        values
    }

    /// The JSON events of this name.
    #[track_caller]
    pub fn events(&self, name: &str) -> Vec<Value> {
        self.json().into_iter().filter(|value| value["event"] == name).collect()
    }

    /// What it changed, or would change, as `--json` reports.
    #[track_caller]
    pub fn changed(&self) -> Vec<String> {
        let done = self.events("done");
        assert_eq!(done.len(), 1, "{self:?}");
        done[0]["changed"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
    }

    /// The one error that `--json` reports.
    #[track_caller]
    pub fn error(&self) -> Value {
        let mut errors = self.events("error");
        assert_eq!(errors.len(), 1, "{self:?}");
        errors.remove(0)
    }
}

/// The program, with no input and no colours.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kpull"));
    command.args(arguments).env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub fn kpull(arguments: &[&str]) -> Output {
    Output::of(command(arguments).output().unwrap())
}
