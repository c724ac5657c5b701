//! Reads `/etc/passwd`, `/etc/group`, `/etc/shadow`, `/etc/gshadow`, `/etc/subuid` and `/etc/subgid`, compares them with what a role
//! wants, and in a tree edits them as `useradd` does.

mod limits;
mod login;

use std::collections::HashSet;

use self::limits::Limits;
pub use self::login::Login;
use crate::error::{Error, Result, code};
use crate::host::account_table::{GROUP, GSHADOW, PASSWD, Table, fields, members, number};
use crate::host::accounts::{Accounts, Database};
use crate::host::root::Root;

/// An error about accounts.
fn failed(what: String) -> Error {
    Error::new(code::ACCOUNT, what)
}

/// The current day, counted from 1970.
fn today() -> String {
    (jiff::Timestamp::now().as_second() / 86_400).to_string()
}

/// A group as a role wants it.
#[derive(Clone, Debug)]
pub struct WantedGroup<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its number. Default: any free one.
    pub gid: Option<u32>,
    /// Whether the number comes from those for the system.
    pub system: bool,
}

/// A user as a role wants it. Fields that are `None` are not compared for an existing user.
#[derive(Clone, Debug)]
pub struct WantedUser<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its number. Default: any free one.
    pub uid: Option<u32>,
    /// Whether the number comes from those for the system.
    pub system: bool,
    /// The primary group, which must exist. Default: a group with the same name, created with it.
    pub group: Option<&'a str>,
    /// The real name, or what it is for.
    pub comment: Option<&'a str>,
    /// Home directory.
    pub home: Option<&'a str>,
    /// Login shell.
    pub shell: Option<&'a str>,
}

impl WantedUser<'_> {
    /// The home of a new user.
    pub fn new_home(&self) -> String {
        match self.home {
            Some(home) => home.to_owned(),
            None if self.system => "/nonexistent".to_owned(),
            None => format!("/home/{}", self.name),
        }
    }

    /// The shell of a new user.
    pub fn new_shell(&self) -> &str {
        self.shell.unwrap_or(if self.system { "/usr/sbin/nologin" } else { "/bin/bash" })
    }
}

/// All account files, for comparison and, in a tree, for changes.
#[derive(Debug)]
pub struct Tables {
    passwd: Table,
    group: Table,
    shadow: Table,
    gshadow: Table,
    subuid: Table,
    subgid: Table,
    limits: Limits,
}

impl Tables {
    /// Reads all of them, and the ranges of numbers in `/etc/login.defs`.
    pub fn read(root: &Root) -> Result<Self> {
        Ok(Self {
            passwd: Table::read(root, PASSWD, 0o644)?,
            group: Table::read(root, GROUP, 0o644)?,
            shadow: Table::read(root, "/etc/shadow", 0o600)?,
            gshadow: Table::read(root, GSHADOW, 0o600)?,
            subuid: Table::read(root, "/etc/subuid", 0o644)?,
            subgid: Table::read(root, "/etc/subgid", 0o644)?,
            limits: Limits::read(root)?,
        })
    }

    /// Adds the entry that NSS has for a name that is in no file; if it has none, the one for the number that the name is to get.
    pub fn learn(&mut self, accounts: &Accounts, database: Database, name: &str, number: Option<u32>) -> Result<()> {
        let table = match database {
            Database::Passwd => &mut self.passwd,
            Database::Group => &mut self.group,
        };
        if table.has(name) {
            return Ok(());
        }
        let known = match (accounts.ask(database, name)?, number) {
            (None, Some(number)) => accounts.ask(database, &number.to_string())?,
            (known, _) => known,
        };
        table.others.extend(known);
        Ok(())
    }

    /// Writes the changed files. `passwd` comes last, so that a user exists only once everything that belongs to it does.
    pub fn write(&self, root: &Root) -> Result<()> {
        [&self.gshadow, &self.group, &self.subuid, &self.subgid, &self.shadow, &self.passwd]
            .into_iter()
            .try_for_each(|table| table.write(root))
    }

