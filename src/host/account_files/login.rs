//! What decides whether a user can log in (`/etc/shadow`), and in a tree the removal of accounts and memberships as `userdel`,
//! `groupdel` and `gpasswd` do it.

use super::{Tables, failed};
use crate::error::Result;
use crate::host::account_table::{fields, members, number};

/// The fields of a line of `/etc/shadow`.
const SHADOW_FIELDS: usize = 9;

/// What decides whether a user can log in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// The hash of the password, with a `!` before it if it is locked.
    pub password: String,
    /// The first day, counted from 1970, on which nobody can log in as this user; `None` if there is none.
    pub expires: Option<u32>,
}

impl Login {
    /// The hash of the password, whether it is locked or not.
    pub fn hash(&self) -> &str {
        self.password.trim_start_matches('!')
    }
}

impl Tables {
    /// Whether a user is in `/etc/passwd`.
    pub fn has_local_user(&self, name: &str) -> bool {
        self.passwd.has(name)
    }

    /// Whether a group is in `/etc/group`.
    pub fn has_local_group(&self, name: &str) -> bool {
        self.group.has(name)
    }

    /// The login of a user of `/etc/shadow`.
    pub fn login(&self, name: &str) -> Option<Login> {
        let fields = self.shadow.find(name)?;
        let password = String::from_utf8_lossy(fields.get(1).copied().unwrap_or_default()).into_owned();
        Some(Login { password, expires: number(&fields, 7) })
    }

    /// Sets the login of a user of `/etc/shadow`.
    pub fn set_login(&mut self, name: &str, login: &Login) {
        let today = super::today();
        let is_new = self.login(name).is_none_or(|old| old.hash() != login.hash());
        let Some(mut line) =
            self.shadow.find(name).map(|line| line.into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>())
        else {
            return;
        };
        line.resize_with(line.len().max(SHADOW_FIELDS), Vec::new);
        line[1] = login.password.clone().into_bytes();
        if is_new {
            line[2] = today.into_bytes();
        }
        line[7] = login.expires.map(|day| day.to_string().into_bytes()).unwrap_or_default();
        let line: Vec<&[u8]> = line.iter().map(Vec::as_slice).collect();
        self.shadow.set(&line);
    }

    /// The groups of `/etc/group` whose lists have a user, by name.
    pub fn groups_of(&self, user: &str) -> Vec<String> {
        let has_it = |line: &&Vec<u8>| members(&fields(line)).contains(&user.as_bytes());
        let name = |line: &Vec<u8>| Some(std::str::from_utf8(fields(line).first()?).ok()?.to_owned());
        self.group.lines.iter().filter(has_it).filter_map(name).collect()
    }

    /// The members of a group; `None` if there is no such group.
    pub fn members_of(&self, group: &str) -> Option<Vec<String>> {
        let names = members(&self.group.find(group)?);
        Some(names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect())
    }

    /// Takes a user out of a group's list of members.
    pub fn remove_member(&mut self, user: &str, group: &str) {
        for table in [&mut self.group, &mut self.gshadow] {
            table.change_members(group, |members| members.retain(|member| member != user.as_bytes()));
        }
    }

    /// A user whose primary group this is.
    pub fn user_with_group(&self, group: &str) -> Option<String> {
        let gid = self.gid(group)?;
        let user = self.passwd.lines().find(|(line, _)| number(&fields(line), 3) == Some(gid))?.1;
        Some(String::from_utf8_lossy(user).into_owned())
    }

    /// Removes a user with its memberships, its subordinate numbers, and its own group if nobody else is in it.
    pub fn remove_user(&mut self, name: &str) {
        let own = self.gid(name).filter(|gid| self.passwd.find(name).and_then(|user| number(&user, 3)) == Some(*gid));
        for group in self.groups_of(name) {
            self.remove_member(name, &group);
        }
        for table in [&mut self.subuid, &mut self.subgid, &mut self.shadow, &mut self.passwd] {
            table.remove(name);
        }
        let is_empty = self.members_of(name).is_some_and(|members| members.is_empty());
        if own.is_some() && is_empty && self.user_with_group(name).is_none() {
            self.group.remove(name);
            self.gshadow.remove(name);
        }
    }

    /// Removes a group; an error if it is the primary group of a user.
    pub fn remove_group(&mut self, name: &str) -> Result<()> {
        if let Some(user) = self.user_with_group(name) {
            return Err(failed(format!("the group {name} can't be removed: it is the primary group of {user}"))
                .help(format!("set another `group` for {user}, or remove the user with `state = \"absent\"`")));
        }
        self.group.remove(name);
        self.gshadow.remove(name);
        Ok(())
    }
}
