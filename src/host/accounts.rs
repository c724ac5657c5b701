//! Users and groups as `/etc/passwd`, `/etc/group`, `/etc/shadow` and `/etc/gshadow` have them: read, and edited as
//! systemd-sysusers edits them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::error::{Error, Result};
use crate::host::root::{Access, Root};

/// The files that have them.
pub const FILES: [&str; 4] = [PASSWD, GROUP, "/etc/shadow", "/etc/gshadow"];
/// The users.
pub const PASSWD: &str = "/etc/passwd";
/// The groups.
pub const GROUP: &str = "/etc/group";

/// The users and groups of a host.
#[derive(Debug, Default)]
pub struct Accounts {
    users: HashMap<String, Login>,
    groups: HashMap<String, u32>,
}

/// What a program that runs as a user needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Home directory.
    pub home: String,
}

impl Accounts {
    /// Reads both files; a missing file is an empty one. `root` is always there, as 0.
    pub fn read(root: &Root) -> Result<Self> {
        let Tables { passwd, group, .. } = &Tables::read_open(root)?;
        // of two lines with one name the first counts, as it does for every program
        let mut users = HashMap::new();
        for (name, login) in passwd.users() {
            users.entry(name.to_owned()).or_insert(login);
        }
        let mut groups = HashMap::new();
        for (name, gid) in group.numbers() {
            groups.entry(name.to_owned()).or_insert(gid);
        }
        users.insert("root".to_owned(), Login { uid: 0, gid: 0, home: "/root".to_owned() });
        groups.insert("root".to_owned(), 0);
        Ok(Self { users, groups })
    }

    /// The names of users and of groups by their numbers: of several with one number the first, as programs take it. 0 is `root`.
    pub fn names(root: &Root) -> Result<[BTreeMap<u32, String>; 2]> {
        let Tables { passwd, group, .. } = &Tables::read_open(root)?;
        let first = |numbers: &mut dyn Iterator<Item = (u32, &str)>| {
            let mut names = BTreeMap::from([(0, "root".to_owned())]);
            for (number, name) in numbers {
                names.entry(number).or_insert_with(|| name.to_owned());
            }
            names
        };
        let users = first(&mut passwd.users().map(|(name, login)| (login.uid, name)));
        let groups = first(&mut group.numbers().map(|(name, gid)| (gid, name)));
        Ok([users, groups])
    }

    /// A user's number.
    pub fn uid(&self, name: &str) -> Option<u32> {
        self.users.get(name).map(|login| login.uid)
    }

    /// A group's number.
    pub fn gid(&self, name: &str) -> Option<u32> {
        self.groups.get(name).copied()
    }

    /// What a program that runs as this user needs to know.
    pub fn login(&self, name: &str) -> Option<&Login> {
        self.users.get(name)
    }
}

/// One of the account files, as lines that stay byte for byte except for those that are changed.
#[derive(Debug)]
struct Table {
    path: &'static Path,
    lines: Vec<String>,
    access: Access,
    changed: bool,
}

impl Table {
    /// Reads a file; a missing one is empty and will be made with `mode`.
    fn read(root: &Root, path: &'static str, mode: u32) -> Result<Self> {
        let path = Path::new(path);
        let access = match root.meta(path)? {
            Some(meta) => Access { mode: meta.mode, uid: Some(meta.uid), gid: Some(meta.gid) },
            None => Access { mode, uid: None, gid: None },
        };
        let lines = root.text(path)?.lines().map(str::to_owned).collect();
        Ok(Self { path, lines, access, changed: false })
    }

    /// An empty one, for where only the others are looked at.
    fn unread(path: &'static str) -> Self {
        let access = Access { mode: 0, uid: None, gid: None };
        Self { path: Path::new(path), lines: Vec::new(), access, changed: false }
    }

    fn entries(&self) -> impl Iterator<Item = Vec<&str>> {
        self.lines.iter().map(|line| line.split(':').collect())
    }

    fn find(&self, name: &str) -> Option<Vec<&str>> {
        self.entries().find(|fields| fields[0] == name)
    }

    fn numbers(&self) -> impl Iterator<Item = (&str, u32)> {
        self.entries().filter_map(|fields| Some((fields[0], fields.get(2)?.parse().ok()?)))
    }

