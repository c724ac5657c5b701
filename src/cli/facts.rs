//! `kpull facts`.

use crate::cli::prelude::*;
use crate::resolve::custom::Custom;

/// Arguments of `facts`.
#[derive(Args, Debug)]
pub struct FactsOf {
    /// Write one JSON object
    #[arg(long)]
    json: bool,
}

impl Run for FactsOf {
    fn run(&self) -> Result<Exit> {
        let host = Host::open(Path::new("/"))?;
        let Custom { values: custom, failed } = Custom::read(&host)?;
        let facts = Facts { custom, ..Facts::of_machine(&host)?.with_details()? };
        match self.json {
            true => print_json(serde_json::json!({ "facts": facts })),
            false => {
                let text = toml::to_string(&facts).context(code::FACTS, || "can't print the facts")?;
                print_as_is(text.trim_end());
            }
        }
        Error::check(failed.into_values().collect()).map(|()| Exit::Done)
    }
}
