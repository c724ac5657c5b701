//! `kpull rollback`.

use crate::cli::apply::{listener, recorded};
use crate::cli::prelude::*;
use crate::document::ResourceId;
use crate::engine::go_back;
use crate::engine::prior::PriorStates;

/// Arguments of `rollback`.
#[derive(Args, Debug)]
pub struct Rollback {
    #[command(flatten)]
    host: HostArgs,
    #[command(flatten)]
    verbosity: VerbosityArgs,
    /// Roll back to this generation [default: the last good one of another release]
    generation: Option<u64>,
    /// The reason, which kpull records
    #[arg(long, default_value = "manual `kpull rollback`")]
    reason: String,
    /// Show the change of each file
    #[arg(long)]
    diff: bool,
}

impl Run for Rollback {
    fn run(&self) -> Result<Exit> {
        let report = listener(self.host.json, self.diff, self.verbosity);
        let agent = self.host.agent(&report)?;
        let to = self.target(&agent)?;
        if !self.host.json {
            print(&format!(
                "rolling back to generation {}, release {}; the host stays there until a newer release arrives",
                to.number, to.serial
            ));
            for line in not_undone(&agent, &to)? {
                print(&format!("  not undone: {line}"));
            }
        }
        recorded(&agent, &report, &[], || go_back(&agent, &to, &self.reason)).map(|_| Exit::Done)
    }
}

impl Rollback {
    fn target(&self, agent: &Agent<'_>) -> Result<Generation> {
        let all = agent.store.generations()?;
        let Some(last) = all.last() else {
            return Err(error!(GENERATION, "nothing has been applied on this host yet")
                .help("there is no generation to roll back from"));
        };
        match self.generation {
            Some(number) => find(&all, number).cloned(),
            // if no generation can be verified any more, the last one produces the error
            None => match agent.last_good(&last.release)? {
                None => agent.store.last_good(&last.release)?,
                good => good,
            }
            .ok_or_else(|| error!(GENERATION, "there is no earlier good release to roll back to").help(KEPT)),
        }
    }
}

/// Advice about generations that are not kept any more.
pub(super) const KEPT: &str = "`kpull history` lists the generations that are kept";

/// One of these generations.
pub(super) fn find(all: &[Generation], number: u64) -> Result<&Generation> {
    let found = all.iter().find(|one| one.number == number);
    found.ok_or_else(|| error!(GENERATION, "there is no generation {number}").help(KEPT))
}

/// What the rollback does not undo.
fn not_undone(agent: &Agent<'_>, to: &Generation) -> Result<Vec<String>> {
    let before = PriorStates::load(&agent.store)?;
    let mut lines: Vec<String> = before
        .leftovers()
        .filter(|(id, _)| !to.resources.contains(id))
        .map(|(id, why)| format!("{id} ({why})"))
        .collect();
    let marked: Vec<&ResourceId> = before.ids().collect();
    let last = agent.store.generation()?.map(|last| last.resources).unwrap_or_default();
    let passing = ["probe", "slot", "unit-file"];
    lines.extend(
        last.into_iter()
            .filter(|id| !to.resources.contains(id) && !marked.contains(&id))
            .filter(|id| !passing.contains(&id.kind()))
            .map(|id| format!("{id} (its prior state is not recorded)")),
    );
    lines.sort();
    lines.dedup();
    Ok(lines)
}
