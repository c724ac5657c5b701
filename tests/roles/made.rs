//! A site with keys, certificates and secrets as an operator makes them, and its hosts in trees.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use kpull::document::Files;
use kpull::host::Host;
use kpull::kind::Work;
use kpull::pki::{Certificate, certificate_path};
use kpull::resolve::{Catalog, Facts, TemplateContext, resolve};
use kpull::secret::SecretStore;
use kpull::site::Site;
use kpull::store::Store;
use ssh_key::LineEnding;
use ssh_key::private::{Ed25519Keypair, PrivateKey};
use toml_edit::DocumentMut;

use crate::support::shipped::assemble;
use crate::support::site::{Output, key, kpull};

/// A site in a directory of its own, with everything that `kpull check` requires.
pub struct Made {
    dir: tempfile::TempDir,
    /// The site, read.
    pub site: Arc<Site>,
}

impl Made {
    /// The shipped one.
    pub fn shipped() -> &'static Self {
        static MADE: OnceLock<Made> = OnceLock::new();
        MADE.get_or_init(|| Self::new(None, |_| {}))
    }

    /// The shipped one, with nginx in place of HAProxy.
    pub fn with_nginx() -> &'static Self {
        static MADE: OnceLock<Made> = OnceLock::new();
        MADE.get_or_init(|| {
            Self::new(None, |site| {
                let file = site.join("site.toml");
                let text = fs::read_to_string(&file).unwrap();
                assert!(text.contains("\"haproxy\""));
                fs::write(file, text.replace("\"haproxy\"", "\"nginx\"")).unwrap();
            })
        })
    }

    /// `tests/cluster/sites/five-members`.
    pub fn five() -> &'static Self {
        static MADE: OnceLock<Made> = OnceLock::new();
        MADE.get_or_init(|| Self::new(Some("five-members"), |_| {}))
    }

    /// The shipped one, or `tests/cluster/sites/NAME`; `change` has its turn before anything is made for it.
    pub fn new(name: Option<&str>, change: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("site");
        assemble(&path, name);
        change(&path);
        let operator = dir.path().join("operator");
        fs::write(&operator, key().to_openssh(LineEnding::LF).unwrap()).unwrap();
        edit(&path.join("site.toml"), |doc| {
            doc["secrets"]["recipients"] = toml_edit::value(toml_edit::Array::from_iter([public(key())]));
        });
        for (file, seed) in fs::read_dir(path.join("host_vars")).unwrap().zip(100..) {
            let host_key = Ed25519Keypair::from_seed(&[seed; 32]).into();
            edit(&file.unwrap().path(), |doc| doc["recipient"] = toml_edit::value(public(&host_key)));
        }
        let mut made = Self { site: load(&path), dir };
        made.kpull("pki init").exits(0);
        made.site = load(&path);
        for secret in made.secrets() {
            made.kpull(&format!("secret set {secret} --generate 8")).exits(0);
        }
        made.kpull(&format!("pki issue --identity {}", operator.display())).exits(0);
        made.kpull(&format!("secret rekey --yes --identity {}", operator.display())).exits(0);
        made.site = load(&path);
        made
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("site")
    }

    /// Runs `kpull COMMAND --site DIR`; words after a blank in `command` are arguments.
    pub fn kpull(&self, command: &str) -> Output {
        let path = self.path();
        let mut arguments: Vec<&str> = command.split(' ').collect();
        arguments.extend(["--site", path.to_str().unwrap()]);
        kpull(&arguments)
    }

    /// What its roles make of a host of this architecture.
    pub fn tree(&self, host: &str, arch: &str) -> Tree {
        self.tree_with(host, arch, |_| {})
    }

    /// The same, of one that has something already.
    pub fn tree_with(&self, host: &str, arch: &str, prepare: impl FnOnce(&Path)) -> Tree {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let (at, store) = (Host::open(dir.path()).unwrap(), Store::open(&dir.path().join("var/lib/kpull")).unwrap());
        let catalog = self.catalog(host, arch);
        let work = Work { host: &at, store: &store, catalog: &catalog.items };
        // upstream files are not the concern of roles
        for item in catalog.items.iter().filter(|item| item.about.kind != "artifact") {
            if let Some(change) = item.resource.observe(&work).unwrap() {
                item.resource.apply(&work, &change).unwrap_or_else(|error| panic!("{}: {error}", item.id));
            }
        }
        let left = catalog.items.iter().filter(|item| item.about.kind != "artifact");
        let left = left
            .filter(|item| item.resource.observe(&work).unwrap().is_some())
            .map(|item| item.id.to_string())
            .collect();
        let mut entries = BTreeMap::new();
        read(dir.path(), "", &mut entries);
        Tree { entries, left }
    }

    /// A template of a role, rendered for a host; for text that is passed on and never written to a file.
    pub fn template(&self, host: &str, role: &str, name: &str) -> String {
        let world = self.world(host);
        world.file(&format!("roles/{role}/templates/{name}"), &world.scope(host, Some(role), None)).unwrap()
    }

    /// The resources of a host of this architecture.
    pub fn catalog(&self, host: &str, arch: &str) -> Catalog {
        let resolved = resolve(&self.site, host, &self.facts(host, arch), &SecretStore::encrypted());
        resolved.unwrap_or_else(|error| panic!("{host}: {error}"))
    }

    /// The fields of the first `[[KIND]]` of a role, rendered for a host.
    pub fn fields(&self, host: &str, role: &str, kind: &str) -> serde_json::Value {
        let world = self.world(host);
        let entry = self.site.roles[role].entries.iter().find(|entry| entry.kind.name == kind).unwrap();
        let place = |_: &[String]| self.site.roles[role].doc.place(&entry.path);
        serde_json::to_value(world.value(&entry.fields, &world.scope(host, Some(role), None), &place).unwrap()).unwrap()
    }

    /// A host's certificate, as it was issued.
    pub fn certificate(&self, host: &str, name: &str) -> Certificate {
        let path = certificate_path(host, name);
        Certificate::one(&path, &self.site.files.get(&path).unwrap()[..]).unwrap()
    }

    fn world(&self, host: &str) -> Arc<TemplateContext> {
        TemplateContext::new(self.site.clone(), host, &self.facts(host, "amd64"), &SecretStore::encrypted(), None)
    }

    fn facts(&self, host: &str, arch: &str) -> Facts {
        facts(&self.site, host, arch)
    }

    /// What its roles ask for besides keys of certificates.
    fn secrets(&self) -> BTreeSet<String> {
        let resolved = |host: &String| -> Catalog {
            resolve(&self.site, host, &self.facts(host, "amd64"), &SecretStore::expected())
                .unwrap_or_else(|error| panic!("{error}"))
        };
        let all = self.site.hosts.keys().flat_map(|host| resolved(host).secrets);
        all.filter(|name| !name.starts_with("pki/")).collect()
    }
}

