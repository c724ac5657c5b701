//! The prior state of this host: recorded before the first change, and restored when no role claims its place any more. A rollback to
//! another release rests on it too: what only the newer release has is restored in the same way.

mod divided;

use std::cell::OnceCell;
use std::cmp::Reverse;

use crate::engine::orphan::{Orphan, PruneOrder};
use crate::engine::prelude::*;
use crate::error::Place;
use crate::host::root::FileType;
use crate::kind::Resource;
use crate::kind::prior_state::{self, PriorState};
use crate::kind::sysctl::Sysctl;
use crate::kind::unit::PriorUnit;
use crate::kind::unit::starts_others;

const FILE: &str = "before.json";
/// The role that reports and plans show for orphans.
pub const ROLE: &str = "(orphan)";
/// A larger file is not checked for local edits.
const LARGEST_EDIT: u64 = 16 << 20;

/// The record of one thing that a resource owns on the host.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
struct OwnedItem {
    /// The resource that owns it, or owned it.
    id: ResourceId,
    /// What was there before.
    #[serde(rename = "origin")]
    prior: PriorState,
    /// Units that a change of the resource triggers.
    #[serde(default, rename = "kicks", skip_serializing_if = "Vec::is_empty")]
    triggers: Vec<(ResourceId, Trigger)>,
    /// SHA-256 of the file as kpull wrote it; `None` when that is unknown, or must not be recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made: Option<String>,
    /// Whether nothing was changed here yet, and a package may still install what kpull restores later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    open: bool,
    /// Whether a package of the run brought it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    shipped: bool,
}

impl OwnedItem {
    fn new(id: &ResourceId, prior: PriorState) -> Self {
        Self { id: id.clone(), prior, triggers: Vec::new(), made: None, open: false, shipped: false }
    }

    /// The resource that restores it; `None` if it stays unchanged.
    fn restoration(&self, work: &Work<'_>) -> Result<Option<Box<dyn Resource>>> {
        if let PriorState::Nothing { path } | PriorState::File { path, .. } = &self.prior
            && (self.shipped || self.prior.is_nothing())
            && let Some(file) = prior_state::shipped_beside(path, work)?
        {
            return Ok(Some(file));
        }
        self.prior.resource(work.store)
    }
}

/// What this host had before kpull came, by what resources own.
#[derive(Debug, Default)]
pub struct PriorStates {
    known: BTreeMap<Claim, OwnedItem>,
    /// Whether it differs from what is recorded.
    is_changed: bool,
    /// What must go before something of another type can take its place, by [`PriorStates::orphans`]; with the id of that.
    obstacles: BTreeMap<Claim, ResourceId>,
    /// Paths that orphans and the catalog share.
    divided: HashSet<PathBuf>,
}

impl PriorStates {
    /// Reads the record.
    pub fn load(store: &Store) -> Result<Self> {
        Ok(Self { known: store.read(FILE)?.unwrap_or_default(), ..Self::default() })
    }

    /// Writes the record, if it has changed.
    pub fn save(&mut self, store: &Store) -> Result<()> {
        if self.is_changed {
            store.write(FILE, &self.known)?;
            self.is_changed = false;
        }
        Ok(())
    }

    /// Records what is at each claim that the catalog has for the first time, but for the items that `skip` leaves out. `package` is
    /// the position of the first package that this run changes: later claims stay open until [`PriorStates::close`]. Returns whether
    /// there was anything to record; and the items whose prior state can't be read, which must not be touched.
    pub fn adopt(
        &mut self,
        work: &Work<'_>,
        package: Option<usize>,
        mut skip: impl FnMut(usize) -> bool,
    ) -> (bool, Vec<(usize, Error)>) {
        let mut watchers = watchers(work.catalog);
        let (was_changed, mut failed) = (std::mem::take(&mut self.is_changed), Vec::new());
        let names = OnceCell::new();
        for (at, item) in work.catalog.iter().enumerate() {
            if skip(at) {
                continue;
            }
            let watching = watchers.remove(item.id.as_str()).unwrap_or_default();
            let triggers: Vec<_> = watching.into_iter().map(|(id, trigger)| (id.clone(), trigger)).collect();
            let open = package.is_some_and(|package| at > package) && item.about.phase != Phase::Packages;
            if let Err(error) = self.adopt_one(item, &triggers, open, &names, work) {
                failed.push((at, error));
            }
        }
        let is_new = self.is_changed;
        self.is_changed |= was_changed;
        (is_new, failed)
    }