    /// The differences between a group and what is wanted, as text.
    pub fn group_differences(&self, wanted: &WantedGroup<'_>) -> Result<Vec<String>> {
        match (self.gid(wanted.name), wanted.gid) {
            (Some(gid), Some(number)) if gid != number => {
                let name = wanted.name;
                Err(failed(format!("the group {name} has the number {gid}, but the role sets {number}")).help(format!(
                    "kpull never changes a number in use, because files belong to it: write gid = {gid}, or change it by hand with \
                     `groupmod -g {number} {name}` and change the group of its files"
                )))
            }
            (Some(_), _) => Ok(Vec::new()),
            (None, Some(number)) => {
                refuse_used(self.group.numbers(), "group", wanted.name, number)?;
                Ok(vec![format!("create with number {number}")])
            }
            (None, None) => Ok(vec!["create".to_owned()]),
        }
    }

    /// Adds a missing group and returns its number.
    pub fn make_group(&mut self, wanted: &WantedGroup<'_>) -> Result<u32> {
        self.group_differences(wanted)?;
        if let Some(gid) = self.gid(wanted.name) {
            return Ok(gid);
        }
        let gid = match wanted.gid {
            Some(gid) => gid,
            None => {
                let taken: HashSet<u32> = self.group.numbers().map(|(_, gid)| gid).collect();
                self.limits.free(wanted.system, |number| !taken.contains(&number))?
            }
        };
        self.group.set(&[wanted.name.as_bytes(), b"x", gid.to_string().as_bytes(), b""]);
        // no password: nobody can join the group with one
        self.gshadow.set(&[wanted.name.as_bytes(), b"!*", b"", b""]);
        Ok(gid)
    }

    /// Whether a user exists, in the files or in NSS.
    pub fn has_user(&self, name: &str) -> bool {
        self.passwd.find(name).is_some()
    }

    /// Whether a user exists in NSS but not in `/etc/passwd`.
    pub fn is_foreign(&self, name: &str) -> bool {
        self.has_user(name) && !self.passwd.has(name)
    }

    /// Whether a user's password should be in `/etc/shadow`, and that has no line for it.
    pub fn has_no_shadow(&self, name: &str) -> bool {
        let is_there = |fields: Vec<&[u8]>| fields.get(1) == Some(&b"x".as_slice());
        self.passwd.has(name) && self.passwd.find(name).is_some_and(is_there) && !self.shadow.has(name)
    }

    /// The mode of a new home, as `useradd` would set it.
    pub fn home_mode(&self) -> u32 {
        self.limits.home_mode
    }

    /// The differences between a user and what is wanted, as text.
    pub fn user_differences(&self, wanted: &WantedUser<'_>) -> Result<Vec<String>> {
        let Some(fields) = self.user(wanted.name)? else {
            if let Some(uid) = wanted.uid {
                refuse_used(self.passwd.numbers(), "user", wanted.name, uid)?;
                return Ok(vec![format!("create with number {uid}")]);
            }
            return Ok(vec!["create".to_owned()]);
        };
        let is_foreign = self.is_foreign(wanted.name);
        if let Some(uid) = wanted.uid.filter(|uid| Some(*uid) != number(&fields, 2)) {
            let known = String::from_utf8_lossy(fields[2]);
            let by_hand = match is_foreign {
                true => "omit it: another service manages this user, which is not in /etc/passwd".to_owned(),
                false => format!("change it by hand with `usermod -u {uid} {}`", wanted.name),
            };
            return Err(failed(format!("the user {} has the number {known}, but the role sets {uid}", wanted.name))
                .help(format!(
                    "kpull never changes a number in use, because files belong to it: write uid = {known}, or {by_hand}"
                )));
        }
        let mut parts = Vec::new();
        for (what, at, value) in [("comment", 4, wanted.comment), ("home", 5, wanted.home), ("shell", 6, wanted.shell)]
        {
            if let Some(value) = value.filter(|value| value.as_bytes() != fields[at]) {
                let old = if fields[at].is_empty() { "(none)".into() } else { String::from_utf8_lossy(fields[at]) };
                parts.push(format!("{what} {old} → {value}"));
            }
        }
        if let Some(group) = wanted.group
            && self.gid(group).is_none_or(|gid| Some(gid) != number(&fields, 3))
        {
            parts.push(format!("primary group → {group}"));
        }
        if is_foreign && !parts.is_empty() {
            let name = wanted.name;
            return Err(failed(format!("the user {name} can't be changed here: {}", parts.join(", ")))
                .because("it is not in /etc/passwd: another service (LDAP, systemd-homed, …) manages it")
                .help(format!("change it there, or omit these fields; `getent passwd {name}` shows the user")));
        }
        parts.extend(self.has_no_shadow(wanted.name).then(|| "add a locked password to /etc/shadow".to_owned()));
        Ok(parts)
    }

