//! `[[user]]`: a user, with its groups and its home. Its number never changes once it is set. Membership in groups is a resource
//! of its own, since it may have to wait for the package that creates a group.

use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::fields::{AbsolutePath, AccountName};
use crate::error::{Error, Result, code};
use crate::host::account_files::{Tables, WantedUser};
use crate::host::accounts::{Database, FILES};
use crate::host::root::{Access, FileType};
use crate::host::{Missing, home, useradd};
use crate::kind::{About, Build, Change, Fields, Phase, Resource, WatchedInput, Work};

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
    /// Its primary group, which must exist, or come with a package; one of its own name, made with it, when left out.
    group: Option<AccountName>,
    /// Further groups that it is added to, after the packages. It is taken out of none.
    #[serde(default)]
    groups: Vec<AccountName>,
    /// Its real name, or what it is for.
    comment: Option<String>,
    /// Home; for a new user `/home/NAME`, or `/nonexistent` for one of the system's.
    home: Option<AbsolutePath>,
    /// Login shell; for a new user `/bin/bash`, or `/usr/sbin/nologin` for one of the system's.
    shell: Option<AbsolutePath>,
    /// Whether its home is made (its own, with what is in `/etc/skel`) when it is missing; it is unless the user is one of the system's,
    /// or one that is not in `/etc/passwd`.
    create_home: Option<bool>,
}

impl Fields for UserFields {
    const NAME: &'static str = "user";

    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        // a domain user may exist already
        if let Some(why) = self.name.why_not_new().filter(|_| !self.name.contains(['@', '\\'])) {
            return Err(build.invalid("name", &why));
        }
        let wanted = self.wanted();
        for (field, value) in [("comment", wanted.comment), ("home", wanted.home), ("shell", wanted.shell)] {
            let is_bad = value.is_some_and(|value| value.contains(|c: char| c == ':' || c.is_control()));
            let why = "it can't have `:` or control characters: /etc/passwd has no way to write them";
            build.refuse_if(is_bad, field, why)?;
        }
        let has_no_home = self.create_home == Some(true) && self.system && self.home.is_none();
        build.refuse_if(has_no_home, "create_home", "say where: set `home`")?;
        let members = Members { user: self.name.clone(), groups: self.groups.clone() };
        let mut resources: Vec<Box<dyn Resource>> = vec![Box::new(self)];
        if !members.groups.is_empty() {
            resources.push(Box::new(members));
        }
        Ok(resources)
    }
}

impl UserFields {
    fn wanted(&self) -> WantedUser<'_> {
        WantedUser {
            name: &self.name,
            uid: self.uid,
            system: self.system,
            group: self.group.as_deref(),
            comment: self.comment.as_deref(),
            home: self.home.as_deref().and_then(Path::to_str),
            shell: self.shell.as_deref().and_then(Path::to_str),
        }
    }

    /// The account files, and what directory services know about the user.
    fn tables(&self, work: &Work<'_>) -> Result<Tables> {
        let tables = work.host.tables(|tables, accounts| {
            tables.learn(accounts, Database::Passwd, &self.name, self.uid)?;
            let own = (!tables.has_user(&self.name)).then_some(&self.name);
            match self.group.as_ref().or(own) {
                Some(group) => tables.learn(accounts, Database::Group, group, None),
                None => Ok(()),
            }
        })?;
        match self.name.why_not_new().filter(|_| !tables.has_user(&self.name)) {
            Some(why) => Err(Error::new(code::ACCOUNT, format!("there is no user {}, and none can be made: {why}", self.name)).help(
                format!(
                    "`getent passwd {}` has to show it: set up the service that has it first, or give the user another name",
                    self.name
                ),
            )),
            None => Ok(tables),
        }
    }

    /// The home directory that must exist, if any.
    fn wanted_home(&self, work: &Work<'_>, tables: &Tables) -> Result<Option<String>> {
        if !self.create_home.unwrap_or(!self.system && !tables.is_foreign(&self.name)) {
            return Ok(None);
        }
        let known = work.host.with_accounts(|accounts| accounts.login(&self.name))?;
        let known = known.map(|login| login.home.to_string_lossy().into_owned());
        Ok(Some(self.home.as_ref().map(ToString::to_string).or(known).unwrap_or_else(|| self.wanted().new_home())))
    }

    /// The home directory to create, if any.
    fn missing_home(&self, work: &Work<'_>, tables: &Tables) -> Result<Option<String>> {
        let Some(home) = self.wanted_home(work, tables)? else { return Ok(None) };
        match work.host.root.meta(Path::new(&home))?.map(|meta| meta.what) {
            None => Ok(Some(home)),
            // on some hosts, /home or a home in it is a link
            Some(FileType::Directory | FileType::Link) => Ok(None),
            Some(FileType::File | FileType::Special) => {
                Err(Error::new(code::ACCOUNT, format!("{home}, the home of {}, is no directory", self.name))
                    .help("move it away, or set another `home`, or `create_home = false`"))
            }
        }
    }

    /// Creates or updates the user, without the home in a tree or of an existing user.
    fn change(&self, work: &Work<'_>) -> Result<()> {
        let (wanted, root) = (self.wanted(), &work.host.root);
        let mut tables = self.tables(work)?;
        // refuses what can't be done before any change
        let differences = tables.user_differences(&wanted)?;
        if let Some(group) = wanted.group.filter(|group| tables.gid(group).is_none()) {
            return Err(no_group(&self.name, group));
        }
        if !work.host.is_live() {
            tables.make_user(&wanted)?;
            return tables.write(root);
        }
        match tables.has_user(&self.name) {
            false => {
                let with_home = self.missing_home(work, &tables)?.is_some();
                useradd::add_user(&wanted, tables.gid(&self.name).is_some(), with_home)
            }
            true if !differences.is_empty() => useradd::change_user(&wanted, tables.has_no_shadow(&self.name)),
            true => Ok(()),
        }
    }
}

