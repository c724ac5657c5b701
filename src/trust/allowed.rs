//! OpenSSH's allowed_signers, and the verification of SSH signatures against it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use ssh_key::public::KeyData;
use ssh_key::{EcdsaCurve, HashAlg, LineEnding, PublicKey, SshSig};

use crate::error::{Context, Result, code, counted, error, refused};
use crate::read;
use crate::text::block;

/// The purpose of a signature. One for another purpose does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Signs a release.
    Release,
    /// Signs the next key set.
    Keys,
    /// Signs the status record of a host.
    Status,
}

impl Purpose {
    /// The SSH namespace of this purpose.
    pub const fn namespace(self) -> &'static str {
        match self {
            Self::Release => "release@kpull",
            Self::Keys => "keys@kpull",
            Self::Status => "status@kpull",
        }
    }
}

/// A signed message: the bytes, their purpose, and the time of the check.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The signed bytes.
    pub bytes: &'a [u8],
    /// Signatures for other purposes don't count.
    pub purpose: Purpose,
    /// Its name in messages: `the release`, `key set 3`.
    pub name: &'a str,
    /// Keys must be valid at this time.
    pub at: Timestamp,
}

const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";
const ALL: [Purpose; 2] = [Purpose::Release, Purpose::Keys];
/// The maximum number of signatures.
const MOST: usize = 64;

/// The keys whose signatures count.
#[derive(Clone, Debug)]
pub struct AllowedSigners {
    file: String,
    signers: Vec<Allowed>,
}

/// One key, with the purposes and times for which it may sign.
#[derive(Clone, Debug)]
pub struct Allowed {
    /// The owner of the key.
    pub principal: String,
    /// The key itself.
    pub key: PublicKey,
    /// The purposes for which it may sign.
    purposes: Vec<Purpose>,
    /// Valid from this time on.
    pub after: Option<Timestamp>,
    /// Valid before this time, exclusively.
    pub before: Option<Timestamp>,
    /// The line as it was written.
    line: String,
}

impl AllowedSigners {
    /// Reads a file in the format of `ssh-keygen(1)`, ALLOWED SIGNERS.
    pub fn load(path: &Path) -> Result<Self> {
        let text = read::named(path)
            .and_then(|bytes| String::from_utf8(bytes).map_err(std::io::Error::other))
            .context(code::SIGNATURE, || format!("can't read the allowed signers {}", path.display()))
            .map_err(|error| {
                error.or_help("`allowed_signers` under [trust] in kpull.toml names the file with the trusted keys")
            })?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// Like [`AllowedSigners::load`], from a text; `file` is its name in messages.
    pub fn parse(file: &str, text: &str) -> Result<Self> {
        let mut signers = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let allowed = Allowed::parse(line).map_err(|why| {
                error!(SIGNATURE, "{file}:{}: can't read this allowed signer", number + 1)
                    .because(why)
                    .help("a line is `NAME [OPTIONS] KEYTYPE KEY`, as in ssh-keygen(1) under ALLOWED SIGNERS")
            })?;
            signers.extend(allowed);
        }
        let signers = Self { file: file.to_owned(), signers };
        if signers.count(Purpose::Release) == 0 {
            return Err(error!(SIGNATURE, "{file} names no key that can sign releases").help(format!(
                "add a line like: alice namespaces=\"{}\" ssh-ed25519 AAAA…",
                Purpose::Release.namespace()
            )));
        }
        Ok(signers)
    }

    /// Checks that `line` is one line of such a file with a key in it; the error says why not.
    pub fn check_line(line: &str) -> Result<(), String> {
        if line.contains(['\n', '\r']) {
            return Err("it is more than one line".to_owned());
        }
        Allowed::parse(line.trim()).map(drop)
    }

    /// How many different keys may sign for `purpose`.
    pub fn count(&self, purpose: Purpose) -> usize {
        self.whenever().count_valid(purpose, Timestamp::UNIX_EPOCH)
    }

    /// How many different keys may sign for `purpose` and are valid at this time.
    pub fn count_valid(&self, purpose: Purpose, at: Timestamp) -> usize {
        let valid = self.signers.iter().filter(|signer| signer.may(purpose) && signer.valid_at(at));
        valid.map(|signer| signer.key.key_data()).collect::<BTreeSet<_>>().len()
    }

