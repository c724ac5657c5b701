//! `[[secret]]`: a secret as a file, or as a systemd credential of a unit.

use sha2::{Digest, Sha256};

use crate::host::NoAccess;
use crate::host::process::{Command, argv, run, run_if_there};
use crate::host::unit_files::ETC;
use crate::kind::prelude::*;
use crate::kind::unit::UnitName;
use crate::secret::Secret;

/// Where systemd looks for credentials.
const PLAIN: &str = "/etc/credstore";
const ENCRYPTED: &str = "/etc/credstore.encrypted";
/// How long encryption may take; a TPM is slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// systemd's limit for a credential, in bytes.
const LARGEST: usize = 1 << 20;

/// Fields of `[[secret]]`. Either `path`, or `credential` and `unit`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretFields {
    /// The secret's name in the site: `secrets/NAME.age`.
    name: String,
    /// The file to write the secret to, byte for byte.
    path: Option<AbsolutePath>,
    /// The mode of that file. Default: `0600`.
    mode: Option<Mode>,
    /// The user that owns that file. Default: `root`.
    owner: Option<AccountName>,
    /// The group that owns that file. Default: `root`.
    group: Option<AccountName>,
    /// The name of the credential: the file name in `$CREDENTIALS_DIRECTORY`.
    credential: Option<String>,
    /// The unit that receives the credential.
    unit: Option<UnitName>,
}

impl Fields for SecretFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        match (self.path, self.credential, self.unit) {
            (Some(path), None, None) => {
                let secret = build.secret(&self.name)?;
                let wanted = Ownership::new(0o600, self.mode, self.owner, self.group);
                let file = File::new(Self::NAME, path, secret.plain.as_slice(), true);
                Ok(vec![Box::new(File { wanted, ..file })])
            }
            (None, Some(credential), Some(unit)) => {
                let given =
                    [("mode", self.mode.is_some()), ("owner", self.owner.is_some()), ("group", self.group.is_some())];
                for (field, given) in given {
                    let why = "only root can read a credential, and the unit while it runs: remove this";
                    build.refuse_if(given, field, why)?;
                }
                let is_name = is_plain(&credential) && !credential.starts_with('.') && credential.len() <= 64;
                build.refuse_if(!is_name, "credential", "it has at most 64 letters, digits, `.`, `_` and `-`")?;
                let (_, kind) = unit.0.rsplit_once('.').unwrap_or_default();
                let section = match kind {
                    "service" => "Service",
                    "socket" => "Socket",
                    "mount" => "Mount",
                    "swap" => "Swap",
                    _ => return Err(build.invalid("unit", "only services, sockets, mounts and swaps have credentials")),
                };
                let secret = build.secret(&self.name)?;
                let why = format!("it is larger than a credential can be ({LARGEST} bytes)");
                build.refuse_if(secret.plain.len() > LARGEST, "name", &why)?;
                Ok(vec![Box::new(Credential { name: credential, unit: unit.0, section, secret })])
            }
            (None, None, None) => Err(build.invalid("name", "set `path`, or `credential` and `unit`")),
            (None, None, Some(_)) => {
                Err(build.invalid("unit", "set `credential` too: the name by which the unit reads it"))
            }
            (None, Some(_), None) => Err(build.invalid("credential", "set `unit` too: the unit that receives it")),
            (Some(_), ..) => Err(build.invalid("path", "set either `path`, or `credential` and `unit`")),
        }
    }
}

/// A secret that a unit gets as a credential: stored for systemd, with a drop-in that loads it.
#[derive(Debug)]
pub struct Credential {
    name: String,
    unit: String,
    /// The section of the unit's file that credentials go into.
    section: &'static str,
    secret: Secret,
}

/// How a credential is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Encrypted by `systemd-creds` for this machine.
    Encrypted,
    /// In plain text, readable by root.
    Plain,
}

/// The record of a credential that systemd encrypted: it can't be compared with the plain text, and differs each
/// time.
#[derive(Debug, Deserialize, Serialize, PartialEq, Eq)]
struct Record {
    /// SHA-256 of the encrypted file in the site.
    #[serde(rename = "sealed")]
    encrypted: String,
    /// SHA-256 of what is stored.
    stored: String,
}

