//! `[[unit]]`: a systemd unit: its file and drop-ins, whether it is enabled, whether it runs, what it is restarted for.

mod check;
mod fields;
mod listen;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use self::check::Check;
pub use self::fields::{UnitFields, UnitName};
pub use self::listen::Listen;
use crate::error::{Error, Result, code};
use crate::host::Host;
use crate::host::process::{self, Command, run_if_there};
use crate::host::root::Access;
use crate::host::unit_files::{self, ETC, Found, Link, Own};
use crate::kind::prior_state::{PriorState, PriorUnit};
use crate::kind::{
    About, Change, Claim, Fields, Item, Phase, Queries, Resource, Restorable, Trigger, WatchedInput, Work,
};

/// Whether a unit runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ActiveState {
    /// It is active; for a timer, socket, path or mount that means that it waits, listens or is mounted.
    Running,
    /// It is not.
    Stopped,
    /// Either is fine.
    #[default]
    Any,
}

/// A unit: enabled, running, masked. Its files are resources of their own, of the kind `unit-file`.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    /// Its name.
    pub name: String,
    own: Own,
    /// Whether it starts at boot; as it is when that is `None`.
    pub enable: Option<bool>,
    state: ActiveState,
    /// Whether it is masked; as it is when that is `None`, unless the mask is in the way.
    mask: Option<bool>,
    after: Vec<String>,
    watches: Vec<(String, Trigger)>,
    /// What other hosts reach it at.
    pub listens: Vec<Listen>,
    slot: Option<String>,
    check: Option<Check>,
    keep_running: bool,
    /// Whether it is given back: then what is not there any more needs nothing.
    is_back: bool,
}

/// How long it may take to have a script run at boot.
const ONE_SCRIPT: Duration = Duration::from_secs(60);

/// What the state of a unit comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnitStatus {
    /// It runs, or is on its way there.
    Up,
    /// It does not need to run: a one-time job that is done, or a unit that its own conditions keep from starting.
    Fulfilled,
    /// It has ended, and systemd starts it again by itself after a pause.
    Between,
    /// It does not run, and why in a few words, if there is something to say.
    Down(Option<&'static str>),
}

impl UnitStatus {
    /// Whether there is something to stop.
    fn is_at_work(self) -> bool {
        matches!(self, Self::Up | Self::Between)
    }
}

/// The units that start a service by themselves, by their usual names: they come before it, so that a service which is stopped stays
/// so, and a socket that is started is not too late.
fn starters_of(name: &str) -> impl Iterator<Item = String> {
    let stem = name.strip_suffix(".service");
    stem.into_iter().flat_map(|stem| ["socket", "timer", "path"].map(|kind| format!("{stem}.{kind}")))
}

/// Whether a unit starts others by itself.
pub fn starts_others(name: &str) -> bool {
    [".socket", ".timer", ".path", ".automount"].iter().any(|kind| name.ends_with(kind))
}

/// Lets each instance in a catalog answer what its template there answers: they share a file.
pub fn inherit(items: &mut [Item]) {
    let is_template = |unit: &&Unit| unit_files::is_template(&unit.name);
    let templates: BTreeMap<String, Vec<(String, Trigger)>> =
        units(items).filter(is_template).map(|unit| (unit.name.clone(), unit.watches.clone())).collect();
    for item in items.iter_mut().filter(|item| !templates.is_empty() && item.about.kind == UnitFields::NAME) {
        let inherited = unit_files::template_of(&item.about.key).and_then(|template| templates.get(&template));
        for (id, trigger) in inherited.into_iter().flatten() {
            item.about.after.push(id.clone());
            item.about.watches.push((id.clone(), *trigger));
        }
    }
}

impl Unit {
    /// A unit as it was, as far as somebody has changed that. One that ran is restarted: what it runs with has come back.
    pub(super) fn as_it_was(name: &str, was: PriorUnit) -> Self {
        let state = match was.running {
            Some(true) => ActiveState::Running,
            Some(false) if !was.keeps_running => ActiveState::Stopped,
            _ => ActiveState::Any,
        };
        let (enable, mask) = (was.enabled, was.masked);
        Self { name: name.to_owned(), enable, state, mask, is_back: true, ..Self::default() }
    }

