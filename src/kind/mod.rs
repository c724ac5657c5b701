//! The kinds of resources, one file each; the list below is the only place that names them all.
//!
//! A kind is a struct of fields (what a role writes), which builds one or more [`Resource`]s: observed, compared with
//! the host, and changed.

mod claim;
pub mod diff;
pub mod prior_state;
#[cfg(test)]
pub mod testing;

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::claim::Claim;
use crate::document::fields::{self, AbsolutePath};
use crate::document::{Doc, Pin};
use crate::error::{Error, Place, Result, one_line};
pub use crate::host::Queries;
pub use crate::host::root::WatchedInput;
pub use crate::host::systemd::Trigger;
use crate::host::{Host, Missing, packages};
use crate::kind::diff::Diff;
use crate::kind::prior_state::PriorState;
use crate::pki::AuthorityFields;
use crate::secret::Secret;
use crate::store::{Progress, Store};

/// When a resource has its turn, unless something that the catalog names says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Users and groups.
    Accounts,
    /// What describes where packages come from: files, keys, directories and the like, known by their paths.
    Sources,
    /// Packages.
    Packages,
    /// Who is in which group: packages make groups.
    Members,
    /// Directories.
    Directories,
    /// Files, links, blocks, and what is to be absent.
    Files,
    /// Upstream binaries.
    Artifacts,
    /// Kernel settings, modules, swap.
    Kernel,
    /// Firewall.
    Firewall,
    /// Units that are to stop: what they hold, as a port, may be another unit's now.
    Stops,
    /// Commands.
    Commands,
    /// Units.
    Units,
    /// Probes.
    Probes,
}

/// What becomes of a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It was not there.
    Added,
    /// It will not be there any more.
    Removed,
    /// It is there before and after.
    #[default]
    Changed,
}

/// The difference between a resource and the host.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// What becomes of the resource.
    pub what: Effect,
    /// What will be done, in a few words: `create`, `mode 0644 → 0600`, `start`.
    pub summary: String,
    /// The change of its text.
    pub diff: Option<Diff>,
    /// A restart or reload that is owed because of another change, or because a unit's work does not stand.
    pub trigger: Option<Trigger>,
    /// Whether nothing differs but secrets, as far as that can be told where the catalog has placeholders of them.
    pub only_secrets: bool,
    /// Links that go along with it, and directories that have had nothing else.
    pub unlinks: Vec<PathBuf>,
}

impl Change {
    /// A change with nothing to show but its summary.
    pub fn new(summary: impl Into<String>) -> Self {
        Self { summary: one_line(&summary.into()), ..Self::default() }
    }

    /// [`Change::new`] of what is not there yet.
    pub fn addition(summary: impl Into<String>) -> Self {
        Self { what: Effect::Added, ..Self::new(summary) }
    }

    /// [`Change::new`] of what is not to be there any more.
    pub fn removal(summary: impl Into<String>) -> Self {
        Self { what: Effect::Removed, ..Self::new(summary) }
    }

    /// An addition, when that is so.
    #[must_use]
    pub fn added_if(self, is_added: bool) -> Self {
        if is_added { Self { what: Effect::Added, ..self } } else { self }
    }

    /// What is to be done to a resource's file, with further differences of the resource.
    pub fn of_parts(file: Option<Self>, parts: Vec<String>) -> Option<Self> {
        let (summary, rest) = (file.as_ref().map(|file| file.summary.clone()), file.unwrap_or_default());
        let only_secrets = rest.only_secrets && parts.is_empty();
        let change = Self::of(summary.into_iter().chain(parts).collect())?;
        Some(Self { summary: change.summary, only_secrets, ..rest })
    }

    /// One change of all the differences found; `None` when there are none.
    pub fn of(parts: Vec<String>) -> Option<Self> {
        (!parts.is_empty()).then(|| Self::new(parts.join(", ")))
    }
}

/// What a resource is observed and changed with.
pub struct Work<'a> {
    /// The machine, or the tree.
    pub host: &'a Host,
    /// The state directory.
    pub store: &'a Store,
    /// Every resource of the host.
    pub catalog: &'a [Item],
}

impl Work<'_> {
    /// Whether an account that the host lacks may be there when it is needed: the catalog makes it, or a package or a command can.
    pub fn may_make(&self, account: &Missing) -> bool {
        let (Missing::User(name) | Missing::Group(name)) = account;
        self.catalog.iter().any(|item| match item.about.kind {
            "package" | "command" => self.host.is_live(),
            // with a group of its own name
            "user" => item.about.key == **name,
            "group" => matches!(account, Missing::Group(_)) && item.about.key == **name,
            _ => false,
        })
    }
}

