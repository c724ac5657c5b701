//! systemd over D-Bus: the state of units, and systemd's verdict on their jobs.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use zbus::OwnedObjectPath;

use crate::error::{Error, Exit, Result, error, mask, visible};
use crate::host::bus::{self, Bus, MANAGER, Properties, get, monotonic};
use crate::host::process::{Command, run_if_there};
use crate::host::{deadline, mount_users, unit_files};
use crate::text::{display_as_serialized, shortened};

/// Timeout of a job. Units have their own, shorter limits; this one is for those that have none.
const JOB: Duration = Duration::from_secs(300);

/// How long to watch a service that counts as active once it is forked: a bad flag or a used port ends it within this time.
const FIRST_MOMENTS: Duration = Duration::from_millis(500);

/// The system manager.
pub struct Systemd {
    bus: Bus,
}

/// What happens to a unit or a command when something that it watches has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// The command runs.
    Run,
    /// `systemctl reload`.
    Reload,
    /// `systemctl restart`.
    Restart,
}

display_as_serialized!(Trigger);

/// The state of a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// `loaded`, `not-found`, `masked`, `error`; empty if systemd was never asked.
    pub load: String,
    /// `active`, `inactive`, `failed`, `activating`, …
    pub active: String,
    /// `running`, `dead`, `exited`, …
    pub sub: String,
    /// Whether it is changing: it has a job.
    pub has_job: bool,
}

/// More about a unit, for decisions that need more than its state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Its state.
    pub unit: Unit,
    /// The type of a service: `simple`, `oneshot`, `notify`, …; empty for other units.
    pub service: String,
    /// The result of the last run of a service: `success`, `exit-code`, `timeout`, `start-limit-hit` (`start-limit` before systemd 231), …
    pub result: String,
    /// When its main process ended, in microseconds since 1970; 0 if it has not since boot.
    pub ended: u64,
    /// Whether its conditions prevented its last start.
    pub is_skipped: bool,
    /// Its main process; 0 for none.
    pub pid: u32,
    /// How its main process ended: 1 by itself, 2 by a signal, 3 with a core dump; 0 if it didn't.
    pub code: i32,
    /// The exit status or signal of its main process.
    pub status: i32,
    /// Whether it can be reloaded.
    pub can_reload: bool,
    /// Whether it refuses to be stopped by hand.
    pub refuses_stop: bool,
    /// Whether its files have changed since systemd read them.
    pub needs_reload: bool,
    /// Its file, or what a generator has made it from.
    pub source: String,
}

impl Details {
    /// The result of its last run in words: `result exit-code, exit status 1`; empty if there is none.
    pub fn ending(&self) -> String {
        let result = Some(format!("result {}", self.result)).filter(|_| !self.result.is_empty());
        let status = match self.code {
            1 => Some(format!("exit status {}", self.status)),
            2 | 3 => Some(format!("killed by signal {}", self.status)),
            _ => None,
        };
        result.into_iter().chain(status).collect::<Vec<_>>().join(", ")
    }

    /// Whether this is a one-time job that has succeeded since boot, so that it is rightly inactive.
    pub fn is_finished(&self) -> bool {
        self.service == "oneshot" && self.result == "success" && self.ended > 0 && self.unit.active == "inactive"
    }
}

/// An operation on a unit: the manager's method, and the word for messages.
type Verb = (&'static str, &'static str);
const START: Verb = ("StartUnit", "start");
const STOP: Verb = ("StopUnit", "stop");
const RESTART: Verb = ("RestartUnit", "restart");
const RELOAD: Verb = ("ReloadUnit", "reload");

/// A unit as `ListUnitsByNames` returns it: name, description, load, active and sub state, two unused fields, the number of its job,
/// and more unused fields.
type Listed = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

impl From<Listed> for Unit {
    fn from(listed: Listed) -> Self {
        let (_, _, load, active, sub, _, _, job, ..) = listed;
        Self { load, active, sub, has_job: job != 0 }
    }
}

/// The links that masking changed: the operation, the link and its target.
type Links = Vec<(String, String, String)>;

impl Systemd {
    /// Connects to the manager on `bus`; an error if systemd does not manage this machine.
    pub fn new(bus: Bus) -> Result<Self> {
        // without a subscription the manager sends no signal when a job ends
        match bus.call::<_, ()>(MANAGER, "Subscribe", &()) {
            Ok(()) => Ok(Self { bus }),
            Err(error) if error_is(&error, "AlreadySubscribed") => Ok(Self { bus }),
            Err(error) => Err(failed("ask", "the system manager", &error)),
        }
    }

