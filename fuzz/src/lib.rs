//! What the fuzzer calls, one function for each target, over arbitrary bytes. `tests/fuzz.rs` replays the corpora through
//! the same functions.
//!
//! Each panics when something that the program promises does not hold. A target that needs several files takes them
//! from one input: a line `%% NAME` begins each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read, copy, sink};
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kpull::author::lint::lint;
use kpull::author::secret::scan::scan;
use kpull::config::Config;
use kpull::document::layout::MANIFEST;
use kpull::document::{Files, Format, Tree};
use kpull::error::{Context as _, Error, visible};
use kpull::host::Host;
use kpull::host::account_files::{Tables, WantedGroup, WantedUser};
use kpull::host::accounts::Accounts;
use kpull::host::packages::Manager;
use kpull::host::port_range::PortRange;
use kpull::host::rich_rule::RichRule;
use kpull::host::root::Root;
use kpull::host::unit_files::{self, Found, Own};
use kpull::host::zone::{Edit, Element};
use kpull::host::zone_file::ZoneFile;
use kpull::pki::{Certificate, PrivateKey, Request, Revoked};
use kpull::resolve::{Facts, resolve};
use kpull::secret::index::Index;
use kpull::secret::{self, Keyring, LARGEST, Recipient, SecretStore};
use kpull::site::Site;
use kpull::status::{RecordSource, Reported};
use kpull::store::Store;
use kpull::store::archive::{Archive, Limits};
use kpull::trust::{
    AllowedSigners, Enrolment, KeySet, Manifest, Message, Purpose, Signed, TrustState, VerifiedManifest, claimed,
    fingerprint, is_part,
};
use miette::{GraphicalReportHandler, GraphicalTheme};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{HashAlg, LineEnding};
use tempfile::TempDir;

/// A target: its name, which is also that of its corpus, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("archive", archive),
    ("config", config),
    ("enrol", enrol),
    ("host", host),
    ("keys", keys),
    ("manifest", manifest),
    ("pki", pki),
    ("rich_rule", rich_rule),
    ("secret", secret),
    ("signers", signers),
    ("site", site),
    ("state", state),
    ("status", status),
    ("units", units),
    ("zone", zone),
];

/// `release.toml`: what is read of it names files of a site, and is written as it is read.
pub fn manifest(data: &[u8]) {
    let manifest = match Manifest::parse(data) {
        Ok(manifest) => manifest,
        Err(error) => return show(&error),
    };
    for (path, listed) in &manifest.files {
        let is_plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        assert!(is_plain && is_part(path), "{path:?} leaves the site");
        assert_eq!(hex_digits(&listed.sha256), 64, "{path:?} has no digest");
    }
    // TOML has not all the years that a time can have, and no fractions are written
    let manifest = Manifest { created: time(NOW), expires: time(NOW), ..manifest };
    let written = manifest.to_toml();
    if i64::try_from(manifest.serial).is_ok() && manifest.files.values().all(|listed| listed.size < 1 << 63) {
        assert_eq!(Manifest::parse(written.as_bytes()).expect("what was written is read"), manifest);
    }
}

