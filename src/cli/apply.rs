//! `kpull apply`.

use clap::Args;
use jiff::Timestamp;

use crate::cli::{HostArgs, Run, TalkArgs};
use crate::engine::{Agent, How, converge};
use crate::error::{Error, Exit, Result};
use crate::fleet;
use crate::report::{self, Event, Journal, Report, Text};
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
}

impl Run for Apply {
    fn run(&self) -> Result<Exit> {
        let report = listener(self.host.json, self.diff, self.talk);
        let agent = self.host.agent(&*report)?;
        run(&agent, How { retry: self.retry, full: self.full }).map(|_| Exit::Done)
    }

    fn json(&self) -> bool {
        self.host.json
    }
}

/// Who is told what happens to the host.
pub(super) fn listener(json: bool, diffs: bool, talk: TalkArgs) -> Box<dyn Report> {
    match Journal::connect() {
        // under the timer: records with fields, nothing twice
        Some(journal) if !json => Box::new(journal),
        _ if json => Box::new(report::Json),
        _ => Box::new(Text::new(diffs || talk.verbose).at(talk.level())),
    }
}

/// One whole run, alone on the host, and the record of how it went.
pub(super) fn run(agent: &Agent<'_>, how: How) -> Result<report::Summary> {
    recorded(agent, || converge(agent, how))
}

/// Does something that changes the host, alone on it, with a record of how it went.
pub(super) fn recorded(agent: &Agent<'_>, what: impl FnOnce() -> Result<report::Summary>) -> Result<report::Summary> {
    let _lock = agent.store.lock()?;
    let result = what();
    // what can't be read is not worth failing for
    let earlier = agent.store.last_run().ok().flatten().and_then(|last| last.failed);
    let last = last_run(&result, earlier);
    let kept = agent.store.set_last_run(&last);
    if let Err(error) = fleet::tell(agent, &last) {
        agent.report.event(&Event::Untold(&error));
    }
    // what failed first says why
    let summary = result?;
    kept.map(|()| summary)
}

fn last_run(result: &Result<report::Summary, Error>, earlier: Option<Failure>) -> LastRun {
    let (time, error) = (Timestamp::now(), result.as_ref().err().map(ToString::to_string));
    let failure = |error: &Error| Failure { time, error: error.to_string(), code: error.code().name.to_owned() };
    LastRun {
        time,
        exit: result.as_ref().map_or_else(|error| error.exit_code() as u8, |_| 0),
        failed: result.as_ref().err().map(failure).or(earlier),
        error,
        changed: result.as_ref().map_or(0, |summary| summary.changed.len()),
    }
}