fn no_group(user: &str, group: &str) -> Error {
    Error::new(code::ACCOUNT, format!("{user} can't be in the group {group}: there is none")).help(format!(
        "`getent group {group}` has to show it: add a [[group]] to the role, or the [[package]] that makes it"
    ))
}

impl Resource for UserFields {
    fn about(&self) -> About {
        // a package may create a group that no role has
        let makers = |group: &AccountName| vec![format!("group:{group}"), format!("user:{group}")];
        let unless_made = self.group.as_ref().map(|group| (makers(group), Phase::Members));
        About {
            after: vec![format!("group:{}", self.group.as_ref().unwrap_or(&self.name))],
            unless_made,
            ..About::new(UserFields::NAME, &*self.name, Phase::Accounts)
        }
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        let accounts = FILES.iter().map(|path| WatchedInput::Path(path.into()));
        let home = self.wanted_home(work, &self.tables(work)?)?.map(|home| WatchedInput::Place(home.into()));
        Ok(Some(accounts.chain(home).collect()))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let tables = self.tables(work)?;
        let mut parts = tables.user_differences(&self.wanted())?;
        if let Some(home) = self.missing_home(work, &tables)? {
            parts.push(format!("make its home {home}"));
        }
        let is_new = tables.user(&self.name)?.is_none();
        Ok(Change::of(parts).map(|change| change.added_if(is_new)))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let changed = self.change(work);
        work.host.forget_accounts();
        changed?;
        let tables = self.tables(work)?;
        if let Some(home) = self.missing_home(work, &tables)? {
            let login = work.host.with_accounts(|accounts| accounts.login(&self.name))?;
            let ours = login.filter(|_| nix::unistd::geteuid().is_root());
            let (uid, gid) = (ours.as_ref().map(|login| login.uid), ours.as_ref().map(|login| login.gid));
            home::make(&work.host.root, Path::new(&home), Access { mode: tables.home_mode(), uid, gid })?;
        }
        Ok(())
    }
}

/// The supplementary groups of a user.
#[derive(Debug)]
pub struct Members {
    user: AccountName,
    groups: Vec<AccountName>,
}

impl Members {
    fn tables(&self, work: &Work<'_>) -> Result<Tables> {
        work.host.tables(|tables, accounts| {
            self.groups.iter().try_for_each(|group| tables.learn(accounts, Database::Group, group, None))
        })
    }
}

