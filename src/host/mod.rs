//! Thin wrappers of the machine's own interfaces, or of a directory tree that becomes a machine.

pub mod account_files;
mod account_table;
pub mod accounts;
pub mod address;
pub mod bus;
pub mod deadline;
pub mod details;
pub mod etcd;
pub mod firewalld;
pub mod firewalld_age;
pub mod fleetlock;
pub mod home;
pub mod kube;
pub mod meminfo;
pub mod mount_users;
pub mod os;
pub mod packages;
pub mod port_range;
pub mod process;
pub mod rich_rule;
pub mod root;
pub mod selinux;
pub mod settings;
mod sync;
pub mod systemd;
pub mod unit_files;
pub mod useradd;
pub mod view;
pub mod watched;
pub mod web;
pub mod writable;
pub mod zone;
pub mod zone_file;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::error::{Error, Result, error};
use account_files::Tables;
use accounts::Accounts;
use root::{Access, Root};

const FIREWALLD: &str = "firewalld.service";

/// How long to wait for a firewalld that is being restarted: large rule sets take a while.
const RESTART: Duration = Duration::from_secs(60);

/// The pause between two attempts to reach it.
const PAUSE: Duration = Duration::from_millis(100);

/// What resources query on the host, collected over a whole catalog so that each query runs once.
#[derive(Clone, Debug, Default)]
pub struct Queries {
    /// Units whose state will be queried.
    pub units: BTreeSet<String>,
    /// Firewall zones whose settings will be queried; the empty name is the default zone.
    pub zones: BTreeSet<String>,
    /// Packages that will be queried.
    pub packages: BTreeSet<String>,
}

/// An account that a host does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A user.
    User(String),
    /// A group.
    Group(String),
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(name) => write!(f, "user {name}"),
            Self::Group(name) => write!(f, "group {name}"),
        }
    }
}

/// Why names do not stand for an access.
#[derive(Debug)]
pub enum NoAccess {
    /// The host has no such account.
    Missing(Missing),
    /// The accounts can't be read.
    Failed(Error),
}

impl From<Error> for NoAccess {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The host that is observed and changed.
pub struct Host {
    /// Its file system.
    pub root: Root,
    may_chown: bool,
    cache: Cache,
    /// Who sends requests to web servers.
    pub web: Box<dyn web::Ask>,
}

/// Connections, answers that are valid until something is changed, and changes that daemons haven't read yet.
#[derive(Default)]
struct Cache {
    queries: RefCell<Queries>,
    /// Paths that this run removes after it has written its files.
    leaving: RefCell<Vec<PathBuf>>,
    accounts: RefCell<Option<Accounts>>,
    bus: OnceCell<bus::Bus>,
    etcd: RefCell<Vec<Rc<etcd::Client>>>,
    firewalld: OnceCell<firewalld::Firewalld>,
    systemd: OnceCell<systemd::Systemd>,
    units: RefCell<HashMap<String, systemd::Unit>>,
    zones: RefCell<HashMap<String, Option<firewalld::Zone>>>,
    /// Until when to wait for a firewalld that doesn't answer.
    firewall_deadline: Cell<Option<Instant>>,
    /// Whether firewalld has to reload its files.
    firewall_changed: Cell<bool>,
    /// Zones whose whole files were written since firewalld last reloaded.
    rewritten_zones: RefCell<BTreeSet<String>>,
    units_changed: Cell<bool>,
    links_changed: Cell<bool>,
    manager: Cell<Option<packages::Manager>>,
    packages: RefCell<HashMap<packages::Manager, packages::InstalledPackages>>,
    kubes: RefCell<HashMap<kube::Access, Rc<kube::Kube>>>,
}

impl Host {
    /// The machine itself for `/`, else the tree in `dir`.
    pub fn open(dir: &Path) -> Result<Self> {
        let may_chown = nix::unistd::geteuid().is_root();
        Ok(Self { root: Root::open(dir)?, may_chown, cache: Cache::default(), web: Box::new(web::Here) })
    }

    /// Whether this is the running machine: only that has units, a firewall and a kernel.
    pub fn is_live(&self) -> bool {
        self.root.is_live()
    }