    /// `names` is what is known already, by place: a claim may be known by another name of its directory.
    fn adopt_one(
        &mut self,
        item: &Item,
        triggers: &[(ResourceId, Trigger)],
        open: bool,
        names: &OnceCell<HashMap<Claim, Claim>>,
        work: &Work<'_>,
    ) -> Result<()> {
        for claim in item.resource.owned(work)? {
            if self.obstacles.contains_key(&claim) {
                continue;
            }
            let open = open || self.is_divided(item, &claim);
            if let Some(known) = self.known.get_mut(&claim) {
                self.is_changed |= known.id != item.id || known.triggers != triggers || known.open;
                (known.id, known.triggers) = (item.id.clone(), triggers.to_vec());
                self.is_changed |= item.resource.refine(&mut known.prior, work)?;
                if known.open && !open {
                    // an earlier run ended before it changed anything here
                    self.close_one(item, &claim, work)?;
                }
                continue;
            }
            // what is there now, through a link, will be missing by then
            let is_blocked = self.is_below_obstacle(&claim);
            let names =
                names.get_or_init(|| self.known.keys().map(|known| (place(known, work.host), known.clone())).collect());
            if !is_blocked
                && let Some(former) = names.get(&place(&claim, work.host))
                && let Some(mut known) = self.known.remove(former).filter(|known| !known.open)
            {
                item.resource.refine(&mut known.prior, work)?;
                self.known.insert(claim, OwnedItem { id: item.id.clone(), triggers: triggers.to_vec(), ..known });
                self.is_changed = true;
                continue;
            }
            let prior = match claim.whole_path().filter(|_| is_blocked) {
                Some(_) => PriorState::Nothing { path: claim.subject() },
                None => item.resource.prior_state(&claim, work)?,
            };
            if let Some(path) = claim.any_path() {
                self.adopt_missing_above(path, &item.id, open, work)?;
            }
            let (open, triggers) = (open && !is_blocked, triggers.to_vec());
            self.known.insert(claim, OwnedItem { triggers, open, ..OwnedItem::new(&item.id, prior) });
            self.is_changed = true;
        }
        Ok(())
    }

    /// Records the missing directories above a path, which are created with it.
    fn adopt_missing_above(&mut self, path: &Path, id: &ResourceId, open: bool, work: &Work<'_>) -> Result<()> {
        // the root is always there
        for dir in path.ancestors().skip(1).filter(|dir| dir.parent().is_some()) {
            let Some(path) = dir.to_str().map(str::to_owned) else { break };
            let claim = Claim::path(dir);
            if self.known.contains_key(&claim) || work.host.root.meta(dir)?.is_some() {
                break;
            }
            self.known.insert(claim, OwnedItem { open, ..OwnedItem::new(id, PriorState::Nothing { path }) });
        }
        Ok(())
    }

    /// Reads the open prior states of an item again, now that the packages before it are there. To be recorded before the item is
    /// changed. Returns whether there were any.
    pub fn close(&mut self, item: &Item, work: &Work<'_>) -> Result<bool> {
        let mut is_new = false;
        for claim in item.resource.owned(work)? {
            if self.known.get(&claim).is_some_and(|known| known.open) {
                self.close_one(item, &claim, work)?;
                is_new = true;
            }
        }
        self.is_changed |= is_new;
        Ok(is_new)
    }

