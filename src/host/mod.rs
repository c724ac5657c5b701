//! The machine's own interfaces, thin; or a directory that is being made into a machine.

pub mod account_files;
pub mod accounts;
pub mod address;
pub mod bus;
pub mod etcd;
pub mod firewalld;
pub mod firewalld_age;
pub mod fleetlock;
pub mod home;
pub mod kube;
pub mod label;
#[expect(clippy::disallowed_methods, reason = "the kernel's own list of what is open, and the terminal")]
pub mod launch;
pub mod meminfo;
pub mod os;
pub mod packages;
pub mod process;
pub mod rich_rule;
pub mod root;
mod sync;
pub mod systemd;
pub mod unit_files;
pub mod useradd;
pub mod web;
pub mod writable;
pub mod zone;
pub mod zone_file;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::error::{Error, Result, code};
use account_files::Tables;
use accounts::Accounts;
use process::Ended;
use root::{Access, Fingerprint, Root, WatchedInput};

const FIREWALLD: &str = "firewalld.service";

/// How long a firewalld that somebody restarts may be away: with large rule sets that takes a while.
const RESTART: Duration = Duration::from_secs(60);

/// The pause between two looks whether it is back.
const PAUSE: Duration = Duration::from_millis(100);

/// What a resource asks of the host, gathered over a whole catalog so that it is asked once.
#[derive(Clone, Debug, Default)]
pub struct Queries {
    /// Units whose state will be asked.
    pub units: BTreeSet<String>,
    /// Firewall zones whose settings will be asked; the empty name is the default zone.
    pub zones: BTreeSet<String>,
    /// Packages that will be asked for.
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

/// The host that is looked at and changed.
pub struct Host {
    /// Its file system.
    pub root: Root,
    may_chown: bool,
    wants: RefCell<Queries>,
    accounts: RefCell<Option<Accounts>>,
    bus: OnceCell<bus::Bus>,
    etcd: RefCell<Vec<Rc<etcd::Client>>>,
    firewalld: OnceCell<firewalld::Firewalld>,
    systemd: OnceCell<systemd::Systemd>,
    units: RefCell<HashMap<String, systemd::Unit>>,
    zones: RefCell<HashMap<String, Option<firewalld::Zone>>>,
    /// Until when a firewalld that doesn't answer is waited for, once it was.
    firewall_deadline: Cell<Option<Instant>>,
    /// Whether firewalld has to read its files again.
    firewall_changed: Cell<bool>,
    /// Zones whose files were written as a whole since it last did.
    rewritten_zones: RefCell<BTreeSet<String>>,
    units_changed: Cell<bool>,
    /// The package manager, once it was looked for.
    manager: Cell<Option<packages::Manager>>,
    packages: RefCell<HashMap<packages::Manager, packages::InstalledPackages>>,
    links_changed: Cell<bool>,
    kubes: RefCell<HashMap<kube::Access, Rc<kube::Kube>>>,
    /// Who asks web servers.
    pub web: Box<dyn web::Ask>,
}

impl Host {
    /// The machine itself for `/`, else the tree in `dir`.
    pub fn open(dir: &Path) -> Result<Self> {
        Ok(Self {
            root: Root::open(dir)?,
            may_chown: nix::unistd::geteuid().is_root(),
            wants: RefCell::default(),
            accounts: RefCell::default(),
            bus: OnceCell::new(),
            etcd: RefCell::default(),
            firewalld: OnceCell::new(),
            systemd: OnceCell::new(),
            units: RefCell::default(),
            zones: RefCell::default(),
            firewall_deadline: Cell::new(None),
            firewall_changed: Cell::new(false),
            rewritten_zones: RefCell::default(),
            units_changed: Cell::new(false),
            manager: Cell::new(None),
            packages: RefCell::default(),
            links_changed: Cell::new(false),
            kubes: RefCell::default(),
            web: Box::new(web::Here),
        })
    }

    /// Whether this is the running machine: only then are there units, a firewall and a kernel to talk to.
    pub fn is_live(&self) -> bool {
        self.root.is_live()
    }

    /// What the catalog will ask, so that one question can answer for all.
    pub fn expect(&self, wants: Queries) {
        *self.wants.borrow_mut() = wants;
    }

    /// What the catalog will ask.
    pub fn wants(&self) -> std::cell::Ref<'_, Queries> {
        self.wants.borrow()
    }

