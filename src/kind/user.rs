//! `[[user]]`: a user, with its groups, its home, its login, its SSH keys and its rules of sudo. Its number never changes once it is set.
//! Membership in groups is a separate resource, because it may have to wait for the package that creates a group; so are the others, since
//! each is undone by itself.

mod keys;
mod linger;
mod login;
pub(super) mod members;
mod removal;

pub use self::keys::{AuthorizedKeys, FormerKeys};
pub use self::linger::Linger;
pub use self::login::{Expiry, Login};
pub use self::members::Members;
use self::members::no_group;
pub use self::removal::{Locked, Removal};
use crate::host::account_files::{Tables, WantedUser};
use crate::host::accounts::{self, Database};
use crate::host::process::argv;
use crate::host::{home, useradd};
use crate::kind::prelude::*;
use crate::kind::validation::Validation;

/// What happens to a user when no role defines it any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum OnRemoval {
    /// It stays.
    #[default]
    Keep,
    /// It can't log in, and is in no further group.
    Lock,
    /// It is removed.
    Remove,
}

/// Fields of `[[user]]`. For an existing user, kpull does not change what is omitted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UserFields {
    /// Its name.
    name: AccountName,
    /// Its number. The number of an existing user is never changed. Default: any free one.
    uid: Option<u32>,
    /// Whether it is a system user: a free number from 999 downwards, no home, no login.
    #[serde(default)]
    system: bool,
    /// Its primary group, which must exist, or come with a package. Default: a group with its own name, created with it.
    group: Option<AccountName>,
    /// Further groups to add it to, after the packages. When no role lists a group any more, the user is removed from it.
    #[serde(default)]
    groups: Vec<AccountName>,
    /// Whether to remove it from every further group that `groups` does not list. Default: false.
    #[serde(default)]
    exclusive_groups: bool,
    /// Its real name or purpose.
    comment: Option<String>,
    /// Its home. Default: for a new user `/home/NAME`, or `/nonexistent` for a system user.
    home: Option<AbsolutePath>,
    /// Its login shell. Default: for a new user `/bin/bash`, or `/usr/sbin/nologin` for a system user.
    shell: Option<AbsolutePath>,
    /// Whether to create a missing home: owned by the user, with a copy of `/etc/skel`. Default: true, except for a system user or a user
    /// that is not in `/etc/passwd`.
    create_home: Option<bool>,
    /// Whether it exists: `present`, or `absent`, which removes it with its memberships, and ignores most other fields.
    #[serde(default)]
    state: Presence,
    /// The hash of its password, from a secret. If omitted, a new user has no password, and an existing user keeps the password.
    password_hash: Option<String>,
    /// Whether to refuse every login as this user, with a password, an SSH key or otherwise. Default: unchanged.
    locked: Option<bool>,
    /// The first day on which the user can't log in any more, or `never`. Default: unchanged.
    expires: Option<Expiry>,
    /// Whether its services run without a session (`loginctl enable-linger`). Default: unchanged.
    linger: Option<bool>,
    /// SSH public keys that can log in as this user: a block in `.ssh/authorized_keys` in its home. Default: unchanged.
    authorized_keys: Option<Vec<String>>,
    /// Whether to remove all other keys from `authorized_keys`. Default: false.
    #[serde(default)]
    exclusive_keys: bool,
    /// Sudo rules for the user, one per line, as in sudoers(5) but without its name: `ALL=(ALL) ALL`. Default: none.
    sudo: Option<String>,
    /// What happens to the user when no role defines it any more: `keep`, `lock` or `remove`. Default: `keep`.
    #[serde(default)]
    on_removal: OnRemoval,
    /// Whether to remove its home together with the user. Default: false.
    #[serde(default)]
    remove_home: bool,
    /// Whether to end its sessions and processes before it is removed. If false, kpull does not remove a user with processes.
    #[serde(default)]
    end_processes: bool,
}

impl Fields for UserFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let ends = [
            ("state", self.state == Presence::Absent),
            ("on_removal", self.on_removal != OnRemoval::Keep),
            ("locked", self.locked == Some(true)),
        ];
        for (field, is_end) in ends {
            build.refuse_if(is_end && &*self.name == "root", field, "root can't be removed or locked")?;
        }
        if self.state == Presence::Absent {
            return Ok(vec![Box::new(self.removal())]);
        }
        // a domain user may exist already
        if let Some(why) = self.name.why_not_new().filter(|_| !self.name.contains(['@', '\\'])) {
            return Err(build.invalid("name", &why));
        }
        self.check(build)?;
        build.set_apart("password_hash");
        let mut resources = self.parts(build)?;
        resources.insert(0, Box::new(self));
        Ok(resources)
    }
}

