//! `[[permissions]]`: mode, owners, access list and capabilities of paths that something else creates, such as a package.

mod former;
mod rights;

use std::collections::HashSet;

pub use self::former::Managed;
pub(super) use self::former::{Former, States};
use self::rights::{AclEntry, Capabilities, NewMode};
use crate::error::{LISTED, counted};
use crate::host::NoAccess;
use crate::host::root::acl::{AccessList, Who};
use crate::host::root::permissions::Permissions as State;
use crate::kind::file::{mode_change, refused};
use crate::kind::prelude::*;

/// Fields of `[[permissions]]`. At least one field besides `path` is set. kpull does not change what is omitted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PermissionsFields {
    /// A file or directory that a package, a command or a unit creates.
    path: AbsolutePath,
    /// Whether to include everything below the path, except for links, other file systems, and what other resources manage.
    #[serde(default)]
    recursive: bool,
    /// Whether a missing path is acceptable. A run that finds the path sets its permissions.
    #[serde(default)]
    ignore_missing: bool,
    /// The mode, or changes to it: `0640`, `u=rwX,g=rX,o=`, `go-w`.
    mode: Option<NewMode>,
    /// With `recursive`: the mode of directories. Default: `mode`, and users who can read a directory can also enter it.
    directory_mode: Option<NewMode>,
    /// The user that owns it.
    owner: Option<AccountName>,
    /// The group that owns it.
    group: Option<AccountName>,
    /// All entries of the access list besides owner, group and others: `user:nginx:rX`, `default:group:web:rwX`. An empty list removes the
    /// access list.
    acl: Option<Vec<AclEntry>>,
    /// The capabilities of a program: `cap_net_bind_service=ep`; an empty text removes them. Also for a file that an artifact installs.
    capabilities: Option<Capabilities>,
}

impl Fields for PermissionsFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let has_access = self.mode.is_some() || self.owner.is_some() || self.group.is_some() || self.acl.is_some();
        let is_empty = !has_access && self.directory_mode.is_none() && self.capabilities.is_none();
        build.refuse_if(is_empty, "path", "set at least one of `mode`, `owner`, `group`, `acl` and `capabilities`")?;
        let why = "only with `recursive = true`: set `mode` to the mode of this path";
        build.refuse_if(self.directory_mode.is_some() && !self.recursive, "directory_mode", why)?;
        let why = "capabilities need the path of a program: remove `recursive`";
        build.refuse_if(self.capabilities.is_some() && self.recursive, "capabilities", why)?;
        let is_at_top = self.recursive && self.path.components().count() <= 2;
        let why = "a directory directly below `/` can't be changed with its contents: name directories in it";
        build.refuse_if(is_at_top, "path", why)?;
        let mut known = BTreeSet::new();
        let twice = self.acl.iter().flatten().find(|entry| !known.insert((entry.is_default, &entry.whom)));
        if let Some(entry) = twice {
            return Err(build.invalid("acl", &format!("`{}` is the second entry for the same account", entry.text)));
        }
        let of_mode = || self.mode.as_ref().map(NewMode::for_directories);
        let directory_mode = self.directory_mode.or_else(of_mode).filter(|_| self.recursive);
        Ok(vec![Box::new(Self { directory_mode: directory_mode.or_else(|| self.mode.clone()), ..self })])
    }
}

/// The numbers of the accounts of a resource; `None` for those that stay.
struct Numbers<'a> {
    uid: Option<u32>,
    gid: Option<u32>,
    acl: Option<Vec<(Who, &'a AclEntry)>>,
}

/// Paths that differ, and how, in words.
type Differences = Vec<(PathBuf, Vec<String>)>;

/// What is at the path, if anything is; and what differs there and below.
type Adjusted = (Option<FileType>, Differences);

/// The permissions that a path is to have, and the difference in words; `None` if it is left out. The arguments are the path, whether it is
/// a directory, and its permissions now.
type Decide<'a> = &'a dyn Fn(&Path, bool, &State) -> Option<(State, Vec<String>)>;

