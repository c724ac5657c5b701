//! Users and groups as `/etc/passwd` and `/etc/group` have them.

use std::collections::HashMap;
use std::path::Path;

use crate::error::Result;
use crate::host::root::Root;

/// The users and groups of a host.
#[derive(Debug, Default)]
pub struct Accounts {
    users: HashMap<String, u32>,
    groups: HashMap<String, u32>,
}

impl Accounts {
    /// Reads both files; a missing file is an empty one. `root` is always there, as 0.
    pub fn read(root: &Root) -> Result<Self> {
        let numbers = |path: &str| -> Result<HashMap<String, u32>> {
            let text = root.text(Path::new(path))?;
            let mut numbers: HashMap<String, u32> = text
                .lines()
                .filter_map(|line| {
                    let mut fields = line.split(':');
                    let name = fields.next()?;
                    Some((name.to_owned(), fields.nth(1)?.parse().ok()?))
                })
                .collect();
            numbers.insert("root".to_owned(), 0);
            Ok(numbers)
        };
        Ok(Self { users: numbers("/etc/passwd")?, groups: numbers("/etc/group")? })
    }

    /// A user's number.
    pub fn uid(&self, name: &str) -> Option<u32> {
        self.users.get(name).copied()
    }

    /// A group's number.
    pub fn gid(&self, name: &str) -> Option<u32> {
        self.groups.get(name).copied()
    }
}