impl Resource for Members {
    fn about(&self) -> About {
        let groups = self.groups.iter().map(|group| format!("group:{group}"));
        let after = groups.chain([format!("user:{}", self.user)]).collect();
        About { after, ..About::new("members", &*self.user, Phase::Members) }
    }

    fn watched_inputs(&self, _: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        Ok(Some(FILES.iter().map(|path| WatchedInput::Path(path.into())).collect()))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let tables = self.tables(work)?;
        let mut parts = Vec::new();
        for group in &self.groups {
            match tables.is_member(&self.user, group) {
                Some(true) => continue,
                Some(false) => tables.refuse_foreign_group(&self.user, group)?,
                None if work.may_make(&Missing::Group(group.to_string())) => {}
                None => return Err(no_group(&self.user, group)),
            }
            parts.push(format!("add to the group {group}"));
        }
        Ok(Change::of(parts))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let root = &work.host.root;
        let mut tables = self.tables(work)?;
        let missing: Vec<&AccountName> =
            self.groups.iter().filter(|group| tables.is_member(&self.user, group) != Some(true)).collect();
        for group in &missing {
            if tables.gid(group).is_none() {
                return Err(no_group(&self.user, group)
                    .help(format!("no package of this host has made it; `getent group {group}` has to show it")));
            }
        }
        for group in missing {
            match work.host.is_live() {
                true => useradd::add_member(&self.user, group)?,
                false => tables.add_member(&self.user, group),
            }
        }
        work.host.forget_accounts();
        tables.write(root)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::kind::testing::{Tree, build, one, refusal};

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
        for resource in build("user", "name = 'etcd'\nsystem = true\ngroups = ['ssl']").unwrap() {
            tree.converge(&*resource);
        }
        assert_eq!(tree.get("/etc/passwd"), "etcd:x:998:998::/nonexistent:/usr/sbin/nologin\n");
        assert_eq!(tree.get("/etc/group"), "ssl:x:999:etcd\netcd:x:998:\n");
        assert!(!tree.path("/nonexistent").exists());
    }

    #[test]
    fn a_changed_shell_is_corrected() {
        let tree = Tree::new();
        tree.put("/etc/passwd", "a:x:5:5::/:/bin/sh\n");
        tree.put("/etc/shadow", "a:!:::::::\n");
        let change = tree.converge(&*one("user", "name = 'a'\nshell = '/bin/zsh'\ncreate_home = false"));
        assert_eq!(change.summary, "shell /bin/sh → /bin/zsh");
    }

    #[test]
    fn it_comes_after_its_primary_group_and_is_added_to_others_after_the_packages() {
        let [user, members] = build("user", "name = 'a'\ngroup = 'b'\ngroups = ['c']").unwrap().try_into().unwrap();
        assert_eq!(
            (user.about().after, members.about().after),
            (vec!["group:b".into()], vec!["group:c".into(), "user:a".into()])
        );
        assert!(members.about().phase > Phase::Packages && members.about().phase < Phase::Directories);
        assert_eq!(user.about().turn(|id| id == "group:b"), Phase::Accounts);
        assert_eq!(user.about().turn(|id| id == "user:b"), Phase::Accounts, "with a group of its own name");
        assert_eq!(user.about().turn(|_| false), Phase::Members, "a package may make the group");
        assert_eq!(one("user", "name = 'a'").about().turn(|_| false), Phase::Accounts);
    }

    #[test]
    fn a_home_has_what_is_in_skel_and_a_new_user_its_subordinate_numbers() {
        let tree = Tree::new();
        tree.put("/etc/skel/.profile", "umask 027\n");
        tree.put("/etc/skel/.config/app/a.conf", "a\n");
        std::os::unix::fs::symlink(".profile", tree.path("/etc/skel/.bashrc")).unwrap();
        std::fs::set_permissions(tree.path("/etc/skel/.config"), PermissionsExt::from_mode(0o750)).unwrap();
        tree.put("/etc/subuid", "old:100000:65536\nfar:300000:65536\n");
        tree.put("/etc/subgid", "");
        tree.put("/etc/login.defs", "HOME_MODE\t0750\nSUB_GID_MIN 200000\n");
        tree.converge(&*one("user", "name = 'ann'"));
        let mode = |path: &str| tree.path(path).metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(["/home/ann", "/home/ann/.config"].map(mode), [0o750; 2]);
        assert_eq!(tree.get("/home/ann/.config/app/a.conf"), "a\n");
        assert_eq!(std::fs::read_link(tree.path("/home/ann/.bashrc")).unwrap(), Path::new(".profile"));
        assert_eq!(tree.get("/etc/subuid"), "old:100000:65536\nfar:300000:65536\nann:165536:65536\n");
        assert_eq!(tree.get("/etc/subgid"), "ann:200000:65536\n");
        tree.converge(&*one("user", "name = 'sys'\nsystem = true"));
        assert!(!tree.get("/etc/subuid").contains("sys"));
    }

