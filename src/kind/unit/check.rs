//! Whether a unit does its work.

use std::time::Instant;

use crate::error::Exit;
use crate::host::deadline;
use crate::host::process::{Command, Ended, Output, run_if_there};
use crate::kind::prelude::*;

/// The program that checks the work of a unit.
#[derive(Clone, Debug)]
pub(super) struct Check {
    pub(super) argv: Vec<String>,
    pub(super) within: Duration,
    /// Whether its output is kept out of messages.
    pub(super) sensitive: bool,
}

impl Check {
    /// Runs the check once; `None` if there is no such program, which a package may still install.
    fn run(&self) -> Result<Option<Output>> {
        run_if_there(&self.command())
    }

    pub(super) fn command(&self) -> Command<'static> {
        Command::new(&self.argv, ONE_CHECK)
    }

    /// Whether the check of `unit` passes. It may fail for `within` after each start, which was `active` ago. A check that does
    /// not end is an error.
    pub(super) fn passes(&self, unit: &str, active: impl Fn() -> Result<Duration>) -> Result<bool> {
        let started = Instant::now();
        let mut active_before = None;
        loop {
            match self.run()? {
                Some(output) if matches!(output.ended, Ended::TimedOut(_)) => {
                    return Err(output
                        .failure_of(format!("the check of {unit} did not end in time"), self.sensitive)
                        .help("find out what it waits for, or add a time limit to it"));
                }
                Some(output) if output.is_success() => return Ok(true),
                Some(_) => {}
                None => return Ok(false),
            }
            let active_before = match active_before {
                Some(active_before) => active_before,
                None => *active_before.insert(active()?),
            };
            if started.elapsed().saturating_add(PAUSE).saturating_add(active_before) > self.within
                || deadline::is_over()
            {
                return Ok(false);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until the check of `unit`, which was just started, passes.
    pub(super) fn wait(&self, unit: &str) -> Result<()> {
        let started = Instant::now();
        loop {
            let output = self.run()?;
            if output.as_ref().is_some_and(Output::is_success) {
                return Ok(());
            }
            if started.elapsed().saturating_add(PAUSE) > self.within || deadline::is_over() {
                let what = format!("{unit} was started, but its check still fails");
                let error = match output {
                    Some(output) => output.failure_of(what, self.sensitive),
                    None => Error::new(code::UNIT, what).because(format!("there is no program {}", self.argv[0])),
                };
                return Err(error
                    .help("read the unit's journal (`journalctl -u UNIT`), or raise `check_within`")
                    .exit(Exit::Unhealthy));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// How long one check may take.
const ONE_CHECK: Duration = Duration::from_secs(5);

/// The pause between two checks after a start.
const PAUSE: Duration = Duration::from_millis(500);