    /// Sets what the catalog will query, so that one question can answer for all.
    pub fn expect(&self, queries: Queries) {
        *self.cache.queries.borrow_mut() = queries;
    }

    /// Sets the paths that a run removes after it has written its files.
    pub fn expect_removal(&self, paths: Vec<PathBuf>) {
        *self.cache.leaving.borrow_mut() = paths;
    }

    /// The paths that are [expected](Host::expect_removal) to be removed.
    pub fn leaving(&self) -> Vec<PathBuf> {
        self.cache.leaving.borrow().clone()
    }

    /// The access that `mode`, `owner` and `group` stand for on this host. Without root, owners stay as they are.
    pub fn access(&self, mode: u32, owner: &str, group: &str) -> Result<Access, NoAccess> {
        if !self.may_chown {
            return Ok(Access::of_mode(mode));
        }
        let (uid, gid) = self.with_accounts(|accounts| {
            // no account name is a number
            let uid = match owner.parse() {
                Ok(uid) => Some(uid),
                Err(_) => accounts.login(owner)?.map(|login| login.uid),
            };
            let gid = match group.parse() {
                Ok(gid) => Some(gid),
                Err(_) => accounts.gid(group)?,
            };
            Ok((uid, gid))
        })?;
        match (uid, gid) {
            (None, _) => Err(NoAccess::Missing(Missing::User(owner.to_owned()))),
            (_, None) => Err(NoAccess::Missing(Missing::Group(group.to_owned()))),
            (uid, gid) => Ok(Access { mode, uid, gid }),
        }
    }

    /// Queries users and groups, which are read once until [`Host::forget_accounts`].
    pub fn with_accounts<T>(&self, f: impl FnOnce(&Accounts) -> Result<T>) -> Result<T> {
        let mut known = self.cache.accounts.borrow_mut();
        let accounts = match known.take() {
            Some(accounts) => accounts,
            None => Accounts::read(&self.root)?,
        };
        f(known.insert(accounts))
    }

    /// The account files, with what `learn` adds to them.
    pub fn tables(&self, learn: impl FnOnce(&mut Tables, &Accounts) -> Result<()>) -> Result<Tables> {
        let mut tables = Tables::read(&self.root)?;
        self.with_accounts(|accounts| learn(&mut tables, accounts))?;
        Ok(tables)
    }

    /// Changes accounts: `live` with shadow's programs, on a live host; `in_tree` in the files of a tree.
    pub fn change_accounts(
        &self,
        live: impl FnOnce() -> Result<()>,
        in_tree: impl FnOnce(&mut Tables) -> Result<()>,
    ) -> Result<()> {
        let in_files = || {
            let mut tables = Tables::read(&self.root)?;
            in_tree(&mut tables)?;
            tables.write(&self.root)
        };
        let changed = if self.is_live() { live() } else { in_files() };
        self.forget_accounts();
        changed
    }

    /// Call this when users or groups have changed, by kpull or by a package.
    pub fn forget_accounts(&self) {
        *self.cache.accounts.borrow_mut() = None;
    }

    /// The package manager that a role names, or the one of this host as [`packages::Manager::detect`] finds it.
    pub fn package_manager(&self, named: Option<packages::Manager>) -> Result<packages::Manager> {
        if let Some(named) = named {
            return Ok(named);
        }
        let manager = self.cache.manager.get().map_or_else(|| packages::Manager::detect(&self.root), Ok)?;
        self.cache.manager.set(Some(manager));
        Ok(manager)
    }

    /// The installed versions of a package, none when it isn't installed. The first call queries all packages of the catalog.
    pub fn package(&self, manager: packages::Manager, name: &str) -> Result<Vec<packages::Installed>> {
        if let Some(known) = self.cache.packages.borrow().get(&manager).and_then(|known| known.get(name)) {
            return Ok(known.clone());
        }
        let mut names = self.cache.queries.borrow().packages.clone();
        names.insert(name.to_owned());
        let answer = manager.query(&self.root, &names)?;
        let known = answer.get(name).cloned().unwrap_or_default();
        self.cache.packages.borrow_mut().insert(manager, answer);
        Ok(known)
    }