    /// The state of several units, in one call.
    pub fn units(&self, names: &[String]) -> Result<HashMap<String, Unit>> {
        match self.bus.call::<_, Vec<Listed>>(MANAGER, "ListUnitsByNames", &(names,)) {
            // queried by an alias, a unit returns its own name: the order identifies it
            Ok(units) if units.len() == names.len() => {
                Ok(names.iter().cloned().zip(units.into_iter().map(Unit::from)).collect())
            }
            Ok(units) => Ok(units.into_iter().map(|unit| (unit.0.clone(), Unit::from(unit))).collect()),
            // before systemd 230
            Err(error) if bus::is_unknown_method(&error) => {
                names.iter().map(|name| Ok((name.clone(), self.details(name)?.unit))).collect()
            }
            Err(error) => Err(failed("ask", "the state of units", &error)),
        }
    }

    /// Everything that decides whether a unit is as it should be.
    pub fn details(&self, name: &str) -> Result<Details> {
        let properties = self.properties(name)?;
        let text = |key: &str| get::<String>(&properties, key);
        let job = properties.get("Job").and_then(|value| <(u32, OwnedObjectPath)>::try_from(value.clone()).ok());
        let has_job = job.is_some_and(|(number, _)| number != 0);
        Ok(Details {
            unit: Unit { load: text("LoadState"), active: text("ActiveState"), sub: text("SubState"), has_job },
            service: text("Type"),
            result: text("Result"),
            ended: get(&properties, "ExecMainExitTimestamp"),
            is_skipped: get::<u64>(&properties, "ConditionTimestamp") > 0
                && !get::<bool>(&properties, "ConditionResult"),
            pid: get(&properties, "MainPID"),
            code: get(&properties, "ExecMainCode"),
            status: get(&properties, "ExecMainStatus"),
            can_reload: get(&properties, "CanReload"),
            refuses_stop: get(&properties, "RefuseManualStop"),
            needs_reload: get(&properties, "NeedDaemonReload"),
            source: Some(text("SourcePath")).filter(|path| !path.is_empty()).unwrap_or_else(|| text("FragmentPath")),
        })
    }

    /// How long ago a unit last became active; [`Duration::MAX`] if it never was.
    pub fn active_for(&self, name: &str) -> Result<Duration> {
        let properties = self.properties(name)?;
        let now = u64::try_from(monotonic()).unwrap_or_default();
        Ok(match get(&properties, "ActiveEnterTimestampMonotonic") {
            0 => Duration::MAX,
            entered => Duration::from_micros(now.saturating_sub(entered)),
        })
    }

