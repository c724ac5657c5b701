//! `[[unit]]`: a systemd unit: its file and drop-ins, whether it is enabled, whether it runs, what it is restarted for.

mod check;
mod fields;
mod links;
mod listen;
mod prior;
mod quadlet;

use self::check::Check;
pub use self::fields::{UnitFields, UnitName};
pub use self::listen::Listen;
pub use self::prior::PriorUnit;
use crate::host::unit_files::{self, ETC, Found, Own};
use crate::kind::Queries;
use crate::kind::prelude::*;

/// The desired state of a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ActiveState {
    /// Active; a timer waits, a socket listens, a mount is mounted.
    Running,
    /// Not active.
    Stopped,
    /// Either.
    #[default]
    Any,
}

/// The state of a unit: enabled, running, masked. Its files are resources of the kind `unit-file`.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    /// Its name.
    pub name: String,
    own: Own,
    /// The role's Quadlet file, from which podman makes the unit.
    made_from: Option<String>,
    /// Whether it starts at boot; unchanged if `None`.
    pub enable: Option<bool>,
    state: ActiveState,
    /// Whether it is masked; unchanged if `None`, unless a mask prevents it from running.
    mask: Option<bool>,
    after: Vec<ResourceId>,
    watches: Vec<(String, Trigger)>,
    /// Where other hosts reach it.
    pub listens: Vec<Listen>,
    slot: Option<String>,
    check: Option<Check>,
    keep_running: bool,
    /// Whether this restores a prior state: then a unit that no longer exists needs nothing.
    is_restored: bool,
}

/// What a unit's state means for its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnitStatus {
    /// It runs or starts.
    Running,
    /// It need not run: a one-time job that is done, or a unit whose conditions are not met.
    Completed,
    /// It has ended, and systemd restarts it after a pause.
    AutoRestart,
    /// It does not run; the reason in a few words, if there is one to report.
    Down(Option<&'static str>),
}

impl UnitStatus {
    /// Whether there is anything to stop.
    fn is_running(self) -> bool {
        matches!(self, Self::Running | Self::AutoRestart)
    }
}

/// The units that start a service, by their usual names: they come before it, so that a stopped service stays stopped, and a
/// socket starts in time.
fn starters_of(name: &str) -> impl Iterator<Item = String> {
    let stem = name.strip_suffix(".service");
    stem.into_iter().flat_map(|stem| ["socket", "timer", "path"].map(|kind| format!("{stem}.{kind}")))
}

/// Whether a unit starts other units.
pub fn starts_others(name: &str) -> bool {
    [".socket", ".timer", ".path", ".automount"].iter().any(|kind| name.ends_with(kind))
}

/// Adds the triggers of each template in a catalog to its instances: they share a file.
pub fn inherit(items: &mut [Item]) {
    let is_template = |item: &&Item| item.about.kind == UnitFields::NAME && unit_files::is_template(&item.about.key);
    let templates: BTreeMap<String, Vec<(String, Trigger)>> =
        items.iter().filter(is_template).map(|item| (item.about.key.clone(), item.about.watches.clone())).collect();
    for item in items.iter_mut().filter(|item| !templates.is_empty() && item.about.kind == UnitFields::NAME) {
        let inherited = unit_files::template_of(&item.about.key).and_then(|template| templates.get(&template));
        for (id, trigger) in inherited.into_iter().flatten() {
            item.about.watches.push((id.clone(), *trigger));
        }
    }
}