fn hex_digits(text: &str) -> usize {
    text.bytes().filter(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')).count()
}

/// A time that the corpora's keys are valid at.
const NOW: &str = "2026-11-24T03:50:00Z";

fn time(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

/// Sets of keys and their signatures, beside the keys that a host was enrolled with: each set follows the one before, and
/// is written as it is read.
pub fn keys(data: &[u8]) {
    let tree = Files::from_iter(owned(files(data)));
    for (path, content) in tree.iter().filter(|(path, _)| path.ends_with(".toml")) {
        let Some(set) = report(KeySet::parse(path, content)) else { continue };
        let set = KeySet { created: time(NOW), ..set };
        let is_small = |number: u64| i64::try_from(number).is_ok();
        if is_small(set.number) && set.last_serial.is_none_or(is_small) {
            let again = report(KeySet::parse(path, set.to_toml().as_bytes())).expect("what was written is read");
            assert_eq!(again.digest(), set.digest());
        }
    }
    let start = tree.get("allowed").map(|content| String::from_utf8_lossy(content)).unwrap_or_default();
    let Some(start) = report(AllowedSigners::parse("allowed_signers", &start)) else { return };
    let start = KeySet::start("lab", start, 1, 1);
    for (at, signed) in report(start.follow(&InMemory(tree), time(NOW), None)).into_iter().flatten().enumerate() {
        assert_eq!((signed.set.number, signed.set.site.as_str()), (at as u64 + 1, "lab"));
        assert!(signed.set.rotate > 0 && signed.set.rotate <= signed.set.signers.count(Purpose::Keys));
    }
}

/// What a source has for a host that knows nothing but fingerprints. `by` says, a line each, which of the keys A, B and C sign a file
/// (`keys/1.toml AB`), `wanted` whose fingerprints the host knows; `{A}` stands for a key. Whatever the source has, each key that
/// the host knows has signed what it starts from, and each set after that as many keys of the set before as that needs.
pub fn enrol(data: &[u8]) {
    thread_local! {
        static KEYS: [(char, ssh_key::PrivateKey); 3] = [('A', key(1)), ('B', key(2)), ('C', key(3))];
    }
    KEYS.with(|keys| {
        let known = |letters: &str| {
            let letters: BTreeSet<char> = letters.chars().collect();
            keys.iter().filter(move |(letter, _)| letters.contains(letter)).map(|(_, key)| key).collect::<Vec<_>>()
        };
        let mut tree: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for (name, content) in files(data) {
            let text = keys.iter().fold(String::from_utf8_lossy(content).into_owned(), |text, (letter, key)| {
                text.replace(&format!("{{{letter}}}"), &key.public_key().to_openssh().expect("a key is written"))
            });
            tree.insert(name.to_owned(), text.into_bytes());
        }
        let text = |name: &str| String::from_utf8_lossy(tree.get(name).map_or(&[][..], Vec::as_slice)).into_owned();
        let (by, wanted) = (text("by"), text("wanted"));
        let mut signers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (path, letters) in by.lines().take(6).filter_map(|line| line.split_once(' ')) {
            if path.ends_with(".sig") || signers.contains_key(path) {
                continue;
            }
            let Some(content) = tree.get(path).cloned() else { continue };
            let purpose = if path == MANIFEST { Purpose::Release } else { Purpose::Keys };
            let signatures = tree.entry(format!("{path}.sig")).or_default();
            for key in known(letters) {
                signatures.extend(signature(key, purpose, &content).into_bytes());
                signers.entry(path.to_owned()).or_default().insert(fingerprint(key.public_key().key_data()));
            }
        }
        let signed = |path: &str| signers.get(path).cloned().unwrap_or_default();
        let wanted: BTreeSet<String> =
            known(wanted.trim_end()).iter().map(|key| fingerprint(key.public_key().key_data())).collect();
        if wanted.is_empty() {
            return;
        }
        let is_there = |path: &str| tree.contains_key(path);
        let (has_sets, source) = (
            is_there(&KeySet::path(1)),
            InMemory(tree.iter().map(|(path, content)| (path.clone(), content.as_slice().into())).collect()),
        );
        let names = wanted.iter().map(String::as_str).collect();
        match report(kpull::trust::enrol(&source, "lab", &names, time(NOW))) {
            Some(Enrolment::Set(bytes)) => {
                let mut last = KeySet::parse("keys/1.toml", &bytes).expect("it was read before");
                assert_eq!((last.number, last.site.as_str()), (1, "lab"));
                assert!(wanted.len() >= last.rotate, "fewer fingerprints than the set needs");
                assert!(wanted.is_subset(&signed("keys/1.toml")), "a key that has not signed the set");
                for Signed { set, .. } in report(last.follow(&source, time(NOW), None)).into_iter().flatten() {
                    let by = signed(&KeySet::path(set.number));
                    let of = |set: &KeySet| {
                        let keys: BTreeSet<String> = set.signers.iter().map(|signer| signer.fingerprint()).collect();
                        keys.intersection(&by).count()
                    };
                    assert!(
                        of(&last) >= last.rotate && of(&set) >= set.rotate,
                        "set {} has too few signers",
                        set.number
                    );
                    last = set;
                }
            }
            Some(Enrolment::Keys { lines, threshold }) => {
                assert!(!has_sets && threshold == wanted.len());
                let keys = AllowedSigners::parse("--fingerprint", &lines).expect("they were written");
                let keys = KeySet::start("lab", keys, threshold, threshold);
                if report(VerifiedManifest::by(&keys, &source, time(NOW))).is_some() {
                    assert!(wanted.is_subset(&signed(MANIFEST)), "a key that has not signed the release");
                }
            }
            None => {}
        }
    });
}

/// A key of its own for each number.
fn key(number: u8) -> ssh_key::PrivateKey {
    ssh_key::PrivateKey::from(Ed25519Keypair::from_seed(&[number; 32]))
}

fn signature(key: &ssh_key::PrivateKey, purpose: Purpose, message: &[u8]) -> String {
    let signature = key.sign(purpose.namespace(), HashAlg::Sha512, message).expect("a key signs");
    signature.to_pem(LineEnding::LF).expect("a signature is written")
}

/// What a host has signed of itself; behind `!` what lies in the place of that. Only what is signed is taken, of this host, and
/// nothing that it says ends whoever reads it.
pub fn status(data: &[u8]) {
    thread_local! {
        static HOST: (TempDir, ssh_key::PrivateKey, [Recipient; 1]) = {
            let key = key(1);
            let public = key.public_key().to_openssh().expect("a key is written");
            (scratch(), key, [public.parse().expect("a host's key")])
        };
    }
    HOST.with(|(dir, key, keys)| {
        let (bytes, is_signed) = match data.strip_prefix(b"!") {
            Some(bytes) => (bytes.to_vec(), false),
            None => ([data, signature(key, Purpose::Status, data).as_bytes()].concat(), true),
        };
        std::fs::write(dir.path().join("a.status"), bytes).expect("the directory is ours");
        let place = RecordSource::Dir(dir.path().to_owned());
        let until = Instant::now() + Duration::from_secs(60);
        let record = match place.record("lab", "a", keys, until).expect("the directory can be read") {
            Reported::Here(record) => record,
            Reported::Refused(_) => return,
            Reported::Absent => panic!("there is a record"),
        };
        assert!(is_signed && (record.site.as_str(), record.host.as_str()) == ("lab", "a"), "{record:?}");
        for now in [NOW, "2036-11-24T03:50:00Z"].map(time) {
            for newest in [0, 7, u64::MAX] {
                record.state(newest, now);
            }
            record.says(now);
        }
    });
}

/// Files as a source has them.
struct InMemory(Files);

impl Tree for InMemory {
    fn read(&self, path: &str, max: u64) -> kpull::Result<Option<Vec<u8>>> {
        match self.0.get(path) {
            Some(content) if content.len() as u64 > max => Err(Error::refused(kpull::error::code::NET, "too large")),
            content => Ok(content.map(|content| content.to_vec())),
        }
    }

    fn list(&self) -> kpull::Result<Option<Vec<String>>> {
        Ok(None)
    }
}

/// Certificates, a request for one, a private key, the records of what was revoked and of who has which secret.
pub fn pki(data: &[u8]) {
    for certificate in report(Certificate::bundle("x.crt", data)).into_iter().flatten() {
        certificate.is_signed_by(&certificate);
        let again = report(Certificate::one("x.crt", certificate.pem.as_bytes())).expect("it was read before");
        assert_eq!((again.serial, again.public), (certificate.serial, certificate.public));
    }
    report(Request::read("x.csr", data));
    if let Some(key) = report(PrivateKey::from_pem("x.key", data)) {
        assert!(PrivateKey::from_pem("x.key", &key.pem()).is_ok(), "what was written is read");
    }
    let at = |path: &str| Files::from_iter([(path.to_owned(), data.into())]);
    report(Revoked::all(&at("pki/revoked.toml")));
    if let Some(index) = report(Index::read(&at(secret::index::INDEX))) {
        let again = report(Index::read(&Files::from_iter([(
            secret::index::INDEX.to_owned(),
            index.to_toml().into_bytes().into(),
        )])));
        assert_eq!(again, Some(index), "what was written is read");
    }
}

/// Allowed signers, signatures and what they are over, one file each: no signature is good for anything else.
pub fn signers(data: &[u8]) {
    let files = files(data);
    let file = |name: &str| files.iter().find(|(known, _)| *known == name).map_or(&b""[..], |(_, content)| content);
    let allowed = match AllowedSigners::parse("allowed_signers", &String::from_utf8_lossy(file("allowed"))) {
        Ok(allowed) => allowed,
        Err(error) => return show(&error),
    };
    let (message, signatures) = (file("message"), file("signatures"));
    let check = |bytes: &[u8], threshold| {
        allowed.check(
            &Message { bytes, purpose: Purpose::Release, name: "the release", at: time(NOW) },
            signatures,
            threshold,
        )
    };
    report(claimed("the release", signatures));
    match check(message, 1) {
        Ok(_) => {
            let other = [message, b"x"].concat();
            let why = check(&other, 1).expect_err("a signature is good for two messages").to_string();
            assert!(why.starts_with("no signature of the release is good: "), "{why}");
            let most = allowed.count(Purpose::Release) + 1;
            let why = check(message, most).expect_err("there are more signers than keys").to_string();
            assert!(why.contains(&format!("and needs {most}")), "{why}");
        }
        Err(error) => {
            show(&error);
            let without = check(message, 0).expect_err("without a good signature no threshold is reached");
            assert_eq!(without.to_string(), error.to_string().replace("needs 1", "needs 0"));
        }
    }
}

/// A site of several files: looked through for secrets, loaded, resolved for its hosts, and checked.
pub fn site(data: &[u8]) {
    let files: Files = owned(files(data)).collect();
    scan(&files).iter().for_each(show);
    let site = match Site::load(files) {
        Ok(site) => Arc::new(site),
        Err(error) => return show(&error),
    };
    let mut catalogs = Vec::new();
    for (name, host) in site.hosts.iter().take(2) {
        let facts = Facts::assumed(name, host.address, None).expect("nothing is asked");
        match resolve(&site, name, &facts, &SecretStore::encrypted()) {
            Ok(catalog) => {
                let ids: BTreeSet<&str> = catalog.items.iter().map(|item| item.id.as_str()).collect();
                assert!(catalog.items.iter().all(|item| item.after.iter().all(|id| ids.contains(id.as_str()))));
                catalogs.push(catalog);
            }
            Err(error) => show(&error),
        }
    }
    lint(&site, &catalogs).iter().for_each(show);
}

/// An archive behind two bytes: its format, and what is wanted of it. Never more comes out than allowed, and nothing
/// that nobody wants.
pub fn archive(data: &[u8]) {
    let [format, how, bytes @ ..] = data else { return };
    // the seeds have these numbers: a new one goes behind
    const FORMATS: [Format; 9] = [
        Format::TarGz,
        Format::TarZst,
        Format::Tar,
        Format::Zip,
        Format::Gz,
        Format::Plain,
        Format::TarXz,
        Format::Xz,
        Format::Zst,
    ];
    let format = FORMATS[usize::from(*format) % FORMATS.len()];
    let reads_all = how & 1 == 0;
    let wanted: BTreeSet<String> =
        ["README", "bin/tool", "./a"][..usize::from(how >> 1) % 4].iter().map(|name| (*name).to_owned()).collect();
    let limits = Limits { members: 32, bytes: 64 << 10, member: 16 << 10, ..Limits::default() };
    let mut taken: Vec<(String, Option<u64>, u64)> = Vec::new();
    let archive = Archive { limits, ..Archive::new("archive", format) };
    let result = archive.extract(Cursor::new(bytes), &wanted, &mut |member, content| {
        assert!(wanted.contains(&member.name), "{:?} is not wanted", member.name);
        let content: &mut dyn Read = if reads_all { content } else { &mut content.take(10) };
        let mut count = Count { inner: content, bytes: 0 };
        let copied = copy(&mut count, &mut sink());
        taken.push((member.name.clone(), member.size, count.bytes));
        copied.map(drop).context(kpull::error::code::OTHER, || "the sink".to_owned())
    });
    for (name, size, bytes) in &taken {
        assert!(*bytes <= limits.member, "{name}: {bytes} bytes");
        assert!(size.is_none_or(|size| *bytes <= size), "{name}: {bytes} bytes");
    }
    assert!(taken.iter().map(|(.., bytes)| bytes).sum::<u64>() <= limits.bytes);
    match result {
        Ok(()) => {
            let names: BTreeSet<&String> = taken.iter().map(|(name, ..)| name).collect();
            assert_eq!((names.len(), taken.len()), (wanted.len(), wanted.len()), "each once");
            let is_whole = |(_, size, bytes): &(_, Option<u64>, u64)| size.is_none_or(|size| size == *bytes);
            assert!(!reads_all || taken.iter().all(is_whole));
        }
        Err(error) => show(&error),
    }
}

struct Count<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Count<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

fn number(accounts: &Accounts, user: &str) -> Option<u32> {
    accounts.local(user).map(|login| login.uid)
}

/// Files of a host: os-release, the texts of `/proc`, accounts, dpkg's status. What is written into the accounts is there
/// afterwards.
pub fn host(data: &[u8]) {
    let Some(dir) = directory(data, false) else { return };
    let host = Host::open(dir.path()).expect("the directory is there");
    let root = &host.root;
    report(Facts::of_machine(&host));
    let asked = ["bash", "vim:amd64"].map(str::to_owned).into();
    report(Manager::Apt.query(root, &asked));
    if let Some(accounts) = report(Accounts::read(root)) {
        assert_eq!((number(&accounts, "root"), accounts.gid("root").expect("a tree asks nobody")), (Some(0), Some(0)));
    }
    let Some(mut tables) = report(Tables::read(root)) else { return };
    let group = WantedGroup { name: "kube", gid: None, system: true };
    let user = WantedUser {
        name: "etcd",
        uid: None,
        system: true,
        group: None,
        comment: Some("etcd"),
        home: Some("/var/lib/etcd"),
        shell: None,
    };
    let made = tables.make_group(&group).and_then(|gid| Ok((gid, tables.make_user(&user)?)));
    let Some((gid, (uid, _))) = report(made) else { return };
    tables.add_member("etcd", "kube");
    // something else than a file may stand where one is to be
    if report(tables.write(root)).is_none() {
        return;
    }
    let tables = report(Tables::read(root)).expect("what was written is read");
    let left = report(tables.user_differences(&user)).expect("what was made is understood");
    assert!(left.is_empty(), "{left:?} is left after {uid} was made");
    assert_eq!(tables.is_member("etcd", "kube"), Some(true));
    let accounts = report(Accounts::read(root)).expect("what was written is read");
    assert_eq!((accounts.gid("kube").expect("a tree asks nobody"), number(&accounts, "etcd")), (Some(gid), Some(uid)));
}

/// Unit files, drop-ins and links between them: found, followed, checked.
pub fn units(data: &[u8]) {
    let Some(dir) = directory(data, true) else { return };
    let root = Root::open(dir.path()).expect("the directory is there");
    report(unit_files::names(&root));
    let text = String::from_utf8_lossy(data);
    let own = Own { text: Some(text.clone().into_owned()), dropins: [("a.conf".to_owned(), text.into_owned())].into() };
    for (name, own) in [("a.service", &Own::default()), ("b@x.service", &Own::default()), ("own@.socket", &own)] {
        report(unit_files::masked(&root, name));
        let Some(Found::File(file)) = report(unit_files::find(&root, name, own)) else { continue };
        for link in report(file.links(&root)).into_iter().flatten() {
            report(link.is_there(&root));
        }
    }
    if let Err(flaw) = own.text.as_deref().map_or(Ok(()), unit_files::check) {
        assert!(flaw.line > 0);
    }
}

/// A zone's file, and edits of it, one a line: afterwards it contains exactly what it contained before, with the edits.
pub fn zone(data: &[u8]) {
    let files = files(data);
    let file = |name: &str| {
        let content = files.iter().find(|(known, _)| *known == name).map_or(&b""[..], |(_, content)| content);
        String::from_utf8_lossy(content).into_owned()
    };
    let Ok(zone) = ZoneFile::parse(file("zone.xml")) else { return };
    let mut settings = zone.settings();
    let edits: Vec<Edit> = file("edits").lines().take(8).filter_map(edit).collect();
    for edit in &edits {
        settings.make(edit);
    }
    let edited = zone.edited(&edits);
    let after = ZoneFile::parse(edited.clone()).map(|zone| zone.settings());
    assert_eq!(after, Ok(settings), "{edits:?} made it\n{edited}");
}

/// `+ service ssh`, `- port 80/tcp` and so on.
fn edit(line: &str) -> Option<Edit> {
    if line.chars().any(char::is_control) {
        return None;
    }
    let (sign, rest) = line.split_once(' ')?;
    let (what, value) = rest.split_once(' ').unwrap_or((rest, ""));
    let value = value.trim().to_owned();
    let element = match what {
        "masquerade" => Element::Masquerade,
        "port" => Element::Port(PortRange::try_from(value).ok()?),
        "rule" => Element::Rule(RichRule::parse(&value).ok()?.to_string()),
        _ if value.is_empty() => return None,
        "service" => Element::Service(value),
        "source" => Element::Source(value),
        "interface" => Element::Interface(value),
        _ => return None,
    };
    match sign {
        "+" => Some(Edit::Add(element)),
        "-" => Some(Edit::Remove(element)),
        _ => None,
    }
}

/// A rich rule: as text and as XML it is read as what it was.
pub fn rich_rule(data: &[u8]) {
    let Ok(rule) = RichRule::parse(&String::from_utf8_lossy(data)) else { return };
    let text = rule.to_string();
    assert_eq!(RichRule::parse(&text), Ok(rule.clone()), "{text}");
    let zone = ZoneFile::parse(format!("<zone>\n{}</zone>", rule.to_xml())).expect("it is XML");
    assert_eq!(zone.settings().elements(), [Element::Rule(text)]);
}

/// `kpull.toml`.
pub fn config(data: &[u8]) {
    let dir = scratch();
    let path = dir.path().join("kpull.toml");
    std::fs::write(&path, data).expect("the directory is ours");
    if let Some(config) = report(Config::load(&path, dir.path())) {
        assert!(
            config.trust.allowed_signers.as_ref().is_none_or(|path| path.is_absolute()) && !config.sources.is_empty()
        );
        assert!(config.sources.iter().all(|source| source.check().is_ok()));
    }
}

/// The state directory, which is `state` in a host's root: what was seen, the release that was kept, records.
pub fn state(data: &[u8]) {
    let Some(dir) = directory(data, false) else { return };
    let root = Root::open(dir.path()).expect("the directory is there");
    let Some(store) = report(Store::open(&dir.path().join("state"))) else { return };
    report(TrustState::in_root(&root));
    if let Some((memory, _)) = report(TrustState::load(store.root(), &root)).flatten()
        && report(memory.save(store.root(), &root)).is_some()
    {
        assert_eq!(
            report(TrustState::load(store.root(), &root)).flatten(),
            Some((memory, true)),
            "what was written is read"
        );
    }
    report(store.key_set(1));
    if let Some(pending) = report(store.pending()) {
        report(store.set_pending(&pending)).expect("it was a file before");
        assert_eq!(report(store.pending()), Some(pending), "what was written is read");
    }
    report(store.generation());
    report(store.last_run());
    store.cursors();
    if let Some(release) = report(store.release()).flatten() {
        for path in report(release.list()).flatten().into_iter().flatten() {
            let content = report(release.read(&path, 1000)).flatten();
            assert!(content.is_none_or(|content| content.len() <= 1000));
        }
    }
}

/// A key that anyone may know: what is encrypted to it is no secret.
const IDENTITY: &str = "AGE-SECRET-KEY-1ETPLFFQYUY5YD0ATLSRHFRAPW0LSK382VPLT5A9P2HMRMFNANV7QW0H7Q3";

/// An age file, which is read with a key that it may be encrypted to; or somebody to encrypt to.
pub fn secret(data: &[u8]) {
    thread_local! {
        static KEYS: Keyring = {
            let dir = scratch();
            let file = dir.path().join("key");
            std::fs::write(&file, IDENTITY).expect("the directory is ours");
            Keyring::load(&[file], None).expect("it is a key")
        };
    }
    if let Some(plain) = report(KEYS.with(|keys| keys.open("x", data))) {
        assert!(plain.len() as u64 <= LARGEST);
    }
    if let Ok(recipient) = String::from_utf8_lossy(data).parse::<Recipient>() {
        let again = recipient.to_string().parse::<Recipient>().expect("what was written is read");
        assert_eq!(again.to_string(), recipient.to_string());
    }
}

/// The files in an input: a line `%% NAME` before each. What stands before the first is nobody's.
fn files(data: &[u8]) -> Vec<(&str, &[u8])> {
    let mut found = Vec::new();
    let mut rest = data;
    while let Some(start) = find_mark(rest) {
        let line = &rest[start + MARK.len()..];
        let length = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
        let content = line.get(length + 1..).unwrap_or_default();
        // the line break before a mark belongs to the mark
        let end = find_mark(content).map_or(content.len(), |next| next);
        if let Ok(name) = std::str::from_utf8(&line[..length]) {
            found.push((name, &content[..end]));
        }
        rest = &content[end..];
    }
    found
}

const MARK: &[u8] = b"%% ";

/// For [`Files`].
fn owned<'a>(files: Vec<(&'a str, &'a [u8])>) -> impl Iterator<Item = (String, Arc<[u8]>)> {
    files.into_iter().map(|(path, content)| (path.to_owned(), content.into()))
}

/// Where the next line that begins with the mark is.
fn find_mark(data: &[u8]) -> Option<usize> {
    let starts_line = |at: &usize| *at == 0 || data[at - 1] == b'\n';
    data.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK).map(|(at, _)| at).find(starts_line)
}

