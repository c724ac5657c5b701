//! What a resource owns on a host.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::document::ResourceId;

/// Something on a host that one resource owns; recorded as a text. Several resources can own different parts, but then none can own the
/// whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(from = "String", into = "String")]
pub enum Claim {
    /// A whole path: `path:/etc/hosts`.
    Path(PathBuf),
    /// A part of something: `part:NAME@path:/etc/hosts`.
    Part(String, Box<Self>),
    /// Something without a path: `user:etcd`.
    Thing(ResourceId),
}

impl Claim {
    /// A whole path.
    pub fn path(path: impl AsRef<Path>) -> Self {
        Self::Path(path.as_ref().to_owned())
    }

    /// A part of what is at a path.
    pub fn part(name: &str, path: impl AsRef<Path>) -> Self {
        Self::Part(name.to_owned(), Box::new(Self::path(path)))
    }

    /// A part of something without a path.
    pub fn part_of(name: &str, whole: &Self) -> Self {
        // in its text, the first `@` ends the name
        Self::Part(name.replace('@', "%"), Box::new(whole.clone()))
    }

    /// Something without a path.
    pub fn thing(kind: &str, key: impl fmt::Display) -> Self {
        Self::Thing(ResourceId::new(kind, key))
    }

    /// The claim on the whole that this is a part of.
    pub fn whole(&self) -> Option<&Self> {
        if let Self::Part(_, whole) = self { Some(whole) } else { None }
    }

    /// The path, if this claims a whole one.
    pub fn whole_path(&self) -> Option<&Path> {
        if let Self::Path(path) = self { Some(path) } else { None }
    }

    /// The path, whole or in part.
    pub fn any_path(&self) -> Option<&Path> {
        self.whole().unwrap_or(self).whole_path()
    }

    /// A name for people: the path, or the claim itself.
    pub fn subject(&self) -> String {
        self.any_path().map_or_else(|| self.to_string(), |path| path.display().to_string())
    }

    /// The claim with its path replaced by what `place` returns; unchanged without a path.
    pub fn with_place(&self, place: impl FnOnce(&Path) -> PathBuf) -> Self {
        match self {
            Self::Path(path) => Self::Path(place(path)),
            Self::Part(name, whole) => Self::Part(name.clone(), Box::new(whole.with_place(place))),
            Self::Thing(_) => self.clone(),
        }
    }

    /// Whether a change can cut the host off from its sources and operators.
    pub fn cuts_off(&self) -> bool {
        const PATHS: &str = "/etc/NetworkManager /etc/firewalld /etc/hosts /etc/kpull /etc/netplan /etc/network /etc/nftables \
            /etc/nsswitch.conf /etc/resolv.conf /etc/ssh /etc/sysconfig/network /etc/systemd/network /etc/systemd/resolved \
            /etc/wireguard /run/NetworkManager /run/systemd/network";
        const UNITS: &str = "NetworkManager firewalld networking nftables ssh sshd systemd-networkd systemd-resolved";
        match self.whole().unwrap_or(self) {
            Self::Path(path) => path.to_str().is_some_and(|path| PATHS.split(' ').any(|one| path.starts_with(one))),
            Self::Thing(id) if id.kind() == "unit" => {
                UNITS.split(' ').any(|unit| id.key().split('.').next() == Some(unit))
            }
            Self::Thing(id) => id.kind() == "sysctl" && id.key().starts_with("net."),
            Self::Part(..) => false,
        }
    }
}

impl From<String> for Claim {
    fn from(text: String) -> Self {
        match text.split_once(':').unwrap_or((&text, "")) {
            ("path", path) => Self::path(path),
            ("part", part) => match (part.split_once("@path:"), part.split_once('@')) {
                (Some((name, path)), _) => Self::part(name, path),
                (None, at) => at.map_or_else(
                    || Self::thing("part", part),
                    |(name, whole)| Self::part_of(name, &whole.to_owned().into()),
                ),
            },
            (kind, key) => Self::thing(kind, key),
        }
    }
}

impl From<Claim> for String {
    fn from(claim: Claim) -> Self {
        claim.to_string()
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "path:{}", path.display()),
            Self::Part(name, whole) => write!(f, "part:{name}@{whole}"),
            Self::Thing(id) => id.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_knows_its_path() {
        let (whole, part) = (Claim::path("/etc/hosts"), Claim::part("cluster", "/etc/hosts"));
        assert_eq!(
            (whole.to_string(), part.to_string()),
            ("path:/etc/hosts".to_owned(), "part:cluster@path:/etc/hosts".to_owned())
        );
        assert_eq!((whole.whole(), part.whole()), (None, Some(&whole)));
        assert_eq!((whole.whole_path(), part.whole_path()), (Some(Path::new("/etc/hosts")), None));
        assert_eq!(part.any_path(), Some(Path::new("/etc/hosts")));
        assert_eq!(part.with_place(|_| "7:9/hosts".into()).to_string(), "part:cluster@path:7:9/hosts");
        let user = Claim::thing("user", "etcd");
        assert_eq!((user.subject(), part.subject()), ("user:etcd".to_owned(), "/etc/hosts".to_owned()));
        let member = Claim::part_of("ann@corp", &Claim::thing("members-of", "web"));
        assert_eq!((&*member.to_string(), member.any_path()), ("part:ann%corp@members-of:web", None));
        assert_eq!(member.whole(), Some(&Claim::thing("members-of", "web")));
        for claim in [&whole, &part, &user, &member, &Claim::part("line:a@b", "/etc/hosts")] {
            assert_eq!(Claim::from(claim.to_string()), *claim);
        }
        assert_eq!((user.any_path(), user.with_place(|_| "x".into())), (None, user.clone()));
    }
}
