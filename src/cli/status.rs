//! `kpull status`.

use std::fmt::Write as _;

use serde::Serialize;

use crate::cli::prelude::*;
use crate::error::{quoted, visible};
use crate::sandbox;
use crate::status::vitals::Vitals;
use crate::store::{LastRun, Pause, PendingActions};
use crate::text::shortened;

/// The most characters of `--motd`.
const LINE: usize = 160;

/// Arguments of `status`.
#[derive(Args, Debug)]
pub struct Status {
    #[command(flatten)]
    host: HostArgs,
    /// Show the status on one line, for the message of the day
    #[arg(long, conflicts_with = "json")]
    motd: bool,
}

impl Run for Status {
    fn run(&self) -> Result<Exit> {
        let report = Text::new(false);
        let agent = self.host.agent(&report)?;
        if self.motd {
            print(&motd(&agent)?);
            return Ok(Exit::Done);
        }
        let memory = agent.trust()?.state;
        let (seen, generation) = (memory.release, agent.store.generation()?);
        let (last, pending) = (agent.store.last_run()?, agent.store.pending()?);
        let (stay, paused) = (agent.store.stay_on()?, Pause::now(&agent.store)?);
        let cut_short = cut_short(&agent.host, last.as_ref());
        let now = Timestamp::now();
        let troubles = Vitals::load(&agent.store).unwrap_or_default().troubles(now);
        let health = health(generation.as_ref(), &pending, &troubles);
        let next = next_run(&agent.host);
        let lacking = sandbox::lacking()?;
        let failed = last.as_ref().and_then(|last| last.failed.clone());
        if self.host.json {
            let pending = json!({
                "triggers": pending.triggers, "unit_files": pending.unit_files, "firewall_files": pending.firewall_files,
                "probes": pending.probes, "release": pending.release, "orphans": pending.orphans, "contact": pending.contact,
            });
            print_json(json!({
                "host": agent.name, "site": agent.config.trust.site, "seen": seen, "keys": memory.keys,
                "generation": generation, "last_run": last, "cut_short": cut_short, "last_error": failed, "health": health, "next_run": next.as_ref().and_then(|next| next.as_ref().ok()), "pending": pending, "stay_on": stay, "paused": paused,
                "sandbox": sandbox::describe()?, "sandbox_lacks": lacking,
            }));
            return Ok(Exit::Done);
        }
        let mut text = format!("{} of the site {}\n", agent.name, agent.config.trust.site);
        let mut row = |label: &str, value: &str| {
            let _ = writeln!(text, "  {label:<12}{value}");
        };
        match &generation {
            Some(one) => {
                let (resources, time) = (one.resources.len(), ago(one.time));
                row("generation", &format!("{} ({resources} resources), {time}", one.number));
                row("release", &format!("{}{}", one.serial, signed(one)));
            }
            None => row("generation", "none yet: nothing has been applied here"),
        }
        if let Some(seen) = seen.filter(|seen| generation.is_none_or(|generation| generation.serial != seen.serial)) {
            row("seen", &format!("release {}, signed {}", seen.serial, ago(seen.created)));
        }
        if let Some(why) = last.as_ref().and_then(|last| last.waits.as_ref()) {
            row("waits", &format!("for its position in the rollout of {}", quoted(why)));
        }
        let last_time = last.as_ref().map(|last| last.time);
        match last {
            Some(last) => {
                let result = last.error.unwrap_or_else(|| match last.changed {
                    0 => "nothing to do".to_owned(),
                    count => format!("{count} changed"),
                });
                let part = match last.only.as_slice() {
                    [] => String::new(),
                    only => format!(", partial ({})", visible(&only.join(", "))),
                };
                row("last run", &format!("{}{part}: {}", ago(last.time), quoted(&result)));
            }
            None => row("last run", "never"),
        }
        if let Some(failed) = failed.filter(|failed| last_time.is_some_and(|time| failed.time < time)) {
            row("last error", &format!("{}: {}", ago(failed.time), quoted(&failed.error)));
        }
        if let Some(why) = cut_short {
            row("cut short", &format!("a later run: {why}; the next run continues from there"));
        }
        if let Some(stay) = &stay {
            let again = stay.again.map_or_else(String::new, |again| format!("; tried again after {again:.0}"));
            row("stays on", &format!("release {}, and not {}{again}", stay.serial, stay.not));
            row("", &quoted(&stay.why));
        }
        for one in &paused {
            row("paused", &format!("{} until {:.0}: {}", one.id, one.until, quoted(&one.why)));
        }
        for (unit, trigger) in &pending.triggers {
            row("pending", &format!("{trigger:?} of {unit}"));
        }
        if let Some(health) = health {
            row("health", &complete(health.words()));
        }
        troubles.iter().for_each(|trouble| row("", &quoted(trouble)));
        if let Some(next) = next {
            row("next run", &next.map_or_else(|why| why, until));
        }
        for need in lacking {
            let (cause, can) = (need.cause(), need.consequence());
            match agent.config.sandbox.require.contains(&need) {
                true => row("sandbox", &format!("kpull fetches nothing: {cause}, and [sandbox] requires it")),
                false => row("sandbox", &format!("{cause}: the process that talks to the network {can}")),
            }
        }
        print(text.trim_end());
        Ok(Exit::Done)
    }
}