    /// The running instances of a template, except those that serve an accepted connection: nothing can start them again, and the
    /// next one has the new definition anyway.
    pub fn instances(&self, template: &str) -> Result<Vec<String>> {
        let Some((prefix, kind)) = template.split_once("@.") else { return Ok(Vec::new()) };
        let (states, pattern) = (["active", "activating", "reloading", "refreshing"], format!("{prefix}@*.{kind}"));
        let listed: Vec<Listed> =
            match self.bus.call(MANAGER, "ListUnitsByPatterns", &(&states[..], &[&pattern][..])) {
                // before systemd 230
                Err(error) if bus::is_unknown_method(&error) => {
                    self.bus.call(MANAGER, "ListUnitsFiltered", &(&states[..],))
                }
                listed => listed,
            }
            .map_err(|error| failed("ask", "the state of units", &error))?;
        let (start, end) = (format!("{prefix}@"), format!(".{kind}"));
        let mut names: Vec<String> = Vec::new();
        for (name, ..) in listed.into_iter().filter(|(name, ..)| name.starts_with(&start) && name.ends_with(&end)) {
            let properties = self.properties(&name)?;
            let is_connection = get::<Vec<String>>(&properties, "TriggeredBy").iter().any(|trigger| {
                trigger.ends_with(".socket")
                    && self.properties(trigger).is_ok_and(|trigger| get::<bool>(&trigger, "Accept"))
            });
            if !is_connection {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Whether this process runs in the unit and ends with it, or is started by it: such a unit must not be stopped or restarted by
    /// kpull. This includes units whose end also ends the unit of this process.
    pub fn is_own(&self, name: &str) -> Result<bool> {
        let own = match self.bus.own_unit() {
            Ok(own) => own,
            // in none: started in a container from outside
            Err(error) if error_is(&error, "NoUnitForPID") => return Ok(false),
            Err(error) => return Err(failed("ask", "the unit of this run", &error)),
        };
        // queried by an alias, a unit returns its own name
        let name: String = get(&self.properties(name)?, "Id");
        if get::<Vec<String>>(&own, "TriggeredBy").contains(&name) {
            return Ok(true);
        }
        // a process that is not the main one may outlive it: an SSH session, a cron job
        let outlives = matches!(get::<String>(&own, "KillMode").as_str(), "process" | "none")
            && get::<u32>(&own, "MainPID") != std::process::id();
        let (mut seen, mut waiting) = (HashSet::new(), vec![get::<String>(&own, "Id")]);
        while let Some(unit) = waiting.pop().filter(|_| !outlives) {
            if unit == name {
                return Ok(true);
            }
            let properties = self.properties(&unit)?;
            let bound = BINDINGS.iter().flat_map(|key| get::<Vec<String>>(&properties, key));
            waiting.extend(bound.filter(|unit| seen.insert(unit.clone())));
        }
        Ok(false)
    }

    /// When a timer elapses next; `None` if it is not active, or waits for a run to end.
    pub fn next_elapse(&self, timer: &str) -> Result<Option<Timestamp>> {
        let properties = self.properties(timer)?;
        // the largest value means never
        let micros = |key: &str| i64::try_from(get::<u64>(&properties, key)).ok().filter(|micros| *micros > 0);
        let real = micros("NextElapseUSecRealtime").and_then(|micros| Timestamp::from_microsecond(micros).ok());
        let monotonic = micros("NextElapseUSecMonotonic").and_then(|micros| {
            Timestamp::now().checked_add(SignedDuration::from_micros(micros.saturating_sub(monotonic()))).ok()
        });
        Ok([real, monotonic].into_iter().flatten().min())
    }

    fn properties(&self, name: &str) -> Result<Properties> {
        let path = self.bus.call::<_, OwnedObjectPath>(MANAGER, "LoadUnit", &(name,));
        let properties = path.and_then(|path| self.bus.properties(path.as_str()));
        properties.map_err(|error| failed("ask", name, &error))
    }

    /// `systemctl daemon-reload`.
    pub fn reload_files(&self) -> Result<()> {
        self.bus.call(MANAGER, "Reload", &()).map_err(|error| failed("reload", "systemd's unit files", &error))
    }

    /// Starts a unit and waits until systemd reports it as active; a service that counts as active once it is forked is watched a
    /// moment longer.
    pub fn start(&self, name: &str) -> Result<()> {
        self.activate(START, name)
    }

    /// Stops a unit and waits until it is down.
    pub fn stop(&self, name: &str) -> Result<()> {
        self.job(STOP, name)?;
        // a mount stays failed if an earlier attempt was refused because a process used it
        if name.ends_with(".mount") { self.make_ready(name) } else { Ok(()) }
    }

    /// [`Systemd::start`] after [`Systemd::stop`], as one job.
    pub fn restart(&self, name: &str) -> Result<()> {
        self.activate(RESTART, name)
    }

    fn activate(&self, verb: Verb, name: &str) -> Result<()> {
        self.make_ready(name)?;
        self.job(verb, name)?;
        self.watch(verb, name)
    }

    /// Makes a unit reload its configuration and waits until it has.
    pub fn reload(&self, name: &str) -> Result<()> {
        self.make_ready(name)?;
        self.job(RELOAD, name)
    }

    /// Masks a unit, so that it can't be started.
    pub fn mask(&self, name: &str) -> Result<()> {
        let masked = self.bus.call::<_, Links>(MANAGER, "MaskUnitFiles", &(&[name][..], false, true));
        masked.map(drop).map_err(|error| failed("mask", name, &error))
    }

    /// Reverts [`Systemd::mask`], until the next boot (`runtime`) or permanently.
    pub fn unmask(&self, name: &str, runtime: bool) -> Result<()> {
        let unmasked = self.bus.call::<_, Links>(MANAGER, "UnmaskUnitFiles", &(&[name][..], runtime));
        unmasked.map(drop).map_err(|error| failed("unmask", name, &error))
    }

    /// Reloads the files of a unit if they have changed, and resets a failed unit: systemd refuses to start one that failed too
    /// often.
    fn make_ready(&self, name: &str) -> Result<()> {
        let details = self.details(name)?;
        if details.needs_reload {
            self.reload_files()?;
        }
        if details.unit.active != "failed" {
            return Ok(());
        }
        self.bus.call(MANAGER, "ResetFailedUnit", &(name,)).map_err(|error| failed("reset", name, &error))
    }

    /// Queues a job for a unit and waits for systemd's verdict on it.
    fn job(&self, verb: Verb, name: &str) -> Result<()> {
        let ((method, word), limit) = (verb, JOB.min(deadline::left()));
        let verdict = self.bus.call_and_wait(
            MANAGER,
            method,
            &(name, "replace"),
            "JobRemoved",
            limit,
            |job: &OwnedObjectPath, (_, removed, _, result): (u32, OwnedObjectPath, String, String)| {
                (removed == *job).then_some(result)
            },
        );
        match verdict.map_err(|error| failed(word, name, &error))?.as_deref() {
            // ExecCondition= decided against it, which is not a failure, as with Condition…=
            Some("done" | "skipped") => Ok(()),
            Some(result) => {
                Err(self.failure(verb, name, &format!("the result of systemd's job is `{result}`"), result))
            }
            None => {
                let waited = format!("systemd has reported no result within {} s", limit.as_secs());
                Err(self.failure(verb, name, &waited, "timeout"))
            }
        }
    }

    /// Makes sure that a service which counts as active once it is forked has not ended at once.
    fn watch(&self, verb: Verb, name: &str) -> Result<()> {
        let first = self.details(name)?;
        if !matches!(first.service.as_str(), "simple" | "exec" | "idle") || first.is_skipped {
            return Ok(());
        }
        let end = Instant::now() + FIRST_MOMENTS;
        let mut now = first.clone();
        loop {
            // a service that ended and was started again by Restart= is active, with another process
            if now.unit.active != "active" || now.pid != first.pid {
                // one that ended at once with success has done its work
                if now.unit.active == "inactive" && now.result == "success" {
                    return Ok(());
                }
                return Err(self.failure(verb, name, "it ended immediately after its start", "failed"));
            }
            if Instant::now() >= end {
                return Ok(());
            }
            std::thread::sleep(FIRST_MOMENTS / 10);
            now = self.details(name)?;
        }
    }

    /// The error for a failed operation, with all that systemd and the journal have about the unit.
    fn failure(&self, verb: Verb, name: &str, why: &str, verdict: &str) -> Error {
        let details = self.details(name).unwrap_or_default();
        let Unit { active, sub, .. } = &details.unit;
        let state = if active.is_empty() { String::new() } else { format!("; it is {active} ({sub})") };
        let ending = Some(details.ending()).filter(|ending| !ending.is_empty());
        let mut cause = format!("{why}{state}{}", ending.map(|ending| format!(", {ending}")).unwrap_or_default());
        let mut help = advice(verdict, &details).to_owned();
        if let Some(place) =
            name.strip_suffix(".mount").map(unit_files::unescaped).filter(|_| details.unit.active == "active")
        {
            let users = mount_users::users(Path::new(&place));
            if !users.is_empty() {
                cause = format!("{place} is in use by {}", users.join(", "));
                "end the process that uses it, or use another one, then run again".clone_into(&mut help);
            }
        }
        help += &match journal(name) {
            lines if lines.is_empty() => "; its journal is empty".to_owned(),
            lines => format!("; its journal ends with:\n{lines}"),
        };
        error!(UNIT, "unit {name} failed to {}", verb.1).because(cause).help(help).exit(Exit::Unhealthy)
    }
}

/// The properties that list the units whose end also ends a unit.
const BINDINGS: [&str; 5] = ["Requires", "Requisite", "BindsTo", "PartOf", "StopPropagatedFrom"];

/// Advice about a failed operation.
fn advice(verdict: &str, details: &Details) -> &'static str {
    match (verdict, details.result.as_str(), details.status) {
        ("dependency", ..) => "a unit that it requires did not start; `systemctl list-dependencies` shows which",
        ("canceled", ..) => "another job for it was queued meanwhile; run again",
        // `start-limit` before systemd 231
        (_, "start-limit-hit" | "start-limit", _) => {
            "it ended too often in a short time; correct the cause, then run again"
        }
        (_, "exit-code", 203) => "its program can't be run: check that ExecStart= names an executable file",
        (_, "exit-code", 200) => "its WorkingDirectory= does not exist",
        (_, "exit-code", 216 | 217) => "its User= or Group= does not exist on this host",
        (_, "exit-code", 226) => "a path in its sandbox settings (such as ReadWritePaths=) does not exist",
        ("timeout", "success" | "", _) if matches!(details.unit.active.as_str(), "inactive" | "failed") => {
            "it was never started: its job waits for the job of another unit; `systemctl list-jobs` shows which"
        }
        (_, "timeout", _) | ("timeout", ..) => {
            "it did not start (or stop) in time; find out why, or raise TimeoutStartSec= (TimeoutStopSec=)"
        }
        (_, "oom-kill", _) => "it needed more memory than the host has, or than MemoryMax= allows",
        (_, "protocol", _) => "it did not follow the protocol of its Type=: check Type=, PIDFile= and NotifyAccess=",
        _ => "correct the problem that its journal reports, then run again",
    }
}

/// The last lines of a unit's journal, each with a mark in front; empty if there are none or they can't be read in time.
fn journal(name: &str) -> String {
    const TIMEOUT: Duration = Duration::from_secs(5);
    let argv = ["journalctl", "-u", name, "-n", "10", "--no-pager", "-o", "cat"];
    let Ok(Some(output)) = run_if_there(&Command::new(argv, TIMEOUT)) else { return String::new() };
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<String> = text.lines().map(|line| format!("| {}", visible_line(line))).collect();
    lines.join("\n")
}

/// One line of a journal, safe for a message.
fn visible_line(line: &str) -> String {
    const LONGEST: usize = 500;
    // a secret has to be hidden before it is cut
    visible(&shortened(&mask::hide(line), LONGEST))
}

fn error_is(error: &zbus::Error, name: &str) -> bool {
    bus::error_name(error).rsplit('.').next() == Some(name)
}

fn failed(doing: &str, what: &str, error: &zbus::Error) -> Error {
    let message = error!(UNIT, "can't {doing} {what}").because(bus::reason(error));
    match bus::error_name(error).rsplit('.').next().unwrap_or_default() {
        _ if bus::is_absent(error) => {
            message.help("systemd does not manage this machine (it is not PID 1); units need it: to work on a tree, use `--root DIR`")
        }
        "NoSuchUnit" | "NoSuchFile" | "FileNotFound" => message.help(
            "no file and no package provides this unit: set its `content` or `template`, install its package, or correct its name",
        ),
        "UnitMasked" => message.help(format!("it is masked; run `systemctl unmask {what}` if that was not intended")),
        "LoadFailed" | "BadUnitSetting" | "UnitFileInvalid" => {
            message.help(format!("its unit file can't be used; `systemd-analyze verify {what}` shows why"))
        }
        "JobTypeNotApplicable" => message.help("it has no ExecReload=: add one, or use `restart_when` instead of `reload_when`"),
        "AccessDenied" | "InteractiveAuthorizationRequired" => message.help("run as root"),
        _ => message.help(format!("`systemctl status {what}` may show more")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_line_can_neither_write_to_the_terminal_nor_fill_it() {
        assert_eq!(visible_line("red \u{1b}[31m"), "red \\u{1b}[31m");
        assert_eq!(visible_line(&"x".repeat(600)).chars().count(), 501);
    }

    #[test]
    fn how_a_unit_ended_is_reported_in_words() {
        let details = Details { result: "exit-code".into(), code: 1, status: 7, ..Details::default() };
        assert_eq!(details.ending(), "result exit-code, exit status 7");
        assert_eq!(
            Details { result: "signal".into(), code: 2, status: 9, ..details }.ending(),
            "result signal, killed by signal 9"
        );
        assert_eq!(Details::default().ending(), "");
    }

    #[test]
    fn a_one_time_job_is_finished_only_after_it_ran_with_success() {
        let state = |active: &str| Unit { active: active.into(), ..Unit::default() };
        let done = Details {
            unit: state("inactive"),
            service: "oneshot".into(),
            result: "success".into(),
            ended: 1,
            ..Details::default()
        };
        assert!(done.is_finished());
        assert!(!Details { ended: 0, ..done.clone() }.is_finished(), "it never ran since boot");
        assert!(!Details { result: "exit-code".into(), unit: state("failed"), ..done.clone() }.is_finished());
        assert!(!Details { service: "simple".into(), ..done }.is_finished());
    }

    #[test]
    fn a_program_that_cannot_be_run_has_its_own_advice() {
        let details = Details { result: "exit-code".into(), code: 1, status: 203, ..Details::default() };
        assert!(advice("failed", &details).contains("ExecStart="));
        assert!(advice("dependency", &details).contains("requires"));
    }

    #[test]
    fn a_unit_that_ends_too_often_has_its_own_advice_whatever_its_systemd_calls_that() {
        for result in ["start-limit", "start-limit-hit"] {
            let details = Details { result: result.into(), ..Details::default() };
            assert!(advice("failed", &details).contains("too often"), "{result}");
        }
    }
}
