//! `kpull completions`: what a shell needs to complete kpull's command lines.

use clap_complete::Shell;

use crate::cli::prelude::*;
use crate::cli::{command, print_bytes};

/// Arguments of `completions`.
#[derive(Args, Debug)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Run for Completions {
    fn run(&self) -> Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command(), "kpull", &mut script);
        print_bytes(&script);
        Ok(Exit::Done)
    }
}
