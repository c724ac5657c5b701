//! `kpull explain`.

use clap::Args;
use serde_json::json;

use crate::cli::{Run, SiteArgs, print, print_json};
use crate::error::{Error, Exit, Result, nearest};
use crate::resolve::{Facts, World};
use crate::secret::Secrets;

/// Arguments of `explain`.
#[derive(Args, Debug)]
pub struct Explain {
    /// The host
    host: String,
    /// The variable: `ROLE.NAME`, or `NAME` for one of the whole site
    variable: String,
    #[command(flatten)]
    site: SiteArgs,
    /// Write one JSON object
    #[arg(long)]
    json: bool,
}

impl Run for Explain {
    fn run(&self) -> Result<Exit> {
        let site = self.site.load()?;
        let host = site.find_host(&self.host)?;
        let facts = Facts::assumed(&self.host, host.address, None)?;
        let (role, way) = match self.variable.split_once('.') {
            Some((role, rest)) if site.roles.contains_key(role) => (Some(role), rest),
            _ => (None, self.variable.as_str()),
        };
        let way: Vec<String> = way.split('.').map(str::to_owned).collect();
        let world = World::new(site.clone(), &self.host, &facts, &Secrets::sealed());
        let layers = world.layers(&self.host, role);
        let set: Vec<_> = layers.iter().filter_map(|layer| Some((layer.name.clone(), layer.place(&way)?))).collect();
        let Some(value) = world.variable(&self.host, role, &way[0]).filter(|_| !set.is_empty()) else {
            return Err(self.unknown(&site, role, &way));
        };
        let mut value = serde_json::to_value(&value)
            .map_err(|_| world.take_failure().unwrap_or_else(|| Error::new("the variable can't be made")))?;
        for key in &way[1..] {
            value = value.get_mut(key).map(serde_json::Value::take).unwrap_or_default();
        }
        if self.json {
            let layers: Vec<_> =
                set.iter().map(|(name, place)| json!({ "layer": name, "place": place.to_string() })).collect();
            print_json(
                &json!({ "version": crate::report::VERSION, "host": self.host, "variable": self.variable, "value": value, "layers": layers }),
            );
            return Ok(Exit::Done);
        }
        print(&format!("{} = {value}", self.variable));
        for (index, (name, place)) in set.iter().enumerate().rev() {
            let note = if index + 1 == set.len() { "" } else { "   (overruled)" };
            print(&format!("  {name:<20} {place}{note}"));
        }
        Ok(Exit::Done)
    }

    fn json(&self) -> bool {
        self.json
    }
}

impl Explain {
    fn unknown(&self, site: &crate::site::Site, role: Option<&str>, way: &[String]) -> Error {
        let error = Error::new(format!("nothing sets `{}` for {}", self.variable, self.host));
        let role = role.and_then(|role| site.roles.get(role));
        match role.and_then(|role| Some((role, nearest(&way[0], role.names())?))) {
            Some((role, near)) => error.help(format!("did you mean `{}.{near}`?", role.name)),
            None => error.help("a variable is ROLE.NAME, or NAME for one that site.toml declares"),
        }
    }
}
