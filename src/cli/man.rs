//! `kpull man`: the manual pages, one a command.

use std::path::PathBuf;

use clap::Args;

use crate::cli::{Run, command, print_bytes};
use crate::error::{Context as _, Exit, Result, code};

/// Arguments of `man`.
#[derive(Args, Debug)]
pub struct Man {
    /// Write the pages of all commands to this directory [default: print kpull(1)]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Run for Man {
    fn run(&self) -> Result<Exit> {
        match &self.dir {
            Some(dir) => {
                let failed = || format!("can't write manual pages into {}", dir.display());
                std::fs::create_dir_all(dir).context(code::OTHER, failed)?;
                clap_mangen::generate_to(command(), dir).context(code::OTHER, failed)?;
            }
            None => {
                let mut page = Vec::new();
                clap_mangen::Man::new(command())
                    .render(&mut page)
                    .context(code::OTHER, || "can't write the manual page")?;
                print_bytes(&page);
            }
        }
        Ok(Exit::Done)
    }
}
