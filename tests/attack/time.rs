//! Releases from the past, from the future, and sources in which time stands still.

use std::fs;

use jiff::{SignedDuration, Timestamp};

use crate::attack::host::{Attack, EVERY, GOOD, Host, Tree, Via, allow};

const REPLAY: &str =
    "someone is replaying an old release, or the source was reset; sign again to publish it under a new serial";
const RENEW: &str = "sign again; if it should have been renewed, someone may be withholding newer releases";

fn toml(time: Timestamp) -> String {
    format!("{time:.0}")
}

#[test]
fn a_release_older_than_the_last_one_is_refused() {
    let error = "the release has serial 9, but 10 was seen here before";
    Attack { error, help: REPLAY, fresh: false, ..Attack::default() }.mount(|tree| *tree = Tree::good(GOOD - 1));
}

#[test]
fn a_second_release_with_the_same_serial_is_refused() {
    let error = "there are two different releases with serial 10";
    Attack {
        error,
        help: "one serial, one release: sign again, with the next serial",
        fresh: false,
        ..Attack::default()
    }
    .mount(|tree| {
        *tree = Tree::good(GOOD);
        tree.put("roles/base/files/more", "another content\n");
        tree.list(GOOD);
    });
}

#[test]
fn an_old_release_is_refused_even_if_only_the_record_of_the_newest_is_left() {
    for via in EVERY {
        let host = Host::with_good(*via);
        for name in ["cache", "sources.json", "release.tar", "generations"] {
            let path = host.state().join(name);
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
        let before = host.snapshot();
        host.publish(&Tree::good(GOOD - 1));
        let ended = host.apply();
        assert_eq!(ended.error, "the release has serial 9, but 10 was seen here before");
        assert_eq!((ended.help.as_str(), ended.code), (REPLAY, 4));
        assert_eq!(before, host.snapshot());
        host.publish(&Tree::good(GOOD + 1));
        host.expect_good(GOOD + 1);
    }
}

#[test]
fn a_stored_release_that_was_damaged_is_fetched_again() {
    for via in EVERY {
        let host = Host::with_good(*via);
        let kept = host.state().join("release.tar");
        let bytes = fs::read(&kept).unwrap();
        fs::write(&kept, &bytes[..700]).unwrap();
        fs::remove_file(host.root().join("etc/motd")).unwrap();
        host.expect_good(GOOD);
        assert_eq!(fs::read(&kept).unwrap(), bytes);
    }
}

#[test]
fn a_damaged_record_of_the_newest_release_is_an_error_and_no_new_start() {
    for damage in ["", "serial = 10\n", "garbage", "serial = 0\ncreated = \"never\"\ndigest = \"\"\n"] {
        let host = Host::with_good(Via::Dir);
        fs::write(host.state().join("trust.toml"), damage).unwrap();
        let before = host.snapshot();
        host.publish(&Tree::good(GOOD - 1));
        let ended = host.apply();
        assert!(ended.error.starts_with("/root/var/lib/kpull/trust.toml is damaged: "), "{}", ended.error);
        assert_eq!(
            ended.help,
            "it says which releases are too old; `kpull enroll --root /root` shows what this host will trust, and enrolls it again"
        );
        assert_eq!((ended.code, before), (1, host.snapshot()), "{damage:?}");
    }
}

#[test]
fn the_newest_serial_is_on_disk_before_anything_is_applied() {
    let host = Host::with_good(Via::Dir);
    // nothing can be written there, so the apply fails
    fs::remove_file(host.root().join("etc/motd")).unwrap();
    fs::create_dir(host.root().join("etc/motd")).unwrap();
    host.publish(&Tree::good(GOOD + 1));
    assert_eq!(host.apply().code, 1);
    fs::remove_dir(host.root().join("etc/motd")).unwrap();
    host.publish(&Tree::good(GOOD));
    let ended = host.apply();
    assert_eq!((ended.error.as_str(), ended.code), ("the release has serial 10, but 11 was seen here before", 4));
    host.expect_files(GOOD + 1);
}

#[test]
fn a_refused_serial_is_not_recorded() {
    // otherwise the owner of a source could lock a host out with the highest serial that exists
    let host = Host::with_good(Via::Dir);
    let mut tree = Tree::good(GOOD + 1);
    tree.set("serial", &i64::MAX.to_string());
    tree.sign(&[3]);
    host.publish(&tree);
    assert_eq!(host.apply().code, 4);
    host.publish(&Tree::good(GOOD + 1));
    host.expect_good(GOOD + 1);
}

#[test]
fn an_expired_release_is_refused() {
    let expired = toml(Timestamp::now() - SignedDuration::from_secs(10));
    let error = format!("the release (serial 11) expired at {expired}");
    Attack { error: &error, help: RENEW, ..Attack::default() }.mount(|tree| tree.set("expires", &expired));
}

#[test]
fn a_release_with_a_signing_time_in_the_future_is_refused() {
    let created = toml(Timestamp::now() + SignedDuration::from_hours(1));
    for via in EVERY {
        let host = Host::with_good(*via);
        let before = host.snapshot();
        let mut tree = Tree::good(GOOD + 1);
        tree.set("created", &created);
        host.publish(&tree);
        let ended = host.apply();
        assert!(ended.error.starts_with("this host's clock says "), "{}", ended.error);
        assert!(ended.error.ends_with(&format!(", and a release was signed at {created}")), "{}", ended.error);
        assert_eq!(
            ended.help,
            "set the clock; with a clock that is behind, an expired release would be accepted; the host stays converged on \
             release 10"
        );
        assert_eq!((ended.code, before), (4, host.snapshot()));
        host.publish(&Tree::good(GOOD + 2));
        host.expect_good(GOOD + 2);
    }
}

#[test]
fn a_signers_clock_may_be_a_little_ahead() {
    let host = Host::with_good(Via::Dir);
    let mut tree = Tree::good(GOOD + 1);
    tree.set("created", &toml(Timestamp::now() + SignedDuration::from_mins(4)));
    host.publish(&tree);
    host.expect_good(GOOD + 1);
}

#[test]
fn a_clock_that_was_set_back_is_noticed_by_the_newest_release_seen() {
    let host = Host::with_good(Via::Dir);
    let path = host.state().join("trust.toml");
    let text = fs::read_to_string(&path).unwrap();
    let created = text.lines().find(|line| line.starts_with("created")).unwrap();
    let later = format!("created = \"{:.0}\"", Timestamp::now() + SignedDuration::from_hours(1));
    fs::write(&path, text.replace(created, &later)).unwrap();
    fs::copy(&path, host.root().join("etc/kpull/trust.toml")).unwrap();
    let before = host.snapshot();
    host.publish(&Tree::good(GOOD + 1));
    let ended = host.apply();
    assert!(ended.error.starts_with("this host's clock says "), "{}", ended.error);
    assert_eq!((ended.code, before), (4, host.snapshot()));
}

/// Hosts with every kind of source, whose release has expired while the sources showed nothing newer; and when it did.
fn frozen() -> (Vec<Host>, String) {
    for seconds in [3, 10, 60] {
        let expires = Timestamp::from_second(Timestamp::now().as_second() + seconds).unwrap();
        let mut tree = Tree::good(GOOD);
        tree.set("expires", &toml(expires));
        let hosts: Vec<_> = EVERY.iter().map(|via| Host::new(*via, &allow(1, ""), 1)).collect();
        hosts.iter().for_each(|host| host.publish(&tree));
        // on a busy machine it may have been too late already
        if hosts.iter().all(|host| host.apply().code == 0) {
            while Timestamp::now() <= expires {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            return (hosts, toml(expires));
        }
    }
    panic!("this machine is too slow");
}

#[test]
fn a_host_with_a_frozen_source_reports_it_and_still_corrects_drift() {
    let (hosts, expires) = frozen();
    for host in hosts {
        fs::write(host.root().join("etc/motd"), "drift\n").unwrap();
        let ended = host.apply();
        host.expect_files(GOOD);
        assert_eq!(ended.error, format!("the release (serial 10) expired at {expires}"));
        assert_eq!(ended.help, format!("{RENEW}; the host stays converged on release 10"));
        assert_eq!(ended.code, 4);
        // the same when the source's marks are lost and it hands everything out again
        fs::remove_file(host.state().join("sources.json")).unwrap();
        let ended = host.apply();
        assert_eq!((ended.error, ended.code), (format!("the release (serial 10) expired at {expires}"), 4));
        host.publish(&Tree::good(GOOD + 1));
        host.expect_good(GOOD + 1);
    }
}

#[test]
fn drift_is_corrected_while_a_source_is_hostile() {
    for via in EVERY {
        let host = Host::with_good(*via);
        let mut tree = Tree::good(GOOD + 1);
        tree.sign(&[3]);
        host.publish(&tree);
        fs::write(host.root().join("etc/motd"), "drift\n").unwrap();
        assert_eq!(host.apply().code, 4);
        host.expect_files(GOOD);
    }
}
