//! What stood on this host before kpull came: remembered before the first change, and given back when no role wants the place
//! any more. Going back to another release rests on it too: what only the newer one has is given back like this.

use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Place, Result};
use crate::host::Host;
use crate::host::root::FileType;
use crate::kind::prior_state::{self, PriorState, PriorUnit};
use crate::kind::sysctl::Sysctl;
use crate::kind::unit::starts_others;
use crate::kind::{Change, Claim, Item, Phase, Resource, Trigger, Work};
use crate::store::Store;

const FILE: &str = "before.json";
/// The role that is named for what is given back.
pub const ROLE: &str = "(gone)";
/// A larger file is not looked into for local edits.
const LARGEST_EDIT: u64 = 16 << 20;

/// One thing that a resource owns on the host: whose it is, and what stood there.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
struct OwnedItem {
    /// The resource that has, or had, it.
    id: String,
    /// What stood there.
    origin: PriorState,
    /// Units that answer a change of the resource.
    #[serde(default, rename = "kicks", skip_serializing_if = "Vec::is_empty")]
    triggers: Vec<(String, Trigger)>,
    /// SHA-256 of the file as kpull left it; `None` when that is not known, or not to be written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made: Option<String>,
    /// Whether nothing was changed here yet and a package may still bring what stands here: what kpull restores is then
    /// what the package ships.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    open: bool,
    /// Whether it is what a package of the run has brought.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    shipped: bool,
}

impl OwnedItem {
    fn new(id: &str, origin: PriorState) -> Self {
        Self { id: id.to_owned(), origin, triggers: Vec::new(), made: None, open: false, shipped: false }
    }

    /// What gives it back; `None` for what is left as it is.
    fn back(&self, work: &Work<'_>) -> Result<Option<Box<dyn Resource>>> {
        match &self.origin {
            PriorState::Nothing { path } | PriorState::File { path, .. }
                if self.shipped || self.origin.is_nothing() =>
            {
                match prior_state::shipped_beside(path, work)? {
                    Some(file) => Ok(Some(file)),
                    None => self.origin.resource(work.store),
                }
            }
            origin => origin.resource(work.store),
        }
    }
}

/// What stood on this host before kpull came, by what resources own.
#[derive(Debug, Default)]
pub struct PriorStates {
    known: BTreeMap<Claim, OwnedItem>,
    /// Whether it is not what is written down.
    is_changed: bool,
    /// What has to go before something of another type can have its place, by [`PriorStates::gone`]; with the id of that.
    in_way: BTreeMap<Claim, String>,
}

/// Something that no role wants any more, to be given back.
#[derive(Debug)]
pub struct Orphan {
    /// What the resource owned.
    pub mark: Claim,
    /// The resource that had it.
    pub id: String,
    /// What gives it back.
    pub item: Item,
    /// When its turn is.
    pub turn: PruneOrder,
    /// Units that are to know.
    pub triggers: Vec<(String, Trigger)>,
}

/// When the turn of something gone is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PruneOrder {
    /// Before everything: a unit that is to stop.
    First,
    /// After what only lies there, and before the first unit or command.
    Middle,
    /// After all units: one that ran before, and packages.
    Last,
}

impl Orphan {
    /// The restart of a unit that ran before and runs still, when what it runs with is given back.
    pub fn restart(&self, with_others: bool) -> Option<Change> {
        let is_due = with_others && self.turn == PruneOrder::Last && self.item.about.kind == "unit";
        is_due.then(|| Change { trigger: Some(Trigger::Restart), ..Change::new("restart") })
    }

    /// The path that it is about.
    pub fn path(&self) -> Option<PathBuf> {
        self.mark.any_path().map(Path::to_owned)
    }

    /// The removal of a directory that has nothing in it but what is given back before.
    pub fn empties(&self, leaves: &HashSet<PathBuf>, host: &Host) -> Result<Option<Change>> {
        let Some(path) = self.path().filter(|_| self.item.about.kind == "absent") else { return Ok(None) };
        let names = host.root.names(&path)?;
        let all = !names.is_empty() && names.iter().all(|name| leaves.contains(&path.join(name)));
        Ok(all.then(|| Change::removal("remove the directory")))
    }
}

