//! `kpull demo`.

use clap::Args;

use crate::cli::Run;
use crate::error::{Exit, Result};

/// Arguments of `demo`.
#[derive(Args, Debug)]
pub struct Demo {}

impl Run for Demo {
    fn run(&self) -> Result<Exit> {
        Ok(Exit::Done)
    }

    fn json(&self) -> bool {
        false
    }
}
