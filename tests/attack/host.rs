//! The setup of the attacks: keys, a small site, three kinds of source that return anything they are given, and a host in a
//! directory on which the real program runs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use kpull::document::Files;
use kpull::document::layout::{MANIFEST, SIGNATURES};
use kpull::net::server::{Answer, Server};
use kpull::trust::{Manifest, NAMESPACE};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{HashAlg, LineEnding, PrivateKey};

/// What every site here is called.
pub const SITE: &str = "lab";
/// The serial of the good release that a host has before an attack; the attack has the next, the release after it too.
pub const GOOD: u64 = 10;

/// A key of its own for each number. The hosts here allow 1 and 2.
pub fn key(number: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[number; 32]))
}

/// A line of allowed signers, with `options` and a blank behind them, or nothing.
pub fn allow(number: u8, options: &str) -> String {
    format!("signer{number} {options}{}\n", key(number).public_key().to_openssh().unwrap())
}

/// One signature over `message`.
pub fn signature(number: u8, namespace: &str, message: &[u8]) -> String {
    key(number).sign(namespace, HashAlg::Sha512, message).unwrap().to_pem(LineEnding::LF).unwrap()
}

/// Something at a path of what a source hands out.
#[derive(Clone)]
pub enum Entry {
    File(Vec<u8>),
    Link(PathBuf),
}

/// What a source hands out.
#[derive(Clone, Default)]
pub struct Tree(pub BTreeMap<String, Entry>);

impl Tree {
    /// The release with this serial, good in every way.
    pub fn good(serial: u64) -> Self {
        let mut tree = Self::default();
        tree.put("site.toml", format!("name = \"{SITE}\"\n"));
        tree.put("host_vars/a.toml", "address = \"10.0.0.1\"\nroles = [\"base\"]\n");
        tree.put(
            "roles/base/role.toml",
            format!(
                "summary = \"Two files\"\n[[file]]\npath = \"/etc/motd\"\ncontent = \"release {serial}\\n\"\n\
                 [[file]]\npath = \"/etc/more\"\nsource = \"more\"\n"
            ),
        );
        tree.put("roles/base/files/more", format!("more of release {serial}\n"));
        tree.list(serial);
        tree
    }

    pub fn put(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.0.insert(path.to_owned(), Entry::File(content.into()));
    }

    pub fn text(&self, path: &str) -> String {
        match self.0.get(path) {
            Some(Entry::File(content)) => String::from_utf8(content.clone()).unwrap(),
            _ => panic!("there is no text at {path}"),
        }
    }

    /// Lists the files as they are in a manifest, signed by key 1.
    pub fn list(&mut self, serial: u64) {
        self.0.remove(MANIFEST);
        self.0.remove(SIGNATURES);
        let files: Files = self
            .0
            .iter()
            .filter_map(|(path, entry)| match entry {
                Entry::File(content) => Some((path.clone(), content.as_slice().into())),
                Entry::Link(_) => None,
            })
            .collect();
        let created = Timestamp::now() - SignedDuration::from_mins(1);
        let manifest = Manifest::of(&files, SITE, serial, created, created + SignedDuration::from_hours(24));
        self.manifest(manifest.to_toml());
    }

    /// Puts another manifest there, signed by key 1.
    pub fn manifest(&mut self, text: impl Into<Vec<u8>>) {
        self.put(MANIFEST, text);
        self.sign(&[1]);
    }

    /// Replaces a piece of the manifest and signs what comes out, with key 1.
    pub fn edit(&mut self, from: &str, to: &str) {
        let text = self.text(MANIFEST);
        assert!(text.contains(from), "{text}");
        self.manifest(text.replacen(from, to, 1));
    }

    /// Replaces the value of a key at the manifest's top.
    pub fn set(&mut self, name: &str, value: &str) {
        let text = self.text(MANIFEST);
        let line = text.lines().find(|line| line.starts_with(&format!("{name} = "))).unwrap().to_owned();
        self.edit(&line, &format!("{name} = {value}"));
    }

    /// Lists a path of the attacker's, where all the other paths are.
    pub fn also_list(&mut self, path: &str) {
        let text = self.text(MANIFEST);
        let digest = "0".repeat(64);
        self.manifest(format!("{text}{} = {{ sha256 = \"{digest}\", size = 1 }}\n", serde_json::Value::from(path)));
    }

    /// Signs the manifest as it is, with these keys.
    pub fn sign(&mut self, keys: &[u8]) {
        let Some(Entry::File(message)) = self.0.get(MANIFEST) else { panic!("there is no manifest") };
        let signatures: String = keys.iter().map(|number| signature(*number, NAMESPACE, message)).collect();
        self.put(SIGNATURES, signatures);
    }
}

/// The kinds of source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    Dir,
    Git,
    Http,
}

/// All of them.
pub const EVERY: &[Via] = &[Via::Dir, Via::Git, Via::Http];

