//! The names of secrets, and their paths in a site.

use crate::error::{Result, error};

/// The directory of a site that holds its secrets.
pub const DIR: &str = "secrets";

/// The site's path of the secret `name`: `secrets/NAME.age`.
pub fn path_of(name: &str) -> String {
    format!("{DIR}/{name}.age")
}

/// The name of the secret at `path` of a site; `None` if the file is no secret.
pub fn name_in(path: &str) -> Option<&str> {
    path.strip_prefix(DIR)?.strip_prefix('/')?.strip_suffix(".age")
}

/// Refuses an invalid name. A name is a path below `secrets/` of letters, digits, `.`, `_`, `-` and `/`.
pub fn check(name: &str) -> Result<()> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.');
    if name.len() <= 200 && name.chars().all(is_plain) && name.split('/').all(is_part) {
        return Ok(());
    }
    Err(error!(SECRET, "`{name}` is not the name of a secret")
        .because("a name has letters, digits, `.`, `_` and `-`, and `/` between parts, none of which starts with `.`")
        .help("use a name like `db-password` or `app/tls.key`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_below_the_directory_of_secrets() {
        for good in ["a", "db-password", "pki/etcd-ca.key", "A_1"] {
            check(good).unwrap();
            assert_eq!(name_in(&path_of(good)), Some(good));
        }
        let long = "a".repeat(201);
        for bad in ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.b", ".", "a b", "a\n", "ä", "a\0", "~", &long] {
            let error = check(bad).unwrap_err();
            assert!(error.to_string().contains(" is not the name of a secret"), "{bad:?}: {error}");
        }
        assert_eq!(name_in("roles/a.age"), None);
        assert_eq!(name_in("secrets/recipients.toml"), None);
    }
}