    fn close_one(&mut self, item: &Item, claim: &Claim, work: &Work<'_>) -> Result<()> {
        let Some(known) = self.known.get_mut(claim) else { return Ok(()) };
        let prior = item.resource.prior_state(claim, work)?;
        known.shipped = known.prior.is_nothing() && !prior.is_nothing();
        (known.prior, known.open) = (prior, false);
        for dir in claim.any_path().into_iter().flat_map(Path::ancestors).skip(1) {
            let claim = Claim::path(dir);
            let Some(known) = self.known.get_mut(&claim).filter(|known| known.open) else { continue };
            known.open = false;
            if work.host.root.meta(dir)?.is_some() {
                // the package has created it, not kpull
                self.known.remove(&claim);
            }
        }
        Ok(())
    }

    /// What the catalog no longer has, in the order in which it is restored; and ids of what can't be, and why.
    pub fn orphans(&mut self, work: &Work<'_>) -> (Vec<Orphan>, Vec<(ResourceId, Error)>) {
        let own = self.own(work);
        let mut wanted = with_directories(own.clone());
        self.divided = self.find_divided(&own, work);
        self.obstacles = self.find_obstacles(&wanted, work);
        wanted.retain(|claim| !self.obstacles.contains_key(claim));
        let (mut orphans, mut lost) = (Vec::new(), Vec::new());
        // where nothing was changed, nothing is restored
        let is_left = |(claim, known): &(&Claim, &OwnedItem)| !known.open && !wanted.contains(*claim);
        let mut left = self.known.iter().filter(is_left).peekable();
        // a directory may be wanted by another name
        let mut places = HashSet::new();
        if left.peek().is_some() {
            let wanted = wanted.iter().filter(|claim| !self.is_below_obstacle(claim));
            places.extend(wanted.map(|claim| place(claim, work.host)));
        }
        for (claim, known) in left.filter(|(claim, _)| !places.contains(&place(claim, work.host))) {
            let resource = match known.restoration(work) {
                Ok(Some(resource)) => resource,
                Ok(None) => continue,
                Err(error) => {
                    lost.push((known.id.clone(), error));
                    continue;
                }
            };
            let place = Place { file: FILE.into(), text: "".into(), span: 0..0 };
            let item = Item::new(resource, ROLE.into(), place);
            let order = match (&known.prior, item.about.phase) {
                (PriorState::Unit { state: PriorUnit { running: Some(true), .. }, .. }, _) | (_, Phase::Packages) => {
                    PruneOrder::Last
                }
                (PriorState::Unit { .. }, _) => PruneOrder::First,
                (PriorState::Permissions { .. }, _) => PruneOrder::First,
                _ if self.is_below_obstacle(claim) || self.has_divided(claim) => PruneOrder::First,
                _ => PruneOrder::Middle,
            };
            let (claim, id, triggers) = (claim.clone(), known.id.clone(), known.triggers.clone());
            orphans.push(Orphan { claim, id, item, order, triggers });
        }
        // what is in a directory before the directory, what starts a unit before that unit, and a setting after those that set it
        orphans.sort_by_key(|orphan| {
            let about = &orphan.item.about;
            let is_started = about.kind != "unit" || !starts_others(&about.key);
            let reach = orphan.item.as_kind().map_or(0, Sysctl::reach);
            (orphan.order, Reverse(about.phase), is_started, reach, Reverse(orphan.claim.to_string().len()))
        });
        (orphans, lost)
    }