    /// Adds or changes a user, and returns the numbers of the user and its primary group.
    pub fn make_user(&mut self, wanted: &WantedUser<'_>) -> Result<(u32, u32)> {
        // fails before anything is changed
        self.user_differences(wanted)?;
        let owned = |fields: Vec<&[u8]>| fields.into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>();
        let existing = self.user(wanted.name)?.map(owned);
        let is_new = existing.is_none();
        let name = wanted.name.as_bytes();
        let mut line = match existing {
            Some(line) => line,
            None => {
                let (uid, gid) = self.new_numbers(wanted)?;
                if !wanted.system && self.limits.ordinary.contains(&uid) {
                    self.limits.subuid.give(&mut self.subuid, name)?;
                    self.limits.subgid.give(&mut self.subgid, name)?;
                }
                let (uid, gid) = (uid.to_string(), gid.to_string());
                let (home, shell) = (wanted.new_home(), wanted.new_shell());
                owned(vec![name, b"x", uid.as_bytes(), gid.as_bytes(), b"", home.as_bytes(), shell.as_bytes()])
            }
        };
        for (at, value) in [(4, wanted.comment), (5, wanted.home), (6, wanted.shell)] {
            if let Some(value) = value {
                line[at] = value.into();
            }
        }
        if let Some(gid) = wanted.group.and_then(|group| self.gid(group)) {
            line[3] = gid.to_string().into();
        }
        // an earlier user of this name may have left a line with its password
        if is_new || self.has_no_shadow(wanted.name) {
            let today = today();
            self.shadow.set(&[name, b"!*", today.as_bytes(), b"", b"", b"", b"", b"", b""]);
        }
        let line: Vec<&[u8]> = line.iter().map(Vec::as_slice).collect();
        self.passwd.set(&line);
        let missing = || failed(format!("the user {} has no valid number in {PASSWD}", wanted.name));
        number(&line, 2).zip(number(&line, 3)).ok_or_else(missing)
    }

    /// Whether a user is in a group's list of members; `None` if there is no such group.
    pub fn is_member(&self, user: &str, group: &str) -> Option<bool> {
        let is_group = |(line, name): &(&[u8], &[u8])| *name == group.as_bytes() && number(&fields(line), 2).is_some();
        let fields = self.group.lines().find(is_group).map(|(line, _)| fields(line))?;
        Some(members(&fields).contains(&user.as_bytes()))
    }

    /// Adds a user to a group's list of members.
    pub fn add_member(&mut self, user: &str, group: &str) {
        let user = user.as_bytes().to_vec();
        for table in [&mut self.group, &mut self.gshadow] {
            table.change_members(group, |members| {
                if !members.contains(&user) {
                    members.push(user.clone());
                }
            });
        }
    }

    /// An error if a group is not in `/etc/group`, so that its members can't be changed on this host.
    pub fn refuse_foreign_group(&self, user: &str, group: &str) -> Result<()> {
        match self.group.has(group) {
            true => Ok(()),
            false => Err(failed(format!("{user} can't be added to the group {group} here"))
                .because(format!("it is not in {GROUP}: another service (LDAP, systemd-homed, …) manages it"))
                .help("add the user there, or remove the group from `groups`")),
        }
    }

