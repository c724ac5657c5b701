//! `kpull keys`: the key sets of a site.

use std::fmt::Write as _;

use crate::cli::prelude::*;
use crate::error::quoted;
use crate::trust::{AllowedSigners, Message, Purpose, Shortfall, Signer, add_signature};

/// How long in advance kpull reports a threshold that a set's keys will no longer reach: the default lifetime of a release.
pub(super) const SOON: SignedDuration = SignedDuration::from_hours(24 * 30);

/// Arguments of `keys`.
#[derive(Args, Debug)]
pub struct Keys {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    options: SiteArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show every key set, the keys that can sign releases and sets, and whether each set has enough signatures
    Show {
        /// Check the first set against these keys, with which hosts were enrolled
        #[arg(long, value_name = "FILE")]
        enrolled: Option<PathBuf>,
        /// How many of those keys must sign the first set: `rotate_threshold`, else `threshold`, under [trust] in the hosts'
        /// kpull.toml [default: 1, if only one of them may sign it]
        #[arg(long, value_name = "N", requires = "enrolled")]
        threshold: Option<usize>,
    },
    /// Write the next key set, to be signed with `keys sign`
    New(New),
    /// Add a signature to the newest key set
    Sign {
        /// Sign with this OpenSSH key: a private key, or the .pub file of a key in an agent or a hardware key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
}

#[derive(Args, Debug)]
struct New {
    /// The keys of the set, in OpenSSH's allowed_signers format [default: those of the newest set]
    #[arg(long, value_name = "FILE")]
    signers: Option<PathBuf>,
    /// How many different keys must sign a release [default: as in the newest set, else 1]
    #[arg(long, value_name = "N")]
    release: Option<usize>,
    /// How many different keys must sign the next set [default: as in the newest set, else as for a release]
    #[arg(long, value_name = "N")]
    rotate: Option<usize>,
    /// Revoke this key, including its earlier signatures (SHA256:…, as `ssh-keygen -l` prints it); repeatable
    #[arg(long, value_name = "FINGERPRINT")]
    revoke: Vec<String>,
    /// Refuse later releases unless they are signed under this set, after unauthorized releases were signed. Hosts accept the
    /// next release from this serial on
    #[arg(long, value_name = "SERIAL")]
    last_serial: Option<u64>,
}

impl Run for Keys {
    fn run(&self) -> Result<Exit> {
        let files = Files::in_directory(&self.options.site)?;
        let sets = KeySet::all(&files).collect::<Result<Vec<_>>>()?;
        match &self.action {
            Action::Show { enrolled, threshold } => {
                let start = enrolled.as_ref().map(|path| self.enrolled(path, *threshold)).transpose()?;
                self.show(&files, &sets, start.as_ref())
            }
            Action::New(new) => self.new_set(files, sets.last(), new),
            Action::Sign { key } => self.sign(&files, &sets, key),
        }
    }
}

/// The content of a file; empty if there is none.
fn content<'a>(files: &'a Files, path: &str) -> &'a [u8] {
    files.get(path).map(|bytes| &**bytes).unwrap_or_default()
}