    /// The keys that may sign for `purpose` and are not valid at `at`, with their ends as seen from `now`, in words.
    pub fn invalid(&self, purpose: Purpose, now: Timestamp, at: Timestamp) -> String {
        let may_sign = || self.signers.iter().filter(|signer| signer.may(purpose));
        let is_valid = |key: &KeyData| may_sign().any(|other| other.key.key_data() == key && other.valid_at(at));
        let invalid = may_sign().filter(|signer| !is_valid(signer.key.key_data()));
        let describe = |signer: &Allowed| {
            let end = match (signer.after.filter(|after| *after > at), signer.before) {
                (Some(after), _) => format!(" is not valid before {after:.0}"),
                (None, Some(before)) if before <= now => format!(" expired at {before:.0}"),
                (None, before) => before.map(|before| format!(" expires at {before:.0}")).unwrap_or_default(),
            };
            format!("the key of {} ({}){end}", signer.principal, signer.fingerprint())
        };
        invalid.map(describe).collect::<Vec<_>>().join("; ")
    }

    /// Each key.
    pub fn iter(&self) -> impl Iterator<Item = &Allowed> {
        self.signers.iter()
    }

    /// The lines of the keys, without comments.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.signers.iter().map(|signer| signer.line.as_str())
    }

    /// A copy without the keys that have one of these fingerprints.
    #[must_use]
    pub fn without(mut self, revoked: &BTreeSet<String>) -> Self {
        self.signers.retain(|signer| !revoked.contains(&signer.fingerprint()));
        self
    }

    /// A copy in which every key is valid at all times.
    #[must_use]
    pub fn whenever(&self) -> Self {
        let signers = self.signers.iter().map(|signer| Allowed { after: None, before: None, ..signer.clone() });
        Self { file: self.file.clone(), signers: signers.collect() }
    }

    /// Checks that at least `threshold` different allowed keys signed `message`; returns their owners.
    pub fn check(&self, message: &Message<'_>, signatures: &[u8], threshold: usize) -> Result<BTreeSet<&str>> {
        let blocks = split(signatures, message.name)?;
        let mut good: BTreeMap<&KeyData, &str> = BTreeMap::new();
        let mut problems = Vec::new();
        for block in &blocks {
            match self.signer(message, block) {
                Ok(signer) => drop(good.insert(signer.key.key_data(), &signer.principal)),
                Err(why) => problems.push(why),
            }
        }
        if good.len() >= threshold.max(1) {
            return Ok(good.into_values().collect());
        }
        let name = message.name;
        let too_few = |have: usize| {
            let have = counted(have, "good signature");
            refused!(SIGNATURE, "{name} has {have} and needs {threshold}")
        };
        let error = match (good.len(), problems.first()) {
            (0, Some(why)) => refused!(SIGNATURE, "no signature of {name} is good").because(why),
            (have, Some(why)) => too_few(have).because(format!("besides, {why}")),
            (have, None) => too_few(have),
        };
        Err(error.help(format!("the keys that may sign are in {}", self.file)))
    }

    /// The allowed key that made this signature over `message`, or why it doesn't count.
    fn signer(&self, message: &Message<'_>, block: &str) -> Result<&Allowed, String> {
        let namespace = message.purpose.namespace();
        let signature = read(block)?;
        if signature.namespace() != namespace {
            return Err(format!("a signature is for `{}` and not for `{namespace}`", signature.namespace()));
        }
        let may = self.signers.iter().filter(|allowed| allowed.may(message.purpose));
        let mut candidates = may.filter(|allowed| allowed.key.key_data() == signature.public_key()).peekable();
        if candidates.peek().is_none() {
            return Err(format!("it is signed by a key that is not allowed: {}", fingerprint(signature.public_key())));
        }
        let Some(allowed) = candidates.find(|allowed| allowed.valid_at(message.at)) else {
            return Err("it is signed by a key that is not valid now".to_owned());
        };
        let name = message.name.trim_start_matches("the ");
        allowed
            .key
            .verify(namespace, message.bytes, &signature)
            .map_err(|_| format!("the signature of {} is not over this {name}", allowed.principal))?;
        if !touched(&signature) {
            return Err(format!("the security key of {} was not touched for the signature", allowed.principal));
        }
        Ok(allowed)
    }
}

