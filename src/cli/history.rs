//! `kpull history`.

use std::fmt::Write as _;

use crate::cli::prelude::*;
use crate::cli::rollback::find;
use crate::error::one_line;

/// Arguments of `history`.
#[derive(Args, Debug)]
pub struct History {
    #[command(flatten)]
    host: HostArgs,
    /// Show the changes of this generation
    generation: Option<u64>,
    /// List manual edits that kpull saved before it overwrote or removed the file
    #[arg(long, conflicts_with = "generation")]
    edits: bool,
}

impl Run for History {
    fn run(&self) -> Result<Exit> {
        let report = Text::new(false);
        let agent = self.host.agent(&report)?;
        if self.edits {
            for edit in agent.store.edits()? {
                let file = agent.store.dir().join("saved").join(&edit.digest);
                let object = json!({ "time": edit.time, "path": edit.path, "saved": file });
                let line = format!("{:.0}  {}  is in {}", edit.time, edit.path, file.display());
                print_result(self.host.json, object, &line);
            }
            return Ok(Exit::Done);
        }
        let mut all = agent.store.generations()?;
        if let Some(number) = self.generation {
            find(&all, number)?;
            all.retain(|one| one.number == number);
        }
        for one in &all {
            match self.host.json {
                true => print_json(serde_json::to_value(one).unwrap_or_default()),
                false => print(line(one, self.generation.is_some()).trim_end()),
            }
        }
        Ok(Exit::Done)
    }
}

fn line(one: &Generation, whole: bool) -> String {
    let state = match (&one.back, one.good) {
        (Some(_), _) => "back",
        (None, true) => "good",
        (None, false) => "unhealthy",
    };
    let signers = if one.signers.is_empty() { "unknown".to_owned() } else { one.signers.join(", ") };
    let (Generation { number, time, serial, .. }, count) = (one, one.changes.len());
    let mut line =
        format!("{number:>4}  {time:.0}  release {serial:<5} {state:<9} {count:>3} changed  signed by {signers}\n");
    if let Some(why) = &one.back {
        let _ = writeln!(line, "      {why}");
    }
    if whole {
        for (id, change) in &one.changes {
            let _ = writeln!(line, "      {}  {change}", one_line(id.as_str()));
        }
    }
    line
}
