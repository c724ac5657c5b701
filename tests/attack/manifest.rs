//! Manifests with good signatures and bad contents: a signer was tricked, or a key stolen.

use std::path::Path;

use kpull::document::layout::MANIFEST;

use crate::attack::host::{Attack, GOOD, Host, Tree, Via};

const BY_HAND: &str = "`kpull sign` creates no such release: someone wrote this one by hand";

fn refused(error: &str, help: &str, attack: impl Fn(&mut Tree) + Sync) {
    Attack { error, help, ..Attack::default() }.mount(attack);
}

/// Through a directory only: the manifest is read in the same way wherever it comes from.
fn refused_by_dir(error: &str, help: &str, attack: impl Fn(&mut Tree) + Sync) {
    Attack { error, help, via: &[Via::Dir], ..Attack::default() }.mount(attack);
}

#[test]
fn another_sites_release_is_refused() {
    let help = "check the source's address, and `site` under [trust] in kpull.toml";
    refused("the release is for the site `prod`, and this host belongs to `lab`", help, |tree| {
        tree.set("site", "\"prod\"");
    });
}

#[test]
fn a_format_that_is_not_known_is_refused() {
    for format in ["0", "2", "-1"] {
        let error = format!("the release has format {format}, and this kpull reads format 1");
        refused_by_dir(&error, "update kpull on this host", |tree| tree.set("format", format));
    }
}

#[test]
fn a_format_that_is_missing_or_not_a_number_is_refused() {
    let error = "the release does not say which format it has";
    for format in ["format = \"1\"", "format = 1.0", "format = [1]", ""] {
        refused_by_dir(error, "sign it with `kpull sign`", |tree| tree.edit("format = 1", format));
    }
}

#[test]
fn a_path_outside_the_tree_is_refused_by_name() {
    let long = format!("roles/{}", "n".repeat(256));
    let longer = format!("roles{}", "/nnnn".repeat(1000));
    let paths = [
        "../x",
        "/etc/x",
        "roles/../../x",
        "roles/..",
        "roles/./x",
        "roles//x",
        "roles/x/",
        "",
        "roles\\x",
        "roles/..\\x",
        &long,
        &longer,
    ];
    for path in paths {
        let error = format!("the release lists a path outside the tree: `{path}`");
        refused_by_dir(&error, BY_HAND, |tree| tree.also_list(path));
    }
}

#[test]
fn a_path_with_control_characters_is_refused_and_shown_without_them() {
    for (path, shown) in [
        ("roles/\u{1b}[2Jx", "roles/\\u{1b}[2Jx"),
        ("roles/x\0", "roles/x\\u{0}"),
        ("roles/x\r", "roles/x\\r"),
        ("roles/\u{9b}2J", "roles/\\u{9b}2J"),
        ("roles/x\ny", "roles/x\ny"),
    ] {
        let error = format!("the release lists a path outside the tree: `{shown}`");
        refused_by_dir(&error, BY_HAND, |tree| tree.also_list(path));
    }
}

#[test]
fn a_path_that_is_not_part_of_a_site_is_refused() {
    for path in ["release.toml", "etc/passwd", ".git/config", "Roles/x"] {
        let error = format!("the release lists `{path}`, which is not part of a site");
        refused_by_dir(&error, "sign again with `kpull sign`", |tree| tree.also_list(path));
    }
}

#[test]
fn an_invalid_digest_is_refused() {
    for digest in ["", "00", &"g".repeat(64), &"A".repeat(64)] {
        let error = "the release lists roles/x with something that is not a SHA-256";
        refused_by_dir(error, BY_HAND, |tree| {
            tree.also_list("roles/x");
            tree.edit(&"0".repeat(64), digest);
        });
    }
}

#[test]
fn a_manifest_that_is_not_text_is_refused() {
    refused("release.toml is not UTF-8 text", BY_HAND, |tree| {
        tree.manifest(b"site = \xff\xfe".as_slice());
    });
}

#[test]
fn a_manifest_that_is_not_toml_is_refused() {
    refused("release.toml is not TOML: key with no value, expected `=`", BY_HAND, |tree| tree.manifest("hello"));
}

#[test]
fn an_endlessly_nested_manifest_is_refused() {
    refused_by_dir("release.toml is not TOML: cannot recurse further; max recursion depth met", BY_HAND, |tree| {
        let text = tree.text(MANIFEST);
        tree.manifest(format!("x = {}\n{text}", "[".repeat(100_000)));
    });
}

#[test]
fn a_path_that_is_listed_twice_is_refused() {
    refused_by_dir("release.toml is not TOML: duplicate key", BY_HAND, |tree| {
        let text = tree.text(MANIFEST);
        tree.manifest(format!("{text}{}\n", text.lines().last().unwrap()));
    });
}

#[test]
fn an_invalid_serial_is_refused() {
    for serial in ["-1", "1.5", "\"9\""] {
        let host = Host::with_good(Via::Dir);
        let before = host.snapshot();
        let mut tree = Tree::good(GOOD + 1);
        tree.set("serial", serial);
        host.publish(&tree);
        let ended = host.apply();
        assert!(ended.error.contains("serial"), "{}", ended.error);
        assert_eq!((ended.code, before), (4, host.snapshot()), "{serial}");
    }
}

#[test]
fn an_implausible_total_size_is_refused_before_anything_is_fetched() {
    let error = "the release announces 134217729 bytes, more than the 134217728 that are allowed";
    let help = "publish large files as artifacts, pinned in artifacts.toml";
    Attack { error, help, ..Attack::default() }.mount(|tree| {
        let rest: usize = tree
            .text(MANIFEST)
            .lines()
            .filter_map(|line| line.split_once("size = ")?.1.trim_end_matches(" }").parse::<usize>().ok())
            .sum();
        tree.also_list("roles/huge");
        tree.edit("size = 1 }", &format!("size = {} }}", (128 << 20) + 1 - rest));
    });
}

#[test]
fn sizes_that_overflow_when_added_are_refused() {
    let error = format!("the release announces {} bytes, more than the 134217728 that are allowed", u64::MAX);
    let help = "publish large files as artifacts, pinned in artifacts.toml";
    Attack { error: &error, help, via: &[Via::Dir], ..Attack::default() }.mount(|tree| {
        for path in ["roles/a", "roles/b", "roles/c"] {
            tree.also_list(path);
            tree.edit("size = 1 }", &format!("size = {} }}", i64::MAX));
        }
    });
}

#[test]
fn nothing_is_written_to_a_path_of_a_release() {
    // a site's file has a place in the release that is kept, and nowhere else, whatever it is called
    let host = Host::with_good(Via::Dir);
    let mut tree = Tree::good(GOOD + 1);
    tree.put("roles/base/files/etc/cron.d/x", "* * * * * root true\n");
    tree.put("roles/base/files/…/x", "x");
    tree.put("keys/~root/.ssh/authorized_keys", "x");
    tree.list(GOOD + 1);
    host.publish(&tree);
    host.expect_good(GOOD + 1);
    let state = host.state();
    let names: Vec<_> = host
        .snapshot()
        .into_keys()
        .filter(|path| !path.starts_with(&state))
        .map(|path| path.strip_prefix(host.root()).unwrap().to_owned())
        .collect();
    let expected = [
        "",
        "etc",
        "etc/kpull",
        "etc/kpull/allowed_signers",
        "etc/kpull/kpull.toml",
        "etc/kpull/trust.toml",
        "etc/more",
        "etc/motd",
    ];
    let expected: Vec<_> = expected.iter().chain(&["var", "var/lib"]).map(Path::new).collect();
    assert_eq!(names, expected);
}
