//! The operations on the certificates of a site. Each operation succeeds as a whole or changes nothing.

use jiff::SignedDuration;
use serde::Serialize;

use crate::author::pki::status::{bundle, certificate_at};
use crate::author::pki::{CertificateState, CertificateStatus, Draft, survey};
use crate::author::prelude::*;
use crate::pki::{
    Authority, AuthorityFields, Category, Certificate, CertificateRequest, PrivateKey, Reason, Request, Revoked,
    authority_path, authority_secret, certificate_path, key_secret, request_path, revoked,
};
use crate::secret::index::Index;
use crate::secret::readers::{keys, newcomers, readers};
use crate::secret::{Keyring, Recipient, name};
use crate::text::display_as_serialized;

/// An operation on a certificate, authority or key pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// An authority or a key pair was made.
    Made,
    /// A certificate was issued.
    Issued,
    /// A certificate was renewed.
    Renewed,
    /// A certificate was revoked.
    Revoked,
    /// Nothing was done: the host's request is missing.
    Waiting,
    /// The replacement of an authority advanced by one step.
    Rotated,
}

display_as_serialized!(Operation);

/// A completed operation.
#[derive(Clone, Debug)]
pub struct Completed {
    /// The operation.
    pub operation: Operation,
    /// The host, for a certificate.
    pub host: Option<String>,
    /// The certificate, authority or key pair.
    pub name: String,
    /// Details, in a few words.
    pub note: String,
}

impl Completed {
    fn new(operation: Operation, host: Option<&str>, name: &str, note: String) -> Self {
        Self { operation, host: host.map(str::to_owned), name: name.to_owned(), note }
    }
}

/// A step in the replacement of an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Create a second authority, for hosts to trust.
    Begin,
    /// Sign with the second authority.
    Switch,
    /// Remove the first authority.
    Finish,
}

/// A site in a directory, and the operator's keys.
#[derive(Clone, Debug)]
pub struct PkiAdmin {
    dir: PathBuf,
    /// The site.
    pub site: Arc<Site>,
    keys: Arc<Keyring>,
    now: Timestamp,
}

impl PkiAdmin {
    /// Opens the site in `dir`; secrets in it are read with `keys`.
    pub fn open(dir: &Path, keys: Keyring) -> Result<Self> {
        let site = Arc::new(Site::load(Files::in_directory(dir)?)?);
        Ok(Self { dir: dir.to_owned(), site, keys: Arc::new(keys), now: Timestamp::now() })
    }

    /// The status of every certificate.
    pub fn survey(&self) -> Result<Vec<CertificateStatus>> {
        survey(&self.site, Some(&self.dir), self.now)
    }

    /// Creates missing authorities and key pairs. Existing ones stay as they are.
    pub fn init(&self) -> Result<Vec<Completed>> {
        let operators = self.operators()?;
        let mut draft = Draft::new(&self.site.files)?;
        let mut done = Vec::new();
        for (name, fields) in &self.site.pki {
            let path = public_path(name, fields.kind);
            let has_key = self.encrypted(&authority_secret(name)).is_some();
            if self.site.files.get(&path).is_some() {
                continue;
            }
            if has_key {
                return Err(error!(PKI, "{path} is missing, but its key exists").help(format!(
                    "restore {path} from an earlier commit, or remove secrets/pki/{name}.key.age to create a new authority"
                )));
            }
            let (public, key, note) = match fields.kind {
                Category::KeyPair => {
                    let key = PrivateKey::generate(fields.key_type)?;
                    (key.public_pem(), key.pem(), fields.key_type.to_string())
                }
                Category::Authority => {
                    let authority = Authority::make(name, fields, self.now)?;
                    let certificate = &authority.certificate;
                    let (name, end) = (&certificate.common_name, day(certificate.not_after));
                    let note = format!("{name}, {}, until {end}", fields.key_type);
                    (certificate.pem.clone(), authority.key.pem(), note)
                }
            };
            draft.write(path, public);
            draft.write_secret(&authority_secret(name), &key, BTreeSet::new(), operators)?;
            done.push(Completed::new(Operation::Made, None, name, note));
        }
        draft.commit(&self.dir)?;
        Ok(done)
    }