impl PriorStates {
    /// What is remembered.
    pub fn load(store: &Store) -> Result<Self> {
        Ok(Self { known: store.read(FILE)?.unwrap_or_default(), ..Self::default() })
    }

    /// Writes it down, if it is not what was read.
    pub fn save(&mut self, store: &Store) -> Result<()> {
        if self.is_changed {
            store.write(FILE, &self.known)?;
            self.is_changed = false;
        }
        Ok(())
    }

    /// Remembers what stands where the catalog has something for the first time, but for what `skip` leaves out. `package` is the
    /// position of the first package that this run changes: what comes after it stays open until [`PriorStates::close`]. Returns whether
    /// that was anything; and what can't be remembered, so that it must not be touched.
    pub fn adopt(
        &mut self,
        work: &Work<'_>,
        package: Option<usize>,
        mut skip: impl FnMut(usize) -> bool,
    ) -> (bool, Vec<(usize, Error)>) {
        let mut triggers: BTreeMap<&str, Vec<(String, Trigger)>> = BTreeMap::new();
        for item in work.catalog {
            for (watched, trigger) in &item.about.watches {
                triggers.entry(watched).or_default().push((item.id.clone(), *trigger));
            }
        }
        let (was_changed, mut failed) = (std::mem::take(&mut self.is_changed), Vec::new());
        let names = OnceCell::new();
        for (at, item) in work.catalog.iter().enumerate() {
            let triggers = triggers.remove(item.id.as_str()).unwrap_or_default();
            if skip(at) {
                continue;
            }
            let open = package.is_some_and(|package| at > package) && item.about.phase != Phase::Packages;
            if let Err(error) = self.adopt_one(item, &triggers, open, &names, work) {
                failed.push((at, error));
            }
        }
        let is_new = self.is_changed;
        self.is_changed |= was_changed;
        (is_new, failed)
    }

    /// `names` is what is known already, by place: one may be known by another name of its directory.
    fn adopt_one(
        &mut self,
        item: &Item,
        triggers: &[(String, Trigger)],
        open: bool,
        names: &OnceCell<HashMap<Claim, Claim>>,
        work: &Work<'_>,
    ) -> Result<()> {
        for mark in item.owned(work)? {
            if self.in_way.contains_key(&mark) {
                continue;
            }
            if let Some(known) = self.known.get_mut(&mark) {
                self.is_changed |= known.id != item.id || known.triggers != triggers || known.open;
                (known.id, known.triggers) = (item.id.clone(), triggers.to_vec());
                self.is_changed |= item.refine(&mut known.origin, work)?;
                if known.open && !open {
                    // an earlier run ended before it changed anything here
                    self.close_one(item, &mark, work)?;
                }
                continue;
            }
            // what is seen there now, through a link, has gone by then
            let is_in_way = self.is_in_way(&mark);
            let names =
                names.get_or_init(|| self.known.keys().map(|known| (place(known, work.host), known.clone())).collect());
            if !is_in_way
                && let Some(former) = names.get(&place(&mark, work.host))
                && let Some(mut known) = self.known.remove(former).filter(|known| !known.open)
            {
                item.refine(&mut known.origin, work)?;
                self.known.insert(mark, OwnedItem { id: item.id.clone(), triggers: triggers.to_vec(), ..known });
                self.is_changed = true;
                continue;
            }
            let origin = match mark.whole_path().filter(|_| is_in_way) {
                Some(_) => PriorState::Nothing { path: mark.subject() },
                None => item.prior_state(&mark, work)?,
            };
            if let Some(path) = mark.any_path() {
                self.adopt_missing_above(path, &item.id, open, work)?;
            }
            let open = open && !is_in_way;
            self.known
                .insert(mark, OwnedItem { triggers: triggers.to_vec(), open, ..OwnedItem::new(&item.id, origin) });
            self.is_changed = true;
        }
        Ok(())
    }

