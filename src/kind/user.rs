//! `[[user]]`: a user, with its groups and its home. Its number is given once and never changed.

use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::host::accounts::{PATIENCE, Tables, WantedUser, lock};
use crate::host::root::{Access, What};
use crate::kind::fields::{AbsolutePath, AccountName};
use crate::kind::{Build, Change, Fields, Phase, Resource, Trace, Work};

/// Fields of `[[user]]`. What is left out stays as it is in a user that is there already.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UserFields {
    /// Its name.
    name: AccountName,
    /// Its number; any free one when left out. The number of a user that is there is never changed.
    uid: Option<u32>,
    /// Whether it is one of the system's: a free number from 999 downwards, no home, no login.
    #[serde(default)]
    system: bool,
    /// Its primary group, which must exist; one of its own name, made with it, when left out.
    group: Option<AccountName>,
    /// Further groups that it is added to. It is taken out of none.
    #[serde(default)]
    groups: Vec<AccountName>,
    /// Its real name, or what it is for.
    comment: Option<String>,
    /// Home; for a new user `/home/NAME`, or `/nonexistent` for one of the system's.
    home: Option<AbsolutePath>,
    /// Login shell; for a new user `/bin/bash`, or `/usr/sbin/nologin` for one of the system's.
    shell: Option<AbsolutePath>,
    /// Whether its home is made (0700, its own) when it is missing; it is unless the user is one of the system's.
    create_home: Option<bool>,
}

impl Fields for UserFields {
    const NAME: &'static str = "user";

    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let text = |path: &Option<AbsolutePath>| path.as_ref().map(ToString::to_string);
        let (home, shell) = (text(&self.home), text(&self.shell));
        for (field, value) in [("comment", &self.comment), ("home", &home), ("shell", &shell)] {
            if value.as_ref().is_some_and(|value| value.contains(|c: char| c == ':' || c.is_control())) {
                return Err(build
                    .invalid(field, "it can't have `:` or control characters: /etc/passwd has no way to write them"));
            }
        }
        let create_home = self.create_home.unwrap_or(!self.system);
        if create_home && self.system && self.home.is_none() {
            return Err(build.invalid("create_home", "say where: set `home`"));
        }
        Ok(vec![Box::new(User {
            name: self.name,
            uid: self.uid,
            system: self.system,
            group: self.group,
            groups: self.groups,
            comment: self.comment,
            home,
            shell,
            create_home,
        })])
    }
}

/// A user.
#[derive(Debug)]
pub struct User {
    name: AccountName,
    uid: Option<u32>,
    system: bool,
    group: Option<AccountName>,
    groups: Vec<AccountName>,
    comment: Option<String>,
    home: Option<String>,
    shell: Option<String>,
    create_home: bool,
}

impl User {
    fn wanted(&self) -> WantedUser<'_> {
        WantedUser {
            name: &self.name,
            uid: self.uid,
            system: self.system,
            group: self.group.as_deref(),
            groups: self.groups.iter().map(|group| &**group).collect(),
            comment: self.comment.as_deref(),
            home: self.home.as_deref(),
            shell: self.shell.as_deref(),
        }
    }

    /// The home that has to be there, if one has to.
    fn wanted_home(&self, work: &Work<'_>) -> Result<Option<String>> {
        if !self.create_home {
            return Ok(None);
        }
        let known = work.host.with_accounts(|accounts| accounts.login(&self.name).map(|login| login.home.clone()))?;
        Ok(Some(self.home.clone().or(known).unwrap_or_else(|| format!("/home/{}", self.name))))
    }

    /// Its home, when that has to be made.
    fn missing_home(&self, work: &Work<'_>) -> Result<Option<String>> {
        let Some(home) = self.wanted_home(work)? else { return Ok(None) };
        match work.host.root.meta(Path::new(&home))?.map(|meta| meta.what) {
            None => Ok(Some(home)),
            // /home is a link on some hosts, and so may be a home in it
            Some(What::Directory | What::Link) => Ok(None),
            Some(What::File | What::Special) => {
                Err(Error::new(format!("{home}, the home of {}, is no directory", self.name))
                    .help("move it away, or set another `home`, or `create_home = false`"))
            }
        }
    }
}

