//! `kpull apply`.

use std::time::Instant;

use crate::agent::{hook, metrics, status};
use crate::cli::prelude::*;
use crate::engine::{RunOptions, converge};
use crate::host::deadline;
use crate::report::{self, Journal, Note, Notes};
use crate::store::{Failure, LastRun};

/// Arguments of `apply`.
#[derive(Args, Debug)]
pub struct Apply {
    #[command(flatten)]
    host: HostArgs,
    #[command(flatten)]
    verbosity: VerbosityArgs,
    /// Show the change of each file
    #[arg(long)]
    diff: bool,
    /// Try a release again that failed on this host, or follow the newest release again after `rollback`
    #[arg(long)]
    retry: bool,
    /// Run a full check, including resources that are unchanged since the last run
    #[arg(long)]
    full: bool,
    /// Apply a new release now, even before it has reached this host in the rollout
    #[arg(long)]
    now: bool,
    /// Change only this role, or the resource with this id, and the resources that it needs; repeatable; `*` matches any text. The host does not
    /// count as converged
    #[arg(long, value_name = "ROLE|ID")]
    only: Vec<String>,
}

impl Run for Apply {
    fn run(&self) -> Result<Exit> {
        let report = listener(self.host.json, self.diff, self.verbosity);
        let agent = self.host.agent(&report)?;
        report_exposed(&agent);
        let options = RunOptions { retry: self.retry, full: self.full, now: self.now, only: &self.only };
        run(&agent, &report, options).map(|_| Exit::Done)
    }
}

/// Reports secrets in the host's configuration that everyone on the host can read.
pub(super) fn report_exposed(agent: &Agent<'_>) {
    for error in agent.config.exposed(&agent.config_path) {
        agent.report.event(&Event::Exposed(&error));
    }
}

/// Where the events of a run go.
pub(super) fn listener(json: bool, diffs: bool, verbosity: VerbosityArgs) -> Notes<'static> {
    let to: Box<dyn Report> = match Journal::connect() {
        // under the timer: journal records with fields instead of text
        Some(journal) if !json => Box::new(journal),
        _ if json => Box::new(report::Json),
        _ => Box::new(Text::new(diffs || verbosity.verbose).at(verbosity.level())),
    };
    Notes::new(to)
}

/// Runs once, holding the lock, and records the result.
pub(super) fn run(agent: &Agent<'_>, notes: &Notes<'_>, how: RunOptions<'_>) -> Result<report::Summary> {
    recorded(agent, notes, how.only, || converge(agent, how))
}

/// Changes the host while holding the lock, and records the result. `notes` receives the events of `agent`; `only` limits a partial run,
/// which changes neither the published status nor the metrics.
pub(super) fn recorded(
    agent: &Agent<'_>,
    notes: &Notes<'_>,
    only: &[String],
    change: impl FnOnce() -> Result<report::Summary>,
) -> Result<report::Summary> {
    let _lock = agent.store.lock()?;
    let clock = Instant::now();
    let result = change();
    deadline::begin_reports();
    let note = notes.note();
    let last = last_run(agent, &result, &note, clock, only);
    let saved = agent.store.set_last_run(&last);
    let reported = match only {
        [] => vec![status::write(agent, &last), metrics::write(agent, &last)],
        _ => Vec::new(),
    };
    let failed_hooks = hook::fire(agent, &last, &note, result.as_ref().err());
    for error in reported.iter().filter_map(|reported| reported.as_ref().err()).chain(&failed_hooks) {
        agent.report.event(&Event::NotReported(error));
    }
    // the error of the run is the more important one
    let summary = result?;
    saved?;
    agent.report.event(&Event::Ended(&summary));
    Ok(summary)
}

fn last_run(
    agent: &Agent<'_>,
    result: &Result<report::Summary>,
    note: &Note,
    clock: Instant,
    only: &[String],
) -> LastRun {
    let (time, error) = (Timestamp::now(), result.as_ref().err().map(ToString::to_string));
    let failure = |error: &Error| Failure { time, error: error.to_string(), code: error.code().name.to_owned() };
    // an unreadable earlier record is no reason to fail
    let earlier = agent.store.last_run().ok().flatten();
    LastRun {
        time,
        exit: result.as_ref().map_or_else(|error| error.exit_code() as u8, |_| 0),
        good: if result.is_ok() && only.is_empty() { Some(time) } else { earlier.as_ref().and_then(|last| last.good) },
        failed: result.as_ref().err().map(failure).or_else(|| earlier?.failed),
        error,
        of_host: result.as_ref().is_err_and(|error| error.is_of_host() || error.is_of_machine()),
        waits: agent.waits.take(),
        changed: note.changed.len(),
        only: only.to_vec(),
        drifted: note.drifted,
        took: clock.elapsed().as_secs_f64(),
    }
}