    #[test]
    fn files_of_accounts_in_any_encoding_stay_byte_for_byte_but_for_the_lines_that_change() {
        let tree = Tree::new();
        tree.put("/etc/group", "");
        std::fs::write(tree.path("/etc/passwd"), b"j:x:5:5:J\xfcrgen,\r:/:/bin/sh\nb\xfc:x:6:6::/:\n\n+::::::\n")
            .unwrap();
        std::fs::write(tree.path("/etc/group"), b"g:x:7:b\xfc\nthree:x:8\n").unwrap();
        std::fs::write(tree.path("/etc/shadow"), b"j:!\xfc:1::::::").unwrap();
        let [user, members] = build("user", "name = 'ann'\ngroups = ['g', 'three']").unwrap().try_into().unwrap();
        tree.converge(&*user);
        assert_eq!(tree.converge(&*members).summary, "add to the group g, add to the group three");
        let bytes = |path: &str| std::fs::read(tree.path(path)).unwrap();
        let passwd =
            b"j:x:5:5:J\xfcrgen,\r:/:/bin/sh\nb\xfc:x:6:6::/:\n\nann:x:1000:1000::/home/ann:/bin/bash\n+::::::\n";
        assert_eq!(bytes("/etc/passwd"), passwd);
        assert_eq!(bytes("/etc/group"), b"g:x:7:b\xfc,ann\nthree:x:8:ann\nann:x:1000:\n");
        assert!(bytes("/etc/shadow").starts_with(b"j:!\xfc:1::::::\nann:!*:"));
        let change = tree.converge(&*one("user", "name = 'j'\ncomment = 'Jürgen'\ncreate_home = false"));
        assert_eq!(change.summary, "comment J\u{fffd}rgen,\\r → Jürgen");
    }

    #[test]
    fn a_group_that_nothing_can_create_is_reported_before_any_change() {
        let tree = Tree::new();
        let members = build("user", "name = 'a'\ngroups = ['docker']").unwrap().remove(1);
        let error = members.observe(&tree.work()).unwrap_err();
        assert_eq!(error.to_string(), "a can't be in the group docker: there is none");
        assert!(error.advice().unwrap().contains("the [[package]] that makes it"));
        let user = one("user", "name = 'a'\ngroup = 'docker'");
        let error = user.apply(&tree.work(), &Change::default()).unwrap_err();
        assert_eq!(error.to_string(), "a can't be in the group docker: there is none");
        assert!(!tree.path("/etc/passwd").exists());
    }

    #[test]
    fn a_name_that_no_useradd_takes_is_refused_unless_a_domain_may_have_it() {
        let why = refusal("user", "name = 'ann b'");
        assert!(why.starts_with("`name`: `ann b` can't be the name of a new account: "), "{why}");
        let tree = Tree::new();
        for name in ["ann@corp.example", "CORP\\ann"] {
            let error = one("user", &format!("name = '{name}'")).observe(&tree.work()).unwrap_err();
            assert!(error.to_string().starts_with(&format!("there is no user {name}, and none can be made: ")));
            assert!(error.advice().unwrap().contains("getent passwd"));
        }
        for name in ["Debian-exim", "first.last", "HOST$"] {
            assert_eq!(tree.summary(&*one("user", &format!("name = '{name}'\nsystem = true"))).unwrap(), "create");
        }
    }

    #[test]
    fn what_passwd_can_not_represent_is_refused() {
        assert!(refusal("user", "name = 'a'\ncomment = 'x:0:0'").starts_with("`comment`: "));
        assert!(refusal("user", "name = 'a'\nsystem = true\ncreate_home = true").starts_with("`create_home`: "));
    }
}