    /// Issues certificates that are missing or do not match the roles.
    pub fn issue(&self) -> Result<Vec<Completed>> {
        let due = |status: &CertificateStatus| match &status.state {
            CertificateState::Missing => Some((Operation::Issued, "was missing".to_owned())),
            CertificateState::Changed(how) => Some((Operation::Issued, format!("the old one {}", how.join("; ")))),
            CertificateState::Waiting => Some((
                Operation::Waiting,
                "the host generates its key, and the site does not contain its request".to_owned(),
            )),
            _ => None,
        };
        self.sign_all(due)
    }

    /// Renews certificates that are due (or expire within `before`), or those in `names`, due or not.
    pub fn renew(
        &self,
        before: Option<SignedDuration>,
        host: Option<&str>,
        names: &[String],
    ) -> Result<Vec<Completed>> {
        let all = self.survey()?;
        if let Some(host) = host {
            self.site.find_host(host)?;
        }
        let is_of_host = |status: &CertificateStatus| host.is_none_or(|host| status.host == host);
        let requested = || all.iter().filter(|status| status.request.is_some() && is_of_host(status));
        if let Some(wanted) = names.iter().find(|wanted| !requested().any(|status| status.name == **wanted)) {
            return Err(unknown(wanted, all.iter().map(|status| status.name.as_str())));
        }
        let due = |status: &CertificateStatus| {
            let left = status.left(self.now)?;
            let is_meant = is_of_host(status) && (names.is_empty() || names.contains(&status.name));
            let is_due = match before {
                Some(before) => left <= before,
                None => !names.is_empty() || matches!(status.state, CertificateState::Due | CertificateState::Expired),
            };
            let note = match left.as_hours() / 24 {
                _ if left.is_negative() => "had expired".to_owned(),
                days => format!("had {days} days left"),
            };
            (is_meant && is_due && status.state != CertificateState::Waiting).then_some((Operation::Renewed, note))
        };
        self.sign_all(due)
    }

    /// Signs each certificate that `due` selects, with a new key unless the key stays on the host.
    fn sign_all(&self, due: impl Fn(&CertificateStatus) -> Option<(Operation, String)>) -> Result<Vec<Completed>> {
        let mut draft = Draft::new(&self.site.files)?;
        let mut authorities = BTreeMap::new();
        let (mut done, mut errors) = (Vec::new(), Vec::new());
        for status in self.survey()? {
            let (Some((operation, mut note)), Some((wanted, _))) = (due(&status), &status.request) else { continue };
            if operation != Operation::Waiting {
                let signed = self.sign(&status.host, wanted, None, &mut authorities, &mut draft);
                note.extend(keep(&mut errors, signed));
            }
            done.push(Completed::new(operation, Some(&status.host), &status.name, note));
        }
        Error::check(errors)?;
        draft.commit(&self.dir)?;
        Ok(done)
    }

    /// Adds one certificate and its key to the draft. For a key that stays on the host, `request` is the host's, if the site does not
    /// have it yet.
    fn sign(
        &self,
        host: &str,
        wanted: &CertificateRequest,
        request: Option<Request>,
        authorities: &mut BTreeMap<String, Authority>,
        draft: &mut Draft,
    ) -> Result<String> {
        if !authorities.contains_key(&wanted.authority) {
            authorities.insert(wanted.authority.clone(), self.authority(&wanted.authority)?);
        }
        let Some(authority) = authorities.get(&wanted.authority) else { return Ok(String::new()) };
        let certificate = if wanted.key_on_host {
            let in_site = || {
                let path = request_path(host, &wanted.name);
                let bytes = self.site.files.get(&path).ok_or_else(|| error!(PKI, "there is no {path}"))?;
                fitting(&path, bytes, wanted)
            };
            let request = request.map_or_else(in_site, Ok)?;
            // the key now stays on the host
            draft.remove_secret(&key_secret(host, &wanted.name));
            authority.sign(wanted, &request.public, self.now)?
        } else {
            let own = &self.site.find_host(host)?.recipients;
            if own.is_empty() {
                return Err(error!(PKI, "the key of the certificate {} can't be encrypted to {host}", wanted.name)
                    .because(format!("host_vars/{host}.toml has no `recipient`"))
                    .help("add the host's /etc/ssh/ssh_host_ed25519_key.pub as `recipient = \"ssh-ed25519 …\"`"));
            }
            let recipients = self.same_readers(&draft.index, &key_secret(host, &wanted.name), Some((host, own)))?;
            let key = PrivateKey::generate(wanted.key_type)?;
            let hosts = BTreeSet::from([host.to_owned()]);
            draft.write_secret(&key_secret(host, &wanted.name), &key.pem(), hosts, &recipients)?;
            authority.sign(wanted, &key.public(), self.now)?
        };
        let end = certificate.not_after;
        let mut note = format!(", until {}", day(end));
        if end == authority.certificate.not_after {
            note.push_str(&format!(
                " when the authority {0} expires too: replace it soon with `kpull pki rotate {0}`",
                wanted.authority
            ));
        }
        draft.write(certificate_path(host, &wanted.name), certificate.pem);
        Ok(note)
    }

