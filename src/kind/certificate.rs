//! `[[certificate]]`: a certificate with its key, and the certificate of its authority.
//!
//! `kpull pki issue` adds them to the site; the key is a secret that no other host can read. With `key_on_host` the host
//! creates the key and keeps it: it writes a request, which `kpull pki sign-request` answers with a certificate.

use std::net::IpAddr;

use jiff::SignedDuration;

use crate::document::fields::Lifetime;
use crate::kind::prelude::*;
use crate::pki::{
    Certificate, CertificateRequest, KeyType, LIFETIME, PrivateKey, RENEW_BEFORE, Request, Usage, authority_path,
    bad_name, certificate_path, key_secret, request,
};
use crate::secret;

/// Fields of `[[certificate]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateFields {
    /// Its name, unique on the host.
    name: String,
    /// The authority that signs it, `[pki.NAME]` of `site.toml`. Default: `name`.
    authority: Option<String>,
    /// The common name of its subject. Default: `name`.
    common_name: Option<String>,
    /// The organization of its subject, at most one. Default: none.
    #[serde(default)]
    organization: Vec<String>,
    /// Host names that it is valid for.
    #[serde(default)]
    dns: Vec<String>,
    /// Addresses that it is valid for.
    #[serde(default)]
    ip: Vec<IpAddr>,
    /// Its usage: `server`, `client`. Default: both.
    usage: Option<Vec<Usage>>,
    /// The path of the certificate.
    cert: AbsolutePath,
    /// The path of its key, with mode 0600.
    key: AbsolutePath,
    /// The path of the authority's certificate. Default: not installed.
    ca: Option<AbsolutePath>,
    /// The user that owns the files. Default: `root`.
    owner: Option<AccountName>,
    /// The group that owns the files. Default: `root`.
    group: Option<AccountName>,
    /// The type of its key. Default: the authority's.
    key_type: Option<KeyType>,
    /// How long it is valid. Default: `365d`.
    lifetime: Option<Lifetime>,
    /// How long before expiry `kpull check` requests a renewal. Default: `60d`, or a third of a shorter lifetime.
    renew_before: Option<Lifetime>,
    /// Whether the host generates the key, which then never leaves the host. Default: false.
    #[serde(default)]
    key_on_host: bool,
}

impl CertificateFields {
    /// The certificate to issue.
    pub fn request(&self, build: &dyn Build) -> Result<CertificateRequest> {
        if let Some(why) = bad_name(&self.name) {
            return Err(build.invalid("name", why));
        }
        build.refuse_if(self.organization.len() > 1, "organization", "one at most")?;
        let bad_dns = |name: &&String| {
            let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            let is_part = |part: &str| (1..=63).contains(&part.len()) && part.chars().all(is_of_name);
            !name.strip_prefix("*.").unwrap_or(name).split('.').all(is_part) || name.len() > 253
        };
        if let Some(name) = self.dns.iter().find(bad_dns) {
            return Err(build.invalid("dns", &format!("`{name}` is not a host name")));
        }
        let common_name = self.common_name.clone().unwrap_or_else(|| self.name.clone());
        // 64 is X.509's own limit
        let is_bad = |text: &String| text.is_empty() || text.chars().count() > 64 || text.contains(char::is_control);
        for (field, text) in [("common_name", Some(&common_name)), ("organization", self.organization.first())] {
            build.refuse_if(text.is_some_and(is_bad), field, "it has 1 to 64 characters, and no line breaks")?;
        }
        let usage = self.usage.clone().unwrap_or_else(|| vec![Usage::Server, Usage::Client]);
        build.refuse_if(usage.is_empty(), "usage", "write `server`, `client` or both")?;
        let authority = self.authority.clone().unwrap_or_else(|| self.name.clone());
        let fields = build.authority(&authority)?;
        let lifetime = self.lifetime.map_or(LIFETIME, |lifetime| lifetime.0);
        let renew_before = self.renew_before.map_or(RENEW_BEFORE.min(lifetime / 3), |before| before.0);
        let why = "it is longer than the `lifetime` of the certificate";
        build.refuse_if(renew_before >= lifetime, "renew_before", why)?;
        Ok(CertificateRequest {
            name: self.name.clone(),
            key_type: self.key_type.unwrap_or(fields.key_type),
            authority,
            common_name,
            organization: self.organization.first().cloned(),
            dns: self.dns.clone(),
            ip: self.ip.clone(),
            usage,
            lifetime,
            renew_before,
            key_on_host: self.key_on_host,
        })
    }
}

