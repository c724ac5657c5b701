//! `[[file]]`: a file whose content is in the role, inline or under `files/`.

use crate::host::{Missing, NoAccess};
use crate::kind::prelude::*;
use crate::kind::validation::Validation;
use crate::secret::fits;

/// Fields of `[[file]]`. Exactly one of `content` and `source` is set.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileFields {
    /// The path of the file on the host.
    path: AbsolutePath,
    /// The whole content.
    content: Option<String>,
    /// The name of a file in the role's `files/`, copied byte for byte.
    source: Option<String>,
    /// Permissions and owners.
    mode: Option<Mode>,
    /// The user that owns it. Default: `root`.
    owner: Option<AccountName>,
    /// The group that owns it. Default: `root`.
    group: Option<AccountName>,
    /// Whether to omit the content from diffs.
    #[serde(default)]
    sensitive: bool,
    /// Whether to write into the existing file instead of replacing it, for a file that is a mount, or that another program keeps open.
    /// Default: false.
    #[serde(default)]
    in_place: bool,
    /// A program with its arguments that must accept the new content before it replaces the old one, with `%s` for the path of a temporary
    /// file with that content. Default: no check.
    validate: Option<Vec<String>>,
}

impl Fields for FileFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let content = match (&self.content, &self.source) {
            (Some(text), None) => Arc::from(text.as_bytes()),
            (None, Some(name)) => build.file("source", name)?,
            (None, None) => return Err(build.invalid("path", "set `content` or `source`")),
            (Some(_), Some(_)) => return Err(build.invalid("source", "set `content` or `source`, not both")),
        };
        let sensitive = self.sensitive || build.is_secret();
        let wanted = Ownership::of_file(build.is_secret(), self.mode, self.owner, self.group);
        let validate = Validation::of(self.validate, sensitive, build)?;
        let file = File::new(Self::NAME, self.path, content, sensitive);
        Ok(vec![Box::new(File { wanted, in_place: self.in_place, validate, ..file })])
    }
}

/// A regular file with a known content. Other kinds that end in a file build this too.
#[derive(Debug)]
pub struct File {
    /// The name of its kind.
    pub kind: &'static str,
    /// Where it is.
    pub path: AbsolutePath,
    /// What is in it.
    pub content: Arc<[u8]>,
    /// Its mode and owners.
    pub wanted: Ownership,
    /// Whether its content is kept out of diffs.
    pub sensitive: bool,
    /// Whether it is overwritten in place.
    pub in_place: bool,
    /// What must accept its content.
    pub validate: Option<Validation>,
}

impl File {
    /// A file that a kind generates: owned by root, and readable by all unless it contains a secret.
    pub(super) fn new(kind: &'static str, path: AbsolutePath, content: impl Into<Arc<[u8]>>, sensitive: bool) -> Self {
        let wanted = Ownership::of_file(sensitive, None, None, None);
        Self { kind, path, content: content.into(), wanted, sensitive, in_place: false, validate: None }
    }

    /// Its change as a part of another resource.
    pub(super) fn as_part(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let change = self.observe(work)?;
        Ok(change.map(|change| Change { summary: format!("{} {}", change.summary, self.path), ..change }))
    }
}

impl Resource for File {
    fn about(&self) -> About {
        About {
            after: self.wanted.after(),
            is_discreet: true,
            // a program may read what others have written
            is_self_contained: self.validate.is_none(),
            is_sensitive: self.sensitive,
            ..About::at(self.kind, &self.path, Phase::Files)
        }
    }

    fn content(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(&self.content))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let Some((meta, content)) = work.host.root.read(&self.path)? else {
            self.wanted.check(work, &self.path)?;
            return missing(work.host, &self.path, self.sensitive, self.content.clone());
        };
        let access = self.wanted.differences(work, &self.path, &meta)?;
        if content == *self.content {
            return Ok(Change::of(access));
        }
        let only_secrets = access.is_empty() && fits(&self.content, &content);
        // what only its owner can read may have been a secret
        let diff = Diff::of(content, self.content.clone(), self.sensitive || meta.mode & 0o077 == 0);
        let change = Change::of(["content".to_owned()].into_iter().chain(access).collect());
        Ok(change.map(|change| Change { diff, only_secrets, ..change }))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let access = self.wanted.access(work, &self.path)?;
        let has_content = work.host.root.read(&self.path)?.is_some_and(|(_, content)| content == *self.content);
        // a file that others have replaced in the meantime is written again
        if !(has_content && work.host.root.give_access(&self.path, access)?) {
            write(work, self.validate.as_ref(), (&self.path, &self.content), access, self.in_place)?;
        }
        work.host.file_changed(&self.path);
        Ok(())
    }

    fn prior_state(&self, owned: &Claim, work: &Work<'_>) -> Result<PriorState> {
        let mut prior = PriorState::of_path(owned, work)?;
        self.refine(&mut prior, work)?;
        Ok(prior)
    }

    fn refine(&self, prior: &mut PriorState, _: &Work<'_>) -> Result<bool> {
        let PriorState::File { in_place, .. } = prior else { return Ok(false) };
        Ok(std::mem::replace(in_place, self.in_place) != self.in_place)
    }
}