    /// Remembers the directories above a path that there are none of: they are made along with it.
    fn adopt_missing_above(&mut self, path: &Path, id: &str, open: bool, work: &Work<'_>) -> Result<()> {
        // the root is always there
        for dir in path.ancestors().skip(1).filter(|dir| dir.parent().is_some()) {
            let Some(path) = dir.to_str().map(str::to_owned) else { break };
            let mark = Claim::path(dir);
            if self.known.contains_key(&mark) || work.host.root.meta(dir)?.is_some() {
                break;
            }
            self.known.insert(mark, OwnedItem { open, ..OwnedItem::new(id, PriorState::Nothing { path }) });
        }
        Ok(())
    }

    /// Looks again at what stands where an item has not changed anything yet, now that the packages before it are there. To be
    /// written down before the item is changed. Returns whether that was anything.
    pub fn close(&mut self, item: &Item, work: &Work<'_>) -> Result<bool> {
        let mut is_new = false;
        for mark in item.owned(work)? {
            if self.known.get(&mark).is_some_and(|known| known.open) {
                self.close_one(item, &mark, work)?;
                is_new = true;
            }
        }
        self.is_changed |= is_new;
        Ok(is_new)
    }

    fn close_one(&mut self, item: &Item, mark: &Claim, work: &Work<'_>) -> Result<()> {
        let Some(known) = self.known.get_mut(mark) else { return Ok(()) };
        let origin = item.prior_state(mark, work)?;
        known.shipped = known.origin.is_nothing() && !origin.is_nothing();
        (known.origin, known.open) = (origin, false);
        let above = mark.any_path().into_iter().flat_map(Path::ancestors).skip(1);
        for dir in above {
            let mark = Claim::path(dir);
            let Some(known) = self.known.get_mut(&mark).filter(|known| known.open) else { continue };
            known.open = false;
            if work.host.root.meta(dir)?.is_some() {
                // the package has made it, not kpull
                self.known.remove(&mark);
            }
        }
        Ok(())
    }

    /// What the catalog has no more, in the order in which it is given back; and ids of what can't be, and why.
    pub fn gone(&mut self, work: &Work<'_>) -> (Vec<Orphan>, Vec<(String, Error)>) {
        let mut wanted = self.wanted(work);
        self.in_way = self.in_way(&wanted, work);
        let is_in_way = |mark: &Claim| self.is_in_way(mark);
        wanted.retain(|mark| !self.in_way.contains_key(mark));
        let (mut gone, mut lost) = (Vec::new(), Vec::new());
        // where nothing was changed, nothing is to be restored
        let is_left = |(mark, known): &(&Claim, &OwnedItem)| !known.open && !wanted.contains(*mark);
        let mut left = self.known.iter().filter(is_left).peekable();
        // a directory may have another name, by which it is wanted
        let places: HashSet<Claim> = match left.peek() {
            Some(_) => wanted.iter().filter(|mark| !is_in_way(mark)).map(|mark| place(mark, work.host)).collect(),
            None => HashSet::new(),
        };
        for (mark, known) in left.filter(|(mark, _)| !places.contains(&place(mark, work.host))) {
            let resource = match known.back(work) {
                Ok(Some(resource)) => resource,
                Ok(None) => continue,
                Err(error) => {
                    lost.push((known.id.clone(), error));
                    continue;
                }
            };
            let place = Place { file: FILE.into(), text: "".into(), span: 0..0 };
            let item = Item::new(resource, ROLE.into(), place);
            let turn = match (&known.origin, item.about.phase) {
                (PriorState::Unit { state: PriorUnit { running: Some(true), .. }, .. }, _) | (_, Phase::Packages) => {
                    PruneOrder::Last
                }
                (PriorState::Unit { .. }, _) => PruneOrder::First,
                _ if is_in_way(mark) => PruneOrder::First,
                _ => PruneOrder::Middle,
            };
            gone.push(Orphan {
                mark: mark.clone(),
                id: known.id.clone(),
                item,
                turn,
                triggers: known.triggers.clone(),
            });
        }
        // what lies in a directory goes before the directory, what starts a unit before that unit, and a setting after those that set it
        gone.sort_by_key(|one| {
            let about = &one.item.about;
            let is_started = about.kind != "unit" || !starts_others(&about.key);
            let reach = one.item.as_kind().map_or(0, Sysctl::reach);
            (one.turn, Reverse(about.phase), is_started, reach, Reverse(one.mark.as_str().len()))
        });
        (gone, lost)
    }