    /// What the role writes of it: its file, then its drop-ins in systemd's order.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.own.text.iter().chain(self.own.dropins.values()).map(String::as_str)
    }

    /// What the role's own texts say of whether it refuses to be stopped by hand.
    fn refuses_stop(&self) -> Option<bool> {
        let lines = self.texts().flat_map(unit_files::logical_lines);
        let value = |(_, line): (usize, String)| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == "RefuseManualStop").then(|| ["1", "yes", "true", "on"].contains(&value.trim()))
        };
        lines.filter_map(value).last()
    }

    /// Whether the role writes its file.
    pub fn has_file(&self) -> bool {
        self.own.text.is_some()
    }

    /// How it failed; `None` when it has not, or is not to run.
    pub fn failure(&self, host: &Host) -> Result<Option<String>> {
        let is_asked = self.state != ActiveState::Stopped && !unit_files::is_template(&self.name);
        if !is_asked || host.unit(&self.name)?.active != "failed" {
            return Ok(None);
        }
        let details = host.systemd()?.details(&self.name)?;
        Ok(Some(format!("the unit failed: {}; `journalctl -u {}` tells more", details.ending(), self.name)))
    }

    fn link(&self) -> PathBuf {
        Path::new(ETC).join(&self.name)
    }

    /// Where it is remembered, until the next boot, that it was started with success and has no need to run on.
    fn mark(&self) -> PathBuf {
        Path::new("/run/kpull/fulfilled").join(&self.name)
    }

    /// What of the links that enable it is not as it is to be; `None` when all is, or none of it can be told.
    fn wrong_links(&self, work: &Work<'_>, found: &Found) -> Result<Option<Links>> {
        let (root, Some(enable)) = (&work.host.root, self.enable) else { return Ok(None) };
        let file = match found {
            Found::File(file) => Some(file),
            Found::Missing | Found::Masked { .. } => None,
        };
        let of_install = file.map(|file| file.links(root)).transpose()?.unwrap_or_default();
        if enable && of_install.is_empty() {
            if file.is_none() || self.is_back {
                return Ok(None);
            }
            return Err(Error::new(code::UNIT, format!("{} can't be enabled: its file says nothing of when to start it", self.name))
                .help("add `WantedBy=multi-user.target` under `[Install]`, by a drop-in if a package brings the unit; or leave out `enable`"));
        }
        let names: Vec<&str> = std::iter::once(self.name.as_str()).chain(file.map(|file| file.name.as_str())).collect();
        let mut links = Links { stale: unit_files::links_to(root, &names)?, missing: Vec::new() };
        // what is enabled along with it may have a say of its own
        let is_ours = |link: &Link| names.contains(&link.unit.as_str()) || !decides(work.catalog, &link.unit);
        for link in of_install.into_iter().filter(is_ours) {
            let is_there = link.is_there(root)?;
            links.stale.retain(|at| *at != link.at);
            match enable {
                true if !is_there => links.missing.push(link),
                false if is_there => links.stale.push(link.at),
                // a run that died between the two has left the links' directory
                false => links.stale.extend(unit_files::emptied(root, &link.at)?),
                _ => {}
            }
        }
        links.stale.retain(|at| !is_claimed(work.catalog, at));
        Ok(Some(links).filter(|links| !links.missing.is_empty() || !links.stale.is_empty()))
    }

    /// Whether a script of System V is to be run at boot, or not to be, and that is not so.
    fn wrong_script(&self, host: &Host, found: &Found) -> Result<Option<PathBuf>> {
        let (Some(enable), Found::Missing, None) = (self.enable, found, self.mask) else { return Ok(None) };
        let Some(script) = unit_files::script(&host.root, &self.name)? else { return Ok(None) };
        let is_enabled = !unit_files::script_links(&host.root, &self.name)?.is_empty();
        Ok((is_enabled != enable).then_some(script))
    }

    /// How it stands. A unit that is `activating` or `reloading` counts as running: systemd is at it, and its job tells
    /// how that ends. One that waits to be started again after it failed (`auto-restart`) doesn't.
    /// A `oneshot` without `RemainAfterExit=` goes back to `inactive`: once it has run with success since boot it counts
    /// as fulfilled, so that it runs once a boot (Ansible and Puppet would start it again at every run). systemd forgets
    /// such a run when no other unit refers to the unit, so the ones that were started from here leave a mark.
    fn standing(&self, work: &Work<'_>) -> Result<UnitStatus> {
        let host = work.host;
        if unit_files::is_template(&self.name) {
            return Ok(if self.instances(work)?.is_empty() { UnitStatus::Down(None) } else { UnitStatus::Up });
        }
        let unit = host.unit(&self.name)?;
        Ok(match (unit.active.as_str(), unit.sub.as_str()) {
            ("activating", "auto-restart" | "auto-restart-queued") => UnitStatus::Between,
            ("active" | "activating" | "reloading" | "refreshing", _) => UnitStatus::Up,
            ("failed", _) => UnitStatus::Down(Some("it failed")),
            ("deactivating", _) => UnitStatus::Down(Some("it is stopping")),
            // only here is another question needed; a unit that nobody knows has no details
            ("inactive", _) if self.state == ActiveState::Running && unit.load == "loaded" => {
                if host.root.meta(&self.mark())?.is_some() {
                    return Ok(UnitStatus::Fulfilled);
                }
                let details = host.systemd()?.details(&self.name)?;
                if details.is_finished() || details.is_skipped { UnitStatus::Fulfilled } else { UnitStatus::Down(None) }
            }
            _ => UnitStatus::Down(None),
        })
    }

    /// The running instances of a template that the catalog has no word of: the others answer for themselves.
    fn instances(&self, work: &Work<'_>) -> Result<Vec<String>> {
        let mut names = work.host.systemd()?.instances(&self.name)?;
        names.retain(|name| !units(work.catalog).any(|unit| unit.name == *name));
        Ok(names)
    }

    /// Whether a mask that nobody has asked for stands in its way. What is given back leaves it: somebody has made it since.
    fn is_hindered(&self) -> bool {
        self.mask.is_none() && !self.is_back && self.is_to_be_up()
    }

    fn is_to_be_up(&self) -> bool {
        self.enable == Some(true) || self.state == ActiveState::Running
    }

    /// Whether it is there to be enabled and started.
    fn is_there(&self, host: &Host, found: &Found) -> Result<bool> {
        Ok(match found {
            Found::File(_) => true,
            Found::Masked { .. } => false,
            // generated ones have no file in these directories, and systemd knows them all the same
            Found::Missing => {
                host.is_live() && !unit_files::is_template(&self.name) && host.unit(&self.name)?.load == "loaded"
            }
        })
    }

    /// Whether this run would end with it, or is started by it: it takes a new definition at its next start.
    fn is_own(&self, host: &Host) -> Result<bool> {
        host.systemd()?.is_own(&self.name)
    }

    /// The error for a unit that isn't there.
    fn missing(&self, host: &Host) -> Result<Error> {
        let error = Error::new(code::UNIT, format!("there is no unit {}: no file and no package gives it", self.name));
        let names = unit_files::names(&host.root)?;
        Ok(error.help_nearest(
            &self.name,
            names.iter().map(String::as_str),
            "give it a `content` or `template`, or add the [[package]] that brings it",
        ))
    }

    /// Whether the file may still come: in a tree packages are not installed, and neither are their units.
    fn is_of_absent_package(host: &Host, catalog: &[Item]) -> bool {
        !host.is_live() && catalog.iter().any(|item| item.about.kind == "package")
    }

    fn change_mask(&self, host: &Host) -> Result<()> {
        let root = &host.root;
        if host.is_live() {
            host.systemd()?.mask(&self.name)?;
        } else if root.file(&self.link())?.is_some() {
            return Err(Error::new(
                code::UNIT,
                format!("{} can't be masked: its file is where the mask has to be", self.name),
            )
            .help(format!("remove {} with an [[absent]]", self.link().display())));
        } else {
            root.make_link(&self.link(), Path::new("/dev/null"))?;
        }
        host.unit_files_changed();
        Ok(())
    }

    fn unmask(&self, host: &Host, runtime: bool) -> Result<()> {
        if host.is_live() {
            host.systemd()?.unmask(&self.name, runtime)?;
        } else {
            host.root.remove(&self.link())?;
        }
        host.unit_files_changed();
        Ok(())
    }

    fn change_links(&self, host: &Host, links: &Links) -> Result<()> {
        for at in &links.stale {
            unit_files::unlink(&host.root, at)?;
        }
        for link in &links.missing {
            link.make(&host.root)?;
        }
        host.unit_links_changed();
        Ok(())
    }

    /// Has a script of System V run at boot, or not, by the distribution's own means.
    fn change_script(&self, host: &Host, script: &Path, enable: bool) -> Result<()> {
        const HELPERS: [&str; 2] = ["/usr/lib/systemd/systemd-sysv-install", "/lib/systemd/systemd-sysv-install"];
        let word = if enable { "enable" } else { "disable" };
        let what = || format!("{} can't be {word}d: it is a script of System V, {}", self.name, script.display());
        let own = format!(
            "give it a unit of its own: a [[unit]] with `content`, whose ExecStart= is `{} start`",
            script.display()
        );
        if !host.is_live() {
            return Err(Error::new(code::UNIT, what()).because("only a running host can do that with one").help(own));
        }
        let stem = script.file_name().unwrap_or_default().to_string_lossy();
        for helper in HELPERS {
            let argv = process::argv([helper, word, &stem]);
            let Some(output) = run_if_there(&Command::new(&argv, ONE_SCRIPT))? else { continue };
            return match output.is_success() {
                true => {
                    host.unit_files_changed();
                    Ok(())
                }
                false => Err(output.failure(what()).help(own)),
            };
        }
        Err(Error::new(code::UNIT, what()).because("this host has no systemd-sysv-install").help(own))
    }

    /// Starts, stops, restarts or reloads it, as its state and what it is owed ask for.
    fn change_state(&self, work: &Work<'_>, trigger: Option<Trigger>) -> Result<()> {
        if unit_files::is_template(&self.name) {
            return self.instances(work)?.into_iter().try_for_each(|name| {
                let one = Self { name, ..self.clone() };
                one.change_state(work, trigger.map(|trigger| one.answer(work, trigger)).transpose()?.flatten())
            });
        }
        let (host, systemd) = (work.host, work.host.systemd()?);
        let standing = self.standing(work)?;
        if standing.is_at_work() && (trigger.is_some() || self.state == ActiveState::Stopped) && self.is_own(host)? {
            return Ok(());
        }
        match (self.state, standing, trigger) {
            (ActiveState::Stopped, now, _) if now.is_at_work() => return systemd.stop(&self.name),
            (ActiveState::Stopped, ..) => return Ok(()),
            (_, UnitStatus::Up, Some(Trigger::Restart)) => systemd.restart(&self.name)?,
            (_, UnitStatus::Up, Some(Trigger::Reload)) => return systemd.reload(&self.name),
            (ActiveState::Running, UnitStatus::Between | UnitStatus::Down(_), _)
            | (ActiveState::Running, UnitStatus::Fulfilled, Some(Trigger::Restart)) => {
                systemd.start(&self.name)?;
            }
            _ => return Ok(()),
        }
        if systemd.details(&self.name)?.unit.active == "inactive" {
            return host.root.write(&self.mark(), b"", Access { mode: 0o644, uid: None, gid: None });
        }
        host.root.remove(&self.mark())?;
        self.check.as_ref().map_or(Ok(()), |check| check.wait(&self.name))
    }

    /// Whether it is active without doing its work.
    fn is_in_vain(&self, host: &Host) -> Result<bool> {
        match &self.check {
            Some(check) if host.unit(&self.name)?.active == "active" => {
                Ok(!check.stands(&self.name, || host.systemd()?.active_for(&self.name))?)
            }
            _ => Ok(false),
        }
    }
}

