//! `kpull diff`.

use crate::author::differences::{Difference, differences};
use crate::cli::prelude::*;
use crate::cli::rollback::{KEPT, find};
use crate::cli::status::ago;
use crate::secret::name::path_of;

/// A release of this host: its site, and the host's catalog.
type Release = (Arc<Site>, Catalog);

/// Arguments of `diff`.
#[derive(Args, Debug)]
pub struct Diff {
    #[command(flatten)]
    host: HostArgs,
    #[command(flatten)]
    verbosity: VerbosityArgs,
    /// The older generation [default: the second to last]
    from: Option<u64>,
    /// The newer generation [default: the last]
    to: Option<u64>,
    /// Omit the changes of texts
    #[arg(long)]
    no_diff: bool,
}

impl Run for Diff {
    fn run(&self) -> Result<Exit> {
        let text = Text::new(!self.no_diff).at(self.verbosity.level());
        let agent = self.host.agent(&text)?;
        let (from, to) = self.generations(&agent)?;
        if !self.host.json {
            print(&format!("{} → {}", title(&from), title(&to)));
        }
        let count = match from.release == to.release {
            true => self.between(&agent, &from, &to)?,
            false => self.releases(&agent.read_generation(&from)?, &agent.read_generation(&to)?, &text),
        };
        if self.host.json {
            print_json(json!({ "event": "done", "command": "diff", "host": agent.name,
                "from": brief(&from), "to": brief(&to), "differences": count }));
        } else if count == 0 {
            print("no differences");
        }
        Ok(Exit::Done)
    }
}

impl Diff {
    fn generations(&self, agent: &Agent<'_>) -> Result<(Generation, Generation)> {
        let all = agent.store.generations()?;
        let find = |number: u64| find(&all, number);
        let Some(last) = all.last() else {
            return Err(error!(GENERATION, "nothing has been applied on this host yet")
                .help("`kpull plan` shows what would change"));
        };
        let to = self.to.map_or(Ok(last), find)?;
        let before =
            || all.iter().rev().nth(1).ok_or_else(|| error!(GENERATION, "there is only one generation").help(KEPT));
        let from = self.from.map_or_else(before, find)?;
        Ok((from.clone(), to.clone()))
    }

    /// Shows the differences between two releases; returns their number.
    fn releases(&self, old: &Release, new: &Release, text: &Text) -> usize {
        let found = differences(&old.1, &new.1);
        for Difference { item, change } in &found {
            match self.host.json {
                true => print_json(json!({ "event": "differs", "id": item.id, "role": &*item.role,
                    "what": change.what, "summary": change.summary, "diff": change.diff })),
                false => text.collect(item, change),
            }
        }
        text.show();
        let secrets = secrets(old, new);
        for name in &secrets {
            let line = format!("~ secret {name}  changed, or encrypted to other recipients");
            print_result(self.host.json, json!({ "event": "secret_differs", "name": name }), &line);
        }
        found.len() + secrets.len()
    }

    /// Shows what was corrected between two generations of one release; returns the number of corrections.
    fn between(&self, agent: &Agent<'_>, from: &Generation, to: &Generation) -> Result<usize> {
        let (first, last) = (from.number.min(to.number), from.number.max(to.number));
        let mut all = agent.store.generations()?;
        all.retain(|one| one.number > first && one.number <= last);
        if !self.host.json && first != last {
            print("both have the same release; corrected between them:");
        }
        let mut count = 0;
        for (one, (id, summary)) in all.iter().flat_map(|one| one.changes.iter().map(move |change| (one, change))) {
            count += 1;
            let object = json!({ "event": "changed_between", "generation": one.number, "id": id, "summary": summary });
            print_result(self.host.json, object, &format!("~ {id}  {summary}  (generation {})", one.number));
        }
        Ok(count)
    }
}

/// The names of secrets whose files differ between the releases.
fn secrets(old: &Release, new: &Release) -> Vec<String> {
    let file = |site: &Site, name: &str| site.files.get(&path_of(name)).cloned();
    let both = old.1.secrets.intersection(&new.1.secrets);
    both.filter(|name| file(&old.0, name) != file(&new.0, name)).cloned().collect()
}

fn title(one: &Generation) -> String {
    format!("generation {} (release {}, {})", one.number, one.serial, ago(one.time))
}

fn brief(one: &Generation) -> serde_json::Value {
    json!({ "generation": one.number, "release": one.serial, "time": one.time, "signers": one.signers })
}