impl Unit {
    /// The role's texts: its file, then its drop-ins in systemd's order.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.own.text.iter().chain(self.own.dropins.values()).chain(&self.made_from).map(String::as_str)
    }

    /// The value of `RefuseManualStop=` in the role's texts.
    fn refuses_stop(&self) -> Option<bool> {
        let lines = self.texts().flat_map(unit_files::logical_lines);
        let value = |(_, line): (usize, String)| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == "RefuseManualStop").then(|| ["1", "yes", "true", "on"].contains(&value.trim()))
        };
        lines.filter_map(value).last()
    }

    /// Whether the role has its file.
    pub fn has_file(&self) -> bool {
        self.own.text.is_some()
    }

    /// How it failed; `None` if it has not, or should not run.
    pub fn failure(&self, host: &Host) -> Result<Option<String>> {
        let is_asked = self.state != ActiveState::Stopped && !unit_files::is_template(&self.name);
        if !is_asked || host.unit(&self.name)?.active != "failed" {
            return Ok(None);
        }
        let details = host.systemd()?.details(&self.name)?;
        Ok(Some(format!("the unit failed: {}; `journalctl -u {}` shows more", details.ending(), self.name)))
    }

    fn link(&self) -> PathBuf {
        Path::new(ETC).join(&self.name)
    }

    /// The marker that records until the next boot that the unit was started and completed.
    fn completion_marker(&self) -> PathBuf {
        Path::new("/run/kpull/fulfilled").join(&self.name)
    }

    /// Its current status. A unit that is `activating` or `reloading` counts as running: systemd works on it, and its job
    /// has the result. A unit that waits for a restart after a failure (`auto-restart`) does not.
    /// A `oneshot` without `RemainAfterExit=` returns to `inactive`: after a successful run since boot it counts as
    /// completed, so it runs once per boot (Ansible and Puppet start it again at every run). systemd forgets such a
    /// run if no other unit refers to the unit, so kpull leaves a marker for those that it starts.
    fn status(&self, work: &Work<'_>) -> Result<UnitStatus> {
        let host = work.host;
        if unit_files::is_template(&self.name) {
            return Ok(if self.instances(work)?.is_empty() { UnitStatus::Down(None) } else { UnitStatus::Running });
        }
        let unit = host.unit(&self.name)?;
        Ok(match (unit.active.as_str(), unit.sub.as_str()) {
            ("activating", "auto-restart" | "auto-restart-queued") => UnitStatus::AutoRestart,
            ("active" | "activating" | "reloading" | "refreshing", _) => UnitStatus::Running,
            ("failed", _) => UnitStatus::Down(Some("it failed")),
            ("deactivating", _) => UnitStatus::Down(Some("it is stopping")),
            // only this case needs another query; an unknown unit has no details
            ("inactive", _) if self.state == ActiveState::Running && unit.load == "loaded" => {
                if host.root.meta(&self.completion_marker())?.is_some() {
                    return Ok(UnitStatus::Completed);
                }
                let details = host.systemd()?.details(&self.name)?;
                if details.is_finished() || details.is_skipped { UnitStatus::Completed } else { UnitStatus::Down(None) }
            }
            _ => UnitStatus::Down(None),
        })
    }

    /// The running instances of a template that are not in the catalog: the others have their own resources.
    fn instances(&self, work: &Work<'_>) -> Result<Vec<String>> {
        let mut names = work.host.systemd()?.instances(&self.name)?;
        names.retain(|name| !units(work.catalog).any(|unit| unit.name == *name));
        Ok(names)
    }

    /// Whether a mask that no role sets must be removed for it to run. A restore leaves the mask, because it is newer.
    fn must_unmask(&self) -> bool {
        self.mask.is_none() && !self.is_restored && self.should_run()
    }

    fn should_run(&self) -> bool {
        self.enable == Some(true) || self.state == ActiveState::Running
    }

    /// Whether it exists, so that it can be enabled and started.
    fn is_there(&self, host: &Host, found: &Found) -> Result<bool> {
        Ok(match found {
            Found::File(_) => true,
            Found::Masked { .. } => false,
            // generated units have no file in these directories, but systemd knows them
            Found::Missing => {
                host.is_live() && !unit_files::is_template(&self.name) && host.unit(&self.name)?.load == "loaded"
            }
        })
    }

    /// Whether this run belongs to the unit, so that stopping it ends the run: it takes a new definition at its next start.
    fn is_own(&self, host: &Host) -> Result<bool> {
        host.systemd()?.is_own(&self.name)
    }

    /// The error for a unit that does not exist.
    fn missing(&self, host: &Host) -> Result<Error> {
        let error = error!(UNIT, "there is no unit {}: no file and no package provides it", self.name);
        if self.made_from.is_some() {
            return Ok(error.help(
                "`/usr/lib/systemd/system-generators/podman-system-generator -dryrun` shows why podman generates none",
            ));
        }
        let names = unit_files::names(&host.root)?;
        let advice = "set its `content` or `template`, or add the [[package]] that provides it";
        Ok(error.help_nearest(&self.name, names.iter().map(String::as_str), advice))
    }

    /// Whether a package may install the file: in a tree, packages and their units are not installed.
    fn is_of_absent_package(host: &Host, catalog: &[Item]) -> bool {
        !host.is_live() && catalog.iter().any(|item| item.about.kind == "package")
    }

    /// Starts, stops, restarts or reloads it, by its state and the pending trigger.
    fn change_state(&self, work: &Work<'_>, trigger: Option<Trigger>) -> Result<()> {
        if unit_files::is_template(&self.name) {
            return self.instances(work)?.into_iter().try_for_each(|name| {
                let one = Self { name, ..self.clone() };
                one.change_state(work, trigger.map(|trigger| one.answer(work, trigger)).transpose()?.flatten())
            });
        }
        let (host, systemd) = (work.host, work.host.systemd()?);
        let status = self.status(work)?;
        if status.is_running() && (trigger.is_some() || self.state == ActiveState::Stopped) && self.is_own(host)? {
            return Ok(());
        }
        match (self.state, status, trigger) {
            (ActiveState::Stopped, now, _) if now.is_running() => return systemd.stop(&self.name),
            (ActiveState::Stopped, ..) => return Ok(()),
            (_, UnitStatus::Running, Some(Trigger::Restart)) => systemd.restart(&self.name)?,
            (_, UnitStatus::Running, Some(Trigger::Reload)) => return systemd.reload(&self.name),
            (ActiveState::Running, UnitStatus::AutoRestart | UnitStatus::Down(_), _)
            | (ActiveState::Running, UnitStatus::Completed, Some(Trigger::Restart)) => {
                systemd.start(&self.name)?;
            }
            _ => return Ok(()),
        }
        if systemd.details(&self.name)?.unit.active == "inactive" {
            return host.root.write(&self.completion_marker(), b"", Access::of_mode(0o644));
        }
        host.root.remove(&self.completion_marker())?;
        self.check.as_ref().map_or(Ok(()), |check| check.wait(&self.name))
    }

    /// Whether it is active, but its check fails.
    fn fails_check(&self, host: &Host) -> Result<bool> {
        match &self.check {
            Some(check) if host.unit(&self.name)?.active == "active" => {
                Ok(!check.passes(&self.name, || host.systemd()?.active_for(&self.name))?)
            }
            _ => Ok(false),
        }
    }
}