    /// The numbers that `owner` and `group` have here, with `mode`, as something that a path can be given. A name
    /// that nobody has is the inner error. Without root, owners are left as they are: everything is ours.
    pub fn access(&self, mode: u32, owner: &str, group: &str) -> Result<Result<Access, Missing>> {
        if !self.may_chown {
            return Ok(Ok(Access { mode, uid: None, gid: None }));
        }
        self.with_accounts(|accounts| {
            // no account's name is a number
            let uid = match owner.parse() {
                Ok(uid) => Some(uid),
                Err(_) => accounts.login(owner)?.map(|login| login.uid),
            };
            let gid = match group.parse() {
                Ok(gid) => Some(gid),
                Err(_) => accounts.gid(group)?,
            };
            Ok(match (uid, gid) {
                (None, _) => Err(Missing::User(owner.to_owned())),
                (_, None) => Err(Missing::Group(group.to_owned())),
                (uid, gid) => Ok(Access { mode, uid, gid }),
            })
        })
    }

    /// What is asked of the users and groups, which are read once until [`Host::forget_accounts`].
    pub fn with_accounts<T>(&self, f: impl FnOnce(&Accounts) -> Result<T>) -> Result<T> {
        let mut known = self.accounts.borrow_mut();
        let accounts = match known.take() {
            Some(accounts) => accounts,
            None => Accounts::read(&self.root)?,
        };
        f(known.insert(accounts))
    }

    /// The account files, with what `learn` takes in beside them.
    pub fn tables(&self, learn: impl FnOnce(&mut Tables, &Accounts) -> Result<()>) -> Result<Tables> {
        let mut tables = Tables::read(&self.root)?;
        self.with_accounts(|accounts| learn(&mut tables, accounts))?;
        Ok(tables)
    }

    /// Users or groups have been changed, by us or by a package.
    pub fn forget_accounts(&self) {
        *self.accounts.borrow_mut() = None;
    }

    /// The package manager of this host, as [`packages::Manager::detect`] finds it.
    pub fn package_manager(&self) -> Result<packages::Manager> {
        if let Some(known) = self.manager.get() {
            return Ok(known);
        }
        let manager = packages::Manager::detect(&self.root)?;
        self.manager.set(Some(manager));
        Ok(manager)
    }

    /// The versions in which a package is installed, none when it isn't; asked for all packages of the catalog at once,
    /// the first time.
    pub fn package(&self, manager: packages::Manager, name: &str) -> Result<Vec<packages::Installed>> {
        if let Some(known) = self.packages.borrow().get(&manager).and_then(|known| known.get(name)) {
            return Ok(known.clone());
        }
        let mut names = self.wants.borrow().packages.clone();
        names.insert(name.to_owned());
        let answer = manager.query(&self.root, &names)?;
        let known = answer.get(name).cloned().unwrap_or_default();
        self.packages.borrow_mut().insert(manager, answer);
        Ok(known)
    }

    /// Packages have been installed or removed: what is known of them, and of the accounts that they make, is asked
    /// again. So are SELinux's policy and the package manager, which are packages too.
    pub fn forget_packages(&self) {
        self.packages.borrow_mut().clear();
        self.manager.set(None);
        self.root.labels().forget();
        self.forget_accounts();
    }

    /// The system manager.
    pub fn systemd(&self) -> Result<&systemd::Systemd> {
        if !self.is_live() {
            return Err(Error::new(code::FACTS, "a tree has no running units"));
        }
        kept(&self.systemd, || systemd::Systemd::new(self.bus()?))
    }

    /// The system bus; one connection for all.
    fn bus(&self) -> Result<bus::Bus> {
        kept(&self.bus, bus::Bus::connect).cloned()
    }

    /// What systemd says of a unit; asked for all units of the catalog at once, the first time.
    pub fn unit(&self, name: &str) -> Result<systemd::Unit> {
        if let Some(unit) = self.units.borrow().get(name) {
            return Ok(unit.clone());
        }
        let mut names: Vec<String> = self.wants.borrow().units.iter().cloned().collect();
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
        let answer = self.systemd()?.units(&names)?;
        let unit = answer.get(name).cloned().unwrap_or_default();
        self.units.borrow_mut().extend(answer);
        Ok(unit)
    }