/// The recorded state of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriorFile {
    /// SHA-256 of its content, which the store has saved under it.
    pub saved: String,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Writes a file once `validate` accepts its content: into the existing one if `in_place`, else as a new one.
pub(super) fn write(
    work: &Work<'_>,
    validate: Option<&Validation>,
    (path, content): (&Path, &[u8]),
    access: Access,
    in_place: bool,
) -> Result<()> {
    if let Some(validate) = validate {
        validate.check(work, path, content, access)?;
    }
    if in_place && work.host.root.write_into(path, content, access)? {
        return Ok(());
    }
    work.host.root.write(path, content, access)
}

/// The change for a path without a file.
fn missing(host: &Host, path: &Path, sensitive: bool, content: Arc<[u8]>) -> Result<Option<Change>> {
    match host.root.meta(path)?.map(|meta| meta.what) {
        None | Some(FileType::File) => {}
        Some(FileType::Link) => return Ok(Some(Change::new("replace the link with a file"))),
        Some(FileType::Directory | FileType::Special) => {
            return Err(in_the_way(path, "a directory or a device", "a file there").help(MOVE_AWAY));
        }
    }
    Ok(Some(Change { diff: Diff::of([], content, sensitive), ..Change::addition("create") }))
}

/// What to do about something that a resource does not replace.
pub(super) const MOVE_AWAY: &str = "move it away, or remove it with an [[absent]]";

/// The error for a path where the host has something that the resource does not replace.
pub(super) fn in_the_way(path: &Path, found: &str, wanted: &str) -> Error {
    error!(FILE, "{} is {found}, but the role requires {wanted}", path.display())
}

/// The change of a mode in words, if it changes.
pub(super) fn mode_change(now: u32, wanted: u32) -> Option<String> {
    (now != wanted).then(|| format!("mode {now:04o} → {wanted:04o}"))
}

/// The mode and owners that a role sets, by name.
#[derive(Clone, Debug)]
pub struct Ownership {
    mode: u32,
    owner: String,
    group: String,
}

impl Ownership {
    /// The ownership of a file; what a role leaves out is 0644 root:root, or 0600 if the file contains a secret.
    pub fn of_file(secret: bool, mode: Option<Mode>, owner: Option<AccountName>, group: Option<AccountName>) -> Self {
        Self::new(if secret { 0o600 } else { 0o644 }, mode, owner, group)
    }

    /// Whether every user can read it.
    pub fn is_for_all(&self) -> bool {
        self.mode & 0o004 != 0
    }

    /// Whether only its owner can read it.
    pub fn is_for_owner(&self) -> bool {
        self.mode & 0o077 == 0
    }

    /// [`Ownership::of_file`] with another default mode.
    pub fn new(default: u32, mode: Option<Mode>, owner: Option<AccountName>, group: Option<AccountName>) -> Self {
        let name = |name: Option<AccountName>| name.map_or_else(|| "root".to_owned(), |name| name.to_string());
        Self { mode: mode.map_or(default, |mode| mode.0), owner: name(owner), group: name(group) }
    }

    /// The same for files that are not executable.
    pub(super) fn not_executable(&self) -> Self {
        // setuid and setgid matter only for executables
        Self { mode: self.mode & 0o666, ..self.clone() }
    }

    /// With numeric owners, for a state that is restored.
    pub(super) fn numeric(mode: u32, uid: u32, gid: u32) -> Self {
        Self { mode, owner: uid.to_string(), group: gid.to_string() }
    }

    /// Ids of the accounts that must exist first.
    pub fn after(&self) -> Vec<ResourceId> {
        vec![ResourceId::new("user", &self.owner), ResourceId::new("group", &self.group)]
    }

    /// Checks that the host has the owners, or that the catalog can create them.
    pub fn check(&self, work: &Work<'_>, path: &Path) -> Result<()> {
        match self.resolve(work, self.mode) {
            Err(NoAccess::Missing(account)) if work.may_make(&account) => Ok(()),
            found => found.map(drop).map_err(|why| refused(path, why)),
        }
    }

