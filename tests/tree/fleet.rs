//! What hosts report, and what operators see of it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use kpull::net::server::{Answer, Server};
use kpull::trust::{AllowedSigners, KeySet, Purpose};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{HashAlg, LineEnding, PrivateKey};

use crate::support::site::{Output, Site, Tree, command, kpull};
use crate::tree::sources::files;

/// The key of a host, by its number.
fn host_key(number: u8) -> PrivateKey {
    Ed25519Keypair::from_seed(&[number; 32]).into()
}

/// A record as the host with this number signs it.
fn signed(record: &serde_json::Value, number: u8) -> String {
    let text = format!("{record}\n");
    let signature = host_key(number).sign(Purpose::Status.namespace(), HashAlg::Sha512, text.as_bytes()).unwrap();
    text + &signature.to_pem(LineEnding::LF).unwrap()
}

/// A site with two hosts, of which the first exists and reports into a directory.
struct Fleet {
    site: Site,
    tree: Tree,
    dir: tempfile::TempDir,
}

impl Fleet {
    fn new() -> Self {
        let site = Site::new("test");
        for number in [1, 2] {
            let key = host_key(number).public_key().to_openssh().unwrap();
            let text = format!("address = \"10.0.0.{number}\"\nrecipient = {key:?}\nroles = [\"base\"]\n");
            site.host(&format!("h{number}"), &text);
        }
        site.role("base", "[[file]]\npath = \"/etc/motd\"\ncontent = \"x\\n\"\n");
        let (tree, dir) = (site.sign().enroll(), tempfile::tempdir().unwrap());
        let key = host_key(1).to_openssh(LineEnding::LF).unwrap();
        tree.write("etc/ssh/ssh_host_ed25519_key", key.as_bytes());
        let fleet = Self { site, tree, dir };
        fleet.configure(&format!("dir = {:?}\n", fleet.dir.path()));
        fleet
    }

    fn configure(&self, status: &str) {
        let source = self.site.path().display();
        self.tree.configure(&format!("[[source]]\ndir = \"{source}\"\n[status]\n{status}"));
    }

    fn record(&self, host: &str) -> std::path::PathBuf {
        self.dir.path().join(format!("{host}.status"))
    }

    fn look(&self, more: &[&str]) -> Output {
        let site = self.site.path().to_str().unwrap();
        kpull(&[&["fleet", "--site", site, self.dir.path().to_str().unwrap()], more].concat())
    }

    /// The state of a host, and its line in the output.
    fn state(&self, host: &str) -> (String, serde_json::Value) {
        let output = self.look(&["--json"]);
        let lines = output.stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let line = lines.into_iter().find(|line| line["host"] == host).unwrap();
        (line["state"].as_str().unwrap().to_owned(), line)
    }
}

#[test]
fn operators_see_every_host_and_which_have_never_reported() {
    let fleet = Fleet::new();
    fleet.tree.kpull("apply").exits(0);
    let output = fleet.look(&[]).exits(3);
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines[0], "HOST  RELEASE  STATE        LAST SEEN");
    assert!(lines[1].starts_with("h1          1  healthy      "), "{}", lines[1]);
    assert_eq!(lines[2], "h2          -  unknown      never");
    assert_eq!(lines[3], "2 hosts, release 1: 1 healthy, 1 unknown");
    // a release that was signed and has not come there yet
    fleet.site.role("base", "").sign();
    assert_eq!(fleet.state("h1").0, "behind");
    fleet.tree.kpull("apply").exits(0);
    assert_eq!(fleet.state("h1").0, "healthy");
}

#[test]
fn a_slow_record_server_costs_one_time_limit_and_the_unread_hosts_are_named() {
    let fleet = Fleet::new();
    fleet.site.host("h3", "address = \"10.0.0.3\"\nroles = [\"base\"]\n").sign();
    fleet.tree.kpull("apply").exits(0);
    let (dir, (hold, held)) = (fleet.dir.path().to_owned(), std::sync::mpsc::channel::<()>());
    let held = std::sync::Mutex::new(held);
    let server = Server::plain(move |request| match request.path.as_str() {
        "/h1.status" => Answer::new(200, fs::read(dir.join("h1.status")).unwrap()),
        // until the test ends
        "/h2.status" => held.lock().unwrap().recv().map_or_else(|_| Answer::new(404, ""), |()| Answer::new(200, "")),
        _ => Answer::new(404, ""),
    })
    .unwrap();
    let (site, url) = (fleet.site.path().to_str().unwrap(), server.url(""));
    let output = kpull(&["fleet", "--site", site, "--json", "--within", "8", &url]).exits(3);
    let lines: Vec<serde_json::Value> = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let reported: Vec<_> = lines.iter().map(|line| (line["state"].as_str().unwrap(), line["why"].as_str())).collect();
    let late = format!("GET {url}h2.status: timeout, no answer in time");
    let never = "the record of h3 was not read: there was no time left";
    assert_eq!(reported, [("healthy", None), ("unread", Some(late.as_str())), ("unread", Some(never))]);
    drop(hold);
}