    /// What a trace tells now, of whether somebody has touched what it is of.
    pub fn seen(&self, trace: &WatchedInput) -> Result<Option<Fingerprint>> {
        let text = |text: Vec<u8>| Fingerprint { text: Some(text), ..Fingerprint::default() };
        Ok(match trace {
            WatchedInput::Path(path) => self.root.seen(path)?,
            WatchedInput::Place(path) => {
                self.root.seen(path)?.map(|Fingerprint { dev, ino, mode, uid, gid, .. }| Fingerprint {
                    dev,
                    ino,
                    mode,
                    uid,
                    gid,
                    ..Fingerprint::default()
                })
            }
            WatchedInput::Text(path) => self.root.read(path)?.map(|(_, content)| text(content)),
            WatchedInput::Unit(name) => {
                let unit = self.unit(name)?;
                // what it is called while it is up changes without anybody's doing
                let sub = if unit.active == "active" { "" } else { &unit.sub };
                Some(text(format!("{} {} {sub} {}", unit.load, unit.active, unit.has_job).into()))
            }
            WatchedInput::Zone(name) => self.runtime(name)?.map(|zone| text(zone.digest().into())),
            WatchedInput::IpSet(name) => self.firewalld()?.ipset(name)?.known().map(|set| text(set.digest().into())),
            WatchedInput::Program(program) => {
                let ended = process::run_if_there(&program.command())?.map(|output| output.ended);
                let answer = match ended {
                    Some(Ended::Exited(status)) if status.success() => "yes",
                    Some(Ended::TimedOut(_)) => "none in time",
                    _ => "no",
                };
                Some(text(answer.into()))
            }
            WatchedInput::Object(standing) => {
                let kube = self.kube(&standing.access)?.map_err(|what| Error::new(code::FACTS, what))?;
                kube.state(standing)?.map(|state| text(state.into()))
            }
            WatchedInput::Key(standing) => {
                let state = self.etcd(&standing.cluster)?.state(standing);
                let state = state.map_err(|why| Error::new(code::FACTS, "etcd does not say of a key").because(why))?;
                state.map(|revision| text(revision.to_string().into()))
            }
        })
    }

    /// Units have been started, stopped or changed: what is known of them is asked again.
    pub fn forget_units(&self) {
        self.units.borrow_mut().clear();
    }

    /// The firewall's daemon; whether it runs is seen when it is asked.
    pub fn firewalld(&self) -> Result<&firewalld::Firewalld> {
        if !self.is_live() {
            return Err(Error::new(code::FACTS, "a tree has no running firewall"));
        }
        kept(&self.firewalld, || Ok(firewalld::Firewalld::new(self.bus()?)))
    }

    /// What talks to a cluster of etcd, kept for the run: made anew when the files that it needs have changed. An error when
    /// one of those is missing or has something else in it.
    pub fn etcd(&self, cluster: &etcd::Cluster) -> Result<Rc<etcd::Client>> {
        let loaded = cluster.load()?;
        let mut known = self.etcd.borrow_mut();
        if let Some(client) = known.iter().find(|client| client.is_for(cluster, &loaded)) {
            return Ok(client.clone());
        }
        let client = Rc::new(etcd::Client::new(cluster, loaded)?);
        known.push(client.clone());
        Ok(client)
    }

    /// A firewall zone's settings, asked once until [`Host::forget_zones`]; `None` when firewalld isn't running.
    pub fn zone(&self, name: &str) -> Result<Option<firewalld::Zone>> {
        if let Some(zone) = self.zones.borrow().get(name) {
            return Ok(zone.clone());
        }
        let end = self.firewall_deadline.get().unwrap_or_else(|| Instant::now() + RESTART);
        let zone = loop {
            let zone = self.firewalld()?.zone(name)?;
            if zone.is_some() || !self.is_on_its_way(FIREWALLD) || Instant::now() >= end {
                break zone;
            }
            self.firewall_deadline.set(Some(end));
            std::thread::sleep(PAUSE);
        };
        if zone.is_some() {
            self.firewall_deadline.set(None);
        }
        self.zones.borrow_mut().insert(name.to_owned(), zone.clone());
        Ok(zone)
    }

    /// What a zone lets in now; `None` when firewalld isn't running. What is known of the zone is not asked again.
    fn runtime(&self, name: &str) -> Result<Option<zone::Settings>> {
        match self.zones.borrow().get(name) {
            Some(known) => Ok(known.as_ref().and_then(|zone| zone.runtime.clone())),
            None => Ok(self.firewalld()?.runtime(name)?.known()),
        }
    }

