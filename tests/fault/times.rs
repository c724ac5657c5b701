//! A clock that jumps, between runs and in the middle of one.

use std::fs;

use crate::fault::{copy, enrolled, role};
use crate::support::site::{Site, Snapshot, Tree};
use crate::support::traced::{DAY, YEAR, with_clock};

const SET_THE_CLOCK: &str = "set the clock; with a clock that is behind, an expired release would be accepted; the host stays converged on release 1";

/// A site with a release, and a tree that has it.
fn applied(toml: &str) -> (Site, Tree) {
    let (site, tree) = enrolled(toml);
    tree.kpull("apply").exits(0);
    (site, tree)
}

fn old() -> String {
    role("old", 2)
}

/// What is in a tree, but for the day that a password was made at.
fn undated(tree: &Tree) -> Snapshot {
    let mut all = tree.snapshot();
    all.remove("etc/shadow");
    all
}

#[test]
fn a_clock_set_back_a_year_is_named_and_the_host_stays_converged() {
    let (_site, tree) = applied(&old());
    let wanted = tree.snapshot();
    tree.write("srv/0", "drift\n");
    let (output, looks) = with_clock(&tree, "apply", &|_| -YEAR);
    assert!(looks > 0, "the clock was looked at");
    assert_eq!(output.changed(), ["file:/srv/0"]);
    let error = output.exits(4).error();
    assert!(error["error"].as_str().unwrap().starts_with("this host's clock says "), "{error}");
    assert_eq!(error["help"], SET_THE_CLOCK);
    assert_eq!(tree.snapshot(), wanted);
    // set right again, nothing of it stays
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);
}

#[test]
fn a_clock_that_was_a_year_ahead_later_prevents_no_release_and_no_check() {
    let (site, tree) = applied(&old());
    tree.write("srv/0", "drift\n");
    let (output, _) = with_clock(&tree, "apply", &|_| YEAR);
    assert_eq!(output.changed(), ["file:/srv/0"]);
    let error = output.exits(4).error();
    assert!(error["error"].as_str().unwrap().starts_with("the release (serial 1) expired at "), "{error}");
    // what a run of then wrote down is of the future now
    for _ in 0..2 {
        with_clock(&tree, "apply", &|_| YEAR);
    }
    tree.write("srv/1", "drift\n");
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), ["file:/srv/1"]);
    site.role("base", &role("new", 2)).sign();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("srv/0"), "new 0\n");
    tree.kpull("plan").exits(0);
}

#[test]
fn no_up_to_date_record_of_another_time_hides_drift() {
    let toml = "[[file]]\npath = \"/srv/0\"\ncontent = \"0\\n\"\n[[symlink]]\npath = \"/srv/1\"\ntarget = \"0\"\n";
    // half a day later, all that was written is old enough for the up-to-date check
    let later = DAY / 2;
    let is_up_to_date = |tree: &Tree, offset: i64| {
        let (output, _) = with_clock(tree, "apply", &|_| offset);
        output.events("done")[0]["up_to_date"] == true
    };
    for now in [later, 0, -YEAR, YEAR] {
        let (_site, tree) = applied(toml);
        assert!(!is_up_to_date(&tree, later) && is_up_to_date(&tree, later));
        // with a clock before the record, or far after it, a run does not trust the record, although no file changed
        assert_eq!(is_up_to_date(&tree, now), now == later, "at {now}");
        tree.write("srv/0", "drift\n");
        let (output, _) = with_clock(&tree, "apply", &|_| now);
        assert_eq!(output.changed(), ["file:/srv/0"], "at {now}");
    }
}

#[test]
fn after_a_jump_of_the_clock_during_a_run_the_next_run_finishes_the_host() {
    let (site, tree) = applied(&old());
    site.role("base", &role("new", 2)).sign();
    let whole = copy(&tree);
    let (_, looks) = with_clock(&whole, "apply", &|_| 0);
    let wanted = undated(&whole);
    for jump in [-YEAR, YEAR] {
        for look in 0..=looks {
            let tree = copy(&tree);
            let (output, _) = with_clock(&tree, "apply", &|number| if number < look { 0 } else { jump });
            assert!([0, 4].contains(&output.code), "{jump} {look}: {output:?}");
            tree.kpull("apply").exits(0);
            assert_eq!(undated(&tree), wanted, "{jump} {look}");
            tree.kpull("plan").exits(0);
        }
    }
}

#[test]
fn the_next_try_of_a_release_does_not_wait_for_a_clock_that_was_ahead() {
    let (site, tree) = applied(&old());
    site.role("base", &format!("{}[[file]]\npath = \"/srv/wall/x\"\ncontent = \"x\\n\"\n", role("new", 2))).sign();
    tree.write("srv/wall", "no directory");
    // the release is good for a day, and the clock half a day ahead
    let (output, _) = with_clock(&tree, "apply", &|_| DAY / 2);
    assert_eq!(output.code, 3, "{output:?}");
    assert_eq!(tree.read("srv/0"), "old 0\n");
    fs::remove_file(tree.at("srv/wall")).unwrap();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("srv/0"), "new 0\n");
}