    /// Adds a host's request to the site, and issues its certificate.
    pub fn sign_request(&self, file: &Path, host: &str, certificate: &str) -> Result<Vec<Completed>> {
        self.site.find_host(host)?;
        let bytes = std::fs::read(file).context(code::PKI, || format!("can't read {}", file.display()))?;
        let all = self.survey()?;
        let status = all.iter().find(|status| status.host == host && status.name == certificate);
        let Some((wanted, _)) = status.and_then(|status| status.request.as_ref()) else {
            return Err(unknown(certificate, all.iter().map(|status| status.name.as_str())));
        };
        if !wanted.key_on_host {
            return Err(error!(PKI, "{host} does not generate the key of the certificate {certificate}")
                .help("set `key_on_host = true` in the role, or run `kpull pki issue`"));
        }
        let request = fitting(&file.display().to_string(), &bytes, wanted)?;
        let mut draft = Draft::new(&self.site.files)?;
        let note = self.sign(host, wanted, Some(request), &mut BTreeMap::new(), &mut draft)?;
        draft.write(request_path(host, certificate), bytes);
        draft.commit(&self.dir)?;
        let note = format!("for the key of the request{note}");
        Ok(vec![Completed::new(Operation::Issued, Some(host), certificate, note)])
    }

    /// Revokes a certificate and removes it and its key from the site, so that the next `issue` creates another one.
    pub fn revoke(&self, host: &str, certificate: &str, reason: Reason) -> Result<Vec<Completed>> {
        let path = certificate_path(host, certificate);
        let bytes = self.site.files.get(&path).ok_or_else(|| {
            let known = self.site.files.iter().filter_map(|(path, _)| certificate_at(path));
            unknown(certificate, known.filter(|(other, _)| *other == host).map(|(_, name)| name))
        })?;
        let read = Certificate::one(&path, bytes)?;
        let authority = self.signer_of(&read)?.ok_or_else(|| {
            error!(PKI, "no authority of this site issued {path}")
                .help("its issuer must revoke it; remove the file, and run `kpull pki issue` to issue another one")
        })?;
        let mut all = Revoked::all(&self.site.files)?;
        all.push(Revoked {
            serial: read.serial.clone(),
            authority: authority.clone(),
            host: host.to_owned(),
            name: certificate.to_owned(),
            reason,
            time: Timestamp::from_second(self.now.as_second()).unwrap_or(self.now),
            expires: read.not_after,
        });
        let mut draft = Draft::new(&self.site.files)?;
        draft.write(format!("pki/{authority}.crl"), self.revocations(&authority, &all)?);
        draft.write(revoked::PATH.to_owned(), Revoked::to_toml(all));
        draft.remove(path);
        draft.remove(request_path(host, certificate));
        draft.remove_secret(&key_secret(host, certificate));
        draft.commit(&self.dir)?;
        let note = format!("serial {}, {reason}; the list of {authority} is pki/{authority}.crl", read.serial);
        Ok(vec![Completed::new(Operation::Revoked, Some(host), certificate, note)])
    }

