//! Whether the services of a user run without a session.

use crate::host::useradd;
use crate::kind::prelude::*;

/// Where logind has a file for each user that lingers.
const DIRECTORY: &str = "/var/lib/systemd/linger";

/// Whether a user lingers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linger {
    pub(in crate::kind) user: String,
    pub(in crate::kind) on: bool,
}

/// Logind's file for a user.
pub(super) fn file(user: &str) -> PathBuf {
    // as logind escapes names
    Path::new(DIRECTORY).join(user.replace('\\', "\\x5c"))
}

impl Resource for Linger {
    fn about(&self) -> About {
        // a group that a package creates may delay the user
        let watched = Some(vec![WatchedInput::Path(file(&self.user))]);
        let after = vec![ResourceId::new("user", &self.user)];
        About { after, watched, ..About::new("linger", &*self.user, Phase::Members).recorded() }
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let is_on = work.host.root.meta(&file(&self.user))?.is_some();
        Ok((is_on != self.on).then(|| if self.on { Change::addition("enable") } else { Change::removal("disable") }))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let root = &work.host.root;
        match self.on {
            // a restored one may be of a user that no longer exists
            false if !work.host.is_live() || work.host.with_accounts(|all| all.login(&self.user))?.is_none() => {
                root.remove(&file(&self.user))
            }
            on if work.host.is_live() => useradd::set_linger(&self.user, on),
            _ => root.write(&file(&self.user), b"", Access::of_mode(0o644)),
        }
    }

    fn prior_state(&self, _: &Claim, work: &Work<'_>) -> Result<PriorState> {
        let on = work.host.root.meta(&file(&self.user))?.is_some();
        Ok(PriorState::Linger(Self { user: self.user.clone(), on }))
    }
}
