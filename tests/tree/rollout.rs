//! The order in which hosts apply a new release, and which hosts wait for which.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::{Arc, Mutex};

use kpull::net::server::{Answer, Received, Server};
use kpull::trust::{AllowedSigners, KeySet, Purpose};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{HashAlg, LineEnding, PrivateKey};

use crate::support::fleetlock::StandIn;
use crate::support::site::{Output, Site, Tree, kpull, sign};

const GOOD: &str = "[[file]]\npath = \"/etc/motd\"\ncontent = \"RELEASE\\n\"\n";

/// Three hosts of one site that write their status records to one directory.
struct World {
    site: Site,
    trees: Vec<Tree>,
    dir: tempfile::TempDir,
}

impl World {
    fn new(rollout: &str) -> Self {
        Self::with_status(rollout, true)
    }

    /// Hosts without a status destination.
    fn quiet(rollout: &str) -> Self {
        Self::with_status(rollout, false)
    }

    fn with_status(rollout: &str, reports: bool) -> Self {
        let site = Site::new("test");
        site.file("site.toml", format!("name = \"test\"\n{rollout}"));
        let (mut trees, dir) = (Vec::new(), tempfile::tempdir().unwrap());
        for number in 1..=3 {
            let key: PrivateKey = Ed25519Keypair::from_seed(&[number; 32]).into();
            let public = key.public_key().to_openssh().unwrap();
            let text = format!("address = \"10.0.0.{number}\"\nrecipient = {public:?}\nroles = [\"base\"]\n");
            site.host(&format!("h{number}"), &text);
            let tree = Tree::new();
            let status = if reports { format!("[status]\ndir = {:?}\n", dir.path()) } else { String::new() };
            tree.configure(&format!("[[source]]\ndir = {:?}\n{status}", site.path()));
            tree.write("etc/ssh/ssh_host_ed25519_key", key.to_openssh(LineEnding::LF).unwrap().as_bytes());
            trees.push(tree);
        }
        let world = Self { site, trees, dir };
        world.release("1");
        for host in 1..=3 {
            world.run(host, "apply").exits(0);
        }
        world
    }

    fn release(&self, number: &str) {
        self.site.role("base", &GOOD.replace("RELEASE", number)).sign();
    }

    /// A release that does no host any good.
    fn bad_release(&self) {
        let dead = "[[file]]\npath = \"/dead/end/file\"\ncontent = \"x\"\n";
        self.site.role("base", &format!("{}{dead}", GOOD.replace("RELEASE", "bad"))).sign();
        for tree in &self.trees {
            symlink("/proc/self", tree.at("dead")).unwrap();
            tree.write("proc/self", "no directory");
        }
    }

    fn run(&self, host: usize, command: &str) -> Output {
        self.trees[host - 1].kpull(&format!("{command} --host h{host}"))
    }

    /// A run of a host that waits, and for what.
    fn waits(&self, host: usize) -> String {
        let output = self.run(host, "apply --json").exits(0);
        output.events("rollout_waiting")[0]["why"].as_str().unwrap().to_owned()
    }