    /// What earlier releases made where the catalog has something of another type now: a file or link in place of a directory, or the
    /// other way round.
    fn in_way(&self, wanted: &HashSet<Claim>, work: &Work<'_>) -> BTreeMap<Claim, String> {
        let ids: HashSet<&str> = work.catalog.iter().map(|item| item.id.as_str()).collect();
        let candidates: Vec<(&Claim, &String)> = self
            .known
            .iter()
            .filter(|(mark, known)| wanted.contains(*mark) && !ids.contains(known.id.as_str()))
            .filter_map(|(mark, known)| match &known.origin {
                PriorState::Nothing { path } => Some((mark, path)),
                _ => None,
            })
            .collect();
        let mut found = BTreeMap::new();
        if candidates.is_empty() {
            return found;
        }
        let marks = |item: &Item| item.owned(work).unwrap_or_default();
        let claims: Vec<(Claim, &Item)> =
            work.catalog.iter().flat_map(|item| marks(item).into_iter().map(move |mark| (mark, item))).collect();
        for (mark, path) in candidates {
            let Ok(Some(meta)) = work.host.root.meta(path.as_ref()) else { continue };
            let is_directory = meta.what == FileType::Directory;
            let claim = claims.iter().find(|(claim, _)| claim == mark);
            // where no resource has the path itself, one has a path below it
            let is_wrong = claim.map_or(!is_directory, |(_, item)| (item.about.kind == "directory") != is_directory);
            let user = claim.or_else(|| {
                claims.iter().find(|(claim, _)| claim.any_path().is_some_and(|below| below.starts_with(path)))
            });
            if let Some((_, item)) = user.filter(|_| is_wrong) {
                found.insert(mark.clone(), item.id.clone());
            }
        }
        found
    }

    /// Whether it, or a path above it, has to go.
    fn is_in_way(&self, mark: &Claim) -> bool {
        Path::new(mark.as_str()).ancestors().filter_map(Path::to_str).any(|mark| self.in_way.contains_key(mark))
    }

    /// Whether what an item is to be waits for something of another type to go.
    pub fn is_in_way_of(&self, item: &Item) -> bool {
        self.in_way.values().any(|id| *id == item.id)
    }

    /// Everything that the catalog owns, with the directories above its paths. What a resource can't tell of itself is what is known of it.
    fn wanted(&self, work: &Work<'_>) -> HashSet<Claim> {
        let mut marks = HashSet::new();
        for item in work.catalog {
            match item.owned(work) {
                Ok(own) => marks.extend(own),
                Err(_) => {
                    let own = self.known.iter().filter(|(_, known)| known.id == item.id);
                    marks.extend(own.map(|(mark, _)| mark.clone()));
                }
            }
        }
        let paths: Vec<PathBuf> = marks.iter().filter_map(Claim::any_path).map(Path::to_owned).collect();
        for path in paths {
            for dir in path.ancestors().skip(1) {
                if !marks.insert(Claim::path(dir)) {
                    break;
                }
            }
        }
        marks
    }

    /// What the catalog owns no more and is left as it is: nothing is to be known of it any longer.
    pub fn settle(&mut self, work: &Work<'_>) {
        let wanted = self.wanted(work);
        let count = self.known.len();
        self.known.retain(|mark, known| wanted.contains(mark) || known.origin.comes_back() && !known.open);
        self.is_changed |= self.known.len() != count;
    }