    /// Call this when packages have been installed or removed: they and the accounts that they make are queried again. So are
    /// SELinux's policy and the package manager, which are packages too.
    pub fn forget_packages(&self) {
        self.cache.packages.borrow_mut().clear();
        self.cache.manager.set(None);
        self.root.labels.forget();
        self.forget_accounts();
    }

    /// The system manager.
    pub fn systemd(&self) -> Result<&systemd::Systemd> {
        if !self.is_live() {
            return Err(error!(FACTS, "a tree has no running units"));
        }
        kept(&self.cache.systemd, || systemd::Systemd::new(self.bus()?))
    }

    /// The system bus; all share one connection.
    fn bus(&self) -> Result<bus::Bus> {
        kept(&self.cache.bus, bus::Bus::connect).cloned()
    }

    /// Changes a setting of the running system with the service that has it. Where there is none, a warning says so: the caller writes the
    /// setting's file.
    pub fn change_setting(&self, setting: settings::Setting, value: &str) -> Result<()> {
        if let Some(why) = setting.change(&self.bus()?, &self.root, value)? {
            log::warn!(
                "systemd's service for the {setting} can't be used: {why}; kpull writes the file, and programs see it when they start"
            );
        }
        Ok(())
    }

    /// The state of a unit. The first call queries all units of the catalog.
    pub fn unit(&self, name: &str) -> Result<systemd::Unit> {
        if let Some(unit) = self.cache.units.borrow().get(name) {
            return Ok(unit.clone());
        }
        let mut names: Vec<String> = self.cache.queries.borrow().units.iter().cloned().collect();
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
        let answer = self.systemd()?.units(&names)?;
        let unit = answer.get(name).cloned().unwrap_or_default();
        self.cache.units.borrow_mut().extend(answer);
        Ok(unit)
    }

    /// Call this when units have been started, stopped or changed: they are queried again.
    pub fn forget_units(&self) {
        self.cache.units.borrow_mut().clear();
    }

    /// The firewall daemon, which may not be running.
    pub fn firewalld(&self) -> Result<&firewalld::Firewalld> {
        if !self.is_live() {
            return Err(error!(FACTS, "a tree has no running firewall"));
        }
        kept(&self.cache.firewalld, || Ok(firewalld::Firewalld::new(self.bus()?)))
    }

    /// The client of an etcd cluster, kept for the run and replaced when its files have changed. An error when one of those files
    /// is missing or invalid.
    pub fn etcd(&self, cluster: &etcd::Cluster) -> Result<Rc<etcd::Client>> {
        let loaded = cluster.load()?;
        let mut known = self.cache.etcd.borrow_mut();
        if let Some(client) = known.iter().find(|client| client.is_for(cluster, &loaded)) {
            return Ok(client.clone());
        }
        let client = Rc::new(etcd::Client::new(cluster, loaded)?);
        known.push(client.clone());
        Ok(client)
    }

    /// A firewall zone's settings, queried once until [`Host::forget_zones`]; `None` when firewalld isn't running.
    pub fn zone(&self, name: &str) -> Result<Option<firewalld::Zone>> {
        if let Some(zone) = self.cache.zones.borrow().get(name) {
            return Ok(zone.clone());
        }
        let end = self.cache.firewall_deadline.get().unwrap_or_else(|| Instant::now() + RESTART);
        let zone = loop {
            let zone = self.firewalld()?.zone(name)?;
            if zone.is_some() || !self.is_changing(FIREWALLD) || Instant::now() >= end {
                break zone;
            }
            self.cache.firewall_deadline.set(Some(end));
            std::thread::sleep(PAUSE);
        };
        if zone.is_some() {
            self.cache.firewall_deadline.set(None);
        }
        self.cache.zones.borrow_mut().insert(name.to_owned(), zone.clone());
        Ok(zone)
    }

    /// The runtime settings of a zone, queried unless they are known; `None` when firewalld isn't running.
    fn runtime(&self, name: &str) -> Result<Option<zone::Settings>> {
        match self.cache.zones.borrow().get(name) {
            Some(known) => Ok(known.as_ref().and_then(|zone| zone.runtime.clone())),
            None => Ok(self.firewalld()?.runtime(name)?.known()),
        }
    }