impl Credential {
    fn path(&self, form: Form) -> PathBuf {
        Path::new(if form == Form::Encrypted { ENCRYPTED } else { PLAIN }).join(&self.name)
    }

    /// All paths that it may have on the host.
    fn paths(&self) -> [PathBuf; 3] {
        [self.path(Form::Plain), self.path(Form::Encrypted), self.dropin_path().into()]
    }

    fn record(&self) -> String {
        format!("credentials/{}.json", self.name)
    }

    /// The drop-in for each form.
    fn dropin(&self, form: Form) -> Result<File> {
        let setting = if form == Form::Encrypted { "LoadCredentialEncrypted" } else { "LoadCredential" };
        let text = format!("[{}]\n{setting}={}:{}\n", self.section, self.name, self.path(form).display());
        let path = AbsolutePath::try_from(self.dropin_path()).map_err(|what| Error::new(code::CREDENTIAL, what))?;
        Ok(File::new("unit-file", path, text.into_bytes(), false))
    }

    fn dropin_path(&self) -> String {
        format!("{ETC}/{}.d/kpull-credential-{}.conf", self.unit, self.name)
    }

    /// The form in which it is stored correctly; `None` if it is not.
    fn stored(&self, work: &Work<'_>) -> Result<Option<Form>> {
        let root = &work.host.root;
        if let Some((meta, content)) = root.read(&self.path(Form::Encrypted))? {
            let stored = hex::encode(Sha256::digest(&content));
            let wanted = Record { encrypted: self.secret.encrypted.clone(), stored };
            let is_good = meta.mode == 0o600 && work.store.read::<Record>(&self.record())?.as_ref() == Some(&wanted);
            return Ok((is_good && root.meta(&self.path(Form::Plain))?.is_none()).then_some(Form::Encrypted));
        }
        let Some((meta, content)) = root.read(&self.path(Form::Plain))? else { return Ok(None) };
        Ok((meta.mode == 0o600 && content == **self.secret.plain).then_some(Form::Plain))
    }

    /// Whether a credential is stored in plain text: an encrypted one has a record.
    fn is_plain(&self, root: &Root) -> Result<bool> {
        let plain = root.meta(&self.path(Form::Plain))?.filter(|meta| meta.mode == 0o600);
        Ok(plain.is_some() && root.meta(&self.path(Form::Encrypted))?.is_none())
    }

    /// Encrypts it with `systemd-creds`; `None` if this host can't.
    fn encrypt(&self, work: &Work<'_>) -> Result<Option<Vec<u8>>> {
        if !work.host.is_live() || run_if_there(&Command::new(["systemd-creds", "--version"], PATIENCE))?.is_none() {
            return Ok(None);
        }
        // in the state directory, which only root can read
        let (inner, outside) = (Path::new("/credential.new"), work.store.dir().join("credential.new"));
        work.store.root().remove(inner)?;
        let name = format!("--name={}", self.name);
        let words = argv(["systemd-creds", "encrypt", &name, "-", &outside.to_string_lossy()]);
        let output = run(&Command { input: Some(&self.secret.plain), ..Command::new(&words, PATIENCE) })?;
        let encrypted = work.store.root().read(inner)?.map(|(_, content)| content);
        work.store.root().remove(inner)?;
        match encrypted {
            Some(encrypted) if output.is_success() => Ok(Some(encrypted)),
            // a credential that was encrypted before is not stored in plain text because of a temporary failure
            _ if work.host.root.meta(&self.path(Form::Encrypted))?.is_some() => {
                Err(output.failure(format!("can't encrypt the credential {}", self.name)).help(format!(
                    "systemd-creds encrypted it before; to store it unencrypted in {PLAIN}, remove {}",
                    self.path(Form::Encrypted).display()
                )))
            }
            _ => Ok(None),
        }
    }