    /// How the metadata of `path` differs, in words.
    pub fn differences(&self, work: &Work<'_>, path: &Path, meta: &Meta) -> Result<Vec<String>> {
        self.check(work, path)?;
        let mut parts = Vec::from_iter(mode_change(meta.mode, self.mode));
        parts.extend((!self.is_owned(work, meta)?).then(|| format!("owner → {}:{}", self.owner, self.group)));
        Ok(parts)
    }

    /// Whether `meta` has the owner and the group.
    pub fn is_owned(&self, work: &Work<'_>, meta: &Meta) -> Result<bool> {
        match self.resolve(work, meta.mode) {
            Ok(access) => Ok(access.holds(meta)),
            Err(NoAccess::Missing(_)) => Ok(false),
            Err(NoAccess::Failed(error)) => Err(error),
        }
    }

    /// Numeric owners; an error if there is no such user or group.
    pub fn access(&self, work: &Work<'_>, path: &Path) -> Result<Access> {
        self.resolve(work, self.mode).map_err(|why| refused(path, why))
    }

    /// Numeric owners. In a tree, root stands for an account that is created on the running host, but never as the owner of a setuid or setgid
    /// file.
    fn resolve(&self, work: &Work<'_>, mode: u32) -> Result<Access, NoAccess> {
        let root = || "root".to_owned();
        match work.host.access(mode, &self.owner, &self.group) {
            Err(NoAccess::Missing(account)) if mode & 0o6000 == 0 && work.comes_later(&account) => match account {
                Missing::User(_) => Self { owner: root(), ..self.clone() }.resolve(work, mode),
                Missing::Group(_) => Self { group: root(), ..self.clone() }.resolve(work, mode),
            },
            found => found,
        }
    }
}

/// The error for an owner that the host does not have.
pub(super) fn refused(path: &Path, why: NoAccess) -> Error {
    let account = match why {
        NoAccess::Failed(error) => return error,
        NoAccess::Missing(account) => account,
    };
    let (database, name) = match &account {
        Missing::User(name) => ("passwd", name),
        Missing::Group(name) => ("group", name),
    };
    error!(FILE, "{} can't belong to {account}, which does not exist on this host", path.display()).help(format!(
        "add a [[user]] or [[group]] to the role, or the [[package]] that creates it; `getent {database} {name}` must show it"
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use crate::kind::testing::{Tree, one, one_secret};

    fn mode(tree: &Tree, path: &str) -> u32 {
        tree.path(path).metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn only_its_owner_can_read_a_file_with_a_secret_unless_the_role_says_more() {
        let tree = Tree::new();
        let change = tree.converge(&*one_secret("file", "path = '/a'\ncontent = 'hunter2'"));
        assert_eq!(mode(&tree, "/a"), 0o600);
        assert!(!change.diff.unwrap().to_string().contains("hunter2"));
        tree.converge(&*one_secret("file", "path = '/b'\ncontent = 'hunter2'\nmode = '0640'"));
        assert_eq!(mode(&tree, "/b"), 0o640);
        tree.converge(&*one("file", "path = '/c'\ncontent = 'x'\nsensitive = true"));
        assert_eq!(mode(&tree, "/c"), 0o644);
        tree.converge(&*one_secret("block", "path = '/d'\nname = 'n'\ncontent = 'hunter2'"));
        assert_eq!(mode(&tree, "/d"), 0o600);
    }

    #[test]
    fn what_was_a_secret_until_now_is_not_shown_when_it_goes() {
        let tree = Tree::new();
        tree.converge(&*one_secret("file", "path = '/a'\ncontent = 'hunter2'"));
        let change = tree.converge(&*one("file", "path = '/a'\ncontent = 'plain'"));
        assert_eq!(change.summary, "content, mode 0600 → 0644");
        assert!(!change.diff.unwrap().to_string().contains("hunter2"));
    }

    #[test]
    fn a_command_with_a_secret_in_it_is_not_called_by_its_arguments() {
        let role = crate::kind::testing::RoleFiles::default().secret();
        let fields = "run = ['x', 'hunter2']\nunless = ['false']";
        let why = crate::kind::testing::fails::<crate::kind::command::CommandFields>(fields, &role);
        assert!(why.starts_with("`run`: ") && !why.contains("hunter2"), "{why}");
        assert_eq!(one_secret("command", &format!("name = 'n'\n{fields}")).about().key, "n");
    }
}
