//! `kpull apply`.

use clap::Args;
use jiff::Timestamp;

use crate::cli::{HostArgs, Run};
use crate::engine::{Agent, apply, plan};
use crate::error::{Error, Exit, Result};
use crate::report::{self, Event, Journal, Report, Text};
use crate::store::LastRun;

/// Arguments of `apply`.
#[derive(Args, Debug)]
pub struct Apply {
    #[command(flatten)]
    host: HostArgs,
    /// Show the change of each file
    #[arg(long)]
    diff: bool,
}

impl Run for Apply {
    fn run(&self) -> Result<Exit> {
        let report: Box<dyn Report> = match Journal::connect() {
            // under the timer: records with fields, nothing twice
            Some(journal) if !self.host.json => Box::new(journal),
            _ if self.host.json => Box::new(report::Json),
            _ => Box::new(Text::new(self.diff)),
        };
        let agent = self.host.agent(&*report)?;
        run(&agent).map(|_| Exit::Done)
    }

    fn json(&self) -> bool {
        self.host.json
    }
}

/// One whole run, alone on the host, and the record of how it went.
pub(super) fn run(agent: &Agent<'_>) -> Result<report::Summary> {
    let _lock = agent.store.lock()?;
    let result = converge(agent);
    agent.store.set_last_run(&last_run(&result))?;
    result
}

/// What keeps the host from the newest release, or from being healthy, is the error; the host is
/// converged on what it has all the same.
fn converge(agent: &Agent<'_>) -> Result<report::Summary> {
    let taken = agent.take()?;
    let planned = taken.catalog.then(|catalog| plan(&agent.host, &agent.store, catalog))?;
    let applied = apply(&agent.host, &agent.store, planned, &taken.digest, agent.report)?;
    agent.report.event(&Event::Done(&applied.summary));
    let serial = applied.summary.serial.unwrap_or_default();
    match (taken.trouble, applied.unhealthy) {
        (Some(trouble), _) => Err(trouble.help_more(&format!("the host stays converged on release {serial}"))),
        (None, Some(unhealthy)) => Err(unhealthy),
        (None, None) => Ok(applied.summary),
    }
}

fn last_run(result: &Result<report::Summary, Error>) -> LastRun {
    LastRun {
        time: Timestamp::now(),
        exit: result.as_ref().map_or_else(|error| error.exit_code() as u8, |_| 0),
        error: result.as_ref().err().map(ToString::to_string),
        changed: result.as_ref().map_or(0, |summary| summary.changed.len()),
    }
}
