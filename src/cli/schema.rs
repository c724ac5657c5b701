//! `kpull schema`.

use clap::builder::PossibleValuesParser;

use crate::author::schema::{FILES, text};
use crate::cli::prelude::*;

/// Arguments of `schema`.
#[derive(Args, Debug)]
pub struct Schema {
    /// The file to describe [default with --write: all]
    #[arg(value_parser = PossibleValuesParser::new(FILES.iter().map(|kind| kind.name)), required_unless_present = "write")]
    file: Option<String>,
    /// Write FILE.json to this directory
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
}

impl Run for Schema {
    fn run(&self) -> Result<Exit> {
        let wanted = FILES.iter().filter(|kind| self.file.as_ref().is_none_or(|name| name == kind.name));
        let Some(dir) = &self.write else {
            wanted.for_each(|kind| print_as_is(text(&kind.schema()).trim_end()));
            return Ok(Exit::Done);
        };
        let files: Vec<_> =
            wanted.map(|kind| (dir.join(format!("{}.json", kind.name)), text(&kind.schema()).into_bytes())).collect();
        replace(&files)?;
        files.iter().for_each(|(path, _)| print(&format!("+ {}", path.display())));
        Ok(Exit::Done)
    }
}
