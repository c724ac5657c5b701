//! What a host must remember: the trust from its enrolment, the newest key set, the newest release seen.
//!
//! It is stored twice: in the state directory, and as `/etc/kpull/trust.toml` in the host's root. This detects a deleted state
//! directory, which would otherwise let an old release pass.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Result, code, error, refused};
use crate::host::root::{Access, Root};
use crate::store::ENROLL;
use crate::trust::VerifiedManifest;

const PRIVATE: Access = Access::of_mode(0o600);
/// Its path in the host's root.
pub const TRUST_FILE: &str = "/etc/kpull/trust.toml";
/// Its path in the state directory.
pub const KEPT: &str = "/trust.toml";

/// The newest release seen.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct LastSeen {
    /// Its serial: releases below it are refused.
    pub serial: u64,
    /// When it was signed: the clock must not be behind this time.
    pub created: Timestamp,
    /// SHA-256 of its `release.toml`, in hex; empty if no release with this serial counts.
    pub digest: String,
    /// The number of the key set that signed it.
    pub keys: u64,
}

impl LastSeen {
    /// What to remember of a release.
    pub fn of(release: &VerifiedManifest) -> Self {
        let manifest = release.manifest();
        Self { serial: manifest.serial, created: manifest.created, digest: release.digest(), keys: release.keys }
    }
}

/// What a host remembers.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TrustState {
    /// The site to which it belongs.
    pub site: String,
    /// Its name in the site.
    pub host: String,
    /// SHA-256 of the key set with which it was enrolled, in hex.
    pub start: String,
    /// The number of the current key set.
    pub keys: u64,
    /// The newest release seen; none before the first.
    pub release: Option<LastSeen>,
}

impl TrustState {
    /// Reads one of the two files; `None` if it is missing. An unreadable file is an error and not a fresh start, which would let
    /// an old release pass.
    fn read(root: &Root, path: &str) -> Result<Option<Self>> {
        let Some((_, bytes)) = root.read(Path::new(path))? else { return Ok(None) };
        let damaged = |why: String| {
            error!(TRUST_STATE, "{} is damaged", root.outside(Path::new(path)).display())
                .because(why)
                .help(format!("it says which releases are too old; {ENROLL}"))
        };
        let text = std::str::from_utf8(&bytes).map_err(|error| damaged(error.to_string()))?;
        toml::from_str(text).map(Some).map_err(|error| damaged(error.message().to_owned()))
    }

    /// The newer of the two files, since a crash can happen between their writes; and whether both agree. `None` on a host that was
    /// never enrolled. Refused if only the state directory lacks its file.
    pub fn load(state: &Root, host: &Root) -> Result<Option<(Self, bool)>> {
        Ok(match (Self::read(state, KEPT)?, Self::in_root(host)?) {
            (None, None) => None,
            (None, Some(in_root)) => {
                let last =
                    in_root.release.map_or_else(String::new, |seen| format!(", last at release {}", seen.serial));
                return Err(refused!(TRUST_STATE, "the state directory lacks what {TRUST_FILE} has")
                    .because(format!("this host is `{}` of the site `{}`{last}", in_root.host, in_root.site))
                    .help(format!(
                        "check whether it was deleted, or `state` in kpull.toml names another directory; {ENROLL}"
                    )));
            }
            (Some(kept), None) => Some((kept, false)),
            (Some(kept), Some(in_root)) => {
                let agree = kept == in_root;
                Some((if in_root.age() > kept.age() { in_root } else { kept }, agree))
            }
        })
    }

    /// The file in the host's root, whatever the state directory has.
    pub fn in_root(host: &Root) -> Result<Option<Self>> {
        Self::read(host, TRUST_FILE)
    }

    /// Writes both files.
    pub fn save(&self, state: &Root, host: &Root) -> Result<()> {
        let text = toml::to_string(self).context(code::TRUST_STATE, || format!("can't write {TRUST_FILE}"))?;
        for (root, path) in [(state, KEPT), (host, TRUST_FILE)] {
            let path = Path::new(path);
            if root.read(path)?.is_none_or(|(_, bytes)| bytes != text.as_bytes()) {
                root.write(path, text.as_bytes(), PRIVATE)?;
            }
        }
        Ok(())
    }

    fn age(&self) -> (u64, u64) {
        (self.keys, self.release.as_ref().map_or(0, |seen| seen.serial))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_at(keys: u64, serial: Option<u64>) -> TrustState {
        let seen = |serial| LastSeen { serial, created: Timestamp::UNIX_EPOCH, digest: "d".to_owned(), keys };
        let [site, host, start] = ["lab", "a", "s"].map(str::to_owned);
        TrustState { site, host, start, keys, release: serial.map(seen) }
    }

    /// What is remembered where the state directory has one memory and the host's root another.
    fn load(kept: Option<&TrustState>, in_root: Option<&TrustState>) -> Result<Option<(TrustState, bool)>> {
        let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let [state, host, elsewhere] = [0, 1, 2].map(|at: usize| Root::open(dirs[at].path()).unwrap());
        if let Some(kept) = kept {
            kept.save(&state, &elsewhere)?;
        }
        if let Some(in_root) = in_root {
            in_root.save(&elsewhere, &host)?;
        }
        assert_eq!(TrustState::in_root(&host)?.as_ref(), in_root);
        TrustState::load(&state, &host)
    }

    #[test]
    fn the_newer_trust_state_counts_after_a_crash_between_the_two_writes() {
        for (older, newer) in [
            (state_at(0, None), state_at(0, Some(1))),
            (state_at(0, Some(7)), state_at(0, Some(8))),
            // keys come first: their change may set a serial back
            (state_at(0, Some(9)), state_at(1, Some(3))),
        ] {
            assert_eq!(load(Some(&older), Some(&newer)).unwrap(), Some((newer.clone(), false)));
            assert_eq!(load(Some(&newer), Some(&older)).unwrap(), Some((newer, false)));
        }
    }

    #[test]
    fn a_trust_state_is_whole_if_both_places_have_it() {
        let known = state_at(1, Some(7));
        assert_eq!(load(Some(&known), Some(&known)).unwrap(), Some((known.clone(), true)));
        assert_eq!(load(Some(&known), None).unwrap(), Some((known, false)));
        assert_eq!(load(None, None).unwrap(), None);
    }

    #[test]
    fn the_state_directory_decides_between_two_memories_of_one_age() {
        let (kept, in_root) = (state_at(1, Some(7)), TrustState { host: "b".to_owned(), ..state_at(1, Some(7)) });
        assert_eq!(load(Some(&kept), Some(&in_root)).unwrap(), Some((kept, false)));
    }

    #[test]
    fn a_state_directory_that_has_forgotten_is_no_fresh_start() {
        let error = load(None, Some(&state_at(1, Some(7)))).unwrap_err();
        assert_eq!(error.exit_code(), crate::Exit::Refused);
        assert!(error.to_string().ends_with("this host is `a` of the site `lab`, last at release 7"), "{error}");
    }

    #[test]
    fn an_unchanged_trust_state_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let inode = || std::os::unix::fs::MetadataExt::ino(&dir.path().join("trust.toml").metadata().unwrap());
        state_at(0, Some(7)).save(&root, &root).unwrap();
        let first = inode();
        state_at(0, Some(7)).save(&root, &root).unwrap();
        assert_eq!(inode(), first);
        state_at(0, Some(8)).save(&root, &root).unwrap();
        assert_ne!(inode(), first);
    }
}