/// Fingerprints of all keys, trusted or not, that made a valid release signature over `message`: for publishers, never for hosts.
pub fn signed_by(message: &[u8], signatures: &[u8]) -> Result<BTreeSet<String>> {
    let good = |block: &str| -> Option<String> {
        let signature = read(block).ok()?;
        let key = PublicKey::from(signature.public_key().clone());
        key.verify(Purpose::Release.namespace(), message, &signature).ok()?;
        Some(fingerprint(key.key_data()))
    };
    Ok(split(signatures, "the release")?.into_iter().filter_map(good).collect())
}

/// The fingerprint of a key, as `ssh-keygen -l` prints it.
pub fn fingerprint(key: &KeyData) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

/// The keys that claim to have made these signatures of `name`, unverified: to find the key of a known fingerprint.
pub fn claimed(name: &str, signatures: &[u8]) -> Result<Vec<KeyData>> {
    Ok(split(signatures, name)?.into_iter().filter_map(|block| Some(read(block).ok()?.public_key().clone())).collect())
}

fn read(block: &str) -> Result<SshSig, String> {
    let signature = SshSig::from_pem(block).map_err(|error| format!("a signature can't be read ({error})"))?;
    // unlike ssh-keygen, the parser accepts wrong lengths inside
    let without_space = |text: &str| text.split_whitespace().collect::<String>();
    if signature.to_pem(LineEnding::LF).map(|text| without_space(&text)).ok() != Some(without_space(block)) {
        return Err("a signature can't be read (it is not written as ssh-keygen does)".to_owned());
    }
    Ok(signature)
}

/// Whether the security key was touched when it signed; true for other kinds of keys. The last five bytes of such a
/// signature are flags and a counter (OpenSSH, PROTOCOL.u2f); the lowest flag is user presence.
fn touched(signature: &SshSig) -> bool {
    if !matches!(signature.public_key(), KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_)) {
        return true;
    }
    let bytes = signature.signature_bytes();
    bytes.len().checked_sub(5).and_then(|at| bytes.get(at)).is_some_and(|flags| flags & 1 == 1)
}

/// Splits a file into its signatures.
fn split<'a>(signatures: &'a [u8], name: &str) -> Result<Vec<&'a str>> {
    let unreadable = || {
        refused!(SIGNATURE, "the signatures of {name} can't be read")
            .help("sign again: `kpull sign` writes them, and `ssh-keygen -Y sign` can add more")
    };
    let mut rest = std::str::from_utf8(signatures).map_err(|_| unreadable())?;
    let mut blocks = Vec::new();
    while let Some((_, signature, behind)) = block(rest, BEGIN, END) {
        if signature.is_empty() {
            return Err(unreadable());
        }
        blocks.push(signature);
        rest = behind;
        if blocks.len() > MOST {
            return Err(refused!(SIGNATURE, "{name} has more than {MOST} signatures")
                .help("one signature of each signer is enough: remove the others"));
        }
    }
    if blocks.is_empty() { Err(unreadable()) } else { Ok(blocks) }
}

impl Allowed {
    /// `None` for a key that is only allowed for other purposes.
    fn parse(line: &str) -> Result<Option<Self>, String> {
        let mut words = split_outside_quotes(line, char::is_whitespace);
        let principal = words.next().ok_or("it is empty")?.trim_matches('"').to_owned();
        let first = words.next().ok_or("there is no key")?;
        let (options, kind) = match is_key_type(first) {
            true => ("", first),
            false => (first, words.next().ok_or("there is no key")?),
        };
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
        let mut allowed = Self {
            principal,
            key,
            purposes: ALL.to_vec(),
            after: None,
            before: None,
            line: split_outside_quotes(line, char::is_whitespace)
                .take(if options.is_empty() { 3 } else { 4 })
                .collect::<Vec<_>>()
                .join(" "),
        };
        for option in split_outside_quotes(options, |c| c == ',') {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let value = value.trim_matches('"');
            match name.to_ascii_lowercase().as_str() {
                "namespaces" if value.contains(['!', '?']) || value.contains('*') && value != "*" => {
                    let ours = ALL.map(Purpose::namespace).join(" or ");
                    return Err(format!("in `namespaces`, write whole names, such as {ours}, and no patterns"));
                }
                "namespaces" => {
                    let named =
                        |purpose: &Purpose| value.split(',').any(|name| name == purpose.namespace() || name == "*");
                    allowed.purposes.retain(named);
                    if allowed.purposes.is_empty() {
                        return Ok(None);
                    }
                }
                "valid-after" => allowed.after = Some(time(value)?),
                "valid-before" => allowed.before = Some(time(value)?),
                "cert-authority" => return Err("certificates are not supported; list the signers' own keys".to_owned()),
                other => return Err(format!("the option `{other}` is not known")),
            }
        }
        Ok(Some(allowed))
    }

