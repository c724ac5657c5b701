//! Key sets, and the chain in which each is signed by enough keys of the previous one.
//!
//! A host starts from the keys with which it was enrolled (set 0, or a later set). Later sets are in the site as `keys/1.toml`,
//! `keys/2.toml`, … beside their signatures, so that a host that missed several can catch up one by one. Key sets correspond to the
//! root role of The Update Framework.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::document::{Doc, Files, Tree, layout, quoted};
use crate::error::{Error, Exit, Result, code, counted, error, refused};
use crate::store::Store;
use crate::trust::{AllowedSigners, LastSeen, Message, Purpose};

/// The version of the format that this program writes, and the only one it reads.
const FORMAT: i64 = 1;
/// The maximum size of a set, or of its signatures, in bytes.
const LARGEST: u64 = 64 << 10;
/// The maximum number of sets to follow at once.
const LONGEST: usize = 1024;

/// The trusted signers, and how many of them must sign.
#[derive(Clone, Debug)]
pub struct KeySet {
    /// The site that it belongs to.
    pub site: String,
    /// Its number in the chain; 0 is `allowed_signers`.
    pub number: u64,
    /// When it was created.
    pub created: Timestamp,
    /// How many different keys must sign a release.
    pub release: usize,
    /// How many different keys must sign the next set.
    pub rotate: usize,
    /// The keys.
    pub signers: AllowedSigners,
    /// Fingerprints of revoked keys, whose earlier signatures don't count either.
    pub revoked: BTreeSet<String>,
    /// The last release of earlier sets that counts; none that they signed after it does, whatever its serial.
    pub last_serial: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeySetFile {
    format: i64,
    site: String,
    number: u64,
    created: Timestamp,
    release: usize,
    rotate: usize,
    signers: Vec<String>,
    #[serde(default)]
    revoked: BTreeSet<String>,
    last_serial: Option<u64>,
}

/// A threshold of a set that its keys do not reach, because too few of them are valid.
#[derive(Clone, Debug)]
pub struct Shortfall {
    /// What the threshold is for.
    pub purpose: Purpose,
    /// Whether that is so now, and not only from a later time on.
    pub is_now: bool,
    /// How many keys are valid, which are not, from when on, and what to do.
    pub error: Error,
}

impl Shortfall {
    /// The error with its advice, as one sentence.
    pub fn warning(&self) -> String {
        let advice = self.error.advice().map(|advice| format!("; {advice}"));
        format!("{}{}", self.error, advice.unwrap_or_default())
    }
}

/// A set with the bytes that were signed.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The set.
    pub set: KeySet,
    /// The signed bytes.
    pub bytes: Vec<u8>,
}

impl KeySet {
    /// Set 0, from a list of keys. `rotate` of them must sign the next set; if fewer may sign sets, there can be no next set.
    pub fn start(site: &str, signers: AllowedSigners, release: usize, rotate: usize) -> Self {
        let created = Timestamp::UNIX_EPOCH;
        let (site, revoked) = (site.to_owned(), BTreeSet::new());
        Self { site, number: 0, created, release, rotate, signers, revoked, last_serial: None }
    }