/// What a resource is by its fields alone: nothing of it is asked of the host.
#[derive(Clone, Debug)]
pub struct About {
    /// The kind's name.
    pub kind: &'static str,
    /// What tells it from others of its kind: a path, a name.
    pub key: String,
    /// When its turn is.
    pub phase: Phase,
    /// Ids, and its turn in a catalog that has none of them: a package may make what it needs.
    pub unless_made: Option<(Vec<String>, Phase)>,
    /// What it alone decides about: no other resource may claim it too.
    pub claims: Vec<Claim>,
    /// Ids of resources that come before it if the catalog has them.
    pub after: Vec<String>,
    /// Ids of resources that are changed only after it, as a probe, has passed; the catalog has to have them.
    pub before: Vec<String>,
    /// Ids of resources whose change it answers, and with what.
    pub watches: Vec<(String, Trigger)>,
    /// The slot that it takes before it interrupts something, if it takes one.
    pub slot: Option<String>,
    /// Whether a change of it can cut this host off from its sources and its operators, whatever its claims are on.
    pub cuts_off: bool,
    /// Whether its summaries say nothing of the values of its fields, so that they may be shown even when a secret is in one of them.
    pub is_discreet: bool,
    /// Whether its content is kept out of everything but the file, as the role says.
    pub is_sensitive: bool,
    /// Whether neither a look at it nor a change of it goes anywhere but to its own paths, so that what others have written to theirs need
    /// not be on the disk yet.
    pub is_self_contained: bool,
}

impl About {
    /// A resource that decides about nothing but itself.
    pub fn new(kind: &'static str, key: impl Into<String>, phase: Phase) -> Self {
        let key = key.into();
        Self {
            claims: vec![Claim::thing(kind, &key)],
            kind,
            key,
            phase,
            unless_made: None,
            after: Vec::new(),
            before: Vec::new(),
            watches: Vec::new(),
            slot: None,
            cuts_off: false,
            is_discreet: false,
            is_sensitive: false,
            is_self_contained: false,
        }
    }

    /// What is at a path.
    pub fn at(kind: &'static str, path: &AbsolutePath, phase: Phase) -> Self {
        Self { claims: vec![Claim::path(path)], ..Self::new(kind, path.to_string(), phase) }
    }

    /// `KIND:KEY`.
    pub fn id(&self) -> String {
        format!("{}:{}", self.kind, self.key)
    }

    /// When its turn is on a host for which `has` tells the ids of all resources.
    pub fn turn(&self, has: impl Fn(&str) -> bool) -> Phase {
        match &self.unless_made {
            Some((ids, phase)) if !ids.iter().any(|id| has(id)) => *phase,
            _ => self.phase,
        }
    }

    /// The whole paths that it alone decides about.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.claims.iter().filter_map(Claim::whole_path)
    }

    /// Whether a change of it can cut this host off from its sources and its operators: the network, the firewall, SSH, kpull's own
    /// configuration.
    pub fn can_cut_off(&self) -> bool {
        self.cuts_off || self.claims.iter().any(Claim::cuts_off)
    }

    /// Whether it is of what describes where packages come from, by its paths: that has its turn before the packages.
    pub fn is_of_source(&self) -> bool {
        let is_of_source = |claim: &Claim| claim.any_path().and_then(Path::to_str).is_some_and(packages::is_of_source);
        matches!(self.phase, Phase::Directories | Phase::Files | Phase::Artifacts)
            && self.claims.iter().any(is_of_source)
    }
}

/// One thing on a host that can be observed, compared and changed.
pub trait Resource: fmt::Debug + Any + Send {
    /// What it is.
    fn about(&self) -> About;

    /// Looks at the host; `None` when it is as it should be. Changes nothing.
    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>>;

    /// Makes the host as it should be.
    fn apply(&self, work: &Work<'_>, change: &Change) -> Result<()>;

    /// What can't stay the same when the resource is touched, so that it needs no look while that is as it was; `None` when nothing
    /// tells that.
    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        let _ = work;
        Ok(None)
    }

    /// How the host gets back what it had before, where that is more than whole paths.
    fn restorable(&self) -> Option<&dyn Restorable> {
        None
    }