impl Keys {
    /// Shows every set; `before` is the set that the first one follows, if it is known.
    fn show<'a>(&self, files: &Files, sets: &'a [KeySet], mut before: Option<&'a KeySet>) -> Result<Exit> {
        let now = Timestamp::now();
        for set in sets {
            let (bytes, signatures) = (KeySet::path(set.number), KeySet::signatures_path(set.number));
            let (bytes, signatures) = (content(files, &bytes), content(files, &signatures));
            let state = match before {
                None => {
                    "signatures not checked: add --enrolled FILE, the keys with which hosts were enrolled".to_owned()
                }
                Some(before) => match before.next(bytes, signatures, now, None) {
                    Ok(_) => format!("follows set {}", before.number),
                    Err(error) => format!("does not count yet: {error}"),
                },
            };
            before = Some(set);
            // replaced sets need no signatures
            let shortfalls = match sets.last().is_some_and(|newest| newest.number == set.number) {
                true => set.shortfalls(now, now + SOON),
                false => Vec::new(),
            };
            let shortfalls: Vec<String> = shortfalls.iter().map(Shortfall::warning).collect();
            if self.options.json {
                let signers: Vec<_> = set
                    .signers
                    .iter()
                    .map(|signer| {
                        json!({ "name": signer.principal, "key": signer.fingerprint(), "release": signer.may(Purpose::Release),
                            "rotate": signer.may(Purpose::Keys), "after": signer.after, "before": signer.before })
                    })
                    .collect();
                print_json(json!({ "site": set.site, "number": set.number,
                    "created": set.created, "release": set.release, "rotate": set.rotate, "signers": signers,
                    "revoked": set.revoked, "last_serial": set.last_serial, "state": state, "shortfalls": shortfalls }));
            } else {
                print(&format!("{}\n  {}", describe(set), quoted(&state)));
                shortfalls.iter().for_each(|line| print(&format!("! {line}")));
            }
        }
        if sets.is_empty() && !self.options.json {
            print("the site has no key sets: hosts trust the keys with which they were enrolled");
        }
        Ok(Exit::Done)
    }

    /// The initial key set of hosts that were enrolled with these keys.
    fn enrolled(&self, path: &Path, threshold: Option<usize>) -> Result<KeySet> {
        let signers = AllowedSigners::load(path)?;
        let may = signers.count(Purpose::Keys);
        let file = path.display();
        let error = match threshold {
            None if may > 1 => {
                error!(KEYS, "how many of the {may} keys in {file} must sign the first key set?")
            }
            Some(wanted) if !(1..=may).contains(&wanted) => {
                error!(KEYS, "`--threshold` is {wanted}, and {may} of the keys in {file} may sign key sets")
            }
            _ => {
                let site = Site::load(Files::in_directory(&self.options.site)?)?;
                let threshold = threshold.unwrap_or(1);
                return Ok(KeySet::start(&site.name, signers, threshold, threshold));
            }
        };
        Err(error.help(
            "add --threshold N with the hosts' value: `rotate_threshold`, else `threshold`, under [trust] in kpull.toml; 1 if neither is set",
        ))
    }

    fn new_set(&self, files: Files, newest: Option<&KeySet>, new: &New) -> Result<Exit> {
        let signers = match (&new.signers, newest) {
            (Some(path), _) => AllowedSigners::load(path)?,
            (None, Some(set)) => set.signers.clone(),
            (None, None) => {
                return Err(error!(KEYS, "the first key set needs its keys")
                    .help("add --signers FILE; start with the file with which the hosts were enrolled"));
            }
        };
        let revoke: BTreeSet<String> = new.revoke.iter().cloned().collect();
        if let Some(bad) = revoke.iter().find(|key| key.strip_prefix("SHA256:").is_none_or(|rest| rest.len() != 43)) {
            return Err(error!(KEYS, "`{bad}` is not a fingerprint")
                .help("`kpull keys show` and `ssh-keygen -l` print them: SHA256: and 43 characters"));
        }
        let release = new.release.or(newest.map(|set| set.release)).unwrap_or(1);
        let rotate = new.rotate.or(newest.map(|set| set.rotate)).unwrap_or(release);
        let set = KeySet {
            site: Site::load(files)?.name,
            number: newest.map_or(1, |set| set.number + 1),
            created: Timestamp::from_second(Timestamp::now().as_second())
                .context(code::KEYS, || "the clock can't be read")?,
            release,
            rotate,
            signers: signers.without(&revoke),
            revoked: newest.map(|set| set.revoked.clone()).unwrap_or_default().into_iter().chain(revoke).collect(),
            last_serial: new.last_serial,
        };
        let (path, text) = (KeySet::path(set.number), set.to_toml());
        KeySet::parse(&path, text.as_bytes())?;
        if let Some(found) = set.shortfalls(set.created, set.created).pop() {
            return Err(found.error.help(
                "name keys that are valid with --signers FILE, or lower thresholds with --release and --rotate",
            ));
        }
        replace(&[(self.options.site.join(&path), text.into_bytes())])?;
        self.report(
            &set,
            &format!(
                "wrote {path}; {} keys of the previous set and {} of this one must sign it: {}",
                newest.map_or_else(|| "enough".to_owned(), |set| set.rotate.to_string()),
                set.rotate,
                complete("`kpull keys sign --key FILE`")
            ),
        );
        Ok(Exit::Done)
    }

    fn sign(&self, files: &Files, sets: &[KeySet], key: &Path) -> Result<Exit> {
        let set = sets.last().ok_or_else(|| {
            error!(KEYS, "the site has no key set: there is no keys/1.toml")
                .help("create one with `kpull keys new --signers FILE`")
        })?;
        let bytes = content(files, &KeySet::path(set.number));
        let signature = Signer::of(key)?.sign(bytes, Purpose::Keys)?;
        let name = format!("key set {}", set.number);
        let message = Message { bytes, purpose: Purpose::Keys, name: &name, at: Timestamp::now() };
        let before = sets.iter().rev().nth(1);
        let counts_for = |set: &&KeySet| set.signers.check(&message, signature.as_bytes(), 1).is_ok();
        let counts = before.into_iter().chain([set]).filter(counts_for);
        let counts: Vec<String> = counts.map(|set| format!("set {} (needs {})", set.number, set.rotate)).collect();
        let counts = match counts.is_empty() {
            true if before.is_none() => "it counts on hosts that were enrolled with that key".to_owned(),
            true => {
                return Err(error!(
                    KEYS,
                    "that key is neither in the previous set nor in this one, so its signature does not count"
                )
                .help("`kpull keys show` lists the keys that count"));
            }
            false => format!("counts as one of {}", counts.join(" and of ")),
        };
        add_signature(&self.options.site, &KeySet::signatures_path(set.number), &signature)?;
        // signers who did not write the set need to see what they signed
        if !self.options.json {
            print(&describe(set));
            before.map(|before| changes(before, set)).unwrap_or_default().iter().for_each(|line| print(line));
        }
        self.report(set, &format!("signed key set {}: {counts}; sign the site again once it has enough", set.number));
        Ok(Exit::Done)
    }

    fn report(&self, set: &KeySet, text: &str) {
        print_result(self.options.json, json!({ "number": set.number, "digest": set.digest() }), text);
    }
}

