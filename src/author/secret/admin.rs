//! Operators write, encrypt and remove the secrets of a site.
//!
//! The roles determine the recipients: every host of the site is resolved, and a secret is encrypted to the hosts that use it, and
//! to the operators.

use crate::author::pki::Draft;
use crate::author::prelude::*;
use crate::resolve::resolve;
use crate::secret::index::{INDEX, Index};
use crate::secret::readers::{Reader, keys, newcomers, readers};
use crate::secret::{Keyring, name};

/// Which hosts need which secrets.
#[derive(Debug, Default)]
pub struct Users(BTreeMap<String, BTreeSet<String>>);

impl Users {
    /// Adds the secrets that a host's roles use.
    pub fn add(&mut self, catalog: &Catalog) {
        for name in &catalog.secrets {
            self.0.entry(name.clone()).or_default().insert(catalog.host.clone());
        }
    }

    /// The hosts that need a secret.
    pub fn of(&self, name: &str) -> BTreeSet<String> {
        self.0.get(name).cloned().unwrap_or_default()
    }
}

/// The secrets of the site in a directory.
#[derive(Debug)]
pub struct SecretAdmin {
    dir: PathBuf,
    site: Arc<Site>,
    index: Index,
    users: Users,
    /// Hosts whose recorded facts can't be read, and why.
    unread: BTreeMap<String, Error>,
}

impl SecretAdmin {
    /// Opens a site and resolves all its hosts. Secrets that its roles use can be missing. A host whose recorded facts can't be read is
    /// resolved with assumed ones: see [`SecretAdmin::warnings`].
    pub fn open(dir: &Path) -> Result<Self> {
        let site = Arc::new(Site::load(Files::in_directory(dir)?)?);
        let (mut users, mut errors, mut unread) = (Users::default(), Vec::new(), BTreeMap::new());
        for (name, host) in &site.hosts {
            let facts = Facts::recorded(Some(dir), name, host.address).or_else(|error| {
                unread.insert(name.clone(), error);
                Facts::assumed(name, host.address, None)
            });
            let resolved = facts.and_then(|facts| resolve(&site, name, &facts, &SecretStore::expected()));
            keep(&mut errors, resolved).iter().for_each(|catalog| users.add(catalog));
        }
        if let Some(error) = Error::distinct(errors) {
            return Err(error.help_more("the roles determine the recipients of secrets, so correct the roles first"));
        }
        Ok(Self { unread, ..Self::of(dir, site, users)? })
    }

    /// Opens a site that has been resolved.
    pub fn of(dir: &Path, site: Arc<Site>, users: Users) -> Result<Self> {
        Ok(Self { dir: dir.to_owned(), index: Index::read(&site.files)?, site, users, unread: BTreeMap::new() })
    }

    /// Each host whose recorded facts can't be read, with a sentence about it.
    pub fn warnings(&self) -> impl Iterator<Item = (&str, String)> {
        self.unread.iter().map(|(host, error)| {
            let place = error.place().map(|place| format!(" ({place})")).unwrap_or_default();
            let kept = "besides its present secrets, assumed facts determine which secrets it can read";
            (host.as_str(), format!("the recorded facts of {host} can't be read: {error}{place}; {kept}"))
        })
    }

    /// An error if the recorded facts of a host can't be read, so that it may use other secrets than it seems.
    fn check_facts(&self) -> Result<()> {
        Error::distinct(self.unread.values().cloned().collect()).map_or(Ok(()), Err)
    }

    /// The names of the site's secrets, sorted.
    pub fn names(&self) -> Vec<String> {
        self.site.files.iter().filter_map(|(path, _)| name::name_in(path)).map(str::to_owned).collect()
    }

    /// The hosts to which a secret is encrypted, by the index.
    pub fn hosts(&self, name: &str) -> BTreeSet<String> {
        self.index.hosts_of(name).cloned().unwrap_or_default()
    }

    /// The encrypted file of a secret; the error suggests the nearest name.
    pub fn encrypted(&self, name: &str) -> Result<Arc<[u8]>> {
        SecretStore::encrypted_file(name, &self.site.files)
    }

    /// The hosts that use a secret, and its intended readers: the operators and these hosts.
    fn recipients(&self, name: &str) -> Result<(BTreeSet<String>, Vec<Reader>)> {
        if self.site.operators.is_empty() {
            return Err(no_operators(&self.site));
        }
        let mut names = self.users.of(name);
        // nobody loses a secret because of a file that can't be read
        names.extend(self.hosts(name).into_iter().filter(|host| self.unread.contains_key(host)));
        let hosts = || names.iter().filter_map(|name| Some((name.as_str(), self.site.hosts.get(name)?)));
        let without_key = hosts().filter(|(_, host)| host.recipients.is_empty());
        if let Some(error) = Error::all(without_key.map(|(host, vars)| no_recipient(host, name, &vars.doc)).collect()) {
            return Err(error);
        }
        let readers = readers(&self.site.operators, hosts().map(|(name, host)| (name, host.recipients.as_slice())));
        Ok((names, readers))
    }

    /// The readers that a secret gains once it is written again.
    pub fn newcomers(&self, name: &str) -> Result<Vec<Reader>> {
        let Some(encrypted) = self.site.files.get(&name::path_of(name)) else { return Ok(Vec::new()) };
        Ok(newcomers(encrypted, self.index.get(name), self.recipients(name)?.1))
    }

    /// Checks that a secret of this name can be written, before anyone types its value.
    pub fn check(&self, name: &str) -> Result<()> {
        name::check(name).and_then(|()| self.recipients(name)).map(drop)
    }