    /// Reads a set; `file` is its name in messages. Fails for thresholds that its keys can't reach, and for a listed key that it
    /// revokes.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self> {
        let doc = Doc::parse(file, bytes)?;
        let read: KeySetFile = doc.read()?;
        let at = |key: &str| doc.place(&[key.to_owned()]);
        if read.format != FORMAT {
            return Err(error!(KEYS, "{file} has format {}, and this kpull reads format {FORMAT}", read.format)
                .at(at("format"), "another format")
                .help("update kpull"));
        }
        if read.number == 0 {
            return Err(error!(KEYS, "{file} says that it is set 0")
                .at(at("number"), "counts from 1")
                .help("set 0 is the one with which hosts are enrolled"));
        }
        let signers = AllowedSigners::parse(file, &read.signers.join("\n"))?;
        if let Some(bad) = read.signers.iter().find(|line| line.contains(['\n', '\r'])) {
            return Err(error!(KEYS, "{file} has a signer of several lines: {bad}").at(at("signers"), "in here"));
        }
        for (name, purpose, wanted) in
            [("release", Purpose::Release, read.release), ("rotate", Purpose::Keys, read.rotate)]
        {
            let have = signers.count(purpose);
            if wanted == 0 || wanted > have {
                return Err(error!(KEYS, "{file}: `{name}` is {wanted}, and {have} of its keys may sign for that")
                    .at(at(name), "out of reach")
                    .help(format!(
                        "keys sign for it when their `namespaces` has {}, or is left out",
                        purpose.namespace()
                    )));
            }
        }
        if let Some(signer) = signers.iter().find(|signer| read.revoked.contains(&signer.fingerprint())) {
            return Err(error!(KEYS, "{file} lists a key of {} that it revokes", signer.principal)
                .at(at("revoked"), signer.fingerprint())
                .help("remove the key from `signers`"));
        }
        let KeySetFile { site, number, created, release, rotate, revoked, last_serial, .. } = read;
        Ok(Self { site, number, created, release, rotate, signers, revoked, last_serial })
    }

    /// The text to sign.
    pub fn to_toml(&self) -> String {
        let mut text = format!("format = {FORMAT}\nsite = {}\nnumber = {}\n", quoted(&self.site), self.number);
        let _ = writeln!(text, "created = {:.0}\nrelease = {}\nrotate = {}", self.created, self.release, self.rotate);
        if let Some(serial) = self.last_serial {
            let _ = writeln!(text, "last_serial = {serial}");
        }
        let mut list = |name: &str, lines: Vec<String>| {
            let lines: String = lines.iter().map(|line| format!("  {},\n", quoted(line))).collect();
            let _ = writeln!(text, "{name} = [\n{lines}]");
        };
        list("signers", self.signers.lines().map(str::to_owned).collect());
        if !self.revoked.is_empty() {
            list("revoked", self.revoked.iter().cloned().collect());
        }
        text
    }

    /// The set with this number that this host has adopted.
    pub fn kept(store: &Store, number: u64) -> Result<Self> {
        Self::parse(&Self::path(number), &store.key_set(number)?).map_err(|error| error.exit(Exit::Refused))
    }

    /// The thresholds that this set's keys do not reach now, or at some time up to `until`, because keys expire or are not valid yet.
    ///
    /// For those who write and publish sets. A host does not ask: whatever the time, its set may lead to a later one.
    pub fn shortfalls(&self, now: Timestamp, until: Timestamp) -> Vec<Shortfall> {
        let ends = self.signers.iter().filter_map(|signer| signer.before).filter(|end| (now..=until).contains(end));
        let times: BTreeSet<Timestamp> = ends.chain([now]).collect();
        let thresholds =
            [(Purpose::Release, self.release, "a release"), (Purpose::Keys, self.rotate, "the next key set")];
        let mut shortfalls = Vec::new();
        for (purpose, needed, what) in thresholds {
            let have = |at: Timestamp| self.signers.count_valid(purpose, at);
            let Some(at) = times.iter().copied().find(|at| have(*at) < needed) else { continue };
            let (is_now, needs) = (at == now, counted(needed, "valid key"));
            let (from, has) = if is_now { (String::new(), "has") } else { (format!(" from {at:.0} on"), "has then") };
            let problem =
                format!("key set {} can't sign {what}{from}: it needs {needs} and {has} {}", self.number, have(at));
            let error = Error::new(code::KEYS, problem).because(self.signers.invalid(purpose, now, at));
            let error = match (is_now, purpose) {
                (false, _) => error.help("make the next set before that, with keys that are valid longer: `kpull keys new --signers FILE`"),
                (true, Purpose::Keys) => error.help("make the host trust new keys from outside the site: `kpull enroll URL --site NAME --replace --signers FILE` on each host"),
                (true, _) => error.help("make the next set with keys that are valid: `kpull keys new --signers FILE`"),
            };
            shortfalls.push(Shortfall { purpose, is_now, error });
        }
        shortfalls
    }

    /// Its SHA-256 in hex, which identifies the set.
    pub fn digest(&self) -> String {
        hex::encode(Sha256::digest(self.to_toml()))
    }

    /// The path of the set with this number in a site.
    pub fn path(number: u64) -> String {
        layout::key_set(number)
    }

    /// The path of the signatures of the set with this number in a site.
    pub fn signatures_path(number: u64) -> String {
        format!("keys/{number}.toml.sig")
    }

    /// Every set of a site, oldest first.
    pub fn all(files: &Files) -> impl DoubleEndedIterator<Item = Result<Self>> {
        let count = (1..).take_while(|number| files.get(&Self::path(*number)).is_some()).count();
        (1..=count as u64).map(Self::path).filter_map(|path| Some(Self::parse(&path, files.get(&path)?)))
    }

    /// The newest set of a site; `None` if it has none.
    pub fn newest(files: &Files) -> Result<Option<Self>> {
        Self::all(files).next_back().transpose()
    }

    /// Reads the set that follows this one. Nothing of it is parsed before enough of these keys are known to have signed it. Enough
    /// of its own keys must have signed it too, so that a site can't be handed over to keys that don't exist.
    ///
    /// Keys must be valid at `now`, or when the set was created, so that a host can follow older sets however long it was offline (The
    /// Update Framework ignores the expiry of intermediate roots too). The signers choose that creation time, so it does not count if
    /// the host has `seen` a later release and would have seen the set before.
    pub fn next(&self, bytes: &[u8], signatures: &[u8], now: Timestamp, seen: Option<&LastSeen>) -> Result<Self> {
        let number = self.number + 1;
        let name = format!("key set {number}");
        let message = Message { bytes, purpose: Purpose::Keys, name: &name, at: now };
        self.signers.whenever().check(&message, signatures, self.rotate)?;
        let next = Self::parse(&Self::path(number), bytes).map_err(|error| error.exit(Exit::Refused))?;
        let is_news = seen.is_none_or(|seen| number <= seen.keys || next.created > seen.created);
        let made = Some(next.created).filter(|created| is_news && *created <= now);
        let check = |set: &Self| {
            let is_good = |at| set.signers.check(&Message { at, ..message }, signatures, set.rotate).map(drop);
            is_good(now).or_else(|error| made.and_then(|made| is_good(made).ok()).ok_or(error))
        };
        check(self)?;
        check(&next)
            .map_err(|error| error.help("the new keys must sign their own set too, to prove that they exist"))?;
        let wrong = |why: String| {
            Err(refused!(KEYS, "key set {} does not follow set {}", next.number, self.number).because(why).help(
                "`kpull keys new` creates the next set from the newest; find out who wrote this one, and who signed it",
            ))
        };
        if next.number != number {
            return wrong(format!("it has number {}", next.number));
        }
        if next.site != self.site {
            return wrong(format!("it is for the site `{}`, and this host belongs to `{}`", next.site, self.site));
        }
        if let Some(again) = self.revoked.iter().find(|key| !next.revoked.contains(*key)) {
            return wrong(format!("it does not list {again} as revoked"));
        }
        Ok(next)
    }

    /// The unverified set with this number in `tree`, and its signatures; `None` if there is no such set.
    pub fn read(tree: &dyn Tree, number: u64) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let (path, signatures_path) = (Self::path(number), Self::signatures_path(number));
        let Some(bytes) = tree.read(&path, LARGEST)? else { return Ok(None) };
        let signatures = tree.read(&signatures_path, LARGEST)?.ok_or_else(|| {
            refused!(KEYS, "key set {number} is not signed: there is no {signatures_path}")
                .help("sign it with `kpull keys sign`, with as many keys of the previous set as that one requires")
        })?;
        Ok(Some((bytes, signatures)))
    }

    /// The sets that follow this one in `tree`, oldest first, each signed by the previous one; see [`KeySet::next`] for `now` and
    /// `seen`.
    pub fn follow(&self, tree: &dyn Tree, now: Timestamp, seen: Option<&LastSeen>) -> Result<Vec<Signed>> {
        let mut chain: Vec<Signed> = Vec::new();
        while chain.len() < LONGEST {
            let last = chain.last().map_or(self, |signed| &signed.set);
            let Some((bytes, signatures)) = Self::read(tree, last.number + 1)? else { break };
            let set = last.next(&bytes, &signatures, now, seen)?;
            chain.push(Signed { set, bytes });
        }
        Ok(chain)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ssh_key::private::{Ed25519Keypair, PrivateKey};
    use ssh_key::{HashAlg, LineEnding};

    use super::*;

    fn key(number: u8) -> PrivateKey {
        Ed25519Keypair::from_seed(&[number; 32]).into()
    }

    fn signers(keys: &[u8]) -> AllowedSigners {
        let line = |number: &u8| format!("key{number} {}\n", key(*number).public_key().to_openssh().unwrap());
        AllowedSigners::parse("f", &keys.iter().map(line).collect::<String>()).unwrap()
    }

    fn set(number: u64, keys: &[u8], rotate: usize) -> KeySet {
        let created = "2026-11-24T00:00:00Z".parse().unwrap();
        KeySet { number, created, ..KeySet::start("lab", signers(keys), 1, rotate) }
    }

    struct Map(BTreeMap<String, Vec<u8>>);

    impl Tree for Map {
        fn read(&self, path: &str, _: u64) -> Result<Option<Vec<u8>>> {
            Ok(self.0.get(path).cloned())
        }

        fn list(&self) -> Result<Option<Vec<String>>> {
            Ok(None)
        }
    }

    fn tree(sets: &[(KeySet, &[u8])]) -> Map {
        let mut map = BTreeMap::new();
        for (set, by) in sets {
            let text = set.to_toml();
            let sign = |number: &u8| {
                let signature = key(*number).sign(Purpose::Keys.namespace(), HashAlg::Sha512, text.as_bytes()).unwrap();
                signature.to_pem(LineEnding::LF).unwrap()
            };
            map.insert(KeySet::signatures_path(set.number), by.iter().map(sign).collect::<String>().into_bytes());
            map.insert(KeySet::path(set.number), text.into_bytes());
        }
        Map(map)
    }

    fn follow(start: &KeySet, sets: &[(KeySet, &[u8])]) -> Result<Vec<u64>> {
        let chain = start.follow(&tree(sets), Timestamp::now(), None)?;
        Ok(chain.iter().map(|signed| signed.set.number).collect())
    }

    #[test]
    fn a_set_comes_back_as_it_was_written() {
        let mut written = set(3, &[1, 2], 2);
        written.revoked.insert("SHA256:x".to_owned());
        written.last_serial = Some(7);
        let read = KeySet::parse("f", written.to_toml().as_bytes()).unwrap();
        assert_eq!(read.to_toml(), written.to_toml());
        assert_eq!((read.number, read.rotate, read.last_serial), (3, 2, Some(7)));
    }

    #[test]
    fn a_host_that_slept_through_rotations_catches_up() {
        let sets: [(KeySet, &[u8]); 3] =
            [(set(1, &[2], 1), &[1, 2]), (set(2, &[3], 1), &[2, 3]), (set(3, &[4], 1), &[3, 4])];
        assert_eq!(follow(&set(0, &[1], 1), &sets).unwrap(), [1, 2, 3]);
        assert_eq!(follow(&sets[1].0, &sets).unwrap(), [3]);
        assert!(follow(&sets[2].0, &sets).unwrap().is_empty());
    }

    #[test]
    fn a_set_needs_enough_keys_of_the_one_before_and_enough_of_its_own() {
        let start = set(0, &[1, 2, 3], 2);
        assert_eq!(follow(&start, &[(set(1, &[4], 1), &[1, 2, 4])]).unwrap(), [1]);
        let problem = |by: &[u8]| follow(&start, &[(set(1, &[4], 1), by)]).unwrap_err().to_string();
        assert!(problem(&[1, 4]).starts_with("key set 1 has 1 good signature and needs 2"), "{}", problem(&[1, 4]));
        assert!(problem(&[4]).starts_with("no signature of key set 1 is good"), "{}", problem(&[4]));
        assert!(problem(&[1, 2]).starts_with("no signature of key set 1 is good"), "{}", problem(&[1, 2]));
        assert!(problem(&[1, 1, 4]).starts_with("key set 1 has 1 good signature and needs 2"));
    }

    #[test]
    fn a_set_for_another_site_or_out_of_turn_does_not_follow() {
        let start = set(0, &[1], 1);
        let other = KeySet { site: "other".to_owned(), ..set(1, &[1], 1) };
        assert!(follow(&start, &[(other, &[1])]).unwrap_err().to_string().contains("for the site `other`"));
        let mut map = tree(&[(set(2, &[1], 1), &[1])]);
        for (from, to) in [(KeySet::path(2), KeySet::path(1)), (KeySet::signatures_path(2), KeySet::signatures_path(1))]
        {
            let bytes = map.0.remove(&from).unwrap();
            map.0.insert(to, bytes);
        }
        let error = start.follow(&map, Timestamp::now(), None).unwrap_err();
        assert_eq!(error.to_string(), "key set 2 does not follow set 0: it has number 2");
        assert_eq!(error.exit_code(), Exit::Refused);
    }

    #[test]
    fn what_is_revoked_stays_revoked() {
        let mut first = set(1, &[2], 1);
        first.revoked.insert(signers(&[1]).iter().next().unwrap().fingerprint());
        let error = follow(&first, &[(set(2, &[2], 1), &[2])]).unwrap_err();
        assert!(error.to_string().contains("it does not list SHA256:"), "{error}");
        let again = KeySet { revoked: first.revoked.clone(), ..set(2, &[1, 2], 1) };
        let error = KeySet::parse("keys/2.toml", again.to_toml().as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "keys/2.toml lists a key of key1 that it revokes");
    }

    #[test]
    fn thresholds_that_nobody_can_reach_are_refused() {
        let text = set(1, &[1, 2], 1).to_toml();
        for (from, to) in [("rotate = 1", "rotate = 3"), ("rotate = 1", "rotate = 0"), ("release = 1", "release = 9")] {
            let error = KeySet::parse("f", text.replace(from, to).as_bytes()).unwrap_err();
            assert!(error.to_string().contains("2 of its keys may sign for that"), "{error}");
        }
    }

    /// Set 2 with these lines, in which `KEYn` stands for a key.
    fn lines(text: &str, release: usize, rotate: usize) -> KeySet {
        let text = (1..=3).fold(text.to_owned(), |text, number| {
            text.replace(&format!("KEY{number}"), &key(number).public_key().to_openssh().unwrap())
        });
        KeySet { release, signers: AllowedSigners::parse("f", &text).unwrap(), ..set(2, &[1], rotate) }
    }

    fn shortfalls(set: &KeySet, until: &str) -> Vec<(bool, String)> {
        let [now, until] = ["2026-11-24T00:00:00Z", until].map(|time| time.parse().unwrap());
        set.shortfalls(now, until).into_iter().map(|found| (found.is_now, found.error.to_string())).collect()
    }

    #[test]
    fn a_threshold_that_valid_keys_do_not_reach_is_reported_with_who_and_when() {
        let text = "alice KEY1\nbob valid-before=\"20260101\" KEY2\ncarol namespaces=\"release@kpull\" KEY3\n";
        assert_eq!(shortfalls(&lines(text, 2, 1), "2036-01-01T00:00:00Z"), []);
        let print = |number: u8| key(number).public_key().fingerprint(HashAlg::Sha256);
        let bob = format!("the key of bob ({}) expired at 2026-01-01T00:00:00Z", print(2));
        assert_eq!(
            shortfalls(&lines(text, 3, 2), "2026-11-24T00:00:00Z"),
            [
                (true, format!("key set 2 can't sign a release: it needs 3 valid keys and has 2: {bob}")),
                (true, format!("key set 2 can't sign the next key set: it needs 2 valid keys and has 1: {bob}"))
            ]
        );
        let text = "alice valid-after=\"20270101\" KEY1\nbob valid-before=\"20260101\" KEY2\ncarol KEY3\n";
        let alice = format!("the key of alice ({}) is not valid before 2027-01-01T00:00:00Z", print(1));
        assert_eq!(
            shortfalls(&lines(text, 1, 2), "2026-11-24T00:00:00Z"),
            [(true, format!("key set 2 can't sign the next key set: it needs 2 valid keys and has 1: {alice}; {bob}"))]
        );
    }

    #[test]
    fn a_threshold_that_keys_will_not_reach_is_reported_from_when_on() {
        let text = "alice valid-before=\"20261201\" KEY1\nbob valid-before=\"20261215\" KEY2\ncarol KEY3\n";
        let alice = format!("the key of alice ({})", key(1).public_key().fingerprint(HashAlg::Sha256));
        let set = lines(text, 3, 1);
        assert_eq!(shortfalls(&set, "2026-11-30T23:59:59Z"), []);
        let why = format!("it needs 3 valid keys and has then 2: {alice} expires at 2026-12-01T00:00:00Z");
        assert_eq!(
            shortfalls(&set, "2026-12-31T00:00:00Z"),
            [(false, format!("key set 2 can't sign a release from 2026-12-01T00:00:00Z on: {why}"))]
        );
        // one key on two lines is valid where one of them says so
        let text = "alice valid-before=\"20260101\" KEY1\nalice valid-after=\"20260101\" KEY1\n";
        assert_eq!(shortfalls(&lines(text, 1, 1), "2026-12-31T00:00:00Z"), []);
    }

    #[test]
    fn a_key_that_expired_for_one_purpose_is_named_though_it_is_valid_for_another() {
        let text = "alice namespaces=\"release@kpull\",valid-before=\"20260101\" KEY1\n\
                    alice namespaces=\"keys@kpull\" KEY1\nbob KEY2\n";
        let alice = format!("the key of alice ({})", key(1).public_key().fingerprint(HashAlg::Sha256));
        let why = format!("it needs 2 valid keys and has 1: {alice} expired at 2026-01-01T00:00:00Z");
        assert_eq!(
            shortfalls(&lines(text, 2, 2), "2026-12-31T00:00:00Z"),
            [(true, format!("key set 2 can't sign a release: {why}"))]
        );
    }

    #[test]
    fn a_host_reads_and_follows_a_set_whose_keys_have_expired() {
        let text = "alice valid-before=\"20200101\" KEY1\nbob valid-before=\"20200101\" KEY2\n";
        let old = lines(text, 2, 2);
        let read = KeySet::parse("f", old.to_toml().as_bytes()).unwrap();
        assert_eq!((read.release, read.rotate), (2, 2));
    }

    #[test]
    fn a_digest_distinguishes_one_set_from_another() {
        assert_eq!(set(1, &[1], 1).digest(), set(1, &[1], 1).digest());
        assert_ne!(set(1, &[1], 1).digest(), set(1, &[2], 1).digest());
    }
}
