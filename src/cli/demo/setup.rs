//! What the demo needs around the hosts: the site, keys, an authority, a web server.

use std::sync::atomic::{AtomicBool, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, LineEnding, PrivateKey};
use zeroize::Zeroizing;

use super::site::Shown;
use crate::author::pki::{Completed, PkiAdmin};
use crate::author::secret::admin::SecretAdmin;
use crate::author::supply::check::installed;
use crate::cli::prelude::*;
use crate::cli::secret::random;
use crate::net::server::{Answer, Received, Server};
use crate::secret::Keyring;
use crate::trust::NAMESPACE;

/// Marks a directory that the demo created, so that the next demo may remove it.
const MARK: &str = ".kpull-demo";

/// Everything around the hosts.
pub(super) struct DemoSetup {
    pub(super) shown: &'static Shown,
    dir: PathBuf,
    server: Server,
    tampering: Arc<AtomicBool>,
}

impl DemoSetup {
    /// Creates everything in an empty directory.
    pub(super) fn make(dir: &Path, shown: &'static Shown) -> Result<Self> {
        fresh(dir)?;
        let dir = dir.canonicalize().context(code::OTHER, || format!("can't find {}", dir.display()))?;
        let tampering = Arc::new(AtomicBool::new(false));
        let (tls, ca) = authority().map_err(|error| error!(OTHER, "can't create certificates").because(error))?;
        let (served, on) = (dir.clone(), tampering.clone());
        let server = Server::secure(tls, move |request| {
            answer(&served, request, on.load(Ordering::SeqCst).then_some(shown.change.1.file))
        })
        .context(code::OTHER, || "can't listen on 127.0.0.1")?;
        let setup = Self { shown, dir, server, tampering };
        for (path, content) in (shown.files)() {
            setup.write(&format!("site/{path}"), &content)?;
        }
        setup.write("ca.pem", ca.as_bytes())?;
        let (operator, public) = make_key()?;
        setup.write_key("operator", &operator)?;
        setup.append("site/site.toml", &format!("\n[secrets]\nrecipients = [{public:?}]\n"))?;
        setup.make_signer()?;
        for host in shown.hosts {
            let file = |name: &str| setup.dir.join(name).display().to_string();
            let source = format!("http = {:?}\nca = {:?}\nretries = 0", setup.server.url("site"), file("ca.pem"));
            setup.enroll(host, &format!("{source}\n\n[artifacts]\nca = {:?}", file("ca.pem")))?;
        }
        for host in load_site(&setup.site())?.hosts.keys() {
            setup.make_host_key(host)?;
        }
        Ok(setup)
    }

    pub(super) fn site(&self) -> PathBuf {
        self.dir.join("site")
    }

    pub(super) fn signer(&self) -> PathBuf {
        self.dir.join("signer")
    }

    pub(super) fn root(&self, host: &str) -> PathBuf {
        self.dir.join("hosts").join(host)
    }

    pub(super) fn outside(&self, host: &str, path: &str) -> PathBuf {
        self.root(host).join(path.trim_start_matches('/'))
    }

    pub(super) fn address(&self) -> String {
        self.server.url("site")
    }

    /// Whether the server changes a byte of what it serves.
    pub(super) fn tamper(&self, on: bool) {
        self.tampering.store(on, Ordering::SeqCst);
    }

    pub(super) fn roles_of(&self, host: &str) -> Result<String> {
        Ok(Site::load(Files::in_directory(&self.site())?)?.find_host(host)?.roles.join(", "))
    }

    /// Points the hosts to the site's directory, since the server ends with the demo.
    pub(super) fn settle(&self) -> Result<()> {
        self.shown
            .hosts
            .iter()
            .try_for_each(|host| self.enroll(host, &format!("dir = {:?}", self.site().display().to_string())))
    }

    fn enroll(&self, host: &str, source: &str) -> Result<()> {
        let text = format!(
            "host = {host:?}\n\n[trust]\nsite = {:?}\nallowed_signers = {:?}\n\n[[source]]\n{source}\n",
            self.shown.name,
            self.dir.join("allowed_signers").display().to_string()
        );
        self.write(&format!("hosts/{host}/etc/kpull/kpull.toml"), text.as_bytes())
    }

    fn make_signer(&self) -> Result<()> {
        let (key, public) = make_key()?;
        self.write("allowed_signers", format!("demo namespaces=\"{NAMESPACE}\" {public}\n").as_bytes())?;
        self.write_key("signer", &key)
    }

    /// Creates a host's SSH host key and adds it to the site as the recipient of the host's secrets.
    fn make_host_key(&self, host: &str) -> Result<()> {
        let (key, public) = make_key()?;
        self.write_key(&format!("hosts/{host}/etc/ssh/ssh_host_ed25519_key"), &key)?;
        let vars = format!("site/host_vars/{host}.toml");
        let text = self.read(&vars)?;
        self.write(&vars, format!("recipient = {public:?}\n{text}").as_bytes())
    }

    /// Creates the site's authorities and certificates.
    pub(super) fn issue(&self) -> Result<(Vec<Completed>, Vec<Completed>)> {
        let admin = || PkiAdmin::open(&self.site(), Keyring::load(&[self.dir.join("operator")], None)?);
        Ok((admin()?.init()?, admin()?.issue()?))
    }

