//! `kpull diff`.

use clap::Args;
use serde_json::json;

use crate::author::differences::differences;
use crate::cli::status::ago;
use crate::cli::{HostArgs, Run, TalkArgs, print, print_json, print_line};
use crate::engine::Agent;
use crate::error::{Error, Exit, Result, code};
use crate::report::{Text, VERSION};
use crate::resolve::Catalog;
use crate::secret::name::path_of;
use crate::site::Site;
use crate::store::Generation;

/// Arguments of `diff`.
#[derive(Args, Debug)]
pub struct Diff {
    #[command(flatten)]
    host: HostArgs,
    #[command(flatten)]
    talk: TalkArgs,
    /// The older generation [default: the last but one]
    from: Option<u64>,
    /// The newer one [default: the last]
    to: Option<u64>,
    /// Leave the changes of texts out
    #[arg(long)]
    no_diff: bool,
}

impl Run for Diff {
    fn run(&self) -> Result<Exit> {
        let text = Text::new(!self.no_diff).at(self.talk.level());
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
            print_json(&json!({ "event": "done", "version": VERSION, "command": "diff", "host": agent.name,
                "from": brief(&from), "to": brief(&to), "differences": count }));
        } else if count == 0 {
            print("nothing differs");
        }
        Ok(Exit::Done)
    }

    fn json(&self) -> bool {
        self.host.json
    }
}

impl Diff {
    fn generations(&self, agent: &Agent<'_>) -> Result<(Generation, Generation)> {
        let all = agent.store.generations()?;
        let help = "`kpull history` lists the generations that are kept";
        let find = |number: u64| {
            let found = all.iter().find(|one| one.number == number).cloned();
            found.ok_or_else(|| Error::new(code::GENERATION, format!("there is no generation {number}")).help(help))
        };
        let Some(last) = all.last() else {
            return Err(Error::new(code::GENERATION, "nothing was applied on this host yet")
                .help("`kpull plan` shows what would be"));
        };
        let to = self.to.map_or_else(|| Ok(last.clone()), find)?;
        let from = match self.from {
            Some(number) => find(number)?,
            None => all.iter().rev().nth(1).cloned().ok_or_else(|| {
                Error::new(code::GENERATION, "there is one generation only, and nothing to compare it with").help(help)
            })?,
        };
        Ok((from, to))
    }

    /// What two releases say differently. How much.
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
                print_json(&json!({ "event": "differs", "version": VERSION, "id": item.id, "role": &*item.role,
                    "what": change.what, "summary": change.summary, "diff": change.diff }));
                continue;
            }
            text.collect(item, change);
        }
        text.show();
        let secrets = secrets(old, new);
        for name in &secrets {
            match self.host.json {
                true => print_json(&json!({ "event": "secret_differs", "version": VERSION, "name": name })),
                false => print_line(&format!("~ secret {name}  written anew, or encrypted to others")),
            }
        }
        found.len() + secrets.len()
    }

    /// What was mended between two generations of one release. How much.
    fn between(&self, agent: &Agent<'_>, from: &Generation, to: &Generation) -> Result<usize> {
        let (first, last) = (from.number.min(to.number), from.number.max(to.number));
        let mut all = agent.store.generations()?;
        all.retain(|one| one.number > first && one.number <= last);
        if !self.host.json && first != last {
            print("the release is the same; between them was changed:");
        }
        let mut count = 0;
        for (one, (id, summary)) in all.iter().flat_map(|one| one.changes.iter().map(move |change| (one, change))) {
            count += 1;
            match self.host.json {
                true => print_json(&json!({ "event": "changed_between", "version": VERSION,
                    "generation": one.number, "id": id, "summary": summary })),
                false => print_line(&format!("~ {id}  {summary}  (generation {})", one.number)),
            }
        }
        Ok(count)
    }
}

/// The names of secrets that both releases have for this host, as other files.
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