/// What of the links that enable a unit is not as it is to be.
#[derive(Debug, Default)]
struct Links {
    missing: Vec<Link>,
    stale: Vec<PathBuf>,
}

/// The units of a catalog.
fn units(catalog: &[Item]) -> impl Iterator<Item = &Unit> {
    catalog.iter().filter_map(Item::as_kind)
}

/// Whether the catalog says of this unit whether it is enabled.
fn decides(catalog: &[Item], name: &str) -> bool {
    units(catalog).any(|unit| unit.name == name && unit.enable.is_some())
}

/// Whether the catalog has something else at this path.
fn is_claimed(catalog: &[Item], path: &Path) -> bool {
    catalog.iter().any(|item| item.about.paths().any(|claimed| claimed == path))
}

impl Resource for Unit {
    fn about(&self) -> About {
        let phase = if self.state == ActiveState::Stopped { Phase::Stops } else { Phase::Units };
        About {
            after: self.after.iter().chain(self.watches.iter().map(|(id, _)| id)).cloned().collect(),
            watches: self.watches.clone(),
            slot: self.slot.clone(),
            is_discreet: true,
            ..About::new(UnitFields::NAME, &self.name, phase)
        }
    }

    fn restorable(&self) -> Option<&dyn Restorable> {
        Some(self)
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        let host = work.host;
        let mut traces: Vec<WatchedInput> =
            unit_files::traces(&host.root, &self.name, &self.own)?.into_iter().map(WatchedInput::Path).collect();
        let is_template = unit_files::is_template(&self.name);
        if host.is_live() && self.state != ActiveState::Any && !is_template {
            // one that is done is done until the next boot
            let boot = WatchedInput::Text("/proc/sys/kernel/random/boot_id".into());
            traces.extend([WatchedInput::Unit(self.name.clone()), WatchedInput::Path(self.mark()), boot]);
        }
        if let Some(check) = self.check.as_ref().filter(|_| host.is_live()) {
            // its arguments are kept
            if check.sensitive {
                return Ok(None);
            }
            traces.extend([WatchedInput::Unit(self.name.clone()), WatchedInput::Program((&check.command()).into())]);
        }
        Ok(Some(traces))
    }

