//! `kpull apply`.

use std::time::Instant;

use clap::Args;
use jiff::Timestamp;

use crate::agent::{hook, metrics, status};
use crate::cli::{HostArgs, Run, TalkArgs};
use crate::engine::{Agent, RunOptions, converge};
use crate::error::{Error, Exit, Result};
use crate::report::{self, Event, Journal, Note, Notes, Report, Text};
use crate::store::{Failure, LastRun};

/// Arguments of `apply`.
#[derive(Args, Debug)]
pub struct Apply {
    #[command(flatten)]
    host: HostArgs,
    #[command(flatten)]
    talk: TalkArgs,
    /// Show the change of each file
    #[arg(long)]
    diff: bool,
    /// Try a release again that was not good for this host, or follow the newest again after `rollback`
    #[arg(long)]
    retry: bool,
    /// Look into everything, also what nobody has touched since the last run
    #[arg(long)]
    full: bool,
    /// Take a new release at once, also while it is not this host's turn
    #[arg(long)]
    now: bool,
}

impl Run for Apply {
    fn run(&self) -> Result<Exit> {
        let report = listener(self.host.json, self.diff, self.talk);
        let agent = self.host.agent(&report)?;
        tell_exposed(&agent);
        run(&agent, &report, RunOptions { retry: self.retry, full: self.full, now: self.now }).map(|_| Exit::Done)
    }

    fn json(&self) -> bool {
        self.host.json
    }
}

/// Tells which secrets of the host's configuration everybody on it can read.
pub(super) fn tell_exposed(agent: &Agent<'_>) {
    for error in agent.config.exposed(&agent.config_path) {
        agent.report.event(&Event::Exposed(&error));
    }
}

/// Who is told what happens to the host.
pub(super) fn listener(json: bool, diffs: bool, talk: TalkArgs) -> Notes<'static> {
    let to: Box<dyn Report> = match Journal::connect() {
        // under the timer: records with fields, nothing twice
        Some(journal) if !json => Box::new(journal),
        _ if json => Box::new(report::Json),
        _ => Box::new(Text::new(diffs || talk.verbose).at(talk.level())),
    };
    Notes::new(to)
}

/// One whole run, alone on the host, and the record of how it went.
pub(super) fn run(agent: &Agent<'_>, notes: &Notes<'_>, how: RunOptions) -> Result<report::Summary> {
    recorded(agent, notes, || converge(agent, how))
}

/// Does something that changes the host, alone on it, with a record of how it went. `notes` is who listens to `agent`.
pub(super) fn recorded(
    agent: &Agent<'_>,
    notes: &Notes<'_>,
    what: impl FnOnce() -> Result<report::Summary>,
) -> Result<report::Summary> {
    let _lock = agent.store.lock()?;
    let clock = Instant::now();
    let result = what();
    let note = notes.note();
    let last = last_run(agent, &result, &note, clock);
    let kept = agent.store.set_last_run(&last);
    let told = [status::write(agent, &last), metrics::write(agent, &last)];
    let unheard = hook::fire(agent, &last, &note, result.as_ref().err());
    for error in told.iter().filter_map(|told| told.as_ref().err()).chain(&unheard) {
        agent.report.event(&Event::NotReported(error));
    }
    // what failed first says why
    let summary = result?;
    kept?;
    agent.report.event(&Event::Ended(&summary));
    Ok(summary)
}

fn last_run(agent: &Agent<'_>, result: &Result<report::Summary>, note: &Note, clock: Instant) -> LastRun {
    let (time, error) = (Timestamp::now(), result.as_ref().err().map(ToString::to_string));
    let failure = |error: &Error| Failure { time, error: error.to_string(), code: error.code().name.to_owned() };
    // what can't be read is not worth failing for
    let earlier = agent.store.last_run().ok().flatten();
    LastRun {
        time,
        exit: result.as_ref().map_or_else(|error| error.exit_code() as u8, |_| 0),
        good: if result.is_ok() { Some(time) } else { earlier.as_ref().and_then(|last| last.good) },
        failed: result.as_ref().err().map(failure).or_else(|| earlier?.failed),
        error,
        of_host: result.as_ref().is_err_and(|error| error.is_of_host() || error.is_of_machine()),
        waits: agent.waits.take(),
        changed: note.changed.len(),
        drifted: note.drifted,
        took: clock.elapsed().as_secs_f64(),
    }
}