    fn users(&self) -> impl Iterator<Item = (&str, Login)> {
        self.entries().filter_map(|fields| {
            let number = |at: usize| fields.get(at)?.parse().ok();
            let home = (*fields.get(5)?).to_owned();
            Some((fields[0], Login { uid: number(2)?, gid: number(3)?, home }))
        })
    }

    /// Writes the line of `fields[0]`: in place of the one that it has, or as a new one.
    fn set(&mut self, fields: &[&str]) {
        let line = fields.join(":");
        match self.lines.iter().position(|old| old.split(':').next() == Some(fields[0])) {
            Some(at) if self.lines[at] == line => return,
            Some(at) => self.lines[at] = line,
            // what the lines with `+` and `-` of NIS say holds for all after them: they stay last
            None => {
                let at = self.lines.iter().position(|old| old.starts_with(['+', '-'])).unwrap_or(self.lines.len());
                self.lines.insert(at, line);
            }
        }
        self.changed = true;
    }

    /// Adds a member to the list in the last of a group's four fields.
    fn add_member(&mut self, group: &str, member: &str) {
        let Some(mut fields) = self.find(group).filter(|fields| fields.len() == 4) else { return };
        if fields[3].split(',').any(|known| known == member) {
            return;
        }
        let members = if fields[3].is_empty() { member.to_owned() } else { format!("{},{member}", fields[3]) };
        fields[3] = &members;
        let line: Vec<String> = fields.into_iter().map(str::to_owned).collect();
        self.set(&line.iter().map(String::as_str).collect::<Vec<_>>());
    }

    fn write(&self, root: &Root) -> Result<()> {
        if !self.changed {
            return Ok(());
        }
        let mut text = self.lines.join("\n");
        text.push('\n');
        root.write(self.path, text.as_bytes(), self.access)
    }
}

/// A group as a role wants it.
#[derive(Clone, Debug)]
pub struct WantedGroup<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its number; any free one when left out.
    pub gid: Option<u32>,
    /// Whether the number comes from those for the system.
    pub system: bool,
}

/// A user as a role wants it. What is left out is not looked at in a user that is there already.
#[derive(Clone, Debug)]
pub struct WantedUser<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its number; any free one when left out.
    pub uid: Option<u32>,
    /// Whether the number comes from those for the system.
    pub system: bool,
    /// The primary group, which must exist; one of its own name, made with it, when left out.
    pub group: Option<&'a str>,
    /// Further groups, which must exist.
    pub groups: Vec<&'a str>,
    /// The real name, or what it is for.
    pub comment: Option<&'a str>,
    /// Home directory.
    pub home: Option<&'a str>,
    /// Login shell.
    pub shell: Option<&'a str>,
}

/// All four account files, to be compared with what is wanted or to be changed.
#[derive(Debug)]
pub struct Tables {
    passwd: Table,
    group: Table,
    shadow: Table,
    gshadow: Table,
    limits: Limits,
}

impl Tables {
    /// Reads all four, and the ranges of numbers in `/etc/login.defs`.
    pub fn read(root: &Root) -> Result<Self> {
        Ok(Self {
            shadow: Table::read(root, "/etc/shadow", 0o600)?,
            gshadow: Table::read(root, "/etc/gshadow", 0o600)?,
            ..Self::read_open(root)?
        })
    }

    /// Reads the two that everybody may read.
    fn read_open(root: &Root) -> Result<Self> {
        Ok(Self {
            passwd: Table::read(root, "/etc/passwd", 0o644)?,
            group: Table::read(root, "/etc/group", 0o644)?,
            shadow: Table::unread("/etc/shadow"),
            gshadow: Table::unread("/etc/gshadow"),
            limits: Limits::read(root)?,
        })
    }

    /// Writes what was changed. `passwd` comes last: a user is there when everything that belongs to it is.
    pub fn write(&self, root: &Root) -> Result<()> {
        [&self.gshadow, &self.group, &self.shadow, &self.passwd].into_iter().try_for_each(|table| table.write(root))
    }