    /// Writes the secrets that the roles need.
    pub(super) fn make_secrets(&self) -> Result<()> {
        let mut admin = SecretAdmin::open(&self.site())?;
        for name in self.shown.secrets {
            admin.set(name, random(8).as_slice())?;
        }
        // the authority's key was created before the hosts that need it were known
        SecretAdmin::open(&self.site())?.rekey(&|| Keyring::load(&[self.dir.join("operator")], None)).map(drop)
    }

    /// Serves stand-ins for the artifacts that roles install, and pins them in artifacts.toml.
    pub(super) fn pin_stand_ins(&self) -> Result<()> {
        let site = load_site(&self.site())?;
        let members = installed(&site, None);
        if members.is_empty() {
            return Ok(());
        }
        let what = || "artifacts.toml can't be read";
        let mut artifacts: toml::Table = self.read("site/artifacts.toml")?.parse().context(code::OTHER, what)?;
        for (arch, pin) in site.artifacts.values().flat_map(|artifact| &artifact.pins) {
            let (Some(members), name) = (members.get(&pin.sha256), &pin.name) else { continue };
            let bytes = stand_in(members, &pin.version)
                .context(code::OTHER, || format!("can't create the stand-in for {name}"))?;
            let file = format!("stand-in/{name}-{arch}.tar");
            let stand_in = toml::Table::from_iter([
                ("url".to_owned(), self.server.url(&file).into()),
                ("sha256".to_owned(), hex::encode(Sha256::digest(&bytes)).into()),
                ("size".to_owned(), i64::try_from(bytes.len()).unwrap_or(i64::MAX).into()),
            ]);
            if let Some(entry) = artifacts.get_mut(name).and_then(toml::Value::as_table_mut) {
                entry.insert(arch.clone(), stand_in.into());
            }
            self.write(&file, &bytes)?;
        }
        self.write("site/artifacts.toml", artifacts.to_string().as_bytes())
    }

    /// Writes a private key that only its owner can read.
    fn write_key(&self, name: &str, key: &[u8]) -> Result<()> {
        self.write(name, b"")?;
        let path = self.dir.join(name);
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .context(code::OTHER, || format!("can't write {}", path.display()))?;
        self.write(name, key)
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.dir.join(name);
        std::fs::read_to_string(&path).context(code::OTHER, || format!("can't read {}", path.display()))
    }

    fn append(&self, name: &str, text: &str) -> Result<()> {
        self.write(name, (self.read(name)? + text).as_bytes())
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.dir.join(name);
        let parent = path.parent().unwrap_or(&self.dir);
        std::fs::create_dir_all(parent)
            .and_then(|()| std::fs::write(&path, content))
            .context(code::OTHER, || format!("can't write {}", path.display()))
    }
}

/// A new SSH key, and its public half.
fn make_key() -> Result<(Zeroizing<Vec<u8>>, String)> {
    let what = || "can't create a key".to_owned();
    let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).context(code::OTHER, what)?;
    let public = key.public_key().to_openssh().context(code::OTHER, what)?;
    Ok((key.to_openssh(LineEnding::LF).context(code::OTHER, what)?.as_bytes().to_vec().into(), public))
}

/// Creates an empty `dir`. Removes one that an earlier demo created, and nothing else.
fn fresh(dir: &Path) -> Result<()> {
    let what = || format!("can't create {}", dir.display());
    if dir.join(MARK).is_file() {
        std::fs::remove_dir_all(dir).context(code::OTHER, what)?;
    } else if dir.exists() {
        return Err(error!(OTHER, "{} exists, and the demo did not create it", dir.display())
            .help("add --dir with an unused name"));
    }
    std::fs::create_dir_all(dir).and_then(|()| std::fs::write(dir.join(MARK), "")).context(code::OTHER, what)
}

/// A web server's configuration for 127.0.0.1, and the certificate of the authority behind it.
fn authority() -> Result<(ServerConfig, String), Box<dyn std::error::Error>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "kpull demo");
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    Ok((config, issuer.pem()))
}

/// The answer of the web server: files of the site and the stand-ins, with an ETag. A byte of the file `tampered` is changed.
fn answer(dir: &Path, request: &Received, tampered: Option<&str>) -> Answer {
    let path = request.path.trim_start_matches('/');
    let public = path.starts_with("site/") || path.starts_with("stand-in/");
    let Some(mut body) =
        Some(path).filter(|_| public && !path.contains("..")).and_then(|path| std::fs::read(dir.join(path)).ok())
    else {
        return Answer::new(404, "");
    };
    let etag = format!("\"{}\"", hex::encode(Sha256::digest(&body)));
    if request.header("if-none-match") == Some(&etag) {
        return Answer::new(304, "").with("ETag", etag);
    }
    if tampered.is_some_and(|file| path.ends_with(file))
        && let Some(byte) = body.last_mut()
    {
        *byte ^= 1;
    }
    Answer::new(200, body).with("ETag", etag)
}

/// A tarball with scripts in place of an upstream release's programs.
fn stand_in(members: &BTreeSet<String>, version: &str) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for member in members {
        let name = member.rsplit('/').next().unwrap_or(member);
        let text = format!(
            "#!/bin/sh\necho 'the demo stand-in for {name} {version}'\n[ \"$1\" = version ] || [ \"$1\" = --version ]\n"
        );
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, member, text.as_bytes())?;
    }
    tar.into_inner()
}