    /// The key's fingerprint, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        fingerprint(self.key.key_data())
    }

    /// Whether the key may sign for `purpose`.
    pub fn may(&self, purpose: Purpose) -> bool {
        self.purposes.contains(&purpose)
    }

    fn valid_at(&self, now: Timestamp) -> bool {
        self.after.is_none_or(|after| now >= after) && self.before.is_none_or(|before| now < before)
    }
}

fn is_key_type(word: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-"].iter().any(|start| word.starts_with(start)) && !word.contains('=')
}

/// The parts between separators that are not inside double quotes.
fn split_outside_quotes(text: &str, is_separator: impl Fn(char) -> bool) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let parts = text.split(move |c: char| {
        quoted ^= c == '"';
        is_separator(c) && !quoted
    });
    parts.filter(|part| !part.is_empty())
}

/// `YYYYMMDD[HHMM[SS]][Z]`; always UTC, so that it means the same on every host.
fn time(text: &str) -> Result<Timestamp, String> {
    let digits = text.strip_suffix('Z').unwrap_or(text);
    if ![8, 12, 14].contains(&digits.len()) || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(format!("`{text}` is not a time like 20271231"));
    }
    let padded = format!("{digits:0<14}");
    DateTime::strptime("%Y%m%d%H%M%S", &padded)
        .and_then(|time| TimeZone::UTC.to_timestamp(time))
        .map_err(|_| format!("`{text}` is not a time like 20271231"))
}

#[cfg(test)]
mod tests {
    use ssh_key::private::{Ed25519Keypair, PrivateKey};

    use super::*;

    fn public(number: u8) -> String {
        PrivateKey::from(Ed25519Keypair::from_seed(&[number; 32])).public_key().to_openssh().unwrap()
    }