    /// Whether systemd is about to start or stop a unit, or has started it: the unit of a newer firewalld is active before it answers on
    /// the bus.
    fn is_changing(&self, name: &str) -> bool {
        // without systemd, nothing is restarted
        let Ok(unit) = self.systemd().and_then(|systemd| systemd.details(name)).map(|details| details.unit) else {
            return false;
        };
        unit.has_job || matches!(unit.active.as_str(), "active" | "activating" | "deactivating" | "reloading")
    }

    /// Call this when the firewall has been changed or started: its zones are queried again.
    pub fn forget_zones(&self) {
        self.cache.zones.borrow_mut().clear();
    }

    /// Call this when firewalld's files have changed: it has to reload them before a zone is edited.
    pub fn firewall_files_changed(&self) {
        self.cache.firewall_changed.set(true);
    }

    /// Makes firewalld reload its files if they have changed, once for all changes. One that isn't running reads them when it starts.
    pub fn settle_firewall(&self) -> Result<()> {
        let rewritten = self.cache.rewritten_zones.take();
        if self.cache.firewall_changed.replace(false) && self.is_live() && self.firewalld()?.life().is_some() {
            self.firewalld()?.reload(&rewritten)?;
            self.forget_zones();
        }
        Ok(())
    }

    /// Call this when a file has been written or removed: daemons that have read it reload it before the next resource that needs that.
    pub fn file_changed(&self, path: &Path) {
        if is_unit_file(path) {
            self.unit_files_changed();
        }
        if is_firewall_file(path) {
            self.firewall_files_changed();
            if path.parent().is_some_and(|dir| dir.ends_with("zones")) {
                self.cache
                    .rewritten_zones
                    .borrow_mut()
                    .extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
            }
        }
    }

    /// The connection to an API server, shared until the files of `access` change. The error is why there can't be one (yet).
    pub fn kube(&self, access: &kube::Access) -> Result<Rc<kube::Kube>, String> {
        if !self.is_live() {
            return Err("a tree has no running API server".into());
        }
        let mut kubes = self.cache.kubes.borrow_mut();
        let current = kube::Kube::current(&self.root, access, kubes.get(access))?;
        kubes.insert(access.clone(), current.clone());
        Ok(current)
    }

    /// Call this when a unit's file has changed: systemd has to read it before the next unit is touched.
    pub fn unit_files_changed(&self) {
        self.cache.units_changed.set(true);
    }

    /// Makes systemd reload its files if they have changed, once for all changes.
    pub fn settle_unit_files(&self) -> Result<()> {
        if self.cache.units_changed.get() && self.is_live() {
            self.systemd()?.reload_files()?;
            self.forget_units();
            self.cache.links_changed.set(false);
        }
        self.cache.units_changed.set(false);
        Ok(())
    }

    /// Call this when units have been enabled or disabled. That matters only for the next boot, so [`Host::settle_unit_files`] ignores
    /// it, and [`Host::settle_unit_links`] handles it once, after the last unit.
    pub fn unit_links_changed(&self) {
        self.cache.links_changed.set(true);
    }

    /// Makes systemd reload its files if units were enabled or disabled since it last did; for the end of a run.
    pub fn settle_unit_links(&self) -> Result<()> {
        if self.cache.links_changed.get() {
            self.unit_files_changed();
        }
        self.settle_unit_files()
    }
}

/// The content of a cell, made when it is first needed.
fn kept<T>(cell: &OnceCell<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    match cell.get() {
        Some(known) => Ok(known),
        None => make().map(|made| cell.get_or_init(|| made)),
    }
}

/// Whether systemd reads `path` as (part of) a unit, or generates a unit from it.
pub fn is_unit_file(path: &Path) -> bool {
    // generators make units of these
    let others = ["/etc/fstab", "/etc/init.d", unit_files::QUADLETS];
    unit_files::DIRS.iter().chain(&others).any(|dir| path.starts_with(dir))
}

/// Whether firewalld reads `path`: as a zone, a service, a set, …
pub fn is_firewall_file(path: &Path) -> bool {
    let is_known = |dir: &Path| {
        ["zones", "services", "ipsets", "icmptypes", "helpers", "policies"]
            .iter()
            .any(|name| dir == Path::new("/etc/firewalld").join(name))
    };
    path.extension().is_some_and(|end| end == "xml") && path.parent().is_some_and(is_known)
}
