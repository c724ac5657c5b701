//! The operator's side: the manifest of a site, and a signature over it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use ssh_key::{Algorithm, EcdsaCurve, HashAlg, LineEnding, PrivateKey};
use zeroize::Zeroizing;

use crate::document::layout::{MANIFEST, SIGNATURES};
use crate::document::{Files, read_if_there, replace, utf8};
use crate::error::{Context, Error, Exit, Result, code, error};
use crate::host::process::{Command, argv, at_terminal, run};
use crate::read;
use crate::site::Site;
use crate::trust::{KeySet, LEEWAY, Manifest, Message, Purpose};

/// How long a signature without user interaction may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The highest plausible serial at a time, with one release per second since 1970: the author of a manifest that others sign can skip
/// serials, but can't use them up.
fn latest_serial(now: Timestamp) -> u64 {
    now.as_second().try_into().unwrap_or(0)
}

/// A way to sign.
#[derive(Clone, Debug)]
pub enum Signer {
    /// A private key (Ed25519, ECDSA P-256) without a passphrase, in a file.
    Key(PathBuf),
    /// `ssh-keygen -Y sign` with this file: a public key whose private half is in an agent or a hardware key, or a private key
    /// of another kind or with a passphrase, for which it asks.
    Keygen(PathBuf),
}

impl Signer {
    /// The way to sign with the key in `path`, which can be private, public, or protected by a passphrase.
    pub fn of(path: &Path) -> Result<Self> {
        let what = || format!("can't read the key {}", path.display());
        let bytes = Zeroizing::new(read::named(path).context(code::SIGN, what)?);
        if std::str::from_utf8(&bytes).is_ok_and(|text| ssh_key::PublicKey::from_openssh(text).is_ok()) {
            return Ok(Self::Keygen(path.to_owned()));
        }
        match PrivateKey::from_openssh(&*bytes) {
            Ok(key) if !key.is_encrypted() && signs_here(&key.algorithm()) => Ok(Self::Key(path.to_owned())),
            Ok(_) => Ok(Self::Keygen(path.to_owned())),
            Err(error) => Err(error!(SIGN, "{} is not an OpenSSH key", path.display())
                .because(error)
                .help("create one with `ssh-keygen -t ed25519`, or give the .pub file of a key in your agent")),
        }
    }

    /// A signature over `message`, in SSH's armoured form.
    pub fn sign(&self, message: &[u8], purpose: Purpose) -> Result<String> {
        let namespace = purpose.namespace();
        match self {
            Self::Key(path) => {
                let what = || format!("can't sign with {}", path.display());
                let bytes = Zeroizing::new(read::named(path).context(code::SIGN, what)?);
                let key = PrivateKey::from_openssh(&*bytes).context(code::SIGN, what)?;
                key.sign(namespace, HashAlg::Sha512, message)
                    .context(code::SIGN, what)?
                    .to_pem(LineEnding::LF)
                    .context(code::SIGN, what)
            }
            Self::Keygen(path) => keygen(path, message, purpose),
        }
    }
}

fn signs_here(algorithm: &Algorithm) -> bool {
    matches!(algorithm, Algorithm::Ed25519 | Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 })
}

/// Signs with `ssh-keygen`. It asks an operator for a passphrase, but not on a host, where a run signs.
fn keygen(key: &Path, message: &[u8], purpose: Purpose) -> Result<String> {
    let what = || format!("can't sign with {} through ssh-keygen", key.display());
    let key = key.to_str().ok_or_else(|| Error::new(code::SIGN, what()).because("its path is not in UTF-8"))?;
    let argv = argv(["ssh-keygen", "-Y", "sign", "-n", purpose.namespace(), "-f", key]);
    if purpose == Purpose::Status {
        let signed = run(&Command { input: Some(message), ..Command::new(&argv, PATIENCE) })?.or_failure(what());
        let signed = signed.map_err(|error| error.help("a host signs with a key that has no passphrase"))?;
        return String::from_utf8(signed.stdout).context(code::SIGN, what);
    }
    let [program, words @ ..] = &argv[..] else { return Err(Error::new(code::SIGN, what())) };
    let mut child = at_terminal(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context(code::SIGN, what)?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(message));
    let output = child.wait_with_output().context(code::SIGN, what)?;
    if !output.status.success() {
        return Err(Error::new(code::SIGN, what())
            .because(format!("ssh-keygen ended with {}", output.status))
            .help("check that the key is in the agent: `ssh-add -L` lists its keys"));
    }
    // checked last: the exit status of ssh-keygen is more informative than a broken pipe
    written.context(code::SIGN, what)?;
    String::from_utf8(output.stdout).context(code::SIGN, what)
}

/// The result of `sign`.
#[derive(Debug)]
pub struct Signed {
    /// The signed manifest.
    pub manifest: Manifest,
    /// Whether the signature was added to an existing release instead of creating a new one.
    pub added: bool,
}

