//! `kpull help`.

use clap::Args;

use crate::cli::{Run, command, print};
use crate::error::{Code, Error, Exit, Result, code, nearest};
use crate::report::terminal;

/// Arguments of `help`.
#[derive(Args, Debug)]
pub struct Help {
    /// The code of an error, as it stands in `error[CODE]`, or a command; with `codes`, all codes are listed
    words: Vec<String>,
}

impl Run for Help {
    fn run(&self) -> Result<Exit> {
        match self.words.as_slice() {
            [] => self.command(),
            [word] if word == "codes" => {
                let longest = code::ALL.iter().map(|code| code.name.len()).max().unwrap_or(0);
                code::ALL.iter().for_each(|code| print(&format!("{:<longest$}  {}", code.name, code.means)));
                Ok(Exit::Done)
            }
            [word] => match code::find(word) {
                Some(code) => {
                    print(&explained(code));
                    Ok(Exit::Done)
                }
                None => self.command(),
            },
            _ => self.command(),
        }
    }

    fn json(&self) -> bool {
        false
    }
}

/// All that is known of a code, in lines that fit.
fn explained(code: &Code) -> String {
    let width = terminal::width(std::io::stdout()).map(|width| width.clamp(40, 100));
    let paragraph = |title: &str, text: &str| terminal::fill(text, width, title, "              ");
    format!(
        "{}\n\n{}\n{}\n\n{}",
        terminal::fill(&format!("{}: {}", code.name, code.means), width, "", ""),
        paragraph("  why         ", code.why),
        paragraph("  what to do  ", code.advice),
        code.example.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
    )
}

impl Help {
    /// What clap knows of a command.
    fn command(&self) -> Result<Exit> {
        let mut command = command();
        command.build();
        let mut found = &mut command;
        for word in &self.words {
            let names: Vec<String> = found.get_subcommands().map(|one| one.get_name().to_owned()).collect();
            let Some(next) = found.find_subcommand_mut(word) else {
                let error = Error::new(code::EXPLAIN, format!("there is no command and no code `{word}`"));
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