    /// How a group differs from what is wanted, in words.
    pub fn group_differences(&self, wanted: &WantedGroup<'_>) -> Result<Vec<String>> {
        match (self.gid(wanted.name), wanted.gid) {
            (Some(gid), Some(number)) if gid != number => Err(Error::new(format!(
                "the group {} has the number {gid}, and the role wants {number}",
                wanted.name
            ))
            .help(format!(
                "a number in use is never changed, since files belong to it: write gid = {gid}, or change it by \
                         hand with `groupmod -g {number} {}` and give its files away",
                wanted.name
            ))),
            (Some(_), _) => Ok(Vec::new()),
            (None, Some(number)) => {
                self.refuse_taken(self.group.numbers(), "group", wanted.name, number)?;
                Ok(vec![format!("create with number {number}")])
            }
            (None, None) => Ok(vec!["create".to_owned()]),
        }
    }

    /// Makes a group that is missing; the number that it has then.
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
        self.group.set(&[wanted.name, "x", &gid.to_string(), ""]);
        // a group without a password: nobody can join it with one
        self.gshadow.set(&[wanted.name, "!*", "", ""]);
        Ok(gid)
    }

    /// How a user differs from what is wanted, in words.
    pub fn user_differences(&self, wanted: &WantedUser<'_>) -> Result<Vec<String>> {
        let Some(fields) = self.user(wanted.name)? else {
            if let Some(number) = wanted.uid {
                self.refuse_taken(self.passwd.numbers(), "user", wanted.name, number)?;
                return Ok(vec![format!("create with number {number}")]);
            }
            return Ok(vec!["create".to_owned()]);
        };
        if let Some(number) = wanted.uid.filter(|number| number.to_string() != fields[2]) {
            let uid = fields[2];
            return Err(Error::new(format!(
                "the user {} has the number {uid}, and the role wants {number}",
                wanted.name
            ))
            .help(format!(
                "a number in use is never changed, since files belong to it: write uid = {uid}, or change it by \
                     hand with `usermod -u {number} {}`",
                wanted.name
            )));
        }
        let mut parts = Vec::new();
        for (what, at, value) in [("comment", 4, wanted.comment), ("home", 5, wanted.home), ("shell", 6, wanted.shell)]
        {
            if let Some(value) = value.filter(|value| *value != fields[at]) {
                parts.push(format!("{what} {} → {value}", if fields[at].is_empty() { "(none)" } else { fields[at] }));
            }
        }
        if let Some(group) = wanted.group
            && self.gid(group).is_none_or(|gid| gid.to_string() != fields[3])
        {
            parts.push(format!("primary group → {group}"));
        }
        for group in &wanted.groups {
            let members = self.group.find(group).and_then(|fields| fields.get(3).copied()).unwrap_or_default();
            if !members.split(',').any(|member| member == wanted.name) {
                parts.push(format!("add to the group {group}"));
            }
        }
        if fields[1] == "x" && self.shadow.find(wanted.name).is_none() {
            parts.push("add a locked password to /etc/shadow".to_owned());
        }
        Ok(parts)
    }

    /// Makes a user that is missing, or mends one that is there; the numbers of the user and its primary group.
    pub fn make_user(&mut self, wanted: &WantedUser<'_>) -> Result<(u32, u32)> {
        // refuses what can't be done before anything is changed
        self.user_differences(wanted)?;
        if let Some(missing) = wanted.group.iter().chain(&wanted.groups).find(|name| self.gid(name).is_none()) {
            return Err(Error::new(format!("{} can't be in the group {missing}: there is none", wanted.name))
                .help("add a [[group]] to the role, or the package that makes it"));
        }
        let existing = self.user(wanted.name)?.map(|fields| fields.into_iter().map(str::to_owned).collect());
        let is_new = existing.is_none();
        let mut fields: Vec<String> = match existing {
            Some(fields) => fields,
            None => {
                let (uid, gid) = self.new_numbers(wanted)?;
                let home = if wanted.system { "/nonexistent".to_owned() } else { format!("/home/{}", wanted.name) };
                let shell = if wanted.system { "/usr/sbin/nologin" } else { "/bin/bash" }.to_owned();
                vec![
                    wanted.name.to_owned(),
                    "x".to_owned(),
                    uid.to_string(),
                    gid.to_string(),
                    String::new(),
                    home,
                    shell,
                ]
            }
        };
        for (at, value) in [(4, wanted.comment), (5, wanted.home), (6, wanted.shell)] {
            if let Some(value) = value {
                value.clone_into(&mut fields[at]);
            }
        }
        if let Some(gid) = wanted.group.and_then(|group| self.gid(group)) {
            fields[3] = gid.to_string();
        }
        // a line that an earlier user of this name left behind could hold its password
        if is_new || (fields[1] == "x" && self.shadow.find(wanted.name).is_none()) {
            let today = jiff::Timestamp::now().as_second() / 86_400;
            self.shadow.set(&[wanted.name, "!*", &today.to_string(), "", "", "", "", "", ""]);
        }
        for group in &wanted.groups {
            self.group.add_member(group, wanted.name);
            self.gshadow.add_member(group, wanted.name);
        }
        self.passwd.set(&fields.iter().map(String::as_str).collect::<Vec<_>>());
        let number = |at: usize| {
            fields[at].parse().map_err(|_| Error::new(format!("the user {} has no number in /etc/passwd", wanted.name)))
        };
        Ok((number(2)?, number(3)?))
    }

    /// The numbers of a new user and its primary group, which is made when the role names none: the same one for both
    /// if it can be.
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

    fn gid(&self, name: &str) -> Option<u32> {
        self.group.numbers().find(|(known, _)| *known == name).map(|(_, gid)| gid)
    }

    /// The seven fields of a user's line.
    fn user(&self, name: &str) -> Result<Option<Vec<&str>>> {
        match self.passwd.find(name) {
            Some(fields) if fields.len() != 7 => {
                Err(Error::new(format!("the line of {name} in /etc/passwd has {} fields instead of 7", fields.len()))
                    .help("mend it with `vipw`; `pwck` finds more of the kind"))
            }
            found => Ok(found),
        }
    }

    fn refuse_taken<'a>(
        &self,
        mut numbers: impl Iterator<Item = (&'a str, u32)>,
        what: &str,
        name: &str,
        number: u32,
    ) -> Result<()> {
        match numbers.find(|(_, taken)| *taken == number) {
            Some((owner, _)) => {
                Err(Error::new(format!("the {what} {name} can't have the number {number}: {owner} has it"))
                    .help("choose another number, or leave it out to get a free one"))
            }
            None => Ok(()),
        }
    }
}