impl Fields for CertificateFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let wanted = self.request(build)?;
        // an operator may not have issued it yet; a host needs it
        let need = |path: &str, advice: &str| match build.site_file(path) {
            Some(bytes) => Ok(Some(bytes.clone())),
            None if build.may_lack() => Ok(None),
            None => Err(build.invalid("name", &format!("the site has no {path}")).help(format!("run `{advice}`"))),
        };
        let ownership = |mode| Ownership::new(mode, None, self.owner.clone(), self.group.clone());
        let file = |path: &AbsolutePath, content: Arc<[u8]>, mode, sensitive| File {
            wanted: ownership(mode),
            ..File::new(Self::NAME, path.clone(), content, sensitive)
        };
        let ca = need(&authority_path(&wanted.authority), "kpull pki init")?.zip(self.ca.as_ref());
        let ca = ca.map(|(content, path)| file(path, content, 0o644, false));
        let path = certificate_path(build.host(), &wanted.name);
        let (issued, key) = if wanted.key_on_host {
            let (key_type, common_name) = (wanted.key_type, wanted.common_name);
            let own = Key::Own { path: self.key.clone(), wanted: ownership(0o600), key_type, common_name };
            (build.site_file(&path).cloned(), own)
        } else {
            let issued = need(&path, "kpull pki issue")?;
            let secret = key_secret(build.host(), &wanted.name);
            need(&secret::name::path_of(&secret), "kpull pki issue")?;
            let plain = build.secret(&secret)?.plain;
            (issued, Key::Given(file(&self.key, plain.as_slice().into(), 0o600, true)))
        };
        let issued = issued.map(|bytes| Ok::<_, Error>((Certificate::one(&path, &bytes)?, bytes))).transpose()?;
        let public = issued.as_ref().map(|(certificate, _)| certificate.public.clone()).unwrap_or_default();
        let certificate = issued.map(|(_, bytes)| file(&self.cert, bytes, 0o644, false));
        let CertificateRequest { name, dns, ip, renew_before, .. } = wanted;
        Ok(vec![Box::new(Installed { name, dns, ip, key, ca, certificate, cert: self.cert, public, renew_before })])
    }
}

/// Where a certificate's key comes from.
#[derive(Debug)]
enum Key {
    /// From the site.
    Given(File),
    /// Created on this host.
    Own { path: AbsolutePath, wanted: Ownership, key_type: KeyType, common_name: String },
}

/// A certificate on a host, with its key and its authority.
#[derive(Debug)]
pub struct Installed {
    /// Its name.
    pub name: String,
    dns: Vec<String>,
    ip: Vec<IpAddr>,
    key: Key,
    ca: Option<File>,
    /// The certificate in the site; none while a request is pending.
    certificate: Option<File>,
    /// The path of the certificate on the host.
    pub cert: AbsolutePath,
    /// The public key in the certificate.
    public: Vec<u8>,
    /// How long before its expiry it must be renewed.
    pub renew_before: SignedDuration,
}

impl Installed {
    /// Whether it is for this host name or address.
    pub fn is_for(&self, host: &str) -> bool {
        if let Ok(address) = host.parse::<IpAddr>() {
            return self.ip.contains(&address);
        }
        let is_same = |name: &str| name.eq_ignore_ascii_case(host);
        // a wildcard stands for one label
        let below = host.split_once('.').map_or("", |(_, rest)| rest);
        self.dns
            .iter()
            .any(|name| is_same(name) || name.strip_prefix("*.").is_some_and(|rest| rest.eq_ignore_ascii_case(below)))
    }

    /// The files from the site; the key first, so that no certificate is without its key.
    fn files(&self) -> impl Iterator<Item = (&'static str, &File)> {
        let key = match &self.key {
            Key::Given(file) => Some(("key", file)),
            Key::Own { .. } => None,
        };
        key.into_iter().chain(self.ca.iter().map(|file| ("ca", file)))
    }

    fn paths(&self) -> impl Iterator<Item = &AbsolutePath> {
        let (Key::Given(File { path: key, .. }) | Key::Own { path: key, .. }) = &self.key;
        [key, &self.cert].into_iter().chain(self.ca.iter().map(|file| &file.path))
    }

    /// The key that this host created, if it exists.
    fn own_key(path: &AbsolutePath, work: &Work<'_>) -> Result<Option<PrivateKey>> {
        let Some((_, pem)) = work.host.root.read(path)? else { return Ok(None) };
        PrivateKey::from_pem(&path.to_string(), &zeroize::Zeroizing::new(pem)).map(Some)
    }