    /// The numbers of a new user and its primary group, the same for both if possible. The group is added if the role names none.
    fn new_numbers(&mut self, wanted: &WantedUser<'_>) -> Result<(u32, u32)> {
        let users: HashSet<u32> = self.passwd.numbers().map(|(_, uid)| uid).collect();
        let groups: HashSet<u32> = self.group.numbers().map(|(_, gid)| gid).collect();
        let named = self.gid(wanted.group.unwrap_or(wanted.name));
        let own = named.filter(|_| wanted.group.is_none());
        let uid = match (wanted.uid, own) {
            (Some(uid), _) => uid,
            (None, Some(gid)) if !users.contains(&gid) && self.limits.holds(wanted.system, gid) => gid,
            (None, _) => self.limits.free(wanted.system, |number| {
                !users.contains(&number) && (named.is_some() || !groups.contains(&number))
            })?,
        };
        let gid = match named {
            Some(gid) => gid,
            None => {
                let gid = Some(uid).filter(|uid| !groups.contains(uid));
                self.make_group(&WantedGroup { name: wanted.name, gid, system: wanted.system })?
            }
        };
        Ok((uid, gid))
    }

    /// A group's number.
    pub fn gid(&self, name: &str) -> Option<u32> {
        self.group.numbers().find(|(known, _)| *known == name.as_bytes()).map(|(_, gid)| gid)
    }

    /// The seven fields of a user's line.
    pub fn user(&self, name: &str) -> Result<Option<Vec<&[u8]>>> {
        match self.passwd.find(name) {
            Some(fields) if fields.len() != 7 => {
                Err(failed(format!("the line of {name} in /etc/passwd has {} fields instead of 7", fields.len()))
                    .help("correct it with `vipw`; `pwck` finds similar problems"))
            }
            found => Ok(found),
        }
    }
}