/// What is assumed of a host.
pub fn facts(site: &Site, host: &str, arch: &str) -> Facts {
    let address = site.find_host(host).unwrap().address;
    Facts { arch: arch.to_owned(), ..Facts::assumed(host, address, None).unwrap() }
}

/// One thing in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Permission bits.
    pub mode: u32,
    /// What it is.
    pub what: Content,
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A directory.
    Directory,
    /// A link to there.
    Link(String),
    /// A file with this text.
    File(String),
}

/// A host's files, by path without a `/` at its start.
pub struct Tree {
    /// All that is in it, but kpull's own.
    pub entries: BTreeMap<String, Entry>,
    /// Ids of resources that would be changed again.
    pub left: Vec<String>,
}

impl Tree {
    /// The text of a file.
    #[track_caller]
    pub fn file(&self, path: &str) -> &str {
        match self.entries.get(path).map(|entry| &entry.what) {
            Some(Content::File(text)) => text,
            other => panic!("{path} is {other:?}"),
        }
    }

    /// Every file with its text.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().filter_map(|(path, entry)| match &entry.what {
            Content::File(text) => Some((path.as_str(), text.as_str())),
            _ => None,
        })
    }

    /// The flags of a component's command line.
    #[track_caller]
    pub fn flags(&self, component: &str) -> BTreeMap<&str, &str> {
        let unit = self.file(&format!("etc/systemd/system/{component}.service"));
        let words = unit.lines().map(|line| line.trim_end_matches('\\').trim().trim_matches('"'));
        words.filter_map(|word| word.strip_prefix("--")?.split_once('=')).collect()
    }
}

fn read(dir: &Path, prefix: &str, entries: &mut BTreeMap<String, Entry>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        if path == "var/lib/kpull" {
            continue;
        }
        let meta = entry.metadata().unwrap();
        let what = if meta.is_symlink() {
            Content::Link(fs::read_link(entry.path()).unwrap().to_str().unwrap().to_owned())
        } else if meta.is_dir() {
            read(&entry.path(), &format!("{path}/"), entries);
            Content::Directory
        } else {
            Content::File(fs::read_to_string(entry.path()).unwrap())
        };
        entries.insert(path, Entry { mode: meta.permissions().mode() & 0o7777, what });
    }
}

fn load(path: &Path) -> Arc<Site> {
    Arc::new(Site::load(Files::in_directory(path).unwrap()).unwrap_or_else(|error| panic!("{error}")))
}

fn public(key: &PrivateKey) -> String {
    key.public_key().to_openssh().unwrap()
}

fn edit(file: &Path, change: impl FnOnce(&mut DocumentMut)) {
    let mut doc: DocumentMut = fs::read_to_string(file).unwrap().parse().unwrap();
    change(&mut doc);
    fs::write(file, doc.to_string()).unwrap();
}
