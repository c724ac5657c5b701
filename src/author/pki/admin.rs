//! What an operator does with a site's certificates. Each deed is all or nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::author::pki::status::{bundle, certificate_at};
use crate::author::pki::{CertificateState, CertificateStatus, Draft, survey};
use crate::document::Files;
use crate::error::{Context, Error, Result, code};
use crate::pki::{
    Authority, AuthorityFields, Category, Certificate, CertificateRequest, PrivateKey, Reason, Request, Revoked,
    authority_path, authority_secret, certificate_path, key_secret, request_path, revoked,
};
use crate::secret::index::Index;
use crate::secret::readers::{newcomers, readers};
use crate::secret::{Keyring, Recipient, name};
use crate::site::Site;

/// What was done to one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// An authority or a key pair was made.
    Made,
    /// A certificate was issued.
    Issued,
    /// A certificate was renewed.
    Renewed,
    /// A certificate was revoked.
    Revoked,
    /// Nothing was done: something else has to come first.
    Waiting,
    /// An authority's change went one step further.
    Rotated,
}

impl Operation {
    /// One word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::Issued => "issued",
            Self::Renewed => "renewed",
            Self::Revoked => "revoked",
            Self::Waiting => "waiting",
            Self::Rotated => "rotated",
        }
    }
}

/// One thing that was done.
#[derive(Clone, Debug)]
pub struct Completed {
    /// What.
    pub deed: Operation,
    /// The host, for a certificate.
    pub host: Option<String>,
    /// The certificate, authority or key pair.
    pub name: String,
    /// More about it, in a few words.
    pub note: String,
}

/// A step of an authority's change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A second authority is made, for hosts to trust.
    Begin,
    /// The second one signs from now on.
    Switch,
    /// The first one is dropped.
    Finish,
}