#[test]
fn kpull_does_not_wait_for_a_record_server_that_asks_for_long_pauses() {
    let fleet = Fleet::new();
    let server = Server::plain(|_| Answer::new(503, "").with("Retry-After", "30")).unwrap();
    let (site, url) = (fleet.site.path().to_str().unwrap(), server.url(""));
    let output = kpull(&["fleet", "--site", site, "--within", "5", &url]).exits(1);
    assert!(output.stderr.contains("the server answered 503"), "{output:?}");
    // each host once, and none again
    assert_eq!(server.seen().len(), 2);
}

#[test]
fn the_fleet_shows_a_release_that_failed_on_a_host() {
    let fleet = Fleet::new();
    fleet.tree.kpull("apply").exits(0);
    fs::create_dir(fleet.tree.at("srv")).unwrap();
    fleet.site.role("base", "[[file]]\npath = \"/srv\"\ncontent = \"x\\n\"\n").sign();
    let failed = fleet.tree.kpull("apply");
    assert_ne!(failed.code, 0);
    let (state, line) = fleet.state("h1");
    let record = &line["record"];
    assert!(state == "rolled-back" || state == "failed", "{line}");
    assert!(record.to_string().contains("/srv is a directory"), "{record}");
    assert_eq!((&record["release"], &record["seen"]), (&1.into(), &2.into()));
}

#[test]
fn only_a_record_that_its_host_signed_is_trusted() {
    let fleet = Fleet::new();
    fleet.tree.kpull("apply").exits(0);
    let own = fs::read_to_string(fleet.record("h1")).unwrap();
    // another host's word, and its own, changed
    fs::write(fleet.record("h2"), &own).unwrap();
    let (state, line) = fleet.state("h2");
    assert_eq!(
        (state.as_str(), line["why"].as_str().unwrap()),
        ("forged", "it is not signed with a `recipient` key of this host")
    );
    fs::write(fleet.record("h1"), own.replace("\"exit\":0", "\"exit\":1")).unwrap();
    assert_eq!(fleet.state("h1").0, "forged");
    for (text, why) in
        [("", "it is not signed"), ("{}\n-----BEGIN SSH SIGNATURE-----\nAAAA\n", "its signature can't be read")]
    {
        fs::write(fleet.record("h1"), text).unwrap();
        assert!(fleet.state("h1").1["why"].as_str().unwrap().starts_with(why), "{why}");
    }
}

#[test]
fn numbers_in_one_hosts_record_end_no_command_and_affect_no_other_host() {
    let fleet = Fleet::new();
    fleet.tree.kpull("apply").exits(0);
    let own = fs::read_to_string(fleet.record("h1")).unwrap();
    let (own, _) = own.split_once("-----BEGIN").unwrap();
    let mut record: serde_json::Value = serde_json::from_str(own).unwrap();
    record["host"] = "h2".into();
    let record = |key: &str, value: serde_json::Value| {
        let mut record = record.clone();
        record[key] = value;
        fs::write(fleet.record("h2"), signed(&record, 2)).unwrap();
        fleet.state("h2")
    };
    for (key, value) in [
        ("every", i64::MAX.into()),
        ("every", u64::MAX.into()),
        ("seen", u64::MAX.into()),
        ("release", u64::MAX.into()),
        ("generation", u64::MAX.into()),
        ("held", u64::MAX.into()),
        ("passing", u64::MAX.into()),
        ("bad", serde_json::json!([u64::MAX, "why"])),
        ("drift", serde_json::json!(["2026-01-01T00:00:00Z", u64::MAX])),
    ] {
        let (state, line) = record(key, value.clone());
        let why = line["why"].as_str().unwrap();
        assert!(state == "forged" && why.starts_with(&format!("its `{key}` is ")), "{key} = {value}: {line}");
        assert_eq!(fleet.state("h1").0, "healthy", "{key} = {value}");
    }
    for (key, value) in [("time", "9999-12-30T22:00:00Z"), ("time", "2100-01-01T00:00:00Z")] {
        let (state, line) = record(key, value.into());
        let why = line["why"].as_str().unwrap();
        assert!(state == "forged" && why.ends_with("which is to come: this clock or the host's is wrong"), "{line}");
    }
    // nothing says that it can't be so, but it is the word of one host
    assert_eq!(record("seen", i64::MAX.into()).0, "healthy");
    assert_eq!(fleet.state("h1").0, "healthy");
    assert_eq!(record("error", "an answer with -----BEGIN SSH SIGNATURE-----\n in it".into()).0, "healthy");
}

