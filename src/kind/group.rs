//! `[[group]]`: a group of users. Its members are defined by `[[user]]`.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::fields::AccountName;
use crate::error::Result;
use crate::host::account_files::{Tables, WantedGroup};
use crate::host::accounts::{Database, FILES};
use crate::host::useradd;
use crate::kind::{About, Build, Change, Fields, Phase, Resource, WatchedInput, Work};

/// Fields of `[[group]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupFields {
    /// Its name.
    name: AccountName,
    /// Its number; any free one when left out. The number of a group that is there is never changed.
    gid: Option<u32>,
    /// Whether a free number is one for the system (from 999 downwards) instead of from 1000 upwards.
    #[serde(default)]
    system: bool,
}

impl Fields for GroupFields {
    const NAME: &'static str = "group";

    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        match self.name.why_not_new() {
            Some(why) => Err(build.invalid("name", &why)),
            None => Ok(vec![Box::new(self)]),
        }
    }
}

impl GroupFields {
    fn wanted(&self) -> WantedGroup<'_> {
        WantedGroup { name: &self.name, gid: self.gid, system: self.system }
    }
}

impl Resource for GroupFields {
    fn about(&self) -> About {
        About::new(GroupFields::NAME, &*self.name, Phase::Accounts)
    }

    fn watched_inputs(&self, _: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        Ok(Some(FILES.iter().map(|path| WatchedInput::Path(path.into())).collect()))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let tables =
            work.host.tables(|tables, accounts| tables.learn(accounts, Database::Group, &self.name, self.gid))?;
        // an existing group is never changed
        Ok(Change::of(tables.group_differences(&self.wanted())?).map(|change| change.added_if(true)))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let root = &work.host.root;
        let made = match work.host.is_live() {
            true => useradd::add_group(&self.wanted()),
            false => {
                let mut tables = Tables::read(root)?;
                tables.make_group(&self.wanted()).and_then(|_| tables.write(root))
            }
        };
        work.host.forget_accounts();
        made
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