    fn motd(&self) -> String {
        let read = |tree: &Tree| tree.read("etc/motd").trim_end().to_owned();
        self.trees.iter().map(read).collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn an_implausible_record_of_an_earlier_host_delays_a_release_and_ends_no_run() {
    let world = World::new("[rollout]\nfailures = 0\n");
    world.release("2");
    let key: PrivateKey = Ed25519Keypair::from_seed(&[2; 32]).into();
    let place = world.dir.path().join("h2.status");
    let own = fs::read_to_string(&place).unwrap();
    let (own, _) = own.split_once("-----BEGIN").unwrap();
    let mut record: serde_json::Value = serde_json::from_str(own).unwrap();
    for (key_of, value) in [("every", u64::MAX), ("every", i64::MAX.unsigned_abs()), ("seen", u64::MAX)] {
        let was = std::mem::replace(&mut record[key_of], value.into());
        let text = format!("{record}\n");
        let signature = key.sign(Purpose::Status.namespace(), HashAlg::Sha512, text.as_bytes()).unwrap();
        fs::write(&place, text + &signature.to_pem(LineEnding::LF).unwrap()).unwrap();
        let waits = world.waits(3);
        assert!(waits.contains("h2") || waits.contains("h1"), "{waits}");
        record[key_of] = was;
    }
    fs::remove_file(&place).unwrap();
    nix::unistd::mkfifo(&place, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let waits = world.waits(3);
    assert!(waits.contains("h1"), "{waits}");
}

/// A key of the site's signers.
fn signer(number: u8) -> PrivateKey {
    Ed25519Keypair::from_seed(&[100 + number; 32]).into()
}

impl World {
    /// From now on releases are signed by `signer(1)`, which may be replaced, and the present one with it.
    fn under(self, serial: u64) -> Self {
        for tree in &self.trees {
            let public = signer(1).public_key().to_openssh().unwrap();
            tree.write("etc/kpull/allowed_signers", format!("one {public}\n"));
        }
        self.signed(1, serial);
        for host in 1..=3 {
            self.run(host, "apply --now").exits(0);
        }
        self
    }

    fn signed(&self, by: u8, serial: u64) {
        self.site.role("base", &GOOD.replace("RELEASE", &serial.to_string()));
        sign(self.site.path(), &signer(by), "test", serial);
    }

    /// The first key set: `signer(2)` alone, and `signer(1)` revoked.
    fn replace_signer(&self, last_serial: Option<u64>) {
        let line = format!("two {}\n", signer(2).public_key().to_openssh().unwrap());
        let start = KeySet::start("test", AllowedSigners::parse("f", &line).unwrap(), 1, 1);
        let revoked = [signer(1).public_key().fingerprint(HashAlg::Sha256).to_string()].into();
        let created = jiff::Timestamp::from_second(1_700_000_000).unwrap();
        let set = KeySet { number: 1, created, revoked, last_serial, ..start };
        let by = |number| {
            let signature = signer(number).sign(Purpose::Keys.namespace(), HashAlg::Sha512, set.to_toml().as_bytes());
            signature.unwrap().to_pem(LineEnding::LF).unwrap()
        };
        self.site.file("keys/1.toml", set.to_toml()).file("keys/1.toml.sig", by(1) + &by(2));
    }
}

#[test]
fn hosts_with_a_release_of_a_revoked_key_follow_the_rollout_and_block_no_host() {
    let world = World::new("[rollout]\n[[rollout.wave]]\nhosts = [\"h1\"]\n").under(2);
    world.replace_signer(None);
    world.signed(2, 3);
    for host in [3, 2] {
        // there is nothing left that it may be converged to
        let output = world.run(host, "apply --json").exits(4);
        assert_eq!(
            output.events("rollout_waiting")[0]["why"],
            if host == 3 { "release 3: h2 goes first" } else { "release 3: h1 of wave 1 goes first" }
        );
    }
    assert_eq!(world.motd(), "2 2 2");
    for host in [1, 2, 3] {
        world.run(host, "apply").exits(0);
    }
    assert_eq!(world.motd(), "3 3 3");
}

#[test]
fn revoked_serials_change_no_position_in_a_rollout() {
    let world = World::new("[rollout]\n[[rollout.wave]]\nhosts = [\"h1\"]\n").under(1 << 60);
    world.replace_signer(Some(1));
    world.signed(2, 2);
    let output = world.run(2, "apply --json").exits(4);
    assert_eq!(output.events("rollout_waiting")[0]["why"], "release 2: h1 of wave 1 goes first");
    // its record has the serial from before
    let far = (1_u64 << 60).to_string();
    assert_eq!(world.motd(), [far.as_str(); 3].join(" "));
    for host in [1, 2, 3] {
        world.run(host, "apply").exits(0);
    }
    assert_eq!(world.motd(), "2 2 2");
}

#[test]
fn a_failed_run_of_a_host_with_only_revoked_serials_is_not_the_new_releases() {
    let world = World::new("[rollout]\n[[rollout.wave]]\nhosts = [\"h1\", \"h2\"]\n").under(1 << 60);
    // its source does not answer
    let (own, place) = (world.site.path().display(), world.dir.path().display());
    world.trees[0].configure(&format!("[[source]]\ndir = \"{own}/none\"\n[status]\ndir = \"{place}\"\n"));
    assert_ne!(world.run(1, "apply").code, 0);
    world.replace_signer(Some(1));
    world.signed(2, 2);
    // in a wave, a host that is away blocks no other, and a host on which the release failed does
    world.run(2, "apply").exits(0);
    assert_eq!(world.trees[1].read("etc/motd"), "2\n");
}

#[test]
fn a_long_reason_of_one_host_keeps_records_of_waiting_hosts_readable() {
    let world = World::new("[rollout]\n[[rollout.wave]]\nhosts = [\"h1\"]\n");
    world.release("2");
    let key: PrivateKey = Ed25519Keypair::from_seed(&[1; 32]).into();
    let place = world.dir.path().join("h1.status");
    let own = fs::read_to_string(&place).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(own.split_once("-----BEGIN").unwrap().0).unwrap();
    // each character takes more bytes where it is made visible
    let lines = format!("no\nh2: nothing to do{}", "\u{202e}".repeat(20_000));
    (record["error"], record["exit"]) = (lines.into(), 1.into());
    let text = format!("{record}\n");
    let signature = key.sign(Purpose::Status.namespace(), HashAlg::Sha512, text.as_bytes()).unwrap();
    fs::write(&place, text + &signature.to_pem(LineEnding::LF).unwrap()).unwrap();
    let output = world.run(2, "apply").exits(0).stdout;
    assert!(output.contains("release 2: stopped by h1 (wave 1): no\\nh2: nothing to do"), "{output:.4096}");
    let size = fs::metadata(world.dir.path().join("h2.status")).unwrap().len();
    assert!(size < 8192, "{size}");
    let site = world.site.path().to_str().unwrap().to_owned();
    let fleet = kpull(&["fleet", "--site", &site, world.dir.path().to_str().unwrap()]).exits(3);
    assert!(!fleet.stdout.contains("forged") && fleet.stdout.len() < 8192, "{:.4096}", fleet.stdout);
}

#[test]
fn each_host_takes_a_release_when_earlier_hosts_are_healthy_with_it() {
    let world = World::new("[rollout]\n");
    world.release("2");
    assert_eq!(world.waits(3), "release 2: h2 goes first");
    assert_eq!(world.waits(2), "release 2: h1 goes first");
    world.run(1, "apply").exits(0);
    assert_eq!(world.waits(3), "release 2: h2 goes first");
    assert_eq!(world.motd(), "2 1 1");
    world.run(2, "apply").exits(0);
    world.run(3, "apply").exits(0);
    assert_eq!(world.motd(), "2 2 2");
}

#[test]
fn a_waiting_host_keeps_its_release_applied_and_reports_that_it_waits() {
    let world = World::new("[rollout]\n");
    world.release("2");
    let tree = &world.trees[1];
    tree.write("etc/motd", "edited\n");
    let output = world.run(2, "apply").exits(0);
    assert!(
        output.stdout.contains("waits for its position in the rollout of release 2: h1 goes first"),
        "{}",
        output.stdout
    );
    assert_eq!(tree.read("etc/motd"), "1\n");
    // also when nothing has news, and everything is as it was
    assert_eq!(world.waits(2), "release 2: h1 goes first");
    let status = world.run(2, "status").stdout;
    assert!(status.contains("waits       for its position in the rollout of release 2: h1 goes first"), "{status}");
    let site = world.site.path().to_str().unwrap().to_owned();
    let fleet = kpull(&["fleet", "--site", &site, world.dir.path().to_str().unwrap()]).exits(0);
    assert!(fleet.stdout.contains("release 2: h1 goes first"), "{}", fleet.stdout);
    assert!(world.run(2, "plan").exits(0).stdout.contains("waits for its position in the rollout"));
    assert!(world.run(2, "plan --now").exits(2).stdout.contains("/etc/motd"));
    world.run(2, "apply --now").exits(0);
    assert_eq!(world.motd(), "1 2 1");
    // and has it from then on
    assert_eq!(world.run(2, "apply --json").exits(0).events("rollout_waiting").len(), 0);
    assert_eq!(world.motd(), "1 2 1");
}

#[test]
fn a_waiting_host_still_reports_its_source() {
    let world = World::new("[rollout]\n");
    world.release("2");
    assert_eq!(world.waits(2), "release 2: h1 goes first");
    fs::remove_file(world.site.path().join("release.toml.sig")).unwrap();
    let output = world.run(2, "apply --json").exits(4);
    assert_eq!(output.events("rollout_waiting")[0]["why"], "release 2: h1 goes first");
    assert_eq!(output.error()["error"], "the release is not signed: there is no release.toml.sig");
}

#[test]
fn a_release_that_fails_on_a_host_reaches_no_later_host() {
    let world = World::new("[rollout]\n[[rollout.wave]]\nhosts = [\"h2\"]\n");
    world.bad_release();
    assert_ne!(world.run(2, "apply").code, 0);
    assert_eq!(world.waits(1), "release 2: stopped by h2 (wave 1): the release failed there");
    assert_eq!(world.waits(3), "release 2: h1 goes first");
    assert_eq!(world.motd(), "1 1 1");
    // the next one is another matter
    world.release("3");
    assert_eq!(world.waits(3), "release 3: h1 goes first");
    assert_eq!(world.waits(1), "release 3: h2 of wave 1 goes first");
    for host in [2, 1, 3] {
        world.run(host, "apply").exits(0);
    }
    assert_eq!(world.motd(), "3 3 3");
}

#[test]
fn a_wave_must_stay_healthy_for_its_whole_soak() {
    let world = World::new("[rollout]\nsoak = \"1h\"\n[[rollout.wave]]\nhosts = [\"h1\"]\n");
    world.release("2");
    world.run(1, "apply").exits(0);
    let why = world.waits(2);
    assert!(why.starts_with("release 2: wave 1 must stay healthy until "), "{why}");
    let site = world.site.path().to_str().unwrap().to_owned();
    let fleet = kpull(&["fleet", "--site", &site, world.dir.path().to_str().unwrap()]).exits(0);
    assert!(fleet.stdout.ends_with("wave 1: 1 of 1, wave 2: 0 of 2\n"), "{}", fleet.stdout);
    // it was well for longer than it has been silent
    let message = world.trees[0].at("var/lib/kpull/told.json");
    let text = fs::read_to_string(&message).unwrap();
    let since = text.split("\"well\":[2,\"").nth(1).unwrap().split('"').next().unwrap();
    fs::write(&message, text.replace(&format!("[2,\"{since}\"]"), "[2,\"2020-01-01T00:00:00Z\"]")).unwrap();
    world.run(1, "apply").exits(0);
    world.run(2, "apply").exits(0);
    assert_eq!(world.motd(), "2 2 1");
}

#[test]
fn a_rollout_waits_for_hosts_without_a_record_or_with_one_they_did_not_sign() {
    let world = World::new("[rollout]\n");
    world.release("2");
    world.run(1, "apply").exits(0);
    world.run(2, "apply").exits(0);
    let record = |host: &str| world.dir.path().join(format!("{host}.status"));
    fs::copy(record("h1"), record("h2")).unwrap();
    fs::copy(record("h3"), record("h1")).unwrap();
    // of one wave, a host that is away is not waited for
    world.run(3, "apply").exits(0);
    let world = World::new("[rollout]\n[[rollout.wave]]\nhosts = [\"h1\"]\n");
    world.release("2");
    world.run(1, "apply").exits(0);
    let record = |host: &str| world.dir.path().join(format!("{host}.status"));
    fs::copy(record("h3"), record("h1")).unwrap();
    assert_eq!(
        world.waits(2),
        "release 2: stopped by h1 (wave 1): it is not signed with a `recipient` key of this host"
    );
}

#[test]
fn a_host_that_can_t_read_records_of_others_keeps_its_release() {
    let world = World::new("[rollout]\n");
    world.release("2");
    let tree = &world.trees[1];
    tree.configure(&format!("[[source]]\ndir = {:?}\n", world.site.path()));
    tree.write("etc/motd", "edited\n");
    let output = world.run(2, "apply --json").exits(1);
    assert_eq!(output.error()["error"], "this site has a [rollout], and this host can't read the status of the others");
    assert_eq!(tree.read("etc/motd"), "1\n");
}

#[test]
fn kpull_gives_up_on_a_silent_record_server_and_the_run_continues() {
    let world = World::new("[rollout]\n");
    world.release("2");
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(held);
    let server = Server::plain(move |request| match request.method.as_str() {
        // until the test ends
        "GET" => held.lock().unwrap().recv().map_or_else(|_| Answer::new(404, ""), |()| Answer::new(200, "")),
        _ => Answer::new(200, ""),
    })
    .unwrap();
    let (tree, url) = (&world.trees[1], server.url(""));
    let asked = || server.seen().iter().filter(|request| request.method == "GET").count();
    let late = format!("GET {url}h1.status: timeout, no answer in time");
    let never = "the record of h1 was not read: there was no time left".to_owned();
    for (within, error, count) in [("0s", never, 0), ("1s", late, 1)] {
        let source = world.site.path().display();
        tree.configure(&format!("[[source]]\ndir = \"{source}\"\n[status]\nhttp = \"{url}\"\nwithin = \"{within}\"\n"));
        tree.write("etc/motd", "edited\n");
        let output = world.run(2, "apply --json").exits(1);
        assert_eq!(output.error()["error"], error);
        assert_eq!(tree.read("etc/motd"), "1\n", "it is kept as its release says all the same");
        assert_eq!(asked(), count, "{within}");
    }
    drop(hold);
}

/// What brings hosts a `[status]`, by a part of their `kpull.toml` or by all of it.
fn status_role(world: &World, dir: &str, is_whole: bool) -> String {
    let text = format!("[status]\\ndir = '{dir}'\\n");
    match is_whole {
        false => format!("[[block]]\npath = \"/etc/kpull/kpull.toml\"\nname = \"status\"\ncontent = \"{text}\"\n"),
        true => format!(
            "[[file]]\npath = \"/etc/kpull/kpull.toml\"\ncontent = \"host = '{{{{ host.name }}}}'\\n[[source]]\\ndir = '{}'\\n\
             {text}[trust]\\nsite = 'test'\\nallowed_signers = 'allowed_signers'\\n\"\n",
            world.site.path().display()
        ),
    }
}

#[test]
fn a_rollout_does_not_delay_the_status_destination_of_its_own_release() {
    for is_whole in [false, true] {
        let world = World::quiet("");
        let waves = "[rollout]\n[[rollout.wave]]\nhosts = [\"h1\"]\n";
        world.site.file("site.toml", format!("name = \"test\"\n{waves}"));
        // no host can read there yet, as before an etcd or a mount exists
        let shared = world.dir.path().join("shared");
        let role = status_role(&world, shared.to_str().unwrap(), is_whole);
        world.site.role("base", &format!("{}{role}", GOOD.replace("RELEASE", "2"))).sign();
        for host in [3, 1, 2] {
            world.run(host, "apply").exits(0);
        }
        assert_eq!(world.motd(), "2 2 2");
        // now they take turns
        fs::create_dir(&shared).unwrap();
        for host in 1..=3 {
            world.run(host, "apply").exits(0);
        }
        world.site.role("base", &format!("{}{role}", GOOD.replace("RELEASE", "3"))).sign();
        assert_eq!(world.waits(2), "release 3: h1 of wave 1 goes first");
        for host in 1..=3 {
            world.run(host, "apply").exits(0);
        }
        assert_eq!(world.motd(), "3 3 3");
    }
}

#[test]
fn a_release_with_a_status_destination_waits_for_hosts_that_report_there() {
    let world = World::quiet("");
    let waves = "[rollout]\n[[rollout.wave]]\nhosts = [\"h1\"]\n";
    world.site.file("site.toml", format!("name = \"test\"\n{waves}"));
    let role = status_role(&world, world.dir.path().to_str().unwrap(), false);
    world.site.role("base", &format!("{}{role}", GOOD.replace("RELEASE", "2"))).sign();
    let unheard = "release 2: stopped by h1 (wave 1): has never reported";
    assert_eq!(world.waits(2), unheard);
    // it reports with the configuration that it has when a run begins
    for expected in [unheard.to_owned(), String::new()] {
        world.run(1, "apply").exits(0);
        let waits = world.run(2, "apply --json").exits(0).events("rollout_waiting");
        assert_eq!(waits.first().map_or("", |event| event["why"].as_str().unwrap()), expected);
    }
    assert_eq!(world.motd(), "2 2 1");
}

#[test]
fn waiting_hosts_read_the_records_of_others_at_their_new_destination() {
    let waves = "[rollout]\n[[rollout.wave]]\nhosts = [\"h1\"]\n";
    let world = World::new(waves);
    let elsewhere = tempfile::tempdir().unwrap();
    let role = status_role(&world, elsewhere.path().to_str().unwrap(), true);
    world.site.role("base", &format!("{}{role}", GOOD.replace("RELEASE", "2"))).sign();
    assert_eq!(world.waits(2), "release 2: h1 of wave 1 goes first");
    world.run(1, "apply").exits(0);
    // the record at the earlier destination is old
    world.run(1, "apply").exits(0);
    fs::remove_file(world.dir.path().join("h1.status")).unwrap();
    for host in [2, 3] {
        world.run(host, "apply").exits(0);
    }
    assert_eq!(world.motd(), "2 2 2");
}

#[test]
fn a_host_with_a_fault_of_its_own_stops_no_rollout() {
    let other = "[[file]]\npath = \"/srv/other\"\ncontent = \"RELEASE\\n\"\n";
    let both = |number: &str| format!("{GOOD}{other}").replace("RELEASE", number);
    let world = World::new("[rollout]\n[[rollout.wave]]\nhosts = [\"h1\"]\n");
    world.site.role("base", &both("2")).sign();
    for host in 1..=3 {
        world.run(host, "apply").exits(0);
    }
    let path = world.trees[0].at("srv/other");
    fs::remove_file(&path).unwrap();
    fs::create_dir_all(path.join("of a user")).unwrap();
    world.site.role("base", &both("3")).sign();
    let failed = world.run(1, "apply").exits(1);
    assert!(failed.stderr.contains("/srv/other"), "{}", failed.stderr);
    for host in [2, 3] {
        world.run(host, "apply").exits(0);
    }
    assert_eq!(world.motd(), "3 3 3");
}

#[test]
fn a_new_host_takes_the_newest_release_at_once() {
    let world = World::new("[rollout]\n");
    world.release("2");
    for path in ["var/lib/kpull", "etc/kpull/trust.toml"] {
        let path = world.trees[2].at(path);
        fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path)).unwrap();
    }
    world.run(3, "apply").exits(0);
    assert_eq!(world.motd(), "1 1 2");
}

/// Three hosts that ask a server, which has one slot.
fn with_lock() -> (World, StandIn, Server) {
    let locks = StandIn::new(&[("default", 1)]);
    let server = Server::plain({
        let locks = locks.clone();
        move |request| locks.answer(request)
    });
    let server = server.unwrap();
    let url = server.url("");
    (World::quiet(&format!("[rollout]\nfleetlock = {{ url = {url:?} }}\n")), locks, server)
}

#[test]
fn an_answer_of_a_lock_server_injects_no_line_and_is_quoted_with_a_limit() {
    let evil = format!("no\nh1: nothing to do\u{1b}[2J{}", "\u{202e}".repeat(5_000));
    let answer = serde_json::json!({ "kind": "failed_lock", "value": evil }).to_string();
    let server = Server::plain(move |_| Answer::new(409, answer.clone())).unwrap();
    let world = World::new(&format!("[rollout]\nfleetlock = {{ url = {:?} }}\n", server.url("")));
    world.release("2");
    let output = world.run(1, "apply").exits(0).stdout;
    assert!(output.contains("the lock server refuses: no\\nh1: nothing to do\\u{1b}[2J"), "{output:.4096}");
    assert!(output.len() < 4096, "{output:.8192}");
    assert!(fs::metadata(world.dir.path().join("h1.status")).unwrap().len() < 8192);
}

#[test]
fn a_lock_server_admits_one_host_at_a_time_and_learns_when_each_is_healthy() {
    let (world, locks, server) = with_lock();
    // nothing to ask for, so far
    assert!(server.seen().is_empty());
    world.release("2");
    for host in 1..=3 {
        world.run(host, "apply").exits(0);
        assert_eq!(locks.holders("default"), [""; 0]);
    }
    let paths: Vec<String> = server.seen().into_iter().map(|request| request.path).collect();
    assert_eq!(paths, ["/v1/pre-reboot", "/v1/steady-state"].repeat(3));
    assert_eq!(world.motd(), "2 2 2");
    // a host without a slot releases none
    world.run(1, "apply").exits(0);
    assert_eq!(server.seen().len(), 6);
}

#[test]
fn a_host_with_a_failed_release_keeps_its_slot_until_another_release_succeeds() {
    let (world, locks, _server) = with_lock();
    world.bad_release();
    assert_ne!(world.run(2, "apply").code, 0);
    assert_eq!(locks.holders("default"), ["h2"]);
    let refused = "release 2: the lock server refuses: all 1 semaphore slots currently locked (failed_lock)";
    assert_eq!((world.waits(1), world.waits(3)), (refused.to_owned(), refused.to_owned()));
    assert!(!world.trees[0].at("var/lib/kpull/locks.json").exists(), "what was refused is not given back");
    world.run(2, "apply").exits(0);
    assert_eq!((world.motd(), locks.holders("default")), ("1 1 1".to_owned(), vec!["h2".to_owned()]));
    world.release("3");
    assert_eq!(world.waits(1), refused.replace("release 2", "release 3"));
    world.run(2, "apply").exits(0);
    world.run(1, "apply").exits(0);
    assert_eq!((world.motd().as_str(), locks.holders("default").len()), ("3 3 1", 0));
}

#[test]
fn a_host_that_waits_for_its_slot_reports_that_no_source_answers() {
    let (world, _locks, _server) = with_lock();
    world.bad_release();
    assert_ne!(world.run(2, "apply").code, 0);
    world.waits(1);
    let tree = &world.trees[0];
    let source = tree.at("nowhere");
    tree.configure(&format!("[[source]]\ndir = {source:?}\n"));
    let output = world.run(1, "apply --json").exits(1);
    assert_eq!(output.events("rollout_waiting").len(), 1);
    assert!(output.error()["error"].as_str().unwrap().contains(source.to_str().unwrap()), "{output:?}");
    assert_eq!(world.motd(), "1 1 1");
}

#[test]
fn kpull_waits_for_a_lock_server_and_releases_a_slot_later_if_it_was_down() {
    let (locks, what) = (StandIn::new(&[("default", 1)]), Arc::new(Mutex::new("")));
    let server = {
        let (locks, what) = (locks.clone(), what.clone());
        let broken =
            move |request: &Received| !what.lock().unwrap().is_empty() && request.path.ends_with(*what.lock().unwrap());
        Server::plain(move |request| if broken(request) { Answer::new(502, "") } else { locks.answer(request) })
            .unwrap()
    };
    let world = World::new(&format!("[rollout]\nfleetlock = {{ url = {:?} }}\n", server.url("")));
    world.release("2");
    *what.lock().unwrap() = "/pre-reboot";
    assert_eq!(world.waits(1), "release 2: the lock server refuses: 502 Bad Gateway");
    *what.lock().unwrap() = "/steady-state";
    let output = world.run(1, "apply --json").exits(0);
    assert_eq!(output.events("lock_not_returned")[0]["error"], "502 Bad Gateway");
    assert_eq!(locks.holders("default"), ["h1"]);
    // by then all that it reads is old enough for the up-to-date check
    std::thread::sleep(std::time::Duration::from_millis(2100));
    world.run(1, "apply").exits(0);
    *what.lock().unwrap() = "";
    // with nothing else to do
    world.run(1, "apply").exits(0);
    assert_eq!(locks.holders("default"), [""; 0]);
    drop(server);
    let why = world.waits(2);
    assert!(why.starts_with("release 2: the lock server can't be reached: http://127.0.0.1"), "{why}");
}