/// The units of a catalog.
fn units(catalog: &[Item]) -> impl Iterator<Item = &Unit> {
    catalog.iter().filter_map(Item::as_kind)
}

impl Resource for Unit {
    fn about(&self) -> About {
        let phase = if self.state == ActiveState::Stopped { Phase::Stops } else { Phase::Units };
        About {
            after: self.after.clone(),
            watches: self.watches.clone(),
            slot: self.slot.clone(),
            is_discreet: true,
            ..About::new(UnitFields::NAME, &self.name, phase).recorded()
        }
    }

    fn definition(&self) -> String {
        format!("{:?}", Self { after: Vec::new(), watches: Vec::new(), ..self.clone() })
    }

    fn is_addition(&self) -> bool {
        self.definition() == Self { name: self.name.clone(), ..Self::default() }.definition()
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        let host = work.host;
        let mut inputs: Vec<WatchedInput> =
            unit_files::watched_paths(&host.root, &self.name, &self.own)?.into_iter().map(WatchedInput::Path).collect();
        let is_template = unit_files::is_template(&self.name);
        if host.is_live() && self.state != ActiveState::Any && !is_template {
            // a completed unit is completed until the next boot
            let boot = WatchedInput::Text("/proc/sys/kernel/random/boot_id".into());
            inputs.extend([WatchedInput::Unit(self.name.clone()), WatchedInput::Path(self.completion_marker()), boot]);
        }
        if let Some(check) = self.check.as_ref().filter(|_| host.is_live()) {
            // its arguments are recorded
            if check.sensitive {
                return Ok(None);
            }
            inputs.extend([WatchedInput::Unit(self.name.clone()), WatchedInput::Program(check.command())]);
        }
        Ok(Some(inputs))
    }