impl Resource for PermissionsFields {
    fn about(&self) -> About {
        let owners = [
            self.owner.as_ref().map(|name| ResourceId::new("user", name)),
            self.group.as_ref().map(|name| ResourceId::new("group", name)),
        ];
        let of_acl = self.acl.iter().flatten().filter_map(AclEntry::after);
        let claim = match self.managed() {
            // beside the mode and owner of a file, which another resource may manage
            Managed { mode: false, owner: false, group: false, .. } => Claim::thing("capabilities", &self.path),
            _ => Claim::part(PermissionsFields::NAME, &self.path),
        };
        About {
            claims: vec![claim],
            after: owners.into_iter().flatten().chain(of_acl).collect(),
            ..About::new(PermissionsFields::NAME, self.path.to_string(), Phase::Permissions)
        }
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        // the times of a file change with its content too, and show a change of anything beside its mode and owner
        let has_attributes = self.acl.is_some() || self.capabilities.is_some();
        let mut inputs = Vec::new();
        let found = work.host.root.each_permissions(&self.path, self.recursive, &mut |path, is_directory, _| {
            inputs.push(match has_attributes || is_directory && self.recursive {
                true => WatchedInput::Path(path.to_owned()),
                false => WatchedInput::Place(path.to_owned()),
            });
            Ok(None)
        })?;
        inputs.extend(found.is_none().then(|| WatchedInput::Path(self.path.to_path_buf())));
        Ok(Some(inputs))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        if self.is_skipped(work)? {
            return Ok(None);
        }
        let (found, differences) = match self.numbers(work) {
            Ok(numbers) => self.adjust(work, &numbers, false)?,
            Err(NoAccess::Missing(account)) if work.may_make(&account) => {
                return Ok(Some(Change::new(format!("mode or owner, once the {account} exists"))));
            }
            // whatever creates the path on the running host creates the account too
            Err(NoAccess::Missing(_)) if !work.host.is_live() => return Ok(None),
            Err(why) => return Err(refused(&self.path, why)),
        };
        match found {
            Some(FileType::File | FileType::Directory) => Ok(summary(&differences, self.recursive)),
            Some(_) => Err(error!(FILE, "{} is neither a file nor a directory", self.path)
                .help("a link has no permissions of its own: name the path that it points to")),
            // in a tree, there is no package
            None if !work.host.is_live() => Ok(None),
            None if work.has_one_of(&["package", "command", "unit"]) => {
                Ok(Some(Change::new("mode or owner, once it exists")))
            }
            None => Err(self.missing()),
        }
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        if self.is_skipped(work)? {
            return Ok(());
        }
        let numbers = self.numbers(work).map_err(|why| refused(&self.path, why))?;
        let (found, _) = self.adjust(work, &numbers, true)?;
        found.map(drop).ok_or_else(|| self.missing())
    }

    fn owned(&self, _: &Work<'_>) -> Result<Vec<Claim>> {
        Ok(vec![Claim::thing(PermissionsFields::NAME, &self.path)])
    }

    fn prior_state(&self, _: &Claim, work: &Work<'_>) -> Result<PriorState> {
        let saved = work.store.save(&former::encode(&self.states(work)?)?)?;
        Ok(PriorState::Permissions { path: self.path.to_string(), saved, managed: self.managed() })
    }

    /// Paths that are new are recorded with their present permissions; records of paths that no longer exist are dropped.
    fn refine(&self, prior: &mut PriorState, work: &Work<'_>) -> Result<bool> {
        let PriorState::Permissions { saved, managed, .. } = prior else { return Ok(false) };
        let former = former::decode(&work.store.saved(saved)?)?;
        let mut states = self.states(work)?;
        for (path, state) in &mut states {
            if let Some(former) = former.get(path) {
                *state = managed.restored(state, former);
            }
        }
        let all = managed.or(self.managed());
        if states == former && all == *managed {
            return Ok(false);
        }
        (*saved, *managed) = (work.store.save(&former::encode(&states)?)?, all);
        Ok(true)
    }
}

