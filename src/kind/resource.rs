//! What every kind of resource does, what it says about itself, and what it gets to work with.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::document::ResourceId;
use crate::document::fields::AbsolutePath;
use crate::error::{Error, Place, Result, one_line};
use crate::host::systemd::Trigger;
use crate::host::watched::WatchedInput;
use crate::host::{Host, Missing, Queries, packages};
use crate::kind::claim::Claim;
use crate::kind::diff::Diff;
use crate::kind::prior_state::PriorState;
use crate::store::{Progress, Store};

/// When a resource has its turn, unless something that the catalog names says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Users and groups.
    #[default]
    Accounts,
    /// Package sources: files, keys, directories, recognized by their paths.
    Sources,
    /// Packages.
    Packages,
    /// Who is in which group: packages make groups.
    Members,
    /// Directories.
    Directories,
    /// Files, links, blocks, and paths that must not exist.
    Files,
    /// Upstream binaries.
    Artifacts,
    /// Modes and owners of what packages and others make.
    Permissions,
    /// Kernel settings, modules, swap.
    Kernel,
    /// Firewall.
    Firewall,
    /// Units that must stop: another unit may now use what they occupy, such as a port.
    Stops,
    /// Commands.
    Commands,
    /// Units.
    Units,
    /// Probes.
    Probes,
}

/// The effect of a change on a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// The resource did not exist.
    Added,
    /// The resource will no longer exist.
    Removed,
    /// The resource exists before and after.
    #[default]
    Changed,
}

/// The difference between a resource and the host.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// The effect on the resource.
    pub what: Effect,
    /// What the change does, in a few words: `create`, `mode 0644 → 0600`, `start`.
    pub summary: String,
    /// The diff of its text.
    pub diff: Option<Diff>,
    /// A pending restart or reload: another resource changed, or the unit's check fails.
    pub trigger: Option<Trigger>,
    /// Whether only secrets differ, as far as that is known when the catalog contains placeholders for them.
    pub only_secrets: bool,
    /// Links that the change removes, and directories that become empty.
    pub unlinks: Vec<PathBuf>,
}

impl Change {
    /// A change with nothing to show but its summary.
    pub fn new(summary: impl Into<String>) -> Self {
        Self { summary: one_line(&summary.into()), ..Self::default() }
    }

    /// [`Change::new`] for a resource that does not exist yet.
    pub fn addition(summary: impl Into<String>) -> Self {
        Self { what: Effect::Added, ..Self::new(summary) }
    }

    /// [`Change::new`] for a resource that is removed.
    pub fn removal(summary: impl Into<String>) -> Self {
        Self { what: Effect::Removed, ..Self::new(summary) }
    }

    /// Marks the change as an addition if `is_added`.
    #[must_use]
    pub fn added_if(self, is_added: bool) -> Self {
        if is_added { Self { what: Effect::Added, ..self } } else { self }
    }

    /// The change of a resource's file, together with other differences of the resource.
    pub fn of_parts(file: Option<Self>, parts: Vec<String>) -> Option<Self> {
        let (summary, rest) = (file.as_ref().map(|file| file.summary.clone()), file.unwrap_or_default());
        let only_secrets = rest.only_secrets && parts.is_empty();
        let change = Self::of(summary.into_iter().chain(parts).collect())?;
        Some(Self { summary: change.summary, only_secrets, ..rest })
    }

    /// One change for all differences; `None` if there are none.
    pub fn of(parts: Vec<String>) -> Option<Self> {
        (!parts.is_empty()).then(|| Self::new(parts.join(", ")))
    }
}

/// What resources need to observe and change a host.
pub struct Work<'a> {
    /// The machine, or the tree.
    pub host: &'a Host,
    /// The state directory.
    pub store: &'a Store,
    /// Every resource of the host.
    pub catalog: &'a [Item],
}

impl Work<'_> {
    /// The host if it runs; `None` for a tree.
    pub fn live(&self) -> Option<&Host> {
        Some(self.host).filter(|host| host.is_live())
    }

    /// Whether an account that the host lacks may exist by the time it is needed: the catalog, a package or a command can create it.
    pub fn may_make(&self, account: &Missing) -> bool {
        let (Missing::User(name) | Missing::Group(name)) = account;
        self.catalog.iter().any(|item| match item.about.kind {
            "package" | "command" => self.host.is_live(),
            // with a group of its own name
            "user" => item.about.key == **name && item.about.phase == Phase::Accounts,
            "group" => matches!(account, Missing::Group(_)) && item.about.key == **name,
            _ => false,
        })
    }

    /// Whether a tree lacks an account that a package or a command may create on the running host.
    pub fn comes_later(&self, account: &Missing) -> bool {
        !self.host.is_live() && !self.may_make(account) && self.has_one_of(&["package", "command"])
    }

    /// Whether the catalog has a resource of one of these kinds, which can create what the host lacks now.
    pub fn has_one_of(&self, kinds: &[&str]) -> bool {
        self.catalog.iter().any(|item| kinds.contains(&item.about.kind))
    }
}