    /// What earlier releases created at a path where the catalog now has another type: a file or link instead of a directory, or the
    /// reverse.
    fn find_obstacles(&self, wanted: &HashSet<Claim>, work: &Work<'_>) -> BTreeMap<Claim, ResourceId> {
        let ids: HashSet<&ResourceId> = work.catalog.iter().map(|item| &item.id).collect();
        let made = self.known.iter().filter_map(|(claim, known)| match &known.prior {
            PriorState::Nothing { path } if wanted.contains(claim) && !ids.contains(&known.id) => Some((claim, path)),
            _ => None,
        });
        let claims: OnceCell<Vec<(Claim, &Item)>> = OnceCell::new();
        let mut found = BTreeMap::new();
        for (claim, path) in made {
            let claims = claims.get_or_init(|| {
                let owned = |item: &Item| item.resource.owned(work).unwrap_or_default();
                work.catalog.iter().flat_map(|item| owned(item).into_iter().map(move |claim| (claim, item))).collect()
            });
            let Ok(Some(meta)) = work.host.root.meta(path.as_ref()) else { continue };
            let is_directory = meta.what == FileType::Directory;
            let own = claims.iter().find(|(other, _)| other == claim);
            // where no resource has the path itself, one has a path below it
            let is_wrong = own.map_or(!is_directory, |(_, item)| (item.about.kind == "directory") != is_directory);
            let user = own.or_else(|| {
                claims.iter().find(|(other, _)| other.any_path().is_some_and(|below| below.starts_with(path)))
            });
            if let Some((_, item)) = user.filter(|_| is_wrong) {
                found.insert(claim.clone(), item.id.clone());
            }
        }
        found
    }

    /// Whether it, or a path above it, must be removed.
    fn is_below_obstacle(&self, claim: &Claim) -> bool {
        let is_obstacle = |path| self.obstacles.contains_key(&Claim::path(path));
        claim.whole_path().is_some_and(|path| path.ancestors().any(is_obstacle))
    }

    /// Whether an item waits for something of another type to go.
    pub fn is_blocked(&self, item: &Item) -> bool {
        self.obstacles.values().any(|id| *id == item.id)
    }

    /// Everything that the catalog owns. Where a resource can't say what it owns, the record does.
    fn own(&self, work: &Work<'_>) -> HashSet<Claim> {
        let mut claims = HashSet::new();
        for item in work.catalog {
            match item.resource.owned(work) {
                Ok(owned) => claims.extend(owned),
                Err(_) => {
                    let owned = self.known.iter().filter(|(_, known)| known.id == item.id);
                    claims.extend(owned.map(|(claim, _)| claim.clone()));
                }
            }
        }
        claims
    }

    /// Drops the records of what the catalog no longer owns and of what stays unchanged.
    pub fn settle(&mut self, work: &Work<'_>) {
        let wanted = with_directories(self.own(work));
        let count = self.known.len();
        self.known.retain(|claim, known| wanted.contains(claim) || known.prior.comes_back() && !known.open);
        self.is_changed |= self.known.len() != count;
    }

    /// Forgets what was restored. Or it belongs to another resource now, and there was nothing before.
    pub fn forget(&mut self, claim: &Claim) {
        match (self.obstacles.remove(claim), self.known.get_mut(claim)) {
            (Some(id), Some(known)) => {
                (known.id, known.made) = (id, None);
                self.is_changed = true;
            }
            _ => self.is_changed |= self.known.remove(claim).is_some(),
        }
    }

    /// Leaves for good whatever a resource has made. Whether there is such a resource.
    pub fn disown(&mut self, id: &str, why: &str) -> bool {
        let mut found = false;
        for known in self.known.values_mut().filter(|known| known.id == *id) {
            known.prior = PriorState::Kept { why: why.to_owned() };
            found = true;
        }
        self.is_changed |= found;
        found
    }

    /// Ids of every resource that owns something.
    pub fn ids(&self) -> impl Iterator<Item = &ResourceId> {
        self.known.values().map(|known| &known.id)
    }

    /// Resources with an effect that no rollback undoes, and why.
    pub fn leftovers(&self) -> impl Iterator<Item = (&ResourceId, &str)> {
        self.known.values().filter_map(|known| Some((&known.id, known.prior.leftover()?)))
    }