impl PermissionsFields {
    fn managed(&self) -> Managed {
        Managed {
            // the bits of the group are the mask of an access list
            mode: self.mode.is_some() || self.directory_mode.is_some() || self.acl.is_some(),
            owner: self.owner.is_some(),
            group: self.group.is_some(),
            capabilities: self.capabilities.is_some(),
        }
    }

    /// Whether the path is missing, and may be: then its accounts may be missing too.
    fn is_skipped(&self, work: &Work<'_>) -> Result<bool> {
        Ok(self.ignore_missing && work.host.root.meta(&self.path)?.is_none())
    }

    fn missing(&self) -> Error {
        error!(FILE, "{} does not exist, so kpull can't set its mode or owner", self.path)
            .help("if a package, command or unit creates it, name that resource in `after`; or create it with a [[file]] or [[directory]]; if some hosts lack it, set `ignore_missing = true`")
    }

    /// The permissions of everything that it manages.
    fn states(&self, work: &Work<'_>) -> Result<States> {
        let (mut states, is_of_others) = (BTreeMap::new(), self.is_of_others(work));
        work.host.root.each_permissions(&self.path, self.recursive, &mut |path, _, now| {
            if !is_of_others(path)
                && let Some(path) = path.to_str()
            {
                states.insert(path.to_owned(), now.clone());
            }
            Ok(None)
        })?;
        Ok(states)
    }

