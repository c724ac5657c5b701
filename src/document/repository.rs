//! Addresses of git repositories, and ids of commits.

use gix_hash::ObjectId;
use gix_url::{Scheme, Url};

use crate::error::{Result, error};
use crate::net;

/// Parses an address. Messages don't repeat one with a password.
pub fn address(address: &str) -> Result<Url> {
    if address.starts_with("http://") || address.starts_with("https://") {
        net::parse(address)?;
    }
    let without_user = || address.rsplit_once('@').map_or(address, |(_, host)| host);
    let wrong = || {
        error!(GIT, "`{}` is not the address of a git repository", without_user())
            .help("https://, http://, ssh://, user@host:path, file:// and absolute paths work")
    };
    let url = gix_url::parse(address).map_err(|_| wrong())?;
    if url.password().is_some() {
        return Err(error!(GIT, "`{}` contains a password", without_user()).help("use a key with ssh"));
    }
    match url.scheme {
        Scheme::Http | Scheme::Https => Ok(url),
        Scheme::Ssh if url.host().is_some() => Ok(url),
        Scheme::File if url.host().is_none() && url.path.starts_with(b"/") => Ok(url),
        _ => Err(wrong()),
    }
}

/// Parses the whole id of a commit.
pub fn commit(hex: &str) -> Result<ObjectId> {
    ObjectId::from_hex(hex.as_bytes()).map_err(|_| {
        let error = error!(GIT, "`{hex}` is not a commit");
        if hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return error
                .because("it is from a repository with SHA-256 object names, which kpull does not support")
                .help("push to a repository of `git init --object-format=sha1`");
        }
        error.help(format!(
            "write the full id, 40 hex digits, because a name can move: `git rev-parse '{hex}^{{commit}}'` in a clone prints it"
        ))
    })
}