    fn store(&self, work: &Work<'_>) -> Result<Form> {
        let root = &work.host.root;
        let encrypted = self.encrypt(work)?;
        let (form, other, content) = match &encrypted {
            Some(encrypted) => (Form::Encrypted, Form::Plain, encrypted),
            None => (Form::Plain, Form::Encrypted, &**self.secret.plain),
        };
        let path = self.path(form);
        let dir = path.parent().unwrap_or(&path);
        let ours = |mode| match work.host.access(mode, "root", "root") {
            Err(NoAccess::Missing(_)) => Ok(Access::of_mode(mode)),
            Err(NoAccess::Failed(error)) => Err(error),
            Ok(access) => Ok(access),
        };
        if root.meta(dir)?.is_none_or(|meta| meta.what != FileType::Directory) {
            root.make_directory(dir, ours(0o700)?)?;
        }
        if form == Form::Encrypted {
            // before the file: a record without its file is at most outdated
            let record =
                Record { encrypted: self.secret.encrypted.clone(), stored: hex::encode(Sha256::digest(content)) };
            work.store.write(&self.record(), &record)?;
        }
        root.write(&path, content, ours(0o600)?)?;
        root.remove(&self.path(other))?;
        if form == Form::Plain {
            work.store.root().remove(&Path::new("/").join(self.record()))?;
        }
        Ok(form)
    }
}

impl Resource for Credential {
    fn about(&self) -> About {
        let about = About::new(SecretFields::NAME, &self.name, Phase::Files).claiming(self.paths().map(Claim::path));
        let watched = Some(self.paths().map(WatchedInput::Path).into());
        About { watched, is_discreet: true, is_sensitive: true, ..about }
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let mut parts = Vec::new();
        let stored = self.stored(work)?;
        parts.extend(stored.is_none().then(|| "store the credential".to_owned()));
        // the form is known once it is stored
        let dropin = self.dropin(stored.unwrap_or(Form::Plain))?;
        if stored.is_some() || work.host.root.meta(&dropin.path)?.is_none() {
            let change = dropin.observe(work)?;
            parts.extend(change.map(|change| format!("drop-in of {}: {}", self.unit, change.summary)));
        }
        let only_secrets = stored.is_none() && self.is_plain(&work.host.root)? && dropin.observe(work)?.is_none();
        Ok(Change::of(parts).map(|change| Change { only_secrets, ..change }.added_if(stored.is_none())))
    }

