//! Whether the work of a unit stands on the host.

use std::time::{Duration, Instant};

use crate::error::{Error, Exit, Result, code};
use crate::host::process::{Command, Ended, Output, run_if_there};

/// What tells whether a unit's work stands.
#[derive(Clone, Debug)]
pub(super) struct Check {
    pub(super) argv: Vec<String>,
    pub(super) within: Duration,
    /// Whether what it says is kept out of messages.
    pub(super) sensitive: bool,
}

impl Check {
    /// Asks once; `None` when there is no such program, which a package may still bring.
    fn ask(&self) -> Result<Option<Output>> {
        run_if_there(&self.command())
    }

    pub(super) fn command(&self) -> Command<'_> {
        Command::new(&self.argv, ONE_CHECK)
    }

    /// Whether the work of `unit` stands, for which it has its time after each start, whoever started it; `active` tells how long
    /// ago that was. A check that never ends tells neither.
    pub(super) fn stands(&self, unit: &str, active: impl Fn() -> Result<Duration>) -> Result<bool> {
        let started = Instant::now();
        let mut before = None;
        loop {
            match self.ask()? {
                Some(output) if matches!(output.ended, Ended::TimedOut(_)) => {
                    return Err(output
                        .failure_of(format!("the check of {unit} never ended"), self.sensitive)
                        .help("find out what it waits for, or let it give up by itself"));
                }
                Some(output) if output.is_success() => return Ok(true),
                Some(_) => {}
                None => return Ok(false),
            }
            let before = match before {
                Some(before) => before,
                None => *before.insert(active()?),
            };
            if started.elapsed().saturating_add(PAUSE).saturating_add(before) > self.within {
                return Ok(false);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until the work of `unit`, which was just started, stands.
    pub(super) fn wait(&self, unit: &str) -> Result<()> {
        let started = Instant::now();
        loop {
            let output = self.ask()?;
            if output.as_ref().is_some_and(Output::is_success) {
                return Ok(());
            }
            if started.elapsed().saturating_add(PAUSE) > self.within {
                let what = format!("{unit} was started, and its check still fails");
                let error = match output {
                    Some(output) => output.failure_of(what, self.sensitive),
                    None => Error::new(code::UNIT, what).because(format!("there is no program {}", self.argv[0])),
                };
                return Err(error
                    .help("look into the unit's journal; or give it more time with `check_within`")
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