impl UserFields {
    fn check(&self, build: &dyn Build) -> Result<()> {
        let wanted = self.wanted();
        for (field, value) in [("comment", wanted.comment), ("home", wanted.home), ("shell", wanted.shell)] {
            let is_bad = value.is_some_and(|value| value.contains(|c: char| c == ':' || c.is_control()));
            let why = "it can't contain `:` or control characters, because /etc/passwd can't store them";
            build.refuse_if(is_bad, field, why)?;
        }
        let has_no_home = self.create_home == Some(true) && self.system && self.home.is_none();
        build.refuse_if(has_no_home, "create_home", "set `home` too")?;
        let has_no_home = self.authorized_keys.is_some() && self.system && self.home.is_none();
        build.refuse_if(has_no_home, "authorized_keys", "keys are stored in the user's home: set `home`")?;
        let is_bad = self.exclusive_keys && self.authorized_keys.is_none();
        let why = "list the keys in `authorized_keys`; an empty list removes all keys";
        build.refuse_if(is_bad, "exclusive_keys", why)?;
        let is_bad = self.locked == Some(true) && self.expires.is_some();
        build.refuse_if(is_bad, "expires", "a locked account is expired: remove `expires` or `locked`")?;
        let unused = [("remove_home", self.remove_home), ("end_processes", self.end_processes)];
        for (field, is_set) in unused {
            let why = "it is for `state = \"absent\"` or `on_removal = \"remove\"`";
            build.refuse_if(is_set && self.on_removal != OnRemoval::Remove, field, why)?;
        }
        let Some(hash) = &self.password_hash else { return Ok(()) };
        let why = "anyone who reads the site could attack this hash: store the hash with `kpull secret set NAME`, and write `{{ secret(\"NAME\") }}`";
        build.refuse_if(!build.is_secret(), "password_hash", why)?;
        let why = "this is not a password hash: `openssl passwd -6` prints one";
        build.refuse_if(!hash.starts_with("<secret ") && !login::is_hash(hash.trim_end()), "password_hash", why)
    }

    /// The parts that are separate resources.
    fn parts(&self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let (name, mut parts) = (self.name.to_string(), Vec::<Box<dyn Resource>>::new());
        if self.password_hash.is_some() || self.locked.is_some() || self.expires.is_some() {
            let hash = self.password_hash.as_ref().map(|hash| hash.trim_end().to_owned());
            let (locked, expires) = (self.locked, self.expires);
            parts.push(Box::new(Login { user: name.clone(), hash, locked, expires, is_restored: false }));
        }
        if !self.groups.is_empty() || self.exclusive_groups {
            let (groups, exclusive) = (self.groups.clone(), self.exclusive_groups);
            parts.push(Box::new(Members { user: name.clone(), groups, others: Vec::new(), exclusive }));
        }
        if let Some(on) = self.linger {
            parts.push(Box::new(Linger { user: name.clone(), on }));
        }
        if let Some(keys) = &self.authorized_keys {
            let text = keys::text(keys).map_err(|why| build.invalid("authorized_keys", &why))?;
            let new_home = if &*self.name == "root" { "/root".to_owned() } else { self.wanted().new_home() };
            let (user, home, exclusive) = (name.clone(), self.home.clone(), self.exclusive_keys);
            let sensitive = build.is_secret();
            parts.push(Box::new(AuthorizedKeys { user, home, new_home, text, exclusive, sensitive }));
        }
        if let Some(rules) = &self.sudo {
            parts.push(Box::new(self.sudoers(rules, build)?));
        }
        Ok(parts)
    }

    /// The file with its rules of sudo.
    fn sudoers(&self, rules: &str, build: &dyn Build) -> Result<File> {
        let rules: Vec<&str> = rules.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let is_bad =
            rules.is_empty() || rules.iter().any(|rule| rule.contains(char::is_control) || !rule.contains('='));
        let why = "write each rule as in sudoers(5), without the name of the user: `ALL=(ALL) ALL`";
        build.refuse_if(is_bad, "sudo", why)?;
        // sudo ignores files with a `.` in their names
        let file: String =
            self.name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' }).collect();
        let path =
            AbsolutePath::try_from(format!("/etc/sudoers.d/50-{file}")).map_err(|why| build.invalid("sudo", &why))?;
        let escape = |c: char| (!c.is_alphanumeric() && !"-_.".contains(c)).then_some('\\').into_iter().chain([c]);
        let name: String = self.name.chars().flat_map(escape).collect();
        let text: String = rules.iter().map(|rule| format!("{name} {rule}\n")).collect();
        let sensitive = build.is_secret();
        let validate = Validation::of(Some(argv(["visudo", "-cf", "%s"])), sensitive, build)?;
        let wanted = Ownership::new(0o440, None, None, None);
        Ok(File { wanted, validate, ..File::new(Self::NAME, path, text.into_bytes(), sensitive) })
    }

