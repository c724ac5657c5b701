//! The sites that are part of the program, to start from: the cluster, and two plain hosts.

use include_dir::{Dir, include_dir};

static ROLES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/roles");
static HOST_VARS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/host_vars");
static WEB: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/examples/web");
static SITE: &str = include_str!("../../site.toml");
static ARTIFACTS: &str = include_str!("../../artifacts.toml");

/// Paths of a site's files, relative to its directory, with their content.
pub type SiteFiles = Vec<(String, Vec<u8>)>;

/// The shipped cluster: three masters and a worker.
pub fn cluster() -> SiteFiles {
    let mut files = vec![
        ("site.toml".to_owned(), SITE.as_bytes().to_vec()),
        ("artifacts.toml".to_owned(), ARTIFACTS.as_bytes().to_vec()),
    ];
    add(&ROLES, "roles/", &mut files);
    add(&HOST_VARS, "host_vars/", &mut files);
    files
}

/// Two plain hosts: a web server and its database. The site has the name `web`.
pub fn web() -> SiteFiles {
    let mut files = Vec::new();
    add(&WEB, "", &mut files);
    files
}

fn add(dir: &Dir<'_>, prefix: &str, files: &mut SiteFiles) {
    files.extend(dir.files().map(|file| (format!("{prefix}{}", file.path().display()), file.contents().to_vec())));
    dir.dirs().for_each(|below| add(below, prefix, files));
}
