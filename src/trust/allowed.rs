//! Whose signatures count: OpenSSH's allowed_signers, and the check of SSH signatures against it.

use std::collections::BTreeSet;
use std::path::Path;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use ssh_key::public::KeyData;
use ssh_key::{EcdsaCurve, PublicKey, SshSig};

use crate::error::{Context, Error, Result};

/// What signatures over a release are for; a signature for another purpose is not one over a release.
pub const NAMESPACE: &str = "release@kpull";
const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";
/// More signatures than anybody needs.
const MOST: usize = 64;

/// The keys whose signatures count.
#[derive(Clone, Debug)]
pub struct AllowedSigners {
    file: String,
    signers: Vec<Allowed>,
}

#[derive(Clone, Debug)]
struct Allowed {
    principal: String,
    key: PublicKey,
    after: Option<Timestamp>,
    before: Option<Timestamp>,
}

impl AllowedSigners {
    /// Reads a file in the format of `ssh-keygen(1)`, ALLOWED SIGNERS.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .context(|| format!("can't read the allowed signers {}", path.display()))
            .map_err(|error| {
                error.help("`allowed_signers` under [trust] in kpull.toml names the file with the keys that may sign")
            })?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// [`AllowedSigners::load`] from a text; `file` is what it is called in messages.
    pub fn parse(file: &str, text: &str) -> Result<Self> {
        let mut signers = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match Allowed::parse(line) {
                Ok(Some(allowed)) => signers.push(allowed),
                Ok(None) => {}
                Err(why) => {
                    return Err(Error::new(format!("{file}:{}: can't read this allowed signer", number + 1))
                        .because(why)
                        .help("a line is `NAME [OPTIONS] KEYTYPE KEY`, as in ssh-keygen(1) under ALLOWED SIGNERS"));
                }
            }
        }
        if signers.is_empty() {
            return Err(Error::new(format!("{file} allows nobody to sign releases"))
                .help(format!("add a line like: alice namespaces=\"{NAMESPACE}\" ssh-ed25519 AAAA…")));
        }
        Ok(Self { file: file.to_owned(), signers })
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.signers.iter().map(|signer| signer.key.key_data()).collect::<BTreeSet<_>>().len()
    }

    /// Whether there are none; there always are.
    pub fn is_empty(&self) -> bool {
        self.signers.is_empty()
    }

    /// Checks that at least `threshold` different allowed keys have signed `message`.
    pub fn check(&self, message: &[u8], signatures: &[u8], threshold: usize) -> Result<()> {
        let blocks = split(signatures)?;
        let now = Timestamp::now();
        let mut good: BTreeSet<&KeyData> = BTreeSet::new();
        let mut problems = Vec::new();
        for block in &blocks {
            match self.signer(message, block, now) {
                Ok(key) => drop(good.insert(key)),
                Err(why) => problems.push(why),
            }
        }
        if good.len() >= threshold.max(1) {
            return Ok(());
        }
        let error = match (good.len(), problems.first()) {
            (0, Some(why)) => Error::refused("no signature of the release is good").because(why),
            (have, problem) => {
                let s = if have == 1 { "" } else { "s" };
                let error = Error::refused(format!("the release has {have} good signature{s} and needs {threshold}"));
                match problem {
                    Some(why) => error.because(format!("besides, {why}")),
                    None => error,
                }
            }
        };
        Err(error.help(format!("the keys that may sign are in {}", self.file)))
    }

    /// The allowed key that made this signature over `message`; else why it doesn't count.
    fn signer(&self, message: &[u8], block: &str, now: Timestamp) -> Result<&KeyData, String> {
        let signature = SshSig::from_pem(block).map_err(|error| format!("a signature can't be read ({error})"))?;
        if signature.namespace() != NAMESPACE {
            return Err(format!("a signature is for `{}` and not for `{NAMESPACE}`", signature.namespace()));
        }
        let mut candidates =
            self.signers.iter().filter(|allowed| allowed.key.key_data() == signature.public_key()).peekable();
        if candidates.peek().is_none() {
            return Err(format!(
                "it is signed by a key that is not allowed: {}",
                signature.public_key().fingerprint(ssh_key::HashAlg::Sha256)
            ));
        }
        let Some(allowed) = candidates.find(|allowed| allowed.valid_at(now)) else {
            return Err("it is signed by a key that is not valid now".to_owned());
        };
        allowed.key.verify(NAMESPACE, message, &signature).map_err(|_| {
            format!("the signature of {} is not over this {}", allowed.principal, crate::trust::MANIFEST)
        })?;
        Ok(allowed.key.key_data())
    }
}

