//! A user that must not exist, or that no role has any more.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result, code};
use crate::host::account_files::Tables;
use crate::host::accounts::FILES;
use crate::host::root::FileType;
use crate::host::useradd;
use crate::kind::user::linger;
use crate::kind::user::login::Login;
use crate::kind::user::members::Members;
use crate::kind::{About, Change, Phase, Resource, WatchedInput, Work};

/// Directories with a file or directory for each user that receives mail.
const MAIL: &str = "/var/mail";

/// A user that must not exist.
#[derive(Debug)]
pub struct Removal {
    pub(in crate::kind) user: String,
    /// Whether its home goes too, with its mail.
    pub(in crate::kind) remove_home: bool,
    /// Whether its processes are ended; a running one is an error otherwise.
    pub(in crate::kind) end_processes: bool,
}

impl Removal {
    /// Its number and its home.
    fn known(&self, work: &Work<'_>) -> Result<Option<(u32, PathBuf)>> {
        work.host.with_accounts(|accounts| {
            let known = accounts.local(&self.user).map(|login| (login.uid, login.home.clone()));
            match known {
                Some((0, _)) => Err(Error::new(code::ACCOUNT, format!("the user {} can't be removed", self.user))
                    .because("its number is 0, which is root's")
                    .help("remove it by hand, if that is what you want")),
                known => Ok(known),
            }
        })
    }

    /// Its home, if that can be removed with everything in it.
    fn home(&self, uid: u32, home: PathBuf, work: &Work<'_>) -> Result<Option<PathBuf>> {
        let found = work.host.root.meta(&home)?;
        let Some(meta) = found.filter(|meta| self.remove_home && meta.what == FileType::Directory) else {
            return Ok(None);
        };
        let is_deep = home.is_absolute() && home.components().count() > 2;
        // without root, the tree belongs to who runs kpull
        let is_own = meta.uid == uid || !nix::unistd::geteuid().is_root();
        match is_deep && is_own {
            true => Ok(Some(home)),
            false => {
                Err(Error::new(code::ACCOUNT, format!("{}, the home of {}, is not removed", home.display(), self.user))
                    .because("it belongs to another user, or is right below `/`")
                    .help("remove it by hand, or leave `remove_home` out"))
            }
        }
    }

    fn mail(&self) -> PathBuf {
        Path::new(MAIL).join(&self.user)
    }
}

impl Resource for Removal {
    fn about(&self) -> About {
        // after what it ran was stopped, and its files have another owner
        About::new("user", &*self.user, Phase::Stops)
    }

    fn watched_inputs(&self, _: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        Ok(Some(FILES.iter().map(|path| WatchedInput::Path(path.into())).collect()))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let Some((uid, home)) = self.known(work)? else { return Ok(None) };
        Ok(Some(Change::removal(match self.home(uid, home, work)? {
            Some(home) => format!("remove, with its home {}", home.display()),
            None => "remove".to_owned(),
        })))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let Some((uid, home)) = self.known(work)? else { return Ok(()) };
        let root = &work.host.root;
        let home = self.home(uid, home, work)?;
        if work.host.is_live() {
            match self.end_processes {
                true => {
                    // nobody logs in again meanwhile
                    Login::locked(&self.user).apply(work, &Change::default())?;
                    useradd::end_processes(root, &self.user, uid)?;
                }
                false => useradd::refuse_busy(root, &self.user, uid)?,
            }
        }
        // the account goes last, so that a run that is killed before is continued
        root.remove(&linger::file(&self.user))?;
        if let Some(home) = home {
            root.remove_all(&home)?;
            root.remove_all(&self.mail())?;
        }
        let removed = match work.host.is_live() {
            true => useradd::remove_user(&self.user),
            false => {
                let mut tables = Tables::read(root)?;
                tables.remove_user(&self.user);
                tables.write(root)
            }
        };
        work.host.forget_accounts();
        removed
    }
}

/// A user that can't log in any more, and is in no further group.
#[derive(Debug)]
pub struct Locked {
    login: Login,
    members: Members,
}

impl Locked {
    pub(in crate::kind) fn new(user: &str) -> Self {
        let members = Members { user: user.to_owned(), groups: Vec::new(), others: Vec::new(), exclusive: true };
        Self { login: Login::locked(user), members }
    }
}

impl Resource for Locked {
    fn about(&self) -> About {
        About::new("user", &*self.members.user, Phase::Accounts)
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let parts = [self.login.observe(work)?, self.members.observe(work)?];
        Ok(Change::of(parts.into_iter().flatten().map(|change| change.summary).collect()))
    }

    fn apply(&self, work: &Work<'_>, change: &Change) -> Result<()> {
        if self.login.observe(work)?.is_some() {
            self.login.apply(work, change)?;
        }
        self.members.apply(work, change)
    }
}