    /// Whether systemd is about to start or stop a unit, or has started it: the units of newer firewalls are active before they answer on the
    /// bus.
    fn is_on_its_way(&self, name: &str) -> bool {
        // without a systemd, nothing comes back
        let Ok(unit) = self.systemd().and_then(|systemd| systemd.details(name)).map(|details| details.unit) else {
            return false;
        };
        unit.has_job || matches!(unit.active.as_str(), "active" | "activating" | "deactivating" | "reloading")
    }

    /// The firewall has been changed, or started: its zones are asked again.
    pub fn forget_zones(&self) {
        self.zones.borrow_mut().clear();
    }

    /// firewalld's files have been changed: it has to read them again before a zone is edited.
    pub fn firewall_files_changed(&self) {
        self.firewall_changed.set(true);
    }

    /// Lets firewalld read its files again if they were changed; once for all changes. One that isn't running reads them when it starts.
    pub fn settle_firewall(&self) -> Result<()> {
        let rewritten = self.rewritten_zones.take();
        if self.firewall_changed.replace(false) && self.is_live() && self.firewalld()?.life().is_some() {
            self.firewalld()?.reload(&rewritten)?;
            self.forget_zones();
        }
        Ok(())
    }

    /// A file has been written or removed: whoever has read it reads it again before the next thing that needs that.
    pub fn file_changed(&self, path: &Path) {
        if is_unit_file(path) {
            self.unit_files_changed();
        }
        if is_firewall_file(path) {
            self.firewall_files_changed();
            if path.parent().is_some_and(|dir| dir.ends_with("zones")) {
                self.rewritten_zones
                    .borrow_mut()
                    .extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
            }
        }
    }

    /// The connection to an API server, the same for all who ask alike until the files of `access` change. The inner
    /// error says why there can be none yet.
    pub fn kube(&self, access: &kube::Access) -> Result<Result<Rc<kube::Kube>, String>> {
        if !self.is_live() {
            return Err(Error::new(code::FACTS, "a tree has no running API server"));
        }
        let mut kubes = self.kubes.borrow_mut();
        let current = kube::Kube::current(&self.root, access, kubes.get(access));
        if let Ok(kube) = &current {
            kubes.insert(access.clone(), kube.clone());
        }
        Ok(current)
    }

    /// A unit's file has been changed: systemd has to read it before the next unit is touched.
    pub fn unit_files_changed(&self) {
        self.units_changed.set(true);
    }

    /// Lets systemd read its files again if they were changed; once for all changes.
    pub fn settle_unit_files(&self) -> Result<()> {
        if self.units_changed.get() && self.is_live() {
            self.systemd()?.reload_files()?;
            self.forget_units();
            self.links_changed.set(false);
        }
        self.units_changed.set(false);
        Ok(())
    }

    /// Units have been enabled or disabled. That matters for the next boot only, so [`Host::settle_unit_files`] before
    /// a unit doesn't wait for it; [`Host::settle_unit_links`] does, once, after the last unit.
    pub fn unit_links_changed(&self) {
        self.links_changed.set(true);
    }

    /// Lets systemd read its files again if units were enabled or disabled since it last did; for the end of a run.
    pub fn settle_unit_links(&self) -> Result<()> {
        if self.links_changed.get() {
            self.unit_files_changed();
        }
        self.settle_unit_files()
    }
}

/// What is in a cell, made when it is first asked for.
fn kept<T>(cell: &OnceCell<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    match cell.get() {
        Some(known) => Ok(known),
        None => make().map(|made| cell.get_or_init(|| made)),
    }
}

/// Whether systemd reads `path` as (part of) a unit, or makes a unit of it.
pub fn is_unit_file(path: &Path) -> bool {
    unit_files::DIRS.iter().chain(&["/etc/init.d"]).any(|dir| path.starts_with(dir))
}

/// Whether firewalld reads `path` as one of the things that it knows: a zone, a service, a set, …
pub fn is_firewall_file(path: &Path) -> bool {
    let is_known = |dir: &Path| {
        ["zones", "services", "ipsets", "icmptypes", "helpers", "policies"]
            .iter()
            .any(|sort| dir == Path::new("/etc/firewalld").join(sort))
    };
    path.extension().is_some_and(|end| end == "xml") && path.parent().is_some_and(is_known)
}