    /// The text or bytes that it is about, where the fields that a role writes don't say them: what a template came to, the
    /// digest of a pin. By it, one release is compared with another.
    fn content(&self) -> Option<Cow<'_, [u8]>> {
        None
    }

    /// Says what it will ask the host.
    fn announce(&self, wants: &mut Queries) {
        let _ = wants;
    }

    /// Fetches and checks what its change needs, before anything of the whole plan is touched.
    fn prepare(&self, work: &Work<'_>, progress: Progress<'_>) -> Result<()> {
        let _ = (work, progress);
        Ok(())
    }

    /// What is waited for before whatever needs it is changed, if it is something of that sort.
    fn gate(&self) -> Option<&dyn Gate> {
        None
    }

    /// Ids of resources that its change changes too: the other packages of one entry are installed along with the first.
    fn along(&self, work: &Work<'_>) -> Vec<String> {
        let _ = work;
        Vec::new()
    }

    /// What it does when it is owed a restart or reload; `None` when that means nothing now: for a unit that does not run, and in a
    /// tree.
    fn answer(&self, work: &Work<'_>, trigger: Trigger) -> Result<Option<Trigger>> {
        Ok(work.host.is_live().then_some(trigger))
    }

    /// Whether this change would interrupt something that is at work now.
    fn interrupts(&self, work: &Work<'_>, change: &Change) -> Result<bool> {
        let _ = (work, change);
        Ok(false)
    }

    /// What on this host will undo it at the next boot, if anything does.
    fn overruled(&self, work: &Work<'_>) -> Result<Option<Error>> {
        let _ = work;
        Ok(None)
    }
}

/// What a host had in place of a resource, and has again when no role wants the resource any more.
pub trait Restorable {
    /// What is on the host because of it. An error while that is not known.
    fn owned(&self, work: &Work<'_>) -> Result<Vec<Claim>>;

    /// What stands where one of these is.
    fn prior_state(&self, owned: &Claim, work: &Work<'_>) -> Result<PriorState> {
        PriorState::of_path(owned, work)
    }

    /// Adds to an earlier origin what this resource changes and those before it left alone. Whether that was anything.
    fn refine(&self, origin: &mut PriorState, work: &Work<'_>) -> Result<bool> {
        let _ = (origin, work);
        Ok(false)
    }
}

/// What another host, or another program, has to have done before this host goes on.
pub trait Gate {
    /// Waits until that is so, for as long as the role allows; the error is why it is not, for people.
    fn wait(&self, work: &Work<'_>) -> Result<(), String>;
}

impl dyn Resource {
    /// As one of a kind.
    pub fn as_kind<T: Any>(&self) -> Option<&T> {
        let any: &dyn Any = self;
        any.downcast_ref()
    }
}

/// A resource in a catalog.
#[derive(Debug)]
pub struct Item {
    /// `KIND:KEY`, unique in a catalog.
    pub id: String,
    /// The role that it comes from.
    pub role: Arc<str>,
    /// Where it is written.
    pub place: Place,
    /// Ids that come before it, said by the role or derived.
    pub after: Vec<String>,
    /// Ids that come before it where this host has them, and otherwise are another host's.
    pub needs: Vec<String>,
    /// What the resource is.
    pub about: About,
    /// The resource.
    pub resource: Box<dyn Resource>,
    /// Whether a secret is in it.
    pub is_secret: bool,
    /// The rendered fields that the role writes for it; null for what comes with others, as a
    /// unit's files and the ports of a firewall do: their ids tell what they are.
    pub fields: serde_json::Value,
}

impl Item {
    /// A resource that waits for nothing but what it is about.
    pub fn new(resource: Box<dyn Resource>, role: Arc<str>, place: Place) -> Self {
        let about = resource.about();
        Self {
            id: about.id(),
            role,
            place,
            after: Vec::new(),
            needs: Vec::new(),
            about,
            resource,
            is_secret: false,
            fields: serde_json::Value::Null,
        }
    }

    /// As one of a kind.
    pub fn as_kind<T: Any>(&self) -> Option<&T> {
        self.resource.as_kind()
    }

    /// Whether nothing of its content may be written down or shown.
    pub fn is_sensitive(&self) -> bool {
        self.is_secret || self.about.is_sensitive
    }

    /// What is on the host because of it: what stood there before is remembered, and comes back when nothing owns it any more. An error
    /// while that is not known.
    pub fn owned(&self, work: &Work<'_>) -> Result<Vec<Claim>> {
        match self.resource.restorable() {
            Some(restorable) => restorable.owned(work),
            None => Ok(self.about.paths().map(Claim::path).collect()),
        }
    }

    /// What stands where one of these is.
    pub fn prior_state(&self, owned: &Claim, work: &Work<'_>) -> Result<PriorState> {
        self.resource.restorable().map_or_else(|| PriorState::of_path(owned, work), |one| one.prior_state(owned, work))
    }

