//! The operator's side: a manifest of the site as it is, and a signature over it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use ssh_key::{Algorithm, EcdsaCurve, HashAlg, LineEnding, PrivateKey};
use zeroize::Zeroizing;

use crate::document::layout::{MANIFEST, SIGNATURES};
use crate::document::{Files, read_if_there, replace, utf8};
use crate::error::{Context, Error, Exit, Result, code};
use crate::host::process::{Command, argv, at_terminal, run};
use crate::read;
use crate::site::Site;
use crate::trust::{KeySet, LEEWAY, Manifest, Message, Purpose};

/// How long a signature may take that nobody is asked for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The highest serial that a site has by a time, with a release in each second since 1970: whoever writes the manifest that others sign
/// can skip serials, but can't use them up.
fn latest_serial(now: Timestamp) -> u64 {
    now.as_second().try_into().unwrap_or(0)
}

/// What signs.
#[derive(Clone, Debug)]
pub enum Signer {
    /// A private key (Ed25519, ECDSA P-256) without a passphrase, in a file.
    Key(PathBuf),
    /// `ssh-keygen -Y sign` with this file: a public key whose private half an agent or a hardware key holds, or a
    /// private key with a passphrase, which it asks for, or of another kind.
    Keygen(PathBuf),
}

impl Signer {
    /// The way to sign with the key in `path`, be it private, public, or with a passphrase.
    pub fn of(path: &Path) -> Result<Self> {
        let what = || format!("can't read the key {}", path.display());
        let bytes = Zeroizing::new(read::named(path).context(code::SIGN, what)?);
        if std::str::from_utf8(&bytes).is_ok_and(|text| ssh_key::PublicKey::from_openssh(text).is_ok()) {
            return Ok(Self::Keygen(path.to_owned()));
        }
        match PrivateKey::from_openssh(&*bytes) {
            Ok(key) if !key.is_encrypted() && signs_here(&key.algorithm()) => Ok(Self::Key(path.to_owned())),
            Ok(_) => Ok(Self::Keygen(path.to_owned())),
            Err(error) => Err(Error::new(code::SIGN, format!("{} is not an OpenSSH key", path.display()))
                .because(error)
                .help("make one with `ssh-keygen -t ed25519`, or give the .pub file of a key in your agent")),
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

/// What `ssh-keygen` signs. An operator is asked for a passphrase; on a host, where a run signs, nobody is.
fn keygen(key: &Path, message: &[u8], purpose: Purpose) -> Result<String> {
    let what = || format!("can't sign with {} through ssh-keygen", key.display());
    let key = key.to_str().ok_or_else(|| Error::new(code::SIGN, what()).because("its path is not in UTF-8"))?;
    let argv = argv(["ssh-keygen", "-Y", "sign", "-n", purpose.namespace(), "-f", key]);
    if purpose == Purpose::Status {
        let output = run(&Command { input: Some(message), ..Command::new(&argv, PATIENCE) })?;
        let failed = || output.failure(what()).help("a host signs with a key that has no passphrase");
        return if output.is_success() {
            String::from_utf8(output.stdout).context(code::SIGN, what)
        } else {
            Err(failed())
        };
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
            .help("is the key in the agent? `ssh-add -L` lists them"));
    }
    // only now: one that ended early has more to say than a broken pipe
    written.context(code::SIGN, what)?;
    String::from_utf8(output.stdout).context(code::SIGN, what)
}

/// What `sign` did.
#[derive(Debug)]
pub struct Signed {
    /// The manifest that is signed now.
    pub manifest: Manifest,
    /// Whether the release was there already, so that its signatures were added to instead of making a new one.
    pub added: bool,
}

/// Signs the site in `dir`. When its `release.toml` is that of the files as they are, the signature is added to it (so
/// several people sign one release); otherwise a new release is made, with the next serial and `lifetime` to live.
pub fn sign(dir: &Path, signer: &Signer, lifetime: jiff::SignedDuration, renew: bool) -> Result<Signed> {
    let files = Files::in_directory(dir)?;
    let site = Site::load(files.clone())?;
    let manifest_path = dir.join(MANIFEST);
    let old = match read_if_there(dir, MANIFEST)? {
        Some(bytes) => Some((Manifest::parse(&bytes)?, bytes)),
        None => None,
    };
    let now = Timestamp::from_second(Timestamp::now().as_second())
        .context(code::SIGN, || "the clock can't be read".to_owned())?;
    let serial = match &old {
        None => 1,
        Some((old, _)) if old.serial < latest_serial(now) => old.serial + 1,
        Some((old, _)) => {
            return Err(Error::new(code::SIGN, format!("no site has come to serial {} by now", old.serial)).help(
                format!("{MANIFEST} is not one of yours: take the last that you signed, and look at who changed it"),
            ));
        }
    };
    let expires = now.checked_add(lifetime).context(code::SIGN, || "that lifetime is too long".to_owned())?;
    let fresh = Manifest::of(&files, &site.name, serial, now, expires);
    let signatures_path = dir.join(SIGNATURES);
    if let Some((old, bytes)) = old
        && !renew
        && old.files == fresh.files
        && old.site == fresh.site
        && old.expires > now
    {
        if old.created > now + LEEWAY {
            return Err(Error::new(
                code::SIGN,
                format!(
                    "the release that is there (serial {}) was made at {:.0}, which is to come",
                    old.serial, old.created
                ),
            )
            .because("hosts refuse it until then")
            .help("set the clock, or look at who wrote it; --renew signs a release of your own"));
        }
        // whoever signs says how long hosts take it, and not whoever wrote the manifest
        if old.expires > expires || old.expires.duration_since(old.created) > lifetime {
            return Err(Error::new(
                code::SIGN,
                format!(
                    "the release that is there (serial {}) is good until {:.0}, and --lifetime allows for {expires:.0}",
                    old.serial, old.expires
                ),
            )
            .help("say a longer --lifetime to sign it all the same, or --renew to sign a release of your own"));
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
    // the signature first: a manifest with an old signature is refused, one without its own can't be told from forged
    replace(&[(signatures_path, signature.into_bytes()), (manifest_path, text.into_bytes())])?;
    Ok(Signed { manifest: fresh, added: false })
}

/// Refuses a signature that no host would count: the site's newest key set doesn't have its key.
fn check_counts(files: &Files, bytes: &[u8], signature: &str, at: Timestamp) -> Result<()> {
    let Some(set) = KeySet::newest(files)? else { return Ok(()) };
    let message = Message { bytes, purpose: Purpose::Release, name: "the release", at };
    set.signers.check(&message, signature.as_bytes(), 1).map(drop).map_err(|error| {
        Error::new(code::SIGN, format!("hosts would not take a release with this signature, by key set {}", set.number))
            .because(error)
            .help("sign with a key that `kpull keys show` lists for releases")
    })
}

/// Adds a signature to those in a file of the site in `dir`, unless it is there already.
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
