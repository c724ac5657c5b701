//! What a resource alone decides about, and what is on a host because of it.

use std::borrow::Borrow;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Something on a host that is one resource's: `path:/etc/hosts`, `user:etcd`; or a part of it, `part:NAME@path:/etc/hosts`. Parts of different
/// names get along with each other, but not with somebody who claims the whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Claim(String);

impl Claim {
    /// A whole path.
    pub fn path(path: impl AsRef<Path>) -> Self {
        Self(format!("path:{}", path.as_ref().display()))
    }

    /// A part of what is at a path.
    pub fn part(name: &str, path: impl AsRef<Path>) -> Self {
        Self(format!("part:{name}@path:{}", path.as_ref().display()))
    }

    /// What has no path.
    pub fn thing(kind: &str, key: impl fmt::Display) -> Self {
        Self(format!("{kind}:{key}"))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The claim on the whole, for one on a part.
    pub fn whole(&self) -> Option<Self> {
        self.0.strip_prefix("part:")?.split_once('@').map(|(_, whole)| Self(whole.to_owned()))
    }

    /// The path, for a claim on a whole one.
    pub fn whole_path(&self) -> Option<&Path> {
        self.0.strip_prefix("path:").map(Path::new)
    }

    /// The path that it is about, whole or in part.
    pub fn any_path(&self) -> Option<&Path> {
        let part = || self.0.strip_prefix("part:")?.split_once("@path:").map(|(_, path)| path.as_ref());
        self.whole_path().or_else(part)
    }

    /// What it is about, for people: its path, or the claim itself.
    pub fn subject(&self) -> String {
        self.any_path().map_or_else(|| self.0.clone(), |path| path.display().to_string())
    }

    /// With its path as `place` calls it; without a path, as it is.
    pub fn with_place(&self, place: impl FnOnce(&Path) -> String) -> Self {
        match self.any_path() {
            Some(path) => {
                let start = self.0.len() - path.as_os_str().len();
                Self(format!("{}{}", self.0.get(..start).unwrap_or_default(), place(path)))
            }
            None => self.clone(),
        }
    }

    /// Whether a change of it can cut the host off from its sources and its operators.
    pub fn cuts_off(&self) -> bool {
        const PATHS: [&str; 11] = [
            "/etc/NetworkManager",
            "/etc/hosts",
            "/etc/kpull",
            "/etc/netplan",
            "/etc/network",
            "/etc/nftables",
            "/etc/nsswitch.conf",
            "/etc/resolv.conf",
            "/etc/ssh",
            "/etc/sysconfig/network",
            "/etc/systemd/network",
        ];
        const UNITS: [&str; 8] = [
            "NetworkManager",
            "firewalld",
            "networking",
            "nftables",
            "ssh",
            "sshd",
            "systemd-networkd",
            "systemd-resolved",
        ];
        let path = self.any_path().and_then(Path::to_str);
        let unit = self.0.strip_prefix("unit:").map(|name| name.split('.').next().unwrap_or(name));
        path.is_some_and(|path| PATHS.iter().any(|one| path.starts_with(one)))
            || unit.is_some_and(|name| UNITS.contains(&name))
            || self.0.starts_with("sysctl:net.")
    }
}

impl Borrow<str> for Claim {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_tells_what_it_is_about() {
        let (whole, part) = (Claim::path("/etc/hosts"), Claim::part("cluster", "/etc/hosts"));
        assert_eq!((whole.as_str(), part.as_str()), ("path:/etc/hosts", "part:cluster@path:/etc/hosts"));
        assert_eq!((whole.whole(), part.whole()), (None, Some(whole.clone())));
        assert_eq!((whole.whole_path(), part.whole_path()), (Some(Path::new("/etc/hosts")), None));
        assert_eq!(part.any_path(), Some(Path::new("/etc/hosts")));
        assert_eq!(part.with_place(|_| "7:9/hosts".to_owned()).as_str(), "part:cluster@path:7:9/hosts");
        let user = Claim::thing("user", "etcd");
        assert_eq!((user.subject(), part.subject()), ("user:etcd".to_owned(), "/etc/hosts".to_owned()));
        assert_eq!((user.any_path(), user.with_place(|_| "x".to_owned())), (None, user.clone()));
    }
}
