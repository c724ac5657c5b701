//! A user that must not exist, or that no role has any more.

use crate::host::accounts;
use crate::host::useradd;
use crate::kind::prelude::*;
use crate::kind::user::linger;
use crate::kind::user::login::Login;
use crate::kind::user::members::Members;

/// Directories with a file or directory for each user that receives mail.
const MAIL: &str = "/var/mail";

/// A user that must not exist.
#[derive(Debug)]
pub struct Removal {
    pub(in crate::kind) user: String,
    /// Whether its home and mail are removed too.
    pub(in crate::kind) remove_home: bool,
    /// Whether its processes are ended; a running one is an error otherwise.
    pub(in crate::kind) end_processes: bool,
    /// Whether no role has it any more.
    pub(in crate::kind) is_orphan: bool,
}

impl Removal {
    /// Its number and its home.
    fn known(&self, work: &Work<'_>) -> Result<Option<(u32, PathBuf)>> {
        work.host.with_accounts(|accounts| {
            let known = accounts.local(&self.user).map(|login| (login.uid, login.home.clone()));
            match known {
                Some((0, _)) => Err(error!(ACCOUNT, "the user {} can't be removed", self.user)
                    .because("its number is 0, the number of root")
                    .help("to remove it anyway, do so by hand")),
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
            false => Err(error!(ACCOUNT, "{}, the home of {}, is not removed", home.display(), self.user)
                .because("it belongs to another user, or is directly below `/`")
                .help("remove it by hand, or omit `remove_home`")),
        }
    }

    fn mail(&self) -> PathBuf {
        Path::new(MAIL).join(&self.user)
    }
}

impl Resource for Removal {
    fn about(&self) -> About {
        // after what it ran was stopped, and its files have another owner; orphans are restored in the reverse order
        let phase = if self.is_orphan { Phase::Accounts } else { Phase::Stops };
        About { watched: Some(accounts::watched()), ..About::new("user", &*self.user, phase).recorded() }
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
            // no one can log in meanwhile, even if processes keep the user for now
            Login::locked(&self.user).apply(work, &Change::default())?;
            match self.end_processes {
                true => useradd::end_processes(root, &self.user, uid)?,
                false => useradd::refuse_busy(root, &self.user, uid)?,
            }
        }
        // the account goes last, so that a run that is killed before is continued
        root.remove(&linger::file(&self.user))?;
        if let Some(home) = home {
            root.remove_all(&home)?;
            root.remove_all(&self.mail())?;
        }
        work.host.change_accounts(
            || useradd::remove_user(&self.user),
            |tables| {
                tables.remove_user(&self.user);
                Ok(())
            },
        )
    }

    /// What an earlier release says about the removal counts no more.
    fn prior_state(&self, _: &Claim, _: &Work<'_>) -> Result<PriorState> {
        Ok(PriorState::Same)
    }

    fn refine(&self, prior: &mut PriorState, _: &Work<'_>) -> Result<bool> {
        Ok(std::mem::replace(prior, PriorState::Same) != PriorState::Same)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::testing::{Tree, build, one, refusal};

    fn tree() -> Tree {
        let tree = Tree::new();
        tree.put(
            "/etc/passwd",
            "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nbob:x:1001:7::/srv:/bin/sh\n",
        );
        tree.put("/etc/group", "root:x:0:\nann:x:1000:\nweb:x:7:ann,bob\n");
        tree.put("/etc/gshadow", "ann:!::\nweb:!::ann,bob\n");
        tree.put("/etc/shadow", "ann:$6$x$y:1::::::\nbob:!:1::::::\n");
        tree.put("/etc/subuid", "ann:100000:65536\nbob:165536:65536\n");
        tree.put("/home/ann/x", "kept");
        tree.put("/var/lib/systemd/linger/ann", "");
        tree
    }

    #[test]
    fn a_user_is_removed_with_its_memberships_and_keeps_its_home() {
        let tree = tree();
        let ann = one("user", "name = 'ann'\nstate = 'absent'\nshell = '/bin/zsh'\ngroups = ['none']");
        assert_eq!(tree.converge(&*ann).summary, "remove");
        assert_eq!(tree.get("/etc/passwd"), "root:x:0:0::/root:/bin/sh\nbob:x:1001:7::/srv:/bin/sh\n");
        assert_eq!(
            (tree.get("/etc/group"), tree.get("/etc/gshadow")),
            ("root:x:0:\nweb:x:7:bob\n".into(), "web:!::bob\n".into())
        );
        assert_eq!(
            (tree.get("/etc/shadow"), tree.get("/etc/subuid")),
            ("bob:!:1::::::\n".into(), "bob:165536:65536\n".into())
        );
        assert_eq!(tree.get("/home/ann/x"), "kept");
        assert!(!tree.path("/var/lib/systemd/linger/ann").exists());
        assert!(ann.about().phase > Phase::Files, "its files can have another owner by then");
    }

    #[test]
    fn a_home_is_removed_only_if_the_role_says_so_and_it_is_one() {
        let tree = tree();
        tree.put("/var/mail/ann", "x");
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(tree.path("/home/ann"), Some(1000), Some(1000)).unwrap();
        }
        let ann = one("user", "name = 'ann'\nstate = 'absent'\nremove_home = true");
        assert_eq!(tree.converge(&*ann).summary, "remove, with its home /home/ann");
        assert!(!tree.path("/home/ann").exists() && !tree.path("/var/mail/ann").exists());
        tree.put("/srv/x", "");
        let bob = one("user", "name = 'bob'\nstate = 'absent'\nremove_home = true");
        let error = bob.observe(&tree.work()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/srv, the home of bob, is not removed: it belongs to another user, or is directly below `/`"
        );
    }

    #[test]
    fn root_is_never_removed_under_any_name() {
        let tree = Tree::new();
        tree.put("/etc/passwd", "toor:x:0:0::/root:/bin/sh\n");
        let error = one("user", "name = 'toor'\nstate = 'absent'").observe(&tree.work()).unwrap_err();
        assert_eq!(error.to_string(), "the user toor can't be removed: its number is 0, the number of root");
        assert!(refusal("user", "name = 'root'\nstate = 'absent'").starts_with("`state`: root can't be"));
        assert!(refusal("user", "name = 'root'\non_removal = 'lock'").starts_with("`on_removal`: root can't be"));
        assert!(refusal("group", "name = 'root'\nstate = 'absent'").starts_with("`state`: the group root"));
        assert!(refusal("user", "name = 'a'\nremove_home = true").starts_with("`remove_home`: it is for"));
    }

    #[test]
    fn a_group_is_removed_unless_it_is_the_primary_one_of_a_user() {
        let tree = tree();
        let web = one("group", "name = 'web'\nstate = 'absent'");
        let error = web.apply(&tree.work(), &Change::default()).unwrap_err();
        assert_eq!(error.to_string(), "the group web can't be removed: it is the primary group of bob");
        tree.converge(&*one("user", "name = 'bob'\nstate = 'absent'"));
        assert_eq!(tree.converge(&*web).summary, "remove");
        assert_eq!(tree.get("/etc/group"), "root:x:0:\nann:x:1000:\n");
        assert_eq!(tree.get("/etc/gshadow"), "ann:!::\n");
        assert!(web.about().phase > one("user", "name = 'bob'\nstate = 'absent'").about().phase);
    }

    #[test]
    fn a_locked_user_can_not_log_in_and_is_in_no_further_group() {
        let tree = tree();
        let locked = Locked::new("ann");
        assert_eq!(tree.converge(&locked).summary, "lock, remove from the group web");
        assert_eq!(tree.get("/etc/shadow").lines().next(), Some("ann:!$6$x$y:1:::::1:"));
        assert_eq!(tree.get("/etc/group"), "root:x:0:\nann:x:1000:\nweb:x:7:bob\n");
        assert_eq!(tree.summary(&Locked::new("nobody-here")), None);
    }

    #[test]
    fn exclusive_groups_and_exclusive_members_take_out_everybody_else() {
        let tree = tree();
        let ann = build("user", "name = 'ann'\ngroups = []\nexclusive_groups = true").unwrap().remove(1);
        assert_eq!(tree.converge(&*ann).summary, "remove from the group web");
        let web = build("group", "name = 'web'\nmembers = ['ann']").unwrap().remove(1);
        assert_eq!(tree.converge(&*web).summary, "add ann, remove bob");
        assert_eq!(tree.get("/etc/group"), "root:x:0:\nann:x:1000:\nweb:x:7:ann\n");
        assert_eq!(tree.get("/etc/gshadow"), "ann:!::\nweb:!::ann\n");
        let ghost = build("group", "name = 'web'\nmembers = ['ghost']").unwrap().remove(1);
        let error = ghost.observe(&tree.work()).unwrap_err();
        assert_eq!(error.to_string(), "ghost can't be in the group web: there is no such user");
    }

    #[test]
    fn lingering_is_a_file_of_logind() {
        let tree = tree();
        let linger = |on: bool| build("user", &format!("name = 'bob'\nlinger = {on}")).unwrap().remove(1);
        assert_eq!(tree.converge(&*linger(true)).summary, "enable");
        assert!(tree.path("/var/lib/systemd/linger/bob").exists());
        assert_eq!(tree.converge(&*linger(false)).summary, "disable");
        assert!(!tree.path("/var/lib/systemd/linger/bob").exists());
    }

    #[test]
    fn rules_of_sudo_are_a_file_with_the_name_of_the_user_before_each() {
        let tree = tree();
        let sudo = |fields: &str| build("user", fields).unwrap().remove(1);
        tree.converge(&*sudo("name = 'ann'\nsudo = '''\nALL=(ALL) NOPASSWD: /bin/a\nALL=(bob) /bin/b\n'''"));
        let text = "ann ALL=(ALL) NOPASSWD: /bin/a\nann ALL=(bob) /bin/b\n";
        assert_eq!(tree.get("/etc/sudoers.d/50-ann"), text);
        tree.converge(&*sudo("name = 'first.last@corp'\nsudo = 'ALL=(ALL) ALL'"));
        assert_eq!(tree.get("/etc/sudoers.d/50-first_last_corp"), "first.last\\@corp ALL=(ALL) ALL\n");
        for rules in ["", "\n", "everything"] {
            let why = refusal("user", &format!("name = 'ann'\nsudo = '''{rules}'''"));
            assert!(why.starts_with("`sudo`: write each rule"), "{why}");
        }
    }
}