    fn interrupts(&self, work: &Work<'_>, change: &Change) -> Result<bool> {
        let would = self.state == ActiveState::Stopped || change.trigger == Some(Trigger::Restart);
        Ok(would && work.host.is_live() && self.standing(work)? == UnitStatus::Up)
    }

    fn answer(&self, work: &Work<'_>, trigger: Trigger) -> Result<Option<Trigger>> {
        let host = work.host;
        if !host.is_live() || self.state == ActiveState::Stopped {
            return Ok(None);
        }
        let is_up = self.standing(work)? == UnitStatus::Up;
        if !is_up || unit_files::is_template(&self.name) {
            return Ok((is_up || self.state == ActiveState::Running).then_some(trigger));
        }
        if self.is_own(host)? {
            return Ok(None);
        }
        let details = host.systemd()?.details(&self.name)?;
        if trigger == Trigger::Reload && details.can_reload {
            return Ok(Some(Trigger::Reload));
        }
        if details.refuses_stop && self.refuses_stop() != Some(false) {
            let error = Error::new(code::UNIT, format!("{} can't be restarted: it refuses to be stopped", self.name));
            let dropin =
                "let it be, with a drop-in: `[unit.dropins]`, `\"10-stop.conf\" = \"[Unit]\\nRefuseManualStop=no\\n\"`";
            return Err(error.because("its file says RefuseManualStop=yes").help(match details.can_reload {
                true => format!("reload it instead, by `reload_when`; or {dropin}"),
                false => dropin.to_owned(),
            }));
        }
        Ok(Some(Trigger::Restart))
    }