/// The ranges that new numbers come from.
#[derive(Debug)]
struct Limits {
    system: std::ops::RangeInclusive<u32>,
    ordinary: std::ops::RangeInclusive<u32>,
}

impl Limits {
    fn read(root: &Root) -> Result<Self> {
        let text = root.text(Path::new("/etc/login.defs"))?;
        let number = |name: &str, default: u32| {
            text.lines()
                .filter_map(|line| {
                    let mut words = line.split_whitespace();
                    (words.next() == Some(name)).then(|| words.next()?.parse().ok()).flatten()
                })
                .next_back()
                .unwrap_or(default)
        };
        Ok(Self {
            system: number("SYS_UID_MIN", 100)..=number("SYS_UID_MAX", 999),
            ordinary: number("UID_MIN", 1000)..=number("UID_MAX", 60_000),
        })
    }

    fn holds(&self, system: bool, number: u32) -> bool {
        if system { self.system.contains(&number) } else { self.ordinary.contains(&number) }
    }

    /// The first free number: the system's from above, others from below.
    fn free(&self, system: bool, is_free: impl Fn(u32) -> bool) -> Result<u32> {
        let range = if system { &self.system } else { &self.ordinary };
        let found = if system {
            range.clone().rev().find(|&number| is_free(number))
        } else {
            range.clone().find(|&number| is_free(number))
        };
        found.ok_or_else(|| {
            Error::new(format!("no number from {} to {} is free", range.start(), range.end()))
                .help("give one in the role, or widen the range in /etc/login.defs")
        })
    }
}