    fn prior_state(&self, _: &Claim, work: &Work<'_>) -> Result<PriorState> {
        Ok(PriorState::Unit { name: self.name.clone(), state: self.prior_unit(work)? })
    }

    fn refine(&self, prior: &mut PriorState, work: &Work<'_>) -> Result<bool> {
        let PriorState::Unit { state: was, .. } = prior else { return Ok(false) };
        let refined = was.or(self.prior_unit(work)?);
        Ok(std::mem::replace(was, refined) != refined)
    }

    fn interrupts(&self, work: &Work<'_>, change: &Change) -> Result<bool> {
        let would = self.state == ActiveState::Stopped || change.trigger == Some(Trigger::Restart);
        Ok(would && work.host.is_live() && self.status(work)? == UnitStatus::Running)
    }

    fn answer(&self, work: &Work<'_>, trigger: Trigger) -> Result<Option<Trigger>> {
        let host = work.host;
        if !host.is_live() || self.state == ActiveState::Stopped {
            return Ok(None);
        }
        let runs = self.status(work)? == UnitStatus::Running;
        if !runs || unit_files::is_template(&self.name) {
            return Ok((runs || self.state == ActiveState::Running).then_some(trigger));
        }
        if self.is_own(host)? {
            return Ok(None);
        }
        let details = host.systemd()?.details(&self.name)?;
        if trigger == Trigger::Reload && details.can_reload {
            return Ok(Some(Trigger::Reload));
        }
        if details.refuses_stop && self.refuses_stop() != Some(false) {
            let error = error!(UNIT, "{} can't be restarted: it refuses to be stopped", self.name);
            let dropin =
                "allow it with a drop-in: `[unit.dropins]`, `\"10-stop.conf\" = \"[Unit]\\nRefuseManualStop=no\\n\"`";
            return Err(error.because("its file contains RefuseManualStop=yes").help(match details.can_reload {
                true => format!("reload it instead, with `reload_when`; or {dropin}"),
                false => dropin.to_owned(),
            }));
        }
        Ok(Some(Trigger::Restart))
    }