    fn announce(&self, wants: &mut Queries) {
        if (self.state != ActiveState::Any || self.check.is_some()) && !unit_files::is_template(&self.name) {
            wants.units.insert(self.name.clone());
        }
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let (host, root) = (work.host, &work.host.root);
        let masked = unit_files::masked(root, &self.name)?;
        let found = unit_files::find(root, &self.name, &self.own)?;
        let (mut parts, mut unlinks) = (Vec::new(), Vec::new());
        match (self.mask, masked) {
            (Some(true), None) => parts.push("mask".to_owned()),
            (Some(false), Some(_)) => parts.push("unmask".to_owned()),
            (None, Some(_)) if self.is_hindered() => parts.push("unmask".to_owned()),
            _ => {}
        }
        let may_be_up = !self.is_back || self.mask == Some(false) || self.is_there(host, &found)?;
        let may_come = matches!(found, Found::Missing) && Self::is_of_absent_package(host, work.catalog);
        match self.enable {
            Some(true) if !may_be_up || may_come => {}
            Some(enable) => {
                let links = self.wrong_links(work, &found)?;
                let is_wrong = links.is_some() || self.wrong_script(host, &found)?.is_some();
                unlinks = unit_files::with_emptied(root, links.map(|links| links.stale).unwrap_or_default())?;
                // what brings it may have its turn before this does
                let is_missing = match found {
                    Found::File(_) => false,
                    Found::Missing => unit_files::script(root, &self.name)?.is_none(),
                    Found::Masked { .. } => true,
                };
                if is_wrong || (enable && is_missing) {
                    parts.push(if enable { "enable" } else { "disable" }.to_owned());
                }
            }
            None => {}
        }
        if host.is_live() && self.state != ActiveState::Any {
            match (self.state, self.standing(work)?) {
                (ActiveState::Running, UnitStatus::Between | UnitStatus::Down(_)) if !may_be_up => {}
                (ActiveState::Running, UnitStatus::Between) => parts.push("start (it keeps ending)".to_owned()),
                (ActiveState::Running, UnitStatus::Down(None)) => parts.push("start".to_owned()),
                (ActiveState::Running, UnitStatus::Down(Some(why))) => parts.push(format!("start ({why})")),
                (ActiveState::Stopped, now) if now.is_at_work() && !self.is_own(host)? => parts.push("stop".to_owned()),
                _ => {}
            }
        }
        let trigger = if host.is_live() && self.is_in_vain(host)? && !self.is_own(host)? {
            parts.push("restart (its check fails)".to_owned());
            Some(Trigger::Restart)
        } else {
            None
        };
        Ok(Change::of(parts).map(|change| Change { trigger, unlinks, ..change }))
    }

    fn apply(&self, work: &Work<'_>, change: &Change) -> Result<()> {
        let (host, root) = (work.host, &work.host.root);
        let masked = unit_files::masked(root, &self.name)?;
        if let Some(Found::Masked { runtime }) = masked
            && (self.mask == Some(false) || self.is_hindered())
        {
            self.unmask(host, runtime)?;
        }
        let found = unit_files::find(root, &self.name, &self.own)?;
        if let Some(links) = self.wrong_links(work, &found)? {
            self.change_links(host, &links)?;
        }
        if let Some((script, enable)) = self.wrong_script(host, &found)?.zip(self.enable) {
            self.change_script(host, &script, enable)?;
        }
        // what is to be masked is stopped first: afterwards systemd no longer knows how
        if self.mask == Some(true) {
            if host.is_live() {
                self.change_state(work, None)?;
            }
            if masked.is_none() {
                self.change_mask(host)?;
            }
            host.settle_unit_files()?;
            host.forget_units();
            return Ok(());
        }
        let is_there = self.is_there(host, &found)?;
        let may_come = Self::is_of_absent_package(host, work.catalog);
        if self.is_to_be_up() && !self.is_back && matches!(found, Found::Missing) && !may_come {
            let has_script = unit_files::script(root, &self.name)?.is_some();
            if !is_there && !has_script {
                return Err(self.missing(host)?);
            }
            if self.enable == Some(true) && !has_script {
                let source = host.systemd()?.details(&self.name)?.source;
                return Err(Error::new(
                    code::UNIT,
                    format!("{} can't be enabled: it has no file of its own", self.name),
                )
                .because(format!("systemd makes it from {source}"))
                .help("change that there; or leave out `enable` and say `state = \"running\"`"));
            }
        }
        if host.is_live() {
            host.settle_unit_files()?;
            if is_there || !self.is_back || self.state != ActiveState::Running {
                self.change_state(work, change.trigger)?;
            }
            host.forget_units();
        }
        Ok(())
    }
}

impl Restorable for Unit {
    fn owned(&self, _: &Work<'_>) -> Result<Vec<Claim>> {
        Ok(self.about().claims)
    }