    /// Advances the replacement of an authority by one step.
    pub fn rotate(&self, name: &str, step: Step) -> Result<Vec<Completed>> {
        let fields = self.fields(name)?;
        let (current, next, old) = (authority_secret(name), next_secret(name), old_secret(name));
        let mut certificates = bundle(&self.site, name)?;
        let mut draft = Draft::new(&self.site.files)?;
        let note = match step {
            Step::Begin => {
                if self.encrypted(&next).is_some() || self.encrypted(&old).is_some() {
                    return Err(error!(PKI, "the change of the authority {name} is already in progress")
                        .help(format!("continue with `kpull pki rotate {name} --switch`, then `--finish`")));
                }
                self.authority(name)?;
                let made = Authority::make(name, fields, self.now)?;
                self.same_readers(&draft.index, &current, None)?;
                draft.write_secret(&next, &made.key.pem(), BTreeSet::new(), self.operators()?)?;
                certificates.push(made.certificate);
                format!(
                    "hosts will trust both authorities; when every host has the release, continue with `kpull pki rotate {name} --switch`"
                )
            }
            Step::Switch => {
                let (Some(encrypted), Some(before)) = (self.encrypted(&next), self.encrypted(&current)) else {
                    return Err(error!(PKI, "the authority {name} has no successor yet")
                        .help(format!("begin with `kpull pki rotate {name}`")));
                };
                let key = self.key(&next, encrypted)?;
                let at = certificates.iter().position(|certificate| certificate.public == key.public());
                let at = at.ok_or_else(|| {
                    error!(PKI, "pki/{name}.pem has no certificate for the key of the new authority")
                        .help("restore both from one commit")
                })?;
                certificates[..=at].rotate_right(1);
                draft.move_secret(&current, &old, before);
                draft.move_secret(&next, &current, encrypted);
                let rekey = if fields.key_hosts.is_empty() { "" } else { " and `kpull secret rekey`" };
                format!(
                    "the new authority signs now; run `kpull pki issue`{rekey}, and when every host has the release, `kpull pki rotate {name} --finish`"
                )
            }
            Step::Finish => {
                let Some(first) = certificates.first().cloned().filter(|_| self.encrypted(&old).is_some()) else {
                    return Err(error!(PKI, "there is no old authority {name} to remove")
                        .help(format!("the steps of a change are `kpull pki rotate {name}`, `--switch`, `--finish`")));
                };
                let left = self.signed_by_others(&certificates, &first)?;
                if !left.is_empty() {
                    return Err(error!(PKI, "the site still contains certificates of the old authority {name}")
                        .because(left.join(", "))
                        .help("run `kpull pki issue` to issue them again, and first apply that release on all hosts"));
                }
                certificates.truncate(1);
                draft.remove_secret(&old);
                "hosts will trust only the new authority".to_owned()
            }
        };
        let text: String = certificates.iter().map(|certificate| certificate.pem.as_str()).collect();
        draft.write(authority_path(name), text);
        draft.commit(&self.dir)?;
        let site = Arc::new(Site::load(Files::in_directory(&self.dir)?)?);
        Self { site, ..self.clone() }.write_revocations(name)?;
        Ok(vec![Completed::new(Operation::Rotated, None, name, note)])
    }

