//! The numbers of users and groups, from `/etc/passwd` and `/etc/group`, and on a live host also from NSS.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::Result;
pub use crate::host::account_table::{GROUP, PASSWD};
use crate::host::account_table::{Table, fields, number};
use crate::host::process::{Command, Ended, run_if_there};
use crate::host::root::Root;
use crate::host::watched::WatchedInput;

/// The files of users and groups.
const FILES: [&str; 4] = [PASSWD, GROUP, "/etc/shadow", "/etc/gshadow"];

/// What shows whether an account was touched.
pub fn watched() -> Vec<WatchedInput> {
    FILES.map(|path| WatchedInput::Path(path.into())).into()
}
/// Timeout of a directory service.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The exit code of `getent` for an unknown name or number.
const UNKNOWN: i32 = 2;

/// One of the databases of NSS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Database {
    /// Users.
    Passwd,
    /// Groups.
    Group,
}

/// The answers of NSS by query.
type Answers = HashMap<(Database, String), Option<Vec<u8>>>;

/// The users and groups of a host.
#[derive(Debug)]
pub struct Accounts {
    /// In the order of the files: of two with the same name or number, the first counts, as for every program.
    users: Vec<(Vec<u8>, Login)>,
    groups: Vec<(Vec<u8>, u32)>,
    /// `None` in a tree, which has no NSS.
    answers: Option<RefCell<Answers>>,
}

/// What is needed to run a program as a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Home directory.
    pub home: PathBuf,
}

impl Login {
    /// Parses a line of `/etc/passwd`.
    fn of(line: &[u8]) -> Option<Self> {
        let fields = fields(line);
        let home = OsString::from_vec(fields.get(5)?.to_vec()).into();
        Some(Self { uid: number(&fields, 2)?, gid: number(&fields, 3)?, home })
    }
}

impl Accounts {
    /// Reads both files; a missing file counts as empty. `root` always exists, as 0.
    pub fn read(root: &Root) -> Result<Self> {
        let (passwd, group) = (Table::read(root, PASSWD, 0)?, Table::read(root, GROUP, 0)?);
        let root_user = (b"root".to_vec(), Login { uid: 0, gid: 0, home: "/root".into() });
        let users = passwd.lines().filter_map(|(line, name)| Some((name.to_vec(), Login::of(line)?)));
        let groups = group.lines().filter_map(|(line, name)| Some((name.to_vec(), number(&fields(line), 2)?)));
        Ok(Self {
            users: std::iter::once(root_user).chain(users).collect(),
            groups: std::iter::once((b"root".to_vec(), 0)).chain(groups).collect(),
            answers: root.is_live().then(RefCell::default),
        })
    }

    /// A user of `/etc/passwd`; NSS is not queried.
    pub fn local(&self, name: &str) -> Option<&Login> {
        self.users.iter().find(|(known, _)| known == name.as_bytes()).map(|(_, login)| login)
    }

    /// A user: what a program that runs as it needs to know.
    pub fn login(&self, name: &str) -> Result<Option<Login>> {
        match self.local(name) {
            Some(login) => Ok(Some(login.clone())),
            None => Ok(self.ask(Database::Passwd, name)?.as_deref().and_then(Login::of)),
        }
    }

    /// A group's number.
    pub fn gid(&self, name: &str) -> Result<Option<u32>> {
        match self.groups.iter().find(|(known, _)| known == name.as_bytes()) {
            Some((_, gid)) => Ok(Some(*gid)),
            None => Ok(self.ask(Database::Group, name)?.as_deref().and_then(|line| number(&fields(line), 2))),
        }
    }

    /// The name for a number.
    pub fn name_of(&self, database: Database, number: u32) -> Result<Option<String>> {
        let text = |name: &[u8]| String::from_utf8(name.to_vec()).ok();
        let known = match database {
            Database::Passwd => {
                self.users.iter().filter(|(_, login)| login.uid == number).find_map(|(name, _)| text(name))
            }
            Database::Group => self.groups.iter().filter(|(_, gid)| *gid == number).find_map(|(name, _)| text(name)),
        };
        if known.is_some() {
            return Ok(known);
        }
        Ok(self.ask(database, &number.to_string())?.and_then(|line| text(fields(&line).first()?)))
    }