    fn removal(&self) -> Removal {
        let (remove_home, end_processes) = (self.remove_home, self.end_processes);
        Removal { user: self.name.to_string(), remove_home, end_processes, is_orphan: false }
    }

    /// What is recorded of the user: what happens to it when no role defines it any more.
    fn prior(&self, existed: bool) -> PriorState {
        let lock = match self.on_removal {
            OnRemoval::Keep => return PriorState::Same,
            OnRemoval::Lock => true,
            OnRemoval::Remove => false,
        };
        let Removal { user: name, remove_home, end_processes, .. } = self.removal();
        PriorState::User { name, existed, lock, remove_home, end_processes }
    }

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
            Some(why) => Err(error!(ACCOUNT, "there is no user {}, and none can be created: {why}", self.name).help(
                format!(
                    "set up the service that provides the user first (`getent passwd {}` must show it), or choose another name",
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
                Err(error!(ACCOUNT, "{home}, the home of {}, is not a directory", self.name)
                    .help("move it away, or set another `home` or `create_home = false`"))
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

impl Resource for UserFields {
    fn about(&self) -> About {
        // a package may create a group that no role has
        let makers = |group: &AccountName| ["group", "user"].map(|kind| ResourceId::new(kind, group)).to_vec();
        let phase_without = self.group.as_ref().map(|group| (makers(group), Phase::Members));
        About {
            after: vec![ResourceId::new("group", self.group.as_ref().unwrap_or(&self.name))],
            phase_without,
            ..About::new(UserFields::NAME, &*self.name, Phase::Accounts).recorded()
        }
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        let home = self.wanted_home(work, &self.tables(work)?)?.map(|home| WatchedInput::Place(home.into()));
        Ok(Some(accounts::watched().into_iter().chain(home).collect()))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let tables = self.tables(work)?;
        let mut parts = tables.user_differences(&self.wanted())?;
        parts.extend(self.missing_home(work, &tables)?.map(|home| format!("add the home {home}")));
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

    fn prior_state(&self, _: &Claim, work: &Work<'_>) -> Result<PriorState> {
        let existed = self.tables(work)?.has_local_user(&self.name);
        Ok(self.prior(existed))
    }

    fn refine(&self, prior: &mut PriorState, _: &Work<'_>) -> Result<bool> {
        let existed = match prior {
            PriorState::User { existed, .. } => *existed,
            PriorState::Same => true,
            _ => return Ok(false),
        };
        let new = self.prior(existed);
        Ok(std::mem::replace(prior, new.clone()) != new)
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
        assert_eq!(change.summary, "create, add the home /home/ann");
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
        assert_eq!(user.about().after, ["group:b"]);
        assert_eq!(members.about().after, ["group:c", "user:a"]);
        assert!(members.about().phase > Phase::Packages && members.about().phase < Phase::Directories);
        assert_eq!(user.about().turn(|id| *id == "group:b"), Phase::Accounts);
        assert_eq!(user.about().turn(|id| *id == "user:b"), Phase::Accounts, "with a group of its own name");
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
    fn account_files_in_any_encoding_keep_every_byte_outside_the_changed_lines() {
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
        assert_eq!(error.to_string(), "a can't be in the group docker: there is no such group");
        assert!(error.advice().unwrap().contains("the [[package]] that creates it"));
        let user = one("user", "name = 'a'\ngroup = 'docker'");
        let error = user.apply(&tree.work(), &Change::default()).unwrap_err();
        assert_eq!(error.to_string(), "a can't be in the group docker: there is no such group");
        assert!(!tree.path("/etc/passwd").exists());
    }

    #[test]
    fn a_name_that_no_useradd_takes_is_refused_unless_a_domain_may_have_it() {
        let why = refusal("user", "name = 'ann b'");
        assert!(why.starts_with("`name`: `ann b` can't be the name of a new account: "), "{why}");
        let tree = Tree::new();
        for name in ["ann@corp.example", "CORP\\ann"] {
            let error = one("user", &format!("name = '{name}'")).observe(&tree.work()).unwrap_err();
            assert!(error.to_string().starts_with(&format!("there is no user {name}, and none can be created: ")));
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