    /// `HOST/NAME` of the certificates that one of `certificates` signed, and not `but`.
    fn signed_by_others(&self, certificates: &[Certificate], but: &Certificate) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for (path, bytes) in self.site.files.iter() {
            let Some((host, name)) = certificate_at(path) else { continue };
            let read = Certificate::one(path, bytes)?;
            if !read.is_signed_by(but) && certificates.iter().any(|other| read.is_signed_by(other)) {
                found.push(format!("{host}/{name}"));
            }
        }
        Ok(found)
    }

    /// Signs the revocation list of an authority again, if it has one.
    fn write_revocations(&self, name: &str) -> Result<()> {
        let path = format!("pki/{name}.crl");
        if self.site.files.get(&path).is_none() {
            return Ok(());
        }
        let mut draft = Draft::new(&self.site.files)?;
        draft.write(path, self.revocations(name, &Revoked::all(&self.site.files)?)?);
        draft.commit(&self.dir)
    }

    /// A list for each certificate that the authority has a key for.
    fn revocations(&self, name: &str, all: &[Revoked]) -> Result<String> {
        let certificates = bundle(&self.site, name)?;
        let mut text = String::new();
        for secret in [authority_secret(name), next_secret(name), old_secret(name)] {
            let Some(encrypted) = self.encrypted(&secret) else { continue };
            let key = self.key(&secret, encrypted)?;
            let Some(certificate) = certificates.iter().find(|certificate| certificate.public == key.public()) else {
                continue;
            };
            let own = all.iter().filter(|revoked| revoked.authority == name);
            text.push_str(&Authority::new(name, certificate.clone(), key)?.revocations(own, self.now)?);
        }
        if text.is_empty() { Err(no_key(name)) } else { Ok(text) }
    }

    /// The authority of this site that signed a certificate.
    fn signer_of(&self, certificate: &Certificate) -> Result<Option<String>> {
        for (name, fields) in &self.site.pki {
            if fields.kind == Category::Authority
                && bundle(&self.site, name)?.iter().any(|authority| certificate.is_signed_by(authority))
            {
                return Ok(Some(name.clone()));
            }
        }
        Ok(None)
    }

    /// The current certificate and key of an authority.
    fn authority(&self, name: &str) -> Result<Authority> {
        self.fields(name)?;
        let certificate = bundle(&self.site, name)?
            .into_iter()
            .next()
            .ok_or_else(|| error!(PKI, "the authority {name} has no certificate yet").help("run `kpull pki init`"))?;
        let secret = authority_secret(name);
        let encrypted = self.encrypted(&secret).ok_or_else(|| no_key(name))?;
        Authority::new(name, certificate, self.key(&secret, encrypted)?)
    }

    fn fields(&self, name: &str) -> Result<&AuthorityFields> {
        let authorities = || self.site.pki.iter().filter(|(_, fields)| fields.kind == Category::Authority);
        authorities().find(|(known, _)| *known == name).map(|(_, fields)| fields).ok_or_else(|| {
            let known = authorities().map(|(name, _)| name.as_str());
            let otherwise = format!("add [pki.{name}] to site.toml");
            error!(PKI, "there is no authority `{name}`").help_nearest(name, known, otherwise)
        })
    }

    /// The recipients of a new key: the operators and a host. An error if one of them can't read the key that it replaces.
    fn same_readers(&self, index: &Index, secret: &str, host: Option<(&str, &[Recipient])>) -> Result<Vec<Recipient>> {
        let wanted = readers(self.operators()?, host);
        let keys = keys(&wanted);
        let Some(encrypted) = self.encrypted(secret) else { return Ok(keys) };
        let new = newcomers(encrypted, index.get(secret), wanted);
        if new.is_empty() {
            return Ok(keys);
        }
        let names: Vec<String> = new.iter().map(ToString::to_string).collect();
        Err(error!(PKI, "a new {secret} would be readable by {}, who can't read the existing one", names.join(", ")).help(
            "if this is intended, run `kpull secret rekey` first and confirm; otherwise, check `recipient` in host_vars and `[secrets] recipients` in site.toml",
        ))
    }

    fn encrypted(&self, secret: &str) -> Option<&[u8]> {
        self.site.files.get(&name::path_of(secret)).map(|bytes| &**bytes)
    }

    fn key(&self, secret: &str, encrypted: &[u8]) -> Result<PrivateKey> {
        PrivateKey::from_pem(&name::path_of(secret), &self.keys.open(secret, encrypted)?)
    }

    fn operators(&self) -> Result<&[Recipient]> {
        match self.site.operators.as_slice() {
            [] => Err(error!(PKI, "the site has no operators, so no one could read the keys of its authorities")
                .help("add `[secrets]` with `recipients = [\"ssh-ed25519 …\"]` to site.toml: your own public key")),
            some => Ok(some),
        }
    }
}

/// Reads a host's request, which must be for a key of the wanted type.
fn fitting(path: &str, bytes: &[u8], wanted: &CertificateRequest) -> Result<Request> {
    let request = Request::read(path, bytes)?;
    if request.key_type == Some(wanted.key_type) {
        return Ok(request);
    }
    Err(error!(PKI, "{path} is for a key of another type than {}", wanted.key_type)
        .help("remove the key on the host, so that it generates another one; or set `key_type` in the role"))
}

fn next_secret(name: &str) -> String {
    format!("pki/{name}.next.key")
}

fn old_secret(name: &str) -> String {
    format!("pki/{name}.old.key")
}

fn public_path(name: &str, category: Category) -> String {
    match category {
        Category::Authority => authority_path(name),
        Category::KeyPair => format!("pki/{name}.pub"),
    }
}

fn no_key(name: &str) -> Error {
    error!(PKI, "the authority {name} has no key in this site: there is no secrets/pki/{name}.key.age").help(
        "write it with `kpull secret set`, in PEM; or remove the certificate, and run `kpull pki init` to create a new authority",
    )
}

fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let error = error!(PKI, "there is no certificate `{name}`");
    error.help_nearest(name, known, "`kpull pki list` shows them all")
}

/// The date of a time.
fn day(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d").to_string()
}
