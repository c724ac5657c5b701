//! `[[group]]`: a group of users. Its members are defined by `[[user]]`, or all by the group itself.

use crate::host::account_files::{Tables, WantedGroup};
use crate::host::accounts::{self, Database, GROUP};
use crate::host::{Missing, useradd};
use crate::kind::prelude::*;
use crate::kind::user::members::{self, groups_of, members_of};

/// Fields of `[[group]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupFields {
    /// Its name.
    name: AccountName,
    /// Its number. The number of an existing group is never changed. Default: any free one.
    gid: Option<u32>,
    /// Whether to use a free system number (from 999 downwards) instead of one from 1000 upwards.
    #[serde(default)]
    system: bool,
    /// Whether it exists: `present`, or `absent`, which removes it. Default: `present`.
    #[serde(default)]
    state: Presence,
    /// All its members: kpull removes every other member. If omitted, only `[[user]]` changes the members.
    members: Option<Vec<AccountName>>,
}

impl Fields for GroupFields {
    fn build(mut self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        if self.state == Presence::Absent {
            build.refuse_if(&*self.name == "root", "state", "the group root can't be removed")?;
            return Ok(vec![Box::new(Removal { group: self.name })]);
        }
        if let Some(why) = self.name.why_not_new() {
            return Err(build.invalid("name", &why));
        }
        let members = self.members.take().map(|members| GroupMembers { group: self.name.clone(), members });
        let mut resources: Vec<Box<dyn Resource>> = vec![Box::new(self)];
        if let Some(members) = members {
            resources.push(Box::new(members));
        }
        Ok(resources)
    }
}

impl GroupFields {
    fn wanted(&self) -> WantedGroup<'_> {
        WantedGroup { name: &self.name, gid: self.gid, system: self.system }
    }
}

impl Resource for GroupFields {
    fn about(&self) -> About {
        About { watched: Some(accounts::watched()), ..About::new(GroupFields::NAME, &*self.name, Phase::Accounts) }
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let tables =
            work.host.tables(|tables, accounts| tables.learn(accounts, Database::Group, &self.name, self.gid))?;
        // an existing group is never changed
        Ok(Change::of(tables.group_differences(&self.wanted())?).map(|change| change.added_if(true)))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let wanted = self.wanted();
        work.host.change_accounts(|| useradd::add_group(&wanted), |tables| tables.make_group(&wanted).map(drop))
    }
}

/// A group that must not exist.
#[derive(Debug)]
struct Removal {
    group: AccountName,
}

impl Resource for Removal {
    fn about(&self) -> About {
        // after the users that have it as their primary group
        About { watched: Some(accounts::watched()), ..About::new(GroupFields::NAME, &*self.group, Phase::Commands) }
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let is_there = Tables::read(&work.host.root)?.has_local_group(&self.group);
        Ok(is_there.then(|| Change::removal("remove")))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let mut tables = Tables::read(&work.host.root)?;
        if !tables.has_local_group(&self.group) {
            return Ok(());
        }
        // refuses what can't be done before any change
        tables.remove_group(&self.group)?;
        work.host.change_accounts(|| useradd::remove_group(&self.group), |tables| tables.remove_group(&self.group))
    }
}

/// All members of a group.
#[derive(Debug)]
struct GroupMembers {
    group: AccountName,
    members: Vec<AccountName>,
}

impl GroupMembers {
    /// Who is missing, and who is too many. A user that only a package or command of the running host creates is not missing in a tree.
    fn differences(&self, tables: &Tables, work: &Work<'_>) -> Result<(Vec<&AccountName>, Vec<String>)> {
        let known = tables.members_of(&self.group).unwrap_or_default();
        let mut missing = Vec::new();
        for user in self.members.iter().filter(|one| !known.iter().any(|other| **other == ***one)) {
            if !work.comes_later(&Missing::User(user.to_string())) || is_known(user, work)? {
                missing.push(user);
            }
        }
        let surplus = known.iter().filter(|one| !self.members.iter().any(|other| **other == ***one)).cloned();
        Ok((missing, surplus.collect()))
    }