    /// The certificate, if it belongs to the key on this host.
    fn matching(&self, own: Option<&PrivateKey>) -> Option<&File> {
        self.certificate.as_ref().filter(|_| own.is_none_or(|own| own.public() == self.public))
    }

    /// The differences of a key that this host creates, in words; and the key, if it exists.
    fn own_differences(&self, work: &Work<'_>) -> Result<(Vec<String>, Option<PrivateKey>)> {
        let Key::Own { path, wanted, .. } = &self.key else { return Ok((Vec::new(), None)) };
        let mut parts = Vec::new();
        let asks = || format!("write the request {}", work.store.request_path(&self.name).display());
        let key = Self::own_key(path, work)?;
        match &key {
            None => {
                wanted.check(work, path)?;
                parts.extend(["generate the key".to_owned(), asks()]);
            }
            Some(own) => {
                if let Some((meta, _)) = work.host.root.file(path)? {
                    parts.extend(wanted.differences(work, path, &meta)?.into_iter().map(|part| format!("key: {part}")));
                }
                if self.matching(Some(own)).is_none() && !self.has_request_for(own, work) {
                    parts.push(asks());
                }
            }
        }
        Ok((parts, key))
    }

    fn has_request_for(&self, key: &PrivateKey, work: &Work<'_>) -> bool {
        let request = work.store.read_request(&self.name).ok().flatten().unwrap_or_default();
        Request::read("", &request).is_ok_and(|request| request.public == key.public())
    }

    /// Creates the key if it is missing, and its request.
    fn make_own(&self, work: &Work<'_>) -> Result<Option<PrivateKey>> {
        let Key::Own { path, wanted, key_type, common_name } = &self.key else { return Ok(None) };
        let access = wanted.access(work, path)?;
        let known = Self::own_key(path, work)?;
        let has_access = known.is_some() && work.host.root.give_access(path, access)?;
        let key = known.map_or_else(|| PrivateKey::generate(*key_type), Ok)?;
        if !has_access {
            work.host.root.write(path, &key.pem(), access)?;
        }
        if self.matching(Some(&key)).is_none() && !self.has_request_for(&key, work) {
            work.store.write_request(&self.name, &request(common_name, &key)?)?;
        }
        Ok(Some(key))
    }
}

impl Resource for Installed {
    fn about(&self) -> About {
        let (Key::Given(File { wanted, .. }) | Key::Own { wanted, .. }) = &self.key;
        let about =
            About::new(CertificateFields::NAME, &self.name, Phase::Files).claiming(self.paths().map(Claim::path));
        About { after: wanted.after(), is_discreet: true, is_sensitive: true, ..about }
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        let is_settled = match &self.key {
            Key::Given(_) => true,
            // a pending request is in the state directory
            Key::Own { path, .. } => Self::own_key(path, work)?.is_some_and(|own| self.matching(Some(&own)).is_some()),
        };
        Ok(is_settled.then(|| self.paths().map(|path| WatchedInput::Path(path.to_path_buf())).collect()))
    }

    fn content(&self) -> Option<Cow<'_, [u8]>> {
        self.certificate.as_ref().and_then(File::content)
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let (mut parts, own) = self.own_differences(work)?;
        let (mut diffs, is_new) = (Vec::new(), work.host.root.meta(&self.cert)?.is_none());
        let mut only_secrets = parts.is_empty();
        let certificate = match &self.key {
            Key::Own { .. } if own.is_none() => None,
            _ => self.matching(own.as_ref()),
        };
        for (what, file) in self.files().chain(certificate.map(|file| ("cert", file))) {
            if let Some(change) = file.observe(work)? {
                parts.push(format!("{what}: {}", change.summary));
                only_secrets &= file.sensitive && change.only_secrets;
                diffs.extend(change.diff.filter(|_| !file.sensitive));
            }
        }
        let diff = Diff::together(diffs);
        Ok(Change::of(parts).map(|change| Change { diff, only_secrets, ..change }.added_if(is_new)))
    }

    fn apply(&self, work: &Work<'_>, change: &Change) -> Result<()> {
        let own = self.make_own(work)?;
        for (_, file) in self.files() {
            file.apply(work, change)?;
        }
        self.matching(own.as_ref()).map_or(Ok(()), |file| file.apply(work, change))
    }
}