    fn prior_state(&self, _: &Claim, work: &Work<'_>) -> Result<PriorState> {
        let host = work.host;
        let found = unit_files::find(&host.root, &self.name, &Own::default())?;
        // one that kpull brings neither ran nor was enabled, whatever the role says of that
        let is_new = matches!(found, Found::Missing) && self.own.text.is_some();
        let is_enabled = || -> Result<bool> {
            let mut names = vec![self.name.as_str()];
            names.extend(match &found {
                Found::File(file) => Some(file.name.as_str()),
                _ => None,
            });
            let is_run =
                matches!(found, Found::Missing) && !unit_files::script_links(&host.root, &self.name)?.is_empty();
            Ok(is_run || !unit_files::links_to(&host.root, &names)?.is_empty())
        };
        let enabled = (is_new || self.enable.is_some()).then(is_enabled).transpose()?;
        let asks = host.is_live() && self.state != ActiveState::Any;
        let running = match is_new {
            true => Some(false),
            false => asks.then(|| Ok::<_, Error>(self.standing(work)? == UnitStatus::Up)).transpose()?,
        };
        let is_masked = matches!(found, Found::Masked { .. });
        let masked = (self.mask.is_some() || (is_masked && self.is_hindered())).then_some(is_masked);
        let state = PriorUnit { enabled, running, masked, keeps_running: self.keep_running };
        Ok(PriorState::Unit { name: self.name.clone(), state })
    }