    fn line(text: &str) -> Result<Option<Allowed>, String> {
        Allowed::parse(&text.replace("KEY", &public(1)))
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_line_is_a_name_options_if_any_a_key_and_a_comment_if_any() {
        for text in
            ["alice KEY", "alice KEY me@laptop", "alice\tKEY", "alice namespaces=\"release@kpull\" KEY", "*  KEY"]
        {
            assert!(line(text).unwrap().is_some(), "{text}");
        }
        assert_eq!(line("\"alice smith\" KEY").unwrap().unwrap().principal, "alice smith");
    }

    #[test]
    fn blank_lines_and_comments_are_passed_over() {
        let text = format!("\n# a comment\n  # another\r\nalice {}\r\n\n", public(1));
        assert_eq!(AllowedSigners::parse("f", &text).unwrap().count(Purpose::Release), 1);
    }

    #[test]
    fn a_key_on_two_lines_is_one_key() {
        let text = format!("alice {0}\nbob namespaces=\"*\" {0}\ncarol {1}\n", public(1), public(2));
        assert_eq!(AllowedSigners::parse("f", &text).unwrap().count(Purpose::Release), 2);
    }

    #[test]
    fn a_key_for_other_purposes_does_not_count_and_a_list_with_ours_does() {
        assert!(line("alice namespaces=\"git,file\" KEY").unwrap().is_none());
        assert!(line("alice namespaces=\"\" KEY").unwrap().is_none());
        assert!(line("alice namespaces=\"git,release@kpull\" KEY").unwrap().is_some());
        assert!(line("alice namespaces=\"*\" KEY").unwrap().is_some());
    }

    #[test]
    fn patterns_of_namespaces_are_refused_because_of_exceptions_among_them() {
        for text in ["!release@kpull,*", "release@*", "release?kpull"] {
            let error = line(&format!("alice namespaces=\"{text}\" KEY")).unwrap_err();
            assert_eq!(
                error, "in `namespaces`, write whole names, such as release@kpull or keys@kpull, and no patterns",
                "{text}"
            );
        }
    }

    #[test]
    fn a_key_is_valid_from_its_first_moment_until_before_its_last() {
        let allowed = line("alice valid-after=\"20270101\",valid-before=\"202801011200Z\" KEY").unwrap().unwrap();
        for (time, valid) in [
            ("2026-12-31T23:59:59Z", false),
            ("2027-01-01T00:00:00Z", true),
            ("2028-01-01T11:59:59Z", true),
            ("2028-01-01T12:00:00Z", false),
        ] {
            assert_eq!(allowed.valid_at(at(time)), valid, "{time}");
        }
    }

    #[test]
    fn times_have_days_minutes_or_seconds() {
        assert_eq!(time("20271231"), Ok(at("2027-12-31T00:00:00Z")));
        assert_eq!(time("202712312359Z"), Ok(at("2027-12-31T23:59:00Z")));
        assert_eq!(time("20271231235958"), Ok(at("2027-12-31T23:59:58Z")));
        for text in ["", "2027", "20271332", "2027-12-31", "+2027123", "20271231T2359", "２０２７"] {
            assert_eq!(time(text), Err(format!("`{text}` is not a time like 20271231")), "{text}");
        }
    }

    #[test]
    fn a_wrong_line_is_reported_with_the_reason() {
        for (text, why) in [
            ("alice", "there is no key"),
            ("alice KE", "there is no key"),
            ("alice ssh-ed25519", "the key is missing behind its type"),
            ("alice namespaces=\"release@kpull KEY", "there is no key"),
            ("alice cert-authority KEY", "certificates are not supported; list the signers' own keys"),
            ("alice no-touch-required KEY", "the option `no-touch-required` is not known"),
            ("alice valid-before=\"soon\" KEY", "`soon` is not a time like 20271231"),
            ("alice valid-before=\"20270101\" pgp AAAA", "`pgp` is not a type of key"),
            ("alice ssh-ed25519 AAAA", "the key is cut short, or something else than a key"),
            ("alice ssh-ed25519 !!!!", "the key is cut short, or something else than a key"),
        ] {
            assert_eq!(line(text).unwrap_err(), why, "{text}");
        }
    }

    #[test]
    fn a_bad_line_is_reported_with_its_number_and_none_before_it_counts() {
        let text = format!("alice {}\n\nbob nonsense\n", public(1));
        let error = AllowedSigners::parse("signers", &text).unwrap_err();
        assert_eq!(error.to_string(), "signers:3: can't read this allowed signer: there is no key");
        assert_eq!(
            error.advice(),
            Some("a line is `NAME [OPTIONS] KEYTYPE KEY`, as in ssh-keygen(1) under ALLOWED SIGNERS")
        );
    }

    #[test]
    fn signatures_stand_one_after_the_other_with_anything_between() {
        let block = format!("{BEGIN}\nAAAA\n{END}");
        let text = format!("note\n{block}\n{block}note{block}");
        assert_eq!(split(text.as_bytes(), "it").unwrap(), [&block, &block, &block]);
        for text in ["", "note", &format!("{block}\n{BEGIN}\nAAAA"), END] {
            let error = split(text.as_bytes(), "it").unwrap_err();
            assert_eq!(error.to_string(), "the signatures of it can't be read", "{text}");
        }
        assert_eq!(split(block.repeat(MOST).as_bytes(), "it").unwrap().len(), MOST);
        let error = split(block.repeat(MOST + 1).as_bytes(), "it").unwrap_err();
        assert_eq!(error.to_string(), format!("it has more than {MOST} signatures"));
    }

    #[test]
    fn a_signature_that_is_written_in_another_way_is_refused() {
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&[1; 32]));
        let good =
            key.sign(Purpose::Release.namespace(), HashAlg::Sha512, b"m").unwrap().to_pem(LineEnding::LF).unwrap();
        let signers = AllowedSigners::parse("f", &format!("alice {}", public(1))).unwrap();
        let m = Message { bytes: b"m", purpose: Purpose::Release, name: "m", at: Timestamp::now() };
        signers.check(&m, good.as_bytes(), 1).unwrap();
        signers.check(&m, good.replace('\n', "\r\n").as_bytes(), 1).unwrap();
        // the third byte of a length
        let at = good.match_indices('\n').nth(2).unwrap().0 - 10;
        let mut bad = good.into_bytes();
        bad[at] ^= 2;
        let error = signers.check(&m, &bad, 1).unwrap_err();
        let why = "no signature of m is good: a signature can't be read (it is not written as ssh-keygen does)";
        assert_eq!(error.to_string(), why);
    }
}
