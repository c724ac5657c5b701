//! What was before a `[[permissions]]`, and comes back when no role has it any more.

use super::{Differences, adjust, summary};
use crate::error::Context as _;
use crate::host::root::permissions::Permissions as State;
use crate::kind::file::mode_change;
use crate::kind::prelude::*;

/// Permissions by path.
pub(in crate::kind) type States = BTreeMap<String, State>;

/// Which permissions a role manages, and which come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Managed {
    /// The mode and the access lists.
    pub mode: bool,
    /// The user.
    pub owner: bool,
    /// The group.
    pub group: bool,
    /// The capabilities.
    pub capabilities: bool,
}

impl Managed {
    /// Those of either.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            mode: self.mode || other.mode,
            owner: self.owner || other.owner,
            group: self.group || other.group,
            capabilities: self.capabilities || other.capabilities,
        }
    }

    /// The permissions `now`, with those that are managed as they were.
    pub(super) fn restored(self, now: &State, former: &State) -> State {
        let mut state = now.clone();
        if self.mode {
            (state.mode, state.acl) = (former.mode, former.acl.clone());
            state.default_acl.clone_from(&former.default_acl);
        }
        if self.owner {
            state.uid = former.uid;
        }
        if self.group {
            state.gid = former.gid;
        }
        if self.capabilities {
            state.capabilities.clone_from(&former.capabilities);
        }
        state
    }
}

/// A record of permissions as the store has it.
pub(super) fn encode(states: &States) -> Result<Vec<u8>> {
    serde_json::to_vec(states).context(code::STORE, || "the permissions of a path can't be recorded")
}

/// Reads a record.
pub(super) fn decode(record: &[u8]) -> Result<States> {
    serde_json::from_slice(record).context(code::STORE, || "the recorded permissions can't be read")
}

/// Permissions that come back.
#[derive(Debug)]
pub(in crate::kind) struct Former {
    path: AbsolutePath,
    states: States,
    managed: Managed,
}

impl Former {
    /// From a record of the store.
    pub(in crate::kind) fn new(path: AbsolutePath, record: &[u8], managed: Managed) -> Result<Self> {
        Ok(Self { path, states: decode(record)?, managed })
    }

    /// Lists what differs, and changes it if `is_applied`.
    fn adjust(&self, work: &Work<'_>, is_applied: bool) -> Result<Differences> {
        let is_recursive = self.states.keys().any(|path| Path::new(path) != &*self.path);
        let wanted = |path: &Path, _: bool, now: &State| {
            let wanted = self.managed.restored(now, self.states.get(path.to_str()?)?);
            let words = mode_change(now.mode, wanted.mode).unwrap_or_else(|| "restore the permissions".to_owned());
            Some((wanted, vec![words]))
        };
        Ok(adjust(work, &self.path, is_recursive, is_applied, &wanted)?.1)
    }
}

impl Resource for Former {
    fn about(&self) -> About {
        About::new("permissions", self.path.to_string(), Phase::Permissions)
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        Ok(summary(&self.adjust(work, false)?, self.states.len() > 1))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        self.adjust(work, true).map(drop)
    }
}