/// The signatures in a file, which holds one after the other.
fn split(signatures: &[u8]) -> Result<Vec<&str>> {
    let unreadable = || {
        Error::refused("the signatures of the release can't be read")
            .help("sign again: `kpull sign` writes them, and `ssh-keygen -Y sign` can add more")
    };
    let mut rest = std::str::from_utf8(signatures).map_err(|_| unreadable())?;
    let mut blocks = Vec::new();
    while let Some(start) = rest.find(BEGIN) {
        let end = rest[start..].find(END).ok_or_else(unreadable)? + start + END.len();
        blocks.push(&rest[start..end]);
        rest = &rest[end..];
        if blocks.len() > MOST {
            return Err(Error::refused(format!("the release has more than {MOST} signatures")));
        }
    }
    if blocks.is_empty() { Err(unreadable()) } else { Ok(blocks) }
}

impl Allowed {
    /// `None` for a key that is allowed for other purposes only.
    fn parse(line: &str) -> Result<Option<Self>, String> {
        let mut words = words(line);
        let principal = words.next().ok_or("it is empty")?.trim_matches('"').to_owned();
        let mut options = words.next().ok_or("there is no key")?;
        let mut kind = options;
        if !is_key_type(options) {
            kind = words.next().ok_or("there is no key")?;
        } else {
            options = "";
        }
        if !is_key_type(kind) {
            return Err(format!("`{kind}` is not a type of key"));
        }
        let data = words.next().ok_or("the key is missing behind its type")?;
        let key = PublicKey::from_openssh(&format!("{kind} {data}"))
            .map_err(|_| "the key is cut short, or something else than a key")?;
        if let KeyData::Rsa(rsa) = key.key_data()
            && rsa.n.as_positive_bytes().map_or(0, <[u8]>::len) * 8 < 3072
        {
            return Err("an RSA key needs 3072 bits or more".to_owned());
        }
        if let KeyData::Ecdsa(ecdsa) = key.key_data()
            && ecdsa.curve() != EcdsaCurve::NistP256
        {
            return Err("of ECDSA keys only nistp256 is supported".to_owned());
        }
        let mut allowed = Self { principal, key, after: None, before: None };
        for option in split_options(options) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let value = value.trim_matches('"');
            match name.to_ascii_lowercase().as_str() {
                "namespaces" if value.contains(['!', '?']) || value.contains('*') && value != "*" => {
                    return Err(format!("in `namespaces`, write whole names, such as {NAMESPACE}, and no patterns"));
                }
                "namespaces" if !value.split(',').any(|name| name == NAMESPACE || name == "*") => return Ok(None),
                "namespaces" => {}
                "valid-after" => allowed.after = Some(time(value)?),
                "valid-before" => allowed.before = Some(time(value)?),
                "cert-authority" => return Err("certificates are not supported; list the signers' own keys".to_owned()),
                other => return Err(format!("the option `{other}` is not known")),
            }
        }
        Ok(Some(allowed))
    }

    fn valid_at(&self, now: Timestamp) -> bool {
        self.after.is_none_or(|after| now >= after) && self.before.is_none_or(|before| now < before)
    }
}

fn is_key_type(word: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-"].iter().any(|start| word.starts_with(start)) && !word.contains('=')
}

/// Words between blanks; a blank inside double quotes doesn't separate.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    line.split(move |c: char| {
        if c == '"' {
            quoted = !quoted;
        }
        c.is_whitespace() && !quoted
    })
    .filter(|word| !word.is_empty())
}

fn split_options(options: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    options
        .split(move |c: char| {
            if c == '"' {
                quoted = !quoted;
            }
            c == ',' && !quoted
        })
        .filter(|option| !option.is_empty())
}

/// `YYYYMMDD[HHMM[SS]][Z]`; taken as UTC with or without the `Z`, so that every host means the same.
fn time(text: &str) -> Result<Timestamp, String> {
    let digits = text.strip_suffix('Z').unwrap_or(text);
    if ![8, 12, 14].contains(&digits.len()) {
        return Err(format!("`{text}` is not a time like 20271231"));
    }
    let padded = format!("{digits:0<14}");
    DateTime::strptime("%Y%m%d%H%M%S", &padded)
        .and_then(|time| TimeZone::UTC.to_timestamp(time))
        .map_err(|_| format!("`{text}` is not a time like 20271231"))
}