#[test]
fn serials_that_were_revoked_make_no_other_host_appear_behind() {
    let fleet = Fleet::new();
    let key = host_key(3).public_key().to_openssh().unwrap();
    fleet.site.host("h3", &format!("address = \"10.0.0.3\"\nrecipient = {key:?}\nroles = [\"base\"]\n")).sign();
    fleet.tree.kpull("apply").exits(0);
    let own = fs::read_to_string(fleet.record("h1")).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(own.split_once("-----BEGIN").unwrap().0).unwrap();
    let mut say = |key: &str, value: serde_json::Value| {
        record[key] = value;
        for number in [2, 3] {
            record["host"] = format!("h{number}").into();
            fs::write(fleet.record(&format!("h{number}")), signed(&record, number)).unwrap();
        }
        ["h1", "h2"].map(|host| fleet.state(host).0)
    };
    assert_eq!(say("seen", 1000.into()), ["behind", "behind"], "two hosts that speak have seen it");
    // they have died since
    let now = jiff::Timestamp::now();
    assert_eq!(say("time", (now - jiff::SignedDuration::from_hours(24)).to_string().into()), ["healthy", "silent"]);
    // or they do not have the key set yet that revokes it
    assert_eq!(say("time", now.to_string().into()), ["behind", "behind"]);
    let line = format!("tester {}\n", crate::support::site::key().public_key().to_openssh().unwrap());
    let start = KeySet::start("test", AllowedSigners::parse("f", &line).unwrap(), 1, 1);
    let created = jiff::Timestamp::from_second(1_700_000_000).unwrap();
    let set = KeySet { number: 1, created, last_serial: Some(1), ..start };
    fleet.site.file("keys/1.toml", set.to_toml());
    assert_eq!(say("seen", 1000.into()), ["healthy", "healthy"]);
    // a later release, signed by that set, that hosts have seen and not taken yet
    assert_eq!(say("seen_keys", 1.into()), ["behind", "behind"]);
}

#[test]
fn an_invalid_record_in_a_shared_place_affects_only_its_own_host() {
    let fleet = Fleet::new();
    fleet.tree.kpull("apply").exits(0);
    let place = fleet.record("h2");
    let is_not_regular = |what: &str| {
        let (state, line) = fleet.state("h2");
        assert_eq!((state.as_str(), line["why"].as_str().unwrap()), ("forged", "it is not a regular file"), "{what}");
        assert_eq!(fleet.state("h1").0, "healthy", "{what}");
    };
    nix::unistd::mkfifo(&place, nix::sys::stat::Mode::S_IRWXU).unwrap();
    is_not_regular("a pipe without a writer");
    fs::remove_file(&place).unwrap();
    fs::create_dir(&place).unwrap();
    is_not_regular("a directory");
    fs::remove_dir(&place).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &place).unwrap();
    is_not_regular("a link");
    fs::remove_file(&place).unwrap();
    fs::File::create(&place).unwrap().set_len(8 << 40).unwrap();
    assert_eq!(fleet.state("h2").1["why"], "it has more than 65536 bytes");
    assert_eq!(fleet.state("h1").0, "healthy");
}

#[test]
fn a_host_with_nothing_new_to_report_sends_nothing_for_a_while() {
    let fleet = Fleet::new();
    fleet.tree.kpull("apply").exits(0);
    let inode = |fleet: &Fleet| fleet.record("h1").metadata().unwrap().ino();
    let first = inode(&fleet);
    fleet.tree.kpull("apply").exits(0);
    assert_eq!(inode(&fleet), first);
    fleet.configure(&format!("dir = {:?}\nevery = \"0s\"\n", fleet.dir.path()));
    fleet.tree.kpull("apply").exits(0);
    assert_ne!(inode(&fleet), first);
}

#[test]
fn a_status_record_that_can_t_be_sent_stops_nothing() {
    let fleet = Fleet::new();
    fs::write(fleet.dir.path().join("file"), "").unwrap();
    fleet.configure(&format!("dir = {:?}\n", fleet.dir.path().join("file")));
    let output = fleet.tree.kpull("apply --json").exits(0);
    assert_eq!(output.events("not_reported").len(), 1);
    fs::remove_file(fleet.tree.at("etc/ssh/ssh_host_ed25519_key")).unwrap();
    let output = fleet.tree.kpull("apply --json").exits(0);
    assert_eq!(output.events("not_reported")[0]["error"], "there is no key to sign this host's status with");
}

