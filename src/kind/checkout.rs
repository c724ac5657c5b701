//! `[[checkout]]`: the files of one commit of a git repository.

use crate::document::{Pin, repository};
use crate::kind::artifact::tree::Trees;
use crate::kind::prelude::*;
use crate::kind::tree::Exclusive;
use crate::store::tree::prefix_problem;
use crate::store::{Commit, Progress};

/// Advice about an address that can't be used.
const ADDRESSES: &str =
    "https://, http://, ssh://, user@host:path, file:// and absolute paths work; for a private repository, use ssh";

/// Fields of `[[checkout]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckoutFields {
    /// The directory on the host.
    path: AbsolutePath,
    /// The address of the repository: `https://`, `http://`, `ssh://`, `user@host:path`, `file://` or an absolute path.
    url: String,
    /// The full commit id: 40 hexadecimal digits.
    commit: String,
    /// The directory of the repository to check out. Default: the top of the repository.
    from: Option<String>,
    /// The mode of programs; other files get it without execute permission. Default: `0755`.
    mode: Option<Mode>,
    /// The user that owns the files. Default: `root`.
    owner: Option<AccountName>,
    /// The group that owns them. Default: `root`.
    group: Option<AccountName>,
    /// Whether to remove everything else in the directory, except for what other resources manage. Default: false.
    #[serde(default)]
    exclusive: bool,
}

impl Fields for CheckoutFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        repository::address(&self.url).map_err(|error| build.invalid("url", &error.to_string()).help(ADDRESSES))?;
        let id = repository::commit(&self.commit)
            .map_err(|error| build.invalid("commit", &error.to_string()).help(error.advice().unwrap_or_default()));
        let id = id?.to_string();
        let prefix = format!("{}/", self.from.as_deref().unwrap_or_default());
        let why = "a directory of the repository is written like `dir/sub`";
        build.refuse_if(self.from.is_some() && (prefix == "/" || prefix_problem(&prefix).is_some()), "from", why)?;
        let wanted = Ownership::new(0o755, self.mode, self.owner, self.group);
        let mut resources: Vec<Box<dyn Resource>> = Vec::new();
        if self.exclusive {
            resources.push(Box::new(Exclusive::new(&self.path, BTreeSet::new(), build)?));
        }
        let trees = Trees::new(BTreeMap::from([(prefix, self.path.clone())]), &wanted);
        let commit = Commit { url: self.url, id };
        resources.insert(0, Box::new(Checkout { path: self.path, commit, trees, wanted }));
        Ok(resources)
    }
}

/// The resource.
#[derive(Debug)]
pub(crate) struct Checkout {
    /// The directory on the host.
    pub(crate) path: AbsolutePath,
    /// The repository and its commit.
    pub(crate) commit: Commit,
    trees: Trees,
    wanted: Ownership,
}

impl Checkout {
    /// The commit as a stored archive, if it was fetched before.
    fn pin(&self, work: &Work<'_>) -> Result<Option<Pin>> {
        work.store.commit(&self.commit)
    }
}

impl Resource for Checkout {
    fn about(&self) -> About {
        About { after: self.wanted.after(), ..About::at(CheckoutFields::NAME, &self.path, Phase::Artifacts) }
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        let Some(pin) = self.pin(work)? else { return Ok(None) };
        Ok(self.trees.watched_inputs(&pin, work)?.map(Iterator::collect))
    }

    fn content(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Owned(format!("commit {}\n", self.commit.id).into_bytes()))
    }

    fn prepare(&self, work: &Work<'_>, progress: Progress<'_>) -> Result<()> {
        let pin = work.store.fetch_commit(&self.commit)?;
        self.trees.prepare(&pin, work, progress)
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let Some(pin) = self.pin(work)? else {
            let is_new = work.host.root.meta(&self.path)?.is_none();
            return Ok(Some(Change::new(format!("check out {}", self.commit.short())).added_if(is_new)));
        };
        let (parts, is_new) = self.trees.observe(&pin, work)?;
        let change = Change::of(parts).map(|change| change.added_if(is_new));
        Ok(change.map(|change| Change { summary: format!("{}: {}", self.commit.short(), change.summary), ..change }))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let pin = self.pin(work)?.ok_or_else(|| not_known(&self.commit))?;
        self.trees.apply(&pin, work)
    }

    fn owned(&self, work: &Work<'_>) -> Result<Vec<Claim>> {
        let pin = self.pin(work)?.ok_or_else(|| not_known(&self.commit))?;
        Ok(self.trees.paths(&pin, work)?.collect())
    }
}

fn not_known(commit: &Commit) -> Error {
    error!(GIT, "the contents of {commit} are not known yet").help("the next `kpull apply` fetches it")
}

#[cfg(test)]
mod tests {
    use crate::kind::testing::refusal;

    #[test]
    fn only_a_whole_commit_of_a_repository_can_be_checked_out() {
        const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
        let at = |url: &str, commit: &str| format!("path = '/srv/app'\nurl = '{url}'\ncommit = '{commit}'");
        let sha256 = COMMIT.repeat(2).chars().take(64).collect::<String>();
        for (fields, why) in [
            (at("/srv/app.git", "main"), "`commit`: `main` is not a commit"),
            (at("/srv/app.git", "0123456"), "`commit`: `0123456` is not a commit"),
            (at("/srv/app.git", &sha256), "SHA-256 object names"),
            (at("git://host/app", COMMIT), "`url`: `git://host/app` is not the address of a git repository"),
            (at("ssh://me:pass@host/app", COMMIT), "`url`: `host/app` contains a password"),
            (at("/srv/app.git", COMMIT) + "\nfrom = '../x'", "`from`: a directory of the repository"),
            (at("/srv/app.git", COMMIT) + "\nfrom = 'x/'", "`from`: a directory of the repository"),
            (at("/srv/app.git", COMMIT) + "\nfrom = ''", "`from`: a directory of the repository"),
            (
                at("/srv/app.git", COMMIT).replace("/srv/app'", "/srv'") + "\nexclusive = true",
                "`exclusive`: kpull does not remove anything",
            ),
        ] {
            let refusal = refusal("checkout", &fields);
            assert!(refusal.contains(why), "{refusal} does not say {why}");
        }
    }
}