    fn refine(&self, origin: &mut PriorState, work: &Work<'_>) -> Result<bool> {
        let PriorState::Unit { state: was, .. } = origin else { return Ok(false) };
        let PriorState::Unit { state: now, .. } =
            self.prior_state(&Claim::thing(UnitFields::NAME, &self.name), work)?
        else {
            return Ok(false);
        };
        let refined = was.or(now);
        Ok(std::mem::replace(was, refined) != refined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;
    use crate::host::zone::Traffic;
    use crate::kind::testing::{RoleFiles, build_with, fails};

    fn unit(toml: &str) -> Unit {
        let built = build_with::<UnitFields>(toml, &RoleFiles::default()).unwrap();
        built.last().and_then(|last| last.as_kind::<Unit>()).unwrap().clone()
    }

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let host = Host::open(dir.path()).unwrap();
        (dir, host)
    }

    fn with<T>(host: &Host, f: impl FnOnce(&Work<'_>) -> T) -> T {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::Store::open(dir.path()).unwrap();
        f(&Work { host, store: &store, catalog: &[] })
    }

    fn summary(unit: &Unit, host: &Host) -> String {
        with(host, |work| unit.observe(work).unwrap()).map_or_else(String::new, |change| change.summary)
    }

    fn make(unit: &Unit, host: &Host) -> Result<()> {
        with(host, |work| unit.apply(work, &Change::default()))
    }

    #[test]
    fn what_it_listens_at_is_a_text_or_a_table() {
        let listens = |toml: &str| unit(&format!("name = 'a.service'\nlistens = [{toml}]")).listens;
        let at = |text: &str| Traffic::try_from(text.to_owned()).unwrap();
        let plain = |text| Listen { at: at(text), certificate: None, through: None };
        assert_eq!(
            listens("'2379/tcp', '30000-32766/udp', 'VRRP'"),
            [plain("2379/tcp"), plain("30000-32766/udp"), plain("vrrp")]
        );
        let shown = Listen { certificate: Some("c".to_owned()), ..plain("6443/tcp") };
        let passed = Listen { through: Some(6443), ..plain("443/tcp") };
        let tables = "{ port = '6443/tcp', certificate = 'c' }, { port = '443/tcp', through = 6443 }";
        assert_eq!(listens(tables), [shown, passed]);
        assert!(plain("1-5/tcp").is_at(3) && !plain("1-5/tcp").is_at(6) && !plain("1-5/udp").is_at(3));
    }

    #[test]
    fn what_nobody_can_listen_at_is_refused() {
        for (listens, why) in [
            ("'443'", "`443` is not a port"),
            ("'70000/tcp'", "`70000/tcp` is not a port"),
            ("443", "expected a text like \"2379/tcp\", or a table with `port`"),
            ("{ certificate = 'c' }", "lacks `port`"),
            ("{ port = '1/tcp', thruogh = 2 }", "unknown key `thruogh`"),
            ("{ port = '1/tcp', certificate = 'c', through = 2 }", "not both"),
            ("{ port = '1/udp', through = 2 }", "TCP only"),
            ("{ port = '1/tcp', through = 0 }", "from 1 to 65535"),
        ] {
            let told =
                fails::<UnitFields>(&format!("name = 'a.service'\nlistens = [{listens}]"), &RoleFiles::default());
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn its_file_and_drop_ins_are_resources_that_it_is_restarted_for() {
        let toml = "name = 'a.service'\ncontent = '[Service]'\ndropins = { '10-x.conf' = '[Unit]' }\n\
                    restart_when = ['file:/etc/a']\nreload_when = ['file:/etc/b']";
        let built = build_with::<UnitFields>(toml, &RoleFiles::default()).unwrap();
        let ids: Vec<String> = built.iter().map(|made| made.about().id()).collect();
        let own = ["unit-file:/etc/systemd/system/a.service", "unit-file:/etc/systemd/system/a.service.d/10-x.conf"];
        assert_eq!(ids, [own[0], own[1], "unit:a.service"]);
        let watched = [
            (own[0].to_owned(), Trigger::Restart),
            (own[1].to_owned(), Trigger::Restart),
            ("file:/etc/a".to_owned(), Trigger::Restart),
            ("file:/etc/b".to_owned(), Trigger::Reload),
        ];
        assert_eq!(unit(toml).about().watches, watched);
        assert!(watched.iter().all(|(id, _)| unit(toml).about().after.contains(id)));
    }

    #[test]
    fn an_enabled_unit_runs_and_another_may_unless_it_is_masked() {
        assert_eq!(unit("name = 'a.service'\nenable = true").state, ActiveState::Running);
        assert_eq!(unit("name = 'a.timer'\nenable = false").state, ActiveState::Any);
        assert_eq!(unit("name = 'a.service'\nmask = true").state, ActiveState::Stopped);
        assert_eq!(unit("name = 'a.service'\nenable = true\nstate = 'stopped'").state, ActiveState::Stopped);
    }

    #[test]
    fn a_name_that_systemd_would_not_take_is_refused_with_the_one_that_was_meant() {
        let why = |name: &str| fails::<UnitFields>(&format!("name = '{name}'"), &RoleFiles::default());
        assert!(why("a.servce").contains("did you mean `a.service`?"));
        assert!(why("a").contains("it ends in one of .service, .socket"));
        for bad in ["../a.service", ".service", "a b.service", "@x.service"] {
            assert!(why(bad).contains("is not the name of a unit"), "{bad}");
        }
        for good in ["a.service", "a@b.service", "dev-disk-by\\x2dlabel.mount", "user@.service"] {
            assert!(UnitName::try_from(good.to_owned()).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_text_that_systemd_would_not_take_is_refused_with_its_line() {
        let role = RoleFiles::default().with("a.service", "[Service]\nExecStart=/bin/a 'b\n");
        assert_eq!(
            fails::<UnitFields>("name = 'a.service'\ntemplate = 'a.service'", &role),
            "`template`: line 2 of a.service: a quote is opened and never closed: `ExecStart=/bin/a 'b`"
        );
        assert_eq!(
            fails::<UnitFields>("name = 'a.service'\ndropins = { '1.conf' = 'Nice=5' }", &role),
            "`dropins`: line 1 of 1.conf: it stands before any `[Section]`: `Nice=5`"
        );
    }

    #[test]
    fn fields_that_do_not_go_together_are_refused() {
        let why = |toml: &str| fails::<UnitFields>(toml, &RoleFiles::default());
        assert!(why("name = 'a.service'\nmask = true\nenable = true").contains("a masked unit"));
        assert!(why("name = 'a.service'\ncontent = '[Unit]'\nsource = 'x'").contains("at most one"));
        assert!(why("name = 'a@.service'\nenable = true").contains("for each instance"));
        assert!(why("name = 'a.service'\ncheck = []").starts_with("`check`: write a program"));
        assert!(why("name = 'a.service'\nmask = true\ncheck = ['true']").contains("is not to run"));
        assert!(why("name = 'a.service'\ncheck_within = '5s'").starts_with("`check_within`: "));
        assert!(why("name = 'a.service'\ndropins = { '../x.conf' = '[Unit]' }").contains("a drop-in is named like"));
    }

    #[test]
    fn in_a_tree_enabling_makes_the_links_of_systemctl_and_disabling_takes_them_away() {
        let (dir, host) =
            tree(&[("usr/lib/systemd/system/a.service", "[Install]\nWantedBy=multi-user.target\nAlias=b.service\n")]);
        let on = unit("name = 'a.service'\nenable = true");
        assert_eq!(summary(&on, &host), "enable");
        make(&on, &host).unwrap();
        let target = |at: &str| std::fs::read_link(dir.path().join(at)).unwrap();
        let file = Path::new("/usr/lib/systemd/system/a.service");
        assert_eq!(target("etc/systemd/system/multi-user.target.wants/a.service"), file);
        assert_eq!(target("etc/systemd/system/b.service"), file);
        assert_eq!(summary(&on, &host), "");
        let off = unit("name = 'a.service'\nenable = false");
        assert_eq!(summary(&off, &host), "disable");
        make(&off, &host).unwrap();
        assert_eq!(summary(&off, &host), "");
        assert!(!dir.path().join("etc/systemd/system/multi-user.target.wants/a.service").is_symlink());
    }

    #[test]
    fn in_a_tree_a_mask_is_a_link_to_nothing_which_stays_until_it_is_in_the_way() {
        let (dir, host) = tree(&[("usr/lib/systemd/system/a.service", "[Install]\nWantedBy=x.target\n")]);
        let masked = unit("name = 'a.service'\nmask = true");
        assert_eq!(summary(&masked, &host), "mask");
        make(&masked, &host).unwrap();
        assert_eq!(summary(&masked, &host), "");
        assert_eq!(
            std::fs::read_link(dir.path().join("etc/systemd/system/a.service")).unwrap(),
            Path::new("/dev/null")
        );
        assert_eq!(summary(&unit("name = 'a.service'"), &host), "");
        let on = unit("name = 'a.service'\nenable = true");
        assert_eq!(summary(&on, &host), "unmask, enable");
        make(&on, &host).unwrap();
        assert_eq!(summary(&on, &host), "");
    }

    #[test]
    fn of_a_check_with_a_secret_in_it_nothing_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (host, store) = (Host::open("/".as_ref()).unwrap(), crate::store::Store::open(dir.path()).unwrap());
        let work = Work { host: &host, store: &store, catalog: &[] };
        let watched_inputs = |role: &RoleFiles| {
            let built = build_with::<UnitFields>("name = 'a.service'\ncheck = ['test', 'hunter2']", role).unwrap();
            built.last().unwrap().watched_inputs(&work).unwrap()
        };
        assert_eq!(watched_inputs(&RoleFiles::default().secret()), None);
        let kept = watched_inputs(&RoleFiles::default()).unwrap();
        assert!(kept.iter().any(|trace| matches!(trace, WatchedInput::Program(_))), "{kept:?}");
        assert!(kept.contains(&WatchedInput::Unit("a.service".to_owned())), "{kept:?}");
    }

    #[test]
    fn a_check_tells_whether_the_work_stands_and_one_that_hangs_tells_nothing() {
        let check = |script: &str, sensitive| Check {
            argv: crate::host::process::argv(["sh", "-c", script]),
            within: Duration::ZERO,
            sensitive,
        };
        let long_ago = || Ok(Duration::MAX);
        assert!(check("true", false).stands("a.service", long_ago).unwrap());
        assert!(!check("exit 1", false).stands("a.service", long_ago).unwrap());
        let missing = Check { argv: vec!["no-such-program".to_owned()], ..check("", false) };
        assert!(!missing.stands("a.service", long_ago).unwrap(), "a package may still bring it");
        assert_eq!(
            missing.wait("a.service").unwrap_err().to_string(),
            "a.service was started, and its check still fails: there is no program no-such-program"
        );
        let error = check("echo no chain; exit 1", false).wait("a.service").unwrap_err();
        assert_eq!(error.exit_code(), Exit::Unhealthy);
        assert_eq!(error.to_string(), "a.service was started, and its check still fails: exit status: 1\nno chain");
        let error = check("echo hunter2; exit 1", true).wait("a.service").unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        let error = check("sleep 1000", false).stands("a.service", long_ago).unwrap_err();
        assert!(error.to_string().starts_with("the check of a.service never ended"), "{error}");
    }

    #[test]
    fn a_check_that_fails_is_asked_again_as_long_as_a_start_may_take_whoever_started_the_unit() {
        let dir = tempfile::tempdir().unwrap();
        let fails = dir.path().join("fails");
        let script = format!("n=$(cat {0}) && [ $n -gt 0 ] || exit 0; echo $((n - 1)) > {0}; exit 1", fails.display());
        let check = Check {
            argv: crate::host::process::argv(["sh", "-c", &script]),
            within: Duration::from_secs(3600),
            sensitive: false,
        };
        for (active, wanted, left) in [
            (Duration::ZERO, true, "0\n"),
            (Duration::from_secs(3000), true, "0\n"),
            (Duration::from_secs(3600), false, "1\n"),
            (Duration::MAX, false, "1\n"),
        ] {
            std::fs::write(&fails, "2\n").unwrap();
            assert_eq!(check.stands("a.service", || Ok(active)).unwrap(), wanted, "{active:?}");
            assert_eq!(std::fs::read_to_string(&fails).unwrap(), left, "{active:?}");
        }
    }

    #[test]
    fn a_check_is_not_asked_in_a_tree() {
        let (_dir, host) = tree(&[]);
        assert_eq!(summary(&unit("name = 'a.service'\ncheck = ['false']"), &host), "");
    }

    #[test]
    fn a_mask_does_not_overwrite_a_unit_file() {
        let (_dir, host) = tree(&[("etc/systemd/system/a.service", "[Unit]\n")]);
        let error = make(&unit("name = 'a.service'\nmask = true"), &host).unwrap_err();
        assert!(error.to_string().contains("can't be masked"), "{error}");
    }

    #[test]
    fn a_unit_that_nothing_gives_is_an_error_with_the_nearest_name() {
        let (_dir, host) = tree(&[("usr/lib/systemd/system/chronyd.service", "[Unit]\n")]);
        let wrong = unit("name = 'chrond.service'\nenable = true");
        assert_eq!(summary(&wrong, &host), "enable");
        let error = make(&wrong, &host).unwrap_err();
        assert_eq!(error.to_string(), "there is no unit chrond.service: no file and no package gives it");
        assert_eq!(error.advice(), Some("did you mean `chronyd.service`?"));
    }

    #[test]
    fn a_unit_that_says_nothing_of_when_to_start_cannot_be_enabled() {
        let (_dir, host) = tree(&[("usr/lib/systemd/system/a.service", "[Unit]\n")]);
        let error = make(&unit("name = 'a.service'\nenable = true"), &host).unwrap_err();
        assert!(error.to_string().starts_with("a.service can't be enabled"), "{error}");
        assert!(error.advice().unwrap().contains("WantedBy="));
    }
}