/// A site in a directory, and the keys of whoever works on it.
#[derive(Debug)]
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

    /// How every certificate stands.
    pub fn survey(&self) -> Result<Vec<CertificateStatus>> {
        survey(&self.site, Some(&self.dir), self.now)
    }

    /// Makes the authorities and key pairs that are missing. What is there stays as it is.
    pub fn init(&self) -> Result<Vec<Completed>> {
        let operators = self.operators()?;
        let mut draft = Draft::new(&self.site.files)?;
        let mut done = Vec::new();
        for (name, fields) in &self.site.pki {
            let path = public_path(name, fields.kind);
            let has_key = self.sealed(&authority_secret(name)).is_some();
            if self.site.files.get(&path).is_some() {
                continue;
            }
            if has_key {
                return Err(Error::new(code::PKI, format!("{path} is missing, and its key is there")).help(format!(
                    "take {path} from the commit that had it, or remove secrets/pki/{name}.key.age to begin anew"
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
                    let note = format!(
                        "{}, {}, until {}",
                        certificate.common_name,
                        fields.key_type,
                        day(certificate.not_after)
                    );
                    (certificate.pem.clone(), authority.key().pem(), note)
                }
            };
            draft.write(path, public);
            draft.write_secret(&authority_secret(name), &key, &[], operators)?;
            done.push(Completed { deed: Operation::Made, host: None, name: name.clone(), note });
        }
        draft.commit(&self.dir)?;
        Ok(done)
    }

    /// Issues the certificates that are missing, and those that are not as they are wanted now.
    pub fn issue(&self) -> Result<Vec<Completed>> {
        let due = |standing: &CertificateStatus| match &standing.state {
            CertificateState::Missing => Some((Operation::Issued, "was missing".to_owned())),
            CertificateState::Changed(how) => Some((Operation::Issued, format!("the old one {}", how.join("; ")))),
            CertificateState::Waiting => {
                Some((Operation::Waiting, "the host makes its key, and its request is not in the site".to_owned()))
            }
            _ => None,
        };
        self.sign_all(due)
    }

    /// Renews certificates: those that are due (or end within `before`); or those called `names`, due or not.
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
        for wanted in names {
            let is_it = |standing: &&CertificateStatus| {
                standing.name == *wanted && standing.wish.is_some() && host.is_none_or(|host| standing.host == host)
            };
            if !all.iter().any(|standing| is_it(&standing)) {
                return Err(unknown(wanted, all.iter().map(|standing| standing.name.as_str())));
            }
        }
        let due = |standing: &CertificateStatus| {
            let left = standing.left(self.now)?;
            let is_meant =
                host.is_none_or(|host| standing.host == host) && (names.is_empty() || names.contains(&standing.name));
            let is_due = match before {
                Some(before) => left <= before,
                None => {
                    !names.is_empty() || matches!(standing.state, CertificateState::Due | CertificateState::Expired)
                }
            };
            let note = match left.as_hours() / 24 {
                _ if left.is_negative() => "had expired".to_owned(),
                days => format!("had {days} days left"),
            };
            (is_meant && is_due && standing.state != CertificateState::Waiting).then_some((Operation::Renewed, note))
        };
        self.sign_all(due)
    }

    /// Signs a certificate for each that `due` says so of, with a new key unless the host keeps its own.
    fn sign_all(&self, due: impl Fn(&CertificateStatus) -> Option<(Operation, String)>) -> Result<Vec<Completed>> {
        let mut draft = Draft::new(&self.site.files)?;
        let mut authorities = BTreeMap::new();
        let (mut done, mut errors) = (Vec::new(), Vec::new());
        for standing in self.survey()? {
            let Some((deed, note)) = due(&standing) else { continue };
            let Some((wish, _)) = &standing.wish else { continue };
            let mut note = note;
            if deed != Operation::Waiting {
                match self.sign(&standing.host, wish, &mut authorities, &mut draft) {
                    Ok(more) => note.push_str(&more),
                    Err(error) => errors.push(error),
                }
            }
            done.push(Completed { deed, host: Some(standing.host), name: standing.name, note });
        }
        Error::check(errors)?;
        draft.commit(&self.dir)?;
        Ok(done)
    }

    /// Puts one certificate, and its key, into the draft.
    fn sign(
        &self,
        host: &str,
        wish: &CertificateRequest,
        authorities: &mut BTreeMap<String, Authority>,
        draft: &mut Draft,
    ) -> Result<String> {
        if !authorities.contains_key(&wish.authority) {
            authorities.insert(wish.authority.clone(), self.authority(&wish.authority)?);
        }
        let Some(authority) = authorities.get(&wish.authority) else { return Ok(String::new()) };
        let certificate = if wish.key_on_host {
            let path = request_path(host, &wish.name);
            let bytes =
                self.site.files.get(&path).ok_or_else(|| Error::new(code::PKI, format!("there is no {path}")))?;
            let request = self.fitting(Request::read(&path, bytes)?, &path, wish)?;
            // a key that was kept here before is nobody's any more
            draft.remove_secret(&key_secret(host, &wish.name));
            authority.sign(wish, &request.public, self.now)?
        } else {
            let own = &self.site.find_host(host)?.recipients;
            if own.is_empty() {
                return Err(Error::new(
                    code::PKI,
                    format!("the key of the certificate {} can't be encrypted to {host}", wish.name),
                )
                .because(format!("host_vars/{host}.toml has no `recipient`"))
                .help("add the host's /etc/ssh/ssh_host_ed25519_key.pub as `recipient = \"ssh-ed25519 …\"`"));
            }
            let recipients = self.same_readers(draft.index(), &key_secret(host, &wish.name), Some((host, own)))?;
            let key = PrivateKey::generate(wish.key_type)?;
            draft.write_secret(&key_secret(host, &wish.name), &key.pem(), &[host], &recipients)?;
            authority.sign(wish, &key.public(), self.now)?
        };
        let end = certificate.not_after;
        let mut note = format!(", until {}", day(end));
        if end == authority.certificate.not_after {
            note.push_str(&format!(
                " when the authority {0} ends too: change that soon, with `kpull pki rotate {0}`",
                wish.authority
            ));
        }
        draft.write(certificate_path(host, &wish.name), certificate.pem);
        Ok(note)
    }

    fn fitting(&self, request: Request, path: &str, wish: &CertificateRequest) -> Result<Request> {
        if request.key_type == Some(wish.key_type) {
            return Ok(request);
        }
        Err(Error::new(code::PKI, format!("{path} is for a key of another type than {}", wish.key_type))
            .help("remove the key on the host, and let it make another one; or say in the role what it is"))
    }

    /// Puts a host's request into the site, and issues its certificate.
    pub fn sign_request(&self, file: &Path, host: &str, certificate: &str) -> Result<Vec<Completed>> {
        self.site.find_host(host)?;
        let bytes = std::fs::read(file).context(code::PKI, || format!("can't read {}", file.display()))?;
        let request = Request::read(&file.display().to_string(), &bytes)?;
        let all = self.survey()?;
        let wish = all
            .iter()
            .filter(|standing| standing.host == host)
            .find(|standing| standing.name == certificate)
            .and_then(|standing| standing.wish.as_ref())
            .map(|(wish, _)| wish)
            .ok_or_else(|| unknown(certificate, all.iter().map(|standing| standing.name.as_str())))?;
        if !wish.key_on_host {
            return Err(Error::new(
                code::PKI,
                format!("the key of the certificate {certificate} is not made by {host}"),
            )
            .help("set `key_on_host = true` in the role, or run `kpull pki issue`"));
        }
        let request = self.fitting(request, &file.display().to_string(), wish)?;
        let authority = self.authority(&wish.authority)?;
        let signed = authority.sign(wish, &request.public, self.now)?;
        let mut draft = Draft::new(&self.site.files)?;
        draft.write(request_path(host, certificate), bytes);
        draft.write(certificate_path(host, certificate), signed.pem);
        draft.remove_secret(&key_secret(host, certificate));
        draft.commit(&self.dir)?;
        let note = format!("for the key of the request, until {}", day(signed.not_after));
        Ok(vec![Completed { deed: Operation::Issued, host: Some(host.to_owned()), name: certificate.to_owned(), note }])
    }

    /// Revokes a certificate and takes it out of the site, with its key, so that the next `issue` makes another one.
    pub fn revoke(&self, host: &str, certificate: &str, reason: Reason) -> Result<Vec<Completed>> {
        let path = certificate_path(host, certificate);
        let bytes = self.site.files.get(&path).ok_or_else(|| {
            let known = self.site.files.iter().filter_map(|(path, _)| certificate_at(path));
            unknown(certificate, known.filter(|(other, _)| *other == host).map(|(_, name)| name))
        })?;
        let read = Certificate::one(&path, bytes)?;
        let authority = self.signer_of(&read)?.ok_or_else(|| {
            Error::new(code::PKI, format!("{path} is from no authority of this site"))
                .help("whoever signed it has to revoke it; remove the file, and `kpull pki issue` makes another one")
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
        Ok(vec![Completed {
            deed: Operation::Revoked,
            host: Some(host.to_owned()),
            name: certificate.to_owned(),
            note,
        }])
    }

    /// Goes one step further in the change of an authority.
    pub fn rotate(&self, name: &str, step: Step) -> Result<Vec<Completed>> {
        let fields = self.fields(name)?;
        let (current, next, old) = (authority_secret(name), next_secret(name), old_secret(name));
        let mut certificates = bundle(&self.site, name)?;
        let mut draft = Draft::new(&self.site.files)?;
        let note = match step {
            Step::Begin => {
                if self.sealed(&next).is_some() || self.sealed(&old).is_some() {
                    return Err(Error::new(code::PKI, format!("the authority {name} is being changed already"))
                        .help(format!("go on with `kpull pki rotate {name} --switch`, then `--finish`")));
                }
                self.authority(name)?;
                let made = Authority::make(name, fields, self.now)?;
                self.same_readers(draft.index(), &current, None)?;
                draft.write_secret(&next, &made.key().pem(), &[], self.operators()?)?;
                certificates.push(made.certificate);
                format!(
                    "hosts will trust both; when every host has the release, go on with `kpull pki rotate {name} --switch`"
                )
            }
            Step::Switch => {
                let (Some(sealed), Some(before)) = (self.sealed(&next), self.sealed(&current)) else {
                    return Err(Error::new(code::PKI, format!("the authority {name} has no successor yet"))
                        .help(format!("begin with `kpull pki rotate {name}`")));
                };
                let key = self.key(&next, sealed)?;
                let at = certificates.iter().position(|certificate| certificate.public == key.public());
                let at = at.ok_or_else(|| {
                    Error::new(code::PKI, format!("pki/{name}.pem has no certificate for the key of the new authority"))
                        .help("take both from one commit")
                })?;
                certificates[..=at].rotate_right(1);
                draft.move_secret(&current, &old, before);
                draft.move_secret(&next, &current, sealed);
                format!(
                    "the new one signs; `kpull pki issue` now, and when every host has the release, `kpull pki rotate {name} --finish`"
                )
            }
            Step::Finish => {
                let Some(first) = certificates.first().cloned().filter(|_| self.sealed(&old).is_some()) else {
                    return Err(Error::new(code::PKI, format!("there is no old authority {name} to drop"))
                        .help(format!("a change goes `kpull pki rotate {name}`, `--switch`, `--finish`")));
                };
                let left = self.signed_by_others(&certificates, &first)?;
                if !left.is_empty() {
                    return Err(Error::new(code::PKI, format!("certificates of the old authority {name} are left"))
                        .because(left.join(", "))
                        .help("`kpull pki issue` makes them anew; bring that release to the hosts first"));
                }
                certificates.truncate(1);
                draft.remove_secret(&old);
                "hosts will trust the new one only".to_owned()
            }
        };
        let text: String = certificates.iter().map(|certificate| certificate.pem.as_str()).collect();
        draft.write(authority_path(name), text);
        draft.commit(&self.dir)?;
        let site = Arc::new(Site::load(Files::in_directory(&self.dir)?)?);
        Self { site, dir: self.dir.clone(), keys: self.keys.clone(), now: self.now }.write_revocations(name)?;
        Ok(vec![Completed { deed: Operation::Rotated, host: None, name: name.to_owned(), note }])
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

    /// Writes the list of an authority anew, if it has one.
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
            let Some(sealed) = self.sealed(&secret) else { continue };
            let key = self.key(&secret, sealed)?;
            let Some(certificate) = certificates.iter().find(|certificate| certificate.public == key.public()) else {
                continue;
            };
            let own = all.iter().filter(|revoked| revoked.authority == name);
            text.push_str(&Authority::new(name, certificate.clone(), key)?.revocations(own, self.now)?);
        }
        match text.is_empty() {
            true => Err(no_key(name)),
            false => Ok(text),
        }
    }

    /// The authority of this site that has signed a certificate.
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

    /// An authority as it signs now.
    fn authority(&self, name: &str) -> Result<Authority> {
        self.fields(name)?;
        let certificate = bundle(&self.site, name)?.into_iter().next().ok_or_else(|| {
            Error::new(code::PKI, format!("the authority {name} has no certificate yet")).help("run `kpull pki init`")
        })?;
        let secret = authority_secret(name);
        let sealed = self.sealed(&secret).ok_or_else(|| no_key(name))?;
        Authority::new(name, certificate, self.key(&secret, sealed)?)
    }

    fn fields(&self, name: &str) -> Result<&AuthorityFields> {
        let authorities = || self.site.pki.iter().filter(|(_, fields)| fields.kind == Category::Authority);
        authorities().find(|(known, _)| *known == name).map(|(_, fields)| fields).ok_or_else(|| {
            let error = Error::new(code::PKI, format!("there is no authority `{name}`"));
            error.help_nearest(
                name,
                authorities().map(|(name, _)| name.as_str()),
                format!("add [pki.{name}] to site.toml"),
            )
        })
    }

    /// The keys that a new key is encrypted to: the operators', and a host's. An error when one of them could not read the key that it
    /// takes the place of.
    fn same_readers(&self, index: &Index, secret: &str, host: Option<(&str, &[Recipient])>) -> Result<Vec<Recipient>> {
        let wanted = readers(self.operators()?, host);
        let keys = wanted.iter().map(|reader| reader.key.clone()).collect();
        let Some(sealed) = self.sealed(secret) else { return Ok(keys) };
        let new = newcomers(sealed, index.get(secret), wanted);
        if new.is_empty() {
            return Ok(keys);
        }
        let names: Vec<String> = new.iter().map(ToString::to_string).collect();
        Err(Error::new(code::PKI, format!("a new {secret} would be read by {}, who can't read the one that is there", names.join(", "))).help(
            "if that is meant, run `kpull secret rekey` first, which asks; else look at `recipient` in host_vars and at `[secrets] recipients` in site.toml",
        ))
    }

    fn sealed(&self, secret: &str) -> Option<&[u8]> {
        self.site.files.get(&name::path_of(secret)).map(|bytes| &**bytes)
    }

    fn key(&self, secret: &str, sealed: &[u8]) -> Result<PrivateKey> {
        PrivateKey::from_pem(&name::path_of(secret), &self.keys.open(secret, sealed)?)
    }

    fn operators(&self) -> Result<&[Recipient]> {
        match self.site.operators.as_slice() {
            [] => Err(Error::new(
                code::PKI,
                "the site has no operators, so nobody could read the keys of its authorities",
            )
            .help("add `[secrets]` with `recipients = [\"ssh-ed25519 …\"]` to site.toml: your own public key")),
            some => Ok(some),
        }
    }
}

fn next_secret(name: &str) -> String {
    format!("pki/{name}.next.key")
}

fn old_secret(name: &str) -> String {
    format!("pki/{name}.old.key")
}

fn public_path(name: &str, sort: Category) -> String {
    match sort {
        Category::Authority => authority_path(name),
        Category::KeyPair => format!("pki/{name}.pub"),
    }
}

fn no_key(name: &str) -> Error {
    Error::new(
        code::PKI,
        format!("the authority {name} has no key in this site: there is no secrets/pki/{name}.key.age"),
    )
    .help("put it there with `kpull secret set`, in PEM; or remove the certificate, and `kpull pki init` begins anew")
}

fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let error = Error::new(code::PKI, format!("there is no certificate `{name}`"));
    error.help_nearest(name, known, "`kpull pki list` shows them all")
}

/// The day of a time, as people write it.
fn day(time: Timestamp) -> String {
    time.to_string().split('T').next().unwrap_or_default().to_owned()
}