    /// Names of all saved contents that may have to be restored.
    pub fn saved(&self) -> HashSet<String> {
        self.known.values().flat_map(|known| known.prior.saved()).map(str::to_owned).collect()
    }

    /// Saves local edits in the files of an item, or in the file at one `claim`, before they are overwritten or removed. Returns the
    /// paths.
    pub fn save_edits(&self, item: &Item, claim: Option<&Claim>, work: &Work<'_>) -> Result<Vec<String>> {
        let claims = match claim {
            Some(claim) => vec![claim.clone()],
            None => item.resource.owned(work)?,
        };
        let mut saved = Vec::new();
        for claim in claims {
            let Some(path) = claim.whole_path() else { continue };
            let Some(made) = self.known.get(&claim).and_then(|known| known.made.as_deref()) else { continue };
            let is_edited = digest(path, work)?.is_some_and(|digest| digest != made);
            if is_edited && let Some((_, content)) = work.host.root.read(path)? {
                work.store.save_edit(&claim.subject(), &content, || self.saved())?;
                saved.push(claim.subject());
            }
        }
        Ok(saved)
    }

    /// Records the digests of an item's files as kpull wrote them, so that an edit can be recognized; none of a file with a secret.
    pub fn made(&mut self, item: &Item, work: &Work<'_>) -> Result<()> {
        // a saved edit of a secret would be a second copy of it, and its digest alone reveals something
        for claim in item.resource.owned(work)? {
            let Some(path) = claim.whole_path() else { continue };
            let Some(known) = self.known.get_mut(&claim) else { continue };
            let made = match item.resource.content() {
                _ if item.is_sensitive() => None,
                // the resource has the whole file, and no other writes there
                Some(content) if item.about.is_self_contained => {
                    (content.len() as u64 <= LARGEST_EDIT).then(|| hex::encode(Sha256::digest(&*content)))
                }
                _ => digest(path, work)?,
            };
            self.is_changed |= known.made != made;
            known.made = made;
        }
        Ok(())
    }
}

/// What the change of each resource triggers, by its id.
pub type Watchers<'a> = BTreeMap<&'a str, Vec<(&'a ResourceId, Trigger)>>;

/// What the change of each resource triggers.
pub fn watchers(items: &[Item]) -> Watchers<'_> {
    let mut watchers = Watchers::new();
    for item in items {
        for (watched, trigger) in &item.about.watches {
            watchers.entry(watched).or_default().push((&item.id, *trigger));
        }
    }
    watchers
}

/// The claims, and those on the directories above their paths.
fn with_directories(mut claims: HashSet<Claim>) -> HashSet<Claim> {
    let paths: Vec<PathBuf> = claims.iter().filter_map(Claim::any_path).map(Path::to_owned).collect();
    for path in paths {
        for dir in path.ancestors().skip(1) {
            if !claims.insert(Claim::path(dir)) {
                break;
            }
        }
    }
    claims
}

/// The claim with its path resolved on this host: one place has one name, whatever its directories are called.
fn place(claim: &Claim, host: &Host) -> Claim {
    claim.with_place(|path| host.root.place_of(path))
}