    /// Nothing is to be known of it any longer: it was given back. Or it is another resource's now, and there was nothing before.
    pub fn forget(&mut self, mark: &Claim) {
        match (self.in_way.remove(mark), self.known.get_mut(mark)) {
            (Some(id), Some(known)) => {
                (known.id, known.made) = (id, None);
                self.is_changed = true;
            }
            _ => self.is_changed |= self.known.remove(mark).is_some(),
        }
    }

    /// Whatever a resource has made stays for good. Whether there is such a resource.
    pub fn disown(&mut self, id: &str, why: &str) -> bool {
        let mut found = false;
        for known in self.known.values_mut().filter(|known| known.id == id) {
            known.origin = PriorState::Kept { why: why.to_owned() };
            found = true;
        }
        self.is_changed |= found;
        found
    }

    /// Ids of every resource that owns something.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.known.values().map(|known| known.id.as_str())
    }

    /// Resources of which something is left as it is, and why: what no way back undoes.
    pub fn leftovers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.known.values().filter_map(|known| Some((known.id.as_str(), known.origin.leftover()?)))
    }

    /// Names of all contents that may have to come back.
    pub fn saved(&self) -> HashSet<String> {
        let saved = |known: &OwnedItem| known.origin.saved().map(str::to_owned);
        self.known.values().filter_map(saved).collect()
    }

    /// Saves what somebody has edited in the files of an item, before they are overwritten or removed. The paths.
    pub fn save_edits(&self, item: &Item, mark: Option<&Claim>, work: &Work<'_>) -> Result<Vec<String>> {
        let marks = match mark {
            Some(mark) => vec![mark.clone()],
            None => item.owned(work)?,
        };
        let mut saved = Vec::new();
        for mark in marks {
            let Some(path) = mark.whole_path() else { continue };
            let Some(made) = self.known.get(&mark).and_then(|known| known.made.as_deref()) else { continue };
            match digest(path, work)? {
                Some(digest) if digest != made => {}
                _ => continue,
            }
            if let Some((_, content)) = work.host.root.read(path)? {
                work.store.save_edit(&mark.subject(), &content, || self.saved())?;
                saved.push(mark.subject());
            }
        }
        Ok(saved)
    }

    /// Remembers the files of an item as kpull leaves them, so that an edit is known for one; not those with a secret.
    pub fn made(&mut self, item: &Item, work: &Work<'_>) -> Result<()> {
        // an edit of a secret would be a second copy of it, and even its digest tells something
        for mark in item.owned(work)? {
            let Some(path) = mark.whole_path() else { continue };
            let Some(known) = self.known.get_mut(&mark) else { continue };
            let made = match item.resource.content() {
                _ if item.is_sensitive() => None,
                // it has the whole file, and no other resource writes there
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

/// It, with its path by where that is on this host: one place has one, whatever its directories are called.
fn place(mark: &Claim, host: &Host) -> Claim {
    mark.with_place(|path| host.root.place_of(path))
}

/// SHA-256 of the file at a path, in hex, unless it is too large for an edit by hand.
fn digest(path: &Path, work: &Work<'_>) -> Result<Option<String>> {
    Ok(work.host.root.digest(path, LARGEST_EDIT)?.map(|(_, digest)| digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::TestTree;
    use crate::resolve::testing::catalog;

    /// A tree, in which `/etc/x` stands already.
    fn world() -> TestTree {
        let world = TestTree::new();
        std::fs::create_dir(world.dir.path().join("etc")).unwrap();
        std::fs::write(world.dir.path().join("etc/x"), "theirs").unwrap();
        world
    }

    const X: &str = "[[file]]\npath = '/etc/x'\ncontent = 'x'\n";
    const Y: &str = "[[file]]\npath = '/etc/y'\ncontent = 'y'\n";
    const LINK: &str = "[[symlink]]\npath = '/etc/x'\ntarget = 'y'\n";

    #[test]
    fn what_is_remembered_is_new_once_and_when_another_resource_takes_it_over() {
        let (world, mut before) = (world(), PriorStates::default());
        let mut adopt = |role: &str| world.with(role, |work| before.adopt(work, None, |_| false).0);
        assert_eq!((adopt(X), adopt(X)), (true, false));
        assert_eq!((adopt(LINK), adopt(LINK)), (true, false));
        assert_eq!((adopt(&format!("{LINK}{Y}")), adopt(LINK)), (true, false));
    }

    #[test]
    fn what_no_role_wants_is_given_back_until_it_is_forgotten() {
        let (world, mut before) = (world(), PriorStates::default());
        world.with(&format!("{X}{Y}"), |work| before.adopt(work, None, |_| false).0);
        let gone = |before: &mut PriorStates, role: &str| -> Vec<String> {
            world.with(role, |work| before.gone(work).0.into_iter().map(|one| one.mark.to_string()).collect())
        };
        assert_eq!(gone(&mut before, &format!("{X}{Y}")).len(), 0);
        assert_eq!(gone(&mut before, X), ["path:/etc/y"]);
        before.forget(&Claim::path("/etc/y"));
        assert_eq!(gone(&mut before, X).len(), 0);
        assert_eq!(before.ids().collect::<Vec<_>>(), ["file:/etc/x"]);
    }

    #[test]
    fn what_is_disowned_is_left_and_told_and_forgotten_when_no_role_wants_it() {
        let (world, mut before) = (world(), PriorStates::default());
        world.with(&format!("{X}{Y}"), |work| before.adopt(work, None, |_| false).0);
        assert_eq!(before.saved().len(), 1, "what stood at /etc/x");
        assert!(!before.disown("file:/etc/z", "why"));
        assert!(before.disown("file:/etc/x", "why"));
        assert_eq!(before.leftovers().collect::<Vec<_>>(), [("file:/etc/x", "why")]);
        assert_eq!(before.saved().len(), 0);
        world.with(&format!("{X}{Y}"), |work| before.settle(work));
        assert_eq!(before.ids().count(), 2, "a role wants both");
        world.with("", |work| before.settle(work));
        assert_eq!(before.ids().collect::<Vec<_>>(), ["file:/etc/y"], "which is to be given back");
    }

    #[test]
    fn it_is_written_down_when_something_of_it_has_changed_and_only_then() {
        let (world, mut before) = (world(), PriorStates::default());
        let path = world.dir.path().join("state").join(FILE);
        let both = catalog(&format!("{X}{Y}")).unwrap().items;
        let work = Work { host: &world.host, store: &world.store, catalog: &both };
        let is_written = |before: &mut PriorStates| {
            before.save(&world.store).unwrap();
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
        world.with("", |work| before.settle(work));
        assert!(is_written(&mut before));
        before.forget(&Claim::path("/etc/y"));
        assert!(is_written(&mut before));
    }

    #[test]
    fn a_file_is_known_by_what_kpull_has_written_whatever_stands_there() {
        let (world, mut before) = (world(), PriorStates::default());
        let items = catalog(X).unwrap().items;
        let work = Work { host: &world.host, store: &world.store, catalog: &items };
        before.adopt(&work, None, |_| false);
        before.made(&items[0], &work).unwrap();
        assert_eq!(before.save_edits(&items[0], None, &work).unwrap(), ["/etc/x"]);
        std::fs::write(world.dir.path().join("etc/x"), "x").unwrap();
        assert_eq!(before.save_edits(&items[0], None, &work).unwrap(), [""; 0]);
    }

    #[test]
    fn only_a_unit_that_ran_before_is_restarted_when_what_it_runs_with_is_given_back() {
        let gone = |role: &str, turn: PruneOrder| {
            let item = catalog(role).unwrap().items.into_iter().next().unwrap();
            Orphan { mark: Claim::thing("m", "x"), id: item.id.clone(), item, turn, triggers: Vec::new() }
        };
        let unit = "[[unit]]\nname = 'x.service'\n";
        let restart = gone(unit, PruneOrder::Last).restart(true).unwrap();
        assert_eq!((restart.summary.as_str(), restart.trigger), ("restart", Some(Trigger::Restart)));
        assert!(gone(unit, PruneOrder::Last).restart(false).is_none());
        assert!(gone(unit, PruneOrder::First).restart(true).is_none());
        assert!(gone(X, PruneOrder::Last).restart(true).is_none());
    }

    /// The role's package, which comes first, and what it has.
    fn with_package(world: &TestTree, look: impl FnOnce(&Work<'_>)) {
        world.with(&format!("[[package]]\nname = 'p'\n{X}{Y}"), |work| {
            assert_eq!(work.catalog[0].id, "package:p");
            look(work);
        });
    }

    #[test]
    fn what_a_package_of_the_run_brings_is_what_stood_there_before() {
        let (world, mut before) = (world(), PriorStates::default());
        let put = |name: &str, text: &str| std::fs::write(world.dir.path().join("etc").join(name), text).unwrap();
        let back = |before: &mut PriorStates, role: &str| -> Vec<String> {
            world.with(role, |work| before.gone(work).0.into_iter().map(|one| one.item.id).collect())
        };
        with_package(&world, |work| {
            assert!(before.adopt(work, Some(0), |_| false).0);
            assert_eq!(back(&mut before, ""), [""; 0], "nothing was changed yet");
            before.save(&world.store).unwrap();
            // the run ends there, after the package has come; the next one has no package to change
            put("y", "shipped");
            let mut before = PriorStates::load(&world.store).unwrap();
            assert!(before.adopt(work, None, |_| false).0);
            assert!(!work.catalog.iter().any(|item| before.close(item, work).unwrap()), "it is known already");
            assert_eq!(back(&mut before, X), ["file:/etc/y"]);
        });
        with_package(&world, |work| {
            assert!(before.close(&work.catalog[1], work).unwrap());
            assert!(!before.close(&work.catalog[1], work).unwrap());
            put("x", "a role's");
            work.catalog.iter().for_each(|item| assert!(before.close(item, work).is_ok()));
        });
        assert_eq!(back(&mut before, ""), ["file:/etc/x", "file:/etc/y"]);
        let content = |before: &PriorStates, mark: &str| match &before.known[mark].origin {
            PriorState::File { saved, .. } => String::from_utf8(world.store.saved(saved).unwrap()).unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(content(&before, "path:/etc/x"), "theirs", "what was changed since is not looked at again");
        assert_eq!(content(&before, "path:/etc/y"), "shipped");
    }

    #[test]
    fn a_directory_that_a_package_of_the_run_makes_is_the_package_s_and_another_one_goes_with_what_is_in_it() {
        let (world, mut before) = (world(), PriorStates::default());
        let role = "[[package]]\nname = 'p'\n[[file]]\npath = '/etc/p/conf/x'\ncontent = 'x'\n";
        world.with(role, |work| {
            assert!(before.adopt(work, Some(0), |_| false).0);
            std::fs::create_dir(world.dir.path().join("etc/p")).unwrap();
            assert!(before.close(&work.catalog[1], work).unwrap());
        });
        let gone: Vec<String> =
            world.with("", |work| before.gone(work).0.into_iter().map(|one| one.mark.to_string()).collect());
        assert_eq!(gone, ["path:/etc/p/conf/x", "path:/etc/p/conf"]);
    }

    #[test]
    fn what_was_never_changed_is_forgotten_when_no_role_wants_it() {
        let (world, mut before) = (world(), PriorStates::default());
        with_package(&world, |work| assert!(before.adopt(work, Some(0), |_| false).0));
        world.with("", |work| before.settle(work));
        assert_eq!(before.ids().count(), 0);
    }

    #[test]
    fn the_version_that_lies_beside_a_shipped_file_is_given_back_and_never_in_place_of_somebody_s_own() {
        let (world, mut before) = (world(), PriorStates::default());
        let put = |name: &str, text: &str| std::fs::write(world.dir.path().join("etc").join(name), text).unwrap();
        world.with(&format!("{X}{Y}"), |work| before.adopt(work, None, |_| false).0);
        put("x.dpkg-dist", "shipped");
        put("y.rpmnew", "shipped");
        let back: Vec<_> = world.with("", |work| {
            let gone = before.gone(work).0.into_iter();
            gone.map(|one| (one.mark.to_string(), one.item.resource.content().map(|content| content.into_owned())))
                .collect()
        });
        let wanted = [("path:/etc/x", "theirs"), ("path:/etc/y", "shipped")];
        assert_eq!(back, wanted.map(|(mark, text)| (mark.to_owned(), Some(text.as_bytes().to_vec()))));
    }

    #[test]
    fn a_file_that_is_too_large_for_an_edit_by_hand_is_not_read() {
        let world = world();
        let file = std::fs::File::create(world.dir.path().join("etc/x")).unwrap();
        for (size, read) in [(LARGEST_EDIT, true), (LARGEST_EDIT + 1, false)] {
            file.set_len(size).unwrap();
            assert_eq!(world.with("", |work| digest("/etc/x".as_ref(), work).unwrap()).is_some(), read, "{size}");
        }
    }

    #[test]
    fn a_directory_goes_when_all_that_is_in_it_goes() {
        let world = world();
        std::fs::create_dir(world.dir.path().join("empty")).unwrap();
        let empties = |role: &str, path: &str, leaves: &[&str]| {
            let item = catalog(role).unwrap().items.remove(0);
            let gone = Orphan {
                mark: Claim::path(path),
                id: "x".into(),
                item,
                turn: PruneOrder::Middle,
                triggers: Vec::new(),
            };
            let leaves = leaves.iter().map(PathBuf::from).collect();
            gone.empties(&leaves, &world.host).unwrap().map(|change| change.summary)
        };
        let absent = "[[absent]]\npath = '/etc'\n";
        assert_eq!(empties(absent, "/etc", &["/etc/x"]).as_deref(), Some("remove the directory"));
        assert_eq!(empties(absent, "/etc", &["/etc/y"]), None);
        assert_eq!(empties(absent, "/empty", &[]), None, "that is told by a look at it");
        assert_eq!(empties(X, "/etc", &["/etc/x"]), None);
    }

    #[test]
    fn a_unit_that_did_not_run_goes_first_and_one_that_ran_and_packages_go_last() {
        let (world, mut before) = (world(), PriorStates::default());
        let unit = |name: &str, running| PriorState::Unit {
            name: name.to_owned(),
            state: PriorUnit { running, ..PriorUnit::default() },
        };
        let package = PriorState::NoPackage { name: "p".to_owned(), manager: None, beside: None, residue: false };
        let nothing = PriorState::Nothing { path: "/etc/y".to_owned() };
        let origins = [unit("old.service", Some(true)), unit("new.service", Some(false)), package, nothing];
        for (id, origin) in ["old", "new", "package", "file"].into_iter().zip(origins) {
            before.known.insert(Claim::thing("x", id), OwnedItem::new(id, origin));
        }
        let gone = world.with("", |work| before.gone(work).0);
        let turns: Vec<_> = gone.iter().map(|one| (one.id.as_str(), one.turn)).collect();
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
    fn of_a_file_with_a_secret_in_it_no_digest_is_remembered() {
        let world = world();
        let is_remembered = |role: &str, is_secret| {
            let mut items = catalog(role).unwrap().items;
            items[0].is_secret = is_secret;
            let work = Work { host: &world.host, store: &world.store, catalog: &items };
            let mut before = PriorStates::default();
            before.adopt(&work, None, |_| false);
            before.made(&items[0], &work).unwrap();
            before.known["path:/etc/x"].made.is_some()
        };
        assert!(is_remembered(X, false));
        assert!(!is_remembered(X, true));
        assert!(!is_remembered(&format!("{X}sensitive = true\n"), false));
    }
}