/// A host in a directory, and the source that it follows.
pub struct Host {
    via: Via,
    dir: tempfile::TempDir,
    tree: Arc<Mutex<Tree>>,
    server: Option<Server>,
}

/// How a run of the program ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    /// The first error, and its advice; places of this machine replaced by words.
    pub error: String,
    pub help: String,
}

impl Host {
    /// A host that nothing was applied to yet.
    pub fn new(via: Via, allowed: &str, threshold: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tree: Arc<Mutex<Tree>> = Arc::default();
        let handed_out = tree.clone();
        let server = (via == Via::Http).then(|| {
            Server::plain(move |request| match handed_out.lock().unwrap().0.get(request.path.trim_start_matches('/')) {
                Some(Entry::File(content)) => Answer::new(200, content.clone()),
                _ => Answer::new(404, ""),
            })
            .unwrap()
        });
        let address = match &server {
            Some(server) => format!("http = {:?}\nretries = 0\n", server.url("")),
            None => format!("{} = {:?}\n", if via == Via::Dir { "dir" } else { "git" }, dir.path().join("source")),
        };
        let host = Self { via, dir, tree, server };
        fs::create_dir(host.dir.path().join("source")).unwrap();
        if via == Via::Git {
            host.git(&["init", "-q"]);
        }
        host.configure(allowed, threshold, &address);
        host
    }

    /// Writes `kpull.toml` and the allowed signers.
    pub fn configure(&self, allowed: &str, threshold: usize, address: &str) {
        let etc = self.root().join("etc/kpull");
        fs::create_dir_all(&etc).unwrap();
        fs::write(etc.join("allowed_signers"), allowed).unwrap();
        let trust = format!("site = {SITE:?}\nallowed_signers = \"allowed_signers\"\nthreshold = {threshold}\n");
        fs::write(etc.join("kpull.toml"), format!("host = \"a\"\n[trust]\n{trust}[[source]]\n{address}")).unwrap();
    }

    /// A host with the good release applied, signed by key 1.
    pub fn with_good(via: Via) -> Self {
        let host = Self::new(via, &(allow(1, "") + &allow(2, "")), 1);
        host.publish(&Tree::good(GOOD));
        host.expect_good(GOOD);
        host
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn state(&self) -> PathBuf {
        self.root().join("var/lib/kpull")
    }

    /// Whether the source is a git repository.
    pub fn is_git(&self) -> bool {
        self.via == Via::Git
    }

    /// Where the source is.
    pub fn address(&self) -> String {
        match &self.server {
            Some(server) => server.url(""),
            None => self.dir.path().join("source").display().to_string(),
        }
    }

    /// What the web server was asked for.
    pub fn asked(&self) -> Vec<String> {
        self.server.iter().flat_map(Server::seen).map(|request| request.path).collect()
    }

    /// Lets the source hand this out from now on.
    pub fn publish(&self, tree: &Tree) {
        *self.tree.lock().unwrap() = tree.clone();
        let source = self.dir.path().join("source");
        if self.via == Via::Http {
            return;
        }
        for entry in fs::read_dir(&source).unwrap().map(Result::unwrap).filter(|entry| entry.file_name() != ".git") {
            if entry.file_type().unwrap().is_dir() {
                fs::remove_dir_all(entry.path()).unwrap();
            } else {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        for (path, entry) in &tree.0 {
            let path = source.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match entry {
                Entry::File(content) => fs::write(path, content).unwrap(),
                Entry::Link(target) => symlink(target, path).unwrap(),
            }
        }
        if self.via == Via::Git {
            self.git(&["add", "-A"]);
            self.git(&["commit", "-q", "--allow-empty", "-m", "x"]);
        }
    }

    /// Lets a git source hand this out as the first commit of a history of its own.
    pub fn rewrite_history(&self, tree: &Tree) {
        let source = self.dir.path().join("source");
        fs::remove_dir_all(&source).unwrap();
        fs::create_dir(&source).unwrap();
        self.git(&["init", "-q"]);
        self.publish(tree);
    }

    /// What the source hands out now.
    pub fn published(&self) -> Tree {
        self.tree.lock().unwrap().clone()
    }

    fn git(&self, arguments: &[&str]) {
        let nobody = ["-c", "user.name=x", "-c", "user.email=x", "-c", "gc.auto=0"];
        let status = Command::new("git")
            .current_dir(self.dir.path().join("source"))
            .envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null")])
            .args(nobody)
            .args(arguments)
            .status()
            .unwrap();
        assert!(status.success(), "git {arguments:?}");
    }

    /// Runs `kpull apply` for a person.
    pub fn apply_as_text(&self) -> Output {
        kpull().arg("apply").arg("--root").arg(self.root()).output().unwrap()
    }

    /// Runs `kpull apply`.
    pub fn apply(&self) -> Ended {
        let output = kpull().args(["apply", "--json", "--root"]).arg(self.root()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let error = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .find(|event| event["event"] == "error");
        let word = |name: &str| {
            let text = error.as_ref().and_then(|error| error[name].as_str()).unwrap_or_default();
            let text = text.replace(self.dir.path().to_str().unwrap(), "");
            match &self.server {
                Some(server) => text.replace(&server.url(""), "/source/"),
                None => text,
            }
        };
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        Ended { code: output.status.code().unwrap(), error: word("error"), help: word("help") }
    }

    /// Applies, and finds the release with this serial on the host.
    pub fn expect_good(&self, serial: u64) {
        let ended = self.apply();
        assert_eq!((ended.code, ended.error.as_str()), (0, ""), "{:?}", self.via);
        self.expect_files(serial);
    }

    /// Finds the files of the release with this serial on the host.
    pub fn expect_files(&self, serial: u64) {
        let read = |path: &str| fs::read_to_string(self.root().join(path)).unwrap();
        assert_eq!(read("etc/motd"), format!("release {serial}\n"));
        assert_eq!(read("etc/more"), format!("more of release {serial}\n"));
    }

    /// Everything on the host, but for what each run writes about itself: content, mode, owner, and for files also the
    /// inode and the time of the last change.
    pub fn snapshot(&self) -> BTreeMap<PathBuf, String> {
        let mut all = BTreeMap::new();
        let own = ["last-run.json", "lock", "cache"].map(|name| self.state().join(name));
        walk(&self.root(), &own, &mut all);
        all
    }
}

fn walk(path: &Path, except: &[PathBuf], all: &mut BTreeMap<PathBuf, String>) {
    if except.iter().any(|own| own == path) {
        return;
    }
    let meta = path.symlink_metadata().unwrap();
    let mut what = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
    if meta.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            walk(&entry.unwrap().path(), except, all);
        }
    } else if meta.is_symlink() {
        what += &format!(" → {}", fs::read_link(path).unwrap().display());
    } else {
        what += &format!(" {} {}.{} {:?}", meta.ino(), meta.mtime(), meta.mtime_nsec(), fs::read(path).unwrap());
    }
    all.insert(path.to_owned(), what);
}

/// The program, away from anybody's proxies and agents.
pub fn kpull() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kpull"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// An attack: what a source does to a release, and what the host has to say to it.
pub struct Attack<'a> {
    /// The error, word for word.
    pub error: &'a str,
    /// Its advice, word for word; that the host stays as it is comes on top.
    pub help: &'a str,
    /// The sources that it can be mounted through.
    pub via: &'a [Via],
    /// Whether a host without a release refuses it too.
    pub fresh: bool,
    /// Whom the host allows to sign, when it isn't key 1 and key 2.
    pub allowed: Option<String>,
    /// How many have to sign the attacker's release; the good ones around it are signed by both.
    pub threshold: usize,
}

impl Default for Attack<'_> {
    fn default() -> Self {
        Self { error: "", help: "", via: EVERY, fresh: true, allowed: None, threshold: 1 }
    }
}