    /// The part of the group that each member is.
    fn parts(&self) -> impl Iterator<Item = (&AccountName, Claim)> {
        self.members.iter().map(|user| (user, Claim::part_of(user, &members_of(&self.group))))
    }
}

fn is_known(user: &AccountName, work: &Work<'_>) -> Result<bool> {
    Ok(work.host.with_accounts(|accounts| accounts.login(user))?.is_some())
}

impl Resource for GroupMembers {
    fn about(&self) -> About {
        let users = self.members.iter().map(|user| ResourceId::new("user", user));
        let after = users.chain([ResourceId::new("group", &self.group)]).collect();
        let watched = Some(accounts::watched());
        let parts = self.members.iter().map(|user| Claim::part_of(&self.group, &groups_of(user)));
        let claims = [members_of(&self.group)].into_iter().chain(parts);
        About { after, watched, ..About::new("group_members", &*self.group, Phase::Members) }.claiming(claims)
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let tables = Tables::read(&work.host.root)?;
        let (missing, surplus) = self.differences(&tables, work)?;
        for user in &missing {
            if !is_known(user, work)? && !work.may_make(&Missing::User(user.to_string())) {
                return Err(error!(ACCOUNT, "{user} can't be in the group {}: there is no such user", self.group)
                .help(format!(
                    "add a [[user]] to the role, or remove the name from `members`; `getent passwd {user}` must show the user"
                )));
            }
        }
        let parts = missing.iter().map(|user| format!("add {user}"));
        Ok(Change::of(parts.chain(surplus.iter().map(|user| format!("remove {user}"))).collect()))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let tables = Tables::read(&work.host.root)?;
        if !tables.has_local_group(&self.group) {
            return Err(error!(ACCOUNT, "the members of {} can't be changed here", self.group)
                .because(format!("it is not in {GROUP}: another service (LDAP, systemd-homed, …) manages it"))
                .help("change them there, or omit `members`"));
        }
        let (missing, surplus) = self.differences(&tables, work)?;
        let added = missing.iter().map(|user| (&***user, &*self.group, true));
        members::change(added.chain(surplus.iter().map(|user| (&**user, &*self.group, false))), tables, work)
    }

    fn owned(&self, _: &Work<'_>) -> Result<Vec<Claim>> {
        Ok(self.parts().map(|(_, part)| part).collect())
    }

    fn prior_state(&self, owned: &Claim, work: &Work<'_>) -> Result<PriorState> {
        match self.parts().find(|(_, part)| part == owned) {
            Some((user, _)) => members::prior_member(user, &self.group, work),
            None => Ok(PriorState::Same),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kind::testing::{Tree, build, one, refusal};

    #[test]
    fn a_group_is_made_with_its_number_and_known_at_once() {
        let tree = Tree::new();
        assert_eq!(tree.host.with_accounts(|accounts| accounts.gid("ssl")).unwrap(), None);
        assert_eq!(tree.converge(&*one("group", "name = 'ssl'\ngid = 42")).summary, "create with number 42");
        assert_eq!(tree.get("/etc/group"), "ssl:x:42:\n");
        assert_eq!(tree.host.with_accounts(|accounts| accounts.gid("ssl")).unwrap(), Some(42));
    }

    #[test]
    fn a_name_that_no_groupadd_takes_is_refused() {
        let why = refusal("group", "name = 'domain users'");
        assert!(why.starts_with("`name`: `domain users` can't be the name of a new account: "), "{why}");
        let why = refusal("group", "name = 'a:b'");
        assert!(why.contains("`a:b` is not an account name: it has `:`"), "{why}");
        assert!(build("group", "name = 'Debian-exim'").is_ok());
    }
}