#[test]
fn records_are_also_read_from_a_web_server() {
    let fleet = Fleet::new();
    fleet.tree.kpull("apply").exits(0);
    let server = files(fleet.dir.path());
    let output = kpull(&["fleet", "--site", fleet.site.path().to_str().unwrap(), &server.url("")]).exits(3);
    assert!(output.stdout.ends_with("2 hosts, release 1: 1 healthy, 1 unknown\n"), "{}", output.stdout);
}

#[test]
fn a_status_without_a_destination_is_a_configuration_error() {
    let fleet = Fleet::new();
    fleet.configure("every = \"5m\"\n");
    let error = fleet.tree.kpull("apply --json").exits(1).error();
    assert_eq!(error["error"], "[status] has no destination");
    assert!(error["file"].as_str().unwrap().ends_with("kpull.toml"));
}

#[test]
fn a_host_reports_drift_versions_and_certificates_and_the_page_shows_them() {
    let fleet = Fleet::new();
    fleet.tree.kpull("apply").exits(0);
    assert!(fleet.state("h1").1["record"]["drift"].is_null(), "what a release brings is none");
    fleet.tree.write("etc/motd", "other\n").kpull("apply").exits(0);
    let record = fleet.state("h1").1["record"].clone();
    assert_eq!(record["drift"][1], 1, "{record}");
    let page = fleet.dir.path().join("fleet.html");
    let output = fleet.look(&["--html", page.to_str().unwrap()]).exits(3);
    assert_eq!(output.stdout, "2 hosts, release 1: 1 healthy, 1 unknown\n");
    let text = fs::read_to_string(&page).unwrap();
    for part in ["<h1>test</h1>", ">1 corrected, ", ">healthy<", ">unknown<", env!("CARGO_PKG_VERSION")] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    // nothing is fetched, nothing runs
    for part in ["<script", "src=", "href=", "url(", "@import"] {
        assert!(!text.contains(part), "{part} in\n{text}");
    }
    // the one in trouble first
    assert!(text.find(">h2<") < text.find(">h1<"));
}

#[test]
fn a_watched_fleet_is_read_again_until_the_operator_ends_the_command() {
    let fleet = Fleet::new();
    let (site, dir) = (fleet.site.path().to_str().unwrap(), fleet.dir.path().to_str().unwrap());
    let mut child = command(&["fleet", "--site", site, dir, "--watch", "1"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut ends = |with: &str| lines.by_ref().find(|line| line.starts_with("2 hosts")).unwrap().ends_with(with);
    assert!(ends("2 unknown"));
    fleet.tree.kpull("apply").exits(0);
    while !ends("1 healthy, 1 unknown") {}
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_login_shows_the_state_of_the_host_in_one_line() {
    let fleet = Fleet::new();
    let line = |start: &str| {
        let output = fleet.tree.kpull("status --motd").exits(0).stdout;
        assert!(output.lines().count() == 1 && output.starts_with(start), "{output}");
    };
    line("kpull: nothing has been applied here yet\n");
    fleet.tree.kpull("apply").exits(0);
    line("kpull: release 1, healthy ");
    fs::remove_file(fleet.site.path().join("release.toml.sig")).unwrap();
    assert_ne!(fleet.tree.kpull("apply").code, 0);
    line("kpull: release 1, FAILED ");
}

#[test]
fn no_host_with_an_expired_certificate_is_shown_as_healthy() {
    let fleet = Fleet::new();
    fleet.tree.kpull("apply").exits(0);
    let vitals = serde_json::json!({ "certificates": {
        "web": { "renew": "2020-01-01T00:00:00Z", "end": "2020-02-01T00:00:00Z" },
        "new": { "renew": "2120-01-01T00:00:00Z", "end": "2120-02-01T00:00:00Z" },
    } });
    fleet.tree.write("var/lib/kpull/vitals.json", vitals.to_string());
    let line = fleet.tree.kpull("status --motd").exits(0).stdout;
    assert_eq!(line, "kpull: release 1, UNHEALTHY: the certificate web has expired\n");
    let shown = fleet.tree.kpull("status").exits(0).stdout;
    let root = fleet.tree.path().display();
    let health = format!(
        "  health      unhealthy: `kpull verify --root {root}` lists what failed\n              the certificate web has expired\n"
    );
    assert!(shown.contains(&health), "{shown}");
    assert_eq!(fleet.tree.kpull("status --json").exits(0).json()[0]["health"], "unhealthy");
}
