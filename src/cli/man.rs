//! `kpull man`: the manual pages, one a command.

use crate::cli::prelude::*;
use crate::cli::{command, print_bytes};

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