    /// Encrypts a new or existing secret, and writes it to the site; returns the hosts that can read it.
    pub fn set(&mut self, name: &str, plain: &[u8]) -> Result<BTreeSet<String>> {
        name::check(name)?;
        let (hosts, readers) = self.recipients(name)?;
        let mut draft = Draft::of(self.index.clone());
        draft.write_secret(name, plain, hosts.clone(), &keys(&readers))?;
        self.commit(draft)?;
        Ok(hosts)
    }

    /// Why a secret must be encrypted again; `None` if it need not be. Fails if its recipients can't be determined.
    pub fn stale(&self, name: &str) -> Result<Option<String>> {
        let (hosts, readers) = self.recipients(name)?;
        let Some(entry) = self.index.get(name) else {
            return Ok(Some(format!("{INDEX} does not list its recipients")));
        };
        let list = |hosts: Vec<&String>| hosts.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let lacking: Vec<&String> = hosts.difference(&entry.hosts).collect();
        let excess: Vec<&String> = entry.hosts.difference(&hosts).collect();
        Ok(match (lacking.is_empty(), excess.is_empty()) {
            (false, _) => Some(format!("it is not encrypted to {}, where it is used", list(lacking))),
            (true, false) => Some(format!("it is encrypted to {}, where it is not used", list(excess))),
            (true, true) if !entry.is_to(&keys(&readers)) => Some("the keys of its recipients have changed".to_owned()),
            (true, true) => None,
        })
    }

    /// The secrets that must be encrypted again, with the reasons.
    pub fn all_stale(&self) -> Result<Vec<(String, String)>> {
        let (mut stale, mut errors) = (Vec::new(), Vec::new());
        for name in self.names() {
            stale.extend(keep(&mut errors, self.stale(&name)).flatten().map(|why| (name, why)));
        }
        Error::distinct(errors).map_or(Ok(stale), Err)
    }

    /// Encrypts stale secrets again, and returns their names. All are decrypted with `keyring` and encrypted before the first file is
    /// written, so that a failure leaves the site unchanged.
    pub fn rekey(&mut self, keyring: &dyn Fn() -> Result<Keyring>) -> Result<Vec<String>> {
        self.check_facts()?;
        let stale: Vec<String> = self.all_stale()?.into_iter().map(|(name, _)| name).collect();
        // in the index without a secret in the site
        let is_orphan = |name: &&str| self.site.files.get(&name::path_of(name)).is_none();
        let orphans: Vec<&str> = self.index.names().filter(is_orphan).collect();
        if stale.is_empty() && orphans.is_empty() {
            return Ok(stale);
        }
        let mut draft = Draft::of(self.index.clone());
        if !stale.is_empty() {
            let keyring = keyring()?;
            for name in &stale {
                let (hosts, readers) = self.recipients(name)?;
                let plain = keyring.open(name, &self.encrypted(name)?)?;
                draft.write_secret(name, &plain, hosts, &keys(&readers))?;
            }
        }
        orphans.iter().for_each(|name| draft.remove_secret(name));
        self.commit(draft)?;
        Ok(stale)
    }

    /// Removes a secret; fails if the roles of a host use it.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        self.encrypted(name)?;
        self.check_facts()?;
        let users = self.users.of(name);
        if !users.is_empty() {
            let users: Vec<&str> = users.iter().map(String::as_str).collect();
            return Err(error!(SECRET_WRITE, "the secret {name} is used on {}", users.join(", "))
                .help("remove it from the roles first"));
        }
        let mut draft = Draft::of(self.index.clone());
        draft.remove_secret(name);
        self.commit(draft)
    }

    /// The problems with the secrets of the site.
    pub fn complaints(&self) -> Vec<Error> {
        let names = self.names();
        let mut errors = Vec::new();
        for (path, content) in self.site.files.iter().filter(|(path, _)| path.starts_with("secrets/") && *path != INDEX)
        {
            let is_age = content.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----")
                || content.starts_with(b"age-encryption.org/v1");
            if name::name_in(path).is_none_or(|name| name::check(name).is_err()) || !is_age {
                errors.push(
                    error!(SECRET_WRITE, "{path} is not a secret")
                        .because("secrets/ can only contain age files named NAME.age, and the index that kpull writes")
                        .help("write it with `kpull secret set NAME --from FILE`, and remove this one"),
                );
            }
        }
        if names.is_empty() {
            return errors;
        }
        let stale = keep(&mut errors, self.all_stale()).unwrap_or_default();
        errors.extend(stale.into_iter().map(|(name, why)| {
            error!(SECRET, "the secret {name} is not encrypted to the right recipients")
                .because(why)
                .help("run `kpull secret rekey`")
        }));
        errors
    }

    /// Writes the changes to the site.
    fn commit(&mut self, draft: Draft) -> Result<()> {
        self.index = draft.index.clone();
        draft.commit(&self.dir)
    }
}

fn no_operators(site: &Site) -> Error {
    error!(SECRET_WRITE, "the site names no operators who can read secrets")
        .at(site.doc.place(&["secrets".to_owned()]), "of this site")
        .help("add `[secrets]` with `recipients = [\"…\"]` to site.toml: the public keys of its operators (ssh-ed25519, ssh-rsa or age1…)")
}

fn no_recipient(host: &str, name: &str, doc: &Doc) -> Error {
    let file = doc.file();
    error!(SECRET_WRITE, "{host} uses the secret {name}, but has no key to decrypt it")
        .at(doc.key_place(&[]), "no `recipient` in this file")
        .help(format!(
            "add `recipient = \"ssh-ed25519 …\"` to {file}: the key in /etc/ssh/ssh_host_ed25519_key.pub on the host"
        ))
}