/// A directory of its own, in memory where that can be.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.expect("a temporary directory")
}

/// The files of an input in a directory; with `links`, one whose content is `-> TARGET` is a link. `None` when they can't
/// stand side by side.
fn directory(data: &[u8], links: bool) -> Option<TempDir> {
    const MOST: usize = 24;
    let dir = scratch();
    for (name, content) in files(data).into_iter().take(MOST) {
        let path = Path::new(name);
        let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        if !is_plain || name.len() > 100 || name.contains('\0') {
            continue;
        }
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent()?).ok()?;
        let target = content.strip_prefix(b"-> ").filter(|_| links).and_then(|rest| std::str::from_utf8(rest).ok());
        match target {
            Some(target) => std::os::unix::fs::symlink(target.lines().next()?, path).ok()?,
            None => std::fs::write(path, content).ok()?,
        }
    }
    Some(dir)
}

/// The value; an error is shown.
fn report<T>(result: kpull::Result<T>) -> Option<T> {
    result.map_err(|error| show(&error)).ok()
}

/// Renders an error as the program does, and those that were found with it. Nothing in it can do something to a terminal.
fn show(error: &Error) {
    for error in std::iter::once(error).chain(error.others()).take(8) {
        let place = error.place().map(ToString::to_string).map(|place| visible(&place)).unwrap_or_default();
        let text = [&error.to_string(), error.advice().unwrap_or_default(), error.label().unwrap_or_default(), &place]
            .join("\n");
        let mut drawn = String::new();
        GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
            .with_width(120)
            .render_report(&mut drawn, error)
            .expect("an error can be shown");
        for text in [text, drawn] {
            assert_eq!(visible(&text), text, "an error can write to the terminal");
        }
    }
}