/// The lock that all programs take before they change accounts; given back when dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// How long the lock is waited for, as `lckpwdf` does.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Takes the lock of the account files, and waits up to `patience` for it.
pub fn lock(root: &Root, patience: Duration) -> Result<Lock> {
    let path = Path::new("/etc/.pwd.lock");
    let file = root.lock_file(path)?;
    // one of the open file: it holds against our own threads too, and against the locks that other programs take
    let wanted = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    let started = Instant::now();
    loop {
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&wanted)) {
            Ok(_) => return Ok(Lock { _file: file }),
            Err(Errno::EAGAIN | Errno::EACCES) if started.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(Errno::EAGAIN | Errno::EACCES) => {
                let mut holder = wanted;
                let known = fcntl(&file, FcntlArg::F_GETLK(&mut holder)).is_ok() && holder.l_pid > 0;
                let who = if known { format!("process {}", holder.l_pid) } else { "another program".to_owned() };
                return Err(Error::new(format!(
                    "can't change the accounts: {who} has held the lock {} for {} s",
                    path.display(),
                    patience.as_secs()
                ))
                .help("see who it is (`fuser -v /etc/.pwd.lock`), wait until it is done, and run again"));
            }
            Err(errno) => {
                return Err(Error::new(format!("can't lock {}", path.display())).because(errno.desc()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join("etc").join(name), text).unwrap();
        }
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    fn user(name: &str) -> WantedUser<'_> {
        WantedUser {
            name,
            uid: None,
            system: true,
            group: None,
            groups: Vec::new(),
            comment: None,
            home: None,
            shell: None,
        }
    }

    fn etc(dir: &tempfile::TempDir, name: &str) -> String {
        std::fs::read_to_string(dir.path().join("etc").join(name)).unwrap()
    }

    #[test]
    fn of_two_lines_with_one_name_the_first_counts() {
        let (_dir, root) =
            tree(&[("passwd", "etcd:x:520:5:::\netcd:x:500:6:::\n"), ("group", "kube:x:7:\nkube:x:8:\n")]);
        let accounts = Accounts::read(&root).unwrap();
        assert_eq!((accounts.uid("etcd"), accounts.gid("kube")), (Some(520), Some(7)));
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
        assert_eq!(error.to_string(), "the user etcd has the number 300, and the role wants 301");
        assert!(error.advice().unwrap().contains("write uid = 300"));
        let error = tables.make_group(&WantedGroup { name: "etcd", gid: Some(301), system: true }).unwrap_err();
        assert_eq!(error.to_string(), "the group etcd has the number 300, and the role wants 301");
    }

    #[test]
    fn a_number_that_somebody_else_has_is_refused() {
        let (_dir, root) = tree(&[("passwd", "a:x:300:300::/:/bin/sh\n")]);
        let mut tables = Tables::read(&root).unwrap();
        let error = tables.make_user(&WantedUser { uid: Some(300), ..user("etcd") }).unwrap_err();
        assert_eq!(error.to_string(), "the user etcd can't have the number 300: a has it");
    }

    #[test]
    fn what_differs_in_an_existing_user_is_mended_and_the_rest_stays() {
        let passwd = "odd line\netcd:x:300:300:old:/var/lib/etcd:/bin/sh\n+::::::\n";
        let (dir, root) = tree(&[
            ("passwd", passwd),
            ("group", "etcd:x:300:\nssl:x:5:a\n"),
            ("gshadow", "ssl:!::a\n"),
            ("shadow", "etcd:secret:1::::::\n"),
        ]);
        let mut tables = Tables::read(&root).unwrap();
        let wanted = WantedUser { shell: Some("/usr/sbin/nologin"), groups: vec!["ssl"], ..user("etcd") };
        assert_eq!(
            tables.user_differences(&wanted).unwrap(),
            ["shell /bin/sh → /usr/sbin/nologin", "add to the group ssl"]
        );
        tables.make_user(&wanted).unwrap();
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

    #[test]
    fn a_group_that_is_missing_is_told_before_anything_is_changed() {
        let (dir, root) = tree(&[]);
        let mut tables = Tables::read(&root).unwrap();
        let error = tables.make_user(&WantedUser { groups: vec!["docker"], ..user("a") }).unwrap_err();
        assert_eq!(error.to_string(), "a can't be in the group docker: there is none");
        tables.write(&root).unwrap();
        assert!(!dir.path().join("etc/passwd").exists());
    }

    #[test]
    fn the_lock_keeps_a_second_one_out_until_it_is_given_back() {
        let (_dir, root) = tree(&[]);
        let first = lock(&root, Duration::ZERO).unwrap();
        let error = lock(&root, Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("the lock /etc/.pwd.lock"), "{error}");
        drop(first);
        lock(&root, Duration::ZERO).unwrap();
    }
}