    /// The line that NSS has for a name or a number, queried once; none in a tree. A static program can't load NSS modules, so this
    /// runs `getent`.
    pub fn ask(&self, database: Database, key: &str) -> Result<Option<Vec<u8>>> {
        let Some(answers) = &self.answers else { return Ok(None) };
        let query = (database, key.to_owned());
        if let Some(known) = answers.borrow().get(&query) {
            return Ok(known.clone());
        }
        let answer = getent(database, key)?;
        answers.borrow_mut().insert(query, answer.clone());
        Ok(answer)
    }
}

fn getent(database: Database, key: &str) -> Result<Option<Vec<u8>>> {
    let name = match database {
        Database::Passwd => "passwd",
        Database::Group => "group",
    };
    // without the program, there are only the files
    let Some(output) = run_if_there(&Command::new(["getent", name, key], TIMEOUT))? else { return Ok(None) };
    match output.ended {
        Ended::Exited(status) if status.success() => {
            Ok(output.stdout.split(|byte| *byte == b'\n').next().map(<[u8]>::to_vec))
        }
        Ended::Exited(status) if status.code() == Some(UNKNOWN) => Ok(None),
        _ => Err(output
            .failure(format!("NSS can't be queried for the {name} entry of {key}"))
            .help(format!(
                "run `getent {name} {key}` to see the problem; its modules are in /etc/nsswitch.conf. The next run tries again"
            ))
            .passing()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::account_files::tests::tree;

    #[test]
    fn of_two_lines_with_one_name_the_first_counts() {
        let (_dir, root) =
            tree(&[("passwd", "etcd:x:520:5:::\netcd:x:500:6:::\n"), ("group", "kube:x:7:\nkube:x:8:\n")]);
        let accounts = Accounts::read(&root).unwrap();
        assert_eq!(accounts.login("etcd").unwrap().unwrap().uid, 520);
        assert_eq!(accounts.gid("kube").unwrap(), Some(7));
    }

    #[test]
    fn a_line_in_another_encoding_or_with_too_few_fields_is_no_obstacle_to_the_others() {
        let passwd = b"j:x:5:5:J\xfcrgen:/home/j\xfc:/bin/sh\nodd\n\nk:x:6:6\n\xff:x:7:7::/:\nann:x:8:8:::\n";
        let (_dir, root) =
            tree(&[("passwd", passwd.as_slice()), ("group", b"three:x:5\n\xff:x:6:\nno:x\nann:x:8:\xfc\n")]);
        let accounts = Accounts::read(&root).unwrap();
        assert_eq!(accounts.login("j").unwrap().unwrap().home.into_os_string().into_vec(), b"/home/j\xfc");
        assert_eq!(accounts.login("ann").unwrap().unwrap().uid, 8);
        assert_eq!(["three", "no", "ann"].map(|name| accounts.gid(name).unwrap()), [Some(5), None, Some(8)]);
        assert_eq!(accounts.name_of(Database::Passwd, 8).unwrap().as_deref(), Some("ann"));
        assert_eq!(accounts.name_of(Database::Group, 5).unwrap().as_deref(), Some("three"));
        assert_eq!(accounts.name_of(Database::Group, 6).unwrap(), None, "no role can write it");
    }

    #[test]
    fn the_name_that_a_role_can_write_for_a_number_is_the_first_one() {
        let (_dir, root) =
            tree(&[("passwd", "toor:x:0:0:::\nann:x:9:9:::\nold:x:9:9:::\n"), ("group", "wheel:x:10:\n")]);
        let accounts = Accounts::read(&root).unwrap();
        let name = |database, number| accounts.name_of(database, number).unwrap();
        assert_eq!(name(Database::Passwd, 0).as_deref(), Some("root"));
        assert_eq!(name(Database::Passwd, 9).as_deref(), Some("ann"));
        assert_eq!(name(Database::Group, 10).as_deref(), Some("wheel"));
        assert_eq!(name(Database::Group, 11), None);
    }

    #[test]
    fn a_live_host_asks_nss_and_a_tree_does_not() {
        // every module's answer is the same for the first line of the files
        let live = Accounts::read(&Root::open("/".as_ref()).unwrap()).unwrap();
        assert_eq!(live.ask(Database::Passwd, "root").unwrap().and_then(|line| Login::of(&line)).unwrap().uid, 0);
        assert_eq!(live.login("nobody-of-this-name").unwrap(), None);
        let (_dir, root) = tree::<&str>(&[]);
        assert_eq!(Accounts::read(&root).unwrap().ask(Database::Passwd, "root").unwrap(), None);
    }
}