    fn announce(&self, queries: &mut Queries) {
        if (self.state != ActiveState::Any || self.check.is_some()) && !unit_files::is_template(&self.name) {
            queries.units.insert(self.name.clone());
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
            (None, Some(_)) if self.must_unmask() => parts.push("unmask".to_owned()),
            _ => {}
        }
        let may_run = !self.is_restored || self.mask == Some(false) || self.is_there(host, &found)?;
        let may_come = matches!(found, Found::Missing) && Self::is_of_absent_package(host, work.catalog);
        match self.enable {
            Some(true) if !may_run || may_come => {}
            Some(enable) => {
                let links = self.wrong_links(work, &found)?;
                let is_wrong = links.is_some() || self.wrong_script(host, &found)?.is_some();
                unlinks = unit_files::with_emptied(root, links.map(|links| links.stale).unwrap_or_default())?;
                // an earlier resource may bring it
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
            match (self.state, self.status(work)?) {
                (ActiveState::Running, UnitStatus::AutoRestart | UnitStatus::Down(_)) if !may_run => {}
                (ActiveState::Running, UnitStatus::AutoRestart) => parts.push("start (it keeps ending)".to_owned()),
                (ActiveState::Running, UnitStatus::Down(None)) => parts.push("start".to_owned()),
                (ActiveState::Running, UnitStatus::Down(Some(why))) => parts.push(format!("start ({why})")),
                (ActiveState::Stopped, now) if now.is_running() && !self.is_own(host)? => parts.push("stop".to_owned()),
                _ => {}
            }
        }
        let fails_check = host.is_live() && self.fails_check(host)? && !self.is_own(host)?;
        let trigger = fails_check.then_some(Trigger::Restart);
        parts.extend(fails_check.then(|| "restart (its check fails)".to_owned()));
        Ok(Change::of(parts).map(|change| Change { trigger, unlinks, ..change }))
    }

    fn apply(&self, work: &Work<'_>, change: &Change) -> Result<()> {
        let (host, root) = (work.host, &work.host.root);
        let masked = unit_files::masked(root, &self.name)?;
        if let Some(Found::Masked { runtime }) = masked
            && (self.mask == Some(false) || self.must_unmask())
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
        // a unit is stopped before it is masked: afterwards systemd can't stop it properly
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
        // a generator may make it
        host.settle_unit_files()?;
        let is_there = self.is_there(host, &found)?;
        let may_come = Self::is_of_absent_package(host, work.catalog);
        if self.should_run() && !self.is_restored && matches!(found, Found::Missing) && !may_come {
            let has_script = unit_files::script(root, &self.name)?.is_some();
            if !is_there && !has_script {
                return Err(self.missing(host)?);
            }
            if self.enable == Some(true) && !has_script {
                let source = host.systemd()?.details(&self.name)?.source;
                return Err(error!(UNIT, "{} can't be enabled: it has no unit file", self.name)
                    .because(format!("systemd generates it from {source}"))
                    .help("change it there, or omit `enable` and set `state = \"running\"`"));
            }
        }
        if host.is_live() {
            if is_there || !self.is_restored || self.state != ActiveState::Running {
                self.change_state(work, change.trigger)?;
            }
            host.forget_units();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::Exit;
    use crate::kind::testing::{RoleFiles, build_with};

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
    fn in_a_tree_enabling_creates_the_links_of_systemctl_and_disabling_removes_them() {
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
    fn in_a_tree_a_mask_is_a_link_that_stays_until_the_unit_must_run() {
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
        assert!(kept.iter().any(|input| matches!(input, WatchedInput::Program(_))), "{kept:?}");
        assert!(kept.contains(&WatchedInput::Unit("a.service".to_owned())), "{kept:?}");
    }

    #[test]
    fn a_check_passes_or_fails_and_one_that_hangs_is_an_error() {
        let check = |script: &str, sensitive| Check {
            argv: crate::host::process::argv(["sh", "-c", script]),
            within: Duration::ZERO,
            sensitive,
        };
        let long_ago = || Ok(Duration::MAX);
        assert!(check("true", false).passes("a.service", long_ago).unwrap());
        assert!(!check("exit 1", false).passes("a.service", long_ago).unwrap());
        let missing = Check { argv: vec!["no-such-program".to_owned()], ..check("", false) };
        assert!(!missing.passes("a.service", long_ago).unwrap(), "a package may still bring it");
        assert_eq!(
            missing.wait("a.service").unwrap_err().to_string(),
            "a.service was started, but its check still fails: there is no program no-such-program"
        );
        let error = check("echo no chain; exit 1", false).wait("a.service").unwrap_err();
        assert_eq!(error.exit_code(), Exit::Unhealthy);
        assert_eq!(error.to_string(), "a.service was started, but its check still fails: exit status: 1\nno chain");
        let error = check("echo hunter2; exit 1", true).wait("a.service").unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        let error = check("sleep 1000", false).passes("a.service", long_ago).unwrap_err();
        assert!(error.to_string().starts_with("the check of a.service did not end in time"), "{error}");
    }

    #[test]
    fn a_failing_check_is_repeated_as_long_as_a_start_may_take() {
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
            assert_eq!(check.passes("a.service", || Ok(active)).unwrap(), wanted, "{active:?}");
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
    fn a_unit_that_does_not_exist_is_an_error_with_the_nearest_name() {
        let (_dir, host) = tree(&[("usr/lib/systemd/system/chronyd.service", "[Unit]\n")]);
        let wrong = unit("name = 'chrond.service'\nenable = true");
        assert_eq!(summary(&wrong, &host), "enable");
        let error = make(&wrong, &host).unwrap_err();
        assert_eq!(error.to_string(), "there is no unit chrond.service: no file and no package provides it");
        assert_eq!(error.advice(), Some("did you mean `chronyd.service`?"));
    }

    #[test]
    fn a_unit_without_an_install_section_can_not_be_enabled() {
        let (_dir, host) = tree(&[("usr/lib/systemd/system/a.service", "[Unit]\n")]);
        let error = make(&unit("name = 'a.service'\nenable = true"), &host).unwrap_err();
        assert!(error.to_string().starts_with("a.service can't be enabled"), "{error}");
        assert!(error.advice().unwrap().contains("WantedBy="));
    }
}