/// What the fields of a resource say about it, without a look at the host.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The kind's name.
    pub kind: &'static str,
    /// What distinguishes it from others of its kind: a path, a name.
    pub key: String,
    /// When it is applied.
    pub phase: Phase,
    /// Ids, and its phase in a catalog without any of them: a package may create what it needs.
    pub phase_without: Option<(Vec<ResourceId>, Phase)>,
    /// What it owns: no other resource may claim the same.
    pub claims: Vec<Claim>,
    /// Whether the prior state of all that it claims is recorded, and not only that of whole paths.
    pub is_recorded: bool,
    /// Ids of resources that are applied before it, if the catalog has them; beside those that it watches.
    pub after: Vec<ResourceId>,
    /// Ids of resources that change only after this probe has passed; the catalog must have them.
    pub before: Vec<String>,
    /// Ids of resources whose change triggers a restart or reload of this one.
    pub watches: Vec<(String, Trigger)>,
    /// The slot that it acquires before it interrupts something, if any.
    pub slot: Option<String>,
    /// Paths at and below which resources change only after this one.
    pub covers: Vec<PathBuf>,
    /// See [`Resource::watched_inputs`]; a resource for which this depends on the host has the method instead.
    pub watched: Option<Vec<WatchedInput>>,
    /// Whether resources that need it [wait](Resource::wait) for something.
    pub is_gate: bool,
    /// Whether a change can cut this host off from its sources and operators, whatever it claims.
    pub cuts_off: bool,
    /// Whether its summaries contain no values of its fields, so that they can be shown even if a field contains a secret.
    pub is_discreet: bool,
    /// Whether the role keeps its content out of everything except the file itself.
    pub is_sensitive: bool,
    /// Whether observing and changing it touches only its own paths, so that earlier writes to other paths need not be
    /// on the disk yet.
    pub is_self_contained: bool,
}

impl About {
    /// A resource that claims only itself.
    pub fn new(kind: &'static str, key: impl Into<String>, phase: Phase) -> Self {
        let key = key.into();
        Self { claims: vec![Claim::thing(kind, &key)], kind, key, phase, ..Self::default() }
    }

    /// A resource that claims a path.
    pub fn at(kind: &'static str, path: &AbsolutePath, phase: Phase) -> Self {
        let watched = Some(vec![WatchedInput::Path(path.to_path_buf())]);
        Self { claims: vec![Claim::path(path)], watched, ..Self::new(kind, path.to_string(), phase) }
    }

    /// With more claims.
    #[must_use]
    pub fn claiming(mut self, more: impl IntoIterator<Item = Claim>) -> Self {
        self.claims.extend(more);
        self
    }

    /// With the prior state of all that it claims.
    #[must_use]
    pub fn recorded(self) -> Self {
        Self { is_recorded: true, ..self }
    }

    /// Its id, as other resources refer to it.
    pub fn id(&self) -> ResourceId {
        ResourceId::new(self.kind, &self.key)
    }

    /// Its phase in a catalog for which `has` knows the ids.
    pub fn turn(&self, has: impl Fn(&ResourceId) -> bool) -> Phase {
        match &self.phase_without {
            Some((ids, phase)) if !ids.iter().any(has) => *phase,
            _ => self.phase,
        }
    }

    /// The whole paths that it owns.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.claims.iter().filter_map(Claim::whole_path)
    }

    /// Whether it changes only after a resource that [covers](About::covers) directories: all that it claims is in them. Directories themselves
    /// come earlier.
    pub fn is_covered_by(&self, other: &Self) -> bool {
        let is_covered = |claim: &Claim| {
            claim.any_path().is_some_and(|path| other.covers.iter().any(|directory| path.starts_with(directory)))
        };
        self.phase >= Phase::Files && !self.claims.is_empty() && self.claims.iter().all(is_covered)
    }

    /// Whether a change can cut this host off from its sources and operators: network, firewall, SSH, kpull's own
    /// configuration.
    pub fn can_cut_off(&self) -> bool {
        self.cuts_off || self.claims.iter().any(Claim::cuts_off)
    }

    /// Whether it configures a package repository, by its paths: it is then applied before the packages.
    pub fn is_of_source(&self) -> bool {
        let is_of_source = |claim: &Claim| claim.any_path().and_then(Path::to_str).is_some_and(packages::is_of_source);
        matches!(self.phase, Phase::Directories | Phase::Files | Phase::Artifacts)
            && self.claims.iter().any(is_of_source)
    }
}

/// One thing on a host that can be observed, compared and changed.
pub trait Resource: fmt::Debug + Any + Send + Sync {
    /// What it is.
    fn about(&self) -> About;

    /// Compares the host with the resource; `None` if they match. Changes nothing.
    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>>;

