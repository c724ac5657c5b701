//! `kpull help`.

use crate::cli::command;
use crate::cli::prelude::*;
use crate::error::code::{Code, Section};
use crate::report::terminal;

/// Arguments of `help`.
#[derive(Args, Debug)]
pub struct Help {
    /// An error code, as shown in `error[CODE]`, or a command; `codes` lists all codes
    words: Vec<String>,
}

impl Run for Help {
    fn run(&self) -> Result<Exit> {
        match self.words.as_slice() {
            [word] if word == "codes" => {
                let longest = code::ALL.iter().map(|code| code.name.len()).max().unwrap_or(0);
                for (code, section) in code::ALL.iter().filter_map(|code| Some((code, code.section()?))) {
                    print(&format!("{:<longest$}  {}", code.name, section.means));
                }
                Ok(Exit::Done)
            }
            [word] => match code::find(word).and_then(Code::section) {
                Some(section) => {
                    print(&explained(word, &section));
                    Ok(Exit::Done)
                }
                None => self.command(),
            },
            _ => self.command(),
        }
    }
}

/// The explanation of a code, wrapped to the terminal.
fn explained(name: &str, section: &Section) -> String {
    let width = terminal::width(std::io::stdout()).map(|width| width.clamp(40, 100));
    let paragraph = |title: &str, text: &str| terminal::fill(text, width, title, "              ");
    format!(
        "{}\n\n{}\n{}\n\n{}",
        terminal::fill(&format!("{name}: {}", section.means), width, "", ""),
        paragraph("  why         ", section.why),
        paragraph("  what to do  ", section.advice),
        section.example.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
    )
}

impl Help {
    /// The help of a command.
    fn command(&self) -> Result<Exit> {
        let mut command = command();
        command.build();
        let mut found = &mut command;
        for word in &self.words {
            let names: Vec<String> = found.get_subcommands().map(|one| one.get_name().to_owned()).collect();
            let Some(next) = found.find_subcommand_mut(word) else {
                let error = error!(EXPLAIN, "there is no command and no code `{word}`");
                let known = names.iter().map(String::as_str).chain(code::ALL.iter().map(|code| code.name));
                return Err(match nearest(word, known) {
                    Some(near) => error.help(format!("did you mean `kpull help {near}`?")),
                    None => error.help("`kpull help` lists the commands, `kpull help codes` the codes"),
                });
            };
            found = next;
        }
        print(found.render_long_help().to_string().trim_end());
        Ok(Exit::Done)
    }
}