/// SHA-256 of the file at a path, in hex; `None` for one that is too large to save edits of.
fn digest(path: &Path, work: &Work<'_>) -> Result<Option<String>> {
    Ok(work.host.root.digest(path, LARGEST_EDIT)?.map(|(_, digest)| digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::TestTree;
    use crate::resolve::testing::catalog;

    /// A tree that has `/etc/x` already.
    fn tree() -> TestTree {
        let tree = TestTree::new();
        std::fs::create_dir(tree.dir.path().join("etc")).unwrap();
        std::fs::write(tree.dir.path().join("etc/x"), "theirs").unwrap();
        tree
    }

    const X: &str = "[[file]]\npath = '/etc/x'\ncontent = 'x'\n";
    const Y: &str = "[[file]]\npath = '/etc/y'\ncontent = 'y'\n";
    const LINK: &str = "[[symlink]]\npath = '/etc/x'\ntarget = 'y'\n";

    #[test]
    fn a_prior_state_is_new_once_and_when_another_resource_takes_it_over() {
        let (tree, mut before) = (tree(), PriorStates::default());
        let mut adopt = |role: &str| tree.with(role, |work| before.adopt(work, None, |_| false).0);
        assert_eq!((adopt(X), adopt(X)), (true, false));
        assert_eq!((adopt(LINK), adopt(LINK)), (true, false));
        assert_eq!((adopt(&format!("{LINK}{Y}")), adopt(LINK)), (true, false));
    }

    #[test]
    fn what_no_role_wants_is_an_orphan_until_it_is_forgotten() {
        let (tree, mut before) = (tree(), PriorStates::default());
        tree.with(&format!("{X}{Y}"), |work| before.adopt(work, None, |_| false).0);
        let orphans = |before: &mut PriorStates, role: &str| -> Vec<String> {
            tree.with(role, |work| before.orphans(work).0.into_iter().map(|one| one.claim.to_string()).collect())
        };
        assert_eq!(orphans(&mut before, &format!("{X}{Y}")).len(), 0);
        assert_eq!(orphans(&mut before, X), ["path:/etc/y"]);
        before.forget(&Claim::path("/etc/y"));
        assert_eq!(orphans(&mut before, X).len(), 0);
        assert_eq!(before.ids().collect::<Vec<_>>(), ["file:/etc/x"]);
    }

    #[test]
    fn what_is_disowned_stays_is_shown_and_is_forgotten_when_no_role_wants_it() {
        let (tree, mut before) = (tree(), PriorStates::default());
        tree.with(&format!("{X}{Y}"), |work| before.adopt(work, None, |_| false).0);
        assert_eq!(before.saved().len(), 1, "what was at /etc/x");
        assert!(!before.disown("file:/etc/z", "why"));
        assert!(before.disown("file:/etc/x", "why"));
        assert_eq!(before.leftovers().collect::<Vec<_>>(), [(&ResourceId::new("file", "/etc/x"), "why")]);
        assert_eq!(before.saved().len(), 0);
        tree.with(&format!("{X}{Y}"), |work| before.settle(work));
        assert_eq!(before.ids().count(), 2, "a role wants both");
        tree.with("", |work| before.settle(work));
        assert_eq!(before.ids().collect::<Vec<_>>(), ["file:/etc/y"], "which is to be restored");
    }

    #[test]
    fn the_record_is_written_when_something_of_it_has_changed_and_only_then() {
        let (tree, mut before) = (tree(), PriorStates::default());
        let path = tree.dir.path().join("state").join(FILE);
        let both = catalog(&format!("{X}{Y}")).unwrap().items;
        let work = Work { host: &tree.host, store: &tree.store, catalog: &both };
        let is_written = |before: &mut PriorStates| {
            before.save(&tree.store).unwrap();
            let is_there = path.exists();
            if is_there {
                std::fs::remove_file(&path).unwrap();
            }
            is_there
        };
        assert!(!is_written(&mut before));
        before.adopt(&work, None, |_| false);
        before.adopt(&work, None, |_| false);
        before.settle(&work);
        before.forget(&Claim::path("/etc/z"));
        before.disown("file:/etc/z", "why");
        assert!(is_written(&mut before), "also when nothing has changed since");
        assert!(!is_written(&mut before), "it is written already");
        before.settle(&work);
        before.forget(&Claim::path("/etc/z"));
        before.disown("file:/etc/z", "why");
        assert!(!is_written(&mut before), "none of this has changed it");
        before.made(&both[0], &work).unwrap();
        before.made(&both[0], &work).unwrap();
        assert!(is_written(&mut before));
        before.made(&both[0], &work).unwrap();
        assert!(!is_written(&mut before), "the file is made as it was");
        before.disown("file:/etc/x", "why");
        assert!(is_written(&mut before));
        tree.with("", |work| before.settle(work));
        assert!(is_written(&mut before));
        before.forget(&Claim::path("/etc/y"));
        assert!(is_written(&mut before));
    }

    #[test]
    fn a_file_is_known_by_what_kpull_wrote_whatever_is_there_now() {
        let (tree, mut before) = (tree(), PriorStates::default());
        let items = catalog(X).unwrap().items;
        let work = Work { host: &tree.host, store: &tree.store, catalog: &items };
        before.adopt(&work, None, |_| false);
        before.made(&items[0], &work).unwrap();
        assert_eq!(before.save_edits(&items[0], None, &work).unwrap(), ["/etc/x"]);
        std::fs::write(tree.dir.path().join("etc/x"), "x").unwrap();
        assert_eq!(before.save_edits(&items[0], None, &work).unwrap(), [""; 0]);
    }

    /// The role's package, which comes first, and what it has.
    fn with_package(tree: &TestTree, test: impl FnOnce(&Work<'_>)) {
        tree.with(&format!("[[package]]\nname = 'p'\n{X}{Y}"), |work| {
            assert_eq!(work.catalog[0].id, "package:p");
            test(work);
        });
    }

    #[test]
    fn what_a_package_of_the_run_brings_is_the_prior_state() {
        let (tree, mut before) = (tree(), PriorStates::default());
        let put = |name: &str, text: &str| std::fs::write(tree.dir.path().join("etc").join(name), text).unwrap();
        let restored = |before: &mut PriorStates, role: &str| -> Vec<String> {
            tree.with(role, |work| before.orphans(work).0.into_iter().map(|one| one.item.id.to_string()).collect())
        };
        with_package(&tree, |work| {
            assert!(before.adopt(work, Some(0), |_| false).0);
            assert_eq!(restored(&mut before, ""), [""; 0], "nothing was changed yet");
            before.save(&tree.store).unwrap();
            // the run ends there, after the package has come; the next one has no package to change
            put("y", "shipped");
            let mut before = PriorStates::load(&tree.store).unwrap();
            assert!(before.adopt(work, None, |_| false).0);
            assert!(!work.catalog.iter().any(|item| before.close(item, work).unwrap()), "it is known already");
            assert_eq!(restored(&mut before, X), ["file:/etc/y"]);
        });
        with_package(&tree, |work| {
            assert!(before.close(&work.catalog[1], work).unwrap());
            assert!(!before.close(&work.catalog[1], work).unwrap());
            put("x", "a role's");
            work.catalog.iter().for_each(|item| assert!(before.close(item, work).is_ok()));
        });
        assert_eq!(restored(&mut before, ""), ["file:/etc/x", "file:/etc/y"]);
        let content = |before: &PriorStates, claim: &str| match &before.known[&Claim::path(claim)].prior {
            PriorState::File { file, .. } => String::from_utf8(tree.store.saved(&file.saved).unwrap()).unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(content(&before, "/etc/x"), "theirs", "what was changed since is not read again");
        assert_eq!(content(&before, "/etc/y"), "shipped");
    }

    #[test]
    fn a_directory_that_a_package_makes_stays_and_another_goes_with_its_files() {
        let (tree, mut before) = (tree(), PriorStates::default());
        let role = "[[package]]\nname = 'p'\n[[file]]\npath = '/etc/p/conf/x'\ncontent = 'x'\n";
        tree.with(role, |work| {
            assert!(before.adopt(work, Some(0), |_| false).0);
            std::fs::create_dir(tree.dir.path().join("etc/p")).unwrap();
            assert!(before.close(&work.catalog[1], work).unwrap());
        });
        let orphans: Vec<String> =
            tree.with("", |work| before.orphans(work).0.into_iter().map(|one| one.claim.to_string()).collect());
        assert_eq!(orphans, ["path:/etc/p/conf/x", "path:/etc/p/conf"]);
    }

    #[test]
    fn what_was_never_changed_is_forgotten_when_no_role_wants_it() {
        let (tree, mut before) = (tree(), PriorStates::default());
        with_package(&tree, |work| assert!(before.adopt(work, Some(0), |_| false).0));
        tree.with("", |work| before.settle(work));
        assert_eq!(before.ids().count(), 0);
    }

    #[test]
    fn the_version_beside_a_shipped_file_is_restored_and_never_replaces_a_local_one() {
        let (tree, mut before) = (tree(), PriorStates::default());
        let put = |name: &str, text: &str| std::fs::write(tree.dir.path().join("etc").join(name), text).unwrap();
        tree.with(&format!("{X}{Y}"), |work| before.adopt(work, None, |_| false).0);
        put("x.dpkg-dist", "shipped");
        put("y.rpmnew", "shipped");
        let back: Vec<_> = tree.with("", |work| {
            let orphans = before.orphans(work).0.into_iter();
            orphans
                .map(|one| (one.claim.to_string(), one.item.resource.content().map(|content| content.into_owned())))
                .collect()
        });
        let wanted = [("path:/etc/x", "theirs"), ("path:/etc/y", "shipped")];
        assert_eq!(back, wanted.map(|(claim, text)| (claim.to_owned(), Some(text.as_bytes().to_vec()))));
    }

    #[test]
    fn a_file_that_is_too_large_to_save_edits_of_is_not_read() {
        let tree = tree();
        let file = std::fs::File::create(tree.dir.path().join("etc/x")).unwrap();
        for (size, read) in [(LARGEST_EDIT, true), (LARGEST_EDIT + 1, false)] {
            file.set_len(size).unwrap();
            assert_eq!(tree.with("", |work| digest("/etc/x".as_ref(), work).unwrap()).is_some(), read, "{size}");
        }
    }

    #[test]
    fn a_unit_that_did_not_run_goes_first_and_one_that_ran_and_packages_go_last() {
        let (tree, mut before) = (tree(), PriorStates::default());
        let unit = |name: &str, running| PriorState::Unit {
            name: name.to_owned(),
            state: PriorUnit { running, ..PriorUnit::default() },
        };
        let package = PriorState::NoPackage { name: "p".to_owned(), manager: None, beside: None, residue: false };
        let nothing = PriorState::Nothing { path: "/etc/y".to_owned() };
        let origins = [unit("old.service", Some(true)), unit("new.service", Some(false)), package, nothing];
        for (id, origin) in ["old", "new", "package", "file"].into_iter().zip(origins) {
            before.known.insert(Claim::thing("x", id), OwnedItem::new(&ResourceId::new("x", id), origin));
        }
        let orphans = tree.with("", |work| before.orphans(work).0);
        let turns: Vec<_> = orphans.iter().map(|one| (one.id.key(), one.order)).collect();
        assert_eq!(
            turns,
            [
                ("new", PruneOrder::First),
                ("file", PruneOrder::Middle),
                ("old", PruneOrder::Last),
                ("package", PruneOrder::Last)
            ]
        );
    }

    #[test]
    fn no_digest_of_a_file_with_a_secret_is_recorded() {
        let tree = tree();
        let is_remembered = |role: &str, is_secret| {
            let mut items = catalog(role).unwrap().items;
            items[0].is_secret = is_secret;
            let work = Work { host: &tree.host, store: &tree.store, catalog: &items };
            let mut before = PriorStates::default();
            before.adopt(&work, None, |_| false);
            before.made(&items[0], &work).unwrap();
            before.known[&Claim::path("/etc/x")].made.is_some()
        };
        assert!(is_remembered(X, false));
        assert!(!is_remembered(X, true));
        assert!(!is_remembered(&format!("{X}sensitive = true\n"), false));
    }
}