fn refuse_used<'a>(mut numbers: impl Iterator<Item = (&'a [u8], u32)>, what: &str, name: &str, id: u32) -> Result<()> {
    match numbers.find(|(_, taken)| *taken == id) {
        Some((owner, _)) => {
            let owner = String::from_utf8_lossy(owner);
            Err(failed(format!("the {what} {name} can't have the number {id}: {owner} has it"))
                .help("choose another number, or omit it to use a free one"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn tree<T: AsRef<[u8]>>(files: &[(&str, T)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join("etc").join(name), text).unwrap();
        }
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    fn user(name: &str) -> WantedUser<'_> {
        WantedUser { name, uid: None, system: true, group: None, comment: None, home: None, shell: None }
    }

    fn etc(dir: &tempfile::TempDir, name: &str) -> String {
        std::fs::read_to_string(dir.path().join("etc").join(name)).unwrap()
    }

    #[test]
    fn a_system_user_gets_the_highest_free_number_for_itself_and_its_group() {
        let (dir, root) = tree(&[("passwd", "a:x:999:5::/:/bin/sh\n"), ("group", "b:x:998:\n")]);
        let mut tables = Tables::read(&root).unwrap();
        assert_eq!(tables.make_user(&user("etcd")).unwrap(), (997, 997));
        tables.write(&root).unwrap();
        assert_eq!(etc(&dir, "passwd"), "a:x:999:5::/:/bin/sh\netcd:x:997:997::/nonexistent:/usr/sbin/nologin\n");
        assert_eq!(etc(&dir, "group"), "b:x:998:\netcd:x:997:\n");
        assert_eq!(etc(&dir, "gshadow"), "etcd:!*::\n");
        assert!(etc(&dir, "shadow").starts_with("etcd:!*:"));
        assert!(Tables::read(&root).unwrap().user_differences(&user("etcd")).unwrap().is_empty());
    }

    #[test]
    fn the_range_of_system_numbers_is_the_one_in_login_defs() {
        let (_dir, root) = tree(&[("login.defs", "# SYS_UID_MAX 5\nSYS_UID_MIN\t201\nSYS_UID_MAX\t\t499\n")]);
        assert_eq!(Tables::read(&root).unwrap().make_user(&user("etcd")).unwrap(), (499, 499));
    }

    #[test]
    fn an_ordinary_user_gets_the_lowest_free_number_from_1000() {
        let (_dir, root) = tree(&[("passwd", "a:x:1000:1000::/:/bin/sh\n")]);
        let mut tables = Tables::read(&root).unwrap();
        assert_eq!(tables.make_user(&WantedUser { system: false, ..user("b") }).unwrap(), (1001, 1001));
    }

    #[test]
    fn a_user_takes_the_group_that_has_its_name_already() {
        let (_dir, root) = tree(&[("group", "etcd:x:300:\n")]);
        assert_eq!(Tables::read(&root).unwrap().make_user(&user("etcd")).unwrap(), (300, 300));
    }

    #[test]
    fn an_existing_number_is_never_changed() {
        let (_dir, root) = tree(&[("passwd", "etcd:x:300:300::/:/bin/sh\n"), ("group", "etcd:x:300:\n")]);
        let mut tables = Tables::read(&root).unwrap();
        let error = tables.make_user(&WantedUser { uid: Some(301), ..user("etcd") }).unwrap_err();
        assert_eq!(error.to_string(), "the user etcd has the number 300, but the role sets 301");
        assert!(error.advice().unwrap().contains("write uid = 300"));
        let error = tables.make_group(&WantedGroup { name: "etcd", gid: Some(301), system: true }).unwrap_err();
        assert_eq!(error.to_string(), "the group etcd has the number 300, but the role sets 301");
    }

    #[test]
    fn a_number_that_another_user_has_is_refused() {
        let (_dir, root) = tree(&[("passwd", "a:x:300:300::/:/bin/sh\n")]);
        let mut tables = Tables::read(&root).unwrap();
        let error = tables.make_user(&WantedUser { uid: Some(300), ..user("etcd") }).unwrap_err();
        assert_eq!(error.to_string(), "the user etcd can't have the number 300: a has it");
    }

    #[test]
    fn differences_of_an_existing_user_are_corrected_and_the_rest_stays() {
        let passwd = "odd line\netcd:x:300:300:old:/var/lib/etcd:/bin/sh\n+::::::\n";
        let (dir, root) = tree(&[
            ("passwd", passwd),
            ("group", "etcd:x:300:\nssl:x:5:a\n"),
            ("gshadow", "ssl:!::a\n"),
            ("shadow", "etcd:secret:1::::::\n"),
        ]);
        let mut tables = Tables::read(&root).unwrap();
        let wanted = WantedUser { shell: Some("/usr/sbin/nologin"), ..user("etcd") };
        assert_eq!(tables.user_differences(&wanted).unwrap(), ["shell /bin/sh → /usr/sbin/nologin"]);
        assert_eq!(tables.is_member("etcd", "ssl"), Some(false));
        tables.make_user(&wanted).unwrap();
        tables.add_member("etcd", "ssl");
        assert_eq!(tables.is_member("etcd", "ssl"), Some(true));
        tables.make_user(&user("new")).unwrap();
        tables.write(&root).unwrap();
        assert_eq!(
            etc(&dir, "passwd"),
            "odd line\netcd:x:300:300:old:/var/lib/etcd:/usr/sbin/nologin\n\
             new:x:999:999::/nonexistent:/usr/sbin/nologin\n+::::::\n"
        );
        assert!(etc(&dir, "group").starts_with("etcd:x:300:\nssl:x:5:a,etcd\n"));
        assert!(etc(&dir, "gshadow").starts_with("ssl:!::a,etcd\n"));
        assert!(etc(&dir, "shadow").starts_with("etcd:secret:1::::::\n"), "a password stays");
    }

    #[test]
    fn a_password_that_a_former_user_left_behind_is_not_inherited() {
        let (dir, root) = tree(&[("shadow", "etcd:$6$old:1::::::\n")]);
        let mut tables = Tables::read(&root).unwrap();
        tables.make_user(&user("etcd")).unwrap();
        tables.write(&root).unwrap();
        assert!(!etc(&dir, "shadow").contains("$6$old"));
    }

    /// With a user and a group that only NSS knows.
    fn learned() -> (tempfile::TempDir, Root, Tables) {
        let (dir, root) = tree(&[("passwd", "etcd:x:300:300::/:/bin/sh\n"), ("group", "etcd:x:300:\n")]);
        let mut tables = Tables::read(&root).unwrap();
        tables.passwd.others.push(b"ann:*:5000:5000:Ann:/home/ann:/bin/zsh".to_vec());
        tables.group.others.push(b"staff:*:5000:ann".to_vec());
        (dir, root, tables)
    }

    #[test]
    fn who_is_known_to_nss_only_is_there_and_never_changed() {
        let (dir, root, mut tables) = learned();
        assert!(tables.is_foreign("ann") && !tables.is_foreign("etcd") && !tables.is_foreign("nobody"));
        let wanted = WantedUser { uid: Some(5000), group: Some("staff"), home: Some("/home/ann"), ..user("ann") };
        assert_eq!(tables.user_differences(&wanted).unwrap(), [""; 0]);
        let other = WantedUser { shell: Some("/bin/sh"), comment: Some("Bea"), ..user("ann") };
        let error = tables.user_differences(&other).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the user ann can't be changed here: comment Ann → Bea, shell /bin/zsh → /bin/sh: it is not in /etc/passwd: another service (LDAP, systemd-homed, …) manages it"
        );
        let error = tables.user_differences(&WantedUser { uid: Some(7), ..user("ann") }).unwrap_err();
        assert!(error.advice().unwrap().contains("write uid = 5000, or omit it"));
        let error = tables.user_differences(&WantedUser { uid: Some(5000), ..user("new") }).unwrap_err();
        assert_eq!(error.to_string(), "the user new can't have the number 5000: ann has it");
        let staff = WantedGroup { name: "staff", gid: Some(5000), system: false };
        assert_eq!(tables.group_differences(&staff).unwrap(), [""; 0]);
        assert_eq!((tables.is_member("ann", "staff"), tables.is_member("etcd", "staff")), (Some(true), Some(false)));
        let error = tables.refuse_foreign_group("etcd", "staff").unwrap_err();
        assert!(error.to_string().starts_with("etcd can't be added to the group staff here: it is not in /etc/group"));
        tables.add_member("ann", "etcd");
        tables.write(&root).unwrap();
        assert_eq!(etc(&dir, "group"), "etcd:x:300:ann\n");
        assert_eq!(etc(&dir, "passwd"), "etcd:x:300:300::/:/bin/sh\n");
    }

    #[test]
    fn subordinate_numbers_come_from_the_first_hole_that_is_wide_enough() {
        let given = |subuid: &str| {
            let (dir, root) =
                tree(&[("subuid", subuid), ("login.defs", "SUB_UID_COUNT 10\nSUB_UID_MIN 100\nSUB_UID_MAX 139\n")]);
            let mut tables = Tables::read(&root).unwrap();
            tables.make_user(&WantedUser { system: false, ..user("a") })?;
            tables.write(&root)?;
            assert!(!dir.path().join("etc/subgid").exists());
            Ok::<_, Error>(etc(&dir, "subuid").lines().last().unwrap_or_default().to_owned())
        };
        assert_eq!(given("").unwrap(), "a:100:10");
        assert_eq!(given("odd\nx:120:5\ny:100:11\n").unwrap(), "a:125:10");
        assert_eq!(given("y:90:10\nx:110:30\n").unwrap(), "a:100:10");
        let error = given("x:105:30\n").unwrap_err();
        assert_eq!(error.to_string(), "/etc/subuid has no range of 10 free numbers for a");
    }
}