impl Resource for User {
    fn traces(&self, work: &Work<'_>) -> Result<Option<Vec<Trace>>> {
        let accounts = crate::host::accounts::FILES.iter().map(|path| Trace::Path(path.into()));
        Ok(Some(accounts.chain(self.wanted_home(work)?.map(|home| Trace::Place(home.into()))).collect()))
    }

    fn kind(&self) -> &'static str {
        UserFields::NAME
    }

    fn key(&self) -> String {
        self.name.to_string()
    }

    fn phase(&self) -> Phase {
        Phase::Accounts
    }

    fn after(&self) -> Vec<String> {
        let groups = self.groups.iter().chain(&self.group).chain([&self.name]);
        groups.map(|group| format!("group:{group}")).collect()
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let mut parts = Tables::read(&work.host.root)?.user_differences(&self.wanted())?;
        if let Some(home) = self.missing_home(work)? {
            parts.push(format!("make its home {home}"));
        }
        Ok(Change::of(parts))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let root = &work.host.root;
        let (uid, gid) = {
            let _lock = lock(root, PATIENCE)?;
            let mut tables = Tables::read(root)?;
            let numbers = tables.make_user(&self.wanted())?;
            tables.write(root)?;
            numbers
        };
        work.host.forget_accounts();
        if let Some(home) = self.missing_home(work)? {
            let ours = nix::unistd::geteuid().is_root();
            let access = Access { mode: 0o700, uid: ours.then_some(uid), gid: ours.then_some(gid) };
            root.make_directory(Path::new(&home), access)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::kind::testing::{Tree, one, refusal};

    #[test]
    fn a_user_is_made_with_its_group_and_home() {
        let tree = Tree::new();
        let change = tree.converge(&*one("user", "name = 'ann'\ncomment = 'Ann Ä'"));
        assert_eq!(change.summary, "create, make its home /home/ann");
        assert_eq!(tree.get("/etc/passwd"), "ann:x:1000:1000:Ann Ä:/home/ann:/bin/bash\n");
        assert_eq!(tree.get("/etc/group"), "ann:x:1000:\n");
        assert!(tree.get("/etc/shadow").starts_with("ann:!*:"));
        assert!(tree.path("/home/ann").is_dir());
    }

    #[test]
    fn a_system_user_has_no_home_and_no_login() {
        let tree = Tree::new();
        tree.converge(&*one("group", "name = 'ssl'\nsystem = true"));
        tree.converge(&*one("user", "name = 'etcd'\nsystem = true\ngroups = ['ssl']"));
        assert_eq!(tree.get("/etc/passwd"), "etcd:x:998:998::/nonexistent:/usr/sbin/nologin\n");
        assert_eq!(tree.get("/etc/group"), "ssl:x:999:etcd\netcd:x:998:\n");
        assert!(!tree.path("/nonexistent").exists());
    }

    #[test]
    fn a_shell_is_mended() {
        let tree = Tree::new();
        tree.put("/etc/passwd", "a:x:5:5::/:/bin/sh\n");
        tree.put("/etc/shadow", "a:!:::::::\n");
        let change = tree.converge(&*one("user", "name = 'a'\nshell = '/bin/zsh'\ncreate_home = false"));
        assert_eq!(change.summary, "shell /bin/sh → /bin/zsh");
    }

    #[test]
    fn it_comes_after_its_groups() {
        let user = one("user", "name = 'a'\ngroup = 'b'\ngroups = ['c']");
        assert_eq!(user.after(), ["group:c", "group:b", "group:a"]);
    }

    #[test]
    fn what_passwd_has_no_way_to_write_is_refused() {
        assert!(refusal("user", "name = 'a'\ncomment = 'x:0:0'").starts_with("`comment`: "));
        assert!(refusal("user", "name = 'a'\nsystem = true\ncreate_home = true").starts_with("`create_home`: "));
    }
}
