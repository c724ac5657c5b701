//! Who is in which group: the further groups of a user.

use crate::host::account_files::Tables;
use crate::host::accounts::{self, Database};
use crate::host::{Missing, useradd};
use crate::kind::prelude::*;

/// The supplementary groups of a user.
#[derive(Debug)]
pub struct Members {
    /// The user.
    pub(in crate::kind) user: String,
    /// Groups that it is in.
    pub(in crate::kind) groups: Vec<AccountName>,
    /// Groups that it is not in.
    pub(in crate::kind) others: Vec<String>,
    /// Whether it is in no further group.
    pub(in crate::kind) exclusive: bool,
}

/// Who is in a group, as a whole.
pub(in crate::kind) fn members_of(group: &str) -> Claim {
    Claim::thing("members-of", group)
}

/// The groups that a user is in, as a whole.
pub(in crate::kind) fn groups_of(user: &str) -> Claim {
    Claim::thing("groups-of", user)
}

/// The state of a membership before it is changed.
pub(in crate::kind) fn prior_member(user: &str, group: &str, work: &Work<'_>) -> Result<PriorState> {
    let tables = Tables::read(&work.host.root)?;
    Ok(match tables.is_member(user, group) {
        Some(true) => PriorState::Same,
        Some(false) | None => PriorState::NotMember { user: user.to_owned(), group: group.to_owned() },
    })
}

/// Changes memberships: a user, a group, and whether the user is in it.
pub(in crate::kind) fn change<'a>(
    changes: impl Iterator<Item = (&'a str, &'a str, bool)>,
    mut tables: Tables,
    work: &Work<'_>,
) -> Result<()> {
    for (user, group, is_in) in changes {
        match (work.host.is_live(), is_in) {
            (true, _) => useradd::set_member(user, group, is_in)?,
            (false, true) => tables.add_member(user, group),
            (false, false) => tables.remove_member(user, group),
        }
    }
    work.host.forget_accounts();
    tables.write(&work.host.root)
}

/// The error for a group that does not exist.
pub(super) fn no_group(user: &str, group: &str) -> Error {
    error!(ACCOUNT, "{user} can't be in the group {group}: there is no such group").help(format!(
        "add a [[group]] to the role, or the [[package]] that creates it; `getent group {group}` must show it"
    ))
}

impl Members {
    fn tables(&self, work: &Work<'_>) -> Result<Tables> {
        work.host.tables(|tables, accounts| {
            self.groups.iter().try_for_each(|group| tables.learn(accounts, Database::Group, group, None))
        })
    }

    /// Groups that it is in and must not be.
    fn surplus(&self, tables: &Tables) -> Vec<String> {
        let mut groups = tables.groups_of(&self.user);
        groups.retain(|group| match self.exclusive {
            true => !self.groups.iter().any(|wanted| **wanted == **group),
            false => self.others.contains(group),
        });
        groups
    }

    /// Its part of each group.
    fn parts(&self) -> impl Iterator<Item = (&AccountName, Claim)> {
        self.groups.iter().map(|group| (group, Claim::part_of(&self.user, &members_of(group))))
    }
}

impl Resource for Members {
    fn about(&self) -> About {
        let groups = self.groups.iter().map(|group| ResourceId::new("group", group));
        let after = groups.chain([ResourceId::new("user", &self.user)]).collect();
        let watched = Some(accounts::watched());
        let claims = self.parts().map(|(_, part)| part).chain(self.exclusive.then(|| groups_of(&self.user)));
        About { after, watched, ..About::new("members", &*self.user, Phase::Members) }.claiming(claims)
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let tables = self.tables(work)?;
        let mut parts = Vec::new();
        for group in &self.groups {
            match tables.is_member(&self.user, group) {
                Some(true) => continue,
                Some(false) => tables.refuse_foreign_group(&self.user, group)?,
                None if work.may_make(&Missing::Group(group.to_string())) => {}
                None if work.comes_later(&Missing::Group(group.to_string())) => continue,
                None => return Err(no_group(&self.user, group)),
            }
            parts.push(format!("add to the group {group}"));
        }
        parts.extend(self.surplus(&tables).iter().map(|group| format!("remove from the group {group}")));
        Ok(Change::of(parts))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let tables = self.tables(work)?;
        let is_due = |group: &&AccountName| match tables.is_member(&self.user, group) {
            Some(is_in) => !is_in,
            None => !work.comes_later(&Missing::Group(group.to_string())),
        };
        let missing: Vec<&AccountName> = self.groups.iter().filter(is_due).collect();
        for group in &missing {
            if tables.gid(group).is_none() {
                return Err(no_group(&self.user, group)
                    .help(format!("no package of this host has created it; `getent group {group}` must show it")));
            }
        }
        let surplus = self.surplus(&tables);
        let added = missing.iter().map(|group| (&*self.user, &***group, true));
        change(added.chain(surplus.iter().map(|group| (&*self.user, &**group, false))), tables, work)
    }

    fn owned(&self, _: &Work<'_>) -> Result<Vec<Claim>> {
        Ok(self.parts().map(|(_, part)| part).collect())
    }

    fn prior_state(&self, owned: &Claim, work: &Work<'_>) -> Result<PriorState> {
        match self.parts().find(|(_, part)| part == owned) {
            Some((group, _)) => prior_member(&self.user, group, work),
            None => Ok(PriorState::Same),
        }
    }
}
