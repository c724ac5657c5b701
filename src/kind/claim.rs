//! What a resource owns on a host.

use std::borrow::Borrow;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Something on a host that one resource owns: `path:/etc/hosts`, `user:etcd`; or a part of it, `part:NAME@path:/etc/hosts`. Several
/// resources can own different parts, but then none can own the whole.
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

    /// A part of something without a path.
    pub fn part_of(name: &str, whole: &Self) -> Self {
        // the first `@` ends the name
        Self(format!("part:{}@{whole}", name.replace('@', "%")))
    }

    /// Something without a path.
    pub fn thing(kind: &str, key: impl fmt::Display) -> Self {
        Self(format!("{kind}:{key}"))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The claim on the whole that this is a part of.
    pub fn whole(&self) -> Option<Self> {
        self.0.strip_prefix("part:")?.split_once('@').map(|(_, whole)| Self(whole.to_owned()))
    }

    /// The path, if this claims a whole one.
    pub fn whole_path(&self) -> Option<&Path> {
        self.0.strip_prefix("path:").map(Path::new)
    }

    /// The path, whole or in part.
    pub fn any_path(&self) -> Option<&Path> {
        let part = || self.0.strip_prefix("part:")?.split_once("@path:").map(|(_, path)| path.as_ref());
        self.whole_path().or_else(part)
    }

    /// A name for people: the path, or the claim itself.
    pub fn subject(&self) -> String {
        self.any_path().map_or_else(|| self.0.clone(), |path| path.display().to_string())
    }

    /// The claim with its path replaced by what `place` returns; unchanged without a path.
    pub fn with_place(&self, place: impl FnOnce(&Path) -> String) -> Self {
        match self.any_path() {
            Some(path) => {
                let start = self.0.len() - path.as_os_str().len();
                Self(format!("{}{}", self.0.get(..start).unwrap_or_default(), place(path)))
            }
            None => self.clone(),
        }
    }

    /// Whether a change can cut the host off from its sources and operators.
    pub fn cuts_off(&self) -> bool {
        const PATHS: &str = "/etc/NetworkManager /etc/firewalld /etc/hosts /etc/kpull /etc/netplan /etc/network /etc/nftables \
            /etc/nsswitch.conf /etc/resolv.conf /etc/ssh /etc/sysconfig/network /etc/systemd/network /etc/systemd/resolved \
            /etc/wireguard /run/NetworkManager /run/systemd/network";
        const UNITS: &str = "NetworkManager firewalld networking nftables ssh sshd systemd-networkd systemd-resolved";
        let path = self.any_path().and_then(Path::to_str);
        let unit = self.0.strip_prefix("unit:").map(|name| name.split('.').next().unwrap_or(name));
        path.is_some_and(|path| PATHS.split(' ').any(|one| path.starts_with(one)))
            || unit.is_some_and(|name| UNITS.split(' ').any(|one| one == name))
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
    fn a_claim_knows_its_path() {
        let (whole, part) = (Claim::path("/etc/hosts"), Claim::part("cluster", "/etc/hosts"));
        assert_eq!((whole.as_str(), part.as_str()), ("path:/etc/hosts", "part:cluster@path:/etc/hosts"));
        assert_eq!((whole.whole(), part.whole()), (None, Some(whole.clone())));
        assert_eq!((whole.whole_path(), part.whole_path()), (Some(Path::new("/etc/hosts")), None));
        assert_eq!(part.any_path(), Some(Path::new("/etc/hosts")));
        assert_eq!(part.with_place(|_| "7:9/hosts".to_owned()).as_str(), "part:cluster@path:7:9/hosts");
        let user = Claim::thing("user", "etcd");
        assert_eq!((user.subject(), part.subject()), ("user:etcd".to_owned(), "/etc/hosts".to_owned()));
        let member = Claim::part_of("ann@corp", &Claim::thing("members-of", "web"));
        assert_eq!((member.as_str(), member.any_path()), ("part:ann%corp@members-of:web", None));
        assert_eq!(member.whole(), Some(Claim::thing("members-of", "web")));
        assert_eq!((user.any_path(), user.with_place(|_| "x".to_owned())), (None, user.clone()));
    }
}