/// The health of this host after its last run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Health {
    /// The last check found no problem.
    Healthy,
    /// A unit failed, or not all probes have passed, since the last change.
    Unproven,
    /// The last check found a problem.
    Unhealthy,
}

impl Health {
    fn words(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unproven => {
                "unproven: not all probes have passed since the last change; the output of the last run shows why"
            }
            Self::Unhealthy => "unhealthy: `kpull verify` lists what failed",
        }
    }
}

/// The health of the host; `None` before the first apply.
fn health(generation: Option<&Generation>, pending: &PendingActions, troubles: &[String]) -> Option<Health> {
    match generation {
        _ if pending.probes => Some(Health::Unproven),
        Some(generation) if generation.good && troubles.is_empty() => Some(Health::Healthy),
        Some(_) => Some(Health::Unhealthy),
        None => None,
    }
}

/// When the timer starts the next run, or why it does not; `None` without systemd.
fn next_run(host: &Host) -> Option<Result<Timestamp, String>> {
    const TIMER: &str = "kpull.timer";
    let systemd = host.systemd().ok()?;
    if systemd.details("kpull.service").is_ok_and(|service| service.unit.active == "activating") {
        return Some(Err("a run is in progress".to_owned()));
    }
    Some(match systemd.next_elapse(TIMER) {
        Ok(Some(time)) => Ok(time),
        Ok(None) => Err(format!("none: {TIMER} is not active; `systemctl enable --now {TIMER}` starts it")),
        Err(error) => Err(format!("unknown: {error}")),
    })
}

/// Who signed a generation's release, and when.
fn signed(generation: &Generation) -> String {
    if generation.signers.is_empty() {
        return String::new();
    }
    format!(", signed by {} {}", generation.signers.join(", "), ago(generation.created))
}

/// The time until then.
fn until(time: Timestamp) -> String {
    match time.duration_since(Timestamp::now()).as_secs() {
        ..=0 => "now".to_owned(),
        seconds @ ..120 => format!("in {seconds} s"),
        seconds @ ..7200 => format!("in {} min", seconds / 60),
        _ => format!("{time:.0}"),
    }
}

/// The status on one line.
fn motd(agent: &Agent<'_>) -> Result<String> {
    let (now, store) = (Timestamp::now(), &agent.store);
    let (generation, stay, last) = (store.generation()?, store.stay_on()?, store.last_run()?);
    let mut parts = vec![match generation {
        Some(generation) => format!("kpull: release {}", generation.serial),
        None => "kpull: nothing has been applied here yet".to_owned(),
    }];
    let failed = stay.filter(|stay| stay.tries > 0);
    parts.extend(failed.map(|stay| format!("not {}, which failed here", stay.not)));
    let vitals = Vitals::load(store).unwrap_or_default();
    let troubles = vitals.troubles(now);
    parts.extend(last.map(|last| match &last.error {
        None if !last.only.is_empty() => format!("only a part applied {}", ago(last.time)),
        None if !troubles.is_empty() => format!("UNHEALTHY: {}", troubles.join(", ")),
        None => format!("healthy {}", ago(last.time)),
        Some(error) => format!("FAILED {}: {}", ago(last.time), error.lines().next().unwrap_or_default()),
    }));
    let paused = Pause::now(store)?.len();
    if paused > 0 {
        parts.push(format!("{paused} paused"));
    }
    let due = vitals.certificates.iter().filter(|(_, ending)| ending.renew <= now && now < ending.end);
    parts.extend(due.min_by_key(|(_, ending)| ending.end).map(|(name, ending)| {
        format!("the certificate {name} expires in {} days", ending.end.duration_since(now).as_hours() / 24)
    }));
    Ok(shortened(&visible(&parts.join(", ")), LINE))
}

/// Why a run of `kpull.service` after `last` was killed, and so left no record.
fn cut_short(host: &Host, last: Option<&LastRun>) -> Option<String> {
    let details = host.systemd().ok()?.details("kpull.service").ok()?;
    let ended = i64::try_from(details.ended).ok().and_then(|micros| Timestamp::from_microsecond(micros).ok())?;
    if details.unit.active != "failed" || last.is_some_and(|last| last.time >= ended) {
        return None;
    }
    Some(match details.result.as_str() {
        "oom-kill" => "it needed more memory than MemoryMax= of kpull.service allows, or than the host has".to_owned(),
        "timeout" => "it took longer than TimeoutStartSec= of kpull.service".to_owned(),
        "signal" if details.status == nix::libc::SIGKILL => {
            "something killed it; `journalctl -k` shows whether memory ran out".to_owned()
        }
        "signal" | "core-dump" => format!("it was killed by signal {}", details.status),
        // the run reported the error itself
        _ => return None,
    })
}

/// The time since then, in its largest unit.
pub(super) fn ago(time: Timestamp) -> String {
    let seconds = Timestamp::now().duration_since(time).as_secs();
    match seconds {
        ..0 => format!("at {time:.0}, which is in the future"),
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}