    /// The numbers of the accounts.
    fn numbers(&self, work: &Work<'_>) -> Result<Numbers<'_>, NoAccess> {
        let name = |name: &Option<AccountName>| name.as_ref().map_or_else(|| "0".to_owned(), ToString::to_string);
        let access = work.host.access(0, &name(&self.owner), &name(&self.group))?;
        let with_number = |entry| Ok::<_, NoAccess>((AclEntry::number(entry, work.host)?, entry));
        let acl = self.acl.as_ref().map(|acl| acl.iter().map(with_number).collect()).transpose()?;
        let (uid, gid) = (access.uid.filter(|_| self.owner.is_some()), access.gid.filter(|_| self.group.is_some()));
        Ok(Numbers { uid, gid, acl })
    }

    /// Lists what differs, and changes it if `is_applied`. Returns what is at the path.
    fn adjust(&self, work: &Work<'_>, numbers: &Numbers<'_>, is_applied: bool) -> Result<Adjusted> {
        let is_of_others = self.is_of_others(work);
        adjust(work, &self.path, self.recursive, is_applied, &|path, is_directory, now| {
            let wanted = self.wanted(numbers, is_directory, now);
            let words = self.words(now, &wanted);
            (!is_of_others(path)).then_some((wanted, words))
        })
    }

    /// The desired permissions of a file or directory.
    fn wanted(&self, numbers: &Numbers<'_>, is_directory: bool, now: &State) -> State {
        let (uid, gid) = (numbers.uid.unwrap_or(now.uid), numbers.gid.unwrap_or(now.gid));
        let mut new = State { uid, gid, ..now.clone() };
        let change = if is_directory { &self.directory_mode } else { &self.mode };
        let mode = |now: u32| change.as_ref().map_or(now, |change| change.of(now, is_directory));
        match &numbers.acl {
            None => new.mode = mode(now.mode),
            Some(entries) => {
                // a list hides the rights of the group behind its mask
                let group = now.acl.as_deref().and_then(AccessList::owning_group);
                let mode = mode(group.map_or(now.mode, |rights| now.mode & !0o070 | rights << 3));
                let list = |is_default: bool| {
                    let mut list = AccessList::of_mode(mode);
                    for (who, entry) in entries.iter().filter(|(_, entry)| entry.is_default == is_default) {
                        list.set(*who, entry.rights.bits(is_directory, mode));
                    }
                    list.complete();
                    list
                };
                let own = list(false);
                (new.acl, new.mode) = (own.beyond_mode(), mode & 0o7000 | own.mode());
                let has_default = is_directory && entries.iter().any(|(_, entry)| entry.is_default);
                new.default_acl = has_default.then(|| list(true).encode());
            }
        }
        if let Some(capabilities) = self.capabilities.as_ref().filter(|_| !is_directory) {
            new.capabilities = capabilities.encode();
        }
        new
    }

    fn words(&self, now: &State, wanted: &State) -> Vec<String> {
        let mut words = Vec::from_iter(mode_change(now.mode, wanted.mode));
        words.extend(self.owner.as_ref().filter(|_| wanted.uid != now.uid).map(|owner| format!("owner → {owner}")));
        words.extend(self.group.as_ref().filter(|_| wanted.gid != now.gid).map(|group| format!("group → {group}")));
        let has_other_list = (&wanted.acl, &wanted.default_acl) != (&now.acl, &now.default_acl);
        if let Some(acl) = self.acl.as_ref().filter(|_| has_other_list) {
            let entries: Vec<&str> = acl.iter().map(|entry| entry.text.as_str()).collect();
            let entries = if entries.is_empty() { "none".to_owned() } else { entries.join(",") };
            words.push(format!("access list → {entries}"));
        }
        if let Some(capabilities) = self.capabilities.as_ref().filter(|_| wanted.capabilities != now.capabilities) {
            words.push(format!("capabilities → {capabilities}"));
        }
        words
    }

    /// Whether another resource manages a path, and so its permissions: for everything below the path.
    fn is_of_others(&self, work: &Work<'_>) -> impl Fn(&Path) -> bool {
        let (mut paths, mut trees) = (HashSet::new(), Vec::new());
        let is_below = |path: &Path| path != &*self.path && path.starts_with(&*self.path);
        for item in work.catalog.iter().filter(|_| self.recursive) {
            match item.as_kind::<Self>() {
                Some(other) if other.recursive && is_below(&other.path) => trees.push(other.path.to_path_buf()),
                Some(other) => drop(paths.insert(other.path.to_path_buf())),
                None => {
                    let owned = item.resource.owned(work).unwrap_or_else(|_| item.about.claims.clone());
                    let owned = owned.iter().filter_map(Claim::whole_path).filter(|path| is_below(path));
                    paths.extend(owned.map(Path::to_owned));
                }
            }
        }
        paths.remove(&*self.path);
        move |path| paths.contains(path) || trees.iter().any(|tree| path.starts_with(tree))
    }
}

/// Lists what differs at a path, or also below it, and changes it if `is_applied`. `wanted` returns what a file or directory is to have
/// in place of its permissions, and the differences in words. Returns what is at the path.
fn adjust(work: &Work<'_>, path: &Path, is_recursive: bool, is_applied: bool, wanted: Decide<'_>) -> Result<Adjusted> {
    let mut differences = Vec::new();
    let found = work.host.root.each_permissions(path, is_recursive, &mut |path, is_directory, now| {
        let Some((new, words)) = wanted(path, is_directory, now).filter(|(new, _)| new != now) else { return Ok(None) };
        differences.push((path.to_owned(), words));
        Ok(is_applied.then_some(new))
    })?;
    Ok((found, differences))
}

/// The change for what differs; `None` if nothing does.
fn summary(differences: &Differences, is_recursive: bool) -> Option<Change> {
    let named = |(path, words): &(PathBuf, Vec<String>)| {
        let words = words.join(", ");
        match path.file_name().filter(|_| is_recursive) {
            Some(name) => format!("{}: {words}", name.to_string_lossy()),
            None => words,
        }
    };
    match differences.len() {
        0..=LISTED => Change::of(differences.iter().map(named).collect()),
        many => Some(Change::new(format!("mode or owner of {}", counted(many, "path")))),
    }
}
