//! `kpull diff`.

use crate::author::differences::differences;
use crate::cli::VerbosityArgs;
use crate::cli::prelude::*;
use crate::cli::status::ago;
use crate::engine::Agent;
use crate::resolve::Catalog;
use crate::secret::name::path_of;
use crate::store::Generation;

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
        let help = "`kpull history` lists the generations that are kept";
        let find = |number: u64| {
            let found = all.iter().find(|one| one.number == number).cloned();
            found.ok_or_else(|| error!(GENERATION, "there is no generation {number}").help(help))
        };
        let Some(last) = all.last() else {
            return Err(error!(GENERATION, "nothing has been applied on this host yet")
                .help("`kpull plan` shows what would change"));
        };
        let to = self.to.map_or_else(|| Ok(last.clone()), find)?;
        let from = match self.from {
            Some(number) => find(number)?,
            None => all
                .iter()
                .rev()
                .nth(1)
                .cloned()
                .ok_or_else(|| error!(GENERATION, "there is only one generation").help(help))?,
        };
        Ok((from, to))
    }

    /// Shows the differences between two releases; returns their number.
    fn releases(
        &self,
        old: &(std::sync::Arc<Site>, Catalog),
        new: &(std::sync::Arc<Site>, Catalog),
        text: &Text,
    ) -> usize {
        let found = differences(&old.1, &new.1);
        for one in &found {
            let (item, change) = (one.item, &one.change);
            if self.host.json {
                print_json(json!({ "event": "differs", "id": item.id, "role": &*item.role,
                    "what": change.what, "summary": change.summary, "diff": change.diff }));
                continue;
            }
            text.collect(item, change);
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
            print_result(
                self.host.json,
                json!({ "event": "changed_between", "generation": one.number, "id": id, "summary": summary }),
                &format!("~ {id}  {summary}  (generation {})", one.number),
            );
        }
        Ok(count)
    }
}

/// The names of secrets whose files differ between the releases.
fn secrets(old: &(std::sync::Arc<Site>, Catalog), new: &(std::sync::Arc<Site>, Catalog)) -> Vec<String> {
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