/// Signs the site in `dir`. If its `release.toml` matches the files, the signature is added, so that several people can sign one
/// release. Otherwise, a new release is created, with the next serial and this `lifetime`.
pub fn sign(dir: &Path, signer: &Signer, lifetime: jiff::SignedDuration, renew: bool) -> Result<Signed> {
    let files = Files::in_directory(dir)?;
    let site = Site::load(files.clone())?;
    let manifest_path = dir.join(MANIFEST);
    let old = match read_if_there(dir, MANIFEST)? {
        Some(bytes) => Some((Manifest::parse(&bytes)?, bytes)),
        None => None,
    };
    let now = Timestamp::from_second(Timestamp::now().as_second()).context(code::SIGN, || "the clock can't be read")?;
    let serial = match &old {
        None => 1,
        Some((old, _)) if old.serial < latest_serial(now) => old.serial + 1,
        Some((old, _)) => {
            return Err(error!(SIGN, "serial {} is higher than any site can have reached", old.serial).help(format!(
                "{MANIFEST} is not one of yours: restore the last one that you signed, and find out who changed it"
            )));
        }
    };
    let expires = now.checked_add(lifetime).context(code::SIGN, || "that lifetime is too long")?;
    let fresh = Manifest::of(&files, &site.name, serial, now, expires);
    let signatures_path = dir.join(SIGNATURES);
    if let Some((old, bytes)) = old
        && !renew
        && old.files == fresh.files
        && old.site == fresh.site
        && old.expires > now
    {
        if old.created > now + LEEWAY {
            return Err(error!(
                SIGN,
                "the existing release (serial {}) was created at {:.0}, which is in the future",
                old.serial,
                old.created
            )
            .because("hosts refuse it until then")
            .help("set the clock, or find out who wrote it; --renew signs a release of your own"));
        }
        // the signer decides how long hosts accept it, not the author of the manifest
        if old.expires > expires || old.expires.duration_since(old.created) > lifetime {
            return Err(error!(
                SIGN,
                "the existing release (serial {}) is valid until {:.0}, but --lifetime allows only {expires:.0}",
                old.serial,
                old.expires
            )
            .help("add a longer --lifetime to sign it anyway, or --renew to sign a release of your own"));
        }
        let signature = signer.sign(&bytes, Purpose::Release)?;
        check_counts(&files, &bytes, &signature, now)?;
        add_signature(dir, SIGNATURES, &signature)?;
        return Ok(Signed { manifest: old, added: true });
    }
    let text = fresh.to_toml();
    Manifest::parse(text.as_bytes()).map_err(|error| {
        error.exit(Exit::Failed).help("hosts would refuse such a release: rename the file, and sign again")
    })?;
    let signature = signer.sign(text.as_bytes(), Purpose::Release)?;
    check_counts(&files, text.as_bytes(), &signature, now)?;
    // the signature first: hosts refuse both states in between, but only a manifest without its signature looks forged
    replace(&[(signatures_path, signature.into_bytes()), (manifest_path, text.into_bytes())])?;
    Ok(Signed { manifest: fresh, added: false })
}

/// Refuses a signature by a key that is not in the site's newest key set, since no host would count it.
fn check_counts(files: &Files, bytes: &[u8], signature: &str, at: Timestamp) -> Result<()> {
    let Some(set) = KeySet::newest(files)? else { return Ok(()) };
    let message = Message { bytes, purpose: Purpose::Release, name: "the release", at };
    set.signers.check(&message, signature.as_bytes(), 1).map(drop).map_err(|error| {
        error!(SIGN, "hosts would refuse a release with this signature, by key set {}", set.number)
            .because(error)
            .help("sign with a key that `kpull keys show` lists for releases")
    })
}

/// Adds a signature to those in a file of the site in `dir`, unless the file has it already.
pub fn add_signature(dir: &Path, path: &str, signature: &str) -> Result<()> {
    let mut signatures = match read_if_there(dir, path)? {
        Some(bytes) => utf8(path, &bytes)?.to_owned(),
        None => String::new(),
    };
    if signatures.contains(signature.trim()) {
        return Ok(());
    }
    signatures.push_str(signature);
    replace(&[(dir.join(path), signatures.into_bytes())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_that_cannot_be_read_are_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sig");
        std::fs::write(&path, b"\xff").unwrap();
        let error = add_signature(dir.path(), "sig", "one\n").unwrap_err();
        assert_eq!(error.to_string(), "sig is not UTF-8 text");
        assert_eq!(std::fs::read(&path).unwrap(), b"\xff");
    }

    #[test]
    fn a_signature_is_added_to_those_that_are_there_and_only_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sig");
        for signature in ["one\n", "two\n", "one\n"] {
            add_signature(dir.path(), "sig", signature).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    }
}
