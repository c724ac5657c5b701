//! `kpull fmt`.

use std::fs;
use std::path::Path;

use crate::support::site::{Site, kpull};

#[test]
fn the_shipped_site_is_formatted() {
    let output = kpull(&["fmt", "--check", "--site", env!("CARGO_MANIFEST_DIR")]).exits(0);
    assert_eq!(output.stdout, "");
    for site in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/sites")).unwrap() {
        kpull(&["fmt", "--check", "--site", site.unwrap().path().to_str().unwrap()]).exits(0);
    }
}

#[test]
fn a_site_is_formatted_once_and_files_that_kpull_writes_stay_unchanged() {
    let site = Site::new("test");
    let ugly = "address='10.0.0.1'   # it\n\n\n\ngroups=[ ]\n";
    site.host("h1", ugly).file("secrets/recipients.toml", "a=1\n").file("roles/r/files/x.toml", "a=1\n").role("r", "");
    let path = site.path().to_str().unwrap();
    let output = kpull(&["fmt", "--check", "--json", "--site", path]).exits(1);
    assert_eq!(output.error()["error"], "1 file is not formatted");
    assert_eq!(fs::read_to_string(site.path().join("host_vars/h1.toml")).unwrap(), ugly, "--check changes nothing");
    let output = kpull(&["fmt", "--site", path]).exits(0);
    assert_eq!(output.stdout, format!("~ {path}/host_vars/h1.toml\n"));
    let now = fs::read_to_string(site.path().join("host_vars/h1.toml")).unwrap();
    assert_eq!(now, "address = '10.0.0.1'   # it\n\ngroups = []\n");
    kpull(&["fmt", "--check", "--site", path]).exits(0);
    for ours in ["secrets/recipients.toml", "roles/r/files/x.toml"] {
        assert_eq!(fs::read_to_string(site.path().join(ours)).unwrap(), "a=1\n");
    }
}

#[test]
fn nothing_is_written_when_one_file_is_not_toml() {
    let site = Site::new("test");
    site.host("h1", "address='10.0.0.1'\n").host("h2", "address = = 1\n");
    let reported = kpull(&["fmt", "--json", "--site", site.path().to_str().unwrap()]).exits(1).error();
    assert!(reported["error"].as_str().unwrap().contains("h2.toml is not TOML"), "{reported}");
    assert_eq!(fs::read_to_string(site.path().join("host_vars/h1.toml")).unwrap(), "address='10.0.0.1'\n");
}