impl Attack<'_> {
    /// Mounts it on hosts that have a good release, and on fresh ones.
    pub fn mount(self, attack: impl Fn(&mut Tree) + Sync) {
        std::thread::scope(|scope| {
            for via in self.via {
                scope.spawn(|| self.mount_through(*via, &attack));
            }
        });
    }

    fn mount_through(&self, via: Via, attack: &impl Fn(&mut Tree)) {
        let both = |serial| {
            let mut tree = Tree::good(serial);
            tree.sign(&[1, 2]);
            tree
        };
        let new = || {
            let allowed = self.allowed.clone().unwrap_or_else(|| allow(1, "") + &allow(2, ""));
            Host::new(via, &allowed, self.threshold)
        };
        let mut bad = Tree::good(GOOD + 1);
        attack(&mut bad);

        let host = new();
        host.publish(&both(GOOD));
        host.expect_good(GOOD);
        let before = host.snapshot();
        host.publish(&bad);
        let ended = host.apply();
        assert_eq!(ended.error, self.error, "{via:?}");
        assert_eq!(ended.help, format!("{}; the host stays converged on release {GOOD}", self.help), "{via:?}");
        assert_eq!(ended.code, 4, "{via:?}");
        assert_eq!(before, host.snapshot(), "{via:?}");
        host.publish(&both(GOOD + 2));
        host.expect_good(GOOD + 2);

        if self.fresh {
            let host = new();
            host.publish(&bad);
            let before = host.snapshot();
            let ended = host.apply();
            assert_eq!((ended.error.as_str(), ended.help.as_str()), (self.error, self.help), "{via:?}, fresh");
            assert_eq!(ended.code, 4, "{via:?}, fresh");
            let mut after = host.snapshot();
            // the state directory is made, and stays empty
            for made in ["var", "var/lib", "var/lib/kpull"] {
                after.remove(&host.root().join(made));
            }
            assert_eq!(before, after, "{via:?}, fresh");
        }
    }
}