    fn apply(&self, work: &Work<'_>, change: &Change) -> Result<()> {
        let form = self.stored(work)?.map_or_else(|| self.store(work), Ok)?;
        let dropin = self.dropin(form)?;
        dropin.observe(work)?.map_or(Ok(()), |_| dropin.apply(work, change))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::host::Host;
    use crate::kind::testing::{Tree, one, refusal};
    use crate::store::Store;

    const CREDENTIAL: &str = "name = 'hunter2'\ncredential = 'db'\nunit = 'app.service'";

    fn mode(tree: &Tree, path: &str) -> u32 {
        tree.path(path).metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_secret_is_written_byte_for_byte_for_its_owner_alone_and_not_shown() {
        let tree = Tree::new();
        let change = tree.converge(&*one("secret", "name = 'hunter2'\npath = '/etc/app/key'"));
        assert_eq!((tree.get("/etc/app/key").as_str(), mode(&tree, "/etc/app/key")), ("hunter2", 0o600));
        assert!(!change.diff.unwrap().to_string().contains("hunter2"));
        let secret = one("secret", "name = 'hunter3'\npath = '/etc/app/key'\nmode = '0640'");
        assert_eq!(secret.about().key, "/etc/app/key");
        let change = tree.converge(&*secret);
        assert_eq!(change.summary, "content, mode 0600 → 0640");
        assert!(!change.diff.unwrap().to_string().contains("hunter"));
    }

    #[test]
    fn a_tree_has_its_credentials_as_they_are_for_root_alone() {
        let tree = Tree::new();
        let secret = one("secret", CREDENTIAL);
        let change = tree.converge(&*secret);
        assert_eq!(change.summary, "store the credential, drop-in of app.service: create");
        assert!(change.diff.is_none());
        assert_eq!((tree.get("/etc/credstore/db").as_str(), mode(&tree, "/etc/credstore/db")), ("hunter2", 0o600));
        assert_eq!(mode(&tree, "/etc/credstore"), 0o700);
        let dropin = "/etc/systemd/system/app.service.d/kpull-credential-db.conf";
        assert_eq!(tree.get(dropin), "[Service]\nLoadCredential=db:/etc/credstore/db\n");
        assert_eq!(secret.about().key, "db");
    }

    #[test]
    fn a_credential_that_was_changed_is_stored_again() {
        let tree = Tree::new();
        tree.converge(&*one("secret", CREDENTIAL));
        std::fs::set_permissions(tree.path("/etc/credstore/db"), PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(tree.converge(&*one("secret", CREDENTIAL)).summary, "store the credential");
        assert_eq!(mode(&tree, "/etc/credstore/db"), 0o600);
        let other = CREDENTIAL.replace("hunter2", "hunter3");
        assert_eq!(tree.converge(&*one("secret", &other)).summary, "store the credential");
        let inputs = one("secret", CREDENTIAL).watched_inputs(&tree.work()).unwrap().unwrap();
        for path in ["/etc/credstore/db", "/etc/systemd/system/app.service.d/kpull-credential-db.conf"] {
            assert!(inputs.contains(&WatchedInput::Path(path.into())), "{inputs:?}");
        }
        tree.put("/etc/systemd/system/app.service.d/kpull-credential-db.conf", "[Service]\n");
        assert_eq!(tree.converge(&*one("secret", &other)).summary, "drop-in of app.service: content");
    }

    #[test]
    fn an_encrypted_credential_is_known_by_its_record_and_its_digest() {
        let tree = Tree::new();
        let fields = "name = 'hunter2'\ncredential = 'db'\nunit = 'app.socket'";
        let secret = one("secret", fields);
        let host = Host::open(tree.dir.path()).unwrap();
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path()).unwrap();
        let work = Work { host: &host, store: &store, catalog: &[] };
        // as systemd-creds would have left it
        tree.put("/etc/credstore.encrypted/db", "encrypted by systemd");
        std::fs::set_permissions(tree.path("/etc/credstore.encrypted/db"), PermissionsExt::from_mode(0o600)).unwrap();
        let dropin = "/etc/systemd/system/app.socket.d/kpull-credential-db.conf";
        tree.put(dropin, "[Socket]\nLoadCredentialEncrypted=db:/etc/credstore.encrypted/db\n");
        let summary = || secret.observe(&work).unwrap().map(|change| change.summary);
        assert_eq!(summary().as_deref(), Some("store the credential"));
        let record =
            Record { encrypted: "hunter2".into(), stored: hex::encode(Sha256::digest("encrypted by systemd")) };
        store.write("credentials/db.json", &record).unwrap();
        assert_eq!(summary(), None);
        store.write("credentials/db.json", &Record { encrypted: "older".into(), ..record }).unwrap();
        assert_eq!(summary().as_deref(), Some("store the credential"));
    }

    #[test]
    fn a_secret_goes_to_one_place() {
        assert!(refusal("secret", "name = 'a'").starts_with("`name`: set `path`, or `credential` and `unit`"));
        assert!(refusal("secret", "name = 'a'\nunit = 'x.service'").starts_with("`unit`: set `credential`"));
        assert!(refusal("secret", "name = 'a'\ncredential = 'c'").starts_with("`credential`: set `unit`"));
        assert!(refusal("secret", &format!("{CREDENTIAL}\npath = '/x'")).starts_with("`path`: set either"));
        assert!(refusal("secret", &format!("{CREDENTIAL}\nmode = '0600'")).starts_with("`mode`: "));
        assert!(refusal("secret", &CREDENTIAL.replace("'db'", "'../db'")).starts_with("`credential`: "));
        assert!(refusal("secret", &CREDENTIAL.replace("app.service", "app.timer")).starts_with("`unit`: only"));
    }
}