/// The changes from one set to the next, one line each.
fn changes(before: &KeySet, set: &KeySet) -> Vec<String> {
    let of = |set: &KeySet| -> BTreeSet<(String, String)> {
        set.signers.iter().map(|signer| (signer.fingerprint(), signer.principal.clone())).collect()
    };
    let (old, new) = (of(before), of(set));
    let mut lines = Vec::new();
    for (word, keys) in [("removed", old.difference(&new)), ("new", new.difference(&old))] {
        lines.extend(keys.map(|(key, name)| format!("  {word:<8} {name:<16} {key}")));
    }
    for (what, was, is) in [("a release", before.release, set.release), ("the next key set", before.rotate, set.rotate)]
    {
        if was != is {
            lines.push(format!("  changed  {what} needs {is}, before {was}"));
        }
    }
    if !lines.is_empty() {
        lines.insert(0, format!("changes from set {}:", before.number));
    }
    lines
}

/// A set, as text.
pub(super) fn describe(set: &KeySet) -> String {
    let mut text = match set.number {
        0 => format!("{}: the keys of allowed_signers", set.site),
        number => format!("{}: key set {number} of {:.0}", set.site, set.created),
    };
    let _ = write!(text, "\n  a release needs {} of {}", set.release, set.signers.count(Purpose::Release));
    let _ = write!(text, ", the next key set {} of {}", set.rotate, set.signers.count(Purpose::Keys));
    for signer in set.signers.iter() {
        let may = match (signer.may(Purpose::Release), signer.may(Purpose::Keys)) {
            (true, true) => "releases and keys",
            (true, false) => "releases",
            _ => "keys",
        };
        let _ = write!(text, "\n  {:<16} {} {may}", signer.principal, signer.fingerprint());
        let end = if signer.before.is_some_and(|end| end <= Timestamp::now()) { "expired" } else { "until" };
        for (word, time) in [("from", signer.after), (end, signer.before)] {
            if let Some(time) = time {
                let _ = write!(text, " {word} {time:.0}");
            }
        }
    }
    for key in &set.revoked {
        let _ = write!(text, "\n  revoked          {key}");
    }
    if let Some(serial) = set.last_serial {
        let _ = write!(text, "\n  no release of earlier sets counts after serial {serial}");
    }
    text
}