    /// See [`Restorable::refine`].
    pub fn refine(&self, origin: &mut PriorState, work: &Work<'_>) -> Result<bool> {
        self.resource.restorable().map_or(Ok(false), |one| one.refine(origin, work))
    }
}

/// What a kind's fields are turned into resources with: the role's files and templates, and the pins.
pub trait Build {
    /// A file of the role, from its `files/` directory.
    fn file(&self, name: &str) -> Result<Arc<[u8]>>;

    /// A template of the role, from its `templates/` directory, rendered with the host's variables.
    fn template(&self, name: &str) -> Result<String>;

    /// The pin of an artifact for this host's architecture.
    fn artifact(&self, name: &str) -> Result<Pin>;

    /// The host's name.
    fn host(&self) -> &str;

    /// A file of the site, by its path there.
    fn site_file(&self, path: &str) -> Option<&Arc<[u8]>>;

    /// What `site.toml` says of an authority.
    fn authority(&self, name: &str) -> Result<&AuthorityFields>;

    /// Whether what others are still to put into the site may be missing: for whoever prepares it, and never on a host.
    fn may_lack(&self) -> bool;

    /// A secret of this host; away from the host, a placeholder.
    fn secret(&self, name: &str) -> Result<Secret>;

    /// Whether a secret is in the fields, or in a template that was rendered until now: ask after [`Build::template`].
    /// What has one is kept out of diffs and messages, and readable by nobody but its owner unless the role says more.
    fn is_secret(&self) -> bool;

    /// An error about one field, with its place.
    fn invalid(&self, field: &str, why: &str) -> Error;
}

/// The fields of one kind, as roles write them.
pub trait Fields: DeserializeOwned + JsonSchema {
    /// The kind's name in a role: `[[NAME]]`.
    const NAME: &'static str;

    /// The resources that these fields describe.
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>>;
}

/// One entry of the list of kinds.
#[derive(Debug)]
pub struct Kind {
    /// The kind's name in a role: `[[NAME]]`.
    pub name: &'static str,
    /// The names of its fields.
    pub fields: fn() -> &'static [&'static str],
    /// Its fields as a JSON Schema.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Reads the fields with `read` and builds the resources.
    pub build: BuildFn,
}

/// Builds the resources of one entry in a role: the first argument turns the rendered entry into the kind's fields.
pub type BuildFn = fn(&Entry<'_>, &dyn Build) -> Result<Vec<Box<dyn Resource>>>;

/// One rendered entry of a role, not yet typed.
pub struct Entry<'a> {
    /// The file that it stands in.
    pub doc: &'a Doc,
    /// Where in that file.
    pub path: &'a [String],
    /// Its rendered fields.
    pub value: serde_json::Value,
}

impl Entry<'_> {
    /// As a kind's fields.
    pub fn read<F: Fields>(&self) -> Result<F> {
        self.doc.read_at(self.path, self.value.clone())
    }
}

fn build_as<F: Fields>(entry: &Entry<'_>, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
    entry.read::<F>()?.build(build)
}

macro_rules! kinds {
    ($($module:ident::$fields:ident,)*) => {
        $(pub mod $module;)*
        /// Every kind.
        pub static KINDS: &[Kind] = &[$(Kind {
            name: <$module::$fields as Fields>::NAME,
            fields: fields::names_of::<$module::$fields>,
            schema: <$module::$fields as JsonSchema>::json_schema,
            build: build_as::<$module::$fields>,
        }),*];
    };
}

kinds! {
    absent::AbsentFields,
    artifact::ArtifactFields,
    block::BlockFields,
    certificate::CertificateFields,
    command::CommandFields,
    directory::DirectoryFields,
    etcd_key::EtcdKeyFields,
    etcd_member::EtcdMemberFields,
    file::FileFields,
    firewall::FirewallFields,
    group::GroupFields,
    kube_object::KubeObjectFields,
    module::ModuleFields,
    package::PackageFields,
    probe::ProbeFields,
    repository::RepositoryFields,
    secret::SecretFields,
    slot::SlotFields,
    swap::SwapFields,
    symlink::SymlinkFields,
    sysctl::SysctlFields,
    template::TemplateFields,
    unit::UnitFields,
    user::UserFields,
}

/// The kind with this name.
pub fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_differs_in_secrets_alone_is_more_than_that_beside_a_running_value_that_differs() {
        let file = Change { only_secrets: true, ..Change::new("content") };
        let only_secrets = |parts| Change::of_parts(Some(file.clone()), parts).unwrap().only_secrets;
        assert!(only_secrets(Vec::new()));
        assert!(!only_secrets(vec!["runtime: 0 → 1".to_owned()]));
    }
}