    /// Changes the host to match the resource.
    fn apply(&self, work: &Work<'_>, change: &Change) -> Result<()>;

    // What can be skipped.

    /// The inputs that change whenever the resource changes: while they are unchanged, it is not observed again. `None` if there are
    /// no such inputs.
    fn watched_inputs(&self, _work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        Ok(self.about().watched)
    }

    // What can be restored.

    /// What the host has because of it: the prior state is recorded, and restored when nothing owns it any more. An error while that
    /// is not known.
    fn owned(&self, _work: &Work<'_>) -> Result<Vec<Claim>> {
        let about = self.about();
        Ok(if about.is_recorded { about.claims } else { about.paths().map(Claim::path).collect() })
    }

    /// The state that one of these replaces.
    fn prior_state(&self, owned: &Claim, work: &Work<'_>) -> Result<PriorState> {
        PriorState::of_path(owned, work)
    }

    /// Adds to a recorded prior state what this resource changes and earlier ones did not. Returns whether that was anything.
    fn refine(&self, _prior: &mut PriorState, _work: &Work<'_>) -> Result<bool> {
        Ok(false)
    }

    // What it is, beside its fields.

    /// Its content where the fields don't show it: a rendered template, the digest of a pin. Used to compare
    /// releases.
    fn content(&self) -> Option<Cow<'_, [u8]>> {
        None
    }

    /// What two roles must agree on if both define it: by default everything in its fields, all of which the debug format shows.
    fn definition(&self) -> String {
        format!("{self:?}")
    }

    /// Whether it only adds to what another role defines.
    fn is_addition(&self) -> bool {
        false
    }

    // What comes before, with and after its change.

    /// Announces what it will query, so that each query is made once for all resources.
    fn announce(&self, _queries: &mut Queries) {}

    /// Fetches and checks what its change needs, before the plan changes anything.
    fn prepare(&self, _work: &Work<'_>, _progress: Progress<'_>) -> Result<()> {
        Ok(())
    }

    /// Waits, as long as the role allows, for what another host or program must have done before this host continues; the error says why
    /// it has not happened, for people. See [`About::is_gate`].
    fn wait(&self, _work: &Work<'_>) -> Result<(), String> {
        Ok(())
    }

    /// Ids of resources that its change also changes: the packages of one entry are installed together.
    fn along(&self, _work: &Work<'_>) -> Vec<ResourceId> {
        Vec::new()
    }

    /// How it reacts to a pending restart or reload; `None` if it does not, like a unit that does not run, or anything in a
    /// tree.
    fn answer(&self, work: &Work<'_>, trigger: Trigger) -> Result<Option<Trigger>> {
        Ok(work.host.is_live().then_some(trigger))
    }

    /// Whether the change would interrupt something that runs now.
    fn interrupts(&self, _work: &Work<'_>, _change: &Change) -> Result<bool> {
        Ok(false)
    }

    /// The error for something on this host that will undo it at the next boot, or leaves it without effect, if there is any.
    fn overruled(&self, _work: &Work<'_>) -> Result<Option<Error>> {
        Ok(None)
    }
}

impl dyn Resource {
    /// The resource as a kind's type.
    pub fn as_kind<T: Any>(&self) -> Option<&T> {
        let any: &dyn Any = self;
        any.downcast_ref()
    }
}

/// A resource in a catalog.
#[derive(Debug)]
pub struct Item {
    /// Its id.
    pub id: ResourceId,
    /// The role that it comes from.
    pub role: Arc<str>,
    /// Where it is defined.
    pub place: Place,
    /// Ids of resources that come before it, from the role or derived.
    pub after: Vec<String>,
    /// Ids of resources that come before it if this host has them; otherwise they belong to another host.
    pub needs: Vec<String>,
    /// What its change triggers, by id.
    pub notify: Vec<(String, Trigger)>,
    /// Other roles that define it too, and where.
    pub also: Vec<(Arc<str>, Place)>,
    /// What the resource is.
    pub about: About,
    /// The resource.
    pub resource: Box<dyn Resource>,
    /// Whether it contains a secret.
    pub is_secret: bool,
    /// Its fields as rendered; null for what is derived, like the files of a unit: their ids say what
    /// they are.
    pub fields: serde_json::Value,
}

impl Item {
    /// A resource without explicit ordering.
    pub fn new(resource: Box<dyn Resource>, role: Arc<str>, place: Place) -> Self {
        let about = resource.about();
        Self {
            id: about.id(),
            role,
            place,
            after: Vec::new(),
            needs: Vec::new(),
            notify: Vec::new(),
            also: Vec::new(),
            about,
            resource,
            is_secret: false,
            fields: serde_json::Value::Null,
        }
    }

    /// The roles that define it.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&*self.role).chain(self.also.iter().map(|(role, _)| &**role))
    }

    /// The resource as a kind's type.
    pub fn as_kind<T: Any>(&self) -> Option<&T> {
        self.resource.as_kind()
    }

    /// Whether its content must not be recorded or shown.
    pub fn is_sensitive(&self) -> bool {
        self.is_secret || self.about.is_sensitive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_not_only_of_secrets_if_the_running_value_differs_too() {
        let file = Change { only_secrets: true, ..Change::new("content") };
        let only_secrets = |parts| Change::of_parts(Some(file.clone()), parts).unwrap().only_secrets;
        assert!(only_secrets(Vec::new()));
        assert!(!only_secrets(vec!["runtime: 0 → 1".to_owned()]));
    }
}
